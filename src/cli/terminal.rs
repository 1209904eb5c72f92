//! What is written for people: standard output, and lines that fit 80 columns.

use std::io::Write;

/// Why a command ends whose results are lost.
pub const NOT_WRITTEN: &str = "standard output cannot be written";

/// A line or more on standard output. A reader that has gone (`| head`) is no error; what cannot be written otherwise, to a
/// full disk, ends the command.
pub fn say(text: &str) {
    match writeln!(std::io::stdout(), "{}", text.trim_end_matches('\n')) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("b24proxy: {NOT_WRITTEN}: {error}");
            std::process::exit(1);
        }
        _ => {}
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
