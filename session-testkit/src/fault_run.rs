//! A fault run: a deployment under load and a schedule of faults, with observers and a verdict.
//!
//! ```no_run
//! use std::time::Duration;
//! use session_testkit::{
//!     backends::Backends, deployment::Deployment, fault_run::FaultRun, invariants::Outcome,
//!     schedule::Schedule, workload::Settings,
//! };
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let deployment = Deployment::builder().ttl(Duration::from_secs(5));
//! let deployment = deployment.start(Backends::start_own().await?).await?;
//! let schedule = Schedule { seed: 7, steps: vec!["redis-kill@6+12".parse()?] };
//! let judged = FaultRun::new(&deployment, Settings::new(7), schedule)?.run().await?;
//! println!("{judged}");
//! assert_eq!(judged.outcome(), Outcome::Holds);
//! # Ok(())
//! # }
//! ```

mod availability;
mod figures;
mod judged;
mod reached;
mod revoked;

use std::time::Duration;

use tokio::task::JoinSet;

pub(crate) use self::judged::{UNAVAILABLE, promises};
pub use self::{
    availability::Availability,
    figures::{FaultFigures, Figures},
    judged::Judged,
    reached::{FaultReached, Gap, Reached, State},
};
use crate::{
    backends::BackendError,
    bench::Machine,
    deployment::Deployment,
    history::{Entry, Fault},
    invariants::{self, Invariant},
    observe::{self, Hits, Logs, ObserveError},
    schedule::{Effect, Event, Loss, Schedule, ScheduleError},
    subject::SessionLayerSubject,
    workload::{PER_MILLE, Recorder, Runner, Settings, WorkloadError},
};

/// The margin after TTL + lease, because a timer's slack could make a scan too early.
const EXPIRY_MARGIN: Duration = Duration::from_millis(500);
const MORE_TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_secs(1);
/// A coarse limit for the buffers of all connections, the allocator and the libraries after their
/// first use. The record of the run is in the same memory.
const BUFFERS: u64 = 128 * 1024 * 1024;
/// A limit for the record of a request, including the growth of its vector.
const PER_REQUEST: u64 = 1_024;

/// The number of expected operations from which on a run must have examined some of them.
const ENOUGH: u64 = 20;

/// A deployment, a load and a schedule before their run.
#[derive(Debug)]
pub struct FaultRun<'a> {
    deployment: &'a Deployment,
    settings: Settings,
    schedule: Schedule,
    logs: Option<Logs>,
    runner: Runner<SessionLayerSubject>,
}

/// The error of a fault run without a verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultRunError {
    /// The schedule does not suit the deployment.
    #[error("the schedule does not suit the deployment")]
    Schedule(#[from] ScheduleError),
    /// A server did not respond before the load.
    #[error("the servers could not be inspected before the load")]
    Inspect(#[from] BackendError),
    /// The load could not begin.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// An observation after the load failed.
    #[error("the load has ended, but the servers could not be inspected")]
    Observe(#[from] ObserveError),
}

impl<'a> FaultRun<'a> {
    /// Creates a run. The settings' parameters take the deployment's TTL, budget and replication.
    ///
    /// # Errors
    /// [`FaultRunError::Schedule`] if the schedule does not suit the deployment or the load.
    pub fn new(
        deployment: &'a Deployment,
        mut settings: Settings,
        schedule: Schedule,
    ) -> Result<Self, FaultRunError> {
        schedule.check(deployment.nodes())?;
        schedule.suits(deployment.sealed())?;
        schedule.begins_within(settings.duration)?;
        let requests = u64::from(settings.rate).saturating_mul(settings.duration.as_secs() + 1);
        settings.parameters.ttl = deployment.ttl();
        settings.parameters.budget = deployment.budget();
        let first = deployment.subject().node(0);
        settings.parameters.bulkhead = first.map(|node| node.metrics().max_concurrent_reads);
        settings.parameters.single_server = !deployment.replicated();
        settings.parameters.near_caches = deployment.near_caches() && deployment.nodes() > 1;
        settings.parameters.memory_slack =
            BUFFERS.saturating_add(requests.saturating_mul(PER_REQUEST));
        Ok(Self {
            deployment,
            runner: Runner::new(deployment.subject(), settings.clone()),
            settings,
            schedule,
            logs: None,
        })
    }

    /// Sets the logs to search for secrets. Without them, R12 is inconclusive.
    #[must_use]
    pub fn logs(mut self, logs: Logs) -> Self {
        self.logs = Some(logs);
        self
    }

    /// Returns the recorder, which knows the progress.
    pub fn recorder(&self) -> Recorder {
        self.runner.recorder()
    }

    /// Returns the expected duration without the logins before and the searches after.
    pub fn expected_duration(&self) -> Duration {
        self.settings.duration + longest_entry(&self.settings)
    }

    /// Runs the load, searches for secrets, waits until the last entry must have expired, inspects
    /// the servers and judges the history.
    ///
    /// # Errors
    /// [`FaultRunError`] if the load could not begin or the servers could not be inspected.
    pub async fn run(self) -> Result<Judged, FaultRunError> {
        let Self { deployment, settings, schedule, logs, runner } = self;
        let (recorder, tokens) = (runner.recorder(), runner.tokens());
        let machine = Machine::of(deployment.backends()).await?;
        let clock = recorder.clock();
        let hits = Hits::default();
        // Before the observers start, because they are tasks too.
        for sample in observe::sample(deployment, || clock.now()).await {
            recorder.record(Entry::Sample(sample));
        }
        // Dropping the set ends the observers, also if this future is cancelled.
        let mut observers = JoinSet::new();
        let nodes = deployment.subject();
        observers.spawn(observe::watch_nodes(nodes, recorder.clone(), hits.clone()));
        let faults = schedule.on(deployment, &recorder, &tokens);
        let run = runner.faults(faults).run().await?;
        let mut history = run.history;

        // Before the entries that could contain a secret expire.
        let issued = tokens.all();
        let search = || observe::search(deployment, logs.as_ref(), &issued, || clock.now());
        history.searches.extend(repeated(search).await?);
        tokio::time::sleep(longest_entry(&settings)).await;
        observers.shutdown().await;
        for sample in observe::sample(deployment, || clock.now()).await {
            history.push(Entry::Sample(sample));
        }
        let postgres = deployment.backends().postgres();
        let (namespace, schema) = (deployment.namespace(), deployment.schema());
        for redis in deployment.redis_servers() {
            let scan = || observe::scan(redis, namespace, postgres, schema, &issued, clock.now());
            history.scans.push(repeated(scan).await?);
        }

        let required = required(
            &settings,
            &schedule,
            deployment.replicated(),
            // A named Redis is not dumped, therefore R12 is undecided there.
            logs.is_some() && deployment.backends().redis().backend().is_some(),
        );
        for fault in &mut history.faults {
            fault.around = Some(hits.around(fault));
        }
        let verdicts = invariants::check(&history);
        Ok(Judged {
            machine,
            figures: Figures::of(&history, &run.validates, &hits.samples()),
            availability: Availability::of(&history),
            revoked_tried: revoked::tried(&history),
            revoked_wanted: revoked::required(&settings),
            required,
            verdicts,
            schedule,
            report: run.report,
            history,
        })
    }
}

/// Repeats a failed observation, because a busy machine or a server after a fault may cause it.
async fn repeated<T, F: Future<Output = Result<T, ObserveError>>>(
    observe: impl Fn() -> F,
) -> Result<T, ObserveError> {
    for _ in 0..MORE_TRIES {
        match observe().await {
            Err(error) => tracing::debug!(%error, "an observation failed and is repeated"),
            observed => return observed,
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
    observe().await
}

/// Returns whether the fault only loses single commands, so that both servers remain usable.
fn loses_single_commands(fault: &Fault) -> bool {
    matches!(fault.name.parse(), Ok(Event::Lose(_)))
}

/// Returns how long after the load an entry may remain in Redis.
fn longest_entry(settings: &Settings) -> Duration {
    let parameters = settings.parameters;
    parameters.ttl + parameters.lease + EXPIRY_MARGIN
}

/// Returns the promises that such a run must have examined.
fn required(
    settings: &Settings,
    schedule: &Schedule,
    replicated: bool,
    searched_everywhere: bool,
) -> Vec<Invariant> {
    // With replicas or near caches, no change is `Propagated`.
    let committed = replicated || settings.parameters.near_caches;
    let revoked = if committed { Invariant::R1Delta } else { Invariant::R1 };
    let mut required = vec![
        revoked,
        Invariant::R2,
        Invariant::R3,
        Invariant::R4,
        Invariant::R5,
        Invariant::R8,
        Invariant::R9,
        Invariant::R10,
    ];
    // A promise about rare operations is required only if enough of them were expected.
    let requests = u64::from(settings.rate).saturating_mul(settings.duration.as_secs());
    let shares = settings.shares;
    let enough = |share: u32, of_those: u32| {
        let per_million = u64::from(share).saturating_mul(u64::from(of_those));
        requests.saturating_mul(per_million) / 1_000_000 >= ENOUGH
    };
    if enough(shares.create, settings.short_lived) && settings.duration >= settings.lifetime * 2 {
        required.push(Invariant::R6);
    }
    if enough(shares.revoke_all, PER_MILLE) {
        required.push(Invariant::R13);
    }
    let cut = |event| Effect::of(event).postgres == Loss::Surely;
    if schedule.steps.iter().any(|step| cut(step.event)) {
        required.push(Invariant::R7);
    }
    let by_sql = |event| matches!(event, Event::PlainRevoke | Event::LateRevoke);
    if schedule.steps.iter().any(|step| by_sql(step.event)) {
        required.push(Invariant::R1Delta);
    }
    if !schedule.steps.is_empty() {
        required.push(Invariant::R11);
    }
    if searched_everywhere {
        required.push(Invariant::R12);
    }
    required
}
