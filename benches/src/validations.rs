//! The harness that measures validations per second.
//!
//! Each caller is a task that makes its next call when the last one has returned (a closed loop).
//! The rounds of all rows are interleaved, and the table has the median of the rounds. The ratios
//! are those of one run, because absolute figures depend on the machine.

mod arguments;
mod floor;
mod load;
mod markdown;
#[cfg(feature = "metrics")]
mod metrics;
mod subjects;
mod table;

pub use self::arguments::Arguments;
pub use self::load::{Load, Measured, Row, Subject, cpu_time, cpu_time_of};
pub use self::markdown::Marks;
pub use self::subjects::{Deployment, Kind};
pub use self::table::{Table, joined, median, significant};
