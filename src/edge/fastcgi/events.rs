//! What an idle worker waits for. Of several workers that wait for one connection, one wakes up.

use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// What something came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The manager says something, or has ended.
    Channel,
    /// This worker is told to end.
    Signal,
    /// The connection that it has kept.
    Kept,
    /// A connection that has waited.
    Queue,
    /// A new one.
    Listener,
}

const ALL: [Of; 5] = [Of::Channel, Of::Signal, Of::Kept, Of::Queue, Of::Listener];

#[cfg(target_os = "linux")]
pub use linux::Events;
#[cfg(not(target_os = "linux"))]
pub use others::Events;

#[cfg(target_os = "linux")]
mod linux {
    use super::*;
    use crate::system::ready::timespec;
    use rustix::buffer::spare_capacity;
    use rustix::event::epoll;

    pub struct Events(OwnedFd);

    impl Events {
        pub fn new() -> std::io::Result<Events> {
            Ok(Events(epoll::create(epoll::CreateFlags::CLOEXEC)?))
        }

        /// From now on it is waited for.
        pub fn add(&self, of: Of, source: impl AsFd) -> std::io::Result<()> {
            let exclusive = match of {
                Of::Queue | Of::Listener => epoll::EventFlags::EXCLUSIVE,
                Of::Channel | Of::Signal | Of::Kept => epoll::EventFlags::empty(),
            };
            Ok(epoll::add(&self.0, source, epoll::EventData::new_u64(of as u64), epoll::EventFlags::IN | exclusive)?)
        }

        pub fn remove(&self, source: impl AsFd) {
            let _ = epoll::delete(&self.0, source);
        }

        /// The first of what has come, in the order of [`Of`]; `None`: nothing in that time.
        pub fn wait(&self, most: Option<Duration>) -> Option<Of> {
            let mut events = Vec::with_capacity(ALL.len());
            loop {
                match epoll::wait(&self.0, spare_capacity(&mut events), most.map(timespec).as_ref()) {
                    Err(Errno::INTR) => {}
                    // What is broken is seen at once.
                    Err(_) => return Some(Of::Channel),
                    Ok(_) => break,
                }
            }
            ALL.into_iter().find(|of| events.iter().any(|event| event.data.u64() == *of as u64))
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod others {
    use super::*;
    use crate::system::ready::timespec;
    use rustix::event::{poll, PollFd, PollFlags};
    use std::cell::RefCell;

    pub struct Events(RefCell<Vec<(Of, OwnedFd)>>);

    impl Events {
        pub fn new() -> std::io::Result<Events> {
            Ok(Events(RefCell::default()))
        }

        pub fn add(&self, of: Of, source: impl AsFd) -> std::io::Result<()> {
            self.0.borrow_mut().push((of, source.as_fd().try_clone_to_owned()?));
            Ok(())
        }

        pub fn remove(&self, _: impl AsFd) {
            self.0.borrow_mut().retain(|(of, _)| *of != Of::Kept);
        }

        pub fn wait(&self, most: Option<Duration>) -> Option<Of> {
            let sources = self.0.borrow();
            let mut fds: Vec<PollFd> = sources.iter().map(|(_, fd)| PollFd::new(fd, PollFlags::IN)).collect();
            loop {
                match poll(&mut fds, most.map(timespec).as_ref()) {
                    Err(Errno::INTR) => {}
                    Err(_) => return Some(Of::Channel),
                    Ok(_) => break,
                }
            }
            let has_come = |of: &Of| sources.iter().zip(&fds).any(|((is, _), fd)| is == of && !fd.revents().is_empty());
            ALL.into_iter().find(has_come)
        }
    }
}
