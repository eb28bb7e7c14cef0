//! Every order in which a node reads the journal, judges a copy, and a change is committed that makes the copy
//! old. From D after the COMMIT on, a node that fails closed never believes it. The journal as it is keeps that
//! in all orders; each [`Mistake`] breaks it in one.
//!
//! A mistake is a small change to what [`State::says`] is shown or [`State::learn`] is told, so it is the code
//! itself that is run.

use std::ops::ControlFlow;

use super::tests::{D, copy, read, row, timing};
use super::*;
use crate::store::JournalRow;

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    /// The changed-set is looked at first, and then the age.
    AgeAfterTheSet,
    /// A journal that was never read is one in which nothing is.
    BelievesBeforeTheFirstRead,
    AgeIgnored,
    /// The age counts from the end of the read.
    AgeFromTheEnd,
    /// The age is published, and then the rows enter the set.
    AgeBeforeTheRows,
    /// A copy from before the floor may be believed.
    FloorIgnored,
    TruncateIgnored,
    /// Of the set only those count that have ended.
    UpdatesIgnored,
}

/// What makes the copy old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Revoked,
    Updated,
    Truncated,
    /// Revoked, and its row was purged.
    Purged,
}

use Change::{Purged, Revoked, Truncated, Updated};

const ALL: &[Change] = &[Revoked, Updated, Truncated, Purged];

/// Which changes give a mistake away. The others must not: the mistakes are no worse than they say.
const TABLE: [(Mistake, &[Change]); 8] = [
    (Mistake::AgeAfterTheSet, ALL),
    (Mistake::BelievesBeforeTheFirstRead, ALL),
    (Mistake::AgeIgnored, ALL),
    (Mistake::AgeFromTheEnd, ALL),
    (Mistake::AgeBeforeTheRows, ALL),
    (Mistake::FloorIgnored, &[Purged]),
    (Mistake::TruncateIgnored, &[Truncated]),
    (Mistake::UpdatesIgnored, &[Updated]),
];

/// The transaction that makes the change. The copy's read did not see it.
const XID: u64 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// More than D goes by.
    TimePasses,
    Commit,
    Purge,
    ReadBegins,
    /// Postgres takes the snapshot that the read returns.
    Snapshot,
    /// Of a mutant that publishes the age before the rows.
    AgeIsPublished,
    ReadEnds,
    ValidateBegins,
    /// Of a mutant that judges in two steps.
    SetIsLookedAt,
    Judged,
}

#[derive(Clone)]
struct World {
    change: Change,
    mistake: Option<Mistake>,
    now: Instant,
    committed: Option<Instant>,
    purged: bool,
    /// The node's.
    state: State,
    read_began: Instant,
    snapshot: Option<JournalRead>,
    looked_at: State,
    validate_began: Instant,
    /// What came of the validate.
    believed: Option<bool>,
    /// How it came to this.
    order: Vec<Step>,
}

impl World {
    fn new(change: Change, mistake: Option<Mistake>) -> Self {
        let now = Instant::now();
        Self {
            change,
            mistake,
            now,
            committed: None,
            purged: false,
            state: State::default(),
            read_began: now,
            snapshot: None,
            looked_at: State::default(),
            validate_began: now,
            believed: None,
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
            Step::AgeIsPublished => self.state.read = Some(self.read_began),
            Step::ReadEnds => {
                let began = if self.is(Mistake::AgeFromTheEnd) {
                    self.now
                } else {
                    self.read_began
                };
                let snapshot = self.snapshot.take().unwrap();
                self.state.learn(began, &snapshot);
            }
            Step::ValidateBegins => self.validate_began = self.now,
            Step::SetIsLookedAt => self.looked_at = self.state.clone(),
            Step::Judged => self.believed = Some(self.believes()),
        }
    }

    /// What is in the journal now.
    fn journal(&self) -> JournalRead {
        if self.committed.is_none() {
            return read(Vec::new(), 0);
        }
        if self.purged {
            return read(Vec::new(), XID + 1);
        }
        let row = match self.change {
            Revoked | Purged => row(1, XID, None),
            Updated => row(1, XID, Some(2)),
            Truncated => JournalRow {
                session_id: None,
                ..row(1, XID, None)
            },
        };
        read(vec![row], 0)
    }

    fn believes(&self) -> bool {
        let mut shown = self.state.clone();
        let mut policy = Policy::FailClosed;
        match self.mistake {
            Some(Mistake::AgeAfterTheSet) => {
                shown = self.looked_at.clone();
                shown.read = self.state.read;
            }
            Some(Mistake::BelievesBeforeTheFirstRead) => {
                shown.read.get_or_insert(self.now);
            }
            Some(Mistake::AgeIgnored) => policy = Policy::Available,
            Some(Mistake::FloorIgnored) => shown.begins = 0,
            Some(Mistake::TruncateIgnored) => shown.truncated = None,
            Some(Mistake::UpdatesIgnored) => {
                shown.changed.retain(|_, of| of.least_version.is_none());
            }
            Some(Mistake::AgeFromTheEnd | Mistake::AgeBeforeTheRows) | None => {}
        }
        shown.says(&copy(1, 1, XID), self.now, timing(policy)) == Word::Good
    }

    fn is_broken(&self) -> bool {
        let binds = |committed| self.validate_began > committed + D;
        self.believed == Some(true) && self.committed.is_some_and(binds)
    }

    /// What each of them does, in its own order: time, Postgres, the reader, who validates.
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
        let mut validate = vec![Step::ValidateBegins];
        if self.is(Mistake::AgeAfterTheSet) {
            validate.push(Step::SetIsLookedAt);
        }
        validate.push(Step::Judged);
        [
            vec![Step::TimePasses; 2],
            postgres,
            reads.repeat(2),
            validate,
        ]
    }
}

/// Takes the actors' steps in every order until the copy is judged; ends with the first order that breaks.
fn in_every_order(
    world: &World,
    actors: [&[Step]; 4],
    judged: &mut impl FnMut(&World) -> ControlFlow<Vec<Step>>,
) -> ControlFlow<Vec<Step>> {
    if world.believed.is_some() {
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

/// In how many orders the copy was believed, and the first one in which it must not have been.
fn run(change: Change, mistake: Option<Mistake>) -> (u64, Option<Vec<Step>>) {
    let world = World::new(change, mistake);
    let actors = world.actors();
    let mut believed = 0;
    let broken = in_every_order(&world, actors.each_ref().map(Vec::as_slice), &mut |world| {
        believed += u64::from(world.believed == Some(true));
        if world.is_broken() {
            ControlFlow::Break(world.order.clone())
        } else {
            ControlFlow::Continue(())
        }
    });
    (believed, broken.break_value())
}

#[test]
fn no_order_has_an_old_copy_believed_d_after_the_commit() {
    for change in ALL {
        let (believed, broken) = run(*change, None);
        assert_eq!(broken, None, "{change:?}");
        assert_ne!(
            believed, 0,
            "{change:?}: who believes nothing breaks nothing"
        );
    }
}

#[test]
fn each_mistake_is_caught_by_the_changes_it_is_about() {
    for (mistake, shown_by) in TABLE {
        for change in ALL {
            let (_, broken) = run(*change, Some(mistake));
            println!("{mistake:?}, {change:?}: {broken:?}");
            assert_eq!(
                broken.is_some(),
                shown_by.contains(change),
                "{mistake:?}, {change:?}"
            );
        }
    }
}
