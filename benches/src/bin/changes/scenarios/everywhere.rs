//! Revoke-all for a user with very many sessions.

use std::{collections::HashMap, time::Duration};

use session_testkit::backends::Backends;
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, sleep},
};

use super::{Section, progress};
use crate::{
    deployment::{Caches, Deployment, NODES},
    error::Error,
    moment::Moment,
    names::{Kind, Who},
    observed::{Observed, Promise},
    observer::{copies, memory, wait_for},
    plan::{Plan, ends},
    protocol::{Bounds, Invalid, Order, Revoked, Visibility},
    sql::{CROWD, Postgres, Users},
    table::{grouped, millis, seconds, unknown},
};

/// The interval at which the rows are read that a background task marks as ended.
const INTERVAL: Duration = Duration::from_millis(200);
/// The deadline of that task.
const MARKED: Duration = Duration::from_secs(10 * 60);

pub(super) async fn run(backends: &Backends, plan: &Plan) -> Result<Section, Error> {
    let what = format!(
        "Node 1 revokes all sessions of a user. Redis has entries of {} of them, of which each \
         node serves {}. The age is the time from the call until a node's first \"invalid\". A \
         validation lets a session in too late if it begins after the response `Propagated`, or \
         more than D after the response `Committed`.",
        plan.handful * NODES as u64,
        plan.handful
    );
    let head = [
        "sessions",
        "response after, ms",
        "visibility",
        "count",
        "journal rows written",
        "rows marked after, s",
    ];
    let mut section = Section::new(what, &head);
    for crowd in &plan.crowds {
        progress(format_args!("everywhere: creating {} sessions", grouped(*crowd)));
        let (mut deployment, mut reports) = Deployment::new(backends, plan, Caches::Shared).await?;
        deployment.create(Kind::Crowd, *crowd, Users::One).await?;
        deployment.start_nodes().await?;
        progress(format_args!("everywhere: revoking {} sessions", grouped(*crowd)));
        let (made, observed) = revoke(&deployment, &mut reports, *crowd).await?;
        let cells = [
            grouped(*crowd),
            millis(made.revoked.took),
            described(made.revoked.visibility),
            grouped(made.revoked.count),
            grouped(made.journal_rows),
            made.marked.map_or_else(unknown, seconds),
        ];
        let promise = (Promise::EveryNode, made.within);
        section.add(&cells, &observed, deployment.staleness_bound, promise);
        deployment.stop().await?;
    }
    Ok(section)
}

/// The result of a revoke-all.
#[derive(Clone, Copy, Debug)]
struct Made {
    revoked: Revoked,
    /// The time after the response in which a session may be accepted.
    within: Duration,
    journal_rows: u64,
    /// The time from the response until the last row was marked as ended. `None` after a timeout.
    marked: Option<Duration>,
}

async fn revoke(
    deployment: &Deployment<'_>,
    reports: &mut UnboundedReceiver<(usize, Invalid)>,
    crowd: u64,
) -> Result<(Made, Vec<Observed>), Error> {
    let cached = handful(deployment.plan.handful * NODES as u64, crowd);
    copies(deployment, &cached).await?;
    let mut postgres = deployment.postgres().await?;
    let rows_before = postgres.journal_rows().await?;

    deployment.order(|| Order::Mark);
    let before = memory(deployment)?;
    // Each node has its own sessions. A node that rejects a session removes its entry, which no
    // other node then serves.
    let of = |place: usize| cached.iter().skip(place).step_by(NODES);
    for (place, node) in deployment.nodes().iter().enumerate() {
        for who in of(place) {
            node.order(Order::Watch(*who));
        }
    }
    // With the same moment in every run, all runs would have the same phase within the journal's
    // interval.
    let mut drawn = ends(deployment.plan.seed.wrapping_add(crowd), 1);
    sleep(drawn.next().unwrap_or_default()).await;
    let revoked = deployment.nodes()[0].revoke_all(CROWD).await?;
    let within = within(revoked.visibility, deployment.staleness_bound)?;
    let bounds = Bounds { at: revoked.at, within, staleness_bound: deployment.staleness_bound };
    for (place, node) in deployment.nodes().iter().enumerate() {
        for who in of(place) {
            node.order(Order::Ended(*who, bounds));
        }
    }
    let called = revoked.at.minus(revoked.took);
    let at: HashMap<Who, Moment> = cached.iter().map(|who| (*who, called)).collect();
    let ages = wait_for(deployment, reports, &at, cached.len()).await;
    let marked = wait_until_marked(&mut postgres, revoked.at).await?;
    sleep(within.saturating_sub(Moment::now().since(revoked.at))).await;

    let after = memory(deployment)?;
    let mut observed = Vec::new();
    let of_nodes = ages.into_iter().zip(before.into_iter().zip(after));
    let nodes = deployment.nodes().iter().enumerate();
    for ((place, node), (ages, (before, after))) in nodes.zip(of_nodes) {
        let sessions = of(place).count() as u64;
        observed.push(Observed {
            node: node.name(),
            ended: sessions,
            copies: sessions,
            ages,
            report: node.report().await?,
            back: node.recheck().await?,
            before,
            after,
        });
    }
    let journal_rows = postgres.journal_rows().await?.saturating_sub(rows_before);
    postgres.close().await?;
    let made = Made { revoked, within, journal_rows, marked };
    Ok((made, observed))
}

/// Waits until all rows are marked as ended. Returns the time from the response to that.
async fn wait_until_marked(
    postgres: &mut Postgres,
    answered: Moment,
) -> Result<Option<Duration>, Error> {
    let deadline = Instant::now() + MARKED;
    while postgres.is_crowd_left().await? {
        if Instant::now() > deadline {
            return Ok(None);
        }
        sleep(INTERVAL).await;
    }
    Ok(Some(Moment::now().since(answered)))
}

/// Returns some sessions of the crowd, evenly from its first to its last.
fn handful(some: u64, crowd: u64) -> Vec<Who> {
    let some = some.clamp(1, crowd.max(1));
    (0..some)
        .map(|number| Who { kind: Kind::Crowd, n: (crowd - 1) * number / (some - 1).max(1) })
        .collect()
}

/// Returns the time after the response in which a session may be accepted.
fn within(visibility: Visibility, staleness_bound: Duration) -> Result<Duration, Error> {
    match visibility {
        Visibility::Propagated => Ok(Duration::ZERO),
        Visibility::Committed { within, .. } => Ok(within.min(staleness_bound)),
        Visibility::Nothing => {
            Err(Error::new("revoke the sessions: the response states that there are none"))
        }
    }
}

fn described(visibility: Visibility) -> String {
    match visibility {
        Visibility::Nothing => "Nothing".to_owned(),
        Visibility::Propagated => "Propagated".to_owned(),
        Visibility::Committed { within, at_most } => {
            format!("Committed ({} s, {} s)", seconds(within), seconds(at_most))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handful_is_spread_over_the_whole_crowd() {
        let numbers = |some, crowd| {
            let all = handful(some, crowd);
            all.into_iter().map(|who| who.n).collect::<Vec<_>>()
        };
        assert_eq!(numbers(5, 1_000_000), [0, 249_999, 499_999, 749_999, 999_999]);
        assert_eq!(numbers(5, 2), [0, 1]);
        assert_eq!(numbers(1, 9), [0]);
        assert_eq!(numbers(0, 9), [0]);
    }

    #[test]
    fn visibility_determines_the_bound() {
        let d = Duration::from_secs(2);
        let committed = Visibility::Committed { within: d, at_most: d * 100 };
        assert_eq!(within(Visibility::Propagated, d).unwrap(), Duration::ZERO);
        assert_eq!(within(committed, d).unwrap(), d);
        assert!(within(Visibility::Nothing, d).is_err());
        assert_eq!(described(committed), "Committed (2.0 s, 200.0 s)");
    }
}
