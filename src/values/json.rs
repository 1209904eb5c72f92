//! JSON as it passes through: read without changing a byte of what is passed on.

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// How deep Bitrix24's PHP reads. `json_decode`'s default is 512, and that counts the scalars in the innermost list as
/// a level (measured with PHP 8.2, empty lists too). Deeper, it takes the whole body as no parameters.
const MAX_DEPTH: usize = 511;

/// The request body as text: UTF-8, with or without a byte-order mark (1C writes one).
pub fn text(body: &[u8]) -> Result<&str, String> {
    if is_utf_16(body) {
        return Err("the body is UTF-16, not UTF-8: write it with КодировкаТекста.UTF8".into());
    }
    match std::str::from_utf8(body) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(error) => Err(name_encoding(body, error.valid_up_to())),
    }
}

/// By its byte-order mark, or by the zero byte that every ASCII character has there and no JSON in UTF-8.
fn is_utf_16(body: &[u8]) -> bool {
    matches!(body, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..])
}

fn name_encoding(body: &[u8], at: usize) -> String {
    // In windows-1251 nearly all bytes above ASCII are Cyrillic letters, 0xC0 to 0xFF.
    let high = body.iter().filter(|b| **b >= 0x80).count();
    let letters = body.iter().filter(|b| **b >= 0xc0 || **b == 0xa8 || **b == 0xb8).count();
    if letters * 10 >= high * 8 {
        format!("the body is not UTF-8 (byte {at}); it looks like windows-1251: write it with КодировкаТекста.UTF8")
    } else {
        format!("the body is not UTF-8 (byte {at}): write it with КодировкаТекста.UTF8")
    }
}

/// Refuses what `serde_json` reads but Bitrix24's PHP does not, because PHP then silently takes the whole body as no
/// parameters: nesting deeper than 511, and escapes of half a surrogate pair. `json` must be valid JSON otherwise.
pub fn refuse_what_php_cannot_read(json: &str) -> Result<(), String> {
    let bytes = json.as_bytes();
    let (mut depth, mut at) = (0usize, 0usize);
    while at < bytes.len() {
        match bytes[at] {
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(format!("nested deeper than {MAX_DEPTH} levels, which Bitrix24 does not read"));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => at = end_of_string(bytes, at + 1)?,
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// The index of the closing quote of the string that begins at `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> Result<usize, String> {
    let unit = |at: usize| -> Option<u16> {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    while at < bytes.len() && bytes[at] != b'"' {
        if bytes[at] != b'\\' {
            at += 1;
            continue;
        }
        at += match unit(at) {
            Some(0xd800..=0xdbff) if matches!(unit(at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                return Err(format!("half a surrogate pair (\\u escape) at byte {at}, which Bitrix24 does not read"))
            }
            Some(_) => 6,
            None => 2,
        };
    }
    Ok(at)
}

/// A key, unescaped, and its value as it stands.
pub type Entry<'a> = (Cow<'a, str>, &'a RawValue);

/// The value of this name, as it stands; of a name given twice the last, as PHP reads it.
pub fn member<'a>(entries: &[Entry<'a>], name: &str) -> Option<&'a str> {
    entries.iter().rev().find(|(key, _)| key == name).map(|(_, raw)| raw.get())
}

/// The same of an object that is still to be read; `None` also where it is none.
pub fn field<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    member(&entries(object).ok()?, name)
}

/// The entries of a JSON object in order; a key given twice is there twice.
pub fn entries(json: &str) -> Result<Vec<Entry<'_>>, serde_json::Error> {
    struct Entries;
    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some((Key(key), value)) = map.next_entry()? {
                entries.push((key, value));
            }
            Ok(entries)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let entries = deserializer.deserialize_map(Entries)?;
    deserializer.end()?;
    Ok(entries)
}

/// A key that borrows from the text unless it is escaped there.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// For a number that some write as a text; 0 where it is neither.
pub fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u64),
        Text(String),
        Nothing(()),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::Number(number) => number,
        Written::Text(text) => text.parse().unwrap_or(0),
        Written::Nothing(()) => 0,
    })
}

/// As [`number_or_text`], of a value that was read already; `None` where it is neither.
pub fn number_of(value: &serde_json::Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// A name and a JSON value as text, of an object that is built here in an order that matters.
pub type Member = (String, String);

/// The members as a JSON object.
pub fn object(members: &[Member]) -> String {
    format!("{{{}}}", inside_object(members))
}

/// The members without the braces.
pub fn inside_object(members: &[Member]) -> String {
    let written: Vec<String> = members.iter().map(|(name, value)| format!("{}:{value}", quoted(name))).collect();
    written.join(",")
}

/// `text` as a JSON string, quotes included.
pub fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string serializes")
}

/// What serde_json says, without the text that it may quote.
pub fn describe(error: &serde_json::Error) -> String {
    let place = format!("line {} column {}", error.line(), error.column());
    match error.classify() {
        serde_json::error::Category::Eof => format!("it ends too early, at {place}"),
        // Here serde_json quotes the value, which may be a secret.
        serde_json::error::Category::Data => format!("a value of the wrong type, at {place}"),
        _ => {
            let message = error.to_string();
            let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(m, _)| m);
            format!("{message}, at {place}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_byte_order_mark_is_accepted() {
        assert_eq!(text(b"\xef\xbb\xbf{}"), Ok("{}"));
    }

    #[test]
    fn windows_1251_is_named() {
        let body = b"{\"name\":\"\xcf\xf0\xe8\xe2\xe5\xf2\"}";
        assert!(text(body).unwrap_err().contains("windows-1251"));
        assert!(!text(b"\x80\x81\x82").unwrap_err().contains("windows-1251"));
        assert!(text(b"\xff\xfe{\0}\0").unwrap_err().contains("UTF-16"));
    }

    #[test]
    fn what_php_cannot_read_is_refused() {
        assert!(refuse_what_php_cannot_read(r#"{"a":"\ud83d\ude00 \\ud800 \" []"}"#).is_ok());
        assert!(refuse_what_php_cannot_read(r#"{"a":"\ud83d"}"#).is_err());
        assert!(refuse_what_php_cannot_read(r#"{"a":"\ude00\ud83d"}"#).is_err());
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(refuse_what_php_cannot_read(&nested(511)).is_ok());
        assert!(refuse_what_php_cannot_read(&nested(512)).is_err());
    }

    #[test]
    fn of_a_name_given_twice_the_last_counts() {
        assert_eq!(field(r#"{"a":1,"\u0061":{"b":2},"b":3}"#, "a"), Some(r#"{"b":2}"#));
        assert_eq!(field(r#"{"a":1}"#, "b"), None);
        assert_eq!(field("[1]", "a"), None);
    }

    #[test]
    fn keys_are_unescaped_and_doubles_are_kept() {
        let entries = entries(r#"{"\u0061uth":1,"b":{"c":2},"b":3}"#).unwrap();
        let keys: Vec<&str> = entries.iter().map(|(key, _)| key.as_ref()).collect();
        assert_eq!(keys, ["auth", "b", "b"]);
        assert_eq!(entries[1].1.get(), "{\"c\":2}");
    }

    proptest! {
        #[test]
        fn scanning_never_panics(text in "[\\[\\]{}\"\\\\u0-9a-f:, ]{0,80}") {
            let _ = refuse_what_php_cannot_read(&text);
            let _ = entries(&text);
        }

        #[test]
        fn what_serde_writes_is_readable(text in "\\PC{0,60}") {
            prop_assert!(refuse_what_php_cannot_read(&quoted(&text)).is_ok());
        }

        #[test]
        fn any_bytes_are_text_or_a_reason(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = text(&bytes);
        }
    }
}
