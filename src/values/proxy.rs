//! The HTTP proxy through which a host without another way reaches the Internet: `http://user:password@proxy.lan:3128`.

use super::percent::decoded;
use super::secret::Secret;
use base64::prelude::{Engine, BASE64_STANDARD};
use std::net::Ipv6Addr;

/// Of an address that names none, as `http` has it.
const DEFAULT_PORT: u16 = 80;

#[derive(Clone, Debug)]
pub struct Proxy {
    /// A name, or an address; IPv6 without brackets.
    host: String,
    port: u16,
    user: Option<(String, Secret)>,
}

impl Proxy {
    /// The error says what to write, and nothing of what is written: a password stands in it.
    pub fn parse(address: &str) -> Result<Proxy, &'static str> {
        let (scheme, rest) =
            address.split_once("://").ok_or("must begin with http://, such as http://user:password@proxy.lan:3128")?;
        match scheme.to_ascii_lowercase().as_str() {
            "http" => {}
            "https" => return Err("is reached by plain http only (what goes through it is encrypted): write http://"),
            scheme if scheme.starts_with("socks") => {
                return Err("must be an HTTP proxy, such as http://proxy.lan:3128: SOCKS is not spoken here")
            }
            _ => return Err("must begin with http://, such as http://proxy.lan:3128"),
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if !matches!(path, "" | "/") {
            return Err(
                "must end with the port, such as http://proxy.lan:3128; in a password write %2F for /, %3F for ? and \
                        %23 for #",
            );
        }
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user_and_password(user)?), place),
            None => (None, authority),
        };
        let (host, port) = host_and_port(place).ok_or("must name a host and a port, such as http://proxy.lan:3128")?;
        Ok(Proxy { host, port, user })
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn password(&self) -> Option<&Secret> {
        self.user.as_ref().map(|(_, password)| password)
    }

    /// `Basic …` (RFC 7617).
    pub fn authorization(&self) -> Option<Secret> {
        let (user, password) = self.user.as_ref()?;
        Some(Secret::new(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{}", password.expose())))))
    }
}

impl std::fmt::Display for Proxy {
    /// Without user and password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

fn user_and_password(text: &str) -> Result<(String, Secret), &'static str> {
    const WRONG: &str = "must have user:password before @, with %3A for : and %40 for @ in them";
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let plain = |text: &str| {
        String::from_utf8(decoded(text.as_bytes())).ok().filter(|text| !text.contains(char::is_control)).ok_or(WRONG)
    };
    let user = plain(user)?;
    // Basic authorization ends the user at the first one.
    if user.is_empty() || user.contains(':') {
        return Err(WRONG);
    }
    Ok((user, Secret::new(plain(password)?)))
}

fn host_and_port(place: &str) -> Option<(String, u16)> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, port)
        }
        None => {
            let (host, port) = place.split_at(place.find(':').unwrap_or(place.len()));
            let is_name = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            ((1..=253).contains(&host.len()) && is_name).then_some((host, port))?
        }
    };
    let port = match port.strip_prefix(':') {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok().filter(|port| *port > 0)?,
        Some(_) => return None,
        None => port.is_empty().then_some(DEFAULT_PORT)?,
    };
    Some((host.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_names_host_port_user_and_password() {
        let of = |text: &str| {
            let proxy = Proxy::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
            let user = proxy.user.as_ref().map(|(user, password)| format!("{user} {}", password.expose()));
            (proxy.to_string(), user.unwrap_or_default())
        };
        let place = |text: &str| (text.to_owned(), String::new());
        assert_eq!(of("http://proxy.lan:3128"), place("proxy.lan:3128"));
        assert_eq!(of("HTTP://Proxy.LAN/"), place("proxy.lan:80"));
        assert_eq!(of("http://[2001:db8::1]:8080"), place("[2001:db8::1]:8080"));
        assert_eq!(of("http://[::1]"), place("[::1]:80"));
        assert_eq!(of("http://10.0.0.1:1"), place("10.0.0.1:1"));
        assert_eq!(of("http://u:p%40ss:w%2Frd@proxy:1"), ("proxy:1".into(), "u p@ss:w/rd".into()));
        assert_eq!(of("http://DOM%5Cu:%D0%BF@proxy:1"), ("proxy:1".into(), "DOM\\u п".into()));
        assert_eq!(of("http://u@proxy:1"), ("proxy:1".into(), "u ".into()));
        let authorization = Proxy::parse("http://user:pass@p:1").unwrap().authorization().unwrap();
        assert_eq!(authorization.expose(), "Basic dXNlcjpwYXNz");
    }

    #[test]
    fn what_is_no_proxy_is_refused_with_what_to_write() {
        for (text, word) in [
            ("", "http://"),
            ("proxy.lan:3128", "http://"),
            ("https://proxy.lan:3128", "write http://"),
            ("socks5://proxy.lan:1080", "SOCKS"),
            ("ftp://proxy.lan", "http://"),
            ("http://", "host and a port"),
            ("http://:3128", "host and a port"),
            ("http://proxy.lan:", "host and a port"),
            ("http://proxy.lan:0", "host and a port"),
            ("http://proxy.lan:70000", "host and a port"),
            ("http://proxy.lan:+1", "host and a port"),
            ("http://pro xy:1", "host and a port"),
            ("http://[::1", "host and a port"),
            ("http://[proxy]:1", "host and a port"),
            ("http://::1:1", "host and a port"),
            ("http://proxy.lan:3128/x", "end with the port"),
            ("http://u:p?q@proxy.lan:3128", "%3F"),
            ("http://:p@proxy.lan:1", "user:password"),
            ("http://u%3A:p@proxy.lan:1", "user:password"),
            ("http://u:p%0D%0AX:1@proxy.lan:1", "user:password"),
            ("http://u:%FF@proxy.lan:1", "user:password"),
        ] {
            let why = Proxy::parse(text).expect_err(text);
            assert!(why.contains(word), "{text}: {why}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let proxy = Proxy::parse("http://user:s3cr3t-s3cr3t@proxy.lan:3128").unwrap();
        assert!(!format!("{proxy} {proxy:?}").contains("s3cr3t"));
    }

    proptest! {
        #[test]
        fn no_address_leaves_its_line(text in "(http://)?[ -~\r\n]{0,40}") {
            if let Ok(proxy) = Proxy::parse(&text) {
                let sent = format!("{proxy}{}", proxy.authorization().unwrap_or_default().expose());
                prop_assert!(!sent.contains(char::is_control));
            }
        }
    }
}
