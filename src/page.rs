//! Pages for a browser.

use crate::answer::Answer;
use askama::Template;

/// What a page says. Texts are escaped by the template.
#[derive(Template)]
#[template(
    source = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width\"><title>{{ title }}</title>\
<h1>{{ title }}</h1>{% for line in lines %}<p>{{ line }}</p>{% endfor %}</html>",
    ext = "html"
)]
pub struct Page {
    pub title: String,
    pub lines: Vec<String>,
}

impl Page {
    pub fn answer(&self, status: u16) -> Answer {
        let body = self.render().unwrap_or_else(|_| self.title.clone());
        Answer::html(status, body)
            .with("Referrer-Policy", "no-referrer")
            .with(
                "Content-Security-Policy",
                "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
            )
    }
}
