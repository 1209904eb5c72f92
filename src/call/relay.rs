//! One REST call to a portal: with its tokens, refreshed when needed, repeated only where it provably was not executed.

use super::idempotency::{self, Held, Key};
use super::limits::{Pace, OPERATING_LIMIT};
use super::outcome::{Called, Counted, Failed, Trip};
use super::payload::{Parameters, Payload};
use super::refresh::once::{self, Why};
use super::refusal::{self, EXPIRED, INVALID, NO_AUTH};
use super::secrets;
use crate::app::Job;
use crate::config::{Config, Portal, Way};
use crate::store::records::{Installation, Tokens};
use crate::system::clock::Deadline;
use crate::system::wait;
use crate::upstream::http::{Connections, Failure, Obstacle, Post, Reply};
use crate::values::bucket::{Told, Turn, PAUSE};
use crate::values::error::{Error, Executed, Passing, Result, Upstream};
use crate::values::foreign::Foreign;
use crate::values::mask::Mask;
use crate::values::method::Method;
use crate::values::portal::{Endpoint, IncomingWebhook, Version};
use crate::values::secret::Secret;
use crate::values::tally::Calls;
use crate::values::verdict::{judge, judge_either, Operating, Verdict};
use std::time::Duration;

/// Pause before the one other try after a refused connection.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);
/// Seconds to wait where a gateway that limits requests says nothing of them.
const GATEWAYS_PAUSE: u64 = 60;
/// Most bytes of what is answered of a user.
const MAX_PROFILE: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub struct Call<'a> {
    pub version: Version,
    pub method: &'a Method,
    /// Of characters that may stand in an address; empty for none.
    pub query: &'a str,
    pub payload: Payload<'a>,
    pub headers: Vec<(&'static str, &'a str)>,
    /// Most bytes of an answer.
    pub max_response: u64,
    /// As how many calls it counts: a batch of this program's own packs many.
    pub counts: usize,
}

/// How long a call may wait, for its key, for its turn under the limit and for another's refresh together.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    Until(Deadline),
    /// A call of this program's own: it counts in the limit but is never refused there, and waits as long as its job may take.
    Own,
}

/// Executes a call, once for its key.
pub fn call(job: Job, portal: &Portal, call: &Call, patience: Patience, key: Option<&Key>) -> Called {
    let mut relay = Relay::new(job, portal, patience, call.counts);
    // What is kept for a key and answered again is no call.
    let result = idempotency::once(job, portal, key, relay.until(), |held| {
        let result = relay.call(call, held);
        relay.end(&call.method.canonical(), &result);
        result
    });
    Called { result, trip: relay.trip }
}

/// Calls `profile`, which needs no right, as this program's own: whose the stored tokens are, if they work.
pub fn profile(job: Job, portal: &Portal) -> std::result::Result<Reply, Failed> {
    let method = Method::parse("profile").expect("a method name");
    call(job, portal, &profile_call(&method), Patience::Own, None).result
}

/// The same, where a refusal of the stored tokens is an answer: a stranger who asks causes no refresh by it.
pub fn profile_as_stored(job: Job, portal: &Portal) -> std::result::Result<Reply, Failed> {
    let method = Method::parse("profile").expect("a method name");
    let mut relay = Relay { renews_refused: false, ..Relay::new(job, portal, Patience::Own, 1) };
    relay.call(&profile_call(&method), None)
}

fn profile_call(method: &Method) -> Call<'_> {
    Call {
        version: Version::V2,
        method,
        query: "",
        payload: Payload::Json(Parameters::of_inside(String::new())),
        headers: Vec::new(),
        max_response: MAX_PROFILE,
        counts: 1,
    }
}

/// How often tokens that Bitrix24 refused were replaced on the way of one request.
#[derive(Default)]
pub(super) struct Renewals(pub u8);

impl Renewals {
    /// Those that came were refused too. The first may have been another's, or an interrupted writer's, and old.
    pub fn are_over(&self, tokens: &Tokens, now: i64) -> bool {
        self.0 > 1 || (self.0 > 0 && once::is_quiet(tokens, now))
    }
}

/// A call or a file on its way.
pub(super) struct Relay<'a> {
    pub job: Job<'a>,
    portal: &'a Portal,
    patience: Patience,
    /// What no answer may show.
    pub hide: Mask,
    /// Whether tokens that Bitrix24 does not know are renewed, as expired ones are.
    renews_refused: bool,
    /// A kept connection was lost: what is sent from here on has a new one.
    lost: bool,
    trip: Trip,
    counted: Counted<'a>,
}

impl<'a> Relay<'a> {
    /// `counts`: as how many calls it counts.
    pub fn new(job: Job<'a>, portal: &'a Portal, patience: Patience, counts: usize) -> Relay<'a> {
        let hide = secrets::configured(&job.app.config, portal);
        let calls = Calls { client: job.client, count: u32::try_from(counts).unwrap_or(u32::MAX) };
        let are_own = matches!(patience, Patience::Own);
        let counted = Counted { calls, place: None, did_not_work: false, are_own };
        Relay { job, portal, patience, hide, renews_refused: true, lost: false, trip: Trip::default(), counted }
    }

    /// It has ended.
    pub fn end<T>(&self, method: &str, result: &std::result::Result<T, Failed>) {
        self.counted.end(&Pace::of(self.job.app, self.portal), method, result);
    }

    fn until(&self) -> Deadline {
        match self.patience {
            Patience::Until(deadline) => deadline,
            Patience::Own => self.job.end,
        }
    }

    /// `held`: the call's idempotency key, written down before anything is sent.
    fn call(&mut self, call: &Call, mut held: Option<&mut Held>) -> std::result::Result<Reply, Failed> {
        let http = self.job.app.http.portals().map_err(|failure| error_of(failure, call.max_response))?;
        let mut authorization = self.authorization()?;
        let method = call.method.canonical();
        let (mut reconnected, mut moved, mut over_limit) = (false, false, false);
        let mut renewals = Renewals::default();
        // Whether the header did not arrive at this call, and whether it is to be tried again although that is known.
        let (mut swallowed, mut by_header) = (false, false);
        loop {
            let known = self.await_turn(&method, std::mem::take(&mut over_limit))?;
            let in_body = (swallowed || (known && !by_header)) && call.payload.has_place_for_auth();
            if let Some(held) = held.as_deref_mut() {
                held.begin()?;
            }
            let reply = match self.send(http, &authorization, call, in_body) {
                Ok(reply) => reply,
                Err(Failure::NotSent { obstacle: Obstacle::Refused, .. }) if !reconnected => {
                    reconnected = true;
                    self.trip.repeated.push("connection_refused");
                    std::thread::sleep(RECONNECT_PAUSE.min(self.job.end.remaining()));
                    continue;
                }
                Err(Failure::Lost { stale: true, .. }) if call.method.only_reads() && !self.lost => {
                    self.lost = true;
                    self.trip.repeated.push("connection_closed");
                    continue;
                }
                Err(failure) => return Err(error_of(failure, call.max_response).into()),
            };
            let (verdict, operating) = judge_either(&reply.answered(), call.method.wants_xml());
            self.note_operating(call, &verdict, operating);
            if in_body && swallowed && !is_unauthorized(&verdict) {
                self.note_swallowed();
            }
            let upstream = match verdict {
                Verdict::Success => return Ok(reply),
                Verdict::Error(mut upstream) => {
                    upstream.retry_after = self.note_refusal(call, &upstream, operating, reply.retry_after());
                    upstream
                }
                Verdict::Foreign(foreign) => {
                    return Err(self.foreign(authorization.host(), foreign, reply.retry_after()).into())
                }
                Verdict::Moved => {
                    authorization = self.moved(&authorization, &reply, std::mem::replace(&mut moved, true))?;
                    continue;
                }
            };
            let refused = match call.version == Version::V3 && refusal::is_unclear(&upstream) {
                true => self.refused_profile(http, &authorization, in_body),
                false => refusal::of_credentials(&upstream, authorization.tokens().is_none()),
            };
            match (refused, authorization.tokens()) {
                (Some(NO_AUTH), Some(_)) if !in_body && !call.payload.has_place_for_auth() => {
                    return Err(refusal::without_header().into());
                }
                (Some(NO_AUTH), Some(_)) if !in_body => {
                    swallowed = true;
                    self.trip.repeated.push(NO_AUTH);
                }
                (Some(code), Some(tokens)) if renewals.are_over(tokens, self.job.app.store.now()) => {
                    return Err(self.refused_again(code).into())
                }
                (Some(code), Some(tokens)) if self.renews_refused || code == EXPIRED => {
                    renewals.0 += 1;
                    if code != EXPIRED {
                        (swallowed, by_header) = (false, true);
                    }
                    authorization = self.renewed(&tokens.clone(), code)?;
                }
                (Some(_), None) => return Err(refusal::webhook_refused(authorization.host(), upstream).into()),
                _ if upstream.is_over_limit() => {
                    over_limit = true;
                    self.trip.repeated.push("QUERY_LIMIT_EXCEEDED");
                }
                _ => return Err(Failed::Refused { upstream, reply: Box::new(reply) }),
            }
        }
    }

    /// New tokens in the place of those that Bitrix24 has refused with this code.
    pub fn renewed(&mut self, refused: &Tokens, code: &'static str) -> Result<Authorization> {
        self.refresh(refused, if code == EXPIRED { Why::Expired } else { Why::Refused { code } })
    }

    /// Bitrix24 has refused them too.
    pub fn refused_again(&self, code: &str) -> Error {
        once::refused_again(self.job, self.portal, code)
    }

    /// Asks whether `profile`, which needs no right, is refused with this authorization too: REST 3.0 answers with one and the
    /// same error that the token is not accepted and that the user may not call the method.
    fn refused_profile(
        &self,
        http: &Connections,
        authorization: &Authorization,
        in_body: bool,
    ) -> Option<&'static str> {
        Pace::of(self.job.app, self.portal).count();
        let method = Method::parse("profile").expect("a method name");
        let reply = self.send(http, authorization, &profile_call(&method), in_body).ok()?;
        match judge(&reply.answered()).0 {
            Verdict::Error(upstream) => refusal::of_credentials(&upstream, authorization.tokens().is_none())
                .or((upstream.status == 401).then_some(INVALID)),
            _ => None,
        }
    }

    /// The portal's new address, once, where the OAuth server knows one.
    fn moved(&mut self, authorization: &Authorization, reply: &Reply, again: bool) -> Result<Authorization> {
        let Authorization::OAuth { tokens, .. } = authorization else {
            let why = "the portal may have another address now; if so, write its webhook anew into proxy.toml";
            return Err(moved_without_address(authorization.host(), reply.status, why));
        };
        let nowhere = || {
            let why = "the OAuth server knows no other address of it; check the portal's name in proxy.toml";
            moved_without_address(authorization.host(), reply.status, why)
        };
        if again {
            return Err(nowhere());
        }
        let now = self.refresh(tokens, Why::Moved)?;
        match now.tokens().is_some_and(|now| now.client_endpoint != tokens.client_endpoint) {
            true => Ok(now),
            false => Err(nowhere()),
        }
    }

    /// What somebody else than Bitrix24 answered, in this portal's place.
    pub fn foreign(&self, host: &str, foreign: Foreign, retry_after: Option<u64>) -> Error {
        let Foreign { status, executed, .. } = foreign;
        let told = self.hide.text(&format!("{host} answered with {}", foreign.what)).into_owned();
        match foreign.is_over_limit() {
            true => Error::RateLimited {
                why: format!(
                    "{told}: something before Bitrix24 limits the requests. The call was not executed: repeat it after \
                     retry_after seconds."
                ),
                retry_after: retry_after.unwrap_or(GATEWAYS_PAUSE),
            },
            false => Error::BadAnswer {
                why: format!("{told}{}", foreign.advice()),
                executed,
                upstream: Some(Upstream { status, ..Upstream::default() }),
            },
        }
    }

    /// The portal's tokens and address, refreshed if their lifetime is over.
    pub fn authorization(&mut self) -> Result<Authorization> {
        let (app, portal) = (self.job.app, self.portal);
        if let Way::Webhook(webhook) = &portal.way {
            return Ok(Authorization::Webhook(webhook.clone()));
        }
        let tokens = match app.store.read(&portal.name).map_err(Error::Storage)? {
            Installation::Installed(tokens) => *tokens,
            Installation::NotInstalled => {
                return Err(Error::NotInstalled { install_url: app.config.install_url(&portal.name) })
            }
            Installation::Broken(why) => return Err(Error::Storage(why)),
        };
        if once::is_due(&tokens, app.store.now()) {
            // Tokens of an address that may not be used are not worth a refresh.
            self.check_address(&tokens)?;
            return self.refresh(&tokens, Why::Due);
        }
        self.with_tokens(tokens)
    }

    pub fn refresh(&mut self, stale: &Tokens, why: Why) -> Result<Authorization> {
        self.trip.repeated.push(match why {
            Why::Due => "refresh",
            Why::Expired => EXPIRED,
            Why::Refused { code } => code,
            Why::Moved => "moved",
            Why::Ordered => "ordered",
        });
        let tokens = once::refreshed(self.job, self.portal, stale, why, self.until())?;
        self.with_tokens(tokens)
    }

    fn with_tokens(&mut self, tokens: Tokens) -> Result<Authorization> {
        secrets::add(&mut self.hide, &tokens);
        let endpoint = self.check_address(&tokens)?;
        Ok(Authorization::OAuth { endpoint, tokens: Box::new(tokens) })
    }

    fn check_address(&self, tokens: &Tokens) -> Result<Endpoint> {
        stored_address(&self.job.app.config, self.portal, tokens).map_err(Error::Storage)
    }

    /// Waits for this call's turn under Bitrix24's limit. `over_limit`: Bitrix24 has just refused it there. The answer is
    /// whether the portal is known to swallow the header.
    pub fn await_turn(&mut self, method: &str, over_limit: bool) -> Result<bool> {
        let (pace, until) = (Pace::of(self.job.app, self.portal), self.until());
        if matches!(self.patience, Patience::Own) {
            return Ok(match over_limit {
                // It took no place and counts no more.
                true => {
                    wait::pause(pace.gap().min(until.remaining())).map_err(Error::host_busy)?;
                    false
                }
                false => {
                    let told = pace.count();
                    self.counted.did_not_work |= told.fails;
                    self.job.app.store.rest();
                    told.swallows_header
                }
            });
        }
        // The same call counts once, however often it is sent.
        let calls = Some(self.counted.calls).filter(|_| self.counted.place.is_none());
        // A place that is not waited for would be lost to the others.
        let told = match wait::is_free() {
            true => pace.turn(method, until.remaining(), over_limit, calls),
            false => match pace.turn(method, Duration::ZERO, over_limit, calls) {
                Told { turn: Turn::TooLate { .. }, .. } => {
                    wait::stand_aside().map_err(Error::host_busy)?;
                    pace.turn(method, until.remaining(), over_limit, calls)
                }
                told => told,
            },
        };
        // Its turn and Bitrix24's answer may take long, and the way to what is kept may be narrow.
        self.job.app.store.rest();
        match told.turn {
            Turn::In(wait) => {
                self.counted.place.get_or_insert(told.at);
                self.counted.did_not_work |= told.fails;
                if !wait.is_zero() {
                    wait::pause(wait).map_err(Error::host_busy)?;
                    self.trip.waited += wait;
                }
                Ok(told.swallows_header)
            }
            Turn::TooLate { retry_after } => Err(Error::RateLimited {
                why: "This portal's limit of requests is used up, and the wait would be too long. The call was not executed: \
                      repeat it after retry_after seconds."
                    .into(),
                retry_after,
            }),
            Turn::Blocked { retry_after } => Err(Error::MethodBlocked { retry_after }),
            Turn::Overloaded { retry_after } => Err(Error::PortalBlocked { retry_after }),
        }
    }

    /// Remembers a method that has used up its time, so that its next calls are answered at once. What a batch has used
    /// is no method's.
    fn note_operating(&self, call: &Call, verdict: &Verdict, operating: Option<Operating>) {
        if *verdict == Verdict::Success && !call.method.is_batch() {
            let used_up = operating.filter(|time| time.operating >= OPERATING_LIMIT);
            if let Some(time) = used_up.filter(|time| time.operating_reset_at > self.job.app.store.now()) {
                Pace::of(self.job.app, self.portal).block(&call.method.canonical(), Some(time.operating_reset_at));
            }
        }
    }

    /// Remembers a refusal that may pass, for all processes. In how many seconds the call may be accepted.
    fn note_refusal(
        &self,
        call: &Call,
        upstream: &Upstream,
        operating: Option<Operating>,
        header: Option<u64>,
    ) -> Option<u64> {
        let pace = Pace::of(self.job.app, self.portal);
        match upstream.passing()? {
            // It is tried again in a moment.
            Passing::OverLimit => None,
            Passing::Overload => Some(pace.overload()),
            // A batch of REST 3.0 is refused for one of its commands, and does not say which.
            Passing::OperatingTime if call.version == Version::V3 && call.method.is_batch() => {
                Some(header.unwrap_or(PAUSE))
            }
            Passing::OperatingTime => {
                let header = header.and_then(|seconds| self.job.app.store.now().checked_add_unsigned(seconds));
                let until = operating.map(|time| time.operating_reset_at).or(header);
                Some(pace.block(&call.method.canonical(), until))
            }
        }
    }

    /// Remembered by all processes, so that the header is tried but once a day.
    fn note_swallowed(&self) {
        if Pace::of(self.job.app, self.portal).swallows_header() {
            return;
        }
        self.job.log.warn(&format!(
            "the web server of {} keeps the Authorization header to itself: for a day the token goes in the body, so addresses \
             of files will hold it (masked for clients) and expire with it",
            self.portal.name
        ));
    }

    fn send(
        &self,
        http: &Connections,
        authorization: &Authorization,
        call: &Call,
        in_body: bool,
    ) -> std::result::Result<Reply, Failure> {
        let token = authorization.tokens().map(|tokens| tokens.access_token.expose());
        let (content_type, parts) = call.payload.with_auth(token.filter(|_| in_body));
        let bearer = token.filter(|_| !in_body).map(bearer);
        let mut headers = call.headers.clone();
        headers.extend(bearer.as_deref().map(|value| ("Authorization", value)));
        let mut url = authorization.url(call.version, call.method.as_str());
        if !call.query.is_empty() {
            url = format!("{url}?{}", call.query);
        }
        let post = Post {
            url: &url,
            content_type: &content_type,
            headers: &headers,
            parts: &parts,
            deadline: self.job.end,
            max_response: call.max_response,
            hide: &self.hide,
        };
        match !self.lost && self.job.app.config.fastcgi.reuse.covers(call.method) {
            true => http.post_kept(&post),
            false => http.post(&post),
        }
    }
}

pub(super) fn error_of(failure: Failure, max_response: u64) -> Error {
    match failure {
        Failure::NotSent { why, obstacle: Obstacle::HostBusy } => Error::HostBusy(why),
        Failure::NotSent { why, obstacle } => {
            Error::Unreachable { why: obstacle.advised(&why), executed: Executed::No }
        }
        Failure::Timeout(executed) => Error::Timeout { executed },
        Failure::Lost { why, .. } => Error::Unreachable { why, executed: Executed::Unknown },
        Failure::TooLarge => Error::BadAnswer {
            why: format!(
                "it is larger than max_response ({max_response} bytes); ask for less, or raise max_response under [limits] \
                 in proxy.toml"
            ),
            executed: Executed::Unknown,
            upstream: None,
        },
        Failure::Configuration(why) => Error::Configuration(why),
    }
}

/// `Authorization: Bearer TOKEN` (RFC 6750), which Bitrix24 reads before the parameters: the token then stands in no address
/// of a file that it answers.
pub(super) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn is_unauthorized(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Error(upstream) if upstream.error == NO_AUTH)
}

/// Calls a method without parameters, with a token that is not stored: the answer to the one attempt, whatever it is. Where
/// the header does not arrive, there is another one with the token in the body.
pub fn call_with(
    http: &Connections,
    endpoint: &Endpoint,
    access_token: &Secret,
    method: &str,
    deadline: Deadline,
    mut hide: Mask,
) -> std::result::Result<Reply, Failure> {
    hide.add(access_token);
    let post = |headers: &[(&'static str, &str)], body: &str| {
        http.post(&Post {
            url: &endpoint.url(Version::V2, method),
            content_type: "application/json",
            headers,
            parts: &[body.as_bytes().into()],
            deadline,
            max_response: MAX_PROFILE,
            hide: &hide,
        })
    };
    let reply = post(&[("Authorization", &bearer(access_token.expose()))], "{}")?;
    match is_unauthorized(&judge(&reply.answered()).0) {
        true => post(&[], &serde_json::json!({ "auth": access_token.expose() }).to_string()),
        false => Ok(reply),
    }
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
        format!(
            "client_endpoint in the token file of {} {refused}: move the file away and install the application again",
            portal.name
        )
    })
}

fn moved_without_address(host: &str, status: u16, why: &str) -> Error {
    Error::BadAnswer {
        why: format!("{host} answered with a redirect (status {status}): {why}"),
        executed: Executed::No,
        upstream: None,
    }
}

/// What a call is sent with.
pub(super) enum Authorization {
    Webhook(IncomingWebhook),
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

    /// Who answers.
    pub fn host(&self) -> &str {
        match self {
            Authorization::Webhook(webhook) => webhook.name().as_str(),
            Authorization::OAuth { endpoint, .. } => endpoint.name().as_str(),
        }
    }

    pub fn tokens(&self) -> Option<&Tokens> {
        match self {
            Authorization::Webhook(_) => None,
            Authorization::OAuth { tokens, .. } => Some(tokens),
        }
    }
}
