#![doc = include_str!("../README.md")]
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
