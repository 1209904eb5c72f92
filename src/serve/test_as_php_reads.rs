//! What would be sent to a portal, compared with an independent reading of it: the simulator's, by PHP's rules.

use super::guard::must_be_checked;
use super::webhook::Sent;
use crate::call::payload::Payload;
use crate::config::Client;
use crate::values::method::{Method, Pattern};
use crate::values::portal::Version;
use proptest::prelude::*;
use simulator::BatchReading;

fn client() -> Client {
    let pattern = |text| Pattern::parse(text).unwrap();
    Client {
        name: "c".into(),
        any_user: false,
        digest: [0; 32],
        portals: None,
        methods: Some(vec![pattern("crm.*"), pattern("batch")]),
        ips: None,
        events: crate::values::event::Audible::All,
        auth_connector: None,
    }
}

fn posted(payload: &Payload) -> (String, Vec<u8>) {
    let (content_type, parts) = payload.with_auth(Some("T"));
    (content_type.into_owned(), crate::values::parts::concat(&parts))
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
        if let Ok(outgoing) = sent.passed_on(Version::V2, &Method::parse("batch").unwrap()) {
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
