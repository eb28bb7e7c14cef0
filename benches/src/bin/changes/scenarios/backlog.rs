//! Very many changes at once, and a node that starts behind a long journal.

use std::time::Duration;

use session_testkit::backends::Backends;
use tokio::time::{Instant, sleep};

use super::{Section, progress, start};
use crate::{
    deployment::Deployment,
    error::Error,
    moment::Moment,
    observed::Promise,
    plan::{Plan, split},
    table::{grouped, millis, seconds, unknown},
};

/// The result of the changes.
#[derive(Clone, Copy, Debug)]
struct Made {
    changes: u64,
    took: Duration,
    /// The time from the last COMMIT's reply until every node had read the journal.
    caught_up: Duration,
}

pub(super) async fn run(backends: &Backends, plan: &Plan) -> Result<Section, Error> {
    let what = format!(
        "SQL changes {} sessions in one transaction, then {} in {}. Then another node replaces the \
         last one, and reads the whole journal. Meanwhile SQL ends {} sessions a second.",
        grouped(plan.backlog_at_once),
        grouped(plan.backlog),
        plan.backlog_transactions,
        plan.ended_per_second
    );
    let head = [
        "phase",
        "changes",
        "took, s",
        "journal rows",
        "caught up after, ms",
        "serves hits after, ms",
    ];
    let mut section = Section::new(what, &head);
    let rows = plan.backlog.max(plan.backlog_at_once);
    let (mut deployment, mut observer) = start(backends, plan, "backlog", rows).await?;
    let bound = deployment.staleness_bound;

    let phases = [
        ("one transaction", plan.backlog_at_once, 1),
        ("several transactions", plan.backlog, plan.backlog_transactions),
    ];
    for (phase, rows, transactions) in phases {
        progress(format_args!("backlog: {} changes, {phase}", grouped(rows)));
        observer.prepare(&deployment).await?;
        let changing = change(&deployment, rows, transactions, phase);
        let (made, observed) = observer.observe(&deployment, changing).await?;
        let cells = [
            phase.to_owned(),
            grouped(made.changes),
            seconds(made.took),
            grouped(journal_rows(&deployment).await?),
            millis(made.caught_up),
            unknown(),
        ];
        section.add(&cells, &observed, bound, (Promise::EveryNode, bound));
    }

    progress("backlog: a node starts");
    observer.prepare(&deployment).await?;
    let journal = journal_rows(&deployment).await?;
    deployment.replace_the_last_node().await?;
    let starting = first_hit(&deployment);
    let (hits, observed) = observer.observe(&deployment, starting).await?;
    let cells = [
        "the last node starts".to_owned(),
        unknown(),
        unknown(),
        grouped(journal),
        unknown(),
        millis(hits),
    ];
    section.add(&cells, &observed, bound, (Promise::EveryNode, bound));
    deployment.stop().await?;
    Ok(section)
}

/// Changes this number of sessions, and waits until every node has read the journal.
async fn change(
    deployment: &Deployment<'_>,
    rows: u64,
    transactions: u64,
    label: &str,
) -> Result<Made, Error> {
    let mut postgres = deployment.postgres().await?;
    let begin = Instant::now();
    let mut changes = 0;
    for rows in split(rows, transactions) {
        changes += postgres.change_many(rows, label).await?;
    }
    let (took, committed) = (begin.elapsed(), Moment::now());
    postgres.close().await?;
    Ok(Made { changes, took, caught_up: deployment.caught_up(committed).await? })
}

/// Waits until the node that has just started serves hits, and then for a while. Returns the time
/// from the start of its process to its first hit.
async fn first_hit(deployment: &Deployment<'_>) -> Result<Duration, Error> {
    let Some(node) = deployment.nodes().last() else {
        return Err(Error::new("find the node that has started"));
    };
    let first_hit = node.first_hit().await?;
    sleep(deployment.plan.after_start).await;
    Ok(first_hit.since(node.started()))
}

async fn journal_rows(deployment: &Deployment<'_>) -> Result<u64, Error> {
    let mut postgres = deployment.postgres().await?;
    let rows = postgres.journal_rows().await?;
    postgres.close().await?;
    Ok(rows)
}
