//! A state: nodes, revokers, Redis servers, Postgres.

/// The session in Postgres.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(crate) enum Row {
    #[default]
    Absent,
    /// Valid, or with the old data.
    Before,
    /// Revoked, deleted, or with the new data.
    After,
}

/// One of the two Redis servers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(super) enum At {
    #[default]
    A,
    B,
}

impl At {
    pub(super) const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    pub(super) const fn letter(self) -> char {
        match self {
            Self::A => 'A',
            Self::B => 'B',
        }
    }
}

/// A connection, with the incarnation that was read over it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(super) struct Link {
    pub(super) at: At,
    pub(super) incarnation: u8,
}

/// The value under the token's key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(super) enum Value {
    #[default]
    Nothing,
    Fence,
    /// A lease that its holder has lost.
    Orphan,
    /// The lease of this node's validation.
    Lease(u8),
    /// The lease of this node's fill, which is in the network.
    FillLease(u8),
    /// "No such session". Only a mutant writes it.
    NoSession,
    Entry {
        incarnation: u8,
        /// Of the row after the change.
        new: bool,
    },
}

impl Value {
    pub(super) const fn is_lease(self) -> bool {
        matches!(self, Self::Orphan | Self::Lease(_) | Self::FillLease(_))
    }
}

/// The next step of a validation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(super) enum Op {
    #[default]
    Idle,
    /// Judge this entry of the near cache.
    Near(Row),
    Get,
    /// GET was executed, and its reply is in the network.
    Got(Value),
    /// Take the lease, because the key is empty.
    Lease,
    /// Replace this rejected value by a lease.
    Replace(Value),
    /// Begin to read Postgres.
    Ask,
    /// Use the row that was read.
    Read,
    /// Send UNLINK, then return Invalid.
    Remove,
}

/// The events that preceded a validation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(super) struct Past {
    pub(super) created: bool,
    /// `Propagated` was returned.
    pub(super) propagated: bool,
    /// The bound had passed.
    pub(super) elapsed: bool,
    /// A validation had returned Invalid.
    pub(super) invalid: bool,
}

/// A read of the journal in progress.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(super) enum Reading {
    #[default]
    No,
    /// Its snapshot does not show the change.
    Without,
    With,
    /// The row lies before its time window.
    Skipping,
}

/// A node's knowledge of the journal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(super) enum Known {
    #[default]
    NotLoaded,
    /// The age is at most D, and the changed-set is empty.
    Fresh,
    /// The session is in the changed-set.
    Changed,
    /// The row was skipped.
    Missed,
    /// The age is above D.
    Stale,
}

/// A node that validates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(super) struct Node {
    pub(super) op: Op,
    /// As of the start of the validation, like the next four.
    pub(super) since: Past,
    /// The node's own change had returned.
    pub(super) since_own: bool,
    pub(super) since_pending: bool,
    /// The session was in the changed-set.
    pub(super) since_changed: bool,
    /// A validation on this node had returned Invalid.
    pub(super) since_invalid: bool,
    /// The ticket is invalid, because the node has dropped the digest since.
    pub(super) refused: bool,
    /// The link and incarnation that granted the lease.
    pub(super) lease: Option<Link>,
    pub(super) read: Row,
    pub(super) link: Option<Link>,
    pub(super) reading: Reading,
    pub(super) known: Known,
    /// The node does not read the journal until a validation starts.
    pub(super) paused: bool,
    /// The link was checked since `Propagated`.
    pub(super) rechecked: bool,
    /// Redis has acknowledged the UNLINK for the journal's row.
    pub(super) unlinked: bool,
    /// An UNLINK of this node's was not acknowledged.
    pub(super) pending: bool,
    /// The node rejects entries older than its own change.
    pub(super) held: bool,
    /// The node's own change has returned.
    pub(super) own: bool,
    /// A validation on this node has returned Invalid.
    pub(super) invalid: bool,
    /// The row in the near cache.
    pub(super) near: Row,
}

/// A fill in the network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Filling {
    pub(super) to: Link,
    pub(super) of: Row,
}

/// How far a change has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(super) enum Stage {
    #[default]
    Idle,
    Fenced,
    Committed,
    Returned,
    /// A mutant sent its UNLINK before the COMMIT.
    Unlinked,
    /// A mutant sent its UNLINK before the COMMIT, and Redis did not receive it.
    UnlinkLost,
}

/// A client that makes the change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(super) struct Revoker {
    pub(super) stage: Stage,
    pub(super) link: Option<Link>,
    /// A fence in the network.
    pub(super) late_fence: Option<At>,
}

/// A Redis server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(super) struct Server {
    pub(super) up: bool,
    pub(super) master: bool,
    pub(super) run_id: u8,
    pub(super) replid: u8,
    pub(super) value: Value,
    pub(super) dump: Option<Value>,
}

/// How many faults of each kind may still occur.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub(super) struct Budget {
    pub(super) crash: u8,
    pub(super) promote: u8,
    pub(super) evict: u8,
    pub(super) save: u8,
    pub(super) node_restart: u8,
    pub(super) backlog: u8,
}

/// A state. [`State::canonical`] relies on the order of the fields: none before `nodes` names a
/// node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct State<const N: usize> {
    pub(super) row: Row,
    pub(super) past: Past,
    /// A crash or a failover happened.
    pub(super) faulted: bool,
    /// An entry was sealed, which a hostile Redis may replay.
    pub(super) sealed: bool,
    /// The server that is the master by right.
    pub(super) rightful: At,
    pub(super) next_run_id: u8,
    pub(super) next_replid: u8,
    pub(super) left: Budget,
    pub(super) nodes: [Node; N],
    pub(super) fills: [Option<Filling>; N],
    pub(super) revokers: [Revoker; 2],
    pub(super) servers: [Server; 2],
}

impl<const N: usize> State<N> {
    pub(super) fn server(&self, at: At) -> &Server {
        &self.servers[at as usize]
    }

    pub(super) fn server_mut(&mut self, at: At) -> &mut Server {
        &mut self.servers[at as usize]
    }

    /// Returns whether the link's server executes a write.
    pub(super) fn is_writable(&self, link: Link) -> bool {
        self.server(link.at).up && self.server(link.at).master
    }

    /// Returns the link, if its server is up.
    pub(super) fn live(&self, link: Option<Link>) -> Option<Link> {
        link.filter(|link| self.server(link.at).up)
    }

    pub(super) fn values(&mut self) -> impl Iterator<Item = &mut Value> {
        self.servers
            .iter_mut()
            .flat_map(|server| [&mut server.value].into_iter().chain(&mut server.dump))
    }

    /// Renames a lease that moves to a fill, or that its holder has lost.
    pub(super) fn rename(&mut self, from: Value, to: Value) {
        self.values().filter(|value| **value == from).for_each(|value| *value = to);
    }

    pub(super) fn drop_lease(&mut self, n: usize) {
        if self.nodes[n].lease.take().is_some() {
            self.rename(Value::Lease(number(n)), Value::Orphan);
        }
    }

    pub(super) fn drop_fill(&mut self, n: usize) {
        self.rename(Value::FillLease(number(n)), Value::Orphan);
        self.fills[n] = None;
    }

    /// Ends the node's validation.
    pub(super) fn end(&mut self, n: usize) {
        self.drop_lease(n);
        let node = &mut self.nodes[n];
        (node.op, node.read, node.since) = (Op::Idle, Row::Absent, Past::default());
        (node.since_own, node.since_pending, node.since_changed) = (false, false, false);
        (node.since_invalid, node.refused) = (false, false);
    }

    fn swap_nodes(&self, i: usize, j: usize) -> Self {
        let mut swapped = *self;
        swapped.nodes.swap(i, j);
        swapped.fills.swap(i, j);
        let (i, j) = (number(i), number(j));
        for value in swapped.values() {
            if let Value::Lease(n) | Value::FillLease(n) = value {
                *n = if *n == i {
                    j
                } else if *n == j {
                    i
                } else {
                    *n
                };
            }
        }
        swapped
    }

    /// Returns the least of the states that differ from this one by the nodes' names.
    pub(super) fn canonical(self) -> Self {
        let mut least = None;
        self.arrange(0, &mut least);
        least.unwrap_or(self)
    }

    /// Tries every arrangement of the nodes from `from` on that may be the least. The nodes are
    /// compared first, because no field before them names a node.
    fn arrange(self, from: usize, least: &mut Option<Self>) {
        let Some(first) = self.nodes[from..].iter().min().copied() else {
            *least = Some(least.map_or(self, |least| least.min(self)));
            return;
        };
        for at in from..N {
            if self.nodes[at] == first {
                let next = if at == from { self } else { self.swap_nodes(from, at) };
                next.arrange(from + 1, least);
            }
        }
    }
}

/// Returns a node's number as its leases contain it.
pub(super) fn number(index: usize) -> u8 {
    u8::try_from(index).expect("a handful of nodes")
}

/// Returns the number of a node or revoker in a trace.
pub(super) fn name(index: usize) -> u8 {
    number(index + 1)
}
