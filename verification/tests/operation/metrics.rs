//! The page, the alerts and the dashboard name the metrics that the code has.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is a failure with its location")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use session_layer::metrics::{METRICS, MetricDescription, MetricKind};

use crate::binaries::binary;
use crate::commands::run;
use crate::docs::anchors;
use crate::examples::http_client as http;
use crate::examples::quickstart::process::App;
use crate::harness::{Outcome, shared};
use crate::support::SOON;

/// The base of `runbook_url`, which the owner of a copy of the pages replaces.
const RUNBOOKS: &str = "https://example.com/session-layer/docs/failure-modes.md#";

/// Labels that Prometheus adds, and that alerts and histograms have.
const OTHER_LABELS: [&str; 6] = ["job", "instance", "le", "alertname", "alertstate", "severity"];

/// The values of labels that the failure page names by themselves.
const LABEL_VALUES: [&str; 7] =
    ["refused", "not_master", "foreign", "unknown_key", "change", "denied", "not_authoritative"];

pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns the rules of `ops/prometheus/alerts.yml`.
pub(super) fn rules() -> Vec<Value> {
    let text = fs::read_to_string(root().join("ops/prometheus/alerts.yml")).unwrap();
    let file: Value = serde_yaml_ng::from_str(&text).unwrap();
    let groups = file["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// Returns the row of a metric in the table of `docs/metrics.md`.
fn row(metric: &MetricDescription) -> String {
    let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
    format!("| `{}` | {} | {labels} | {} |", metric.name, metric.kind.as_str(), metric.help)
}

#[test]
fn page_has_the_table_of_the_code() {
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let written: Vec<_> = page.lines().filter(|line| line.starts_with("| `session_")).collect();
    let expected: Vec<_> = METRICS.iter().map(row).collect();
    assert_eq!(written, expected, "docs/metrics.md needs these rows:\n{}", expected.join("\n"));
}

/// Returns the metric that a name in a query means. A histogram has three more names.
fn metric(name: &str) -> Option<&'static MetricDescription> {
    let exact = METRICS.iter().find(|metric| metric.name == name);
    exact.filter(|metric| metric.kind != MetricKind::Histogram).or_else(|| {
        let base =
            ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix))?;
        METRICS.iter().find(|it| it.name == base && it.kind == MetricKind::Histogram)
    })
}

/// Returns what is wrong with the names and the labels of a query.
fn unknown_names(query: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (at, _) in query.match_indices("session_layer_") {
        let rest = &query[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let (name, rest) = rest.split_at(end.unwrap_or(rest.len()));
        let Some(metric) = metric(name) else {
            wrong.push(format!("no metric {name}"));
            continue;
        };
        let Some(selector) = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()) else {
            continue;
        };
        for matcher in selector.split(", ").filter(|matcher| !matcher.is_empty()) {
            let label = matcher.split(['=', '!']).next().unwrap();
            if !metric.labels.contains(&label) && !OTHER_LABELS.contains(&label) {
                wrong.push(format!("{name} has no label {label}"));
            }
        }
    }
    wrong
}

#[test]
fn unknown_names_and_labels_are_found() {
    let fine = r#"rate(session_layer_fills_total{job="a", result!="stored"}[1m])"#;
    assert_eq!(unknown_names(fine), Vec::<String>::new());
    for query in [
        "session_layer_fill_total",
        r#"session_layer_fills_total{outcome="stored"}"#,
        "session_layer_fills_total_bucket",
        "session_layer_validation_duration_seconds",
    ] {
        assert_eq!(unknown_names(query).len(), 1, "{query}");
    }
}

/// Returns the section of a page whose heading has this anchor.
fn section<'a>(page: &'a str, anchor: &str) -> Option<&'a str> {
    page.split("\n##").find(|text| {
        let heading = format!("##{text}");
        anchors(&heading).next().is_some_and(|it| it == anchor)
    })
}

/// Returns what is wrong with the section to which an alert leads.
fn unfit_runbook(page: &str, url: &str) -> Option<&'static str> {
    let Some(section) = url.strip_prefix(RUNBOOKS).and_then(|anchor| section(page, anchor)) else {
        return Some("there is no such section");
    };
    match section.lines().find_map(|line| line.strip_prefix("- **Action**: ")) {
        None => Some("the section has no action"),
        Some("–") => Some("the section's action is empty"),
        Some(_) => None,
    }
}

#[test]
fn section_without_an_action_is_no_runbook() {
    let page = "# Page\n\n## Group\n\n### Fine\n- **Action**: run `check`.\n\n### Empty (A)\n\
                - **Action**: –\n\n### Bare\n- **Bound**: –\n";
    let of = |anchor: &str| unfit_runbook(page, &format!("{RUNBOOKS}{anchor}"));
    assert_eq!(of("fine"), None);
    for anchor in ["empty-a", "bare", "group", "gone"] {
        assert!(of(anchor).is_some(), "{anchor}");
    }
    assert!(unfit_runbook(page, "docs/failure-modes.md#fine").is_some());
}

#[test]
fn alerts_name_existing_metrics_and_sections() {
    let page = fs::read_to_string(root().join("docs/failure-modes.md")).unwrap();
    let rules = rules();
    for rule in &rules {
        let alert = rule["alert"].as_str().unwrap();
        let query = rule["expr"].as_str().unwrap();
        assert!(query.contains("session_layer_"), "{alert}");
        assert_eq!(unknown_names(query), Vec::<String>::new(), "{alert}");
        let runbook = rule["annotations"]["runbook_url"].as_str().unwrap_or_default();
        assert_eq!(unfit_runbook(&page, runbook), None, "{alert}: {runbook}");
        for text in ["summary", "description"] {
            assert!(rule["annotations"][text].is_string(), "{alert}: no {text}");
        }
    }
    assert!(rules.len() > 10, "only {} alerts were found", rules.len());
}

#[test]
fn dashboard_names_existing_metrics() {
    let text = fs::read_to_string(root().join("ops/grafana/session-layer.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries: Vec<_> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(queries.len() > 20, "only {} queries were found", queries.len());
    for query in queries {
        assert!(query.contains("session_layer_"), "{query}");
        assert_eq!(unknown_names(query), Vec::<String>::new(), "{query}");
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = variable["query"].to_string();
        assert_eq!(unknown_names(&query), Vec::<String>::new(), "{query}");
    }
}

// The line **Metric** of a fault names alerts, metrics without their prefix, and values of labels.
#[test]
fn failure_page_names_existing_metrics_and_alerts() {
    let page = fs::read_to_string(root().join("docs/failure-modes.md")).unwrap();
    let rules = rules();
    let alerts: BTreeSet<_> = rules.iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    let mut named = BTreeSet::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("- **Metric**: ")) {
        for name in line.split('`').skip(1).step_by(2) {
            if name.starts_with("SessionLayer") {
                assert!(alerts.contains(name), "{line}");
                named.insert(name);
            } else if !LABEL_VALUES.contains(&name) {
                let query = format!("session_layer_{}", name.replace(',', ", "));
                let query = query.replace("_duration_seconds", "_duration_seconds_bucket");
                assert_eq!(unknown_names(&query), Vec::<String>::new(), "{line}");
            }
        }
    }
    assert!(named.len() > 10, "only {named:?} were found");
}

// promtool comes with Prometheus, which `make install` installs.
#[test]
fn rules_pass_their_own_tests() {
    for arguments in [
        ["check", "rules", "ops/prometheus/alerts.yml"],
        ["test", "rules", "ops/prometheus/alerts.test.yml"],
    ] {
        let run = Command::new("promtool").args(arguments).current_dir(root()).output();
        let run = run.expect("promtool runs: install it with session-testkit/scripts/install.sh");
        let texts =
            [run.stdout, run.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(run.status.success(), "{arguments:?}\n{}", texts.concat());
    }
}

#[test]
fn every_alert_has_a_test_of_its_own() {
    let tests = fs::read_to_string(root().join("ops/prometheus/alerts.test.yml")).unwrap();
    for rule in rules() {
        let alert = rule["alert"].as_str().unwrap();
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scrape_has_every_metric_and_no_secret() -> Outcome {
    let backends = shared().await?;
    let app = App::on(&backends).await?;
    let login = app.login("alice-of-the-scrape").await?;
    for _ in 0..3 {
        assert_eq!(app.me(&login).await?.status, 200);
    }
    assert_eq!(app.ask("POST", "/logout", &[("Cookie", &login.cookie)]).await?.status, 200);
    let scrape = app.scrape().await?;
    for metric in METRICS {
        let kind = metric.kind.as_str();
        let declared = format!("# TYPE {} {kind}\n", metric.name);
        assert!(scrape.contains(&declared), "{declared}{scrape}");
    }
    for line in [
        r#"session_layer_sessions_created_total 1"#,
        r#"session_layer_sessions_ended_total{reason="revoked"} 1"#,
        r#"session_layer_changes_total{kind="revoke",visibility="propagated"} 1"#,
        r#"session_layer_breaker_state{state="closed"} 1"#,
    ] {
        assert!(scrape.lines().any(|it| it == line), "{line}\n{scrape}");
    }
    let token = login.bearer.trim_start_matches("Bearer ");
    for secret in [token, &login.id, "alice-of-the-scrape"] {
        assert!(!scrape.contains(secret), "{secret}");
    }
    Ok(())
}

/// `sessionctl watch` computes rate and latency by source from the metrics of a real node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_shows_rate_and_latency_of_each_source() -> Outcome {
    let backends = shared().await?;
    let app = App::on(&backends).await?;
    let (alice, bob) = (app.login("alice").await?, app.login("bob").await?);
    assert_eq!(app.ask("POST", "/logout", &[("Cookie", &bob.cookie)]).await?.status, 200);
    // Redis answers for a session, and Postgres for one that has ended.
    let address = app.address.clone();
    let traffic = tokio::spawn(async move {
        loop {
            for login in [&alice, &bob] {
                let fields = [("Authorization", login.bearer.as_str())];
                let _answer = http::send(&address, "GET", "/me", &fields, "").await;
            }
        }
    });
    let health = format!("http://{}/api/health/redis", app.address);
    let admin = format!("http://{}", app.admin);
    let mut node = Value::Null;
    session_testkit::wait::until("figures of Redis and Postgres", SOON, async || {
        let Ok(sessionctl) = binary("sessionctl").await else { return false };
        let mut watch = tokio::process::Command::new(sessionctl);
        watch.args(["watch", "--once", "--json", "--every", "200ms"]);
        watch.args(["--node", &health, "--admin", &admin]);
        let Ok(ran) = run(&mut watch).await else { return false };
        let document: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        node = document["nodes"][0].clone();
        let figure = |source: &str, name: &str| node["latency"][source][name].as_f64();
        ["cache", "store"].iter().all(|source| {
            let (p50, p99) = (figure(source, "p50Ms"), figure(source, "p99Ms"));
            figure(source, "perSecond") > Some(0.0) && p50 > Some(0.0) && p99 >= p50
        })
    })
    .await?;
    traffic.abort();
    let unused = serde_json::json!({ "p50Ms": null, "p99Ms": null, "perSecond": 0.0 });
    assert_eq!(node["latency"]["near"], unused, "{node}");
    assert_eq!(node["latencyError"], Value::Null, "{node}");
    Ok(())
}
