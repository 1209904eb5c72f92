//! FastCGI (version 1.0): this program resident, at a socket.
//!
//! ```text
//! web server ──connections──▶ workers: processes that serve one request after another
//!                              │    ▲
//!              one that is idle▼    │one on which more has come
//!                            manager: as many workers as there should be
//! ```
//!
//! A [`worker`] takes a connection at the socket, serves what comes on it, and keeps it until it takes another one; then the
//! [`manager`] looks after it. What happens to a worker, a panic or a kill, happens to one request. Who waits for others or
//! passes a file on tells the manager, which lets another worker take its place. No request passes through the manager.
//!
//! [`record`] is the protocol, [`connection`] and [`wire`] a worker's two ways through it, [`channel`] what manager and workers
//! say to each other.

mod channel;
mod connection;
mod current;
mod events;
mod listener;
mod manager;
mod record;
mod request;
mod resident;
mod signals;
mod successor;
mod wire;
pub mod worker;

use crate::system::process::is_listening;
use crate::values::listening::Listening;
use listener::Listener;
use manager::Manager;
use std::io::Write;
use std::process::ExitCode;

/// Whether standard input is a listening socket, as FastCGI programs are started (section 2.2 of the specification).
pub fn is_started_so() -> bool {
    is_listening(std::io::stdin())
}

/// Serves at the listening socket that standard input is, until it is told to end.
pub fn run() -> ExitCode {
    match serve(&Listening::default()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "b24proxy: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until it is told to end. The error says why it cannot begin.
pub fn serve(listening: &Listening) -> Result<(), String> {
    // From the moment on at which it can be reached it ends as it should.
    let told_to_end = signals::told_to_end().map_err(|error| format!("signals cannot be heard: {error}"))?;
    let web_servers = std::env::var("FCGI_WEB_SERVER_ADDRS").ok();
    let listener = match &listening.address {
        // The one that this process had before it was another executable.
        Some(address) if is_started_so() => Listener::taken_over(address, web_servers.as_deref())?,
        Some(address) => Listener::at(address, web_servers.as_deref())?,
        None => Listener::inherited(web_servers.as_deref())?,
    };
    Manager::new(listener, listening, told_to_end)?.run()
}
