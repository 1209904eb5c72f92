//! `GET /status`: each portal's installation and what its calls have shown, for a client and for whoever looks after it.

use crate::app::App;
use crate::call::limits::Pace;
use crate::call::refresh::once;
use crate::config::{Client, Config, Portal, Way};
use crate::store::records::{Installation, LastRefresh, Tokens};
use crate::store::Wish;
use crate::values::answer::Answer;
use crate::values::bucket::Seen;
use crate::values::tally::{self, ByClient, Fault, LastError, What, HOURS, OTHERS};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    Webhook,
    NotInstalled,
    Installed,
    /// The token file is damaged or cannot be read.
    Broken,
}

/// What is told of a portal. Times are Unix seconds.
#[derive(Serialize)]
pub struct PortalStatus {
    pub portal: String,
    pub state: Condition,
    /// Whether calls work, as the last one or a try has shown; where there was none, as what is stored says.
    pub works: bool,
    /// Why they do not: an `error_code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it is broken. A client is not told; `b24proxy status` says it to the administrator.
    #[serde(skip)]
    pub broken: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install_url: Option<String>,
    #[serde(flatten)]
    pub tokens: Option<TokenStatus>,
    pub last_refresh_error: Option<RefreshError>,
    pub last_call: Option<i64>,
    pub last_success: Option<i64>,
    pub last_error: Option<LastError>,
    pub calls: ByClient,
    pub errors: ByClient,
    pub limits: Allowance,
    /// Method, and until when Bitrix24 refuses it.
    pub blocked: BTreeMap<String, i64>,
    /// The newest event that was kept; `None`: there was none.
    pub last_event: Option<LastEvent>,
    #[serde(skip)]
    pub page: ForPage,
}

/// What is shown on the page alone.
#[derive(Default)]
pub struct ForPage {
    /// Calls and errors of the last hours, the newest first.
    pub by_hour: [(u64, u64); HOURS],
    /// Until when Bitrix24 refuses the whole portal.
    pub overloaded: Option<i64>,
    /// When all this is so.
    pub now: i64,
}

#[derive(Serialize)]
pub struct TokenStatus {
    pub client_endpoint: String,
    pub user_id: u64,
    /// Empty: it is not known.
    pub user_name: String,
    pub scope: String,
    pub installed_at: i64,
    pub refreshed_at: i64,
    pub expires_at: i64,
    pub expires_in: i64,
}

#[derive(Serialize)]
pub struct RefreshError {
    pub at: i64,
    pub error: String,
}

#[derive(Serialize)]
pub struct LastEvent {
    pub number: u64,
    pub at: i64,
}

#[derive(Serialize)]
pub struct Allowance {
    pub requests_per_second: f64,
    pub burst: f64,
    /// Calls in the bucket now.
    pub level: f64,
}

/// The portals that this client may use.
pub fn of_client(app: &App, client: &Client) -> Vec<PortalStatus> {
    let usable = app.config.portals.iter().filter(|portal| client.may_use(&portal.name));
    usable.map(|portal| of(app, portal)).collect()
}

pub fn as_json(portals: &[PortalStatus]) -> Answer {
    Answer::success(vec![serde_json::json!({ "portals": portals }).to_string().into_bytes()])
}

impl PortalStatus {
    pub fn name(&self) -> &str {
        &self.portal
    }

    /// Whether calls to this portal can succeed, and its tokens be renewed, as far as is known.
    pub fn is_well(&self) -> bool {
        self.works && self.last_refresh_error.is_none()
    }
}

/// Nobody is called.
pub fn of(app: &App, portal: &Portal) -> PortalStatus {
    let App { config, store, .. } = app;
    let (seen, now) = (Pace::of(app, portal).seen(), store.now());
    let counts = |what| of_configured(config, portal, seen.tally.by_client(what, now));
    let known = |at: i64| Some(at).filter(|at| *at > 0);
    let hours = [What::Calls, What::Errors].map(|what| seen.tally.by_hour(what, now));
    let mut status = PortalStatus {
        portal: portal.name.to_string(),
        state: Condition::Webhook,
        works: true,
        reason: None,
        broken: None,
        install_url: None,
        tokens: None,
        last_refresh_error: None,
        last_call: known(seen.tally.last_call),
        last_success: known(seen.tally.last_success()),
        last_error: seen.tally.last_error.clone(),
        calls: counts(What::Calls),
        errors: counts(What::Errors),
        limits: Allowance {
            requests_per_second: portal.requests_per_second,
            burst: portal.burst,
            level: (seen.level * 10.0).round() / 10.0,
        },
        blocked: seen.blocked.clone(),
        last_event: last_event(app, portal),
        page: ForPage {
            by_hour: std::array::from_fn(|hour| (hours[0][hour], hours[1][hour])),
            overloaded: seen.overloaded,
            now,
        },
    };
    let reason;
    if let Way::Webhook(_) = portal.way {
        reason = reason_of(None, None, &seen, now);
    } else {
        status.install_url = config.install_url(&portal.name);
        let last = store.notes(&portal.name).refresh;
        status.state = match store.read(&portal.name) {
            Err(why) | Ok(Installation::Broken(why)) => {
                status.broken = Some(why);
                reason = Some("storage_error".to_owned());
                Condition::Broken
            }
            Ok(Installation::NotInstalled) => {
                reason = Some("not_installed".to_owned());
                Condition::NotInstalled
            }
            Ok(Installation::Installed(tokens)) => {
                let last = last.filter(|last| last.speaks_of(&tokens));
                reason = reason_of(Some(&tokens), last.as_ref(), &seen, now);
                status.last_refresh_error = last.map(|last| RefreshError {
                    at: last.at / 1000,
                    error: match &last.failure {
                        Some(refusal) => refusal.text(&portal.asked_for_pair(&tokens.server_endpoint), &portal.name),
                        None => "a refresh was begun and has not ended".into(),
                    },
                });
                status.tokens = Some(TokenStatus {
                    client_endpoint: tokens.client_endpoint,
                    user_id: tokens.user_id,
                    user_name: tokens.user_name,
                    scope: tokens.scope,
                    installed_at: tokens.installed_at,
                    refreshed_at: tokens.refreshed_at,
                    expires_at: tokens.expires_at,
                    expires_in: tokens.expires_at.saturating_sub(now),
                });
                Condition::Installed
            }
        };
    }
    status.works = reason.is_none();
    status.reason = reason;
    status
}

fn last_event(app: &App, portal: &Portal) -> Option<LastEvent> {
    let number = app.store.last_event(&portal.name).ok().filter(|number| *number > 0)?;
    let wish = Wish { after: number - 1, most: 1, is_wanted: &|_| true };
    let found = app.store.events(&portal.name, &wish, &app.config.events).ok()?;
    let newest = found.events.first()?;
    Some(LastEvent { number: newest.number, at: newest.at_ms.div_euclid(1000) })
}

/// Why calls do not work, as far as the last call, the last try or the last refresh of these tokens has shown; `None`: they do.
fn reason_of(tokens: Option<&Tokens>, last: Option<&LastRefresh>, seen: &Seen, now: i64) -> Option<String> {
    let fault = seen.tally.fault.as_ref().filter(|fault| !tokens.is_some_and(|tokens| is_over(fault, tokens)));
    let refusal = last.and_then(|last| last.failure.as_ref()).filter(|_| tokens.is_some_and(|t| once::is_due(t, now)));
    let overloaded = seen.overloaded.map(|_| "rate_limited");
    let reason = overloaded.or(fault.map(|fault| fault.reason.as_str()));
    reason.or(refusal.map(|refusal| refusal.error_code())).map(str::to_owned)
}

/// Whether tokens have come since it was seen that there were none that work.
fn is_over(fault: &Fault, tokens: &Tokens) -> bool {
    const OF_TOKENS: [&str; 4] = ["not_installed", "reinstall_required", "oauth_server_error", "configuration_error"];
    OF_TOKENS.contains(&fault.reason.as_str()) && (tokens.installed_at >= fault.at || tokens.refreshed_at > fault.at)
}

/// The counts of the clients that the configuration names for this portal, and of those that are counted together.
fn of_configured(config: &Config, portal: &Portal, counts: ByClient) -> ByClient {
    let clients = config.clients.iter().filter(|client| client.may_use(&portal.name));
    let names: Vec<String> = clients.map(|client| tally::short(&client.name)).collect();
    let only = |counts: BTreeMap<String, u64>| -> BTreeMap<String, u64> {
        let others = counts.get(OTHERS).map(|count| (OTHERS.to_owned(), *count));
        let of = |name: &String| (name.clone(), counts.get(name).copied().unwrap_or(0));
        others.into_iter().chain(names.iter().map(of)).collect()
    };
    ByClient { hour: only(counts.hour), day: only(counts.day) }
}

/// Who installed. `name`: empty where it is not known.
pub fn person(id: u64, name: &str) -> String {
    match name {
        "" => format!("ID {id}"),
        name => format!("{name} (ID {id})"),
    }
}

/// `crm.deal.add: bitrix24_error, ACCESS_DENIED`
pub fn told(error: &LastError) -> String {
    let theirs = if error.bitrix24.is_empty() { String::new() } else { format!(", {}", error.bitrix24) };
    format!("{}: {}{theirs}", error.method, error.error_code)
}

/// `2026-08-01 12:00:00 UTC`
pub fn moment(unix: i64) -> String {
    let seconds = u64::try_from(unix).unwrap_or(0).min(253_402_300_799);
    let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::bucket::Known;
    use crate::values::grant::Refusal;

    const NOW: i64 = 1_800_000_000;

    fn tokens(installed_at: i64, refreshed_at: i64, expires_at: i64) -> Tokens {
        let text = r#"{"client_endpoint":"https://a/rest/","access_token":"a","refresh_token":"r","expires_at":0}"#;
        Tokens { installed_at, refreshed_at, expires_at, ..Tokens::parse(text.as_bytes()).unwrap() }
    }

    fn seen(reason: &str, at: i64) -> Seen {
        let mut known = Known::default();
        known.tally.fault = Some(Fault { at, reason: reason.into() });
        known.seen(crate::values::bucket::Bucket { rate: 2.0, burst: 50.0 }, NOW * 1000)
    }

    #[test]
    fn a_fault_of_the_tokens_is_over_when_others_have_come() {
        let reason = |fault: &str, installed_at, refreshed_at| {
            let tokens = tokens(installed_at, refreshed_at, NOW + 3600);
            reason_of(Some(&tokens), None, &seen(fault, NOW - 100), NOW)
        };
        for fault in ["not_installed", "reinstall_required", "oauth_server_error"] {
            assert_eq!(reason(fault, NOW - 200, 0).as_deref(), Some(fault));
            assert_eq!(
                reason(fault, NOW - 200, NOW - 100).as_deref(),
                Some(fault),
                "{fault}: refused after the refresh"
            );
            assert_eq!(reason(fault, NOW - 100, 0), None, "{fault}");
            assert_eq!(reason(fault, NOW - 200, NOW - 99), None, "{fault}");
        }
        assert_eq!(reason("bitrix24_unreachable", NOW, NOW).as_deref(), Some("bitrix24_unreachable"));
    }

    #[test]
    fn a_refresh_that_failed_counts_once_the_token_has_expired() {
        let last = |failure| LastRefresh { spent: String::new(), at: 0, failure, interrupted: false };
        let invalid = last(Some(Refusal::InvalidGrant { description: String::new() }));
        let (valid, expired) = (tokens(1, 2, NOW + 3600), tokens(1, 2, NOW));
        let none = Seen::default();
        assert_eq!(reason_of(Some(&valid), Some(&invalid), &none, NOW), None);
        assert_eq!(reason_of(Some(&expired), Some(&invalid), &none, NOW).as_deref(), Some("reinstall_required"));
        let down = last(Some(Refusal::Unavailable { why: String::new() }));
        assert_eq!(reason_of(Some(&expired), Some(&down), &none, NOW).as_deref(), Some("oauth_server_error"));
        assert_eq!(reason_of(Some(&expired), Some(&last(None)), &none, NOW), None, "it goes on");
        assert_eq!(
            reason_of(None, None, &Seen { overloaded: Some(NOW + 9), ..none }, NOW).as_deref(),
            Some("rate_limited")
        );
    }

    #[test]
    fn a_moment_is_read_by_people_and_never_panics() {
        assert_eq!(moment(1_785_585_600), "2026-08-01 12:00:00 UTC");
        for unix in [i64::MIN, i64::MAX, 0] {
            assert!(moment(unix).ends_with("UTC"));
        }
    }
}
