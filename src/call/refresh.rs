//! Refreshing a portal's tokens: once for all processes, outliving the request that began it.
//!
//! A refresh token works once. Whoever spends it must not be killed before the new pair is on disk, and nobody else may
//! spend it too. So:
//!
//! 1. A process that needs new tokens polls the portal's lock. Under it, it reads the pair again: if the pair has changed,
//!    or another's refresh has just failed, that is its answer.
//! 2. Otherwise it starts this executable once more as the *refresher*, in a process group of its own, and hands it the
//!    locked file as standard input. A `flock` belongs to the open file, so the lock passes over without a gap and lives
//!    until the refresher ends, whatever the web server does to the request.
//! 3. The refresher takes the disk space for the new pair, notes in the lock file that it begins, asks the OAuth server,
//!    and replaces the pair. The starter waits like everybody else, at most `max_wait`.
//!
//! States of the note in the lock file, with the pair that it speaks of (by a fingerprint of its refresh token):
//!
//! | note | meaning | who finds it under the lock |
//! |---|---|---|
//! | none, or of another pair | nothing is known of this pair | refreshes |
//! | `begun` | a refresher was killed between asking and storing | refreshes once more; a refusal then says so |
//! | `failed`, below 10 s old | the OAuth server refused | shares the failure |
//! | `failed`, older | the same, long ago | refreshes |

use crate::config::{Config, Portal};
use crate::store::{Installation, LastRefresh, Lock, Store, Tokens};
use crate::system::clock::{unix_now, unix_now_ms, Deadline};
use crate::system::disk::{own_executable, POLL};
use crate::system::log::{Level, Log};
use crate::upstream::oauth::{self, Grant, Refusal};
use crate::values::error::{Error, Result};
use crate::values::portal::{Endpoint, PortalName};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// For how long a failure is shared.
const SHARE_FAILURE: Duration = Duration::from_secs(10);
/// After a refresh, only `expired_token` causes another for so many seconds, so that a wrong clock cannot.
const QUIET_SECONDS: i64 = 300;
/// A token is refreshed that many seconds before it expires, so that a call under way does not meet its end.
const MARGIN_SECONDS: i64 = 30;
/// How long the refresher waits for the OAuth server: much longer than a request may, because an answer that nobody
/// waits for is a lost token.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// The hidden command line of the refresher.
pub const COMMAND: &str = "refresher";

/// Why new tokens are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The known lifetime is over.
    Due,
    /// Bitrix24 answered `expired_token`.
    Expired,
    /// The portal answered 302: it has another address now.
    Moved,
}

/// Whether the known lifetime is over, and a refresh is not so recent that the clock must be wrong.
pub fn is_due(tokens: &Tokens, now: i64) -> bool {
    now >= tokens.expires_at - MARGIN_SECONDS && !is_quiet(tokens, now)
}

fn is_quiet(tokens: &Tokens, now: i64) -> bool {
    tokens.refreshed_at != 0 && (now - tokens.refreshed_at).abs() < QUIET_SECONDS
}

/// What the refresher tells its starter.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    Refreshed,
    /// Recorded in the lock file too.
    Refused,
    /// This process's own trouble; not shared with others.
    Storage(String),
}

pub struct Context<'a> {
    pub config: &'a Config,
    pub store: &'a Store,
    pub log: &'a Log,
}

/// Tokens that are newer than `stale`, from whoever gets them first.
pub fn refreshed(context: &Context, portal: &Portal, stale: &Tokens, why: Why, deadline: Deadline) -> Result<Tokens> {
    let tokens = shared(context, portal, stale, why, deadline)?;
    // The refresher has no standard error: where that is the log, a renaming is known only from here.
    if context.config.log.file.is_none() {
        log_renaming(context, portal, stale, &tokens);
    }
    Ok(tokens)
}

fn log_renaming(context: &Context, portal: &Portal, old: &Tokens, new: &Tokens) {
    if !new.renamed_from.is_empty() && new.client_endpoint != old.client_endpoint {
        context.log.warn(&format!("the portal {} is now at {}", portal.name, new.client_endpoint));
    }
}

fn shared(context: &Context, portal: &Portal, stale: &Tokens, why: Why, deadline: Deadline) -> Result<Tokens> {
    let mut refresher: Option<Refresher> = None;
    loop {
        // Cheap first: another process may be done.
        if let Installation::Installed(tokens) = context.store.read(&portal.name).map_err(Error::Storage)? {
            if tokens.access_token != stale.access_token {
                return Ok(*tokens);
            }
        }
        if let Some(lock) = context.store.try_lock(&portal.name).map_err(Error::Storage)? {
            if let Some(tokens) = settled(context, portal, &lock, stale, why)? {
                return Ok(tokens);
            }
            // Under the lock and nothing new: a refresher of ours that has ended could not store, or was killed.
            if let Some(ended) = refresher.take() {
                return Err(ended.failure(context.log));
            }
            context.log.line(Level::Debug, "refreshing the tokens", &[("portal", portal.name.as_str().into())]);
            refresher = Some(Refresher::start(context.config, &portal.name, lock).map_err(|error| {
                context.log.error(&format!("the process that refreshes tokens cannot be started: {error}"));
                Error::RefreshPending { retry_after: 10 }
            })?);
        }
        if deadline.has_passed() {
            return Err(Error::RefreshPending { retry_after: 5 });
        }
        std::thread::sleep(POLL.min(deadline.remaining()));
    }
}

/// What another process's refresh ended with, by what is on disk under the lock: its tokens, or the failure that it
/// shares; `None`: it is our turn to refresh.
fn settled(context: &Context, portal: &Portal, lock: &Lock, stale: &Tokens, why: Why) -> Result<Option<Tokens>> {
    let tokens = match lock.read().map_err(Error::Storage)? {
        Installation::Installed(tokens) => tokens,
        Installation::NotInstalled => {
            return Err(Error::NotInstalled { install_url: context.config.install_url(&portal.name) })
        }
        Installation::Broken(why) => return Err(Error::Storage(why)),
    };
    if tokens.access_token != stale.access_token || (why != Why::Expired && is_quiet(&tokens, unix_now())) {
        return Ok(Some(*tokens));
    }
    match lock.notes().refresh {
        Some(last) if is_fresh_failure(&last, &tokens, unix_now_ms()) => Err(refused(context, portal, &last)),
        _ => Ok(None),
    }
}

fn is_fresh_failure(last: &LastRefresh, tokens: &Tokens, now_ms: i64) -> bool {
    let age = now_ms.abs_diff(last.at);
    last.failure.is_some() && last.speaks_of(tokens) && u128::from(age) < SHARE_FAILURE.as_millis()
}

/// Whole seconds until the OAuth server may be asked again.
fn seconds_left(last: &LastRefresh) -> u64 {
    let age = unix_now_ms().abs_diff(last.at);
    (SHARE_FAILURE.as_millis() as u64).saturating_sub(age).div_ceil(1000).max(1)
}

/// The refusal as the caller hears it.
fn refused(context: &Context, portal: &Portal, last: &LastRefresh) -> Error {
    let host = context.config.bitrix24.oauth_server.host();
    match &last.failure {
        Some(Refusal::InvalidGrant { description }) => {
            let mut why = match last.interrupted {
                true => "a refresh was interrupted before its result was stored, so the new tokens are lost".to_owned(),
                false => "invalid_grant: the refresh token is spent, expired or revoked".to_owned(),
            };
            if !description.is_empty() {
                why = format!("{why}; the OAuth server says: {description}");
            }
            Error::ReinstallRequired { why, install_url: context.config.install_url(&portal.name) }
        }
        Some(Refusal::Configuration { why }) => Error::Configuration(why.clone()),
        Some(refusal) => Error::OauthServer { why: refusal.text(host), retry_after: Some(seconds_left(last)) },
        None => Error::RefreshPending { retry_after: 5 },
    }
}

/// The process that refreshes, seen from the one that started it.
struct Refresher {
    child: Child,
    started: Instant,
}

impl Refresher {
    /// Starts it with the lock as its standard input. Its environment is empty: no `GATEWAY_INTERFACE`, so it knows that
    /// it serves no request. It must not hold the web server's pipes, which would keep the answer open.
    fn start(config: &Config, portal: &PortalName, lock: Lock) -> std::io::Result<Refresher> {
        let mut command = Command::new(own_executable()?);
        command
            .args([COMMAND, portal.as_str()])
            .env_clear()
            .env("B24PROXY_CONFIG", &config.path)
            .current_dir("/")
            .stdin(Stdio::from(lock.into_file()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Ok(Refresher { child: command.spawn()?, started: Instant::now() })
    }

    /// Why it ended without storing or recording anything: it says so itself, or was killed, and then whoever comes next
    /// tries again.
    fn failure(mut self, log: &Log) -> Error {
        let mut report = Vec::new();
        if let Some(output) = self.child.stdout.take() {
            let _ = output.take(16 << 10).read_to_end(&mut report);
        }
        let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        match serde_json::from_slice(&report) {
            Ok(Report::Storage(why)) => Error::Storage(why),
            _ => {
                let ms = self.started.elapsed().as_millis();
                log.error(&format!("the refresher ended after {ms} ms with {status}; the next call tries again"));
                Error::RefreshPending { retry_after: 1 }
            }
        }
    }
}

/// The refresher itself: `b24proxy refresher PORTAL`, with the locked file as standard input.
pub fn run_refresher(config: &Config, portal: &PortalName, log: &Log) -> std::result::Result<(), String> {
    let portal = config.portals.iter().find(|p| p.name == *portal).ok_or("this portal is not configured")?;
    let store = Store::new(&config.token_folder);
    #[cfg(unix)]
    let handed = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned().map_err(|e| e.to_string())?;
    #[cfg(windows)]
    let handed =
        std::os::windows::io::AsHandle::as_handle(&std::io::stdin()).try_clone_to_owned().map_err(|e| e.to_string())?;
    let lock = store.adopt_lock(&portal.name, std::fs::File::from(handed))?;
    let context = Context { config, store: &store, log };
    let report = match refresh(&context, portal, &lock) {
        Ok(report) => report,
        Err(why) => Report::Storage(why),
    };
    let refreshed = matches!(report, Report::Refreshed);
    log.line(
        if refreshed { Level::Info } else { Level::Error },
        if refreshed { "tokens refreshed" } else { "tokens not refreshed" },
        &[("portal", portal.name.as_str().into()), ("result", serde_json::json!(report))],
    );
    // The starter may be gone.
    let text = serde_json::to_string(&report).expect("plain data serializes");
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    Ok(())
}

/// Spends the stored refresh token and stores what comes for it. `Err` = nothing was spent, or nothing could be stored.
fn refresh(context: &Context, portal: &Portal, lock: &Lock) -> std::result::Result<Report, String> {
    let application = portal.application().ok_or("this portal has a webhook and no tokens")?;
    let Installation::Installed(old) = lock.read()? else {
        return Err("the tokens are gone".into());
    };
    let spent = old.refresh_token.fingerprint();
    let mut notes = lock.notes();
    let before = notes.refresh.filter(|last| last.speaks_of(&old));
    let interrupted = before.is_some_and(|last| last.failure.is_none() || last.interrupted);
    let reserved = lock.reserve()?;
    let mut last = LastRefresh { spent, at: unix_now_ms(), failure: None, interrupted };
    notes.refresh = Some(last.clone());
    lock.set_notes(&notes)?;

    let answer = oauth::request(
        context.config,
        application,
        &Grant::RefreshToken(&old.refresh_token),
        Deadline::after(PATIENCE),
    );
    match answer.and_then(|issued| same_portal(&old, issued)) {
        Ok(issued) => {
            let tokens = renewed(context, portal, &old, issued);
            reserved.commit(&tokens)?;
            // The notes speak of the old pair, so they mean nothing any more; this is tidying.
            notes.refresh = None;
            let _ = lock.set_notes(&notes);
            Ok(Report::Refreshed)
        }
        Err(refusal) => {
            last.at = unix_now_ms();
            last.failure = Some(refusal);
            notes.refresh = Some(last);
            drop(reserved);
            lock.set_notes(&notes)?;
            Ok(Report::Refused)
        }
    }
}

/// `member_id` never changes; a pair of another Bitrix24 must not replace ours.
fn same_portal(old: &Tokens, issued: oauth::Issued) -> std::result::Result<oauth::Issued, Refusal> {
    if old.member_id.is_empty() || issued.member_id.is_empty() || old.member_id == issued.member_id {
        return Ok(issued);
    }
    Err(Refusal::Unavailable { why: "answered with tokens of another Bitrix24".into() })
}

/// The stored pair after a refresh. An address that may not be used is not worth losing the tokens for: the old one stays.
/// Another host is followed only where the OAuth server says that it is the same Bitrix24.
fn renewed(context: &Context, portal: &Portal, old: &Tokens, issued: oauth::Issued) -> Tokens {
    let keep = |new: String, old: &str| if new.is_empty() { old.to_owned() } else { new };
    let is_same = !old.member_id.is_empty() && old.member_id == issued.member_id;
    let mut tokens = Tokens {
        access_token: issued.access_token,
        refresh_token: issued.refresh_token,
        expires_at: issued.expires_at,
        refreshed_at: unix_now(),
        domain: keep(issued.domain, &old.domain),
        server_endpoint: keep(issued.server_endpoint, &old.server_endpoint),
        scope: keep(issued.scope, &old.scope),
        member_id: keep(issued.member_id, &old.member_id),
        // Imported tokens do not say whose they are.
        user_id: if old.user_id == 0 { issued.user_id } else { old.user_id },
        ..old.clone()
    };
    match Endpoint::renamed(&issued.client_endpoint, context.config.bitrix24.allow_http) {
        Ok(endpoint) if is_same || *endpoint.name() == portal.name => {
            tokens.client_endpoint = endpoint.to_client_endpoint();
            let renamed = *endpoint.name() != portal.name;
            tokens.renamed_from = if renamed { portal.name.to_string() } else { String::new() };
            log_renaming(context, portal, old, &tokens);
        }
        Err(_) if issued.client_endpoint.is_empty() => {}
        _ => context.log.warn(&format!(
            "the OAuth server gave an address for {} that may not be used; the old one stays",
            portal.name
        )),
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::secret::Secret;

    fn tokens(expires_at: i64, refreshed_at: i64) -> Tokens {
        Tokens {
            member_id: "m".into(),
            domain: String::new(),
            client_endpoint: "https://acme.bitrix24.ru/rest/".into(),
            server_endpoint: String::new(),
            access_token: Secret::new("a"),
            refresh_token: Secret::new("r"),
            expires_at,
            scope: String::new(),
            user_id: 1,
            application_token: Secret::default(),
            client_id: String::new(),
            installed_at: 0,
            refreshed_at,
            renamed_from: String::new(),
        }
    }

    #[test]
    fn tokens_are_due_when_their_lifetime_is_over() {
        assert!(!is_due(&tokens(5000, 0), 4000));
        assert!(is_due(&tokens(5000, 0), 4970));
        assert!(is_due(&tokens(5000, 1400), 5000));
    }

    #[test]
    fn within_five_minutes_of_a_refresh_a_wrong_clock_causes_none() {
        assert!(!is_due(&tokens(5000, 4800), 5099));
        assert!(is_due(&tokens(5000, 4800), 5100));
        assert!(!is_due(&tokens(100, 5200), 5000), "a clock set back");
    }

    #[test]
    fn a_failure_is_shared_for_ten_seconds_and_for_its_own_pair_only() {
        let pair = tokens(0, 0);
        let last = LastRefresh {
            spent: pair.refresh_token.fingerprint(),
            at: 1_000_000,
            failure: Some(Refusal::PortalDeleted),
            interrupted: false,
        };
        assert!(is_fresh_failure(&last, &pair, 1_009_999));
        assert!(!is_fresh_failure(&last, &pair, 1_010_000));
        assert!(!is_fresh_failure(&last, &pair, 900_000), "a clock set back frees it");
        let other = Tokens { refresh_token: Secret::new("other"), ..pair };
        assert!(!is_fresh_failure(&last, &other, 1_000_001));
    }
}
