//! The snapshots of logins: one read of the store for all logins that begin while they wait for it.
//!
//! A login needs a snapshot that is not earlier than its beginning. It therefore joins only a read
//! that has not begun, as a validation does (`engine/queue.rs`).

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use smallvec::smallvec;
use tokio::sync::oneshot;
use tokio::task::coop;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument as _, Span};

use crate::engine::guarded_store::GuardedStore;
use crate::engine::queue::{Queue, Slot};
use crate::engine::settings::Settings;
use crate::engine::spans;
use crate::engine::tasks::{KeepLoops, Tasks};
use crate::model::error::{StoreError, StoreErrorKind};
use crate::model::session::LoginSnapshot;
use crate::store::SessionStore;

/// The limit of concurrent reads. With two, a read whose connection hangs does not delay every
/// login.
const READS_AT_ONCE: usize = 2;

/// A read that begins now.
type Read = Shared<BoxFuture<'static, Result<LoginSnapshot, StoreError>>>;
/// A login that waits for its read to begin.
#[derive(Debug)]
struct WaitingLogin {
    begins: oneshot::Sender<Read>,
    /// The span of its wait.
    span: Span,
}

/// Reads the snapshots of logins.
#[derive(Debug)]
pub(crate) struct LoginSnapshots<S> {
    queue: Arc<Queue<(), WaitingLogin>>,
    store: Arc<GuardedStore<S>>,
    settings: Settings,
    tasks: Tasks,
    _keep_loops: KeepLoops,
}

impl<S: SessionStore> LoginSnapshots<S> {
    pub(crate) fn new(
        store: Arc<GuardedStore<S>>,
        settings: Settings,
        tasks: Tasks,
        keep_loops: KeepLoops,
    ) -> Arc<Self> {
        let queue = Arc::new(Queue::new(READS_AT_ONCE));
        Arc::new(Self { queue, store, settings, tasks, _keep_loops: keep_loops })
    }

    /// Reads where the store stands now.
    pub(crate) async fn read(self: Arc<Self>) -> Result<LoginSnapshot, StoreError> {
        let span = spans::begin_login();
        spans::within(span.clone(), self.read_together(span)).await
    }

    /// Reads together with the logins that begin meanwhile.
    async fn read_together(self: Arc<Self>, span: Span) -> Result<LoginSnapshot, StoreError> {
        // A caller that is shed and tries again at once must let other tasks run.
        coop::consume_budget().await;
        let now = Instant::now();
        let deadline = now + self.settings.change_wait;
        let (begins, begun) = oneshot::channel();
        let login = WaitingLogin { begins, span };
        let Some(joined) = self.queue.join(smallvec![((), login)], now, deadline) else {
            return Err(self.store.shed_login());
        };
        if let Some(reader) = joined.reader {
            let snapshots = Arc::clone(&self);
            reader.start(&self.tasks, move |slot| Arc::clone(&snapshots).read_for_waiting(slot));
        }
        match timeout_at(deadline, begun).await {
            Ok(Ok(read)) => read.await,
            Ok(Err(_)) => Err(StoreError::new(
                StoreErrorKind::Other,
                "the task that reads the store for logins was stopped",
            )),
            Err(_elapsed) => Err(self.store.shed_login()),
        }
    }

    /// Returns how many logins wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.gauges().waiting
    }

    /// Makes reads until no login waits.
    async fn read_for_waiting(self: Arc<Self>, mut slot: Slot<(), WaitingLogin>) {
        while let Some(logins) = slot.next(Instant::now(), |login| !login.begins.is_closed()) {
            let store = Arc::clone(&self.store);
            let logins: Vec<_> = logins.into_iter().flat_map(|((), logins)| logins).collect();
            let span = spans::for_callers(logins.iter().map(|login| &login.span));
            // Whichever login polls it first, it runs in this span.
            let read = async move { store.login_snapshot().await }.instrument(span);
            let read = read.boxed().shared();
            for login in logins {
                let _ = login.begins.send(read.clone());
            }
            let _ = read.await;
            slot.ended(Instant::now());
        }
    }
}
