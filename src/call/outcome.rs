//! How a call ended.

use crate::upstream::http::Reply;
use crate::values::error::{Error, Executed, Upstream};
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
