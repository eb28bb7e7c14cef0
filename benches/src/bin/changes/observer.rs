//! Ends sessions by SQL at a constant rate, and observes how long each node accepts them.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use redis::{RedisResult, aio::MultiplexedConnection};
use session_benches::key;
use session_layer::{TokenDigest, Validation};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout_at},
    try_join,
};

use crate::{
    Error,
    deployment::Deployment,
    node::Node,
    observed::{Memory, Observed},
    plan::ENDED_PER_SECOND,
    sql::Kind,
};

/// The maximum number of sessions that end in a scenario. Their rows cost little.
pub(crate) const SUPPLY: u64 = 10_000;
/// The deadline by which all nodes must have an entry of a session.
const CACHED: Duration = Duration::from_secs(60);
/// The interval at which it is validated meanwhile.
const AGAIN: Duration = Duration::from_millis(250);
/// The timeout of sessions that must become invalid, in multiples of D.
const TIMEOUT: u32 = 10;

/// Ends sessions.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    /// The next session to end.
    next: u64,
    /// The next session to get entries.
    warmed: u64,
}

/// A session that a node validates until it is invalid.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) token: String,
    /// Whether Redis had an entry for this node just before the end.
    pub(crate) cached: bool,
    pub(crate) invalid: JoinHandle<Instant>,
}

/// Sessions that ended together.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The time from which their ages count.
    pub(crate) from: Instant,
    /// The sessions that each node validates.
    pub(crate) watched: Vec<Vec<Watched>>,
}

impl Observer {
    /// Returns the sessions that end in the next second, and have no entries yet.
    fn upcoming(&mut self, deployment: &Deployment<'_>) -> Vec<String> {
        let until = (self.next + u64::from(ENDED_PER_SECOND)).min(SUPPLY);
        let sessions = self.warmed..until;
        self.warmed = until;
        sessions.map(|n| deployment.token(Kind::Ended, n)).collect()
    }

    /// Waits until all nodes have entries of the sessions that end first.
    pub(crate) async fn prepare(&mut self, deployment: &Deployment<'_>) -> Result<(), Error> {
        // Entries from an earlier phase may be gone.
        self.warmed = self.next;
        wait_for_entries(deployment, self.upcoming(deployment)).await
    }

    /// Ends sessions while `work` runs. Returns the result of the work, and the observations of
    /// each node.
    pub(crate) async fn observe<T>(
        &mut self,
        deployment: &Deployment<'_>,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<(T, Vec<Observed>), Error> {
        let before = begin(deployment)?;
        let over = AtomicBool::new(false);
        let working = async {
            let done = work.await;
            over.store(true, Ordering::Relaxed);
            done
        };
        let (done, ended) = try_join!(working, self.end_sessions(deployment, &over))?;
        Ok((done, gather(deployment, ended, before).await?))
    }

    async fn end_sessions(
        &mut self,
        deployment: &Deployment<'_>,
        over: &AtomicBool,
    ) -> Result<Vec<Ended>, Error> {
        let mut postgres = deployment.postgres().await?;
        let mut redis = deployment.backends.redis().connect().await?;
        let begin = Instant::now();
        let mut all = Vec::new();
        for due in deployment.plan.ends(self.next) {
            let upcoming = self.upcoming(deployment);
            deployment.nodes.iter().for_each(|node| node.warm(upcoming.clone()));
            sleep_until(begin + due).await;
            if over.load(Ordering::Relaxed) || self.next == SUPPLY {
                break;
            }
            let token = deployment.token(Kind::Ended, self.next);
            // A slow Redis does not end the run. The table then shows fewer entries.
            let cached = have_entries(deployment, &mut redis, &token).await;
            let cached = cached.unwrap_or_else(|_late| vec![false; deployment.nodes.len()]);
            let (sender, ended) = watch::channel(None);
            let watch = |(node, cached): (&Node, bool)| Watched {
                token: token.clone(),
                cached,
                invalid: node.watch(token.clone(), ended.clone()),
            };
            let watched = deployment.nodes.iter().zip(cached).map(watch);
            let watched = watched.map(|one| vec![one]).collect();
            postgres.end(self.next).await?;
            self.next += 1;
            let bounds = deployment.bounds(deployment.staleness_bound);
            sender.send_replace(Some(bounds));
            all.push(Ended { from: bounds.at, watched });
        }
        Ok(all)
    }
}

/// Restarts the nodes' figures. Returns the memory before the observation.
pub(crate) fn begin(deployment: &Deployment<'_>) -> Result<Memory, Error> {
    deployment.nodes.iter().for_each(Node::mark);
    Memory::now()
}

/// Waits until the sessions are invalid, and until D has passed since the last one ended. Returns
/// the observations of each node. After a timeout, the remaining sessions count as never invalid.
pub(crate) async fn gather(
    deployment: &Deployment<'_>,
    ended: Vec<Ended>,
    before: Memory,
) -> Result<Vec<Observed>, Error> {
    let deadline = Instant::now() + deployment.staleness_bound * TIMEOUT;
    let last = ended.last().map(|one| one.from);
    let mut nodes = vec![(0, 0, Vec::new(), Vec::new()); deployment.nodes.len()];
    for one in ended {
        for ((ended, cached, ages, rejected), watched) in nodes.iter_mut().zip(one.watched) {
            for mut watched in watched {
                *ended += 1;
                *cached += u64::from(watched.cached);
                match timeout_at(deadline, &mut watched.invalid).await {
                    Ok(at) => {
                        ages.push(at? - one.from);
                        rejected.push(watched.token);
                    }
                    Err(_late) => watched.invalid.abort(),
                }
            }
        }
    }
    // The figures cover the time in which sessions ended.
    let figures: Vec<_> = deployment.nodes.iter().map(Node::figures).collect();
    let after = Memory::now()?;
    if let Some(last) = last {
        sleep_until(last + deployment.staleness_bound).await;
    }
    let mut observed = Vec::new();
    for ((place, node), (figures, (ended, cached, mut ages, rejected))) in
        deployment.nodes.iter().enumerate().zip(figures.into_iter().zip(nodes))
    {
        let mut back = 0;
        for token in rejected {
            let answer = node.sessions.validate(&token).await;
            back += u64::from(matches!(answer, Validation::Valid(_)));
        }
        ages.sort_unstable();
        let node = format!("node {}", place + 1);
        observed.push(Observed { node, ended, cached, ages, back, figures, before, after });
    }
    Ok(observed)
}

/// Makes all nodes validate these sessions until Redis has entries of them for each node. One
/// validation is not enough, because a busy node may not fill.
pub(crate) async fn wait_for_entries(
    deployment: &Deployment<'_>,
    mut missing: Vec<String>,
) -> Result<(), Error> {
    let mut redis = deployment.backends.redis().connect().await?;
    let deadline = Instant::now() + CACHED;
    loop {
        deployment.nodes.iter().for_each(|node| node.warm(missing.clone()));
        sleep(AGAIN).await;
        let mut still = Vec::new();
        for token in missing {
            match have_entries(deployment, &mut redis, &token).await {
                Ok(cached) if !cached.contains(&false) => {}
                Err(late) if Instant::now() > deadline => return Err(late.into()),
                _ => still.push(token),
            }
        }
        if still.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("Redis has no entries of {} sessions", still.len()).into());
        }
        missing = still;
    }
}

/// Returns for each node whether Redis has an entry of this session, neither a lease nor a fence.
async fn have_entries(
    deployment: &Deployment<'_>,
    redis: &mut MultiplexedConnection,
    token: &str,
) -> RedisResult<Vec<bool>> {
    let mut first_bytes = redis::pipe();
    for node in &deployment.nodes {
        let key = key(&node.namespace, &TokenDigest::of(token));
        first_bytes.cmd("GETRANGE").arg(key).arg(0).arg(0);
    }
    let first_bytes: Vec<Vec<u8>> = first_bytes.query_async(redis).await?;
    Ok(first_bytes.iter().map(|first| first == b"V").collect())
}
