//! The primary becomes a standby of the promoted one, and its address moves later. Connections that
//! were opened in between lead to a server that takes no changes any more.

use futures_util::future::join_all;
use session_layer::store::PostgresStore;
use session_layer::{CacheMode, NewSession, Sessions};
use session_testkit::backends::{Backend, Backends};
use session_testkit::proxy::Proxy;
use session_testkit::wait;

use crate::harness::{Failure, Outcome, on};
use crate::judged::judged;
use crate::support::{SOON, Servers, ask, built, login, roomy, until};

/// Returns the causes why a login failed, or `None` if it succeeded.
async fn why_no_login(sessions: &Sessions) -> Option<String> {
    let mut cause: &dyn std::error::Error = &sessions.create(NewSession::new("bob")).await.err()?;
    let mut text = cause.to_string();
    while let Some(source) = cause.source() {
        cause = source;
        text += &format!(": {cause}");
    }
    Some(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn address_that_moves_to_the_promoted_standby_is_noticed() -> Outcome {
    let servers = Servers::own_on(Backend::Native).await?;
    let old = servers.postgres();
    let new = old.standby().await?;
    let address = Proxy::start(old.address()).await?;
    let store = servers.store_at(&address.url(servers.database_url())).await?;
    let sessions = built(servers.cache()?, store);
    // Each validation reads Postgres.
    sessions.set_mode(CacheMode::Bypass);
    let mut known = Vec::new();
    for n in 0..4 {
        known.push(login(&sessions, &format!("alice {n}")).await?);
    }

    new.caught_up(old).await?;
    old.stop().await?;
    new.promote().await?;
    old.follow(&new).await?;

    // The address still leads to the old primary. Several connections are opened to it.
    let validations = || join_all(known.iter().map(|created| ask(&sessions, created)));
    wait::until("a refused login", SOON, async || {
        assert!(!validations().await.contains(&"invalid"));
        why_no_login(&sessions).await.is_some_and(|why| why.contains("replica"))
    })
    .await?;
    assert!(validations().await.iter().all(|word| *word == "unavailable"));

    address.set_target(new.address());
    wait::until("a login", SOON, async || why_no_login(&sessions).await.is_none()).await?;
    let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'session-layer'";
    let mut operator = old.connect().await?;
    let mut left = async || sqlx::query_scalar::<_, i64>(left).fetch_one(&mut operator).await;
    wait::until("no connection to the old primary", SOON, async || {
        let valid = validations().await.iter().all(|word| *word == "valid");
        valid && left().await.is_ok_and(|left| left == 0)
    })
    .await?;
    // The journal is read there as well.
    let bob = login(&sessions, "bob").await?;
    until(&sessions, &bob, "valid").await?;
    let revoke =
        format!("UPDATE sessions SET revoked_at = now() WHERE id = '{}'", bob.session.id());
    let schema = format!("SET search_path = {}; {revoke}", servers.schema());
    sqlx::raw_sql(sqlx::AssertSqlSafe(schema)).execute(&mut new.connect().await?).await?;
    until(&sessions, &bob, "invalid").await
}

// The primary fails over and back while sessions are validated, changed and revoked on two nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_holds_while_postgres_fails_over() -> Outcome {
    on(Backend::Native, |backend| async move {
        let own = Backends::builder().backend(backend).start().await?;
        let deployment = roomy().standby(true).start(own).await?;
        judged(&deployment, &["postgres-failover@1+5"], 18).await?;
        Ok(())
    })
    .await
}

// Both servers are in the URL. No address moves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn url_with_two_hosts_finds_the_promoted_one() -> Outcome {
    on(Backend::Native, |backend| async move {
        let servers = Servers::own_on(backend).await?;
        let old = servers.postgres();
        let new = old.standby().await?;
        // The standby comes first, and is skipped.
        let url = format!("postgres://postgres@{},{}/postgres", new.address(), old.address());
        let sessions = built(servers.cache()?, servers.store_at(&url).await?);
        sessions.set_mode(CacheMode::Bypass);
        let alice = login(&sessions, "alice").await?;
        assert_eq!(ask(&sessions, &alice).await, "valid");

        new.caught_up(old).await?;
        old.stop().await?;
        wait::until("both reasons", SOON, async || {
            let why = why_no_login(&sessions).await.unwrap_or_default();
            why.contains("it is a standby") && why.contains("refused")
        })
        .await?;
        assert_eq!(ask(&sessions, &alice).await, "unavailable");
        new.promote().await?;
        wait::until("a login", SOON, async || why_no_login(&sessions).await.is_none()).await?;
        until(&sessions, &alice, "valid").await?;

        // The old primary returns as a standby, and the new one stays in use. Then they change
        // places again.
        old.follow(&new).await?;
        assert_eq!(why_no_login(&sessions).await, None);
        old.caught_up(&new).await?;
        new.stop().await?;
        old.promote().await?;
        wait::until("a login", SOON, async || why_no_login(&sessions).await.is_none()).await?;
        until(&sessions, &alice, "valid").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_only_host_is_skipped_if_the_url_wants_a_writable_one() -> Outcome {
    on(Backend::Native, |backend| async move {
        let servers = Servers::own_on(backend).await?;
        let other = Backends::builder().backend(backend);
        let other = other.postgres_settings(["default_transaction_read_only=on"]);
        let other = other.start_postgres().await?;
        let hosts = format!("{},{}", other.address(), servers.postgres().address());
        let port = async |wanted: &str| {
            let url = format!("postgres://postgres@{hosts}/postgres?target_session_attrs={wanted}");
            let mut connection = PostgresStore::builder(&url).build()?.connect().await?;
            let port = "SELECT inet_server_port()";
            Ok::<i32, Failure>(sqlx::query_scalar(port).fetch_one(&mut connection).await?)
        };
        let ends_with = |address: &str, port: i32| address.ends_with(&format!(":{port}"));
        // A primary that is read-only is a primary.
        for wanted in ["primary", "any"] {
            assert!(ends_with(other.address(), port(wanted).await?), "{wanted}");
        }
        assert!(ends_with(servers.postgres().address(), port("read-write").await?));
        Ok(())
    })
    .await
}
