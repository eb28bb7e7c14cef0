//! `sessionctl watch`: the health of nodes over time.

mod board;
mod draw;
mod exposition;
mod histogram;
mod latency;
mod node;
mod screen;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use session_tools::{COULD_NOT_RUN, Ended, exit_code, output, values::duration};

use self::board::{Board, Reading, Watched};
use self::latency::Latency;
use self::node::{Address, Node, Scraped};

/// The shortest interval. Each reading makes a node probe both servers.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3_600);

/// Shows the health of nodes: hit rate, latency, errors, breaker, journal, pool.
///
/// It reads the health documents that the nodes serve, and with --admin their metrics: p50, p99 and
/// rate of validations by near cache, Redis and Postgres. On a terminal it draws a dashboard, and
/// otherwise prints a line per node and interval. Keys: Up and Down select a node, b switches it to
/// bypass or back (with --admin), q quits. With --once, exit code 0: all nodes are healthy or
/// degraded. 1: a node is unhealthy or does not respond. 2: could not run.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sessionctl watch --node http://127.0.0.1:3000/api/health/redis --admin http://127.0.0.1:3001
  sessionctl watch --node http://10.0.0.1:3000/health --node http://10.0.0.2:3000/health
  sessionctl watch --node http://10.0.0.1:3000/health --admin http://10.0.0.1:3001 --once --json")]
pub(crate) struct Arguments {
    /// The address of a node's health document: http://HOST:PORT/PATH. Repeat it for each node.
    #[arg(long = "node", required = true, value_name = "URL")]
    nodes: Vec<Address>,

    /// The address at which a node serves its switch (/mode) and its metrics (/metrics):
    /// http://HOST:PORT. Repeat it in the order of the nodes.
    #[arg(long = "admin", value_name = "URL")]
    admins: Vec<Address>,

    /// The time between two readings. With --once, that between two scrapes of the metrics.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1s",
        value_parser = duration(SHORTEST, LONGEST)
    )]
    every: Duration,

    /// Read each node once, print, and exit. Metrics are scraped twice, --every apart.
    #[arg(long)]
    once: bool,

    /// Print one JSON document on standard output.
    #[arg(long, requires = "once")]
    json: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Ended {
    if arguments.admins.len() > arguments.nodes.len() {
        eprintln!("sessionctl: there are more addresses of --admin than of --node");
        return Ok(ExitCode::from(COULD_NOT_RUN));
    }
    let mut admins = arguments.admins.into_iter();
    let nodes = arguments.nodes.into_iter();
    let nodes: Vec<Node> = nodes.map(|health| Node { health, admin: admins.next() }).collect();
    if arguments.once {
        return once(&nodes, arguments.every, arguments.json).await;
    }
    if io::stdout().is_terminal() {
        screen::show(nodes, arguments.every).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut board = Board::new(&nodes);
    let mut ticks = tokio::time::interval(arguments.every);
    loop {
        ticks.tick().await;
        let (readings, scrapes) = join(read(&nodes), scrape(&nodes)).await;
        board.add(readings);
        board.measure(scrapes);
        for line in board.lines() {
            // The reader has left, as `head` does.
            if writeln!(io::stdout(), "{line}").is_err() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

/// Reads all nodes at once.
async fn read(nodes: &[Node]) -> Vec<Reading> {
    join_all(nodes.iter().map(Node::read)).await
}

/// Scrapes the metrics of all nodes at once.
async fn scrape(nodes: &[Node]) -> Vec<Scraped> {
    join_all(nodes.iter().map(Node::scrape)).await
}

/// Reads each node once. Nodes with metrics are scraped twice, because a rate needs an interval.
async fn once(nodes: &[Node], every: Duration, json: bool) -> Ended {
    let mut board = Board::new(nodes);
    board.measure(scrape(nodes).await);
    if board.nodes.iter().any(|node| node.latency.is_some()) {
        tokio::time::sleep(every).await;
        board.measure(scrape(nodes).await);
    }
    let readings = read(nodes).await;
    let ok = readings.iter().all(Reading::is_serving);
    if json {
        let watched = board.nodes.iter().zip(readings);
        let nodes = nodes.iter().zip(watched);
        let nodes: Vec<Value> =
            nodes.map(|(node, (watched, reading))| document(node, watched, reading)).collect();
        output::document(&json!({ "ok": ok, "nodes": nodes }))?;
    } else {
        board.add(readings);
        for line in board.lines() {
            output::say(line);
        }
    }
    Ok(exit_code(ok))
}

/// Returns what was read of a node as JSON.
fn document(node: &Node, watched: &Watched, reading: Reading) -> Value {
    let (health, error) = match reading {
        Reading::Document(document) => (document, None),
        Reading::Failed(error) => (Value::Null, Some(error)),
    };
    json!({
        "node": node.health.to_string(),
        "health": health,
        "error": error,
        "latency": watched.latency.as_ref().map(Latency::json),
        "latencyError": watched.scrape_error,
    })
}
