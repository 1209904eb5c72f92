//! What a portal's administrator meets, and Bitrix24's server: installation and events.

use super::context::Serving;
use crate::app::App;
use crate::call;
use crate::install::browser::Query;
use crate::install::{self, Installer, Problem};
use crate::serve::page::{Language, Links, Page, Place};
use crate::system::log::Level;
use crate::values::answer::Answer;
use crate::values::error::Result;
use crate::values::event::EventName;
use crate::values::form::Form;
use crate::values::nested::nested;

impl Serving<'_> {
    pub(super) fn install(&self, app: &App, query: &Query) -> Answer {
        match Installer::new(self.job(app)).begin(query) {
            Ok(redirect) => redirect,
            Err(Problem::NoPortalNamed) if query.portal.is_none() => {
                Page::start(self.language(), &self.links(app)).answer(200, &Place::Tab)
            }
            Err(problem) => self.problem_page(app, self.language(), &problem, &Place::Tab),
        }
    }

    pub(super) fn links(&self, app: &App) -> Links {
        Links::at(self.own_address(Some(&app.config)))
    }

    pub(super) fn callback(&self, app: &App, query: &Query) -> Answer {
        match Installer::new(self.job(app)).finish(query, self.variables.text("HTTP_COOKIE")) {
            Ok(installed) => {
                Answer::see_other(self.links(app).installed(&installed.receipt, self.language_asked_for(query)))
                    .with("Set-Cookie", install::browser::forget_cookie(&app.config))
                    .with("Referrer-Policy", "no-referrer")
            }
            Err(problem) => self.problem_page(app, self.language(), &problem, &Place::Tab),
        }
    }

    /// The page of a finished installation, which may be loaded as often as one likes; and a call that is tried from there.
    pub(super) fn finished(&self, app: &App, query: &Query) -> Answer {
        let (installer, receipt) = (Installer::new(self.job(app)), query.installed.as_deref().unwrap_or(""));
        let installed = if query.tries { installer.tried(receipt) } else { installer.installed(receipt) };
        match installed {
            Ok(installed) => {
                let trial = self.links(app).trial(&installed.receipt, self.language_asked_for(query));
                Page::finished(self.language(), &installed, query.tries, trial, &self.links(app))
                    .answer(200, &Place::Tab)
            }
            Err(problem) => self.problem_page(app, self.language(), &problem, &Place::Tab),
        }
    }

    fn language_asked_for(&self, query: &Query) -> Option<Language> {
        query.lang.as_ref().map(|_| self.language())
    }

    fn problem_page(&self, app: &App, language: Language, problem: &Problem, place: &Place) -> Answer {
        self.log_problem(problem);
        let mut page = Page::problem(language, problem);
        if matches!(place, Place::Tab) {
            page = page.with_beginning(problem, &app.config, &self.links(app));
        }
        let page = page.answer(problem.status(), place);
        match problem.retry_after() {
            Some(seconds) => page.with("Retry-After", seconds.to_string()),
            None => page,
        }
    }

    fn log_problem(&self, problem: &Problem) {
        let level = if problem.status() >= 500 { Level::Error } else { Level::Warn };
        let message = Page::problem(Language::English, problem).text();
        self.log.line(level, problem.detail().unwrap_or(&message), &[("status", problem.status().into())]);
    }

    /// What Bitrix24's server posts. An event that is not believed is answered as one that is, so that a stranger learns
    /// nothing.
    pub(super) fn event(&self, app: &App, form: &Form) -> Result<Answer> {
        let shown: String =
            form.text("event").chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(64).collect();
        let key = Form::of(self.variables.bytes("QUERY_STRING").to_vec()).secret(call::events::KEY);
        let installer = Installer::new(self.job(app));
        let mut told: Vec<(&str, serde_json::Value)> = vec![("event", shown.as_str().into())];
        let (mut level, mut message) = (Level::Info, "event");
        let outcome = match shown.to_ascii_uppercase().as_str() {
            "ONAPPINSTALL" => installer.installed_by_event(form).map(|_| ()),
            "ONAPPUNINSTALL" => installer.removed_by_event(form, &key),
            _ => match EventName::parse(&form.text("event")) {
                Some(name) => installer.kept_event(&name, || nested(form.bytes(), "data"), form, &key),
                None => Ok(None),
            }
            .map(|kept| match kept {
                Some((portal, number)) => {
                    told.extend([("portal", portal.as_str().into()), ("number", number.into())]);
                }
                None => (level, message) = (Level::Warn, "an event that is not believed was not kept"),
            }),
        };
        match outcome {
            Ok(()) => {
                self.log.line(level, message, &told);
                Ok(Answer::json(200, r#"{"status":"ok"}"#))
            }
            Err(problem) => Err(problem.to_error(Page::problem(Language::English, &problem).text())),
        }
    }

    /// The application opened in a frame of Bitrix24.
    pub(super) fn opened(&self, app: &App, form: &Form) -> Answer {
        let query = Form::of(self.variables.bytes("QUERY_STRING").to_vec());
        let (lang, domain) = (query.text("LANG"), query.text("DOMAIN"));
        let language = Language::of(self.variables, Some(lang.as_str()).filter(|lang| !lang.is_empty()));
        let installer = Installer::new(self.job(app));
        let place = installer.origin(&domain).map_or(Place::Tab, Place::Frame);
        match installer.opened(&domain, form) {
            Ok(opened) => {
                let portal = app.config.portal(&domain).map(|portal| portal.name.as_str());
                Page::opened(language, &opened, portal, &self.links(app)).answer(200, &place)
            }
            Err(problem) => self.problem_page(app, language, &problem, &place),
        }
    }
}
