//! A listener on 127.0.0.1: a thread for each connection, plain or TLS, that can be stopped (so that
//! connections are refused) and started again on the same port.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::http::{read_head, write_reply, Body, Received, Reply, Request, Wait};

/// What answers on a listener.
pub(crate) trait Service: Send + Sync + 'static {
    /// A connection was accepted; nothing has been read. May block. `false` closes it.
    fn connected(&self) -> bool;
    fn answer(&self, request: Request) -> Reply;
    /// Whether the request is answered without its body being held in memory.
    fn streams(&self, _request: &Request) -> bool {
        false
    }
    /// Answers such a request; what it leaves of the body is not read.
    fn answer_stream(&self, request: Request, _body: &mut dyn Read) -> Reply {
        self.answer(request)
    }
    /// `false` when the simulator is being shut down.
    fn wait(&self, wait: &Wait) -> bool;
}

pub(crate) struct Server {
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    service: Arc<dyn Service>,
    running: Mutex<Option<Running>>,
}

struct Running {
    stopping: Arc<AtomicBool>,
    connections: Arc<Connections>,
    thread: JoinHandle<()>,
}

/// The open connections, so that stopping a listener also ends them.
#[derive(Default)]
struct Connections {
    next: AtomicU64,
    open: Mutex<HashMap<u64, TcpStream>>,
}

impl Connections {
    fn add(&self, stream: &TcpStream) -> io::Result<u64> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.open).insert(id, stream.try_clone()?);
        Ok(id)
    }

    fn remove(&self, id: u64) {
        lock(&self.open).remove(&id);
    }

    fn close_all(&self) {
        for (_, stream) in lock(&self.open).drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Server {
    /// Listens at once; `port` 0 takes a free one.
    pub(crate) fn bind(
        port: u16,
        tls: Option<Arc<ServerConfig>>,
        make_service: impl FnOnce(SocketAddr) -> Arc<dyn Service>,
    ) -> io::Result<Server> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let address = listener.local_addr()?;
        let server = Server { address, tls, service: make_service(address), running: Mutex::new(None) };
        server.run(listener);
        Ok(server)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens again after `stop`.
    pub(crate) fn start(&self) -> io::Result<()> {
        if lock(&self.running).is_none() {
            self.run(TcpListener::bind(self.address)?);
        }
        Ok(())
    }

    /// Refuses connections from now on and closes the open ones.
    pub(crate) fn stop(&self) {
        let Some(running) = lock(&self.running).take() else {
            return;
        };
        running.stopping.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
        let _ = running.thread.join();
        running.connections.close_all();
    }

    fn run(&self, listener: TcpListener) {
        let stopping = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Connections::default());
        let worker = Worker { tls: self.tls.clone(), service: self.service.clone(), connections: connections.clone() };
        let stop = stopping.clone();
        let thread = thread::spawn(move || worker.accept(&listener, &stop));
        *lock(&self.running) = Some(Running { stopping, connections, thread });
    }
}

#[derive(Clone)]
struct Worker {
    tls: Option<Arc<ServerConfig>>,
    service: Arc<dyn Service>,
    connections: Arc<Connections>,
}

impl Worker {
    fn accept(self, listener: &TcpListener, stopping: &AtomicBool) {
        loop {
            let accepted = listener.accept();
            if stopping.load(Ordering::SeqCst) {
                return;
            }
            match accepted {
                Ok((stream, _)) => {
                    let worker = self.clone();
                    thread::spawn(move || {
                        // A client that goes away is its own business.
                        let _ = worker.connection(stream);
                    });
                }
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn connection(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let id = self.connections.add(&stream)?;
        let result = self.serve(&stream);
        let _ = stream.shutdown(Shutdown::Both);
        self.connections.remove(id);
        result
    }

    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        if !self.service.connected() {
            return Ok(());
        }
        let end = match &self.tls {
            None => self.requests(&mut &*stream)?,
            Some(config) => {
                let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
                let mut tls = StreamOwned::new(connection, stream);
                let end = self.requests(&mut tls)?;
                if end != End::Abrupt {
                    tls.conn.send_close_notify();
                    tls.flush()?;
                }
                end
            }
        };
        match end {
            End::Unread => linger(stream),
            _ => Ok(()),
        }
    }

    fn requests(&self, stream: &mut (impl Read + Write)) -> io::Result<End> {
        let mut buffer = Vec::new();
        let wait = |wait: &Wait| self.service.wait(wait);
        loop {
            let (mut request, length) = match read_head(stream, &mut buffer)? {
                Received::Head(request, length) => (request, length),
                Received::Bad(status) => {
                    write_reply(stream, &bad(status), false, true, &wait)?;
                    return Ok(End::Orderly);
                }
                Received::Closed => return Ok(End::Orderly),
            };
            let close = request.wants_close();
            let head_only = request.method == "HEAD";
            let mut body = Body::new(stream, &mut buffer, &request, length);
            let reply = if self.service.streams(&request) {
                self.service.answer_stream(request, &mut body)
            } else {
                match body.whole()? {
                    None => return Ok(End::Orderly),
                    Some(Err(status)) => bad(status),
                    Some(Ok(bytes)) => {
                        request.body = bytes;
                        self.service.answer(request)
                    }
                }
            };
            let unread = !body.is_read();
            let goes_on = write_reply(stream, &reply, head_only, close || unread, &wait)?;
            if goes_on {
                continue;
            }
            return Ok(match reply.is_complete() {
                true if unread => End::Unread,
                false if !close => End::Abrupt,
                _ => End::Orderly,
            });
        }
    }
}

/// How a connection ends.
#[derive(PartialEq)]
enum End {
    Orderly,
    /// In the middle of an answer, or without one.
    Abrupt,
    /// Answered before all of the body was read.
    Unread,
}

fn bad(status: u16) -> Reply {
    Reply::html(status, "<html><body>nginx</body></html>")
}

/// As nginx does: what the client still sends is read and thrown away for a while, because a connection that is closed over
/// unread bytes is reset, and the answer may be lost with it.
fn linger(mut stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let until = Instant::now() + Duration::from_secs(5);
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut piece = [0; 16 * 1024];
    while Instant::now() < until && stream.read(&mut piece)? > 0 {}
    Ok(())
}

/// A lock is kept usable after a panic elsewhere: one failed test must not fail the others.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
