//! `GET /health`: whether this program can work, for anyone; with `?portal=NAME` whether calls to that portal work, for a client.

use super::context::{Serving, Trace};
use super::request_of_1c::find_portal;
use super::status::{self, Condition};
use crate::app::{App, Job};
use crate::call::limits::Pace;
use crate::call::relay;
use crate::config::Portal;
use crate::install::browser::Query;
use crate::upstream::http::Failure;
use crate::values::answer::Answer;
use crate::values::error::{Arrived, Error, Result};

impl Serving<'_> {
    pub fn health(&self, app: &App, trace: &mut Trace) -> Result<Answer> {
        let named = Query::of(self.variables).portal.filter(|name| !name.is_empty());
        let portal = named.map(|name| self.portal_of_a_client(app, &name, trace)).transpose()?;
        let reason = self.reason_of_its_own(app).or_else(|| {
            let job = self.job(app);
            let end = job.end.at_most(app.config.limits.max_wait);
            reason_of_portal(Job { end, ..job }, portal?)
        });
        Ok(match reason {
            None => Answer::json(200, r#"{"status":"ok"}"#),
            Some(reason) => unavailable(&reason),
        })
    }

    fn portal_of_a_client<'a>(&self, app: &'a App, name: &str, trace: &mut Trace) -> Result<&'a Portal> {
        let credentials = self.credentials().ok_or(Error::Unauthorized(Arrived::Nothing))?;
        let client = self.admitted(&app.config, &credentials, true, trace)?;
        let portal = find_portal(&app.config, Some(name))?;
        trace.portal = Some(portal.name.to_string());
        client.check_portal(&portal.name)?;
        Ok(portal)
    }

    fn reason_of_its_own(&self, app: &App) -> Option<String> {
        let (why, reason) = match (app.http.portals(), app.store.check()) {
            (Err(Failure::Configuration(why)), _) => (why, "configuration_error"),
            (_, Err(why)) => (why, "storage_error"),
            (_, Ok(())) => return None,
        };
        self.log.error(&why);
        Some(reason.into())
    }
}

/// Why calls to the portal do not work now; `None`: they do. It is tried by one that needs no right, at most once a minute for
/// all processes; in between, the last call or try says it.
fn reason_of_portal(job: Job, portal: &Portal) -> Option<String> {
    let known = status::of(job.app, portal);
    let has_tokens = matches!(known.state, Condition::Installed | Condition::Webhook);
    if !has_tokens || !Pace::of(job.app, portal).tries_now() {
        return known.reason;
    }
    relay::profile(job, portal).err().map(|failed| failed.codes().0.to_owned())
}

pub fn unavailable(reason: &str) -> Answer {
    Answer::json(503, format!(r#"{{"status":"unavailable","reason":"{reason}"}}"#))
}
