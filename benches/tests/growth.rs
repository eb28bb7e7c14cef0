//! A short run of the program `growth`.

use std::process::Command;

#[test]
fn short_run_writes_a_table_and_a_panel_for_each_axis() {
    let svg = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("growth.svg");
    let output = Command::new(env!("CARGO_BIN_EXE_growth"))
        .args(["--sessions", "20,50", "--callers", "1,8", "--data", "100", "--nodes", "1,2"])
        .args(["--millis", "20", "--rounds", "1", "--svg"])
        .arg(&svg)
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}\n{errors}");
    let picture = std::fs::read_to_string(svg).expect("a picture");
    for axis in ["20 / 50 sessions", "1 / 8 callers", "100 bytes of data", "0 / 1 / 2 nodes"] {
        assert!(text.contains(&format!(" at {axis} |")), "{axis}: {text}");
        let name = axis.trim_start_matches(|it: char| !it.is_alphabetic());
        assert!(picture.contains(name), "{name}");
    }
}
