//! `ПрочитатьJSON` into maps and arrays, and the text that `ЗаписьJSON` makes.

use super::value::{raise, Outcome, Value};

/// `lenient`: what is open at the end of the text is closed, as some platforms do.
pub fn read(text: &str, lenient: bool) -> Outcome {
    let mut text = text.trim_start_matches('\u{feff}').to_owned();
    if lenient {
        text += &missing(&text);
    }
    match serde_json::from_str(&text) {
        Ok(value) => Ok(from(&value)),
        Err(error) => raise(format!("Ошибка разбора JSON: {error}")),
    }
}

/// The brackets that are open at the end.
fn missing(text: &str) -> String {
    let (mut open, mut in_text, mut escaped) = (Vec::new(), false, false);
    for character in text.chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' if in_text => escaped = true,
            '"' => in_text = !in_text,
            _ if in_text => {}
            '{' => open.push('}'),
            '[' => open.push(']'),
            '}' | ']' => drop(open.pop()),
            _ => {}
        }
    }
    open.into_iter().rev().collect()
}

pub fn from(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Undefined,
        serde_json::Value::Bool(value) => Value::Boolean(*value),
        serde_json::Value::Number(value) => Value::Number(value.as_f64().expect("a number")),
        serde_json::Value::String(text) => Value::text(text),
        serde_json::Value::Array(items) => Value::array(items.iter().map(from).collect()),
        serde_json::Value::Object(object) => {
            Value::map(object.iter().map(|(key, value)| (Value::text(key), from(value))).collect())
        }
    }
}

pub fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text")
}
