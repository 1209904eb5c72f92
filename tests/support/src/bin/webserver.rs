//! A web server of the tests, for people and scripts:
//!
//! ```text
//! webserver apache|apache-cgi|apache-htaccess|nginx|lighttpd|…-resident --dir DIR --executable FILE [--port N]
//! ```
//!
//! lays DIR out as a [`Sandbox`], starts the server, prints one line of JSON and
//! stays until it is killed; the server ends with it.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use support::webserver::{Kind, Setup, WebServer};
use support::Sandbox;

fn main() -> ExitCode {
    let Some(arguments) = Arguments::read(std::env::args().skip(1)) else {
        eprintln!(
            "usage: webserver apache|apache-cgi|apache-htaccess|nginx|lighttpd|\
             apache-resident|nginx-resident|lighttpd-resident \
             --dir DIR --executable FILE [--port N]"
        );
        return ExitCode::from(2);
    };
    let sandbox = Sandbox::at(&arguments.dir, &arguments.executable);
    let setup = Setup { port: arguments.port, ..Setup::default() };
    let server = WebServer::start_with(&sandbox, arguments.kind, &setup);
    let line = json!({
        "url": server.url("/cgi-bin/b24proxy"),
        "port": server.port(),
        "dir": sandbox.path(),
        "config": sandbox.config(),
        "tokens": sandbox.tokens(),
    });
    println!("{line}");
    loop {
        std::thread::park();
    }
}

struct Arguments {
    kind: Kind,
    dir: PathBuf,
    executable: PathBuf,
    port: Option<u16>,
}

impl Arguments {
    fn read(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
        let kind = match words.next()?.as_str() {
            "apache" => Kind::ApacheCgid,
            "apache-cgi" => Kind::ApacheCgi,
            "apache-htaccess" => Kind::ApacheHtaccess,
            "nginx" => Kind::Nginx,
            "lighttpd" => Kind::Lighttpd,
            "apache-resident" => Kind::ApacheFcgid,
            "nginx-resident" => Kind::NginxResident,
            "lighttpd-resident" => Kind::LighttpdResident,
            _ => return None,
        };
        let (mut dir, mut executable, mut port) = (None, None, None);
        while let Some(option) = words.next() {
            let value = words.next()?;
            match option.as_str() {
                "--dir" => dir = Some(value.into()),
                "--executable" => executable = Some(value.into()),
                "--port" => port = Some(value.parse().ok()?),
                _ => return None,
            }
        }
        Some(Arguments { kind, dir: dir?, executable: executable?, port })
    }
}
