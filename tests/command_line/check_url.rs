//! `b24proxy check --url`: what the web server does, asked from outside.

use crate::check::say_time;
use crate::fixture::*;
use crate::truth::only_failure;
use crate::{assert_line, lines, run, Ended};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use support::webserver::{Kind, Setup, WebServer, ALL};

const PATH: &str = "/cgi-bin/b24proxy";

fn check(proxy: &Proxy, server: &WebServer) -> Ended {
    run(proxy, &["check", "--json", "--url", &server.url(PATH)])
}

#[test]
fn with_the_shipped_files_all_is_well_under_apache_and_nginx() {
    for kind in ALL {
        let proxy = Proxy::installed();
        say_time(&proxy, 0);
        let server = WebServer::start(&proxy.sandbox, kind);
        let proxy = proxy.reconfigured("https://www.acme.test/cgi-bin/b24proxy", &server.url(PATH));
        let ended = check(&proxy, &server);
        // The temporary folder may be a tmpfs.
        let is_refused = |check: &str| check == "large body" && !kind.takes_large_bodies();
        let accepted = |check: &str| check == "file system" || is_refused(check);
        let bad: Vec<_> =
            lines(&ended).into_iter().filter(|(check, status, _)| status != "ok" && !accepted(check)).collect();
        assert!(bad.is_empty(), "{kind:?}: {bad:?}");
        assert_eq!(ended.code == 0, kind.takes_large_bodies(), "{kind:?}");
        for name in [
            "web server",
            "path",
            "errors",
            "Authorization",
            "query",
            "body",
            "chunked body",
            "client token",
            "length",
            "line break",
            "proxy in front",
        ] {
            assert_line(&ended, name, "ok", "");
        }
        assert_line(&ended, "byte-order mark", "ok", "arrives whole");
        match kind.takes_large_bodies() {
            true => assert_line(&ended, "large body", "ok", "arrives whole"),
            false => assert_line(&ended, "large body", "fail", "FcgidMaxRequestLen"),
        }
        assert_line(&ended, "privacy", "ok", "");
    }
}

#[test]
fn url_alone_means_redirect_uri() {
    let proxy = Proxy::installed();
    let server = WebServer::start(&proxy.sandbox, Kind::ApacheCgid);
    let line = "redirect_uri  = \"https://www.acme.test/cgi-bin/b24proxy\"";
    let own = format!("redirect_uri = \"{}\"", server.url(PATH));
    let proxy = proxy.reconfigured(line, &own);
    for arguments in [["check", "--url", "--json"], ["check", "--json", "--url"]] {
        let ended = run(&proxy, &arguments);
        assert_line(&ended, "web server", "ok", "");
        assert_line(&ended, "client token", "ok", "");
    }
    let proxy = proxy.reconfigured(&own, "");
    assert_line(&run(&proxy, &["check", "--json", "--url"]), "web server", "fail", "redirect_uri");
    // What proxy.toml says is not known: one failure, not two.
    let proxy = proxy.reconfigured("[log]", "[logg]");
    let ended = run(&proxy, &["check", "--json", "--url"]);
    assert_line(&ended, "configuration", "fail", "logg");
    assert!(lines(&ended).iter().all(|(check, ..)| check != "web server"), "{}", ended.stdout);
}

#[test]
fn a_server_that_does_not_run_is_one_failure_that_asks_whether_it_runs() {
    let proxy = Proxy::installed();
    let server = WebServer::start(&proxy.sandbox, Kind::ApacheCgid);
    let url = server.url(PATH);
    server.stop();
    let (check, told) = only_failure(&run(&proxy, &["check", "--json", "--url", &url]));
    assert!(check == "web server" && told.contains("is the web server running?"), "{told}");
    assert!(told.contains("ask the host"), "on rented space nobody types systemctl: {told}");
}

#[test]
fn a_wrong_redirect_uri_is_told_with_the_right_line() {
    let proxy = Proxy::installed();
    let server = WebServer::start(&proxy.sandbox, Kind::ApacheCgid);
    let proxy = proxy.reconfigured("https://www.acme.test/cgi-bin/b24proxy", &server.url("/cgi-bin/bitrix"));
    let (check_name, told) = only_failure(&check(&proxy, &server));
    assert!(check_name == "redirect_uri" && told.contains("where the program does not answer"), "{told}");
    let right = format!("redirect_uri = {:?}", server.url(PATH));
    assert!(told.contains(&format!("write {right} under [bitrix24]")), "{told}");
    let wrong = format!("redirect_uri  = {:?}", server.url("/cgi-bin/bitrix"));
    let proxy = proxy.reconfigured(&wrong, &right);
    assert_eq!(check(&proxy, &server).code, 0);
}

#[test]
fn what_check_has_told_of_the_files_is_not_told_again_of_the_web_server() {
    let proxy = Proxy::installed().on_files();
    let server = WebServer::start(&proxy.sandbox, Kind::ApacheCgid);
    let config = proxy.config().to_owned();
    proxy.sandbox.write_config(&config.replace(&proxy.simulator.client_secret(), "…"));
    assert_eq!(only_failure(&check(&proxy, &server)).0, "configuration");
    proxy.sandbox.write_config(&config);
    fs::set_permissions(proxy.sandbox.tokens(), fs::Permissions::from_mode(0o500)).unwrap();
    let ended = check(&proxy, &server);
    let failed: Vec<_> = lines(&ended).into_iter().filter(|(_, status, _)| status == "fail").collect();
    assert!(failed.iter().all(|(check, ..)| check == "token folder" || check == "redirect_uri"), "{failed:?}");
    assert_line(&ended, "web server", "ok", "named above");
}

#[test]
fn an_authorization_that_apache_keeps_to_itself_is_named() {
    let proxy = Proxy::installed();
    let folder = proxy.sandbox.path().join("cgi-bin");
    let directives =
        format!("<Directory \"{}\">\n<Files b24proxy>\nCGIPassAuth Off\n</Files>\n</Directory>", folder.display());
    let setup = Setup { directives, ..Setup::default() };
    let server = WebServer::start_with(&proxy.sandbox, Kind::ApacheCgid, &setup);
    let ended = check(&proxy, &server);
    assert_line(&ended, "Authorization", "fail", "CGIPassAuth On");
    assert_line(&ended, "Authorization", "fail", "X-B24proxy-Token");
}

/// Directives for the executable, after the shipped ones.
fn for_the_program(proxy: &Proxy, lines: &str) -> String {
    let folder = proxy.sandbox.path().join("cgi-bin");
    format!("<Directory \"{}\">\n<Files b24proxy>\n{lines}\n</Files>\n</Directory>\n", folder.display())
}

#[test]
fn a_length_that_apache_leaves_out_is_named_with_the_line_that_mends_it() {
    for kind in [Kind::ApacheCgid, Kind::ApacheCgi] {
        let proxy = Proxy::installed();
        let directives = for_the_program(&proxy, "UnsetEnv ap_trust_cgilike_cl");
        let server = WebServer::start_with(&proxy.sandbox, kind, &Setup { directives, ..Setup::default() });
        assert_line(&check(&proxy, &server), "length", "fail", "SetEnv ap_trust_cgilike_cl 1");
    }
    let proxy = Proxy::installed();
    let server = WebServer::start(&proxy.sandbox, Kind::ApacheHtaccess);
    let htaccess = proxy.sandbox.path().join("htdocs/cgi-bin/.htaccess");
    let shipped = fs::read_to_string(&htaccess).unwrap();
    let old = shipped.replace("SetEnvIf Request_Method . ap_trust_cgilike_cl", "");
    assert_ne!(old, shipped);
    proxy.sandbox.write("htdocs/cgi-bin/.htaccess", 0o644, old.as_bytes());
    assert_line(&check(&proxy, &server), "length", "fail", "SetEnvIf Request_Method . ap_trust_cgilike_cl");
}

#[test]
fn a_large_body_and_a_line_break_that_are_refused_before_the_program_are_named() {
    let proxy = Proxy::installed();
    let rules = "LimitRequestBody 500000\nRewriteEngine On\nRewriteCond %{QUERY_STRING} %0A [NC]\nRewriteRule ^ - [F]";
    let directives = for_the_program(&proxy, rules);
    let server = WebServer::start_with(&proxy.sandbox, Kind::ApacheCgid, &Setup { directives, ..Setup::default() });
    let ended = check(&proxy, &server);
    assert_line(&ended, "large body", "fail", "status 413");
    assert_line(&ended, "large body", "fail", "LimitRequestBody");
    assert_line(&ended, "byte-order mark", "ok", "arrives whole");
    assert_line(&ended, "line break", "fail", "status 403");

    let proxy = Proxy::installed();
    // A longer location than the shipped one, as where the snippet was copied without its limit.
    let directives = "location = /cgi-bin/b24proxy { client_max_body_size 1000k; proxy_pass http://127.0.0.1:1; }";
    let setup = Setup { directives: directives.into(), ..Setup::default() };
    let server = WebServer::start_with(&proxy.sandbox, Kind::Nginx, &setup);
    assert_line(&check(&proxy, &server), "large body", "fail", "client_max_body_size 17m");
}

#[test]
fn what_modsecurity_refuses_is_named_and_its_audit_log_holds_no_token() {
    let recommended = fs::read_to_string("/etc/modsecurity/modsecurity.conf-recommended")
        .expect("the Debian package libapache2-mod-security2 (tests/packages.sh)")
        .replace("SecRuleEngine DetectionOnly", "SecRuleEngine On")
        .replace("/var/log/apache2/", "{folder}/")
        .replace("SecUnicodeMapFile unicode", "SecUnicodeMapFile /etc/modsecurity/unicode");
    for (mended, status) in [("", "fail"), ("SecRuleEngine Off", "ok")] {
        let proxy = Proxy::installed();
        let directives = format!("SecDataDir {{folder}}\n{recommended}\n{}", for_the_program(&proxy, mended));
        let setup = Setup { directives, modules: &["unique_id", "security2"], ..Setup::default() };
        let server = WebServer::start_with(&proxy.sandbox, Kind::ApacheCgid, &setup);
        let ended = check(&proxy, &server);
        assert_line(&ended, "large body", status, if mended.is_empty() { "status 413" } else { "arrives whole" });
        assert_line(&ended, "byte-order mark", status, if mended.is_empty() { "SecRuleEngine Off" } else { "whole" });
        let audit = fs::read(server.folder().join("modsec_audit.log")).expect("ModSecurity has made it");
        assert!(!String::from_utf8_lossy(&audit).contains(TOKEN), "{mended}");
    }
}

#[test]
fn a_path_that_apache_does_not_pass_is_named() {
    let proxy = Proxy::installed();
    let folder = proxy.sandbox.path().join("cgi-bin");
    let directives =
        format!("<Directory \"{}\">\n<Files b24proxy>\nAcceptPathInfo Off\n</Files>\n</Directory>", folder.display());
    let setup = Setup { directives, ..Setup::default() };
    let server = WebServer::start_with(&proxy.sandbox, Kind::ApacheCgid, &setup);
    assert_line(&check(&proxy, &server), "path", "fail", "AcceptPathInfo On");
}

#[test]
fn a_path_that_nginx_does_not_split_is_named_and_no_version_blamed() {
    let proxy = Proxy::installed();
    // By its own name the program finds the route all the same; at an address of another name it cannot.
    let program = proxy.sandbox.executable();
    let directives = format!(
        "location /tools/ {{ fastcgi_pass unix:{{folder}}/b24proxy.socket; include /etc/nginx/fastcgi_params; fastcgi_param \
         GATEWAY_INTERFACE CGI/1.1; fastcgi_param SCRIPT_FILENAME {}; }}",
        program.display()
    );
    let server = WebServer::start_with(&proxy.sandbox, Kind::Nginx, &Setup { directives, ..Setup::default() });
    let ended = run(&proxy, &["check", "--json", "--url", &server.url("/tools/b24proxy")]);
    assert_line(&ended, "path", "ok", "");
    let ended = run(&proxy, &["check", "--json", "--url", &server.url("/tools/bitrix")]);
    assert_line(&ended, "path", "fail", "PATH_INFO");
    assert_line(&ended, "path", "fail", "fastcgi_split_path_info");
    assert!(!lines(&ended).iter().any(|(_, _, text)| text.contains("version")), "{:?}", lines(&ended));
    for status in [404, 405] {
        let ours = format!("{status} -\r\nX-Request-Id: 1\r\nX-Content-Type-Options: nosniff");
        let url = answering(move |_| ours.clone());
        assert_line(&run(&proxy, &["check", "--json", "--url", &url]), "path", "fail", "not split");
    }
}

#[test]
fn a_web_server_in_front_is_named_with_the_setting_that_lets_the_callers_address_count() {
    let proxy = Proxy::installed();
    let apache = WebServer::start(&proxy.sandbox, Kind::ApacheCgid);
    let front = |header: &str| {
        let to = apache.url("/cgi-bin/b24proxy");
        let directives = format!("location /front {{ proxy_pass {to}; proxy_set_header X-Forwarded-For {header}; }}");
        WebServer::start_with(&proxy.sandbox, Kind::Nginx, &Setup { directives, ..Setup::default() })
    };
    // As if the caller were another machine.
    let (adding, passing) =
        (front("\"$http_x_forwarded_for, 192.0.2.7\""), front("\"192.0.2.7, $http_x_forwarded_for\""));
    let told = |proxy: &Proxy, server: &WebServer, path: &str, status: &str, word: &str| {
        let ended = run(proxy, &["check", "--json", "--url", &server.url(path)]);
        assert_line(&ended, "proxy in front", status, word);
    };
    told(&proxy, &apache, PATH, "ok", "none shows");
    told(&proxy, &adding, "/front", "ok", "127.0.0.1");
    let security = |lines: &str| {
        proxy.sandbox.write_config(&proxy.config().replace("[security]", &format!("[security]\n{lines}")));
    };
    security("allowed_ips = [\"127.0.0.1\"]");
    told(&proxy, &adding, "/front", "warn", "trusted_proxies = [\"127.0.0.1\"]");
    security("allowed_ips = [\"192.0.2.7\"]");
    told(&proxy, &adding, "/front", "fail", "trusted_proxies = [\"127.0.0.1\"]");
    security("allowed_ips = [\"192.0.2.7\"]\ntrusted_proxies = [\"127.0.0.1\"]");
    told(&proxy, &adding, "/front", "ok", "192.0.2.7");
    security("trusted_proxies = [\"127.0.0.1\"]");
    told(&proxy, &passing, "/front", "fail", "choose its address");
}

#[test]
fn a_program_that_is_not_run_is_named_by_what_is_answered_instead() {
    let proxy = Proxy::installed();
    let server = WebServer::start(&proxy.sandbox, Kind::ApacheHtaccess);
    let folder = proxy.sandbox.path().join("htdocs/cgi-bin");
    let program = folder.join("b24proxy");
    // Apache hands out only what it may read as a file; below it there is nothing.
    let htaccess = fs::read(folder.join(".htaccess")).unwrap();
    proxy.sandbox.write("htdocs/cgi-bin/.htaccess", 0o644, b"AcceptPathInfo On\n");
    assert_line(&check(&proxy, &server), "web server", "fail", "hands out the program's file");
    proxy.sandbox.write("htdocs/cgi-bin/.htaccess", 0o644, &htaccess);
    proxy.sandbox.write("htdocs/cgi-bin/b24proxy", 0o755, b"#!/bin/sh\nexit 1\n");
    assert_line(&check(&proxy, &server), "web server", "fail", "Premature end of script headers");
    proxy.sandbox.write("htdocs/cgi-bin/b24proxy", 0o755, b"#!/bin/sh\nprintf 'Content-Type: text/html\\n\\n<html>'\n");
    assert_line(&check(&proxy, &server), "web server", "fail", "another page");
    proxy.sandbox.write("htdocs/cgi-bin/.htaccess", 0o644, b"Require all denied\n");
    assert_line(&check(&proxy, &server), "web server", "fail", "forbids");
    proxy.sandbox.write("htdocs/cgi-bin/.htaccess", 0o644, &htaccess);
    fs::remove_file(program).unwrap();
    assert_line(&check(&proxy, &server), "web server", "fail", "finds nothing");
}

#[test]
fn a_htaccess_that_was_not_uploaded_shows_in_the_program_being_handed_out() {
    let proxy = Proxy::installed();
    let server = WebServer::start(&proxy.sandbox, Kind::ApacheHtaccess);
    fs::remove_file(proxy.sandbox.path().join("htdocs/cgi-bin/.htaccess")).unwrap();
    let ended = check(&proxy, &server);
    assert_line(&ended, "web server", "fail", "hands out the program's file");
    assert_line(&ended, "web server", "fail", ".htaccess is missing beside it");
}

#[test]
fn a_gateway_without_fcgiwrap_is_a_502_that_is_explained() {
    let proxy = Proxy::installed();
    let server = WebServer::start(&proxy.sandbox, Kind::Nginx);
    let fcgiwrap = server.process_groups()[1];
    let killed =
        Command::new("/bin/sh").args(["-c", "kill -s KILL -- \"-$1\"", "kill", &fcgiwrap.to_string()]).status();
    assert!(killed.unwrap().success());
    assert_line(&check(&proxy, &server), "web server", "fail", "fcgiwrap");
}

#[test]
fn errors_that_nginx_replaces_by_its_own_pages_are_named() {
    let proxy = Proxy::installed();
    // A longer location than the shipped one takes the address that check asks for, as an error page would.
    let directives = "error_page 404 /404.html; location = /404.html { internal; return 404 \"<html>gone</html>\"; } \
                      location ^~ /cgi-bin/b24proxy/check-no { return 404; }";
    let setup = Setup { directives: directives.into(), ..Setup::default() };
    let server = WebServer::start_with(&proxy.sandbox, Kind::Nginx, &setup);
    assert_line(&check(&proxy, &server), "errors", "fail", "fastcgi_intercept_errors");
}

#[test]
fn a_configuration_or_token_file_that_is_handed_out_is_named() {
    let proxy = Proxy::installed();
    let server = WebServer::start(&proxy.sandbox, Kind::ApacheHtaccess);
    proxy.sandbox.write("htdocs/proxy.toml", 0o644, proxy.config().as_bytes());
    assert_line(&check(&proxy, &server), "privacy", "fail", "/proxy.toml");
    fs::remove_file(proxy.sandbox.path().join("htdocs/proxy.toml")).unwrap();
    proxy.sandbox.make_folder("htdocs/tokens", 0o755);
    let name = format!("htdocs/tokens/{}.json", proxy.stem());
    proxy.sandbox.write(&name, 0o644, proxy.stored().to_string().as_bytes());
    assert_line(&check(&proxy, &server), "privacy", "fail", "/tokens/");
}

#[test]
fn a_log_that_is_handed_out_is_named() {
    let proxy = Proxy::installed().reconfigured("[log]", "[log]\nfile = \"../htdocs/logs/calls.txt\"");
    let server = WebServer::start(&proxy.sandbox, Kind::ApacheHtaccess);
    proxy.sandbox.make_folder("htdocs/logs", 0o755);
    let line = r#"{"client":"1c","level":"info","message":"answered","time":"2026-01-01T00:00:00.000Z"}"#;
    proxy.sandbox.write("htdocs/logs/calls.txt", 0o644, line.as_bytes());
    assert_line(&check(&proxy, &server), "privacy", "fail", "/logs/calls.txt");
}

#[test]
fn a_configuration_that_is_handed_out_from_a_folder_of_any_name_is_named() {
    let proxy = Proxy::installed();
    let server = WebServer::start(&proxy.sandbox, Kind::ApacheHtaccess);
    // As the command line the other copy of the program runs: its place does not show which folder is handed out.
    let config = proxy.config().replace("\"ca.pem\"", "\"../../../b24proxy/ca.pem\"");
    proxy.sandbox.make_folder("htdocs/site", 0o755);
    proxy.sandbox.make_folder("htdocs/site/private", 0o755);
    for name in ["own.toml", "own.toml.2024"] {
        let path = format!("htdocs/site/private/{name}");
        proxy.sandbox.write(&path, 0o600, config.as_bytes());
        let mut command = proxy.sandbox.command_line(&["check", "--json", "--url", &server.url(PATH)]);
        command.env("B24PROXY_CONFIG", proxy.sandbox.path().join("htdocs/site/private/own.toml"));
        let ended = crate::ended(&proxy, command, "");
        assert_line(&ended, "privacy", "fail", &format!("/site/private/{name}"));
    }
}

#[test]
fn a_configuration_that_only_the_command_line_can_use_shows_in_the_web_servers_run() {
    let proxy = Proxy::installed();
    let server = WebServer::start(&proxy.sandbox, Kind::Nginx);
    let elsewhere = proxy.config().replace("\"ca.pem\"", "\"../b24proxy/ca.pem\"");
    proxy.sandbox.make_folder("own", 0o755);
    proxy.sandbox.write("own/proxy.toml", 0o600, elsewhere.as_bytes());
    fs::set_permissions(proxy.sandbox.config(), fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = proxy.sandbox.command_line(&["check", "--json", "--url", &server.url(PATH)]);
    command.env("B24PROXY_CONFIG", proxy.sandbox.path().join("own/proxy.toml"));
    assert_line(&crate::ended(&proxy, command, ""), "web server", "fail", "cannot use its configuration");

    // Another configuration than the web server's: its client token is not known there.
    fs::set_permissions(proxy.sandbox.config(), fs::Permissions::from_mode(0o600)).unwrap();
    let other = elsewhere.replace(TOKEN, "another-token-of-another-file");
    proxy.sandbox.write("own/proxy.toml", 0o600, other.as_bytes());
    let mut command = proxy.sandbox.command_line(&["check", "--json", "--url", &server.url(PATH)]);
    command.env("B24PROXY_CONFIG", proxy.sandbox.path().join("own/proxy.toml"));
    assert_line(&crate::ended(&proxy, command, ""), "client token", "fail", "another proxy.toml");
}

/// A web server that answers a request line with a status and headers.
fn answering(answer: impl Fn(&str) -> String + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}{PATH}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut lines = reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            let first = lines.next().unwrap_or_default();
            let headers: Vec<String> = lines.map(|line| line.to_ascii_lowercase()).collect();
            let length = headers.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let _ = reader.take(length.unwrap_or(0)).read_to_end(&mut Vec::new());
            let head = answer(&first);
            let _ = write!(stream, "HTTP/1.1 {head}\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>");
        }
    });
    url
}

#[test]
fn a_query_or_a_body_that_does_not_arrive_is_named() {
    let proxy = Proxy::installed();
    let url = answering(|request| {
        let status = match request {
            health if health.contains("/health") => 200,
            // As the program answers when the query, or the body, is lost.
            query if query.contains("?portal=") => 405,
            post if post.starts_with("POST") => 401,
            _ => 404,
        };
        format!("{status} -\r\nX-Request-Id: 1\r\nX-Content-Type-Options: nosniff")
    });
    let ended = run(&proxy, &["check", "--json", "--url", &url]);
    assert_line(&ended, "query", "fail", "QUERY_STRING");
    assert_line(&ended, "body", "fail", "CONTENT_LENGTH");
    assert_line(&ended, "chunked body", "warn", "fastcgi_request_buffering");
}

#[test]
fn redirects_passwords_and_used_up_resources_are_explained() {
    let proxy = Proxy::installed();
    for (head, word) in [
        ("301 Moved Permanently\r\nLocation: https://www.acme.test/cgi-bin/b24proxy/health", "www.acme.test"),
        ("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"site\"", "password"),
        ("508 Loop Detected", "CloudLinux"),
        ("504 Gateway Timeout", "more workers"),
    ] {
        let url = answering(move |_| head.to_owned());
        assert_line(&run(&proxy, &["check", "--json", "--url", &url]), "web server", "fail", word);
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{closed}{PATH}");
    assert_line(&run(&proxy, &["check", "--json", "--url", &url]), "web server", "fail", "refuses the connection");
    assert_eq!(run(&proxy, &["check", "--url", "www.acme.test"]).code, 2);
}
