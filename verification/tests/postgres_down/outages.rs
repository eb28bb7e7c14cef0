//! Postgres, or both servers, are down.

use session_testkit::backends::Backend;

use crate::harness::{Outcome, on_each_backend};
use crate::support::{Servers, ask, login, until};

on_each_backend!(postgres_down_serves_only_cached_sessions);
async fn postgres_down_serves_only_cached_sessions(backend: Backend) -> Outcome {
    let servers = Servers::own_on(backend).await?;
    let (sessions, alice) = servers.cached().await?;
    let bob = login(&sessions, "bob").await?;
    servers.postgres().kill().await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    assert_eq!(ask(&sessions, &bob).await, "unavailable");
    let revoked = sessions.revoke(alice.token.reveal()).await;
    assert!(revoked.as_ref().is_err_and(session_layer::Error::is_outage), "{revoked:?}");
    // With both servers down, no session is known. None is "invalid".
    servers.redis.kill().await?;
    assert_eq!(ask(&sessions, &alice).await, "unavailable");
    servers.postgres().restart().await?;
    until(&sessions, &bob, "valid").await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    Ok(())
}
