//! R10: reads of Postgres in flight.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::{
    backends::PostgresServer,
    history::{Entry, InFlight},
    subject::{SessionLayerSubject, Subject as _},
    workload::Recorder,
};

const EVERY: Duration = Duration::from_millis(100);
const ANSWER: Duration = Duration::from_millis(500);

/// The validations' reads at work, by the name that each node's connections have. They alone begin so; what a change
/// looks up before, and the journal, have connections beside the bulkhead's.
const ACTIVE: &str = "SELECT application_name, count(*) FROM pg_stat_activity \
    WHERE application_name = ANY($1) AND state = 'active' AND query LIKE 'SELECT f.*, d.n, %' \
    AND clock_timestamp() - query_start < $2 * interval '1 ms' \
    GROUP BY application_name";

/// Asks Postgres, 10 times in each second, how many reads each node has at work there, and records it, until
/// dropped. While Postgres can't be asked nothing is recorded.
///
/// Counted are those younger than `deadline`, a read's: an older one was given up by its node, and Postgres has not
/// come to it yet. One that was stopped begins, when it wakes up, with what was given up meanwhile, and more than the
/// bulkhead may be seen for a moment; the nodes' own gauge ([`watch_bulkheads`]) is what a
/// [`Trial`](crate::trial::Trial) judges by. What waits in a node's own queue does not count.
pub async fn watch_reads(
    server: PostgresServer,
    names: Vec<String>,
    deadline: Duration,
    recorder: Recorder,
) {
    let deadline = i64::try_from(deadline.as_millis()).unwrap_or(i64::MAX);
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut connection: Option<PgConnection> = None;
    loop {
        ticks.tick().await;
        if connection.is_none() {
            connection = server.connect().await.ok();
        }
        let Some(open) = &mut connection else {
            continue;
        };
        let asked = sqlx::query_as::<_, (String, i64)>(ACTIVE)
            .bind(&names)
            .bind(deadline);
        match timeout(ANSWER, asked.fetch_all(open)).await {
            Ok(Ok(counts)) => {
                let at = recorder.clock().now();
                for (name, node) in names.iter().zip(0..) {
                    let of_node = counts.iter().find(|(of, _)| of == name);
                    let reads = of_node.map_or(0, |(_, count)| u64::try_from(*count).unwrap_or(0));
                    recorder.record(Entry::InFlight(InFlight { at, node, reads }));
                }
            }
            _ => connection = None,
        }
    }
}

/// Looks, 10 times in each second, at the nodes' own gauge, and records it, until dropped: the most reads that
/// each had in flight at once so far. It misses nothing between two looks.
pub async fn watch_bulkheads(subject: SessionLayerSubject, recorder: Recorder) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let at = recorder.clock().now();
        for node in 0..subject.nodes() {
            if let Some(sessions) = subject.node(node) {
                let reads = sessions.metrics().most_reads_in_flight;
                recorder.record(Entry::InFlight(InFlight { at, node, reads }));
            }
        }
    }
}
