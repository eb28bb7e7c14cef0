//! Steps as text: `NAME`, `NAME@AT+LASTS`, `NAME@AT+LASTS/NODE,NODE`, with times in seconds.

use std::{str::FromStr, time::Duration};

use super::{Event, Step};
use crate::faults::UnknownFault;

/// A requested step, whose time may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requested {
    /// The event.
    pub event: Event,
    /// The start and the duration.
    pub time: Option<(Duration, Duration)>,
    /// The affected nodes.
    pub nodes: Option<Vec<u32>>,
}

/// The error for a text that is no step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleStepError {
    /// No event has this name.
    #[error(transparent)]
    Unknown(#[from] UnknownFault),
    /// The time is missing or malformed.
    #[error("`{0}` is no time: write `@AT+LASTS` in seconds, as in `redis-kill@2+3.5`")]
    Time(String),
    /// The nodes are malformed.
    #[error("`{0}` names no nodes: write numbers from 0, as in `redis-link-down@2+3/0,2`")]
    Nodes(String),
}

impl Requested {
    /// Returns the step, at the given time if it has none.
    pub fn or_at(self, at: Duration, lasts: Duration) -> Step {
        let (at, lasts) = self.time.unwrap_or((at, lasts));
        Step { event: self.event, at, lasts, nodes: self.nodes }
    }
}

impl FromStr for Requested {
    type Err = ScheduleStepError;

    fn from_str(text: &str) -> Result<Self, ScheduleStepError> {
        let (rest, nodes) = match text.split_once('/') {
            Some((rest, nodes)) => (rest, Some(nodes)),
            None => (text, None),
        };
        let (name, time) = match rest.split_once('@') {
            Some((name, time)) => (name, Some(time)),
            None => (rest, None),
        };
        let event = name.parse()?;
        let time = time.map(|time| {
            let bad = || ScheduleStepError::Time(time.to_owned());
            let (at, lasts) = time.split_once('+').ok_or_else(bad)?;
            let both = seconds(at).zip(seconds(lasts));
            both.ok_or_else(bad)
        });
        let nodes = nodes.map(|nodes| {
            let numbers: Result<Vec<u32>, _> = nodes.split(',').map(str::parse).collect();
            numbers.map_err(|_| ScheduleStepError::Nodes(nodes.to_owned()))
        });
        Ok(Self { event, time: time.transpose()?, nodes: nodes.transpose()? })
    }
}

fn seconds(text: &str) -> Option<Duration> {
    let number: f64 = text.parse().ok()?;
    Duration::try_from_secs_f64(number).ok()
}

impl FromStr for Step {
    type Err = ScheduleStepError;

    /// Parses a step, which must have a time.
    fn from_str(text: &str) -> Result<Self, ScheduleStepError> {
        let requested: Requested = text.parse()?;
        if requested.time.is_none() {
            return Err(ScheduleStepError::Time(text.to_owned()));
        }
        Ok(requested.or_at(Duration::ZERO, Duration::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Fault;

    #[test]
    fn step_without_time_or_nodes_leaves_them_open() {
        let requested: Requested = "redis-kill".parse().unwrap();
        assert_eq!(requested.event, Event::Fault(Fault::RedisKill));
        assert_eq!((requested.time, &requested.nodes), (None, &None));
        let step = requested.or_at(Duration::from_secs(1), Duration::from_secs(2));
        assert_eq!(step.until(), Duration::from_secs(3));
        let step: Step = "lose-fences@0.5+2/1,0".parse().unwrap();
        assert_eq!(step.at, Duration::from_millis(500));
        assert_eq!(step.nodes, Some(vec![1, 0]));
    }

    #[test]
    fn malformed_step_is_named_in_the_error() {
        let bad = |text: &str| text.parse::<Step>().unwrap_err().to_string();
        assert!(bad("redis-kil@1+2").contains("redis-kil`"));
        assert!(bad("redis-kill").contains("@AT+LASTS"));
        assert!(bad("redis-kill@1").contains("`1` is no time"));
        assert!(bad("redis-kill@-1+2").contains("no time"));
        assert!(bad("redis-kill@1+nan").contains("no time"));
        assert!(bad("lose-fences@1+2/x").contains("`x` names no nodes"));
    }
}
