//! The report as one HTML file. It works from the disk, without scripts and without network.

use std::fmt::Write as _;

use session_testkit::report::Measured;

use super::{
    Report,
    judge::ms,
    markdown::{ROWS, facts, summary},
    plot::{Line, bars},
};

const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#59636e;--edge:#d8dee4;--card:#f6f8fa;\
--before:#8c959f;--after:#1a7f64;--away:#d1242f22}\
@media(prefers-color-scheme:dark){:root{--bg:#0f1419;--fg:#e6edf3;--dim:#9198a1;--edge:#30363d;\
--card:#161b22;--before:#6e7681;--after:#3fb68b;--away:#f8514930}}\
*{box-sizing:border-box}body{margin:0 auto;max-width:60rem;padding:1rem;background:var(--bg);\
color:var(--fg);font:16px/1.5 system-ui,sans-serif}\
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.15rem;margin:1.5rem 0 .5rem}\
.dim{color:var(--dim)}.reason{border:1px solid var(--edge);border-radius:.5rem;padding:.6rem .8rem;\
margin:.5rem 0;background:var(--card);overflow-wrap:anywhere}.reason p{margin:.2rem 0}\
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{border-bottom:1px solid var(--edge);padding:.35rem .6rem;text-align:right;white-space:nowrap}\
th:first-child,td:first-child{text-align:left}\
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem}\
figure{margin:0;border:1px solid var(--edge);border-radius:.5rem;padding:.6rem}\
figcaption{font-size:.9rem;color:var(--dim)}svg{width:100%;height:auto;display:block}\
.label{fill:var(--dim);font:12px system-ui,sans-serif}.grid{stroke:var(--edge)}\
.line{fill:none;stroke:var(--after);stroke-width:2}.before{fill:var(--before)}\
.after{fill:var(--after)}.away{fill:var(--away)}ul{padding-left:1.2rem}li{overflow-wrap:anywhere}\
.key{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 .8em}";

pub(super) fn page(report: &Report) -> String {
    let (sign, verdict) = (report.verdict.sign(), report.verdict);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>Deployment report: {verdict}</title><style>{STYLE}</style></head><body>\n\
         <h1>{sign} Deployment report: {verdict}</h1><p class=\"dim\">{}</p>\n",
        escaped(&report.at)
    );
    for reason in &report.reasons {
        let what = escaped(&reason.what);
        let _ = write!(html, "<div class=\"reason\"><p>{} {what}</p>", reason.verdict.sign());
        if let Some(why) = &reason.why {
            let _ = write!(html, "<p class=\"dim\">why: {}</p>", escaped(why));
        }
        for help in &reason.help {
            let _ = write!(html, "<p>→ {}</p>", escaped(help));
        }
        html += "</div>\n";
    }
    if let Some(measured) = &report.measured {
        latencies(&mut html, measured);
        outage(&mut html, measured);
        html += "<h2>Health after the outage</h2><ul>";
        for (name, value) in facts(measured) {
            let _ = write!(html, "<li>{name}: {}</li>", escaped(&value));
        }
        html += "</ul>\n";
    }
    html += "<h2>Checks</h2>";
    for server in &report.checks.servers {
        let url = escaped(server.url.as_deref().unwrap_or_default());
        let _ =
            write!(html, "<p><b>{}</b> <span class=\"dim\">{url}</span></p><ul>", server.server);
        for step in &server.steps {
            let message = escaped(&step.message);
            let _ = write!(html, "<li>{} {message}</li>", step.status.sign().trim());
        }
        html += "</ul>";
    }
    html + "\n</body></html>\n"
}

fn latencies(html: &mut String, measured: &Measured) {
    let machine = escaped(&measured.machine.to_string());
    let _ = write!(
        html,
        "<h2>Before and after</h2><p class=\"dim\">{machine}. {}.</p><div class=\"scroll\"><table>\
         <tr><th></th><th>average</th><th>p50</th><th>p95</th><th>p99</th><th>requests</th></tr>",
        escaped(&measured.method)
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
        let _ = write!(html, "<li>{sign} {}</li>", escaped(&goal.text));
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
        let _ = write!(html, "<p>{}</p>", escaped(&summary));
    }
    let away = outage.how.map(|_| (outage.down_ms as f64, outage.up_ms as f64));
    let rates: Vec<_> = outage.samples.iter().map(|it| (it.at_ms as f64, it.hit_rate)).collect();
    let p99: Vec<_> =
        outage.samples.iter().map(|it| (it.at_ms as f64, it.p99_us as f64 / 1000.0)).collect();
    let hit_rate =
        Line { title: "Hit rate over time", unit: " %", points: &rates, top: Some(100.0), away };
    let latency = Line { title: "p99 over time", unit: " ms", points: &p99, top: None, away };
    let _ = writeln!(
        html,
        "<div class=\"plots\"><figure>{}<figcaption>Hit rate, from an empty cache on</figcaption>\
         </figure><figure>{}<figcaption>p99 of all requests</figcaption></figure></div>",
        hit_rate.svg(),
        latency.svg()
    );
}

/// Escapes a text for HTML.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for it in text.chars() {
        match it {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            it if it.is_control() && it != '\n' => escaped.push('\u{fffd}'),
            it => escaped.push(it),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_server_is_no_markup() {
        assert_eq!(escaped("<b a=\"x\">&'"), "&lt;b a=&quot;x&quot;&gt;&amp;&#39;");
        assert_eq!(escaped("a\u{1b}[2J"), "a\u{fffd}[2J");
    }
}
