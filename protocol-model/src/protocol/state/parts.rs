//! What a state is made of.

use std::hash::{Hash, Hasher};

/// Most incarnations in one run.
pub(in crate::protocol) const INCARNATIONS: usize = 5;

/// A number of an incarnation.
pub(in crate::protocol) type Incarnation = u8;

/// The session in Postgres.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(crate) enum Row {
    /// Not created yet.
    #[default]
    Absent,
    /// As it was: valid, or with the old data.
    Before,
    /// Changed: revoked, deleted, or with the new data.
    After,
}

/// A Redis server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(in crate::protocol) enum At {
    #[default]
    A,
    B,
}

impl At {
    pub(in crate::protocol) const fn index(self) -> usize {
        self as usize
    }

    pub(in crate::protocol) const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    pub(in crate::protocol) const fn letter(self) -> char {
        match self {
            Self::A => 'A',
            Self::B => 'B',
        }
    }
}

/// A connection, and whose it was found to be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(in crate::protocol) struct Link {
    pub(in crate::protocol) at: At,
    pub(in crate::protocol) incarnation: Incarnation,
}

/// What stands under a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(in crate::protocol) enum Value {
    #[default]
    Nothing,
    Fence,
    /// A lease with which nobody can fill any more.
    Orphan,
    /// The lease of the validate that this node has under way.
    Lease(u8),
    /// The lease of this node's fill that is in the network.
    FillLease(u8),
    /// "No such session": only a mutant writes it.
    NoSession,
    Copy {
        incarnation: Incarnation,
        /// Of the row after the change.
        new: bool,
    },
}

impl Value {
    pub(in crate::protocol) const fn is_lease(self) -> bool {
        matches!(self, Self::Orphan | Self::Lease(_) | Self::FillLease(_))
    }
}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(match *self {
            Self::Nothing => 0,
            Self::Fence => 1,
            Self::Orphan => 2,
            Self::NoSession => 3,
            Self::Lease(n) => 0x10 | n,
            Self::FillLease(n) => 0x20 | n,
            Self::Copy { incarnation, new } => 0x80 | incarnation << 1 | u8::from(new),
        });
    }
}

/// Where a validate stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(in crate::protocol) enum Op {
    #[default]
    Idle,
    /// About to GET.
    Get,
    /// GET was executed, its reply is under way.
    Got(Value),
    /// About to take the lease where nothing is.
    Lease,
    /// About to take the lease in the place of this value.
    Replace(Value),
    /// About to ask Postgres.
    Ask,
    /// Postgres' snapshot is taken.
    Read,
    /// About to UNLINK before "invalid".
    Remove,
}

/// What had happened when a validate started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(in crate::protocol) struct Past {
    pub(in crate::protocol) propagated: bool,
    pub(in crate::protocol) elapsed: bool,
    pub(in crate::protocol) invalid: bool,
    pub(in crate::protocol) created: bool,
}

impl Hash for Past {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let all = [self.propagated, self.elapsed, self.invalid, self.created];
        state.write_u8(bits(all));
    }
}

/// A read of the journal under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(in crate::protocol) enum Reading {
    #[default]
    No,
    /// Its snapshot is from before the change.
    Without,
    With,
    /// The row lies before its window.
    Skipping,
}

/// What a node knows from the journal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(in crate::protocol) enum Known {
    #[default]
    NotLoaded,
    /// Read lately, nothing changed.
    Fresh,
    /// The session is in the changed-set.
    Changed,
    /// The row was skipped.
    Missed,
    /// Not read for longer than D.
    Stale,
}

/// A node that validates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(in crate::protocol) struct Node {
    pub(in crate::protocol) op: Op,
    /// As of the start of the validate.
    pub(in crate::protocol) since: Past,
    /// The change that this node made had been answered by then.
    pub(in crate::protocol) since_own: bool,
    /// It was pending by then.
    pub(in crate::protocol) since_pending: bool,
    /// The session was in the changed-set by then.
    pub(in crate::protocol) since_changed: bool,
    /// The link and incarnation that granted the lease.
    pub(in crate::protocol) lease: Option<Link>,
    pub(in crate::protocol) read: Row,
    pub(in crate::protocol) link: Option<Link>,
    pub(in crate::protocol) reading: Reading,
    pub(in crate::protocol) known: Known,
    /// The link was asked again since `Propagated`.
    pub(in crate::protocol) rechecked: bool,
    /// The journal's UNLINK is acknowledged.
    pub(in crate::protocol) unlinked: bool,
    /// An UNLINK of its own is not acknowledged.
    pub(in crate::protocol) pending: bool,
    /// A change of its own is held back.
    pub(in crate::protocol) held: bool,
    /// The change that it made was answered.
    pub(in crate::protocol) own: bool,
}

/// A fill in the network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(in crate::protocol) struct Filling {
    pub(in crate::protocol) at: At,
    /// Which it is sealed with.
    pub(in crate::protocol) incarnation: Incarnation,
    pub(in crate::protocol) of: Row,
}

/// How far a revocation has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(in crate::protocol) enum Stage {
    #[default]
    Idle,
    Fenced,
    Committed,
    Answered,
    /// The mutant that unlinks before the COMMIT has done so.
    Unlinked,
    /// It tried.
    UnlinkLost,
}

/// Whoever makes the change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(in crate::protocol) struct Revoker {
    pub(in crate::protocol) stage: Stage,
    pub(in crate::protocol) link: Option<Link>,
    /// A fence in the network: the server, and under which key.
    pub(in crate::protocol) late_fence: Option<(At, u8)>,
}

/// A Redis server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(in crate::protocol) struct Server {
    pub(in crate::protocol) up: bool,
    pub(in crate::protocol) master: bool,
    pub(in crate::protocol) run_id: Incarnation,
    pub(in crate::protocol) replid: Incarnation,
    /// By key: one for each incarnation where that is in the key.
    pub(in crate::protocol) keys: [Value; INCARNATIONS],
    pub(in crate::protocol) saved: bool,
    pub(in crate::protocol) dump: [Value; INCARNATIONS],
}

impl Hash for Server {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(bits([self.up, self.master, self.saved]));
        state.write_u8(self.run_id << 4 | self.replid);
        for values in [&self.keys, &self.dump] {
            state.write_u8(bits(values.map(|value| value != Value::Nothing)));
            for value in values {
                if *value != Value::Nothing {
                    value.hash(state);
                }
            }
        }
    }
}

/// What is left of the faults.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(in crate::protocol) struct Budget {
    pub(in crate::protocol) crash: u8,
    pub(in crate::protocol) promote: u8,
    pub(in crate::protocol) evict: u8,
    pub(in crate::protocol) save: u8,
    pub(in crate::protocol) node_restart: u8,
    pub(in crate::protocol) rekey: u8,
}

fn bits<const N: usize>(flags: [bool; N]) -> u8 {
    flags.iter().fold(0, |all, flag| all << 1 | u8::from(*flag))
}
