//! `sessionctl watch`: nodes by their health documents and metrics, once, in a pipe and in a
//! terminal.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::Stdio,
    sync::mpsc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, put},
};
use rustix::{pty, termios};
use serde_json::{Value, json};
use session_layer::{CacheMode, HealthService, Sessions};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
    process::Child,
};

use crate::command::{run, sessionctl};
use crate::harness::{Failure, Outcome};
use crate::support::{SOON, Servers};

/// Serves a node's health document and its switch. Returns its address.
async fn serve(sessions: &Sessions) -> Result<String, Failure> {
    async fn switch(State(sessions): State<Sessions>, Json(body): Json<Value>) -> Json<Value> {
        let bypass = body["mode"] == "bypass";
        sessions.set_mode(if bypass { CacheMode::Bypass } else { CacheMode::On });
        Json(body)
    }
    let router = Router::new()
        .route_service("/api/health/redis", HealthService::report(sessions.clone()))
        .route("/mode", put(switch))
        .with_state(sessions.clone());
    listen(router).await
}

/// Serves a router. Returns its address.
async fn listen(router: Router) -> Result<String, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_prints_each_node_and_fails_if_one_does_not_respond() -> Outcome {
    let servers = Servers::shared().await?;
    let (node, _) = servers.cached().await?;
    let health = format!("{}/api/health/redis", serve(&node).await?);
    let ran = run(sessionctl().args(["watch", "--once", "--json", "--node", &health])).await?;
    assert_eq!(ran.code, 0, "{}", ran.stdout);
    let document: Value = serde_json::from_str(&ran.stdout)?;
    assert_eq!((&document["ok"], &document["nodes"][0]["error"]), (&json!(true), &Value::Null));
    assert_eq!(document["nodes"][0]["health"]["redis"]["connected"], true);

    let away =
        format!("http://{}/health", std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?);
    let both = ["watch", "--once", "--node", &health, "--node", &away];
    let ran = run(sessionctl().args(both)).await?;
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines[0].contains("mode=on") && lines[0].contains("breaker="), "{lines:?}");
    assert!(lines[1].contains("no response") && lines[1].contains("refused"), "{lines:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipe_gets_a_line_per_node_and_interval() -> Outcome {
    let servers = Servers::shared().await?;
    let node = servers.sessions().await?;
    let health = format!("{}/api/health/redis", serve(&node).await?);
    let mut command = sessionctl();
    command.args(["watch", "--every", "100ms", "--node", &health]).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    for _ in 0..3 {
        let line = tokio::time::timeout(SOON, lines.next_line()).await??.expect("a line");
        assert!(line.starts_with("127.0.0.1:"), "{line}");
        assert!(!line.contains('\u{1b}'), "{line}");
    }
    child.kill().await?;
    Ok(())
}

/// Runs `watch --once --json` of nodes by their addresses for health and administrators. Returns
/// their parts of the document.
async fn once(nodes: &[(&str, &str)]) -> Result<Vec<Value>, Failure> {
    let mut command = sessionctl();
    command.args(["watch", "--once", "--json", "--every", "1s"]);
    for (health, admin) in nodes {
        command.args(["--node", health, "--admin", admin]);
    }
    let ran = run(&mut command).await?;
    if ran.code != 0 {
        return Err(format!("exit code {}", ran.code).into());
    }
    let document: Value = serde_json::from_str(&ran.stdout)?;
    Ok(document["nodes"].as_array().cloned().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_without_metrics_has_a_dash_and_no_error() -> Outcome {
    let servers = Servers::shared().await?;
    let node = servers.sessions().await?;
    let without = serve(&node).await?;
    let health = format!("{without}/api/health/redis");
    let other = Router::new().route("/metrics", get(async || "up 1\n"));
    for admin in [without, listen(other).await?] {
        let document = once(&[(&health, &admin)]).await?.remove(0);
        let found = (&document["latency"], &document["latencyError"], &document["error"]);
        assert_eq!(found, (&Value::Null, &Value::Null, &Value::Null), "{document}");
        let text = ["watch", "--once", "--node", &health, "--admin", &admin];
        let ran = run(sessionctl().args(text)).await?;
        assert_eq!(ran.code, 0, "{}", ran.stdout);
        assert!(ran.stdout.contains(" near=- cache=- store=- none=-"), "{}", ran.stdout);
        assert!(!ran.stdout.contains("error:"), "{}", ran.stdout);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_that_cannot_be_read_are_explained() -> Outcome {
    let servers = Servers::shared().await?;
    let node = servers.sessions().await?;
    let health = format!("{}/api/health/redis", serve(&node).await?);
    let denied = Router::new().route("/metrics", get(async || StatusCode::FORBIDDEN));
    let away = format!("http://{}", std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?);
    for (admin, named) in [(listen(denied).await?, "403"), (away, "refused")] {
        let document = once(&[(&health, &admin)]).await?.remove(0);
        assert_eq!(document["latency"], Value::Null, "{document}");
        let error = document["latencyError"].as_str().unwrap_or_default();
        assert!(error.contains(named) && error.contains("--admin"), "{document}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_nodes_are_explained_and_exit_2() -> Outcome {
    let node = "http://127.0.0.1:1/health";
    for (arguments, named) in [
        (&["watch"][..], "--node"),
        (&["watch", "--node", "https://h/"], "https"),
        (&["watch", "--node", "h:3000"], "http://HOST"),
        (&["watch", "--node", node, "--json"], "--once"),
        (&["watch", "--node", node, "--admin", node, "--admin", node], "--admin"),
        (&["watch", "--node", node, "--every", "1"], "--every"),
    ] {
        let ran = run(sessionctl().args(arguments)).await?;
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(named), "{arguments:?}: no `{named}` in\n{}", ran.stderr);
    }
    Ok(())
}

/// A pseudo-terminal of 80×24, and what a program has written to it.
struct Pty {
    keys: File,
    output: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Pty {
    /// Starts `watch` of the node at this address, with the switch at `admin`, in a terminal.
    fn watch(address: &str, admin: &str) -> Result<(Self, Child), Failure> {
        let master = pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY)?;
        pty::grantpt(&master)?;
        pty::unlockpt(&master)?;
        let name = pty::ptsname(&master, Vec::new())?;
        let slave = File::options().read(true).write(true).open(name.to_str()?)?;
        let size = termios::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        termios::tcsetwinsize(&slave, size)?;
        let keys = File::from(master);
        let mut reader = keys.try_clone()?;
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The read fails once the program has ended.
            while let Ok(read @ 1..) = reader.read(&mut bytes) {
                if sender.send(bytes[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        let child = sessionctl()
            .args(["watch", "--every", "100ms", "--admin", admin])
            .args(["--node", &format!("{address}/api/health/redis")])
            .env("TERM", "xterm-256color")
            .stdin(Stdio::from(slave.try_clone()?))
            .stdout(Stdio::from(slave.try_clone()?))
            .stderr(Stdio::from(slave))
            .spawn()?;
        Ok((Self { keys, output, seen: String::new() }, child))
    }

    /// Waits until the program has written this.
    fn until(&mut self, part: &str) {
        let by = Instant::now() + SOON;
        while !self.seen.contains(part) {
            let left = by.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen += &String::from_utf8_lossy(&bytes),
                Err(_) => panic!("no `{part}` in {:?}", self.seen),
            }
        }
    }
}

// Without a reply of the switch, the dashboard still draws, and reads keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switch_that_hangs_blocks_neither_drawing_nor_keys() -> Outcome {
    let servers = Servers::shared().await?;
    let (node, _) = servers.cached().await?;
    let address = serve(&node).await?;
    let hangs = TcpListener::bind("127.0.0.1:0").await?;
    let (mut terminal, mut child) =
        Pty::watch(&address, &format!("http://{}", hangs.local_addr()?))?;
    let left = tokio::task::spawn_blocking(move || {
        terminal.until("healthy");
        terminal.keys.write_all(b"b").expect("a key");
        // Only cells that changed are written, so not the whole line.
        terminal.until("to `bypass`");
        terminal.keys.write_all(b"q").expect("a key");
        terminal.until("\u{1b}[?1049l");
        terminal
    });
    let terminal = left.await?;
    // It has left its screen without a reply, and not after one.
    assert!(!terminal.seen.contains("not switched"), "{:?}", terminal.seen);
    let status = tokio::time::timeout(SOON, child.wait()).await??;
    assert!(status.success(), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminal_shows_the_node_and_a_key_switches_it() -> Outcome {
    let servers = Servers::shared().await?;
    let (node, _) = servers.cached().await?;
    let address = serve(&node).await?;
    let (mut terminal, mut child) = Pty::watch(&address, &address)?;
    let ended = tokio::task::spawn_blocking(move || {
        terminal.until("healthy");
        terminal.until("latency");
        terminal.keys.write_all(b"b").expect("a key");
        // Only cells that changed are written, so not the whole line.
        terminal.until("` now");
        terminal
    });
    let mut terminal = ended.await?;
    session_testkit::wait::until("the bypass", SOON, async || node.mode() == CacheMode::Bypass)
        .await?;
    terminal.keys.write_all(b"q")?;
    let status = tokio::time::timeout(Duration::from_secs(20), child.wait()).await??;
    assert!(status.success(), "{status}");
    // It leaves its own screen, so the shell's lines are as before.
    tokio::task::spawn_blocking(move || terminal.until("\u{1b}[?1049l")).await?;
    Ok(())
}
