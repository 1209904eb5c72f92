//! Everything that can go wrong with a request, and the one table from it to status, code and text.
//!
//! `error_code` and the status are a promise to callers; the text tells a person what to do next.
//! Details that only the administrator may see go to the log through [`Error::detail`].

use super::moved;
use crate::system::refusal::told_in;
use serde::Serialize;

/// Seconds after which a host may grant again what it refused: as long as most requests take.
const HOST_BUSY: u64 = 5;

/// Whether the call may have been executed by Bitrix24.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Executed {
    No,
    Unknown,
}

/// Bitrix24's own error, as it was sent. `error` may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Upstream {
    pub status: u16,
    pub error: String,
    pub error_description: String,
    /// Of a [`Passing`] one: in how many seconds the call may be accepted.
    #[serde(skip)]
    pub retry_after: Option<u64>,
}

/// Refusals that say nothing of the call itself: it was not executed, and Bitrix24 may accept it later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// The portal's leaky bucket is full.
    OverLimit,
    /// The method has used up its `operating` time.
    OperatingTime,
    /// The portal is blocked by hand, until Bitrix24's support lifts it.
    Overload,
}

/// What arrived of a caller whom nothing makes a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    Nothing,
    /// A header that is neither Bearer nor Basic.
    Unreadable,
    /// A token that is no client's, or not that of the client named with it: which of the two is not said.
    Unknown,
}

impl Arrived {
    fn text(self) -> &'static str {
        match self {
            Arrived::Nothing => {
                "No token arrived: send \"Authorization: Bearer TOKEN\", or Basic with the client's name as user and the \
                 token as password. If it was sent, the web server keeps that header to itself: \"b24proxy check --url\" \
                 names the line that mends it, and X-B24proxy-Token passes without one."
            }
            Arrived::Unreadable => {
                "What arrived in Authorization is not a token: it must be \"Bearer TOKEN\", or Basic with the client's name \
                 as user and the token as password."
            }
            Arrived::Unknown => {
                "This token is not known: it must be a client's token of proxy.toml, and with Basic the user that \
                 client's name."
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// What is wrong, and where.
    InvalidRequest(String),
    Unauthorized(Arrived),
    Forbidden(String),
    UnknownPortal,
    NotFound,
    /// Nearly a webhook's address: the form that is right.
    NoWebhook {
        form: &'static str,
    },
    MethodNotSupported {
        allow: String,
    },
    NotInstalled {
        install_url: Option<String>,
    },
    ReinstallRequired {
        why: String,
        install_url: Option<String>,
    },
    MemberMismatch(String),
    /// A removal while the stored tokens work.
    StillInstalled,
    /// The call with this idempotency key may have been executed; `too_large`: it was, but its answer could not be kept.
    OutcomeUnknown {
        too_large: bool,
    },
    /// `setting`: the limit's name under `[limits]`.
    BodyTooLarge {
        limit: u64,
        setting: &'static str,
    },
    /// The address of a file that Bitrix24 answered does not lead to it any more: why.
    FileAddressExpired(String),
    /// `Content-Encoding` of a body that is passed on as it is.
    UnsupportedEncoding(String),
    IdempotencyKeyReused,
    /// Another request with this idempotency key is being executed.
    KeyInUse {
        retry_after: u64,
    },
    RateLimited {
        why: String,
        retry_after: u64,
    },
    /// This method has used up its `operating` time.
    MethodBlocked {
        retry_after: u64,
    },
    /// Bitrix24 has lately answered `OVERLOAD_LIMIT`.
    PortalBlocked {
        retry_after: u64,
    },
    /// The detail is for the log only.
    Configuration(String),
    /// A defect of this program; where, says the log.
    Defect {
        executed: Executed,
    },
    /// The detail is for the log only.
    Storage(String),
    Unreachable {
        why: String,
        executed: Executed,
    },
    BadAnswer {
        why: String,
        executed: Executed,
        upstream: Option<Upstream>,
    },
    OauthServer {
        why: String,
        retry_after: Option<u64>,
    },
    RefreshPending {
        retry_after: u64,
    },
    /// This host refused a process, a thread, a descriptor or memory, before anything was sent: which.
    HostBusy(String),
    Timeout {
        executed: Executed,
    },
    Bitrix24(Upstream),
}

impl Error {
    /// HTTP status and the stable `error_code`.
    pub fn status_and_code(&self) -> (u16, &'static str) {
        match self {
            Error::InvalidRequest(_) => (400, "invalid_request"),
            Error::Unauthorized(_) => (401, "unauthorized"),
            Error::Forbidden(_) => (403, "forbidden"),
            Error::UnknownPortal => (404, "unknown_portal"),
            Error::NotFound | Error::NoWebhook { .. } => (404, "not_found"),
            Error::MethodNotSupported { .. } => (405, "method_not_supported"),
            Error::NotInstalled { .. } => (409, "not_installed"),
            Error::ReinstallRequired { .. } => (409, "reinstall_required"),
            Error::MemberMismatch(_) => (409, "member_mismatch"),
            Error::StillInstalled => (409, "still_installed"),
            Error::OutcomeUnknown { .. } => (409, "outcome_unknown"),
            Error::IdempotencyKeyReused => (422, "idempotency_key_reused"),
            Error::KeyInUse { .. } => (503, "idempotency_key_in_use"),
            Error::FileAddressExpired(_) => (410, "file_address_expired"),
            Error::BodyTooLarge { .. } => (413, "body_too_large"),
            Error::UnsupportedEncoding(_) => (415, "unsupported_encoding"),
            Error::RateLimited { .. } | Error::MethodBlocked { .. } => (429, "rate_limited"),
            Error::PortalBlocked { .. } => (429, "rate_limited"),
            Error::Configuration(_) | Error::Defect { .. } => (500, "configuration_error"),
            Error::Storage(_) => (500, "storage_error"),
            Error::Unreachable { .. } => (502, "bitrix24_unreachable"),
            Error::BadAnswer { .. } => (502, "bitrix24_bad_answer"),
            Error::OauthServer { .. } => (502, "oauth_server_error"),
            Error::RefreshPending { .. } => (503, "refresh_pending"),
            Error::HostBusy(_) => (503, "host_busy"),
            Error::Timeout { .. } => (504, "bitrix24_timeout"),
            Error::Bitrix24(upstream) => (upstream.relayed_status(), "bitrix24_error"),
        }
    }

    /// The text for a person: what happened and what to do next.
    pub fn text(&self) -> String {
        match self {
            Error::InvalidRequest(why)
            | Error::Forbidden(why)
            | Error::MemberMismatch(why)
            | Error::RateLimited { why, .. } => why.clone(),
            Error::Unauthorized(arrived) => arrived.text().into(),
            Error::UnknownPortal => "This portal is not configured: check \"domain\", or add a \
                [portals.\"…\"] section for it to proxy.toml."
                .into(),
            Error::NotFound => "There is nothing at this address. Calls go to POST / with \
                {\"domain\",\"method\",\"params\"}."
                .into(),
            Error::NoWebhook { form } => format!(
                "There is nothing at this address. A webhook's ends in {form}: any number, the client's token and one \
                 method, each once."
            ),
            Error::MethodNotSupported { allow } => {
                format!("This address answers {allow} only. Calls are POST requests with a JSON body.")
            }
            Error::NotInstalled { install_url } => {
                format!("The application is not installed on this portal yet: {}", open_as_administrator(install_url))
            }
            Error::ReinstallRequired { why, install_url } => {
                format!("Bitrix24 no longer accepts the stored tokens ({why}): {}", open_as_administrator(install_url))
            }
            Error::OutcomeUnknown { too_large: false } => {
                "The call with this Idempotency-Key may have been executed, but its \
                answer was lost. It will not be executed again: look in Bitrix24, and use a new key for a new call."
                    .into()
            }
            Error::OutcomeUnknown { too_large: true } => {
                "The call with this Idempotency-Key was executed, but its answer was \
                too large to be kept. It will not be executed again."
                    .into()
            }
            Error::IdempotencyKeyReused => {
                "This Idempotency-Key belongs to another request: use a new key for each new \
                request, and the same one only to repeat the same request."
                    .into()
            }
            Error::KeyInUse { .. } => {
                "A request with this Idempotency-Key is being executed. This one was not: repeat it \
                after retry_after seconds to get the answer."
                    .into()
            }
            Error::FileAddressExpired(why) => {
                format!("This address of a file leads to it no more ({why}): ask Bitrix24 for the address again.")
            }
            Error::UnsupportedEncoding(encoding) => {
                format!("A body with Content-Encoding {encoding:?} is not read here: send it unpacked, without this header.")
            }
            Error::StillInstalled => "Bitrix24 still accepts the stored tokens, so nothing was removed.".into(),
            Error::BodyTooLarge { limit, setting } => format!(
                "The request body is larger than {limit} bytes: send less at once, or raise {setting} under \
                 [limits] in proxy.toml."
            ),
            Error::MethodBlocked { .. } => {
                "This method has used up its time at Bitrix24 (480 seconds in ten minutes). The call \
                was not sent: repeat it after retry_after seconds; other methods go on."
                    .into()
            }
            Error::PortalBlocked { .. } => {
                "Bitrix24 has blocked this portal for all calls (OVERLOAD_LIMIT), which only its support \
                lifts: write to it. The call was not sent; whether the block is lifted is tried after retry_after seconds."
                    .into()
            }
            Error::Configuration(_) => "b24proxy is not configured correctly: the web server's error log says \
                what to change."
                .into(),
            Error::Defect { executed: Executed::No } => "Internal error of b24proxy: the web server's error log says \
                where. The call was not executed."
                .into(),
            Error::Defect { executed: Executed::Unknown } => "Internal error of b24proxy: the web server's error log \
                says where. The call may have been executed: look in Bitrix24 before repeating it."
                .into(),
            Error::Storage(detail) => match moved::told_in(detail) {
                Some(said) => format!("{said}. The call was not executed."),
                None => "b24proxy cannot use its token storage: the web server's error log says what to mend.".into(),
            },
            Error::Unreachable { why, executed: Executed::No } => {
                format!("Bitrix24 could not be reached ({why}). The call was not executed and may be repeated.")
            }
            Error::Unreachable { why, executed: Executed::Unknown } => format!(
                "The connection to Bitrix24 was lost after the call was sent ({why}). It may have been executed: \
                 look before repeating it, or send an Idempotency-Key next time."
            ),
            Error::BadAnswer { why, executed: Executed::No, .. } => {
                format!("Bitrix24's answer cannot be used: {why}. The call was not executed.")
            }
            Error::BadAnswer { why, executed: Executed::Unknown, .. } => {
                format!("Bitrix24's answer cannot be used: {why}. The call may have been executed.")
            }
            Error::OauthServer { why, .. } => {
                format!("Bitrix24's OAuth server did not give a token: {why}. The call was not executed.")
            }
            // Also where it has ended: with new tokens for an upload, or without any.
            Error::RefreshPending { .. } => "The portal's access token has to be renewed first. The call was not executed: \
                repeat it after retry_after seconds."
                .into(),
            Error::HostBusy(why) => format!(
                "The host on which b24proxy runs refused what it needs: {why}. The call was not executed: repeat it after \
                 retry_after seconds; if it stays so, let the host's administrator mend that."
            ),
            Error::Timeout { executed: Executed::No } => "Bitrix24 did not accept a connection in time. The call \
                was not executed and may be repeated."
                .into(),
            Error::Timeout { executed: Executed::Unknown } => "Bitrix24 did not answer in time. The call may have \
                been executed: look before repeating it, or send an Idempotency-Key next time."
                .into(),
            Error::Bitrix24(upstream) => upstream.text(),
        }
    }

    /// What the host, or this program in its place, does not let a request have.
    pub fn host_busy(why: &str) -> Error {
        Error::HostBusy(why.to_owned())
    }

    /// Neither configuration nor storage is to be mended where the host refused to open a file of theirs.
    pub fn or_host_busy(self) -> Error {
        match self.detail().and_then(told_in) {
            Some(why) => Error::HostBusy(why.to_owned()),
            None => self,
        }
    }

    /// What only the log may say.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Error::Configuration(detail) | Error::Storage(detail) => Some(detail),
            _ => None,
        }
    }

    /// For whoever may read the log: the detail where there is one.
    pub fn for_administrator(&self) -> String {
        self.detail().map_or_else(|| self.text(), str::to_owned)
    }

    /// Seconds after which repeating makes sense.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Error::RateLimited { retry_after, .. }
            | Error::RefreshPending { retry_after }
            | Error::MethodBlocked { retry_after }
            | Error::PortalBlocked { retry_after }
            | Error::KeyInUse { retry_after } => Some(*retry_after),
            Error::OauthServer { retry_after, .. } => *retry_after,
            Error::HostBusy(_) => Some(HOST_BUSY),
            Error::Bitrix24(upstream) => upstream.retry_after,
            _ => None,
        }
    }

    pub fn executed(&self) -> Option<Executed> {
        match self {
            Error::Unreachable { executed, .. }
            | Error::BadAnswer { executed, .. }
            | Error::Timeout { executed }
            | Error::Defect { executed } => Some(*executed),
            Error::OutcomeUnknown { .. } => Some(Executed::Unknown),
            Error::Bitrix24(upstream) if !upstream.is_definite() => Some(Executed::Unknown),
            Error::Bitrix24(upstream) => upstream.passing().map(|_| Executed::No),
            Error::RefreshPending { .. }
            | Error::HostBusy(_)
            | Error::KeyInUse { .. }
            | Error::IdempotencyKeyReused
            | Error::OauthServer { .. }
            | Error::RateLimited { .. }
            | Error::MethodBlocked { .. }
            | Error::PortalBlocked { .. }
            | Error::NotInstalled { .. }
            | Error::ReinstallRequired { .. }
            | Error::Storage(_) => Some(Executed::No),
            _ => None,
        }
    }

    /// Only Bitrix24's support lifts it.
    pub fn is_overload(&self) -> bool {
        match self {
            Error::PortalBlocked { .. } => true,
            Error::Bitrix24(upstream) => upstream.passing() == Some(Passing::Overload),
            _ => false,
        }
    }

    pub fn install_url(&self) -> Option<&str> {
        match self {
            Error::NotInstalled { install_url } | Error::ReinstallRequired { install_url, .. } => {
                install_url.as_deref()
            }
            _ => None,
        }
    }

    pub fn upstream(&self) -> Option<&Upstream> {
        match self {
            Error::Bitrix24(upstream) => Some(upstream),
            Error::BadAnswer { upstream, .. } => upstream.as_ref(),
            _ => None,
        }
    }
}

/// For a sentence, and a line of the log; the whole text is in `bitrix24`.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 1000;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn open_as_administrator(install_url: &Option<String>) -> String {
    match install_url {
        Some(url) => format!("open {url} in a browser as an administrator of the portal."),
        None => "open this program's /install?portal=NAME in a browser as an administrator of the portal.".into(),
    }
}

impl Upstream {
    /// Which refusal it is that may pass. REST 3.0 has one code for its own.
    pub fn passing(&self) -> Option<Passing> {
        match self.error.as_str() {
            "QUERY_LIMIT_EXCEEDED" => Some(Passing::OverLimit),
            "OPERATION_TIME_LIMIT" | "BITRIX_REST_V3_EXCEPTION_RATELIMITEXCEPTION" => Some(Passing::OperatingTime),
            "OVERLOAD_LIMIT" => Some(Passing::Overload),
            _ => None,
        }
    }

    /// The portal's leaky bucket is full: the call was not executed and may be repeated in a moment.
    pub fn is_over_limit(&self) -> bool {
        self.passing() == Some(Passing::OverLimit)
    }

    /// The portal's plan or subscription does not include the REST API. The words differ: "REST is available only on
    /// commercial plans", "by subscription".
    pub fn is_without_rest(&self) -> bool {
        let description = self.error_description.to_ascii_lowercase();
        self.error.eq_ignore_ascii_case("ACCESS_DENIED") && description.contains("available only")
    }

    /// Whether it is certain that the call was not executed: Bitrix24 refused it. An error of its server, or of a gateway
    /// before it, may have come after the deal was made.
    pub fn is_definite(&self) -> bool {
        self.status < 500 || self.passing().is_some() || self.error == "PORTAL_DELETED"
    }

    /// An error that came with a status below 400 (old methods answer 200) is a 502.
    pub fn relayed_status(&self) -> u16 {
        if (400..600).contains(&self.status) {
            self.status
        } else {
            502
        }
    }

    fn text(&self) -> String {
        let advice = match self.error.to_ascii_uppercase().as_str() {
            "INSUFFICIENT_SCOPE" => " Give the application this right in Bitrix24 and install it again.",
            "ERROR_METHOD_NOT_FOUND" => " Check the method's name, and that the application has the right it needs.",
            _ if self.is_without_rest() => {
                " The portal's plan has no access to the REST API: buy or renew the plan or its subscription in Bitrix24; \
                 nothing is to be changed here."
            }
            "ACCESS_DENIED" | "USER_ACCESS_ERROR" => {
                " The administrator who installed the application may not do this, or the plan does not include it."
            }
            _ => match self.passing() {
                Some(Passing::OperatingTime) => " This method has used its time for now: repeat the call later.",
                Some(Passing::Overload) => " Only Bitrix24's support lifts this block of the portal: write to it.",
                Some(Passing::OverLimit) | None => "",
            },
        };
        let what = match (self.error.as_str(), self.error_description.as_str()) {
            ("", "") => format!("an error without a text, status {}", self.status),
            ("", description) => shortened(description),
            (error, "") => shortened(error),
            (error, description) => format!("{}: {}", shortened(error), shortened(description)),
        };
        format!("Bitrix24 answered {what}{}{advice}", if what.ends_with('.') { "" } else { "." })
    }
}

pub type Result<T> = std::result::Result<T, Error>;
