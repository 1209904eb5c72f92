//! The rooms of `src`, read from its `use` lines and the paths that begin with `crate::`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the top down: a room may name those below it, and none beside it.
const FLOORS: [&[&str]; 10] = [
    &["main"],
    &["edge", "cli"],
    &["serve"],
    &["install"],
    &["call"],
    &["app"],
    &["upstream", "store"],
    &["config"],
    &["values"],
    &["system"],
];

/// A source file without its tests and comments.
struct Module {
    /// `call::bulk::list`
    name: String,
    /// With `name::` behind it where it declares a module of that name.
    children: Vec<String>,
    path: PathBuf,
    text: String,
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("src can be read").map(|entry| entry.expect("src can be read").path()) {
        match entry.is_dir() {
            true => files.extend(files_below(&entry)),
            false if entry.extension().is_some_and(|ending| ending == "rs") => files.push(entry),
            false => {}
        }
    }
    files
}

fn modules() -> Vec<Module> {
    let mut modules: Vec<Module> = files_below(&source()).iter().map(|path| Module::read(path)).collect();
    modules.sort_by(|one, other| one.name.cmp(&other.name));
    // Those of tests alone are declared under `#[cfg(test)]`.
    let tests: BTreeSet<String> = modules.iter().flat_map(Module::children_for_tests).collect();
    modules.retain(|module| !tests.contains(&module.name));
    modules
}

impl Module {
    fn read(path: &Path) -> Module {
        let relative = path.strip_prefix(source()).expect("below src").with_extension("");
        let mut parts: Vec<&str> = relative.iter().map(|part| part.to_str().expect("UTF-8")).collect();
        if parts.last() == Some(&"mod") {
            parts.pop();
        }
        let text = fs::read_to_string(path).expect("src can be read");
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        let text = lines.collect::<Vec<_>>().join("\n");
        let mut module = Module { name: parts.join("::"), children: Vec::new(), path: path.to_owned(), text };
        module.children = module.declared(|_| true);
        module
    }

    fn room(&self) -> &str {
        self.name.split("::").next().unwrap_or_default()
    }

    /// The names of the modules that it declares, by the line before the declaration.
    fn declared(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut before = "";
        let mut names = Vec::new();
        for line in self.text.lines() {
            let declared = line.trim_start_matches("pub ").strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
            names.extend(declared.filter(|_| wanted(before)).map(str::to_owned));
            before = line;
        }
        names
    }

    fn children_for_tests(&self) -> Vec<String> {
        self.declared(|before| before == "#[cfg(test)]").into_iter().map(|name| self.child(&name)).collect()
    }

    fn child(&self, name: &str) -> String {
        if self.name == "main" {
            return name.to_owned();
        }
        format!("{}::{name}", self.name)
    }

    /// Every path that it names, as it is written.
    fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let mut rest = self.text.as_str();
        while let Some(at) = rest.find("use ") {
            let begins_line = rest[..at].rsplit('\n').next().is_some_and(|before| ["", "pub "].contains(&before));
            rest = &rest[at + "use ".len()..];
            // An indented one stands in a module inside the file, whose `super` is the file itself.
            if begins_line {
                let tree = rest.split(';').next().unwrap_or_default();
                paths.extend(branches(tree));
            }
        }
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let bare = |text: &str| text.split(|c| !is_part(c)).next().unwrap_or_default().to_owned();
        paths.extend(self.text.match_indices("crate::").map(|(at, _)| bare(&self.text[at..])));
        for child in &self.children {
            let begin = format!("{child}::");
            let found = self.text.match_indices(&begin).filter(|(at, _)| !self.text[..*at].ends_with(is_part));
            paths.extend(found.map(|(at, _)| bare(&self.text[at..])));
        }
        paths
    }

    /// The module that a path leads to; `None`: it leads out of the program.
    fn target(&self, path: &str, known: &BTreeSet<String>) -> Option<String> {
        let mut parts: Vec<&str> = path.split("::").collect();
        let whole: Vec<&str> = match parts[0] {
            "crate" => parts.split_off(1),
            "super" => {
                let above = parts.iter().take_while(|part| **part == "super").count();
                let own: Vec<&str> = self.name.split("::").collect();
                let kept = own.len().saturating_sub(above);
                own[..kept].iter().copied().chain(parts.split_off(above)).collect()
            }
            first if self.children.iter().any(|child| child == first) => {
                let own = if self.name == "main" { Vec::new() } else { self.name.split("::").collect() };
                own.into_iter().chain(parts).collect()
            }
            _ => return None,
        };
        (1..=whole.len()).rev().map(|count| whole[..count].join("::")).find(|name| known.contains(name))
    }
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`.
fn branches(tree: &str) -> Vec<String> {
    let (mut found, mut depth, mut begin) = (Vec::new(), 0, 0);
    let tree = tree.trim();
    let mut branch = |text: &str| {
        let text = text.trim();
        match text.split_once('{') {
            Some((prefix, inside)) => {
                let inside = branches(inside.trim_end().strip_suffix('}').unwrap_or(inside));
                found.extend(inside.iter().map(|rest| format!("{prefix}{}", rest.trim_start_matches("self"))));
            }
            None if !text.is_empty() => found.push(text.split(" as ").next().unwrap_or_default().to_owned()),
            None => {}
        }
    };
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                branch(&tree[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    branch(&tree[begin..]);
    found
}

/// Which module names which others.
fn arrows(modules: &[Module]) -> BTreeMap<String, BTreeSet<String>> {
    let known: BTreeSet<String> = modules.iter().map(|module| module.name.clone()).collect();
    let named = |module: &Module| {
        let targets = module.paths().into_iter().filter_map(|path| module.target(&path, &known));
        targets.filter(|target| *target != module.name).collect()
    };
    modules.iter().map(|module| (module.name.clone(), named(module))).collect()
}

fn room(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

fn floor(room: &str) -> usize {
    FLOORS.iter().position(|rooms| rooms.contains(&room)).unwrap_or_else(|| panic!("{room} is no room of FLOORS"))
}

/// The arrows between rooms that run up or sideways.
fn against_the_direction(arrows: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (from, targets) in arrows {
        for to in targets.iter().filter(|to| room(to) != room(from) && floor(room(to)) <= floor(room(from))) {
            wrong.push(format!("{from} names {to}"));
        }
    }
    wrong
}

/// A module that leads back to itself, with the way.
fn circle(arrows: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk<'a>(
        arrows: &'a BTreeMap<String, BTreeSet<String>>,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<Vec<String>> {
        let here = *way.last().expect("a way begins somewhere");
        for to in &arrows[here] {
            if let Some(at) = way.iter().position(|module| module == to) {
                return Some(way[at..].iter().map(|module| (*module).to_owned()).collect());
            }
            if !done.contains(to.as_str()) {
                way.push(to);
                if let Some(found) = walk(arrows, way, done) {
                    return Some(found);
                }
                way.pop();
            }
        }
        done.insert(here);
        None
    }
    let mut done = BTreeSet::new();
    arrows.keys().find_map(|module| walk(arrows, &mut vec![module], &mut done))
}

#[test]
fn no_room_names_one_above_or_beside_it() {
    assert_eq!(against_the_direction(&arrows(&modules())), Vec::<String>::new());
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    assert_eq!(circle(&arrows(&modules())), None);
}

#[test]
fn every_room_says_what_it_is_for_and_whom_it_may_use() {
    let modules = modules();
    for room in FLOORS.concat() {
        let module = modules.iter().find(|module| module.name == room).unwrap_or_else(|| panic!("no room {room}"));
        let text = fs::read_to_string(&module.path).expect("src can be read");
        let head: String = text.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join(" ");
        assert!(head.contains("Uses ") || head.contains("uses "), "the head of {room}: {head:?}");
    }
}

#[test]
fn the_kind_of_storage_is_named_by_app_and_the_checks_of_files_alone() {
    for (module, targets) in arrows(&modules()) {
        let knows = targets.iter().any(|target| target.starts_with("store::file"));
        let may = module == "app" || module.starts_with("store") || module.starts_with("cli::check");
        assert!(may || !knows, "{module} knows the token folder's layout");
    }
}

#[test]
fn environment_streams_panic_hook_and_exit_are_touched_at_the_edges_alone() {
    let words = [
        "env::var",
        "env::args",
        "env::set_var",
        "env::remove_var",
        "io::stdin",
        "io::stdout",
        "io::stderr",
        "process::exit",
        "panic::set_hook",
        "println!",
        "print!",
        "eprintln!",
        "eprint!",
    ];
    for module in modules() {
        if module.room() == "edge" || module.name == "cli::terminal" {
            continue;
        }
        for word in words {
            assert!(!module.text.contains(word), "{} touches {word}", module.name);
        }
    }
}

#[test]
fn the_reader_of_use_lines_finds_what_it_looks_for() {
    let tree = "crate::values::{\n    answer::{self, Answer},\n    error::Error as E,\n}";
    assert_eq!(
        branches(tree),
        ["crate::values::answer::", "crate::values::answer::Answer", "crate::values::error::Error"]
    );
    let module = |name: &str, children: &[&str], text: &str| Module {
        name: name.into(),
        children: children.iter().map(|child| (*child).to_owned()).collect(),
        path: PathBuf::new(),
        text: text.into(),
    };
    let up = [module("serve", &[], "pub use crate::cli::{self};\n"), module("cli", &[], "")];
    assert_eq!(against_the_direction(&arrows(&up)), ["serve names cli"]);
    let inline = [module("values", &[], "fn f() { crate::call::relay::call() }"), module("call::relay", &[], "")];
    assert_eq!(against_the_direction(&arrows(&inline)), ["values names call::relay"]);
    let around = [
        module("call", &["a"], "fn f() { a::g() }"),
        module("call::a", &[], "use super::b::B;\n"),
        module("call::b", &[], "use super::Item;\n"),
    ];
    assert_eq!(circle(&arrows(&around)).map(|way| way.len()), Some(3));
    assert!(arrows(&modules())["call::relay"].contains("call::idempotency"));
    assert!(arrows(&modules()).values().map(BTreeSet::len).sum::<usize>() > 200);
}
