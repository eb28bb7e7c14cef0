//! Scheduled faults: when, for how long, and their effect on the promises.

use std::{error::Error, fmt, future::Future, pin::Pin, time::Duration};

use super::Recorder;
use crate::history::{Entry, Fault, Nanos, Touched, nanos};

/// The error of a fault that could not be caused or healed.
pub type Failure = Box<dyn Error + Send + Sync>;

/// A fault that can be caused and healed.
///
/// If it is dropped before it is healed, because the run was interrupted, it must heal by itself.
pub trait Break: Send + 'static {
    /// Causes the fault. It is active on return.
    fn cause(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Heals the fault. It has ended on return. Returns what was affected, if that can be counted.
    fn heal(&mut self) -> impl Future<Output = Result<Option<Touched>, Failure>> + Send;
}

/// A fault with its time, written manually or drawn from a seed.
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
    /// Creates a fault. `at` counts from the beginning of the load.
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

    /// Limits the fault to these nodes. By default it affects all.
    #[must_use]
    pub fn on_nodes(mut self, nodes: impl IntoIterator<Item = u32>) -> Self {
        self.nodes = Some(nodes.into_iter().collect());
        self
    }

    /// Declares that the nodes get no useful reply from Postgres while the fault lasts. They are
    /// cut off, or rows are hidden. The checker relies on it in two ways: such a node may miss a
    /// revoke, and must not return Invalid.
    #[must_use]
    pub fn no_postgres(mut self) -> Self {
        self.no_postgres = true;
        self
    }

    /// Declares that nodes may be cut off from Postgres, although some still get replies. Such a
    /// node may miss a revoke, and may return Invalid.
    #[must_use]
    pub fn maybe_no_postgres(mut self) -> Self {
        (self.no_postgres, self.uncertain) = (true, true);
        self
    }

    /// Declares that touches may fail although Postgres replies. An idle timeout may then be that
    /// much earlier.
    #[must_use]
    pub fn no_touch(mut self) -> Self {
        self.no_touch = true;
        self
    }

    /// Declares that Redis may lose commands, or not acknowledge them, while the fault lasts.
    #[must_use]
    pub fn no_redis(mut self) -> Self {
        self.no_redis = true;
        self
    }

    /// Waits for the fault's time, then causes, heals and records it.
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
            Err(error) => {
                failures.push(format!("could not cause the fault {}: {error}", self.name));
            }
        }
        let failed = !failures.is_empty();
        let until = clock.now();
        let touched = match self.breaks.heal().await {
            Ok(touched) => touched,
            Err(error) => {
                failures.push(format!("could not heal the fault {}: {error}", self.name));
                None
            }
        };
        let healed = clock.now();
        failures.into_iter().for_each(|failure| recorder.problem(failure));
        recorder.record(Entry::Fault(Fault {
            name: self.name,
            at,
            // A fault that failed half-way or is uncertain may have had an effect, but was never
            // certainly active. Its certain span therefore ends before it begins.
            since: Some(if failed || self.uncertain { healed } else { since }),
            until: Some(until),
            healed: Some(healed),
            nodes: self.nodes,
            no_postgres: self.no_postgres,
            no_touch: self.no_touch,
            no_redis: self.no_redis,
            touched: if failed { Some(Touched::default()) } else { touched },
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

/// A [`Break`] without its type.
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
