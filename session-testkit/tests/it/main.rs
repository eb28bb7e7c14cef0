//! Tests of the testkit on real servers.

mod backends;
mod bench;
mod command;
mod conformance;
mod deployment;
mod fault_runs;
mod faults;
mod given_servers;
mod leftovers;
mod missing_backend;
mod observe;
mod proxy;
mod readme;
mod run;
mod verify;

use session_verification::{binaries, harness, mutants, support};
