//! The steps that a middleware is put through.

use std::{
    error::Error,
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use futures_util::{FutureExt as _, future::join_all};
use tokio::time::timeout;
use tower::{Layer, Service};

use super::{
    BoxError, Inner, InnerError, Make, Probe, Report, Rule, Violation,
    inner::{Behaviour, CallLog},
};
use crate::wait;

/// The timeout of every await. A future that takes longer has hung.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The number of concurrent requests.
const AT_ONCE: usize = 5;
/// The maximum number of polls before a future is dropped.
const MAX_POLLS: usize = 200;

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
            if AssertUnwindSafe(under.$step()).catch_unwind().await.is_err() {
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
    step!(dropped_anywhere);
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

    /// Records a violation unless the rule holds. Returns whether it holds.
    fn expect(&mut self, holds: bool, rule: Rule, what: &str) -> bool {
        if !holds {
            self.broken(rule, what);
        }
        holds
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
        let what = "it called an instance of the inner service that was not polled ready";
        self.expect(unready == 0, Rule::CallsOnlyWhatIsReady, what);
        let what = "its `call` polled the inner service's readiness";
        self.expect(polled == 0, Rule::CallDoesNotPollReady, what);
    }

    /// Waits for the middleware's readiness, around an inner service that is ready.
    async fn until_ready(&mut self, service: &mut L::Service) -> bool {
        match within_timeout(poll_fn(|cx| service.poll_ready(cx))).await {
            Ok(()) => true,
            Err(how) => {
                let what = format!("its readiness {how} around a service that is ready");
                self.broken(Rule::PassesRequestsOn, what);
                false
            }
        }
    }

    /// Sends one request, which must get a response.
    async fn request(&mut self, service: &mut L::Service, log: &CallLog, make: &Make<Req>) {
        if self.until_ready(service).await {
            let answering = call(service, log, make());
            self.answered(answering).await;
        }
    }

    async fn answered<T, E: Into<BoxError>>(&mut self, answer: impl Future<Output = Result<T, E>>) {
        if let Err(how) = within_timeout(answer).await {
            let what = format!("a request {how} although the inner service responds");
            self.broken(Rule::PassesRequestsOn, what);
        }
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
            let reached = number > 0 || log.lock().calls > 0;
            let what = "the request that should pass did not reach the inner service";
            self.expect(reached, Rule::PassesRequestsOn, what);
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
        let Ok(answers) = timeout(TIMEOUT, join_all(under_way.drain(..))).await else {
            let what = format!("some of {AT_ONCE} concurrent requests had no response");
            return self.broken(Rule::PassesRequestsOn, what);
        };
        for answer in answers {
            self.answered(std::future::ready(answer)).await;
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
                self.answered(call(&mut original, &log, pass())).await;
                self.request(&mut clone, &log, &pass).await;
            } else {
                self.answered(call(&mut clone, &log, pass())).await;
                self.answered(call(&mut original, &log, pass())).await;
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
                let ready = poll_once(&mut service).is_ready();
                let what = "it was ready, and was not ready when polled again";
                self.expect(ready, Rule::StaysReady, what);
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
                let awake = async || woken.0.load(Ordering::SeqCst);
                let awoke = wait::until("a wake-up", TIMEOUT, awake).await.is_ok();
                let what = "it did not wake the waiting task when the inner service became ready";
                self.expect(awoke, Rule::Wakes, what);
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
                let ended = early.is_ready() || timeout(TIMEOUT, answering).await.is_ok();
                let what = "a waiting request had no response after the inner service became ready";
                self.expect(ended, Rule::Wakes, what);
            }
            Poll::Ready(Err(error)) => {
                let error = error.into();
                let what = format!("its readiness failed around an unready service: {error}");
                self.broken(Rule::Backpressure, what);
            }
        }
        self.read(&log);
    }

    async fn failing_readiness(&mut self) {
        for make in &self.probe.requests {
            self.failing(Behaviour::FailsToBeReady, make, Rule::ReadinessErrors).await;
        }
    }

    async fn failing_calls(&mut self) {
        self.failing(Behaviour::Fails, &self.probe.requests[0], Rule::Errors).await;
    }

    /// Checks that the caller receives the inner service's error, or an error with it as a source.
    async fn failing(&mut self, behaviour: Behaviour, make: &Make<Req>, rule: Rule) {
        let (mut service, log) = self.service(behaviour);
        let mut ready = false;
        let answering = async {
            poll_fn(|cx| service.poll_ready(cx)).await?;
            ready = true;
            call(&mut service, &log, make()).await
        };
        match timeout(TIMEOUT, answering).await {
            Ok(Err(error)) => {
                let error = error.into();
                // A middleware that polls the inner service later learns of the error later.
                let late = ready && behaviour == Behaviour::FailsToBeReady;
                let what = "it reports ready around a service that cannot be ready";
                self.expect(!late, Rule::Backpressure, what);
                if !is_inners(&*error) {
                    let what = format!("it replaced the inner service's error by another: {error}");
                    self.broken(rule, what);
                }
            }
            // If the request did not arrive, that is already reported.
            Ok(Ok(_)) if behaviour == Behaviour::Fails && log.lock().calls == 0 => {}
            Ok(Ok(_)) => self.broken(rule, "it responded although the inner service failed"),
            Err(_) => self.broken(rule, "it hung after the inner service failed"),
        }
        self.read(&log);
    }

    /// Drops a ready service that is never called, a future that is never polled, and a future at
    /// each of its awaits.
    async fn dropped_anywhere(&mut self) {
        for make in &self.probe.requests {
            let log = Arc::new(CallLog::default());
            let stages = [None].into_iter().chain((0..MAX_POLLS).map(Some));
            for polls in stages {
                let mut service = self.around(&log);
                if !self.until_ready(&mut service).await {
                    let what = "it is not ready after a service or a future was dropped";
                    self.broken(Rule::LeavesNothingBehind, what);
                    break;
                }
                let ended = match polls {
                    None => false,
                    Some(polls) => {
                        let answering = poll_times(polls, call(&mut service, &log, make()));
                        timeout(TIMEOUT, answering).await.unwrap_or(true)
                    }
                };
                drop(service);
                // Tasks of the middleware may hold slots until they have ended.
                let free = wait::until("free slots", TIMEOUT, async || log.lock().slots == 0);
                if free.await.is_err() {
                    let what = match polls {
                        None => "a slot remains taken after the service was dropped before `call`",
                        Some(0) => "a slot remains taken after an unpolled future was dropped",
                        Some(_) if ended => "a slot remains taken after the response",
                        Some(_) => "a slot remains taken after a future was dropped at an await",
                    };
                    self.broken(Rule::ReleasesSlots, what);
                    break;
                }
                if ended {
                    break;
                }
                self.report.dropped_at += usize::from(polls.is_some());
            }
            self.read(&log);
            self.serves_next_request(&log).await;
        }
    }

    /// Checks that the next request gets a response after futures were dropped.
    async fn serves_next_request(&mut self, log: &Arc<CallLog>) {
        let mut service = self.around(log);
        let before = log.lock().calls;
        let answering = async {
            poll_fn(|cx| service.poll_ready(cx)).await?;
            call(&mut service, log, self.passing()).await
        };
        let answered = matches!(timeout(TIMEOUT, answering).await, Ok(Ok(_)));
        let reached = log.lock().calls > before;
        let what = "the inner service did not respond to the request after futures were dropped";
        self.expect(answered && reached, Rule::LeavesNothingBehind, what);
    }
}

/// Calls the middleware, and records for the inner service that the call is running.
fn call<S: Service<Req>, Req>(service: &mut S, log: &CallLog, request: Req) -> S::Future {
    log.lock().in_call = Some(thread::current().id());
    let future = service.call(request);
    log.lock().in_call = None;
    future
}

/// Returns the value, or how the future ended without one.
async fn within_timeout<T, E: Into<BoxError>>(
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match timeout(TIMEOUT, future).await {
        Ok(ended) => ended.map_err(|error| format!("failed ({})", error.into())),
        Err(_) => Err(format!("hung for {TIMEOUT:?}")),
    }
}

fn poll_once<S: Service<Req>, Req>(service: &mut S) -> Poll<Result<(), S::Error>> {
    service.poll_ready(&mut Context::from_waker(Waker::noop()))
}

/// Polls the future this many times, as its task would, and then drops it. Returns whether it has
/// ended.
async fn poll_times<F: Future>(polls: usize, future: F) -> bool {
    if polls == 0 {
        return false;
    }
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Returns whether the error is the inner service's or has it as a source.
pub(super) fn is_inners(error: &(dyn Error + 'static)) -> bool {
    error.is::<InnerError>() || error.source().is_some_and(is_inners)
}

/// A waker that records whether it was used.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}
