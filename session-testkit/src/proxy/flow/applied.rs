//! One toxic on one direction of one connection.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::proxy::{
    active::{Active, End, Touched},
    random::Random,
    toxic::{Direction, Kind, Toxic},
};

/// The time from a request whose reply is lost to the end of the connection. The server executes
/// the command meanwhile.
const EXECUTION_TIME: Duration = Duration::from_millis(20);

/// A toxic and its state on this direction.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) id: u64,
    pub(super) toxic: Arc<Toxic>,
    pub(super) touched: Arc<Touched>,
    number: u64,
    direction: Direction,
    since: Instant,
    passed: u64,
    /// The number of bytes in the queue that are counted as affected.
    counted: usize,
    /// The last bytes that passed, one less than the pattern has, because it may begin there.
    tail: Vec<u8>,
    /// Whether the pattern has occurred and was selected.
    triggered: bool,
    /// The number of occurrences that were spared, and the rest of the current one in bytes.
    spared: (u64, usize),
}

impl Applied {
    pub(super) fn new(active: &Active, number: u64, direction: Direction, begun: Instant) -> Self {
        Self {
            number,
            direction,
            id: active.id,
            toxic: Arc::clone(&active.toxic),
            touched: Arc::clone(&active.touched),
            since: active.since.max(begun),
            passed: 0,
            counted: 0,
            tail: Vec::new(),
            triggered: false,
            spared: (0, 0),
        }
    }

    pub(super) fn holds(&self) -> bool {
        match &self.toxic.kind {
            Kind::Hold { from: None } => true,
            Kind::Hold { from: Some(_) } => self.triggered,
            Kind::ForgetIdle { .. } => self.touched.has(self.number),
            Kind::Lose { reply: true, .. } => {
                self.direction == Direction::ToClient
                    && self.touched.losing_since(self.number).is_some()
            }
            _ => false,
        }
    }

    /// Returns when it forgets the connection, unless it has already. From then on it holds.
    pub(super) fn forgets(&self) -> Option<Instant> {
        match self.toxic.kind {
            Kind::ForgetIdle { after } if !self.holds() => Some(self.idle_since() + after),
            _ => None,
        }
    }

    fn idle_since(&self) -> Instant {
        self.touched.last(self.number).unwrap_or(self.since).max(self.since)
    }

    /// Returns when it ends the connection, if it does. `finished`: one side has closed it.
    pub(super) fn ends(
        &self,
        pending: bool,
        finished: bool,
        now: Instant,
    ) -> Option<(Instant, End)> {
        match self.toxic.kind {
            Kind::Idle { after } => Some((self.idle_since() + after, End::Close)),
            // The other side would learn of it from its own keepalives.
            Kind::ForgetIdle { .. } if finished && self.holds() => Some((now, End::Close)),
            Kind::ResetPeer { after } => Some((self.since + after, End::Reset)),
            Kind::LimitData { bytes } if self.passed >= bytes && (pending || bytes > 0) => {
                Some((now, End::Close))
            }
            Kind::Lose { reply: false, .. } => self.triggered.then_some((now, End::Close)),
            Kind::Lose { reply: true, .. } => {
                let since = self.touched.losing_since(self.number)?;
                Some((since + EXECUTION_TIME, End::Close))
            }
            _ => None,
        }
    }

    /// Counts the first `length` bytes of the queue as affected, each once.
    pub(super) fn touch(&mut self, length: usize) {
        let new = length.saturating_sub(self.counted);
        if new > 0 {
            self.touched.bytes(self.number, count(new));
            self.counted = length;
        } else if length == 0 {
            self.touched.connection(self.number);
        }
    }

    /// Counts the occurrences in bytes that are about to be written, each once. After the write it
    /// would be too late: the receiver could read the count before.
    pub(super) fn count_occurrences(&mut self, portion: &[u8]) {
        let Kind::Count { pattern } = &self.toxic.kind else { return };
        let Some(new) = portion.get(self.counted..) else { return };
        // An occurrence that ends in the tail was already counted.
        let seen = [self.tail.as_slice(), new].concat();
        let times = seen.windows(pattern.len().max(1)).filter(|window| window == pattern).count();
        self.touched.occurred(count(times));
        remember(&mut self.tail, new, pattern);
        self.counted = portion.len();
    }

    /// Returns how many bytes of `rest` may pass at once.
    pub(super) fn portion(&mut self, rest: &[u8], random: &mut Random) -> usize {
        match &self.toxic.kind {
            Kind::Slicer { average, variation, .. } => {
                let least = average.saturating_sub(*variation);
                random.between(least, average.saturating_add(*variation)).max(1)
            }
            Kind::LimitData { bytes } => {
                usize::try_from(bytes.saturating_sub(self.passed)).unwrap_or(usize::MAX)
            }
            Kind::Hold { from: Some(pattern) } if !self.triggered => {
                let Some(at) = found(&self.tail, rest, pattern) else {
                    return usize::MAX;
                };
                self.triggered = at == 0;
                at
            }
            Kind::Lose { .. } => self.lose(rest),
            _ => usize::MAX,
        }
    }

    /// Stops before the pattern and decides there whether this occurrence is lost.
    fn lose(&mut self, rest: &[u8]) -> usize {
        let toxic = Arc::clone(&self.toxic);
        let Kind::Lose { pattern, reply, chance, seed } = &toxic.kind else {
            return usize::MAX;
        };
        if *reply && (self.triggered || self.direction == Direction::ToClient) {
            return usize::MAX;
        }
        let (times, passing) = self.spared;
        if passing > 0 {
            return passing;
        }
        match found(&self.tail, rest, pattern) {
            None => usize::MAX,
            Some(0) => {
                let drawn = Random::nth(seed ^ self.number.rotate_left(32), times).next();
                if *chance >= 1.0 || drawn < *chance {
                    self.triggered = true;
                    return if *reply { usize::MAX } else { 0 };
                }
                // A pattern that began in the tail passes byte by byte.
                let passing = if rest.starts_with(pattern) {
                    pattern.len().max(1)
                } else {
                    self.tail.clear();
                    1
                };
                self.spared.1 = passing;
                passing
            }
            Some(at) => at,
        }
    }

    /// Records the written bytes, and returns for how long no more may be written.
    pub(super) fn wrote(&mut self, gone: &[u8], now: Instant) -> Duration {
        self.passed += count(gone.len());
        self.counted = self.counted.saturating_sub(gone.len());
        match &self.toxic.kind {
            Kind::Slicer { gap, .. } => return *gap,
            Kind::Idle { .. } | Kind::ForgetIdle { .. } => self.touched.came_by(self.number, now),
            Kind::Hold { from: Some(pattern) } => remember(&mut self.tail, gone, pattern),
            Kind::Lose { pattern, reply, .. } => {
                remember(&mut self.tail, gone, pattern);
                if *reply && self.triggered {
                    self.touched.lose_from(self.number, now);
                }
                let (times, passing) = self.spared;
                if passing > 0 {
                    let left = passing.saturating_sub(gone.len());
                    self.spared = (times + u64::from(left == 0), left);
                }
            }
            _ => {}
        }
        Duration::ZERO
    }
}

/// Keeps the bytes that may begin the pattern.
fn remember(tail: &mut Vec<u8>, gone: &[u8], pattern: &[u8]) {
    tail.extend_from_slice(gone);
    let keep = pattern.len().saturating_sub(1);
    tail.drain(..tail.len().saturating_sub(keep));
}

/// Returns where in `rest` to stop: at the pattern's beginning, or at 0 if it began in `tail`.
fn found(tail: &[u8], rest: &[u8], pattern: &[u8]) -> Option<usize> {
    if pattern.is_empty() {
        return Some(0);
    }
    let head = &rest[..rest.len().min(pattern.len() - 1)];
    let seam = [tail, head].concat();
    if seam.windows(pattern.len()).any(|window| window == pattern) {
        return Some(0);
    }
    rest.windows(pattern.len()).position(|window| window == pattern)
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
