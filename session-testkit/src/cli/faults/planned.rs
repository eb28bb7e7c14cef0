//! The requested runs and their seeds.

use super::{Arguments, Failure, FaultsError};
use crate::schedule::Schedule;

/// A requested run.
pub(super) struct PlannedRun {
    pub(super) name: String,
    /// The seed that replays the run.
    pub(super) seed: u64,
    /// `None`: a schedule is drawn from the seed once the servers' abilities are known.
    pub(super) schedule: Option<Schedule>,
}

impl PlannedRun {
    /// Returns whether the run steps the nodes' clock.
    pub(super) fn steps_the_clock(&self) -> bool {
        self.schedule.as_ref().is_some_and(Schedule::steps_the_clock)
    }
}

/// Returns the requested runs. Their schedules suit the nodes.
pub(super) fn planned_runs(arguments: &Arguments, seed: u64) -> Result<Vec<PlannedRun>, Failure> {
    let known = |name: String, schedule: Schedule| {
        schedule.check(arguments.nodes)?;
        schedule.suits(arguments.sealed)?;
        Ok(PlannedRun { name, seed, schedule: Some(schedule) })
    };
    if let Some(path) = &arguments.schedule {
        let text = std::fs::read(path).map_err(FaultsError::file("read", path))?;
        let read = serde_json::from_slice(&text);
        let mut schedule: Schedule = read.map_err(FaultsError::file("read", path))?;
        // The seed of the command replays the run.
        schedule.seed = seed;
        return Ok(vec![known("schedule".to_owned(), schedule)?]);
    }
    if arguments.fault.is_empty() {
        let drawn = |more| {
            let seed = seed.wrapping_add(u64::from(more));
            PlannedRun { name: "drawn".to_owned(), seed, schedule: None }
        };
        return Ok((0..arguments.runs).map(drawn).collect());
    }
    let load = arguments.duration;
    let faults = arguments.fault.iter().map(|requested| {
        let step = requested.clone().or_at(load / 5, load * 2 / 5);
        known(requested.event.to_string(), Schedule { seed, steps: vec![step] })
    });
    faults.collect()
}
