//! What `proxy.toml.example` and README.md show in the place of one's own values. Whoever leaves it has not finished.

use super::advice::shown;
use crate::values::portal::split_address;
use toml::{Table, Value};

/// In whatever is to be replaced.
const MARK: char = '…';
/// Of the example of this version, and of version 0.1's.
const CLIENT_IDS: [&str; 2] = ["local.6667fc928a50a9.70414732", "local.xxxxxxxxxxxxxx.xxxxxxxx"];
/// Nobody's (RFC 2606), with all hosts below them.
const DOMAINS: [&str; 3] = ["example.com", "example.org", "example.net"];

/// A value that was left as it is shown.
#[derive(Debug, PartialEq, Eq)]
pub struct Sample {
    /// `[bitrix24] client_secret`; all that is wrong with the value itself begins so, too.
    pub place: String,
    pub text: String,
}

/// All that are left in the text of a `proxy.toml`; none where it is not TOML.
pub fn left_in(text: &str) -> Vec<Sample> {
    // Most texts hold none, and are read once.
    if !text.lines().any(may_hold_one) {
        return Vec::new();
    }
    let table: Table = toml::from_str(text.strip_prefix('\u{feff}').unwrap_or(text)).unwrap_or_default();
    let mut left = Vec::new();
    for (section, value) in &table {
        match (section.as_str(), value) {
            ("portals", Value::Table(portals)) => {
                portals.iter().for_each(|(name, keys)| of_portal(name, keys, &mut left))
            }
            ("security", Value::Table(keys)) => of_security(keys, &mut left),
            (_, keys) => of_section(&format!("[{section}]"), keys, &mut left),
        }
    }
    left
}

fn may_hold_one(line: &str) -> bool {
    let names_nobody = || {
        let line = line.to_ascii_lowercase();
        DOMAINS.iter().any(|domain| line.contains(domain))
    };
    !line.trim_start().starts_with('#')
        && (line.contains(MARK)
            || CLIENT_IDS.iter().any(|id| line.contains(id))
            || (line.contains("redirect_uri") && names_nobody()))
}

fn of_portal(name: &str, keys: &Value, left: &mut Vec<Sample>) {
    let place = format!("[portals.\"{}\"]", shown(name));
    if name.contains(MARK) {
        let text = format!("{place} is still the sample from proxy.toml.example: put your own portal's host there");
        left.push(Sample { place: format!("{place} must be named"), text });
    }
    of_section(&place, keys, left);
}

fn of_security(keys: &Table, left: &mut Vec<Sample>) {
    for (key, value) in keys {
        match (key.as_str(), value) {
            ("clients", Value::Array(clients)) => {
                for client in clients {
                    let name = client.get("name").and_then(Value::as_str).unwrap_or("");
                    of_section(&format!("[[security.clients]] {:?}", shown(name)), client, left);
                }
            }
            _ => of_key("[security]", key, value, left),
        }
    }
}

fn of_section(place: &str, keys: &Value, left: &mut Vec<Sample>) {
    keys.as_table().into_iter().flatten().for_each(|(key, value)| of_key(place, key, value, left));
}

fn of_key(section: &str, key: &str, value: &Value, left: &mut Vec<Sample>) {
    if holds_one(key, value) {
        let place = format!("{section} {key}");
        let text = format!("{place} is still the sample from proxy.toml.example: put {} there", own(key));
        left.push(Sample { place, text });
    }
}

fn holds_one(key: &str, value: &Value) -> bool {
    match value {
        Value::String(text) => {
            text.contains(MARK)
                || (key == "client_id" && CLIENT_IDS.contains(&text.as_str()))
                || (key == "redirect_uri" && is_nobodys(text))
        }
        Value::Array(values) => values.iter().any(|value| holds_one(key, value)),
        _ => false,
    }
}

/// Whether an address leads to a host that documents alone may name.
fn is_nobodys(address: &str) -> bool {
    let Some((_, name, _)) = split_address(address) else { return false };
    let host = name.as_str().split(':').next().unwrap_or("");
    DOMAINS.iter().any(|domain| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// What belongs there.
fn own(key: &str) -> &'static str {
    match key {
        "client_id" | "client_secret" => "what Bitrix24 shows in your application's settings",
        "redirect_uri" => "this program's own public address",
        "auth_token" | "token" => "what \"b24proxy token\" prints",
        "webhook" => "your portal's incoming webhook",
        _ => "your own value",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Vec<String> {
        left_in(text).into_iter().map(|sample| sample.place).collect()
    }

    #[test]
    fn whatever_holds_an_ellipsis_is_a_sample_and_comments_are_not() {
        for (text, place) in [
            ("[bitrix24]\nclient_secret = \"…\"", "[bitrix24] client_secret"),
            ("[bitrix24]\nclient_id = \"local.…\"", "[bitrix24] client_id"),
            ("[bitrix24]\nproxy = \"http://u:…@proxy.lan\"", "[bitrix24] proxy"),
            ("[portals.\"a.b\"]\nwebhook = \"https://a.b/rest/1/…/\"", "[portals.\"a.b\"] webhook"),
            ("[portals.\"a.b\"]\naliases = [\"x\", \"…\"]", "[portals.\"a.b\"] aliases"),
            ("[portals.\"….bitrix24.ru\"]", "[portals.\"….bitrix24.ru\"] must be named"),
            ("[storage]\nurl = \"postgres://b24proxy:…@db.lan/b24proxy\"", "[storage] url"),
            ("[security]\nauth_token = \"…\"", "[security] auth_token"),
            ("[[security.clients]]\nname = \"1c\"\ntoken = \"…\"", "[[security.clients]] \"1c\" token"),
            ("\u{feff}[log]\nfile = '…'", "[log] file"),
        ] {
            assert_eq!(places(text), [place], "{text}");
        }
        assert_eq!(places("# …\n[log]\nlevel = \"info\"  # or …\n  # client_id = \"local.…\""), [""; 0]);
        assert_eq!(places("[log]\nfile = …"), [""; 0], "no TOML");
    }

    #[test]
    fn the_examples_own_id_and_an_address_of_nobody_are_samples() {
        for id in CLIENT_IDS {
            let text = format!("client_id = \"{id}\"");
            assert_eq!(places(&format!("[bitrix24]\n{text}")), ["[bitrix24] client_id"]);
            assert_eq!(places(&format!("[portals.\"a.b\"]\n{text}")), ["[portals.\"a.b\"] client_id"]);
        }
        let redirect = |address: &str| places(&format!("[bitrix24]\nredirect_uri = \"{address}\""));
        for address in [
            "https://www.example.com/cgi-bin/b24proxy",
            "https://example.org",
            "http://EXAMPLE.net:8443/b24proxy/",
            "https://a.b.example.com/",
        ] {
            assert_eq!(redirect(address), ["[bitrix24] redirect_uri"], "{address}");
        }
        for address in
            ["https://myexample.com/b", "https://example.com.acme.test/b", "https://b24.example/b", "example.com", "…x"]
        {
            assert_eq!(redirect(address).is_empty(), address != "…x", "{address}");
        }
        assert_eq!(
            places("[portals.\"crm.example.org:8443\"]\n[security]\ncors_origins = [\"https://a.example.com\"]"),
            [""; 0]
        );
    }

    #[test]
    fn all_are_told_at_once() {
        let text = "[bitrix24]\nclient_id = \"local.…\"\nclient_secret = \"…\"\nredirect_uri = \"https://www.example.com/b\"\n\
                    [portals.\"….bitrix24.ru\"]\n[security]\nauth_token = \"…\"\n[[security.clients]]\nname = \"x\"\n\
                    token = \"…\"";
        assert_eq!(left_in(text).len(), 6, "{:?}", left_in(text));
        assert!(left_in(text).iter().all(|sample| sample.text.contains("is still the sample")));
    }
}
