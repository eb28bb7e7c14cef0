//! Every order of these events: a change that outdates an entry commits, a node reads the journal,
//! and the node judges the entry.
//!
//! A fail-closed node must not serve the entry from D after the COMMIT on. The product keeps this
//! in all orders. Each [`Mistake`] breaks it in one.
//!
//! A mistake is a small change of the input of [`ChangedSet::verdict`] or [`ChangedSet::learn`].
//! The tests therefore run the product's code.

use std::ops::ControlFlow;

use super::tests::{D, entry, read, row, timing, truncate};
use std::time::Duration;

use super::*;

/// A mistake of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    /// The changed set is examined first, and then the age.
    AgeAfterTheSet,
    /// A journal that was never read counts as an empty one.
    ServesBeforeTheFirstRead,
    AgeIgnored,
    /// The age counts from the end of the read.
    AgeFromTheEnd,
    /// The age is published, and then the rows enter the set.
    AgeBeforeTheRows,
    /// An entry from before the floor may be served.
    FloorIgnored,
    TruncateIgnored,
    /// Only the ended sessions of the set count.
    UpdatesIgnored,
}

/// The change that outdates the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JournaledChange {
    Revoked,
    Updated,
    Truncated,
    /// The session was revoked, and its journal row was purged.
    Purged,
}

use JournaledChange::{Purged, Revoked, Truncated, Updated};

const ALL_CHANGES: &[JournaledChange] = &[Revoked, Updated, Truncated, Purged];

/// The changes that reveal each mistake. No other change may reveal it, because a mistake must
/// break only what it is about.
const REVEALED_BY: [(Mistake, &[JournaledChange]); 8] = [
    (Mistake::AgeAfterTheSet, ALL_CHANGES),
    (Mistake::ServesBeforeTheFirstRead, ALL_CHANGES),
    (Mistake::AgeIgnored, ALL_CHANGES),
    (Mistake::AgeFromTheEnd, ALL_CHANGES),
    (Mistake::AgeBeforeTheRows, ALL_CHANGES),
    (Mistake::FloorIgnored, &[Purged]),
    (Mistake::TruncateIgnored, &[Truncated]),
    (Mistake::UpdatesIgnored, &[Updated]),
];

/// The transaction that makes the change. The read of the entry did not see it.
const CHANGING_XID: u64 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// More than D passes.
    TimePasses,
    Commit,
    Purge,
    ReadBegins,
    /// Postgres takes the snapshot that the read returns.
    Snapshot,
    /// A step of the mutant that publishes the age before the rows.
    AgeIsPublished,
    ReadEnds,
    ValidationBegins,
    /// A step of the mutant that judges in two steps.
    SetIsExamined,
    Judged,
}

#[derive(Clone)]
struct World {
    change: JournaledChange,
    mistake: Option<Mistake>,
    now: Instant,
    committed: Option<Instant>,
    purged: bool,
    /// The changed set of the node.
    set: ChangedSet,
    read_began: Instant,
    snapshot: Option<JournalRead>,
    examined: ChangedSet,
    validation_began: Instant,
    /// Whether the entry was served, once it was judged.
    served: Option<bool>,
    /// The steps so far.
    order: Vec<Step>,
}

impl World {
    fn new(change: JournaledChange, mistake: Option<Mistake>) -> Self {
        let now = Instant::now();
        Self {
            change,
            mistake,
            now,
            committed: None,
            purged: false,
            set: ChangedSet::default(),
            read_began: now,
            snapshot: None,
            examined: ChangedSet::default(),
            validation_began: now,
            served: None,
            order: Vec::new(),
        }
    }

    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn take(&mut self, step: Step) {
        self.order.push(step);
        match step {
            Step::TimePasses => self.now += D + Duration::from_millis(1),
            Step::Commit => self.committed = Some(self.now),
            Step::Purge => self.purged = true,
            Step::ReadBegins => self.read_began = self.now,
            Step::Snapshot => self.snapshot = Some(self.journal()),
            Step::AgeIsPublished => self.set.read = Some(self.read_began),
            Step::ReadEnds => {
                let began =
                    if self.is(Mistake::AgeFromTheEnd) { self.now } else { self.read_began };
                let snapshot = self.snapshot.take().unwrap();
                self.set.learn(began, &snapshot);
            }
            Step::ValidationBegins => self.validation_began = self.now,
            Step::SetIsExamined => self.examined = self.set.clone(),
            Step::Judged => self.served = Some(self.serves()),
        }
    }

    /// Returns the rows of the journal at this moment.
    fn journal(&self) -> JournalRead {
        if self.committed.is_none() {
            return read(Vec::new(), 0);
        }
        if self.purged {
            return read(Vec::new(), CHANGING_XID + 1);
        }
        let row = match self.change {
            Revoked | Purged => row(1, CHANGING_XID, None),
            Updated => row(1, CHANGING_XID, Some(2)),
            Truncated => truncate(CHANGING_XID),
        };
        read(vec![row], 0)
    }

    /// Returns whether the node serves the entry, with its mistake.
    fn serves(&self) -> bool {
        let mut examined = self.set.clone();
        let mut policy = PartitionPolicy::FailClosed;
        match self.mistake {
            Some(Mistake::AgeAfterTheSet) => {
                examined = self.examined.clone();
                examined.read = self.set.read;
            }
            Some(Mistake::ServesBeforeTheFirstRead) => {
                examined.read.get_or_insert(self.now);
            }
            Some(Mistake::AgeIgnored) => policy = PartitionPolicy::Available,
            Some(Mistake::FloorIgnored) => examined.begins = 0,
            Some(Mistake::TruncateIgnored) => examined.truncated = None,
            Some(Mistake::UpdatesIgnored) => {
                examined.changed.retain(|_, of| of.least_version.is_none());
            }
            Some(Mistake::AgeFromTheEnd | Mistake::AgeBeforeTheRows) | None => {}
        }
        examined.verdict(&entry(1, 1, CHANGING_XID), self.now, timing(policy))
            == JournalVerdict::Current
    }

    /// Returns whether the entry was served although the validation began over D after the COMMIT.
    fn is_broken(&self) -> bool {
        let is_over_d_later = |committed| self.validation_began > committed + D;
        self.served == Some(true) && self.committed.is_some_and(is_over_d_later)
    }

    /// Returns the steps of each actor in its own order: time, Postgres, the reader, the
    /// validation.
    fn actors(&self) -> [Vec<Step>; 4] {
        let mut postgres = vec![Step::Commit];
        if self.change == Purged {
            postgres.push(Step::Purge);
        }
        let mut reads = vec![Step::ReadBegins, Step::Snapshot];
        if self.is(Mistake::AgeBeforeTheRows) {
            reads.push(Step::AgeIsPublished);
        }
        reads.push(Step::ReadEnds);
        let mut validation = vec![Step::ValidationBegins];
        if self.is(Mistake::AgeAfterTheSet) {
            validation.push(Step::SetIsExamined);
        }
        validation.push(Step::Judged);
        [vec![Step::TimePasses; 2], postgres, reads.repeat(2), validation]
    }
}

/// Takes the actors' steps in every order until the entry is judged. Stops at the first order that
/// breaks the rule.
fn in_every_order(
    world: &World,
    actors: [&[Step]; 4],
    judged: &mut impl FnMut(&World) -> ControlFlow<Vec<Step>>,
) -> ControlFlow<Vec<Step>> {
    if world.served.is_some() {
        return judged(world);
    }
    for (at, steps) in actors.iter().enumerate() {
        if let [step, rest @ ..] = *steps {
            let mut next = world.clone();
            next.take(*step);
            let mut left = actors;
            left[at] = rest;
            in_every_order(&next, left, judged)?;
        }
    }
    ControlFlow::Continue(())
}

/// Returns in how many orders the entry was served, and the first order in which it must not have
/// been served.
fn run(change: JournaledChange, mistake: Option<Mistake>) -> (u64, Option<Vec<Step>>) {
    let world = World::new(change, mistake);
    let actors = world.actors();
    let mut served = 0;
    let broken = in_every_order(&world, actors.each_ref().map(Vec::as_slice), &mut |world| {
        served += u64::from(world.served == Some(true));
        if world.is_broken() {
            ControlFlow::Break(world.order.clone())
        } else {
            ControlFlow::Continue(())
        }
    });
    (served, broken.break_value())
}

#[test]
fn outdated_entry_is_never_served_from_d_after_the_commit() {
    for change in ALL_CHANGES {
        let (served, broken) = run(*change, None);
        assert_eq!(broken, None, "{change:?}");
        assert_ne!(served, 0, "{change:?}: a node that serves nothing proves nothing");
    }
}

#[test]
fn mistake_is_revealed_by_the_changes_it_is_about() {
    for (mistake, revealing) in REVEALED_BY {
        for change in ALL_CHANGES {
            let (_, broken) = run(*change, Some(mistake));
            println!("{mistake:?}, {change:?}: {broken:?}");
            assert_eq!(broken.is_some(), revealing.contains(change), "{mistake:?}, {change:?}");
        }
    }
}
