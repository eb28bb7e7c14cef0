//! A TCP proxy with a stable port in front of a server, and faults that heal when dropped.
//!
//! ```
//! use std::time::Duration;
//! use session_testkit::proxy::Proxy;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let proxy = Proxy::start("127.0.0.1:6379").await?;
//! let url = proxy.url("redis://127.0.0.1:6379/0"); // give this one to the code under test
//! {
//!     let _slow = proxy.latency(Duration::from_millis(50), Duration::from_millis(10));
//!     // … every answer takes 40 to 60 ms longer …
//! } // … and here it is as quick as before.
//! let cut = proxy.cut(); // all connections closed, new ones too
//! drop(cut);
//! # Ok(())
//! # }
//! ```
//!
//! It lives in the process and on the runtime that started it. What a fault does to one connection
//! is in `relay.rs`; which faults there are now, in `fault.rs`: a new fault is a variant there.

mod fault;
mod relay;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use self::fault::{Fault, Faults, Scope};

/// A proxy in front of one server. Dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Proxy {
    address: String,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    target: watch::Sender<String>,
    faults: watch::Sender<Faults>,
    /// Also the number of the next connection.
    accepted: AtomicU64,
    open: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
}

/// What went through a proxy since it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Connections that clients opened.
    pub accepted: u64,
    /// Those that are open now.
    pub open: u64,
    /// Bytes passed on to the server.
    pub to_server: u64,
    /// Bytes passed on to clients.
    pub to_client: u64,
}

impl Proxy {
    /// Starts a proxy on a free port of the loopback, in front of `target` (`host:port`, as
    /// [`Server::address`](crate::backends::Server::address) says it), which need not be up.
    ///
    /// # Errors
    ///
    /// If no port can be bound.
    pub async fn start(target: impl Into<String>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?.to_string();
        let shared = Arc::new(Shared {
            target: watch::Sender::new(target.into()),
            faults: watch::Sender::new(Faults::default()),
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            to_server: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            accepting,
        })
    }

    /// Where clients connect, `host:port`; the same for its whole life.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A server's URL, led through this proxy.
    #[must_use]
    pub fn url(&self, server: &str) -> String {
        crate::url::with_address(server, &self.address)
    }

    /// Sends connections that are opened from now on to another server; open ones stay.
    pub fn set_target(&self, target: impl Into<String>) {
        self.shared.target.send_replace(target.into());
    }

    /// Every answer comes later by `delay`, give or take `jitter`. Bytes keep their order and may
    /// overlap in flight, as on a long line: the rate is not limited. Of several the delays add up.
    pub fn latency(&self, delay: Duration, jitter: Duration) -> FaultGuard {
        self.inject(Scope::All, Fault::Latency { delay, jitter })
    }

    /// Closes all connections, and new ones as soon as they are accepted.
    pub fn cut(&self) -> FaultGuard {
        let cut = self.inject(Scope::All, Fault::Cut);
        // However soon the guard is dropped: what is open now is closed.
        self.close_established();
        cut
    }

    /// No byte moves, in either direction, and no connection is closed; new ones are accepted and
    /// get no answer. What was held is delivered at the end.
    pub fn hang(&self) -> FaultGuard {
        self.inject(Scope::All, Fault::Hang)
    }

    /// [`hang`](Self::hang) for the connections that are open now, while new ones work: what a
    /// firewall that lost its state does.
    pub fn hang_established(&self) -> FaultGuard {
        self.inject(self.established(), Fault::Hang)
    }

    /// Closes the connections that are open now, once; new ones work.
    pub fn close_established(&self) {
        drop(self.inject(self.established(), Fault::Cut));
    }

    /// What went through so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        Traffic {
            accepted: self.shared.accepted.load(Relaxed),
            open: self.shared.open.load(Relaxed),
            to_server: self.shared.to_server.load(Relaxed),
            to_client: self.shared.to_client.load(Relaxed),
        }
    }

    fn established(&self) -> Scope {
        Scope::Before(self.shared.accepted.load(Relaxed))
    }

    fn inject(&self, scope: Scope, fault: Fault) -> FaultGuard {
        let mut id = 0;
        self.shared
            .faults
            .send_modify(|faults| id = faults.add(scope, fault));
        FaultGuard {
            shared: Arc::clone(&self.shared),
            id,
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The connections' tasks belong to this one.
        self.accepting.abort();
    }
}

/// A fault, until it is dropped.
#[derive(Debug)]
#[must_use = "the fault heals as soon as the guard is dropped"]
pub struct FaultGuard {
    shared: Arc<Shared>,
    id: u64,
}

impl FaultGuard {
    /// The same as dropping it, but says so.
    pub fn heal(self) {}
}

impl Drop for FaultGuard {
    fn drop(&mut self) {
        self.shared
            .faults
            .send_modify(|faults| faults.remove(self.id));
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else {
                    // Out of file descriptors, say: let some connections end.
                    tokio::task::yield_now().await;
                    continue;
                };
                // Its number is taken here, so that "established" has no gap.
                let number = shared.accepted.fetch_add(1, Relaxed);
                connections.spawn(connection(client, number, Arc::clone(&shared)));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn connection(client: TcpStream, number: u64, shared: Arc<Shared>) {
    let _open = Open::count(&shared.open);
    let mut faults = shared.faults.subscribe();
    let mut cut = shared.faults.subscribe();
    tokio::select! {
        // Looked at first, so that a connection made during a cut never reaches the server.
        biased;
        _ = cut.wait_for(|faults| faults.cut(number)) => {}
        () = async {
            let Ok(_) = faults.wait_for(|faults| !faults.hung(number)).await else { return };
            let target = shared.target.borrow().clone();
            // A server that is down looks as it would without us: the connection is closed.
            let Ok(server) = TcpStream::connect(target).await else { return };
            let _nodelay = (client.set_nodelay(true), server.set_nodelay(true));
            relay::run(client, server, number, &shared).await;
        } => {}
    }
}

/// Counts a connection as open while it lives, also if its task is aborted.
struct Open<'a>(&'a AtomicU64);

impl<'a> Open<'a> {
    fn count(open: &'a AtomicU64) -> Self {
        open.fetch_add(1, Relaxed);
        Self(open)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
