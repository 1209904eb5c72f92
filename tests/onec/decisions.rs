//! What the module decides between two requests: the module runs, the program's answers are given here.

use crate::language::value::{Outcome, Value};
use crate::language::world::{Received, Sent, Waiting, World};
use crate::language::Machine;
use crate::script::*;
use serde_json::{json, Value as Json};

// Dates.

#[test]
fn a_date_is_read_with_or_without_seconds_and_whatever_is_no_date_is_none() {
    let machine = idle();
    let read = |text: &str| machine.call("ДатаИзСтроки", &[Value::text(text)]).unwrap().show();
    // The session is in Moscow.
    for text in [
        "2024-03-15T10:30:00+03:00",
        "2024-03-15T10:30+03:00",
        "2024-03-15T10:30+0300",
        "2024-03-15T10:30+03",
        "2024-03-15T07:30Z",
        "2024-03-15T07:30:00Z",
        "2024-03-15T07:30:00.000Z",
        "2024-03-15T10:30:00.123+0300",
        "2024-03-15T02:30-05:00",
        "2024-03-15T10:30",
        "2024-03-15 10:30:00",
    ] {
        assert_eq!(read(text), "15.03.2024 10:30:00", "{text}");
    }
    assert_eq!(read("2024-03-15T10:30:07+03:00"), "15.03.2024 10:30:07");
    assert_eq!(read("2024-03-15T10:30:07"), "15.03.2024 10:30:07");
    assert_eq!(read("2024-03-15"), "15.03.2024 0:00:00");
    assert_eq!(read(""), "01.01.0001 0:00:00");
    for text in [
        "2024-03-15T",
        "2024-03-15T10",
        "2024-03-15T10:",
        "2024-03-15T10:30:",
        "2024-03-15T10:30:7",
        "2024-02-30",
        "2024-03-15T25:00:00Z",
        "2024-03-15T10:61Z",
        "2024-03-15T10:30:00+3",
        "2024-03-15T10:30:00+03:0",
        "2024-03-15T10:30:00+03:00:00",
        "2024-03-15T10:30:00Ы",
        "2024-03-15X10:30:00",
        "2024-3-15",
        "15.03.2024",
        "2024-03-15T10:30:00.Z",
        "20a4-03-15",
        "+024-03-15",
        "2024-03-15T10:30+99:99",
    ] {
        let read = machine.call("ДатаИзСтроки", &[Value::text(text)]).unwrap();
        assert!(read.is_undefined(), "{text}: {}", read.show());
    }
}

// Keys.

#[test]
fn a_key_that_no_header_can_carry_is_refused_before_anything_is_sent() {
    let long = "k".repeat(256);
    for key in ["ключ", " key", "key ", "a\nb", "a\tb", "\u{7f}", &long, "   "] {
        let machine = idle();
        let result = call(&machine, Value::text(key));
        assert_eq!(error_of(&result), error("invalid_parameters", "no"), "{key:?}");
        let result = load(&machine, &connection(&machine), 2, Value::text(key));
        assert_eq!(error_of(&result), error("invalid_parameters", "no"), "{key:?}");
        assert_eq!(text_at(&result, "КоличествоОшибок"), "2");
    }
    let machine = idle();
    assert_eq!(error_of(&call(&machine, Value::Number(15.0))), error("invalid_parameters", "no"));
}

#[test]
fn a_key_that_a_header_can_carry_is_sent_as_it_is() {
    let longest = "k".repeat(255);
    for key in [r#"a "b" ~!"#, "3f0c6b9e-5d0e-4f3c-9d39-0a6a1c9f7b15", &longest] {
        let (machine, sending) = machine(vec![success(json!({"result": 1}))]);
        let result = call(&machine, Value::text(key));
        assert_eq!(text_at(&result, "Успех"), "Да", "{key}");
        assert_eq!(sending.borrow()[0].header("Idempotency-Key"), Some(key));
    }
    // An identifier of 1C is a key too.
    let (machine, sending) = machine(vec![success(json!({"result": 1}))]);
    call(&machine, Value::uuid("3f0c6b9e-5d0e-4f3c-9d39-0a6a1c9f7b15"));
    assert_eq!(sending.borrow()[0].header("Idempotency-Key"), Some("3f0c6b9e-5d0e-4f3c-9d39-0a6a1c9f7b15"));
}

#[test]
fn the_key_of_a_load_has_room_for_the_number_of_the_last_call() {
    let key = Value::text("k".repeat(252));
    let fewer = |count: usize| {
        let (machine, sending) = machine(vec![success(json!({"results": [{"result": 1}], "errors": 0}))]);
        let connection = connection(&machine);
        connection.set_field("ВызововВЗапросе", Value::Number(1.0));
        let result = load(&machine, &connection, count, key.clone());
        let sent = sending.borrow().len();
        (result, sent)
    };
    let (result, sent) = fewer(3);
    assert_eq!((text_at(&result, "Успех").as_str(), sent), ("Да", 3));
    // ":1000" would be too long: not the first of them is sent.
    let (result, sent) = fewer(1001);
    assert_eq!((error_of(&result), sent), (error("invalid_parameters", "no"), 0));
}

// Answers that are foreign or incomplete.

#[test]
fn what_is_no_whole_envelope_of_the_program_is_a_bad_answer_and_may_have_been_executed() {
    for body in [
        r#"{"success":true}"#,
        r#"{"success":true,"data":null}"#,
        r#"{"success":true,"data":[]}"#,
        r#"{"success":true,"data":{}}"#,
        r#"{"success":true,"data":{"time":{}}}"#,
        r#"{"success":"true","data":{"result":1}}"#,
        r#"{"success":false}"#,
        r#"{"success":false,"error":"x"}"#,
        r#"{"success":false,"error_code":5,"code":"x"}"#,
        r#"{"success":false,"error_code":"","code":500}"#,
        r#"{"result":1}"#,
        "[]",
        "5",
        "",
        "<html>Bad Gateway</html>",
    ] {
        let (machine, sending) = machine(vec![Ok(Received::json(200, body))]);
        let result = call(&machine, Value::Undefined);
        assert_eq!(error_of(&result), error("bad_answer", "unknown"), "{body}");
        assert_eq!(text_at(&result, "Успех"), "Нет");
        // With its key it is repeated safely; without one it is not.
        assert_eq!(sending.borrow().len(), 4, "{body}");
        sending.borrow_mut().clear();
        let result = call(&machine, Value::text(""));
        assert_eq!((error_of(&result), sending.borrow().len()), (error("bad_answer", "unknown"), 1), "{body}");
    }
}

#[test]
fn an_answer_of_many_calls_that_is_not_whole_leaves_their_outcome_unknown() {
    for data in [
        json!(null),
        json!({}),
        json!({"results": {}, "errors": 0}),
        json!({"results": [{"result": 1}, {"result": 1}, {"result": 1}]}),
        json!({"results": [{"result": 1}, 5, {"result": 1}], "errors": 0}),
        json!({"results": [{"result": 1}], "errors": "0", "next": 1}),
        json!({"results": [{"result": 1}], "errors": 0, "next": "1"}),
        json!({"results": [{"result": 1}], "errors": 0, "pending": 5}),
        json!({"results": [{"result": 1}], "errors": 0, "pending": ["0"]}),
        json!({"results": [{"result": 1}], "errors": 0, "next": 1, "retry_after": "soon"}),
        json!({"results": vec![json!({"result": 1}); 4], "errors": 0}),
        // Fewer results than calls, and nothing that says why.
        json!({"results": [{"result": 1}, {"result": 1}], "errors": 0}),
        json!({"results": [], "errors": 0}),
    ] {
        let (machine, _) = machine(vec![success(data.clone())]);
        let result = load(&machine, &connection(&machine), 3, Value::text(""));
        assert_eq!(error_of(&result), error("bad_answer", "unknown"), "{data}");
        let results = result.at("Данные").items();
        assert_eq!(results.len(), 3);
        let last = results.last().unwrap();
        assert_eq!(error_of(last), error("bad_answer", "unknown"), "{data}");
    }
}

#[test]
fn a_result_without_result_and_without_error_is_no_success() {
    let (machine, _) = machine(vec![success(json!({"results": [{"result": null}, {}], "errors": 0}))]);
    let result = load(&machine, &connection(&machine), 2, Value::text(""));
    let results = result.at("Данные").items();
    assert_eq!(text_at(&results[0], "Успех"), "Да");
    assert_eq!(error_of(&results[1]), error("bad_answer", "unknown"));
    assert_eq!(text_at(&result, "КоличествоОшибок"), "1");
}

#[test]
fn a_list_that_does_not_say_whether_it_is_whole_never_looks_whole() {
    for data in [
        json!({}),
        json!(null),
        json!({"result": [1, 2]}),
        json!({"result": [1, 2], "complete": "true"}),
        json!({"result": [1, 2], "complete": false}),
        json!({"result": [1, 2], "complete": false, "cursor": ""}),
        json!({"result": [1, 2], "complete": false, "cursor": 5}),
        json!({"result": {"items": []}, "complete": true}),
    ] {
        let (machine, _) = machine(vec![success(data.clone())]);
        for function in ["ПолучитьСписок", "ПолучитьЧастьСписка"] {
            let result = machine.call(function, &[connection(&machine), Value::text("crm.item.list")]).unwrap();
            assert_eq!(text_at(&result, "Ошибка.КодОшибки"), "bad_answer", "{data}");
            assert_eq!((text_at(&result, "Успех"), text_at(&result, "Полный")), ("Нет".to_owned(), "Нет".to_owned()));
        }
    }
    let (machine, _) = machine(vec![
        success(json!({"result": [1, 2], "complete": false, "cursor": "c"})),
        success(json!({"result": [3], "total": 3, "complete": true})),
    ]);
    let result = machine.call("ПолучитьСписок", &[connection(&machine), Value::text("crm.item.list")]).unwrap();
    assert_eq!((text_at(&result, "Полный"), result.at("Данные").items().len()), ("Да".to_owned(), 3));
}

/// Wherever an answer is cut, and whatever the platform's reader makes of it.
#[test]
fn an_answer_that_was_cut_is_never_taken_for_a_whole_one() {
    let whole =
        json!({"success": true, "data": {"result": {"item": {"id": 5, "title": "a \\ {\" }]"}}, "time": {"start": 1}}});
    let whole = whole.to_string();
    for lenient in [false, true] {
        for at in (0..whole.len()).filter(|at| whole.is_char_boundary(*at)) {
            // Without a length, and with the one that the answer had.
            for announced in [false, true] {
                let mut answer = Received::json(200, &whole[..at]);
                if announced {
                    answer = answer.with("content-length", &whole.len().to_string());
                }
                let (machine, _) = machine(vec![Ok(answer)]);
                machine.world.borrow_mut().lenient_reader = lenient;
                let result = call(&machine, Value::text(""));
                assert_eq!(error_of(&result), error("bad_answer", "unknown"), "{}", &whole[..at]);
            }
        }
    }
    for announced in [None, Some(whole.len().to_string())] {
        let mut answer = Received::json(200, &whole);
        if let Some(length) = &announced {
            answer = answer.with("Content-Length", length);
        }
        let (machine, _) = machine(vec![Ok(answer)]);
        assert_eq!(text_at(&call(&machine, Value::Undefined), "Успех"), "Да", "{announced:?}");
    }
    // The length of what a server has packed on its way is another one.
    let packed = Received::json(200, &whole).with("Content-Encoding", "gzip").with("Content-Length", "7");
    let (machine, _) = machine(vec![Ok(packed)]);
    assert_eq!(text_at(&call(&machine, Value::Undefined), "Успех"), "Да");
}

#[test]
fn a_failure_with_values_of_other_types_raises_nothing() {
    let more =
        json!({"retry_after": "soon", "executed": 5, "install_url": {}, "bitrix24": {"status": "x", "error": 7}});
    let (machine, sending) = machine(vec![failure(429, "rate_limited", more)]);
    let result = call(&machine, Value::Undefined);
    assert_eq!(text_at(&result, "Ошибка.КодОшибки"), "rate_limited");
    assert!(result.at("Ошибка.ПовторитьЧерез").is_undefined());
    assert_eq!(sending.borrow().len(), 1);
}

// Repeats and pauses.

#[test]
fn an_ordinary_wait_is_not_taken_for_no_room_for_keys() {
    for seconds in [2, 60, 600] {
        let limited = failure(429, "rate_limited", json!({"executed": "no", "retry_after": seconds}));
        let (machine, sending) = machine(vec![limited]);
        let connection = connection(&machine);
        connection.set_field("НаибольшаяПауза", Value::Number(1.0));
        let result = call_with(&machine, &connection, Value::Undefined);
        assert_eq!(error_of(&result), error("rate_limited", "no"));
        assert_eq!(text_at(&result, "Ошибка.ПовторитьЧерез"), seconds.to_string());
        assert_eq!(sending.borrow().len(), 1);
        assert!(sending.borrow()[0].header("Idempotency-Key").is_some());
        assert_eq!(text_at(&load(&machine, &connection, 2, Value::Undefined), "Ошибка.КодОшибки"), "rate_limited");
        assert!(sending.borrow().iter().all(|sent| sent.header("Idempotency-Key").is_some()));
    }
}

#[test]
fn where_there_is_no_room_for_keys_a_key_of_the_modules_own_is_left_out() {
    let full = failure(429, "rate_limited", json!({"executed": "no", "retry_after": 5000}));
    let (machine, sending) = machine(vec![full.clone(), success(json!({"result": 1}))]);
    let result = call(&machine, Value::Undefined);
    assert_eq!((text_at(&result, "Успех"), text_at(&result, "КлючИдемпотентности")), ("Да".to_owned(), String::new()));
    let keys: Vec<_> = sending.borrow().iter().map(|sent| sent.header("Idempotency-Key").is_some()).collect();
    assert_eq!(keys, [true, false]);
    // The caller's own key is its promise.
    let (machine, sending) = self::machine(vec![full]);
    assert_eq!(error_of(&call(&machine, Value::text("mine"))), error("rate_limited", "no"));
    assert_eq!(sending.borrow().len(), 1);
}

#[test]
fn a_repeat_follows_after_its_pause_on_every_platform() {
    for waiting in [Waiting::Since8_3_13, Waiting::Before8_3_13] {
        let busy = failure(503, "refresh_pending", json!({"executed": "no", "retry_after": 7}));
        let (machine, sending) = machine(vec![busy, Err("reset".to_owned()), success(json!({"result": 1}))]);
        machine.world.borrow_mut().waiting = waiting;
        let result = call(&machine, Value::Undefined);
        assert_eq!((text_at(&result, "Успех").as_str(), sending.borrow().len()), ("Да", 3), "{waiting:?}");
        assert_eq!(waits(&machine), [7.0, 2.0], "{waiting:?}");
    }
}

#[test]
fn where_nothing_can_wait_nothing_is_repeated() {
    for waiting in [Waiting::NotAtAll, Waiting::Forbidden] {
        let busy = failure(503, "refresh_pending", json!({"executed": "no", "retry_after": 7}));
        let (machine, sending) = machine(vec![busy, success(json!({"result": 1}))]);
        machine.world.borrow_mut().waiting = waiting;
        let result = call(&machine, Value::Undefined);
        assert_eq!((error_of(&result), sending.borrow().len()), (error("refresh_pending", "no"), 1), "{waiting:?}");
        assert_eq!(text_at(&result, "Ошибка.ПовторитьЧерез"), "7");
    }
}

/// What the job does that an older module of this name started, too.
#[test]
fn the_pause_of_a_job_raises_nothing() {
    for waiting in [Waiting::Since8_3_13, Waiting::Before8_3_13, Waiting::NotAtAll, Waiting::Forbidden] {
        let machine = idle();
        machine.world.borrow_mut().waiting = waiting;
        assert!(machine.call("Пауза", &[Value::Number(3.0)]).unwrap().is_undefined());
    }
}

// Parameters.

fn parameter_error(value: Value) -> String {
    let machine = idle();
    let arguments = [connection(&machine), Value::text("crm.item.add"), structure(&[("fields", value)])];
    let result = machine.call("ВызватьМетод", &arguments).unwrap();
    assert_eq!(error_of(&result), error("invalid_parameters", "no"));
    text_at(&result, "Ошибка.Текст")
}

#[test]
fn the_text_of_a_wrong_parameter_says_where_it_stands() {
    let wrong = || Value::other("ФайловыйПоток", &[]);
    assert!(parameter_error(structure(&[("title", wrong())])).contains("params.fields.title"));
    let list = Value::array(vec![Value::Number(1.0), structure(&[("id", wrong())])]);
    assert!(parameter_error(list).contains("params.fields[1].id"));
    let machine = idle();
    let good = structure(&[("id", Value::Number(1.0))]);
    let bad = structure(&[("fields", structure(&[("x", wrong())]))]);
    let calls = [&good, &good, &good, &bad]
        .map(|p| machine.call("НовыйВызов", &[Value::text("crm.item.add"), p.clone()]).unwrap());
    let connection = connection(&machine);
    // In whichever request it would go, nothing is sent before.
    connection.set_field("ВызововВЗапросе", Value::Number(2.0));
    let result = machine.call("ВызватьМетоды", &[connection, Value::array(calls.to_vec())]).unwrap();
    assert_eq!(error_of(&result), error("invalid_parameters", "no"));
    let text = text_at(&result, "Ошибка.Текст");
    assert!(text.contains("calls[3].params.fields.x"), "{text}");
    assert_eq!(text_at(&result, "КоличествоОшибок"), "4");
}

#[test]
fn the_version_is_understood_as_a_number_and_as_a_text() {
    let version = |version: Value| -> Outcome<(Value, Vec<Json>)> {
        let (machine, sending) = machine(vec![success(json!({"result": {"items": []}}))]);
        let arguments =
            [connection(&machine), Value::text("tasks.task.list"), Value::Undefined, Value::Undefined, version];
        let result = machine.call("ВызватьМетод", &arguments)?;
        let sent = bodies(&sending);
        Ok((result, sent))
    };
    for three in [Value::Number(3.0), Value::text("3"), Value::text(" 3 ")] {
        assert_eq!(version(three).unwrap().1[0]["version"], 3);
    }
    for two in [Value::Number(2.0), Value::text("2")] {
        assert_eq!(version(two).unwrap().1[0].get("version"), None);
    }
    for other in [Value::Number(4.0), Value::text("v3"), Value::text(""), Value::Undefined, Value::Boolean(true)] {
        let (result, sent) = version(other).unwrap();
        assert_eq!((error_of(&result), sent.len()), (error("invalid_parameters", "no"), 0));
    }
}

// Loads that Bitrix24 does not take at once.

#[test]
fn calls_that_are_refused_for_now_are_waited_for_and_sent_again() {
    let refused = json!({"error": "OPERATION_TIME_LIMIT", "error_description": "later", "executed": "no"});
    let first = json!({"results": [refused, {"result": 2}], "errors": 1, "pending": [0], "next": 2, "retry_after": 30});
    // With a key the same request, whole.
    let rest = json!({"results": [{"result": 1}, {"result": 2}, {"result": 3}], "errors": 0});
    let (machine, sending) = self::machine(vec![success(first.clone()), success(rest)]);
    let result = load(&machine, &connection(&machine), 3, Value::text("key"));
    assert_eq!(text_at(&result, "Успех"), "Да");
    assert_eq!(waits(&machine), [30.0]);
    assert_eq!(bodies(&sending)[0], bodies(&sending)[1]);
    // Without one the calls of `pending` and those behind `next`.
    let rest = json!({"results": [{"result": 1}, {"result": 3}], "errors": 0});
    let (machine, sending) = self::machine(vec![success(first), success(rest)]);
    let result = load(&machine, &connection(&machine), 3, Value::text(""));
    let results: Vec<_> = result.at("Данные").items().iter().map(|r| text_at(r, "Данные")).collect();
    assert_eq!(results, ["1", "2", "3"]);
    let calls = bodies(&sending)[1]["calls"].as_array().unwrap().clone();
    let titles: Vec<_> = calls.iter().map(|call| &call["params"]["fields"]["TITLE"]).collect();
    assert_eq!(titles, ["Сделка 0", "Сделка 2"]);
}

#[test]
fn a_load_waits_only_so_long_and_says_when_to_go_on() {
    // One call a minute: it goes on, and would for hours.
    let network = |sent: &Sent| {
        let count = sent.json()["calls"].as_array().unwrap().len();
        let mut data = json!({"results": [{"result": 1}], "errors": 0});
        if count > 1 {
            (data["next"], data["retry_after"]) = (json!(1), json!(60));
        }
        success(data)
    };
    let machine = Machine::new(World::new(network));
    let connection = connection(&machine);
    connection.set_field("НаибольшееОжидание", Value::Number(300.0));
    let result = load(&machine, &connection, 100, Value::text(""));
    assert_eq!(waits(&machine), [60.0; 5]);
    assert_eq!(
        (error_of(&result), text_at(&result, "Ошибка.ПовторитьЧерез")),
        (error("not_sent", "no"), "60".to_owned())
    );
    let done = result.at("Данные").items().iter().filter(|r| text_at(r, "Успех") == "Да").count();
    assert_eq!(done, 6);
    // A wait that is longer than one may be is not begun.
    connection.set_field("НаибольшаяПауза", Value::Number(59.0));
    let before = waits(&machine).len();
    assert_eq!(error_of(&load(&machine, &connection, 3, Value::text(""))), error("not_sent", "no"));
    assert_eq!(waits(&machine).len(), before);
    // Where nothing can wait it ends, too.
    connection.set_field("НаибольшаяПауза", Value::Number(60.0));
    machine.world.borrow_mut().waiting = Waiting::Forbidden;
    assert_eq!(error_of(&load(&machine, &connection, 3, Value::text(""))), error("not_sent", "no"));
}

#[test]
fn a_load_without_progress_ends() {
    let (machine, sending) = machine(vec![success(json!({"results": [], "errors": 0, "next": 0}))]);
    let result = load(&machine, &connection(&machine), 3, Value::text("key"));
    assert_eq!(error_of(&result), error("not_sent", "no"));
    assert_eq!(sending.borrow().len(), 4);
    assert_eq!(waits(&machine), [1.0, 2.0, 3.0]);
}
