//! Counts of validations of revoked tokens soon after their revoke.

use std::collections::HashMap;

use crate::{
    history::{Change, History, Nanos, Op, nanos},
    workload::Settings,
};

/// The requests per required validation, which makes 1,000 at 2,000 requests/s for 30 s.
const REQUESTS_PER_TRY: u64 = 60;

/// Returns the required number of validations, in proportion to the requests.
pub(super) fn required(settings: &Settings) -> u64 {
    let millis = u64::try_from(settings.duration.as_millis()).unwrap_or(u64::MAX);
    let requests = u64::from(settings.rate).saturating_mul(millis) / 1_000;
    requests.div_ceil(REQUESTS_PER_TRY)
}

/// Returns the number of validations that began within D after an acknowledged revoke.
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
    fn validation_within_d_of_an_acknowledged_revoke_counts() {
        let lines = r#"{"header":{"version":1,"seed":7,"nodes":1,"parameters":{"d_ms":2000}}}
{"op":{"node":0,"call":0,"do":{"create":{"session":1,"user":"u","data":"a"}}}}
{"op":{"node":0,"call":0,"do":{"create":{"session":2,"user":"u","data":"b"}}}}
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
    fn full_load_requires_a_thousand() {
        let mut settings = Settings::new(7);
        assert_eq!(required(&settings), 1_000);
        settings.rate = 100;
        assert_eq!(required(&settings), 50);
    }
}
