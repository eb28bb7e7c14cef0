//! What was read of each node, over time. It is a function of the documents and scrapes. Texts are
//! shown without control characters.

use std::collections::VecDeque;

use serde_json::Value;
use session_tools::{chain, output::visible};

use super::latency::{Latency, SOURCES, Scrape, shown as figure};
use super::node::{Node, Scraped};

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
    /// Whether its address for administrators is known.
    pub(super) has_admin: bool,
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
    counted: Option<Counted>,
    /// The figures between the last two scrapes, if the node serves metrics.
    pub(super) latency: Option<Latency>,
    /// Why there are none.
    pub(super) scrape_error: Option<String>,
    scrape: Option<Scrape>,
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
            has_admin: node.admin.is_some(),
            ..Watched::default()
        };
        Self { nodes: nodes.iter().map(watched).collect(), selected: 0, message: String::new() }
    }

    /// Adds one reading of each node.
    pub(super) fn add(&mut self, readings: Vec<Reading>) {
        for (node, reading) in self.nodes.iter_mut().zip(readings) {
            node.add(reading);
        }
    }

    /// Adds one scrape of each node.
    pub(super) fn measure(&mut self, scrapes: Vec<Scraped>) {
        for (node, scraped) in self.nodes.iter_mut().zip(scrapes) {
            node.measure(scraped);
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

    fn measure(&mut self, scraped: Scraped) {
        self.latency = None;
        match scraped {
            Ok(Some(now)) => {
                self.latency = Some(Latency::between(self.scrape.as_ref(), &now));
                (self.scrape, self.scrape_error) = (Some(now), None);
            }
            Ok(None) => (self.scrape, self.scrape_error) = (None, None),
            // The last scrape stays, so that the next figures cover the gap.
            Err(error) => self.scrape_error = Some(visible(&chain(&error)).into_owned()),
        }
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

    /// Returns what the document reports, newest first, and then why there are no metrics.
    pub(super) fn reported(&self) -> Vec<String> {
        let errors = self.last.as_ref().and_then(|document| document["errors"].as_array());
        let errors = errors.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        let scrape_error = self.scrape_error.clone();
        self.error.clone().into_iter().chain(errors).chain(scrape_error).collect()
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
        if self.has_admin {
            line += &self.latencies();
        }
        match self.reported().first() {
            Some(error) => format!("{line} error: {error}"),
            None => line,
        }
    }

    /// Returns p50, p99 and the rate of each source.
    fn latencies(&self) -> String {
        let of = |at: usize, label: &str| match &self.latency {
            Some(Latency { sources }) => {
                let [p50, p99, rate] =
                    [sources[at].p50, sources[at].p99, sources[at].rate].map(figure);
                format!(" {label}={p50}/{p99}ms,{rate}/s")
            }
            None => format!(" {label}=-"),
        };
        SOURCES.iter().enumerate().map(|(at, (label, _))| of(at, label)).collect()
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
    use crate::watch::{latency::tests::scraped, node::ScrapeError};

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

    #[test]
    fn hit_rate_is_that_of_the_interval_and_survives_a_restart_of_the_node() {
        let mut board = board(1);
        for (hits, total) in [(10, 100), (60, 150), (60, 150), (1, 4)] {
            board.add(vec![Reading::Document(document(hits, total))]);
        }
        assert_eq!(board.nodes[0].hit_rates, [10, 100, 100, 25]);
        assert_eq!(board.nodes[0].pings, [250; 4]);
        let line = board.lines().next().unwrap();
        assert!(line.contains(" hits%=25 "), "{line}");
    }

    #[test]
    fn latency_is_that_of_the_interval_and_a_dash_without_metrics() {
        let mut board = board(1);
        let line = |board: &Board| board.lines().next().unwrap();
        board.add(vec![Reading::Document(document(1, 1))]);
        board.measure(vec![Ok(Some(scraped(100, 0)))]);
        assert!(
            line(&board).ends_with(
                " near=-/-ms,-/s cache=0.5/0.99ms,-/s store=5.5/9.91ms,-/s none=-/-ms,-/s"
            )
        );
        board.measure(vec![Ok(Some(scraped(300, 2)))]);
        assert!(line(&board).contains(" cache=0.5/0.99ms,100/s "), "{}", line(&board));
        board.measure(vec![Ok(None)]);
        assert!(line(&board).ends_with(" near=- cache=- store=- none=-"), "{}", line(&board));
        assert!(board.nodes[0].reported().is_empty());
    }

    #[test]
    fn failed_scrape_is_reported_and_the_next_covers_the_gap() {
        let mut board = board(1);
        board.add(vec![Reading::Document(document(1, 1))]);
        board.measure(vec![Ok(Some(scraped(100, 0)))]);
        board.measure(vec![Err(ScrapeError::Request("refused\u{1b}[2J".into()))]);
        let reported = board.nodes[0].reported();
        assert!(reported[0].contains("refused") && !reported[0].contains('\u{1b}'), "{reported:?}");
        assert_eq!(board.nodes[0].latency, None);
        board.measure(vec![Ok(Some(scraped(300, 4)))]);
        let latency = board.nodes[0].latency.unwrap();
        assert_eq!(latency.sources[1].rate, Some(50.0));
        assert!(board.nodes[0].reported().is_empty());
    }

    #[test]
    fn node_that_does_not_respond_is_shown_and_comes_back() {
        let mut board = board(1);
        board.add(vec![Reading::Document(document(1, 1))]);
        let lost = Reading::Failed("connection refused".to_owned());
        assert!(!lost.is_serving());
        board.add(vec![lost]);
        assert_eq!(board.nodes[0].status(), "no response");
        assert!(board.lines().next().unwrap().ends_with("no response: connection refused"));
        board.add(vec![Reading::Document(document(2, 2))]);
        assert_eq!(board.nodes[0].status(), "healthy");
        let line = board.lines().next().unwrap();
        assert!(line.contains("breaker=closed journal-ms=120 pool=8"), "{line}");
    }

    #[test]
    fn second_switch_goes_back_before_the_next_document() {
        let mut board = board(1);
        board.add(vec![Reading::Document(document(1, 1))]);
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
        board.add(readings);
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
        board.add(vec![Reading::Document(document), Reading::Failed(text.to_owned())]);
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
