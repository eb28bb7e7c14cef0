//! Every run, and what is expected of it.

use crate::protocol::{Config, MARKS, PROMISES, Protocol};
use crate::run::Run;

mod bounds;
mod built;
mod copies;
mod dead;
mod failovers;
mod gone;
mod leases;
mod lives;
mod logins;
mod monotone;
mod mutants;
mod pending;
mod positions;
mod tokens;

/// The matrix.
#[must_use]
pub fn all() -> Vec<Run> {
    [
        leases::runs(),
        monotone::runs(),
        mutants::runs(),
        bounds::runs(),
        failovers::runs(),
        copies::runs(),
        positions::runs(),
        logins::runs(),
        lives::runs(),
        tokens::runs(),
        dead::runs(),
        gone::runs(),
        pending::runs(),
        built::runs(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A run of the protocol as it was designed first, but for what `change` changes.
fn first(name: &'static str, about: &'static str, change: impl Fn(&mut Config)) -> Run {
    let mut config = Config::first_design();
    change(&mut config);
    Run::new(name, about, (PROMISES, MARKS), Protocol::<2>(config))
}

/// A run of the protocol as it is built, but for what `change` changes.
fn built(name: &'static str, about: &'static str, change: impl Fn(&mut Config)) -> Run {
    let mut config = Config::as_built();
    change(&mut config);
    Run::new(name, about, (PROMISES, MARKS), Protocol::<2>(config))
}

/// The same with a third validating node.
fn three(name: &'static str, about: &'static str, change: impl Fn(&mut Config)) -> Run {
    let mut config = Config::first_design();
    change(&mut config);
    Run::new(name, about, (PROMISES, MARKS), Protocol::<3>(config))
}
