//! The command line: one file a command; [`command`] is what they share, [`terminal`] their edge. Uses serve and what lies
//! below it; does not know edge.

mod call;
mod call_many;
mod check;
mod command;
mod completions;
mod events;
mod fastcgi;
mod import;
mod install_url;
#[cfg(test)]
mod man;
mod moving;
mod owner;
mod refresh;
mod status;
mod terminal;
mod token;
mod trial;
mod version;

use crate::values::spelling::near;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use command::{Failure, Outcome};
pub use fastcgi::Listen;
use owner::Foreigner;
use std::ffi::OsString;
use std::process::ExitCode;
use terminal::say;

#[derive(Parser)]
#[command(
    name = "b24proxy",
    bin_name = "b24proxy",
    version,
    args_override_self = true,
    arg_required_else_help = true,
    help_template = "{before-help}{subcommands}{after-help}",
    before_help = "b24proxy lets 1C call Bitrix24's REST API. The web server runs it; you, on the
command line, set it up and look after it:",
    after_help = "First steps:
  b24proxy token                        a token for 1C, and where it is written
  b24proxy check                        is everything in place?
  b24proxy check --url https://www.example.com/cgi-bin/b24proxy
  b24proxy install-url PORTAL           the address at which tokens are obtained

\"b24proxy help COMMAND\" says what a command does, with examples.

proxy.toml is looked for where the web server's run looks for it: beside the
executable, then as b24proxy/proxy.toml in each folder above, then in
/etc/b24proxy. B24PROXY_CONFIG=/path/to/proxy.toml names another one.
Started by root, a command goes on as the user whom the configuration and the
token folder belong to. NO_COLOR=1 in the environment leaves colours out.

Exit status: 0 fine, 1 something is wrong, 2 wrong usage."
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

/// In the order of help.
#[derive(Subcommand)]
enum Command {
    Check(check::Check),
    Status(status::Status),
    Call(call::Call),
    InstallUrl(install_url::InstallUrl),
    Refresh(refresh::Refresh),
    Token(token::Token),
    Import(import::Import),
    Events(events::Events),
    Move(moving::Move),
    Fastcgi(fastcgi::FastCgi),
    Completions(completions::Completions),
    Version(version::Version),
}

impl Command {
    /// Whether it works on a site's files, and so, started by root, goes on as the site's user.
    fn is_on_files(&self) -> bool {
        !matches!(self, Command::Token(_) | Command::Completions(_) | Command::Version(_))
    }

    /// Whether nobody else may run it. A server that is started waits for its configuration to be mended, and `check --user`
    /// looks at another one's files from outside.
    fn is_for_the_sites_user(&self) -> bool {
        match self {
            Command::Fastcgi(_) => false,
            Command::Check(check) => check.user.is_none() && !check.schema,
            _ => self.is_on_files(),
        }
    }

    /// The user whom it names.
    fn user(&self) -> Option<u32> {
        match self {
            Command::Check(check) => check.user,
            _ => None,
        }
    }

    fn refuse(&self, Foreigner { why, command }: &Foreigner) -> Outcome {
        match self {
            Command::Check(check) => check.refuse(why, command),
            _ => Err(Failure::Wrong(anyhow::anyhow!("{why}: {command}"))),
        }
    }

    /// The file that it reads, of whoever has started it; "-" is standard input.
    fn reads(&self) -> Option<&str> {
        match self {
            Command::Call(call) => call.calls.as_deref(),
            Command::Import(import) => Some(&import.file),
            _ => None,
        }
    }

    fn run(&self, listen: Listen) -> Outcome {
        match self {
            Command::Check(check) => check.run(),
            Command::Status(status) => status.run(),
            Command::Call(call) => call.run(),
            Command::InstallUrl(install_url) => install_url.run(),
            Command::Refresh(refresh) => refresh.run(),
            Command::Token(token) => token.run(),
            Command::Import(import) => import.run(),
            Command::Events(events) => events.run(),
            Command::Move(moving) => moving.run(),
            Command::Fastcgi(fastcgi) => fastcgi.run(listen),
            Command::Completions(completions) => completions.run(parser()),
            Command::Version(version) => version.run(),
        }
    }
}

/// `listen`: serves by FastCGI.
pub fn run(listen: Listen) -> ExitCode {
    let words = terminal::words();
    let outcome = match parsed(&words) {
        Ok(command) => executed(&command, &words, listen),
        Err(error) => told(&error, &words),
    };
    let (why, status) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Told) => return ExitCode::FAILURE,
        Err(Failure::Wrong(why)) => (format!("{why:#}"), 1),
        Err(Failure::Usage(why)) => (why, 2),
    };
    terminal::give_up(&why);
    ExitCode::from(status)
}

fn executed(command: &Command, words: &[OsString], listen: Listen) -> Outcome {
    if command.is_on_files() {
        owner::go_on_as_the_sites_user(words, command.reads(), command.user())?;
    }
    match owner::foreigner(words).filter(|_| command.is_for_the_sites_user()) {
        Some(foreigner) => command.refuse(&foreigner),
        None => command.run(listen),
    }
}

fn parser() -> clap::Command {
    CommandLine::command().mut_subcommands(|command| command.help_template("{usage}\n\n{before-help}{all-args}"))
}

/// What stands behind the program's name, understood.
fn parsed(words: &[OsString]) -> Result<Command, clap::Error> {
    let name = OsString::from("b24proxy");
    let matches = parser().try_get_matches_from([&name].into_iter().chain(words))?;
    CommandLine::from_arg_matches(&matches).map(|line| line.command)
}

/// Help is no failure.
fn told(error: &clap::Error, words: &[OsString]) -> Outcome {
    let text = error.render().to_string();
    Err(Failure::Usage(match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            say(&text);
            return Ok(());
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => format!("a command is missing\n\n{text}"),
        ErrorKind::InvalidSubcommand => unknown_command(context(error, ContextKind::InvalidSubcommand)),
        ErrorKind::UnknownArgument => {
            let command = words.first().map(|word| word.to_string_lossy()).unwrap_or_default();
            let (_, usage) = text.split_once("\n\n").unwrap_or_default();
            format!("{}\n\n{usage}", unknown_word(&command, context(error, ContextKind::InvalidArg)))
        }
        _ => text.strip_prefix("error: ").unwrap_or(&text).to_owned(),
    }))
}

fn context(error: &clap::Error, kind: ContextKind) -> &str {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text,
        _ => "",
    }
}

fn unknown_command(name: &str) -> String {
    let parser = parser();
    let names: Vec<&str> = parser.get_subcommands().map(clap::Command::get_name).collect();
    let advice = near(name, &names).map(|near| format!("; did you mean \"b24proxy {near}\"?")).unwrap_or_default();
    format!("there is no command {name:?}{advice} (\"b24proxy help\" lists all)")
}

/// A word or option that this command has no place for.
fn unknown_word(command: &str, word: &str) -> String {
    let Some(name) = word.strip_prefix("--") else { return format!("{word:?} is one word too many") };
    let parser = parser();
    let known = parser.find_subcommand(command).into_iter().flat_map(clap::Command::get_arguments);
    let known: Vec<&str> = known.filter_map(clap::Arg::get_long).collect();
    let advice = near(name, &known).map(|near| format!("; did you mean --{near}?")).unwrap_or_default();
    format!("{command} does not know {word}{advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(words: &[&str]) -> String {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        match told(&parsed(&words).err().expect("wrong usage"), &words) {
            Err(Failure::Usage(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_parser_fits_together() {
        parser().debug_assert();
    }

    #[test]
    fn an_unknown_command_names_one_that_is_near_and_no_other() {
        assert!(refused(&["chek"]).contains("\"b24proxy check\""));
        assert!(refused(&["help", "instal-url"]).contains("\"b24proxy install-url\""));
        assert!(!refused(&["frobnicate"]).contains("did you mean"));
    }

    #[test]
    fn a_word_that_has_no_place_is_named_with_what_is_near() {
        assert!(refused(&["check", "--ulr=x"]).starts_with("check does not know --ulr; did you mean --url?\n\nUsage: "));
        assert!(refused(&["token", "--frobnicate"]).starts_with("token does not know --frobnicate\n"));
        assert!(refused(&["check", "now"]).starts_with("\"now\" is one word too many\n"));
    }

    #[test]
    fn options_stand_anywhere_with_their_value_behind_or_attached_and_the_last_one_counts() {
        for words in [
            ["check", "--url", "https://a/b", "--json"].as_slice(),
            &["check", "--json", "--json", "--url=https://x/y", "--url=https://a/b"],
        ] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert!(
                matches!(parsed(&words), Ok(Command::Check(check)) if check.address(None).is_some_and(|url| url.base() == "https://a/b"))
            );
        }
    }

    #[test]
    fn help_fits_a_terminal_of_80_columns() {
        let mut parser = parser();
        parser.build();
        let pages = parser.get_subcommands_mut().map(|command| command.render_help().to_string());
        let pages: Vec<String> = pages.collect();
        for page in pages.into_iter().chain([parser.render_help().to_string()]) {
            for line in page.lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
        }
    }
}
