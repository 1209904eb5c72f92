//! `auth_connector`: the name by which an application knows its own changes. Bitrix24 leaves changes that come with it out of
//! the offline events that are registered with the same name.

use super::method::Method;
use super::portal::Version;
use super::{json, percent};
use crate::system::log::is_control;

pub const NAME: &str = "auth_connector";
const LONGEST: usize = 100;

/// Whether it can be one.
pub fn check(connector: &str) -> Result<(), String> {
    let printable = !connector.chars().any(is_control);
    match printable && (1..=LONGEST).contains(&connector.chars().count()) {
        true => Ok(()),
        false => Err(format!("must be a name of 1 to {LONGEST} printable characters, such as \"1c\"")),
    }
}

/// What a call's own parameters say, as it is written there.
pub fn own(raw_params: &str) -> Option<&str> {
    raw_params.trim_start().starts_with('{').then(|| json::field(raw_params, NAME)).flatten()
}

/// The query of a request with this connector; empty without one.
pub fn query(connector: Option<&str>) -> String {
    match connector {
        None | Some("") => String::new(),
        Some(connector) => format!("{NAME}={}", percent::encoded(connector.as_bytes(), percent::UNRESERVED)),
    }
}

/// The connector of requests that carry a call beside others or in pages: its own, or else the one that is given. `None`: its
/// own is none that a query can carry.
pub fn carried(own: Option<&str>, given: Option<&str>) -> Option<Option<String>> {
    match own {
        None => Some(given.map(str::to_owned)),
        Some(raw) => {
            let name = serde_json::from_str::<String>(raw).ok();
            name.filter(|name| name.is_empty() || check(name).is_ok()).map(Some)
        }
    }
}

/// The query of a call. `own`: what its parameters say, which counts first; `rebuilt`: it is not sent on with them. `given`:
/// whose calls they are. A batch of REST 3.0 is refused for whatever stands beside its commands.
pub fn of_call(version: Version, method: &Method, own: Option<&str>, rebuilt: bool, given: Option<&str>) -> String {
    match own {
        _ if version == Version::V3 && method.is_batch() => String::new(),
        None => query(given),
        Some(own) if rebuilt => query(Some(own)),
        Some(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connector_is_a_short_printable_name() {
        for good in ["1c", "обмен №1", &"x".repeat(100), "a&b=c d"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "a\nb", "a\u{202e}b", "\u{1b}[31m", &"x".repeat(101)] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn it_stands_in_a_query_as_php_reads_it_back() {
        assert_eq!(query(None), "");
        assert_eq!(query(Some("1c")), "auth_connector=1c");
        assert_eq!(query(Some("a&b=c +%\u{2116}")), "auth_connector=a%26b%3Dc%20%2B%25%E2%84%96");
    }

    #[test]
    fn only_a_name_is_carried_for_a_call() {
        assert_eq!(carried(None, Some("1c")), Some(Some("1c".into())));
        assert_eq!(carried(None, None), Some(None));
        assert_eq!(carried(Some("\"own\""), Some("1c")), Some(Some("own".into())));
        assert_eq!(carried(Some("\"\""), Some("1c")), Some(Some(String::new())));
        for odd in ["7", "null", "{}", "\"a\\nb\"", &format!("{:?}", "x".repeat(101))] {
            assert_eq!(carried(Some(odd), Some("1c")), None, "{odd}");
        }
    }

    #[test]
    fn a_calls_own_is_found_at_the_top_alone() {
        assert_eq!(own(r#"{"a":{"auth_connector":"x"}}"#), None);
        assert_eq!(own(r#" {"a":1,"\u0061uth_connector":"x"}"#), Some("\"x\""));
        assert_eq!(own(r#"["auth_connector"]"#), None);
    }
}
