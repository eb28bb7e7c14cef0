//! One server under test: where it is, and the ways to break and heal it.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{
    Backend,
    docker::Container,
    error::{BackendError, Cause},
    kind::Kind,
    native::Process,
    pause::PauseGuard,
    postgres::Postgres,
    redis::Redis,
};
use crate::{
    url,
    wait::{self, Patience},
};

/// Starting, or starting again; Postgres may have to recover.
const READY: Duration = Duration::from_secs(30);
/// How many lines of log a failure shows.
const LOG_LINES: usize = 40;

/// A Redis under test.
pub type RedisServer = Server<Redis>;
/// A Postgres under test.
pub type PostgresServer = Server<Postgres>;

/// A server under test, [`RedisServer`] or [`PostgresServer`].
///
/// It is a guard: when it and its clones are dropped, and so too after a panic, its processes,
/// container and folder are gone. If the thread is panicking then, the server's last log lines are printed first.
/// Within 2 s they are gone as well when this process is killed.
#[derive(Debug)]
pub struct Server<K: Kind> {
    shared: Arc<Shared>,
    kind: PhantomData<fn() -> K>,
}

/// What a [`PauseGuard`] shares with its server.
#[derive(Debug)]
pub(super) struct Shared {
    name: &'static str,
    url: String,
    address: String,
    destructive: bool,
    pub(super) host: Host,
}

/// Who runs it.
#[derive(Debug)]
pub(super) enum Host {
    /// Somebody else: there is a URL and nothing more.
    External,
    Docker(Box<Container>),
    Native(Process),
}

// By hand: a derived one would ask for `K: Clone`.
impl<K: Kind> Clone for Server<K> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            kind: PhantomData,
        }
    }
}

impl<K: Kind> Server<K> {
    /// A given server, which must answer.
    pub(super) async fn external(url: &str, destructive: bool) -> Result<Self, BackendError> {
        let server = Self::new(url.to_owned(), Host::External, destructive);
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        let known = scheme.is_some_and(|scheme| K::SCHEMES.contains(&scheme));
        if !known || server.shared.address.is_empty() {
            // It may have a password in it, so it is not repeated.
            return Err(BackendError::BadUrl {
                server: K::NAME,
                example: K::EXAMPLE,
            });
        }
        server.ready_within(Duration::from_secs(10)).await?;
        Ok(server)
    }

    /// A server that was just started by us.
    pub(super) async fn started(address: &str, host: Host) -> Result<Self, BackendError> {
        let server = Self::new(K::url(address), host, true);
        server.ready().await?;
        Ok(server)
    }

    fn new(url: String, host: Host, destructive: bool) -> Self {
        let shared = Shared {
            name: K::NAME,
            address: url::address(&url).unwrap_or_default(),
            url,
            destructive,
            host,
        };
        Self {
            shared: Arc::new(shared),
            kind: PhantomData,
        }
    }

    /// How to reach it, without a proxy in between. The same over all restarts.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// Its `host:port`, as a proxy's target.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// Its `host:port` as other servers of the same backend reach it: for a container the
    /// address inside the engine's network, which may change with a restart.
    pub(super) async fn address_for_peers(&self) -> Result<String, BackendError> {
        match &self.shared.host {
            Host::Docker(container) => container.address_for_peers().await,
            Host::External | Host::Native(_) => Ok(self.shared.address.clone()),
        }
    }

    /// What runs it; `None` for a given server.
    #[must_use]
    pub fn backend(&self) -> Option<Backend> {
        match &self.shared.host {
            Host::External => None,
            Host::Docker(_) => Some(Backend::Docker),
            Host::Native(_) => Some(Backend::Native),
        }
    }

    /// SIGKILL for the server and its children; answers when they are gone. To be started again
    /// with [`restart`](Self::restart). Killing a dead server is no error.
    ///
    /// # Errors
    ///
    /// [`BackendError::NotOurs`] for a given server.
    pub async fn kill(&self) -> Result<(), BackendError> {
        match &self.shared.host {
            Host::External => Err(self.not_ours("kill")),
            Host::Docker(container) => container.kill().await,
            Host::Native(process) => process.kill().await,
        }
    }

    /// Ends it in good order (what a service manager's `stop` does), after 5 s with SIGKILL.
    ///
    /// # Errors
    ///
    /// [`BackendError::NotOurs`] for a given server.
    pub async fn stop(&self) -> Result<(), BackendError> {
        match &self.shared.host {
            Host::External => Err(self.not_ours("stop")),
            Host::Docker(container) => container.stop().await,
            Host::Native(process) => process.stop().await,
        }
    }

    /// Takes its container off its networks; answers their names, for [`reconnect`](Self::reconnect).
    pub(crate) async fn disconnect(&self) -> Result<Vec<String>, BackendError> {
        match &self.shared.host {
            Host::External => Err(self.not_ours("disconnect")),
            Host::Docker(container) => container.disconnect().await,
            Host::Native(_) => Err(BackendError::NoNetwork { server: K::NAME }),
        }
    }

    /// Puts its container back on its networks.
    pub(crate) async fn reconnect(&self, networks: &[String]) -> Result<(), BackendError> {
        match &self.shared.host {
            Host::Docker(container) => container.reconnect(networks).await?,
            Host::External | Host::Native(_) => {}
        }
        self.ready().await
    }

    /// Starts it again on the same address with the data that it left, and waits until it is ready.
    /// One that still runs is stopped first.
    ///
    /// Redis keeps what was last saved ([`RedisServer::save`]), Postgres all that was committed.
    ///
    /// # Errors
    ///
    /// [`BackendError::NotOurs`] for a given server; [`BackendError::NotReady`] after 30 s.
    pub async fn restart(&self) -> Result<(), BackendError> {
        match &self.shared.host {
            Host::External => return Err(self.not_ours("restart")),
            Host::Docker(container) => {
                container.stop().await?;
                container.start_again().await?;
            }
            Host::Native(process) => {
                process.stop().await?;
                process.start_again()?;
            }
        }
        self.ready().await
    }

    /// Stops its processes where they stand (SIGSTOP, or the engine's freezer): connections stay
    /// open, new ones are accepted by the kernel, and nothing answers. It goes on when the guard is
    /// dropped, or at [`PauseGuard::resume`].
    ///
    /// # Errors
    ///
    /// [`BackendError::NotOurs`] for a given server.
    pub async fn pause(&self) -> Result<PauseGuard, BackendError> {
        match &self.shared.host {
            Host::External => return Err(self.not_ours("pause")),
            Host::Docker(container) => container.pause().await?,
            Host::Native(process) => process.pause(),
        }
        Ok(PauseGuard::new(Arc::clone(&self.shared)))
    }

    /// Whether it answers a PING or SELECT 1 right now.
    ///
    /// # Errors
    ///
    /// The client library's own error, or that of a deadline (1 to 2 s).
    pub async fn ping(&self) -> Result<(), Cause> {
        K::ping(self.url()).await
    }

    /// Waits until it answers, up to 30 s.
    ///
    /// # Errors
    ///
    /// [`BackendError::Exited`] if its process has ended, [`BackendError::NotReady`] at the deadline;
    /// both with its last log lines.
    pub async fn ready(&self) -> Result<(), BackendError> {
        self.ready_within(READY).await
    }

    async fn ready_within(&self, deadline: Duration) -> Result<(), BackendError> {
        let mut ended = false;
        let mut failure = None;
        let mut patience = Patience::new("an answer", deadline);
        let answered = loop {
            let look = async {
                // First the process: what answers could be another server on a port that ours did
                // not get.
                ended = !self.running().await;
                if ended {
                    return true;
                }
                match K::ping(self.url()).await {
                    Ok(()) => {
                        ended = !self.running().await;
                        true
                    }
                    Err(error) => {
                        failure = Some(error);
                        false
                    }
                }
            };
            match patience.look(look).await {
                Ok(false) => {}
                answered => break answered,
            }
        };
        if ended {
            return Err(BackendError::Exited {
                server: K::NAME,
                logs: self.logs().await,
            });
        }
        if answered.is_err() {
            return Err(BackendError::NotReady {
                server: K::NAME,
                address: self.shared.address.clone(),
                waited: deadline,
                logs: self.logs().await,
                source: failure,
            });
        }
        Ok(())
    }

    async fn running(&self) -> bool {
        match &self.shared.host {
            Host::External => true,
            // An engine that does not answer for a moment has not ended the server.
            Host::Docker(container) => container.running().await.unwrap_or(true),
            Host::Native(process) => process.running(),
        }
    }

    /// The last lines (40) that it logged; none for a given server.
    pub async fn logs(&self) -> Vec<String> {
        self.shared.logs().await
    }

    /// Ok if a command may do damage here.
    pub(crate) fn allowed(&self, action: &'static str) -> Result<(), BackendError> {
        if self.shared.destructive {
            return Ok(());
        }
        Err(BackendError::NotAllowed {
            action,
            server: K::NAME,
            address: self.shared.address.clone(),
        })
    }

    pub(super) fn host(&self) -> &Host {
        &self.shared.host
    }

    pub(super) fn not_ours(&self, action: &'static str) -> BackendError {
        BackendError::NotOurs {
            action,
            server: K::NAME,
            address: self.shared.address.clone(),
        }
    }
}

impl Shared {
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
