//! The OAuth server: what is valid, and the token endpoint.

use std::collections::HashMap;

use serde_json::{json, Value};

use crate::faults::Moment;
use crate::http::{Reply, Request};
use crate::ledger::Kind;
use crate::params;
use crate::php::{Array, Php};
use crate::random;
use crate::state::{Shared, State};

const CODE_LIFETIME: f64 = 30.0;
const REFRESH_LIFETIME: f64 = 180.0 * 86_400.0;

/// An application's key pair.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyPair {
    pub client_id: String,
    pub client_secret: String,
}

impl KeyPair {
    pub(crate) fn random() -> KeyPair {
        KeyPair { client_id: format!("local.{}.{}", random::hex(14), "70414732"), client_secret: random::hex(50) }
    }
}

/// Whose a code or token is.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) portal: usize,
    pub(crate) user: u32,
    pub(crate) client_id: String,
    pub(crate) expires: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Refresh {
    Live,
    Spent,
    Revoked,
}

pub(crate) struct Oauth {
    pub(crate) application: KeyPair,
    pub(crate) expires_field: bool,
    codes: HashMap<String, Grant>,
    access: HashMap<String, Grant>,
    refresh: HashMap<String, (Grant, Refresh)>,
    /// From an access token to the refresh token it was issued with.
    pairs: HashMap<String, String>,
}

/// The OAuth server's answer to a successful token request.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenPair {
    pub access_token: String,
    /// Unix seconds; `None` where the field is switched off.
    pub expires: Option<u64>,
    pub expires_in: u64,
    pub scope: String,
    /// The OAuth server's host, as Bitrix24 has it.
    pub domain: String,
    pub server_endpoint: String,
    pub status: String,
    /// `https://PORTAL/rest/`
    pub client_endpoint: String,
    pub member_id: String,
    pub user_id: u32,
    pub refresh_token: String,
}

impl TokenPair {
    pub fn to_json(&self) -> Value {
        serde_json::from_str(&self.to_php().encode()).unwrap_or_default()
    }

    fn to_php(&self) -> Php {
        let mut fields = Array::new().with("access_token", self.access_token.as_str());
        if let Some(expires) = self.expires {
            fields.put("expires", expires as i64);
        }
        fields
            .with("expires_in", self.expires_in as i64)
            .with("scope", self.scope.as_str())
            .with("domain", self.domain.as_str())
            .with("server_endpoint", self.server_endpoint.as_str())
            .with("status", self.status.as_str())
            .with("client_endpoint", self.client_endpoint.as_str())
            .with("member_id", self.member_id.as_str())
            .with("user_id", i64::from(self.user_id))
            .with("refresh_token", self.refresh_token.as_str())
            .into()
    }
}

pub(crate) struct Refusal {
    status: u16,
    error: &'static str,
    description: &'static str,
    spent: bool,
}

fn refuse(status: u16, error: &'static str, description: &'static str) -> Refusal {
    Refusal { status, error, description, spent: false }
}

/// What a presented access token is worth.
pub(crate) enum Access {
    Valid(Grant),
    Expired,
    Unknown,
}

impl Oauth {
    pub(crate) fn new(application: KeyPair) -> Oauth {
        Oauth {
            application,
            expires_field: true,
            codes: HashMap::new(),
            access: HashMap::new(),
            refresh: HashMap::new(),
            pairs: HashMap::new(),
        }
    }

    pub(crate) fn access(&self, token: &str, portal: usize, now: f64) -> Access {
        match self.access.get(token) {
            Some(grant) if grant.portal != portal => Access::Unknown,
            Some(grant) if grant.expires <= now => Access::Expired,
            Some(grant) => Access::Valid(grant.clone()),
            None => Access::Unknown,
        }
    }

    pub(crate) fn refresh_token_beside(&self, access_token: &str) -> Option<&str> {
        self.pairs.get(access_token).map(String::as_str)
    }

    pub(crate) fn add_code(&mut self, portal: usize, user: u32, client_id: &str, now: f64) -> String {
        let code = random::hex(70);
        let grant = Grant { portal, user, client_id: client_id.to_owned(), expires: now + CODE_LIFETIME };
        self.codes.insert(code.clone(), grant);
        code
    }

    pub(crate) fn expire_access(&mut self, portal: usize) {
        for grant in self.access.values_mut().filter(|g| g.portal == portal) {
            grant.expires = 0.0;
        }
    }

    pub(crate) fn revoke_access(&mut self, portal: usize) {
        self.access.retain(|_, grant| grant.portal != portal);
    }

    pub(crate) fn revoke_refresh(&mut self, portal: usize) {
        for (grant, state) in self.refresh.values_mut() {
            if grant.portal == portal && *state == Refresh::Live {
                *state = Refresh::Revoked;
            }
        }
    }

    pub(crate) fn is_live(&self, refresh_token: &str, now: f64) -> bool {
        self.refresh.get(refresh_token).is_some_and(|(grant, state)| *state == Refresh::Live && grant.expires > now)
    }

    pub(crate) fn live_count(&self, portal: usize) -> usize {
        let live = |(grant, state): &&(Grant, Refresh)| grant.portal == portal && *state == Refresh::Live;
        self.refresh.values().filter(live).count()
    }

    /// All codes and tokens ever issued and not used up without a trace.
    pub(crate) fn tokens(&self) -> Vec<String> {
        let codes = self.codes.keys();
        let tokens = self.access.keys().chain(self.refresh.keys());
        codes.chain(tokens).cloned().collect()
    }
}

impl State {
    /// A new pair for this user, as every successful grant gives.
    pub(crate) fn pair(&mut self, index: usize, user: u32, client_id: &str, now: f64) -> TokenPair {
        let portal = &self.portals[index];
        let lifetime = portal.token_lifetime;
        let grant = |expires| Grant { portal: index, user, client_id: client_id.to_owned(), expires };
        let pair = TokenPair {
            access_token: random::hex(70),
            expires: self.oauth.expires_field.then_some((now + lifetime as f64) as u64),
            expires_in: lifetime,
            scope: portal.scope.clone(),
            domain: self.oauth_name.clone(),
            server_endpoint: format!("{}/rest/", self.oauth_url),
            status: "L".to_owned(),
            client_endpoint: portal.client_endpoint(),
            member_id: portal.member_id.clone(),
            user_id: user,
            refresh_token: random::hex(70),
        };
        let oauth = &mut self.oauth;
        oauth.pairs.insert(pair.access_token.clone(), pair.refresh_token.clone());
        oauth.access.insert(pair.access_token.clone(), grant(now + lifetime as f64));
        oauth.refresh.insert(pair.refresh_token.clone(), (grant(now + REFRESH_LIFETIME), Refresh::Live));
        pair
    }

    fn grant_tokens(&mut self, params: &Array, now: f64) -> Result<TokenPair, Refusal> {
        let text = |name| params.get(name).map(Php::to_text).unwrap_or_default();
        let (client_id, client_secret) = (text("client_id"), text("client_secret"));
        let grant_type = text("grant_type");
        if !matches!(grant_type.as_str(), "authorization_code" | "refresh_token") {
            return Err(refuse(400, "invalid_request", "Invalid grant_type parameter or parameter missing"));
        }
        let presented = KeyPair { client_id, client_secret };
        let known = self.oauth.application == presented || self.portals.iter().any(|p| p.application == presented);
        if !known {
            return Err(refuse(401, "invalid_client", "Client credentials are invalid"));
        }
        let client_id = presented.client_id;
        let grant = if grant_type == "refresh_token" {
            self.check_refresh(&text("refresh_token"), &client_id, now)?
        } else {
            self.check_code(&text("code"), &client_id, now)?
        };
        let portal = &self.portals[grant.portal];
        if portal.deleted {
            return Err(refuse(400, "invalid_grant", "Portal is deleted"));
        }
        if portal.payment_required {
            return Err(refuse(402, "PAYMENT_REQUIRED", "Payment required"));
        }
        if let Some((_, state)) = self.oauth.refresh.get_mut(&text("refresh_token")) {
            *state = Refresh::Spent;
        }
        self.oauth.codes.remove(&text("code"));
        Ok(self.pair(grant.portal, grant.user, &client_id, now))
    }

    fn check_code(&self, code: &str, client_id: &str, now: f64) -> Result<Grant, Refusal> {
        if code.is_empty() {
            return Err(refuse(400, "invalid_request", "Missing parameter: code"));
        }
        match self.oauth.codes.get(code) {
            Some(grant) if grant.client_id == client_id && grant.expires > now => Ok(grant.clone()),
            _ => Err(refuse(400, "invalid_grant", "Authorization code is invalid or expired")),
        }
    }

    fn check_refresh(&self, token: &str, client_id: &str, now: f64) -> Result<Grant, Refusal> {
        if token.is_empty() {
            return Err(refuse(400, "invalid_request", "Missing parameter: refresh_token"));
        }
        let invalid = refuse(400, "invalid_grant", "Invalid refresh token");
        match self.oauth.refresh.get(token) {
            Some((_, Refresh::Spent)) => Err(Refusal { spent: true, ..invalid }),
            Some((grant, Refresh::Live)) if grant.client_id == client_id && grant.expires > now => Ok(grant.clone()),
            _ => Err(invalid),
        }
    }

    /// The portal whose token or code is presented, for faults that are one portal's.
    fn portal_of(&self, params: &Array) -> Option<usize> {
        let text = |name| params.get(name).map(Php::to_text).unwrap_or_default();
        let code = self.oauth.codes.get(&text("code"));
        let refresh = self.oauth.refresh.get(&text("refresh_token"));
        code.or(refresh.map(|(grant, _)| grant)).map(|g| g.portal)
    }
}

/// Everything the OAuth server's listener answers.
pub(crate) fn answer(shared: &Shared, request: &Request) -> Reply {
    let now = shared.clock.now();
    if request.path != "/oauth/token" {
        let number = shared.ledger.begin(now, "oauth", request, Kind::Other);
        let reply = Reply::html(404, "<html><body>404 Not Found</body></html>");
        shared.ledger.finish(number, &reply, Vec::new());
        return reply;
    }
    let mut params = params::parse_query(request.query.as_bytes());
    if request.method == "POST" {
        params = params::of_form(request, params);
    }
    let text = |name| params.get(name).map(Php::to_text).unwrap_or_default();
    let kind = Kind::Token {
        grant_type: text("grant_type"),
        client_id: text("client_id"),
        outcome: String::new(),
        spent: false,
    };
    let number = shared.ledger.begin(now, "oauth", request, kind);
    let portal = shared.state().portal_of(&params);
    let mut struck = Vec::new();
    let reply = shared.faults.around(&Moment::Token { portal }, &mut struck, || token(shared, number, &params));
    shared.ledger.finish(number, &reply, struck);
    reply
}

fn token(shared: &Shared, number: u64, params: &Array) -> Reply {
    let result = shared.state().grant_tokens(params, shared.clock.now());
    let (reply, code, was_spent) = match result {
        Ok(pair) => (Reply::json(200, pair.to_php().encode()), "ok", false),
        Err(refusal) => {
            let body = Array::new().with("error", refusal.error).with("error_description", refusal.description);
            let reply = Reply::json(refusal.status, Php::from(body).encode());
            (reply, refusal.error, refusal.spent)
        }
    };
    shared.ledger.update(number, |entry| {
        if let Kind::Token { outcome, spent, .. } = &mut entry.kind {
            code.clone_into(outcome);
            *spent = was_spent;
        }
    });
    reply
}

/// The token endpoint's state in numbers, for the control listener.
pub(crate) fn state_json(state: &State, portal: usize) -> Value {
    json!({"live_refresh_tokens": state.oauth.live_count(portal)})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::PortalState;

    fn state() -> (State, KeyPair) {
        let keys = KeyPair::random();
        let mut state = State::new(Oauth::new(keys.clone()));
        state.portals.push(PortalState::for_tests(keys.clone()));
        (state, keys)
    }

    fn request(keys: &KeyPair, grant_type: &str, name: &str, value: &str) -> Array {
        Array::new()
            .with("grant_type", grant_type)
            .with("client_id", keys.client_id.as_str())
            .with("client_secret", keys.client_secret.as_str())
            .with(name, value)
    }

    #[test]
    fn a_refresh_token_works_once_and_the_old_access_token_goes_on() {
        let (mut state, keys) = state();
        let first = state.pair(0, 1, &keys.client_id, 0.0);
        let params = request(&keys, "refresh_token", "refresh_token", &first.refresh_token);
        assert!(state.grant_tokens(&params, 10.0).is_ok());
        let refusal = state.grant_tokens(&params, 11.0).expect_err("spent");
        assert_eq!((refusal.status, refusal.error), (400, "invalid_grant"));
        assert!(refusal.spent);
        let old = state.oauth.access(&first.access_token, 0, 3599.0);
        assert!(matches!(old, Access::Valid(_)));
        let old = state.oauth.access(&first.access_token, 0, 3600.0);
        assert!(matches!(old, Access::Expired));
    }

    #[test]
    fn a_code_works_once_and_for_thirty_seconds() {
        let (mut state, keys) = state();
        let code = state.oauth.add_code(0, 1, &keys.client_id, 0.0);
        let params = request(&keys, "authorization_code", "code", &code);
        assert!(state.grant_tokens(&params, 30.0).is_err());
        assert!(state.grant_tokens(&params, 29.0).is_ok());
        assert!(state.grant_tokens(&params, 29.0).is_err());
    }

    #[test]
    fn a_wrong_secret_spends_nothing() {
        let (mut state, keys) = state();
        let pair = state.pair(0, 1, &keys.client_id, 0.0);
        let wrong = KeyPair { client_secret: "x".to_owned(), ..keys.clone() };
        let params = request(&wrong, "refresh_token", "refresh_token", &pair.refresh_token);
        let refusal = state.grant_tokens(&params, 1.0).expect_err("wrong secret");
        assert_eq!(refusal.error, "invalid_client");
        assert!(state.oauth.is_live(&pair.refresh_token, 1.0));
    }
}
