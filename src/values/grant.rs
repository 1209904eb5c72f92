//! What is asked of the OAuth server (RFC 6749), and what its answer means: a pair of tokens, or a refusal.

use crate::system::log::printable;
use crate::values::foreign::{Answered, Foreign};
use crate::values::mask::Mask;
use crate::values::oauth_server::Asked;
use crate::values::portal::PortalName;
use crate::values::secret::Secret;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Seconds that an access token lives, where the answer does not say.
const LIFETIME: i64 = 3600;

/// What is exchanged for a pair.
pub enum Grant<'a> {
    AuthorizationCode(&'a str),
    RefreshToken(&'a Secret),
}

impl Grant<'_> {
    pub fn hide_in(&self, mask: &mut Mask) {
        match self {
            Grant::AuthorizationCode(code) => mask.add(&Secret::new(*code)),
            Grant::RefreshToken(token) => mask.add(token),
        }
    }
}

/// A pair as the OAuth server gave it.
#[derive(Debug)]
pub struct Issued {
    pub access_token: Secret,
    pub refresh_token: Secret,
    /// Unix seconds, by the clock of what is kept: time of receipt + `expires_in`.
    pub expires_at: i64,
    pub client_endpoint: String,
    pub server_endpoint: String,
    pub domain: String,
    pub member_id: String,
    pub scope: String,
    pub user_id: u64,
}

/// Why the OAuth server gave no pair. Kept on disk for a few seconds so that other processes share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Refusal {
    /// The code or refresh token is spent, expired or revoked.
    InvalidGrant { description: String },
    /// `client_id` or `client_secret` is wrong, or the application was deleted, or is not installed on that portal.
    InvalidClient { description: String },
    /// The application's trial or paid period is over, or it was removed. (A plan without REST is the portal's `ACCESS_DENIED`.)
    PaymentRequired { description: String },
    /// The portal no longer exists.
    PortalDeleted,
    /// Another error of RFC 6749.
    Other { error: String, description: String },
    /// No usable answer: server down, HTML, timeout.
    Unavailable { why: String },
    /// This program's own side, for the log.
    Configuration { why: String },
    /// Nothing was asked: this host refused what a connection takes.
    HostBusy { why: String },
}

impl Refusal {
    /// The `error_code` of a call that ends with it.
    pub fn error_code(&self) -> &'static str {
        match self {
            Refusal::InvalidGrant { .. } => "reinstall_required",
            Refusal::Configuration { .. } => "configuration_error",
            Refusal::HostBusy { .. } => "host_busy",
            _ => "oauth_server_error",
        }
    }

    /// For a person; begins in lower case. `asked`: by whom it is, if that is asked at all.
    pub fn text(&self, asked: &Asked, portal: &PortalName) -> String {
        let text = self.said(asked.server.host());
        match self.doubted(asked).then(|| asked.words(portal)).flatten() {
            Some(words) => format!("{text}; {words}"),
            None => text,
        }
    }

    /// The same in two, where the portal names another server than the one that was asked: what this one said, and what mends it.
    pub fn mismatch(&self, asked: &Asked, portal: &PortalName) -> Option<(String, String)> {
        let words = asked.words(portal).filter(|_| asked.is_contradicted() && self.doubted(asked))?;
        Some((self.said(asked.server.host()), words))
    }

    /// Whether it may come from asking the wrong server: two servers do not know each other's tokens and applications.
    pub fn doubted(&self, asked: &Asked) -> bool {
        match self {
            Refusal::InvalidGrant { .. } | Refusal::InvalidClient { .. } => asked.doubt.is_some(),
            Refusal::Other { .. } | Refusal::Unavailable { .. } => asked.is_contradicted(),
            Refusal::PaymentRequired { .. }
            | Refusal::PortalDeleted
            | Refusal::Configuration { .. }
            | Refusal::HostBusy { .. } => false,
        }
    }

    fn said(&self, host: &str) -> String {
        let with = |what: &str, description: &str| match description {
            "" => what.to_owned(),
            _ => format!("{what} ({description})"),
        };
        match self {
            Refusal::InvalidGrant { description } => {
                with(&format!("{host} says that the token is spent, expired or revoked"), description)
            }
            Refusal::InvalidClient { description } => with(
                &format!(
                    "{host} answered invalid_client: it does not know this application, or not on this portal; check \
                     client_id and client_secret in proxy.toml, and that the application still exists in Bitrix24"
                ),
                description,
            ),
            Refusal::PaymentRequired { description } => with(
                "PAYMENT_REQUIRED: the trial or paid period is over on this portal, or the application was removed there; \
                 renew the subscription in Bitrix24, or install the application again",
                description,
            ),
            Refusal::PortalDeleted => "the portal has been deleted".into(),
            Refusal::Other { error, description } => with(error, description),
            Refusal::Unavailable { why } => format!("{host} {why}"),
            Refusal::HostBusy { why } => format!("it was not asked: {why}"),
            Refusal::Configuration { .. } => "the configuration cannot be used".into(),
        }
    }
}

/// Reads the server's answer, received at `now`. Of a pair nothing but its two tokens is insisted on: the old one is spent.
/// What the server says of an error, or beside the tokens, must not repeat the secrets nor those tokens.
pub fn read_answer(answered: &Answered, now: i64, mut secrets: Mask) -> Result<Issued, Refusal> {
    let status = answered.status;
    let fields: Map<String, Value> = serde_json::from_slice(answered.body).map_err(|_| {
        let what = format!("answered with {}", Foreign::of(answered).what);
        Refusal::Unavailable { why: secrets.text(&what).into_owned() }
    })?;
    let text = |name: &str| match fields.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    let error = text("error");
    if !error.is_empty() {
        return Err(refusal(&error, &text("error_description"), &secrets));
    }
    let (access_token, refresh_token) = (Secret::new(text("access_token")), Secret::new(text("refresh_token")));
    if status >= 400 || access_token.is_empty() || refresh_token.is_empty() {
        return Err(Refusal::Unavailable { why: format!("answered without tokens (status {status})") });
    }
    secrets.add(&access_token);
    secrets.add(&refresh_token);
    let text = |name: &str| printable(&secrets.text(&text(name))).into_owned();
    let lifetime = text("expires_in").parse().ok().filter(|seconds| *seconds > 0).unwrap_or(LIFETIME);
    Ok(Issued {
        access_token,
        refresh_token,
        expires_at: now.saturating_add(lifetime),
        client_endpoint: text("client_endpoint"),
        server_endpoint: text("server_endpoint"),
        domain: text("domain"),
        member_id: text("member_id"),
        scope: text("scope"),
        user_id: text("user_id").parse().unwrap_or(0),
    })
}

fn refusal(error: &str, description: &str, secrets: &Mask) -> Refusal {
    let shown = |text: &str, most: usize| {
        let first_line = secrets.text(text).lines().next().unwrap_or("").to_owned();
        printable(&first_line).chars().take(most).collect::<String>()
    };
    let description = shown(description, 200);
    match error.to_ascii_lowercase().as_str() {
        "invalid_grant" => Refusal::InvalidGrant { description },
        "invalid_client" | "application_not_found" => Refusal::InvalidClient { description },
        "payment_required" => Refusal::PaymentRequired { description },
        "portal_deleted" => Refusal::PortalDeleted,
        _ => Refusal::Other { error: shown(error, 64), description },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::mask::name_of;
    use proptest::prelude::*;

    fn read_answer(status: u16, body: &[u8], now: i64, secrets: Mask) -> Result<Issued, Refusal> {
        super::read_answer(&Answered { status, body, ..Answered::default() }, now, secrets)
    }

    #[test]
    fn failures_are_told_apart() {
        let kind =
            |status, body: &str| read_answer(status, body.as_bytes(), 0, Mask::default()).map(|_| ()).unwrap_err();
        assert!(matches!(kind(400, r#"{"error":"invalid_grant"}"#), Refusal::InvalidGrant { .. }));
        assert!(matches!(kind(401, r#"{"error":"invalid_client"}"#), Refusal::InvalidClient { .. }));
        assert!(matches!(kind(402, r#"{"error":"PAYMENT_REQUIRED"}"#), Refusal::PaymentRequired { .. }));
        assert!(matches!(kind(500, r#"{"error":"PORTAL_DELETED"}"#), Refusal::PortalDeleted));
        assert!(matches!(kind(500, "<html>"), Refusal::Unavailable { .. }));
        assert!(matches!(kind(200, "{}"), Refusal::Unavailable { .. }));
        assert!(matches!(kind(200, r#"["a","b"]"#), Refusal::Unavailable { .. }));
    }

    #[test]
    fn the_expiry_counts_from_receipt_by_our_clock() {
        let body = br#"{"access_token":"a","refresh_token":"r","expires_in":3600,"expires":1,"user_id":"5"}"#;
        let issued = read_answer(200, body, 1000, Mask::default()).unwrap();
        assert_eq!((issued.expires_at, issued.user_id), (4600, 5));
    }

    #[test]
    fn a_pair_is_taken_whatever_stands_beside_it() {
        let pair = r#""access_token":"a","refresh_token":"r","#;
        for (beside, expires_at) in [
            (r#""expires_in":"1800""#, 2800),
            (r#""expires_in":null,"error":null"#, 4600),
            (r#""expires_in":1e300,"error":"","error_description":[]"#, 4600),
            (r#""scope":null,"user_id":-1,"domain":{},"member_id":7"#, 4600),
        ] {
            let issued = read_answer(200, format!("{{{pair}{beside}}}").as_bytes(), 1000, Mask::default()).unwrap();
            assert_eq!((issued.access_token.expose(), issued.refresh_token.expose()), ("a", "r"), "{beside}");
            assert_eq!((issued.expires_at, issued.user_id), (expires_at, 0), "{beside}");
        }
    }

    #[test]
    fn what_is_said_of_an_error_repeats_no_secret() {
        let (client, refresh) = (Secret::new("c-secret"), Secret::new("r-secret"));
        let secrets = Mask::of([&client, &refresh]);
        let body = br#"{"error":"no r-secret","error_description":"token r-secret of c-secret\nmore"}"#;
        let Err(Refusal::Other { error, description }) = read_answer(400, body, 0, secrets) else { panic!() };
        let [c, r] = [&client, &refresh].map(name_of);
        assert_eq!((error, description), (format!("no {r}"), format!("token {r} of {c}")));
    }

    #[test]
    fn what_is_said_beside_a_pair_repeats_neither_a_secret_nor_the_pair() {
        let secrets = Mask::of([&Secret::new("c-secret")]);
        let body =
            br#"{"access_token":"a-new-token","refresh_token":"r-new-token","scope":"crm,a-new-token r-new-token",
            "domain":"c-secret","server_endpoint":"https://h/\u001b[31m"}"#;
        let issued = read_answer(200, body, 0, secrets).unwrap();
        let [access, refresh] = [&issued.access_token, &issued.refresh_token].map(name_of);
        assert_eq!(issued.scope, format!("crm,{access} {refresh}"));
        assert_eq!(
            (issued.domain, issued.server_endpoint.as_str()),
            (name_of(&Secret::new("c-secret")), "https://h/ [31m")
        );
    }

    proptest! {
        #[test]
        fn no_answer_panics(status in 100u16..600, body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = read_answer(status, &body, 0, Mask::default());
        }
    }
}
