//! The scenarios, each of which makes one table.

use std::{ops::Range, time::Duration};

use clap::ValueEnum;
use futures_util::future::try_join_all;
use session_layer::{RevokeTarget, Visibility};
use session_testkit::backends::Backends;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
    try_join,
};

use crate::{
    Error,
    deployment::{Caches, Deployment, NODES},
    observed::Promise,
    observer::{Ended, Observer, SUPPLY, Watched, begin, gather, wait_for_entries},
    plan::{ENDED_PER_SECOND, Plan},
    progress,
    sql::{CROWD, Kind, Postgres},
    table::{Section, grouped, millis, seconds, unknown},
};

/// The outer deadline of a scenario, in addition to its own duration.
const SLACK: Duration = Duration::from_secs(30 * 60);
/// `rate`: the number of transactions per second. Each changes as many rows as the rate requires.
const TRANSACTIONS_PER_SECOND: u32 = 20;
/// `rate`: the number of connections that change rows.
const WRITERS: usize = 2;
/// `backlog`: the number of transactions in its second phase.
const BACKLOG_TRANSACTIONS: u64 = 10;
/// `everywhere`: the number of the user's sessions that each node serves from Redis.
const HANDFUL: u64 = 5;
/// `everywhere`: the interval at which the rows are read that a background task marks as ended.
const MARKING: Duration = Duration::from_millis(200);
/// `everywhere`: the deadline of that task.
const MARKED: Duration = Duration::from_secs(10 * 60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// SQL changes sessions at a constant rate, with checkpoints, and ends ten a second.
    Rate,
    /// One transaction changes very many sessions. A node starts behind a long journal.
    Backlog,
    /// All sessions of a user with very many are revoked.
    Everywhere,
    /// A transaction that has changed very many sessions stays open.
    Open,
}

impl Scenario {
    /// Returns its name on the command line.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub(crate) async fn run(self, backends: &Backends, plan: &Plan) -> Result<Section, Error> {
        let measured = async {
            match self {
                Self::Rate => rate(backends, plan).await,
                Self::Backlog => backlog(backends, plan).await,
                Self::Everywhere => everywhere(backends, plan).await,
                Self::Open => open(backends, plan).await,
            }
        };
        let runs = u32::try_from(plan.rates.len()).unwrap_or(u32::MAX);
        timeout(SLACK + plan.duration.saturating_mul(runs) * 2 + plan.open_for, measured).await?
    }
}

/// Starts nodes with their own caches, sessions to change, and sessions to end.
async fn start<'a>(
    backends: &'a Backends,
    plan: &'a Plan,
    rows: u64,
) -> Result<Deployment<'a>, Error> {
    progress(format_args!("creating {} sessions", grouped(rows)));
    let sessions = [(Kind::Changed, rows), (Kind::Ended, SUPPLY)];
    Deployment::start(backends, plan, Caches::OfTheirOwn, &sessions).await
}

/// Changes at a constant rate, with checkpoints, while sessions end.
async fn rate(backends: &Backends, plan: &Plan) -> Result<Section, Error> {
    let what = format!(
        "SQL changes another session each time for {} s, with a CHECKPOINT every {} s. Meanwhile \
         it ends {ENDED_PER_SECOND} sessions a second. The age is the time from the COMMIT's reply \
         until a node's first \"invalid\".",
        seconds(plan.duration),
        seconds(plan.checkpoint_every)
    );
    let head = ["changes/s due", "made", "rows a transaction", "checkpoints"];
    let mut section = Section::new(what, &head);
    for rate in &plan.rates {
        let deployment = start(backends, plan, plan.rows(*rate)).await?;
        let mut observer = Observer::default();
        observer.prepare(&deployment).await?;
        progress(format_args!("{rate} changes a second for {} s", seconds(plan.duration)));
        let mut writers = Vec::new();
        for _ in 0..WRITERS {
            writers.push(deployment.postgres().await?);
        }
        let checkpointer = deployment.postgres().await?;
        let begin = Instant::now();
        let changing = async {
            let writing = writers.into_iter().enumerate();
            let writing = writing.map(|(place, to)| write(to, place, plan, *rate, begin));
            let changes: u64 = try_join_all(writing).await?.into_iter().sum();
            Ok((changes, begin.elapsed()))
        };
        let work = async { try_join!(changing, checkpoint(checkpointer, plan, begin)) };
        let (((changes, took), checkpoints), observed) =
            observer.observe(&deployment, work).await?;
        let cells = [
            grouped(u64::from(*rate)),
            per_second(changes, took),
            grouped(u64::from(rate.div_ceil(TRANSACTIONS_PER_SECOND))),
            grouped(checkpoints),
        ];
        let bound = deployment.staleness_bound;
        section.add(&cells, &observed, bound, (Promise::EveryNode, bound));
        deployment.stop().await;
    }
    Ok(section)
}

/// Executes every transaction of one writer when it is due, whatever the duration of earlier ones
/// (an open loop). Transactions due after the end are omitted, so a Postgres that is too slow makes
/// fewer changes. Returns the number of changes.
async fn write(
    mut postgres: Postgres,
    place: usize,
    plan: &Plan,
    rate: u32,
    begin: Instant,
) -> Result<u64, Error> {
    let mut changes = 0;
    for (rows, due) in transactions(rate, plan.rows(rate)).skip(place).step_by(WRITERS) {
        sleep_until(begin + due).await;
        if begin.elapsed() > plan.duration {
            break;
        }
        changes += postgres.change(rows, "changed").await?;
    }
    sleep_until(begin + plan.duration).await;
    Ok(changes)
}

/// Returns the rows that each transaction changes, and when it is due after the beginning.
fn transactions(rate: u32, rows: u64) -> impl Iterator<Item = (Range<u64>, Duration)> {
    let each = u64::from(rate.div_ceil(TRANSACTIONS_PER_SECOND));
    (0..rows.div_ceil(each)).map(move |number| {
        let first = number * each;
        let due = Duration::from_secs(first) / rate;
        (first..rows.min(first + each), due)
    })
}

async fn checkpoint(mut postgres: Postgres, plan: &Plan, begin: Instant) -> Result<u64, Error> {
    let mut checkpoints = 0;
    let mut due = plan.checkpoint_every;
    while due < plan.duration {
        sleep_until(begin + due).await;
        postgres.run("CHECKPOINT").await?;
        checkpoints += 1;
        due += plan.checkpoint_every;
    }
    Ok(checkpoints)
}

/// Returns the rounded number of changes per second.
fn per_second(changes: u64, took: Duration) -> String {
    let millis = took.as_millis().max(1);
    let rate = (u128::from(changes) * 1_000 + millis / 2) / millis;
    grouped(u64::try_from(rate).unwrap_or(u64::MAX))
}

/// Very many changes at once, and a node that starts behind a long journal.
async fn backlog(backends: &Backends, plan: &Plan) -> Result<Section, Error> {
    let what = format!(
        "SQL changes {} sessions in one transaction, then {} in {BACKLOG_TRANSACTIONS}. Then \
         another node replaces the last one, and reads the whole journal. Meanwhile SQL ends \
         {ENDED_PER_SECOND} sessions a second.",
        grouped(plan.backlog_at_once),
        grouped(plan.backlog)
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
    let mut deployment = start(backends, plan, rows).await?;
    let mut observer = Observer::default();
    let mut postgres = deployment.postgres().await?;
    let bound = deployment.staleness_bound;

    let phases = [
        ("one transaction", plan.backlog_at_once, 1),
        ("several transactions", plan.backlog, BACKLOG_TRANSACTIONS),
    ];
    for (phase, rows, transactions) in phases {
        progress(format_args!("{} changes, {phase}", grouped(rows)));
        observer.prepare(&deployment).await?;
        let work = async {
            let begin = Instant::now();
            let mut changes = 0;
            for part in 0..transactions {
                let rows = rows * part / transactions..rows * (part + 1) / transactions;
                changes += postgres.change(rows, phase).await?;
            }
            let took = begin.elapsed();
            Ok((changes, took, deployment.caught_up(Instant::now()).await?))
        };
        let ((changes, took, caught_up), observed) = observer.observe(&deployment, work).await?;
        let cells = [
            phase.to_owned(),
            grouped(changes),
            seconds(took),
            grouped(postgres.journal_rows().await?),
            millis(caught_up),
            unknown(),
        ];
        section.add(&cells, &observed, bound, (Promise::EveryNode, bound));
    }

    progress("a node starts");
    observer.prepare(&deployment).await?;
    let journal = postgres.journal_rows().await?;
    deployment.replace_the_last_node().await?;
    let node = &deployment.nodes[NODES - 1];
    let work = async {
        let first_hit = node.first_hit().await?;
        sleep(plan.after_start).await;
        Ok(first_hit - node.started)
    };
    let (hits, observed) = observer.observe(&deployment, work).await?;
    let phase = "the last node starts".to_owned();
    let cells = [phase, unknown(), unknown(), grouped(journal), unknown(), millis(hits)];
    section.add(&cells, &observed, bound, (Promise::EveryNode, bound));
    deployment.stop().await;
    Ok(section)
}

/// A revoke-all for a user with very many sessions.
async fn everywhere(backends: &Backends, plan: &Plan) -> Result<Section, Error> {
    let what = format!(
        "Node 1 revokes all sessions of a user. Redis has entries of {} of them, of which each \
         node serves {HANDFUL}. The age is the time from the call until a node's first \
         \"invalid\". A validation lets a session in too late if it begins after the response \
         `Propagated`, or more than D after the response `Committed`.",
        HANDFUL * NODES as u64
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
        progress(format_args!("creating {} sessions", grouped(*crowd)));
        let sessions = [(Kind::Crowd, *crowd)];
        let deployment = Deployment::start(backends, plan, Caches::Shared, &sessions).await?;
        let handful = spread(HANDFUL * NODES as u64, *crowd);
        let tokens: Vec<_> = handful.map(|n| deployment.token(Kind::Crowd, n)).collect();
        wait_for_entries(&deployment, tokens.clone()).await?;
        let mut postgres = deployment.postgres().await?;
        let rows_before = postgres.journal_rows().await?;

        progress(format_args!("revoking {} sessions", grouped(*crowd)));
        let before = begin(&deployment)?;
        let (ended, bounds) = watch::channel(None);
        // Each node has its own sessions. A node that rejects a session removes its entry, which no
        // other node then serves.
        let watched = deployment.nodes.iter().enumerate().map(|(place, node)| {
            let tokens = tokens.iter().skip(place).step_by(NODES);
            let watch = |token: &String| {
                let invalid = node.watch(token.clone(), bounds.clone());
                Watched { token: token.clone(), cached: true, invalid }
            };
            tokens.map(watch).collect()
        });
        let watched = watched.collect();
        // With the same moment in every run, all runs would have the same phase within the
        // journal's interval.
        sleep(plan.ends(*crowd).next().unwrap_or_default()).await;
        let from = Instant::now();
        let revoked = deployment.nodes[0].sessions.revoke(RevokeTarget::user(CROWD)).await?;
        let within = within(revoked.visibility, deployment.staleness_bound)?;
        let replied = deployment.bounds(within);
        ended.send_replace(Some(replied));
        let marked = wait_until_marked(&mut postgres, replied.at).await?;
        let observed = gather(&deployment, vec![Ended { from, watched }], before).await?;
        let journal_rows = postgres.journal_rows().await?.saturating_sub(rows_before);
        let cells = [
            grouped(*crowd),
            millis(replied.at - from),
            described(revoked.visibility),
            grouped(revoked.value),
            grouped(journal_rows),
            marked.map_or_else(unknown, seconds),
        ];
        section.add(&cells, &observed, deployment.staleness_bound, (Promise::EveryNode, within));
        deployment.stop().await;
    }
    Ok(section)
}

/// Waits until all rows are marked as ended. Returns the time from the response to that, or `None`
/// after a timeout.
async fn wait_until_marked(
    postgres: &mut Postgres,
    replied: Instant,
) -> Result<Option<Duration>, Error> {
    while postgres.is_crowd_left().await? {
        if replied.elapsed() > MARKED {
            return Ok(None);
        }
        sleep(MARKING).await;
    }
    Ok(Some(replied.elapsed()))
}

/// Returns the numbers of some sessions of the crowd, evenly from its first to its last.
fn spread(some: u64, crowd: u64) -> impl Iterator<Item = u64> {
    (0..some).map(move |number| (crowd - 1) * number / (some - 1))
}

/// Returns the time after the response in which a session may be accepted.
fn within(visibility: Visibility, staleness_bound: Duration) -> Result<Duration, Error> {
    match visibility {
        Visibility::Propagated => Ok(Duration::ZERO),
        Visibility::Committed { within, .. } => Ok(within.min(staleness_bound)),
        other => Err(format!("the sessions were not revoked: the response is {other:?}").into()),
    }
}

fn described(visibility: Visibility) -> String {
    match visibility {
        Visibility::Committed { within, at_most } => {
            format!("Committed ({} s, {} s)", seconds(within), seconds(at_most))
        }
        other => format!("{other:?}"),
    }
}

/// A transaction that has changed very many sessions, and stays open.
async fn open(backends: &Backends, plan: &Plan) -> Result<Section, Error> {
    let what = format!(
        "A transaction has changed {} sessions and stays open for {} s. Meanwhile SQL ends \
         {ENDED_PER_SECOND} sessions a second, until all nodes have caught up after the COMMIT. A \
         node that has not read the journal for D is cut off, as documented. A session that is \
         let in too late breaks a promise only if the node was connected to Postgres.",
        grouped(plan.open_rows),
        seconds(plan.open_for)
    );
    let head = ["rows", "UPDATE took, s", "open for, s", "caught up after, ms"];
    let mut section = Section::new(what, &head);
    let deployment = start(backends, plan, plan.open_rows).await?;
    let mut observer = Observer::default();
    observer.prepare(&deployment).await?;

    progress("the transaction begins");
    let mut postgres = deployment.postgres().await?;
    postgres.run("BEGIN").await?;
    let begin = Instant::now();
    let rows = postgres.change(0..plan.open_rows, "open").await?;
    let took = begin.elapsed();
    progress(format_args!("it stays open for {} s", seconds(plan.open_for)));
    let work = async {
        sleep(plan.open_for).await;
        postgres.run("COMMIT").await?;
        deployment.caught_up(Instant::now()).await
    };
    let (caught_up, observed) = observer.observe(&deployment, work).await?;
    let cells = [grouped(rows), seconds(took), seconds(plan.open_for), millis(caught_up)];
    let bound = deployment.staleness_bound;
    section.add(&cells, &observed, bound, (Promise::NodesInTouch, bound));
    deployment.stop().await;
    Ok(section)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn every_row_is_changed_once_and_not_before_it_is_due() {
        for (rate, rows) in [(1, 1), (19, 19), (1_000, 60_000), (5_000, 15_000), (333, 166)] {
            let mut next = 0;
            for (range, due) in transactions(rate, rows) {
                assert_eq!(
                    (range.start, due),
                    (next, SECOND * u32::try_from(next).unwrap() / rate)
                );
                next = range.end;
            }
            assert_eq!(next, rows, "{rate}");
        }
        assert_eq!(transactions(1_000, 1_000).nth(2), Some((100..150, SECOND / 10)));
    }

    #[test]
    fn visibility_determines_the_bound() {
        let d = 2 * SECOND;
        let committed = Visibility::Committed { within: d, at_most: d * 100 };
        assert_eq!(within(Visibility::Propagated, d).unwrap(), Duration::ZERO);
        assert_eq!(within(committed, d).unwrap(), d);
        assert!(within(Visibility::Nothing, d).is_err());
        assert_eq!(described(committed), "Committed (2.0 s, 200.0 s)");
    }
}
