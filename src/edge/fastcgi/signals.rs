//! Signals by which a process is told to end: TERM and INT, and HUP and USR1, by which web servers end a FastCGI program
//! without hurry.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::low_level::pipe;
use std::os::unix::net::UnixStream;

const ALL: [i32; 4] = [SIGTERM, SIGINT, SIGHUP, SIGUSR1];

/// What becomes readable when this process is told to end.
pub fn told_to_end() -> std::io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    for signal in ALL {
        pipe::register(signal, writer.try_clone()?)?;
    }
    Ok(reader)
}
