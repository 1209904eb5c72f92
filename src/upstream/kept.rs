//! Clients of `ureq`: one that makes a connection for each request, and in a process that serves many requests one that keeps
//! its connections for a moment.

use super::progress::Noting;
use super::tcp::{Dial, LookedUpLater};
use super::tls::{Tls, BUFFER};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use ureq::http::header::{HeaderMap, CONTENT_LENGTH, TRANSFER_ENCODING};
use ureq::http::StatusCode;
use ureq::unversioned::transport::Connector;

pub const USER_AGENT: &str = concat!("b24proxy/", env!("CARGO_PKG_VERSION"));

/// How long a connection is kept. Web servers close theirs after 5 s and more (Apache's `KeepAliveTimeout`), and whoever
/// closes first must not be they.
const LONGEST_IDLE: Duration = Duration::from_secs(4);
/// A process serves one request at a time: there is one connection to a host, and a few hosts.
const MOST_IDLE: usize = 4;

/// What a client's connections are made by.
#[derive(Clone)]
pub struct Chain {
    pub dial: Dial,
    pub tls: Tls,
}

impl Chain {
    /// A client that makes a connection for each request.
    pub fn fresh(&self) -> ureq::Agent {
        self.agent(0)
    }

    fn agent(&self, most_idle: usize) -> ureq::Agent {
        let config = ureq::Agent::config_builder()
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(USER_AGENT)
            .accept_encoding("identity")
            .max_idle_connections(most_idle)
            .max_idle_connections_per_host(1)
            .max_idle_age(LONGEST_IDLE)
            .input_buffer_size(BUFFER)
            .output_buffer_size(BUFFER)
            .build();
        let connector = ().chain(self.dial.clone()).chain(self.tls.clone()).chain(Noting);
        ureq::Agent::with_parts(config, connector, LookedUpLater)
    }
}

/// A client that keeps its connections, one to a host.
pub struct Kept {
    chain: Chain,
    agent: Mutex<ureq::Agent>,
}

impl Kept {
    pub fn new(chain: Chain) -> Kept {
        let agent = Mutex::new(chain.agent(MOST_IDLE));
        Kept { chain, agent }
    }

    pub fn agent(&self) -> ureq::Agent {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes all that is idle. What is in use now is not kept when it has ended.
    pub fn let_go(&self) {
        *self.agent.lock().unwrap_or_else(PoisonError::into_inner) = self.chain.agent(MOST_IDLE);
    }
}

/// Whether the answer's end is where every reader of it sees it (RFC 9112, section 6.3), so that nothing of it can be taken for
/// the next one's beginning: by one length or by chunks, and not by a status that has no body, whatever follows it.
pub fn has_plain_end(status: StatusCode, headers: &HeaderMap) -> bool {
    let has_body = !status.is_informational() && !matches!(status.as_u16(), 204 | 205 | 304);
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_delimited = match (codings.next(), codings.next()) {
        (None, _) => lengths == 1,
        (Some(coding), None) => lengths == 0 && coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        _ => false,
    };
    has_body && is_delimited
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_plain_end_by_one_length_or_by_chunks() {
        let has = |status, fields: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, value.parse().unwrap());
            }
            has_plain_end(StatusCode::from_u16(status).unwrap(), &headers)
        };
        let (length, chunks) = (("content-length", "2"), ("transfer-encoding", "chunked"));
        for status in [200, 201, 302, 400, 401, 503] {
            assert!(has(status, &[length]), "{status}");
            assert!(has(status, &[("transfer-encoding", "Chunked")]), "{status}");
            for headers in [&[][..], &[length, length], &[length, chunks], &[chunks, chunks]] {
                assert!(!has(status, headers), "{status} {headers:?}");
            }
            assert!(!has(status, &[("transfer-encoding", "gzip, chunked")]), "{status}");
        }
        for status in [100, 101, 103, 204, 205, 304] {
            assert!(!has(status, &[length]), "{status}");
        }
    }
}
