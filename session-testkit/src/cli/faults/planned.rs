//! The requested runs and their seeds.

use super::{Arguments, FaultsError};
use crate::schedule::{Event, Requested, Schedule};

/// A requested run. A drawn schedule follows once the servers' abilities are known.
pub(super) enum PlannedRun {
    Fault(Requested),
    Written(Schedule),
    /// A schedule to draw from this seed.
    Drawn(u64),
}

impl PlannedRun {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Fault(requested) => requested.event.to_string(),
            Self::Written(_) => "schedule".to_owned(),
            Self::Drawn(_) => "drawn".to_owned(),
        }
    }

    /// Returns whether the run steps the nodes' clock.
    pub(super) fn steps_the_clock(&self) -> bool {
        match self {
            Self::Fault(requested) => requested.event == Event::ClockStep,
            Self::Written(schedule) => schedule.steps_the_clock(),
            Self::Drawn(_) => false,
        }
    }

    /// Returns the seed that replays this run of a command with `seed`.
    pub(super) fn seed(&self, seed: u64) -> u64 {
        match self {
            Self::Drawn(own) => *own,
            _ => seed,
        }
    }
}

/// Returns the requested runs.
pub(super) fn planned_runs(
    arguments: &Arguments,
    seed: u64,
) -> Result<Vec<PlannedRun>, FaultsError> {
    if let Some(path) = &arguments.schedule {
        let text = std::fs::read(path)
            .map_err(|source| FaultsError::Schedule { path: path.clone(), source })?;
        let mut schedule: Schedule = serde_json::from_slice(&text)
            .map_err(|source| FaultsError::NoSchedule { path: path.clone(), source })?;
        // The seed of the command replays the run.
        schedule.seed = seed;
        return Ok(vec![PlannedRun::Written(schedule)]);
    }
    if arguments.fault.is_empty() {
        let seeds = (0..u64::from(arguments.runs)).map(|more| seed.wrapping_add(more));
        return Ok(seeds.map(PlannedRun::Drawn).collect());
    }
    let faults = arguments.fault.iter().cloned();
    Ok(faults.map(PlannedRun::Fault).collect())
}
