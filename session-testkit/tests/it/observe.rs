//! Each observer finds a violation that was planted, and nothing where there is none.

use std::{collections::BTreeSet, io::Write as _, time::Duration};

use session_layer::TokenDigest;
use session_testkit::{
    backends::{Backend, Backends},
    deployment::{Deployment, POOL_SIZE},
    history::{Header, Place, Resource, Sample},
    observe::{self, Logs},
    proxy::Peer,
    subject::{Login, Seen, Subject as _},
    wait,
    workload::{IssuedToken, Runner, Settings},
};
use sqlx::{AssertSqlSafe, ConnectOptions as _, postgres::PgConnectOptions};
use tokio::net::TcpStream;

use crate::{
    deployment::given,
    harness::{Failure, Outcome, on_each_backend, shared},
    support::SOON,
    support::roomy,
};

/// A session that every node could have a copy of.
async fn logged_in(deployment: &Deployment, session: u32) -> Result<IssuedToken, Failure> {
    let subject = deployment.subject();
    let login = Login::new(format!("user-{session}"), "data");
    let token = subject.create(0, &login).await?;
    wait::until("a copy in Redis", SOON, async || {
        let node = subject.node(0).expect("a node");
        let hits = node.metrics().hits;
        matches!(subject.validate(0, &token).await, Seen::Valid { .. })
            && node.metrics().hits > hits
    })
    .await?;
    Ok(IssuedToken { session, number: 0, token })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_copy_is_found_and_a_right_one_is_not() -> Outcome {
    let backends = shared().await?;
    // Copies that outlive the test.
    let deployment = roomy().ttl(Duration::from_secs(300));
    let deployment = deployment.start(given(&backends).await?).await?;
    let given_out = [logged_in(&deployment, 1).await?, logged_in(&deployment, 2).await?];
    let scan = async || {
        let (redis, postgres) = (backends.redis(), backends.postgres());
        let (namespace, schema) = (deployment.namespace(), deployment.schema());
        observe::scan(redis, namespace, postgres, schema, &given_out, 7).await
    };
    let right = scan().await?;
    assert_eq!((right.at, right.entries), (7, 2));
    assert_eq!(right.stale, Vec::<u32>::new());
    // The row is ended, and nobody tells Redis.
    let mut admin = backends.postgres().connect().await?;
    let end = format!(
        "UPDATE {}.sessions SET revoked_at = now() WHERE token_digest = $1",
        deployment.schema()
    );
    let digest = TokenDigest::of(given_out[1].token.reveal());
    sqlx::query(AssertSqlSafe(end)).bind(digest.as_bytes().as_slice()).execute(&mut admin).await?;
    // Put back, should a node have learnt of it and removed its copy.
    let key = format!("{}:2:{}", deployment.namespace(), digest.to_base64url());
    let mut redis = backends.redis().connect().await?;
    redis::cmd("SET").arg(key).arg("Vp").exec_async(&mut redis).await?;
    assert_eq!(scan().await?.stale, [2]);
    Ok(())
}

fn of(samples: &[Sample], node: u32, resource: Resource) -> u64 {
    let mut samples = samples.iter();
    let sample = samples.find(|sample| sample.node == node && sample.of == resource);
    sample.expect("a sample").value
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_leak_are_counted() -> Outcome {
    let backends = shared().await?;
    let deployment = roomy().start(given(&backends).await?).await?;
    let before = observe::sample(&deployment, || 1).await;
    assert_eq!(of(&before, 1, Resource::Pools), 0);
    let proxy = deployment.network().proxy(1, Peer::Redis);
    let mut leaked = Vec::new();
    for _ in 0..POOL_SIZE + 3 {
        leaked.push(TcpStream::connect(proxy.address()).await?);
    }
    let all = u64::from(POOL_SIZE) + 3;
    wait::until("the proxy to see them", SOON, async || proxy.traffic().open >= all).await?;
    let after = observe::sample(&deployment, || 2).await;
    assert!(of(&after, 1, Resource::Pools) >= 3);
    assert_eq!(of(&after, 0, Resource::Pools), 0, "it is node 1's");
    drop(leaked);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_leak_are_counted() -> Outcome {
    let backends = shared().await?;
    let deployment = roomy().start(given(&backends).await?).await?;
    let before = observe::sample(&deployment, || 1).await;
    let leaked: Vec<_> = (0..5).map(|_| tokio::spawn(std::future::pending::<()>())).collect();
    let after = observe::sample(&deployment, || 2).await;
    assert!(of(&after, 0, Resource::Tasks) >= of(&before, 0, Resource::Tasks) + 5);
    leaked.iter().for_each(tokio::task::JoinHandle::abort);
    wait::until("the tasks to be gone", SOON, async || {
        leaked.iter().all(tokio::task::JoinHandle::is_finished)
    })
    .await?;
    let healed = observe::sample(&deployment, || 3).await;
    assert!(of(&healed, 0, Resource::Tasks) <= of(&before, 0, Resource::Tasks));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_at_work_are_counted_by_node() -> Outcome {
    let backends = shared().await?;
    let deployment = roomy().start(given(&backends).await?).await?;
    // A short run to record into, on a subject of its own; the reads are ours.
    let mut settings = Settings::new(7);
    (settings.rate, settings.sessions) = (20, 2);
    settings.duration = Duration::from_secs(2);
    let runner = Runner::new(deployment.subject(), settings);
    let options: PgConnectOptions = backends.postgres().url().parse()?;
    let options = options.application_name(&deployment.application_name(1));
    let mut sleeping = Vec::new();
    for _ in 0..3 {
        let mut connection = options.connect().await?;
        sleeping.push(tokio::spawn(async move {
            let read = "SELECT f.*, d.n, pg_sleep(10) FROM (SELECT 1) f, (SELECT 2 AS n) d";
            let slept = sqlx::raw_sql(read).execute(&mut connection).await;
            slept.map(drop)
        }));
    }
    let mut admin = backends.postgres().connect().await?;
    let mut locking = backends.postgres().connect().await?;
    let recorder = runner.recorder();
    let holding = async {
        wait::until("the load to begin", SOON, async || recorder.progress().due > 0).await?;
        let lock = format!("BEGIN; LOCK TABLE {}.sessions", deployment.schema());
        sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut locking).await?;
        let subject = deployment.subject();
        let random = subject.random_token([7; 32]);
        // For some looks.
        let seen = wait::until("its read to wait for a while", SOON, async || {
            let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                AND application_name = $1 AND now() - query_start > interval '300 ms'";
            let waiting = sqlx::query_scalar::<_, i64>(waits)
                .bind(deployment.application_name(0))
                .fetch_one(&mut admin);
            waiting.await.is_ok_and(|waiting| waiting > 0)
        });
        let asked = tokio::spawn(async move { subject.validate(0, &random).await });
        seen.await?;
        sqlx::raw_sql("ROLLBACK").execute(&mut locking).await?;
        asked.await?;
        Ok::<_, Failure>(())
    };
    let names = (0..2).map(|node| deployment.application_name(node)).collect();
    let watching = observe::watch_reads(
        backends.postgres().clone(),
        names,
        deployment.read_deadline(),
        runner.recorder(),
    );
    let (run, held) = tokio::select! {
        both = async { tokio::join!(runner.run(), holding) } => both,
        () = watching => unreachable!("it watches until dropped"),
    };
    held?;
    let run = run?;
    sleeping.iter().for_each(tokio::task::JoinHandle::abort);
    let most = |node| {
        let samples = run.history.in_flight.iter().filter(|each| each.node == node);
        samples.map(|each| each.reads).max()
    };
    assert!(most(1) >= Some(3), "{:?}", most(1));
    // A real one is known, too.
    assert!(most(0) >= Some(1), "{:?}", most(0));
    // A promise that it be no more than 2 is seen to be broken.
    let mut history = run.history.clone();
    history.header = Header::new(7, 2);
    history.header.parameters.bulkhead = Some(2);
    let verdicts = session_testkit::invariants::check(&history);
    let verdict = verdicts.of(session_testkit::invariants::Invariant::R10);
    assert_eq!(verdict.outcome(), session_testkit::invariants::Outcome::Broken);
    Ok(())
}

on_each_backend!(a_raw_token_is_found_wherever_it_is);
async fn a_raw_token_is_found_wherever_it_is(backend: Backend) -> Outcome {
    let own = Backends::builder().backend(backend).start().await?;
    let deployment = roomy().ttl(Duration::from_secs(300)).start(own).await?;
    let given_out: Vec<IssuedToken> = [
        logged_in(&deployment, 1).await?,
        logged_in(&deployment, 2).await?,
        logged_in(&deployment, 3).await?,
    ]
    .into();
    let mut logs = Logs::default();
    writeln!(logs, "nothing of interest")?;
    let search = async |logs: &Logs| {
        let searches = observe::search(&deployment, Some(logs), &given_out, || 7).await?;
        Ok::<_, Failure>(searches)
    };
    let clean = search(&logs).await?;
    let places: BTreeSet<Place> = clean.iter().map(|search| search.place).collect();
    assert_eq!(places, Place::ALL.into());
    for search in &clean {
        assert!(search.bytes > 0, "{search:?}");
        assert_eq!(search.found, Vec::<u32>::new(), "{search:?}");
    }

    let raw = |at: usize| given_out[at].token.reveal();
    writeln!(logs, "validate token={}", raw(0))?;
    let mut redis = deployment.backends().redis().connect().await?;
    let key = format!("{}:leak", deployment.namespace());
    // Long and repetitive, so that a dump would be compressed.
    let text = format!("{}{}{}", "x".repeat(500), raw(1), "y".repeat(500));
    redis::cmd("SET").arg(key).arg(text).exec_async(&mut redis).await?;
    let mut admin = deployment.backends().postgres().connect().await?;
    let label = format!("UPDATE {}.sessions SET label = $1", deployment.schema());
    sqlx::query(AssertSqlSafe(label)).bind(raw(2)).execute(&mut admin).await?;
    let found = search(&logs).await?;
    let found_in = |place| {
        let mut searches = found.iter().filter(|search| search.place == place);
        searches.next().map(|search| search.found.clone())
    };
    assert_eq!(found_in(Place::Logs), Some(vec![1]));
    assert_eq!(found_in(Place::Redis), Some(vec![2]));
    assert_eq!(found_in(Place::RedisDump), Some(vec![2]));
    assert_eq!(found_in(Place::Postgres), Some(vec![3]));
    assert_eq!(found_in(Place::Metrics), Some(vec![]));
    Ok(())
}
