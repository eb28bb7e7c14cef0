//! Faults of a schedule: when, for how long, and what they mean for the promises.

use std::{error::Error, fmt, future::Future, pin::Pin, time::Duration};

use super::Recorder;
use crate::history::{Entry, Fault, Nanos, Touched, nanos};

/// Why something could not be broken or healed.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Something that can be broken and healed.
///
/// If it is dropped while broken (a run that was cut short), it must heal by itself.
pub trait Break: Send + 'static {
    /// Breaks it. On return the fault is in force.
    fn cause(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Heals it. On return all is well again. Says what was touched, where that can be counted.
    fn heal(&mut self) -> impl Future<Output = Result<Option<Touched>, Failure>> + Send;
}

/// A fault with its time. Written by hand, or drawn from a seed.
pub struct Scheduled {
    name: String,
    at: Duration,
    lasts: Duration,
    nodes: Option<Vec<u32>>,
    no_postgres: bool,
    no_touch: bool,
    uncertain: bool,
    no_redis: bool,
    breaks: Box<dyn Erased>,
}

impl Scheduled {
    /// `at` counts from the beginning of the load.
    pub fn new(name: impl Into<String>, at: Duration, lasts: Duration, breaks: impl Break) -> Self {
        Self {
            name: name.into(),
            at,
            lasts,
            nodes: None,
            no_postgres: false,
            no_touch: false,
            uncertain: false,
            no_redis: false,
            breaks: Box::new(breaks),
        }
    }

    /// Only these nodes feel it. Defaults to all.
    #[must_use]
    pub fn felt_by(mut self, nodes: impl IntoIterator<Item = u32>) -> Self {
        self.nodes = Some(nodes.into_iter().collect());
        self
    }

    /// While it lasts these nodes get no positive answer from Postgres: cut off, or rows hidden. The
    /// checker relies on it in both ways: such a node need not know of a revoke yet, and must not say
    /// Invalid.
    #[must_use]
    pub fn no_postgres(mut self) -> Self {
        self.no_postgres = true;
        self
    }

    /// As [`no_postgres`](Self::no_postgres), where it is not certain: some get an answer all the same.
    /// Such a node need not know of a revoke yet, and may say Invalid.
    #[must_use]
    pub fn perhaps_no_postgres(mut self) -> Self {
        (self.no_postgres, self.uncertain) = (true, true);
        self
    }

    /// While it lasts Postgres may answer, and the use of a session not be noted in it all the same: an idle
    /// timeout may come that much earlier.
    #[must_use]
    pub fn no_touch(mut self) -> Self {
        self.no_touch = true;
        self
    }

    /// While it lasts Redis may lose, or not acknowledge, what is asked of it.
    #[must_use]
    pub fn no_redis(mut self) -> Self {
        self.no_redis = true;
        self
    }

    /// Waits for its time, causes it, heals it, records it.
    pub(super) async fn run(mut self, recorder: Recorder, load_began: Nanos) {
        let clock = recorder.clock();
        let due = load_began.saturating_add(nanos(self.at));
        tokio::time::sleep_until(clock.at(due)).await;
        let at = clock.now();
        let mut failures = Vec::new();
        let caused = self.breaks.cause().await;
        let since = clock.now();
        match caused {
            Ok(()) => tokio::time::sleep_until(clock.at(since) + self.lasts).await,
            Err(error) => failures.push(format!("the fault {} was not caused: {error}", self.name)),
        }
        let failed = !failures.is_empty();
        let until = clock.now();
        let touched = match self.breaks.heal().await {
            Ok(touched) => touched,
            Err(error) => {
                failures.push(format!("the fault {} was not healed: {error}", self.name));
                None
            }
        };
        let healed = clock.now();
        failures
            .into_iter()
            .for_each(|failure| recorder.problem(failure));
        recorder.record(Entry::Fault(Fault {
            name: self.name,
            at,
            // What failed half-way, or is uncertain, may have been felt but was never in force for certain:
            // its certain span ends before it begins.
            since: Some(if failed || self.uncertain {
                healed
            } else {
                since
            }),
            until: Some(until),
            healed: Some(healed),
            nodes: self.nodes,
            no_postgres: self.no_postgres,
            no_touch: self.no_touch,
            no_redis: self.no_redis,
            touched: if failed {
                Some(Touched::default())
            } else {
                touched
            },
        }));
    }
}

impl fmt::Debug for Scheduled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduled")
            .field("name", &self.name)
            .field("at", &self.at)
            .field("lasts", &self.lasts)
            .finish_non_exhaustive()
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// [`Break`] without its type.
trait Erased: Send {
    fn cause(&mut self) -> Boxed<'_, Result<(), Failure>>;
    fn heal(&mut self) -> Boxed<'_, Result<Option<Touched>, Failure>>;
}

impl<B: Break> Erased for B {
    fn cause(&mut self) -> Boxed<'_, Result<(), Failure>> {
        Box::pin(Break::cause(self))
    }
    fn heal(&mut self) -> Boxed<'_, Result<Option<Touched>, Failure>> {
        Box::pin(Break::heal(self))
    }
}
