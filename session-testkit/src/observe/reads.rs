//! R10: the reads of Postgres in flight.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::{
    backends::PostgresServer,
    history::{Entry, InFlight},
    subject::{SessionLayerSubject, Subject as _},
    workload::Recorder,
};

const INTERVAL: Duration = Duration::from_millis(100);
const DEADLINE: Duration = Duration::from_millis(500);

/// Counts the reads of validations, by the application name of each node's connections. Only these
/// queries begin so. A change's look-ups and the journal use connections outside the bulkhead.
const ACTIVE: &str = "SELECT application_name, count(*) FROM pg_stat_activity \
    WHERE application_name = ANY($1) AND state = 'active' AND query LIKE 'SELECT f.*, d.n, %' \
    AND clock_timestamp() - query_start < $2 * interval '1 ms' \
    GROUP BY application_name";

/// Queries Postgres 10 times per second for each node's active reads and records them, until
/// dropped. It records nothing while Postgres is unreachable.
///
/// It counts reads younger than `deadline`, the deadline of a read. An older one has timed out on
/// its node, but Postgres has not noticed yet. A paused Postgres continues with such reads when it
/// resumes. More reads than the bulkhead may then be active for a moment. A
/// [`FaultRun`](crate::fault_run::FaultRun) therefore judges by the nodes' own gauge
/// ([`watch_bulkheads`]). Reads in a node's own queue do not count.
pub async fn watch_reads(
    server: PostgresServer,
    names: Vec<String>,
    deadline: Duration,
    recorder: Recorder,
) {
    let deadline = i64::try_from(deadline.as_millis()).unwrap_or(i64::MAX);
    let mut ticks = interval(INTERVAL);
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
        let query = sqlx::query_as::<_, (String, i64)>(ACTIVE).bind(&names).bind(deadline);
        match timeout(DEADLINE, query.fetch_all(open)).await {
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

/// Records the nodes' own gauge 10 times per second, until dropped. The gauge is each node's peak
/// of concurrent reads so far, and therefore misses nothing between two samples.
pub async fn watch_bulkheads(subject: SessionLayerSubject, recorder: Recorder) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let at = recorder.clock().now();
        for node in 0..subject.nodes() {
            if let Some(sessions) = subject.node(node) {
                let reads = sessions.metrics().peak_reads_in_flight;
                recorder.record(Entry::InFlight(InFlight { at, node, reads }));
            }
        }
    }
}
