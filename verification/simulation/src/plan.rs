//! What happens in a schedule: operations and faults, each at its time. A seed makes a plan.

use std::fmt;

use crate::network::Network;
use crate::random::Random;
use crate::world::Millis;

mod rare;

/// Two nodes that mostly validate, and one that mostly revokes.
pub(crate) const NODES: u32 = 3;
/// The operator who uses direct SQL, as a node of the history.
pub(crate) const OPERATOR: u32 = NODES;
/// When the operations after the first logins begin.
const BEGIN: Millis = 60;

/// One schedule.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) network: Network,
    /// The lag of Redis' replica, if there is one.
    pub(crate) replica: Option<Millis>,
    pub(crate) fail_closed: bool,
    /// Whether the nodes have near caches.
    pub(crate) near_caches: bool,
    /// Whether the nodes pause after a second without a request.
    pub(crate) pauses: bool,
    pub(crate) operations: Vec<Planned>,
    pub(crate) faults: Vec<(Millis, Breaks)>,
    pub(crate) end: Millis,
}

/// An operation of a client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planned {
    pub(crate) at: Millis,
    pub(crate) node: u32,
    pub(crate) action: Action,
    /// The caller disconnects after this time.
    pub(crate) dropped_after: Option<Millis>,
}

/// An operation. Sessions are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Create {
        session: u32,
        lifetime: Option<Millis>,
        idle: Option<Millis>,
    },
    /// Validates the newest token, or the one before.
    Validate {
        session: u32,
        older: bool,
    },
    ValidateRandom,
    Update(u32),
    Rotate {
        session: u32,
        grace: Millis,
    },
    Revoke(u32),
    RevokeAll,
    /// `UPDATE sessions SET revoked_at = now()`, by an operator. The COMMIT follows after `idle`.
    DirectRevoke {
        session: u32,
        idle: Millis,
    },
    /// `UPDATE sessions SET data = …`, by an operator.
    DirectUpdate {
        session: u32,
        idle: Millis,
    },
    Bypass(bool),
}

/// A fault. Its number is how long it lasts, or how far a clock is stepped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breaks {
    Flush,
    Save,
    Crash {
        down_for: Millis,
        from_dump: bool,
    },
    FailOver,
    Resync,
    CutLinks,
    StepClock(i64),
    RestartNode(u32),
    PostgresDown(Millis),
    /// Row-level security hides all rows.
    Hidden(Millis),
    PurgeJournal,
    /// A transaction stays open.
    LeftOpen(Millis),
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = Random::new(&[seed, 0x91a2]);
        let network = Network::draw(&mut random);
        let replica = random.permille(300).then(|| random.below(60));
        let span = random.pick(&[60, 150, 150, 400, 2500]);
        let mut plan = Self {
            seed,
            network,
            replica,
            fail_closed: seed % 4 == 3,
            near_caches: seed % 3 == 1,
            pauses: seed % 5 == 4,
            operations: Vec::new(),
            faults: Vec::new(),
            end: 0,
        };
        let sessions = 1 + u32::from(random.permille(300));
        for session in 0..sessions {
            plan.create(&mut random, session, 0);
        }
        let over = if random.permille(150) {
            plan.rare_interleaving(&mut random)
        } else {
            plan.common(&mut random, sessions, span);
            BEGIN + span
        };
        plan.validate_after(&mut random, over);
        plan.operations.sort_by_key(|each| each.at);
        plan
    }

    /// Adds validations, changes and faults within a span.
    fn common(&mut self, random: &mut Random, sessions: u32, span: Millis) {
        for node in [0, 0, 0, 1, 1, 1, 0, 1].iter().take(random.pick(&[4, 6, 8])) {
            let at = BEGIN + random.below(span);
            let action = match random.below(20) {
                0 => Action::ValidateRandom,
                1 => Action::Update(random.index(sessions)),
                _ => {
                    let (session, older) = (random.index(sessions), random.permille(150));
                    Action::Validate { session, older }
                }
            };
            self.add(random, at, *node, action);
        }
        let mut last_change = BEGIN;
        for _ in 0..random.pick(&[1, 1, 2, 3]) {
            let at = BEGIN + random.below(span);
            last_change = last_change.max(at);
            let session = random.index(sessions);
            let action = match random.below(12) {
                0..=4 => Action::Revoke(session),
                5..=6 => Action::Update(session),
                7..=8 => Action::Rotate { session, grace: random.pick(&[0, 0, 200, 1000]) },
                9 => Action::RevokeAll,
                10 if random.permille(700) => Action::DirectRevoke { session, idle: 0 },
                10 => Action::DirectUpdate { session, idle: 0 },
                _ => {
                    // A login is in progress during a revoke-all.
                    let late = 100 + u32::try_from(self.operations.len()).unwrap_or(0);
                    let after = random.below(80);
                    self.create(random, late, at + after);
                    Action::RevokeAll
                }
            };
            let node = match action {
                Action::DirectRevoke { .. } | Action::DirectUpdate { .. } => OPERATOR,
                _ => random.pick(&[2, 2, 2, 2, 1]),
            };
            self.add(random, at, node, action);
        }
        if random.permille(60) {
            let node = random.index(2);
            self.add(random, BEGIN / 2, node, Action::Bypass(true));
            self.add(random, BEGIN + span, node, Action::Bypass(false));
        }
        for _ in 0..random.pick(&[0, 0, 1, 1, 2, 3]) {
            self.add_fault(random, span, last_change);
        }
    }

    fn validate(&mut self, at: Millis, node: u32, session: u32) {
        self.perform(at, node, Action::Validate { session, older: false });
    }

    fn perform(&mut self, at: Millis, node: u32, action: Action) {
        self.operations.push(Planned { at, node, action, dropped_after: None });
    }

    /// Adds an operation whose caller may disconnect.
    fn add(&mut self, random: &mut Random, at: Millis, node: u32, action: Action) {
        let dropped_after = random.permille(40).then(|| random.below(40));
        self.operations.push(Planned { at, node, action, dropped_after });
    }

    fn create(&mut self, random: &mut Random, session: u32, at: Millis) {
        let node = random.index(NODES);
        let lifetime = random.permille(60).then_some(3000);
        let idle = random.permille(80).then_some(8000);
        self.perform(at, node, Action::Create { session, lifetime, idle });
    }

    fn add_fault(&mut self, random: &mut Random, span: Millis, last_change: Millis) {
        let at = BEGIN + random.below(span);
        let down_for = random.pick(&[5, 40, 300, 1200]);
        let mut add = |at, breaks| self.faults.push((at, breaks));
        match random.below(13) {
            0 | 1 => add(at, Breaks::Flush),
            2..=4 if self.replica.is_none() => {
                // Most dumps are from before a change, and the crash follows soon after it.
                let soon = random.permille(700);
                let at = if soon { last_change + 20 + random.below(120) } else { at };
                let down_for = if soon { random.pick(&[1, 5, 30]) } else { down_for.min(300) };
                let from_dump = random.permille(700);
                add(last_change.saturating_sub(random.below(60)).max(40), Breaks::Save);
                add(at, Breaks::Crash { down_for, from_dump });
            }
            2..=4 => {
                add(at, Breaks::FailOver);
                if random.permille(300) {
                    add(at + random.below(500), Breaks::Resync);
                }
                if random.permille(700) {
                    add(at + 1 + random.below(900), Breaks::FailOver);
                    add(at + 1500, Breaks::Resync);
                }
            }
            5 => add(at, Breaks::CutLinks),
            6 => add(at, Breaks::StepClock(random.pick(&[600_000, -600_000]))),
            7 => add(at, Breaks::RestartNode(random.index(NODES))),
            8 => add(at, Breaks::Hidden(down_for)),
            9 => add(at, Breaks::PurgeJournal),
            10 => add(at, Breaks::LeftOpen(down_for)),
            _ => add(at, Breaks::PostgresDown(down_for)),
        }
    }

    /// Adds validations of every token at the end: at once, after D, and after every bound.
    fn validate_after(&mut self, random: &mut Random, over: Millis) {
        let created = self.operations.iter().filter_map(|each| match each.action {
            Action::Create { session, .. } => Some(session),
            _ => None,
        });
        let sessions: Vec<u32> = created.collect();
        let is_rotation = |each: &Planned| matches!(each.action, Action::Rotate { .. });
        let rotated = self.operations.iter().any(is_rotation);
        let tokens: &[bool] = if rotated { &[false, true] } else { &[false] };
        let all = [40, 700, 2700, 8500];
        let moments = if random.permille(400) { &all[..] } else { &all[..3] };
        for after in moments {
            for session in &sessions {
                for node in 0..2 {
                    for older in tokens {
                        let at = over + after + random.below(20);
                        let (session, older) = (*session, *older);
                        self.perform(at, node, Action::Validate { session, older });
                    }
                }
            }
            self.end = over + after + 400;
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { replica, fail_closed, near_caches, pauses, network, .. } = self;
        writeln!(
            f,
            "lag of the replica {replica:?}, fail-closed {fail_closed}, near caches {near_caches}, \
             pauses {pauses}, {network:?}"
        )?;
        for Planned { at, node, action, dropped_after } in &self.operations {
            write!(f, "{at:>7} ms  node {node}: {action:?}")?;
            match dropped_after {
                Some(after) => writeln!(f, ", dropped after {after} ms")?,
                None => writeln!(f)?,
            }
        }
        self.faults.iter().try_for_each(|(at, breaks)| writeln!(f, "{at:>7} ms  {breaks:?}"))
    }
}
