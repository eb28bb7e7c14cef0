//! A trial: a deployment under load and under a schedule, observed, judged.
//!
//! ```no_run
//! use std::time::Duration;
//! use session_testkit::{
//!     backends::Backends, deployment::Deployment, invariants::Outcome, schedule::Schedule,
//!     trial::Trial, workload::Settings,
//! };
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let deployment = Deployment::builder().ttl(Duration::from_secs(5));
//! let deployment = deployment.start(Backends::start_own().await?).await?;
//! let schedule = Schedule { seed: 7, steps: vec!["redis-kill@6+12".parse()?] };
//! let judged = Trial::new(&deployment, Settings::new(7), schedule)?.run().await?;
//! println!("{judged}");
//! assert_eq!(judged.outcome(), Outcome::Holds);
//! # Ok(())
//! # }
//! ```

mod availability;
mod figures;
mod judged;
mod revoked;

use std::time::Duration;

use tokio::task::JoinSet;

pub(crate) use self::judged::promises;
pub use self::{
    availability::Availability,
    figures::{FaultFigures, Figures},
    judged::Judged,
};
use crate::{
    deployment::Deployment,
    history::{Entry, Fault},
    invariants::{self, Invariant},
    observe::{self, Hits, Logs, ObserveError},
    schedule::{Effect, Event, Loss, Schedule, ScheduleError},
    subject::SessionLayerSubject,
    workload::{PER_MILLE, Recorder, Runner, Settings, WorkloadError},
};

/// More than TTL + lease, so that a timer's slack does not make a scan too early.
const QUIET: Duration = Duration::from_millis(500);
const MORE_TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_secs(1);
/// What the buffers of all connections, the allocator and the libraries may hold after their first use: a coarse
/// net. The record of the run is in the same memory.
const BUFFERS: u64 = 128 * 1024 * 1024;
/// What the record of a request may occupy, with the growth of its vector.
const PER_REQUEST: u64 = 1_024;

/// So many of something must have been asked for that some of it was surely examined.
const ENOUGH: u64 = 20;

/// A deployment, a load and a schedule, about to run.
#[derive(Debug)]
pub struct Trial<'a> {
    deployment: &'a Deployment,
    settings: Settings,
    schedule: Schedule,
    logs: Option<Logs>,
    runner: Runner<SessionLayerSubject>,
}

/// A trial that could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrialError {
    /// The schedule can't be carried out.
    #[error("the schedule can't be carried out")]
    Schedule(#[from] ScheduleError),
    /// The load could not begin.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// What was to be seen afterwards could not be.
    #[error("the run is over, but could not be judged")]
    Observe(#[from] ObserveError),
}

impl<'a> Trial<'a> {
    /// What the deployment is goes into the settings' parameters: its TTL and budget, whether it has replicas.
    ///
    /// # Errors
    /// [`TrialError::Schedule`].
    pub fn new(
        deployment: &'a Deployment,
        mut settings: Settings,
        schedule: Schedule,
    ) -> Result<Self, TrialError> {
        schedule.check(deployment.nodes())?;
        schedule.suits(deployment.sealed())?;
        schedule.begins_within(settings.duration)?;
        let requests = u64::from(settings.rate).saturating_mul(settings.duration.as_secs() + 1);
        settings.parameters.ttl = deployment.ttl();
        settings.parameters.budget = deployment.budget();
        let first = deployment.subject().node(0);
        settings.parameters.bulkhead = first.map(|node| node.metrics().reads_at_once);
        settings.parameters.single_server = !deployment.replicated();
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

    /// Searches what was logged, too. Without it R12 is inconclusive.
    #[must_use]
    pub fn logs(mut self, logs: Logs) -> Self {
        self.logs = Some(logs);
        self
    }

    /// How far it is.
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        self.runner.recorder()
    }

    /// How long it takes, but for the logins before and the searches after.
    #[must_use]
    pub fn takes(&self) -> Duration {
        self.settings.duration + quiet(&self.settings)
    }

    /// Runs it, searches for secrets, waits until the last copy must have died, looks around, and judges.
    ///
    /// # Errors
    /// [`TrialError`] where the load could not begin, or where what is to be seen afterwards could not be.
    pub async fn run(self) -> Result<Judged, TrialError> {
        let Self {
            deployment,
            settings,
            schedule,
            logs,
            runner,
        } = self;
        let (recorder, tokens) = (runner.recorder(), runner.tokens());
        let clock = recorder.clock();
        let hits = Hits::default();
        // Before the observers: they are tasks too.
        for sample in observe::sample(deployment, || clock.now()).await {
            recorder.record(Entry::Sample(sample));
        }
        // Dropped, also in the middle, they end.
        let mut observers = JoinSet::new();
        observers.spawn(observe::watch_bulkheads(
            deployment.subject(),
            recorder.clone(),
        ));
        observers.spawn(observe::watch_hits(
            deployment.subject(),
            clock,
            hits.clone(),
        ));
        let faults = schedule.on(deployment, &recorder, &tokens);
        let run = runner.faults(faults).run().await?;
        let mut history = run.history;

        // While there are copies in which a secret could be.
        let given_out = tokens.all();
        let mut tries = Tries::default();
        let searches = loop {
            let searches = observe::search(deployment, logs.as_ref(), &given_out, || clock.now());
            if let Some(searches) = tries.again(searches.await).await? {
                break searches;
            }
        };
        for search in searches {
            history.push(Entry::Search(search));
        }
        tokio::time::sleep(quiet(&settings)).await;
        observers.shutdown().await;
        for sample in observe::sample(deployment, || clock.now()).await {
            history.push(Entry::Sample(sample));
        }
        let (redis, postgres) = (
            deployment.backends().redis(),
            deployment.backends().postgres(),
        );
        let (namespace, schema) = (deployment.namespace(), deployment.schema());
        let mut tries = Tries::default();
        let scan = loop {
            let at = clock.now();
            let scan = observe::scan(redis, namespace, postgres, schema, &given_out, at);
            if let Some(scan) = tries.again(scan.await).await? {
                break scan;
            }
        };
        history.push(Entry::Scan(scan));

        let required = required(
            &settings,
            &schedule,
            deployment.replicated(),
            // The dump of a Redis that is somebody else's is not asked for, so nothing is decided there.
            logs.is_some() && deployment.backends().redis().backend().is_some(),
        );
        let verdicts = invariants::check(&history);
        Ok(Judged {
            figures: Figures::of(&history, &run.validates, &hits.looks()),
            availability: Availability::of(&history),
            revoked_tried: revoked::tried(&history),
            revoked_wanted: revoked::wanted(&settings),
            required,
            verdicts,
            schedule,
            report: run.report,
            history,
        })
    }
}

/// Servers that have just been broken and a machine that is busy may not answer at once.
#[derive(Default)]
struct Tries(u32);

impl Tries {
    /// What was seen; `None`, a moment later, if it is to be tried again.
    async fn again<T>(&mut self, seen: Result<T, ObserveError>) -> Result<Option<T>, ObserveError> {
        match seen {
            Ok(seen) => Ok(Some(seen)),
            Err(error) if self.0 < MORE_TRIES => {
                tracing::debug!(%error, "to be looked at again");
                self.0 += 1;
                tokio::time::sleep(BETWEEN_TRIES).await;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Commands lost now and then: both servers are there, and most of what is asked is answered.
fn is_in_passing(fault: &Fault) -> bool {
    matches!(fault.name.parse(), Ok(Event::Lose(_)))
}

fn quiet(settings: &Settings) -> Duration {
    let parameters = settings.parameters;
    parameters.ttl + parameters.lease + QUIET
}

/// The promises of which a run like this must have examined something.
fn required(
    settings: &Settings,
    schedule: &Schedule,
    replicated: bool,
    everywhere_searched: bool,
) -> Vec<Invariant> {
    let revoked = if replicated {
        Invariant::R1Delta
    } else {
        Invariant::R1
    };
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
    // Of what is rare there must be enough for the run to have come upon it.
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
    if everywhere_searched {
        required.push(Invariant::R12);
    }
    required
}
