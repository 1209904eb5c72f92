//! Apache 2.4 of Debian, with its modules for CGI.

use std::fmt::Write as _;

use super::{offered, replaced, require, run, shipped, Kind, Layout, Setup, MARKER, SOCKET};
use crate::processes::Group;

const APACHE: &str = "/usr/sbin/apache2";
const APACHE_MODULES: &str = "/usr/lib/apache2/modules";

pub fn start(layout: &Layout, kind: Kind, setup: &Setup) -> Vec<Group> {
    require(APACHE, "apache2-bin");
    if kind.is_rented() {
        let sandbox = layout.sandbox;
        let program = sandbox.path().join("htdocs/cgi-bin/b24proxy");
        if !program.exists() {
            sandbox.make_folder("htdocs/cgi-bin", 0o755);
            sandbox.place(&sandbox.executable(), &program);
        }
        let mut htaccess = shipped("apache/htaccess");
        if kind == Kind::ApacheFcgidHtaccess {
            let handler = [(1, "SetHandler cgi-script", "SetHandler fcgid-script".to_owned())];
            htaccess = replaced("apache/htaccess", &handler);
        }
        sandbox.write("htdocs/cgi-bin/.htaccess", 0o644, htaccess.as_bytes());
        if setup.root {
            sandbox.write("htdocs/.htaccess", 0o644, shipped("apache/htaccess-root").as_bytes());
        }
    } else {
        layout.write("b24proxy.conf", &shipped("apache/b24proxy.conf"));
        layout.write("b24proxy-root.conf", &shipped("apache/b24proxy-root.conf"));
        layout.write("b24proxy-fcgid.conf", &shipped("apache/b24proxy-fcgid.conf"));
        let socket = [(2, "/run/b24proxy.socket", layout.file(SOCKET))];
        layout.write("b24proxy-proxy.conf", &replaced("apache/b24proxy-proxy.conf", &socket));
    }
    layout.write("marker", &layout.marker);
    layout.write("apache.conf", &apache_config(layout, kind, setup));
    let mut command = layout.command(APACHE, "start.log");
    command.args(["-DFOREGROUND", "-f"]).arg(layout.file("apache.conf"));
    vec![run(command)]
}

fn apache_config(layout: &Layout, kind: Kind, setup: &Setup) -> String {
    let (mpm, cgi) = match kind {
        Kind::ApacheCgi => ("mpm_prefork", "cgi"),
        _ => ("mpm_event", "cgid"),
    };
    // What else its recipe says to enable.
    let (resident, file): (&[&str], _) = match kind {
        Kind::ApacheFcgid => (&["fcgid"], Some("b24proxy-fcgid.conf")),
        Kind::ApacheFcgidHtaccess => (&["fcgid"], None),
        Kind::ApacheProxyFcgi => (&["proxy", "proxy_fcgi"], Some("b24proxy-proxy.conf")),
        _ => (&[], None),
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
    .chain(resident)
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
<IfModule fcgid_module>
    FcgidIPCDir "{folder}/fcgid"
    FcgidProcessTableFile "{folder}/fcgid_shm"
    FcgidConnectTimeout 20
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
        allow_override = if kind.is_rented() { "All" } else { "None" },
    );
    if !kind.is_rented() {
        let _ = write!(
            config,
            "Define B24PROXY_CGI_BIN \"{}\"\nInclude \"{}\"\n",
            layout.sandbox.path().join("cgi-bin").display(),
            layout.file("b24proxy.conf"),
        );
        let root = setup.root.then_some("b24proxy-root.conf");
        for file in root.into_iter().chain(file) {
            let _ = writeln!(config, "Include \"{}\"", layout.file(file));
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
        "fcgid" => "libapache2-mod-fcgid",
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
