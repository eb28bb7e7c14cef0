//! Postgres under the whole load: how many reads it gets, and who is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use session_layer::store::PostgresStore;
use session_layer::{
    Created, NewSession, RevokeTarget, SessionId, SessionToken, Sessions, Validation,
    cache::NoCache,
};
use session_testkit::backends::{Backends, Sandbox};
use session_testkit::proxy::{Proxy, Toxic};
use session_testkit::wait;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::harness::{Failure, Outcome, shared};
use crate::support::{SOON, ask, cache, login, store, word};

/// How many reads there may be at once, with ten connections.
const READS: u64 = 3;

/// A service without a cache, and a look at Postgres from outside.
struct Rig {
    sessions: Sessions,
    /// Holds the lock.
    admin: PgConnection,
    /// Looks: in a transaction Postgres shows what it has shown before.
    watch: PgConnection,
    schema: String,
    /// By this name Postgres knows the service's connections.
    name: String,
}

impl Rig {
    async fn start(
        backends: &Backends,
        sandbox: &Sandbox,
        url: &str,
        (budget, read_deadline): (Duration, Duration),
    ) -> Result<Self, Failure> {
        store(sandbox).await?;
        let name = format!("load-{}", sandbox.schema());
        let and = if url.contains('?') { '&' } else { '?' };
        let store = PostgresStore::builder(format!("{url}{and}application_name={name}"))
            .schema(sandbox.schema())
            .read_deadline(read_deadline)
            .build()?;
        let builder = Sessions::builder(NoCache, store).validation_timeout(budget);
        Ok(Self {
            sessions: builder.max_concurrent_reads(usize::try_from(READS)?).build()?,
            admin: backends.postgres().connect().await?,
            watch: backends.postgres().connect().await?,
            schema: sandbox.schema().to_owned(),
            name,
        })
    }

    /// With the table locked no read is answered.
    async fn lock(&mut self) -> Outcome {
        let lock = format!("BEGIN; LOCK TABLE {}.sessions IN ACCESS EXCLUSIVE MODE", self.schema);
        self.run(lock).await
    }

    async fn unlock(&mut self) -> Outcome {
        self.run("COMMIT".to_owned()).await
    }

    async fn run(&mut self, sql: String) -> Outcome {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.admin).await?;
        Ok(())
    }

    /// The service's connections, and those of them that are at work, as Postgres sees it.
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

    /// Takes every slot, one read after the other; with the table locked, for as long as that is.
    /// They have got as far as Postgres then.
    async fn occupy(&mut self) -> Result<Vec<JoinHandle<&'static str>>, Failure> {
        let mut asking = Vec::new();
        for reads in 1..=READS {
            let token = SessionToken::generate()?.reveal().to_owned();
            asking.extend(spawn_all(&self.sessions, vec![token]));
            wait::until("a read", SOON, async || self.sessions.metrics().reads_in_flight == reads)
                .await?;
        }
        let arrived =
            async || matches!(self.seen().await, Ok((_, active)) if active.unsigned_abs() == READS);
        wait::until("the reads to arrive", SOON, arrived).await?;
        Ok(asking)
    }

    async fn until_waiting(&self, callers: u64) -> Outcome {
        wait::until("callers to wait", SOON, async || {
            self.sessions.metrics().reads_waiting >= callers
        })
        .await?;
        Ok(())
    }
}

const PATIENT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(30));

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misses_for_one_token_share_reads() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let mut rig = Rig::start(&backends, &sandbox, sandbox.database_url(), PATIENT).await?;
    let alice = login(&rig.sessions, "alice").await?;
    rig.lock().await?;
    let _before = rig.occupy().await?;
    let asking = spawn_all(&rig.sessions, vec![alice.token.reveal().to_owned(); 200]);
    rig.until_waiting(200).await?;
    rig.unlock().await?;
    for answer in join_all(asking).await {
        assert_eq!(answer?, "valid");
    }
    let metrics = rig.sessions.metrics();
    assert_eq!(metrics.store_reads, READS + 1, "one for all of them");
    assert_eq!(metrics.coalesced, 199);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misses_for_many_tokens_share_reads() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let mut rig = Rig::start(&backends, &sandbox, sandbox.database_url(), PATIENT).await?;
    let mut created: Vec<Created> = Vec::new();
    for n in 0..20 {
        created.push(login(&rig.sessions, &format!("user {n}")).await?);
    }
    rig.lock().await?;
    // Known ones among a flood of unknown ones: each gets its own answer.
    let mut tokens: Vec<String> = Vec::new();
    for n in 0..400 {
        tokens.push(match created.get(n / 20) {
            Some(known) if n % 20 == 0 => known.token.reveal().to_owned(),
            _ => SessionToken::generate()?.reveal().to_owned(),
        });
    }
    let _before = rig.occupy().await?;
    let asking = spawn_all(&rig.sessions, tokens);
    rig.until_waiting(400).await?;
    let (_, active) = rig.seen().await?;
    assert_eq!(u64::try_from(active)?, READS, "and no more");
    rig.unlock().await?;
    for (n, answer) in join_all(asking).await.into_iter().enumerate() {
        let expected = if n % 20 == 0 { "valid" } else { "invalid" };
        assert_eq!(answer?, expected, "{n}");
    }
    let metrics = rig.sessions.metrics();
    assert_eq!(metrics.tokens_read, READS + 400);
    assert!(metrics.store_reads <= READS + 4, "{metrics:?}");
    assert_eq!(metrics.peak_reads_in_flight, READS);
    Ok(())
}

fn spawn_all(sessions: &Sessions, tokens: Vec<String>) -> Vec<JoinHandle<&'static str>> {
    let spawn = |token: String| {
        let sessions = sessions.clone();
        tokio::spawn(async move { word(&sessions.validate(&token).await) })
    };
    tokens.into_iter().map(spawn).collect()
}

/// Load goes on while nothing is answered. Postgres sees a fixed number of reads, whoever comes on
/// top is turned away at once, and when the lock is gone all is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_hangs_gets_no_more_reads() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let deadlines = (Duration::from_millis(1_500), Duration::from_secs(1));
    let mut rig = Rig::start(&backends, &sandbox, sandbox.database_url(), deadlines).await?;
    let alice = login(&rig.sessions, "alice").await?;
    assert_eq!(ask(&rig.sessions, &alice).await, "valid");
    rig.lock().await?;
    let mut asking = Vec::new();
    while rig.sessions.metrics().shed < 100 {
        for _ in 0..20 {
            let token = SessionToken::generate()?.reveal().to_owned();
            asking.extend(spawn_all(&rig.sessions, vec![token]));
        }
        let (connections, _) = rig.seen().await?;
        assert!(connections <= 10, "{connections} connections");
        let metrics = rig.sessions.metrics();
        assert!(metrics.reads_in_flight <= READS, "{metrics:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for answer in join_all(asking).await {
        assert_eq!(answer?, "unavailable", "never invalid");
    }
    assert_eq!(rig.sessions.metrics().peak_reads_in_flight, READS);
    let told = rig.sessions.recent_errors();
    assert!(told.iter().any(|e| e.contains("load was shed")), "{told:?}");
    rig.unlock().await?;
    wait::until("Postgres to be asked again", SOON, async || {
        ask(&rig.sessions, &alice).await == "valid"
    })
    .await?;
    wait::until("the reads to end", SOON, async || {
        let metrics = rig.sessions.metrics();
        (metrics.reads_in_flight, metrics.reads_waiting) == (0, 0)
    })
    .await?;
    Ok(())
}

/// The network swallows everything and the callers leave, again and again. What is left afterwards
/// is a pool as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_leave_cost_no_connection() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let proxy = Proxy::start(backends.postgres().address()).await?;
    let url = proxy.url(sandbox.database_url());
    let deadlines = (Duration::from_secs(10), Duration::from_secs(1));
    let mut rig = Rig::start(&backends, &sandbox, &url, deadlines).await?;
    let alice = login(&rig.sessions, "alice").await?;
    for _ in 0..5 {
        // Of new connections too: a black hole of the old ones alone answers whoever reads on a new
        // one.
        let hole = proxy.inject(Toxic::hold());
        let asking = spawn_all(&rig.sessions, vec![alice.token.reveal().to_owned(); 100]);
        wait::until("a read", SOON, async || rig.sessions.metrics().reads_in_flight > 0).await?;
        for one in &asking {
            one.abort();
        }
        for one in asking {
            assert!(one.await.is_err_and(|error| error.is_cancelled()));
        }
        hole.heal();
        wait::until("an answer", SOON, async || {
            matches!(rig.sessions.validate(alice.token.reveal()).await, Validation::Valid(_))
        })
        .await?;
    }
    let metrics = rig.sessions.metrics();
    assert!(metrics.peak_reads_in_flight <= READS, "{metrics:?}");
    wait::until("the baseline", SOON, async || {
        let metrics = rig.sessions.metrics();
        (metrics.reads_in_flight, metrics.reads_waiting) == (0, 0)
    })
    .await?;
    // All ten can be had at once: none was lost on the way.
    let changes = (0..10).map(|n| {
        let (sessions, user) = (rig.sessions.clone(), format!("user {n}"));
        async move { login(&sessions, &user).await }
    });
    for created in join_all(changes).await {
        created?;
    }
    let (connections, _) = rig.seen().await?;
    assert!(connections <= 10, "{connections} connections");
    Ok(())
}

/// With the table locked every read is given up, and the next one comes. Were it to go on in
/// Postgres, so would the one before, and the one before that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_waits_for_ends_in_postgres_too() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let deadlines = (Duration::from_millis(150), Duration::from_millis(100));
    let mut rig = Rig::start(&backends, &sandbox, sandbox.database_url(), deadlines).await?;
    let alice = login(&rig.sessions, "alice").await?;
    rig.lock().await?;
    let mut asking = Vec::new();
    let mut most = 0;
    for _ in 0..150 {
        asking.extend(spawn_all(&rig.sessions, vec![alice.token.reveal().to_owned(); 2]));
        tokio::time::sleep(Duration::from_millis(10)).await;
        let (connections, _) = rig.seen().await?;
        most = most.max(connections);
    }
    // One that is just leaving beside each that has come.
    assert!(most <= 20, "{most} connections at once, of 10");
    rig.unlock().await?;
    for answer in join_all(asking).await {
        answer?;
    }
    Ok(())
}

/// Each waits for the lock for as long as Postgres lets it, and so do those behind it in the pool.
/// What is sent late and given up goes on there, while its place in the pool is the next one's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_do_not_pile_up_while_the_table_is_locked() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    let deadlines = (Duration::from_millis(250), Duration::from_millis(200));
    let mut rig = Rig::start(&backends, &sandbox, sandbox.database_url(), deadlines).await?;
    let alice = login(&rig.sessions, "alice").await?;
    rig.lock().await?;
    let mut asking = Vec::new();
    let mut most = 0;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let (sessions, token) = (rig.sessions.clone(), alice.token.reveal().to_owned());
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
        let (_, active) = rig.seen().await?;
        most = most.max(active);
    }
    for one in asking {
        assert!(one.await?, "nothing is made while the table is locked");
    }
    assert!(most <= 10, "{most} at work in Postgres at once, of 10");
    rig.unlock().await?;
    wait::until("a logout", SOON, async || rig.sessions.revoke(alice.token.reveal()).await.is_ok())
        .await?;
    Ok(())
}

/// One user ends thousands of sessions that do not exist, and thousands of logins begin that are
/// never finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_clients_flood_fails_no_login_and_no_logout_of_others() -> Outcome {
    let backends = shared().await?;
    const FLOOD: usize = 6_000;
    let sandbox = backends.sandbox();
    // The wait for a turn is as long as the test needs. What it asks is who gets a turn.
    let sessions = Sessions::builder(cache(sandbox.redis_url(), &sandbox)?, store(&sandbox).await?)
        .change_wait(SOON)
        .build()?;
    let calls = Arc::new(AtomicUsize::new(0));
    let mut flood = Vec::new();
    for n in 0..FLOOD {
        let (sessions, calls) = (sessions.clone(), Arc::clone(&calls));
        flood.push(tokio::spawn(async move {
            calls.fetch_add(1, Ordering::Relaxed);
            if n % 2 == 0 {
                let _ = sessions.begin_login().await;
            } else {
                let unknown = SessionId::from_bytes(id(n));
                let _ = sessions.revoke(RevokeTarget::owned("mallory", unknown)).await;
            }
        }));
    }
    wait::until("the flood", SOON, async || calls.load(Ordering::Relaxed) == FLOOD).await?;
    for n in 0..5 {
        let user = format!("user {n}");
        let login = sessions.begin_login().await?;
        let created = login.create(NewSession::new(&user)).await?;
        assert_eq!(sessions.list(&user).await?.sessions.len(), 1);
        assert_eq!(sessions.revoke(created.token.reveal()).await?.value, 1);
    }
    for one in flood {
        one.await?;
    }
    let metrics = sessions.metrics();
    // Each is for thousands of logins.
    assert!(metrics.login_reads < FLOOD as u64 / 10, "{metrics:?}");
    Ok(())
}

/// A UUID that no session has.
fn id(n: usize) -> [u8; 16] {
    (n as u128).to_be_bytes()
}

/// What knocks while nobody opens is a queue that has to be taken in, one by one, when somebody
/// does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_hangs_is_not_knocked_at_by_every_caller() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    store(&sandbox).await?;
    let proxy = Proxy::start(backends.postgres().address()).await?;
    let deadline = Duration::from_millis(200);
    let store = PostgresStore::builder(proxy.url(sandbox.database_url()))
        .schema(sandbox.schema())
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
    let knocked = proxy.traffic().accepted - before;
    assert!(knocked < 100, "{knocked} connections for 300 callers");
    hangs.heal();
    wait::until("a login", SOON, async || sessions.create(NewSession::new("alice")).await.is_ok())
        .await?;
    Ok(())
}

/// What was sent to a server while it, or its network, was away may never be answered; the server
/// that is back answers whoever asks then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_to_connect_that_nobody_answers_is_begun_anew() -> Outcome {
    let backends = shared().await?;
    let sandbox = backends.sandbox();
    store(&sandbox).await?;
    let proxy = Proxy::start(backends.postgres().address()).await?;
    let store = PostgresStore::builder(proxy.url(sandbox.database_url()))
        .schema(sandbox.schema())
        .change_deadline(SOON)
        .build()?;
    let sessions = Sessions::builder(NoCache, store).build()?;
    let away = proxy.inject(Toxic::hold());
    let before = proxy.traffic().accepted;
    let asking = (0..8).map(|n| {
        let sessions = sessions.clone();
        tokio::spawn(async move { sessions.create(NewSession::new(format!("user {n}"))).await })
    });
    let asking: Vec<_> = asking.collect();
    wait::until("attempts to connect", SOON, async || proxy.traffic().accepted >= before + 3)
        .await?;
    // These are never answered.
    let lost = proxy.inject(Toxic::hold().established());
    away.heal();
    let back = Instant::now();
    for one in asking {
        one.await??;
    }
    let took = back.elapsed();
    // A connection would be waited for for 5 s.
    assert!(took < Duration::from_secs(3), "{took:?}");
    drop(lost);
    Ok(())
}
