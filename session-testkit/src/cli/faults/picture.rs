//! A fault run as one HTML file: the nodes, the faults and the load over time, and the operations
//! that prove a violation.

mod lanes;
mod proof;
mod seconds;

use std::fmt::Write as _;

use session_tools::html::{
    self, escaped, marked,
    plot::{Line, Shade},
};

use self::seconds::Seconds;
use crate::{
    bench::Machine,
    fault_run::{Availability, UNAVAILABLE},
    history::{History, Nanos},
    invariants::{Outcome, Verdict, Verdicts},
};

const MS: f64 = 1_000_000.0;

/// The rules beside those of every page.
const STYLE: &str = "\
.lanes{min-width:56rem}.busy{fill:var(--after)}.bad{fill:var(--bad)}.calm{fill:var(--before)}\
:root{--bad:#d1242f}@media(prefers-color-scheme:dark){:root{--bad:#f85149}}\
.mark{stroke:var(--bad);stroke-width:2}.open{stroke:var(--fg);stroke-dasharray:4 3}\
.text{fill:var(--fg);font:12px system-ui,sans-serif}.proof td{white-space:normal;text-align:left;\
overflow-wrap:anywhere}.proof td.time{white-space:nowrap;text-align:right}\
tr.broken td{color:var(--bad);font-weight:600}.wide{white-space:normal;text-align:left}";

/// A figure of one second.
type Figure = fn(&seconds::Second) -> f64;

/// A judged run.
#[derive(Debug)]
pub(super) struct Picture<'a> {
    pub(super) name: &'a str,
    pub(super) outcome: Outcome,
    /// Why the run is not better judged, beside the promises.
    pub(super) notes: &'a [String],
    /// `None` for a history, which does not record it.
    pub(super) machine: Option<&'a Machine>,
    /// `None` for a history, which is judged by its promises alone.
    pub(super) availability: Option<&'a Availability>,
    pub(super) history: &'a History,
    pub(super) verdicts: &'a Verdicts,
}

impl Picture<'_> {
    /// Returns the page.
    pub(super) fn page(&self) -> String {
        let Self { name, outcome, history, .. } = self;
        let title = format!("{name}, seed {}: {outcome}", history.header.seed);
        let mut body = format!("<h1>{} {}</h1>\n", sign(*outcome), escaped(&title));
        let _ = writeln!(
            body,
            "<p class=\"dim\">{} nodes, {} operations, {} faults. Times count from the start of \
             the run.</p>",
            history.header.nodes,
            history.operations.len(),
            history.faults.len()
        );
        if let Some(machine) = self.machine {
            let _ = writeln!(body, "<p class=\"dim\">{}</p>", escaped(&machine.to_string()));
        }
        if let Some(lost) = self.lost() {
            let lost = escaped(&lost);
            let _ = writeln!(body, "<div class=\"reason\"><p>❌ <b>budget</b> {lost}</p></div>");
        }
        for note in self.notes {
            let _ = writeln!(body, "<div class=\"reason\"><p>⚠️ {}</p></div>", marked(note));
        }
        for (_, verdict) in self.verdicts.iter() {
            let Verdict::Broken { violations, found, .. } = verdict else { continue };
            for violation in violations {
                body += &proof::card(violation, history);
            }
            let more = found.saturating_sub(violations.len() as u64);
            if more > 0 {
                let _ = writeln!(body, "<p class=\"dim\">… and {more} more</p>");
            }
        }
        let seconds = Seconds::of(history);
        body += "<h2>Nodes and faults</h2>\n";
        body += &lanes::svg(history, &seconds, &marks(self.verdicts));
        body += LEGEND;
        body += &self.plots(&seconds);
        body += &self.promises();
        html::page(&title, STYLE, &body)
    }

    /// Returns why the run is not better judged: the broken promises, the budget, the doubts.
    pub(super) fn reasons(&self) -> Vec<String> {
        let broken = self.verdicts.iter();
        let broken = broken.filter(|(_, verdict)| verdict.outcome() == Outcome::Broken);
        let broken = broken.map(|(invariant, _)| invariant.name().to_owned());
        broken.chain(self.lost()).chain(self.notes.iter().cloned()).collect()
    }

    /// Returns how the run exceeds the budget of unavailable responses, if it does.
    fn lost(&self) -> Option<String> {
        let availability = self.availability.filter(|it| it.is_lost())?;
        Some(format!("{UNAVAILABLE}: {}", availability.budget()))
    }

    fn plots(&self, seconds: &Seconds) -> String {
        let shades: Vec<_> = self
            .history
            .faults
            .iter()
            .map(|fault| {
                let (from, to) = fault.longest();
                let to = to.min(seconds.end());
                Shade { from: ms(from), to: ms(to), label: String::new() }
            })
            .collect();
        let all = seconds.all();
        // The last second has a point at its end too, so that a short run has a line.
        let points = |of: Figure| {
            let each = all.iter().chain(all.last()).zip(0_u32..);
            each.map(|(it, at)| (f64::from(at) * 1000.0, of(it))).collect::<Vec<_>>()
        };
        let plots: [(_, _, Figure); 3] = [
            ("Operations that returned, per second", "", |it| f64::from(it.returned)),
            ("Unavailable and failed, per second", "", |it| f64::from(it.failed)),
            ("p99 of validations per second", " ms", |it| it.p99_ms),
        ];
        let mut text = "<h2>Load</h2><div class=\"plots\">".to_owned();
        for (title, unit, of) in plots {
            let points = points(of);
            let line = Line { title, unit, points: &points, top: None, shades: &shades };
            let _ = write!(text, "<figure>{}<figcaption>{title}</figcaption></figure>", line.svg());
        }
        text + "</div>\n"
    }

    fn promises(&self) -> String {
        let mut text = "<h2>Promises</h2><div class=\"scroll\"><table><tr><th></th>\
                        <th class=\"wide\">promise</th><th class=\"wide\">verdict</th></tr>"
            .to_owned();
        for (invariant, verdict) in self.verdicts.iter() {
            let class = if verdict.outcome() == Outcome::Broken { "broken" } else { "" };
            let _ = write!(
                text,
                "<tr class=\"{class}\"><td>{invariant}</td><td class=\"wide\">{}</td>\
                 <td class=\"wide\">{}</td></tr>",
                marked(invariant.promise()),
                marked(&verdict.to_string())
            );
        }
        if let Some(availability) = self.availability {
            let _ = write!(
                text,
                "<tr class=\"{}\"><td>budget</td><td class=\"wide\">{UNAVAILABLE}</td>\
                 <td class=\"wide\">{}</td></tr>",
                if availability.is_lost() { "broken" } else { "" },
                escaped(&availability.budget())
            );
        }
        text + "</table></div>\n"
    }
}

const LEGEND: &str = "<p class=\"dim\"><span class=\"key\" style=\"background:var(--after)\"></span>\
returned, per second<span class=\"key\" style=\"background:var(--bad)\"></span>unavailable, failed \
or without a response<span class=\"key\" style=\"background:var(--away)\"></span>fault</p>\n";

/// Returns the time and the node of every operation that proves a violation.
fn marks(verdicts: &Verdicts) -> Vec<(Nanos, u32)> {
    let broken = verdicts.iter().filter_map(|(_, verdict)| match verdict {
        Verdict::Broken { violations, .. } => Some(violations),
        Verdict::Holds { .. } | Verdict::Inconclusive { .. } => None,
    });
    let proof = broken.flatten().flat_map(|violation| &violation.proof);
    proof.filter_map(proof::operation).map(|operation| (operation.call, operation.node)).collect()
}

/// Returns the page that links to those of several runs.
pub(super) fn index(seed: u64, runs: &[Linked]) -> String {
    let title = format!("Fault runs, seed {seed}");
    let mut body = format!(
        "<h1>{}</h1><div class=\"scroll\"><table><tr><th>run</th><th>seed</th><th>verdict</th>\
         <th class=\"wide\">why</th></tr>\n",
        escaped(&title)
    );
    for run in runs {
        let _ = writeln!(
            body,
            "<tr class=\"{}\"><td><a href=\"{}\">{}</a></td><td>{}</td><td>{} {}</td>\
             <td class=\"wide\">{}</td></tr>",
            if run.outcome == Outcome::Broken { "broken" } else { "" },
            escaped(&run.file),
            escaped(&run.name),
            run.seed,
            sign(run.outcome),
            run.outcome,
            marked(&run.reasons.join(", "))
        );
    }
    body += "</table></div>\n";
    html::page(&title, STYLE, &body)
}

/// A run in the index.
#[derive(Debug)]
pub(super) struct Linked {
    pub(super) name: String,
    pub(super) seed: u64,
    /// The name of its file, beside the index.
    pub(super) file: String,
    pub(super) outcome: Outcome,
    /// Why it is not better judged.
    pub(super) reasons: Vec<String>,
}

fn sign(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Holds => "✅",
        Outcome::Broken => "❌",
        Outcome::Inconclusive => "⚠️",
    }
}

#[expect(clippy::cast_precision_loss, reason = "the nanoseconds of a run are far below 2^52")]
fn ms(nanos: Nanos) -> f64 {
    nanos as f64 / MS
}

#[cfg(test)]
mod tests;
