//! The example in the testkit's README runs.

use std::fs;
use std::path::Path;

use crate::{
    binaries, command,
    harness::{Outcome, default_backend},
};

/// The example starts its own servers on the backend of the test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn naive_cache_breaks_r1() -> Outcome {
    let mut example = tokio::process::Command::new(binaries::binary("my_cache").await?);
    example.env("SESSION_TESTKIT_BACKEND", default_backend().await?.to_string());
    let ran = command::run(example.kill_on_drop(true)).await?;
    assert_eq!(ran.code, 0);
    assert!(ran.stdout.contains("R1: "), "no proof in {}", ran.stdout);
    Ok(())
}

/// Checks that the code in the README is that of the example, apart from its indentation.
#[test]
fn readme_contains_the_code_of_the_example() -> Outcome {
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
