//! How far a request has come: whether anything of it was sent, and whether anything of its answer has come.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

thread_local! {
    /// A request is made by one thread from its beginning to its end, whatever connection it finds.
    static PROGRESS: Cell<Progress> = const { Cell::new(Progress { sent: None, heard: false }) };
}

/// Whether anything was sent since the program began, or the request that it serves now.
static HAS_SENT: AtomicBool = AtomicBool::new(false);

/// Whether anything may have reached a portal or the OAuth server, for who must say it when all else is lost.
pub fn has_sent() -> bool {
    HAS_SENT.load(Ordering::SeqCst)
}

/// Another request is served from here on, in a process that serves many: nothing was sent for it.
pub fn begin_request() {
    HAS_SENT.store(false, Ordering::SeqCst);
}

/// Of this thread's current request to a portal or the OAuth server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// By what connection something was sent, if anything was.
    pub sent: Option<Connection>,
    /// Something of the answer has come.
    pub heard: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    New,
    /// It has served a request before, and may have been closed since.
    Kept,
}

impl Progress {
    pub fn begin() {
        PROGRESS.set(Progress::default());
    }

    pub fn now() -> Progress {
        PROGRESS.get()
    }
}

/// The last link of `ureq`'s chain: the note of what was sent and has come.
#[derive(Debug)]
pub struct Noting;

impl<In: Transport> Connector<In> for Noting {
    type Out = Noted<In>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        Ok(chained.map(|transport| Noted { transport, connection: Connection::New }))
    }
}

#[derive(Debug)]
pub struct Noted<T> {
    transport: T,
    connection: Connection,
}

impl<T: Transport> Transport for Noted<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.transport.buffers()
    }

    /// From here on the request may have reached the other side, though not a byte may leave.
    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        PROGRESS.set(Progress { sent: Some(self.connection), ..PROGRESS.get() });
        HAS_SENT.store(true, Ordering::SeqCst);
        self.transport.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let some = self.transport.await_input(timeout)?;
        if some {
            PROGRESS.set(Progress { heard: true, ..PROGRESS.get() });
        }
        Ok(some)
    }

    /// Asked when a request has ended, before the connection serves another one.
    fn is_open(&mut self) -> bool {
        self.connection = Connection::Kept;
        self.transport.is_open()
    }

    fn is_tls(&self) -> bool {
        self.transport.is_tls()
    }
}
