//! PHP's values: the ordered arrays that Bitrix24 reads parameters into, and JSON as `json_decode`
//! and `json_encode` (default flags) treat it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Php {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Array(Array),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Int(i64),
    Str(String),
}

impl Key {
    /// `"5"` is the integer key 5 in PHP; `"05"`, `"-0"` and `"5.0"` stay strings.
    pub(crate) fn new(name: &str) -> Key {
        match name.parse::<i64>() {
            Ok(n) if n.to_string() == name => Key::Int(n),
            _ => Key::Str(name.to_owned()),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Int(n) => write!(f, "{n}"),
            Key::Str(s) => f.write_str(s),
        }
    }
}

/// An ordered map. A key that is set again keeps its place and takes the new value.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Array {
    entries: Vec<(Key, Php)>,
    next: i64,
}

impl Array {
    pub(crate) fn new() -> Array {
        Array::default()
    }

    pub(crate) fn push(&mut self, value: Php) {
        self.entries.push((Key::Int(self.next), value));
        self.next += 1;
    }

    pub(crate) fn set(&mut self, key: Key, value: Php) {
        if let Key::Int(n) = key {
            if n == self.next {
                return self.push(value);
            }
            self.next = self.next.max(n.saturating_add(1));
        }
        match self.entries.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) => *old = value,
            None => self.entries.push((key, value)),
        }
    }

    pub(crate) fn put(&mut self, name: &str, value: impl Into<Php>) {
        self.set(Key::new(name), value.into());
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<Php>) -> Array {
        self.put(name, value);
        self
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Php> {
        let key = Key::new(name);
        self.entries.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// The value of the first name that is equal without regard to case.
    pub(crate) fn get_any_case(&self, name: &str) -> Option<&Php> {
        self.entries.iter().find(|(k, _)| k.to_string().eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }

    /// The array at `key`, made (in place of anything else) where there is none.
    pub(crate) fn array_at(&mut self, key: Option<Key>) -> &mut Array {
        let position = match &key {
            Some(key) => self.entries.iter().position(|(k, _)| k == key),
            None => None,
        };
        let position = position.unwrap_or_else(|| {
            match key {
                Some(key) => self.set(key, Php::Null),
                None => self.push(Php::Null),
            }
            self.entries.len() - 1
        });
        let value = &mut self.entries[position].1;
        if !matches!(value, Php::Array(_)) {
            *value = Php::Array(Array::new());
        }
        match value {
            Php::Array(array) => array,
            _ => unreachable!("made an array above"),
        }
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<Php> {
        let key = Key::new(name);
        let position = self.entries.iter().position(|(k, _)| *k == key)?;
        Some(self.entries.remove(position).1)
    }

    /// `array_replace`: the other's entries over these.
    pub(crate) fn replace(&mut self, other: Array) {
        for (key, value) in other.entries {
            self.set(key, value);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(Key, Php)> {
        self.entries.iter()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Php> {
        self.entries.iter().map(|(_, v)| v)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn is_list(&self) -> bool {
        self.entries.iter().enumerate().all(|(i, (key, _))| *key == Key::Int(i as i64))
    }
}

impl FromIterator<Php> for Array {
    fn from_iter<I: IntoIterator<Item = Php>>(values: I) -> Array {
        let mut array = Array::new();
        values.into_iter().for_each(|value| array.push(value));
        array
    }
}

impl From<&str> for Php {
    fn from(s: &str) -> Php {
        Php::Str(s.to_owned())
    }
}
impl From<String> for Php {
    fn from(s: String) -> Php {
        Php::Str(s)
    }
}
impl From<i64> for Php {
    fn from(n: i64) -> Php {
        Php::Int(n)
    }
}
impl From<f64> for Php {
    fn from(n: f64) -> Php {
        Php::Float(n)
    }
}
impl From<bool> for Php {
    fn from(b: bool) -> Php {
        Php::Bool(b)
    }
}
impl From<Array> for Php {
    fn from(a: Array) -> Php {
        Php::Array(a)
    }
}

impl Php {
    /// `json_decode($bytes, true)`; `None` where PHP answers null with an error.
    pub(crate) fn from_json(bytes: &[u8]) -> Option<Php> {
        serde_json::from_slice(bytes).ok()
    }

    pub(crate) fn as_array(&self) -> Option<&Array> {
        match self {
            Php::Array(array) => Some(array),
            _ => None,
        }
    }

    /// A scalar as PHP makes a string of it; null and arrays are empty.
    pub(crate) fn to_text(&self) -> String {
        match self {
            Php::Null | Php::Array(_) | Php::Bool(false) => String::new(),
            Php::Bool(true) => "1".to_owned(),
            Php::Int(n) => n.to_string(),
            Php::Float(n) => float(*n),
            Php::Str(s) => s.clone(),
        }
    }

    pub(crate) fn to_int(&self) -> Option<i64> {
        match self {
            Php::Int(n) => Some(*n),
            Php::Float(n) => Some(*n as i64),
            Php::Str(s) => s.trim().parse().ok(),
            _ => None,
        }
    }

    pub(crate) fn to_float(&self) -> Option<f64> {
        match self {
            Php::Int(n) => Some(*n as f64),
            Php::Float(n) => Some(*n),
            Php::Str(s) => s.trim().parse().ok(),
            _ => None,
        }
    }

    pub(crate) fn is_truthy(&self) -> bool {
        match self {
            Php::Null => false,
            Php::Bool(b) => *b,
            Php::Int(n) => *n != 0,
            Php::Float(n) => *n != 0.0,
            Php::Str(s) => !s.is_empty() && s != "0",
            Php::Array(a) => !a.is_empty(),
        }
    }

    /// `json_encode($value)`: an empty map is `[]`, `/` is `\/`, everything beyond ASCII is `\uXXXX`.
    pub(crate) fn encode(&self) -> String {
        let mut out = String::new();
        self.encode_into(&mut out);
        out
    }

    fn encode_into(&self, out: &mut String) {
        match self {
            Php::Null => out.push_str("null"),
            Php::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Php::Int(n) => out.push_str(&n.to_string()),
            Php::Float(n) => out.push_str(&float(*n)),
            Php::Str(s) => encode_string(s, out),
            Php::Array(array) => {
                let list = array.is_list();
                out.push(if list { '[' } else { '{' });
                for (i, (key, value)) in array.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    if !list {
                        encode_string(&key.to_string(), out);
                        out.push(':');
                    }
                    value.encode_into(out);
                }
                out.push(if list { ']' } else { '}' });
            }
        }
    }

    /// For the ledger. An empty array becomes `[]`, as PHP would write it.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match self {
            Php::Null => serde_json::Value::Null,
            Php::Bool(b) => (*b).into(),
            Php::Int(n) => (*n).into(),
            Php::Float(n) => (*n).into(),
            Php::Str(s) => s.as_str().into(),
            Php::Array(array) if array.is_list() => array.values().map(Php::to_json).collect(),
            Php::Array(array) => {
                serde_json::Value::Object(array.iter().map(|(key, value)| (key.to_string(), value.to_json())).collect())
            }
        }
    }
}

fn encode_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '/' => out.push_str("\\/"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='\u{7f}' => out.push(c),
            _ => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
}

/// A float as `json_encode` writes it with `serialize_precision = -1`.
fn float(n: f64) -> String {
    if n == 0.0 {
        return if n.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    let scientific = format!("{n:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    match exponent.parse::<i32>() {
        Ok(e) if (-4..17).contains(&e) => format!("{n}"),
        Ok(e) => {
            let point = if mantissa.contains('.') { "" } else { ".0" };
            let sign = if e < 0 { '-' } else { '+' };
            format!("{mantissa}{point}e{sign}{}", e.abs())
        }
        Err(_) => scientific,
    }
}

impl<'de> Deserialize<'de> for Php {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Php, D::Error> {
        deserializer.deserialize_any(PhpVisitor)
    }
}

struct PhpVisitor;

impl<'de> Visitor<'de> for PhpVisitor {
    type Value = Php;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Php, E> {
        Ok(Php::Null)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Php, E> {
        Ok(Php::Bool(b))
    }
    fn visit_i64<E>(self, n: i64) -> Result<Php, E> {
        Ok(Php::Int(n))
    }
    fn visit_u64<E>(self, n: u64) -> Result<Php, E> {
        // Beyond 64 bits signed, PHP reads a float.
        Ok(i64::try_from(n).map_or(Php::Float(n as f64), Php::Int))
    }
    fn visit_f64<E>(self, n: f64) -> Result<Php, E> {
        Ok(Php::Float(n))
    }
    fn visit_str<E>(self, s: &str) -> Result<Php, E> {
        Ok(s.into())
    }
    fn visit_string<E>(self, s: String) -> Result<Php, E> {
        Ok(Php::Str(s))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Php, A::Error> {
        let mut array = Array::new();
        while let Some(value) = seq.next_element()? {
            array.push(value);
        }
        Ok(Php::Array(array))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Php, A::Error> {
        let mut array = Array::new();
        while let Some((name, value)) = map.next_entry::<String, Php>()? {
            array.set(Key::new(&name), value);
        }
        Ok(Php::Array(array))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(json: &str) -> String {
        Php::from_json(json.as_bytes()).map_or("INVALID".to_owned(), |v| v.encode())
    }

    #[test]
    fn json_is_written_as_php_writes_it() {
        assert_eq!(again(r#""a/б€😀""#), r#""a\/\u0431\u20ac\ud83d\ude00""#);
        assert_eq!(again(r#"{"z":1,"a":null,"b":1.50}"#), r#"{"z":1,"a":null,"b":1.5}"#);
        assert_eq!(again("{}"), "[]");
        assert_eq!(again(r#"{"0":"a","1":"b"}"#), r#"["a","b"]"#);
        assert_eq!(again(r#"{"1":"a"}"#), r#"{"1":"a"}"#);
        assert_eq!(again("\"a\\u0001\\n\u{7f}\""), "\"a\\u0001\\n\u{7f}\"");
    }

    #[test]
    fn the_last_of_duplicates_wins_in_the_place_of_the_first() {
        assert_eq!(again(r#"{"a":1,"b":2,"a":3}"#), r#"{"a":3,"b":2}"#);
    }

    #[test]
    fn numbers_are_phps() {
        assert_eq!(again("[1.0,1e25,1e-7,0.0001,123456789.125]"), "[1,1.0e+25,1.0e-7,0.0001,123456789.125]");
        assert_eq!(again("[9223372036854775807,9223372036854775808]"), "[9223372036854775807,9.223372036854776e+18]");
    }

    #[test]
    fn what_php_cannot_decode_is_nothing() {
        for bad in ["", "{", "{'a':1}", "[1,]", "\u{feff}{}", r#"{"a":"\ud800"}"#, "nul"] {
            assert_eq!(again(bad), "INVALID", "{bad}");
        }
        assert!(Php::from_json(b"\"\xff\"").is_none());
    }
}
