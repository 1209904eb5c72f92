//! What is written for people: standard output, and lines that fit 80 columns.

use std::io::Write;

/// A line or more on standard output. A reader that has gone (`| head`) is no error.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end_matches('\n'));
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
