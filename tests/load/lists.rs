//! Long lists: as few requests as Bitrix24 allows, while rows come and go.

use super::fixture::Proxy;
use super::proxy;
use serde_json::{json, Value};
use simulator::Options;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const ROWS: u32 = 100_000;

fn ids(rows: &Value) -> impl Iterator<Item = i64> + '_ {
    rows.as_array().expect("rows").iter().map(|row| {
        let id = row.get("ID").or_else(|| row.get("id")).expect("an ID");
        id.as_i64().or_else(|| id.as_str()?.parse().ok()).expect("a number")
    })
}

/// Asks until the list is complete.
fn read(proxy: &Proxy, method: &str, params: &Value) -> Vec<i64> {
    let (mut rows, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let mut body = json!({ "method": method, "params": params, "all": true });
        if cursor.is_string() {
            body["cursor"] = cursor;
        }
        let answer = proxy.request(body.to_string()).measure_memory().run();
        assert_eq!(answer.status, 200, "{}", answer.text());
        // The answer and one batch beside it; `max_response` is 64 MiB.
        let bound = 3 * answer.body.len() / 1024 + 8 * 1024;
        assert!(answer.max_rss.expect("measured") as usize <= bound, "{method}: {:?} KiB > {bound}", answer.max_rss);
        let data = answer.json()["data"].clone();
        rows.extend(ids(&data["result"]));
        if data["complete"] == true {
            return rows;
        }
        cursor = data["cursor"].clone();
    }
}

#[test]
fn a_hundred_thousand_rows_of_any_family_come_once_in_43_requests_while_rows_come_and_go() {
    for (kind, method, params) in [
        ("crm.deal", "crm.deal.list", json!({"select": ["TITLE"]})),
        ("crm.activity", "crm.activity.list", json!({})),
        ("catalog.product", "catalog.product.list", json!({"filter": {"iblockId": 24}, "select": ["id", "iblockId"]})),
        ("sale.order", "sale.order.list", json!({"select": ["id"]})),
        ("tasks.task", "tasks.task.list", json!({"select": ["ID", "title"]})),
        ("user", "user.get", json!({})),
        ("lists.element", "lists.element.get", json!({"IBLOCK_TYPE_ID": "lists", "IBLOCK_ID": 5})),
    ] {
        let proxy = proxy(Options { https: false, ..Options::default() }, 2, 50)
            .reconfigured("timeout       = 10", "timeout       = 55");
        proxy.portal().grant("lists");
        proxy.portal().set_bucket(2.0, 50.0);
        proxy.store_pair(&proxy.portal().issue_pair(1));
        proxy.portal().seed(kind, ROWS);
        let started = Instant::now();
        let (rows, deleted) = std::thread::scope(|scope| {
            let reading = scope.spawn(|| read(&proxy, method, &params));
            let mut deleted = BTreeSet::new();
            let mut round = 0;
            while !reading.is_finished() {
                round += 1;
                let id = round * 7919 % i64::from(ROWS) + 1;
                proxy.portal().unseed(kind, [id]);
                deleted.insert(id);
                if round % 10 == 0 && round < 2000 {
                    proxy.portal().seed(kind, 1);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            (reading.join().expect("a list"), deleted)
        });
        let calls = proxy.simulator.ledger().all_calls().count();
        println!("{method}: {calls} requests, {:?}, {} deleted meanwhile", started.elapsed(), deleted.len());
        assert!(calls <= 43, "{method}: {calls} requests");
        let distinct: BTreeSet<i64> = rows.iter().copied().collect();
        assert_eq!(distinct.len(), rows.len(), "{method}: doubled");
        let lost = (1..=i64::from(ROWS)).find(|id| !deleted.contains(id) && !distinct.contains(id));
        assert_eq!(lost, None, "{method}");
    }
}
