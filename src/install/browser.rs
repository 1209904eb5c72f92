//! Installation by a browser: to the portal's authorization page, and back with a code.

use super::{Installed, Installer, Problem};
use crate::config::{Config, Portal};
use crate::install::state;
use crate::values::answer::Answer;
use crate::values::form;
use crate::values::grant::Grant;
use crate::values::portal::{split_address, PortalName};
use crate::values::request::Variables;
use crate::values::secret::{random_hex, Secret};

/// What a browser sends along in the address.
#[derive(Default)]
pub struct Query {
    pub portal: Option<String>,
    pub code: Option<String>,
    pub state: Option<String>,
    pub error: Option<String>,
    /// The OAuth server of the portal.
    pub server_domain: Option<String>,
    /// The receipt of an installation.
    pub installed: Option<String>,
    /// Beside it: a call is to be tried.
    pub tries: bool,
    pub lang: Option<String>,
}

impl Query {
    pub fn of(variables: &Variables) -> Query {
        let fields: Vec<(String, String)> = form::fields(variables.bytes("QUERY_STRING")).collect();
        let field = |name: &str| {
            let mut given = fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone());
            let value = given.next()?;
            // Of a name given twice nothing is chosen.
            Some(if given.next().is_none() { value } else { String::new() })
        };
        Query {
            portal: field("portal"),
            code: field("code"),
            state: field("state"),
            error: field("error"),
            server_domain: field("server_domain"),
            installed: field("installed"),
            tries: field("try").is_some(),
            lang: field("LANG"),
        }
    }
}

impl Installer<'_> {
    /// `GET /install?portal=NAME`: to the portal's authorization page, with a state and its cookie.
    pub fn begin(&self, query: &Query) -> Result<Answer, Problem> {
        let named = query.portal.as_deref().map(str::trim).filter(|name| !name.is_empty());
        let domain = match (named, self.job.app.config.portals.as_slice()) {
            (Some(name), _) => name,
            (None, [only]) if query.portal.is_some() => only.name.as_str(),
            (None, _) => return Err(Problem::NoPortalNamed),
        };
        let (portal, application) = self.portal(domain)?;
        let cookie = random_hex::<16>();
        let state = state::issue(application, portal.name.as_str(), &cookie, self.job.app.store.now());
        let query = serde_urlencoded::to_string([("client_id", application.client_id.as_str()), ("state", &state)])
            .expect("pairs of texts serialize");
        let address = format!("{}://{}/oauth/authorize/?{query}", self.scheme(portal).as_str(), portal.name);
        Ok(Answer::redirect(address)
            .with("Set-Cookie", cookie_header(&self.job.app.config, &cookie, state::LIFETIME))
            .with("Referrer-Policy", "no-referrer"))
    }

    /// `GET /?code=…&state=…`: the way back.
    pub fn finish(&self, query: &Query, cookies: Option<&str>) -> Result<Installed, Problem> {
        let text = query.state.as_deref().unwrap_or("");
        if let Some(error) = query.error.as_deref() {
            return Err(Problem::Denied { error: code_of(error), begun_here: self.is_begun_here(text, cookies) });
        }
        let portal = self.portal_of_state(text).ok_or(Problem::State)?;
        let application = portal.application().ok_or(Problem::State)?;
        if !self.is_begun_here(text, cookies) {
            return Err(Problem::State);
        }
        let Some(code) = query.code.as_deref().filter(|code| !code.is_empty()) else {
            return Err(Problem::CodeSpent(None));
        };
        let named = query.server_domain.as_deref().unwrap_or("");
        let confirmed = self.confirmed(portal, application, &Grant::AuthorizationCode(code), named)?;
        self.accept(portal, application, confirmed, Secret::default())
    }

    /// Whether this browser began an installation with this state.
    fn is_begun_here(&self, state: &str, cookies: Option<&str>) -> bool {
        let Some(portal) = self.portal_of_state(state) else { return false };
        let Some(application) = portal.application() else { return false };
        let cookie = cookies.and_then(state::cookie_value).unwrap_or("");
        state::verify(application, portal.name.as_str(), cookie, state, self.job.app.store.now())
    }

    fn portal_of_state(&self, state: &str) -> Option<&Portal> {
        self.job.app.config.portal_of(&PortalName::parse(&state::claimed_portal(state)?)?)
    }
}

/// An error's code as a page may show it: whoever makes an address could write anything there. Of other words nothing.
fn code_of(error: &str) -> String {
    let is_code = (1..=64).contains(&error.len()) && error.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if is_code {
        error.to_owned()
    } else {
        String::new()
    }
}

/// Takes the cookie back: the state is used.
pub fn forget_cookie(config: &Config) -> String {
    cookie_header(config, "", 0)
}

/// For this program's own path alone: what else lies at the host does not get it.
fn cookie_header(config: &Config, value: &str, seconds: i64) -> String {
    let address = config.bitrix24.redirect_uri.as_deref();
    let secure = if address.is_some_and(|address| address.starts_with("http://")) { "" } else { "; Secure" };
    let path = address.and_then(split_address).map_or("/", |(_, _, path)| path);
    format!("{}={value}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}", state::COOKIE)
}
