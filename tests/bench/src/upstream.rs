//! In place of a portal: the least TLS server that answers every POST with the same JSON, a batch and a page of a list in
//! Bitrix24's shape; and a client of the same kind, which shows what an exchange with it costs without any program around it.

use rustls::pki_types::{pem::PemObject, CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// As many connections as there are at once: every resident process keeps one.
const THREADS: usize = 100;

/// Rows of every list, and of a page of it.
pub const ROWS: u64 = 1000;
pub const PAGE: u64 = 50;

const RESULT: &str = r#"{"ID":"1","NAME":"Стол","ACTIVE":"Y","PRICE":"1990.50"}"#;
const TIME: &str = concat!(
    r#"{"start":1763943000.1,"finish":1763943000.2,"duration":0.1,"processing":0.05,"#,
    r#""date_start":"2026-11-24T04:30:00+03:00","date_finish":"2026-11-24T04:30:00+03:00","#,
    r#""operating_reset_at":1763943600,"operating":0.1}"#
);

pub struct Upstream {
    pub port: u16,
}

impl Upstream {
    /// TLS 1.3 with this ECDSA certificate. `tickets`: sends two session tickets after the handshake, as most servers do.
    pub fn start(certificate: &str, key: &str, tickets: bool) -> Upstream {
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring knows TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("the key of the certificate");
        config.send_tls13_tickets = if tickets { 2 } else { 0 };
        let config = Arc::new(config);

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        // "localhost" may mean either; a refused connection would be measured as this program's time.
        let listeners = [Some(listener), TcpListener::bind((Ipv6Addr::LOCALHOST, port)).ok()];
        for listener in listeners.into_iter().flatten() {
            let listener = Arc::new(listener);
            for _ in 0..THREADS {
                let (listener, config) = (listener.clone(), config.clone());
                thread::spawn(move || loop {
                    if let Ok((socket, _)) = listener.accept() {
                        // Whoever breaks off is not our business.
                        let _ = serve(socket, config.clone());
                    }
                });
            }
        }
        Upstream { port }
    }
}

fn serve(socket: TcpStream, config: Arc<ServerConfig>) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, socket));
    while let Some((line, length)) = read_head(&mut stream)? {
        let mut body = Vec::new();
        stream.by_ref().take(length).read_to_end(&mut body)?;
        let answer = answer(&line, &body);
        let head = format!(
            "HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        stream.get_mut().write_all(format!("{head}{answer}").as_bytes())?;
    }
    Ok(())
}

/// To a request whose first line this is.
fn answer(line: &str, body: &[u8]) -> String {
    if line.contains("/batch") {
        return batch(body);
    }
    if !line.contains(".list") {
        return format!(r#"{{"result":{RESULT},"time":{TIME}}}"#);
    }
    let params: Value = serde_json::from_slice(body).unwrap_or_default();
    let (rows, next) = page(params["start"].as_u64().unwrap_or(0));
    let next = next.map(|next| format!(r#","next":{next}"#)).unwrap_or_default();
    format!(r#"{{"result":{rows}{next},"total":{ROWS},"time":{TIME}}}"#)
}

fn batch(body: &[u8]) -> String {
    let params: Value = serde_json::from_slice(body).unwrap_or_default();
    let (mut results, mut totals, mut nexts, mut times) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (name, command) in params["cmd"].as_object().into_iter().flatten() {
        let start = command.as_str().and_then(|command| command.split_once(".list?start="));
        if let Some((_, start)) = start {
            let (rows, next) = page(start.parse().unwrap_or(0));
            results.push(format!(r#""{name}":{rows}"#));
            totals.push(format!(r#""{name}":{ROWS}"#));
            nexts.extend(next.map(|next| format!(r#""{name}":{next}"#)));
        } else {
            results.push(format!(r#""{name}":{RESULT}"#));
        }
        times.push(format!(r#""{name}":{TIME}"#));
    }
    // PHP writes an empty map as a list.
    let [results, totals, nexts, times] = [results, totals, nexts, times].map(|members| match members.is_empty() {
        true => "[]".to_owned(),
        false => format!("{{{}}}", members.join(",")),
    });
    format!(
        r#"{{"result":{{"result":{results},"result_error":[],"result_total":{totals},"result_next":{nexts},"result_time":{times}}},"time":{TIME}}}"#
    )
}

/// The rows that a page begins with, and where the next one begins.
fn page(start: u64) -> (String, Option<u64>) {
    let end = (start + PAGE).min(ROWS);
    let rows: Vec<String> = (start..end).map(|id| RESULT.replacen('1', &(id + 1).to_string(), 1)).collect();
    (format!("[{}]", rows.join(",")), (end < ROWS).then_some(end))
}

/// The first line and the length of the body; `None` at the end of the connection.
fn read_head(stream: &mut impl BufRead) -> std::io::Result<Option<(String, u64)>> {
    let (mut first, mut length) = (String::new(), 0);
    if stream.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
            None if line.trim_end().is_empty() => return Ok(Some((first, length))),
            _ => {}
        }
    }
}

/// Exchanges with the upstream over connections of their own: connecting, handshake, one small call, its answer.
pub fn bare_exchanges(port: u16, ca_pem: &str, count: usize) -> Vec<Duration> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).expect("a certificate")).expect("an authority");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring knows TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut config = config;
    config.resumption = rustls::client::Resumption::disabled();
    let config = Arc::new(config);
    let exchange = || -> std::io::Result<()> {
        let socket = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").expect("a name");
        let connection = ClientConnection::new(config.clone(), name).map_err(std::io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        stream.write_all(b"POST /rest/profile HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")?;
        let mut stream = BufReader::new(stream);
        let (_, length) = read_head(&mut stream)?.ok_or_else(|| std::io::Error::other("no answer"))?;
        std::io::copy(&mut stream.by_ref().take(length), &mut std::io::sink())?;
        Ok(())
    };
    (0..count)
        .map(|_| {
            let begun = Instant::now();
            exchange().expect("the upstream answers");
            begun.elapsed()
        })
        .collect()
}
