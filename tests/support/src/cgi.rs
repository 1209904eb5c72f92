//! The executable as a CGI process, by RFC 3875 and nothing beyond it.
//!
//! The environment holds the variables of the request and `PATH`, nothing else.
//! The answer is read as strictly as the RFC is written: what a web server would
//! perhaps forgive, or turn into a 500, fails the test with a message.
//!
//! With `B24PROXY_TEST_STARTED=fastcgi` the same requests go to a resident process of
//! the sandbox, which is started for the first of them; their answers are read alike.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::processes;
use crate::resident::{self, Exchange};
use crate::Sandbox;

/// How long a request may take before it is killed and the test fails.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Where the executable's address begins.
pub const SCRIPT_NAME: &str = "/cgi-bin/b24proxy";

/// A request. Without anything else it is `GET /cgi-bin/b24proxy`.
#[must_use]
#[derive(Clone)]
pub struct Cgi<'a> {
    sandbox: &'a Sandbox,
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    /// Set (or, with `None`, removed) after all others.
    variables: Vec<(String, Option<OsString>)>,
    body: Vec<u8>,
    content_length: Option<Option<usize>>,
    measure_memory: bool,
    as_cgi: bool,
    as_resident: bool,
    timeout: Duration,
}

impl<'a> Cgi<'a> {
    pub fn new(sandbox: &'a Sandbox) -> Cgi<'a> {
        Cgi {
            sandbox,
            method: "GET".into(),
            path: String::new(),
            query: String::new(),
            headers: Vec::new(),
            variables: Vec::new(),
            body: Vec::new(),
            content_length: None,
            measure_memory: false,
            as_cgi: false,
            as_resident: false,
            timeout: TIMEOUT,
        }
    }

    pub fn method(mut self, method: &str) -> Self {
        self.method = method.into();
        self
    }

    /// What follows the executable's name, decoded: `PATH_INFO`, unless empty.
    pub fn path(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    /// What follows the question mark, as it is. A query without `=` is passed as
    /// arguments, too (RFC 3875, 4.4).
    pub fn query(mut self, query: &str) -> Self {
        self.query = query.into();
        self
    }

    /// A request header, passed as `HTTP_…` (or `CONTENT_TYPE`).
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// Any variable, instead of what it would be.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let value = Some(value.as_ref().to_owned());
        self.variables.push((name.into(), value));
        self
    }

    /// Leaves a variable out.
    pub fn without(mut self, name: &str) -> Self {
        self.variables.push((name.into(), None));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// `POST` of this JSON.
    pub fn json(self, json: impl Into<Vec<u8>>) -> Self {
        self.method("POST").header("Content-Type", "application/json").body(json)
    }

    /// `POST` of this form.
    pub fn form(self, form: &str) -> Self {
        self.method("POST").header("Content-Type", "application/x-www-form-urlencoded").body(form)
    }

    /// A `CONTENT_LENGTH` that differs from the body's, or with `None` no
    /// `CONTENT_LENGTH` at all, as Apache does with a chunked body. Without this
    /// it is the body's length; an empty body has none.
    pub fn content_length(mut self, length: Option<usize>) -> Self {
        self.content_length = Some(length);
        self
    }

    /// In a process of its own, however the tests are run: for what only such a process has (a number, signals, limits, an
    /// environment, arguments).
    pub fn as_cgi(mut self) -> Self {
        self.as_cgi = true;
        self
    }

    /// To a resident process, however the tests are run.
    pub fn as_resident(mut self) -> Self {
        self.as_resident = true;
        self
    }

    /// Fills [`Answer::max_rss`], by GNU time (Debian package `time`); in a process of its own, for a resident one has
    /// memory of other requests, and ends when it likes.
    pub fn measure_memory(mut self) -> Self {
        self.measure_memory = true;
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends the body, ends it, and waits for the answer.
    pub fn run(mut self) -> Answer {
        let body = std::mem::take(&mut self.body);
        if self.content_length.is_none() && !body.is_empty() {
            self.content_length = Some(Some(body.len()));
        }
        let mut running = self.spawn();
        // What the program does not want to read is no error, so the thread may
        // end with a broken pipe; it also ends when the program is killed.
        match &mut running.way {
            Way::Process(process) => {
                let mut stdin = process.stdin.take().expect("standard input is a pipe");
                thread::spawn(move || stdin.write_all(&body));
            }
            Way::Resident(exchange) => {
                let mut stdin = exchange.take_body().expect("the body has not ended");
                thread::spawn(move || stdin.write(&body).map(|()| stdin.end()));
            }
        }
        running.wait()
    }

    /// Starts the program and leaves its standard input open; `body` is not sent,
    /// but counts for `CONTENT_LENGTH`.
    pub fn spawn(self) -> Running {
        let (started, timeout, head) = (Instant::now(), self.timeout, self.method == "HEAD");
        let way = match (resident::is_wanted() || self.as_resident) && !self.as_cgi && !self.measure_memory {
            true => Way::Resident(Exchange::begin(self.sandbox, self.environment(), timeout)),
            false => Way::Process(self.start()),
        };
        Running { way, head, started, deadline: started + timeout }
    }

    fn start(&self) -> Process {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let run = self.sandbox.path().join("run");
        let stderr = run.join(format!("stderr-{number}"));
        let memory = run.join(format!("memory-{number}"));
        let program = self.sandbox.executable();

        let mut command = if self.measure_memory {
            assert!(
                fs::exists("/usr/bin/time").unwrap_or(false),
                "/usr/bin/time is missing: install the Debian package time"
            );
            let mut time = processes::unprivileged("/usr/bin/time");
            time.args(["--quiet", "-f", "%M", "-o"]).arg(&memory).arg(&program);
            time
        } else {
            processes::unprivileged(&program)
        };
        let folder = program.parent().expect("a program lies in a folder");
        command
            .args(arguments(&self.query))
            .envs(self.environment())
            .current_dir(folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A file, so that a detached child that keeps it open holds up nothing.
            .stderr(fs::File::create(&stderr).expect("the sandbox can be written"));
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        let output = read_in_background(child.stdout.take().expect("a pipe"));
        let memory = self.measure_memory.then_some(memory);
        Process { stdin: child.stdin.take(), child, output, stderr, memory }
    }

    /// All variables of the request.
    pub fn environment(&self) -> BTreeMap<String, OsString> {
        let mut uri = format!("{SCRIPT_NAME}{}", encode_path(&self.path));
        if !self.query.is_empty() {
            uri = format!("{uri}?{}", self.query);
        }
        let mut variables = BTreeMap::new();
        let mut set = |name: &str, value: &OsStr| {
            variables.insert(name.to_owned(), value.to_owned());
        };
        for (name, value) in [
            ("PATH", processes::PATH),
            ("GATEWAY_INTERFACE", "CGI/1.1"),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("SERVER_SOFTWARE", "support"),
            ("SERVER_NAME", "www.acme.test"),
            ("SERVER_PORT", "443"),
            ("HTTPS", "on"),
            ("REMOTE_ADDR", "127.0.0.1"),
            ("REQUEST_METHOD", &self.method),
            ("REQUEST_URI", &uri),
            ("SCRIPT_NAME", SCRIPT_NAME),
            ("QUERY_STRING", &self.query),
        ] {
            set(name, value.as_ref());
        }
        set("SCRIPT_FILENAME", self.sandbox.executable().as_os_str());
        set("DOCUMENT_ROOT", self.sandbox.path().join("htdocs").as_os_str());
        if !self.path.is_empty() {
            set("PATH_INFO", self.path.as_ref());
        }
        let length = match self.content_length {
            Some(length) => length,
            None => (!self.body.is_empty()).then_some(self.body.len()),
        };
        if let Some(length) = length {
            set("CONTENT_LENGTH", length.to_string().as_ref());
        }
        for (name, value) in &self.headers {
            set(&variable_name(name), value.as_ref());
        }
        for (name, value) in &self.variables {
            match value {
                Some(value) => variables.insert(name.clone(), value.clone()),
                None => variables.remove(name),
            };
        }
        variables
    }
}

/// A request under way. Dropped unfinished, its process group is killed, or its connection closed.
pub struct Running {
    way: Way,
    head: bool,
    started: Instant,
    deadline: Instant,
}

enum Way {
    Process(Process),
    Resident(Exchange),
}

/// A process for one request.
struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    output: mpsc::Receiver<io::Result<Vec<u8>>>,
    stderr: PathBuf,
    memory: Option<PathBuf>,
}

impl Running {
    /// The process, and the process group that it leads.
    pub fn pid(&self) -> u32 {
        match &self.way {
            Way::Process(process) => process.child.id(),
            Way::Resident(_) => panic!("a request to a resident process has none of its own: say as_cgi()"),
        }
    }

    /// Sends a part of the body.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.way {
            Way::Process(process) => {
                let stdin = process.stdin.as_mut().expect("the body has not ended");
                stdin.write_all(bytes)?;
                stdin.flush()
            }
            Way::Resident(exchange) => exchange.body().write(bytes),
        }
    }

    /// Ends the body.
    pub fn end_body(&mut self) {
        match &mut self.way {
            Way::Process(process) => process.stdin = None,
            Way::Resident(exchange) => {
                if let Some(body) = exchange.take_body() {
                    body.end();
                }
            }
        }
    }

    /// Sends a signal ("TERM", "KILL", "STOP", …) to the process.
    pub fn signal(&self, name: &str) {
        processes::signal(self.pid(), name);
    }

    /// Sends a signal to the process group.
    pub fn signal_group(&self, name: &str) {
        processes::signal_group(self.pid(), name);
    }

    pub fn is_running(&mut self) -> bool {
        match &mut self.way {
            Way::Process(process) => matches!(process.child.try_wait(), Ok(None)),
            Way::Resident(exchange) => !exchange.has_ended(),
        }
    }

    /// What was written to the error log up to now.
    pub fn stderr(&self) -> String {
        match &self.way {
            Way::Process(process) => read_lossy(&process.stderr),
            Way::Resident(exchange) => exchange.stderr(),
        }
    }

    /// Peak memory up to now, in KiB.
    pub fn max_rss(&self) -> Option<u64> {
        processes::peak_memory(self.pid())
    }

    /// Waits for the answer, without ending the body.
    pub fn wait(self) -> Answer {
        let head = self.head;
        let is_resident = matches!(self.way, Way::Resident(_));
        let ended = self.wait_for_end();
        let is_cut = is_resident && ended.exit.signal().is_some();
        assert!(!is_cut, "the connection ended before the request\n--- stderr\n{}", ended.stderr);
        ended.into_answer(head)
    }

    /// The same of a program that a signal perhaps ends: `None`, where it has.
    pub fn wait_unless_killed(self) -> Option<Answer> {
        let head = self.head;
        let ended = self.wait_for_end();
        ended.exit.signal().is_none().then(|| ended.into_answer(head))
    }

    /// Waits for the end of a program that perhaps gives no answer, because a
    /// signal ends it.
    pub fn wait_for_end(mut self) -> Ended {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let ended = match &mut self.way {
            Way::Process(process) => process.wait(self.deadline),
            Way::Resident(exchange) => exchange.wait(left).ok_or("the request has not ended"),
        };
        let (stdout, exit) = ended.unwrap_or_else(|what| self.give_up(what));
        let max_rss = match &self.way {
            Way::Process(process) => process.measured(),
            Way::Resident(_) => None,
        };
        Ended { stdout, stderr: self.stderr(), exit, elapsed: self.started.elapsed(), max_rss }
    }

    fn give_up(&self, what: &str) -> ! {
        panic!("no end after {:?}: {what}\n--- stderr\n{}", self.deadline - self.started, self.stderr())
    }
}

impl Process {
    /// Standard output and how the process ended, or what has not.
    fn wait(&mut self, deadline: Instant) -> Result<(Vec<u8>, ExitStatus), &'static str> {
        let left = || deadline.saturating_duration_since(Instant::now());
        let stdout = self.output.recv_timeout(left()).map_err(|_| "its standard output is still open")?;
        let stdout = stdout.expect("standard output can be read");
        loop {
            match self.child.try_wait().expect("the program is our child") {
                Some(exit) => return Ok((stdout, exit)),
                None if left().is_zero() => return Err("it is still running"),
                None => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// What GNU time has written.
    fn measured(&self) -> Option<u64> {
        let text = read_lossy(self.memory.as_ref()?);
        text.lines().last()?.trim().parse().ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            processes::signal_group(self.child.id(), "KILL");
            let _ = self.child.wait();
        }
    }
}

/// What a program left behind, uninterpreted.
#[derive(Debug)]
pub struct Ended {
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub exit: ExitStatus,
    /// Until both the program and its standard output had ended.
    pub elapsed: Duration,
    pub max_rss: Option<u64>,
}

impl Ended {
    fn into_answer(self, head: bool) -> Answer {
        let (status, headers, body) = match parse(&self.stdout, head) {
            Ok(parsed) => parsed,
            Err(problem) => panic!(
                "not a CGI answer: {problem}\n--- {}\n--- answer\n{}\n--- stderr\n{}",
                self.exit,
                String::from_utf8_lossy(&self.stdout),
                self.stderr,
            ),
        };
        let Ended { stderr, exit, elapsed, max_rss, .. } = self;
        Answer { status, headers, body, stderr, exit, elapsed, max_rss }
    }
}

/// A valid CGI answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Without `Status`; in the order and case in which they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub stderr: String,
    pub exit: ExitStatus,
    /// Until both the program and its standard output had ended.
    pub elapsed: Duration,
    /// Peak memory in KiB, if [`Cgi::measure_memory`] asked for it.
    pub max_rss: Option<u64>,
}

impl Answer {
    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        crate::header(&self.headers, name)
    }

    pub fn json(&self) -> serde_json::Value {
        crate::json(&self.body)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// RFC 3875, 4.4: a query without `=` is a list of search words.
pub fn arguments(query: &str) -> Vec<OsString> {
    use std::os::unix::ffi::OsStringExt;
    if query.is_empty() || query.contains('=') {
        return Vec::new();
    }
    let words = query.split('+');
    words.map(|w| OsString::from_vec(decode(w))).collect()
}

fn decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = (byte == b'%').then(|| after.get(..2)).flatten();
        let hex = hex.and_then(|hex| std::str::from_utf8(hex).ok());
        let value = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(value.unwrap_or(byte));
        rest = if value.is_some() { &after[2..] } else { after };
    }
    decoded
}

fn encode_path(path: &str) -> String {
    let mut encoded = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => encoded.push(byte.into()),
            b'/' | b'-' | b'.' | b'_' | b'~' | b':' | b'@' | b'!' | b'$' | b'&' => {
                encoded.push(byte.into());
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn variable_name(header: &str) -> String {
    let name = header.to_ascii_uppercase().replace('-', "_");
    match name.as_str() {
        "CONTENT_TYPE" | "CONTENT_LENGTH" => name,
        _ => format!("HTTP_{name}"),
    }
}

fn read_in_background(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = sender.send(pipe.read_to_end(&mut bytes).map(|_| bytes));
    });
    receiver
}

fn read_lossy(path: &std::path::Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Status, headers without `Status`, body.
pub type Parsed = (u16, Vec<(String, String)>, Vec<u8>);

/// Reads a document response (RFC 3875, 6.2) and names the first thing wrong with it. `head`: an answer to HEAD, which
/// may announce a body that it does not have.
pub fn parse(output: &[u8], head: bool) -> Result<Parsed, String> {
    let mut headers: Vec<(String, String)> = Vec::new();
    let mut rest = output;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or("the header block does not end")?;
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        rest = &rest[end + 1..];
        if line.is_empty() {
            break;
        }
        let (name, value) = parse_header(line)?;
        if crate::header(&headers, &name).is_some() && !name.eq_ignore_ascii_case("set-cookie") {
            return Err(format!("{name} is there twice"));
        }
        headers.push((name, value));
    }

    let status = match crate::header(&headers, "Status") {
        Some(status) => parse_status(status)?,
        None if crate::header(&headers, "Location").is_some() => 302,
        None => 200,
    };
    headers.retain(|(name, _)| !name.eq_ignore_ascii_case("Status"));
    if headers.is_empty() {
        return Err("no header field".into());
    }
    if !rest.is_empty() && crate::header(&headers, "Content-Type").is_none() {
        return Err("a body without Content-Type".into());
    }
    if !rest.is_empty() && matches!(status, 204 | 304) {
        return Err(format!("a body with status {status}"));
    }
    if let Some(length) = crate::header(&headers, "Content-Length") {
        let told: usize = length.parse().map_err(|_| format!("Content-Length: {length}"))?;
        if told != rest.len() && !(head && rest.is_empty()) {
            return Err(format!("Content-Length is {told}, the body has {} bytes", rest.len()));
        }
    }
    Ok((status, headers, rest.to_vec()))
}

fn parse_header(line: &[u8]) -> Result<(String, String), String> {
    /// They belong to the web server (RFC 3875, 6.3.4).
    const CONNECTION: [&str; 6] = ["connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer"];
    let line = std::str::from_utf8(line)
        .ok()
        // A tab is white space there (RFC 3875, 6.3; RFC 9110, 5.5).
        .filter(|line| line.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte)))
        .ok_or_else(|| {
            let line = String::from_utf8_lossy(line);
            format!("a header with bytes that are not printable ASCII: {line:?}")
        })?;
    let (name, value) = line.split_once(':').ok_or_else(|| format!("a header without a colon: {line:?}"))?;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(format!("not the name of a header: {name:?}"));
    }
    if CONNECTION.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(format!("{name} is the web server's business"));
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

/// `404 Not Found`
fn parse_status(status: &str) -> Result<u16, String> {
    let code = status.split(' ').next().unwrap_or_default();
    let three_digits = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    match code.parse() {
        Ok(code) if three_digits => Ok(code),
        _ => Err(format!("not a status: {status:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(output: &str) -> String {
        parse(output.as_bytes(), false).expect_err("this is no CGI answer")
    }

    #[test]
    fn an_answer_is_status_headers_and_body() {
        let output = b"Status: 404 Not Found\r\nContent-Type: a/b\r\n\r\nbody\n";
        let (status, headers, body) = parse(output, false).unwrap();
        assert_eq!(status, 404);
        assert_eq!(headers, [("Content-Type".to_owned(), "a/b".to_owned())]);
        assert_eq!(body, b"body\n");
    }

    #[test]
    fn the_status_is_200_unless_said_otherwise_and_302_with_a_location() {
        assert_eq!(parse(b"Content-Type: a/b\n\n", false).unwrap().0, 200);
        assert_eq!(parse(b"Location: http://x/\n\n", false).unwrap().0, 302);
    }

    #[test]
    fn what_a_web_server_would_not_understand_is_named() {
        assert_eq!(problem(""), "the header block does not end");
        assert_eq!(problem("\n"), "no header field");
        assert_eq!(problem("HTTP/1.1 200 OK\n\n"), "a header without a colon: \"HTTP/1.1 200 OK\"");
        assert_eq!(problem("Status: OK\n\n"), "not a status: \"OK\"");
        assert_eq!(problem("X: 1\n\nbody"), "a body without Content-Type");
        assert_eq!(problem("X: 1\nx: 2\n\n"), "x is there twice");
        assert_eq!(problem("Connection: close\n\n"), "Connection is the web server's business");
        assert_eq!(
            problem("Content-Type: a/b\nContent-Length: 3\n\nbody"),
            "Content-Length is 3, the body has 4 bytes"
        );
    }

    #[test]
    fn a_query_without_an_equals_sign_is_passed_as_arguments() {
        assert_eq!(arguments("check+n%6fw"), ["check", "now"]);
        assert!(arguments("a=b+c").is_empty());
    }
}
