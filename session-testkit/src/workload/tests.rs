//! The workload on subjects in memory, in virtual time.

mod loads;
mod memory;
mod plans;
mod scripts;
