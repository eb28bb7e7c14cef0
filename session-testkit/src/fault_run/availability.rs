//! Counts for the promise "no 5xx while one store is reachable".

use serde::Serialize;

use super::loses_single_commands;
use crate::{
    history::{Fault, History, Nanos},
    subject::Seen,
};

/// Counts of validations that returned Unavailable, by the stores that were reachable.
///
/// Postgres can validate every token, therefore the budget with Postgres is 0. Redis alone can
/// validate only the sessions that it has an entry of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Availability {
    /// Unavailable although Postgres was reachable throughout. The budget is 0.
    pub unavailable_with_postgres: u64,
    /// All validations with a response during that time.
    pub answered_with_postgres: u64,
    /// Unavailable while Postgres may have been unreachable, and Redis was reachable.
    pub unavailable_with_redis_alone: u64,
    /// All validations with a response during that time.
    pub answered_with_redis_alone: u64,
    /// Unavailable while both may have been unreachable.
    pub unavailable_with_neither: u64,
    /// All validations with a response during that time.
    pub answered_with_neither: u64,
}

impl Availability {
    pub(super) fn of(history: &History) -> Self {
        let mut counts = Self::default();
        for operation in &history.operations {
            let (Some(seen), Some(ret)) = (operation.op.seen(), operation.ret) else {
                continue;
            };
            let unavailable = u64::from(*seen == Seen::Unavailable);
            let affected = |cut: fn(&Fault) -> bool| {
                let mut faults = history.faults.iter();
                faults.any(|fault| {
                    cut(fault)
                        && fault.affects(operation.node)
                        && overlap(fault.longest(), (operation.call, ret))
                })
            };
            let (of, answered) = match (
                affected(|f| f.no_postgres),
                affected(|f| f.no_redis && !loses_single_commands(f)),
            ) {
                (false, _) => {
                    (&mut counts.unavailable_with_postgres, &mut counts.answered_with_postgres)
                }
                (true, false) => (
                    &mut counts.unavailable_with_redis_alone,
                    &mut counts.answered_with_redis_alone,
                ),
                (true, true) => {
                    (&mut counts.unavailable_with_neither, &mut counts.answered_with_neither)
                }
            };
            *of += unavailable;
            *answered += 1;
        }
        counts
    }
}

fn overlap(one: (Nanos, Nanos), other: (Nanos, Nanos)) -> bool {
    one.0 <= other.1 && other.0 <= one.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validations_count_by_reachable_stores() {
        let lines = r#"{"header":{"version":1,"seed":7,"nodes":2,"parameters":{}}}
{"fault":{"name":"postgres-kill","at":100,"until":200,"no_postgres":true}}
{"fault":{"name":"redis-kill","at":150,"until":300,"no_redis":true,"nodes":[0]}}
{"fault":{"name":"lose-fences","at":0,"until":300,"no_redis":true}}
{"op":{"node":0,"call":10,"ret":20,"do":{"validate_random":{"answer":"unavailable"}}}}
{"op":{"node":0,"call":90,"ret":99,"do":{"validate_random":{"answer":"invalid"}}}}
{"op":{"node":0,"call":90,"ret":100,"do":{"validate_random":{"answer":"unavailable"}}}}
{"op":{"node":0,"call":140,"ret":160,"do":{"validate_random":{"answer":"unavailable"}}}}
{"op":{"node":1,"call":140,"ret":160,"do":{"validate_random":{"answer":"invalid"}}}}
{"op":{"node":0,"call":250,"ret":260,"do":{"validate_random":{"answer":"unavailable"}}}}
{"op":{"node":0,"call":250,"do":{"validate_random":{}}}}"#;
        let counts = Availability::of(&History::read(lines.as_bytes()).unwrap());
        let expected = Availability {
            unavailable_with_postgres: 2,
            answered_with_postgres: 3,
            unavailable_with_redis_alone: 1,
            answered_with_redis_alone: 2,
            unavailable_with_neither: 1,
            answered_with_neither: 1,
        };
        assert_eq!(counts, expected);
    }
}
