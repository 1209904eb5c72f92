//! The dependencies: what they need of the compiler.

use serde_json::Value;
use std::process::Command;

/// What `cargo metadata` says of Linux. (What other systems need besides was perhaps never downloaded.)
struct Metadata(Value);

impl Metadata {
    fn load() -> Metadata {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Metadata(serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    fn packages(&self) -> impl Iterator<Item = &Value> {
        self.0["packages"].as_array().expect("packages").iter()
    }

    fn package(&self, name: &str) -> &Value {
        self.packages().find(|package| package["name"] == name).unwrap_or_else(|| panic!("no package {name}"))
    }
}

fn text<'v>(package: &'v Value, name: &str) -> &'v str {
    package[name].as_str().unwrap_or_default()
}

/// `1.88` as numbers that can be compared.
fn version(text: &str) -> [u64; 3] {
    let mut numbers = text.split('.').map(|part| part.parse().unwrap_or_else(|_| panic!("not a version: {text}")));
    std::array::from_fn(|_| numbers.next().unwrap_or(0))
}

/// Clippy's `incompatible_msrv` says the same of this package's own sources. Those of the tests count: README.md promises
/// that they run.
#[test]
fn no_dependency_needs_a_newer_rust_than_the_one_that_is_promised() {
    let metadata = Metadata::load();
    let ours = version(text(metadata.package("b24proxy"), "rust_version"));
    let is_newer = |package: &&Value| package["rust_version"].as_str().is_some_and(|theirs| version(theirs) > ours);
    let newer: Vec<String> = metadata
        .packages()
        .filter(is_newer)
        .map(|package| ["name", "version", "rust_version"].map(|name| text(package, name)).join(" "))
        .collect();
    assert_eq!(newer, [""; 0], "cargo update --precise takes an older version");
}

#[test]
fn the_readme_promises_the_rust_that_cargo_toml_names() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("README.md");
    let promise = format!("Rust {} or newer", text(Metadata::load().package("b24proxy"), "rust_version"));
    assert!(readme.contains(&promise), "{promise}");
}
