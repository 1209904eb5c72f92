//! What else the module can do: values, texts, the log, transactions, sizes, files, events.

use crate::language::value::Value;
use crate::language::world::{Received, Sent, World};
use crate::language::Machine;
use crate::module::{codes_of_the_program, OWN_CODES};
use crate::script::*;
use serde_json::{json, Value as Json};

// Values.

#[test]
fn a_table_and_references_become_what_bitrix24_takes() {
    let machine = idle();
    let id = "3f0c6b9e-5d0e-4f3c-9d39-0a6a1c9f7b15";
    let variables = [
        ("Товар", Value::reference("СправочникСсылка.Номенклатура", id)),
        ("Пустая", Value::reference("СправочникСсылка.Номенклатура", "")),
        ("Вид", Value::reference("ПеречислениеСсылка.ВидыЦен", "Розничная")),
    ];
    let code = r#"
        Таблица = Новый ТаблицаЗначений;
        Таблица.Колонки.Добавить("Товар");
        Таблица.Колонки.Добавить("Цена");
        Строка1 = Таблица.Добавить();
        Строка1.Товар = Товар;
        Строка1.Цена = 10.5;
        Строка2 = Таблица.Добавить();
        Строка2.Товар = Пустая;
        Список = Новый СписокЗначений;
        Список.Добавить(Вид);
        Исходное = Новый Структура("rows, kinds, empty, nested", Таблица, Список, Неопределено, Новый Массив);
        Исходное.nested.Добавить(Новый Соответствие);
        Исходное.nested[0].Вставить("PARENT_ID", Товар);
        Готово = Битрикс24Прокси.ЗначениеДляПередачи(Исходное);
    "#;
    let after = machine.fragment(code, &variables).unwrap();
    let written = machine.call("ЗначениеВJSON", &[after["Готово"].clone()]).unwrap();
    let written: Json = serde_json::from_str(&written.show()).unwrap();
    let expected = json!({
        "rows": [{"Товар": id, "Цена": 10.5}, {"Товар": "", "Цена": null}],
        "kinds": ["Розничная"], "empty": null, "nested": [{"PARENT_ID": id}],
    });
    assert_eq!(written, expected);
    // What was given has not changed.
    assert_eq!(after["Исходное"].at("rows").type_name(), "ТаблицаЗначений");
    // Without being asked for nothing is turned into anything.
    let text = machine.call("ЗначениеВJSON", &[after["Исходное"].clone(), Value::text("params")]).unwrap_err().0;
    assert!(text.contains("params.rows") && text.contains("ЗначениеДляПередачи"), "{text}");
}

#[test]
fn one_object_and_one_operation_have_one_key_in_every_session() {
    let machine = idle();
    let id = "3f0c6b9e-5d0e-4f3c-9d39-0a6a1c9f7b15";
    let key = |version: Value| {
        let reference = Value::reference("ДокументСсылка.Заказ", id);
        machine.call("КлючОбъекта", &[Value::text("crm.item.add"), reference, version]).unwrap().show()
    };
    assert_eq!(key(Value::text("")), format!("crm.item.add:{id}"));
    assert_eq!(key(Value::text("AAAAAQ==  ")), format!("crm.item.add:{id}:AAAAAQ=="));
    assert!(machine.call("ОшибкаКлюча", &[Value::text(key(Value::text("v")))]).unwrap().is_undefined());
}

// Errors.

#[test]
fn every_code_has_a_russian_text() {
    let machine = idle();
    let codes = codes_of_the_program();
    assert!(codes.len() > 20, "{codes:?}");
    let russian = |text: &str| text.chars().any(|c| ('а'..='я').contains(&c));
    for code in codes.iter().filter(|code| *code != "bitrix24_error") {
        let error = machine.call("НоваяОшибка", &[Value::text(code), Value::text("English"), Value::text("")]).unwrap();
        let text = machine.call("ТекстОшибки", &[error]).unwrap().show();
        assert!(russian(&text), "{code}: {text}");
        let detailed = ["invalid_request", "forbidden"].contains(&code.as_str());
        assert_eq!(text.contains("English"), detailed, "{code}: {text}");
    }
    // Those of the module bring their own.
    for code in OWN_CODES {
        assert!(!codes.iter().any(|other| other == code));
    }
    // And none that the program does not give.
    let texts = machine.call("ТекстыПрограммы", &[]).unwrap();
    assert_eq!(machine_count(&texts), codes.len() - 1);
}

fn machine_count(map: &Value) -> usize {
    let Value::Object(object) = map else { panic!("no map") };
    let crate::language::value::Object::Map(entries) = &**object else { panic!("no map") };
    entries.borrow().len()
}

#[test]
fn the_text_says_what_to_do_and_whether_the_call_may_have_been_executed() {
    let told = |answer: Answer| {
        let (machine, _) = machine(vec![answer]);
        let result = call(&machine, Value::text("key"));
        machine.call("ПроверитьУспех", &[result]).unwrap_err().0
    };
    let bitrix24 = json!({"bitrix24": {"status": 400, "error": 100, "error_description": "Поле не заполнено"}});
    assert_eq!(
        told(failure(400, "bitrix24_error", bitrix24)),
        "Битрикс24 не выполнил вызов: 100 Поле не заполнено. Запрос r1."
    );
    let text = told(failure(409, "not_installed", json!({"install_url": "https://x/install"})));
    assert!(text.contains("https://x/install"), "{text}");
    let text = told(failure(429, "rate_limited", json!({"executed": "no", "retry_after": 1500})));
    assert!(text.contains("через 1500 с."), "{text}");
    let text = told(failure(409, "outcome_unknown", json!({"executed": "unknown"})));
    assert!(text.contains("Вызов мог быть выполнен."), "{text}");
    // A success raises nothing.
    let (machine, _) = machine(vec![success(json!({"result": 1}))]);
    let result = call(&machine, Value::Undefined);
    assert!(machine.call("ПроверитьУспех", &[result]).unwrap().is_undefined());
}

#[test]
fn errors_are_written_into_the_event_log_where_that_is_chosen_and_never_a_token() {
    for chosen in [false, true] {
        let (machine, _) = machine(vec![failure(401, "unauthorized", json!({}))]);
        let connection = connection(&machine);
        connection.set_field("Токен", Value::text("very-secret-token"));
        connection.set_field("ЗаписыватьОшибки", Value::Boolean(chosen));
        call_with(&machine, &connection, Value::Undefined);
        load(&machine, &connection, 2, Value::Undefined);
        machine.call("ПолучитьСписок", &[connection.clone(), Value::text("crm.item.list")]).unwrap();
        machine.call("ПолучитьСобытия", std::slice::from_ref(&connection)).unwrap();
        let world = machine.world.borrow();
        assert_eq!(world.log.len(), if chosen { 4 } else { 0 });
        for [event, level, comment] in &world.log {
            assert_eq!((event.as_str(), level.as_str()), ("Битрикс24Прокси", "УровеньЖурналаРегистрации.Ошибка"));
            assert!(comment.contains("unauthorized") && comment.contains("r1"), "{comment}");
            assert!(!comment.contains("very-secret-token"));
        }
    }
}

#[test]
fn within_a_transaction_nothing_is_sent_unless_that_is_chosen() {
    let (machine, sending) = machine(vec![success(json!({"result": 1}))]);
    machine.world.borrow_mut().in_transaction = true;
    assert_eq!(error_of(&call(&machine, Value::Undefined)), error("in_transaction", "no"));
    assert_eq!(error_of(&load(&machine, &connection(&machine), 2, Value::Undefined)), error("in_transaction", "no"));
    assert_eq!(sending.borrow().len(), 0);
    let connection = connection(&machine);
    connection.set_field("РазрешеноВТранзакции", Value::Boolean(true));
    assert_eq!(text_at(&call_with(&machine, &connection, Value::Undefined), "Успех"), "Да");
}

#[test]
fn the_connector_goes_with_every_call_and_not_with_events() {
    let (machine, sending) = machine(vec![success(json!({"result": 1}))]);
    let connection = connection(&machine);
    connection.set_field("Коннектор", Value::text("1c"));
    connection.set_field("КоличествоПовторов", Value::Number(0.0));
    call_with(&machine, &connection, Value::Undefined);
    load(&machine, &connection, 1, Value::Undefined);
    machine.call("ПолучитьЧастьСписка", &[connection.clone(), Value::text("crm.item.list")]).unwrap();
    machine.call("ПодписанныеСобытия", &[connection]).unwrap();
    let sent: Vec<_> = bodies(&sending).iter().map(|body| body.get("auth_connector").cloned()).collect();
    assert_eq!(sent, [Some(json!("1c")), Some(json!("1c")), Some(json!("1c")), None]);
}

#[test]
fn the_version_is_that_of_the_program() {
    assert_eq!(idle().call("ВерсияМодуля", &[]).unwrap().show(), env!("CARGO_PKG_VERSION"));
}

// Sizes.

#[test]
fn a_load_is_split_by_number_and_by_size_in_the_same_way_each_time() {
    let split = |count: usize, most: f64, size: f64| {
        let network = |sent: &Sent| {
            let count = sent.json()["calls"].as_array().unwrap().len();
            success(json!({"results": vec![json!({"result": 1}); count], "errors": 0}))
        };
        let sizes = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let log = sizes.clone();
        let machine = Machine::new(World::new(move |sent: &Sent| {
            let calls = sent.json()["calls"].as_array().unwrap().len();
            log.borrow_mut().push((calls, sent.body.len(), sent.header("Idempotency-Key").unwrap().to_owned()));
            network(sent)
        }));
        let connection = connection(&machine);
        connection.set_field("ВызововВЗапросе", Value::Number(most));
        connection.set_field("РазмерЗапроса", Value::Number(size));
        assert_eq!(text_at(&load(&machine, &connection, count, Value::text("k")), "Успех"), "Да");
        let sizes = sizes.borrow().clone();
        sizes
    };
    let counts = |parts: &[(usize, usize, String)]| parts.iter().map(|(count, ..)| *count).collect::<Vec<_>>();
    assert_eq!(counts(&split(1200, 500.0, 8e6)), [500, 500, 200]);
    let small = split(20, 500.0, 1000.0);
    assert!(small.len() > 3 && small.iter().all(|(_, size, _)| *size <= 1100), "{small:?}");
    assert_eq!(small, split(20, 500.0, 1000.0));
    // A key names the first call of its part.
    let mut first = 0;
    for (count, _, key) in &small {
        assert_eq!(*key, format!("k:{first}"));
        first += count;
    }
    // One that is larger than the limit goes on its own.
    assert_eq!(counts(&split(3, 500.0, 10.0)), [1, 1, 1]);
    assert_eq!(counts(&split(3, 0.0, 1e6)), [1, 1, 1]);
}

#[test]
fn a_web_servers_page_on_size_says_what_to_do() {
    let page =
        Received { status: 413, headers: Vec::new(), body: b"<html>413 Request Entity Too Large</html>".to_vec() };
    let (machine, sending) = machine(vec![Ok(page)]);
    let result = call(&machine, Value::Undefined);
    assert_eq!((error_of(&result), sending.borrow().len()), (error("bad_answer", "no"), 1));
    assert_eq!(text_at(&result, "Ошибка.Статус"), "413");
    let text = machine.call("ТекстОшибки", &[result.at("Ошибка")]).unwrap().show();
    assert!(text.contains("увеличьте"), "{text}");
}

// Files.

/// A folder of its own, which goes at the end.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("b24proxy-onec-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn at(&self, name: &str) -> Value {
        Value::text(self.0.join(name).to_str().unwrap())
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn file(body: &[u8]) -> Received {
    Received { status: 200, headers: vec![("X-Request-Id".to_owned(), "r1".to_owned())], body: body.to_vec() }
}

#[test]
fn a_file_that_did_not_come_whole_is_not_there() {
    let folder = Folder::new("get");
    std::fs::write(folder.0.join("old.bin"), "old").unwrap();
    let get = |answer: Answer, size: Value| {
        let (machine, _) = machine(vec![answer]);
        let connection = connection(&machine);
        connection.set_field("КоличествоПовторов", Value::Number(0.0));
        let address = Value::text("https://acme.bitrix24.ru/rest/download.json?token=t");
        machine.call("ПолучитьФайл", &[connection, address, folder.at("old.bin"), size]).unwrap()
    };
    let page = Received { status: 200, headers: Vec::new(), body: b"<html>captive</html>".to_vec() };
    for (answer, size, code) in [
        (Ok(file(b"12345").with("Content-Length", "9")), Value::Undefined, "bad_answer"),
        (Ok(file(b"12345")), Value::text("9"), "bad_answer"),
        (Ok(file(b"12345")), Value::Number(9.0), "bad_answer"),
        (Ok(page), Value::Undefined, "bad_answer"),
        (Err("reset".to_owned()), Value::Undefined, "no_answer"),
        (failure(410, "file_address_expired", json!({})), Value::Undefined, "file_address_expired"),
        (failure(404, "bitrix24_error", json!({"bitrix24": {"status": 404}})), Value::Undefined, "bitrix24_error"),
    ] {
        let result = get(answer, size);
        assert_eq!(
            (text_at(&result, "Успех"), text_at(&result, "Ошибка.КодОшибки")),
            ("Нет".to_owned(), code.to_owned())
        );
        assert_eq!(std::fs::read(folder.0.join("old.bin")).unwrap(), b"old", "{code}");
        assert_eq!(folder.names(), ["old.bin"], "{code}");
    }
    let result = get(Ok(file(b"12345").with("Content-Length", "5")), Value::text("5"));
    assert_eq!((text_at(&result, "Успех"), text_at(&result, "Данные")), ("Да".to_owned(), "5".to_owned()));
    assert_eq!(std::fs::read(folder.0.join("old.bin")).unwrap(), b"12345");
    assert_eq!(folder.names(), ["old.bin"]);
}

#[test]
fn a_file_is_asked_for_again_after_its_pause_and_one_is_sent_again_only_where_it_was_not_executed() {
    let folder = Folder::new("repeat");
    std::fs::write(folder.0.join("a.bin"), "content").unwrap();
    let busy = failure(503, "refresh_pending", json!({"executed": "no", "retry_after": 4}));
    let (machine, sending) = machine(vec![busy.clone(), Err("reset".to_owned()), Ok(file(b"1"))]);
    let address = Value::text("https://acme.bitrix24.ru/rest/download.json?token=t");
    let result = machine.call("ПолучитьФайл", &[connection(&machine), address, folder.at("b.bin")]).unwrap();
    assert_eq!((text_at(&result, "Успех").as_str(), sending.borrow().len()), ("Да", 3));
    assert_eq!(waits(&machine), [4.0, 2.0]);

    let (machine, sending) = self::machine(vec![busy, Err("reset".to_owned()), success(json!({"result": 1}))]);
    machine.world.borrow_mut().folder.clone_from(&folder.0);
    let address = Value::text("https://acme.bitrix24.ru/rest/upload.json?token=t");
    let arguments = [connection(&machine), address, Value::text("file"), folder.at("a.bin")];
    let result = machine.call("ОтправитьФайл", &arguments).unwrap();
    assert_eq!((error_of(&result), sending.borrow().len()), (error("no_answer", "unknown"), 2));
    // No temporary file is left.
    assert_eq!(folder.names(), ["a.bin", "b.bin"]);
    // A file that is not there is sent nowhere.
    let machine = idle();
    let arguments = [connection(&machine), Value::text("a"), Value::text("file"), folder.at("none.bin")];
    let result = machine.call("ОтправитьФайл", &arguments).unwrap();
    assert_eq!(error_of(&result), error("file_error", "no"));
}

#[test]
fn the_name_of_a_file_cannot_end_its_header() {
    let folder = Folder::new("name");
    std::fs::write(folder.0.join("a.bin"), "content").unwrap();
    let (machine, sending) = machine(vec![success(json!({"result": 1}))]);
    let connection = connection(&machine);
    connection.set_field("Адрес", Value::text("https://www.example.com/"));
    let name = Value::text("a\"b\r\nX: y.pdf");
    let arguments = [
        connection,
        Value::text("https://acme/rest/upload?token=a b|ы"),
        Value::text("file"),
        folder.at("a.bin"),
        name,
    ];
    machine.call("ОтправитьФайл", &arguments).unwrap();
    let sent = sending.borrow()[0].clone();
    let body = String::from_utf8(sent.body.clone()).unwrap();
    assert!(body.contains("filename=\"a%22bX: y.pdf\"\r\n"), "{body}");
    assert_eq!(sent.target, "/file?portal=acme&address=https%3A%2F%2Facme%2Frest%2Fupload%3Ftoken%3Da%20b%7C%D1%8B");
    assert_eq!(sent.timeout, 1800.0);
    assert_eq!((sent.verb, sent.address.as_str()), ("POST", "https://www.example.com:443"));
}

// Events: as the contract has them.

#[test]
fn events_are_read_behind_the_number_that_was_kept() {
    let event = json!({"number": 8, "event": "ONCRMDEALUPDATE", "data": {"FIELDS": {"ID": "5"}}, "at": 1_710_487_800});
    let (machine, sending) = machine(vec![success(json!({"events": [event], "last": 9, "lost": 2}))]);
    let arguments = [connection(&machine), Value::Number(7.0), Value::Number(50.0), Value::Number(20.0)];
    let result = machine.call("ПолучитьСобытия", &arguments).unwrap();
    assert_eq!(bodies(&sending)[0], json!({"domain": "acme", "events": {"after": 7, "most": 50, "wait": 20}}));
    assert_eq!(sending.borrow()[0].header("Idempotency-Key"), None);
    assert_eq!((text_at(&result, "ПоследнийНомер"), text_at(&result, "Потеряно")), ("9".to_owned(), "2".to_owned()));
    let read = &result.at("Данные").items()[0];
    assert_eq!((text_at(read, "Номер"), text_at(read, "Событие")), ("8".to_owned(), "ONCRMDEALUPDATE".to_owned()));
    assert_eq!(text_at(read, "Время"), "15.03.2024 10:30:00");
    assert_eq!(read.at("Данные").get("FIELDS").get("ID").show(), "5");
}

#[test]
fn where_events_cannot_be_read_the_number_stays() {
    for answer in [
        failure(403, "forbidden", json!({})),
        Err("reset".to_owned()),
        success(json!({})),
        success(json!({"events": [], "last": 9})),
        success(json!({"events": [{"number": "8", "event": "X", "at": 1}], "last": 9, "lost": 0})),
        success(json!({"events": {}, "last": 9, "lost": 0})),
    ] {
        let (machine, _) = machine(vec![answer.clone()]);
        let result = machine.call("ПолучитьСобытия", &[connection(&machine), Value::Number(7.0)]).unwrap();
        assert_eq!((text_at(&result, "Успех"), text_at(&result, "ПоследнийНомер")), ("Нет".to_owned(), "7".to_owned()));
        assert_eq!(result.at("Данные").items().len(), 0, "{answer:?}");
    }
}

#[test]
fn a_subscription_is_made_ended_and_read() {
    let names = || Value::array(vec![Value::text("ONCRMDEALADD")]);
    for (function, arguments, sent) in [
        ("ПодписатьНаСобытия", vec![names()], json!({"bind": ["ONCRMDEALADD"]})),
        ("ОтписатьОтСобытий", vec![names()], json!({"unbind": ["ONCRMDEALADD"]})),
        ("ПодписанныеСобытия", vec![], json!({"bound": true})),
    ] {
        let (machine, sending) = machine(vec![Err("reset".to_owned()), success(json!({"bound": ["ONCRMDEALADD"]}))]);
        let arguments: Vec<_> = [connection(&machine)].into_iter().chain(arguments).collect();
        let result = machine.call(function, &arguments).unwrap();
        assert_eq!(text_at(&result, "Успех"), "Да");
        assert_eq!(result.at("Данные").items()[0].show(), "ONCRMDEALADD");
        // It can be repeated.
        assert_eq!(bodies(&sending)[1], json!({"domain": "acme", "events": sent}));
        let (machine, _) = self::machine(vec![success(json!({"bound": true}))]);
        let arguments: Vec<_> = [connection(&machine)].into_iter().chain(arguments[1..].to_vec()).collect();
        assert_eq!(text_at(&machine.call(function, &arguments).unwrap(), "Ошибка.КодОшибки"), "bad_answer");
    }
}
