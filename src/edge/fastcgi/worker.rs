//! A worker: a process that serves one request after another, each by itself, so that what happens to it happens to one
//! request. It takes connections where the [manager](super::manager) listens, and gives it those to hold that are idle.

use super::channel::{now, report, taken, task, Report, Task, Waiting};
use super::connection::Connection;
use super::current::Current;
use super::events::{Events, Of};
use super::listener::Listener;
use super::resident::Resident;
use super::wire::Wire;
use super::{request, signals};
use crate::edge::environment;
use crate::system::clock::Deadline;
use crate::system::ready::is_ready;
use crate::system::wait;
use rustix::event::PollFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a web server may take from its connection to its request. Then it is idle.
const AT_ONCE: Duration = Duration::from_millis(1);
/// Pause after the host refused what a connection takes.
const AFTER_FAILURE: Duration = Duration::from_millis(10);
/// How long the head of a request may take. A web server has all of it before it sends any.
const HEAD: Duration = Duration::from_secs(10);
/// How long the rest of a body may take that was not wanted.
const REST: Duration = Duration::from_secs(1);
/// After so long without a request, connections to portals are not used any more.
const RESTED: Duration = Duration::from_secs(5);
/// So many requests are served one after another without a look at what else there is.
const MOST_AHEAD: u32 = 32;
/// Whoever has held so much ends with its request: much of what it frees stays with the process.
const MUCH: u64 = 4 << 20;

/// The request that is served has another worker in its place already.
static ASIDE: AtomicBool = AtomicBool::new(false);

pub fn run(at_once: u32) -> ExitCode {
    match Worker::new(at_once) {
        Some(worker) => {
            worker.run();
            ExitCode::SUCCESS
        }
        // The manager has gone, or the host refuses what a worker takes.
        None => ExitCode::FAILURE,
    }
}

struct Worker {
    channel: Arc<OwnedFd>,
    listener: Listener,
    queue: OwnedFd,
    /// It is waited for among the events.
    _told_to_end: UnixStream,
    events: Events,
    at_once: u32,
    resident: Resident,
    current: Current,
    /// A connection on which the web server may send more.
    kept: Option<OwnedFd>,
    /// What the manager knows of the configuration.
    reported: Option<u32>,
    /// It takes no more.
    is_leaving: bool,
}

impl Worker {
    fn new(at_once: u32) -> Option<Worker> {
        let variables = environment::take();
        let channel = Arc::new(std::io::stdin().as_fd().try_clone_to_owned().ok()?);
        let (Task::Listener(socket), Task::Queue(queue)) = (task(&*channel)?, task(&*channel)?) else { return None };
        let listener = Listener::of(socket, variables.text("FCGI_WEB_SERVER_ADDRS")).ok()?;
        let told_to_end = signals::told_to_end().ok()?;
        let events = Events::new().ok()?;
        events.add(Of::Channel, &*channel).ok()?;
        events.add(Of::Signal, &told_to_end).ok()?;
        events.add(Of::Queue, &queue).ok()?;
        events.add(Of::Listener, listener.socket()).ok()?;
        stand_aside_by(channel.clone());
        Some(Worker {
            channel,
            listener,
            queue,
            _told_to_end: told_to_end,
            events,
            at_once,
            resident: Resident::new(&variables),
            current: Current::install(),
            kept: None,
            reported: None,
            is_leaving: false,
        })
    }

    fn run(mut self) {
        // How many workers there should be stands in the configuration; one that cannot be used is told to who asks.
        let _ = self.resident.app(None);
        let (mut rest, mut ahead) = (Some(RESTED), 0);
        loop {
            self.report();
            if self.is_leaving {
                match self.last() {
                    Some((connection, arrived)) => self.serve(connection, arrived, Duration::ZERO),
                    None => return,
                }
                continue;
            }
            // Who makes a connection for each request makes the next one at once; what else there is to hear is heard soon.
            if self.kept.is_none() && ahead < MOST_AHEAD {
                if let Ok(Some(connection)) = self.listener.accept() {
                    ahead += 1;
                    self.serve(connection, Instant::now(), AT_ONCE);
                    continue;
                }
            }
            ahead = 0;
            let of = self.events.wait(rest.take());
            rest = of.map(|_| RESTED);
            match of {
                None => self.resident.rest(),
                Some(Of::Signal) => self.is_leaving = true,
                // All that the manager has to say it says when it is asked.
                Some(Of::Channel) => self.is_leaving = true,
                Some(Of::Kept) => {
                    if let Some(connection) = self.unkept() {
                        self.serve(connection, Instant::now(), Duration::ZERO);
                    }
                }
                Some(Of::Queue) => {
                    if let Some((connection, arrived)) = taken(&self.queue).map(arrived) {
                        self.serve(connection, arrived, Duration::ZERO);
                    }
                }
                Some(Of::Listener) => match self.listener.accept() {
                    Ok(Some(connection)) => self.serve(connection, Instant::now(), AT_ONCE),
                    // Another was faster.
                    Ok(None) => {}
                    // The host refuses a descriptor, for now.
                    Err(_) => std::thread::sleep(AFTER_FAILURE),
                },
            }
        }
    }

    /// Tells the manager what it does not know: that this worker serves, from now on or again in its place, and how many
    /// there should be.
    fn report(&mut self) {
        let workers = self.resident.workers();
        if ASIDE.swap(false, Ordering::SeqCst) || self.reported != Some(workers) {
            self.reported = Some(workers);
            self.is_leaving |= report(&*self.channel, &Report::Ready(workers.into())).is_err();
        }
    }

    /// What is served before this worker ends: what has come already. Who comes now is another's.
    fn last(&mut self) -> Option<(OwnedFd, Instant)> {
        let kept = self.unkept();
        if let Some(connection) = kept {
            if is_ready(&connection, PollFlags::IN, Duration::ZERO) {
                return Some((connection, Instant::now()));
            }
            let _ = report(&*self.channel, &Report::Parked(Some(connection)));
        }
        taken(&self.queue).map(arrived)
    }

    /// Serves what comes on this connection within that time; it is kept where it stays.
    fn serve(&mut self, socket: OwnedFd, mut arrived: Instant, mut within: Duration) {
        // Whatever else comes must not wait for this.
        self.park();
        let wire = Arc::new(Wire::new(socket));
        let mut connection = Connection::new(wire.clone(), self.at_once);
        while let Ok(next) = connection.next(std::mem::take(&mut within), Deadline::after(HEAD)) {
            let Some(begun) = next else {
                drop(connection);
                self.keep(wire);
                return;
            };
            let keep = begun.keep;
            let held = request::serve(begun, arrived, &mut connection, &mut self.resident, &self.current);
            self.is_leaving |= held > MUCH;
            if !connection.finish(Deadline::after(REST)) {
                wire.close_gently();
                return;
            }
            if !keep {
                return;
            }
            arrived = Instant::now();
        }
    }

    fn keep(&mut self, wire: Arc<Wire>) {
        if let Ok(socket) = Arc::try_unwrap(wire).map(Wire::into_socket) {
            if self.events.add(Of::Kept, &socket).is_ok() {
                self.kept = Some(socket);
            }
        }
    }

    fn unkept(&mut self) -> Option<OwnedFd> {
        let connection = self.kept.take()?;
        self.events.remove(&connection);
        Some(connection)
    }

    /// The manager looks after the connection that is kept.
    fn park(&mut self) {
        if let Some(connection) = self.unkept() {
            let _ = report(&*self.channel, &Report::Parked(Some(connection)));
        }
    }
}

/// Asks the manager, once a request. Where that has gone there is nobody to ask, and nobody who waits.
fn stand_aside_by(channel: Arc<OwnedFd>) {
    wait::ask_before_waiting(Box::new(move || {
        let may = ASIDE.load(Ordering::SeqCst)
            || match report(&*channel, &Report::Aside) {
                Ok(()) => !matches!(task(&*channel), Some(Task::StandAside(false))),
                Err(_) => true,
            };
        ASIDE.store(may, Ordering::SeqCst);
        may
    }));
}

/// A connection, and when the request on it has come.
fn arrived(Waiting { connection, since }: Waiting) -> (OwnedFd, Instant) {
    let here = Instant::now();
    (connection, here.checked_sub(now().saturating_sub(since)).unwrap_or(here))
}
