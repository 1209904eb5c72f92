//! JSON that stands in the text: what is sent is understood, what is answered has what is shown.

use crate::fixture::{Proxy, TOKEN};
use crate::markdown::{code, documents, Document};
use crate::{assert_shown, documented_proxy, reported, shown_json};
use serde_json::Value;

/// A text, and how a real answer is got.
type Known = (&'static str, fn() -> Value);

/// Each answer that a text shows.
const ANSWERS: &[Known] = &[
    (r#"{"status":"ok"}"#, health),
    (r#"{"success":true,"data":…}"#, one_call),
    (r#"{"success":true,"data":ОТВЕТ}"#, one_call),
    (
        r#"{"success":true,"data":{"results":[{"result":1},{"error":"…","error_description":"…"}],"errors":1}}"#,
        many_calls,
    ),
    (r#"{"result":[…],"total":N,"complete":true}"#, whole_list),
    (r#"{"error":CODE,"error_description":TEXT}"#, webhook_error),
    (r#"{"success":true,"data":{"bound":["ONCRMDEALADD","ONCRMDEALUPDATE"]}}"#, bound),
    (
        r#"{"success":true,"data":{"events":[{"number":1,"event":"ONCRMDEALADD","data":{"FIELDS":{"ID":"7"}},"at":N}],"last":1,"lost":0}}"#,
        events,
    ),
];

/// The keys of a request, without values.
const REQUEST: &str = r#"{"domain","method","params"}"#;

fn health() -> Value {
    documented_proxy().get("/health").run().json()
}

fn one_call() -> Value {
    documented_proxy().request(r#"{"domain":"acme.bitrix24.ru","method":"profile","params":{}}"#).run().json()
}

fn many_calls() -> Value {
    let calls = r#"{"domain":"acme.bitrix24.ru","calls":[{"method":"crm.deal.add","params":{"fields":{"TITLE":"A"}}},
                    {"method":"no.such.method","params":{}}]}"#;
    documented_proxy().request(calls).run().json()
}

fn whole_list() -> Value {
    let proxy = documented_proxy();
    proxy.portal().seed("crm.deal", 60);
    let answer = proxy.request(r#"{"domain":"acme.bitrix24.ru","method":"crm.deal.list","all":true}"#).run().json();
    assert_eq!(answer["data"]["result"].as_array().map(Vec::len), Some(60), "{answer}");
    answer["data"].clone()
}

fn webhook_error() -> Value {
    documented_proxy().get("/rest/1/not-the-token/profile").run().json()
}

fn bound() -> Value {
    let names = r#"{"domain":"acme.bitrix24.ru","events":{"bind":["ONCRMDEALADD","ONCRMDEALUPDATE"]}}"#;
    documented_proxy().request(names).run().json()
}

fn events() -> Value {
    reported().request(r#"{"domain":"acme.bitrix24.ru","events":{}}"#).run().json()
}

#[test]
fn every_answer_that_a_text_shows_is_what_is_really_answered() {
    let mut seen = vec![false; ANSWERS.len()];
    for span in documents().iter().flat_map(|document| document.spans()) {
        if !span.text.starts_with("{\"") || span.text == REQUEST {
            continue;
        }
        let known = ANSWERS.iter().position(|(text, _)| *text == span.text);
        let Some(known) = known else {
            panic!("{}: this answer is not compared with a real one: {}", span.at(), span.text)
        };
        if !std::mem::replace(&mut seen[known], true) {
            let shown = shown_json(&span.text).unwrap_or_else(|| panic!("{}: not JSON: {}", span.at(), span.text));
            assert_shown(&shown, &ANSWERS[known].1(), &span.at());
        }
    }
    for ((text, _), seen) in ANSWERS.iter().zip(seen) {
        assert!(seen, "no document shows this answer any more: {text}");
    }
}

/// As Bitrix24 answers it, encoded once more.
fn address_of_a_file(proxy: &Proxy) -> String {
    proxy.portal().set_scope("crm,catalog,disk");
    let file = proxy.portal().seed_file("a.pdf", 100);
    let answer = proxy.call("disk.file.get", serde_json::json!({ "id": file })).json();
    let address = answer["data"]["result"]["DOWNLOAD_URL"].as_str().expect("an address").to_owned();
    serde_urlencoded::to_string([("", address)]).expect("a text").trim_start_matches('=').to_owned()
}

#[test]
fn every_address_of_the_table_is_there() {
    let proxy = documented_proxy();
    for row in Document::load("docs/calls.md").table(&["request", "answer"]) {
        let at = format!("docs/calls.md line {}", row.line);
        let address = code(&row.cells[0]).first().unwrap_or_else(|| panic!("{at}: no address")).to_string();
        let path = address.strip_prefix("GET ").unwrap_or(&address);
        let path = path.replace("{user id}", "1").replace("{client token}", TOKEN).replace("{method}", "profile");
        let path = path.replace("NAME", "acme.bitrix24.ru").replace("ADDRESS", &address_of_a_file(&proxy));
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        // As a browser asks, for one of them is there for browsers alone.
        let answer = proxy.get(path).query(query).bearer(TOKEN).header("Accept", "text/html,*/*;q=0.8").run();
        // /install leads to Bitrix24.
        assert!([200, 302].contains(&answer.status), "{at}: {address}: {} {}", answer.status, answer.text());
    }
}
