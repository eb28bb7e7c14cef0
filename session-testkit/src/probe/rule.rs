//! Tower's rules, and the report on a middleware that breaks them.

use std::fmt;

/// A rule of Tower's. Its text quotes the documentation of `tower::Service` where that states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// Only the instance that was polled ready is called: "even though the original service is
    /// ready, the clone might not be".
    CallsOnlyWhatIsReady,
    /// `call` "is expected to be callable off task. As such, implementations should take care to
    /// not call `poll_ready`".
    CallDoesNotPollReady,
    /// A middleware "is ready if the inner service is ready. This is how backpressure can be
    /// propagated through a tree of nested services". A load shedder and a buffer break this rule
    /// on purpose.
    Backpressure,
    /// "If the service is at capacity, then `Poll::Pending` is returned and the task is notified
    /// when the service becomes ready again".
    Wakes,
    /// "Until a request is dispatched, repeated calls to `poll_ready` must return either
    /// `Poll::Ready(Ok(()))` or `Poll::Ready(Err(_))`".
    StaysReady,
    /// An error of the inner service's readiness reaches the caller, who "should discard the
    /// service instance".
    ReadinessErrors,
    /// The inner service's error reaches the caller, itself or as a source of the middleware's.
    Errors,
    /// "It is critical" that resources which readiness reserved "are released if the service is
    /// dropped before `call` is invoked or the future returned by `call` is dropped before it is
    /// polled".
    ReleasesSlots,
    /// A future that was dropped at any await does not affect later requests.
    LeavesNothingBehind,
    /// A request that passes reaches the inner service, and its response comes back. Without that,
    /// the probe would prove nothing.
    PassesRequestsOn,
    /// A service may panic "if `call` is invoked without obtaining `Poll::Ready(Ok(()))` from
    /// `poll_ready`", and only then.
    NoPanic,
}

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// The behaviour of the middleware, in a sentence.
    pub what: String,
}

/// The coverage of a probe whose middleware kept the rules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The number of calls of the inner service.
    pub calls: usize,
    /// The number of awaits at which a future was dropped, before its first poll included.
    pub dropped_at: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, dropped_at } = self;
        write!(f, "Tower's rules are kept: {calls} calls, dropped at {dropped_at} awaits")
    }
}

/// The error for a middleware that breaks Tower's rules.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RulesBroken {
    /// The violations, each way of breaking a rule once.
    pub violations: Vec<Violation>,
}

impl std::error::Error for RulesBroken {}

impl fmt::Display for RulesBroken {
    /// Writes each violation: the name of the [`Rule`], and the middleware's behaviour.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the middleware breaks Tower's rules:")?;
        for Violation { rule, what } in &self.violations {
            write!(f, "\n  {rule:?}: {what}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for RulesBroken {
    /// Writes the same text, because a test or `main` that returns the error prints `Debug`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
