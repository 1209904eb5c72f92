//! nginx of Debian, with fcgiwrap or the program as a service.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::{
    exec_start, offered, replaced, require, run, shipped, Kind, Layout, Setup, MARKER, PATIENCE, SERVICE_LOG, SOCKET,
};
use crate::processes::Group;

const NGINX: &str = "/usr/sbin/nginx";
const FCGIWRAP: &str = "/usr/sbin/fcgiwrap";

pub fn start(layout: &Layout, kind: Kind, setup: &Setup) -> Vec<Group> {
    require(NGINX, "nginx-light");
    layout.write("b24proxy.conf", &nginx_location(layout, kind, setup));
    layout.write("b24proxy-root.conf", &shipped("nginx/b24proxy-root.conf"));
    layout.write("b24proxy-log.conf", &shipped("nginx/b24proxy-log.conf"));
    layout.write("nginx.conf", &nginx_config(layout, kind, setup));
    let fcgiwrap = (kind == Kind::Nginx).then(|| start_fcgiwrap(layout, setup));
    let mut nginx = layout.command(NGINX, "start.log");
    nginx
        .args(["-e", &layout.file("error.log")])
        .args(["-p", &layout.file("")])
        .args(["-c", &layout.file("nginx.conf")]);
    std::iter::once(run(nginx)).chain(fcgiwrap).collect()
}

fn start_fcgiwrap(layout: &Layout, setup: &Setup) -> Group {
    require(FCGIWRAP, "fcgiwrap");
    let socket = layout.file(SOCKET);
    let mut fcgiwrap = layout.command(FCGIWRAP, SERVICE_LOG);
    let arguments = exec_start("nginx/b24proxy.service", "-c", setup.fcgiwrap_workers);
    fcgiwrap.args(arguments).args(["-s", &format!("unix:{socket}")]);
    let fcgiwrap = run(fcgiwrap);
    let begun = Instant::now();
    while !Path::new(&socket).exists() && begun.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(5));
    }
    fcgiwrap
}

/// The shipped file with the paths that an administrator would change, and with the log that a comment offers.
fn nginx_location(layout: &Layout, kind: Kind, setup: &Setup) -> String {
    let socket = layout.file(SOCKET);
    let program = layout.sandbox.executable().display().to_string();
    let mut text = replaced(
        "nginx/b24proxy.conf",
        &[
            (3, "unix:/run/b24proxy.socket;", format!("unix:{socket};")),
            (1, " /usr/lib/cgi-bin/b24proxy;", format!(" {program};")),
            (1, " /var/log/nginx/error.log alert;", format!(" {} alert;", layout.file("error.log"))),
        ],
    );
    if kind == Kind::NginxKept {
        let keep = offered("nginx/b24proxy.conf", &["fastcgi_keep_conn "], 1);
        let pass = format!("fastcgi_pass unix:{socket};\n");
        text = text.replacen(&pass, &(pass.clone() + &keep), 1).replace(&pass, "fastcgi_pass b24proxy;\n");
    }
    if setup.masked_log {
        let offer = offered("nginx/b24proxy.conf", &["access_log "], 1);
        text = text.replace("    access_log off;\n", &layout.here(&offer));
    }
    text
}

fn nginx_config(layout: &Layout, kind: Kind, setup: &Setup) -> String {
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
    {upstream}
    {beside}
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
        upstream = match kind {
            Kind::NginxKept =>
                offered("nginx/b24proxy.conf", &["upstream "], 1).replace("/run/b24proxy.socket", &layout.file(SOCKET)),
            _ => String::new(),
        },
        beside = setup.beside,
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
