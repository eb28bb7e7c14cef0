//! Stage 1: may the application do here what it must?

use super::{
    nodes::{Nodes, failed},
    report::{Checks, Outcome},
};
use crate::check::{Finding, Status, Target, check};

pub(super) async fn run(nodes: &Nodes<'_>, checks: &mut Checks<'_>) -> Outcome {
    let sandbox = nodes.sandbox;
    // The tables first: the check looks for them, as it does in a deployment.
    let migrated = async {
        let store = nodes.store(sandbox.database_url())?;
        let migrated = store.migrate().await;
        migrated.map_err(|error| failed("The tables could not be made", &error))
    };
    checks.need("migrate", migrated.await)?;
    let made = format!(
        "Tables made in schema {}, for this run alone",
        sandbox.schema()
    );
    checks.note("migrate", Finding::ok(made));

    let target = Target::new(
        Some(sandbox.redis_url().to_owned()),
        Some(sandbox.database_url().to_owned()),
    )
    .namespace(sandbox.namespace())
    .schema(sandbox.schema());
    let report = check(&target, |_| {}).await;
    let mut versions = Vec::new();
    for step in report.servers.into_iter().flat_map(|server| server.steps) {
        if step.status == Status::Ok && step.step == "version" {
            versions.push(step.message.clone());
        }
        checks.take(step);
    }
    Ok(format!(
        "{}; tables, rights and scripts looked at",
        versions.join(", ")
    ))
}
