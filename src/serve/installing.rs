//! What a portal's administrator meets, and Bitrix24's server: installation and events.

use super::context::Serving;
use crate::app::App;
use crate::config::Config;
use crate::install::browser::Query;
use crate::install::{self, Installer, Problem};
use crate::serve::page::{Language, Page, Place};
use crate::system::log::Level;
use crate::values::answer::Answer;
use crate::values::error::Result;
use crate::values::form::Form;

impl Serving<'_> {
    pub(super) fn install(&self, app: &App, query: &Query) -> Answer {
        let language = Language::of(self.variables, query.lang.as_deref());
        match Installer::new(self.job(app)).begin(query) {
            Ok(redirect) => redirect,
            Err(Problem::NoPortalNamed) if query.portal.is_none() => {
                let action = app.config.bitrix24.redirect_uri.as_ref().map(|uri| format!("{uri}/install"));
                Page::start(language, action.unwrap_or_default()).answer(200, &Place::Tab)
            }
            Err(problem) => self.problem_page(&app.config, language, &problem, &Place::Tab),
        }
    }

    pub(super) fn callback(&self, app: &App, query: &Query) -> Answer {
        let language = Language::of(self.variables, query.lang.as_deref());
        match Installer::new(self.job(app)).finish(query, self.variables.text("HTTP_COOKIE")) {
            Ok(installed) => Page::installed(language, &installed, &app.config)
                .answer(200, &Place::Tab)
                .with("Set-Cookie", install::browser::forget_cookie(&app.config)),
            Err(problem) => self.problem_page(&app.config, language, &problem, &Place::Tab),
        }
    }

    fn problem_page(&self, config: &Config, language: Language, problem: &Problem, place: &Place) -> Answer {
        self.log_problem(problem);
        let mut page = Page::problem(language, problem);
        if matches!(place, Place::Tab) && problem.can_begin_again() {
            page = page.with_beginning(config);
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

    /// What Bitrix24's server posts. Events other than installation and removal are none of ours.
    pub(super) fn event(&self, app: &App, form: &Form) -> Result<Answer> {
        let event: String =
            form.text("event").chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(64).collect();
        let installer = Installer::new(self.job(app));
        let outcome = match event.to_ascii_uppercase().as_str() {
            "ONAPPINSTALL" => installer.installed_by_event(form).map(|_| ()),
            "ONAPPUNINSTALL" => installer.removed_by_event(form),
            _ => Ok(()),
        };
        match outcome {
            Ok(()) => {
                self.log.line(Level::Info, "event", &[("event", event.into())]);
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
            Ok(opened) => Page::opened(language, &opened, &app.config).answer(200, &place),
            Err(problem) => self.problem_page(&app.config, language, &problem, &place),
        }
    }
}
