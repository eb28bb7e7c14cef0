//! What the testkit's README shows, run.

use std::fs;
use std::path::Path;

use crate::{
    binaries, command,
    harness::{Outcome, default_backend},
};

/// It starts servers of its own; the backend is that of the test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_naive_cache_breaks_r1_and_is_found_out() -> Outcome {
    let mut example = tokio::process::Command::new(binaries::binary("my_cache").await?);
    example.env("SESSION_TESTKIT_BACKEND", default_backend().await?.to_string());
    let ran = command::run(example.kill_on_drop(true)).await?;
    assert_eq!(ran.code, 0);
    assert!(ran.stdout.contains("R1: "), "the proof is printed");
    Ok(())
}

/// The code in the testkit's README is that of an example, which is compiled and run.
#[test]
fn the_readme_shows_the_example_as_it_is() -> Outcome {
    // As it is, but for how far it is indented.
    let bare = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let kit = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(kit.join("README.md"))?;
    let example = bare(&fs::read_to_string(kit.join("examples/my_cache.rs"))?);
    let blocks: Vec<_> = readme.split("```rust,ignore\n").skip(1).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let block = bare(block.split("```").next().unwrap_or_default().trim());
        assert!(example.contains(&block), "not in the example: {block}");
    }
    Ok(())
}
