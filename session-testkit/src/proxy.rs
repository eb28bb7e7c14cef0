//! A TCP proxy with a stable port in front of a server, and toxics that heal when dropped.
//!
//! ```
//! use std::time::Duration;
//! use session_testkit::proxy::{Proxy, Toxic};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let proxy = Proxy::start("127.0.0.1:6379").await?;
//! let url = proxy.url("redis://127.0.0.1:6379/0"); // the URL for the code under test
//! {
//!     let slow = Toxic::latency(Duration::from_millis(50), Duration::from_millis(10));
//!     let _slow = proxy.inject(slow);
//!     // … every response takes 40 to 60 ms longer …
//! } // … and here it is as fast as before.
//! let down = proxy.inject(Toxic::down()); // all connections are closed, new ones too
//! let report = down.heal();
//! assert!(!report.touched_something(), "without a connection, a test would prove nothing");
//! # Ok(())
//! # }
//! ```
//!
//! A proxy needs the process and the runtime that started it. `toxic.rs` lists the toxics, and
//! `flow.rs` has their meaning for the bytes of a connection. A [`Network`] has a proxy per node
//! and server, which makes it possible to cut off one node alone.

mod active;
mod flow;
mod network;
mod random;
mod relay;
mod toxic;

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use self::active::{Active, End, Toxics};
pub use self::{
    active::{Report, ToxicGuard},
    network::{Network, Peer},
    toxic::Toxic,
};

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
    toxics: watch::Sender<Toxics>,
    connections: Mutex<Connections>,
    to_server: AtomicU64,
    to_client: AtomicU64,
}

#[derive(Debug, Default)]
struct Connections {
    /// The number of accepted connections, which is also the number of the next one.
    accepted: u64,
    open: BTreeSet<u64>,
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The traffic of a proxy since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// The connections that clients opened.
    pub accepted: u64,
    /// The connections that are open now.
    pub open: u64,
    /// The bytes that were sent to the server.
    pub to_server: u64,
    /// The bytes that were sent to clients.
    pub to_client: u64,
}

impl Proxy {
    /// Starts a proxy on a free port of the loopback in front of `target`, which need not be up.
    /// `target` is `host:port`, as [`Server::address`](crate::backends::Server::address) returns
    /// it.
    ///
    /// # Errors
    ///
    /// If no port can be bound.
    pub async fn start(target: impl Into<String>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?.to_string();
        let shared = Arc::new(Shared {
            target: watch::Sender::new(target.into()),
            toxics: watch::Sender::default(),
            connections: Mutex::default(),
            to_server: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, accepting })
    }

    /// Returns the address for clients, `host:port`, which never changes.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns a server's URL with this proxy's address.
    pub fn url(&self, server: &str) -> String {
        crate::url::with_address(server, &self.address)
    }

    /// Directs new connections to another server. Open ones stay.
    pub fn set_target(&self, target: impl Into<String>) {
        self.shared.target.send_replace(target.into());
    }

    /// Injects a toxic until the guard is dropped.
    pub fn inject(&self, toxic: Toxic) -> ToxicGuard {
        // The lock makes every connection either established or new.
        let connections = self.shared.connections();
        let active = Active::new(toxic, connections.accepted);
        self.shared.toxics.send_modify(|toxics| toxics.add(active.clone(), &connections));
        drop(connections);
        ToxicGuard { shared: Arc::clone(&self.shared), active }
    }

    /// Returns the traffic so far.
    pub fn traffic(&self) -> Traffic {
        let connections = self.shared.connections();
        Traffic {
            accepted: connections.accepted,
            open: u64::try_from(connections.open.len()).unwrap_or(u64::MAX),
            to_server: self.shared.to_server.load(Relaxed),
            to_client: self.shared.to_client.load(Relaxed),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The connections' tasks belong to this task.
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else {
                    // For example, there are no free file descriptors until a connection ends.
                    tokio::task::yield_now().await;
                    continue;
                };
                connections.spawn(connection(client, Open::new(Arc::clone(&shared))));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn connection(mut client: TcpStream, open: Open) {
    let (number, shared) = (open.number, &open.shared);
    let mut ending = shared.toxics.subscribe();
    let mut held = shared.toxics.subscribe();
    let mut server = None;
    let end = tokio::select! {
        // Checked first, so that a connection during `down` never reaches the server.
        biased;
        toxics = ending.wait_for(|toxics| toxics.end(number).is_some()) => {
            toxics.ok().and_then(|toxics| toxics.end(number))
        }
        end = async {
            held.wait_for(|toxics| !toxics.held(number)).await.ok()?;
            let target = shared.target.borrow().clone();
            // If the server is down, the connection is closed, as without a proxy.
            let server = server.insert(TcpStream::connect(target).await.ok()?);
            let _nodelay = (client.set_nodelay(true), server.set_nodelay(true));
            Some(relay::run(&mut client, server, number, shared).await)
        } => end,
    };
    if end == Some(End::Reset) {
        let _reset = client.set_zero_linger();
        let _reset = server.map(|server| server.set_zero_linger());
    }
}

/// An open connection, which is unregistered even if its task is aborted.
struct Open {
    number: u64,
    shared: Arc<Shared>,
}

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        let mut connections = shared.connections();
        let number = connections.accepted;
        connections.accepted += 1;
        connections.open.insert(number);
        drop(connections);
        Self { number, shared }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.connections().open.remove(&self.number);
    }
}
