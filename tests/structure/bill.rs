//! The bill of materials that goes with a release, which `deploy/release/sbom.py` writes.

use crate::dependencies::{is_met, text, Metadata, AGPL, PERMISSIVE};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const LINKED: &str = "musl@1.2.5=MIT";

/// As its bytes, for a commit of this time.
fn bill(file: &str, epoch: u64) -> Vec<u8> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/release/sbom.py");
    let written = Command::new("python3")
        .arg(script)
        .args([path.as_os_str(), LINKED.as_ref()])
        .env("SOURCE_DATE_EPOCH", epoch.to_string())
        .status()
        .expect("python3 starts");
    assert!(written.success());
    std::fs::read(path).unwrap()
}

fn components(bill: &Value) -> Vec<&Value> {
    bill["components"].as_array().expect("components").iter().collect()
}

/// `name-version`
fn names<'v>(packages: impl IntoIterator<Item = &'v Value>) -> BTreeSet<String> {
    packages.into_iter().map(|package| format!("{}-{}", text(package, "name"), text(package, "version"))).collect()
}

/// Of what lies in cargo's registry: the debug build knows the file of each of its lines.
fn crates_in_the_executable() -> BTreeSet<String> {
    let bytes = std::fs::read(env!("CARGO_BIN_EXE_b24proxy")).unwrap();
    let (start, mut found) = (b"registry/src/", BTreeSet::new());
    let mut rest = &bytes[..];
    while let Some(at) = rest.windows(start.len()).position(|window| window == start) {
        rest = &rest[at + start.len()..];
        let path: Vec<u8> = rest.iter().copied().take_while(|byte| byte.is_ascii_graphic()).collect();
        found.extend(String::from_utf8(path).unwrap().split('/').nth(1).map(str::to_owned));
    }
    found
}

#[test]
fn the_bill_of_materials_names_all_that_is_in_the_executable_and_nothing_else() {
    let bill: Value = serde_json::from_slice(&bill("all.cdx.json", 0)).unwrap();
    let mut named = names(components(&bill));
    assert!(named.remove("musl-1.2.5"));
    let seen = crates_in_the_executable();
    assert!(seen.len() > 100, "only {} crates were seen in it", seen.len());
    assert_eq!(seen.difference(&named).collect::<Vec<_>>(), [""; 0], "in the executable, not in the bill");

    // What has no line of its own in the executable is needed by it all the same, and macros are not.
    let metadata = Metadata::load();
    let parts = metadata.parts();
    assert_eq!(named.difference(&names(parts.iter().copied())).collect::<Vec<_>>(), [""; 0], "needed by tests alone");
    let is_macro = |package: &&&Value| package["targets"][0]["kind"][0] == "proc-macro";
    let macros = names(parts.iter().filter(is_macro).copied());
    assert!(!macros.is_empty());
    assert_eq!(named.intersection(&macros).collect::<Vec<_>>(), [""; 0], "a macro");
}

#[test]
fn each_of_it_has_a_licence_that_fits_the_agpl_and_the_sum_that_cargo_verifies() {
    let bill: Value = serde_json::from_slice(&bill("licences.cdx.json", 0)).unwrap();
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    let allowed = [PERMISSIVE, AGPL].concat();
    for component in components(&bill) {
        let (name, version) = (text(component, "name"), text(component, "version"));
        let licence = component["licenses"][0]["expression"].as_str().unwrap();
        assert_eq!(is_met(licence, &allowed), Ok(true), "{name}: {licence}");
        assert!(!licence.contains('/'), "{name}: {licence} is no expression of SPDX");
        if text(component, "purl").starts_with("pkg:cargo/") {
            let sum = component["hashes"][0]["content"].as_str().unwrap_or_default();
            let source = "registry+https://github.com/rust-lang/crates.io-index";
            let entry =
                format!("name = \"{name}\"\nversion = \"{version}\"\nsource = \"{source}\"\nchecksum = \"{sum}\"\n");
            assert!(lock.contains(&entry), "{entry}");
        }
    }
    let program = &bill["metadata"]["component"];
    assert_eq!((text(program, "name"), text(program, "version")), ("b24proxy", env!("CARGO_PKG_VERSION")));
    assert_eq!(program["licenses"][0]["expression"], AGPL[0]);
}

#[test]
fn the_licences_of_all_crates_go_with_it_as_texts() {
    let bill: Value = serde_json::from_slice(&bill("texts.cdx.json", 0)).unwrap();
    let texts = std::fs::read_to_string(Path::new(env!("CARGO_TARGET_TMPDIR")).join("texts.licences.txt")).unwrap();
    let rule = format!("\n{}\n", "-".repeat(72));
    let names: BTreeSet<&str> =
        texts.split(&rule).filter(|part| !part.contains('\n')).flat_map(|part| part.split(", ")).collect();
    for component in components(&bill) {
        let name = ["name", "version"].map(|field| text(component, field)).join(" ");
        assert!(name == "musl 1.2.5" || names.contains(name.as_str()), "{name} has no text of a licence");
    }
    for passage in
        ["Permission is hereby granted, free of charge", "Apache License\n", "GNU AFFERO GENERAL PUBLIC LICENSE"]
    {
        assert!(texts.contains(passage), "{passage}");
    }
}

#[test]
fn the_bill_is_the_same_for_the_same_commit() {
    let one = bill("one.cdx.json", 1_800_000_000);
    assert!(one == bill("two.cdx.json", 1_800_000_000));
    let texts = |name: &str| std::fs::read(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)).unwrap();
    assert!(texts("one.licences.txt") == texts("two.licences.txt"));
    let bill: Value = serde_json::from_slice(&one).unwrap();
    assert_eq!(bill["metadata"]["timestamp"], "2027-01-15T08:00:00Z");
}
