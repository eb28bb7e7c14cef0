//! A test whose backend is missing is not silently gone: it is listed, by name, as ignored.

use std::{env, process::Output};

use tokio::process::Command;

use crate::harness::{Outcome, Registry};

pub(crate) fn tests(reg: &mut Registry) {
    reg.plain(
        "missing_backends_are_listed_as_ignored_and_the_reason_is_printed",
        listed,
    );
    reg.plain("required_backends_fail_instead", required);
}

/// This binary, on a machine without servers.
fn bare() -> std::io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command
        .env("PATH", "/nowhere")
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .env_remove("SESSION_TESTKIT_REQUIRE")
        .kill_on_drop(true);
    Ok(command)
}

/// A test that a runtime on a machine with Postgres in the usual place may still be able to run.
const NAME: &str = "docker::backends::both_start_and_answer";

async fn listed() -> Outcome {
    let listing = bare()?
        .args(["--list", "--ignored", "--format", "terse"])
        .output()
        .await?;
    let text = String::from_utf8(listing.stdout)?;
    assert!(
        text.lines().any(|line| line == format!("{NAME}: test")),
        "{text}"
    );
    let Output {
        status,
        stdout,
        stderr,
    } = bare()?.args(["--exact", NAME]).output().await?;
    let (text, reason) = (String::from_utf8(stdout)?, String::from_utf8(stderr)?);
    assert!(status.success() && text.contains("1 ignored"), "{text}");
    assert!(reason.contains("no tests with docker: Redis: "), "{reason}");
    Ok(())
}

async fn required() -> Outcome {
    let run = bare()?
        .env("SESSION_TESTKIT_REQUIRE", "docker")
        .args(["--exact", NAME])
        .output()
        .await?;
    let text = String::from_utf8(run.stdout)?;
    assert!(!run.status.success() && text.contains("1 failed"), "{text}");
    Ok(())
}
