//! Contract section 10: events from Bitrix24.

use crate::fixture::*;
use crate::visitor::*;
use serde_json::{json, Value};
use simulator::{Action, Fault, PortalOptions, Target};
use std::time::{Duration, Instant};
use support::cgi::{Answer, Cgi};

/// What `bind` would have registered the address with.
const KEY: &str = "0123456789abcdef0123456789abcdef";
/// A token of a second client.
const OTHER: &str = "another-client-token-for-tests";

/// With the portal's `application_token` stored.
fn by_token() -> Proxy {
    let proxy = Proxy::installed();
    proxy.change_stored(|tokens| tokens["application_token"] = proxy.portal().application_token().into());
    proxy
}

/// With the key of the registered address stored, as after `/install`.
fn by_key() -> Proxy {
    let proxy = Proxy::installed();
    proxy.change_stored(|tokens| tokens["events_key"] = KEY.into());
    proxy
}

fn with_client(proxy: Proxy, lines: &str) -> Proxy {
    let config = format!("{}\n[[security.clients]]\nname = \"other\"\ntoken = \"{OTHER}\"\n{lines}\n", proxy.config());
    proxy.configured(&config)
}

fn deal(proxy: &Proxy, id: u32) -> String {
    proxy.portal().report("ONCRMDEALADD", &[("[FIELDS][ID]", &id.to_string())])
}

fn post_to(proxy: &Proxy, query: &str, form: &str) -> Answer {
    Cgi::new(&proxy.sandbox).query(query).form(form).run()
}

#[track_caller]
fn taken(answer: &Answer) {
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"status":"ok"}"#), "{}", answer.stderr);
}

fn asked_as(proxy: &Proxy, token: &str, events: &Value) -> Answer {
    Cgi::new(&proxy.sandbox)
        .method("POST")
        .json(json!({"domain": "acme", "events": events}).to_string())
        .bearer(token)
        .run()
}

fn asked(proxy: &Proxy, events: &Value) -> Answer {
    asked_as(proxy, TOKEN, events)
}

/// `data` of a success.
#[track_caller]
fn data(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    let mut body = answer.json();
    assert_eq!(body["success"], true);
    body["data"].take()
}

fn numbers(data: &Value) -> Vec<u64> {
    data["events"].as_array().expect("events").iter().map(|event| event["number"].as_u64().expect("a number")).collect()
}

#[test]
fn an_event_is_kept_and_read_as_posted_with_its_number_and_time() {
    let proxy = by_token();
    let names = [("[FIELDS][ID]", "7"), ("[FIELDS][TITLE]", "Ёлка \"и\" \\ &\n"), ("[LIST][]", "a"), ("[LIST][]", "b")];
    taken(&proxy.post_event(&proxy.portal().report("onCrmDealUpdate", &names)));
    taken(&proxy.post_event(&deal(&proxy, 8)));
    let found = data(&asked(&proxy, &json!({})));
    let at = |i: usize| found["events"][i]["at"].as_i64().expect("Unix seconds");
    assert_eq!(
        found,
        json!({"events": [
            {"number": 1, "event": "onCrmDealUpdate", "at": at(0),
             "data": {"FIELDS": {"ID": "7", "TITLE": "Ёлка \"и\" \\ &\n"}, "LIST": {"0": "a", "1": "b"}}},
            {"number": 2, "event": "ONCRMDEALADD", "at": at(1), "data": {"FIELDS": {"ID": "8"}}},
        ], "last": 2, "lost": 0})
    );
    assert!((at(0) - unix_now()).abs() < 20 && at(1) >= at(0), "{found}");
    assert_eq!(data(&asked(&proxy, &json!({"after": 0, "most": 100, "wait": 0}))), found, "nothing is consumed");
    assert_eq!(proxy.simulator.ledger().all_connections(), 0, "Bitrix24 is not asked");
}

#[test]
fn of_tokens_in_an_event_none_is_kept_anywhere() {
    let proxy = by_token();
    let form = deal(&proxy, 1);
    taken(&proxy.post_event(&form));
    let found = asked(&proxy, &json!({}));
    assert_eq!(numbers(&data(&found)), [1]);
    let posted: Vec<(String, String)> = serde_urlencoded::from_str(&form).unwrap();
    let secrets: Vec<&String> = posted
        .iter()
        .filter(|(name, _)| ["auth[access_token]", "auth[refresh_token]"].contains(&name.as_str()))
        .map(|(_, v)| v)
        .collect();
    assert_eq!(secrets.len(), 2);
    let kept = match proxy.sandbox.database() {
        Some(database) => database.texts(),
        None => folder_text(&proxy.sandbox.tokens()),
    };
    assert!(kept.contains("ONCRMDEALADD"), "{kept}");
    for secret in secrets {
        assert!(!kept.contains(secret) && !found.text().contains(secret) && !found.stderr.contains(secret));
    }
}

/// All that lies in the files below.
fn folder_text(folder: &std::path::Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        text += &match entry.path().is_dir() {
            true => folder_text(&entry.path()),
            false => String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()).into_owned(),
        };
    }
    text
}

#[test]
fn an_event_that_is_not_believed_is_answered_200_logged_and_not_kept() {
    let proxy = by_token();
    let token = proxy.portal().application_token();
    let form = deal(&proxy, 1);
    let member = proxy.portal().member_id();
    let stored = proxy.stored_bytes();
    proxy.simulator.clear_ledger();
    let mut wrong = vec![
        form.replace(&token, ""),
        form.replace(&token, &token[1..]),
        form.replace(&token, &token.to_uppercase().replace(char::is_numeric, "F")),
        form.replace(&format!("member_id%5D={member}"), "member_id%5D=other"),
        form.replace(&format!("member_id%5D={member}"), "member_id%5D="),
        "event=ONCRMDEALADD".to_owned(),
        format!("event=ONCRMDEALADD&auth[domain]={}&auth[member_id]={member}", proxy.portal().name()),
        format!("event=ONCRMDEALADD&auth[member_id][]={member}&auth[application_token][]={token}"),
        format!("event=&auth[member_id]={member}&auth[application_token]={token}"),
        format!("event=A+B&auth[member_id]={member}&auth[application_token]={token}"),
    ];
    wrong.retain(|other| *other != form);
    for form in &wrong {
        for query in ["", "events=", "events=0", &format!("events={KEY}"), "events[]=x"] {
            let answer = post_to(&proxy, query, form);
            taken(&answer);
            assert!(
                answer.stderr.contains("not believed") && !answer.stderr.contains("\"number\""),
                "{}",
                answer.stderr
            );
        }
    }
    assert_eq!(data(&asked(&proxy, &json!({}))), json!({"events": [], "last": 0, "lost": 0}));
    assert_eq!(proxy.stored_bytes(), stored);
    assert_eq!(proxy.simulator.ledger().all_connections(), 0, "nobody is asked for a stranger");
    if proxy.sandbox.database().is_none() {
        assert!(!proxy.sandbox.tokens().join("events").exists());
    }
    assert!(proxy.post_event(&form).stderr.contains("\"number\":1"));
}

#[test]
fn where_no_application_token_is_stored_the_key_of_the_address_is_believed_with_the_member_id() {
    let proxy = by_key();
    assert_eq!(proxy.stored()["application_token"], "");
    let right = format!("events={KEY}");
    for wrong in ["", "events=", "events=0123456789abcdef0123456789abcdee", "events=0123456789abcdef", "Events=x"] {
        taken(&post_to(&proxy, wrong, &deal(&proxy, 1)));
    }
    let member = proxy.portal().member_id();
    taken(&post_to(&proxy, &right, &deal(&proxy, 1).replace(&member, "another-bitrix24")));
    assert_eq!(numbers(&data(&asked(&proxy, &json!({})))), [0; 0]);
    assert_eq!(proxy.stored()["application_token"], "", "what strangers post changes nothing");

    taken(&post_to(&proxy, &right, &deal(&proxy, 2)));
    assert_eq!(proxy.stored()["application_token"], proxy.portal().application_token(), "it is then stored");
    // From now on by the token alone.
    taken(&proxy.post_event(&deal(&proxy, 3)));
    let found = data(&asked(&proxy, &json!({})));
    assert_eq!((numbers(&found), &found["events"][0]["data"]["FIELDS"]["ID"]), (vec![1, 2], &json!("2")));
}

#[test]
fn by_the_key_an_application_that_was_added_again_is_believed_and_its_token_replaces_the_stored() {
    let proxy = by_key();
    let right = format!("events={KEY}");
    taken(&post_to(&proxy, &right, &deal(&proxy, 1)));
    let first = proxy.portal().application_token();
    proxy.portal().set_application_token("0a1b2c3d4e5f0a1b2c3d4e5f0a1b2c3d");
    taken(&proxy.post_event(&deal(&proxy, 2)));
    assert_eq!(proxy.stored()["application_token"], first, "not without the key");
    taken(&post_to(&proxy, &right, &deal(&proxy, 3)));
    assert_eq!(proxy.stored()["application_token"], "0a1b2c3d4e5f0a1b2c3d4e5f0a1b2c3d");
    taken(&proxy.post_event(&deal(&proxy, 4)));
    let without_token = deal(&proxy, 5).replace("0a1b2c3d4e5f0a1b2c3d4e5f0a1b2c3d", "");
    taken(&post_to(&proxy, &right, &without_token));
    assert_eq!(proxy.stored()["application_token"], "0a1b2c3d4e5f0a1b2c3d4e5f0a1b2c3d", "an empty one replaces none");
    let ids: Vec<Value> = data(&asked(&proxy, &json!({})))["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["data"]["FIELDS"]["ID"].clone())
        .collect();
    assert_eq!(ids, ["1", "3", "4", "5"]);
}

#[test]
fn the_portal_is_found_by_its_member_id_so_that_a_renamed_one_is_known() {
    let proxy = by_token();
    let other = proxy
        .simulator
        .add_portal(PortalOptions { member_id: Some("of-another-bitrix24".into()), ..PortalOptions::default() });
    let config = format!("{}\n[portals.\"{}\"]\n", proxy.config(), other.name());
    let proxy = proxy.configured(&config);
    let name = proxy.portal().name().replace(':', "%3A");
    let form = deal(&proxy, 1);
    assert!(form.contains(&format!("domain%5D={name}")), "{form}");
    for domain in ["new-name.bitrix24.ru", "", &other.name()] {
        taken(&proxy.post_event(&form.replace(&format!("domain%5D={name}"), &format!("domain%5D={domain}"))));
    }
    assert_eq!(numbers(&data(&asked(&proxy, &json!({})))), [1, 2, 3]);
    let of_other = json!({"domain": other.name(), "events": {}}).to_string();
    assert_eq!(numbers(&data(&proxy.request(of_other).run())), [0; 0]);
}

#[test]
fn a_new_installation_keeps_the_key_the_application_token_the_events_and_their_numbers() {
    let proxy = by_key();
    let right = format!("events={KEY}");
    taken(&post_to(&proxy, &right, &deal(&proxy, 1)));
    let before = proxy.stored();
    page(&proxy.install_in_browser(1), 200);
    let now = proxy.stored();
    assert_ne!(now["refresh_token"], before["refresh_token"]);
    for name in ["events_key", "application_token", "member_id"] {
        assert_eq!(now[name], before[name], "{name}");
    }
    taken(&post_to(&proxy, &right, &deal(&proxy, 2)));
    assert_eq!(numbers(&data(&asked(&proxy, &json!({})))), [1, 2]);
    proxy.portal().expire_access_tokens();
    proxy.change_stored(|tokens| tokens["expires_at"] = 0.into());
    assert_eq!(proxy.call("profile", json!({})).status, 200);
    assert_eq!(proxy.stored()["events_key"], KEY, "a refresh keeps it too");
}

#[test]
fn where_an_event_cannot_be_kept_the_answer_is_500() {
    let proxy = by_token().on_files();
    taken(&proxy.post_event(&deal(&proxy, 1)));
    let mailbox = proxy.sandbox.tokens().join("events").join(proxy.stem());
    let state = mailbox.join("state");
    let set = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    set(&state, 0o400);
    let answer = proxy.post_event(&deal(&proxy, 2));
    assert_failure(&answer, 500, "storage_error");
    assert!(!answer.text().contains("tokens/events"), "details are for the log: {}", answer.text());
    set(&state, 0o600);
    assert_failure(&proxy.run_full(&deal(&proxy, 3)), 500, "storage_error");
    taken(&proxy.post_event(&deal(&proxy, 4)));
    let found = data(&asked(&proxy, &json!({})));
    assert_eq!((numbers(&found), &found["events"][1]["data"]["FIELDS"]["ID"]), (vec![1, 2], &json!("4")));
}

impl Proxy {
    /// An event, with files that may not grow: as on a full disk.
    fn run_full(&self, form: &str) -> Answer {
        self.run_behind("ulimit -f 0\ntrap '' XFSZ");
        let answer = self.post_event(form);
        self.run_behind("");
        answer
    }
}

#[test]
fn files_of_events_are_their_owners_alone() {
    let proxy = by_token().on_files();
    taken(&proxy.post_event(&deal(&proxy, 1)));
    let folder = proxy.sandbox.tokens().join("events");
    let mode = |path: &std::path::Path| {
        std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o7777
    };
    assert_eq!((mode(&folder), mode(&folder.join(proxy.stem()))), (0o700, 0o700));
    let files: Vec<_> =
        std::fs::read_dir(folder.join(proxy.stem())).unwrap().flatten().map(|entry| entry.path()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(files.iter().all(|file| mode(file) == 0o600));
    let check = proxy.sandbox.command_line(&["status", "--json"]).output().unwrap();
    assert!(check.status.success(), "other commands pass over them: {}", String::from_utf8_lossy(&check.stderr));
}

#[test]
fn hostile_forms_are_read_as_php_reads_them_or_not_at_all() {
    let proxy = by_token();
    let (member, token) = (proxy.portal().member_id(), proxy.portal().application_token());
    let post = |data: &str| {
        proxy.post_event(&format!("event=ONX&{data}&auth%5Bmember_id%5D={member}&auth[application_token]={token}"))
    };
    let deep = format!("data{}=1", "[a]".repeat(5000));
    let many = "data[a]=1&data[b]=2&".repeat(3000);
    for form in [
        &deep,
        "data=x",
        "data[=1",
        "data[a=1",
        "data[]]=1",
        "data[%00]=1&data[a%00b]=%00",
        "data[\u{202e}]=%ff%fe",
        &many,
    ] {
        taken(&post(form));
    }
    assert_eq!(post(&format!("data[a]={}", "x".repeat(64 << 10))).status, 413);
    let found = data(&asked(&proxy, &json!({})));
    let all: Vec<String> = found["events"].as_array().unwrap().iter().map(|event| event["data"].to_string()).collect();
    assert_eq!(
        all,
        [
            "{}",
            "{}",
            "{}",
            "{}",
            r#"{"0":"1"}"#,
            r#"{}"#,
            "{\"\u{202e}\":\"\u{fffd}\u{fffd}\"}",
            r#"{"a":"1","b":"2"}"#
        ]
    );
}

#[test]
fn those_behind_a_number_are_answered_at_most_so_many_and_an_unknown_number_is_answered_as_0() {
    let proxy = by_token();
    for id in 1..=5 {
        taken(&proxy.post_event(&deal(&proxy, id)));
    }
    for (events, expected, last) in [
        (json!({"after": 0, "most": 2}), vec![1, 2], 2),
        (json!({"after": 2, "most": 2}), vec![3, 4], 4),
        (json!({"after": 4}), vec![5], 5),
        (json!({"after": 5}), vec![], 5),
        (json!({"after": 6, "most": 1}), vec![1], 1),
        (json!({"after": 18_446_744_073_709_551_615_u64, "most": 1}), vec![1], 1),
    ] {
        let found = data(&asked(&proxy, &events));
        assert_eq!(
            (numbers(&found), found["last"].as_u64(), found["lost"].as_u64()),
            (expected, Some(last), Some(0)),
            "{events}"
        );
    }
    for wrong in [
        json!({"most": 0}),
        json!({"most": 1001}),
        json!({"after": -1}),
        json!({"after": "1"}),
        json!([]),
        json!({"x": 1}),
    ] {
        assert_failure(&asked(&proxy, &wrong), 400, "invalid_request");
    }
    let with_key =
        proxy.request(json!({"domain": "acme", "events": {}}).to_string()).header("Idempotency-Key", "k").run();
    assert_failure(&with_key, 400, "invalid_request");
}

#[test]
fn the_oldest_go_first_and_those_that_are_lost_are_counted() {
    let proxy = by_token();
    let config = format!("{}\n[events]\nmax = 3\n", proxy.config());
    let proxy = proxy.configured(&config);
    for id in 1..=5 {
        taken(&proxy.post_event(&deal(&proxy, id)));
    }
    let found = data(&asked(&proxy, &json!({"after": 1})));
    assert_eq!((numbers(&found), &found["last"], &found["lost"]), (vec![3, 4, 5], &json!(5), &json!(1)));
    let proxy = proxy.reconfigured("max = 3", "max = 1");
    let found = data(&asked(&proxy, &json!({"after": 1})));
    assert_eq!((numbers(&found), &found["last"], &found["lost"]), (vec![5], &json!(5), &json!(3)));
    for wrong in ["max = 0", "max_size = \"100 KiB\"", "keep = \"7\"", "keep = 7"] {
        let config = proxy.config().replace("max = 1", wrong);
        let broken = Cgi::new(&proxy.sandbox);
        proxy.sandbox.write_config(&config);
        let answer = broken.method("POST").json("{}").bearer(TOKEN).run();
        assert_failure(&answer, 500, "configuration_error");
        assert!(answer.stderr.contains("[events]"), "{}", answer.stderr);
    }
}

#[test]
fn a_caller_that_waits_gets_an_event_when_it_comes_and_holds_up_nobody() {
    let proxy = by_token();
    let request = json!({"domain": "acme", "events": {"after": 0, "wait": 4}}).to_string();
    let started = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| proxy.request(request).run());
        std::thread::sleep(Duration::from_millis(1200));
        assert!(!waiting.is_finished());
        proxy.portal().expire_access_tokens();
        proxy.change_stored(|tokens| tokens["expires_at"] = 0.into());
        assert_eq!(proxy.call("profile", json!({})).status, 200, "a refresh and a call pass by");
        let posted = Instant::now();
        taken(&proxy.post_event(&deal(&proxy, 1)));
        assert!(posted.elapsed() < Duration::from_secs(2));
        let found = data(&waiting.join().unwrap());
        assert_eq!((numbers(&found), &found["last"]), (vec![1], &json!(1)));
    });
    assert!(started.elapsed() < Duration::from_millis(3900), "{:?}", started.elapsed());
}

#[test]
fn without_an_event_a_caller_waits_no_longer_than_it_wants_and_max_wait_lets_it() {
    let proxy = by_token().reconfigured("max_wait = 5", "max_wait = 2");
    for (wait, least, most) in [(0, 0, 900), (1, 1000, 1900), (20, 2000, 3500)] {
        let started = Instant::now();
        let found = data(&asked(&proxy, &json!({"wait": wait})));
        let took = started.elapsed();
        assert_eq!(found, json!({"events": [], "last": 0, "lost": 0}));
        assert!(took >= Duration::from_millis(least) && took < Duration::from_millis(most), "{wait}: {took:?}");
    }
}

#[test]
fn a_client_sees_the_events_that_it_may_and_its_last_passes_over_the_others() {
    let proxy = with_client(by_token(), "events = [\"onCrmDeal*\", \"ONTASKADD\"]");
    let post = |event: &str| taken(&proxy.post_event(&proxy.portal().report(event, &[("[ID]", "1")])));
    for event in ["ONCRMLEADADD", "onCrmDealAdd", "ONCRMLEADADD", "OnTaskAdd", "ONTASKADDED"] {
        post(event);
    }
    let found = data(&asked_as(&proxy, OTHER, &json!({})));
    assert_eq!((numbers(&found), &found["last"]), (vec![2, 4], &json!(5)));
    let found = data(&asked_as(&proxy, OTHER, &json!({"after": 4, "wait": 1})));
    assert_eq!((numbers(&found), &found["last"]), (vec![], &json!(5)));
    assert_eq!(numbers(&data(&asked(&proxy, &json!({})))), [1, 2, 3, 4, 5]);
}

#[test]
fn a_client_that_may_see_no_event_is_403() {
    for (lines, may) in [
        ("", true),
        ("methods = [\"crm.*\"]", false),
        ("methods = [\"crm.*\"]\nevents = [\"*\"]", true),
        ("events = []", false),
        ("portals = []", false),
    ] {
        let proxy = with_client(by_token(), lines);
        let answer = asked_as(&proxy, OTHER, &json!({}));
        match may {
            true => drop(data(&answer)),
            false => {
                assert_failure(&answer, 403, "forbidden");
                assert_failure(&asked_as(&proxy, OTHER, &json!({"bound": true})), 403, "forbidden");
                assert_failure(&asked_as(&proxy, OTHER, &json!({"bind": ["ONCRMDEALADD"]})), 403, "forbidden");
            }
        }
    }
    let proxy = with_client(by_token(), "ips = [\"192.0.2.1\"]");
    assert_failure(&asked_as(&proxy, OTHER, &json!({})), 403, "forbidden");
    assert_failure(&asked_as(&proxy, "not-a-token-of-anybody", &json!({})), 401, "unauthorized");
}

#[test]
fn bind_registers_the_programs_own_address_and_answers_all_names_bound_to_it() {
    let proxy = Proxy::installed();
    let portal = proxy.portal();
    assert_eq!(data(&asked(&proxy, &json!({"bound": true}))), json!({"bound": []}));
    let bound = data(&asked(&proxy, &json!({"bind": ["onCrmDealAdd", "ONTASKADD"]})));
    assert_eq!(bound, json!({"bound": ["ONCRMDEALADD", "ONTASKADD"]}));
    let key = proxy.stored()["events_key"].as_str().expect("a key").to_owned();
    assert!(key.len() == 32 && key.bytes().all(|b| b.is_ascii_hexdigit()), "128 bits: {key}");
    let address = format!("https://www.acme.test/cgi-bin/b24proxy?events={key}");
    let handlers = [("ONCRMDEALADD".to_owned(), address.clone()), ("ONTASKADD".to_owned(), address)];
    assert_eq!(portal.handlers(), handlers);
    // Again, which Bitrix24 refuses; and one more.
    assert_eq!(
        data(&asked(&proxy, &json!({"bind": ["ONCRMDEALADD", "ONCRMLEADADD"]}))),
        json!({"bound": ["ONCRMDEALADD", "ONCRMLEADADD", "ONTASKADD"]})
    );
    assert_eq!(proxy.stored()["events_key"], key, "one key");
    // What is bound elsewhere is not this program's.
    let elsewhere = json!({"event": "ONUSERADD", "handler": "https://elsewhere.example/handler"});
    assert_eq!(proxy.call("event.bind", elsewhere).status, 200);
    assert_eq!(
        data(&asked(&proxy, &json!({"unbind": ["ontaskadd", "ONUSERADD"]}))),
        json!({"bound": ["ONCRMDEALADD", "ONCRMLEADADD"]})
    );
    assert_eq!(portal.handlers().len(), 3);
    // What is posted there then is believed.
    let query = format!("events={key}");
    taken(&post_to(&proxy, &query, &deal(&proxy, 1)));
    assert_eq!(numbers(&data(&asked(&proxy, &json!({})))), [1]);
}

#[test]
fn what_bitrix24_says_of_a_name_is_passed_on_and_tokens_are_refreshed_on_the_way() {
    let proxy = Proxy::installed();
    proxy.portal().expire_access_tokens();
    assert_eq!(data(&asked(&proxy, &json!({"bind": ["ONCRMDEALADD"]}))), json!({"bound": ["ONCRMDEALADD"]}));
    let answer = asked(&proxy, &json!({"bind": ["NOSUCHEVENT"]}));
    assert_failure(&answer, 400, "bitrix24_error");
    assert_eq!(answer.json()["bitrix24"]["error"], "ERROR_EVENT_NOT_FOUND");
    proxy.simulator.inject(Fault::once(Target::Method("event.get".into()), Action::Html500));
    assert_failure(&asked(&proxy, &json!({"bound": true})), 502, "bitrix24_bad_answer");
    let proxy = Proxy::not_installed();
    assert_failure(&asked(&proxy, &json!({"bind": ["ONCRMDEALADD"]})), 409, "not_installed");
    assert_eq!(numbers(&data(&asked(&proxy, &json!({})))), [0; 0], "there is nothing to read yet");
}

#[test]
fn without_redirect_uri_and_for_a_webhook_binding_is_400_that_says_so() {
    let proxy = Proxy::installed().reconfigured("redirect_uri  = \"https://www.acme.test/cgi-bin/b24proxy\"", "");
    let answer = asked(&proxy, &json!({"bind": ["ONCRMDEALADD"]}));
    assert_failure(&answer, 400, "invalid_request");
    assert!(answer.text().contains("redirect_uri"), "{}", answer.text());
    let proxy = Proxy::not_installed();
    let line = format!("aliases = [\"acme\"]\nwebhook = \"{}\"", proxy.portal().webhook_url());
    let proxy = proxy.reconfigured("aliases = [\"acme\"]", &line);
    for events in [json!({"bind": ["ONCRMDEALADD"]}), json!({"unbind": ["ONCRMDEALADD"]}), json!({"bound": true})] {
        let answer = asked(&proxy, &events);
        assert_failure(&answer, 400, "invalid_request");
        assert!(answer.text().contains("webhook"), "{}", answer.text());
    }
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

#[test]
fn a_client_registers_the_events_that_it_may_see_and_only_one_without_lists_unbinds() {
    let proxy = with_client(Proxy::installed(), "methods = [\"crm.*\"]\nevents = [\"ONCRM*\"]");
    assert_eq!(data(&asked_as(&proxy, OTHER, &json!({"bind": ["oncrmdealadd"]}))), json!({"bound": ["ONCRMDEALADD"]}));
    proxy.simulator.clear_ledger();
    for events in [json!({"bind": ["ONCRMDEALADD", "ONTASKADD"]}), json!({"unbind": ["ONCRMDEALADD"]})] {
        assert_failure(&asked_as(&proxy, OTHER, &events), 403, "forbidden");
    }
    assert_eq!(proxy.simulator.ledger().all_connections(), 0, "nothing of it is done");
    let listed = with_client(Proxy::installed(), "events = [\"*\"]");
    assert_failure(&asked_as(&listed, OTHER, &json!({"unbind": ["ONCRMDEALADD"]})), 403, "forbidden");
    assert_eq!(data(&asked(&proxy, &json!({"unbind": ["ONCRMDEALADD"]}))), json!({"bound": []}));
}

#[test]
fn the_key_is_a_secret_that_no_answer_and_no_log_shows() {
    let proxy = Proxy::installed();
    data(&asked(&proxy, &json!({"bind": ["ONCRMDEALADD"]})));
    let key = proxy.stored()["events_key"].as_str().expect("a key").to_owned();
    let status = proxy.get("/status").bearer(TOKEN).run();
    let taken_by_it = post_to(&proxy, &format!("events={key}"), &proxy.portal().report("ONX", &[("[KEY]", &key)]));
    let listed = proxy.call("event.get", json!({}));
    let own = asked(&proxy, &json!({"bound": true}));
    let read = asked(&proxy, &json!({}));
    for answer in [&status, &taken_by_it, &listed, &own, &read] {
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(!answer.text().contains(&key) && !answer.stderr.contains(&key), "{} {}", answer.text(), answer.stderr);
    }
    assert!(listed.text().contains(&name_of(&key)), "{}", listed.text());
    assert!(read.text().contains(&name_of(&key)), "what Bitrix24 says of it is hidden as ever: {}", read.text());
}

#[test]
fn an_installation_registers_for_the_applications_removal_which_is_then_heard_of() {
    let proxy = Proxy::not_installed();
    page(&proxy.install_in_browser(1), 200);
    let key = proxy.stored()["events_key"].as_str().expect("a key").to_owned();
    let address = format!("https://www.acme.test/cgi-bin/b24proxy?events={key}");
    assert_eq!(proxy.portal().handlers(), [("ONAPPUNINSTALL".to_owned(), address)]);
    assert_eq!(proxy.stored()["application_token"], "");
    let form = proxy.portal().event_form("ONAPPUNINSTALL");
    assert_failure(&post_to(&proxy, &format!("events={key}"), &form), 409, "still_installed");
    assert_failure(
        &post_to(&proxy, "events=x", &form.replace(&proxy.portal().application_token(), "x")),
        403,
        "forbidden",
    );
    proxy.portal().uninstall();
    let answer = post_to(&proxy, &format!("events={key}"), &form);
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    assert_eq!(proxy.stored_bytes(), None);
}

#[test]
fn an_installation_stands_where_bitrix24_does_not_register_the_address() {
    for action in [Action::Html500, Action::CloseAfter] {
        let proxy = Proxy::not_installed();
        proxy.simulator.inject(Fault::once(Target::Method("event.bind".into()), action));
        let answer = proxy.install_in_browser(1);
        page(&answer, 200);
        assert!(answer.stderr.contains("will not be heard of"), "{}", answer.stderr);
        assert_eq!(proxy.call("profile", json!({})).status, 200);
    }
    let proxy = Proxy::not_installed().reconfigured("redirect_uri  = \"https://www.acme.test/cgi-bin/b24proxy\"", "");
    assert_eq!(proxy.post_event(&proxy.portal().event_form("ONAPPINSTALL")).status, 200);
    assert_eq!(proxy.portal().handlers(), []);
}

#[test]
fn status_says_which_event_came_last_and_when() {
    let proxy = by_token();
    let status = || proxy.get("/status").bearer(TOKEN).run().json()["data"]["portals"][0]["last_event"].clone();
    assert_eq!(status(), Value::Null);
    (1..=3).for_each(|id| taken(&post_to(&proxy, "", &deal(&proxy, id))));
    let last = status();
    assert_eq!(last["number"], 3);
    assert!((unix_now() - 60..=unix_now()).contains(&last["at"].as_i64().unwrap()), "{last}");
    let page = proxy.get("/status").bearer(TOKEN).header("Accept", "text/html").run();
    assert!(page.text().contains("number 3 "), "{}", page.text());
}
