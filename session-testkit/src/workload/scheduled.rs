//! Scheduled faults: when, for how long, and their effect on the promises.

use std::{error::Error, fmt, future::Future, pin::Pin, time::Duration};

use super::Recorder;
use crate::{
    backends::chain,
    faults::{self, Fault, FaultGuard, Target},
    history::{self, Entry, Nanos, Touched, nanos},
    schedule::{Effect, Loss},
};

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
#[derive(Debug)]
pub struct Scheduled {
    name: String,
    /// The start, after the beginning of the load.
    at: Duration,
    lasts: Duration,
    /// The affected nodes. `None`: all.
    pub(crate) nodes: Option<Vec<u32>>,
    pub(crate) effect: Effect,
    breaks: Box<dyn Erased>,
}

impl Scheduled {
    /// Creates a fault without an [`effect`](Self::effect) on the promises. `at` counts from the
    /// beginning of the load.
    pub fn new(name: impl Into<String>, at: Duration, lasts: Duration, breaks: impl Break) -> Self {
        let breaks = Box::new(breaks);
        Self { name: name.into(), at, lasts, nodes: None, effect: Effect::NONE, breaks }
    }

    /// Creates a named fault. `at` counts from the beginning of the load.
    ///
    /// Redis may lose commands during a fault of Redis. For a fault of Postgres, the caller
    /// declares the [`effect`](Self::effect). After `postgres-kill` no request gets a reply. After
    /// `postgres-terminate` the next connection does.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use session_testkit::{backends::Backends, faults::Target, workload::Scheduled};
    ///
    /// let servers = Backends::start_own().await?;
    /// let (at, lasts) = (Duration::from_secs(1), Duration::from_secs(2));
    /// let killed = Scheduled::fault("redis-kill".parse()?, &Target::new(&servers), at, lasts);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn fault(fault: Fault, target: &Target, at: Duration, lasts: Duration) -> Self {
        let injected = Injected { fault, target: target.clone(), guard: None };
        let effect = Effect { redis: fault.is_redis(), ..Effect::NONE };
        Self::new(fault.name(), at, lasts, injected).effect(effect)
    }

    /// Declares the effect on the promises, which the checker relies on.
    #[must_use]
    pub fn effect(self, effect: Effect) -> Self {
        Self { effect, ..self }
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
                let error = chain(&*error);
                failures.push(format!("could not cause the fault {}: {error}", self.name));
            }
        }
        let failed = !failures.is_empty();
        let until = clock.now();
        let touched = match self.breaks.heal().await {
            Ok(touched) => touched,
            Err(error) => {
                let error = chain(&*error);
                failures.push(format!("could not heal the fault {}: {error}", self.name));
                None
            }
        };
        let healed = clock.now();
        failures.into_iter().for_each(|failure| recorder.problem(failure));
        let uncertain = self.effect.postgres == Loss::Perhaps;
        recorder.record(Entry::Fault(history::Fault {
            name: self.name,
            at,
            // A fault that failed half-way or is uncertain may have had an effect, but was never
            // certainly active. Its certain span therefore ends before it begins.
            since: Some(if failed || uncertain { healed } else { since }),
            until: Some(until),
            healed: Some(healed),
            nodes: self.nodes,
            no_postgres: self.effect.postgres != Loss::Not,
            no_touch: self.effect.touch,
            no_redis: self.effect.redis,
            touched: if failed { Some(Touched::default()) } else { touched },
            around: None,
        }));
    }
}

struct Injected {
    fault: Fault,
    target: Target,
    guard: Option<FaultGuard>,
}

impl Break for Injected {
    async fn cause(&mut self) -> Result<(), Failure> {
        self.guard = Some(faults::inject(&self.fault, &self.target).await?);
        Ok(())
    }

    async fn heal(&mut self) -> Result<Option<Touched>, Failure> {
        let Some(guard) = self.guard.take() else {
            return Ok(None);
        };
        let report = guard.heal().await?;
        // If the server counts effects, only they prove that the fault had one.
        let connections = report.effects.unwrap_or(report.connections);
        Ok(Some(Touched { connections, bytes: 0 }))
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

impl fmt::Debug for dyn Erased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fault")
    }
}
