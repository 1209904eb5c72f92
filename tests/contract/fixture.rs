//! A proxy of its own for each test: sandbox, simulator, configuration, and the way 1C calls.

use serde_json::{json, Value};
use simulator::{Options, Portal, Simulator, TokenPair};
use std::net::{Shutdown, TcpStream};
use std::time::{SystemTime, UNIX_EPOCH};
use support::cgi::{Answer, Cgi};
use support::database::{self, Database};
use support::Sandbox;

/// The token of the one client.
pub const TOKEN: &str = "a-client-token-for-tests";

pub struct Proxy {
    pub sandbox: Sandbox,
    pub simulator: Simulator,
    /// Seconds: `[limits] max_wait` and others are written by [`Proxy::configure`].
    config: String,
}

impl Proxy {
    /// A configured proxy with valid tokens of the simulator's portal, over https.
    pub fn installed() -> Proxy {
        let proxy = Proxy::not_installed();
        proxy.store_pair(&proxy.portal().issue_pair(1));
        proxy
    }

    pub fn not_installed() -> Proxy {
        Proxy::with(Options::default())
    }

    pub fn with(options: Options) -> Proxy {
        let https = options.https;
        let mut proxy = Proxy { sandbox: Sandbox::new(), simulator: Simulator::start(options), config: String::new() };
        proxy.sandbox.keep_in(database::wanted().map(|kind| database::shared(kind).database()));
        proxy.sandbox.write("b24proxy/ca.pem", 0o600, proxy.simulator.ca_pem().as_bytes());
        let config = proxy.standard_config(https);
        proxy.configured(&config)
    }

    /// The configuration that [`Proxy::with`] writes.
    fn standard_config(&self, https: bool) -> String {
        format!(
            r#"
[bitrix24]
client_id     = "{id}"
client_secret = "{secret}"
redirect_uri  = "https://www.acme.test/cgi-bin/b24proxy"
scope         = "crm,catalog"
oauth_server  = "{oauth}"
ca_file       = "ca.pem"
allow_http    = {allow_http}
connect_timeout = 3
timeout       = 10

[portals."{portal}"]
aliases = ["acme"]

[security]
auth_token = "{TOKEN}"

[limits]
max_wait = 5

[log]
level = "debug"
"#,
            id = self.simulator.client_id(),
            secret = self.simulator.client_secret(),
            oauth = self.simulator.oauth_url(),
            allow_http = !https,
            portal = self.portal().name(),
        )
    }

    /// With this configuration instead; where it says nothing of the storage, with that which is tested.
    pub fn configured(mut self, config: &str) -> Proxy {
        self.config = config.to_owned();
        if let Some(database) = self.sandbox.database().filter(|_| !config.contains("\n[storage]")) {
            self.config = format!("{config}\n{}", database.section());
        }
        self.sandbox.write_config(&self.config);
        self
    }

    /// With this database, whatever storage is tested.
    pub fn on_database(mut self, database: Database<'static>) -> Proxy {
        let config = match self.sandbox.database() {
            Some(other) => self.config.replace(&other.section(), ""),
            None => self.config.clone(),
        };
        self.sandbox.keep_in(Some(database));
        self.configured(&config)
    }

    /// What this test says is said of files alone.
    pub fn on_files(mut self) -> Proxy {
        let Some(database) = self.sandbox.database() else { return self };
        let config = self.config.replace(&database.section(), "");
        let pair = self.stored_bytes();
        self.sandbox.keep_in(None);
        if let Some(pair) = pair {
            self.sandbox.write_token_file(&format!("{}.json", self.stem()), std::str::from_utf8(&pair).expect("UTF-8"));
        }
        self.configured(&config)
    }

    /// With `from` (which must be there) replaced in the configuration.
    pub fn reconfigured(self, from: &str, to: &str) -> Proxy {
        assert!(self.config.contains(from), "{from:?} is not in the configuration");
        let config = self.config.replace(from, to);
        self.configured(&config)
    }

    /// How a page or an error names the place of the portal's pair.
    pub fn place(&self) -> String {
        match self.sandbox.database() {
            Some(_) => format!("b24proxy_portals, {}", self.portal().name()),
            None => format!("{}.json", self.stem()),
        }
    }

    /// As if those who held something in the database, and were killed, had not renewed it for so long.
    pub fn leases_end(&self) {
        if let Some(database) = self.sandbox.database() {
            database.end_leases();
        }
    }

    /// As if no idempotency key had ever been used.
    pub fn forget_keys(&self) {
        if let Some(database) = self.sandbox.database() {
            database.sql("DELETE FROM b24proxy_keys");
            return;
        }
        let folder = self.sandbox.tokens().join("idempotency");
        assert!(std::fs::remove_dir_all(&folder).is_ok() || !folder.exists(), "{}", folder.display());
    }

    pub fn config(&self) -> &str {
        &self.config
    }

    pub fn portal(&self) -> Portal {
        self.simulator.portal()
    }

    /// The name of the portal's files in the token folder.
    pub fn stem(&self) -> String {
        self.portal().name().replace(':', "_")
    }

    pub fn store_pair(&self, pair: &TokenPair) {
        self.store(&token_file(pair, self.simulator.client_id(), unix_now() + 3600));
    }

    /// Stores a pair whose known lifetime is over.
    pub fn store_expired_pair(&self, pair: &TokenPair) {
        self.store(&token_file(pair, self.simulator.client_id(), unix_now() - 10));
    }

    pub fn store(&self, tokens: &Value) {
        self.sandbox.write_token_file(&format!("{}.json", self.stem()), &tokens.to_string());
    }

    /// The stored pair, whole or a panic.
    pub fn stored(&self) -> Value {
        let bytes = self.sandbox.token_file(&format!("{}.json", self.stem())).expect("a token file");
        serde_json::from_slice(&bytes).expect("a whole token file")
    }

    pub fn stored_bytes(&self) -> Option<Vec<u8>> {
        self.sandbox.token_file(&format!("{}.json", self.stem()))
    }

    /// Changes the stored pair.
    pub fn change_stored(&self, change: impl FnOnce(&mut Value)) {
        let mut tokens = self.stored();
        change(&mut tokens);
        self.store(&tokens);
    }

    /// A request of 1C: POST / with this body and the client's token.
    pub fn request(&self, body: impl Into<Vec<u8>>) -> Cgi<'_> {
        self.bare_request(body).bearer(TOKEN)
    }

    /// The same without credentials.
    pub fn bare_request(&self, body: impl Into<Vec<u8>>) -> Cgi<'_> {
        Cgi::new(&self.sandbox).method("POST").json(body)
    }

    /// Puts lines of a shell script in front of the executable; `{}` at their end is its path. Without any it runs by
    /// itself again.
    pub fn run_behind(&self, lines: &str) {
        self.sandbox.run_behind(lines);
    }

    pub fn get(&self, path: &str) -> Cgi<'_> {
        Cgi::new(&self.sandbox).path(path)
    }

    /// Calls a method of the portal as 1C does.
    pub fn call(&self, method: &str, params: Value) -> Answer {
        self.request(json!({ "domain": self.portal().name(), "method": method, "params": params }).to_string()).run()
    }
}

/// Passes on what comes on either, until both have ended.
pub fn join(mut one: TcpStream, mut other: TcpStream) {
    let (mut from, mut to) = (one.try_clone().expect("a descriptor"), other.try_clone().expect("a descriptor"));
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut other, &mut one);
    let _ = one.shutdown(Shutdown::Write);
}

/// The content of a token file with this pair.
pub fn token_file(pair: &TokenPair, client_id: impl AsRef<str>, expires_at: i64) -> Value {
    json!({
        "member_id": pair.member_id,
        "domain": pair.domain,
        "client_endpoint": pair.client_endpoint,
        "server_endpoint": pair.server_endpoint,
        "access_token": pair.access_token,
        "refresh_token": pair.refresh_token,
        "expires_at": expires_at,
        "scope": pair.scope,
        "user_id": pair.user_id,
        "application_token": "",
        "client_id": client_id.as_ref(),
        "installed_at": unix_now() - 100_000,
        "refreshed_at": 0,
    })
}

pub fn unix_now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()).expect("a small number")
}

pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

/// What stands in the place of a secret: `b24proxy-` and the first 12 hex digits of its SHA-256.
pub fn name_of(secret: &str) -> String {
    format!("b24proxy-{}", &sha256_hex(secret.as_bytes())[..12])
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The status and `error_code` of a failure, its envelope checked on the way.
pub fn failure(answer: &Answer) -> (u16, String) {
    let body = answer.json();
    assert_eq!(body["success"], false, "{body}");
    assert_eq!(body["code"], answer.status, "{body}");
    assert!(body["error"].as_str().is_some_and(|text| text.len() > 10), "a text for a person: {body}");
    assert_eq!(body["request_id"].as_str(), answer.header("X-Request-Id"), "{body}");
    (answer.status, body["error_code"].as_str().expect("error_code").to_owned())
}

#[track_caller]
pub fn assert_failure(answer: &Answer, status: u16, code: &str) {
    assert_eq!(failure(answer), (status, code.to_owned()), "{}", answer.text());
}

/// The token of the client that [`with_another_client`] adds.
pub const ANOTHER_TOKEN: &str = "another-token-for-tests";

/// With a second portal, and a client for that alone.
pub fn with_another_client(proxy: Proxy, portal: &str) -> Proxy {
    let lines = format!(
        "[portals.\"{portal}\"]\n\n[[security.clients]]\nname = \"1c-other\"\ntoken = \"{ANOTHER_TOKEN}\"\n\
         portals = [\"{portal}\"]\n\n[limits]"
    );
    proxy.reconfigured("[limits]", &lines)
}
