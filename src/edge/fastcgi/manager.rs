//! The manager: how many workers there are, what becomes of connections that are idle, and when all of it ends. Requests do not
//! pass through it.

use super::channel::{now, offer, pair, queue, reported, taken, tell, Report, Task, Waiting};
use super::listener::Listener;
use super::successor::Successor;
use crate::system::disk::own_executable;
use crate::system::process::bequeath_nothing;
use crate::system::ready::timespec;
use crate::values::listening::{Listening, WORKER};
use rustix::event::{poll, PollFd, PollFlags};
use rustix::net::{shutdown, Shutdown};
use rustix::process::{getrlimit, wait, Resource, WaitOptions};
use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Workers where nobody has said how many.
const WORKERS: u32 = 8;
/// So many requests may wait or pass a file on beside those that the workers serve.
const MOST_ASIDE: usize = 64;
/// So many connections are held, and no more than a quarter of the descriptors that this process may have.
const MOST_HELD: usize = 512;
/// How often is looked after what nothing tells: requests that no worker takes, another executable.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after a worker could not be started, or ended before it was ready.
const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// How long what is on its way is still taken when this program is told to end.
const LAST: Duration = Duration::from_millis(200);

pub struct Manager {
    listener: Listener,
    /// How many workers there should be.
    wanted: u32,
    /// The configuration does not change that.
    is_fixed: bool,
    /// That, or what the configuration says.
    is_known: bool,
    workers: Vec<Worker>,
    /// From which all workers take what has waited.
    queue: (OwnedFd, OwnedFd),
    /// Connections on which nothing more has come yet; the longest idle ones first.
    idle: VecDeque<OwnedFd>,
    /// Those for which there was no room in the queue.
    waiting: VecDeque<Waiting>,
    /// So many of both.
    most_held: usize,
    /// There is no room in the queue.
    is_full: bool,
    told_to_end: UnixStream,
    /// Since when it is told to end.
    ending: Option<Instant>,
    /// What was on its way then has been taken.
    is_over: bool,
    successor: Successor,
    looked: Instant,
    /// No worker is started before.
    not_before: Instant,
}

struct Worker {
    channel: OwnedFd,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Starting,
    Serving,
    /// Its request waits or passes a file on.
    Aside,
    /// It ends with its request.
    Leaving,
}

/// What has happened, by places.
#[derive(Default)]
struct Happened {
    told_to_end: bool,
    workers: Vec<usize>,
    idle: Vec<usize>,
}

impl Manager {
    /// `told_to_end`: becomes readable when this process is.
    pub fn new(listener: Listener, listening: &Listening, told_to_end: UnixStream) -> Result<Manager, String> {
        bequeath_nothing();
        let queue = queue().map_err(|error| format!("there is no queue for requests: {error}"))?;
        let is_inherited = listening.address.is_none();
        let is_fixed = is_inherited || listening.workers.is_some();
        Ok(Manager {
            listener,
            wanted: listening.workers.unwrap_or(if is_inherited { 1 } else { WORKERS }),
            is_fixed,
            is_known: is_fixed,
            workers: Vec::new(),
            queue,
            idle: VecDeque::new(),
            waiting: VecDeque::new(),
            most_held: most_held(),
            is_full: false,
            told_to_end,
            ending: None,
            is_over: false,
            successor: Successor::look_out(),
            looked: Instant::now(),
            not_before: Instant::now(),
        })
    }

    pub fn run(mut self) -> Result<(), String> {
        loop {
            self.keep_workers();
            let happened = self.wait();
            if happened.told_to_end {
                self.listener.hide();
                self.ending = Some(Instant::now());
            }
            // From the last, so that the places of those before it stay.
            happened.workers.iter().rev().for_each(|at| self.hear(*at));
            self.take_up(&happened.idle);
            self.look();
            self.offer();
            self.bury();
            if self.has_ended() {
                return Ok(());
            }
        }
    }

    /// On these connections something has come.
    fn take_up(&mut self, idle: &[usize]) {
        for at in idle.iter().rev() {
            self.waiting.extend(self.idle.remove(*at).map(|connection| Waiting { connection, since: now() }));
        }
    }

    /// To all workers. Where the host lets no more descriptors be on their way, at the next look.
    fn offer(&mut self) {
        self.is_full = false;
        while let Some(waiting) = self.waiting.front() {
            match offer(&self.queue.0, waiting) {
                Ok(true) => drop(self.waiting.pop_front()),
                Ok(false) => {
                    self.is_full = true;
                    return;
                }
                Err(_) => return,
            }
        }
    }

    /// Until something happens.
    fn wait(&self) -> Happened {
        let (workers, idle) = (self.workers.len(), self.idle.len());
        let mut fds = Vec::with_capacity(2 + workers + idle);
        fds.extend(self.workers.iter().map(|worker| PollFd::new(&worker.channel, PollFlags::IN)));
        fds.extend(self.idle.iter().map(|connection| PollFd::new(connection, PollFlags::IN)));
        fds.extend(self.is_full.then(|| PollFd::new(&self.queue.0, PollFlags::OUT)));
        fds.extend(self.ending.is_none().then(|| PollFd::new(&self.told_to_end, PollFlags::IN)));
        if poll(&mut fds, Some(&timespec(self.pause()))).is_err() {
            return Happened::default();
        }
        let has_happened = |at: &usize| !fds[*at].revents().is_empty();
        Happened {
            workers: (0..workers).filter(has_happened).collect(),
            idle: (0..idle).filter(|at| has_happened(&(workers + at))).collect(),
            told_to_end: self.ending.is_none() && has_happened(&(fds.len() - 1)),
        }
    }

    /// How long nothing may happen.
    fn pause(&self) -> Duration {
        let until = |moment: Instant| moment.saturating_duration_since(Instant::now());
        let to_start = (self.not_before > Instant::now()).then(|| until(self.not_before));
        let to_end = self.ending.map(|since| until(since + LAST)).filter(|pause| !pause.is_zero());
        let least = to_start.into_iter().chain(to_end).fold(until(self.looked + LOOK), Duration::min);
        least + Duration::from_millis(1)
    }

    /// What a worker says.
    fn hear(&mut self, at: usize) {
        let aside = self.workers.iter().filter(|worker| worker.state == State::Aside).count();
        let worker = &mut self.workers[at];
        match reported(&worker.channel) {
            Some(Report::Ready(workers)) => {
                self.is_known = true;
                if worker.state != State::Leaving {
                    worker.state = State::Serving;
                }
                if let Some(workers) = u32::try_from(workers).ok().filter(|workers| *workers > 0 && !self.is_fixed) {
                    self.wanted = workers;
                }
                // One that stood aside has another in its place.
                if self.serving() > self.wanted as usize {
                    self.dismiss(at);
                }
            }
            Some(Report::Parked(connection)) => {
                self.idle.extend(connection);
                while self.idle.len() + self.waiting.len() > self.most_held && self.idle.pop_front().is_some() {}
            }
            Some(Report::Aside) => {
                let may = worker.state == State::Leaving || aside < MOST_ASIDE;
                if may && worker.state != State::Leaving {
                    worker.state = State::Aside;
                }
                // Whoever does not hear it has ended.
                let _ = tell(&worker.channel, &Task::StandAside(may));
            }
            None => {
                if worker.state == State::Starting {
                    self.not_before = Instant::now() + AFTER_FAILURE;
                }
                self.workers.remove(at);
            }
        }
    }

    /// It takes nothing more, and ends with what it does.
    fn dismiss(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        worker.state = State::Leaving;
        let _ = shutdown(&worker.channel, Shutdown::Write);
    }

    /// Now and then, at what nothing tells.
    fn look(&mut self) {
        let is_last = !self.is_over && self.ending.is_some_and(|since| since.elapsed() >= LAST);
        if self.looked.elapsed() < LOOK && !is_last {
            return;
        }
        self.looked = Instant::now();
        if self.ending.is_none() {
            self.follow_successor();
        }
        // What all workers are too busy for has waited for a look, more or less. At a socket that stays, others come to whoever
        // takes it over.
        let since = now().saturating_sub(LOOK / 2);
        while self.idle.len() + self.waiting.len() < self.most_held && (self.ending.is_none() || self.listener.is_own())
        {
            match self.listener.accept() {
                Ok(Some(connection)) => self.waiting.push_back(Waiting { connection, since }),
                _ => break,
            }
        }
        if is_last {
            self.idle.clear();
            self.is_over = true;
        }
    }

    /// Another executable in the place of this one goes on in this process. Workers serve what has come to them, and what has
    /// come to connections that are held is theirs before.
    fn follow_successor(&mut self) {
        match self.successor.is_there() {
            Ok(false) => return,
            Ok(true) => {}
            Err(why) => return complain(&format!("the new executable is not followed: {why}")),
        }
        let mut fds: Vec<_> = self.idle.iter().map(|connection| PollFd::new(connection, PollFlags::IN)).collect();
        let _ = poll(&mut fds, Some(&timespec(Duration::ZERO)));
        let come: Vec<usize> = (0..fds.len()).filter(|at| !fds[*at].revents().is_empty()).collect();
        self.take_up(&come);
        self.offer();
        // What finds no room now is followed by a look when it has.
        if self.waiting.is_empty() {
            let why = self.successor.take_over(self.listener.socket());
            complain(&format!("the new executable cannot be followed: {why}"));
        }
    }

    /// As many as there should be.
    fn keep_workers(&mut self) {
        if self.is_over && self.waiting.is_empty() {
            (0..self.workers.len()).for_each(|at| self.dismiss(at));
            return;
        }
        // The first one says how many.
        let most = if self.is_known { self.wanted as usize } else { 1 };
        while self.serving() < most && self.not_before <= Instant::now() {
            self.start_worker();
        }
        while self.serving() > self.wanted as usize {
            let Some(at) = self.workers.iter().rposition(|worker| worker.state == State::Serving) else { return };
            self.dismiss(at);
        }
    }

    /// Those that take requests, or soon do.
    fn serving(&self) -> usize {
        let serves = |worker: &&Worker| matches!(worker.state, State::Starting | State::Serving);
        self.workers.iter().filter(serves).count()
    }

    fn start_worker(&mut self) {
        let started = pair().and_then(|(ours, theirs)| {
            tell(&ours, &Task::Listener(self.listener.socket().try_clone()?))?;
            tell(&ours, &Task::Queue(self.queue.1.try_clone()?))?;
            let mut command = Command::new(own_executable()?);
            // Not what it is found by, which says nothing in a list of processes.
            command.arg0("b24proxy").arg(WORKER).arg(self.wanted.to_string()).env_clear();
            for name in ["B24PROXY_CONFIG", "FCGI_WEB_SERVER_ADDRS", "JOURNAL_STREAM"] {
                command.envs(std::env::var_os(name).map(|value| (name, value)));
            }
            command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).spawn()?;
            Ok(ours)
        });
        match started {
            Ok(channel) => self.workers.push(Worker { channel, state: State::Starting }),
            Err(error) => {
                self.not_before = Instant::now() + AFTER_FAILURE;
                complain(&format!("a worker cannot be started: {error}"));
                // Descriptors that are held, or on their way to nobody, may be what is short.
                if self.workers.is_empty() {
                    self.idle.clear();
                    self.waiting.clear();
                    while taken(&self.queue.1).is_some() {}
                }
            }
        }
    }

    /// Processes that have ended are forgotten by the kernel too, also those of the executable before this one.
    fn bury(&self) {
        while !self.successor.is_tried() && matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
    }

    /// Told to, and nothing is left.
    fn has_ended(&self) -> bool {
        self.is_over && self.workers.is_empty() && self.waiting.is_empty()
    }
}

/// As many connections as may be held.
fn most_held() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok());
    descriptors.map_or(MOST_HELD, |most| MOST_HELD.min(most / 4))
}

/// To the standard error that this process was given: it serves no request.
fn complain(what: &str) {
    let _ = writeln!(std::io::stderr(), "b24proxy: {what}");
}
