//! Tower's rules, and what is said of a middleware that breaks them.

use std::fmt;

/// A rule of Tower's. Its words are those of the documentation of `tower::Service`, where they are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The instance that was polled ready is the one that is called: a clone does not carry readiness.
    CallsOnlyWhatIsReady,
    /// `call` does not call `poll_ready`.
    CallDoesNotPollReady,
    /// The middleware is ready when the inner service is.
    Backpressure,
    /// Whoever waits for readiness is woken when it comes.
    Wakes,
    /// What is ready stays so until it is called.
    StaysReady,
    /// An error of the inner service's readiness reaches the caller.
    ReadinessErrors,
    /// An error of the inner service's answer reaches the caller.
    Errors,
    /// What readiness reserved is released when the service or the future is dropped.
    ReleasesSlots,
    /// A future that was dropped, at whichever await, does not spoil what comes after.
    LeavesNothingBehind,
    /// A request that passes reaches the inner service, and its answer comes back.
    PassesRequestsOn,
    /// A service that is used as it should be does not panic.
    NoPanic,
}

impl Rule {
    /// The rule in words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::CallsOnlyWhatIsReady => {
                "\"Before dispatching a request, `poll_ready` must be called and return \
                 `Poll::Ready(Ok(()))`\": \"even though the original service is ready, the clone might \
                 not be\""
            }
            Self::CallDoesNotPollReady => {
                "`call` \"is expected to be callable off task. As such, implementations should take care to \
                 not call `poll_ready`\""
            }
            Self::Backpressure => {
                "a middleware \"is ready if the inner service is ready. This is how backpressure can be \
                 propagated through a tree of nested services\""
            }
            Self::Wakes => {
                "\"If the service is at capacity, then `Poll::Pending` is returned and the task is notified \
                 when the service becomes ready again\""
            }
            Self::StaysReady => {
                "\"Until a request is dispatched, repeated calls to `poll_ready` must return either \
                 `Poll::Ready(Ok(()))` or `Poll::Ready(Err(_))`\""
            }
            Self::ReadinessErrors => {
                "\"If `Poll::Ready(Err(_))` is returned, the service is no longer able to service requests \
                 and the caller should discard the service instance\": so it must learn of it"
            }
            Self::Errors => {
                "the inner service's error reaches the caller, itself or as a source of the middleware's"
            }
            Self::ReleasesSlots => {
                "\"`poll_ready` may reserve shared resources\": \"it is critical […] to ensure that such \
                 resources are released if the service is dropped before `call` is invoked or the future \
                 returned by `call` is dropped before it is polled\""
            }
            Self::LeavesNothingBehind => {
                "a future may be dropped at any await, and the next request is answered as if it had never \
                 been"
            }
            Self::PassesRequestsOn => {
                "a request that passes reaches the inner service, and its answer comes back (without that, \
                 the probe would say nothing)"
            }
            Self::NoPanic => {
                "a service may panic \"if `call` is invoked without obtaining `Poll::Ready(Ok(()))` from \
                 `poll_ready`\", and only then"
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// What the middleware did, in a sentence.
    pub what: String,
}

/// What a middleware that keeps the rules was put through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// How often the inner service was called.
    pub calls: usize,
    /// At how many awaits a future was dropped, that before its first poll included.
    pub dropped_at: usize,
    /// The rules it was allowed to break.
    pub allowed: Vec<Rule>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Tower's rules are kept: {} calls, dropped at {} awaits",
            self.calls, self.dropped_at
        )?;
        if !self.allowed.is_empty() {
            write!(f, "; not looked at: {:?}", self.allowed)?;
        }
        Ok(())
    }
}

/// A middleware that does not keep Tower's rules.
#[derive(Clone, PartialEq, Eq)]
pub struct RulesBroken {
    pub(super) violations: Vec<Violation>,
}

impl RulesBroken {
    /// What was broken, each way of breaking a rule once.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Was this rule broken?
    #[must_use]
    pub fn broke(&self, rule: Rule) -> bool {
        self.violations.iter().any(|broken| broken.rule == rule)
    }
}

impl std::error::Error for RulesBroken {}

impl fmt::Display for RulesBroken {
    /// Of each violation: the rule, what the middleware did, and the rule's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the middleware breaks Tower's rules:")?;
        for Violation { rule, what } in &self.violations {
            write!(f, "\n  {rule}: {what}\n    the rule: {}", rule.text())?;
        }
        Ok(())
    }
}

impl fmt::Debug for RulesBroken {
    /// The same sentences: it is what a test or a `main` that returns the error prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
