//! Stage 1: the rights of the application on both servers.

use super::{
    nodes::{Nodes, failed},
    report::Outcome,
};
use session_tools::check::{Finding, Status, Steps, Target, check};

pub(super) async fn run(nodes: &Nodes<'_>, checks: &mut Steps<'_>) -> Outcome {
    let sandbox = nodes.sandbox;
    // The tables are created first, because the check needs them, as in a deployment.
    let migrated = async {
        let store = nodes.store(sandbox.database_url())?;
        let migrated = store.migrate().await;
        migrated.map_err(|error| failed("The tables could not be created", &error))
    };
    checks.need("migrate", migrated.await)?;
    let created = format!("Tables created in schema {}, for this run only", sandbox.schema());
    checks.record("migrate", Finding::ok(created));

    let mut target = Target::new(Some(sandbox.redis_url()), Some(sandbox.database_url()));
    target.namespace = sandbox.namespace().to_owned();
    target.schema = sandbox.schema().to_owned();
    let report = check(&target, |_| {}).await;
    let mut versions = Vec::new();
    for step in report.servers.into_iter().flat_map(|server| server.steps) {
        if step.status == Status::Ok && step.step == "version" {
            versions.push(step.message.clone());
        }
        checks.push(step);
    }
    Ok(format!("{}, tables, rights and scripts", versions.join(", ")))
}
