//! Contract sections 2, 3, 5.3 and 5.4: one REST call, relayed; what each failure is answered with; what is repeated.

use crate::fixture::*;
use serde_json::{json, Value};
use simulator::{Action, Auth, Fault, Options, Target};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;
use support::cgi::Answer;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn any_call(action: Action) -> Fault {
    Fault::forever(Target::Call, action)
}

fn json_answer(status: u16, body: &str) -> Action {
    Action::Status { status, content_type: "application/json; charset=utf-8".into(), body: body.into() }
}

#[track_caller]
fn assert_executed(answer: &Answer, executed: &str) {
    assert_eq!(answer.json()["executed"], executed, "{}", answer.text());
}

#[track_caller]
fn assert_text(answer: &Answer, part: &str) {
    let body = answer.json();
    assert!(body["error"].as_str().unwrap_or_default().contains(part), "{part:?} is not in the text of {body}");
}

/// The call was sent so many times and run so many times.
#[track_caller]
fn assert_counts(proxy: &Proxy, method: &str, sent: usize, executed: usize) {
    let ledger = proxy.simulator.ledger();
    assert_eq!((ledger.calls(method), ledger.executed(method)), (sent, executed), "sent and executed");
}

fn install_url(proxy: &Proxy) -> String {
    let escaped = proxy.portal().name().replace(':', "%3A");
    format!("https://www.acme.test/cgi-bin/b24proxy/install?portal={escaped}")
}

#[track_caller]
fn assert_install_url(proxy: &Proxy, answer: &Answer) {
    let url = answer.json()["install_url"].as_str().unwrap_or_default().replace(':', "%3A");
    assert_eq!(url, install_url(proxy).replace(':', "%3A"), "{}", answer.text());
}

#[test]
fn a_call_is_answered_with_bitrix24s_own_answer_byte_for_byte() {
    let proxy = Proxy::installed();
    let answer = proxy.call("catalog.product.add", json!({"fields": {"iblockId": 15, "name": "Стол"}}));
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    let ledger = proxy.simulator.ledger();
    let sent = String::from_utf8(ledger.of_method("catalog.product.add").next().unwrap().answer.clone()).unwrap();
    assert_eq!(answer.text(), format!("{{\"success\":true,\"data\":{sent}}}"));
    assert_eq!(answer.header("Content-Type"), Some("application/json; charset=utf-8"));
}

#[test]
fn an_answer_in_bitrix24s_chunked_coding_arrives_whole() {
    let proxy = Proxy::installed();
    proxy.portal().seed("crm.deal", 50);
    proxy.simulator.inject(any_call(Action::Chunked));
    let answer = proxy.call("crm.deal.list", json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let ledger = proxy.simulator.ledger();
    let sent = String::from_utf8(ledger.last_call().unwrap().answer.clone()).unwrap();
    assert_eq!(answer.text(), format!("{{\"success\":true,\"data\":{sent}}}"));
}

#[test]
fn every_answer_has_a_request_id_and_is_not_stored_nor_sniffed() {
    let proxy = Proxy::installed();
    for answer in [proxy.call("profile", json!({})), proxy.call("no.such.method", json!({})), proxy.get("/x").run()] {
        assert_eq!(answer.header("Cache-Control"), Some("no-store"));
        assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"));
        assert!(answer.header("X-Request-Id").is_some_and(|id| id.len() >= 8));
        assert!(answer.exit.success());
    }
}

#[test]
fn bitrix24s_own_error_keeps_its_status_code_and_text() {
    let proxy = Proxy::installed();
    for (status, error) in [(400, "SOME"), (403, "ACCESS_DENIED"), (404, "GONE"), (500, "INTERNAL_SERVER_ERROR")] {
        let answer =
            proxy.call("sim.fail", json!({"status": status, "error": error, "error_description": "Нет доступа"}));
        assert_failure(&answer, status, "bitrix24_error");
        let told = json!({"status": status, "error": error, "error_description": "Нет доступа"});
        assert_eq!(answer.json()["bitrix24"], told);
        assert_text(&answer, "Нет доступа");
    }
    let answer = proxy.call("no.such.method", json!({}));
    assert_failure(&answer, 404, "bitrix24_error");
    assert_eq!(answer.json()["bitrix24"]["error"], "ERROR_METHOD_NOT_FOUND");
    proxy.portal().set_scope("task");
    let answer = proxy.call("crm.deal.list", json!({}));
    assert_failure(&answer, 403, "bitrix24_error");
    assert_eq!(answer.json()["bitrix24"]["error"], "insufficient_scope");
    proxy.portal().set_scope("crm");
    proxy.portal().block_method("crm.deal.list", 60.0);
    assert_failure(&proxy.call("crm.deal.list", json!({})), 429, "bitrix24_error");
}

#[test]
fn an_error_that_bitrix24_sent_with_status_200_is_502() {
    let proxy = Proxy::installed();
    let answer = proxy.call("sim.oldstyle", json!({}));
    assert_failure(&answer, 502, "bitrix24_error");
    assert_eq!(answer.json()["bitrix24"]["status"], 200);
    assert_eq!(answer.json()["bitrix24"]["error"], "OLD_STYLE");
}

#[test]
fn bitrix24s_error_may_be_empty_or_a_number() {
    let proxy = Proxy::installed();
    let answer = proxy.call("sim.emptyerror", json!({}));
    assert_failure(&answer, 400, "bitrix24_error");
    assert_eq!(answer.json()["bitrix24"]["error"], "");
    assert_text(&answer, "An error without a code");
    let answer = proxy.call("sim.numericerror", json!({}));
    assert_failure(&answer, 400, "bitrix24_error");
    assert_eq!(answer.json()["bitrix24"]["error"], "42");
}

#[test]
fn an_error_of_rest_3_is_told_with_what_was_not_valid() {
    let proxy = Proxy::installed();
    let call = |method: &str, params: Value| {
        proxy.request(json!({"method": method, "params": params, "version": 3}).to_string()).run()
    };
    let answer = call("tasks.task.get", json!({}));
    assert_failure(&answer, 400, "bitrix24_error");
    let told = answer.json()["bitrix24"].clone();
    assert_eq!(told["error"], "BITRIX_REST_V3_EXCEPTION_VALIDATION_REQUESTVALIDATIONEXCEPTION");
    assert!(told["error_description"].as_str().unwrap().contains("\"field\":\"id\""), "{told}");
    let answer = call("no.such.method", json!({}));
    assert_failure(&answer, 404, "bitrix24_error");
    assert_eq!(answer.json()["bitrix24"]["error"], "BITRIX_REST_V3_EXCEPTION_METHODNOTFOUNDEXCEPTION");
}

#[test]
fn a_refused_connection_is_bitrix24_unreachable_and_certainly_not_executed() {
    let proxy = Proxy::installed();
    proxy.portal().stop();
    let answer = proxy.call("crm.deal.add", json!({"fields": {}}));
    assert_failure(&answer, 502, "bitrix24_unreachable");
    assert_executed(&answer, "no");
    assert!(answer.elapsed < Duration::from_secs(5), "{:?}", answer.elapsed);
}

#[test]
fn a_call_is_repeated_where_the_connection_was_refused() {
    let proxy = Proxy::installed();
    let portal = proxy.portal();
    portal.stop();
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(150));
            portal.start().unwrap();
        });
        proxy.call("crm.deal.add", json!({"fields": {}}))
    });
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_counts(&proxy, "crm.deal.add", 1, 1);
}

#[test]
fn a_connection_lost_after_sending_is_bitrix24_unreachable_and_is_not_repeated() {
    let proxy = Proxy::installed();
    for (action, executed) in [(Action::CloseBefore, 0), (Action::CloseAfter, 1), (Action::CloseMidAnswer, 1)] {
        proxy.simulator.clear_ledger();
        proxy.simulator.clear_faults();
        proxy.simulator.inject(any_call(action));
        let answer = proxy.call("crm.deal.add", json!({"fields": {}}));
        assert_failure(&answer, 502, "bitrix24_unreachable");
        assert_executed(&answer, "unknown");
        assert_counts(&proxy, "crm.deal.add", 1, executed);
    }
}

#[test]
fn a_connection_closed_before_tls_was_made_is_certainly_not_executed() {
    let proxy = Proxy::installed();
    proxy.simulator.inject(Fault::forever(Target::Connection, Action::CloseBefore));
    let answer = proxy.call("crm.deal.add", json!({"fields": {}}));
    assert_failure(&answer, 502, "bitrix24_unreachable");
    assert_executed(&answer, "no");
    assert_counts(&proxy, "crm.deal.add", 0, 0);
}

#[test]
fn a_certificate_of_an_unknown_authority_is_not_accepted() {
    let proxy = Proxy::installed().reconfigured("ca_file       = \"ca.pem\"\n", "");
    let answer = proxy.call("profile", json!({}));
    assert_failure(&answer, 502, "bitrix24_unreachable");
    assert_executed(&answer, "no");
    assert_text(&answer, "ca_file");
    assert_eq!(proxy.simulator.ledger().all_calls().count(), 0);
}

#[test]
fn what_is_not_bitrix24s_json_is_bitrix24_bad_answer() {
    let proxy = Proxy::installed();
    let html = |status| Action::Status { status, content_type: "text/html".into(), body: "<html>".into() };
    for (action, status, executed, told) in [
        (Action::Html500, 500, 0, "unknown"),
        (html(200), 200, 0, "unknown"),
        (html(403), 403, 0, "no"),
        (json_answer(200, ""), 200, 0, "unknown"),
        (json_answer(200, "[1]"), 200, 0, "unknown"),
        (json_answer(502, ""), 502, 0, "unknown"),
        (Action::TruncateJson, 200, 1, "unknown"),
    ] {
        proxy.simulator.clear_ledger();
        proxy.simulator.clear_faults();
        proxy.simulator.inject(any_call(action.clone()));
        let answer = proxy.call("crm.deal.add", json!({"fields": {}}));
        assert_failure(&answer, 502, "bitrix24_bad_answer");
        assert_eq!(answer.json()["bitrix24"]["status"], status, "{action:?}");
        assert_executed(&answer, told);
        assert_counts(&proxy, "crm.deal.add", 1, executed);
    }
}

#[test]
fn an_answer_that_is_not_http_is_an_error_and_not_a_success() {
    let proxy = Proxy::installed();
    proxy.simulator.inject(any_call(Action::Raw(b"220 mail.example.com ESMTP\r\n".to_vec())));
    let answer = proxy.call("crm.deal.add", json!({"fields": {}}));
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert_executed(&answer, "unknown");
    assert_counts(&proxy, "crm.deal.add", 1, 1);
}

#[test]
fn an_answer_larger_than_max_response_is_bitrix24_bad_answer() {
    let proxy = Proxy::installed().reconfigured("max_wait = 5", "max_wait = 5\nmax_response = \"1 MiB\"");
    // The simulator puts 13 bytes of JSON around its filling.
    proxy.simulator.inject(any_call(Action::HugeAnswer((1 << 20) - 13)));
    assert_eq!(proxy.call("profile", json!({})).status, 200);
    proxy.simulator.clear_faults();
    proxy.simulator.inject(any_call(Action::HugeAnswer((1 << 20) - 12)));
    let answer = proxy.call("profile", json!({}));
    assert_failure(&answer, 502, "bitrix24_bad_answer");
    assert_executed(&answer, "unknown");
    assert_text(&answer, "max_response");
}

#[test]
fn a_hanging_handshake_is_bitrix24_timeout_and_certainly_not_executed() {
    let proxy = Proxy::installed().reconfigured("connect_timeout = 3", "connect_timeout = 1");
    proxy.simulator.inject(Fault::forever(Target::Connection, Action::Hang));
    let answer = proxy.call("crm.deal.add", json!({"fields": {}}));
    assert_failure(&answer, 504, "bitrix24_timeout");
    assert_executed(&answer, "no");
    assert!((1.0..3.0).contains(&answer.elapsed.as_secs_f64()), "{:?}", answer.elapsed);
}

#[test]
fn an_answer_that_does_not_come_is_bitrix24_timeout_and_perhaps_executed() {
    let proxy = Proxy::installed().reconfigured("timeout       = 10", "timeout       = 2");
    for (action, executed) in [(Action::Hang, 0), (Action::HangAfter, 1)] {
        proxy.simulator.clear_ledger();
        proxy.simulator.clear_faults();
        proxy.simulator.inject(any_call(action));
        let answer = proxy.call("crm.deal.add", json!({"fields": {}}));
        assert_failure(&answer, 504, "bitrix24_timeout");
        assert_executed(&answer, "unknown");
        assert!((2.0..3.5).contains(&answer.elapsed.as_secs_f64()), "{:?}", answer.elapsed);
        assert_counts(&proxy, "crm.deal.add", 1, executed);
    }
}

#[test]
fn an_answer_that_trickles_is_bitrix24_timeout_at_the_total_deadline() {
    let proxy = Proxy::installed().reconfigured("timeout       = 10", "timeout       = 2");
    proxy.simulator.inject(any_call(Action::SlowBytes { interval: Duration::from_millis(300), chunk: 3 }));
    let answer = proxy.call("crm.deal.add", json!({"fields": {}}));
    assert_failure(&answer, 504, "bitrix24_timeout");
    assert_executed(&answer, "unknown");
    assert!((2.0..3.5).contains(&answer.elapsed.as_secs_f64()), "{:?}", answer.elapsed);
    assert_counts(&proxy, "crm.deal.add", 1, 1);
}

/// A way to the portal that is slow below TLS: from a moment on, what comes back arrives byte by byte.
struct SlowWay {
    address: String,
    slow: Arc<AtomicBool>,
}

impl SlowWay {
    fn to(target: String) -> SlowWay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let way = SlowWay { address: listener.local_addr().unwrap().to_string(), slow: Arc::default() };
        let slow = way.slow.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(&target).unwrap();
                client.set_nodelay(true).unwrap();
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
                let slow = slow.clone();
                std::thread::spawn(move || trickle(server, client, &slow));
            }
        });
        way
    }
}

fn trickle(mut from: TcpStream, mut to: TcpStream, slow: &AtomicBool) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let step = if slow.load(Ordering::SeqCst) { 1 } else { count };
        for bytes in buffer[..count].chunks(step) {
            if to.write_all(bytes).is_err() {
                return;
            }
            if slow.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// A proxy whose portal is reached by a [`SlowWay`].
fn slow_proxy() -> (Proxy, SlowWay) {
    let proxy = Proxy::installed();
    let way = SlowWay::to(proxy.portal().name());
    proxy.change_stored(|tokens| tokens["client_endpoint"] = format!("https://{}/rest/", way.address).into());
    let tokens = proxy.stored();
    let section = format!("[portals.\"{}\"]", proxy.portal().name());
    let proxy = proxy
        .reconfigured(&section, &format!("[portals.\"{}\"]", way.address))
        .reconfigured("timeout       = 10", "timeout       = 2")
        .reconfigured("connect_timeout = 3", "connect_timeout = 1");
    proxy.sandbox.write_token_file(&format!("{}.json", way.address.replace(':', "_")), &tokens.to_string());
    (proxy, way)
}

#[test]
fn a_handshake_that_trickles_ends_at_the_connect_timeout() {
    let (proxy, way) = slow_proxy();
    way.slow.store(true, Ordering::SeqCst);
    let answer = proxy.request(r#"{"method":"crm.deal.add"}"#).run();
    assert_failure(&answer, 504, "bitrix24_timeout");
    assert_executed(&answer, "no");
    assert!((1.0..2.5).contains(&answer.elapsed.as_secs_f64()), "{:?}", answer.elapsed);
}

#[test]
fn a_tls_record_that_trickles_ends_at_the_total_deadline() {
    let (proxy, way) = slow_proxy();
    assert_eq!(proxy.request(r#"{"method":"profile"}"#).run().status, 200, "the way itself works");
    proxy.simulator.inject(any_call(Action::DelayAnswer(Duration::from_millis(300))));
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| {
            let seen = proxy.simulator.wait_for(Duration::from_secs(5), |ledger| ledger.calls("crm.deal.add") == 1);
            assert!(seen, "the call arrives");
            way.slow.store(true, Ordering::SeqCst);
        });
        proxy.request(r#"{"method":"crm.deal.add"}"#).run()
    });
    assert_failure(&answer, 504, "bitrix24_timeout");
    assert_executed(&answer, "unknown");
    assert!((2.0..3.5).contains(&answer.elapsed.as_secs_f64()), "{:?}", answer.elapsed);
}

#[test]
fn not_installed_says_where_to_install_and_contacts_nobody() {
    let proxy = Proxy::not_installed();
    let answer = proxy.call("profile", json!({}));
    assert_failure(&answer, 409, "not_installed");
    assert_install_url(&proxy, &answer);
    assert_executed(&answer, "no");
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

#[test]
fn reinstall_required_says_why_and_where_to_install() {
    let proxy = Proxy::installed();
    proxy.portal().uninstall();
    proxy.change_stored(|tokens| tokens["expires_at"] = json!(1));
    let answer = proxy.call("profile", json!({}));
    assert_failure(&answer, 409, "reinstall_required");
    assert_install_url(&proxy, &answer);
    assert_executed(&answer, "no");
    assert_text(&answer, "invalid_grant");
    assert_text(&answer, "Invalid refresh token");
}

#[test]
fn failures_of_the_oauth_server_are_told_apart() {
    fn error(status: u16, error: &str) -> Action {
        Action::ErrorJson { status, error: error.into(), error_description: "Because".into() }
    }
    let long = "x".repeat(100_000);
    for (action, part) in [
        (error(401, "invalid_client"), "invalid_client"),
        (error(402, "PAYMENT_REQUIRED"), "PAYMENT_REQUIRED"),
        (error(500, "PORTAL_DELETED"), "the portal has been deleted"),
        (error(400, "invalid_scope"), "invalid_scope (Because)"),
        (Action::Html500, "answered with a web page, \"500 Internal Server Error\" (status 500, text/html)"),
        (json_answer(200, "{}"), "answered without tokens (status 200)"),
        (json_answer(200, &long), "too long"),
        (Action::CloseBefore, "closed the connection"),
    ] {
        let proxy = Proxy::not_installed();
        proxy.store_expired_pair(&proxy.portal().issue_pair(1));
        let before = proxy.stored();
        proxy.simulator.inject(Fault::forever(Target::Token, action));
        let answer = proxy.call("profile", json!({}));
        assert_failure(&answer, 502, "oauth_server_error");
        assert_text(&answer, part);
        assert_executed(&answer, "no");
        assert_eq!(proxy.stored(), before, "nothing is lost");
        assert_eq!(proxy.simulator.ledger().all_calls().count(), 0);
    }
}

#[test]
fn wrong_keys_an_ended_trial_and_a_stopped_oauth_server_are_oauth_server_error() {
    let proxy = Proxy::not_installed();
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    let secret = proxy.simulator.client_secret();
    let proxy = proxy.reconfigured(&secret, "another-client-secret");
    let answer = proxy.call("profile", json!({}));
    assert_failure(&answer, 502, "oauth_server_error");
    assert_text(&answer, "client_id and client_secret");

    let proxy = Proxy::not_installed();
    let pair = proxy.portal().issue_pair(1);
    proxy.store_expired_pair(&pair);
    proxy.portal().set_payment_required(true);
    let answer = proxy.call("profile", json!({}));
    assert_failure(&answer, 502, "oauth_server_error");
    assert_text(&answer, "trial or paid period is over");
    assert!(proxy.portal().is_live(&pair.refresh_token));

    let proxy = Proxy::not_installed();
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    proxy.simulator.stop_oauth();
    let answer = proxy.call("profile", json!({}));
    assert_failure(&answer, 502, "oauth_server_error");
    assert_text(&answer, "could not be reached");
    assert!(answer.json()["retry_after"].as_u64().is_some_and(|seconds| (1..=10).contains(&seconds)));
}

#[test]
fn a_deleted_portal_is_named_as_deleted() {
    let proxy = Proxy::installed();
    proxy.portal().set_deleted(true);
    let answer = proxy.call("profile", json!({}));
    assert_failure(&answer, 500, "bitrix24_error");
    assert_eq!(answer.json()["bitrix24"]["error"], "PORTAL_DELETED");
    proxy.change_stored(|tokens| tokens["expires_at"] = json!(1));
    let answer = proxy.call("profile", json!({}));
    assert_failure(&answer, 409, "reinstall_required");
    assert_text(&answer, "Portal is deleted");
}

#[test]
fn a_refresh_that_does_not_end_within_max_wait_is_refresh_pending() {
    let proxy = Proxy::not_installed().reconfigured("max_wait = 5", "max_wait = 1");
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    proxy.simulator.inject(Fault::once(Target::Token, Action::Hang));
    let answer = proxy.call("crm.deal.add", json!({"fields": {}}));
    assert_failure(&answer, 503, "refresh_pending");
    assert_executed(&answer, "no");
    let seconds = answer.json()["retry_after"].as_u64().expect("retry_after");
    assert_eq!(answer.header("Retry-After"), Some(seconds.to_string().as_str()));
    assert!((1.0..2.5).contains(&answer.elapsed.as_secs_f64()), "{:?}", answer.elapsed);
    assert_failure(&proxy.call("crm.deal.add", json!({"fields": {}})), 503, "refresh_pending");
    assert_counts(&proxy, "crm.deal.add", 0, 0);
    proxy.simulator.release();
    support::eventually("the call works when the refresh has ended", || {
        proxy.call("crm.deal.add", json!({"fields": {}})).status == 200
    });
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
    assert_counts(&proxy, "crm.deal.add", 1, 1);
}

#[test]
fn storage_error_tells_its_details_to_the_log_only() {
    let proxy = Proxy::installed().on_files();
    proxy.sandbox.write_token_file(&format!("{}.json", proxy.stem()), "{\"access_token\":");
    let answer = proxy.call("profile", json!({}));
    assert_failure(&answer, 500, "storage_error");
    assert_executed(&answer, "no");
    let folder = proxy.sandbox.tokens().display().to_string();
    assert!(answer.stderr.contains(&folder), "{}", answer.stderr);
    assert!(!answer.text().contains(&folder), "{}", answer.text());
}

#[test]
fn expired_token_is_refreshed_and_the_call_repeated_once() {
    let proxy = Proxy::installed();
    proxy.portal().expire_access_tokens();
    let answer = proxy.call("crm.deal.add", json!({"fields": {"TITLE": "a"}}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
    assert_counts(&proxy, "crm.deal.add", 2, 1);
    // A portal that goes on saying so refuses the tokens, and the caller is told nothing of his own.
    proxy.simulator.clear_ledger();
    proxy.simulator.inject(any_call(Action::ErrorJson {
        status: 401,
        error: "expired_token".into(),
        error_description: String::new(),
    }));
    let answer = proxy.call("crm.deal.add", json!({"fields": {}}));
    assert_failure(&answer, 409, "reinstall_required");
    assert_executed(&answer, "no");
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
    assert_counts(&proxy, "crm.deal.add", 2, 0);
}

#[test]
fn insufficient_rights_cause_no_refresh_and_no_repetition() {
    let proxy = Proxy::installed();
    for error in ["insufficient_scope", "ACCESS_DENIED", "INVALID_CREDENTIALS", "user_access_error"] {
        proxy.simulator.clear_faults();
        proxy.simulator.clear_ledger();
        proxy.simulator.inject(any_call(Action::ErrorJson {
            status: 403,
            error: error.into(),
            error_description: "".into(),
        }));
        let answer = proxy.call("crm.deal.add", json!({"fields": {}}));
        assert_failure(&answer, 403, "bitrix24_error");
        assert_eq!(answer.json()["bitrix24"]["error"], error);
        assert_eq!(proxy.simulator.ledger().refreshes(), 0);
        assert_counts(&proxy, "crm.deal.add", 1, 0);
    }
}

#[test]
fn after_a_refresh_a_call_of_rest_3_is_repeated_as_rest_3() {
    for old_errors in [false, true] {
        let proxy = Proxy::installed();
        proxy.portal().set_old_auth_errors(old_errors);
        proxy.portal().expire_access_tokens();
        let body = json!({"method": "tasks.task.add", "version": 3, "params": {"fields": {"title": "a", "creatorId": 1, "responsibleId": 1}}});
        let answer = proxy.request(body.to_string()).run();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let ledger = proxy.simulator.ledger();
        let versions: Vec<u8> = ledger.all_calls().map(|call| call.version).collect();
        assert_eq!(versions, [3, 3]);
        assert_eq!((ledger.refreshes(), ledger.executed("tasks.task.add")), (1, 1));
    }
}

#[test]
fn query_limit_exceeded_is_repeated_until_max_wait_and_then_rate_limited() {
    let limited =
        || Action::ErrorJson { status: 503, error: "QUERY_LIMIT_EXCEEDED".into(), error_description: "Many".into() };
    let proxy = Proxy::installed().reconfigured("max_wait = 5", "max_wait = 2");
    proxy.simulator.inject(Fault::times(2, Target::Call, limited()));
    let answer = proxy.call("crm.deal.add", json!({"fields": {}}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_counts(&proxy, "crm.deal.add", 3, 1);
    proxy.simulator.clear_ledger();
    proxy.simulator.inject(any_call(limited()));
    let answer = proxy.call("crm.deal.add", json!({"fields": {}}));
    assert_failure(&answer, 429, "rate_limited");
    assert_executed(&answer, "no");
    assert!(answer.json()["retry_after"].as_u64().is_some_and(|seconds| seconds >= 1));
    assert!(answer.elapsed < Duration::from_secs(3), "{:?}", answer.elapsed);
    assert_eq!(proxy.simulator.ledger().executed("crm.deal.add"), 0);
}

#[test]
fn other_errors_that_ask_to_come_again_are_not_repeated() {
    for (status, error) in [(503, "OVERLOAD_LIMIT"), (500, "ERROR_UNEXPECTED_ANSWER"), (429, "OPERATION_TIME_LIMIT")] {
        let proxy = Proxy::installed();
        let params = json!({"status": status, "error": error});
        assert_failure(&proxy.call("sim.fail", params), status, "bitrix24_error");
        assert_counts(&proxy, "sim.fail", 1, 1);
    }
}

#[test]
fn a_renamed_portals_new_address_comes_from_the_oauth_server_and_is_kept() {
    let proxy = Proxy::installed();
    let old = proxy.portal().name();
    let (stem, url) = (proxy.stem(), proxy.portal().client_endpoint());
    let new = proxy.portal().rename();
    assert_ne!(old, new);
    let call = || proxy.request(json!({"domain": old, "method": "crm.deal.add", "params": {}}).to_string()).run();
    let answer = call();
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    let ledger = proxy.simulator.ledger();
    assert_eq!(ledger.refreshes(), 1);
    let listeners: Vec<_> = ledger.of_method("crm.deal.add").map(|entry| entry.listener.clone()).collect();
    assert_eq!(listeners, [old.clone(), new.clone()]);
    assert_eq!(ledger.executed("crm.deal.add"), 1);
    assert!(ledger.of_method("crm.deal.add").all(|entry| entry.http_method == "POST"));
    assert!(answer.stderr.contains(&new), "the renaming is logged: {}", answer.stderr);

    let stored: Value = serde_json::from_slice(&proxy.sandbox.token_file(&format!("{stem}.json")).unwrap()).unwrap();
    assert_eq!(stored["client_endpoint"], url.replace(&old, &new));
    assert_eq!(stored["renamed_from"], old);

    // Later calls go straight there.
    proxy.simulator.clear_ledger();
    assert_eq!(call().status, 200);
    let ledger = proxy.simulator.ledger();
    assert_eq!((ledger.refreshes(), ledger.connections(&old), ledger.connections(&new)), (0, 0, 1));
    // The new name is not configured, so callers cannot use it.
    let answer = proxy.request(json!({"domain": new, "method": "profile"}).to_string()).run();
    assert_failure(&answer, 404, "unknown_portal");
}

#[test]
fn a_redirect_elsewhere_without_a_renaming_is_an_error_and_is_never_followed() {
    let proxy = Proxy::installed();
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let address = format!("https://{}/rest/crm.deal.add", elsewhere.local_addr().unwrap());
    proxy.simulator.inject(any_call(Action::Redirect302(address)));
    for _ in 0..2 {
        let answer = proxy.call("crm.deal.add", json!({"fields": {}}));
        assert_failure(&answer, 502, "bitrix24_bad_answer");
        assert_executed(&answer, "no");
    }
    let ledger = proxy.simulator.ledger();
    assert_eq!(ledger.executed("crm.deal.add"), 0);
    assert_eq!(ledger.refreshes(), 1, "the second redirect is within 5 minutes of the first one's refresh");
    let contacted = elsewhere.accept();
    assert!(contacted.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
}

#[test]
fn an_unknown_portal_is_404_and_nobody_is_contacted() {
    let proxy = Proxy::installed();
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let name = elsewhere.local_addr().unwrap().to_string();
    let answer = proxy.request(json!({"domain": name, "method": "profile"}).to_string()).run();
    assert_failure(&answer, 404, "unknown_portal");
    assert!(elsewhere.accept().is_err());
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

#[test]
fn a_request_header_named_proxy_directs_nothing() {
    let proxy = Proxy::installed();
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let address = format!("http://{}", elsewhere.local_addr().unwrap());
    let mut request = proxy.request(r#"{"method":"profile"}"#);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        request = request.env(name, &address);
    }
    assert_eq!(request.header("Host", "evil.example").run().status, 200);
    proxy.portal().expire_access_tokens();
    assert_eq!(proxy.request(r#"{"method":"profile"}"#).env("HTTPS_PROXY", &address).run().status, 200);
    assert!(elsewhere.accept().is_err());
}

#[test]
fn the_program_names_itself_and_its_version_to_bitrix24() {
    let proxy = Proxy::installed();
    proxy.portal().expire_access_tokens();
    assert_eq!(proxy.call("profile", json!({})).status, 200);
    let ledger = proxy.simulator.ledger();
    assert_eq!(ledger.entries.len(), 3, "a call, a refresh, the call again");
    for entry in &ledger.entries {
        assert_eq!(entry.header("User-Agent"), Some(format!("b24proxy/{VERSION}").as_str()), "{entry:?}");
    }
}

#[test]
fn secrets_stand_in_no_address_and_in_no_header_but_authorization() {
    let proxy = Proxy::installed();
    proxy.portal().expire_access_tokens();
    let answer = proxy.call("profile", json!({}));
    assert_eq!(answer.status, 200);
    let ledger = proxy.simulator.ledger();
    let secret = proxy.simulator.client_secret();
    assert!(!ledger.portals_saw(&secret), "the client secret goes to the OAuth server only");
    let asked: Vec<_> = ledger.entries.iter().filter(|entry| entry.listener == "oauth").collect();
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].http_method.as_str(), asked[0].query.as_str()), ("POST", ""));
    assert!(asked[0].contains(&secret));
    for entry in &ledger.entries {
        let headers: Vec<_> = entry.headers.iter().filter(|(name, _)| name != "authorization").collect();
        let address = format!("{}?{} {headers:?}", entry.path, entry.query);
        for secret in proxy.simulator.secrets() {
            assert!(!address.contains(&secret), "{address}");
        }
    }
    assert!(ledger.all_calls().all(|call| matches!(call.auth, Auth::Token(_))));
}

#[test]
fn no_secret_is_written_to_the_log_or_an_error() {
    let proxy = Proxy::installed().reconfigured("level = \"debug\"", "level = \"debug\"\nfile = \"log.json\"");
    let mut written = String::new();
    let mut note = |answer: Answer| written.push_str(&format!("{}{}", answer.text(), answer.stderr));
    note(proxy.call("sim.fail", json!({"error": "X"})));
    proxy.portal().expire_access_tokens();
    note(proxy.call("profile", json!({})));
    proxy.portal().uninstall();
    proxy.change_stored(|tokens| (tokens["expires_at"], tokens["refreshed_at"]) = (json!(1), json!(0)));
    note(proxy.call("profile", json!({})));
    proxy.portal().stop();
    proxy.store_pair(&proxy.portal().issue_pair(1));
    note(proxy.call("profile", json!({})));
    let log = std::fs::read_to_string(proxy.sandbox.path().join("b24proxy/log.json")).expect("a log");
    assert!(log.lines().count() >= 5, "{log}");
    assert!(log.contains("tokens refreshed"), "the refresher logs too: {log}");
    written.push_str(&log);
    for secret in proxy.simulator.secrets().into_iter().chain([TOKEN.to_owned()]) {
        assert!(!written.contains(&secret), "{secret}");
    }
}

#[test]
fn plain_http_is_used_only_where_allow_http_is_set() {
    let proxy = Proxy::with(Options { https: false, ..Options::default() });
    proxy.store_pair(&proxy.portal().issue_pair(1));
    assert_eq!(proxy.call("profile", json!({})).status, 200);
    let proxy = Proxy::installed();
    proxy.change_stored(|tokens| {
        tokens["client_endpoint"] = tokens["client_endpoint"].as_str().unwrap().replace("https:", "http:").into();
    });
    let answer = proxy.call("profile", json!({}));
    assert_failure(&answer, 500, "storage_error");
    assert!(answer.stderr.contains("allow_http"), "{}", answer.stderr);
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}
