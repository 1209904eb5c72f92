//! The log: contract sections 1 (`[log]`) and 5.5 (no secret is written).

use crate::fixture::*;
use serde_json::{json, Value};
use simulator::{Action, Fault, PortalOptions, Target};
use support::cgi::{Answer, Cgi};

/// The lines of a log, each of which must be a JSON object.
pub fn lines(log: &str) -> Vec<Value> {
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
}

/// The one line of a request.
#[track_caller]
pub fn line(answer: &Answer) -> Value {
    let lines = lines(&answer.stderr);
    assert_eq!(lines.len(), 1, "{}", answer.stderr);
    lines.into_iter().next().unwrap()
}

#[test]
fn a_request_is_one_json_line_with_client_portal_method_status_and_time() {
    let proxy = Proxy::installed();
    let answer = proxy.call("sim.echo", json!({}));
    let line = line(&answer);
    assert_eq!(line["request_id"].as_str(), answer.header("X-Request-Id"));
    assert_eq!(line["level"], "info");
    assert_eq!(line["client"], "auth_token");
    assert_eq!(line["portal"], proxy.portal().name());
    assert_eq!(line["method"], "sim.echo");
    assert_eq!(line["status"], 200);
    assert!(line["ms"].as_u64().is_some_and(|ms| ms < 10_000), "{line}");
    assert!(line["time"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')), "{line}");
    assert_eq!(line.get("repeated"), None);
}

#[test]
fn what_was_done_again_is_in_the_line() {
    let proxy = Proxy::installed();
    proxy.portal().expire_access_tokens();
    let answer = proxy.call("sim.echo", json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let all = lines(&answer.stderr);
    let line = all.last().unwrap();
    assert_eq!(line["repeated"], json!(["expired_token"]), "{line}");
}

#[test]
fn a_failure_is_one_line_with_its_code_and_whom_it_met() {
    let proxy = Proxy::installed();
    let line_of = |cgi: Cgi| line(&cgi.run());
    let unauthorized = line_of(proxy.bare_request("{}").bearer("wrong"));
    assert_eq!((&unauthorized["status"], &unauthorized["error_code"]), (&json!(401), &json!("unauthorized")));
    assert_eq!(unauthorized["level"], "warn");
    let unknown = line_of(proxy.request(r#"{"domain":"evil.example","method":"profile"}"#));
    assert_eq!((&unknown["client"], &unknown["error_code"]), (&json!("auth_token"), &json!("unknown_portal")));
    let failed = line_of(proxy.request(r#"{"method":"sim.fail","params":{"error":"NO_LUCK"}}"#));
    assert_eq!((&failed["status"], &failed["error_code"]), (&json!(400), &json!("bitrix24_error")));
    assert_eq!(failed["bitrix24"], "NO_LUCK");
    proxy.sandbox.write_token_file(&format!("{}.json", proxy.stem()), "{");
    let broken = line_of(proxy.request(r#"{"method":"profile"}"#));
    assert_eq!((&broken["level"], &broken["error_code"]), (&json!("error"), &json!("storage_error")));
}

#[test]
fn an_address_that_is_refused_is_logged_with_the_client_that_called_from_it() {
    let proxy = Proxy::installed();
    let proxy = proxy.reconfigured("[security]", "[security]\nallowed_ips = [\"192.0.2.10\"]");
    let line = line(&proxy.request(r#"{"method":"profile"}"#).run());
    assert_eq!((&line["status"], &line["client"]), (&json!(403), &json!("auth_token")));
}

#[test]
fn the_level_decides_which_lines_are_written() {
    for (level, on_success, on_refusal, on_breakage) in
        [("error", 0, 0, 1), ("warn", 0, 1, 1), ("info", 1, 1, 1), ("debug", 1, 1, 1)]
    {
        let proxy = Proxy::installed().reconfigured("level = \"debug\"", &format!("level = \"{level}\""));
        let count = |answer: Answer| lines(&answer.stderr).len();
        assert_eq!(count(proxy.call("sim.echo", json!({}))), on_success, "{level}");
        assert_eq!(count(proxy.bare_request("{}").bearer("wrong").run()), on_refusal, "{level}");
        proxy.sandbox.write_token_file(&format!("{}.json", proxy.stem()), "{");
        assert_eq!(count(proxy.call("sim.echo", json!({}))), on_breakage, "{level}");
    }
}

#[test]
fn lines_go_to_the_log_file_which_only_its_owner_can_read_and_nothing_to_the_error_log() {
    use std::os::unix::fs::PermissionsExt;
    let proxy = Proxy::installed().reconfigured("[log]", "[log]\nfile = \"proxy.log\"");
    let first = proxy.call("sim.echo", json!({}));
    let second = proxy.bare_request("{}").bearer("wrong").run();
    assert_eq!((first.stderr.as_str(), second.stderr.as_str()), ("", ""));
    let file = proxy.sandbox.path().join("b24proxy/proxy.log");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let lines = lines(&std::fs::read_to_string(file).unwrap());
    let ids: Vec<_> = lines.iter().map(|line| line["request_id"].as_str()).collect();
    assert_eq!(ids, [first.header("X-Request-Id"), second.header("X-Request-Id")]);
}

#[test]
fn lines_of_many_processes_do_not_mix() {
    let proxy = Proxy::installed().reconfigured("[log]", "[log]\nfile = \"proxy.log\"");
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| proxy.bare_request("{}").bearer("wrong").run());
        }
    });
    let text = std::fs::read_to_string(proxy.sandbox.path().join("b24proxy/proxy.log")).unwrap();
    let mut ids: Vec<_> = lines(&text).iter().map(|line| line["request_id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
}

#[test]
fn a_log_file_that_cannot_be_opened_is_named_in_the_error_log_which_goes_on_serving() {
    for file in ["tokens", "no/such/folder/proxy.log"] {
        let proxy = Proxy::installed().reconfigured("[log]", &format!("[log]\nfile = \"{file}\""));
        let answer = proxy.call("sim.echo", json!({}));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let lines = lines(&answer.stderr);
        assert_eq!(lines.len(), 2, "{}", answer.stderr);
        assert_eq!(lines[0]["level"], "warn");
        assert!(lines[0]["message"].as_str().unwrap().contains(&format!("b24proxy/{file}")), "{}", answer.stderr);
        assert_eq!(lines[1]["status"], 200);
    }
}

#[test]
fn what_the_log_file_does_not_take_goes_to_the_error_log() {
    let proxy = Proxy::installed().reconfigured("[log]", "[log]\nfile = \"/dev/full\"");
    let answer = proxy.call("profile", json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(line(&answer)["message"], "answered");
}

#[test]
fn what_a_caller_sends_can_neither_forge_a_line_nor_flood_the_log() {
    let proxy = Proxy::installed();
    let forged = proxy.request("{\"x\\n{\\\"level\\\":\\\"error\\\"}\":1,\"method\":\"profile\"}").run();
    assert_eq!(forged.status, 400);
    line(&forged);
    let key = "k".repeat(100_000);
    let flood = proxy.request(format!("{{\"{key}\":1}}")).run();
    assert_eq!(flood.status, 400);
    assert!(flood.stderr.len() < 2_000, "{} bytes", flood.stderr.len());
    assert!(flood.body.len() < 2_000, "{} bytes", flood.body.len());
}

#[test]
fn what_bitrix24_says_of_an_error_does_not_flood_the_log() {
    let proxy = Proxy::installed();
    let error_description = "слово ".repeat(500_000);
    let error = Action::ErrorJson { status: 400, error: "LONG".into(), error_description: error_description.clone() };
    proxy.simulator.inject(Fault::once(Target::Call, error));
    let answer = proxy.call("profile", json!({}));
    assert_failure(&answer, 400, "bitrix24_error");
    assert!(answer.stderr.len() < 5_000, "{} bytes", answer.stderr.len());
    assert_eq!(answer.json()["bitrix24"]["error_description"], error_description, "the caller gets it whole");
}

#[test]
fn what_is_not_a_request_is_not_repeated_in_the_log_because_it_may_be_a_secret() {
    let proxy = Proxy::installed();
    for body in ["\"a-secret-text\"", "{\"method\":{\"a-secret-text\":1}}", "{\"method\":\"a-secret-text!\"}"] {
        let answer = proxy.request(body).run();
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(!answer.stderr.contains("a-secret-text"), "{}", answer.stderr);
        assert!(!answer.text().contains("a-secret-text"), "{}", answer.text());
    }
}

/// A day of a proxy, every kind of trouble in it: nothing that it writes anywhere holds a secret.
#[test]
fn no_secret_is_written_to_a_log_an_error_or_a_page() {
    let proxy = Proxy::installed();
    let hook = proxy.simulator.add_portal(PortalOptions::default());
    let config = format!("{}\n[portals.\"{}\"]\nwebhook = \"{}\"\n", proxy.config(), hook.name(), hook.webhook_url());
    let proxy = proxy.configured(&config).reconfigured("[log]", "[log]\nfile = \"proxy.log\"");
    let mut seen = String::new();
    let mut secrets = vec![TOKEN.to_owned()];
    let mut see = |answer: Answer| {
        let text = format!("{:?} {} {}\n", answer.headers, answer.text(), answer.stderr);
        seen.push_str(&text);
        answer.status
    };
    let name = proxy.portal().name();
    let call = |portal: &str, method: &str| {
        proxy.request(json!({"domain": portal, "method": method, "params": {"a": 1}}).to_string())
    };

    assert_eq!(see(call(&name, "profile").run()), 200);
    assert_eq!(see(call(&hook.name(), "profile").run()), 200);
    assert_eq!(see(call(&name, "no.such.method").run()), 404);
    assert_eq!(see(call(&hook.name(), "no.such.method").run()), 404);
    assert_eq!(see(call(&name, "profile").bearer("a-wrong-token-of-this-test").run()), 401);
    secrets.push("a-wrong-token-of-this-test".into());
    for action in [Action::Html500, Action::CloseAfter, Action::TruncateJson, Action::Raw(b"nonsense".to_vec())] {
        for portal in [proxy.portal(), hook.clone()] {
            portal.inject(Fault::once(Target::Call, action.clone()));
            assert!(see(call(&portal.name(), "profile").run()) >= 500);
        }
    }
    proxy.portal().expire_access_tokens();
    assert_eq!(see(call(&name, "profile").run()), 200);
    proxy.portal().expire_access_tokens();
    proxy.change_stored(|tokens| tokens["refreshed_at"] = json!(0));
    proxy.simulator.inject(Fault::once(Target::Token, Action::Html500));
    assert!(see(call(&name, "profile").run()) >= 500);
    let code = proxy.portal().issue_code(1);
    see(proxy.get("/").query(&format!("code={code}&state=a-state-nobody-issued")).run());
    see(proxy.bare_request("").form(&proxy.portal().event_form("ONAPPINSTALL")).run());
    let frame = proxy.portal().frame_form(1);
    see(proxy.bare_request("").form(&frame.body).query(&frame.query).run());
    see(proxy.get("/health").run());
    hook.stop();
    assert_eq!(see(call(&hook.name(), "profile").run()), 502);
    proxy.sandbox.write_token_file(&format!("{}.json", proxy.stem()), &proxy.stored().to_string()[1..]);
    assert_eq!(see(call(&name, "profile").run()), 500);
    let broken = proxy.config().replace("redirect_uri ", "redirect_url ");
    proxy.sandbox.write_config(&broken);
    assert_eq!(see(call(&name, "profile").run()), 500);

    let log = std::fs::read_to_string(proxy.sandbox.path().join("b24proxy/proxy.log")).unwrap();
    assert!(lines(&log).len() >= 15, "{log}");
    secrets.extend(proxy.simulator.secrets());
    secrets.push(code);
    assert!(secrets.len() > 10, "the simulator told its secrets");
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        assert!(!seen.contains(secret), "{secret} was answered or is in the error log: {seen}");
        assert!(!log.contains(secret), "{secret} is in the log: {log}");
    }
}
