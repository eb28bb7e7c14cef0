//! Changes at a constant rate, with checkpoints, while sessions end.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use session_testkit::backends::Backends;
use tokio::{
    time::{Instant, sleep_until},
    try_join,
};

use super::{Section, progress, start};
use crate::{
    deployment::Deployment,
    error::Error,
    observed::Promise,
    plan::{Pace, Plan},
    sql::Postgres,
    table::{grouped, seconds},
};

/// The result of the changes.
#[derive(Clone, Copy, Debug)]
struct Made {
    changes: u64,
    checkpoints: u64,
    took: Duration,
}

pub(super) async fn run(backends: &Backends, plan: &Plan) -> Result<Section, Error> {
    let what = format!(
        "SQL changes another session each time for {} s, with a CHECKPOINT every {} s. Meanwhile \
         it ends {} sessions a second. The age is the time from the COMMIT's reply until a node's \
         first \"invalid\".",
        seconds(plan.span),
        seconds(plan.checkpoint_every),
        plan.ended_per_second
    );
    let head = ["changes/s due", "made", "rows a transaction", "checkpoints"];
    let mut section = Section::new(what, &head);
    for rate in &plan.rates {
        let pace = Pace::new(*rate, plan.span);
        let (deployment, mut observer) = start(backends, plan, "rate", pace.rows()).await?;
        observer.prepare(&deployment).await?;
        progress(format_args!("rate: {rate} changes a second for {} s", seconds(plan.span)));
        let changing = change(&deployment, pace);
        let (made, observed) = observer.observe(&deployment, changing).await?;
        let cells = [
            grouped(u64::from(*rate)),
            per_second(made),
            grouped(pace.per_transaction()),
            grouped(made.checkpoints),
        ];
        let bound = deployment.staleness_bound;
        section.add(&cells, &observed, bound, (Promise::EveryNode, bound));
        deployment.stop().await?;
    }
    Ok(section)
}

/// Makes all changes, each when it is due, and the checkpoints.
async fn change(deployment: &Deployment<'_>, pace: Pace) -> Result<Made, Error> {
    let mut writers = Vec::new();
    for _ in 0..deployment.plan.writers {
        writers.push(deployment.postgres().await?);
    }
    let checkpointer = deployment.postgres().await?;
    let (begin, next) = (Instant::now(), AtomicU64::new(0));
    let writing = futures_util::future::try_join_all(
        writers.into_iter().map(|postgres| write(postgres, deployment.plan, pace, begin, &next)),
    );
    let (changes, checkpoints) = try_join!(
        async {
            let changes = writing.await?;
            Ok((changes.into_iter().sum(), begin.elapsed()))
        },
        checkpoint(checkpointer, deployment.plan, begin)
    )?;
    let (changes, took) = changes;
    Ok(Made { changes, checkpoints, took })
}

/// Executes one transaction after the other, each when it is due. Transactions due after the span
/// are omitted, so a Postgres that is too slow makes fewer changes.
async fn write(
    mut postgres: Postgres,
    plan: &Plan,
    pace: Pace,
    begin: Instant,
    next: &AtomicU64,
) -> Result<u64, Error> {
    let mut changes = 0;
    while let Some((rows, due)) = pace.transaction(next.fetch_add(1, Ordering::Relaxed)) {
        sleep_until(begin + due).await;
        if begin.elapsed() > plan.span {
            break;
        }
        changes += postgres.change(rows).await?;
    }
    sleep_until(begin + plan.span).await;
    postgres.close().await?;
    Ok(changes)
}

async fn checkpoint(mut postgres: Postgres, plan: &Plan, begin: Instant) -> Result<u64, Error> {
    let mut checkpoints = 0;
    let mut due = plan.checkpoint_every;
    while due < plan.span {
        sleep_until(begin + due).await;
        postgres.run("CHECKPOINT").await?;
        checkpoints += 1;
        due += plan.checkpoint_every;
    }
    postgres.close().await?;
    Ok(checkpoints)
}

/// Returns the rounded number of changes per second.
fn per_second(made: Made) -> String {
    let millis = made.took.as_millis().max(1);
    let rate = (u128::from(made.changes) * 1_000 + millis / 2) / millis;
    grouped(u64::try_from(rate).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_rounded() {
        let rate = |changes, millis| {
            per_second(Made { changes, checkpoints: 0, took: Duration::from_millis(millis) })
        };
        assert_eq!(rate(60_000, 60_012), "1,000");
        assert_eq!(rate(3, 2_000), "2");
        assert_eq!(rate(0, 0), "0");
    }
}
