//! The execution of the plan as an open loop, with the faults of the schedule.

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

/// The time after the last due request in which the rest may still be sent. Requests that were not
/// sent by then are recorded as due and unsent.
const LAST_CALL: Duration = Duration::from_secs(1);

/// The number of concurrent logins before the load begins. A node serializes five. On a busy
/// machine it refuses more.
const SETUP_IN_FLIGHT: usize = 4;

/// A workload on a subject, ready to run.
#[derive(Debug)]
pub struct Runner<S> {
    subject: S,
    settings: Settings,
    schedule: Vec<Scheduled>,
    recorder: Recorder,
    tokens: Tokens,
}

/// A finished run.
#[derive(Debug)]
#[non_exhaustive]
pub struct Run {
    /// The history. Later observations, such as a scan or a search, can be added to it.
    pub history: History,
    /// The numbers of the run.
    pub report: Report,
    /// The due time and latency of each validate with a response.
    pub validates: Vec<Timed>,
    /// The run's clock, which continues.
    pub clock: Clock,
}

/// The error of a run that could not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// The settings are invalid.
    #[error("invalid settings of the workload")]
    Settings(#[from] SettingsError),
    /// The subject has no nodes.
    #[error("the subject has no nodes")]
    NoNodes,
    /// A login before the load failed.
    #[error("could not create the sessions of the workload")]
    Setup(#[source] Failed),
    /// The subject panicked in a login before the load.
    #[error("the subject panicked in a login before the load")]
    SetupPanicked(#[source] JoinError),
}

impl<S: Subject> Runner<S> {
    /// Creates a workload on this subject, and starts the run's clock.
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

    /// Returns the recorder, which accepts other observations until [`run`](Self::run) returns.
    pub fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// Returns the tokens that the run issues, during the run and afterwards.
    pub fn tokens(&self) -> Tokens {
        self.tokens.clone()
    }

    /// Creates the sessions, then executes the plan.
    ///
    /// If its future is dropped, every request in flight is dropped with it, and every fault heals.
    ///
    /// # Errors
    /// [`WorkloadError`] if the load could not begin. Later problems are in the report.
    pub async fn run(self) -> Result<Run, WorkloadError> {
        let Self { subject, settings, schedule, recorder, tokens } = self;
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
            report_panic(&recorder, "a fault", done);
        }

        let (mut history, mut tally) = recorder.take();
        let validates = tally.take_validates();
        let report = tally.report(settings, nodes);
        history.push(Entry::End(End {
            at: clock.now(),
            due: report.total.due,
            sent: report.total.sent,
        }));
        Ok(Run { history, report, validates, clock })
    }
}

async fn set_up<S: Subject>(
    shared: &Arc<Shared<S>>,
    settings: &Settings,
    nodes: u32,
) -> Result<(), WorkloadError> {
    let mut logins = JoinSet::new();
    let done = |done: Result<Result<(), Failed>, JoinError>| {
        done.map_err(WorkloadError::SetupPanicked)?.map_err(WorkloadError::Setup)
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

/// Sends each request when it is due, and waits for the last responses.
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
        // A wait here delays all later requests. Their latency includes it, because they are due.
        let permit = timeout_at(clock.at(last_call), Arc::clone(&permits).acquire_owned());
        let Ok(Ok(permit)) = permit.await else {
            recorder.due(planned.due, false);
            break;
        };
        recorder.due(planned.due, true);
        let request = Arc::clone(shared).perform(planned, Some(load_began));
        requests.spawn(async move {
            let _permit = permit;
            // The history has the refusal.
            let _ = request.await;
        });
        while let Some(done) = requests.try_join_next() {
            report_panic(recorder, "a request", done);
        }
    }
    for planned in plan {
        recorder.due(planned.due, false);
    }
    while let Some(done) = requests.join_next().await {
        report_panic(recorder, "a request", done);
    }
}

fn report_panic(recorder: &Recorder, what: &str, done: Result<(), JoinError>) {
    if let Err(error) = done {
        recorder.problem(format!("{what}: {error}"));
    }
}
