//! The answer to a request, before it is written as a CGI response.

use crate::values::error::{Error, Executed, Upstream};
use serde::Serialize;

pub const JSON: &str = "application/json; charset=utf-8";
pub const HTML: &str = "text/html; charset=utf-8";

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    /// Further headers. Values are visible ASCII; others are left out when the answer is written.
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Answer { status, content_type: JSON.into(), headers: Vec::new(), body: body.into() }
    }

    pub fn html(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Answer { status, content_type: HTML.into(), headers: Vec::new(), body: body.into() }
    }

    pub fn empty(status: u16) -> Self {
        Answer { status, content_type: "text/plain; charset=utf-8".into(), headers: Vec::new(), body: Vec::new() }
    }

    /// 302 to an address that this program made itself.
    pub fn redirect(location: String) -> Self {
        Answer::empty(302).with("Location", location)
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
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
            Error::Unauthorized => {
                self.with("WWW-Authenticate", "Basic realm=\"b24proxy\", charset=\"UTF-8\", Bearer realm=\"b24proxy\"")
            }
            Error::MethodNotSupported { allow } => self.with("Allow", *allow),
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
        let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(json["error_code"], "refresh_pending");
        assert_eq!(json["retry_after"], 5);
        assert_eq!(json["executed"], "no");
        assert!(json.get("install_url").is_none());
        assert!(answer.headers.contains(&("Retry-After", "5".into())));
    }
}
