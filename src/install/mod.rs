//! Installation: how a portal's tokens come to be stored, and how they are removed. Uses call and what lies below it.
//!
//! Four ways in, one verification. [`browser`]: `/install` and the way back with a code. [`frame`]: the application opened
//! in Bitrix24. [`event`]: what Bitrix24's server posts. Whatever they bring, a pair is stored only when the OAuth server
//! gave it to us for our client secret, for the configured portal, of the `member_id` that is stored, and for an
//! administrator ([`Installer::accept`]).

pub mod browser;
pub mod event;
pub mod frame;
mod problem;
pub mod state;

pub use problem::{Doubted, Problem};

use crate::app::Job;
use crate::call::events;
use crate::call::limits::Pace;
use crate::call::outcome::Failed;
use crate::call::refresh::once::{refreshed, Why};
use crate::call::relay::{call_with, profile_as_stored, Patience};
use crate::call::secrets;
use crate::config::{Application, Portal};
use crate::store::records::{Installation, Tokens};
use crate::store::{Lock, Replaced};
use crate::system::clock::Deadline;
use crate::system::log::{printable, Level};
use crate::system::wait::pause;
use crate::upstream::http::{Failure, Obstacle};
use crate::upstream::oauth;
use crate::values::error::Error;
use crate::values::event::EventName;
use crate::values::grant::{Grant, Issued, Refusal};
use crate::values::json::number_of;
use crate::values::oauth_server::{Asked, OauthServer};
use crate::values::portal::{Endpoint, PortalName, Refused, Scheme};
use crate::values::secret::Secret;
use crate::values::verdict::{judge, Verdict};
use std::time::Duration;

/// Attempts at the OAuth server that strangers may cause for a portal in a minute.
const ATTEMPTS_A_MINUTE: usize = 6;

/// Most characters of a person's name.
const LONGEST_NAME: usize = 100;

/// How long an installation waits for Bitrix24 to register the address for the application's removal.
const FOR_THE_REMOVAL: Duration = Duration::from_secs(10);

/// What an installation works with.
pub struct Installer<'a> {
    job: Job<'a>,
}

/// What an installation ended with, for its page.
#[derive(Debug)]
pub struct Installed {
    pub portal: String,
    pub user: Person,
    pub rights: Vec<String>,
    /// Configured rights that were not granted.
    pub missing: Vec<String>,
    /// What is odd about the OAuth server, although it gave the tokens.
    pub doubted: Option<Doubted>,
    /// What the address of the page has that says so, for ten minutes.
    pub receipt: String,
}

/// Whose token it is, as `profile` says.
#[derive(Clone, Debug)]
pub struct Person {
    pub id: u64,
    pub name: String,
    pub administrator: bool,
}

/// What the OAuth server gave, and which one that was.
struct Confirmed {
    issued: Issued,
    asked: Asked,
}

impl Person {
    /// Of the answer to `profile`.
    pub fn of_profile(body: &[u8]) -> Person {
        let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| answer["result"][name].as_str().unwrap_or("").trim().to_owned();
        let name = format!("{} {}", text("NAME"), text("LAST_NAME"));
        Person {
            id: number_of(&answer["result"]["ID"]).unwrap_or(0),
            name: printable(name.trim()).chars().take(LONGEST_NAME).collect(),
            administrator: answer["result"]["ADMIN"] == true,
        }
    }

    fn if_administrator(self) -> Result<Person, Problem> {
        match self.administrator {
            true => Ok(self),
            false => Err(Problem::NotAdministrator),
        }
    }
}

impl<'a> Installer<'a> {
    pub fn new(job: Job<'a>) -> Installer<'a> {
        Installer { job }
    }
}

impl Installer<'_> {
    fn portal(&self, domain: &str) -> Result<(&Portal, &Application), Problem> {
        let config = &self.job.app.config;
        let portal = config.portal(domain).ok_or_else(|| Problem::unknown_portal(domain, &config.clients))?;
        Ok((portal, portal.application().ok_or(Problem::Webhook)?))
    }

    /// A portal is reached by https, unless its stored address, or on a closed network the OAuth server's, is plain http.
    fn scheme(&self, portal: &Portal) -> Scheme {
        if !self.job.app.config.bitrix24.allow_http {
            return Scheme::Https;
        }
        match self.job.app.store.read(&portal.name) {
            Ok(Installation::Installed(tokens)) if tokens.client_endpoint.starts_with("https:") => Scheme::Https,
            Ok(Installation::Installed(_)) => Scheme::Http,
            _ => portal.oauth_server.as_ref().map_or(Scheme::Https, OauthServer::scheme),
        }
    }

    /// `https://acme.bitrix24.ru`, of a configured portal: where its frames come from.
    pub fn origin(&self, domain: &str) -> Option<String> {
        let portal = self.job.app.config.portal(domain)?;
        Some(format!("{}://{}", self.scheme(portal).as_str(), portal.name))
    }

    /// The address that the configuration alone gives a portal.
    fn presumed_endpoint(&self, portal: &Portal) -> Result<Endpoint, Problem> {
        let address = format!("{}://{}/rest/", self.scheme(portal).as_str(), portal.name);
        portal.endpoint(&address, self.job.app.config.bitrix24.allow_http).map_err(|_| Problem::PlainHttp)
    }

    /// Asks the portal whose token it is that a stranger shows.
    fn stranger(&self, portal: &Portal, access_token: &Secret) -> Result<Person, Problem> {
        if access_token.is_empty() {
            return Err(Problem::TokenRefused(None));
        }
        Pace::of(self.job.app, portal).stranger().map_err(|retry_after| Problem::Attempts { retry_after })?;
        self.person(portal, &self.presumed_endpoint(portal)?, access_token)
    }

    /// Asks the portal whose token this is. A stranger's token ends here, before the OAuth server hears of it.
    fn person(&self, portal: &Portal, endpoint: &Endpoint, access_token: &Secret) -> Result<Person, Problem> {
        let http = self.job.app.http.portals().map_err(unreachable)?;
        let limits = Pace::of(self.job.app, portal);
        let wait_until = self.job.end.at_most(self.job.app.config.limits.max_wait);
        limits.count();
        self.job.app.store.rest();
        let (reply, verdict) = loop {
            let reply = call_with(
                http,
                endpoint,
                access_token,
                "profile",
                self.job.end,
                secrets::of_portal(self.job.app, portal),
            )
            .map_err(unreachable)?;
            match judge(&reply.answered()).0 {
                Verdict::Error(upstream) if upstream.is_over_limit() && !wait_until.has_passed() => {
                    pause(limits.gap().min(wait_until.remaining())).map_err(|why| Problem::HostBusy(why.into()))?;
                }
                verdict => break (reply, verdict),
            }
        };
        match verdict {
            Verdict::Success => {}
            Verdict::Error(upstream) if upstream.is_without_rest() => return Err(Problem::WithoutRest(upstream)),
            Verdict::Error(upstream) if upstream.status == 401 || upstream.status == 403 => {
                return Err(Problem::TokenRefused(None))
            }
            Verdict::Error(upstream) => {
                return Err(Problem::Portal { why: format!("it answered status {}", upstream.status) })
            }
            Verdict::Moved => return Err(Problem::Portal { why: "it has moved to another address".into() }),
            Verdict::Foreign(foreign) => {
                let told = secrets::of_portal(self.job.app, portal).text(&foreign.what).into_owned();
                return Err(Problem::Portal { why: format!("it answered with {told}") });
            }
        }
        Ok(Person::of_profile(&reply.body))
    }

    /// Asks the OAuth server for a pair; at most six times a minute a portal, for all ways in together. `named`: which one
    /// that is, as whoever came says.
    fn confirmed(
        &self,
        portal: &Portal,
        application: &Application,
        grant: &Grant,
        named: &str,
    ) -> Result<Confirmed, Problem> {
        let lock = self.lock(portal, self.job.end.at_most(self.job.app.config.limits.max_wait))?;
        let now = self.job.app.store.now();
        let mut notes = lock.notes();
        notes.attempts.retain(|at| (0..60).contains(&now.saturating_sub(*at)));
        if notes.attempts.len() >= ATTEMPTS_A_MINUTE {
            let oldest = notes.attempts.iter().min().copied().unwrap_or(now);
            return Err(Problem::Attempts { retry_after: u64::try_from(oldest + 60 - now).unwrap_or(60).max(1) });
        }
        // Nothing is spent for a pair that could not be stored.
        let stored = match lock.read().map_err(Problem::Storage)? {
            Installation::Broken(why) => return Err(Problem::Storage(why)),
            Installation::Installed(tokens) => tokens.server_endpoint,
            Installation::NotInstalled => String::new(),
        };
        drop(lock.reserve().map_err(Problem::Storage)?);
        notes.attempts.push(now);
        lock.write_notes(&notes).map_err(Problem::Storage)?;
        drop(lock);
        let mut hide = secrets::of_portal(self.job.app, portal);
        grant.hide_in(&mut hide);
        let named = hide.text(named);
        let asked = Asked::for_installation(portal.oauth_server.as_ref(), &portal.name, &named, &stored);
        self.job.app.store.rest();
        let clock = || self.job.app.store.now();
        let answer = oauth::request(&self.job.app.http, &asked.server, application, grant, self.job.end, clock, hide);
        let issued = answer.map_err(|refusal| {
            // Another server would perhaps know them.
            let doubted = || Doubted { portal: portal.name.clone(), asked: asked.clone() };
            match refusal {
                Refusal::InvalidGrant { .. } | Refusal::InvalidClient { .. } if asked.is_contradicted() => {
                    Problem::OtherOauthServer(doubted())
                }
                Refusal::InvalidGrant { .. } => {
                    let doubted = asked.doubt.is_some().then(doubted);
                    match grant {
                        Grant::AuthorizationCode(_) => Problem::CodeSpent(doubted),
                        Grant::RefreshToken(_) => Problem::TokenRefused(doubted),
                    }
                }
                Refusal::Configuration { why } => Problem::Configuration(why),
                Refusal::HostBusy { why } => Problem::HostBusy(why),
                refusal => Problem::Oauth { why: refusal.text(&asked, &portal.name) },
            }
        })?;
        let server_endpoint = asked.server.kept_with(issued.server_endpoint);
        Ok(Confirmed { issued: Issued { server_endpoint, ..issued }, asked })
    }

    fn lock(&self, portal: &Portal, deadline: Deadline) -> Result<Box<dyn Lock>, Problem> {
        self.job.app.store.lock(&portal.name, deadline).map_err(Problem::Storage)?.ok_or(Problem::Busy)
    }

    /// Stores a pair that the OAuth server gave, once it is the configured portal's and an administrator's.
    fn accept(
        &self,
        portal: &Portal,
        application: &Application,
        Confirmed { issued, asked }: Confirmed,
        application_token: Secret,
    ) -> Result<Installed, Problem> {
        let allow_http = self.job.app.config.bitrix24.allow_http;
        let endpoint = portal.endpoint(&issued.client_endpoint, allow_http).map_err(|refused| match refused {
            Refused::OtherPortal(name) => {
                Problem::OtherPortal { wanted: portal.name.to_string(), got: name.to_string() }
            }
            Refused::Malformed => Problem::NoAddress,
            Refused::PlainHttp => Problem::PlainHttp,
        })?;
        let user = self.person(portal, &endpoint, &issued.access_token)?.if_administrator()?;
        // A pair in hand is worth waiting for another's refresh as long as the request may take.
        let lock = self.lock(portal, self.job.end)?;
        let old = match lock.read().map_err(Problem::Storage)? {
            Installation::Broken(why) => return Err(Problem::Storage(why)),
            Installation::NotInstalled => None,
            Installation::Installed(old) => Some(old),
        };
        if old.as_ref().is_some_and(|old| !old.member_id.is_empty() && old.member_id != issued.member_id) {
            let place = self.job.app.store.place(&portal.name);
            return Err(Problem::Mismatch {
                portal: portal.name.to_string(),
                file: place.name,
                set_aside: place.set_aside,
            });
        }
        let replaced = old.as_ref().map(|old| old.fingerprint());
        let (kept, key) = old.map(|old| (old.application_token, old.events_key)).unwrap_or_default();
        let tokens = Tokens {
            member_id: issued.member_id,
            domain: issued.domain,
            client_endpoint: endpoint.to_client_endpoint(),
            server_endpoint: issued.server_endpoint,
            access_token: issued.access_token,
            refresh_token: issued.refresh_token,
            expires_at: issued.expires_at,
            scope: issued.scope,
            user_id: if issued.user_id == 0 { user.id } else { issued.user_id },
            user_name: user.name.clone(),
            application_token: if application_token.is_empty() { kept } else { application_token },
            client_id: application.client_id.clone(),
            installed_at: self.job.app.store.now(),
            refreshed_at: 0,
            renamed_from: String::new(),
            events_key: if key.is_empty() { events::new_key() } else { key },
        };
        let room = lock.reserve().map_err(Problem::Storage)?;
        if room.replace(replaced.as_deref(), &tokens).map_err(Problem::Storage)? == Replaced::OtherIsStored {
            return Err(Problem::Busy);
        }
        let named = asked.named_in_doubt();
        let receipt = state::receipt(application, portal.name.as_str(), named, self.job.app.store.now());
        let installed = self.describe(portal, &tokens, user, receipt, named);
        if let Some(words) = installed.doubted.as_ref().and_then(|doubted| doubted.asked.words(&portal.name)) {
            self.job.log.warn(&words);
        }
        self.job.log.line(
            if installed.missing.is_empty() { Level::Info } else { Level::Warn },
            "installed",
            &[
                ("portal", installed.portal.as_str().into()),
                ("user_id", installed.user.id.into()),
                ("rights", tokens.scope.as_str().into()),
                ("rights_not_granted", installed.missing.clone().into()),
            ],
        );
        drop(lock);
        self.hear_of_removal(portal);
        Ok(installed)
    }

    /// Bitrix24 reports a removal only to an address that is registered for it. The installation stands without.
    fn hear_of_removal(&self, portal: &Portal) {
        if self.job.app.config.bitrix24.redirect_uri.is_none() {
            return;
        }
        let job = Job { end: self.job.end.at_most(FOR_THE_REMOVAL), ..self.job };
        let name = EventName::parse("ONAPPUNINSTALL").expect("an event's name");
        let bound = events::Address::of(job, portal, Patience::Own).map_err(Failed::from);
        if let Err(failed) = bound.and_then(|address| address.bind(&name)) {
            let why = Error::from(failed).for_administrator();
            self.job.log.warn(&format!("a removal of the application in {} will not be heard of: {why}", portal.name));
        }
    }

    /// `named`: [`Asked::named_in_doubt`], of the installation.
    fn describe(&self, portal: &Portal, tokens: &Tokens, user: Person, receipt: String, named: &str) -> Installed {
        let rights: Vec<String> =
            tokens.scope.split(',').map(|s| s.trim().to_ascii_lowercase()).filter(|s| !s.is_empty()).collect();
        let missing =
            self.job.app.config.bitrix24.scope.iter().filter(|scope| !rights.contains(scope)).cloned().collect();
        let asked = Asked::for_installation(portal.oauth_server.as_ref(), &portal.name, named, &tokens.server_endpoint);
        let doubted = asked.is_suspicious().then(|| Doubted { portal: portal.name.clone(), asked });
        Installed { portal: portal.name.to_string(), user, rights, missing, doubted, receipt }
    }

    /// The portal that a receipt is of, and which OAuth server it had named, where that was odd.
    fn of_receipt(&self, receipt: &str) -> Result<(&Portal, String), Problem> {
        let config = &self.job.app.config;
        let named = state::claimed_portal(receipt).and_then(|name| PortalName::parse(&name));
        let portal = named.and_then(|name| config.portal_of(&name)).ok_or(Problem::Receipt)?;
        let application = portal.application().ok_or(Problem::Receipt)?;
        let server = state::verify_receipt(application, portal.name.as_str(), receipt, self.job.app.store.now());
        Ok((portal, server.ok_or(Problem::Receipt)?))
    }

    /// What is installed, for whoever has the receipt.
    pub fn installed(&self, receipt: &str) -> Result<Installed, Problem> {
        let (portal, named) = self.of_receipt(receipt)?;
        match self.job.app.store.read(&portal.name).map_err(Problem::Storage)? {
            Installation::Installed(tokens) => {
                let user = Person { id: tokens.user_id, name: tokens.user_name.clone(), administrator: true };
                Ok(self.describe(portal, &tokens, user, receipt.to_owned(), &named))
            }
            Installation::NotInstalled => Err(Problem::NotInstalled),
            Installation::Broken(why) => Err(Problem::Storage(why)),
        }
    }

    /// The same after one call that needs no right, with the person for whom Bitrix24 answered it.
    pub fn tried(&self, receipt: &str) -> Result<Installed, Problem> {
        let (portal, _) = self.of_receipt(receipt)?;
        Pace::of(self.job.app, portal).stranger().map_err(|retry_after| Problem::Attempts { retry_after })?;
        let answer = self.profile(portal).map_err(|problem| match problem {
            Problem::Portal { why } => Problem::Trial { why },
            problem => problem,
        })?;
        let answer = answer.ok_or(Problem::Refused)?;
        Ok(Installed { user: Person::of_profile(&answer), ..self.installed(receipt)? })
    }

    /// Whether there are tokens that Bitrix24 accepts, refreshed if need be. An answer that tells neither is a problem.
    fn stored_tokens_work(&self, portal: &Portal) -> Result<bool, Problem> {
        Ok(self.profile(portal)?.is_some())
    }

    /// The answer to `profile` with the stored tokens, refreshed if need be; `None`: Bitrix24 does not accept them.
    fn profile(&self, portal: &Portal) -> Result<Option<Vec<u8>>, Problem> {
        match profile_as_stored(self.job, portal) {
            Ok(reply) => Ok(Some(reply.body)),
            // 403: the one who installed may not use the application any more, has left for example.
            Err(Failed::Refused { upstream, .. }) if matches!(upstream.status, 401 | 403) => Ok(None),
            Err(Failed::Refused { upstream, .. }) => {
                Err(Problem::Portal { why: format!("it answered {}", upstream.error) })
            }
            Err(Failed::Error(Error::NotInstalled { .. } | Error::ReinstallRequired { .. })) => Ok(None),
            Err(Failed::Error(error)) => Err(error.into()),
        }
    }

    /// Whether a refresh of the stored tokens, asked for now, answers `invalid_grant`.
    fn refresh_is_refused(&self, portal: &Portal, tokens: &Tokens) -> Result<bool, Problem> {
        let deadline = self.job.end.at_most(self.job.app.config.limits.max_wait);
        match refreshed(self.job, portal, tokens, Why::Expired, deadline) {
            Ok(_) => Ok(false),
            Err(Error::ReinstallRequired { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

fn unreachable(failure: Failure) -> Problem {
    match failure {
        Failure::Configuration(why) => Problem::Configuration(why),
        Failure::NotSent { why, obstacle: Obstacle::HostBusy } => Problem::HostBusy(why),
        failure => Problem::Portal { why: format!("it {}", failure.text()) },
    }
}
