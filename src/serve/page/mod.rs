//! Pages for a browser, Russian or English. What they have in common is in [`head`] and `base.html`.

mod head;
mod language;
mod links;
mod reasons;
mod status;
mod texts;

pub use head::{Head, Place};
pub use language::Language;
pub use links::Links;
pub use status::StatusPage;

use crate::config::Config;
use crate::install::frame::Opened;
use crate::install::{Installed, Problem};
use crate::serve::status::person;
use crate::values::answer::Answer;
use crate::values::error::Error;
use crate::values::portal::PortalName;
use askama::Template;
use head::{Button, Tone};

/// To be copied; without a title where the sentence before it is one.
struct Code {
    title: &'static str,
    text: String,
}

/// The field for a portal's address.
struct Form {
    action: String,
    label: &'static str,
    button: &'static str,
    /// What stands in it.
    value: String,
}

/// A page of text: what is so, and what to do next.
#[derive(Template)]
#[template(path = "page.html", config = "src/serve/page/askama.toml")]
pub struct Page {
    head: Head,
    paragraphs: Vec<String>,
    /// What must not be overlooked although all went well.
    warning: String,
    facts: Vec<(&'static str, String)>,
    code: Option<Code>,
    form: Option<Form>,
    buttons: Vec<Button>,
}

impl Page {
    fn new(language: Language, tone: Tone, title: impl Into<String>) -> Page {
        Page {
            head: Head::new(language, tone, title),
            paragraphs: Vec::new(),
            warning: String::new(),
            facts: Vec::new(),
            code: None,
            form: None,
            buttons: Vec::new(),
        }
    }

    /// The program's own address, opened by whoever wants to know what this is.
    pub fn front(language: Language, links: &Links) -> Page {
        let mut page = Page::of(language, Tone::Plain, texts::front(language)).with_form(links, "");
        page.add_button(texts::words(language).status, links.status());
        page
    }

    /// Where to begin: which portal, and what will happen.
    pub fn start(language: Language, links: &Links) -> Page {
        Page::of(language, Tone::Plain, texts::start(language)).with_form(links, "")
    }

    /// The page of a finished installation. `tried`: a call has just been answered; `trial`: where another one is tried.
    pub fn finished(language: Language, installed: &Installed, tried: bool, trial: String, links: &Links) -> Page {
        let words = texts::words(language);
        let mut page = Page::installed(language, installed, links);
        if tried {
            page.head.title = words.tried.into();
            page.paragraphs = vec![texts::tried(language, &installed.user)];
        }
        page.add_button(if tried { words.try_again } else { words.try_a_call }, Some(trial));
        if !installed.missing.is_empty() {
            page.add_button(words.install_again, links.install(Some(&installed.portal)));
        }
        page.add_button(words.status, links.status());
        page
    }

    fn installed(language: Language, installed: &Installed, links: &Links) -> Page {
        let words = texts::words(language);
        let mut page = Page::new(language, Tone::Good, words.installed);
        page.paragraphs = vec![texts::installed(language).into(), texts::service_account(language).into()];
        page.warning = texts::rights_not_granted(language, &installed.missing);
        if let Some(doubted) = &installed.doubted {
            let words = texts::other_oauth_server(language, doubted);
            page.warning = format!("{} {words}", page.warning).trim().to_owned();
        }
        page.facts = vec![
            (words.portal, installed.portal.clone()),
            (words.administrator, person(installed.user.id, &installed.user.name)),
            (words.rights, installed.rights.join(", ")),
        ];
        page.set_code(words.request, texts::request_of_1c(language, links.base(), &installed.portal));
        page
    }

    /// The application opened in Bitrix24, and installed by that or before. `portal`: in whose frame.
    pub fn opened(language: Language, opened: &Opened, portal: Option<&str>, links: &Links) -> Page {
        let words = texts::words(language);
        let (mut page, button) = match opened {
            Opened::Installed(installed) => {
                let trial = links.trial(&installed.receipt, Some(language));
                (Page::installed(language, installed, links), Button::new(words.try_a_call, trial))
            }
            Opened::WorksAlready => (
                Page::of(language, Tone::Good, texts::works_already(language)),
                Button::new(words.replace, links.install(portal).unwrap_or_default()),
            ),
        };
        page.head.ends_installation = true;
        if links.base().is_some() {
            page.buttons.push(Button { is_second: true, opens_a_tab: true, ..button });
        }
        page
    }

    pub fn problem(language: Language, problem: &Problem) -> Page {
        let mut page = Page::of(language, Tone::Bad, texts::problem(language, problem));
        if let Problem::UnknownPortal(named) = problem {
            if let Some(name) = PortalName::parse(named).filter(|name| name.as_str().contains('.')) {
                page.set_code("", format!("[portals.\"{name}\"]"));
            }
        }
        page
    }

    /// With what a person can do next: a field for the portal's address, or a button to where an installation begins (the
    /// portal's own page where there is but one).
    pub fn with_beginning(mut self, problem: &Problem, config: &Config, links: &Links) -> Page {
        match problem {
            Problem::UnknownPortal(named) => return self.with_form(links, named),
            Problem::NoPortalNamed => return self.with_form(links, ""),
            Problem::Receipt => self.add_button(texts::words(self.head.language).status, links.status()),
            problem if problem.can_begin_again() => {
                let only = match config.portals.as_slice() {
                    [only] => Some(only.name.as_str()),
                    _ => None,
                };
                self.add_button(texts::words(self.head.language).begin_again, links.install(only));
            }
            _ => {}
        }
        self
    }

    /// A request that could not be answered, for a person in a browser; `None`: such an error has no page.
    pub fn failure(language: Language, error: &Error, links: &Links) -> Option<Page> {
        let words = texts::words(language);
        let text = match error {
            Error::Configuration(_) | Error::Storage(_) | Error::HostBusy(_) => {
                texts::problem(language, &Problem::from(error.clone()))
            }
            error => texts::failure(language, error)?,
        };
        let mut page = Page::of(language, Tone::Bad, text);
        match error.status_and_code().0 {
            401 => {
                page.head.tone = Tone::Plain;
                page.add_button(words.log_in, links.status());
            }
            404 => page.add_button(words.front, links.front()),
            _ => {}
        }
        Some(page)
    }

    fn of(language: Language, tone: Tone, text: texts::Text) -> Page {
        let (title, paragraphs) = text;
        Page { paragraphs, ..Page::new(language, tone, title) }
    }

    fn with_form(mut self, links: &Links, value: &str) -> Page {
        let words = texts::words(self.head.language);
        self.head.has_form = true;
        self.form = Some(Form {
            action: links.install(None).unwrap_or_default(),
            label: words.portals_address,
            button: words.install,
            value: value.to_owned(),
        });
        self
    }

    fn set_code(&mut self, title: &'static str, text: String) {
        self.head.has_code = true;
        self.code = Some(Code { title, text });
    }

    /// The first button matters most. Without an address there is none.
    fn add_button(&mut self, label: &'static str, address: Option<String>) {
        let is_second = self.form.is_some() || !self.buttons.is_empty();
        self.buttons.extend(address.map(|address| Button { is_second, ..Button::new(label, address) }));
    }

    /// The words alone, for the log and for events.
    pub fn text(&self) -> String {
        format!("{}: {}", self.head.title, self.paragraphs.join(" "))
    }

    pub fn answer(&self, status: u16, place: &Place) -> Answer {
        self.head.answer(self, status, place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_page_repeats_is_escaped() {
        let problem = Problem::OtherPortal { wanted: "<script>".into(), got: "\"'&".into() };
        let body = Page::problem(Language::English, &problem).render().unwrap();
        assert!(!body.contains("<script>"), "{body}");
    }
}
