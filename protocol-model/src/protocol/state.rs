//! A state: nodes, revokers, Redis servers, Postgres.
//!
//! Hashing a state is most of the work of a run, so what is large and mostly empty is hashed briefly.

mod parts;

pub(crate) use self::parts::Row;
pub(super) use self::parts::*;

/// A state. [`State::canonical`] relies on the order of the fields: nothing before `nodes` names a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct State<const N: usize> {
    pub(super) row: Row,
    pub(super) past: Past,
    /// A crash or a failover happened.
    pub(super) faulted: bool,
    /// An entry was sealed (for a hostile Redis to replay).
    pub(super) sealed: bool,
    /// The server that is the master by right.
    pub(super) truth: At,
    pub(super) next_run_id: Incarnation,
    pub(super) next_replid: Incarnation,
    pub(super) left: Budget,
    pub(super) nodes: [Node; N],
    pub(super) fills: [Option<Filling>; N],
    pub(super) revokers: [Revoker; 2],
    pub(super) servers: [Server; 2],
}

impl<const N: usize> State<N> {
    pub(super) fn server(&self, at: At) -> &Server {
        &self.servers[at.index()]
    }

    pub(super) fn server_mut(&mut self, at: At) -> &mut Server {
        &mut self.servers[at.index()]
    }

    fn values(&mut self) -> impl Iterator<Item = &mut Value> {
        self.servers
            .iter_mut()
            .flat_map(|server| server.keys.iter_mut().chain(server.dump.iter_mut()))
    }

    /// A lease changes hands, or can be used by nobody any more.
    pub(super) fn rename(&mut self, from: Value, to: Value) {
        for value in self.values() {
            if *value == from {
                *value = to;
            }
        }
    }

    /// The node's link, if its server is up.
    pub(super) fn live(&self, link: Option<Link>) -> Option<Link> {
        link.filter(|link| self.server(link.at).up)
    }

    pub(super) fn drop_lease(&mut self, n: usize) {
        if self.nodes[n].lease.take().is_some() {
            self.rename(Value::Lease(number(n)), Value::Orphan);
        }
    }

    /// The validate is over.
    pub(super) fn end(&mut self, n: usize) {
        self.drop_lease(n);
        let node = &mut self.nodes[n];
        (node.op, node.read, node.since) = (Op::Idle, Row::Absent, Past::default());
        (node.since_own, node.since_pending, node.since_changed) = (false, false, false);
    }

    pub(super) fn drop_fill(&mut self, n: usize) {
        self.rename(Value::FillLease(number(n)), Value::Orphan);
        self.fills[n] = None;
    }

    fn swap_nodes(&self, i: usize, j: usize) -> Self {
        let mut swapped = *self;
        swapped.nodes.swap(i, j);
        swapped.fills.swap(i, j);
        let (i, j) = (number(i), number(j));
        let other = |n: u8| match n {
            n if n == i => j,
            n if n == j => i,
            n => n,
        };
        for value in swapped.values() {
            match value {
                Value::Lease(n) | Value::FillLease(n) => *n = other(*n),
                _ => {}
            }
        }
        swapped
    }

    /// The least of the states that differ from this one by the nodes' names.
    pub(super) fn canonical(self) -> Self {
        let mut least = None;
        self.arrange(0, &mut least);
        least.unwrap_or(self)
    }

    /// Every arrangement of the nodes from this one on that may be the least: the nodes are compared
    /// before whatever names them.
    fn arrange(self, from: usize, least: &mut Option<Self>) {
        let Some(first) = self.nodes[from..].iter().min().copied() else {
            *least = Some(least.map_or(self, |least| least.min(self)));
            return;
        };
        for at in from..N {
            if self.nodes[at] == first {
                let next = if at == from {
                    self
                } else {
                    self.swap_nodes(from, at)
                };
                next.arrange(from + 1, least);
            }
        }
    }
}

/// A node's number as it stands in its leases.
pub(super) fn number(index: usize) -> u8 {
    u8::try_from(index).expect("a handful of nodes")
}
