//! What the manager and its workers say to each other: short messages with a connection of the web server where it changes its
//! owner. Each worker has a channel to the manager, a pair of sockets of which whoever has ended has closed its side; the
//! queue is one pair for all, from which whoever is idle takes.

use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    recvmsg, sendmsg, socketpair, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::time::{clock_gettime, ClockId};
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// One byte that says what it is, and a number.
const LENGTH: usize = 9;

/// To a worker.
#[derive(Debug)]
pub enum Task {
    /// Take connections from here.
    Listener(OwnedFd),
    /// And those that have waited already from here.
    Queue(OwnedFd),
    /// Whether it may wait, or transfer a file, with another worker in its place.
    StandAside(bool),
}

/// From a worker.
#[derive(Debug)]
pub enum Report {
    /// It serves, from its start on or again in its place. The `workers` of its configuration; 0 where there is none.
    Ready(u64),
    /// The web server may send more on this connection; `None`: it was lost, as this process may have no more descriptors.
    Parked(Option<OwnedFd>),
    /// May it wait, or transfer a file?
    Aside,
}

/// A connection on which a request has come.
pub struct Waiting {
    pub connection: OwnedFd,
    /// When it has, by [`now`].
    pub since: Duration,
}

/// Of this machine's clock, the same in all processes.
pub fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// A channel's two ends. Nothing of them is inherited by whom it is not handed to.
pub fn pair() -> std::io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// The queue: where it is offered to, and where it is taken from. Nobody waits at either.
pub fn queue() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Whether there was room for it; the failure is the host's, which lets only so many descriptors be on their way.
pub fn offer(queue: impl AsFd, waiting: &Waiting) -> std::io::Result<bool> {
    let since = u64::try_from(waiting.since.as_millis()).unwrap_or(u64::MAX);
    match send(queue, b'w', since, Some(waiting.connection.as_fd())) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        sent => sent.map(|()| true),
    }
}

/// What has waited longest, if anything does.
pub fn taken(queue: impl AsFd) -> Option<Waiting> {
    match receive(queue)? {
        (b'w', since, Some(connection)) => Some(Waiting { connection, since: Duration::from_millis(since) }),
        _ => None,
    }
}

pub fn tell(channel: impl AsFd, task: &Task) -> std::io::Result<()> {
    match task {
        Task::Listener(socket) => send(channel, b'l', 0, Some(socket.as_fd())),
        Task::Queue(queue) => send(channel, b'q', 0, Some(queue.as_fd())),
        Task::StandAside(may) => send(channel, b'a', u64::from(*may), None),
    }
}

/// `None`: the other side has ended, or says what nobody says.
pub fn task(channel: impl AsFd) -> Option<Task> {
    match receive(channel)? {
        (b'l', _, Some(socket)) => Some(Task::Listener(socket)),
        (b'q', _, Some(queue)) => Some(Task::Queue(queue)),
        (b'a', may, None) => Some(Task::StandAside(may != 0)),
        _ => None,
    }
}

pub fn report(channel: impl AsFd, report: &Report) -> std::io::Result<()> {
    match report {
        Report::Ready(workers) => send(channel, b'r', *workers, None),
        Report::Parked(connection) => send(channel, b'p', 0, connection.as_ref().map(AsFd::as_fd)),
        Report::Aside => send(channel, b'a', 0, None),
    }
}

/// `None`: the other side has ended, or says what nobody says.
pub fn reported(channel: impl AsFd) -> Option<Report> {
    match receive(channel)? {
        (b'r', workers, None) => Some(Report::Ready(workers)),
        (b'p', _, connection) => Some(Report::Parked(connection)),
        (b'a', _, None) => Some(Report::Aside),
        _ => None,
    }
}

fn send(to: impl AsFd, what: u8, number: u64, connection: Option<BorrowedFd>) -> std::io::Result<()> {
    let mut message = [what; LENGTH];
    message[1..].copy_from_slice(&number.to_be_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let fds = connection.map(|fd| [fd]);
    if let Some(fds) = &fds {
        beside.push(SendAncillaryMessage::ScmRights(fds));
    }
    loop {
        match sendmsg(&to, &[IoSlice::new(&message)], &mut beside, SendFlags::NOSIGNAL) {
            Ok(LENGTH) => return Ok(()),
            Ok(_) => return Err(Errno::MSGSIZE.into()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn receive(from: impl AsFd) -> Option<(u8, u64, Option<OwnedFd>)> {
    let mut message = [0; LENGTH];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(&from, &mut [IoSliceMut::new(&mut message)], &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            received => break received.ok()?,
        }
    };
    let mut connection = None;
    for part in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = part {
            connection = connection.or(fds.last());
        }
    }
    let (what, number) = message.split_first_chunk::<1>()?;
    let number = u64::from_be_bytes(number.try_into().ok()?);
    (received.bytes == LENGTH).then_some((what[0], number, connection))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_said_arrives_with_its_connection() {
        let (manager, worker) = pair().unwrap();
        let (mut server, ours) = UnixStream::pair().unwrap();
        tell(&manager, &Task::Listener(ours.into())).unwrap();
        tell(&manager, &Task::StandAside(true)).unwrap();
        let Some(Task::Listener(connection)) = task(&worker) else { panic!() };
        UnixStream::from(connection).write_all(b"abc").unwrap();
        let mut text = [0; 3];
        server.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"abc");
        assert!(matches!(task(&worker), Some(Task::StandAside(true))));
        report(&worker, &Report::Parked(Some(server.into()))).unwrap();
        report(&worker, &Report::Ready(3)).unwrap();
        report(&worker, &Report::Aside).unwrap();
        drop(worker);
        assert!(matches!(reported(&manager), Some(Report::Parked(Some(_)))));
        assert!(matches!(reported(&manager), Some(Report::Ready(3))));
        assert!(matches!(reported(&manager), Some(Report::Aside)));
        assert!(reported(&manager).is_none(), "its end");
        assert!(tell(&manager, &Task::StandAside(false)).is_err());
    }

    #[test]
    fn what_waits_is_taken_once_and_in_its_order() {
        let (to, from) = queue().unwrap();
        assert!(taken(&from).is_none());
        for since in [1, 2] {
            let (connection, _) = UnixStream::pair().unwrap();
            assert!(offer(&to, &Waiting { connection: connection.into(), since: Duration::from_secs(since) }).unwrap());
        }
        assert_eq!(taken(&from).unwrap().since, Duration::from_secs(1));
        assert_eq!(taken(&from).unwrap().since, Duration::from_secs(2));
        assert!(taken(&from).is_none());
        let (connection, _) = UnixStream::pair().unwrap();
        let waiting = Waiting { connection: connection.into(), since: now() };
        assert!((0..10_000).any(|_| !offer(&to, &waiting).unwrap_or(false)), "it is full one day");
        assert!(now() > Duration::ZERO);
    }
}
