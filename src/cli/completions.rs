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
    pub fn run(&self, parser: clap::Command) -> Outcome {
        say(&self.shell.script(parser));
        Ok(())
    }
}

impl Shell {
    fn script(self, mut parser: clap::Command) -> String {
        let name = parser.get_name().to_owned();
        let mut script = Vec::new();
        match self {
            Shell::Bash => clap_complete::generate(shells::Bash, &mut parser, name, &mut script),
            Shell::Zsh => clap_complete::generate(shells::Zsh, &mut parser, name, &mut script),
            Shell::Fish => clap_complete::generate(shells::Fish, &mut parser, name, &mut script),
        }
        String::from_utf8_lossy(&script).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::parser;
    use super::*;
    use std::path::Path;

    /// Set, the scripts are written, as the man page; else they are compared.
    const WRITE: &str = "B24PROXY_MAN";

    const SHIPPED: [(Shell, &str); 3] =
        [(Shell::Bash, "b24proxy.bash"), (Shell::Zsh, "_b24proxy"), (Shell::Fish, "b24proxy.fish")];

    /// A package holds them, also one for a processor for which nothing runs on the machine that makes it.
    #[test]
    fn the_shipped_completions_are_what_the_command_prints() {
        for (shell, file) in SHIPPED {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/completions").join(file);
            let script = shell.script(parser());
            if std::env::var_os(WRITE).is_some() {
                std::fs::write(&path, &script).unwrap();
            }
            let shipped = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(shipped == script, "{} is of another time: {WRITE}=1 cargo test shipped writes it", path.display());
        }
    }
}
