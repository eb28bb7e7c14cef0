//! The cost of reading the journal of changes, by number of nodes.

use std::{collections::HashMap, fmt, fs, time::Duration};

use futures_util::future::join_all;
use session_benches::Error;
use session_benches::validations::{Deployment, Load, cpu_time, cpu_time_of, joined, significant};
use session_layer::{Sessions, TokenDigest, cache::RedisCache, store::PostgresStore};
use session_testkit::wait;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::axis::number;
use crate::plot::{Line, Panel};

/// Sessions that change in turn.
const SESSIONS: u32 = 1_000;
/// Transactions with changes per second.
const TRANSACTIONS: u32 = 100;
/// The interval at which the age of each node's last read is sampled.
const SAMPLE: Duration = Duration::from_millis(20);
/// The deadline of every node's first read, and of its shutdown.
const SOON: Duration = Duration::from_secs(20);

/// The measurements by number of nodes. The first is of no node: the changes alone.
#[derive(Debug)]
pub(crate) struct Journal(Vec<Point>);

#[derive(Debug)]
struct Point {
    nodes: usize,
    /// CPU time of this process per second, in ms: the nodes, and the task that makes the changes.
    process: f64,
    /// CPU time of Postgres per second, in ms. `None` if its processes cannot be seen from here.
    postgres: Option<f64>,
    /// Reads per second.
    reads: f64,
    /// The highest age of a node's last read, in ms.
    age: f64,
}

/// Measures each number of nodes for a time.
pub(crate) async fn measure(
    nodes: &[usize],
    changes: u32,
    span: Duration,
) -> Result<Journal, Error> {
    let load = Load::new(SESSIONS, 200);
    let deployment = Deployment::start(&load).await?;
    let writer = write(&deployment, &load, changes).await?;
    let mut postgres = deployment.backends.postgres().connect().await?;
    let mut points = Vec::new();
    for count in [0].iter().chain(nodes) {
        eprintln!("journal: {count} nodes");
        let nodes: Vec<_> = (0..*count).map(|_| node(&deployment)).collect::<Result<_, _>>()?;
        let read = async || nodes.iter().all(|node| node.metrics().journal_age.is_some());
        wait::until("every node's first read of the journal", SOON, read).await?;
        points.push(observe(&nodes, &mut postgres, span).await?);
        join_all(nodes.iter().map(|node| node.shutdown(SOON))).await;
        if writer.is_finished() {
            writer.await??;
            return Err("the changes have ended early".into());
        }
    }
    writer.abort();
    deployment.stop().await?;
    Ok(Journal(points))
}

fn node(deployment: &Deployment) -> Result<Sessions, Error> {
    let sandbox = &deployment.sandbox;
    let cache = RedisCache::builder(sandbox.redis_url()).namespace(sandbox.namespace());
    let store = PostgresStore::builder(sandbox.database_url()).schema(sandbox.schema());
    Ok(Sessions::builder(cache.pool_size(1).build()?, store.max_connections(2).build()?).build()?)
}

/// Changes sessions by SQL at a fixed rate, until the task is aborted.
async fn write(
    deployment: &Deployment,
    load: &Load,
    changes: u32,
) -> Result<JoinHandle<Result<(), Error>>, Error> {
    let mut connection = deployment.backends.postgres().connect().await?;
    let schema = deployment.sandbox.schema();
    let update = format!("UPDATE {schema}.sessions SET label = $1 WHERE token_digest = ANY($2)");
    let digests: Vec<_> =
        load.tokens.iter().map(|token| TokenDigest::of(token).as_bytes().to_vec()).collect();
    let each = usize::try_from(changes.div_ceil(TRANSACTIONS))?.clamp(1, digests.len());
    Ok(tokio::spawn(async move {
        let mut turn = interval(Duration::from_secs(1) / TRANSACTIONS);
        turn.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for (number, digests) in digests.chunks(each).cycle().enumerate() {
            turn.tick().await;
            let update = sqlx::query(AssertSqlSafe(update.as_str()));
            update.bind(number.to_string()).bind(digests).execute(&mut connection).await?;
        }
        Ok(())
    }))
}

async fn observe(
    nodes: &[Sessions],
    postgres: &mut PgConnection,
    span: Duration,
) -> Result<Point, Error> {
    let reads = || nodes.iter().map(|node| node.metrics().journal_reads).sum::<u64>();
    let (backends, process, read) = (backends(postgres).await?, cpu_time()?, reads());
    let (began, mut turn, mut age) = (Instant::now(), interval(SAMPLE), Duration::ZERO);
    while began.elapsed() < span {
        turn.tick().await;
        let ages = nodes.iter().filter_map(|node| node.metrics().journal_age);
        age = ages.fold(age, Duration::max);
    }
    let seconds = began.elapsed().as_secs_f64();
    let per_second = |cpu: Duration| cpu.as_secs_f64() * 1e3 / seconds;
    let process = per_second(cpu_time()?.saturating_sub(process));
    let used = self::backends(postgres)
        .await?
        .into_iter()
        .map(|(pid, used)| used.saturating_sub(backends.get(&pid).copied().unwrap_or_default()));
    let used: Vec<_> = used.collect();
    Ok(Point {
        nodes: nodes.len(),
        process,
        postgres: (!used.is_empty()).then(|| per_second(used.into_iter().sum())),
        reads: f64::from(u32::try_from(reads() - read)?) / seconds,
        age: age.as_secs_f64() * 1e3,
    })
}

/// Returns the CPU time of each process of Postgres on this machine.
async fn backends(postgres: &mut PgConnection) -> Result<HashMap<i32, Duration>, Error> {
    let pids = sqlx::query_scalar::<_, i32>("SELECT pid FROM pg_stat_activity");
    let pids = pids.fetch_all(postgres).await?.into_iter();
    // Another machine's or container's process id may be that of another program here.
    let is_postgres = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "postgres")
    };
    // A process may end before it is read.
    Ok(pids
        .filter(is_postgres)
        .filter_map(|pid| Some((pid, cpu_time_of(&pid.to_string()).ok()?)))
        .collect())
}

impl Journal {
    /// Returns the CPU time of one node per second, in ms.
    fn per_node(&self, point: &Point) -> Option<f64> {
        let alone = self.0.iter().find(|point| point.nodes == 0)?.process;
        (point.nodes > 0).then(|| (point.process - alone).max(0.0) / number(point.nodes))
    }

    pub(crate) fn panel(&self) -> Panel {
        let line = |name, value: &dyn Fn(&Point) -> Option<f64>| Line {
            name,
            points: (self.0.iter().filter(|point| point.nodes > 0))
                .filter_map(|point| Some((number(point.nodes), value(point)?)))
                .collect(),
        };
        Panel {
            x: "nodes",
            y: "ms",
            lines: vec![
                line("CPU of one node, per second", &|point| self.per_node(point)),
                line("CPU of Postgres, per second", &|point| point.postgres),
                line("highest age of a read", &|point| Some(point.age)),
            ],
        }
    }
}

impl fmt::Display for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = joined(self.0.iter().map(|point| point.nodes.to_string()));
        writeln!(f, "| | at {nodes} nodes |\n|---|---|")?;
        let mut row = |name, value: &dyn Fn(&Point) -> Option<f64>| {
            let cell = |point| value(point).map_or_else(|| "–".to_owned(), significant);
            writeln!(f, "| {name} | {} |", joined(self.0.iter().map(cell)))
        };
        row("CPU of one node, ms/s", &|point| self.per_node(point))?;
        row("CPU of Postgres, ms/s", &|point| point.postgres)?;
        row("reads of the journal per second", &|point| Some(point.reads))?;
        row("highest age of a node's last read, ms", &|point| {
            (point.nodes > 0).then_some(point.age)
        })
    }
}
