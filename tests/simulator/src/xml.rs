//! Answers to `.xml` calls.

use crate::php::{Key, Php};

pub(crate) fn encode(response: &Php) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<response>");
    write(response, &mut out);
    out.push_str("</response>");
    out
}

fn write(value: &Php, out: &mut String) {
    let Php::Array(array) = value else {
        return out.push_str(&escape(&value.to_text()));
    };
    for (key, value) in array.iter() {
        let name = match key {
            Key::Int(_) => "item".to_owned(),
            Key::Str(name) => escape(name),
        };
        out.push_str(&format!("<{name}>"));
        write(value, out);
        out.push_str(&format!("</{name}>"));
    }
}

/// Also for HTML text and attributes.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
