//! `b24proxy check`: what goes wrong on shared hosting, found before 1C finds it.
//!
//! [`program`]: the executable and `proxy.toml`. [`folder`]: the token folder, its file system and locks. [`tokens`]: each
//! portal's files. [`network`]: portals, OAuth server, clock. [`web`]: the web server, from outside, and [`privacy`] what it
//! hands out. Each check answers [`Line`]s; what an observation means is decided by functions of values.

mod address;
mod folder;
mod network;
mod privacy;
mod program;
mod tokens;
mod web;

use super::arguments::{Arguments, Known, JSON};
use super::terminal::{say, wrapped};
use super::{surroundings, Command, Failure, Outcome};
use crate::config::Config;
use crate::store::Store;
use serde::Serialize;

const URL: Known = Known { name: "--url", value: Some("ADDRESS") };

pub const COMMAND: Command = Command {
    name: "check",
    usage: "[--url ADDRESS] [--json]",
    summary: "finds what is wrong, and says what to do about it",
    help: "Looks at everything this program needs: proxy.toml and who may read it; the
executable, by the rules of suexec; the token folder: owner, space, locks (NFS);
each token file; the clock; TLS to the OAuth server and to each portal. It sends
no secret, and changes nothing but makes the token folder if that is missing.

--url is this program's own public address. With it, check also asks the web
server: does it run the program, does it pass on Authorization, path, query and
body, does it hand out proxy.toml or a token file, does http lead to https? Of
secrets only a client token from proxy.toml is sent there, by https (or within
this machine).

  b24proxy check --url https://www.example.com/cgi-bin/b24proxy

Each line is \"ok\", \"warn\" (perhaps wrong) or \"FAIL\" with what to do about it.
--json prints a list of {\"check\",\"status\",\"text\",\"cure\"}, the status ok, warn or
fail. Exit status 1: something FAILs.

Run it as the user as whom the web server runs the program; started by root it
goes on as the user whom proxy.toml and the token folder belong to.",
    words: (0, 0),
    options: &[URL, JSON],
    on_files: true,
    run,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// Perhaps wrong, or wrong soon.
    Warn,
    Fail,
}

/// What commands begin with that can be typed as they stand.
const COMMANDS: [&str; 4] = ["chmod ", "chown ", "mkdir ", "b24proxy "];

fn is_command(cure: &str) -> bool {
    COMMANDS.iter().any(|word| cure.starts_with(word)) && !cure.contains([',', ';'])
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Line {
    check: String,
    status: Status,
    text: String,
    /// What to do; empty where there is nothing, or where the text says it.
    cure: String,
}

impl Line {
    fn ok(check: impl Into<String>, text: impl Into<String>) -> Line {
        Line { check: check.into(), status: Status::Ok, text: text.into(), cure: String::new() }
    }

    fn warn(check: impl Into<String>, text: impl Into<String>, cure: impl Into<String>) -> Line {
        Line { check: check.into(), status: Status::Warn, text: text.into(), cure: cure.into() }
    }

    fn fail(check: impl Into<String>, text: impl Into<String>, cure: impl Into<String>) -> Line {
        Line { check: check.into(), status: Status::Fail, text: text.into(), cure: cure.into() }
    }

    /// A failure in the words of the configuration or the store, which end in the command that mends it.
    fn reason(check: impl Into<String>, why: &str) -> Line {
        let command = COMMANDS.iter().filter_map(|word| why.rfind(&format!(": {word}"))).max();
        match command {
            Some(at) => Line::fail(check, &why[..at], &why[at + 2..]),
            None => Line::fail(check, why, ""),
        }
    }

    /// For a terminal of 80 columns. A command stays in one line, so that it can be copied.
    fn written(&self) -> String {
        let mark = match self.status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        let colon = if self.cure.is_empty() { "" } else { ":" };
        let mut written = wrapped(&format!("{mark:<5} "), 6, &format!("{}: {}{colon}", self.check, self.text));
        if is_command(&self.cure) {
            written += &format!("      -> {}\n", self.cure);
        } else if !self.cure.is_empty() {
            written += &wrapped("      -> ", 9, &self.cure);
        }
        written
    }
}

fn run(arguments: &Arguments) -> Outcome {
    let url = arguments.value(URL.name).map(address::Address::parse).transpose().map_err(Failure::Usage)?;
    let json = arguments.json();
    let mut all: Vec<Line> = Vec::new();
    // Shown as they come: a portal that does not answer takes its time.
    let mut show = |lines: Vec<Line>| {
        if !json {
            lines.iter().for_each(|line| say(&line.written()));
        }
        all.extend(lines);
    };
    let surroundings = surroundings();
    let loaded = Config::load(&surroundings);
    let asked = url.as_ref().and_then(|url| web::ask(url, loaded.as_ref().ok()));
    let runs = asked.as_ref().is_some_and(web::Asked::runs);
    show(program::executable(surroundings.executable.as_deref(), runs));
    show(program::shared_user(surroundings.executable.as_deref(), loaded.as_ref().ok()).into_iter().collect());
    show(program::configuration(&surroundings, loaded.as_ref()));
    if let Ok(config) = &loaded {
        show(folder::check(config));
        // One failure for the folder, not one more for each portal's file in it.
        if Store::new(&config.token_folder).check().is_ok() {
            show(tokens::check(config));
        }
        show(network::check(config));
    }
    if let Some(asked) = asked {
        show(web::check(asked));
    }
    let count = |status| all.iter().filter(|line| line.status == status).count();
    let (failed, warned) = (count(Status::Fail), count(Status::Warn));
    if json {
        say(&serde_json::to_string_pretty(&all).expect("plain data serializes"));
    } else {
        say(&summary(failed, warned, url.is_some()));
    }
    if failed == 0 {
        Ok(())
    } else {
        Err(Failure::Told)
    }
}

fn summary(failed: usize, warned: usize, with_url: bool) -> String {
    let mut text = match (failed, warned) {
        (0, 0) => "\nAll is well.".to_owned(),
        (0, warned) => format!("\nNothing fails; to look at: {warned}."),
        (failed, 0) => format!("\nTo mend: {failed}."),
        (failed, warned) => format!("\nTo mend: {failed}; to look at: {warned}."),
    };
    if !with_url {
        text += "\nThe web server was not asked: b24proxy check --url ADDRESS";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_split_before_the_command_that_mends_it() {
        let line = Line::reason("c", "proxy.toml: can be read by others, and it holds secrets: chmod 600 proxy.toml");
        assert_eq!(line.text, "proxy.toml: can be read by others, and it holds secrets");
        assert_eq!(line.cure, "chmod 600 proxy.toml");
        assert_eq!(Line::reason("c", "the disk is full: free some space").cure, "");
    }

    #[test]
    fn lines_fit_80_columns_and_are_indented() {
        let line = Line::fail("token folder", "word ".repeat(40), "do this ".repeat(20));
        let written = line.written();
        assert!(written.lines().all(|line| line.chars().count() <= 80), "{written}");
        assert!(written.starts_with("FAIL  token folder: word"));
        assert!(written.lines().skip(1).all(|line| line.starts_with("      ")));
        assert!(written.contains("\n      -> do this"));
        let command = format!("chown -R www-data {}", "/long/path".repeat(10));
        assert!(Line::fail("a", "b", &command).written().contains(&command), "a command can be copied");
        let long = "x".repeat(100);
        assert!(Line::ok("a", &long).written().contains(&long), "an address is not broken");
    }
}
