//! Finding, starting and connecting to Redis, and the commands that tests need.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use session_layer::server_url::{ServerKind, ServerUrl};

use rustix::process::Signal;

use ::redis::{AsyncConnectionConfig, Client, RedisError, aio::MultiplexedConnection, cmd};

use super::{
    error::{BackendError, Cause},
    given,
    kind::Kind,
    native::{Folder, find},
    server::{RedisServer, Server},
};

/// Redis 6.2 or later, or a Valkey. A cluster, and TLS that begins while the server runs, need 7.0.
#[derive(Debug)]
#[non_exhaustive]
pub struct Redis;

/// The variable with the path of the server's program.
const SERVER_VARIABLE: &str = "SESSION_TESTKIT_REDIS_SERVER";
/// The oldest version.
const OLDEST: (u32, u32) = (6, 2);
/// The first version that must be asked to permit DEBUG and some settings.
const PERMITS: (u32, u32) = (7, 0);

/// The response timeout. A loaded machine stays below it, and a paused server exceeds it soon.
const ANSWER: Duration = Duration::from_secs(1);

impl Kind for Redis {
    const NAME: &'static str = "Redis";
    const KIND: ServerKind = ServerKind::Redis;
    const EXAMPLE: &'static str = "redis://user:password@host:6379";
    const URL_VARIABLE: &'static str = "SESSION_TESTKIT_REDIS_URL";
    const HELP: &'static str = "install one with `apt-get install redis-server` \
        (or session-testkit/scripts/install.sh), or set SESSION_TESTKIT_REDIS_URL";
    const IMAGE_VARIABLE: &'static str = "SESSION_TESTKIT_REDIS_IMAGE";
    const OWN_IMAGE: &'static str = "session-testkit/redis";
    const OFFICIAL_IMAGES: &'static [&'static str] = &["redis:7-bookworm", "redis:7", "redis:8"];
    const PORT: u16 = 6379;
    const STOP: Signal = Signal::TERM;
    const ENVIRONMENT: &'static [(&'static str, &'static str)] = &[];
    const ACCOUNTS: &'static [&'static str] = &["redis", "valkey", "nobody"];

    fn url(address: &str) -> String {
        format!("redis://{address}/0")
    }

    async fn ping(url: &ServerUrl) -> Result<(), Cause> {
        let mut connection = connect(url).await?;
        cmd("PING").exec_async(&mut connection).await?;
        Ok(())
    }

    fn find() -> Result<PathBuf, String> {
        let server = match given(SERVER_VARIABLE) {
            Some(path) => PathBuf::from(path.trim()),
            None => find::in_path("redis-server")
                .or_else(|| find::in_path("valkey-server"))
                .ok_or("neither `redis-server` nor `valkey-server` is in PATH")?,
        };
        let (major, minor) = version(&server)?;
        if (major, minor) < OLDEST {
            let (oldest, least) = OLDEST;
            return Err(format!(
                "{} is version {major}.{minor}, but {oldest}.{least} is required",
                server.display()
            ));
        }
        Ok(server)
    }

    fn prepare(_server: &Path, _data: &Path) -> Option<(PathBuf, Vec<String>)> {
        None
    }

    fn arguments(server: &Path, folder: &Folder, port: u16, extra: &[String]) -> Vec<String> {
        let data = folder.data();
        let data = data.to_string_lossy();
        let port = port.to_string();
        let mut arguments: Vec<String> =
            ["--bind", "127.0.0.1", "--port", &port, "--dir", &data].map(str::to_owned).into();
        // `find` has read the version once.
        let permits = version(server).is_ok_and(|version| version >= PERMITS);
        arguments.extend(common(permits, extra));
        arguments
    }

    fn command(image: &str, extra: &[String]) -> Vec<String> {
        // Clients connect through the engine's port mapping, never from the container's loopback.
        let server = if image.contains("valkey") { "valkey-server" } else { "redis-server" };
        let mut command: Vec<String> =
            [server, "--protected-mode", "no", "--dir", "/data"].map(str::to_owned).into();
        command.extend(common(tagged(image).is_none_or(|tag| tag >= PERMITS), extra));
        command
    }
}

/// Returns the version. The line is "Redis server v=7.0.15 sha=…".
fn version(server: &Path) -> Result<(u32, u32), String> {
    find::version(server, "v=")
}

/// Returns the version that the tag of an image begins with, as in `redis:6.2-bookworm`.
fn tagged(image: &str) -> Option<(u32, u32)> {
    let (_, tag) = image.rsplit_once(':')?;
    let mut parts = tag.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next().and_then(Result::ok).unwrap_or(0)))
}

/// Returns the common arguments. Only an explicit SAVE saves, therefore the test decides about the
/// data after a restart. DEBUG is allowed (to sleep, to reload), and so is a new folder (to make
/// saves fail). Before 7.0 both are always allowed. A new replica does not wait 5 s for others.
/// Later arguments win.
fn common(permits: bool, extra: &[String]) -> Vec<String> {
    let common = [("--save", ""), ("--appendonly", "no"), ("--repl-diskless-sync-delay", "0")];
    let permitting = [("--enable-debug-command", "yes"), ("--enable-protected-configs", "yes")];
    let common = common.into_iter().chain(permitting.into_iter().filter(|_| permits));
    let common = common.flat_map(|(name, value)| [name, value].map(str::to_owned));
    let mut arguments: Vec<String> = common.collect();
    arguments.extend(extra.iter().cloned());
    arguments
}

/// Opens a connection, once more if it breaks meanwhile: another fault of the same schedule may
/// close all connections.
pub(super) async fn connect(url: &ServerUrl) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER))
        .set_response_timeout(Some(ANSWER));
    let client = Client::open(url.expose().clone())?;
    match client.get_multiplexed_async_connection_with_config(&config).await {
        Err(error) if error.is_connection_dropped() => {
            client.get_multiplexed_async_connection_with_config(&config).await
        }
        connected => connected,
    }
}

impl Server<Redis> {
    /// Opens a connection for the test's own commands. Each must respond within 1 s.
    ///
    /// # Errors
    /// [`BackendError::Failed`] if the connection fails.
    pub async fn connect(&self) -> Result<MultiplexedConnection, BackendError> {
        connect(self.server_url()).await.map_err(BackendError::failed("connect to Redis"))
    }

    /// Sends FLUSHALL.
    ///
    /// # Errors
    /// [`BackendError::NotAllowed`] on a given server without permission.
    pub async fn flush_all(&self) -> Result<(), BackendError> {
        self.allowed("flush")?;
        self.command("flush Redis", &["FLUSHALL"]).await
    }

    /// Sends CONFIG SET, as in `config_set("maxmemory", "1mb")`.
    ///
    /// # Errors
    /// [`BackendError::NotAllowed`] on a given server without permission.
    pub async fn config_set(&self, name: &str, value: &str) -> Result<(), BackendError> {
        self.allowed("configure")?;
        self.command("configure Redis", &["CONFIG", "SET", name, value]).await
    }

    /// Sends SAVE. A restart loads the saved data.
    ///
    /// # Errors
    /// [`BackendError::NotAllowed`] on a given server without permission.
    pub async fn save(&self) -> Result<(), BackendError> {
        self.allowed("save")?;
        self.command("save the data of Redis", &["SAVE"]).await
    }

    /// Makes this server a replica of `master`, or a master with `None` (REPLICAOF).
    ///
    /// Returns before the replica has caught up (`master_link_status:up` in INFO).
    ///
    /// # Errors
    /// [`BackendError::NotAllowed`] on a given server without permission.
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
        self.command("change the role of Redis", &["REPLICAOF", host, port]).await
    }

    async fn command(&self, action: &'static str, words: &[&str]) -> Result<(), BackendError> {
        let mut connection = self.connect().await?;
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        command.exec_async(&mut connection).await.map_err(BackendError::failed(action))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_of_a_container_goes_with_its_image() {
        for (image, server, permits) in [
            ("session-testkit/redis:7", "redis-server", true),
            ("redis:6.2-bookworm", "redis-server", false),
            ("registry:5000/redis:6", "redis-server", false),
            ("redis:8", "redis-server", true),
            ("redis:latest", "redis-server", true),
            ("registry:5000/redis", "redis-server", true),
            ("valkey/valkey:9.0-alpine", "valkey-server", true),
        ] {
            let command = Redis::command(image, &[]);
            assert_eq!(command[0], server, "{image}");
            let asks = command.iter().any(|word| word == "--enable-debug-command");
            assert_eq!(asks, permits, "{image}");
        }
    }
}
