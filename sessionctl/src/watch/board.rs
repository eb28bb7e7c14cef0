//! What was read of each node, over time. It is a function of the documents, whose texts are shown
//! without control characters.

use std::{collections::VecDeque, time::Instant};

use serde_json::Value;
use session_tools::output::visible;

use super::latency::{Latency, SOURCES, Scrape};
use super::node::Node;

/// The readings that are kept per node: two minutes at one a second.
const KEPT: usize = 120;

/// The result of one reading.
#[derive(Clone, Debug)]
pub(super) enum Reading {
    /// The health document, of a healthy node or not.
    Document(Value),
    /// Why there is none.
    Failed(String),
}

/// What was read of a node at once.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) health: Reading,
    /// `None` if the node serves no metrics with latencies.
    pub(super) metrics: Option<Scrape>,
    pub(super) at: Instant,
}

impl Reading {
    /// Returns whether the node uses its cache, or is in bypass.
    pub(super) fn is_serving(&self) -> bool {
        matches!(self, Self::Document(document) if document["status"] != "unhealthy")
    }
}

/// All nodes, and the selected one.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) nodes: Vec<Watched>,
    pub(super) selected: usize,
    /// What the last key did.
    pub(super) message: String,
}

/// A node, and its readings.
#[derive(Debug, Default)]
pub(super) struct Watched {
    pub(super) name: String,
    pub(super) has_switch: bool,
    is_switching: bool,
    /// The last document. It stays while the node does not respond.
    pub(super) last: Option<Value>,
    pub(super) error: Option<String>,
    /// The hit rate of each interval in percent, without requests the last one.
    pub(super) hit_rates: VecDeque<u64>,
    /// The PING of each reading, in microseconds.
    pub(super) pings: VecDeque<u64>,
    /// The errors of the cache in each interval.
    pub(super) errors: VecDeque<u64>,
    /// The latency of each source in the last interval, if the node serves metrics.
    pub(super) latencies: Option<[Latency; SOURCES.len()]>,
    /// The p99 of each source in each interval, in microseconds.
    pub(super) p99s: [VecDeque<u64>; SOURCES.len()],
    counted: Option<Counted>,
    scraped: Option<(Scrape, Instant)>,
}

/// The counters of a document, which rise until the process restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    hits: u64,
    total: u64,
    errors: u64,
}

impl Counted {
    fn of(document: &Value) -> Self {
        let metrics = &document["sessionCache"]["metrics"];
        let count = |name: &str| metrics[name].as_u64().unwrap_or_default();
        Self { hits: count("hits"), total: count("total"), errors: count("errors") }
    }
}

impl Board {
    pub(super) fn new(nodes: &[Node]) -> Self {
        let watched = |node: &Node| Watched {
            name: node.health.host().to_owned(),
            has_switch: node.admin.is_some(),
            ..Watched::default()
        };
        Self { nodes: nodes.iter().map(watched).collect(), selected: 0, message: String::new() }
    }

    /// Adds one sample of each node.
    pub(super) fn add(&mut self, samples: Vec<Sample>) {
        for (node, sample) in self.nodes.iter_mut().zip(samples) {
            node.add(sample.health);
            node.measure(sample.metrics, sample.at);
        }
    }

    /// Moves the selection, and stays within the nodes.
    pub(super) fn select(&mut self, down: bool) {
        let last = self.nodes.len().saturating_sub(1);
        self.selected =
            if down { (self.selected + 1).min(last) } else { self.selected.saturating_sub(1) };
    }

    /// Begins to switch the selected node. Returns its position and the requested mode, unless its
    /// last switch has not replied yet.
    pub(super) fn switch(&mut self) -> Option<(usize, &'static str)> {
        let at = self.selected;
        let node = self.nodes.get_mut(at).filter(|node| !node.is_switching)?;
        node.is_switching = true;
        let mode = node.other_mode();
        self.message = format!("{}: switching to `{mode}`", node.name);
        Some((at, mode))
    }

    /// Records what a node's switch replied: the mode in force, or why there is none. The next
    /// document may be a second away.
    pub(super) fn switched(&mut self, at: usize, reply: Result<String, String>) {
        let Some(node) = self.nodes.get_mut(at) else { return };
        node.is_switching = false;
        let name = &node.name;
        self.message = match reply {
            Ok(mode) => {
                let mode = visible(&mode).into_owned();
                let message = format!("{name}: the mode is `{mode}` now");
                if let Some(document) = &mut node.last {
                    document["mode"] = Value::String(mode);
                }
                message
            }
            Err(why) => format!("{name} was not switched: {}", visible(&why)),
        };
    }

    /// Returns a line per node, for a pipe.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.nodes.iter().map(Watched::line)
    }
}

impl Watched {
    fn add(&mut self, reading: Reading) {
        let document = match reading {
            Reading::Document(document) => shown(document),
            Reading::Failed(error) => {
                self.error = Some(visible(&error).into_owned());
                // A gap in the node's life is no hit and no reply.
                push(&mut self.hit_rates, 0);
                push(&mut self.pings, 0);
                push(&mut self.errors, 0);
                return;
            }
        };
        self.error = None;
        let now = Counted::of(&document);
        // After a restart the counters begin again.
        let before = self.counted.filter(|before| before.total <= now.total);
        let before = before.unwrap_or(Counted { hits: 0, total: 0, errors: 0 });
        let asked = now.total - before.total;
        let rate = match asked {
            0 => self.hit_rates.back().copied().unwrap_or_default(),
            _ => now.hits.saturating_sub(before.hits) * 100 / asked,
        };
        push(&mut self.hit_rates, rate);
        push(&mut self.errors, now.errors.saturating_sub(before.errors));
        let ping = document["performance"]["ping"].as_f64().unwrap_or_default();
        push(&mut self.pings, micros(ping));
        self.counted = Some(now);
        self.last = Some(document);
    }

    /// Adds the metrics of this moment. Without any, nothing is known of the interval.
    fn measure(&mut self, metrics: Option<Scrape>, at: Instant) {
        let before = self.scraped.as_ref();
        let before = before.map(|(scrape, then)| (scrape, at.saturating_duration_since(*then)));
        self.latencies = metrics.as_ref().map(|scrape| scrape.since(before));
        for (source, p99s) in self.p99s.iter_mut().enumerate() {
            let p99 = self.latencies.and_then(|latencies| latencies[source].p99);
            push(p99s, micros(p99.unwrap_or_default()));
        }
        self.scraped = metrics.map(|scrape| (scrape, at));
    }

    /// Returns the status: that of the document, or `no response`.
    pub(super) fn status(&self) -> &str {
        match (&self.error, &self.last) {
            (Some(_), _) => "no response",
            (None, Some(document)) => document["status"].as_str().unwrap_or("unknown"),
            (None, None) => "waiting",
        }
    }

    /// Returns a part of the document as text, and `-` if it is unknown.
    pub(super) fn field(&self, pointer: &str) -> String {
        match self.last.as_ref().and_then(|document| document.pointer(pointer)) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => "-".to_owned(),
            Some(value) => value.to_string(),
        }
    }

    /// Returns the mode to which the key `b` switches.
    fn other_mode(&self) -> &'static str {
        if self.field("/mode") == "bypass" { "on" } else { "bypass" }
    }

    /// Returns what the document reports, newest first.
    pub(super) fn reported(&self) -> Vec<String> {
        let errors = self.last.as_ref().and_then(|document| document["errors"].as_array());
        let errors = errors.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        self.error.clone().into_iter().chain(errors).collect()
    }

    fn line(&self) -> String {
        let mut line = format!("{} {}", self.name, self.status());
        if let Some(error) = &self.error {
            return format!("{line}: {error}");
        }
        let hit_rate = self.hit_rates.back().copied().unwrap_or_default();
        line += &format!(" mode={} hits%={hit_rate}", self.field("/mode"));
        for (name, pointer) in [
            ("ping", "/performance/ping"),
            ("breaker", "/breaker/state"),
            ("journal-ms", "/journal/ageMs"),
            ("pool", "/sessionCache/pool/available"),
        ] {
            line += &format!(" {name}={}", self.field(pointer));
        }
        for ((source, _), latency) in SOURCES.iter().zip(self.latencies.iter().flatten()) {
            line += &format!(" {source}-p50-ms={}", ms(latency.p50));
            line += &format!(" {source}-p99-ms={}", ms(latency.p99));
        }
        match self.reported().first() {
            Some(error) => format!("{line} error: {error}"),
            None => line,
        }
    }
}

/// Returns a document without control characters in its texts.
fn shown(document: Value) -> Value {
    match document {
        Value::String(text) => visible(&text).into(),
        Value::Array(values) => values.into_iter().map(shown).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, shown(value))).collect()
        }
        other => other,
    }
}

/// Returns milliseconds as text, and `-` if there are none.
pub(super) fn ms(ms: Option<f64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2}"))
}

fn push(values: &mut VecDeque<u64>, value: u64) {
    if values.len() == KEPT {
        values.pop_front();
    }
    values.push_back(value);
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
fn micros(ms: f64) -> u64 {
    (ms * 1000.0).clamp(0.0, 1e12) as u64
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(in crate::watch) fn document(hits: u64, total: u64) -> Value {
        json!({
            "status": "healthy", "mode": "on",
            "redis": {
                "connected": true, "version": "7.0.15", "usedMemory": "1.2M", "totalKeys": 42
            },
            "sessionCache": {
                "metrics": { "hits": hits, "total": total, "errors": 0, "hitRate": 85.0 },
                "pool": { "size": 10, "available": 8, "pending": 0 },
            },
            "performance": { "ping": 0.25, "set": 0.3, "get": 0.2 },
            "postgres": { "connected": true },
            "breaker": { "state": "closed" }, "journal": { "ageMs": 120 }, "errors": [],
        })
    }

    pub(in crate::watch) fn board(nodes: usize) -> Board {
        let nodes = (0..nodes).map(|port| Node {
            health: format!("http://10.0.0.1:{}/health", 3000 + port).parse().unwrap(),
            admin: Some(format!("http://10.0.0.1:{}/mode", 4000 + port).parse().unwrap()),
        });
        Board::new(&nodes.collect::<Vec<_>>())
    }

    /// Returns samples of nodes without metrics.
    pub(in crate::watch) fn samples(readings: Vec<Reading>) -> Vec<Sample> {
        let at = Instant::now();
        let sample = |health| Sample { health, metrics: None, at };
        readings.into_iter().map(sample).collect()
    }

    /// Returns metrics of a node whose `cache` validations all took 1 to 2 ms.
    pub(in crate::watch) fn metrics(validations: u64) -> Option<Scrape> {
        let name = "session_layer_validation";
        Scrape::parse(&format!(
            "{name}s_total{{source=\"cache\"}} {validations}\n\
             {name}_duration_seconds_bucket{{source=\"cache\",le=\"0.001\"}} 0\n\
             {name}_duration_seconds_bucket{{source=\"cache\",le=\"0.002\"}} {validations}\n\
             {name}_duration_seconds_bucket{{source=\"cache\",le=\"+Inf\"}} {validations}\n"
        ))
    }

    #[test]
    fn latency_is_that_of_the_interval_and_gone_without_metrics() {
        let mut board = board(1);
        let begun = Instant::now();
        let health = Reading::Document(document(1, 1));
        for (after, metrics) in [(0, metrics(100)), (2, metrics(300)), (3, None)] {
            let at = begun + std::time::Duration::from_secs(after);
            board.add(vec![Sample { health: health.clone(), metrics, at }]);
            let redis = board.nodes[0].latencies.map(|latencies| latencies[1]);
            let line = board.lines().next().unwrap();
            match after {
                0 => assert_eq!(redis.unwrap().per_second, None),
                2 => {
                    assert_eq!(redis.unwrap().per_second, Some(100.0));
                    assert!(line.contains(" near-p99-ms=- cache-p50-ms=1.50 "), "{line}");
                }
                _ => assert!(redis.is_none() && !line.contains("p50"), "{line}"),
            }
        }
        assert_eq!(board.nodes[0].p99s[1], [1_990, 1_990, 0]);
    }

    #[test]
    fn hit_rate_is_that_of_the_interval_and_survives_a_restart_of_the_node() {
        let mut board = board(1);
        for (hits, total) in [(10, 100), (60, 150), (60, 150), (1, 4)] {
            board.add(samples(vec![Reading::Document(document(hits, total))]));
        }
        assert_eq!(board.nodes[0].hit_rates, [10, 100, 100, 25]);
        assert_eq!(board.nodes[0].pings, [250; 4]);
        let line = board.lines().next().unwrap();
        assert!(line.contains(" hits%=25 "), "{line}");
    }

    #[test]
    fn node_that_does_not_respond_is_shown_and_comes_back() {
        let mut board = board(1);
        board.add(samples(vec![Reading::Document(document(1, 1))]));
        let lost = Reading::Failed("connection refused".to_owned());
        assert!(!lost.is_serving());
        board.add(samples(vec![lost]));
        assert_eq!(board.nodes[0].status(), "no response");
        assert!(board.lines().next().unwrap().ends_with("no response: connection refused"));
        board.add(samples(vec![Reading::Document(document(2, 2))]));
        assert_eq!(board.nodes[0].status(), "healthy");
        let line = board.lines().next().unwrap();
        assert!(line.contains("breaker=closed journal-ms=120 pool=8"), "{line}");
    }

    #[test]
    fn second_switch_goes_back_before_the_next_document() {
        let mut board = board(1);
        board.add(samples(vec![Reading::Document(document(1, 1))]));
        assert_eq!(board.nodes[0].other_mode(), "bypass");
        board.switched(0, Ok("bypass".to_owned()));
        assert_eq!(board.nodes[0].other_mode(), "on");
        board.switched(0, Err("connection refused".to_owned()));
        assert_eq!(board.nodes[0].other_mode(), "on");
        assert!(board.message.ends_with("connection refused"));
    }

    #[test]
    fn reply_of_a_switch_belongs_to_the_node_that_was_selected() {
        let mut board = board(2);
        let readings = vec![Reading::Document(document(1, 1)); 2];
        board.add(samples(readings));
        assert_eq!(board.switch(), Some((0, "bypass")));
        assert_eq!(board.switch(), None, "it has not replied");
        board.select(true);
        assert_eq!(board.switch(), Some((1, "bypass")));
        board.switched(0, Ok("bypass".to_owned()));
        assert!(board.message.starts_with("10.0.0.1:3000"), "{}", board.message);
        let modes: Vec<String> = board.nodes.iter().map(|node| node.field("/mode")).collect();
        assert_eq!(modes, ["bypass", "on"]);
        board.select(false);
        assert_eq!(board.switch(), Some((0, "on")));
    }

    #[test]
    fn text_of_a_node_moves_no_cursor() {
        let mut board = board(2);
        let mut document = document(1, 1);
        let text = "a\u{1b}[2J\nb\u{9b}c";
        for field in ["status", "mode"] {
            document[field] = text.into();
        }
        document["redis"]["version"] = text.into();
        document["errors"] = serde_json::json!([text]);
        board.add(samples(vec![Reading::Document(document), Reading::Failed(text.to_owned())]));
        board.switched(1, Err(text.to_owned()));
        let mut shown: Vec<String> = board.lines().collect();
        shown.extend([board.nodes[0].field("/redis/version"), board.message.clone()]);
        shown.extend(board.nodes.iter().flat_map(Watched::reported));
        for text in shown {
            assert!(text.contains('\u{fffd}') && !text.contains(char::is_control), "{text:?}");
        }
    }

    #[test]
    fn selection_stays_within_the_nodes() {
        let mut board = board(2);
        board.select(false);
        assert_eq!(board.selected, 0);
        board.select(true);
        board.select(true);
        assert_eq!(board.selected, 1);
    }
}
