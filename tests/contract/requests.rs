//! Contract section 2, the request of 1C, and the CGI boundary around it.

use crate::fixture::*;
use crate::logging::{line, lines};
use serde_json::{json, Value};
use simulator::PortalOptions;
use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use support::cgi::{Answer, Cgi, SCRIPT_NAME};
use support::Sandbox;

const PROFILE: &str = r#"{"method":"profile"}"#;

/// Sends the parameters to `sim.echo` and answers what the portal received, between the braces.
#[track_caller]
fn as_received(proxy: &Proxy, params: &str) -> String {
    let answer = proxy.request(format!("{{\"method\":\"sim.echo\",\"params\":{params}}}")).run();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let ledger = proxy.simulator.ledger();
    let call = ledger.last_call().unwrap();
    assert_eq!(call.header("Content-Type"), Some("application/json"));
    assert_eq!(call.query, "");
    let body = String::from_utf8(call.body.clone()).unwrap();
    let inside = body.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    inside.unwrap_or_else(|| panic!("{body}")).to_owned()
}

/// The text of a request refused as `invalid_request`; nobody was contacted.
#[track_caller]
fn refused(proxy: &Proxy, body: impl Into<Vec<u8>>) -> String {
    text_of_refusal(proxy, &proxy.request(body).run())
}

#[track_caller]
fn text_of_refusal(proxy: &Proxy, answer: &Answer) -> String {
    assert_failure(answer, 400, "invalid_request");
    assert_eq!(proxy.simulator.ledger().all_connections(), 0, "{}", answer.text());
    answer.json()["error"].as_str().unwrap().to_owned()
}

#[test]
fn domain_is_accepted_as_name_address_or_alias_in_any_case() {
    let proxy = Proxy::installed();
    let name = proxy.portal().name();
    for domain in [
        name.clone(),
        format!("https://{name}/"),
        format!("HTTPS://{name}"),
        format!("http://{name}/"),
        format!(" {name} "),
        "acme".into(),
        "ACME".into(),
    ] {
        let answer = proxy.request(json!({"domain": domain, "method": "profile"}).to_string()).run();
        assert_eq!(answer.status, 200, "{domain}: {}", answer.text());
    }
}

#[test]
fn domain_may_be_left_out_where_one_portal_is_configured_and_only_there() {
    let proxy = Proxy::installed();
    assert_eq!(proxy.request(PROFILE).run().status, 200);
    let proxy = proxy.reconfigured("[limits]", "[portals.\"other.bitrix24.ru\"]\n[limits]");
    let answer = proxy.request(PROFILE).run();
    assert_failure(&answer, 400, "invalid_request");
    assert!(answer.json()["error"].as_str().unwrap().contains("\"domain\" is missing"), "{}", answer.text());
    assert_eq!(proxy.request(r#"{"method":"profile","domain":"acme"}"#).run().status, 200);
}

#[test]
fn a_portal_that_is_not_configured_is_404_and_never_contacted() {
    let proxy = Proxy::installed();
    let stranger = proxy.simulator.add_portal(PortalOptions::default()).name();
    let port = proxy.portal().name().split(':').nth(1).unwrap().to_owned();
    for domain in [
        stranger.clone(),
        format!("https://{stranger}/"),
        format!("localhost:{port}"),
        "127.0.0.1".into(),
        format!("x@127.0.0.1:{port}"),
        format!("127.0.0.1:{port}/rest"),
        format!("127.0.0.1:{port}#"),
        "ac\u{0}me".into(),
        "".into(),
        "acme.".into(),
        "../acme".into(),
    ] {
        let answer = proxy.request(json!({"domain": domain, "method": "profile"}).to_string()).run();
        assert_failure(&answer, 404, "unknown_portal");
    }
    let ledger = proxy.simulator.ledger();
    assert_eq!((ledger.connections(&stranger), ledger.all_connections()), (0, 0));
}

#[test]
fn method_is_letters_digits_dot_underscore_and_hyphen_at_most_128_characters() {
    let proxy = Proxy::installed();
    let longest = "a".repeat(128);
    for good in ["no.such_method-2", "A", &longest] {
        let answer = proxy.call(good, json!({}));
        assert_failure(&answer, 404, "bitrix24_error");
        let path = format!("/rest/{good}");
        assert_eq!(proxy.simulator.ledger().last_call().unwrap().path, path, "as the caller wrote it");
    }
    proxy.simulator.clear_ledger();
    let too_long = "a".repeat(129);
    for bad in ["", "a b", "a/b", "../a", "..", ".", "a?b", "a#b", "a%2e", "crm.deal.аdd", "a\nb", "a\u{0}", &too_long]
    {
        let text = refused(&proxy, json!({"method": bad}).to_string());
        assert!(text.contains("\"method\" must be letters"), "{bad}: {text}");
    }
}

#[test]
fn params_arrive_byte_for_byte() {
    let proxy = Proxy::installed();
    for params in [
        r#""a":1"#,
        r#""z":1,"a":2,"m":{"z":1,"a":2}"#,
        r#""n":1.0,"e":1E+2,"big":123456789012345678901234567890,"neg":-0,"small":0.10"#,
        r#""n":null,"t":true,"f":false,"e":"","l":[],"o":{}"#,
        r#""s":"\u0439\/\"\\\b\f\n\r\t","d":"й /","p":"\ud83d\ude00😀""#,
        "\"a\" :\t1 ,\r\n  \"b\": [ 1 , 2 ]",
        r#""dup":1,"dup":2"#,
        r#""":1,"0":2,"fields":{"auth":"x","access_token":"y"},"AUTH":"z""#,
    ] {
        assert_eq!(as_received(&proxy, &format!("{{{params}}}")), params);
        assert_eq!(as_received(&proxy, &format!(" {{ \n{params}\t}}\r\n ")), params);
    }
    let large = format!("\"x\":\"{}\"", "й".repeat(1 << 20));
    assert_eq!(as_received(&proxy, &format!("{{{large}}}")), large);
}

#[test]
fn params_default_to_an_empty_object_and_an_array_is_sent_by_position() {
    let proxy = Proxy::installed();
    for empty in ["{}", " { } ", "[]", " [ ] "] {
        assert_eq!(as_received(&proxy, empty), "");
    }
    assert_eq!(proxy.request(r#"{"method":"sim.echo"}"#).run().status, 200);
    assert_eq!(as_received(&proxy, r#"[7, {"b":1.50 ,"a":[ ]}, null]"#), r#""0":7,"1":{"b":1.50 ,"a":[ ]},"2":null"#);

    let answer = proxy.call("task.commentitem.add", json!([12, {"POST_MESSAGE": "Готово"}]));
    assert_eq!(answer.json()["data"]["result"], 12_001, "{}", answer.text());
}

#[test]
fn params_of_any_other_type_are_400() {
    let proxy = Proxy::installed();
    for params in ["null", "true", "1", "\"{}\"", "\"a=1\""] {
        let text = refused(&proxy, format!("{{\"method\":\"sim.echo\",\"params\":{params}}}"));
        assert!(text.contains("\"params\" must be a JSON object"), "{params}: {text}");
    }
}

#[test]
fn a_missing_field_or_one_of_the_wrong_type_is_named() {
    let proxy = Proxy::installed();
    for (body, name) in [
        ("{}", "\"method\" is missing"),
        (r#"{"domain":"acme","params":{}}"#, "\"method\" is missing"),
        (r#"{"method":null}"#, "\"method\" must be a string"),
        (r#"{"method":["profile"]}"#, "\"method\" must be a string"),
        (r#"{"method":"profile","domain":null}"#, "\"domain\" must be a string"),
        (r#"{"method":"profile","domain":{"a":1}}"#, "\"domain\" must be a string"),
        (r#"{"method":"profile","parms":{}}"#, "\"parms\""),
        (r#"{"Method":"profile"}"#, "\"Method\""),
    ] {
        let text = refused(&proxy, body);
        assert!(text.contains(name), "{body}: {text}");
    }
}

#[test]
fn a_key_given_twice_in_the_envelope_is_400_however_it_is_escaped() {
    let proxy = Proxy::installed();
    for (body, name) in [
        (r#"{"method":"profile","method":"profile"}"#, "\"method\" is given twice"),
        (r#"{"method":"profile","\u006d\u0065thod":"user.get"}"#, "\"method\" is given twice"),
        (r#"{"domain":"acme","method":"profile","domain":"acme"}"#, "\"domain\" is given twice"),
        (r#"{"params":{},"method":"profile","params":{}}"#, "\"params\" is given twice"),
    ] {
        let text = refused(&proxy, body);
        assert!(text.contains(name), "{body}: {text}");
    }
}

#[test]
fn a_top_level_auth_or_access_token_in_params_is_400_however_it_is_escaped() {
    let proxy = Proxy::installed();
    for params in [
        r#"{"auth":"x"}"#,
        r#"{"auth":null}"#,
        r#"{"a":1,"access_token":"x"}"#,
        r#"{"\u0061uth":"x"}"#,
        r#"{"a":{"b":1},"\u0061\u0075\u0074\u0068":"x"}"#,
        r#"{"access\u005Ftoken":"x"}"#,
        "{\"auth\"\n:\"x\"}",
    ] {
        let text = refused(&proxy, format!("{{\"method\":\"sim.echo\",\"params\":{params}}}"));
        assert!(text.contains("must not contain \"a"), "{params}: {text}");
    }
}

#[test]
fn version_3_calls_rest_3() {
    let proxy = Proxy::installed();
    proxy.portal().seed("tasks.task", 1);
    let send = |version: &str| {
        let body = format!(r#"{{"method":"tasks.task.get","version":{version},"params":{{"id":1}}}}"#);
        proxy.request(body).run()
    };
    let answer = send("3");
    assert_eq!(answer.json()["data"]["result"]["item"]["id"], 1, "{}", answer.text());
    let ledger = proxy.simulator.ledger();
    assert_eq!(ledger.last_call().unwrap().path, "/rest/api/tasks.task.get");
    assert_eq!(ledger.last_call().unwrap().call().unwrap().version, 3);
    send("2");
    assert_eq!(proxy.simulator.ledger().last_call().unwrap().call().unwrap().version, 2);
    for bad in ["1", "4", "\"3\"", "3.0", "null", "true"] {
        let answer = send(bad);
        assert_failure(&answer, 400, "invalid_request");
        assert!(answer.json()["error"].as_str().unwrap().contains("\"version\" must be 2 or 3"), "{bad}");
    }
}

#[test]
fn a_byte_order_mark_before_the_json_is_accepted() {
    let proxy = Proxy::installed();
    assert_eq!(proxy.request(format!("\u{feff}{PROFILE}")).run().status, 200);
    assert!(refused_at(&proxy, format!("\u{feff}\u{feff}{PROFILE}")).contains("JSON"));
}

/// As [`refused`], of a proxy that was called before.
fn refused_at(proxy: &Proxy, body: impl Into<Vec<u8>>) -> String {
    proxy.simulator.clear_ledger();
    refused(proxy, body)
}

#[test]
fn a_body_that_is_not_utf_8_is_400_and_says_so_and_windows_1251_by_name() {
    let proxy = Proxy::installed();
    // "Привет, Мир" as windows-1251.
    let cyrillic = b"{\"method\":\"sim.echo\",\"params\":{\"a\":\"\xcf\xf0\xe8\xe2\xe5\xf2, \xcc\xe8\xf0\"}}";
    let text = refused(&proxy, *cyrillic);
    assert!(text.contains("not UTF-8") && text.contains("windows-1251"), "{text}");
    let text = refused(&proxy, *b"{\"method\":\"profile\x80\x81\"}");
    assert!(text.contains("not UTF-8") && !text.contains("windows-1251"), "{text}");
    let utf16 = |text: &str| [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let little: Vec<u8> = utf16(PROFILE);
    let big: Vec<u8> = little.chunks(2).flat_map(|pair| [pair[1], pair[0]]).collect();
    for body in [little.clone(), big, little[2..].to_vec()] {
        let text = refused(&proxy, body);
        assert!(text.contains("UTF-16"), "{text}");
    }
}

#[test]
fn what_is_not_one_json_object_is_400() {
    let proxy = Proxy::installed();
    for (body, word) in [
        ("", "the body is empty"),
        (" \r\n", "the body is empty"),
        ("\u{feff}", "the body is empty"),
        ("profile", "not a JSON object"),
        ("domain=acme&method=profile", "not a JSON object"),
        ("[\"profile\"]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("\"profile\"", "not a JSON object"),
        ("{\"method\":\"profile\"", "ends too early, at line 1"),
        ("{\"method\":\"profile\"}}", "not a JSON object"),
        ("{\"method\":\"profile\"}{}", "not a JSON object"),
        ("{\"method\":\"profile\",}", "not a JSON object"),
        ("{'method':'profile'}", "not a JSON object"),
        ("{\"method\":\"profile\",\n\"params\":{\"a\":NaN}}", "at line 2"),
        ("{\"method\":\"profile\",\"params\":{\"a\":01}}", "not a JSON object"),
        ("{\"method\":\"profile\",\"params\":{\"a\":\"\t\"}}", "not a JSON object"),
        ("{\"method\":\"profile\"}\u{0}", "not a JSON object"),
    ] {
        let text = refused(&proxy, body);
        assert!(text.contains(word), "{body:?}: {text}");
    }
}

#[test]
fn what_bitrix24_would_silently_take_as_no_parameters_is_400() {
    let proxy = Proxy::installed();
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for (value, word) in [
        (r#""\ud83d""#, "surrogate"),
        (r#""\ude00""#, "surrogate"),
        (r#""\ud83d\ud83d\ude00""#, "surrogate"),
        (r#""x\\\uD800x""#, "surrogate"),
        (r#"{"\udfff":1}"#, "surrogate"),
        (&nested(511), "511"),
        (&nested(100_000), "511"),
    ] {
        let text = refused(&proxy, format!("{{\"method\":\"sim.echo\",\"params\":{{\"a\":{value}}}}}"));
        assert!(text.contains("\"params\"") && text.contains(word), "{text}");
    }
    // 511 levels in all, as deep as PHP reads; the simulator itself does not read that deep.
    let deepest = format!(r#"{{"a":{}}}"#, nested(510));
    proxy.request(format!("{{\"method\":\"sim.echo\",\"params\":{deepest}}}")).run();
    let sent = proxy.simulator.ledger().last_call().unwrap().body.clone();
    assert!(sent.ends_with(&deepest.as_bytes()[1..]));
    let harmless = r#""a":"\\ud83d [[[ \ud83d\ude00""#;
    assert_eq!(as_received(&proxy, &format!("{{{harmless}}}")), harmless);
}

#[test]
fn a_body_without_a_length_is_read_to_its_end() {
    let proxy = Proxy::installed();
    let params = format!("\"a\":\"{}\"", "x".repeat(300_000));
    let body = format!("{{\"method\":\"sim.echo\",\"params\":{{{params}}}}}");
    let answer = proxy.request(&*body).content_length(None).header("Transfer-Encoding", "chunked").run();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["data"]["result"]["a"].as_str().unwrap().len(), 300_000);
    let nothing = proxy.request("").content_length(None).run();
    assert!(nothing.json()["error"].as_str().unwrap().contains("the body is empty"), "{}", nothing.text());
}

#[test]
fn a_content_length_that_is_wrong_is_400_and_not_a_short_or_endless_read() {
    let proxy = Proxy::installed();
    let with = |length: &str| text_of_refusal(&proxy, &proxy.request(PROFILE).env("CONTENT_LENGTH", length).run());
    assert!(with("5").contains("ends too early"));
    assert!(with("0").contains("the body is empty"));
    assert!(with("21").contains("the body ended before its announced length"));
    assert!(with("9999").contains("the body ended before its announced length"));
    for garbage in ["-1", "+20", "20x", "0x14", " 20", "twenty", "20, 20", "1e1", "99999999999999999999999999"] {
        assert!(with(garbage).contains("Content-Length is not a number"), "{garbage}");
    }
    let bytes = OsStr::from_bytes(b"\xff");
    let text = text_of_refusal(&proxy, &proxy.request(PROFILE).env("CONTENT_LENGTH", bytes).run());
    assert!(text.contains("Content-Length is not a number"));
    let most = u64::MAX.to_string();
    assert_failure(&proxy.request(PROFILE).env("CONTENT_LENGTH", most).run(), 413, "body_too_large");
    assert_eq!(proxy.request(PROFILE).env("CONTENT_LENGTH", "00020").run().status, 200);
}

#[test]
fn a_body_that_arrives_in_pieces_is_one_body() {
    let proxy = Proxy::installed();
    let mut running = proxy.request(PROFILE).spawn();
    for byte in PROFILE.as_bytes() {
        running.write(&[*byte]).unwrap();
    }
    // The end of the body is its length: web servers need not close the pipe.
    assert_eq!(running.wait().status, 200);
}

#[test]
fn a_body_that_breaks_off_is_400_and_executes_nothing() {
    let proxy = Proxy::installed();
    let whole = r#"{"method":"crm.deal.add","params":{"fields":{"TITLE":"x"}}}"#;
    for length in [0, 1, whole.len() / 2, whole.len() - 1] {
        let answer = proxy.request(&whole[..length]).content_length(Some(whole.len())).run();
        assert!(text_of_refusal(&proxy, &answer).contains("ended before its announced length"));
    }
}

#[test]
fn without_path_info_the_route_is_what_follows_script_name_in_request_uri() {
    let proxy = Proxy::installed();
    let get = |uri: &str| {
        Cgi::new(&proxy.sandbox).without("PATH_INFO").env("REQUEST_URI", uri).env("SCRIPT_NAME", SCRIPT_NAME).run()
    };
    for uri in ["/health", "/health/", "/health?x=1", "/%68ealth", "//health"] {
        let answer = get(&format!("{SCRIPT_NAME}{uri}"));
        assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"status":"ok"}"#), "{uri}");
    }
    assert_eq!(get("/%63gi-bin/b24proxy/health").status, 200, "SCRIPT_NAME is decoded, REQUEST_URI is not");
    assert_failure(&get(&format!("{SCRIPT_NAME}/nothing")), 404, "not_found");
    assert_failure(&get(&format!("{SCRIPT_NAME}/%ff")), 404, "not_found");
    let post = proxy.request(PROFILE).without("PATH_INFO");
    assert_eq!(post.clone().run().status, 200);
    assert_eq!(post.clone().without("REQUEST_URI").run().status, 200);
    assert_eq!(post.clone().without("REQUEST_URI").without("SCRIPT_NAME").run().status, 200);
    assert_eq!(post.env("PATH_INFO", "").run().status, 200);
}

#[test]
fn gateway_interface_alone_makes_it_a_cgi_request_and_arguments_decide_nothing() {
    let proxy = Proxy::installed();
    // Apache passes these as arguments.
    for query in ["check+now", "version", "--help", "help", "status", "token", "refresh+acme", "%2D%2Dversion"] {
        assert_failure(&Cgi::new(&proxy.sandbox).query(query).run(), 405, "method_not_supported");
        assert_eq!(proxy.get("/health").query(query).run().status, 200, "{query}");
        assert_eq!(proxy.request(PROFILE).query(query).run().status, 200, "{query}");
    }
    let shell = proxy.sandbox.command_line(&["version"]).output().unwrap();
    assert!(String::from_utf8(shell.stdout).unwrap().starts_with("b24proxy "));
    let empty = proxy.sandbox.command_line(&["version"]).env("GATEWAY_INTERFACE", "").output().unwrap();
    assert!(String::from_utf8(empty.stdout).unwrap().starts_with("Status: "), "present, if empty");
}

#[test]
fn a_variable_whose_name_has_an_equals_sign_is_no_reason_to_give_up() {
    let proxy = Proxy::installed();
    proxy.run_behind("exec env '=C:=x' {}");
    assert_eq!(proxy.request(PROFILE).run().status, 200);
}

#[test]
fn strange_variables_are_answered_like_any_others() {
    let proxy = Proxy::installed();
    // Of FastCGI parameters a mebibyte is taken.
    let long = "x".repeat(40_000);
    let values: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"*".to_vec(),
        b"\xff\xfe\x80".to_vec(),
        b"http://[::1".to_vec(),
        b"//%zz?%".to_vec(),
        b"a b\tc".to_vec(),
        b"\r\nX-Injected: 1".to_vec(),
        "й".into(),
        long.into(),
    ];
    let names = [
        "REQUEST_URI",
        "SERVER_PROTOCOL",
        "SERVER_NAME",
        "SERVER_PORT",
        "SCRIPT_NAME",
        "SCRIPT_FILENAME",
        "QUERY_STRING",
        "CONTENT_TYPE",
        "REMOTE_USER",
        "HTTPS",
        "HTTP_HOST",
        "HTTP_USER_AGENT",
        "HTTP_COOKIE",
        "HTTP_ACCEPT",
        "HTTP_X_ANYTHING",
        "LANG",
        "PATH",
        "HOME",
        "A_VARIABLE_OF_THE_HOST",
    ];
    for value in &values {
        let request =
            names.iter().fold(proxy.request(PROFILE), |request, name| request.env(name, OsStr::from_bytes(value)));
        let answer = request.run();
        assert_eq!(answer.status, 200, "{value:?} {} {}", answer.text(), answer.stderr);
        assert_eq!(answer.header("X-Injected"), None);
        assert_eq!(line(&answer)["status"], 200);
    }
    for name in names {
        assert_eq!(proxy.request(PROFILE).without(name).run().status, 200, "{name}");
    }
}

#[test]
fn strange_values_where_they_decide_something_are_refused_and_nothing_more() {
    let proxy = Proxy::installed();
    let bytes = OsStr::from_bytes(b"\xff\xfe");
    assert_eq!(failure(&proxy.request(PROFILE).env("REQUEST_METHOD", bytes).run()).0, 405);
    assert_eq!(failure(&proxy.request(PROFILE).without("REQUEST_METHOD").run()).0, 405);
    assert_eq!(failure(&proxy.request(PROFILE).env("HTTP_AUTHORIZATION", bytes).run()).0, 401);
    assert_eq!(failure(&proxy.request(PROFILE).env("HTTP_ORIGIN", bytes).run()).0, 403);
    assert_eq!(failure(&proxy.request(PROFILE).env("HTTP_SEC_FETCH_SITE", bytes).run()).0, 403);
    let get = |name: &str, value: &OsStr| Cgi::new(&proxy.sandbox).env(name, value).run();
    for path in ["/nothing", "/health/x", "/../health", "/Health"] {
        assert_eq!(failure(&get("PATH_INFO", path.as_ref())).0, 404, "{path}");
    }
    assert_eq!(get("QUERY_STRING", OsStr::from_bytes(b"portal=\xff")).status, 404, "a page");
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

#[test]
fn with_gateway_interface_and_nothing_else_there_is_an_answer() {
    let sandbox = Sandbox::new();
    let output = sandbox.command_line(&[]).env_clear().env("GATEWAY_INTERFACE", "CGI/1.1").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("Status: 500 "), "{text}");
    assert_eq!(lines(&String::from_utf8(output.stderr).unwrap())[0]["error_code"], "configuration_error");
}

#[test]
fn a_proxy_from_a_request_header_or_the_environment_is_not_used() {
    let proxy = Proxy::installed();
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let address = format!("http://{}", trap.local_addr().unwrap());
    let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "CGI_HTTP_PROXY"];
    let request = names.iter().fold(proxy.request(PROFILE), |request, name| request.env(name, &address));
    let answer = request.run();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(proxy.simulator.ledger().refreshes(), 1, "the refresh did not use it either");
    assert_eq!(trap.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn host_and_forwarding_headers_lead_nowhere() {
    let proxy = Proxy::installed();
    let stranger = proxy.simulator.add_portal(PortalOptions::default()).name();
    let names = ["Host", "X-Forwarded-Host", "X-Forwarded-Server", "X-Original-URL", "X-Rewrite-URL", "Forwarded"];
    let request = names.iter().fold(proxy.request(PROFILE), |request, name| request.header(name, &stranger));
    assert_eq!(request.env("SERVER_NAME", &stranger).run().status, 200);
    assert_eq!(proxy.simulator.ledger().connections(&stranger), 0);
}

#[test]
fn an_address_that_is_not_there_is_404_and_a_method_that_is_not_405_with_allow() {
    let proxy = Proxy::installed();
    for path in ["/nothing", "/healthy", "/restful", "/a/b/c", "/a/b/rest/1"] {
        for method in ["GET", "POST", "OPTIONS", "DELETE"] {
            assert_failure(&proxy.get(path).method(method).run(), 404, "not_found");
        }
    }
    for method in ["PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "post", "BREW", ""] {
        let answer = proxy.request(PROFILE).method(method).run();
        assert_failure(&answer, 405, "method_not_supported");
        assert_eq!(answer.header("Allow"), Some("POST"), "{method}");
    }
    let answer = proxy.get("/health").method("POST").run();
    assert_failure(&answer, 405, "method_not_supported");
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

#[test]
fn allow_names_what_is_answered_at_this_address_and_nothing_else() {
    let closed = Proxy::installed();
    let open = Proxy::installed().reconfigured("[security]", "[security]\ncors_origins = [\"https://shop.acme.test\"]");
    for (proxy, options) in [(&closed, ""), (&open, ", OPTIONS")] {
        let webhook = format!("/rest/1/{TOKEN}/profile");
        for (path, methods) in [
            ("", "POST"),
            ("/", "POST"),
            ("/health", "GET, HEAD"),
            ("/status", "GET, HEAD"),
            ("/install", "GET, HEAD"),
            ("/callback", "GET, HEAD"),
            ("/file", "GET, HEAD, POST"),
            (&webhook, "GET, POST"),
        ] {
            let request = |method: &str| proxy.get(path).method(method).header("Origin", "https://shop.acme.test");
            let answer = request("PUT").run();
            let allow = format!("{methods}{options}");
            assert_eq!((answer.status, answer.header("Allow")), (405, Some(allow.as_str())), "{path}");
            for method in ["GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "TRACE", "get"] {
                let is_answered = request(method).run().status != 405;
                assert_eq!(is_answered, allow.split(", ").any(|known| known == method), "{method} {path}");
            }
        }
    }
}

#[test]
fn domain_may_be_a_whole_webhook_address_and_its_code_is_nowhere_repeated() {
    let proxy = Proxy::installed();
    let name = proxy.portal().name();
    let body = |domain: &str| json!({"domain": domain, "method": "profile"}).to_string();
    for domain in [
        format!("https://{name}/rest/1/s3cr3tc0de/"),
        format!("HTTPS://{}/rest/1/s3cr3tc0de/crm.lead.add.json?a=b#c", name.to_uppercase()),
        format!(" https://{name}/rest/1/s3cr3tc0de "),
        format!("https://{name}/crm/deal/"),
    ] {
        let answer = proxy.request(body(&domain)).run();
        assert_eq!(answer.status, 200, "{domain}: {}", answer.text());
        assert!(!answer.text().contains("s3cr3t") && !answer.stderr.contains("s3cr3t"), "{}", answer.stderr);
    }
    let calls = proxy.simulator.ledger().all_calls().count();
    for domain in [
        "https://evil.example/rest/1/s3cr3tc0de/".to_owned(),
        format!("https://evil.example/{name}/rest/1/s3cr3tc0de/"),
        format!("https://{name}@evil.example/rest/1/s3cr3tc0de/"),
        format!("/{name}/rest/1/s3cr3tc0de/"),
        format!("{name}/rest/1/s3cr3tc0de/"),
    ] {
        let answer = proxy.request(body(&domain)).run();
        assert_failure(&answer, 404, "unknown_portal");
        assert!(!answer.text().contains("s3cr3t") && !answer.stderr.contains("s3cr3t"), "{}", answer.stderr);
    }
    assert_eq!(proxy.simulator.ledger().all_calls().count(), calls, "nothing else is contacted");
}

#[test]
fn head_has_the_status_and_headers_of_get_and_no_body() {
    let proxy = Proxy::installed();
    let answer = proxy.get("/health").method("HEAD").run();
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_common_headers(&answer);
    let refused = proxy.get("/nothing").method("HEAD").run();
    assert_eq!((refused.status, refused.body.len()), (404, 0));
}

#[track_caller]
fn assert_common_headers(answer: &Answer) {
    let id = answer.header("X-Request-Id").unwrap();
    assert!(id.len() >= 16 && id.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"));
    assert_eq!(answer.header("Content-Type"), Some("application/json; charset=utf-8"));
}

#[test]
fn every_answer_has_a_request_id_of_its_own_no_store_nosniff_and_the_json_type() {
    let proxy = Proxy::installed();
    let mut ids: Vec<String> = Vec::new();
    let answers = [
        proxy.request(PROFILE).run(),
        proxy.request(PROFILE).run(),
        proxy.request("nonsense").run(),
        proxy.bare_request(PROFILE).run(),
        proxy.request(r#"{"method":"sim.fail"}"#).run(),
        proxy.request(r#"{"domain":"nobody","method":"profile"}"#).run(),
        proxy.bare_request("").form("event=X").run(),
        proxy.get("/health").run(),
        proxy.get("/nothing").run(),
        proxy.request(PROFILE).method("PUT").run(),
    ];
    for answer in answers {
        assert_common_headers(&answer);
        assert!(answer.exit.success(), "{}", answer.exit);
        ids.push(answer.header("X-Request-Id").unwrap().to_owned());
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 10);
    proxy.sandbox.write_config("nonsense");
    for answer in [proxy.request(PROFILE).run(), proxy.get("/health").run()] {
        assert_common_headers(&answer);
    }
}

fn health(proxy: &Proxy) -> (u16, Value) {
    let answer = proxy.get("/health").run();
    assert_common_headers(&answer);
    (answer.status, answer.json())
}

fn unavailable(reason: &str) -> (u16, Value) {
    (503, json!({"status": "unavailable", "reason": reason}))
}

#[test]
fn health_is_200_ok_for_anyone_and_contacts_nobody() {
    let proxy = Proxy::not_installed();
    assert_eq!(health(&proxy), (200, json!({"status": "ok"})));
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

#[test]
fn health_is_503_with_a_reason_code_where_the_configuration_is_unusable() {
    let proxy = Proxy::installed();
    proxy.sandbox.write_config(&proxy.config().replace("redirect_uri ", "redirect_url "));
    assert_eq!(health(&proxy), unavailable("configuration_error"));
    proxy.sandbox.write("b24proxy/proxy.toml", 0o644, proxy.config().as_bytes());
    assert_eq!(health(&proxy), unavailable("configuration_error"));
    std::fs::remove_file(proxy.sandbox.config()).unwrap();
    let answer = proxy.get("/health").run();
    assert_eq!((answer.status, answer.json()), unavailable("configuration_error"));
    assert!(answer.stderr.contains("there is no proxy.toml"), "{}", answer.stderr);
}

#[test]
fn health_is_503_with_a_reason_code_where_the_storage_is_unusable() {
    use std::os::unix::fs::PermissionsExt;
    let proxy = Proxy::installed().on_files();
    let mode = |mode: u32| {
        std::fs::set_permissions(proxy.sandbox.tokens(), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(0o500);
    assert_eq!(health(&proxy), unavailable("storage_error"));
    assert!(proxy.get("/health").run().stderr.contains("b24proxy/tokens"), "the log says what");
    mode(0o700);
    assert_eq!(health(&proxy).0, 200);
    for path in ["ca.pem", "ca.pem/tokens"] {
        let proxy =
            Proxy::installed().on_files().reconfigured("[log]", &format!("[storage]\npath = \"{path}\"\n[log]"));
        assert_eq!(health(&proxy), unavailable("storage_error"), "a file is not a folder");
    }
}

/// Runs a request whose client reads no byte of the answer; answers what is in the error log.
fn with_a_client_that_goes_away(proxy: &Proxy, body: &str, announced: usize) -> String {
    let mut child = proxy
        .sandbox
        .command_line(&[])
        .envs([
            ("GATEWAY_INTERFACE", "CGI/1.1"),
            ("REQUEST_METHOD", "POST"),
            ("REMOTE_ADDR", "127.0.0.1"),
            ("CONTENT_LENGTH", &announced.to_string()),
            ("HTTP_AUTHORIZATION", &format!("Bearer {TOKEN}")),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    child.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_client_that_goes_away_leaves_nothing_in_the_error_log() {
    let proxy = Proxy::installed().reconfigured("level = \"debug\"", "level = \"error\"");
    let small = PROFILE.to_owned();
    let large = json!({"method": "sim.echo", "params": {"a": "x".repeat(300_000)}}).to_string();
    for body in [small, large] {
        assert_eq!(with_a_client_that_goes_away(&proxy, &body, body.len()), "");
        assert_eq!(with_a_client_that_goes_away(&proxy, &body[..10], body.len()), "");
    }
    let ledger = proxy.simulator.ledger();
    assert_eq!((ledger.executed("profile"), ledger.executed("sim.echo")), (1, 1), "the calls were made all the same");
}

#[test]
fn no_panic_is_ever_shown() {
    let proxy = Proxy::installed();
    let mut requests = vec![
        proxy.request(vec![0xff; 100_000]),
        proxy.request("[".repeat(100_000)),
        proxy.request("{\"params\":".repeat(50_000)),
        proxy.request(r#"{"method":"profile","params":{"":{"":{"":""}}}}"#),
        proxy.request(PROFILE).env("HTTP_AUTHORIZATION", OsStr::from_bytes(b"Basic \xff\xff")),
        proxy.get("/%00%ff/é\u{202e}"),
        proxy.get("/").query("code=%ff&state=%00"),
        proxy.get("/callback").query("state=a.b.c&code=é"),
        proxy.get("/install").query("portal=%F0%9F%98%80"),
        proxy.bare_request("").form("event=%00%ff&auth[domain]=[&auth[=&=&&"),
        proxy.bare_request("").form("AUTH_ID=&DOMAIN=%ff&member_id[]=x"),
    ];
    for method in ["GET", "HEAD", "POST", "OPTIONS", "", "é"] {
        requests.push(proxy.request(PROFILE).method(method).path("/status"));
        requests.push(proxy.request(PROFILE).method(method).path("/rest/1/x/profile"));
    }
    for request in requests {
        let answer = request.run();
        for text in [answer.text(), answer.stderr] {
            for word in ["panicked", "RUST_BACKTRACE", "internal error", "Internal error", ".rs:"] {
                assert!(!text.contains(word), "{text}");
            }
        }
    }
}
