//! The simulator as a whole: an OAuth server, portals, and a control listener.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control;
use crate::faults::{Fault, Moment};
use crate::http::{Reply, Request, Wait};
use crate::ledger::{Kind, Ledger};
use crate::oauth::{self, KeyPair, Oauth};
use crate::portal::Portal;
use crate::server::{lock, Server, Service};
use crate::state::{PortalState, Shared, State};
use crate::tls;

/// How the simulator starts. The default is https and free ports.
#[derive(Clone, Debug)]
pub struct Options {
    pub https: bool,
    /// 0 = a free one, here and below.
    pub oauth_port: u16,
    /// Under which of Bitrix24's own names portals and tokens speak of the OAuth server, which is reached through a proxy then;
    /// its certificate is of an authority that has the name of [`BUILT_IN_ROOT`](crate::BUILT_IN_ROOT).
    pub oauth_name: Option<&'static str>,
    pub control_port: u16,
    /// The application's redirect address at the portals.
    pub redirect_uri: Option<String>,
    /// Where the frame page opens the application.
    pub handler_url: Option<String>,
    /// The authorization page redirects at once, as if user 1 had agreed.
    pub auto_agree: bool,
    /// The application's key pair; a random one by default.
    pub key_pair: Option<KeyPair>,
    /// The first portal.
    pub portal: PortalOptions,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            https: true,
            oauth_port: 0,
            oauth_name: None,
            control_port: 0,
            redirect_uri: None,
            handler_url: None,
            auto_agree: true,
            key_pair: None,
            portal: PortalOptions::default(),
        }
    }
}

/// How a portal starts.
#[derive(Clone, Debug)]
pub struct PortalOptions {
    pub port: u16,
    /// `127.0.0.1` or `localhost`: the first half of its name.
    pub host: String,
    /// As the simulator by default.
    pub https: Option<bool>,
    /// A key pair that is valid for this portal only.
    pub own_key_pair: bool,
    /// `crm,catalog,sale,task,user` by default.
    pub scope: Option<String>,
    /// Random by default.
    pub member_id: Option<String>,
    /// A web server in front swallows `Authorization`.
    pub strips_authorization: bool,
    /// A REST 3.0 batch may carry the access token beside its commands; `false` is as Bitrix24 has it.
    pub lenient_rest3_batch: bool,
}

impl Default for PortalOptions {
    fn default() -> PortalOptions {
        PortalOptions {
            port: 0,
            host: "127.0.0.1".to_owned(),
            https: None,
            own_key_pair: false,
            scope: None,
            member_id: None,
            strips_authorization: false,
            lenient_rest3_batch: true,
        }
    }
}

/// A running simulator; dropping it ends all its listeners and connections.
pub struct Simulator {
    shared: Arc<Shared>,
    https: bool,
    owner: bool,
}

impl Simulator {
    /// # Panics
    /// Where it cannot listen.
    pub fn start(options: Options) -> Simulator {
        Simulator::try_start(options).expect("the simulator listens on 127.0.0.1")
    }

    pub fn try_start(options: Options) -> io::Result<Simulator> {
        let tls = tls::create(options.oauth_name.is_some()).map_err(io::Error::other)?;
        let keys = options.key_pair.unwrap_or_else(KeyPair::random);
        let mut state = State::new(Oauth::new(keys));
        state.auto_agree = options.auto_agree;
        if let Some(url) = options.redirect_uri {
            state.redirect_uri = url;
        }
        if let Some(url) = options.handler_url {
            state.handler_url = url;
        }
        let simulator = Simulator { shared: Arc::new(Shared::new(tls, state)), https: options.https, owner: true };
        simulator.listen_oauth(options.oauth_port)?;
        if let Some(name) = options.oauth_name {
            simulator.name_oauth(name);
        }
        simulator.try_add_portal(options.portal)?;
        control::listen(&simulator.shared, options.https, options.control_port)?;
        Ok(simulator)
    }

    /// For the control listener's requests: dropping it ends nothing.
    pub(crate) fn borrowed(shared: &Arc<Shared>, https: bool) -> Simulator {
        Simulator { shared: shared.clone(), https, owner: false }
    }

    fn listen_oauth(&self, port: u16) -> io::Result<()> {
        let tls = self.https.then(|| self.shared.tls.config.clone());
        let service = OauthService(self.shared.clone());
        let server = Server::bind(port, tls, |_| Arc::new(service))?;
        let scheme = if self.https { "https" } else { "http" };
        let mut state = self.shared.state();
        state.oauth_name = server.address().to_string();
        state.oauth_url = format!("{scheme}://{}", state.oauth_name);
        lock(&self.shared.servers).push(("oauth".to_owned(), Arc::new(server)));
        Ok(())
    }

    /// Portals and tokens speak of the OAuth server by this name from now on.
    pub fn name_oauth(&self, name: &str) {
        let mut state = self.shared.state();
        state.oauth_name = name.to_owned();
        state.oauth_url = format!("https://{name}");
    }

    /// Where the OAuth server listens, whatever it is called.
    pub fn oauth_port(&self) -> u16 {
        self.shared.server("oauth").expect("it listens").address().port()
    }

    /// Another OAuth server, which knows no application: its port. What it is asked stands in the ledger under `other oauth`.
    pub fn listen_other_oauth(&self) -> io::Result<u16> {
        let service = OtherOauth(self.shared.clone());
        let server = Server::bind(0, Some(self.shared.tls.config.clone()), |_| Arc::new(service))?;
        let port = server.address().port();
        lock(&self.shared.servers).push((OTHER_OAUTH.to_owned(), Arc::new(server)));
        Ok(port)
    }

    /// The public key of the simulator's authority, an uncompressed point of P-256.
    pub fn authority_key(&self) -> Vec<u8> {
        self.shared.tls.authority_key.clone()
    }

    /// `https://127.0.0.1:41001`
    pub fn oauth_url(&self) -> String {
        self.shared.state().oauth_url.clone()
    }

    /// `http://127.0.0.1:41003/`
    pub fn control_url(&self) -> String {
        let server = self.shared.server("control");
        server.map_or_else(String::new, |s| format!("http://{}/", s.address()))
    }

    /// Addresses and keys of the simulator and its first portal, as the program prints them.
    pub fn addresses_json(&self) -> serde_json::Value {
        control::addresses(self)
    }

    /// The certificate authority that all its https listeners' certificate is signed by.
    pub fn ca_pem(&self) -> String {
        self.shared.tls.ca_pem.clone()
    }

    /// Certificate and private key (PEM) for 127.0.0.1 and localhost, by that authority: for another server that a test
    /// needs.
    pub fn certificate_pem(&self) -> (String, String) {
        self.shared.tls.pair_pem.clone()
    }

    pub fn client_id(&self) -> String {
        self.shared.state().oauth.application.client_id.clone()
    }

    pub fn client_secret(&self) -> String {
        self.shared.state().oauth.application.client_secret.clone()
    }

    /// The first portal.
    pub fn portal(&self) -> Portal {
        self.portal_at(0)
    }

    /// All portals, in the order of their making.
    pub fn portals(&self) -> Vec<Portal> {
        let count = self.shared.state().portals.len();
        (0..count).map(|index| self.portal_at(index)).collect()
    }

    fn portal_at(&self, index: usize) -> Portal {
        Portal { shared: self.shared.clone(), index }
    }

    /// The portal of that (current) name.
    pub fn portal_named(&self, name: &str) -> Option<Portal> {
        let index = self.shared.state().portal_named(name)?;
        Some(self.portal_at(index))
    }

    /// # Panics
    /// Where it cannot listen.
    pub fn add_portal(&self, options: PortalOptions) -> Portal {
        self.try_add_portal(options).expect("the portal listens on 127.0.0.1")
    }

    pub fn try_add_portal(&self, options: PortalOptions) -> io::Result<Portal> {
        let portal = {
            let mut state = self.shared.state();
            let keys = match options.own_key_pair {
                true => KeyPair::random(),
                false => state.oauth.application.clone(),
            };
            let https = options.https.unwrap_or(self.https);
            let mut portal = PortalState::new("", https, keys);
            if let Some(scope) = options.scope {
                portal.scope = scope;
            }
            if let Some(member_id) = options.member_id {
                portal.member_id = member_id;
            }
            portal.strips_authorization = options.strips_authorization;
            portal.lenient_rest3_batch = options.lenient_rest3_batch;
            state.portals.push(portal);
            self.portal_at(state.portals.len() - 1)
        };
        let name = portal.listen(&options.host, options.port)?;
        self.shared.state().portals[portal.index].name = name;
        Ok(portal)
    }

    pub fn set_redirect_uri(&self, url: &str) {
        url.clone_into(&mut self.shared.state().redirect_uri);
    }

    pub fn set_handler(&self, url: &str) {
        url.clone_into(&mut self.shared.state().handler_url);
    }

    pub fn set_auto_agree(&self, agree: bool) {
        self.shared.state().auto_agree = agree;
    }

    /// Whether token answers carry `expires`.
    pub fn set_expires_field(&self, present: bool) {
        self.shared.state().oauth.expires_field = present;
    }

    /// Connections to the OAuth server are refused from now on.
    pub fn stop_oauth(&self) {
        if let Some(server) = self.shared.server("oauth") {
            server.stop();
        }
    }

    /// Undoes `stop_oauth`.
    pub fn start_oauth(&self) -> io::Result<()> {
        match self.shared.server("oauth") {
            Some(server) => server.start(),
            None => Ok(()),
        }
    }

    /// Answers a number for `remove_fault`.
    pub fn inject(&self, fault: Fault) -> u64 {
        self.shared.faults.inject(fault)
    }

    pub fn remove_fault(&self, id: u64) {
        self.shared.faults.remove(id);
    }

    /// Forgets all faults; what hangs goes on hanging.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// The faults that can still strike.
    pub fn faults(&self) -> Vec<(u64, Fault)> {
        self.shared.faults.rules()
    }

    /// Everything that hangs now goes on.
    pub fn release(&self) {
        self.shared.faults.release();
    }

    /// How many requests and connections hang now.
    pub fn hanging(&self) -> usize {
        self.shared.faults.hanging()
    }

    /// Waits until so many hang.
    pub fn wait_hanging(&self, count: usize, timeout: Duration) -> bool {
        wait(timeout, || self.hanging() >= count)
    }

    /// A copy of what was received until now.
    pub fn ledger(&self) -> Ledger {
        self.shared.ledger.snapshot()
    }

    pub fn clear_ledger(&self) {
        self.shared.ledger.clear();
    }

    /// Waits until the ledger satisfies the condition.
    pub fn wait_for(&self, timeout: Duration, condition: impl Fn(&Ledger) -> bool) -> bool {
        wait(timeout, || condition(&self.ledger()))
    }

    /// Moves the simulator's clock forward: tokens expire, buckets drain.
    pub fn advance(&self, seconds: f64) {
        self.shared.clock.advance(seconds);
    }

    /// The simulator's time, in Unix seconds.
    pub fn now(&self) -> f64 {
        self.shared.clock.now()
    }

    /// Everything that must never be seen in a log: tokens and codes issued, client secrets,
    /// application tokens, webhook codes.
    pub fn secrets(&self) -> Vec<String> {
        let state = self.shared.state();
        let mut secrets = state.oauth.tokens();
        secrets.push(state.oauth.application.client_secret.clone());
        for portal in &state.portals {
            secrets.push(portal.application.client_secret.clone());
            secrets.push(portal.application_token.clone());
            secrets.push(portal.webhook_code.clone());
        }
        secrets.sort();
        secrets.dedup();
        secrets
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        if !self.owner {
            return;
        }
        self.shared.faults.stop();
        let servers = std::mem::take(&mut *lock(&self.shared.servers));
        for (_, server) in servers {
            server.stop();
        }
    }
}

fn wait(timeout: Duration, done: impl Fn() -> bool) -> bool {
    let until = Instant::now() + timeout;
    while !done() {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

struct OtherOauth(Arc<Shared>);

const OTHER_OAUTH: &str = "other oauth";

impl Service for OtherOauth {
    fn connected(&self) -> bool {
        self.0.ledger.connected(OTHER_OAUTH);
        true
    }

    fn answer(&self, request: Request) -> Reply {
        let number = self.0.ledger.begin(self.0.clock.now(), OTHER_OAUTH, &request, Kind::Other);
        let reply =
            Reply::json(401, r#"{"error":"invalid_client","error_description":"Client credentials are invalid"}"#);
        self.0.ledger.finish(number, &reply, Vec::new());
        reply
    }

    fn wait(&self, wait: &Wait) -> bool {
        self.0.faults.wait(wait)
    }
}

struct OauthService(Arc<Shared>);

impl Service for OauthService {
    fn connected(&self) -> bool {
        self.0.ledger.connected("oauth");
        self.0.faults.connection(&Moment::OauthConnection)
    }

    fn answer(&self, request: Request) -> Reply {
        oauth::answer(&self.0, &request)
    }

    fn wait(&self, wait: &Wait) -> bool {
        self.0.faults.wait(wait)
    }
}
