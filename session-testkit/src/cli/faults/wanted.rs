//! What is to be run, and by which seed.

use super::{Arguments, Refusal};
use crate::schedule::{Event, Requested, Schedule};

/// A run that is wanted: written by hand, or still to be drawn when it is known what the servers can do.
pub(super) enum Wanted {
    Fault(Requested),
    Written(Schedule),
    /// From this seed.
    Drawn(u64),
}

impl Wanted {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Fault(requested) => requested.event.to_string(),
            Self::Written(_) => "schedule".to_owned(),
            Self::Drawn(_) => "drawn".to_owned(),
        }
    }

    /// Does it step the nodes' clock?
    pub(super) fn steps_the_clock(&self) -> bool {
        match self {
            Self::Fault(requested) => requested.event == Event::ClockStep,
            Self::Written(schedule) => schedule.steps_the_clock(),
            Self::Drawn(_) => false,
        }
    }

    /// What replays this run, where `seed` was asked for.
    pub(super) fn seed(&self, seed: u64) -> u64 {
        match self {
            Self::Drawn(own) => *own,
            _ => seed,
        }
    }
}

/// Each run that is asked for.
pub(super) fn wanted(arguments: &Arguments, seed: u64) -> Result<Vec<Wanted>, Refusal> {
    if let Some(path) = &arguments.schedule {
        let text = std::fs::read(path).map_err(|source| Refusal::Schedule {
            path: path.clone(),
            source,
        })?;
        let mut schedule: Schedule =
            serde_json::from_slice(&text).map_err(|source| Refusal::NoSchedule {
                path: path.clone(),
                source,
            })?;
        // One number replays the run.
        schedule.seed = seed;
        return Ok(vec![Wanted::Written(schedule)]);
    }
    if arguments.fault.is_empty() {
        let seeds = (0..u64::from(arguments.runs)).map(|more| seed.wrapping_add(more));
        return Ok(seeds.map(Wanted::Drawn).collect());
    }
    let faults = arguments.fault.iter().cloned();
    Ok(faults.map(Wanted::Fault).collect())
}
