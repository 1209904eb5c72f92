//! `b24proxy version`

use super::command::Outcome;
use super::terminal::say;
use clap::Args;

const HELP: &str = "\
Prints the version.";

/// The version
#[derive(Args)]
#[command(before_help = HELP)]
pub struct Version {
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Version {
    pub fn run(&self) -> Outcome {
        if self.json {
            say(&serde_json::json!({ "name": "b24proxy", "version": VERSION }).to_string());
        } else {
            say(&format!("b24proxy {VERSION}"));
        }
        Ok(())
    }
}
