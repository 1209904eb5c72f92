//! Another web server that passes requests on to this one: whose address counts for `allowed_ips` and `ips` then.

use super::line::Line;
use super::web::{Seen, Site};
use crate::config::Config;
use crate::serve::caller::{holds, TRUSTED, UNTRUSTED};

/// An address of nobody (RFC 5737) that a caller makes up for itself.
const MADE_UP: &str = "203.0.113.77";

impl Site<'_> {
    /// With a client's token: whether another web server passes requests on to this one, and whose address counts then.
    pub fn proxy_in_front(&self) -> Option<Line> {
        let config = self.config.filter(|_| !self.address.is_open())?;
        let token = config.plain_token().or_else(|| Some(config.plain_tokens().pop()?.1))?;
        let header = format!("Bearer {}", token.expose());
        let ask = |forwarded: &[(&'static str, &str)]| {
            let headers = [&[("Authorization", header.as_str())], forwarded].concat();
            self.get_with(&format!("{}/status", self.address.base()), &headers).ok()
        };
        judge_proxy(config, &ask(&[])?, &ask(&[("X-Forwarded-For", MADE_UP)])?)
    }
}

/// What `/status` says to a client, and to one that makes up where it comes from.
fn judge_proxy(config: &Config, seen: &Seen, made_up: &Seen) -> Option<Line> {
    const CHECK: &str = "proxy in front";
    let error = seen.field("error");
    if seen.ours && seen.status == 403 && error.contains("trusted_proxies = [") {
        return Some(Line::fail(CHECK, error, ""));
    }
    let caller = seen.caller.as_deref().filter(|_| seen.ours && seen.status == 200)?;
    let address = caller.split(';').next().unwrap_or("");
    // This machine is perhaps the web server in front itself, which may say for whom it asks.
    let is_trusted = address.parse().is_ok_and(|address| holds(&config.trusted_proxies, address));
    let believes = made_up.caller.as_deref().is_some_and(|caller| caller.split(';').next() == Some(MADE_UP));
    let limited = config.allowed_ips.is_some() || config.clients.iter().any(|client| client.ips.is_some());
    Some(if believes && !is_trusted {
        Line::fail(
            CHECK,
            "every caller can choose its address: what it sends as X-Forwarded-For counts",
            "let the web server in front add the caller's address (nginx: proxy_set_header X-Forwarded-For \
             $proxy_add_x_forwarded_for), or take it out of trusted_proxies",
        )
    } else if caller.ends_with(UNTRUSTED) && limited {
        Line::warn(
            CHECK,
            format!("another web server passes requests on from {address}, so allowed_ips and ips see its address"),
            format!("where it is your own: trusted_proxies = [\"{address}\"] under [security]"),
        )
    } else if caller.ends_with(UNTRUSTED) {
        Line::ok(CHECK, format!("another web server passes requests on from {address}; this matters for ips only"))
    } else if caller.ends_with(TRUSTED) {
        Line::ok(CHECK, format!("is trusted, and says that this check comes from {address}"))
    } else {
        Line::ok(CHECK, format!("none shows; this check comes from {address}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::line::Status;

    fn seen(status: u16, body: &[u8]) -> Seen {
        Seen { status, body: body.to_vec(), ..Seen::default() }
    }

    #[test]
    fn a_web_server_in_front_is_told_and_so_is_one_that_lets_callers_choose_their_address() {
        let config = |lines: &str| {
            let text = format!("[security]\nauth_token = \"a-token-of-twenty-chars\"\n{lines}");
            Config::parse(&text, std::path::Path::new("/proxy.toml")).unwrap()
        };
        let told = |lines: &str, caller: &str, made_up: &str| {
            let seen = |caller: &str| Seen { ours: true, caller: Some(caller.into()), ..seen(200, b"{}") };
            let line = judge_proxy(&config(lines), &seen(caller), &seen(made_up)).unwrap();
            (line.status, line.text + &line.cure)
        };
        let limited = "allowed_ips = [\"127.0.0.1\"]";
        let (status, text) = told(limited, "127.0.0.1; proxy=untrusted", "127.0.0.1; proxy=untrusted");
        assert!(status == Status::Warn && text.contains("trusted_proxies = [\"127.0.0.1\"]"), "{text}");
        assert_eq!(told("", "127.0.0.1; proxy=untrusted", "127.0.0.1; proxy=untrusted").0, Status::Ok);
        assert_eq!(told(limited, "192.0.2.1", "192.0.2.1; proxy=untrusted").0, Status::Ok);
        let trusting = "trusted_proxies = [\"127.0.0.1\"]";
        assert_eq!(told(trusting, "192.0.2.1; proxy=trusted", "192.0.2.1; proxy=trusted").0, Status::Ok);
        let (status, text) = told(trusting, "192.0.2.1; proxy=trusted", "203.0.113.77; proxy=trusted");
        assert!(status == Status::Fail && text.contains("choose its address"), "{text}");
        let (status, _) = told(trusting, "127.0.0.1; proxy=trusted", "203.0.113.77; proxy=trusted");
        assert_eq!(status, Status::Ok, "asked on the very machine that is trusted");
        let refused = Seen { ours: true, ..seen(403, br#"{"error":"write trusted_proxies = [\"10.0.0.7\"]"}"#) };
        assert_eq!(judge_proxy(&config(limited), &refused, &refused).unwrap().status, Status::Fail);
        assert_eq!(judge_proxy(&config(limited), &seen(403, b"{}"), &refused), None);
    }
}
