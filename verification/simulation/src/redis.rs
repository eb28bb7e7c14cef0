//! The simulated Redis: a master, and in some schedules a replica that lags.
//!
//! It has keys that expire by the server's clock, SET NX, compare-and-set and UNLINK. It reports
//! `run_id`, `master_replid` and role. Connections end with the process and survive a demotion.

use std::collections::BTreeMap;

use session_layer::TokenDigest;
use session_layer::cache::Entry;

use crate::coverage::Event;
use crate::world::{Millis, State};

/// All servers.
#[derive(Default)]
pub(crate) struct Redis {
    pub(crate) servers: Vec<Server>,
    /// The server of new connections.
    pub(crate) address: usize,
    /// The last ID that was used.
    ids: u64,
    lag: Millis,
}

/// One server.
#[derive(Default)]
pub(crate) struct Server {
    pub(crate) up: bool,
    /// Its run ID. Connections end with it.
    process: u64,
    replid: u64,
    pub(crate) is_replica: bool,
    has_replica: bool,
    keys: BTreeMap<TokenDigest, Stored>,
    dump: BTreeMap<TokenDigest, Stored>,
    /// By how much its clock was stepped.
    clock_ahead: i64,
    /// The number of the stream to the replica. A new one loses the writes of the old one.
    stream: u64,
}

#[derive(Clone)]
struct Stored {
    value: Value,
    /// When it expires, by the server's clock.
    until: i64,
}

/// The value under a key.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Lease(u64),
    Fence,
    /// Two entries with different serials are different bytes. Only a mutant omits the incarnation.
    Entry {
        incarnation: Option<Incarnation>,
        serial: u64,
        entry: Entry,
    },
}

impl Value {
    /// Returns whether two values are the same bytes.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Lease(a), Self::Lease(b)) => a == b,
            (Self::Fence, Self::Fence) => true,
            (Self::Entry { serial: a, .. }, Self::Entry { serial: b, .. }) => a == b,
            _ => false,
        }
    }
}

/// `run_id` with `master_replid`.
pub(crate) type Incarnation = (u64, u64);

/// The reply to INFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) incarnation: Incarnation,
    pub(crate) is_master: bool,
    pub(crate) replicated: bool,
}

/// A connection to one process of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) number: u64,
    server: usize,
    process: u64,
}

/// Why a command was not executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The connection is lost.
    Lost,
    /// READONLY.
    Demoted,
}

/// A command on one key.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    Set(Value),
    SetNx(Value),
    /// Replaces the first by the second.
    CompareAndSet(Value, Value),
    Unlink,
}

impl Redis {
    /// Returns a server, with a replica if that has a lag.
    pub(crate) fn new(replica: Option<Millis>) -> Self {
        let replicated = replica.is_some();
        let lag = replica.unwrap_or(0);
        let mut redis = Self { lag, ..Self::default() };
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

    /// Executes a command. Returns whether its condition was met.
    fn apply(&mut self, key: TokenDigest, command: &Command, ttl: Millis, now: Millis) -> bool {
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
        let stored = Stored { value: value.clone(), until: self.clock(now) + ttl.cast_signed() };
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
    /// Opens a connection, and returns what INFO reports.
    pub(crate) fn connect(&mut self) -> Result<(Connection, Identity), Broken> {
        let number = self.redis.new_id();
        let at = self.redis.address;
        let server = &self.redis.servers[at];
        if !server.up {
            return Err(Broken::Lost);
        }
        let connection = Connection { number, server: at, process: server.process };
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
        Ok(self.server(over)?.get(key, now).cloned())
    }

    /// Writes a value. Returns whether the command's condition was met.
    pub(crate) fn write(
        &mut self,
        over: Connection,
        key: TokenDigest,
        command: &Command,
        ttl: Millis,
    ) -> Result<bool, Broken> {
        let now = self.now;
        let server = self.server(over)?;
        if server.is_replica {
            return Err(Broken::Demoted);
        }
        let done = server.apply(key, command, ttl, now);
        if done && self.redis.servers.len() > 1 {
            self.replicate(over.server, key);
        }
        Ok(done)
    }

    /// Sends the key's new value to the replica. The constant lag keeps the order of writes.
    fn replicate(&mut self, from: usize, key: TokenDigest) {
        let stored = self.redis.servers[from].keys.get(&key).cloned();
        let stream = self.redis.servers[from].stream;
        let to = 1 - from;
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

/// Faults.
impl State {
    fn master(&mut self) -> &mut Server {
        &mut self.redis.servers[self.redis.address]
    }

    pub(crate) fn flush(&mut self) {
        self.master().keys.clear();
        self.coverage.saw(Event::Flush);
    }

    pub(crate) fn save(&mut self) {
        let server = self.master();
        server.dump = server.keys.clone();
    }

    pub(crate) fn crash(&mut self) {
        let server = self.master();
        server.up = false;
        server.stream += 1;
    }

    /// Starts another process under the same address, empty or with the dump.
    pub(crate) fn restart(&mut self, from_dump: bool) {
        let (process, replid) = (self.redis.new_id(), self.redis.new_id());
        for server in self.redis.servers.iter_mut().filter(|server| !server.up) {
            server.up = true;
            server.process = process;
            server.replid = replid;
            server.keys = if from_dump { server.dump.clone() } else { BTreeMap::new() };
        }
        self.coverage.saw(if from_dump { Event::RestartFromDump } else { Event::RestartEmpty });
    }

    /// Promotes the replica, and demotes the master. Both keep their keys and connections.
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
        self.coverage.saw(if new == 0 { Event::Failback } else { Event::Failover });
    }

    /// Copies the keys of the master to the demoted server.
    pub(crate) fn resync(&mut self) {
        let master = self.redis.address;
        if self.redis.servers.len() < 2 {
            return;
        }
        let Server { keys, replid, .. } = &self.redis.servers[master];
        let (keys, replid) = (keys.clone(), *replid);
        let replica = &mut self.redis.servers[1 - master];
        if replica.is_replica && replica.up {
            (replica.keys, replica.replid) = (keys, replid);
        }
    }

    pub(crate) fn step_redis_clock(&mut self, by: i64) {
        for server in &mut self.redis.servers {
            server.clock_ahead += by;
        }
        self.coverage.saw(Event::ClockStep);
    }

    /// Resets all open connections.
    pub(crate) fn cut_all_links(&mut self) {
        self.cut_links.extend(0..=self.redis.ids);
    }
}
