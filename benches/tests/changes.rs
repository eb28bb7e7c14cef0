//! A run of the program `changes` on its own servers and nodes.
//!
//! It runs `open`, which judges only nodes that are connected to Postgres. In the other scenarios,
//! a machine that stalls for two seconds rightly breaks a promise.

use std::process::Command;

#[test]
fn quick_run_keeps_every_promise_and_prints_a_table() {
    let output = Command::new(env!("CARGO_BIN_EXE_changes"))
        .args(["--quick", "--seed", "1", "open"])
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}\n{errors}");
    assert!(text.starts_with("Seed 1 "), "{text}");
    for part in ["\n## open\n", "\n| rows |", "|---|---|", "| node 1 |", "| node 2 |"] {
        assert!(text.contains(part), "{text}");
    }
}
