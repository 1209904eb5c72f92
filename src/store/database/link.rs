//! This process's one connection to the database: made when it is needed, renewed when it is lost, let go when nothing needs it.

use super::lease::RENEW;
use super::statements::{Answer, Opened, Statements};

use crate::system::clock::unix_now_ms;
use crate::system::disk::Reason;
use crate::system::refusal::refused;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A connection is not used for longer: what stands between may forget it, and another server may have the database's name.
const OLD: Duration = Duration::from_secs(600);
/// The stack of the thread that renews a lease.
const STACK: usize = 512 << 10;

pub type Connect = Box<dyn Fn() -> Answer<Opened> + Send + Sync>;

pub struct Link {
    connect: Connect,
    open: Mutex<Option<Open>>,
    /// What the database's clock said at some moment.
    clock: Mutex<Option<(Instant, i64)>>,
    /// Whether this process serves more than one request.
    stays: bool,
    /// Open locks and keys.
    users: AtomicUsize,
}

struct Open {
    statements: Box<dyn Statements>,
    since: Instant,
}

impl Link {
    pub fn new(connect: Connect, stays: bool) -> Link {
        Link { connect, open: Mutex::default(), clock: Mutex::default(), stays, users: AtomicUsize::new(0) }
    }

    /// Asks, and once more by a new connection where the first was lost: every statement says itself whether it has been done.
    pub fn ask<T>(&self, mut question: impl FnMut(&mut dyn Statements) -> Answer<T>) -> Result<T, Reason> {
        self.asked(&mut locked(&self.open), &mut question)
    }

    /// The same, if no other thread asks just now.
    pub fn try_ask<T>(&self, mut question: impl FnMut(&mut dyn Statements) -> Answer<T>) -> Option<T> {
        let mut open = self.open.try_lock().ok()?;
        self.asked(&mut open, &mut question).ok()
    }

    fn asked<T>(
        &self,
        open: &mut Option<Open>,
        question: &mut dyn FnMut(&mut dyn Statements) -> Answer<T>,
    ) -> Result<T, Reason> {
        let mut again = true;
        loop {
            let connection = match open.take().filter(|open| open.since.elapsed() < OLD) {
                Some(connection) => connection,
                None => self.opened().map_err(|failed| failed.why)?,
            };
            let connection = open.insert(connection);
            let failed = match question(&mut *connection.statements) {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            *open = None;
            if !std::mem::replace(&mut again, false) || !failed.again {
                return Err(failed.why);
            }
        }
    }

    fn opened(&self) -> Answer<Open> {
        let Opened { statements, now_ms } = (self.connect)()?;
        let since = Instant::now();
        *locked(&self.clock) = Some((since, now_ms));
        Ok(Open { statements, since })
    }

    /// By the database's clock; where that cannot be asked, by this machine's: whoever needs more than the time hears of it.
    pub fn now_ms(&self) -> i64 {
        let known = || locked(&self.clock).map(|(then, ms)| ms.saturating_add_unsigned(milliseconds(then.elapsed())));
        known().or_else(|| self.ask(|_| Ok(())).ok().and_then(|()| known())).unwrap_or_else(unix_now_ms)
    }

    /// Nothing is asked for a while. A process that serves one request gives its place at the server to others.
    pub fn rest(&self) {
        if !self.stays && self.users.load(Ordering::SeqCst) == 0 {
            *locked(&self.open) = None;
        }
    }

    /// Whoever needs the connection while the program does other things.
    pub fn used(self: &Arc<Self>) -> Use {
        self.users.fetch_add(1, Ordering::SeqCst);
        Use(self.clone())
    }
}

pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct Use(Arc<Link>);

impl Drop for Use {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Renews a lease until it is dropped, or the lease is another's.
pub struct Renewal {
    /// Its end is what the thread hears.
    _stop: Sender<()>,
}

impl Renewal {
    pub fn start(
        link: &Arc<Link>,
        mut renew: impl FnMut(&mut dyn Statements) -> Answer<bool> + Send + 'static,
    ) -> Result<Renewal, Reason> {
        let (stop, stopped) = channel::<()>();
        let link = link.clone();
        let renewing = move || {
            while stopped.recv_timeout(RENEW) == Err(RecvTimeoutError::Timeout) {
                if link.ask(&mut renew) == Ok(false) {
                    return;
                }
            }
        };
        match std::thread::Builder::new().stack_size(STACK).spawn(renewing) {
            Ok(_) => Ok(Renewal { _stop: stop }),
            Err(error) => {
                let why = refused(&error).map_or_else(|| error.to_string(), str::to_owned);
                Err(format!("the thread that renews a lease cannot be started: {why}"))
            }
        }
    }
}
