//! From when on a change of several parts holds on every node.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use session_layer::{Sessions, Visibility};
use tokio::time::Instant;

/// The visibility of the parts of a change, each from its own commit on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// There was nothing to change.
    Nothing,
    /// On every node, from now on.
    Propagated,
    /// On connected nodes from the first moment on, on every node from the second on.
    Committed { within: Instant, at_most: Instant },
}

impl Reached {
    /// Adds a part that was committed by `now`.
    pub(super) fn and(self, part: Visibility, now: Instant) -> Self {
        match (self, part) {
            (sum, Visibility::Nothing) => sum,
            (Self::Committed { .. }, Visibility::Propagated) => self,
            (Self::Nothing | Self::Propagated, Visibility::Propagated) => Self::Propagated,
            (sum, Visibility::Committed { within, at_most }) => {
                let (within, at_most) = (now + within, now + at_most);
                match sum {
                    Self::Committed { within: first, at_most: last } => {
                        Self::Committed { within: first.max(within), at_most: last.max(at_most) }
                    }
                    _ => Self::Committed { within, at_most },
                }
            }
            // A later version of the library may know more. Nothing is promised then.
            (sum, _) => sum,
        }
    }

    /// Returns why the change is only committed, as far as this node knows.
    pub(super) fn why(self, node: &Sessions) -> Option<&'static str> {
        let Self::Committed { .. } = self else { return None };
        let cache = node.cache_status();
        Some(match (cache.backend, cache.connected) {
            ("none", _) => {
                "there is no Redis with entries to remove, so each node reads the journal"
            }
            (_, false) => {
                "Redis is not connected, so entries stay there until they are rejected: \
                 `sessionctl check` shows the cause"
            }
            _ => {
                "Redis has or had replicas, is a cluster or behind sentinels, or did not \
                 acknowledge the removal. Or a node has a near cache or another Redis or namespace"
            }
        })
    }

    /// Returns the fields of a JSON document, as of `now`. `why` is what [`why`](Self::why) returns.
    pub(super) fn json(self, why: Option<&str>, now: Instant) -> Value {
        match self {
            Self::Nothing => json!({ "revoked": "nothing" }),
            Self::Propagated => json!({ "revoked": "propagated" }),
            Self::Committed { within, at_most } => json!({
                "revoked": "committed",
                "withinMs": millis(within.saturating_duration_since(now)),
                "atMostMs": millis(at_most.saturating_duration_since(now)),
                "why": why,
            }),
        }
    }

    /// Returns the text for a reader, as of `now`.
    pub(super) fn line(self, why: Option<&str>, now: Instant) -> impl fmt::Display {
        let left = |at: Instant| at.saturating_duration_since(now).as_secs_f64();
        match self {
            Self::Nothing => "nothing had to be changed".to_owned(),
            Self::Propagated => "propagated: every node rejects them from now on".to_owned(),
            Self::Committed { within, at_most } => format!(
                "committed: nodes that reach Postgres reject them within {:.1} s, all nodes \
                 within {:.1} s{}",
                left(within),
                left(at_most),
                why.map(|why| format!("\n   why: {why}")).unwrap_or_default()
            ),
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_commit_decides_when_all_parts_hold() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let committed = Visibility::Committed { within: 2 * second, at_most: 302 * second };
        let sum = Reached::Nothing.and(Visibility::Nothing, now);
        assert_eq!(sum, Reached::Nothing);
        let sum = sum.and(Visibility::Propagated, now);
        assert_eq!(sum, Reached::Propagated);
        let sum = sum.and(committed, now).and(Visibility::Propagated, now + second);
        let sum = sum.and(committed, now + second);
        let expected = json!({
            "revoked": "committed", "withinMs": 2000, "atMostMs": 302_000, "why": "it is far",
        });
        assert_eq!(sum.json(Some("it is far"), now + second), expected);
        let line = sum.line(Some("it is far"), now + second).to_string();
        assert!(line.contains("within 2.0 s") && line.ends_with("why: it is far"), "{line}");
    }
}
