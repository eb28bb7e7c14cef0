//! What happened in a schedule, and in how many of them: a test in which something never happened has
//! not tested it.

use std::fmt;

/// What can happen in a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Event {
    Hit,
    Fill,
    RefusedLease,
    RefusedFill,
    ReplacedCopy,
    ChangeBetweenReadAndFill,
    Failover,
    Failback,
    Flush,
    RestartEmpty,
    RestartFromDump,
    LostLink,
    LostUnlink,
    LostFence,
    LostReply,
    StoreError,
    HiddenRows,
    PostgresDown,
    NodeRestart,
    ClockStep,
    DroppedCaller,
    Touch,
    LockedTouch,
    OvertakenTouch,
    GivenUpTouch,
    Bypass,
    LateCommit,
    Propagated,
    Committed,
    UnknownFate,
    SupersededLogin,
    FailClosed,
    Purge,
    StaleNode,
}

impl Event {
    const ALL: [(Self, &'static str); 34] = [
        (Self::Hit, "a hit"),
        (Self::Fill, "a fill"),
        (Self::RefusedLease, "a refused lease"),
        (Self::RefusedFill, "a refused fill"),
        (Self::ReplacedCopy, "a dead copy replaced by a lease"),
        (
            Self::ChangeBetweenReadAndFill,
            "a change between read and fill",
        ),
        (Self::Failover, "a failover to a replica"),
        (Self::Failback, "a failback to the old master"),
        (Self::Flush, "a flush of Redis"),
        (Self::RestartEmpty, "a restart of Redis, empty"),
        (Self::RestartFromDump, "a restart of Redis from an old dump"),
        (Self::LostLink, "a lost connection to Redis"),
        (Self::LostUnlink, "a lost UNLINK"),
        (Self::LostFence, "a lost fence"),
        (Self::LostReply, "a lost reply"),
        (Self::StoreError, "an error of Postgres"),
        (Self::HiddenRows, "hidden rows"),
        (Self::PostgresDown, "an outage of Postgres"),
        (Self::NodeRestart, "a restart of a node"),
        (Self::ClockStep, "a step of Redis' clock"),
        (Self::DroppedCaller, "a dropped caller"),
        (Self::Touch, "a touch"),
        (Self::LockedTouch, "a touch that found the row locked"),
        (
            Self::OvertakenTouch,
            "a touch that another change had overtaken",
        ),
        (Self::GivenUpTouch, "a touch of a row that stayed locked"),
        (Self::Bypass, "a node in bypass mode"),
        (Self::LateCommit, "a transaction that committed late"),
        (Self::Propagated, "a change answered `Propagated`"),
        (Self::Committed, "a change answered `Committed`"),
        (Self::UnknownFate, "a change of unknown fate"),
        (Self::SupersededLogin, "a login that a revoke-all refused"),
        (Self::FailClosed, "nodes that fail closed"),
        (Self::Purge, "a purge of the journal"),
        (
            Self::StaleNode,
            "nodes that fail closed, without Postgres for D",
        ),
    ];
}

/// What happened in one schedule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Coverage(u64);

impl Coverage {
    pub(crate) fn saw(&mut self, event: Event) {
        self.0 |= 1 << event as u8;
    }

    fn has(self, event: Event) -> bool {
        self.0 & (1 << event as u8) != 0
    }

    pub(crate) fn lost_request(&mut self, what: &str) {
        match what {
            "UNLINK" => self.saw(Event::LostUnlink),
            "fence" => self.saw(Event::LostFence),
            _ => {}
        }
    }

    pub(crate) fn lost_reply(&mut self) {
        self.saw(Event::LostReply);
    }
}

/// In how many schedules what happened.
#[derive(Debug)]
pub(crate) struct Counts {
    schedules: u64,
    operations: u64,
    by_event: [u64; Event::ALL.len()],
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            schedules: 0,
            operations: 0,
            by_event: [0; Event::ALL.len()],
        }
    }
}

impl Counts {
    pub(crate) fn add(&mut self, coverage: Coverage, operations: usize) {
        self.schedules += 1;
        self.operations += operations as u64;
        for (count, (event, _)) in self.by_event.iter_mut().zip(Event::ALL) {
            *count += u64::from(coverage.has(event));
        }
    }

    /// What never happened.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let counted = self.by_event.iter().zip(Event::ALL);
        counted
            .filter(|(count, _)| **count == 0)
            .map(|(_, (_, name))| name)
            .collect()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (schedules, operations) = (self.schedules, self.operations);
        writeln!(
            f,
            "{schedules} schedules, {operations} operations; of the schedules had"
        )?;
        for (count, (_, name)) in self.by_event.iter().zip(Event::ALL) {
            writeln!(f, "{count:>8}  {name}")?;
        }
        Ok(())
    }
}
