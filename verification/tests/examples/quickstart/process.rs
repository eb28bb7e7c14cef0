//! The quickstart as a process of its own, driven over HTTP like anybody would.

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

/// Starting, with the tables to be made, on a busy machine.
const START: Duration = Duration::from_secs(30);

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

/// A running quickstart. Killed when dropped; if the test failed, its log is printed first.
#[derive(Debug)]
pub(crate) struct App {
    child: Child,
    pub(crate) address: String,
    pub(crate) admin: String,
    /// What it printed on standard output when it had started.
    pub(crate) banner: String,
    folder: TempDir,
    /// After the process: what it wrote on servers that outlive the test goes last.
    sandbox: Option<Sandbox>,
}

/// What a login answered.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) id: String,
    pub(crate) token: String,
    /// `Cookie`'s value.
    pub(crate) cookie: String,
    /// `Authorization`'s value.
    pub(crate) bearer: String,
}

/// The environment that leads to these servers, into a schema and namespace of its own.
pub(crate) fn env_of(sandbox: &Sandbox) -> Vec<(&'static str, String)> {
    vec![
        ("DATABASE_URL", sandbox.database_url().to_owned()),
        ("REDIS_URL", sandbox.redis_url().to_owned()),
        ("SESSION_DB_SCHEMA", sandbox.schema().to_owned()),
        ("SESSION_CACHE_NAMESPACE", sandbox.namespace().to_owned()),
    ]
}

impl App {
    /// The embedded pair, in a new folder.
    pub(crate) async fn embedded() -> io::Result<Self> {
        Self::start(TempDir::new()?, &[]).await
    }

    /// On a Redis and a Postgres.
    pub(crate) async fn on(backends: &Backends) -> io::Result<Self> {
        let sandbox = backends.sandbox();
        let mut app = Self::start(TempDir::new()?, &env_of(&sandbox)).await?;
        app.sandbox = Some(sandbox);
        Ok(app)
    }

    /// Starts it in this folder with this environment and nothing else of ours, and waits until it
    /// says that it listens.
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
        let told = address().zip(address());
        let (address, admin) =
            told.ok_or_else(|| io::Error::other(format!("said {first:?}; {}", app.log())))?;
        (app.address, app.admin) = (address, admin);
        app.banner = first;
        // The rest is there at once or not at all; the pipe stays open while the process lives.
        while let Ok(Ok(Some(line))) = timeout(Duration::from_millis(200), lines.next_line()).await
        {
            app.banner += "\n";
            app.banner += &line;
        }
        Ok(app)
    }

    /// A start that has to fail: how it ended, and what it said on standard error.
    pub(crate) async fn start_in_vain(env: &[(&str, String)]) -> io::Result<(ExitStatus, String)> {
        let folder = TempDir::new()?;
        let mut child = command(&folder, env).await?.spawn()?;
        let status = timeout(START, child.wait()).await??;
        Ok((status, std::fs::read_to_string(folder.path().join("log"))?))
    }

    /// What it wrote on standard error so far.
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

    /// SIGTERM, the end, and the folder with what was left in it.
    pub(crate) async fn stop(mut self) -> io::Result<(ExitStatus, Duration, TempDir)> {
        let begin = Instant::now();
        self.terminate()?;
        let status = self.ended().await?;
        let folder = std::mem::replace(&mut self.folder, TempDir::new()?);
        Ok((status, begin.elapsed(), folder))
    }

    /// The schema of its tables, for statements of the test's own.
    pub(crate) fn schema(&self) -> &str {
        self.sandbox.as_ref().map_or("", Sandbox::schema)
    }

    /// One request, one answer: where an outage is to be seen.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
    ) -> io::Result<Answer> {
        http::send(&self.address, method, path, fields, "").await
    }

    /// The answer to a client that does as a 503 says, and tries again: where there is no outage.
    /// Other tests and compilers starve this process for longer than its 50 ms for Redis and 250 ms
    /// for Postgres, and then a 503 is right.
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
    ) -> io::Result<Answer> {
        self.ask_with(method, path, fields, "").await
    }

    /// The same with a body.
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
            eprintln!("{method} {path} was answered with 503; again");
            sleep(Duration::from_millis(200)).await;
        }
        http::send(&self.address, method, path, fields, body).await
    }

    /// `GET` with a cookie.
    pub(crate) async fn get(&self, path: &str, login: &Login) -> io::Result<Answer> {
        self.ask("GET", path, &[("Cookie", &login.cookie)]).await
    }

    /// Who is this? By the Bearer token.
    pub(crate) async fn me(&self, login: &Login) -> io::Result<Answer> {
        self.ask("GET", "/me", &[("Authorization", &login.bearer)]).await
    }

    /// Who said who this is: `hit` or `store`, from `Server-Timing`.
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
            token: text("token"),
        })
    }

    pub(crate) async fn health(&self) -> io::Result<Answer> {
        self.send("GET", "/api/health/redis", &[]).await
    }

    /// `PUT /mode` with this body, on the address for administrators.
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
