//! HTTP to the portals and the OAuth server: `ureq` with rustls and built-in roots, no proxies from the environment, no
//! redirects followed, one deadline for everything, and the knowledge whether anything was sent.

pub use super::failure::{Failure, Obstacle};
use super::kept::{has_plain_end, Chain, Kept, USER_AGENT};
pub use super::progress::{begin_request, has_sent};
use super::progress::{Connection, Progress};
use super::tcp::Dial;
use super::tls::{self, Tls, BUFFER};
use super::unpacked::{content_type, is_type, unpacked, unpacking};
use crate::config::Bitrix24;
use crate::system::clock::Deadline;
use crate::values::error::Executed;
use crate::values::foreign::Answered;
use crate::values::mask::Mask;
use crate::values::oauth_server::OauthServer;
use crate::values::parts::{Part, Parts};
use crate::values::proxy::Proxy;
use std::borrow::Cow;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use ureq::typestate::{WithBody, WithoutBody};

/// For a file: the kernel is asked less often, and a TLS record leaves in one piece.
const FILE_BUFFER: usize = 64 << 10;
/// Room for what a request's head holds beside its address and its own headers.
const HEAD: usize = 1 << 10;
/// Of a field of a file's answer that is passed on, such as its name.
const LONGEST_FIELD: usize = 4 << 10;

/// The clients for all requests. Each is made when it is first needed: building the roots costs time.
pub struct Http {
    connect_timeout: Duration,
    /// Through which everything goes.
    proxy: Option<Proxy>,
    ca_file: Option<PathBuf>,
    /// Whether connections and TLS sessions are kept for the next request.
    keeps: bool,
    with_ca_file: OnceLock<Connections>,
    without: OnceLock<Connections>,
}

impl Http {
    pub fn new(bitrix24: &Bitrix24) -> Http {
        Http {
            proxy: bitrix24.proxy.clone(),
            ca_file: bitrix24.ca_file.clone(),
            ..Http::without_configuration(bitrix24.connect_timeout)
        }
    }

    /// For a process that serves many requests.
    pub fn keeping(bitrix24: &Bitrix24) -> Http {
        Http { keeps: true, ..Http::new(bitrix24) }
    }

    /// With built-in roots alone.
    pub fn without_configuration(connect_timeout: Duration) -> Http {
        let (with_ca_file, without) = (OnceLock::new(), OnceLock::new());
        let (proxy, ca_file, keeps) = (None, None, false);
        Http { connect_timeout, proxy, ca_file, keeps, with_ca_file, without }
    }

    /// For portals, and this program's own public address: built-in roots, and those of `ca_file`.
    pub fn portals(&self) -> Result<&Connections, Failure> {
        match &self.ca_file {
            None => self.bare(),
            Some(path) => self.made(&self.with_ca_file, Some(path)),
        }
    }

    /// For an OAuth server: `ca_file` counts only where it is not one of Bitrix24's own.
    pub fn oauth(&self, server: &OauthServer) -> Result<&Connections, Failure> {
        match server.is_bitrix24s() {
            true => self.bare(),
            false => self.portals(),
        }
    }

    fn bare(&self) -> Result<&Connections, Failure> {
        self.made(&self.without, None)
    }

    /// A failure is not kept: a host that was busy is not busy for ever.
    fn made<'c>(&self, once: &'c OnceLock<Connections>, ca_file: Option<&Path>) -> Result<&'c Connections, Failure> {
        if let Some(connections) = once.get() {
            return Ok(connections);
        }
        let new = Connections::new(ca_file, self.proxy.clone(), self.connect_timeout, self.keeps)?;
        Ok(once.get_or_init(|| new))
    }

    /// Closes what is idle, in a process that rests.
    pub fn let_go(&self) {
        for connections in [self.with_ca_file.get(), self.without.get()].into_iter().flatten() {
            connections.kept.iter().for_each(Kept::let_go);
        }
    }
}

/// For hosts whose certificates the same roots vouch for.
pub struct Connections {
    /// Makes a connection for each request.
    fresh: ureq::Agent,
    kept: Option<Kept>,
    connect_timeout: Duration,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub content_type: Option<String>,
    pub headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    /// An answer from before, of the same request.
    pub fn replayed(status: u16, content_type: String, body: Vec<u8>) -> Reply {
        let mut headers = ureq::http::HeaderMap::new();
        headers.insert("Idempotent-Replayed", ureq::http::HeaderValue::from_static("true"));
        Reply { status, content_type: Some(content_type), headers, body }
    }

    /// Without these secrets. The one place through which every answer passes before anybody sees it.
    pub fn without(mut self, secrets: &Mask) -> Reply {
        self.body = secrets.bytes(self.body);
        self.content_type = self.content_type.map(|text| secrets.text(&text).into_owned());
        hide_in_headers(&mut self.headers, secrets);
        self
    }

    /// For a verdict.
    pub fn answered(&self) -> Answered<'_> {
        let (content_type, body) = (self.content_type.as_deref(), self.body.as_slice());
        Answered { content_type, body, ..heading(self.status, &self.headers) }
    }

    /// In whole seconds, as far as the other side says it so and not for ever.
    pub fn retry_after(&self) -> Option<u64> {
        let seconds: u64 = self.headers.get("Retry-After")?.to_str().ok()?.trim().parse().ok()?;
        Some(seconds.clamp(1, 86_400))
    }

    pub fn is_replayed(&self) -> bool {
        self.headers.contains_key("Idempotent-Replayed")
    }
}

/// A file on its way: what its answer says, and the bytes that are still to come.
pub struct Download {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    /// As announced.
    pub length: Option<u64>,
    pub reader: Box<dyn Read + Send>,
}

/// What the head of an answer says of it.
fn heading(status: u16, headers: &ureq::http::HeaderMap) -> Answered<'_> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let encoding = headers.get("Content-Encoding").map(|value| value.to_str().unwrap_or("something unreadable"));
    Answered { status, content_type: text("Content-Type"), encoding, location: text("Location"), body: &[] }
}

fn hide_in_headers(headers: &mut ureq::http::HeaderMap, secrets: &Mask) {
    for value in headers.values_mut() {
        if let Cow::Owned(masked) = secrets.text(value.to_str().unwrap_or_default()) {
            *value = ureq::http::HeaderValue::try_from(masked).unwrap_or(ureq::http::HeaderValue::from_static(""));
        }
    }
}

impl Download {
    /// Without these secrets in its head; the file itself passes as it is.
    pub fn without(mut self, secrets: &Mask) -> Download {
        hide_in_headers(&mut self.headers, secrets);
        self
    }

    /// A field that is not too long to be passed on: a web server takes 8 KiB at most.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok().filter(|value| value.len() <= LONGEST_FIELD)
    }

    pub fn content_type(&self) -> Option<&str> {
        self.header("Content-Type").filter(|text| is_type(text))
    }

    /// Its head, for a verdict.
    pub fn answered(&self) -> Answered<'_> {
        heading(self.status, &self.headers)
    }

    /// With its first bytes here, so that a file of which nothing comes is told as that.
    pub fn begun(mut self) -> Result<Download, Failure> {
        let mut first = vec![0; BUFFER];
        let count = self.reader.read(&mut first).map_err(|error| unread(&error))?;
        first.truncate(count);
        self.reader = Box::new(Cursor::new(first).chain(self.reader));
        Ok(self)
    }
}

/// What is posted: the parts of the body one after another, so that a large one is not copied.
pub struct Post<'a> {
    pub url: &'a str,
    pub content_type: &'a str,
    pub headers: &'a [(&'static str, &'a str)],
    pub parts: &'a [Part<'a>],
    pub deadline: Deadline,
    pub max_response: u64,
    /// What the answer must not show.
    pub hide: &'a Mask,
}

impl Post<'_> {
    /// Of its body.
    fn length(&self) -> u64 {
        self.parts.iter().map(Part::length).sum()
    }
}

impl Connections {
    fn new(
        ca_file: Option<&Path>,
        proxy: Option<Proxy>,
        connect_timeout: Duration,
        keeps: bool,
    ) -> Result<Connections, Failure> {
        let dial = Dial { proxy, user_agent: USER_AGENT };
        let chain = Chain { dial, tls: Tls { config: Arc::new(tls::config(ca_file, keeps)?) } };
        Ok(Connections { fresh: chain.fresh(), kept: keeps.then(|| Kept::new(chain)), connect_timeout })
    }

    /// By a new connection.
    pub fn post(&self, post: &Post) -> Result<Reply, Failure> {
        self.post_fresh(post, Some(post.length()))
    }

    /// A post without a length, in chunked coding.
    pub fn post_chunked(&self, post: &Post) -> Result<Reply, Failure> {
        self.post_fresh(post, None)
    }

    fn post_fresh(&self, post: &Post, length: Option<u64>) -> Result<Reply, Failure> {
        let request = closing(posting(&self.fresh, post, length));
        whole(self.sent(request, post, output_buffer(post, length))?, post)
    }

    /// By a kept connection, or a new one that is kept then, where this process keeps any.
    pub fn post_kept(&self, post: &Post) -> Result<Reply, Failure> {
        let Some(kept) = &self.kept else { return self.post(post) };
        let length = Some(post.length());
        // With another size than the client's own `ureq` neither takes nor keeps a connection: only where there is need.
        let room = output_buffer(post, length).max(BUFFER);
        let response = self.sent(posting(&kept.agent(), post, length), post, room)?;
        if !has_plain_end(response.status(), response.headers()) {
            kept.let_go();
        }
        whole(response, post)
    }

    /// The answer's head. `room`: for what is sent at once.
    fn sent(
        &self,
        request: ureq::RequestBuilder<WithBody>,
        post: &Post,
        room: usize,
    ) -> Result<ureq::http::Response<ureq::Body>, Failure> {
        Progress::begin();
        let mut reader = Parts::of(post.parts);
        let connect = self.connect_timeout.min(post.deadline.remaining());
        request
            .config()
            .timeout_global(Some(post.deadline.remaining()))
            .timeout_connect(Some(connect))
            .output_buffer_size(room)
            .build()
            .send(ureq::SendBody::from_reader(&mut reader))
            .map_err(|error| failure(&error))
    }

    /// Asks for a file, which is read while it is passed on. `pause`: how long to wait for the first byte, and for each after
    /// a pause.
    pub fn open(&self, url: &str, headers: &[(&'static str, &str)], pause: Duration) -> Result<Download, Failure> {
        Progress::begin();
        let response = self.in_pieces(self.getting(url, headers), pause).call().map_err(|error| failure(&error))?;
        let (mut head, body) = response.into_parts();
        let length = body.content_length();
        let reader = Box::new(body.into_with_config().limit(u64::MAX).reader());
        let status = head.status.as_u16();
        // Of a part of a packed file nothing can be unpacked.
        let (reader, differs) = if status == 206 { (reader as _, false) } else { unpacking(&mut head.headers, reader) };
        Ok(Download { status, headers: head.headers, length: length.filter(|_| !differs), reader })
    }

    /// Sends a body that is read while it is sent. `length`: its bytes, where they are known.
    pub fn upload(
        &self,
        post: &Post,
        body: &mut dyn Read,
        length: Option<u64>,
        pause: Duration,
    ) -> Result<Reply, Failure> {
        Progress::begin();
        let response = self
            .in_pieces(closing(posting(&self.fresh, post, length)), pause)
            .config()
            .output_buffer_size(output_buffer(post, None).max(FILE_BUFFER))
            .build()
            .send(ureq::SendBody::from_reader(&mut ForUpload(body)))
            .map_err(|error| failure(&error))?;
        Ok(read(response, post.max_response)?.without(post.hide))
    }

    fn getting(&self, url: &str, headers: &[(&'static str, &str)]) -> ureq::RequestBuilder<WithoutBody> {
        closing(with_headers(self.fresh.get(url), headers))
    }

    /// A file's request: bounded in its pauses, not in total.
    fn in_pieces<B>(&self, request: ureq::RequestBuilder<B>, pause: Duration) -> ureq::RequestBuilder<B> {
        let connect = self.connect_timeout.min(pause);
        request
            .config()
            .timeout_connect(Some(connect))
            .timeout_recv_response(Some(pause))
            .timeout_per_read(Some(pause))
            .timeout_per_write(Some(pause))
            .input_buffer_size(FILE_BUFFER)
            .build()
    }

    /// Looks at an address: what it answers, and of a long body the first `max_response` bytes.
    pub fn get(
        &self,
        url: &str,
        headers: &[(&'static str, &str)],
        deadline: Deadline,
        max_response: u64,
    ) -> Result<Reply, Failure> {
        self.look(self.getting(url, headers), deadline, max_response)
    }

    /// Looks at what an address answers without its body.
    pub fn head(&self, url: &str, deadline: Deadline) -> Result<Reply, Failure> {
        self.look(closing(self.fresh.head(url)), deadline, 0)
    }

    fn look(
        &self,
        request: ureq::RequestBuilder<WithoutBody>,
        deadline: Deadline,
        max_response: u64,
    ) -> Result<Reply, Failure> {
        Progress::begin();
        let connect = self.connect_timeout.min(deadline.remaining());
        let response = request
            .config()
            .timeout_global(Some(deadline.remaining()))
            .timeout_connect(Some(connect))
            .build()
            .call()
            .map_err(|error| failure(&error))?;
        read(response, max_response)
    }
}

fn posting(agent: &ureq::Agent, post: &Post, length: Option<u64>) -> ureq::RequestBuilder<WithBody> {
    let mut request = agent.post(post.url).header("Content-Type", post.content_type);
    if let Some(length) = length {
        request = request.header("Content-Length", length.to_string());
    }
    with_headers(request, post.headers)
}

/// For one connection, which is not kept.
fn closing<B>(request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
    request.header("Connection", "close")
}

fn with_headers<B>(request: ureq::RequestBuilder<B>, headers: &[(&'static str, &str)]) -> ureq::RequestBuilder<B> {
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

/// The answer to a call.
fn whole(response: ureq::http::Response<ureq::Body>, post: &Post) -> Result<Reply, Failure> {
    let reply = read(response, post.max_response + 1)?;
    if reply.body.len() as u64 > post.max_response {
        return Err(Failure::TooLarge);
    }
    Ok(reply.without(post.hide))
}

/// The answer, at most so many bytes of it.
fn read(mut response: ureq::http::Response<ureq::Body>, most: u64) -> Result<Reply, Failure> {
    let mut body = Vec::new();
    if let Some(length) = response.body().content_length() {
        // Without growing at the end, which is seen by a read that finds nothing.
        let _ = body.try_reserve_exact(usize::try_from(length.min(most)).unwrap_or(0) + 32);
    }
    response.body_mut().as_reader().take(most).read_to_end(&mut body).map_err(|error| unread(&error))?;
    let mut headers = response.headers().clone();
    let body = unpacked(&mut headers, body, most);
    Ok(Reply { status: response.status().as_u16(), content_type: content_type(&headers, &body), headers, body })
}

/// Why no more of a body can be read.
fn unread(error: &std::io::Error) -> Failure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
        Some(inner) => failure(inner),
        None => Failure::Lost { why: error.kind().to_string(), stale: false },
    }
}

/// The texts are made here: `ureq` may show the address, which can hold a webhook's code.
fn failure(error: &ureq::Error) -> Failure {
    let sent = Progress::now().sent.is_some();
    let not_sent = |why: String, obstacle| Failure::NotSent { why, obstacle };
    let why = match error {
        ureq::Error::Timeout(_) if sent => return Failure::Timeout(Executed::Unknown),
        ureq::Error::Timeout(_) => return Failure::Timeout(Executed::No),
        ureq::Error::Other(other) if other.is::<Failure>() => {
            return other.downcast_ref::<Failure>().expect("it was looked at").clone()
        }
        ureq::Error::Rustls(error) if !sent => return tls::explain(error),
        ureq::Error::Io(error) if !sent => {
            if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                return tls::explain(tls);
            }
            if let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
                return failure(inner);
            }
            return not_sent(closed(error), Obstacle::Other);
        }
        ureq::Error::Io(error) => match error.get_ref() {
            Some(inner) if matches!(inner.downcast_ref(), Some(ureq::Error::Timeout(_))) => {
                return Failure::Timeout(Executed::Unknown)
            }
            Some(inner) if inner.is::<rustls::Error>() => in_words(inner.downcast_ref().expect("it was looked at")),
            _ => closed(error),
        },
        ureq::Error::ConnectionFailed => "no connection".into(),
        ureq::Error::Rustls(error) => in_words(error),
        _ => "the answer is not HTTP".into(),
    };
    if sent {
        Failure::Lost { why, stale: is_stale(error, Progress::now()) }
    } else {
        not_sent(why, Obstacle::Other)
    }
}

/// Whether a kept connection was closed before any byte of the answer came: perhaps before the request was there.
fn is_stale(error: &ureq::Error, progress: Progress) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let closed = matches!(error, ureq::Error::Io(error)
        if matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe));
    closed && progress == Progress { sent: Some(Connection::Kept), heard: false }
}

fn closed(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "it closed the connection".into(),
        kind => kind.to_string(),
    }
}

/// Why a TLS connection ended.
fn in_words(error: &rustls::Error) -> String {
    match tls::explain(error) {
        Failure::NotSent { why, .. } => why,
        other => other.text(),
    }
}

/// Room for the whole request, but for a long body; a page of memory is enough for most. `ureq` writes the line with the
/// address in one piece, which must find room.
fn output_buffer(post: &Post, length: Option<u64>) -> usize {
    let headers: usize = post.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let head = HEAD + post.url.len() + post.content_type.len() + headers;
    let body = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(BUFFER);
    head.saturating_add(body).min(BUFFER).max(head)
}

/// `ureq` takes a reader of a known size.
struct ForUpload<'r>(&'r mut dyn Read);

impl Read for ForUpload<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn ca_file_is_not_even_opened_for_bitrix24s_own_oauth_servers() {
        let text = "[bitrix24]\nca_file = \"no-such-file.pem\"\n";
        let http = || Http::new(&Config::parse(text, Path::new("/nowhere/proxy.toml")).unwrap().bitrix24);
        let asked = |address: &str| http().oauth(&OauthServer::parse(address).unwrap()).map(|_| ());
        for own in ["https://oauth.bitrix.info", "https://OAUTH.bitrix.info/", "https://oauth.bitrix24.tech"] {
            assert!(asked(own).is_ok(), "{own}");
        }
        for other in ["https://oauth.example.org", "https://oauth.bitrix24.tech:8443"] {
            assert!(asked(other).is_err(), "{other}");
        }
        assert!(http().portals().is_err());
    }

    #[test]
    fn what_could_not_be_made_once_is_tried_again() {
        let path = std::env::temp_dir().join(format!("b24proxy-roots-{}", crate::values::secret::random_hex::<8>()));
        let text = format!("[bitrix24]\nca_file = {path:?}\n");
        let http = Http::keeping(&Config::parse(&text, Path::new("/nowhere/proxy.toml")).unwrap().bitrix24);
        assert!(http.portals().is_err());
        let own = rcgen::generate_simple_self_signed(vec!["acme.bitrix24.ru".to_owned()]).unwrap();
        std::fs::write(&path, own.cert.pem()).unwrap();
        assert!(http.portals().is_ok());
        std::fs::remove_file(&path).unwrap();
        assert!(http.portals().is_ok(), "made once");
    }
}
