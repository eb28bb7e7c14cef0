//! How hard the run tried: validates of revoked tokens soon after their revoke.

use std::collections::HashMap;

use crate::{
    history::{Change, History, Nanos, Op, nanos},
    workload::Settings,
};

/// At 2,000 requests/s for 30 s: 1,000.
const REQUESTS_PER_TRY: u64 = 60;

/// How many there should be: 1,000 at 2,000 requests/s for 30 s, as many fewer as there are requests.
pub(super) fn wanted(settings: &Settings) -> u64 {
    let millis = u64::try_from(settings.duration.as_millis()).unwrap_or(u64::MAX);
    let requests = u64::from(settings.rate).saturating_mul(millis) / 1_000;
    requests.div_ceil(REQUESTS_PER_TRY)
}

/// Validates that began within D after a revoke of their session was answered for certain.
pub(super) fn tried(history: &History) -> u64 {
    let mut ends: HashMap<u32, Vec<Nanos>> = HashMap::new();
    for operation in &history.operations {
        if let Op::Revoke {
            session,
            answer: Some(Change::Propagated | Change::Committed { .. }),
            ..
        } = operation.op
        {
            ends.entry(session).or_default().push(operation.end());
        }
    }
    let d = nanos(history.header.parameters.d);
    let soon = |session: u32, call: Nanos| {
        let mut ends = ends.get(&session).into_iter().flatten();
        ends.any(|end| *end <= call && call <= end.saturating_add(d))
    };
    let validates = history.operations.iter().filter(|operation| {
        matches!(operation.op, Op::Validate { session, .. } if soon(session, operation.call))
    });
    validates.count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_begins_within_d_of_an_answered_revoke_counts() {
        let lines = r#"{"header":{"version":1,"seed":7,"nodes":1,"parameters":{"d_ms":2000}}}
{"op":{"node":0,"call":0,"ret":1,"do":{"create":{"session":1,"user":"u","data":"a","answer":"created"}}}}
{"op":{"node":0,"call":0,"ret":1,"do":{"create":{"session":2,"user":"u","data":"b","answer":"created"}}}}
{"op":{"node":0,"call":10,"ret":100,"do":{"revoke":{"session":1,"answer":"propagated"}}}}
{"op":{"node":0,"call":10,"ret":100,"do":{"revoke":{"session":2,"answer":{"refused":"no"}}}}}
{"op":{"node":0,"call":50,"ret":60,"do":{"validate":{"session":1,"answer":"invalid"}}}}
{"op":{"node":0,"call":100,"ret":160,"do":{"validate":{"session":1,"answer":"invalid"}}}}
{"op":{"node":0,"call":2000000100,"do":{"validate":{"session":1}}}}
{"op":{"node":0,"call":2000000101,"do":{"validate":{"session":1}}}}
{"op":{"node":0,"call":150,"ret":160,"do":{"validate":{"session":2,"answer":"invalid"}}}}"#;
        assert_eq!(tried(&History::read(lines.as_bytes()).unwrap()), 2);
    }

    #[test]
    fn the_bar_is_a_thousand_at_full_load() {
        let mut settings = Settings::new(7);
        assert_eq!(wanted(&settings), 1_000);
        settings.rate = 100;
        assert_eq!(wanted(&settings), 50);
    }
}
