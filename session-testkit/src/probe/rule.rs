//! Tower's rules, and the report on a middleware that breaks them.

use std::fmt;

/// A rule of Tower's. Its text quotes the documentation of `tower::Service` where that states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// Only the instance that was polled ready is called. A clone does not carry readiness.
    CallsOnlyWhatIsReady,
    /// `call` does not call `poll_ready`.
    CallDoesNotPollReady,
    /// The middleware is ready when the inner service is.
    Backpressure,
    /// A task that waits for readiness is woken when the service becomes ready.
    Wakes,
    /// A service that is ready remains ready until it is called.
    StaysReady,
    /// An error of the inner service's readiness reaches the caller.
    ReadinessErrors,
    /// An error of the inner service's response reaches the caller.
    Errors,
    /// A slot that readiness reserved is released when the service or the future is dropped.
    ReleasesSlots,
    /// A future that was dropped at any await does not affect later requests.
    LeavesNothingBehind,
    /// A request that passes reaches the inner service, and its response comes back.
    PassesRequestsOn,
    /// A service that is used correctly does not panic.
    NoPanic,
}

impl Rule {
    /// Returns the text of the rule.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::CallsOnlyWhatIsReady => {
                "\"Before dispatching a request, `poll_ready` must be called and return \
                 `Poll::Ready(Ok(()))`\": \"even though the original service is ready, the clone \
                 might not be\""
            }
            Self::CallDoesNotPollReady => {
                "`call` \"is expected to be callable off task. As such, implementations should \
                 take care to not call `poll_ready`\""
            }
            Self::Backpressure => {
                "a middleware \"is ready if the inner service is ready. This is how backpressure \
                 can be propagated through a tree of nested services\""
            }
            Self::Wakes => {
                "\"If the service is at capacity, then `Poll::Pending` is returned and the task is \
                 notified when the service becomes ready again\""
            }
            Self::StaysReady => {
                "\"Until a request is dispatched, repeated calls to `poll_ready` must return \
                 either `Poll::Ready(Ok(()))` or `Poll::Ready(Err(_))`\""
            }
            Self::ReadinessErrors => {
                "\"If `Poll::Ready(Err(_))` is returned, the service is no longer able to service \
                 requests and the caller should discard the service instance\": the caller must \
                 therefore receive the error"
            }
            Self::Errors => {
                "the inner service's error reaches the caller, itself or as a source of the \
                 middleware's"
            }
            Self::ReleasesSlots => {
                "\"`poll_ready` may reserve shared resources\": \"it is critical […] to ensure \
                 that such resources are released if the service is dropped before `call` is \
                 invoked or the future returned by `call` is dropped before it is polled\""
            }
            Self::LeavesNothingBehind => {
                "a future may be dropped at any await, and this does not affect the next request"
            }
            Self::PassesRequestsOn => {
                "a request that passes reaches the inner service, and its response comes back \
                 (without that, the probe would prove nothing)"
            }
            Self::NoPanic => {
                "a service may panic \"if `call` is invoked without obtaining \
                 `Poll::Ready(Ok(()))` from `poll_ready`\", and only then"
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
    /// The rule.
    pub rule: Rule,
    /// The behaviour of the middleware, in a sentence.
    pub what: String,
}

/// The coverage of a probe whose middleware kept the rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The number of calls of the inner service.
    pub calls: usize,
    /// The number of awaits at which a future was dropped, before its first poll included.
    pub dropped_at: usize,
    /// The rules that the middleware was allowed to break.
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
            write!(f, ", not checked: {:?}", self.allowed)?;
        }
        Ok(())
    }
}

/// The error for a middleware that breaks Tower's rules.
#[derive(Clone, PartialEq, Eq)]
pub struct RulesBroken {
    pub(super) violations: Vec<Violation>,
}

impl RulesBroken {
    /// Returns the violations, each way of breaking a rule once.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Returns whether this rule was broken.
    #[must_use]
    pub fn broke(&self, rule: Rule) -> bool {
        self.violations.iter().any(|broken| broken.rule == rule)
    }
}

impl std::error::Error for RulesBroken {}

impl fmt::Display for RulesBroken {
    /// Writes each violation: the rule, the middleware's behaviour, and the rule's text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the middleware breaks Tower's rules:")?;
        for Violation { rule, what } in &self.violations {
            write!(f, "\n  {rule}: {what}\n    the rule: {}", rule.text())?;
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
