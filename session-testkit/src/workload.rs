//! Load as an open loop: requests are due at a fixed rate, whatever the results of earlier ones.
//!
//! Latency counts from the time a request was *due*. A stall therefore shows in every request that
//! it delayed. A [`Plan`] lists what is sent, to which node and when. It is a pure function of the
//! [`Settings`] with their seed, so a seed replays it. The results and the interleaving depend on
//! the subject.
//!
//! [`Runner::run`] records every operation in a [`History`](crate::history::History). It causes and
//! heals the faults of the schedule, and summarizes each second in a [`Report`]. A [`Script`] runs
//! operations in a fixed order, to force a race.
//!
//! ```
//! # use std::{collections::HashMap, sync::Mutex};
//! # use session_testkit::subject::{Failed, Login, Seen, Subject, Token, Visibility};
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
//! #     async fn revoke(&self, _node: u32, token: &Token) -> Result<Visibility, Failed> {
//! #         let mut sessions = self.0.lock().map_err(Failed::unknown)?;
//! #         if let Some((_, data)) = sessions.get_mut(token.reveal()) {
//! #             data.push_str(" (revoked, but still valid)");
//! #         }
//! #         Ok(Visibility::Propagated)
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

mod cancel;
mod injected;
mod latencies;
mod perform;
mod plan;
mod record;
mod report;
mod run;
mod scheduled;
mod script;
mod sessions;
mod settings;
mod tally;

pub(crate) use self::injected::Injected;
pub(crate) use self::latencies::Latencies;
pub use self::{
    cancel::DropWhen,
    plan::{Action, Plan, Planned, TokenChoice},
    record::{Clock, Progress, Recorder},
    report::{Counts, Latency, Report, Second},
    run::{Run, Runner, WorkloadError},
    scheduled::{Break, Failure, Scheduled},
    script::{Issued, Script},
    sessions::{IssuedToken, Tokens},
    settings::{PER_MILLE, Settings, SettingsError, Shares},
    tally::Timed,
};

#[cfg(test)]
mod tests;
