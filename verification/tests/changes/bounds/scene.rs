//! Two nodes, a Redis with or without a replica, and the lines that can be cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use session_layer::{Created, PartitionPolicy, Sessions};
use session_testkit::backends::{Backends, RedisServer, Sandbox};
use session_testkit::proxy::{Network, Peer, Toxic};
use session_testkit::wait;

use super::Redis::{self, OneServer, WithReplica};
use crate::changes::lost_invalidations::{node, store_on};
use crate::harness::{Failure, Outcome};
use crate::support::{OwnRedis, SOON, key, login, until_connected, until_hit};

pub(super) const REVOKER: usize = 0;
pub(super) const READER: usize = 1;

/// Two nodes on one Redis, and the lines between them and their servers.
pub(super) struct Scene<'a> {
    backends: &'a Backends,
    sandbox: &'a Sandbox,
    pub(super) revoker: Sessions,
    pub(super) reader: Sessions,
    pub(super) network: Network,
    redis: RedisServer,
    /// Takes over from it.
    replica: Option<RedisServer>,
    /// The revoker's removals are acknowledged and lost; the reader's as well, for it would end the
    /// copy itself as soon as it reads of it.
    revoker_loses: Arc<AtomicBool>,
    reader_loses: Arc<AtomicBool>,
}

impl<'a> Scene<'a> {
    pub(super) async fn start(
        backends: &'a Backends,
        sandbox: &'a Sandbox,
        policy: PartitionPolicy,
        redis: Redis,
    ) -> Result<Self, Failure> {
        let (redis, replica) = match redis {
            OneServer => (backends.redis().clone(), None),
            WithReplica => {
                let (master, replica) = pair(backends).await?;
                (master, Some(replica))
            }
        };
        let network = Network::start(2, redis.address(), backends.postgres().address()).await?;
        let (revoker_loses, reader_loses) = (Arc::default(), Arc::default());
        let node = async |number, loses| {
            let url = network.proxy(number, Peer::Postgres);
            let store = store_on(&url.url(sandbox.database_url()), sandbox).await?;
            let mut url = network.proxy(number, Peer::Redis).url(redis.url());
            if replica.is_some() && number == READER {
                url = url.replacen("redis://", &format!("redis://{WITHOUT_INFO}:secret@"), 1);
            }
            node(&url, store, sandbox, policy, loses)
        };
        Ok(Self {
            backends,
            sandbox,
            revoker: node(REVOKER, &revoker_loses).await?,
            reader: node(READER, &reader_loses).await?,
            network,
            redis,
            replica,
            revoker_loses,
            reader_loses,
        })
    }

    /// A session that the reader serves from Redis, all Redis there is.
    pub(super) async fn cached(&self) -> Result<Created, Failure> {
        until_connected(&self.revoker).await?;
        let alice = login(&self.revoker, "alice").await?;
        until_hit(&self.reader, &alice).await?;
        if let Some(replica) = &self.replica {
            wait::until("the copy on the replica", SOON, async || {
                there(replica, self.sandbox, &alice)
                    .await
                    .is_ok_and(|it| matches!(it, Some((COPY, _))))
            })
            .await?;
        }
        Ok(alice)
    }

    /// From now on removals do not reach the Redis that the reader will ask.
    pub(super) async fn lose_removals(&self) -> Outcome {
        self.reader_loses.store(true, Ordering::SeqCst);
        match &self.replica {
            // It lags behind: promoted, it takes nothing from its master any more.
            Some(replica) => replica.replica_of(None).await?,
            None => self.revoker_loses.store(true, Ordering::SeqCst),
        }
        Ok(())
    }

    /// The replica, if there is one, takes over. Only the reader is led there: the revoker would
    /// remove the copy, for it too reads the journal.
    pub(super) async fn fail_over(&self) -> Outcome {
        let Some(replica) = &self.replica else {
            return Ok(());
        };
        let line = self.network.proxy(READER, Peer::Redis);
        line.set_target(replica.address());
        drop(line.inject(Toxic::down().established()));
        self.redis.replica_of(Some(replica)).await?;
        let mut admin = replica.connect().await?;
        wait::until("the reader at the promoted server", SOON, async || {
            let clients: Result<String, _> =
                redis::cmd("CLIENT").arg("LIST").query_async(&mut admin).await;
            clients.is_ok_and(|clients| clients.contains(&format!("user={WITHOUT_INFO}")))
        })
        .await?;
        Ok(())
    }

    /// What the reader will find.
    pub(super) async fn there(&self, created: &Created) -> Result<Option<(u8, Duration)>, Failure> {
        let redis = self.replica.as_ref().unwrap_or(&self.redis);
        there(redis, self.sandbox, created).await
    }

    pub(super) async fn has_ended(&self, created: &Created) -> Result<bool, Failure> {
        let ended = format!(
            "SELECT revoked_at IS NOT NULL FROM {}.sessions WHERE id = '{}'",
            self.sandbox.schema(),
            created.session.id()
        );
        let mut person = self.backends.postgres().connect().await?;
        let ended = sqlx::query_scalar(sqlx::AssertSqlSafe(ended));
        Ok(ended.fetch_one(&mut person).await?)
    }

    pub(super) async fn run(&self, change: &str, of: &Created) -> Outcome {
        let change = change.replace("{}", self.sandbox.schema());
        let change = format!("{change} WHERE id = '{}'", of.session.id());
        sqlx::raw_sql(sqlx::AssertSqlSafe(change))
            .execute(&mut self.backends.postgres().connect().await?)
            .await?;
        Ok(())
    }
}

/// A Redis user.
const WITHOUT_INFO: &str = "poor";

/// A master and its replica, of the test's own.
async fn pair(backends: &Backends) -> Result<(RedisServer, RedisServer), Failure> {
    let master = OwnRedis::start(backends).await?.redis;
    let replica = OwnRedis::start(backends).await?.redis;
    replica.replica_of(Some(&master)).await?;
    for server in [&master, &replica] {
        let rights = ["SETUSER", WITHOUT_INFO, "on", ">secret", "~*", "+@all", "-info"];
        let mut redis = server.connect().await?;
        let () = redis::cmd("ACL").arg(&rights).query_async(&mut redis).await?;
    }
    // What a node knows of its server it asks once a second: by the time it connects, there is a
    // replica.
    let mut redis = master.connect().await?;
    wait::until("the replica at its master", SOON, async || {
        let info: Result<String, _> =
            redis::cmd("INFO").arg("replication").query_async(&mut redis).await;
        info.is_ok_and(|info| info.contains("connected_slaves:1"))
    })
    .await?;
    Ok((master, replica))
}

/// What a copy begins with; a lease begins with `L`, and a fence is a `T`.
pub(super) const COPY: u8 = b'V';

/// What the value under the session's key begins with, and how long it has left.
async fn there(
    redis: &RedisServer,
    sandbox: &Sandbox,
    created: &Created,
) -> Result<Option<(u8, Duration)>, Failure> {
    let key = key(sandbox, created);
    let (value, left): (Option<Vec<u8>>, i64) =
        redis::pipe().get(&key).pttl(&key).query_async(&mut redis.connect().await?).await?;
    let left = Duration::from_millis(left.try_into().unwrap_or_default());
    Ok(value.and_then(|value| Some((*value.first()?, left))))
}
