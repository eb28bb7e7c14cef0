//! The operations that prove a violation, each as a bar over its time, and as text.

use std::fmt::Write as _;

use session_tools::html::escaped;

use super::{ms, seconds::is_failed};
use crate::{
    history::{Entry, History, Op, Operation},
    invariants::Violation,
    subject::Seen,
};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = 110.0;
const ROW: f64 = 26.0;
const BAR: f64 = 14.0;
const BOTTOM: f64 = 24.0;

/// Returns the operation of an entry, if it is one.
pub(super) fn operation(entry: &Entry) -> Option<&Operation> {
    match entry {
        Entry::Op(operation) => Some(operation),
        _ => None,
    }
}

/// Returns a violation with its proof.
pub(super) fn card(violation: &Violation, history: &History) -> String {
    let mut text = format!(
        "<div class=\"reason\"><p>❌ <b>{}</b> {}</p>",
        violation.invariant,
        escaped(&violation.what)
    );
    let operations: Vec<_> = violation.proof.iter().filter_map(operation).collect();
    if !operations.is_empty() {
        text += &bars(&operations, history);
    }
    text += "<div class=\"scroll\"><table class=\"proof\">";
    let mut number = 0;
    for entry in &violation.proof {
        let shown = entry.to_string();
        // An entry begins with its time.
        let (time, what) = shown.split_once(" ms").unwrap_or(("", &shown));
        let numbered = if operation(entry).is_some() {
            number += 1;
            number.to_string()
        } else {
            String::new()
        };
        let _ = write!(
            text,
            "<tr><td>{numbered}</td><td class=\"time\">{} ms</td><td>{}</td></tr>",
            escaped(time.trim()),
            escaped(what.trim())
        );
    }
    text + "</table></div></div>\n"
}

/// Returns a bar for each operation, from its call to its response.
fn bars(operations: &[&Operation], history: &History) -> String {
    let first = operations.iter().map(|it| it.call).min().unwrap_or(0);
    let ends = operations.iter().map(|it| it.ret.or(it.dropped).unwrap_or(it.call));
    let last = ends.max().unwrap_or(first);
    let (first, last) = (ms(first), ms(last));
    // An open end has room on the right.
    let pad = ((last - first) * 0.05).max(0.05);
    let (from, to) = (first - pad, last + pad);
    let x =
        |at: f64| ((at - from) / (to - from)).clamp(0.0, 1.0).mul_add(WIDTH - LEFT - RIGHT, LEFT);
    let rows = f64::from(u32::try_from(operations.len()).unwrap_or(u32::MAX));
    let height = rows.mul_add(ROW, BOTTOM);
    let mut svg = format!(
        "<div class=\"scroll\"><svg class=\"lanes\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" \
         aria-label=\"The operations that prove it\"><title>The operations that prove it</title>"
    );
    for fault in &history.faults {
        let (begin, end) = fault.longest();
        let (begin, end) = (x(ms(begin)), x(ms(end)));
        if end > begin {
            let _ = write!(
                svg,
                "<rect class=\"away\" x=\"{begin:.1}\" y=\"0\" width=\"{:.1}\" height=\"{:.1}\">\
                 <title>{}</title></rect>",
                end - begin,
                height - BOTTOM,
                escaped(&fault.name)
            );
        }
    }
    let mut top = 0.0;
    for (operation, number) in operations.iter().zip(1..) {
        let begin = x(ms(operation.call));
        let ended = operation.ret.or(operation.dropped);
        let end = ended.map_or(WIDTH - RIGHT, |at| x(ms(at)));
        let class = match operation.op.seen() {
            _ if is_failed(operation) => "bad",
            Some(Seen::Valid { .. }) => "busy",
            _ => "calm",
        };
        let middle = top + ROW / 2.0;
        let _ = write!(
            svg,
            "<text class=\"text\" x=\"4\" y=\"{:.1}\">{number} · node {} · {}</text>\
             <rect class=\"{class}\" x=\"{begin:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{BAR}\"/>",
            middle + 4.0,
            operation.node,
            word(&operation.op),
            middle - BAR / 2.0,
            (end - begin).max(3.0)
        );
        let took = match ended {
            Some(at) => format!("{:.3} ms", ms(at) - ms(operation.call)),
            None => "no response".to_owned(),
        };
        let _ = write!(
            svg,
            "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\">{took}</text>",
            (end + 6.0).max(begin + 9.0),
            middle + 4.0
        );
        top += ROW;
    }
    for (at, anchor) in [(first, "start"), (last, "end")] {
        let _ = write!(
            svg,
            "<text class=\"label\" text-anchor=\"{anchor}\" x=\"{:.1}\" y=\"{:.1}\">{at:.3} ms</text>",
            x(at),
            height - 6.0
        );
    }
    svg + "</svg></div>"
}

fn word(op: &Op) -> &'static str {
    match op {
        Op::Create { .. } => "login",
        Op::Validate { answer, .. } | Op::ValidateRandom { answer } => match answer {
            Some(Seen::Valid { .. }) => "validate → valid",
            Some(Seen::Invalid) => "validate → invalid",
            Some(Seen::Unavailable) => "validate → unavailable",
            None => "validate",
        },
        Op::Update { .. } => "update",
        Op::Revoke { .. } => "revoke",
        Op::RevokeAll { .. } => "revoke-all",
        Op::Rotate { .. } => "rotation",
    }
}
