//! Runs a command to its end.

use std::io;

use tokio::process::Command;

/// The result of a command.
#[derive(Debug)]
pub struct Ran {
    /// The exit code, or -1 if a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the command to its end, and prints its output for a test that fails.
pub async fn run(command: &mut Command) -> io::Result<Ran> {
    let output = command.output().await?;
    let ran = Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    eprintln!("{}{}", ran.stdout, ran.stderr);
    Ok(ran)
}
