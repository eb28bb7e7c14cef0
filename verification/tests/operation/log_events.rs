//! What an operator reads in the log: one event when something begins, one when it is over, nothing
//! in between.

use std::time::{Duration, Instant};

use session_layer::{BreakerState, SealingKeys, Sessions};
use session_testkit::backends::{Backends, Sandbox};
use session_testkit::observe::Logs;
use session_testkit::wait;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::{Layer as _, fmt, layer::SubscriberExt as _};

use crate::harness::{Failure, Outcome, default_backend, shared};
use crate::support::{
    OwnRedis, SOON, ask, built, fill_disk, free_disk, login, sessions, sessions_on, store,
    until_hit,
};

/// For as long as something has to last for more than one event to show.
const A_WHILE: Duration = Duration::from_secs(3);

const OPENED: &str = "WARN the breaker opened";
const CLOSED: &str = "INFO the breaker closed";
const STORE_GONE: &str = "WARN the session store cannot be read:";
const STORE_BACK: &str = "INFO the session store can be read";
const JOURNAL_LOST: &str = "WARN the journal of changed sessions cannot be read";
const JOURNAL_BACK: &str = "INFO the journal of changed sessions can be read again";
const REFUSES: &str = "WARN the session cache rejected a command";
const DOES_AGAIN: &str = "INFO the session cache accepts the rejected command again";
const STORE_REFUSES: &str = "WARN a call of the session store failed";
const STORE_DOES_AGAIN: &str = "INFO the session store executes the failed call again";
const UNSEALED: &str = "WARN sessions in Redis are not sealed";

/// Keeps the events of session-layer, for as long as the guard lives. Such a test has a runtime of
/// one thread, so other tests may run beside it.
fn keep() -> (Logs, DefaultGuard) {
    let logs = Logs::default();
    let ours = Targets::new().with_target("session_layer", LevelFilter::INFO);
    let layer = fmt::layer()
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_writer(logs.clone())
        .with_filter(ours);
    let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    (logs, guard)
}

/// Each event as the constant that it begins with, or whole.
fn events(logs: &Logs) -> Vec<String> {
    let known = [
        OPENED,
        CLOSED,
        STORE_GONE,
        STORE_BACK,
        JOURNAL_LOST,
        JOURNAL_BACK,
        REFUSES,
        DOES_AGAIN,
        STORE_REFUSES,
        STORE_DOES_AGAIN,
        UNSEALED,
    ];
    let text = String::from_utf8_lossy(&logs.text()).into_owned();
    let lines = text.lines().map(str::trim_start);
    lines
        .map(|line| {
            let begins = known.iter().find(|known| line.starts_with(**known));
            begins.map_or(line, |known| known).to_owned()
        })
        .collect()
}

async fn until_logged(logs: &Logs, event: &str) -> Outcome {
    wait::until(event, SOON, async || events(logs).iter().any(|e| e == event)).await?;
    Ok(())
}

#[tokio::test]
async fn breaker_that_opens_and_closes_is_logged_twice() -> Outcome {
    let (logs, _guard) = keep();
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let sessions = own.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    logs.clear();
    own.redis.kill().await?;
    wait::until("the breaker to open", SOON, async || {
        assert_eq!(ask(&sessions, &alice).await, "valid");
        sessions.breaker() != BreakerState::Closed
    })
    .await?;
    let began = Instant::now();
    while began.elapsed() < A_WHILE {
        assert_eq!(ask(&sessions, &alice).await, "valid");
    }
    assert_eq!(events(&logs), [OPENED]);
    let text = String::from_utf8(logs.text())?;
    assert!(text.contains("why=no connection to Redis"), "the reason: {text}");
    own.redis.restart().await?;
    until_logged(&logs, CLOSED).await?;
    until_hit(&sessions, &alice).await?;
    assert_eq!(events(&logs), [OPENED, CLOSED]);
    Ok(())
}

#[tokio::test]
async fn postgres_that_is_down_and_back_is_logged_twice() -> Outcome {
    let (logs, _guard) = keep();
    let backend = default_backend().await?;
    let backends = Backends::builder().backend(backend).start().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    let bob = login(&sessions, "bob").await?;
    until_hit(&sessions, &alice).await?;
    logs.clear();
    backends.postgres().kill().await?;
    let began = Instant::now();
    while began.elapsed() < A_WHILE {
        assert_eq!(ask(&sessions, &bob).await, "unavailable");
        let revoked = sessions.revoke(bob.token.reveal()).await;
        assert!(revoked.is_err(), "{revoked:?}");
    }
    until_logged(&logs, JOURNAL_LOST).await?;
    let mut begun = events(&logs);
    begun.sort_unstable();
    assert_eq!(begun, [JOURNAL_LOST, STORE_GONE]);
    // One cause, told once, whoever met it.
    let told = sessions.recent_errors();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(
        told[0].contains("reading the journal") && told[0].contains(" times, last "),
        "{told:#?}"
    );
    // Who asks all the time is answered in the first moment, and then has a copy: nobody reads any
    // more.
    let asking = wait::until("an answer", SOON, async || ask(&sessions, &bob).await == "valid");
    let (restarted, answered) = tokio::join!(backends.postgres().restart(), asking);
    restarted?;
    answered?;
    until_hit(&sessions, &bob).await?;
    wait::until("both to be over", SOON, async || events(&logs).len() == 4).await?;
    let mut over = events(&logs).split_off(2);
    over.sort_unstable();
    assert_eq!(over, [JOURNAL_BACK, STORE_BACK]);
    Ok(())
}

/// Somebody who holds this table, until ROLLBACK.
async fn locking(
    backends: &Backends,
    sandbox: &Sandbox,
    table: &str,
) -> Result<PgConnection, Failure> {
    let mut person = backends.postgres().connect().await?;
    let lock = format!("BEGIN; LOCK TABLE {}.{table} IN ACCESS EXCLUSIVE MODE", sandbox.schema());
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut person).await?;
    Ok(person)
}

/// What is easier than a validation may be answered all the while: that is no end.
#[tokio::test]
async fn outage_with_few_requests_is_logged_once() -> Outcome {
    let (logs, _guard) = keep();
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    // The event has another text until the store has answered a read once. Alice must stay
    // uncached.
    let bob = login(&sessions, "bob").await?;
    until_hit(&sessions, &bob).await?;
    logs.clear();
    let mut person = locking(&backends, &sandbox, "session_users").await?;
    for _ in 0..3 {
        assert_eq!(ask(&sessions, &alice).await, "unavailable");
        // Longer than an outage has to be quiet for an answer to be its end.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
    }
    assert_eq!(events(&logs), [STORE_GONE]);
    sqlx::raw_sql("ROLLBACK").execute(&mut person).await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    assert_eq!(events(&logs), [STORE_GONE, STORE_BACK]);
    Ok(())
}

#[tokio::test]
async fn journal_that_fails_and_recovers_is_logged_twice() -> Outcome {
    let (logs, _guard) = keep();
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    until_hit(&sessions, &alice).await?;
    logs.clear();
    let mut person = locking(&backends, &sandbox, "session_journal").await?;
    until_logged(&logs, JOURNAL_LOST).await?;
    // It goes on failing, and what can be read is answered.
    let failed = |times: &str| sessions.recent_errors().join("\n").contains(times);
    wait::until("another failure", SOON, async || {
        assert_eq!(ask(&sessions, &alice).await, "valid");
        failed("2 times")
    })
    .await?;
    assert_eq!(events(&logs), [JOURNAL_LOST]);
    sqlx::raw_sql("ROLLBACK").execute(&mut person).await?;
    until_logged(&logs, JOURNAL_BACK).await?;
    assert_eq!(events(&logs), [JOURNAL_LOST, JOURNAL_BACK]);
    Ok(())
}

/// Asks for one that has no copy: that takes a lease.
async fn miss(sessions: &Sessions) -> Outcome {
    let new = login(sessions, "new").await?;
    assert_eq!(ask(sessions, &new).await, "valid");
    Ok(())
}

#[tokio::test]
async fn redis_that_rejects_and_recovers_is_logged_twice() -> Outcome {
    let (logs, _guard) = keep();
    let backends = shared().await?;
    let own = OwnRedis::start(&backends).await?;
    let sessions = own.sessions().await?;
    // Also the fill behind an answer is over then: it would be one more.
    let first = login(&sessions, "first").await?;
    until_hit(&sessions, &first).await?;
    logs.clear();
    own.redis.config_set("maxmemory-policy", "noeviction").await?;
    own.redis.config_set("maxmemory", "1").await?;
    for _ in 0..20 {
        miss(&sessions).await?;
    }
    assert_eq!(events(&logs), [REFUSES]);
    own.redis.config_set("maxmemory", "0").await?;
    wait::until("the end to be logged", SOON, async || {
        miss(&sessions).await.is_ok() && events(&logs).len() > 1
    })
    .await?;
    miss(&sessions).await?;
    assert_eq!(events(&logs), [REFUSES, DOES_AGAIN]);
    let text = String::from_utf8(logs.text())?;
    assert!(text.contains("OOM") && text.contains("times=20"), "how often, and what: {text}");
    Ok(())
}

/// Of a full disk: what is there can be read, and nothing can be changed.
#[tokio::test]
async fn postgres_that_rejects_and_recovers_is_logged_twice() -> Outcome {
    let (logs, _guard) = keep();
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let sessions = sessions(&sandbox).await?;
    let alice = login(&sessions, "alice").await?;
    let schema = sandbox.schema();
    fill_disk(backends.postgres(), schema).await?;
    sessions.set_mode(session_layer::CacheMode::Bypass);
    logs.clear();
    let began = Instant::now();
    let mut times = 0;
    while began.elapsed() < A_WHILE {
        assert_eq!(ask(&sessions, &alice).await, "valid", "it can be read");
        let revoked = sessions.revoke(alice.token.reveal()).await;
        assert!(revoked.is_err(), "{revoked:?}");
        times += 1;
        // What succeeds over a second after a failure is no end of it.
        wait::until("Postgres to be read for a while", SOON, async || {
            assert_eq!(ask(&sessions, &alice).await, "valid");
            began.elapsed() > Duration::from_millis(1_200) * times
        })
        .await?;
    }
    assert_eq!(events(&logs), [STORE_REFUSES]);
    free_disk(backends.postgres(), schema).await?;
    wait::until("the end to be logged", SOON, async || {
        let new = login(&sessions, "new").await.ok();
        if let Some(new) = new {
            assert!(sessions.revoke(new.token.reveal()).await.is_ok());
        }
        events(&logs).len() > 1
    })
    .await?;
    assert_eq!(events(&logs), [STORE_REFUSES, STORE_DOES_AGAIN]);
    let text = String::from_utf8(logs.text())?;
    assert!(text.contains(&format!("times={times}")), "{times}: {text}");
    Ok(())
}

#[tokio::test]
async fn missing_sealing_key_is_logged_once() -> Outcome {
    let (logs, _guard) = keep();
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let said = || events(&logs).iter().filter(|e| *e == UNSEALED).count();
    let plain = sessions_on(sandbox.redis_url(), &sandbox).await?;
    assert_eq!(said(), 1, "at the start");
    for _ in 0..10 {
        let alice = login(&plain, "alice").await?;
        until_hit(&plain, &alice).await?;
    }
    assert_eq!(said(), 1, "and never again");
    let text = String::from_utf8(logs.text())?;
    assert!(text.contains("SESSION_CACHE_KEY"), "what to do: {text}");
    logs.clear();
    let keys: SealingKeys = "1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".parse()?;
    let cache = session_layer::cache::RedisCache::builder(sandbox.redis_url())
        .namespace(sandbox.namespace())
        .encryption_keys(keys)
        .build()?;
    let sealed = built(cache, store(&sandbox).await?);
    let bob = login(&sealed, "bob").await?;
    until_hit(&sealed, &bob).await?;
    assert_eq!(said(), 0, "with a key there is nothing to say");
    Ok(())
}
