//! A portal and an OAuth server that do not answer as Bitrix24 does.
//!
//! What is executed never says that it was not: a portal that executes a call and answers 400, `expired_token` or a
//! redirect is asked again by right.

use crate::mutate::{json, mutate};
use simulator::{Action, Fault, Target};
use std::time::Duration;
use support::Random;

/// Names that mean something in an answer.
const NAMES: &[&str] = &[
    "result",
    "error",
    "error_description",
    "result_error",
    "result_total",
    "result_next",
    "result_time",
    "next",
    "total",
    "time",
    "operating",
    "operating_reset_at",
    "items",
    "tasks",
    "item",
    "ID",
    "id",
    "TITLE",
    "ADMIN",
    "NAME",
    "c0",
    "c1",
    "0",
    "1",
    "code",
    "message",
    "validation",
];

const SUCCESSES: &[&str] = &[
    r#"{"result":{"ID":"1","ADMIN":true,"NAME":"x"},"time":{"operating":0.5,"operating_reset_at":1700000000}}"#,
    r#"{"result":[{"ID":"1"},{"ID":"2"}],"next":50,"total":120,"time":{"operating":481,"operating_reset_at":9999999999}}"#,
    r#"{"result":{"items":[{"id":1},{"id":2}]},"next":2,"total":4}"#,
    r#"{"result":{"result":{"c0":1},"result_error":[],"result_total":[],"result_next":[]}}"#,
    r#"{"result":{"result":[1,2,3],"result_error":[],"result_total":{"c0":1},"result_next":{"c0":50}}}"#,
    "<?xml version=\"1.0\"?><response><result>1</result></response>",
    "<html><body>502</body></html>",
    "\u{feff}{\"result\":1}",
    "{\"result\":\"\u{2028}\\ud800\"}",
    "",
];

const ERRORS: &[&str] = &[
    r#"{"error":"ON_PURPOSE","error_description":"on purpose"}"#,
    r#"{"error":{"code":"X","message":"y","validation":[{"field":"a","message":"b"}]}}"#,
    r#"{"error":42,"error_description":null,"result":null}"#,
    r#"{"result":{"result":{"c0":1},"result_error":{"c1":{"error":"X","error_description":"y"}},"result_total":[],"result_next":[]}}"#,
    "<?xml version=\"1.0\"?><response><error>X</error><error_description>y</error_description></response>",
];

/// Errors that say: not executed. What follows is another try.
const REFUSALS: &[(u16, &str)] = &[
    (401, "expired_token"),
    (401, "invalid_token"),
    (401, "NO_AUTH_FOUND"),
    (403, "insufficient_scope"),
    (503, "QUERY_LIMIT_EXCEEDED"),
    (503, "OVERLOAD_LIMIT"),
    (429, "OPERATION_TIME_LIMIT"),
    (500, "PORTAL_DELETED"),
    (500, "INTERNAL_SERVER_ERROR"),
    (200, "ERROR_CORE"),
    (400, ""),
];

const STATUS_LINES: &[&str] = &[
    "HTTP/1.1 200 OK",
    "HTTP/1.1 200 OK",
    "HTTP/1.1 200 OK",
    "HTTP/1.0 200",
    "HTTP/1.1 201 Created",
    "HTTP/1.1 204 No Content",
    "HTTP/1.1 100 Continue",
    "HTTP/1.1 199 X",
    "HTTP/1.1 500 X",
    "HTTP/1.1 503 X",
    "HTTP/1.1 600 X",
    "HTTP/1.1 999 X",
    "HTTP/1.1 000 X",
    "HTTP/1.1 20 X",
    "HTTP/2 200",
    "ICY 200 OK",
    "",
];

/// Of what was not executed.
const OTHER_STATUS_LINES: &[&str] = &[
    "HTTP/1.1 301 X",
    "HTTP/1.1 302 X",
    "HTTP/1.1 304 X",
    "HTTP/1.1 307 X",
    "HTTP/1.1 400 Bad Request",
    "HTTP/1.1 401 Unauthorized",
    "HTTP/1.1 404 \u{441}",
    "HTTP/1.1 408 X",
    "HTTP/1.1 429 X",
];

const HEADERS: &[&str] = &[
    "Content-Type: application/json; charset=utf-8",
    "Content-Type: application/json; charset=utf-8",
    "Content-Type: text/xml",
    "Content-Type: text/html; charset=\"\u{441}\"",
    "Content-Type: a/b\tc",
    "Content-Type:",
    "Content-Type: a/b\r\n folded: yes",
    "Content-Type: text/plain\r\nContent-Type: text/html",
    "Retry-After: 5",
    "Retry-After: -1",
    "Retry-After: 99999999999999999999",
    "Retry-After: \u{44f}",
    "Idempotent-Replayed: true",
    "Idempotent-Replayed: \u{44f}",
    "Content-Encoding: gzip",
    "Content-Length: 7",
    "Content-Length: -1",
    "Content-Length: 5, 5",
    "Content-Length: 99999999999999999999",
    "Transfer-Encoding: chunked",
    "Location: http://@STRANGER@/rest/",
    "Set-Cookie: a=b",
    "Status: 500",
    "Connection: keep-alive",
    ": no name",
    "no colon",
    "a b: c",
];

/// What goes wrong at the next request, most often nothing.
pub fn faults(random: &mut Random) -> Vec<Fault> {
    match random.below(20) {
        0..=9 => Vec::new(),
        10..=15 => vec![often(random, Target::Call)],
        16 => vec![often(random, Target::Method("batch".into()))],
        17 => vec![Fault::once(Target::Connection, Action::CloseBefore)],
        18 => vec![at_the_oauth_server(random)],
        _ => vec![at_the_oauth_server(random), often(random, Target::Call)],
    }
}

/// Once, twice, or the second time only, as for the page of a list.
fn often(random: &mut Random, target: Target) -> Fault {
    let action = action(random);
    match random.below(4) {
        0 => Fault::times(2, target, action),
        1 => Fault::once(target, action).after(1),
        _ => Fault::once(target, action),
    }
}

/// Executed or not, in time or not.
fn action(random: &mut Random) -> Action {
    match random.below(40) {
        0 => Action::CloseBefore,
        1 => Action::CloseAfter,
        2 => Action::CloseMidAnswer,
        3 => Action::TruncateJson,
        4 => Action::Html500,
        5 => Action::Chunked,
        6 => Action::HugeAnswer(*random.pick(&[1000, 60_000, 900_000, 1_100_000])),
        7 => Action::WrongContentType((*random.pick(&["text/plain", "", "a", "text/html; x=\"", "\u{44f}/x"])).into()),
        8 => Action::Redirect302(
            (*random.pick(&["http://@STRANGER@/rest/", "", "/", "//@STRANGER@", "http://192.0.2.1/", "\u{44f}"]))
                .into(),
        ),
        9 => Action::SlowBytes { interval: Duration::from_millis(2), chunk: 40 },
        10 => Action::DelayAnswer(Duration::from_millis(random.below(40))),
        // These wait until the program has given up, after a second.
        11 if random.percent(15) => Action::Hang,
        12 if random.percent(15) => Action::HangAfter,
        11..=13 => Action::Delay(Duration::from_millis(random.below(40))),
        14..=19 => {
            let (status, error) = *random.pick(REFUSALS);
            let error_description = *random.pick(&["", "x", "<b>\u{44f}</b>\r\nX: y"]);
            Action::ErrorJson { status, error: error.into(), error_description: error_description.into() }
        }
        20..=25 => {
            let status = *random.pick(&[200, 200, 200, 201, 204, 304, 400, 404, 429, 500, 503, 999]);
            let body = match random.percent(50) {
                true => json(random, NAMES, 5),
                false => spoiled(random, &[SUCCESSES, ERRORS].concat()),
            };
            Action::Status { status, content_type: "application/json".into(), body }
        }
        26..=31 => {
            let body = (*random.pick(SUCCESSES)).to_owned();
            let status = *random.pick(&[200, 200, 200, 500, 502, 999]);
            Action::ExecuteThenStatus { status, content_type: "application/json".into(), body }
        }
        32..=35 => Action::Raw(raw(random, STATUS_LINES, SUCCESSES)),
        _ => {
            let lines = if random.percent(50) { STATUS_LINES } else { OTHER_STATUS_LINES };
            let bodies = if random.percent(50) { SUCCESSES } else { ERRORS };
            Action::RawInstead(raw(random, lines, bodies))
        }
    }
}

fn spoiled(random: &mut Random, texts: &[&str]) -> String {
    let mut bytes = random.pick(texts).as_bytes().to_vec();
    mutate(&mut bytes, random, &[]);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An answer to the byte.
fn raw(random: &mut Random, lines: &[&str], bodies: &[&str]) -> Vec<u8> {
    let mut body = random.pick(bodies).as_bytes().to_vec();
    if random.percent(50) {
        mutate(&mut body, random, &[]);
    }
    let mut head = format!("{}\r\n", random.pick(lines));
    for _ in 0..random.below(4) {
        head += &format!("{}\r\n", random.pick(HEADERS));
    }
    if random.percent(60) {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    match random.below(30) {
        0 => head += &"X-Long: y\r\n".repeat(*random.pick(&[50, 99, 101, 3000])),
        1 => head += &format!("X-Long: {}\r\n", "y".repeat(*random.pick(&[4000, 17_000, 200_000]))),
        2 => head += &format!("Content-Type: {}\r\n", "y".repeat(9000)),
        _ => {}
    }
    let mut answer = [head.as_bytes(), b"\r\n", &body].concat();
    if random.percent(15) {
        // Not in the first line: a status made of chance may be a redirect, which says that nothing was executed.
        let line = answer.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut rest = answer.split_off(line);
        mutate(&mut rest, random, &[]);
        answer.extend(rest);
    }
    answer
}

/// `client_endpoint` is of few values: an address made of chance could be anybody's, and the program goes where the OAuth
/// server says that its portal is now.
const ENDPOINTS: &[&str] = &[
    r#""client_endpoint":"@SCHEME@://@PORTAL@/rest/","#,
    r#""client_endpoint":"@SCHEME@://@PORTAL@/rest/","#,
    r#""client_endpoint":"@SCHEME@://@PORTAL@/../x?y#z","#,
    r#""client_endpoint":"http://127.0.0.1:1/rest/","#,
    r#""client_endpoint":"javascript:x","#,
    r#""client_endpoint":"","#,
    r#""client_endpoint":null,"#,
    r#""client_endpoint":{},"#,
    "",
];

fn at_the_oauth_server(random: &mut Random) -> Fault {
    let fields = [
        ("access_token", "\"0123456789abcdef\""),
        ("refresh_token", "\"fedcba9876543210\""),
        ("expires_in", "3600"),
        ("expires", "1700000000"),
        ("member_id", "\"@MEMBER@\""),
        ("domain", "\"oauth.bitrix.info\""),
        ("server_endpoint", "\"https://oauth.bitrix.info/rest/\""),
        ("scope", "\"crm,catalog\""),
        ("status", "\"L\""),
        ("user_id", "1"),
        ("error", "\"invalid_grant\""),
    ];
    let mut body = format!("{{{}", random.pick(ENDPOINTS));
    for (name, value) in &fields[..fields.len() - usize::from(random.percent(90))] {
        match random.below(10) {
            0 => {}
            1 => body += &format!("\"{name}\":{},", json(random, NAMES, 2)),
            2 => body += &format!("\"{name}\":{value},\"{name}\":{value},"),
            _ => body += &format!("\"{name}\":{value},"),
        }
    }
    body += "\"x\":0}";
    if random.percent(20) {
        let end = body.char_indices().map(|(at, _)| at).nth(random.index(body.chars().count())).unwrap_or(0);
        body.truncate(end);
    }
    let json = "application/json".to_owned();
    let action = match random.below(12) {
        0 => Action::CloseBefore,
        1 => Action::CloseAfter,
        2 => Action::CloseMidAnswer,
        3 => Action::Html500,
        4 => Action::Redirect302("http://@STRANGER@/".into()),
        5 => Action::ErrorJson { status: 400, error: "invalid_grant".into(), error_description: "\u{44f}\"\n".into() },
        6 => Action::ErrorJson { status: 401, error: "PAYMENT_REQUIRED".into(), error_description: String::new() },
        7 if random.percent(20) => Action::Hang,
        8 => Action::HugeAnswer(*random.pick(&[1000, 200_000])),
        9 => Action::ExecuteThenStatus { status: 200, content_type: json, body },
        _ => Action::Status { status: *random.pick(&[200, 200, 200, 400, 500]), content_type: json, body },
    };
    Fault::once(Target::Token, action)
}
