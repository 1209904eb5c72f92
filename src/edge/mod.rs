//! Where the program meets the process that it runs in: environment, standard streams, panic hook and exit are touched here
//! alone (and by the command line's `cli::terminal`). Uses serve and what lies below it; does not know cli.

mod answering;
pub mod cgi;
mod environment;
pub mod refresher;

use crate::call::refresh::process::COMMAND;

/// What this process was started for.
pub enum Purpose {
    /// One request of a web server.
    Request,
    /// To refresh the tokens of this portal, for another process of this program.
    Refresh {
        portal: String,
    },
    CommandLine,
}

/// `GATEWAY_INTERFACE` alone tells a CGI request from the command line: Apache passes an ISINDEX-style query as arguments
/// (RFC 3875, section 4.4), so with it arguments decide nothing.
pub fn purpose() -> Purpose {
    if std::env::var_os("GATEWAY_INTERFACE").is_some() {
        return Purpose::Request;
    }
    let mut words = std::env::args_os().skip(1);
    match (words.next(), words.next(), words.next()) {
        (Some(command), Some(portal), None) if command == COMMAND => {
            Purpose::Refresh { portal: portal.to_string_lossy().into_owned() }
        }
        _ => Purpose::CommandLine,
    }
}
