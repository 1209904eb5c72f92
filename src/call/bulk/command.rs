//! Parameters as a batch command carries them: `method?a=1&b%5Bc%5D=2`, which PHP reads with `parse_str`.
//!
//! Not everything survives that: null, empty lists and objects are lost, names with brackets, dots or spaces change, and
//! `$result[…]` and its like refer to an earlier command. A call with any of these must be sent on its own. Types become
//! strings; true and false become 1 and 0, where the caller does not mind.

use super::LONGEST_BATCH;
use crate::values::json::{self, Text};
use crate::values::percent::{self, UNRESERVED};
use std::collections::HashSet;

/// `max_input_vars` of PHP, which `parse_str` obeys.
const MAX_FIELDS: usize = 1000;
/// `max_input_nesting_level` of PHP.
const MAX_LEVELS: usize = 60;
/// What a batch puts earlier answers in the place of, with `$` before it and in any case of letters.
const REFERENCES: [&str; 5] = ["result", "next", "total", "time", "error"];

/// The command, or `None` where the parameters would not survive, or are too long for a batch.
pub fn of(method: &str, parameters: &str) -> Option<String> {
    pack(method, parameters, false)
}

/// The same, also `None` where PHP would take a value for another than in JSON: true, false, and numbers in a form that it
/// would not write itself.
pub fn of_same_types(method: &str, parameters: &str) -> Option<String> {
    pack(method, parameters, true)
}

fn pack(method: &str, parameters: &str, same_types: bool) -> Option<String> {
    if parameters.len() > LONGEST_BATCH {
        return None;
    }
    let mut packer = Packer { command: format!("{method}?"), fields: 0, same_types };
    packer.members("", parameters, 0)?;
    if packer.fields == 0 {
        packer.command.pop();
    }
    Some(packer.command)
}

/// A field that is written as it is, without a look at its content: for references to earlier commands.
pub fn with_field(command: &str, name: &str, value: &str) -> String {
    let separator = if command.contains('?') { '&' } else { '?' };
    let escaped = |text: &str| percent::encoded(text.as_bytes(), UNRESERVED);
    format!("{command}{separator}{}={}", escaped(name), escaped(value))
}

struct Packer {
    command: String,
    fields: usize,
    same_types: bool,
}

impl Packer {
    /// The members of an object, or the elements of a list, below `prefix`.
    fn members(&mut self, prefix: &str, raw: &str, level: usize) -> Option<()> {
        if level > MAX_LEVELS {
            return None;
        }
        if raw.starts_with('[') {
            return json::elements(raw)
                .enumerate()
                .try_for_each(|(i, value)| self.value(prefix, &i.to_string(), value.ok()?, level));
        }
        let mut names = HashSet::new();
        for entry in json::entries(raw) {
            let (key, value) = entry.ok()?;
            self.value(prefix, &key, value, level)?;
            if !names.insert(key) {
                return None;
            }
        }
        Some(())
    }

    fn value(&mut self, prefix: &str, key: &str, raw: &str, level: usize) -> Option<()> {
        let safe = match prefix {
            // PHP changes these in the first part of a name.
            "" => !key.contains(['.', ' ', '[', ']', '\0']),
            _ => !key.contains(['[', ']', '\0']),
        };
        // `a[ ]` is `a[]` to PHP.
        if key.trim().is_empty() || !safe {
            return None;
        }
        let name = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}[{key}]") };
        match raw.as_bytes().first()? {
            b'{' | b'[' => {
                let before = self.fields;
                self.members(&name, raw, level + 1)?;
                // An empty list or object leaves nothing behind.
                (self.fields > before).then_some(())
            }
            b'n' => None,
            b't' | b'f' if self.same_types => None,
            b't' => self.field(&name, "1"),
            b'f' => self.field(&name, "0"),
            b'"' => self.field(&name, &serde_json::from_str::<Text>(raw).ok()?.0),
            _ if self.same_types && !is_canonical(raw) => None,
            _ => self.field(&name, raw),
        }
    }

    fn field(&mut self, name: &str, value: &str) -> Option<()> {
        self.fields += 1;
        if self.fields > MAX_FIELDS || refers(value) || refers(name) {
            return None;
        }
        if self.fields > 1 {
            self.command.push('&');
        }
        percent::encode_onto(&mut self.command, name.as_bytes(), UNRESERVED);
        self.command.push('=');
        percent::encode_onto(&mut self.command, value.as_bytes(), UNRESERVED);
        (self.command.len() <= LONGEST_BATCH).then_some(())
    }
}

/// Whether a batch may take it for a reference to an earlier answer.
fn refers(text: &str) -> bool {
    let names = |rest: &str| {
        REFERENCES.iter().any(|name| rest.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)))
    };
    text.match_indices('$').any(|(at, _)| names(&text[at + 1..]))
}

/// A number whose text PHP takes for the same number: no exponent, no trailing zero, no more digits than it keeps.
fn is_canonical(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    let is_fraction = digits.contains('.');
    !digits.contains(['e', 'E'])
        && number != "-0"
        && if is_fraction { digits.len() <= 15 && !digits.ends_with('0') } else { digits.len() <= 18 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(parameters: &str) -> Option<String> {
        of("m", parameters)
    }

    #[test]
    fn parameters_are_written_as_php_reads_them() {
        assert_eq!(packed("{}").as_deref(), Some("m"));
        assert_eq!(
            packed(r#"{"fields":{"TITLE":"А&b","PRICE":1.50,"OPEN":true,"CLOSED":false},"ids":[7,8],"e":""}"#)
                .as_deref(),
            Some(
                "m?fields%5BTITLE%5D=%D0%90%26b&fields%5BPRICE%5D=1.50&fields%5BOPEN%5D=1&fields%5BCLOSED%5D=0\
                 &ids%5B0%5D=7&ids%5B1%5D=8&e="
            )
        );
        assert_eq!(packed(r#"{"filter":{">ID":5}}"#).as_deref(), Some("m?filter%5B%3EID%5D=5"));
        assert_eq!(packed(r#"[1,"x"]"#).as_deref(), Some("m?0=1&1=x"));
    }

    #[test]
    fn what_would_not_survive_is_sent_on_its_own() {
        for parameters in [
            r#"{"a":null}"#,
            r#"{"a":[]}"#,
            r#"{"a":{"b":{}}}"#,
            r#"{"a.b":1}"#,
            r#"{"a b":1}"#,
            r#"{"a[b]":1}"#,
            r#"{"a":{"b]":1}}"#,
            r#"{"":1}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a":"$result[0]"}"#,
            r#"{"a":"x $RESULT[0]"}"#,
            r#"{"a":["$Next[c0]"]}"#,
            r#"{"a":"$total[c0]"}"#,
            r#"{"a":"$time[c0][start]"}"#,
            r#"{"a":"\u0024eRRor[c0]"}"#,
            r#"{"$error[c0]":1}"#,
            r#"{"a":{" ":1}}"#,
        ] {
            assert_eq!(packed(parameters), None, "{parameters}");
        }
        let many: Vec<usize> = (0..=MAX_FIELDS).collect();
        assert_eq!(packed(&serde_json::json!({ "a": many }).to_string()), None);
    }

    #[test]
    fn where_types_count_true_and_false_and_odd_numbers_are_sent_on_their_own() {
        for parameters in [r#"{"a":true}"#, r#"{"a":{"b":[false]}}"#, r#"{"a":1.50}"#, r#"{"a":1e3}"#, r#"{"a":-0}"#] {
            assert!(packed(parameters).is_some(), "{parameters}");
            assert_eq!(of_same_types("m", parameters), None, "{parameters}");
        }
        assert_eq!(of_same_types("m", r#"{"a":12345678901234567890}"#), None);
        let plain = r#"{"a":[7,-7,0,1.5,"true","1e3","$5"]}"#;
        assert_eq!(of_same_types("m", plain), packed(plain));
        assert!(packed(plain).is_some());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[\\[\\]{}\":,a-c0-9n ]{0,40}") {
            let _ = packed(&text);
        }

        #[test]
        fn a_command_is_one_method_and_one_query(key in "[a-zA-Z_>=%]{1,8}", value in "\\PC{0,20}") {
            if let Some(command) = packed(&serde_json::json!({ key.clone(): value.clone() }).to_string()) {
                let (method, query) = command.split_once('?').unwrap();
                prop_assert_eq!(method, "m");
                prop_assert_eq!(crate::values::form::fields(query.as_bytes()).collect::<Vec<_>>(), vec![(key, value)]);
            }
        }
    }
}
