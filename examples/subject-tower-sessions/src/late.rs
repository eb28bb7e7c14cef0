//! A write that is held while a logout overtakes it.
//!
//! Two kinds of writes can be late. A *fill*: a reader missed in Redis and read the row, and its
//! entry arrives after the session was ended. A *save*: a request changed its session, and its
//! write arrives after the session was ended. Each race is forced: bytes between one node and
//! Postgres are held until another node has ended the session.

use std::time::Duration;

use session_testkit::{
    history::{Entry, Fault, History, Operation, Parameters, Touched},
    invariants::{Invariant, Verdict},
    proxy::{Peer, Toxic},
    subject::{Login, Subject},
    workload::{Issued, Script},
};
use tokio::time::{sleep, timeout};

use crate::harness::{Failure, Findings, Harness, SOON, verdicts_of};

const TRIES: u32 = 10;
/// The number of validations after each try, because a fill may follow its response.
const VALIDATIONS: usize = 5;
const INTERVAL: Duration = Duration::from_millis(20);

/// The kind of the late write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Late {
    Fill,
    Save,
}

pub(crate) async fn late<S: Subject>(
    harness: &Harness,
    subject: S,
    what: Late,
) -> Result<Findings, Failure> {
    let parameters = Parameters {
        // A held operation takes as long as it is held.
        budget_slack: SOON,
        ..Parameters::default()
    };
    let script = Script::new(subject, harness.seed, parameters);
    for number in 0..TRIES {
        one_try(harness, &script, what, number).await?;
    }
    let history = script.finish();
    let verdicts = verdicts_of(&history)?;

    let mut findings = Findings::default();
    let (write, how) = match what {
        Late::Fill => ("FILL", "a reader's entry"),
        Late::Save => ("SAVE", "another request's change"),
    };
    match verdicts.of(Invariant::R1) {
        Verdict::Broken { violations, .. } => {
            let proof = violations.first().and_then(|violation| violation.proof.first());
            let story = proof.map(|entry| story(&history, entry)).unwrap_or_default();
            findings.bugs.push(format!(
                "A LATE {write} RESURRECTS A DELETED SESSION: {how} arrived after the logout had \
                 returned,\nand the session was valid again. All operations on one of \
                 them:\n{story}"
            ));
        }
        Verdict::Holds { .. } => findings.seen.push(format!(
            "in {TRIES} of {TRIES} tries a {} was held until the logout returned, and no session \
             came back",
            write.to_lowercase()
        )),
        open @ Verdict::Inconclusive { .. } => findings.open.push(format!("R1 {open}")),
    }
    findings.broken_promises(&verdicts);
    Ok(findings)
}

async fn one_try<S: Subject>(
    harness: &Harness,
    script: &Script<S>,
    what: Late,
    number: u32,
) -> Result<(), Failure> {
    // The seed selects the late node.
    let slow = u32::from(harness.seed >> number & 1 == 1);
    let other = 1 - slow;
    let (user, data) = (format!("late {number} user"), format!("late {number} data"));
    let session = script.create(other, &Login::new(&user, format!("{number}.0"))).await?;

    let hold = match what {
        Late::Fill => {
            harness.servers.redis().flush_all().await?;
            Toxic::hold_from(user).to_client()
        }
        Late::Save => Toxic::hold_from(data.as_str()).to_server(),
    };
    let clock = script.recorder().clock();
    let began = clock.now();
    let held = harness.network.proxy(usize::try_from(slow)?, Peer::Postgres).inject(hold);
    let writes = async {
        match what {
            Late::Fill => drop(script.validate(slow, &session).await),
            Late::Save => drop(script.update(slow, &session, &data).await),
        }
    };
    let overtakes = async {
        timeout(SOON / 2, held.touched()).await.map_err(|_| "no bytes were held")?;
        script.revoke(other, &session).await?;
        let (until, report) = (clock.now(), held.release());
        let mut fault = Fault::new("bytes to or from Postgres held", began);
        fault.until = Some(until);
        fault.healed = Some(clock.now());
        fault.nodes = Some(vec![slow]);
        fault.touched = Some(Touched { connections: report.connections, bytes: report.bytes });
        script.recorder().record(Entry::Fault(fault));
        Ok::<_, Failure>(())
    };
    let ((), overtaken) = tokio::join!(writes, overtakes);
    overtaken?;
    validate(script, &session).await;
    Ok(())
}

async fn validate<S: Subject>(script: &Script<S>, session: &Issued) {
    for _ in 0..VALIDATIONS {
        for node in 0..script.subject().nodes() {
            script.validate(node, session).await;
        }
        sleep(INTERVAL).await;
    }
}

/// Describes the operations on an operation's session, up to the first validation after it.
fn story(history: &History, of: &Entry) -> String {
    let Entry::Op(Operation { op, .. }) = of else {
        return String::new();
    };
    let mut operations: Vec<_> =
        history.operations.iter().filter(|each| each.op.session() == op.session()).collect();
    operations.sort_by_key(|each| each.call);
    let lines: Vec<_> = operations
        .into_iter()
        .take(4)
        .map(|each| format!("    {}", Entry::Op(each.clone())))
        .collect();
    lines.join("\n")
}
