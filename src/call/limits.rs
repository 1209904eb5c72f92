//! Bitrix24's limits, shared by all who call a portal: the leaky bucket, and methods that have used up their time.

use crate::app::App;
use crate::config::Portal;
use crate::values::bucket::{Bucket, Known, Seen, Step, Told, Turn, PAUSE};
use crate::values::tally::{Calls, Failure, Place, Shows};
use std::time::Duration;

/// Seconds of `operating` time that a method has in ten minutes.
pub const OPERATING_LIMIT: f64 = 480.0;

/// The pace at which a portal may be called.
pub struct Pace<'a> {
    app: &'a App,
    portal: &'a Portal,
}

impl<'a> Pace<'a> {
    pub fn of(app: &'a App, portal: &'a Portal) -> Self {
        Pace { app, portal }
    }

    fn bucket(&self) -> Bucket {
        Bucket { rate: self.portal.requests_per_second, burst: self.portal.burst.max(1.0) }
    }

    /// Where the storage cannot be used, calls go on without a limit of ours: Bitrix24 has its own, and only what it has
    /// just told is heeded.
    fn step(&self, step: Step) -> Told {
        let told = self.app.store.bucket(&self.portal.name, self.bucket(), step);
        told.unwrap_or_else(|| Known::default().step(self.bucket(), step, self.app.store.now_ms()))
    }

    /// Unix seconds, by the clock of what is kept.
    pub fn now(&self) -> i64 {
        self.app.store.now()
    }

    /// Takes a place for a call of this method (its canonical name). `refused`: Bitrix24 has just answered this call with
    /// `QUERY_LIMIT_EXCEEDED`. `calls`: as what it counts, where it has not been counted yet.
    pub fn turn(&self, method: &str, max_wait: Duration, refused: bool, calls: Option<Calls>) -> Told {
        self.step(Step::Take { method, max_wait, refused, calls })
    }

    /// A call of this program's own counts but never waits. One that Bitrix24 refused took no place and counts no more.
    pub fn count(&self) -> Told {
        self.step(Step::Count)
    }

    /// Somebody without credentials shows a token that is to be tried at the portal, which costs a call. `Err`: too many
    /// have lately, so that clients would be left without; in so many seconds.
    pub fn stranger(&self) -> Result<(), u64> {
        match self.step(Step::Stranger).turn {
            Turn::TooLate { retry_after } => Err(retry_after),
            Turn::In(_) | Turn::Blocked { .. } | Turn::Overloaded { .. } => Ok(()),
        }
    }

    /// The time in which a full bucket has room for one call again.
    pub fn gap(&self) -> Duration {
        Duration::try_from_secs_f64(1.0 / self.bucket().rate).unwrap_or(Duration::MAX)
    }

    /// The portal's web server keeps the `Authorization` header to itself; to be remembered by all. Whether it was known.
    pub fn swallows_header(&self) -> bool {
        self.step(Step::Swallows).swallows_header
    }

    /// In how many seconds this method may be called again, where it is known to have used up its time.
    pub fn rest(&self, method: &str) -> Option<u64> {
        match self.step(Step::Ask { method }).turn {
            Turn::Blocked { retry_after } => Some(retry_after),
            Turn::In(_) | Turn::TooLate { .. } | Turn::Overloaded { .. } => None,
        }
    }

    /// Bitrix24 answered `OPERATION_TIME_LIMIT`, or said that this call used up the method's time; to be remembered by all.
    /// `until`: Unix seconds. In how many seconds it may be called again.
    pub fn block(&self, method: &str, until: Option<i64>) -> u64 {
        match self.step(Step::Block { method, until }).turn {
            Turn::Blocked { retry_after } => retry_after,
            Turn::In(_) | Turn::TooLate { .. } | Turn::Overloaded { .. } => PAUSE,
        }
    }

    /// Bitrix24 answered `OVERLOAD_LIMIT`; to be remembered by all. In how many seconds the next call looks.
    pub fn overload(&self) -> u64 {
        self.step(Step::Overload);
        PAUSE
    }

    /// Calls failed, and what that shows; to be known by all.
    pub fn failed(&self, failure: Failure) {
        self.step(Step::Fail(failure));
    }

    /// Bitrix24 has executed a batch, and answered so many of its calls with an error, one of them with this.
    pub fn failed_in_batch(&self, calls: Calls, bitrix24: &str) {
        let place = Place::AmongOthers;
        self.failed(Failure {
            calls,
            place,
            method: "batch",
            error_code: "bitrix24_error",
            bitrix24,
            shows: Shows::Works,
        });
    }

    /// A call has succeeded, although calls did not work.
    pub fn recovered(&self) {
        self.step(Step::Recover);
    }

    /// Whether to try now whether calls work: nobody has for a minute.
    pub fn tries_now(&self) -> bool {
        matches!(self.step(Step::Try).turn, Turn::In(_))
    }

    /// What is known of the portal now, for showing.
    pub fn seen(&self) -> Seen {
        let App { store, .. } = self.app;
        store.known(&self.portal.name).seen(self.bucket(), store.now_ms())
    }
}
