//! What happens to lines and servers without ending them, as a session's owner sees it: under load
//! `session-testkit faults` counts it, here each is looked at alone.

use session_testkit::{
    backends::Backends,
    deployment::Deployment,
    faults::{self, Fault, FaultGuard, Link},
    subject::{Login, Seen, Subject as _, Token},
    wait,
};

use crate::{
    harness::{Failure, Outcome, default_backend},
    support::{SOON, roomy},
};

/// Until a node has served it from the cache.
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

/// What all nodes say, again and again until the fault has touched something, and ten times at
/// least.
async fn asked(
    deployment: &Deployment,
    broken: &mut FaultGuard,
    token: &Token,
) -> Result<Vec<Seen>, Failure> {
    let subject = deployment.subject();
    let mut seen = Vec::new();
    wait::until("the fault to touch something", SOON, async || {
        for node in 0..deployment.nodes() {
            seen.push(subject.validate(node, token).await);
        }
        // A login needs both servers, and writes to both.
        let _either = subject.create(0, &Login::new("another", "data")).await;
        seen.len() >= 10 && broken.report().await.touched_something()
    })
    .await?;
    Ok(seen)
}

/// Nobody notices: Postgres answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_behind_a_bad_link_is_not_noticed() -> Outcome {
    let backend = default_backend().await?;
    let own = Backends::builder().backend(backend).start().await?;
    let deployment = roomy().start(own).await?;
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
        for seen in asked(&deployment, &mut broken, &token).await? {
            assert!(matches!(seen, Seen::Valid { .. }), "{fault}: {seen:?}");
        }
        broken.heal().await?;
    }
    until_hit(&deployment, &token).await
}

/// Who has a copy is served; nobody is told "invalid", and all is well afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_behind_a_bad_link_makes_nothing_invalid() -> Outcome {
    let backend = default_backend().await?;
    let own = Backends::builder().backend(backend).start().await?;
    let deployment = roomy().start(own).await?;
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
        for seen in asked(&deployment, &mut broken, &token).await? {
            assert_ne!(seen, Seen::Invalid, "{fault}");
        }
        broken.heal().await?;
        wait::until("an answer of Postgres", SOON, async || {
            let token = login("bob").await;
            let Ok(token) = token else { return false };
            matches!(subject.validate(1, &token).await, Seen::Valid { .. })
        })
        .await?;
    }
    Ok(())
}
