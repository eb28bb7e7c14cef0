//! Services and futures that are dropped before they have answered.

use std::{future::poll_fn, sync::Arc};

use tower::{Layer, Service};

use super::{
    Under,
    polling::{Came, PATIENCE, call, dropped_at, in_time},
};
use crate::{
    probe::{BoxError, Inner, Rule, inner::Notes},
    wait,
};

/// At how many awaits a future is dropped, at most.
const AWAITS: usize = 200;

impl<L, Req, Res> Under<'_, L, Req, Res>
where
    L: Layer<Inner<Res>>,
    L::Service: Service<Req> + Clone,
    <L::Service as Service<Req>>::Error: Into<BoxError>,
    Res: Send + 'static,
{
    /// Made ready and never called; called and never polled.
    pub(super) async fn dropped_unused(&mut self) {
        for make in &self.probe.requests {
            let notes = Arc::new(Notes::default());
            let mut service = self.around(&notes);
            if !self.until_ready(&mut service).await {
                return;
            }
            drop(service);
            let what = "the service was dropped before `call`, and a slot stays taken";
            if !self.is_released(&notes, what).await {
                return;
            }
            let mut service = self.around(&notes);
            if !self.until_ready(&mut service).await {
                return;
            }
            let future = call(&mut service, &notes, make());
            drop(service);
            drop(future);
            let what = "the future was dropped before it was polled, and a slot stays taken";
            if !self.is_released(&notes, what).await {
                return;
            }
            self.report.dropped_at += 1;
            self.read(&notes);
            self.goes_on(&notes).await;
        }
    }

    pub(super) async fn dropped_at_each_await(&mut self) {
        for make in &self.probe.requests {
            let notes = Arc::new(Notes::default());
            for awaits in 0..AWAITS {
                let mut service = self.around(&notes);
                if !self.until_ready(&mut service).await {
                    let what =
                        format!("after a future was dropped at await {awaits}, it is not ready");
                    self.broken(Rule::LeavesNothingBehind, what);
                    break;
                }
                let future = call(&mut service, &notes, make());
                let came = in_time(dropped_at(awaits, future)).await;
                drop(service);
                let ended = !matches!(came, Came::Done(None));
                let what = if ended {
                    "service and future were dropped after the answer, and a slot stays taken"
                } else {
                    "the future was dropped at an await, and a slot stays taken"
                };
                if !self.is_released(&notes, what).await || ended {
                    break;
                }
                self.report.dropped_at += 1;
            }
            self.read(&notes);
            self.goes_on(&notes).await;
        }
    }

    /// The slots must all be free again: at once, or as soon as tasks of the middleware have ended.
    async fn is_released(&mut self, notes: &Notes, what: &str) -> bool {
        let free = wait::until("slots to be free", PATIENCE, async || {
            notes.lock().slots == 0
        });
        let released = free.await.is_ok();
        if !released {
            self.broken(Rule::ReleasesSlots, what);
        }
        released
    }

    /// After futures were dropped, the next request is answered as if they had never been.
    async fn goes_on(&mut self, notes: &Arc<Notes>) {
        let mut service = self.around(notes);
        let (mut reached, before) = (false, notes.lock().calls);
        let ready = in_time(poll_fn(|cx| service.poll_ready(cx))).await;
        if matches!(ready, Came::Done(Ok(()))) {
            let answered = in_time(call(&mut service, notes, self.passing())).await;
            reached = matches!(answered, Came::Done(Ok(_))) && notes.lock().calls > before;
        }
        if !reached {
            let what = "after futures were dropped half-way, the next request was not passed on and \
                        answered";
            self.broken(Rule::LeavesNothingBehind, what);
        }
    }
}
