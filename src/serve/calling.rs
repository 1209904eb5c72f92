//! What a client asks for, once it is admitted: one call, many, a whole list, or a call to a webhook address.

use super::{find_portal, Serving, Trace};
use crate::app::App;
use crate::call::bulk::calls::One;
use crate::call::bulk::list::Cursor;
use crate::call::bulk::{self, Steps};
use crate::call::keys::{check_key, fingerprint, Kept, Keys, State};
use crate::call::payload::Payload;
use crate::call::relay::{Call, Session};
use crate::config::{Config, Portal};
use crate::serve::access::{Client, Credentials};
use crate::serve::envelope::{Asked, Envelope, OneCall};
use crate::serve::guard;
use crate::serve::route::WebhookPath;
use crate::serve::webhook::{self, Sent};
use crate::upstream::http::Reply;
use crate::values::answer::{Answer, JSON};
use crate::values::error::{Error, Executed, Result, Upstream};
use crate::values::form;
use crate::values::method::Method;
use crate::values::portal::Version;
use crate::values::request::Body;
use std::borrow::Cow;
use std::time::Duration;

/// Who calls whom.
struct Destination<'a> {
    app: &'a App,
    client: &'a Client,
    portal: &'a Portal,
}

/// What a route wants of a call.
struct Wanted<'a> {
    max_wait: Duration,
    /// What makes the request what it is, for its idempotency key.
    identity: &'a [&'a [u8]],
}

enum Outcome {
    Answered(Reply, Option<Upstream>),
    /// The kept answer of the same request.
    Replayed(Kept),
}

impl Serving<'_> {
    /// The request of an admitted client, answered in the envelope.
    pub(super) fn relayed(&self, app: &App, client: &Client, bytes: &[u8], trace: &mut Trace) -> Result<Answer> {
        let envelope = Envelope::parse(bytes)?;
        let portal = find_portal(&app.config, envelope.domain.as_deref())?;
        trace.portal = Some(portal.name.to_string());
        client.check_portal(&portal.name)?;
        let to = Destination { app, client, portal };
        match envelope.asked {
            Asked::One(call) => self.one_call(&to, call, trace),
            Asked::Many { calls, halt, raw } => self.many_calls(&to, &calls, halt, raw, trace),
            Asked::All { method, raw_params, cursor } => self.whole_list(&to, &method, raw_params, cursor, trace),
        }
    }

    fn one_call(&self, to: &Destination, mut asked: OneCall, trace: &mut Trace) -> Result<Answer> {
        trace.method = Some(asked.method.as_str().to_owned());
        to.client.check_method(&asked.method)?;
        if guard::must_be_checked(to.client, &asked.method) {
            asked.parameters = guard::checked(to.client, asked.version, asked.raw_params)?;
        }
        let call = Call {
            version: asked.version,
            method: &asked.method,
            query: "",
            payload: Payload::Json(asked.parameters),
            headers: vec![("Accept", "application/json")],
        };
        let wanted = Wanted {
            max_wait: to.app.config.limits.max_wait,
            identity: &[
                b"envelope",
                &[asked.version as u8],
                asked.method.as_str().as_bytes(),
                asked.raw_params.as_bytes(),
            ],
        };
        let (body, replayed) = match self.call(to, call, wanted, trace)? {
            Outcome::Answered(_, Some(upstream)) => return Err(Error::Bitrix24(upstream)),
            Outcome::Answered(reply, None) => {
                let replayed = reply.headers.contains_key("Idempotent-Replayed");
                (reply.body, replayed)
            }
            Outcome::Replayed(kept) => (kept.body, true),
        };
        let answer = Answer::success(vec![body]);
        Ok(if replayed { answer.replayed() } else { answer })
    }

    /// `calls`: packed into batches, in order.
    fn many_calls(&self, to: &Destination, calls: &[One], halt: bool, raw: &str, trace: &mut Trace) -> Result<Answer> {
        trace.method = Some(format!("{} calls", calls.len()));
        for call in calls {
            to.client.check_method(&call.method)?;
        }
        let keys = Keys::of(&to.app.store, &to.client.name);
        let mut journal = match self.idempotency_key()? {
            None => None,
            Some(key) => {
                let identity = fingerprint(&[b"calls", &[u8::from(halt)], raw.as_bytes()]);
                let deadline = self.deadline(&to.app.config).at_most(to.app.config.limits.max_wait);
                Some(keys.claim_many(&to.portal.name, key, identity, calls.len(), deadline)?)
            }
        };
        let mut session = self.session(to, to.app.config.bitrix24.timeout);
        let mut steps = Steps::new(&mut session, to.portal);
        let outcome = bulk::calls::execute(&mut steps, calls, halt, &mut journal, self.log);
        trace.repeated = session.repeated;
        let outcome = outcome?;
        let replayed = outcome.replayed;
        let answer = Answer::success(outcome.into_json());
        Ok(if replayed { answer.replayed() } else { answer })
    }

    /// `all`: a list to its end.
    fn whole_list(
        &self,
        to: &Destination,
        method: &Method,
        raw_params: &str,
        cursor: Option<Cursor>,
        trace: &mut Trace,
    ) -> Result<Answer> {
        trace.method = Some(method.as_str().to_owned());
        to.client.check_method(method)?;
        if self.idempotency_key()?.is_some() {
            return Err(Error::InvalidRequest("an Idempotency-Key has no meaning where \"all\" only reads".into()));
        }
        let mut session = self.session(to, to.app.config.bitrix24.timeout);
        let mut steps = Steps::new(&mut session, to.portal);
        let outcome = bulk::list::read(&mut steps, method, raw_params, cursor);
        trace.repeated = session.repeated;
        Ok(Answer::success(outcome?.into_json()))
    }

    fn idempotency_key(&self) -> Result<Option<&str>> {
        self.variables.os("HTTP_IDEMPOTENCY_KEY").map(|value| check_key(value.as_encoded_bytes())).transpose()
    }

    fn session<'s>(&'s self, to: &Destination<'s>, max_wait: Duration) -> Session<'s> {
        Session::new(self.job(to.app), Some(max_wait))
    }

    /// A call to a webhook address, answered as Bitrix24 answers it.
    pub(super) fn webhook(&self, app: &App, path: &WebhookPath, body: &mut Body, trace: &mut Trace) -> Result<Answer> {
        let config = &app.config;
        let credentials = Credentials::Token(path.token.clone().into_bytes());
        let client = self.admitted(config, &credentials, self.credentials().is_some(), trace)?;
        let bytes = self.read(config, body, config.limits.max_body)?;
        let portal = portal_of_webhook(config, client, path.portal.as_deref())?;
        trace.portal = Some(portal.name.to_string());
        let method = Method::parse(&path.method)
            .ok_or_else(|| Error::InvalidRequest("the address does not end in a method name".into()))?;
        trace.method = Some(method.as_str().to_owned());
        client.check_method(&method)?;
        let sent = Sent {
            query: self.variables.bytes("QUERY_STRING"),
            content_type: self.variables.text("CONTENT_TYPE").unwrap_or(""),
            body: &bytes,
        };
        let outgoing = match guard::must_be_checked(client, &method) {
            true => sent.checked_batch(client, path.version)?,
            false => sent.passed_on(path.version)?,
        };
        let wanted = Wanted {
            max_wait: config.limits.max_wait.min(webhook::MAX_WAIT),
            identity: &[
                b"webhook",
                &[path.version as u8],
                method.as_str().as_bytes(),
                &form::without_marks(sent.query),
                sent.content_type.as_bytes(),
                sent.body,
            ],
        };
        let call = Call {
            version: path.version,
            method: &method,
            query: &outgoing.query,
            payload: outgoing.payload,
            headers: Vec::new(),
        };
        Ok(match self.call(&Destination { app, client, portal }, call, wanted, trace)? {
            Outcome::Answered(reply, _) => webhook::pass_through(reply),
            Outcome::Replayed(kept) => {
                let Kept { status, content_type, body } = kept;
                Answer { status, content_type, headers: Vec::new(), body: body.into() }.replayed()
            }
        })
    }

    /// Executes a call, once for each idempotency key.
    fn call<'r>(&'r self, to: &Destination<'r>, call: Call<'r>, wanted: Wanted, trace: &mut Trace) -> Result<Outcome> {
        let keys = Keys::of(&to.app.store, &to.client.name);
        // All waiting together: for the key, for a refresh and for the limit.
        let wait_until = self.deadline(&to.app.config).at_most(wanted.max_wait);
        let key = self.idempotency_key()?;
        // REST 2 ignores the header; only REST 3.0 knows it.
        let sent_key = key.filter(|_| call.version == Version::V3).map(|key| key_for_bitrix24(to, key));
        let mut call: Call<'_> = call;
        call.headers.extend(sent_key.as_deref().map(|key| ("Idempotency-Key", key)));
        let mut held = None;
        if let Some(key) = key {
            match keys.claim(&to.portal.name, key, fingerprint(wanted.identity), wait_until)? {
                State::Done(kept) => return Ok(Outcome::Replayed(kept)),
                State::Free(free) => held = Some(free),
            }
        }
        let mut session = self.session(to, wait_until.remaining());
        let outcome = session.call(to.portal, &call, held.as_mut());
        trace.repeated = session.repeated;
        match (&outcome, held) {
            (Ok((reply, None)), Some(held)) => {
                let content_type = reply.content_type.as_deref().unwrap_or(JSON);
                if let Err(error) = held.done(reply.status, content_type, &reply.body) {
                    self.log.error(&format!(
                        "the answer of an idempotency key was not kept: {}",
                        error.for_administrator()
                    ));
                }
            }
            // The journal stays as it is: begun, and never executed again.
            (Err(error), Some(held)) if error.executed() == Some(Executed::Unknown) => drop(held),
            (Ok((_, Some(upstream))), Some(held)) if !upstream.is_definite() => drop(held),
            (_, Some(held)) => held.free(),
            (_, None) => {}
        }
        if let Ok((_, Some(upstream))) = &outcome {
            trace.bitrix24 = Some(upstream.error.chars().take(64).collect());
        }
        outcome.map(|(reply, upstream)| Outcome::Answered(reply, upstream))
    }
}

/// Bitrix24 sees one user behind all clients, and would take equal keys of theirs for one.
fn key_for_bitrix24<'k>(to: &Destination, key: &'k str) -> Cow<'k, str> {
    match to.app.config.clients.as_slice() {
        [_] => key.into(),
        _ => fingerprint(&[to.client.name.as_bytes(), key.as_bytes()]).into(),
    }
}

/// The portal in a webhook's path, or else the only one that this client may use.
fn portal_of_webhook<'c>(config: &'c Config, client: &Client, named: Option<&str>) -> Result<&'c Portal> {
    if let Some(name) = named {
        let portal = config.portal(name).ok_or(Error::UnknownPortal)?;
        client.check_portal(&portal.name)?;
        return Ok(portal);
    }
    let mut usable = config.portals.iter().filter(|portal| client.may_use(&portal.name));
    match (usable.next(), usable.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Error::UnknownPortal),
        (Some(_), Some(_)) => Err(Error::InvalidRequest(
            "This client may use several portals: put the portal's name before /rest/, as in /acme.bitrix24.ru/rest/…"
                .into(),
        )),
    }
}
