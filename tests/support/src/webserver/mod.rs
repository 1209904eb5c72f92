//! The web servers of Debian, with the configuration that `deploy/` ships.
//!
//! They run unprivileged, on a free port of the loopback interface, from a folder
//! in the test's [`Sandbox`], and end with the [`WebServer`] value. Around the
//! shipped file there is only what a main configuration must have, with Debian's
//! values where they matter to a CGI program.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::http::Request;
use crate::processes::Group;
use crate::sandbox::give_away;
use crate::Sandbox;

mod apache;
mod lighttpd;
mod nginx;

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A static address by which a server proves that it is the one just started.
const MARKER: &str = "/support-marker";

/// Which server, and which of the shipped files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The event MPM with mod_cgid, as on every present Debian server:
    /// `deploy/apache/b24proxy.conf`.
    ApacheCgid,
    /// The prefork MPM with mod_cgi: the same file.
    ApacheCgi,
    /// The event MPM with mod_cgid as a hosting provider sets it up. The
    /// executable lies in `htdocs/cgi-bin`, beside `deploy/apache/htaccess`.
    ApacheHtaccess,
    /// nginx with fcgiwrap: `deploy/nginx/b24proxy.conf`.
    Nginx,
    /// `deploy/lighttpd/b24proxy.conf`, after Debian's own configuration.
    Lighttpd,
    /// The program resident under mod_fcgid: `deploy/apache/b24proxy-fcgid.conf` beside `deploy/apache/b24proxy.conf`.
    ApacheFcgid,
    /// The same on a host with mod_fcgid's own limits: the line in `deploy/apache/htaccess`.
    ApacheFcgidHtaccess,
    /// The program as a service, `deploy/systemd/b24proxy.service`, behind mod_proxy_fcgi:
    /// `deploy/apache/b24proxy-proxy.conf` beside `deploy/apache/b24proxy.conf`.
    ApacheProxyFcgi,
    /// The same service in place of fcgiwrap.
    NginxResident,
    /// And nginx keeps its connections to it, as `deploy/nginx/b24proxy.conf` says.
    NginxKept,
    /// lighttpd starts the program: `deploy/lighttpd/b24proxy-fastcgi.conf` after `deploy/lighttpd/b24proxy.conf`.
    LighttpdResident,
}

/// Those that start the executable for each request.
pub const CGI: [Kind; 5] = [Kind::ApacheCgid, Kind::ApacheCgi, Kind::ApacheHtaccess, Kind::Nginx, Kind::Lighttpd];

/// Every kind, for tests of what must be the same under all of them.
pub const ALL: [Kind; 11] = [
    Kind::ApacheCgid,
    Kind::ApacheCgi,
    Kind::ApacheHtaccess,
    Kind::Nginx,
    Kind::Lighttpd,
    Kind::ApacheFcgid,
    Kind::ApacheFcgidHtaccess,
    Kind::ApacheProxyFcgi,
    Kind::NginxResident,
    Kind::NginxKept,
    Kind::LighttpdResident,
];

impl Kind {
    /// The program stays, and serves one request after another.
    pub fn is_resident(self) -> bool {
        self.is_service() || self.is_mod_fcgid() || self == Kind::LighttpdResident
    }

    /// The program is a service of its own, which the web server only speaks to.
    fn is_service(self) -> bool {
        matches!(self, Kind::ApacheProxyFcgi | Kind::NginxResident | Kind::NginxKept)
    }

    pub fn is_nginx(self) -> bool {
        matches!(self, Kind::Nginx | Kind::NginxResident | Kind::NginxKept)
    }

    pub fn is_lighttpd(self) -> bool {
        matches!(self, Kind::Lighttpd | Kind::LighttpdResident)
    }

    /// Bodies of any size. A host's mod_fcgid takes 128 KiB, unless it is told otherwise.
    pub fn takes_large_bodies(self) -> bool {
        self != Kind::ApacheFcgidHtaccess
    }

    /// A body reaches the program while it is still coming. mod_fcgid takes the whole first.
    pub fn passes_bodies_on(self) -> bool {
        !self.is_mod_fcgid()
    }

    pub fn is_mod_fcgid(self) -> bool {
        matches!(self, Kind::ApacheFcgid | Kind::ApacheFcgidHtaccess)
    }

    /// The account does not administer the server.
    pub fn is_rented(self) -> bool {
        matches!(self, Kind::ApacheHtaccess | Kind::ApacheFcgidHtaccess)
    }
}

/// What a test may want to be different.
pub struct Setup {
    /// Instead of any free one.
    pub port: Option<u16>,
    /// More directives, at the end of Apache's configuration or of nginx's
    /// `server { }`. `{folder}` in them is where the server's own sockets are.
    pub directives: String,
    /// More of nginx's, beside its `server { }`.
    pub beside: String,
    /// More modules of Apache, loaded before the shipped file is read.
    pub modules: &'static [&'static str],
    /// How many requests fcgiwrap, or the program as a service, runs at once.
    pub fcgiwrap_workers: usize,
    /// Listens with TLS on a second port.
    pub https: Option<Certificate>,
    /// With the shipped rules that put `/rest/` at the root of the host.
    pub root: bool,
    /// With the shipped way to log requests without the tokens in their addresses.
    pub masked_log: bool,
}

/// A server's certificate and private key, PEM.
#[derive(Clone)]
pub struct Certificate {
    pub certificate: String,
    pub key: String,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            port: None,
            directives: String::new(),
            beside: String::new(),
            modules: &[],
            fcgiwrap_workers: 8,
            https: None,
            root: false,
            masked_log: false,
        }
    }
}

/// A running web server. It ends when this value is dropped or the test is killed.
pub struct WebServer {
    kind: Kind,
    address: SocketAddr,
    https_port: Option<u16>,
    folder: PathBuf,
    /// In the order in which they are to end.
    groups: Vec<Group>,
}

impl WebServer {
    /// Starts a server for the sandbox's executable and waits until it answers.
    pub fn start(sandbox: &Sandbox, kind: Kind) -> WebServer {
        WebServer::start_with(sandbox, kind, &Setup::default())
    }

    pub fn start_with(sandbox: &Sandbox, kind: Kind, setup: &Setup) -> WebServer {
        for _ in 0..5 {
            if let Some(server) = WebServer::try_start(sandbox, kind, setup) {
                return server;
            }
            // Somebody else took the port between our choice and the server's start.
        }
        panic!("{kind:?} finds no free port");
    }

    /// `None` where the port is taken.
    fn try_start(sandbox: &Sandbox, kind: Kind, setup: &Setup) -> Option<WebServer> {
        let mut layout = Layout::new(sandbox, setup.port.unwrap_or_else(free_port));
        if let Some(certificate) = &setup.https {
            layout.https_port = Some(free_port());
            layout.write("certificate.pem", &certificate.certificate);
            layout.write("key.pem", &certificate.key);
        }
        let service = kind.is_service().then(|| start_service(&layout, setup));
        let mut groups = match kind {
            _ if kind.is_nginx() => nginx::start(&layout, kind, setup),
            _ if kind.is_lighttpd() => lighttpd::start(&layout, kind, setup),
            _ => apache::start(&layout, kind, setup),
        };
        groups.extend(service);
        let mut server = WebServer {
            kind,
            address: (Ipv4Addr::LOCALHOST, layout.port).into(),
            https_port: layout.https_port,
            folder: layout.folder,
            groups,
        };
        let begun = Instant::now();
        while !server.answers_with(&layout.marker) {
            let log = server.error_log();
            if log.contains("ddress already in use") && setup.port.is_none() {
                server.stop_all();
                return None;
            }
            let ended = server.groups.iter_mut().any(Group::has_ended);
            if ended || begun.elapsed() > PATIENCE {
                server.stop_all();
                let what = if ended { "ended" } else { "does not answer" };
                panic!("{kind:?} {what}; its log:\n{}", server.error_log());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Some(server)
    }

    fn answers_with(&self, marker: &str) -> bool {
        self.request("GET", MARKER)
            .timeout(Duration::from_secs(2))
            .try_send()
            .is_ok_and(|answer| answer.body == marker.as_bytes())
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `path` with its query, as an absolute address.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The same over TLS, by a name and address that the certificate must be valid for.
    pub fn https_url(&self, path: &str) -> String {
        let port = self.https_port.expect("this server was started with a certificate");
        format!("https://127.0.0.1:{port}{path}")
    }

    /// A request to this server.
    pub fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.address, method, path)
    }

    /// Where the server's own things are: configuration, logs, sockets.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Everything the server and the programs under it have logged.
    pub fn error_log(&self) -> String {
        ["start.log", "error.log", SERVICE_LOG]
            .iter()
            .filter_map(|name| fs::read(self.folder.join(name)).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }

    /// The log of requests.
    pub fn access_log(&self) -> String {
        self.log("access.log")
    }

    /// The log of requests that the shipped configuration writes without tokens.
    pub fn masked_log(&self) -> String {
        self.log("b24proxy.log")
    }

    /// All of them.
    pub fn logs(&self) -> String {
        self.error_log() + &self.access_log() + &self.masked_log()
    }

    fn log(&self, name: &str) -> String {
        let bytes = fs::read(self.folder.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Process groups of the server: the web server itself, then fcgiwrap or the program as a service.
    pub fn process_groups(&self) -> Vec<u32> {
        self.groups.iter().map(Group::id).collect()
    }

    /// Ends the server and everything under it.
    pub fn stop(mut self) {
        self.stop_all();
    }

    fn stop_all(&mut self) {
        self.groups.iter_mut().for_each(Group::stop);
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.stop_all();
        if thread::panicking() {
            eprintln!("--- log of {:?}\n{}", self.kind, self.error_log());
        }
    }
}

/// Where the things of one server are.
struct Layout<'a> {
    sandbox: &'a Sandbox,
    /// Configuration, logs, sockets.
    folder: PathBuf,
    port: u16,
    https_port: Option<u16>,
    /// What [`MARKER`] answers.
    marker: String,
}

impl<'a> Layout<'a> {
    fn new(sandbox: &'a Sandbox, port: u16) -> Layout<'a> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("run/web-{number}");
        sandbox.make_folder(&name, 0o755);
        let folder = sandbox.path().join(name);
        Layout { sandbox, marker: folder.display().to_string(), folder, port, https_port: None }
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn directives(&self, setup: &Setup) -> String {
        setup.directives.replace("{folder}", &self.folder.display().to_string())
    }

    /// With this folder in place of the one in which Debian's servers have their logs.
    fn here(&self, lines: &str) -> String {
        ["${APACHE_LOG_DIR}", "/var/log/nginx"]
            .iter()
            .fold(lines.to_owned(), |lines, theirs| lines.replace(theirs, &self.folder.display().to_string()))
    }

    fn write(&self, name: &str, text: &str) {
        self.sandbox.write(&self.inside(name), 0o644, text.as_bytes());
    }

    /// A file of the server's folder, as the sandbox names it.
    fn inside(&self, name: &str) -> String {
        let path = self.folder.join(name);
        let inside = path.strip_prefix(self.sandbox.path());
        let inside = inside.expect("the server's folder is in the sandbox");
        inside.to_str().expect("these names are ours").to_owned()
    }

    /// A command whose output counts as part of the error log.
    fn command(&self, program: &str, log: &str) -> Command {
        self.write(log, "");
        let path = self.folder.join(log);
        let append = || {
            let file = fs::OpenOptions::new().append(true).open(&path);
            Stdio::from(file.expect("the log was just made"))
        };
        let mut command = self.sandbox.command(program);
        command.stdout(append()).stderr(append());
        command
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("the loopback interface has a free port")
        .port()
}

/// A file of `deploy/`, as it is shipped.
fn shipped(name: &str) -> String {
    let path = crate::repository().join("deploy").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// The same with what is there so many times replaced.
fn replaced(name: &str, replacements: &[(usize, &str, String)]) -> String {
    let mut text = shipped(name);
    for (times, theirs, ours) in replacements {
        assert_eq!(text.matches(theirs).count(), *times, "deploy/{name} has {theirs:?} {times} times");
        text = text.replace(theirs, ours);
    }
    text
}

fn require(program: &str, package: &str) {
    assert!(
        Path::new(program).exists(),
        "{program} is missing: install the Debian package {package} (tests/packages.sh)"
    );
}

fn run(command: Command) -> Group {
    run_at(command, Stdio::null())
}

fn run_at(command: Command, input: Stdio) -> Group {
    let name = command.get_program().to_owned();
    Group::start_at(command, input).unwrap_or_else(|error| panic!("cannot start {name:?}: {error}"))
}

/// What a service would have in the journal.
const SERVICE_LOG: &str = "service.log";

/// The program as systemd starts it: its standard input is the socket.
fn start_service(layout: &Layout, setup: &Setup) -> Group {
    let socket = layout.file(SOCKET);
    let listener = UnixListener::bind(&socket).unwrap_or_else(|error| panic!("cannot listen at {socket}: {error}"));
    give_away(Path::new(&socket));
    let program = layout.sandbox.executable();
    let mut command = layout.command(program.to_str().expect("these names are ours"), SERVICE_LOG);
    command.args(exec_start("systemd/b24proxy.service", "--workers", setup.fcgiwrap_workers));
    run_at(command, OwnedFd::from(listener).into())
}

/// Where the web server finds fcgiwrap, or the program.
const SOCKET: &str = "b24proxy.socket";

/// The arguments of a shipped service, with another number of workers.
fn exec_start(file: &str, option: &str, workers: usize) -> Vec<String> {
    let shipped = shipped(file);
    let command = shipped.lines().rev().find_map(|line| line.strip_prefix("ExecStart="));
    let command = command.unwrap_or_else(|| panic!("deploy/{file} has ExecStart"));
    let mut words: Vec<String> = command.split(' ').skip(1).map(str::to_owned).collect();
    let at = words.iter().position(|word| word == option);
    let at = at.unwrap_or_else(|| panic!("deploy/{file} has {option}"));
    words[at + 1] = workers.to_string();
    words
}

/// Lines that stand as a comment in a shipped file, for the administrator to write elsewhere.
fn offered(file: &str, beginnings: &[&str], count: usize) -> String {
    let shipped = shipped(file);
    let lines = shipped.lines().filter_map(|line| line.trim_start().strip_prefix("# ")).map(str::trim_start);
    let lines: Vec<_> = lines.filter(|line| beginnings.iter().any(|beginning| line.starts_with(beginning))).collect();
    assert_eq!(lines.len(), count, "deploy/{file} offers {count} lines: {lines:?}");
    lines.join("\n") + "\n"
}
