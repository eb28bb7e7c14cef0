//! One probe of cache and store at a time, shared by all concurrent callers.
//!
//! The first caller starts the probe in a task of its own. The task continues if the caller leaves,
//! so no command is cancelled halfway. Every client can reach a health endpoint. A flood of
//! requests therefore costs Redis and Postgres one probe after the other, never two at once.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::cache::CacheProbe;
use crate::model::lock::lock;
use crate::sessions::Sessions;

/// The deadline of the concurrent probes of cache and store: 0.9 s.
///
/// It is many times what they need. A PING of over 100 ms already degrades the health. It is below
/// the usual timeout of a health check, which is 1 s in Kubernetes.
pub(crate) const PROBE_DEADLINE: Duration = Duration::from_millis(900);

/// The result of a probe.
#[derive(Debug, Clone, Default)]
pub(crate) struct Probed {
    pub(crate) cache: CacheProbe,
    /// The reason why the store cannot reply. `None`: it can.
    pub(crate) store_error: Option<String>,
    /// Whether the store has replied since the start. Before that, no entry is served.
    pub(crate) store_is_known: bool,
    /// Whether the store was not asked, because this node is paused.
    pub(crate) is_paused: bool,
}

/// The probe in flight, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Probing(Mutex<Option<watch::Receiver<Option<Arc<Probed>>>>>);

impl Probing {
    /// Joins the probe in flight, or starts one.
    pub(crate) async fn probe<F>(&self, start: impl FnOnce() -> F) -> Arc<Probed>
    where
        F: Future<Output = Probed> + Send + 'static,
    {
        let mut result = self.join_or(start);
        match result.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(probed)) => Arc::clone(probed),
            // The probe ended without a result. It panicked, or the runtime is shutting down.
            Ok(None) | Err(_) => {
                let text = "the probe was cancelled: the process is shutting down, or see its log";
                Arc::new(Probed {
                    cache: failed_cache(text),
                    store_error: Some(text.to_owned()),
                    store_is_known: false,
                    is_paused: false,
                })
            }
        }
    }

    /// Returns whether the last probe has ended, and found the store or had no need to ask it.
    fn found_the_store(&self) -> bool {
        let current = lock(&self.0);
        let last = current.as_ref().and_then(|result| result.borrow().clone());
        last.is_some_and(|probed| probed.store_error.is_none())
    }

    fn join_or<F>(&self, start: impl FnOnce() -> F) -> watch::Receiver<Option<Arc<Probed>>>
    where
        F: Future<Output = Probed> + Send + 'static,
    {
        let mut current = lock(&self.0);
        let under_way = current
            .as_ref()
            // Without a sender and a result, the probe was cancelled. With a result it is over,
            // and its figures are old.
            .filter(|result| result.has_changed().is_ok() && result.borrow().is_none());
        if let Some(under_way) = under_way {
            return under_way.clone();
        }
        let (tell, result) = watch::channel(None);
        let probe = start();
        tokio::spawn(async move {
            let _ = tell.send(Some(Arc::new(probe.await)));
        });
        *current = Some(result.clone());
        result
    }
}

impl Sessions {
    /// Probes cache and store within [`PROBE_DEADLINE`].
    pub(crate) async fn probe(&self) -> Arc<Probed> {
        let engine = Arc::clone(&self.engine);
        // A probe would wake a store that sleeps. One that failed is probed all the same: without
        // requests, nothing else would find that it is back.
        let sleeps = engine.is_paused() && self.probing.found_the_store();
        self.probing
            .probe(move || async move {
                let probe_store =
                    async { if sleeps { Ok(()) } else { Arc::clone(&engine).probe_store().await } };
                let (cache, store) = tokio::join!(
                    timeout(PROBE_DEADLINE, Arc::clone(&engine).probe_cache()),
                    timeout(PROBE_DEADLINE, probe_store),
                );
                let late = format!("the probe had not ended after {PROBE_DEADLINE:?}");
                Probed {
                    cache: cache.unwrap_or_else(|_late| CacheProbe {
                        // A slow cache may be connected. The last state that requests found counts.
                        connected: engine.cache_status().connected,
                        ..failed_cache(&late)
                    }),
                    store_error: match store {
                        Ok(Ok(())) => None,
                        Ok(Err(error)) => Some(error.to_string()),
                        Err(_late) => Some(late),
                    },
                    store_is_known: engine.store_is_known(),
                    is_paused: sleeps,
                }
            })
            .await
    }
}

fn failed_cache(error: &str) -> CacheProbe {
    CacheProbe { errors: vec![error.to_owned()], ..CacheProbe::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    /// A harness that counts probes, and holds each of them until `go` is notified.
    #[derive(Clone, Default)]
    struct Rig {
        probing: Arc<Probing>,
        started: Arc<AtomicUsize>,
        go: Arc<Notify>,
    }

    impl Rig {
        async fn probe(self) -> Arc<Probed> {
            let Self { probing, started, go } = self;
            let start = || async move {
                started.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
                Probed::default()
            };
            probing.probe(start).await
        }

        fn started(&self) -> usize {
            self.started.load(Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn concurrent_callers_share_a_probe_and_later_ones_do_not() {
        let rig = Rig::default();
        let callers: Vec<_> = (0..50).map(|_| tokio::spawn(rig.clone().probe())).collect();
        tokio::task::yield_now().await;
        rig.go.notify_one();
        let results = futures_util::future::join_all(callers).await;
        let first = results[0].as_ref().unwrap();
        assert!(results.iter().all(|r| Arc::ptr_eq(r.as_ref().unwrap(), first)));
        assert_eq!(rig.started(), 1);

        rig.go.notify_one();
        let later = rig.clone().probe().await;
        assert!(!Arc::ptr_eq(&later, first));
        assert_eq!(rig.started(), 2);
    }

    #[tokio::test]
    async fn probe_continues_when_its_first_caller_leaves() {
        let rig = Rig::default();
        let first = tokio::spawn(rig.clone().probe());
        tokio::task::yield_now().await;
        let second = tokio::spawn(rig.clone().probe());
        tokio::task::yield_now().await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        rig.go.notify_one();
        second.await.unwrap();
        assert_eq!(rig.started(), 1);
    }

    #[tokio::test]
    async fn probe_that_panics_fails_and_the_next_one_succeeds() {
        let probing = Probing::default();
        let broken = probing.probe(|| async { panic!("a bug in an adapter") }).await;
        assert!(!broken.cache.connected && broken.store_error.is_some());
        let next = probing.probe(|| async { Probed::default() }).await;
        assert!(next.store_error.is_none());
    }
}
