//! To which address Bitrix24 posts a portal's events: this program's own, with a key that it knows them by.

use super::outcome::Failed;
use super::payload::{Parameters, Payload};
use super::relay::{call, Call, Patience};
use super::secrets;
use crate::app::Job;
use crate::config::Portal;
use crate::store::records::{Installation, Tokens};
use crate::store::Replaced;
use crate::system::clock::Deadline;
use crate::upstream::http::Reply;
use crate::values::error::{Error, Result};
use crate::values::event::EventName;
use crate::values::method::Method;
use crate::values::portal::Version;
use crate::values::secret::{random_hex, Secret};
use serde::Deserialize;
use std::collections::BTreeSet;

/// What is asked behind the program's address, before the key.
pub const KEY: &str = "events";
/// Most bytes of an answer.
const MAX_ANSWER: u64 = 4 << 20;
/// What Bitrix24 says where the address is registered already.
const BOUND_ALREADY: &str = "already bind";

/// 128 bits.
pub fn new_key() -> Secret {
    Secret::new(random_hex::<16>())
}

/// This program's address for the events of one portal.
pub struct Address<'a> {
    job: Job<'a>,
    portal: &'a Portal,
    patience: Patience,
    text: String,
}

impl<'a> Address<'a> {
    /// Of a portal with tokens; its key is made where there is none yet.
    pub fn of(job: Job<'a>, portal: &'a Portal, patience: Patience) -> Result<Address<'a>> {
        let own = job.app.config.bitrix24.redirect_uri.as_deref().ok_or_else(|| {
            Error::InvalidRequest(
                "events need redirect_uri under [bitrix24] in proxy.toml: Bitrix24 posts them there".into(),
            )
        })?;
        if portal.application().is_none() {
            return Err(Error::InvalidRequest(
                "this portal is used through a webhook: Bitrix24 registers events for an application alone".into(),
            ));
        }
        let until = match patience {
            Patience::Until(deadline) => deadline,
            Patience::Own => job.end,
        };
        let key = key(job, portal, until)?;
        Ok(Address { job, portal, patience, text: format!("{own}?{KEY}={}", key.expose()) })
    }

    pub fn bind(&self, name: &EventName) -> std::result::Result<(), Failed> {
        match self.call("event.bind", &self.parameters(name)) {
            Err(Failed::Refused { upstream, .. })
                if upstream.error_description.to_lowercase().contains(BOUND_ALREADY) =>
            {
                Ok(())
            }
            called => called.map(drop),
        }
    }

    pub fn unbind(&self, name: &EventName) -> std::result::Result<(), Failed> {
        self.call("event.unbind", &self.parameters(name)).map(drop)
    }

    /// The names of the events that are posted here.
    pub fn bound(&self) -> std::result::Result<BTreeSet<String>, Failed> {
        #[derive(Deserialize)]
        struct Answer {
            result: Vec<Handler>,
        }
        #[derive(Deserialize)]
        struct Handler {
            event: String,
            #[serde(default)]
            handler: String,
        }
        let reply = self.call("event.get", "")?;
        let answer: Answer = serde_json::from_slice(&reply.body).map_err(|_| Error::BadAnswer {
            why: "Bitrix24 has not answered event.get with a list of events".into(),
            executed: crate::values::error::Executed::No,
            upstream: None,
        })?;
        // The key is hidden in what is answered.
        let hide = secrets::of_portal(self.job.app, self.portal);
        let own = hide.text(&self.text);
        let of_it = answer.result.into_iter().filter(|found| found.handler == own || found.handler == self.text);
        Ok(of_it.map(|found| found.event.to_ascii_uppercase()).collect())
    }

    fn parameters(&self, name: &EventName) -> String {
        let event = serde_json::to_string(&name.canonical()).expect("a text serializes");
        let handler = serde_json::to_string(&self.text).expect("a text serializes");
        format!("\"event\":{event},\"handler\":{handler}")
    }

    fn call(&self, method: &str, parameters: &str) -> std::result::Result<Reply, Failed> {
        let method = Method::parse(method).expect("a method name");
        let call_of = Call {
            version: Version::V2,
            method: &method,
            query: "",
            payload: Payload::Json(Parameters::of_inside(parameters.to_owned())),
            headers: vec![("Accept", "application/json")],
            max_response: MAX_ANSWER,
            counts: 1,
        };
        call(self.job, self.portal, &call_of, self.patience, None).result
    }
}

/// The portal's key, stored when it returns.
fn key(job: Job, portal: &Portal, until: Deadline) -> Result<Secret> {
    let stored = stored(job, portal, job.app.store.read(&portal.name))?;
    if !stored.events_key.is_empty() {
        return Ok(stored.events_key);
    }
    let lock = job.app.store.lock(&portal.name, until).map_err(Error::Storage)?;
    let lock = lock.ok_or(Error::RefreshPending { retry_after: 5 })?;
    let tokens = self::stored(job, portal, lock.read())?;
    if !tokens.events_key.is_empty() {
        return Ok(tokens.events_key);
    }
    let tokens = Tokens { events_key: new_key(), ..*tokens };
    let replaced = lock.reserve().and_then(|room| room.replace(Some(&tokens.fingerprint()), &tokens));
    match replaced.map_err(Error::Storage)? {
        Replaced::Yes => Ok(tokens.events_key),
        Replaced::OtherIsStored => Err(Error::RefreshPending { retry_after: 5 }),
    }
}

fn stored(job: Job, portal: &Portal, read: std::result::Result<Installation, String>) -> Result<Box<Tokens>> {
    match read.map_err(Error::Storage)? {
        Installation::Installed(tokens) => Ok(tokens),
        Installation::NotInstalled => {
            Err(Error::NotInstalled { install_url: job.app.config.install_url(&portal.name) })
        }
        Installation::Broken(why) => Err(Error::Storage(why)),
    }
}
