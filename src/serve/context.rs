//! A request on its way: what every route asks of it, and what becomes known of it for the log.

use super::access::{self, Browser, Credentials};
use super::caller::Caller;
use super::page::Language;
use super::route::own_path;
use crate::app::{App, Job};
use crate::call::idempotency::{check_key, fingerprint, Key};
use crate::call::outcome::{Called, Failed};
use crate::config::{Client, Config};
use crate::install::browser::Query;
use crate::system::clock::Deadline;
use crate::system::log::Log;
use crate::upstream::http::Reply;
use crate::values::encoding::Encoding;
use crate::values::error::{Error, Result};
use crate::values::portal::{split_address, Version};
use crate::values::request::{Body, BodyError, Variables};
use std::borrow::Cow;
use std::time::{Duration, Instant};

/// Most that is read from somebody without credentials.
pub const MAX_STRANGER_BODY: u64 = 64 << 10;
/// How long their requests may take to arrive.
const STRANGERS_TIME: Duration = Duration::from_secs(10);

pub struct Serving<'a> {
    pub variables: &'a Variables,
    pub log: &'a Log,
    pub started: Instant,
}

/// What becomes known of a request on its way, for its line in the log.
#[derive(Default)]
pub struct Trace {
    pub client: Option<String>,
    pub portal: Option<String>,
    pub method: Option<String>,
    /// Bitrix24's own error code.
    pub bitrix24: Option<String>,
    pub repeated: Vec<&'static str>,
}

impl Trace {
    /// What a call took and ended with.
    pub fn noted(&mut self, Called { result, trip }: Called) -> std::result::Result<Reply, Failed> {
        self.repeated = trip.repeated;
        self.noted_failure(result)
    }

    pub fn noted_failure<T>(&mut self, result: std::result::Result<T, Failed>) -> std::result::Result<T, Failed> {
        if let Err(Failed::Refused { upstream, .. }) = &result {
            self.bitrix24 = Some(upstream.error.chars().take(64).collect());
        }
        result
    }
}

/// The key as it is sent on: REST 2 ignores the header, and Bitrix24 sees one user behind all clients, so that it would take
/// equal keys of theirs for one.
pub fn key_for_bitrix24<'k>(config: &Config, key: Option<&Key<'k>>, version: Version) -> Option<Cow<'k, str>> {
    let key = key.filter(|_| version == Version::V3)?;
    Some(match config.clients.as_slice() {
        [_] => key.text.into(),
        _ => fingerprint(&[key.client.as_bytes(), key.text.as_bytes()]).into(),
    })
}

/// A caller's key in quotes, shortened: it goes into the log, which nobody may flood.
pub fn shown(key: &str) -> String {
    let start: String = key.chars().take(64).collect();
    let more = if start.len() < key.len() { "…" } else { "" };
    format!("{start:?}{more}")
}

impl Serving<'_> {
    pub fn deadline(&self, config: &Config) -> Deadline {
        Deadline::from(self.started, config.bitrix24.timeout)
    }

    pub fn job<'j>(&'j self, app: &'j App) -> Job<'j> {
        app.job(self.log, self.deadline(&app.config))
    }

    /// Where this program is reached: as configured, or else as this request has reached it.
    pub fn own_address(&self, config: Option<&Config>) -> Option<String> {
        if let Some(address) = config.and_then(|config| config.bitrix24.redirect_uri.as_ref()) {
            return Some(address.clone());
        }
        let scheme = match self.variables.text("HTTPS") {
            Some(value) if !value.is_empty() && !value.eq_ignore_ascii_case("off") => "https",
            _ => "http",
        };
        let address = format!("{scheme}://{}{}", self.variables.text("HTTP_HOST")?, own_path(self.variables)?);
        split_address(&address).is_some().then_some(address)
    }

    /// Whether whoever asks wants to read a page: browsers say so.
    pub fn wants_page(&self) -> bool {
        let accept = self.variables.text("HTTP_ACCEPT").unwrap_or("");
        matches!(self.variables.method(), "GET" | "HEAD") && accept.to_ascii_lowercase().contains("text/html")
    }

    /// In which language a page is written for whoever asks.
    pub fn language(&self) -> Language {
        Language::of(self.variables, Query::of(self.variables).lang.as_deref())
    }

    /// A client's body, unpacked.
    pub fn read(&self, config: &Config, body: &mut Body) -> Result<Vec<u8>> {
        self.read_until(body, config.limits.max_body, self.deadline(config))
    }

    /// The body of somebody without credentials.
    pub fn read_of_stranger(&self, config: &Config, body: &mut Body) -> Result<Vec<u8>> {
        let limit = MAX_STRANGER_BODY.min(config.limits.max_body);
        self.read_until(body, limit, self.strangers_deadline().min(self.deadline(config)))
    }

    fn read_until(&self, body: &mut Body, limit: u64, deadline: Deadline) -> Result<Vec<u8>> {
        if body.is_at_end() {
            return Ok(Vec::new());
        }
        let encoding = Encoding::declared(self.variables.text("HTTP_CONTENT_ENCODING").unwrap_or(""));
        let encoding = encoding.map_err(|other| Error::UnsupportedEncoding(other.chars().take(64).collect()))?;
        let read = match encoding {
            None => body.read(limit, deadline),
            Some(encoding) => body.read_unpacked(encoding, limit, deadline),
        };
        read.map_err(|error| body_error(error, limit, "max_body"))
    }

    pub fn strangers_deadline(&self) -> Deadline {
        Deadline::from(self.started, STRANGERS_TIME)
    }

    pub fn credentials(&self) -> Option<Credentials> {
        let value = |name| self.variables.bytes(name);
        Credentials::from_headers(
            &[value("HTTP_AUTHORIZATION"), value("REDIRECT_HTTP_AUTHORIZATION")],
            value("HTTP_X_B24PROXY_TOKEN"),
        )
    }

    pub fn caller(&self, config: &Config) -> Caller {
        Caller::of(&config.trusted_proxies, self.variables)
    }

    /// The client, once its credentials, its address and the page that made a browser call are right. `by_header`: whether
    /// the request carries credentials that a browser could have remembered.
    pub fn admitted<'c>(
        &self,
        config: &'c Config,
        credentials: &Credentials,
        by_header: bool,
        trace: &mut Trace,
    ) -> Result<&'c Client> {
        let client = access::authenticate(&config.clients, credentials)?;
        trace.client = Some(client.name.clone());
        access::check_address(&config.allowed_ips, client, &self.caller(config))?;
        if !by_header {
            return Ok(client);
        }
        let browser = Browser {
            origin: self.variables.os("HTTP_ORIGIN").map(|origin| origin.to_str().unwrap_or("null")),
            sec_fetch_site: self.variables.os("HTTP_SEC_FETCH_SITE").map(|site| site.to_str().unwrap_or("")),
        };
        access::check_origin(config.own_origin().as_deref(), &config.cors_origins, &browser)?;
        Ok(client)
    }

    /// The text of the idempotency key that the client sent.
    pub fn idempotency_key(&self) -> Result<Option<&str>> {
        self.variables.os("HTTP_IDEMPOTENCY_KEY").map(|value| check_key(value.as_encoded_bytes())).transpose()
    }

    /// The same as the key of this client's request, which these parts make what it is.
    pub fn key<'k>(&'k self, client: &'k Client, request: &[&[u8]]) -> Result<Option<Key<'k>>> {
        let text = self.idempotency_key()?;
        Ok(text.map(|text| Key { client: &client.name, text, request: fingerprint(request) }))
    }
}

/// `setting`: the limit's name in the configuration.
pub fn body_error(error: BodyError, limit: u64, setting: &'static str) -> Error {
    match error {
        BodyError::TooLarge => Error::BodyTooLarge { limit, setting },
        BodyError::Truncated => Error::InvalidRequest("the body ended before its announced length".into()),
        BodyError::Damaged => {
            Error::InvalidRequest("the body is not what its Content-Encoding says, or not complete".into())
        }
        BodyError::TimedOut => Error::InvalidRequest("the body did not arrive in time".into()),
        BodyError::InvalidLength => Error::InvalidRequest("Content-Length is not a number".into()),
    }
}
