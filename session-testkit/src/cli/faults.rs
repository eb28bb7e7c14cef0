//! `session-testkit faults`

mod files;
mod judge;
mod summary;
mod wanted;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use serde_json::json;
use session_layer::Policy;

use self::{
    files::{Words, folder_of, named, write_history},
    summary::{Line, Summary},
    wanted::{Wanted, wanted},
};
use super::{could_not_run, output, progress::Bar, servers::Servers};
use crate::{
    backends::{Backend, Backends},
    deployment::Deployment,
    history::HistoryError,
    invariants::Outcome,
    observe::Logs,
    schedule::{Event, Means, Requested, Schedule},
    trial::{Judged, Trial},
    wall_clock,
    workload::{PER_MILLE, Recorder, Settings},
};

/// Drives load through several nodes of session-layer, breaks their servers meanwhile, and says which
/// promise was broken.
///
/// That nobody could be told whose session it is (503) while Postgres could answer has a budget of 0. It is
/// counted; over 1 % of the answers there is no fallback, and the run counts as broken.
///
/// Each `--fault` has a run of its own; without one, a schedule is drawn from the seed. Several runs end with a
/// table of all. What happened is
/// judged when the last copy in Redis must have died, a TTL and a lease after the load. Exit code 0: every
/// promise held; 1: one was broken; 2: could not run, or the run means too little (under 95 % of the requests
/// that were due were sent, a fault touched nothing, or too few revoked tokens were tried
/// within D of their revoke: one for every sixty requests, which makes 1,000 at 2,000 requests a second for 30 s).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  session-testkit faults --fault redis-kill
  session-testkit faults --seed 7 --rate 500 --secs 60 --json --history run.jsonl
  session-testkit faults --seed 1 --runs 24 --secs 60
  session-testkit faults --judge run.jsonl
  session-testkit faults --fault redis-link-partition@3+10/0,2 postgres-kill@5+5 --secs 20")]
pub(super) struct Arguments {
    #[command(flatten)]
    servers: Servers,

    /// Replays a run: its load, its schedule, what is lost. Defaults to a fresh one, which is printed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Requests due in each second, whatever became of those before.
    #[arg(long, default_value_t = 2_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,

    /// How long requests are due.
    #[arg(long, alias = "seconds", default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    secs: u32,

    /// How many nodes.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: u32,

    /// What to break: NAME, or NAME@AT+LASTS in seconds, or NAME@AT+LASTS/NODE,NODE. Without a time it begins
    /// after a fifth of the run and lasts two fifths. Of what `--list` names, plant-flipped needs `--sealed`, clock-step
    /// libfaketime (under which the command starts itself anew), and redis-disconnect and postgres-disconnect containers.
    #[arg(long, num_args = 1.., value_name = "NAME")]
    fault: Vec<Requested>,

    /// What to break in one run: a JSON file with `{"steps":[{"event":NAME,"at_ms":N,"lasts_ms":N}]}`.
    #[arg(long, value_name = "FILE", conflicts_with = "fault")]
    schedule: Option<PathBuf>,

    /// So many runs with a schedule drawn for each, from the seed, the number after it, and so on.
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with_all = ["fault", "schedule"], value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,

    /// Print the names of all faults, and end.
    #[arg(long)]
    list: bool,

    /// How many seconds Redis may serve a copy. The run waits that long at its end.
    #[arg(long, default_value_t = 5, value_name = "SECS", value_parser = clap::value_parser!(u32).range(1..=300))]
    ttl: u32,

    /// What a node does that has lost touch with Postgres: `available` serves copies until their TTL,
    /// `fail-closed` answers 503.
    #[arg(long, default_value = "available", value_name = "POLICY", value_parser = policy)]
    policy: Policy,

    /// Give the nodes a key, so that entries in Redis are sealed.
    #[arg(long)]
    sealed: bool,

    /// Of 1,000 sessions so many have an idle timeout, of 40 s, so that their use is noted in Postgres.
    #[arg(long, default_value_t = 250, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(PER_MILLE)))]
    idle: u32,

    /// Of 1,000 requests so many are dropped by their client before the answer.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(PER_MILLE)))]
    dropped: u32,

    /// How long an operation of Redis may take.
    #[arg(long, default_value_t = 50, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..))]
    redis_ms: u32,

    /// How long a validation may take in all.
    #[arg(long, default_value_t = 250, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..))]
    budget_ms: u32,

    /// What measuring on a busy machine may add to that.
    #[arg(long, default_value_t = 250, value_name = "MS")]
    slack_ms: u32,

    /// Print one JSON document on standard output, and the rest on standard error.
    #[arg(long)]
    json: bool,

    /// Judge what was written with `--history` before, start nothing, and end.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["fault", "schedule", "history", "report"])]
    judge: Option<PathBuf>,

    /// Write what happened, as JSON lines. Of several runs each has a file, with its fault's name in it.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,

    /// Write the report to a file too, as it is printed.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(
        "{0} does damage to a server that was named, not started; allow it with --destructive, or name no servers"
    )]
    Destructive(Event),
    #[error("could not read the schedule {}", path.display())]
    Schedule {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is no schedule", path.display())]
    NoSchedule {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("could not judge {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: HistoryError,
    },
    #[error("could not write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: HistoryError,
    },
    #[error(transparent)]
    Other(#[from] Box<dyn std::error::Error + Send + Sync>),
}

pub(super) async fn main(arguments: Arguments, logs: Logs) -> ExitCode {
    if arguments.list {
        Event::all().for_each(output::say);
        return ExitCode::SUCCESS;
    }
    let judged = match &arguments.judge {
        Some(path) => judge::judge(path, arguments.json),
        None => run_all(&arguments, &logs).await,
    };
    match judged {
        Ok(outcome) => exit_code(outcome),
        Err(refusal) => could_not_run(&refusal),
    }
}

fn exit_code(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Holds => ExitCode::SUCCESS,
        Outcome::Broken => ExitCode::from(1),
        Outcome::Inconclusive => ExitCode::from(super::COULD_NOT_RUN),
    }
}

/// Of several runs the worst.
fn worst(outcomes: impl IntoIterator<Item = Outcome>) -> Outcome {
    let rank = |outcome: &Outcome| match outcome {
        Outcome::Holds => 0,
        Outcome::Inconclusive => 1,
        Outcome::Broken => 2,
    };
    let worst = outcomes.into_iter().max_by_key(rank);
    worst.unwrap_or(Outcome::Inconclusive)
}

async fn run_all(arguments: &Arguments, logs: &Logs) -> Result<Outcome, Refusal> {
    let seed = arguments.seed.unwrap_or_else(Settings::fresh_seed);
    let wanted = wanted(arguments, seed)?;
    if wanted.iter().any(Wanted::steps_the_clock) && !wall_clock::is_steppable() {
        let refused = wall_clock::start_anew();
        return refused
            .map(|never| match never {})
            .map_err(|error| Refusal::Other(error.into()));
    }
    arguments.history.as_deref().map_or(Ok(()), folder_of)?;
    let mut words = Words::new(arguments)?;
    words.say(&format!("seed {seed}"))?;
    let several = wanted.len() > 1;
    let mut runs = Vec::new();
    let mut outcomes = Vec::new();
    let mut lines = Vec::new();
    for (number, wanted) in wanted.into_iter().enumerate() {
        let (name, seed) = (wanted.name(), wanted.seed(seed));
        if several {
            words.say(&format!("\n== {name}, seed {seed}"))?;
        }
        logs.clear();
        let judged = run(arguments, seed, wanted, logs).await?;
        if let Some(path) = &arguments.history {
            let path = if several {
                named(path, &format!("{}-{name}", number + 1))
            } else {
                path.clone()
            };
            write_history(&judged, &path)?;
        }
        words.say(&format!("{judged}"))?;
        outcomes.push(judged.outcome());
        let mut of = judged.json();
        of["name"] = json!(name);
        of["seed"] = json!(seed);
        runs.push(of);
        lines.push(Line::new(name, seed, &judged));
    }
    let outcome = worst(outcomes);
    if several {
        words.say(&format!("{}\nin all: {outcome}", Summary(&lines)))?;
    }
    if arguments.json {
        let document = json!({ "seed": seed, "outcome": outcome.to_string(), "runs": runs });
        output::say(format_args!("{document:#}"));
    }
    Ok(outcome)
}

async fn run(
    arguments: &Arguments,
    seed: u64,
    wanted: Wanted,
    logs: &Logs,
) -> Result<Judged, Refusal> {
    let load = Duration::from_secs(arguments.secs.into());
    // Before any server is started, as far as it is known.
    let check = |schedule: Schedule| {
        let checked = schedule.check(arguments.nodes);
        let checked = checked.and_then(|()| schedule.suits(arguments.sealed));
        checked
            .map(|()| schedule)
            .map_err(|error| Refusal::Other(error.into()))
    };
    let known = match wanted {
        Wanted::Fault(requested) => Some(check(Schedule {
            seed,
            steps: vec![requested.or_at(load / 5, load * 2 / 5)],
        })?),
        Wanted::Written(schedule) => Some(check(schedule)?),
        Wanted::Drawn(_) => None,
    };
    let other = |error: Box<dyn std::error::Error + Send + Sync>| Refusal::Other(error);
    let backends = arguments.servers.start().await;
    let backends = backends.map_err(|error| other(error.into()))?;
    let ours = ours(&backends);
    let damage = ours.is_some() || arguments.servers.destructive;
    let schedule = known.unwrap_or_else(|| {
        let events = Schedule::drawable(Means {
            damage,
            replica: ours.is_some(),
            containers: ours == Some(Backend::Docker),
            sealed: arguments.sealed,
        });
        Schedule::draw(seed, load, arguments.nodes, &events)
    });
    if let (false, Some(event)) = (damage, schedule.destructive()) {
        return Err(Refusal::Destructive(event));
    }
    let deployment = Deployment::builder()
        .nodes(arguments.nodes)
        .ttl(Duration::from_secs(arguments.ttl.into()))
        .deadlines(millis(arguments.redis_ms), millis(arguments.budget_ms))
        .policy(arguments.policy)
        .sealed(arguments.sealed)
        .replica(schedule.needs_replica())
        .start(backends)
        .await
        .map_err(|error| other(error.into()))?;
    let trial = Trial::new(&deployment, settings(arguments, seed), schedule);
    let trial = trial.map_err(|error| other(error.into()))?;
    let trial = trial.logs(logs.clone());
    let shown = show(trial.recorder(), trial.takes());
    let judged = tokio::select! {
        judged = trial.run() => judged,
        () = shown => unreachable!("it is shown until dropped"),
    };
    let judged = judged.map_err(|error| other(error.into()))?;
    deployment
        .cleanup()
        .await
        .map_err(|error| other(error.into()))?;
    Ok(judged)
}

fn policy(name: &str) -> Result<Policy, &'static str> {
    match name {
        "available" => Ok(Policy::Available),
        "fail-closed" => Ok(Policy::FailClosed),
        _ => Err("a policy is `available` or `fail-closed`"),
    }
}

fn millis(millis: u32) -> Duration {
    Duration::from_millis(millis.into())
}

/// What runs both servers, if we started both.
fn ours(backends: &Backends) -> Option<Backend> {
    let redis = backends.redis().backend();
    redis.filter(|_| backends.postgres().backend().is_some())
}

fn settings(arguments: &Arguments, seed: u64) -> Settings {
    let mut settings = Settings::new(seed);
    settings.rate = arguments.rate;
    settings.duration = Duration::from_secs(arguments.secs.into());
    // As many keys as can be hit again within their TTL.
    settings.sessions = (arguments.rate / 2).clamp(20, 1_000);
    settings.dropped = arguments.dropped;
    // Four uses are noted per idle timeout, or one in a minute.
    settings.idle_limited = arguments.idle;
    settings.parameters.touch = settings.idle / 4;
    settings.parameters.budget_slack = millis(arguments.slack_ms);
    settings
}

/// Shows how far the run is, until dropped.
async fn show(recorder: Recorder, takes: Duration) {
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
        bar.at(&what, seconds(began.elapsed().min(takes)), seconds(takes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_run_decides() {
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
