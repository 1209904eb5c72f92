//! The simulator from outside: over http by hand-written requests, over https by rustls.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{json, Value};
use simulator::{Action, Auth, Fault, Kind, Options, Portal, PortalOptions, Simulator, Target, TokenPlace};

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
    assert_eq!(list.json()["result"]["two"]["item"]["id"], 2);
    assert_eq!(list.json()["result"]["1"]["item"]["id"], 1);
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
