//! What a middleware is put through, step by step.

mod dropped;
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
use self::polling::{Came, PATIENCE, Woken, call, in_time, poll_once};
use super::{
    BoxError, Inner, Make, Probe, Report, Rule, Violation,
    inner::{Behaviour, Notes},
};
use crate::wait;

/// How many requests are under way at once.
const AT_ONCE: usize = 5;

/// Takes all steps.
pub(super) async fn take<L, Req, Res>(probe: &Probe<L, Req, Res>) -> (Report, Vec<Violation>)
where
    L: Layer<Inner<Res>>,
    L::Service: Service<Req> + Clone,
    <L::Service as Service<Req>>::Error: Into<BoxError>,
    Res: Send + 'static,
{
    let mut under = Under {
        probe,
        report: Report::default(),
        violations: Vec::new(),
    };
    // After a panic, the next step has a service of its own.
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
        // Nothing else would mean anything.
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
    /// A service around an inner one that behaves so.
    fn service(&self, behaviour: Behaviour) -> (L::Service, Arc<Notes>) {
        let notes = Arc::new(Notes::default());
        notes.behave(behaviour);
        (self.around(&notes), notes)
    }

    fn around(&self, notes: &Arc<Notes>) -> L::Service {
        let inner = Inner::new(Arc::clone(notes), Arc::clone(&self.probe.answer));
        self.probe.layer.layer(inner)
    }

    fn passing(&self) -> Req {
        (self.probe.requests[0])()
    }

    fn broken(&mut self, rule: Rule, what: impl Into<String>) {
        let violation = Violation {
            rule,
            what: what.into(),
        };
        if !self.violations.contains(&violation) {
            self.violations.push(violation);
        }
    }

    fn broke(&self, rule: Rule) -> bool {
        self.violations.iter().any(|broken| broken.rule == rule)
    }

    /// Reads what the inner service has noted by the end of a step.
    fn read(&mut self, notes: &Notes) {
        let (calls, unready, polled) = {
            let noted = notes.lock();
            (noted.calls, noted.unready_calls, noted.polled_in_call)
        };
        self.report.calls += calls;
        if unready > 0 {
            let what = "it called an instance of the inner service that was not polled ready";
            self.broken(Rule::CallsOnlyWhatIsReady, what);
        }
        if polled > 0 {
            let what = "its `call` polled the inner service's readiness";
            self.broken(Rule::CallDoesNotPollReady, what);
        }
    }

    /// Waits until it is ready, which an inner service that is ready leaves no reason not to be.
    async fn until_ready(&mut self, service: &mut L::Service) -> bool {
        match in_time(poll_fn(|cx| service.poll_ready(cx))).await {
            Came::Done(Ok(())) => true,
            Came::Done(Err(error)) => {
                let error = error.into();
                let what = format!("around a service that is ready, its readiness failed: {error}");
                self.broken(Rule::PassesRequestsOn, what);
                false
            }
            Came::Hung => {
                let what = format!("around a service that is ready, it was not after {PATIENCE:?}");
                self.broken(Rule::PassesRequestsOn, what);
                false
            }
        }
    }

    /// A whole request, which must be answered.
    async fn request(&mut self, service: &mut L::Service, notes: &Notes, make: &Make<Req>) {
        if self.until_ready(service).await {
            let answering = call(service, notes, make());
            self.answered(answering).await;
        }
    }

    async fn answered<T, E: Into<BoxError>>(&mut self, answer: impl Future<Output = Result<T, E>>) {
        match in_time(answer).await {
            Came::Done(Ok(_)) => {}
            Came::Done(Err(error)) => {
                let error = error.into();
                let what = format!("of a service that answers, it made an error: {error}");
                self.broken(Rule::PassesRequestsOn, what);
            }
            Came::Hung => {
                let what = format!("a request had no answer after {PATIENCE:?}");
                self.broken(Rule::PassesRequestsOn, what);
            }
        }
    }

    async fn one_after_the_other(&mut self) {
        for (number, make) in self.probe.requests.iter().enumerate() {
            let (mut service, notes) = self.service(Behaviour::Answers);
            for _ in 0..3 {
                self.request(&mut service, &notes, make).await;
                if self.broke(Rule::PassesRequestsOn) {
                    break;
                }
            }
            if number == 0 && notes.lock().calls == 0 {
                let what = "the request that should pass did not reach the inner service";
                self.broken(Rule::PassesRequestsOn, what);
            }
            self.read(&notes);
        }
    }

    async fn several_at_once(&mut self) {
        let (mut service, notes) = self.service(Behaviour::Answers);
        let mut under_way = Vec::new();
        for _ in 0..AT_ONCE {
            // A middleware may have room for fewer.
            if poll_once(&mut service).is_pending() {
                self.all_answered(&mut under_way).await;
            }
            if !self.until_ready(&mut service).await {
                break;
            }
            under_way.push(call(&mut service, &notes, self.passing()));
        }
        self.all_answered(&mut under_way).await;
        self.read(&notes);
    }

    async fn all_answered<F, T, E>(&mut self, under_way: &mut Vec<F>)
    where
        F: Future<Output = Result<T, E>>,
        E: Into<BoxError>,
    {
        let all = futures_util::future::join_all(under_way.drain(..));
        if let Came::Done(answers) = in_time(all).await {
            for answer in answers {
                self.answered(std::future::ready(answer)).await;
            }
        } else {
            let what = format!("of {AT_ONCE} requests at once, some had no answer");
            self.broken(Rule::PassesRequestsOn, what);
        }
    }

    /// A clone of a service that is ready must be polled for itself.
    async fn clones(&mut self) {
        let (mut original, notes) = self.service(Behaviour::Answers);
        let mut unused = original.clone();
        if self.until_ready(&mut original).await {
            let mut clone = original.clone();
            let pass = Arc::clone(&self.probe.requests[0]);
            // Where there is room for one only, it waits for the original.
            if poll_once(&mut clone).is_pending() {
                let answering = call(&mut original, &notes, pass());
                self.answered(answering).await;
                self.request(&mut clone, &notes, &pass).await;
            } else {
                let answering = call(&mut clone, &notes, pass());
                self.answered(answering).await;
                let answering = call(&mut original, &notes, pass());
                self.answered(answering).await;
            }
            drop((original, clone));
            self.request(&mut unused, &notes, &pass).await;
        }
        self.read(&notes);
    }

    async fn repeated_readiness(&mut self) {
        let (mut service, notes) = self.service(Behaviour::Answers);
        if self.until_ready(&mut service).await {
            for _ in 0..3 {
                if poll_once(&mut service).is_pending() {
                    let what = "it was ready, was polled again, and was no longer";
                    self.broken(Rule::StaysReady, what);
                }
            }
            let answering = call(&mut service, &notes, self.passing());
            self.answered(answering).await;
        }
        self.read(&notes);
    }

    /// Around a service that is not ready, and then is.
    async fn unready(&mut self) {
        let (mut service, notes) = self.service(Behaviour::Unready);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        match service.poll_ready(&mut cx) {
            Poll::Pending => {
                notes.behave(Behaviour::Answers);
                let what = "to be woken";
                if wait::until(what, PATIENCE, async || woken.is())
                    .await
                    .is_err()
                {
                    let what = "the inner service came to be ready, and who waited was not woken";
                    self.broken(Rule::Wakes, what);
                }
                let pass = Arc::clone(&self.probe.requests[0]);
                self.request(&mut service, &notes, &pass).await;
            }
            Poll::Ready(Ok(())) => {
                let what = "around a service that is not ready, it says that it is";
                self.broken(Rule::Backpressure, what);
                let mut answering = pin!(call(&mut service, &notes, self.passing()));
                let early = answering.as_mut().poll(&mut cx);
                notes.behave(Behaviour::Answers);
                // It may wait in there, or shed the request.
                if early.is_pending() && matches!(in_time(answering).await, Came::Hung) {
                    let what = "the inner service came to be ready, and a request that waited for it \
                                had no answer";
                    self.broken(Rule::Wakes, what);
                }
            }
            Poll::Ready(Err(error)) => {
                let error = error.into();
                let what =
                    format!("around a service that is not ready, its readiness failed: {error}");
                self.broken(Rule::Backpressure, what);
            }
        }
        self.read(&notes);
    }

    async fn failing_readiness(&mut self) {
        const RULE: Rule = Rule::ReadinessErrors;
        for make in &self.probe.requests {
            let (mut service, notes) = self.service(Behaviour::FailsToBeReady);
            match in_time(poll_fn(|cx| service.poll_ready(cx))).await {
                Came::Done(Err(error)) => self.is_passed_on(RULE, error),
                Came::Done(Ok(())) => {
                    // A middleware that polls the inner service later learns of it later.
                    match in_time(call(&mut service, &notes, make())).await {
                        Came::Done(Err(error)) => {
                            let what = "around a service that can't be ready, it says that it is";
                            self.broken(Rule::Backpressure, what);
                            self.is_passed_on(RULE, error);
                        }
                        Came::Done(Ok(_)) => {
                            let what = "the inner service's readiness failed; the middleware was ready, \
                                        and answered";
                            self.broken(RULE, what);
                        }
                        Came::Hung => {
                            let what = "the inner service's readiness failed; the middleware was ready, \
                                        and hung";
                            self.broken(RULE, what);
                        }
                    }
                }
                Came::Hung => {
                    let what = "the inner service's readiness failed, and the middleware's hung";
                    self.broken(RULE, what);
                }
            }
            self.read(&notes);
        }
    }

    async fn failing_calls(&mut self) {
        let (mut service, notes) = self.service(Behaviour::Fails);
        if self.until_ready(&mut service).await {
            match in_time(call(&mut service, &notes, self.passing())).await {
                Came::Done(Err(error)) => self.is_passed_on(Rule::Errors, error),
                // Where the request got no further, that is told already.
                Came::Done(Ok(_)) if notes.lock().calls == 0 => {}
                Came::Done(Ok(_)) => {
                    let what = "the inner service failed, and the middleware answered";
                    self.broken(Rule::Errors, what);
                }
                Came::Hung => {
                    let what = "the inner service failed, and the middleware hung";
                    self.broken(Rule::Errors, what);
                }
            }
        }
        self.read(&notes);
    }

    /// The error must be the inner service's, or have it as a source.
    fn is_passed_on(&mut self, rule: Rule, error: impl Into<BoxError>) {
        let error = error.into();
        if !is_inners(&*error) {
            let what =
                format!("in the place of the inner service's error it gives another: {error}");
            self.broken(rule, what);
        }
    }
}
