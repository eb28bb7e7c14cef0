//! Each observer finds a planted violation, and no violation where there is none.

use std::{collections::BTreeSet, io::Write as _, time::Duration};

use session_layer::TokenDigest;
use session_testkit::{
    backends::{Backend, Backends},
    deployment::{Deployment, POOL_SIZE},
    history::{Place, Resource, Sample},
    observe::{self, Logs},
    proxy::Peer,
    subject::{Login, Seen, Subject as _},
    wait,
    workload::IssuedToken,
};
use sqlx::AssertSqlSafe;
use tokio::net::TcpStream;

use crate::{
    deployment::given,
    harness::{Failure, Outcome, on_each_backend, shared},
    support::{SOON, roomy},
};

/// Creates a session with an entry in Redis.
async fn logged_in(deployment: &Deployment, session: u32) -> Result<IssuedToken, Failure> {
    let subject = deployment.subject();
    let login = Login::new(format!("user-{session}"), "data");
    let token = subject.create(0, &login).await?;
    wait::until("an entry in Redis", SOON, async || {
        let node = subject.node(0).expect("a node");
        let hits = node.metrics().hits;
        matches!(subject.validate(0, &token).await, Seen::Valid { .. })
            && node.metrics().hits > hits
    })
    .await?;
    Ok(IssuedToken { session, number: 0, token })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_entry_is_found_and_current_one_is_not() -> Outcome {
    let backends = shared().await?;
    // The entries outlive the test.
    let deployment = roomy().ttl(Duration::from_secs(300));
    let deployment = deployment.start(given(&backends).await?).await?;
    let issued = [logged_in(&deployment, 1).await?, logged_in(&deployment, 2).await?];
    let scan = async || {
        let (redis, postgres) = (backends.redis(), backends.postgres());
        let (namespace, schema) = (deployment.namespace(), deployment.schema());
        observe::scan(redis, namespace, postgres, schema, &issued, 7).await
    };
    let right = scan().await?;
    assert_eq!((right.at, right.entries), (7, 2));
    assert_eq!(right.stale, Vec::<u32>::new());
    // The session is revoked in Postgres only.
    let mut admin = backends.postgres().connect().await?;
    let end = format!(
        "UPDATE {}.sessions SET revoked_at = now() WHERE token_digest = $1",
        deployment.schema()
    );
    let digest = TokenDigest::of(issued[1].token.reveal());
    sqlx::query(AssertSqlSafe(end)).bind(digest.as_bytes().as_slice()).execute(&mut admin).await?;
    // A node may have read the journal and removed the entry.
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
async fn leaked_connections_and_tasks_are_counted() -> Outcome {
    let backends = shared().await?;
    let deployment = roomy().start(given(&backends).await?).await?;
    let before = observe::sample(&deployment, || 1).await;
    assert_eq!(of(&before, 1, Resource::Pools), 0);
    let leaked: Vec<_> = (0..5).map(|_| tokio::spawn(std::future::pending::<()>())).collect();
    let after = observe::sample(&deployment, || 2).await;
    assert!(of(&after, 0, Resource::Tasks) >= of(&before, 0, Resource::Tasks) + 5);
    leaked.iter().for_each(tokio::task::JoinHandle::abort);
    let finished = async || leaked.iter().all(tokio::task::JoinHandle::is_finished);
    wait::until("the tasks to end", SOON, finished).await?;
    let healed = observe::sample(&deployment, || 3).await;
    assert!(of(&healed, 0, Resource::Tasks) <= of(&before, 0, Resource::Tasks));

    let proxy = deployment.network().proxy(1, Peer::Redis);
    let mut leaked = Vec::new();
    for _ in 0..POOL_SIZE + 3 {
        leaked.push(TcpStream::connect(proxy.address()).await?);
    }
    let all = u64::from(POOL_SIZE) + 3;
    wait::until("the proxy to accept them", SOON, async || proxy.traffic().open >= all).await?;
    let after = observe::sample(&deployment, || 4).await;
    assert!(of(&after, 1, Resource::Pools) >= 3);
    assert_eq!(of(&after, 0, Resource::Pools), 0, "the connections belong to node 1");
    Ok(())
}

on_each_backend!(raw_token_is_found_in_every_place);
async fn raw_token_is_found_in_every_place(backend: Backend) -> Outcome {
    let own = Backends::builder().backend(backend).start().await?;
    let deployment = roomy().ttl(Duration::from_secs(300)).start(own).await?;
    let mut issued = Vec::new();
    for session in 1..=3 {
        issued.push(logged_in(&deployment, session).await?);
    }
    let mut logs = Logs::default();
    writeln!(logs, "nothing of interest")?;
    let search = async |logs: &Logs| {
        let searches = observe::search(&deployment, Some(logs), &issued, || 7).await?;
        Ok::<_, Failure>(searches)
    };
    let clean = search(&logs).await?;
    let places: BTreeSet<Place> = clean.iter().map(|search| search.place).collect();
    assert_eq!(places, Place::ALL.into());
    for search in &clean {
        assert!(search.bytes > 0, "{search:?}");
        assert_eq!(search.found, Vec::<u32>::new(), "{search:?}");
    }

    let raw = |at: usize| issued[at].token.reveal();
    writeln!(logs, "validate token={}", raw(0))?;
    let mut redis = deployment.backends().redis().connect().await?;
    let key = format!("{}:leak", deployment.namespace());
    // The text is long and repetitive. By default, Redis would compress it in a dump.
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
