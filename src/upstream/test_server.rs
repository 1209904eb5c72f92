//! A web server in a portal's place that keeps its connections, and does with each request what a test says.

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const ANSWER: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"result\":1}";

/// What the server does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Answer,
    AnswerThen(End),
    Says(&'static str),
    /// Those words, and the end.
    SaysThen(&'static str, End),
    Silence,
}

/// How a connection ends, for whoever thinks that it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
    /// Something unasked.
    Stray,
    /// Of TLS alone; the TCP connection stays.
    CloseNotify,
    /// In the answer's own packet.
    CloseNotifyAtOnce,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// From 0.
    pub connection: usize,
    pub head: String,
}

pub struct Server {
    pub address: SocketAddr,
    /// Its certificate, PEM; `None` for plain http.
    pub ca_file: Option<PathBuf>,
    seen: Arc<Mutex<Vec<Seen>>>,
    handshakes: Arc<Mutex<Vec<HandshakeKind>>>,
    ended: Receiver<()>,
}

/// What to do with a request, by its connection's number and its own number there, both from 0.
pub type Plan = fn(usize, usize) -> Act;

impl Server {
    pub fn plain(plan: Plan) -> Server {
        Server::start(None, plan)
    }

    pub fn tls(plan: Plan) -> Server {
        Server::start(Some(rustls::DEFAULT_VERSIONS), plan)
    }

    pub fn start(tls: Option<&'static [&'static rustls::SupportedProtocolVersion]>, plan: Plan) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (config, ca_file) = tls.map(certified).unzip();
        let (seen, handshakes) = (Arc::default(), Arc::default());
        let (sender, ended) = channel();
        let server = Server { address, ca_file, seen: Arc::clone(&seen), handshakes: Arc::clone(&handshakes), ended };
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().flatten().enumerate() {
                let (config, seen, handshakes, sender) =
                    (config.clone(), Arc::clone(&seen), Arc::clone(&handshakes), sender.clone());
                std::thread::spawn(move || {
                    let stream = match config {
                        None => Stream::Plain(stream),
                        Some(config) => {
                            let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
                            while tls.conn.is_handshaking() && tls.conn.complete_io(&mut tls.sock).is_ok() {}
                            handshakes.lock().unwrap().extend(tls.conn.handshake_kind());
                            Stream::Tls(Box::new(tls))
                        }
                    };
                    serve(stream, connection, plan, &seen, &sender);
                });
            }
        });
        server
    }

    pub fn url(&self) -> String {
        let scheme = if self.ca_file.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/rest/1/c0dec0de/", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The connections that requests came by.
    pub fn connections(&self) -> Vec<usize> {
        self.seen().iter().map(|seen| seen.connection).collect()
    }

    pub fn handshakes(&self) -> Vec<HandshakeKind> {
        self.handshakes.lock().unwrap().clone()
    }

    /// Until a connection has ended at this side.
    pub fn wait_for_an_end(&self) {
        self.ended.recv_timeout(Duration::from_secs(10)).expect("a connection ends");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ca_file.iter().for_each(|path| drop(std::fs::remove_file(path)));
    }
}

fn certified(versions: &'static [&'static rustls::SupportedProtocolVersion]) -> (Arc<ServerConfig>, PathBuf) {
    let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let path = std::env::temp_dir().join(format!("b24proxy-ca-{}.pem", crate::values::secret::random_hex::<8>()));
    std::fs::write(&path, own.cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    (Arc::new(config), path)
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Stream {
    fn read(&mut self, room: &mut [u8]) -> usize {
        match self {
            Stream::Plain(stream) => stream.read(room),
            Stream::Tls(stream) => stream.read(room),
        }
        .unwrap_or(0)
    }

    fn write(&mut self, bytes: &[u8]) {
        let _ = match self {
            Stream::Plain(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        };
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        }
    }

    fn write_then(&mut self, bytes: &[u8], end: End) {
        match (end, self) {
            (End::CloseNotifyAtOnce, Stream::Tls(stream)) => {
                stream.conn.writer().write_all(bytes).unwrap();
                stream.conn.send_close_notify();
                let mut packet = Vec::new();
                while stream.conn.wants_write() {
                    stream.conn.write_tls(&mut packet).unwrap();
                }
                stream.sock.write_all(&packet).unwrap();
            }
            (End::CloseNotify, Stream::Tls(stream)) => {
                let _ = stream.write_all(bytes).and_then(|()| stream.flush());
                std::thread::sleep(Duration::from_millis(50));
                stream.conn.send_close_notify();
                stream.conn.write_tls(&mut stream.sock).unwrap();
            }
            (_, stream) => {
                stream.write(bytes);
                // The client must have taken the answer before it is asked whether the connection is open.
                std::thread::sleep(Duration::from_millis(50));
                match end {
                    End::Fin => stream.tcp().shutdown(Shutdown::Write).unwrap(),
                    End::Reset => {
                        rustix::net::sockopt::set_socket_linger(stream.tcp(), Some(Duration::ZERO)).unwrap();
                    }
                    _ => stream.write(b" "),
                }
            }
        }
    }
}

fn serve(mut stream: Stream, connection: usize, plan: Plan, seen: &Mutex<Vec<Seen>>, ended: &Sender<()>) {
    let mut buffer = Vec::new();
    for number in 0.. {
        let Some(head) = request(&mut stream, &mut buffer) else { break };
        seen.lock().unwrap().push(Seen { connection, head });
        let end = match plan(connection, number) {
            Act::Answer => {
                stream.write(ANSWER.as_bytes());
                continue;
            }
            Act::Says(words) => {
                stream.write(words.as_bytes());
                continue;
            }
            Act::Silence => {
                std::thread::sleep(Duration::from_secs(3));
                return;
            }
            Act::AnswerThen(end) => {
                stream.write_then(ANSWER.as_bytes(), end);
                end
            }
            Act::SaysThen(words, end) => {
                stream.write_then(words.as_bytes(), end);
                end
            }
        };
        if end == End::Reset {
            break;
        }
        let _ = ended.send(());
        // Whoever still sends something here has lost it.
        while stream.tcp().read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
        return;
    }
    drop(stream);
    let _ = ended.send(());
}

/// The head of the next request, which has a length.
fn request(stream: &mut Stream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|end| end == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let whole = end + 4 + length.unwrap_or(0);
            if buffer.len() >= whole {
                buffer.drain(..whole);
                return Some(head);
            }
        }
        let mut more = [0; 4096];
        match stream.read(&mut more) {
            0 => return None,
            count => buffer.extend_from_slice(&more[..count]),
        }
    }
}
