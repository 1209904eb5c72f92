//! Contract section 4: which lists `"all": true` reads by ID, that every page asks the same question, and when a list is
//! called whole; REST 3.0.

use crate::fixture::*;
use crate::lists::{answers, assert_whole, data, ids, numbered, until_complete};
use serde_json::{json, Value};
use simulator::{ListFault, Options};

/// A method of the table: records, parameters that it needs, the names of order and filter, and of the ID in both.
struct Family {
    kind: &'static str,
    method: &'static str,
    needs: Value,
    order: Value,
    filter: &'static str,
    id: &'static str,
    select: &'static str,
}

fn family(kind: &'static str, method: &'static str, id: &'static str) -> Family {
    let order = json!({"order": {id: "ASC"}});
    Family { kind, method, needs: json!({}), order, filter: "filter", id, select: "select" }
}

fn families() -> Vec<Family> {
    let mut families: Vec<Family> = [
        ("crm.deal", "crm.deal.list", "ID"),
        ("crm.lead", "crm.lead.list", "ID"),
        ("crm.contact", "crm.contact.list", "ID"),
        ("crm.company", "CRM.Company.List", "ID"),
        ("crm.quote", "crm.quote.list", "ID"),
        ("crm.activity", "crm.activity.list", "ID"),
        ("crm.product", "crm.product.list", "ID"),
        ("crm.item.productrow", "crm.item.productrow.list", "id"),
        ("crm.type", "crm.type.list", "id"),
        ("catalog.price", "catalog.price.list", "id"),
        ("catalog.storeproduct", "catalog.storeProduct.list", "id"),
        ("catalog.store", "catalog.store.list", "id"),
        ("catalog.document", "catalog.document.list", "id"),
        ("catalog.productproperty", "catalog.productProperty.list", "id"),
        ("sale.order", "sale.order.list", "id"),
        ("sale.basketitem", "sale.basketItem.list", "id"),
        ("sale.payment", "sale.payment.list", "id"),
        ("tasks.task", "tasks.task.list", "ID"),
    ]
    .map(|(kind, method, id)| family(kind, method, id))
    .into();
    families.push(Family { needs: json!({"entityTypeId": 2}), ..family("crm.item", "crm.item.list", "id") });
    for (kind, method) in [
        ("catalog.product", "catalog.product.list"),
        ("catalog.product.offer", "catalog.product.offer.list"),
        ("catalog.product.sku", "catalog.product.sku.list"),
        ("catalog.product.service", "catalog.product.service.list"),
    ] {
        families.push(Family { needs: json!({"filter": {"iblockId": 24}}), ..family(kind, method, "id") });
    }
    let order = json!({"sort": "ID", "order": "ASC"});
    families.push(Family { order, filter: "FILTER", ..family("user", "user.get", "ID") });
    families.push(Family {
        needs: json!({"IBLOCK_TYPE_ID": "lists", "IBLOCK_ID": 5}),
        order: json!({"ELEMENT_ORDER": {"ID": "ASC"}}),
        filter: "FILTER",
        select: "SELECT",
        ..family("lists.element", "lists.element.get", "ID")
    });
    families
}

/// A portal without a limit to speak of, over http, whose application may do everything.
fn fast_proxy() -> Proxy {
    let proxy = Proxy::with(Options { https: false, ..Options::default() })
        .reconfigured("aliases = [\"acme\"]", "requests_per_second = 1000\nburst = 1000")
        .reconfigured("timeout       = 10", "timeout       = 55");
    proxy.portal().grant("department,lists");
    proxy.store_pair(&proxy.portal().issue_pair(1));
    proxy
}

impl Family {
    fn seed(&self, proxy: &Proxy, count: u32) {
        match self.kind {
            "crm.item" => proxy.portal().seed_items(2, count),
            kind => proxy.portal().seed(kind, count),
        }
    }

    fn params(&self, more: Value) -> Value {
        merged(self.needs.clone(), more)
    }
}

fn merged(mut params: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        match params.get(name).cloned() {
            Some(Value::Object(_)) if value.is_object() => params[name] = merged(params[name].take(), value.clone()),
            _ => params[name] = value.clone(),
        }
    }
    params
}

fn canonical(method: &str) -> String {
    method.to_lowercase()
}

#[test]
fn each_family_is_read_by_its_own_names_of_the_id() {
    for family in families() {
        let proxy = fast_proxy();
        family.seed(&proxy, 1300);
        let data = proxy.all(family.method, family.params(json!({})));
        assert_whole(&data, 1300);
        assert_eq!(data["total"], 1300, "{}", family.method);
        let pages = proxy.pages(&canonical(family.method));
        assert_eq!((&pages[0]["start"], pages.len() > 26), (&json!(0), true), "{}", family.method);
        for page in &pages[1..] {
            assert_eq!(page["start"], "-1", "{page}");
            for (name, value) in family.order.as_object().unwrap() {
                assert_eq!(page[name], *value, "{page}");
            }
            assert!(page[family.filter].get(format!(">{}", family.id)).is_some(), "{page}");
        }
        assert_eq!(proxy.simulator.ledger().all_calls().count(), 3, "{}", family.method);
    }
}

#[test]
fn each_family_gives_each_row_once_whatever_the_parameters_and_the_length() {
    let rows = [0, 1, 49, 50, 51, 99, 100, 101, 2500];
    let check = |family: &Family| {
        let proxy = fast_proxy();
        let mut before = 0;
        for count in rows {
            family.seed(&proxy, count - before);
            before = count;
            for odd in [None, Some(json!(true)), Some(json!(false)), Some(json!(null)), Some(json!([]))] {
                let more = odd.as_ref().map_or(json!({}), |value| json!({ "ADMIN_MODE": value }));
                proxy.simulator.clear_ledger();
                let data = proxy.all(family.method, family.params(more));
                assert_eq!(ids(&data), (1..=u64::from(count)).collect::<Vec<_>>(), "{} {odd:?}", family.method);
                assert_eq!((&data["complete"], &data["total"]), (&json!(true), &json!(count)), "{}", family.method);
                let Some(odd) = odd else { continue };
                assert_eq!(proxy.simulator.ledger().calls("batch"), 0, "{} {odd}", family.method);
                for page in proxy.pages(&canonical(family.method)) {
                    assert_eq!(page["ADMIN_MODE"], odd, "{} asks another question: {page}", family.method);
                }
            }
        }
    };
    let (families, next) = (families(), std::sync::atomic::AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(family) = families.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    check(family);
                }
            });
        }
    });
}

#[test]
fn pages_go_one_by_one_where_a_batch_would_change_a_value_deep_within() {
    let proxy = fast_proxy();
    for (kind, method, name) in [
        ("user", "user.get", "FILTER"),
        ("tasks.task", "tasks.task.list", "filter"),
        ("department", "department.get", "x"),
    ] {
        proxy.portal().seed(kind, 160);
        for value in
            [json!(true), json!([false]), json!({"a": null}), json!({"a": {}}), json!(1.5e3), json!("$Total[c0]")]
        {
            proxy.simulator.clear_ledger();
            proxy.whole(method, json!({ name: {"!UF": value} }), None).run();
            assert_eq!(proxy.simulator.ledger().calls("batch"), 0, "{method} {value}");
            for page in proxy.pages(method) {
                // PHP knows one kind of empty array.
                let php = if value == json!({"a": {}}) { json!({"a": []}) } else { value.clone() };
                assert_eq!(page[name]["!UF"], php, "{method}: {page}");
            }
        }
    }
}

#[test]
fn what_select_misses_is_added_for_each_family() {
    for family in families() {
        let proxy = fast_proxy();
        family.seed(&proxy, 60);
        assert_whole(&proxy.all(family.method, family.params(json!({ family.select: ["TITLE"] }))), 60);
        let select = &proxy.pages(&canonical(family.method))[0][family.select];
        let mut expected = json!(["TITLE", family.id]);
        if family.needs.get("filter").is_some() {
            expected.as_array_mut().unwrap().push("iblockId".into());
        }
        assert_eq!(*select, expected, "{}", family.method);
    }
}

#[test]
fn what_the_family_might_read_otherwise_is_read_by_start() {
    let proxy = fast_proxy();
    for kind in ["user", "lists.element", "tasks.task"] {
        proxy.portal().seed(kind, 130);
    }
    for (method, params) in [
        // Conditions, where there is no filter.
        ("user.get", json!({"STAGE_ID": ["NEW", "WON"]})),
        ("user.get", json!({"sort": "ID", "order": "ASC"})),
        ("user.get", json!({"SORT": "ID", "ORDER": "ASC"})),
        ("lists.element.get", json!({"ELEMENT_ORDER": {"ID": "ASC"}})),
        ("lists.element.get", json!({"filter": {"A": "B"}})),
        ("lists.element.get", json!({"FILTER": {"<=ID": 130}})),
        ("tasks.task.list", json!({"filter": {"::LOGIC": "OR", "STAGE_ID": "x"}, "FILTER": {}})),
    ] {
        proxy.simulator.clear_ledger();
        let data = proxy.all(method, params.clone());
        assert_eq!(data["complete"], true, "{method} {params}");
        for page in proxy.pages(method) {
            assert!(page["start"].as_i64() != Some(-1) && page["start"] != "-1", "{method} {params}: {page}");
            assert!(page.get("FILTER").is_none_or(|filter| filter.get(">ID").is_none()), "{method} {params}: {page}");
        }
    }
    // Products without their information block: Bitrix24's own refusal.
    let answer = proxy.whole("catalog.product.list", json!({"filter": {"active": "Y"}}), None).run();
    assert_failure(&answer, 400, "bitrix24_error");
    assert!(answer.text().contains("iblockId"), "{}", answer.text());
}

#[test]
fn a_family_that_does_not_behave_is_read_by_start_with_nothing_lost_or_doubled() {
    for fault in [ListFault::DeafToId, ListFault::DeafToOrder, ListFault::PagesOf(20), ListFault::PagesOf(49)] {
        for (kind, method) in [("user", "user.get"), ("crm.deal", "crm.deal.list"), ("tasks.task", "tasks.task.list")] {
            for count in [20, 49, 50, 51, 170, 1000] {
                let proxy = fast_proxy();
                proxy.portal().seed(kind, count);
                proxy.portal().set_list_fault(Some(fault));
                let data = proxy.all(method, json!({}));
                let mut rows = ids(&data);
                rows.sort_unstable();
                assert_eq!(rows, (1..=u64::from(count)).collect::<Vec<_>>(), "{method} {fault:?} {count}");
                assert_eq!((&data["complete"], &data["total"]), (&json!(true), &json!(count)), "{method} {fault:?}");
            }
        }
    }
}

#[test]
fn a_list_whose_rows_have_no_id_and_whose_total_is_the_pages_is_read_to_its_end() {
    for count in [0, 1, 49, 50, 51, 99, 100, 101, 2500, 2510] {
        let proxy = fast_proxy();
        proxy.portal().seed("crm.address", count);
        for more in [json!({}), json!({"x": true})] {
            let data = proxy.all("crm.address.list", more);
            let titles: std::collections::BTreeSet<&str> =
                data["result"].as_array().unwrap().iter().map(|row| row["TITLE"].as_str().unwrap()).collect();
            assert_eq!(data["result"].as_array().unwrap().len(), count as usize);
            assert_eq!((titles.len(), &data["complete"]), (count as usize, &json!(true)));
            assert!(data.get("total").is_none_or(|total| *total == count), "{count}: {}", data["total"]);
        }
        proxy.portal().seed("crm.status", count);
        assert_whole(&proxy.all("crm.status.list", json!({})), count.into());
    }
}

#[test]
fn a_total_that_equals_a_full_page_is_not_believed() {
    for (kind, method) in [("crm.deal", "crm.deal.list"), ("crm.requisite", "crm.requisite.list")] {
        for count in [50, 51, 120, 1000] {
            let proxy = fast_proxy();
            proxy.portal().seed(kind, count);
            proxy.portal().set_list_fault(Some(ListFault::Total(50)));
            for more in [json!({}), json!({"x": true})] {
                let data = proxy.all(method, more);
                assert_whole(&data, count.into());
                assert!(data.get("total").is_none_or(|total| *total == count), "{method} {count}: {}", data["total"]);
            }
        }
    }
    let proxy = fast_proxy();
    answers(
        &proxy,
        &[
            json!({"result": numbered(1, 50), "total": 50}),
            json!({"result": numbered(51, 100), "total": 50}),
            json!({"result": numbered(101, 103), "total": 50}),
        ],
    );
    assert_whole(&proxy.all("some.list", json!({"x": true})), 103);
}

#[test]
fn a_list_whose_total_contradicts_its_rows_is_never_complete() {
    // Rows that are counted and not shown, and totals that are too large.
    for (kind, method) in [("crm.deal", "crm.deal.list"), ("user", "user.get"), ("crm.requisite", "crm.requisite.list")]
    {
        for fault in [ListFault::Hides(7), ListFault::Total(1000), ListFault::Total(501)] {
            let proxy = fast_proxy();
            proxy.portal().seed(kind, 500);
            proxy.portal().set_list_fault(Some(fault));
            never_complete(&proxy, method, &json!({}));
            never_complete(&proxy, method, &json!({"ADMIN_MODE": true}));
        }
    }
    for total in [0, 7, 60, 499] {
        let proxy = fast_proxy();
        proxy.portal().seed("crm.requisite", 500);
        proxy.portal().set_list_fault(Some(ListFault::Total(total)));
        never_complete(&proxy, "crm.requisite.list", &json!({}));
    }
    for bodies in [
        vec![json!({"result": numbered(1, 7), "total": 8}), json!({"result": []})],
        vec![json!({"result": numbered(1, 7), "total": 6})],
        vec![json!({"result": [], "total": 3})],
        vec![json!({"result": numbered(1, 50), "total": 51, "next": 50}), json!({"result": [], "total": 51})],
    ] {
        let proxy = fast_proxy();
        answers(&proxy, &bodies);
        let data = data(&proxy.whole("some.list", json!({"x": true}), None).run());
        assert_eq!((&data["complete"], data["cursor"].is_string()), (&json!(false), true), "{bodies:?}");
    }
}

/// Asks on as 1C does: it ends with an error that says why.
fn never_complete(proxy: &Proxy, method: &str, params: &Value) {
    let mut cursor = None::<String>;
    for _ in 0..10 {
        let answer = proxy.whole(method, params.clone(), cursor.as_deref()).run();
        if answer.status != 200 {
            assert_failure(&answer, 400, "invalid_request");
            return;
        }
        let data = data(&answer);
        assert_eq!(data["complete"], false, "{method}: {} rows, total {}", ids(&data).len(), data["total"]);
        cursor = Some(data["cursor"].as_str().unwrap().to_owned());
    }
    panic!("{method} {params}: no end");
}

#[test]
fn a_total_that_shrinks_below_what_was_read_ends_as_incomplete() {
    let page = |from: u64, to: u64, next: Option<u64>, total: u64| {
        let mut page = json!({"result": numbered(from, to), "total": total});
        if let Some(next) = next {
            page["next"] = next.into();
        }
        page
    };
    for last in [page(51, 100, None, 60), page(51, 50, None, 40), page(51, 60, None, 40)] {
        let proxy = fast_proxy();
        answers(&proxy, &[page(1, 50, Some(50), 120), last.clone()]);
        let data = data(&proxy.whole("some.list", json!({"x": true}), None).run());
        assert_eq!((&data["complete"], data["cursor"].is_string()), (&json!(false), true), "{last}");
        assert!(ids(&data).len() >= 50);
    }
    // Rows that nothing tells apart may have moved unseen.
    let nameless = |from: u64, to: u64| (from..=to).map(|i| json!({ "NAME": i })).collect::<Value>();
    let proxy = fast_proxy();
    answers(
        &proxy,
        &[
            json!({"result": nameless(1, 50), "next": 50, "total": 120}),
            json!({"result": nameless(52, 101), "next": 100, "total": 119}),
        ],
    );
    let data = data(&proxy.whole("some.list", json!({"x": true}), None).run());
    assert_eq!(data["complete"], false);
}

#[test]
fn rows_that_were_deleted_before_they_were_read_leave_a_list_by_id_complete() {
    use simulator::{Action, Fault, Target};
    let proxy = fast_proxy();
    proxy.portal().seed("sale.order", 2000);
    let pause = Action::Delay(std::time::Duration::from_secs(1));
    proxy.simulator.inject(Fault::once(Target::Method("batch".into()), pause));
    let data = std::thread::scope(|scope| {
        let running = scope.spawn(|| proxy.all("sale.order.list", json!({})));
        assert!(proxy.simulator.wait_for(std::time::Duration::from_secs(5), |ledger| ledger.calls("batch") == 1));
        proxy.portal().unseed("sale.order", 1500..=2000);
        running.join().unwrap()
    });
    assert_whole(&data, 1499);
}

#[test]
fn a_callers_own_reference_arrives_as_it_is() {
    let texts = ["$result[c0]", "$RESULT[c0][id]", "a $Next[c0] b", "$total[c0]", "$TIME[c0]", "$error[c0]"];
    let proxy = fast_proxy();
    let calls: Vec<Value> = texts
        .iter()
        .flat_map(|text| {
            let plain = json!({"method": "sim.echo", "params": {"i": 1}});
            [plain, json!({"method": "sim.echo", "params": {"deep": [{"text": text}]}})]
        })
        .collect();
    let body = json!({ "domain": proxy.portal().name(), "calls": calls }).to_string();
    let data = data(&proxy.request(body).run());
    for (i, text) in texts.iter().enumerate() {
        assert_eq!(data["results"][2 * i + 1]["result"]["deep"][0]["text"], *text);
    }
    proxy.portal().seed("crm.deal", 120);
    for text in texts {
        proxy.all("crm.deal.list", json!({"filter": {"!TITLE": text}}));
        assert!(proxy.pages("crm.deal.list").iter().all(|page| page["filter"]["!TITLE"] == text), "{text}");
        proxy.simulator.clear_ledger();
    }
}

/// `all` of REST 3.0.
fn all_3(proxy: &Proxy, params: Value, cursor: Option<&str>) -> Value {
    let mut body = json!({"method": "tasks.task.list", "params": params, "all": true, "version": 3});
    if let Some(cursor) = cursor {
        body["cursor"] = cursor.into();
    }
    data(&proxy.request(body.to_string()).run())
}

#[test]
fn rest_3_lists_are_read_by_their_own_keyset() {
    for (count, most) in [(0, 1000), (1, 1000), (1000, 1000), (2500, 1000), (7, 20), (20, 20), (130, 20), (200, 50)] {
        let proxy = fast_proxy();
        proxy.portal().seed("tasks.task", count);
        proxy.portal().set_list_fault(Some(ListFault::PagesOf(most)));
        let data = all_3(&proxy, json!({"filter": [["opportunity", ">", 0]], "select": ["title"]}), None);
        assert_whole(&data, count.into());
        assert!(data["result"].as_array().unwrap().iter().all(|row| row["title"].is_string()));
        let ledger = proxy.simulator.ledger();
        assert!(ledger.all_calls().all(|call| call.version == 3 && call.method == "tasks.task.list"));
        let mut last = 0_usize;
        for page in proxy.pages("tasks.task.list") {
            assert_eq!(page["filter"], json!([["opportunity", ">", 0], ["id", ">", last]]));
            assert_eq!((&page["order"], &page["select"]), (&json!({"id": "ASC"}), &json!(["title", "id"])));
            assert_eq!(page["pagination"], json!({"limit": 1000}));
            last = (last + most).min(count as usize);
        }
    }
}

#[test]
fn the_callers_own_order_pagination_or_filter_on_id_means_paging_by_offset_in_rest_3() {
    let proxy = fast_proxy();
    proxy.portal().seed("tasks.task", 2300);
    let read = |params: Value| {
        let data = all_3(&proxy, params, None);
        assert_eq!(data["complete"], true);
        ids(&data)
    };
    for most in [1000, 50] {
        proxy.portal().set_list_fault(Some(ListFault::PagesOf(most)));
        assert_eq!(read(json!({"order": {"id": "DESC"}})), (1..=2300).rev().collect::<Vec<_>>());
        assert_eq!(read(json!({"pagination": {"limit": 40, "offset": 2200}})), (2201..=2300).collect::<Vec<_>>());
        assert_eq!(read(json!({"pagination": {"limit": 40, "page": 51}})), (2001..=2300).collect::<Vec<_>>());
        assert_eq!(read(json!({"filter": [["id", ">", 1000]]})), (1001..=2300).collect::<Vec<_>>());
        assert_eq!(read(json!({"filter": [["id", "=", 9999]]})), Vec::<u64>::new());
    }
    assert!(proxy.pages("tasks.task.list").iter().all(|page| page["pagination"].get("offset").is_some()));
}

#[test]
fn a_rest_3_cursor_goes_on_with_no_gap_and_no_duplicate() {
    for params in [json!({}), json!({"order": {"id": "ASC"}})] {
        let proxy = fast_proxy().reconfigured("[limits]", "[limits]\nmax_response = \"200 KiB\"");
        proxy.portal().seed("tasks.task", 5000);
        proxy.portal().set_list_fault(Some(ListFault::PagesOf(100)));
        let (mut rows, mut cursor, mut requests) = (Vec::new(), None::<String>, 0);
        loop {
            let data = all_3(&proxy, params.clone(), cursor.as_deref());
            rows.extend(ids(&data));
            requests += 1;
            if data["complete"] == true {
                break;
            }
            cursor = Some(data["cursor"].as_str().unwrap().to_owned());
            // Rows that were read go.
            proxy.portal().unseed("tasks.task", (1..=20).map(|i| i + requests * 20));
        }
        assert!(requests > 2, "{requests}");
        assert_eq!(rows, (1..=5000).collect::<Vec<_>>(), "{params}");
    }
}

#[test]
fn rest_3_calls_are_sent_one_by_one_with_results_in_the_same_shape() {
    let proxy = fast_proxy();
    let add = |title: &str| json!({"method": "tasks.task.add", "params": {"fields": {"title": title}}});
    let calls = [add("a"), json!({"method": "tasks.task.get", "params": {"id": 99}}), add("b"), add("c")];
    let ask = |halt: bool, key: &str| {
        let body = json!({ "calls": calls, "version": 3, "halt": halt }).to_string();
        proxy.request(body).header("Idempotency-Key", key).run()
    };
    let first = ask(false, "k");
    let answer = data(&first);
    assert_eq!(answer["results"][0]["result"]["item"]["title"], "a");
    assert_eq!(answer["results"][1]["error"], "BITRIX_REST_V3_EXCEPTION_ENTITYNOTFOUNDEXCEPTION");
    assert!(answer["results"][1]["error_description"].is_string());
    assert_eq!((&answer["results"][3]["result"]["item"]["id"], &answer["errors"]), (&json!(3), &json!(1)));
    let ledger = proxy.simulator.ledger();
    assert_eq!((ledger.all_calls().count(), ledger.calls("batch")), (4, 0));
    assert!(ledger.all_calls().all(|call| call.version == 3));
    // Under its key nothing is executed again, and REST 2 is another request.
    assert_eq!(data(&ask(false, "k")), answer);
    assert_eq!(proxy.simulator.ledger().all_calls().count(), 4);
    let other = json!({ "calls": calls }).to_string();
    assert_failure(&proxy.request(other).header("Idempotency-Key", "k").run(), 422, "idempotency_key_reused");
    let halted = data(&ask(true, "h"));
    assert_eq!((halted["results"].as_array().unwrap().len(), &halted["errors"]), (2, &json!(1)));
}

#[test]
fn memory_stays_below_the_bound_for_lists_of_every_way() {
    let proxy = fast_proxy().reconfigured("[limits]", "[limits]\nmax_response = \"8 MiB\"");
    for kind in ["tasks.task", "user", "crm.address"] {
        proxy.portal().seed(kind, 50_000);
    }
    for (method, version) in [("user.get", 2), ("tasks.task.list", 2), ("tasks.task.list", 3), ("crm.address.list", 2)]
    {
        let body = json!({"method": method, "all": true, "version": version}).to_string();
        let answer = proxy.request(body).measure_memory().run();
        assert!(answer.body.len() > 2 << 20, "{method}: {}", answer.body.len());
        assert!(answer.max_rss.unwrap() < (2 * 8 + 16) * 1024, "{method}: {:?} KiB", answer.max_rss);
    }
}

#[test]
fn cursors_that_were_given_when_a_list_was_read_by_start_go_on_so() {
    let proxy = fast_proxy();
    proxy.portal().seed("sale.order", 230);
    // As version 0.1 gave it for this method.
    let sum = |text: &str| hex(&ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref()[..4]);
    let text = format!("start:50:{}", (51..=100).map(|id| id.to_string()).collect::<Vec<_>>().join(","));
    let cursor = format!("{text}.{}", sum(&format!("sale.order.list\n{text}")));
    let data = data(&proxy.whole("sale.order.list", json!({}), Some(&cursor)).run());
    assert_eq!(ids(&data), (101..=230).collect::<Vec<_>>());
    assert_eq!(data["complete"], true);
    let (rows, _) = until_complete(&proxy, "sale.order.list", &json!({}), || {});
    assert_eq!(rows.len(), 230);
}
