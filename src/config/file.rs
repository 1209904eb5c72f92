//! The shape of `proxy.toml`, with its defaults.

use super::advice::advice;
use crate::system::log::Level;
use crate::values::secret::Secret;
use serde::{de, Deserialize, Deserializer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub struct File {
    pub bitrix24: Bitrix24,
    pub portals: BTreeMap<String, Portal>,
    pub storage: Storage,
    pub security: Security,
    pub limits: Limits,
    pub events: Events,
    pub fastcgi: FastCgi,
    pub log: Log,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bitrix24 {
    pub client_id: Option<String>,
    pub client_secret: Option<Secret>,
    pub redirect_uri: Option<String>,
    pub scope: String,
    pub oauth_server: Option<String>,
    /// A password stands in it.
    pub proxy: Option<Secret>,
    pub connect_timeout: u64,
    pub timeout: u64,
    pub ca_file: Option<PathBuf>,
    pub allow_http: bool,
}

impl Default for Bitrix24 {
    fn default() -> Self {
        Bitrix24 {
            client_id: None,
            client_secret: None,
            redirect_uri: None,
            scope: String::new(),
            oauth_server: None,
            proxy: None,
            connect_timeout: 10,
            timeout: 55,
            ca_file: None,
            allow_http: false,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Portal {
    pub client_id: Option<String>,
    pub client_secret: Option<Secret>,
    pub aliases: Vec<String>,
    pub webhook: Option<Secret>,
    pub oauth_server: Option<String>,
    pub requests_per_second: f64,
    pub burst: f64,
}

impl Default for Portal {
    fn default() -> Self {
        Portal {
            client_id: None,
            client_secret: None,
            aliases: Vec::new(),
            webhook: None,
            oauth_server: None,
            requests_per_second: 2.0,
            burst: 50.0,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    #[serde(rename = "type")]
    pub kind: String,
    pub path: PathBuf,
    /// Of a database; a password stands in it.
    pub url: Option<Secret>,
}

impl Default for Storage {
    fn default() -> Self {
        Storage { kind: "file".into(), path: "tokens".into(), url: None }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Security {
    pub auth_token: Option<Secret>,
    pub allowed_ips: Option<Vec<String>>,
    pub trusted_proxies: Vec<String>,
    pub cors_origins: Vec<String>,
    pub clients: Vec<Client>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    pub name: String,
    pub token: Option<Secret>,
    pub token_sha256: Option<String>,
    pub portals: Option<Vec<String>>,
    pub methods: Option<Vec<String>>,
    pub ips: Option<Vec<String>>,
    pub events: Option<Vec<String>>,
    pub auth_connector: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub max_body: Size,
    pub max_response: Size,
    pub max_file: Size,
    pub max_wait: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_body: Size(16 << 20), max_response: Size(64 << 20), max_file: Size(2 << 30), max_wait: 20 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    pub keep: Span,
    pub max: u64,
    pub max_size: Size,
}

impl Default for Events {
    fn default() -> Self {
        Events { keep: Span(7 * DAY), max: 100_000, max_size: Size(64 << 20) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub file: String,
    pub level: Level,
}

impl Default for Log {
    fn default() -> Self {
        Log { file: String::new(), level: Level::Info }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FastCgi {
    pub workers: u64,
    pub reuse: Reuse,
}

impl Default for FastCgi {
    fn default() -> Self {
        FastCgi { workers: 8, reuse: Reuse::Always }
    }
}

/// For which calls a connection that is kept since another one is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reuse {
    Always,
    /// Those that only read.
    Reads,
    Never,
}

/// Bytes, written as a number or as `"16 MiB"`.
pub struct Size(pub u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Bytes(u64),
            Text(String),
        }
        let bytes = match Written::deserialize(deserializer)? {
            Written::Bytes(bytes) => Some(bytes),
            Written::Text(text) => size(&text),
        };
        bytes
            .filter(|bytes| (1..=1 << 40).contains(bytes))
            .map(Size)
            .ok_or_else(|| de::Error::custom("this is not a size"))
    }
}

fn size(text: &str) -> Option<u64> {
    quantity(text, |unit| {
        Some(match unit {
            "" | "b" => 1,
            "k" | "kb" | "kib" => 1 << 10,
            "m" | "mb" | "mib" => 1 << 20,
            "g" | "gb" | "gib" => 1 << 30,
            _ => return None,
        })
    })
}

/// A whole number and its unit, in any case of letters.
fn quantity(text: &str, unit: fn(&str) -> Option<u64>) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    number.checked_mul(unit(text[digits..].trim().to_ascii_lowercase().as_str())?)
}

const DAY: u64 = 86_400;

/// Seconds, written as `"7 days"`.
pub struct Span(pub u64);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = String::deserialize(deserializer)?;
        span(&written)
            .filter(|seconds| (60..=3650 * DAY).contains(seconds))
            .map(Span)
            .ok_or_else(|| de::Error::custom("this is not a time from a minute to ten years, with its unit"))
    }
}

fn span(text: &str) -> Option<u64> {
    quantity(text, |unit| {
        Some(match unit {
            "minutes" | "minute" | "min" => 60,
            "hours" | "hour" | "h" => 3600,
            "days" | "day" | "d" => DAY,
            "weeks" | "week" | "w" => 7 * DAY,
            _ => return None,
        })
    })
}

/// Errors told at once.
const MOST_ERRORS: usize = 20;

/// Reads the text. The errors name the line and what to write, and show none of the file's values.
pub fn parse(text: &str) -> Result<File, Vec<String>> {
    // Windows editors write a byte-order mark.
    let mut text = Cow::from(text.strip_prefix('\u{feff}').unwrap_or(text));
    let mut wrong = Vec::new();
    loop {
        let error = match toml::from_str(&text) {
            Ok(file) if wrong.is_empty() => return Ok(file),
            Ok(_) => return Err(wrong),
            Err(error) => error,
        };
        // What is missing because its line was left out here is not missing.
        if wrong.is_empty() || !error.message().starts_with("missing field") {
            wrong.push(advice(&text, &error));
        }
        match without_the_line(&text, &error).filter(|_| wrong.len() < MOST_ERRORS) {
            Some(rest) => text = rest.into(),
            None => return Err(wrong),
        }
    }
}

/// The text with blanks in the place of the one line that is wrong, for what else is; `None` where more than a line is.
fn without_the_line(text: &str, error: &toml::de::Error) -> Option<String> {
    let at = error.span()?.start;
    let start = text.get(..at)?.rfind('\n').map_or(0, |at| at + 1);
    let end = text[start..].find('\n').map_or(text.len(), |length| start + length);
    let line = text[start..end].trim_start();
    let rest = [&text[..start], &" ".repeat(end - start), &text[end..]].concat();
    let is_one = line.contains('=') && !line.starts_with('[');
    (is_one && toml::from_str::<toml::Table>(&rest).is_ok()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_written_with_units() {
        assert_eq!(size("16 MiB"), Some(16 << 20));
        assert_eq!(size("512kb"), Some(512 << 10));
        assert_eq!(size("10"), Some(10));
        assert_eq!(size("ten"), None);
        assert_eq!(size("99999999999999999999 GiB"), None);
    }

    #[test]
    fn times_are_written_with_units() {
        assert_eq!(span("7 days"), Some(7 * DAY));
        assert_eq!(span("1day"), Some(DAY));
        assert_eq!(span("12 Hours"), Some(12 * 3600));
        for wrong in ["7", "days", "7 d ays", "-1 days", "1.5 days", "99999999999999999999 days"] {
            assert_eq!(span(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_the_parser(text in "\\PC{0,200}") {
            let _ = parse(&text);
        }
    }
}
