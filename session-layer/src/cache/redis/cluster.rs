//! A Redis Cluster: its shards, and the map from slots to shards.
//!
//! Each shard is a Redis of its own, with its own links and its own incarnation. No command is sent
//! to two shards. A look-up that is redirected is a miss, and the map is corrected.
//! docs/protocol.md gives the reasons.
//!
//! One task reads the map: after a redirection, while a shard has no usable link, and every
//! [`REFRESH_EVERY`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::RedisError;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connect::{Address, Connector, SUPERVISOR_TIMEOUT};
use super::errors::timed_out;
use super::links::{Phase, closed};
use super::shard::{Shard, ShardSettings};
use super::slots::{SLOTS, SlotMap, slot_of};
use crate::model::error::{CacheError, CacheErrorKind};

/// The interval at which the map is read while all is well.
const REFRESH_EVERY: Duration = Duration::from_secs(5);
/// The interval while a shard has no usable link.
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// The shortest time between two reads. A slot that moves causes many redirections.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// The limit of keys that are tried to find one for each shard. A shard with a single slot gets one
/// of 16,384.
const MOST_KEYS: u32 = 200_000;
/// A slot without a shard.
const NO_SHARD: u16 = u16::MAX;

/// The shards of a cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    connector: Connector,
    settings: ShardSettings,
    view: watch::Sender<View>,
    /// Wakes the task that reads the map.
    redirected: Notify,
    stop: CancellationToken,
}

/// The map, as this node knows it.
#[derive(Debug)]
struct View {
    /// Whether there is a map.
    phase: Phase,
    shards: Vec<Arc<Shard>>,
    /// The index of the shard of each slot.
    owners: Box<[u16]>,
}

impl Cluster {
    /// Starts the task that reads the map. Must be called within a runtime.
    pub(super) fn open(connector: Connector, settings: ShardSettings) -> Arc<Self> {
        let view = View {
            phase: Phase::Connecting,
            shards: Vec::new(),
            owners: vec![NO_SHARD; usize::from(SLOTS)].into(),
        };
        let cluster = Arc::new(Self {
            connector,
            settings,
            view: watch::Sender::new(view),
            redirected: Notify::new(),
            stop: CancellationToken::new(),
        });
        tokio::spawn(Arc::clone(&cluster).keep_map());
        cluster
    }

    /// Returns a guard that ends the task, which otherwise keeps the shards forever.
    pub(super) fn stop_on_drop(&self) -> DropGuard {
        self.stop.clone().drop_guard()
    }

    pub(super) fn shards(&self) -> Vec<Arc<Shard>> {
        self.view.borrow().shards.clone()
    }

    /// Returns every shard with a key that it has. `key` makes keys from numbers.
    pub(super) fn with_keys(
        &self,
        key: impl Fn(u32) -> String,
    ) -> Result<Vec<(Arc<Shard>, String)>, CacheError> {
        let view = self.view.borrow();
        match &view.phase {
            Phase::Up => {}
            Phase::Connecting => return Err(timed_out()),
            Phase::Down(why) => return Err(why.clone()),
        }
        // A shard that has lost its last slot has no key.
        let with_slots: HashSet<_> = view.owners.iter().map(|owner| usize::from(*owner)).collect();
        let with_slots = (0..view.shards.len()).filter(|shard| with_slots.contains(shard)).count();
        let mut keys: Vec<Option<String>> = vec![None; view.shards.len()];
        for key in (0..MOST_KEYS).map(key) {
            let owner = view.owners[usize::from(slot_of(key.as_bytes()))];
            if let Some(found @ None) = keys.get_mut(usize::from(owner)) {
                *found = Some(key);
            }
            if keys.iter().flatten().count() == with_slots {
                break;
            }
        }
        let with_keys = view.shards.iter().cloned().zip(keys);
        Ok(with_keys.filter_map(|(shard, key)| Some((shard, key?))).collect())
    }

    /// Returns whether the links to some shard lead to one server.
    pub(super) fn is_settled(&self) -> bool {
        self.view.borrow().shards.iter().any(|shard| shard.links.settled().is_some())
    }

    /// Returns the shard of a key. Waits while the first map is being read.
    pub(super) async fn shard_of(
        &self,
        key: &[u8],
        deadline: Instant,
    ) -> Result<Arc<Shard>, CacheError> {
        let slot = slot_of(key);
        if let Some(found) = self.view.borrow().owner(slot) {
            return found;
        }
        let mut view = self.view.subscribe();
        let known = view.wait_for(|view| !matches!(view.phase, Phase::Connecting));
        match timeout_at(deadline, known).await {
            Ok(Ok(view)) => view.owner(slot).unwrap_or_else(|| Err(closed())),
            Ok(Err(_)) => Err(closed()),
            Err(_elapsed) => Err(timed_out()),
        }
    }

    /// Corrects the map after a redirection. Returns whether the error is one.
    pub(super) fn redirects(&self, error: &RedisError) -> bool {
        match error.code() {
            Some("MOVED") => {}
            Some("ASK" | "TRYAGAIN") => return true,
            _ => return false,
        }
        if let Some((address, slot)) = error.redirect_node() {
            let moved_to = Address::tcp(address);
            self.view.send_if_modified(|view| view.move_slot(slot, &moved_to));
        }
        self.redirected.notify_one();
        true
    }

    /// Explains an error of a shard. If other shards can be used, it concerns only a part of the
    /// cache.
    pub(super) fn explain(&self, shard: &Arc<Shard>, error: CacheError) -> CacheError {
        let is_other = |other: &&Arc<Shard>| !Arc::ptr_eq(other, shard);
        let is_part = !shard.is_usable()
            && self.shards().iter().filter(is_other).any(|other| other.is_usable());
        let kind = if is_part { CacheErrorKind::PartUnavailable } else { error.kind() };
        let message = match shard.address() {
            Some(address) => format!("the shard {address} of the cluster: {error}"),
            None => error.to_string(),
        };
        CacheError::new(kind, message).with_source(error)
    }

    /// Closes the links of all shards.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        let mut shards = Vec::new();
        self.view.send_modify(|view| {
            shards = std::mem::take(&mut view.shards);
            view.owners.fill(NO_SHARD);
            view.phase = Phase::Down(closed());
        });
        join_all(shards.iter().map(|shard| shard.links.close())).await;
    }

    async fn keep_map(self: Arc<Self>) {
        loop {
            let began = Instant::now();
            tokio::select! {
                () = self.refresh() => {}
                () = self.stop.cancelled() => return,
            }
            tokio::select! {
                () = self.due(began) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Waits until the map is to be read again.
    async fn due(&self, began: Instant) {
        loop {
            tokio::select! {
                () = self.redirected.notified() => break,
                () = sleep(RETRY_EVERY) => {
                    let shards = self.shards();
                    shards.iter().for_each(|shard| shard.log_state());
                    let all_well = !shards.is_empty() && shards.iter().all(|it| it.is_usable());
                    if !all_well || began.elapsed() >= REFRESH_EVERY {
                        return;
                    }
                }
            }
        }
        sleep_until(began + SHORTEST_PAUSE).await;
    }

    /// Reads the map from all shards, and from the nodes of the URL if none replies.
    async fn refresh(&self) {
        let shards = self.shards();
        let reports = join_all(shards.iter().map(|shard| shard.report_slots())).await;
        let reports: Vec<SlotMap> = reports.into_iter().flatten().collect();
        let outcome = match SlotMap::most_reported(&reports) {
            Some(map) => self.apply(map),
            None => match self.connector.find_slots(SUPERVISOR_TIMEOUT).await {
                Ok(map) => self.apply(&map),
                Err(error) => Err(error.into()),
            },
        };
        if let Err(error) = outcome {
            self.view.send_if_modified(|view| {
                // With shards, their own links show whether they can be used.
                let is_news = view.shards.is_empty();
                if is_news {
                    view.phase = Phase::Down(error);
                }
                is_news
            });
        }
    }

    /// Opens links to new shards, and drops those that have no slots any more.
    fn apply(&self, map: &SlotMap) -> Result<(), CacheError> {
        let known = self.shards();
        let mut shards = Vec::new();
        for master in map.masters() {
            let same = known.iter().find(|shard| shard.address() == Some(master));
            shards.push(match same {
                Some(shard) => Arc::clone(shard),
                None => {
                    tracing::debug!(shard = %master, "the cluster has a new shard");
                    let connector = self.connector.to_node(master.clone());
                    Shard::of_cluster(connector, self.settings.clone(), master.clone()).map_err(
                        |error| {
                            CacheError::new(CacheErrorKind::Unreachable, error.to_string())
                                .with_source(error)
                        },
                    )?
                }
            });
        }
        self.view.send_if_modified(|view| {
            if self.stop.is_cancelled() {
                return false;
            }
            view.owners.fill(NO_SHARD);
            view.phase = Phase::Up;
            view.shards = shards;
            for range in map.ranges() {
                let owner = view.index_of(&range.master);
                let slots = usize::from(range.first)..=usize::from(range.last);
                view.owners[slots].fill(owner);
            }
            true
        });
        Ok(())
    }
}

impl View {
    /// Returns the shard of a slot. `None`: the first map is being read.
    fn owner(&self, slot: u16) -> Option<Result<Arc<Shard>, CacheError>> {
        match &self.phase {
            Phase::Connecting => None,
            Phase::Down(why) => Some(Err(why.clone())),
            Phase::Up => {
                let owner = self.owners.get(usize::from(slot));
                let shard = owner.and_then(|owner| self.shards.get(usize::from(*owner)));
                Some(shard.cloned().ok_or_else(not_served))
            }
        }
    }

    fn index_of(&self, address: &Address) -> u16 {
        let at = self.shards.iter().position(|shard| shard.address() == Some(address));
        at.and_then(|at| u16::try_from(at).ok()).unwrap_or(NO_SHARD)
    }

    /// Gives a slot to the shard at this address. Returns whether the map has changed.
    fn move_slot(&mut self, slot: u16, to: &Address) -> bool {
        let owner = self.index_of(to);
        match self.owners.get_mut(usize::from(slot)) {
            Some(now) if owner != NO_SHARD && *now != owner => {
                *now = owner;
                true
            }
            _ => false,
        }
    }
}

fn not_served() -> CacheError {
    CacheError::new(
        CacheErrorKind::PartUnavailable,
        "no shard of the cluster serves a slot: restore the shard, or give its slots to another \
         (CLUSTER SHARDS lists them)",
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use redis::Value;

    use super::*;
    use crate::cache::redis::connect::Access;

    /// Two shards that do not exist: one with the first half of the slots, one with the rest.
    fn cluster() -> Arc<Cluster> {
        let url = "redis+cluster://127.0.0.1:1".parse();
        let connector = Connector::new(url, Access::default()).unwrap();
        let deadline = Duration::from_millis(50);
        let settings = ShardSettings { place: Box::default(), size: 2, deadline };
        let cluster = Cluster::open(connector, settings);
        let range = |first, last, port| {
            let host = Value::BulkString(b"127.0.0.1".to_vec());
            let master = Value::Array(vec![host, Value::Int(port)]);
            Value::Array(vec![Value::Int(first), Value::Int(last), master])
        };
        let reply = Value::Array(vec![range(0, 8_191, 1), range(8_192, 16_382, 2)]);
        let map = SlotMap::parse(&reply, &Address::tcp("127.0.0.1:1")).unwrap();
        cluster.apply(&map).unwrap();
        cluster
    }

    async fn owner(cluster: &Cluster, key: &str) -> Result<String, CacheErrorKind> {
        let soon = Instant::now() + Duration::from_secs(5);
        let shard = cluster.shard_of(key.as_bytes(), soon).await;
        shard.map(|it| it.address().unwrap().to_string()).map_err(|error| error.kind())
    }

    fn error(reply: &str) -> RedisError {
        match redis::parse_redis_value(format!("-{reply}\r\n").as_bytes()).unwrap() {
            Value::ServerError(error) => error.into(),
            other => unreachable!("{other:?}"),
        }
    }

    // The slot of `foo` is 12182, and that of `bar` 5061.
    #[tokio::test]
    async fn moved_corrects_the_map_for_its_slot_alone() {
        let cluster = cluster();
        let _stop = cluster.stop_on_drop();
        let owners = async || [owner(&cluster, "foo").await, owner(&cluster, "bar").await];
        let [one, two] = ["127.0.0.1:1", "127.0.0.1:2"].map(|it| Ok(it.to_owned()));
        assert_eq!(owners().await, [two.clone(), one.clone()]);
        for (reply, is_redirection) in [
            ("ASK 12182 127.0.0.1:1", true),
            ("TRYAGAIN Multiple keys request during rehashing of slot", true),
            ("MOVED 12182 127.0.0.1:3", true),
            ("MOVED 12182", true),
            ("CLUSTERDOWN The cluster is down", false),
        ] {
            assert_eq!(cluster.redirects(&error(reply)), is_redirection, "{reply}");
            assert_eq!(owners().await, [two.clone(), one.clone()], "{reply}");
        }
        assert!(cluster.redirects(&error("MOVED 12182 127.0.0.1:1")));
        assert_eq!(owners().await, [one.clone(), one.clone()]);
    }

    #[tokio::test]
    async fn slot_without_a_shard_is_a_part_of_the_cache() {
        let cluster = cluster();
        let _stop = cluster.stop_on_drop();
        let key = (0..u32::MAX).map(|n| n.to_string()).find(|it| slot_of(it.as_bytes()) == 16_383);
        let found = owner(&cluster, &key.unwrap()).await;
        assert_eq!(found, Err(CacheErrorKind::PartUnavailable));
        cluster.close().await;
        assert_eq!(owner(&cluster, "foo").await, Err(CacheErrorKind::Unreachable));
    }

    #[tokio::test]
    async fn error_names_its_shard() {
        let cluster = cluster();
        let _stop = cluster.stop_on_drop();
        let error = cluster.explain(&cluster.shards()[1], timed_out());
        // No other shard can be used.
        assert_eq!(error.kind(), CacheErrorKind::TimedOut);
        assert!(error.to_string().contains("the shard 127.0.0.1:2 of the cluster"), "{error}");
    }
}
