//! The binaries of other packages that tests run. Cargo does not tell a test their paths.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;
use tokio::{process::Command, sync::OnceCell};

/// Returns the path of a binary, and builds it if necessary.
pub async fn binary(name: &str) -> io::Result<&'static Path> {
    static BUILT: OnceCell<HashMap<String, PathBuf>> = OnceCell::const_new();
    let built = BUILT.get_or_try_init(build).await?;
    let path = built.get(name).map(PathBuf::as_path);
    path.ok_or_else(|| io::Error::other(format!("cargo did not build {name}")))
}

/// Builds the binaries with the features of `cargo test --workspace --all-features`, so that their
/// dependencies are compiled already. This requires the workspace and its tests as arguments.
async fn build() -> io::Result<HashMap<String, PathBuf>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--workspace", "--all-features", "--test", "it"])
        .args(["--test", "verification"])
        .args(["--bin", "session-testkit", "--bin", "quickstart", "--bin", "hyper-example"])
        .args(["--bin", "sessionctl"])
        .args(["--example", "my_cache"])
        .args(["--message-format", "json-render-diagnostics"])
        .args((!cfg!(debug_assertions)).then_some("--release"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit());
    // The test's own variables would make build scripts that read them (ring's) run again, and
    // their dependents compile again.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    let output = command.output().await?;
    let messages = String::from_utf8_lossy(&output.stdout);
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let built = messages.filter_map(|message| {
        let name = message["target"]["name"].as_str()?.to_owned();
        Some((name, message["executable"].as_str()?.into()))
    });
    Ok(built.collect())
}
