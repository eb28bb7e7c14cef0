//! Runs the command `sessionctl` without the variables of the environment.

use std::process::Stdio;

use tokio::process::Command;

pub(crate) use session_verification::commands::{Ran, run};

use crate::harness::Outcome;

/// Returns the command without arguments.
pub(crate) fn sessionctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sessionctl"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let prefixes = ["SESSION_", "REDIS_", "DATABASE_"];
        if prefixes.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_arguments_are_explained_and_exit_2() -> Outcome {
    let bad: [(&[&str], &str); 3] =
        [(&[], "Usage"), (&["nonsense"], "nonsense"), (&["check", "--nonsense"], "--nonsense")];
    for (arguments, named) in bad {
        let ran = run(sessionctl().args(arguments)).await?;
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(named), "no `{named}` in\n{}", ran.stderr);
    }
    Ok(())
}
