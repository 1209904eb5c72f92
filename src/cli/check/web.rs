//! The web server, asked from outside: does it run the program, pass everything on, and keep the files to itself?
//!
//! What arrives shows in the program's own answers, so that no secret and no route for this is needed:
//!
//! | sent | answered if it arrives | if not |
//! |---|---|---|
//! | `GET /health` | 200 or 503, JSON | the web server's own page |
//! | a form above 64 KiB with wrong credentials | 401: refused for them | 413: without credentials only 64 KiB are read |
//! | a form `event=…` of no meaning, without credentials | 200: other events are answered so | 401: no form |
//! | `GET ?portal=check.invalid` | 404: no such portal | 405: nothing is asked for |
//! | `GET /status` with a client token | which address counts, and through which web servers ([`HEADER`]) | |

use super::address::Address;
use super::host::Host;
use super::line::Line;
use super::network::not_reached;
use crate::config::Config;
use crate::serve::caller::HEADER;
use crate::serve::MAX_STRANGER_BODY;
use crate::system::clock::Deadline;
use crate::upstream::http::{Connections, Failure, Http, Obstacle, Post, Reply};
use crate::values::error::Executed;
use crate::values::mask::Mask;
use crate::values::portal::Scheme;
use base64::prelude::{Engine, BASE64_STANDARD};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);
/// Of an answer; enough to see what it is.
const MAX_ANSWER: u64 = 64 << 10;
const FORM: &str = "application/x-www-form-urlencoded";
/// Above what the program reads of somebody without credentials.
const LARGE_FORM: usize = MAX_STRANGER_BODY as usize + 1;
const CHECK: &str = "web server";
const SPLIT_PATH: &str =
    "Apache: AcceptPathInfo On; nginx: the location and fastcgi_split_path_info of deploy/nginx; LiteSpeed: a \
                          rewrite rule for the addresses below";

/// The web server, and what it has answered for `/health`.
pub struct Asked<'a> {
    pub site: Site<'a>,
    health: Result<Seen, Failure>,
}

/// `None`: no certificate file to ask with, which is said of `ca_file`.
pub fn ask<'a>(address: &'a Address, http: &'a Http, config: Option<&'a Config>) -> Option<Asked<'a>> {
    let site = Site { http: http.portals().ok()?, address, config };
    let health = site.get(&format!("{}/health", address.base()));
    Some(Asked { site, health })
}

impl Asked<'_> {
    /// Whether the web server answered at all.
    pub fn is_reached(&self) -> bool {
        self.health.is_ok()
    }

    /// Whether the program answers, and can be used.
    pub fn works(&self) -> bool {
        self.health.as_ref().is_ok_and(|seen| seen.ours && seen.status == 200)
    }

    /// Whether the web server starts the program.
    pub fn runs(&self) -> bool {
        self.health.as_ref().is_ok_and(|seen| seen.ours)
    }
}

/// What keeps the program from its work, and is told already.
#[derive(Clone, Copy, Default)]
pub struct Told {
    pub configuration: bool,
    pub storage: bool,
}

pub fn check(Asked { site, health }: &Asked, host: &Host, told: Told) -> Vec<Line> {
    let address = site.address;
    let health = match health {
        Ok(seen) => seen,
        // The authority of its certificate is perhaps the one that the configuration names, which cannot be used.
        Err(Failure::NotSent {
            obstacle: Obstacle::SelfSigned | Obstacle::NoIntermediate | Obstacle::UnknownAuthority,
            ..
        }) if told.configuration => return Vec::new(),
        Err(failure) => return vec![not_reached_from_here(&address.name, failure, host)],
    };
    let mut lines = vec![site.encryption()];
    let runs = site.in_place(health, judge_health(health), host, told);
    let is_well = health.ours && health.status == 200;
    // What the server does not run below its address it may run at the address itself, or hand out there.
    let base = if health.ours { None } else { site.get(&address.base()).ok() };
    lines.push(match base {
        Some(base) if base.ours => Line::fail(
            "path",
            format!("the web server runs the program at {}, but nothing below that", address.base()),
            SPLIT_PATH,
        ),
        Some(base) if base.is_program() => judge_health(&base),
        _ => runs,
    });
    lines.extend(site.redirect_uri(is_well));
    if is_well {
        lines.push(Line::ok("path", "what follows the program's name in the address arrives"));
        lines.extend(site.what_arrives());
    }
    lines
}

/// An answer, as far as it is looked at.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub status: u16,
    pub content_type: String,
    pub location: Option<String>,
    /// What the program says of where the request comes from.
    pub caller: Option<String>,
    /// Whether this program gave it.
    pub ours: bool,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn of(reply: &Reply) -> Seen {
        let header = |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Seen {
            status: reply.status,
            content_type: reply.content_type.clone().unwrap_or_default(),
            location: header("Location"),
            caller: header(HEADER),
            ours: header("X-Request-Id").is_some() && header("X-Content-Type-Options").is_some(),
            body: reply.body.clone(),
        }
    }

    /// An executable of Linux or Windows.
    fn is_program(&self) -> bool {
        self.body.starts_with(b"\x7fELF") || self.body.starts_with(b"MZ")
    }

    pub fn field(&self, name: &str) -> String {
        let json: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        json[name].as_str().unwrap_or("").to_owned()
    }
}

fn not_reached_from_here(name: &str, failure: &Failure, host: &Host) -> Line {
    let mut line = not_reached(CHECK, name, failure);
    if matches!(failure, Failure::NotSent { obstacle: Obstacle::Refused, .. }) {
        let (question, cure) = host.not_running().unwrap_or_else(|| {
            let cure = "where the address is right, ask the host: the web server does not run, or not at this port";
            ("is the web server running?", cure.to_owned())
        });
        return Line { text: format!("{}: {question}", line.text), cure, ..line };
    }
    if matches!(failure, Failure::Timeout(Executed::No)) {
        line.cure = "many servers cannot reach their own public name, though everybody else can: run check --url on \
                     another machine"
            .into();
    }
    line
}

fn judge_health(seen: &Seen) -> Line {
    if !seen.ours {
        let (text, cure) = foreign(seen);
        return Line::fail(CHECK, text, cure);
    }
    match (seen.status, seen.field("reason").as_str()) {
        (200, _) => Line::ok(CHECK, "runs the program, and its configuration and storage are usable"),
        (503, "configuration_error") => Line::fail(
            CHECK,
            "runs the program, but as the web server's user it cannot use its configuration",
            "the web server's error log says why: most often proxy.toml belongs to another user, lies below the document \
             root, or is not where that run looks for it",
        ),
        (503, _) => Line::fail(
            CHECK,
            "runs the program, but as the web server's user it cannot use the token folder",
            "the web server's error log says why: most often the folder belongs to another user",
        ),
        // What `/` answers, or an address that the program does not know.
        (404 | 405, _) => Line::fail(
            "path",
            "the web server runs the program, but does not tell it what follows its name in the address: the path is not \
             split into SCRIPT_NAME and PATH_INFO",
            SPLIT_PATH,
        ),
        (status, _) => {
            let text = format!("runs the program, but it answers status {status} to /health");
            Line::fail(CHECK, text, "compare its version with this one's (b24proxy version)")
        }
    }
}

/// What an answer means that is not this program's: text and cure.
fn foreign(seen: &Seen) -> (String, String) {
    let target = seen.location.as_deref().unwrap_or("another address");
    let (text, cure) = match seen.status {
        200 if seen.is_program() => (
            "hands out the program's file instead of running it".to_owned(),
            "perhaps the .htaccess is missing beside it (FTP programs hide names that begin with a dot): copy \
             deploy/apache/htaccess there; otherwise Apache needs the module cgid or cgi, and AllowOverride; or put \
             it into the cgi-bin of the host",
        ),
        200 => (
            "answers another page at this address".to_owned(),
            "the site's own program (a CMS) catches it, or the address is wrong: except it from the site's rewrite rules",
        ),
        300..=399 => (
            format!("redirects to {target}"),
            "use that address here, in 1C and as redirect_uri: a redirected POST loses its body",
        ),
        401 => (
            "asks for a password itself, before the program".to_owned(),
            "remove the password protection (AuthType, auth_basic) from this address: the program checks tokens itself",
        ),
        403 => (
            "forbids this address".to_owned(),
            "chmod 755 the executable and its folder, allow CGI there (Options +ExecCGI), Require all granted; some hosts \
             have a firewall (mod_security) that forbids it",
        ),
        404 => (
            "finds nothing at this address".to_owned(),
            "check the address and where the executable lies; for addresses below it: AcceptPathInfo On",
        ),
        405 => ("does not allow this kind of request".to_owned(), "the address leads to a file, not to a CGI program"),
        429 => ("says that there are too many requests".to_owned(), "ask the host for a higher limit"),
        500 => (
            "fails to start the program (500)".to_owned(),
            "the error log says why. \"Premature end of script headers\" or \"Exec format error\": chmod 755 is missing, it was \
             uploaded in FTP's text mode (upload it again in binary mode), it is built for another machine, or suexec \
             refused it (see \"executable\" above); \"not allowed here\": delete that part of .htaccess",
        ),
        502 => (
            "got no answer from the program (502)".to_owned(),
            "nginx: is fcgiwrap running, and its socket the one of fastcgi_pass? Behind a proxy: is the web server running?",
        ),
        503 => (
            "is overloaded or switched off (503)".to_owned(),
            "if it stays so, ask the host: too many processes, or a maintenance page",
        ),
        504 => (
            "waited too long for the program (504)".to_owned(),
            "fcgiwrap with one worker makes calls wait for each other: more workers (-c 8), and a time limit of 60 s",
        ),
        507..=509 => (
            format!("says that the account has used up its resources ({})", seen.status),
            "CloudLinux limits processes, memory and time of an account: make fewer calls at once, or take a larger plan",
        ),
        520..=530 => (
            format!("is behind a proxy (Cloudflare) that does not get an answer ({})", seen.status),
            "check the web server itself, and the proxy's time limit",
        ),
        status => (
            format!("answers status {status} ({})", seen.content_type),
            "this is not the program's answer: check the address, and the web server's error log",
        ),
    };
    (text, cure.to_owned())
}

/// What plain http answers where https is there.
fn judge_plain_http(seen: Option<&Seen>) -> Line {
    const CHECK: &str = "encryption";
    match seen {
        Some(seen) if seen.ours => Line::warn(
            CHECK,
            "the program answers by plain http too, where a client token could be read on the way",
            "redirect http to https in the web server",
        ),
        Some(seen) if (300..400).contains(&seen.status) => Line::ok(CHECK, "https; http redirects"),
        _ => Line::ok(CHECK, "https; the program does not answer by http"),
    }
}

/// `there`: what answers at `uri`, where the program answers at `checked`.
fn judge_redirect_uri(uri: &str, checked: &str, there: Option<&Result<Seen, Failure>>) -> Line {
    const CHECK: &str = "redirect_uri";
    let is_wrong = match there {
        Some(Ok(seen)) => !seen.ours,
        Some(Err(Failure::NotSent { obstacle: Obstacle::UnknownHost, .. })) => true,
        Some(Err(_)) | None => false,
    };
    match is_wrong {
        true => Line::fail(
            CHECK,
            format!("is {uri}, where the program does not answer: nobody can install"),
            format!("write redirect_uri = {checked:?} under [bitrix24], and the same in the application's settings"),
        ),
        false => Line::warn(
            CHECK,
            format!("is {uri}, not the address that is checked here"),
            "Bitrix24 sends administrators to redirect_uri: make sure that it is this program's address, and the same in \
             the application's settings",
        ),
    }
}

/// Whether a thing that was sent has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    Arrived,
    Lost,
    /// The answer is neither of the two.
    Unclear,
}

fn arrival(seen: &Seen, arrived: u16, lost: u16) -> Arrival {
    match seen.status {
        status if seen.ours && status == arrived => Arrival::Arrived,
        status if seen.ours && status == lost => Arrival::Lost,
        _ => Arrival::Unclear,
    }
}

pub struct Site<'a> {
    http: &'a Connections,
    pub address: &'a Address,
    pub config: Option<&'a Config>,
}

impl Site<'_> {
    pub fn get(&self, url: &str) -> Result<Seen, Failure> {
        self.get_with(url, &[])
    }

    pub fn get_with(&self, url: &str, headers: &[(&'static str, &str)]) -> Result<Seen, Failure> {
        self.http.get(url, headers, Deadline::after(PATIENCE), MAX_ANSWER).map(|reply| Seen::of(&reply))
    }

    /// The program's route, without a body.
    pub fn head(&self, route: &str) -> Result<Reply, Failure> {
        self.http.head(&format!("{}{route}", self.address.base()), Deadline::after(PATIENCE))
    }

    /// As 1C calls.
    pub fn post_json(&self, body: &[u8], token: &str) -> Result<Seen, Failure> {
        let post = Post {
            url: &self.address.base(),
            content_type: "application/json",
            headers: &[("Authorization", &format!("Bearer {token}"))],
            parts: &[body.into()],
            deadline: Deadline::after(PATIENCE),
            max_response: 1 << 20,
            hide: &Mask::default(),
        };
        self.http.post(&post).map(|reply| Seen::of(&reply))
    }

    fn post(&self, body: &[u8], headers: &[(&'static str, &str)], chunked: bool) -> Result<Seen, Failure> {
        let post = Post {
            url: &self.address.base(),
            content_type: FORM,
            headers,
            parts: &[body.into()],
            deadline: Deadline::after(PATIENCE),
            max_response: 1 << 20,
            hide: &Mask::default(),
        };
        let reply = if chunked { self.http.post_chunked(&post) } else { self.http.post(&post) };
        reply.map(|reply| Seen::of(&reply))
    }

    /// https, and what plain http answers.
    fn encryption(&self) -> Line {
        const CHECK: &str = "encryption";
        if self.address.is_open() {
            return Line::fail(
                CHECK,
                "this address is plain http: everybody on the way can read the client token",
                "get a certificate (most hosts give one for nothing) and use https everywhere",
            );
        }
        if self.address.scheme == Scheme::Http {
            return Line::ok(CHECK, "plain http, within this machine");
        }
        if self.address.name.contains(':') {
            return Line::ok(CHECK, "https");
        }
        let plain = format!("http://{}{}/health", self.address.name, self.address.path);
        judge_plain_http(self.get(&plain).ok().as_ref())
    }

    /// The line on what answers, with the cure of this very server in its place.
    fn in_place(&self, seen: &Seen, line: Line, host: &Host, told: Told) -> Line {
        if !seen.ours {
            return Line { cure: host.cure(seen.status).unwrap_or(line.cure), ..line };
        }
        let is_told = match seen.field("reason").as_str() {
            "configuration_error" => told.configuration,
            _ => told.storage,
        };
        match (seen.status, self.config) {
            (503, _) if is_told => Line::ok(CHECK, "runs the program, which is kept from work by what is named above"),
            (503, Some(config)) => match host.given_to_the_server(&config.path) {
                Some((why, cure)) => Line { text: format!("{}: {why}", line.text), cure, ..line },
                None => line,
            },
            _ => line,
        }
    }

    /// `is_well`: the program answers at the address that is checked.
    fn redirect_uri(&self, is_well: bool) -> Option<Line> {
        let uri = self.config?.bitrix24.redirect_uri.as_deref().filter(|uri| *uri != self.address.base())?;
        let there = is_well.then(|| self.get(&format!("{uri}/health")));
        Some(judge_redirect_uri(uri, &self.address.base(), there.as_ref()))
    }

    fn what_arrives(&self) -> Vec<Line> {
        let unknown = self.get(&format!("{}/check-no-such-route", self.address.base()));
        if unknown.as_ref().is_ok_and(|seen| !seen.ours) {
            return vec![Line::fail(
                "errors",
                "the web server puts its own pages in the place of the program's errors; 1C cannot read them",
                "remove ErrorDocument (Apache), fastcgi_intercept_errors and proxy_intercept_errors (nginx) for this address",
            )];
        }
        let mut lines = vec![Line::ok("errors", "the program's own errors arrive")];
        lines.extend([self.authorization(), self.query()]);
        lines.extend(self.body());
        lines.extend(self.same_configuration());
        lines.extend(self.proxy_in_front());
        lines
    }

    fn authorization(&self) -> Line {
        const CHECK: &str = "Authorization";
        let large = vec![b'a'; LARGE_FORM];
        let basic = format!("Basic {}", BASE64_STANDARD.encode("check:no-token-of-anybody"));
        let arrives = |name: &'static str, value: &str| {
            self.post(&large, &[(name, value)], false).map_or(Arrival::Unclear, |seen| arrival(&seen, 401, 413))
        };
        let bearer = arrives("Authorization", "Bearer no-token-of-anybody");
        let basic = arrives("Authorization", &basic);
        match (bearer, basic) {
            (Arrival::Arrived, Arrival::Arrived) => Line::ok(CHECK, "arrives, Bearer and Basic"),
            (Arrival::Unclear, _) | (_, Arrival::Unclear) => Line::warn(
                CHECK,
                "the answers do not show whether it arrives",
                "look into the web server's error log, and try a call from 1C",
            ),
            (bearer, _) => {
                let which = match bearer {
                    Arrival::Lost => "the web server keeps the Authorization header from the program",
                    _ => "Bearer arrives, but the web server keeps Basic to itself",
                };
                let own = match arrives("X-B24proxy-Token", "no-token-of-anybody") {
                    Arrival::Arrived => "; or let clients send the token as X-B24proxy-Token, which arrives",
                    _ => "",
                };
                Line::fail(
                    CHECK,
                    format!("{which}: every call is answered 401"),
                    format!(
                        "Apache: \"CGIPassAuth On\", or the SetEnvIf or RewriteRule line of deploy/apache/htaccess; nginx: \
                         fastcgi_param HTTP_AUTHORIZATION $http_authorization{own}"
                    ),
                )
            }
        }
    }

    fn query(&self) -> Line {
        const CHECK: &str = "query";
        let url = format!("{}?portal=check.invalid", self.address.base());
        match self.get(&url).map_or(Arrival::Unclear, |seen| arrival(&seen, 404, 405)) {
            Arrival::Arrived => Line::ok(CHECK, "arrives"),
            Arrival::Lost => Line::fail(
                CHECK,
                "what follows \"?\" in the address is lost: nobody can install",
                "nginx: fastcgi_param QUERY_STRING $query_string; a rewrite rule needs the flag QSA",
            ),
            Arrival::Unclear => Line::warn(CHECK, "the answer does not show whether it arrives", "try an installation"),
        }
    }

    fn body(&self) -> Vec<Line> {
        const CHECK: &str = "body";
        let event = b"event=B24PROXYCHECK&text=%D0%BF%D1%80%D0%BE%D0%B2%D0%B5%D1%80%D0%BA%D0%B0";
        let arrives =
            |chunked| self.post(event, &[], chunked).map_or(Arrival::Unclear, |seen| arrival(&seen, 200, 401));
        let with_length = match arrives(false) {
            Arrival::Arrived => Line::ok(CHECK, "arrives"),
            Arrival::Lost => Line::fail(
                CHECK,
                "the body of a POST does not reach the program",
                "nginx: fastcgi_param CONTENT_LENGTH and CONTENT_TYPE; Apache: no redirect or rewrite to this address by [R]",
            ),
            Arrival::Unclear => Line::warn(CHECK, "the answer does not show whether it arrives", "try a call from 1C"),
        };
        let chunked = match arrives(true) {
            Arrival::Arrived => Line::ok("chunked body", "arrives"),
            _ => Line::warn(
                "chunked body",
                "a body without a length does not arrive",
                "1C sends a length; for clients that do not, nginx needs fastcgi_request_buffering on",
            ),
        };
        vec![with_length, chunked]
    }

    /// With a client's token: that it is this configuration which answers. Only where nobody on the way can read it.
    fn same_configuration(&self) -> Option<Line> {
        const CHECK: &str = "client token";
        if self.address.is_open() {
            return None;
        }
        let token = self.config?.plain_token()?;
        let header = format!("Bearer {}", token.expose());
        let seen = self.get_with(&format!("{}/status", self.address.base()), &[("Authorization", &header)]).ok()?;
        Some(match seen.status {
            200 if seen.ours => Line::ok(CHECK, "is accepted"),
            401 => Line::fail(
                CHECK,
                "the program that the web server runs does not know the token of this proxy.toml",
                "it uses another proxy.toml, or is another copy: see where it looks (b24proxy help)",
            ),
            status => {
                Line::warn(CHECK, format!("was answered status {status}"), "look into the web server's error log")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::Status;
    use super::*;

    fn seen(status: u16, body: &[u8]) -> Seen {
        Seen { status, body: body.to_vec(), ..Seen::default() }
    }

    #[test]
    fn every_answer_of_a_web_server_has_its_own_explanation() {
        let mut texts: Vec<String> = [301, 401, 403, 404, 405, 418, 429, 500, 502, 503, 504, 508, 522]
            .map(|status| foreign(&seen(status, b"<html>")).0)
            .to_vec();
        texts.push(foreign(&seen(200, b"<html>")).0);
        texts.push(foreign(&seen(200, b"\x7fELF\x02")).0);
        let count = texts.len();
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), count, "{texts:?}");
    }

    #[test]
    fn a_program_that_does_not_start_is_perhaps_uploaded_wrongly() {
        let (_, cure) = foreign(&seen(500, b"<html>"));
        assert!(cure.contains("chmod 755") && cure.contains("text mode"), "{cure}");
    }

    #[test]
    fn a_server_that_does_not_reach_its_own_public_name_is_asked_from_elsewhere() {
        let line = not_reached_from_here("www.acme.test", &Failure::Timeout(Executed::No), &Host::default());
        assert!(line.status == Status::Fail && line.cure.contains("another machine"), "{line:?}");
        let line = not_reached_from_here("www.acme.test", &Failure::Timeout(Executed::Unknown), &Host::default());
        assert!(!line.cure.contains("another machine"), "{line:?}");
    }

    #[test]
    fn a_redirect_uri_at_which_another_answers_is_wrong_and_one_that_is_not_reached_perhaps_not() {
        let judged = |there: Option<Result<Seen, Failure>>| {
            judge_redirect_uri("https://a/wrong", "https://a/b24proxy", there.as_ref())
        };
        for there in
            [Ok(seen(404, b"<html>")), Err(Failure::NotSent { why: "x".into(), obstacle: Obstacle::UnknownHost })]
        {
            let line = judged(Some(there));
            assert!(line.fails() && line.cure.contains("redirect_uri = \"https://a/b24proxy\""), "{line:?}");
        }
        for there in [
            None,
            Some(Ok(Seen { ours: true, ..seen(200, b"{}") })),
            Some(Err(Failure::NotSent { why: "x".into(), obstacle: Obstacle::Refused })),
            Some(Err(Failure::Timeout(Executed::No))),
        ] {
            assert_eq!(judged(there).status, Status::Warn);
        }
    }

    #[test]
    fn a_program_that_answers_by_plain_http_warns() {
        let ours = Seen { ours: true, ..seen(200, b"{}") };
        assert_eq!(judge_plain_http(Some(&ours)).status, Status::Warn);
        assert_eq!(judge_plain_http(Some(&seen(301, b""))).status, Status::Ok);
        assert_eq!(judge_plain_http(None).status, Status::Ok);
    }

    #[test]
    fn a_path_that_is_not_split_is_named_and_no_version_blamed() {
        for status in [404, 405] {
            let line = judge_health(&Seen { ours: true, ..seen(status, b"{}") });
            assert!(line.check == "path" && line.cure.contains("fastcgi_split_path_info"), "{line:?}");
            assert!(!line.cure.contains("version"), "{line:?}");
        }
    }

    #[test]
    fn health_tells_configuration_from_storage() {
        let ours = |status, body: &[u8]| judge_health(&Seen { ours: true, ..seen(status, body) });
        assert_eq!(ours(200, b"{\"status\":\"ok\"}").status, Status::Ok);
        assert!(ours(503, b"{\"reason\":\"configuration_error\"}").text.contains("configuration"));
        assert!(ours(503, b"{\"reason\":\"storage_error\"}").text.contains("token folder"));
        assert_eq!(judge_health(&seen(200, b"{\"status\":\"ok\"}")).status, Status::Fail, "not our headers");
    }
}
