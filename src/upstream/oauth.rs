//! Bitrix24's OAuth server (RFC 6749): codes and refresh tokens against pairs of tokens, by POST, with the client
//! secret in the body and nowhere else.

use super::http::{Failure, Http, Obstacle, Post};
use crate::config::Application;
use crate::system::clock::Deadline;
use crate::values::grant::{read_answer, Grant, Issued, Refusal};
use crate::values::mask::Mask;
use crate::values::oauth_server::OauthServer;
use crate::values::secret::Secret;

/// Longest answer of the OAuth server that is read; real ones are below 2 KiB. A pair always fits the room that a storage
/// reserves for one.
const MAX_ANSWER: u64 = 32 << 10;

/// Asks for a pair. One request; the caller knows what it means if the answer is lost. `now`: Unix seconds, by the
/// clock of what is kept. `hide`: what nothing that is said beside
/// the pair may repeat; what is sent from here is added.
pub fn request(
    http: &Http,
    server: &OauthServer,
    application: &Application,
    grant: &Grant,
    deadline: Deadline,
    now: impl Fn() -> i64,
    mut hide: Mask,
) -> Result<Issued, Refusal> {
    let (grant_type, name, value) = match grant {
        Grant::AuthorizationCode(code) => ("authorization_code", "code", *code),
        Grant::RefreshToken(token) => ("refresh_token", "refresh_token", token.expose()),
    };
    let form = serde_urlencoded::to_string([
        ("grant_type", grant_type),
        ("client_id", &application.client_id),
        ("client_secret", application.client_secret.expose()),
        (name, value),
    ])
    .expect("pairs of texts serialize");
    let reply = http
        .oauth(server)
        .map_err(unavailable)?
        .post(&Post {
            url: &server.token_url(),
            content_type: "application/x-www-form-urlencoded",
            headers: &[("Accept", "application/json")],
            parts: &[form.as_bytes().into()],
            deadline,
            max_response: MAX_ANSWER,
            // The pair is what is wanted; what is said beside it hides the secrets.
            hide: &Mask::default(),
        })
        .map_err(unavailable)?;
    hide.add(&application.client_secret);
    hide.add(&Secret::new(value));
    read_answer(&reply.answered(), now(), hide)
}

fn unavailable(failure: Failure) -> Refusal {
    match failure {
        Failure::Configuration(why) => Refusal::Configuration { why },
        Failure::NotSent { why, obstacle: Obstacle::HostBusy } => Refusal::HostBusy { why },
        failure => Refusal::Unavailable { why: failure.text() },
    }
}
