//! `b24proxy version`

use super::terminal::say;
use super::{arguments, arguments::Arguments, Command, Outcome};

pub const COMMAND: Command = Command {
    name: "version",
    usage: "[--json]",
    summary: "the version",
    help: "Prints the version.",
    words: (0, 0),
    options: &[arguments::JSON],
    on_files: false,
    run,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn run(arguments: &Arguments) -> Outcome {
    if arguments.json() {
        say(&serde_json::json!({ "name": "b24proxy", "version": VERSION }).to_string());
    } else {
        say(&format!("b24proxy {VERSION}"));
    }
    Ok(())
}
