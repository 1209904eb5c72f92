//! The dependencies: what they need of the compiler, and under which licences they are.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// What `cargo metadata` says of Linux. (What other systems need besides was perhaps never downloaded.)
pub struct Metadata(Value);

impl Metadata {
    pub fn load() -> Metadata {
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

    /// Everything that `b24proxy` is built from, itself included: not what its tests and its build script use. Macros are
    /// among it, for what they write becomes part of the program.
    pub fn parts(&self) -> Vec<&Value> {
        let id = |value: &Value| value.as_str().expect("an id").to_owned();
        let nodes = self.0["resolve"]["nodes"].as_array().expect("nodes").iter();
        let nodes: BTreeMap<String, &Value> = nodes.map(|node| (id(&node["id"]), node)).collect();
        let (mut found, mut open) = (BTreeSet::new(), vec![id(&self.package("b24proxy")["id"])]);
        while let Some(next) = open.pop() {
            if !found.insert(next.clone()) {
                continue;
            }
            for dependency in nodes[&next]["deps"].as_array().expect("dependencies") {
                let mut kinds = dependency["dep_kinds"].as_array().expect("kinds").iter();
                if kinds.any(|kind| kind["kind"].is_null()) {
                    open.push(id(&dependency["pkg"]));
                }
            }
        }
        self.packages().filter(|package| found.contains(&id(&package["id"]))).collect()
    }
}

pub fn text<'v>(package: &'v Value, name: &str) -> &'v str {
    package[name].as_str().unwrap_or_default()
}

fn licence(package: &Value) -> &str {
    let in_a_file = IN_A_FILE.iter().find(|(name, _)| *name == text(package, "name"));
    in_a_file.map_or(text(package, "license"), |(_, licence)| licence)
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

/// Licences without copyleft whose works may be part of one under the AGPL's version 3: those of the Free Software
/// Foundation's list (<https://www.gnu.org/licenses/license-list.html#GPLCompatibleLicenses>), …
pub const PERMISSIVE: &[&str] = &[
    "Apache-2.0",
    // An exception only permits more.
    "Apache-2.0 WITH LLVM-exception",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "MIT",
    "Unlicense",
    "Zlib",
    // … that of Unicode's tables, which asks as much as MIT's, …
    "Unicode-3.0",
    // … and that of data, the list of certificates that browsers trust: it asks that its text goes with the data, and
    // nothing of what is made with them.
    "CDLA-Permissive-2.0",
];

/// Of packages that name a file instead: what stands in it.
const IN_A_FILE: &[(&str, &str)] = &[("webpki", "ISC")];

/// The second is how SPDX wrote the first before its version 3.0.
pub const AGPL: &[&str] = &["AGPL-3.0-only", "AGPL-3.0"];

/// Whether an expression of SPDX (<https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/>) can be met with these
/// licences; an error where it is none. `WITH` binds closest, then `AND`, then `OR`.
pub fn is_met(expression: &str, allowed: &[&str]) -> Result<bool, String> {
    // Before there were expressions, cargo took a slash for OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { words: &words, allowed };
    let met = reader.any()?;
    match reader.words {
        [] => Ok(met),
        rest => Err(format!("{expression}: not understood from {rest:?} on")),
    }
}

struct Reader<'w> {
    words: &'w [&'w str],
    allowed: &'w [&'w str],
}

impl<'w> Reader<'w> {
    /// Takes the next word if it is this one.
    fn takes(&mut self, word: &str) -> bool {
        let is = self.words.first() == Some(&word);
        self.words = &self.words[usize::from(is)..];
        is
    }

    fn any(&mut self) -> Result<bool, String> {
        let mut met = self.all()?;
        while self.takes("OR") {
            met |= self.all()?;
        }
        Ok(met)
    }

    fn all(&mut self) -> Result<bool, String> {
        let mut met = self.one()?;
        while self.takes("AND") {
            met &= self.one()?;
        }
        Ok(met)
    }

    fn one(&mut self) -> Result<bool, String> {
        if self.takes("(") {
            let met = self.any()?;
            return if self.takes(")") { Ok(met) } else { Err("a bracket is not closed".into()) };
        }
        let licence = self.name()?;
        Ok(match self.takes("WITH") {
            true => self.allowed.contains(&format!("{licence} WITH {}", self.name()?).as_str()),
            false => self.allowed.contains(&licence),
        })
    }

    fn name(&mut self) -> Result<&'w str, String> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || ".-+".contains(c);
        match self.words {
            [word, rest @ ..] if word.chars().all(is_name) && !["AND", "OR", "WITH"].contains(word) => {
                self.words = rest;
                Ok(word)
            }
            words => Err(format!("a licence is missing before {words:?}")),
        }
    }
}

#[test]
fn expressions_of_licences_are_read_as_spdx_means_them() {
    let allowed = &["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"];
    for (expression, met) in [
        ("MIT", true),
        ("GPL-2.0-only", false),
        ("MIT OR GPL-2.0-only", true),
        ("GPL-2.0-only OR MIT", true),
        ("GPL-2.0-only/MIT", true),
        ("MIT AND GPL-2.0-only", false),
        ("MIT AND ISC", true),
        ("MIT OR ISC AND GPL-2.0-only", true),
        ("(MIT OR ISC) AND GPL-2.0-only", false),
        ("GPL-2.0-only AND GPL-3.0-only OR MIT", true),
        ("GPL-2.0-only AND (GPL-3.0-only OR MIT)", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
        ("ISC WITH LLVM-exception", false),
        ("((MIT))", true),
        ("MIT+", false),
    ] {
        assert_eq!(is_met(expression, allowed), Ok(met), "{expression}");
    }
    for wrong in
        ["", "MIT ISC", "MIT OR", "AND MIT", "(MIT", "MIT)", "MIT WITH", "MIT or ISC", "see LICENSE.txt, please"]
    {
        assert!(is_met(wrong, allowed).is_err(), "{wrong}");
    }
}

#[test]
fn every_part_of_the_program_has_a_licence_that_fits_the_agpl() {
    let allowed = [PERMISSIVE, AGPL].concat();
    let metadata = Metadata::load();
    let parts = metadata.parts();
    assert!(parts.len() > 30, "only {} parts were found", parts.len());
    for package in parts {
        let (name, licence) = (text(package, "name"), licence(package));
        assert_eq!(is_met(licence, &allowed), Ok(true), "{name}: {licence:?}");
    }
}

#[test]
fn the_cgi_crate_alone_is_why_the_program_is_under_the_agpl() {
    let metadata = Metadata::load();
    let parts = metadata.parts().into_iter();
    let demanding = parts.filter(|package| is_met(licence(package), PERMISSIVE) != Ok(true));
    let names: BTreeSet<&str> = demanding.map(|package| text(package, "name")).collect();
    assert_eq!(names, BTreeSet::from(["b24proxy", "cgi"]));
    assert_eq!(text(metadata.package("b24proxy"), "license"), AGPL[0]);
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("README.md");
    assert!(readme.contains("[AGPL-3.0-only](LICENSE), because the `cgi` crate is"), "README.md, Licence");
}
