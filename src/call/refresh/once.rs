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
//! | `begun`, younger than [`grace`](crate::store::Store::grace) | a refresher may be at work | waits |
//! | `begun`, older | a refresher was killed between asking and storing | refreshes once more; a refusal then says so |
//! | `failed`, below 10 s old | the OAuth server refused | shares the failure |
//! | `failed`, older | the same, long ago | refreshes |

use super::process::Refresher;
use super::spend::log_renaming;
use crate::app::Job;
use crate::config::Portal;
use crate::store::records::{Installation, LastRefresh, Notes, Tokens};
use crate::store::Lock;
use crate::system::clock::Deadline;
use crate::system::log::Level;
use crate::system::wait::pause;
use crate::values::error::{Error, Result};
use crate::values::grant::Refusal;
use std::time::Duration;

/// For how long a failure is shared.
const SHARE_FAILURE: Duration = Duration::from_secs(10);
/// After a refresh, only `expired_token` and a person cause another for so many seconds, and a renaming once, so that a wrong
/// clock cannot.
const QUIET_SECONDS: u64 = 300;
/// A token is refreshed that many seconds before it expires, so that a call under way does not meet its end.
const MARGIN_SECONDS: i64 = 30;

/// Why new tokens are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The known lifetime is over.
    Due,
    /// Bitrix24 answered `expired_token`.
    Expired,
    /// Bitrix24 answered that the token is none, with this code.
    Refused { code: &'static str },
    /// The portal answered 302: it has another address now.
    Moved,
    /// Whoever looks after the program wants it now.
    Ordered,
}

/// Whether the known lifetime is over, and a refresh is not so recent that the clock must be wrong.
pub fn is_due(tokens: &Tokens, now: i64) -> bool {
    now >= tokens.expires_at.saturating_sub(MARGIN_SECONDS) && !is_quiet(tokens, now)
}

/// Whether these are other tokens than those, and can be used.
fn is_news(tokens: &Tokens, stale: &Tokens, now: i64) -> bool {
    tokens.access_token != stale.access_token && !is_due(tokens, now)
}

/// Whether they were refreshed less than five minutes ago.
pub fn is_quiet(tokens: &Tokens, now: i64) -> bool {
    tokens.refreshed_at != 0 && now.abs_diff(tokens.refreshed_at) < QUIET_SECONDS
}

/// Tokens that are newer than `stale`, from whoever gets them first.
pub fn refreshed(job: Job, portal: &Portal, stale: &Tokens, why: Why, deadline: Deadline) -> Result<Tokens> {
    let tokens = shared(job, portal, stale, why, deadline)?;
    // The refresher has no standard error: where that is the log, a renaming is known only from here.
    if job.app.config.log.file.is_none() {
        log_renaming(job, portal, stale, &tokens);
    }
    Ok(tokens)
}

fn shared(job: Job, portal: &Portal, stale: &Tokens, why: Why, deadline: Deadline) -> Result<Tokens> {
    let mut refresher: Option<Refresher> = None;
    let (mut stale, mut why) = (stale.clone(), why);
    loop {
        // Cheap first: another process may be done.
        match job.app.store.read(&portal.name).map_err(Error::Storage)? {
            Installation::Installed(tokens) if is_news(&tokens, &stale, job.app.store.now()) => return Ok(*tokens),
            // What an interrupted writer left behind was put in place, too late.
            Installation::Installed(tokens) if tokens.access_token != stale.access_token => {
                (stale, why) = (*tokens, Why::Due);
            }
            _ => {}
        }
        if let Some(lock) = job.app.store.try_lock(&portal.name).map_err(Error::Storage)? {
            match settled(job, portal, &*lock, &stale, why)? {
                Settled::Tokens(tokens) => return Ok(*tokens),
                Settled::Underway => {}
                Settled::OurTurn => {
                    // Nothing new: a refresher of ours that has ended could not store, or was killed.
                    if let Some(ended) = refresher.take() {
                        return Err(ended.failure(job.log));
                    }
                    if why == Why::Moved {
                        let notes = Notes { moved_at: job.app.store.now(), ..lock.notes() };
                        lock.write_notes(&notes).map_err(Error::Storage)?;
                    }
                    refresher = Some(started(job, portal, lock)?);
                }
            }
        }
        if deadline.has_passed() {
            return Err(Error::RefreshPending { retry_after: 5 });
        }
        pause(job.app.store.poll().min(deadline.remaining())).map_err(Error::host_busy)?;
    }
}

fn started(job: Job, portal: &Portal, lock: Box<dyn Lock>) -> Result<Refresher> {
    job.log.line(Level::Debug, "refreshing the tokens", &[("portal", portal.name.as_str().into())]);
    Refresher::start(&job.app.config, &portal.name, lock.pass_on()).map_err(|why| {
        job.log.error(&format!("the process that refreshes tokens cannot be started: {why}"));
        Error::HostBusy(format!("the process that refreshes tokens cannot be started: {why}"))
    })
}

/// What is stored says of another's refresh.
enum Settled {
    /// It has ended with these tokens.
    Tokens(Box<Tokens>),
    /// It goes on, as far as can be known from here.
    Underway,
    OurTurn,
}

/// Judges by what is found under the lock; a failure of another's refresh is shared as an error.
fn settled(job: Job, portal: &Portal, lock: &dyn Lock, stale: &Tokens, why: Why) -> Result<Settled> {
    let tokens = match lock.read().map_err(Error::Storage)? {
        Installation::Installed(tokens) => tokens,
        Installation::NotInstalled => {
            return Err(Error::NotInstalled { install_url: job.app.config.install_url(&portal.name) })
        }
        Installation::Broken(why) => return Err(Error::Storage(why)),
    };
    let (notes, now_ms) = (lock.notes(), job.app.store.now_ms());
    let now = now_ms.div_euclid(1000);
    if is_news(&tokens, stale, now) {
        return Ok(Settled::Tokens(tokens));
    }
    if is_quiet(&tokens, now) {
        match why {
            Why::Refused { code } => return Err(refused_again(job, portal, code)),
            Why::Due => return Ok(Settled::Tokens(tokens)),
            Why::Moved if now.abs_diff(notes.moved_at) < QUIET_SECONDS => return Ok(Settled::Tokens(tokens)),
            Why::Moved | Why::Expired | Why::Ordered => {}
        }
    }
    match notes.refresh {
        Some(last) if is_fresh_failure(&last, &tokens, now_ms) => Err(refused(job, portal, &tokens, &last, now_ms)),
        Some(last) if is_underway(&last, &tokens, job.app.store.grace(), now_ms) => Ok(Settled::Underway),
        _ => Ok(Settled::OurTurn),
    }
}

/// Bitrix24 refuses tokens that are new.
pub fn refused_again(job: Job, portal: &Portal, code: &str) -> Error {
    Error::ReinstallRequired {
        why: format!("{code}, although they were renewed less than five minutes ago"),
        install_url: job.app.config.install_url(&portal.name),
    }
}

/// Whether a refresh that was begun and has not ended may still be alive.
fn is_underway(last: &LastRefresh, tokens: &Tokens, grace: Duration, now_ms: i64) -> bool {
    let age = now_ms.abs_diff(last.at);
    last.failure.is_none() && last.speaks_of(tokens) && u128::from(age) < grace.as_millis()
}

fn is_fresh_failure(last: &LastRefresh, tokens: &Tokens, now_ms: i64) -> bool {
    let age = now_ms.abs_diff(last.at);
    last.failure.is_some() && last.speaks_of(tokens) && u128::from(age) < SHARE_FAILURE.as_millis()
}

/// Whole seconds until the OAuth server may be asked again.
fn seconds_left(last: &LastRefresh, now_ms: i64) -> u64 {
    let age = now_ms.abs_diff(last.at);
    (SHARE_FAILURE.as_millis() as u64).saturating_sub(age).div_ceil(1000).max(1)
}

/// The refusal as the caller hears it.
fn refused(job: Job, portal: &Portal, tokens: &Tokens, last: &LastRefresh, now_ms: i64) -> Error {
    let asked = portal.asked_for_pair(&tokens.server_endpoint);
    match &last.failure {
        Some(Refusal::InvalidGrant { description }) => {
            let mut why = match last.interrupted {
                true => "a refresh was interrupted before its result was stored, so the new tokens are lost".to_owned(),
                false => "invalid_grant: the refresh token is spent, expired or revoked".to_owned(),
            };
            if !description.is_empty() {
                why = format!("{why}; the OAuth server says: {description}");
            }
            if let Some(words) = asked.words(&portal.name) {
                why = format!("{why}; {words}");
            }
            Error::ReinstallRequired { why, install_url: job.app.config.install_url(&portal.name) }
        }
        Some(Refusal::Configuration { why }) => Error::Configuration(why.clone()),
        Some(Refusal::HostBusy { why }) => Error::HostBusy(why.clone()),
        Some(refusal) => {
            let (why, retry_after) = (refusal.text(&asked, &portal.name), Some(seconds_left(last, now_ms)));
            Error::OauthServer { why, retry_after }
        }
        None => Error::RefreshPending { retry_after: 5 },
    }
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
            user_name: String::new(),
            application_token: Secret::default(),
            client_id: String::new(),
            installed_at: 0,
            refreshed_at,
            renamed_from: String::new(),
            events_key: Secret::default(),
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
    fn times_that_cannot_be_are_only_wrong() {
        assert!(is_due(&tokens(i64::MIN, 0), 4000));
        assert!(!is_due(&tokens(i64::MAX, i64::MIN), 4000));
        assert!(is_due(&tokens(i64::MIN, i64::MAX), 4000));
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

    #[test]
    fn a_begun_refresh_counts_as_alive_for_as_long_as_its_storage_says() {
        let pair = tokens(0, 0);
        let begun = LastRefresh { spent: pair.fingerprint(), at: 1_000_000, failure: None, interrupted: false };
        assert!(!is_underway(&begun, &pair, Duration::ZERO, 1_000_000), "a lock that is free says it");
        assert!(is_underway(&begun, &pair, SHARE_FAILURE, 1_009_999));
        assert!(!is_underway(&begun, &pair, SHARE_FAILURE, 1_010_000));
        let failed = LastRefresh { failure: Some(Refusal::PortalDeleted), ..begun };
        assert!(!is_underway(&failed, &pair, SHARE_FAILURE, 1_000_000));
    }
}
