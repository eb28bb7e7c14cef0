//! A real Redis Cluster: three shards, whose slots move, and whose masters fail.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use ::redis::{FromRedisValue, aio::MultiplexedConnection, cmd};

use super::{Backend, Backends, error::BackendError, native, server::RedisServer};
use crate::wait;

/// The number of shards.
const SHARDS: u16 = 3;
/// The number of slots of every cluster.
const SLOTS: u16 = 16_384;
/// The time in milliseconds after which a silent node counts as down.
const NODE_TIMEOUT: &str = "1000";
/// The limit for the nodes to find each other, and for a failover.
const SOON: Duration = Duration::from_secs(60);
/// The limit of one MIGRATE in milliseconds, and of the keys that it moves.
const MIGRATE_MS: u32 = 5_000;
const MIGRATE_KEYS: u32 = 100;

/// Three masters, and a replica of each if asked for, as processes of this machine. Dropping it
/// ends them.
///
/// A shard without a master takes no other shard down (`cluster-require-full-coverage no`).
#[derive(Debug)]
pub struct Cluster {
    masters: Vec<RedisServer>,
    replicas: Vec<RedisServer>,
}

impl Cluster {
    /// Starts a cluster of three masters.
    ///
    /// # Errors
    /// [`BackendError`] if a server does not start.
    pub async fn start() -> Result<Self, BackendError> {
        Self::start_nodes(false).await
    }

    /// Starts a cluster of three masters with a replica each.
    ///
    /// # Errors
    /// [`BackendError`] if a server does not start.
    pub async fn start_with_replicas() -> Result<Self, BackendError> {
        Self::start_nodes(true).await
    }

    async fn start_nodes(has_replicas: bool) -> Result<Self, BackendError> {
        let masters = start_servers(SHARDS).await?;
        let replicas = start_servers(if has_replicas { SHARDS } else { 0 }).await?;
        let cluster = Self { masters, replicas };
        let mut epoch = 0;
        for server in cluster.servers() {
            epoch += 1;
            ask::<()>(server, &["CLUSTER", "SET-CONFIG-EPOCH", &epoch.to_string()]).await?;
        }
        for (master, shard) in cluster.masters.iter().zip(0..) {
            let slots = slots_of(shard);
            let (first, last) = (slots.start().to_string(), slots.end().to_string());
            ask::<()>(master, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await?;
        }
        let first = &cluster.masters[0];
        for server in cluster.servers().skip(1) {
            let bus = bus_port(server).await?;
            let (host, port) = host_and_port(server);
            ask::<()>(first, &["CLUSTER", "MEET", host, port, &bus]).await?;
        }
        let nodes = cluster.servers().count();
        cluster
            .until("the nodes to know each other", async |server| {
                let info: String = ask(server, &["CLUSTER", "INFO"]).await.unwrap_or_default();
                info.contains("cluster_state:ok")
                    && info.contains(&format!("cluster_known_nodes:{nodes}\r\n"))
            })
            .await?;
        for (replica, master) in cluster.replicas.iter().zip(&cluster.masters) {
            let id = id(master).await?;
            ask::<()>(replica, &["CLUSTER", "REPLICATE", &id]).await?;
        }
        for replica in &cluster.replicas {
            wait::until("a replica to catch up", SOON, async || {
                let info: String = ask(replica, &["INFO", "replication"]).await.unwrap_or_default();
                info.contains("master_link_status:up")
            })
            .await
            .map_err(BackendError::failed("start a cluster"))?;
        }
        Ok(cluster)
    }

    /// Returns the URL that names the masters.
    pub fn url(&self) -> String {
        let addresses: Vec<_> = self.masters.iter().map(RedisServer::address).collect();
        format!("redis+cluster://{}", addresses.join(","))
    }

    /// Returns the servers that were masters at the start.
    pub fn masters(&self) -> &[RedisServer] {
        &self.masters
    }

    /// Returns the replicas at the start, in the order of their masters.
    pub fn replicas(&self) -> &[RedisServer] {
        &self.replicas
    }

    /// Returns the slots of a shard (0, 1 or 2) at the start.
    pub fn slots(shard: u16) -> RangeInclusive<u16> {
        slots_of(shard)
    }

    /// Returns the slots of this master that have keys.
    ///
    /// # Errors
    /// [`BackendError`] if the server does not respond.
    pub async fn slots_with_keys(&self, of: &RedisServer) -> Result<Vec<u16>, BackendError> {
        let mut connection = of.connect().await?;
        let keys: Vec<String> = send(&mut connection, &["KEYS", "*"]).await?;
        let mut slots = BTreeSet::new();
        for key in keys {
            slots.insert(send(&mut connection, &["CLUSTER", "KEYSLOT", &key]).await?);
        }
        Ok(slots.into_iter().collect())
    }

    /// Moves slots with their keys from one master to another, as `redis-cli --cluster reshard`
    /// does. Returns the number of keys.
    ///
    /// # Errors
    /// [`BackendError`] if a server rejects it.
    pub async fn move_slots(
        &self,
        from: &RedisServer,
        to: &RedisServer,
        slots: impl IntoIterator<Item = u16>,
    ) -> Result<u64, BackendError> {
        let mut mover = self.mover(from, to).await?;
        let mut keys = 0;
        for slot in slots {
            mover.begin(slot).await?;
            keys += mover.move_keys(slot).await?;
            mover.end(slot).await?;
        }
        Ok(keys)
    }

    /// Returns the steps of a move of slots from one master to another.
    ///
    /// # Errors
    /// [`BackendError`] if a server does not respond.
    pub async fn mover(&self, from: &RedisServer, to: &RedisServer) -> Result<Mover, BackendError> {
        let others = self.masters.iter().filter(|it| it.address() != to.address());
        let others = others.filter(|it| it.address() != from.address());
        let mut connections = Vec::new();
        for other in others {
            // A node that is down learns of the owner from the others.
            connections.extend(other.connect().await.ok());
        }
        Ok(Mover {
            from_id: id(from).await?,
            to_id: id(to).await?,
            to_address: to.address().to_owned(),
            from: from.connect().await?,
            to: to.connect().await?,
            others: connections,
        })
    }

    /// Waits until every node that responds names another master of the slot than this one.
    ///
    /// # Errors
    /// [`BackendError`] if it takes too long.
    pub async fn until_master_is_not(
        &self,
        before: &RedisServer,
        slot: u16,
    ) -> Result<(), BackendError> {
        let (_, port) = host_and_port(before);
        self.until("another master", async |server| {
            let ranges: Result<Vec<Vec<::redis::Value>>, _> =
                ask(server, &["CLUSTER", "SLOTS"]).await;
            let Ok(ranges) = ranges else { return server.address() == before.address() };
            ranges.iter().any(|range| match &range[..] {
                [first, last, ::redis::Value::Array(master), ..] => {
                    let number = |value: &::redis::Value| u16::from_redis_value_ref(value).ok();
                    let is_in = number(first).is_some_and(|first| first <= slot)
                        && number(last).is_some_and(|last| slot <= last);
                    is_in && master.get(1).and_then(number).is_some_and(|it| it.to_string() != port)
                }
                _ => false,
            })
        })
        .await
    }

    fn servers(&self) -> impl Iterator<Item = &RedisServer> {
        self.masters.iter().chain(&self.replicas)
    }

    /// Waits until this holds for all servers.
    async fn until(
        &self,
        what: &'static str,
        holds: impl AsyncFn(&RedisServer) -> bool,
    ) -> Result<(), BackendError> {
        wait::until(what, SOON, async || {
            for server in self.servers() {
                if !holds(server).await {
                    return false;
                }
            }
            true
        })
        .await
        .map(drop)
        .map_err(BackendError::failed("wait for a cluster"))
    }
}

/// The steps of a move of slots between two masters.
#[derive(Debug)]
pub struct Mover {
    from_id: String,
    to_id: String,
    to_address: String,
    from: MultiplexedConnection,
    to: MultiplexedConnection,
    others: Vec<MultiplexedConnection>,
}

impl Mover {
    /// Marks a slot as migrating. From then on its missing keys are redirected (ASK).
    ///
    /// # Errors
    /// [`BackendError`] if a server rejects it.
    pub async fn begin(&mut self, slot: u16) -> Result<(), BackendError> {
        let slot = slot.to_string();
        let importing = ["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.from_id];
        send::<()>(&mut self.to, &importing).await?;
        let migrating = ["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.to_id];
        send(&mut self.from, &migrating).await
    }

    /// Moves all keys of a slot. Returns their number.
    ///
    /// # Errors
    /// [`BackendError`] if a server rejects it.
    pub async fn move_keys(&mut self, slot: u16) -> Result<u64, BackendError> {
        let (slot, count) = (slot.to_string(), MIGRATE_KEYS.to_string());
        let (host, port) = self.to_address.rsplit_once(':').unwrap_or_default();
        let limit = MIGRATE_MS.to_string();
        let mut moved = 0;
        loop {
            let list = ["CLUSTER", "GETKEYSINSLOT", &slot, &count];
            let keys: Vec<String> = send(&mut self.from, &list).await?;
            if keys.is_empty() {
                return Ok(moved);
            }
            let mut words = vec!["MIGRATE", host, port, "", "0", &limit, "REPLACE", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            // NOKEY: the keys have expired meanwhile.
            send::<String>(&mut self.from, &words).await?;
            moved += keys.len() as u64;
        }
    }

    /// Tells all masters the new owner of a slot, the new one first.
    ///
    /// # Errors
    /// [`BackendError`] if a server rejects it.
    pub async fn end(&mut self, slot: u16) -> Result<(), BackendError> {
        let slot = slot.to_string();
        let owner = ["CLUSTER", "SETSLOT", &slot, "NODE", &self.to_id];
        for server in [&mut self.to, &mut self.from].into_iter().chain(&mut self.others) {
            send::<()>(server, &owner).await?;
        }
        Ok(())
    }
}

async fn start_servers(count: u16) -> Result<Vec<RedisServer>, BackendError> {
    let starting = (0..count).map(|_| async {
        // The default port of the bus may be that of an outgoing connection.
        let bus = native::free_port()?.to_string();
        let arguments = [
            ["--cluster-enabled", "yes"],
            ["--cluster-port", &bus],
            ["--cluster-node-timeout", NODE_TIMEOUT],
            ["--cluster-require-full-coverage", "no"],
        ];
        let builder = Backends::builder().own().backend(Backend::Native);
        builder.redis_args(arguments.concat()).start_redis().await
    });
    futures_util::future::try_join_all(starting).await
}

/// Returns the slots of a shard at the start.
fn slots_of(shard: u16) -> RangeInclusive<u16> {
    let first = |shard: u16| SLOTS / SHARDS * shard;
    let last = if shard + 1 == SHARDS { SLOTS } else { first(shard + 1) } - 1;
    first(shard)..=last
}

fn host_and_port(server: &RedisServer) -> (&str, &str) {
    server.address().rsplit_once(':').unwrap_or_default()
}

async fn id(server: &RedisServer) -> Result<String, BackendError> {
    ask(server, &["CLUSTER", "MYID"]).await
}

async fn bus_port(server: &RedisServer) -> Result<String, BackendError> {
    let pair: Vec<String> = ask(server, &["CONFIG", "GET", "cluster-port"]).await?;
    Ok(pair.into_iter().nth(1).unwrap_or_default())
}

async fn ask<T: FromRedisValue>(server: &RedisServer, words: &[&str]) -> Result<T, BackendError> {
    send(&mut server.connect().await?, words).await
}

async fn send<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    words: &[&str],
) -> Result<T, BackendError> {
    let mut command = cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(connection).await.map_err(BackendError::failed("manage a cluster"))
}
