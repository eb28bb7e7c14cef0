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
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pool_size: u16,

    /// Print one JSON document on standard output, and the steps on standard error.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Ended {
    // An empty variable counts as not set.
    let set = |url: &Option<String>| url.clone().filter(|url| !url.trim().is_empty());
    let or = |value: String, default: &str| {
        if value.is_empty() { default.to_owned() } else { value }
    };
    // An application in this environment uses the same servers if no flag names another.
    let same = |url: &Option<String>, variable| *url == std::env::var(variable).ok();
    let cache_off =
        std::env::var("SESSION_CACHE_ENABLED").is_ok_and(|on| on == "false" || on == "0");
    let (redis_url, database_url) = (set(&arguments.redis_url), set(&arguments.database_url));
    let mut target = Target::new(redis_url.as_deref(), database_url.as_deref());
    target.namespace = or(arguments.namespace, "session-layer");
    target.schema = or(arguments.schema, "session_layer");
    target.pool_size = arguments.pool_size;
    target.from_env = true;
    target.complete = same(&arguments.redis_url, "REDIS_URL")
        && same(&arguments.database_url, "DATABASE_URL")
        && !cache_off;
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
