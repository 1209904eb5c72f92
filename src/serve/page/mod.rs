//! Pages for a browser, Russian or English. What they have in common is in [`head`] and `base.html`.

mod head;
mod language;
mod texts;

pub use head::{Head, Place};
pub use language::Language;

use crate::config::Config;
use crate::install::frame::Opened;
use crate::install::{Installed, Problem};
use crate::values::answer::Answer;
use crate::values::portal::PortalName;
use askama::Template;
use head::{Button, Tone};

#[derive(Default)]
pub struct Section {
    title: String,
    facts: Vec<(String, String)>,
    code: String,
}

struct Form {
    action: String,
    label: &'static str,
    button: &'static str,
}

/// A page of text: what is so, and what to do next.
#[derive(Template)]
#[template(path = "page.html", config = "src/serve/page/askama.toml")]
pub struct Page {
    head: Head,
    paragraphs: Vec<String>,
    /// What must not be overlooked although all went well.
    warning: String,
    sections: Vec<Section>,
    form: Option<Form>,
    buttons: Vec<Button>,
}

impl Page {
    fn new(language: Language, tone: Tone, title: impl Into<String>) -> Page {
        Page {
            head: Head::new(language, tone, title),
            paragraphs: Vec::new(),
            warning: String::new(),
            sections: Vec::new(),
            form: None,
            buttons: Vec::new(),
        }
    }

    /// Where to begin: which portal, and what will happen.
    pub fn start(language: Language, action: String) -> Page {
        let words = texts::start(language);
        let mut page = Page::new(language, Tone::Plain, words.title);
        page.paragraphs = words.paragraphs.iter().map(|p| (*p).to_owned()).collect();
        page.head.has_form = true;
        page.form = Some(Form { action, label: words.label, button: words.button });
        page
    }

    pub fn installed(language: Language, installed: &Installed, config: &Config) -> Page {
        let words = texts::words(language);
        let mut page = Page::new(language, Tone::Good, words.installed);
        page.paragraphs = vec![texts::installed(language).into(), texts::service_account(language).into()];
        page.warning = texts::rights_not_granted(language, &installed.missing);
        if let Some((asked, portal)) = installed.asked.as_ref().zip(PortalName::parse(&installed.portal)) {
            let words = texts::other_oauth_server(language, &portal, asked);
            page.warning = format!("{} {words}", page.warning).trim().to_owned();
        }
        let user = match installed.user.name.as_str() {
            "" => installed.user.id.to_string(),
            name => format!("{name} (ID {})", installed.user.id),
        };
        page.head.has_code = true;
        page.sections = vec![
            Section {
                facts: vec![
                    (words.portal.into(), installed.portal.clone()),
                    (words.administrator.into(), user),
                    (words.rights.into(), installed.rights.join(", ")),
                ],
                ..Section::default()
            },
            Section {
                title: words.request.into(),
                code: texts::request_of_1c(language, config, &installed.portal),
                ..Section::default()
            },
        ];
        page
    }

    /// The application opened in Bitrix24, and installed by that or before.
    pub fn opened(language: Language, opened: &Opened, config: &Config) -> Page {
        let mut page = match opened {
            Opened::Installed(installed) => Page::installed(language, installed, config),
            Opened::WorksAlready => {
                let mut page = Page::new(language, Tone::Good, texts::words(language).works_already);
                page.paragraphs = vec![texts::works_already(language).into()];
                page
            }
        };
        page.head.ends_installation = true;
        page
    }

    pub fn problem(language: Language, problem: &Problem) -> Page {
        let (title, paragraphs) = texts::problem(language, problem);
        let mut page = Page::new(language, Tone::Bad, title);
        page.paragraphs = paragraphs;
        page
    }

    /// With a button to where an installation begins: the portal's own page where there is but one.
    pub fn with_beginning(mut self, config: &Config) -> Page {
        let address = match (config.portals.as_slice(), &config.bitrix24.redirect_uri) {
            (_, None) => return self,
            ([only], Some(_)) => config.install_url(&only.name).unwrap_or_default(),
            (_, Some(uri)) => format!("{uri}/install"),
        };
        self.buttons.push(Button::new(texts::words(self.head.language).begin_again, address));
        self
    }

    /// A table for each portal.
    pub fn status(language: Language, portals: Vec<(String, Vec<(String, String)>)>) -> Page {
        let mut page = Page::new(language, Tone::Plain, texts::words(language).status);
        page.sections =
            portals.into_iter().map(|(title, facts)| Section { title, facts, code: String::new() }).collect();
        page
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
