//! The command line's edge: its words, the environment, the standard streams and the exit; nothing else of `cli` touches
//! them. And lines that fit 80 columns.

use std::ffi::OsString;
use std::io::{IsTerminal, Stdin, StdoutLock, Write};

/// Why a command ends whose results are lost.
pub const NOT_WRITTEN: &str = "standard output cannot be written";

/// What stands behind the program's name. Words that are not UTF-8 are nothing that is known here.
pub fn words() -> Vec<String> {
    std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect()
}

pub fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

pub fn input() -> Stdin {
    std::io::stdin()
}

pub fn output() -> StdoutLock<'static> {
    std::io::stdout().lock()
}

/// Standard error, as it comes.
pub fn complain(text: &[u8]) {
    let _ = std::io::stderr().write_all(text);
}

/// A line or more on standard output. A reader that has gone (`| head`) is no error; what cannot be written otherwise, to a
/// full disk, ends the command.
pub fn say(text: &str) {
    match writeln!(output(), "{}", text.trim_end_matches('\n')) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            complain(format!("b24proxy: {NOT_WRITTEN}: {error}\n").as_bytes());
            std::process::exit(1);
        }
        _ => {}
    }
}

/// A line on standard error that is written over; only where a person looks.
pub struct Progress(bool);

impl Progress {
    pub fn new() -> Progress {
        Progress(std::io::stderr().is_terminal())
    }

    pub fn show(&self, done: usize, all: Option<usize>) {
        if !self.0 {
            return;
        }
        let line = match all.filter(|all| *all > 0) {
            Some(all) => {
                let tenths = (done * 30 / all).min(30);
                format!("\r[{}{}] {done} of {all} ", "#".repeat(tenths), ".".repeat(30 - tenths))
            }
            None => format!("\r{done} "),
        };
        complain(line.as_bytes());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.0 {
            complain(b"\n");
        }
    }
}

/// Words after `head`, in lines of at most 80 columns; the following lines are indented.
pub fn wrapped(head: &str, indent: usize, text: &str) -> String {
    let mut written = head.to_owned();
    let mut column = head.chars().count();
    let mut first = true;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if !first && column + 1 + length > 80 {
            written.push('\n');
            written.push_str(&" ".repeat(indent));
            column = indent;
            first = true;
        }
        if !first {
            written.push(' ');
            column += 1;
        }
        written.push_str(word);
        column += length;
        first = false;
    }
    written.push('\n');
    written
}
