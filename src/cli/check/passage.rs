//! What comes through whole, and what a firewall before the program refuses, asked from outside:
//!
//! | sent | answered if it comes through | if not |
//! |---|---|---|
//! | `HEAD /health` | with the length that the program announces | without |
//! | a call of 1 MiB, and one with a byte-order mark, of a portal that is not there | 404; without a client's token 401 | 400: cut; or not by the program |
//! | a query with a line break | 404: no such portal | not by the program |

use super::line::Line;
use super::web::{Seen, Site};
use crate::upstream::http::Reply;
use crate::values::secret::Secret;

/// Of a call. Firewalls read 128 KiB, nginx 1 MiB, unless they are told otherwise.
const LARGE: usize = 1 << 20;
/// As 1C begins what it writes in UTF-8.
const MARK: &str = "\u{feff}";
const FIREWALL: &str =
    "ModSecurity: \"SecRuleEngine Off\" for this address (deploy/apache/b24proxy.conf shows where); on \
                        rented space ask the host to except this address from its firewall";

pub fn check(site: &Site) -> Vec<Line> {
    let mut lines = Vec::new();
    lines.extend(site.head("/health").ok().and_then(|reply| judge_length(&reply)));
    // Where it can be read on the way, a client's token is not sent.
    let token = site.config.filter(|_| !site.address.is_open()).and_then(|config| config.plain_token());
    let token = token.unwrap_or_else(|| Secret::new("no-token-of-anybody"));
    let room = site.config.map_or(LARGE, |config| LARGE.min(usize::try_from(config.limits.max_body).unwrap_or(LARGE)));
    for (check, what, cure, body) in [
        (
            "large body",
            "a body of 1 MiB",
            "LimitRequestBody, FcgidMaxRequestLen (Apache), client_max_body_size 17m (nginx); ",
            call(room),
        ),
        ("byte-order mark", "a body that begins with a byte-order mark", "", format!("{MARK}{}", call(0))),
    ] {
        let seen = site.post_json(body.as_bytes(), token.expose()).ok();
        lines.push(judge_body(check, what, cure, seen.as_ref()));
    }
    let url = format!("{}?portal=check.invalid&text=one%0D%0Atwo", site.address.base());
    lines.extend(site.get(&url).ok().map(|seen| judge_line_break(&seen)));
    lines
}

/// A call of so many bytes, which no portal gets to see.
fn call(size: usize) -> String {
    let (head, tail) = (r#"{"domain":"check.invalid","method":"profile","params":{"text":""#, r#""}}"#);
    format!("{head}{}{tail}", "a".repeat(size.saturating_sub(head.len() + tail.len())))
}

/// `None`: not the program's answer, which is said elsewhere.
fn judge_length(reply: &Reply) -> Option<Line> {
    const CHECK: &str = "length";
    const LOST: &str =
        "the web server leaves out the length of an answer: a file that is cut off on its way looks whole";
    if !Seen::of(reply).ours {
        return None;
    }
    let is = |name: &str, word: &str| {
        let value = reply.headers.get(name).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| value.to_ascii_lowercase().contains(word))
    };
    Some(if reply.headers.contains_key("Content-Length") {
        Line::ok(CHECK, "the length of an answer arrives")
    } else if is("Server", "apache") {
        Line::fail(
            CHECK,
            LOST,
            "\"SetEnv ap_trust_cgilike_cl 1\", in .htaccess \"SetEnvIf Request_Method . ap_trust_cgilike_cl\": take the \
             file of deploy/apache anew",
        )
    } else {
        Line::warn(
            CHECK,
            LOST,
            "Apache: \"SetEnv ap_trust_cgilike_cl 1\" (deploy/apache); otherwise turn off compression for this address",
        )
    })
}

fn judge_body(check: &str, what: &str, cure: &str, seen: Option<&Seen>) -> Line {
    match seen {
        Some(seen) if seen.ours && seen.status == 400 => Line::fail(
            check,
            format!("{what} does not arrive as it was sent"),
            "something between here and the program cuts or changes it: look into the web server's error log",
        ),
        Some(seen) if seen.ours && seen.status == 404 => Line::ok(check, format!("{what} arrives whole")),
        // Refused for its credentials: who sent it was told by the program.
        Some(seen) if seen.ours => Line::ok(check, format!("{what} is let through")),
        Some(seen) => Line::fail(
            check,
            format!("{what} is refused before the program (status {}): so are calls of 1C", seen.status),
            format!("{cure}{FIREWALL}"),
        ),
        None => Line::warn(
            check,
            format!("{what} is not answered"),
            format!("look into the web server's error log; {cure}{FIREWALL}"),
        ),
    }
}

fn judge_line_break(seen: &Seen) -> Line {
    const CHECK: &str = "line break";
    if seen.ours {
        return Line::ok(CHECK, "a query with a line break is let through");
    }
    Line::fail(
        CHECK,
        format!("a query with a line break is refused before the program (status {})", seen.status),
        format!("webhook clients send texts so; {FIREWALL}"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::line::Status;
    use super::*;
    use crate::upstream::http::Reply;

    fn reply(headers: &[(&'static str, &'static str)]) -> Reply {
        let ours = [("X-Request-Id", "1"), ("X-Content-Type-Options", "nosniff")];
        let pairs = headers
            .iter()
            .chain(&ours)
            .map(|(name, value)| (name.parse().expect("a name"), ureq::http::HeaderValue::from_static(value)));
        Reply { status: 200, content_type: None, headers: pairs.collect(), body: Vec::new() }
    }

    #[test]
    fn a_length_that_apache_leaves_out_fails_and_where_it_is_not_known_who_did_it_warns() {
        let status = |headers: &[_]| judge_length(&reply(headers)).expect("a line").status;
        assert_eq!(status(&[("Content-Length", "15"), ("Server", "Apache")]), Status::Ok);
        assert_eq!(status(&[("Server", "Apache/2.4.71 (Debian)")]), Status::Fail);
        assert_eq!(status(&[("Server", "cloudflare")]), Status::Warn);
        assert_eq!(status(&[]), Status::Warn);
    }

    #[test]
    fn a_body_that_the_program_has_seen_came_through_and_one_that_it_could_not_read_did_not() {
        let of = |status, ours| {
            let mut seen = Seen::default();
            (seen.status, seen.ours) = (status, ours);
            judge_body("large body", "a body", "", Some(&seen)).status
        };
        assert_eq!([of(404, true), of(401, true), of(413, true), of(403, true)], [Status::Ok; 4]);
        assert_eq!([of(400, true), of(400, false), of(413, false), of(404, false)], [Status::Fail; 4]);
        assert_eq!(judge_body("large body", "a body", "", None).status, Status::Warn);
    }

    #[test]
    fn a_call_has_the_size_that_is_asked_for() {
        assert_eq!(call(LARGE).len(), LARGE);
        assert!(serde_json::from_str::<serde_json::Value>(&call(0)).is_ok());
    }
}
