//! What stands behind a subcommand: words and options, in any order.

use super::{help, Command, Failure};
use crate::values::spelling::nearest;

/// An option that a command knows.
pub struct Known {
    /// With its dashes.
    pub name: &'static str,
    /// What its value is called in help; `None`: it has none.
    pub value: Option<&'static str>,
}

pub const JSON: Known = Known { name: "--json", value: None };

#[derive(Debug, Default)]
pub struct Arguments {
    pub words: Vec<String>,
    options: Vec<(&'static str, String)>,
}

impl Arguments {
    pub fn parse(command: &Command, raw: &[String]) -> Result<Arguments, Failure> {
        let usage = |why: String| Failure::Usage(format!("{why}\n  usage: {}", help::usage(command)));
        let mut arguments = Arguments::default();
        let mut rest = raw.iter();
        while let Some(word) = rest.next() {
            if !word.starts_with("--") {
                arguments.words.push(word.clone());
                continue;
            }
            let (name, attached) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let Some(known) = command.options.iter().find(|known| known.name == name) else {
                let names: Vec<&str> = command.options.iter().map(|known| known.name).collect();
                let advice = match names.as_slice() {
                    [] => "it has no options".to_owned(),
                    names => format!("did you mean {}?", nearest(name, names)),
                };
                return Err(usage(format!("{} does not know {name}; {advice}", command.name)));
            };
            let value = match (known.value, attached) {
                (None, None) => String::new(),
                (None, Some(_)) => return Err(usage(format!("{name} has no value"))),
                (Some(what), attached) => attached
                    .or_else(|| rest.next().cloned())
                    .ok_or_else(|| usage(format!("{name} needs a value: {name} {what}")))?,
            };
            arguments.options.push((known.name, value));
        }
        let (least, most) = command.words;
        match arguments.words.len() {
            count if count < least => Err(usage(format!("{} needs more than that", command.name))),
            count if count > most => Err(usage(format!("{:?} is one word too many", arguments.words[most]))),
            _ => Ok(arguments),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(known, _)| *known == name)
    }

    pub fn json(&self) -> bool {
        self.has(JSON.name)
    }

    /// The last value of an option.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    pub fn word(&self, index: usize) -> Option<&str> {
        self.words.get(index).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(command: &str, words: &[&str]) -> Result<Arguments, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Arguments::parse(super::super::find(command).unwrap(), &words).map_err(|failure| match failure {
            Failure::Usage(why) => why,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn options_stand_anywhere_with_their_value_behind_or_attached() {
        for words in [["--url", "https://a/b", "--json"].as_slice(), &["--json", "--url=https://a/b"]] {
            let arguments = parse("check", words).unwrap();
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
            let why = parse(command, words).unwrap_err();
            assert!(why.contains(expected), "{why}");
        }
    }
}
