//! Postgres under load: the number of reads, and the replies.

use std::time::Duration;

use futures_util::future::join_all;
use session_layer::cache::NoCache;
use session_layer::store::PostgresStore;
use session_layer::{NewSession, SessionToken, Sessions, Validation};
use session_testkit::proxy::{Proxy, Toxic};
use session_testkit::wait;
use sqlx::Row as _;
use sqlx::postgres::PgConnection;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::harness::{Failure, Outcome};
use crate::support::{SOON, Servers, ask, login, run, until, word};

/// The maximum number of concurrent reads, with ten connections.
const READS: u64 = 3;

/// A service without a cache, and two connections to Postgres.
struct Harness {
    sessions: Sessions,
    /// The connection that holds the lock.
    admin: PgConnection,
    /// The connection that reads statistics, which do not change within a transaction.
    watch: PgConnection,
    /// The application name of the service's connections.
    name: String,
}

impl Harness {
    async fn start(
        servers: &Servers,
        url: &str,
        (budget, read_deadline): (Duration, Duration),
    ) -> Result<Self, Failure> {
        servers.store().await?;
        let name = format!("load-{}", servers.schema());
        let and = if url.contains('?') { '&' } else { '?' };
        let store = PostgresStore::builder(format!("{url}{and}application_name={name}"))
            .schema(servers.schema())
            .read_deadline(read_deadline)
            .build()?;
        let builder = Sessions::builder(NoCache, store).validation_timeout(budget);
        Ok(Self {
            sessions: builder.max_concurrent_reads(usize::try_from(READS)?).build()?,
            admin: servers.operator().await?,
            watch: servers.operator().await?,
            name,
        })
    }

    /// Locks the table, so that no read has a reply.
    async fn lock(&mut self) -> Outcome {
        run(&mut self.admin, "BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE").await
    }

    async fn unlock(&mut self) -> Outcome {
        run(&mut self.admin, "COMMIT").await
    }

    /// Returns the number of the service's connections, and of those that execute a statement.
    async fn seen(&mut self) -> Result<(i64, i64), Failure> {
        let row = sqlx::query(
            "SELECT count(*), count(*) FILTER (WHERE state = 'active') FROM pg_stat_activity
             WHERE application_name = $1",
        )
        .bind(&self.name)
        .fetch_one(&mut self.watch)
        .await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }
}

fn spawn_all(sessions: &Sessions, tokens: Vec<String>) -> Vec<JoinHandle<&'static str>> {
    let spawn = |token: String| {
        let sessions = sessions.clone();
        tokio::spawn(async move { word(&sessions.validate(&token).await) })
    };
    tokens.into_iter().map(spawn).collect()
}

// The load continues while Postgres hangs. The number of reads is limited, the surplus is shed at
// once, and the service recovers with the lock's end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_postgres_gets_a_limited_number_of_reads() -> Outcome {
    let servers = Servers::shared().await?;
    let deadlines = (Duration::from_millis(1_500), Duration::from_secs(1));
    let mut harness = Harness::start(&servers, servers.database_url(), deadlines).await?;
    let alice = login(&harness.sessions, "alice").await?;
    assert_eq!(ask(&harness.sessions, &alice).await, "valid");
    harness.lock().await?;
    let (mut asking, mut most_active) = (Vec::new(), 0);
    while harness.sessions.metrics().shed < 100 {
        for _ in 0..20 {
            let token = SessionToken::generate()?.reveal().to_owned();
            asking.extend(spawn_all(&harness.sessions, vec![token]));
        }
        let (connections, active) = harness.seen().await?;
        assert!(connections <= 10, "{connections} connections");
        let metrics = harness.sessions.metrics();
        assert!(metrics.reads_in_flight <= READS, "{metrics:?}");
        // Postgres agrees with the gauge. One more statement is the probe of an outage.
        assert!(active <= i64::try_from(READS)? + 1, "{active} statements at once in Postgres");
        most_active = most_active.max(active);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for answer in join_all(asking).await {
        assert_eq!(answer?, "unavailable", "never invalid");
    }
    assert_eq!(harness.sessions.metrics().peak_reads_in_flight, READS);
    assert!(most_active >= i64::try_from(READS)?, "the slots were not used in Postgres");
    let errors = harness.sessions.recent_errors();
    assert!(errors.iter().any(|e| e.contains("load was shed")), "{errors:?}");
    harness.unlock().await?;
    until(&harness.sessions, &alice, "valid").await?;
    wait::until("the reads to end", SOON, async || {
        let metrics = harness.sessions.metrics();
        (metrics.reads_in_flight, metrics.reads_waiting) == (0, 0)
    })
    .await?;
    Ok(())
}

// The network holds everything, and the callers leave. The pool has all its connections afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_callers_cost_no_connection() -> Outcome {
    let servers = Servers::shared().await?;
    let proxy = Proxy::start(servers.postgres().address()).await?;
    let url = proxy.url(servers.database_url());
    let deadlines = (Duration::from_secs(10), Duration::from_secs(1));
    let mut harness = Harness::start(&servers, &url, deadlines).await?;
    let alice = login(&harness.sessions, "alice").await?;
    for _ in 0..5 {
        // New connections hang as well. Otherwise a read on a new one would have a reply.
        let hole = proxy.inject(Toxic::hold());
        let asking = spawn_all(&harness.sessions, vec![alice.token.reveal().to_owned(); 100]);
        wait::until("a read", SOON, async || harness.sessions.metrics().reads_in_flight > 0)
            .await?;
        for one in &asking {
            one.abort();
        }
        for one in asking {
            assert!(one.await.is_err_and(|error| error.is_cancelled()));
        }
        hole.heal();
        wait::until("an answer", SOON, async || {
            matches!(harness.sessions.validate(alice.token.reveal()).await, Validation::Valid(_))
        })
        .await?;
    }
    let metrics = harness.sessions.metrics();
    assert!(metrics.peak_reads_in_flight <= READS, "{metrics:?}");
    wait::until("the baseline", SOON, async || {
        let metrics = harness.sessions.metrics();
        (metrics.reads_in_flight, metrics.reads_waiting) == (0, 0)
    })
    .await?;
    // All ten connections are available at once.
    let changes = (0..10).map(|n| {
        let (sessions, user) = (harness.sessions.clone(), format!("user {n}"));
        async move { login(&sessions, &user).await }
    });
    for created in join_all(changes).await {
        created?;
    }
    let (connections, _) = harness.seen().await?;
    assert!(connections <= 10, "{connections} connections");
    Ok(())
}

// With the table locked, every read times out and the next begins. Reads that continued in Postgres
// would accumulate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timed_out_reads_end_in_postgres_too() -> Outcome {
    let servers = Servers::shared().await?;
    let deadlines = (Duration::from_millis(150), Duration::from_millis(100));
    let mut harness = Harness::start(&servers, servers.database_url(), deadlines).await?;
    let alice = login(&harness.sessions, "alice").await?;
    harness.lock().await?;
    let mut asking = Vec::new();
    let mut most = 0;
    for _ in 0..150 {
        asking.extend(spawn_all(&harness.sessions, vec![alice.token.reveal().to_owned(); 2]));
        tokio::time::sleep(Duration::from_millis(10)).await;
        let (connections, _) = harness.seen().await?;
        most = most.max(connections);
    }
    // A connection that is closing may coexist with its replacement.
    assert!(most <= 20, "{most} connections at once, of 10");
    harness.unlock().await?;
    for answer in join_all(asking).await {
        answer?;
    }
    Ok(())
}

// Each change waits for the lock until Postgres cancels it. A change that timed out and continued
// in Postgres would not count in the pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_do_not_pile_up_while_the_table_is_locked() -> Outcome {
    let servers = Servers::shared().await?;
    let deadlines = (Duration::from_millis(250), Duration::from_millis(200));
    let mut harness = Harness::start(&servers, servers.database_url(), deadlines).await?;
    let alice = login(&harness.sessions, "alice").await?;
    harness.lock().await?;
    let mut asking = Vec::new();
    let mut most = 0;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let (sessions, token) = (harness.sessions.clone(), alice.token.reveal().to_owned());
        asking.push(tokio::spawn(async move {
            let login = async {
                let login = sessions.begin_login().await?;
                login.create(NewSession::new("bob")).await
            };
            let list = sessions.list("alice");
            let (revoked, created, listed) = tokio::join!(sessions.revoke(&token), login, list);
            revoked.is_err() && created.is_err() && listed.is_err()
        }));
        tokio::time::sleep(Duration::from_millis(10)).await;
        let (_, active) = harness.seen().await?;
        most = most.max(active);
    }
    for one in asking {
        assert!(one.await?, "a change was made while the table was locked");
    }
    assert!(most <= 10, "{most} concurrent statements, of 10");
    harness.unlock().await?;
    wait::until("a logout", SOON, async || {
        harness.sessions.revoke(alice.token.reveal()).await.is_ok()
    })
    .await?;
    Ok(())
}

// A server that recovers would have to accept every connection attempt made meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_postgres_gets_few_connection_attempts() -> Outcome {
    let servers = Servers::shared().await?;
    servers.store().await?;
    let proxy = Proxy::start(servers.postgres().address()).await?;
    let deadline = Duration::from_millis(200);
    let store = PostgresStore::builder(proxy.url(servers.database_url()))
        .schema(servers.schema())
        .read_deadline(deadline)
        .change_deadline(deadline)
        .build()?;
    let sessions = Sessions::builder(NoCache, store).build()?;
    let hangs = proxy.inject(Toxic::hold());
    let before = proxy.traffic().accepted;
    let mut asking = Vec::new();
    for n in 0..300 {
        let sessions = sessions.clone();
        asking.push(tokio::spawn(async move {
            let _refused = sessions.create(NewSession::new(format!("user {n}"))).await;
        }));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for one in asking {
        one.await?;
    }
    let attempts = proxy.traffic().accepted - before;
    assert!(attempts < 100, "{attempts} connections for 300 callers");
    hangs.heal();
    wait::until("a login", SOON, async || sessions.create(NewSession::new("alice")).await.is_ok())
        .await?;
    Ok(())
}

// A server or network that recovers may never respond to earlier packets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_connection_attempt_is_repeated() -> Outcome {
    let servers = Servers::shared().await?;
    servers.store().await?;
    let proxy = Proxy::start(servers.postgres().address()).await?;
    let store = PostgresStore::builder(proxy.url(servers.database_url()))
        .schema(servers.schema())
        .change_deadline(SOON)
        .build()?;
    // The logins wait for the attempts, and are not shed.
    let sessions = Sessions::builder(NoCache, store).change_wait(SOON).build()?;
    let away = proxy.inject(Toxic::hold());
    let before = proxy.traffic().accepted;
    let asking = (0..8).map(|n| {
        let sessions = sessions.clone();
        tokio::spawn(async move { sessions.create(NewSession::new(format!("user {n}"))).await })
    });
    let asking: Vec<_> = asking.collect();
    wait::until("attempts to connect", SOON, async || proxy.traffic().accepted >= before + 3)
        .await?;
    // These attempts never get a response.
    let lost = proxy.inject(Toxic::hold().established());
    away.heal();
    let back = Instant::now();
    for one in asking {
        one.await??;
    }
    let took = back.elapsed();
    // The timeout of an attempt would be 5 s.
    assert!(took < Duration::from_secs(3), "{took:?}");
    drop(lost);
    Ok(())
}
