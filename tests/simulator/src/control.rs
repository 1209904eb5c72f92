//! The simulator by hand and from other languages: a plain http listener of its own.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{json, Value};

use crate::faults::{Action, Fault, Target};
use crate::files::{Content, File};
use crate::http::{Reply, Request, Wait};
use crate::leak::LeakAs;
use crate::oauth;
use crate::params;
use crate::portal::Portal;
use crate::server::{lock, Server, Service};
use crate::simulator::{PortalOptions, Simulator};
use crate::state::Shared;

/// What `GET /` and the program's `--help` say.
pub const HELP: &str = r#"Control listener (http, JSON in and out; a POST body may be empty).
"portal" names a portal (its current name) in any POST; without it the first portal is meant.

GET  /                  this text
GET  /state             addresses, keys, portals and their switches, faults, how many requests hang
GET  /ledger            everything received, in order; ?kind=token|authorize|call|install_finished|other,
                        ?method=crm.deal.add, ?after=NUMBER narrow it
GET  /counts            refreshes, exchanges, spent_presented, install_finished, calls{}, executed{}, connections{}
GET  /secrets           every token, code and secret issued: none may be seen in a log
GET  /ca.pem            the certificate authority
POST /reset             empties ledger and faults, releases what hangs
POST /fault             {"target","action",…,"times":1|N|"forever","after":N,"portal"}; without "portal" all portals
                        target: token, authorize, call, method:NAME, download, upload, oauth_connection, connection
                        action: delay, delay_answer {"seconds"}; status, execute_then_status {"status","content_type","body"};
                        html500; error_json {"status","error","error_description"}; close_before; close_after;
                        close_mid_answer; cut_after {"bytes"}; pause_after {"bytes","seconds"}; hang_after_bytes {"bytes"};
                        redirect302 {"location"}; slow_bytes {"seconds","chunk"}; hang; hang_after;
                        truncate_json; huge_answer {"bytes"}; wrong_content_type {"content_type"}; chunked; raw {"body"};
                        raw_instead {"body"};
                        of uploads: slow_read {"seconds","chunk"}; close_reading {"bytes"}; hang_reading {"bytes"};
                        answer_unread {"status","error","error_description"}
POST /remove_fault      {"id"}
POST /clear_faults
POST /release           what hangs goes on
POST /advance           {"seconds"}: the clock
POST /issue_code        {"user":1}
POST /issue_pair        {"user":1}: the OAuth server's answer
POST /expire            access tokens
POST /revoke            {"access":bool,"refresh":bool}; both by default
POST /set               {"token_lifetime","scope","grant","deleted","payment_required","old_auth_errors","member_id",
                        "strips_authorization","lenient_rest3_batch","plain_slashes","picky_downloads",
                        "rest3_access_denied",
                        "client_endpoint"|null,"bucket":{"rate","burst"}|null,"user_admin":{"user","admin"},
                        "operating":{"method","seconds"},"operating_limit":{"seconds","window","cost"}|null,"overloaded",
                        "redirect_uri","handler","auto_agree","expires_field"}
POST /leak              {"as":"success"|"error"|"error_code"|"rest3_error"|"html","status","access_token","refresh_token"}: an
                        answer {"status","content_type","body"} for the fault `status`; calls have the method sim.leak
POST /block_method      {"method","seconds"}
POST /refuse_next       {"method","code","times"}: OPERATION_TIME_LIMIT, QUERY_LIMIT_EXCEEDED or OVERLOAD_LIMIT, of commands too
POST /seed              {"kind":"crm.deal","count":120,"entityTypeId"}
POST /seed_file         {"name","size"|"text","content_type","disposition"|null,"seed"}: {"id","size","sha256"}
POST /attach_file       {"kind":"crm.item","entityTypeId","record","field","file"}
POST /store_document    {"title","file","pdf","image"}: {"id"}
POST /rename            the portal moves; answers {"name"}
POST /add_portal        {"host","https","own_key_pair","scope","member_id","strips_authorization",
                        "lenient_rest3_batch"}
POST /stop, /start      {"listener":"oauth"|"portal"}: connections are refused, accepted again
POST /event_form        {"event","user"}: {"form"}
POST /frame_form        {"user"}: {"query","body","app_sid","access_token","refresh_token"}
POST /post_event        {"url","event","user"}: {"status","headers","body"} of the (http) handler's answer
"#;

struct ControlService {
    shared: Arc<Shared>,
    https: bool,
}

pub(crate) fn listen(shared: &Arc<Shared>, https: bool, port: u16) -> io::Result<()> {
    let service = ControlService { shared: shared.clone(), https };
    let server = Server::bind(port, None, |_| Arc::new(service))?;
    lock(&shared.servers).push(("control".to_owned(), Arc::new(server)));
    Ok(())
}

impl Service for ControlService {
    fn connected(&self) -> bool {
        true
    }

    fn answer(&self, request: Request) -> Reply {
        let simulator = Simulator::borrowed(&self.shared, self.https);
        match answer(&simulator, &self.shared, &request) {
            Ok(reply) => reply,
            Err(problem) => Reply::json(400, json!({ "error": problem }).to_string()),
        }
    }

    fn wait(&self, wait: &Wait) -> bool {
        self.shared.faults.wait(wait)
    }
}

fn answer(simulator: &Simulator, shared: &Arc<Shared>, request: &Request) -> Result<Reply, String> {
    let value = match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/") => return Ok(Reply::new(200, "text/plain; charset=utf-8", HELP)),
        ("GET", "/ca.pem") => {
            let pem = simulator.ca_pem();
            return Ok(Reply::new(200, "application/x-pem-file", pem));
        }
        ("GET", "/state") => state(simulator, shared),
        ("GET", "/ledger") => ledger(simulator, &request.query),
        ("GET", "/counts") => simulator.ledger().counts_json(),
        ("GET", "/secrets") => simulator.secrets().into(),
        ("POST", path) => {
            let body: Value = match request.body.as_slice() {
                [] => json!({}),
                body => serde_json::from_slice(body).map_err(|e| e.to_string())?,
            };
            let done = match simulator_wide(simulator, path, &body)? {
                Some(done) => done,
                None => one_portal(&portal(simulator, &body)?, path, &body)?,
            };
            return Ok(Reply::json(200, done.to_string()));
        }
        _ => return Err("no such request; GET / lists them".to_owned()),
    };
    Ok(Reply::json(200, value.to_string()))
}

fn portal(simulator: &Simulator, body: &Value) -> Result<Portal, String> {
    match body["portal"].as_str() {
        None => Ok(simulator.portal()),
        Some(name) => simulator.portal_named(name).ok_or_else(|| format!("no portal {name}")),
    }
}

fn ledger(simulator: &Simulator, query: &str) -> Value {
    let query = params::parse_query(query.as_bytes());
    let text = |name| query.get(name).map(|v| v.to_text());
    let after = query.get("after").and_then(|v| v.to_int()).unwrap_or(0);
    let ledger = simulator.ledger();
    let entries = ledger.entries.iter().map(|entry| entry.to_json());
    entries
        .filter(|e| text("kind").is_none_or(|kind| e["kind"] == kind.as_str()))
        .filter(|e| text("method").is_none_or(|method| e["method"] == method.as_str()))
        .filter(|e| e["number"].as_i64().unwrap_or(0) > after)
        .collect()
}

/// Also what the program prints when it is ready.
pub(crate) fn addresses(simulator: &Simulator) -> Value {
    let portal = simulator.portal();
    json!({
        "oauth_url": simulator.oauth_url(),
        "control_url": simulator.control_url(),
        "client_id": portal.key_pair().client_id,
        "client_secret": portal.key_pair().client_secret,
        "portal": portal.name(),
        "client_endpoint": portal.client_endpoint(),
        "webhook_url": portal.webhook_url(),
        "webhook3_url": portal.webhook3_url(),
        "member_id": portal.member_id(),
        "application_token": portal.application_token(),
        "frame_url": format!("{}/marketplace/app/", portal.url()),
        "script_url": format!("{}/api/v1/", portal.url()),
    })
}

fn state(simulator: &Simulator, shared: &Arc<Shared>) -> Value {
    let mut value = addresses(simulator);
    let state = shared.state();
    let portals = state.portals.iter().enumerate().map(|(index, p)| {
        json!({
            "name": p.name, "client_endpoint": p.client_endpoint(), "member_id": p.member_id,
            "application_token": p.application_token, "client_id": p.application.client_id,
            "client_secret": p.application.client_secret, "scope": p.scope, "users": p.users,
            "token_lifetime": p.token_lifetime, "deleted": p.deleted,
            "payment_required": p.payment_required, "records": p.store.counts(),
            "oauth": oauth::state_json(&state, index),
        })
    });
    value["portals"] = portals.collect();
    value["redirect_uri"] = state.redirect_uri.as_str().into();
    value["handler"] = state.handler_url.as_str().into();
    value["auto_agree"] = state.auto_agree.into();
    drop(state);
    value["now"] = simulator.now().into();
    value["hanging"] = simulator.hanging().into();
    let faults = simulator.faults().into_iter();
    value["faults"] = faults.map(|(id, fault)| json!({"id": id, "fault": format!("{fault:?}")})).collect();
    value
}

/// Requests that are not about one portal; `None` where this is not one.
fn simulator_wide(simulator: &Simulator, path: &str, body: &Value) -> Result<Option<Value>, String> {
    let is_oauth = body["listener"] == "oauth";
    let ok = || Ok(Some(json!({"ok": true})));
    match path {
        "/reset" => {
            simulator.clear_faults();
            simulator.release();
            simulator.clear_ledger();
            ok()
        }
        "/fault" => {
            let fault = fault(body)?;
            let id = match body["portal"].as_str() {
                Some(_) => portal(simulator, body)?.inject(fault),
                None => simulator.inject(fault),
            };
            Ok(Some(json!({ "id": id })))
        }
        "/remove_fault" => {
            simulator.remove_fault(body["id"].as_u64().unwrap_or(0));
            ok()
        }
        "/clear_faults" => {
            simulator.clear_faults();
            ok()
        }
        "/release" => {
            simulator.release();
            ok()
        }
        "/advance" => {
            simulator.advance(number(body, "seconds")?);
            ok()
        }
        "/stop" if is_oauth => {
            simulator.stop_oauth();
            ok()
        }
        "/start" if is_oauth => {
            simulator.start_oauth().map_err(|e| e.to_string())?;
            ok()
        }
        "/add_portal" => {
            let defaults = PortalOptions::default();
            let text = |name: &str| body[name].as_str().map(str::to_owned);
            let portal = simulator
                .try_add_portal(PortalOptions {
                    port: body["port"].as_u64().unwrap_or(0) as u16,
                    host: text("host").unwrap_or(defaults.host),
                    https: body["https"].as_bool(),
                    own_key_pair: body["own_key_pair"].as_bool().unwrap_or(false),
                    scope: text("scope"),
                    member_id: text("member_id"),
                    strips_authorization: body["strips_authorization"].as_bool().unwrap_or(false),
                    lenient_rest3_batch: body["lenient_rest3_batch"].as_bool().unwrap_or(true),
                })
                .map_err(|e| e.to_string())?;
            Ok(Some(describe(&portal)))
        }
        "/set" => {
            set_wide(simulator, body);
            Ok(None)
        }
        _ => Ok(None),
    }
}

fn describe(portal: &Portal) -> Value {
    let keys = portal.key_pair();
    json!({
        "name": portal.name(), "client_endpoint": portal.client_endpoint(),
        "webhook_url": portal.webhook_url(), "member_id": portal.member_id(),
        "application_token": portal.application_token(),
        "client_id": keys.client_id, "client_secret": keys.client_secret,
    })
}

fn set_wide(simulator: &Simulator, body: &Value) {
    if let Some(url) = body["redirect_uri"].as_str() {
        simulator.set_redirect_uri(url);
    }
    if let Some(url) = body["handler"].as_str() {
        simulator.set_handler(url);
    }
    if let Some(agree) = body["auto_agree"].as_bool() {
        simulator.set_auto_agree(agree);
    }
    if let Some(present) = body["expires_field"].as_bool() {
        simulator.set_expires_field(present);
    }
}

fn one_portal(portal: &Portal, path: &str, body: &Value) -> Result<Value, String> {
    let user = body["user"].as_u64().unwrap_or(1) as u32;
    let flag = |name: &str| body[name].as_bool().unwrap_or(true);
    match path {
        "/issue_code" => return Ok(json!({"code": portal.issue_code(user)})),
        "/issue_pair" => return Ok(portal.issue_pair(user).to_json()),
        "/leak" => {
            let shape = LeakAs::named(&text(body, "as")?).ok_or("as: unknown")?;
            let (access, refresh) = (text(body, "access_token")?, text(body, "refresh_token")?);
            let status = body["status"].as_u64().map(|status| status as u16);
            return match portal.leak_of(&access, &refresh, shape, status) {
                Action::Status { status, content_type, body } => {
                    Ok(json!({"status": status, "content_type": content_type, "body": body}))
                }
                _ => Err("no answer".to_owned()),
            };
        }
        "/seed_file" => return seed_file(portal, body),
        "/store_document" => {
            let (title, file) = (text(body, "title")?, number(body, "file")? as i64);
            let id = portal.store_document(&title, file, body["pdf"].as_i64(), body["image"].as_i64());
            return Ok(json!({ "id": id }));
        }
        "/rename" => return Ok(json!({"name": portal.rename()})),
        "/event_form" => {
            let form = portal.event_form_of(&text(body, "event")?, user);
            return Ok(json!({ "form": form }));
        }
        "/frame_form" => {
            let form = portal.frame_form(user);
            return Ok(json!({
                "query": form.query, "body": form.body, "app_sid": form.app_sid,
                "access_token": form.access_token, "refresh_token": form.refresh_token,
            }));
        }
        "/post_event" => {
            let form = portal.event_form_of(&text(body, "event")?, user);
            let answer = portal.post_form(&text(body, "url")?, &form).map_err(|e| e.to_string())?;
            return Ok(json!({
                "status": answer.status, "headers": answer.headers,
                "body": String::from_utf8_lossy(&answer.body),
            }));
        }
        "/expire" => portal.expire_access_tokens(),
        "/revoke" => {
            if flag("access") {
                portal.revoke_access_tokens();
            }
            if flag("refresh") {
                portal.revoke_refresh_tokens();
            }
        }
        "/set" => set_portal(portal, body)?,
        "/block_method" => portal.block_method(&text(body, "method")?, number(body, "seconds")?),
        "/refuse_next" => {
            portal.refuse_next(&text(body, "method")?, &text(body, "code")?, number(body, "times")? as usize);
        }
        "/seed" => {
            let count = number(body, "count")? as u32;
            match (body["entityTypeId"].as_i64(), text(body, "kind")?.as_str()) {
                (Some(id), "crm.item") => portal.seed_items(id, count),
                (_, kind) if portal.has_kind(kind) => portal.seed(kind, count),
                (_, kind) => return Err(format!("no records {kind}")),
            }
        }
        "/attach_file" => {
            let (kind, field) = (text(body, "kind")?, text(body, "field")?);
            let (record, file) = (number(body, "record")? as i64, number(body, "file")? as i64);
            let entity_type_id = body["entityTypeId"].as_i64().unwrap_or(0);
            portal.try_attach(&kind, entity_type_id, record, &field, file).ok_or("no such record")?;
        }
        "/stop" => portal.stop(),
        "/start" => portal.start().map_err(|e| e.to_string())?,
        _ => return Err("no such request; GET / lists them".to_owned()),
    }
    Ok(json!({"ok": true}))
}

fn seed_file(portal: &Portal, body: &Value) -> Result<Value, String> {
    let content = match body["text"].as_str() {
        Some(text) => Content::given(text),
        None => Content::generated(number(body, "size")? as u64, body["seed"].as_u64().unwrap_or(1)),
    };
    let mut file = File::new(&text(body, "name")?, content);
    if let Some(content_type) = body["content_type"].as_str() {
        content_type.clone_into(&mut file.content_type);
    }
    if let Some(disposition) = body.get("disposition") {
        file.disposition = disposition.as_str().map(str::to_owned);
    }
    let answer = json!({"size": file.content.size(), "sha256": file.content.sha256()});
    let id = portal.store_file(file);
    Ok(json!({"id": id, "size": answer["size"], "sha256": answer["sha256"]}))
}

fn set_portal(portal: &Portal, body: &Value) -> Result<(), String> {
    if let Some(seconds) = body["token_lifetime"].as_u64() {
        portal.set_token_lifetime(seconds);
    }
    if let Some(scope) = body["scope"].as_str() {
        portal.set_scope(scope);
    }
    if let Some(deleted) = body["deleted"].as_bool() {
        portal.set_deleted(deleted);
    }
    if let Some(required) = body["payment_required"].as_bool() {
        portal.set_payment_required(required);
    }
    if let Some(old) = body["old_auth_errors"].as_bool() {
        portal.set_old_auth_errors(old);
    }
    if let Some(picky) = body["picky_downloads"].as_bool() {
        portal.set_picky_downloads(picky);
    }
    if let Some(scope) = body["grant"].as_str() {
        portal.grant(scope);
    }
    if let Some(denied) = body["rest3_access_denied"].as_bool() {
        portal.set_rest3_access_denied(denied);
    }
    if let Some(plain) = body["plain_slashes"].as_bool() {
        portal.set_plain_slashes(plain);
    }
    if let Some(lenient) = body["lenient_rest3_batch"].as_bool() {
        portal.set_lenient_rest3_batch(lenient);
    }
    if let Some(strips) = body["strips_authorization"].as_bool() {
        portal.set_strips_authorization(strips);
    }
    if let Some(member_id) = body["member_id"].as_str() {
        portal.set_member_id(member_id);
    }
    if let Some(endpoint) = body.get("client_endpoint") {
        portal.set_client_endpoint(endpoint.as_str());
    }
    match body.get("bucket") {
        Some(Value::Null) => portal.remove_bucket(),
        Some(bucket) => portal.set_bucket(number(bucket, "rate")?, number(bucket, "burst")?),
        None => {}
    }
    if let Some(change) = body.get("user_admin") {
        let admin = change["admin"].as_bool().unwrap_or(true);
        portal.set_user_admin(number(change, "user")? as u32, admin);
    }
    match body.get("operating_limit") {
        None => {}
        Some(serde_json::Value::Null) => portal.remove_operating_limit(),
        Some(limit) => {
            let number = |name| number(limit, name);
            portal.set_operating_limit(number("seconds")?, number("window")?, number("cost")?);
        }
    }
    if let Some(overloaded) = body.get("overloaded").and_then(serde_json::Value::as_bool) {
        portal.set_overloaded(overloaded);
    }
    if let Some(change) = body.get("operating") {
        portal.set_operating(&text(change, "method")?, number(change, "seconds")?);
    }
    Ok(())
}

fn text(body: &Value, name: &str) -> Result<String, String> {
    let text = body[name].as_str().map(str::to_owned);
    text.ok_or_else(|| format!("{name}: a string is missing"))
}

fn number(body: &Value, name: &str) -> Result<f64, String> {
    body[name].as_f64().ok_or_else(|| format!("{name}: a number is missing"))
}

fn fault(body: &Value) -> Result<Fault, String> {
    let target = match text(body, "target")?.as_str() {
        "token" => Target::Token,
        "authorize" => Target::Authorize,
        "call" => Target::Call,
        "oauth_connection" => Target::OauthConnection,
        "connection" => Target::Connection,
        "download" => Target::Download,
        "upload" => Target::Upload,
        other => match other.strip_prefix("method:") {
            Some(method) => Target::Method(method.to_owned()),
            None => return Err(format!("target: {other} is unknown")),
        },
    };
    let action = action(body)?;
    let fault = match &body["times"] {
        Value::String(forever) if forever == "forever" => Fault::forever(target, action),
        times => Fault::times(times.as_u64().unwrap_or(1) as u32, target, action),
    };
    Ok(fault.after(body["after"].as_u64().unwrap_or(0) as u32))
}

fn action(body: &Value) -> Result<Action, String> {
    let seconds = || Duration::try_from_secs_f64(number(body, "seconds")?).map_err(|e| format!("seconds: {e}"));
    let bytes = || number(body, "bytes").map(|n| n as u64);
    let status = || number(body, "status").map(|n| n as u16);
    let content_type = || {
        let given = body["content_type"].as_str();
        given.unwrap_or("text/html; charset=utf-8").to_owned()
    };
    let content = || body["body"].as_str().unwrap_or_default().to_owned();
    Ok(match text(body, "action")?.as_str() {
        "delay" => Action::Delay(seconds()?),
        "delay_answer" => Action::DelayAnswer(seconds()?),
        "status" => Action::Status { status: status()?, content_type: content_type(), body: content() },
        "execute_then_status" => {
            Action::ExecuteThenStatus { status: status()?, content_type: content_type(), body: content() }
        }
        "html500" => Action::Html500,
        "error_json" => Action::ErrorJson {
            status: status()?,
            error: text(body, "error")?,
            error_description: body["error_description"].as_str().unwrap_or_default().to_owned(),
        },
        "close_before" => Action::CloseBefore,
        "close_after" => Action::CloseAfter,
        "close_mid_answer" => Action::CloseMidAnswer,
        "cut_after" => Action::CutAfter(bytes()?),
        "pause_after" => Action::PauseAfter { bytes: bytes()?, pause: seconds()? },
        "hang_after_bytes" => Action::HangAfterBytes(bytes()?),
        "slow_read" => Action::SlowRead { interval: seconds()?, chunk: body["chunk"].as_u64().unwrap_or(1) as usize },
        "close_reading" => Action::CloseReading(bytes()?),
        "hang_reading" => Action::HangReading(bytes()?),
        "answer_unread" => Action::AnswerUnread {
            status: status()?,
            error: text(body, "error")?,
            error_description: body["error_description"].as_str().unwrap_or_default().to_owned(),
        },
        "redirect302" => Action::Redirect302(text(body, "location")?),
        "slow_bytes" => Action::SlowBytes { interval: seconds()?, chunk: body["chunk"].as_u64().unwrap_or(1) as usize },
        "hang" => Action::Hang,
        "hang_after" => Action::HangAfter,
        "truncate_json" => Action::TruncateJson,
        "huge_answer" => Action::HugeAnswer(bytes()?),
        "wrong_content_type" => Action::WrongContentType(content_type()),
        "chunked" => Action::Chunked,
        "raw" => Action::Raw(content().into_bytes()),
        "raw_instead" => Action::RawInstead(content().into_bytes()),
        other => return Err(format!("action: {other} is unknown")),
    })
}
