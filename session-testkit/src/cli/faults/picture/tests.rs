use super::*;
use crate::invariants;

const HEADER: &str = r#"{"header":{"version":1,"seed":7,"nodes":2,"parameters":{"ttl_ms":2000}}}"#;

const REVOKED: &str = r#"{"op":{"node":0,"call":0,"ret":4000000,"do":{"create":{"session":1,"user":"<b>ann","data":"a","answer":"created"}}}}
{"op":{"node":0,"call":20000000,"ret":23000000,"do":{"revoke":{"session":1,"answer":"propagated"}}}}
{"op":{"node":1,"call":40000000,"ret":41500000,"do":{"validate":{"session":1,"answer":{"valid":{"user":"<b>ann","data":"a"}}}}}}
{"op":{"node":1,"call":2000000000,"ret":2100000000,"do":{"validate_random":{"answer":"unavailable"}}}}
{"fault":{"name":"redis-kill","at":1000000000,"until":1500000000,"healed":2000000000,"nodes":[1]}}
{"end":{"at":2100000000,"due":4,"sent":4}}"#;

fn history(lines: &str) -> History {
    History::read(format!("{HEADER}\n{lines}").as_bytes()).unwrap()
}

fn page_of(lines: &str) -> String {
    let machine = Machine { build: "debug", load_average: Some(7.25), ..Machine::default() };
    let availability = Availability { answered_with_postgres: 9, ..Availability::default() };
    let history = history(lines);
    let verdicts = invariants::check(&history);
    let picture = Picture {
        name: "redis-kill",
        outcome: verdicts.overall(&[]),
        notes: &["a <doubt> of `INFO`".to_owned()],
        machine: Some(&machine),
        availability: Some(&availability),
        history: &history,
        verdicts: &verdicts,
    };
    picture.page()
}

#[test]
fn violation_is_shown_with_its_operations_and_their_times() {
    let page = page_of(REVOKED);
    for part in [
        "❌ redis-kill, seed 7: broken",
        "<b>R1</b> session 1 was Valid",
        "node 0 · revoke</text>",
        "node 1 · validate → valid</text>",
        ">3.000 ms</text>",
        ">1.500 ms</text>",
        "<td class=\"time\">20.000 ms</td>",
        "a &lt;doubt&gt; of <code>INFO</code>",
        "(load 7.2), debug build",
        "<td class=\"wide\">0 of 9 (budget 0: met)</td>",
        ">redis-kill</text>",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    assert!(!page.contains("<b>ann"), "a text of the history is markup: {page}");
}

#[test]
fn lost_budget_is_a_reason_although_each_promise_holds() {
    let history = history("");
    let verdicts = invariants::check(&history);
    let availability = Availability {
        unavailable_with_postgres: 226,
        answered_with_postgres: 1_076,
        ..Availability::default()
    };
    let picture = Picture {
        name: "redis-kill",
        outcome: Outcome::Broken,
        notes: &["too few".to_owned()],
        machine: None,
        availability: Some(&availability),
        history: &history,
        verdicts: &verdicts,
    };
    let lost = "unavailable while Postgres was reachable: 226 of 1076 (budget 0: BROKEN, over 1 %)";
    let page = picture.page();
    assert!(page.contains(&format!("❌ <b>budget</b> {lost}")), "{page}");
    assert!(page.contains("<tr class=\"broken\"><td>budget</td>"), "{page}");
    assert_eq!(picture.reasons(), [lost, "too few"]);
}

#[test]
fn page_needs_no_network_and_no_script() {
    let page = page_of(REVOKED);
    for part in ["http://", "https://", "<script", "@import", "url("] {
        assert!(!page.contains(part), "{part}");
    }
    assert!(page.contains("prefers-color-scheme:dark") && page.contains("name=\"viewport\""));
}

#[test]
fn run_without_operations_has_a_page() {
    // A fault that was never healed lasts to the end.
    for lines in ["", r#"{"fault":{"name":"redis-kill","at":5}}"#] {
        let page = page_of(lines);
        assert!(page.contains("redis-kill"), "{page}");
        assert!(!page.contains("NaN") && !page.contains("=\"inf"), "{page}");
    }
}

#[test]
fn seconds_count_returned_and_failed_operations() {
    let seconds = Seconds::of(&history(REVOKED));
    let counts = |it: &seconds::Second| (it.returned, it.failed);
    let all: Vec<_> = seconds.all().iter().map(counts).collect();
    assert_eq!(all, [(3, 0), (0, 0), (1, 1)]);
    // A node has no second in which none began, because a file may have many nodes and seconds.
    let of_node = |node| -> Vec<_> {
        seconds.of_node(node).map(|(at, second)| (at, counts(second))).collect()
    };
    assert_eq!(of_node(0), [(0, (2, 0))]);
    assert_eq!(of_node(1), [(0, (1, 0)), (2, (1, 1))]);
    assert!((seconds.all()[0].p99_ms - 1.5).abs() < 1e-9);
}

#[test]
fn index_links_to_each_run() {
    let run = |name: &str, outcome, reasons: &[&str]| Linked {
        name: name.to_owned(),
        seed: 7,
        file: format!("runs-{name}.html"),
        outcome,
        reasons: reasons.iter().map(|&reason| reason.to_owned()).collect(),
    };
    let page = index(
        7,
        &[run("a", Outcome::Holds, &[]), run("b\"<", Outcome::Broken, &["R1", "2 of <9>"])],
    );
    assert!(page.contains("<a href=\"runs-a.html\">a</a>"), "{page}");
    assert!(
        page.contains("runs-b&quot;&lt;.html") && page.contains("R1, 2 of &lt;9&gt;"),
        "{page}"
    );
}
