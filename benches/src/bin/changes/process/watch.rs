//! The observation of an ending session: how long this node accepts it.

use std::{sync::Arc, time::Duration};

use session_layer::Validation;
use tokio::{
    sync::watch::{self, Receiver, error::RecvError},
    time::sleep,
};

use super::{Node, locked};
use crate::{
    moment::Moment,
    names::Who,
    protocol::{Bounds, FromNode, Invalid},
};

/// The interval at which an active session is validated. It is short enough for hits, and long
/// enough to cause no load.
const BEFORE: Duration = Duration::from_millis(20);
/// The divisor of an age that gives its precision. Many sessions may stay valid for seconds. Their
/// validations would otherwise keep the node from reading the journal.
const EXACT: u32 = 100;

impl Node {
    /// Begins to wait for the bounds of this session's end.
    pub(super) fn watched(&self, who: Who) -> Receiver<Option<Bounds>> {
        let (sender, bounds) = watch::channel(None);
        locked(&self.watched).insert(who, sender);
        bounds
    }

    /// Passes the bounds of an ended session on.
    pub(super) fn ended(&self, who: Who, bounds: Bounds) {
        if let Some(sender) = locked(&self.watched).remove(&who) {
            sender.send_replace(Some(bounds));
        }
    }

    /// Validates the session until it is invalid, and reports that.
    pub(super) async fn watch(self: Arc<Self>, who: Who, mut ended: Receiver<Option<Bounds>>) {
        let token = self.names.token(who);
        let at = loop {
            let (began, age) = (Moment::now(), self.sessions.metrics().journal_age);
            let answer = self.sessions.validate(&token).await;
            let bounds = *ended.borrow_and_update();
            match answer {
                Validation::Invalid => break Moment::now(),
                Validation::Valid(_) => {
                    if let Some(bounds) = bounds
                        && bounds.are_exceeded_by(began)
                    {
                        let in_touch = bounds.are_of_a_node_in_touch(age);
                        locked(&self.figures).let_in(in_touch);
                    }
                }
                // An outage: the session was not accepted, and the next validation decides.
                _ => {}
            }
            match bounds {
                Some(bounds) => sleep(pause(self.poll, Moment::now().since(bounds.at))).await,
                None => {
                    tokio::select! {
                        () = sleep(BEFORE) => {}
                        _ = ended.changed() => {}
                    }
                }
            }
        };
        let known: Result<_, RecvError> = ended.wait_for(Option::is_some).await.map(|_| ());
        if known.is_err() {
            // The node shuts down.
            return;
        }
        locked(&self.invalid).push(who);
        self.report(FromNode::Invalid(Invalid { who, at }));
    }

    /// Validates all sessions again that were reported as invalid. Returns how many are valid.
    pub(super) async fn recheck(&self) -> u64 {
        let invalid = locked(&self.invalid).clone();
        let mut let_in = 0;
        for who in invalid {
            let answer = self.sessions.validate(&self.names.token(who)).await;
            let_in += u64::from(matches!(answer, Validation::Valid(_)));
        }
        let_in
    }
}

/// Returns the pause before the next validation of a session that ended this long ago.
fn pause(poll: Duration, age: Duration) -> Duration {
    poll.max(age / EXACT)
}

impl Bounds {
    /// Returns whether a validation that began at this time must not accept the session.
    fn are_exceeded_by(self, began: Moment) -> bool {
        began > self.at.plus(self.within)
    }

    /// Returns whether a node with this age of its journal was connected to Postgres.
    fn are_of_a_node_in_touch(self, journal_age: Option<Duration>) -> bool {
        journal_age.is_some_and(|age| age <= self.staleness_bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: Duration = Duration::from_secs(2);

    #[test]
    fn bound_counts_from_the_commit() {
        let at = Moment::from(1_000);
        let bounds = |within| Bounds { at, within, staleness_bound: D };
        assert!(!bounds(D).are_exceeded_by(at.plus(D)));
        assert!(bounds(D).are_exceeded_by(at.plus(D).plus(Duration::from_nanos(1))));
        // After `Propagated`, it applies to the very next validation.
        assert!(bounds(Duration::ZERO).are_exceeded_by(Moment::from(1_001)));
    }

    #[test]
    fn age_is_exact_to_the_poll_or_a_hundredth() {
        let poll = Duration::from_millis(5);
        assert_eq!(pause(poll, Duration::ZERO), poll);
        assert_eq!(pause(poll, poll * 100), poll);
        assert_eq!(pause(poll, poll * 400), poll * 4);
    }

    #[test]
    fn node_with_an_old_journal_is_cut_off() {
        let bounds = Bounds { at: Moment::BOOT, within: D, staleness_bound: D };
        assert!(bounds.are_of_a_node_in_touch(Some(D)));
        assert!(!bounds.are_of_a_node_in_touch(Some(D + Duration::from_millis(1))));
        assert!(!bounds.are_of_a_node_in_touch(None));
    }
}
