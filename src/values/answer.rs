//! The answer to a request, before an edge writes it. The one place that makes the envelope, of success and of failure.

use super::error::{Error, Executed, Upstream};
use serde::Serialize;
use std::borrow::Cow;
use std::fmt;
use std::io::Read;

pub const JSON: &str = "application/json; charset=utf-8";
pub const HTML: &str = "text/html; charset=utf-8";

const SUCCESS_HEAD: &[u8] = b"{\"success\":true,\"data\":";
const SUCCESS_TAIL: &[u8] = b"}";

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    /// Further headers. Values are visible ASCII; others are left out when the answer is written.
    pub headers: Vec<(&'static str, String)>,
    pub body: Content,
}

/// What an answer carries.
pub enum Content {
    /// One after another, so that a large one is not copied.
    Parts(Vec<Cow<'static, [u8]>>),
    /// Read while it is written, as many bytes as this where that is known. Where it fails the answer ends unfinished.
    Reader { reader: Box<dyn Read + Send>, length: Option<u64> },
}

impl Content {
    pub fn empty() -> Content {
        Content::Parts(Vec::new())
    }

    /// Bytes, where that is known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Content::Parts(parts) => Some(parts.iter().map(|part| part.len() as u64).sum()),
            Content::Reader { length, .. } => *length,
        }
    }

    /// Bytes that are in memory.
    pub fn held(&self) -> u64 {
        match self {
            Content::Parts(_) => self.length().unwrap_or(0),
            Content::Reader { .. } => 0,
        }
    }

    /// The parts in one piece; of a reader nothing.
    pub fn concat(&self) -> Vec<u8> {
        match self {
            Content::Parts(parts) => parts.concat(),
            Content::Reader { .. } => Vec::new(),
        }
    }
}

impl<T: Into<Vec<u8>>> From<T> for Content {
    fn from(bytes: T) -> Content {
        Content::Parts(vec![Cow::Owned(bytes.into())])
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} bytes", self.length())
    }
}

impl Answer {
    fn new(status: u16, content_type: &str, body: Content) -> Self {
        Answer { status, content_type: content_type.into(), headers: Vec::new(), body }
    }

    pub fn json(status: u16, body: impl Into<Content>) -> Self {
        Answer::new(status, JSON, body.into())
    }

    pub fn html(status: u16, body: impl Into<Content>) -> Self {
        Answer::new(status, HTML, body.into())
    }

    pub fn empty(status: u16) -> Self {
        Answer::new(status, "text/plain; charset=utf-8", Content::empty())
    }

    /// 302 to an address that this program made itself.
    pub fn redirect(location: String) -> Self {
        Answer::empty(302).with("Location", location)
    }

    /// 303 to a page of this program, which is loaded by GET and can be loaded again.
    pub fn see_other(location: String) -> Self {
        Answer::empty(303).with("Location", location)
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// An answer from before, of the same request.
    pub fn replayed(self) -> Self {
        self.with("Idempotent-Replayed", "true")
    }

    /// The success envelope; the parts of its `data`, which are JSON together, are sent as they stand.
    pub fn success(data: Vec<Vec<u8>>) -> Self {
        let inside = data.into_iter().map(Cow::Owned);
        let parts = std::iter::once(Cow::Borrowed(SUCCESS_HEAD)).chain(inside).chain([Cow::Borrowed(SUCCESS_TAIL)]);
        Answer::json(200, Content::Parts(parts.collect()))
    }

    /// The failure envelope of client routes.
    pub fn failure(error: &Error, request_id: &str) -> Self {
        #[derive(Serialize)]
        struct Envelope<'a> {
            success: bool,
            error: String,
            code: u16,
            error_code: &'static str,
            request_id: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            retry_after: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            executed: Option<Executed>,
            #[serde(skip_serializing_if = "Option::is_none")]
            install_url: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            bitrix24: Option<&'a Upstream>,
        }
        let (status, error_code) = error.status_and_code();
        let envelope = Envelope {
            success: false,
            error: error.text(),
            code: status,
            error_code,
            request_id,
            retry_after: error.retry_after(),
            executed: error.executed(),
            install_url: error.install_url(),
            bitrix24: error.upstream(),
        };
        let body = serde_json::to_vec(&envelope).expect("plain data serializes");
        Answer::json(status, body).with_headers_of(error)
    }

    /// The headers that an error brings along, whatever the shape of its body.
    pub fn with_headers_of(mut self, error: &Error) -> Self {
        if let Some(seconds) = error.retry_after() {
            self = self.with("Retry-After", seconds.to_string());
        }
        match error {
            // One header that names both schemes (RFC 9110, section 11.6.1). Chromium knows only the first of a header, and
            // asks for a password only where that is Basic.
            Error::Unauthorized(_) => {
                self.with("WWW-Authenticate", "Basic realm=\"b24proxy\", charset=\"UTF-8\", Bearer realm=\"b24proxy\"")
            }
            Error::MethodNotSupported { allow } => self.with("Allow", allow.as_str()),
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_what_applies_and_nothing_else() {
        let answer = Answer::failure(&Error::RefreshPending { retry_after: 5 }, "r1");
        let json: serde_json::Value = serde_json::from_slice(&answer.body.concat()).unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(json["error_code"], "refresh_pending");
        assert_eq!(json["retry_after"], 5);
        assert_eq!(json["executed"], "no");
        assert!(json.get("install_url").is_none());
        assert!(answer.headers.contains(&("Retry-After", "5".into())));
    }

    #[test]
    fn success_is_the_data_as_it_stands() {
        let answer = Answer::success(vec![b"{\"a\":".to_vec(), b"1.0}".to_vec()]);
        assert_eq!(answer.body.concat(), br#"{"success":true,"data":{"a":1.0}}"#);
        assert_eq!(answer.body.length(), Some(33));
    }
}
