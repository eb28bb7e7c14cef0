//! A lane for each node, with what it returned and the faults that affected it.

use std::fmt::Write as _;

use session_tools::html::escaped;

use super::{ms, seconds::Seconds};
use crate::history::{Fault, History, Nanos};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 8.0;
/// The height of a fault's line, and that of a node's lane.
const LINE: f64 = 18.0;
const LANE: f64 = 40.0;
const GAP: f64 = 6.0;
const BOTTOM: f64 = 24.0;

/// Returns the picture. `marks` are the operations that prove a violation, by time and node.
pub(super) fn svg(history: &History, seconds: &Seconds, marks: &[(Nanos, u32)]) -> String {
    let end = ms(seconds.end());
    let x = |ms: f64| (ms / end).min(1.0).mul_add(WIDTH - LEFT - RIGHT, LEFT);
    let faults = f64::from(u32::try_from(history.faults.len()).unwrap_or(u32::MAX));
    let nodes = history.header.nodes;
    let top = faults.mul_add(LINE, GAP);
    let lane = |node: u32| f64::from(node).mul_add(LANE + GAP, top);
    let height = lane(nodes) + BOTTOM;
    let mut svg = format!(
        "<div class=\"scroll\"><svg class=\"lanes\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" \
         aria-label=\"Nodes and faults\"><title>Nodes and faults</title>"
    );
    let mut line = 0.0;
    for fault in &history.faults {
        let (from, to) = span(fault, seconds.end());
        let (from, to) = (x(ms(from)), x(ms(to)));
        let width = (to - from).max(2.0);
        let _ = write!(
            svg,
            "<rect class=\"away\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{width:.1}\" \
             height=\"{:.1}\"/>",
            line + 2.0,
            LINE - 4.0
        );
        // Beside a fault near the end, its name has no room on the right.
        let (at, anchor) =
            if from > WIDTH * 0.7 { (from - 4.0, "end") } else { (from + 4.0, "start") };
        let _ = write!(
            svg,
            "<text class=\"text\" text-anchor=\"{anchor}\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
            line + LINE - 5.0,
            escaped(&fault.name)
        );
        for node in (0..nodes).filter(|node| fault.affects(*node)) {
            let _ = write!(
                svg,
                "<rect class=\"away\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{width:.1}\" \
                 height=\"{LANE}\"/>",
                lane(node)
            );
        }
        line += LINE;
    }
    let most = (0..nodes).flat_map(|node| seconds.of_node(node));
    let most = most.map(|(_, second)| second.returned + second.failed);
    let most = f64::from(most.max().unwrap_or(0).max(1));
    for node in 0..nodes {
        let bottom = lane(node) + LANE;
        let _ = write!(
            svg,
            "<text class=\"text\" x=\"4\" y=\"{:.1}\">node {node}</text>\
             <line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{bottom:.1}\" y2=\"{bottom:.1}\"/>",
            bottom - LANE / 2.0 + 4.0,
            WIDTH - RIGHT
        );
        for (at, second) in seconds.of_node(node) {
            let (from, to) = (x(f64::from(at) * 1000.0), x(f64::from(at + 1) * 1000.0));
            let width = (to - from - 1.0).max(0.5);
            let failed = f64::from(second.failed) / most * (LANE - 4.0);
            let all = f64::from(second.returned.max(second.failed)) / most * (LANE - 4.0);
            for (class, bar) in [("busy", all), ("bad", failed)] {
                if bar > 0.0 {
                    // A single failure among thousands must be seen.
                    let bar = bar.max(2.0);
                    let _ = write!(
                        svg,
                        "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{width:.1}\" \
                         height=\"{bar:.1}\"/>",
                        bottom - bar
                    );
                }
            }
        }
    }
    for (at, node) in marks.iter().filter(|(_, node)| *node < nodes) {
        let (at, top) = (x(ms(*at)), lane(*node));
        let _ = write!(
            svg,
            "<line class=\"mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
            top - 3.0,
            top + LANE + 3.0
        );
    }
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let at = end * part;
        let anchor = if part == 1.0 { "end" } else { "middle" };
        let digits = if end < 5_000.0 { 3 } else { 1 };
        let _ = write!(
            svg,
            "<text class=\"label\" text-anchor=\"{anchor}\" x=\"{:.1}\" y=\"{:.1}\">{:.digits$} s\
             </text>",
            x(at),
            height - 6.0,
            at / 1000.0
        );
    }
    svg + "</svg></div>\n"
}

/// Returns the span in which a fault may have had an effect, up to the end of the run.
fn span(fault: &Fault, end: Nanos) -> (Nanos, Nanos) {
    let (from, to) = fault.longest();
    (from.min(end), to.min(end))
}
