//! The first link of `ureq`'s chain: a TCP connection, through the configured proxy where there is one. `ureq`'s own would block in each address.

use super::dial::reach;
use super::failure::Failure;
use super::tunnel::through;
use crate::system::clock::Deadline;
use crate::system::ready::is_ready;
use crate::values::proxy::Proxy;
use rustix::event::PollFlags;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::time;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};

/// Longer than anything is waited for.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Names are looked up where a connection is made, within its time. `ureq` wants an address before.
#[derive(Debug)]
pub struct LookedUpLater;

impl Resolver for LookedUpLater {
    fn resolve(
        &self,
        _: &ureq::http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(([0, 0, 0, 0], 0).into());
        Ok(addresses)
    }
}

#[derive(Clone, Debug)]
pub struct Dial {
    pub proxy: Option<Proxy>,
    /// As a proxy hears it.
    pub user_agent: &'static str,
}

impl<In: Transport> Connector<In> for Dial {
    type Out = Tcp;

    fn connect(&self, details: &ConnectionDetails, _: Option<In>) -> Result<Option<Tcp>, ureq::Error> {
        let deadline = Deadline::after(limit(remaining(details)));
        let host = details.uri.host().unwrap_or_default();
        let port = details.uri.port_u16().unwrap_or(if details.needs_tls() { 443 } else { 80 });
        let stream = match &self.proxy {
            None => reach(host, port, deadline),
            Some(proxy) => through(proxy, host, port, self.user_agent, deadline),
        };
        let stream = stream.map_err(told)?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Tcp { stream, buffers, may_hold_more: false }))
    }
}

/// A failure on its way through `ureq`.
fn told(failure: Failure) -> ureq::Error {
    ureq::Error::Other(Box::new(failure))
}

/// What is left of the time for a connection.
pub fn remaining(details: &ConnectionDetails) -> NextTimeout {
    let mut timeout = details.timeout;
    if let (time::Duration::Exact(after), time::Instant::Exact(begun)) = (timeout.after, details.now) {
        timeout.after = time::Duration::Exact(after.saturating_sub(begun.elapsed()));
    }
    timeout
}

fn limit(timeout: NextTimeout) -> Duration {
    (*timeout.after).min(DAY)
}

/// A connection whose socket does not block.
pub struct Tcp {
    stream: TcpStream,
    buffers: LazyBuffers,
    /// The last read filled all the room there was.
    may_hold_more: bool,
}

impl Transport for Tcp {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let begun = Instant::now();
        in_time(timeout)?;
        let mut left = &self.buffers.output()[..amount];
        while !left.is_empty() {
            match (&self.stream).write(left) {
                Ok(count) => left = &left[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait(&self.stream, PollFlags::OUT, timeout.for_write(), begun)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let (begun, timeout) = (Instant::now(), timeout.for_read());
        in_time(timeout)?;
        let room = self.buffers.input_append_buf();
        loop {
            if !std::mem::take(&mut self.may_hold_more) {
                wait(&self.stream, PollFlags::IN, timeout, begun)?;
            }
            match (&self.stream).read(room) {
                Ok(count) => {
                    self.may_hold_more = count == room.len();
                    self.buffers.input_appended(count);
                    return Ok(count > 0);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn is_open(&mut self) -> bool {
        // Whoever has something to say before he was asked has closed it, or speaks of something else.
        let is_read = self.buffers.input().is_empty();
        is_read && self.stream.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

/// Whoever always has something ready must not be listened to for ever.
fn in_time(timeout: NextTimeout) -> Result<(), ureq::Error> {
    match timeout.after.is_zero() {
        true => Err(ureq::Error::Timeout(timeout.reason)),
        false => Ok(()),
    }
}

/// Until the socket is ready; `begun`: when the time that `timeout` speaks of began, of a single read or write when it was
/// waited for.
fn wait(stream: &TcpStream, flags: PollFlags, timeout: NextTimeout, begun: Instant) -> Result<(), ureq::Error> {
    let is_single = matches!(timeout.reason, ureq::Timeout::PerRead | ureq::Timeout::PerWrite);
    let passed = if is_single { Duration::ZERO } else { begun.elapsed() };
    match is_ready(stream, flags, limit(timeout).saturating_sub(passed)) {
        true => Ok(()),
        false => Err(ureq::Error::Timeout(timeout.reason)),
    }
}

impl std::fmt::Debug for Tcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tcp")
    }
}
