//! The steps that a middleware is put through.

mod cancel;
mod polling;

use std::{
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures_util::FutureExt as _;
use tower::{Layer, Service};

pub(super) use self::polling::is_inners;
use self::polling::{Outcome, TIMEOUT, Woken, call, in_time, poll_once};
use super::{
    BoxError, Inner, Make, Probe, Report, Rule, Violation,
    inner::{Behaviour, CallLog},
};
use crate::wait;

/// The number of concurrent requests.
const AT_ONCE: usize = 5;

/// Runs all steps.
pub(super) async fn take<L, Req, Res>(probe: &Probe<L, Req, Res>) -> (Report, Vec<Violation>)
where
    L: Layer<Inner<Res>>,
    L::Service: Service<Req> + Clone,
    <L::Service as Service<Req>>::Error: Into<BoxError>,
    Res: Send + 'static,
{
    let mut under = Under { probe, report: Report::default(), violations: Vec::new() };
    // After a panic, the next step has a new service.
    macro_rules! step {
        ($step:ident) => {
            let step = AssertUnwindSafe(under.$step()).catch_unwind().await;
            if step.is_err() {
                let what = concat!("it panicked (", stringify!($step), ")");
                under.broken(Rule::NoPanic, what);
            }
        };
    }
    step!(one_after_the_other);
    if under.broke(Rule::PassesRequestsOn) {
        // Without it, no other step would prove anything.
        return (under.report, under.violations);
    }
    step!(several_at_once);
    step!(clones);
    step!(repeated_readiness);
    step!(unready);
    step!(failing_readiness);
    step!(failing_calls);
    step!(dropped_unused);
    step!(dropped_at_each_await);
    (under.report, under.violations)
}

/// The middleware under test.
struct Under<'a, L, Req, Res> {
    probe: &'a Probe<L, Req, Res>,
    report: Report,
    violations: Vec<Violation>,
}

impl<L, Req, Res> Under<'_, L, Req, Res>
where
    L: Layer<Inner<Res>>,
    L::Service: Service<Req> + Clone,
    <L::Service as Service<Req>>::Error: Into<BoxError>,
    Res: Send + 'static,
{
    /// Returns a service around an inner one with this behaviour.
    fn service(&self, behaviour: Behaviour) -> (L::Service, Arc<CallLog>) {
        let log = Arc::new(CallLog::default());
        log.behave(behaviour);
        (self.around(&log), log)
    }

    fn around(&self, log: &Arc<CallLog>) -> L::Service {
        let inner = Inner::new(Arc::clone(log), Arc::clone(&self.probe.answer));
        self.probe.layer.layer(inner)
    }

    fn passing(&self) -> Req {
        (self.probe.requests[0])()
    }

    fn broken(&mut self, rule: Rule, what: impl Into<String>) {
        let violation = Violation { rule, what: what.into() };
        if !self.violations.contains(&violation) {
            self.violations.push(violation);
        }
    }

    fn broke(&self, rule: Rule) -> bool {
        self.violations.iter().any(|broken| broken.rule == rule)
    }

    /// Evaluates the inner service's log at the end of a step.
    fn read(&mut self, log: &CallLog) {
        let (calls, unready, polled) = {
            let state = log.lock();
            (state.calls, state.unready_calls, state.polled_in_call)
        };
        self.report.calls += calls;
        if unready > 0 {
            let what = "it called an instance of the inner service that was not polled ready";
            self.broken(Rule::CallsOnlyWhatIsReady, what);
        }
        if polled > 0 {
            self.broken(
                Rule::CallDoesNotPollReady,
                "its `call` polled the inner service's readiness",
            );
        }
    }

    /// Waits for the middleware's readiness, around an inner service that is ready.
    async fn until_ready(&mut self, service: &mut L::Service) -> bool {
        let what = match in_time(poll_fn(|cx| service.poll_ready(cx))).await {
            Outcome::Done(Ok(())) => return true,
            Outcome::Done(Err(error)) => {
                let error = error.into();
                format!("its readiness failed around a service that is ready: {error}")
            }
            Outcome::Hung => {
                format!("it was not ready after {TIMEOUT:?} around a service that is ready")
            }
        };
        self.broken(Rule::PassesRequestsOn, what);
        false
    }

    /// Sends one request, which must get a response.
    async fn request(&mut self, service: &mut L::Service, log: &CallLog, make: &Make<Req>) {
        if self.until_ready(service).await {
            let answering = call(service, log, make());
            self.answered(answering).await;
        }
    }

    async fn answered<T, E: Into<BoxError>>(&mut self, answer: impl Future<Output = Result<T, E>>) {
        let what = match in_time(answer).await {
            Outcome::Done(Ok(_)) => return,
            Outcome::Done(Err(error)) => {
                let error = error.into();
                format!("it returned an error although the inner service responded: {error}")
            }
            Outcome::Hung => format!("a request had no response after {TIMEOUT:?}"),
        };
        self.broken(Rule::PassesRequestsOn, what);
    }

    async fn one_after_the_other(&mut self) {
        for (number, make) in self.probe.requests.iter().enumerate() {
            let (mut service, log) = self.service(Behaviour::Answers);
            for _ in 0..3 {
                self.request(&mut service, &log, make).await;
                if self.broke(Rule::PassesRequestsOn) {
                    break;
                }
            }
            if number == 0 && log.lock().calls == 0 {
                let what = "the request that should pass did not reach the inner service";
                self.broken(Rule::PassesRequestsOn, what);
            }
            self.read(&log);
        }
    }

    async fn several_at_once(&mut self) {
        let (mut service, log) = self.service(Behaviour::Answers);
        let mut under_way = Vec::new();
        for _ in 0..AT_ONCE {
            // A middleware may allow fewer concurrent requests.
            if poll_once(&mut service).is_pending() {
                self.all_answered(&mut under_way).await;
            }
            if !self.until_ready(&mut service).await {
                break;
            }
            under_way.push(call(&mut service, &log, self.passing()));
        }
        self.all_answered(&mut under_way).await;
        self.read(&log);
    }

    async fn all_answered<F, T, E>(&mut self, under_way: &mut Vec<F>)
    where
        F: Future<Output = Result<T, E>>,
        E: Into<BoxError>,
    {
        let all = futures_util::future::join_all(under_way.drain(..));
        if let Outcome::Done(answers) = in_time(all).await {
            for answer in answers {
                self.answered(std::future::ready(answer)).await;
            }
        } else {
            let what = format!("some of {AT_ONCE} concurrent requests had no response");
            self.broken(Rule::PassesRequestsOn, what);
        }
    }

    /// Checks that a clone of a ready service is polled on its own.
    async fn clones(&mut self) {
        let (mut original, log) = self.service(Behaviour::Answers);
        let mut unused = original.clone();
        if self.until_ready(&mut original).await {
            let mut clone = original.clone();
            let pass = Arc::clone(&self.probe.requests[0]);
            // If there is room for one request only, the clone waits for the original.
            if poll_once(&mut clone).is_pending() {
                let answering = call(&mut original, &log, pass());
                self.answered(answering).await;
                self.request(&mut clone, &log, &pass).await;
            } else {
                let answering = call(&mut clone, &log, pass());
                self.answered(answering).await;
                let answering = call(&mut original, &log, pass());
                self.answered(answering).await;
            }
            drop((original, clone));
            self.request(&mut unused, &log, &pass).await;
        }
        self.read(&log);
    }

    async fn repeated_readiness(&mut self) {
        let (mut service, log) = self.service(Behaviour::Answers);
        if self.until_ready(&mut service).await {
            for _ in 0..3 {
                if poll_once(&mut service).is_pending() {
                    let what = "it was ready, and was not ready when polled again";
                    self.broken(Rule::StaysReady, what);
                }
            }
            let answering = call(&mut service, &log, self.passing());
            self.answered(answering).await;
        }
        self.read(&log);
    }

    /// Checks a service that is not ready at first, and then becomes ready.
    async fn unready(&mut self) {
        let (mut service, log) = self.service(Behaviour::Unready);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        match service.poll_ready(&mut cx) {
            Poll::Pending => {
                log.behave(Behaviour::Answers);
                if wait::until("a wake-up", TIMEOUT, async || woken.is()).await.is_err() {
                    let what = "it did not wake the waiting task when the inner service became \
                        ready";
                    self.broken(Rule::Wakes, what);
                }
                let pass = Arc::clone(&self.probe.requests[0]);
                self.request(&mut service, &log, &pass).await;
            }
            Poll::Ready(Ok(())) => {
                let what = "it reports ready around a service that is not ready";
                self.broken(Rule::Backpressure, what);
                let mut answering = pin!(call(&mut service, &log, self.passing()));
                let early = answering.as_mut().poll(&mut cx);
                log.behave(Behaviour::Answers);
                // The middleware may wait in the future, or shed the request.
                if early.is_pending() && matches!(in_time(answering).await, Outcome::Hung) {
                    let what = "a request that waited for the inner service had no response after \
                        the inner service became ready";
                    self.broken(Rule::Wakes, what);
                }
            }
            Poll::Ready(Err(error)) => {
                let error = error.into();
                let what =
                    format!("its readiness failed around a service that is not ready: {error}");
                self.broken(Rule::Backpressure, what);
            }
        }
        self.read(&log);
    }

    async fn failing_readiness(&mut self) {
        const RULE: Rule = Rule::ReadinessErrors;
        for make in &self.probe.requests {
            let (mut service, log) = self.service(Behaviour::FailsToBeReady);
            match in_time(poll_fn(|cx| service.poll_ready(cx))).await {
                Outcome::Done(Err(error)) => self.is_passed_on(RULE, error),
                Outcome::Done(Ok(())) => {
                    // A middleware that polls the inner service later learns of the error later.
                    match in_time(call(&mut service, &log, make())).await {
                        Outcome::Done(Err(error)) => {
                            let what = "it reports ready around a service that cannot be ready";
                            self.broken(Rule::Backpressure, what);
                            self.is_passed_on(RULE, error);
                        }
                        Outcome::Done(Ok(_)) => {
                            let what = "it responded although the inner service's readiness failed";
                            self.broken(RULE, what);
                        }
                        Outcome::Hung => {
                            self.broken(RULE, "it hung after the inner service's readiness failed");
                        }
                    }
                }
                Outcome::Hung => {
                    self.broken(RULE, "its readiness hung after the inner service's failed");
                }
            }
            self.read(&log);
        }
    }

    async fn failing_calls(&mut self) {
        let (mut service, log) = self.service(Behaviour::Fails);
        if self.until_ready(&mut service).await {
            match in_time(call(&mut service, &log, self.passing())).await {
                Outcome::Done(Err(error)) => self.is_passed_on(Rule::Errors, error),
                // If the request did not arrive, that is already reported.
                Outcome::Done(Ok(_)) if log.lock().calls == 0 => {}
                Outcome::Done(Ok(_)) => {
                    self.broken(Rule::Errors, "it responded although the inner service failed");
                }
                Outcome::Hung => {
                    self.broken(Rule::Errors, "it hung after the inner service failed");
                }
            }
        }
        self.read(&log);
    }

    /// Checks that the error is the inner service's, or has it as a source.
    fn is_passed_on(&mut self, rule: Rule, error: impl Into<BoxError>) {
        let error = error.into();
        if !is_inners(&*error) {
            let what = format!("it replaced the inner service's error by another: {error}");
            self.broken(rule, what);
        }
    }
}
