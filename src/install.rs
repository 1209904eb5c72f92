//! Installation by a browser: the redirect to the portal's authorization page, and the way back with a code.

use crate::answer::Answer;
use crate::boundary::Environment;
use crate::clock::{unix_now, Deadline};
use crate::config::{Application, Config, Portal};
use crate::error::{Error, Result};
use crate::http::{Http, Post};
use crate::log::{Level, Log};
use crate::oauth::{self, Grant, Issued, Refusal};
use crate::page::Page;
use crate::portal::{Endpoint, Refused, Scheme, Target, Version};
use crate::secret::random_hex;
use crate::state;
use crate::store::{Installation, Store, Tokens};

/// What a browser sends along in the address.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub struct Query {
    pub portal: Option<String>,
    pub code: Option<String>,
    pub state: Option<String>,
    pub error: Option<String>,
}

impl Query {
    pub fn of(environment: &Environment) -> Query {
        serde_urlencoded::from_bytes(environment.bytes("QUERY_STRING")).unwrap_or_default()
    }
}

/// `GET /install?portal=NAME`: to the portal's authorization page, with a state and its cookie.
pub fn begin(config: &Config, portal: &Portal) -> Result<Answer> {
    let Some(application) = portal.application() else {
        return Err(Error::InvalidRequest(
            "This portal is used through an incoming webhook; there is nothing to install.".into(),
        ));
    };
    let cookie = random_hex::<16>();
    let state = state::issue(application, portal.name.as_str(), &cookie, unix_now());
    let query = serde_urlencoded::to_string([("client_id", application.client_id.as_str()), ("state", &state)])
        .expect("pairs of texts serialize");
    let scheme = browser_scheme(config, portal).as_str();
    let address = format!("{scheme}://{}/oauth/authorize/?{query}", portal.name);
    Ok(Answer::redirect(address)
        .with("Set-Cookie", cookie_header(config, &cookie, state::LIFETIME))
        .with("Referrer-Policy", "no-referrer"))
}

/// A portal is reached by https, unless its stored address, or on a closed network the OAuth server's, is plain http.
fn browser_scheme(config: &Config, portal: &Portal) -> Scheme {
    if !config.bitrix24.allow_http {
        return Scheme::Https;
    }
    match Store::new(&config.token_folder).read(&portal.name) {
        Ok(Installation::Installed(tokens)) if tokens.client_endpoint.starts_with("https:") => Scheme::Https,
        Ok(Installation::Installed(_)) => Scheme::Http,
        _ => config.bitrix24.oauth_server.scheme(),
    }
}

fn cookie_header(config: &Config, value: &str, seconds: i64) -> String {
    let secure = match &config.bitrix24.redirect_uri {
        Some(address) if address.starts_with("http://") => "",
        _ => "; Secure",
    };
    format!("{}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}", state::COOKIE)
}

/// `GET /?code=…&state=…`: the way back.
pub fn finish(config: &Config, log: &Log, environment: &Environment, query: &Query, deadline: Deadline) -> Answer {
    match finished(config, log, environment, query, deadline) {
        Ok(page) => page.answer(200).with("Set-Cookie", cookie_header(config, "", 0)),
        Err((status, page)) => page.answer(status),
    }
}

type Outcome = std::result::Result<Page, (u16, Page)>;

fn refuse(status: u16, title: &str, line: impl Into<String>) -> (u16, Page) {
    (status, Page { title: title.into(), lines: vec![line.into()] })
}

fn finished(config: &Config, log: &Log, environment: &Environment, query: &Query, deadline: Deadline) -> Outcome {
    let refused_state = || {
        refuse(
            403,
            "This link is not valid here",
            "It was opened in another browser, is older than 10 minutes, or was used already. Begin again at \
             /install?portal=NAME.",
        )
    };
    let text = query.state.as_deref().unwrap_or("");
    let portal = state::claimed_portal(text).and_then(|name| config.portals.iter().find(|p| p.name.as_str() == name));
    let (portal, application) = portal.and_then(|p| Some((p, p.application()?))).ok_or_else(refused_state)?;
    let cookie = environment.text("HTTP_COOKIE").and_then(state::cookie_value).unwrap_or("");
    if !state::verify(application, portal.name.as_str(), cookie, text, unix_now()) {
        return Err(refused_state());
    }
    let Some(code) = query.code.as_deref().filter(|code| !code.is_empty()) else {
        let why = if query.error.is_some() { "Bitrix24 did not give its consent" } else { "The code is missing" };
        return Err(refuse(400, "Not installed", format!("{why}. Begin again at /install?portal={}.", portal.name)));
    };
    let issued = oauth::request(config, application, &Grant::AuthorizationCode(code), deadline)
        .map_err(|refusal| explain_refusal(config, log, &refusal))?;
    let installed =
        install(config, log, portal, application, issued, deadline).map_err(|error| explain(log, &error))?;
    log.line(
        Level::Info,
        "installed",
        &[("portal", portal.name.as_str().into()), ("user_id", installed.user_id.into())],
    );
    Ok(Page {
        title: "b24proxy is installed".into(),
        lines: vec![format!("Portal {}, user {}. This page can be closed.", portal.name, installed.user_id)],
    })
}

/// Stores a pair that the OAuth server gave, once it is the configured portal's and an administrator's.
fn install(
    config: &Config,
    log: &Log,
    portal: &Portal,
    application: &Application,
    issued: Issued,
    deadline: Deadline,
) -> Result<Tokens> {
    let endpoint = portal.endpoint(&issued.client_endpoint, config.bitrix24.allow_http).map_err(|why| match why {
        Refused::OtherPortal(name) => Error::Forbidden(format!(
            "The application was authorized on {name}, but this installation is for {}.",
            portal.name
        )),
        _ => Error::Forbidden("The OAuth server gave an address of the portal that may not be used.".into()),
    })?;
    require_administrator(config, &endpoint, &issued, deadline)?;
    let store = Store::new(&config.token_folder);
    let lock = store
        .lock(&portal.name, deadline.at_most(config.limits.max_wait))
        .map_err(Error::Storage)?
        .ok_or(Error::RefreshPending { retry_after: 5 })?;
    match lock.read().map_err(Error::Storage)? {
        Installation::Broken(why) => return Err(Error::Storage(why)),
        Installation::Installed(old) if !old.member_id.is_empty() && old.member_id != issued.member_id => {
            return Err(Error::MemberMismatch(format!(
                "Another Bitrix24 is installed under the name {}. If the portal was really replaced, move \
                 {}.json in the token folder away and install again.",
                portal.name,
                portal.name.file_stem()
            )))
        }
        Installation::Installed(_) | Installation::NotInstalled => {}
    }
    let now = unix_now();
    let missing: Vec<&str> = {
        let granted: Vec<&str> = issued.scope.split(',').map(str::trim).collect();
        config.bitrix24.scope.iter().map(String::as_str).filter(|s| !granted.contains(s)).collect()
    };
    if !missing.is_empty() {
        log.warn(&format!("rights that were not granted: {}", missing.join(", ")));
    }
    let tokens = Tokens {
        member_id: issued.member_id,
        domain: issued.domain,
        client_endpoint: endpoint.to_client_endpoint(),
        server_endpoint: issued.server_endpoint,
        access_token: issued.access_token,
        refresh_token: issued.refresh_token,
        expires_at: issued.expires_at,
        scope: issued.scope,
        user_id: issued.user_id,
        application_token: Default::default(),
        client_id: application.client_id.clone(),
        installed_at: now,
        refreshed_at: 0,
        renamed_from: String::new(),
    };
    lock.reserve().and_then(|reserved| reserved.commit(&tokens)).map_err(Error::Storage)?;
    Ok(tokens)
}

/// Only an administrator's token may become the portal's: `user.admin` needs no scope.
fn require_administrator(config: &Config, endpoint: &Endpoint, issued: &Issued, deadline: Deadline) -> Result<()> {
    let http = Http::for_portals(config).map_err(|_| Error::Configuration("ca_file cannot be used".into()))?;
    let unreachable = |why: &str| Error::Unreachable { why: why.into(), executed: crate::error::Executed::No };
    let body = serde_json::json!({ "auth": issued.access_token.expose() }).to_string();
    let reply = http
        .post(&Post {
            url: &Target::OAuth(endpoint.clone()).url(Version::V2, "user.admin"),
            content_type: "application/json",
            headers: &[],
            parts: &[body.as_bytes()],
            deadline,
            max_response: 1 << 20,
            prefix: b"",
        })
        .map_err(|_| unreachable("no answer to the question who installs"))?;
    match serde_json::from_slice::<serde_json::Value>(reply.answer()) {
        Ok(answer) if answer["result"] == true => Ok(()),
        Ok(answer) if answer["result"] == false => Err(Error::Forbidden(
            "Only an administrator of the portal can install the application: log in to Bitrix24 as one and begin again."
                .into(),
        )),
        _ => Err(unreachable("no usable answer to the question who installs")),
    }
}

fn explain_refusal(config: &Config, log: &Log, refusal: &Refusal) -> (u16, Page) {
    let text = refusal.text(config.bitrix24.oauth_server.host());
    log.error(&format!("installation: the OAuth server gave no tokens: {text}"));
    match refusal {
        Refusal::InvalidGrant { .. } => refuse(
            400,
            "Not installed",
            "The code has been used already or is older than 30 seconds. Begin again at /install?portal=NAME.",
        ),
        Refusal::Configuration { why } => explain(log, &Error::Configuration(why.clone())),
        _ => refuse(502, "Not installed", format!("Bitrix24's OAuth server did not give tokens: {text}.")),
    }
}

fn explain(log: &Log, error: &Error) -> (u16, Page) {
    if let Some(detail) = error.detail() {
        log.error(detail);
    }
    refuse(error.status_and_code().0, "Not installed", error.text())
}
