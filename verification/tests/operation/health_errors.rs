//! Servers that answer, and refuse: each code has its words and its remedy, in the health document
//! and in the errors; nobody is told "invalid" for it; and it is over when it is over.

use session_layer::Sessions;

/// What the health document says is wrong, as one text.
pub(crate) async fn told(sessions: &Sessions) -> String {
    let report = sessions.health().await;
    assert_eq!(report.http_status(), 200, "{report:?}");
    report.errors.join("\n")
}

pub(crate) fn assert_says(text: &str, words: &[&str], of: &dyn std::fmt::Display) {
    for word in words {
        assert!(text.contains(word), "{of}: no `{word}` in\n{text}");
    }
}
