//! What a call carries: the caller's parameters, byte for byte; where the `Authorization` header is swallowed on the way, our
//! authorization too.

use crate::values::json::{self, SPACE};
use crate::values::method::Method;
use crate::values::multipart::Multipart;
use crate::values::parts::Part;
use crate::values::portal::Version;
use std::borrow::Cow;

/// The body of a call, without the authorization, which is added last.
#[derive(Clone, Debug)]
pub enum Payload<'a> {
    Json(Parameters<'a>),
    /// A bare list: REST 3.0's batch. It has no place for an authorization.
    List(Cow<'a, str>),
    /// `application/x-www-form-urlencoded`
    Form(Vec<u8>),
    Multipart(Multipart<'a>),
}

impl<'a> Payload<'a> {
    /// A call's parameters as a client of the envelope writes them: an object, or a list.
    pub fn of_call(version: Version, method: &Method, raw: &'a str) -> std::result::Result<Payload<'a>, String> {
        if version == Version::V3 && method.is_batch() {
            if let Some(list) = Parameters::list(raw) {
                return Ok(Payload::List(list?.into()));
            }
        }
        Parameters::from_json(raw).map(Payload::Json)
    }

    /// Whether the token can go in the body.
    pub fn has_place_for_auth(&self) -> bool {
        !matches!(self, Payload::List(_))
    }

    /// Content type, and the parts of the body one after another. `access_token`: where it must go in the body. PHP keeps the
    /// last of a name in a form, so that ours counts; in JSON there is no other.
    pub fn with_auth(&self, access_token: Option<&str>) -> (Cow<'static, str>, Vec<Part<'_>>) {
        match self {
            Payload::Json(parameters) => ("application/json".into(), parameters.with_auth(access_token)),
            Payload::List(list) => ("application/json".into(), vec![list.as_bytes().into()]),
            Payload::Form(fields) => {
                let ampersand = if fields.is_empty() || fields.ends_with(b"&") { "" } else { "&" };
                let auth = access_token.map(|token| {
                    let pair = serde_urlencoded::to_string([("auth", token)]).expect("a pair of texts serializes");
                    format!("{ampersand}{pair}").into_bytes()
                });
                let parts = std::iter::once(fields.as_slice().into()).chain(auth.map(Part::from));
                ("application/x-www-form-urlencoded".into(), parts.collect())
            }
            Payload::Multipart(form) => {
                (form.content_type().into(), form.written_with(access_token.map(|token| ("auth", token))))
            }
        }
    }
}

/// A call's parameters, as the caller wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameters<'a> {
    /// The inside of a JSON object.
    Inside(Cow<'a, str>),
    /// A list, for positional methods: it is sent as `{"0":…,"1":…}`.
    List(&'a str),
}

impl<'a> Parameters<'a> {
    /// The list of a REST 3.0 batch, as it stands; `None`: it is no list.
    pub fn list(raw: &str) -> Option<std::result::Result<&str, String>> {
        let list = raw.trim_matches(SPACE);
        list.starts_with('[').then(|| {
            json::refuse_what_php_cannot_read(list)?;
            refuse_what_is_no_list(list).map_err(|error| format!("is not JSON: {}", json::describe(&error)))?;
            Ok(list)
        })
    }

    /// From `params`. An object is kept byte for byte; an array, for positional methods, becomes `{"0":…,"1":…}`.
    pub fn from_json(raw: &'a str) -> std::result::Result<Parameters<'a>, String> {
        let own = |key: &str| Err(format!("must not contain {key:?}: the proxy adds the authorization itself"));
        Self::read(raw, own)
    }

    /// From the body of a webhook call: the caller's own authorization is dropped.
    pub fn of_webhook(raw: &'a str) -> std::result::Result<Parameters<'a>, String> {
        Self::read(raw, |_| Ok(()))
    }

    /// `on_authorization` decides what a top-level `auth` or `access_token` means: an error, or to be left out.
    fn read(
        raw: &'a str,
        on_authorization: impl Fn(&str) -> std::result::Result<(), String>,
    ) -> std::result::Result<Parameters<'a>, String> {
        json::refuse_what_php_cannot_read(raw)?;
        let trimmed = raw.trim_matches(SPACE);
        let Some(inside) = trimmed.strip_prefix('{').and_then(|t| t.strip_suffix('}')) else {
            refuse_what_is_no_list(trimmed).map_err(|_| "must be a JSON object or list".to_owned())?;
            return Ok(Parameters::List(trimmed));
        };
        let mut has_authorization = false;
        for entry in json::entries(trimmed) {
            let (key, _) = entry.map_err(|error| format!("is not JSON: {}", json::describe(&error)))?;
            if is_authorization(&key) {
                on_authorization(&key)?;
                has_authorization = true;
            }
        }
        if !has_authorization {
            return Ok(Parameters::Inside(inside.trim_matches(SPACE).into()));
        }
        let mut others = String::with_capacity(inside.len());
        for (key, value) in json::entries(trimmed).flatten().filter(|(key, _)| !is_authorization(key)) {
            json::push_member(&mut others, &key, value);
        }
        Ok(Parameters::of_inside(others))
    }

    /// Of this program's own making, without the braces.
    pub fn of_inside(inside: String) -> Parameters<'static> {
        Parameters::Inside(inside.into())
    }

    #[cfg(test)]
    pub fn as_str(&self) -> &str {
        match self {
            Parameters::Inside(inside) => inside,
            Parameters::List(list) => list,
        }
    }

    /// The parts of the body: the object with `auth` before everything else.
    fn with_auth(&self, access_token: Option<&str>) -> Vec<Part<'_>> {
        let (inside, is_empty) = match self {
            Parameters::Inside(inside) => (inside.as_bytes().into(), inside.is_empty()),
            Parameters::List(list) => (Part::Numbered(list), json::elements(list).next().is_none()),
        };
        let comma = if is_empty { "" } else { "," };
        let head = match access_token {
            Some(token) => format!("{{\"auth\":{}{comma}", json::quoted(token)),
            None => "{".to_owned(),
        };
        vec![head.into_bytes().into(), inside, b"}"[..].into()]
    }
}

fn refuse_what_is_no_list(raw: &str) -> std::result::Result<(), serde_json::Error> {
    json::elements(raw).try_for_each(|element| element.map(|_| ()))
}

fn is_authorization(key: &str) -> bool {
    key == "auth" || key == "access_token"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::parts::concat;
    use proptest::prelude::*;

    fn body(raw: &str) -> String {
        let parameters = Parameters::from_json(raw).unwrap();
        String::from_utf8(concat(&parameters.with_auth(Some("T")))).unwrap()
    }

    #[test]
    fn auth_is_added_and_every_other_byte_kept() {
        assert_eq!(body("{}"), r#"{"auth":"T"}"#);
        assert_eq!(body(" {\n} "), r#"{"auth":"T"}"#);
        assert_eq!(
            body(r#"{"b":1.50,"a":null, "c":{"x":"\u0439"},"d":1e400}"#),
            r#"{"auth":"T","b":1.50,"a":null, "c":{"x":"\u0439"},"d":1e400}"#
        );
        assert_eq!(body(r#"[7, {"a":[]},null]"#), r#"{"auth":"T","0":7,"1":{"a":[]},"2":null}"#);
        assert_eq!(body("[]"), r#"{"auth":"T"}"#);
    }

    #[test]
    fn the_callers_own_authorization_is_refused_however_it_is_escaped() {
        for bad in [r#"{"auth":1}"#, r#"{"a":1,"\u0061uth":"x"}"#, r#"{"access\u005ftoken":"x"}"#] {
            assert!(Parameters::from_json(bad).is_err(), "{bad}");
        }
        assert!(Parameters::from_json(r#"{"fields":{"auth":1},"AUTHOR":2}"#).is_ok());
        assert!(Parameters::from_json("null").is_err());
        assert!(Parameters::from_json("\"text\"").is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_one_json_object_with_our_auth(raw in "[\\[\\]{}\"\\\\:,a-h0-9u ]{0,40}") {
            if serde_json::from_str::<serde_json::Value>(&raw).is_ok() {
                if let Ok(parameters) = Parameters::from_json(&raw) {
                    let text = concat(&parameters.with_auth(Some("T")));
                    let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
                    prop_assert_eq!(&value["auth"], "T");
                }
            }
        }
    }
}
