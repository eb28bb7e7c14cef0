//! An exhaustive model of session-layer's protocol, and its runs with their expected results.
//!
//! [`all`] returns the runs. [`Run::explore`] explores one. [`Outcome::surprises`] lists how the
//! result differs from the expected one: a promise that is broken, a mutant that is not caught, or
//! a mark that is not reached. README.md explains the names and states what is modelled.
//!
//! ```
//! use protocol_model::{Limits, all};
//!
//! let run = all().into_iter().find(|run| run.name() == "mutant 1").unwrap();
//! let outcome = run.explore(Limits::default());
//! assert!(outcome.surprises().is_empty(), "get, else set brings a revoked session back");
//! for (promise, trace) in outcome.traces() {
//!     println!("{promise} is broken by:\n{}", trace.join("\n"));
//! }
//! ```

mod explore;
mod protocol;
mod run;
mod runs;
mod submodels;

pub use self::explore::Limits;
pub use self::run::{Outcome, Run};
pub use self::runs::all;
