//! `sessionctl check`

use std::process::ExitCode;

use session_tools::{
    COULD_NOT_RUN, Ended,
    check::{Target, check},
    exit_code, output,
};

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
    /// The Redis to check.
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_name = "URL")]
    redis_url: Option<String>,

    /// The Postgres to check.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,

    /// The prefix of the application's keys.
    #[arg(
        long,
        env = "SESSION_CACHE_NAMESPACE",
        default_value = "session-layer",
        value_name = "NAME"
    )]
    namespace: String,

    /// The Postgres schema of session-layer's tables.
    #[arg(long, env = "SESSION_DB_SCHEMA", default_value = "session_layer", value_name = "NAME")]
    schema: String,

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
    let set =
        |url: Option<&String>| url.map(|url| url.trim().to_owned()).filter(|url| !url.is_empty());
    let (redis_url, database_url) =
        (set(arguments.redis_url.as_ref()), set(arguments.database_url.as_ref()));
    // An application in this environment uses the same servers if no flag names another.
    let same = |url: &Option<String>, name| *url == set(std::env::var(name).ok().as_ref());
    let cache_off =
        std::env::var("SESSION_CACHE_ENABLED").is_ok_and(|on| ["false", "0"].contains(&on.trim()));
    let mut target = Target::new(redis_url.as_deref(), database_url.as_deref());
    arguments.namespace.trim().clone_into(&mut target.namespace);
    arguments.schema.trim().clone_into(&mut target.schema);
    target.pool_size = arguments.pool_size;
    target.from_env = true;
    target.complete =
        same(&redis_url, "REDIS_URL") && same(&database_url, "DATABASE_URL") && !cache_off;
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
