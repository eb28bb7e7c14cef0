//! Load, as an open loop: requests are due at a set rate, whatever became of those before.
//!
//! Latency counts from the time a request was *due*, so that a stall shows in every request that it
//! delayed. What is asked, of which node and when is a [`Plan`]: a pure function of the [`Settings`] with
//! their seed, so that a seed replays it. (What is answered is up to the subject, and so is the order in
//! which things overlap.)
//!
//! [`Runner::run`] records every operation in a [`History`](crate::history::History), causes and heals the
//! faults of the schedule, and sums up each second in a [`Report`]. What must happen in a certain order, to
//! force a race, is a [`Script`].
//!
//! ```
//! # use std::{collections::HashMap, sync::Mutex};
//! # use session_testkit::subject::{Failed, Login, Reach, Seen, Subject, Token};
//! # #[derive(Default)]
//! # struct MyCache(Mutex<HashMap<String, (String, String)>>);
//! # impl Subject for MyCache {
//! #     fn nodes(&self) -> u32 { 1 }
//! #     async fn create(&self, _node: u32, login: &Login) -> Result<Token, Failed> {
//! #         let mut sessions = self.0.lock().map_err(Failed::unknown)?;
//! #         let token = format!("token-{}", sessions.len());
//! #         sessions.insert(token.clone(), (login.user.clone(), login.data.clone()));
//! #         Ok(Token::new(token))
//! #     }
//! #     async fn validate(&self, _node: u32, token: &Token) -> Seen {
//! #         let Ok(sessions) = self.0.lock() else { return Seen::Unavailable };
//! #         match sessions.get(token.reveal()) {
//! #             Some((user, data)) => Seen::Valid { user: user.clone(), data: data.clone() },
//! #             None => Seen::Invalid,
//! #         }
//! #     }
//! #     async fn revoke(&self, _node: u32, token: &Token) -> Result<Reach, Failed> {
//! #         if let Some((_, data)) = self.0.lock().map_err(Failed::unknown)?.get_mut(token.reveal()) {
//! #             data.push_str(" (revoked, and nobody looks)");
//! #         }
//! #         Ok(Reach::Propagated)
//! #     }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use session_testkit::{invariants::{self, Invariant}, workload::{Runner, Settings}};
//!
//! let mut settings = Settings::new(42);
//! settings.rate = 500;
//! settings.duration = Duration::from_secs(1);
//! let run = Runner::new(MyCache::default(), settings).run().await?;
//! let verdicts = invariants::check(&run.history);
//! println!("{}\n{verdicts}", run.report);
//! # assert_eq!(verdicts.of(Invariant::R1).outcome(), invariants::Outcome::Broken);
//! # Ok(())
//! # }
//! ```

mod breaks;
mod dropping;
mod injected;
mod latencies;
mod perform;
mod plan;
mod record;
mod report;
mod run;
mod script;
mod sessions;
mod settings;
mod tally;

pub(crate) use self::injected::Injected;
pub(crate) use self::latencies::Latencies;
pub use self::{
    breaks::{Break, Failure, Scheduled},
    dropping::DropWhen,
    plan::{Action, Plan, Planned, Presented},
    record::{Clock, Progress, Recorder},
    report::{Counts, Latency, Report, Second},
    run::{Run, Runner, WorkloadError},
    script::{Issued, Script},
    sessions::{GivenOut, Tokens},
    settings::{PER_MILLE, Settings, SettingsError, Shares},
    tally::Timed,
};

#[cfg(test)]
mod tests;
