//! A Bitrix24 incoming webhook with OAuth behind it: `/rest/{user}/{token}/{method}`.
//!
//! The caller's parameters reach the portal as the portal's PHP would have read them from the caller: the query unchanged,
//! a form, multipart or JSON body unchanged, with our `auth` in the body, where it comes last and so counts. The caller's
//! own `auth` is dropped. Answers pass through; this program's own errors take Bitrix24's shape, with statuses chosen for
//! what existing clients do with them.

use super::access::Credentials;
use super::context::{key_for_bitrix24, Serving, Trace};
use super::files::{origins, Moved};
use super::guard::{self, Commands};
use super::rewriting::rewritten;
use super::route::WebhookPath;
use crate::app::App;
use crate::call::outcome::Failed;
use crate::call::payload::{Parameters, Payload};
use crate::call::relay::{self, Call, Patience};
use crate::config::{Client, Config, Portal};
use crate::upstream::http::Reply;
use crate::values::answer::{self, Answer};
use crate::values::connector;
use crate::values::error::{Error, Executed, Result, Upstream};
use crate::values::file_address::{holds_token, FileAddress};
use crate::values::form;
use crate::values::json;
use crate::values::method::Method;
use crate::values::multipart::Multipart;
use crate::values::portal::Version;
use crate::values::request::Body;
use crate::values::verdict::text_of;
use serde_json::json;
use std::time::Duration;

/// The longest wait for the rate limit or a refresh: some clients give up after ten seconds.
const MAX_WAIT: Duration = Duration::from_secs(8);

/// What a caller sent beside the path.
pub struct Sent<'a> {
    pub query: &'a [u8],
    pub content_type: &'a str,
    pub body: &'a [u8],
}

/// What goes to the portal.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// Of characters that may stand in an address only.
    pub query: String,
    pub payload: Payload<'a>,
}

impl Outgoing<'_> {
    /// To the query.
    fn add(&mut self, field: &str) {
        if !field.is_empty() {
            let ampersand = if self.query.is_empty() || self.query.ends_with('&') { "" } else { "&" };
            self.query = format!("{}{ampersand}{field}", self.query);
        }
    }
}

impl<'a> Sent<'a> {
    /// Everything as it was sent, without the caller's authorization.
    pub fn passed_on(&self, version: Version, method: &Method) -> Result<Outgoing<'a>> {
        let query = form::for_address(&form::without_authorization(self.query));
        Ok(Outgoing { query, payload: self.payload(version, method)? })
    }

    fn payload(&self, version: Version, method: &Method) -> Result<Payload<'a>> {
        Ok(match self.kind() {
            // REST 3.0 finds `auth` in JSON only.
            Kind::Form | Kind::Multipart | Kind::Other if version == Version::V3 && self.body.is_empty() => {
                Payload::Json(Parameters::of_inside(String::new()))
            }
            Kind::Form | Kind::Multipart | Kind::Other if version == Version::V3 => {
                return Err(Error::InvalidRequest(
                    "REST 3.0 reads JSON only: send the parameters with Content-Type: application/json".into(),
                ))
            }
            Kind::Json => self.json_payload(version, method)?,
            Kind::Form => Payload::Form(form::without_authorization(self.body)),
            Kind::Multipart => Payload::Multipart(self.multipart()?),
            // PHP reads no parameters from any other type.
            Kind::Other => Payload::Form(Vec::new()),
        })
    }

    /// A body of a type that Bitrix24 does not read goes out as no parameters at all: an `add` would make an empty record.
    pub fn refuse_unread_body(&self) -> Result<()> {
        let has_parameters = |query: &[u8]| form::names(query).any(|name| !form::variable(&name).is_empty());
        if !matches!(self.kind(), Kind::Other)
            || self.body.is_empty()
            || has_parameters(&form::without_marks(self.query))
        {
            return Ok(());
        }
        let what = match self.content_type.trim() {
            "" => "has no Content-Type".to_owned(),
            known => format!("is {:?}", known.chars().take(100).collect::<String>()),
        };
        Err(Error::InvalidRequest(format!(
            "the body {what}, so Bitrix24 would not read it: send application/json, application/x-www-form-urlencoded or \
             multipart/form-data"
        )))
    }

    /// The type ends where PHP lets it end.
    fn kind(&self) -> Kind {
        let media_type = self.content_type.trim().split([';', ',', ' ']).next().unwrap_or("").to_ascii_lowercase();
        match media_type.as_str() {
            "application/json" => Kind::Json,
            "application/x-www-form-urlencoded" => Kind::Form,
            "multipart/form-data" => Kind::Multipart,
            _ => Kind::Other,
        }
    }

    fn multipart(&self) -> Result<Multipart<'a>> {
        Multipart::parse(self.content_type, self.body)
            .ok_or_else(|| Error::InvalidRequest("the multipart body is not complete".into()))
    }

    /// PHP takes JSON that it cannot read as no parameters; here that is an error.
    fn json_text(&self) -> Result<&'a str> {
        let text = json::text(self.body).map_err(Error::InvalidRequest)?;
        json::refuse_what_php_cannot_read(text).map_err(|why| Error::InvalidRequest(format!("the body is {why}")))?;
        Ok(if text.trim().is_empty() { "{}" } else { text })
    }

    fn json_payload(&self, version: Version, method: &Method) -> Result<Payload<'a>> {
        let (text, refused) = (self.json_text()?, |why| Error::InvalidRequest(format!("the body {why}")));
        match Parameters::list(text).filter(|_| version == Version::V3 && method.is_batch()) {
            Some(list) => Ok(Payload::List(list.map_err(refused)?.into())),
            None => Parameters::of_webhook(text).map(Payload::Json).map_err(refused),
        }
    }

    /// The caller's own `auth_connector`, in query or body; of an array of that name, something.
    fn connector(&self) -> Option<String> {
        let named = |fields: &mut dyn Iterator<Item = (String, String)>| {
            fields.filter(|(name, _)| form::variable(name.as_bytes()) == connector::NAME.as_bytes()).last()
        };
        let in_body = match self.kind() {
            Kind::Json => {
                return json::text(self.body)
                    .ok()
                    .and_then(connector::own)
                    .map(text_of)
                    .or_else(|| named(&mut form::fields(self.query)).map(|(_, value)| value))
            }
            Kind::Form => named(&mut form::fields(self.body)),
            Kind::Multipart => self.multipart().ok().and_then(|multipart| named(&mut multipart.fields())),
            Kind::Other => None,
        };
        in_body.or_else(|| named(&mut form::fields(self.query))).map(|(_, value)| value)
    }

    /// A batch of a client that may call only some methods: read from wherever `cmd` stands, checked, and built anew.
    pub fn checked_batch(&self, client: &Client, version: Version) -> Result<Outgoing<'a>> {
        let parameters = match version {
            Version::V3 => {
                let payload = guard::checked(client, version, self.json_text()?)?;
                return Ok(Outgoing { query: String::new(), payload });
            }
            Version::V2 => {
                let fields = |bytes: &[u8]| Commands::from_fields(form::fields(bytes));
                let mut found = fields(self.query)?;
                found.merge(match self.kind() {
                    Kind::Json => Commands::from_json(self.json_text()?)?,
                    Kind::Form => fields(self.body)?,
                    Kind::Multipart => Commands::from_fields(self.multipart()?.fields())?,
                    Kind::Other => Commands::default(),
                })?;
                found.checked(client)?
            }
        };
        Ok(Outgoing { query: String::new(), payload: Payload::Json(parameters) })
    }
}

enum Kind {
    Json,
    Form,
    Multipart,
    Other,
}

impl Serving<'_> {
    /// A call to a webhook address, answered as Bitrix24 answers it.
    pub fn webhook(&self, app: &App, path: &WebhookPath, body: &mut Body, trace: &mut Trace) -> Result<Answer> {
        let (config, limits) = (&app.config, &app.config.limits);
        let credentials = Credentials::Token(path.token.clone().into_bytes());
        let client = self.admitted(config, &credentials, self.credentials().is_some(), trace)?;
        let query = self.variables.bytes("QUERY_STRING");
        if holds_token(query) {
            let portal = portal_of(config, client, path.portal.as_deref())?;
            trace.portal = Some(portal.name.to_string());
            return self.webhook_file(app, (client, portal), path, body, trace);
        }
        let bytes = self.read(config, body)?;
        let portal = portal_of(config, client, path.portal.as_deref())?;
        trace.portal = Some(portal.name.to_string());
        let method = Method::parse(&path.method)
            .ok_or_else(|| Error::InvalidRequest("the address does not end in a method name".into()))?;
        trace.method = Some(method.as_str().to_owned());
        client.check_method(&method)?;
        let sent = Sent { query, content_type: self.variables.text("CONTENT_TYPE").unwrap_or(""), body: &bytes };
        sent.refuse_unread_body()?;
        let rebuilt = guard::must_be_checked(client, &method);
        let mut outgoing = match rebuilt {
            true => sent.checked_batch(client, path.version)?,
            false => sent.passed_on(path.version, &method)?,
        };
        if rebuilt || client.auth_connector.is_some() {
            let (own, given) = (sent.connector(), client.auth_connector.as_deref());
            outgoing.add(&connector::of_call(path.version, &method, own.as_deref(), rebuilt, given));
        }
        let identity: &[&[u8]] = &[
            b"webhook",
            &[path.version as u8],
            method.as_str().as_bytes(),
            &form::without_marks(sent.query),
            sent.content_type.as_bytes(),
            sent.body,
        ];
        let (job, key) = (self.job(app).of_client(&client.name), self.key(client, identity)?);
        let sent_key = key_for_bitrix24(config, key.as_ref(), path.version);
        let call = Call {
            version: path.version,
            method: &method,
            query: &outgoing.query,
            payload: outgoing.payload,
            headers: sent_key.as_deref().map(|key| ("Idempotency-Key", key)).into_iter().collect(),
            max_response: limits.max_response,
            counts: 1,
        };
        let patience = Patience::Until(job.end.at_most(limits.max_wait.min(MAX_WAIT)));
        match trace.noted(relay::call(job, portal, &call, patience, key.as_ref())) {
            Ok(reply) => Ok(pass_through(self.with_own_addresses(app, portal, path, reply))),
            Err(Failed::Refused { reply, upstream }) => Ok(refused(*reply, &upstream)),
            Err(Failed::Error(error)) => Err(error),
        }
    }

    /// The address of a file, which passes without the client's list of methods: it is signed.
    fn webhook_file(
        &self,
        app: &App,
        (client, portal): (&Client, &Portal),
        path: &WebhookPath,
        body: &mut Body,
        trace: &mut Trace,
    ) -> Result<Answer> {
        let wrong = |why: &str| Error::InvalidRequest(format!("the address of a file {why}"));
        if path.version == Version::V3 {
            return Err(wrong("belongs below /rest/, not below /rest/api/"));
        }
        let query = self.variables.text("QUERY_STRING").unwrap_or("");
        let address = FileAddress::of_parts(&path.method, path.slash, query).map_err(wrong)?;
        match self.moved(app, (client, portal), &address, body, trace) {
            Ok(Moved::Down(download)) => Ok(self.downloaded(app, download)),
            Ok(Moved::Up(reply)) => Ok(pass_through(reply)),
            Err(Failed::Refused { reply, .. }) => Ok(pass_through(*reply)),
            Err(Failed::Error(error)) => Err(error),
        }
    }

    /// The answer, with the addresses of files in it leading through this client's own address.
    fn with_own_addresses(&self, app: &App, portal: &Portal, path: &WebhookPath, mut reply: Reply) -> Reply {
        let Some(own) = self.own_address(Some(&app.config)) else { return reply };
        let portals_name = path.portal.as_ref().map(|name| format!("{name}/")).unwrap_or_default();
        let base = format!("{own}/{portals_name}rest/{}/{}/", path.user, path.token);
        reply.body = rewritten(reply.body, &origins(app, portal), &base);
        reply
    }
}

/// The portal in a webhook's path, or else the only one that this client may use.
fn portal_of<'c>(config: &'c Config, client: &Client, named: Option<&str>) -> Result<&'c Portal> {
    if let Some(name) = named {
        let portal = config.portal(name).ok_or(Error::UnknownPortal)?;
        client.check_portal(&portal.name)?;
        return Ok(portal);
    }
    let mut usable = config.portals.iter().filter(|portal| client.may_use(&portal.name));
    match (usable.next(), usable.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Error::UnknownPortal),
        (Some(_), Some(_)) => Err(Error::InvalidRequest(
            "This client may use several portals: put the portal's name before /rest/, as in /acme.bitrix24.ru/rest/…"
                .into(),
        )),
    }
}

/// Bitrix24's answer, status and body.
fn pass_through(reply: Reply) -> Answer {
    let header = |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let short = |text: &String| text.len() <= 100;
    let (replayed, retry_after) = (header("Idempotent-Replayed"), header("Retry-After").filter(short));
    let mut answer = Answer {
        // One that HTTP does not have (RFC 9110, section 15) ends in a web server as an error of its own.
        status: if (200..600).contains(&reply.status) { reply.status } else { 502 },
        content_type: reply.content_type.unwrap_or_else(|| answer::JSON.into()),
        headers: Vec::new(),
        body: reply.body.into(),
    };
    if !is_data(&answer.content_type) {
        // What comes from a portal must not act in this program's own origin.
        answer = answer.with("Content-Security-Policy", "sandbox");
    }
    for (name, value) in [("Idempotent-Replayed", replayed), ("Retry-After", retry_after)] {
        if let Some(value) = value {
            answer = answer.with(name, value);
        }
    }
    answer
}

/// Bitrix24's refusal; with a `Retry-After` where it is one that may pass.
fn refused(reply: Reply, upstream: &Upstream) -> Answer {
    let answer = pass_through(reply);
    match upstream.retry_after {
        Some(seconds) if !answer.headers.iter().any(|(name, _)| *name == "Retry-After") => {
            answer.with("Retry-After", seconds.to_string())
        }
        _ => answer,
    }
}

/// Whether a browser runs nothing of it. Of XML it does: a page can be written in it.
fn is_data(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// This program's own error as a webhook client hears it.
///
/// Clients repeat on 5xx, up to eleven times, `add` methods too. So 503 says *certainly not executed, try again*, 409 says
/// *perhaps executed*, and nothing that may have been executed is a 5xx.
pub fn failure(error: &Error, version: Version) -> Answer {
    let (table_status, table_code) = error.status_and_code();
    let (status, code) = match error {
        Error::Unauthorized(_) => (401, "NO_AUTH_FOUND".to_owned()),
        Error::NotInstalled { .. } => (403, "NOT_INSTALLED".to_owned()),
        Error::ReinstallRequired { .. } => (403, "REINSTALL_REQUIRED".to_owned()),
        // Something before Bitrix24 refused it, or Bitrix24 the portal's webhook: repeating does not help.
        Error::BadAnswer { executed: Executed::No, upstream: Some(upstream), .. }
            if (400..500).contains(&upstream.status) =>
        {
            (404, table_code.to_ascii_uppercase())
        }
        Error::RateLimited { .. } => (503, "QUERY_LIMIT_EXCEEDED".to_owned()),
        // Clients repeat on 503, at once.
        Error::MethodBlocked { .. } => (429, "OPERATION_TIME_LIMIT".to_owned()),
        Error::PortalBlocked { .. } => (429, "OVERLOAD_LIMIT".to_owned()),
        _ if error.executed() == Some(Executed::Unknown) => (409, "OUTCOME_UNKNOWN".to_owned()),
        Error::Unreachable { .. }
        | Error::Timeout { .. }
        | Error::OauthServer { .. }
        | Error::RefreshPending { .. } => (503, table_code.to_ascii_uppercase()),
        _ => (table_status, table_code.to_ascii_uppercase()),
    };
    let text = match error {
        // Such a client can send no header.
        Error::Unauthorized(_) => {
            "The token in this address is none of b24proxy's: it must be a client's token of proxy.toml, \
            as in /rest/1/TOKEN/METHOD."
                .into()
        }
        _ => error.text(),
    };
    let body = match version {
        Version::V2 => json!({ "error": code, "error_description": text }),
        Version::V3 => {
            let code = code_of_rest_3(error).map_or(code, |name| format!("BITRIX_REST_V3_EXCEPTION_{name}"));
            json!({ "error": { "code": code, "message": text } })
        }
    };
    Answer::json(status, body.to_string()).with_headers_of(error)
}

/// The code that REST 3.0 itself has for such an error: its exception's class.
fn code_of_rest_3(error: &Error) -> Option<&'static str> {
    match error {
        Error::Unauthorized(_) | Error::Forbidden(_) => Some("ACCESSDENIEDEXCEPTION"),
        Error::NotFound | Error::NoWebhook { .. } => Some("METHODNOTFOUNDEXCEPTION"),
        Error::InvalidRequest(_) => Some("VALIDATION_REQUESTVALIDATIONEXCEPTION"),
        Error::RateLimited { .. } | Error::MethodBlocked { .. } | Error::PortalBlocked { .. } => {
            Some("RATELIMITEXCEPTION")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::error::Arrived;

    fn sent<'a>(query: &'a str, content_type: &'a str, body: &'a str) -> Sent<'a> {
        Sent { query: query.as_bytes(), content_type, body: body.as_bytes() }
    }

    fn method() -> Method {
        Method::parse("crm.deal.add").unwrap()
    }

    fn body(outgoing: &Outgoing) -> String {
        let (_, parts) = outgoing.payload.with_auth(Some("T"));
        String::from_utf8(crate::values::parts::concat(&parts)).unwrap()
    }

    #[test]
    fn a_get_becomes_a_post_with_the_query_unchanged_and_auth_in_the_body() {
        let outgoing = sent("fields%5BNAME%5D=%D0%90&a=b&", "", "").passed_on(Version::V2, &method()).unwrap();
        assert_eq!(outgoing.query, "fields%5BNAME%5D=%D0%90&a=b&");
        assert_eq!(body(&outgoing), "auth=T");
    }

    #[test]
    fn the_callers_auth_is_dropped_in_whatever_form_it_comes() {
        let form = "application/x-www-form-urlencoded";
        let outgoing = sent("auth=X&a=1&%61uth=Y&auth%5B%5D=Z", form, "b=2&+auth=X&auth[x]=Y")
            .passed_on(Version::V2, &method())
            .unwrap();
        assert_eq!(outgoing.query, "a=1");
        assert_eq!(body(&outgoing), "b=2&auth=T");
        let outgoing = sent("", "application/json; charset=utf-8", r#"{"auth":"X","a":1.0,"\u0061uth":"Y"}"#)
            .passed_on(Version::V2, &method());
        assert_eq!(body(&outgoing.unwrap()), r#"{"auth":"T","a":1.0}"#);
    }

    #[test]
    fn a_json_list_becomes_a_map_and_broken_json_an_error() {
        assert_eq!(
            body(&sent("", "application/json", "[1,{\"a\":null}]").passed_on(Version::V2, &method()).unwrap()),
            r#"{"auth":"T","0":1,"1":{"a":null}}"#
        );
        assert_eq!(
            body(&sent("", "application/json", "").passed_on(Version::V2, &method()).unwrap()),
            r#"{"auth":"T"}"#
        );
        assert!(sent("", "application/json", "{\"a\":").passed_on(Version::V2, &method()).is_err());
        assert_eq!(body(&sent("", "text/plain", "{\"a\":1}").passed_on(Version::V2, &method()).unwrap()), "auth=T");
    }

    #[test]
    fn a_body_that_bitrix24_does_not_read_is_refused_where_it_is_all_there_is() {
        let refused = |query, content_type, body| sent(query, content_type, body).refuse_unread_body().is_err();
        let json = r#"{"a":1}"#;
        for unread in ["", " ", "text/json", "text/plain; charset=utf-8", "application/octet-stream", "json", ";"] {
            for query in ["", "&", "auth=X", "auth[]=X&bx24_request_id=1", "=1"] {
                assert!(refused(query, unread, json), "{query} {unread}");
            }
            assert!(!refused("a=1", unread, json) && !refused("", unread, ""), "{unread}");
        }
        for read in [
            "application/json",
            " Application/JSON ; charset=utf-8",
            "application/json,text/plain",
            "application/x-www-form-urlencoded charset=utf-8",
            "multipart/form-data; boundary=X",
        ] {
            assert!(!refused("", read, json), "{read}");
        }
    }

    #[test]
    fn rest_3_gets_json_or_nothing() {
        let v3 = |content_type, body| sent("a=1", content_type, body).passed_on(Version::V3, &method());
        assert_eq!(body(&v3("", "").unwrap()), r#"{"auth":"T"}"#);
        assert_eq!(v3("application/x-www-form-urlencoded", "").unwrap().query, "a=1");
        assert!(v3("application/x-www-form-urlencoded", "a=1").is_err());
    }

    #[test]
    fn statuses_are_chosen_for_what_clients_do_with_them() {
        let status = |error: Error| {
            let answer = failure(&error, Version::V2);
            let body: serde_json::Value = serde_json::from_slice(&answer.body.concat()).unwrap();
            (answer.status, body["error"].as_str().unwrap().to_owned())
        };
        let unknown = Executed::Unknown;
        assert_eq!(status(Error::Timeout { executed: unknown }), (409, "OUTCOME_UNKNOWN".into()));
        assert_eq!(
            status(Error::Unreachable { why: String::new(), executed: unknown }),
            (409, "OUTCOME_UNKNOWN".into())
        );
        assert_eq!(status(Error::Timeout { executed: Executed::No }), (503, "BITRIX24_TIMEOUT".into()));
        assert_eq!(status(Error::RefreshPending { retry_after: 1 }), (503, "REFRESH_PENDING".into()));
        assert_eq!(status(Error::Unauthorized(Arrived::Unknown)), (401, "NO_AUTH_FOUND".into()));
        assert_eq!(status(Error::NotInstalled { install_url: None }), (403, "NOT_INSTALLED".into()));
        assert_eq!(status(Error::UnknownPortal), (404, "UNKNOWN_PORTAL".into()));
        let reinstall = Error::ReinstallRequired { why: String::new(), install_url: None };
        assert_eq!(status(reinstall), (403, "REINSTALL_REQUIRED".into()));
        let bad = |executed, upstream: u16| Error::BadAnswer {
            why: String::new(),
            executed,
            upstream: Some(crate::values::error::Upstream { status: upstream, ..Default::default() }),
        };
        assert_eq!(status(bad(Executed::No, 403)), (404, "BITRIX24_BAD_ANSWER".into()));
        assert_eq!(status(bad(Executed::No, 301)), (502, "BITRIX24_BAD_ANSWER".into()));
        assert_eq!(status(bad(unknown, 502)), (409, "OUTCOME_UNKNOWN".into()));
    }
}
