//! A load drawn from a seed, while one thing is broken: what was promised, and was anybody answered?

use std::time::Duration;

use session_testkit::{
    faults::{Fault, Link},
    history::{self, Entry, History, Op, Operation, Parameters},
    subject::{Seen, Subject},
    workload::{Runner, Scheduled, Settings, Shares},
};
use tokio::time::sleep;

use crate::rig::{BUDGET, Failure, Findings, Rig, SLACK, SOON, judged};

/// When the fault begins, and how long it lasts.
const AT: Duration = Duration::from_secs(1);
const LASTS: Duration = Duration::from_secs(6);
const LOAD: Duration = Duration::from_secs(8);

/// Redis alone is broken. Postgres has every session, so a cache beside it can go on answering.
pub(crate) async fn without_redis<S: Subject>(
    rig: &Rig,
    subject: S,
    fault: Fault,
) -> Result<Findings, Failure> {
    let settings = Settings {
        sessions: 40,
        parameters: Parameters {
            budget: BUDGET,
            budget_slack: SLACK,
            ..Parameters::default()
        },
        ..Settings::new(rig.seed)
    };
    let history = load(rig, subject, fault, settings).await?;
    let mut findings = Findings::default();
    let fault_entry = history.faults.first().ok_or("no fault in the history")?;
    let answers = Answers::during(&history, fault_entry)?;
    findings.seen.push(format!(
        "of {} validates while Redis was away {} were answered, {} unavailable, {} without an answer in {:?}",
        answers.asked,
        answers.given,
        answers.unavailable.len(),
        answers.hung.len(),
        BUDGET + SLACK
    ));
    let unanswered = answers.unavailable.len() + answers.hung.len();
    // On a machine that others use too a few may miss their budget.
    if unanswered * 10 > answers.asked {
        let how = match answers.hung.first() {
            Some(_) if fault == Fault::RedisPause => {
                "IT HANGS WHILE REDIS IS STOPPED, instead of asking Postgres"
            }
            Some(_) => "IT HANGS WHILE REDIS IS DEAD, instead of asking Postgres",
            None => "A DEAD REDIS IS AN ERROR, instead of a fallback",
        };
        let first = answers.hung.first().or(answers.unavailable.first());
        let proof = first.map(|op| proof(&history, fault_entry, op));
        findings.bugs.push(format!(
            "{how}. Of {} validates in that time\n{unanswered} were not answered, while Postgres answered the \
             test. One of them:\n{}",
            answers.asked,
            proof.unwrap_or_default()
        ));
    }
    findings.broken_promises(&judged(&history)?);
    Ok(findings)
}

/// The lines to Postgres are slow, each answer by something else: so a write that has begun on one node may
/// arrive after a logout on another.
pub(crate) async fn slow_postgres<S: Subject>(rig: &Rig, subject: S) -> Result<Findings, Failure> {
    let slow = Fault::PostgresLink(Link::Latency);
    // Few sessions that are written often, so that writes meet.
    let settings = Settings {
        sessions: 10,
        shares: Shares {
            update: 300,
            revoke: 80,
            create: 150,
            ..Shares::default()
        },
        // It is slow because Postgres is.
        parameters: Parameters {
            budget: SOON,
            ..Parameters::default()
        },
        ..Settings::new(rig.seed)
    };
    let history = load(rig, subject, slow, settings).await?;
    let mut findings = Findings::default();
    findings.broken_promises(&judged(&history)?);
    Ok(findings)
}

async fn load<S: Subject>(
    rig: &Rig,
    subject: S,
    fault: Fault,
    settings: Settings,
) -> Result<History, Failure> {
    let settings = Settings {
        rate: 150,
        duration: LOAD,
        patience: BUDGET + 2 * SLACK,
        // What both subjects have: tower-sessions knows no other timeout than the layer's, no grace, and no
        // list of a user's sessions.
        shares: Shares {
            revoke_all: 0,
            rotate: 0,
            ..settings.shares
        },
        short_lived: 0,
        dropped: 0,
        ..settings
    };
    let scheduled = Scheduled::fault(fault, &rig.target(), AT, LASTS);
    let run = Runner::new(subject, settings).fault(scheduled).run();
    // In the middle of it Postgres must be there, or nothing can be said of who asked it.
    let postgres = async {
        sleep(AT + LASTS / 2).await;
        rig.servers.postgres().ready().await
    };
    let (run, postgres) = tokio::join!(run, postgres);
    postgres?;
    let run = run?;
    match run.report.problems.first() {
        Some(problem) => Err(problem.clone().into()),
        None => Ok(run.history),
    }
}

/// What became of the validates of a span of time.
#[derive(Default)]
struct Answers<'a> {
    asked: usize,
    given: usize,
    unavailable: Vec<&'a Operation>,
    hung: Vec<&'a Operation>,
}

impl<'a> Answers<'a> {
    /// Those that were asked while the fault was in force for certain, and early enough to be answered
    /// before it was healed.
    fn during(history: &'a History, fault: &history::Fault) -> Result<Self, Failure> {
        let patience = u64::try_from((BUDGET + SLACK).as_nanos())?;
        let (since, until) = fault.certain();
        let asked = history
            .operations
            .iter()
            .filter(|op| op.op.is_validation() && since <= op.call && op.call + patience < until);
        let mut answers = Self::default();
        for op in asked {
            answers.asked += 1;
            match op.op.seen() {
                Some(_) if op.end() > op.call + patience => answers.hung.push(op),
                Some(Seen::Unavailable) => answers.unavailable.push(op),
                Some(_) => answers.given += 1,
                None => answers.hung.push(op),
            }
        }
        match answers.asked {
            0 => Err("nothing was asked while the fault was in force".into()),
            _ => Ok(answers),
        }
    }
}

/// The login, the fault, the answer.
fn proof(history: &History, fault: &history::Fault, op: &Operation) -> String {
    let login = |each: &&Operation| {
        matches!(each.op, Op::Create { .. }) && each.op.session() == op.op.session()
    };
    let login = history
        .operations
        .iter()
        .find(login)
        .cloned()
        .map(Entry::Op);
    let entries = [
        login,
        Some(Entry::Fault(fault.clone())),
        Some(Entry::Op(op.clone())),
    ];
    let lines: Vec<_> = entries
        .iter()
        .flatten()
        .map(|entry| format!("    {entry}"))
        .collect();
    lines.join("\n")
}
