//! The report as one HTML file. It works from the disk, without scripts and without network.

use std::fmt::Write as _;

use session_testkit::report::Measured;
use session_tools::html::{
    self, escaped, marked,
    plot::{Line, Shade, bars},
};

use super::{
    Report,
    judge::ms,
    markdown::{ROWS, facts, summary},
};

pub(super) fn page(report: &Report) -> String {
    let (sign, verdict) = (report.verdict.sign(), report.verdict);
    let title = format!("Deployment report: {verdict}");
    let mut html = format!("<h1>{sign} {title}</h1><p class=\"dim\">{}</p>\n", escaped(&report.at));
    for reason in &report.reasons {
        let what = marked(&reason.what);
        let _ = write!(html, "<div class=\"reason\"><p>{} {what}</p>", reason.verdict.sign());
        if let Some(why) = &reason.why {
            let _ = write!(html, "<p class=\"dim\">why: {}</p>", marked(why));
        }
        for help in &reason.help {
            let _ = write!(html, "<p>→ {}</p>", marked(help));
        }
        html += "</div>\n";
    }
    if let Some(measured) = &report.measured {
        latencies(&mut html, measured);
        outage(&mut html, measured);
        html += "<h2>Health after the outage</h2><ul>";
        for (name, value) in facts(measured) {
            let _ = write!(html, "<li>{name}: {}</li>", marked(&value));
        }
        html += "</ul>\n";
    }
    html += "<h2>Checks</h2>";
    for server in &report.checks.servers {
        let url = escaped(server.url.as_deref().unwrap_or_default());
        let _ =
            write!(html, "<p><b>{}</b> <span class=\"dim\">{url}</span></p><ul>", server.server);
        for step in &server.steps {
            let message = marked(&step.message);
            let _ = write!(html, "<li>{} {message}</li>", step.status.sign().trim());
        }
        html += "</ul>";
    }
    html::page(&title, "", &html)
}

fn latencies(html: &mut String, measured: &Measured) {
    let machine = escaped(&measured.machine.to_string());
    let _ = write!(
        html,
        "<h2>Before and after</h2><p class=\"dim\">{machine}. {}.</p><div class=\"scroll\"><table>\
         <tr><th></th><th>average</th><th>p50</th><th>p95</th><th>p99</th><th>requests</th></tr>",
        marked(&measured.method)
    );
    for (name, title) in ROWS {
        let Some(latency) = measured.latencies.get(name) else { continue };
        let [p50, p95, p99] = [latency.p50_us, latency.p95_us, latency.p99_us].map(ms);
        let _ = write!(
            html,
            "<tr><td>{title}</td><td>{:.2} ms</td><td>{p50}</td><td>{p95}</td><td>{p99}</td>\
             <td>{}</td></tr>",
            latency.mean_us / 1000.0,
            latency.count
        );
    }
    *html += "</table></div><ul>";
    for goal in &measured.goals {
        let sign = if goal.met { "✅" } else { "❌" };
        let _ = write!(html, "<li>{sign} {}</li>", marked(&goal.text));
    }
    *html += "</ul>\n";
    let side = |name: &str| measured.latencies.get(name).copied().unwrap_or_default();
    let (before, after) = (side("postgresAlone"), side("withCache"));
    #[expect(clippy::cast_precision_loss, reason = "microseconds are far below 2^52")]
    let ms = |micros: u64| micros as f64 / 1000.0;
    let groups = [
        ("p50", ms(before.p50_us), ms(after.p50_us)),
        ("p95", ms(before.p95_us), ms(after.p95_us)),
        ("p99", ms(before.p99_us), ms(after.p99_us)),
    ];
    let _ = writeln!(
        html,
        "<div class=\"plots\"><figure>{}<figcaption>Latency in ms:<span class=\"key\" \
         style=\"background:var(--before)\"></span>Postgres alone<span class=\"key\" \
         style=\"background:var(--after)\"></span>with the cache</figcaption></figure></div>",
        bars("Latency before and after", &groups, "")
    );
}

#[expect(clippy::cast_precision_loss, reason = "ms and microseconds of a run are far below 2^52")]
fn outage(html: &mut String, measured: &Measured) {
    let outage = &measured.outage;
    *html += "<h2>An outage of Redis</h2>";
    if let Some(summary) = summary(measured) {
        let _ = write!(html, "<p>{}</p>", marked(&summary));
    }
    let away = outage.how.map(|_| Shade {
        from: outage.down_ms as f64,
        to: outage.up_ms as f64,
        label: "Redis away".to_owned(),
    });
    let shades = away.as_slice();
    let rates: Vec<_> = outage.samples.iter().map(|it| (it.at_ms as f64, it.hit_rate)).collect();
    let p99: Vec<_> =
        outage.samples.iter().map(|it| (it.at_ms as f64, it.p99_us as f64 / 1000.0)).collect();
    let hit_rate =
        Line { title: "Hit rate over time", unit: " %", points: &rates, top: Some(100.0), shades };
    let latency = Line { title: "p99 over time", unit: " ms", points: &p99, top: None, shades };
    let _ = writeln!(
        html,
        "<div class=\"plots\"><figure>{}<figcaption>Hit rate, from an empty cache on</figcaption>\
         </figure><figure>{}<figcaption>p99 of all requests</figcaption></figure></div>",
        hit_rate.svg(),
        latency.svg()
    );
}
