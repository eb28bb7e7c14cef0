//! `sessionctl watch`: the health of nodes over time.

mod board;
mod draw;
mod latency;
mod node;
mod screen;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use session_tools::{COULD_NOT_RUN, Ended, exit_code, output, values::duration};

use self::board::{Board, Reading, Sample};
use self::latency::{Latency, SOURCES};
use self::node::{Address, Node};

/// The shortest interval. Each reading makes a node probe both servers.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3_600);

/// Shows the health of nodes: hit rate, latency, errors, breaker, journal, pool.
///
/// It reads the health documents that the nodes serve, and with --admin their metrics, for the
/// latency by source. On a terminal it draws a dashboard, and otherwise prints a line per node and
/// interval. Keys: Up and Down select a node, b switches it to
/// bypass or back (with --admin), q quits. With --once, exit code 0: all nodes are healthy or
/// degraded. 1: a node is unhealthy or does not respond. 2: could not run.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sessionctl watch --node http://127.0.0.1:3000/api/health/redis --admin http://127.0.0.1:3001
  sessionctl watch --node http://10.0.0.1:3000/health --node http://10.0.0.2:3000/health
  sessionctl watch --node http://127.0.0.1:3000/api/health/redis --once --json")]
pub(crate) struct Arguments {
    /// The address of a node's health document: http://HOST:PORT/PATH. Repeat it for each node.
    #[arg(long = "node", required = true, value_name = "URL")]
    nodes: Vec<Address>,

    /// The address of a node's switch and metrics, whose paths are /mode and /metrics:
    /// http://HOST:PORT. Repeat it in the order of the nodes.
    #[arg(long = "admin", value_name = "URL")]
    admins: Vec<Address>,

    /// The time between two readings.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1s",
        value_parser = duration(SHORTEST, LONGEST)
    )]
    every: Duration,

    /// Read each node once, print, and exit. Latencies are those since the node started.
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
        return once(&nodes, arguments.json).await;
    }
    if io::stdout().is_terminal() {
        screen::show(nodes, arguments.every).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut board = Board::new(&nodes);
    let mut ticks = tokio::time::interval(arguments.every);
    loop {
        ticks.tick().await;
        board.add(read(&nodes).await);
        for line in board.lines() {
            // The reader has left, as `head` does.
            if writeln!(io::stdout(), "{line}").is_err() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

/// Reads all nodes at once.
async fn read(nodes: &[Node]) -> Vec<Sample> {
    join_all(nodes.iter().map(async |node| {
        let (health, metrics) = tokio::join!(node.read(), node.scrape());
        Sample { health, metrics, at: Instant::now() }
    }))
    .await
}

/// Returns the latencies of the sources as a part of a JSON document.
fn latency_document(latencies: [Latency; SOURCES.len()]) -> Value {
    let rounded = |ms: Option<f64>| ms.map(|ms| (ms * 1e3).round() / 1e3);
    let sources = SOURCES.iter().zip(latencies).map(|((source, _), latency)| {
        let latency = json!({
            "validations": latency.validations,
            "p50Ms": rounded(latency.p50),
            "p99Ms": rounded(latency.p99),
        });
        ((*source).to_owned(), latency)
    });
    Value::Object(sources.collect())
}

async fn once(nodes: &[Node], json: bool) -> Ended {
    let samples = read(nodes).await;
    let ok = samples.iter().all(|sample| sample.health.is_serving());
    if json {
        let nodes = nodes.iter().zip(&samples).map(|(node, sample)| {
            let (document, error) = match &sample.health {
                Reading::Document(document) => (document.clone(), None),
                Reading::Failed(error) => (Value::Null, Some(error)),
            };
            let latency = sample.metrics.as_ref().map(|now| latency_document(now.since(None)));
            json!({
                "node": node.health.to_string(), "health": document, "error": error,
                "latency": latency,
            })
        });
        let nodes: Vec<Value> = nodes.collect();
        output::document(&json!({ "ok": ok, "nodes": nodes }))?;
    } else {
        let mut board = Board::new(nodes);
        board.add(samples);
        for line in board.lines() {
            output::say(line);
        }
    }
    Ok(exit_code(ok))
}
