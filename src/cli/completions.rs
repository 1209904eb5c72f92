//! `b24proxy completions SHELL`

use super::command::Outcome;
use super::terminal::say;
use clap::{Args, ValueEnum};
use clap_complete::shells;

const HELP: &str = "\
Prints a script for a shell, which then completes commands, options and files
when Tab is pressed. Once, where that shell looks for it:

  b24proxy completions bash > /etc/bash_completion.d/b24proxy
  b24proxy completions zsh > /usr/local/share/zsh/site-functions/_b24proxy
  b24proxy completions fish > ~/.config/fish/completions/b24proxy.fish";

/// Prints a script that completes commands and options in a shell
#[derive(Args)]
#[command(before_help = HELP)]
pub struct Completions {
    /// Whose script
    shell: Shell,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completions {
    /// `parser`: of all commands.
    pub fn run(&self, mut parser: clap::Command) -> Outcome {
        let name = parser.get_name().to_owned();
        let mut script = Vec::new();
        match self.shell {
            Shell::Bash => clap_complete::generate(shells::Bash, &mut parser, name, &mut script),
            Shell::Zsh => clap_complete::generate(shells::Zsh, &mut parser, name, &mut script),
            Shell::Fish => clap_complete::generate(shells::Fish, &mut parser, name, &mut script),
        }
        say(&String::from_utf8_lossy(&script));
        Ok(())
    }
}
