#![doc = include_str!("../README.md")]
#![cfg(test)]

mod cache;
mod caught;
mod coverage;
mod network;
mod plan;
mod postgres;
mod random;
mod redis;
mod schedule;
mod schedules;
mod store;
mod world;

use session_verification::mutants;
