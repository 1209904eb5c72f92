//! What the tests run `b24proxy` with: a home of its own for each test
//! ([`Sandbox`]), the executable as a CGI process ([`cgi`]) or resident, over
//! FastCGI ([`fastcgi`]), the real web servers with the configuration that `deploy/`
//! ships ([`webserver`]) and a client that talks to them byte by byte ([`http`]).
//!
//! A test that cannot go on panics with a message for the person who reads it;
//! nothing here returns an error that a test would only unwrap.
//!
//! ```no_run
//! use support::{cgi::Cgi, Sandbox};
//!
//! let sandbox = Sandbox::new();
//! sandbox.write_config("[security]\nauth_token = \"…\"\n");
//! let answer = Cgi::new(&sandbox).path("/health").run();
//! assert_eq!(answer.status, 200);
//! ```
#![forbid(unsafe_code)]

use std::thread;
use std::time::{Duration, Instant};

pub mod browser;
pub mod cgi;
pub mod database;
pub mod example;
mod executable;
pub mod fastcgi;
pub mod http;
mod mysql;
pub mod postgres;
mod processes;
mod random;
pub mod relay;
mod resident;
mod sandbox;
pub mod webserver;

pub use executable::executable;
pub use processes::{peak_memory, signal, with_descendants, Group, PATH};
pub use random::{number, Random};
pub use sandbox::Sandbox;

/// Waits until something is so; panics when it is not within half a minute.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < patience, "not within 30 s: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The value of the first header of this name, in any case.
fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// A body as JSON, or a panic that shows what it was instead.
fn json(body: &[u8]) -> serde_json::Value {
    serde_json::from_slice(body)
        .unwrap_or_else(|error| panic!("the body is not JSON ({error}): {}", String::from_utf8_lossy(body)))
}

/// The folder of this repository.
fn repository() -> std::path::PathBuf {
    let support = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    support.ancestors().nth(2).expect("tests/support is two folders below the repository").to_path_buf()
}
