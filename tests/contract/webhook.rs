//! Contract sections 2 and 3: a Bitrix24 incoming webhook with OAuth behind it.

use crate::fixture::*;
use serde_json::{json, Value};
use simulator::{Action, Auth, Fault, PortalOptions, Target};
use std::time::Duration;
use support::cgi::{Answer, Cgi};

const FORM: &str = "application/x-www-form-urlencoded";

/// A request to a webhook address: `method` as in `GET`, `call` as in `crm.deal.add.json?a=b`.
fn hook<'p>(proxy: &'p Proxy, method: &str, call: &str) -> Cgi<'p> {
    at(proxy, method, &format!("/rest/1/{TOKEN}/{call}"))
}

fn hook3<'p>(proxy: &'p Proxy, method: &str, call: &str) -> Cgi<'p> {
    at(proxy, method, &format!("/rest/api/1/{TOKEN}/{call}"))
}

fn at<'p>(proxy: &'p Proxy, method: &str, address: &str) -> Cgi<'p> {
    let (path, query) = address.split_once('?').unwrap_or((address, ""));
    Cgi::new(&proxy.sandbox).method(method).path(path).query(query)
}

/// What the portal read in the last call.
fn read(proxy: &Proxy) -> Value {
    proxy.simulator.ledger().last_call().expect("a call").call().expect("a call").params.clone()
}

/// Bitrix24's answer, to the byte, with its status and content type.
#[track_caller]
fn assert_passed_through(proxy: &Proxy, answer: &Answer) {
    let ledger = proxy.simulator.ledger();
    let entry = ledger.last_call().expect("a call reached the portal");
    let shown = format!("{} {}", answer.text(), answer.stderr);
    assert_eq!(Some(answer.status), entry.status, "{shown}");
    assert_eq!(answer.body, entry.answer, "{shown}");
}

/// An error of this program's own, in Bitrix24's shape.
#[track_caller]
fn assert_own_error(answer: &Answer, status: u16, code: &str) {
    let shown = format!("{} {}", answer.text(), answer.stderr);
    assert_eq!(answer.status, status, "{shown}");
    assert_eq!(answer.header("Content-Type"), Some("application/json; charset=utf-8"));
    let body = answer.json();
    assert_eq!(body["error"], code, "{shown}");
    assert!(body["error_description"].as_str().is_some_and(|text| text.len() > 10), "{shown}");
    assert_eq!(body.as_object().unwrap().len(), 2, "nothing else: {shown}");
}

#[test]
fn a_get_with_a_query_is_a_call() {
    let proxy = Proxy::installed();
    let answer =
        hook(&proxy, "GET", "crm.deal.Add.json?fields%5BTITLE%5D=%D0%A1%D1%82%D0%BE%D0%BB&fields[N][]=1&").run();
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    assert_passed_through(&proxy, &answer);
    assert_eq!(read(&proxy), json!({"fields": {"TITLE": "Стол", "N": ["1"]}}));
    let ledger = proxy.simulator.ledger();
    let entry = ledger.last_call().unwrap();
    assert_eq!(entry.path, "/rest/crm.deal.Add.json");
    assert_eq!(entry.query, "fields%5BTITLE%5D=%D0%A1%D1%82%D0%BE%D0%BB&fields[N][]=1&");
    assert_eq!(ledger.executed("crm.deal.add"), 1);
}

#[test]
fn the_access_token_goes_in_the_header_and_never_in_an_address_or_body() {
    let proxy = Proxy::installed();
    let stored = proxy.stored()["access_token"].as_str().unwrap().to_owned();
    for request in [
        hook(&proxy, "GET", "sim.echo?a=1"),
        hook(&proxy, "POST", "sim.echo").form("a=1"),
        hook(&proxy, "POST", "sim.echo?b=2").json(r#"{"a":1}"#),
        hook(&proxy, "POST", "sim.echo"),
        hook3(&proxy, "POST", "profile").json("{}"),
        hook3(&proxy, "GET", "profile"),
    ] {
        let answer = request.run();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let ledger = proxy.simulator.ledger();
        let entry = ledger.last_call().unwrap();
        assert_eq!(entry.http_method, "POST");
        assert_eq!(entry.call().unwrap().auth, Auth::Token(stored.clone()));
        let bearer = entry.headers.iter().find(|(name, _)| name == "authorization").map(|(_, value)| value.as_str());
        assert_eq!(bearer, Some(&*format!("Bearer {stored}")));
        let rest = format!("{}{}{}", entry.path, entry.query, String::from_utf8_lossy(&entry.body));
        assert!(!rest.contains(&stored) && !rest.contains(TOKEN), "{rest}");
        assert!(!answer.stderr.contains(TOKEN), "{}", answer.stderr);
    }
}

#[test]
fn query_and_body_count_together_as_in_php() {
    let proxy = Proxy::installed();
    hook(&proxy, "POST", "sim.echo?a=1&b=2").form("b=3&c=4").run();
    assert_eq!(read(&proxy), json!({"a": "1", "b": "3", "c": "4"}));
    hook(&proxy, "POST", "sim.echo?a=1&b=2&bx24_request_id=x").json(r#"{"b":null,"c":1.50}"#).run();
    assert_eq!(read(&proxy), json!({"a": "1", "b": null, "bx24_request_id": "x", "c": 1.5}));
}

#[test]
fn forms_json_and_multipart_arrive_byte_for_byte() {
    let proxy = Proxy::installed();
    let body = |proxy: &Proxy| String::from_utf8(proxy.simulator.ledger().last_call().unwrap().body.clone()).unwrap();
    hook(&proxy, "POST", "sim.echo").form("x=%d1%82+%&y[]=&y[]=&&").run();
    assert_eq!(body(&proxy), "x=%d1%82+%&y[]=&y[]=&&");
    hook(&proxy, "POST", "sim.echo").json(" {\"x\": 1.50,\n\"n\":null,\"\\u0439\":{} } ").run();
    assert_eq!(body(&proxy), "{\"x\": 1.50,\n\"n\":null,\"\\u0439\":{}}");
    let multipart = "--X\r\nContent-Disposition: form-data; name=\"fields[TITLE]\"\r\n\r\nСт\r\nол\r\n--X--\r\n";
    let post = hook(&proxy, "POST", "sim.echo").header("Content-Type", "multipart/form-data; boundary=X");
    assert_eq!(post.body(multipart).run().status, 200);
    assert_eq!(body(&proxy), multipart);
    assert_eq!(read(&proxy), json!({"fields": {"TITLE": "Ст\r\nол"}}));
}

#[test]
fn a_json_list_is_positional_parameters() {
    let proxy = Proxy::installed();
    let answer = hook(&proxy, "POST", "task.commentitem.add").json(r#"[7,{"POST_MESSAGE":"Да"}]"#).run();
    assert_eq!(answer.json()["result"], 7001, "{}", answer.text());
    assert_eq!(read(&proxy), json!([7, {"POST_MESSAGE": "Да"}]));
}

#[test]
fn json_is_read_only_under_its_content_type_and_must_be_json() {
    let proxy = Proxy::installed();
    hook(&proxy, "POST", "sim.echo?a=1").header("Content-Type", "text/plain").body(r#"{"b":2}"#).run();
    assert_eq!(read(&proxy), json!({"a": "1"}));
    let calls = proxy.simulator.ledger().entries.len();
    for broken in ["{\"fields\":", "{'a':1}", "\"text\"", "{\"a\":\"\\ud800\"}", "{\"a\":\"\u{1}\"}"] {
        let answer = hook(&proxy, "POST", "crm.deal.add").json(broken).run();
        assert_own_error(&answer, 400, "INVALID_REQUEST");
    }
    let answer = hook(&proxy, "POST", "crm.deal.add").json(b"{\"a\":\"\xcf\xf0\xe8\xe2\xe5\xf2\"}".to_vec()).run();
    assert_own_error(&answer, 400, "INVALID_REQUEST");
    assert!(answer.text().contains("windows-1251"));
    assert_eq!(proxy.simulator.ledger().entries.len(), calls, "nothing was sent");
}

#[test]
fn the_callers_auth_is_dropped_in_whatever_form_it_comes() {
    let proxy = Proxy::installed();
    let ours = Auth::Token(proxy.stored()["access_token"].as_str().unwrap().to_owned());
    let multipart = "--X\r\nContent-Disposition: form-data; name='auth'\r\n\r\nEVIL\r\n\
                     --X\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--X--\r\n";
    for request in [
        hook(&proxy, "GET", "sim.echo?auth=EVIL&a=1"),
        hook(&proxy, "GET", "sim.echo?a=1&%61uth%5Bx%5D=EVIL&access_token=EVIL"),
        hook(&proxy, "GET", "sim.echo?a=1&access.token=EVIL&access[token=EVIL&+auth=EVIL&auth%00x=EVIL"),
        hook(&proxy, "POST", "sim.echo?auth=EVIL").form("auth=EVIL&a=1&auth[]=EVIL"),
        hook(&proxy, "POST", "sim.echo?auth=EVIL").json(r#"{"auth":"EVIL","a":"1","\u0061uth":["EVIL"]}"#),
        hook(&proxy, "POST", "sim.echo").json(r#"{"a":"1","access_token":"EVIL"}"#),
        hook(&proxy, "POST", "sim.echo").header("Content-Type", "multipart/form-data; boundary=X").body(multipart),
    ] {
        let answer = request.run();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let ledger = proxy.simulator.ledger();
        let entry = ledger.last_call().unwrap();
        assert_eq!(entry.call().unwrap().auth, ours);
        assert!(!entry.contains("EVIL"), "{} {}", entry.query, String::from_utf8_lossy(&entry.body));
        assert_eq!(read(&proxy), json!({"a": "1"}));
    }
}

#[test]
fn only_auth_itself_is_dropped() {
    let proxy = Proxy::installed();
    hook(&proxy, "GET", "sim.echo?AUTH=1&author=2&fields[auth]=3&fields[access_token]=4").run();
    assert_eq!(read(&proxy), json!({"AUTH": "1", "author": "2", "fields": {"auth": "3", "access_token": "4"}}));
}

#[test]
fn what_may_not_stand_in_an_address_is_encoded_and_read_alike() {
    let proxy = Proxy::installed();
    let answer = hook(&proxy, "GET", "sim.echo?filter[>ID]=5&t=<\"Стол\"|{x}>&c=a\\b^`").run();
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    assert_eq!(read(&proxy), json!({"filter": {">ID": "5"}, "t": "<\"Стол\"|{x}>", "c": "a\\b^`"}));
}

#[test]
fn addresses_of_six_kilobytes_are_accepted_and_longer_ones_that_a_web_server_lets_through() {
    let proxy = Proxy::installed();
    for length in [6_000, 30_000] {
        let long = "x".repeat(length);
        assert_eq!(hook(&proxy, "GET", &format!("sim.echo?a={long}&")).run().status, 200);
        assert_eq!(read(&proxy), json!({"a": long}));
    }
}

#[test]
fn answers_pass_through_with_status_and_content_type() {
    let proxy = Proxy::installed();
    proxy.portal().seed("crm.deal", 60);
    for (call, status) in [
        ("crm.deal.list", 200),
        ("profile.json", 200),
        ("no.such.method", 404),
        ("user.current", 200),
        ("sim.oldstyle", 200),
        ("sim.emptyerror", 400),
        ("sim.numericerror", 400),
        ("sim.fail?status=500&error=INTERNAL_SERVER_ERROR", 500),
        ("sim.fail?status=403&error=insufficient_scope", 403),
        // The last of this method: it is not asked again for a while.
        ("sim.fail?status=429&error=OPERATION_TIME_LIMIT", 429),
    ] {
        let answer = hook(&proxy, "GET", call).run();
        assert_eq!(answer.status, status, "{call}: {} {}", answer.text(), answer.stderr);
        assert_passed_through(&proxy, &answer);
        assert_eq!(answer.header("Content-Type"), Some("application/json; charset=utf-8"));
        assert!(answer.header("X-Request-Id").is_some());
    }
    let page = hook(&proxy, "GET", "crm.deal.list").run().json();
    assert_eq!((&page["next"], &page["total"]), (&json!(50), &json!(60)));
    assert!(page["time"]["operating"].is_number());
}

#[test]
fn xml_is_answered_as_xml() {
    let proxy = Proxy::installed();
    for (call, status) in [("profile.xml", 200), ("no.such.method.XML", 404)] {
        let answer = hook(&proxy, "GET", call).run();
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_passed_through(&proxy, &answer);
        assert_eq!(answer.header("Content-Type"), Some("text/xml; charset=utf-8"));
    }
}

#[test]
fn other_http_methods_are_refused() {
    let proxy = Proxy::installed();
    for method in ["HEAD", "PUT", "DELETE", "PATCH"] {
        let answer = hook(&proxy, method, "crm.deal.add").run();
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("Allow"), Some("GET, POST"));
    }
    assert_own_error(&hook(&proxy, "PUT", "crm.deal.add").run(), 405, "METHOD_NOT_SUPPORTED");
    assert_eq!(proxy.simulator.ledger().all_calls().count(), 0);
}

#[test]
fn what_is_no_method_is_refused_before_anything_is_sent() {
    let proxy = Proxy::installed();
    for call in ["..", "crm deal", "crm%2Fdeal", "Сделка"] {
        assert_own_error(&hook(&proxy, "GET", call).run(), 400, "INVALID_REQUEST");
    }
    assert_eq!(proxy.simulator.ledger().entries.len(), 0);
}

#[test]
fn a_nearly_right_address_is_404_in_bitrix24s_shape_with_the_form_that_is_right() {
    let proxy = Proxy::installed();
    for (path, form) in [
        ("/rest".to_owned(), "/rest/1/TOKEN/METHOD"),
        ("/rest/".to_owned(), "/rest/1/TOKEN/METHOD"),
        (format!("/rest/{TOKEN}/profile"), "/rest/1/TOKEN/METHOD"),
        (format!("/rest//{TOKEN}/profile"), "/rest/1/TOKEN/METHOD"),
        (format!("/rest/1/{TOKEN}"), "/rest/1/TOKEN/METHOD"),
        (format!("/rest/1/{TOKEN}/"), "/rest/1/TOKEN/METHOD"),
        (format!("/rest/1/{TOKEN}//"), "/rest/1/TOKEN/METHOD"),
        (format!("/rest/1/{TOKEN}/crm.lead.add/crm.lead.add.json"), "/rest/1/TOKEN/METHOD"),
        (format!("/rest/1/{TOKEN}/rest/1/{TOKEN}/profile"), "/rest/1/TOKEN/METHOD"),
        ("/rest/profile.json".to_owned(), "/rest/1/TOKEN/METHOD"),
        (format!("/acme/rest/{TOKEN}/profile"), "/PORTAL/rest/1/TOKEN/METHOD"),
        ("/nobody.example/rest/".to_owned(), "/PORTAL/rest/1/TOKEN/METHOD"),
    ] {
        for method in ["GET", "POST", "PUT", "OPTIONS"] {
            let answer = at(&proxy, method, &path).query("auth=x").run();
            assert_own_error(&answer, 404, "NOT_FOUND");
            assert!(answer.text().contains(form), "{path}: {}", answer.text());
            assert!(!answer.text().contains(TOKEN) && !answer.stderr.contains(TOKEN), "{path}: {}", answer.stderr);
        }
    }
    for (path, form) in [
        (format!("/rest/api/{TOKEN}/profile"), "/rest/api/1/TOKEN/METHOD"),
        ("/rest/api/".to_owned(), "/rest/api/1/TOKEN/METHOD"),
        (format!("/acme/rest/api/1/{TOKEN}"), "/PORTAL/rest/api/1/TOKEN/METHOD"),
    ] {
        let answer = at(&proxy, "POST", &path).json("{}").run();
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, &error["code"]), (404, &json!("BITRIX_REST_V3_EXCEPTION_METHODNOTFOUNDEXCEPTION")));
        assert!(error["message"].as_str().unwrap().contains(form), "{error}");
        assert!(!answer.text().contains(TOKEN) && !answer.stderr.contains(TOKEN), "{}", answer.stderr);
    }
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
    let broken = Proxy::installed().configured("nonsense");
    assert_own_error(&at(&broken, "GET", "/rest/1").run(), 500, "CONFIGURATION_ERROR");
}

#[test]
fn a_body_of_a_type_that_bitrix24_does_not_read_is_400_that_names_it() {
    let proxy = Proxy::installed();
    let typed = |call: &str, content_type: Option<&str>, body: &str| {
        let request = hook(&proxy, "POST", call).body(body);
        match content_type {
            Some(content_type) => request.header("Content-Type", content_type).run(),
            None => request.run(),
        }
    };
    let deal = r#"{"fields":{"TITLE":"A"}}"#;
    for unread in ["text/json", "text/plain;charset=UTF-8", "application/octet-stream", "application/xml", "json"] {
        for query in ["", "?", "?auth=x", "?bx24_request_id=7", "?&"] {
            let answer = typed(&format!("crm.deal.add{query}"), Some(unread), deal);
            assert_own_error(&answer, 400, "INVALID_REQUEST");
            assert!(answer.text().contains(unread), "{}", answer.text());
        }
    }
    for none in [None, Some("")] {
        let answer = typed("crm.deal.add", none, deal);
        assert_own_error(&answer, 400, "INVALID_REQUEST");
        assert!(answer.text().contains("no Content-Type"), "{}", answer.text());
    }
    let answer = hook(&proxy, "GET", "crm.deal.add").header("Content-Type", "text/json").body(deal).run();
    assert_own_error(&answer, 400, "INVALID_REQUEST");
    let answer = hook3(&proxy, "POST", "tasks.task.add").header("Content-Type", "text/json").body(deal).run();
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(proxy.simulator.ledger().all_calls().count(), 0, "nothing was sent");
    // The query is what Bitrix24 would read; and what it does read stays as it is.
    assert_eq!(typed("sim.echo?a=1", Some("text/json"), r#"{"b":2}"#).status, 200);
    assert_eq!(read(&proxy), json!({"a": "1"}));
    assert_eq!(typed("sim.echo", Some("text/json"), "").status, 200);
    assert_eq!(typed("sim.echo", Some("Application/JSON; charset=utf-8"), r#"{"b":2}"#).status, 200);
    assert_eq!(read(&proxy), json!({"b": 2}));
    assert_eq!(typed("sim.echo", Some("application/x-www-form-urlencoded charset=utf-8"), "b=2").status, 200);
    assert_eq!(read(&proxy), json!({"b": "2"}));
}

#[test]
fn a_batch_whose_type_is_not_read_is_refused_for_a_client_with_methods_too() {
    let proxy = Proxy::installed();
    let client = format!("[[security.clients]]\nname = \"c\"\ntoken = \"{TOKEN}\"\nmethods = [\"crm.*\", \"batch\"]");
    let proxy = proxy.reconfigured(&format!("auth_token = \"{TOKEN}\""), &client);
    let answer = hook(&proxy, "POST", "batch").header("Content-Type", "text/json").body(r#"{"cmd":["crm.deal.list"]}"#);
    assert_own_error(&answer.run(), 400, "INVALID_REQUEST");
    assert_eq!(proxy.simulator.ledger().all_calls().count(), 0);
}

#[test]
fn a_client_of_several_portals_puts_the_name_before_rest() {
    let proxy = Proxy::installed();
    let second = proxy.simulator.add_portal(PortalOptions::default());
    let config = format!("{}\n[portals.\"{}\"]\naliases = [\"second\"]\n", proxy.config(), second.name());
    let proxy = proxy.configured(&config);
    let pair = second.issue_pair(1);
    let file = format!("{}.json", second.name().replace(':', "_"));
    let tokens = token_file(&pair, proxy.simulator.client_id(), unix_now() + 3600);
    proxy.sandbox.write_token_file(&file, &tokens.to_string());

    let answer = hook(&proxy, "GET", "profile").run();
    assert_own_error(&answer, 400, "INVALID_REQUEST");
    assert!(answer.text().contains("/rest/"), "{}", answer.text());
    for portal in [second.name(), "second".into(), "SECOND".into()] {
        for version in ["", "api/"] {
            let answer = at(&proxy, "POST", &format!("/{portal}/rest/{version}1/{TOKEN}/profile")).json("{}").run();
            assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
            assert_eq!(proxy.simulator.ledger().last_call().unwrap().listener, second.name());
        }
    }
    let sent = proxy.simulator.ledger().entries.len();
    let answer = at(&proxy, "GET", &format!("/evil.example.com/rest/1/{TOKEN}/profile")).run();
    assert_own_error(&answer, 404, "UNKNOWN_PORTAL");
    assert_eq!(proxy.simulator.ledger().entries.len(), sent);
}

#[test]
fn a_client_of_one_portal_among_several_need_not_name_it() {
    let proxy = Proxy::installed();
    let name = proxy.portal().name();
    let proxy = proxy.reconfigured(
        &format!("auth_token = \"{TOKEN}\""),
        &format!("[[security.clients]]\nname = \"c\"\ntoken = \"{TOKEN}\"\nportals = [\"{name}\"]"),
    );
    let config = format!("{}\n[portals.\"other.bitrix24.ru\"]\n", proxy.config());
    let proxy = proxy.configured(&config);
    assert_eq!(hook(&proxy, "GET", "profile").run().status, 200);
    let answer = at(&proxy, "GET", &format!("/other.bitrix24.ru/rest/1/{TOKEN}/profile")).run();
    assert_own_error(&answer, 403, "FORBIDDEN");
}

#[test]
fn a_wrong_token_is_401_no_auth_found() {
    let proxy = Proxy::installed();
    for path in ["/rest/1/wrong-token-wrong-token/profile", "/rest/1/%20/profile"] {
        let answer = at(&proxy, "GET", path).run();
        assert_own_error(&answer, 401, "NO_AUTH_FOUND");
    }
    // A right token elsewhere does not help.
    let answer = at(&proxy, "GET", "/rest/1/wrong-token-wrong-token/profile").bearer(TOKEN).run();
    assert_own_error(&answer, 401, "NO_AUTH_FOUND");
    assert!(answer.text().contains("The token in this address"), "{}", answer.text());
    assert_eq!(proxy.simulator.ledger().entries.len(), 0);
}

#[test]
fn not_installed_is_403_not_installed() {
    let proxy = Proxy::not_installed();
    assert_own_error(&hook(&proxy, "GET", "profile").run(), 403, "NOT_INSTALLED");
}

#[test]
fn what_certainly_was_not_executed_is_503() {
    let proxy = Proxy::installed();
    proxy.portal().stop();
    assert_own_error(&hook(&proxy, "POST", "crm.deal.add").form("a=1").run(), 503, "BITRIX24_UNREACHABLE");
    proxy.portal().start().unwrap();

    proxy.portal().set_bucket(0.01, 1.0);
    let proxy = proxy.reconfigured("max_wait = 5", "max_wait = 1");
    assert_eq!(hook(&proxy, "GET", "profile").run().status, 200);
    let answer = hook(&proxy, "POST", "crm.deal.add").form("a=1").run();
    assert_own_error(&answer, 503, "QUERY_LIMIT_EXCEEDED");
    assert!(answer.header("Retry-After").is_some());
    proxy.portal().remove_bucket();

    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    proxy.simulator.inject(Fault::once(Target::Token, Action::Html500));
    assert_own_error(&hook(&proxy, "POST", "crm.deal.add").form("a=1").run(), 503, "OAUTH_SERVER_ERROR");
    assert_eq!(proxy.simulator.ledger().executed("crm.deal.add"), 0);
}

#[test]
fn what_may_have_been_executed_is_409_and_executed_once() {
    for (fault, executed) in [
        (Action::CloseBefore, 0),
        (Action::CloseAfter, 1),
        (Action::CloseMidAnswer, 1),
        (Action::TruncateJson, 1),
        (Action::Html500, 0),
        (Action::ExecuteThenStatus { status: 502, content_type: "text/html".into(), body: "<html>".into() }, 1),
        (Action::ExecuteThenStatus { status: 200, content_type: "text/html".into(), body: String::new() }, 1),
        (Action::Raw(b"nonsense\r\n\r\n".to_vec()), 1),
    ] {
        let proxy = Proxy::installed();
        proxy.simulator.inject(Fault::once(Target::Method("crm.deal.add".into()), fault.clone()));
        let answer = hook(&proxy, "POST", "crm.deal.add").json(r#"{"fields":{"TITLE":"once"}}"#).run();
        assert_own_error(&answer, 409, "OUTCOME_UNKNOWN");
        let ledger = proxy.simulator.ledger();
        assert_eq!((ledger.calls("crm.deal.add"), ledger.executed("crm.deal.add")), (1, executed), "{fault:?}");
    }
}

#[test]
fn an_answer_that_never_comes_is_409_within_the_time_limit() {
    let proxy = Proxy::installed().reconfigured("timeout       = 10", "timeout       = 2");
    proxy.simulator.inject(Fault::once(Target::Method("crm.deal.add".into()), Action::HangAfter));
    let answer = hook(&proxy, "POST", "crm.deal.add").form("a=1").run();
    assert_own_error(&answer, 409, "OUTCOME_UNKNOWN");
    assert!(answer.elapsed < Duration::from_secs(5), "{:?}", answer.elapsed);
    assert_eq!(proxy.simulator.ledger().executed("crm.deal.add"), 1);
    proxy.simulator.release();
}

#[test]
fn an_expired_access_token_is_renewed_and_never_shown_to_the_client() {
    let proxy = Proxy::installed();
    proxy.portal().expire_access_tokens();
    let answer = hook(&proxy, "POST", "crm.deal.add").json("{}").run();
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    let ledger = proxy.simulator.ledger();
    assert_eq!((ledger.refreshes(), ledger.calls("crm.deal.add"), ledger.executed("crm.deal.add")), (1, 2, 1));
    proxy.portal().expire_access_tokens();
    let answer = hook3(&proxy, "POST", "profile").json("{}").run();
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    assert_eq!(proxy.simulator.ledger().last_call().unwrap().call().unwrap().version, 3, "the repeat too");
}

#[test]
fn the_rate_limit_is_waited_for_at_most_eight_seconds() {
    let proxy = Proxy::installed().reconfigured("max_wait = 5", "max_wait = 20");
    let proxy = proxy.reconfigured("timeout       = 10", "timeout       = 30");
    proxy.portal().set_bucket(0.5, 1.0);
    assert_eq!(hook(&proxy, "GET", "profile").run().status, 200);
    assert_eq!(hook(&proxy, "GET", "profile").run().status, 200, "after two seconds there is room");
    proxy.portal().set_bucket(0.001, 1.0);
    assert_eq!(hook(&proxy, "GET", "profile").run().status, 200);
    let answer = hook(&proxy, "GET", "profile").run();
    assert_own_error(&answer, 503, "QUERY_LIMIT_EXCEEDED");
    assert!(answer.elapsed < Duration::from_secs(10), "clients give up after ten seconds: {:?}", answer.elapsed);
}

#[test]
fn a_batch_passes_through_in_every_shape() {
    let proxy = Proxy::installed();
    for request in [
        hook(&proxy, "GET", "batch?halt=0&cmd[a]=crm.deal.add%3Ffields%5BTITLE%5D%3DA&cmd[b]=profile"),
        hook(&proxy, "POST", "batch.json").form("cmd[a]=crm.deal.add%3Ffields%5BTITLE%5D%3DA&cmd[b]=profile"),
        hook(&proxy, "POST", "batch?bx24_request_id=1")
            .json(r#"{"halt":0,"cmd":{"a":"crm.deal.add?fields[TITLE]=A","b":"profile"}}"#),
    ] {
        let answer = request.run();
        assert_passed_through(&proxy, &answer);
        assert_eq!(answer.json()["result"]["result"]["b"]["ID"], "1", "{}", answer.text());
    }
    let answer = hook(&proxy, "POST", "batch").json(r#"{"cmd":["profile","user.admin"]}"#).run();
    assert_eq!(answer.json()["result"]["result"][1], true, "{}", answer.text());
    assert_eq!(proxy.simulator.ledger().executed("crm.deal.add"), 3);
}

#[test]
fn rest_3_takes_json_and_its_batch_as_list_and_map() {
    let proxy = Proxy::installed();
    let answer = hook3(&proxy, "POST", "tasks.task.add").json(r#"{"fields":{"title":"Задача"}}"#).run();
    assert_eq!(answer.json()["result"]["item"]["title"], "Задача", "{}", answer.text());
    for body in [
        r#"[{"method":"tasks.task.get","query":{"id":1}},{"method":"profile"}]"#,
        r#" [{"method":"tasks.task.get","query":{"id":1}},{"method":"profile"}]"#,
        r#"{"0":{"method":"tasks.task.get","query":{"id":1}},"1":{"method":"profile"}}"#,
    ] {
        let answer = hook3(&proxy, "POST", "batch").json(body).run();
        assert_passed_through(&proxy, &answer);
        assert_eq!(answer.json()["result"][0]["item"]["title"], "Задача", "{body}: {}", answer.text());
        let ledger = proxy.simulator.ledger();
        assert_eq!(ledger.last_call().unwrap().call().unwrap().commands.len(), 2);
    }
    let answer = hook3(&proxy, "POST", "tasks.task.get").json(r#"{"id":99}"#).run();
    assert_eq!(answer.status, 404);
    assert_passed_through(&proxy, &answer);
}

#[test]
fn rest_3_hears_this_programs_errors_in_its_own_shape() {
    let proxy = Proxy::not_installed();
    let answer = hook3(&proxy, "POST", "profile").json("{}").run();
    assert_eq!(answer.status, 403);
    assert_eq!(answer.json()["error"]["code"], "NOT_INSTALLED");
    assert!(answer.json()["error"]["message"].is_string());
    let answer = at(&proxy, "POST", "/rest/api/1/wrong-token-wrong-token/profile").json("{}").run();
    let code = |answer: &Answer| answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned();
    assert_eq!((answer.status, code(&answer).as_str()), (401, "BITRIX_REST_V3_EXCEPTION_ACCESSDENIEDEXCEPTION"));
    let answer = hook3(&proxy, "POST", "profile").header("Content-Type", FORM).body("a=1").run();
    let invalid = "BITRIX_REST_V3_EXCEPTION_VALIDATION_REQUESTVALIDATIONEXCEPTION";
    assert_eq!((answer.status, code(&answer).as_str()), (400, invalid));
    let proxy = proxy.reconfigured("[security]", "[security]\nallowed_ips = []");
    let answer = hook3(&proxy, "POST", "profile").json("{}").run();
    assert_eq!((answer.status, code(&answer).as_str()), (403, "BITRIX_REST_V3_EXCEPTION_ACCESSDENIEDEXCEPTION"));
    let answer = hook3(&proxy, "PUT", "profile").run();
    assert_eq!((answer.status, code(&answer).as_str()), (405, "METHOD_NOT_SUPPORTED"));
}

#[test]
fn an_idempotency_key_goes_on_to_rest_3_only() {
    let proxy = Proxy::installed();
    let add = |key: &str| {
        let answer = hook3(&proxy, "POST", "tasks.task.add")
            .header("Idempotency-Key", key)
            .json(r#"{"fields":{"title":"A"}}"#)
            .run();
        (answer.status, answer.header("Idempotent-Replayed").map(str::to_owned))
    };
    assert_eq!(add("k 1"), (200, None));
    assert_eq!(add("k 1"), (200, Some("true".to_owned())), "Bitrix24's own header passes through");
    assert_eq!(proxy.simulator.ledger().executed("tasks.task.add"), 1);
    hook(&proxy, "POST", "sim.echo").header("Idempotency-Key", "k2").form("a=1").run();
    assert_eq!(proxy.simulator.ledger().last_call().unwrap().header("Idempotency-Key"), None);
}

#[test]
fn a_portal_may_itself_be_a_webhook() {
    let proxy = Proxy::not_installed();
    let name = proxy.portal().name();
    let section = format!("[portals.\"{name}\"]");
    let url = proxy.portal().webhook_url();
    let proxy = proxy.reconfigured(&section, &format!("{section}\nwebhook = \"{url}\""));
    let answer = hook(&proxy, "POST", "sim.echo?auth=EVIL&auth%00=EVIL").form("auth=EVIL&a=1").run();
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    assert_passed_through(&proxy, &answer);
    assert_eq!(read(&proxy), json!({"a": "1"}));
    assert!(!proxy.simulator.ledger().last_call().unwrap().contains("EVIL"));
}

#[test]
fn an_address_that_may_not_call_is_refused_before_the_body_is_read() {
    let proxy = Proxy::installed().reconfigured("[limits]", "allowed_ips = [\"192.0.2.0/24\"]\n\n[limits]");
    assert_own_error(&hook(&proxy, "POST", "crm.deal.add").json("{broken").run(), 403, "FORBIDDEN");
    let answer = hook(&proxy, "GET", "profile").env("REMOTE_ADDR", "192.0.2.7").run();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_body_that_is_too_large_is_413() {
    let proxy = Proxy::installed().reconfigured("max_wait = 5", "max_wait = 5\nmax_body = \"1 KiB\"");
    let answer = hook(&proxy, "POST", "sim.echo").json(format!("{{\"a\":\"{}\"}}", "x".repeat(2000))).run();
    assert_own_error(&answer, 413, "BODY_TOO_LARGE");
}

#[test]
fn a_status_that_http_does_not_have_is_502_with_the_body_as_it_came() {
    let proxy = Proxy::installed();
    for status in [600, 999] {
        let body = r#"{"error":"X","error_description":"y"}"#;
        let raw = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        proxy.simulator.inject(Fault::once(Target::Call, Action::RawInstead(raw.into_bytes())));
        let answer = proxy.get(&format!("/rest/1/{TOKEN}/profile")).run();
        assert_eq!((answer.status, answer.text().as_str()), (502, body));
    }
}
