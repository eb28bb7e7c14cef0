//! A server under test: its address, and the ways to break and heal it.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use rustix::process::Signal;
use session_layer::error::ServerUrlError;
use session_layer::server_url::ServerUrl;
use tokio::time::timeout;

use super::{
    Backend, chain,
    docker::Container,
    error::{BackendError, Cause},
    kind::Kind,
    native::Process,
    postgres::Postgres,
    redis::Redis,
};
use crate::wait::{self, Patience};

/// The limit for a start or restart. Postgres may have to recover.
const READY: Duration = Duration::from_secs(30);
/// The number of log lines that an error shows.
const LOG_LINES: usize = 40;

/// A Redis under test.
pub type RedisServer = Server<Redis>;
/// A Postgres under test.
pub type PostgresServer = Server<Postgres>;

/// A server under test, [`RedisServer`] or [`PostgresServer`].
///
/// It is a guard. When it and its clones are dropped, also after a panic, its processes, container
/// and folder are removed. If the thread is panicking, the guard first prints the server's last log
/// lines. If this process is killed, they are removed within 2 s.
#[derive(Debug)]
pub struct Server<K: Kind> {
    shared: Arc<Shared>,
    kind: PhantomData<fn() -> K>,
}

/// The state that a [`PauseGuard`] shares with its server.
#[derive(Debug)]
struct Shared {
    name: &'static str,
    url: ServerUrl,
    address: String,
    destructive: bool,
    host: Host,
}

/// The way in which a server runs.
#[derive(Debug)]
pub(super) enum Host {
    /// Another party runs the server, and we have its URL.
    External,
    Docker(Box<Container>),
    Native(Process),
}

// A derived implementation would require `K: Clone`.
impl<K: Kind> Clone for Server<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), kind: PhantomData }
    }
}

impl<K: Kind> Server<K> {
    /// Connects to a given server, which must respond.
    pub(super) async fn external(
        url: &Result<ServerUrl, ServerUrlError>,
        destructive: bool,
    ) -> Result<Self, BackendError> {
        let server = Self::new(url, Host::External, destructive)?;
        server.ready_within(Duration::from_secs(10)).await?;
        Ok(server)
    }

    /// Waits for a server that we have just started.
    pub(super) async fn started(address: &str, host: Host) -> Result<Self, BackendError> {
        let server = Self::new(&K::url(address).parse(), host, true)?;
        server.ready().await?;
        Ok(server)
    }

    fn new(
        url: &Result<ServerUrl, ServerUrlError>,
        host: Host,
        destructive: bool,
    ) -> Result<Self, BackendError> {
        let bad = |reason: &str| {
            let (name, example) = (K::NAME, K::EXAMPLE);
            let text = format!("{name} is not usable: {reason}. An example is {example}");
            BackendError::BadUrl(text)
        };
        let url = url.as_ref().map_err(|reason| bad(&reason.to_string()))?;
        if url.kind() != K::KIND {
            return Err(bad("it names a server of another kind"));
        }
        let Some(address) = url.address() else {
            return Err(bad("it names no host"));
        };
        let shared = Shared { name: K::NAME, address, url: url.clone(), destructive, host };
        Ok(Self { shared: Arc::new(shared), kind: PhantomData })
    }

    /// Returns the URL without a proxy. It stays the same over restarts.
    pub fn url(&self) -> &str {
        self.shared.url.expose().as_str()
    }

    /// Returns the parsed URL, for our own connections.
    pub(crate) fn server_url(&self) -> &ServerUrl {
        &self.shared.url
    }

    /// Returns the `host:port`, for example as a proxy's target.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// Returns the `host:port` for other servers of the same backend. For a container, it is the
    /// address in the engine's network, which may change with a restart.
    pub(super) async fn address_for_peers(&self) -> Result<String, BackendError> {
        match &self.shared.host {
            Host::Docker(container) => container.address_for_peers().await,
            Host::External | Host::Native(_) => Ok(self.shared.address.clone()),
        }
    }

    pub(super) fn host(&self) -> &Host {
        &self.shared.host
    }

    /// Returns the backend, or `None` for a given server.
    pub fn backend(&self) -> Option<Backend> {
        match &self.shared.host {
            Host::External => None,
            Host::Docker(_) => Some(Backend::Docker),
            Host::Native(_) => Some(Backend::Native),
        }
    }

    /// Returns `docker`, `native`, or `given` for a given server.
    pub(crate) fn backend_name(&self) -> String {
        self.backend().map_or_else(|| "given".to_owned(), |backend| backend.to_string())
    }

    /// Kills the server and its children with SIGKILL and waits for their end.
    /// [`restart`](Self::restart) starts it again. Killing an ended server is no error.
    ///
    /// # Errors
    /// [`BackendError::NotOurs`] for a given server.
    pub async fn kill(&self) -> Result<(), BackendError> {
        self.end("kill", Signal::KILL).await
    }

    /// Stops the server properly, as a service manager does, and with SIGKILL after 5 s.
    ///
    /// # Errors
    /// [`BackendError::NotOurs`] for a given server.
    pub async fn stop(&self) -> Result<(), BackendError> {
        self.end("stop", K::STOP).await
    }

    /// Ends the server with this signal, and with SIGKILL after 5 s.
    pub(super) async fn end(&self, action: &str, signal: Signal) -> Result<(), BackendError> {
        match &self.shared.host {
            Host::External => Err(self.not_ours(action)),
            Host::Docker(container) => container.end(signal).await,
            Host::Native(process) => process.end(signal).await,
        }
    }

    /// Disconnects the container from its networks and returns their names.
    pub(crate) async fn disconnect(&self) -> Result<Vec<String>, BackendError> {
        match &self.shared.host {
            Host::External => Err(self.not_ours("disconnect")),
            Host::Docker(container) => container.disconnect().await,
            Host::Native(_) => Err(BackendError::failed(format!("disconnect {}", K::NAME))(
                "it is a process of this machine. A proxy with `Toxic::hold` in front of it looks \
                 the same to clients",
            )),
        }
    }

    /// Connects the container to its networks again.
    pub(crate) async fn reconnect(&self, networks: &[String]) -> Result<(), BackendError> {
        match &self.shared.host {
            Host::Docker(container) => container.reconnect(networks).await?,
            Host::External | Host::Native(_) => {}
        }
        self.ready().await
    }

    /// Restarts the server on the same address with its data, and waits until it is ready. A
    /// running server is stopped first.
    ///
    /// Redis keeps its last saved data ([`RedisServer::save`]), and Postgres everything committed.
    ///
    /// # Errors
    /// [`BackendError::NotOurs`] for a given server, and [`BackendError::NotReady`] after 30 s.
    pub async fn restart(&self) -> Result<(), BackendError> {
        self.end("restart", K::STOP).await?;
        match &self.shared.host {
            Host::External => {}
            Host::Docker(container) => container.start_again().await?,
            Host::Native(process) => process.start_again()?,
        }
        self.ready().await
    }

    /// Pauses the server's processes (SIGSTOP, or the engine's freezer). Connections stay open, the
    /// kernel accepts new ones, and the server does not respond. It resumes when the guard is
    /// dropped, or at [`PauseGuard::resume`].
    ///
    /// # Errors
    /// [`BackendError::NotOurs`] for a given server.
    pub async fn pause(&self) -> Result<PauseGuard, BackendError> {
        match &self.shared.host {
            Host::External => return Err(self.not_ours("pause")),
            Host::Docker(container) => container.pause().await?,
            Host::Native(process) => process.pause(),
        }
        Ok(PauseGuard { paused: Some(Arc::clone(&self.shared)) })
    }

    /// Checks that the server responds to PING or SELECT 1 now.
    ///
    /// # Errors
    /// The client library's error, or a timeout after 1 to 2 s.
    pub async fn ping(&self) -> Result<(), Cause> {
        K::ping(self.server_url()).await
    }

    /// Waits up to 30 s until the server responds.
    ///
    /// # Errors
    /// [`BackendError::Exited`] if the process has ended, [`BackendError::NotReady`] at the
    /// deadline. Both contain the last log lines.
    pub async fn ready(&self) -> Result<(), BackendError> {
        self.ready_within(READY).await
    }

    async fn ready_within(&self, deadline: Duration) -> Result<(), BackendError> {
        let mut failure = None;
        let mut patience = Patience::new("a response", deadline);
        loop {
            let mut ended = false;
            let look = async {
                // The process is checked first, because another server may respond on the port.
                ended = !self.running().await;
                if ended {
                    return true;
                }
                if let Err(error) = K::ping(self.server_url()).await {
                    failure = Some(error);
                    return false;
                }
                ended = !self.running().await;
                true
            };
            let looked = patience.look(look).await;
            if ended {
                return Err(BackendError::Exited { server: K::NAME, logs: self.logs().await });
            }
            match looked {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(_) => {
                    return Err(BackendError::NotReady {
                        server: K::NAME,
                        address: self.shared.address.clone(),
                        waited: deadline,
                        logs: self.logs().await,
                        source: failure,
                    });
                }
            }
        }
    }

    async fn running(&self) -> bool {
        match &self.shared.host {
            Host::External => true,
            // If the engine does not respond for a moment, the server may still run.
            Host::Docker(container) => container.running().await.unwrap_or(true),
            Host::Native(process) => process.running(),
        }
    }

    /// Returns the last 40 log lines, or none for a given server.
    pub async fn logs(&self) -> Vec<String> {
        self.shared.logs().await
    }

    /// Checks that commands may do damage to this server.
    pub(crate) fn allowed(&self, action: &str) -> Result<(), BackendError> {
        if self.shared.destructive {
            return Ok(());
        }
        Err(BackendError::NotAllowed(self.described(action)))
    }

    pub(super) fn not_ours(&self, action: &str) -> BackendError {
        BackendError::NotOurs(self.described(action))
    }

    fn described(&self, action: &str) -> String {
        format!("{action} {} at {}", K::NAME, self.shared.address)
    }
}

impl Shared {
    async fn resume(&self) -> Result<(), BackendError> {
        match &self.host {
            Host::External => {}
            Host::Docker(container) => container.resume().await?,
            Host::Native(process) => process.resume(),
        }
        Ok(())
    }

    async fn logs(&self) -> Vec<String> {
        let mut lines = match &self.host {
            Host::External => Vec::new(),
            Host::Docker(container) => container.logs().await,
            Host::Native(process) => process.logs(),
        };
        lines.drain(..lines.len().saturating_sub(LOG_LINES));
        lines
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !std::thread::panicking() || matches!(self.host, Host::External) {
            return;
        }
        let logs = wait::blocking(timeout(Duration::from_secs(5), self.logs()));
        let lines = logs.and_then(Result::ok).unwrap_or_default();
        eprintln!("--- last lines of {} at {}:", self.name, self.address);
        for line in lines {
            eprintln!("    {line}");
        }
    }
}

/// A guard that keeps a server paused.
///
/// When `drop` returns, the server runs again.
#[derive(Debug)]
#[must_use = "the server resumes as soon as the guard is dropped"]
pub struct PauseGuard {
    paused: Option<Arc<Shared>>,
}

impl PauseGuard {
    /// Resumes the server. Unlike a drop, it returns an error if that fails.
    ///
    /// # Errors
    /// [`BackendError::Failed`] if the engine can't resume it.
    pub async fn resume(mut self) -> Result<(), BackendError> {
        match self.paused.take() {
            Some(shared) => shared.resume().await,
            None => Ok(()),
        }
    }
}

impl Drop for PauseGuard {
    fn drop(&mut self) {
        if let Some(shared) = self.paused.take()
            && let Some(Err(error)) = wait::blocking(shared.resume())
        {
            // If the server was killed meanwhile, there is nothing to resume.
            tracing::debug!(error = chain(&error), "could not resume");
        }
    }
}
