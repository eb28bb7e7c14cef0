//! The workload in virtual time, on subjects in memory.

mod loads;
mod memory;
mod plans;
mod scripts;
