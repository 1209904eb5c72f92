//! `proxy.toml`: what it may say, with every refusal naming what mends it. Uses values and system.
//!
//! [`find`] looks for the file and judges its permissions, [`mod@file`] is its shape, [`advice`] what to write where it has
//! another one, and this file turns that shape into values that the rest of the program can trust.

mod advice;
mod file;
mod find;
mod samples;
mod sources;

use advice::{shown, SHORTEST_TOKEN};
pub use file::Reuse;
pub use find::{home_of, is_public, Surroundings};
pub use sources::Sources;

use crate::system::disk::refuse_writable_by_others;
use crate::system::log::Level;
use crate::values::connector;
use crate::values::database::{Address, Kind};
use crate::values::event::{Audible, Bounds, EventPattern};
use crate::values::listening::MOST_WORKERS;
use crate::values::method::{Method, Pattern};
use crate::values::oauth_server::{Asked, OauthServer};
use crate::values::portal::{host_of, split_address, Endpoint, IncomingWebhook, PortalName, Scheme};
use crate::values::proxy::Proxy;
use crate::values::secret::{from_hex, sha256, Secret};
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Of a portal.
const MOST_EVENTS: u64 = 100_000_000;
const LEAST_EVENTS: u64 = 1 << 20;

#[derive(Debug)]
pub struct Config {
    /// The file that was read.
    pub path: PathBuf,
    pub bitrix24: Bitrix24,
    pub portals: Vec<Portal>,
    /// With a database, the folder of what is this machine's own.
    pub token_folder: PathBuf,
    pub database: Option<Address>,
    pub clients: Vec<Client>,
    pub allowed_ips: Option<Vec<IpNet>>,
    /// Web servers in front, whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpNet>,
    pub cors_origins: Vec<String>,
    pub limits: Limits,
    /// Of each portal.
    pub events: Bounds,
    pub fastcgi: FastCgi,
    pub log: LogTo,
}

#[derive(Debug)]
pub struct Bitrix24 {
    /// This program's own public address, without a trailing slash.
    pub redirect_uri: Option<String>,
    pub scope: Vec<String>,
    pub proxy: Option<Proxy>,
    pub connect_timeout: Duration,
    /// For the whole request, waiting included.
    pub timeout: Duration,
    pub ca_file: Option<PathBuf>,
    pub allow_http: bool,
}

#[derive(Clone, Debug)]
pub struct Application {
    pub client_id: String,
    pub client_secret: Secret,
}

#[derive(Debug)]
pub struct Portal {
    pub name: PortalName,
    /// As [`word`] has them.
    pub aliases: Vec<String>,
    pub way: Way,
    /// The portal's own setting, failing that the general one.
    pub oauth_server: Option<OauthServer>,
    /// Leaky bucket: how many calls drain a second, and how many it holds.
    pub requests_per_second: f64,
    pub burst: f64,
}

/// How a portal is called.
#[derive(Debug)]
pub enum Way {
    OAuth(Arc<Application>),
    Webhook(IncomingWebhook),
}

/// A caller that the configuration names.
#[derive(Clone, Debug)]
pub struct Client {
    pub name: String,
    /// The one-client form `auth_token`: Basic authorization may come with any user name.
    pub any_user: bool,
    /// SHA-256 of the token. Digests of equal length are compared, so that time tells nothing about a token.
    pub digest: [u8; 32],
    /// `None` = every configured portal.
    pub portals: Option<Vec<PortalName>>,
    /// `None` = every method.
    pub methods: Option<Vec<Pattern>>,
    /// `None` = every address.
    pub ips: Option<Vec<IpNet>>,
    /// Which events it may see, and register.
    pub events: Audible,
    /// Sent with each of its calls that names no other.
    pub auth_connector: Option<String>,
}

#[derive(Debug)]
pub struct Limits {
    pub max_body: u64,
    pub max_response: u64,
    /// Bytes of a file on its way through.
    pub max_file: u64,
    pub max_wait: Duration,
}

/// Of the executable that serves many requests.
#[derive(Debug)]
pub struct FastCgi {
    pub workers: u32,
    pub reuse: Reuse,
}

impl Reuse {
    pub fn covers(self, method: &Method) -> bool {
        match self {
            Reuse::Always => true,
            Reuse::Reads => method.only_reads(),
            Reuse::Never => false,
        }
    }
}

#[derive(Debug)]
pub struct LogTo {
    pub file: Option<PathBuf>,
    pub level: Level,
}

impl Config {
    /// Finds, judges and reads the file. The error is for the administrator: it may name paths. It is all that is wrong, a
    /// line each.
    pub fn load(surroundings: &Surroundings) -> Result<Config, String> {
        let find::Found { path, text, mut wrong } = find::find(surroundings)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let (config, named) = match file::parse(&text) {
            Ok(file) => {
                let named = Named::of(&file, folder);
                (build(file, &path), named)
            }
            Err(wrong) => (Err(wrong), Named::in_text(&text, folder)),
        };
        let config = without_samples(config, &text);
        if let Some(ca_file) = &named.ca_file {
            wrong.extend(find::refuse_authorities_of_others(ca_file).err());
        }
        // Of a configuration that is to be moved, what is not there yet moves along.
        let moves = surroundings.is_below_document_root(&path);
        if let Some(tokens) = named.token_folder.as_deref().filter(|tokens| !moves || tokens.exists()) {
            wrong.extend(surroundings.refuse_below_document_root(tokens, "the token folder").err());
        }
        if let Some(log) = named.log.as_deref().filter(|log| !moves || log.exists()) {
            wrong.extend(surroundings.refuse_log_below_document_root(log).err());
        }
        match config {
            Ok(config) if wrong.is_empty() => return Ok(config),
            Ok(_) => {}
            Err(more) => wrong.extend(located(more, &path)),
        }
        // Alone that is the storage's error.
        wrong.extend(named.token_folder.as_deref().and_then(|folder| refuse_writable_by_others(folder).err()));
        Err(wrong.join("\n"))
    }

    /// Reads the text of the file at `path`, to whose folder relative paths refer.
    #[cfg(test)]
    pub fn parse(text: &str, path: &Path) -> Result<Config, String> {
        let built = without_samples(file::parse(text).and_then(|file| build(file, path)), text);
        built.map_err(|wrong| located(wrong, path).collect::<Vec<_>>().join("\n"))
    }

    /// Which folder the text of the file at `path` names for tokens, as far as that can be told though other things in it are
    /// wrong.
    pub fn token_folder_in(text: &str, path: &Path) -> Option<PathBuf> {
        Named::in_text(text, path.parent()?).token_folder
    }

    /// A client's token where the file holds it in plain, for trying the web server with it: of a client that may call
    /// from any address.
    pub fn plain_token(&self) -> Option<Secret> {
        let from_anywhere = |client: &Client| self.allowed_ips.is_none() && client.ips.is_none();
        let may = |name: &str| self.clients.iter().any(|client| client.name == name && from_anywhere(client));
        self.plain_tokens().into_iter().find(|(name, _)| may(name)).map(|(_, token)| token)
    }

    /// Clients' names and tokens, as far as the file holds them in plain.
    pub fn plain_tokens(&self) -> Vec<(String, Secret)> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let Ok(file::File { security, .. }) = file::parse(&text) else { return Vec::new() };
        let one = security.auth_token.map(|token| ("auth_token".to_owned(), token));
        let named = security.clients.into_iter().filter_map(|client| Some((client.name, client.token?)));
        one.into_iter().chain(named).collect()
    }

    /// The portal of this very name.
    pub fn portal_of(&self, name: &PortalName) -> Option<&Portal> {
        self.portals.iter().find(|portal| portal.name == *name)
    }

    /// The portal that a caller names, perhaps by an address of it, such as a whole webhook's.
    pub fn portal(&self, domain: &str) -> Option<&Portal> {
        named(&self.portals, domain).or_else(|| named(&self.portals, host_of(domain)?))
    }

    /// `scheme://host[:port]` of this program's own address, as browsers write it in `Origin`.
    pub fn own_origin(&self) -> Option<String> {
        let (scheme, name, _) = split_address(self.bitrix24.redirect_uri.as_deref()?)?;
        Some(format!("{}://{name}", scheme.as_str()))
    }

    /// Where an administrator of the portal installs the application.
    pub fn install_url(&self, portal: &PortalName) -> Option<String> {
        Some(format!("{}/install?portal={portal}", self.bitrix24.redirect_uri.as_deref()?))
    }
}

impl Portal {
    pub fn application(&self) -> Option<&Application> {
        match &self.way {
            Way::OAuth(application) => Some(application),
            Way::Webhook(_) => None,
        }
    }

    /// Where a stored pair is renewed.
    pub fn asked_for_pair(&self, server_endpoint: &str) -> Asked {
        Asked::for_pair(self.oauth_server.as_ref(), server_endpoint)
    }

    pub fn endpoint(
        &self,
        client_endpoint: &str,
        allow_http: bool,
    ) -> Result<Endpoint, crate::values::portal::Refused> {
        Endpoint::configured(client_endpoint, &self.name, allow_http)
    }
}

/// The portal of that name in any form, or alias.
fn named<'p>(portals: &'p [Portal], text: &str) -> Option<&'p Portal> {
    let word = word(text);
    portals.iter().find(|portal| portal.name.as_str() == word || portal.aliases.contains(&word))
}

/// A name or alias in the one form of all that mean it.
fn word(text: &str) -> String {
    PortalName::parse(text).map_or_else(|| text.trim().to_lowercase(), |name| name.to_string())
}

/// What the file names outside of itself, as far as it can be told though other things in it are wrong.
#[derive(Default)]
struct Named {
    token_folder: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    log: Option<PathBuf>,
}

impl Named {
    fn of(file: &file::File, folder: &Path) -> Named {
        Named {
            token_folder: storage(&file.storage, folder).ok(),
            ca_file: file.bitrix24.ca_file.as_ref().map(|file| folder.join(file)),
            log: (!file.log.file.is_empty()).then(|| folder.join(&file.log.file)),
        }
    }

    /// Of a text that is TOML and cannot be used.
    fn in_text(text: &str, folder: &Path) -> Named {
        let table: toml::Table = toml::from_str(text).unwrap_or_default();
        let path = |section: &str, key: &str| {
            let value = table.get(section)?.get(key)?.as_str()?;
            (!value.is_empty()).then(|| folder.join(value))
        };
        Named {
            token_folder: path("storage", "path").or_else(|| Some(folder.join(file::Storage::default().path))),
            ca_file: path("bitrix24", "ca_file"),
            log: path("log", "file"),
        }
    }
}

/// Which parts that a site needs are written, well or not.
pub struct Written {
    pub portals: bool,
    pub clients: bool,
    /// Also where no portal needs it.
    pub redirect_uri: bool,
}

impl Written {
    /// In the file that [`Config::load`] refuses; `None` where it cannot be read, or is not TOML.
    pub fn at(surroundings: &Surroundings) -> Option<Written> {
        Written::in_text(&std::fs::read_to_string(surroundings.locate()?).ok()?)
    }

    fn in_text(text: &str) -> Option<Written> {
        let table: toml::Table = toml::from_str(text.strip_prefix('\u{feff}').unwrap_or(text)).ok()?;
        let under = |section: &str, key: &str| table.get(section)?.get(key);
        let portals = table.get("portals").and_then(toml::Value::as_table);
        let mut portals = portals.into_iter().flatten().peekable();
        Some(Written {
            portals: portals.peek().is_some(),
            clients: under("security", "auth_token").or(under("security", "clients")).is_some(),
            redirect_uri: under("bitrix24", "redirect_uri").is_some()
                || portals.all(|(_, portal)| portal.get("webhook").is_some()),
        })
    }
}

/// Refuses what is left of the samples, all at once; what is wrong with such a value besides is not told.
fn without_samples<T>(built: Result<T, Vec<String>>, text: &str) -> Result<T, Vec<String>> {
    let left = samples::left_in(text);
    if left.is_empty() {
        return built;
    }
    let is_told = |why: &String| left.iter().any(|sample| why.starts_with(&sample.place));
    let others = built.err().into_iter().flatten().filter(|why| !is_told(why)).collect::<Vec<_>>();
    Err(left.into_iter().map(|sample| sample.text).chain(others).collect())
}

fn located(wrong: Vec<String>, path: &Path) -> impl Iterator<Item = String> + '_ {
    wrong.into_iter().map(move |why| format!("{}: {why}", path.display()))
}

/// What is wrong, collected, so that it is told in one answer.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn keep<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|why| self.0.push(why)).ok()
    }
}

/// The error is all that is wrong, except for what follows from something else that is.
fn build(file: file::File, path: &Path) -> Result<Config, Vec<String>> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut wrong = Wrong::default();
    let bitrix24 = bitrix24(&file.bitrix24, folder, &mut wrong);
    let shared = application(file.bitrix24.client_id, file.bitrix24.client_secret);
    let in_bitrix24 = |why| format!("[bitrix24] {why}");
    let shared = wrong.keep(shared.map_err(in_bitrix24));
    let allow_http = file.bitrix24.allow_http;
    let general = wrong.keep(oauth_server(file.bitrix24.oauth_server.as_deref(), allow_http).map_err(in_bitrix24));
    let shared = Shared {
        application: shared.map(|shared| shared.map(Arc::new)),
        oauth_server: general.clone().flatten(),
        allow_http,
    };
    let portals = portals(file.portals, &shared, &mut wrong);
    let clients = clients(&file.security, portals.as_deref(), &mut wrong);
    let token_folder = wrong.keep(storage(&file.storage, folder));
    let database = wrong.keep(database(&file.storage));
    let listed = file.security.allowed_ips.as_deref().map(|list| addresses(list, "[security] allowed_ips"));
    let allowed_ips = wrong.keep(listed.transpose());
    let trusted_proxies = wrong.keep(proxies(&file.security.trusted_proxies));
    let cors_origins = wrong.keep(origins(&file.security.cors_origins));
    let max_wait = wrong.keep(seconds(file.limits.max_wait, "[limits] max_wait"));
    let events = wrong.keep(events(&file.events));
    let workers = wrong.keep(workers(file.fastcgi.workers));
    let whole = || {
        Some(Config {
            path: path.to_owned(),
            token_folder: token_folder?,
            database: database?,
            clients: clients?,
            allowed_ips: allowed_ips?,
            trusted_proxies: trusted_proxies?,
            cors_origins: cors_origins?,
            limits: Limits {
                max_body: file.limits.max_body.0,
                max_response: file.limits.max_response.0,
                max_file: file.limits.max_file.0,
                max_wait: max_wait?,
            },
            events: events?,
            fastcgi: FastCgi { workers: workers?, reuse: file.fastcgi.reuse },
            log: LogTo {
                file: (!file.log.file.is_empty()).then(|| folder.join(&file.log.file)),
                level: file.log.level,
            },
            bitrix24: bitrix24?,
            portals: general.and(portals)?,
        })
    };
    whole().ok_or(wrong.0)
}

fn bitrix24(section: &file::Bitrix24, folder: &Path, wrong: &mut Wrong) -> Option<Bitrix24> {
    let redirect_uri = wrong.keep(section.redirect_uri.as_deref().map(redirect_uri).transpose());
    let timeout = wrong.keep(seconds(section.timeout, "[bitrix24] timeout"));
    let proxy = wrong.keep(section.proxy.as_ref().map(proxy).transpose());
    let connect_timeout = wrong.keep(seconds(section.connect_timeout, "[bitrix24] connect_timeout"));
    Some(Bitrix24 {
        redirect_uri: redirect_uri?,
        scope: section.scope.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_ascii_lowercase).collect(),
        proxy: proxy?,
        connect_timeout: connect_timeout?,
        timeout: timeout?,
        ca_file: section.ca_file.as_ref().map(|file| folder.join(file)),
        allow_http: section.allow_http,
    })
}

fn oauth_server(address: Option<&str>, allow_http: bool) -> Result<Option<OauthServer>, String> {
    let Some(address) = address else { return Ok(None) };
    let server = OauthServer::parse(address)
        .ok_or("oauth_server must be an address without a path, such as https://oauth.bitrix24.tech")?;
    if server.scheme() == Scheme::Http && !allow_http {
        return Err("oauth_server is plain http: write https, or set allow_http = true under [bitrix24] on a closed \
                    network"
            .into());
    }
    Ok(Some(server))
}

fn redirect_uri(address: &str) -> Result<String, String> {
    match split_address(address) {
        Some(_) if address.is_ascii() => Ok(address.trim_end_matches('/').to_owned()),
        // A header carries ASCII alone.
        Some((scheme, name, path)) => Ok(format!("{}://{name}{}", scheme.as_str(), path.trim_end_matches('/'))),
        None => Err("[bitrix24] redirect_uri must be this program's own public address, such as \
                     https://www.example.com/cgi-bin/b24proxy, without a query"
            .into()),
    }
}

fn proxy(address: &Secret) -> Result<Proxy, String> {
    Proxy::parse(address.expose()).map_err(|why| format!("[bitrix24] proxy {why}"))
}

/// Whole seconds from 1 to a day.
fn seconds(value: u64, key: &str) -> Result<Duration, String> {
    if (1..=86_400).contains(&value) {
        Ok(Duration::from_secs(value))
    } else {
        Err(format!("{key} = {value} must be a number of seconds from 1 to 86400"))
    }
}

/// An event is never larger than all may be: the form of one has 64 KiB.
fn events(section: &file::Events) -> Result<Bounds, String> {
    if !(1..=MOST_EVENTS).contains(&section.max) {
        return Err(format!("[events] max = {} must be a number from 1 to {MOST_EVENTS}", section.max));
    }
    if section.max_size.0 < LEAST_EVENTS {
        return Err("[events] max_size must be 1 MiB or more".into());
    }
    Ok(Bounds { keep: Duration::from_secs(section.keep.0), most: section.max, max_size: section.max_size.0 })
}

fn workers(value: u64) -> Result<u32, String> {
    let workers = u32::try_from(value).ok().filter(|workers| (1..=MOST_WORKERS).contains(workers));
    workers.ok_or_else(|| format!("[fastcgi] workers = {value} must be a number from 1 to {MOST_WORKERS}"))
}

fn application(id: Option<String>, secret: Option<Secret>) -> Result<Option<Application>, String> {
    match (id, secret) {
        (None, None) => Ok(None),
        (Some(id), Some(secret)) => {
            if id.is_empty() || secret.is_empty() {
                return Err("client_id and client_secret must not be empty".into());
            }
            Ok(Some(Application { client_id: id, client_secret: secret }))
        }
        _ => Err("must have both client_id and client_secret, or neither: they are one key pair".into()),
    }
}

/// What `[bitrix24]` says for portals that do not say it themselves.
struct Shared {
    /// `None`: it is wrong, and what portals lack through it is not told.
    application: Option<Option<Arc<Application>>>,
    oauth_server: Option<OauthServer>,
    allow_http: bool,
}

fn portals(sections: BTreeMap<String, file::Portal>, shared: &Shared, wrong: &mut Wrong) -> Option<Vec<Portal>> {
    let before = wrong.0.len();
    let mut portals: Vec<Portal> = Vec::with_capacity(sections.len());
    for (key, section) in sections {
        if shared.application.is_none() && section.client_id.is_none() && section.webhook.is_none() {
            continue;
        }
        let built = portal(&key, section, shared);
        portals.extend(wrong.keep(built.map_err(|why| format!("[portals.\"{}\"] {why}", shown(&key)))));
    }
    wrong.keep(refuse_double_names(&portals));
    (shared.application.is_some() && wrong.0.len() == before).then_some(portals)
}

fn portal(key: &str, section: file::Portal, shared: &Shared) -> Result<Portal, String> {
    let name =
        PortalName::parse(key).ok_or("must be named by the portal's host, such as [portals.\"acme.bitrix24.ru\"]")?;
    let own = application(section.client_id, section.client_secret)?;
    let way = match &section.webhook {
        Some(address) => Way::Webhook(
            IncomingWebhook::parse(address.expose(), &name, shared.allow_http)
                .map_err(|why| format!("webhook {why}"))?,
        ),
        None => Way::OAuth(
            own.map(Arc::new)
                .or_else(|| shared.application.clone().flatten())
                .ok_or("has no application: set client_id and client_secret here or under [bitrix24], or a webhook")?,
        ),
    };
    for (value, key) in [(section.requests_per_second, "requests_per_second"), (section.burst, "burst")] {
        if !(value.is_finite() && value > 0.0) {
            return Err(format!("{key} must be a number above 0"));
        }
    }
    let own_server = oauth_server(section.oauth_server.as_deref(), shared.allow_http)?;
    Ok(Portal {
        name,
        aliases: section.aliases.iter().map(|alias| word(alias)).collect(),
        way,
        oauth_server: own_server.or_else(|| shared.oauth_server.clone()),
        requests_per_second: section.requests_per_second,
        burst: section.burst,
    })
}

fn refuse_double_names(portals: &[Portal]) -> Result<(), String> {
    let mut seen: HashMap<String, &PortalName> = HashMap::with_capacity(2 * portals.len());
    for portal in portals {
        for word in std::iter::once(portal.name.to_string()).chain(portal.aliases.iter().cloned()) {
            if word.is_empty() {
                return Err(format!("[portals.\"{}\"] aliases must not contain an empty name", portal.name));
            }
            if let Some(other) = seen.get(&word) {
                let word = shown(&word);
                return Err(format!("{word:?} names both [portals.\"{other}\"] and [portals.\"{}\"]", portal.name));
            }
            seen.insert(word, &portal.name);
        }
    }
    Ok(())
}

fn storage(section: &file::Storage, folder: &Path) -> Result<PathBuf, String> {
    if section.path.as_os_str().is_empty() {
        return Err("[storage] path must name a folder, such as \"tokens\"".into());
    }
    // TOML reads "C:\tokens" as C:, a tabulator and "okens".
    if section.path.to_string_lossy().contains(char::is_control) {
        return Err("[storage] path holds a control character, as a \\ in quotes makes one; write it with /, such as \
                    path = \"C:/b24proxy/tokens\""
            .into());
    }
    Ok(folder.join(&section.path))
}

/// `None`: files are enough.
fn database(section: &file::Storage) -> Result<Option<Address>, String> {
    let (kind, example) = match section.kind.as_str() {
        "file" => return Ok(None),
        "postgres" if cfg!(feature = "postgres") => (Kind::Postgres, "postgres://user:password@db.lan/b24proxy"),
        "mysql" if cfg!(feature = "mysql") => (Kind::MySql, "mysql://user:password@db.lan/b24proxy"),
        "postgres" | "mysql" => {
            return Err(format!(
            "[storage] type = {0:?}: this program was built without it; build it with cargo build --release --locked \
                 --features {0}, or write type = \"file\"",
            section.kind
        ))
        }
        "session" => {
            return Err("[storage] type = \"session\" cannot work: a session belongs to one browser, and 1C, which \
                        calls from server to server, has none; write type = \"file\""
                .into())
        }
        other => {
            return Err(format!(
                "[storage] type = {:?} is unknown; write \"file\", \"postgres\" or \"mysql\"",
                shown(other)
            ))
        }
    };
    let url = section.url.as_ref().filter(|url| !url.is_empty());
    let url = url.ok_or_else(|| format!("[storage] url is missing: the database's address, such as {example}"))?;
    let address = Address::parse(url.expose()).map_err(|why| format!("[storage] url {why}"))?;
    match address.kind == kind {
        true => Ok(Some(address)),
        false => Err(format!("[storage] url must be such as {example}, as type = {:?} says", section.kind)),
    }
}

/// `portals`: `None` where they are wrong themselves.
fn clients(section: &file::Security, portals: Option<&[Portal]>, wrong: &mut Wrong) -> Option<Vec<Client>> {
    let before = wrong.0.len();
    let mut clients: Vec<Client> = Vec::with_capacity(section.clients.len() + 1);
    if let Some(token) = &section.auth_token {
        clients.extend(wrong.keep(token_digest(token, "[security] auth_token")).map(|digest| Client {
            name: "auth_token".into(),
            any_user: true,
            digest,
            portals: None,
            methods: None,
            ips: None,
            events: Audible::All,
            auth_connector: None,
        }));
    }
    for entry in &section.clients {
        let built = client(entry, portals);
        clients.extend(wrong.keep(built.map_err(|why| format!("[[security.clients]] {:?} {why}", shown(&entry.name)))));
    }
    for (i, client) in clients.iter().enumerate() {
        for other in &clients[..i] {
            let twice = refuse_likeness(other, client);
            wrong.keep(twice);
        }
    }
    (wrong.0.len() == before).then_some(clients)
}

fn refuse_likeness(one: &Client, other: &Client) -> Result<(), String> {
    if one.digest == other.digest {
        return Err(format!(
            "the clients {:?} and {:?} have one token; give each its own",
            shown(&one.name),
            shown(&other.name)
        ));
    }
    if one.name == other.name {
        return Err(format!("two clients are named {:?}; give each its own name", shown(&other.name)));
    }
    Ok(())
}

fn client(entry: &file::Client, portals: Option<&[Portal]>) -> Result<Client, String> {
    if entry.name.is_empty() || entry.name.contains(':') || entry.name.chars().any(char::is_control) {
        return Err("needs a name, without \":\" (it is the user name of Basic authorization)".into());
    }
    let digest = match (&entry.token, &entry.token_sha256) {
        (Some(token), None) => token_digest(token, "token")?,
        (None, Some(hash)) => from_hex(hash)
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or("token_sha256 must be 64 hexadecimal digits")?,
        _ => return Err("needs token or token_sha256, one of the two".into()),
    };
    Ok(Client {
        name: entry.name.clone(),
        any_user: false,
        digest,
        portals: entry.portals.as_deref().map(|names| allowed_portals(names, portals)).transpose()?,
        methods: entry.methods.as_deref().map(patterns).transpose()?,
        ips: entry.ips.as_deref().map(|list| addresses(list, "ips")).transpose()?,
        events: match (&entry.events, &entry.methods) {
            (Some(list), _) => Audible::Of(event_patterns(list)?),
            (None, None) => Audible::All,
            (None, Some(_)) => Audible::Of(Vec::new()),
        },
        auth_connector: entry.auth_connector.as_deref().map(auth_connector).transpose()?,
    })
}

fn auth_connector(text: &str) -> Result<String, String> {
    connector::check(text).map(|()| text.to_owned()).map_err(|why| format!("{} {why}", connector::NAME))
}

fn allowed_portals(names: &[String], portals: Option<&[Portal]>) -> Result<Vec<PortalName>, String> {
    let Some(portals) = portals else { return Ok(Vec::new()) };
    let allowed = |text: &String| {
        named(portals, text).map(|portal| portal.name.clone()).ok_or_else(|| {
            let text = shown(text);
            format!("portals: {text:?} is not configured; add [portals.{text:?}]")
        })
    };
    names.iter().map(allowed).collect()
}

fn patterns(list: &[String]) -> Result<Vec<Pattern>, String> {
    let pattern = |text: &String| {
        Pattern::parse(text).ok_or_else(|| {
            let text = shown(text);
            format!("methods: {text:?} is not a method name; write crm.deal.add, or crm.* for all that begin so")
        })
    };
    list.iter().map(pattern).collect()
}

fn event_patterns(list: &[String]) -> Result<Vec<EventPattern>, String> {
    let pattern = |text: &String| {
        EventPattern::parse(text).ok_or_else(|| {
            let text = shown(text);
            format!("events: {text:?} is not an event's name; write ONCRMDEALADD, or ONCRM* for all that begin so")
        })
    };
    list.iter().map(pattern).collect()
}

fn token_digest(token: &Secret, key: &str) -> Result<[u8; 32], String> {
    if token.expose().chars().count() < SHORTEST_TOKEN {
        return Err(format!("{key} is shorter than {SHORTEST_TOKEN} characters; \"b24proxy token\" makes a good one"));
    }
    Ok(sha256(token.expose().as_bytes()))
}

fn addresses(list: &[String], key: &str) -> Result<Vec<IpNet>, String> {
    list.iter()
        .map(|text| {
            let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            net.map(canonical).map_err(|_| {
                format!("{key}: {text:?} is not an address such as 192.0.2.10, 10.0.0.0/8 or 2001:db8::/32")
            })
        })
        .collect()
}

/// A network of IPv4 addresses in IPv6 form as that of the IPv4 addresses, in whose form callers are compared.
fn canonical(net: IpNet) -> IpNet {
    match (net.addr().to_canonical(), net.prefix_len()) {
        (IpAddr::V4(address), length @ 96..) if net.addr().is_ipv6() => {
            IpNet::new(address.into(), length - 96).unwrap_or(net)
        }
        _ => net,
    }
}

fn proxies(list: &[String]) -> Result<Vec<IpNet>, String> {
    let proxies = addresses(list, "[security] trusted_proxies")?;
    match proxies.iter().find(|net| net.prefix_len() == 0) {
        Some(all) => Err(format!(
            "[security] trusted_proxies: {all} is everybody, and would let each caller choose an address; write those of \
             the web servers in front, such as 127.0.0.1"
        )),
        None => Ok(proxies),
    }
}

fn origins(list: &[String]) -> Result<Vec<String>, String> {
    list.iter()
        .map(|text| match split_address(text) {
            Some((scheme, name, "/")) if !text.ends_with('/') => Ok(format!("{}://{name}", scheme.as_str())),
            _ => {
                let text = shown(text);
                Err(format!("[security] cors_origins: {text:?} is not an origin such as https://shop.example.com"))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use support::example::{example, filled_in, uncommented};

    const GOOD: &str = r#"
        [bitrix24]
        client_id = "local.1"
        client_secret = "secret-of-the-application"
        redirect_uri = "https://www.acme.test/cgi-bin/b24proxy"
        [portals."acme.bitrix24.ru"]
        aliases = ["acme"]
        [security]
        auth_token = "a-token-of-twenty-chars"
    "#;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("/home/u/b24proxy/proxy.toml"))
    }

    fn refused(text: &str) -> String {
        parse(text).expect_err("refused")
    }

    #[test]
    fn everything_that_is_not_written_has_the_documented_default() {
        let config = parse(GOOD).unwrap();
        assert!(config.portals[0].oauth_server.is_none());
        assert_eq!(config.bitrix24.connect_timeout, Duration::from_secs(10));
        assert_eq!(config.bitrix24.timeout, Duration::from_secs(55));
        assert!(!config.bitrix24.allow_http);
        assert_eq!(config.token_folder, Path::new("/home/u/b24proxy/tokens"));
        assert_eq!(config.limits.max_body, 16 << 20);
        assert_eq!(config.limits.max_response, 64 << 20);
        assert_eq!(config.limits.max_file, 2 << 30);
        assert_eq!(config.limits.max_wait, Duration::from_secs(20));
        assert_eq!((config.fastcgi.workers, config.fastcgi.reuse), (8, Reuse::Always));
        assert_eq!(config.log.level, Level::Info);
        assert!(config.log.file.is_none());
        let portal = &config.portals[0];
        assert_eq!((portal.requests_per_second, portal.burst), (2.0, 50.0));
        assert_eq!(config.own_origin().unwrap(), "https://www.acme.test");
    }

    #[test]
    fn fastcgi_has_1_to_256_workers_and_three_words_for_kept_connections() {
        let with = |line: &str| parse(&format!("{GOOD}\n[fastcgi]\n{line}"));
        assert_eq!(with("workers = 256").unwrap().fastcgi.workers, 256);
        for (word, adds, reads) in [("always", true, true), ("reads", false, true), ("never", false, false)] {
            let reuse = with(&format!("reuse = \"{word}\"")).unwrap().fastcgi.reuse;
            let covers = |name: &str| reuse.covers(&Method::parse(name).unwrap());
            assert_eq!((covers("crm.deal.add"), covers("crm.deal.list")), (adds, reads), "{word}");
            assert_eq!(covers("batch"), adds, "{word}");
        }
        for workers in ["0", "257", "18446744073709551615"] {
            let why = with(&format!("workers = {workers}")).unwrap_err();
            assert!(why.contains("workers") && why.contains("256"), "{why}");
        }
        for line in ["reuse = \"often\"", "reuse = \"Always\"", "reuse = true", "workers = -1", "workers = \"8\""] {
            let why = with(line).unwrap_err();
            let right = if line.starts_with("reuse") { "reuse = \"always\"" } else { "workers = 8" };
            assert!(why.contains("[fastcgi]") && why.ends_with(right) && !why.contains("often"), "{why}");
        }
    }

    #[test]
    fn a_portal_is_found_by_name_in_any_form_and_by_alias() {
        let config = parse(GOOD).unwrap();
        for domain in [
            "acme.bitrix24.ru",
            "https://ACME.bitrix24.ru/",
            "acme",
            "ACME",
            "https://acme.bitrix24.ru/rest/1/s3cr3tc0de/",
            " https://acme.bitrix24.ru:443/rest/1/s3cr3tc0de/crm.lead.add.json?a=b#c",
            "https://acme.bitrix24.ru?x=/evil.example",
            "HTTPS://acme.bitrix24.ru/crm/",
        ] {
            assert!(config.portal(domain).is_some(), "{domain}");
        }
        for domain in [
            "https://evil.example/acme.bitrix24.ru/",
            "https://acme.bitrix24.ru@evil.example/rest/",
            "https://acme.bitrix24.ru:8443/rest/",
            "/acme.bitrix24.ru",
            "acme.bitrix24.ru/rest/1/s3cr3tc0de",
            "acme#",
            "https:///acme.bitrix24.ru",
            "x/acme",
            "https://acme.bitrix24.ru\\@evil.example/",
        ] {
            assert!(config.portal(domain).is_none(), "{domain}");
        }
        assert!(config.portal("evil.example").is_none());
        assert!(config.portal("").is_none());
    }

    #[test]
    fn an_unknown_key_is_refused_and_the_nearest_known_one_named() {
        let text = GOOD.replace("client_secret", "clientsecret");
        assert!(refused(&text).contains("client_secret"), "{}", refused(&text));
        let text = format!("{GOOD}\nallowed_ip = []");
        assert!(refused(&text).contains("allowed_ips"), "{}", refused(&text));
        let text = format!("{GOOD}\n[storag]\n");
        assert!(refused(&text).contains("storage"), "{}", refused(&text));
    }

    #[test]
    fn a_refusal_of_a_value_never_shows_a_secret() {
        let text = GOOD.replace("\"secret-of-the-application\"", "[\"secret-of-the-application\"]");
        assert!(!refused(&text).contains("secret-of-the-application"), "{}", refused(&text));
        let text = GOOD.replace("\"a-token-of-twenty-chars\"", "\"a-token-of-twenty-chars");
        assert!(!refused(&text).contains("a-token-of"), "{}", refused(&text));
    }

    #[test]
    fn a_webhook_in_the_place_of_a_name_is_not_shown_behind_its_host() {
        let webhook = "https://acme.bitrix24.ru/rest/1/s3cr3tc0de/";
        let security = |line: &str| GOOD.replace("auth_token =", &format!("{line}\nauth_token ="));
        let client = |line: &str| format!("{GOOD}\n[[security.clients]]\nname = \"x\"\ntoken_sha256 = \"…\"\n{line}");
        let alias = GOOD.replace("\"acme\"", &format!("\"{webhook}\", \"{webhook}\""));
        for text in [
            GOOD.replace("acme.bitrix24.ru", webhook),
            alias,
            security(&format!("cors_origins = [\"{webhook}\"]")),
            client(&format!("portals = [\"{webhook}\"]")).replace('…', &"0".repeat(64)),
            client(&format!("methods = [\"{webhook}crm.deal.list\"]")).replace('…', &"0".repeat(64)),
            // Debug writes this one otherwise than it is.
            client(&format!("methods = ['{webhook}crm\\deal']")).replace('…', &"0".repeat(64)),
        ] {
            let why = refused(&text);
            assert!(why.contains("https://acme.bitrix24.ru/…") && !why.contains("s3cr3t"), "{why}");
        }
    }

    #[test]
    fn short_double_and_sample_tokens_are_refused() {
        assert!(refused(&GOOD.replace("a-token-of-twenty-chars", "short")).contains("20 characters"));
        assert!(refused(&GOOD.replace("a-token-of-twenty-chars", "…")).contains("sample"));
        assert!(refused(&GOOD.replace("secret-of-the-application", "…")).contains("sample"));
        let two = format!("{GOOD}\n[[security.clients]]\nname = \"one\"\ntoken = \"a-token-of-twenty-chars\"");
        assert!(refused(&two).contains("one token"));
    }

    #[test]
    fn what_is_written_is_known_though_it_may_be_wrong() {
        let written = |text: &str| {
            let Written { portals, clients, redirect_uri } = Written::in_text(text).unwrap();
            (portals, clients, redirect_uri)
        };
        assert_eq!(written(GOOD), (true, true, true));
        assert_eq!(written("[bitrix24]\nclient_secret = \"…\"\n[security]\n[portals]"), (false, false, true));
        assert_eq!(written("[portals.\"…\"]\n[[security.clients]]\nname = 1"), (true, true, false));
        assert_eq!(written("[portals.\"a.b\"]\nwebhook = \"…\""), (true, false, true));
        assert!(Written::in_text("[portals").is_none());
    }

    #[test]
    fn all_samples_are_told_at_once_and_nothing_else_of_such_a_value() {
        let text = GOOD
            .replace("\"local.1\"", "\"local.…\"")
            .replace("secret-of-the-application", "…")
            .replace("www.acme.test", "www.example.com")
            .replace("acme.bitrix24.ru", "….bitrix24.ru")
            .replace("a-token-of-twenty-chars", "…");
        let why = refused(&format!("{text}\nallowed_ips = [\"…\"]\n[limits]\nmax_wait = 0"));
        assert_eq!(why.lines().filter(|line| line.contains("is still the sample")).count(), 6, "{why}");
        assert!(
            why.lines().count() == 7
                && why.ends_with("[limits] max_wait = 0 must be a number of seconds from 1 to 86400"),
            "{why}"
        );
    }

    #[test]
    fn sessions_and_databases_that_cannot_be_are_refused_with_the_reason() {
        for (kind, word) in
            [("postgres", "url is missing"), ("mysql", "such as mysql://"), ("session", "browser"), ("x", "unknown")]
        {
            let text = format!("{GOOD}\n[storage]\ntype = \"{kind}\"");
            assert!(refused(&text).contains(word), "{}", refused(&text));
        }
    }

    #[test]
    fn a_database_has_an_address_that_is_never_shown() {
        let with = |url: &str| format!("{GOOD}\n[storage]\ntype = \"postgres\"\nurl = \"{url}\"");
        let config = parse(&with("postgres://u:geheim@db.lan/b24")).unwrap();
        assert_eq!(config.database.as_ref().map(ToString::to_string).as_deref(), Some("postgres://db.lan/b24"));
        assert!(!format!("{config:?}").contains("geheim"));
        for (url, word) in [("postgres://…", "sample"), ("mysql://u:geheim@db.lan/b24", "postgres://"), ("", "missing")]
        {
            let why = refused(&with(url));
            assert!(why.contains("[storage] url") && why.contains(word) && !why.contains("geheim"), "{why}");
        }
        let with = |url: &str| format!("{GOOD}\n[storage]\ntype = \"mysql\"\nurl = \"{url}\"");
        let config = parse(&with("mysql://u:geheim@db.lan/b24")).unwrap();
        assert_eq!(config.database.as_ref().map(ToString::to_string).as_deref(), Some("mysql://db.lan/b24"));
        let why = refused(&with("postgres://u:geheim@db.lan/b24"));
        assert!(why.contains("mysql://user") && !why.contains("geheim"), "{why}");
    }

    #[test]
    fn a_path_with_backslashes_is_refused_and_not_made() {
        let why = refused(&format!("{GOOD}\n[storage]\npath = \"C:\\tokens\""));
        assert!(why.contains("[storage] path") && why.contains("C:/b24proxy/tokens"), "{why}");
    }

    #[test]
    fn addresses_are_compared_in_the_form_of_callers_and_nobody_trusts_everybody() {
        let security = |line: &str| GOOD.replace("auth_token =", &format!("{line}\nauth_token ="));
        let config = parse(&security("allowed_ips = [\"::ffff:192.0.2.0/120\", \"::ffff:192.0.2.7\"]")).unwrap();
        assert_eq!(format!("{:?}", config.allowed_ips), "Some([192.0.2.0/24, 192.0.2.7/32])");
        let config = parse(&security("trusted_proxies = [\"127.0.0.1\", \"2001:db8::/32\"]")).unwrap();
        assert_eq!(format!("{:?}", config.trusted_proxies), "[127.0.0.1/32, 2001:db8::/32]");
        for everybody in ["0.0.0.0/0", "::/0", "::ffff:0:0/96"] {
            let why = refused(&security(&format!("trusted_proxies = [\"127.0.0.1\", \"{everybody}\"]")));
            assert!(why.contains("trusted_proxies") && why.contains("everybody"), "{why}");
        }
        for wrong in ["nginx", "127.0.0.1:80", "10.0.0.0/33", "", "unix:"] {
            let why = refused(&security(&format!("trusted_proxies = [\"{wrong}\"]")));
            assert!(why.contains("trusted_proxies") && why.contains("is not an address"), "{why}");
        }
    }

    #[test]
    fn names_are_not_given_twice() {
        let text = format!("{GOOD}\n[portals.\"other.bitrix24.ru\"]\naliases = [\"ACME\"]");
        assert!(refused(&text).contains("names both"));
        let text = format!("{GOOD}\n[portals.\"ACME.bitrix24.ru\"]");
        assert!(refused(&text).contains("names both"));
    }

    #[test]
    fn plain_http_needs_allow_http() {
        let text = GOOD.replace("[portals", "oauth_server = \"http://127.0.0.1:1\"\n[portals");
        assert!(refused(&text).contains("allow_http"));
        assert!(parse(&text.replace("oauth_server", "allow_http = true\noauth_server")).is_ok());
        let text = GOOD.replace("aliases", "oauth_server = \"http://127.0.0.1:1\"\naliases");
        assert!(refused(&text).contains("[portals.\"acme.bitrix24.ru\"] oauth_server is plain http"));
        assert!(parse(&text.replace("[bitrix24]", "[bitrix24]\nallow_http = true")).is_ok());
    }

    #[test]
    fn a_portals_own_oauth_server_counts_before_the_general_one() {
        let other = "\n[portals.\"other.bitrix24.ru\"]\noauth_server = \"https://oauth.lan:8443/\"\n[security]";
        let text = GOOD.replace("[portals", "oauth_server = \"https://oauth.bitrix24.tech\"\n[portals");
        let config = parse(&text.replace("[security]", other)).unwrap();
        let host = |at: usize| config.portals[at].oauth_server.as_ref().unwrap().host().to_owned();
        assert_eq!((host(0), host(1)), ("oauth.bitrix24.tech".to_owned(), "oauth.lan:8443".to_owned()));
        for wrong in ["oauth.lan", "https://oauth.lan/oauth/token/", ""] {
            let text = GOOD.replace("aliases", &format!("oauth_server = \"{wrong}\"\naliases"));
            assert!(refused(&text).contains("acme.bitrix24.ru\"] oauth_server must be an address"), "{wrong}");
        }
    }

    #[test]
    fn what_the_example_shows_beside_samples_is_the_default() {
        let defaults = "connect_timeout timeout allow_http requests_per_second burst type path max_body \
                        max_response max_file max_wait file level";
        let load = |text: &str| Config::parse(&filled_in(text), Path::new("/proxy.toml")).unwrap();
        let written = uncommented(|key| defaults.split_whitespace().any(|known| known == key));
        assert_eq!(written.lines().filter(|line| line.starts_with('#')).count() + 13, example_comments());
        assert_eq!(format!("{:?}", load(&written)), format!("{:?}", load(&example())));
    }

    fn example_comments() -> usize {
        example().lines().filter(|line| line.starts_with('#')).count()
    }
}
