//! The refill of misses. A cache that was flushed or restarted, or that evicted an entry, must fill
//! itself again. Otherwise every later request goes to Postgres.
//!
//! The measurement uses only facts: Redis' own count of hits and misses, its keys, and the bytes
//! sent to Postgres.

use std::time::Duration;

use crate::harness::{Failure, Findings, Harness, verdicts_of};
use session_testkit::{
    history::Parameters,
    proxy::Peer,
    subject::{Login, Seen, Subject},
    wait,
    workload::Script,
};

const SESSIONS: u64 = 50;
const ROUNDS: usize = 4;

pub(crate) async fn refill<S: Subject>(harness: &Harness, subject: S) -> Result<Findings, Failure> {
    let nodes = subject.nodes();
    let parameters = Parameters { budget_slack: Duration::from_secs(5), ..Parameters::default() };
    let script = Script::new(subject, harness.seed, parameters);
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        let login = Login::new(format!("user {number}"), format!("{number}.0"));
        let node = u32::try_from(number)? % nodes;
        sessions.push(script.create(node, &login).await?);
    }
    harness.servers.redis().flush_all().await?;

    let mut findings = Findings::default();
    let (mut hits, mut misses, mut valid) = (0, 0, 0);
    for round in 1..=ROUNDS {
        let before = Counts::read(harness).await?;
        valid = 0;
        for (number, session) in sessions.iter().enumerate() {
            let node = u32::try_from(number + round)? % nodes;
            let seen = script.validate(node, session).await;
            valid += u64::from(matches!(seen, Some(Seen::Valid { .. })));
        }
        let after = Counts::read(harness).await?;
        // A fill may follow the response. A fill that is late here still counts in the next round.
        let filled = async || Counts::read(harness).await.is_ok_and(|now| now.keys >= SESSIONS);
        let _in_time = wait::until("the fills", Duration::from_secs(1), filled).await;
        let keys = Counts::read(harness).await?.keys;
        hits = after.hits - before.hits;
        misses = after.misses - before.misses;
        let sent = after.to_postgres - before.to_postgres;
        findings.seen.push(format!(
            "round {round}: {valid} of {SESSIONS} Valid. Redis counted {hits} hits and {misses} \
             misses, and then has {keys} keys. Postgres received {sent} bytes"
        ));
    }
    findings.broken_promises(&verdicts_of(&script.finish())?);

    if hits * 2 < SESSIONS {
        findings.bugs.push(format!(
            "MISSES ARE NEVER REFILLED. Redis was flushed once, and each of {SESSIONS} sessions \
             then validated {ROUNDS} times.\nIn the last round Redis still counted {hits} hits and \
             {misses} misses, because rows from Postgres are not cached."
        ));
    }
    if valid * 10 < SESSIONS * 9 {
        findings.bugs.push(format!(
            "A MISS IS AN ERROR. In the last round {valid} of {SESSIONS} sessions were Valid, \
             although Postgres has all of them."
        ));
    }
    Ok(findings)
}

/// The servers' own counters.
struct Counts {
    hits: u64,
    misses: u64,
    keys: u64,
    to_postgres: u64,
}

impl Counts {
    async fn read(harness: &Harness) -> Result<Self, Failure> {
        let mut redis = harness.servers.redis().connect().await?;
        let info: redis::InfoDict = redis::cmd("INFO").arg("stats").query_async(&mut redis).await?;
        let count = |name| info.get(name).ok_or(format!("INFO has no {name}"));
        let postgres = harness.network.proxies(Peer::Postgres);
        Ok(Self {
            hits: count("keyspace_hits")?,
            misses: count("keyspace_misses")?,
            keys: redis::cmd("DBSIZE").query_async(&mut redis).await?,
            to_postgres: postgres.map(|line| line.traffic().to_server).sum(),
        })
    }
}
