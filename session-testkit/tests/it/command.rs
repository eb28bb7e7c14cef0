//! Runs the command `session-testkit` without the variables of the environment.

use std::process::Stdio;

use session_layer::defaults::DEFAULT_CHANGE_WAIT;
use session_testkit::{
    backends::{Backends, RedisServer},
    proxy::{Proxy, Toxic},
};
use tokio::process::Command;

use crate::harness::{Failure, Outcome, default_backend};

pub(crate) use session_verification::commands::{Ran, run};

/// Returns the command without arguments.
pub(crate) fn testkit() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_session-testkit"));
    for name in [
        "SESSION_TESTKIT_REDIS_URL",
        "SESSION_TESTKIT_DATABASE_URL",
        "SESSION_TESTKIT_BACKEND",
        "REDIS_URL",
        "DATABASE_URL",
        "SESSION_CACHE_NAMESPACE",
        "SESSION_DB_SCHEMA",
        "SESSION_CACHE_POOL_SIZE",
        "REDIS_PASSWORD_FILE",
        "REDIS_TLS_CA_FILE",
        "REDIS_TLS_INSECURE",
        "GITHUB_STEP_SUMMARY",
    ] {
        command.env_remove(name);
    }
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

/// Returns the command on running servers, which it uses as named ones.
pub(crate) fn testkit_on(backends: &Backends) -> Command {
    let mut command = testkit();
    command
        .env("SESSION_TESTKIT_REDIS_URL", backends.redis().url())
        .env("SESSION_TESTKIT_DATABASE_URL", backends.postgres().url());
    command
}

/// Starts a Redis. Returns it with a URL whose user may send every command except this one.
pub(crate) async fn denied(command: &str) -> Result<(RedisServer, String), Failure> {
    let redis = Backends::builder().backend(default_backend().await?).start_redis().await?;
    let mut connection = redis.connect().await?;
    let denied = format!("-{command}");
    redis::cmd("ACL")
        .arg(&["SETUSER", "app", "on", ">s3cret", "~*", "&*", "+@all", &denied])
        .exec_async(&mut connection)
        .await?;
    let url = format!("redis://app:s3cret@{}/0", redis.address());
    Ok((redis, url))
}

/// Holds the read with which a login begins, for longer than an application lets a login wait.
pub(crate) async fn hold_first_logins(proxy: &Proxy) {
    let held = proxy.inject(Toxic::hold_from("AS login_snapshot"));
    held.touched().await;
    tokio::time::sleep(2 * DEFAULT_CHANGE_WAIT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_arguments_are_explained_and_exit_2() -> Outcome {
    let faults = ["faults", "--nodes", "2"];
    let bad: [(&[&str], &[&str], &str); 17] = [
        (&[], &[], "Usage"),
        (&["nonsense"], &[], "nonsense"),
        (&["check"], &[], "sessionctl check"),
        (&["run", "--nonsense"], &[], "--nonsense"),
        (&["run"], &[], "Usage"),
        (&["bench", "--requests", "0"], &[], "--requests"),
        (&["bench", "--requests", "9", "--duration", "9s"], &[], "--duration"),
        (&["bench", "--concurrency", "0"], &[], "--concurrency"),
        (&["verify", "--requests", "9"], &[], "--requests"),
        (&faults, &["--fault", "redis-kil"], "redis-kill"),
        (&faults, &["--fault", "redis-kill@1"], "@AT+LASTS"),
        (&faults, &["--fault", "redis-kill@1+2/0"], "therefore all nodes"),
        (&faults, &["--fault", "node-restart@1+2/9"], "there are 2"),
        (&faults, &["--fault", "plant-flipped"], "--sealed"),
        (&faults, &["--rate", "0"], "--rate"),
        (&faults, &["--schedule", "/no/such/file"], "/no/such/file"),
        (&faults, &["--schedule", "x", "--fault", "redis-kill"], "--schedule"),
    ];
    for (command, arguments, named) in bad {
        let ran = run(testkit().args(command).args(arguments)).await?;
        assert_eq!(ran.code, 2, "{command:?} {arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(named), "no `{named}` in\n{}", ran.stderr);
    }
    let mut command = testkit();
    command.env("SESSION_TESTKIT_BACKEND", "podman").args(["run", "--", "true"]);
    let ran = run(&mut command).await?;
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("podman") && ran.stderr.contains("`docker` or `native`"));
    Ok(())
}
