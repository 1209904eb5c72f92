//! `auth_connector`: the name by which an application knows its own changes.

use crate::fixture::*;
use serde_json::{json, Value};
use simulator::Call;

const SHOP: &str = "a-token-of-the-shops-client";

/// With another client, whose calls have a connector.
fn with_shop(more: &str) -> Proxy {
    let client =
        format!("[[security.clients]]\nname = \"shop\"\ntoken = \"{SHOP}\"\nauth_connector = \"обмен №1\"\n{more}");
    Proxy::installed().reconfigured("[limits]", &format!("{client}\n[limits]"))
}

/// The connectors that Bitrix24 read, of each request since the last time.
fn read(proxy: &Proxy) -> Vec<Value> {
    let ledger = proxy.simulator.ledger();
    let connector = |call: &Call| call.params["auth_connector"].clone();
    let read = ledger.all_calls().map(connector).collect();
    proxy.simulator.clear_ledger();
    read
}

#[track_caller]
fn asked(proxy: &Proxy, token: &str, body: Value) -> Vec<Value> {
    let answer = proxy.bare_request(body.to_string()).bearer(token).run();
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    read(proxy)
}

#[test]
fn the_envelopes_goes_with_every_request_in_its_query() {
    let proxy = Proxy::installed();
    proxy.portal().seed("crm.deal", 120);
    let envelope = |body: Value| {
        let mut body = body;
        body["auth_connector"] = json!("a&b=c №+%");
        body
    };
    let call = json!({"method": "sim.echo", "params": {"i": 1}});
    for (body, requests) in [
        (json!({"method": "sim.echo", "params": {"i": 1}}), 1),
        (json!({"method": "sim.echo", "params": [1, 2]}), 1),
        (json!({"method": "tasks.task.list", "version": 3}), 1),
        (json!({"method": "batch", "params": {"cmd": {"a": "profile"}}}), 1),
        (json!({"calls": vec![call.clone(); 70]}), 2),
        (json!({"calls": [call, {"method": "sim.echo", "params": {"n": null}}]}), 2),
    ] {
        let seen = asked(&proxy, TOKEN, envelope(body.clone()));
        assert_eq!(seen, vec![json!("a&b=c №+%"); requests], "{body}");
    }
    let seen = asked(&proxy, TOKEN, envelope(json!({"method": "crm.deal.list", "all": true})));
    assert!(!seen.is_empty() && seen.iter().all(|connector| connector == "a&b=c №+%"), "{seen:?}");
    // The parameters are sent on as they were.
    proxy.request(json!({"method": "sim.echo", "params": {"i": 1}, "auth_connector": "1c"}).to_string()).run();
    let ledger = proxy.simulator.ledger();
    let entry = ledger.of_method("sim.echo").next().unwrap();
    assert_eq!((entry.body.as_slice(), entry.query.as_str()), (&br#"{"i":1}"#[..], "auth_connector=1c"));
}

#[test]
fn the_callers_own_counts_before_the_envelopes_and_that_before_the_clients() {
    let proxy = with_shop("");
    let call = |params: Value| json!({"method": "sim.echo", "params": params});
    let body = |params: Value| call(params);
    assert_eq!(asked(&proxy, TOKEN, body(json!({}))), [Value::Null], "whoever has none sends none");
    assert_eq!(asked(&proxy, SHOP, body(json!({}))), ["обмен №1"]);
    let own = json!({"auth_connector": "own"});
    assert_eq!(asked(&proxy, SHOP, body(own.clone())), ["own"]);
    let with_envelope = |mut body: Value| {
        body["auth_connector"] = json!("envelope");
        body
    };
    assert_eq!(asked(&proxy, SHOP, with_envelope(body(json!({})))), ["envelope"]);
    assert_eq!(asked(&proxy, SHOP, with_envelope(body(own.clone()))), ["own"]);
    proxy.bare_request(with_envelope(body(own.clone())).to_string()).bearer(SHOP).run();
    let ledger = proxy.simulator.ledger();
    assert_eq!(ledger.of_method("sim.echo").next().unwrap().query, "", "no other stands beside it");
    proxy.simulator.clear_ledger();
    // Among many, those with one connector share a batch.
    let calls = json!({"calls": [call(json!({})), call(own.clone()), call(own), call(json!({"a": 1}))]});
    assert_eq!(asked(&proxy, SHOP, calls.clone()), ["обмен №1", "own", "обмен №1"]);
    assert_eq!(asked(&proxy, SHOP, with_envelope(calls)), ["envelope", "own", "envelope"]);
}

#[test]
fn the_callers_own_goes_with_every_request_that_reads_a_list_to_its_end() {
    let proxy = with_shop("");
    proxy.portal().seed("crm.deal", 120);
    for own in [json!({"auth_connector": "own"}), json!({"auth_connector": "own", "order": {"TITLE": "ASC"}})] {
        for envelope in [json!(null), json!("envelope")] {
            let mut body = json!({"method": "crm.deal.list", "all": true, "params": own});
            if !envelope.is_null() {
                body["auth_connector"] = envelope;
            }
            assert_eq!(asked(&proxy, SHOP, body.clone()), ["own", "own"], "{body}");
        }
    }
}

#[test]
fn a_call_whose_own_is_no_name_goes_alone_and_with_its_own() {
    let proxy = with_shop("");
    for own in [json!("x".repeat(100_000)), json!("a\nb"), json!(7)] {
        let calls = [json!({}), json!({"auth_connector": own}), json!({})].map(|mut params| {
            params["i"] = json!(1);
            json!({"method": "sim.echo", "params": params})
        });
        let seen = asked(&proxy, SHOP, json!({ "calls": calls }));
        assert_eq!(seen, [json!("обмен №1"), own, json!("обмен №1")]);
    }
}

#[test]
fn a_batch_of_rest_3_0_has_none_at_all() {
    let proxy = with_shop("");
    proxy.portal().set_lenient_rest3_batch(false);
    let list = json!([{"method": "tasks.task.list", "query": {}}]);
    let body = json!({"method": "batch", "version": 3, "params": list, "auth_connector": "x"});
    assert_eq!(asked(&proxy, SHOP, body), [Value::Null]);
    let answer = proxy.get(&format!("/rest/api/1/{SHOP}/batch")).method("POST").json(list.to_string()).run();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let ledger = proxy.simulator.ledger();
    let queries: Vec<&str> = ledger.of_method("batch").map(|entry| entry.query.as_str()).collect();
    assert_eq!(queries, [""]);
}

#[test]
fn on_webhook_routes_the_clients_is_added_unless_the_caller_has_one() {
    let proxy = with_shop("");
    let form = "application/x-www-form-urlencoded";
    let multipart = "multipart/form-data; boundary=x";
    let part = "--x\r\nContent-Disposition: form-data; name=\"auth_connector\"\r\n\r\nown\r\n--x--\r\n";
    for (query, content_type, body, expected) in [
        ("", "", "", json!("обмен №1")),
        ("i=1&", "", "", json!("обмен №1")),
        ("i=1", form, "a=2", json!("обмен №1")),
        ("", "application/json", "{\"i\":1}", json!("обмен №1")),
        ("auth_connector=own", "", "", json!("own")),
        ("i=1&%61uth_connector=own", form, "a=2", json!("own")),
        ("", form, "auth_connector=own", json!("own")),
        ("", multipart, part, json!("own")),
        ("", "application/json", "{\"auth_connector\":\"own\"}", json!("own")),
    ] {
        let answer = proxy
            .get(&format!("/rest/1/{SHOP}/sim.echo"))
            .method("POST")
            .query(query)
            .header("Content-Type", content_type)
            .body(body)
            .run();
        assert_eq!(answer.status, 200, "{query} {body}: {}", answer.text());
        assert_eq!(read(&proxy), [expected], "{query} {body}");
    }
    assert_eq!(proxy.get(&format!("/rest/1/{TOKEN}/sim.echo")).query("i=1").run().status, 200);
    assert_eq!(read(&proxy), [Value::Null], "another client's call has none");
}

#[test]
fn a_batch_that_is_built_anew_keeps_its_callers_connector() {
    let proxy = with_shop("methods = [\"sim.*\", \"batch\"]\n");
    let cmd = json!({"a": "sim.echo?i=1"});
    let batch = |params: Value| json!({"method": "batch", "params": params});
    assert_eq!(asked(&proxy, SHOP, batch(json!({"cmd": cmd}))), ["обмен №1"]);
    assert_eq!(asked(&proxy, SHOP, batch(json!({"cmd": cmd, "auth_connector": "own"}))), ["own"]);
    for (query, expected) in [("cmd[a]=sim.echo", "обмен №1"), ("cmd[a]=sim.echo&auth_connector=own", "own")] {
        let answer = proxy.get(&format!("/rest/1/{SHOP}/batch")).query(query).run();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(read(&proxy), [expected], "{query}");
    }
}

#[test]
fn a_connector_is_a_name_of_1_to_100_printable_characters() {
    let proxy = Proxy::installed();
    for bad in [json!(""), json!(7), json!(null), json!("a\nb"), json!("a\u{202e}b"), json!("x".repeat(101))] {
        for mut body in
            [json!({"method": "profile"}), json!({"calls": []}), json!({"method": "crm.deal.list", "all": true})]
        {
            body["auth_connector"] = bad.clone();
            let answer = proxy.request(body.to_string()).run();
            assert_failure(&answer, 400, "invalid_request");
            assert!(answer.json()["error"].as_str().is_some_and(|text| text.contains("auth_connector")), "{bad}");
        }
    }
    assert_eq!(
        asked(&proxy, TOKEN, json!({"method": "profile", "auth_connector": "x".repeat(100)})),
        ["x".repeat(100)]
    );
}

#[test]
fn under_one_key_another_connector_is_another_request_and_a_clients_new_one_is_not() {
    let proxy = Proxy::installed();
    let send = |proxy: &Proxy, body: &Value| proxy.request(body.to_string()).header("Idempotency-Key", "k").run();
    for mut body in [json!({"method": "crm.deal.add", "params": {}}), json!({"calls": [{"method": "crm.deal.add"}]})] {
        proxy.forget_keys();
        assert_eq!(send(&proxy, &body).status, 200);
        body["auth_connector"] = json!("1c");
        assert_failure(&send(&proxy, &body), 422, "idempotency_key_reused");
    }
    let named = "[[security.clients]]\nname = \"shop\"\ntoken = \"a-token-of-the-shops-client\"\n";
    let proxy = proxy.reconfigured("[limits]", &format!("{named}\n[limits]"));
    let body = json!({"method": "crm.deal.add", "params": {}}).to_string();
    let keyed = |proxy: &Proxy| proxy.bare_request(body.clone()).bearer(SHOP).header("Idempotency-Key", "k").run();
    let first = keyed(&proxy);
    let proxy = proxy.reconfigured(named, &format!("{named}auth_connector = \"1c\"\n"));
    let second = keyed(&proxy);
    assert_eq!((second.status, second.header("Idempotent-Replayed")), (200, Some("true")), "{}", second.text());
    assert_eq!(second.body, first.body);
}
