//! The documents agree with the code.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is a failure with its location")]

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// Returns the root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

// Every link has a target. A `[name](file)` names a test of this file.
#[test]
fn failure_page_names_existing_tests() {
    let docs = root().join("docs");
    let page = fs::read_to_string(docs.join("failure-modes.md")).unwrap();
    let mut sources: HashMap<String, String> = HashMap::new();
    let mut seen = 0;
    for link in page.split('[').skip(1) {
        let Some((name, rest)) = link.split_once("](") else {
            continue;
        };
        let file = rest.split(')').next().unwrap();
        if let Some(anchor) = file.strip_prefix('#') {
            assert!(anchors(&page).any(|it| it == anchor), "#{anchor}");
            continue;
        }
        let (other, anchor) = file.split_once('#').unwrap_or((file, ""));
        if other.ends_with(".md") {
            let other = fs::read_to_string(docs.join(other));
            let other = other.unwrap_or_else(|e| panic!("{file}: {e}"));
            assert!(anchor.is_empty() || anchors(&other).any(|it| it == anchor), "{file}");
            continue;
        }
        let source = sources.entry(file.to_owned()).or_insert_with(|| {
            fs::read_to_string(docs.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
        });
        assert!(is_test(name, source), "failure-modes.md: there is no test {name} in {file}");
        seen += 1;
    }
    assert!(seen > 150, "only {seen} links were found");
}

/// Returns the anchors of a page's headings, as GitHub forms them.
pub(crate) fn anchors(page: &str) -> impl Iterator<Item = String> {
    let headings = page.lines().filter(|line| line.starts_with("##"));
    headings.map(|line| {
        let text = line.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

/// Joins the lines of string literals that continue after a `\`.
fn without_continuations(source: &str) -> String {
    let mut lines = source.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |joined, line| joined + line.trim_start())
}

#[test]
fn failure_page_quotes_existing_log_lines() {
    let root = root();
    let page = fs::read_to_string(root.join("docs/failure-modes.md")).unwrap();
    let table = page.split("### What the log says").nth(1).unwrap();
    let table = table.split("###").next().unwrap();
    let logged: String = [
        "cache/redis/builder.rs",
        "cache/redis/rejected.rs",
        "cache/redis/shard.rs",
        "engine/guarded_cache.rs",
        "engine/diagnostics.rs",
        "engine/journal_reader.rs",
        "sessions/env.rs",
        "store/postgres/builder.rs",
        "store/postgres/tls.rs",
    ]
    .map(|file| fs::read_to_string(root.join("session-layer/src").join(file)).unwrap())
    .map(|source| without_continuations(&source))
    .concat();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let mut seen = 0;
    for row in rows {
        // The third cell has no quotations.
        for cell in row.split('|').skip(1).take(2) {
            for quoted in cell.split('`').skip(1).step_by(2) {
                assert!(logged.contains(quoted), "no code logs `{quoted}`");
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "only {seen} were found");
}

/// Returns whether a file declares a test of this name: a function with a test's attribute, one
/// that runs on each backend, or a cell of the table of bounds.
fn is_test(name: &str, source: &str) -> bool {
    let declared = format!("on_each_backend!({name});");
    is_test_function(name, source)
        || source.lines().any(|line| line == declared)
        || cells(source).any(|line| line.starts_with(&format!("{name}: ")))
}

/// Returns the lines of the table of bounds.
fn cells(source: &str) -> impl Iterator<Item = &str> {
    let table = source.split("\ncells! {\n").nth(1).unwrap_or_default();
    table.lines().take_while(|line| *line != "}").map(str::trim).filter(|line| !line.is_empty())
}

fn is_test_function(name: &str, source: &str) -> bool {
    source.match_indices(&format!("fn {name}(")).any(|(at, _)| {
        // The line of the function, and the attributes and comments above it.
        let mut above = source[..at].lines().rev().map(str::trim);
        let is_comment = above.next().is_some_and(|line| line.starts_with("//"));
        let mut above = above.take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        !is_comment && above.any(|line| line == "#[test]" || line.starts_with("#[tokio::test"))
    })
}

#[test]
fn only_declared_tests_are_found() {
    let source = r#"
on_each_backend!(one);
// on_each_backend!(gone);
async fn one(backend: Backend) {}

cells! {
    two: Propagated, InTouch, OneServer, AT_ONCE;
}
        let answer = ask("three", Cell { four: 4 });
        #[test]
        #[ignore = "why"]
        fn five() {}

        fn six() {}

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn seven() {}
    "#;
    let is = |name: &str| is_test(name, source);
    assert_eq!(["one", "two", "five", "seven"].map(is), [true; 4]);
    assert_eq!(["gone", "three", "four", "six"].map(is), [false; 4]);
}

/// The sections of the failure page whose subsections are faults.
const GROUPS: [&str; 3] = ["Redis", "Postgres", "Nodes and people"];

/// The labelled lines of a fault, in their order.
const LABELS: [&str; 5] = ["Symptom", "Metric", "Bound", "Action", "Test"];

/// Returns the text between the heading `## name` and the next one of its level.
fn section<'a>(page: &'a str, name: &str) -> &'a str {
    let (_, rest) = page
        .split_once(&format!("\n## {name}\n"))
        .unwrap_or_else(|| panic!("failure-modes.md: there is no section {name}"));
    rest.split("\n## ").next().unwrap()
}

// Every fault has its labels once, in order and with a text. Its last line links to a test.
#[test]
fn every_fault_has_its_labels_and_a_test() {
    let docs = root().join("docs");
    let page = fs::read_to_string(docs.join("failure-modes.md")).unwrap();
    let mut faults = 0;
    for group in GROUPS {
        let mut parts = section(&page, group).split("\n### ");
        let before = parts.next().unwrap();
        assert_eq!(before.trim(), "", "{group}: text without a fault");
        for fault in parts {
            let (name, text) = fault.split_once('\n').unwrap();
            let lines = text.lines().filter_map(|line| line.strip_prefix("- **"));
            let (labels, texts): (Vec<_>, Vec<_>) =
                lines.map(|line| line.split_once("**: ").unwrap_or((line, ""))).unzip();
            assert_eq!(labels, LABELS, "{name}");
            assert!(texts.iter().all(|text| !text.is_empty()), "{name}");
            assert!(!["–", "-"].contains(&texts[0]), "{name}: no symptom");
            let last = text.trim_end().lines().next_back().unwrap();
            assert_eq!(last, format!("- **Test**: {}", texts[4]), "{name}");
            // `failure_page_names_existing_tests` looks the link up.
            assert!(is_link_to_source(texts[4]), "{name}: no test");
            faults += 1;
        }
    }
    assert!(faults > 70, "only {faults} faults were found");
}

/// Returns whether a text begins with a link to a Rust file.
fn is_link_to_source(text: &str) -> bool {
    let link = text.strip_prefix('[').and_then(|it| it.split_once("]("));
    let target = link.and_then(|(_, rest)| rest.split_once(')'));
    target.is_some_and(|(file, _)| file.ends_with(".rs"))
}

// Longer cells cannot be read in a terminal.
#[test]
fn cells_of_the_failure_page_are_short() {
    let docs = root().join("docs");
    let page = fs::read_to_string(docs.join("failure-modes.md")).unwrap();
    for row in page.lines().filter(|line| line.starts_with('|')) {
        for cell in row.split('|').map(str::trim) {
            assert!(cell.chars().count() <= 120, "{cell}");
        }
    }
}

// The list below the table names the tests of each cell, which test its bound. Every test belongs
// to a cell.
#[test]
fn every_cell_of_the_table_of_bounds_is_tested_for_its_bound() {
    let page = fs::read_to_string(root().join("docs/failure-modes.md")).unwrap();
    let tests = fs::read_to_string(root().join("verification/tests/changes/bounds.rs")).unwrap();
    let heading = "Bounds by visibility and node";
    let section = section(&page, heading);
    let starting = |with: &str| section.lines().find(|line| line.starts_with(with)).unwrap();
    let mut seen = 0;
    for (row, listed, answer) in [
        ("| `Propagated` |", "- **`Propagated`**: ", "propagated"),
        ("| `Committed {", "- **`Committed`**: ", "committed"),
        ("| an error: `Unknown`", "- **`Unknown`**: ", "unknown"),
        ("| direct SQL", "- **Direct SQL**: ", "sql"),
    ] {
        let (row, listed) = (starting(row), starting(listed));
        let columns: Vec<_> = row.split('|').map(str::trim).collect();
        for (reader, cell) in
            ["in_touch", "cut_off_available", "cut_off_fail_closed"].iter().zip(&columns[2..])
        {
            let bound = [("0", "AT_ONCE"), ("D", "D"), ("TTL + 2 s", "AT_MOST")];
            let bound = bound.iter().find(|(words, _)| cell.ends_with(words));
            let (_, bound) = bound.unwrap_or_else(|| panic!("{answer}, {reader}: {cell}"));
            for redis in ["", "_with_a_replica"] {
                if answer == "propagated" && !redis.is_empty() {
                    continue;
                }
                let test = format!("bound_{answer}_{reader}{redis}");
                let link = format!("[{test}](../verification/tests/changes/bounds.rs)");
                assert!(listed.contains(&link), "no {test}: {listed}");
                let line = cells(&tests).find(|line| line.starts_with(&format!("{test}: ")));
                let line = line.unwrap_or_else(|| panic!("no {test}"));
                assert!(line.ends_with(&format!(" {bound};")), "{bound}: {line}");
                seen += 1;
            }
        }
    }
    assert_eq!(cells(&tests).count(), seen);
}

/// Returns the names in capitals of these beginnings in a text.
fn variables(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
    let of_ours = ["DATABASE_", "REDIS_", "SESSION_"];
    let named = words.filter(|word| of_ours.iter().any(|begin| word.starts_with(begin)));
    named.filter(|word| !word.ends_with('_')).map(str::to_owned).collect()
}

/// Returns the first cells of the tables in a text.
fn first_cells(text: &str) -> String {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    rows.map(|cell| format!("`{cell}\n")).collect()
}

#[test]
fn tables_of_variables_have_what_the_code_reads() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let plan = read("session-layer/src/sessions/env/plan.rs");
    // Its texts name variables as well. One constant has a similar name.
    let mut known = variables(&plan);
    known.remove("DATABASE_URLS");
    assert!(known.len() > 25, "{known:?}");
    let page = read("docs/configuration.md");
    let (page, _) = page.split_once("## Settings in code").unwrap();
    assert_eq!(variables(&first_cells(page)), known, "docs/configuration.md");
    let rustdoc = read("session-layer/src/sessions/env.md");
    assert_eq!(variables(&first_cells(&rustdoc)), known, "Sessions::from_env");
}

#[test]
fn table_of_settings_has_every_setter() {
    let page = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let (_, page) = page.split_once("## Settings in code").unwrap();
    let (table, _) = page.split_once("\n## ").unwrap();
    let cells = first_cells(table);
    let mut setters = 0;
    for builder in ["sessions/builder.rs", "cache/redis/builder.rs", "store/postgres/builder.rs"] {
        let path = root().join("session-layer/src").join(builder);
        let source = fs::read_to_string(path).unwrap();
        for setter in source.split("    pub fn ").skip(1) {
            let (name, rest) = setter.split_once('(').unwrap();
            if !rest.starts_with("mut self, ") {
                continue;
            }
            setters += 1;
            let is_row = cells.lines().any(|cell| {
                cell.trim_matches('`').rsplit("::").next().is_some_and(|it| it == name)
            });
            assert!(is_row, "docs/configuration.md: no row for `{name}` of {builder}");
        }
    }
    assert!(setters > 20, "only {setters} setters were found");
}
