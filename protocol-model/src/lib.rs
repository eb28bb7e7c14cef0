//! An exhaustive model of session-layer's protocol, and every run of it with what is expected of it.
//!
//! [`all`] are the runs; [`Run::explore`] explores one, and [`Outcome::surprises`] says where what was
//! found differs from what is expected: a promise that has to hold and is broken, a mutant that is not
//! caught, a run in which nothing interesting happened. README.md tells what the names mean, what is
//! modelled and what is not.
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

mod beside;
mod explore;
mod protocol;
mod run;
mod runs;

pub use self::explore::Limits;
pub use self::run::{Outcome, Run};
pub use self::runs::all;
