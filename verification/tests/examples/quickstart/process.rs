//! The quickstart as a process, and its client.

use std::{
    io,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use session_testkit::backends::{Backends, Sandbox};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{
    binaries,
    examples::http_client::{self as http, Answer},
};

/// The deadline of a start with migrations on a busy machine.
const START: Duration = Duration::from_secs(30);

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

/// A running quickstart. Its drop kills it, and prints its log if the test failed.
#[derive(Debug)]
pub(crate) struct App {
    child: Child,
    pub(crate) address: String,
    pub(crate) admin: String,
    /// The text that it printed on standard output at its start.
    pub(crate) banner: String,
    folder: TempDir,
    /// Dropped after the process, because it removes what the process wrote.
    sandbox: Option<Sandbox>,
}

/// The response to a login.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) id: String,
    /// The value of `Cookie`.
    pub(crate) cookie: String,
    /// The value of `Authorization`.
    pub(crate) bearer: String,
}

/// Returns the environment with the servers, schema and namespace of a sandbox.
pub(crate) fn env_of(sandbox: &Sandbox) -> Vec<(&'static str, String)> {
    vec![
        ("DATABASE_URL", sandbox.database_url().to_owned()),
        ("REDIS_URL", sandbox.redis_url().to_owned()),
        ("SESSION_DB_SCHEMA", sandbox.schema().to_owned()),
        ("SESSION_CACHE_NAMESPACE", sandbox.namespace().to_owned()),
    ]
}

impl App {
    /// Starts it with the embedded pair in a new folder.
    pub(crate) async fn embedded() -> io::Result<Self> {
        Self::start(TempDir::new()?, &[]).await
    }

    /// Starts it on a Redis and a Postgres.
    pub(crate) async fn on(backends: &Backends) -> io::Result<Self> {
        let sandbox = backends.sandbox();
        let mut app = Self::start(TempDir::new()?, &env_of(&sandbox)).await?;
        app.sandbox = Some(sandbox);
        Ok(app)
    }

    /// Starts it in this folder with only this environment, and waits until it listens.
    pub(crate) async fn start(folder: TempDir, env: &[(&str, String)]) -> io::Result<Self> {
        let mut child = command(&folder, env).await?.spawn()?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut lines = BufReader::new(stdout).lines();
        let mut app = Self {
            child,
            address: String::new(),
            admin: String::new(),
            banner: String::new(),
            folder,
            sandbox: None,
        };
        let first = timeout(START, lines.next_line()).await??.unwrap_or_default();
        let mut urls = first.split("http://").skip(1);
        let mut address = || {
            let host = urls.next()?.split(['/', ' ']).next()?;
            Some(host.to_owned())
        };
        let addresses = address().zip(address());
        let (address, admin) = addresses
            .ok_or_else(|| io::Error::other(format!("printed {first:?}; {}", app.log())))?;
        (app.address, app.admin) = (address, admin);
        app.banner = first;
        // The pipe stays open, therefore the end of the banner is a pause.
        while let Ok(Ok(Some(line))) = timeout(Duration::from_millis(200), lines.next_line()).await
        {
            app.banner += "\n";
            app.banner += &line;
        }
        Ok(app)
    }

    /// Asserts that a start fails. Returns its status and its standard error.
    pub(crate) async fn start_in_vain(env: &[(&str, String)]) -> io::Result<(ExitStatus, String)> {
        let folder = TempDir::new()?;
        let mut child = command(&folder, env).await?.spawn()?;
        let status = timeout(START, child.wait()).await??;
        Ok((status, std::fs::read_to_string(folder.path().join("log"))?))
    }

    /// Runs it with arguments, with which it starts nothing. Returns its exit code and what it
    /// printed.
    pub(crate) async fn arguments(arguments: &[&str]) -> io::Result<(Option<i32>, String, String)> {
        let folder = TempDir::new()?;
        let mut command = command(&folder, &[]).await?;
        let ended = command.args(arguments).stderr(Stdio::piped()).output();
        let ended = timeout(START, ended).await??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((ended.status.code(), text(&ended.stdout), text(&ended.stderr)))
    }

    /// Returns its standard error so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn terminate(&self) -> io::Result<()> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        let id = id.and_then(rustix::process::Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        Ok(rustix::process::kill_process(id, rustix::process::Signal::TERM)?)
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        timeout(Duration::from_secs(20), self.child.wait()).await?
    }

    /// Sends SIGTERM and waits for its end. Returns its folder as well.
    pub(crate) async fn stop(mut self) -> io::Result<(ExitStatus, Duration, TempDir)> {
        let begin = Instant::now();
        self.terminate()?;
        let status = self.ended().await?;
        let folder = std::mem::replace(&mut self.folder, TempDir::new()?);
        Ok((status, begin.elapsed(), folder))
    }

    /// Returns the schema of its tables.
    pub(crate) fn schema(&self) -> &str {
        self.sandbox.as_ref().map_or("", Sandbox::schema)
    }

    /// Sends one request. Tests of outages use it.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
    ) -> io::Result<Answer> {
        http::send(&self.address, method, path, fields, "").await
    }

    /// Sends a request, and repeats it after a 503. Without an outage, a busy machine may still
    /// exceed the 50 ms for Redis and the 250 ms for Postgres.
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
    ) -> io::Result<Answer> {
        self.ask_with(method, path, fields, "").await
    }

    /// Does the same with a body.
    pub(crate) async fn ask_with(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> io::Result<Answer> {
        for _ in 0..10 {
            let answer = http::send(&self.address, method, path, fields, body).await?;
            if answer.status != 503 {
                return Ok(answer);
            }
            eprintln!("{method} {path} returned 503, repeating");
            sleep(Duration::from_millis(200)).await;
        }
        http::send(&self.address, method, path, fields, body).await
    }

    /// Sends a `GET` with a cookie.
    pub(crate) async fn get(&self, path: &str, login: &Login) -> io::Result<Answer> {
        self.ask("GET", path, &[("Cookie", &login.cookie)]).await
    }

    /// Sends `GET /me` with the Bearer token.
    pub(crate) async fn me(&self, login: &Login) -> io::Result<Answer> {
        self.ask("GET", "/me", &[("Authorization", &login.bearer)]).await
    }

    /// Returns the source of a validation from `Server-Timing`: `hit` or `store`.
    pub(crate) async fn source(&self, login: &Login) -> io::Result<String> {
        Ok(source(&self.me(login).await?))
    }

    pub(crate) async fn try_login(&self, user: &str) -> io::Result<Answer> {
        let body = json!({ "user": user }).to_string();
        http::send(&self.address, "POST", "/login", &JSON, &body).await
    }

    pub(crate) async fn login(&self, user: &str) -> io::Result<Login> {
        let body = json!({ "user": user }).to_string();
        let answer = self.ask_with("POST", "/login", &JSON, &body).await?;
        assert_eq!(answer.status, 201, "{answer:?}");
        let text = |name: &str| answer.json()[name].as_str().unwrap_or_default().to_owned();
        let cookie = answer.field("set-cookie").and_then(|cookie| cookie.split(';').next());
        Ok(Login {
            id: text("sessionId"),
            cookie: cookie.unwrap_or_default().to_owned(),
            bearer: format!("Bearer {}", text("token")),
        })
    }

    pub(crate) async fn health(&self) -> io::Result<Answer> {
        self.send("GET", "/api/health/redis", &[]).await
    }

    /// Returns its metrics, as Prometheus scrapes them.
    pub(crate) async fn scrape(&self) -> io::Result<String> {
        let answer = http::send(&self.admin, "GET", "/metrics", &[], "").await?;
        assert_eq!(answer.status, 200, "{answer:?}");
        Ok(answer.body)
    }

    /// Sends `PUT /mode` with this body to the address for administrators.
    pub(crate) async fn put_mode(&self, body: &str) -> io::Result<Answer> {
        http::send(&self.admin, "PUT", "/mode", &[], body).await
    }
}

pub(crate) fn source(answer: &Answer) -> String {
    let timing = answer.field("server-timing").unwrap_or_default();
    timing.split('"').nth(1).unwrap_or_default().to_owned()
}

async fn command(folder: &TempDir, env: &[(&str, String)]) -> io::Result<Command> {
    let log = std::fs::File::create(folder.path().join("log"))?;
    let mut command = Command::new(binaries::binary("quickstart").await?);
    command
        .current_dir(folder.path())
        .env_clear()
        .env("ADDR", "127.0.0.1:0")
        .env("ADMIN_ADDR", "127.0.0.1:0")
        .envs(env.iter().map(|(name, value)| (*name, value.as_str())))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true);
    Ok(command)
}

impl Drop for App {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the quickstart's log:\n{}", self.log());
        }
    }
}
