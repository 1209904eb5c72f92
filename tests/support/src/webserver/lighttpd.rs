//! lighttpd of Debian.

use super::{replaced, require, run, Kind, Layout, Setup, MARKER, SOCKET};
use crate::processes::Group;

const LIGHTTPD: &str = "/usr/sbin/lighttpd";

pub fn start(layout: &Layout, kind: Kind, setup: &Setup) -> Vec<Group> {
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
    if kind == Kind::LighttpdResident {
        shipped += &replaced(
            "lighttpd/b24proxy-fastcgi.conf",
            &[
                (1, "/usr/lib/cgi-bin/b24proxy", program),
                (1, "/run/lighttpd/b24proxy.socket", layout.file(SOCKET)),
                (1, "--workers 8", format!("--workers {}", setup.fcgiwrap_workers)),
            ],
        );
    }
    layout.write("b24proxy.conf", &shipped);
    layout.sandbox.make_folder(&layout.inside("uploads"), 0o755);
    layout.write("lighttpd.conf", &lighttpd_config(layout, setup));
    let mut command = layout.command(LIGHTTPD, "start.log");
    command.args(["-D", "-f", &layout.file("lighttpd.conf")]);
    vec![run(command)]
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
