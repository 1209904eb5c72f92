//! The code of `README.ru.md`, run by the interpreter: each of its requests goes through the real executable.

use crate::fixture::*;
use crate::language::value::{Outcome, Value};
use crate::language::world::{Received, Sent, World};
use crate::language::Machine;
use crate::requests::program_has_events;
use crate::script::{structure, text_at};
use serde_json::{json, Value as Json};
use simulator::{Action, Content, Fault, File, Target};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use support::cgi::SCRIPT_NAME;

const DEAL: &str = "3f0c6b9e-5d0e-4f3c-9d39-0a6a1c9f7b15";

/// The block that begins so.
fn block(beginning: &str) -> String {
    let readme = std::fs::read_to_string(crate::bsl::folder().join("README.ru.md")).unwrap();
    let blocks = readme.split("```").skip(1).step_by(2).map(|block| block.strip_prefix("bsl\n").expect("1C's code"));
    let mut found = blocks.filter(|block| block.starts_with(beginning));
    let block = found.next().unwrap_or_else(|| panic!("README.ru.md has no block that begins with {beginning}"));
    assert!(found.next().is_none(), "two blocks begin with {beginning}");
    block.to_owned()
}

#[test]
fn every_block_is_run_here() {
    let readme = std::fs::read_to_string(crate::bsl::folder().join("README.ru.md")).unwrap();
    let tests = include_str!("samples.rs");
    for block in readme.split("```bsl\n").skip(1) {
        let first = block.lines().next().unwrap();
        let named = tests.split("block(\"").skip(1).map(|rest| rest.split("\")").next().unwrap().replace("\\\"", "\""));
        assert_eq!(named.filter(|name| first.starts_with(name.as_str())).count(), 1, "{first}");
    }
}

fn proxy() -> Proxy {
    let names = r#"aliases = ["acme", "acme.bitrix24.ru"]"#;
    let proxy = Proxy::installed().reconfigured(r#"aliases = ["acme"]"#, names);
    proxy.portal().set_scope("crm,catalog,disk");
    proxy
}

/// What 1C sends goes to the executable.
fn send(proxy: &Proxy, sent: &Sent) -> Received {
    assert_eq!(sent.address, "https://www.example.com:443");
    let target = sent.target.strip_prefix(SCRIPT_NAME).expect("the program's address");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request = proxy.get(path).query(query).method(sent.verb);
    let request = sent.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
    let answer = if sent.verb == "GET" { request.run() } else { request.body(sent.body.clone()).run() };
    Received { status: answer.status, headers: answer.headers, body: answer.body }
}

fn machine<'p>(proxy: &'p Proxy) -> Machine<'p> {
    machine_with(proxy, Ok)
}

/// With what becomes of the answers on their way to 1C.
fn machine_with<'p>(proxy: &'p Proxy, mut fate: impl FnMut(Received) -> Result<Received, String> + 'p) -> Machine<'p> {
    let mut machine = Machine::new(World::new(move |sent: &Sent| fate(send(proxy, sent))));
    let token = "ОбщегоНазначения.ПрочитатьДанныеИзБезопасногоХранилища";
    machine.stub(token, |arguments| {
        assert_eq!(&*arguments[0].as_text(), "Битрикс24Прокси");
        Ok(Value::text(TOKEN))
    });
    let connection = machine.call_in(&block("Функция ПодключениеКБитрикс24()"), "ПодключениеКБитрикс24", &[]).unwrap();
    machine.stub("ПодключениеКБитрикс24", move |_| Ok(connection.clone()));
    machine
}

fn connection(machine: &Machine) -> Value {
    machine.fragment("Подключение = ПодключениеКБитрикс24();", &[]).unwrap()["Подключение"].clone()
}

fn executed(proxy: &Proxy, method: &str) -> usize {
    proxy.simulator.ledger().executed(method)
}

/// What a method of a list answers.
fn rows(proxy: &Proxy, method: &str, params: Json, key: &str) -> Vec<Json> {
    let answer = proxy.call(method, params).json();
    let result = &answer["data"]["result"];
    let rows = if key.is_empty() { result } else { &result[key] };
    rows.as_array().unwrap_or_else(|| panic!("{answer}")).clone()
}

#[test]
fn the_first_call_reads_the_token_from_the_secure_storage() {
    let proxy = proxy();
    let machine = machine(&proxy);
    machine.fragment(&block("Результат = Битрикс24Прокси.ВызватьМетод(ПодключениеКБитрикс24()"), &[]).unwrap();
    assert_eq!(machine.world.borrow().messages, ["ru_nfr"]);
    assert_eq!(connection(&machine).at("Токен").show(), TOKEN);
}

#[test]
fn with_a_kept_key_an_operation_is_executed_once_whatever_becomes_of_its_answers() {
    let proxy = proxy();
    let written = Cell::new(0);
    let lost = Cell::new(true);
    let mut machine = machine_with(&proxy, |answer| if lost.get() { Err("reset".to_owned()) } else { Ok(answer) });
    let empty = || Value::text("");
    let record = Value::other(
        "Запись",
        &[("Идентификатор", empty()), ("КлючОбмена", empty()), ("ВремяКлюча", Value::Undefined)],
    );
    machine.stub("Запись.Записать", |_| {
        written.set(written.get() + 1);
        Ok(Value::Undefined)
    });
    let parameters = structure(&[
        ("entityTypeId", Value::Number(2.0)),
        ("fields", structure(&[("title", Value::text("Заказ № 15"))])),
    ]);
    let code = block("Если ЗначениеЗаполнено(Запись.Идентификатор) Тогда");
    let run = || {
        let variables = [
            ("Запись", record.clone()),
            ("Подключение", connection(&machine)),
            ("ПараметрыМетода", parameters.clone()),
        ];
        machine.fragment(&code, &variables)
    };
    run().unwrap();
    assert!(!record.at("Идентификатор").is_filled() && record.at("КлючОбмена").is_filled());
    lost.set(false);
    run().unwrap();
    assert!(record.at("Идентификатор").is_filled());
    run().unwrap();
    assert_eq!((executed(&proxy, "crm.item.add"), written.get()), (1, 2));
    // A key that the program may have forgotten is not used.
    record.set_field("Идентификатор", empty());
    machine.world.borrow_mut().clock += 24.0 * 3600.0 * 1000.0;
    assert!(run().is_err());
    assert_eq!(executed(&proxy, "crm.item.add"), 1);
}

fn order() -> Value {
    Value::reference("ДокументСсылка.ЗаказКлиента", DEAL)
}

fn deal_of_the_order(machine: &Machine, title: &str) -> Outcome {
    let fields = structure(&[("title", Value::text(title))]);
    let arguments = [connection(machine), order(), fields];
    machine.call_in(&block("// Идентификатор сделки для заказа"), "СделкаДляЗаказа", &arguments)
}

#[test]
fn what_is_found_or_created_is_there_once_however_often_it_is_repeated() {
    let proxy = proxy();
    let locks = RefCell::new(Vec::new());
    let mut machine = machine(&proxy);
    for name in ["ЗаблокироватьДанныеДляРедактирования", "РазблокироватьДанныеДляРедактирования"]
    {
        let locks = &locks;
        machine.stub(name, move |arguments| {
            assert!(arguments[0].equals(&order()));
            locks.borrow_mut().push(name);
            Ok(Value::Undefined)
        });
    }
    let first = deal_of_the_order(&machine, "Заказ 1").unwrap().show();
    assert_eq!(deal_of_the_order(&machine, "Заказ 1").unwrap().show(), first);
    // Bitrix24 does not know the deal by its key yet, and another session has the same key.
    assert_eq!(executed(&proxy, "crm.item.add"), 1);
    let kept = rows(&proxy, "crm.item.list", json!({"entityTypeId": 2}), "items");
    assert_eq!((kept.len(), &kept[0]["originId"], &kept[0]["originatorId"]), (1, &json!(DEAL), &json!("1c")));
    assert_eq!(locks.borrow().len(), 4);
    // An error releases what was locked.
    proxy.portal().set_scope("catalog");
    assert!(deal_of_the_order(&machine, "Заказ 1").is_err());
    assert_eq!(locks.borrow().len(), 6);
    assert_eq!(locks.borrow()[5], "РазблокироватьДанныеДляРедактирования");
}

#[test]
fn a_deal_whose_answer_was_lost_behind_the_program_is_found_by_its_own_key() {
    let proxy = proxy();
    proxy.portal().inject(Fault::once(Target::Method("crm.item.add".into()), Action::CloseAfter));
    let machine = machine(&proxy);
    let id = deal_of_the_order(&machine, "Заказ 1").unwrap().show();
    assert_eq!(executed(&proxy, "crm.item.add"), 1);
    assert_eq!(rows(&proxy, "crm.item.list", json!({"entityTypeId": 2}), "items")[0]["id"].to_string(), id);
}

#[test]
fn a_product_has_its_picture_price_and_stock_and_is_there_once() {
    let proxy = proxy();
    let machine = machine(&proxy);
    let picture = proxy.sandbox.tokens().join("picture.jpg");
    std::fs::write(&picture, "picture").unwrap();
    let export = |name: &str, price: f64, stock: f64, picture: Value| {
        let product = structure(&[
            ("Ссылка", Value::reference("СправочникСсылка.Номенклатура", DEAL)),
            ("Наименование", Value::text(name)),
            ("Цена", Value::Number(price)),
            ("Остаток", Value::Number(stock)),
            ("ФайлКартинки", picture),
        ]);
        machine
            .call_in(&block("// Товар - Структура"), "ВыгрузитьТовар", &[connection(&machine), product])
            .unwrap()
            .show()
    };
    let id = export("Стол", 1500.5, 7.0, Value::text(picture.to_str().unwrap()));
    assert_eq!(export("Стол дубовый", 1700.0, 6.0, Value::text("")), id);
    assert_eq!((executed(&proxy, "catalog.product.add"), executed(&proxy, "catalog.price.add")), (1, 1));
    let ask =
        json!({"filter": {"iblockId": 15}, "select": ["id", "iblockId", "name", "xmlId", "quantity", "detailPicture"]});
    let products = rows(&proxy, "catalog.product.list", ask, "products");
    assert_eq!(products.len(), 1);
    let told = (&products[0]["name"], &products[0]["xmlId"], &products[0]["quantity"]);
    assert_eq!(told, (&json!("Стол дубовый"), &json!(DEAL), &json!(6)));
    assert_eq!(products[0]["detailPicture"]["fileData"], json!(["picture.jpg", "cGljdHVyZQ=="]));
    let prices = rows(&proxy, "catalog.price.list", json!({}), "prices");
    assert_eq!((prices.len(), &prices[0]["price"]), (1, &json!(1700)));
}

#[test]
fn orders_are_exported_once_and_go_on_where_bitrix24_has_stopped_them() {
    let proxy = proxy();
    let kept = RefCell::new(BTreeMap::new());
    let mut machine = machine(&proxy);
    machine.stub("ЗаписатьИдентификатор", |arguments| {
        kept.borrow_mut().insert(arguments[0].show(), arguments[1].show());
        Ok(Value::Undefined)
    });
    machine.stub("ЗаписатьОшибкуВыгрузки", |arguments| panic!("{arguments:?}"));
    let id = |i: usize| format!("00000000-0000-4000-8000-{i:012}");
    let orders = (0..120).map(|i| {
        structure(&[
            ("Ссылка", Value::reference(&format!("ДокументСсылка.Заказ{i}"), &id(i))),
            ("Заголовок", Value::text(format!("Заказ {i}"))),
            ("Сумма", Value::Number(i as f64)),
        ])
    });
    let orders = Value::array(orders.collect());
    let code = block("// Заказы - Массив структур");
    proxy.portal().refuse_next("crm.item.add", "QUERY_LIMIT_EXCEEDED", 1);
    for _ in 0..2 {
        machine.call_in(&code, "ВыгрузитьЗаказы", &[orders.clone(), Value::text("export-1")]).unwrap();
    }
    assert_eq!(executed(&proxy, "crm.item.add"), 120);
    assert_eq!(kept.borrow().len(), 120);
    let rows = rows(&proxy, "crm.item.list", json!({"entityTypeId": 2, "filter": {"=originId": id(7)}}), "items");
    assert_eq!((rows.len(), &rows[0]["title"]), (1, &json!("Заказ 7")));
    assert_eq!(machine.world.borrow().waits, [60.0], "for what Bitrix24 refused");
}

#[test]
fn a_company_with_its_requisites_is_there_once_for_one_inn() {
    let proxy = proxy();
    let machine = machine(&proxy);
    let company = |name: &str, id: &str| {
        let company = structure(&[
            ("Ссылка", Value::reference("СправочникСсылка.Контрагенты", id)),
            ("Наименование", Value::text(name)),
            ("ИНН", Value::text("0278901234")),
            ("КПП", Value::text("027801001")),
        ]);
        let code = block("// Организация - Структура");
        machine.call_in(&code, "КомпанияПоИНН", &[connection(&machine), company]).unwrap().as_number().unwrap()
    };
    let first = company("ООО «Ромашка»", DEAL);
    assert_eq!(company("ООО «Ромашка»", DEAL), first);
    // Another object with the same INN is the same company.
    assert_eq!(company("Ромашка", "00000000-0000-4000-8000-000000000001"), first);
    assert_eq!((executed(&proxy, "crm.company.add"), executed(&proxy, "crm.requisite.add")), (1, 1));
    let kept = rows(&proxy, "crm.requisite.list", json!({}), "");
    assert_eq!((&kept[0]["RQ_INN"], &kept[0]["ENTITY_ID"]), (&json!("0278901234"), &json!(first.to_string())));
}

#[test]
fn the_background_job_gets_the_orders_and_a_key_and_no_token() {
    let proxy = proxy();
    let mut machine = machine(&proxy);
    machine.stub("ФоновыеЗадания.Выполнить", |arguments| {
        assert_eq!(&*arguments[0].as_text(), "ОбменБитрикс24.ВыгрузитьЗаказы");
        let given = arguments[1].items();
        assert_eq!((given.len(), given[0].items().len()), (2, 1));
        assert!(given[1].is_filled() && given[1].show() != TOKEN);
        assert_eq!(&*arguments[2].as_text(), "Битрикс24");
        Ok(Value::Undefined)
    });
    let orders = Value::array(vec![Value::Number(1.0)]);
    machine
        .fragment(&block("КлючВыгрузки = Битрикс24Прокси.НовыйКлючИдемпотентности()"), &[("Заказы", orders)])
        .unwrap();
}

/// Through the program once it has events; until then with answers as the contract has them.
#[test]
fn events_are_subscribed_and_loaded_behind_the_kept_number() {
    let proxy = proxy();
    let subscribe = block("Имена = СтрРазделить(");
    if program_has_events() {
        let machine = machine(&proxy);
        machine.fragment(&subscribe, &[]).unwrap();
        let told = machine.world.borrow().messages[0].clone();
        assert!(told.contains("ONCRMDEALADD") && told.contains("ONCRMDEALUPDATE"), "{told}");
    }
    let event =
        |number: u32| json!({"number": number, "event": "ONCRMDEALADD", "data": {"FIELDS": {"ID": "5"}}, "at": 0});
    let number = Cell::new(0.0);
    let (compared, loaded) = (Cell::new(0), RefCell::new(Vec::new()));
    let asked = RefCell::new(Vec::new());
    let mut machine = Machine::new(World::new(|sent: &Sent| {
        let asks = sent.json()["events"].clone();
        let data = match asks["after"].as_u64() {
            None => json!({"bound": asks["bind"]}),
            Some(0) => json!({"events": [event(3), event(4)], "last": 4, "lost": 2}),
            Some(after) => json!({"events": [], "last": after + 1, "lost": 0}),
        };
        asked.borrow_mut().push(asks);
        Ok(Received::json(200, json!({"success": true, "data": data})))
    }));
    let arguments = [Value::text("https://www.example.com/cgi-bin/b24proxy"), Value::text(TOKEN), Value::text("acme")];
    let connection = machine.call("НовоеПодключение", &arguments).unwrap();
    machine.stub("ПодключениеКБитрикс24", move |_| Ok(connection.clone()));
    machine.stub("Константы.НомерСобытияБитрикс24.Получить", |_| {
        Ok(Value::Number(number.get()))
    });
    machine.stub("Константы.НомерСобытияБитрикс24.Установить", |arguments| {
        number.set(arguments[0].as_number()?);
        Ok(Value::Undefined)
    });
    machine.stub("СверитьСделки", |_| {
        compared.set(compared.get() + 1);
        Ok(Value::Undefined)
    });
    machine.stub("ЗагрузитьСделку", |arguments| {
        loaded.borrow_mut().push(arguments[1].show());
        Ok(Value::Undefined)
    });
    machine.fragment(&subscribe, &[]).unwrap();
    let code = block("Процедура ОбработатьСобытияБитрикс24()");
    machine.call_in(&code, "ОбработатьСобытияБитрикс24", &[]).unwrap();
    assert_eq!((compared.get(), loaded.borrow().len(), number.get()), (1, 2, 5.0));
    machine.call_in(&code, "ОбработатьСобытияБитрикс24", &[]).unwrap();
    let after: Vec<_> = asked.borrow().iter().filter_map(|asks| asks["after"].as_u64()).collect();
    assert_eq!(after, [0, 4, 5]);
}

#[test]
fn files_go_both_ways_through_the_program() {
    let proxy = proxy();
    let machine = machine(&proxy);
    machine.world.borrow_mut().folder = proxy.sandbox.tokens();
    let bytes = "Счёт № 15\n".repeat(100_000).into_bytes();
    let id = proxy.portal().store_file(File::new("Счёт 15.txt", Content::given(bytes.clone())));
    let path = proxy.sandbox.tokens().join("file.txt");
    let name = Value::text(path.to_str().unwrap());
    let get = block("Результат = Битрикс24Прокси.ВызватьМетод(Подключение, \"disk.file.get\"");
    let variables = [
        ("Подключение", connection(&machine)),
        ("ИдентификаторФайла", Value::Number(id as f64)),
        ("ИмяФайла", name.clone()),
    ];
    let after = machine.fragment(&get, &variables).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(text_at(&after["Результат"], "Успех"), "Да");

    let post = block("Место = Битрикс24Прокси.ВызватьМетод(");
    let variables =
        [("Подключение", connection(&machine)), ("ИдентификаторПапки", Value::Number(1.0)), ("ИмяФайла", name)];
    let after = machine.fragment(&post, &variables).unwrap();
    let id = after["Результат"].at("Данные").get("ID").as_number().unwrap();
    let stored = proxy.portal().file(id as i64).unwrap();
    assert_eq!((stored.name.as_str(), stored.content.sha256()), ("Счёт 15.pdf", Content::given(bytes).sha256()));
}

/// The requests of `deploy/1c/requests` for files are those that the module sends.
#[test]
fn the_requests_for_files_are_those_of_the_module() {
    let sent = RefCell::new(Vec::new());
    let machine = Machine::new(World::new(|one: &Sent| {
        sent.borrow_mut().push(one.clone());
        Err("enough".to_owned())
    }));
    let folder = std::env::temp_dir();
    let path = folder.join(format!("b24proxy-onec-request-{}", std::process::id()));
    std::fs::write(&path, "Счёт № 15").unwrap();
    let name = Value::text(path.to_str().unwrap());
    let arguments = [Value::text("https://www.example.com/cgi-bin/b24proxy"), Value::text("T"), Value::text("P")];
    let connection = machine.call("НовоеПодключение", &arguments).unwrap();
    connection.set_field("КоличествоПовторов", Value::Number(0.0));
    machine.call("ПолучитьФайл", &[connection.clone(), Value::text("A"), name.clone()]).unwrap();
    let arguments = [connection, Value::text("A"), Value::text("F"), name, Value::text("Счёт 15.txt")];
    machine.call("ОтправитьФайл", &arguments).unwrap();
    std::fs::remove_file(&path).unwrap();
    let sent = sent.borrow();
    for (sent, file) in sent.iter().zip(["file-get.http", "file-send.http"]) {
        let file =
            crate::http_file::load(file).with("domain", "P").with("token", "T").with("address", "A").with("field", "F");
        assert_eq!(sent.target, file.target.replace("{{path}}", SCRIPT_NAME));
        assert_eq!(sent.verb, file.method);
        // A boundary is another one each time.
        let boundary = sent.header("Content-Type").and_then(|text| text.split_once("boundary="));
        let plain = |text: &str| boundary.map_or(text.to_owned(), |(_, it)| text.replace(it, "B"));
        let shown = file.header("Content-Type").and_then(|text| text.split_once("boundary="));
        let shown = |text: &str| shown.map_or(text.to_owned(), |(_, it)| text.replace(it, "B"));
        for (name, value) in &file.headers {
            assert_eq!(sent.header(name).map(&plain), Some(shown(value)), "{name}");
        }
        assert_eq!(plain(std::str::from_utf8(&sent.body).unwrap()), shown(&file.body));
    }
}
