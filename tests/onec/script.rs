//! The module, with answers of the program that are given here.

use crate::language::value::Value;
use crate::language::world::{Received, Sent, World};
use crate::language::Machine;
use serde_json::{json, Value as Json};
use std::cell::RefCell;
use std::rc::Rc;

/// What was sent, in its order.
pub type Sending = Rc<RefCell<Vec<Sent>>>;
pub type Answer = Result<Received, String>;

/// The program answers with these, the last one as often as it is asked.
pub fn machine(answers: Vec<Answer>) -> (Machine<'static>, Sending) {
    let sending = Sending::default();
    let log = sending.clone();
    let world = World::new(move |sent| {
        log.borrow_mut().push(sent.clone());
        let count = log.borrow().len();
        answers[count.min(answers.len()) - 1].clone()
    });
    (Machine::new(world), sending)
}

pub fn idle() -> Machine<'static> {
    Machine::new(World::without_network())
}

pub fn success(data: Json) -> Answer {
    Ok(Received::json(200, json!({"success": true, "data": data})))
}

pub fn failure(status: u16, code: &str, more: Json) -> Answer {
    let mut envelope =
        json!({"success": false, "error": "text", "code": status, "error_code": code, "request_id": "r1"});
    envelope.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Ok(Received::json(status, envelope))
}

pub fn connection(machine: &Machine) -> Value {
    let arguments =
        [Value::text("https://www.example.com/cgi-bin/b24proxy"), Value::text("token"), Value::text("acme")];
    machine.call("НовоеПодключение", &arguments).unwrap()
}

pub fn structure(fields: &[(&str, Value)]) -> Value {
    Value::structure(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

/// `ВызватьМетод` of a method that changes something, with this key or without a say.
pub fn call(machine: &Machine, key: Value) -> Value {
    call_with(machine, &connection(machine), key)
}

pub fn call_with(machine: &Machine, connection: &Value, key: Value) -> Value {
    let arguments = [connection.clone(), Value::text("crm.item.add"), structure(&[("id", Value::Number(1.0))]), key];
    machine.call("ВызватьМетод", &arguments).expect("the module raises nothing")
}

/// `ВызватьМетоды` with so many calls that change something.
pub fn load(machine: &Machine, connection: &Value, count: usize, key: Value) -> Value {
    let calls = (0..count).map(|i| {
        let parameters = structure(&[("fields", structure(&[("TITLE", Value::text(format!("Сделка {i}")))]))]);
        machine.call("НовыйВызов", &[Value::text("crm.deal.add"), parameters]).unwrap()
    });
    let calls = Value::array(calls.collect());
    machine.call("ВызватьМетоды", &[connection.clone(), calls, key]).expect("the module raises nothing")
}

pub fn text_at(value: &Value, path: &str) -> String {
    value.at(path).show()
}

/// Error code and what is known of the execution.
pub fn error_of(result: &Value) -> (String, String) {
    (text_at(result, "Ошибка.КодОшибки"), text_at(result, "Ошибка.Выполнено"))
}

pub fn error(code: &str, executed: &str) -> (String, String) {
    (code.to_owned(), executed.to_owned())
}

pub fn bodies(sending: &Sending) -> Vec<Json> {
    sending.borrow().iter().map(Sent::json).collect()
}

pub fn waits(machine: &Machine) -> Vec<f64> {
    machine.world.borrow().waits.clone()
}
