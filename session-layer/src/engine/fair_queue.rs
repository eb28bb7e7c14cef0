//! Fairness: parties that wait for a turn get one each, in rotation.
//!
//! A party with thousands of callers delays another party by one turn. If there are two slots or
//! more, no party occupies the last one. A slot is therefore soon free for other parties, even if
//! all calls of this party are slow.
//!
//! Every decision is a function of its arguments. `engine/admission.rs` adds the bulkhead.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Waiting callers of type `C`, by party.
#[derive(Debug)]
pub(crate) struct FairQueue<K, C> {
    parties: HashMap<K, FairParty<C>>,
    /// The parties with waiting callers, in the order of their turns.
    order: VecDeque<K>,
    /// The limit of concurrent turns of one party.
    share: usize,
    callers: usize,
}

/// A party with waiting callers or current turns.
#[derive(Debug)]
struct FairParty<C> {
    waiting: VecDeque<C>,
    turns: usize,
}

impl<K: Clone + Eq + Hash, C> FairQueue<K, C> {
    /// Creates a queue with this limit of concurrent turns.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            parties: HashMap::new(),
            order: VecDeque::new(),
            share: limit.saturating_sub(1).max(1),
            callers: 0,
        }
    }

    /// Returns whether the party may have a further concurrent turn.
    pub(crate) fn has_share_left(&self, key: &K) -> bool {
        self.parties.get(key).is_none_or(|party| party.turns < self.share)
    }

    /// Returns the maximum number of turns before the turn of a caller of this party that comes
    /// now.
    pub(crate) fn turns_before(&self, key: &K) -> usize {
        let own = self.parties.get(key).map_or(0, |party| party.waiting.len());
        let others = self.order.len() - usize::from(own > 0);
        own + others.saturating_mul(own + 1).min(self.callers - own)
    }

    /// Adds a caller that waits.
    pub(crate) fn join(&mut self, key: K, caller: C) {
        let party = self.parties.entry(key.clone()).or_default();
        if party.waiting.is_empty() {
            self.order.push_back(key);
        }
        party.waiting.push_back(caller);
        self.callers += 1;
    }

    /// Records that a turn of this party begins.
    pub(crate) fn begin(&mut self, key: K) {
        self.parties.entry(key).or_default().turns += 1;
    }

    /// Records that a turn of this party has ended.
    pub(crate) fn end(&mut self, key: &K) {
        if let Some(party) = self.parties.get_mut(key) {
            party.turns -= 1;
            self.remove_if_idle(key);
        }
    }

    /// Begins the next turn, and returns its caller. Callers that have left are skipped. Returns
    /// `None` if no waiting caller's party may have a further turn.
    pub(crate) fn next(&mut self, is_there: impl Fn(&C) -> bool) -> Option<(K, C)> {
        for _ in 0..self.order.len() {
            let key = self.order.pop_front()?;
            let Some(party) = self.parties.get_mut(&key) else {
                continue;
            };
            let mut next = None;
            if party.turns < self.share {
                while next.is_none()
                    && let Some(caller) = party.waiting.pop_front()
                {
                    self.callers -= 1;
                    next = is_there(&caller).then_some(caller);
                }
            }
            if !party.waiting.is_empty() {
                self.order.push_back(key.clone());
            }
            if let Some(caller) = next {
                party.turns += 1;
                return Some((key, caller));
            }
            self.remove_if_idle(&key);
        }
        None
    }

    /// Returns how many callers wait.
    pub(crate) fn waiting(&self) -> usize {
        self.callers
    }

    /// Removes a party without turns and waiting callers.
    fn remove_if_idle(&mut self, key: &K) {
        let is_idle = |party: &FairParty<C>| party.turns == 0 && party.waiting.is_empty();
        if self.parties.get(key).is_some_and(is_idle) {
            self.parties.remove(key);
        }
    }
}

impl<C> Default for FairParty<C> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), turns: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn always(_: &usize) -> bool {
        true
    }

    /// Begins and ends turns until no caller waits. Returns them in order.
    fn all_turns(fair: &mut FairQueue<&'static str, usize>) -> Vec<(&'static str, usize)> {
        let mut turns = Vec::new();
        while let Some((party, caller)) = fair.next(always) {
            fair.end(&party);
            turns.push((party, caller));
        }
        turns
    }

    #[test]
    fn party_with_many_callers_delays_another_by_one_turn() {
        let mut fair = FairQueue::new(3);
        for caller in 0..6_000 {
            fair.join("mallory", caller);
        }
        assert_eq!(fair.turns_before(&"mallory"), 6_000);
        assert_eq!(fair.turns_before(&"alice"), 1);
        fair.join("alice", 1);
        assert_eq!(fair.turns_before(&"bob"), 2);
        fair.join("bob", 2);
        fair.join("alice", 3);
        let turns = all_turns(&mut fair);
        assert_eq!(
            turns[..6],
            [
                ("mallory", 0),
                ("alice", 1),
                ("bob", 2),
                ("mallory", 1),
                ("alice", 3),
                ("mallory", 2)
            ]
        );
        assert_eq!((turns.len(), fair.waiting()), (6_003, 0));
        assert!(fair.parties.is_empty() && fair.order.is_empty());
    }

    #[test]
    fn party_with_many_callers_leaves_the_last_slot() {
        for (limit, share) in [(1, 1), (2, 1), (4, 3)] {
            let mut fair = FairQueue::new(limit);
            for caller in 0..10 {
                fair.join("mallory", caller);
            }
            for caller in 0..share {
                assert!(fair.has_share_left(&"mallory"));
                assert_eq!(fair.next(always), Some(("mallory", caller)));
            }
            assert!(!fair.has_share_left(&"mallory"));
            assert_eq!(fair.next(always), None);
            fair.join("alice", 77);
            assert!(fair.has_share_left(&"alice"));
            assert_eq!(fair.next(always), Some(("alice", 77)));
            fair.end(&"mallory");
            assert_eq!(fair.next(always), Some(("mallory", share)));
        }
    }

    #[test]
    fn callers_that_left_are_skipped() {
        let mut fair = FairQueue::new(2);
        for (party, caller) in [("alice", 1), ("alice", 2), ("bob", 3), ("bob", 4)] {
            fair.join(party, caller);
        }
        let left = |caller: &usize| ![1, 2, 3].contains(caller);
        assert_eq!(fair.next(left), Some(("bob", 4)));
        assert_eq!((fair.next(left), fair.waiting()), (None, 0));
        fair.end(&"bob");
        assert!(fair.parties.is_empty() && fair.order.is_empty());
    }

    #[test]
    fn caller_waits_for_no_more_turns_than_predicted() {
        let mut fair = FairQueue::new(2);
        for caller in 0..30 {
            fair.join(["a", "a", "a", "b", "b", "c"][caller % 6], caller);
        }
        let expected = fair.turns_before(&"b");
        fair.join("b", 99);
        let turns = all_turns(&mut fair);
        let position = turns.iter().position(|(_, caller)| *caller == 99);
        assert!(position.is_some_and(|position| position <= expected), "{position:?} {expected}");
    }
}
