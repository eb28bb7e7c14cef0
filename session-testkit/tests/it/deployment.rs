//! A deployment under test: its nodes, its role, its restarts, and its cleanup.

use session_testkit::{
    backends::Backends,
    proxy::Peer,
    subject::{Login, Seen, Subject as _},
};
use sqlx::AssertSqlSafe;

use crate::harness::{Failure, Outcome, shared};
use crate::support::roomy;

/// Returns running servers as named ones, which remain after the test.
pub(crate) async fn given(backends: &Backends) -> Result<Backends, Failure> {
    Ok(Backends::builder()
        .redis_url(backends.redis().url())
        .database_url(backends.postgres().url())
        .start()
        .await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_share_sessions_and_restart_separately() -> Outcome {
    let backends = shared().await?;
    let deployment = roomy().start(given(&backends).await?).await?;
    let subject = deployment.subject();
    let token = subject.create(0, &Login::new("ann", "data")).await?;
    assert!(matches!(subject.validate(1, &token).await, Seen::Valid { .. }));
    for node in 0..2 {
        assert!(deployment.open_connections(node, Peer::Redis) > 0);
        assert!(deployment.open_connections(node, Peer::Postgres) > 0);
    }
    let mut admin = backends.postgres().connect().await?;
    let of_node = "SELECT count(*), bool_or(rolsuper) FROM pg_stat_activity \
        JOIN pg_roles ON rolname = usename WHERE application_name = $1";
    let (count, superuser): (i64, Option<bool>) =
        sqlx::query_as(of_node).bind(deployment.application_name(1)).fetch_one(&mut admin).await?;
    assert!(count > 0);
    assert_eq!(superuser, Some(false), "no right can be denied to a superuser");

    let counted = |node| subject.node(node).expect("a node").metrics().total();
    assert!(counted(1) > 0);
    deployment.restarts().restart(1).await.expect("a restart");
    assert_eq!(counted(1), 0, "the node was not replaced");
    assert!(matches!(subject.validate(1, &token).await, Seen::Valid { .. }));
    assert!(deployment.restarts().restart(2).await.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_servers_keep_nothing_of_a_deployment() -> Outcome {
    let backends = shared().await?;
    let mut admin = backends.postgres().connect().await?;
    for cleaned in [true, false] {
        let deployment = roomy().start(given(&backends).await?).await?;
        let subject = deployment.subject();
        let token = subject.create(0, &Login::new("ann", "data")).await?;
        subject.validate(0, &token).await;
        let (schema, namespace) =
            (deployment.schema().to_owned(), deployment.namespace().to_owned());
        drop(subject);
        if cleaned {
            deployment.cleanup().await?;
        } else {
            drop(deployment);
        }
        let left = format!(
            "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname LIKE '{schema}%') \
                  + (SELECT count(*) FROM pg_roles WHERE rolname LIKE '{schema}%')"
        );
        let left: i64 = sqlx::query_scalar(AssertSqlSafe(left)).fetch_one(&mut admin).await?;
        assert_eq!(left, 0, "`cleanup` was called: {cleaned}");
        let mut redis = backends.redis().connect().await?;
        let keys: Vec<String> =
            redis::cmd("KEYS").arg(format!("{namespace}*")).query_async(&mut redis).await?;
        assert_eq!(keys, Vec::<String>::new());
    }
    Ok(())
}
