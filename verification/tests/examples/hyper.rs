//! The hyper example as a process: the layer without a framework.

use std::{process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::timeout,
};

use crate::{binaries, examples::http_client as http, harness::Outcome};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layer_guards_plain_hyper() -> Outcome {
    let folder = TempDir::new()?;
    let mut child = Command::new(binaries::binary("hyper-example").await?)
        .current_dir(folder.path())
        .env_clear()
        .env("ADDR", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = child.stdout.take().ok_or("no standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    let line = timeout(Duration::from_secs(30), lines.next_line()).await??;
    let address = line.as_deref().and_then(|line| line.strip_prefix("http://"));
    let address = address.ok_or("it did not print its address")?;

    let login = http::send(address, "POST", "/login", &[], "alice").await?;
    assert_eq!(login.status, 201, "{login:?}");
    let bearer = format!("Bearer {}", login.body);
    let fields = [("Authorization", bearer.as_str())];
    let me = http::send(address, "GET", "/me", &fields, "").await?;
    assert_eq!((me.status, me.body.as_str()), (200, "you are alice\n"));
    // Unknown paths are guarded.
    for path in ["/me", "/nothing", "/login/", "//login", "/health/x"] {
        let answer = http::send(address, "GET", path, &[], "").await?;
        assert_eq!(answer.status, 401, "{path}: {answer:?}");
        assert_eq!(answer.field("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(http::send(address, "GET", "/health", &[], "").await?.status, 200);
    assert_eq!(http::send(address, "POST", "/login", &[], "").await?.status, 400);
    let logout = http::send(address, "POST", "/logout", &fields, "").await?;
    assert_eq!((logout.status, logout.body.as_str()), (200, "Propagated\n"));
    let gone = http::send(address, "GET", "/me", &fields, "").await?;
    assert_eq!(gone.status, 401, "{gone:?}");
    assert_eq!(gone.field("www-authenticate"), Some("Bearer error=\"invalid_token\""));

    let id = child.id().and_then(|id| i32::try_from(id).ok());
    let id = id.and_then(rustix::process::Pid::from_raw).ok_or("it has ended")?;
    rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
    let status = timeout(Duration::from_secs(10), child.wait()).await??;
    assert!(status.success(), "{status}");
    Ok(())
}
