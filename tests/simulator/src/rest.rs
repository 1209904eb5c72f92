//! A REST call's way through the portal: path, parameters, limits, authentication, method, answer.

use std::cell::RefCell;
use std::io::Read;

use crate::batch;
use crate::clock;
use crate::faults::{Moment, Pace};
use crate::http::{Reply, Request};
use crate::leak;
use crate::ledger::{Auth, AuthParameter, Call, Direction, Kind, TokenPlace, Transfer};
use crate::methods::{self, Answer, Caller, Failure, Outcome};
use crate::multipart::{self, Form};
use crate::oauth::Access;
use crate::params;
use crate::php::{Array, Php};
use crate::rest3;
use crate::state::Shared;
use crate::transfer::{self, Paced};
use crate::xml;

/// Where a call's path leads.
#[derive(Debug, PartialEq)]
pub(crate) struct Route {
    pub(crate) version: u8,
    pub(crate) method: String,
    pub(crate) xml: bool,
    pub(crate) webhook: Option<(u32, String)>,
}

impl Route {
    /// `/rest/METHOD`, `/rest/USER/CODE/METHOD`, and both below `/rest/api/` for REST 3.0.
    pub(crate) fn of(path: &str) -> Option<Route> {
        let mut parts: Vec<&str> = path.strip_prefix("/rest/")?.split('/').collect();
        let version = if parts.len() > 1 && parts[0] == "api" {
            parts.remove(0);
            3
        } else {
            2
        };
        let (webhook, method) = match parts[..] {
            [method] => (None, method),
            [user, code, method] => (Some((user.parse().ok()?, code.to_owned())), method),
            _ => return None,
        };
        let method = method.to_lowercase();
        let (method, xml) = match (method.strip_suffix(".json"), method.strip_suffix(".xml")) {
            (Some(method), _) => (method.to_owned(), false),
            (_, Some(method)) => (method.to_owned(), true),
            _ => (method, false),
        };
        Some(Route { version, method, xml, webhook })
    }
}

/// What the access token is called among the parameters; the first counts.
pub(crate) const TOKEN_NAMES: [&str; 2] = ["auth", "access_token"];

/// What a request says of who calls.
pub(crate) struct Credentials {
    pub(crate) auth: Auth,
    pub(crate) place: TokenPlace,
    /// `Authorization` as the portal sees it.
    pub(crate) header: Option<String>,
    pub(crate) parameters: Vec<AuthParameter>,
}

impl Credentials {
    /// The header counts before the parameters, whatever stands in either; `body` says which of the `params` came in it. The
    /// token is taken out of the parameters.
    fn take(webhook: Option<&(u32, String)>, header: Option<&str>, params: &mut Array, body: &Array) -> Credentials {
        let given = |name: &str| {
            let value = params.remove(name)?.to_text();
            Some(AuthParameter { name: name.to_owned(), value, in_body: body.get(name).is_some() })
        };
        let parameters: Vec<AuthParameter> = TOKEN_NAMES.map(given).into_iter().flatten().collect();
        let found = parameters.first().filter(|parameter| !parameter.value.is_empty());
        let (auth, place) = match (webhook, header.and_then(bearer), found) {
            (Some((user, code)), _, _) => (Auth::Webhook { user: *user, code: code.clone() }, TokenPlace::Path),
            (None, Some(token), _) => (Auth::Token(token.to_owned()), TokenPlace::Header),
            (None, None, Some(found)) => {
                let place = if found.in_body { TokenPlace::Body } else { TokenPlace::Query };
                (Auth::Token(found.value.clone()), place)
            }
            (None, None, None) => (Auth::None, TokenPlace::Nowhere),
        };
        Credentials { auth, place, header: header.map(str::to_owned), parameters }
    }
}

/// `Bearer TOKEN`, in any case; other schemes are nobody's token.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(|c: char| c.is_ascii_whitespace())?;
    let token = token.trim_start();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Answers a call; `moved_to` is where the portal is now, if this is an address it has left.
pub(crate) fn answer(
    shared: &Shared,
    portal: usize,
    listener: &str,
    route: &Route,
    request: &Request,
    moved_to: Option<&str>,
) -> Reply {
    let (mut params, body) = match route.version {
        3 => (rest3::params(request), rest3::of_body(request)),
        _ => (params::of_request(request), params::of_body(request)),
    };
    let header = authorization(shared, portal, request);
    let credentials = Credentials::take(route.webhook.as_ref(), header, &mut params, &body);
    let transfer = if route.version == 3 { None } else { transfer::of(&route.method, &params, &body) };
    let direction = transfer.as_ref().map(|transfer| transfer.direction);
    let kind = Kind::Call(entered_call(shared, portal, route, &credentials, &params, transfer));
    let now = shared.clock.now();
    let number = shared.ledger.begin(now, listener, request, kind);
    let mut struck = Vec::new();
    let reply = match moved_to {
        Some(url) => Reply::redirect(&format!("{url}{}", request.target)),
        None => {
            let moment = Moment::Call(portal, &route.method, direction);
            shared.faults.around(&moment, &mut struck, || {
                let started = shared.clock.now();
                let entered = enter(shared, portal, route, &credentials);
                let job = Job { shared, portal, route, credentials: &credentials, started, number };
                let reply = match (route.version, direction) {
                    _ if route.method == "sim.leak" && entered.is_ok() => leak::answer(&job, &params),
                    (3, _) => rest3::answer(&job, request, entered, &params),
                    (_, Some(_)) => transfer::answer(&job, request, entered, &params, &Form::default()),
                    (_, None) => job.rest2(entered, &params),
                };
                job.with_its_slashes(reply)
            })
        }
    };
    shared.ledger.finish(number, &reply, struck);
    reply
}

/// Unless a web server in front swallows it.
fn authorization<'a>(shared: &Shared, portal: usize, request: &'a Request) -> Option<&'a str> {
    let strips = shared.state().portals[portal].strips_authorization;
    request.header("authorization").filter(|_| !strips)
}

/// A call as the ledger first has it.
fn entered_call(
    shared: &Shared,
    portal: usize,
    route: &Route,
    credentials: &Credentials,
    params: &Array,
    transfer: Option<Transfer>,
) -> Call {
    Call {
        portal: shared.state().portals[portal].name.clone(),
        version: route.version,
        method: route.method.clone(),
        auth: credentials.auth.clone(),
        token_place: credentials.place,
        authorization: credentials.header.clone(),
        auth_parameters: credentials.parameters.clone(),
        params: Php::Array(params.clone()).to_json(),
        executed: false,
        replayed: false,
        commands: Vec::new(),
        transfer: transfer.map(Box::new),
    }
}

/// Whether a call brings a file that `answer_upload` takes in as it comes.
pub(crate) fn is_upload(route: &Route, request: &Request) -> bool {
    let posted = request.method == "POST" && params::boundary(request).is_some();
    route.version == 2 && route.method == "upload" && posted
}

/// Answers such a call, of which the head has come. As PHP does, it looks at credentials and signature when all of the body is
/// there, and reads `token`, `auth` and `access_token` in the form before those in the address.
pub(crate) fn answer_upload(
    shared: &Shared,
    portal: usize,
    listener: &str,
    route: &Route,
    request: &Request,
    body: &mut dyn Read,
    moved_to: Option<&str>,
) -> Reply {
    let header = authorization(shared, portal, request);
    let query = params::parse_query(request.query.as_bytes());
    let in_address = Credentials::take(route.webhook.as_ref(), header, &mut query.clone(), &Array::new());
    let transfer = transfer::of(&route.method, &query, &Array::new());
    let read = transfer.as_ref().map(|transfer| transfer.moved.clone()).unwrap_or_default();
    let call = entered_call(shared, portal, route, &in_address, &query, transfer);
    let number = shared.ledger.begin(shared.clock.now(), listener, request, Kind::Call(call));
    let mut struck = Vec::new();
    let form = RefCell::new(Form::default());
    let take_in = |pace: Pace| {
        let boundary = params::boundary(request).unwrap_or_default();
        let mut body = Paced { body, pace, faults: &shared.faults, read, start: Vec::new() };
        let result = multipart::read(&mut body, &boundary, &mut form.borrow_mut());
        shared.ledger.update(number, |entry| entry.body = body.start);
        shared.ledger.update_call(number, |call| {
            if let Some(transfer) = &mut call.transfer {
                transfer.parts.clone_from(&form.borrow().parts);
                transfer.complete = form.borrow().complete;
            }
        });
        result.is_ok()
    };
    let execute = || {
        let form = form.take();
        let mut params = query.clone();
        params.replace(form.fields.clone());
        let credentials = Credentials::take(route.webhook.as_ref(), header, &mut params, &form.fields);
        let as_read = transfer::of(&route.method, &params, &form.fields);
        let as_read = entered_call(shared, portal, route, &credentials, &params, as_read);
        shared.ledger.update_call(number, |call| {
            let mut transfer = call.transfer.take();
            if let (Some(transfer), Some(as_read)) = (&mut transfer, &as_read.transfer) {
                (transfer.token, transfer.token_in_body) = (as_read.token.clone(), as_read.token_in_body);
            }
            *call = Call { transfer, ..as_read };
        });
        let entered = enter(shared, portal, route, &credentials);
        let started = shared.clock.now();
        let job = Job { shared, portal, route, credentials: &credentials, started, number };
        job.with_its_slashes(transfer::answer(&job, request, entered, &params, &form))
    };
    let reply = match moved_to {
        Some(url) => Reply::redirect(&format!("{url}{}", request.target)),
        None => {
            let moment = Moment::Call(portal, &route.method, Some(Direction::Upload));
            shared.faults.around_reading(&moment, &mut struck, take_in, execute)
        }
    };
    shared.ledger.finish(number, &reply, struck);
    reply
}

/// A call that is being worked on.
pub(crate) struct Job<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) portal: usize,
    pub(crate) route: &'a Route,
    pub(crate) credentials: &'a Credentials,
    pub(crate) started: f64,
    /// Its entry in the ledger.
    pub(crate) number: u64,
}

impl Job<'_> {
    fn rest2(&self, entered: Result<Caller, Failure>, params: &Array) -> Reply {
        let mut ran = Vec::new();
        let outcome = entered.and_then(|caller| match self.route.method.as_str() {
            "batch" => batch::run(self.shared, &caller, params, &mut ran),
            method => methods::run(self.shared, &caller, method, params),
        });
        let executed = !matches!(&outcome, Err(failure) if failure.refused);
        self.shared.ledger.update_call(self.number, |call| {
            call.executed = executed;
            call.commands = ran;
        });
        self.reply(outcome)
    }

    pub(crate) fn reply(&self, outcome: Outcome) -> Reply {
        let (status, body) = match outcome {
            Ok(Answer { result, next, total }) => {
                let mut body = Array::new().with("result", result);
                if let Some(next) = next {
                    body.put("next", next);
                }
                if let Some(total) = total {
                    body.put("total", total);
                }
                (200, body.with("time", self.time()))
            }
            Err(failure) => (failure.status, old_error(failure)),
        };
        if self.route.xml {
            let text = xml::encode(&body.into());
            Reply::new(status, "text/xml; charset=utf-8", text)
        } else {
            Reply::json(status, Php::from(body).encode())
        }
    }

    /// Each `/` of PHP's JSON has a backslash of its own before it.
    fn with_its_slashes(&self, mut reply: Reply) -> Reply {
        if self.shared.state().portals[self.portal].plain_slashes {
            reply.body = String::from_utf8_lossy(&reply.body).replace("\\/", "/").into_bytes();
        }
        reply
    }

    pub(crate) fn time(&self) -> Php {
        time(self.shared, self.portal, &self.route.method, self.started)
    }
}

pub(crate) fn old_error(failure: Failure) -> Array {
    Array::new().with("error", failure.error).with("error_description", failure.description)
}

/// Deleted portal, rate limit, credentials: what is looked at before the method.
fn enter(shared: &Shared, index: usize, route: &Route, credentials: &Credentials) -> Result<Caller, Failure> {
    let now = shared.clock.now();
    let mut state = shared.state();
    let state = &mut *state;
    let portal = &mut state.portals[index];
    if portal.deleted {
        return Err(methods::refuse(500, "PORTAL_DELETED", "Portal was deleted"));
    }
    if portal.overloaded {
        return Err(methods::refuse(503, "OVERLOAD_LIMIT", "REST API is blocked due to overload."));
    }
    if portal.bucket.as_mut().is_some_and(|bucket| !bucket.take(now)) {
        return Err(methods::refuse(503, "QUERY_LIMIT_EXCEEDED", "Too many requests"));
    }
    let unauthorized = |error, description| Err(methods::refuse(401, error, description));
    let caller = |user: u32, client_id: String| Caller {
        portal: index,
        user,
        client_id,
        auth: credentials.parameters.iter().map(|given| (given.name.clone(), given.value.clone())).collect(),
        webhook: route.webhook.clone(),
        token: match &credentials.auth {
            Auth::Token(token) => Some(token.clone()),
            _ => None,
        },
        xml: route.xml,
    };
    match &credentials.auth {
        Auth::None => unauthorized("NO_AUTH_FOUND", "Wrong authorization data"),
        Auth::Webhook { user, code } => {
            if *code != portal.webhook_code || !portal.users.contains_key(user) {
                return Err(methods::refuse(403, "INVALID_CREDENTIALS", "Invalid request credentials"));
            }
            Ok(caller(*user, String::new()))
        }
        Auth::Token(token) => match state.oauth.access(token, index, now) {
            Access::Valid(grant) => Ok(caller(grant.user, grant.client_id)),
            Access::Expired => unauthorized("expired_token", "The access token provided has expired."),
            Access::Unknown => unauthorized("invalid_token", "Unable to get application by token"),
        },
    }
}

/// The `time` of an answer.
pub(crate) fn time(shared: &Shared, portal: usize, method: &str, started: f64) -> Php {
    let now = shared.clock.now();
    let state = shared.state();
    let portal = &state.portals[portal];
    let micro = |t: f64| (t * 1e6).round() / 1e6;
    let (used, free_at) = portal.operating_limit.as_ref().map_or((0.0, now + 600.0), |limit| limit.used(method, now));
    let operating = portal.operating.get(method).copied().unwrap_or(used);
    let reset_at = portal.blocked.get(method).copied().unwrap_or(free_at);
    Array::new()
        .with("start", micro(started))
        .with("finish", micro(now))
        .with("duration", micro(now - started))
        .with("processing", micro((now - started) / 2.0))
        .with("date_start", clock::iso(started))
        .with("date_finish", clock::iso(now))
        .with("operating_reset_at", reset_at as i64)
        .with("operating", operating)
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_is_read_in_any_case_and_nothing_else_is() {
        for header in ["Bearer abc", "bearer abc", "BEARER  abc"] {
            assert_eq!(bearer(header), Some("abc"), "{header}");
        }
        for header in ["Basic abc", "Bearer", "Bearer ", "abc", "Bearerabc"] {
            assert_eq!(bearer(header), None, "{header}");
        }
    }

    #[test]
    fn paths_lead_to_methods() {
        let route = |path| Route::of(path).map(|r| (r.version, r.method, r.xml, r.webhook));
        let hook = Some((1, "abc".to_owned()));
        assert_eq!(route("/rest/CRM.Deal.Add.JSON"), Some((2, "crm.deal.add".to_owned(), false, None)));
        assert_eq!(route("/rest/1/abc/profile.xml"), Some((2, "profile".to_owned(), true, hook.clone())));
        assert_eq!(route("/rest/api/tasks.task.get"), Some((3, "tasks.task.get".to_owned(), false, None)));
        assert_eq!(route("/rest/api/1/abc/batch"), Some((3, "batch".to_owned(), false, hook)));
        assert_eq!(route("/rest/x/abc/profile"), None);
        assert_eq!(route("/other"), None);
    }
}
