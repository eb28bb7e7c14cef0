//! The command `session-testkit`: see [`session_testkit::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    session_testkit::cli::main()
}
