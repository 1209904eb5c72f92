//! Contract section 4: `"all": true`, a list read to its end.

use crate::calls::tested_rate;
use crate::fixture::*;
use serde_json::{json, Value};
use simulator::{Action, Fault, Options, Target};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use support::cgi::{Answer, Cgi};

const LIMITS: &str = "aliases = [\"acme\"]";

impl Proxy {
    pub fn whole<'p>(&'p self, method: &str, params: Value, cursor: Option<&str>) -> Cgi<'p> {
        let mut body = json!({ "domain": self.portal().name(), "method": method, "params": params, "all": true });
        if let Some(cursor) = cursor {
            body["cursor"] = cursor.into();
        }
        self.request(body.to_string())
    }

    pub fn all(&self, method: &str, params: Value) -> Value {
        data(&self.whole(method, params, None).run())
    }

    /// The parameters of each page that was asked for, within batches too.
    pub fn pages(&self, method: &str) -> Vec<Value> {
        let ledger = self.simulator.ledger();
        let of_call = |call: &simulator::Call| match call.method.as_str() {
            "batch" => {
                let commands = call.commands.iter().filter(|command| command.method == method);
                commands.map(|command| command.params.clone()).collect()
            }
            name if name == method => vec![call.params.clone()],
            _ => Vec::new(),
        };
        ledger.all_calls().flat_map(of_call).collect()
    }
}

pub fn data(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    answer.json()["data"].clone()
}

fn id(row: &Value) -> u64 {
    let id = row.get("ID").or_else(|| row.get("id")).unwrap_or_else(|| panic!("no ID: {row}"));
    id.as_u64().or_else(|| id.as_str()?.parse().ok()).unwrap()
}

pub fn ids(data: &Value) -> Vec<u64> {
    data["result"].as_array().unwrap().iter().map(id).collect()
}

#[track_caller]
pub fn assert_whole(data: &Value, count: u64) {
    assert_eq!(ids(data), (1..=count).collect::<Vec<_>>());
    assert_eq!((&data["complete"], data.get("cursor")), (&json!(true), None));
}

/// As 1C does: asks with each cursor until the list is complete, and counts the requests.
pub fn until_complete(proxy: &Proxy, method: &str, params: &Value, mut between: impl FnMut()) -> (Vec<u64>, usize) {
    let (mut rows, mut cursor, mut requests) = (Vec::new(), None::<String>, 0);
    loop {
        let data = data(&proxy.whole(method, params.clone(), cursor.as_deref()).run());
        requests += 1;
        assert!(requests < 100, "no end");
        rows.extend(ids(&data));
        if data["complete"] == true {
            return (rows, requests);
        }
        cursor = Some(data["cursor"].as_str().expect("an opaque text").to_owned());
        between();
    }
}

fn delete(ids: impl IntoIterator<Item = u64>, proxy: &Proxy) {
    let calls: Vec<Value> =
        ids.into_iter().map(|id| json!({"method": "crm.deal.delete", "params": {"id": id}})).collect();
    let body = json!({ "domain": proxy.portal().name(), "calls": calls }).to_string();
    assert_eq!(proxy.request(body).run().json()["data"]["errors"], 0);
}

#[test]
fn a_list_of_any_length_is_read_to_its_end() {
    for count in [0, 1, 49, 50, 51, 99, 100, 550, 2500, 2501] {
        let proxy = Proxy::installed();
        proxy.portal().seed("crm.deal", count);
        let data = proxy.all("crm.deal.list", json!({}));
        assert_whole(&data, count.into());
        assert_eq!(data["total"], count);
        assert_eq!(data["result"].get(0).map(|row| row["STAGE_ID"].clone()), (count > 0).then(|| json!("NEW")));
    }
}

#[test]
fn the_fast_way_reads_by_id_without_counting() {
    let proxy = Proxy::installed();
    proxy.portal().seed("crm.deal", 700);
    assert_whole(&proxy.all("crm.deal.list", json!({"filter": {">OPPORTUNITY": 0}})), 700);
    let pages = proxy.pages("crm.deal.list");
    assert_eq!(pages[0]["start"], 0);
    for page in &pages[1..] {
        assert_eq!((&page["start"], &page["order"]), (&json!("-1"), &json!({"ID": "ASC"})), "{page}");
        assert_eq!(page["filter"][">OPPORTUNITY"], "0", "{page}");
        assert!(page["filter"].get(">ID").is_some(), "{page}");
    }
    assert_eq!(proxy.simulator.ledger().all_calls().count(), 3);
}

#[test]
fn the_fast_way_reads_items_wherever_the_method_puts_them() {
    let proxy = Proxy::installed();
    proxy.portal().seed_items(2, 1234);
    let data = proxy.all("crm.item.list", json!({"entityTypeId": 2, "select": ["title"]}));
    assert_whole(&data, 1234);
    assert_eq!(proxy.simulator.ledger().all_calls().count(), 3);
}

#[test]
fn a_missing_id_is_added_to_select() {
    let proxy = Proxy::installed();
    proxy.portal().seed("crm.deal", 60);
    assert_whole(&proxy.all("crm.deal.list", json!({"select": ["TITLE"]})), 60);
    assert_eq!(proxy.pages("crm.deal.list")[0]["select"], json!(["TITLE", "ID"]));
    proxy.portal().seed_items(2, 60);
    assert_whole(&proxy.all("crm.item.list", json!({"entityTypeId": 2, "select": ["title"]})), 60);
    assert_eq!(proxy.pages("crm.item.list")[0]["select"], json!(["title", "id"]));
    proxy.simulator.clear_ledger();
    assert_whole(&proxy.all("crm.deal.list", json!({"select": ["ID", "TITLE"]})), 60);
    assert_eq!(proxy.pages("crm.deal.list")[0]["select"], json!(["ID", "TITLE"]));
    assert_whole(&proxy.all("crm.deal.list", json!({"select": []})), 60);
}

#[test]
fn a_missing_id_is_added_to_select_where_a_list_is_read_by_start_too() {
    let proxy = Proxy::installed();
    proxy.portal().seed("crm.deal", 120);
    for own in [json!({"order": {"TITLE": "ASC"}}), json!({"start": 0}), json!({"filter": {">ID": 0}})] {
        let mut params = own.clone();
        params["select"] = json!(["TITLE"]);
        proxy.simulator.clear_ledger();
        assert_eq!(ids(&proxy.all("crm.deal.list", params)).len(), 120);
        let pages = proxy.pages("crm.deal.list");
        assert!(pages.iter().all(|page| page["select"] == json!(["TITLE", "ID"])), "{own}: {pages:?}");
    }
    // The names of any other method are not known.
    proxy.portal().seed("crm.requisite", 60);
    proxy.all("crm.requisite.list", json!({"select": ["ID", "NAME"]}));
    assert_eq!(proxy.pages("crm.requisite.list")[0]["select"], json!(["ID", "NAME"]));
    // One row was deleted and another added, so that the count is the same: the first behind them has moved, unseen.
    let proxy = Proxy::installed();
    let mut moved = batch(&[numbered(2, 51), numbered(52, 101)]);
    moved["result"]["result_next"] = json!({"c0": 50});
    moved["result"]["result_total"] = json!({"c0": 100, "c1": 100});
    answers(&proxy, &[json!({"result": numbered(1, 50), "next": 50, "total": 100}), moved]);
    let data = proxy.all("crm.deal.list", json!({"order": {"TITLE": "ASC"}, "select": ["TITLE"]}));
    assert_whole(&data, 101);
    assert_eq!(proxy.simulator.ledger().all_calls().next().unwrap().params["select"], json!(["TITLE", "ID"]));
}

#[test]
fn a_place_in_a_list_that_no_list_has_is_behind_its_end() {
    let proxy = Proxy::installed();
    proxy.portal().seed("crm.deal", 120);
    proxy.portal().seed("tasks.task", 20);
    for start in [json!(u64::MAX), json!(u64::MAX - 10), json!("18446744073709551615"), json!(1_u64 << 62)] {
        let data = proxy.all("crm.deal.list", json!({ "start": start }));
        assert_eq!(ids(&data), [] as [u64; 0], "{start}");
        let pagination = json!({"pagination": {"offset": start, "limit": 7}});
        let body = json!({"method": "tasks.task.list", "params": pagination, "version": 3, "all": true});
        assert_eq!(ids(&data_of(&proxy, &body)), [] as [u64; 0], "{start}");
    }
    for next in [u64::MAX, u64::MAX - 50, 1 << 62] {
        for total in [json!(u64::MAX), json!(null)] {
            let proxy = Proxy::installed();
            answers(&proxy, &[json!({"result": numbered(1, 50), "next": next, "total": total})]);
            let answer = proxy.whole("some.list", json!({}), None).run();
            assert_ne!(answer.status, 500, "{next} {total}: {}", answer.stderr);
        }
    }
}

fn data_of(proxy: &Proxy, body: &Value) -> Value {
    data(&proxy.request(body.to_string()).run())
}

#[test]
fn the_slow_way_reads_every_other_method_by_start() {
    for (kind, method) in [("crm.requisite", "crm.requisite.list"), ("department", "department.get")] {
        let proxy = Proxy::installed();
        proxy.portal().grant("department");
        for (more, count) in [(0, 0), (50, 50), (1, 51), (2500 - 51, 2500)] {
            proxy.portal().seed(kind, more);
            let data = proxy.all(method, json!({}));
            assert_whole(&data, count);
            assert_eq!(data["total"], count, "{method}");
        }
        assert!(proxy.pages(method).iter().all(|page| page.get("filter").is_none() && page.get("order").is_none()));
    }
}

#[test]
fn the_callers_own_order_start_or_filter_on_id_means_paging_by_start() {
    let proxy = Proxy::installed();
    proxy.portal().seed("crm.deal", 330);
    let read = |params: Value| ids(&proxy.all("crm.deal.list", params));
    assert_eq!(read(json!({"order": {"ID": "DESC"}})), (1..=330).rev().collect::<Vec<_>>());
    assert_eq!(read(json!({"start": 100})), (101..=330).collect::<Vec<_>>());
    assert_eq!(read(json!({"start": "250"})), (251..=330).collect::<Vec<_>>());
    assert_eq!(read(json!({"START": -1})), (1..=330).collect::<Vec<_>>());
    assert_eq!(read(json!({"filter": {">ID": 120, "<=ID": 300}})), (121..=300).collect::<Vec<_>>());
    assert_eq!(read(json!({"filter": {"@ID": [5, 7]}})), [5, 7]);
    // Beside "OR" a condition of ours would be one of several.
    for filter in [json!({"logic": "OR", "=OPENED": "Y"}), json!({"!A": [{"ID": 5}]})] {
        read(json!({"filter": filter}));
        assert_eq!(proxy.pages("crm.deal.list").last().unwrap()["filter"], filter);
    }
    assert!(proxy.pages("crm.deal.list").iter().all(|page| page["start"] != "-1" && page["start"] != -1));
}

#[test]
fn parameters_that_would_not_survive_a_batch_are_read_page_by_page() {
    let proxy = Proxy::installed();
    proxy.portal().seed("crm.deal", 160);
    proxy.portal().seed("crm.requisite", 160);
    for method in ["crm.deal.list", "crm.requisite.list"] {
        assert_whole(&proxy.all(method, json!({"params": {"x": null}})), 160);
        assert_eq!(proxy.simulator.ledger().calls(method), 4);
    }
    assert_eq!(proxy.simulator.ledger().calls("batch"), 0);
}

#[test]
fn a_filter_is_kept_on_every_page() {
    let proxy = Proxy::installed();
    proxy.portal().seed("crm.deal", 600);
    let data = proxy.all("crm.deal.list", json!({"filter": {"STAGE_ID": "WON"}, "select": ["ID"]}));
    assert_eq!(ids(&data), (1..=300).map(|i| i * 2).collect::<Vec<_>>());
    assert_eq!(data["total"], 300);
}

#[test]
fn a_chained_page_behind_a_short_one_is_discarded() {
    let proxy = Proxy::over_http();
    proxy.portal().seed("crm.deal", 700);
    // Between the first page, which counts, and the batch, most rows go: its pages refer to rows that are not there.
    proxy.simulator.inject(Fault::once(Target::Method("batch".into()), Action::Delay(Duration::from_secs(2))));
    let data = std::thread::scope(|scope| {
        let running = scope.spawn(|| proxy.all("crm.deal.list", json!({})));
        assert!(proxy.simulator.wait_for(Duration::from_secs(5), |ledger| ledger.calls("batch") == 1));
        proxy.portal().unseed("crm.deal", 61..=700);
        running.join().unwrap()
    });
    assert_whole(&data, 60);
    let ledger = proxy.simulator.ledger();
    // Bitrix24 takes the deepest level that there is: the whole short page.
    let commands = ledger.all_calls().flat_map(|call| &call.commands);
    let unresolved = commands.filter(|command| command.params["filter"][">ID"].is_array()).count();
    assert!(unresolved > 0, "the batch had chained pages behind the short one");
}

impl Proxy {
    /// Deletes deals by the portal's own webhook, without this program.
    fn other_caller(proxy: &Proxy) -> impl Fn(Value) + '_ {
        |params| {
            let url = format!("{}crm.deal.delete", proxy.portal().webhook_url());
            let rest = url.strip_prefix("http://").expect("a portal over http");
            post(rest, &params.to_string());
        }
    }

    fn over_http() -> Proxy {
        let proxy = Proxy::with(Options { https: false, ..Options::default() });
        proxy.store_pair(&proxy.portal().issue_pair(1));
        proxy
    }
}

/// `POST http://ADDRESS` of JSON.
fn post(address: &str, json: &str) {
    use std::io::{Read, Write};
    let (host, path) = address.split_once('/').unwrap();
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    let length = json.len();
    write!(
        stream,
        "POST /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{json}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_batch_that_fails_answers_what_was_read_and_a_cursor_behind_it() {
    for action in [Action::CloseAfter, Action::Html500, Action::TruncateJson] {
        let proxy = Proxy::installed();
        proxy.portal().seed("crm.deal", 3000);
        proxy.simulator.inject(Fault::once(Target::Method("batch".into()), action.clone()).after(1));
        let data = proxy.all("crm.deal.list", json!({}));
        assert_eq!((ids(&data).len(), &data["complete"], &data["total"]), (550, &json!(false), &json!(3000)));
        let cursor = data["cursor"].as_str().unwrap();
        let rest = self::data(&proxy.whole("crm.deal.list", json!({}), Some(cursor)).run());
        assert_eq!(ids(&rest), (551..=3000).collect::<Vec<_>>(), "{action:?}");
        assert_eq!(rest["complete"], true);
    }
}

/// A batch's answer in which one page has failed.
fn with_failed_page(failed: usize) -> Action {
    let page = |i: u64| (i * 50 + 1..=i * 50 + 50).map(|id| json!({"ID": id.to_string()})).collect::<Vec<_>>();
    let mut result = serde_json::Map::new();
    let mut errors = serde_json::Map::new();
    for i in 0..10 {
        let name = format!("c{i}");
        if i == failed {
            errors.insert(name, json!({"error": "INTERNAL", "error_description": "x"}));
        } else {
            // Behind the failed one the reference leads nowhere: the first page again.
            result.insert(name, page(if i < failed { i as u64 + 1 } else { 0 }).into());
        }
    }
    let body = json!({"result": {"result": result, "result_error": errors, "result_total": [], "result_next": []}});
    Action::Status { status: 200, content_type: "application/json".into(), body: body.to_string() }
}

#[test]
fn a_command_that_fails_in_the_middle_of_a_chain_ends_it_there() {
    for failed in [0, 4, 9] {
        let proxy = Proxy::installed();
        proxy.portal().seed("crm.deal", 1000);
        proxy.simulator.inject(Fault::once(Target::Method("batch".into()), with_failed_page(failed)));
        let (rows, requests) = until_complete(&proxy, "crm.deal.list", &json!({}), || {});
        assert_eq!(rows, (1..=1000).collect::<Vec<_>>(), "{failed}");
        assert_eq!(requests, 2);
    }
}

#[test]
fn bitrix24s_own_error_is_answered_where_nothing_was_read() {
    let proxy = Proxy::installed();
    let error = Action::ErrorJson { status: 400, error: "BAD_FILTER".into(), error_description: "why".into() };
    proxy.simulator.inject(Fault::once(Target::Call, error));
    let answer = proxy.whole("crm.deal.list", json!({}), None).run();
    assert_failure(&answer, 400, "bitrix24_error");
    assert_eq!(answer.json()["bitrix24"]["error"], "BAD_FILTER");
}

#[test]
fn where_time_runs_out_the_cursor_goes_on_with_no_gap_and_no_duplicate() {
    let proxy = Proxy::installed()
        .reconfigured("timeout       = 10", "timeout       = 2")
        .reconfigured(LIMITS, "requests_per_second = 2\nburst = 2");
    proxy.portal().seed("crm.deal", 9_020);
    proxy.portal().seed("crm.requisite", 12_020);
    for (method, count) in [("crm.deal.list", 9_020), ("crm.requisite.list", 12_020)] {
        std::thread::sleep(Duration::from_secs(1));
        let (rows, requests) = until_complete(&proxy, method, &json!({}), || {});
        assert_eq!(rows, (1..=count).collect::<Vec<_>>(), "{method}");
        assert!(requests > 1, "{method}: {requests}");
    }
}

#[test]
fn where_size_runs_out_the_cursor_goes_on_with_no_gap_and_no_duplicate() {
    let proxy = Proxy::installed().reconfigured("[limits]", "[limits]\nmax_response = \"700 KiB\"");
    proxy.portal().seed("crm.deal", 10_000);
    proxy.portal().seed("crm.requisite", 10_000);
    for method in ["crm.deal.list", "crm.requisite.list"] {
        let (rows, requests) = until_complete(&proxy, method, &json!({}), || {});
        assert_eq!(rows, (1..=10_000).collect::<Vec<_>>(), "{method}");
        assert!((2..=8).contains(&requests), "{method}: {requests}");
    }
}

#[test]
fn a_cursor_of_a_list_that_changed_between_requests_leaves_out_nothing() {
    for params in [json!({}), json!({"order": {"ID": "ASC"}}), json!({"order": {"ID": "DESC"}})] {
        let proxy = Proxy::installed().reconfigured("[limits]", "[limits]\nmax_response = \"300 KiB\"");
        proxy.portal().seed("crm.deal", 5000);
        let mut round = 0;
        let (rows, requests) = until_complete(&proxy, "crm.deal.list", &params, || {
            round += 1;
            // Some in front, some behind, and new ones.
            delete((1..20).map(|i| round * 30 + i), &proxy);
            delete((1..10).map(|i| 5000 - round * 30 - i), &proxy);
            proxy.portal().seed("crm.deal", 7);
        });
        assert!(requests > 2);
        let distinct: BTreeSet<u64> = rows.iter().copied().collect();
        assert_eq!(distinct.len(), rows.len(), "{params}: duplicates");
        let (stayed, _) = until_complete(&proxy, "crm.deal.list", &json!({"filter": {"<=ID": 5000}}), || {});
        let gaps: Vec<&u64> = stayed.iter().filter(|id| !distinct.contains(id)).collect();
        assert!(gaps.is_empty(), "{params}: {gaps:?}");
    }
}

#[test]
fn a_page_that_is_not_full_behind_a_cursor_is_not_the_end_where_there_are_more_rows() {
    let proxy = Proxy::installed().reconfigured("[limits]", "[limits]\nmax_response = \"8 KiB\"");
    proxy.portal().seed("crm.deal", 300);
    let first = proxy.all("crm.deal.list", json!({}));
    let (read, cursor) = (ids(&first).len() as u64, first["cursor"].as_str().expect("size ran out").to_owned());
    let goes_on = || data(&proxy.whole("crm.deal.list", json!({}), Some(&cursor)).run());
    // A row that this user may not see.
    answers(&proxy, &[json!({"result": numbered(read + 1, read + 49)}), batch(&[numbered(read + 51, read + 60)])]);
    answers(&proxy, &[batch(&[json!([])])]);
    proxy.simulator.clear_ledger();
    let rest = goes_on();
    assert_eq!(ids(&rest), (read + 1..=read + 49).chain(read + 51..=read + 60).collect::<Vec<_>>());
    assert_eq!(rest["complete"], true);
    let ledger = proxy.simulator.ledger();
    let commands: Vec<usize> =
        ledger.all_calls().map(|call| call.params["cmd"].as_object().map_or(0, |cmd| cmd.len())).collect();
    assert_eq!(commands, [0, 1, 1], "no page is asked for behind one that is not there");
}

#[test]
fn a_cursor_of_a_list_that_changed_too_much_is_refused() {
    let proxy = Proxy::installed().reconfigured("[limits]", "[limits]\nmax_response = \"300 KiB\"");
    proxy.portal().seed("crm.deal", 3000);
    let params = json!({"order": {"ID": "ASC"}});
    let first = proxy.all("crm.deal.list", params.clone());
    delete(1..=200, &proxy);
    let answer = proxy.whole("crm.deal.list", params, first["cursor"].as_str()).run();
    assert_failure(&answer, 400, "invalid_request");
    assert!(answer.json()["error"].as_str().unwrap().contains("changed"), "{}", answer.text());
}

#[test]
fn a_list_that_changes_while_it_is_read_has_no_duplicates_and_no_gaps() {
    let descending = json!({"order": {"ID": "DESC"}});
    for (params, deletes, adds) in [
        (json!({}), true, true),
        (json!({"x": null}), true, true),
        // By `start`, rows that are added and deleted between two pages of one batch hide each other.
        (json!({"order": {"ID": "ASC"}}), true, false),
        (json!({"order": {"ID": "ASC"}, "x": null}), true, false),
        (descending.clone(), true, false),
        (descending, false, true),
    ] {
        // A list that changes faster than it is read, where other tests take the CPUs, is honestly told to be incomplete.
        let read = (0..3).any(|_| is_read_while_it_changes(&params, deletes, adds));
        assert!(read, "{params}: never complete");
    }
}

/// Whether it was told to be complete.
fn is_read_while_it_changes(params: &Value, deletes: bool, adds: bool) -> bool {
    let proxy = Proxy::over_http().reconfigured("timeout       = 10", "timeout       = 55");
    let count = if params.get("x").is_some() { 1500 } else { 6000 };
    proxy.portal().seed("crm.deal", count);
    let pause = Action::Delay(Duration::from_millis(150));
    proxy.simulator.inject(Fault::forever(Target::Method("batch".into()), pause));
    let (data, deleted) = std::thread::scope(|scope| {
        let running = scope.spawn(|| proxy.all("crm.deal.list", params.clone()));
        let (remove, mut deleted) = (Proxy::other_caller(&proxy), BTreeSet::new());
        let mut round = 0;
        while !running.is_finished() {
            round += 1;
            let id = (round * 37) % u64::from(count) + 1;
            if deletes && deleted.insert(id) {
                remove(json!({ "id": id }));
            }
            if adds && round % 5 == 0 {
                proxy.portal().seed("crm.deal", 1);
            }
            std::thread::sleep(Duration::from_millis(4));
        }
        (running.join().unwrap(), deleted)
    });
    assert!(deleted.len() >= 3 || !deletes, "the list did change: {}", deleted.len());
    let rows = ids(&data);
    let distinct: BTreeSet<u64> = rows.iter().copied().collect();
    assert_eq!(distinct.len(), rows.len(), "{params}: duplicates");
    let stayed = (1..=u64::from(count)).filter(|id| !deleted.contains(id));
    let gaps: Vec<u64> = stayed.filter(|id| !distinct.contains(id)).collect();
    let is_complete = data["complete"] == true;
    assert!(!is_complete || gaps.is_empty(), "{params}: {gaps:?}, {} deleted", deleted.len());
    is_complete
}

#[test]
fn more_rows_than_a_page_deleted_between_two_batches_leave_no_gap() {
    let proxy = Proxy::over_http();
    proxy.portal().seed("crm.deal", 2000);
    proxy.simulator.inject(Fault::once(Target::Method("batch".into()), Action::Delay(Duration::from_secs(2))).after(1));
    let data = std::thread::scope(|scope| {
        let running = scope.spawn(|| proxy.all("crm.deal.list", json!({"order": {"ID": "ASC"}})));
        assert!(proxy.simulator.wait_for(Duration::from_secs(5), |ledger| ledger.calls("batch") == 2));
        proxy.portal().unseed("crm.deal", 1..=230);
        running.join().unwrap()
    });
    assert_whole(&data, 2000);
}

/// The answers that a method of its own kind gives, one after another.
pub fn answers(proxy: &Proxy, bodies: &[Value]) {
    for body in bodies {
        let answer = Action::Status { status: 200, content_type: "application/json".into(), body: body.to_string() };
        proxy.simulator.inject(Fault::once(Target::Call, answer));
    }
}

pub fn numbered(from: u64, to: u64) -> Value {
    (from..=to).map(|id| json!({ "ID": id })).collect()
}

#[test]
fn a_list_method_without_next_and_total_is_read_once() {
    let proxy = Proxy::installed();
    answers(&proxy, &[json!({"result": numbered(1, 7)})]);
    let data = proxy.all("crm.status.list", json!({}));
    assert_whole(&data, 7);
    assert_eq!(data.get("total"), None);
    assert_eq!(proxy.simulator.ledger().all_calls().count(), 1);
}

/// A batch's answer with these pages.
pub fn batch(pages: &[Value]) -> Value {
    let pages: serde_json::Map<String, Value> =
        pages.iter().enumerate().map(|(i, page)| (format!("c{i}"), page.clone())).collect();
    json!({"result": {"result": pages, "result_error": [], "result_total": [], "result_next": []}})
}

#[test]
fn a_page_that_is_shorter_than_the_list_is_said_to_be_is_tried_for_another() {
    // Pages of ten …
    let proxy = Proxy::installed();
    let pages = [numbered(1, 10), numbered(11, 20), numbered(21, 30), numbered(31, 40), json!([]), json!([])];
    answers(&proxy, &[json!({"result": numbered(1, 10), "total": 40}), batch(&pages)]);
    assert_whole(&proxy.all("some.list", json!({})), 40);
    // … or rows that this user may not see.
    for rest in [json!([]), numbered(1, 10)] {
        let proxy = Proxy::installed();
        let pages = [numbered(1, 10), rest.clone(), rest.clone(), rest];
        answers(&proxy, &[json!({"result": numbered(1, 10), "total": 12}), batch(&pages)]);
        assert_eq!(ids(&proxy.all("some.list", json!({}))).len(), 10);
    }
}

#[test]
fn a_full_page_without_next_and_total_is_tried_for_another() {
    let page = numbered(1, 50);
    // It knows `start` …
    let proxy = Proxy::installed();
    answers(&proxy, &[json!({"result": page}), batch(&[page.clone(), numbered(51, 60)])]);
    assert_whole(&proxy.all("some.list", json!({})), 60);
    // … it does not …
    let proxy = Proxy::installed();
    answers(&proxy, &[json!({"result": page}), batch(&[page.clone(), page.clone()])]);
    assert_whole(&proxy.all("some.list", json!({})), 50);
    // … or its rows have no ID.
    let nameless: Value = (0..50).map(|i| json!({"NAME": format!("n{i}")})).collect();
    let proxy = Proxy::installed();
    answers(&proxy, &[json!({"result": nameless}), batch(&[nameless.clone(), nameless.clone()])]);
    assert_eq!(proxy.all("some.list", json!({}))["result"].as_array().unwrap().len(), 50);
}

#[test]
fn rows_whose_id_does_not_tell_them_apart_are_all_kept() {
    let proxy = Proxy::installed();
    answers(&proxy, &[json!({"result": [{"ID": 1, "DAY": 1}, {"ID": 1, "DAY": 2}, {"ID": 2}]})]);
    assert_eq!(proxy.all("calendar.event.get", json!({}))["result"].as_array().unwrap().len(), 3);
}

#[test]
fn a_short_list_never_looks_whole() {
    for (body, word) in [
        (json!({"result": numbered(1, 50), "total": 120}), "next"),
        (json!({"result": numbered(1, 50), "total": 120, "next": 0}), "next"),
        (json!({"result": {"items": numbered(1, 20), "hasMore": true}}), "more rows"),
    ] {
        let proxy = Proxy::installed();
        answers(&proxy, &[body]);
        let answer = proxy.whole("some.list", json!({}), None).run();
        assert_failure(&answer, 400, "invalid_request");
        assert!(answer.json()["error"].as_str().unwrap().contains(word), "{}", answer.text());
    }
}

#[test]
fn a_method_known_to_be_fast_that_answers_otherwise_is_read_by_start() {
    let proxy = Proxy::installed();
    proxy.portal().seed("crm.deal", 130);
    answers(&proxy, &[json!({"result": numbered(1, 20), "next": 20, "total": 130})]);
    assert_whole(&proxy.all("crm.deal.list", json!({})), 130);
    assert!(proxy.pages("crm.deal.list")[1..].iter().all(|page| page.get("order").is_none()));
}

#[test]
fn what_is_not_a_list_is_said_clearly() {
    let proxy = Proxy::installed();
    proxy.portal().seed("crm.deal", 1);
    for (method, params) in [("crm.deal.get", json!({"id": 1})), ("user.admin", json!({})), ("profile", json!({}))] {
        let answer = proxy.whole(method, params, None).run();
        assert_failure(&answer, 400, "invalid_request");
        assert!(answer.json()["error"].as_str().unwrap().contains("no list"), "{}", answer.text());
    }
    proxy.simulator.clear_ledger();
    for method in ["crm.deal.add", "CRM.Deal.Delete.json", "batch"] {
        assert_failure(&proxy.whole(method, json!({}), None).run(), 400, "invalid_request");
    }
    assert_failure(&proxy.whole("crm.deal.list", json!([1]), None).run(), 400, "invalid_request");
    assert_eq!(proxy.simulator.ledger().all_calls().count(), 0);
}

#[test]
fn a_cursor_that_is_not_one_of_this_methods_is_400() {
    let proxy = Proxy::installed().reconfigured("[limits]", "[limits]\nmax_response = \"100 KiB\"");
    proxy.portal().seed("crm.deal", 3000);
    let first = proxy.all("crm.deal.list", json!({}));
    let good = first["cursor"].as_str().unwrap().to_owned();
    for bad in ["", "nonsense", "id:1", &good[1..], &good.replace(':', ":1"), &format!("{good}0")] {
        let answer = proxy.whole("crm.deal.list", json!({}), Some(bad)).run();
        assert_failure(&answer, 400, "invalid_request");
        assert!(answer.json()["error"].as_str().unwrap().contains("cursor"), "{}", answer.text());
    }
    assert_failure(&proxy.whole("crm.lead.list", json!({}), Some(&good)).run(), 400, "invalid_request");
    let ordered = proxy.whole("crm.deal.list", json!({"order": {"ID": "ASC"}}), Some(&good)).run();
    assert_failure(&ordered, 400, "invalid_request");
}

#[test]
fn an_idempotency_key_is_400_where_all_only_reads() {
    let proxy = Proxy::installed();
    let answer = proxy.whole("crm.deal.list", json!({}), None).header("Idempotency-Key", "k").run();
    assert_failure(&answer, 400, "invalid_request");
    assert_eq!(proxy.simulator.ledger().all_calls().count(), 0);
}

#[test]
fn a_client_needs_the_right_to_the_method_only() {
    let restricted = "[[security.clients]]\nname = \"shop\"\ntoken = \"a-token-of-a-restricted-client\"\n\
                      methods = [\"crm.deal.list\"]\n\n[limits]";
    let proxy = Proxy::installed().reconfigured("[limits]", restricted);
    proxy.portal().seed("crm.deal", 120);
    let read = |method: &str| {
        let body = json!({ "domain": proxy.portal().name(), "method": method, "all": true }).to_string();
        proxy.bare_request(body).bearer("a-token-of-a-restricted-client").run()
    };
    assert_whole(&data(&read("crm.deal.list")), 120);
    assert_failure(&read("crm.lead.list"), 403, "forbidden");
}

#[test]
fn memory_stays_below_twice_max_response_and_16_mib() {
    let proxy = Proxy::installed().reconfigured("[limits]", "[limits]\nmax_response = \"8 MiB\"");
    proxy.portal().seed("crm.deal", 50_000);
    proxy.portal().seed("crm.requisite", 50_000);
    for method in ["crm.deal.list", "crm.requisite.list"] {
        let answer = proxy.whole(method, json!({}), None).measure_memory().run();
        assert!(answer.body.len() > 2 << 20, "{method}: {}", answer.body.len());
        println!("{method}: {} bytes, {} KiB", answer.body.len(), answer.max_rss.unwrap());
        assert!(answer.max_rss.unwrap() < (2 * 8 + 16) * 1024, "{method}: {:?} KiB", answer.max_rss);
    }
}

#[test]
fn memory_stays_so_with_answers_nearly_as_large_as_max_response() {
    let proxy = Proxy::installed().reconfigured("[limits]", "[limits]\nmax_response = \"8 MiB\"");
    let text = "x".repeat(150_000);
    let add = json!({"method": "crm.deal.add", "params": {"fields": {"TITLE": text}}});
    for _ in 0..2 {
        let body = json!({ "domain": proxy.portal().name(), "calls": vec![add.clone(); 35] }).to_string();
        assert_eq!(data(&proxy.request(body).run())["errors"], 0);
    }
    let calls =
        json!({ "domain": proxy.portal().name(), "calls": [{"method": "crm.deal.list"}, {"method": "profile"}] });
    let whole = proxy.whole("crm.deal.list", json!({}), None);
    for request in [proxy.request(calls.to_string()), whole] {
        let answer = request.measure_memory().run();
        assert!(answer.body.len() > 7_400_000, "{}", answer.body.len());
        println!("{} bytes, {} KiB", answer.body.len(), answer.max_rss.unwrap());
        assert!(answer.max_rss.unwrap() < (2 * 8 + 16) * 1024, "{:?} KiB", answer.max_rss);
    }
    let (rows, _) = until_complete(&proxy, "crm.deal.list", &json!({}), || {});
    assert_eq!(rows, (1..=70).collect::<Vec<_>>());
}

#[test]
fn a_hundred_thousand_rows_need_hardly_more_than_the_fewest_requests() {
    let rate = tested_rate();
    let proxy = Proxy::over_http()
        .reconfigured("timeout       = 10", "timeout       = 55")
        .reconfigured(LIMITS, &format!("requests_per_second = {rate}\nburst = 50"));
    proxy.portal().set_bucket(rate, 50.0);
    proxy.portal().seed("crm.deal", 100_000);
    let started = Instant::now();
    let (rows, requests) = until_complete(&proxy, "crm.deal.list", &json!({"select": ["TITLE"]}), || {});
    let calls = proxy.simulator.ledger().all_calls().count();
    println!("100,000 rows: {:?}, {calls} requests to the portal, {requests} to the program", started.elapsed());
    assert_eq!(rows, (1..=100_000).collect::<Vec<_>>());
    // 40 batches of 50 pages of 50 rows; the burst lets them all pass at once.
    assert!(calls <= 44, "{calls}");
}
