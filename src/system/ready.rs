//! Waiting for a socket, or a pipe, until it is ready.

use super::clock::Deadline;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::time::Duration;

pub fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}

/// Whether the socket is ready before that time is over.
pub fn is_ready(socket: impl AsFd, flags: PollFlags, within: Duration) -> bool {
    let until = Deadline::after(within);
    loop {
        match poll(&mut [PollFd::new(&socket, flags)], Some(&timespec(until.remaining()))) {
            Ok(0) => return false,
            Err(Errno::INTR) if !until.has_passed() => {}
            Err(Errno::INTR) => return false,
            // Of a socket that is broken the next operation says more.
            _ => return true,
        }
    }
}
