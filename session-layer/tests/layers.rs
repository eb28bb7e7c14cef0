//! The folders of `src` are layers. Each imports only those below it, by their folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers from the top down. Those on one line do not import each other.
const LAYERS: [&[&str]; 6] =
    [&["health"], &["http"], &["sessions"], &["engine"], &["cache", "store"], &["model"]];

#[test]
fn each_layer_imports_only_those_below_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let height = heights();
    let mut wrong = Vec::new();
    for file in rust_files(&src) {
        let layer = layer_of(file.strip_prefix(&src).expect("the file is in src"));
        // lib.rs is above all of them.
        let Some(own) = height.get(layer.as_str()) else {
            assert_eq!(layer, "lib", "{} is in no layer", file.display());
            continue;
        };
        // A unit test may use the layers above.
        if file.ends_with("tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).expect("the source file is readable");
        for imported in imports(&text) {
            match height.get(imported.as_str()) {
                Some(_) if imported == layer => {}
                Some(other) if other < own => {}
                Some(_) => wrong.push(format!("{}: {imported}", file.display())),
                // Any layer may own a name of the root.
                None => wrong.push(format!("{}: the root's {imported}", file.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn imports_are_found_in_statements_and_paths() {
    let text = "\
use crate::http::layer::X;
//! [`Y`](crate::engine)
    let z = crate::store::Z; // crate::health
use crate::{Sessions, model};
";
    assert_eq!(imports(text), ["http", "store", "Sessions", "model"]);
}

/// Returns the height of each layer above the bottom.
fn heights() -> BTreeMap<&'static str, usize> {
    let lines = LAYERS.iter().rev().enumerate();
    lines.flat_map(|(height, line)| line.iter().map(move |layer| (*layer, height))).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is readable") {
        let path = entry.expect("the entry is readable").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Returns the first folder of a path, or the name of a file at the root.
fn layer_of(path: &Path) -> String {
    let first = path.components().next().expect("the path is not empty");
    let name = Path::new(first.as_os_str()).with_extension("");
    name.display().to_string()
}

/// Returns the names that code imports from the crate's root. Comments and docs do not count.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let code = line.split("//").next().unwrap_or_default();
        for (at, root) in code.match_indices("crate::") {
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let rest = &code[at + root.len()..];
            let list = rest
                .strip_prefix('{')
                .map_or(rest, |list| list.split('}').next().unwrap_or_default());
            let is_list = rest.starts_with('{');
            for name in list.split(',').take(if is_list { usize::MAX } else { 1 }) {
                let name: String =
                    name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if !name.is_empty() {
                    found.push(name);
                }
            }
        }
    }
    found
}
