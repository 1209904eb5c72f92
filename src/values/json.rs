//! JSON as it passes through: read without changing a byte of what is passed on.

use crate::system::log::is_control;
use serde::de::{self, Deserializer, Visitor};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// How deep Bitrix24's PHP reads. `json_decode`'s default is 512, and that counts the scalars in the innermost list as
/// a level (measured with PHP 8.2, empty lists too). Deeper, it takes the whole body as no parameters.
const MAX_DEPTH: usize = 511;
/// What may stand between tokens (RFC 8259, section 2).
pub const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

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
    while at < bytes.len() && bytes[at] != b'"' {
        if bytes[at] != b'\\' {
            at += 1;
            continue;
        }
        at += match unit(bytes, at) {
            Some(0xd800..=0xdbff) if matches!(unit(bytes, at + 6), Some(0xdc00..=0xdfff)) => 12,
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
pub type Entry<'a> = (Cow<'a, str>, &'a str);

/// The entries of a JSON object in order, read as they are asked for, so that none takes memory; a key given twice is there
/// twice. The last is an error where this is no object, or something follows it.
pub fn entries(json: &str) -> Entries<'_> {
    Entries(Items::of(json, b'{', b'}'))
}

/// The elements of a JSON list in order, as they stand, read in the same manner.
pub fn elements(json: &str) -> Elements<'_> {
    Elements(Items::of(json, b'[', b']'))
}

/// The values of these names, as they stand; of a name given twice the last, as PHP reads it.
pub fn fields<'a, const N: usize>(
    object: &'a str,
    names: [&str; N],
) -> Result<[Option<&'a str>; N], serde_json::Error> {
    let mut found = [None; N];
    for entry in entries(object) {
        let (key, value) = entry?;
        if let Some(at) = names.iter().position(|name| *name == key) {
            found[at] = Some(value);
        }
    }
    Ok(found)
}

/// The value of one name; `None` also where this is no object.
pub fn field<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    fields(object, [name]).ok()?[0]
}

pub struct Entries<'a>(Items<'a>);

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, serde_json::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next(|items| {
            let Key(key) = items.value()?;
            items.punctuation(b':')?;
            Some((key, items.value::<&RawValue>()?.get()))
        })
    }
}

pub struct Elements<'a>(Items<'a>);

impl<'a> Iterator for Elements<'a> {
    type Item = Result<&'a str, serde_json::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next(|items| Some(items.value::<&RawValue>()?.get()))
    }
}

/// What stands between two brackets, with commas between.
struct Items<'a> {
    json: &'a str,
    /// How far it is read.
    at: usize,
    opening: u8,
    closing: u8,
    ended: bool,
}

impl<'a> Items<'a> {
    fn of(json: &'a str, opening: u8, closing: u8) -> Items<'a> {
        Items { json, at: 0, opening, closing, ended: false }
    }

    fn next<T>(&mut self, read: impl Fn(&mut Self) -> Option<T>) -> Option<Result<T, serde_json::Error>> {
        if self.ended {
            return None;
        }
        match self.read_next(read) {
            Some(Some(item)) => Some(Ok(item)),
            Some(None) => {
                self.ended = true;
                None
            }
            None => {
                self.ended = true;
                Some(Err(self.error()))
            }
        }
    }

    /// `Some(None)`: it has ended as it should; `None`: it is not what it should be.
    fn read_next<T>(&mut self, read: impl Fn(&mut Self) -> Option<T>) -> Option<Option<T>> {
        let first = self.at == 0;
        if first {
            self.punctuation(self.opening)?;
        }
        if self.punctuation(self.closing).is_some() {
            return self.json[self.at..].trim_start_matches(SPACE).is_empty().then_some(None);
        }
        if !first {
            self.punctuation(b',')?;
        }
        read(self).map(Some)
    }

    fn punctuation(&mut self, byte: u8) -> Option<()> {
        let rest = self.json[self.at..].trim_start_matches(SPACE);
        (rest.as_bytes().first() == Some(&byte)).then(|| self.at = self.json.len() - rest.len() + 1)
    }

    fn value<T: Deserialize<'a>>(&mut self) -> Option<T> {
        let mut values = serde_json::Deserializer::from_str(&self.json[self.at..]).into_iter();
        let value = values.next()?.ok()?;
        self.at += values.byte_offset();
        Some(value)
    }

    /// Why it cannot be read, with the place in the whole text.
    fn error(&self) -> serde_json::Error {
        match serde_json::from_str::<&RawValue>(self.json) {
            Err(error) => error,
            Ok(_) => de::Error::custom(format!("it does not begin with {}", char::from(self.opening))),
        }
    }
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

/// A text that borrows where nothing in it is escaped.
#[derive(Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

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

/// Writes one more member, into an object that may have been opened there just now.
pub fn push_member(inside: &mut String, name: &str, value: &str) {
    if !inside.is_empty() && !inside.ends_with('{') {
        inside.push(',');
    }
    push_quoted(inside, name);
    inside.push(':');
    inside.push_str(value);
}

/// Room for a text as a JSON string, all of it at once: one that grows is copied again and again.
pub fn quoted_length(text: &str) -> usize {
    let written = |byte| match byte {
        b'"' | b'\\' => 2,
        0..=0x1f => 6,
        _ => 1,
    };
    text.bytes().map(written).sum::<usize>() + 2
}

/// Writes `text` as a JSON string, quotes included.
pub fn push_quoted(out: &mut String, text: &str) {
    struct Pieces<'o>(&'o mut String);
    impl std::io::Write for Pieces<'_> {
        fn write(&mut self, piece: &[u8]) -> std::io::Result<usize> {
            self.0.push_str(std::str::from_utf8(piece).map_err(std::io::Error::other)?);
            Ok(piece.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    out.reserve(quoted_length(text));
    serde_json::to_writer(Pieces(out), text).expect("a string serializes");
}

/// `text` as a JSON string, quotes included.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_quoted(&mut out, text);
    out
}

/// Letters beyond ASCII as such, where a JSON text has them escaped (PHP writes `\u0421` for С): it means the same. Control
/// characters and halves of pairs stay as they are.
pub fn readable(json: &str) -> Cow<'_, str> {
    if !json.contains("\\u") {
        return Cow::Borrowed(json);
    }
    let mut read = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        read.push_str(&rest[..at]);
        rest = &rest[at..];
        match escaped(rest) {
            Some((letter, length)) => {
                read.push(letter);
                rest = &rest[length..];
            }
            None => {
                // With what stands behind a backslash, which may be another one.
                let length = rest.chars().take(2).map(char::len_utf8).sum();
                read.push_str(&rest[..length]);
                rest = &rest[length..];
            }
        }
    }
    read.push_str(rest);
    Cow::Owned(read)
}

/// The letter whose escape `text` begins with, and how long that is.
fn escaped(text: &str) -> Option<(char, usize)> {
    let units = [unit(text.as_bytes(), 0)?, unit(text.as_bytes(), 6).unwrap_or(0)];
    let letter = char::decode_utf16(units).next()?.ok()?;
    (!letter.is_ascii() && !is_control(letter)).then_some((letter, 6 * letter.len_utf16()))
}

/// The number that is escaped there, as `\uXXXX`.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let are_digits = digits.iter().all(u8::is_ascii_hexdigit);
    are_digits.then(|| u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())?
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
    fn letters_beyond_ascii_are_readable_and_the_rest_stays_as_it_is() {
        for (json, read) in [
            (r#"{"\u0421\u0442\u043e\u043b":"\u0451Ж"}"#, r#"{"Стол":"ёЖ"}"#),
            (r#""\ud83d\ude00\u20BD""#, r#""😀₽""#),
            (r#""\\u0421 \\\u0421 \"\u0421\"""#, r#""\\u0421 \\С \"С\"""#),
        ] {
            assert_eq!(readable(json), read);
        }
        for same in [
            r#""\u0022 \u005c \u003c \u0000 \u001b \u009b \u202e \u2028 \n \/""#,
            r#""\ud83d \ud83d\u0421x \ude00""#,
            r#""\u04"#,
            r#""\u+421""#,
            "\\",
            "\\Ж",
        ] {
            assert_eq!(readable(same).replace('С', r"\u0421"), same);
        }
    }

    proptest! {
        #[test]
        fn what_is_readable_means_the_same(text: String) {
            let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            let json = format!("[\"{escaped}\",{}]", quoted(&text));
            let value = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
            prop_assert_eq!(value(&readable(&json)), value(&json));
        }
    }

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
        let entries: Vec<Entry> = entries(r#" {"\u0061uth":1, "b" : {"c":2},"b":3 } "#).map(Result::unwrap).collect();
        let keys: Vec<&str> = entries.iter().map(|(key, _)| key.as_ref()).collect();
        assert_eq!(keys, ["auth", "b", "b"]);
        assert_eq!(entries[1].1, "{\"c\":2}");
        let elements: Result<Vec<&str>, _> = elements("[1, [2,3] ,\"]\" ]").collect();
        assert_eq!(elements.unwrap(), ["1", "[2,3]", "\"]\""]);
    }

    #[test]
    fn an_error_names_the_place_in_the_whole_text() {
        let error = entries("{\"a\":1,\n\"b\":!}").last().unwrap().unwrap_err();
        assert_eq!((error.line(), error.column()), (2, 5));
        for bad in [
            "",
            "1",
            "{",
            "{,}",
            "{\"a\":1,}",
            "{\"a\":1}x",
            "{\"a\" 1}",
            "{a:1}",
            "[1]",
            "{\"a\":1 \"b\":2}",
            "{\"a\":01}",
        ] {
            assert!(entries(bad).last().unwrap().is_err(), "{bad}");
        }
        for bad in ["[", "[,]", "[1,]", "[1 2]", "[1]]", "{}", "[\u{a0}1]"] {
            assert!(elements(bad).last().unwrap().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn scanning_never_panics(text in "[\\[\\]{}\"\\\\u0-9a-f:, ]{0,80}") {
            let _ = refuse_what_php_cannot_read(&text);
            let _ = entries(&text).count();
        }

        #[test]
        fn what_serde_reads_is_read_here_and_nothing_else(text in "[\\[\\]{}\"\\\\ua0-9:,. tn-]{0,24}|\\{(\"a\":[0-9\\[\\]\"]{0,3},?){0,3}\\}") {
            let valid = serde_json::from_str::<serde_json::Value>(&text).ok();
            let read: Result<Vec<Entry>, _> = entries(&text).collect();
            prop_assert_eq!(read.is_ok(), valid.as_ref().is_some_and(serde_json::Value::is_object), "{}", text);
            let read: Result<Vec<&str>, _> = elements(&text).collect();
            prop_assert_eq!(read.is_ok(), valid.as_ref().is_some_and(serde_json::Value::is_array), "{}", text);
            if let (Ok(read), Some(valid)) = (read, valid.as_ref().and_then(|valid| valid.as_array())) {
                prop_assert_eq!(read.len(), valid.len());
            }
        }

        #[test]
        fn what_serde_writes_is_readable(text in "\\PC{0,60}") {
            prop_assert!(refuse_what_php_cannot_read(&quoted(&text)).is_ok());
            prop_assert_eq!(serde_json::from_str::<String>(&quoted(&text)).unwrap(), text);
        }

        #[test]
        fn any_bytes_are_text_or_a_reason(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = text(&bytes);
        }
    }
}
