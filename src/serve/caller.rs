//! From which address a call comes: what the web server says, and those in front of it that the configuration trusts.

use crate::values::request::Variables;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

/// Tells a client which address counts for it, and whether through a web server in front: `127.0.0.1; proxy=untrusted`.
pub const HEADER: &str = "X-B24proxy-Caller";
pub const UNTRUSTED: &str = "proxy=untrusted";
pub const TRUSTED: &str = "proxy=trusted";

/// Headers with which web servers pass requests on. Anybody can send them too: they are worth a word, and no right.
const FORWARDING: [&str; 7] = [
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_REAL_IP",
    "HTTP_FORWARDED",
    "HTTP_VIA",
    "HTTP_X_FORWARDED_PROTO",
    "HTTP_CF_CONNECTING_IP",
    "HTTP_TRUE_CLIENT_IP",
];

#[derive(Debug, PartialEq, Eq)]
pub struct Caller {
    /// The one that counts; `None`: nobody says it so that it can be read.
    pub address: Option<IpAddr>,
    pub way: Way,
    /// The address is this machine's or a private one, and somebody else's request came through it.
    is_perhaps_a_proxys: bool,
}

/// How the request came to the web server, as far as this can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Direct,
    /// Through a web server that `trusted_proxies` does not name.
    Proxy,
    TrustedProxy,
    /// From a trusted one that names nobody.
    SilentProxy,
}

impl Caller {
    pub fn of(trusted: &[IpNet], variables: &Variables) -> Caller {
        let forwarded = FORWARDING.iter().any(|name| !variables.bytes(name).trim_ascii().is_empty());
        let own = address_in(variables.text("SERVER_ADDR").unwrap_or(""));
        let is_near = |address: IpAddr| own == Some(address) || is_private(address);
        let direct = match forwarded {
            true => Way::Proxy,
            false => Way::Direct,
        };
        let Some(peer) = address_in(variables.text("REMOTE_ADDR").unwrap_or("")) else {
            return Caller { address: None, way: direct, is_perhaps_a_proxys: false };
        };
        if !holds(trusted, peer) {
            let is_perhaps_a_proxys = forwarded && is_near(peer);
            return Caller { address: Some(peer), way: direct, is_perhaps_a_proxys };
        }
        let list = forwarded_for(variables);
        if list.is_empty() {
            return Caller { address: Some(peer), way: Way::SilentProxy, is_perhaps_a_proxys: false };
        }
        let told = told(trusted, &list);
        Caller {
            address: told.address,
            way: Way::TrustedProxy,
            is_perhaps_a_proxys: told.is_passed_on && told.address.is_some_and(is_near),
        }
    }

    /// The value of [`HEADER`].
    pub fn for_header(&self) -> String {
        let address = self.address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        match self.way {
            Way::Direct => address,
            Way::Proxy => format!("{address}; {UNTRUSTED}"),
            Way::TrustedProxy | Way::SilentProxy => format!("{address}; {TRUSTED}"),
        }
    }

    /// Why a call from here is refused, and what to do.
    pub fn refusal(&self) -> String {
        match (self.address, self.way) {
            (Some(address), _) if self.is_perhaps_a_proxys => format!(
                "Calls from the address {address} are not allowed. It is this machine's or a private one and passes on \
                 requests of others, so it is hardly the caller's: where it is your own web server in front, write \
                 trusted_proxies = [\"{address}\"] under [security] in proxy.toml and let it send X-Forwarded-For; then \
                 the caller's own address counts."
            ),
            (Some(address), Way::TrustedProxy) => format!(
                "Calls from the address {address} are not allowed. It is what the web server in front tells \
                 (trusted_proxies); those of allowed_ips, and of this client's ips, in proxy.toml may call."
            ),
            (Some(address), Way::SilentProxy) => format!(
                "Calls from the address {address} are not allowed. It is one of trusted_proxies, and does not say for whom \
                 it asks: let that web server send X-Forwarded-For (nginx: proxy_set_header X-Forwarded-For \
                 $proxy_add_x_forwarded_for)."
            ),
            (Some(address), _) => format!(
                "Calls from the address {address} are not allowed: add it to allowed_ips, or to this client's ips, in \
                 proxy.toml."
            ),
            (None, Way::TrustedProxy) => "Calls from an unknown address are not allowed: the last value of \
                X-Forwarded-For is no address. Let the web server in front put the caller's there."
                .into(),
            (None, _) => "Calls from an unknown address are not allowed: the web server passes none in REMOTE_ADDR. \
                Behind another one it can take the caller's from there (nginx: set_real_ip_from; Apache: \
                RemoteIPInternalProxy)."
                .into(),
        }
    }
}

/// What trusted web servers tell.
struct Told {
    address: Option<IpAddr>,
    /// There is somebody before it whom it names.
    is_passed_on: bool,
}

/// Each web server on the way has added whom it was asked by, so the list counts from its end, as far as those that say
/// so are trusted: what stands before is what a caller may have made up.
fn told(trusted: &[IpNet], list: &str) -> Told {
    let mut found = Told { address: None, is_passed_on: false };
    let mut entries = list.rsplit(',');
    while let Some(entry) = entries.next() {
        found.address = address_in(entry);
        found.is_passed_on = entries.clone().next().is_some();
        if !found.address.is_some_and(|address| holds(trusted, address)) {
            break;
        }
    }
    found
}

/// All headers of that name in the order in which they came: servers join them, or pass a variable for each (nginx before
/// 1.23). What is no text is kept as what is no address.
fn forwarded_for(variables: &Variables) -> String {
    let headers = variables.all("HTTP_X_FORWARDED_FOR").map(String::from_utf8_lossy);
    let headers: Vec<_> = headers.filter(|header| !header.trim().is_empty()).collect();
    // lighttpd joins those of one name. A second variable there is X_Forwarded_For, which a web server in front passes on
    // from whoever sends it: neither is known to be the true one.
    let is_lighttpd = variables.text("SERVER_SOFTWARE").is_some_and(|software| software.starts_with("lighttpd"));
    match headers.len() {
        2.. if is_lighttpd => "unknown".into(),
        _ => headers.join(","),
    }
}

/// An address, perhaps with a port: `192.0.2.1:4711`, `[2001:db8::1]:4711`. An IPv4 address in IPv6 form is the IPv4 address.
/// Apache names the interface of a link-local one, `fe80::1%eth0`, which lists of addresses do not.
fn address_in(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let text = text.split_once('%').filter(|(address, _)| address.contains(':')).map_or(text, |(address, _)| address);
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6);
    let address = text.parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|with_port| with_port.ip()));
    address.or_else(bracketed).map(|address| address.to_canonical())
}

pub fn holds(list: &[IpNet], address: IpAddr) -> bool {
    list.iter().any(|net| net.contains(&address))
}

/// Of this machine or of a network that nobody outside can call from (RFC 1918, 3927, 4193, 4291, 6598).
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let is_shared = first == 100 && (64..128).contains(&second);
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || v4.is_unspecified() || is_shared
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        let net = |text: &&str| text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        list.iter().map(|text| net(text).unwrap()).collect()
    }

    fn caller(trusted: &[&str], variables: &[(&str, &str)]) -> Caller {
        Caller::of(&nets(trusted), &Variables::from_pairs(variables))
    }

    /// The address that counts, of a request that 127.0.0.1 passes on with this header; 10.0.0.0/8 is trusted too.
    fn passed_on(header: &str) -> Option<String> {
        let variables = [("REMOTE_ADDR", "127.0.0.1"), ("HTTP_X_FORWARDED_FOR", header)];
        caller(&["127.0.0.1", "10.0.0.0/8"], &variables).address.map(|address| address.to_string())
    }

    #[test]
    fn the_last_address_that_is_not_a_trusted_proxys_counts() {
        for (header, counts) in [
            ("192.0.2.1", "192.0.2.1"),
            ("198.51.100.1, 192.0.2.1", "192.0.2.1"),
            ("198.51.100.1, 192.0.2.1, 10.0.0.7,10.9.9.9", "192.0.2.1"),
            ("nonsense, 192.0.2.1", "192.0.2.1"),
            ("10.0.0.7, 192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:DB8::1", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("192.0.2.1, ::ffff:10.0.0.7", "192.0.2.1"),
            // Nobody else is named, so the one that asked first counts.
            ("10.0.0.7", "10.0.0.7"),
            ("10.0.0.8, 10.0.0.7", "10.0.0.8"),
            ("", "127.0.0.1"),
            ("  ", "127.0.0.1"),
        ] {
            assert_eq!(passed_on(header).as_deref(), Some(counts), "{header:?}");
        }
    }

    #[test]
    fn what_is_no_address_is_unknown() {
        for header in [
            "unknown",
            "192.0.2.1, x",
            "192.0.2.1,",
            ",",
            "192.0.2.1:",
            "192.0.2.1:port",
            "192.0.2.1:99999",
            "192.0.2.256",
            "\"192.0.2.1\"",
            "192.0.2.1 192.0.2.2",
            "for=192.0.2.1",
            "_hidden",
            "192.0.2.1, 10.0.0.7, unknown, 10.0.0.7",
        ] {
            assert_eq!(passed_on(header), None, "{header:?}");
        }
        for address in ["", "unix:", "unix:/run/x.sock", "localhost", "0x7f.1"] {
            let seen = caller(&["127.0.0.1"], &[("REMOTE_ADDR", address), ("HTTP_X_FORWARDED_FOR", "192.0.2.1")]);
            assert_eq!(seen.address, None, "{address:?}");
            assert!(seen.refusal().contains("REMOTE_ADDR"), "{}", seen.refusal());
        }
    }

    #[test]
    fn nothing_counts_that_somebody_untrusted_sends() {
        for (trusted, peer) in
            [(vec![], "127.0.0.1"), (vec!["127.0.0.1"], "10.0.0.7"), (vec!["10.0.0.0/24"], "10.0.1.7")]
        {
            let seen = caller(&trusted, &[("REMOTE_ADDR", peer), ("HTTP_X_FORWARDED_FOR", "192.0.2.1")]);
            assert_eq!(seen.address.unwrap().to_string(), peer);
            assert_eq!(seen.way, Way::Proxy);
        }
    }

    #[test]
    fn several_headers_are_one_list_in_their_order() {
        let peer = ("REMOTE_ADDR", "127.0.0.1");
        let header = |value| ("HTTP_X_FORWARDED_FOR", value);
        let seen = caller(&["127.0.0.1"], &[header("10.1.1.1"), peer, header(""), header("192.0.2.1")]);
        assert_eq!(seen.address.unwrap().to_string(), "192.0.2.1");
        let lighttpd = ("SERVER_SOFTWARE", "lighttpd/1.4.69");
        assert_eq!(caller(&["127.0.0.1"], &[lighttpd, peer, header("192.0.2.1"), header("192.0.2.2")]).address, None);
        assert!(caller(&["127.0.0.1"], &[lighttpd, peer, header("192.0.2.1")]).address.is_some());
    }

    #[test]
    fn an_address_that_is_perhaps_a_proxys_is_never_advised_to_be_allowed() {
        let text = |trusted: &[&str], variables: &[(&str, &str)]| caller(trusted, variables).refusal();
        for peer in
            ["127.0.0.1", "::1", "10.0.0.7", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.1.1", "fd00::1"]
        {
            for header in FORWARDING {
                let why = text(&["192.0.2.99"], &[("REMOTE_ADDR", peer), (header, "192.0.2.1")]);
                assert!(why.contains("trusted_proxies = [") && why.contains(peer), "{why}");
                assert!(!why.contains("allowed_ips"), "{why}");
            }
            let why = text(&[], &[("REMOTE_ADDR", peer)]);
            assert!(why.contains("add it to allowed_ips") && !why.contains("trusted_proxies"), "{why}");
        }
        let own = [("REMOTE_ADDR", "192.0.2.5"), ("SERVER_ADDR", "192.0.2.5"), ("HTTP_VIA", "1.1 x")];
        assert!(text(&[], &own).contains("trusted_proxies = [\"192.0.2.5\"]"));
        let elsewhere = [("REMOTE_ADDR", "192.0.2.6"), ("SERVER_ADDR", "192.0.2.5"), ("HTTP_VIA", "1.1 x")];
        assert!(text(&[], &elsewhere).contains("add it to allowed_ips"));
        // A second web server in front, which is not named yet; and a caller of a private network behind one that is.
        let chain = [("REMOTE_ADDR", "127.0.0.1"), ("HTTP_X_FORWARDED_FOR", "192.0.2.1, 10.0.0.7")];
        assert!(text(&["127.0.0.1"], &chain).contains("trusted_proxies = [\"10.0.0.7\"]"));
        let near = [("REMOTE_ADDR", "127.0.0.1"), ("HTTP_X_FORWARDED_FOR", "10.0.0.7")];
        let why = text(&["127.0.0.1"], &near);
        assert!(!why.contains("add it") && !why.contains("trusted_proxies = ["), "{why}");
        // A trusted one that passes on who asks in another header, or not at all.
        for other in ["HTTP_X_REAL_IP", "HTTP_X_FORWARDED_FOR"] {
            let why = text(
                &["127.0.0.1"],
                &[("REMOTE_ADDR", "127.0.0.1"), (other, if other.ends_with("IP") { "192.0.2.1" } else { " " })],
            );
            assert!(why.contains("send X-Forwarded-For") && !why.contains("allowed_ips"), "{why}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_caller_sends_his_address_counts_once_a_trusted_proxy_adds_it(
            sent in proptest::collection::vec("[ -~]{0,30}|10\\.0\\.0\\.[1-9]|192\\.0\\.2\\.1|,|", 0..5),
            proxies in 0usize..3,
        ) {
            let list = sent.join(",") + ", 203.0.113.9" + &", 10.0.0.7".repeat(proxies);
            prop_assert_eq!(passed_on(&list), Some("203.0.113.9".to_owned()));
        }

        #[test]
        fn no_header_panics_or_is_repeated(header in "\\PC{0,60}", peer in "\\PC{0,30}|127\\.0\\.0\\.1") {
            let seen = caller(&["127.0.0.1"], &[("REMOTE_ADDR", &peer), ("HTTP_X_FORWARDED_FOR", &header)]);
            if seen.address.is_none() {
                prop_assert!(seen.refusal().contains("unknown address"));
            }
        }
    }
}
