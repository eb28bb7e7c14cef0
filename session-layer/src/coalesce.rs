//! Coalescing: callers that wait for a read of the store gather into the next one.
//!
//! Those who ask for one token share its place, and the tokens of many become one read
//! (`= ANY($1)`). **A caller joins only a read that has not begun.** What is handed out by
//! [`Gathering::next`] is gone from here, so whoever comes later, for the same token too, waits for another
//! read: one that had begun before may have seen the row before a revocation that this caller came
//! after, and it would be let in by it.
//!
//! A function of what it is told; `reads.rs` does the reading.

use std::collections::{HashMap, VecDeque};

use crate::token::TokenDigest;

/// How many tokens go into one read at most. Measured (`benches/load.rs`, group `read`): tokens per second
/// rise up to 128 or 256 in a read, to some thirty times what reads of one give, and fall again beyond; and
/// with 128 the first answer waits less for the last.
pub(crate) const BATCH: usize = 128;

/// Callers of type `C`, by the token they ask for, in the order in which its first one came.
#[derive(Debug)]
pub(crate) struct Gathering<C> {
    places: HashMap<TokenDigest, Place<C>>,
    order: VecDeque<TokenDigest>,
    /// How many places were handed out or given up since the start: the number of the first in `order`.
    first: u64,
    callers: usize,
}

/// Who waits for one token.
#[derive(Debug)]
struct Place<C> {
    number: u64,
    callers: Vec<C>,
}

impl<C> Default for Gathering<C> {
    fn default() -> Self {
        Self {
            places: HashMap::new(),
            order: VecDeque::new(),
            first: 0,
            callers: 0,
        }
    }
}

impl<C> Gathering<C> {
    /// How many full reads are made before the one that a caller for this token would join now.
    pub(crate) fn reads_before(&self, digest: &TokenDigest) -> usize {
        let tokens = match self.places.get(digest) {
            Some(place) => usize::try_from(place.number - self.first).unwrap_or(usize::MAX),
            None => self.order.len(),
        };
        tokens / BATCH
    }

    /// Adds a caller. True if others wait for the same token already.
    pub(crate) fn join(&mut self, digest: TokenDigest, caller: C) -> bool {
        self.callers += 1;
        let number = self.first + self.order.len() as u64;
        let place = self.places.entry(digest).or_insert_with(|| {
            self.order.push_back(digest);
            Place {
                number,
                callers: Vec::with_capacity(1),
            }
        });
        place.callers.push(caller);
        place.callers.len() > 1
    }

    /// The next read: the tokens that waited longest, each with its callers. Callers that are not there
    /// any more are left out, and with the last of them the token. Empty when nobody waits.
    pub(crate) fn next(&mut self, is_there: impl Fn(&C) -> bool) -> Vec<(TokenDigest, Vec<C>)> {
        let mut read = Vec::with_capacity(self.order.len().min(BATCH));
        while read.len() < BATCH
            && let Some(digest) = self.order.pop_front()
        {
            self.first += 1;
            let Some(place) = self.places.remove(&digest) else {
                continue;
            };
            let mut callers = place.callers;
            self.callers -= callers.len();
            callers.retain(&is_there);
            if !callers.is_empty() {
                read.push((digest, callers));
            }
        }
        read
    }

    /// How many callers wait.
    pub(crate) fn callers(&self) -> usize {
        self.callers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: usize) -> TokenDigest {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
        TokenDigest::from_bytes(bytes)
    }

    fn always(_: &u32) -> bool {
        true
    }

    #[test]
    fn callers_for_one_token_share_a_place_and_tokens_a_read() {
        let mut gathering = Gathering::default();
        assert!(!gathering.join(digest(1), 10));
        assert!(!gathering.join(digest(2), 20));
        assert!(gathering.join(digest(1), 11));
        assert_eq!(gathering.callers(), 3);
        let read = gathering.next(always);
        assert_eq!(read, [(digest(1), vec![10, 11]), (digest(2), vec![20])]);
        assert_eq!((gathering.callers(), gathering.next(always).len()), (0, 0));
    }

    #[test]
    fn who_comes_after_a_read_was_handed_out_waits_for_another() {
        let mut gathering = Gathering::default();
        gathering.join(digest(1), 10);
        let begun = gathering.next(always);
        assert!(!gathering.join(digest(1), 11), "nobody else waits");
        assert_eq!(begun, [(digest(1), vec![10])]);
        assert_eq!(gathering.next(always), [(digest(1), vec![11])]);
    }

    #[test]
    fn a_token_is_read_for_those_who_are_still_there() {
        let mut gathering = Gathering::default();
        for (token, caller) in [(1, 10), (2, 20), (1, 11), (3, 30)] {
            gathering.join(digest(token), caller);
        }
        let read = gathering.next(|caller| ![10, 20].contains(caller));
        assert_eq!(read, [(digest(1), vec![11]), (digest(3), vec![30])]);
        assert_eq!(gathering.callers(), 0);
        assert!(!gathering.join(digest(2), 21));
        assert_eq!(gathering.next(always), [(digest(2), vec![21])]);
    }

    #[test]
    fn reads_are_bounded_and_first_come_first_served() {
        let mut gathering = Gathering::default();
        let tokens = BATCH * 2 + 1;
        for n in 0..tokens {
            assert_eq!(gathering.reads_before(&digest(n)), n / BATCH);
            gathering.join(digest(n), 0);
        }
        assert_eq!(gathering.reads_before(&digest(0)), 0);
        assert_eq!(gathering.reads_before(&digest(tokens)), 2);
        let mut seen = Vec::new();
        for expected in [BATCH, BATCH, 1, 0] {
            let read = gathering.next(always);
            assert_eq!(read.len(), expected);
            seen.extend(read.into_iter().map(|(digest, _)| digest));
            // What has begun is not before anybody any more.
            if let Some(left) = (seen.len()..tokens).next() {
                assert_eq!(gathering.reads_before(&digest(left)), 0);
            }
        }
        assert_eq!(seen, (0..tokens).map(digest).collect::<Vec<_>>());
    }
}
