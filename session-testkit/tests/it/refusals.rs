//! Servers that answer, and refuse: each code has its words and its remedy, in the health document and in the
//! errors; nobody is told "invalid" for it; and it is over when it is over.

mod postgres;
mod redis;

use session_layer::Sessions;

use crate::harness::Registry;

pub(crate) fn tests(reg: &mut Registry) {
    redis::tests(reg);
    postgres::tests(reg);
}

/// What the health document says is wrong, as one text.
async fn told(sessions: &Sessions) -> String {
    let report = sessions.health().await;
    assert_eq!(report.http_status(), 200, "{report:?}");
    report.errors.join("\n")
}

fn assert_says(text: &str, words: &[&str], of: &dyn std::fmt::Display) {
    for word in words {
        assert!(text.contains(word), "{of}: no `{word}` in\n{text}");
    }
}
