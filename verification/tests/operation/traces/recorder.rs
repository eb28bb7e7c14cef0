//! A layer of `tracing` that records spans in this process.

use std::sync::{Arc, Mutex};

use session_layer::traces::TARGET;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::subscriber::DefaultGuard;
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

/// A span as it was created, with the links that it got. Ids are numbers in order of creation,
/// because `tracing` uses its ids again.
#[derive(Debug, Clone)]
pub(super) struct Recorded {
    pub(super) id: usize,
    pub(super) name: &'static str,
    /// The attribute `otel.name`, if there is one.
    pub(super) otel_name: String,
    pub(super) parent: Option<usize>,
    pub(super) follows: Vec<usize>,
}

/// Records the spans of session-layer.
#[derive(Debug, Clone)]
pub(super) struct Recorder {
    spans: Arc<Mutex<Vec<Recorded>>>,
    level: Level,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { spans: Arc::default(), level: Level::DEBUG }
    }
}

impl Recorder {
    pub(super) fn of_loops_too() -> Self {
        Self { level: Level::TRACE, ..Self::default() }
    }

    /// Records until the guard is dropped. The test has a runtime of one thread.
    pub(super) fn keep(&self) -> DefaultGuard {
        let ours = Targets::new().with_target(TARGET, self.level);
        let layer = self.clone().with_filter(ours);
        tracing::subscriber::set_default(tracing_subscriber::registry().with(layer))
    }

    pub(super) fn spans(&self) -> Vec<Recorded> {
        self.spans.lock().unwrap().clone()
    }
}

/// The number of a span, as its extension.
#[derive(Debug, Clone, Copy)]
struct Number(usize);

fn number<S>(context: &Context<'_, S>, id: &Id) -> Option<usize>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let span = context.span(id)?;
    let number = span.extensions().get::<Number>().copied();
    number.map(|Number(number)| number)
}

impl<S> Layer<S> for Recorder
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let parent = span.parent().and_then(|parent| number(&context, &parent.id()));
        let mut name = OtelName::default();
        attributes.record(&mut name);
        let mut spans = self.spans.lock().unwrap();
        let id = spans.len();
        span.extensions_mut().insert(Number(id));
        spans.push(Recorded {
            id,
            name: attributes.metadata().name(),
            otel_name: name.0,
            parent,
            follows: Vec::new(),
        });
    }

    fn on_follows_from(&self, id: &Id, follows: &Id, context: Context<'_, S>) {
        if let (Some(id), Some(follows)) = (number(&context, id), number(&context, follows)) {
            self.spans.lock().unwrap()[id].follows.push(follows);
        }
    }
}

#[derive(Default)]
struct OtelName(String);

impl Visit for OtelName {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "otel.name" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
