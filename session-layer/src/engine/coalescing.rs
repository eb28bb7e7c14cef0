//! Coalescing: callers that wait for the store share the next read.
//!
//! Callers for one token share its place in the queue. One read serves the tokens of many callers
//! (`= ANY($1)`).
//!
//! **A caller joins only a read that has not begun.** [`CoalescingQueue::next`] removes the tokens
//! that it returns. A later caller for the same token therefore waits for another read. A read that
//! began earlier may show the row as it was before a revocation. A caller that came after that
//! revocation would then be let in.
//!
//! Every decision is a function of its arguments. `engine/queue.rs` adds the bulkhead.
//! `engine/store_reads.rs` and `engine/login_snapshots.rs` make the reads.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use smallvec::SmallVec;

/// The maximum number of tokens in one read.
///
/// Measured (`benches/benches/load.rs`, group `read`): the tokens per second rise until a read has
/// 128 or 256 tokens, and fall above that. The maximum is about thirty times the rate of single
/// reads. With 128, the first reply waits less for the last one.
pub(crate) const READ_BATCH: usize = 128;

/// Waiting callers of type `C`, by the key that they request, such as a token's digest. The keys
/// are in the order of their first callers.
#[derive(Debug)]
pub(crate) struct CoalescingQueue<K, C> {
    keys: HashMap<K, KeyCallers<C>>,
    order: VecDeque<K>,
    /// The number of the first key in `order`. It counts all keys that have left the queue.
    first: u64,
    callers: usize,
}

/// The callers for one key. Mostly there is one.
pub(crate) type Callers<C> = SmallVec<[C; 1]>;

/// The callers that wait for one key.
#[derive(Debug)]
struct KeyCallers<C> {
    number: u64,
    callers: Callers<C>,
}

impl<K, C> Default for CoalescingQueue<K, C> {
    fn default() -> Self {
        Self { keys: HashMap::new(), order: VecDeque::new(), first: 0, callers: 0 }
    }
}

impl<K: Copy + Eq + Hash, C> CoalescingQueue<K, C> {
    /// Returns how many full reads are made before the read that a caller for this key would join.
    pub(crate) fn reads_before(&self, key: &K) -> usize {
        let keys_before = match self.keys.get(key) {
            Some(place) => usize::try_from(place.number - self.first).unwrap_or(usize::MAX),
            None => self.order.len(),
        };
        keys_before / READ_BATCH
    }

    /// Adds a caller. Returns whether other callers wait for the same key already.
    pub(crate) fn join(&mut self, key: K, caller: C) -> bool {
        self.callers += 1;
        let number = self.first + self.order.len() as u64;
        let place = self.keys.entry(key).or_insert_with(|| {
            self.order.push_back(key);
            KeyCallers { number, callers: Callers::new() }
        });
        place.callers.push(caller);
        place.callers.len() > 1
    }

    /// Removes and returns the next read: the keys that waited longest, each with its callers.
    ///
    /// Callers that have left are skipped, and so is a key without callers. The read is empty if no
    /// caller waits.
    pub(crate) fn next(&mut self, is_there: impl Fn(&C) -> bool) -> Vec<(K, Callers<C>)> {
        let mut read = Vec::with_capacity(self.order.len().min(READ_BATCH));
        while read.len() < READ_BATCH
            && let Some(key) = self.order.pop_front()
        {
            self.first += 1;
            let Some(place) = self.keys.remove(&key) else {
                continue;
            };
            let mut callers = place.callers;
            self.callers -= callers.len();
            callers.retain(|caller| is_there(caller));
            if !callers.is_empty() {
                read.push((key, callers));
            }
        }
        read
    }

    /// Returns how many callers wait.
    pub(crate) fn callers(&self) -> usize {
        self.callers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::token::TokenDigest;

    fn digest(n: usize) -> TokenDigest {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
        TokenDigest::from_bytes(bytes)
    }

    fn of<const N: usize>(callers: [u32; N]) -> Callers<u32> {
        callers.into_iter().collect()
    }

    fn always(_: &u32) -> bool {
        true
    }

    #[test]
    fn callers_for_one_token_share_its_place_in_one_read() {
        let mut queue = CoalescingQueue::default();
        assert!(!queue.join(digest(1), 10));
        assert!(!queue.join(digest(2), 20));
        assert!(queue.join(digest(1), 11));
        assert_eq!(queue.callers(), 3);
        let read = queue.next(always);
        assert_eq!(read, [(digest(1), of([10, 11])), (digest(2), of([20]))]);
        assert_eq!((queue.callers(), queue.next(always).len()), (0, 0));
    }

    #[test]
    fn caller_after_a_read_began_waits_for_the_next_read() {
        let mut queue = CoalescingQueue::default();
        queue.join(digest(1), 10);
        let begun = queue.next(always);
        assert!(!queue.join(digest(1), 11), "no other caller waits");
        assert_eq!(begun, [(digest(1), of([10]))]);
        assert_eq!(queue.next(always), [(digest(1), of([11]))]);
    }

    #[test]
    fn token_without_remaining_callers_is_not_read() {
        let mut queue = CoalescingQueue::default();
        for (token, caller) in [(1, 10), (2, 20), (1, 11), (3, 30)] {
            queue.join(digest(token), caller);
        }
        let read = queue.next(|caller| ![10, 20].contains(caller));
        assert_eq!(read, [(digest(1), of([11])), (digest(3), of([30]))]);
        assert_eq!(queue.callers(), 0);
        assert!(!queue.join(digest(2), 21));
        assert_eq!(queue.next(always), [(digest(2), of([21]))]);
    }

    #[test]
    fn large_queue_is_read_in_order_in_bounded_batches() {
        let mut queue = CoalescingQueue::default();
        let tokens = READ_BATCH * 2 + 1;
        for n in 0..tokens {
            assert_eq!(queue.reads_before(&digest(n)), n / READ_BATCH);
            queue.join(digest(n), 0);
        }
        assert_eq!(queue.reads_before(&digest(0)), 0);
        assert_eq!(queue.reads_before(&digest(tokens)), 2);
        let mut seen = Vec::new();
        for expected in [READ_BATCH, READ_BATCH, 1, 0] {
            let read = queue.next(always);
            assert_eq!(read.len(), expected);
            seen.extend(read.into_iter().map(|(digest, _)| digest));
            // A read that has begun does not delay the next callers.
            if let Some(left) = (seen.len()..tokens).next() {
                assert_eq!(queue.reads_before(&digest(left)), 0);
            }
        }
        assert_eq!(seen, (0..tokens).map(digest).collect::<Vec<_>>());
    }
}
