//! The socket of a connection, as a worker writes to it: whole records, each to its end or none any more.

use super::record::{header, padding_of, push, push_end, Ended, Kind, HEADER, MOST_CONTENT};
use crate::system::clock::Deadline;
use crate::system::ready::is_ready;
use crate::system::wait::stand_aside;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{shutdown, Shutdown};
use std::io::{ErrorKind, IoSlice, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

/// How long a web server may take nothing of an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long is read what nobody wants any more, so that closing does not take the answer back.
const LINGER: Duration = Duration::from_secs(1);

pub struct Wire {
    socket: OwnedFd,
    /// A record could not be written to its end: nothing can follow it.
    is_broken: Mutex<bool>,
    /// The request that is served has written to its standard error, which is to be ended then (section 3.3).
    has_errors: AtomicBool,
}

impl Wire {
    /// The socket does not block.
    pub fn new(socket: OwnedFd) -> Wire {
        Wire { socket, is_broken: Mutex::new(false), has_errors: AtomicBool::new(false) }
    }

    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }

    pub fn is_broken(&self) -> bool {
        *self.is_broken.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A request's standard error.
    pub fn write_errors(&self, id: u16, text: &[u8]) -> std::io::Result<()> {
        let mut records = Vec::with_capacity(text.len() + 2 * HEADER);
        text.chunks(MOST_CONTENT).for_each(|piece| push(&mut records, Kind::Stderr, id, piece));
        self.has_errors.store(true, Ordering::Relaxed);
        self.write(&mut [IoSlice::new(&records)])
    }

    /// The rest of a request's standard output, and its end.
    pub fn end(&self, id: u16, last: &[u8], ended: Ended, status: u8) -> std::io::Result<()> {
        let mut records = Vec::with_capacity(last.len() + 6 * HEADER);
        last.chunks(MOST_CONTENT).for_each(|piece| push(&mut records, Kind::Stdout, id, piece));
        if ended == Ended::Complete {
            push(&mut records, Kind::Stdout, id, b"");
            if self.has_errors.swap(false, Ordering::Relaxed) {
                push(&mut records, Kind::Stderr, id, b"");
            }
        }
        push_end(&mut records, id, ended, status);
        self.write(&mut [IoSlice::new(&records)])
    }

    /// Bytes of whole records.
    pub fn write_records(&self, records: &[u8]) -> std::io::Result<()> {
        self.write(&mut [IoSlice::new(records)])
    }

    fn write(&self, mut records: &mut [IoSlice]) -> std::io::Result<()> {
        let mut is_broken = match self.is_broken.try_lock() {
            Ok(is_broken) => is_broken,
            // Within a panic that happened while something was written.
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => return Err(ErrorKind::BrokenPipe.into()),
        };
        if *is_broken {
            return Err(ErrorKind::BrokenPipe.into());
        }
        while !records.is_empty() {
            match rustix::io::writev(&self.socket, records) {
                Ok(count) => IoSlice::advance_slices(&mut records, count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // An answer that is read slowly: others are served meanwhile, as long as there may be more workers.
                    let _ = stand_aside();
                    if !is_ready(&self.socket, PollFlags::OUT, PATIENCE) {
                        *is_broken = true;
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => {
                    *is_broken = true;
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Nothing follows what was written, so that it is seen that something is missing.
    pub fn break_off(&self) {
        *self.is_broken.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
        let _ = shutdown(&self.socket, Shutdown::Write);
    }

    /// Says that nothing follows, and takes what is still coming for a while: a socket that is closed with something unread
    /// takes back what was written to it.
    pub fn close_gently(&self) {
        let until = Deadline::after(if stand_aside().is_ok() { LINGER } else { Duration::ZERO });
        let _ = shutdown(&self.socket, Shutdown::Write);
        let mut nowhere = [0; 16 << 10];
        while is_ready(&self.socket, PollFlags::IN, until.remaining()) && !until.has_passed() {
            match rustix::io::read(&self.socket, &mut nowhere) {
                Ok(0) => return,
                Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => return,
            }
        }
    }
}

/// A request's standard output.
pub struct Output<'w> {
    pub wire: &'w Wire,
    pub id: u16,
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let piece = &bytes[..bytes.len().min(MOST_CONTENT)];
        // A record without content is the end.
        if !piece.is_empty() {
            let head = header(Kind::Stdout, self.id, piece.len());
            let padding = [0; 7];
            let padding = &padding[..padding_of(piece.len()).into()];
            self.wire.write(&mut [IoSlice::new(&head), IoSlice::new(piece), IoSlice::new(padding)])?;
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
