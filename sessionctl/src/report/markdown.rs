//! The report as Markdown.

use std::fmt::Write as _;

use serde_json::Value;
use session_testkit::report::Measured;

use super::{Report, judge::ms};

/// The names of the latencies, in the order of the table.
pub(super) const ROWS: [(&str, &str); 6] = [
    ("postgresAlone", "Before: Postgres alone"),
    ("withCache", "After: with the cache"),
    ("hit", "of these, hits"),
    ("miss", "misses (cache empty)"),
    ("ping", "bare PING of Redis"),
    ("select", "bare SELECT 1 of Postgres"),
];

pub(super) fn page(report: &Report) -> String {
    let mut text = format!(
        "# Deployment report {} {}\n\n{}\n",
        report.verdict.sign(),
        report.verdict,
        report.at
    );
    for reason in &report.reasons {
        let _ = write!(text, "\n- {} {}", reason.verdict.sign(), escaped(&reason.what));
        if let Some(why) = &reason.why {
            let _ = write!(text, "\n  why: {}", escaped(why));
        }
        for help in &reason.help {
            let _ = write!(text, "\n  → {}", escaped(help));
        }
    }
    if !report.reasons.is_empty() {
        text.push('\n');
    }
    if let Some(measured) = &report.measured {
        latencies(&mut text, measured);
        outage(&mut text, measured);
        health(&mut text, measured);
    }
    text += "\n## Checks\n\n";
    for server in &report.checks.servers {
        let url = escaped(server.url.as_deref().unwrap_or_default());
        let _ = writeln!(text, "**{}** {url}\n", server.server);
        for step in &server.steps {
            let _ = writeln!(text, "- {} {}", step.status.sign().trim(), escaped(&step.message));
        }
        text.push('\n');
    }
    text
}

fn latencies(text: &mut String, measured: &Measured) {
    let (machine, method) = (escaped(&measured.machine.to_string()), escaped(&measured.method));
    let _ = writeln!(text, "\n## Before and after\n\n{machine}. {method}.\n");
    *text += "| | average | p50 | p95 | p99 | requests |\n|---|---|---|---|---|---|\n";
    for (name, title) in ROWS {
        let Some(latency) = measured.latencies.get(name) else { continue };
        let [p50, p95, p99] = [latency.p50_us, latency.p95_us, latency.p99_us].map(ms);
        let mean = format!("{:.2} ms", latency.mean_us / 1000.0);
        let _ = writeln!(text, "| {title} | {mean} | {p50} | {p95} | {p99} | {} |", latency.count);
    }
    text.push('\n');
    for goal in &measured.goals {
        let _ = writeln!(text, "- {} {}", if goal.met { "✅" } else { "❌" }, escaped(&goal.text));
    }
}

fn outage(text: &mut String, measured: &Measured) {
    let outage = &measured.outage;
    let _ = writeln!(text, "\n## An outage of Redis\n");
    if let Some(line) = summary(measured) {
        let _ = writeln!(text, "{line}\n");
    }
    *text += "| at | requests | failed | hit rate | p99 |\n|---|---|---|---|---|\n";
    for sample in outage.samples.iter().step_by(2) {
        let _ = writeln!(
            text,
            "| {} ms | {} | {} | {:.1} % | {} |",
            sample.at_ms,
            sample.requests,
            sample.failed,
            sample.hit_rate,
            ms(sample.p99_us)
        );
    }
}

/// Returns what happened during the outage, if there was one.
pub(super) fn summary(measured: &Measured) -> Option<String> {
    let outage = &measured.outage;
    let how = outage.how?;
    let failed: u64 = outage.samples.iter().map(|sample| sample.failed).sum();
    let again = match outage.hits_again_ms {
        Some(at) => format!("hits again {} ms after its return", at.saturating_sub(outage.up_ms)),
        None => "no hits after its return".to_owned(),
    };
    Some(format!(
        "Redis was {how} at {} ms and back at {} ms: {failed} requests failed, {again}.",
        outage.down_ms, outage.up_ms
    ))
}

fn health(text: &mut String, measured: &Measured) {
    let _ = writeln!(text, "\n## Health after the outage\n");
    for (name, value) in facts(measured) {
        let _ = writeln!(text, "- {name}: {}", escaped(&value));
    }
}

/// Returns the facts of the health document.
pub(super) fn facts(measured: &Measured) -> Vec<(&'static str, String)> {
    let health = &measured.health;
    let value = |pointer: &str| match health.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(value) if !value.is_null() => value.to_string(),
        _ => "unknown".to_owned(),
    };
    let hit_rate = health.pointer("/sessionCache/metrics/hitRate").and_then(Value::as_f64);
    vec![
        ("status", status(health)),
        ("Redis version", value("/redis/version")),
        ("Redis memory", value("/redis/usedMemory")),
        ("Redis keys", value("/redis/totalKeys")),
        ("pool size", value("/sessionCache/pool/size")),
        ("pool available", value("/sessionCache/pool/available")),
        ("pool pending", value("/sessionCache/pool/pending")),
        (
            "hit rate since the start, %",
            hit_rate.map_or_else(|| "unknown".to_owned(), |rate| format!("{rate:.1}")),
        ),
    ]
}

/// Returns the status of a health document, with the reasons if it is not healthy.
fn status(health: &Value) -> String {
    let status = health["status"].as_str().unwrap_or("unknown");
    let errors = health["errors"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut reasons: Vec<String> = errors.map(str::to_owned).collect();
    if let Some(breaker) = health["breaker"]["state"].as_str().filter(|state| *state != "closed") {
        reasons.push(format!("the breaker is {breaker}"));
    }
    if reasons.is_empty()
        && let Some(ping) = health["performance"]["ping"].as_f64()
    {
        reasons.push(format!("a PING takes {ping:.2} ms"));
    }
    match status {
        "healthy" | "unknown" => status.to_owned(),
        _ if reasons.is_empty() => status.to_owned(),
        _ => format!("{status}, because {}", reasons.join("; ")),
    }
}

/// Escapes a text that may come from a server. It becomes one line without markup of HTML or of a
/// table. Code between backticks stays code.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for it in text.chars() {
        match it {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '|' => escaped += "\\|",
            // A line of its own could begin a heading.
            '\n' | '\r' => escaped.push(' '),
            it => escaped.push(it),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::judge::{Reason, Verdict};

    #[test]
    fn status_other_than_healthy_has_its_reasons() {
        let document = |status: &str, errors: &[&str], breaker: &str| {
            serde_json::json!({
                "status": status, "errors": errors, "breaker": { "state": breaker },
                "performance": { "ping": 64.0 },
            })
        };
        for (document, expected) in [
            (document("healthy", &[], "closed"), "healthy"),
            (document("degraded", &[], "closed"), "degraded, because a PING takes 64.00 ms"),
            (document("degraded", &[], "open"), "degraded, because the breaker is open"),
            (document("degraded", &["a", "b"], "closed"), "degraded, because a; b"),
            (Value::Null, "unknown"),
        ] {
            assert_eq!(status(&document), expected);
        }
    }

    #[test]
    fn text_of_a_server_is_no_markup() {
        let outside = "<img src=x> a|b & c\n# heading\n| row |";
        let reason = Reason {
            verdict: Verdict::Failed,
            what: outside.to_owned(),
            why: Some(outside.to_owned()),
            help: vec![outside.to_owned()],
        };
        let report = Report {
            at: String::new(),
            verdict: Verdict::Failed,
            reasons: vec![reason],
            checks: session_tools::check::Report { ok: false, servers: Vec::new() },
            measured: None,
        };
        let page = page(&report);
        let shown = r"&lt;img src=x&gt; a\|b &amp; c # heading \| row \|";
        assert_eq!(page.matches(shown).count(), 3, "{page}");
        assert!(!page.contains("<img") && !page.contains("\n# heading"), "{page}");
    }
}
