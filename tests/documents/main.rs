//! What the documents say is true: every block is run, every command exists, every table is complete and every link
//! leads somewhere.
//!
//! [`markdown`] reads the documents; [`blocks`] knows for each fenced block how it is run, and a new one fails until it is
//! known; [`answers`] does the same for JSON in the text; [`commands`] runs what the text and the tables name;
//! [`tables`] compares tables and links with what they list; [`rented`] breaks rented web space as they say;
//! [`russian`] holds the Russian documents to the English ones.

#[allow(dead_code)]
#[path = "../onec/bsl.rs"]
mod bsl;
#[allow(dead_code)]
#[path = "../contract/fixture.rs"]
mod fixture;
#[allow(dead_code)]
#[path = "../onec/platform.rs"]
mod platform;

mod answers;
mod blocks;
mod commands;
mod markdown;
mod rented;
mod russian;
mod tables;

use fixture::Proxy;
use serde_json::Value;
use std::path::PathBuf;

pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// An installed proxy that knows its portal by the name that the documents use, so that their requests are sent as they
/// stand. By no short one: a reader has none until he writes it into `aliases`.
pub fn documented_proxy() -> Proxy {
    Proxy::installed().reconfigured(r#"aliases = ["acme"]"#, r#"aliases = ["acme.bitrix24.ru"]"#)
}

/// The same, to which one event has been reported.
pub fn reported() -> Proxy {
    let proxy = documented_proxy();
    proxy.change_stored(|tokens| tokens["application_token"] = proxy.portal().application_token().into());
    let form = proxy.portal().report("ONCRMDEALADD", &[("[FIELDS][ID]", "7")]);
    assert_eq!(support::cgi::Cgi::new(&proxy.sandbox).form(&form).run().status, 200);
    proxy
}

/// JSON as a document writes it: `…`, `N` and other words that are not JSON stand for any value and become null, `[…]` is
/// a list of anything.
pub fn shown_json(text: &str) -> Option<Value> {
    let mut json = String::new();
    let mut in_text = false;
    let mut word = String::new();
    for character in text.chars().chain([' ']) {
        if !in_text && (character.is_alphabetic() || character == '…') {
            word.push(character);
            continue;
        }
        match std::mem::take(&mut word).as_str() {
            known @ ("" | "true" | "false" | "null") => json.push_str(known),
            _ => json.push_str("null"),
        }
        in_text ^= character == '"';
        json.push(character);
    }
    serde_json::from_str(&json.replace("[null]", "[]")).ok()
}

/// Panics unless the real answer has everything that is shown. Null and `"…"` stand for anything.
#[track_caller]
pub fn assert_shown(shown: &Value, real: &Value, at: &str) {
    match (shown, real) {
        (Value::Null, _) => {}
        (Value::String(text), Value::String(_)) if text == "…" => {}
        (Value::Object(shown), Value::Object(real)) => {
            for (name, value) in shown {
                let names = real.keys().collect::<Vec<_>>();
                let real = real.get(name).unwrap_or_else(|| panic!("{at}: the real answer has {names:?}, no {name:?}"));
                assert_shown(value, real, &format!("{at}, {name}"));
            }
        }
        (Value::Array(shown), Value::Array(real)) => {
            assert!(shown.len() <= real.len(), "{at}: the real answer is shorter: {real:?}");
            for (shown, real) in shown.iter().zip(real) {
                assert_shown(shown, real, at);
            }
        }
        _ => assert_eq!(shown, real, "{at}"),
    }
}

#[test]
fn placeholders_stand_for_any_value_and_nothing_else_does() {
    let shown = shown_json(r#"{"a":…,"b":[…],"c":N,"d":true,"e":"…","f":"N"}"#).expect("JSON");
    assert_eq!(shown, serde_json::json!({"a": null, "b": [], "c": null, "d": true, "e": "…", "f": "N"}));
    assert_eq!(shown_json(r#"{"domain","method"}"#), None);
    let real = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    assert_shown(&shown, &real(r#"{"a":1,"b":[2],"c":{},"d":true,"e":"x","f":"N","g":0}"#), "whole");
    for wrong in [r#"{"a":1}"#, r#"{"a":1,"b":[],"c":1,"d":false,"e":"","f":"N"}"#] {
        assert!(std::panic::catch_unwind(|| assert_shown(&shown, &real(wrong), "wrong")).is_err(), "{wrong}");
    }
}
