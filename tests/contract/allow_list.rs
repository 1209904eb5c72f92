//! Contract section 1, "Who may call": a client's list of methods cannot be got round.

use crate::fixture::*;
use b24proxy::call::payload::Payload;
use b24proxy::serve::access::Client;
use b24proxy::serve::guard::must_be_checked;
use b24proxy::serve::webhook::Sent;
use b24proxy::values::method::{Method, Pattern};
use b24proxy::values::portal::Version;
use proptest::prelude::*;
use serde_json::json;
use simulator::BatchReading;
use support::cgi::{Answer, Cgi};

/// A proxy whose one client may call `crm.*` and `batch`.
fn restricted() -> Proxy {
    Proxy::installed().reconfigured(
        &format!("auth_token = \"{TOKEN}\""),
        &format!(
            "[[security.clients]]\nname = \"crm\"\ntoken = \"{TOKEN}\"\nmethods = [\"CRM.*\", \"catalog.product.get\", \"batch\"]"
        ),
    )
}

fn hook<'p>(proxy: &'p Proxy, version: &str, call: &str) -> Cgi<'p> {
    let (method, query) = call.split_once('?').unwrap_or((call, ""));
    Cgi::new(&proxy.sandbox).method("POST").path(&format!("/rest/{version}1/{TOKEN}/{method}")).query(query)
}

#[track_caller]
fn assert_refused(proxy: &Proxy, answer: &Answer, what: &str) {
    assert_eq!(answer.status, 403, "{what}: {}", answer.text());
    assert!(answer.text().contains("FORBIDDEN"), "{what}: {}", answer.text());
    assert_eq!(proxy.simulator.ledger().all_calls().count(), 0, "{what} was sent");
}

#[test]
fn a_method_is_compared_in_any_case_and_without_its_suffix() {
    let proxy = restricted();
    for call in
        ["crm.deal.list", "CRM.Deal.List", "crm.deal.list.JSON", "Crm.deal.list.xml", "catalog.Product.GET?id=1"]
    {
        let status = hook(&proxy, "", call).run().status;
        assert!(status == 200 || call.starts_with("catalog") && status == 400, "{call}: {status}");
    }
    let proxy = restricted();
    for call in [
        "user.current",
        "USER.Current.json",
        "catalog.product.add",
        "crmx.deal",
        "profile.crm.json",
        "crm",
        "_crm.deal.list",
    ] {
        assert_refused(&proxy, &hook(&proxy, "", call).run(), call);
        assert_refused(&proxy, &hook(&proxy, "api/", call).json("{}").run(), call);
    }
    let call = json!({"method": "USER.current.json", "params": {}});
    assert_failure(&proxy.request(call.to_string()).run(), 403, "forbidden");
}

#[test]
fn an_allowed_batch_arrives_whatever_its_shape() {
    for (call, content_type, body) in [
        ("batch?halt=1&cmd[a]=crm.deal.list&cmd[b]=crm.deal.fields", "", ""),
        (
            "BATCH.json?bx24_request_id=1",
            "application/json",
            r#"{"CMD":{"a":"crm.deal.list","b":"crm.deal.fields"},"halt":1}"#,
        ),
        (
            "batch",
            "application/x-www-form-urlencoded",
            "Cmd%5Ba%5D=crm.deal.list&cmd_=user.get&Cmd[b]=crm.deal.fields&HALT=1",
        ),
        (
            "batch?halt=1",
            "multipart/form-data; boundary=X",
            "--X\r\nContent-Disposition: form-data; name=\"cmd[a]\"\r\n\r\ncrm.deal.list\r\n\
             --X\r\nContent-Disposition: form-data; name=\"cmd[b]\"\r\n\r\ncrm.deal.fields\r\n--X--\r\n",
        ),
    ] {
        let proxy = restricted();
        let answer = hook(&proxy, "", call).header("Content-Type", content_type).body(body).run();
        assert_eq!(answer.status, 200, "{call}: {} {}", answer.text(), answer.stderr);
        let ledger = proxy.simulator.ledger();
        let call = ledger.last_call().unwrap().call().unwrap();
        let ran: Vec<_> = call.commands.iter().map(|c| (c.id.as_str(), c.method.as_str())).collect();
        assert_eq!(ran, [("a", "crm.deal.list"), ("b", "crm.deal.fields")]);
        assert_eq!(call.params["halt"], 1);
    }
}

#[test]
fn no_batch_carries_another_method() {
    let json = "application/json";
    let form = "application/x-www-form-urlencoded";
    let part = "--X\r\nContent-Disposition: form-data; name=\"CMD[a]\"\r\n\r\nuser.current\r\n--X--\r\n";
    let proxy = restricted();
    for (call, content_type, body) in [
        ("batch", json, r#"{"cmd":["user.current"]}"#),
        ("Batch.JSON", json, r#"{"CMD":{"a":"USER.Current"}}"#),
        ("batch.xml", json, r#"{"cmd":{"a":"user.current.json"}}"#),
        ("batch", json, r#"{"\u0063md":{"a":"user.current"}}"#),
        ("batch?cmd[a]=user.current", "", ""),
        ("batch?cmd[a]=user.current", json, "{}"),
        ("batch?cmd[a]=user.current", json, r#"{"halt":0}"#),
        ("batch?cmd[a]=user.current", json, r#"{"cmd":["crm.deal.list"]}"#),
        ("batch?cmd[a]=crm.deal.list", form, "cmd[a]=user.current"),
        ("batch?CMD[a]=crm.deal.list", form, "cmd[b]=user.current"),
        ("batch?%63md%5Ba%5D=user.current", form, "a=1"),
        ("batch?+cmd[a]=user.current", "", ""),
        ("batch", "Application/Json;charset=utf-8", r#"{"cmd":["user.current"]}"#),
        ("batch", "multipart/form-data; boundary=X", part),
        ("batch", form, "cmd[a]=crm.deal.list&cmd[a]=user.current"),
        ("batch", form, "cmd[a]=user.current&cmd[a]=crm.deal.list"),
        ("batch", json, r#"{"cmd":{"a":"crm.deal.list","a":"user.current"}}"#),
        ("batch", json, r#"{"cmd":{"a":"crm.deal.list"},"Cmd":{"a":"user.current"}}"#),
        ("batch", json, r#"{"cmd":["https://host/user.current"]}"#),
        ("batch", json, r#"{"cmd":["crm.deal.list:user.current"]}"#),
        ("batch", json, r#"{"cmd":["crm.deal.list:80/user.current"]}"#),
        ("batch", json, r#"{"cmd":["//crm.deal.list/user.current"]}"#),
        ("batch", json, r#"{"cmd":["/user.current"]}"#),
        ("batch", json, r##"{"cmd":["user.current#crm.deal.list"]}"##),
        ("batch", json, r#"{"cmd":["crm.deal.list/../user.current"]}"#),
        ("batch", json, r#"{"cmd":["crm%2Edeal.list"]}"#),
        ("batch", json, r#"{"cmd":[" user.current"]}"#),
        ("batch", json, r#"{"cmd":[["user.current"]]}"#),
        ("batch", json, r#"{"cmd":[{"method":"user.current"}]}"#),
        ("batch", json, r#"{"cmd":["batch?cmd[a]=user.current"]}"#),
        ("batch", json, r#"{"cmd":["BATCH.json?cmd[a]=crm.deal.list"]}"#),
        ("batch", json, r#"{"cmd":"user.current"}"#),
    ] {
        let mut request = hook(&proxy, "", call);
        if !content_type.is_empty() {
            request = request.header("Content-Type", content_type).body(body);
        }
        assert_refused(&proxy, &request.run(), &format!("{call} {body}"));
    }
}

#[test]
fn no_rest_3_batch_carries_another_method() {
    let proxy = restricted();
    for body in [
        r#"[{"method":"user.current"}]"#,
        r#" [{"method":"USER.current"}]"#,
        r#"{"0":{"method":"crm.item.list"},"1":{"method":"tasks.task.list"}}"#,
        r#"[{"method":"crm.item.list","method":"user.current"}]"#,
        r#"[{"method":"crm.item.list","\u006dethod":"user.current"}]"#,
        r#"[{"method":"crm.item.list","METHOD":"user.current"}]"#,
        r#"[{"method":"batch","query":[{"method":"user.current"}]}]"#,
        r#"[{"method":["user.current"]}]"#,
        r#"{"a":{"method":"crm.item.list"},"a":{"method":"user.current"}}"#,
        r#"["user.current"]"#,
    ] {
        assert_refused(&proxy, &hook(&proxy, "api/", "batch").json(body).run(), body);
    }
    // What stands in the query is not passed on.
    let answer = hook(&proxy, "api/", "batch?0[method]=user.current").json(r#"[{"method":"profile"}]"#).run();
    assert_refused(&proxy, &answer, "query");
    let answer = hook(&proxy, "api/", "batch?9[method]=user.current").json(r#"[{"method":"crm.deal.list"}]"#).run();
    assert_ne!(answer.status, 403, "{}", answer.text());
    let ledger = proxy.simulator.ledger();
    assert_eq!(ledger.last_call().unwrap().query, "");
}

#[test]
fn the_envelopes_batch_is_checked_too() {
    let proxy = restricted();
    for params in [
        json!({"cmd": ["user.current"]}),
        json!({"CMD": {"a": "crm.deal.list", "b": "x:user.current"}}),
        json!({"cmd": ["batch?cmd[]=crm.deal.list"]}),
    ] {
        assert_failure(&proxy.call("Batch.json", params), 403, "forbidden");
    }
    let call = json!({"method": "batch", "version": 3, "params": [{"method": "user.current"}]});
    assert_failure(&proxy.request(call.to_string()).run(), 403, "forbidden");
    assert_eq!(proxy.simulator.ledger().all_calls().count(), 0);
    assert_eq!(proxy.call("batch", json!({"cmd": {"a": "crm.deal.list"}})).status, 200);
}

#[test]
fn without_batch_in_the_list_no_batch_is_sent() {
    let proxy = restricted().reconfigured(", \"batch\"]", "]");
    let answer = hook(&proxy, "", "batch").json(r#"{"cmd":["crm.deal.list"]}"#).run();
    assert_refused(&proxy, &answer, "batch");
}

// What follows compares with an independent reading: the simulator's, of what would be sent.

fn client() -> Client {
    let pattern = |text| Pattern::parse(text).unwrap();
    Client {
        name: "c".into(),
        any_user: false,
        digest: [0; 32],
        portals: None,
        methods: Some(vec![pattern("crm.*"), pattern("batch")]),
        ips: None,
    }
}

fn posted(payload: &Payload) -> (String, Vec<u8>) {
    let (content_type, parts) = payload.with_auth(Some("T"));
    (content_type.into_owned(), parts.concat())
}

/// A command, or something that looks like one.
fn command() -> impl Strategy<Value = String> {
    let method = prop_oneof![
        4 => Just("crm.deal.list".to_owned()),
        2 => Just("CRM.Deal.add.json".to_owned()),
        2 => Just("user.get".to_owned()),
        1 => Just("batch".to_owned()),
        1 => "(crm\\.a|user\\.get|https?|:|/|//|#|\\?|@|%2E|\\.|[ \\\\\t]|80|host){0,5}".prop_map(|text| text),
    ];
    let query = prop_oneof![
        Just(String::new()),
        Just("?id=1".to_owned()),
        Just("?cmd[a]=user.get".to_owned()),
        Just("#?user.get".to_owned()),
        Just("?a=x:80/user.get".to_owned()),
    ];
    (method, query).prop_map(|(method, query)| method + &query)
}

/// A field's name as it could stand in a form, not encoded.
fn field_name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => Just("cmd[a]".to_owned()),
        3 => Just("cmd[]".to_owned()),
        2 => Just("cmd[7]".to_owned()),
        2 => Just("CMD[b]".to_owned()),
        1 => Just("halt".to_owned()),
        1 => Just("auth".to_owned()),
        2 => "( |\\+|cmd|Cmd|CMD|\\[|\\]|a|0|\\.|\0|halt|auth){1,6}".prop_map(|text| text),
    ]
}

fn escaped(text: &str, how: u8) -> String {
    match how {
        0 => text.replace('%', "%25").replace('&', "%26").replace('#', "%23").replace(['\0', '\t'], "%00"),
        1 => text.bytes().map(|byte| format!("%{byte:02x}")).collect(),
        _ => serde_urlencoded::to_string([(text, "")]).unwrap().trim_end_matches('=').to_owned(),
    }
}

fn form() -> impl Strategy<Value = String> {
    let field = (field_name(), command(), 0..3u8, 0..3u8)
        .prop_map(|(name, command, a, b)| format!("{}={}", escaped(&name, a), escaped(&command, b)));
    proptest::collection::vec(field, 0..4).prop_map(|fields| fields.join("&"))
}

fn multipart() -> impl Strategy<Value = String> {
    let disposition = prop_oneof![
        Just("form-data; name=\"NAME\""),
        Just("form-data; name=NAME"),
        Just("form-data; name='NAME'"),
        Just("form-data; name=\"x\"; name=\"NAME\""),
        Just("form-data; name=\"NAME\"; filename=\"f\""),
    ];
    let part = (field_name(), command(), disposition, prop_oneof![4 => Just("\r\n"), 1 => Just("\n")]).prop_map(
        |(name, command, disposition, end)| {
            let head = format!("Content-Disposition: {}", disposition.replace("NAME", &name.replace('\0', "")));
            format!("--X{end}{head}{end}{end}{command}{end}")
        },
    );
    proptest::collection::vec(part, 0..3).prop_map(|parts| parts.concat() + "--X--\r\n")
}

fn json_commands() -> impl Strategy<Value = String> {
    let key = prop_oneof![Just("a"), Just("b"), Just("0"), Just("\\u0061")];
    let text = || command().prop_map(|command| serde_json::to_string(&command).unwrap());
    let value = || prop_oneof![6 => text(), 1 => Just("null".to_owned()), 1 => text().prop_map(|c| format!("[{c}]"))];
    let map = proptest::collection::vec((key, value()), 0..4).prop_map(|entries| {
        format!("{{{}}}", entries.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect::<Vec<_>>().join(","))
    });
    let list = proptest::collection::vec(value(), 0..4).prop_map(|values| format!("[{}]", values.join(", ")));
    prop_oneof![map, list, text()]
}

fn json_body() -> impl Strategy<Value = String> {
    let key =
        prop_oneof![4 => Just("cmd"), 2 => Just("CMD"), 2 => Just("\\u0063md"), 1 => Just("x"), 1 => Just("auth")];
    let halt = prop_oneof![Just(""), Just("\"halt\":true,"), Just("\"HALT\":0.0,"), Just("\"halt\":\"0\",")];
    let space = prop_oneof![4 => Just(""), 1 => Just("\n "), 1 => Just("\u{feff}")];
    (space, halt, proptest::collection::vec((key, json_commands()), 0..3)).prop_map(|(space, halt, entries)| {
        let entries: Vec<String> = entries.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        let inside = format!("{halt}{}", entries.join(","));
        format!("{space}{{{}}}", inside.trim_end_matches(','))
    })
}

fn json_body_of_rest_3() -> impl Strategy<Value = String> {
    let method = || command().prop_map(|command| serde_json::to_string(command.split('?').next().unwrap()).unwrap());
    let key = prop_oneof![6 => Just("method"), 1 => Just("Method"), 1 => Just("\\u006dethod"), 2 => Just("as"), 1 => Just("x")];
    let member = (key, method()).prop_map(|(key, value)| format!("\"{key}\":{value}"));
    let command = proptest::collection::vec(member, 0..3)
        .prop_map(|members| format!("{{{},\"query\":{{\"id\":1}}}}", members.join(",")).replace("{,", "{"));
    let space = prop_oneof![Just(""), Just(" \n")];
    (space, any::<bool>(), proptest::collection::vec(command, 0..3)).prop_map(|(space, list, commands)| {
        if list {
            return format!("{space}[{}]", commands.join(","));
        }
        let named: Vec<String> = commands.iter().enumerate().map(|(i, c)| format!("\"{}\":{c}", i / 2)).collect();
        format!("{space}{{{}}}", named.join(","))
    })
}

/// Content type and body.
fn body() -> impl Strategy<Value = (&'static str, String)> {
    prop_oneof![
        4 => json_body().prop_map(|body| ("application/json", body)),
        1 => json_body().prop_map(|body| ("Application/JSON ; charset=utf-8", body)),
        1 => json_body().prop_map(|body| ("text/plain", body)),
        3 => form().prop_map(|body| ("application/x-www-form-urlencoded", body)),
        2 => multipart().prop_map(|body| ("multipart/form-data; boundary=X", body)),
        2 => Just(("", String::new())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_portal_reads_from_what_is_sent_only_what_this_client_may_call(query in form(), (content_type, body) in body()) {
        let client = client();
        prop_assert!(must_be_checked(&client, &Method::parse("Batch.JSON").unwrap()));
        let sent = Sent { query: query.as_bytes(), content_type, body: body.as_bytes() };
        if let Ok(outgoing) = sent.checked_batch(&client, Version::V2) {
            let (outgoing_type, outgoing_body) = posted(&outgoing.payload);
            let reading = BatchReading::of(&outgoing.query, &outgoing_type, &outgoing_body);
            for (_, method, _) in &reading.commands {
                prop_assert!(method.starts_with("crm."), "{query} {body} lets the portal run {method}");
            }
            // And nothing is lost or invented on the way: it is the batch that the caller sent.
            let bare = body.trim_start_matches('\u{feff}');
            let original = BatchReading::of(&query, content_type, bare.as_bytes());
            if original.commands != reading.commands || original.halt != reading.halt {
                // A place that PHP does not read, or a value that it takes for no list: such batches run nothing there.
                prop_assert!(original.commands.is_empty(), "{query} {body}: {original:?} became {reading:?}");
            }
        }
    }

    #[test]
    fn rest_3_reads_from_what_is_sent_only_what_this_client_may_call(query in form(), body in json_body_of_rest_3()) {
        let sent = Sent { query: query.as_bytes(), content_type: "application/json", body: body.as_bytes() };
        if let Ok(outgoing) = sent.checked_batch(&client(), Version::V3) {
            let (outgoing_type, outgoing_body) = posted(&outgoing.payload);
            let reading = BatchReading::of_rest3(&outgoing.query, &outgoing_type, &outgoing_body);
            for (_, method, _) in &reading.commands {
                prop_assert!(method.starts_with("crm."), "{body} lets the portal run {method}");
            }
            prop_assert_eq!(reading, BatchReading::of_rest3("", "application/json", body.as_bytes()));
        }
    }

    #[test]
    fn whatever_is_passed_on_is_read_as_it_was_sent_and_without_its_auth(query in form(), (content_type, body) in body()) {
        let sent = Sent { query: query.as_bytes(), content_type, body: body.as_bytes() };
        if let Ok(outgoing) = sent.passed_on(Version::V2) {
            let (outgoing_type, outgoing_body) = posted(&outgoing.payload);
            let bare = body.trim_start_matches('\u{feff}');
            let before = BatchReading::of(&query, content_type, bare.as_bytes());
            prop_assert_eq!(before, BatchReading::of(&outgoing.query, &outgoing_type, &outgoing_body));
        }
    }

    #[test]
    fn the_generators_make_batches_that_pass(commands in proptest::collection::vec("crm\\.[a-z]{1,5}\\.list", 1..5)) {
        let body = serde_json::json!({ "cmd": commands }).to_string();
        let sent = Sent { query: b"", content_type: "application/json", body: body.as_bytes() };
        prop_assert!(sent.checked_batch(&client(), Version::V2).is_ok());
    }
}
