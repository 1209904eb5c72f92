//! The simulator from outside: over http by hand-written requests, over https by rustls.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{json, Value};
use simulator::{
    Action, Auth, Call, Content, Direction, Fault, File, KeyPair, Kind, LeakAs, ListFault, Options, Portal,
    PortalOptions, Simulator, Target, TokenPlace,
};

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("UTF-8")
    }

    fn error(&self) -> (u16, String) {
        let error = self.json()["error"].as_str().unwrap_or("-").to_owned();
        (self.status, error)
    }
}

fn message(method: &str, host: &str, target: &str, content_type: &str, body: &str) -> String {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn read_answer(mut stream: impl Read) -> Option<Answer> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let split = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
    Some(Answer { status: head.split(' ').nth(1)?.parse().ok()?, body: bytes[split + 4..].to_vec(), head })
}

fn try_send(host: &str, message: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(host).ok()?;
    stream.write_all(message.as_bytes()).ok()?;
    read_answer(stream)
}

fn http() -> (Simulator, Portal) {
    let sim = Simulator::start(Options { https: false, ..Options::default() });
    let portal = sim.portal();
    (sim, portal)
}

fn post(portal: &Portal, target: &str, content_type: &str, body: &str) -> Answer {
    let host = portal.name();
    try_send(&host, &message("POST", &host, target, content_type, body)).expect("an answer")
}

/// With these lines of the head beside what `message` has.
fn send_with(portal: &Portal, head: &[(&str, &str)], method: &str, target: &str, kind: &str, body: &str) -> Answer {
    let host = portal.name();
    let lines: String = head.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let message = message(method, &host, target, kind, body).replacen("\r\n", &format!("\r\n{lines}"), 1);
    try_send(&host, &message).expect("an answer")
}

/// Path and query of an address.
fn target_of(url: &str) -> &str {
    let (_, rest) = url.split_once("//").expect("an address");
    &rest[rest.find('/').expect("a path")..]
}

fn call(portal: &Portal, method: &str, params: Value) -> Answer {
    let token = portal.issue_pair(1).access_token;
    let target = format!("/rest/{method}?auth={token}");
    post(portal, &target, JSON, &params.to_string())
}

fn token(sim: &Simulator, query: &str) -> Option<Answer> {
    let url = sim.oauth_url();
    let host = url.split("//").nth(1).expect("a host").to_owned();
    let body = format!("client_id={}&client_secret={}&{query}", sim.client_id(), sim.client_secret());
    try_send(&host, &message("POST", &host, "/oauth/token/", FORM, &body))
}

fn refresh(sim: &Simulator, refresh_token: &str) -> Option<Answer> {
    token(sim, &format!("grant_type=refresh_token&refresh_token={refresh_token}"))
}

#[test]
fn https_is_trusted_by_the_simulators_authority_alone() {
    let sim = Simulator::start(Options::default());
    let portal = sim.portal();
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(sim.ca_pem().as_bytes()).expect("a certificate");
    roots.add(ca).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = Arc::new(
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth(),
    );
    for name in ["127.0.0.1", "localhost"] {
        let name = ServerName::try_from(name).expect("a name");
        let connection = ClientConnection::new(config.clone(), name).expect("a client");
        let stream = TcpStream::connect(portal.name()).expect("a connection");
        let mut stream = StreamOwned::new(connection, stream);
        let auth = portal.issue_pair(1).access_token;
        let message = message("GET", "x", &format!("/rest/profile?auth={auth}"), "", "");
        stream.write_all(message.as_bytes()).expect("sent");
        let answer = read_answer(stream).expect("an answer");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["result"]["ADMIN"], true);
    }
    assert_eq!(sim.ledger().connections(&portal.name()), 2);
}

#[test]
fn a_code_becomes_a_pair_and_a_pair_is_refreshed_once() {
    let (sim, portal) = http();
    let code = portal.issue_code(1);
    let exchange = |code: &str| token(&sim, &format!("grant_type=authorization_code&code={code}"));
    let pair = exchange(&code).expect("an answer");
    assert_eq!(pair.status, 200);
    let pair = pair.json();
    assert_eq!(pair["client_endpoint"], portal.client_endpoint());
    assert_eq!(pair["member_id"], portal.member_id());
    assert_eq!(exchange(&code).expect("an answer").error(), (400, "invalid_grant".to_owned()));
    let old = pair["refresh_token"].as_str().expect("a token");
    assert_eq!(refresh(&sim, old).expect("an answer").status, 200);
    assert_eq!(refresh(&sim, old).expect("an answer").status, 400);
    let ledger = sim.ledger();
    assert_eq!((ledger.exchanges(), ledger.refreshes()), (2, 2));
    assert_eq!(ledger.spent_presented(), 1);
    assert!(sim.secrets().iter().any(|s| s == old));
}

#[test]
fn an_answer_lost_after_execution_leaves_the_token_spent() {
    let (sim, portal) = http();
    let pair = portal.issue_pair(1);
    sim.inject(Fault::once(Target::Token, Action::CloseBefore));
    assert!(refresh(&sim, &pair.refresh_token).is_none());
    assert!(portal.is_live(&pair.refresh_token));
    portal.inject(Fault::once(Target::Token, Action::CloseAfter));
    assert!(refresh(&sim, &pair.refresh_token).is_none());
    assert!(!portal.is_live(&pair.refresh_token));
    assert_eq!(sim.ledger().entries[1].faults, ["CloseAfter"]);
}

#[test]
fn calls_need_a_token_that_is_valid() {
    let (sim, portal) = http();
    let with = |auth: &str| post(&portal, "/rest/profile.json", FORM, &format!("auth={auth}"));
    let token = portal.issue_pair(1).access_token;
    assert_eq!(with(&token).status, 200);
    assert_eq!(with("").error(), (401, "NO_AUTH_FOUND".to_owned()));
    assert_eq!(with("wrong").error(), (401, "invalid_token".to_owned()));
    sim.advance(3600.0);
    assert_eq!(with(&token).error(), (401, "expired_token".to_owned()));
    portal.set_scope("catalog");
    let refused = call(&portal, "crm.deal.add", json!({}));
    assert_eq!(refused.error(), (403, "insufficient_scope".to_owned()));
    let unknown = call(&portal, "no.such.method", json!({}));
    assert_eq!(unknown.error(), (404, "ERROR_METHOD_NOT_FOUND".to_owned()));
    let ledger = sim.ledger();
    assert_eq!(ledger.calls("profile"), 4);
    assert_eq!(ledger.executed("profile"), 1);
    assert_eq!(ledger.executed("crm.deal.add"), 0);
    let first = ledger.of_method("profile").next().expect("a call");
    assert_eq!(first.call().map(|c| c.auth.clone()), Some(Auth::Token(token)));
}

#[test]
fn the_token_is_read_from_the_header_before_the_parameters() {
    let (sim, portal) = http();
    let token = portal.issue_pair(1).access_token;
    let bearer = format!("Bearer {token}");
    let multipart = "multipart/form-data; boundary=X";
    let part = |name: &str, value: &str| {
        format!("--X\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n--X--\r\n")
    };
    // Method, address, content type, body without and with a token of its own.
    let ways = [
        ("GET", "/rest/profile", FORM, String::new(), String::new()),
        ("POST", "/rest/profile", JSON, "{}".to_owned(), json!({ "auth": token }).to_string()),
        ("POST", "/rest/profile", JSON, "{}".to_owned(), json!({ "access_token": token }).to_string()),
        ("POST", "/rest/profile", FORM, "a=1".to_owned(), format!("auth={token}")),
        ("POST", "/rest/profile", multipart, part("a", "1"), part("auth", &token)),
        ("POST", "/rest/api/profile", JSON, "{}".to_owned(), json!({ "auth": token }).to_string()),
    ];
    for (method, target, kind, without, with) in &ways {
        let answer = send_with(&portal, &[("Authorization", &bearer)], method, target, kind, without);
        assert_eq!(answer.status, 200, "{method} {target} {kind}");
        let entry = sim.ledger().entries.pop().expect("an entry");
        let call = entry.call().expect("a call");
        assert_eq!((call.auth.clone(), call.token_place), (Auth::Token(token.clone()), TokenPlace::Header));
        assert_eq!(call.authorization.as_ref(), Some(&bearer));
        assert!(call.auth_parameters.is_empty());
        assert_eq!((entry.header("authorization"), entry.header("content-type")), (Some(&*bearer), Some(*kind)));
        if *method == "POST" {
            assert_eq!(post(&portal, target, kind, with).status, 200, "{with}");
            let entry = sim.ledger().entries.pop().expect("an entry");
            assert_eq!(entry.call().map(|c| c.token_place), Some(TokenPlace::Body), "{with}");
        }
    }
    let query = format!("/rest/profile?auth={token}");
    let place = || sim.ledger().entries.pop().and_then(|e| e.call().map(|c| c.token_place));
    assert_eq!(post(&portal, &query, JSON, "{}").status, 200);
    assert_eq!(place(), Some(TokenPlace::Query));
    assert!(TokenPlace::Query.is_parameter());
    let wrong = send_with(&portal, &[("authorization", "bearer wrong")], "GET", &query, FORM, "");
    assert_eq!(wrong.error(), (401, "invalid_token".to_owned()), "the header counts");
    let call = sim.ledger().entries.pop().and_then(|e| e.call().cloned()).expect("a call");
    assert_eq!((call.token_place, call.auth_parameters[0].value.as_str()), (TokenPlace::Header, token.as_str()));
    let basic = send_with(&portal, &[("Authorization", "Basic eDp5")], "GET", "/rest/profile", FORM, "");
    assert_eq!(basic.error(), (401, "NO_AUTH_FOUND".to_owned()));
    assert_eq!(place(), Some(TokenPlace::Nowhere));
    let hook = format!("{}profile", portal.webhook_url());
    assert_eq!(post(&portal, target_of(&hook), FORM, "").status, 200);
    assert_eq!(place(), Some(TokenPlace::Path));
}

#[test]
fn a_web_server_in_front_may_swallow_the_header() {
    let (sim, portal) = http();
    let token = portal.issue_pair(1).access_token;
    let bearer = format!("Bearer {token}");
    portal.set_strips_authorization(true);
    let ask = |target: &str, body: &str| send_with(&portal, &[("Authorization", &bearer)], "POST", target, JSON, body);
    let refused = ask("/rest/profile", "{}");
    assert_eq!(refused.status, 401);
    assert_eq!(refused.text(), r#"{"error":"NO_AUTH_FOUND","error_description":"Wrong authorization data"}"#);
    let entry = sim.ledger().entries.pop().expect("an entry");
    assert_eq!(entry.header("Authorization"), Some(&*bearer), "as it was sent");
    let call = entry.call().expect("a call");
    assert_eq!((&call.authorization, call.token_place), (&None, TokenPlace::Nowhere));
    assert_eq!(ask("/rest/profile", &json!({ "auth": token }).to_string()).status, 200);
    assert_eq!(ask("/rest/api/profile", "{}").status, 401);
    portal.set_strips_authorization(false);
    assert_eq!(ask("/rest/api/profile", "{}").status, 200);
    let options = PortalOptions { strips_authorization: true, ..PortalOptions::default() };
    let other = sim.add_portal(options);
    let bearer = format!("Bearer {}", other.issue_pair(1).access_token);
    assert_eq!(send_with(&other, &[("Authorization", &bearer)], "GET", "/rest/profile", FORM, "").status, 401);
}

#[test]
fn echo_answers_what_was_read() {
    let (_sim, portal) = http();
    let body = json!({"z": null, "a": {"n": 1.5, "s": "a/б"}, "l": [1, true]});
    let answer = call(&portal, "Sim.Echo", body);
    assert!(answer
        .text()
        .starts_with(r#"{"result":{"a":{"n":1.5,"s":"a\/\u0431"},"l":[1,true],"z":null},"time":{"start":"#));
    let webhook = portal.webhook_url();
    let path = target_of(&webhook);
    let answer = post(&portal, &format!("{path}sim.echo.xml?a[]=1"), FORM, "b=2");
    assert!(answer.head.contains("text/xml; charset=utf-8"));
    assert!(answer.text().contains("<a><item>1</item></a><b>2</b>"));
    portal.set_plain_slashes(true);
    let answer = call(&portal, "sim.echo", json!({"s": "a/b", "t": "\\/"}));
    assert!(answer.text().starts_with(r#"{"result":{"s":"a/b","t":"\\/"}"#), "{}", answer.text());
}

#[test]
fn long_lists_have_pages() {
    let (_sim, portal) = http();
    portal.seed("crm.deal", 120);
    let first = call(&portal, "crm.deal.list", json!({"select": ["ID"]})).json();
    assert_eq!(first["next"], 50);
    assert_eq!(first["total"], 120);
    assert_eq!(first["result"][0], json!({"ID": "1"}));
    let last = call(&portal, "crm.deal.list", json!({"start": 100})).json();
    assert_eq!(last["result"].as_array().map(Vec::len), Some(20));
    assert!(last.get("next").is_none());
    let fast = json!({"order": {"ID": "ASC"}, "filter": {">ID": 100, "STAGE_ID": "WON"}, "start": -1});
    let fast = call(&portal, "crm.deal.list", fast).json();
    assert_eq!(fast["result"].as_array().map(Vec::len), Some(10));
    assert_eq!(fast["result"][0]["ID"], "102");
    assert!(fast.get("total").is_none());
}

#[test]
fn each_kind_of_list_has_names_and_quirks_of_its_own() {
    let (_sim, portal) = http();
    portal.grant("lists,department");
    let rows = |method: &str, place: &str, params: Value| {
        let answer = call(&portal, method, params.clone()).json();
        let list = if place.is_empty() { &answer["result"] } else { &answer["result"][place] };
        let list = list.as_array().unwrap_or_else(|| panic!("{method} {params}: {answer}")).clone();
        (list, answer)
    };
    let behind = |method: &str, place: &str, params: Value| rows(method, place, params).0.len();
    for kind in ["tasks.task", "user", "lists.element", "department", "catalog.product", "catalog.price"] {
        portal.seed(kind, 60);
    }
    // The ID has one name in requests, and may have another in rows.
    assert_eq!(behind("tasks.task.list", "tasks", json!({"filter": {">ID": 50}})), 10);
    assert_eq!(behind("tasks.task.list", "tasks", json!({"filter": {">id": 50}})), 50);
    assert_eq!(rows("tasks.task.list", "tasks", json!({"select": ["ID"]})).0[0], json!({"id": "1"}));
    assert_eq!(rows("tasks.task.list", "tasks", json!({"select": ["TITLE"]})).0[0].get("id"), None);
    assert_eq!(behind("catalog.price.list", "prices", json!({"filter": {">id": 50}})), 10);
    // Products want the information block named.
    let refused = |params: Value| call(&portal, "catalog.product.list", params).status;
    assert_eq!(refused(json!({})), 400);
    assert_eq!(refused(json!({"filter": {"iblockId": 24}, "select": ["name"]})), 400);
    let products = json!({"filter": {"iblockId": 24, ">id": 50}, "select": ["id", "iblockId"]});
    assert_eq!(behind("catalog.product.list", "products", products), 10);
    // Other names of parameters.
    assert_eq!(behind("user.get", "", json!({"FILTER": {">ID": 50}, "sort": "ID", "order": "DESC"})), 10);
    assert_eq!(behind("user.get", "", json!({"STAGE_ID": "WON"})), 30);
    assert_eq!(behind("user.get", "", json!({"STAGE_ID": "WON", "FILTER": {">ID": 50}})), 10);
    assert_eq!(behind("lists.element.get", "", json!({"FILTER": {">ID": 50}})), 10);
    assert_eq!(behind("lists.element.get", "", json!({"filter": {">ID": 50}})), 50);
    let descending = json!({"ELEMENT_ORDER": {"ID": "DESC"}});
    assert_eq!(rows("lists.element.get", "", descending).0[0]["ID"], "60");
    // Not by ID; without an ID and with a total that is the page's; all at once.
    assert_eq!(behind("department.get", "", json!({"filter": {">ID": 50}})), 50);
    portal.seed("crm.address", 120);
    let (list, answer) = rows("crm.address.list", "", json!({}));
    assert_eq!((list.len(), list[0].get("ID"), &answer["total"], answer.get("next")), (50, None, &json!(50), None));
    assert_eq!(rows("crm.address.list", "", json!({"start": 100})).1["total"], 20);
    portal.seed("crm.status", 70);
    assert_eq!(behind("crm.status.list", "", json!({"start": 50})), 70);
}

#[test]
fn all_lists_of_a_portal_can_misbehave() {
    let (_sim, portal) = http();
    portal.seed("crm.deal", 120);
    let list = |params: Value| call(&portal, "crm.deal.list", params).json();
    portal.set_list_fault(Some(ListFault::DeafToId));
    assert_eq!(list(json!({"filter": {">ID": 100}}))["result"][0]["ID"], "1");
    portal.set_list_fault(Some(ListFault::DeafToOrder));
    assert_eq!(list(json!({"order": {"ID": "ASC"}}))["result"][0]["ID"], "120");
    portal.set_list_fault(Some(ListFault::PagesOf(20)));
    assert_eq!(list(json!({}))["next"], 20);
    portal.set_list_fault(Some(ListFault::Total(50)));
    assert_eq!(list(json!({}))["total"], 50);
    portal.set_list_fault(Some(ListFault::Hides(10)));
    assert_eq!(list(json!({}))["result"].as_array().map(Vec::len), Some(45));
    portal.set_list_fault(None);
    assert_eq!(portal.unseed("crm.deal", 1..=30), 30);
    assert_eq!(list(json!({}))["total"], 90);
}

#[test]
fn a_batch_runs_fifty_commands_and_refers_to_results() {
    let (sim, portal) = http();
    let commands = json!({"CMD": {
        "add": "CRM.Deal.Add?fields[TITLE]=x",
        "get": "crm.deal.get?id=$result[add]",
        "bad": "crm.nothing",
        "nested": "batch?cmd[a]=profile",
    }});
    let answer = call(&portal, "batch", commands).json();
    let result = &answer["result"];
    assert_eq!(result["result"]["get"]["TITLE"], "x");
    assert_eq!(result["result_error"]["bad"]["error"], "ERROR_METHOD_NOT_FOUND");
    assert_eq!(result["result_error"]["nested"]["error"], "ERROR_BATCH_METHOD_NOT_ALLOWED");
    assert_eq!(result["result_total"], json!([]));
    assert_eq!(sim.ledger().executed("crm.deal.add"), 1);

    let many: Vec<String> = (0..60).map(|_| "crm.deal.add".to_owned()).collect();
    let answer = call(&portal, "batch", json!({ "cmd": many })).json();
    let results = answer["result"]["result"].as_array().map(Vec::len);
    assert_eq!(results, Some(50));
    assert_eq!(sim.ledger().executed("crm.deal.add"), 51);

    let halting = json!({"halt": 1, "cmd": {"a": "crm.nothing", "b": "crm.deal.add"}});
    let answer = call(&portal, "batch", halting).json();
    assert_eq!(answer["result"]["result"], json!([]));
    assert_eq!(sim.ledger().executed("crm.deal.add"), 51);
}

#[test]
fn limits_refuse_without_executing() {
    let (sim, portal) = http();
    portal.set_bucket(0.001, 2.0);
    let statuses: Vec<u16> = (0..3).map(|_| call(&portal, "crm.deal.add", json!({})).status).collect();
    assert_eq!(statuses, [200, 200, 503]);
    portal.remove_bucket();
    portal.block_method("crm.deal.add", 60.0);
    let blocked = call(&portal, "crm.deal.add", json!({}));
    assert_eq!(blocked.error(), (429, "OPERATION_TIME_LIMIT".to_owned()));
    sim.advance(61.0);
    assert_eq!(call(&portal, "crm.deal.add", json!({})).status, 200);
    assert_eq!(sim.ledger().executed("crm.deal.add"), 3);
    assert_eq!(sim.ledger().calls("crm.deal.add"), 5);
}

#[test]
fn a_methods_time_is_used_up_by_calls_and_commands_and_frees() {
    let (sim, portal) = http();
    portal.set_operating_limit(1.0, 100.0, 0.3);
    let time = |answer: Value| answer["time"]["operating"].as_f64().unwrap();
    assert_eq!(time(call(&portal, "crm.deal.add", json!({})).json()), 0.3);
    let cmd: Vec<&str> = ["crm.deal.add"; 5].into_iter().chain(["crm.lead.add"]).collect();
    let batch = call(&portal, "batch", json!({ "cmd": cmd }));
    assert_eq!(batch.status, 200);
    let result = &batch.json()["result"];
    let used: Vec<f64> = (0..3).map(|i| result["result_time"][i.to_string()]["operating"].as_f64().unwrap()).collect();
    assert!(used[0] < used[1] && used[1] < used[2] && used[2] > 1.0, "{used:?}: the last may pass the limit");
    for refused in ["3", "4"] {
        assert_eq!(result["result_error"][refused]["error"], "OPERATION_TIME_LIMIT");
    }
    assert_eq!(result["result"]["5"], 1, "another method");
    assert_eq!(call(&portal, "crm.deal.add", json!({})).error(), (429, "OPERATION_TIME_LIMIT".to_owned()));
    assert_eq!(sim.ledger().executed("crm.deal.add"), 4);
    sim.advance(101.0);
    assert_eq!(call(&portal, "crm.deal.add", json!({})).status, 200);
    portal.remove_operating_limit();
    portal.refuse_next("crm.deal.add", "OVERLOAD_LIMIT", 1);
    assert_eq!(call(&portal, "crm.deal.add", json!({})).error(), (503, "OVERLOAD_LIMIT".to_owned()));
    assert_eq!(call(&portal, "crm.deal.add", json!({})).status, 200);
    portal.set_overloaded(true);
    assert_eq!(call(&portal, "batch", json!({})).error(), (503, "OVERLOAD_LIMIT".to_owned()));
}

#[test]
fn rest_3_remembers_idempotency_keys() {
    let (sim, portal) = http();
    let send = |key: &str, title: &str| {
        let auth = portal.issue_pair(1).access_token;
        let body = json!({"auth": auth, "fields": {"title": title}}).to_string();
        let host = portal.name();
        let message = message("POST", &host, "/rest/api/tasks.task.add", JSON, &body);
        let message = message.replacen("\r\n", &format!("\r\nIdempotency-Key: {key}\r\n"), 1);
        try_send(&host, &message).expect("an answer")
    };
    let first = send("k1", "a");
    assert_eq!(first.json()["result"]["item"]["id"], 1);
    let again = send("k1", "a");
    assert!(again.head.contains("Idempotent-Replayed: true"));
    assert_eq!(again.body, first.body);
    assert_eq!(send("k1", "b").status, 422);
    assert_eq!(sim.ledger().executed("tasks.task.add"), 1);
    let wrong = post(
        &portal,
        "/rest/api/tasks.task.get",
        JSON,
        &json!({"auth": portal.issue_pair(1).access_token}).to_string(),
    );
    assert_eq!(wrong.status, 400);
    assert_eq!(wrong.json()["error"]["validation"][0]["field"], "id");
    let batch = json!([{"method": "tasks.task.get", "query": {"id": 1}}, {"method": "profile"}]);
    let auth = portal.issue_pair(1).access_token;
    let target = format!("/rest/api/batch?auth={auth}");
    let answer = post(&portal, &target, JSON, &batch.to_string()).json();
    assert_eq!(answer["result"][0]["item"]["title"], "a");
}

#[test]
fn a_rest_3_batch_is_commands_and_nothing_else() {
    let (sim, portal) = http();
    portal.seed("tasks.task", 2);
    portal.set_lenient_rest3_batch(false);
    let token = portal.issue_pair(1).access_token;
    let bearer = format!("Bearer {token}");
    let ask = |body: &Value| {
        send_with(&portal, &[("Authorization", &bearer)], "POST", "/rest/api/batch", JSON, &body.to_string())
    };
    let command = |id: u32| json!({"method": "tasks.task.get", "query": {"id": id}});
    let list =
        ask(&json!([{"method": "tasks.task.get", "query": {"id": 2}, "as": "two", "parallel": true}, command(1)]));
    assert_eq!(list.status, 200);
    assert_eq!(list.json()["result"][0]["item"]["id"], 2);
    assert_eq!(list.json()["result"][1]["item"]["id"], 1);
    assert_eq!(ask(&json!({"0": command(1), "1": command(2)})).json()["result"][1]["item"]["id"], 2);
    let before = sim.ledger().executed("tasks.task.get");
    for beside in [
        json!({"0": command(1), "auth": token}),
        json!({"0": command(1), "access_token": token}),
        json!({"0": command(1), "halt": 0}),
        json!({"cmd": [command(1)]}),
        json!([command(1), {"method": "profile"}]),
        json!([command(1), {"query": {}}]),
    ] {
        let refused = ask(&beside);
        assert_eq!(refused.status, 400, "{beside}");
        let code = &refused.json()["error"]["code"];
        assert_eq!(code, "BITRIX_REST_V3_EXCEPTION_INVALIDSELECTEXCEPTION", "{beside}");
    }
    assert_eq!(sim.ledger().executed("tasks.task.get"), before, "refused before the first command");
    let in_body = json!({"0": command(1), "auth": token}).to_string();
    assert_eq!(post(&portal, "/rest/api/batch", JSON, &in_body).status, 400);
    portal.set_lenient_rest3_batch(true);
    assert_eq!(post(&portal, "/rest/api/batch", JSON, &in_body).status, 200);
}

/// A portal whose application may do all that has to do with files.
fn with_files() -> (Simulator, Portal) {
    let (sim, portal) = http();
    portal.grant("disk,documentgenerator");
    (sim, portal)
}

/// What a program sends that wants a file.
const BROWSER: [(&str, &str); 4] =
    [("Accept", "*/*"), ("Accept-Language", "ru"), ("Referer", "http://127.0.0.1/"), ("User-Agent", "test")];

fn fetch(portal: &Portal, method: &str, url: &str, head: &[(&str, &str)]) -> Answer {
    send_with(portal, &[&BROWSER[..], head].concat(), method, target_of(url), FORM, "")
}

/// The answer to a call with this token in the header.
fn by_header(portal: &Portal, token: &str, method: &str, params: &Value) -> Answer {
    let bearer = format!("Bearer {token}");
    send_with(portal, &[("Authorization", &bearer)], "POST", &format!("/rest/{method}"), JSON, &params.to_string())
}

/// The answer to a call with this token among the parameters.
fn by_parameter(portal: &Portal, token: &str, method: &str, params: &Value) -> Answer {
    post(portal, &format!("/rest/{method}?auth={token}"), JSON, &params.to_string())
}

fn last_call(sim: &Simulator) -> Call {
    sim.ledger().last_call().and_then(|e| e.call().cloned()).expect("a call")
}

const LINK_CHECK_FAILED: &str = r#"{"error":"ACCESS_DENIED","error_description":"Access denied! Link check failed"}"#;

#[test]
fn an_address_of_a_file_carries_the_token_that_was_among_the_parameters() {
    let (sim, portal) = with_files();
    let id = portal.store_file(File::new("Отчёт 1.txt", Content::given("the file")));
    let token = portal.issue_pair(1).access_token;
    let answer = by_parameter(&portal, &token, "disk.file.get", &json!({ "id": id }));
    assert!(answer.text().contains(r#""SIZE":"8""#), "{}", answer.text());
    assert!(answer.text().contains(r"\/rest\/download.json?auth="), "as PHP writes it: {}", answer.text());
    let url = answer.json()["result"]["DOWNLOAD_URL"].as_str().expect("an address").to_owned();
    assert!(url.starts_with(&format!("{}/rest/download.json?auth={token}&token=disk%7C", portal.url())), "{url}");
    portal.set_bucket(0.001, 50.0);
    let file = fetch(&portal, "GET", &url, &[]);
    assert_eq!((file.status, file.text().as_str()), (200, "the file"));
    assert!(portal.bucket_level() > 0.9 && portal.bucket_level() < 1.1, "a transfer is one call");
    let name = "%D0%9E%D1%82%D1%87%D1%91%D1%82%201.txt";
    assert!(file
        .head
        .contains(&format!("Content-Disposition: attachment; filename=\"{name}\"; filename*=utf-8''{name}")));
    let call = last_call(&sim);
    let transfer = call.transfer.as_ref().expect("a transfer");
    assert_eq!((call.method.as_str(), call.executed, call.token_place), ("download", true, TokenPlace::Query));
    assert_eq!((transfer.direction, transfer.file, transfer.size), (Direction::Download, Some(id), 8));
    assert_eq!((transfer.query["id"].as_str(), transfer.token_in_body, transfer.moved()), (Some("1"), false, 8));

    let other = portal.issue_pair(1).access_token;
    let swapped = fetch(&portal, "GET", &url.replace(&token, &other), &[]);
    assert_eq!((swapped.status, swapped.text().as_str()), (403, LINK_CHECK_FAILED), "auth is signed");
    assert!(!last_call(&sim).executed);
    let removed = url.replace(&format!("auth={token}&"), "");
    assert_eq!(fetch(&portal, "GET", &removed, &[]).error(), (401, "NO_AUTH_FOUND".to_owned()));
    let bearer = format!("Bearer {token}");
    assert_eq!(fetch(&portal, "GET", &removed, &[("Authorization", &bearer)]).error().0, 403);
    assert_eq!(fetch(&portal, "GET", &url, &[("Authorization", &bearer)]).status, 200, "both agree");
    assert_eq!(fetch(&portal, "GET", &format!("{url}x"), &[]).error().0, 403);
    let crm = fetch(&portal, "GET", &url.replace("disk%7C", "crm%7C"), &[]);
    assert_eq!(crm.error(), (404, "ERROR_METHOD_NOT_FOUND".to_owned()));
    portal.expire_access_tokens();
    assert_eq!(fetch(&portal, "GET", &url, &[]).error(), (401, "expired_token".to_owned()));
    let fresh = format!("Bearer {}", portal.issue_pair(1).access_token);
    assert_eq!(fetch(&portal, "GET", &url, &[("Authorization", &fresh)]).status, 200, "the header says who asks");
}

#[test]
fn an_address_of_a_file_asked_for_with_the_header_outlives_the_token() {
    let (sim, portal) = with_files();
    let id = portal.seed_file("a.bin", 1000);
    let token = portal.issue_pair(1).access_token;
    let address = |answer: Answer| answer.json()["result"]["DOWNLOAD_URL"].as_str().expect("an address").to_owned();
    let url = address(by_header(&portal, &token, "disk.file.get", &json!({ "id": id })));
    assert!(url.starts_with(&format!("{}/rest/download.json?token=disk%7C", portal.url())), "{url}");
    assert!(!url.contains("auth"));
    portal.expire_access_tokens();
    let old = format!("Bearer {token}");
    assert_eq!(fetch(&portal, "GET", &url, &[("Authorization", &old)]).error(), (401, "expired_token".to_owned()));
    assert_eq!(fetch(&portal, "GET", &url, &[]).error(), (401, "NO_AUTH_FOUND".to_owned()));
    let token = portal.issue_pair(1).access_token;
    let fresh = format!("Bearer {token}");
    assert_eq!(fetch(&portal, "GET", &url, &[("Authorization", &fresh)]).status, 200);
    assert_eq!(last_call(&sim).token_place, TokenPlace::Header);
    let with_auth = format!("{url}&auth={token}");
    assert_eq!(fetch(&portal, "GET", &with_auth, &[]).error().0, 403, "signed without auth");
    // PHP reads the token wherever it stands.
    let form = target_of(&url).split_once('?').expect("a query").1;
    let head = [&BROWSER[..], &[("Authorization", &*fresh)]].concat();
    let posted = send_with(&portal, &head, "POST", "/rest/download", FORM, form);
    assert_eq!((posted.status, posted.body.len()), (200, 1000));
    assert!(last_call(&sim).transfer.is_some_and(|transfer| transfer.token_in_body));
    portal.set_strips_authorization(true);
    assert_eq!(fetch(&portal, "GET", &url, &[("Authorization", &fresh)]).error().1, "NO_AUTH_FOUND");

    let hook = format!("{}disk.file.get.json?id={id}", portal.webhook_url());
    let url = address(post(&portal, target_of(&hook), FORM, ""));
    assert!(url.starts_with(&format!("{}download/?token=disk%7C", portal.webhook_url())), "{url}");
    assert_eq!(fetch(&portal, "GET", &url, &[]).body.len(), 1000);
    assert_eq!(last_call(&sim).token_place, TokenPlace::Path);
}

#[test]
fn records_and_documents_have_addresses_for_programs() {
    let (sim, portal) = with_files();
    let files: Vec<i64> = ["a", "b", "c"].map(|text| portal.store_file(File::new(text, Content::given(text)))).to_vec();
    portal.seed_items(31, 1);
    portal.attach_file("crm.item", 31, 1, "ufCrmScan", files[0]);
    portal.seed("catalog.product", 1);
    portal.attach_file("catalog.product", 0, 1, "detailPicture", files[1]);
    portal.seed("crm.deal", 1);
    portal.attach_file("crm.deal", 0, 1, "UF_CRM_1", files[2]);
    let document = portal.store_document("Счёт", files[0], Some(files[1]), None);
    let token = portal.issue_pair(1).access_token;
    let ask = |method: &str, params: Value| by_header(&portal, &token, method, &params).json()["result"].clone();
    let bearer = format!("Bearer {token}");
    let text = |address: &Value| {
        let url = address.as_str().expect("an address");
        assert!(!url.contains("auth="), "{url}");
        fetch(&portal, "GET", url, &[("Authorization", &bearer)]).text()
    };

    let item = ask("crm.item.get", json!({"entityTypeId": 31, "id": 1}));
    let scan = &item["item"]["ufCrmScan"];
    assert_eq!(scan["id"], files[0]);
    assert!(scan["urlMachine"]
        .as_str()
        .is_some_and(|u| u.contains("/rest/crm.controller.item.getFile.json?token=crm%7C")));
    assert_eq!(text(&scan["urlMachine"]), "a");
    assert_eq!(last_call(&sim).transfer.expect("a transfer").query["fieldName"], "ufCrmScan");
    let list = ask("crm.item.list", json!({"entityTypeId": 31}));
    assert_eq!(text(&list["items"][0]["ufCrmScan"]["urlMachine"]), "a");
    // Without a token it is a method like others; what is no file's address is refused.
    let direct = format!("/rest/crm.controller.item.getFile?entityTypeId=31&id=1&fileId={}", files[0]);
    assert_eq!(fetch(&portal, "GET", &format!("{}{direct}", portal.url()), &[("Authorization", &bearer)]).text(), "a");
    let echo = by_header(&portal, &token, "sim.echo", &json!({"token": "x"}));
    assert_eq!(echo.error().0, 404, "the scope before the delimiter is not the method's");
    assert_eq!(by_header(&portal, &token, "sim.echo", &json!({"token": "|x|y"})).text(), LINK_CHECK_FAILED);

    let product = ask("catalog.product.get", json!({"id": 1}));
    assert_eq!(text(&product["product"]["detailPicture"]["urlMachine"]), "b");
    let deal = by_parameter(&portal, &token, "crm.deal.get", &json!({"id": 1})).json();
    let download = deal["result"]["UF_CRM_1"]["downloadUrl"].as_str().expect("an address");
    assert!(download.contains(&format!("show_file.php?auth={token}&ownerId=1")), "a session's: {download}");

    for method in ["documentgenerator.document.get", "crm.documentgenerator.document.get"] {
        let answer = ask(method, json!({ "id": document }));
        assert_eq!(text(&answer["document"]["downloadUrlMachine"]), "a", "{method}");
        assert_eq!(text(&answer["document"]["pdfUrlMachine"]), "b", "{method}");
        assert_eq!(answer["document"]["imageUrlMachine"], Value::Null, "{method}");
    }
    // By REST, as a program would attach one.
    let added = ask("crm.item.add", json!({"entityTypeId": 31, "fields": {"ufCrmScan": [{"sim.file": files[2]}]}}));
    assert_eq!(text(&added["item"]["ufCrmScan"][0]["urlMachine"]), "c");
    let batch = ask(
        "batch",
        json!({"cmd": {"d": "download?token=x", "u": "UPLOAD", "f": format!("disk.file.get?id={}", files[0])}}),
    );
    assert_eq!(batch["result_error"]["d"]["error"], "ERROR_BATCH_METHOD_NOT_ALLOWED");
    assert_eq!(batch["result_error"]["u"]["error"], "ERROR_BATCH_METHOD_NOT_ALLOWED");
    assert_eq!(text(&batch["result"]["f"]["DOWNLOAD_URL"]), "a");
    portal.set_scope("crm");
    assert_eq!(by_header(&portal, &token, "disk.file.get", &json!({"id": 1})).error().1, "insufficient_scope");
}

#[test]
fn a_download_has_ranges_and_conditions() {
    let (_sim, portal) = with_files();
    let mut file = File::new("a.pdf", Content::generated(100_000, 5));
    file.content_type = "application/pdf".to_owned();
    file.disposition = None;
    let content = file.content.clone();
    let id = portal.store_file(file);
    let token = portal.issue_pair(1).access_token;
    let answer = by_parameter(&portal, &token, "disk.file.get", &json!({ "id": id })).json();
    let url = answer["result"]["DOWNLOAD_URL"].as_str().expect("an address");
    let ask = |method: &str, head: &[(&str, &str)]| fetch(&portal, method, url, head);
    let line =
        |answer: &Answer, line: &str| assert!(answer.head.contains(&format!("\r\n{line}\r\n")), "{}", answer.head);

    let whole = ask("GET", &[]);
    assert_eq!(Content::given(whole.body.clone()).sha256(), content.sha256());
    line(&whole, "Content-Type: application/pdf");
    line(&whole, "Content-Length: 100000");
    line(&whole, "Accept-Ranges: bytes");
    assert!(!whole.head.contains("Content-Disposition"));
    let head = ask("HEAD", &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    line(&head, "Content-Length: 100000");
    let part = ask("GET", &[("Range", "bytes=65500-65599")]);
    assert_eq!(part.status, 206);
    assert_eq!(Content::given(part.body.clone()).sha256(), content.sha256_of(65_500..65_600));
    line(&part, "Content-Range: bytes 65500-65599/100000");
    line(&part, "Content-Length: 100");
    let end = ask("GET", &[("Range", "bytes=-10")]);
    line(&end, "Content-Range: bytes 99990-99999/100000");
    let beyond = ask("GET", &[("Range", "bytes=100000-")]);
    assert_eq!(beyond.status, 416);
    line(&beyond, "Content-Range: bytes */100000");
    let tag = whole.head.lines().find_map(|l| l.strip_prefix("ETag: ")).expect("an ETag");
    let unchanged = ask("GET", &[("If-None-Match", tag)]);
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    assert!(!unchanged.head.contains("Content-Length"));
    assert_eq!(ask("GET", &[("If-Range", tag), ("Range", "bytes=0-9")]).status, 206);
    assert_eq!(ask("GET", &[("If-Range", "\"x\""), ("Range", "bytes=0-9")]).status, 200);

    let target = target_of(url);
    for missing in 0..BROWSER.len() {
        let mut some = BROWSER.to_vec();
        some.remove(missing);
        assert_eq!(send_with(&portal, &some, "GET", target, FORM, "").status, 404, "{some:?}");
    }
    let named = portal.seed_file("b.bin", 10);
    let answer = by_parameter(&portal, &token, "disk.file.get", &json!({ "id": named })).json();
    let refused =
        send_with(&portal, &[], "GET", target_of(answer["result"]["DOWNLOAD_URL"].as_str().expect("one")), FORM, "");
    assert!(refused.status == 404 && refused.head.contains("Content-Disposition: attachment"), "{}", refused.head);
    portal.set_picky_downloads(false);
    assert_eq!(send_with(&portal, &[], "GET", target, FORM, "").status, 200);
}

#[test]
fn a_large_file_passes_without_being_held() {
    let (sim, portal) = with_files();
    let size = 200_000_000;
    let id = portal.seed_file("large.bin", size);
    let token = portal.issue_pair(1).access_token;
    let answer = by_parameter(&portal, &token, "disk.file.get", &json!({ "id": id })).json();
    let target = target_of(answer["result"]["DOWNLOAD_URL"].as_str().expect("an address")).to_owned();
    let host = portal.name();
    let lines: String = BROWSER.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let message = message("GET", &host, &target, FORM, "").replacen("\r\n", &format!("\r\n{lines}"), 1);
    let mut stream = TcpStream::connect(&host).expect("a connection");
    stream.write_all(message.as_bytes()).expect("sent");
    let mut buffer = vec![0; 256 * 1024];
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut buffer[..1]).expect("a head"), 1);
        head.push(buffer[0]);
    }
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    let mut received = 0;
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        digest.update(&buffer[..read]);
        received += read as u64;
    }
    assert_eq!(received, size);
    let digest: String = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, portal.file(id).expect("the file").content.sha256());
    assert_eq!(last_call(&sim).transfer.expect("a transfer").moved(), size);
}

#[test]
fn faults_strike_downloads() {
    let (sim, portal) = with_files();
    let id = portal.seed_file("a.bin", 1_000_000);
    let token = portal.issue_pair(1).access_token;
    let answer = by_parameter(&portal, &token, "disk.file.get", &json!({ "id": id })).json();
    let url = answer["result"]["DOWNLOAD_URL"].as_str().expect("an address");
    let once = |action: Action| {
        sim.inject(Fault::once(Target::Download, action));
        fetch(&portal, "GET", url, &[])
    };
    let cut = once(Action::CutAfter(1234));
    assert_eq!((cut.status, cut.body.len()), (200, 1234));
    assert!(cut.head.contains("Content-Length: 1000000"));
    assert_eq!(sim.ledger().last_call().map(|e| e.faults.clone()), Some(vec!["CutAfter".to_owned()]));
    assert_eq!(once(Action::CloseMidAnswer).body.len(), 500_000);
    let error = Action::ErrorJson { status: 404, error: "NOT_FOUND".to_owned(), error_description: "x".to_owned() };
    assert_eq!(once(error).error(), (404, "NOT_FOUND".to_owned()));
    assert!(!last_call(&sim).executed);
    let elsewhere = once(Action::Redirect302("https://cdn.example/file".to_owned()));
    assert!(elsewhere.status == 302 && elsewhere.head.contains("Location: https://cdn.example/file"));
    let chunked = once(Action::Chunked);
    assert!(chunked.head.contains("Transfer-Encoding: chunked") && !chunked.head.contains("Content-Length"));
    assert!(chunked.body.len() > 1_000_000 && chunked.body.ends_with(b"\r\n0\r\n\r\n"));
    let started = Instant::now();
    let paused = once(Action::PauseAfter { bytes: 10, pause: Duration::from_millis(100) });
    assert!(paused.body.len() == 1_000_000 && started.elapsed() >= Duration::from_millis(100));
    let started = Instant::now();
    let slow = once(Action::SlowBytes { interval: Duration::from_millis(10), chunk: 100_000 });
    assert!(slow.body.len() == 1_000_000 && started.elapsed() >= Duration::from_millis(100));
    std::thread::scope(|scope| {
        sim.inject(Fault::once(Target::Method("download".to_owned()), Action::HangAfterBytes(77_000)));
        let hanging = scope.spawn(|| fetch(&portal, "GET", url, &[]).body.len());
        assert!(sim.wait_hanging(1, Duration::from_secs(5)));
        assert_eq!(last_call(&sim).transfer.expect("a transfer").moved(), 77_000);
        sim.release();
        assert_eq!(hanging.join().expect("a thread"), 1_000_000);
    });
    sim.inject(Fault::once(Target::Upload, Action::Html500));
    assert_eq!(fetch(&portal, "GET", url, &[]).status, 200);
    assert_eq!(sim.ledger().calls("download"), 9);
}

/// A multipart body of these parts: name, filename, content.
fn multipart(parts: &[(&str, Option<&str>, &str)]) -> String {
    let mut body = String::new();
    for (name, filename, content) in parts {
        let filename = filename.map(|name| format!("; filename=\"{name}\"")).unwrap_or_default();
        body.push_str(&format!(
            "--b0und\r\nContent-Disposition: form-data; name=\"{name}\"{filename}\r\n\r\n{content}\r\n"
        ));
    }
    body + "--b0und--\r\n"
}

const MULTIPART: &str = "multipart/form-data; boundary=b0und";

/// Where to upload into this folder.
fn upload_url(answer: &Answer) -> String {
    let result = &answer.json()["result"];
    assert_eq!(result["field"], "file");
    result["uploadUrl"].as_str().expect("an address").to_owned()
}

#[test]
fn an_upload_is_taken_in_at_a_signed_address() {
    let (sim, portal) = with_files();
    let token = portal.issue_pair(1).access_token;
    let folder = json!({"id": 8});
    let by_auth = upload_url(&by_parameter(&portal, &token, "disk.folder.uploadfile", &folder));
    assert!(by_auth.starts_with(&format!("{}/rest/upload.json?auth={token}&token=disk%7C", portal.url())), "{by_auth}");
    let free = upload_url(&by_header(&portal, &token, "disk.folder.uploadfile", &folder));
    assert!(free.starts_with(&format!("{}/rest/upload.json?token=disk%7C", portal.url())), "{free}");
    let hook = format!("{}disk.folder.uploadfile?id=8", portal.webhook_url());
    let hook = upload_url(&post(&portal, target_of(&hook), FORM, ""));
    assert!(hook.starts_with(&format!("{}upload/?token=disk%7C", portal.webhook_url())), "{hook}");
    let bearer = format!("Bearer {token}");
    let body = multipart(&[("file", Some("Счёт.txt"), "content")]);
    portal.set_bucket(0.001, 50.0);
    for (url, head, place) in [
        (&by_auth, &[][..], TokenPlace::Query),
        (&free, &[("Authorization", &*bearer)][..], TokenPlace::Header),
        (&hook, &[][..], TokenPlace::Path),
    ] {
        let answer = send_with(&portal, head, "POST", target_of(url), MULTIPART, &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let result = answer.json()["result"].clone();
        assert_eq!((&result["NAME"], &result["SIZE"]), (&json!("Счёт.txt"), &json!("7")));
        let entry = sim.ledger().last_call().cloned().expect("a call");
        assert_eq!(entry.body, body.as_bytes());
        let call = entry.call().expect("a call");
        assert_eq!((call.method.as_str(), call.executed, call.token_place), ("upload", true, place));
        let transfer = call.transfer.as_ref().expect("a transfer");
        let content = Content::given("content");
        assert_eq!((transfer.direction, transfer.size), (Direction::Upload, 7));
        assert_eq!((&transfer.sha256, transfer.name.as_deref()), (&content.sha256(), Some("Счёт.txt")));
        assert_eq!((transfer.query["id"].as_str(), transfer.complete), (Some("8"), true));
        assert_eq!((transfer.parts.len(), transfer.parts[0].name.as_str()), (1, "file"));
        assert_eq!((transfer.moved(), transfer.token_in_body), (body.len() as u64, false));
        assert_eq!(result["ID"].as_str(), transfer.file.map(|id| id.to_string()).as_deref());
        // What is small can be read again.
        let stored = by_header(&portal, &token, "disk.file.get", &json!({"id": result["ID"]})).json();
        let url = stored["result"]["DOWNLOAD_URL"].as_str().expect("an address");
        assert_eq!(fetch(&portal, "GET", url, &[("Authorization", &bearer)]).text(), "content");
    }
    assert!((8.9..9.1).contains(&portal.bucket_level()), "each call is one: {}", portal.bucket_level());
    let refused = |head: &[(&str, &str)], url: &str, kind: &str, body: &str| {
        let answer = send_with(&portal, head, "POST", target_of(url), kind, body);
        assert!(!last_call(&sim).executed || answer.status == 400);
        answer.error()
    };
    let without = multipart(&[("other", Some("x"), "content")]);
    assert_eq!(refused(&[], &by_auth, MULTIPART, &without), (400, "ERROR_ARGUMENT".to_owned()));
    assert_eq!(refused(&[], &by_auth, FORM, "file=x"), (400, "ERROR_ARGUMENT".to_owned()));
    let other = portal.issue_pair(1).access_token;
    assert_eq!(refused(&[], &by_auth.replace(&token, &other), MULTIPART, &body).0, 403);
    assert_eq!(refused(&[], &by_auth.replace("upload", "download"), MULTIPART, &body).0, 403);
    assert_eq!(refused(&[], &free, MULTIPART, &body), (401, "NO_AUTH_FOUND".to_owned()));
    portal.expire_access_tokens();
    assert_eq!(refused(&[], &by_auth, MULTIPART, &body), (401, "expired_token".to_owned()));
    assert_eq!(refused(&[("Authorization", &bearer)], &free, MULTIPART, &body), (401, "expired_token".to_owned()));
    assert_eq!(last_call(&sim).transfer.expect("a transfer").parts.len(), 1, "PHP reads the body first");
}

#[test]
fn a_part_of_an_upload_counts_before_the_address() {
    let (sim, portal) = with_files();
    let token = portal.issue_pair(1).access_token;
    let address = |id: u32| upload_url(&by_header(&portal, &token, "disk.folder.uploadfile", &json!({ "id": id })));
    let (eight, nine) = (address(8), address(9));
    let escaped = nine.split_once("token=").expect("a token").1;
    let signed = escaped.replace("%7C", "|").replace("%3D", "=").replace("%2F", "/").replace("%2B", "+");
    let bearer = format!("Bearer {token}");
    let send = |parts: &[(&str, Option<&str>, &str)]| {
        let head = [("Authorization", &*bearer)];
        let status = send_with(&portal, &head, "POST", target_of(&eight), MULTIPART, &multipart(parts)).status;
        (status, last_call(&sim).transfer.expect("a transfer"))
    };
    let file = ("file", Some("a"), "content");
    let (status, transfer) = send(&[file, ("token", None, &signed)]);
    assert_eq!(
        (status, transfer.query["id"].as_str(), transfer.token_in_body),
        (200, Some("9"), true),
        "another folder"
    );
    assert_eq!(transfer.token.as_deref(), Some(&*signed));
    assert_eq!(send(&[file, ("token[]", None, "x")]).0, 403, "an array is no token");
    assert_eq!(send(&[file, ("auth", None, &token)]).0, 403, "auth among the parameters is signed");
    assert!(last_call(&sim).auth_parameters[0].in_body);
    assert_eq!(send(&[file, ("access_token", None, "x")]).0, 403);
    assert_eq!(send(&[file, ("token", Some("x"), "y"), ("auth", Some("x"), "y")]).0, 200, "a file is no parameter");
    // With a token of its own a part says who uploads.
    let other = portal.issue_pair(2).access_token;
    let signed = upload_url(&by_parameter(&portal, &other, "disk.folder.uploadfile", &json!({"id": 7})));
    let signed = signed.split_once("token=").expect("a token").1.replace("%7C", "|").replace("%3D", "=");
    let signed = signed.replace("%2F", "/").replace("%2B", "+");
    let body = multipart(&[file, ("token", None, &signed), ("auth", None, &other)]);
    assert_eq!(post(&portal, target_of(&eight), MULTIPART, &body).status, 200);
    assert_eq!((last_call(&sim).auth, last_call(&sim).token_place), (Auth::Token(other), TokenPlace::Body));
}

/// An upload that is sent as it is made, so that neither side holds it.
fn upload_large(
    portal: &Portal,
    url: &str,
    size: u64,
    answered: impl FnOnce(TcpStream) -> Option<Answer>,
) -> Option<Answer> {
    let host = portal.name();
    let start = "--b0und\r\nContent-Disposition: form-data; name=\"file\"; filename=\"large.bin\"\r\n\r\n";
    let end = "\r\n--b0und--\r\n";
    let mut stream = TcpStream::connect(&host).expect("a connection");
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {MULTIPART}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        target_of(url),
        (start.len() + end.len()) as u64 + size
    );
    let mut send = || {
        stream.write_all(head.as_bytes())?;
        stream.write_all(start.as_bytes())?;
        std::io::copy(&mut Content::generated(size, 3).reader(), &mut stream)?;
        stream.write_all(end.as_bytes())
    };
    // The portal may close while it is being sent.
    let _ = send();
    answered(stream)
}

#[test]
fn a_large_upload_is_counted_and_not_held() {
    let (sim, portal) = with_files();
    let token = portal.issue_pair(1).access_token;
    let url = upload_url(&by_parameter(&portal, &token, "disk.folder.uploadfile", &json!({"id": 8})));
    let size = 200_000_000;
    let answer = upload_large(&portal, &url, size, read_answer).expect("an answer");
    assert_eq!(answer.json()["result"]["SIZE"], size.to_string());
    let entry = sim.ledger().last_call().cloned().expect("a call");
    assert_eq!(entry.body.len(), 64 * 1024);
    let transfer = entry.call().and_then(|call| call.transfer.clone()).expect("a transfer");
    assert_eq!((transfer.size, &transfer.sha256), (size, &Content::generated(size, 3).sha256()));
    let id = transfer.file.expect("a file");
    let address = by_parameter(&portal, &token, "disk.file.get", &json!({ "id": id })).json();
    assert_eq!(address["result"]["SIZE"], size.to_string());
    let url = address["result"]["DOWNLOAD_URL"].as_str().expect("an address");
    assert_eq!(fetch(&portal, "GET", url, &[]).error().0, 400, "received, not kept");
}

#[test]
fn faults_strike_uploads() {
    let (sim, portal) = with_files();
    let token = portal.issue_pair(1).access_token;
    let url = upload_url(&by_parameter(&portal, &token, "disk.folder.uploadfile", &json!({"id": 8})));
    let upload = |size: u64| upload_large(&portal, &url, size, read_answer);
    let once = |action: Action, size: u64| {
        sim.inject(Fault::once(Target::Upload, action));
        upload(size)
    };
    let expired = || ("expired_token".to_owned(), "The access token provided has expired.".to_owned());
    let (error, error_description) = expired();
    let refused = once(Action::ErrorJson { status: 401, error, error_description }, 1000).expect("an answer");
    assert_eq!(refused.error(), (401, "expired_token".to_owned()));
    let call = last_call(&sim);
    assert!(!call.executed && call.transfer.expect("a transfer").complete, "the body was read");

    let (error, error_description) = expired();
    let unread = Action::AnswerUnread { status: 401, error, error_description };
    let refused = once(unread, 30_000_000).expect("an answer");
    assert_eq!(refused.error(), (401, "expired_token".to_owned()));
    assert!(refused.head.contains("Connection: close"));
    assert_eq!(last_call(&sim).transfer.expect("a transfer").moved(), 0);

    assert!(once(Action::CloseReading(100_000), 30_000_000).is_none());
    let call = last_call(&sim);
    assert!(!call.executed);
    assert_eq!(call.transfer.expect("a transfer").moved(), 100_000);
    assert!(once(Action::CloseAfter, 1000).is_none());
    assert!(last_call(&sim).executed);

    let started = Instant::now();
    let slow = Action::SlowRead { interval: Duration::from_millis(10), chunk: 100_000 };
    assert_eq!(once(slow, 1_000_000).map(|answer| answer.status), Some(200));
    assert!(started.elapsed() >= Duration::from_millis(100));

    for (action, read) in [(Action::Hang, 0), (Action::HangReading(200_000), 200_000)] {
        std::thread::scope(|scope| {
            sim.inject(Fault::once(Target::Upload, action));
            let hanging = scope.spawn(|| upload(30_000_000).map(|answer| answer.status));
            assert!(sim.wait_hanging(1, Duration::from_secs(5)));
            assert_eq!(last_call(&sim).transfer.expect("a transfer").moved(), read);
            assert!(!hanging.is_finished(), "nobody reads");
            sim.release();
            assert_eq!(hanging.join().expect("a thread"), Some(200));
        });
    }
    assert_eq!(sim.ledger().executed("upload"), 4);
    let old = portal.name();
    let new = portal.rename();
    let body = multipart(&[("file", Some("a"), "content")]);
    let moved = try_send(&old, &message("POST", &old, target_of(&url), MULTIPART, &body)).expect("an answer");
    assert!(moved.status == 302 && moved.head.contains(&format!("Location: http://{new}/rest/upload.json?")));
}

#[test]
fn answers_repeat_secrets_on_demand() {
    let keys = KeyPair { client_id: "local.1".to_owned(), client_secret: "se/cret +1é".to_owned() };
    let sim = Simulator::start(Options { https: false, key_pair: Some(keys), ..Options::default() });
    let portal = sim.portal();
    let pair = portal.issue_pair(1);
    let secrets = [
        &pair.access_token,
        &pair.refresh_token,
        &portal.application_token(),
        &sim.client_secret(),
        &portal.webhook_url(),
    ]
    .map(|secret| simulator::spellings(secret));
    let has_all = |text: &str| {
        for spelling in secrets.iter().flatten() {
            assert!(text.contains(spelling), "{spelling} in {text}");
        }
    };
    for (shape, status) in [("success", 200), ("error", 400), ("error_code", 400)] {
        let answer = by_header(&portal, &pair.access_token, "sim.leak", &json!({ "as": shape }));
        assert_eq!((answer.status, answer.json().is_object()), (status, true));
        has_all(&answer.text());
    }
    let coded = by_parameter(&portal, &pair.access_token, "sim.leak", &json!({"as": "error_code", "status": 403}));
    assert!(coded.status == 403 && coded.error().1.contains(&pair.refresh_token));
    let page = by_header(&portal, &pair.access_token, "sim.leak", &json!({"as": "html"}));
    assert!(page.status == 502 && page.head.contains("Content-Type: text/html"));
    let title = page.text().lines().find(|line| line.contains("<title>")).expect("a title").to_owned();
    assert!(title.contains(&pair.access_token) && page.text().contains("%73%65%2f%63"), "{}", page.text());
    let third = by_header(&portal, &pair.access_token, "../rest/api/sim.leak", &json!({"as": "rest3_error"}));
    assert_eq!((third.status, third.json()["error"]["code"].as_str()), (400, Some("LEAK")));
    has_all(&third.text());
    let batch = json!({"cmd": {"r": "sim.leak", "e": "sim.leak?as=error"}});
    let batch = by_header(&portal, &pair.access_token, "batch", &batch).json();
    assert_eq!(batch["result"]["result"]["r"]["refresh_token"]["plain"], pair.refresh_token);
    let description = batch["result"]["result_error"]["e"]["error_description"].as_str();
    assert!(description.is_some_and(|text| text.contains(&pair.access_token)));
    let hook = format!("{}sim.leak", portal.webhook_url());
    assert!(post(&portal, target_of(&hook), FORM, "").text().contains("webhook_code"));
    assert_eq!(by_header(&portal, "wrong", "sim.leak", &json!({})).status, 401);

    sim.inject(Fault::once(Target::Token, portal.leak(&pair, LeakAs::Error, 400)));
    let answer = refresh(&sim, &pair.refresh_token).expect("an answer");
    assert_eq!(answer.error(), (400, "LEAK".to_owned()));
    has_all(&answer.text());
    assert!(portal.is_live(&pair.refresh_token), "not executed");
}

#[test]
fn a_renamed_portal_sends_its_callers_on() {
    let (sim, portal) = http();
    let old = portal.name();
    let pair = portal.issue_pair(1);
    let new = portal.rename();
    let target = format!("/rest/profile?auth={}", pair.access_token);
    let moved = try_send(&old, &message("POST", &old, &target, FORM, "")).expect("an answer");
    assert_eq!(moved.status, 302);
    let location = format!("Location: http://{new}{target}");
    assert!(moved.head.contains(&location), "{}", moved.head);
    assert_eq!(sim.ledger().executed("profile"), 0);
    let pair = refresh(&sim, &pair.refresh_token).expect("an answer").json();
    assert_eq!(pair["client_endpoint"], format!("http://{new}/rest/"));
    assert_eq!(pair["member_id"], portal.member_id());
}

#[test]
fn the_authorization_page_redirects_to_the_applications_own_address() {
    let (sim, portal) = http();
    sim.set_redirect_uri("https://app.example/cgi-bin/p");
    let target =
        format!("/oauth/authorize/?client_id={}&state=s%261&redirect_uri=https://evil.example/", sim.client_id());
    let host = portal.name();
    let get = message("GET", &host, &target, "", "");
    let answer = try_send(&host, &get).expect("an answer");
    assert_eq!(answer.status, 302);
    assert!(answer.head.contains("Location: https://app.example/cgi-bin/p?code="));
    assert!(answer.head.contains("&state=s%261&domain=127.0.0.1%3A"));
    sim.set_auto_agree(false);
    let page = try_send(&host, &get).expect("an answer").text();
    assert!(page.contains("id=\"administrator\"") && page.contains("id=\"employee\""));
    assert!(matches!(sim.ledger().entries[0].kind, Kind::Authorize { .. }));
}

#[test]
fn faults_hang_trickle_and_cut() {
    let (sim, portal) = http();
    sim.inject(Fault::once(Target::Call, Action::Hang));
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| call(&portal, "crm.deal.add", json!({})).status);
        assert!(sim.wait_hanging(1, Duration::from_secs(5)));
        assert_eq!(sim.ledger().executed("crm.deal.add"), 0);
        sim.release();
        assert_eq!(hanging.join().expect("a thread"), 200);
    });
    let half = Target::Method("profile".to_owned());
    sim.inject(Fault::once(half.clone(), Action::TruncateJson));
    assert!(serde_json::from_slice::<Value>(&call(&portal, "profile", json!({})).body).is_err());
    sim.inject(Fault::once(half.clone(), Action::HugeAnswer(300_000)));
    let huge = call(&portal, "profile", json!({})).json();
    assert_eq!(huge["result"].as_str().map(str::len), Some(300_000));
    let slow = Action::SlowBytes { interval: Duration::from_millis(20), chunk: 100 };
    sim.inject(Fault::once(half, slow));
    let started = Instant::now();
    assert_eq!(call(&portal, "profile", json!({})).status, 200);
    assert!(started.elapsed() > Duration::from_millis(80));
    portal.stop();
    assert!(TcpStream::connect(portal.name()).is_err());
    portal.start().expect("listening again");
    assert_eq!(call(&portal, "profile", json!({})).status, 200);
    sim.inject(Fault::once(Target::Connection, Action::Hang));
    let mut stream = TcpStream::connect(portal.name()).expect("a connection");
    assert!(sim.wait_hanging(1, Duration::from_secs(5)));
    drop(sim);
    assert_eq!(stream.read(&mut [0]).expect("closed"), 0);
}

#[test]
fn the_control_listener_does_the_same() {
    let (sim, portal) = http();
    let url = sim.control_url();
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    let ask = |method: &str, target: &str, body: &str| {
        try_send(host, &message(method, host, target, JSON, body)).expect("an answer")
    };
    let fault = json!({"target": "method:profile", "action": "error_json", "status": 503,
                       "error": "QUERY_LIMIT_EXCEEDED", "times": 1});
    assert_eq!(ask("POST", "/fault", &fault.to_string()).status, 200);
    assert_eq!(call(&portal, "profile", json!({})).status, 503);
    let entries = ask("GET", "/ledger?kind=call", "").json();
    assert_eq!(entries[0]["status"], 503);
    assert_eq!(entries[0]["executed"], false);
    let pair = ask("POST", "/issue_pair", "").json();
    assert!(portal.is_live(pair["refresh_token"].as_str().expect("a token")));
    assert_eq!(ask("POST", "/set", r#"{"deleted":true,"bucket":null}"#).status, 200);
    assert_eq!(call(&portal, "profile", json!({})).error(), (500, "PORTAL_DELETED".to_owned()));
    assert_eq!(ask("POST", "/reset", "").status, 200);
    assert!(sim.ledger().entries.is_empty());
    assert_eq!(ask("POST", "/fault", "{}").status, 400);
    assert_eq!(ask("POST", "/nonsense", "").status, 400);
    assert_eq!(ask("GET", "/state", "").json()["portal"], portal.name());
}

#[test]
fn the_control_listener_has_files_and_their_faults() {
    let (sim, portal) = http();
    let url = sim.control_url();
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    let tell = |path: &str, body: Value| {
        let answer = try_send(host, &message("POST", host, path, JSON, &body.to_string())).expect("an answer");
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text());
        answer.json()
    };
    tell("/set", json!({"grant": "disk,documentgenerator", "picky_downloads": false, "plain_slashes": true}));
    let file =
        tell("/seed_file", json!({"name": "a.bin", "size": 1000, "content_type": "image/x", "disposition": null}));
    let stored = portal.file(file["id"].as_i64().expect("an ID")).expect("a file");
    assert_eq!(
        (stored.content_type.as_str(), stored.disposition, file["size"].as_u64()),
        ("image/x", None, Some(1000))
    );
    assert_eq!(file["sha256"], stored.content.sha256());
    let text = tell("/seed_file", json!({"name": "b.txt", "text": "b"}));
    tell("/seed", json!({"kind": "crm.item", "entityTypeId": 2, "count": 1}));
    let field = json!({"kind": "crm.item", "entityTypeId": 2, "record": 1, "field": "ufCrm", "file": text["id"]});
    tell("/attach_file", field);
    let document = tell("/store_document", json!({"title": "d", "file": file["id"], "pdf": text["id"]}));
    assert_eq!(document["id"], 1);
    let token = portal.issue_pair(1).access_token;
    let item = by_parameter(&portal, &token, "crm.item.get", &json!({"entityTypeId": 2, "id": 1}));
    assert!(item.text().contains("/rest/crm.controller.item.getFile.json?auth="), "plain: {}", item.text());
    let machine = item.json()["result"]["item"]["ufCrm"]["urlMachine"].as_str().expect("an address").to_owned();
    tell("/fault", json!({"target": "download", "action": "cut_after", "bytes": 0}));
    assert_eq!(send_with(&portal, &[], "GET", target_of(&machine), FORM, "").body, b"");
    assert_eq!(send_with(&portal, &[], "GET", target_of(&machine), FORM, "").body, b"b");
    for fault in [
        json!({"target": "download", "action": "pause_after", "bytes": 1, "seconds": 0.01}),
        json!({"target": "download", "action": "hang_after_bytes", "bytes": 1}),
        json!({"target": "upload", "action": "slow_read", "seconds": 0.01, "chunk": 100}),
        json!({"target": "upload", "action": "close_reading", "bytes": 1}),
        json!({"target": "upload", "action": "hang_reading", "bytes": 1}),
        json!({"target": "upload", "action": "answer_unread", "status": 401, "error": "expired_token"}),
    ] {
        tell("/fault", fault);
    }
    assert_eq!(sim.faults().len(), 6);
    sim.clear_faults();
    let entries = try_send(host, &message("GET", host, "/ledger?kind=call", "", "")).expect("an answer").json();
    let transfer = &entries[1]["transfer"];
    assert_eq!(
        (&transfer["direction"], &transfer["size"], &entries[1]["token_place"]),
        (&json!("download"), &json!(1), &json!("query"))
    );
    assert_eq!(entries[0]["auth_parameters"][0]["value"], token);
    let leak = json!({"as": "error", "access_token": "aa", "refresh_token": "bb", "status": 401});
    let leak = tell("/leak", leak);
    assert!(leak["body"].as_str().is_some_and(|body| body.contains("%61%61")));
    tell("/set", json!({"strips_authorization": true, "lenient_rest3_batch": false, "rest3_access_denied": true}));
    let refused = by_header(&portal, &token, "../rest/api/profile", &json!({}));
    let code = refused.json()["error"]["code"].clone();
    assert_eq!((refused.status, code.as_str()), (401, Some("BITRIX_REST_V3_EXCEPTION_ACCESSDENIEDEXCEPTION")));
    let strict = tell("/add_portal", json!({"strips_authorization": true, "lenient_rest3_batch": false}));
    let strict = sim.portal_named(strict["name"].as_str().expect("a name")).expect("a portal");
    let token = strict.issue_pair(1).access_token;
    assert_eq!(by_header(&strict, &token, "profile", &json!({})).status, 401);
    let body = json!({"0": {"method": "profile", "query": {}}, "auth": token}).to_string();
    assert_eq!(post(&strict, "/rest/api/batch", JSON, &body).status, 400);
}

#[test]
fn events_are_posted_as_forms() {
    let (sim, portal) = http();
    // The portal itself stands in for a handler: its ledger shows what was posted.
    let url = format!("http://{}/handler?x=1", portal.name());
    let answer = portal.post_event(&url, "ONAPPUNINSTALL").expect("an answer");
    assert_eq!(answer.status, 404);
    let entry = sim.ledger().entries.pop().expect("an entry");
    assert!(entry.contains("event=ONAPPUNINSTALL&"));
    assert!(entry.contains(&format!("application_token%5D={}", portal.application_token())));
    assert!(!entry.contains("access_token"));
    let frame = portal.frame_form(2);
    assert!(frame.query.starts_with("DOMAIN=127.0.0.1%3A"));
    assert!(frame.body.starts_with("AUTH_ID="));
}
