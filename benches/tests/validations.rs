//! A short run of the program `validations`.

use std::process::Command;

#[test]
fn short_run_prints_a_row_for_each_subject() {
    let output = Command::new(env!("CARGO_BIN_EXE_validations"))
        .args(["--sessions", "50", "--callers", "1,8", "--duration", "20ms", "--rounds", "1"])
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}\n{errors}");
    for row in
        ["bare GET", "Redis hit", "Redis hit, sealed", "near hit", "bare look-up", "Postgres alone"]
    {
        assert!(text.contains(&format!("\n| {row}")), "{row}: {text}");
    }
}
