//! Starts the real Redis and Postgres, breaks them on purpose, drives load through them, and
//! decides whether a session cache kept its promises.
//!
//! # Start
//!
//! [`Backends::start`](backends::Backends::start) gets a Redis and a Postgres: given ones
//! (`SESSION_TESTKIT_REDIS_URL`, `SESSION_TESTKIT_DATABASE_URL`), else containers, else processes of
//! this machine. They are gone when the guard is dropped, after a panic, and within 2 s of a SIGKILL.
//! Tests that only use them share a pair, each in a [`Sandbox`](backends::Sandbox); the command
//! `session-testkit run -- cargo test` starts that pair once for all.
//!
//! # Break
//!
//! A server of one's own ([`start_own`](backends::Backends::start_own)) can be killed, paused and
//! restarted on the same address. A [`Proxy`](proxy::Proxy) in front of any server has toxics: latency, cut
//! or hanging connections, bytes held and released. [`faults`] has by name what else a server may
//! suffer, from a full memory to a failover. What heals is a guard: dropping it heals.
//!
//! ```no_run
//! use std::time::Duration;
//! use session_testkit::{backends::Backends, proxy::Proxy, wait};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let servers = Backends::start_own().await?;
//! let proxy = Proxy::start(servers.redis().address()).await?;
//! let redis_url = proxy.url(servers.redis().url()); // for the service under test
//! # let service_answers = async || true;
//!
//! let paused = servers.redis().pause().await?;
//! assert!(service_answers().await, "Redis is down, and Postgres is there");
//! paused.resume().await?;
//!
//! servers.postgres().kill().await?;
//! servers.postgres().restart().await?;
//! wait::until("an answer", Duration::from_secs(2), service_answers).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Load, decide
//!
//! A [`Subject`](subject::Subject) is the session cache under test, on several nodes; a
//! [`Runner`](workload::Runner) drives an open loop of requests through it, causes the faults of a schedule
//! and records a [`History`](history::History); [`invariants::check`] says which promise was broken, by
//! which few operations, or that too little was examined to say anything.
//!
//! A part of it is decided about without load: [`conformance`] says whether somebody's `SessionCache` or
//! `SessionStore` keeps the contract of its port, [`probe`] whether a middleware keeps Tower's rules.
//!
//! [`trial`] puts these together for session-layer itself: a [`Deployment`](deployment::Deployment) of several
//! nodes, a [`Schedule`](schedule::Schedule) of what happens to it, [`observe`] for what no answer tells. It is
//! the command `session-testkit faults`.
//!
//! # Look
//!
//! [`check`](mod@check) looks at a deployment and says which step fails, why, and what to do; [`bench`](mod@bench) measures what
//! its cache is worth; [`verify`] examines whether session-layer does on these servers what it promises. Each is a
//! command of `session-testkit` too.

mod app;
pub mod backends;
pub mod bench;
pub mod check;
pub mod cli;
pub mod conformance;
pub mod deployment;
pub mod faults;
pub mod history;
pub mod invariants;
pub mod observe;
pub mod probe;
pub mod proxy;
pub mod schedule;
pub mod subject;
pub mod trial;
pub mod url;
pub mod verify;
pub mod wait;
pub mod wall_clock;
pub mod workload;
