//! What the listeners share: the OAuth server's and the portals' state, clock, faults, ledger.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::bucket::Bucket;
use crate::clock::Clock;
use crate::entities::Store;
use crate::faults::Faults;
use crate::file_methods::Document;
use crate::files::File;
use crate::kinds::ListFault;
use crate::ledger::Recorder;
use crate::oauth::{KeyPair, Oauth};
use crate::random;
use crate::server::{lock, Server};
use crate::tls::Tls;

pub(crate) struct Shared {
    pub(crate) tls: Tls,
    pub(crate) clock: Clock,
    pub(crate) faults: Faults,
    pub(crate) ledger: Recorder,
    /// By name: `oauth`, `control`, and every name a portal has or had.
    pub(crate) servers: Mutex<Vec<(String, Arc<Server>)>>,
    state: Mutex<State>,
}

impl Shared {
    pub(crate) fn new(tls: Tls, state: State) -> Shared {
        Shared {
            tls,
            clock: Clock::default(),
            faults: Faults::default(),
            ledger: Recorder::default(),
            servers: Mutex::default(),
            state: Mutex::new(state),
        }
    }

    /// Held only for moments: never while a fault or `sim.sleep` waits.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn server(&self, name: &str) -> Option<Arc<Server>> {
        let servers = lock(&self.servers);
        let found = servers.iter().find(|(n, _)| n == name);
        found.map(|(_, server)| server.clone())
    }
}

pub(crate) struct State {
    pub(crate) oauth: Oauth,
    /// `127.0.0.1:41001`
    pub(crate) oauth_name: String,
    pub(crate) oauth_url: String,
    /// The application's settings at the portals.
    pub(crate) redirect_uri: String,
    pub(crate) handler_url: String,
    /// The authorization page redirects at once, as if user 1 had agreed.
    pub(crate) auto_agree: bool,
    pub(crate) portals: Vec<PortalState>,
}

impl State {
    pub(crate) fn new(oauth: Oauth) -> State {
        State {
            oauth,
            oauth_name: String::new(),
            oauth_url: String::new(),
            redirect_uri: "https://www.acme.test/cgi-bin/b24proxy".to_owned(),
            handler_url: "https://www.acme.test/cgi-bin/b24proxy".to_owned(),
            auto_agree: true,
            portals: Vec::new(),
        }
    }

    pub(crate) fn portal_named(&self, name: &str) -> Option<usize> {
        self.portals.iter().position(|p| p.name == name)
    }
}

/// A portal's switches and data.
pub(crate) struct PortalState {
    /// `127.0.0.1:41002`
    pub(crate) name: String,
    pub(crate) https: bool,
    pub(crate) member_id: String,
    pub(crate) application_token: String,
    pub(crate) application: KeyPair,
    /// Whether each user is an administrator.
    pub(crate) users: BTreeMap<u32, bool>,
    pub(crate) scope: String,
    pub(crate) webhook_code: String,
    pub(crate) token_lifetime: u64,
    pub(crate) deleted: bool,
    pub(crate) payment_required: bool,
    /// Authentication errors of REST 3.0 in the shape of REST 2.
    pub(crate) old_auth_errors: bool,
    /// REST 3.0 gives every failure of authorization the same code, as Bitrix24 does.
    pub(crate) rest3_access_denied: bool,
    /// JSON has `/` for PHP's `\/`.
    pub(crate) plain_slashes: bool,
    /// REST 3.0 passes over what stands beside the commands of a batch.
    pub(crate) lenient_rest3_batch: bool,
    /// How all lists misbehave.
    pub(crate) list_fault: Option<ListFault>,
    /// A web server in front swallows the header.
    pub(crate) strips_authorization: bool,
    pub(crate) endpoint_override: Option<String>,
    pub(crate) bucket: Option<Bucket>,
    /// Methods above their operating limit, until when.
    pub(crate) blocked: HashMap<String, f64>,
    pub(crate) operating: HashMap<String, f64>,
    /// Each call and command of a method uses up some of its time.
    pub(crate) operating_limit: Option<OperatingLimit>,
    /// Calls and commands of these methods are refused with 503 and this code, so many times.
    pub(crate) refusals: HashMap<String, (String, usize)>,
    /// Every call is refused with 503 `OVERLOAD_LIMIT`.
    pub(crate) overloaded: bool,
    pub(crate) store: Store,
    /// Events, and the addresses that they are posted to.
    pub(crate) handlers: Vec<(String, String)>,
    /// By ID, which count from 1.
    pub(crate) files: BTreeMap<i64, File>,
    pub(crate) documents: BTreeMap<i64, Document>,
    /// What addresses of files are signed with.
    pub(crate) signing_secret: String,
    /// nginx wants a browser's headers before it hands out a file.
    pub(crate) picky_downloads: bool,
    /// REST 3.0: user and `Idempotency-Key` to what was answered.
    pub(crate) idempotency: HashMap<(u32, String), Remembered>,
}

/// The time that each method has in a window, which begins with its first call.
#[derive(Clone, Debug)]
pub(crate) struct OperatingLimit {
    pub(crate) seconds: f64,
    pub(crate) window: f64,
    /// Seconds that a call or command uses.
    pub(crate) cost: f64,
    /// By method: how much is used, and when it is free again, in whole Unix seconds.
    used: HashMap<String, (f64, f64)>,
}

impl OperatingLimit {
    pub(crate) fn new(seconds: f64, window: f64, cost: f64) -> OperatingLimit {
        OperatingLimit { seconds, window, cost, used: HashMap::new() }
    }

    /// How much is used now, and when it is free again.
    pub(crate) fn used(&self, method: &str, now: f64) -> (f64, f64) {
        self.used.get(method).copied().filter(|(_, until)| *until > now).unwrap_or((0.0, (now + self.window).ceil()))
    }

    /// Looked at before a call, as Bitrix24 does: the last one may pass the limit.
    pub(crate) fn spend(&mut self, method: &str, now: f64) -> bool {
        let (used, until) = self.used(method, now);
        let accepted = used < self.seconds;
        if accepted {
            self.used.insert(method.to_owned(), (used + self.cost, until));
        }
        accepted
    }
}

/// The first success under an idempotency key.
#[derive(Clone)]
pub(crate) struct Remembered {
    /// Method and parameters, without `auth`.
    pub(crate) request: String,
    pub(crate) answer: String,
    pub(crate) until: f64,
}

impl PortalState {
    pub(crate) fn new(name: &str, https: bool, application: KeyPair) -> PortalState {
        PortalState {
            name: name.to_owned(),
            https,
            member_id: random::hex(32),
            application_token: random::hex(32),
            application,
            users: BTreeMap::from([(1, true), (2, false)]),
            scope: "crm,catalog,sale,task,user".to_owned(),
            webhook_code: random::hex(16),
            token_lifetime: 3600,
            deleted: false,
            payment_required: false,
            old_auth_errors: false,
            rest3_access_denied: false,
            plain_slashes: false,
            lenient_rest3_batch: true,
            list_fault: None,
            strips_authorization: false,
            endpoint_override: None,
            bucket: None,
            blocked: HashMap::new(),
            operating: HashMap::new(),
            operating_limit: None,
            refusals: HashMap::new(),
            overloaded: false,
            store: Store::default(),
            files: BTreeMap::new(),
            documents: BTreeMap::new(),
            handlers: Vec::new(),
            signing_secret: random::hex(32),
            picky_downloads: true,
            idempotency: HashMap::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests(application: KeyPair) -> PortalState {
        PortalState::new("127.0.0.1:1", true, application)
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}", self.name)
    }

    pub(crate) fn client_endpoint(&self) -> String {
        let own = || format!("{}/rest/", self.url());
        self.endpoint_override.clone().unwrap_or_else(own)
    }

    pub(crate) fn store_file(&mut self, file: File) -> i64 {
        let id = self.files.keys().next_back().unwrap_or(&0) + 1;
        self.files.insert(id, file);
        id
    }

    pub(crate) fn has_scope(&self, scope: &str) -> bool {
        let mut granted = self.scope.split(',').map(str::trim);
        scope.is_empty() || granted.any(|s| s == scope)
    }
}
