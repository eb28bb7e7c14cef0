//! One probe of cache and store at a time, shared by all concurrent callers.
//!
//! The first caller starts the probe in a task of its own. It continues if the caller leaves, so no
//! command is cancelled halfway. Health endpoints are open to every client: a flood of requests
//! costs Redis and Postgres one probe after the other, never two at once.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::cache::CacheProbe;
use crate::model::lock::lock;
use crate::sessions::Sessions;

/// How long the two, asked at once, may take to answer: many times what they need (a PING of over
/// 100 ms is trouble already), and less than the usual patience of who asks (Kubernetes: 1 s).
pub(crate) const PROBE_DEADLINE: Duration = Duration::from_millis(900);

/// What a probe found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Probed {
    pub(crate) cache: CacheProbe,
    /// Why the store cannot answer; `None`: it can.
    pub(crate) store_error: Option<String>,
    /// Has the store answered since the start? Before that no cached copy is believed.
    pub(crate) store_is_known: bool,
}

/// The probe under way, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Probing(Mutex<Option<watch::Receiver<Option<Arc<Probed>>>>>);

impl Probing {
    /// Joins the probe under way, or starts one.
    pub(crate) async fn probe<F>(&self, start: impl FnOnce() -> F) -> Arc<Probed>
    where
        F: Future<Output = Probed> + Send + 'static,
    {
        let mut result = self.join_or(start);
        match result.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(probed)) => Arc::clone(probed),
            // It ended without a result: it panicked, or the runtime is shutting down.
            Ok(None) | Err(_) => {
                let text = "the probe was cancelled: the process is shutting down, or see its log";
                Arc::new(Probed {
                    cache: failed_cache(text),
                    store_error: Some(text.to_owned()),
                    store_is_known: false,
                })
            }
        }
    }

    fn join_or<F>(&self, start: impl FnOnce() -> F) -> watch::Receiver<Option<Arc<Probed>>>
    where
        F: Future<Output = Probed> + Send + 'static,
    {
        let mut current = lock(&self.0);
        let under_way = current
            .as_ref()
            // No sender and no result: it broke off. A result: it is over, and its figures are
            // past.
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
    /// Really asks cache and store whether they answer, within [`PROBE_DEADLINE`].
    pub(crate) async fn probe(&self) -> Arc<Probed> {
        let sessions = self.clone();
        self.probing
            .probe(move || async move {
                let (cache, store) = tokio::join!(
                    timeout(PROBE_DEADLINE, sessions.probe_cache()),
                    timeout(PROBE_DEADLINE, sessions.probe_store()),
                );
                let store_is_known = sessions.store_is_known();
                let late = format!("the probe had not ended after {PROBE_DEADLINE:?}");
                Probed {
                    cache: cache.unwrap_or_else(|_late| CacheProbe {
                        // Slow is not dead: what requests found counts.
                        connected: sessions.cache_status().connected,
                        ..failed_cache(&late)
                    }),
                    store_error: match store {
                        Ok(Ok(())) => None,
                        Ok(Err(error)) => Some(error.to_string()),
                        Err(_late) => Some(late),
                    },
                    store_is_known,
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

    /// Counts probes and holds them up until told.
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
    async fn who_asks_meanwhile_shares_the_probe_and_who_asks_later_gets_a_new_one() {
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
    async fn the_caller_that_began_it_may_leave() {
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
    async fn a_probe_that_panics_is_an_answer_and_not_the_last() {
        let probing = Probing::default();
        let broken = probing.probe(|| async { panic!("a bug in an adapter") }).await;
        assert!(!broken.cache.connected && broken.store_error.is_some());
        let next = probing.probe(|| async { Probed::default() }).await;
        assert!(next.store_error.is_none());
    }
}
