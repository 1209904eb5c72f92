//! What to write instead, where `proxy.toml` cannot be read.

use crate::values::spelling::{near, nearest};

/// Characters of a client's token.
pub const SHORTEST_TOKEN: usize = 20;

const PORTAL: &str = "[portals.\"acme.bitrix24.ru\"]";
const CLIENTS: &str = "[[security.clients]]";

/// A right line for each key, and the section that it stands in.
const LINES: [(&str, &str); 44] = [
    ("[bitrix24]", "client_id = \"local.6667fc928a50a9.70414732\""),
    ("[bitrix24]", "client_secret = \"…\""),
    ("[bitrix24]", "redirect_uri = \"https://www.example.com/cgi-bin/b24proxy\""),
    ("[bitrix24]", "scope = \"crm,catalog\""),
    ("[bitrix24]", "oauth_server = \"https://oauth.bitrix24.tech\""),
    ("[bitrix24]", "proxy = \"http://proxy.lan:3128\""),
    ("[bitrix24]", "connect_timeout = 10"),
    ("[bitrix24]", "timeout = 55"),
    ("[bitrix24]", "ca_file = \"/etc/ssl/my-ca.pem\""),
    ("[bitrix24]", "allow_http = false"),
    (PORTAL, "client_id = \"local.6667fc928a50a9.70414732\""),
    (PORTAL, "client_secret = \"…\""),
    (PORTAL, "aliases = [\"acme\"]"),
    (PORTAL, "webhook = \"https://acme.bitrix24.ru/rest/1/…/\""),
    (PORTAL, "oauth_server = \"https://oauth.bitrix24.tech\""),
    (PORTAL, "requests_per_second = 2"),
    (PORTAL, "burst = 50"),
    ("[security]", "auth_token = \"…\""),
    ("[security]", "allowed_ips = [\"192.0.2.10\", \"10.0.0.0/8\"]"),
    ("[security]", "trusted_proxies = [\"127.0.0.1\"]"),
    ("[security]", "cors_origins = [\"https://shop.example.com\"]"),
    (CLIENTS, "name = \"1c-trade\""),
    (CLIENTS, "token = \"…\""),
    (CLIENTS, "token_sha256 = \"…\""),
    (CLIENTS, "portals = [\"acme.bitrix24.ru\"]"),
    (CLIENTS, "methods = [\"crm.*\", \"batch\"]"),
    (CLIENTS, "ips = [\"192.0.2.0/24\"]"),
    (CLIENTS, "events = [\"ONCRM*\"]"),
    (CLIENTS, "auth_connector = \"1c\""),
    ("[storage]", "type = \"file\""),
    ("[storage]", "path = \"tokens\""),
    ("[storage]", "url = \"postgres://…\""),
    ("[limits]", "max_body = \"16 MiB\""),
    ("[limits]", "max_response = \"64 MiB\""),
    ("[limits]", "max_file = \"2 GiB\""),
    ("[limits]", "max_wait = 20"),
    ("[events]", "keep = \"7 days\""),
    ("[events]", "max = 100000"),
    ("[events]", "max_size = \"64 MiB\""),
    ("[fastcgi]", "workers = 8"),
    ("[fastcgi]", "reuse = \"always\""),
    ("[log]", "file = \"b24proxy.log\""),
    ("[log]", "level = \"info\""),
    ("[security]", "clients = []"),
];

/// What is wrong with the text, where, and what to write; none of the file's values.
pub fn advice(text: &str, error: &toml::de::Error) -> String {
    match error.span() {
        Some(span) => Spot::of(text, span.start).explain(error.message()),
        None => without_values(error.message()).to_owned(),
    }
}

/// Where in the text something is wrong.
struct Spot<'t> {
    /// From 1.
    number: usize,
    /// A header, such as `[security]`, or the line of a key and its value.
    line: &'t str,
    /// As in [`LINES`]; empty above the first header.
    section: &'static str,
    /// As it stands in the text.
    header: &'t str,
}

impl<'t> Spot<'t> {
    fn of(text: &'t str, at: usize) -> Spot<'t> {
        let at = at.min(text.len());
        let end = text[at..].find('\n').map_or(text.len(), |length| at + length);
        // A list may go over several lines, and begins in one with "=".
        let mut back = text[..end].lines().rev().map(str::trim);
        let line = back.find(|line| line.starts_with('[') || line.contains('=')).unwrap_or("");
        let header = std::iter::once(line).chain(back).find(|line| line.starts_with('[')).unwrap_or("");
        let section = match header.trim_start_matches('[') {
            name if name.starts_with("portals") => PORTAL,
            name if name.starts_with("security.clients") => CLIENTS,
            name => {
                let name = name.split(']').next().unwrap_or("").trim();
                let known = LINES.iter().map(|(section, _)| *section);
                known.into_iter().find(|section| section.trim_matches(['[', ']']) == name).unwrap_or("")
            }
        };
        Spot { number: text[..at].matches('\n').count() + 1, line, section, header }
    }

    fn explain(&self, message: &str) -> String {
        format!("line {}: {}", self.number, self.advice(message))
    }

    fn advice(&self, message: &str) -> String {
        let is_header = self.line.starts_with('[');
        if let Some((unknown, known)) = unknown_key(message) {
            return match self.unquoted_portal() {
                // The one table whose name is not enough.
                None if unknown == "clients" => format!("write the line so: {CLIENTS}"),
                Some(name) => format!("a portal's name stands in quotes: [portals.\"{name}\"]"),
                None => unknown_key_advice(unknown, &known),
            };
        }
        if let Some(line) =
            message.strip_prefix("missing field `").and_then(|rest| self.right_line(rest.split('`').next()?))
        {
            return format!("{} lacks a line: {line}", self.section);
        }
        let key = self.line.split('=').next().unwrap_or("").trim();
        match (message, is_header) {
            ("duplicate key", true) => {
                let header = self.line.split('#').next().unwrap_or("").trim();
                format!("{} is there twice: put its lines under the first", shown(header))
            }
            ("duplicate key", false) => format!("{} is there twice: delete one of the two lines", shown(key)),
            (_, true) if message.starts_with("invalid type") && !self.section.is_empty() => {
                format!("write the line so: {}", self.section)
            }
            _ => match self.right_line(key) {
                Some(line) => format!("{} {key}: {}; write it so: {line}", self.place(), without_values(message)),
                None => without_values(message).to_owned(),
            },
        }
    }

    /// The section, of a portal its own.
    fn place(&self) -> String {
        match self.section {
            PORTAL => shown(self.header.split('#').next().unwrap_or("").trim()),
            section => section.to_owned(),
        }
    }

    /// The name in `[portals.acme.bitrix24.ru]`, which TOML reads as three names.
    fn unquoted_portal(&self) -> Option<String> {
        let name = self.line.strip_prefix("[portals.")?.split(']').next()?;
        (!name.contains(['"', '\''])).then(|| shown(name))
    }

    fn right_line(&self, key: &str) -> Option<&'static str> {
        LINES.iter().find(|(section, line)| *section == self.section && key_of(line) == key).map(|(_, line)| *line)
    }
}

fn key_of(line: &str) -> &str {
    line.split(" =").next().unwrap_or("")
}

/// serde says "unknown field `a`, expected one of `b`, `c`": the unknown key, and the known ones.
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let mut names = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    Some((names.next()?, names.collect()))
}

/// A key of another section is in the wrong place, because a header is missing; another one is misspelt.
fn unknown_key_advice(unknown: &str, known: &[&str]) -> String {
    if let Some((section, _)) = LINES.iter().find(|(_, line)| key_of(line) == unknown) {
        return format!("\"{unknown}\" belongs under {section}");
    }
    let key = shown(unknown);
    match near(unknown, known) {
        Some(near) => format!("unknown key \"{key}\"; did you mean \"{near}\"?"),
        None => format!("unknown key \"{key}\"; the nearest known one is \"{}\"", nearest(unknown, known)),
    }
}

/// serde quotes a value of the wrong type (string "…", integer `…`), which may be a secret.
fn without_values(message: &str) -> &str {
    let end = message.find(['"', '`']).unwrap_or(message.len());
    message[..end].trim_end_matches([' ', ',']).trim_end_matches(", expected")
}

/// A name or address of the file as messages may show it: a webhook's secret stands behind the host, a password before it, and
/// a token may have been written in a name's place.
pub fn shown(text: &str) -> String {
    if text.len() >= SHORTEST_TOKEN && text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return format!("{}…", &text[..4]);
    }
    if text.contains('@') {
        return "…".into();
    }
    let host = text.find("://").map_or(0, |at| at + 3);
    match text[host..].find(['/', '?', '#']).map(|at| host + at + 1) {
        Some(end) if end < text.len() => format!("{}…", &text[..end]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::{parse, File};
    use super::*;

    #[track_caller]
    fn refused(text: &str) -> String {
        parse(text).err().expect("refused").join("\n")
    }

    #[test]
    fn a_key_of_another_section_is_said_to_belong_there() {
        assert_eq!(refused("auth_token = \"x\""), "line 1: \"auth_token\" belongs under [security]");
        assert_eq!(refused("client_id = \"x\""), "line 1: \"client_id\" belongs under [bitrix24]");
        assert_eq!(refused("[limits]\ntimeout = 5"), "line 2: \"timeout\" belongs under [bitrix24]");
        assert_eq!(refused("[security]\ntoken = \"x\""), "line 2: \"token\" belongs under [[security.clients]]");
        for header in ["[clients]", "[[clients]]"] {
            assert_eq!(refused(&format!("[security]\n{header}\n")), "line 2: write the line so: [[security.clients]]");
        }
    }

    #[test]
    fn an_unknown_key_is_taken_for_a_known_one_only_where_it_is_like_it() {
        assert!(refused("[log]\nlevl = 1").ends_with("did you mean \"level\"?"));
        assert!(refused("[log]\ncolour = 1").contains("the nearest known one is \""));
    }

    #[test]
    fn a_portal_without_quotes_is_shown_with_them() {
        for lines in ["", "burst = 1\n"] {
            let why = refused(&format!("[portals.acme.bitrix24.ru]\n{lines}"));
            assert_eq!(why, "line 1: a portal's name stands in quotes: [portals.\"acme.bitrix24.ru\"]");
        }
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named_by_its_key_with_a_right_line() {
        for (text, expected) in [
            (
                "[bitrix24]\nscope = [\"crm\"]",
                "[bitrix24] scope: invalid type: sequence, expected a string; write it so: scope = \"crm,catalog\"",
            ),
            ("[bitrix24]\nscope = [\n\"crm\",\n]", "write it so: scope = \"crm,catalog\""),
            (
                "[portals.\"a.b\"]\naliases = [\n\"x\",\n5\n]",
                "[portals.\"a.b\"] aliases: invalid type: integer; write it so: aliases = [\"acme\"]",
            ),
            (
                "[limits]\nmax_body = \"16 Mib b\"",
                "[limits] max_body: this is not a size; write it so: max_body = \"16 MiB\"",
            ),
            ("[limits]\nmax_wait = -5", "[limits] max_wait: invalid value: integer; write it so: max_wait = 20"),
            (
                "[bitrix24]\nallow_http = yes",
                "string values must be quoted, expected literal string; write it so: allow_http = false",
            ),
            ("[security.clients]\nname = \"x\"", "write the line so: [[security.clients]]"),
            ("[[portals.\"a.b\"]]\nburst = 1", "write the line so: [portals.\"acme.bitrix24.ru\"]"),
            ("[[security]]\n", "write the line so: [security]"),
            ("[[security.clients]]\ntoken = \"x\"", "[[security.clients]] lacks a line: name = \"1c-trade\""),
            ("[security]\n[log]\n[security] # again", "[security] is there twice: put its lines under the first"),
            ("[log]\nfile = \"a\"\nfile = \"b\"", "file is there twice: delete one of the two lines"),
        ] {
            let why = refused(text);
            assert!(why.starts_with("line ") && why.ends_with(expected), "{why}");
        }
    }

    #[test]
    fn the_right_lines_are_right_and_there_is_one_for_each_known_key() {
        for (section, line) in LINES {
            let name = if section == CLIENTS && key_of(line) != "name" { "name = \"x\"\n" } else { "" };
            assert!(parse(&format!("{section}\n{name}{line}")).is_ok(), "{section} {line}");
            let why = toml::from_str::<File>(&format!("{section}\n{name}unknown = 1")).err().unwrap();
            for key in unknown_key(why.message()).unwrap().1 {
                assert!(LINES.iter().any(|(of, line)| *of == section && key_of(line) == key), "{section} {key}");
            }
        }
    }

    #[test]
    fn no_message_shows_a_value() {
        for text in [
            "[security]\nauth_token = 12345678901234567890123456",
            "[security]\nauth_token = 1234567890123456",
            "[security]\nauth_token = [\"1234567890\"]",
            "[security]\nauth_token = \"1234567890",
            "[security]\ncors_origins = \"1234567890\"",
            "[log]\nlevel = \"1234567890\"",
            "[portals.\"https://a.b/rest/1/1234567890/\"]\n[portals.\"https://a.b/rest/1/1234567890/\"]",
            "[portals]\n\"https://a.b/rest/1/1234567890/\" = 5",
            "[bitrix24]\n\"https://a.b/rest/1/1234567890/\" = 5",
        ] {
            assert!(!refused(text).contains("1234567890"), "{}", refused(text));
        }
        assert_eq!(shown("https://acme.bitrix24.ru/rest/1/s3cr3t/"), "https://acme.bitrix24.ru/…");
        assert_eq!(shown("acme.bitrix24.ru/rest/1/s3cr3t/"), "acme.bitrix24.ru/…");
        assert_eq!(shown("postgres://user:s3cr3t@host/db"), "…");
        for text in ["https://acme.bitrix24.ru/", "acme", "192.0.2.1"] {
            assert_eq!(shown(text), text);
        }
    }
}
