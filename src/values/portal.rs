//! Portals: their names, and the addresses that may be contacted.

use super::idn;
use super::secret::Secret;
use std::fmt;

/// A portal's name: host, in lower case, with a port where it is not 443: `acme.bitrix24.ru`,
/// `crm.example.org:8443`. Letters, digits, `.` and `-` only, so that it is safe in a file name and an address; a name in
/// Cyrillic is in its `xn--` form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortalName(String);

impl PortalName {
    /// Reads what callers write: any case and language, with or without a scheme and a trailing slash.
    pub fn parse(text: &str) -> Option<PortalName> {
        let text = text.trim();
        let bare = strip_scheme(text);
        let bare = bare.trim_end_matches('/');
        let (host, port) = match bare.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (bare, None),
        };
        let host = idn::to_ascii(host)?;
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        if host.is_empty() || host.len() > 253 || !host.split('.').all(label) {
            return None;
        }
        let host = host.to_ascii_lowercase();
        match port {
            None => Some(PortalName(host)),
            Some(port) if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) => None,
            Some(port) => match port.parse::<u16>() {
                Ok(443) => Some(PortalName(host)),
                Ok(0) | Err(_) => None,
                Ok(port) => Some(PortalName(format!("{host}:{port}"))),
            },
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the portal's files in the token folder, without an ending.
    pub fn file_stem(&self) -> String {
        self.0.replace(':', "_")
    }
}

impl fmt::Display for PortalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn strip_scheme(text: &str) -> &str {
    for scheme in ["https://", "http://"] {
        if let Some(head) = text.get(..scheme.len()) {
            if head.eq_ignore_ascii_case(scheme) {
                return &text[scheme.len()..];
            }
        }
    }
    text
}

/// Host and port in an address that somebody has copied, whatever follows them, which may be a secret:
/// `acme.bitrix24.ru` of `https://acme.bitrix24.ru/rest/1/CODE/`.
pub fn host_of(address: &str) -> Option<&str> {
    let address = address.trim();
    let bare = strip_scheme(address);
    bare.split(['/', '?', '#']).next().filter(|_| bare.len() < address.len())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// An address split into scheme, name and path: `https://acme.bitrix24.ru/rest/`. No user, query or fragment.
pub fn split_address(address: &str) -> Option<(Scheme, PortalName, &str)> {
    let (scheme, rest) = if let Some(rest) = address.strip_prefix("https://") {
        (Scheme::Https, rest)
    } else {
        (Scheme::Http, address.strip_prefix("http://")?)
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let name = match scheme {
        // 80 is what a plain address means; the name of such a portal has no port either.
        Scheme::Http if authority.ends_with(":443") => return None,
        Scheme::Http => PortalName::parse(authority.strip_suffix(":80").unwrap_or(authority))?,
        Scheme::Https => PortalName::parse(authority)?,
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-~".contains(&b);
    (path.bytes().all(plain) && !path.contains("..")).then_some((scheme, name, path))
}

/// The REST address of a portal, `https://acme.bitrix24.ru/rest/`. It can be made only from an address whose host
/// the configuration names, or that the OAuth server gave for a renamed portal (see [`Endpoint::renamed`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    scheme: Scheme,
    name: PortalName,
}

/// Why an address was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not an address of the form `https://host/rest/`.
    Malformed,
    /// The address of another portal: its name.
    OtherPortal(PortalName),
    /// http, which `allow_http` does not allow.
    PlainHttp,
}

/// It goes on behind the address that is meant.
impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Malformed => f.write_str("is not an address such as https://acme.bitrix24.ru/rest/"),
            Refused::OtherPortal(name) => write!(f, "is the address of {name}, which is not this portal"),
            Refused::PlainHttp => f.write_str("is plain http, which needs allow_http = true under [bitrix24]"),
        }
    }
}

impl Endpoint {
    /// `client_endpoint`, which must be the address of the configured portal.
    pub fn configured(client_endpoint: &str, portal: &PortalName, allow_http: bool) -> Result<Endpoint, Refused> {
        let endpoint = Endpoint::parse(client_endpoint, allow_http)?;
        if endpoint.name != *portal {
            return Err(Refused::OtherPortal(endpoint.name));
        }
        Ok(endpoint)
    }

    /// `client_endpoint` from the OAuth server's own answer to a refresh: a renamed portal has another host.
    pub fn renamed(client_endpoint: &str, allow_http: bool) -> Result<Endpoint, Refused> {
        Endpoint::parse(client_endpoint, allow_http)
    }

    fn parse(client_endpoint: &str, allow_http: bool) -> Result<Endpoint, Refused> {
        let (scheme, name, path) = split_address(client_endpoint).ok_or(Refused::Malformed)?;
        if path.trim_end_matches('/') != "/rest" {
            return Err(Refused::Malformed);
        }
        if scheme == Scheme::Http && !allow_http {
            return Err(Refused::PlainHttp);
        }
        Ok(Endpoint { scheme, name })
    }

    pub fn name(&self) -> &PortalName {
        &self.name
    }

    /// `https://host`
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme.as_str(), self.name)
    }

    /// The address of a method.
    pub fn url(&self, version: Version, method: &str) -> String {
        format!("{}/rest/{}{method}", self.origin(), version.prefix())
    }

    /// As it is stored: `https://host/rest/`.
    pub fn to_client_endpoint(&self) -> String {
        format!("{}://{}/rest/", self.scheme.as_str(), self.name)
    }
}

/// An incoming webhook of a portal: `https://host/rest/{user}/{code}/`. The code is a secret.
#[derive(Clone)]
pub struct IncomingWebhook {
    scheme: Scheme,
    name: PortalName,
    user_and_code: String,
}

impl IncomingWebhook {
    pub fn parse(address: &str, portal: &PortalName, allow_http: bool) -> Result<IncomingWebhook, &'static str> {
        let form = "must look like https://PORTAL/rest/1/CODE/";
        let (scheme, name, path) = split_address(address).ok_or(form)?;
        let tail = path.strip_prefix("/rest/").ok_or(form)?.trim_end_matches('/');
        match tail.split_once('/') {
            Some((user, code))
                if !user.is_empty()
                    && user.bytes().all(|b| b.is_ascii_digit())
                    && !code.is_empty()
                    && code.bytes().all(|b| b.is_ascii_alphanumeric()) => {}
            _ => return Err(form),
        }
        if name != *portal {
            return Err("is an address of another portal than its section names");
        }
        if scheme == Scheme::Http && !allow_http {
            return Err("is plain http, which needs allow_http = true under [bitrix24]");
        }
        Ok(IncomingWebhook { scheme, name, user_and_code: tail.to_owned() })
    }

    /// The address of a method, with the secret code in it.
    pub fn url(&self, version: Version, method: &str) -> String {
        format!("{}/rest/{}{}/{method}", self.origin(), version.prefix(), self.user_and_code)
    }

    pub fn name(&self) -> &PortalName {
        &self.name
    }

    /// The secret part of its address.
    pub fn code(&self) -> Secret {
        Secret::new(self.user_and_code.rsplit('/').next().unwrap_or_default())
    }

    /// `https://host`, without the secret.
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme.as_str(), self.name)
    }
}

impl fmt::Debug for IncomingWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/rest/***/", self.scheme.as_str(), self.name)
    }
}

/// REST 2, or REST 3.0 under `/rest/api/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V2,
    V3,
}

impl Version {
    fn prefix(self) -> &'static str {
        match self {
            Version::V2 => "",
            Version::V3 => "api/",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> PortalName {
        PortalName::parse(text).unwrap()
    }

    #[test]
    fn a_domain_is_accepted_with_scheme_slash_and_any_case() {
        for text in
            ["acme.bitrix24.ru", "https://acme.bitrix24.ru/", "HTTP://ACME.Bitrix24.ru", " acme.bitrix24.ru:443 "]
        {
            assert_eq!(name(text).as_str(), "acme.bitrix24.ru", "{text:?}");
        }
        assert_eq!(name("crm.example.org:8443").file_stem(), "crm.example.org_8443");
        for text in ["дом.рф", "https://Дом.РФ/", "xn--d1aqf.xn--p1ai", "XN--D1AQF.xn--P1AI:443"] {
            assert_eq!(name(text).as_str(), "xn--d1aqf.xn--p1ai", "{text:?}");
        }
        assert_eq!(name("портал.бел:8443").file_stem(), "xn--80awhdgm.xn--90ais_8443");
        assert_eq!(PortalName::parse(&format!("{}.рф", "ж".repeat(80))), None, "longer than a label may be");
        for bad in
            ["", "/", "a b", "user@host", "host:0", "host:99999", "host:+1", "ho_st", "-a.ru", "a..ru", "a/b", "[::1]"]
        {
            assert_eq!(PortalName::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_endpoint_is_the_configured_portal_or_nothing() {
        let portal = name("acme.bitrix24.ru");
        assert!(Endpoint::configured("https://acme.bitrix24.ru/rest/", &portal, false).is_ok());
        for (bad, why) in [
            ("https://evil.example/rest/", Refused::OtherPortal(name("evil.example"))),
            ("http://acme.bitrix24.ru/rest/", Refused::PlainHttp),
            ("https://acme.bitrix24.ru/other/", Refused::Malformed),
            ("https://acme.bitrix24.ru@evil.example/rest/", Refused::Malformed),
            ("https://acme.bitrix24.ru/rest/?x", Refused::Malformed),
            ("ftp://acme.bitrix24.ru/rest/", Refused::Malformed),
        ] {
            assert_eq!(Endpoint::configured(bad, &portal, false), Err(why), "{bad}");
        }
        assert!(Endpoint::configured("http://acme.bitrix24.ru/rest/", &portal, true).is_ok());
        for address in ["https://дом.рф/rest/", "https://xn--d1aqf.xn--p1ai/rest/"] {
            let endpoint = Endpoint::configured(address, &name("Дом.рф"), false).unwrap();
            assert_eq!(endpoint.to_client_endpoint(), "https://xn--d1aqf.xn--p1ai/rest/");
        }
    }

    #[test]
    fn a_webhook_calls_rest_2_and_3() {
        let webhook =
            IncomingWebhook::parse("https://acme.bitrix24.ru/rest/1/abc/", &name("acme.bitrix24.ru"), false).unwrap();
        assert_eq!(format!("{webhook:?}"), "https://acme.bitrix24.ru/rest/***/");
        assert_eq!(webhook.url(Version::V2, "profile"), "https://acme.bitrix24.ru/rest/1/abc/profile");
        assert_eq!(webhook.url(Version::V3, "profile"), "https://acme.bitrix24.ru/rest/api/1/abc/profile");
        assert!(IncomingWebhook::parse("https://other.ru/rest/1/abc/", &name("acme.bitrix24.ru"), false).is_err());
        assert!(IncomingWebhook::parse("https://acme.bitrix24.ru/rest/", &name("acme.bitrix24.ru"), false).is_err());
    }

    proptest! {
        #[test]
        fn a_parsed_name_is_canonical_and_safe(text in "\\PC{0,60}") {
            if let Some(name) = PortalName::parse(&text) {
                prop_assert_eq!(PortalName::parse(name.as_str()), Some(name.clone()));
                prop_assert!(name.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-:".contains(&b)));
                prop_assert!(!name.file_stem().contains(['/', ':']));
            }
        }

        #[test]
        fn no_address_yields_a_host_it_does_not_show(host in "[a-z.@:/\\\\#?%]{0,40}") {
            let address = format!("https://{host}/rest/");
            if let Ok(endpoint) = Endpoint::renamed(&address, false) {
                prop_assert_eq!(endpoint.to_client_endpoint().to_ascii_lowercase(), address.replace(":443", ""));
            }
        }
    }
}
