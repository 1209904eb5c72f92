//! A listener on 127.0.0.1: a thread for each connection, plain or TLS, that can be stopped (so that
//! connections are refused) and started again on the same port.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::http::{read_request, write_reply, Received, Reply, Request};

/// What answers on a listener.
pub(crate) trait Service: Send + Sync + 'static {
    /// A connection was accepted; nothing has been read. May block. `false` closes it.
    fn connected(&self) -> bool;
    fn answer(&self, request: Request) -> Reply;
    /// Waits; `false` when the simulator is being shut down.
    fn pause(&self, duration: Duration) -> bool;
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
        match &self.tls {
            None => self.requests(&mut &*stream).map(|_| ()),
            Some(config) => {
                let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
                let mut tls = StreamOwned::new(connection, stream);
                if self.requests(&mut tls)? {
                    tls.conn.send_close_notify();
                    tls.flush()?;
                }
                Ok(())
            }
        }
    }

    /// `true` where the connection ended in good order.
    fn requests(&self, stream: &mut (impl Read + Write)) -> io::Result<bool> {
        let mut buffer = Vec::new();
        let pause = |duration| self.service.pause(duration);
        loop {
            let request = match read_request(stream, &mut buffer)? {
                Received::Request(request) => request,
                Received::Bad(status) => {
                    let reply = Reply::html(status, "<html><body>nginx</body></html>");
                    write_reply(stream, &reply, false, true, &pause)?;
                    return Ok(true);
                }
                Received::Closed => return Ok(true),
            };
            let close = request.wants_close();
            let head_only = request.method == "HEAD";
            let reply = self.service.answer(request);
            if !write_reply(stream, &reply, head_only, close, &pause)? {
                return Ok(close);
            }
        }
    }
}

/// A lock is kept usable after a panic elsewhere: one failed test must not fail the others.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
