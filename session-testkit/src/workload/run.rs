//! A run: the plan carried out, open loop, with the faults of the schedule.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    task::{JoinError, JoinSet},
    time::{sleep_until, timeout_at},
};

use super::{
    Clock, Plan, Recorder, Report, Scheduled, Settings, SettingsError, Timed, Tokens,
    perform::Shared, sessions::Slots,
};
use crate::{
    history::{End, Entry, Header, History, nanos},
    subject::{Failed, Subject},
};

/// How long after the last request was due the rest may still be sent. What is not by then is due and
/// unsent.
const LAST_CALL: Duration = Duration::from_secs(1);

/// How many logins are under way before the load begins.
const SETUP_IN_FLIGHT: usize = 32;

/// A workload on a subject, about to run.
#[derive(Debug)]
pub struct Runner<S> {
    subject: S,
    settings: Settings,
    schedule: Vec<Scheduled>,
    recorder: Recorder,
    tokens: Tokens,
}

/// A run that is over.
#[derive(Debug)]
#[non_exhaustive]
pub struct Run {
    /// What happened. What is found afterwards (a scan, a search) can be added to it.
    pub history: History,
    /// The numbers.
    pub report: Report,
    /// Every validate that was answered: when it was due, and how long after that.
    pub validates: Vec<Timed>,
    /// The run's clock, which goes on.
    pub clock: Clock,
}

/// A run that could not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// The settings mean nothing.
    #[error("the workload can't be run")]
    Settings(#[from] SettingsError),
    /// The subject has no nodes.
    #[error("the subject has no nodes")]
    NoNodes,
    /// A login before the load did not succeed.
    #[error("the sessions of the workload could not be created")]
    Setup(#[source] Failed),
    /// The subject panicked in a login before the load.
    #[error("the subject panicked in a login before the load")]
    SetupPanicked(#[source] JoinError),
}

impl<S: Subject> Runner<S> {
    /// A workload on this subject. The run's clock starts now.
    pub fn new(subject: S, settings: Settings) -> Self {
        let mut header = Header::new(settings.seed, subject.nodes());
        header.parameters = settings.parameters;
        Self {
            subject,
            settings,
            schedule: Vec::new(),
            recorder: Recorder::new(header),
            tokens: Tokens::default(),
        }
    }

    /// Adds a fault.
    #[must_use]
    pub fn fault(mut self, fault: Scheduled) -> Self {
        self.schedule.push(fault);
        self
    }

    /// Adds faults.
    #[must_use]
    pub fn faults(mut self, faults: impl IntoIterator<Item = Scheduled>) -> Self {
        self.schedule.extend(faults);
        self
    }

    /// To record what is observed beside the workload, until [`run`](Self::run) returns.
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// The tokens that the run gives out, while it does and afterwards.
    pub fn tokens(&self) -> Tokens {
        self.tokens.clone()
    }

    /// Creates the sessions, then carries out the plan.
    ///
    /// If its future is dropped, every request under way is dropped with it, and every fault heals.
    ///
    /// # Errors
    /// [`WorkloadError`] where the load could not begin. Whatever happens later is in the report.
    pub async fn run(self) -> Result<Run, WorkloadError> {
        let Self {
            subject,
            settings,
            schedule,
            recorder,
            tokens,
        } = self;
        settings.check()?;
        let nodes = subject.nodes();
        if nodes == 0 {
            return Err(WorkloadError::NoNodes);
        }
        let clock = recorder.clock();
        let shared = Arc::new(Shared {
            subject,
            slots: Slots::new(settings.sessions),
            tokens,
            recorder: recorder.clone(),
            patience: settings.patience,
            sessions_per_user: settings.sessions_per_user,
        });
        tracing::info!(seed = settings.seed, nodes, "workload begins");
        set_up(&shared, &settings, nodes).await?;

        let load_began = clock.now();
        let mut faults = JoinSet::new();
        for fault in schedule {
            faults.spawn(fault.run(recorder.clone(), load_began));
        }
        send(&shared, &settings, nodes).await;
        while let Some(done) = faults.join_next().await {
            note(&recorder, "a fault", done);
        }

        let (mut history, mut tally) = recorder.take();
        let validates = tally.take_validates();
        let report = tally.report(settings, nodes);
        history.push(Entry::End(End {
            at: clock.now(),
            due: report.total.due,
            sent: report.total.sent,
        }));
        Ok(Run {
            history,
            report,
            validates,
            clock,
        })
    }
}

async fn set_up<S: Subject>(
    shared: &Arc<Shared<S>>,
    settings: &Settings,
    nodes: u32,
) -> Result<(), WorkloadError> {
    let mut logins = JoinSet::new();
    let done = |done: Result<Result<(), Failed>, JoinError>| {
        done.map_err(WorkloadError::SetupPanicked)?
            .map_err(WorkloadError::Setup)
    };
    for planned in Plan::setup(settings, nodes) {
        if logins.len() >= SETUP_IN_FLIGHT
            && let Some(login) = logins.join_next().await
        {
            done(login)?;
        }
        logins.spawn(Arc::clone(shared).perform(planned, None));
    }
    while let Some(login) = logins.join_next().await {
        done(login)?;
    }
    Ok(())
}

/// Sends each request when it is due, and waits for the last answers.
async fn send<S: Subject>(shared: &Arc<Shared<S>>, settings: &Settings, nodes: u32) {
    let recorder = &shared.recorder;
    let clock = recorder.clock();
    let load_began = clock.now();
    let last_call = load_began.saturating_add(nanos(settings.duration.saturating_add(LAST_CALL)));
    let permits = Arc::new(Semaphore::new(
        usize::try_from(settings.in_flight).unwrap_or(Semaphore::MAX_PERMITS),
    ));
    let mut requests = JoinSet::new();
    let mut plan = Plan::new(settings, nodes);
    for planned in plan.by_ref() {
        let due = load_began.saturating_add(planned.due);
        if clock.now() < due {
            sleep_until(clock.at(due)).await;
        }
        // Waiting here delays all that come after, and their latency counts it: they are due.
        let permit = timeout_at(clock.at(last_call), Arc::clone(&permits).acquire_owned());
        let Ok(Ok(permit)) = permit.await else {
            recorder.due(planned.due, false);
            break;
        };
        recorder.due(planned.due, true);
        let request = Arc::clone(shared).perform(planned, Some(load_began));
        requests.spawn(async move {
            let _permit = permit;
            // A refusal is in the history.
            let _ = request.await;
        });
        while let Some(done) = requests.try_join_next() {
            note(recorder, "a request", done);
        }
    }
    for planned in plan {
        recorder.due(planned.due, false);
    }
    while let Some(done) = requests.join_next().await {
        note(recorder, "a request", done);
    }
}

fn note(recorder: &Recorder, what: &str, done: Result<(), JoinError>) {
    if let Err(error) = done {
        recorder.problem(format!("{what}: {error}"));
    }
}
