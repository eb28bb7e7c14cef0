//! session-layer's own driver in a simulated world: 100,000 schedules of three nodes, a Redis and a Postgres
//! in virtual time, each replayed by its seed alone; and the mutants that must be caught.
//!
//! | | file |
//! |---|---|
//! | what happens in a schedule, drawn from its seed | `plan.rs`, `weather.rs`, `dice.rs` |
//! | virtual time, and calls of ports that take it, get lost, wait | `world.rs` |
//! | the servers | `redis.rs`, `postgres.rs` |
//! | the ports to them | `cache.rs`, `store.rs` |
//! | a schedule is run, recorded and judged by `invariants::check` | `schedule.rs` |
//! | the schedules, in parts that run side by side; what happened in them | `schedules.rs`, `coverage.rs` |
//! | the mutants, and the smallest schedule that catches each | `caught.rs`, `shrink.rs`, `session-testkit/tests/mutants` |
//!
//! It is no module of the kit: it needs Tokio's paused time (feature `test-util`), which would be turned on in
//! every application that uses the kit, and it simulates what session-layer's ports ask for, not what anybody's
//! cache does.
//!
//! # Seeds
//!
//! Each test prints its base seed. It is 1 unless `SIMULATION_SEED` says otherwise (a number, or `fresh`), so
//! that a run of CI says of a change whether *it* broke something. `SIMULATION_SCHEDULE`, the seed of one
//! schedule as a failure prints it, replays that one with every step (`schedules::one_schedule`);
//! `SIMULATION_SCHEDULES` changes how many there are in each part.
//!
//! # Mutants
//!
//! | mutant | caught by | by what |
//! |---|---|---|
//! | a fill without a lease | R1 | a fill that arrives after the UNLINK |
//! | SET NX and a tombstone | R1 | a flush loses the tombstone, a late fill is accepted |
//! | lease nonce reused | R1 | another reader's lease is taken for one's own |
//! | values without incarnation | R1 | a restart from an old dump |
//! | a fill sealed with the present incarnation | R1 | the dump also holds the lease |
//! | no outer deadline | R9 | an answer that is lost |
//! | UNLINK before COMMIT only | R1 | a fill between the two, while the fence is lost or was removed |
//! | no UNLINK at all | R1 | any hit |
//! | joins a read already under way | R1 | the read began before the COMMIT, the caller after the answer |
//! | update that skips the UNLINK | R5 | its fence is lost |
//! | rotate that skips the UNLINK | R1 | its fence is lost; the old token goes on |
//! | row-level security taken for Invalid | R7 | rows are hidden |
//! | an error of the store taken for Invalid | R7 | Postgres is down |
//! | the journal is not read | R1Δ | a session ended by plain SQL |
//! | the journal's next read begins behind the last row | R1Δ | a transaction that commits late |
//!
//! All are caught here, with the unbroken one as the control of the seed that catches each; those that an adapter can make on
//! a real Redis too, in session-testkit's `tests/it/adapter_mutants.rs` and `stale_fill.rs`; one of them by the model on real servers
//! (`tests/it/model.rs`).

#![cfg(test)]

#[path = "../../session-testkit/tests/mutants/mod.rs"]
mod mutants;

mod cache;
mod caught;
mod coverage;
mod dice;
mod plan;
mod postgres;
mod redis;
mod schedule;
mod schedules;
mod shrink;
mod store;
mod weather;
mod world;
