//! Metrics in the text format of Prometheus.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use session_layer::Sessions;
use session_layer::metrics::{LATENCY_BUCKETS, Publisher};

/// What one scrape needs.
#[derive(Debug)]
pub(crate) struct Exporter {
    recorder: PrometheusHandle,
    publisher: Publisher,
}

impl Exporter {
    /// Installs the recorder of this process, and registers the metrics of these sessions.
    pub(crate) fn install(sessions: &Sessions) -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &LATENCY_BUCKETS)?
            .install_recorder()?;
        Ok(Self { recorder, publisher: Publisher::new(sessions) })
    }

    /// Returns the figures of this moment.
    pub(crate) fn render(&self) -> String {
        self.publisher.publish();
        self.recorder.render()
    }
}
