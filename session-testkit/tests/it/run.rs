//! `session-testkit run -- CMD…`

use std::{process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use session_testkit::{backends::Backend, wait};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    command::{testkit, testkit_on},
    harness::{Outcome, on_each_backend, shared},
};

on_each_backend!(command_gets_the_names_of_started_servers);
async fn command_gets_the_names_of_started_servers(backend: Backend) -> Outcome {
    let script = "echo $SESSION_TESTKIT_BACKEND $SESSION_TESTKIT_REDIS_URL \
                  $SESSION_TESTKIT_DATABASE_URL; exit 7";
    let output = testkit()
        .env("SESSION_TESTKIT_BACKEND", backend.to_string())
        .args(["run", "--json", "--", "sh", "-c", script])
        .output()
        .await?;
    let text = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(7), "{text}");
    let (line, json) = text.split_once('\n').expect("two lines");
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words[0], backend.to_string());
    assert!(words[1].starts_with("redis://") && words[2].starts_with("postgres://"), "{line}");
    let json: serde_json::Value = serde_json::from_str(json)?;
    assert_eq!(json["exitCode"], 7);
    assert_eq!(json["redis"], backend.to_string());
    // The servers have stopped.
    let address = session_testkit::url::address(words[1]).expect("an address");
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_backends_names_a_pair_per_backend() -> Outcome {
    let output = testkit().args(["run", "--all-backends", "--", "env"]).output().await?;
    let text = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(0), "{text}");
    let named = |variable: &str| text.lines().any(|line| line.starts_with(&format!("{variable}=")));
    for backend in Backend::ALL {
        let (redis, postgres) = backend.url_variables();
        let there = backend.missing().await.is_none();
        assert_eq!((named(redis), named(postgres)), (there, there), "{backend}: {text}");
    }
    assert!(named("SESSION_TESTKIT_REDIS_URL") && !named("SESSION_TESTKIT_BACKEND"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_code_is_passed_on() -> Outcome {
    let backends = shared().await?;
    for code in [0, 1, 42] {
        let status = testkit_on(&backends)
            .args(["run", "--", "sh", "-c", &format!("exit {code}")])
            .status()
            .await?;
        assert_eq!(status.code(), Some(code));
    }
    let killed =
        testkit_on(&backends).args(["run", "--", "sh", "-c", "kill -9 $$"]).status().await?;
    assert_eq!(killed.code(), Some(137));
    let missing = testkit_on(&backends).args(["run", "--", "/no/such/program"]).output().await?;
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8(missing.stderr)?.contains("/no/such/program"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_is_passed_on_and_ends_the_command() -> Outcome {
    let backends = shared().await?;
    let script = "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done";
    let mut child = testkit_on(&backends)
        .args(["run", "--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next_line().await?.as_deref(), Some("up"));
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)).expect("a pid");
    kill_process(pid, Signal::TERM)?;
    let mut status = None;
    wait::until("the command to end", Duration::from_secs(10), async || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    })
    .await?;
    assert_eq!(status.and_then(|status| status.code()), Some(5));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_servers_are_explained_and_exit_2() -> Outcome {
    let output = testkit()
        .env("PATH", "/nowhere")
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .env("SESSION_TESTKIT_BACKEND", "docker")
        .args(["run", "--", "true"])
        .output()
        .await?;
    let text = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("docker: ") && text.contains("start a Docker engine"), "{text}");
    Ok(())
}
