//! The web servers of Debian, with the configuration that `deploy/` ships.
//!
//! They run unprivileged, on a free port of the loopback interface, from a folder
//! in the test's [`Sandbox`], and end with the [`WebServer`] value. Around the
//! shipped file there is only what a main configuration must have, with Debian's
//! values where they matter to a CGI program.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::http::Request;
use crate::processes::Group;
use crate::Sandbox;

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
}

/// Every kind, for tests of what must be the same under all of them.
pub const ALL: [Kind; 5] = [Kind::ApacheCgid, Kind::ApacheCgi, Kind::ApacheHtaccess, Kind::Nginx, Kind::Lighttpd];

/// What a test may want to be different.
pub struct Setup {
    /// Instead of any free one.
    pub port: Option<u16>,
    /// More directives, at the end of Apache's configuration or of nginx's
    /// `server { }`. `{folder}` in them is where the server's own sockets are.
    pub directives: String,
    /// More modules of Apache, loaded before the shipped file is read.
    pub modules: &'static [&'static str],
    /// How many requests fcgiwrap runs at once.
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
        let groups = match kind {
            Kind::Nginx => start_nginx(&layout, setup),
            Kind::Lighttpd => start_lighttpd(&layout, setup),
            _ => start_apache(&layout, kind, setup),
        };
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
        ["start.log", "error.log", "fcgiwrap.log"]
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

    /// Process groups of the server: the web server itself, then fcgiwrap.
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

fn start(command: Command) -> Group {
    let name = command.get_program().to_owned();
    Group::start(command).unwrap_or_else(|error| panic!("cannot start {name:?}: {error}"))
}

const APACHE: &str = "/usr/sbin/apache2";
const APACHE_MODULES: &str = "/usr/lib/apache2/modules";

fn start_apache(layout: &Layout, kind: Kind, setup: &Setup) -> Vec<Group> {
    require(APACHE, "apache2-bin");
    if kind == Kind::ApacheHtaccess {
        let sandbox = layout.sandbox;
        sandbox.make_folder("htdocs/cgi-bin", 0o755);
        let program = sandbox.path().join("htdocs/cgi-bin/b24proxy");
        sandbox.place(&sandbox.executable(), &program);
        let htaccess = shipped("apache/htaccess");
        sandbox.write("htdocs/cgi-bin/.htaccess", 0o644, htaccess.as_bytes());
        if setup.root {
            sandbox.write("htdocs/.htaccess", 0o644, shipped("apache/htaccess-root").as_bytes());
        }
    } else {
        layout.write("b24proxy.conf", &shipped("apache/b24proxy.conf"));
        layout.write("b24proxy-root.conf", &shipped("apache/b24proxy-root.conf"));
    }
    layout.write("marker", &layout.marker);
    layout.write("apache.conf", &apache_config(layout, kind, setup));
    let mut command = layout.command(APACHE, "start.log");
    command.args(["-DFOREGROUND", "-f"]).arg(layout.file("apache.conf"));
    vec![start(command)]
}

fn apache_config(layout: &Layout, kind: Kind, setup: &Setup) -> String {
    let (mpm, cgi) = match kind {
        Kind::ApacheCgi => ("mpm_prefork", "cgi"),
        _ => ("mpm_event", "cgid"),
    };
    let mut config = String::new();
    // What Debian enables by default, and mod_rewrite, which every host has.
    for module in [
        mpm,
        cgi,
        "authz_core",
        "authz_host",
        "alias",
        "deflate",
        "dir",
        "env",
        "filter",
        "mime",
        "negotiation",
        "reqtimeout",
        "rewrite",
        "setenvif",
    ]
    .iter()
    .chain(setup.modules)
    {
        require(&format!("{APACHE_MODULES}/mod_{module}.so"), package_of(module));
        let _ = writeln!(config, "LoadModule {module}_module \"{APACHE_MODULES}/mod_{module}.so\"");
    }
    if setup.https.is_some() {
        let _ = writeln!(config, "LoadModule ssl_module \"{APACHE_MODULES}/mod_ssl.so\"");
    }
    let htdocs = layout.sandbox.path().join("htdocs");
    let _ = write!(
        config,
        r#"
ServerRoot "{folder}"
DefaultRuntimeDir "{folder}"
PidFile "{folder}/apache.pid"
ErrorLog "{folder}/error.log"
{access_log}
ServerName localhost
Listen 127.0.0.1:{port}
Timeout 300
RequestReadTimeout header=20-40,minrate=500
RequestReadTimeout body=10,minrate=500
TypesConfig /dev/null
AddOutputFilterByType DEFLATE text/html text/plain
<IfModule mpm_event_module>
    StartServers 1
    ServerLimit 4
    ThreadsPerChild 32
    MaxRequestWorkers 128
</IfModule>
<IfModule mpm_prefork_module>
    StartServers 4
    MaxRequestWorkers 128
</IfModule>
<IfModule cgid_module>
    ScriptSock "{folder}/cgid"
</IfModule>
<Directory "/">
    AllowOverride None
    Require all denied
</Directory>
DocumentRoot "{htdocs}"
<Directory "{htdocs}">
    Options FollowSymLinks
    AllowOverride {allow_override}
    Require all granted
</Directory>
Alias "{MARKER}" "{folder}/marker"
<Directory "{folder}">
    <Files "marker">
        Require all granted
    </Files>
</Directory>
"#,
        access_log = match setup.masked_log {
            true => String::new(),
            false => format!("CustomLog \"{}\" \"%h %l %u %t \\\"%r\\\" %>s %O\"", layout.file("access.log")),
        },
        folder = layout.folder.display(),
        port = layout.port,
        htdocs = htdocs.display(),
        allow_override = if kind == Kind::ApacheHtaccess { "All" } else { "None" },
    );
    if kind != Kind::ApacheHtaccess {
        let _ = write!(
            config,
            "Define B24PROXY_CGI_BIN \"{}\"\nInclude \"{}\"\n",
            layout.sandbox.path().join("cgi-bin").display(),
            layout.file("b24proxy.conf"),
        );
        if setup.root {
            let _ = writeln!(config, "Include \"{}\"", layout.file("b24proxy-root.conf"));
        }
        if setup.masked_log {
            config.push_str(&apache_masked_log(layout));
        }
    }
    config.push_str(&layout.directives(setup));
    config.push('\n');
    if let Some(port) = layout.https_port {
        let _ = write!(
            config,
            r#"Listen 127.0.0.1:{port}
<VirtualHost 127.0.0.1:{port}>
    SSLEngine on
    SSLCertificateFile "{certificate}"
    SSLCertificateKeyFile "{key}"
</VirtualHost>
"#,
            certificate = layout.file("certificate.pem"),
            key = layout.file("key.pem"),
        );
    }
    config
}

/// The Debian package that has a module of Apache.
fn package_of(module: &str) -> &str {
    match module {
        "security2" => "libapache2-mod-security2",
        _ => "apache2-bin",
    }
}

/// The lines for a `<VirtualHost>` that stand as a comment in the shipped file, with the test's folder for logs.
fn apache_masked_log(layout: &Layout) -> String {
    let lines = offered("apache/b24proxy.conf", &["CustomLog ", "LogLevel ", "ErrorLogFormat "], 4);
    layout.here(&format!(
        "LogFormat \"%h %l %u %t \\\"%r\\\" %>s %O \\\"%{{Referer}}i\\\"\" combined\n\
         <VirtualHost 127.0.0.1:{}>\nServerName localhost\n{lines}</VirtualHost>\n",
        layout.port
    ))
}

/// Lines that stand as a comment in a shipped file, for the administrator to write elsewhere.
fn offered(file: &str, beginnings: &[&str], count: usize) -> String {
    let shipped = shipped(file);
    let lines = shipped.lines().filter_map(|line| line.trim_start().strip_prefix("# ")).map(str::trim_start);
    let lines: Vec<_> = lines.filter(|line| beginnings.iter().any(|beginning| line.starts_with(beginning))).collect();
    assert_eq!(lines.len(), count, "deploy/{file} offers {count} lines: {lines:?}");
    lines.join("\n") + "\n"
}

const LIGHTTPD: &str = "/usr/sbin/lighttpd";

fn start_lighttpd(layout: &Layout, setup: &Setup) -> Vec<Group> {
    require(LIGHTTPD, "lighttpd");
    layout.write("marker", &layout.marker);
    let program = layout.sandbox.executable().display().to_string();
    let mut shipped =
        replaced("lighttpd/b24proxy.conf", &[(1, " \"/usr/lib/cgi-bin/b24proxy\" )", format!(" \"{program}\" )"))]);
    if setup.root {
        let rules: Vec<_> = shipped.split("#url.rewrite-once += (").collect();
        let [before, after] = rules[..] else { panic!("deploy/lighttpd/b24proxy.conf offers rules for the root") };
        let (rule, after) = after.split_once("#)").expect("they end");
        shipped = format!("{before}url.rewrite-once += ({}){after}", rule.replace('#', ""));
    }
    layout.write("b24proxy.conf", &shipped);
    layout.sandbox.make_folder(&layout.inside("uploads"), 0o755);
    layout.write("lighttpd.conf", &lighttpd_config(layout, setup));
    let mut command = layout.command(LIGHTTPD, "start.log");
    command.args(["-D", "-f", &layout.file("lighttpd.conf")]);
    vec![start(command)]
}

fn lighttpd_config(layout: &Layout, setup: &Setup) -> String {
    format!(
        r#"
server.modules = ( "mod_indexfile", "mod_access", "mod_alias", "mod_redirect", "mod_accesslog"{tls} )
server.document-root = "{htdocs}"
server.upload-dirs = ( "{folder}/uploads" )
server.errorlog = "{folder}/error.log"
server.bind = "127.0.0.1"
server.port = {port}
server.feature-flags += ( "server.h2proto" => "enable", "server.h2c" => "enable" )
server.http-parseopts = (
  "header-strict"           => "enable",
  "host-strict"             => "enable",
  "host-normalize"          => "enable",
  "url-normalize-unreserved"=> "enable",
  "url-normalize-required"  => "enable",
  "url-ctrls-reject"        => "enable",
  "url-path-2f-decode"      => "enable",
  "url-path-dotseg-remove"  => "enable",
)
url.access-deny = ( "~", ".inc" )
accesslog.filename = "{folder}/access.log"
$HTTP["url"] == "{MARKER}" {{ alias.url = ( "{MARKER}" => "{folder}/marker" ) }}
{https}
include "{folder}/b24proxy.conf"
{directives}
server.modules += ( "mod_dirlisting", "mod_staticfile" )
"#,
        tls = if setup.https.is_some() { ", \"mod_openssl\"" } else { "" },
        folder = layout.folder.display(),
        port = layout.port,
        htdocs = layout.sandbox.path().join("htdocs").display(),
        https = layout.https_port.map_or_else(String::new, |port| format!(
            "$SERVER[\"socket\"] == \"127.0.0.1:{port}\" {{ ssl.engine = \"enable\"\nssl.pemfile = \"{}\"\nssl.privkey = \"{}\" }}",
            layout.file("certificate.pem"),
            layout.file("key.pem"),
        )),
        directives = layout.directives(setup),
    )
}

const NGINX: &str = "/usr/sbin/nginx";
const FCGIWRAP: &str = "/usr/sbin/fcgiwrap";

fn start_nginx(layout: &Layout, setup: &Setup) -> Vec<Group> {
    require(NGINX, "nginx-light");
    require(FCGIWRAP, "fcgiwrap");
    let socket = layout.file("fcgiwrap.socket");
    layout.write("b24proxy.conf", &nginx_location(layout, &socket, setup));
    layout.write("b24proxy-root.conf", &shipped("nginx/b24proxy-root.conf"));
    layout.write("b24proxy-log.conf", &shipped("nginx/b24proxy-log.conf"));
    layout.write("nginx.conf", &nginx_config(layout, setup));

    let mut fcgiwrap = layout.command(FCGIWRAP, "fcgiwrap.log");
    fcgiwrap.args(fcgiwrap_arguments(setup.fcgiwrap_workers)).args(["-s", &format!("unix:{socket}")]);
    let fcgiwrap = start(fcgiwrap);
    let begun = Instant::now();
    while !Path::new(&socket).exists() && begun.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(5));
    }

    let mut nginx = layout.command(NGINX, "start.log");
    nginx
        .args(["-e", &layout.file("error.log")])
        .args(["-p", &layout.file("")])
        .args(["-c", &layout.file("nginx.conf")]);
    vec![start(nginx), fcgiwrap]
}

/// Those of the shipped service, with another number of workers.
fn fcgiwrap_arguments(workers: usize) -> Vec<String> {
    let shipped = shipped("nginx/b24proxy.service");
    let command = shipped.lines().rev().find_map(|line| line.strip_prefix("ExecStart="));
    let command = command.expect("deploy/nginx/b24proxy.service has ExecStart");
    let mut words: Vec<String> = command.split(' ').skip(1).map(str::to_owned).collect();
    let at = words.iter().position(|word| word == "-c").expect("deploy/nginx/b24proxy.service has -c");
    words[at + 1] = workers.to_string();
    words
}

/// The shipped file with the paths that an administrator would change, and with the log that a comment offers.
fn nginx_location(layout: &Layout, socket: &str, setup: &Setup) -> String {
    let program = layout.sandbox.executable().display().to_string();
    let mut text = replaced(
        "nginx/b24proxy.conf",
        &[
            (2, "unix:/run/b24proxy.socket;", format!("unix:{socket};")),
            (1, " /usr/lib/cgi-bin/b24proxy;", format!(" {program};")),
            (1, " /var/log/nginx/error.log alert;", format!(" {} alert;", layout.file("error.log"))),
        ],
    );
    if setup.masked_log {
        let offer = offered("nginx/b24proxy.conf", &["access_log "], 1);
        text = text.replace("    access_log off;\n", &layout.here(&offer));
    }
    text
}

fn nginx_config(layout: &Layout, setup: &Setup) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("    {name}_temp_path \"{}\";\n", layout.file(name)))
        .collect();
    format!(
        r#"daemon off;
worker_processes 1;
pid "{folder}/nginx.pid";
error_log "{folder}/error.log" warn;
events {{
    worker_connections 1024;
}}
http {{
{temporary}    access_log "{folder}/access.log";
    include "{folder}/b24proxy-log.conf";
    server {{
        listen 127.0.0.1:{port};
        {https}
        server_name localhost;
        root "{htdocs}";
        location = {MARKER} {{
            return 200 "{marker}";
        }}
        {masked_log}
        include "{folder}/b24proxy.conf";
        {root}
        {directives}
    }}
}}
"#,
        folder = layout.folder.display(),
        port = layout.port,
        htdocs = layout.sandbox.path().join("htdocs").display(),
        marker = layout.marker,
        https = layout.https_port.map_or_else(String::new, |port| format!(
            "listen 127.0.0.1:{port} ssl; ssl_certificate \"{}\"; ssl_certificate_key \"{}\";",
            layout.file("certificate.pem"),
            layout.file("key.pem"),
        )),
        root = match setup.root {
            true => format!("include \"{}\";", layout.file("b24proxy-root.conf")),
            false => String::new(),
        },
        masked_log = match setup.masked_log {
            true => layout.here(&offered("nginx/b24proxy-log.conf", &["access_log ", "log_not_found "], 3)),
            false => String::new(),
        },
        directives = layout.directives(setup),
    )
}
