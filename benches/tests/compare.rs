//! A short run of the program `compare`, of one build with itself.

use std::process::{Command, Output};

fn compare(limit: &str) -> Output {
    let validations = env!("CARGO_BIN_EXE_validations");
    Command::new(env!("CARGO_BIN_EXE_compare"))
        .args(["--pairs", "1", "--limit", limit, validations, validations, "--"])
        .args(["--sessions=50", "--callers=1,8", "--duration=20ms", "redis-get", "hit"])
        .output()
        .expect("the program starts")
}

#[test]
fn limit_decides_the_exit_code() {
    // A ratio of rates is above 0, and far below a million.
    for (limit, code) in [("0", 0), ("1000000", 1)] {
        let output = compare(limit);
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}\n{errors}");
        for row in ["head ÷ base at 1 / 8 callers", "bare GET", "Redis hit"] {
            assert!(text.contains(&format!("| {row} |")), "{row}: {text}");
        }
        assert_eq!(
            text.matches("Below 1000000: Redis hit at ").count(),
            2 * usize::from(code == 1)
        );
    }
}

#[test]
fn missing_build_cannot_be_compared() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_compare")).args(["no-such-build", "neither"]).output();
    let output = output.expect("the program starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-build did not measure"));
}
