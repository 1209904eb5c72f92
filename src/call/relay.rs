//! One REST call to a portal: with its tokens, refreshed when needed, repeated only where it provably was not executed.

use crate::app::Job;
use crate::call::keys::Held;
use crate::call::limits::{Limits, Turn, OPERATING_LIMIT};
use crate::call::payload::{Parameters, Payload};
use crate::call::refresh::{self, Why};
use crate::config::{Config, Portal, Way};
use crate::store::{Installation, Tokens};
use crate::system::clock::{unix_now, Deadline};
use crate::upstream::http::{Client, Failure, Obstacle, Post, Reply};
use crate::values::error::{Error, Executed, Result, Upstream};
use crate::values::method::Method;
use crate::values::portal::{Endpoint, Refused, Version, Webhook};
use crate::values::secret::Secret;
use crate::values::verdict::{judge, Operating, Verdict};
use std::time::Duration;

/// Pause before the one other try after a refused connection.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);

/// What calls of one request have in common.
pub struct Session<'a> {
    pub job: Job<'a>,
    /// How long a call may wait for the rate limit or a refresh. `None`: a call of this program's own, which counts in
    /// the limit but is never refused.
    pub max_wait: Option<Duration>,
    /// Most bytes of an answer.
    pub max_response: u64,
    /// How long calls waited for the limit.
    pub waited: Duration,
    /// What was done again, for the log.
    pub repeated: Vec<&'static str>,
}

pub struct Call<'a> {
    pub version: Version,
    pub method: &'a Method,
    /// Of characters that may stand in an address; empty for none.
    pub query: &'a str,
    pub payload: Payload<'a>,
    pub headers: Vec<(&'static str, &'a str)>,
}

impl<'a> Session<'a> {
    pub fn new(job: Job<'a>, max_wait: Option<Duration>) -> Session<'a> {
        let max_response = job.app.config.limits.max_response;
        Session { job, max_wait, max_response, waited: Duration::ZERO, repeated: Vec::new() }
    }

    /// The portal's tokens and address, refreshed if their lifetime is over.
    fn authorization(&mut self, portal: &Portal, until: Deadline) -> Result<Authorization> {
        if let Way::Webhook(webhook) = &portal.way {
            return Ok(Authorization::Webhook(webhook.clone()));
        }
        let tokens = match self.job.app.store.read(&portal.name).map_err(Error::Storage)? {
            Installation::Installed(tokens) => *tokens,
            Installation::NotInstalled => {
                return Err(Error::NotInstalled { install_url: self.job.app.config.install_url(&portal.name) })
            }
            Installation::Broken(why) => return Err(Error::Storage(why)),
        };
        if refresh::is_due(&tokens, unix_now()) {
            // Tokens of an address that may not be used are not worth a refresh.
            self.check_address(portal, &tokens)?;
            return self.refresh(portal, &tokens, Why::Due, until);
        }
        self.with_tokens(portal, tokens)
    }

    fn refresh(&mut self, portal: &Portal, stale: &Tokens, why: Why, until: Deadline) -> Result<Authorization> {
        self.repeated.push(match why {
            Why::Due => "refresh",
            Why::Expired => "expired_token",
            Why::Moved => "moved",
        });
        let tokens = refresh::refreshed(self.job, portal, stale, why, until)?;
        self.with_tokens(portal, tokens)
    }

    fn with_tokens(&self, portal: &Portal, tokens: Tokens) -> Result<Authorization> {
        let endpoint = self.check_address(portal, &tokens)?;
        Ok(Authorization::OAuth { endpoint, tokens: Box::new(tokens) })
    }

    fn check_address(&self, portal: &Portal, tokens: &Tokens) -> Result<Endpoint> {
        stored_address(&self.job.app.config, portal, tokens).map_err(Error::Storage)
    }

    /// Executes a call. `Ok` is Bitrix24's answer with what it means: success, or its own error. `held`: the call's
    /// idempotency key, written down before anything is sent.
    pub fn call(
        &mut self,
        portal: &Portal,
        call: &Call,
        mut held: Option<&mut Held>,
    ) -> Result<(Reply, Option<Upstream>)> {
        let http = self.job.app.http.portals().map_err(|failure| self.failure(failure))?;
        let wait_until = self.wait_until();
        let mut authorization = self.authorization(portal, wait_until)?;
        let method = call.method.canonical();
        let (mut reconnected, mut renewed, mut moved, mut over_limit) = (false, false, false, false);
        loop {
            self.await_turn(portal, &method, wait_until, std::mem::take(&mut over_limit))?;
            if let Some(held) = held.as_deref_mut() {
                held.begin()?;
            }
            let reply = match self.send(http, &authorization, call) {
                Ok(reply) => reply,
                Err(Failure::NotSent { obstacle: Obstacle::Refused, .. }) if !reconnected => {
                    reconnected = true;
                    self.repeated.push("connection_refused");
                    std::thread::sleep(RECONNECT_PAUSE.min(self.job.end.remaining()));
                    continue;
                }
                Err(failure) => return Err(self.failure(failure)),
            };
            let (verdict, operating) = judge(reply.status, &reply.body);
            self.note_operating(portal, &method, &verdict, operating);
            let upstream = match verdict {
                Verdict::Success => return Ok((reply, None)),
                Verdict::Error(upstream) => upstream,
                Verdict::Unusable(why) => {
                    return Err(Error::BadAnswer {
                        why,
                        executed: Executed::Unknown,
                        upstream: Some(Upstream { status: reply.status, ..Upstream::default() }),
                    })
                }
                Verdict::Moved => {
                    let Some(tokens) = authorization.tokens().filter(|_| !moved) else {
                        return Err(moved_without_address(reply.status));
                    };
                    moved = true;
                    let before = tokens.client_endpoint.clone();
                    authorization = self.refresh(portal, &tokens.clone(), Why::Moved, wait_until)?;
                    if authorization.tokens().is_some_and(|now| now.client_endpoint == before) {
                        return Err(moved_without_address(reply.status));
                    }
                    continue;
                }
            };
            match (upstream.error.as_str(), authorization.tokens()) {
                ("expired_token", Some(tokens)) if !renewed => {
                    renewed = true;
                    authorization = self.refresh(portal, &tokens.clone(), Why::Expired, wait_until)?;
                }
                _ if upstream.is_over_limit() => {
                    over_limit = true;
                    self.repeated.push("QUERY_LIMIT_EXCEEDED");
                }
                _ => return Ok((reply, Some(upstream))),
            }
        }
    }

    /// Calls `profile`, which needs no right: whose the stored tokens are, if they work.
    pub fn profile(&mut self, portal: &Portal) -> Result<(Reply, Option<Upstream>)> {
        let method = Method::parse("profile").expect("a method name");
        let payload = Payload::Json(Parameters::from_members(&[]));
        let call = Call { version: Version::V2, method: &method, query: "", payload, headers: Vec::new() };
        self.call(portal, &call, None)
    }

    /// Until when this call may wait, for the limit and for refreshes together.
    fn wait_until(&self) -> Deadline {
        self.max_wait.map_or(self.job.end, |max_wait| self.job.end.at_most(max_wait))
    }

    /// Waits for this call's turn under Bitrix24's limit. `over_limit`: Bitrix24 has just refused it there.
    fn await_turn(&mut self, portal: &Portal, method: &str, until: Deadline, over_limit: bool) -> Result<()> {
        let limits = Limits::new(&self.job.app.store, portal);
        if self.max_wait.is_none() {
            match over_limit {
                true => std::thread::sleep(limits.gap().min(until.remaining())),
                false => limits.count(),
            }
            return Ok(());
        }
        match limits.turn(method, until.remaining(), over_limit) {
            Turn::In(wait) => {
                if !wait.is_zero() {
                    std::thread::sleep(wait);
                    self.waited += wait;
                }
                Ok(())
            }
            Turn::TooLate { retry_after } => Err(Error::RateLimited {
                why: "This portal's limit of requests is used up, and the wait would be too long. The call was not executed: \
                      repeat it after retry_after seconds."
                    .into(),
                retry_after,
            }),
            Turn::Blocked { retry_after } => Err(Error::MethodBlocked { retry_after }),
        }
    }

    /// Remembers a method that has used up its time, so that its next calls are answered at once.
    fn note_operating(&self, portal: &Portal, method: &str, verdict: &Verdict, operating: Option<Operating>) {
        let used_up = match verdict {
            Verdict::Error(upstream) => upstream.error == "OPERATION_TIME_LIMIT",
            Verdict::Success => operating.is_some_and(|time| time.operating >= OPERATING_LIMIT),
            Verdict::Moved | Verdict::Unusable(_) => false,
        };
        if used_up {
            Limits::new(&self.job.app.store, portal).block(method, operating.map(|time| time.operating_reset_at));
        }
    }

    fn send(&self, http: &Client, authorization: &Authorization, call: &Call) -> std::result::Result<Reply, Failure> {
        let token = authorization.tokens().map(|tokens| tokens.access_token.expose());
        let (content_type, parts) = call.payload.with_auth(token);
        let mut url = authorization.url(call.version, call.method.as_str());
        if !call.query.is_empty() {
            url = format!("{url}?{}", call.query);
        }
        http.post(&Post {
            url: &url,
            content_type: &content_type,
            headers: &call.headers,
            parts: &parts.each_ref().map(|part| part.as_ref()),
            deadline: self.job.end,
            max_response: self.max_response,
        })
    }

    fn failure(&self, failure: Failure) -> Error {
        match failure {
            Failure::NotSent { why, .. } => Error::Unreachable { why, executed: Executed::No },
            Failure::Timeout(executed) => Error::Timeout { executed },
            Failure::Lost { why } => Error::Unreachable { why, executed: Executed::Unknown },
            Failure::TooLarge => Error::BadAnswer {
                why: format!(
                    "it is larger than max_response ({} bytes); ask for less, or raise max_response under [limits] in \
                     proxy.toml",
                    self.max_response
                ),
                executed: Executed::Unknown,
                upstream: None,
            },
            Failure::Configuration(why) => Error::Configuration(why),
        }
    }
}

/// Calls a method without parameters, with a token that is not stored: the answer to the one attempt, whatever it is.
pub fn call_with(
    http: &Client,
    endpoint: &Endpoint,
    access_token: &Secret,
    method: &str,
    deadline: Deadline,
) -> std::result::Result<Reply, Failure> {
    let body = serde_json::json!({ "auth": access_token.expose() }).to_string();
    http.post(&Post {
        url: &endpoint.url(Version::V2, method),
        content_type: "application/json",
        headers: &[],
        parts: &[body.as_bytes()],
        deadline,
        max_response: 1 << 20,
    })
}

/// The stored address: the configured portal's, or one that the OAuth server gave when the portal was renamed.
pub fn stored_address(config: &Config, portal: &Portal, tokens: &Tokens) -> std::result::Result<Endpoint, String> {
    let allow_http = config.bitrix24.allow_http;
    let endpoint = if tokens.renamed_from == portal.name.as_str() {
        Endpoint::renamed(&tokens.client_endpoint, allow_http)
    } else {
        portal.endpoint(&tokens.client_endpoint, allow_http)
    };
    endpoint.map_err(|refused| {
        let why = match refused {
            Refused::Malformed => "is not an address such as https://acme.bitrix24.ru/rest/".to_owned(),
            Refused::OtherPortal(name) => format!("is the address of {name}, which is not this portal"),
            Refused::PlainHttp => "is plain http, which needs allow_http = true under [bitrix24]".to_owned(),
        };
        format!(
            "client_endpoint in the token file of {} {why}: move the file away and install the application again",
            portal.name
        )
    })
}

fn moved_without_address(status: u16) -> Error {
    Error::BadAnswer {
        why: format!(
            "the portal answers with a redirect (status {status}), and the OAuth server knows no other address of it; check \
             the portal's name in proxy.toml"
        ),
        executed: Executed::No,
        upstream: None,
    }
}

/// What a call is sent with.
enum Authorization {
    Webhook(Webhook),
    OAuth { endpoint: Endpoint, tokens: Box<Tokens> },
}

impl Authorization {
    /// For a webhook it contains the secret code.
    fn url(&self, version: Version, method: &str) -> String {
        match self {
            Authorization::Webhook(webhook) => webhook.url(version, method),
            Authorization::OAuth { endpoint, .. } => endpoint.url(version, method),
        }
    }

    fn tokens(&self) -> Option<&Tokens> {
        match self {
            Authorization::Webhook(_) => None,
            Authorization::OAuth { tokens, .. } => Some(tokens),
        }
    }
}
