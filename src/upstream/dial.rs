//! From a host's name to a TCP connection, under one deadline: its addresses, then one after another until one answers.
//!
//! `ureq` would look a name up in a thread that it cannot do without, and give an address that does not answer half of the
//! time there is.

use super::failure::{Failure, Obstacle};
use crate::system::clock::Deadline;
use crate::system::ready::timespec;
use crate::system::refusal::{has_memory, refused, NO_MEMORY};
use crate::values::error::Executed;
use rustix::event::{poll, PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{connect, socket_with, sockopt::socket_error, AddressFamily, SocketFlags, SocketType};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{sync_channel, RecvTimeoutError};
use std::time::Duration;

/// How long one address has before the next is tried too (RFC 8305, section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// More addresses of one name are not tried.
const MOST_ADDRESSES: usize = 16;
/// What a connection takes with TLS and the thread that looks the name up.
const MEMORY: usize = 4 << 20;
/// How many descriptors looking up a name takes at once.
const DESCRIPTORS: usize = 4;

/// A connection to the first address of the host that accepts one. The socket does not block.
pub fn reach(host: &str, port: u16, deadline: Deadline) -> Result<TcpStream, Failure> {
    if !has_memory(MEMORY) {
        return Err(host_busy(NO_MEMORY));
    }
    first_to_connect(&alternating(addresses(host, port, deadline)?), deadline)
}

fn host_busy(why: &str) -> Failure {
    Failure::NotSent { why: why.to_owned(), obstacle: Obstacle::HostBusy }
}

fn addresses(host: &str, port: u16, deadline: Deadline) -> Result<Vec<SocketAddr>, Failure> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    // The system's lookup has no deadline that can be set: it is left behind in its thread.
    let (found, finds) = sync_channel(1);
    let name = (host.to_owned(), port);
    std::thread::Builder::new()
        .spawn(move || found.send(name.to_socket_addrs().map(|all| all.take(MOST_ADDRESSES).collect::<Vec<_>>())))
        .map_err(|error| host_busy(refused(&error).unwrap_or("no thread can be started")))?;
    match finds.recv_timeout(deadline.remaining()) {
        Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
        Ok(Err(error)) => Err(not_found(&error)),
        Err(RecvTimeoutError::Timeout) => Err(Failure::Timeout(Executed::No)),
        Ok(Ok(_)) | Err(RecvTimeoutError::Disconnected) => Err(unknown_host("the host name is not known")),
    }
}

fn unknown_host(why: &str) -> Failure {
    Failure::NotSent { why: why.to_owned(), obstacle: Obstacle::UnknownHost }
}

/// Why a name has no address. The system says the same of a name server that is not there and of a socket that it could not
/// have to ask one.
fn not_found(error: &std::io::Error) -> Failure {
    if let Some(why) = refused(error).or_else(descriptors_refused) {
        return host_busy(why);
    }
    let text = error.to_string();
    // glibc's words for EAI_AGAIN and musl's.
    match text.contains("Temporary failure") || text.contains("Try again") {
        true => unknown_host("the host name cannot be looked up now: no name server answers"),
        false => unknown_host("the host name is not known"),
    }
}

fn descriptors_refused() -> Option<&'static str> {
    let mut opened = Vec::new();
    for _ in 0..DESCRIPTORS {
        match socket(AddressFamily::INET) {
            Ok(socket) => opened.push(socket),
            Err(error) => return refused(&error.into()),
        }
    }
    None
}

fn socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// IPv6 and IPv4 by turns, beginning with the family that the system prefers, so that a family that does not work costs one
/// pause and not one for each of its addresses (RFC 8305, section 4).
fn alternating(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_first_family = |address: &SocketAddr| address.is_ipv6() == addresses[0].is_ipv6();
    let (first, second): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| is_first_family(address));
    let longer = first.len().max(second.len());
    (0..longer).flat_map(|at| [first.get(at), second.get(at)]).flatten().copied().collect()
}

/// Tries the addresses one after another; while one does not answer, the next is tried beside it.
fn first_to_connect(addresses: &[SocketAddr], deadline: Deadline) -> Result<TcpStream, Failure> {
    let (mut untried, mut attempts, mut why) = (addresses.iter(), Vec::<OwnedFd>::new(), None);
    loop {
        if let Some(address) = untried.next() {
            match begun(address) {
                Ok(socket) => attempts.push(socket),
                Err(error) => why = Some(worse(why, error)),
            }
        }
        if attempts.is_empty() {
            match untried.as_slice() {
                [] => return Err(not_connected(why.unwrap_or(Errno::HOSTUNREACH))),
                _ => continue,
            }
        }
        let until = match untried.as_slice() {
            [] => deadline,
            _ => deadline.at_most(NEXT_ADDRESS),
        };
        while let Some(at) = answered(&attempts, until) {
            let socket = attempts.swap_remove(at);
            match socket_error(&socket).and_then(|outcome| outcome) {
                Ok(()) => return connected(socket),
                Err(error) => why = Some(worse(why, error)),
            }
            // Another address at once; the last one's answer ends it.
            if attempts.is_empty() || !untried.as_slice().is_empty() {
                break;
            }
        }
        if deadline.has_passed() {
            return Err(Failure::Timeout(Executed::No));
        }
    }
}

/// A connection that is being made.
fn begun(address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket(family)?;
    match connect(&socket, address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket),
        // Not what it says of a process: there is no free local port.
        Err(Errno::AGAIN) => Err(Errno::ADDRNOTAVAIL),
        Err(error) => Err(error),
    }
}

fn connected(socket: OwnedFd) -> Result<TcpStream, Failure> {
    let stream = TcpStream::from(socket);
    // Whole requests are written at once: nothing is gained by waiting for more.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// The first of the attempts that has an answer; `None`: the time is over.
fn answered(attempts: &[OwnedFd], until: Deadline) -> Option<usize> {
    let mut fds: Vec<PollFd> = attempts.iter().map(|socket| PollFd::new(socket, PollFlags::OUT)).collect();
    loop {
        match poll(&mut fds, Some(&timespec(until.remaining()))) {
            Ok(0) => return None,
            Ok(_) => return fds.iter().position(|fd| !fd.revents().is_empty()),
            Err(Errno::INTR) if !until.has_passed() => {}
            Err(_) => return None,
        }
    }
}

/// Of two addresses' failures the one that says more: what the host refused, then that somebody answered.
fn worse(before: Option<Errno>, now: Errno) -> Errno {
    let weight = |errno: Errno| match errno {
        errno if refused(&errno.into()).is_some() => 2,
        Errno::CONNREFUSED => 1,
        _ => 0,
    };
    before.filter(|before| weight(*before) > weight(now)).unwrap_or(now)
}

fn not_connected(errno: Errno) -> Failure {
    let error = std::io::Error::from(errno);
    match (refused(&error), error.kind()) {
        (Some(why), _) => host_busy(why),
        (None, ErrorKind::ConnectionRefused) => {
            Failure::NotSent { why: ErrorKind::ConnectionRefused.to_string(), obstacle: Obstacle::Refused }
        }
        (None, ErrorKind::TimedOut) => Failure::Timeout(Executed::No),
        (None, kind) => Failure::NotSent { why: kind.to_string(), obstacle: Obstacle::Other },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::time::Instant;

    fn first(addresses: &[SocketAddr], within: Duration) -> (Result<SocketAddr, Failure>, Duration) {
        let started = Instant::now();
        let reached = first_to_connect(addresses, Deadline::after(within)).map(|stream| stream.peer_addr().unwrap());
        (reached, started.elapsed())
    }

    /// An address that does not answer: its queue is full. It does for as long as what is returned lives.
    fn silent(ip: &str) -> (SocketAddr, impl Sized) {
        let socket = socket(AddressFamily::INET).unwrap();
        rustix::net::bind(&socket, &format!("{ip}:0").parse::<SocketAddr>().unwrap()).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let address = TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap();
        let waiting: Vec<_> = (0..4).map(|_| begun(&address).unwrap()).collect();
        (address, (socket, waiting))
    }

    fn closed() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[test]
    fn an_address_that_does_not_answer_costs_a_quarter_of_a_second() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = listener.local_addr().unwrap();
        let (silent, _kept) = silent("127.0.0.2");
        let (reached, took) = first(&[silent, good], Duration::from_secs(5));
        assert_eq!(reached, Ok(good));
        assert!((NEXT_ADDRESS..2 * NEXT_ADDRESS).contains(&took), "{took:?}");
        let (reached, took) = first(&[silent, silent, good], Duration::from_secs(5));
        assert_eq!(reached, Ok(good));
        assert!((2 * NEXT_ADDRESS..3 * NEXT_ADDRESS).contains(&took), "{took:?}");
        // What answers first, even with a refusal, is not waited for.
        let (reached, took) = first(&[closed(), good], Duration::from_secs(5));
        assert_eq!(reached, Ok(good));
        assert!(took < NEXT_ADDRESS, "{took:?}");
        let (reached, took) = first(&[silent, closed(), good], Duration::from_secs(5));
        assert_eq!(reached, Ok(good));
        assert!(took < 2 * NEXT_ADDRESS, "{took:?}");
    }

    #[test]
    fn all_addresses_together_have_one_deadline() {
        let (silent, _kept) = silent("127.0.0.3");
        let (reached, took) = first(&[silent; 5], Duration::from_millis(600));
        assert_eq!(reached, Err(Failure::Timeout(Executed::No)));
        assert!((600..900).contains(&took.as_millis()), "{took:?}");
        let (reached, took) = first(&[closed(), silent], Duration::from_millis(300));
        assert_eq!(reached, Err(Failure::Timeout(Executed::No)));
        assert!(took.as_millis() < 600, "{took:?}");
    }

    #[test]
    fn the_failure_that_says_most_is_told() {
        let refused = Failure::NotSent { why: "connection refused".into(), obstacle: Obstacle::Refused };
        let nowhere: SocketAddr = "[100::1]:1".parse().unwrap();
        assert_eq!(first(&[closed(), closed()], Duration::from_secs(5)).0, Err(refused.clone()));
        if begun(&nowhere).is_err() {
            for order in [[nowhere, closed()], [closed(), nowhere]] {
                assert_eq!(first(&order, Duration::from_secs(5)).0, Err(refused.clone()));
            }
        }
        assert_eq!(worse(Some(Errno::MFILE), Errno::CONNREFUSED), Errno::MFILE);
    }

    #[test]
    fn the_families_take_turns() {
        let all = |list: &[&str]| list.iter().map(|text| format!("{text}:1").parse().unwrap()).collect::<Vec<_>>();
        let (six, four) = (["[::1]", "[::2]", "[::3]"], ["127.0.0.1", "127.0.0.2"]);
        let mixed = alternating(all(&[six[0], six[1], six[2], four[0], four[1]]));
        assert_eq!(mixed, all(&[six[0], four[0], six[1], four[1], six[2]]));
        assert_eq!(alternating(all(&[four[0], six[0]])), all(&[four[0], six[0]]));
        assert_eq!(alternating(all(&four)), all(&four));
    }

    #[test]
    fn a_number_is_its_own_address() {
        assert_eq!(addresses("::1", 443, Deadline::after(Duration::ZERO)), Ok(vec!["[::1]:443".parse().unwrap()]));
        assert!(matches!(
            addresses("no-such-host.invalid", 1, Deadline::after(Duration::from_secs(20))),
            Err(Failure::NotSent { obstacle: Obstacle::UnknownHost, .. })
        ));
    }
}
