//! The metrics of the subjects, in the exporter of Prometheus.

use std::sync::Once;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use session_layer::Sessions;
use session_layer::metrics::{LATENCY_BUCKETS, Publisher};

use crate::Error;

/// How often the metrics are scraped. Prometheus mostly does it every 15 s.
const SCRAPE_EVERY: Duration = Duration::from_secs(1);

/// Publishes the metrics of a subject for as long as it exists.
pub(super) fn publish(sessions: &Sessions, subject: &'static str) -> Result<(), Error> {
    static INSTALL: Once = Once::new();
    let buckets = Matcher::Suffix("_seconds".to_owned());
    let builder = PrometheusBuilder::new().set_buckets_for_metric(buckets, &LATENCY_BUCKETS)?;
    INSTALL.call_once(|| {
        let recorder = builder.install_recorder().expect("no other recorder is installed");
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SCRAPE_EVERY).await;
                std::hint::black_box(recorder.render());
            }
        });
    });
    tokio::spawn(Publisher::with_labels(sessions, [("subject", subject)]).run());
    Ok(())
}
