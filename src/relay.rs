//! One REST call to a portal: with its tokens, refreshed when needed, repeated only where it provably was not executed.

use crate::clock::{unix_now, Deadline};
use crate::config::{Config, Portal, Way};
use crate::error::{Error, Executed, Result, Upstream};
use crate::http::{Failure, Http, Obstacle, Post, Reply};
use crate::idempotency::Held;
use crate::json;
use crate::limits::{Limits, Turn, OPERATING_LIMIT};
use crate::log::Log;
use crate::method::Method;
use crate::multipart::Multipart;
use crate::portal::{Endpoint, Refused, Target, Version};
use crate::refresh::{self, Why};
use crate::store::{Installation, Store, Tokens};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::time::Duration;

/// Pause before the one other try after a refused connection.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);

/// What calls of one request have in common.
pub struct Session<'a> {
    pub config: &'a Config,
    pub store: Store,
    pub log: &'a Log,
    /// For the whole request.
    pub deadline: Deadline,
    /// How long a call may wait for the rate limit or a refresh. `None`: a call of this program's own, which counts in
    /// the limit but is never refused.
    pub max_wait: Option<Duration>,
    /// Most bytes of an answer.
    pub max_response: u64,
    /// How long calls waited for the limit.
    pub waited: Duration,
    /// What was done again, for the log.
    pub repeated: Vec<&'static str>,
}

pub struct Call<'a> {
    pub version: Version,
    pub method: &'a Method,
    /// Of characters that may stand in an address; empty for none.
    pub query: &'a str,
    pub payload: Payload<'a>,
    pub headers: Vec<(&'static str, &'a str)>,
}

/// The body of a call, without the authorization, which is added last.
#[derive(Clone, Debug)]
pub enum Payload<'a> {
    Json(Parameters<'a>),
    /// `application/x-www-form-urlencoded`
    Form(Vec<u8>),
    Multipart(Multipart<'a>),
}

impl Payload<'_> {
    /// Content type, and the parts of the body one after another. PHP keeps the last of a name in a form, so that ours
    /// counts; in JSON there is no other.
    pub fn with_auth(&self, access_token: Option<&str>) -> (Cow<'static, str>, [Cow<'_, [u8]>; 3]) {
        match self {
            Payload::Json(parameters) => ("application/json".into(), parameters.with_auth(access_token)),
            Payload::Form(fields) => {
                let ampersand = if fields.is_empty() || fields.ends_with(b"&") { "" } else { "&" };
                let auth = access_token.map(|token| {
                    let pair = serde_urlencoded::to_string([("auth", token)]).expect("a pair of texts serializes");
                    format!("{ampersand}{pair}").into_bytes()
                });
                let parts =
                    [Cow::Borrowed(fields.as_slice()), auth.unwrap_or_default().into(), Cow::Borrowed(&b""[..])];
                ("application/x-www-form-urlencoded".into(), parts)
            }
            Payload::Multipart(form) => {
                let written = form.written_with(access_token.map(|token| ("auth", token)));
                (form.content_type().into(), [Cow::Owned(written), Cow::Borrowed(&b""[..]), Cow::Borrowed(&b""[..])])
            }
        }
    }
}

/// A call's parameters: the inside of a JSON object, as the caller wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters<'a>(Cow<'a, str>);

impl<'a> Parameters<'a> {
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
        const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];
        json::refuse_what_php_cannot_read(raw)?;
        let trimmed = raw.trim_matches(SPACE);
        if let Some(inside) = trimmed.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
            let entries = json::entries(trimmed).map_err(|error| format!("is not JSON: {}", json::describe(&error)))?;
            let is_authorization = |key: &str| key == "auth" || key == "access_token";
            let Some((key, _)) = entries.iter().find(|(key, _)| is_authorization(key)) else {
                return Ok(Parameters(Cow::Borrowed(inside.trim_matches(SPACE))));
            };
            on_authorization(key)?;
            let others: Vec<json::Member> = entries
                .iter()
                .filter(|(key, _)| !is_authorization(key))
                .map(|(key, value)| (key.to_string(), value.get().to_owned()))
                .collect();
            return Ok(Parameters::from_members(&others));
        }
        let list: Vec<&RawValue> =
            serde_json::from_str(trimmed).map_err(|_| "must be a JSON object or list".to_owned())?;
        let entries: Vec<String> = list.iter().enumerate().map(|(i, value)| format!("\"{i}\":{value}")).collect();
        Ok(Parameters(Cow::Owned(entries.join(","))))
    }

    /// Of this program's own making, in this order.
    pub fn from_members(members: &[json::Member]) -> Parameters<'static> {
        Parameters(Cow::Owned(json::inside_object(members)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts of the body: the object with `auth` before everything else.
    fn with_auth(&self, access_token: Option<&str>) -> [Cow<'_, [u8]>; 3] {
        let comma = if self.0.is_empty() { "" } else { "," };
        let head = match access_token {
            Some(token) => format!("{{\"auth\":{}{comma}", json::quoted(token)),
            None => "{".to_owned(),
        };
        [Cow::Owned(head.into_bytes()), Cow::Borrowed(self.0.as_bytes()), Cow::Borrowed(b"}")]
    }
}

/// What a portal's answer means.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Success,
    /// Bitrix24's own error.
    Error(Upstream),
    /// 3xx: the portal has another address. Nothing was executed.
    Moved,
    /// Not what Bitrix24 answers.
    Unusable(String),
}

/// How much of a method's time is used, as `time` in an answer says.
#[derive(Clone, Copy, Debug, PartialEq, serde::Deserialize)]
pub struct Operating {
    /// Seconds.
    operating: f64,
    /// Unix seconds.
    operating_reset_at: i64,
}

/// Reads an answer's status and body.
pub fn judge(status: u16, body: &[u8]) -> (Verdict, Option<Operating>) {
    if (300..400).contains(&status) {
        return (Verdict::Moved, None);
    }
    let text = std::str::from_utf8(body).ok();
    if let Some(xml) = text.map(str::trim_start).filter(|text| text.starts_with("<?xml")) {
        return (judge_xml(status, xml), None);
    }
    let text = text.filter(|text| text.trim_start().starts_with('{'));
    let Some(fields) = text.and_then(|text| json::entries(text).ok()) else {
        let what = if body.is_empty() { "an empty body" } else { "something that is not a JSON object" };
        return (Verdict::Unusable(format!("it is {what} (status {status})")), None);
    };
    let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, raw)| raw.get());
    let operating = field("time").and_then(|raw| serde_json::from_str(raw).ok());
    let failed = status >= 400 || (field("error").is_some() && field("result").is_none());
    if !failed {
        return (Verdict::Success, operating);
    }
    let (error, error_description) = match field("error") {
        Some(raw) if raw.starts_with('{') => version_3_error(raw),
        raw => (raw.map(text_of).unwrap_or_default(), field("error_description").map(text_of).unwrap_or_default()),
    };
    (Verdict::Error(Upstream { status, error, error_description }), operating)
}

/// The XML form of an answer, `<response><error>…`: only whether it is an error, and which.
fn judge_xml(status: u16, xml: &str) -> Verdict {
    let element = |name: &str| {
        let (_, rest) = xml.split_once(&format!("<{name}>"))?;
        Some(rest.split('<').next().unwrap_or("").to_owned())
    };
    match element("error") {
        Some(error) if status >= 400 => {
            let error_description = element("error_description").unwrap_or_default();
            Verdict::Error(Upstream { status, error, error_description })
        }
        None if status >= 400 => Verdict::Error(Upstream { status, ..Upstream::default() }),
        _ => Verdict::Success,
    }
}

/// A string without its quotes; anything else (an error may be a number) as it stands.
pub fn text_of(raw: &str) -> String {
    match serde_json::from_str::<Option<String>>(raw) {
        Ok(text) => text.unwrap_or_default(),
        Err(_) => raw.to_owned(),
    }
}

/// `{"code","message","validation":[…]}` of REST 3.0; what was not valid belongs to the description.
fn version_3_error(raw: &str) -> (String, String) {
    let fields = json::entries(raw).unwrap_or_default();
    let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, raw)| raw.get());
    let mut description = field("message").map(text_of).unwrap_or_default();
    if let Some(validation) = field("validation").filter(|validation| *validation != "[]") {
        description = format!("{description} {validation}").trim().to_owned();
    }
    (field("code").map(text_of).unwrap_or_default(), description)
}

impl<'a> Session<'a> {
    pub fn new(config: &'a Config, log: &'a Log, deadline: Deadline, max_wait: Option<Duration>) -> Session<'a> {
        Session {
            config,
            store: Store::new(&config.token_folder),
            log,
            deadline,
            max_wait,
            max_response: config.limits.max_response,
            waited: Duration::ZERO,
            repeated: Vec::new(),
        }
    }

    /// The portal's tokens and address, refreshed if their lifetime is over.
    fn authorization(&mut self, portal: &Portal, until: Deadline) -> Result<Authorization> {
        if let Way::Webhook(webhook) = &portal.way {
            return Ok(Authorization { target: Target::Webhook(webhook.clone()), tokens: None });
        }
        let tokens = match self.store.read(&portal.name).map_err(Error::Storage)? {
            Installation::Installed(tokens) => *tokens,
            Installation::NotInstalled => {
                return Err(Error::NotInstalled { install_url: self.config.install_url(&portal.name) })
            }
            Installation::Broken(why) => return Err(Error::Storage(why)),
        };
        if refresh::is_due(&tokens, unix_now()) {
            // Tokens of an address that may not be used are not worth a refresh.
            self.check_address(portal, &tokens)?;
            return self.refresh(portal, &tokens, Why::Due, until);
        }
        self.with_tokens(portal, tokens)
    }

    fn refresh(&mut self, portal: &Portal, stale: &Tokens, why: Why, until: Deadline) -> Result<Authorization> {
        self.repeated.push(match why {
            Why::Due => "refresh",
            Why::Expired => "expired_token",
            Why::Moved => "moved",
        });
        let context = refresh::Context { config: self.config, store: &self.store, log: self.log };
        let tokens = refresh::refreshed(&context, portal, stale, why, until)?;
        self.with_tokens(portal, tokens)
    }

    fn with_tokens(&self, portal: &Portal, tokens: Tokens) -> Result<Authorization> {
        let endpoint = self.check_address(portal, &tokens)?;
        Ok(Authorization { target: Target::OAuth(endpoint), tokens: Some(tokens) })
    }

    fn check_address(&self, portal: &Portal, tokens: &Tokens) -> Result<Endpoint> {
        stored_address(self.config, portal, tokens).map_err(Error::Storage)
    }

    /// Executes a call. `Ok` is Bitrix24's answer with what it means: success, or its own error. `held`: the call's
    /// idempotency key, written down before anything is sent.
    pub fn call(
        &mut self,
        portal: &Portal,
        call: &Call,
        prefix: &[u8],
        mut held: Option<&mut Held>,
    ) -> Result<(Reply, Option<Upstream>)> {
        let http = Http::for_portals(self.config).map_err(|failure| self.failure(failure))?;
        let wait_until = self.wait_until();
        let mut authorization = self.authorization(portal, wait_until)?;
        let method = call.method.canonical();
        let (mut reconnected, mut renewed, mut moved, mut over_limit) = (false, false, false, false);
        loop {
            self.await_turn(portal, &method, wait_until, std::mem::take(&mut over_limit))?;
            if let Some(held) = held.as_deref_mut() {
                held.begin()?;
            }
            let reply = match self.send(&http, &authorization, call, prefix) {
                Ok(reply) => reply,
                Err(Failure::NotSent { obstacle: Obstacle::Refused, .. }) if !reconnected => {
                    reconnected = true;
                    self.repeated.push("connection_refused");
                    std::thread::sleep(RECONNECT_PAUSE.min(self.deadline.remaining()));
                    continue;
                }
                Err(failure) => return Err(self.failure(failure)),
            };
            let (verdict, operating) = judge(reply.status, reply.answer());
            self.note_operating(portal, &method, &verdict, operating);
            let upstream = match verdict {
                Verdict::Success => return Ok((reply, None)),
                Verdict::Error(upstream) => upstream,
                Verdict::Unusable(why) => {
                    return Err(Error::BadAnswer {
                        why,
                        executed: Executed::Unknown,
                        upstream: Some(Upstream { status: reply.status, ..Upstream::default() }),
                    })
                }
                Verdict::Moved => {
                    let Some(tokens) = authorization.tokens.as_ref().filter(|_| !moved) else {
                        return Err(moved_without_address(reply.status));
                    };
                    moved = true;
                    let before = tokens.client_endpoint.clone();
                    authorization = self.refresh(portal, &tokens.clone(), Why::Moved, wait_until)?;
                    if authorization.tokens.as_ref().is_some_and(|now| now.client_endpoint == before) {
                        return Err(moved_without_address(reply.status));
                    }
                    continue;
                }
            };
            match (upstream.error.as_str(), authorization.tokens.as_ref()) {
                ("expired_token", Some(tokens)) if !renewed => {
                    renewed = true;
                    authorization = self.refresh(portal, &tokens.clone(), Why::Expired, wait_until)?;
                }
                _ if upstream.is_over_limit() => {
                    over_limit = true;
                    self.repeated.push("QUERY_LIMIT_EXCEEDED");
                }
                _ => return Ok((reply, Some(upstream))),
            }
        }
    }

    /// Until when this call may wait, for the limit and for refreshes together.
    fn wait_until(&self) -> Deadline {
        self.max_wait.map_or(self.deadline, |max_wait| self.deadline.at_most(max_wait))
    }

    /// Waits for this call's turn under Bitrix24's limit. `over_limit`: Bitrix24 has just refused it there.
    fn await_turn(&mut self, portal: &Portal, method: &str, until: Deadline, over_limit: bool) -> Result<()> {
        let limits = Limits::new(&self.store, portal);
        if self.max_wait.is_none() {
            match over_limit {
                true => std::thread::sleep(limits.gap().min(until.remaining())),
                false => limits.count(),
            }
            return Ok(());
        }
        match limits.turn(method, until.remaining(), over_limit) {
            Turn::In(wait) => {
                if !wait.is_zero() {
                    std::thread::sleep(wait);
                    self.waited += wait;
                }
                Ok(())
            }
            Turn::TooLate { retry_after } => Err(Error::RateLimited {
                why: "This portal's limit of requests is used up, and the wait would be too long. The call was not executed: \
                      repeat it after retry_after seconds."
                    .into(),
                retry_after,
            }),
            Turn::Blocked { retry_after } => Err(Error::MethodBlocked { retry_after }),
        }
    }

    /// Remembers a method that has used up its time, so that its next calls are answered at once.
    fn note_operating(&self, portal: &Portal, method: &str, verdict: &Verdict, operating: Option<Operating>) {
        let until = operating.map(|time| time.operating_reset_at);
        match verdict {
            Verdict::Error(upstream) if upstream.error == "OPERATION_TIME_LIMIT" => {
                Limits::new(&self.store, portal).block(method, until);
            }
            Verdict::Success if operating.is_some_and(|time| time.operating >= OPERATING_LIMIT) => {
                Limits::new(&self.store, portal).block(method, until);
            }
            _ => {}
        }
    }

    fn send(
        &self,
        http: &Http,
        authorization: &Authorization,
        call: &Call,
        prefix: &[u8],
    ) -> std::result::Result<Reply, Failure> {
        let token = authorization.tokens.as_ref().map(|tokens| tokens.access_token.expose());
        let (content_type, parts) = call.payload.with_auth(token);
        let mut url = authorization.target.url(call.version, call.method.as_str());
        if !call.query.is_empty() {
            url = format!("{url}?{}", call.query);
        }
        http.post(&Post {
            url: &url,
            content_type: &content_type,
            headers: &call.headers,
            parts: &parts.each_ref().map(|part| part.as_ref()),
            deadline: self.deadline,
            max_response: self.max_response,
            prefix,
        })
    }

    fn failure(&self, failure: Failure) -> Error {
        match failure {
            Failure::NotSent { why, .. } => Error::Unreachable { why, executed: Executed::No },
            Failure::Timeout(executed) => Error::Timeout { executed },
            Failure::Lost { why } => Error::Unreachable { why, executed: Executed::Unknown },
            Failure::TooLarge => Error::BadAnswer {
                why: format!(
                    "it is larger than max_response ({} bytes); ask for less, or raise max_response under [limits] in \
                     proxy.toml",
                    self.max_response
                ),
                executed: Executed::Unknown,
                upstream: None,
            },
            Failure::Configuration(why) => Error::Configuration(why),
        }
    }
}

/// The stored address: the configured portal's, or one that the OAuth server gave when the portal was renamed.
pub fn stored_address(config: &Config, portal: &Portal, tokens: &Tokens) -> std::result::Result<Endpoint, String> {
    let allow_http = config.bitrix24.allow_http;
    let endpoint = if tokens.renamed_from == portal.name.as_str() {
        Endpoint::renamed(&tokens.client_endpoint, allow_http)
    } else {
        portal.endpoint(&tokens.client_endpoint, allow_http)
    };
    endpoint.map_err(|refused| {
        let why = match refused {
            Refused::Malformed => "is not an address such as https://acme.bitrix24.ru/rest/".to_owned(),
            Refused::OtherPortal(name) => format!("is the address of {name}, which is not this portal"),
            Refused::PlainHttp => "is plain http, which needs allow_http = true under [bitrix24]".to_owned(),
        };
        format!(
            "client_endpoint in the token file of {} {why}: move the file away and install the application again",
            portal.name
        )
    })
}

fn moved_without_address(status: u16) -> Error {
    Error::BadAnswer {
        why: format!(
            "the portal answers with a redirect (status {status}), and the OAuth server knows no other address of it; check \
             the portal's name in proxy.toml"
        ),
        executed: Executed::No,
        upstream: None,
    }
}

/// What a call is sent with.
struct Authorization {
    target: Target,
    /// `None` for a webhook.
    tokens: Option<Tokens>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body(raw: &str) -> String {
        let parameters = Parameters::from_json(raw).unwrap();
        parameters.with_auth(Some("T")).iter().map(|part| String::from_utf8_lossy(part).into_owned()).collect()
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

    #[test]
    fn answers_are_told_apart() {
        let judge = |status, body: &[u8]| judge(status, body).0;
        let error = |status, body: &str| match judge(status, body.as_bytes()) {
            Verdict::Error(upstream) => (upstream.error, upstream.error_description),
            other => panic!("{other:?}"),
        };
        assert_eq!(judge(200, br#"{"result":{"error":"x"},"time":{}}"#), Verdict::Success);
        assert_eq!(judge(200, br#"{"result":null,"error":""}"#), Verdict::Success);
        assert_eq!(judge(302, b"<html>"), Verdict::Moved);
        assert!(matches!(judge(200, b"<html>"), Verdict::Unusable(_)));
        assert!(matches!(judge(200, b""), Verdict::Unusable(_)));
        assert!(matches!(judge(200, b"[1]"), Verdict::Unusable(_)));
        assert!(matches!(judge(502, b"{\"result\":"), Verdict::Unusable(_)));
        assert_eq!(
            error(401, r#"{"error":"expired_token","error_description":"x"}"#),
            ("expired_token".into(), "x".into())
        );
        assert_eq!(error(200, r#"{"error":"OLD"}"#), ("OLD".into(), String::new()));
        assert_eq!(error(400, r#"{"error":"","error_description":"why"}"#), (String::new(), "why".into()));
        assert_eq!(error(400, r#"{"error":100}"#), ("100".into(), String::new()));
        assert_eq!(error(500, "{}"), (String::new(), String::new()));
        assert_eq!(
            error(400, r#"{"error":{"code":"BAD","message":"no","validation":[{"field":"id"}]}}"#),
            ("BAD".into(), r#"no [{"field":"id"}]"#.into())
        );
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_one_json_object_with_our_auth(raw in "[\\[\\]{}\"\\\\:,a-h0-9u ]{0,40}") {
            if serde_json::from_str::<serde_json::Value>(&raw).is_ok() {
                if let Ok(parameters) = Parameters::from_json(&raw) {
                    let text: Vec<u8> = parameters.with_auth(Some("T")).concat();
                    let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
                    prop_assert_eq!(&value["auth"], "T");
                }
            }
        }

        #[test]
        fn no_answer_panics(status in 100u16..600, body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = judge(status, &body);
        }
    }
}
