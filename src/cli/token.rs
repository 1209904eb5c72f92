//! `b24proxy token`: a new client token, with the lines that configure it.

use super::command::Outcome;
use super::terminal::say;
use crate::values::secret::{hex, random_token, sha256};
use clap::Args;

const HELP: &str = "\
Makes a new token, 32 random letters and digits (webhook clients accept nothing
else in an address), and prints it with the lines of proxy.toml that allow it.
It is kept nowhere: copy it into proxy.toml and into 1C.

With token_sha256 instead of token, proxy.toml does not hold the token itself;
\"b24proxy check --url\" can then not call with it.";

/// A new token for a client such as 1C, and how it is configured
#[derive(Args)]
#[command(before_help = HELP)]
pub struct Token {
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Token {
    pub fn run(&self) -> Outcome {
        let token = random_token();
        let token = token.expose();
        let digest = hex(&sha256(token.as_bytes()));
        if self.json {
            say(&serde_json::json!({ "token": token, "token_sha256": digest }).to_string());
            return Ok(());
        }
        say(&format!(
            "{token}

In proxy.toml, where there is one client:

[security]
auth_token = \"{token}\"

or, for each of several clients:

[[security.clients]]
name  = \"1c-trade\"
token = \"{token}\"

or, so that proxy.toml does not hold the token itself:

[[security.clients]]
name = \"1c-trade\"
token_sha256 = \"{digest}\"
"
        ));
        Ok(())
    }
}
