//! The simulated Redis: a master, and in some worlds a replica that lags.
//!
//! Only what the protocol rests on: keys with expiry by the server's own clock, SET NX, compare-and-set,
//! UNLINK; who the server is (`run_id`, `master_replid`, role); connections that end with the process
//! and survive a demotion; a dump; a stream to the replica.

use std::collections::BTreeMap;

use session_layer::TokenDigest;
use session_layer::cache::Entry;

use crate::coverage::Event;
use crate::world::{Millis, State};

/// All servers, and which one the address leads to.
pub(crate) struct Redis {
    pub(crate) servers: Vec<Server>,
    /// Where new connections are led.
    pub(crate) address: usize,
    /// What run ids and replids were given out.
    ids: u64,
    /// How long the replica lags behind.
    pub(crate) lag: Millis,
}

/// One server.
#[derive(Default)]
pub(crate) struct Server {
    pub(crate) up: bool,
    /// Its process; connections end with it.
    process: u64,
    replid: u64,
    pub(crate) is_replica: bool,
    has_replica: bool,
    keys: BTreeMap<TokenDigest, Stored>,
    dump: BTreeMap<TokenDigest, Stored>,
    /// How far its clock was stepped.
    clock_ahead: i64,
    /// Writes on their way to the replica; a number that is raised when the stream is torn.
    stream: u64,
}

#[derive(Clone)]
struct Stored {
    value: Value,
    /// By the server's clock.
    until: i64,
}

/// What stands under a key.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Lease(u64),
    Fence,
    Copy {
        /// `None` for a mutant's.
        incarnation: Option<Incarnation>,
        /// No two copies are the same bytes.
        serial: u64,
        entry: Entry,
    },
}

impl Value {
    /// Are they the same bytes?
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Lease(a), Self::Lease(b)) => a == b,
            (Self::Fence, Self::Fence) => true,
            (Self::Copy { serial: a, .. }, Self::Copy { serial: b, .. }) => a == b,
            _ => false,
        }
    }
}

/// `run_id` with `master_replid`.
pub(crate) type Incarnation = (u64, u64);

/// What INFO says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) incarnation: Incarnation,
    pub(crate) is_master: bool,
    pub(crate) replicated: bool,
}

/// Where a connection leads: to one process of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) number: u64,
    server: usize,
    process: u64,
}

/// Why a command was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The connection is lost.
    Lost,
    /// READONLY.
    Demoted,
}

/// A command of one key.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    Set(Value),
    SetNx(Value),
    /// Replaces the first by the second.
    CompareAndSet(Value, Value),
    Unlink,
}

impl Redis {
    pub(crate) fn new(replicated: bool, lag: Millis) -> Self {
        let mut redis = Self {
            servers: Vec::new(),
            address: 0,
            ids: 0,
            lag,
        };
        for at in 0..=usize::from(replicated) {
            let server = Server {
                up: true,
                process: redis.new_id(),
                replid: redis.new_id(),
                is_replica: at > 0,
                has_replica: replicated,
                ..Server::default()
            };
            redis.servers.push(server);
        }
        if let [master, replica] = &mut *redis.servers {
            replica.replid = master.replid;
        }
        redis
    }

    pub(crate) fn new_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }
}

impl Server {
    fn clock(&self, now: Millis) -> i64 {
        now.cast_signed() + self.clock_ahead
    }

    fn get(&self, key: &TokenDigest, now: Millis) -> Option<&Value> {
        let stored = self.keys.get(key)?;
        (stored.until > self.clock(now)).then_some(&stored.value)
    }

    /// Does it; the new state of the key for the replica, if it was done.
    fn apply(
        &mut self,
        key: TokenDigest,
        command: &Command,
        lifetime: Millis,
        now: Millis,
    ) -> bool {
        let there = self.get(&key, now);
        let value = match command {
            Command::Unlink => {
                self.keys.remove(&key);
                return true;
            }
            Command::Set(value) => value,
            Command::SetNx(value) if there.is_none() => value,
            Command::CompareAndSet(old, new) if there.is_some_and(|there| there.is(old)) => new,
            Command::SetNx(_) | Command::CompareAndSet(..) => return false,
        };
        let stored = Stored {
            value: value.clone(),
            until: self.clock(now) + lifetime.cast_signed(),
        };
        self.keys.insert(key, stored);
        true
    }

    fn identity(&self) -> Identity {
        Identity {
            incarnation: (self.process, self.replid),
            is_master: !self.is_replica,
            replicated: self.has_replica,
        }
    }
}

impl State {
    /// Opens a connection to where the address leads, and asks who is there.
    pub(crate) fn connect(&mut self) -> Result<(Connection, Identity), Broken> {
        let number = self.redis.new_id();
        let at = self.redis.address;
        let server = &self.redis.servers[at];
        if !server.up {
            return Err(Broken::Lost);
        }
        let connection = Connection {
            number,
            server: at,
            process: server.process,
        };
        Ok((connection, server.identity()))
    }

    fn server(&mut self, to: Connection) -> Result<&mut Server, Broken> {
        let server = &mut self.redis.servers[to.server];
        if !server.up || server.process != to.process || self.cut_links.contains(&to.number) {
            self.coverage.saw(Event::LostLink);
            return Err(Broken::Lost);
        }
        Ok(server)
    }

    pub(crate) fn info(&mut self, over: Connection) -> Result<Identity, Broken> {
        self.server(over).map(|server| server.identity())
    }

    pub(crate) fn get(
        &mut self,
        over: Connection,
        key: &TokenDigest,
    ) -> Result<Option<Value>, Broken> {
        let now = self.now;
        let found = self.server(over)?.get(key, now).cloned();
        Ok(found)
    }

    /// A write. `Ok(false)`: what it asks for first was not so.
    pub(crate) fn write(
        &mut self,
        over: Connection,
        key: TokenDigest,
        command: &Command,
        lifetime: Millis,
    ) -> Result<bool, Broken> {
        let now = self.now;
        let server = self.server(over)?;
        if server.is_replica {
            return Err(Broken::Demoted);
        }
        let done = server.apply(key, command, lifetime, now);
        if done && self.redis.servers.len() > 1 {
            self.replicate(over.server, key);
        }
        Ok(done)
    }

    /// The key's new state reaches the replica later, and in the order of the writes.
    fn replicate(&mut self, from: usize, key: TokenDigest) {
        let stored = self.redis.servers[from].keys.get(&key).cloned();
        let stream = self.redis.servers[from].stream;
        let to = 1 - from;
        // One lag for the whole schedule keeps the order.
        let arrives = self.now + self.redis.lag;
        self.later(arrives, move |state| {
            let torn = state.redis.servers[from].stream != stream;
            let replica = &mut state.redis.servers[to];
            if torn || !replica.is_replica || !replica.up {
                return;
            }
            match stored {
                Some(stored) => replica.keys.insert(key, stored),
                None => replica.keys.remove(&key),
            };
        });
    }
}

/// What is done to the servers on purpose.
impl State {
    pub(crate) fn flush(&mut self) {
        let at = self.redis.address;
        self.redis.servers[at].keys.clear();
        self.coverage.saw(Event::Flush);
    }

    pub(crate) fn save(&mut self) {
        let at = self.redis.address;
        let server = &mut self.redis.servers[at];
        server.dump = server.keys.clone();
    }

    pub(crate) fn crash(&mut self) {
        let at = self.redis.address;
        let server = &mut self.redis.servers[at];
        server.up = false;
        server.stream += 1;
    }

    /// Another process under the same address, with nothing in it, or with its past.
    pub(crate) fn restart(&mut self, from_dump: bool) {
        let (process, replid) = (self.redis.new_id(), self.redis.new_id());
        for server in self.redis.servers.iter_mut().filter(|server| !server.up) {
            server.up = true;
            server.process = process;
            server.replid = replid;
            server.keys = if from_dump {
                server.dump.clone()
            } else {
                BTreeMap::new()
            };
        }
        self.coverage.saw(if from_dump {
            Event::RestartFromDump
        } else {
            Event::RestartEmpty
        });
    }

    /// The other server becomes the master, with what it has; the one that was is demoted, keeps what it
    /// has, and its connections.
    pub(crate) fn fail_over(&mut self) {
        let replid = self.redis.new_id();
        let old = self.redis.address;
        let new = 1 - old;
        if self.redis.servers.len() < 2 || !self.redis.servers[new].up {
            return;
        }
        let promoted = &mut self.redis.servers[new];
        promoted.is_replica = false;
        promoted.replid = replid;
        let demoted = &mut self.redis.servers[old];
        demoted.is_replica = true;
        demoted.stream += 1;
        self.redis.address = new;
        self.coverage.saw(if new == 0 {
            Event::Failback
        } else {
            Event::Failover
        });
    }

    /// The demoted one takes over all that the master has.
    pub(crate) fn resync(&mut self) {
        let master = self.redis.address;
        let Some(replica) = self.redis.servers.len().checked_sub(1 + master) else {
            return;
        };
        if replica == master {
            return;
        }
        let keys = self.redis.servers[master].keys.clone();
        let replid = self.redis.servers[master].replid;
        let replica = &mut self.redis.servers[replica];
        if replica.is_replica && replica.up {
            replica.keys = keys;
            replica.replid = replid;
        }
    }

    pub(crate) fn step_redis_clock(&mut self, by: i64) {
        for server in &mut self.redis.servers {
            server.clock_ahead += by;
        }
        self.coverage.saw(Event::ClockStep);
    }

    /// All connections of before are reset.
    pub(crate) fn cut_all_links(&mut self) {
        self.cut_links.extend(0..=self.redis.ids);
    }
}
