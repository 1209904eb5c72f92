//! Idempotency keys: whatever happens, and however often the caller repeats, a call is executed at most once.

use crate::fixture::*;
use serde_json::{json, Value};
use simulator::{Action, Fault, Options, PortalOptions, Target};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::cgi::{Answer, Cgi};

const HEADER: &str = "Idempotency-Key";
const ADD: &str = "crm.deal.add";
const DAY: i64 = 24 * 3600;

/// An installed proxy over plain http.
fn installed() -> Proxy {
    let proxy = Proxy::with(Options { https: false, ..Options::default() });
    proxy.store_pair(&proxy.portal().issue_pair(1));
    proxy
}

/// A deal to be made, as 1C asks for it.
fn deal<'p>(proxy: &'p Proxy, title: &str, key: &str) -> Cgi<'p> {
    let body = json!({"domain": "acme", "method": ADD, "params": {"fields": {"TITLE": title}}});
    proxy.request(body.to_string()).header(HEADER, key)
}

#[track_caller]
fn assert_success(answer: &Answer) {
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    assert_eq!(answer.header("Idempotent-Replayed"), None);
}

/// The same answer once more, from what was kept.
#[track_caller]
fn assert_replayed(answer: &Answer, first: &Answer) {
    assert_eq!(answer.header("Idempotent-Replayed"), Some("true"), "{}", answer.text());
    assert_eq!((answer.status, answer.text()), (first.status, first.text()));
    assert_eq!(answer.header("Content-Type"), first.header("Content-Type"));
}

#[track_caller]
fn assert_outcome_unknown(answer: &Answer) {
    assert_failure(answer, 409, "outcome_unknown");
    assert_eq!(answer.json()["executed"], "unknown");
}

/// How often a deal was made, and how often Bitrix24 was asked to.
fn made(proxy: &Proxy) -> (usize, usize) {
    let ledger = proxy.simulator.ledger();
    (ledger.executed(ADD), ledger.calls(ADD))
}

fn strike(proxy: &Proxy, action: Action) {
    proxy.simulator.inject(Fault::once(Target::Method(ADD.into()), action));
}

/// The folder of the one client that has used a key.
fn client_folder(proxy: &Proxy) -> PathBuf {
    let folders = std::fs::read_dir(proxy.sandbox.tokens().join("idempotency")).expect("keys were used");
    let folders: Vec<PathBuf> = folders.map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    folders[0].clone()
}

/// How many keys are kept.
fn keys(proxy: &Proxy) -> usize {
    match proxy.sandbox.database() {
        Some(database) => database.sql("SELECT count(*) FROM b24proxy_keys").parse().expect("a number"),
        None => journals(proxy).len(),
    }
}

fn journals(proxy: &Proxy) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(client_folder(proxy)).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "call")).collect()
}

/// Writes a file of the client's folder, given by its name.
fn write(proxy: &Proxy, name: &str, content: &[u8]) {
    let folder = client_folder(proxy);
    let inside = folder.strip_prefix(proxy.sandbox.path()).expect("in the sandbox");
    proxy.sandbox.write(&format!("{}/{name}", inside.display()), 0o600, content);
}

/// A journal whose call was begun then and did not end.
fn begun(at: i64) -> Vec<u8> {
    format!("{}\n", json!({"record": "begun", "fingerprint": "0", "at": at})).into_bytes()
}

/// Makes the one kept journal older.
fn age(proxy: &Proxy, seconds: i64) {
    if let Some(database) = proxy.sandbox.database() {
        database.sql(&format!("UPDATE b24proxy_keys SET begun_at = begun_at - {seconds} * 1000"));
        return;
    }
    let journals = journals(proxy);
    let [path] = journals.as_slice() else { panic!("{journals:?}") };
    let bytes = std::fs::read(path).expect("a journal");
    let end = bytes.iter().position(|byte| *byte == b'\n').expect("a line");
    let mut record: Value = serde_json::from_slice(&bytes[..end]).expect("a record");
    record["at"] = (record["at"].as_i64().expect("a time") - seconds).into();
    let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
    write(proxy, name, &[record.to_string().as_bytes(), &bytes[end..]].concat());
}

#[test]
fn a_key_is_1_to_255_printable_ascii_characters_and_anything_else_is_400() {
    let proxy = installed();
    for (i, good) in ["k", "a b~!\"", &"x".repeat(255)].into_iter().enumerate() {
        assert_success(&deal(&proxy, &i.to_string(), good).run());
    }
    let sent = made(&proxy);
    for bad in [&b""[..], &[b'x'; 256], b"a\tb", b"a\x7f", "ключ".as_bytes(), b"\xff"] {
        let answer = deal(&proxy, "bad", "k").env("HTTP_IDEMPOTENCY_KEY", std::ffi::OsStr::from_bytes(bad)).run();
        assert_failure(&answer, 400, "invalid_request");
        assert!(answer.json()["error"].as_str().is_some_and(|text| text.contains(HEADER)), "{}", answer.text());
    }
    assert_eq!(made(&proxy), sent);
}

#[test]
fn a_success_is_replayed_byte_for_byte_and_executed_once() {
    let proxy = installed();
    let first = deal(&proxy, "Стол", "order-17").run();
    assert_success(&first);
    for _ in 0..3 {
        assert_replayed(&deal(&proxy, "Стол", "order-17").run(), &first);
    }
    assert_eq!(made(&proxy), (1, 1));
    assert_success(&deal(&proxy, "Стол", "order-18").run());
    assert_eq!(made(&proxy), (2, 2));
}

#[test]
fn the_same_key_with_another_request_is_422() {
    let proxy = installed();
    assert_success(&deal(&proxy, "one", "k").run());
    assert_failure(&deal(&proxy, "two", "k").run(), 422, "idempotency_key_reused");
    let other_method = json!({"method": "crm.lead.add", "params": {"fields": {"TITLE": "one"}}});
    assert_failure(&proxy.request(other_method.to_string()).header(HEADER, "k").run(), 422, "idempotency_key_reused");
    let version_3 = json!({"method": ADD, "params": {"fields": {"TITLE": "one"}}, "version": 3});
    assert_failure(&proxy.request(version_3.to_string()).header(HEADER, "k").run(), 422, "idempotency_key_reused");
    assert_eq!(proxy.simulator.ledger().all_calls().count(), 1);
}

#[test]
fn another_request_is_422_too_while_the_outcome_of_the_first_is_unknown() {
    let proxy = installed();
    strike(&proxy, Action::CloseAfter);
    assert_failure(&deal(&proxy, "one", "k").run(), 502, "bitrix24_unreachable");
    assert_failure(&deal(&proxy, "two", "k").run(), 422, "idempotency_key_reused");
    assert_outcome_unknown(&deal(&proxy, "one", "k").run());
}

#[test]
fn concurrent_calls_with_one_key_run_once_and_all_get_the_answer() {
    let proxy = installed();
    strike(&proxy, Action::DelayAnswer(Duration::from_millis(800)));
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..8).map(|_| scope.spawn(|| deal(&proxy, "one", "k").run())).collect();
        callers.into_iter().map(|caller| caller.join().expect("an answer")).collect()
    });
    let is_first = |answer: &&Answer| answer.header("Idempotent-Replayed").is_none();
    let first = answers.iter().find(is_first).expect("one that was executed");
    assert_eq!(answers.iter().filter(is_first).count(), 1);
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.body == first.body));
    assert_eq!(made(&proxy), (1, 1));
}

#[test]
fn a_concurrent_caller_that_would_wait_past_max_wait_gets_503_and_is_not_executed() {
    let proxy = installed().reconfigured("max_wait = 5", "max_wait = 1");
    strike(&proxy, Action::HangAfter);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| deal(&proxy, "one", "k").run());
        assert!(proxy.simulator.wait_hanging(1, Duration::from_secs(5)));
        let second = deal(&proxy, "one", "k").run();
        assert_eq!(failure(&second).0, 503, "{}", second.text());
        assert_eq!(second.json()["executed"], "no");
        assert!(second.json()["retry_after"].as_u64().is_some_and(|seconds| seconds >= 1));
        assert!(second.header("Retry-After").is_some());
        assert!(second.elapsed < Duration::from_millis(2500), "{:?}", second.elapsed);
        let other_key = deal(&proxy, "two", "l").run();
        assert_success(&other_key);
        proxy.simulator.release();
        let first = first.join().expect("an answer");
        assert_success(&first);
        assert_replayed(&deal(&proxy, "one", "k").run(), &first);
    });
    assert_eq!(made(&proxy), (2, 2));
}

#[test]
fn an_unknown_outcome_answers_409_and_is_never_executed_again() {
    let proxy = installed().reconfigured("timeout       = 10", "timeout = 1");
    let page = |status| Action::ExecuteThenStatus {
        status,
        content_type: "text/html".into(),
        body: "<html>Bad Gateway</html>".into(),
    };
    let lost = [
        Action::CloseAfter,
        Action::CloseMidAnswer,
        Action::TruncateJson,
        page(502),
        page(200),
        Action::DelayAnswer(Duration::from_millis(1500)),
        // Not executed; but nobody here can know.
        Action::CloseBefore,
    ];
    for (i, action) in lost.into_iter().enumerate() {
        let before = made(&proxy);
        let key = format!("key {i}");
        strike(&proxy, action.clone());
        let first = deal(&proxy, "one", &key).run();
        assert!(matches!(failure(&first).0, 502 | 504), "{action:?}: {}", first.text());
        assert_eq!(first.json()["executed"], "unknown", "{action:?}");
        for _ in 0..2 {
            assert_outcome_unknown(&deal(&proxy, "one", &key).run());
        }
        assert_eq!(made(&proxy).1, before.1 + 1, "{action:?}: sent once");
    }
}

#[test]
fn a_call_whose_process_was_killed_under_way_is_never_executed_again() {
    let proxy = installed();
    for (i, signal) in ["KILL", "TERM"].into_iter().enumerate() {
        strike(&proxy, Action::HangAfter);
        let key = format!("key {i}");
        let body = json!({"method": ADD, "params": {"fields": {"TITLE": "one"}}}).to_string();
        let request = || proxy.request(body.clone()).header(HEADER, &key);
        let mut caller = request().content_length(Some(body.len())).as_cgi().spawn();
        caller.write(body.as_bytes()).expect("the body is read");
        caller.end_body();
        assert!(proxy.simulator.wait_hanging(1, Duration::from_secs(5)));
        caller.signal(signal);
        caller.wait_for_end();
        proxy.simulator.release();
        proxy.leases_end();
        assert!(proxy.simulator.wait_for(Duration::from_secs(5), |ledger| ledger.executed(ADD) == i + 1));
        assert_outcome_unknown(&request().run());
        assert_eq!(made(&proxy), (i + 1, i + 1), "{signal}");
    }
}

#[test]
fn a_caller_killed_before_anything_was_sent_leaves_its_key_free() {
    let proxy = installed();
    let mut caller = deal(&proxy, "one", "k").content_length(Some(1000)).as_cgi().spawn();
    caller.write(b"{").expect("the body is read");
    caller.signal("KILL");
    caller.wait_for_end();
    assert_success(&deal(&proxy, "one", "k").run());
}

#[test]
fn a_definite_error_frees_the_key() {
    let proxy = installed();
    let error = |status| Action::ErrorJson { status, error: "WRONG".into(), error_description: "No".into() };
    for status in [400, 403, 200] {
        strike(&proxy, error(status));
        let answer = deal(&proxy, "one", "k").run();
        assert_eq!(failure(&answer).1, "bitrix24_error", "{}", answer.text());
    }
    proxy.portal().stop();
    let unreachable = deal(&proxy, "one", "k").run();
    assert_failure(&unreachable, 502, "bitrix24_unreachable");
    assert_eq!(unreachable.json()["executed"], "no");
    proxy.portal().start().expect("the same port");
    assert_eq!(keys(&proxy), 0);
    assert_success(&deal(&proxy, "another request", "k").run());
    assert_eq!(made(&proxy).0, 1);
}

/// An exception in Bitrix24, or in an application that hears of the new deal, may come after the deal was made.
#[test]
fn an_error_of_bitrix24s_server_is_an_unknown_outcome_and_is_never_executed_again() {
    let proxy = installed();
    for (i, body) in [r#"{"error":"INTERNAL_SERVER_ERROR","error_description":"x"}"#, "{}"].into_iter().enumerate() {
        let (content_type, body) = ("application/json".into(), body.into());
        strike(&proxy, Action::ExecuteThenStatus { status: 500, content_type, body });
        let key = format!("key {i}");
        let first = deal(&proxy, "one", &key).run();
        assert_failure(&first, 500, "bitrix24_error");
        assert_eq!(first.json()["executed"], "unknown");
        assert_outcome_unknown(&deal(&proxy, "one", &key).run());
        assert_eq!(made(&proxy), (i + 1, i + 1));
    }
    for (error, executed) in [("OVERLOAD_LIMIT", json!("no")), ("PORTAL_DELETED", Value::Null)] {
        strike(&proxy, Action::ErrorJson { status: 503, error: error.into(), error_description: "No".into() });
        let refused = deal(&proxy, "one", error).run();
        assert_failure(&refused, 503, "bitrix24_error");
        assert_eq!(refused.json()["executed"], executed, "{}", refused.text());
        // As if a minute had passed.
        proxy.sandbox.remove_token_file(&format!("{}.limits", proxy.stem()));
        assert_success(&deal(&proxy, "one", error).run());
    }
}

/// Damage is said, takes no memory by its numbers, and executes nothing.
#[test]
fn a_journal_that_speaks_of_more_calls_than_there_are_is_a_storage_error() {
    let proxy = installed().on_files();
    let body = json!({"domain": "acme", "calls": [{"method": ADD}, {"method": ADD}]}).to_string();
    let send = || proxy.request(body.clone()).header(HEADER, "k").measure_memory().run();
    assert_success(&send());
    let path = journals(&proxy).remove(0);
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let whole = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
    let begun = whole.lines().next().unwrap();
    for record in [
        r#"{"record":"sending","calls":18446744073709551615}"#,
        r#"{"record":"results","calls":3,"errors":0,"halted":false,"length":null}"#,
        "{\"record\":\"sending\",\"calls\":2}\n{\"record\":\"sending\",\"calls\":1}",
    ] {
        write(&proxy, &name, format!("{begun}\n{record}\n").as_bytes());
        let answer = send();
        assert_failure(&answer, 500, "storage_error");
        assert!(answer.stderr.contains("more calls than there are"), "{}", answer.stderr);
    }
    assert_eq!(made(&proxy).0, 2);
}

#[test]
fn a_call_that_was_refused_for_the_rate_limit_keeps_no_key() {
    let aliases = "aliases = [\"acme\"]";
    let proxy = installed().reconfigured(aliases, &format!("{aliases}\nrequests_per_second = 0.1\nburst = 1"));
    assert_success(&deal(&proxy, "one", "k").run());
    assert_failure(&deal(&proxy, "two", "l").run(), 429, "rate_limited");
    assert_eq!(keys(&proxy), 1);
    assert_eq!(deal(&proxy, "one", "k").run().header("Idempotent-Replayed"), Some("true"), "a replay costs no turn");
}

#[test]
fn waiting_for_the_key_and_for_the_limit_together_takes_no_longer_than_max_wait() {
    let aliases = "aliases = [\"acme\"]";
    let proxy = installed()
        .reconfigured(aliases, &format!("{aliases}\nrequests_per_second = 0.5\nburst = 1"))
        .reconfigured("max_wait = 5", "max_wait = 3");
    strike(&proxy, Action::Delay(Duration::from_secs(2)));
    strike(&proxy, Action::ErrorJson { status: 400, error: "WRONG".into(), error_description: String::new() });
    std::thread::scope(|scope| {
        // Frees its key after two seconds.
        scope.spawn(|| assert_failure(&deal(&proxy, "one", "k").run(), 400, "bitrix24_error"));
        std::thread::sleep(Duration::from_millis(300));
        // Has the next turn.
        scope.spawn(|| assert_success(&deal(&proxy, "another", "l").run()));
        std::thread::sleep(Duration::from_millis(200));
        // One and a half for the key, and then two more for the limit.
        let answer = deal(&proxy, "one", "k").run();
        assert_failure(&answer, 429, "rate_limited");
        assert!(answer.elapsed > Duration::from_secs(1), "{:?}", answer.elapsed);
        assert!(answer.elapsed < Duration::from_millis(2800), "{:?}", answer.elapsed);
    });
}

const SECOND_TOKEN: &str = "the-token-of-the-second-client";

fn with_a_second_client() -> Proxy {
    let proxy = installed();
    let client = format!("[[security.clients]]\nname = \"second\"\ntoken = \"{SECOND_TOKEN}\"\n");
    let two = format!("{}\n{client}", proxy.config());
    proxy.configured(&two)
}

#[test]
fn keys_are_per_client() {
    let proxy = with_a_second_client();
    assert_success(&deal(&proxy, "one", "k").run());
    let body = json!({"domain": "acme", "method": ADD, "params": {"fields": {"TITLE": "two"}}}).to_string();
    let second = || proxy.bare_request(body.clone()).bearer(SECOND_TOKEN).header(HEADER, "k");
    let answer = second().run();
    assert_success(&answer);
    assert_replayed(&second().run(), &answer);
    assert_eq!(made(&proxy), (2, 2));
}

/// Bitrix24 keeps keys of REST 3.0 itself, and knows one user behind all clients.
#[test]
fn keys_of_two_clients_are_told_apart_at_rest_3_too() {
    let proxy = with_a_second_client();
    let task =
        json!({"domain": "acme", "method": "tasks.task.add", "params": {"fields": {"title": "one"}}, "version": 3});
    for token in [TOKEN, SECOND_TOKEN] {
        assert_success(&proxy.bare_request(task.to_string()).bearer(token).header(HEADER, "k").run());
    }
    assert_eq!(proxy.simulator.ledger().executed("tasks.task.add"), 2);
}

#[test]
fn keys_are_per_portal() {
    let proxy = installed();
    let other = proxy.simulator.add_portal(PortalOptions::default());
    let config = format!("{}\n[portals.\"{}\"]\n", proxy.config(), other.name());
    let proxy = proxy.configured(&config);
    let tokens = token_file(&other.issue_pair(1), proxy.simulator.client_id(), unix_now() + 3600);
    proxy.sandbox.write_token_file(&format!("{}.json", other.name().replace(':', "_")), &tokens.to_string());
    assert_success(&deal(&proxy, "one", "k").run());
    let body = json!({"domain": other.name(), "method": ADD, "params": {"fields": {"TITLE": "one"}}});
    assert_success(&proxy.request(body.to_string()).header(HEADER, "k").run());
    assert_eq!(made(&proxy), (2, 2));
}

#[test]
fn a_key_is_read_after_the_access_checks() {
    let proxy = installed();
    assert_success(&deal(&proxy, "one", "k").run());
    let stranger = deal(&proxy, "one", "k").env("HTTP_AUTHORIZATION", "Bearer not-the-token-of-anybody").run();
    assert_failure(&stranger, 401, "unauthorized");
    let stranger = deal(&proxy, "one", &"x".repeat(256)).without("HTTP_AUTHORIZATION").run();
    assert_failure(&stranger, 401, "unauthorized");
    let restricted = "[[security.clients]]\nname = \"1c\"\nmethods = [\"crm.lead.*\"]\ntoken = ";
    let proxy = proxy.reconfigured("auth_token = ", restricted);
    for key in ["k", &"x".repeat(256)] {
        assert_failure(&deal(&proxy, "one", key).run(), 403, "forbidden");
    }
    let unknown = json!({"domain": "unknown.example", "method": "crm.lead.add"});
    let answer = proxy.request(unknown.to_string()).header(HEADER, &"x".repeat(256)).run();
    assert_failure(&answer, 404, "unknown_portal");
    assert_eq!(made(&proxy), (1, 1));
}

#[test]
fn a_client_keeps_1000_keys_and_is_then_refused_before_sending() {
    let proxy = installed().on_files();
    let first = deal(&proxy, "one", "k").run();
    for i in 0..998 {
        write(&proxy, &format!("{i:040}.call"), &begun(unix_now() - DAY + 1000));
    }
    write(&proxy, "usage", b"");
    assert_success(&deal(&proxy, "the thousandth", "l").run());
    let answer = deal(&proxy, "one more", "m").run();
    assert_failure(&answer, 429, "rate_limited");
    assert_eq!(answer.json()["executed"], "no");
    let retry_after = answer.json()["retry_after"].as_i64().expect("retry_after");
    assert!((900..=1000).contains(&retry_after), "until the oldest ends: {retry_after}");
    let webhook = proxy.get(&format!("/rest/1/{TOKEN}/{ADD}")).header(HEADER, "m").run();
    assert_eq!((webhook.status, &webhook.json()["error"]), (503, &json!("QUERY_LIMIT_EXCEEDED")));
    assert_eq!(made(&proxy), (2, 2));
    assert_eq!(journals(&proxy).len(), 1000);

    assert_replayed(&deal(&proxy, "one", "k").run(), &first);
    assert_eq!(proxy.call(ADD, json!({"fields": {}})).status, 200, "without a key");
    write(&proxy, &format!("{:040}.call", 7), &begun(unix_now() - DAY));
    assert_success(&deal(&proxy, "one more", "m").run());
}

#[test]
fn a_client_keeps_64_mib_of_answers_and_is_then_refused_before_sending() {
    let proxy = installed().on_files();
    let first = deal(&proxy, "one", "k").run();
    write(&proxy, &format!("{:040}.call", 1), &begun(unix_now()));
    let big = client_folder(&proxy).join(format!("{:040}.call", 1));
    let file = std::fs::OpenOptions::new().write(true).open(big).expect("the journal");
    // A hole: it takes no space.
    file.set_len(64 << 20).expect("a sparse file");
    write(&proxy, "usage", b"");
    assert_failure(&deal(&proxy, "two", "l").run(), 429, "rate_limited");
    assert_eq!(made(&proxy), (1, 1));
    assert_replayed(&deal(&proxy, "one", "k").run(), &first);
}

#[test]
fn an_answer_that_finds_no_room_reaches_its_caller_and_is_never_fetched_by_executing_again() {
    let proxy = installed().on_files();
    assert_success(&deal(&proxy, "one", "k").run());
    let usage = json!({"keys": 2, "bytes": (64 << 20) - 10, "swept_at": unix_now()}).to_string();
    write(&proxy, "usage", usage.as_bytes());
    assert_success(&deal(&proxy, "two", "l").run());
    assert_outcome_unknown(&deal(&proxy, "two", "l").run());
    assert_eq!(made(&proxy), (2, 2));
}

#[test]
fn a_key_lives_24_hours() {
    let proxy = installed();
    let first = deal(&proxy, "one", "k").run();
    assert_success(&first);
    age(&proxy, DAY - 60);
    assert_replayed(&deal(&proxy, "one", "k").run(), &first);
    age(&proxy, 60);
    assert_success(&deal(&proxy, "another request", "k").run());
    assert_eq!(made(&proxy), (2, 2));
}

#[test]
fn what_has_expired_is_removed_by_the_next_call_with_a_key() {
    let proxy = installed().on_files();
    assert_success(&deal(&proxy, "one", "k").run());
    for i in 0..20 {
        write(&proxy, &format!("{i:040}.call"), &begun(unix_now() - DAY - i));
        write(&proxy, &format!("{:040}.call", 100 + i), b"");
    }
    let stale = json!({"keys": 41, "bytes": 5000, "swept_at": unix_now() - 3600}).to_string();
    write(&proxy, "usage", stale.as_bytes());
    assert_success(&deal(&proxy, "two", "l").run());
    assert_eq!(journals(&proxy).len(), 2, "{:?}", journals(&proxy));
}

#[test]
fn a_damaged_count_of_keys_is_counted_anew() {
    let proxy = installed().on_files();
    let first = deal(&proxy, "one", "k").run();
    for damaged in [&b"nonsense"[..], b"", b"\xff\0", b"{\"keys\":-1}"] {
        write(&proxy, "usage", damaged);
        assert_success(&deal(&proxy, "two", &format!("key {}", String::from_utf8_lossy(damaged).len())).run());
        assert_replayed(&deal(&proxy, "one", "k").run(), &first);
    }
}

#[test]
fn where_the_intent_cannot_be_written_the_call_is_not_sent() {
    let proxy = installed().on_files();
    proxy.sandbox.write("b24proxy/tokens/idempotency", 0o600, b"a file where a folder belongs");
    assert_failure(&deal(&proxy, "one", "k").run(), 500, "storage_error");
    assert_eq!(made(&proxy), (0, 0));
    assert_eq!(proxy.call(ADD, json!({"fields": {}})).status, 200, "without a key");
}

/// The same webhook call in the forms that clients use.
fn webhook_calls<'p>(proxy: &'p Proxy, key: &str) -> Vec<Cgi<'p>> {
    let to = || proxy.get(&format!("/rest/1/{TOKEN}/{ADD}.json")).header(HEADER, key);
    let query = "fields%5BTITLE%5D=one";
    vec![to().query(query), to().form(query), to().json(r#"{"fields":{"TITLE":"one"}}"#)]
}

#[test]
fn keys_work_on_the_webhook_routes_for_get_form_and_json() {
    let proxy = installed();
    for i in 0..3 {
        let call = || webhook_calls(&proxy, &format!("key {i}")).swap_remove(i);
        let first = call().run();
        assert_success(&first);
        assert_eq!(first.json()["result"], i + 1, "Bitrix24's own answer");
        assert_replayed(&call().run(), &first);
        assert_eq!(made(&proxy), (i + 1, i + 1));
    }
}

#[test]
fn a_repeat_is_known_by_its_key_whatever_a_client_adds_to_the_address_of_each_request() {
    let proxy = installed();
    let call = |query: &str| {
        let path = format!("/rest/1/{TOKEN}/{ADD}");
        proxy.get(&path).query(query).json(r#"{"fields":{"TITLE":"one"}}"#).header(HEADER, "k").run()
    };
    let first = call("a=1&bx24_request_id=1111&bx24_sdk_ver=2&auth=X");
    assert_success(&first);
    assert_replayed(&call("a=1&bx24_request_id=2222&auth=Y"), &first);
    assert_eq!(call("a=2&bx24_request_id=1111").status, 422);
    assert_eq!(made(&proxy), (1, 1));
}

#[test]
fn on_the_webhook_routes_the_errors_of_keys_have_bitrix24s_shape() {
    let proxy = installed().reconfigured("max_wait = 5", "max_wait = 1");
    let call = |i: usize, key: &str| webhook_calls(&proxy, key).swap_remove(i);
    let assert_error = |answer: &Answer, status: u16, code: &str| {
        let body = answer.json();
        assert_eq!((answer.status, body["error"].as_str()), (status, Some(code)), "{body}");
        assert!(body["error_description"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    };
    assert_error(&call(0, &"x".repeat(256)).run(), 400, "INVALID_REQUEST");
    assert_success(&call(0, "k").run());
    assert_error(&call(1, "k").run(), 422, "IDEMPOTENCY_KEY_REUSED");
    for action in [Action::CloseAfter, Action::Html500] {
        strike(&proxy, action.clone());
        let key = format!("{action:?}");
        for _ in 0..2 {
            assert_error(&call(2, &key).run(), 409, "OUTCOME_UNKNOWN");
        }
    }
    strike(&proxy, Action::HangAfter);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| call(1, "l").run());
        assert!(proxy.simulator.wait_hanging(1, Duration::from_secs(5)));
        let second = call(1, "l").run();
        assert_eq!(second.status, 503, "certainly not executed, try again: {}", second.text());
        assert!(second.json()["error"].as_str().is_some_and(|code| !code.is_empty()));
        proxy.simulator.release();
        assert_success(&first.join().expect("an answer"));
    });
}

#[test]
fn keys_are_sent_on_to_rest_3_and_not_to_rest_2() {
    let proxy = installed();
    assert_success(&deal(&proxy, "one", "to-rest-2").run());
    let task = json!({"method": "tasks.task.add", "params": {"fields": {"title": "one"}}, "version": 3}).to_string();
    let call = || proxy.request(task.clone()).header(HEADER, "to-rest-3").run();
    let first = call();
    assert_success(&first);
    assert_replayed(&call(), &first);
    let webhook = || {
        let path = format!("/rest/api/1/{TOKEN}/tasks.task.add");
        proxy.get(&path).json(r#"{"fields":{"title":"two"}}"#).header(HEADER, "by-webhook").run()
    };
    let first = webhook();
    assert_success(&first);
    assert_replayed(&webhook(), &first);
    let ledger = proxy.simulator.ledger();
    let keys = |method| -> Vec<Option<String>> {
        ledger.of_method(method).map(|entry| entry.header(HEADER).map(str::to_owned)).collect()
    };
    assert_eq!(keys(ADD), [None]);
    assert_eq!(keys("tasks.task.add"), [Some("to-rest-3".into()), Some("by-webhook".into())]);
}

#[test]
fn rest_3s_own_replay_is_passed_on() {
    let proxy = installed();
    let body = json!({"method": "tasks.task.add", "params": {"fields": {"title": "one"}}, "version": 3}).to_string();
    let call = || proxy.request(body.clone()).header(HEADER, "k").run();
    let first = call();
    assert_eq!(keys(&proxy), 1);
    proxy.forget_keys();
    let again = call();
    assert_replayed(&again, &first);
    assert_eq!(proxy.simulator.ledger().executed("tasks.task.add"), 1);
}

#[test]
fn keys_work_for_a_batch() {
    let proxy = installed();
    let body = json!({"method": "batch", "params": {"cmd": {"a": "crm.deal.add?fields[TITLE]=one"}}}).to_string();
    let call = || proxy.request(body.clone()).header(HEADER, "k").run();
    let first = call();
    assert_success(&first);
    assert_replayed(&call(), &first);
    assert_eq!(proxy.simulator.ledger().executed(ADD), 1);
}

#[test]
fn keys_work_for_a_portal_with_an_incoming_webhook_behind_it() {
    let proxy = Proxy::with(Options { https: false, ..Options::default() });
    let aliases = "aliases = [\"acme\"]";
    let webhook = proxy.portal().webhook_url();
    let proxy = proxy.reconfigured(aliases, &format!("{aliases}\nwebhook = \"{webhook}\""));
    let first = deal(&proxy, "one", "k").run();
    assert_success(&first);
    assert_replayed(&deal(&proxy, "one", "k").run(), &first);
    strike(&proxy, Action::CloseAfter);
    assert_failure(&deal(&proxy, "two", "l").run(), 502, "bitrix24_unreachable");
    assert_outcome_unknown(&deal(&proxy, "two", "l").run());
    assert_eq!(made(&proxy), (2, 2));
}

#[test]
fn a_call_repeated_after_expired_token_and_query_limit_exceeded_keeps_its_key() {
    let proxy = installed();
    proxy.portal().expire_access_tokens();
    strike(
        &proxy,
        Action::ErrorJson { status: 503, error: "QUERY_LIMIT_EXCEEDED".into(), error_description: String::new() },
    );
    let first = deal(&proxy, "one", "k").run();
    assert_success(&first);
    assert_replayed(&deal(&proxy, "one", "k").run(), &first);
    assert_eq!(made(&proxy), (1, 3));
}

#[test]
fn a_1c_that_repeats_after_its_timeout_finds_its_deal_created_once() {
    let proxy = installed();
    strike(&proxy, Action::DelayAnswer(Duration::from_millis(1500)));
    let body = json!({"method": ADD, "params": {"fields": {"TITLE": "one"}}}).to_string();
    let request = || proxy.request(body.clone()).header(HEADER, "order-17");
    // 1C gives up; the web server lets the program go on.
    let mut gone = request().content_length(Some(body.len())).spawn();
    gone.write(body.as_bytes()).expect("the body is read");
    gone.end_body();
    std::thread::sleep(Duration::from_millis(700));
    let started = Instant::now();
    let repeated = request().run();
    assert_replayed(&repeated, &gone.wait());
    assert!(started.elapsed() > Duration::from_millis(400), "it waited for the first");
    assert_eq!(repeated.json()["data"]["result"], 1);
    assert_eq!(made(&proxy), (1, 1));
}

#[test]
fn no_key_and_no_parameter_stands_in_the_names_of_the_files_that_keep_them() {
    let proxy = installed().on_files();
    assert_success(&deal(&proxy, "a-secret-title", "a-secret-key").run());
    for path in journals(&proxy) {
        let name = path.to_string_lossy().into_owned();
        assert!(!name.contains("secret"), "{name}");
        let content = String::from_utf8_lossy(&std::fs::read(&path).expect("a journal")).into_owned();
        assert!(!content.contains("a-secret"), "{content}");
        let tokens = proxy.simulator.secrets();
        assert!(!tokens.iter().any(|secret| content.contains(secret.as_str())), "{content}");
    }
}
