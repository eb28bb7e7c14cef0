//! Opening a connection to Redis: name, TCP, TLS, credentials, identity. Each step has its own
//! errors, so that a failure names its cause.
//!
//! The library could connect by itself. It then reports a refused name, an unknown certificate and
//! a rejected password in one form, and it needs a default provider of TLS for the whole process.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{join_all, select_ok};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::io::tcp::socket2::{SockRef, TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, IntoConnectionInfo as _, Pipeline,
    RedisConnectionInfo, RedisFuture, RedisResult, Value,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::future::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

mod cluster;
mod failure;
mod first_bytes;
mod sentinel;
#[cfg(feature = "tls")]
mod tls;

use self::cluster::Nodes;
pub(super) use self::cluster::read_slots;
use self::failure::Speaks;
pub(super) use self::failure::not_master;
pub use self::failure::{ConnectCause, ConnectError};
use self::first_bytes::FirstBytes;
use self::sentinel::Sentinels;
#[cfg(feature = "tls")]
use self::tls::Tls;
use super::identity::{self, Identity};
use super::slots::slot_of;
use crate::model::credentials::{Credential, Credentials, fetch};
use crate::model::error::ConfigError;
use crate::model::server_url::{ServerKind, ServerUrl, ServerUrlError};
use crate::model::tls::TlsSettings;

/// The URL's name in errors.
pub(super) const URL: &str = "the Redis URL";
/// How many commands may wait to be written on one connection. The library's 50 would hold callers
/// up at a few hundred concurrent requests.
const WRITE_QUEUE: usize = 1024;
/// The idle time after which the kernel detects that the host of a connection has vanished.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// The time without an acknowledgement after which a connection breaks.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(5);
/// The response timeout of the library, which only ends abandoned commands. Every operation has its
/// own deadline.
const ABANDONED: Duration = Duration::from_secs(5);
/// The timeout of connecting and of checks by the supervisor. No request waits for these.
pub(super) const SUPERVISOR_TIMEOUT: Duration = Duration::from_secs(1);
/// The limit of the source of credentials. A token may come from another service.
pub(super) const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(3);
/// The limit of an attempt to find out what a port speaks.
const PEEK: Duration = Duration::from_millis(250);
/// The longest time of [`Connector::connect`] by the supervisor. It looks sentinels up in half a
/// step. Then, for a sentinel and for Redis, it opens a stream, fetches a credential and sends the
/// first commands.
pub(super) const LONGEST_CONNECT: Duration = SUPERVISOR_TIMEOUT
    .saturating_mul(5)
    .saturating_add(CREDENTIALS_TIMEOUT.saturating_mul(2))
    .saturating_add(PEEK.saturating_mul(2));

/// A stream of bytes to a server.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An open connection, and the task that drives it. The task ends with the last clone.
#[derive(Debug, Clone)]
pub(super) struct OpenConnection {
    pub(super) commands: MultiplexedConnection,
    _driver: Arc<AbortOnDropHandle<()>>,
    /// Cancelled when the task has ended.
    ended: CancellationToken,
}

impl OpenConnection {
    /// Starts the task that drives the connection. Must be called within a runtime.
    pub(super) fn new(
        commands: MultiplexedConnection,
        driver: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let driver = tokio::spawn(async move {
            let _ended = guard;
            driver.await;
        });
        Self { commands, _driver: Arc::new(AbortOnDropHandle::new(driver)), ended }
    }

    /// Runs commands until they have a reply, or the connection is lost.
    ///
    /// The library alone reports a loss to all commands but one that is sent at this moment. It
    /// puts that command into a channel that is not read again, where it would wait for ever.
    pub(super) fn run<T>(
        &self,
        commands: impl Future<Output = RedisResult<T>>,
    ) -> impl Future<Output = RedisResult<T>> {
        let ended = commands.with_cancellation_token(&self.ended);
        ended.map(|reply| {
            reply.unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::BrokenPipe).into()))
        })
    }
}

// It is public for the testkit only. It implements a trait of the `redis` crate, whose version is
// no part of our interface.
/// One connection to Redis, opened as a [`RedisCache`](super::RedisCache) opens its own. It is for
/// commands that examine a deployment. Clones share it.
#[derive(Clone)]
#[doc(hidden)]
pub struct RedisConnection(OpenConnection);

impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConnection").finish_non_exhaustive()
    }
}

impl ConnectionLike for RedisConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.0.commands.req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.0.commands.req_packed_commands(commands, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.0.commands.get_db()
    }
}

/// An open connection to a server whose identity is known.
pub(super) struct Connected {
    pub(super) connection: OpenConnection,
    pub(super) identity: Identity,
    /// The credential, if it may change.
    pub(super) used: Option<Used>,
}

/// A credential, and since when it is used.
#[derive(Debug, Clone)]
pub(super) struct Used {
    pub(super) credential: Credential,
    pub(super) since: Instant,
}

impl Used {
    /// Returns when it is renewed. `None`: it does not expire.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.checked_add(self.credential.renew_after()?)
    }
}

/// The address of a server, as far as it is known before connecting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp {
        host: String,
        port: u16,
        /// The address of the host that is meant, if it has several.
        ip: Option<IpAddr>,
    },
    Unix(PathBuf),
}

/// The place of a Redis.
#[derive(Debug)]
enum Server {
    At(Address),
    /// Sentinels know the address.
    Behind(Sentinels),
    /// Each of these nodes of a cluster knows the others.
    Cluster(Nodes),
    /// A node of a cluster.
    Node(Address),
}

/// The settings of connections beside the URL.
#[derive(Default)]
pub(super) struct Access {
    pub(super) tls: TlsSettings,
    pub(super) credentials: Option<Arc<dyn Credentials>>,
    pub(super) sentinel_credentials: Option<Arc<dyn Credentials>>,
}

/// Opens connections to one Redis.
pub(super) struct Connector {
    server: Server,
    /// The settings of the URL: user, password, database and protocol.
    settings: RedisConnectionInfo,
    /// The source of the password, if it is not in the URL.
    credentials: Option<Arc<dyn Credentials>>,
    sentinel_credentials: Option<Arc<dyn Credentials>>,
    #[cfg(feature = "tls")]
    tls: Option<Arc<Tls>>,
}

impl Connector {
    /// Prepares connections to the server at this URL.
    pub(super) fn new(
        url: Result<ServerUrl, ServerUrlError>,
        access: Access,
    ) -> Result<Self, ConfigError> {
        let Access { tls, credentials, sentinel_credentials } = access;
        let bad = |reason: ServerUrlError| ConfigError::redis_url(URL, reason);
        let url = url.map_err(bad)?;
        if url.kind() != ServerKind::Redis {
            return Err(bad(ServerUrlError::because(
                "it does not begin with redis:// or rediss://",
            )));
        }
        #[cfg(not(feature = "tls"))]
        if url.is_rediss() {
            return Err(ConfigError::MissingFeature { feature: "tls", needed_for: "rediss://" });
        }
        if !url.is_rediss() && tls != TlsSettings::new() {
            return Err(ConfigError::Combination(
                "settings of TLS to Redis (REDIS_TLS_…, RedisCacheBuilder::tls) have an effect \
                 only with rediss://: begin REDIS_URL with it, or unset them",
            ));
        }
        if tls.insecure && tls.ca.is_some() {
            return Err(ConfigError::Combination(
                "REDIS_TLS_INSECURE (TlsSettings::insecure) accepts every certificate, so \
                 REDIS_TLS_CA_FILE (ca_file, ca_pem) has no effect: remove one of them",
            ));
        }
        // The library's error may repeat a part of the URL.
        let info = url.without_tls().into_connection_info();
        let info = info.map_err(|_repeats_it| {
            bad(ServerUrlError::because("its user or password is not UTF-8 once it is decoded"))
        })?;
        if info.redis_settings().password().is_some() && credentials.is_some() {
            return Err(ConfigError::Combination(
                "REDIS_URL has a password, and REDIS_PASSWORD_FILE \
                 (RedisCacheBuilder::credentials) is set too: remove one of them",
            ));
        }
        let sentinels = url.sentinels();
        if sentinels.is_none() && sentinel_credentials.is_some() {
            return Err(ConfigError::Combination(
                "credentials of sentinels (REDIS_SENTINEL_…) have an effect only with \
                 redis+sentinel://: begin REDIS_URL with it, or unset them",
            ));
        }
        let address = match info.addr() {
            ConnectionAddr::Tcp(host, port) => {
                Address::Tcp { host: host.clone(), port: *port, ip: None }
            }
            ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
            _ => return Err(bad(ServerUrlError::because("its scheme is not supported"))),
        };
        Ok(Self {
            server: match (sentinels, url.other_nodes()) {
                (Some((addresses, service)), _) => Server::Behind(Sentinels {
                    addresses: addresses.iter().map(|address| Address::tcp(address)).collect(),
                    service: service.to_owned(),
                }),
                (None, Some(others)) => Server::Cluster(Nodes {
                    first: address,
                    others: others.iter().map(|node| Address::tcp(node)).collect(),
                }),
                (None, None) => Server::At(address),
            },
            settings: info.redis_settings().clone(),
            credentials,
            sentinel_credentials,
            #[cfg(feature = "tls")]
            tls: match url.is_rediss() {
                true => Some(Arc::new(Tls::new(tls).map_err(ConfigError::tls)?)),
                false => None,
            },
        })
    }

    /// Returns the number of the database.
    pub(super) fn database(&self) -> i64 {
        self.settings.db()
    }

    /// Returns whether another server may be promoted without a change of the settings.
    pub(super) fn fails_over(&self) -> bool {
        !matches!(self.server, Server::At(_))
    }

    /// Returns whether the URL names a cluster.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.server, Server::Cluster(_))
    }

    /// Returns a connector to one node of the cluster, with the same settings.
    pub(super) fn to_node(&self, at: Address) -> Self {
        Self {
            server: Server::Node(at),
            settings: self.settings.clone(),
            credentials: self.credentials.clone(),
            sentinel_credentials: None,
            #[cfg(feature = "tls")]
            tls: self.tls.clone(),
        }
    }

    /// Returns the source of the password, if it is not in the URL.
    pub(super) fn credentials(&self) -> Option<&dyn Credentials> {
        self.credentials.as_deref()
    }

    /// Returns the user of a credential, or that of the URL.
    pub(super) fn user_of<'a>(&'a self, credential: &'a Credential) -> Option<&'a str> {
        credential.user_name().or(self.settings.username())
    }

    /// Connects, authenticates and reads the identity of the server. `limit` is the time of each
    /// step: the stream, and the first commands. The source of credentials has its own limit. It is
    /// called once the stream is open, because a server that is down needs no token.
    pub(super) async fn connect(&self, limit: Duration) -> Result<Connected, ConnectError> {
        let found;
        let at = match &self.server {
            Server::At(address) | Server::Node(address) => address,
            Server::Cluster(nodes) => &nodes.first,
            Server::Behind(sentinels) => {
                found = self.find_master(sentinels, limit).await?;
                &found
            }
        };
        let stream = self.open(at, Instant::now() + limit).await?;
        let (login, used) = match &self.credentials {
            None => (self.settings.clone(), None),
            Some(source) => {
                let used = self.fetch(&**source).await?;
                (self.login(&used.credential), Some(used))
            }
        };
        let deadline = Instant::now() + limit;
        let connection = self.authenticate(at, &login, stream, deadline).await?;
        let mut commands = connection.commands.clone();
        let identity = within(deadline, connection.run(identity::read(&mut commands))).await;
        let identity = identity
            .ok_or_else(|| failure::timed_out(at, "INFO"))?
            .map_err(|error| failure::identity(at, error))?;
        if identity.is_sentinel {
            return Err(failure::is_sentinel(at));
        }
        if let Some(version) = &identity.outdated {
            return Err(failure::outdated(at, version));
        }
        if identity.is_cluster && matches!(self.server, Server::At(_) | Server::Behind(_)) {
            return Err(failure::is_cluster(at));
        }
        Ok(Connected { connection, identity, used })
    }

    /// Connects for commands of another module.
    pub(super) async fn connect_once(
        &self,
        limit: Duration,
    ) -> Result<RedisConnection, ConnectError> {
        Ok(RedisConnection(self.connect(limit).await?.connection))
    }

    /// Connects for commands of another module: in a cluster, to the master that has this key.
    pub(super) async fn connect_for_key(
        &self,
        key: &[u8],
        limit: Duration,
    ) -> Result<RedisConnection, ConnectError> {
        if !self.is_cluster() {
            return self.connect_once(limit).await;
        }
        let map = self.find_slots(limit).await?;
        let at = map.owner(slot_of(key)).ok_or_else(|| failure::not_served(&self.server))?;
        self.to_node(at.clone()).connect_once(limit).await
    }

    /// Connects to every master of the cluster. Returns each with its address. Without a cluster,
    /// there is none.
    pub(super) async fn connect_to_shards(
        &self,
        limit: Duration,
    ) -> Result<Vec<(String, Result<RedisConnection, ConnectError>)>, ConnectError> {
        if !self.is_cluster() {
            return Ok(Vec::new());
        }
        let map = self.find_slots(limit).await?;
        let connecting = map.masters().into_iter().map(|at| async move {
            (at.to_string(), self.to_node(at.clone()).connect_once(limit).await)
        });
        Ok(join_all(connecting).await)
    }

    /// Fetches a credential.
    async fn fetch(&self, source: &dyn Credentials) -> Result<Used, ConnectError> {
        // The time of a token runs while its source responds.
        let since = Instant::now();
        match fetch(source, CREDENTIALS_TIMEOUT).await {
            Ok(credential) => Ok(Used { credential, since }),
            Err(error) => Err(failure::credentials(&self.server, error)),
        }
    }

    fn login(&self, credential: &Credential) -> RedisConnectionInfo {
        let login = self.settings.clone().set_password(credential.secret());
        match self.user_of(credential) {
            Some(user) => login.set_username(user),
            None => login,
        }
    }

    /// Opens a stream to the server, with TLS if the URL asks for it.
    async fn open(&self, at: &Address, deadline: Instant) -> Result<Box<dyn Stream>, ConnectError> {
        let stream = connect(at, deadline).await?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return Self::encrypt(tls, at, stream, deadline).await;
        }
        Ok(stream)
    }

    #[cfg(feature = "tls")]
    async fn encrypt(
        tls: &Arc<Tls>,
        at: &Address,
        stream: Box<dyn Stream>,
        deadline: Instant,
    ) -> Result<Box<dyn Stream>, ConnectError> {
        let (stream, first) = FirstBytes::of(stream);
        let handshake = within(deadline, tls.handshake(at, stream)).await;
        let handshake = handshake.ok_or_else(|| failure::files_timed_out(at))?;
        match within(deadline, handshake?).await {
            Some(Ok(stream)) => Ok(Box::new(stream)),
            Some(Err(error)) => {
                let speaks = match first.get() {
                    Some(first) => Speaks::of(first),
                    None => peek(at, PLAIN_PING).await,
                };
                Err(failure::tls(at, error, speaks))
            }
            None => Err(match peek(at, PLAIN_PING).await {
                Speaks::Nothing => failure::timed_out(at, "the TLS handshake"),
                speaks => failure::tls(at, io::ErrorKind::TimedOut.into(), speaks),
            }),
        }
    }

    /// Authenticates on an open stream, and selects the database.
    async fn authenticate(
        &self,
        at: &Address,
        login: &RedisConnectionInfo,
        stream: Box<dyn Stream>,
        deadline: Instant,
    ) -> Result<OpenConnection, ConnectError> {
        let (stream, first) = FirstBytes::of(stream);
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(ABANDONED))
            .set_pipeline_buffer_size(WRITE_QUEUE);
        let opening = MultiplexedConnection::new_with_config(login, stream, config);
        // The future has several KB.
        match within(deadline, opening.boxed()).await {
            Some(Ok((commands, driver))) => Ok(OpenConnection::new(commands, driver)),
            Some(Err(error)) => {
                let first = first.get().unwrap_or_default();
                let speaks = match Speaks::of(first) {
                    Speaks::Nothing if !self.is_tls() => peek(at, CLIENT_HELLO).await,
                    speaks => speaks,
                };
                Err(failure::greeting(at, error, first, speaks))
            }
            None => Err(failure::timed_out(at, "the first command")),
        }
    }

    /// Returns whether every certificate is accepted.
    #[cfg_attr(not(feature = "tls"), expect(clippy::unused_self, reason = "there is no TLS"))]
    pub(super) fn is_insecure(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.as_ref().is_some_and(|tls| tls.is_insecure());
        #[cfg(not(feature = "tls"))]
        false
    }

    #[cfg_attr(not(feature = "tls"), expect(clippy::unused_self, reason = "there is no TLS"))]
    fn is_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }
}

/// Opens a stream to the first address of the host that accepts it.
async fn connect(at: &Address, deadline: Instant) -> Result<Box<dyn Stream>, ConnectError> {
    let addresses = match at {
        Address::Unix(path) => {
            let opened = within(deadline, UnixStream::connect(path)).await;
            let opened = opened.ok_or_else(|| failure::timed_out(at, "the connection"))?;
            return match opened {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(failure::connecting(at, error)),
            };
        }
        Address::Tcp { port, ip: Some(ip), .. } => vec![SocketAddr::new(*ip, *port)],
        Address::Tcp { host, port, ip: None } => {
            let found = within(deadline, lookup_host((host.as_str(), *port))).await;
            let found = found.ok_or_else(|| failure::look_up_timed_out(at))?;
            found.map_err(|error| failure::name(at, error))?.collect()
        }
    };
    let attempts = addresses.into_iter().map(|address| TcpStream::connect(address).boxed());
    let attempts: Vec<_> = attempts.collect();
    if attempts.is_empty() {
        return Err(failure::name(at, io::ErrorKind::NotFound.into()));
    }
    let opened = within(deadline, select_ok(attempts)).await;
    let opened = opened.ok_or_else(|| failure::timed_out(at, "the connection"))?;
    let (stream, _) = opened.map_err(|error| failure::connecting(at, error))?;
    set_options(&stream).map_err(|error| failure::connecting(at, error))?;
    Ok(Box::new(stream))
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

/// Finds out what the server speaks, by the reply to these bytes on a new connection.
async fn peek(at: &Address, bytes: &[u8]) -> Speaks {
    let asking = async {
        let mut stream = connect(at, Instant::now() + PEEK).await.ok()?;
        stream.write_all(bytes).await.ok()?;
        let mut first = [0; 16];
        let read = stream.read(&mut first).await.ok()?;
        Some(Speaks::of(&first[..read]))
    };
    timeout(PEEK, asking).await.ok().flatten().unwrap_or(Speaks::Nothing)
}

/// A PING in the form that also an old Redis understands.
#[cfg(feature = "tls")]
const PLAIN_PING: &[u8] = b"PING\r\n";
/// The first message of a TLS 1.2 client that offers one cipher suite. Any TLS server replies to
/// it, with a choice or with an alert.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x03\
    session-layer asks what this is\0\x00\x00\x02\xc0\x2f\x01\x00";

/// Waits for a step until the deadline.
async fn within<T>(deadline: Instant, step: impl Future<Output = T>) -> Option<T> {
    timeout_at(deadline, step).await.ok()
}

impl Address {
    /// Reads `HOST:PORT`, with brackets around an IPv6 address.
    pub(super) fn tcp(text: &str) -> Self {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Self::Tcp { host, port: port.parse().unwrap_or_default(), ip: None }
    }

    /// Returns whether both lead to one place, as far as their names have been looked up.
    fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Tcp { port, ip: Some(ip), .. },
                Self::Tcp { port: other_port, ip: Some(other_ip), .. },
            ) => (port, ip) == (other_port, other_ip),
            _ => self == other,
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Behind(sentinels) => sentinels.fmt(f),
            Self::Cluster(nodes) => nodes.fmt(f),
            Self::Node(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port, ip: Some(ip) } if ip.to_string() != *host => {
                write!(f, "{host}:{port} ({ip})")
            }
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix(_) => f.write_str("the local socket"),
        }
    }
}

impl fmt::Debug for Connector {
    /// Formats no settings of the client, because they contain the user.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("server", &self.server).finish_non_exhaustive()
    }
}
