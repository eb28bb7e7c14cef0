//! A write that is stopped in mid-air while a logout overtakes it.
//!
//! Two writes can be late. A *fill*: a reader missed in Redis and read the row, and its copy arrives after the
//! session was ended. A *save*: a request changed its session, and what it writes arrives after the session
//! was ended. Each is forced, not hoped for: bytes are held on the line between one node and Postgres until
//! another node has ended the session.

use std::time::Duration;

use session_testkit::{
    history::{Entry, Fault, History, Operation, Parameters, Touched},
    invariants::{Invariant, Verdict},
    proxy::{Peer, Toxic},
    subject::{Login, Subject},
    workload::{Issued, Script},
};
use tokio::time::{sleep, timeout};

use crate::rig::{Failure, Findings, Rig, SOON, judged};

const TRIES: u32 = 10;
/// A fill may come behind its answer, so the session is looked at for a while.
const LOOKS: usize = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Which write is late.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Late {
    Fill,
    Save,
}

pub(crate) async fn late<S: Subject>(
    rig: &Rig,
    subject: S,
    what: Late,
) -> Result<Findings, Failure> {
    let parameters = Parameters {
        // What is held takes as long as it is held.
        budget_slack: SOON,
        ..Parameters::default()
    };
    let script = Script::new(subject, rig.seed, parameters);
    for number in 0..TRIES {
        one_try(rig, &script, what, number).await?;
    }
    let history = script.finish();
    let verdicts = judged(&history)?;

    let mut findings = Findings::default();
    let (write, how) = match what {
        Late::Fill => ("FILL", "a reader's copy"),
        Late::Save => ("SAVE", "what another request had changed"),
    };
    match verdicts.of(Invariant::R1) {
        Verdict::Broken { violations, .. } => {
            let proof = violations.first().and_then(|violation| violation.proof.first());
            let story = proof.map(|entry| story(&history, entry)).unwrap_or_default();
            findings.bugs.push(format!(
                "A LATE {write} RESURRECTS A DELETED SESSION: {how} arrived after the logout had been answered,\n\
                 and the session was there again. All that happened to one of them:\n{story}"
            ));
        }
        Verdict::Holds { .. } => findings.seen.push(format!(
            "in {TRIES} of {TRIES} tries a {} was held until the logout was answered; no session came back",
            write.to_lowercase()
        )),
        open @ Verdict::Inconclusive { .. } => findings.open.push(format!("R1 {open}")),
    }
    findings.broken_promises(&verdicts);
    Ok(findings)
}

async fn one_try<S: Subject>(
    rig: &Rig,
    script: &Script<S>,
    what: Late,
    number: u32,
) -> Result<(), Failure> {
    // The seed says which node is the late one.
    let slow = u32::from(rig.seed >> number & 1 == 1);
    let other = 1 - slow;
    let (user, data) = (format!("late {number} user"), format!("late {number} data"));
    let session = script
        .create(other, &Login::new(&user, format!("{number}.0")))
        .await?;

    let hold = match what {
        Late::Fill => {
            rig.servers.redis().flush_all().await?;
            Toxic::hold_from(user).to_client()
        }
        Late::Save => Toxic::hold_from(data.as_str()).to_server(),
    };
    let clock = script.recorder().clock();
    let began = clock.now();
    let held = rig
        .network
        .proxy(usize::try_from(slow)?, Peer::Postgres)
        .inject(hold);
    let writes = async {
        match what {
            Late::Fill => drop(script.validate(slow, &session).await),
            Late::Save => drop(script.update(slow, &session, &data).await),
        }
    };
    let overtakes = async {
        timeout(SOON / 2, held.touched())
            .await
            .map_err(|_| "nothing was there to be held")?;
        script.revoke(other, &session).await?;
        let (until, report) = (clock.now(), held.release());
        let mut fault = Fault::new("bytes to or from Postgres held", began);
        fault.until = Some(until);
        fault.healed = Some(clock.now());
        fault.nodes = Some(vec![slow]);
        fault.touched = Some(Touched {
            connections: report.connections,
            bytes: report.bytes,
        });
        script.recorder().record(Entry::Fault(fault));
        Ok::<_, Failure>(())
    };
    let ((), overtaken) = tokio::join!(writes, overtakes);
    overtaken?;
    look(script, &session).await;
    Ok(())
}

async fn look<S: Subject>(script: &Script<S>, session: &Issued) {
    for _ in 0..LOOKS {
        for node in 0..script.subject().nodes() {
            script.validate(node, session).await;
        }
        sleep(BETWEEN_LOOKS).await;
    }
}

/// What happened to the session of an operation, up to the first look at it.
fn story(history: &History, of: &Entry) -> String {
    let Entry::Op(Operation { op, .. }) = of else {
        return String::new();
    };
    let mut operations: Vec<_> = history
        .operations
        .iter()
        .filter(|each| each.op.session() == op.session())
        .collect();
    operations.sort_by_key(|each| each.call);
    let lines: Vec<_> = operations
        .into_iter()
        .take(4)
        .map(|each| format!("    {}", Entry::Op(each.clone())))
        .collect();
    lines.join("\n")
}
