//! A test whose backend is missing reports it, and fails if `SESSION_TESTKIT_REQUIRE` names it.

use std::env;

use tokio::process::Command;

use crate::harness::Outcome;

/// Returns this test binary as on a machine without servers.
fn bare() -> std::io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command
        .env("PATH", "/nowhere")
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .env_remove("SESSION_TESTKIT_REQUIRE")
        .kill_on_drop(true);
    Ok(command)
}

/// A test with a case per backend.
const NAME: &str = "backends::both_start_and_answer::docker";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_backend_is_reported_with_the_reason() -> Outcome {
    let run = bare()?.args(["--exact", NAME, "--nocapture"]).output().await?;
    let (text, reason) = (String::from_utf8(run.stdout)?, String::from_utf8(run.stderr)?);
    assert!(run.status.success() && text.contains("1 passed"), "{text}");
    assert!(reason.contains("not run with docker: Redis: "), "{reason}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_backend_fails_if_it_is_required() -> Outcome {
    let run =
        bare()?.env("SESSION_TESTKIT_REQUIRE", "docker").args(["--exact", NAME]).output().await?;
    let text = String::from_utf8(run.stdout)?;
    assert!(!run.status.success() && text.contains("1 failed"), "{text}");
    Ok(())
}
