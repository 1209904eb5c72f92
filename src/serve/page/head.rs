//! What all pages have in common (`base.html`): title, style, buttons, a button that copies code, and the headers that keep
//! a page to itself.

use super::language::Language;
use crate::values::answer::Answer;
use crate::values::secret::random_hex;
use askama::Template;

/// What surrounds a page.
pub enum Place {
    /// A tab of its own; nobody may frame it.
    Tab,
    /// A frame of this portal, `https://acme.bitrix24.ru`.
    Frame(String),
}

/// The mark before a title.
#[derive(Clone, Copy)]
pub enum Tone {
    Plain,
    Good,
    Bad,
}

impl Tone {
    pub fn class(self) -> &'static str {
        match self {
            Tone::Plain => "",
            Tone::Good => "good",
            Tone::Bad => "bad",
        }
    }
}

/// A link that looks like a button (`button.html`).
pub struct Button {
    pub label: &'static str,
    pub address: String,
    /// Beside another that matters more.
    pub is_second: bool,
    pub opens_a_tab: bool,
}

impl Button {
    pub fn new(label: &'static str, address: String) -> Button {
        Button { label, address, is_second: false, opens_a_tab: false }
    }
}

/// A template that extends `base.html` has this as `head`.
pub struct Head {
    pub language: Language,
    pub title: String,
    pub tone: Tone,
    /// For tables rather than for text.
    pub wide: bool,
    /// Something in the page is code, with a button that copies it.
    pub has_code: bool,
    pub has_form: bool,
    /// Times in the page, which a script writes as they are where it is read.
    pub has_times: bool,
    /// Whether Bitrix24, around the page, is told that the installation is finished.
    pub ends_installation: bool,
    /// Of this answer: styles and scripts without it do not count.
    pub nonce: String,
}

impl Head {
    pub fn new(language: Language, tone: Tone, title: impl Into<String>) -> Head {
        Head {
            language,
            title: title.into(),
            tone,
            wide: false,
            has_code: false,
            has_form: false,
            has_times: false,
            ends_installation: false,
            nonce: random_hex::<16>(),
        }
    }

    pub fn copy(&self) -> &'static str {
        self.language.pick("Скопировать", "Copy")
    }

    pub fn copied(&self) -> &'static str {
        self.language.pick("Скопировано", "Copied")
    }

    /// `page`: the template with this head.
    pub fn answer(&self, page: &impl Template, status: u16, place: &Place) -> Answer {
        let body = page.render().unwrap_or_else(|_| self.title.clone());
        Answer::html(status, body)
            .with("Referrer-Policy", "no-referrer")
            .with("Content-Security-Policy", self.policy(place))
    }

    fn policy(&self, place: &Place) -> String {
        let nonce = &self.nonce;
        let has_script = self.has_code || self.has_times || self.ends_installation;
        let scripts = if has_script { format!("script-src 'nonce-{nonce}'; ") } else { String::new() };
        let ancestors = match place {
            Place::Tab => "'none'",
            Place::Frame(portal) => portal,
        };
        // The answer to the form redirects to the portal, which browsers count as the form's action.
        let action = if self.has_form { "'self' https: http:" } else { "'none'" };
        format!(
            "default-src 'none'; {scripts}style-src 'nonce-{nonce}'; base-uri 'none'; form-action {action}; \
             frame-ancestors {ancestors}"
        )
    }
}
