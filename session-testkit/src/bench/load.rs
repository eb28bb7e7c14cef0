//! The closed loop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::header::AUTHORIZATION;
use session_layer::{LookupInfo, Source};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{app::App, history::nanos, workload::Latencies};

/// The timeout of a request. The layer promises a shorter time, therefore a longer wait is a hang.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The end of a loop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// The number of requests of all clients.
    Sent(usize),
    /// The time of the end.
    At(Instant),
}

/// The results of a loop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sums {
    /// The latencies of the 200 responses that were hits.
    pub(crate) hits: Latencies,
    /// The latencies of the other 200 responses, which read the store.
    pub(crate) store: Latencies,
    pub(crate) sent: u64,
    /// The number of requests without a 200 response.
    pub(crate) failed: u64,
}

impl Sums {
    pub(super) fn merge(&mut self, other: &Self) {
        self.hits.merge(&other.hits);
        self.store.merge(&other.store);
        self.sent += other.sent;
        self.failed += other.failed;
    }

    /// Returns the latencies of all 200 responses.
    pub(crate) fn all(&self) -> Latencies {
        let mut all = self.hits.clone();
        all.merge(&self.store);
        all
    }
}

/// Validates the tokens in turn with `clients` clients in a closed loop.
pub(crate) async fn drive(app: &App, tokens: &Arc<[String]>, clients: u32, until: Until) -> Sums {
    let next = Arc::new(AtomicUsize::new(0));
    let mut loops = JoinSet::new();
    for _ in 0..clients {
        loops.spawn(client(app.clone(), Arc::clone(tokens), Arc::clone(&next), until));
    }
    let mut sums = Sums::default();
    while let Some(done) = loops.join_next().await {
        match done {
            Ok(one) => sums.merge(&one),
            // A client that panicked loses its request and its measurements.
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
        sums.sent += 1;
        let answered = response.ok().flatten().filter(|response| response.status() == 200);
        let Some(response) = answered else {
            sums.failed += 1;
            continue;
        };
        let lookup: Option<&LookupInfo> = response.extensions().get();
        match lookup.map(|lookup| lookup.source) {
            Some(Source::Cache) => sums.hits.add(nanos(took)),
            _ => sums.store.add(nanos(took)),
        }
    }
}
