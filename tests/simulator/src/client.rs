//! A small HTTP client (no TLS), for what Bitrix24's server itself sends.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What a handler answered.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// POSTs a form to an `http://` address.
pub(crate) fn post_form(url: &str, form: &str) -> io::Result<HttpAnswer> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("not http: {url}"));
    let rest = url.strip_prefix("http://").ok_or_else(invalid)?;
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, target) = rest.split_at(at);
    let slash = if target.starts_with('/') { "" } else { "/" };
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let request = format!(
        "POST {slash}{target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Bitrix24 Webhook Engine\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{form}",
        form.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    // A server may answer and reset before it has read all.
    if let Err(error) = stream.read_to_end(&mut bytes) {
        if bytes.is_empty() {
            return Err(error);
        }
    }
    parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer"))
}

fn parse(bytes: &[u8]) -> Option<HttpAnswer> {
    let split = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> =
        lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_owned(), v.trim().to_owned())).collect();
    let body = &bytes[split + 4..];
    let chunked =
        headers.iter().any(|(n, v)| n.eq_ignore_ascii_case("transfer-encoding") && v.eq_ignore_ascii_case("chunked"));
    let body = if chunked { unchunk(body) } else { body.to_vec() };
    Some(HttpAnswer { status, headers, body })
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        let digits = line.split(';').next().unwrap_or_default().trim();
        match usize::from_str_radix(digits, 16) {
            Ok(size) if size > 0 && rest.len() >= end + 4 + size => {
                body.extend_from_slice(&rest[end + 2..end + 2 + size]);
                rest = &rest[end + 4 + size..];
            }
            _ => break,
        }
    }
    body
}
