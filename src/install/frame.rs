//! The application opened in Bitrix24: the browser posts a form into a frame of the portal.
//!
//! Everybody in the portal may open it, and everybody on the internet may post such a form. So the posted token is tried at
//! the configured portal first; while the stored tokens work nothing changes; and what is stored in the end is a pair that
//! the OAuth server gave us for the posted refresh token, of an administrator.

use super::{Installed, Installer, Problem};
use crate::values::form::Form;
use crate::values::grant::Grant;

/// What opening the application ended with.
#[derive(Debug)]
pub enum Opened {
    Installed(Box<Installed>),
    /// The stored tokens work; nothing was changed.
    WorksAlready,
}

impl Installer<'_> {
    /// `domain`: the query's `DOMAIN`.
    pub fn opened(&self, domain: &str, form: &Form) -> Result<Opened, Problem> {
        let (portal, application) = self.portal(domain)?;
        let person = self.stranger(portal, &form.secret("AUTH_ID"))?;
        if self.stored_tokens_work(portal)? {
            return Ok(Opened::WorksAlready);
        }
        person.if_administrator()?;
        let refresh_token = form.secret("REFRESH_ID");
        let named = form.text("SERVER_ENDPOINT");
        let confirmed = self.confirmed(portal, application, &Grant::RefreshToken(&refresh_token), &named)?;
        let installed = self.accept(portal, application, confirmed, form.secret("APPLICATION_TOKEN"))?;
        Ok(Opened::Installed(Box::new(installed)))
    }
}
