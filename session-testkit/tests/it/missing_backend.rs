//! A test whose backend is missing reports it, and fails if `SESSION_TESTKIT_REQUIRE` names it.

use std::{env, os::unix::fs::PermissionsExt as _};

use tokio::process::Command;

use crate::{command::testkit, harness::Outcome};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_is_too_old_or_missing_is_refused_with_the_reason() -> Outcome {
    let folder = tempfile::tempdir()?;
    let old = folder.path().join("redis-server");
    std::fs::write(&old, "#!/bin/sh\necho 'Redis server v=6.0.16 sha=00000000:0 bits=64'\n")?;
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755))?;
    let missing = folder.path().join("no-server");
    for (program, reason) in [(old, "is version 6.0, but 6.2 is required"), (missing, "--version")]
    {
        let mut command = testkit();
        let run = command
            .args(["run", "--", "true"])
            .env("SESSION_TESTKIT_BACKEND", "native")
            .env("SESSION_TESTKIT_REDIS_SERVER", &program)
            .output()
            .await?;
        let text = String::from_utf8(run.stderr)?;
        assert_eq!(run.status.code(), Some(2), "{text}");
        assert!(text.contains(reason) && text.contains(&*program.to_string_lossy()), "{text}");
    }
    Ok(())
}
