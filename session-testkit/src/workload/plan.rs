//! The requests with their times and nodes: a pure function of the settings.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, distr::Distribution as _, rngs::ChaCha8Rng};
use rand_distr::Zipf;

use super::{DropWhen, PER_MILLE, Settings, settings::Kind};
use crate::history::{Nanos, nanos};

/// A request of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The time when it is due.
    pub due: Nanos,
    /// The node that it is sent to.
    pub node: u32,
    /// The request itself.
    pub action: Action,
    /// The moment at which its caller drops it, if it does.
    pub drop: Option<DropWhen>,
}

/// A request. Sessions are in slots. A slot has the session that was last created there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A login, whose session takes the slot if it succeeds.
    Create {
        /// The number of the session in the history.
        session: u32,
        /// Its slot.
        slot: u32,
        /// Its absolute timeout, if not the subject's own.
        lifetime: Option<Duration>,
        /// Its idle timeout.
        idle: Option<Duration>,
    },
    /// A validate.
    Validate {
        /// The slot.
        slot: u32,
        /// The token that is sent.
        choice: TokenChoice,
    },
    /// A validate of a token made of these bytes.
    Random([u8; 32]),
    /// An update.
    Update {
        /// The slot.
        slot: u32,
        /// A number that makes the data unique.
        number: u64,
    },
    /// A revoke.
    Revoke {
        /// The slot.
        slot: u32,
    },
    /// A revoke-all of the user who has this slot.
    RevokeAll {
        /// One of the user's slots.
        slot: u32,
    },
    /// A rotation.
    Rotate {
        /// The slot.
        slot: u32,
        /// The time for which the old token remains valid.
        grace: Duration,
    },
}

/// The choice of a slot's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenChoice {
    /// The newest token.
    Newest,
    /// The token before a rotation, if there was one.
    Older,
    /// The last token of the slot's former session, if there was one.
    Former,
}

/// The requests of a run, sorted by due time. It is an iterator, so that a long run needs no memory
/// for it.
#[derive(Debug)]
pub struct Plan {
    settings: Settings,
    nodes: u32,
    rng: ChaCha8Rng,
    keys: Keys,
    /// The number of planned requests so far.
    count: u64,
    next_session: u32,
    /// The slots whose session ended, with the time.
    ended: BinaryHeap<Reverse<(Nanos, u32)>>,
    /// The requests that must follow the previous one.
    follow: VecDeque<Action>,
}

#[derive(Debug)]
enum Keys {
    Even,
    Zipf(Zipf<f64>),
}

impl Plan {
    /// Creates the plan for this number of nodes, at least 1. The sessions of all slots are
    /// numbered from 0. [`setup`](Self::setup) creates them before.
    #[must_use]
    pub fn new(settings: &Settings, nodes: u32) -> Self {
        let keys = Zipf::new(f64::from(settings.sessions.max(1)), settings.zipf);
        Self {
            nodes: nodes.max(1),
            rng: ChaCha8Rng::seed_from_u64(settings.seed),
            keys: keys.map_or(Keys::Even, Keys::Zipf),
            count: 0,
            next_session: settings.sessions,
            ended: BinaryHeap::new(),
            follow: VecDeque::new(),
            settings: settings.clone(),
        }
    }

    /// Returns the logins before the clock starts, one for each slot.
    pub fn setup(settings: &Settings, nodes: u32) -> impl Iterator<Item = Planned> + use<> {
        let nodes = nodes.max(1);
        let settings = settings.clone();
        (0..settings.sessions).map(move |slot| Planned {
            due: 0,
            node: slot % nodes,
            action: Action::Create {
                session: slot,
                slot,
                lifetime: None,
                idle: settings.idle_of(slot),
            },
            drop: None,
        })
    }

    /// Returns the total number of due requests.
    pub fn total(&self) -> u64 {
        let total = u128::from(self.settings.rate) * self.settings.duration.as_nanos();
        u64::try_from(total / 1_000_000_000).unwrap_or(u64::MAX)
    }

    /// Returns the next due time: evenly at the rate, but random within each interval. Without
    /// that, all clients would run in step with the run's timers.
    fn due(&mut self) -> Nanos {
        let interval = 1_000_000_000 / u64::from(self.settings.rate.max(1));
        let begin = u128::from(self.count) * 1_000_000_000 / u128::from(self.settings.rate.max(1));
        let begin = Nanos::try_from(begin).unwrap_or(Nanos::MAX);
        begin.saturating_add(self.rng.random_range(0..interval.max(1)))
    }

    fn slot(&mut self) -> u32 {
        match &self.keys {
            Keys::Even => self.rng.random_range(0..self.settings.sessions.max(1)),
            Keys::Zipf(zipf) => {
                // A float from 1 to the number of slots.
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "Zipf's samples are whole numbers from 1 to a u32"
                )]
                let rank = zipf.sample(&mut self.rng) as u32;
                rank.clamp(1, self.settings.sessions.max(1)) - 1
            }
        }
    }

    fn one_in(&mut self, times: u32) -> bool {
        self.rng.random_range(0..times) == 0
    }

    fn action(&mut self, due: Nanos) -> Action {
        if let Some(action) = self.follow.pop_front() {
            return action;
        }
        let draw = self.rng.random_range(0..PER_MILLE);
        match self.settings.shares.kind(draw) {
            Kind::Create => self.create(due, None),
            Kind::Update => {
                let slot = self.slot();
                self.chase(slot);
                let number = self.count;
                Action::Update { slot, number }
            }
            Kind::Revoke => {
                let slot = self.slot();
                self.ended.push(Reverse((due, slot)));
                self.chase(slot);
                Action::Revoke { slot }
            }
            Kind::RevokeAll => {
                let slot = self.slot();
                self.revoke_all(due, slot)
            }
            Kind::Rotate => {
                let slot = self.slot();
                self.chase(slot);
                let longest = nanos(self.settings.grace) / 1_000_000;
                let grace = self.rng.random_range(0..=longest);
                let grace = if self.one_in(2) { 0 } else { grace };
                Action::Rotate { slot, grace: Duration::from_millis(grace) }
            }
            Kind::Random => Action::Random(self.rng.random()),
            Kind::Validate => {
                let slot = self.slot();
                let choice = match self.rng.random_range(0..20) {
                    0 => TokenChoice::Former,
                    1 => TokenChoice::Older,
                    _ => TokenChoice::Newest,
                };
                Action::Validate { slot, choice }
            }
        }
    }

    /// Returns a login for the slot that ended longest ago, or for any slot if all ended recently.
    fn create(&mut self, due: Nanos, slot: Option<u32>) -> Action {
        let linger = nanos(self.settings.linger);
        let rested = |Reverse((at, _)): &Reverse<(Nanos, u32)>| at.saturating_add(linger) <= due;
        let free = if slot.is_none() && self.ended.peek().is_some_and(rested) {
            self.ended.pop().map(|Reverse((_, slot))| slot)
        } else {
            slot
        };
        let slot = match free {
            Some(slot) => slot,
            None => self.slot(),
        };
        let session = self.next_session;
        self.next_session = self.next_session.saturating_add(1);
        let short_lived = self.rng.random_range(0..PER_MILLE) < self.settings.short_lived;
        let lifetime = self.settings.lifetime;
        let lifetime = (short_lived && !lifetime.is_zero()).then_some(lifetime);
        if let Some(lifetime) = lifetime {
            self.ended.push(Reverse((due.saturating_add(nanos(lifetime)), slot)));
        }
        Action::Create { session, slot, lifetime, idle: self.settings.idle_of(session) }
    }

    /// Returns a revoke-all. Every second time, a login of the same user is in flight meanwhile.
    fn revoke_all(&mut self, due: Nanos, slot: u32) -> Action {
        let per_user = self.settings.sessions_per_user.max(1);
        let first = slot - slot % per_user;
        for each in first..(first + per_user).min(self.settings.sessions) {
            self.ended.push(Reverse((due, each)));
        }
        if self.one_in(2) {
            let login = self.create(due, Some(slot));
            self.follow.push_back(Action::RevokeAll { slot });
            self.chase(slot);
            return login;
        }
        self.chase(slot);
        Action::RevokeAll { slot }
    }

    /// Plans two validates after every second change, on any node, because a race is decided in the
    /// first moments.
    fn chase(&mut self, slot: u32) {
        if self.one_in(2) {
            let validate = Action::Validate { slot, choice: TokenChoice::Newest };
            self.follow.extend([validate.clone(), validate]);
        }
    }

    fn drop_when(&mut self) -> Option<DropWhen> {
        if self.rng.random_range(0..PER_MILLE) >= self.settings.dropped {
            return None;
        }
        // Most operations have few awaits, and most end long before their budget.
        Some(if self.rng.random_range(0..4) > 0 {
            let mut awaits = 1;
            while awaits < 8 && self.one_in(2) {
                awaits += 1;
            }
            DropWhen::AtAwait(awaits)
        } else {
            let budget = nanos(self.settings.parameters.budget).max(1);
            DropWhen::After(Duration::from_nanos(self.rng.random_range(0..budget)))
        })
    }
}

impl Iterator for Plan {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        if self.count >= self.total() {
            return None;
        }
        let due = self.due();
        let action = self.action(due);
        let node = self.rng.random_range(0..self.nodes);
        let drop = self.drop_when();
        self.count += 1;
        Some(Planned { due, node, action, drop })
    }
}
