//! Everything the simulator received, in order, and what became of it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{json, Value};

use crate::files::Moved;
use crate::http::{Delivery, Reply, Request};
use crate::multipart::Part;
use crate::server::lock;

/// A request.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Counts from 1 over all listeners.
    pub number: u64,
    /// Unix seconds by the simulator's clock.
    pub at: f64,
    /// `oauth`, or the name of the portal whose listener it reached.
    pub listener: String,
    pub http_method: String,
    /// As sent, without the query.
    pub path: String,
    /// As sent.
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// `None` while it is worked on, and where the connection was closed without an answer.
    pub status: Option<u16>,
    /// The body of the answer as it was (or would have been) sent.
    pub answer: Vec<u8>,
    /// Names of the faults that struck, `CloseAfter` for example.
    pub faults: Vec<String>,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Token {
        grant_type: String,
        client_id: String,
        /// `ok`, an error code, or empty where it was not executed.
        outcome: String,
        /// A refresh token that an earlier refresh had spent was presented.
        spent: bool,
    },
    Authorize {
        client_id: String,
        state: String,
    },
    Call(Call),
    /// A page called `BX24.installFinish()`.
    InstallFinished,
    Other,
}

/// A REST call.
#[derive(Clone, Debug)]
pub struct Call {
    /// The portal's current name.
    pub portal: String,
    /// 2 or 3.
    pub version: u8,
    /// Lower-case, without `.json` and `.xml`.
    pub method: String,
    /// What counted: the header before the parameters.
    pub auth: Auth,
    /// Where that was found.
    pub token_place: TokenPlace,
    /// `Authorization` as the portal saw it: not where a web server in front swallows it (`Entry::header` has it as sent).
    pub authorization: Option<String>,
    /// `auth` and `access_token` among the parameters, also where the header counted.
    pub auth_parameters: Vec<AuthParameter>,
    /// As the portal read them, without `auth`.
    pub params: Value,
    /// The method was run, successfully or not.
    pub executed: bool,
    /// REST 3.0 answered from the store of its idempotency keys.
    pub replayed: bool,
    /// What a batch ran, in order.
    pub commands: Vec<Command>,
    /// A file's way, or what a `token` among the parameters makes one.
    pub transfer: Option<Box<Transfer>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Direction {
    Download,
    Upload,
}

/// A file on its way.
#[derive(Clone, Debug)]
pub struct Transfer {
    pub direction: Direction,
    /// `token` as the portal read it.
    pub token: Option<String>,
    /// It came in the body, which counts before the query.
    pub token_in_body: bool,
    /// What the token says, once its signature has been found right; the parameters, where the method needs no token.
    pub query: Value,
    /// The ID of the file that was sent or has come to be.
    pub file: Option<i64>,
    /// Of what was uploaded.
    pub name: Option<String>,
    /// The whole file's.
    pub size: u64,
    /// Of what was uploaded, in hexadecimal digits.
    pub sha256: String,
    /// The parts of the upload's body that have come, in order; an entry's `body` is its first 64 KiB.
    pub parts: Vec<Part>,
    /// The upload's closing boundary has come.
    pub complete: bool,
    pub(crate) moved: Moved,
}

impl Transfer {
    pub(crate) fn new(direction: Direction, token: Option<String>, token_in_body: bool) -> Transfer {
        Transfer {
            direction,
            token,
            token_in_body,
            query: Value::Null,
            file: None,
            name: None,
            size: 0,
            sha256: String::new(),
            parts: Vec::new(),
            complete: false,
            moved: Moved::default(),
        }
    }

    /// How many bytes of the file have been written to the connection, or of an upload's body read from it, up to now.
    pub fn moved(&self) -> u64 {
        self.moved.bytes()
    }

    fn to_json(&self) -> Value {
        let direction = match self.direction {
            Direction::Download => "download",
            Direction::Upload => "upload",
        };
        json!({
            "direction": direction, "token": self.token, "token_in_body": self.token_in_body, "query": self.query,
            "file": self.file, "name": self.name, "size": self.size, "sha256": self.sha256, "moved": self.moved(),
            "complete": self.complete,
            "parts": self.parts.iter().map(|part| json!({
                "name": part.name, "filename": part.filename, "content_type": part.content_type, "size": part.size,
                "sha256": part.sha256,
            })).collect::<Vec<_>>(),
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Auth {
    None,
    Token(String),
    Webhook { user: u32, code: String },
}

/// Where the portal found the credentials that counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TokenPlace {
    Nowhere,
    /// `Authorization: Bearer`
    Header,
    /// Among the parameters, in the address.
    Query,
    /// Among the parameters, in the body.
    Body,
    /// A webhook's code.
    Path,
}

impl TokenPlace {
    pub fn is_parameter(self) -> bool {
        matches!(self, TokenPlace::Query | TokenPlace::Body)
    }

    fn name(self) -> &'static str {
        match self {
            TokenPlace::Nowhere => "none",
            TokenPlace::Header => "header",
            TokenPlace::Query => "query",
            TokenPlace::Body => "body",
            TokenPlace::Path => "path",
        }
    }
}

/// An access token among the parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthParameter {
    /// `auth` or `access_token`
    pub name: String,
    pub value: String,
    /// Not in the query, or in both.
    pub in_body: bool,
}

/// A command of a batch that was run.
#[derive(Clone, Debug)]
pub struct Command {
    pub id: String,
    pub method: String,
    pub params: Value,
    /// The error code, where it failed.
    pub error: Option<String>,
}

impl Entry {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn call(&self) -> Option<&Call> {
        match &self.kind {
            Kind::Call(call) => Some(call),
            _ => None,
        }
    }

    /// Whether the text stands anywhere in the request, as sent.
    pub fn contains(&self, text: &str) -> bool {
        let needle = text.as_bytes();
        let head = format!("{}?{} {:?}", self.path, self.query, self.headers);
        head.contains(text) || self.body.windows(needle.len().max(1)).any(|w| w == needle)
    }

    pub fn to_json(&self) -> Value {
        let mut value = json!({
            "number": self.number,
            "at": self.at,
            "listener": self.listener,
            "http_method": self.http_method,
            "path": self.path,
            "query": self.query,
            "headers": self.headers.iter().map(|(n, v)| json!([n, v])).collect::<Vec<_>>(),
            "body": String::from_utf8_lossy(&self.body),
            "status": self.status,
            "answer": String::from_utf8_lossy(&self.answer),
            "faults": self.faults,
        });
        let kind = match &self.kind {
            Kind::Token { grant_type, client_id, outcome, spent } => {
                json!({"kind": "token", "grant_type": grant_type, "client_id": client_id,
                        "outcome": outcome, "spent": spent})
            }
            Kind::Authorize { client_id, state } => {
                json!({"kind": "authorize", "client_id": client_id, "state": state})
            }
            Kind::Call(call) => call.to_json(),
            Kind::InstallFinished => json!({"kind": "install_finished"}),
            Kind::Other => json!({"kind": "other"}),
        };
        if let (Value::Object(value), Value::Object(kind)) = (&mut value, kind) {
            value.extend(kind);
        }
        value
    }
}

impl Call {
    fn to_json(&self) -> Value {
        let auth = match &self.auth {
            Auth::None => Value::Null,
            Auth::Token(token) => json!({"token": token}),
            Auth::Webhook { user, code } => json!({"webhook": {"user": user, "code": code}}),
        };
        json!({
            "kind": "call", "portal": self.portal, "version": self.version, "method": self.method,
            "auth": auth, "token_place": self.token_place.name(), "authorization": self.authorization,
            "auth_parameters": self.auth_parameters.iter().map(|p| json!({
                "name": p.name, "value": p.value, "in_body": p.in_body
            })).collect::<Vec<_>>(),
            "params": self.params, "executed": self.executed, "replayed": self.replayed,
            "commands": self.commands.iter().map(|c| json!({
                "id": c.id, "method": c.method, "params": c.params, "error": c.error
            })).collect::<Vec<_>>(),
            "transfer": self.transfer.as_ref().map(|transfer| transfer.to_json()),
        })
    }
}

/// A copy of what had been received when it was asked for.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub entries: Vec<Entry>,
    connections: BTreeMap<String, u64>,
}

impl Ledger {
    /// Refresh requests received, successful or not.
    pub fn refreshes(&self) -> usize {
        self.tokens("refresh_token")
    }

    /// Code exchanges received, successful or not.
    pub fn exchanges(&self) -> usize {
        self.tokens("authorization_code")
    }

    fn tokens(&self, wanted: &str) -> usize {
        let of_kind = |e: &&Entry| matches!(&e.kind, Kind::Token { grant_type, .. } if grant_type == wanted);
        self.entries.iter().filter(of_kind).count()
    }

    /// Refresh requests with a token that an earlier refresh had spent.
    pub fn spent_presented(&self) -> usize {
        let spent = |e: &&Entry| matches!(e.kind, Kind::Token { spent: true, .. });
        self.entries.iter().filter(spent).count()
    }

    /// Requests for this method (not counting commands within a batch), executed or not.
    pub fn calls(&self, method: &str) -> usize {
        self.all_calls().filter(|c| c.method == method).count()
    }

    /// How often the method was run, by itself or within a batch.
    pub fn executed(&self, method: &str) -> usize {
        self.all_calls()
            .map(|call| {
                let within = call.commands.iter().filter(|c| c.method == method).count();
                within + usize::from(call.executed && call.method == method)
            })
            .sum()
    }

    pub fn all_calls(&self) -> impl Iterator<Item = &Call> {
        self.entries.iter().filter_map(Entry::call)
    }

    /// The entries of one method's calls.
    pub fn of_method<'a>(&'a self, method: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |e| e.call().is_some_and(|c| c.method == method))
    }

    pub fn last_call(&self) -> Option<&Entry> {
        self.entries.iter().rev().find(|e| e.call().is_some())
    }

    pub fn install_finished(&self) -> usize {
        let finished = |e: &&Entry| matches!(e.kind, Kind::InstallFinished);
        self.entries.iter().filter(finished).count()
    }

    /// Connections accepted by `oauth` or by the portal's listener of that name.
    pub fn connections(&self, listener: &str) -> u64 {
        self.connections.get(listener).copied().unwrap_or(0)
    }

    pub fn all_connections(&self) -> u64 {
        self.connections.values().sum()
    }

    /// Whether any portal received the text (a client secret, say), as sent.
    pub fn portals_saw(&self, text: &str) -> bool {
        self.entries.iter().any(|e| e.listener != "oauth" && e.contains(text))
    }

    pub fn to_json(&self) -> Value {
        self.entries.iter().map(Entry::to_json).collect()
    }

    pub fn counts_json(&self) -> Value {
        let mut calls = BTreeMap::<&str, usize>::new();
        let mut executed = BTreeMap::<&str, usize>::new();
        for call in self.all_calls() {
            *calls.entry(&call.method).or_default() += 1;
            if call.executed {
                *executed.entry(&call.method).or_default() += 1;
            }
            for command in &call.commands {
                *executed.entry(&command.method).or_default() += 1;
            }
        }
        json!({
            "refreshes": self.refreshes(), "exchanges": self.exchanges(),
            "spent_presented": self.spent_presented(), "install_finished": self.install_finished(),
            "calls": calls, "executed": executed, "connections": self.connections,
        })
    }
}

#[derive(Default)]
pub(crate) struct Recorder {
    ledger: Mutex<(u64, Ledger)>,
}

impl Recorder {
    /// Enters a request as soon as it is read; answers its number.
    pub(crate) fn begin(&self, at: f64, listener: &str, request: &Request, kind: Kind) -> u64 {
        let mut ledger = lock(&self.ledger);
        ledger.0 += 1;
        let number = ledger.0;
        let path = request.target.split('?').next().unwrap_or_default();
        ledger.1.entries.push(Entry {
            number,
            at,
            listener: listener.to_owned(),
            http_method: request.method.clone(),
            path: path.to_owned(),
            query: request.query.clone(),
            headers: request.headers.clone(),
            body: request.body.clone(),
            status: None,
            answer: Vec::new(),
            faults: Vec::new(),
            kind,
        });
        number
    }

    pub(crate) fn update(&self, number: u64, change: impl FnOnce(&mut Entry)) {
        let mut ledger = lock(&self.ledger);
        if let Some(entry) = ledger.1.entries.iter_mut().rfind(|e| e.number == number) {
            change(entry);
        }
    }

    pub(crate) fn update_call(&self, number: u64, change: impl FnOnce(&mut Call)) {
        self.update(number, |entry| {
            if let Kind::Call(call) = &mut entry.kind {
                change(call);
            }
        });
    }

    pub(crate) fn finish(&self, number: u64, reply: &Reply, faults: Vec<String>) {
        let answered = !matches!(reply.delivery, Delivery::Nothing | Delivery::Raw(_));
        self.update(number, |entry| {
            entry.status = answered.then_some(reply.status);
            entry.answer.clone_from(&reply.body);
            entry.faults = faults;
        });
    }

    pub(crate) fn connected(&self, listener: &str) {
        let mut ledger = lock(&self.ledger);
        *ledger.1.connections.entry(listener.to_owned()).or_default() += 1;
    }

    pub(crate) fn snapshot(&self) -> Ledger {
        lock(&self.ledger).1.clone()
    }

    /// Numbers go on counting, so that a request begun before is not mistaken for a later one.
    pub(crate) fn clear(&self) {
        lock(&self.ledger).1 = Ledger::default();
    }
}
