//! REST 3.0: JSON only, its own error shape, idempotency keys, and a batch that is all or nothing.

use crate::entities::{self, Condition, PAGE};
use crate::http::{Reply, Request};
use crate::kinds::ListFault;
use crate::ledger::Command;
use crate::methods::{self, Caller, Failure};
use crate::params;
use crate::php::{Array, Php};
use crate::rest::{old_error, Credentials, Job, TOKEN_NAMES};
use crate::state::{Remembered, Shared};

const DAY: f64 = 86_400.0;
const MOST: usize = 50;
/// Rows of a page, at most.
const LARGEST: usize = 1000;

pub(crate) struct Error3 {
    status: u16,
    code: String,
    message: String,
    /// Field and what is wrong with it.
    validation: Vec<(String, String)>,
    refused: bool,
}

type Result3 = Result<Php, Error3>;

fn refuse(status: u16, code: &str, message: &str) -> Error3 {
    Error3 { status, code: code.to_owned(), message: message.to_owned(), validation: Vec::new(), refused: true }
}

fn invalid(field: &str, message: &str) -> Error3 {
    Error3 {
        validation: vec![(field.to_owned(), message.to_owned())],
        refused: false,
        ..refuse(
            400,
            "BITRIX_REST_V3_EXCEPTION_VALIDATION_REQUESTVALIDATIONEXCEPTION",
            "Validation of the request object failed",
        )
    }
}

impl From<Failure> for Error3 {
    fn from(failure: Failure) -> Error3 {
        if failure.error.to_text() == "OPERATION_TIME_LIMIT" {
            return refuse(429, "BITRIX_REST_V3_EXCEPTION_RATELIMITEXCEPTION", &failure.description);
        }
        Error3 { refused: failure.refused, ..refuse(failure.status, &failure.error.to_text(), &failure.description) }
    }
}

impl Error3 {
    fn reply(self) -> Reply {
        let mut error = Array::new().with("code", self.code).with("message", self.message);
        if !self.validation.is_empty() {
            let lines = self.validation.into_iter().map(|(field, message)| {
                let line = Array::new().with("field", field).with("message", message);
                Php::Array(line)
            });
            error.put("validation", lines.collect::<Array>());
        }
        let body = Array::new().with("error", error);
        Reply::json(self.status, Php::from(body).encode())
    }
}

/// A JSON body; the access token and `auth_connector` may stand in the query.
pub(crate) fn params(request: &Request) -> Array {
    let mut params = of_body(request);
    let query = params::parse_query(request.query.as_bytes());
    for name in TOKEN_NAMES.into_iter().chain(["auth_connector"]) {
        if let (Some(token), None) = (query.get(name), params.get(name)) {
            params.put(name, token.clone());
        }
    }
    params
}

pub(crate) fn of_body(request: &Request) -> Array {
    if params::is_json(request) {
        params::json_body(&request.body)
    } else {
        Array::new()
    }
}

/// Answers a call whose caller has been looked up.
pub(crate) fn answer(job: &Job<'_>, request: &Request, entered: Result<Caller, Failure>, params: &Array) -> Reply {
    let caller = match entered {
        Ok(caller) => caller,
        Err(failure) => {
            let (old, denied) = {
                let state = job.shared.state();
                (state.portals[job.portal].old_auth_errors, state.portals[job.portal].rest3_access_denied)
            };
            return if denied && failure.status == 401 {
                refuse(401, "BITRIX_REST_V3_EXCEPTION_ACCESSDENIEDEXCEPTION", "Access denied").reply()
            } else if old {
                let status = failure.status;
                Reply::json(status, Php::from(old_error(failure)).encode())
            } else {
                Error3::from(failure).reply()
            };
        }
    };
    if request.method != "POST" || !params::is_json(request) {
        return refuse(400, "BITRIX_REST_V3_NOT_JSON", "A JSON body is required").reply();
    }
    match request.header("idempotency-key") {
        None => execute(job, &caller, params),
        Some(key) => once(job, &caller, params, key),
    }
}

/// The first success under a key is kept for 24 hours. Two at the same time may both run.
fn once(job: &Job<'_>, caller: &Caller, params: &Array, key: &str) -> Reply {
    let valid = (1..=255).contains(&key.len()) && key.bytes().all(|b| (b' '..=b'~').contains(&b));
    if !valid {
        return refuse(400, "INVALID_IDEMPOTENCY_KEY", "1 to 255 printable ASCII").reply();
    }
    let now = job.shared.clock.now();
    let place = (caller.user, key.to_owned());
    let request = format!("{} {}", job.route.method, Php::Array(params.clone()).encode());
    let kept = job.shared.state().portals[job.portal].idempotency.get(&place).filter(|kept| kept.until > now).cloned();
    if let Some(kept) = kept {
        if kept.request != request {
            return refuse(422, "IDEMPOTENCY_KEY_REUSED", "The key was used for another request").reply();
        }
        let note = |call: &mut crate::ledger::Call| call.replayed = true;
        job.shared.ledger.update_call(job.number, note);
        return Reply::json(200, kept.answer).with_header("Idempotent-Replayed", "true");
    }
    let reply = execute(job, caller, params);
    if reply.status == 200 {
        let kept = Remembered { request, answer: String::from_utf8_lossy(&reply.body).into_owned(), until: now + DAY };
        job.shared.state().portals[job.portal].idempotency.insert(place, kept);
    }
    reply
}

fn execute(job: &Job<'_>, caller: &Caller, params: &Array) -> Reply {
    let mut ran = Vec::new();
    let result = match job.route.method.as_str() {
        "batch" => batch(job, caller, params, &mut ran),
        method => run(job.shared, caller, method, params),
    };
    let executed = !matches!(&result, Err(error) if error.refused);
    job.shared.ledger.update_call(job.number, |call| {
        call.executed = executed;
        call.commands = ran;
    });
    match result {
        Ok(result) => {
            let body = Array::new().with("result", result).with("time", job.time());
            Reply::json(200, Php::from(body).encode())
        }
        Err(error) => error.reply(),
    }
}

/// Every entry of the body is taken for a command: whatever else stands there, the access token too, refuses all of it.
fn all_commands(params: &Array, credentials: &Credentials) -> Result<(), Error3> {
    let wrong = |value: &Php| {
        let message = format!("Unable to recognize select expression {}", value.encode());
        Err(refuse(400, "BITRIX_REST_V3_EXCEPTION_INVALIDSELECTEXCEPTION", &message))
    };
    if let Some(token) = credentials.parameters.iter().find(|parameter| parameter.in_body) {
        return wrong(&token.value.as_str().into());
    }
    let is_command = |value: &Php| {
        let part = |name| value.as_array().and_then(|command| command.get(name));
        matches!((part("method"), part("query")), (Some(Php::Str(_)), Some(Php::Array(_))))
    };
    params.values().find(|value| !is_command(value)).map_or(Ok(()), wrong)
}

/// `[{"method","query","as","parallel"},…]` or a map of such. The first error is the whole answer
/// (what ran before it stays done).
fn batch(job: &Job<'_>, caller: &Caller, params: &Array, ran: &mut Vec<Command>) -> Result3 {
    let shared = job.shared;
    if !shared.state().portals[job.portal].lenient_rest3_batch {
        all_commands(params, job.credentials)?;
    }
    if params.len() > MOST {
        return Err(refuse(400, "BATCH_TOO_LONG", "At most 50 commands"));
    }
    let mut commands = Vec::new();
    for (id, command) in params.iter() {
        let part = |name| command.as_array().and_then(|command| command.get(name));
        let Some(Php::Str(method)) = part("method") else {
            return Err(invalid(&id.to_string(), "A command needs a method"));
        };
        let query = part("query").and_then(Php::as_array).cloned().unwrap_or_default();
        commands.push((id, method.to_lowercase(), query));
    }
    let mut results = Array::new();
    for (id, method, query) in commands {
        if method == "batch" {
            return Err(refuse(400, "BATCH_IN_BATCH", "batch within batch"));
        }
        let result = run(shared, caller, &method, &query);
        let error = result.as_ref().err();
        if !error.is_some_and(|e| e.refused) {
            ran.push(Command {
                id: id.to_string(),
                method,
                params: Php::Array(query).to_json(),
                error: error.map(|e| e.code.clone()),
            });
        }
        // Under its place also where it has an `as`: so Bitrix24's own SDK reads it.
        results.set(id.clone(), result?);
    }
    Ok(results.into())
}

/// The few methods: `tasks.task.*`, and those of REST 2 that take no records.
fn run(shared: &Shared, caller: &Caller, method: &str, params: &Array) -> Result3 {
    if let Err(failure) = methods::admit(shared, caller, method) {
        if failure.status == 404 {
            let message = format!("Method {method} was not found");
            return Err(refuse(404, "BITRIX_REST_V3_EXCEPTION_METHODNOTFOUNDEXCEPTION", &message));
        }
        return Err(failure.into());
    }
    methods::spend(shared, caller, method)?;
    match entities::kind_of(method) {
        Some((kind, verb)) if kind.prefix == "tasks.task" => {
            let mut state = shared.state();
            let portal = &mut state.portals[caller.portal];
            let most = match portal.list_fault {
                Some(ListFault::PagesOf(rows)) => rows,
                _ => LARGEST,
            };
            task(portal.store.table(kind, params), kind, verb, (params, most))
        }
        Some(_) => Err(refuse(404, "BITRIX_REST_V3_EXCEPTION_METHODNOTFOUNDEXCEPTION", "Not a method of REST 3.0")),
        None => Ok(methods::run(shared, caller, method, params)?.result),
    }
}

/// `most`: rows of a page, whatever is asked for.
fn task(table: &mut entities::Table, kind: &entities::Kind, verb: &str, (params, most): (&Array, usize)) -> Result3 {
    let id = || {
        let id = params.get("id").and_then(Php::to_int);
        id.ok_or_else(|| invalid("id", "The field id is required"))
    };
    let fields = || match params.get("fields") {
        Some(Php::Array(fields)) => Ok(fields.clone()),
        _ => Err(invalid("fields", "The field fields is required")),
    };
    let not_found =
        || Error3 { refused: false, ..refuse(404, "BITRIX_REST_V3_EXCEPTION_ENTITYNOTFOUNDEXCEPTION", "Not found") };
    let select: Vec<String> = match (verb, params.get("select")) {
        ("list" | "get", Some(Php::Array(select))) => select.values().map(Php::to_text).collect(),
        _ => Vec::new(),
    };
    let item = |id: i64, record: &Array| {
        let mut row = Array::new();
        if select.is_empty() || select.iter().any(|name| name == "id" || name == "*") {
            row.put("id", id);
        }
        if let Php::Array(rendered) = kind.render(id, record, &select) {
            rendered
                .iter()
                .filter(|(key, _)| key.to_string() != "id")
                .for_each(|(key, value)| row.set(key.clone(), value.clone()));
        }
        Php::Array(row)
    };
    let wrap = |key: &str, value: Php| Php::Array(Array::new().with(key, value));
    match verb {
        "add" => {
            let id = table.add(kind, &fields()?);
            let record = table.get(id).cloned().unwrap_or_default();
            Ok(wrap("item", item(id, &record)))
        }
        "get" => {
            let id = id()?;
            let record = table.get(id).ok_or_else(not_found)?;
            Ok(wrap("item", item(id, record)))
        }
        "list" => {
            let ids = table.find(&conditions(params), &order(params), usize::MAX);
            let (from, limit) = page(params, most);
            let rows = ids.iter().skip(from).take(limit);
            let rows = rows.filter_map(|id| Some(item(*id, table.get(*id)?)));
            Ok(wrap("items", Php::Array(rows.collect())))
        }
        "update" => match table.update(kind, id()?, &fields()?) {
            true => Ok(wrap("result", Php::Bool(true))),
            false => Err(not_found()),
        },
        _ => match table.delete(id()?) {
            true => Ok(wrap("result", Php::Bool(true))),
            false => Err(not_found()),
        },
    }
}

/// `"filter": [["id", ">", 5], …]`
fn conditions(params: &Array) -> Vec<Condition> {
    let Some(filter) = params.get("filter").and_then(Php::as_array) else {
        return Vec::new();
    };
    let mut conditions = Vec::new();
    for line in filter.values().filter_map(Php::as_array) {
        let parts: Vec<&Php> = line.values().collect();
        if let [field, operator, value] = parts[..] {
            let operator = match operator.to_text().as_str() {
                "in" => "@".to_owned(),
                other => other.to_owned(),
            };
            let name = format!("{operator}{}", field.to_text());
            conditions.extend(entities::conditions(&Array::new().with(&name, value.clone())));
        }
    }
    conditions
}

fn order(params: &Array) -> Vec<(String, bool)> {
    let order = params.get("order").and_then(Php::as_array);
    order.map(entities::order).unwrap_or_default()
}

/// `"pagination": {"page", "limit", "offset"}`
fn page(params: &Array, most: usize) -> (usize, usize) {
    let pagination = params.get("pagination").and_then(Php::as_array);
    let number = |name| {
        let value = pagination.and_then(|p| p.get(name)).and_then(Php::to_int);
        value.and_then(|n| usize::try_from(n).ok())
    };
    let limit = number("limit").unwrap_or(PAGE).min(most);
    let from = match number("page") {
        Some(page) => page.saturating_sub(1).saturating_mul(limit),
        None => number("offset").unwrap_or(0),
    };
    (from, limit)
}
