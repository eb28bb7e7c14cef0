//! Real sentinels that watch a master and fail over to its replica.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::redis::{Cmd, FromRedisValue, cmd};
use rustix::process::Signal;
use session_layer::server_url::{ServerKind, ServerUrl};

use super::{
    Backend, Backends,
    error::{BackendError, Cause},
    kind::Kind,
    native::Folder,
    redis::{Redis, connect},
    server::{RedisServer, Server},
};
use crate::wait::{self, Patience};

/// The number of sentinels, of which two agree.
const COUNT: usize = 3;
/// The time after which a silent master counts as down.
const DOWN_AFTER: &str = "1000";
/// The limit for the sentinels to find each other, and for a failover.
const SOON: Duration = Duration::from_secs(30);

/// A Redis in the mode of a sentinel, as a process of this machine.
#[derive(Debug)]
#[non_exhaustive]
pub struct Sentinel;

impl Kind for Sentinel {
    const NAME: &'static str = "Sentinel";
    const KIND: ServerKind = ServerKind::Redis;
    const EXAMPLE: &'static str = Redis::EXAMPLE;
    const URL_VARIABLE: &'static str = "SESSION_TESTKIT_SENTINEL_URL";
    const HELP: &'static str = Redis::HELP;
    const IMAGE_VARIABLE: &'static str = Redis::IMAGE_VARIABLE;
    const OWN_IMAGE: &'static str = Redis::OWN_IMAGE;
    const OFFICIAL_IMAGES: &'static [&'static str] = Redis::OFFICIAL_IMAGES;
    const PORT: u16 = 26_379;
    const STOP: Signal = Signal::TERM;
    const ENVIRONMENT: &'static [(&'static str, &'static str)] = &[];
    const ACCOUNTS: &'static [&'static str] = Redis::ACCOUNTS;

    fn url(address: &str) -> String {
        Redis::url(address)
    }

    async fn ping(url: &ServerUrl) -> Result<(), Cause> {
        Redis::ping(url).await
    }

    fn find() -> Result<PathBuf, String> {
        Redis::find()
    }

    /// A sentinel writes what it learns into its configuration, so there must be a file.
    fn prepare(_server: &Path, data: &Path) -> Option<(PathBuf, Vec<String>)> {
        Some(("touch".into(), vec![file(data)]))
    }

    fn arguments(_: &Path, folder: &Folder, port: u16, extra: &[String]) -> Vec<String> {
        let file = file(&folder.data());
        let port = port.to_string();
        let mut arguments: Vec<String> =
            [&file, "--sentinel", "--bind", "127.0.0.1", "--port", &port].map(str::to_owned).into();
        arguments.extend(extra.iter().cloned());
        arguments
    }

    fn command(_image: &str, _extra: &[String]) -> Vec<String> {
        let start = "touch /data/sentinel.conf && exec redis-server /data/sentinel.conf --sentinel";
        ["sh", "-c", start].map(str::to_owned).into()
    }
}

fn file(data: &Path) -> String {
    data.join("sentinel.conf").to_string_lossy().into_owned()
}

/// A master, its replica, and three sentinels that fail over between them, as processes of this
/// machine. Dropping it ends them.
#[derive(Debug)]
pub struct Sentinels {
    /// The master at the start, and its replica.
    pair: [RedisServer; 2],
    sentinels: Vec<Server<Sentinel>>,
}

impl Sentinels {
    /// The name of the service.
    pub const SERVICE: &'static str = "main";

    /// Starts all of them, and waits until they know each other.
    ///
    /// # Errors
    /// [`BackendError`] if a server does not start.
    pub async fn start() -> Result<Self, BackendError> {
        let native = || Backends::builder().backend(Backend::Native);
        let (first, second) = tokio::try_join!(native().start_redis(), native().start_redis())?;
        second.replica_of(Some(&first)).await?;
        let starting = (0..COUNT).map(|_| native().start_sentinel());
        let sentinels = futures_util::future::try_join_all(starting).await?;
        let this = Self { pair: [first, second], sentinels };
        let (host, port) = this.pair[0].address().rsplit_once(':').unwrap_or_default();
        for sentinel in &this.sentinels {
            let mut monitor = cmd("SENTINEL");
            monitor.arg("MONITOR").arg(Self::SERVICE).arg(host).arg(port).arg(2);
            ask::<()>(sentinel, &monitor).await?;
            let mut set = cmd("SENTINEL");
            set.arg("SET").arg(Self::SERVICE);
            set.arg("down-after-milliseconds").arg(DOWN_AFTER).arg("failover-timeout").arg("5000");
            ask::<()>(sentinel, &set).await?;
        }
        wait::until("the sentinels to know each other", SOON, async || {
            let mut ready = true;
            for sentinel in &this.sentinels {
                ready &= this.knows_all(sentinel).await;
            }
            ready
        })
        .await
        .map_err(BackendError::failed("start sentinels"))?;
        Ok(this)
    }

    async fn knows_all(&self, sentinel: &Server<Sentinel>) -> bool {
        let mut master = cmd("SENTINEL");
        master.arg("MASTER").arg(Self::SERVICE);
        let Ok(fields) = ask::<Vec<String>>(sentinel, &master).await else { return false };
        let is = |name: &str, value: &str| {
            fields
                .chunks(2)
                .any(|pair| pair[0] == name && pair.get(1).is_some_and(|it| it == value))
        };
        is("num-other-sentinels", "2") && is("num-slaves", "1") && is("flags", "master")
    }

    /// Returns the URL that names the sentinels.
    pub fn url(&self) -> String {
        let addresses: Vec<_> = self.sentinels.iter().map(Server::address).collect();
        format!("redis+sentinel://{}/{}", addresses.join(","), Self::SERVICE)
    }

    /// Returns the sentinels.
    pub fn servers(&self) -> &[Server<Sentinel>] {
        &self.sentinels
    }

    /// Returns the master at the start and its replica. They change places.
    pub fn pair(&self) -> &[RedisServer] {
        &self.pair
    }

    /// Returns the master that the sentinels name, and the other server.
    ///
    /// # Errors
    /// [`BackendError`] if the first sentinel does not respond.
    pub async fn master(&self) -> Result<(&RedisServer, &RedisServer), BackendError> {
        let mut command = cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(Self::SERVICE);
        let (host, port): (String, u16) = ask(&self.sentinels[0], &command).await?;
        let [first, second] = &self.pair;
        let is_second = second.address() == format!("{host}:{port}");
        Ok(if is_second { (second, first) } else { (first, second) })
    }

    /// Orders a failover (SENTINEL FAILOVER) and waits until all sentinels name the other server.
    ///
    /// # Errors
    /// [`BackendError`] if a sentinel rejects it or it takes too long.
    pub async fn fail_over(&self) -> Result<(), BackendError> {
        let (before, _) = self.master().await?;
        let mut command = cmd("SENTINEL");
        command.arg("FAILOVER").arg(Self::SERVICE);
        // Until the last failover is over everywhere, another one is refused.
        wait::until("a sentinel to begin the failover", SOON, async || {
            ask::<()>(&self.sentinels[0], &command).await.is_ok()
        })
        .await
        .map_err(BackendError::failed("fail over"))?;
        self.until_master_is_not(before).await
    }

    /// Waits until all sentinels name another master than this one.
    ///
    /// # Errors
    /// [`BackendError`] if it takes too long.
    pub async fn until_master_is_not(&self, before: &RedisServer) -> Result<(), BackendError> {
        let mut command = cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(Self::SERVICE);
        let mut patience = Patience::new("another master", SOON);
        let all_name_another = async || {
            let mut all = true;
            for sentinel in &self.sentinels {
                let named: Result<(String, u16), _> = ask(sentinel, &command).await;
                all &= named.is_ok_and(|(host, port)| format!("{host}:{port}") != before.address());
            }
            all
        };
        let failed = |late| BackendError::failed("fail over")(late);
        while !patience.look(all_name_another()).await.map_err(failed)? {}
        Ok(())
    }
}

async fn ask<T: FromRedisValue>(
    sentinel: &Server<Sentinel>,
    command: &Cmd,
) -> Result<T, BackendError> {
    let failed = BackendError::failed("ask a sentinel");
    let asking = async {
        let mut connection = connect(sentinel.server_url()).await?;
        command.query_async(&mut connection).await
    };
    asking.await.map_err(failed)
}
