//! Contract section 4: calls that Bitrix24 refuses for now, and may accept later, have no result.

use crate::calls::killed_while_it_hangs;
use crate::fixture::*;
use serde_json::{json, Value};
use simulator::{Action, Fault, Target};
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::cgi::{Answer, Cgi};
use support::database;

const REFUSALS: [&str; 3] = ["OPERATION_TIME_LIMIT", "QUERY_LIMIT_EXCEEDED", "OVERLOAD_LIMIT"];

fn send<'p>(proxy: &'p Proxy, calls: &[Value], more: Value) -> Cgi<'p> {
    let mut body = json!({ "calls": calls });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    proxy.request(body.to_string())
}

fn keyed<'p>(proxy: &'p Proxy, calls: &[Value]) -> Cgi<'p> {
    send(proxy, calls, json!({})).header("Idempotency-Key", "k")
}

#[track_caller]
fn data(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    answer.json()["data"].clone()
}

fn add(kind: &str, i: usize) -> Value {
    json!({"method": format!("crm.{kind}.add"), "params": {"fields": {"TITLE": format!("{kind} {i}")}}})
}

fn deals(count: usize) -> Vec<Value> {
    (0..count).map(|i| add("deal", i)).collect()
}

/// Leads and deals by turns.
fn mixed(count: usize) -> Vec<Value> {
    (0..count).map(|i| add(if i % 2 == 0 { "lead" } else { "deal" }, i)).collect()
}

/// The titles of what was executed, in order.
fn executed(proxy: &Proxy) -> Vec<String> {
    let ledger = proxy.simulator.ledger();
    let commands = |call: &simulator::Call| match call.method.as_str() {
        "batch" => call.commands.iter().map(|command| command.params.clone()).collect(),
        _ if call.executed => vec![call.params.clone()],
        _ => Vec::new(),
    };
    let all: Vec<Value> = ledger.all_calls().flat_map(commands).collect();
    all.iter().filter_map(|params| params["fields"]["TITLE"].as_str().map(str::to_owned)).collect()
}

fn titles(calls: &[Value]) -> Vec<String> {
    calls.iter().map(|call| call["params"]["fields"]["TITLE"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn assert_each_executed_once(proxy: &Proxy, calls: &[Value]) {
    let (made, expected) = (executed(proxy), titles(calls));
    let once: HashSet<&String> = made.iter().collect();
    assert_eq!((made.len(), once.len()), (expected.len(), expected.len()), "executed twice, or not at all");
    assert!(expected.iter().all(|title| once.contains(title)));
}

fn batches(proxy: &Proxy) -> usize {
    proxy.simulator.ledger().calls("batch")
}

/// `results` in short: `r` a result, `x` refused for now, `e` another error.
fn shape(data: &Value) -> String {
    let letter = |item: &Value| match (item.get("result"), item["executed"].as_str()) {
        (Some(_), None) => 'r',
        (None, Some("no")) => {
            assert!(item["error"].is_string() && item["error_description"].is_string(), "{item}");
            assert_eq!(item.as_object().map(|item| item.len()), Some(3), "{item}");
            'x'
        }
        _ => 'e',
    };
    data["results"].as_array().unwrap().iter().map(letter).collect()
}

fn journal(proxy: &Proxy) -> PathBuf {
    let below = |folder: &std::path::Path| {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    let folder = below(&proxy.sandbox.tokens().join("idempotency")).remove(0);
    below(&folder).into_iter().find(|path| path.extension().is_some_and(|e| e == "call")).expect("a journal")
}

#[test]
fn refused_calls_behind_the_last_executed_one_have_no_entry_and_next_is_the_number_of_entries() {
    for code in REFUSALS {
        let proxy = Proxy::installed();
        let calls = [deals(70), (70..120).map(|i| add("lead", i)).collect()].concat();
        proxy.portal().refuse_next("crm.lead.add", code, 1000);
        let data = data(&send(&proxy, &calls, json!({})).run());
        assert_eq!(shape(&data), "r".repeat(70), "{code}");
        assert_eq!(
            (&data["errors"], &data["next"], &data["retry_after"]),
            (&json!(0), &json!(70), &json!(60)),
            "{code}"
        );
        assert_eq!(data.get("pending"), None, "{code}");
        assert_eq!(batches(&proxy), 2, "{code}: no further batch is sent");
        assert_eq!(executed(&proxy), titles(&calls[..70]));
    }
}

#[test]
fn a_refused_call_before_an_executed_one_keeps_its_place_counts_in_errors_and_is_pending() {
    for code in REFUSALS {
        let proxy = Proxy::installed();
        let calls = mixed(120);
        proxy.portal().refuse_next("crm.lead.add", code, 1000);
        let data = data(&send(&proxy, &calls, json!({})).run());
        let pending: Vec<usize> = (0..50).step_by(2).collect();
        assert_eq!(shape(&data), "xr".repeat(25), "{code}");
        assert_eq!(
            (&data["errors"], &data["next"], &data["pending"]),
            (&json!(25), &json!(50), &json!(pending)),
            "{code}"
        );
        assert_eq!((&data["retry_after"], &data["results"][0]["error"]), (&json!(60), &json!(code)));
        assert_eq!(batches(&proxy), 1, "{code}: no further batch is sent");
    }
    // Of the last batch: no call is without an entry, so there is no next.
    let proxy = Proxy::installed();
    proxy.portal().refuse_next("crm.lead.add", "OPERATION_TIME_LIMIT", 1000);
    let data = data(&send(&proxy, &mixed(4), json!({})).run());
    assert_eq!((shape(&data).as_str(), data.get("next"), &data["pending"]), ("xrxr", None, &json!([0, 2])));
}

#[test]
fn who_has_no_key_sends_the_pending_calls_and_those_from_next_on() {
    let proxy = Proxy::installed();
    let mut todo = mixed(120);
    let all = todo.clone();
    proxy.portal().refuse_next("crm.lead.add", "QUERY_LIMIT_EXCEEDED", 30);
    let mut requests = 0;
    while !todo.is_empty() {
        requests += 1;
        assert!(requests < 20, "no progress");
        let data = data(&send(&proxy, &todo, json!({})).run());
        let pending = data["pending"].as_array().cloned().unwrap_or_default();
        let mut rest: Vec<Value> = pending.iter().map(|i| todo[i.as_u64().unwrap() as usize].clone()).collect();
        rest.extend(data["next"].as_u64().map(|next| todo[next as usize..].to_vec()).unwrap_or_default());
        todo = rest;
    }
    assert!(requests > 1);
    assert_each_executed_once(&proxy, &all);
}

#[test]
fn with_halt_a_refusal_ends_the_request_without_an_entry_and_sets_next() {
    for code in REFUSALS {
        let proxy = Proxy::installed();
        let mut calls = deals(60);
        calls[20] = add("lead", 20);
        proxy.portal().refuse_next("crm.lead.add", code, 1);
        let halted = data(&send(&proxy, &calls, json!({"halt": true})).run());
        assert_eq!(
            (shape(&halted), &halted["next"], &halted["errors"]),
            ("r".repeat(20), &json!(20), &json!(0)),
            "{code}"
        );
        assert_eq!((&halted["retry_after"], halted.get("pending")), (&json!(60), None));
        assert_eq!(executed(&proxy), titles(&calls[..20]), "{code}");
    }
    // A method that is known to be blocked ends it as well, and what stands before it is executed.
    let proxy = Proxy::installed();
    let mut calls = deals(60);
    calls[20] = add("lead", 20);
    proxy.portal().block_method("crm.lead.add", 600.0);
    assert_failure(&proxy.call("crm.lead.add", json!({})), 429, "bitrix24_error");
    let halted = data(&send(&proxy, &calls, json!({"halt": true})).run());
    assert_eq!((shape(&halted), &halted["next"]), ("r".repeat(20), &json!(20)));
    assert_eq!(proxy.simulator.ledger().calls("crm.lead.add"), 1);
}

#[test]
fn calls_of_a_method_known_to_be_blocked_count_as_refused_without_being_sent() {
    let proxy = Proxy::installed();
    proxy.portal().block_method("crm.lead.add", 600.0);
    assert_failure(&proxy.call("CRM.Lead.Add", json!({})), 429, "bitrix24_error");
    proxy.simulator.clear_ledger();
    let first = data(&send(&proxy, &mixed(60), json!({})).run());
    assert_eq!((shape(&first), &first["next"]), ("xr".repeat(25), &json!(50)));
    assert_eq!(first["results"][0]["error"], "OPERATION_TIME_LIMIT");
    assert!(first["retry_after"].as_u64().is_some_and(|seconds| (1..=60).contains(&seconds)), "{first}");
    let ledger = proxy.simulator.ledger();
    let sent: Vec<&str> = ledger.all_calls().flat_map(|call| &call.commands).map(|c| c.method.as_str()).collect();
    assert_eq!(sent, ["crm.deal.add"; 25]);
    // Where nothing could be sent at all, the request is refused.
    let leads: Vec<Value> = (0..60).map(|i| add("lead", i)).collect();
    let alone = json!({"method": "crm.lead.add", "params": {"fields": {}, "a": null}});
    for calls in [leads, vec![alone]] {
        let refused = send(&proxy, &calls, json!({})).run();
        assert_failure(&refused, 429, "rate_limited");
        assert_eq!(refused.json()["executed"], "no");
        assert!(refused.json()["retry_after"].as_u64().is_some_and(|seconds| (1..=60).contains(&seconds)));
    }
    assert_eq!(batches(&proxy), 1);
}

#[test]
fn a_call_of_its_own_that_is_refused_has_no_entry_either() {
    let alone = json!({"method": "crm.lead.add", "params": {"fields": {"TITLE": "alone"}, "a": null}});
    for (at, entries) in [(0, 0), (3, 3)] {
        let proxy = Proxy::installed();
        let mut calls = deals(6);
        calls[at] = alone.clone();
        proxy.portal().refuse_next("crm.lead.add", "OPERATION_TIME_LIMIT", 1);
        let data = data(&keyed(&proxy, &calls).run());
        assert_eq!((shape(&data), &data["next"]), ("r".repeat(entries), &json!(entries)), "{at}");
        assert_eq!((&data["retry_after"], data.get("pending")), (&json!(60), None));
        assert_eq!(executed(&proxy).len(), entries, "nothing behind it is sent");
    }
}

#[test]
fn a_batch_that_is_refused_as_a_whole_leaves_next_and_the_first_one_is_the_requests_own_error() {
    let refusal =
        |status, error: &str| Action::ErrorJson { status, error: error.into(), error_description: "x".into() };
    for (status, code) in [(503, "OVERLOAD_LIMIT"), (429, "OPERATION_TIME_LIMIT")] {
        let proxy = Proxy::installed();
        proxy.simulator.inject(Fault::once(Target::Call, refusal(status, code)).after(1));
        let stopped = data(&send(&proxy, &deals(120), json!({})).run());
        assert_eq!((shape(&stopped), &stopped["next"]), ("r".repeat(50), &json!(50)), "{code}");
        assert_eq!((&stopped["retry_after"], &stopped["errors"]), (&json!(60), &json!(0)), "{code}");
        // It is remembered: the next is not sent.
        let refused = send(&proxy, &deals(3), json!({})).run();
        assert_failure(&refused, 429, "rate_limited");
        assert_eq!(batches(&proxy), 2, "{code}");

        let proxy = Proxy::installed();
        proxy.simulator.inject(Fault::once(Target::Call, refusal(status, code)));
        let refused = keyed(&proxy, &deals(3)).run();
        assert_failure(&refused, status, "bitrix24_error");
        assert_eq!((&refused.json()["retry_after"], &refused.json()["executed"]), (&json!(60), &json!("no")));
    }
}

#[test]
fn overload_limit_blocks_the_portal_for_all_and_query_limit_exceeded_nothing() {
    let proxy = Proxy::installed();
    proxy.portal().refuse_next("crm.lead.add", "QUERY_LIMIT_EXCEEDED", 1);
    assert_eq!(data(&send(&proxy, &mixed(2), json!({})).run())["pending"], json!([0]));
    assert_eq!(proxy.call("crm.lead.add", json!({"fields": {}})).status, 200);
    proxy.portal().refuse_next("crm.lead.add", "OVERLOAD_LIMIT", 1);
    assert_eq!(data(&send(&proxy, &mixed(2), json!({})).run())["pending"], json!([0]));
    proxy.simulator.clear_ledger();
    let refused = proxy.call("user.current", json!({}));
    assert_failure(&refused, 429, "rate_limited");
    assert!(refused.json()["error"].as_str().is_some_and(|text| text.contains("support")), "{}", refused.text());
    assert!(refused.json()["retry_after"].as_u64().is_some_and(|seconds| (50..=60).contains(&seconds)));
    let refused = proxy.get(&format!("/rest/1/{TOKEN}/profile")).run();
    assert_eq!((refused.status, refused.json()["error"].as_str()), (429, Some("OVERLOAD_LIMIT")));
    assert!(refused.header("Retry-After").is_some());
    assert_eq!(proxy.simulator.ledger().all_calls().count(), 0);
}

#[test]
fn a_portal_that_is_blocked_says_so_in_a_single_call_too_and_is_tried_again_within_a_minute() {
    let proxy = Proxy::installed();
    proxy.portal().set_overloaded(true);
    let first = proxy.call("crm.deal.add", json!({}));
    assert_failure(&first, 503, "bitrix24_error");
    assert_eq!((&first.json()["retry_after"], &first.json()["executed"]), (&json!(60), &json!("no")));
    assert_eq!(first.header("Retry-After"), Some("60"));
    assert_failure(&proxy.call("crm.deal.add", json!({})), 429, "rate_limited");
    proxy.portal().set_overloaded(false);
    // As if a minute had passed.
    let name = format!("{}.limits", proxy.stem());
    let mut known: Value = serde_json::from_slice(&proxy.sandbox.token_file(&name).unwrap()).unwrap();
    known["overloaded"] = json!(known["overloaded"].as_i64().unwrap() - 60_000);
    proxy.sandbox.write_token_file(&name, &known.to_string());
    assert_eq!(proxy.call("crm.deal.add", json!({"fields": {}})).status, 200);
}

#[test]
fn bitrix24s_own_refusal_for_a_methods_time_says_when_to_come_again_on_every_route() {
    let proxy = Proxy::installed();
    proxy.portal().block_method("crm.deal.add", 600.0);
    proxy.portal().block_method("crm.lead.add", 600.0);
    proxy.portal().block_method("tasks.task.add", 600.0);
    let first = proxy.call("crm.deal.add", json!({}));
    assert_failure(&first, 429, "bitrix24_error");
    assert_eq!((first.header("Retry-After"), &first.json()["retry_after"]), (Some("60"), &json!(60)));
    assert_eq!(first.json()["executed"], "no");
    let webhook = |method: &str| proxy.get(&format!("/rest/1/{TOKEN}/{method}")).run();
    let first = webhook("crm.lead.add");
    assert_eq!((first.status, first.header("Retry-After")), (429, Some("60")));
    assert_eq!(first.json()["error"], "OPERATION_TIME_LIMIT");
    assert_eq!(webhook("crm.lead.add").status, 429);
    // REST 3.0 has a code of its own for it.
    let version_3 = || proxy.request(json!({"method": "tasks.task.add", "version": 3}).to_string()).run();
    let first = version_3();
    assert_failure(&first, 429, "bitrix24_error");
    assert_eq!(first.json()["bitrix24"]["error"], "BITRIX_REST_V3_EXCEPTION_RATELIMITEXCEPTION");
    assert_eq!(first.json()["retry_after"], 60);
    assert_failure(&version_3(), 429, "rate_limited");
    for method in ["crm.deal.add", "crm.lead.add", "tasks.task.add"] {
        assert_eq!(proxy.simulator.ledger().calls(method), 1, "{method}");
    }
}

#[test]
fn a_refused_batch_of_rest_3_0_blocks_no_other_batch() {
    let proxy = Proxy::installed();
    proxy.portal().block_method("tasks.task.add", 600.0);
    let batch = json!([{"method": "tasks.task.add", "query": {"fields": {}}}]);
    let refused = proxy.request(json!({"method": "batch", "version": 3, "params": batch}).to_string()).run();
    assert_failure(&refused, 429, "bitrix24_error");
    assert_eq!(refused.json()["retry_after"], 60);
    assert_eq!(shape(&data(&send(&proxy, &deals(3), json!({})).run())), "rrr");
}

#[test]
fn a_load_stops_before_the_wall_where_another_batch_like_the_last_would_pass_it() {
    let proxy = Proxy::installed();
    // 50 calls use 150 of the 480 seconds: after three batches 450.
    proxy.portal().set_operating_limit(480.0, 300.0, 3.0);
    let calls = deals(250);
    let stopped = data(&keyed(&proxy, &calls).run());
    assert_eq!((shape(&stopped), &stopped["next"]), ("r".repeat(150), &json!(150)));
    assert!(stopped["retry_after"].as_u64().is_some_and(|seconds| (290..=301).contains(&seconds)), "{stopped}");
    assert_eq!((batches(&proxy), stopped.get("pending")), (3, None));
    // It is no refusal: whoever comes again at once uses what is left.
    let again = data(&keyed(&proxy, &calls).run());
    assert_eq!((shape(&again), &again["next"]), ("r".repeat(160), &json!(160)));
    let left = again["retry_after"].as_u64();
    assert!(left.is_some_and(|seconds| (290..=301).contains(&seconds)), "when time frees, as answers say: {again}");
    // Then nothing is sent any more, and other methods go on.
    assert_eq!(data(&keyed(&proxy, &calls).run())["next"], 160);
    assert_eq!(batches(&proxy), 4);
    assert_eq!(proxy.call("crm.lead.add", json!({"fields": {}})).status, 200);
}

#[test]
fn a_time_of_another_clock_lets_nobody_wait_longer_than_a_methods_window() {
    for (reset_at, seconds) in [(unix_now() + 300, 290..=300), (unix_now() + 90_000, 600..=600), (i64::MAX, 600..=600)]
    {
        let proxy = Proxy::installed();
        let used = |i: usize| json!({"operating": 200 + 5 * i, "operating_reset_at": reset_at});
        let of_each = |value: &dyn Fn(usize) -> Value| -> serde_json::Map<String, Value> {
            (0..50).map(|i| (format!("c{i}"), value(i))).collect()
        };
        let body =
            json!({"result": {"result": of_each(&|i| json!(i)), "result_error": [], "result_time": of_each(&used)}});
        let action = Action::Status { status: 200, content_type: "application/json".into(), body: body.to_string() };
        proxy.simulator.inject(Fault::once(Target::Call, action));
        let stopped = data(&send(&proxy, &deals(60), json!({})).run());
        assert_eq!((shape(&stopped), &stopped["next"]), ("r".repeat(50), &json!(50)));
        assert!(stopped["retry_after"].as_u64().is_some_and(|after| seconds.contains(&after)), "{reset_at} {stopped}");
    }
    // One that has passed says nothing.
    let proxy = Proxy::installed();
    let times = json!({"c0": {"operating": 100, "operating_reset_at": i64::MIN}, "c1": {"operating": 470, "operating_reset_at": i64::MIN}});
    let body = json!({"result": {"result": {"c0": 1, "c1": 2}, "result_error": [], "result_time": times}});
    let action = Action::Status { status: 200, content_type: "application/json".into(), body: body.to_string() };
    proxy.simulator.inject(Fault::once(Target::Call, action));
    assert_eq!(data(&send(&proxy, &deals(60), json!({})).run())["next"], Value::Null);
}

#[test]
fn under_a_key_the_same_request_sends_the_pending_calls_and_the_next_and_at_last_answers_all() {
    for code in REFUSALS {
        let proxy = Proxy::installed();
        let calls = mixed(120);
        proxy.portal().refuse_next("crm.lead.add", code, 5);
        let first = data(&keyed(&proxy, &calls).run());
        assert_eq!((&first["pending"], &first["next"]), (&json!([0, 2, 4, 6, 8]), &json!(50)), "{code}");
        // As if the time had passed.
        proxy.sandbox.remove_token_file(&format!("{}.limits", proxy.stem()));
        let answer = keyed(&proxy, &calls).run();
        let whole = data(&answer);
        assert_eq!(shape(&whole), "r".repeat(120), "{code}");
        assert_eq!(whole.as_object().map(|data| data.len()), Some(2), "{code}: results and errors alone");
        assert_eq!((&whole["errors"], answer.header("Idempotent-Replayed")), (&json!(0), None));
        assert_each_executed_once(&proxy, &calls);
        // Each in its place: deals and leads are numbered as they were made.
        assert_eq!(whole["results"][1]["result"], 1, "the first deal");
        assert_eq!(whole["results"][0]["result"], 21, "the first lead, behind 20 of the first batch");
        let replayed = keyed(&proxy, &calls).run();
        assert_eq!((replayed.header("Idempotent-Replayed"), data(&replayed)), (Some("true"), whole));
    }
}

#[test]
fn pending_calls_that_are_refused_again_stay_pending_and_the_journal_does_not_grow() {
    let proxy = Proxy::installed().on_files();
    let calls = mixed(60);
    proxy.portal().refuse_next("crm.lead.add", "OPERATION_TIME_LIMIT", 5);
    let first = keyed(&proxy, &calls).run();
    let length = || std::fs::metadata(journal(&proxy)).unwrap().len();
    let before = length();
    for _ in 0..3 {
        let again = keyed(&proxy, &calls).run();
        assert_eq!(data(&again)["pending"], data(&first)["pending"]);
        // As the answers to other calls of the method have said.
        assert!(data(&again)["retry_after"].as_u64().is_some_and(|seconds| (590..=600).contains(&seconds)));
    }
    assert_eq!((batches(&proxy), length()), (1, before), "the method is known to be blocked");
    // Refused by Bitrix24 again, some of them.
    proxy.sandbox.remove_token_file(&format!("{}.limits", proxy.stem()));
    proxy.portal().refuse_next("crm.lead.add", "QUERY_LIMIT_EXCEEDED", 2);
    let again = data(&keyed(&proxy, &calls).run());
    assert_eq!((&again["pending"], &again["next"], &again["errors"]), (&json!([0, 2]), &json!(50), &json!(2)));
    proxy.portal().refuse_next("crm.lead.add", "QUERY_LIMIT_EXCEEDED", 2);
    assert_eq!(data(&keyed(&proxy, &calls).run())["pending"], json!([0, 2]));
    assert_eq!(shape(&data(&keyed(&proxy, &calls).run())), "r".repeat(60));
    assert_each_executed_once(&proxy, &calls);
}

#[test]
fn a_request_of_which_all_was_refused_leaves_its_key_free() {
    let proxy = Proxy::installed();
    proxy.portal().refuse_next("crm.deal.add", "QUERY_LIMIT_EXCEEDED", 50);
    let first = data(&keyed(&proxy, &deals(50)).run());
    assert_eq!(first, json!({"results": [], "errors": 0, "next": 0, "retry_after": 60}));
    let other = deals(3);
    assert_eq!(shape(&data(&keyed(&proxy, &other).run())), "rrr");
}

/// Kills a request under the key while the portal lets it wait for an answer.
fn killed_under_its_key(proxy: &Proxy, calls: &[Value]) {
    let body = json!({ "calls": calls });
    let request = proxy.request("").content_length(Some(body.to_string().len())).header("Idempotency-Key", "k");
    killed_while_it_hangs(proxy, request, body);
}

#[test]
fn pending_calls_that_were_being_sent_when_the_process_was_killed_are_unknown_and_never_sent_again() {
    let proxy = Proxy::installed();
    let calls = mixed(60);
    proxy.portal().refuse_next("crm.lead.add", "QUERY_LIMIT_EXCEEDED", 3);
    assert_eq!(data(&keyed(&proxy, &calls).run())["pending"], json!([0, 2, 4]));
    proxy.simulator.inject(Fault::once(Target::Call, Action::HangAfter));
    killed_under_its_key(&proxy, &calls);
    for _ in 0..2 {
        let data = data(&keyed(&proxy, &calls).run());
        let unknown: Vec<usize> = (0..60).filter(|i| data["results"][i]["error"] == "OUTCOME_UNKNOWN").collect();
        assert_eq!((unknown, &data["errors"], data.get("pending")), (vec![0, 2, 4], &json!(3), None));
        assert_eq!(data["results"].as_array().map(Vec::len), Some(60));
    }
    assert_each_executed_once(&proxy, &calls);
}

#[test]
fn calls_that_were_held_back_when_the_process_was_killed_are_executed_later() {
    let proxy = Proxy::installed();
    let calls = mixed(60);
    proxy.portal().block_method("crm.lead.add", 2.0);
    assert_failure(&proxy.call("crm.lead.add", json!({})), 429, "bitrix24_error");
    proxy.simulator.inject(Fault::once(Target::Call, Action::HangAfter));
    killed_under_its_key(&proxy, &calls);
    proxy.sandbox.remove_token_file(&format!("{}.limits", proxy.stem()));
    std::thread::sleep(Duration::from_secs(2));
    let data = data(&keyed(&proxy, &calls).run());
    // The 50th was sent last.
    assert_eq!(shape(&data), format!("{}{}", "re".repeat(25), "r".repeat(10)));
    assert_each_executed_once(&proxy, &calls);
}

/// One write after another fails, of a request that goes on with pending calls; to a database's socket, too.
#[test]
fn whichever_write_fails_no_pending_call_is_executed_twice() {
    let trace_of = |proxy: &Proxy| proxy.sandbox.path().join("run/trace");
    // A database hears by the second.
    let ways: &[&str] = if database::wanted().is_some() { &["write", "sendto"] } else { &["write"] };
    let mut failed = 0;
    let (mut ways, mut nth) = (ways.iter().peekable(), 0);
    while let Some(way) = ways.peek() {
        nth += 1;
        let proxy = Proxy::installed();
        let calls = mixed(60);
        proxy.portal().refuse_next("crm.lead.add", "QUERY_LIMIT_EXCEEDED", 3);
        assert_eq!(data(&keyed(&proxy, &calls).run())["pending"], json!([0, 2, 4]));
        let trace = trace_of(&proxy);
        let strace = format!("exec strace -qq -o {} -e inject={way}:error=ENOSPC:when={nth}", trace.display());
        proxy.run_behind(&format!("{strace} {{}}"));
        let body = json!({ "calls": calls }).to_string();
        let mut running =
            proxy.request("").content_length(Some(body.len())).header("Idempotency-Key", "k").as_cgi().spawn();
        running.write(body.as_bytes()).unwrap();
        running.end_body();
        running.wait_for_end();
        if !std::fs::read_to_string(&trace).expect("strace writes").contains("ENOSPC") {
            ways.next();
            nth = 0;
            continue;
        }
        failed += 1;
        proxy.run_behind("");
        for _ in 0..3 {
            let data = data(&keyed(&proxy, &calls).run());
            assert_eq!(data["results"].as_array().map(Vec::len), Some(60), "{way} {nth}: {data}");
            assert_eq!((data.get("pending"), data.get("next")), (None, None), "{way} {nth}");
        }
        let (made, once) = (executed(&proxy), executed(&proxy).into_iter().collect::<HashSet<_>>());
        assert_eq!(made.len(), once.len(), "{way} {nth}: executed twice");
    }
    assert!(failed > 5, "{failed} writes failed");
}

#[test]
fn two_at_once_under_one_key_execute_each_pending_call_once() {
    let proxy = Proxy::installed();
    let calls = mixed(120);
    proxy.portal().refuse_next("crm.lead.add", "QUERY_LIMIT_EXCEEDED", 7);
    data(&keyed(&proxy, &calls).run());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(shape(&data(&keyed(&proxy, &calls).run())), "r".repeat(120)));
        }
    });
    assert_each_executed_once(&proxy, &calls);
}

#[test]
fn what_version_0_1_wrote_down_as_results_stays_so() {
    let proxy = Proxy::installed().on_files();
    let calls = deals(3);
    data(&keyed(&proxy, &calls).run());
    let path = journal(&proxy);
    let begun = String::from_utf8(std::fs::read(&path).unwrap()).unwrap().lines().next().unwrap().to_owned();
    let text = r#"{"result":1},{"error":"OPERATION_TIME_LIMIT","error_description":"x"}"#;
    let length = text.len();
    let record = format!(r#"{{"record":"results","calls":2,"errors":1,"halted":false,"length":{length}}}"#);
    let sending = r#"{"record":"sending","calls":2}"#;
    let relative = path.strip_prefix(proxy.sandbox.path()).unwrap().to_str().unwrap().to_owned();
    proxy.sandbox.write(&relative, 0o600, format!("{begun}\n{sending}\n{record}\n{text}").as_bytes());
    let data = data(&keyed(&proxy, &calls).run());
    assert_eq!((shape(&data).as_str(), data.get("pending"), data.get("next")), ("rer", None, None));
}

#[test]
fn a_load_of_5000_calls_that_meets_the_wall_three_times_executes_each_once_by_repeating_one_request() {
    let proxy = Proxy::installed()
        .reconfigured("aliases = [\"acme\"]", "aliases = [\"acme\"]\nrequests_per_second = 1000\nburst = 1000")
        .reconfigured("timeout       = 10", "timeout       = 40");
    // A portal with the smaller limit: 1,616 calls of one method in a window.
    proxy.portal().set_operating_limit(420.0, 6.0, 0.26);
    let calls = deals(5000);
    let (mut walls, started) = (0, Instant::now());
    let whole = loop {
        let data = data(&keyed(&proxy, &calls).run());
        let Some(next) = data["next"].as_u64() else { break data };
        assert_eq!(data["results"].as_array().map(Vec::len), Some(next as usize));
        walls += 1;
        assert!(walls < 10, "{walls} walls");
        let seconds = data["retry_after"].as_u64().expect("when it goes on");
        assert!(seconds <= 60, "{seconds}");
        std::thread::sleep(Duration::from_secs(seconds));
    };
    println!("{walls} walls, {:?}", started.elapsed());
    assert!(walls >= 3, "{walls}");
    assert_eq!((shape(&whole), &whole["errors"]), ("r".repeat(5000), &json!(0)));
    assert_eq!(executed(&proxy), titles(&calls), "each once, in order");
}

#[test]
fn calls_of_rest_3_0_that_are_refused_for_now_have_no_entry_and_go_on_under_their_key() {
    let proxy = Proxy::installed();
    let add = |i: usize| json!({"method": "tasks.task.add", "params": {"fields": {"title": format!("№ {i}")}}});
    let calls: Vec<Value> = (0..4).map(add).collect();
    proxy.portal().set_operating_limit(1.0, 2.0, 0.5);
    let request = || send(&proxy, &calls, json!({"version": 3})).header("Idempotency-Key", "k");
    let first = data(&request().run());
    assert_eq!((shape(&first).as_str(), &first["next"], first.get("pending")), ("rr", &json!(2), None));
    assert_eq!((&first["errors"], first["retry_after"].is_u64()), (&json!(0), true), "{first}");
    // As if the time had passed.
    proxy.sandbox.remove_token_file(&format!("{}.limits", proxy.stem()));
    proxy.portal().remove_operating_limit();
    assert_eq!(shape(&data(&request().run())), "rrrr");
    assert_eq!(proxy.simulator.ledger().executed("tasks.task.add"), 4);
}
