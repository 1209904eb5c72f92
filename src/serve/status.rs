//! `GET /status`: each portal's installation, for a client and for whoever looks after it.

use crate::app::App;
use crate::config::Client;
use crate::config::{Portal, Way};
use crate::serve::page::{self, Language, Page, Place};
use crate::store::records::Installation;
use crate::values::answer::Answer;
use serde::Serialize;
use std::time::{Duration, UNIX_EPOCH};

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Condition {
    Webhook,
    NotInstalled,
    Installed,
    /// The token file is damaged or cannot be read.
    Broken,
}

/// What is told of a portal. Times are Unix seconds.
#[derive(Serialize)]
pub struct PortalStatus {
    portal: String,
    state: Condition,
    /// Why it is broken. A client is not told; `b24proxy status` says it to the administrator.
    #[serde(skip)]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    install_url: Option<String>,
    #[serde(flatten)]
    tokens: Option<TokenStatus>,
    last_refresh_error: Option<LastError>,
    limits: Allowance,
}

#[derive(Serialize)]
struct TokenStatus {
    client_endpoint: String,
    user_id: u64,
    scope: String,
    installed_at: i64,
    refreshed_at: i64,
    expires_at: i64,
    expires_in: i64,
}

#[derive(Serialize)]
struct LastError {
    at: i64,
    error: String,
}

#[derive(Serialize)]
struct Allowance {
    requests_per_second: f64,
    burst: f64,
}

/// The portals that this client may use, as JSON or, for a browser, as a page.
pub fn answer(app: &App, client: &Client, page: Option<Language>) -> Answer {
    let usable = app.config.portals.iter().filter(|portal| client.may_use(&portal.name));
    let portals: Vec<PortalStatus> = usable.map(|portal| of(app, portal)).collect();
    match page {
        None => as_json(&portals),
        Some(language) => {
            let sections = portals.iter().map(|portal| (portal.portal.clone(), facts(language, portal))).collect();
            Page::status(language, sections).answer(200, &Place::Tab)
        }
    }
}

pub fn as_json(portals: &[PortalStatus]) -> Answer {
    Answer::success(vec![serde_json::json!({ "portals": portals }).to_string().into_bytes()])
}

impl PortalStatus {
    pub fn name(&self) -> &str {
        &self.portal
    }

    /// Whether calls to this portal can succeed, as far as the files tell.
    pub fn is_well(&self) -> bool {
        matches!(self.state, Condition::Webhook | Condition::Installed) && self.last_refresh_error.is_none()
    }
}

pub fn of(app: &App, portal: &Portal) -> PortalStatus {
    let App { config, store, .. } = app;
    let mut status = PortalStatus {
        portal: portal.name.to_string(),
        state: Condition::Webhook,
        reason: None,
        install_url: None,
        tokens: None,
        last_refresh_error: None,
        limits: Allowance { requests_per_second: portal.requests_per_second, burst: portal.burst },
    };
    if let Way::Webhook(_) = portal.way {
        return status;
    }
    status.install_url = config.install_url(&portal.name);
    let last = store.notes(&portal.name).refresh;
    status.state = match store.read(&portal.name) {
        Err(why) | Ok(Installation::Broken(why)) => {
            status.reason = Some(why);
            Condition::Broken
        }
        Ok(Installation::NotInstalled) => Condition::NotInstalled,
        Ok(Installation::Installed(tokens)) => {
            status.last_refresh_error = last.filter(|last| last.speaks_of(&tokens)).map(|last| LastError {
                at: last.at / 1000,
                error: match &last.failure {
                    Some(refusal) => refusal.text(&portal.asked_for_pair(&tokens.server_endpoint), &portal.name),
                    None => "a refresh was begun and has not ended".into(),
                },
            });
            status.tokens = Some(TokenStatus {
                client_endpoint: tokens.client_endpoint,
                user_id: tokens.user_id,
                scope: tokens.scope,
                installed_at: tokens.installed_at,
                refreshed_at: tokens.refreshed_at,
                expires_at: tokens.expires_at,
                expires_in: tokens.expires_at.saturating_sub(store.now()),
            });
            Condition::Installed
        }
    };
    status
}

/// The same as names and values, for people.
pub fn facts(language: Language, portal: &PortalStatus) -> Vec<(String, String)> {
    let russian = language == Language::Russian;
    let word = |ru: &str, en: &str| if russian { ru.to_owned() } else { en.to_owned() };
    let state = match portal.state {
        Condition::Webhook => word("вебхук", "webhook"),
        Condition::NotInstalled => word("не установлено", "not installed"),
        Condition::Installed => word("установлено", "installed"),
        Condition::Broken => {
            word("файл токенов повреждён или недоступен", "the token file is damaged or cannot be read")
        }
    };
    let mut facts = vec![(word("Состояние", "Condition"), state)];
    if let Some(tokens) = &portal.tokens {
        let never = word("ещё не было", "never");
        let refreshed = if tokens.refreshed_at == 0 { never } else { moment(tokens.refreshed_at) };
        facts.extend([
            (word("Адрес", "Address"), tokens.client_endpoint.clone()),
            (word("Кто установил (ID)", "Installed by (user ID)"), tokens.user_id.to_string()),
            (word("Когда установлено", "Installed at"), moment(tokens.installed_at)),
            (word("Права", "Rights"), tokens.scope.replace(',', ", ")),
            (word("Токен действует до", "The token expires at"), moment(tokens.expires_at)),
            (word("Последнее обновление", "Last refresh"), refreshed),
        ]);
    }
    if let Some(error) = &portal.last_refresh_error {
        facts.push((
            word("Ошибка обновления", "Refresh error"),
            format!("{}: {}", moment(error.at), page::reason(language, &error.error)),
        ));
    }
    if let (Condition::NotInstalled, Some(url)) = (&portal.state, &portal.install_url) {
        facts.push((word("Установить", "Install"), url.clone()));
    }
    let limits = &portal.limits;
    let written = page::pace(language, limits.requests_per_second, limits.burst);
    facts.push((word("Ограничение запросов", "Limit of requests"), written));
    facts
}

/// `2026-08-01 12:00:00 UTC`
pub fn moment(unix: i64) -> String {
    let seconds = u64::try_from(unix).unwrap_or(0).min(253_402_300_799);
    let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}
