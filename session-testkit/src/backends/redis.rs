//! How Redis is found, started, asked; and the commands that tests need.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use ::redis::{AsyncConnectionConfig, Client, RedisError, aio::MultiplexedConnection, cmd};

use super::{
    error::{BackendError, Cause},
    kind::{Images, Recipe, Stop},
    native::{Folder, Program, find},
    server::{RedisServer, Server},
};

/// Redis 7.0 or later, or a Valkey.
#[derive(Debug)]
#[non_exhaustive]
pub struct Redis;

/// Long enough for a loaded machine, short enough for a paused server to be noticed.
const ANSWER: Duration = Duration::from_secs(1);

impl Recipe for Redis {
    const NAME: &'static str = "Redis";
    const SCHEMES: &'static [&'static str] = &["redis", "rediss", "valkey", "valkeys"];
    const EXAMPLE: &'static str = "redis://user:password@host:6379";
    const URL_VARIABLE: &'static str = "SESSION_TESTKIT_REDIS_URL";
    const HELP: &'static str = "install one with `apt-get install redis-server` \
        (or session-testkit/scripts/install.sh), or set SESSION_TESTKIT_REDIS_URL";
    const IMAGES: Images = Images {
        local: "session-testkit/redis",
        official: &["redis:7-bookworm", "redis:7", "redis:8"],
    };
    const PORT: u16 = 6379;
    const STOP: Stop = Stop::Terminate;
    const ENVIRONMENT: &'static [(&'static str, &'static str)] = &[];
    const ACCOUNTS: &'static [&'static str] = &["redis", "valkey", "nobody"];

    fn url(address: &str) -> String {
        format!("redis://{address}/0")
    }

    async fn ping(url: &str) -> Result<(), Cause> {
        let mut connection = connect(url).await?;
        cmd("PING").exec_async(&mut connection).await?;
        Ok(())
    }

    fn find() -> Result<Program, String> {
        let server = find::in_path("redis-server")
            .or_else(|| find::in_path("valkey-server"))
            .ok_or("neither `redis-server` nor `valkey-server` is in PATH")?;
        // "Redis server v=7.0.15 sha=…"
        let version = find::version(&server, "v=")?;
        if version < 7 {
            return Err(format!(
                "{} is version {version}, and 7.0 is needed",
                server.display()
            ));
        }
        Ok(Program {
            server,
            initdb: None,
        })
    }

    fn prepare(_program: &Program, _data: &Path) -> Option<(PathBuf, Vec<String>)> {
        None
    }

    fn arguments(folder: &Folder, port: u16, extra: &[String]) -> Vec<String> {
        let data = folder.data();
        let data = data.to_string_lossy();
        let port = port.to_string();
        let mut arguments: Vec<String> = ["--bind", "127.0.0.1", "--port", &port, "--dir", &data]
            .map(str::to_owned)
            .into();
        arguments.extend(common(extra));
        arguments
    }

    fn command(extra: &[String]) -> Vec<String> {
        // Reached through the engine's port mapping, so never from its own loopback.
        let mut command: Vec<String> = ["redis-server", "--protected-mode", "no", "--dir", "/data"]
            .map(str::to_owned)
            .into();
        command.extend(common(extra));
        command
    }
}

/// Nothing is saved but by an explicit SAVE, so that what a restart brings back is the test's
/// choice; DEBUG (to sleep, to reload) is allowed, and a new folder (to make saves fail); a new replica does not wait 5 s for company.
/// Later arguments win.
fn common(extra: &[String]) -> Vec<String> {
    let mut arguments: Vec<String> = ["--save", "", "--appendonly", "no"]
        .map(str::to_owned)
        .into();
    arguments.extend(
        [
            "--enable-debug-command",
            "yes",
            "--enable-protected-configs",
            "yes",
            "--repl-diskless-sync-delay",
            "0",
        ]
        .map(str::to_owned),
    );
    arguments.extend(extra.iter().cloned());
    arguments
}

async fn connect(url: &str) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER))
        .set_response_timeout(Some(ANSWER));
    Client::open(url)?
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

fn refused(action: &'static str) -> impl FnOnce(RedisError) -> BackendError {
    move |source| BackendError::Redis { action, source }
}

impl Server<Redis> {
    /// A new connection, for the test's own commands; each must answer within 1 s.
    ///
    /// # Errors
    ///
    /// [`BackendError::Redis`] if it cannot be had.
    pub async fn connect(&self) -> Result<MultiplexedConnection, BackendError> {
        connect(self.url())
            .await
            .map_err(refused("accept a connection"))
    }

    /// FLUSHALL.
    ///
    /// # Errors
    ///
    /// [`BackendError::NotAllowed`] on a given server, unless allowed by name.
    pub async fn flush_all(&self) -> Result<(), BackendError> {
        self.allowed("flush")?;
        self.command("flush", &["FLUSHALL"]).await
    }

    /// CONFIG SET, as in `config_set("maxmemory", "1mb")`.
    ///
    /// # Errors
    ///
    /// [`BackendError::NotAllowed`] on a given server, unless allowed by name.
    pub async fn config_set(&self, name: &str, value: &str) -> Result<(), BackendError> {
        self.allowed("configure")?;
        self.command("configure", &["CONFIG", "SET", name, value])
            .await
    }

    /// SAVE: what a restart brings back from now on.
    ///
    /// # Errors
    ///
    /// [`BackendError::NotAllowed`] on a given server, unless allowed by name.
    pub async fn save(&self) -> Result<(), BackendError> {
        self.allowed("save")?;
        self.command("save", &["SAVE"]).await
    }

    /// REPLICAOF: makes this server a replica of another, or with `None` a master again.
    ///
    /// Answers at once; whether the replica has caught up says `INFO replication`
    /// (`master_link_status:up`).
    ///
    /// # Errors
    ///
    /// [`BackendError::NotAllowed`] on a given server, unless allowed by name.
    pub async fn replica_of(&self, master: Option<&RedisServer>) -> Result<(), BackendError> {
        self.allowed("demote")?;
        let address = match master {
            Some(master) => Some(master.address_for_peers().await?),
            None => None,
        };
        let (host, port) = match &address {
            Some(address) => address.rsplit_once(':').unwrap_or((address, "6379")),
            None => ("NO", "ONE"),
        };
        self.command("change its role", &["REPLICAOF", host, port])
            .await
    }

    async fn command(&self, action: &'static str, words: &[&str]) -> Result<(), BackendError> {
        let mut connection = self.connect().await?;
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        command
            .exec_async(&mut connection)
            .await
            .map_err(refused(action))
    }
}
