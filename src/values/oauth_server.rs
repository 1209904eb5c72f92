//! Bitrix24's OAuth servers: which one is asked for a portal's tokens, and what is odd about that.

use super::portal::{split_address, PortalName, Scheme};

/// Bitrix24's own two. Which one a portal uses, the portal says; one does not know the other's codes and tokens.
const TECH: &str = "oauth.bitrix24.tech";
const INFO: &str = "oauth.bitrix.info";
/// What portals of the first one are mostly called.
const OF_TECH: [&str; 3] = [".ru", ".by", ".kz"];

/// An OAuth server's address; the only place that ever sees a client secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OauthServer {
    scheme: Scheme,
    name: PortalName,
}

impl OauthServer {
    /// An address without a path.
    pub fn parse(address: &str) -> Option<OauthServer> {
        let (scheme, name, path) = split_address(address)?;
        (path == "/").then_some(OauthServer { scheme, name })
    }

    /// Which of Bitrix24's own a portal of this name mostly uses.
    fn by_name(portal: &PortalName) -> OauthServer {
        let host = portal.as_str().split(':').next().unwrap_or_default();
        OauthServer::own(if OF_TECH.iter().any(|end| host.ends_with(end)) { TECH } else { INFO })
    }

    fn own(name: &str) -> OauthServer {
        OauthServer { scheme: Scheme::Https, name: PortalName::parse(name).expect("a host's name") }
    }

    /// `https://oauth.bitrix.info`
    pub fn address(&self) -> String {
        format!("{}://{}", self.scheme.as_str(), self.name)
    }

    pub fn token_url(&self) -> String {
        format!("{}/oauth/token/", self.address())
    }

    pub fn host(&self) -> &str {
        self.name.as_str()
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// One of Bitrix24's own, for which only the built-in roots count.
    pub fn is_bitrix24s(&self) -> bool {
        is_bitrix24s(&self.name)
    }

    /// `server_endpoint` to keep with a pair that this server gave, beside which it said `issued`: one that the next refresh
    /// can go to.
    pub fn kept_with(&self, issued: String) -> String {
        let can_be_asked = match Named::of(&issued) {
            Named::Nothing => false,
            Named::Host(name) => !self.is_bitrix24s() || is_bitrix24s(&name),
            Named::Nonsense => !self.is_bitrix24s(),
        };
        if can_be_asked {
            issued
        } else {
            format!("{}/rest/", self.address())
        }
    }
}

fn is_bitrix24s(name: &PortalName) -> bool {
    [TECH, INFO].contains(&name.as_str())
}

/// What a portal said of its OAuth server.
enum Named {
    Nothing,
    Host(PortalName),
    /// Not the name of a host.
    Nonsense,
}

impl Named {
    /// `oauth.bitrix.info` (`server_domain`) or `https://oauth.bitrix.info/rest/` (`SERVER_ENDPOINT`).
    fn of(said: &str) -> Named {
        let said = said.trim();
        let name = split_address(said).map(|(_, name, _)| name).or_else(|| PortalName::parse(said));
        match name {
            _ if said.is_empty() => Named::Nothing,
            Some(name) => Named::Host(name),
            None => Named::Nonsense,
        }
    }

    /// Empty where it is no host's name.
    fn host(self) -> String {
        match self {
            Named::Host(name) => name.to_string(),
            Named::Nothing | Named::Nonsense => String::new(),
        }
    }
}

/// The server that is asked for a portal's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub server: OauthServer,
    /// Why it may be the wrong one.
    pub doubt: Option<Doubt>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It is the configured one, and the portal names another; here and below, empty where that is no host's name.
    Configured { named: String },
    /// The portal names one that is neither of Bitrix24's own, so that is not asked.
    Foreign { named: String },
    /// Nobody has named one.
    Presumed,
}

impl Asked {
    /// For a stored pair, by what is kept with it.
    pub fn for_pair(configured: Option<&OauthServer>, server_endpoint: &str) -> Asked {
        Asked::judge(configured, server_endpoint, || OauthServer::own(INFO))
    }

    /// For a new pair. `named`: what the portal says now; failing that counts what is kept with the pair that it has.
    pub fn for_installation(
        configured: Option<&OauthServer>,
        portal: &PortalName,
        named: &str,
        server_endpoint: &str,
    ) -> Asked {
        let said = if named.trim().is_empty() { server_endpoint } else { named };
        Asked::judge(configured, said, || OauthServer::by_name(portal))
    }

    fn judge(configured: Option<&OauthServer>, said: &str, otherwise: impl Fn() -> OauthServer) -> Asked {
        let (server, doubt) = match (configured.cloned(), Named::of(said)) {
            (Some(server), Named::Nothing) => (server, None),
            (Some(server), Named::Host(name)) if name == server.name => (server, None),
            (Some(server), other) => (server, Some(Doubt::Configured { named: other.host() })),
            (None, Named::Nothing) => (otherwise(), Some(Doubt::Presumed)),
            (None, Named::Host(name)) if is_bitrix24s(&name) => (OauthServer { scheme: Scheme::Https, name }, None),
            (None, other) => (otherwise(), Some(Doubt::Foreign { named: other.host() })),
        };
        Asked { server, doubt }
    }

    /// Whether portal and configuration contradict each other.
    pub fn is_contradicted(&self) -> bool {
        matches!(self.doubt, Some(Doubt::Configured { .. } | Doubt::Foreign { .. }))
    }

    /// Whether that is worth a warning before anything has failed: an own server stands before Bitrix24's on purpose.
    pub fn is_suspicious(&self) -> bool {
        match &self.doubt {
            Some(Doubt::Configured { named }) => self.server.is_bitrix24s() && !named.is_empty(),
            Some(Doubt::Foreign { .. }) => true,
            Some(Doubt::Presumed) | None => false,
        }
    }

    /// What the portal names, where that is worth a warning: as [`Asked::for_installation`] takes it to find the same again.
    pub fn named_in_doubt(&self) -> &str {
        match &self.doubt {
            Some(Doubt::Configured { named } | Doubt::Foreign { named }) if self.is_suspicious() => {
                match named.as_str() {
                    "" => "-",
                    named => named,
                }
            }
            _ => "",
        }
    }

    /// Which of Bitrix24's own to write instead. Of another one that somebody has named nobody is advised to write it: it
    /// would get the client secret.
    pub fn other(&self) -> Option<String> {
        match &self.doubt {
            Some(Doubt::Configured { named }) if [TECH, INFO].contains(&named.as_str()) => {
                Some(OauthServer::own(named).address())
            }
            Some(Doubt::Presumed) => {
                Some(OauthServer::own(if self.server.host() == TECH { INFO } else { TECH }).address())
            }
            Some(Doubt::Configured { .. } | Doubt::Foreign { .. }) | None => None,
        }
    }

    /// The doubt for a person, with what mends it; begins in lower case, without a full stop.
    pub fn words(&self, portal: &PortalName) -> Option<String> {
        let server = self.server.address();
        let section = format!("under [portals.\"{portal}\"]");
        let line = self.other().map(|other| format!("oauth_server = \"{other}\" {section}"));
        Some(match (self.doubt.as_ref()?, line) {
            (Doubt::Configured { named }, Some(line)) => {
                format!("the OAuth server in proxy.toml is {server}, and the portal names {named}: write {line}")
            }
            (Doubt::Configured { named }, None) if named.is_empty() => {
                format!("the OAuth server in proxy.toml is {server}, and what the portal names is none")
            }
            (Doubt::Configured { named }, None) => format!(
                "the OAuth server in proxy.toml is {server}, and the portal names {named}, which is neither of Bitrix24's own: \
                 check oauth_server there"
            ),
            (Doubt::Foreign { named }, _) if named.is_empty() => {
                format!("what the portal names is no OAuth server, so {server} is asked")
            }
            (Doubt::Foreign { named }, _) => format!(
                "the portal names {named}, which is neither of Bitrix24's own OAuth servers and is never asked, so {server} \
                 is; if the portal has an OAuth server of its own that you know, write its address as oauth_server {section}"
            ),
            (Doubt::Presumed, line) => format!(
                "nothing says which of Bitrix24's two OAuth servers the portal uses, so {server} is asked; if it is the \
                 other one, write {}",
                line.unwrap_or_default()
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PortalName {
        PortalName::parse(text).unwrap()
    }

    fn server(address: &str) -> OauthServer {
        OauthServer::parse(address).unwrap()
    }

    #[test]
    fn a_stored_pair_goes_to_the_server_in_its_server_endpoint_failing_that_to_info() {
        for (server_endpoint, host) in [
            ("https://oauth.bitrix24.tech/rest/", TECH),
            ("https://OAUTH.bitrix24.tech/rest/", TECH),
            ("http://oauth.bitrix24.tech/rest/", TECH),
            ("https://oauth.bitrix.info/rest/", INFO),
            ("oauth.bitrix24.tech", TECH),
            ("", INFO),
            ("https://oauth.bitrix24.tech:8443/rest/", INFO),
            ("https://oauth.bitrix24.tech.evil.example/rest/", INFO),
            ("https://oauth.bitrix24.tech@evil.example/", INFO),
            ("https://evil.example/?oauth.bitrix24.tech", INFO),
            ("https://evil.example#oauth.bitrix24.tech", INFO),
            ("b24proxy-0123456789ab", INFO),
            ("\u{1b}[31m", INFO),
        ] {
            let asked = Asked::for_pair(None, server_endpoint);
            assert_eq!(asked.server.token_url(), format!("https://{host}/oauth/token/"), "{server_endpoint}");
            assert_eq!(asked.doubt.is_none(), host == TECH || server_endpoint.contains(INFO), "{server_endpoint}");
        }
    }

    #[test]
    fn a_new_installation_goes_by_what_the_portal_says_then_by_what_is_stored_then_by_its_name() {
        let host = |portal: &str, named: &str, stored: &str| {
            Asked::for_installation(None, &name(portal), named, stored).server.host().to_owned()
        };
        for portal in ["acme.bitrix24.ru", "acme.bitrix24.by", "acme.bitrix24.kz", "crm.example.ru:8443"] {
            assert_eq!(host(portal, "", ""), TECH, "{portal}");
            assert_eq!(host(portal, INFO, ""), INFO, "{portal}");
        }
        for portal in ["acme.bitrix24.com", "acme.bitrix24.de", "ru.example.org", "127.0.0.1:8443"] {
            assert_eq!(host(portal, "", ""), INFO, "{portal}");
            assert_eq!(host(portal, "https://oauth.bitrix24.tech/rest/", ""), TECH, "{portal}");
            assert_eq!(host(portal, "", "https://oauth.bitrix24.tech/rest/"), TECH, "{portal}");
            assert_eq!(host(portal, INFO, "https://oauth.bitrix24.tech/rest/"), INFO, "{portal}");
            assert_eq!(host(portal, "evil.example", ""), INFO, "{portal}");
        }
    }

    #[test]
    fn the_configured_one_is_asked_whatever_the_portal_says() {
        for configured in ["https://oauth.bitrix.info", "http://oauth.lan:8080"] {
            let own = server(configured);
            for said in ["", TECH, "evil.example", "\u{1b}"] {
                assert_eq!(Asked::for_pair(Some(&own), said).server, own);
                assert_eq!(Asked::for_installation(Some(&own), &name("acme.bitrix24.ru"), said, TECH).server, own);
            }
        }
        assert_eq!(Asked::for_pair(Some(&server("http://oauth.lan")), "http://oauth.lan:80/rest/").doubt, None);
    }

    #[test]
    fn a_contradiction_is_said_with_what_to_write() {
        let (info, own) = (server("https://oauth.bitrix.info"), server("https://oauth.lan"));
        let words = |configured, said: &str| {
            let asked = Asked::for_pair(configured, said);
            (asked.words(&name("acme.bitrix24.ru")).unwrap_or_default(), asked.is_suspicious())
        };
        let line = "write oauth_server = \"https://oauth.bitrix24.tech\" under [portals.\"acme.bitrix24.ru\"]";
        let (text, suspicious) = words(Some(&info), TECH);
        assert!(suspicious && text.contains("is https://oauth.bitrix.info") && text.ends_with(line), "{text}");
        let (text, suspicious) = words(Some(&own), TECH);
        assert!(!suspicious && text.contains("is https://oauth.lan") && text.ends_with(line), "{text}");
        let (text, suspicious) = words(None, "evil.example");
        assert!(suspicious && text.contains("names evil.example") && text.contains("never asked"), "{text}");
        assert!(!text.contains("https://evil.example"), "nobody is advised to write what a stranger has named: {text}");
        let (text, suspicious) = words(Some(&info), "evil.example");
        assert!(suspicious && text.contains("names evil.example") && !text.contains("https://evil.example"), "{text}");
        let (text, suspicious) = words(None, "");
        assert!(!suspicious && text.contains("nothing says") && text.ends_with(line), "{text}");
        assert_eq!(words(Some(&info), "https://oauth.bitrix.info/rest/"), (String::new(), false));
        assert_eq!(words(None, TECH), (String::new(), false));
    }

    #[test]
    fn what_is_kept_with_a_pair_leads_to_a_server_that_can_be_asked() {
        let (info, own) = (server("https://oauth.bitrix.info"), server("https://oauth.lan"));
        for (asked, issued, kept) in [
            (&info, "https://oauth.bitrix24.tech/rest/", "https://oauth.bitrix24.tech/rest/"),
            (&info, "", "https://oauth.bitrix.info/rest/"),
            (&info, "https://evil.example/rest/", "https://oauth.bitrix.info/rest/"),
            (&info, "evil@x", "https://oauth.bitrix.info/rest/"),
            (&own, "https://oauth.lan/rest/", "https://oauth.lan/rest/"),
            (&own, "https://other.lan/rest/", "https://other.lan/rest/"),
            (&own, "", "https://oauth.lan/rest/"),
        ] {
            assert_eq!(asked.kept_with(issued.into()), kept);
        }
    }
}
