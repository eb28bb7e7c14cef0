//! A transaction that has changed very many sessions, and stays open.

use std::time::Duration;

use session_testkit::backends::Backends;
use tokio::time::{Instant, sleep};

use super::{Section, progress, start};
use crate::{
    deployment::Deployment,
    error::Error,
    moment::Moment,
    observed::Promise,
    plan::Plan,
    sql::Postgres,
    table::{grouped, millis, seconds},
};

pub(super) async fn run(backends: &Backends, plan: &Plan) -> Result<Section, Error> {
    let what = format!(
        "A transaction has changed {} sessions and stays open for {} s. Meanwhile SQL ends {} \
         sessions a second, until all nodes have caught up after the COMMIT. A node that has not \
         read the journal for D is cut off, as documented. A session that is let in too late \
         breaks a promise only if the node was connected to Postgres.",
        grouped(plan.open_rows),
        seconds(plan.open_for),
        plan.ended_per_second
    );
    let head = ["rows", "UPDATE took, s", "open for, s", "caught up after, ms"];
    let mut section = Section::new(what, &head);
    let (deployment, mut observer) = start(backends, plan, "open", plan.open_rows).await?;
    observer.prepare(&deployment).await?;

    progress("open: the transaction begins");
    let mut postgres = deployment.postgres().await?;
    postgres.run("BEGIN").await?;
    let begin = Instant::now();
    let rows = postgres.change_many(0..plan.open_rows, "open").await?;
    let took = begin.elapsed();
    progress(format_args!("open: it stays open for {} s", seconds(plan.open_for)));
    let staying = stay_open(&deployment, postgres);
    let (caught_up, observed) = observer.observe(&deployment, staying).await?;
    let cells = [grouped(rows), seconds(took), seconds(plan.open_for), millis(caught_up)];
    let bound = deployment.staleness_bound;
    section.add(&cells, &observed, bound, (Promise::NodesInTouch, bound));
    deployment.stop().await?;
    Ok(section)
}

/// Leaves the transaction open for a while, commits it, and waits until every node has read the
/// journal. Returns the time from the COMMIT's reply to that.
async fn stay_open(deployment: &Deployment<'_>, mut postgres: Postgres) -> Result<Duration, Error> {
    sleep(deployment.plan.open_for).await;
    postgres.run("COMMIT").await?;
    let committed = Moment::now();
    postgres.close().await?;
    deployment.caught_up(committed).await
}
