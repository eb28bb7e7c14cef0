//! What happens to a deployment when, and what that means for its promises.
//!
//! A [`Schedule`] is a list of [`Step`]s: an [`Event`] by its name, when it begins, how long it lasts, which nodes
//! feel it. It is written by hand, as JSON or step by step as text, or [drawn](Schedule::draw) from a seed.
//! [`Schedule::on`] makes it real on a [`Deployment`](crate::deployment::Deployment).
//!
//! ```
//! use std::time::Duration;
//! use session_testkit::schedule::{Schedule, Step};
//!
//! let step: Step = "redis-link-partition@3+4.5/0,2".parse()?;
//! assert_eq!((step.at, step.lasts), (Duration::from_secs(3), Duration::from_millis(4500)));
//!
//! let schedule: Schedule = serde_json::from_str(r#"{"steps":[
//!     {"event": "lose-unlinks", "at_ms": 0, "lasts_ms": 10000},
//!     {"event": "redis-kill", "at_ms": 2000, "lasts_ms": 3000}
//! ]}"#)?;
//! schedule.check(3)?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod breaks;
mod draw;
mod effect;
mod event;
mod planting;
mod revokes;
mod text;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::{
    draw::Means,
    effect::{Effect, Loss},
    event::{Event, Lost, Planted, UnknownEvent},
    text::{BadStep, Requested},
};
use crate::history::millis;

/// What happens to a deployment, in the order in which it begins.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Chooses what is left to chance: which commands are lost, which sessions are ended. Defaults to 0.
    #[serde(default)]
    pub seed: u64,
    /// The steps.
    pub steps: Vec<Step>,
}

/// One event with its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What happens.
    pub event: Event,
    /// When, after the load began.
    #[serde(rename = "at_ms", with = "millis")]
    pub at: Duration,
    /// For how long.
    #[serde(rename = "lasts_ms", with = "millis")]
    pub lasts: Duration,
    /// To which nodes, if not to those that the event is usually felt by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<u32>>,
}

impl Step {
    /// Which nodes feel it; `None`: all.
    #[must_use]
    pub fn felt_by(&self) -> Option<Vec<u32>> {
        self.nodes.clone().or_else(|| self.event.usually_felt_by())
    }

    /// When it is over.
    #[must_use]
    pub fn until(&self) -> Duration {
        self.at.saturating_add(self.lasts)
    }
}

/// A schedule that can't be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// A server is there for all nodes.
    #[error("{0} happens to a server, so all nodes feel it; leave out its nodes")]
    NotOfNodes(Event),
    /// There is no such node.
    #[error("{event} is to happen to node {node}, and there are {nodes}, from 0")]
    NoSuchNode {
        /// What was to happen.
        event: Event,
        /// To which node.
        node: u32,
        /// How many there are.
        nodes: u32,
    },
    /// Without a key to seal entries with, whatever is in Redis is believed.
    #[error(
        "{0} is for nodes that seal their entries (`--sealed`): without a key, Redis is trusted"
    )]
    NotSealed(Event),
    /// It would happen when nobody asks any more.
    #[error(
        "{event} begins at {at:?}, and the load ends at {ends:?}: begin it earlier, or make the load longer"
    )]
    AfterTheLoad {
        /// What was to happen.
        event: Event,
        /// When.
        at: Duration,
        /// When the load ends.
        ends: Duration,
    },
    /// Two at a time that change the same: the first to heal would heal both.
    #[error(
        "{first} and {second} happen to one server at the same time; let one end before the other begins"
    )]
    Overlap {
        /// The one that begins first.
        first: Event,
        /// The other.
        second: Event,
    },
}

impl Schedule {
    /// Does everything begin while there is load?
    ///
    /// # Errors
    /// [`ScheduleError::AfterTheLoad`].
    pub fn begins_within(&self, load: Duration) -> Result<(), ScheduleError> {
        let late = self.steps.iter().find(|step| step.at >= load);
        late.map_or(Ok(()), |step| {
            Err(ScheduleError::AfterTheLoad {
                event: step.event,
                at: step.at,
                ends: load,
            })
        })
    }

    /// Can it be carried out on so many nodes?
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub fn check(&self, nodes: u32) -> Result<(), ScheduleError> {
        for Step {
            event, nodes: to, ..
        } in &self.steps
        {
            let Some(to) = to else { continue };
            if !event.is_of_nodes() {
                return Err(ScheduleError::NotOfNodes(*event));
            }
            if let Some(&node) = to.iter().find(|node| **node >= nodes) {
                return Err(ScheduleError::NoSuchNode {
                    event: *event,
                    node,
                    nodes,
                });
            }
        }
        let mut of_servers: Vec<&Step> = self
            .steps
            .iter()
            .filter(|step| step.event.server().is_some())
            .collect();
        of_servers.sort_by_key(|step| step.at);
        for (at, first) in of_servers.iter().enumerate() {
            let overlaps = |second: &&&Step| {
                second.at < first.until() && second.event.server() == first.event.server()
            };
            if let Some(second) = of_servers[at + 1..].iter().find(overlaps) {
                return Err(ScheduleError::Overlap {
                    first: first.event,
                    second: second.event,
                });
            }
        }
        Ok(())
    }

    /// Would it break what is not promised to nodes without a key?
    ///
    /// # Errors
    /// [`ScheduleError::NotSealed`].
    pub fn suits(&self, sealed: bool) -> Result<(), ScheduleError> {
        let mut events = self.steps.iter().map(|step| step.event);
        match events.find(|event| event.needs_key() && !sealed) {
            Some(event) => Err(ScheduleError::NotSealed(event)),
            None => Ok(()),
        }
    }

    /// Does it step the nodes' clock?
    #[must_use]
    pub fn steps_the_clock(&self) -> bool {
        self.steps.iter().any(|step| step.event == Event::ClockStep)
    }

    /// Does it need a Redis to fail over to?
    #[must_use]
    pub fn needs_replica(&self) -> bool {
        let mut steps = self.steps.iter();
        steps.any(|step| step.event.needs_replica())
    }

    /// The first event that does damage to servers, if there is one.
    #[must_use]
    pub fn destructive(&self) -> Option<Event> {
        let mut events = self.steps.iter().map(|step| step.event);
        events.find(|event| event.server().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(steps: &[&str]) -> Schedule {
        Schedule {
            seed: 0,
            steps: steps.iter().map(|step| step.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_schedule_comes_back_from_its_json() {
        let schedule = schedule(&[
            "redis-kill@1+2",
            "lose-fences@0+9/1",
            "node-restart@4+1/0,2",
        ]);
        let json = serde_json::to_string(&schedule).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
        assert!(
            json.contains(r#"{"event":"redis-kill","at_ms":1000,"lasts_ms":2000}"#),
            "{json}"
        );
        let misspelt = json.replace("at_ms", "at");
        assert!(serde_json::from_str::<Schedule>(&misspelt).is_err());
    }

    #[test]
    fn what_can_not_be_carried_out_is_said_before_the_run() {
        let check = |steps: &[&str]| schedule(steps).check(3);
        assert_eq!(
            check(&["redis-kill@1+2", "redis-pause@3+1", "postgres-kill@2+1"]),
            Ok(())
        );
        assert!(matches!(
            check(&["redis-pause@2+1", "redis-kill@1+2"]),
            Err(ScheduleError::Overlap { .. })
        ));
        assert!(matches!(
            check(&["redis-kill@1+2/0"]),
            Err(ScheduleError::NotOfNodes(_))
        ));
        assert!(matches!(
            check(&["lose-unlinks@1+2/3"]),
            Err(ScheduleError::NoSuchNode {
                node: 3,
                nodes: 3,
                ..
            })
        ));
    }
}
