//! The decision on what happens next to the bytes of one direction under the active toxics.
//!
//! It is pure: time is a parameter and nothing is awaited. Every toxic's meaning is therefore in
//! one place, and is tested without a socket. `relay.rs` executes it. Each step decides anew from
//! the active toxics, so that healing also reaches bytes in flight.

mod applied;

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use self::applied::Applied;
use super::{
    active::{End, Toxics, delayed},
    random::Random,
    toxic::{Direction, Kind},
};

/// The maximum number of bytes kept for one direction. Others wait in the kernel, which then closes
/// the TCP window.
const FULL: usize = 1024 * 1024;

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Wait for bytes, or for the toxics to change.
    Wait,
    /// Wait for the same, but until this time at most.
    WaitUntil(Instant),
    /// Write this number of the [`front`](Flow::front) bytes.
    Write(usize),
    /// Pass the end of file on, because all bytes were written.
    Finish,
    /// End the connection.
    End(End),
}

#[derive(Debug)]
pub(super) struct Flow {
    direction: Direction,
    number: u64,
    begun: Instant,
    applied: Vec<Applied>,
    queue: VecDeque<Chunk>,
    queued: usize,
    /// The time when the end of file was read.
    ended: Option<Instant>,
    /// The time before which nothing is written, because of gaps.
    not_before: Instant,
    random: Random,
}

#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    /// The number of bytes that were written.
    written: usize,
    arrived: Instant,
    /// The position within the jitter, 0 to 1.
    jitter: f64,
}

impl Flow {
    pub(super) fn new(number: u64, direction: Direction, now: Instant) -> Self {
        Self {
            direction,
            number,
            begun: now,
            applied: Vec::new(),
            queue: VecDeque::new(),
            queued: 0,
            ended: None,
            not_before: now,
            // The two directions of a connection have different seeds.
            random: Random(number ^ if direction == Direction::ToServer { 1 << 63 } else { 0 }),
        }
    }

    /// Applies a change of the toxics. Those that stay keep their state.
    pub(super) fn update(&mut self, toxics: &Toxics, now: Instant) {
        let mut before = std::mem::take(&mut self.applied);
        for active in toxics.of(self.number, self.direction) {
            let known = before.iter().position(|it| it.id == active.id);
            self.applied.push(match known {
                Some(at) => before.swap_remove(at),
                None => Applied::new(active, self.number, self.direction, self.begun),
            });
        }
        // A toxic that delayed the bytes may have healed. The others delay them again.
        self.not_before = now;
    }

    /// Returns whether bytes may pass without inspection.
    pub(super) fn is_clear(&self) -> bool {
        self.applied.is_empty() && self.queue.is_empty() && self.ended.is_none()
    }

    /// Returns whether more bytes may be read.
    pub(super) fn has_room(&self) -> bool {
        self.ended.is_none() && self.queued < FULL
    }

    pub(super) fn push(&mut self, bytes: &[u8], now: Instant) {
        self.queued += bytes.len();
        self.queue.push_back(Chunk {
            bytes: bytes.to_vec(),
            written: 0,
            arrived: now,
            jitter: self.random.next(),
        });
    }

    pub(super) fn finish(&mut self, now: Instant) {
        self.ended = Some(now);
    }

    /// Returns the next bytes.
    pub(super) fn front(&self) -> &[u8] {
        self.queue.front().map_or(&[], Chunk::rest)
    }

    /// Removes this number of written bytes from the front.
    pub(super) fn wrote(&mut self, count: usize, now: Instant) {
        let Some(chunk) = self.queue.front_mut() else {
            return;
        };
        let gone = &chunk.rest()[..count];
        let mut pause = Duration::ZERO;
        for applied in &mut self.applied {
            pause = pause.max(applied.wrote(gone, now));
        }
        chunk.written += count;
        self.queued -= count;
        if chunk.rest().is_empty() {
            self.queue.pop_front();
        }
        if !pause.is_zero() {
            self.not_before = now + pause;
        }
    }

    pub(super) fn next(&mut self, now: Instant) -> Step {
        let forgets = self.forgets(now);
        let mut until = forgets;
        if let Some((at, end)) = self.ends(now) {
            if at <= now {
                return Step::End(end);
            }
            until = Some(until.map_or(at, |forgets| at.min(forgets)));
        }
        if !self.held() {
            match self.due() {
                Some(at) if at > now => until = Some(until.map_or(at, |end| at.min(end))),
                Some(_) if self.queue.is_empty() => return Step::Finish,
                Some(_) => {
                    let count = self.portion();
                    if count > 0 {
                        return Step::Write(count);
                    }
                    // A lost request ends the connection at its beginning.
                    if let Some((at, end)) = self.ends(now)
                        && at <= now
                    {
                        return Step::End(end);
                    }
                }
                None => {}
            }
        }
        until.map_or(Step::Wait, Step::WaitUntil)
    }

    /// Forgets the connection if it was idle for too long. Otherwise it returns when it would be.
    fn forgets(&self, now: Instant) -> Option<Instant> {
        let mut next = None;
        for applied in &self.applied {
            match applied.forgets() {
                Some(at) if at <= now => applied.touched.connection(self.number),
                Some(at) => next = Some(next.map_or(at, |next: Instant| next.min(at))),
                None => {}
            }
        }
        next
    }

    /// Returns when and how the connection must be ended, if no toxic heals before.
    pub(super) fn ends(&self, now: Instant) -> Option<(Instant, End)> {
        let pending = !self.queue.is_empty();
        let ends = self.applied.iter().filter_map(|applied| {
            let (at, end) = applied.ends(pending, self.ended.is_some(), now)?;
            Some((at, end, applied))
        });
        let (at, end, applied) = ends.min_by_key(|(at, _, _)| *at)?;
        if at <= now {
            applied.touched.connection(self.number);
        }
        Some((at, end))
    }

    fn held(&mut self) -> bool {
        let queued = self.queued;
        let waits = queued > 0 || self.ended.is_some();
        let mut held = false;
        for applied in self.applied.iter_mut().filter(|it| it.holds()) {
            held = true;
            if waits {
                applied.touch(queued);
            }
        }
        held
    }

    /// Returns when the front, or the end of file, may be sent. `None` if there is neither.
    fn due(&mut self) -> Option<Instant> {
        let Some(chunk) = self.queue.front() else {
            return self.ended;
        };
        let (jitter, length) = (chunk.jitter, chunk.rest().len());
        let mut due = chunk.arrived;
        for applied in &mut self.applied {
            if let Kind::Latency { delay, jitter: by } = applied.toxic.kind {
                due += delayed(delay, by, jitter);
                applied.touch(length);
            }
        }
        Some(due.max(self.not_before))
    }

    /// Returns how many bytes of the front may be written at once. 0 if a pattern's hold begins
    /// there.
    fn portion(&mut self) -> usize {
        let Some(chunk) = self.queue.front() else {
            return 0;
        };
        let rest = chunk.rest();
        let mut portion = rest.len();
        for applied in &mut self.applied {
            portion = portion.min(applied.portion(rest, &mut self.random));
        }
        let sliced = portion < rest.len() || chunk.written > 0;
        for applied in &mut self.applied {
            applied.count_occurrences(&rest[..portion]);
            let slices = matches!(applied.toxic.kind, Kind::Slicer { .. } | Kind::LimitData { .. });
            if sliced && slices {
                applied.touch(portion);
            }
        }
        if portion == 0 {
            // The hold has just begun, and affects the bytes behind it.
            self.held();
        }
        portion
    }
}

impl Chunk {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.written..]
    }
}

#[cfg(test)]
mod tests;
