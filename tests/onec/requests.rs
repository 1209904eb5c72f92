//! The requests of `deploy/1c/requests`, through the real executable behind Apache.

use crate::bsl::{literal, Module};
use crate::fixture::*;
use crate::http_file::{load, HttpFile};
use crate::module::codes_in_results;
use serde_json::{json, Value};
use simulator::{Action, Content, Fault, File, Target};
use std::collections::BTreeSet;
use std::time::Duration;
use support::webserver::{Kind, WebServer};

struct Place {
    proxy: Proxy,
    server: WebServer,
}

impl Place {
    fn new() -> Place {
        Place::of(Proxy::installed())
    }

    fn of(proxy: Proxy) -> Place {
        let server = WebServer::start(&proxy.sandbox, Kind::ApacheCgid);
        Place { proxy, server }
    }

    fn file(&self, name: &str) -> HttpFile {
        load(name).with("domain", &self.proxy.portal().name()).with("token", TOKEN)
    }

    /// Sends it; the status and the answer.
    fn send(&self, file: &HttpFile) -> (u16, Value) {
        let answer = file.send(&self.server);
        assert_eq!(answer.header("Content-Type"), Some("application/json; charset=utf-8"), "{}", answer.text());
        (answer.status, answer.json())
    }

    fn executed(&self, method: &str) -> usize {
        self.proxy.simulator.ledger().executed(method)
    }
}

#[test]
fn one_call_arrives_as_1c_wrote_it() {
    let place = Place::new();
    let file = place.file("one-call.http");
    let (status, answer) = place.send(&file);
    assert_eq!((status, &answer["success"]), (200, &json!(true)), "{answer}");
    assert!(answer["data"]["result"]["item"]["id"].is_u64(), "{answer}");
    let ledger = place.proxy.simulator.ledger();
    assert_eq!(ledger.all_calls().next().unwrap().params, file.json()["params"]);
}

#[test]
fn a_repeat_with_the_same_key_is_answered_again_and_executed_once() {
    let place = Place::new();
    let file = place.file("one-call.http");
    let first = file.send(&place.server);
    let second = file.send(&place.server);
    assert_eq!((second.status, &second.body), (200, &first.body), "{}", second.text());
    assert_eq!(first.header("Idempotent-Replayed"), None);
    assert_eq!(second.header("Idempotent-Replayed"), Some("true"));
    assert_eq!(place.executed("crm.item.add"), 1);
    // The headers that the module reads; these three are web servers'.
    let of_servers = ["Content-Encoding", "Content-Length", "Location"];
    let module = Module::load();
    for call in module.calls(module.root()).iter().filter(|c| c.name == "Заголовок" && c.arguments.len() == 2)
    {
        let name = literal(call.arguments[1]);
        assert!(of_servers.contains(&name) || second.header(name).is_some(), "{name}");
    }
}

#[test]
fn a_repeat_after_1cs_own_timeout_is_not_a_second_call() {
    let place = Place::new();
    let delay = Action::DelayAnswer(Duration::from_secs(2));
    place.proxy.portal().inject(Fault::once(Target::Method("crm.item.add".into()), delay));
    let file = place.file("one-call.http");
    let gone = file.request(&place.server).timeout(Duration::from_millis(700)).try_send();
    assert!(gone.is_err(), "{gone:?}");
    let (status, answer) = place.send(&file);
    // Either the first request still ends and its answer is kept, or the web server ended it: then nobody knows.
    match status {
        200 => assert_eq!(answer["success"], true),
        _ => assert_eq!(
            (status, &answer["error_code"], &answer["executed"]),
            (409, &json!("outcome_unknown"), &json!("unknown"))
        ),
    }
    assert_eq!(place.executed("crm.item.add"), 1);
}

/// `НетМестаДляКлюча`: such a refusal is told from others, and the same call goes on without a key.
#[test]
fn where_a_client_has_no_room_for_keys_the_same_call_without_one_is_executed() {
    let place = Place::new();
    let mut file = place.file("one-call.http");
    place.send(&file);
    let clients = place.proxy.sandbox.tokens().join("idempotency");
    let client = std::fs::read_dir(clients).unwrap().next().unwrap().unwrap().path();
    let begun = json!({"record": "begun", "fingerprint": "0", "at": unix_now() - 3600});
    for i in 0..1000 {
        std::fs::write(client.join(format!("{i:040}.call")), format!("{begun}\n")).unwrap();
    }
    std::fs::write(client.join("usage"), "").unwrap();

    let key = file.headers.iter().position(|(name, _)| name == "Idempotency-Key").unwrap();
    file.headers[key].1 = "another".to_owned();
    let (status, refused) = place.send(&file);
    let told = (status, &refused["error_code"], &refused["executed"]);
    assert_eq!(told, (429, &json!("rate_limited"), &json!("no")));
    assert!(refused["retry_after"].as_u64().is_some_and(|seconds| seconds > 3600), "{refused}");
    assert_eq!(place.executed("crm.item.add"), 1);

    file.headers.remove(key);
    let (status, answer) = place.send(&file);
    assert_eq!((status, &answer["success"]), (200, &json!(true)), "{answer}");
    assert_eq!(place.executed("crm.item.add"), 2);
}

#[test]
fn rest_3_is_called_with_the_token_in_a_header_of_its_own() {
    let place = Place::new();
    place.proxy.portal().set_scope("crm,catalog,task");
    place.proxy.portal().seed("tasks.task", 3);
    let (status, answer) = place.send(&place.file("one-call-rest3.http"));
    assert_eq!((status, &answer["success"]), (200, &json!(true)), "{answer}");
    assert_eq!(place.proxy.simulator.ledger().all_calls().next().unwrap().version, 3);
}

#[test]
fn many_calls_are_answered_in_their_order() {
    let place = Place::new();
    let (status, answer) = place.send(&place.file("many-calls.http"));
    assert_eq!((status, &answer["data"]["errors"]), (200, &json!(0)), "{answer}");
    let results = answer["data"]["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    assert!(results[0]["result"].is_u64() && results[1]["result"].is_u64() && results[2]["result"].is_object());
    assert_eq!(place.executed("crm.deal.add"), 2);
}

/// `ВыполнитьЧастьВызовов`: with a key an unfinished request is repeated as it is, and what was done is not done again.
#[test]
fn many_calls_that_took_too_long_go_on_when_the_same_request_is_repeated() {
    let place = Place::of(Proxy::installed().reconfigured("timeout       = 10", "timeout       = 4"));
    let delay = Action::DelayAnswer(Duration::from_millis(1500));
    place.proxy.portal().inject(Fault::times(2, Target::Method("batch".into()), delay));
    let mut file = place.file("many-calls.http");
    let mut body = file.json();
    let call = json!({"method": "crm.deal.add", "params": {"fields": {"TITLE": "Сделка"}}});
    body["calls"] = vec![call; 170].into();
    file.body = body.to_string();

    let (status, first) = place.send(&file);
    assert_eq!((status, &first["data"]["next"]), (200, &json!(100)), "{first}");
    let (status, second) = place.send(&file);
    assert_eq!(
        (status, &second["data"]["errors"], &second["data"]["next"]),
        (200, &json!(0), &Value::Null),
        "{second}"
    );
    let (first, second) = (&first["data"]["results"], second["data"]["results"].as_array().unwrap());
    assert_eq!(second.len(), 170);
    assert_eq!(second[..100], first.as_array().unwrap()[..]);
    assert_eq!(place.executed("crm.deal.add"), 170);
}

/// `ВыполнитьЧастьВызовов`: where `next` has not moved nothing more was executed, and the same request goes on later.
#[test]
fn many_calls_whose_next_batch_cannot_start_now_are_answered_with_the_same_next_and_go_on_later() {
    let limits = "aliases = [\"acme\"]\nrequests_per_second = 0.02\nburst = 1";
    let place = Place::of(Proxy::installed().reconfigured("aliases = [\"acme\"]", limits));
    let mut file = place.file("many-calls.http");
    let mut body = file.json();
    body["calls"] = vec![json!({"method": "crm.deal.add", "params": {"fields": {"TITLE": "Сделка"}}}); 60].into();
    file.body = body.to_string();

    let (_, first) = place.send(&file);
    for answer in [&first, &place.send(&file).1, &place.send(&file).1] {
        assert_eq!((&answer["data"]["next"], &answer["data"]["errors"]), (&json!(50), &json!(0)), "{answer}");
        assert_eq!(answer["data"]["results"], first["data"]["results"]);
    }
    assert_eq!(place.executed("crm.deal.add"), 50);
    std::fs::remove_file(place.proxy.sandbox.tokens().join(format!("{}.limits", place.proxy.stem()))).unwrap();
    let (_, last) = place.send(&file);
    assert_eq!((&last["data"]["next"], &last["data"]["errors"]), (&Value::Null, &json!(0)), "{last}");
    assert_eq!(place.executed("crm.deal.add"), 60);
}

/// `ПринятьРезультаты`: calls that Bitrix24 refuses for now are named, and the same request executes them later.
#[test]
fn calls_that_are_refused_for_now_are_named_and_executed_when_the_same_request_is_repeated() {
    let place = Place::new();
    place.proxy.portal().refuse_next("crm.item.add", "QUERY_LIMIT_EXCEEDED", 1);
    let mut file = place.file("many-calls.http");
    let mut body = file.json();
    let item = json!({"method": "crm.item.add", "params": {"entityTypeId": 31, "fields": {"title": "Счёт"}}});
    body["calls"] = vec![item; 60].into();
    body["halt"] = false.into();
    file.body = body.to_string();
    let (_, first) = place.send(&file);
    let data = &first["data"];
    assert_eq!(
        (&data["pending"], &data["next"], &data["retry_after"]),
        (&json!([0]), &json!(50), &json!(60)),
        "{first}"
    );
    let (_, second) = place.send(&file);
    let data = &second["data"];
    assert_eq!((&data["errors"], data.get("pending"), data.get("next")), (&json!(0), None, None), "{second}");
    assert_eq!(place.executed("crm.item.add"), 60);
}

/// `РезультатВызова`: the program's own errors among the results are of calls that were not sent.
#[test]
fn calls_that_fail_on_the_way_to_bitrix24_have_a_code_that_the_module_knows_and_go_on_later() {
    let place = Place::new();
    let mut file = place.file("many-calls.http");
    let mut body = file.json();
    body["calls"] = vec![json!({"method": "crm.deal.add", "params": {"fields": {"TITLE": "Сделка"}}}); 60].into();
    body["halt"] = false.into();
    file.body = body.to_string();
    place.proxy.simulator.inject(Fault::once(Target::Connection, Action::CloseBefore).after(1));

    let (_, answer) = place.send(&file);
    let failed = &answer["data"]["results"].as_array().unwrap()[50..];
    let module = Module::load();
    let codes = codes_in_results(&module);
    assert_eq!((failed.len(), &answer["data"]["errors"]), (10, &json!(10)), "{answer}");
    assert!(failed.iter().all(|result| codes.contains(&result["error"].as_str().unwrap())), "{answer}");
    assert_eq!(place.executed("crm.deal.add"), 50);
    let (_, answer) = place.send(&file);
    assert_eq!((&answer["data"]["errors"], &answer["data"]["next"]), (&json!(0), &Value::Null), "{answer}");
    assert_eq!(place.executed("crm.deal.add"), 60);
}

/// With the right to the disk; what one of its methods answers.
fn with_a_disk(method: &str, id: impl Fn(&Place) -> i64) -> (Place, Value) {
    let place = Place::new();
    place.proxy.portal().set_scope("crm,catalog,disk");
    let answer = place.proxy.call(method, json!({ "id": id(&place) }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let result = answer.json()["data"]["result"].clone();
    (place, result)
}

/// `КодироватьСтроку`
fn encoded(text: &Value) -> String {
    serde_urlencoded::to_string([("", text.as_str().unwrap())]).unwrap().trim_start_matches('=').to_owned()
}

#[test]
fn a_file_comes_whole_and_has_the_size_that_bitrix24_has_told() {
    let bytes = "Счёт № 15\n".repeat(1000).into_bytes();
    let (place, told) = with_a_disk("disk.file.get", |place| {
        place.proxy.portal().store_file(File::new("Счёт 15.txt", Content::given(bytes.clone())))
    });
    let file = place.file("file-get.http").with("address", &encoded(&told["DOWNLOAD_URL"]));
    let answer = file.send(&place.server);
    assert_eq!((answer.status, &answer.body), (200, &bytes), "{}", answer.text());
    assert_eq!(told["SIZE"], bytes.len().to_string());
}

#[test]
fn a_file_is_sent_whole() {
    let (place, told) = with_a_disk("disk.folder.uploadfile", |_| 1);
    let file = place.file("file-send.http").with("address", &encoded(&told["uploadUrl"]));
    let file = file.with("field", told["field"].as_str().unwrap());
    let (status, answer) = place.send(&file);
    assert_eq!((status, &answer["success"]), (200, &json!(true)), "{answer}");
    let result = &answer["data"]["result"];
    assert_eq!(result["NAME"], "Счёт 15.txt");
    let stored = place.proxy.portal().file(result["ID"].as_str().unwrap().parse().unwrap()).unwrap();
    assert_eq!(stored.content.sha256(), Content::given("Счёт № 15").sha256());
}

/// `ПолучитьСписок`: part after part, with the cursor of the one before.
#[test]
fn a_list_is_read_to_its_end_with_cursors() {
    let place = Place::of(Proxy::installed().reconfigured("timeout       = 10", "timeout       = 4"));
    place.proxy.portal().seed("crm.deal", 700);
    for target in ["crm.deal.list", "batch"] {
        let delay = Action::DelayAnswer(Duration::from_millis(1500));
        place.proxy.portal().inject(Fault::once(Target::Method(target.into()), delay));
    }
    let (status, first) = place.send(&place.file("list.http"));
    assert_eq!((status, &first["data"]["complete"]), (200, &json!(false)), "{first}");
    let cursor = first["data"]["cursor"].as_str().unwrap();
    let (status, rest) = place.send(&place.file("list-next.http").with("cursor", cursor));
    assert_eq!((status, &rest["data"]["complete"]), (200, &json!(true)), "{rest}");
    let ids = |part: &Value| part["data"]["result"].as_array().unwrap().iter().map(|r| r["ID"].to_string()).collect();
    let (mut ids, more): (Vec<_>, Vec<_>) = (ids(&first), ids(&rest));
    ids.extend(more);
    assert_eq!(ids.len(), 700);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 700);
}

/// The program has events when it knows how one is unsubscribed.
pub fn program_has_events() -> bool {
    crate::module::sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).contains("\"unbind\"")
}

#[test]
fn events_are_registered_and_read() {
    if !program_has_events() {
        return;
    }
    let place = Place::new();
    let (status, bound) = place.send(&place.file("events-bind.http"));
    assert_eq!(status, 200, "{bound}");
    let names: BTreeSet<_> = bound["data"]["bound"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(names, BTreeSet::from(["ONCRMDEALADD", "ONCRMDEALUPDATE"]));
    let (status, read) = place.send(&place.file("events-read.http"));
    assert_eq!((status, &read["data"]), (200, &json!({"events": [], "last": 0, "lost": 0})), "{read}");
}

/// What the module reads from an answer, by the variable in which it has it.
#[test]
fn every_name_that_the_module_reads_is_in_an_answer_of_the_program() {
    let place = Place::of(Proxy::installed().reconfigured("timeout       = 10", "timeout       = 4"));
    place.proxy.portal().seed("crm.deal", 700);
    let delay = || Action::DelayAnswer(Duration::from_millis(1500));
    place.proxy.portal().inject(Fault::once(Target::Method("crm.deal.list".into()), delay()));
    place.proxy.portal().inject(Fault::times(2, Target::Method("batch".into()), delay()));
    let mut answers = vec![place.send(&place.file("list.http")).1];
    let mut many = place.file("many-calls.http");
    let mut body = many.json();
    let mut calls = vec![json!({"method": "crm.deal.list"}), json!({"method": "no.such.method"})];
    calls.resize(170, json!({"method": "profile"}));
    (body["calls"], body["halt"]) = (calls.into(), false.into());
    many.body = body.to_string();
    place.proxy.portal().inject(Fault::once(Target::Method("batch".into()), delay()));
    answers.push(place.send(&many).1);
    // Calls that are refused for now.
    let refusing = Place::new();
    refusing.proxy.portal().refuse_next("crm.item.add", "OPERATION_TIME_LIMIT", 1);
    let mut file = refusing.file("many-calls.http");
    let mut body = file.json();
    body["calls"] = json!([{"method": "crm.item.add"}, {"method": "profile"}]);
    body["halt"] = false.into();
    file.body = body.to_string();
    answers.push(refusing.send(&file).1);
    drop(refusing);
    // An error of Bitrix24, and two of the program.
    let mut refused = place.file("one-call.http");
    refused.body = refused.body.replace("crm.item.add", "no.such.method");
    answers.push(place.send(&refused).1);
    drop(place);
    let place = Place::of(Proxy::not_installed());
    answers.push(place.send(&place.file("one-call.http")).1);
    let limits = "aliases = [\"acme\"]\nrequests_per_second = 0.1\nburst = 1";
    let slow =
        Proxy::installed().reconfigured("aliases = [\"acme\"]", limits).reconfigured("max_wait = 5", "max_wait = 1");
    let slow = Place::of(slow);
    let call = slow.file("list.http").json();
    let call = json!({"domain": call["domain"], "method": "profile"}).to_string();
    let mut file = slow.file("list.http");
    file.body = call;
    answers.extend((0..2).map(|_| slow.send(&file).1));
    assert_eq!(answers.last().unwrap()["error_code"], "rate_limited", "{answers:?}");

    let mut seen = BTreeSet::new();
    for answer in &answers {
        keys("Конверт", answer, &mut seen);
        keys("ОтветПортала", &answer["bitrix24"], &mut seen);
        keys("Ответ.Данные", &answer["data"], &mut seen);
        keys("Данные", &answer["data"], &mut seen);
        for result in answer["data"]["results"].as_array().into_iter().flatten() {
            keys("Ответ", result, &mut seen);
        }
    }
    // Of events: as the contract has them, until the program has them too.
    let events = json!({"events": [{"number": 1, "event": "ONCRMDEALADD", "data": {}, "at": 1}], "last": 1, "lost": 0});
    keys("Данные", &events, &mut seen);
    keys("Ответ.Данные", &events, &mut seen);
    keys("Событие", &events["events"][0], &mut seen);
    keys("Данные", &json!({"bound": []}), &mut seen);
    keys("Ответ.Данные", &json!({"bound": []}), &mut seen);
    for (from, name) in Module::load().read_by_name() {
        assert!(seen.contains(&(from.to_owned(), name.to_owned())), "{from}[{name:?}] is in no answer: {seen:?}");
    }
    assert!(!Module::load().read_by_name().is_empty());
}

fn keys(from: &str, value: &Value, seen: &mut BTreeSet<(String, String)>) {
    let object = value.as_object().into_iter().flatten();
    seen.extend(object.map(|(key, _)| (from.to_owned(), key.clone())));
}
