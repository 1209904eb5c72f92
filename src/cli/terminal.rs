//! The command line's edge: its words, the environment, the standard streams and the exit; nothing else of `cli` touches
//! them. And lines that fit 80 columns.

use crate::system::log::is_control;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{IsTerminal, Stdin, StdoutLock, Write};

/// Why a command ends whose results are lost.
pub const NOT_WRITTEN: &str = "standard output cannot be written";

/// What stands behind the program's name.
pub fn words() -> Vec<OsString> {
    std::env::args_os().skip(1).collect()
}

pub fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Whether standard input is a socket at which connections arrive.
#[cfg(unix)]
pub fn input_is_a_listening_socket() -> bool {
    crate::system::process::is_listening(std::io::stdin())
}

#[cfg(not(unix))]
pub fn input_is_a_listening_socket() -> bool {
    false
}

pub fn input() -> Stdin {
    std::io::stdin()
}

/// Standard output: byte for byte, but for a terminal as [`shown`].
pub fn output() -> Output {
    let out = std::io::stdout().lock();
    Output { is_terminal: out.is_terminal(), out }
}

pub struct Output {
    out: StdoutLock<'static>,
    is_terminal: bool,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.is_terminal {
            // Pieces are whole texts.
            true => self.out.write_all(shown(&String::from_utf8_lossy(bytes)).as_bytes()).map(|()| bytes.len()),
            false => self.out.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// For a terminal, which obeys control characters, those of others are escaped: in JSON it means the same.
fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            // In JSON it can stand between values only.
            '\r' => shown.push(' '),
            c if is_control(c) => write!(shown, "\\u{:04x}", u32::from(c)).expect("a text grows"),
            c => shown.push(c),
        }
    }
    shown
}

/// Standard error, for a terminal as [`shown`].
pub fn complain(text: &[u8]) {
    let mut errors = std::io::stderr();
    let _ = match errors.is_terminal() {
        true => errors.write_all(shown(&String::from_utf8_lossy(text)).as_bytes()),
        false => errors.write_all(text),
    };
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
        let _ = std::io::stderr().write_all(line.as_bytes());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped_as_in_json() {
        let json = "{\"a\":\"\u{7f}\u{9b}31m\u{202e}Стол\\u001b\",\r\n\t\"b\":1}";
        let text = shown(json);
        assert_eq!(text, "{\"a\":\"\\u007f\\u009b31m\\u202eСтол\\u001b\", \n\t\"b\":1}");
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&text), read(json));
        assert_eq!(shown("a\u{1b}]0;x\u{7}b\u{8}"), "a\\u001b]0;x\\u0007b\\u0008");
    }
}
