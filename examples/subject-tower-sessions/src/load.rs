//! A load drawn from a seed during one fault. It checks the promises, and whether requests got
//! responses.

use std::time::Duration;

use session_testkit::{
    faults::Fault,
    history::{self, Entry, History, Op, Operation, Parameters},
    subject::{Seen, Subject},
    workload::{Runner, Scheduled, Settings, Shares},
};
use tokio::time::sleep;

use crate::harness::{BUDGET, Failure, Findings, Harness, SLACK, verdicts_of};

/// The start of the fault.
const AT: Duration = Duration::from_secs(1);
/// The duration of the fault.
const LASTS: Duration = Duration::from_secs(6);
const LOAD: Duration = Duration::from_secs(8);

/// Runs a fault of Redis alone. Postgres has every session, so a cache can still respond.
pub(crate) async fn without_redis<S: Subject>(
    harness: &Harness,
    subject: S,
    fault: Fault,
) -> Result<Findings, Failure> {
    let history = load(harness, subject, fault).await?;
    let mut findings = Findings::default();
    let fault_entry = history.faults.first().ok_or("no fault in the history")?;
    let answers = Answers::during(&history, fault_entry)?;
    findings.seen.push(format!(
        "{} validates while Redis was away: {} got a response, {} Unavailable, {} no response in \
         {:?}",
        answers.sent,
        answers.given,
        answers.unavailable.len(),
        answers.hung.len(),
        BUDGET + SLACK
    ));
    let unanswered = answers.unavailable.len() + answers.hung.len();
    // On a shared machine a few may exceed their budget.
    if unanswered * 10 > answers.sent {
        let how = match answers.hung.first() {
            Some(_) if fault == Fault::RedisPause => {
                "IT HANGS WHILE REDIS IS STOPPED, instead of reading from Postgres"
            }
            Some(_) => "IT HANGS WHILE REDIS IS DOWN, instead of reading from Postgres",
            None => "A REDIS OUTAGE IS AN ERROR, instead of a fallback",
        };
        let first = answers.hung.first().or(answers.unavailable.first());
        let proof = first.map(|op| proof(&history, fault_entry, op));
        findings.bugs.push(format!(
            "{how}. {unanswered} of {} validates in that time\ngot no response, although Postgres \
             was available. One of them:\n{}",
            answers.sent,
            proof.unwrap_or_default()
        ));
    }
    findings.broken_promises(&verdicts_of(&history)?);
    Ok(findings)
}

async fn load<S: Subject>(harness: &Harness, subject: S, fault: Fault) -> Result<History, Failure> {
    let settings = Settings {
        rate: 150,
        sessions: 40,
        duration: LOAD,
        patience: BUDGET + 2 * SLACK,
        // Only operations that both subjects support. tower-sessions has no timeout except the
        // layer's, no grace, and no list of a user's sessions.
        shares: Shares { revoke_all: 0, rotate: 0, ..Shares::default() },
        short_lived: 0,
        dropped: 0,
        parameters: Parameters { budget: BUDGET, budget_slack: SLACK, ..Parameters::default() },
        ..Settings::new(harness.seed)
    };
    let scheduled = Scheduled::fault(fault, &harness.target(), AT, LASTS);
    let run = Runner::new(subject, settings).fault(scheduled).run();
    // Postgres must be available in the middle of the fault. Otherwise nothing is proved about
    // reads from it.
    let postgres = async {
        sleep(AT + LASTS / 2).await;
        harness.servers.postgres().ready().await
    };
    let (run, postgres) = tokio::join!(run, postgres);
    postgres?;
    let run = run?;
    match run.report.problems.first() {
        Some(problem) => Err(problem.clone().into()),
        None => Ok(run.history),
    }
}

/// The results of the validates in a span of time.
#[derive(Default)]
struct Answers<'a> {
    sent: usize,
    given: usize,
    unavailable: Vec<&'a Operation>,
    hung: Vec<&'a Operation>,
}

impl<'a> Answers<'a> {
    /// Returns the validates that began while the fault was certainly active, early enough for a
    /// response before it healed.
    fn during(history: &'a History, fault: &history::Fault) -> Result<Self, Failure> {
        let patience = u64::try_from((BUDGET + SLACK).as_nanos())?;
        let (since, until) = fault.certain();
        let validates = history
            .operations
            .iter()
            .filter(|op| op.op.is_validation() && since <= op.call && op.call + patience < until);
        let mut answers = Self::default();
        for op in validates {
            answers.sent += 1;
            match op.op.seen() {
                Some(_) if op.end() > op.call + patience => answers.hung.push(op),
                Some(Seen::Unavailable) => answers.unavailable.push(op),
                Some(_) => answers.given += 1,
                None => answers.hung.push(op),
            }
        }
        match answers.sent {
            0 => Err("there was no validate while the fault was active".into()),
            _ => Ok(answers),
        }
    }
}

/// Describes the login, the fault and the result.
fn proof(history: &History, fault: &history::Fault, op: &Operation) -> String {
    let login = |each: &&Operation| {
        matches!(each.op, Op::Create { .. }) && each.op.session() == op.op.session()
    };
    let login = history.operations.iter().find(login).cloned().map(Entry::Op);
    let entries = [login, Some(Entry::Fault(fault.clone())), Some(Entry::Op(op.clone()))];
    let lines: Vec<_> = entries.iter().flatten().map(|entry| format!("    {entry}")).collect();
    lines.join("\n")
}
