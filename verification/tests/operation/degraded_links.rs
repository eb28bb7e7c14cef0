//! Faults of links and servers that end neither, one by one. `session-testkit faults` counts their
//! effects under load.

use session_testkit::deployment::Deployment;
use session_testkit::faults::{self, Fault, FaultGuard, Link};
use session_testkit::subject::{Login, Seen, Subject as _, Token};
use session_testkit::{backends::Backends, wait};

use crate::harness::{Failure, Outcome, default_backend};
use crate::support::{SOON, roomy};

async fn start() -> Result<Deployment, Failure> {
    let own = Backends::builder().backend(default_backend().await?).start().await?;
    Ok(roomy().start(own).await?)
}

/// Waits until every node has served the session from the cache.
async fn until_hit(deployment: &Deployment, token: &Token) -> Outcome {
    let subject = deployment.subject();
    for number in 0..deployment.nodes() {
        let node = subject.node(number).expect("a node");
        let before = node.metrics().hits;
        wait::until("a hit", SOON, async || {
            let valid = matches!(subject.validate(number, token).await, Seen::Valid { .. });
            valid && node.metrics().hits > before
        })
        .await?;
    }
    Ok(())
}

/// Validates on all nodes until the fault has affected something, and at least ten times.
async fn validations(
    deployment: &Deployment,
    broken: &mut FaultGuard,
    token: &Token,
) -> Result<Vec<Seen>, Failure> {
    let subject = deployment.subject();
    let mut seen = Vec::new();
    wait::until("the fault to affect something", SOON, async || {
        for node in 0..deployment.nodes() {
            seen.push(subject.validate(node, token).await);
        }
        // A login writes to both servers.
        let _either = subject.create(0, &Login::new("another", "data")).await;
        seen.len() >= 10 && broken.report().await.touched_something()
    })
    .await?;
    Ok(seen)
}

// Postgres replaces it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_behind_a_bad_link_fails_no_validation() -> Outcome {
    let deployment = start().await?;
    let subject = deployment.subject();
    let token = subject.create(0, &Login::new("ann", "data")).await?;
    for fault in [
        Fault::RedisLink(Link::Latency),
        Fault::RedisLink(Link::Reset),
        Fault::RedisLink(Link::Idle),
        Fault::RedisLink(Link::Truncated),
        Fault::RedisLink(Link::Sliced),
        Fault::RedisMaxClients,
        Fault::RedisEviction,
    ] {
        until_hit(&deployment, &token).await?;
        let mut broken = faults::inject(&fault, deployment.target()).await?;
        for seen in validations(&deployment, &mut broken, &token).await? {
            assert!(matches!(seen, Seen::Valid { .. }), "{fault}: {seen:?}");
        }
        broken.heal().await?;
    }
    until_hit(&deployment, &token).await
}

// Cached sessions are served. The others are "unavailable", and valid afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_behind_a_bad_link_makes_nothing_invalid() -> Outcome {
    let deployment = start().await?;
    let subject = deployment.subject();
    let login = |user: &str| {
        let login = Login::new(user, "data");
        let subject = subject.clone();
        async move { subject.create(0, &login).await }
    };
    for link in [Link::Latency, Link::Reset, Link::Idle, Link::Truncated, Link::Sliced] {
        let fault = Fault::PostgresLink(link);
        let token = login("ann").await?;
        let mut broken = faults::inject(&fault, deployment.target()).await?;
        for seen in validations(&deployment, &mut broken, &token).await? {
            assert_ne!(seen, Seen::Invalid, "{fault}");
        }
        broken.heal().await?;
        wait::until("a reply of Postgres", SOON, async || {
            let token = login("bob").await;
            let Ok(token) = token else { return false };
            matches!(subject.validate(1, &token).await, Seen::Valid { .. })
        })
        .await?;
    }
    Ok(())
}
