//! Whose credentials failed: Bitrix24's refusals of what this program sends are none of the caller's.

use crate::values::error::{Error, Executed, Upstream};

/// The access token's lifetime is over.
pub const EXPIRED: &str = "expired_token";
/// It is none, or of an application that was removed.
pub const INVALID: &str = "invalid_token";
/// None arrived.
pub const NO_AUTH: &str = "NO_AUTH_FOUND";
/// Of a webhook: its code.
const WEBHOOK: &str = "INVALID_CREDENTIALS";

/// By which code a token is refused, or with `is_webhook` a webhook's code; `None`: it is an error of the call.
pub fn of_credentials(upstream: &Upstream, is_webhook: bool) -> Option<&'static str> {
    let codes = [EXPIRED, INVALID, NO_AUTH].into_iter().chain(is_webhook.then_some(WEBHOOK));
    codes.into_iter().find(|code| *code == upstream.error)
}

/// Whether an error of REST 3.0 may speak of the token as well as of the method.
pub fn is_unclear(upstream: &Upstream) -> bool {
    upstream.status == 401 && of_credentials(upstream, true).is_none()
}

/// The refusal in Bitrix24's words.
pub fn said(upstream: &Upstream) -> String {
    match upstream.error_description.as_str() {
        "" => upstream.error.clone(),
        description => format!("{}: {}", upstream.error, description.trim_end_matches('.')),
    }
}

/// The token has no other way to the portal.
pub fn without_header() -> Error {
    Error::BadAnswer {
        why: "the portal's web server keeps the Authorization header to itself (NO_AUTH_FOUND), and a REST 3.0 batch that is a \
              list has no other place for the token: call the methods one by one"
            .into(),
        executed: Executed::No,
        upstream: None,
    }
}

pub fn webhook_refused(host: &str, upstream: Upstream) -> Error {
    Error::BadAnswer {
        why: format!(
            "{host} does not accept the webhook that proxy.toml names ({}): it was deleted, or its user has left. Make a new \
             one in Bitrix24 and write its address there",
            said(&upstream)
        ),
        executed: Executed::No,
        upstream: Some(upstream),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_credentials_is_told_from_an_error_of_the_call() {
        let error = |status, error: &str| Upstream { status, error: error.into(), ..Upstream::default() };
        for (upstream, of_token, of_webhook, unclear) in [
            (error(401, "expired_token"), Some(EXPIRED), Some(EXPIRED), false),
            (error(403, "invalid_token"), Some(INVALID), Some(INVALID), false),
            (error(401, "NO_AUTH_FOUND"), Some(NO_AUTH), Some(NO_AUTH), false),
            (error(403, "INVALID_CREDENTIALS"), None, Some(WEBHOOK), false),
            (error(403, "insufficient_scope"), None, None, false),
            (error(401, "BITRIX_REST_V3_EXCEPTION_ACCESSDENIEDEXCEPTION"), None, None, true),
            (error(401, "METHOD_CONFIRM_WAITING"), None, None, true),
        ] {
            assert_eq!(of_credentials(&upstream, false), of_token, "{upstream:?}");
            assert_eq!(of_credentials(&upstream, true), of_webhook, "{upstream:?}");
            assert_eq!(is_unclear(&upstream), unclear, "{upstream:?}");
        }
    }
}
