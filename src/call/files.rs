//! Files on their way through: downloads from and uploads to addresses that Bitrix24 has answered. They are never held in
//! memory or on disk, and count in the portal's limit once.

use super::outcome::Failed;
use super::refusal;
use super::relay::{bearer, error_of, Authorization, Patience, Relay, Renewals};
use crate::app::Job;
use crate::config::Portal;
use crate::system::wait::stand_aside;
use crate::upstream::http::{Download, Failure, Post, Reply};
use crate::upstream::unpacked::mark;
use crate::values::error::{Error, Executed, Result, Upstream};
use crate::values::file_address::FileAddress;
use crate::values::foreign::{Answered, Foreign};
use crate::values::mask::name_of;
use crate::values::portal::Version;
use crate::values::verdict::{judge, Verdict};
use std::io::{Cursor, Read};
use std::time::Duration;

/// An answer that is perhaps an error is read so far.
const MOST_ERROR: u64 = 64 << 10;

/// How a file's address is asked: where, and with which token in the header.
struct Way {
    url: String,
    bearer: Option<String>,
}

impl Way {
    /// Secrets are put back only where their names stand, and only those whose names these are.
    fn to(address: &FileAddress, portal: &Portal, authorization: &Authorization) -> Result<Way> {
        let wrong = |why: &str| Error::InvalidRequest(format!("\"address\" {why}"));
        let gone = |why: &str| Error::FileAddressExpired(why.into());
        match authorization {
            Authorization::Webhook(webhook) => {
                if address.auth.is_some() {
                    return Err(wrong("holds an auth, which addresses of a portal with a webhook do not"));
                }
                if let Some((_, code)) = &address.webhook {
                    if *code != name_of(&webhook.code()) {
                        return Err(gone("it was answered for another webhook"));
                    }
                }
                let code = webhook.code();
                let tail = address.tail(Some(&code)).ok_or_else(|| gone("it was signed with another webhook"))?;
                Ok(Way { url: webhook.url(Version::V2, &tail), bearer: None })
            }
            Authorization::OAuth { endpoint, tokens } => {
                if address.webhook.is_some() {
                    return Err(wrong(&format!("is one of a webhook, and {} is called with OAuth", portal.name)));
                }
                let signed = match &address.auth {
                    // The token belongs to what is signed, and the header would be another authorization.
                    Some(name) if *name == name_of(&tokens.access_token) => Some(&tokens.access_token),
                    Some(_) => return Err(gone("the token that it was signed with has been renewed")),
                    None => None,
                };
                let tail =
                    address.tail(signed).ok_or_else(|| gone("the token that it was signed with has been renewed"))?;
                let url = endpoint.url(Version::V2, &tail);
                Ok(Way { url, bearer: signed.is_none().then(|| bearer(tokens.access_token.expose())) })
            }
        }
    }

    fn headers<'h>(&'h self, others: &[(&'static str, &'h str)]) -> Vec<(&'static str, &'h str)> {
        let mut headers = others.to_vec();
        headers.extend(self.bearer.as_deref().map(|value| ("Authorization", value)));
        headers
    }
}

/// What a file's transfer needs beside its address.
pub struct Transfer<'a> {
    pub job: Job<'a>,
    pub portal: &'a Portal,
    pub address: &'a FileAddress,
    /// How long it may wait for its turn under the limit and for another's refresh.
    pub patience: Patience,
    /// How long to wait for the first byte, and in each pause without progress.
    pub pause: Duration,
}

impl Transfer<'_> {
    /// Asks for a file. `conditions`: the caller's fields that concern it, such as `Range`.
    pub fn download(&self, conditions: &[(&'static str, &str)]) -> std::result::Result<Download, Failed> {
        stand_aside().map_err(Error::host_busy)?;
        let mut relay = Relay::new(self.job, self.portal, self.patience, 1);
        let result = self.open(&mut relay, conditions);
        relay.end("download", &result);
        result
    }

    fn open(&self, relay: &mut Relay, conditions: &[(&'static str, &str)]) -> std::result::Result<Download, Failed> {
        let http = self.job.app.http.portals().map_err(|failure| error_of(failure, 0))?;
        let mut authorization = relay.authorization()?;
        let mut way = Way::to(self.address, self.portal, &authorization)?;
        relay.await_turn("download", false)?;
        let mut renewals = Renewals::default();
        loop {
            let answer = http.open(&way.url, &way.headers(conditions), self.pause);
            let download = answer.map_err(unread)?.without(&relay.hide);
            let (upstream, reply) = match self.judged(download, relay, authorization.host())? {
                Judged::File(download) => return Ok(download),
                Judged::Refused { upstream, reply } => (upstream, reply),
            };
            let tokens = authorization.tokens().cloned();
            match (refused(&upstream, tokens.is_none()), tokens) {
                (Some(code), Some(tokens))
                    if way.bearer.is_some() && renewals.are_over(&tokens, relay.job.app.store.now()) =>
                {
                    return Err(relay.refused_again(code).into())
                }
                (Some(code), Some(tokens)) if way.bearer.is_some() => {
                    renewals.0 += 1;
                    authorization = relay.renewed(&tokens, code)?;
                    way = Way::to(self.address, self.portal, &authorization)?;
                }
                (Some(_), None) => return Err(refusal::webhook_refused(authorization.host(), upstream).into()),
                _ => return Err(expired(&upstream, &way).unwrap_or(Failed::Refused { upstream, reply })),
            }
        }
    }

    /// Sends a file; once, for its bytes come by only once. `content_type`: that of the body.
    pub fn upload(
        &self,
        content_type: &str,
        body: &mut dyn Read,
        length: Option<u64>,
    ) -> std::result::Result<Reply, Failed> {
        stand_aside().map_err(Error::host_busy)?;
        let mut relay = Relay::new(self.job, self.portal, self.patience, 1);
        let result = self.send(&mut relay, content_type, body, length);
        relay.end("upload", &result);
        result
    }

    fn send(
        &self,
        relay: &mut Relay,
        content_type: &str,
        body: &mut dyn Read,
        length: Option<u64>,
    ) -> std::result::Result<Reply, Failed> {
        let http = self.job.app.http.portals().map_err(|failure| error_of(failure, 0))?;
        let authorization = relay.authorization()?;
        let way = Way::to(self.address, self.portal, &authorization)?;
        relay.await_turn("upload", false)?;
        let max_response = self.job.app.config.limits.max_response;
        let post = Post {
            url: &way.url,
            content_type,
            headers: &way.headers(&[("Accept", "application/json")]),
            parts: &[],
            deadline: self.job.end,
            max_response,
            hide: &relay.hide,
        };
        let reply = http.upload(&post, body, length, self.pause).map_err(|failure| error_of(failure, max_response))?;
        match judge(&reply.answered()).0 {
            Verdict::Success => Ok(reply),
            Verdict::Error(upstream) => {
                match (refused(&upstream, authorization.tokens().is_none()), authorization.tokens()) {
                    (Some(code), Some(tokens)) if way.bearer.is_some() => {
                        relay.renewed(&tokens.clone(), code)?;
                        Err(Error::RefreshPending { retry_after: 1 }.into())
                    }
                    (Some(_), None) => Err(refusal::webhook_refused(authorization.host(), upstream).into()),
                    _ => Err(expired(&upstream, &way).unwrap_or(Failed::Refused { upstream, reply: Box::new(reply) })),
                }
            }
            Verdict::Moved => Err(relay.foreign(authorization.host(), Foreign::of(&reply.answered()), None).into()),
            Verdict::Foreign(foreign) => Err(relay.foreign(authorization.host(), foreign, reply.retry_after()).into()),
        }
    }

    /// Whether what was answered is a file.
    fn judged(&self, mut download: Download, relay: &Relay, host: &str) -> Result<Judged> {
        let status = download.status;
        // Asking for a file changes nothing.
        let foreign =
            |foreign, retry_after| Err(relay.foreign(host, Foreign { executed: Executed::No, ..foreign }, retry_after));
        if (300..400).contains(&status) && status != 304 {
            return foreign(Foreign::of(&download.answered()), None);
        }
        let is_file = matches!(status, 200 | 206 | 304 | 416);
        let is_of = |kind: &str| download.header("Content-Type").is_some_and(|value| value.starts_with(kind));
        let (is_json, is_page) = (is_of("application/json"), is_of("text/html"));
        if is_file && download.answered().encoding.is_some() {
            return foreign(Foreign::of(&download.answered()), None);
        }
        if is_file && (!(is_json || is_page) || download.header("Content-Disposition").is_some() || status != 200) {
            let download = self.within_size(download)?;
            return download.begun().map(Judged::File).map_err(unread);
        }
        let mut begin = Vec::new();
        let read = (&mut download.reader).take(MOST_ERROR + 1).read_to_end(&mut begin);
        if is_file {
            // A file of JSON, unless it is short and Bitrix24's own error; or a page, such as one that asks to log in and
            // repeats the address.
            let is_error = begin.len() as u64 <= MOST_ERROR && {
                let answered = Answered { body: &begin[mark(&begin)..], ..download.answered() };
                matches!(judge(&answered).0, Verdict::Error(_))
            };
            if !is_error {
                read.map_err(|_| unread(Failure::Lost { why: "while it was read".into(), stale: false }))?;
                if begin.len() as u64 <= MOST_ERROR {
                    begin = relay.hide.bytes(begin);
                    download.length = Some(begin.len() as u64);
                }
                download.reader = Box::new(Cursor::new(begin).chain(download.reader));
                return self.within_size(download).map(Judged::File);
            }
        }
        begin.truncate(MOST_ERROR as usize);
        begin.drain(..mark(&begin));
        let content_type = download.content_type().map(str::to_owned);
        let reply = Reply { status, content_type, headers: download.headers, body: begin }.without(&relay.hide);
        match judge(&reply.answered()).0 {
            Verdict::Error(upstream) => Ok(Judged::Refused { upstream, reply: Box::new(reply) }),
            Verdict::Foreign(what) => foreign(what, reply.retry_after()),
            Verdict::Success | Verdict::Moved => Err(Error::BadAnswer {
                why: format!("{host} answered with something that is not a file"),
                executed: Executed::No,
                upstream: Some(Upstream { status, ..Upstream::default() }),
            }),
        }
    }

    fn within_size(&self, download: Download) -> Result<Download> {
        let max_file = self.job.app.config.limits.max_file;
        match download.length {
            Some(length) if length > max_file => Err(Error::BadAnswer {
                why: format!(
                    "the file has {length} bytes, more than max_file ({max_file}) under [limits] in proxy.toml"
                ),
                executed: Executed::No,
                upstream: None,
            }),
            _ => Ok(download),
        }
    }
}

enum Judged {
    File(Download),
    Refused { upstream: Upstream, reply: Box<Reply> },
}

/// By which code the token in the header, or the webhook's code, is refused. One that does not arrive is none that new tokens
/// would help.
fn refused(upstream: &Upstream, is_webhook: bool) -> Option<&'static str> {
    refusal::of_credentials(upstream, is_webhook).filter(|code| is_webhook || *code != refusal::NO_AUTH)
}

/// Bitrix24 no longer takes the authorization that the address came with.
fn expired(upstream: &Upstream, way: &Way) -> Option<Failed> {
    let why = match (upstream.error.as_str(), &way.bearer) {
        ("NO_AUTH_FOUND", Some(_)) => {
            "the portal's web server keeps the Authorization header to itself, and the address is one without auth"
        }
        ("expired_token" | "invalid_token" | "NO_AUTH_FOUND", None) => "the token that it was signed with has expired",
        _ => return None,
    };
    Some(Error::FileAddressExpired(why.into()).into())
}

/// Reading changes nothing: a lost answer is as good as none.
fn unread(failure: Failure) -> Error {
    match failure {
        Failure::Timeout(_) => Error::Timeout { executed: Executed::No },
        Failure::Lost { why, .. } => Error::Unreachable { why, executed: Executed::No },
        failure => error_of(failure, 0),
    }
}
