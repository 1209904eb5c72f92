//! The methods of REST 2.

use std::time::Duration;

use crate::addresses::Signer;
use crate::entities::{self, Kind};
use crate::file_methods;
use crate::leak;
use crate::php::{Array, Php};
use crate::state::{PortalState, Shared};

/// Who calls.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) portal: usize,
    pub(crate) user: u32,
    pub(crate) client_id: String,
    /// What its parameters say of who it is.
    pub(crate) auth: Vec<(String, String)>,
    pub(crate) webhook: Option<(u32, String)>,
    pub(crate) token: Option<String>,
    /// Asks for XML.
    pub(crate) xml: bool,
}

pub(crate) struct Answer {
    pub(crate) result: Php,
    pub(crate) next: Option<i64>,
    pub(crate) total: Option<i64>,
}

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: u16,
    pub(crate) error: Php,
    pub(crate) description: String,
    /// Refused before the method was run.
    pub(crate) refused: bool,
}

pub(crate) type Outcome = Result<Answer, Failure>;

impl From<Php> for Answer {
    fn from(result: Php) -> Answer {
        Answer { result, next: None, total: None }
    }
}

pub(crate) fn fail(status: u16, error: &str, description: &str) -> Failure {
    Failure { status, error: error.into(), description: description.to_owned(), refused: false }
}

pub(crate) fn refuse(status: u16, error: &str, description: &str) -> Failure {
    Failure { refused: true, ..fail(status, error, description) }
}

const OTHERS: &[(&str, &str)] = &[
    ("app.info", ""),
    ("batch", ""),
    ("event.bind", ""),
    ("event.get", ""),
    ("event.unbind", ""),
    ("methods", ""),
    ("profile", ""),
    ("scope", ""),
    ("server.time", ""),
    ("sim.echo", ""),
    ("sim.emptyerror", ""),
    ("sim.fail", ""),
    ("sim.leak", ""),
    ("sim.numericerror", ""),
    ("sim.oldstyle", ""),
    ("sim.sleep", ""),
    ("task.commentitem.add", "task"),
    ("user.admin", ""),
    ("user.current", "user"),
];

/// The scope a method needs; `None` where there is no such method.
pub(crate) fn scope_of(method: &str) -> Option<&'static str> {
    let other = OTHERS.iter().chain(file_methods::METHODS).find(|(name, _)| *name == method);
    let other = other.map(|(_, scope)| *scope);
    other.or_else(|| entities::kind_of(method).map(|(kind, _)| kind.scope))
}

/// Whether the caller may run the method at all, now.
pub(crate) fn admit(shared: &Shared, caller: &Caller, method: &str) -> Result<(), Failure> {
    let scope = scope_of(method).ok_or_else(|| refuse(404, "ERROR_METHOD_NOT_FOUND", "Method not found!"))?;
    let now = shared.clock.now();
    let state = shared.state();
    let portal = &state.portals[caller.portal];
    admit_scope(portal, scope)?;
    if portal.blocked.get(method).is_some_and(|until| *until > now) {
        return Err(refuse(429, "OPERATION_TIME_LIMIT", "Method is blocked due to operation time limit."));
    }
    Ok(())
}

pub(crate) fn admit_scope(portal: &PortalState, scope: &str) -> Result<(), Failure> {
    if portal.has_scope(scope) {
        return Ok(());
    }
    Err(refuse(403, "insufficient_scope", "The request requires higher privileges than provided by the access token"))
}

/// What a call or command of the method uses of its time, and refusals that are ordered.
pub(crate) fn spend(shared: &Shared, caller: &Caller, method: &str) -> Result<(), Failure> {
    let now = shared.clock.now();
    let mut state = shared.state();
    let portal = &mut state.portals[caller.portal];
    if let Some((code, times)) = portal.refusals.get_mut(method).filter(|(_, times)| *times > 0) {
        *times -= 1;
        let status = if code == "OPERATION_TIME_LIMIT" { 429 } else { 503 };
        return Err(refuse(status, code, "Refused for now"));
    }
    if portal.operating_limit.as_mut().is_some_and(|limit| !limit.spend(method, now)) {
        return Err(refuse(429, "OPERATION_TIME_LIMIT", "Method is blocked due to operation time limit."));
    }
    Ok(())
}

/// Runs a method other than `batch`.
pub(crate) fn run(shared: &Shared, caller: &Caller, method: &str, params: &Array) -> Outcome {
    admit(shared, caller, method)?;
    spend(shared, caller, method)?;
    if let Some((kind, verb)) = entities::kind_of(method) {
        let mut state = shared.state();
        let portal = &mut state.portals[caller.portal];
        let signer = Signer::of(portal, caller);
        return entity(portal, &signer, kind, verb, params);
    }
    match method {
        "sim.sleep" => {
            let seconds = params.get("seconds").and_then(Php::to_float).unwrap_or(1.0);
            let wait = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            shared.faults.pause(wait);
            Ok(Php::Bool(true).into())
        }
        "sim.leak" => {
            let result = leak::in_batch(&shared.state(), caller.portal, caller.token.as_deref(), params);
            result.map(Answer::from).map_err(|text| fail(400, "LEAK", &text))
        }
        "server.time" => Ok(Php::Str(crate::clock::iso(shared.clock.now())).into()),
        method if method.starts_with("sim.") => simulated(method, params),
        "task.commentitem.add" => comment(params),
        method if file_methods::METHODS.iter().any(|(name, _)| *name == method) => {
            let now = shared.clock.now();
            file_methods::run(&mut shared.state().portals[caller.portal], caller, method, params, now)
        }
        "event.bind" | "event.get" | "event.unbind" => {
            handlers(&mut shared.state().portals[caller.portal], caller, method, params)
        }
        method => {
            let state = shared.state();
            about(&state.portals[caller.portal], caller, method)
        }
    }
}

fn simulated(method: &str, params: &Array) -> Outcome {
    let text = |name| params.get(name).map(Php::to_text).unwrap_or_default();
    match method {
        "sim.echo" => Ok(Php::Array(params.clone()).into()),
        "sim.oldstyle" => Err(fail(200, "OLD_STYLE", "An old method's error")),
        "sim.emptyerror" => Err(fail(400, "", "An error without a code")),
        "sim.numericerror" => {
            Err(Failure { error: Php::Int(42), ..fail(400, "", "An error with a number for a code") })
        }
        // sim.fail {status, error, error_description}
        _ => {
            let status = params.get("status").and_then(Php::to_int).unwrap_or(400);
            Err(Failure {
                error: params.get("error").cloned().unwrap_or("SIM".into()),
                ..fail(status as u16, "", &text("error_description"))
            })
        }
    }
}

/// To which addresses events are posted.
fn handlers(portal: &mut PortalState, caller: &Caller, method: &str, params: &Array) -> Outcome {
    if caller.webhook.is_some() {
        return Err(refuse(403, "WRONG_AUTH_TYPE", "Current authorization type is denied for this method"));
    }
    if method == "event.get" {
        let row = |(event, handler): &(String, String)| -> Php {
            Array::new()
                .with("event", event.as_str())
                .with("handler", handler.as_str())
                .with("auth_type", "0")
                .with("offline", 0_i64)
                .into()
        };
        return Ok(Php::Array(portal.handlers.iter().map(row).collect()).into());
    }
    let text = |name| params.get_any_case(name).map(Php::to_text).unwrap_or_default();
    let (event, handler) = (text("event").to_uppercase(), text("handler"));
    if !event.starts_with("ON") {
        return Err(fail(400, "ERROR_EVENT_NOT_FOUND", "Event not found"));
    }
    if !handler.starts_with("http") {
        return Err(fail(400, "ERROR_ARGUMENT", "Argument 'HANDLER' is null or empty"));
    }
    let bound = (event, handler);
    let before = portal.handlers.len();
    if method == "event.unbind" {
        portal.handlers.retain(|known| *known != bound);
        let count = i64::try_from(before - portal.handlers.len()).unwrap_or(0);
        return Ok(Php::from(Array::new().with("count", count)).into());
    }
    if portal.handlers.contains(&bound) {
        return Err(fail(400, "ERROR_CORE", "Unable to set event handler: Handler already binded"));
    }
    portal.handlers.push(bound);
    Ok(Php::Bool(true).into())
}

/// Old and positional: the task's number, then the comment.
fn comment(params: &Array) -> Outcome {
    let task = params.get("0").or_else(|| params.get_any_case("TASKID"));
    let fields = params.get("1").or_else(|| params.get_any_case("FIELDS"));
    let missing = |name: &str| {
        fail(
            400,
            "ERROR_CORE",
            &format!("TASKS_ERROR_EXCEPTION_#256; Param #{name} for method ctaskcommentitem::add() is missing or of a wrong type; 256/TE/WRONG_ARGUMENTS"),
        )
    };
    let task = task.and_then(Php::to_int).ok_or_else(|| missing("0 (taskId)"))?;
    fields.and_then(Php::as_array).ok_or_else(|| missing("1 (arFields)"))?;
    Ok(Php::Int(task.saturating_mul(1000).saturating_add(1)).into())
}

fn about(portal: &PortalState, caller: &Caller, method: &str) -> Outcome {
    let admin = portal.users.get(&caller.user).copied().unwrap_or(false);
    let id = caller.user.to_string();
    let person =
        |array: Array| array.with("NAME", if admin { "Анна" } else { "Пётр" }).with("LAST_NAME", "Ёлкина/Петрова");
    let result: Php = match method {
        "profile" => person(Array::new().with("ID", id).with("ADMIN", admin))
            .with("PERSONAL_GENDER", "")
            .with("TIME_ZONE", "Europe/Moscow")
            .into(),
        "user.admin" => admin.into(),
        "user.current" => {
            person(Array::new().with("ID", id).with("ACTIVE", true)).with("EMAIL", "user@example.com").into()
        }
        "app.info" => Array::new()
            .with("ID", 7_i64)
            .with("CODE", caller.client_id.as_str())
            .with("VERSION", 1_i64)
            .with("STATUS", "L")
            .with("INSTALLED", true)
            .with("PAYMENT_EXPIRED", "N")
            .with("DAYS", Php::Null)
            .with("LANGUAGE_ID", "ru")
            .with("LICENSE", "ru_nfr")
            .with("LICENSE_TYPE", "nfr")
            .with("LICENSE_FAMILY", "nfr")
            .into(),
        "scope" => {
            let scopes = portal.scope.split(',').map(|s| Php::from(s.trim()));
            Php::Array(scopes.collect())
        }
        _ => Php::Array(all_methods().map(Php::from).collect()),
    };
    Ok(result.into())
}

fn all_methods() -> impl Iterator<Item = String> {
    let others = OTHERS.iter().chain(file_methods::METHODS).map(|(name, _)| (*name).to_owned());
    others.chain(
        entities::KINDS.iter().flat_map(|kind| kind.verbs.iter().map(move |verb| format!("{}.{verb}", kind.prefix))),
    )
}

fn wrapped(key: &str, value: Php) -> Php {
    match key {
        "" => value,
        key => Array::new().with(key, value).into(),
    }
}

/// A record as it is answered.
fn shown(signer: &Signer, kind: &Kind, params: &Array, id: i64, record: &Array, select: &[String]) -> Php {
    let entity_type = params.get_any_case("entityTypeId").map(Php::to_text).unwrap_or_default();
    signer.with_files(kind, &entity_type, id, kind.render(id, record, select))
}

fn entity(portal: &mut PortalState, signer: &Signer, kind: &Kind, verb: &str, params: &Array) -> Outcome {
    let table = portal.store.table(kind, params);
    let id = params.get_any_case("id").or_else(|| params.get_any_case("taskId"));
    let id = id.and_then(Php::to_int).unwrap_or(0);
    let not_found = || fail(400, "", "Not found");
    let fields = || match params.get_any_case("fields") {
        None => Ok(Array::new()),
        Some(Php::Array(fields)) => Ok(fields.clone()),
        Some(_) => Err(fail(400, "", "Parameter 'fields' must be array.")),
    };
    match verb {
        verb if verb == kind.listing.verb => list(portal, signer, kind, params),
        "add" => {
            let id = table.add(kind, &fields()?);
            let record = table.get(id).cloned().unwrap_or_default();
            Ok(match kind.added {
                "" => Php::Int(id),
                key => wrapped(key, shown(signer, kind, params, id, &record, &[])),
            }
            .into())
        }
        "get" => {
            let record = table.get(id).ok_or_else(not_found)?;
            Ok(wrapped(kind.one, shown(signer, kind, params, id, record, &[])).into())
        }
        "update" => match table.update(kind, id, &fields()?) {
            true => Ok(Php::Bool(true).into()),
            false => Err(not_found()),
        },
        "delete" => match table.delete(id) {
            true => Ok(Php::Bool(true).into()),
            false => Err(not_found()),
        },
        _ => {
            let field = |name: &str, read_only: bool| {
                Array::new()
                    .with("type", if read_only { "integer" } else { "string" })
                    .with("isRequired", false)
                    .with("isReadOnly", read_only)
                    .with("title", name)
            };
            let fields = Array::new().with("ID", field("ID", true)).with("TITLE", field("Название", false));
            Ok(Php::Array(fields).into())
        }
    }
}

fn list(portal: &mut PortalState, signer: &Signer, kind: &Kind, params: &Array) -> Outcome {
    let (fault, listing) = (portal.list_fault, kind.listing);
    let asked = listing.asked(params, fault).map_err(|missing| fail(400, "0", &missing))?;
    let table = portal.store.table(kind, params);
    let found = table.find(&asked.conditions, &asked.order, listing.most(&asked));
    let part = listing.part(&asked, &found, fault);
    let row = |id: &i64| Some(shown(signer, kind, params, *id, table.get(*id)?, &asked.select));
    let rows: Array = part.ids.iter().filter_map(row).collect();
    Ok(Answer { next: part.next, total: part.total, result: wrapped(kind.many, rows.into()) })
}
