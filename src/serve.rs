//! A CGI request from beginning to end: *environment → route → access → body → portal → token → call → answer*.

use crate::access::{self, Browser, Client, Credentials};
use crate::answer::{Answer, JSON};
use crate::batch;
use crate::boundary::{self, Body, BodyError, Environment};
use crate::bulk::calls::One;
use crate::bulk::list::Cursor;
use crate::bulk::{self, Steps};
use crate::clock::Deadline;
use crate::config::{Config, Portal, Surroundings};
use crate::cors;
use crate::envelope::{Asked, Envelope, OneCall, SUCCESS_HEAD, SUCCESS_TAIL};
use crate::error::{Error, Executed, Result, Upstream};
use crate::form::Form;
use crate::http::{Failure, Http, Reply};
use crate::idempotency::{check_key, fingerprint, Kept, Keys, State};
use crate::install::browser::Query;
use crate::install::{self, Installer, Problem};
use crate::log::{Level, Log};
use crate::method::Method;
use crate::page::{Language, Page, Place};
use crate::portal::Version;
use crate::relay::{Call, Payload, Session};
use crate::route::{Route, WebhookPath};
use crate::secret::random_hex;
use crate::status;
use crate::store::Store;
use crate::webhook::{self, Sent};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most that is read from somebody without credentials.
const MAX_STRANGER_BODY: u64 = 64 << 10;

/// Serves the one request that this process was started for.
pub fn cgi() {
    let started = Instant::now();
    let environment = Environment::take();
    let log = Arc::new(Log::new(random_hex::<8>()));
    let head_only = environment.method() == "HEAD";
    boundary::answer_once(&log, head_only, || {
        let mut body = Body::of(&environment);
        let loaded = Config::load(&surroundings(&environment));
        if let Ok(config) = &loaded {
            log.configure(config.log.level, config.log.file.as_deref());
        }
        let request = Request { environment: &environment, log: &log, started };
        let answer = request.answer(loaded.as_ref(), &mut body);
        // Whatever was decided without the body: it is read to its end before the answer is written. A body that is
        // too large is longer than `max_body`, and one unread byte of it costs the answer: mod_cgid has the body and
        // the answer on one socket, which is reset when it is closed with something unread.
        body.drain(loaded.as_ref().map_or(16 << 20, |config| config.limits.max_body).saturating_mul(4));
        answer
    });
}

/// What of the environment decides where the configuration is.
fn surroundings(environment: &Environment) -> Surroundings {
    Surroundings {
        named: environment.os("B24PROXY_CONFIG").filter(|path| !path.is_empty()).map(Into::into),
        executable: std::env::current_exe().ok(),
        document_root: environment.os("DOCUMENT_ROOT").map(Into::into),
    }
}

/// What becomes known of a request on its way, for its line in the log.
#[derive(Default)]
struct Trace {
    client: Option<String>,
    portal: Option<String>,
    method: Option<String>,
    /// Bitrix24's own error code.
    bitrix24: Option<String>,
    repeated: Vec<&'static str>,
}

/// Who calls whom.
struct Destination<'a> {
    config: &'a Config,
    client: &'a Client,
    portal: &'a Portal,
}

/// What a route wants of a call.
struct Wanted<'a> {
    max_wait: Duration,
    /// Bytes to put before the answer.
    prefix: &'a [u8],
    /// What makes the request what it is, for its idempotency key.
    identity: &'a [&'a [u8]],
}

enum Outcome {
    Answered(Reply, Option<Upstream>),
    /// The kept answer of the same request.
    Replayed(Kept),
}

struct Request<'a> {
    environment: &'a Environment,
    log: &'a Log,
    started: Instant,
}

impl Request<'_> {
    fn answer(&self, loaded: std::result::Result<&Config, &String>, body: &mut Body) -> Answer {
        let route = Route::of(self.environment);
        let mut trace = Trace::default();
        let (outcome, config) = match loaded {
            Ok(config) => (self.routed(config, &route, body, &mut trace), Some(config)),
            Err(why) if route == Route::Health => {
                self.log.error(why);
                (Ok(unhealthy("configuration_error")), None)
            }
            Err(why) => (Err(Error::Configuration(why.clone())), None),
        };
        let origin = self.environment.text("HTTP_ORIGIN");
        let answer = outcome.as_ref().err().map(|error| match &route {
            Route::Webhook(path) => webhook::failure(error, path.version),
            _ => Answer::failure(error, &self.log.request_id),
        });
        self.log_outcome(&trace, &outcome);
        let answer = answer.or(outcome.ok()).expect("an outcome is one of the two");
        match config {
            Some(config) => cors::decorate(answer, config, origin),
            None => answer,
        }
    }

    fn routed(&self, config: &Config, route: &Route, body: &mut Body, trace: &mut Trace) -> Result<Answer> {
        let method = self.environment.method();
        if *route == Route::Unknown {
            return Err(Error::NotFound);
        }
        if method == "OPTIONS" {
            return cors::preflight(config, self.environment.text("HTTP_ORIGIN"), route.allow());
        }
        if !route.supports(method) {
            return Err(Error::MethodNotSupported { allow: route.allow() });
        }
        match route {
            Route::Health => Ok(self.health(config)),
            Route::Install => Ok(self.install(config, &Query::of(self.environment))),
            Route::Callback => Ok(self.callback(config, &Query::of(self.environment))),
            Route::Status => self.status(config, trace),
            Route::Root if method == "GET" => self.root_page(config, route),
            Route::Root => self.posted(config, body, trace),
            Route::Webhook(path) => self.webhook(config, path, body, trace),
            Route::Unknown => Err(Error::NotFound),
        }
    }

    fn health(&self, config: &Config) -> Answer {
        if let Err(Failure::Configuration(why)) = Http::for_portals(config) {
            self.log.error(&why);
            return unhealthy("configuration_error");
        }
        match Store::new(&config.token_folder).check() {
            Ok(()) => Answer::json(200, r#"{"status":"ok"}"#),
            Err(why) => {
                self.log.error(&why);
                unhealthy("storage_error")
            }
        }
    }

    /// `GET /`: where the server passes no path, the query decides.
    fn root_page(&self, config: &Config, route: &Route) -> Result<Answer> {
        let query = Query::of(self.environment);
        if query.code.is_some() || query.state.is_some() {
            return Ok(self.callback(config, &query));
        }
        if query.portal.is_some() {
            return Ok(self.install(config, &query));
        }
        Err(Error::MethodNotSupported { allow: route.allow() })
    }

    fn installer<'c>(&'c self, config: &'c Config) -> Installer<'c> {
        Installer { config, log: self.log, store: Store::new(&config.token_folder), deadline: self.deadline(config) }
    }

    fn install(&self, config: &Config, query: &Query) -> Answer {
        let language = Language::of(self.environment, query.lang.as_deref());
        match self.installer(config).begin(query) {
            Ok(redirect) => redirect,
            Err(Problem::NoPortalNamed) if query.portal.is_none() => {
                let action = config.bitrix24.redirect_uri.as_ref().map(|uri| format!("{uri}/install"));
                Page::start(language, action.unwrap_or_default()).answer(200, &Place::Tab)
            }
            Err(problem) => self.problem_page(config, language, &problem, &Place::Tab),
        }
    }

    fn callback(&self, config: &Config, query: &Query) -> Answer {
        let language = Language::of(self.environment, query.lang.as_deref());
        match self.installer(config).finish(query, self.environment.text("HTTP_COOKIE")) {
            Ok(installed) => Page::installed(language, &installed, config)
                .answer(200, &Place::Tab)
                .with("Set-Cookie", install::browser::forget_cookie(config)),
            Err(problem) => self.problem_page(config, language, &problem, &Place::Tab),
        }
    }

    fn problem_page(&self, config: &Config, language: Language, problem: &Problem, place: &Place) -> Answer {
        self.log_problem(problem);
        let mut page = Page::problem(language, problem);
        if matches!(place, Place::Tab) && problem.can_begin_again() {
            page = page.with_beginning(config);
        }
        let page = page.answer(problem.status(), place);
        match problem.retry_after() {
            Some(seconds) => page.with("Retry-After", seconds.to_string()),
            None => page,
        }
    }

    fn log_problem(&self, problem: &Problem) {
        let level = if problem.status() >= 500 { Level::Error } else { Level::Warn };
        let message = Page::problem(Language::English, problem).text();
        self.log.line(level, problem.detail().unwrap_or(&message), &[("status", problem.status().into())]);
    }

    /// `GET /status`, for a client; a page where the caller prefers one.
    fn status(&self, config: &Config, trace: &mut Trace) -> Result<Answer> {
        let credentials = self.credentials().ok_or(Error::Unauthorized)?;
        let client = self.admitted(config, &credentials, trace)?;
        let wants_page = self.environment.text("HTTP_ACCEPT").is_some_and(|accept| accept.contains("text/html"));
        let language = wants_page.then(|| Language::of(self.environment, Query::of(self.environment).lang.as_deref()));
        Ok(status::answer(config, client, language))
    }

    fn deadline(&self, config: &Config) -> Deadline {
        Deadline::from(self.started, config.bitrix24.timeout)
    }

    /// `POST /`: a client's call, or a form from Bitrix24.
    fn posted(&self, config: &Config, body: &mut Body, trace: &mut Trace) -> Result<Answer> {
        let Some(credentials) = self.credentials() else {
            return self.form_of_a_stranger(config, body);
        };
        let client = self.admitted(config, &credentials, trace)?;
        let limit = config.limits.max_body;
        let bytes = body.read(limit, self.deadline(config)).map_err(|error| body_error(error, limit))?;
        self.relayed(config, client, &bytes, trace)
    }

    fn credentials(&self) -> Option<Credentials> {
        let value = |name| self.environment.bytes(name);
        Credentials::from_headers(
            &[value("HTTP_AUTHORIZATION"), value("REDIRECT_HTTP_AUTHORIZATION")],
            value("HTTP_X_B24PROXY_TOKEN"),
        )
    }

    /// The client, once its credentials, its address and the page that made a browser call are right.
    fn admitted<'c>(&self, config: &'c Config, credentials: &Credentials, trace: &mut Trace) -> Result<&'c Client> {
        let client = access::authenticate(&config.clients, credentials)?;
        trace.client = Some(client.name.clone());
        self.admit(config, client, true)?;
        Ok(client)
    }

    /// `by_header`: whether the request carries credentials that a browser could have remembered.
    fn admit(&self, config: &Config, client: &Client, by_header: bool) -> Result<()> {
        access::check_address(&config.allowed_ips, client, self.environment.text("REMOTE_ADDR").unwrap_or(""))?;
        if !by_header {
            return Ok(());
        }
        let browser = Browser {
            origin: self.environment.os("HTTP_ORIGIN").map(|origin| origin.to_str().unwrap_or("null")),
            sec_fetch_site: self.environment.os("HTTP_SEC_FETCH_SITE").map(|site| site.to_str().unwrap_or("")),
        };
        access::check_origin(config.own_origin().as_deref(), &config.cors_origins, &browser)
    }

    /// Without credentials only a short form is read: Bitrix24's events and the application opened in it.
    fn form_of_a_stranger(&self, config: &Config, body: &mut Body) -> Result<Answer> {
        let content_type = self.environment.text("CONTENT_TYPE").unwrap_or("");
        let media_type = content_type.split(';').next().unwrap_or("").trim();
        if !media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(Error::Unauthorized);
        }
        let bytes = body
            .read(MAX_STRANGER_BODY, self.deadline(config))
            .map_err(|error| body_error(error, MAX_STRANGER_BODY))?;
        let form = Form::parse(&bytes);
        if form.has("event") {
            self.event(config, &form)
        } else if form.has("AUTH_ID") {
            Ok(self.opened(config, &form))
        } else {
            Err(Error::Unauthorized)
        }
    }

    /// What Bitrix24's server posts. Events other than installation and removal are none of ours.
    fn event(&self, config: &Config, form: &Form) -> Result<Answer> {
        let event: String =
            form.text("event").chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(64).collect();
        let installer = self.installer(config);
        let outcome = match event.to_ascii_uppercase().as_str() {
            "ONAPPINSTALL" => installer.installed_by_event(form).map(|_| ()),
            "ONAPPUNINSTALL" => installer.removed_by_event(form),
            _ => Ok(()),
        };
        match outcome {
            Ok(()) => {
                self.log.line(Level::Info, "event", &[("event", event.into())]);
                Ok(Answer::json(200, r#"{"status":"ok"}"#))
            }
            Err(problem) => Err(problem.to_error(Page::problem(Language::English, &problem).text())),
        }
    }

    /// The application opened in a frame of Bitrix24.
    fn opened(&self, config: &Config, form: &Form) -> Answer {
        let query = Form::parse(self.environment.bytes("QUERY_STRING"));
        let lang = Some(query.text("LANG")).filter(|lang| !lang.is_empty());
        let language = Language::of(self.environment, lang);
        let installer = self.installer(config);
        let domain = query.text("DOMAIN");
        let place = installer.origin(domain).map_or(Place::Tab, Place::Frame);
        match installer.opened(domain, form) {
            Ok(opened) => Page::opened(language, &opened, config).answer(200, &place),
            Err(problem) => self.problem_page(config, language, &problem, &place),
        }
    }

    /// The request of an admitted client, answered in the envelope.
    fn relayed(&self, config: &Config, client: &Client, bytes: &[u8], trace: &mut Trace) -> Result<Answer> {
        let envelope = Envelope::parse(bytes)?;
        let portal = find_portal(config, envelope.domain.as_deref())?;
        trace.portal = Some(portal.name.to_string());
        client.check_portal(&portal.name)?;
        let to = Destination { config, client, portal };
        match envelope.asked {
            Asked::One(call) => self.one_call(&to, call, trace),
            Asked::Many { calls, halt, raw } => self.many_calls(&to, &calls, halt, raw, trace),
            Asked::All { method, raw_params, cursor } => self.whole_list(&to, &method, raw_params, cursor, trace),
        }
    }

    fn one_call(&self, to: &Destination, mut asked: OneCall, trace: &mut Trace) -> Result<Answer> {
        trace.method = Some(asked.method.as_str().to_owned());
        to.client.check_method(&asked.method)?;
        if to.client.methods.is_some() && asked.method.is_batch() {
            asked.parameters = batch::checked(to.client, asked.version, asked.raw_params)?;
        }
        let call = Call {
            version: asked.version,
            method: &asked.method,
            query: "",
            payload: Payload::Json(asked.parameters),
            headers: vec![("Accept", "application/json")],
        };
        let wanted = Wanted {
            max_wait: to.config.limits.max_wait,
            prefix: SUCCESS_HEAD,
            identity: &[
                b"envelope",
                &[asked.version as u8],
                asked.method.as_str().as_bytes(),
                asked.raw_params.as_bytes(),
            ],
        };
        let (mut body, replayed) = match self.call(to, call, wanted, trace)? {
            Outcome::Answered(_, Some(upstream)) => return Err(Error::Bitrix24(upstream)),
            Outcome::Answered(reply, None) => {
                let replayed = reply.headers.contains_key("Idempotent-Replayed");
                (reply.body, replayed)
            }
            Outcome::Replayed(kept) => ([SUCCESS_HEAD, &kept.body].concat(), true),
        };
        body.push(SUCCESS_TAIL);
        let answer = Answer { status: 200, content_type: JSON.into(), headers: Vec::new(), body };
        Ok(if replayed { answer.with("Idempotent-Replayed", "true") } else { answer })
    }

    /// `calls`: packed into batches, in order.
    fn many_calls(&self, to: &Destination, calls: &[One], halt: bool, raw: &str, trace: &mut Trace) -> Result<Answer> {
        trace.method = Some(format!("{} calls", calls.len()));
        for call in calls {
            to.client.check_method(&call.method)?;
        }
        let store = Store::new(&to.config.token_folder);
        let keys = Keys::of(&store, &to.client.name);
        let mut journal = match self.idempotency_key()? {
            None => None,
            Some(key) => {
                let identity = fingerprint(&[b"calls", &[u8::from(halt)], raw.as_bytes()]);
                let deadline = self.deadline(to.config).at_most(to.config.limits.max_wait);
                Some(keys.claim_many(&to.portal.name, key, identity, deadline)?)
            }
        };
        let mut session = self.session(to, to.config.bitrix24.timeout);
        let mut steps = Steps::new(&mut session, to.portal);
        let outcome = bulk::calls::execute(&mut steps, calls, halt, &mut journal, self.log);
        trace.repeated = session.repeated;
        let outcome = outcome?;
        let body = outcome.to_json(SUCCESS_HEAD, SUCCESS_TAIL);
        let answer = Answer::json(200, body);
        Ok(if outcome.replayed { answer.with("Idempotent-Replayed", "true") } else { answer })
    }

    /// `all`: a list to its end.
    fn whole_list(
        &self,
        to: &Destination,
        method: &Method,
        raw_params: &str,
        cursor: Option<Cursor>,
        trace: &mut Trace,
    ) -> Result<Answer> {
        trace.method = Some(method.as_str().to_owned());
        to.client.check_method(method)?;
        if self.idempotency_key()?.is_some() {
            return Err(Error::InvalidRequest("an Idempotency-Key has no meaning where \"all\" only reads".into()));
        }
        let mut session = self.session(to, to.config.bitrix24.timeout);
        let mut steps = Steps::new(&mut session, to.portal);
        let outcome = bulk::list::read(&mut steps, method, raw_params, cursor);
        trace.repeated = session.repeated;
        Ok(Answer::json(200, outcome?.to_json(SUCCESS_HEAD, SUCCESS_TAIL)))
    }

    fn idempotency_key(&self) -> Result<Option<&str>> {
        self.environment.os("HTTP_IDEMPOTENCY_KEY").map(|value| check_key(value.as_encoded_bytes())).transpose()
    }

    fn session<'s>(&'s self, to: &Destination<'s>, max_wait: Duration) -> Session<'s> {
        Session::new(to.config, self.log, self.deadline(to.config), Some(max_wait))
    }

    /// A call to a webhook address, answered as Bitrix24 answers it.
    fn webhook(&self, config: &Config, path: &WebhookPath, body: &mut Body, trace: &mut Trace) -> Result<Answer> {
        let client = access::authenticate(&config.clients, &Credentials::Token(path.token.clone().into_bytes()))?;
        trace.client = Some(client.name.clone());
        self.admit(config, client, self.credentials().is_some())?;
        let limit = config.limits.max_body;
        let bytes = body.read(limit, self.deadline(config)).map_err(|error| body_error(error, limit))?;
        let portal = portal_of_webhook(config, client, path.portal.as_deref())?;
        trace.portal = Some(portal.name.to_string());
        let method = Method::parse(&path.method)
            .ok_or_else(|| Error::InvalidRequest("the address does not end in a method name".into()))?;
        trace.method = Some(method.as_str().to_owned());
        client.check_method(&method)?;
        let sent = Sent {
            query: self.environment.bytes("QUERY_STRING"),
            content_type: self.environment.text("CONTENT_TYPE").unwrap_or(""),
            body: &bytes,
        };
        let outgoing = match webhook::must_be_checked(client, &method) {
            true => sent.checked_batch(client, path.version)?,
            false => sent.passed_on(path.version)?,
        };
        let wanted = Wanted {
            max_wait: config.limits.max_wait.min(webhook::MAX_WAIT),
            prefix: b"",
            identity: &[
                b"webhook",
                &[path.version as u8],
                method.as_str().as_bytes(),
                sent.query,
                sent.content_type.as_bytes(),
                sent.body,
            ],
        };
        let call = Call {
            version: path.version,
            method: &method,
            query: &outgoing.query,
            payload: outgoing.payload,
            headers: Vec::new(),
        };
        Ok(match self.call(&Destination { config, client, portal }, call, wanted, trace)? {
            Outcome::Answered(reply, _) => webhook::pass_through(reply),
            Outcome::Replayed(kept) => {
                let Kept { status, content_type, body } = kept;
                Answer { status, content_type, headers: Vec::new(), body }.with("Idempotent-Replayed", "true")
            }
        })
    }

    /// Executes a call, once for each idempotency key.
    fn call<'r>(
        &'r self,
        to: &Destination<'r>,
        mut call: Call<'r>,
        wanted: Wanted,
        trace: &mut Trace,
    ) -> Result<Outcome> {
        let store = Store::new(&to.config.token_folder);
        let keys = Keys::of(&store, &to.client.name);
        // All waiting together: for the key, for a refresh and for the limit.
        let wait_until = self.deadline(to.config).at_most(wanted.max_wait);
        let mut held = None;
        if let Some(key) = self.idempotency_key()? {
            // REST 2 ignores the header; only REST 3.0 knows it.
            if call.version == Version::V3 {
                call.headers.push(("Idempotency-Key", key));
            }
            match keys.claim(&to.portal.name, key, fingerprint(wanted.identity), wait_until)? {
                State::Done(kept) => return Ok(Outcome::Replayed(kept)),
                State::Free(free) => held = Some(free),
            }
        }
        let mut session = self.session(to, wait_until.remaining());
        let outcome = session.call(to.portal, &call, wanted.prefix, held.as_mut());
        trace.repeated = session.repeated;
        match (&outcome, held) {
            (Ok((reply, None)), Some(held)) => {
                let content_type = reply.content_type.as_deref().unwrap_or(JSON);
                if let Err(error) = held.done(reply.status, content_type, reply.answer()) {
                    self.log.error(&format!("the answer of an idempotency key was not kept: {:?}", error.detail()));
                }
            }
            // The journal stays as it is: begun, and never executed again.
            (Err(error), Some(held)) if error.executed() == Some(Executed::Unknown) => drop(held),
            (_, Some(held)) => held.free(),
            (_, None) => {}
        }
        if let Ok((_, Some(upstream))) = &outcome {
            trace.bitrix24 = Some(upstream.error.chars().take(64).collect());
        }
        outcome.map(|(reply, upstream)| Outcome::Answered(reply, upstream))
    }

    fn log_outcome(&self, trace: &Trace, outcome: &Result<Answer>) {
        let mut fields: Vec<(&str, Value)> = Vec::new();
        for (name, value) in [
            ("client", &trace.client),
            ("portal", &trace.portal),
            ("method", &trace.method),
            ("bitrix24", &trace.bitrix24),
        ] {
            if let Some(value) = value {
                fields.push((name, value.as_str().into()));
            }
        }
        let (level, message, status) = match outcome {
            Ok(answer) => (Level::Info, "answered".to_owned(), answer.status),
            Err(error) => {
                let (status, code) = error.status_and_code();
                fields.push(("error_code", code.into()));
                let level = if status >= 500 { Level::Error } else { Level::Warn };
                (level, error.detail().map_or_else(|| error.text(), str::to_owned), status)
            }
        };
        fields.push(("status", status.into()));
        fields.push(("ms", u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).into()));
        if !trace.repeated.is_empty() {
            fields.push(("repeated", trace.repeated.clone().into()));
        }
        self.log.line(level, &message, &fields);
    }
}

fn unhealthy(reason: &str) -> Answer {
    Answer::json(503, format!(r#"{{"status":"unavailable","reason":"{reason}"}}"#))
}

/// The portal that a caller names; where one is configured, it need not be named. A name that is not configured is
/// not looked at any further.
fn find_portal<'c>(config: &'c Config, domain: Option<&str>) -> Result<&'c Portal> {
    match (domain, config.portals.as_slice()) {
        (Some(domain), _) => config.portal(domain).ok_or(Error::UnknownPortal),
        (None, [only]) => Ok(only),
        (None, _) => Err(Error::InvalidRequest("\"domain\" is missing: several portals are configured".into())),
    }
}

/// The portal in a webhook's path, or else the only one that this client may use.
fn portal_of_webhook<'c>(config: &'c Config, client: &Client, named: Option<&str>) -> Result<&'c Portal> {
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

fn body_error(error: BodyError, limit: u64) -> Error {
    match error {
        BodyError::TooLarge => Error::BodyTooLarge { limit },
        BodyError::Truncated => Error::InvalidRequest("the body ended before its announced length".into()),
        BodyError::TimedOut => Error::InvalidRequest("the body did not arrive in time".into()),
        BodyError::InvalidLength => Error::InvalidRequest("Content-Length is not a number".into()),
    }
}
