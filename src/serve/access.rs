//! Who may call: credentials, addresses, browsers, portals and methods. Decisions only, on values.

use super::caller::{holds, Caller};
use crate::config::Client;
use crate::values::error::{Arrived, Error, Result};
use crate::values::method::Method;
use crate::values::portal::PortalName;
use crate::values::secret::sha256;
use base64::prelude::{Engine, BASE64_STANDARD};
use ipnet::IpNet;
use subtle::{Choice, ConstantTimeEq};

/// What a caller presents.
#[derive(PartialEq, Eq)]
pub enum Credentials {
    /// `Bearer TOKEN`, the header of our own, or the token in a webhook address.
    Token(Vec<u8>),
    /// `Basic`: client name and token.
    Basic { user: Vec<u8>, token: Vec<u8> },
    /// A header that is there but cannot be read.
    Unreadable,
}

impl Credentials {
    /// From the first header value that is not empty, of `HTTP_AUTHORIZATION`, `REDIRECT_HTTP_AUTHORIZATION` and
    /// `HTTP_X_B24PROXY_TOKEN`. `None`: nothing was presented.
    pub fn from_headers(authorization: &[&[u8]], own_header: &[u8]) -> Option<Credentials> {
        let value = authorization.iter().map(|value| value.trim_ascii()).find(|value| !value.is_empty());
        match value {
            Some(value) => Some(Self::parse(value).unwrap_or(Credentials::Unreadable)),
            None => match own_header.trim_ascii() {
                b"" => None,
                value => Some(Self::parse(value).unwrap_or_else(|| Credentials::Token(value.to_vec()))),
            },
        }
    }

    /// RFC 6750 and RFC 7617; the scheme's name in any case.
    fn parse(value: &[u8]) -> Option<Credentials> {
        let space = value.iter().position(|b| *b == b' ')?;
        let (scheme, rest) = value.split_at(space);
        let rest = rest.trim_ascii();
        if scheme.eq_ignore_ascii_case(b"Bearer") {
            return Some(Credentials::Token(rest.to_vec()));
        }
        if !scheme.eq_ignore_ascii_case(b"Basic") {
            return None;
        }
        let decoded = BASE64_STANDARD.decode(rest).ok()?;
        let colon = decoded.iter().position(|b| *b == b':')?;
        Some(Credentials::Basic { user: decoded[..colon].to_vec(), token: decoded[colon + 1..].to_vec() })
    }
}

/// The client with these credentials. Every client is compared, in constant time.
pub fn authenticate<'c>(clients: &'c [Client], credentials: &Credentials) -> Result<&'c Client> {
    let (user, token) = match credentials {
        Credentials::Token(token) => (None, token),
        Credentials::Basic { user, token } => (Some(user.as_slice()), token),
        Credentials::Unreadable => return Err(Error::Unauthorized(Arrived::Unreadable)),
    };
    let digest = sha256(token);
    let mut found = None;
    for client in clients {
        let same: Choice = client.digest.ct_eq(&digest);
        if bool::from(same) {
            found = Some(client);
        }
    }
    found
        .filter(|client| client.any_user || user.is_none_or(|user| user == client.name.as_bytes()))
        .ok_or(Error::Unauthorized(Arrived::Unknown))
}

/// The caller's address against those of all clients and of this one.
pub fn check_address(allowed_ips: &Option<Vec<IpNet>>, client: &Client, caller: &Caller) -> Result<()> {
    let within = |list: &Option<Vec<IpNet>>| match list {
        None => true,
        Some(list) => caller.address.is_some_and(|address| holds(list, address)),
    };
    if within(allowed_ips) && within(&client.ips) {
        return Ok(());
    }
    Err(Error::Forbidden(caller.refusal()))
}

/// What a browser says about who makes it send a request.
pub struct Browser<'a> {
    pub origin: Option<&'a str>,
    pub sec_fetch_site: Option<&'a str>,
}

/// A browser remembers Basic credentials and would send them along for any page that asks: only pages of this
/// program's own address or of a configured origin may make it call.
pub fn check_origin(own: Option<&str>, cors_origins: &[String], browser: &Browser) -> Result<()> {
    let allowed = match (browser.origin, browser.sec_fetch_site) {
        (Some(origin), _) => own == Some(origin) || cors_origins.iter().any(|allowed| allowed == origin),
        (None, Some(site)) => matches!(site, "same-origin" | "none"),
        (None, None) => true,
    };
    if allowed {
        return Ok(());
    }
    Err(Error::Forbidden(
        "A page of another site made this browser call. To allow that site, add its origin to cors_origins in \
         proxy.toml."
            .into(),
    ))
}

impl Client {
    pub fn may_use(&self, portal: &PortalName) -> bool {
        self.portals.as_ref().is_none_or(|portals| portals.contains(portal))
    }

    pub fn check_portal(&self, portal: &PortalName) -> Result<()> {
        if self.may_use(portal) {
            return Ok(());
        }
        Err(Error::Forbidden(format!(
            "The client {:?} may not use this portal: add it to the client's portals in proxy.toml.",
            self.name
        )))
    }

    pub fn check_method(&self, method: &Method) -> Result<()> {
        let canonical = method.canonical();
        match &self.methods {
            Some(patterns) if !patterns.iter().any(|p| p.matches(&canonical)) => Err(Error::Forbidden(format!(
                "The client {:?} may not call {canonical}: add it to the client's methods in proxy.toml.",
                self.name
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::method::Pattern;
    use proptest::prelude::*;

    fn client(name: &str, token: &str) -> Client {
        Client {
            name: name.into(),
            any_user: false,
            digest: sha256(token.as_bytes()),
            portals: None,
            methods: None,
            ips: None,
            events: crate::values::event::Audible::All,
            auth_connector: None,
        }
    }

    fn basic(text: &str) -> Vec<u8> {
        format!("basic {}", BASE64_STANDARD.encode(text)).into_bytes()
    }

    #[test]
    fn the_first_header_that_is_not_empty_counts() {
        let from = |a: &[u8], b: &[u8], c: &[u8]| Credentials::from_headers(&[a, b], c);
        assert!(from(b"", b" ", b"").is_none());
        assert!(from(b"Bearer one", b"Bearer two", b"three") == Some(Credentials::Token(b"one".to_vec())));
        assert!(from(b"", b"Bearer two", b"three") == Some(Credentials::Token(b"two".to_vec())));
        assert!(from(b"", b"", b"three") == Some(Credentials::Token(b"three".to_vec())));
        assert!(from(b"Digest x", b"Bearer two", b"three") == Some(Credentials::Unreadable));
    }

    #[test]
    fn basic_wants_the_clients_name_but_any_with_auth_token() {
        let mut clients = vec![client("1c-trade", "token-number-one"), client("other", "token-number-two")];
        let name = |clients: &[Client], text: &str| {
            let value = basic(text);
            let credentials = Credentials::from_headers(&[&value], b"").unwrap();
            authenticate(clients, &credentials).map(|c| c.name.clone())
        };
        assert_eq!(name(&clients, "1c-trade:token-number-one").unwrap(), "1c-trade");
        assert_eq!(name(&clients, "other:token-number-one"), Err(Error::Unauthorized(Arrived::Unknown)));
        clients[0].any_user = true;
        assert_eq!(name(&clients, "whoever:token-number-one").unwrap(), "1c-trade");
    }

    #[test]
    fn without_a_client_every_call_is_refused() {
        assert!(authenticate(&[], &Credentials::Token(b"anything".to_vec())).is_err());
    }

    #[test]
    fn methods_are_compared_without_case_and_suffix() {
        let mut restricted = client("c", "t");
        restricted.methods = Some(vec![Pattern::parse("crm.*").unwrap()]);
        assert!(restricted.check_method(&Method::parse("CRM.deal.add.json").unwrap()).is_ok());
        assert!(restricted.check_method(&Method::parse("user.get").unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn no_header_panics_or_gets_in(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(credentials) = Credentials::from_headers(&[&value], b"") {
                prop_assert!(authenticate(&[client("c", "a-token-nobody-guesses")], &credentials).is_err());
            }
        }
    }
}
