//! What Bitrix24's server posts: the installation and removal of an application without interface, and other events.

use super::{Installed, Installer, Problem};
use crate::store::records::Installation;
use crate::store::Replaced;
use crate::values::form::Form;
use crate::values::grant::Grant;
use subtle::ConstantTimeEq;

impl Installer<'_> {
    /// `event=ONAPPINSTALL`. The posted pair proves nothing by itself: it is tried at the portal, then exchanged at the
    /// OAuth server for one that is ours.
    pub fn installed_by_event(&self, form: &Form) -> Result<Installed, Problem> {
        let (portal, application) = self.portal(&form.text("auth[domain]"))?;
        self.stranger(portal, &form.secret("auth[access_token]"))?.if_administrator()?;
        let refresh_token = form.secret("auth[refresh_token]");
        let named = form.text("auth[server_endpoint]");
        let confirmed = self.confirmed(portal, application, &Grant::RefreshToken(&refresh_token), &named)?;
        self.accept(portal, application, confirmed, form.secret("auth[application_token]"))
    }

    /// `event=ONAPPUNINSTALL`: needs the stored `application_token`, and Bitrix24's refusal of the stored tokens.
    pub fn removed_by_event(&self, form: &Form) -> Result<(), Problem> {
        let (portal, _) = self.portal(&form.text("auth[domain]"))?;
        let tokens = match self.job.app.store.read(&portal.name).map_err(Problem::Storage)? {
            Installation::Installed(tokens) => tokens,
            Installation::NotInstalled => return Err(Problem::NotInstalled),
            Installation::Broken(why) => return Err(Problem::Storage(why)),
        };
        let stored = tokens.application_token.expose().as_bytes();
        let posted = form.text("auth[application_token]");
        if stored.is_empty() || !bool::from(stored.ct_eq(posted.as_bytes())) {
            return Err(Problem::NotOurs);
        }
        if self.stored_tokens_work(portal)? || !self.refresh_is_refused(portal, &tokens)? {
            return Err(Problem::StillWorks);
        }
        let lock = self.lock(portal, self.job.end.at_most(self.job.app.config.limits.max_wait))?;
        // Only what was found refused is removed, not what somebody installed meanwhile.
        match lock.set_aside(&tokens.fingerprint()).map_err(Problem::Storage)? {
            Replaced::Yes => Ok(()),
            Replaced::OtherIsStored => Err(Problem::StillWorks),
        }
    }
}
