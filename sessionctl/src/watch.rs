//! `sessionctl watch`: the health of nodes over time.

mod board;
mod draw;
mod node;
mod screen;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use session_tools::{COULD_NOT_RUN, Ended, exit_code, output, values::duration};

use self::board::{Board, Reading};
use self::node::{Address, Node};

/// The shortest interval. Each reading makes a node probe both servers.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3_600);

/// Shows the health of nodes: hit rate, latency, errors, breaker, journal, pool.
///
/// It reads the health documents that the nodes serve. On a terminal it draws a dashboard, and
/// otherwise prints a line per node and interval. Keys: Up and Down select a node, b switches it to
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

    /// The address of a node's switch, whose path is /mode: http://HOST:PORT. Repeat it in the
    /// order of the nodes.
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

    /// Read each node once, print, and exit.
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
async fn read(nodes: &[Node]) -> Vec<Reading> {
    join_all(nodes.iter().map(Node::read)).await
}

async fn once(nodes: &[Node], json: bool) -> Ended {
    let readings = read(nodes).await;
    let ok = readings.iter().all(Reading::is_serving);
    if json {
        let nodes = nodes.iter().zip(&readings).map(|(node, reading)| {
            let (document, error) = match reading {
                Reading::Document(document) => (document.clone(), None),
                Reading::Failed(error) => (Value::Null, Some(error)),
            };
            json!({ "node": node.health.to_string(), "health": document, "error": error })
        });
        let nodes: Vec<Value> = nodes.collect();
        output::document(&json!({ "ok": ok, "nodes": nodes }))?;
    } else {
        let mut board = Board::new(nodes);
        board.add(readings);
        for line in board.lines() {
            output::say(line);
        }
    }
    Ok(exit_code(ok))
}
