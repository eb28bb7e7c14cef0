//! Starts the real Redis and Postgres, breaks them on purpose, drives load through them, and
//! decides whether a session cache kept its promises.
//!
//! # Start
//!
//! [`Backends::start`](backends::Backends::start) starts a Redis and a Postgres. It prefers named
//! servers (`SESSION_TESTKIT_REDIS_URL`, `SESSION_TESTKIT_DATABASE_URL`), then containers, then
//! local processes. They stop when the guard is dropped, after a panic, and within 2 s after a
//! SIGKILL. Tests that do not break servers share a pair, each in a [`Sandbox`](backends::Sandbox).
//! The command `session-testkit run -- cargo test` starts that pair once for all of them.
//!
//! # Break
//!
//! A test can kill, pause and restart its own server ([`start_own`](backends::Backends::start_own))
//! on the same address. A [`Proxy`](proxy::Proxy) in front of any server has toxics: latency, cut
//! or hanging connections, bytes held and released. [`faults`] contains named faults, from a full
//! memory to a failover. Each fault returns a guard, and dropping the guard heals the fault.
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
//! assert!(service_answers().await, "Redis is paused, and Postgres is reachable");
//! paused.resume().await?;
//!
//! servers.postgres().kill().await?;
//! servers.postgres().restart().await?;
//! wait::until("a response", Duration::from_secs(2), service_answers).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Drive load and decide
//!
//! A [`Subject`](subject::Subject) is the session cache under test, on several nodes. A
//! [`Runner`](workload::Runner) drives an open loop of requests through it, injects the faults of a
//! schedule and records a [`History`](history::History). [`invariants::check`] returns the verdict
//! on each promise. A broken promise comes with the few operations that prove it. A promise without
//! enough examined operations is inconclusive.
//!
//! Two modules decide without load. [`conformance`] checks whether a `SessionCache` or
//! `SessionStore` keeps the contract of its port. [`probe`] checks whether a middleware keeps
//! Tower's rules.
//!
//! [`fault_run`] combines these parts for session-layer itself. It uses a
//! [`Deployment`](deployment::Deployment) of several nodes, a [`Schedule`](schedule::Schedule) of
//! faults, and [`observe`] for effects that no response shows. The command is `session-testkit
//! faults`.
//!
//! # Inspect
//!
//! `session-testkit bench` compares latencies with and without the cache. `session-testkit verify`
//! examines whether session-layer keeps its promises on these servers. `sessionctl check` inspects
//! a deployment and reports which step fails, why, and what to do.

#![cfg_attr(
    not(feature = "cli"),
    allow(dead_code, unused_imports, reason = "only the command uses some items")
)]

mod app;
pub mod backends;
pub mod bench;
pub mod certificates;
#[cfg(feature = "cli")]
pub mod cli;
pub mod conformance;
pub mod deployment;
pub mod fault_run;
pub mod faults;
pub mod history;
pub mod invariants;
pub mod observe;
pub mod probe;
pub mod proxy;
pub mod report;
pub mod schedule;
pub mod subject;
pub mod url;
mod verify;
pub mod wait;
pub mod wall_clock;
pub mod workload;
