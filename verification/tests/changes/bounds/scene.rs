//! Two nodes, a Redis with or without a replica, and the lines that can be cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use session_layer::{Created, PartitionPolicy, Sessions};
use session_testkit::backends::RedisServer;
use session_testkit::proxy::{Network, Peer, Toxic};
use session_testkit::wait;
use sqlx::AssertSqlSafe;

use super::Redis::{self, OneServer, WithReplica};
use crate::changes::lost_invalidations::{node, patient_store};
use crate::harness::{Failure, Outcome};
use crate::support::{SOON, Servers, login, until_connected, until_hit};

pub(super) const REVOKER: usize = 0;
pub(super) const READER: usize = 1;

/// The user of Redis that may not execute INFO.
const WITHOUT_INFO: &str = "poor";

/// The first byte of an entry. A lease begins with `L`, and a fence is a `T`.
pub(super) const ENTRY: u8 = b'V';

/// Two nodes on one Redis, and the lines between them and their servers.
pub(super) struct Scene {
    pub(super) servers: Servers,
    pub(super) revoker: Sessions,
    pub(super) reader: Sessions,
    pub(super) network: Network,
    /// The replica that takes over.
    replica: Option<RedisServer>,
    /// Whether removals are acknowledged and lost. The reader's are lost as well, because it
    /// removes the entry when it reads of the change.
    revoker_loses: Arc<AtomicBool>,
    reader_loses: Arc<AtomicBool>,
}

impl Scene {
    pub(super) async fn start(policy: PartitionPolicy, redis: Redis) -> Result<Self, Failure> {
        let (servers, replica) = match redis {
            OneServer => (Servers::shared().await?, None),
            WithReplica => {
                let servers = Servers::own_redis().await?;
                let replica = replica_of(&servers.redis).await?;
                (servers, Some(replica))
            }
        };
        let addresses = (servers.redis.address(), servers.postgres().address());
        let network = Network::start(2, addresses.0, addresses.1).await?;
        let (revoker_loses, reader_loses) = (Arc::default(), Arc::default());
        let node = async |number, loses| {
            let url = network.proxy(number, Peer::Postgres).url(servers.database_url());
            let store = patient_store(&url, &servers).await?;
            let mut url = network.proxy(number, Peer::Redis).url(servers.redis.url());
            if replica.is_some() && number == READER {
                url = url.replacen("redis://", &format!("redis://{WITHOUT_INFO}:secret@"), 1);
            }
            node(&url, store, &servers.sandbox, policy, loses)
        };
        let (revoker, reader) =
            (node(REVOKER, &revoker_loses).await?, node(READER, &reader_loses).await?);
        Ok(Self { servers, revoker, reader, network, replica, revoker_loses, reader_loses })
    }

    /// Creates a session that the reader serves from Redis. The replica has its entry too.
    pub(super) async fn cached(&self) -> Result<Created, Failure> {
        until_connected(&self.revoker).await?;
        let alice = login(&self.revoker, "alice").await?;
        until_hit(&self.reader, &alice).await?;
        wait::until("the entry on the replica", SOON, async || {
            self.there(&alice).await.is_ok_and(|it| matches!(it, Some((ENTRY, _))))
        })
        .await?;
        Ok(alice)
    }

    /// From now on, removals do not reach the Redis that the reader will query.
    pub(super) async fn lose_removals(&self) -> Outcome {
        self.reader_loses.store(true, Ordering::SeqCst);
        match &self.replica {
            // A promoted replica receives nothing from its master.
            Some(replica) => replica.replica_of(None).await?,
            None => self.revoker_loses.store(true, Ordering::SeqCst),
        }
        Ok(())
    }

    /// Directs the reader to the replica, if there is one. The revoker stays, because it would
    /// remove the entry when it reads the journal.
    pub(super) async fn fail_over(&self) -> Outcome {
        let Some(replica) = &self.replica else {
            return Ok(());
        };
        let line = self.network.proxy(READER, Peer::Redis);
        line.set_target(replica.address());
        drop(line.inject(Toxic::down().established()));
        self.servers.redis.replica_of(Some(replica)).await?;
        let mut admin = replica.connect().await?;
        wait::until("the reader at the promoted server", SOON, async || {
            let clients: Result<String, _> =
                redis::cmd("CLIENT").arg("LIST").query_async(&mut admin).await;
            clients.is_ok_and(|clients| clients.contains(&format!("user={WITHOUT_INFO}")))
        })
        .await?;
        Ok(())
    }

    /// Returns the first byte and the remaining TTL of the value that the reader will find.
    pub(super) async fn there(&self, created: &Created) -> Result<Option<(u8, Duration)>, Failure> {
        let redis = self.replica.as_ref().unwrap_or(&self.servers.redis);
        let key = self.servers.key(created);
        let (value, left): (Option<Vec<u8>>, i64) =
            redis::pipe().get(&key).pttl(&key).query_async(&mut redis.connect().await?).await?;
        let left = Duration::from_millis(left.try_into().unwrap_or_default());
        Ok(value.and_then(|value| Some((*value.first()?, left))))
    }

    pub(super) async fn has_ended(&self, created: &Created) -> Result<bool, Failure> {
        let id = created.session.id();
        let ended = format!("SELECT revoked_at IS NOT NULL FROM sessions WHERE id = '{id}'");
        let ended = sqlx::query_scalar(AssertSqlSafe(ended));
        Ok(ended.fetch_one(&mut self.servers.operator().await?).await?)
    }
}

/// Starts a replica, with the user that may not execute INFO on both servers.
async fn replica_of(master: &RedisServer) -> Result<RedisServer, Failure> {
    let replica = Servers::own_redis().await?.redis;
    replica.replica_of(Some(master)).await?;
    for server in [master, &replica] {
        let rights = ["SETUSER", WITHOUT_INFO, "on", ">secret", "~*", "+@all", "-info"];
        let mut redis = server.connect().await?;
        let () = redis::cmd("ACL").arg(&rights).query_async(&mut redis).await?;
    }
    // A node queries its server's role once a second. The replica exists before it connects.
    let mut redis = master.connect().await?;
    wait::until("the replica at its master", SOON, async || {
        let info: Result<String, _> =
            redis::cmd("INFO").arg("replication").query_async(&mut redis).await;
        info.is_ok_and(|info| info.contains("connected_slaves:1"))
    })
    .await?;
    Ok(replica)
}
