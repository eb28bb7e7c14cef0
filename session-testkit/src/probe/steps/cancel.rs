//! Services and futures that are dropped before their response.

use std::{future::poll_fn, sync::Arc};

use tower::{Layer, Service};

use super::{
    Under,
    polling::{Outcome, TIMEOUT, call, dropped_at, in_time},
};
use crate::{
    probe::{BoxError, Inner, Rule, inner::CallLog},
    wait,
};

/// The maximum number of awaits at which a future is dropped.
const AWAITS: usize = 200;

impl<L, Req, Res> Under<'_, L, Req, Res>
where
    L: Layer<Inner<Res>>,
    L::Service: Service<Req> + Clone,
    <L::Service as Service<Req>>::Error: Into<BoxError>,
    Res: Send + 'static,
{
    /// Drops a ready service that is never called, and a future that is never polled.
    pub(super) async fn dropped_unused(&mut self) {
        for make in &self.probe.requests {
            let log = Arc::new(CallLog::default());
            for called in [false, true] {
                let mut service = self.around(&log);
                if !self.until_ready(&mut service).await {
                    return;
                }
                let future = called.then(|| call(&mut service, &log, make()));
                drop(service);
                drop(future);
                let what = if called {
                    "a slot remains taken after the future was dropped before its first poll"
                } else {
                    "a slot remains taken after the service was dropped before `call`"
                };
                if !self.is_released(&log, what).await {
                    return;
                }
            }
            self.report.dropped_at += 1;
            self.read(&log);
            self.serves_next_request(&log).await;
        }
    }

    pub(super) async fn dropped_at_each_await(&mut self) {
        for make in &self.probe.requests {
            let log = Arc::new(CallLog::default());
            for awaits in 0..AWAITS {
                let mut service = self.around(&log);
                if !self.until_ready(&mut service).await {
                    let what =
                        format!("it is not ready after a future was dropped at await {awaits}");
                    self.broken(Rule::LeavesNothingBehind, what);
                    break;
                }
                let future = call(&mut service, &log, make());
                let came = in_time(dropped_at(awaits, future)).await;
                drop(service);
                let ended = !matches!(came, Outcome::Done(None));
                let what = if ended {
                    "a slot remains taken after service and future were dropped after the response"
                } else {
                    "a slot remains taken after the future was dropped at an await"
                };
                if !self.is_released(&log, what).await || ended {
                    break;
                }
                self.report.dropped_at += 1;
            }
            self.read(&log);
            self.serves_next_request(&log).await;
        }
    }

    /// Checks that all slots are released, at the latest when tasks of the middleware have ended.
    async fn is_released(&mut self, log: &CallLog, what: &str) -> bool {
        let free = wait::until("slots to be free", TIMEOUT, async || log.lock().slots == 0);
        let released = free.await.is_ok();
        if !released {
            self.broken(Rule::ReleasesSlots, what);
        }
        released
    }

    /// Checks that the next request gets a response after futures were dropped.
    async fn serves_next_request(&mut self, log: &Arc<CallLog>) {
        let mut service = self.around(log);
        let (mut reached, before) = (false, log.lock().calls);
        let ready = in_time(poll_fn(|cx| service.poll_ready(cx))).await;
        if matches!(ready, Outcome::Done(Ok(()))) {
            let answered = in_time(call(&mut service, log, self.passing())).await;
            reached = matches!(answered, Outcome::Done(Ok(_))) && log.lock().calls > before;
        }
        if !reached {
            let what = "the next request got no response from the inner service after futures were \
                dropped";
            self.broken(Rule::LeavesNothingBehind, what);
        }
    }
}
