//! Callers: each sends one request after another, each on a connection of its own, as 1C does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

pub struct Request<'a> {
    pub address: SocketAddr,
    pub path: &'a str,
    pub token: &'a str,
    pub body: &'a str,
}

/// What some callers together achieved.
pub struct Load {
    pub requests: usize,
    pub per_second: f64,
    pub median: Duration,
}

/// Whether nothing more is to come, as clients decide that (RFC 9112, 6.3): by `Content-Length` or the last chunk. They
/// do not wait until the server closes the connection, which mod_cgid does when the program's process has been reaped.
fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|end| end == b"\r\n\r\n") else { return false };
    let body = &answer[head + 4..];
    let head = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    match header("content-length:").and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => body.len() >= length,
        None => header("transfer-encoding:") == Some("chunked") && body.ends_with(b"\r\n0\r\n\r\n"),
    }
}

impl Request<'_> {
    /// The whole answer, head and body.
    pub fn send(&self) -> std::io::Result<String> {
        let mut socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
            self.path,
            self.token,
            self.body.len(),
            self.body
        );
        socket.write_all(head.as_bytes())?;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while !is_whole(&answer) {
            match socket.read(&mut buffer)? {
                0 => break,
                count => answer.extend_from_slice(&buffer[..count]),
            }
        }
        String::from_utf8(answer).map_err(std::io::Error::other)
    }

    /// So many callers at once, for that long.
    pub fn load(&self, callers: usize, duration: Duration) -> Load {
        let begun = Instant::now();
        let caller = || {
            let mut times = Vec::new();
            while begun.elapsed() < duration {
                let sent = Instant::now();
                let answer = self.send().unwrap_or_else(|error| panic!("{}: {error}", self.path));
                assert!(answer.starts_with("HTTP/1.1 200 "), "{}: {answer:.500}", self.path);
                times.push(sent.elapsed());
            }
            times
        };
        let mut times: Vec<Duration> = thread::scope(|scope| {
            let threads: Vec<_> = (0..callers).map(|_| scope.spawn(caller)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("a caller")).collect()
        });
        let elapsed = begun.elapsed();
        times.sort();
        Load {
            requests: times.len(),
            per_second: times.len() as f64 / elapsed.as_secs_f64(),
            median: times[times.len() / 2],
        }
    }
}
