//! The closed loop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::header::AUTHORIZATION;
use session_layer::{Answered, Tier};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{app::App, history::nanos, workload::Latencies};

/// Nothing that the layer promises takes this long; a client that waits longer has met a hang.
const PATIENCE: Duration = Duration::from_secs(10);

/// When a loop ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// After this many requests of all clients.
    Sent(usize),
    /// When this moment has come.
    At(Instant),
}

/// What became of the requests of a loop.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    /// Answered with 200, whoever answered.
    pub(super) all: Latencies,
    /// Of these: by the cache alone.
    pub(super) hits: Latencies,
    /// Of these: by the store.
    pub(super) store: Latencies,
    pub(super) hit_count: u64,
    pub(super) sent: u64,
    /// Not answered with 200.
    pub(super) failed: u64,
}

impl Sums {
    pub(super) fn merge(&mut self, other: &Self) {
        self.all.merge(&other.all);
        self.hits.merge(&other.hits);
        self.store.merge(&other.store);
        self.hit_count += other.hit_count;
        self.sent += other.sent;
        self.failed += other.failed;
    }

    fn note(&mut self, status: u16, answered: Option<Answered>, took: Duration) {
        self.sent += 1;
        if status != 200 {
            self.failed += 1;
            return;
        }
        let took = nanos(took);
        self.all.add(took);
        match answered.map(|answered| answered.tier) {
            Some(Tier::Cache) => {
                self.hit_count += 1;
                self.hits.add(took);
            }
            _ => self.store.add(took),
        }
    }
}

/// `clients` of them, each sending its next request when it has the answer to the last, for the tokens
/// in turn.
pub(super) async fn drive(app: &App, tokens: &Arc<[String]>, clients: u32, until: Until) -> Sums {
    let next = Arc::new(AtomicUsize::new(0));
    let mut loops = JoinSet::new();
    for _ in 0..clients {
        loops.spawn(client(
            app.clone(),
            Arc::clone(tokens),
            Arc::clone(&next),
            until,
        ));
    }
    let mut sums = Sums::default();
    while let Some(done) = loops.join_next().await {
        match done {
            Ok(one) => sums.merge(&one),
            // A client that panicked has lost its request, and what it had measured.
            Err(_) => sums.failed += 1,
        }
    }
    sums
}

async fn client(app: App, tokens: Arc<[String]>, next: Arc<AtomicUsize>, until: Until) -> Sums {
    let mut sums = Sums::default();
    loop {
        let number = next.fetch_add(1, Relaxed);
        let over = match until {
            Until::Sent(most) => number >= most,
            Until::At(end) => Instant::now() >= end,
        };
        if over {
            return sums;
        }
        let Some(token) = tokens.get(number % tokens.len().max(1)) else {
            return sums;
        };
        let begin = std::time::Instant::now();
        let response = timeout(PATIENCE, app.call(&[(AUTHORIZATION, token)])).await;
        let took = begin.elapsed();
        match response.ok().flatten() {
            Some(response) => {
                let answered = response.extensions().get().copied();
                sums.note(response.status().as_u16(), answered, took);
            }
            None => sums.note(0, None, took),
        }
    }
}
