//! The log of an outage: one event at its beginning, one at its end, and none in between.

use std::time::{Duration, Instant};

use session_layer::cache::RedisCache;
use session_layer::{BreakerState, CacheMode, SealingKeys, Sessions};
use session_testkit::observe::Logs;
use session_testkit::wait;
use sqlx::postgres::PgConnection;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::{Layer as _, fmt, layer::SubscriberExt as _};

use crate::harness::{Failure, Outcome};
use crate::support::{SOON, Servers, ask, built, login, run, until_hit};

/// The duration of an outage in which a repeated event would show.
const A_WHILE: Duration = Duration::from_secs(3);

const OPENED: &str = "WARN the breaker opened";
const CLOSED: &str = "INFO the breaker closed";
const STORE_GONE: &str = "WARN the session store cannot be read:";
const STORE_BACK: &str = "INFO the session store can be read";
const JOURNAL_LOST: &str = "WARN the journal of changed sessions cannot be read";
const JOURNAL_BACK: &str = "INFO the journal of changed sessions can be read again";
const REJECTS: &str = "WARN the session cache rejected a command";
const ACCEPTS: &str = "INFO the session cache accepts the rejected command again";
const STORE_FAILS: &str = "WARN a call of the session store failed";
const STORE_EXECUTES: &str = "INFO the session store executes the failed call again";
const UNSEALED: &str = "WARN sessions in Redis are not sealed";

/// Records the events of session-layer until the guard is dropped. The tests have runtimes of one
/// thread, therefore they do not record the events of others.
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

/// Returns each event as the constant that it begins with, or whole.
fn events(logs: &Logs) -> Vec<String> {
    let known = [
        OPENED,
        CLOSED,
        STORE_GONE,
        STORE_BACK,
        JOURNAL_LOST,
        JOURNAL_BACK,
        REJECTS,
        ACCEPTS,
        STORE_FAILS,
        STORE_EXECUTES,
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
    let servers = Servers::own_redis().await?;
    let (sessions, alice) = servers.cached().await?;
    logs.clear();
    servers.redis.kill().await?;
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
    servers.redis.restart().await?;
    until_logged(&logs, CLOSED).await?;
    until_hit(&sessions, &alice).await?;
    assert_eq!(events(&logs), [OPENED, CLOSED]);
    Ok(())
}

#[tokio::test]
async fn postgres_that_is_down_and_back_is_logged_twice() -> Outcome {
    let (logs, _guard) = keep();
    let servers = Servers::own().await?;
    let sessions = servers.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    let bob = login(&sessions, "bob").await?;
    until_hit(&sessions, &alice).await?;
    logs.clear();
    servers.postgres().kill().await?;
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
    // One cause is reported once, whichever calls failed.
    let errors = sessions.recent_errors();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(
        errors[0].contains("reading the journal") && errors[0].contains(" times, last "),
        "{errors:#?}"
    );
    // After the first reply the session is cached, and no request reads Postgres any more.
    let asking = wait::until("a reply", SOON, async || ask(&sessions, &bob).await == "valid");
    let (restarted, answered) = tokio::join!(servers.postgres().restart(), asking);
    restarted?;
    answered?;
    until_hit(&sessions, &bob).await?;
    wait::until("both to be over", SOON, async || events(&logs).len() == 4).await?;
    let mut over = events(&logs).split_off(2);
    over.sort_unstable();
    assert_eq!(over, [JOURNAL_BACK, STORE_BACK]);
    Ok(())
}

/// Locks a table until the connection rolls back.
async fn locking(servers: &Servers, table: &str) -> Result<PgConnection, Failure> {
    let mut operator = servers.operator().await?;
    run(&mut operator, format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")).await?;
    Ok(operator)
}

// Other statements than a validation may succeed meanwhile. They do not end the outage.
#[tokio::test]
async fn outage_with_few_requests_is_logged_once() -> Outcome {
    let (logs, _guard) = keep();
    let servers = Servers::shared().await?;
    let sessions = servers.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    // The event has another text before the first reply of the store. Alice must stay uncached.
    let bob = login(&sessions, "bob").await?;
    until_hit(&sessions, &bob).await?;
    logs.clear();
    let mut operator = locking(&servers, "session_users").await?;
    for _ in 0..3 {
        assert_eq!(ask(&sessions, &alice).await, "unavailable");
        // A reply ends an outage only after a shorter time without failures.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
    }
    assert_eq!(events(&logs), [STORE_GONE]);
    run(&mut operator, "ROLLBACK").await?;
    assert_eq!(ask(&sessions, &alice).await, "valid");
    assert_eq!(events(&logs), [STORE_GONE, STORE_BACK]);
    Ok(())
}

#[tokio::test]
async fn journal_that_fails_and_recovers_is_logged_twice() -> Outcome {
    let (logs, _guard) = keep();
    let servers = Servers::shared().await?;
    let (sessions, alice) = servers.cached().await?;
    logs.clear();
    let mut operator = locking(&servers, "session_journal").await?;
    until_logged(&logs, JOURNAL_LOST).await?;
    // The journal still fails, and validations succeed.
    let failed = |times: &str| sessions.recent_errors().join("\n").contains(times);
    wait::until("another failure", SOON, async || {
        assert_eq!(ask(&sessions, &alice).await, "valid");
        failed("2 times")
    })
    .await?;
    assert_eq!(events(&logs), [JOURNAL_LOST]);
    run(&mut operator, "ROLLBACK").await?;
    until_logged(&logs, JOURNAL_BACK).await?;
    assert_eq!(events(&logs), [JOURNAL_LOST, JOURNAL_BACK]);
    Ok(())
}

/// Validates an uncached session, which takes a lease.
async fn miss(sessions: &Sessions) -> Outcome {
    let new = login(sessions, "new").await?;
    assert_eq!(ask(sessions, &new).await, "valid");
    Ok(())
}

#[tokio::test]
async fn redis_that_rejects_and_recovers_is_logged_twice() -> Outcome {
    let (logs, _guard) = keep();
    let servers = Servers::own_redis().await?;
    let sessions = servers.sessions().await?;
    // The fill in the background has ended as well. It would be one more command.
    let first = login(&sessions, "first").await?;
    until_hit(&sessions, &first).await?;
    logs.clear();
    servers.redis.config_set("maxmemory-policy", "noeviction").await?;
    servers.redis.config_set("maxmemory", "1").await?;
    for _ in 0..20 {
        miss(&sessions).await?;
    }
    assert_eq!(events(&logs), [REJECTS]);
    servers.redis.config_set("maxmemory", "0").await?;
    wait::until("the end to be logged", SOON, async || {
        miss(&sessions).await.is_ok() && events(&logs).len() > 1
    })
    .await?;
    miss(&sessions).await?;
    assert_eq!(events(&logs), [REJECTS, ACCEPTS]);
    let text = String::from_utf8(logs.text())?;
    assert!(text.contains("OOM") && text.contains("times=20"), "how often, and what: {text}");
    Ok(())
}

// With a full disk, rows can be read but not changed.
#[tokio::test]
async fn postgres_that_rejects_and_recovers_is_logged_twice() -> Outcome {
    let (logs, _guard) = keep();
    let servers = Servers::shared().await?;
    let sessions = servers.sessions().await?;
    let alice = login(&sessions, "alice").await?;
    servers.fill_disk().await?;
    sessions.set_mode(CacheMode::Bypass);
    logs.clear();
    let began = Instant::now();
    let mut times = 0;
    while began.elapsed() < A_WHILE {
        assert_eq!(ask(&sessions, &alice).await, "valid", "it can be read");
        let revoked = sessions.revoke(alice.token.reveal()).await;
        assert!(revoked.is_err(), "{revoked:?}");
        times += 1;
        // A success over a second after a failure does not end the outage.
        wait::until("Postgres to be read for a while", SOON, async || {
            assert_eq!(ask(&sessions, &alice).await, "valid");
            began.elapsed() > Duration::from_millis(1_200) * times
        })
        .await?;
    }
    assert_eq!(events(&logs), [STORE_FAILS]);
    servers.free_disk().await?;
    wait::until("the end to be logged", SOON, async || {
        let new = login(&sessions, "new").await.ok();
        if let Some(new) = new {
            assert!(sessions.revoke(new.token.reveal()).await.is_ok());
        }
        events(&logs).len() > 1
    })
    .await?;
    assert_eq!(events(&logs), [STORE_FAILS, STORE_EXECUTES]);
    let text = String::from_utf8(logs.text())?;
    assert!(text.contains(&format!("times={times}")), "{times}: {text}");
    Ok(())
}

#[tokio::test]
async fn missing_sealing_key_is_logged_once() -> Outcome {
    let (logs, _guard) = keep();
    let servers = Servers::shared().await?;
    let unsealed = || events(&logs).iter().filter(|e| *e == UNSEALED).count();
    let plain = servers.sessions().await?;
    assert_eq!(unsealed(), 1, "at the start");
    for _ in 0..10 {
        let alice = login(&plain, "alice").await?;
        until_hit(&plain, &alice).await?;
    }
    assert_eq!(unsealed(), 1, "and not again");
    let text = String::from_utf8(logs.text())?;
    assert!(text.contains("SESSION_CACHE_KEY"), "what to do: {text}");
    logs.clear();
    let keys: SealingKeys = "1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".parse()?;
    let cache = RedisCache::builder(servers.redis.url())
        .namespace(servers.namespace())
        .encryption_keys(keys)
        .build()?;
    let sealed = built(cache, servers.store().await?);
    let bob = login(&sealed, "bob").await?;
    until_hit(&sealed, &bob).await?;
    assert_eq!(unsealed(), 0, "with a key");
    Ok(())
}
