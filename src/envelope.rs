//! The request of 1C, `{"domain","method","params"}`, and the answer to it.

use crate::error::{Error, Result};
use crate::json;
use crate::method::Method;
use crate::portal::Version;
use crate::relay::Parameters;
use serde_json::value::RawValue;

/// What stands before Bitrix24's answer in the success envelope, and after it.
pub const SUCCESS_HEAD: &[u8] = b"{\"success\":true,\"data\":";
pub const SUCCESS_TAIL: u8 = b'}';

const FIELDS: [&str; 8] = ["domain", "method", "params", "version", "calls", "halt", "all", "cursor"];

pub struct Envelope<'a> {
    /// As the caller wrote it; `None` where it was left out.
    pub domain: Option<String>,
    pub method: Method,
    pub version: Version,
    /// `params` as written.
    pub raw_params: &'a str,
    pub parameters: Parameters<'a>,
}

impl<'a> Envelope<'a> {
    /// Reads a request body. Errors name the field.
    pub fn parse(body: &'a [u8]) -> Result<Envelope<'a>> {
        let invalid = Error::InvalidRequest;
        let text = json::text(body).map_err(invalid)?;
        if text.trim().is_empty() {
            return Err(invalid("the body is empty: send {\"domain\",\"method\",\"params\"} as JSON".into()));
        }
        let fields = json::entries(text)
            .map_err(|error| invalid(format!("the body is not a JSON object: {}", json::describe(&error))))?;
        for (i, (key, _)) in fields.iter().enumerate() {
            if fields[..i].iter().any(|(other, _)| other == key) {
                return Err(invalid(format!("{} is given twice", shown(key))));
            }
            if !FIELDS.contains(&key.as_ref()) {
                let known = FIELDS.join(", ");
                return Err(invalid(format!("{} is not a field of a request; those are {known}", shown(key))));
            }
        }
        let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, raw)| *raw);
        for later in ["calls", "halt", "all", "cursor"] {
            if field(later).is_some() {
                return Err(invalid(format!("{later:?} is not supported by this version of b24proxy")));
            }
        }
        let domain = field("domain").map(|raw| string(raw, "domain")).transpose()?;
        let name = field("method").ok_or_else(|| invalid("\"method\" is missing".into()))?;
        let method = Method::parse(&string(name, "method")?).ok_or_else(|| {
            invalid("\"method\" must be letters, digits, \".\", \"_\" and \"-\", at most 128 characters".into())
        })?;
        if method.wants_xml() {
            return Err(invalid("\"method\" must not end in .xml: the answer is JSON".into()));
        }
        let version = match field("version").map(RawValue::get) {
            None | Some("2") => Version::V2,
            Some("3") => Version::V3,
            Some(_) => return Err(invalid("\"version\" must be 2 or 3".into())),
        };
        let raw_params = field("params").map_or("{}", RawValue::get);
        let parameters = Parameters::from_json(raw_params).map_err(|why| invalid(format!("\"params\" {why}")))?;
        Ok(Envelope { domain, method, version, raw_params, parameters })
    }
}

/// A caller's key in quotes, shortened: it goes into the log, which nobody may flood.
fn shown(key: &str) -> String {
    let start: String = key.chars().take(64).collect();
    let more = if start.len() < key.len() { "…" } else { "" };
    format!("{start:?}{more}")
}

fn string(raw: &RawValue, name: &str) -> Result<String> {
    serde_json::from_str(raw.get()).map_err(|_| Error::InvalidRequest(format!("{name:?} must be a string")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(body: &str) -> String {
        match Envelope::parse(body.as_bytes()) {
            Err(Error::InvalidRequest(why)) => why,
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("accepted: {body}"),
        }
    }

    #[test]
    fn a_request_names_portal_method_and_parameters() {
        let envelope = Envelope::parse("\u{feff}{\"domain\":\"acme\",\"method\":\"profile\"}".as_bytes()).unwrap();
        assert_eq!(envelope.domain.as_deref(), Some("acme"));
        assert_eq!(envelope.version, Version::V2);
        assert_eq!(envelope.raw_params, "{}");
        assert!(Envelope::parse(br#"{"method":"a","version":3}"#).is_ok_and(|e| e.version == Version::V3));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, word) in [
            ("", "empty"),
            ("nonsense", "JSON"),
            ("[\"acme\",\"profile\",{}]", "object"),
            ("{}", "method"),
            (r#"{"method":1}"#, "method"),
            (r#"{"method":"a b"}"#, "method"),
            (r#"{"method":"a","params":null}"#, "params"),
            (r#"{"method":"a","params":"x"}"#, "params"),
            (r#"{"method":"a","params":{"auth":"x"}}"#, "auth"),
            (r#"{"method":"a","domain":5}"#, "domain"),
            (r#"{"method":"a","version":4}"#, "version"),
            (r#"{"method":"a","method":"b"}"#, "twice"),
            (r#"{"method":"a","\u006dethod":"b"}"#, "twice"),
            (r#"{"method":"a","parms":{}}"#, "parms"),
            (r#"{"method":"a"} x"#, "JSON"),
            (r#"{"method":"a.xml"}"#, "xml"),
        ] {
            assert!(refused(body).contains(word), "{body}: {}", refused(body));
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Envelope::parse(&body);
        }
    }
}
