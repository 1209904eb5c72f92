//! The command line's edge: its words, the environment, the standard streams and the exit; nothing else of `cli` touches
//! them. And lines that fit 80 columns.

use crate::system::disk::nameless_file;
use crate::system::log::is_control;
use crate::values::json::readable;
use crate::values::secret::random_hex;
use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{IsTerminal, Seek, Stdin, StdoutLock, Write};

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
    Output { is_terminal: out.is_terminal(), is_readable: false, out }
}

/// The same for JSON of Bitrix24; letters that it has escaped are readable on a terminal, and for whoever asked for JSON.
pub fn output_of_answers(json: bool) -> Output {
    let out = output();
    Output { is_readable: json || out.is_terminal, ..out }
}

pub struct Output {
    out: StdoutLock<'static>,
    is_terminal: bool,
    is_readable: bool,
}

impl Output {
    /// As it is written there. `bytes` are a whole text, or the whole rows of a list.
    fn form<'b>(&self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return match self.is_terminal {
                true => Cow::Owned(shown(&String::from_utf8_lossy(bytes)).into_bytes()),
                false => Cow::Borrowed(bytes),
            };
        };
        match (self.is_terminal, self.is_readable) {
            (false, false) => Cow::Borrowed(bytes),
            (false, true) => into_bytes(readable(text)),
            (true, false) => Cow::Owned(shown(text).into_bytes()),
            (true, true) => Cow::Owned(shown(&readable(text)).into_bytes()),
        }
    }
}

fn into_bytes(text: Cow<str>) -> Cow<[u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let form = self.form(bytes);
        self.out.write_all(&form).map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// What is shown when it is whole: until then it lies in a file without a name.
pub struct Held {
    output: Output,
    file: File,
}

impl Held {
    /// Before `output`.
    pub fn before(output: Output) -> std::io::Result<Held> {
        let name = format!(".b24proxy-{}", random_hex::<16>());
        Ok(Held { output, file: nameless_file(&std::env::temp_dir().join(name))? })
    }

    pub fn show(mut self) -> std::io::Result<()> {
        self.file.rewind()?;
        std::io::copy(&mut self.file, &mut self.output.out).map(drop)
    }
}

impl Write for Held {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let form = self.output.form(bytes);
        self.file.write_all(&form).map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
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

/// Of a word that tells how something is.
#[derive(Clone, Copy)]
pub enum Colour {
    Green,
    Yellow,
    Red,
}

/// `text` with its first word in that colour.
fn coloured(colour: Colour, text: &str) -> String {
    let number = match colour {
        Colour::Red => 31,
        Colour::Green => 32,
        Colour::Yellow => 33,
    };
    let (space, rest) = text.split_at(text.len() - text.trim_start().len());
    let (word, rest) = rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()));
    format!("{space}\x1b[{number}m{word}\x1b[0m{rest}")
}

/// Whether whoever looks at this stream wants colours (<https://no-color.org>).
fn wants_colours(stream: &impl IsTerminal) -> bool {
    let refused = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    let able = cfg!(unix) && variable("TERM").is_some_and(|kind| kind != "dumb");
    stream.is_terminal() && able && !refused
}

/// Why the command ends.
pub fn give_up(why: &str) {
    let why = format!("b24proxy: {}\n", why.trim_end());
    let mut errors = std::io::stderr();
    match wants_colours(&errors) {
        true => drop(errors.write_all(coloured(Colour::Red, &shown(&why)).as_bytes())),
        false => complain(why.as_bytes()),
    }
}

/// A line or more on standard output. A reader that has gone (`| head`) is no error; what cannot be written otherwise, to a
/// full disk, ends the command.
pub fn say(text: &str) {
    said(writeln!(output(), "{}", text.trim_end_matches('\n')));
}

/// The same, where the first word tells how something is: in colour, for whoever wants it.
pub fn say_in(colour: Colour, text: &str) {
    let mut out = std::io::stdout();
    match wants_colours(&out) {
        true => said(writeln!(out, "{}", coloured(colour, &shown(text.trim_end_matches('\n'))))),
        false => say(text),
    }
}

fn said(written: std::io::Result<()>) {
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            give_up(&format!("{NOT_WRITTEN}: {error}"));
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
    fn the_first_word_alone_is_coloured() {
        assert_eq!(coloured(Colour::Red, "\nFAIL  a: b\n      -> c"), "\n\x1b[31mFAIL\x1b[0m  a: b\n      -> c");
        assert_eq!(coloured(Colour::Green, "портал"), "\x1b[32mпортал\x1b[0m");
    }

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
