//! A request from beginning to end: *variables → route → access → body → portal → token → call → answer*. Uses install and
//! what lies below it; does not know who brought the request.

mod access;
pub mod caller;
mod context;
mod cors;
pub mod events;
mod files;
mod guard;
mod health;
mod installing;
pub mod page;
pub mod request_of_1c;
mod rewriting;
mod route;
pub mod status;
#[cfg(test)]
mod test_as_php_reads;
mod webhook;

use crate::app::App;
use crate::config::Config;
use crate::install::browser::Query;
use crate::system::clock::Deadline;
use crate::system::log::{Level, Log};
use crate::values::answer::Answer;
use crate::values::error::{Arrived, Error, Executed, Result};
use crate::values::file_address::holds_token;
use crate::values::form::Form;
use crate::values::portal::Version;
use crate::values::request::{Body, Request, Variables};
pub use context::MAX_STRANGER_BODY;
use context::{Serving, Trace};
use page::{Links, Page, Place, StatusPage};
use route::Route;
use serde_json::Value;
use std::time::Duration;

/// How long the rest of a refused request is read. fcgiwrap turns an early answer into 502; mod_cgid has body and answer on
/// one socket, which is reset when it is closed with something unread.
const DRAIN_TIME: Duration = Duration::from_secs(10);
/// How much of it where no limit is known.
const MAX_UNCONFIGURED_BODY: u64 = 64 << 20;

/// The answer to a request. `loaded`: the program with its configuration, or why that cannot be used.
pub fn answer(loaded: std::result::Result<&App, &String>, request: &mut Request, log: &Log) -> Answer {
    let Request { variables, body, started } = request;
    let serving = Serving { variables, log, started: *started };
    let mut trace = Trace::default();
    let answer = serving.answer(loaded, body, &mut trace);
    // Whatever was decided without the body: it is read to its end before the answer is written.
    let (longest, until) = serving.rest(loaded.ok(), trace.client.is_some());
    body.drain(longest, until);
    answer
}

/// Whose shape the failures of a request have: a webhook's version, or the envelope's.
pub fn shape(variables: &Variables) -> Option<Version> {
    match Route::of(variables) {
        Route::Webhook(path) => Some(path.version),
        _ => None,
    }
}

/// The answer to a request at which the program itself failed.
pub fn defect(shape: Option<Version>, executed: Executed, request_id: &str) -> Answer {
    let error = Error::Defect { executed };
    match shape {
        Some(version) => webhook::failure(&error, version),
        None => Answer::failure(&error, request_id),
    }
}

impl Serving<'_> {
    fn answer(&self, loaded: std::result::Result<&App, &String>, body: &mut Body, trace: &mut Trace) -> Answer {
        let route = self.route();
        let outcome = match loaded {
            Ok(app) => self.routed(app, &route, body, trace),
            Err(why) => Err(Error::Configuration(why.clone())),
        };
        let outcome = match outcome.map_err(Error::or_host_busy) {
            Err(error) if route == Route::Health && loaded.is_err() => {
                self.log.error(&error.for_administrator());
                Ok(health::unavailable(error.status_and_code().1))
            }
            outcome => outcome,
        };
        self.log_outcome(trace, &outcome);
        let answer = outcome.unwrap_or_else(|error| match route.version() {
            Some(version) => webhook::failure(&error, version),
            None => self
                .failure_page(&route, &error, loaded.ok().map(|app| &app.config))
                .unwrap_or_else(|| Answer::failure(&error, &self.log.request_id)),
        });
        match loaded {
            Ok(app) => cors::decorate(answer, &app.config, self.variables.text("HTTP_ORIGIN")),
            Err(_) => answer,
        }
    }

    /// Where the server passes no path, the query of a GET decides; without one, whether a page is wanted.
    fn route(&self) -> Route {
        let route = Route::of(self.variables);
        match self.variables.method() {
            "GET" if route == Route::Root => {}
            "HEAD" if route == Route::Root && self.wants_page() => return Route::Front,
            _ => return route,
        }
        match Query::of(self.variables) {
            Query { installed: Some(_), .. } => Route::Installed,
            Query { code: Some(_), .. } | Query { state: Some(_), .. } | Query { error: Some(_), .. } => {
                Route::Callback
            }
            Query { portal: Some(_), .. } => Route::Install,
            _ if self.wants_page() => Route::Front,
            _ => route,
        }
    }

    /// How much of a refused request is read, and until when. A body that is too large is longer than its limit.
    fn rest(&self, app: Option<&App>, is_known: bool) -> (u64, Deadline) {
        let Some(Config { limits, bitrix24, .. }) = app.map(|app| &app.config) else {
            return (MAX_UNCONFIGURED_BODY, self.strangers_deadline());
        };
        let is_of_a_file = self.is_of_a_file();
        let longest = if is_of_a_file { limits.max_file } else { limits.max_body };
        let until = match is_known {
            // It is bounded in its pauses alone.
            true if is_of_a_file => Deadline::after(DRAIN_TIME),
            true => Deadline::from(self.started, bitrix24.timeout).at_most(DRAIN_TIME),
            false => self.strangers_deadline(),
        };
        (longest.saturating_mul(4), until)
    }

    fn is_of_a_file(&self) -> bool {
        match self.route() {
            Route::File => true,
            Route::Webhook(_) => holds_token(self.variables.bytes("QUERY_STRING")),
            _ => false,
        }
    }

    /// What a person in a browser sees of a failure. It says no more than the envelope would; why is in the log.
    fn failure_page(&self, route: &Route, error: &Error, config: Option<&Config>) -> Option<Answer> {
        let is_page = match route {
            Route::Front | Route::Install | Route::Callback | Route::Installed => true,
            Route::Status | Route::Unknown => self.wants_page(),
            _ => false,
        };
        let links = Links::at(self.own_address(config));
        let page = Page::failure(self.language(), error, &links).filter(|_| is_page)?;
        Some(page.answer(error.status_and_code().0, &Place::Tab).with_headers_of(error))
    }

    fn routed(&self, app: &App, route: &Route, body: &mut Body, trace: &mut Trace) -> Result<Answer> {
        let (method, config) = (self.variables.method(), &app.config);
        match route {
            Route::Unknown => return Err(Error::NotFound),
            Route::NearlyWebhook(_, form) => return Err(Error::NoWebhook { form }),
            _ if method == "OPTIONS" => {
                return cors::preflight(config, self.variables.text("HTTP_ORIGIN"), route.methods())
            }
            _ if !route.supports(method) => {
                return Err(Error::MethodNotSupported { allow: cors::allow(config, route.methods()) })
            }
            _ => {}
        }
        // Health says it in its own way.
        if *route != Route::Health {
            app.store.guarded().map_err(Error::Storage)?;
        }
        match route {
            Route::Health => self.health(app, trace),
            Route::Install => Ok(self.install(app, &Query::of(self.variables))),
            Route::Callback => Ok(self.callback(app, &Query::of(self.variables))),
            Route::Installed => Ok(self.finished(app, &Query::of(self.variables))),
            Route::Front => Ok(Page::front(self.language(), &self.links(app)).answer(200, &Place::Tab)),
            Route::Status => self.status(app, trace),
            Route::File => self.file(app, body, trace),
            Route::Root => self.posted(app, body, trace),
            Route::Webhook(path) => self.webhook(app, path, body, trace),
            Route::NearlyWebhook(..) | Route::Unknown => Err(Error::NotFound),
        }
    }

    /// `GET /status`, for a client; a page where the caller prefers one.
    fn status(&self, app: &App, trace: &mut Trace) -> Result<Answer> {
        let credentials = self.credentials().ok_or(Error::Unauthorized(Arrived::Nothing))?;
        let client = self.admitted(&app.config, &credentials, true, trace)?;
        let language = self.wants_page().then(|| self.language());
        let caller = self.caller(&app.config).for_header();
        let portals = status::of_client(app, client);
        let answer = match language {
            None => status::as_json(&portals),
            Some(language) => StatusPage::of(language, &portals).answer(&Place::Tab),
        };
        Ok(answer.with(caller::HEADER, caller))
    }

    /// `POST /`: a client's call, or a form from Bitrix24.
    fn posted(&self, app: &App, body: &mut Body, trace: &mut Trace) -> Result<Answer> {
        let config = &app.config;
        let Some(credentials) = self.credentials() else {
            return self.form_of_a_stranger(app, body);
        };
        let client = self.admitted(config, &credentials, true, trace)?;
        let bytes = self.read(config, body)?;
        self.relayed(app, client, &bytes, trace)
    }

    /// Without credentials only a short form is read: Bitrix24's events and the application opened in it.
    fn form_of_a_stranger(&self, app: &App, body: &mut Body) -> Result<Answer> {
        let content_type = self.variables.text("CONTENT_TYPE").unwrap_or("");
        let media_type = content_type.split(';').next().unwrap_or("").trim();
        if !media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(Error::Unauthorized(Arrived::Nothing));
        }
        let form = Form::of(self.read_of_stranger(&app.config, body)?);
        if form.has("event") {
            self.event(app, &form)
        } else if form.has("AUTH_ID") {
            Ok(self.opened(app, &form))
        } else {
            Err(Error::Unauthorized(Arrived::Nothing))
        }
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
                (level, error.for_administrator(), status)
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
