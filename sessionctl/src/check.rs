//! `sessionctl check`

use std::process::ExitCode;

use session_tools::{
    COULD_NOT_RUN, Ended,
    check::{Target, check},
    exit_code, output,
};

use crate::servers::{Servers, cache_is_off};

/// Checks whether Redis and Postgres respond and grant the rights that the application needs.
///
/// Changes only one key, which is its own. Exit code 0: all steps passed. 1: a step failed. 2: no
/// server was named.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sessionctl check
  sessionctl check --redis-url redis://127.0.0.1:6379 --json")]
pub(crate) struct Arguments {
    #[command(flatten)]
    servers: Servers,

    /// The prefix of the application's keys.
    #[arg(
        long,
        env = "SESSION_CACHE_NAMESPACE",
        default_value = "session-layer",
        value_name = "NAME"
    )]
    namespace: String,

    /// The number of Redis connections that the application opens.
    #[arg(
        long,
        env = "SESSION_CACHE_POOL_SIZE",
        default_value_t = 10,
        value_name = "N",
        value_parser = pool_size
    )]
    pool_size: u16,

    /// Print one JSON document on standard output, and the steps on standard error.
    #[arg(long)]
    json: bool,
}

/// Reads a number of connections, in the range that the application allows.
fn pool_size(text: &str) -> Result<u16, &'static str> {
    let number = text.trim().parse().ok();
    number.filter(|number| (1..=1000).contains(number)).ok_or("it may be 1 to 1000")
}

pub(crate) async fn run(arguments: Arguments) -> Ended {
    let servers = &arguments.servers;
    let (redis_url, database_url) = (servers.redis_url(), servers.database_url());
    // An application in this environment uses the same servers if no flag names another.
    let same = |url: Option<&str>, name| {
        url.unwrap_or_default() == std::env::var(name).unwrap_or_default().trim()
    };
    let mut target = Target::new(redis_url, database_url);
    arguments.namespace.trim().clone_into(&mut target.namespace);
    servers.schema().clone_into(&mut target.schema);
    target.pool_size = arguments.pool_size;
    target.from_env = true;
    target.complete =
        same(redis_url, "REDIS_URL") && same(database_url, "DATABASE_URL") && !cache_is_off();
    if target.is_empty() {
        eprintln!(
            "sessionctl: nothing to check. Neither REDIS_URL nor DATABASE_URL is set, \
             therefore the application uses its SQLite file and in-process cache. Name servers \
             with --redis-url and --database-url"
        );
        return Ok(ExitCode::from(COULD_NOT_RUN));
    }
    let report = check(&target, |line| output::tell(arguments.json, line)).await;
    if arguments.json {
        output::document(&report)?;
    }
    Ok(exit_code(report.ok))
}
