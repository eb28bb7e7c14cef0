//! Connections that a NAT forgets while they are idle, without a packet to either side.

use std::time::Duration;

use futures_util::future::join_all;
use session_layer::{CacheMode, NewSession, Sessions};
use session_testkit::backends::Backends;
use session_testkit::proxy::{Proxy, Toxic};
use session_testkit::wait;

use crate::harness::{Outcome, default_backend};
use crate::judged::judged;
use crate::support::{SOON, Servers, ask, built, login, roomy};

/// A NAT takes minutes. A connection that is idle for 10 s is pinged before its use.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(11);

async fn log_in(sessions: &Sessions, count: usize) -> usize {
    let logins = (0..count).map(|n| sessions.create(NewSession::new(format!("bob {n}"))));
    join_all(logins).await.into_iter().filter(Result::is_ok).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_after_idle_connections_were_dropped_fails_no_request() -> Outcome {
    let servers = Servers::shared().await?;
    let address = Proxy::start(servers.postgres().address()).await?;
    let store = servers.store_at(&address.url(servers.database_url())).await?;
    let sessions = built(servers.cache()?, store);
    // Each validation reads Postgres.
    sessions.set_mode(CacheMode::Bypass);
    let alice = login(&sessions, "alice").await?;
    let validations = || join_all((0..20).map(|_| ask(&sessions, &alice)));
    assert!(validations().await.iter().all(|word| *word == "valid"));
    // Logins that end fast share a few connections.
    wait::until("idle connections", SOON, async || {
        assert_eq!(log_in(&sessions, 20).await, 20);
        address.traffic().open > 5
    })
    .await?;

    let forgetful = address.inject(Toxic::forget_idle(FORGOTTEN_AFTER));
    tokio::time::sleep(FORGOTTEN_AFTER + Duration::from_secs(1)).await;
    assert!(forgetful.report().connections > 3, "{}", forgetful.report());
    let (words, logins) = tokio::join!(validations(), log_in(&sessions, 20));
    assert!(words.iter().all(|word| *word == "valid"), "{words:?}");
    assert_eq!(logins, 20);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_holds_while_idle_connections_are_dropped() -> Outcome {
    let own = Backends::builder().backend(default_backend().await?).start().await?;
    let deployment = roomy().start(own).await?;
    let judged = judged(&deployment, &["postgres-idle-drop@0.5+13"], 18).await?;
    assert_eq!(judged.availability.unavailable_with_postgres, 0, "{judged}");
    Ok(())
}
