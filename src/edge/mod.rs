//! Where the program meets the process that it runs in: environment, standard streams, panic hook and exit are touched here
//! alone (and by the command line's `cli::terminal`). Uses serve and what lies below it; does not know cli.

mod answering;
pub mod cgi;
mod environment;
#[cfg(unix)]
pub mod fastcgi;
pub mod refresher;

use crate::call::refresh::process::COMMAND;
use crate::values::listening::{self, Listening};

/// What this process was started for.
pub enum Purpose {
    /// One request of a web server.
    Request,
    /// To refresh the tokens of this portal, for another process of this program.
    Refresh {
        portal: String,
    },
    /// Requests at the listening socket that standard input is.
    #[cfg(unix)]
    FastCgi,
    /// Requests that the manager of a resident program gives to this process. `at_once`: how many it serves at once.
    #[cfg(unix)]
    Work {
        at_once: u32,
    },
    CommandLine,
}

/// `GATEWAY_INTERFACE` alone tells a CGI request from the command line: Apache passes an ISINDEX-style query as arguments
/// (RFC 3875, section 4.4), so with it arguments decide nothing. Nor do they with a listening socket as standard input, but for the
/// command that says how many workers there are.
pub fn purpose() -> Purpose {
    if std::env::var_os("GATEWAY_INTERFACE").is_some() {
        return Purpose::Request;
    }
    let mut words = std::env::args_os().skip(1);
    let (command, word, rest) = (words.next(), words.next(), words.next());
    #[cfg(unix)]
    if fastcgi::is_started_so() && command.as_ref().is_none_or(|command| command != listening::COMMAND) {
        return Purpose::FastCgi;
    }
    match (command, word, rest) {
        (Some(command), Some(portal), None) if command == COMMAND => {
            Purpose::Refresh { portal: portal.to_string_lossy().into_owned() }
        }
        #[cfg(unix)]
        (Some(command), Some(at_once), None) if command == listening::WORKER => {
            Purpose::Work { at_once: at_once.to_str().and_then(|text| text.parse().ok()).unwrap_or(1) }
        }
        _ => Purpose::CommandLine,
    }
}

/// Serves at that socket until this process is told to end, for the command line. The error says why it cannot begin.
#[cfg(unix)]
pub fn listen(listening: &Listening) -> Result<(), String> {
    fastcgi::serve(listening)
}

#[cfg(not(unix))]
pub fn listen(_: &Listening) -> Result<(), String> {
    Err("FastCGI is for Unix".into())
}
