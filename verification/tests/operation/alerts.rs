//! A real Prometheus scrapes three nodes. Its alerts fire while Redis is down, and end by
//! themselves.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use session_testkit::backends::Backends;
use session_testkit::wait;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::metrics::rules;
use crate::examples::http_client as http;
use crate::examples::quickstart::process::{App, env_of};
use crate::harness::{Failure, Outcome, default_backend};

/// The time for Prometheus to start, to scrape and to evaluate on a busy machine.
const SOON: Duration = Duration::from_secs(40);

/// A Prometheus with the alerts of `ops`, which are faster here. Its drop kills it.
struct Prometheus {
    _process: Child,
    address: String,
    folder: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes these addresses.
    async fn start(targets: &[&str]) -> Result<Self, Failure> {
        let (folder, address) = (TempDir::new()?, unused_address().await?);
        let rules = json!({ "groups": [{ "name": "fast", "rules": fast(rules()) }] });
        let config = json!({
            "global": {
                "scrape_interval": "500ms",
                "scrape_timeout": "500ms",
                "evaluation_interval": "500ms",
            },
            "rule_files": ["rules.yml"],
            "scrape_configs": [{ "job_name": "nodes", "static_configs": [{ "targets": targets }] }],
        });
        // JSON is YAML.
        std::fs::write(folder.path().join("rules.yml"), rules.to_string())?;
        std::fs::write(folder.path().join("prometheus.yml"), config.to_string())?;
        let process = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log"))?)
            .kill_on_drop(true)
            .spawn();
        let process = process.map_err(|error| {
            format!(
                "prometheus does not run ({error}): session-testkit/scripts/install.sh installs it"
            )
        })?;
        Ok(Self { _process: process, address, folder })
    }

    /// Returns how many samples a query has. `None` while Prometheus does not answer.
    async fn count(&self, query: &str) -> Option<usize> {
        let path = format!("/api/v1/query?query={}", percent_encoded(query));
        let answer = http::send(&self.address, "GET", &path, &[], "").await.ok()?;
        answer.json()["data"]["result"].as_array().map(Vec::len)
    }

    /// Waits until this alert fires on so many nodes.
    async fn until_firing(&self, alert: &str, nodes: usize) -> Outcome {
        let firing = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}");
        let what = format!("{alert} to fire on {nodes} nodes");
        wait::until(what, SOON, async || self.count(&firing).await == Some(nodes)).await?;
        Ok(())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log"));
            eprintln!("the log of Prometheus:\n{}", log.unwrap_or_default());
        }
    }
}

/// Shortens what alerts wait for, and the spans that they look back on.
fn fast(mut rules: Vec<Value>) -> Vec<Value> {
    for rule in &mut rules {
        let query = rule["expr"].as_str().unwrap_or_default();
        let query = query.replace("[5m]", "[5s]").replace("[10m]", "[5s]");
        // An `offset` stays: a test has no samples of 10 minutes ago.
        assert!(!query.contains("m]"), "shorten the span of {}: {query}", rule["alert"]);
        rule["expr"] = query.into();
        // A node that is bypassed for an hour is no subject here, and keeps its time.
        if rule["for"].is_string() && rule["for"] != "1h" {
            rule["for"] = "1s".into();
        }
    }
    rules
}

async fn unused_address() -> io::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string())
}

fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut encoded, byte| {
        let _ = write!(encoded, "%{byte:02X}");
        encoded
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_fire_while_redis_is_down_and_end_by_themselves() -> Outcome {
    let servers = Backends::builder().backend(default_backend().await?).start().await?;
    let sandbox = servers.sandbox();
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(App::start(TempDir::new()?, &env_of(&sandbox)).await?);
    }
    let targets: Vec<_> = nodes.iter().map(|node| node.admin.as_str()).collect();
    let prometheus = Prometheus::start(&targets).await?;
    let alice = nodes[0].login("alice").await?;
    for node in &nodes {
        let hit = async || node.source(&alice).await.is_ok_and(|source| source == "hit");
        wait::until("a hit", SOON, hit).await?;
    }
    let healthy = r#"count(session_layer_breaker_state{state="closed"} == 1) == 3
        and count(session_layer_cache_connected == 1) == 3 unless count(ALERTS)"#;
    let well = async || prometheus.count(healthy).await == Some(1);
    wait::until("three healthy nodes without alerts", SOON, well).await?;

    servers.redis().kill().await?;
    for node in &nodes {
        // A request finds the connection gone, which opens the breaker.
        let read = async || node.source(&alice).await.is_ok_and(|source| source == "store");
        wait::until("an answer of Postgres", SOON, read).await?;
    }
    prometheus.until_firing("SessionLayerBreakerOpen", 3).await?;
    prometheus.until_firing("SessionLayerCacheDisconnected", 3).await?;
    // Postgres is up, so neither the bound nor a request is at risk.
    for alert in
        ["SessionLayerPartitioned", "SessionLayerUnavailable", "SessionLayerSettingsDiffer"]
    {
        let query = format!("ALERTS{{alertname=\"{alert}\"}}");
        assert_eq!(prometheus.count(&query).await, Some(0), "{alert}");
    }

    servers.redis().restart().await?;
    prometheus.until_firing("SessionLayerBreakerOpen", 0).await?;
    prometheus.until_firing("SessionLayerCacheDisconnected", 0).await?;
    wait::until("three healthy nodes without alerts", SOON, well).await?;
    Ok(())
}
