//! What is typed: `b24proxy …`, `cargo …`, the scripts, the tables of commands.

use crate::documented_proxy;
use crate::fixture::*;
use crate::markdown::{code, documents, Block, Document};
use crate::repository;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use support::webserver::{Kind, WebServer};

/// Runs the command line, which must end with exit status 0.
#[track_caller]
pub fn assert_runs(proxy: &Proxy, arguments: &[&str], at: &str) -> String {
    let output = proxy.sandbox.command_line(arguments).stdin(Stdio::null()).output().expect("the executable starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{at}: b24proxy {arguments:?}: {}\n{stdout}{stderr}", output.status);
    stdout
}

/// A site on a real web server, for commands that a document shows.
/// Where the program listens that stays.
const SOCKET: &str = "run/own.socket";

struct Site {
    proxy: Proxy,
    server: WebServer,
}

impl Site {
    fn new() -> Site {
        let proxy = documented_proxy();
        let server = WebServer::start(&proxy.sandbox, Kind::ApacheCgid);
        let address = server.url("/cgi-bin/b24proxy");
        let proxy = proxy.reconfigured("https://www.acme.test/cgi-bin/b24proxy", &address);
        let pair = proxy.portal().issue_pair(1).to_json().to_string();
        proxy.sandbox.write("tokens.json", 0o600, pair.as_bytes());
        let calls = br#"[{"method":"profile"},{"method":"app.info"}]"#;
        proxy.sandbox.write("calls.json", 0o600, calls);
        Site { proxy, server }
    }

    /// A word of a document's command, its placeholder replaced.
    fn real(&self, word: &str, command: &str) -> String {
        let file = |name: &str| self.proxy.sandbox.path().join(name).to_str().expect("UTF-8").to_owned();
        match word {
            "PORTAL" => self.proxy.portal().name(),
            "METHOD" => "crm.deal.list".into(),
            "JSON" => r#"{"select":["ID"]}"#.into(),
            "DAYS" => "30".into(),
            "ADDRESS" if command == "move" => file("moved"),
            "ADDRESS" => format!("unix:{}", file(SOCKET)),
            "N" => "2".into(),
            "SHELL" => "bash".into(),
            "NAME" if command == "check" => {
                let owner = fs::metadata(self.proxy.sandbox.config()).expect("it is there");
                std::os::unix::fs::MetadataExt::uid(&owner).to_string()
            }
            "NAME" => "a-name".into(),
            "FILE" if command == "call" => file("calls.json"),
            "FILE" | "ПУТЬ" => file("tokens.json"),
            "https://…/cgi-bin/b24proxy" | "https://www.example.com/cgi-bin/b24proxy" => {
                self.server.url("/cgi-bin/b24proxy")
            }
            word => word.to_owned(),
        }
    }

    /// Runs what follows `b24proxy` in a document.
    fn run(&self, words: &str, at: &str) -> String {
        let command = words.split(' ').next().unwrap_or_default();
        if command == "import" {
            // Tokens are taken over where none are stored yet.
            let stored = self.proxy.sandbox.tokens().join(format!("{}.json", self.proxy.stem()));
            fs::remove_file(stored).expect("the portal is installed");
        }
        let words: Vec<String> = words.split(' ').map(|word| self.real(word, command)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match command {
            "fastcgi" => self.stays_until_it_is_told_to_end(&words, at),
            "events" if words.contains(&"--follow") => self.stays_until_it_is_ended(&words, at),
            _ => assert_runs(&self.proxy, &words, at),
        }
    }

    fn stays_until_it_is_ended(&self, words: &[&str], at: &str) -> String {
        let mut child = self.proxy.sandbox.command_line(words).spawn().expect("the executable starts");
        std::thread::sleep(std::time::Duration::from_millis(700));
        assert!(child.try_wait().expect("it is our child").is_none(), "{at}: {words:?} has ended");
        // Who starts the tests in the background may have had INT ignored.
        support::signal(child.id(), "TERM");
        child.wait().expect("it is our child");
        String::new()
    }

    fn stays_until_it_is_told_to_end(&self, words: &[&str], at: &str) -> String {
        let mut child = self.proxy.sandbox.command_line(words).spawn().expect("the executable starts");
        let socket = self.proxy.sandbox.path().join(SOCKET);
        support::eventually("it listens", || socket.exists());
        support::signal(child.id(), "TERM");
        let ended = child.wait().expect("it is our child");
        assert!(ended.success(), "{at}: {words:?}: {ended}");
        String::new()
    }
}

#[test]
fn every_b24proxy_command_in_a_text_succeeds() {
    let site = Site::new();
    let mut count = 0;
    for span in documents().iter().flat_map(|document| document.spans()) {
        if let Some(words) = span.text.strip_prefix("b24proxy ") {
            site.run(words, &span.at());
            count += 1;
        }
    }
    assert!(count > 5, "only {count} commands were found");
}

/// The README's table: the line, the forms of a command, what is said of it.
fn table() -> Vec<(String, String, String)> {
    let rows = Document::load("README.md").table(&["command", "what it does"]);
    let row = |row: crate::markdown::Row| {
        let form = code(&row.cells[0]).first().unwrap_or(&"").to_string();
        (format!("README.md line {}", row.line), form, row.cells[1].clone())
    };
    rows.into_iter().map(row).collect()
}

#[test]
fn the_commands_of_the_table_are_those_of_help() {
    let proxy = Proxy::not_installed();
    let help = assert_runs(&proxy, &["help"], "help");
    let listed = help.lines().skip_while(|line| !line.is_empty()).skip(1).take_while(|line| !line.is_empty());
    let listed: BTreeSet<String> = listed
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect();
    let name = |form: &str| form.split(' ').next().unwrap_or_default().to_owned();
    let shown: BTreeSet<String> = table().iter().map(|(_, form, _)| name(form)).collect();
    assert_eq!(shown, listed, "README.md, and b24proxy help");
    for (at, form, _) in table() {
        assert_runs(&proxy, &["help", &name(&form)], &at);
    }
}

#[test]
fn every_form_of_the_tables_commands_runs_with_and_without_what_is_optional() {
    let site = Site::new();
    for (at, form, _) in table() {
        let (least, optional) = form.split_once(" [").map_or((form.as_str(), None), |(least, optional)| {
            (least, Some(optional.strip_suffix(']').unwrap_or_else(|| panic!("{at}: {form}"))))
        });
        site.run(least, &at);
        if let Some(optional) = optional {
            site.run(&format!("{least} {optional}"), &at);
        }
    }
}

/// Options that the table's descriptions name, each in a command that uses it.
const OPTIONS: &[(&str, &str)] = &[
    ("--url", "check --url https://…/cgi-bin/b24proxy"),
    ("--schema", "check --schema"),
    ("--user NAME", "check --user NAME"),
    ("--force", "refresh --force"),
    ("--all", "call PORTAL METHOD --all"),
    ("--calls FILE", "call PORTAL --calls FILE"),
    ("--follow", "events PORTAL --follow"),
    ("--key NAME", "call PORTAL --calls FILE --key NAME"),
];

#[test]
fn every_option_that_the_table_describes_works() {
    let site = Site::new();
    for (at, _, description) in table() {
        for option in code(&description).into_iter().filter(|span| span.starts_with("--")) {
            let known = OPTIONS.iter().find(|(name, _)| *name == option);
            let (_, command) = known.unwrap_or_else(|| panic!("{at}: this option is not run by any test: {option}"));
            site.run(command, &at);
        }
    }
}

#[test]
fn every_command_writes_json_for_programs_and_the_exit_statuses_are_those_of_help() {
    let readme = Document::load("README.md").text();
    assert!(readme.contains("`--json` for programs"));
    let site = Site::new();
    // But for the one that says nothing, for it stays, and the one that writes for a shell.
    let others = |form: &str| ["fastcgi", "completions"].iter().any(|name| form.starts_with(name));
    for (at, form, _) in table().into_iter().filter(|(_, form, _)| !others(form)) {
        let least = form.split(" [").next().expect("split yields something");
        let stdout = site.run(&format!("{least} --json"), &at);
        assert!(serde_json::from_str::<serde_json::Value>(&stdout).is_ok(), "{at}: {stdout}");
    }
    let help = assert_runs(&site.proxy, &["help"], "help");
    let statuses = help.lines().last().expect("help says something");
    assert!(statuses.starts_with("Exit status") && readme.contains(statuses), "{statuses}");
    for (arguments, status) in
        [(["install-url", "acme.bitrix24.ru"], 0), (["install-url", "nobody"], 1), (["chek", "x"], 2)]
    {
        let ended = site.proxy.sandbox.command_line(&arguments).output().expect("the executable starts");
        assert_eq!(ended.status.code(), Some(status), "{arguments:?}");
    }
}

#[test]
fn the_command_for_cron_is_what_the_readme_names() {
    let site = Site::new();
    let file = fs::read_to_string(repository().join("deploy/cron.d/b24proxy")).expect("the file for cron");
    let line = file.lines().find(|line| !line.starts_with('#')).expect("a line that is not a comment");
    let fields: Vec<&str> = line.split_whitespace().collect();
    assert!(fields[..5].iter().all(|field| field.parse::<u8>().is_ok() || *field == "*"), "{line}");
    assert!(fields[6].ends_with("/b24proxy"), "five times, a user and the program: {line}");
    let words = fields[7..].join(" ");
    site.run(&words, "deploy/cron.d/b24proxy");
    let row = table().into_iter().find(|(_, form, _)| form.starts_with("refresh")).expect("refresh is in the table");
    assert!(row.2.contains("(deploy/cron.d/b24proxy)"), "{}", row.0);
    // On rented web space, where the program lies elsewhere.
    let elsewhere = format!("~/public_html/cgi-bin/b24proxy {words}");
    let pages = ["docs/monitoring.md", "docs/ru/monitoring.md"];
    assert!(file.contains(&elsewhere), "deploy/cron.d/b24proxy: {elsewhere}");
    assert!(pages.iter().all(|page| Document::load(page).text().contains(&format!("`{elsewhere}`"))), "{pages:?}");
    // The option that the file uses is the one that the table shows.
    let option = words.split(' ').find(|word| word.starts_with("--")).expect("an option");
    assert!(row.1.contains(option), "{}: {option}", row.0);
}

/// The file for logrotate, the line of proxy.toml in its head, and the unit for nginx name the same folder; the commands in
/// the head make it for the user as whom the service runs.
#[test]
fn the_log_that_is_rotated_is_where_the_program_may_write_it() {
    let read = |name: &str| fs::read_to_string(repository().join("deploy").join(name)).expect("a shipped file");
    let rotation = read("logrotate/b24proxy");
    let unit = read("nginx/b24proxy.service");
    let head: Vec<&str> = rotation.lines().filter_map(|line| line.strip_prefix('#')).map(str::trim).collect();
    let log = rotation.lines().find_map(|line| line.strip_suffix(" {")).expect("the file that is rotated");
    let line = format!("file = \"{log}\"");
    assert!(head.contains(&line.as_str()), "{head:#?}");
    assert!(
        Document::load("docs/monitoring.md").text().contains(&format!("`{line}` under `[log]`")),
        "docs/monitoring.md: {line}"
    );
    let (folder, _) = log.rsplit_once('/').expect("a path");
    let setting = |name: &str| unit.lines().find_map(|line| line.strip_prefix(name)).expect("a line of the unit");
    let (user, group) = (setting("User="), setting("Group="));
    assert!(setting("ReadWritePaths=").split(' ').any(|path| path == format!("-{folder}")), "{folder}");
    assert!(head.contains(&format!("install -d -o {user} -g {group} -m 700 {folder}").as_str()), "{head:#?}");
    for line in [format!("    su {user} {group}"), format!("    create 0600 {user} {group}")] {
        assert!(rotation.lines().any(|known| known == line), "{line}");
    }
    let copied = head.iter().find_map(|line| line.strip_prefix("cp ")?.split(' ').next()).expect("a file to copy");
    assert!(repository().join(copied).exists(), "{copied}");

    // As the head has it, but for the folder: the program makes the file there and writes to it.
    let at = head.iter().position(|line| *line == "[log]").expect("a section of proxy.toml");
    let proxy = documented_proxy();
    proxy.sandbox.make_folder("log", 0o700);
    let own = proxy.sandbox.path().join("log");
    let section = format!("[log]\n{}", head[at + 1].replace(folder, own.to_str().expect("UTF-8")));
    let proxy = proxy.reconfigured("[log]", &section);
    assert_eq!(proxy.call("profile", serde_json::json!({})).status, 200);
    let written = fs::read_to_string(own.join("b24proxy.log")).expect("the log");
    assert!(written.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{written}");
    assert!(!written.is_empty());
}

/// Tools that a document uses for measuring; what they say is for a person.
const TOOLS: &[&str] = &["perf", "strace", "valgrind", "env"];

/// A block for a shell: it parses, and each line begins with something that exists.
pub fn shell(block: &Block) {
    assert_parses(&block.text, &block.at());
    for (index, line) in block.text.lines().enumerate() {
        let at = format!("{} line {}", block.document, block.line + index);
        let command = line.split(" #").next().expect("split yields something").trim();
        assert_typed(command, &at);
        for rest in command.split("${call%/*}/").skip(1) {
            let name = rest.split('"').next().expect("split yields something");
            let written = bench().contains(&format!("bench/{name}\""));
            assert!(written, "{at}: the benchmark writes no {name}");
        }
    }
}

fn bench() -> String {
    fs::read_to_string(repository().join("tests/bench/src/main.rs")).expect("the benchmark")
}

fn assert_typed(command: &str, at: &str) {
    let mut words = command.split_whitespace();
    match words.next() {
        None => {}
        // The script that `tests/bench/run.sh --hold` writes, in front of a tool.
        Some("$call") => {
            assert!(bench().contains("bench/call"), "{at}: the benchmark writes no call");
            assert_typed(&words.next().unwrap_or_default().replace('…', ""), at);
        }
        Some("b24proxy") => drop(Site::new().run(&words.collect::<Vec<_>>().join(" "), at)),
        Some("cargo") => assert_cargo_accepts(&words.collect::<Vec<_>>(), at),
        Some(script) if script.ends_with(".sh") => assert_script(script, &words.collect::<Vec<_>>(), at),
        Some(variable) if variable.contains('=') => assert_typed(&words.collect::<Vec<_>>().join(" "), at),
        Some(tool) => assert!(TOOLS.contains(&tool), "{at}: this command is not known to any test: {command}"),
    }
}

fn assert_parses(script: &str, at: &str) {
    let mut shell = Command::new("sh").arg("-n").stdin(Stdio::piped()).spawn().expect("a shell");
    shell.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("the shell reads");
    assert!(shell.wait().expect("it ends").success(), "{at}: sh does not understand it");
}

/// The scripts take minutes, so here they only exist, can be started, parse, and know the options that are shown.
/// `deploy/release/build.sh` is run by the test `release`; `tests/run.sh` runs this test; `tests/demo.sh`, which ends with
/// exit status 0 where all is well, and `tests/bench/run.sh`, which needs a quiet machine, are started by a person.
fn assert_script(script: &str, arguments: &[&str], at: &str) {
    let path = repository().join(script);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{at}: {script}: {error}"));
    let mode = fs::metadata(&path).expect("it was read").permissions().mode();
    assert!(mode & 0o111 != 0, "{at}: {script} is not executable");
    assert_parses(&text, script);
    for argument in arguments {
        // An option is known to the script or to the program beside it that the script starts.
        let beside = path.with_file_name("src/main.rs");
        let program = fs::read_to_string(beside).unwrap_or_default();
        assert!(text.contains(argument) || program.contains(argument), "{at}: {script} does not know {argument}");
    }
}

#[test]
fn every_script_and_cargo_command_in_a_text_can_be_started() {
    let mut count = 0;
    for span in documents().iter().flat_map(|document| document.spans()) {
        let (first, rest) = span.text.split_once(' ').unwrap_or((&span.text, ""));
        let arguments: Vec<&str> = rest.split_whitespace().collect();
        if first == "cargo" {
            assert_cargo_accepts(&arguments, &span.at());
        } else if first.ends_with(".sh") && first.contains('/') {
            assert_script(first, &arguments, &span.at());
        } else {
            continue;
        }
        count += 1;
    }
    assert!(count > 5, "only {count} were found");
}

/// Nothing is built: `tests/run.sh` does that. With an option more that asks for help, cargo still refuses what it does
/// not know.
fn assert_cargo_accepts(arguments: &[&str], at: &str) {
    let own = arguments.split(|argument| *argument == "--").next().expect("split yields something");
    let cargo = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO")).args(arguments).current_dir(repository()).output().expect("cargo");
        assert!(output.status.success(), "{at}: cargo {own:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    cargo(&[own, &["-h"]].concat());
    for pair in own.windows(2).filter(|pair| pair[0] == "-p") {
        cargo(&["pkgid", "--offline", "-p", pair[1]]);
    }
}

/// Where the options that stand alone in a document belong to: the benchmark's script, or the program.
#[test]
fn every_option_that_a_text_names_is_known() {
    let proxy = Proxy::not_installed();
    let names = table().into_iter().map(|(_, form, _)| form.split(' ').next().unwrap_or_default().to_owned());
    let help: String = names.map(|name| assert_runs(&proxy, &["help", &name], "help")).collect();
    let script = fs::read_to_string(repository().join("tests/bench/run.sh")).expect("the benchmark's script");
    for span in documents().iter().flat_map(|document| document.spans()) {
        let option = span.text.split(' ').next().expect("split yields something");
        let known = if span.document == "tests/bench/README.md" { &script } else { &help };
        let is_known = || known.split(|c: char| c.is_whitespace() || "[],.;".contains(c)).any(|word| word == option);
        assert!(!option.starts_with("--") || is_known(), "{}: {option}", span.at());
    }
}
