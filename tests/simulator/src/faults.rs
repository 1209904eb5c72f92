//! What goes wrong on purpose: rules that say at which request, how often, and what.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::http::{Delivery, Reply, Wait};
use crate::ledger::Direction;
use crate::php::{Array, Php};
use crate::server::lock;

/// Where a fault strikes.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// `/oauth/token/` of the OAuth server.
    Token,
    /// `/oauth/authorize/` of a portal.
    Authorize,
    /// Any REST call (a batch is one, a file's transfer too).
    Call,
    /// Calls of one method, REST 2 or 3.0, lower-case.
    Method(String),
    /// Calls that answer a file.
    Download,
    /// Calls that take one.
    Upload,
    /// A connection to the OAuth server, before TLS.
    OauthConnection,
    /// A connection to a portal, before TLS.
    Connection,
}

/// What happens. "Executed" means: the token is spent, the deal is made.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Waits, then goes on (with the next fault that matches, or normally).
    Delay(Duration),
    /// Executes, waits, answers.
    DelayAnswer(Duration),
    /// Answers this without executing.
    Status { status: u16, content_type: String, body: String },
    /// Executes, then answers this.
    ExecuteThenStatus { status: u16, content_type: String, body: String },
    /// nginx's page of a 500, not executed.
    Html500,
    /// Answers Bitrix24's error JSON, not executed.
    ErrorJson { status: u16, error: String, error_description: String },
    /// The request is read, nothing executed, the connection closed.
    CloseBefore,
    /// Executed, then the connection is closed without an answer.
    CloseAfter,
    /// Executed; half of the answer, then the connection is closed.
    CloseMidAnswer,
    /// Executed; the head and so many bytes of the answer, then the connection is closed.
    CutAfter(u64),
    /// Executed; so many bytes of the answer, and the rest after this time.
    PauseAfter { bytes: u64, pause: Duration },
    /// Executed; so many bytes of the answer, and the rest after `release`.
    HangAfterBytes(u64),
    /// Answers 302 to this address, not executed.
    Redirect302(String),
    /// Executed; the answer trickles.
    SlowBytes { interval: Duration, chunk: usize },
    /// Nothing happens until `release`; then it is executed and answered.
    Hang,
    /// Executed; the answer waits for `release`.
    HangAfter,
    /// An upload's body is read that much at a time, each time after this wait; then it is executed.
    SlowRead { interval: Duration, chunk: usize },
    /// The connection is closed when so much of an upload's body has been read; not executed.
    CloseReading(u64),
    /// So much of an upload's body is read, and the rest after `release`; then it is executed.
    HangReading(u64),
    /// Answers Bitrix24's error JSON before an upload's body is read, and closes; not executed.
    AnswerUnread { status: u16, error: String, error_description: String },
    /// Executed; the answer is complete HTTP with half of the JSON.
    TruncateJson,
    /// Executed; the answer has that many bytes.
    HugeAnswer(u64),
    /// Executed; the answer names this content type.
    WrongContentType(String),
    /// Executed; the answer comes in chunked coding, as it often does from nginx.
    Chunked,
    /// Executed; these bytes instead of an HTTP answer.
    Raw(Vec<u8>),
    /// These bytes instead of an HTTP answer, not executed.
    RawInstead(Vec<u8>),
}

/// A rule. Once a rule other than `Delay` matches, later ones are not looked at.
#[derive(Clone, Debug)]
pub struct Fault {
    pub target: Target,
    pub action: Action,
    /// How many more requests it strikes; `None` = all.
    pub times: Option<u32>,
    /// How many matching requests it lets pass first.
    pub skip: u32,
    pub(crate) portal: Option<usize>,
}

impl Fault {
    pub fn once(target: Target, action: Action) -> Fault {
        Fault::times(1, target, action)
    }

    pub fn times(times: u32, target: Target, action: Action) -> Fault {
        Fault { target, action, times: Some(times), skip: 0, portal: None }
    }

    pub fn forever(target: Target, action: Action) -> Fault {
        Fault { times: None, ..Fault::times(0, target, action) }
    }

    /// Strikes only after `requests` that match have passed.
    pub fn after(mut self, requests: u32) -> Fault {
        self.skip = requests;
        self
    }

    fn matches(&self, moment: &Moment<'_>) -> bool {
        let portal = match moment {
            Moment::Token { portal } => *portal,
            Moment::OauthConnection => None,
            Moment::Authorize(portal) | Moment::Connection(portal) | Moment::Call(portal, ..) => Some(*portal),
        };
        if self.portal.is_some() && self.portal != portal {
            return false;
        }
        match (&self.target, moment) {
            (Target::Token, Moment::Token { .. })
            | (Target::Authorize, Moment::Authorize(_))
            | (Target::Call, Moment::Call(..))
            | (Target::OauthConnection, Moment::OauthConnection)
            | (Target::Connection, Moment::Connection(_)) => true,
            (Target::Method(name), Moment::Call(_, method, _)) => name.eq_ignore_ascii_case(method),
            (Target::Download, Moment::Call(_, _, direction)) => *direction == Some(Direction::Download),
            (Target::Upload, Moment::Call(_, _, direction)) => *direction == Some(Direction::Upload),
            _ => false,
        }
    }
}

/// What is just happening.
pub(crate) enum Moment<'a> {
    Token { portal: Option<usize> },
    Authorize(usize),
    Call(usize, &'a str, Option<Direction>),
    OauthConnection,
    Connection(usize),
}

/// How an upload's body is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    Free,
    Slow { interval: Duration, chunk: usize },
    CloseAt(u64),
    HangAt(u64),
}

#[derive(Default)]
pub(crate) struct Faults {
    inner: Mutex<Inner>,
    wake: Condvar,
}

#[derive(Default)]
struct Inner {
    rules: Vec<(u64, Fault)>,
    next: u64,
    releases: u64,
    hanging: usize,
    stopped: bool,
}

impl Faults {
    pub(crate) fn inject(&self, fault: Fault) -> u64 {
        let mut inner = lock(&self.inner);
        inner.next += 1;
        let id = inner.next;
        inner.rules.push((id, fault));
        id
    }

    pub(crate) fn remove(&self, id: u64) {
        lock(&self.inner).rules.retain(|(i, _)| *i != id);
    }

    pub(crate) fn clear(&self) {
        lock(&self.inner).rules.clear();
    }

    /// Everything that hangs now goes on.
    pub(crate) fn release(&self) {
        lock(&self.inner).releases += 1;
        self.wake.notify_all();
    }

    pub(crate) fn stop(&self) {
        lock(&self.inner).stopped = true;
        self.wake.notify_all();
    }

    pub(crate) fn hanging(&self) -> usize {
        lock(&self.inner).hanging
    }

    pub(crate) fn rules(&self) -> Vec<(u64, Fault)> {
        lock(&self.inner).rules.clone()
    }

    /// `false` when the simulator is being shut down.
    pub(crate) fn pause(&self, duration: Duration) -> bool {
        let until = Instant::now() + duration;
        let mut inner = lock(&self.inner);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if inner.stopped || left.is_zero() {
                return !inner.stopped;
            }
            inner = match self.wake.wait_timeout(inner, left) {
                Ok((inner, _)) => inner,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// `false` when the simulator is being shut down.
    pub(crate) fn wait(&self, wait: &Wait) -> bool {
        match wait {
            Wait::For(duration) => self.pause(*duration),
            Wait::Release => self.hang(),
        }
    }

    fn hang(&self) -> bool {
        let mut inner = lock(&self.inner);
        let releases = inner.releases;
        inner.hanging += 1;
        while inner.releases == releases && !inner.stopped {
            inner = match self.wake.wait(inner) {
                Ok(inner) => inner,
                Err(poisoned) => poisoned.into_inner(),
            };
        }
        inner.hanging -= 1;
        !inner.stopped
    }

    fn take(&self, moment: &Moment<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut inner = lock(&self.inner);
        for (_, rule) in &mut inner.rules {
            if rule.times == Some(0) || !rule.matches(moment) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.times = rule.times.map(|n| n - 1);
            actions.push(rule.action.clone());
            if !matches!(rule.action, Action::Delay(_)) {
                break;
            }
        }
        inner.rules.retain(|(_, rule)| rule.times != Some(0));
        actions
    }

    /// A connection was accepted; `false` closes it.
    pub(crate) fn connection(&self, moment: &Moment<'_>) -> bool {
        self.take(moment).into_iter().all(|action| match action {
            Action::Delay(duration) | Action::DelayAnswer(duration) => self.pause(duration),
            Action::Hang | Action::HangAfter => self.hang(),
            _ => false,
        })
    }

    /// Runs `execute` with the faults of this moment around it; their names go into `struck`.
    pub(crate) fn around(
        &self,
        moment: &Moment<'_>,
        struck: &mut Vec<String>,
        execute: impl FnOnce() -> Reply,
    ) -> Reply {
        self.around_reading(moment, struck, |_| true, execute)
    }

    /// The same where the body is still to be read: `read` does it, after what comes before it, and answers whether all of it
    /// has come.
    pub(crate) fn around_reading(
        &self,
        moment: &Moment<'_>,
        struck: &mut Vec<String>,
        read: impl FnOnce(Pace) -> bool,
        execute: impl FnOnce() -> Reply,
    ) -> Reply {
        let actions = self.take(moment);
        struck.extend(actions.iter().map(Action::name));
        let mut last = None;
        for action in actions {
            match action {
                Action::Delay(duration) => {
                    if !self.pause(duration) {
                        return Reply::nothing();
                    }
                }
                Action::Hang => {
                    if !self.hang() {
                        return Reply::nothing();
                    }
                }
                action => last = Some(action),
            }
        }
        let pace = match last {
            Some(Action::AnswerUnread { status, error, error_description }) => {
                return error_json(status, &error, &error_description);
            }
            Some(Action::SlowRead { interval, chunk }) => Pace::Slow { interval, chunk },
            Some(Action::CloseReading(bytes)) => Pace::CloseAt(bytes),
            Some(Action::HangReading(bytes)) => Pace::HangAt(bytes),
            _ => Pace::Free,
        };
        if !read(pace) {
            return Reply::nothing();
        }
        match last {
            None => execute(),
            Some(action) => match action.instead() {
                Some(reply) => reply,
                None => self.spoil(action, execute()),
            },
        }
    }

    fn spoil(&self, action: Action, mut reply: Reply) -> Reply {
        match action {
            Action::DelayAnswer(duration) if !self.pause(duration) => Reply::nothing(),
            Action::HangAfter if !self.hang() => Reply::nothing(),
            Action::ExecuteThenStatus { status, content_type, body } => Reply::new(status, &content_type, body),
            Action::CloseAfter => Reply::nothing(),
            Action::TruncateJson => {
                reply.halve();
                reply
            }
            Action::WrongContentType(content_type) => {
                reply.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
                reply.with_header("Content-Type", &content_type)
            }
            action => {
                reply.delivery = match action {
                    Action::CloseMidAnswer => Delivery::Half,
                    Action::CutAfter(bytes) => Delivery::Cut(bytes),
                    Action::PauseAfter { bytes, pause } => Delivery::Pause { after: bytes, wait: Wait::For(pause) },
                    Action::HangAfterBytes(bytes) => Delivery::Pause { after: bytes, wait: Wait::Release },
                    Action::SlowBytes { interval, chunk } => Delivery::Slow { interval, chunk },
                    Action::HugeAnswer(size) => Delivery::Padded(size),
                    Action::Chunked => Delivery::Chunked,
                    Action::Raw(bytes) => Delivery::Raw(bytes),
                    _ => reply.delivery,
                };
                reply
            }
        }
    }
}

fn error_json(status: u16, error: &str, description: &str) -> Reply {
    let body = Array::new().with("error", error).with("error_description", description);
    Reply::json(status, Php::from(body).encode())
}

impl Action {
    fn name(&self) -> String {
        let debug = format!("{self:?}");
        debug.split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
    }

    /// The answer of a fault that takes the place of execution.
    fn instead(&self) -> Option<Reply> {
        match self {
            Action::Status { status, content_type, body } => Some(Reply::new(*status, content_type, body.as_bytes())),
            Action::Html500 => Some(Reply::html(
                500,
                "<html>\r\n<head><title>500 Internal Server Error</title></head>\r\n<body>\r\n\
                 <center><h1>500 Internal Server Error</h1></center>\r\n<hr><center>nginx</center>\r\n\
                 </body>\r\n</html>\r\n",
            )),
            Action::ErrorJson { status, error, error_description } => {
                Some(error_json(*status, error, error_description))
            }
            Action::CloseBefore => Some(Reply::nothing()),
            Action::Redirect302(location) => Some(Reply::redirect(location)),
            Action::RawInstead(bytes) => Some(Reply { delivery: Delivery::Raw(bytes.clone()), ..Reply::nothing() }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_strike_as_often_as_they_say() {
        let faults = Faults::default();
        let method = Target::Method("crm.deal.add".to_owned());
        faults.inject(Fault::times(2, method, Action::Html500).after(1));
        let statuses: Vec<_> = (0..5)
            .map(|_| {
                faults.around(&Moment::Call(0, "crm.deal.add", None), &mut Vec::new(), || Reply::json(200, "{}")).status
            })
            .collect();
        assert_eq!(statuses, [200, 500, 500, 200, 200]);
        assert!(faults.rules().is_empty());
    }

    #[test]
    fn a_portals_fault_leaves_the_other_portals_alone() {
        let faults = Faults::default();
        let mut fault = Fault::forever(Target::Call, Action::CloseBefore);
        fault.portal = Some(1);
        faults.inject(fault);
        let strikes = |portal| {
            let reply = faults.around(&Moment::Call(portal, "x", None), &mut Vec::new(), || Reply::json(200, "{}"));
            reply.delivery == Delivery::Nothing
        };
        assert!(!strikes(0));
        assert!(strikes(1));
    }
}
