//! Bad input is a typed error at every entry point. It is never reported as an outage.

use serde_json::value::RawValue;
use session_layer::cache::MemoryCache;
use session_layer::error::{InputError, StoreErrorKind};
use session_layer::store::{SessionStore as _, SqliteStore};
use session_layer::{
    BreakerState, Created, Error, NewSession, RevokeTarget, Sessions, TokenDigest,
};
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use crate::examples::quickstart::process::{App, env_of};
use crate::harness::{Failure, Outcome};
use crate::support::{Servers, ask, built, execute, login, run};

#[track_caller]
fn is_input<T: std::fmt::Debug>(outcome: Result<T, Error>, of: &str) {
    let error = outcome.expect_err(of);
    assert!(matches!(error, Error::Input(_)), "{of}: {error:?}");
    assert!(!error.is_outage(), "{of}");
}

fn raw(json: &str) -> Result<Box<RawValue>, Failure> {
    Ok(RawValue::from_string(json.to_owned())?)
}

/// Asserts that the health document reports no outage.
async fn assert_well(sessions: &Sessions, alice: &Created) {
    assert_eq!(sessions.recent_errors(), Vec::<String>::new());
    assert_eq!(sessions.breaker(), BreakerState::Closed);
    let report = sessions.health().await;
    assert!(report.session_store.healthy, "{report:?}");
    assert_eq!(ask(sessions, alice).await, "valid");
}

async fn every_entry_point(sessions: &Sessions) -> Outcome {
    let alice = login(sessions, "alice").await?;
    let token = "A".repeat(43);
    for user in ["", &"a".repeat(201), &"a".repeat(300), "a\0b"] {
        let new = || NewSession::new(user);
        let of = format!("the user {user:?}");
        is_input(sessions.create(new()).await, &of);
        is_input(sessions.begin_login().await?.create(new()).await, &of);
        is_input(sessions.register(&token, new()).await, &of);
        is_input(sessions.list(user).await, &of);
        is_input(sessions.revoke(RevokeTarget::user(user)).await, &of);
        let id = alice.session.id();
        is_input(sessions.revoke(RevokeTarget::owned(user, id)).await, &of);
    }
    let nested = "[".repeat(30_000) + &"]".repeat(30_000);
    let large = format!("\"{}\"", "x".repeat(65_535));
    for json in [r#""\ud800""#, r#"{"\udc00":1}"#, r#""\u0000""#, "1e400", &nested, &large] {
        let new = NewSession::new("alice").data(raw(json)?);
        is_input(sessions.create(new).await, json);
        let updated = sessions.update(&alice.session, raw(json)?).await;
        is_input(updated, json);
    }
    for label in ["a\0b", &"l".repeat(300)] {
        let new = NewSession::new("alice").label(label);
        is_input(sessions.create(new).await, label);
    }
    assert_eq!(sessions.list("alice").await?.sessions.len(), 1);
    assert_well(sessions, &alice).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_typed_and_no_outage() -> Outcome {
    let servers = Servers::shared().await?;
    every_entry_point(&servers.sessions().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_typed_and_no_outage_embedded() -> Outcome {
    let store = SqliteStore::open(":memory:").await?;
    every_entry_point(&built(MemoryCache::new(1_000), store.clone())).await?;
    // A caller of the port may omit the checks.
    let mut new = NewSession::new("alice").check()?;
    new.user_id = "a".repeat(201);
    let refused = store.create(TokenDigest::of("t"), &new).await;
    let kind = refused.map(|_| ()).map_err(|error| error.kind());
    assert_eq!(kind, Err(StoreErrorKind::Input));
    Ok(())
}

// The database has an encoding of its own, and a constraint that an operator added.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_that_only_postgres_rejects_is_typed_and_no_outage() -> Outcome {
    let servers = Servers::own().await?;
    let create =
        "CREATE DATABASE western ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
    execute(servers.postgres(), create.to_owned()).await?;
    let (server, _) =
        servers.database_url().rsplit_once('/').ok_or("a database URL names its database")?;
    let url = format!("{server}/western");
    let sessions = built(servers.cache()?, servers.store_at(&url).await?);
    let alice = login(&sessions, "älice").await?;

    let euro = "€";
    is_input(sessions.create(NewSession::new(euro)).await, "user");
    is_input(sessions.list(euro).await, "list");
    is_input(sessions.revoke(RevokeTarget::user(euro)).await, "revoke all");
    let owned = sessions.revoke(RevokeTarget::owned(euro, alice.session.id())).await;
    is_input(owned, "revoke owned");
    let new = || NewSession::new("älice");
    is_input(sessions.create(new().label(euro)).await, "label");
    is_input(sessions.create(new().user_agent(euro)).await, "user agent");
    is_input(sessions.create(new().data(euro)).await, "data");
    is_input(sessions.update(&alice.session, euro).await, "update");

    let add = format!("ALTER TABLE {}.sessions ADD CHECK (label <> 'rejected')", servers.schema());
    run(&mut PgConnection::connect(&url).await?, add).await?;
    let rejected = sessions.create(new().label("rejected")).await;
    let shown = rejected.as_ref().map(|_| ()).map_err(ToString::to_string);
    assert!(matches!(rejected, Err(Error::Input(InputError::Refused(_)))), "{shown:?}");
    assert_well(&sessions, &alice).await;

    let mut env = env_of(&servers.sandbox);
    env.retain(|(name, _)| *name != "DATABASE_URL");
    env.push(("DATABASE_URL", url));
    let app = App::start(TempDir::new()?, &env).await?;
    let answer = app.try_login(euro).await?;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(answer.field("retry-after"), None);
    let health = app.health().await?;
    assert_eq!(health.json()["errors"], serde_json::json!([]), "{health:?}");
    Ok(())
}
