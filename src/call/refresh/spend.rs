//! The refresher's own work: the stored refresh token against a new pair.

use crate::app::Job;
use crate::call::secrets;
use crate::config::Portal;
use crate::store::records::{Installation, LastRefresh, Tokens};
use crate::store::{Lock, Replaced};
use crate::upstream::oauth;
use crate::values::grant::{Grant, Issued, Refusal};
use crate::values::portal::Endpoint;
use std::time::Duration;

/// How long to wait for the OAuth server: much longer than a request may, because an answer that nobody waits for is a lost
/// token.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Why there is no new pair.
#[derive(Debug)]
pub enum NotRenewed {
    /// By the OAuth server; it is in the portal's notes.
    Refused,
    /// Nothing was spent, or nothing could be stored.
    Storage(String),
    /// Nothing was spent: this host refused what a connection takes.
    HostBusy(String),
}

impl From<String> for NotRenewed {
    fn from(why: String) -> NotRenewed {
        NotRenewed::Storage(why)
    }
}

/// Spends the stored refresh token, under the portal's lock, and stores what comes for it.
pub fn renew(job: Job, portal: &Portal, lock: &dyn Lock) -> Result<(), NotRenewed> {
    let application = portal.application().ok_or_else(|| "this portal has a webhook and no tokens".to_owned())?;
    let Installation::Installed(old) = lock.read()? else {
        return Err("the tokens are gone".to_owned().into());
    };
    let spent = old.fingerprint();
    let mut notes = lock.notes();
    let before = notes.refresh.filter(|last| last.speaks_of(&old));
    let interrupted = before.as_ref().is_some_and(|last| last.failure.is_none() || last.interrupted);
    let reserved = lock.reserve()?;
    let mut last = LastRefresh { spent: spent.clone(), at: job.app.store.now_ms(), failure: None, interrupted };
    notes.refresh = Some(last.clone());
    lock.write_notes(&notes)?;

    let mut hide = secrets::configured(&job.app.config, portal);
    secrets::add(&mut hide, &old);
    let server = portal.asked_for_pair(&old.server_endpoint).server;
    let answer = oauth::request(
        &job.app.http,
        &server,
        application,
        &Grant::RefreshToken(&old.refresh_token),
        job.end,
        || job.app.store.now(),
        hide,
    );
    match answer.and_then(|issued| same_portal(&old, issued)) {
        Ok(issued) => {
            let issued = Issued { server_endpoint: server.kept_with(issued.server_endpoint), ..issued };
            let tokens = renewed(job, portal, &old, issued);
            if reserved.replace(Some(&spent), &tokens)? == Replaced::OtherIsStored {
                return Err("other tokens were stored meanwhile; those that came are dropped".to_owned().into());
            }
            // The notes speak of the old pair, so they mean nothing any more; this is tidying.
            notes.refresh = None;
            let _ = lock.write_notes(&notes);
            Ok(())
        }
        // As if it had not been begun: whoever comes next tries again.
        Err(Refusal::HostBusy { why }) => {
            notes.refresh = before;
            drop(reserved);
            lock.write_notes(&notes)?;
            Err(NotRenewed::HostBusy(why))
        }
        Err(refusal) => {
            last.at = job.app.store.now_ms();
            last.failure = Some(refusal);
            notes.refresh = Some(last);
            drop(reserved);
            lock.write_notes(&notes)?;
            Err(NotRenewed::Refused)
        }
    }
}

/// `member_id` never changes; a pair of another Bitrix24 must not replace ours.
fn same_portal(old: &Tokens, issued: Issued) -> Result<Issued, Refusal> {
    if old.member_id.is_empty() || issued.member_id.is_empty() || old.member_id == issued.member_id {
        return Ok(issued);
    }
    Err(Refusal::Unavailable { why: "answered with tokens of another Bitrix24".into() })
}

/// The stored pair after a refresh. An address that may not be used is not worth losing the tokens for: the old one stays.
/// Another host is followed only where the OAuth server says that it is the same Bitrix24.
fn renewed(job: Job, portal: &Portal, old: &Tokens, issued: Issued) -> Tokens {
    let keep = |new: String, old: &str| if new.is_empty() { old.to_owned() } else { new };
    let is_same = !old.member_id.is_empty() && old.member_id == issued.member_id;
    let mut tokens = Tokens {
        access_token: issued.access_token,
        refresh_token: issued.refresh_token,
        expires_at: issued.expires_at,
        refreshed_at: job.app.store.now(),
        domain: keep(issued.domain, &old.domain),
        server_endpoint: issued.server_endpoint,
        scope: keep(issued.scope, &old.scope),
        member_id: keep(issued.member_id, &old.member_id),
        // Imported tokens do not say whose they are.
        user_id: if old.user_id == 0 { issued.user_id } else { old.user_id },
        ..old.clone()
    };
    match Endpoint::renamed(&issued.client_endpoint, job.app.config.bitrix24.allow_http) {
        Ok(endpoint) if is_same || *endpoint.name() == portal.name => {
            tokens.client_endpoint = endpoint.to_client_endpoint();
            let renamed = *endpoint.name() != portal.name;
            tokens.renamed_from = if renamed { portal.name.to_string() } else { String::new() };
            log_renaming(job, portal, old, &tokens);
        }
        Err(_) if issued.client_endpoint.is_empty() => {}
        refused => {
            let why = refused
                .map_or_else(|why| why.to_string(), |_| "is of another Bitrix24, or does not say of which".into());
            job.log.warn(&format!(
                "the OAuth server gave an address for {} that may not be used, for it {why}; the old one stays",
                portal.name
            ));
        }
    }
    tokens
}

/// The refresher has no standard error: where that is the log, the starter must say it.
pub fn log_renaming(job: Job, portal: &Portal, old: &Tokens, new: &Tokens) {
    if !new.renamed_from.is_empty() && new.client_endpoint != old.client_endpoint {
        job.log.warn(&format!("the portal {} is now at {}", portal.name, new.client_endpoint));
    }
}
