//! How a call ended.

use super::limits::Pace;
use crate::upstream::http::Reply;
use crate::values::error::{Error, Executed, Passing, Upstream};
use crate::values::tally::{Calls, Failure, Place, Shows};
use std::time::Duration;

/// A call that has ended, and what it took.
pub struct Called {
    pub result: Result<Reply, Failed>,
    pub trip: Trip,
}

/// What a call took on its way.
#[derive(Default)]
pub struct Trip {
    /// What was done again, for the log.
    pub repeated: Vec<&'static str>,
    /// How long it waited for its turn under the limit.
    pub waited: Duration,
}

/// Why a call has no result.
#[derive(Debug)]
pub enum Failed {
    /// Bitrix24 answered with an error of its own: which, and the answer as it came.
    Refused { upstream: Upstream, reply: Box<Reply> },
    /// Anything else.
    Error(Error),
}

impl Failed {
    /// Whether the call may have been executed.
    pub fn executed(&self) -> Option<Executed> {
        match self {
            Failed::Refused { upstream, .. } => (!upstream.is_definite()).then_some(Executed::Unknown),
            Failed::Error(error) => error.executed(),
        }
    }

    /// `error_code`, and Bitrix24's own code.
    pub fn codes(&self) -> (&'static str, &str) {
        match self {
            Failed::Refused { upstream, .. } => ("bitrix24_error", &upstream.error),
            Failed::Error(error) => {
                (error.status_and_code().1, error.upstream().map_or("", |upstream| upstream.error.as_str()))
            }
        }
    }

    /// What it shows of other calls. `needs_no_right`: the call's method is one that Bitrix24 refuses to nobody.
    pub fn shows(&self, needs_no_right: bool) -> Shows {
        let otherwise = |shows| if needs_no_right { Shows::Fails } else { shows };
        match self {
            Failed::Refused { upstream, .. } | Failed::Error(Error::Bitrix24(upstream)) => match upstream.passing() {
                Some(Passing::Overload) => Shows::Fails,
                Some(_) => Shows::Nothing,
                None if upstream.error == "PORTAL_DELETED" => Shows::Fails,
                None if upstream.is_definite() => otherwise(Shows::Works),
                None => otherwise(Shows::Nothing),
            },
            Failed::Error(error) => match error {
                Error::NotInstalled { .. }
                | Error::ReinstallRequired { .. }
                | Error::OauthServer { .. }
                | Error::Configuration(_)
                | Error::Unreachable { .. }
                | Error::Timeout { executed: Executed::No }
                | Error::BadAnswer { upstream: Some(_), .. }
                | Error::BadAnswer { executed: Executed::No, .. } => Shows::Fails,
                // A method may take its time.
                Error::Timeout { executed: Executed::Unknown } => otherwise(Shows::Nothing),
                _ => Shows::Nothing,
            },
        }
    }

    /// Whether it is no call's failure: the caller asked for something that is not sent, or nothing can be written down.
    fn is_not_counted(&self, was_sent: bool) -> bool {
        match self {
            Failed::Error(Error::Storage(_)) => true,
            Failed::Error(error) => !was_sent && matches!(error.status_and_code().0, 400..=408 | 410..=428),
            Failed::Refused { .. } => false,
        }
    }
}

/// How calls of one client were counted on their way.
#[derive(Clone, Copy, Debug)]
pub struct Counted<'a> {
    pub calls: Calls<'a>,
    /// When they took their place.
    pub place: Option<i64>,
    /// Calls did not work when they did.
    pub did_not_work: bool,
    /// They are this program's own: of no client, and they need no right.
    pub are_own: bool,
}

impl Counted<'_> {
    /// Writes down how they ended, where that is not known already: that they succeeded is, while calls work.
    pub fn end<T>(&self, pace: &Pace, method: &str, result: &Result<T, Failed>) {
        match result {
            Ok(_) if self.did_not_work => pace.recovered(),
            Ok(_) => {}
            Err(failed) if failed.is_not_counted(self.place.is_some()) => {}
            Err(failed) => {
                let (error_code, bitrix24) = failed.codes();
                let place = self.place.map_or(Place::Never, Place::TakenAt);
                let (calls, shows) = (self.calls, failed.shows(self.are_own));
                pace.failed(Failure { calls, place, method, error_code, bitrix24, shows });
            }
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::Error(error)
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Error {
        match failed {
            Failed::Refused { upstream, .. } => Error::Bitrix24(upstream),
            Failed::Error(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, error: &str) -> Failed {
        Failed::Error(Error::Bitrix24(Upstream { status, error: error.into(), ..Upstream::default() }))
    }

    #[test]
    fn an_error_of_one_method_shows_that_calls_work_and_one_of_profile_that_they_do_not() {
        use Shows::{Fails, Nothing, Works};
        let unreachable = |executed| Failed::Error(Error::Unreachable { why: String::new(), executed });
        let page = |executed, upstream| Failed::Error(Error::BadAnswer { why: String::new(), executed, upstream });
        for (failed, of_a_method, of_profile) in [
            (answered(400, "ERROR_CORE"), Works, Fails),
            (answered(403, "ACCESS_DENIED"), Works, Fails),
            (answered(500, "INTERNAL_SERVER_ERROR"), Nothing, Fails),
            (answered(503, "QUERY_LIMIT_EXCEEDED"), Nothing, Nothing),
            (answered(429, "OPERATION_TIME_LIMIT"), Nothing, Nothing),
            (answered(503, "OVERLOAD_LIMIT"), Fails, Fails),
            (answered(404, "PORTAL_DELETED"), Fails, Fails),
            (Error::NotInstalled { install_url: None }.into(), Fails, Fails),
            (Error::ReinstallRequired { why: String::new(), install_url: None }.into(), Fails, Fails),
            (unreachable(Executed::No), Fails, Fails),
            (unreachable(Executed::Unknown), Fails, Fails),
            (page(Executed::Unknown, Some(Upstream::default())), Fails, Fails),
            (page(Executed::Unknown, None), Nothing, Nothing),
            (Error::Timeout { executed: Executed::No }.into(), Fails, Fails),
            (Error::Timeout { executed: Executed::Unknown }.into(), Nothing, Fails),
            (Error::RateLimited { why: String::new(), retry_after: 1 }.into(), Nothing, Nothing),
            (Error::HostBusy(String::new()).into(), Nothing, Nothing),
            (Error::RefreshPending { retry_after: 1 }.into(), Nothing, Nothing),
        ] {
            assert_eq!((failed.shows(false), failed.shows(true)), (of_a_method, of_profile), "{failed:?}");
        }
    }

    #[test]
    fn what_is_not_sent_for_the_callers_own_mistake_is_no_call() {
        let wrong = Failed::from(Error::InvalidRequest(String::new()));
        assert!(wrong.is_not_counted(false) && !wrong.is_not_counted(true));
        assert!(Failed::from(Error::FileAddressExpired(String::new())).is_not_counted(false));
        for counted in [Error::NotInstalled { install_url: None }, Error::MethodBlocked { retry_after: 1 }] {
            assert!(!Failed::from(counted).is_not_counted(false));
        }
    }
}
