//! Memory for a request stays below three times the larger of body and answer plus 8 MiB, whatever is in them: here they are
//! of what costs most for its size, on every route that reads a body. The figures are those of the release build.

use crate::fixture::*;
use crate::footprint::{assert_below, proxy, MIB};
use flate2::write::GzEncoder;
use simulator::{Action, Fault, Target};
use std::io::Write;
use std::time::Duration;
use support::cgi::{Answer, Cgi};
use support::database::{wanted, Kind};

/// A body may be twice as large by default.
const BODY: usize = 8 << 20;
/// Of the portal; it may be 64 MiB.
const ANSWER: usize = 4 << 20;
const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";
const LIMITED: &str = "a-limited-client-for-tests";

/// `before`, as many of `item` with commas between as make it this long, and `after`.
fn filled(size: usize, before: &str, item: &str, after: &str) -> String {
    let mut text = String::with_capacity(size);
    text.push_str(before);
    while text.len() + 2 * item.len() + after.len() + 1 < size {
        text.push_str(item);
        text.push(',');
    }
    text.push_str(item);
    text.push_str(after);
    text
}

fn repeated(size: usize, item: &str) -> String {
    item.repeat(size / item.len())
}

/// A proxy with a second client, who may call only some methods. Whatever is called answers `answer`.
fn proxy_that_answers(answer: &str) -> Proxy {
    let proxy = proxy();
    let limited =
        format!("[[security.clients]]\nname = \"limited\"\ntoken = \"{LIMITED}\"\nmethods = [\"crm.*\", \"batch\"]\n");
    let config = format!("{}\n{limited}", proxy.config()).replace("timeout       = 10", "timeout = 50");
    let proxy = proxy.configured(&config);
    let action = Action::Status { status: 200, content_type: JSON.into(), body: answer.to_owned() };
    proxy.simulator.inject(Fault::forever(Target::Call, action));
    proxy
}

#[track_caller]
fn assert_bounded(what: &str, request: Cgi, status: &[u16], larger: usize) -> Answer {
    let answer = request.measure_memory().timeout(Duration::from_secs(120)).run();
    assert!(status.contains(&answer.status), "{what}: {} {:.300} {:.300}", answer.status, answer.text(), answer.stderr);
    let (times, beside) = match wanted() {
        // Its driver is larger, and copies what is kept under a key twice more.
        Some(Kind::MySql) => (5, 11),
        _ => (3, 8),
    };
    assert_below(what, answer.max_rss, times * larger.max(answer.body.len()) as u64 + beside * MIB);
    answer
}

#[test]
fn a_body_for_the_envelope_takes_no_more_than_three_times_its_size_whatever_is_in_it() {
    let proxy = proxy_that_answers(r#"{"result":[]}"#);
    let params = |before: &str, item: &str, after: &str| {
        filled(BODY, &format!("{{\"method\":\"crm.deal.list\",\"params\":{before}"), item, &format!("{after}}}"))
    };
    let batch = |before: &str, item: &str, after: &str| {
        filled(BODY, &format!("{{\"method\":\"batch\",\"params\":{before}"), item, &format!("{after}}}"))
    };
    let deep = format!("{}{}", "[".repeat(400), "]".repeat(400));
    let rest3 = |item: &str| filled(BODY, "{\"version\":3,\"method\":\"batch\",\"params\":[", item, "]}");
    let all = |before: &str, item: &str, after: &str| {
        filled(
            BODY,
            &format!("{{\"all\":true,\"method\":\"crm.deal.list\",\"params\":{before}"),
            item,
            &format!("{after}}}"),
        )
    };
    let all3 = |before: &str, item: &str, after: &str| {
        filled(
            BODY,
            &format!("{{\"all\":true,\"version\":3,\"method\":\"crm.deal.list\",\"params\":{before}"),
            item,
            &format!("{after}}}"),
        )
    };
    let cases: Vec<(&str, &str, String, &[u16])> = vec![
        ("a list of zeros", TOKEN, params("[", "0", "]"), &[200]),
        ("empty keys", TOKEN, params("{", "\"\":0", "}"), &[200]),
        ("a long text", TOKEN, params("{\"a\":\"", &"x".repeat(1000), "\"}"), &[200]),
        ("a long key of escapes", TOKEN, params("{\"", "\\u0430", "\":1}"), &[200]),
        ("nested lists", TOKEN, params("{\"a\":[", &deep, "]}"), &[200]),
        ("fields of the envelope", TOKEN, filled(BODY, "{", "\"\":0", "}"), &[400]),
        ("one field again and again", TOKEN, filled(BODY, "{", "\"method\":0", "}"), &[400]),
        ("calls of zeros", TOKEN, filled(BODY, "{\"calls\":[", "0", "]}"), &[400]),
        ("a million calls", TOKEN, filled(BODY, "{\"calls\":[", "{\"method\":\"a\"}", ",{}]}"), &[400]),
        ("calls without an end", TOKEN, filled(BODY, "{\"calls\":[", "{}", ""), &[400]),
        (
            "one long call",
            TOKEN,
            filled(BODY, "{\"calls\":[{\"method\":\"a\",\"params\":{\"a\":\"", "Ж", "\"}}]}"),
            &[200],
        ),
        ("50 long calls", TOKEN, fifty_calls(BODY - 4096), &[200]),
        ("50 calls of 20 KB", TOKEN, fifty_calls(1 << 20), &[200]),
        ("all with empty keys", TOKEN, all("{", "\"\":0", "}"), &[400]),
        ("all with a long filter", TOKEN, all("{\"filter\":{\"a\":[", "0", "]}}"), &[200]),
        ("all with many conditions", TOKEN, all("{\"filter\":{", "\"\":0", "}}"), &[200, 400]),
        ("all with a long select", TOKEN, all("{\"select\":[", "\"\"", "]}"), &[200]),
        ("all of REST 3.0 with a long filter", TOKEN, all3("{\"filter\":[", "[]", "]}"), &[200, 400]),
        ("all of REST 3.0 with a long condition", TOKEN, all3("{\"filter\":[[", "0", "]]}"), &[200, 400]),
        ("all of REST 3.0 with a long select", TOKEN, all3("{\"select\":[", "\"\"", "]}"), &[200, 400]),
        ("all of REST 3.0 with a long order", TOKEN, all3("{\"order\":[", "\"\"", "]}"), &[200, 400]),
        ("all with a list", TOKEN, all("[", "0", "]"), &[400]),
        ("a batch", TOKEN, batch("{\"cmd\":[", "\"a\"", "]}"), &[200]),
        ("a limited client's batch as a list", LIMITED, batch("{\"cmd\":[", "\"crm.a\"", "]}"), &[400]),
        ("a limited client's batch as a map", LIMITED, batch("{\"cmd\":{", "\"\":\"crm.a\"", "}}"), &[400]),
        ("a limited client's batch beside empty keys", LIMITED, batch("{", "\"\":0", "}"), &[200]),
        ("a limited client's long command", LIMITED, batch("{\"cmd\":[\"crm.a?a=", "\\u0430", "\"]}"), &[200]),
        ("a limited client's command with quotes", LIMITED, batch("{\"cmd\":[\"crm.a?a=", "\\\"", "\"]}"), &[200]),
        ("REST 3.0, a list of zeros", TOKEN, rest3("0"), &[200]),
        ("REST 3.0, a limited client's batch", LIMITED, rest3("{\"method\":\"crm.a\"}"), &[400]),
        ("REST 3.0, a limited client's fields", LIMITED, rest3("{\"method\":\"crm.a\",\"as\":1,\"as\":1}"), &[403]),
    ];
    for (what, token, body, status) in cases {
        let size = body.len();
        assert!(size <= BODY, "{what}");
        assert_bounded(what, proxy.bare_request(body).bearer(token), status, size);
    }
}

/// Fifty calls with texts that percent-encoding makes three times as long.
fn fifty_calls(size: usize) -> String {
    let call = format!("{{\"method\":\"a\",\"params\":{{\"a\":\"{}\"}}}}", "Ж".repeat(size / 100 - 30));
    format!("{{\"calls\":[{}]}}", vec![call; 50].join(","))
}

#[test]
fn a_body_on_a_webhook_route_takes_no_more_than_three_times_its_size_whatever_is_in_it() {
    let proxy = proxy_that_answers(r#"{"result":true}"#);
    let boundary = "multipart/form-data; boundary=x";
    let part = "--x\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n";
    let own = "--x\r\nContent-Disposition: form-data; name=auth\r\n\r\n\r\n";
    let command = "--x\r\nContent-Disposition: form-data; name=cmd[]\r\n\r\ncrm.a\r\n";
    let multipart = |parts: &str| format!("{}--x--\r\n", repeated(BODY - 100, parts));
    type Case<'a> = (&'a str, &'a str, &'a str, &'a str, String, &'a [u16]);
    let cases: Vec<Case> = vec![
        ("fields without a value", TOKEN, "a.b", FORM, repeated(BODY, "a&"), &[200]),
        ("ampersands", TOKEN, "a.b", FORM, repeated(BODY, "&"), &[200]),
        ("authorizations", TOKEN, "a.b", FORM, repeated(BODY, "auth&"), &[200]),
        ("one long field", TOKEN, "a.b", FORM, format!("a={}", repeated(BODY - 8, "%41")), &[200]),
        ("a list of zeros", TOKEN, "a.b", JSON, filled(BODY, "[", "0", "]"), &[200]),
        ("empty keys", TOKEN, "a.b", JSON, filled(BODY, "{", "\"\":0", "}"), &[200]),
        ("empty keys beside auth", TOKEN, "a.b", JSON, filled(BODY, "{\"auth\":1,", "\"\":0", "}"), &[200]),
        ("spaces", TOKEN, "a.b", JSON, repeated(BODY, " "), &[200]),
        ("short parts", TOKEN, "a.b", boundary, multipart("--x\r\n\r\n\r\n\r\n"), &[200]),
        ("named parts", TOKEN, "a.b", boundary, multipart(part), &[200]),
        ("parts, every other left out", TOKEN, "a.b", boundary, multipart(&format!("{part}{own}")), &[200]),
        ("a limited client's fields", LIMITED, "batch", FORM, repeated(BODY, "a&"), &[200]),
        ("a limited client's commands", LIMITED, "batch", FORM, repeated(BODY, "cmd[]=crm.a&"), &[400]),
        (
            "a limited client's long command",
            LIMITED,
            "batch",
            FORM,
            format!("cmd[]=crm.a?a={}", repeated(BODY - 64, "a")),
            &[200],
        ),
        ("a limited client's list", LIMITED, "batch", JSON, filled(BODY, "{\"cmd\":[", "\"crm.a\"", "]}"), &[400]),
        ("a limited client's parts", LIMITED, "batch", boundary, multipart(part), &[200]),
        ("a limited client's commands in parts", LIMITED, "batch", boundary, multipart(command), &[400]),
    ];
    for (what, token, method, content_type, body, status) in cases {
        let size = body.len();
        assert!(size <= BODY, "{what}");
        let request = Cgi::new(&proxy.sandbox).method("POST").path(&format!("/rest/1/{token}/{method}"));
        assert_bounded(what, request.header("Content-Type", content_type).body(body), status, size);
    }
    let list = filled(BODY, "[", "0", "]");
    let request = Cgi::new(&proxy.sandbox).method("POST").path(&format!("/rest/api/1/{TOKEN}/batch"));
    assert_bounded("REST 3.0, a list of zeros", request.json(list), &[200], BODY);
}

#[test]
fn a_packed_body_takes_no_more_than_three_times_what_comes_out_of_it() {
    let proxy = proxy_that_answers(r#"{"result":true}"#);
    let packed = |text: &str| {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).expect("memory");
        encoder.finish().expect("memory")
    };
    let list = filled(BODY, "{\"method\":\"a.b\",\"params\":[", "0", "]}");
    let request = proxy.request(packed(&list)).header("Content-Encoding", "gzip");
    assert_bounded("a list of zeros", request, &[200], BODY);
    let bomb = packed(&"0".repeat(20 * BODY));
    let request = proxy.request(bomb).header("Content-Encoding", "gzip");
    assert_bounded("a bomb", request, &[413], BODY);
    // Of a stranger 64 KiB are read.
    let stranger = || Cgi::new(&proxy.sandbox).method("POST").header("Content-Type", FORM);
    let request = stranger().body(packed(&repeated(BODY, "a&"))).header("Content-Encoding", "gzip");
    assert_bounded("a stranger's bomb", request, &[413], 64 << 10);
    let request = stranger().body(repeated(64 << 10, "a&"));
    assert_bounded("a stranger's form", request, &[401], 64 << 10);
}

#[test]
fn an_answer_of_the_portal_takes_no_more_than_three_times_its_size_whatever_is_in_it() {
    let cases = [
        ("a list of zeros", filled(ANSWER, "[", "0", "]")),
        ("empty keys", filled(ANSWER, "{", "\"\":0", "}")),
        ("a result of zeros", filled(ANSWER, "{\"result\":[", "0", "]}")),
        ("rows with an ID", filled(ANSWER, "{\"result\":[", "{\"ID\":1}", "]}")),
        ("rows with IDs of their own", rows(ANSWER)),
        ("results of a batch", filled(ANSWER, "{\"result\":{\"result\":{", "\"\":0", "}}}")),
        ("results of a batch as a list", filled(ANSWER, "{\"result\":{\"result\":[", "0", "]}}")),
        ("a long error", filled(ANSWER, "{\"error\":\"E\",\"error_description\":\"", "\\u0430", "\"}")),
        ("an error of many parts", filled(ANSWER, "{\"error\":{\"validation\":[", "0", "]}}")),
        ("an empty page", " ".repeat(ANSWER)),
        ("a web page", filled(ANSWER, "<html><title>", "x", "</title>")),
        (
            "one long address",
            format!("{{\"result\":\"ORIGIN/rest/download.json?token={}\"}}", "a".repeat(ANSWER - 200)),
        ),
        ("addresses", filled(ANSWER, "{\"result\":\"", "ORIGIN/rest/download.json?token=a", "\"}")),
        ("beginnings of addresses", filled(ANSWER, "{\"result\":\"token", "ORIGIN/rest/", "\"}")),
        ("tokens", filled(ANSWER, "{\"result\":\"token", "ACCESS", "\"}")),
    ];
    for (what, answer) in cases {
        let proxy = proxy_that_answers("");
        let origin = format!("https://{}", proxy.portal().name());
        let token = proxy.stored()["access_token"].as_str().expect("a token").to_owned();
        let mut answer = answer.replace("ORIGIN", &origin).replace("ACCESS", &token);
        if answer.len() > 2 * ANSWER {
            answer.truncate(2 * ANSWER);
            answer.push_str("\"}");
        }
        let size = answer.len();
        let action = Action::Status { status: 200, content_type: JSON.into(), body: answer };
        proxy.simulator.clear_faults();
        proxy.simulator.inject(Fault::forever(Target::Call, action));
        let any = &[200, 400, 404, 409, 502];
        for body in [
            r#"{"method":"crm.deal.list"}"#,
            r#"{"method":"crm.deal.list","all":true}"#,
            r#"{"method":"a.list","all":true}"#,
            r#"{"method":"a.list","all":true,"version":3}"#,
            r#"{"method":"a.list","params":{"order":{"a":"ASC"}},"all":true,"version":3}"#,
            r#"{"method":"tasks.task.list","all":true}"#,
            r#"{"calls":[{"method":"crm.deal.list"},{"method":"profile"}]}"#,
            r#"{"calls":[{"method":"crm.deal.list","params":{"a":null}}]}"#,
        ] {
            assert_bounded(&format!("{what}, {body}"), proxy.request(body), any, size);
        }
        let request = proxy.request(r#"{"method":"crm.deal.list"}"#).header("Idempotency-Key", what);
        assert_bounded(&format!("{what}, with a key"), request, any, size);
        let request = proxy.request(r#"{"method":"crm.deal.list"}"#).header("Idempotency-Key", what);
        assert_bounded(&format!("{what}, with the key again"), request, any, size);
        let request = proxy.get(&format!("/rest/1/{TOKEN}/crm.deal.list"));
        assert_bounded(&format!("{what}, webhook"), request, any, size);
    }
}

/// Rows, each with another ID.
fn rows(size: usize) -> String {
    let mut text = String::with_capacity(size + 64);
    text.push_str("{\"result\":[{\"ID\":0}");
    for id in 1.. {
        if text.len() > size {
            break;
        }
        text.push_str(&format!(",{{\"ID\":{id}}}"));
    }
    text.push_str("]}");
    text
}
