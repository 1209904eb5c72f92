//! What one check found, and how it is written.

use crate::cli::terminal::{wrapped, Colour};
use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// Perhaps wrong, or wrong soon.
    Warn,
    Fail,
}

impl Status {
    pub fn colour(self) -> Colour {
        match self {
            Status::Ok => Colour::Green,
            Status::Warn => Colour::Yellow,
            Status::Fail => Colour::Red,
        }
    }
}

/// What commands begin with that can be typed as they stand.
const COMMANDS: [&str; 8] = ["chmod ", "chown ", "mkdir ", "b24proxy ", "sudo ", "a2enmod ", "a2enconf ", "systemctl "];

pub fn is_command(cure: &str) -> bool {
    COMMANDS.iter().any(|word| cure.starts_with(word)) && !cure.contains([',', ';'])
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    pub check: String,
    pub status: Status,
    pub text: String,
    /// What to do; empty where there is nothing, or where the text says it.
    pub cure: String,
}

impl Line {
    pub fn ok(check: impl Into<String>, text: impl Into<String>) -> Line {
        Line { check: check.into(), status: Status::Ok, text: text.into(), cure: String::new() }
    }

    pub fn warn(check: impl Into<String>, text: impl Into<String>, cure: impl Into<String>) -> Line {
        Line { check: check.into(), status: Status::Warn, text: text.into(), cure: cure.into() }
    }

    pub fn fail(check: impl Into<String>, text: impl Into<String>, cure: impl Into<String>) -> Line {
        Line { check: check.into(), status: Status::Fail, text: text.into(), cure: cure.into() }
    }

    /// A failure in the words of the configuration or the store, which end in the command that mends it.
    pub fn reason(check: impl Into<String>, why: &str) -> Line {
        let command = COMMANDS.iter().filter_map(|word| why.rfind(&format!(": {word}"))).max();
        match command {
            Some(at) => Line::fail(check, &why[..at], &why[at + 2..]),
            None => Line::fail(check, why, ""),
        }
    }

    pub fn fails(&self) -> bool {
        self.status == Status::Fail
    }

    /// For a terminal of 80 columns. A command stays in one line, so that it can be copied.
    pub fn written(&self) -> String {
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
