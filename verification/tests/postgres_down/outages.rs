//! What happens when Postgres, or both servers, are down.

use session_testkit::backends::{Backend, Backends};
use session_testkit::wait;

use crate::harness::{Outcome, on_each_backend};
use crate::support::{SOON, ask, login, sessions_on, until_hit};

on_each_backend!(postgres_down_serves_only_what_is_cached);
async fn postgres_down_serves_only_what_is_cached(backend: Backend) -> Outcome {
    let backends = Backends::builder().backend(backend).start().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions_on(sandbox.redis_url(), &sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    let bob = login(&sessions, "bob").await?;
    until_hit(&sessions, &alice).await?;
    backends.postgres().kill().await?;
    // Redis up: who was seen lately is let in; of the others nobody can say.
    assert_eq!(ask(&sessions, &alice).await, "valid");
    assert_eq!(ask(&sessions, &bob).await, "unavailable");
    let refused = sessions.revoke(alice.token.reveal()).await;
    assert!(refused.as_ref().is_err_and(session_layer::Error::is_outage), "{refused:?}");
    // Both down: nobody can say, and that is no "invalid".
    backends.redis().kill().await?;
    assert_eq!(ask(&sessions, &alice).await, "unavailable");
    backends.postgres().restart().await?;
    wait::until("Postgres to answer", SOON, async || ask(&sessions, &bob).await == "valid").await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    Ok(())
}
