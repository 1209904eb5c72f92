//! `b24proxy version`

use super::arguments::{self, Arguments};
use super::command::{nothing, Command, Outcome};
use super::terminal::say;

pub const COMMAND: Command = Command {
    name: "version",
    usage: "[--json]",
    summary: "the version",
    help: "Prints the version.",
    words: (0, 0),
    options: &[arguments::JSON],
    on_files: false,
    reads: nothing,
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
