//! Why an installation did not happen.

use crate::config::Client;
use crate::system::log::printable;
use crate::values::error::{Error, Executed, Upstream};
use crate::values::oauth_server::Asked;
use crate::values::portal::PortalName;
use crate::values::secret::sha256;

/// Seconds to wait for whoever holds a portal's lock.
const BUSY: u64 = 5;

/// The OAuth server that was asked for a portal, which may be the wrong one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubted {
    pub portal: PortalName,
    pub asked: Asked,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The portal is not configured: what was asked for, as it was written; empty where that is not repeated.
    UnknownPortal(String),
    /// Several portals are configured and none was named.
    NoPortalNamed,
    /// The portal is used through an incoming webhook.
    Webhook,
    /// The state does not belong to this browser, is too old, or was used.
    State,
    /// The receipt of an installation is older than ten minutes, or was not made here.
    Receipt,
    /// The way back brought an error instead of a code, such as `access_denied`; empty where it is no code of an error.
    /// `begun_here`: with the state of this browser.
    Denied {
        error: String,
        begun_here: bool,
    },
    /// The code was used, or is older than 30 seconds.
    CodeSpent(Option<Doubted>),
    /// Bitrix24 does not accept the tokens that were posted.
    TokenRefused(Option<Doubted>),
    NotAdministrator,
    /// The application was authorized on another portal.
    OtherPortal {
        wanted: String,
        got: String,
    },
    /// What the OAuth server gave is no address of a portal.
    NoAddress,
    /// It gave one of plain http, which is not allowed.
    PlainHttp,
    /// Another Bitrix24 is installed under this name.
    Mismatch {
        portal: String,
        /// Where its tokens are.
        file: String,
        /// By which statement a database sets them aside.
        set_aside: Option<String>,
    },
    /// The stored tokens work, so nothing is removed.
    StillWorks,
    /// `application_token` is not the stored one.
    NotOurs,
    NotInstalled,
    /// Bitrix24 does not accept the stored tokens.
    Refused,
    Attempts {
        retry_after: u64,
    },
    /// Another process holds the portal's lock.
    Busy,
    /// This host refused a process, a thread, a descriptor or memory: which.
    HostBusy(String),
    Portal {
        why: String,
    },
    /// The call that was to be tried had no answer of Bitrix24's.
    Trial {
        why: String,
    },
    Oauth {
        why: String,
    },
    /// The OAuth server does not know the application or its tokens, and the portal names another.
    OtherOauthServer(Doubted),
    /// The portal's plan does not include the REST API.
    WithoutRest(Upstream),
    /// For the log.
    Storage(String),
    /// For the log.
    Configuration(String),
}

/// What went wrong with a call or a refresh on the way to an installation.
impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        match error {
            Error::Storage(why) => Problem::Storage(why),
            Error::Configuration(why) => Problem::Configuration(why),
            Error::OauthServer { why, .. } => Problem::Oauth { why },
            Error::RefreshPending { .. } => Problem::Busy,
            Error::HostBusy(why) => Problem::HostBusy(why),
            Error::Unreachable { why, .. } | Error::BadAnswer { why, .. } => Problem::Portal { why },
            other => Problem::Portal { why: other.text() },
        }
    }
}

/// Most characters of an address that are repeated.
const LONGEST_ADDRESS: usize = 100;

impl Problem {
    /// `named`: by whoever made the address of the page. Of a webhook's address, which people paste, the host is repeated and
    /// not the code; a client's token in its place is not.
    pub fn unknown_portal(named: &str, clients: &[Client]) -> Problem {
        let bare = named.trim().split("://").last().unwrap_or("");
        let host = bare.split(['/', '?', '#']).next().and_then(|host| host.rsplit('@').next()).unwrap_or("");
        let digest = sha256(host.as_bytes());
        let host = if clients.iter().any(|client| client.digest == digest) { "" } else { host };
        Problem::UnknownPortal(printable(host).chars().take(LONGEST_ADDRESS).collect())
    }

    /// The same statuses as the envelope's.
    pub fn status(&self) -> u16 {
        match self {
            Problem::NoPortalNamed
            | Problem::Webhook
            | Problem::Denied { begun_here: true, .. }
            | Problem::CodeSpent(_) => 400,
            Problem::State
            | Problem::Receipt
            | Problem::Denied { .. }
            | Problem::TokenRefused(_)
            | Problem::NotAdministrator
            | Problem::OtherPortal { .. }
            | Problem::NoAddress
            | Problem::PlainHttp
            | Problem::WithoutRest(_)
            | Problem::NotOurs => 403,
            Problem::UnknownPortal(_) => 404,
            Problem::Mismatch { .. } | Problem::StillWorks | Problem::NotInstalled | Problem::Refused => 409,
            Problem::Attempts { .. } => 429,
            Problem::Storage(_) | Problem::Configuration(_) => 500,
            Problem::Portal { .. } | Problem::Trial { .. } | Problem::Oauth { .. } | Problem::OtherOauthServer(_) => {
                502
            }
            Problem::Busy | Problem::HostBusy(_) => 503,
        }
    }

    /// Seconds after which trying again makes sense.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Problem::Attempts { retry_after } => Some(*retry_after),
            Problem::Busy | Problem::HostBusy(_) => Some(BUSY),
            _ => None,
        }
    }

    /// Whether the one who installs can mend it by beginning again, now or later; other things are the server
    /// administrator's.
    pub fn can_begin_again(&self) -> bool {
        match self {
            Problem::UnknownPortal(_)
            | Problem::NoPortalNamed
            | Problem::NotInstalled
            | Problem::Refused
            | Problem::State
            | Problem::Denied { .. }
            | Problem::CodeSpent(_)
            | Problem::TokenRefused(_)
            | Problem::NotAdministrator
            | Problem::OtherPortal { .. }
            | Problem::Attempts { .. }
            | Problem::Busy
            | Problem::HostBusy(_)
            | Problem::Portal { .. }
            | Problem::Oauth { .. }
            | Problem::OtherOauthServer(_)
            | Problem::WithoutRest(_) => true,
            Problem::Webhook
            | Problem::NoAddress
            | Problem::PlainHttp
            | Problem::Mismatch { .. }
            | Problem::StillWorks
            | Problem::NotOurs
            | Problem::Receipt
            | Problem::Trial { .. }
            | Problem::Storage(_)
            | Problem::Configuration(_) => false,
        }
    }

    /// As Bitrix24's server hears it, in answer to an event. `text`: the page's words.
    pub fn to_error(&self, text: String) -> Error {
        match self {
            Problem::UnknownPortal(_) => Error::UnknownPortal,
            Problem::NotInstalled => Error::NotInstalled { install_url: None },
            Problem::Mismatch { .. } => Error::MemberMismatch(text),
            Problem::StillWorks => Error::StillInstalled,
            Problem::Attempts { retry_after } => Error::RateLimited { why: text, retry_after: *retry_after },
            Problem::Busy => Error::RefreshPending { retry_after: BUSY },
            Problem::HostBusy(why) => Error::HostBusy(why.clone()),
            Problem::Portal { why } | Problem::Trial { why } => {
                Error::Unreachable { why: why.clone(), executed: Executed::No }
            }
            Problem::Oauth { why } => Error::OauthServer { why: why.clone(), retry_after: None },
            Problem::OtherOauthServer(Doubted { portal, asked }) => {
                Error::OauthServer { why: asked.words(portal).unwrap_or(text), retry_after: None }
            }
            Problem::WithoutRest(upstream) => Error::Bitrix24(upstream.clone()),
            Problem::Storage(why) => Error::Storage(why.clone()),
            Problem::Configuration(why) => Error::Configuration(why.clone()),
            _ if self.status() == 403 => Error::Forbidden(text),
            _ => Error::InvalidRequest(text),
        }
    }

    /// What only the log may say.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Problem::Storage(why) | Problem::Configuration(why) => Some(why),
            _ => None,
        }
    }
}
