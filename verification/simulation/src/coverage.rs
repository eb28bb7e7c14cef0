//! What happened in a schedule, and in how many. An event that never happens is not tested.

use std::fmt;

/// Declares the events with their descriptions.
macro_rules! events {
    ($($event:ident: $text:literal,)*) => {
        /// An event in a schedule.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Event { $($event,)* }

        const EVENTS: &[&str] = &[$($text,)*];
    };
}
events! {
    Hit: "a hit",
    NearHit: "a hit in a near cache",
    Fill: "a fill",
    RefusedLease: "a refused lease",
    RefusedFill: "a refused fill",
    ReplacedEntry: "a rejected entry replaced by a lease",
    ChangeBetweenReadAndFill: "a change between read and fill",
    Failover: "a failover to a replica",
    Failback: "a failback to the old master",
    Flush: "a flush of Redis",
    RestartEmpty: "a restart of Redis, empty",
    RestartFromDump: "a restart of Redis from an old dump",
    LostLink: "a lost connection to Redis",
    LostUnlink: "a lost UNLINK",
    LostFence: "a lost fence",
    LostReply: "a lost reply",
    StoreError: "an error of Postgres",
    HiddenRows: "hidden rows",
    PostgresDown: "an outage of Postgres",
    NodeRestart: "a restart of a node",
    ClockStep: "a step of Redis' clock",
    DroppedCaller: "a dropped caller",
    Touch: "a touch",
    LockedTouch: "a touch that found the row locked",
    OvertakenTouch: "a touch that another change had overtaken",
    CancelledTouch: "a touch of a row that stayed locked",
    Bypass: "a node in bypass mode",
    LateCommit: "a transaction that committed late",
    Propagated: "a change that returned `Propagated`",
    Committed: "a change that returned `Committed`",
    UnknownFate: "a change that returned `Unknown`",
    SupersededLogin: "a login that a revoke-all refused",
    FailClosed: "nodes that fail closed",
    Purge: "a purge of the journal",
    PausedNode: "a node that paused without traffic",
    StaleNode: "nodes that fail closed, without Postgres for D",
}

/// The events of one schedule, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Coverage(u64);

impl Coverage {
    pub(crate) fn saw(&mut self, event: Event) {
        self.saw_if(event, true);
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub(crate) fn saw_if(&mut self, event: Event, happened: bool) {
        self.0 |= u64::from(happened) << event as u8;
    }
}

/// The number of schedules in which each event happened.
#[derive(Debug)]
pub(crate) struct Counts {
    schedules: u64,
    operations: u64,
    by_event: [u64; EVENTS.len()],
}

impl Counts {
    pub(crate) fn new() -> Self {
        Self { schedules: 0, operations: 0, by_event: [0; EVENTS.len()] }
    }

    pub(crate) fn add(&mut self, coverage: Coverage, operations: usize) {
        self.schedules += 1;
        self.operations += operations as u64;
        for (bit, count) in self.by_event.iter_mut().enumerate() {
            *count += coverage.0 >> bit & 1;
        }
    }

    /// Lists the events that never happened.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let counted = self.by_event.iter().zip(EVENTS);
        counted.filter(|(count, _)| **count == 0).map(|(_, text)| *text).collect()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (schedules, operations) = (self.schedules, self.operations);
        writeln!(f, "{schedules} schedules, {operations} operations. Schedules with")?;
        let mut counted = self.by_event.iter().zip(EVENTS);
        counted.try_for_each(|(count, text)| writeln!(f, "{count:>8}  {text}"))
    }
}
