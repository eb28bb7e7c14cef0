//! R8: no stale entry stays in Redis.

use super::{
    findings::Findings,
    index::{Index, proof},
};
use crate::history::{Entry, Fault, Nanos, Operation, Scan, nanos};

/// Checks R8: after healing and TTL + 2 s without requests, Redis has no valid entry of an ended
/// session. The 2 s are the lease.
///
/// A violation is a stale entry that a scan found. A scan counts only if no request and no fault
/// was active for that long before it. The examined cases are the sessions that ended before the
/// scan. Most entries are gone after the TTL, so their number proves nothing.
pub(super) fn check(index: &Index<'_>) -> Findings {
    let mut findings = Findings::of("ended sessions compared with Redis");
    let parameters = index.parameters();
    let idle = nanos(parameters.ttl.saturating_add(parameters.lease));
    let ended = ends(index);
    let mut counted = 0;
    for scan in &index.history.scans {
        if busy_until(index, scan).saturating_add(idle) > scan.at {
            continue;
        }
        counted += 1;
        findings.examined += ended.partition_point(|end| *end < scan.at) as u64;
        for stale in &scan.stale {
            findings.broken(|| {
                let session = index.sessions.iter().find(|each| each.number == *stale);
                let mut entries = proof(session.and_then(|session| session.revokes().next()));
                entries.push(Entry::Scan(scan.clone()));
                (format!("Redis has a valid entry of session {stale}, which has ended"), entries)
            });
        }
    }
    if counted == 0 {
        findings.doubt("there was no scan of Redis after TTL + lease without requests");
    }
    findings
}

/// Returns when the last operation or fault before the scan ended. If one was still active, returns
/// the time of the scan.
fn busy_until(index: &Index<'_>, scan: &Scan) -> Nanos {
    let operations = index.history.operations.iter();
    let operations = operations
        .filter(|op| op.call <= scan.at)
        .map(|op| op.ret.or(op.dropped).unwrap_or(op.call));
    let faults = index.history.faults.iter();
    let faults = faults.filter(|fault| fault.at <= scan.at).map(|fault| Fault::longest(fault).1);
    operations.chain(faults).max().unwrap_or(0).min(scan.at)
}

/// Returns when each session was certainly ended, sorted.
fn ends(index: &Index<'_>) -> Vec<Nanos> {
    let ends = index.sessions.iter().filter_map(|session| {
        let certain = |each: &&Operation| each.op.change().is_some_and(|it| it.reach().is_some());
        let all = index.revoke_alls(session).iter().copied();
        let all = all.filter(|each| session.began < each.call);
        session.revokes().chain(all).filter(certain).map(Operation::end).min()
    });
    let mut ends: Vec<_> = ends.collect();
    ends.sort_unstable();
    ends
}
