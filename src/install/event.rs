//! What Bitrix24's server posts: the installation and removal of an application without interface, and other events.

use super::{Installed, Installer, Problem};
use crate::config::Portal;
use crate::store::records::{Installation, Tokens};
use crate::store::Replaced;
use crate::system::disk::Reason;
use crate::values::event::EventName;
use crate::values::form::Form;
use crate::values::grant::Grant;
use crate::values::portal::PortalName;
use crate::values::secret::Secret;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// How long an event waits for the portal's lock, so that its `application_token` is stored; the next one brings it too.
const FOR_THE_LOCK: Duration = Duration::from_secs(1);

/// An event that Bitrix24 has surely posted.
struct Believed<'p> {
    portal: &'p Portal,
    tokens: Box<Tokens>,
    /// Its `application_token`, where it is known by the key and brings another one than the stored.
    news: Option<Secret>,
}

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

    /// `event=ONAPPUNINSTALL`: must be believed, and needs Bitrix24's refusal of the stored tokens. `key`: of the address
    /// that it was posted to.
    pub fn removed_by_event(&self, form: &Form, key: &Secret) -> Result<(), Problem> {
        let (portal, tokens) = match self.believed(form, key)? {
            Some(Believed { portal, tokens, news }) => {
                self.remember(portal, key, news);
                (portal, tokens)
            }
            None => self.named_and_believed(form)?,
        };
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

    /// By the domain that it names, where it does not say of which Bitrix24 it is.
    fn named_and_believed(&self, form: &Form) -> Result<(&Portal, Box<Tokens>), Problem> {
        let (portal, _) = self.portal(&form.text("auth[domain]"))?;
        match self.job.app.store.read(&portal.name).map_err(Problem::Storage)? {
            Installation::Installed(tokens)
                if is(&tokens.application_token, &form.secret("auth[application_token]")) =>
            {
                Ok((portal, tokens))
            }
            Installation::Installed(_) => Err(Problem::NotOurs),
            Installation::NotInstalled => Err(Problem::NotInstalled),
            Installation::Broken(why) => Err(Problem::Storage(why)),
        }
    }

    /// Any other event: kept, on disk, when it returns, of which portal and under which number; `None`: it is not believed.
    /// `data`: as JSON, asked for where it is believed.
    pub fn kept_event(
        &self,
        name: &EventName,
        data: impl FnOnce() -> String,
        form: &Form,
        key: &Secret,
    ) -> Result<Option<(PortalName, u64)>, Problem> {
        let Some(Believed { portal, news, .. }) = self.believed(form, key)? else { return Ok(None) };
        let app = self.job.app;
        let number = app.store.take_event(&portal.name, name, &data(), &app.config.events);
        let number = number.map_err(Problem::Storage)?;
        self.remember(portal, key, news);
        Ok(Some((portal.name.clone(), number)))
    }

    /// Of the portal whose `member_id` it brings, by the stored `application_token` or by the key of the address. Nothing is
    /// looked for where it has neither.
    fn believed(&self, form: &Form, key: &Secret) -> Result<Option<Believed<'_>>, Problem> {
        let (member, posted) = (form.text("auth[member_id]"), form.secret("auth[application_token]"));
        if member.is_empty() || posted.is_empty() && key.is_empty() {
            return Ok(None);
        }
        let (mut broken, config) = (None, &self.job.app.config);
        let named = config.portal(&form.text("auth[domain]"));
        let others = config.portals.iter().filter(|portal| named.is_none_or(|named| named.name != portal.name));
        for portal in named.into_iter().chain(others).filter(|portal| portal.application().is_some()) {
            let tokens = match self.job.app.store.read(&portal.name) {
                Ok(Installation::Installed(tokens)) => tokens,
                Ok(Installation::NotInstalled) => continue,
                Ok(Installation::Broken(why)) | Err(why) => {
                    broken = broken.or(Some(why));
                    continue;
                }
            };
            if tokens.member_id != member {
                continue;
            }
            let by_token = is(&tokens.application_token, &posted);
            if by_token || is(&tokens.events_key, key) {
                let news = (!by_token && !posted.is_empty()).then_some(posted);
                return Ok(Some(Believed { portal, tokens, news }));
            }
        }
        match broken {
            Some(why) => Err(Problem::Storage(why)),
            None => Ok(None),
        }
    }

    /// Stores an `application_token` that came by the key. Where it cannot be, the next event brings it again.
    fn remember(&self, portal: &Portal, key: &Secret, news: Option<Secret>) {
        let Some(news) = news else { return };
        if let Err(why) = self.remembered(portal, key, news) {
            self.job.log.warn(&format!("the application_token of {} could not be stored: {why}", portal.name));
        }
    }

    fn remembered(&self, portal: &Portal, key: &Secret, news: Secret) -> Result<(), Reason> {
        let lock = self.job.app.store.lock(&portal.name, self.job.end.at_most(FOR_THE_LOCK))?;
        let lock = lock.ok_or("somebody else holds the portal's lock")?;
        match lock.read()? {
            Installation::Installed(tokens) if is(&tokens.events_key, key) && tokens.application_token != news => {
                let tokens = Tokens { application_token: news, ..*tokens };
                // Another pair is another installation's, which has its own.
                lock.reserve()?.replace(Some(&tokens.fingerprint()), &tokens).map(drop)
            }
            _ => Ok(()),
        }
    }
}

/// Whether this is the secret; an empty one is none's.
fn is(secret: &Secret, posted: &Secret) -> bool {
    let (secret, posted) = (secret.expose().as_bytes(), posted.expose().as_bytes());
    !secret.is_empty() && bool::from(secret.ct_eq(posted))
}
