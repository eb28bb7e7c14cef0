//! Running the command `session-testkit`, with nothing of the surrounding environment.

use std::{io, process::Stdio};

use session_layer::defaults::DEFAULT_CHANGE_WAIT;
use session_testkit::{
    backends::{Backends, RedisServer},
    proxy::{Proxy, Toxic},
};
use tokio::process::Command;

use crate::harness::{Failure, default_backend};

/// What became of it.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn testkit() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_session-testkit"));
    for name in
        ["SESSION_TESTKIT_REDIS_URL", "SESSION_TESTKIT_DATABASE_URL", "SESSION_TESTKIT_BACKEND"]
    {
        command.env_remove(name);
    }
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

/// On servers that are there already, as if somebody had named them.
pub(crate) fn testkit_on(backends: &Backends) -> Command {
    let mut command = testkit();
    command
        .env("SESSION_TESTKIT_REDIS_URL", backends.redis().url())
        .env("SESSION_TESTKIT_DATABASE_URL", backends.postgres().url());
    command
}

pub(crate) async fn run(command: &mut Command) -> io::Result<Ran> {
    let output = command.output().await?;
    let ran = Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    // Shown where the test fails.
    eprintln!("{}{}", ran.stdout, ran.stderr);
    Ok(ran)
}

/// A Redis of the test's own, and a URL under whose user it may do all but this command.
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
    let held = proxy.inject(Toxic::hold_from("AS moment"));
    held.touched().await;
    tokio::time::sleep(2 * DEFAULT_CHANGE_WAIT).await;
}
