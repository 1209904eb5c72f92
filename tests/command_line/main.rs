//! Contract section 6: the command line, on the real executable, and `check` against the real web servers.
//! The names of the tests are the sentences.

#[allow(dead_code)]
#[path = "../contract/fixture.rs"]
mod fixture;

mod check;
mod check_url;
mod commands;
mod databases;
mod import;
mod many;
mod moving;
mod root;
mod truth;

use fixture::{Proxy, TOKEN};
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};

/// What a command ended with.
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {} {}", self.stdout, self.stderr))
    }

    /// Everything that was written.
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs the command line as the site's user; no secret may be seen in what it writes.
pub fn run(proxy: &Proxy, arguments: &[&str]) -> Ended {
    ended(proxy, proxy.sandbox.command_line(arguments), "")
}

pub fn ended(proxy: &Proxy, mut command: Command, input: &str) -> Ended {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the executable starts");
    // A command that does not read it has perhaps ended.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let ended = Ended {
        code: output.status.code().expect("no signal ended it"),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    };
    for secret in proxy.simulator.secrets().iter().map(String::as_str).chain([TOKEN]) {
        assert!(!ended.all().contains(secret), "a secret is shown: {}", ended.all());
    }
    ended
}

/// The lines of `check --json`: check, status, text with cure.
pub fn lines(ended: &Ended) -> Vec<(String, String, String)> {
    let json = ended.json();
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
    json.as_array()
        .expect("a list")
        .iter()
        .map(|line| {
            (text(line, "check"), text(line, "status"), format!("{} {}", text(line, "text"), text(line, "cure")))
        })
        .collect()
}

/// `check` must say this of that.
#[track_caller]
pub fn assert_line(ended: &Ended, check: &str, status: &str, word: &str) {
    let found = lines(ended).into_iter().any(|(c, s, text)| c == check && s == status && text.contains(word));
    assert!(found, "no {status} of {check:?} with {word:?} in {}", ended.stdout);
    assert_eq!(ended.code, i32::from(lines(ended).iter().any(|(_, status, _)| status == "fail")), "{}", ended.stdout);
}
