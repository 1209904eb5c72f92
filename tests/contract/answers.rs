//! Contract section 3: what is not Bitrix24's answer is told apart, and so is whose credentials failed.

use crate::files::{address_of, asked, with_files};
use crate::fixture::*;
use flate2::{read::DeflateEncoder, read::GzEncoder, read::ZlibEncoder, Compression};
use serde_json::{json, Value};
use simulator::{Action, Auth, Fault, Target};
use std::io::Read;
use support::cgi::{Answer, Cgi};

const METHOD: &str = "crm.deal.add";

/// An HTTP answer in the place of the portal's, with whatever head; nothing is executed.
fn http(status: u16, head: &str, body: &[u8]) -> Action {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\n{head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    Action::RawInstead([head.as_bytes(), body].concat())
}

fn page(status: u16, title: &str) -> Action {
    http(status, "Content-Type: text/html; charset=utf-8", format!("<html><title>{title}</title>").as_bytes())
}

fn packed(mut reader: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

fn gzip(text: &[u8]) -> Vec<u8> {
    packed(GzEncoder::new(text, Compression::best()))
}

fn portal_answers(proxy: &Proxy, action: &Action) {
    proxy.simulator.clear_faults();
    proxy.simulator.clear_ledger();
    proxy.simulator.inject(Fault::forever(Target::Call, action.clone()));
}

fn add(proxy: &Proxy) -> Answer {
    proxy.call(METHOD, json!({"fields": {"TITLE": "a"}}))
}

fn hook<'p>(proxy: &'p Proxy, call: &str) -> Cgi<'p> {
    Cgi::new(&proxy.sandbox).method("POST").path(&format!("/rest/1/{TOKEN}/{call}")).json("{}")
}

#[track_caller]
fn assert_says(answer: &Answer, parts: &[&str]) {
    let body = answer.json();
    let text = body["error"].as_str().unwrap_or_default();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in the text of {body}");
    }
}

#[track_caller]
fn assert_own_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, &answer.json()["error"]), (status, &json!(code)), "{}", answer.text());
}

#[test]
fn what_is_not_bitrix24s_answer_is_named_with_what_can_be_said_of_its_execution() {
    let proxy = Proxy::installed();
    let host = proxy.portal().name();
    let text = |status, kind: &str, body: &str| http(status, &format!("Content-Type: {kind}"), body.as_bytes());
    let warned = "<br />\n<b>Warning</b>:  Undefined variable in <b>/a.php</b><br />\n{\"result\":{\"ID\":5}}";
    for (action, told, executed) in [
        (page(403, "403 Forbidden"), "a web page, \"403 Forbidden\" (status 403, text/html)", "no"),
        (
            page(404, "&laquo;Портал&raquo; &#1086;тключён"),
            "a web page, \"«Портал» отключён\" (status 404, text/html)",
            "no",
        ),
        (page(451, "a\u{202e}b"), "a web page, \"a b\" (status 451, text/html)", "no"),
        (page(200, "Login"), "a web page, \"Login\" (status 200, text/html)", "unknown"),
        (page(502, "502 Bad Gateway"), "a web page, \"502 Bad Gateway\" (status 502, text/html)", "unknown"),
        (text(500, "text/html", "<p>"), "a web page without a title (status 500, text/html)", "unknown"),
        (text(200, "text/html", warned), "text before the JSON, \"Warning : Undefined variable in /a.php\"", "unknown"),
        (text(200, "a/b", "{\"result\":1}\nNotice: x"), "text behind the JSON, \"Notice: x\"", "unknown"),
        (text(200, "application/json", "{\"result\":{\"ID"), "JSON that ends too early, after 14 bytes", "unknown"),
        (text(200, "application/json", "[]"), "JSON that is not an object", "unknown"),
        (text(200, "application/json", ""), "an empty body (status 200, application/json)", "unknown"),
        (text(503, "text/plain", "upstream connect error"), "text, \"upstream connect error\"", "unknown"),
        (text(400, "text/plain", "Bad Request"), "text, \"Bad Request\" (status 400, text/plain)", "no"),
        (http(404, "X: y", b""), "an empty body (status 404, no content type)", "no"),
        (http(200, "Content-Type: a/b\r\nContent-Encoding: br", b"\x0b\x05"), "packed as br", "unknown"),
        (http(200, "Content-Encoding: gzip", &gzip(b"{\"result\":1}")[..20]), "packed as gzip", "unknown"),
        (http(500, "Content-Type: a/b", b"\xff\xfe"), "bytes that are no text", "unknown"),
        (
            http(301, "Location: https://u:p@new.example/rest/?auth=x", b""),
            "a redirect to new.example (status 301)",
            "no",
        ),
        (
            http(307, "Location: https://new.example/", b"{\"result\":1}"),
            "a redirect to new.example (status 307)",
            "no",
        ),
        (http(308, "Location: /login", b""), "a redirect to another address (status 308)", "no"),
        (http(303, "Location: https://new.example/", b""), "a redirect to new.example (status 303)", "unknown"),
    ] {
        portal_answers(&proxy, &action);
        let answer = add(&proxy);
        assert_failure(&answer, 502, "bitrix24_bad_answer");
        assert_says(&answer, &[&format!("{host} answered with "), told]);
        assert_eq!(answer.json()["executed"], executed, "{told}");
        assert!(!answer.text().contains("auth=x") && !answer.text().contains("u:p"), "{}", answer.text());
        let ledger = proxy.simulator.ledger();
        assert_eq!((ledger.calls(METHOD), ledger.refreshes()), (1, 0), "{told}");
    }
}

#[test]
fn on_webhook_routes_a_gateways_refusal_is_404_and_what_may_have_been_executed_409() {
    let proxy = Proxy::installed();
    for (status, told, code) in [
        (403, 404, "BITRIX24_BAD_ANSWER"),
        (404, 404, "BITRIX24_BAD_ANSWER"),
        (451, 404, "BITRIX24_BAD_ANSWER"),
        (429, 503, "QUERY_LIMIT_EXCEEDED"),
        (200, 409, "OUTCOME_UNKNOWN"),
        (502, 409, "OUTCOME_UNKNOWN"),
        (303, 409, "OUTCOME_UNKNOWN"),
        (301, 502, "BITRIX24_BAD_ANSWER"),
    ] {
        portal_answers(&proxy, &page(status, "A page"));
        assert_own_error(&hook(&proxy, METHOD).run(), told, code);
        assert_eq!(proxy.simulator.ledger().calls(METHOD), 1, "{status}");
    }
}

#[test]
fn a_gateways_429_is_rate_limited_with_its_retry_after() {
    let proxy = Proxy::installed();
    for (head, seconds) in [
        ("Content-Type: text/html\r\nRetry-After: 17", 17),
        ("Content-Type: text/plain", 60),
        ("Retry-After: Wed, 21 Oct 2065 07:28:00 GMT", 60),
        ("Retry-After: -5", 60),
        ("Retry-After: 0", 1),
        ("Retry-After: 99999999999999999999", 60),
        ("Retry-After: 99999999", 86_400),
    ] {
        portal_answers(&proxy, &http(429, head, b"<title>Too Many Requests</title>"));
        let answer = add(&proxy);
        assert_failure(&answer, 429, "rate_limited");
        assert_says(&answer, &["Too Many Requests", "something before Bitrix24"]);
        assert_eq!(answer.json()["retry_after"], seconds, "{head}");
        assert_eq!(answer.header("Retry-After"), Some(seconds.to_string().as_str()));
        assert_eq!(answer.json()["executed"], "no");
        let answer = hook(&proxy, METHOD).run();
        assert_own_error(&answer, 503, "QUERY_LIMIT_EXCEEDED");
        assert_eq!(answer.header("Retry-After"), Some(seconds.to_string().as_str()));
    }
}

#[test]
fn a_key_is_free_after_a_gateways_refusal_and_unknown_after_a_page_that_may_have_come_behind_the_call() {
    let proxy = Proxy::installed();
    let request = json!({"method": METHOD, "params": {"fields": {"TITLE": "a"}}}).to_string();
    let keyed = |key: &str| proxy.request(request.clone()).header("Idempotency-Key", key).run();
    for (key, status, free) in [
        ("a", 403, true),
        ("b", 404, true),
        ("c", 429, true),
        ("d", 307, true),
        ("e", 303, false),
        ("f", 200, false),
        ("g", 502, false),
    ] {
        portal_answers(&proxy, &page(status, "A page"));
        assert!(keyed(key).status >= 429, "{status}");
        proxy.simulator.clear_faults();
        match free {
            true => assert_eq!(keyed(key).status, 200, "{status}"),
            false => assert_failure(&keyed(key), 409, "outcome_unknown"),
        }
    }
}

#[test]
fn a_byte_order_mark_is_dropped_and_a_packed_answer_unpacked_on_every_route() {
    let proxy = Proxy::installed();
    let json = br#"{"result":[{"ID":"1","T":"\u0441"}],"total":1,"time":{"operating":0}}"#;
    let marked = [b"\xef\xbb\xbf", &json[..]].concat();
    let best = Compression::best();
    let (zlib, raw) = (packed(ZlibEncoder::new(&json[..], best)), packed(DeflateEncoder::new(&json[..], best)));
    let kind = "Content-Type: application/json; charset=utf-8";
    for (head, body) in [
        ("", marked.as_slice()),
        ("\r\nContent-Encoding: gzip", &gzip(json)),
        ("\r\nContent-Encoding: x-gzip", &gzip(&marked)),
        ("\r\nContent-Encoding: gzip", &marked),
        ("", &gzip(json)),
        ("\r\nContent-Encoding: deflate", &zlib),
        ("\r\nContent-Encoding: deflate", &raw),
        ("\r\nContent-Encoding: identity", json),
    ] {
        portal_answers(&proxy, &http(200, &format!("{kind}{head}"), body));
        let answer = add(&proxy);
        assert_eq!(answer.text(), format!("{{\"success\":true,\"data\":{}}}", String::from_utf8_lossy(json)), "{head}");
        let answer = hook(&proxy, METHOD).run();
        assert_eq!((answer.status, answer.body.as_slice()), (200, &json[..]), "{head}");
        assert_eq!(answer.header("Content-Encoding"), None);
        let call = json!({"method": METHOD, "params": {"fields": {"a": null}}});
        let answer = proxy.request(json!({"calls": [call]}).to_string()).run();
        assert_eq!(answer.json()["data"]["results"][0]["total"], 1, "{}", answer.text());
    }
    let error = gzip(br#"{"error":"ERROR_CORE","error_description":"Why"}"#);
    portal_answers(&proxy, &http(400, "Content-Encoding: gzip", &error));
    assert_failure(&add(&proxy), 400, "bitrix24_error");
}

#[test]
fn what_comes_out_of_a_packed_answer_is_bounded_by_max_response() {
    let proxy = Proxy::installed();
    let config = format!("{}\n", proxy.config().replace("[limits]", "[limits]\nmax_response = \"1 MiB\""));
    let proxy = proxy.configured(&config);
    let bomb = gzip(format!("{{\"result\":\"{}\"}}", "a".repeat(100 << 20)).as_bytes());
    portal_answers(&proxy, &http(200, "Content-Type: application/json\r\nContent-Encoding: gzip", &bomb));
    let request = json!({"method": METHOD}).to_string();
    let answer = proxy.request(request).measure_memory().run();
    assert_failure(&answer, 502, "bitrix24_bad_answer");
    assert_says(&answer, &["max_response"]);
    assert!(answer.max_rss.is_some_and(|kib| kib < 24 << 10), "{:?}", answer.max_rss);
}

#[test]
fn an_answer_that_is_none_of_bitrix24s_takes_no_more_memory_than_another() {
    let proxy = Proxy::installed();
    let repeated = |piece: &str| piece.repeat((10 << 20) / piece.len());
    let last = "{\"result\":1}";
    for body in [
        repeated("a "),
        repeated("<b>a "),
        repeated("<b>&amp; ") + last,
        "<title>".to_owned() + &repeated("a "),
        format!("{last}{}", repeated("a ")),
        repeated("[0,"),
        "{\"result\":".to_owned() + &repeated("[0],"),
    ] {
        portal_answers(&proxy, &http(500, "Content-Type: text/plain", body.as_bytes()));
        let answer = proxy.request(json!({"method": METHOD}).to_string()).measure_memory().run();
        assert_failure(&answer, 502, "bitrix24_bad_answer");
        assert!(answer.max_rss.is_some_and(|kib| kib < (3 * 10 + 8) << 10), "{:?} of {:.20}", answer.max_rss, body);
    }
}

#[test]
fn an_error_behind_a_byte_order_mark_is_a_files_error_too() {
    let proxy = Proxy::installed();
    let address = format!("https://{}/rest/download.json?token=disk%7Cx%7Cy", proxy.portal().name());
    let error = "\u{feff}{\"error\":\"ACCESS_DENIED\",\"error_description\":\"no\"}";
    for (status, packed) in [(403, false), (403, true), (200, false), (400, true)] {
        let kind = "Content-Type: application/json";
        let action = match packed {
            true => http(status, &format!("{kind}\r\nContent-Encoding: gzip"), &gzip(error.as_bytes())),
            false => http(status, kind, error.as_bytes()),
        };
        portal_answers(&proxy, &action);
        let answer = asked(&proxy, &address).run();
        assert_failure(&answer, if status == 200 { 502 } else { status }, "bitrix24_error");
        assert_eq!(answer.json()["bitrix24"]["error"], "ACCESS_DENIED");
    }
    // A file of JSON stays what it is, with its mark.
    portal_answers(&proxy, &http(200, "Content-Type: application/json", "\u{feff}{\"a\":1}".as_bytes()));
    assert_eq!(asked(&proxy, &address).run().body, "\u{feff}{\"a\":1}".as_bytes());
}

#[test]
fn many_calls_a_list_and_a_file_judge_a_page_in_the_same_way() {
    let proxy = Proxy::installed();
    let call = json!({"method": METHOD, "params": {"fields": {"TITLE": "a"}}});
    let calls = json!({"calls": [call, call]}).to_string();
    let list = json!({"method": "crm.deal.list", "all": true}).to_string();
    let address = format!("https://{}/rest/download.json?token=disk%7Cx%7Cy", proxy.portal().name());
    let file = || asked(&proxy, &address);
    for (status, told, code) in
        [(403, 502, "bitrix24_bad_answer"), (429, 429, "rate_limited"), (301, 502, "bitrix24_bad_answer")]
    {
        portal_answers(&proxy, &page(status, "A title"));
        for request in [proxy.request(calls.clone()), proxy.request(list.clone()), file()] {
            let answer = request.run();
            assert_failure(&answer, told, code);
            assert_says(&answer, &[&proxy.portal().name(), if status == 301 { "a redirect" } else { "A title" }]);
            assert_eq!(answer.json()["executed"], "no");
        }
    }
    portal_answers(&proxy, &page(502, "A title"));
    let answer = proxy.request(calls.clone()).run();
    assert_eq!((answer.status, &answer.json()["data"]["results"][1]["error"]), (200, &json!("OUTCOME_UNKNOWN")));
    assert!(answer.text().contains("A title"), "{}", answer.text());
    let answer = file().run();
    assert_failure(&answer, 502, "bitrix24_bad_answer");
    assert_eq!(answer.json()["executed"], "no", "asking for a file changes nothing");
}

#[test]
fn the_oauth_servers_answers_are_told_in_the_same_words() {
    for (action, told) in [
        (page(502, "502 Bad Gateway"), "answered with a web page, \"502 Bad Gateway\" (status 502, text/html)"),
        (
            http(200, "Content-Type: text/plain", b"refresh_token=0123456789abcdef0123456789abcdef"),
            "answered with text, \"…\"",
        ),
        (http(200, "Content-Type: a/b", b""), "answered with an empty body (status 200, a/b)"),
        (http(200, "Content-Type: a/b", b"{\"access_token\":\"0123456789abcdef"), "JSON that ends too early"),
        (http(200, "Content-Encoding: br", b"x"), "packed as br"),
        (http(302, "Location: https://login.example/?secret", b""), "a redirect to login.example (status 302)"),
    ] {
        let proxy = Proxy::not_installed();
        proxy.store_expired_pair(&proxy.portal().issue_pair(1));
        proxy.simulator.inject(Fault::forever(Target::Token, action));
        let answer = add(&proxy);
        assert_failure(&answer, 502, "oauth_server_error");
        assert_says(&answer, &[told]);
        assert!(!answer.text().contains("0123456789abcdef") && !answer.text().contains("?secret"), "{}", answer.text());
    }
    let proxy = Proxy::not_installed();
    let pair = proxy.portal().issue_pair(1);
    proxy.store_expired_pair(&pair);
    let new = json!({"access_token": "a".repeat(70), "refresh_token": "r".repeat(70), "expires_in": 3600});
    let body = gzip(format!("\u{feff}{new}").as_bytes());
    proxy.simulator.inject(Fault::once(Target::Token, http(200, "Content-Encoding: gzip", &body)));
    add(&proxy);
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
    assert_ne!(proxy.stored()["access_token"], pair.access_token.as_str(), "what came packed is stored");
}

#[test]
fn what_a_portal_calls_its_content_type_spoils_no_kept_answer_and_no_head() {
    let proxy = Proxy::installed();
    let long = format!("application/json; x={}", "y".repeat(5000));
    for (i, kind) in [long.as_str(), "nonsense", "text/html", ""].into_iter().enumerate() {
        portal_answers(&proxy, &http(200, &format!("Content-Type: {kind}"), b"{\"result\":1}"));
        let keyed = || hook(&proxy, METHOD).header("Idempotency-Key", &i.to_string()).run();
        let (first, again) = (keyed(), keyed());
        assert_eq!((first.status, first.text()), (200, "{\"result\":1}".into()), "{kind}");
        assert_eq!((again.status, again.header("Idempotent-Replayed")), (200, Some("true")), "{}", again.text());
        let expected = if kind == "text/html" { kind } else { "application/json; charset=utf-8" };
        for answer in [first, again] {
            assert_eq!(answer.header("Content-Type"), Some(expected), "{kind}");
            let sandbox = (kind == "text/html").then_some("sandbox");
            assert_eq!(answer.header("Content-Security-Policy"), sandbox, "{kind}");
        }
    }
}

#[test]
fn what_a_browser_could_run_is_answered_in_a_sandbox_on_webhook_routes() {
    let proxy = Proxy::installed();
    for (kind, sandboxed) in [
        ("text/html", true),
        ("TEXT/HTML; charset=utf-8", true),
        ("image/svg+xml", true),
        ("text/plain", true),
        ("text/xml; charset=utf-8", true),
        ("application/xhtml+xml", true),
        ("application/json", false),
        ("Application/JSON ; charset=utf-8", false),
    ] {
        portal_answers(
            &proxy,
            &http(200, &format!("Content-Type: {kind}"), b"{\"result\":\"<script>alert(1)</script>\"}"),
        );
        let policy = hook(&proxy, METHOD).run().header("Content-Security-Policy").map(str::to_owned);
        assert_eq!(policy.as_deref(), sandboxed.then_some("sandbox"), "{kind}");
        portal_answers(&proxy, &http(400, &format!("Content-Type: {kind}"), b"{\"error\":\"<script>\"}"));
        let policy = hook(&proxy, METHOD).run().header("Content-Security-Policy").map(str::to_owned);
        assert_eq!(policy.as_deref(), sandboxed.then_some("sandbox"), "{kind}");
    }
}

// Whose credentials failed.

fn refusal(status: u16, error: &str) -> Action {
    Action::ErrorJson { status, error: error.into(), error_description: "Because".into() }
}

/// The pair that is stored was renewed so many seconds ago.
fn renewed_ago(proxy: &Proxy, seconds: i64) {
    proxy.change_stored(|tokens| tokens["refreshed_at"] = json!(unix_now() - seconds));
}

/// How the token came with each call of a method.
fn tokens_of(proxy: &Proxy, method: &str) -> Vec<String> {
    let ledger = proxy.simulator.ledger();
    let of = |entry: &simulator::Entry| match (entry.header("Authorization").is_some(), &entry.call().unwrap().auth) {
        (true, _) => "header".to_owned(),
        (false, Auth::None) => "nowhere".to_owned(),
        (false, _) => "body".to_owned(),
    };
    ledger.of_method(method).map(of).collect()
}

#[test]
fn a_token_that_bitrix24_does_not_know_is_renewed_once_and_the_call_repeated() {
    let proxy = Proxy::installed();
    for request in [proxy.request(json!({"method": METHOD}).to_string()), hook(&proxy, METHOD)] {
        proxy.portal().revoke_access_tokens();
        proxy.simulator.clear_ledger();
        renewed_ago(&proxy, 301);
        let answer = request.run();
        assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
        let ledger = proxy.simulator.ledger();
        assert_eq!((ledger.refreshes(), ledger.calls(METHOD), ledger.executed(METHOD)), (1, 2, 1));
    }
}

#[test]
fn within_five_minutes_of_a_refresh_a_refused_token_is_reinstall_required_at_once() {
    let proxy = Proxy::installed();
    proxy.portal().revoke_access_tokens();
    renewed_ago(&proxy, 200);
    let answer = add(&proxy);
    assert_failure(&answer, 409, "reinstall_required");
    assert_says(&answer, &["invalid_token"]);
    assert_eq!(answer.json()["executed"], "no");
    assert!(answer.json()["install_url"].is_string());
    assert_own_error(&hook(&proxy, METHOD).run(), 403, "REINSTALL_REQUIRED");
    let ledger = proxy.simulator.ledger();
    assert_eq!((ledger.refreshes(), ledger.calls(METHOD), ledger.executed(METHOD)), (0, 2, 0));
}

#[test]
fn tokens_that_are_refused_after_a_refresh_too_are_reinstall_required() {
    for error in ["invalid_token", "NO_AUTH_FOUND", "expired_token"] {
        for status in [401, 403, 200] {
            let proxy = Proxy::installed();
            portal_answers(&proxy, &refusal(status, error));
            let answer = add(&proxy);
            assert_failure(&answer, 409, "reinstall_required");
            assert_says(&answer, &[error]);
            assert_eq!(answer.json()["executed"], "no");
            assert_eq!(proxy.simulator.ledger().refreshes(), 1, "{error}");
            let sent: &[&str] = match error {
                "NO_AUTH_FOUND" => &["header", "body", "header", "body"],
                _ => &["header", "header"],
            };
            assert_eq!(tokens_of(&proxy, METHOD), sent);
            let answer = hook(&proxy, METHOD).run();
            assert_own_error(&answer, 403, "REINSTALL_REQUIRED");
        }
    }
}

#[test]
fn where_the_header_is_swallowed_and_the_token_is_refused_in_the_body_it_is_renewed() {
    let proxy = Proxy::installed();
    proxy.portal().set_strips_authorization(true);
    assert_eq!(add(&proxy).status, 200);
    for _ in 0..2 {
        proxy.portal().revoke_access_tokens();
        renewed_ago(&proxy, 400);
        proxy.simulator.clear_ledger();
        let answer = add(&proxy);
        assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
        assert_eq!(tokens_of(&proxy, METHOD), ["body", "header", "body"], "with the header again");
        assert_eq!(proxy.simulator.ledger().refreshes(), 1);
    }
}

#[test]
fn an_idempotency_key_is_free_after_tokens_were_refused() {
    let proxy = Proxy::installed();
    portal_answers(&proxy, &refusal(401, "invalid_token"));
    let request = json!({"method": METHOD}).to_string();
    let keyed = || proxy.request(request.clone()).header("Idempotency-Key", "k").run();
    assert_failure(&keyed(), 409, "reinstall_required");
    proxy.simulator.clear_faults();
    assert_eq!(keyed().status, 200);
    assert_eq!(proxy.simulator.ledger().executed(METHOD), 1);
}

fn rest_3(proxy: &Proxy) -> Answer {
    proxy.request(json!({"method": "tasks.task.list", "version": 3}).to_string()).run()
}

#[test]
fn rest_3s_401_is_the_tokens_where_profile_is_refused_too() {
    let proxy = Proxy::installed();
    proxy.portal().set_rest3_access_denied(true);
    type Spoil = fn(&simulator::Portal);
    let ways: [Spoil; 2] = [|portal| portal.revoke_access_tokens(), |portal| portal.expire_access_tokens()];
    for spoil in ways {
        spoil(&proxy.portal());
        renewed_ago(&proxy, 400);
        proxy.simulator.clear_ledger();
        let answer = rest_3(&proxy);
        assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
        let ledger = proxy.simulator.ledger();
        assert_eq!((ledger.refreshes(), ledger.calls("profile"), ledger.calls("tasks.task.list")), (1, 1, 2));
    }
    proxy.portal().revoke_access_tokens();
    assert_failure(&rest_3(&proxy), 409, "reinstall_required");
    let answer =
        Cgi::new(&proxy.sandbox).method("POST").path(&format!("/rest/api/1/{TOKEN}/tasks.task.list")).json("{}").run();
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (403, &json!("REINSTALL_REQUIRED")),
        "{}",
        answer.text()
    );
}

#[test]
fn rest_3s_401_is_the_methods_own_error_where_profile_works() {
    let proxy = Proxy::installed();
    let denied =
        json!({"error": {"code": "BITRIX_REST_V3_EXCEPTION_ACCESSDENIEDEXCEPTION", "message": "Access denied"}});
    let body = denied.to_string();
    let action = Action::Status { status: 401, content_type: "application/json".into(), body };
    proxy.simulator.inject(Fault::forever(Target::Method("tasks.task.list".into()), action));
    for _ in 0..2 {
        let answer = rest_3(&proxy);
        assert_failure(&answer, 401, "bitrix24_error");
        assert_eq!(answer.json()["bitrix24"]["error"], denied["error"]["code"]);
    }
    let ledger = proxy.simulator.ledger();
    assert_eq!((ledger.refreshes(), ledger.calls("tasks.task.list"), ledger.calls("profile")), (0, 2, 2));
}

#[test]
fn where_rest_3_says_401_for_a_swallowed_header_the_token_goes_in_the_body() {
    let proxy = Proxy::installed();
    proxy.portal().set_rest3_access_denied(true);
    proxy.portal().set_strips_authorization(true);
    let batch = json!({"method": "batch", "version": 3, "params": [{"method": "profile", "query": {}}]}).to_string();
    let answer = proxy.request(batch).run();
    assert_failure(&answer, 502, "bitrix24_bad_answer");
    assert_eq!(answer.json()["executed"], "no");
    assert_says(&answer, &["one by one"]);
    let answer = rest_3(&proxy);
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    assert_eq!(proxy.simulator.ledger().refreshes(), 0);
}

#[test]
fn a_webhook_that_the_portal_does_not_accept_is_none_of_the_callers_credentials() {
    for (error, status) in [("INVALID_CREDENTIALS", 403), ("NO_AUTH_FOUND", 401), ("invalid_token", 401)] {
        let proxy = Proxy::not_installed();
        let section = format!("[portals.\"{}\"]", proxy.portal().name());
        let url = proxy.portal().webhook_url();
        let proxy = proxy.reconfigured(&section, &format!("{section}\nwebhook = \"{url}\""));
        portal_answers(&proxy, &refusal(status, error));
        let answer = add(&proxy);
        assert_failure(&answer, 502, "bitrix24_bad_answer");
        assert_says(&answer, &[error, "webhook"]);
        assert_eq!(answer.json()["executed"], "no");
        assert_own_error(&hook(&proxy, METHOD).run(), 404, "BITRIX24_BAD_ANSWER");
        assert_eq!(proxy.simulator.ledger().calls(METHOD), 2);
    }
}

#[test]
fn a_files_token_that_is_refused_is_renewed_once() {
    let proxy = with_files();
    let file = proxy.portal().seed_file("a.bin", 1000);
    let address = address_of(&proxy, file);
    let download = || asked(&proxy, &address).run();
    proxy.portal().revoke_access_tokens();
    let answer = download();
    assert_eq!((answer.status, answer.body.len()), (200, 1000), "{}", answer.stderr);
    proxy.portal().revoke_access_tokens();
    let answer = download();
    assert_failure(&answer, 409, "reinstall_required");
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
}

#[test]
fn an_upload_whose_token_is_refused_is_to_be_sent_again_with_a_new_one() {
    let proxy = with_files();
    let address = format!("https://{}/rest/upload.json?token=disk%7Cx%7Cy", proxy.portal().name());
    let body = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nx\r\n--b--\r\n";
    let upload = || {
        let request = asked(&proxy, &address).method("POST").body(body);
        request.header("Content-Type", "multipart/form-data; boundary=b").run()
    };
    proxy.simulator.inject(Fault::forever(Target::Upload, refusal(401, "invalid_token")));
    let answer = upload();
    assert_failure(&answer, 503, "refresh_pending");
    assert_eq!(answer.json()["executed"], "no");
    assert!(!answer.text().contains("wait"), "nobody has waited: {}", answer.text());
    assert_failure(&upload(), 409, "reinstall_required");
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
    proxy.simulator.clear_faults();
    proxy.simulator.inject(Fault::forever(Target::Upload, page(429, "Too Many Requests")));
    assert_failure(&upload(), 429, "rate_limited");
}

#[test]
fn a_portal_that_is_renamed_just_after_a_refresh_is_followed_once() {
    let proxy = Proxy::installed();
    renewed_ago(&proxy, 60);
    let old = proxy.portal().name();
    proxy.portal().rename();
    let call = || proxy.request(json!({"domain": old, "method": METHOD}).to_string()).run();
    assert_eq!(call().status, 200);
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);

    let proxy = Proxy::installed();
    renewed_ago(&proxy, 60);
    portal_answers(&proxy, &Action::Redirect302("https://elsewhere.example/".into()));
    for _ in 0..3 {
        let answer = add(&proxy);
        assert_failure(&answer, 502, "bitrix24_bad_answer");
        assert_says(&answer, &["a redirect (status 302)", "no other address"]);
    }
    assert_eq!(proxy.simulator.ledger().refreshes(), 1, "a redirect for ever causes no refresh for each call");
}

#[test]
fn no_text_of_the_portal_in_an_error_is_more_than_a_printable_line() {
    let proxy = Proxy::installed();
    let title = "\u{1b}[31m&#27;]0;x&#7;\u{9b}\u{202e}".to_owned() + &"long ".repeat(10_000);
    portal_answers(&proxy, &page(502, &title));
    let answer = add(&proxy);
    let text = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(text.chars().count() < 500 && text.contains("long"), "{text}");
    for shown in [&text, &answer.stderr.replace('\n', "")] {
        assert!(!shown.contains(|c: char| c.is_control() || c == '\u{202e}'), "{shown:?}");
    }
    let escaped: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(escaped["executed"], "unknown");
}
