//! What runs have reached: for each fault, what was under way when it began.
//!
//! A promise can break only in what a run exercises. A fault that never begins during a rotation
//! says nothing about rotations, however many runs hold. The counts come from recorded histories
//! and add up over runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::{
    history::{Around, Fault, History, Nanos, Op, Operation},
    schedule::Event,
};

/// Declares the states with their names, in the order of the table.
macro_rules! states {
    ($($state:ident $name:literal $doc:literal;)*) => {
        /// Work that may be under way when a fault begins.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum State {
            $(
                #[doc = $doc]
                #[serde(rename = $name)]
                $state,
            )*
        }

        impl State {
            /// All states, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$state),*];

            /// Returns the name, such as `journal-read`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$state => $name,)*
                }
            }
        }
    };
}

states! {
    Login "login" "A login.";
    Validation "validation" "A validation.";
    Update "update" "An update of a session's data.";
    Rotation "rotation" "A rotation.";
    Revoke "revoke" "A revocation of one session.";
    RevokeAll "revoke-all" "A revocation of all of a user's sessions.";
    Hit "hit" "A validation that Redis served.";
    NearHit "near-hit" "A validation that a near cache served.";
    Miss "miss" "A validation for which Redis had nothing to serve.";
    Fill "fill" "A fill of Redis.";
    Touch "touch" "A touch.";
    JournalRead "journal-read" "A read of the journal.";
}

impl State {
    fn of(op: &Op) -> Self {
        match op {
            Op::Create { .. } => Self::Login,
            Op::Validate { .. } | Op::ValidateRandom { .. } => Self::Validation,
            Op::Update { .. } => Self::Update,
            Op::Rotate { .. } => Self::Rotation,
            Op::Revoke { .. } => Self::Revoke,
            Op::RevokeAll { .. } => Self::RevokeAll,
        }
    }
}

/// The counts of one fault.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultReached {
    /// How often the fault was injected, without the cases in which it had no effect.
    pub injected: u64,
    /// How often it was injected into nodes with near caches.
    pub with_near_caches: u64,
    /// What was under way in all of these cases.
    pub counts: BTreeMap<State, u64>,
}

impl FaultReached {
    /// Returns the count of one state.
    #[must_use]
    pub fn count(&self, state: State) -> u64 {
        self.counts.get(&state).copied().unwrap_or(0)
    }

    /// Returns whether the fault was injected often enough to be judged.
    fn is_judged(&self, at_least: u64) -> bool {
        self.injected > 0 && self.injected >= at_least
    }
}

/// The counts of every fault, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reached(pub BTreeMap<String, FaultReached>);

impl Reached {
    /// Counts what the faults of a history have reached. A fault without an effect has reached
    /// nothing and does not count.
    ///
    /// An operation counts if it was in flight when the fault began, or began within
    /// [`Around::AFTER`]. The work of the nodes counts as [`Around`] says.
    #[must_use]
    pub fn of(history: &History) -> Self {
        let mut reached = Self::default();
        let had_an_effect = |fault: &&Fault| fault.touched.is_none_or(|it| !it.nothing());
        for fault in history.faults.iter().filter(had_an_effect) {
            let of = reached.0.entry(fault.name.clone()).or_default();
            of.injected += 1;
            of.with_near_caches += u64::from(history.header.parameters.near_caches);
            let operations = history.operations.iter().filter(|it| is_under_way(it, fault));
            for operation in operations {
                *of.counts.entry(State::of(&operation.op)).or_default() += 1;
            }
            let around = fault.around.unwrap_or_default();
            for (state, count) in [
                (State::Hit, around.hits),
                (State::NearHit, around.near_hits),
                (State::Miss, around.misses),
                (State::Fill, around.fills),
                (State::Touch, around.touches),
                (State::JournalRead, around.journal_reads),
            ] {
                *of.counts.entry(state).or_default() += count;
            }
        }
        reached
    }

    /// Adds the counts of other runs.
    pub fn add(&mut self, other: &Self) {
        for (name, more) in &other.0 {
            let sum = self.0.entry(name.clone()).or_default();
            sum.injected += more.injected;
            sum.with_near_caches += more.with_near_caches;
            for (state, count) in &more.counts {
                *sum.counts.entry(*state).or_default() += count;
            }
        }
    }

    /// Returns what no run has reached: those of the faults `expected` that were never injected,
    /// and for each injected fault the states at zero. A fault is judged from `at_least` injections
    /// on, because a few say little. A near hit needs near caches, and is judged from half as many
    /// injections on, because half of the runs have them.
    pub fn gaps(&self, expected: impl IntoIterator<Item = Event>, at_least: u64) -> BTreeSet<Gap> {
        let names = expected.into_iter().map(|event| event.name().to_owned());
        let never = names.filter(|name| self.0.get(name).is_none_or(|it| it.injected == 0));
        let never = never.map(|fault| Gap { fault, state: None });
        let faults = self.0.iter();
        let faults = faults.filter(|(_, it)| it.is_judged(at_least));
        let pairs = faults.flat_map(|(name, fault)| {
            let missing = State::ALL.iter().filter(|state| {
                let near = fault.with_near_caches;
                let is_judged = **state != State::NearHit || (near > 0 && near * 2 >= at_least);
                is_judged && fault.count(**state) == 0
            });
            missing.map(|state| Gap { fault: name.clone(), state: Some(*state) })
        });
        never.chain(pairs).collect()
    }

    /// Returns the faults `expected` that were injected too rarely to be judged, with how often.
    pub fn unjudged(
        &self,
        expected: impl IntoIterator<Item = Event>,
        at_least: u64,
    ) -> BTreeMap<&str, u64> {
        let counted = expected.into_iter().filter_map(|event| self.0.get_key_value(event.name()));
        let few = counted.filter(|(_, it)| it.injected > 0 && !it.is_judged(at_least));
        few.map(|(name, it)| (name.as_str(), it.injected)).collect()
    }
}

/// What no run has reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Gap {
    /// The name of the fault.
    pub fault: String,
    /// The work that was never under way when it began. `None`: the fault was never injected, or
    /// never had an effect.
    pub state: Option<State>,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = &self.fault;
        match self.state {
            Some(state) => write!(f, "never under way when {fault} began: {}", state.name()),
            None => write!(f, "never injected with an effect: {fault}"),
        }
    }
}

fn is_under_way(operation: &Operation, fault: &Fault) -> bool {
    let end: Nanos = operation.ret.or(operation.dropped).unwrap_or(Nanos::MAX);
    fault.affects(operation.node)
        && operation.call <= fault.at.saturating_add(Around::AFTER)
        && end >= fault.at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(lines: &str) -> History {
        let header = r#"{"header":{"version":2,"seed":7,"nodes":2,"parameters":{}}}"#;
        History::read(format!("{header}\n{lines}").as_bytes()).unwrap()
    }

    #[test]
    fn operation_counts_if_in_flight_when_the_fault_of_its_node_begins() {
        let reached = Reached::of(&history(
            r#"{"fault":{"name":"a","at":1000000000,"until":9000000000,"nodes":[0],"around":{"fills":3}}}
{"op":{"node":0,"call":0,"ret":999999999,"do":{"validate_random":{"answer":"invalid"}}}}
{"op":{"node":0,"call":0,"ret":1000000000,"do":{"validate_random":{"answer":"invalid"}}}}
{"op":{"node":0,"call":1500000000,"ret":1600000000,"do":{"validate_random":{"answer":"invalid"}}}}
{"op":{"node":0,"call":1500000001,"ret":1600000000,"do":{"validate_random":{"answer":"invalid"}}}}
{"op":{"node":1,"call":0,"ret":1600000000,"do":{"validate_random":{"answer":"invalid"}}}}
{"op":{"node":0,"call":5,"do":{"revoke_all":{"user":"u"}}}}
{"op":{"node":0,"call":5,"dropped":7,"do":{"revoke_all":{"user":"u"}}}}"#,
        ));
        let fault = &reached.0["a"];
        let counts = [State::Validation, State::RevokeAll, State::Fill, State::Login];
        assert_eq!(counts.map(|state| fault.count(state)), [2, 1, 3, 0]);
        assert_eq!(fault.injected, 1);
    }

    #[test]
    fn fault_without_effect_is_not_counted() {
        let reached = Reached::of(&history(
            r#"{"fault":{"name":"idle","at":1,"touched":{"connections":0,"bytes":0}}}
{"fault":{"name":"busy","at":1,"touched":{"connections":0,"bytes":0}}}
{"fault":{"name":"busy","at":1,"touched":{"connections":0,"bytes":9}}}
{"fault":{"name":"uncounted","at":1}}"#,
        ));
        let injected: Vec<_> = reached.0.iter().map(|(it, of)| (&**it, of.injected)).collect();
        assert_eq!(injected, [("busy", 1), ("uncounted", 1)]);
    }

    fn fault(injected: u64, with_near_caches: u64, without: &[State]) -> FaultReached {
        let states = State::ALL.iter().filter(|state| !without.contains(state));
        let counts = states.map(|state| (*state, 1)).collect();
        FaultReached { injected, with_near_caches, counts }
    }

    fn all(faults: &[(&str, FaultReached)]) -> Reached {
        Reached(faults.iter().map(|(name, it)| ((*name).to_owned(), it.clone())).collect())
    }

    #[test]
    fn gap_is_a_pair_at_zero_after_enough_injections() {
        let reached = all(&[
            ("near", fault(3, 2, &[State::NearHit])),
            ("rare", fault(2, 0, State::ALL)),
            ("redis-kill", fault(3, 1, &[State::NearHit])),
            ("redis-pause", fault(3, 0, &[State::NearHit, State::Rotation])),
        ]);
        let gap =
            |(fault, state): (&str, State)| Gap { fault: fault.to_owned(), state: Some(state) };
        let gaps: Vec<_> = reached.gaps([], 3).into_iter().collect();
        let expected = [("near", State::NearHit), ("redis-pause", State::Rotation)];
        assert_eq!(gaps, expected.map(gap));

        // Another night closes them.
        let mut sum = reached;
        sum.add(&all(&[("redis-pause", fault(1, 0, &[])), ("near", fault(1, 1, &[]))]));
        assert!(sum.gaps([], 3).is_empty(), "{:?}", sum.gaps([], 3));
        assert_eq!(sum.0["redis-pause"].injected, 4);
        assert_eq!(sum.0["redis-pause"].count(State::Login), 2);
    }

    #[test]
    fn expected_fault_that_was_never_injected_is_a_gap() {
        let events = ["redis-kill", "redis-pause", "plain-revoke", "late-revoke"];
        let events = || events.map(|name| name.parse().unwrap());
        let reached = all(&[
            ("redis-kill", fault(3, 3, &[])),
            // Once is too few to judge its states. That is no gap, and no verdict either.
            ("plain-revoke", fault(1, 0, State::ALL)),
            ("late-revoke", fault(0, 0, State::ALL)),
        ]);
        let gaps: Vec<_> = reached.gaps(events(), 3).into_iter().collect();
        let never = |name: &str| Gap { fault: name.to_owned(), state: None };
        assert_eq!(gaps, ["late-revoke", "redis-pause"].map(never));
        assert_eq!(reached.unjudged(events(), 3), [("plain-revoke", 1)].into());
        assert!(reached.unjudged(events(), 1).is_empty());
    }

    #[test]
    fn counts_written_and_read_are_unchanged() {
        let reached = all(&[("a", fault(1, 0, &[]))]);
        let json = serde_json::to_string(&reached).unwrap();
        assert!(json.contains(r#""journal-read":1"#), "{json}");
        assert_eq!(serde_json::from_str::<Reached>(&json).unwrap(), reached);
    }
}
