//! The program's own public address, as `--url` and `redirect_uri` name it.

use crate::values::portal::{split_address, Scheme};

/// The program's public address: `https://www.example.com/cgi-bin/b24proxy`.
#[derive(Clone)]
pub struct Address {
    pub scheme: Scheme,
    /// Host, with a port where it is not the usual one.
    pub name: String,
    /// Without a trailing slash.
    pub path: String,
}

impl Address {
    /// Reads `--url`.
    pub fn parse(text: &str) -> Result<Address, String> {
        let wrong = || "write this program's own address, such as https://www.example.com/cgi-bin/b24proxy".to_owned();
        let (scheme, name, path) = split_address(text).ok_or_else(wrong)?;
        let path = path.trim_end_matches('/');
        let path = without_route(path).unwrap_or(path);
        Ok(Address { scheme, name: name.to_string(), path: path.to_owned() })
    }

    pub fn base(&self) -> String {
        format!("{}://{}{}", self.scheme.as_str(), self.name, self.path)
    }

    /// Another path of this server.
    pub fn at(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme.as_str(), self.name)
    }

    fn host(&self) -> &str {
        self.name.split(':').next().unwrap_or("")
    }

    /// Whether what is sent there can be read on the way.
    pub fn is_open(&self) -> bool {
        self.scheme == Scheme::Http && !self.is_local()
    }

    /// Whether what is sent there stays within this machine.
    fn is_local(&self) -> bool {
        let loopback = self.host().parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        loopback || self.host() == "localhost"
    }
}

/// The program's own address, of one that names a route below it.
pub fn without_route(address: &str) -> Option<&str> {
    ["/health", "/install", "/status", "/callback"].into_iter().find_map(|route| address.strip_suffix(route))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_with_or_without_a_slash_or_a_route() {
        for below in ["", "/", "/health", "/install", "/status/", "/callback"] {
            let text = format!("https://www.example.com/cgi-bin/b24proxy{below}");
            assert_eq!(
                Address::parse(&text).ok().map(|address| address.base()).unwrap(),
                "https://www.example.com/cgi-bin/b24proxy"
            );
        }
        assert!(Address::parse("www.example.com").is_err());
        assert!(Address::parse("http://127.0.0.1:8080/cgi-bin/b24proxy").is_ok_and(|address| address.is_local()));
        assert!(Address::parse("http://127.example.com/b24proxy").is_ok_and(|address| !address.is_local()));
    }
}
