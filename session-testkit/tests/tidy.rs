//! What the documents say of the code is looked up in the code.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Every `[name](file)` of a table's last column names a test that is declared in that file: in the
/// integration tests where it is registered, elsewhere as a function with a test's attribute.
#[test]
fn the_failure_page_names_tests_that_exist() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
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
        if file.ends_with(".md") {
            assert!(docs.join(file).exists(), "{file}");
            continue;
        }
        let source = sources.entry(file.to_owned()).or_insert_with(|| {
            fs::read_to_string(docs.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
        });
        assert!(
            is_registered(name, source) || is_test_function(name, source),
            "failure-modes.md: there is no test {name} in {file}"
        );
        seen += 1;
    }
    assert!(seen > 30, "only {seen} links were found");
}

/// By which a page's headings are linked to.
fn anchors(page: &str) -> impl Iterator<Item = String> {
    let headings = page.lines().filter(|line| line.starts_with("##"));
    headings.map(|line| {
        let text = line.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || *c == ' ');
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

/// What the log says, as the page quotes it, is what the code logs.
#[test]
fn the_failure_page_quotes_the_log_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/failure-modes.md")).unwrap();
    let table = page.split("### What the log says").nth(1).unwrap();
    let table = table.split("###").next().unwrap();
    let logged: String = [
        "breaker/asking.rs",
        "cache/redis/builder.rs",
        "cache/redis/rejected.rs",
        "driver.rs",
        "journal.rs",
        "troubles/noted.rs",
    ]
    .map(|file| fs::read_to_string(root.join("session-layer/src").join(file)).unwrap())
    .concat();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let mut seen = 0;
    for row in rows {
        // The two first cells; the third says where to look.
        for cell in row.split('|').skip(1).take(2) {
            for quoted in cell.split('`').skip(1).step_by(2) {
                assert!(logged.contains(quoted), "nothing logs `{quoted}`");
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "only {seen} were found");
}

/// What a test is registered with, before its name; rustfmt may break the line between them.
const REGISTERED_WITH: [&str; 4] = ["reg.shared(", "reg.each_backend(", "reg.plain(", "cell("];

/// Another string that reads the same (a word that an answer holds, a user's name) is no test.
fn is_registered(name: &str, source: &str) -> bool {
    let quoted = format!("\"{name}\",");
    source.match_indices(&quoted).any(|(at, _)| {
        let before = source[..at].trim_end();
        REGISTERED_WITH.iter().any(|call| before.ends_with(call)) && !is_comment(before)
    })
}

/// A function that is not run by itself (a helper, what a registration names) is no test.
fn is_test_function(name: &str, source: &str) -> bool {
    let declared = format!("fn {name}(");
    source.match_indices(&declared).any(|(at, _)| {
        let before = &source[..at];
        // What stands over it, up to the end of whatever comes before.
        let over = before.lines().rev().skip(1).map(str::trim);
        let mut over = over.take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        over.any(|line| line == "#[test]" || line.starts_with("#[tokio::test"))
            && !is_comment(before)
    })
}

/// Is the last line of this one?
fn is_comment(before: &str) -> bool {
    let last = before.lines().next_back();
    last.is_some_and(|line| line.trim_start().starts_with("//"))
}

#[test]
fn a_name_is_a_tests_where_it_is_declared_as_one() {
    let source = r#"
        reg.shared("one", one);
        reg.each_backend(
            "two",
            two,
        );
        // reg.plain("gone", gone);
        let answer = ask("three", "four");
        async fn one() {}
        #[test]
        #[ignore = "why"]
        fn five() {}

        fn six() {}
    "#;
    let is = |name: &str| is_registered(name, source) || is_test_function(name, source);
    assert_eq!(["one", "two", "five"].map(is), [true; 3]);
    assert_eq!(["gone", "three", "four", "six"].map(is), [false; 4]);
}

/// A row of a table of faults without a test proves nothing.
#[test]
fn every_row_of_the_failure_page_names_a_test() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let page = fs::read_to_string(docs.join("failure-modes.md")).unwrap();
    let mut proved = false;
    let mut rows = 0;
    for line in page.lines() {
        if line.starts_with("| ") && line.ends_with("proved by |") {
            proved = true;
        } else if !line.starts_with('|') {
            proved = false;
        } else if proved && !line.starts_with("|---") {
            rows += 1;
            assert!(line.contains("]("), "no test: {line}");
        }
    }
    assert!(rows > 25, "only {rows} rows were found");
}

/// Each cell of the table of bounds has its tests, which look for the bound that stands there; and there is no
/// test of a cell that is not in the table.
#[test]
fn every_cell_of_the_table_of_bounds_is_tested_for_its_bound() {
    let kit = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(kit.join("../docs/failure-modes.md")).unwrap();
    let tests = fs::read_to_string(kit.join("tests/it/bounds.rs")).unwrap();
    let mut seen = 0;
    for (row, answer) in [
        ("| `Propagated` |", "propagated"),
        ("| `Committed {", "committed"),
        ("| an error: `Unknown`", "unknown"),
        ("| plain SQL", "sql"),
    ] {
        let row = page.lines().find(|line| line.starts_with(row)).unwrap();
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        for (reader, cell) in ["in_touch", "cut_off_available", "cut_off_fail_closed"]
            .iter()
            .zip(&cells[2..])
        {
            let bound = [("0", "AT_ONCE"), ("D", "D"), ("TTL + 2 s", "AT_MOST")];
            let bound = bound.iter().find(|(words, _)| cell.ends_with(words));
            let (_, bound) = bound.unwrap_or_else(|| panic!("{answer}, {reader}: {cell}"));
            for redis in ["", "_with_a_replica"] {
                if answer == "propagated" && !redis.is_empty() {
                    continue;
                }
                let test = format!("bound_{answer}_{reader}{redis}");
                assert!(row.contains(&format!("[{test}](")), "no {test}: {row}");
                let declared = format!("cell(\"{test}\",");
                let line = tests.lines().find(|line| line.contains(&declared));
                let line = line.unwrap_or_else(|| panic!("no {test}"));
                assert!(line.ends_with(&format!(" {bound}),")), "{bound}: {line}");
                seen += 1;
            }
        }
    }
    assert_eq!(tests.matches("cell(\"").count(), seen);
}

/// The code in the testkit's README is that of an example, which is compiled and run.
#[test]
fn the_readme_shows_the_example_as_it_is() {
    // As it is, but for how far it is indented.
    let bare = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let kit = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(kit.join("README.md")).unwrap();
    let example = bare(&fs::read_to_string(kit.join("examples/my_cache.rs")).unwrap());
    let blocks: Vec<_> = readme.split("```rust,ignore\n").skip(1).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let block = bare(block.split("```").next().unwrap().trim());
        assert!(example.contains(&block), "not in the example: {block}");
    }
}
