//! Events of a deployment with their times, and their effect on its promises.
//!
//! A [`Schedule`] is a list of [`Step`]s. A step has an [`Event`] by its name, a start, a duration
//! and the affected nodes. Schedules are written as JSON, step by step as text, or
//! [drawn](Schedule::draw) from a seed. [`Schedule::on`] applies one to a
//! [`Deployment`](crate::deployment::Deployment).
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

mod apply;
mod draw;
mod effect;
mod event;
mod planting;
mod revokes;
mod text;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::event::Topology;
pub use self::{
    draw::Means,
    effect::{Effect, Loss},
    event::{Event, Lost, Planted},
    text::{Requested, ScheduleStepError},
};
use crate::history::millis;

/// The events of a deployment, sorted by start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The seed of all random choices: which commands are lost, which sessions are revoked.
    /// Defaults to 0.
    #[serde(default)]
    pub seed: u64,
    /// The steps.
    pub steps: Vec<Step>,
}

/// One event with its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The event.
    pub event: Event,
    /// The start, after the load began.
    #[serde(rename = "at_ms", with = "millis")]
    pub at: Duration,
    /// The duration.
    #[serde(rename = "lasts_ms", with = "millis")]
    pub lasts: Duration,
    /// The affected nodes, if they are not the event's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<u32>>,
}

impl Step {
    /// Returns the affected nodes. `None`: all.
    pub fn affected_nodes(&self) -> Option<Vec<u32>> {
        self.nodes.clone().or_else(|| self.event.default_nodes())
    }

    /// Returns the end of the step.
    pub fn until(&self) -> Duration {
        self.at.saturating_add(self.lasts)
    }
}

/// The error for a schedule that cannot be executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// The event affects a server, and therefore all nodes.
    #[error("{0} affects a server and therefore all nodes: omit its nodes")]
    NotOfNodes(Event),
    /// There is no such node.
    #[error("{event} is for node {node}, but there are {nodes} nodes, numbered from 0")]
    NoSuchNode {
        /// The event.
        event: Event,
        /// The node.
        node: u32,
        /// The number of nodes.
        nodes: u32,
    },
    /// The event needs a sealing key. Without one, Redis is trusted.
    #[error("{0} needs nodes that seal their entries: use `--sealed`")]
    NotSealed(Event),
    /// The event would begin after the load.
    #[error(
        "{event} begins at {at:?}, but the load ends at {ends:?}: begin it earlier, or make the \
         load longer"
    )]
    AfterTheLoad {
        /// The event.
        event: Event,
        /// Its start.
        at: Duration,
        /// The end of the load.
        ends: Duration,
    },
    /// The events need different forms of Redis: one server, a cluster, or sentinels.
    #[error(
        "{first} and {second} need Redis in different forms (one server, a cluster, sentinels): \
         run them one after the other"
    )]
    Topology {
        /// The event that comes first in the schedule.
        first: Event,
        /// The other event.
        second: Event,
    },
    /// Two concurrent events change the same server. The first to heal would heal both.
    #[error(
        "{first} and {second} affect one server at the same time: let one end before the other \
         begins"
    )]
    Overlap {
        /// The event that begins first.
        first: Event,
        /// The other event.
        second: Event,
    },
}

impl Schedule {
    /// Checks that all events begin during the load.
    ///
    /// # Errors
    /// [`ScheduleError::AfterTheLoad`].
    pub fn begins_within(&self, load: Duration) -> Result<(), ScheduleError> {
        let late = self.steps.iter().find(|step| step.at >= load);
        late.map_or(Ok(()), |step| {
            Err(ScheduleError::AfterTheLoad { event: step.event, at: step.at, ends: load })
        })
    }

    /// Checks whether the schedule can be executed on this number of nodes.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub fn check(&self, nodes: u32) -> Result<(), ScheduleError> {
        for Step { event, nodes: to, .. } in &self.steps {
            let Some(to) = to else { continue };
            if !event.affects_single_nodes() {
                return Err(ScheduleError::NotOfNodes(*event));
            }
            if let Some(&node) = to.iter().find(|node| **node >= nodes) {
                return Err(ScheduleError::NoSuchNode { event: *event, node, nodes });
            }
        }
        let events = self.steps.iter().map(|step| step.event);
        let mut of_redis = events.filter_map(|event| Some((event, event.topology()?)));
        if let Some((first, topology)) = of_redis.next()
            && let Some((second, _)) = of_redis.find(|(_, other)| *other != topology)
        {
            return Err(ScheduleError::Topology { first, second });
        }
        let mut of_servers: Vec<&Step> =
            self.steps.iter().filter(|step| step.event.server().is_some()).collect();
        of_servers.sort_by_key(|step| step.at);
        for (at, first) in of_servers.iter().enumerate() {
            let overlaps = |second: &&&Step| {
                second.at < first.until() && second.event.server() == first.event.server()
            };
            if let Some(second) = of_servers[at + 1..].iter().find(overlaps) {
                return Err(ScheduleError::Overlap { first: first.event, second: second.event });
            }
        }
        Ok(())
    }

    /// Checks that no event needs a sealing key that the nodes lack.
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

    /// Returns whether the schedule steps the nodes' clock.
    pub fn steps_the_clock(&self) -> bool {
        self.steps.iter().any(|step| step.event == Event::ClockStep)
    }

    /// Returns whether the schedule needs a Redis to fail over to.
    pub fn needs_replica(&self) -> bool {
        self.steps.iter().any(|step| step.event.needs_replica())
    }

    /// Returns whether the schedule needs a cluster in the place of the Redis.
    pub fn needs_cluster(&self) -> bool {
        self.needs_topology(Topology::Cluster)
    }

    /// Returns whether the schedule needs sentinels in the place of the Redis.
    pub fn needs_sentinels(&self) -> bool {
        self.needs_topology(Topology::Sentinels)
    }

    fn needs_topology(&self, topology: Topology) -> bool {
        self.steps.iter().any(|step| step.event.topology() == Some(topology))
    }

    /// Returns whether the schedule needs a standby of the Postgres.
    pub fn needs_standby(&self) -> bool {
        self.steps.iter().any(|step| step.event.needs_standby())
    }

    /// Returns whether the schedule needs TLS between the nodes and the servers.
    pub fn needs_tls(&self) -> bool {
        self.steps.iter().any(|step| step.event == Event::CertificateExpire)
    }

    /// Returns whether the schedule needs native servers.
    pub fn needs_native(&self) -> bool {
        self.needs_standby() || self.needs_tls()
    }

    /// Returns whether the schedule needs nodes with tokens that expire.
    pub fn needs_tokens(&self) -> bool {
        self.steps.iter().any(|step| step.event == Event::CredentialsExpire)
    }

    /// Returns the first event that damages a server, if there is one.
    pub fn destructive(&self) -> Option<Event> {
        let mut events = self.steps.iter().map(|step| step.event);
        events.find(|event| event.server().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(steps: &[&str]) -> Schedule {
        Schedule { seed: 0, steps: steps.iter().map(|step| step.parse().unwrap()).collect() }
    }

    #[test]
    fn schedule_written_as_json_and_read_is_unchanged() {
        let schedule = schedule(&["redis-kill@1+2", "lose-fences@0+9/1", "node-restart@4+1/0,2"]);
        let json = serde_json::to_string(&schedule).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
        assert!(json.contains(r#"{"event":"redis-kill","at_ms":1000,"lasts_ms":2000}"#), "{json}");
        let misspelt = json.replace("at_ms", "at");
        assert!(serde_json::from_str::<Schedule>(&misspelt).is_err());
    }

    #[test]
    fn invalid_schedule_is_refused_before_the_run() {
        let check = |steps: &[&str]| schedule(steps).check(3);
        assert_eq!(check(&["redis-kill@1+2", "redis-pause@3+1", "postgres-kill@2+1"]), Ok(()));
        assert!(matches!(
            check(&["redis-pause@2+1", "redis-kill@1+2"]),
            Err(ScheduleError::Overlap { .. })
        ));
        assert!(matches!(
            check(&["redis-kill@1+2", "redis-cluster-slot-move@5+2"]),
            Err(ScheduleError::Topology { .. })
        ));
        assert_eq!(check(&["postgres-kill@1+2", "redis-cluster-slot-move@2+2"]), Ok(()));
        assert!(matches!(check(&["redis-kill@1+2/0"]), Err(ScheduleError::NotOfNodes(_))));
        assert!(matches!(
            check(&["lose-unlinks@1+2/3"]),
            Err(ScheduleError::NoSuchNode { node: 3, nodes: 3, .. })
        ));
    }
}
