//! The request of 1C, `{"domain","method","params"}`, and the answer to it.

use super::context::{key_for_bitrix24, shown, Serving, Trace};
use super::events;
use super::guard;
use crate::app::App;
use crate::call::bulk::calls::{Asked as AskedCalls, One};
use crate::call::bulk::list::Cursor;
use crate::call::bulk::{self, Steps};
use crate::call::idempotency::Journaled;
use crate::call::payload::{Parameters, Payload};
use crate::call::relay::{self, Call, Patience};
use crate::config::{Client, Config, Portal};
use crate::values::answer::Answer;
use crate::values::connector;
use crate::values::error::{Error, Result};
use crate::values::json;
use crate::values::method::Method;
use crate::values::portal::Version;
use crate::values::verdict::text_of;

const FIELDS: [&str; 10] =
    ["domain", "method", "params", "version", "calls", "halt", "all", "cursor", "events", connector::NAME];

pub struct Posted<'a> {
    /// As the caller wrote it; `None` where it was left out.
    pub domain: Option<String>,
    /// `auth_connector`, as the caller wrote it.
    pub connector: Option<String>,
    pub asked: Asked<'a>,
}

/// What a request asks for.
pub enum Asked<'a> {
    One(OneCall<'a>),
    /// `calls`: many, packed into batches.
    Many {
        calls: Vec<One<'a>>,
        version: Version,
        halt: bool,
        /// `calls` as written.
        raw: &'a str,
    },
    /// `all`: every page of a list method.
    All {
        method: Method,
        version: Version,
        raw_params: &'a str,
        cursor: Option<Cursor>,
    },
    /// `events`: what Bitrix24 reported.
    Events(events::Asked),
}

pub struct OneCall<'a> {
    pub method: Method,
    pub version: Version,
    /// `params` as written.
    pub raw_params: &'a str,
    pub payload: Payload<'a>,
}

/// Who calls whom.
struct Destination<'a> {
    app: &'a App,
    client: &'a Client,
    portal: &'a Portal,
    /// The envelope's `auth_connector`.
    connector: Option<&'a str>,
}

impl Destination<'_> {
    /// The connector of calls that name none themselves.
    fn connector(&self) -> Option<&str> {
        self.connector.or(self.client.auth_connector.as_deref())
    }

    /// What makes a request what it is: these parts, and the connector where the request names one.
    fn identity<'p>(&'p self, parts: &[&'p [u8]]) -> Vec<&'p [u8]> {
        parts.iter().copied().chain(self.connector.map(str::as_bytes)).collect()
    }
}

impl Serving<'_> {
    /// The request of an admitted client, answered in the envelope.
    pub fn relayed(&self, app: &App, client: &Client, bytes: &[u8], trace: &mut Trace) -> Result<Answer> {
        let posted = Posted::parse(bytes)?;
        let portal = find_portal(&app.config, posted.domain.as_deref())?;
        trace.portal = Some(portal.name.to_string());
        client.check_portal(&portal.name)?;
        let to = Destination { app, client, portal, connector: posted.connector.as_deref() };
        match posted.asked {
            Asked::One(call) => self.one_call(&to, call, trace),
            Asked::Many { calls, version, halt, raw } => self.many_calls(&to, &calls, version, (halt, raw), trace),
            Asked::All { method, version, raw_params, cursor } => {
                self.whole_list(&to, &method, version, (raw_params, cursor), trace)
            }
            Asked::Events(asked) => self.events(app, client, portal, &asked, trace),
        }
    }

    fn one_call(&self, to: &Destination, mut asked: OneCall, trace: &mut Trace) -> Result<Answer> {
        trace.method = Some(asked.method.as_str().to_owned());
        to.client.check_method(&asked.method)?;
        let rebuilt = guard::must_be_checked(to.client, &asked.method);
        if rebuilt {
            asked.payload = guard::checked(to.client, asked.version, asked.raw_params)?;
        }
        let version = [asked.version as u8];
        let identity: [&[u8]; 4] =
            [b"envelope", &version, asked.method.as_str().as_bytes(), asked.raw_params.as_bytes()];
        let (job, limits) = (self.job(to.app).of_client(&to.client.name), &to.app.config.limits);
        let key = self.key(to.client, &to.identity(&identity))?;
        let own = connector::own(asked.raw_params).map(text_of);
        let query = connector::of_call(asked.version, &asked.method, own.as_deref(), rebuilt, to.connector());
        let mut call = Call {
            version: asked.version,
            method: &asked.method,
            query: &query,
            payload: asked.payload,
            headers: vec![("Accept", "application/json")],
            max_response: limits.max_response,
            counts: 1,
        };
        let sent_key = key_for_bitrix24(&to.app.config, key.as_ref(), call.version);
        call.headers.extend(sent_key.as_deref().map(|key| ("Idempotency-Key", key)));
        let patience = Patience::Until(job.end.at_most(limits.max_wait));
        let reply = trace.noted(relay::call(job, to.portal, &call, patience, key.as_ref()))?;
        let replayed = reply.is_replayed();
        let answer = Answer::success(vec![reply.body]);
        Ok(if replayed { answer.replayed() } else { answer })
    }

    /// `calls`: packed into batches, in order; those of REST 3.0 one by one. `raw`: as written.
    fn many_calls(
        &self,
        to: &Destination,
        calls: &[One],
        version: Version,
        (halt, raw): (bool, &str),
        trace: &mut Trace,
    ) -> Result<Answer> {
        trace.method = Some(format!("{} calls", calls.len()));
        for call in calls {
            to.client.check_method(&call.method())?;
        }
        let job = self.job(to.app).of_client(&to.client.name);
        // Keys of REST 2 keep the meaning that they had when there was no other.
        let of_version = if version == Version::V3 { 2 } else { 0 };
        let kind = [u8::from(halt) | of_version];
        let identity = to.identity(&[b"calls", &kind, raw.as_bytes()]);
        let mut journal = match self.key(to.client, &identity)? {
            None => None,
            Some(key) => {
                let until = job.end.at_most(to.app.config.limits.max_wait);
                Some(Journaled::open(job, to.portal, &key, calls.len(), until)?)
            }
        };
        let mut steps = Steps::new(job, to.portal).in_version(version);
        let kept = journal.as_mut().map(Journaled::take_kept).unwrap_or_default();
        let asked = AskedCalls { calls, halt, connector: to.connector() };
        let executed = bulk::calls::execute(&mut steps, &asked, kept, &mut journal);
        trace.repeated = steps.repeated;
        let executed = executed?;
        let replayed = executed.replayed;
        let answer = Answer::success(executed.into_json());
        Ok(if replayed { answer.replayed() } else { answer })
    }

    /// `all`: a list to its end.
    fn whole_list(
        &self,
        to: &Destination,
        method: &Method,
        version: Version,
        (raw_params, cursor): (&str, Option<Cursor>),
        trace: &mut Trace,
    ) -> Result<Answer> {
        trace.method = Some(method.as_str().to_owned());
        to.client.check_method(method)?;
        if self.idempotency_key()?.is_some() {
            return Err(Error::InvalidRequest("an Idempotency-Key has no meaning where \"all\" only reads".into()));
        }
        let steps = Steps::new(self.job(to.app).of_client(&to.client.name), to.portal);
        let connector = connector::carried(connector::own(raw_params), to.connector()).flatten();
        let mut steps = steps.in_version(version).with_connector(connector.as_deref());
        let read = bulk::list::read(&mut steps, method, raw_params, cursor);
        trace.repeated = steps.repeated;
        Ok(Answer::success(read?.into_json()))
    }
}

/// The portal that a caller names; where one is configured, it need not be named. A name that is not configured is
/// not looked at any further.
pub fn find_portal<'c>(config: &'c Config, domain: Option<&str>) -> Result<&'c Portal> {
    match (domain, config.portals.as_slice()) {
        (Some(domain), _) => config.portal(domain).ok_or(Error::UnknownPortal),
        (None, [only]) => Ok(only),
        (None, _) => Err(Error::InvalidRequest("\"domain\" is missing: several portals are configured".into())),
    }
}

/// The fields of a request, each at most once.
struct Fields<'a>([Option<&'a str>; FIELDS.len()]);

impl<'a> Posted<'a> {
    /// Reads a request body. Errors name the field.
    pub fn parse(body: &'a [u8]) -> Result<Posted<'a>> {
        let fields = Fields::parse(body)?;
        let (domain, connector) = (fields.string("domain")?, fields.string(connector::NAME)?);
        if let Some(Err(why)) = connector.as_deref().map(connector::check) {
            return Err(invalid(format!("{:?} {why}", connector::NAME)));
        }
        Ok(Posted { domain, connector, asked: fields.asked()? })
    }
}

impl<'a> Fields<'a> {
    fn parse(body: &'a [u8]) -> Result<Fields<'a>> {
        let text = json::text(body).map_err(invalid)?;
        if text.trim().is_empty() {
            return Err(invalid("the body is empty: send {\"domain\",\"method\",\"params\"} as JSON"));
        }
        let mut fields = Fields([None; FIELDS.len()]);
        for entry in json::entries(text) {
            let (key, value) =
                entry.map_err(|error| invalid(format!("the body is not a JSON object: {}", json::describe(&error))))?;
            let Some(at) = FIELDS.iter().position(|name| *name == key) else {
                let known = FIELDS.join(", ");
                return Err(invalid(format!("{} is not a field of a request; those are {known}", shown(&key))));
            };
            if fields.0[at].replace(value).is_some() {
                return Err(invalid(format!("{} is given twice", shown(&key))));
            }
        }
        Ok(fields)
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        FIELDS.iter().position(|known| *known == name).and_then(|at| self.0[at])
    }

    fn string(&self, name: &str) -> Result<Option<String>> {
        self.get(name).map(|raw| string(raw, name)).transpose()
    }

    fn flag(&self, name: &str) -> Result<bool> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(invalid(format!("{name:?} must be true or false"))),
        }
    }

    fn asked(&self) -> Result<Asked<'a>> {
        if let Some(raw) = self.get("events") {
            if let Some(other) =
                FIELDS.iter().find(|name| !["domain", "events"].contains(name) && self.get(name).is_some())
            {
                return Err(invalid(format!("{other:?} cannot stand beside \"events\"")));
            }
            return events::Asked::parse(raw).map(Asked::Events).map_err(|why| invalid(format!("\"events\" {why}")));
        }
        let version = match self.get("version") {
            None | Some("2") => Version::V2,
            Some("3") => Version::V3,
            Some(_) => return Err(invalid("\"version\" must be 2 or 3")),
        };
        let (all, halt) = (self.flag("all")?, self.flag("halt")?);
        if let Some(raw) = self.get("calls") {
            for other in ["method", "params", "all", "cursor"] {
                if self.get(other).is_some() {
                    return Err(invalid(format!("{other:?} cannot stand beside \"calls\"")));
                }
            }
            return Ok(Asked::Many { calls: calls(raw)?, version, halt, raw });
        }
        if self.get("halt").is_some() {
            return Err(invalid("\"halt\" belongs to \"calls\""));
        }
        let name = self.get("method").ok_or_else(|| invalid("\"method\" is missing"))?;
        let method = method(&string(name, "method")?).map_err(|why| invalid(format!("\"method\" {why}")))?;
        let raw_params = self.get("params").unwrap_or("{}");
        let payload =
            Payload::of_call(version, &method, raw_params).map_err(|why| invalid(format!("\"params\" {why}")))?;
        let cursor = self.string("cursor")?;
        if !all {
            return match cursor {
                Some(_) => Err(invalid("\"cursor\" belongs to \"all\"")),
                None => Ok(Asked::One(OneCall { method, version, raw_params, payload })),
            };
        }
        if method.is_batch() {
            return Err(invalid("\"all\" needs a list method, which batch is not"));
        }
        let cursor = match cursor.map(|text| Cursor::parse(&text, &method)) {
            Some(None) => return Err(invalid("\"cursor\" is not one that this program gave for this method")),
            cursor => cursor.flatten(),
        };
        Ok(Asked::All { method, version, raw_params, cursor })
    }
}

fn method(text: &str) -> std::result::Result<Method, &'static str> {
    let method =
        Method::parse(text).ok_or("must be letters, digits, \".\", \"_\" and \"-\", at most 128 characters")?;
    if method.wants_xml() {
        return Err("must not end in .xml: the answer is JSON");
    }
    Ok(method)
}

/// The calls, each checked, so that nothing is executed where one of them is wrong.
pub fn calls(raw: &str) -> Result<Vec<One<'_>>> {
    let mut calls = Vec::new();
    for (i, item) in json::elements(raw).enumerate() {
        let item = item.map_err(|_| invalid("\"calls\" must be a list of {\"method\",\"params\"}"))?;
        calls.push(call(item).map_err(|why| invalid(format!("\"calls\"[{i}] {why}")))?);
    }
    Ok(calls)
}

/// One of them; the error says what it has or is.
pub fn call(raw: &str) -> std::result::Result<One<'_>, String> {
    let (mut name, mut raw_params) = (None, None);
    for entry in json::entries(raw) {
        let (key, value) = entry.map_err(|_| "must be an object with \"method\" and \"params\"")?;
        let slot = match key.as_ref() {
            "method" => &mut name,
            "params" => &mut raw_params,
            _ => return Err(format!("has a field {}; those of a call are method and params", shown(&key))),
        };
        if slot.replace(value).is_some() {
            return Err(format!("has {key:?} twice"));
        }
    }
    let name: String =
        name.and_then(|raw| serde_json::from_str(raw).ok()).ok_or("has no \"method\", or one that is not a string")?;
    let method = method(&name).map_err(|why| format!("\"method\" {why}"))?;
    if method.is_batch() {
        return Err("cannot be a batch: its commands can be calls themselves".into());
    }
    Parameters::from_json(raw_params.unwrap_or("{}")).map_err(|why| format!("\"params\" {why}"))?;
    Ok(One::checked(raw))
}

fn invalid(why: impl Into<String>) -> Error {
    Error::InvalidRequest(why.into())
}

fn string(raw: &str, name: &str) -> Result<String> {
    serde_json::from_str(raw).map_err(|_| Error::InvalidRequest(format!("{name:?} must be a string")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(body: &str) -> String {
        match Posted::parse(body.as_bytes()) {
            Err(Error::InvalidRequest(why)) => why,
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("accepted: {body}"),
        }
    }

    #[test]
    fn a_request_names_portal_method_and_parameters() {
        let posted = Posted::parse("\u{feff}{\"domain\":\"acme\",\"method\":\"profile\"}".as_bytes()).unwrap();
        assert_eq!(posted.domain.as_deref(), Some("acme"));
        let Asked::One(call) = posted.asked else { panic!() };
        assert_eq!((call.version, call.raw_params), (Version::V2, "{}"));
        let posted = Posted::parse(br#"{"method":"a","version":3}"#).unwrap();
        assert!(matches!(posted.asked, Asked::One(OneCall { version: Version::V3, .. })));
    }

    #[test]
    fn calls_and_all_are_told_from_one_call() {
        let asked = |body: &'static str| Posted::parse(body.as_bytes()).unwrap().asked;
        assert!(matches!(asked(r#"{"calls":[{"method":"a"},{"method":"b","params":[1]}],"halt":true}"#),
            Asked::Many { calls, halt: true, .. } if calls.len() == 2));
        assert!(matches!(asked(r#"{"method":"a","all":true}"#), Asked::All { cursor: None, .. }));
        assert!(matches!(asked(r#"{"method":"a","all":false}"#), Asked::One(_)));
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
            (r#"{"method":"a","auth_connector":1}"#, "auth_connector"),
            (r#"{"method":"a","auth_connector":""}"#, "auth_connector"),
            (r#"{"method":"a","auth_connector":"a\u0000b"}"#, "auth_connector"),
            (r#"{"calls":[],"auth_connector":"a\u202eb"}"#, "auth_connector"),
            (r#"{"method":"a","method":"b"}"#, "twice"),
            (r#"{"method":"a","\u006dethod":"b"}"#, "twice"),
            (r#"{"method":"a","parms":{}}"#, "parms"),
            (r#"{"method":"a"} x"#, "JSON"),
            (r#"{"method":"a.xml"}"#, "xml"),
            (r#"{"calls":{}}"#, "list"),
            (r#"{"calls":[{"method":"a"},{"method":"b c"}]}"#, "[1]"),
            (r#"{"calls":[{"method":"batch"}]}"#, "batch"),
            (r#"{"calls":[{"method":"a","params":{"auth":1}}]}"#, "auth"),
            (r#"{"calls":[{"method":"a","param":{}}]}"#, "param"),
            (r#"{"calls":[],"method":"a"}"#, "method"),
            (r#"{"method":"a","halt":true}"#, "halt"),
            (r#"{"method":"a","all":1}"#, "all"),
            (r#"{"method":"a","cursor":"id:1"}"#, "cursor"),
            (r#"{"events":{},"method":"a"}"#, "method"),
            (r#"{"events":{"after":"x"}}"#, "events"),
            (r#"{"events":{},"auth_connector":"a"}"#, "auth_connector"),
            (r#"{"method":"a","all":true,"cursor":"nonsense"}"#, "cursor"),
            (r#"{"method":"a","all":true,"cursor":"id:7.00000000"}"#, "cursor"),
        ] {
            assert!(refused(body).contains(word), "{body}: {}", refused(body));
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Posted::parse(&body);
        }
    }
}
