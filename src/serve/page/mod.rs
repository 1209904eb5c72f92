//! Pages for a browser: one template, Russian or English, with the headers that keep a page to itself.

mod language;
mod texts;

pub use language::Language;

use crate::config::Config;
use crate::install::frame::Opened;
use crate::install::{Installed, Problem};
use crate::values::answer::Answer;
use crate::values::portal::PortalName;
use crate::values::secret::random_hex;
use askama::Template;

/// What surrounds a page.
pub enum Place {
    /// A tab of its own; nobody may frame it.
    Tab,
    /// A frame of this portal, `https://acme.bitrix24.ru`.
    Frame(String),
}

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

#[derive(Template)]
#[template(path = "page.html", config = "src/serve/page/askama.toml")]
pub struct Page {
    language: Language,
    title: String,
    /// `good`, `bad` or empty: the heading's mark.
    tone: &'static str,
    paragraphs: Vec<String>,
    /// What must not be overlooked although all went well.
    warning: String,
    sections: Vec<Section>,
    form: Option<Form>,
    /// Where to begin again; empty = not from here.
    beginning: String,
    /// Whether Bitrix24 is told that the installation is finished.
    in_frame: bool,
    nonce: String,
}

impl Page {
    fn new(language: Language, tone: &'static str, title: impl Into<String>) -> Page {
        Page {
            language,
            title: title.into(),
            tone,
            paragraphs: Vec::new(),
            warning: String::new(),
            sections: Vec::new(),
            form: None,
            beginning: String::new(),
            in_frame: false,
            nonce: random_hex::<16>(),
        }
    }

    /// Where to begin: which portal, and what will happen.
    pub fn start(language: Language, action: String) -> Page {
        let words = texts::start(language);
        let mut page = Page::new(language, "", words.title);
        page.paragraphs = words.paragraphs.iter().map(|p| (*p).to_owned()).collect();
        page.form = Some(Form { action, label: words.label, button: words.button });
        page
    }

    pub fn installed(language: Language, installed: &Installed, config: &Config) -> Page {
        let words = texts::words(language);
        let mut page = Page::new(language, "good", words.installed);
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
                let mut page = Page::new(language, "good", texts::words(language).works_already);
                page.paragraphs = vec![texts::works_already(language).into()];
                page
            }
        };
        page.in_frame = true;
        page
    }

    pub fn problem(language: Language, problem: &Problem) -> Page {
        let (title, paragraphs) = texts::problem(language, problem);
        let mut page = Page::new(language, "bad", title);
        page.paragraphs = paragraphs;
        page
    }

    /// With a link to where an installation begins: the portal's own page where there is but one.
    pub fn with_beginning(mut self, config: &Config) -> Page {
        self.beginning = match (config.portals.as_slice(), &config.bitrix24.redirect_uri) {
            (_, None) => String::new(),
            ([only], Some(_)) => config.install_url(&only.name).unwrap_or_default(),
            (_, Some(uri)) => format!("{uri}/install"),
        };
        self
    }

    fn begin_again(&self) -> &'static str {
        texts::words(self.language).begin_again
    }

    /// A table for each portal.
    pub fn status(language: Language, portals: Vec<(String, Vec<(String, String)>)>) -> Page {
        let mut page = Page::new(language, "", texts::words(language).status);
        page.sections =
            portals.into_iter().map(|(title, facts)| Section { title, facts, code: String::new() }).collect();
        page
    }

    /// The words alone, for the log and for events.
    pub fn text(&self) -> String {
        format!("{}: {}", self.title, self.paragraphs.join(" "))
    }

    pub fn answer(&self, status: u16, place: &Place) -> Answer {
        let nonce = &self.nonce;
        let scripts = if self.in_frame { format!("script-src 'nonce-{nonce}'; ") } else { String::new() };
        let ancestors = match place {
            Place::Tab => "'none'",
            Place::Frame(portal) => portal,
        };
        // The answer to the form redirects to the portal, which browsers count as the form's action.
        let action = if self.form.is_some() { "'self' https: http:" } else { "'none'" };
        let policy = format!(
            "default-src 'none'; {scripts}style-src 'nonce-{nonce}'; base-uri 'none'; form-action {action}; \
             frame-ancestors {ancestors}"
        );
        let body = self.render().unwrap_or_else(|_| self.title.clone());
        Answer::html(status, body).with("Referrer-Policy", "no-referrer").with("Content-Security-Policy", policy)
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
