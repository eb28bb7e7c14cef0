//! Ends sessions by SQL at a constant rate, and observes how long each node accepts them.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use session_benches::key;
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, sleep, sleep_until, timeout_at},
    try_join,
};

use crate::{
    deployment::Deployment,
    error::{Doing as _, Error},
    memory::Memory,
    moment::Moment,
    names::{Kind, Who},
    node::Node,
    observed::Observed,
    plan,
    protocol::{Bounds, Invalid, Order},
    sql::Users,
};

/// The maximum number of sessions that end in a scenario. Their rows cost little.
const SUPPLY: u64 = 10_000;
/// The time before its end at which a session gets its entries in Redis.
const AHEAD: Duration = Duration::from_secs(1);
/// The deadline by which all nodes must have an entry of a session.
const COPIES: Duration = Duration::from_secs(60);
/// The interval at which it is validated meanwhile.
const AGAIN: Duration = Duration::from_millis(250);
/// The timeout of sessions that must become invalid, in multiples of D.
const TIMEOUT: u32 = 10;

/// Ends sessions, and collects the nodes' reports on them.
#[derive(Debug)]
pub(crate) struct Observer {
    reports: UnboundedReceiver<(usize, Invalid)>,
    /// The next session to end.
    next: u64,
    /// The next session to get entries.
    warmed: u64,
}

#[derive(Debug)]
struct Ended {
    who: Who,
    at: Moment,
    /// Whether Redis had an entry just before, for each node.
    copies: Vec<bool>,
}

impl Observer {
    /// Creates the sessions to end.
    pub(crate) async fn new(
        deployment: &Deployment<'_>,
        reports: UnboundedReceiver<(usize, Invalid)>,
    ) -> Result<Self, Error> {
        let users = Users::OneEach;
        deployment.create(Kind::Ended, SUPPLY, users).await?;
        Ok(Self { reports, next: 0, warmed: 0 })
    }

    /// Waits until all nodes have entries of the sessions that end first.
    pub(crate) async fn prepare(&mut self, deployment: &Deployment<'_>) -> Result<(), Error> {
        // Entries from an earlier phase may be gone.
        self.warmed = self.until(deployment);
        let sessions: Vec<_> = (self.next..self.warmed).map(ended).collect();
        copies(deployment, &sessions).await
    }

    /// Returns the first session that does not end in the next second.
    fn until(&self, deployment: &Deployment<'_>) -> u64 {
        let ahead = AHEAD.as_secs() * u64::from(deployment.plan.ended_per_second);
        (self.next + ahead).min(SUPPLY)
    }

    /// Orders all nodes to validate the sessions that end in the next second.
    fn warm(&mut self, deployment: &Deployment<'_>) {
        let until = self.until(deployment);
        let sessions: Vec<_> = (self.warmed..until).map(ended).collect();
        if !sessions.is_empty() {
            self.warmed = until;
            deployment.order(|| Order::Warm(sessions.clone()));
        }
    }

    /// Ends sessions while `work` runs. Returns the result of the work, and the observations of
    /// each node.
    pub(crate) async fn observe<T>(
        &mut self,
        deployment: &Deployment<'_>,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<(T, Vec<Observed>), Error> {
        deployment.order(|| Order::Mark);
        let before = memory(deployment)?;
        let over = AtomicBool::new(false);
        let working = async {
            let done = work.await;
            over.store(true, Ordering::Relaxed);
            done
        };
        let (done, ended) = try_join!(working, self.end_sessions(deployment, &over))?;
        let observed = self.gather(deployment, &ended, before).await?;
        Ok((done, observed))
    }

    async fn end_sessions(
        &mut self,
        deployment: &Deployment<'_>,
        over: &AtomicBool,
    ) -> Result<Vec<Ended>, Error> {
        let plan = deployment.plan;
        let mut postgres = deployment.postgres().await?;
        let mut redis = deployment.redis().await?;
        let begin = Instant::now();
        let mut all = Vec::new();
        // Each phase of a scenario has its own moments.
        for due in plan::ends(plan.seed.wrapping_add(self.next), plan.ended_per_second) {
            self.warm(deployment);
            sleep_until(begin + due).await;
            if over.load(Ordering::Relaxed) || self.next == SUPPLY {
                break;
            }
            let who = ended(self.next);
            self.next += 1;
            // A slow Redis does not end the run. The table then shows fewer entries.
            let copies = have_copies(deployment, &mut redis, who).await;
            let copies = copies.unwrap_or_else(|_late| vec![false; deployment.nodes().len()]);
            deployment.order(|| Order::Watch(who));
            postgres.end(who).await?;
            let bounds = Bounds {
                at: Moment::now(),
                within: deployment.staleness_bound,
                staleness_bound: deployment.staleness_bound,
            };
            deployment.order(|| Order::Ended(who, bounds));
            all.push(Ended { who, at: bounds.at, copies });
        }
        postgres.close().await?;
        Ok(all)
    }

    async fn gather(
        &mut self,
        deployment: &Deployment<'_>,
        ended: &[Ended],
        before: Vec<Memory>,
    ) -> Result<Vec<Observed>, Error> {
        let at: HashMap<Who, Moment> = ended.iter().map(|one| (one.who, one.at)).collect();
        let expected = at.len() * deployment.nodes().len();
        let ages = wait_for(deployment, &mut self.reports, &at, expected).await;
        // The figures cover the time in which sessions ended.
        let mut reports = Vec::new();
        for node in deployment.nodes() {
            reports.push(node.report().await?);
        }
        let after = memory(deployment)?;
        if let Some(last) = ended.last() {
            let passed = Moment::now().since(last.at);
            sleep(deployment.staleness_bound.saturating_sub(passed)).await;
        }
        let mut observed = Vec::new();
        let memory = before.into_iter().zip(after);
        let of_nodes = ages.into_iter().zip(reports).zip(memory);
        for ((place, node), ((ages, report), (before, after))) in
            deployment.nodes().iter().enumerate().zip(of_nodes)
        {
            let copies = ended.iter().filter(|one| one.copies[place]);
            observed.push(Observed {
                node: node.name(),
                ended: ended.len() as u64,
                copies: copies.count() as u64,
                ages,
                back: node.recheck().await?,
                report,
                before,
                after,
            });
        }
        Ok(observed)
    }
}

/// Waits for this number of reports of these sessions, which ended at these moments. Returns for
/// each node the ages at which the sessions were invalid, in ascending order. After a timeout, the
/// missing reports are omitted.
pub(crate) async fn wait_for(
    deployment: &Deployment<'_>,
    reports: &mut UnboundedReceiver<(usize, Invalid)>,
    at: &HashMap<Who, Moment>,
    expected: usize,
) -> Vec<Vec<Duration>> {
    let nodes = deployment.nodes().len();
    let deadline = Instant::now() + deployment.staleness_bound * TIMEOUT;
    let mut ages = vec![Vec::new(); nodes];
    let mut missing = expected;
    while missing > 0
        && let Ok(Some((place, one))) = timeout_at(deadline, reports.recv()).await
    {
        // Late reports of an earlier phase belong to that phase.
        if let Some(at) = at.get(&one.who) {
            ages[place].push(one.at.since(*at));
            missing -= 1;
        }
    }
    for ages in &mut ages {
        ages.sort_unstable();
    }
    ages
}

/// Makes all nodes validate these sessions until Redis has entries of them for each node. One
/// validation is not enough, because a busy node may not fill.
pub(crate) async fn copies(deployment: &Deployment<'_>, sessions: &[Who]) -> Result<(), Error> {
    let mut redis = deployment.redis().await?;
    let deadline = Instant::now() + COPIES;
    let mut missing = sessions.to_vec();
    while !missing.is_empty() {
        deployment.order(|| Order::Warm(missing.clone()));
        sleep(AGAIN).await;
        let mut still = Vec::new();
        for who in missing {
            let found = have_copies(deployment, &mut redis, who).await;
            match found {
                Ok(copies) if !copies.contains(&false) => {}
                Err(late) if Instant::now() > deadline => return Err(late),
                _ => still.push(who),
            }
        }
        missing = still;
        if !missing.is_empty() && Instant::now() > deadline {
            return Err(Error::new(format!("get entries of {missing:?} into Redis")));
        }
    }
    Ok(())
}

/// Returns for each node whether Redis has an entry of this session, neither a lease nor a fence.
async fn have_copies(
    deployment: &Deployment<'_>,
    redis: &mut redis::aio::MultiplexedConnection,
    who: Who,
) -> Result<Vec<bool>, Error> {
    let digest = deployment.names.digest(who);
    let mut first_bytes = redis::pipe();
    for node in deployment.nodes() {
        let key = key(node.namespace(), &digest);
        first_bytes.cmd("GETRANGE").arg(key).arg(0).arg(0);
    }
    let first_bytes: Vec<Vec<u8>> =
        first_bytes.query_async(redis).await.doing(|| "look for entries in Redis")?;
    Ok(first_bytes.iter().map(|first| first == b"V").collect())
}

pub(crate) fn memory(deployment: &Deployment<'_>) -> Result<Vec<Memory>, Error> {
    deployment.nodes().iter().map(Node::memory).collect()
}

fn ended(n: u64) -> Who {
    Who { kind: Kind::Ended, n }
}
