//! What stands behind a subcommand: words and options, in any order.

use crate::values::spelling::nearest;

/// An option that a command knows.
pub struct Flag {
    /// With its dashes.
    pub name: &'static str,
    /// What its value is called in help; `None`: it has none.
    pub value: Option<&'static str>,
}

pub const JSON: Flag = Flag { name: "--json", value: None };

#[derive(Debug, Default)]
pub struct Arguments {
    pub words: Vec<String>,
    options: Vec<(&'static str, String)>,
}

impl Arguments {
    /// `options`: those of this command. `least`, `most`: how many words. The error says what to type.
    pub fn parse(
        command: &str,
        options: &[Flag],
        (least, most): (usize, usize),
        raw: &[String],
    ) -> Result<Arguments, String> {
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
            let Some(known) = options.iter().find(|known| known.name == name) else {
                let names: Vec<&str> = options.iter().map(|known| known.name).collect();
                let advice = match names.as_slice() {
                    [] => "it has no options".to_owned(),
                    names => format!("did you mean {}?", nearest(name, names)),
                };
                return Err(format!("{command} does not know {name}; {advice}"));
            };
            let value = match (known.value, attached) {
                (None, None) => String::new(),
                (None, Some(_)) => return Err(format!("{name} has no value")),
                (Some(what), attached) => attached
                    .or_else(|| rest.next().cloned())
                    .ok_or_else(|| format!("{name} needs a value: {name} {what}"))?,
            };
            arguments.options.push((known.name, value));
        }
        match arguments.words.len() {
            count if count < least => Err(format!("{command} needs more than that")),
            count if count > most => Err(format!("{:?} is one word too many", arguments.words[most])),
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
