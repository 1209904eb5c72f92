//! The command line: a table of subcommands, one file each; [`command`] is what they share, [`terminal`] their edge. Uses
//! serve and what lies below it; does not know edge.

mod arguments;
mod call;
mod call_many;
mod check;
mod command;
mod fastcgi;
mod help;
mod import;
mod install_url;
mod moving;
mod owner;
mod refresh;
mod status;
mod terminal;
mod token;
mod version;

use crate::values::listening;
use crate::values::spelling::nearest;
use arguments::Arguments;
use command::{Command, Failure, Outcome};
pub use fastcgi::Listen;
use std::process::ExitCode;
use terminal::say;

const COMMANDS: [&Command; 10] = [
    &check::COMMAND,
    &status::COMMAND,
    &call::COMMAND,
    &install_url::COMMAND,
    &refresh::COMMAND,
    &token::COMMAND,
    &import::COMMAND,
    &moving::COMMAND,
    &fastcgi::COMMAND,
    &version::COMMAND,
];

/// `listen`: serves by FastCGI.
pub fn run(listen: Listen) -> ExitCode {
    let (why, status) = match dispatch(&terminal::words(), listen) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Told) => return ExitCode::FAILURE,
        Err(Failure::Wrong(why)) => (format!("{why:#}"), 1),
        Err(Failure::Configuration(why)) => (why, 1),
        Err(Failure::Usage(why)) => (why, 2),
    };
    terminal::complain(format!("b24proxy: {why}\n").as_bytes());
    ExitCode::from(status)
}

fn dispatch(words: &[String], listen: Listen) -> Outcome {
    let (name, rest) = match words.split_first() {
        None => return Err(Failure::Usage(format!("a command is missing\n\n{}", help::overview(&COMMANDS)))),
        Some((name, rest)) => (name.as_str(), rest),
    };
    match name {
        "help" | "--help" | "-h" => return help(rest),
        crate::call::refresh::process::COMMAND => {
            return Err(Failure::Usage("refresher is not for people; see refresh".into()));
        }
        listening::WORKER => return Err(Failure::Usage("worker is not for people; see fastcgi".into())),
        _ => {}
    }
    let name = if matches!(name, "--version" | "-V") { "version" } else { name };
    let command = find(name)?;
    if rest.iter().any(|word| word == "--help" || word == "-h") {
        say(&help::of(command));
        return Ok(());
    }
    let arguments = parse(command, rest)?;
    if command.on_files {
        owner::go_on_as_the_sites_user(words, (command.reads)(&arguments))?;
    }
    let outcome = match command.name {
        listening::COMMAND => fastcgi::serve(&arguments, listen),
        _ => (command.run)(&arguments),
    };
    if let (Err(Failure::Configuration(why)), true) = (&outcome, arguments.json()) {
        say(&serde_json::json!({ "error": why }).to_string());
    }
    outcome
}

fn help(words: &[String]) -> Outcome {
    match words.first() {
        None => say(&help::overview(&COMMANDS)),
        Some(name) => say(&help::of(find(name)?)),
    }
    Ok(())
}

fn parse(command: &Command, words: &[String]) -> Result<Arguments, Failure> {
    Arguments::parse(command.name, command.options, command.words, words)
        .map_err(|why| Failure::Usage(format!("{why}\n  usage: {}", help::usage(command))))
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
        let pages = COMMANDS.iter().map(|command| help::of(command)).chain([help::overview(&COMMANDS)]);
        for page in pages {
            for line in page.lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
        }
    }

    fn parsed(command: &str, words: &[&str]) -> Result<Arguments, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        parse(find(command).unwrap(), &words).map_err(|failure| match failure {
            Failure::Usage(why) => why,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn options_stand_anywhere_with_their_value_behind_or_attached() {
        for words in [["--url", "https://a/b", "--json"].as_slice(), &["--json", "--url=https://a/b"]] {
            let arguments = parsed("check", words).unwrap();
            assert_eq!((arguments.value("--url"), arguments.json()), (Some("https://a/b"), true));
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_type() {
        for (command, words, expected) in [
            ("check", ["--ulr=x"].as_slice(), "--url"),
            ("check", &["--url"], "needs a value"),
            ("check", &["--json=1"], "no value"),
            ("check", &["now"], "too many"),
            ("call", &[], "PORTAL METHOD"),
        ] {
            let why = parsed(command, words).unwrap_err();
            assert!(why.contains(expected), "{why}");
        }
    }
}
