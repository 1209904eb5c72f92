//! From here to Bitrix24: TLS to the OAuth server and to each portal, and the clock. No secret is sent.

use super::line::Line;
use super::oauth;
use crate::app::App;
use crate::call::relay::stored_address;
use crate::cli::command::Setup;
use crate::config::{Portal, Way};
use crate::install::Installer;
use crate::store::records::Installation;
use crate::system::clock::{unix_now, Deadline};
use crate::upstream::http::{Connections, Failure, Obstacle, Reply};
use crate::values::error::Executed;
use crate::values::oauth_server::OauthServer;
use crate::values::portal::PortalName;
use crate::values::verdict::{judge, Verdict};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(15);
const MAX_ANSWER: u64 = 64 << 10;
/// Seconds that the clock may be off.
const TOLERANCE: i64 = 60;

/// Who does not answer: what fails for that is told once.
#[derive(Default)]
pub struct Unreached {
    pub oauth_servers: Vec<OauthServer>,
    pub portals: Vec<PortalName>,
}

pub fn check(setup: &Setup) -> (Vec<Line>, Unreached) {
    let (mut lines, config) = (Vec::new(), setup.config());
    let portals = match setup.app.http.portals() {
        Ok(http) => http,
        Err(failure) => {
            if let Failure::Configuration(why) = failure {
                lines.push(Line::fail("ca_file", why, "name a readable PEM file under [bitrix24], or remove ca_file"));
            }
            let all = config.portals.iter().map(|portal| portal.name.clone()).collect();
            return (lines, Unreached { portals: all, ..Unreached::default() });
        }
    };
    if let Some(proxy) = &config.bitrix24.proxy {
        let user = if proxy.password().is_some() { ", with a user and a password" } else { "" };
        lines.push(Line::ok("proxy", format!("everything goes through {proxy}{user}")));
    }
    if let Some(file) = &config.bitrix24.ca_file {
        lines.push(Line::ok("ca_file", file.display().to_string()));
    }
    let (mut unreached, mut asked) = (Unreached::default(), None);
    for server in oauth::servers(&setup.app) {
        let (line, reply) = oauth_server(&setup.app, &server);
        if line.fails() {
            unreached.oauth_servers.push(server);
        }
        lines.push(line);
        asked = asked.or(reply);
    }
    lines.extend(asked.map(|reply| clock(unix_now(), &reply)));
    for portal in &config.portals {
        let line = reached(setup, portals, portal);
        if line.fails() {
            unreached.portals.push(portal.name.clone());
        }
        lines.push(line);
    }
    (lines, unreached)
}

/// Its token address, asked for nothing: it answers `invalid_request`, and what time it is.
fn oauth_server(app: &App, server: &OauthServer) -> (Line, Option<Reply>) {
    const CHECK: &str = "OAuth server";
    let (host, url) = (server.host(), server.token_url());
    let answer = app
        .http
        .oauth(server)
        .and_then(|http| http.get(&url, &[("Accept", "application/json")], Deadline::after(PATIENCE), MAX_ANSWER));
    let reply = match answer {
        Ok(reply) => reply,
        Err(failure) => return (not_reached(CHECK, host, &failure), None),
    };
    let is_oauth = serde_json::from_slice::<serde_json::Value>(&reply.body).is_ok_and(|json| json["error"].is_string());
    let line = match is_oauth {
        true => Line::ok(CHECK, format!("{host} answers")),
        false => Line::warn(
            CHECK,
            format!("{host} answers status {}, but not as an OAuth server", reply.status),
            "check oauth_server in proxy.toml, if it is set there; if it is right, try again later",
        ),
    };
    (line, Some(reply))
}

fn clock(ours: i64, reply: &Reply) -> Line {
    let theirs = reply.headers.get("Date").and_then(|value| parse_date(value.to_str().ok()?));
    judge_clock(ours, theirs)
}

fn judge_clock(ours: i64, theirs: Option<i64>) -> Line {
    const CHECK: &str = "clock";
    let Some(theirs) = theirs else {
        return Line::warn(CHECK, "the OAuth server did not say what time it is", "compare with: date -u");
    };
    let off = ours - theirs;
    if off.abs() <= TOLERANCE {
        return Line::ok(CHECK, "agrees with the OAuth server's");
    }
    let direction = if off > 0 { "fast" } else { "slow" };
    Line::fail(
        CHECK,
        format!("this machine's clock is {} s {direction}: tokens are renewed at the wrong time", off.abs()),
        "let the machine's administrator set it by NTP (timedatectl set-ntp true)",
    )
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7) in Unix seconds.
fn parse_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: i64 = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as i64 + 1;
    let year: i64 = words.next()?.parse().ok().filter(|year| (1970..=9999).contains(year))?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    // Howard Hinnant's days_from_civil.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let (era, year_of_era) = (y.div_euclid(400), y.rem_euclid(400));
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * m + 2) / 5 + day - 1;
    Some((era * 146_097 + day_of_era - 719_468) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// `profile` without authorization: a Bitrix24 refuses it in its own words.
fn reached(setup: &Setup, http: &Connections, portal: &Portal) -> Line {
    let check = format!("{}, from here", portal.name);
    let url = format!("{}/rest/profile", origin(setup, portal));
    match http.get(&url, &[("Accept", "application/json")], Deadline::after(PATIENCE), MAX_ANSWER) {
        Err(failure) => not_reached(&check, portal.name.as_str(), &failure),
        Ok(reply) => match judge(&reply.answered()).0 {
            Verdict::Error(_) | Verdict::Success => Line::ok(check, "answers as Bitrix24"),
            Verdict::Moved => {
                let to = reply.headers.get("Location").and_then(|value| value.to_str().ok()).unwrap_or("");
                let host = to.split("://").nth(1).and_then(|rest| rest.split(['/', '?']).next()).unwrap_or("elsewhere");
                Line::warn(
                    check,
                    format!("redirects to {host}: the portal has another name, or does not exist"),
                    "check the portal's name in proxy.toml",
                )
            }
            Verdict::Foreign(foreign) => Line::warn(
                check,
                format!("answers with {}, not as Bitrix24 does", foreign.what),
                "check the portal's name in proxy.toml; if it is right, something between here and there answers",
            ),
        },
    }
}

/// `https://acme.bitrix24.ru`
fn origin(setup: &Setup, portal: &Portal) -> String {
    if let Way::Webhook(webhook) = &portal.way {
        return webhook.origin();
    }
    if let Ok(Installation::Installed(tokens)) = setup.app.store.read(&portal.name) {
        if let Ok(endpoint) = stored_address(setup.config(), portal, &tokens) {
            return endpoint.origin();
        }
    }
    Installer::new(setup.job()).origin(portal.name.as_str()).unwrap_or_else(|| format!("https://{}", portal.name))
}

/// Why there is no answer, each cause told apart.
pub fn not_reached(check: &str, host: &str, failure: &Failure) -> Line {
    let (text, cure) = match failure {
        Failure::NotSent { obstacle: Obstacle::UnknownHost, .. } => (
            format!("the host name {host} is not known here"),
            "check its spelling; if it is right, this machine's DNS does not work (/etc/resolv.conf): ask the host",
        ),
        Failure::NotSent { obstacle: Obstacle::HostBusy, why } => (
            format!("{host} could not be asked: {why}"),
            "stop other programs of this user, or let the host's administrator raise that limit; calls get 503 host_busy",
        ),
        Failure::NotSent { obstacle: Obstacle::Refused, .. } => (
            format!("{host} refuses the connection"),
            "check name and port; if they are right, ask the host to allow outgoing connections to it",
        ),
        Failure::Timeout(Executed::No) => (
            format!("{host} does not accept a connection in time"),
            "a firewall may drop it: ask the host to allow outgoing connections to it",
        ),
        Failure::Timeout(Executed::Unknown) => {
            (format!("{host} accepts the connection but does not answer in time"), "try again later")
        }
        Failure::NotSent { why, obstacle } if obstacle.cure().is_some() => {
            (format!("{host} is not reached: {why}"), obstacle.cure().unwrap_or_default())
        }
        Failure::NotSent { why, .. } | Failure::Lost { why, .. } => {
            (format!("{host} cannot be reached ({why})"), "try again; if it stays so, ask the host about outgoing TLS")
        }
        Failure::TooLarge => (format!("{host} answers too much"), "check the name in proxy.toml"),
        Failure::Configuration(why) => (why.clone(), "mend ca_file under [bitrix24]"),
    };
    Line::fail(check, text, cure)
}

#[cfg(test)]
mod tests {
    use super::super::line::Status;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_clock_off_by_more_than_a_minute_fails() {
        assert_eq!(judge_clock(1000, Some(1060)).status, Status::Ok);
        assert!(judge_clock(1061, Some(1000)).text.contains("61 s fast"));
        assert!(judge_clock(1000, Some(4600)).text.contains("3600 s slow"));
        assert_eq!(judge_clock(1000, None).status, Status::Warn);
    }

    #[test]
    fn http_dates_are_read() {
        assert_eq!(parse_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse_date("Tue, 29 Feb 2000 23:59:59 GMT"), Some(951_868_799));
        assert_eq!(parse_date("yesterday"), None);
    }

    #[test]
    fn failures_are_told_apart() {
        let not_sent = |obstacle| Failure::NotSent { why: "x".into(), obstacle };
        let texts: Vec<String> = [
            not_sent(Obstacle::UnknownHost),
            not_sent(Obstacle::HostBusy),
            not_sent(Obstacle::Refused),
            not_sent(Obstacle::Certificate),
            not_sent(Obstacle::Other),
            Failure::Timeout(Executed::No),
            Failure::Timeout(Executed::Unknown),
        ]
        .iter()
        .map(|failure| not_reached("c", "h", failure).text)
        .collect();
        let mut distinct = texts.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), texts.len(), "{texts:?}");
    }

    proptest! {
        #[test]
        fn no_date_panics(text in "[A-Za-z0-9:, ]{0,40}") {
            let _ = parse_date(&text);
            let _ = parse_date(&format!("Sun, {text}"));
        }
    }
}
