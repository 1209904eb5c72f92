//! The command line: a table of subcommands, one file each. See [`help`] for what they say of themselves.

mod arguments;
mod call;
mod call_many;
mod check;
mod help;
mod import;
mod install_url;
mod owner;
mod refresh;
mod status;
mod terminal;
mod token;
mod version;

use crate::config::{Config, Portal, Surroundings};
use crate::system::log::{Level, Log};
use crate::values::error::Error;
use crate::values::portal::PortalName;
use crate::values::secret::random_hex;
use crate::values::spelling::nearest;
use anyhow::anyhow;
use arguments::Arguments;
use std::process::ExitCode;
use terminal::say;

/// A subcommand.
pub struct Command {
    name: &'static str,
    /// What stands behind the name.
    usage: &'static str,
    /// One line.
    summary: &'static str,
    /// What `b24proxy help NAME` teaches.
    help: &'static str,
    /// Least and most words beside options.
    words: (usize, usize),
    /// `--json` is understood by every command that has it here.
    options: &'static [arguments::Known],
    /// Whether it works on a site's files, and so, started by root, goes on as the site's user.
    on_files: bool,
    run: fn(&Arguments) -> Outcome,
}

const COMMANDS: [&Command; 8] = [
    &check::COMMAND,
    &status::COMMAND,
    &call::COMMAND,
    &install_url::COMMAND,
    &refresh::COMMAND,
    &token::COMMAND,
    &import::COMMAND,
    &version::COMMAND,
];

/// `Ok`: exit status 0.
pub type Outcome = Result<(), Failure>;

#[derive(Debug)]
pub enum Failure {
    /// Something is wrong: exit status 1.
    Wrong(anyhow::Error),
    /// The configuration cannot be used; the same, and a program that reads `--json` gets it too.
    Configuration(String),
    /// The same, and the output has said it.
    Told,
    /// Wrong usage: exit status 2.
    Usage(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Failure {
        Failure::Wrong(anyhow::Error::msg(why))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(why: anyhow::Error) -> Failure {
        Failure::Wrong(why)
    }
}

/// On the command line sits whom the details are for.
impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        error.for_administrator().into()
    }
}

pub fn run() -> ExitCode {
    // Arguments that are not UTF-8 are nothing that is known here.
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let (why, status) = match dispatch(&words) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Told) => return ExitCode::FAILURE,
        Err(Failure::Wrong(why)) => (format!("{why:#}"), 1),
        Err(Failure::Configuration(why)) => (why, 1),
        Err(Failure::Usage(why)) => (why, 2),
    };
    eprintln!("b24proxy: {why}");
    ExitCode::from(status)
}

fn dispatch(words: &[String]) -> Outcome {
    let (name, rest) = match words.split_first() {
        None => return Err(Failure::Usage(format!("a command is missing\n\n{}", help::overview()))),
        Some((name, rest)) => (name.as_str(), rest),
    };
    match name {
        "help" | "--help" | "-h" => return help::run(rest),
        crate::call::refresh::COMMAND => return refresh::refresher(rest),
        _ => {}
    }
    let name = if matches!(name, "--version" | "-V") { "version" } else { name };
    let command = find(name)?;
    if rest.iter().any(|word| word == "--help" || word == "-h") {
        say(&help::of(command));
        return Ok(());
    }
    let arguments = Arguments::parse(command, rest)?;
    if command.on_files {
        owner::go_on_as_the_sites_user(words, &arguments)?;
    }
    let outcome = (command.run)(&arguments);
    if let (Err(Failure::Configuration(why)), true) = (&outcome, arguments.json()) {
        say(&serde_json::json!({ "error": why }).to_string());
    }
    outcome
}

fn find(name: &str) -> Result<&'static Command, Failure> {
    COMMANDS.into_iter().find(|command| command.name == name).ok_or_else(|| {
        let names = COMMANDS.map(|command| command.name);
        Failure::Usage(format!(
            "there is no command {name:?}; did you mean \"b24proxy {}\"? \"b24proxy help\" lists all",
            nearest(name, &names)
        ))
    })
}

fn surroundings() -> Surroundings {
    Surroundings {
        named: std::env::var_os("B24PROXY_CONFIG").filter(|path| !path.is_empty()).map(Into::into),
        executable: std::env::current_exe().ok(),
        document_root: None,
    }
}

fn configuration() -> Result<Config, Failure> {
    Config::load(&surroundings()).map_err(Failure::Configuration)
}

/// The portal of that name or alias.
fn portal<'c>(config: &'c Config, name: &str) -> Result<&'c Portal, Failure> {
    config.portal(name).ok_or_else(|| {
        let known: Vec<&str> = config.portals.iter().map(|portal| portal.name.as_str()).collect();
        let advice = match known.as_slice() {
            [] => "no portal is configured".to_owned(),
            known => format!("did you mean {}?", nearest(name, known)),
        };
        let section = PortalName::parse(name).map_or(name.to_owned(), |name| name.to_string());
        Failure::Wrong(anyhow!(
            "the portal {name:?} is not configured ({advice}); to add it, write [portals.\"{section}\"] into {}",
            config.path.display()
        ))
    })
}

/// The configured log; what would go to the web server's error log is not written to a person's terminal, warnings apart.
fn log(config: &Config) -> Log {
    let log = Log::new(random_hex::<8>());
    let level = if config.log.file.is_some() { config.log.level } else { config.log.level.min(Level::Warn) };
    log.configure(level, config.log.file.as_deref());
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_command_names_the_nearest() {
        let Err(Failure::Usage(why)) = find("chek") else { panic!() };
        assert!(why.contains("b24proxy check"), "{why}");
        let Err(Failure::Usage(why)) = find("instal-url") else { panic!() };
        assert!(why.contains("b24proxy install-url"), "{why}");
    }

    #[test]
    fn help_fits_a_terminal_of_80_columns() {
        let pages = COMMANDS.iter().map(|command| help::of(command)).chain([help::overview()]);
        for page in pages {
            for line in page.lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
        }
    }
}
