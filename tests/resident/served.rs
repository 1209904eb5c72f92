//! A resident program of a sandbox, and requests to it.

use crate::fixture::{Proxy, TOKEN};
use serde_json::{json, Value};
use simulator::Options;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::cgi::{parse, Cgi};
use support::fastcgi::{Broken, Connection, Reply, REQUEST_COMPLETE};
use support::{eventually, with_descendants, Group};

pub struct Served<'p> {
    pub proxy: &'p Proxy,
    pub group: Group,
    pub socket: PathBuf,
    log: PathBuf,
}

/// Over plain http, with a portal that refuses nothing.
pub fn proxy() -> Proxy {
    let proxy = Proxy::with(Options { https: false, ..Options::default() });
    proxy.store_pair(&proxy.portal().issue_pair(1));
    proxy.reconfigured("aliases = [\"acme\"]", "aliases = [\"acme\"]\nrequests_per_second = 100000\nburst = 100000")
}

impl<'p> Served<'p> {
    /// `b24proxy fastcgi --listen … --workers N`.
    pub fn by(proxy: &'p Proxy, workers: usize) -> Served<'p> {
        Served::with(proxy, &["--workers", &workers.to_string()], &[])
    }

    /// With these arguments and variables.
    pub fn with(proxy: &'p Proxy, arguments: &[&str], variables: &[(&str, &str)]) -> Served<'p> {
        let socket = proxy.sandbox.path().join("run/resident.sock");
        let listen = format!("unix:{}", socket.display());
        let mut command = proxy.sandbox.command_line(&["fastcgi", "--listen", &listen]);
        let log = proxy.sandbox.path().join("run/resident.log");
        if !log.exists() {
            proxy.sandbox.write("run/resident.log", 0o644, b"");
        }
        let append = || Stdio::from(std::fs::OpenOptions::new().append(true).open(&log).unwrap());
        command.args(arguments).envs(variables.iter().copied()).stdout(append()).stderr(append());
        let group = Group::start(command).expect("the program can be started");
        eventually("the program listens", || Connection::open(&socket).is_ok());
        Served { proxy, group, socket, log }
    }

    pub fn connect(&self) -> Connection {
        let mut connection = Connection::open(&self.socket).expect("the program listens");
        connection.set_timeout(Duration::from_secs(60));
        connection
    }

    pub fn manager(&self) -> u32 {
        self.group.id()
    }

    /// The processes that serve.
    pub fn workers(&self) -> Vec<u32> {
        let mut workers = with_descendants(self.manager());
        workers.retain(|pid| is_worker(*pid));
        workers
    }

    /// What it has written to its own standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn health(&self) -> Answered {
        self.ask(&self.proxy.get("/health"), b"")
    }

    pub fn call(&self, method: &str, params: Value) -> Answered {
        let body = json!({"method": method, "params": params}).to_string();
        self.ask(&self.proxy.request(body.clone()), body.as_bytes())
    }

    /// On a connection of its own.
    pub fn ask(&self, request: &Cgi, body: &[u8]) -> Answered {
        self.try_ask(request, body).unwrap_or_else(|broken| panic!("no answer: {broken:?}\n{}", self.log()))
    }

    pub fn try_ask(&self, request: &Cgi, body: &[u8]) -> Result<Answered, Broken> {
        let mut connection = self.connect();
        let begun = Instant::now();
        connection.expect(1);
        let sent = support::fastcgi::request(1, false, parameters(request, body), body);
        connection.send(&sent).map_err(|_| Broken::Ended(Reply::default()))?;
        connection.reply(1).map(|reply| Answered::of(reply, begun.elapsed()))
    }

    pub fn end(&self, signal: &str) {
        support::signal(self.manager(), signal);
    }
}

fn is_worker(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.starts_with(b"b24proxy\0worker\0")
}

/// The variables of a request with this body.
pub fn parameters(request: &Cgi, body: &[u8]) -> Vec<(String, OsString)> {
    let mut variables = request.environment();
    variables.remove("PATH");
    if !body.is_empty() {
        variables.insert("CONTENT_LENGTH".into(), body.len().to_string().into());
    }
    variables.into_iter().collect()
}

/// The variables and body of a call.
pub fn call_of(proxy: &Proxy, method: &str, params: Value) -> (Vec<(String, OsString)>, Vec<u8>) {
    let body = json!({"method": method, "params": params}).to_string().into_bytes();
    (parameters(&proxy.request(body.clone()).bearer(TOKEN), &body), body)
}

/// A whole answer.
#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub stderr: String,
    pub elapsed: Duration,
}

impl Answered {
    pub fn of(reply: Reply, elapsed: Duration) -> Answered {
        assert_eq!(reply.protocol_status, REQUEST_COMPLETE);
        let (status, headers, body) = parse(&reply.stdout, false).expect("a CGI answer");
        let stderr = String::from_utf8_lossy(&reply.stderr).into_owned();
        Answered { status, headers, body, stderr, elapsed }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&self.body)))
    }

    #[track_caller]
    pub fn assert_success(&self) {
        assert_eq!((self.status, &self.json()["success"]), (200, &true.into()), "{}", self.json());
    }

    /// `error_code`, or nothing.
    pub fn code(&self) -> String {
        self.json()["error_code"].as_str().unwrap_or_default().to_owned()
    }
}
