//! What the testkit's README shows, run.

use std::sync::Arc;

use session_testkit::backends::Backends;

use crate::{
    command, examples,
    harness::{Outcome, Registry},
};

pub(crate) fn tests(reg: &mut Registry) {
    reg.shared("a_naive_cache_breaks_r1_and_is_found_out", naive);
}

/// It starts servers of its own; the backend is that of the test.
async fn naive(backends: Arc<Backends>) -> Outcome {
    let mut example = tokio::process::Command::new(examples::binary("my_cache").await?);
    if let Some(backend) = backends.redis().backend() {
        example.env("SESSION_TESTKIT_BACKEND", backend.to_string());
    }
    let ran = command::run(example.kill_on_drop(true)).await?;
    assert_eq!(ran.code, 0);
    assert!(ran.stdout.contains("R1: "), "the proof is printed");
    Ok(())
}
