//! A connection through the configured HTTP proxy, by CONNECT (RFC 9110, section 9.3.6), for https and plain http alike: the
//! proxy sees a name and a port, and this host looks up no name but the proxy's.

use super::dial::reach;
use super::failure::{Failure, Obstacle};
use crate::system::clock::Deadline;
use crate::system::ready::is_ready;
use crate::values::proxy::Proxy;
use rustix::event::PollFlags;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

/// Longest head of the proxy's answer.
const MOST_HEAD: usize = 16 << 10;

/// A connection to that host. Whatever fails is told as the proxy's, and nothing was sent.
pub fn through(
    proxy: &Proxy,
    host: &str,
    port: u16,
    user_agent: &str,
    deadline: Deadline,
) -> Result<TcpStream, Failure> {
    let failed = |what: &str| Failure::not_sent(format!("the proxy {proxy} {what}"), Obstacle::Proxy);
    let mut stream = reach(proxy.host(), proxy.port(), deadline).map_err(|failure| match failure {
        Failure::NotSent { why, obstacle } if obstacle != Obstacle::HostBusy => {
            failed(&format!("cannot be reached: {why}"))
        }
        Failure::Timeout(_) => failed("does not accept a connection in time"),
        failure => failure,
    })?;
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: {user_agent}\r\n");
    if let Some(authorization) = proxy.authorization() {
        request.push_str(&format!("Proxy-Authorization: {}\r\n", authorization.expose()));
    }
    request.push_str("\r\n");
    let head = asked(&mut stream, request.as_bytes(), deadline).map_err(|why| failed(&why))?;
    match judged(&head, proxy.password().is_some()) {
        Ok(()) => Ok(stream),
        Err(what) => Err(failed(&format!("{what} (asked for {host}:{port})"))),
    }
}

/// The head of the proxy's answer.
fn asked(stream: &mut TcpStream, request: &[u8], deadline: Deadline) -> Result<Vec<u8>, String> {
    let (mut left, mut head) = (request, Vec::new());
    let mut more = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && !head.windows(2).any(|end| end == b"\n\n") {
        let (flags, done) = match left.is_empty() {
            false => (PollFlags::OUT, stream.write(left)),
            true => (PollFlags::IN, stream.read(&mut more)),
        };
        match done {
            Ok(count) if !left.is_empty() => left = &left[count..],
            Ok(0) => return Err("closed the connection without an answer".into()),
            Ok(count) => head.extend_from_slice(&more[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if !is_ready(&*stream, flags, deadline.remaining()) {
                    return Err("does not answer in time, or the host behind it does not".into());
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("closed the connection: {}", error.kind())),
        }
        if deadline.has_passed() {
            return Err("does not answer in time".into());
        }
        if head.len() > MOST_HEAD {
            return Err("does not answer as an HTTP proxy does".into());
        }
    }
    Ok(head)
}

/// Whether there is a connection now, or what the proxy did. Of its own words nothing is repeated: it may repeat the password.
fn judged(head: &[u8], with_password: bool) -> Result<(), String> {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let version = text.strip_prefix("http/1.").and_then(|rest| rest.split_once(' '));
    let status = version.and_then(|(_, rest)| rest.get(..3)?.parse::<u16>().ok());
    let knows_basic = text.lines().any(|line| line.starts_with("proxy-authenticate:") && line.contains("basic"));
    Err(match status {
        Some(200..300) if text.ends_with("\r\n\r\n") || text.ends_with("\n\n") => return Ok(()),
        Some(407) if !knows_basic => {
            "asks for another authorization than Basic (407): let whoever runs it allow Basic, or this host without it"
                .into()
        }
        Some(407) if with_password => "does not accept this user and password (407)".into(),
        Some(407) => "asks for a user and a password (407): http://user:password@…".into(),
        Some(403 | 405) => format!("does not allow this connection ({})", status.unwrap_or(403)),
        Some(status @ 500..600) => format!("does not reach the host ({status})"),
        Some(status) => format!("answers status {status}"),
        None => "does not answer as an HTTP proxy does".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_answers_is_told_apart() {
        let told = |head: &str, with_password| judged(head.as_bytes(), with_password).err().unwrap_or_default();
        assert_eq!(told("HTTP/1.0 200 Connection established\r\n\r\n", true), "");
        assert_eq!(told("HTTP/1.1 200 OK\r\nX: y\r\n\r\n", true), "");
        assert!(told("HTTP/1.1 200 OK\r\n\r\n<html>", true).contains("status 200"));
        let basic = "HTTP/1.1 407 x\r\nProxy-Authenticate: Negotiate\r\nproxy-authenticate: Basic realm=\"x\"\r\n\r\n";
        assert!(told(basic, true).contains("does not accept this user and password"));
        assert!(told(basic, false).contains("asks for a user and a password"));
        assert!(told("HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\n\r\n", true).contains("another authorization"));
        assert!(told("HTTP/1.1 403 Forbidden\r\n\r\n", true).contains("does not allow"));
        assert!(told("HTTP/1.1 503 x\r\n\r\n", true).contains("does not reach the host (503)"));
        for head in ["SSH-2.0-x\r\n\r\n", "", "HTTP/1.1 \r\n\r\n", "HTTP/2 200\r\n\r\n", "HTTP/1.1 2п0\r\n\r\n"] {
            assert!(told(head, true).contains("as an HTTP proxy"), "{head}");
        }
    }
}
