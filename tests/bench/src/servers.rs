//! What the web servers' configuration has beside the shipped files.

use crate::Bench;
use std::path::Path;
use support::webserver::Kind;

impl Bench {
    /// What the others need beside this program's shipped configuration.
    pub fn directives(&self, kind: Kind) -> String {
        let folder = self.folder();
        if kind != Kind::Nginx {
            let fcgid = self.sandbox.path().join("fcgid").display().to_string();
            let glibc = self.sandbox.path().join("glibc").display().to_string();
            let shipped = shipped("apache/b24proxy.conf");
            let of_glibc =
                shipped.replace("${B24PROXY_CGI_BIN}", &glibc).replace("/cgi-bin/b24proxy", "/glibc/b24proxy");
            return format!(
                r#"
{of_glibc}
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_fcgi_module /usr/lib/apache2/modules/mod_proxy_fcgi.so
ScriptAlias "/bench/" "{folder}/"
Alias "/fpm/" "{folder}/"
<Directory "{folder}">
    Require all granted
    CGIPassAuth On
    SetEnv REDIRECT_STATUS 200
</Directory>
<Location "/fpm/">
    SetHandler "proxy:unix:{folder}/fpm.socket|fcgi://localhost"
</Location>
LoadModule fcgid_module /usr/lib/apache2/modules/mod_fcgid.so
FcgidIPCDir "{{folder}}"
FcgidProcessTableFile "{{folder}}/fcgid_shm"
# As many processes as are needed within seconds: after ten it starts one a second.
FcgidSpawnScoreUpLimit 100
Alias "/fcgid/" "{fcgid}/"
<Directory "{fcgid}">
    Require all granted
    Options +ExecCGI
    CGIPassAuth On
    SetHandler fcgid-script
</Directory>
"#
            );
        }
        let parameters = "
            fastcgi_param GATEWAY_INTERFACE CGI/1.1;
            fastcgi_param SERVER_PROTOCOL $server_protocol;
            fastcgi_param SERVER_NAME $server_name;
            fastcgi_param SERVER_PORT $server_port;
            fastcgi_param REMOTE_ADDR $remote_addr;
            fastcgi_param DOCUMENT_ROOT $document_root;
            fastcgi_param SCRIPT_NAME $fastcgi_script_name;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param REQUEST_URI $request_uri;
            fastcgi_param QUERY_STRING $query_string;
            fastcgi_param CONTENT_TYPE $content_type;
            fastcgi_param CONTENT_LENGTH $content_length;
            fastcgi_param REDIRECT_STATUS 200;
            access_log off;";
        let place = |path: &str, socket: &str, script: &str| {
            format!(
                "location {path} {{ fastcgi_pass unix:{socket};
                 fastcgi_param SCRIPT_FILENAME {script}; {parameters} }}\n"
            )
        };
        let fcgiwrap = format!("{}$fastcgi_script_name", self.sandbox.path().display());
        let mut text = place("/bench/", "{folder}/b24proxy.socket", &fcgiwrap);
        for script in ["proxy.php", "proxy-stream.php"] {
            let program = format!("{folder}/{script}");
            text += &place(&format!("= /fpm/{script}"), &format!("{folder}/fpm.socket"), &program);
        }
        text += &self.at_nginx("glibc", "unix:{folder}/b24proxy.socket;");
        text += &self.at_nginx("resident", &format!("unix:{folder}/resident.socket;"));
        text += &self.at_nginx("kept", "kept;\nfastcgi_keep_conn on;");
        for name in ["four", "postgres-socket", "postgres-tls", "pgbouncer", "mysql-socket", "mysql-tls"] {
            text += &self.at_nginx(name, &format!("unix:{folder}/{name}.socket;"));
        }
        text
    }

    /// What nginx's configuration has beside `server { }`.
    pub fn beside(&self) -> String {
        format!("upstream kept {{ server unix:{}/resident.socket; keepalive 16; }}", self.folder())
    }

    fn folder(&self) -> String {
        self.sandbox.path().join("bench").display().to_string()
    }

    /// The configuration that is shipped for nginx, for another path and another place.
    fn at_nginx(&self, name: &str, place: &str) -> String {
        let log = format!("error_log {}/nginx.log alert;", self.folder());
        // Only fcgiwrap asks which program to start.
        let program = format!(" {}/{name}/b24proxy;", self.sandbox.path().display());
        [
            ("fastcgi_pass unix:/run/b24proxy.socket;", format!("fastcgi_pass {place}")),
            ("error_log /var/log/nginx/error.log alert;", log),
            (" /usr/lib/cgi-bin/b24proxy;", program),
            ("/cgi-bin/b24proxy", format!("/{name}/b24proxy")),
        ]
        .into_iter()
        .fold(shipped("nginx/b24proxy.conf"), |text, (theirs, ours)| text.replace(theirs, &ours))
    }
}

/// A file of deploy/.
fn shipped(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name);
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("deploy/{name}: {error}"))
}
