//! `session-testkit faults`

mod junit;
mod output;
mod picture;
mod planned;
mod reached;
mod replay;
mod reports;
mod summary;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use serde_json::json;
use session_layer::PartitionPolicy;

use self::{
    output::{RunOutput, check_folder, numbered_file, write_history},
    planned::{PlannedRun, planned_runs},
    reports::Reports,
};
use super::{
    COULD_NOT_RUN, Ended, Failure,
    output::say,
    progress::Bar,
    servers::Servers,
    values::{DAY, SECOND, count, duration, share},
};
use crate::{
    backends::{Backend, Backends, chain},
    deployment::Deployment,
    fault_run::{FaultRun, Judged},
    invariants::Outcome,
    observe::Logs,
    schedule::{Event, Means, Requested, Schedule},
    wall_clock,
    workload::{Recorder, Settings},
};

const MS: Duration = Duration::from_millis(1);

/// Drives load through nodes of session-layer, breaks their servers, and judges each promise.
///
/// Each `--fault` has a run of its own. Without `--fault` and `--schedule`, the schedule is drawn
/// from the seed. Several runs end with a table of all runs. The verdict follows after the load,
/// one TTL and one lease later, when the last entry in Redis must have expired.
///
/// The budget for 503 responses while Postgres was reachable is 0, and they are counted. If they
/// exceed 1 % of the responses, the fallback does not work and the run counts as broken.
///
/// Exit code 0: every promise held. 1: a promise was broken. 2: could not run, or the run proves
/// too little. It proves too little if under 95 % of the due requests were sent, or if a fault
/// affected nothing. The same applies if one of several runs could not run, because its servers did
/// not start. The others run all the same. The same applies if too few revoked tokens were sent
/// within D of their revoke. The minimum is one per sixty requests: 1,000 at 2,000 requests/s for
/// 30 s.
///
/// In a job of GitHub, the step's summary gets the table of the runs and the violations
/// (`GITHUB_STEP_SUMMARY`).
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  session-testkit faults --fault redis-kill
  session-testkit faults --seed 7 --rate 500 --duration 60s --json --history run.jsonl
  session-testkit faults --seed 1 --runs 24 --duration 60s
  session-testkit faults --fault redis-link-partition@3+10/0,2 postgres-kill@5+5 --duration 20s
  session-testkit faults --fault redis-kill postgres-kill --html runs.html --junit runs.xml
  session-testkit faults replay run.jsonl --html run.html")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Subcommand>,

    #[command(flatten)]
    servers: Servers,

    /// The seed of the load, of a drawn schedule and of lost commands. The same seed replays a run.
    /// Defaults to a random seed, which is printed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Requests due per second, regardless of earlier responses.
    #[arg(long, default_value_t = 2_000, value_name = "N", value_parser = count(1_000_000))]
    rate: u32,

    /// The duration of the load.
    #[arg(
        long,
        default_value = "30s",
        value_name = "DURATION",
        value_parser = duration(SECOND, DAY)
    )]
    duration: Duration,

    /// The number of nodes.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = count(64))]
    nodes: u32,

    /// The faults to inject, one run each: `NAME`, `NAME@AT+LASTS` or `NAME@AT+LASTS/NODE,NODE`.
    ///
    /// AT and LASTS are seconds, such as 3 or 2.5. AT counts from the start of the load. NODE is
    /// the number of a node, from 0. Without a time, the fault begins after a fifth of the run and
    /// lasts two fifths. `--list` prints the names. plant-flipped needs `--sealed`.
    /// postgres-idle-drop affects connections that are idle for 11 s: let it last 20 s, at a low
    /// `--rate`, or none is idle for so long.
    /// postgres-failover and certificate-expire need native servers. redis-disconnect and
    /// postgres-disconnect need containers. clock-step needs libfaketime, and the command restarts
    /// itself under it.
    #[arg(long, num_args = 1.., value_name = "FAULT")]
    fault: Vec<Requested>,

    /// A JSON file with the faults of one run:
    /// `{"steps":[{"event":NAME,"at_ms":AT,"lasts_ms":LASTS,"nodes":[NODE]}]}`.
    ///
    /// Each step is a NAME@AT+LASTS/NODE,NODE in milliseconds. `nodes` is optional.
    #[arg(long, value_name = "FILE", conflicts_with = "fault")]
    schedule: Option<PathBuf>,

    /// The number of runs with drawn schedules. Each run has the next higher seed.
    #[arg(
        long,
        default_value_t = 1,
        value_name = "N",
        conflicts_with_all = ["fault", "schedule"],
        value_parser = count(10_000)
    )]
    runs: u32,

    /// Print the names of all faults and exit.
    #[arg(long)]
    list: bool,

    /// The TTL of an entry, at most 300s. The run waits that long at its end.
    #[arg(
        long,
        default_value = "5s",
        value_name = "DURATION",
        value_parser = duration(SECOND, SECOND * 300)
    )]
    cache_ttl: Duration,

    /// The policy of a node without Postgres: `available` serves entries until their TTL,
    /// `fail-closed` responds with 503.
    #[arg(long, default_value = "available", value_name = "POLICY", value_parser = policy)]
    policy: PartitionPolicy,

    /// The size of each node's near cache in MiB, or 0 for none.
    #[arg(
        long,
        default_value_t = 0,
        value_name = "MIB",
        value_parser = clap::value_parser!(u32).range(0..=1024)
    )]
    near_cache: u32,

    /// Give the nodes a sealing key, which encrypts the entries in Redis.
    #[arg(long)]
    sealed: bool,

    /// The share of sessions with an idle timeout of 40 s, which write touches to Postgres.
    #[arg(long, default_value = "0.25", value_name = "SHARE", value_parser = share)]
    idle_share: u32,

    /// The share of requests that their client cancels before the response.
    #[arg(long, default_value = "0.02", value_name = "SHARE", value_parser = share)]
    cancelled_share: u32,

    /// The timeout of an operation of Redis.
    #[arg(long, default_value = "50ms", value_name = "DURATION", value_parser = duration(MS, DAY))]
    redis_timeout: Duration,

    /// The timeout of a validation.
    #[arg(long, default_value = "250ms", value_name = "DURATION", value_parser = duration(MS, DAY))]
    request_timeout: Duration,

    /// The measuring error of a busy machine, which is added to `--request-timeout`.
    #[arg(
        long,
        default_value = "250ms",
        value_name = "DURATION",
        value_parser = duration(Duration::ZERO, DAY)
    )]
    timing_slack: Duration,

    /// Print one JSON document on standard output, and the rest on standard error.
    #[arg(long)]
    json: bool,

    /// Write the history as JSON lines. Each of several runs has its own file, with the number and
    /// the name of the run in the file name.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,

    /// Write the printed report to a file too.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Write a page with the nodes, the faults and the load over time, and with the operations that
    /// prove a violation. Several runs have a page each, and this file links to them.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Write the verdicts as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,

    /// Write what was under way when each fault began, for `faults reached`.
    #[arg(long, value_name = "FILE")]
    reached: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Subcommand {
    Reached(reached::Arguments),
    Replay(replay::Arguments),
}

/// The reason why there is no verdict.
#[derive(Debug, thiserror::Error)]
enum FaultsError {
    #[error(
        "{0} does damage, and the server was named, not started. Allow it with --destructive, or \
         name no servers"
    )]
    Destructive(Event),
    #[error("could not {doing} {}", path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: Failure,
    },
}

impl FaultsError {
    /// Converts the error of a file, for `map_err`.
    fn file<E: Into<Failure>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::File { doing, path: path.to_owned(), source: source.into() }
    }
}

pub(super) async fn run(arguments: Arguments, logs: Logs) -> Ended {
    let outcome = match &arguments.command {
        Some(Subcommand::Reached(reached)) => reached.run()?,
        Some(Subcommand::Replay(replay)) => replay.run()?,
        None if arguments.list => {
            Event::all().for_each(say);
            return Ok(ExitCode::SUCCESS);
        }
        None => run_all(&arguments, &logs).await?,
    };
    Ok(exit_code(outcome))
}

fn exit_code(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Holds => ExitCode::SUCCESS,
        Outcome::Broken => ExitCode::from(1),
        Outcome::Inconclusive => ExitCode::from(COULD_NOT_RUN),
    }
}

/// Returns the worst outcome of several runs.
fn worst(outcomes: impl IntoIterator<Item = Outcome>) -> Outcome {
    let rank = |outcome: &Outcome| match outcome {
        Outcome::Holds => 0,
        Outcome::Inconclusive => 1,
        Outcome::Broken => 2,
    };
    let worst = outcomes.into_iter().max_by_key(rank);
    worst.unwrap_or(Outcome::Inconclusive)
}

async fn run_all(arguments: &Arguments, logs: &Logs) -> Result<Outcome, Failure> {
    let seed = arguments.seed.unwrap_or_else(Settings::fresh_seed);
    let planned = planned_runs(arguments, seed)?;
    if planned.iter().any(PlannedRun::steps_the_clock) && !wall_clock::is_steppable() {
        let Err(error) = wall_clock::start_anew();
        return Err(error.into());
    }
    if let Some(path) = &arguments.history {
        check_folder(path)?;
    }
    let mut output = RunOutput::new(arguments)?;
    output.say(&format!("seed {seed}"))?;
    let several = planned.len() > 1;
    let (mut runs, mut outcomes) = (Vec::new(), Vec::new());
    let mut reports = Reports::new(arguments, seed, planned.len())?;
    for (number, run) in (1..).zip(planned) {
        let (name, seed) = (run.name.clone(), run.seed);
        if several {
            output.say(&format!("\n== {name}, seed {seed}"))?;
        }
        logs.clear();
        let judged = match execute(arguments, run, logs).await {
            Ok(judged) => judged,
            // The other runs need not fail. An argument that must change ends the command.
            Err(error) if several && !error.is::<FaultsError>() => {
                let why = chain(&*error);
                output.say(&format!("could not run: {why}"))?;
                outcomes.push(Outcome::Inconclusive);
                reports.add_failed(&name, seed, &why)?;
                runs.push(json!({
                    "name": name,
                    "seed": seed,
                    "outcome": Outcome::Inconclusive.to_string(),
                    "couldNotRun": why,
                }));
                continue;
            }
            Err(error) => return Err(error),
        };
        match &arguments.history {
            Some(path) if several => {
                write_history(&judged, &numbered_file(path, number, &name))?;
            }
            Some(path) => write_history(&judged, path)?,
            None => {}
        }
        output.say(&judged.to_string())?;
        outcomes.push(judged.outcome());
        reports.add(number, &name, seed, &judged)?;
        let mut document = judged.json();
        document["name"] = json!(name);
        document["seed"] = json!(seed);
        runs.push(document);
    }
    let outcome = worst(outcomes);
    if several {
        output.say(&format!("{}\nin all: {outcome}", reports.table()))?;
    }
    reports.summarize(outcome)?;
    if arguments.json {
        let document = json!({ "seed": seed, "outcome": outcome.to_string(), "runs": runs });
        say(format_args!("{document:#}"));
    }
    Ok(outcome)
}

async fn execute(arguments: &Arguments, run: PlannedRun, logs: &Logs) -> Result<Judged, Failure> {
    let backends = match run.schedule.as_ref().is_some_and(Schedule::needs_native) {
        true => arguments.servers.start_native().await?,
        false => arguments.servers.start().await?,
    };
    let ours = ours(&backends);
    let damage = ours.is_some() || arguments.servers.destructive;
    let schedule = run.schedule.unwrap_or_else(|| {
        let events = Schedule::drawable(Means {
            damage,
            replica: ours.is_some(),
            containers: ours == Some(Backend::Docker),
            sealed: arguments.sealed,
        });
        Schedule::draw(run.seed, arguments.duration, arguments.nodes, &events)
    });
    if let (false, Some(event)) = (damage, schedule.destructive()) {
        return Err(FaultsError::Destructive(event).into());
    }
    let deployment = Deployment::builder()
        .nodes(arguments.nodes)
        .ttl(arguments.cache_ttl)
        .deadlines(arguments.redis_timeout, arguments.request_timeout)
        .policy(arguments.policy)
        .near_cache(arguments.near_cache as usize * 1024 * 1024)
        .sealed(arguments.sealed)
        .replica(schedule.needs_replica())
        .cluster(schedule.needs_cluster())
        .sentinels(schedule.needs_sentinels())
        .standby(schedule.needs_standby())
        .tokens(schedule.needs_tokens())
        .tls(schedule.needs_tls())
        .start(backends)
        .await?;
    let settings = settings(arguments, run.seed);
    let run = FaultRun::new(&deployment, settings, schedule)?.logs(logs.clone());
    let progress = show(run.recorder(), run.expected_duration());
    let judged = tokio::select! {
        judged = run.run() => judged?,
        () = progress => unreachable!("the progress is shown until dropped"),
    };
    deployment.cleanup().await?;
    Ok(judged)
}

fn policy(name: &str) -> Result<PartitionPolicy, &'static str> {
    match name {
        "available" => Ok(PartitionPolicy::Available),
        "fail-closed" => Ok(PartitionPolicy::FailClosed),
        _ => Err("a policy is `available` or `fail-closed`"),
    }
}

/// Returns what runs the servers, if the testkit started both.
fn ours(backends: &Backends) -> Option<Backend> {
    let redis = backends.redis().backend();
    redis.filter(|_| backends.postgres().backend().is_some())
}

fn settings(arguments: &Arguments, seed: u64) -> Settings {
    let mut settings = Settings::new(seed);
    settings.rate = arguments.rate;
    settings.duration = arguments.duration;
    // With more keys, few would be hit again within their TTL.
    settings.sessions = (arguments.rate / 2).clamp(20, 1_000);
    settings.dropped = arguments.cancelled_share;
    settings.idle_limited = arguments.idle_share;
    // A touch is due after a quarter of the idle timeout, or after a minute if that is shorter.
    settings.parameters.touch = settings.idle / 4;
    settings.parameters.budget_slack = arguments.timing_slack;
    settings
}

/// Shows the progress of the run until dropped.
async fn show(recorder: Recorder, expected: Duration) {
    let bar = Bar::new();
    bar.say("logging in");
    let seconds = |span: Duration| u32::try_from(span.as_secs()).unwrap_or(u32::MAX);
    let mut began = None;
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    loop {
        ticks.tick().await;
        let progress = recorder.progress();
        if progress.due == 0 && began.is_none() {
            continue;
        }
        let began = *began.get_or_insert_with(tokio::time::Instant::now);
        let what = format!(
            "{} due, {} sent, {} answered, {} unavailable",
            progress.due, progress.sent, progress.answered, progress.unavailable
        );
        bar.at(&what, seconds(began.elapsed().min(expected)), seconds(expected));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worst_run_decides_the_exit_code() {
        use Outcome::{Broken, Holds, Inconclusive};
        assert_eq!(worst([Holds, Inconclusive, Holds]), Inconclusive);
        assert_eq!(worst([Inconclusive, Broken, Holds]), Broken);
        assert_eq!(worst([Holds]), Holds);
        assert_eq!(worst([]), Inconclusive);
        assert_eq!(exit_code(Holds), ExitCode::SUCCESS);
        assert_eq!(exit_code(Broken), ExitCode::from(1));
        assert_eq!(exit_code(Inconclusive), ExitCode::from(2));
    }
}
