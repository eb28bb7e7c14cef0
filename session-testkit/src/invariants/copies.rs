//! R8: no stale copy stays in Redis.

use super::{
    findings::Findings,
    index::{Index, Kind, proof},
};
use crate::history::{Entry, Fault, Nanos, Scan, nanos};

/// R8. *After healing and TTL + 2 s of quiet, no Redis entry says valid where Postgres says revoked.*
///
/// (The 2 s are the lease.) Broken by a stale entry that a scan found. A scan counts only if nothing was
/// asked and nothing was broken for that long before. What is examined are the sessions that were
/// ended before it: after the TTL most entries are gone, so their number says nothing.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("ended sessions compared with Redis");
    let parameters = index.parameters();
    let quiet = nanos(parameters.ttl.saturating_add(parameters.lease));
    let ended = ends(index);
    let mut counted = 0;
    for scan in &index.history.scans {
        if busy_until(index, scan).saturating_add(quiet) > scan.at {
            continue;
        }
        counted += 1;
        findings.examined += ended.partition_point(|end| *end < scan.at) as u64;
        for stale in &scan.stale {
            findings.broken(|| {
                let session = index.sessions.iter().find(|each| each.number == *stale);
                let revoke = session.and_then(|session| {
                    let mut revokes = session.changes.iter();
                    revokes.find(|each| matches!(each.kind, Kind::Revoke))
                });
                let mut entries = proof(revoke.map(|each| each.op));
                entries.push(Entry::Scan(scan.clone()));
                (
                    format!(
                        "Redis still says that session {stale} is valid; Postgres says revoked"
                    ),
                    entries,
                )
            });
        }
    }
    if counted == 0 {
        findings.doubt("Redis was never compared with Postgres after TTL + lease of quiet");
    }
    findings
}

/// When anything was asked, answered or healed for the last time before the scan; its own time if
/// something was still going on.
fn busy_until(index: &Index<'_>, scan: &Scan) -> Nanos {
    let operations = index.history.operations.iter();
    let operations = operations
        .filter(|op| op.call <= scan.at)
        .map(|op| op.ret.or(op.dropped).unwrap_or(op.call));
    let faults = index.history.faults.iter();
    let faults = faults
        .filter(|fault| fault.at <= scan.at)
        .map(|fault| Fault::longest(fault).1);
    operations.chain(faults).max().unwrap_or(0).min(scan.at)
}

/// When each session was ended for certain, in order.
fn ends(index: &Index<'_>) -> Vec<Nanos> {
    let ends = index.sessions.iter().filter_map(|session| {
        let revokes = session.changes.iter().filter(|each| {
            matches!(each.kind, Kind::Revoke) && each.answer.is_some_and(|a| a.reach().is_some())
        });
        let all = index.revoke_alls(session).iter().filter(|each| {
            session.began < each.op.call && each.answer.is_some_and(|a| a.reach().is_some())
        });
        revokes.chain(all).map(|each| each.op.end()).min()
    });
    let mut ends: Vec<_> = ends.collect();
    ends.sort_unstable();
    ends
}
