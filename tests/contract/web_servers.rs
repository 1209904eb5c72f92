//! The same executable behind real web servers with the shipped configuration: what differs between them must not be
//! seen by 1C.

use crate::fixture::*;
use serde_json::json;
use simulator::{Action, Fault, Target};
use std::io::Read;
use std::time::Duration;
use support::http::{chunk, Answer, Connection, Request};
use support::webserver::{Kind, Setup, WebServer, ALL};
use support::{cgi::Cgi, eventually, with_descendants};

pub const PROGRAM: &str = "/cgi-bin/b24proxy";
const PRODUCT: &str = r#"{"method":"catalog.product.add","params":{"fields":{"iblockId":15,"name":"Стол"}}}"#;

/// Each server with a proxy of its own.
fn under_each(test: impl Fn(&Proxy, &WebServer)) {
    under_each_of(&ALL, Proxy::installed, test);
}

/// Those that let large bodies through.
pub fn for_large_bodies() -> Vec<Kind> {
    ALL.into_iter().filter(|kind| kind.takes_large_bodies()).collect()
}

pub fn under_each_of(kinds: &[Kind], proxy: impl Fn() -> Proxy, test: impl Fn(&Proxy, &WebServer)) {
    for kind in kinds {
        let proxy = proxy();
        let server = WebServer::start(&proxy.sandbox, *kind);
        test(&proxy, &server);
    }
}

fn call(server: &WebServer, body: impl Into<Vec<u8>>) -> Request {
    server.request("POST", PROGRAM).bearer(TOKEN).json(body)
}

fn chunked(server: &WebServer, chunks: &[&[u8]]) -> Request {
    server.request("POST", PROGRAM).bearer(TOKEN).header("Content-Type", "application/json").chunked(chunks)
}

/// A call whose `sim.echo` answers `size` bytes and more.
fn echo(size: usize) -> String {
    json!({"method": "sim.echo", "params": {"text": "я".repeat(size / 2)}}).to_string()
}

#[track_caller]
pub fn assert_failure(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.json()["error_code"], code);
    assert_eq!(answer.header("Content-Type"), Some("application/json; charset=utf-8"));
}

/// Processes of the executable that serve requests or refresh a pair, or wait to do so: not those that have others do it.
pub fn programs(proxy: &Proxy) -> Vec<u32> {
    let is_one = |pid: &u32| {
        let is_program = std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("b24proxy"));
        is_program && !with_descendants(*pid).into_iter().any(is_worker)
    };
    let found = proxy.sandbox.processes().into_iter();
    found.filter(|pid| is_worker(*pid) || is_one(pid)).collect()
}

/// Of a program that stays.
fn is_worker(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(b"worker")
}

/// No request goes on, and no refresh: of a program that stays there are no more processes than wait for the next requests.
pub fn assert_idle(proxy: &Proxy, server: &WebServer) {
    // mod_fcgid starts programs of one worker as it likes.
    let most = match server.kind() {
        kind if kind.is_mod_fcgid() => usize::MAX,
        kind if kind.is_resident() => 8,
        _ => 0,
    };
    eventually("no process is left", || {
        let programs = programs(proxy);
        programs.len() <= most && programs.into_iter().all(is_worker)
    });
}

/// Nothing in the log that an administrator would have to look into.
#[track_caller]
pub fn assert_quiet(server: &WebServer) {
    let log = server.error_log();
    // mod_fcgid warns of every client that has gone.
    let own = if server.kind().is_mod_fcgid() { "panick" } else { "Broken pipe" };
    for noise in ["panick", "internal error", own, "\"level\":\"error\"", "Premature end", "malformed header"] {
        assert!(!log.contains(noise), "{noise}: {log}");
    }
}

#[test]
fn the_1c_call_creates_its_product_and_is_answered_byte_for_byte() {
    under_each(|proxy, server| {
        let answer = call(server, PRODUCT).send();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let ledger = proxy.simulator.ledger();
        assert_eq!(ledger.executed("catalog.product.add"), 1);
        let sent = String::from_utf8(ledger.last_call().unwrap().answer.clone()).unwrap();
        assert_eq!(answer.text(), format!("{{\"success\":true,\"data\":{sent}}}"));
        assert_eq!(answer.header("Cache-Control"), Some("no-store"));
        assert_eq!(ledger.last_call().unwrap().call().unwrap().params["fields"]["name"], "Стол");
        assert_quiet(server);
    });
}

#[test]
fn credentials_are_accepted_as_bearer_as_basic_and_in_the_programs_own_header() {
    under_each(|_, server| {
        let basic = "Basic MUM6YS1jbGllbnQtdG9rZW4tZm9yLXRlc3Rz"; // 1C:TOKEN
        for (name, value) in [
            ("Authorization", format!("Bearer {TOKEN}")),
            ("authorization", basic.to_owned()),
            ("X-B24proxy-Token", TOKEN.to_owned()),
        ] {
            let request = server.request("POST", PROGRAM).header(name, &value).json(r#"{"method":"profile"}"#);
            let answer = request.send();
            assert_eq!(answer.status, 200, "{name}: {value}: {}", answer.text());
        }
        let wrong = server.request("POST", PROGRAM).bearer("wrong").json(PRODUCT).send();
        assert_failure(&wrong, 401, "unauthorized");
        assert!(wrong.header("WWW-Authenticate").is_some_and(|both| both.contains("Bearer") && both.contains("Basic")));
    });
}

#[test]
fn a_byte_order_mark_a_missing_content_type_and_a_chunked_body_are_accepted() {
    under_each(|proxy, server| {
        assert_eq!(call(server, format!("\u{feff}{PRODUCT}")).send().status, 200);
        assert_eq!(server.request("POST", PROGRAM).bearer(TOKEN).body(PRODUCT).send().status, 200);
        let (head, tail) = PRODUCT.as_bytes().split_at(20);
        assert_eq!(chunked(server, &[head, tail]).send().status, 200);
        assert_eq!(proxy.simulator.ledger().executed("catalog.product.add"), 3);
    });
}

#[test]
fn a_body_of_3_mb_arrives_whole_with_and_without_a_length() {
    under_each_of(&for_large_bodies(), Proxy::installed, |_, server| {
        let body = echo(3 << 20);
        let text = "я".repeat((3 << 20) / 2);
        let answer = call(server, body.as_str()).send();
        assert_eq!(answer.status, 200, "{:.300}", answer.text());
        assert!(answer.json()["data"]["result"]["text"] == text, "every byte came back");
        let chunks: Vec<&[u8]> = body.as_bytes().chunks(64 << 10).collect();
        let answer = chunked(server, &chunks).send();
        assert_eq!(answer.status, 200, "{:.300}", answer.text());
        assert!(answer.json()["data"]["result"]["text"] == text, "every byte came back");
        assert_quiet(server);
    });
}

#[test]
fn a_refused_big_body_is_answered_with_the_programs_own_answer() {
    let small = || Proxy::installed().reconfigured("max_wait = 5", "max_wait = 5\nmax_body = \"1 MiB\"");
    under_each_of(&for_large_bodies(), small, |proxy, server| {
        let big = vec![b' '; 3 << 20];
        assert_failure(&call(server, big.clone()).send(), 413, "body_too_large");
        assert_failure(&chunked(server, &[&big]).send(), 413, "body_too_large");
        // Without credentials.
        assert_failure(&server.request("POST", PROGRAM).json(big.clone()).send(), 401, "unauthorized");
        assert_failure(&server.request("POST", PROGRAM).bearer("wrong").json(big.clone()).send(), 401, "unauthorized");
        let form = server.request("POST", PROGRAM).header("Content-Type", "application/x-www-form-urlencoded");
        assert_failure(&form.body(big.clone()).send(), 413, "body_too_large");
        // Early answers that have nothing to do with the body.
        let at = |method: &str, path: &str| server.request(method, &format!("{PROGRAM}{path}")).bearer(TOKEN);
        assert_failure(&at("POST", "/nothing/here").json(big.clone()).send(), 404, "not_found");
        assert_failure(&at("PUT", "").json(big.clone()).send(), 405, "method_not_supported");
        assert_eq!(proxy.simulator.ledger().all_connections(), 0);
        assert_quiet(server);
    });
}

#[test]
fn a_body_above_the_default_max_body_is_413_and_not_the_servers_own_page() {
    under_each_of(&for_large_bodies(), Proxy::installed, |_, server| {
        let big = vec![b' '; (16 << 20) + 1];
        assert_failure(&call(server, big).send(), 413, "body_too_large");
    });
}

#[test]
fn head_is_answered_without_a_body_and_paths_are_routes() {
    under_each(|_, server| {
        let health = format!("{PROGRAM}/health");
        let answer = server.request("GET", &health).send();
        assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"status":"ok"}"#));
        let answer = server.request("HEAD", &health).send();
        assert_eq!((answer.status, answer.body.len()), (200, 0));
        assert_eq!(answer.header("Content-Type"), Some("application/json; charset=utf-8"));
        let again = server.request("GET", &format!("{health}?x=1")).send();
        assert_eq!(again.status, 200);
        assert_failure(&server.request("GET", &format!("{PROGRAM}/x.json")).send(), 404, "not_found");
        assert_quiet(server);
    });
}

#[test]
fn a_query_of_search_words_is_a_request_and_not_the_command_line() {
    under_each(|_, server| {
        for words in ["check+now", "refresher+acme", "version", "--help"] {
            let answer = server.request("GET", &format!("{PROGRAM}?{words}")).send();
            assert_failure(&answer, 405, "method_not_supported");
            let answer = server
                .request("POST", &format!("{PROGRAM}?{words}"))
                .bearer(TOKEN)
                .json(r#"{"method":"profile"}"#)
                .send();
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    });
}

#[test]
fn without_path_info_the_route_is_what_follows_the_name_in_the_address() {
    let proxy = Proxy::installed();
    let get = |path: &str| Cgi::new(&proxy.sandbox).path(path).without("PATH_INFO").run();
    assert_eq!(get("/health").status, 200);
    assert_eq!(get("/nothing").status, 404);
    let answer = proxy.request(r#"{"method":"profile"}"#).without("PATH_INFO").without("REQUEST_URI").run();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn an_address_that_the_server_has_not_split_has_its_route_all_the_same() {
    let proxy = Proxy::installed();
    let program = proxy.sandbox.executable().display().to_string();
    let whole = |address: &str| {
        let request = Cgi::new(&proxy.sandbox).env("SCRIPT_NAME", address).env("REQUEST_URI", address);
        request.env("SCRIPT_FILENAME", &program).without("PATH_INFO")
    };
    let webhook = format!("/cgi-bin/b24proxy/rest/1/{TOKEN}/profile");
    for way in ["as nginx", "with an empty PATH_INFO", "as IIS", "without REQUEST_URI", "without SCRIPT_NAME"] {
        let at = |address: &str| match way {
            "with an empty PATH_INFO" => whole(address).env("PATH_INFO", ""),
            "as IIS" => whole(address).env("PATH_INFO", address),
            "without REQUEST_URI" => whole(address).without("REQUEST_URI"),
            "without SCRIPT_NAME" => whole(address).without("SCRIPT_NAME"),
            _ => whole(address),
        };
        assert_eq!(at("/cgi-bin/b24proxy/health").run().text(), r#"{"status":"ok"}"#);
        assert_eq!(at("/cgi-bin/b24proxy/health").method("HEAD").run().status, 200);
        assert_eq!(at("/cgi-bin/b24proxy/status").run().status, 401, "{way}");
        assert_eq!(at(&webhook).run().status, 200, "{way}");
        assert_eq!(at(&format!("/rest/1/{TOKEN}/profile")).run().status, 200);
        assert_eq!(at("/cgi-bin/b24proxy/rest/1").run().json()["error"], "NOT_FOUND");
        let call = at("/cgi-bin/b24proxy").bearer(TOKEN).json(r#"{"method":"profile"}"#).run();
        assert_eq!(call.status, 200, "{}", call.text());
        let event = at("/cgi-bin/b24proxy/").form("event=ONCRMDEALADD").run();
        assert_eq!(event.status, 200, "{}", event.text());
        // No route is found behind another place.
        for hidden in ["/cgi-bin/b24proxy/x/cgi-bin/b24proxy/status", "/cgi-bin/b24proxy/x/b24proxy/health"] {
            assert_ne!(at(hidden).bearer(TOKEN).run().status, 200, "{hidden}");
        }
    }
    let split = Cgi::new(&proxy.sandbox).path("/cgi-bin/b24proxy/health");
    crate::fixture::assert_failure(&split.run(), 404, "not_found");
}

#[test]
fn a_renamed_program_and_one_in_a_folder_of_its_own_name_find_their_route() {
    let proxy = Proxy::installed();
    let folder = proxy.sandbox.path().join("htdocs/b24proxy");
    std::fs::create_dir_all(&folder).unwrap();
    let program = folder.join("b24proxy");
    std::fs::copy(proxy.sandbox.executable(), &program).unwrap();
    let file = proxy.sandbox.path().join("htdocs/index.cgi");
    std::os::unix::fs::symlink(&program, &file).unwrap();
    let at = |address: &str| Cgi::new(&proxy.sandbox).env("SCRIPT_NAME", address).env("REQUEST_URI", address);
    // Behind the name that the server knows there is a link, or a script, to a file of another name.
    let linked = at("/index.cgi/health").env("SCRIPT_FILENAME", &file);
    assert_eq!(linked.run().status, 200);
    proxy.run_behind("exec {}");
    let wrapped = at("/cgi-bin/b24proxy/health").env("SCRIPT_FILENAME", proxy.sandbox.executable());
    assert_eq!(wrapped.run().status, 200);
    // The program at an address of another name: that is its own, and no route.
    let call = |address: &str| at(address).bearer(TOKEN).json(r#"{"method":"profile"}"#).run().status;
    assert_eq!((call("/tools/status"), call("/rest"), call("/tools")), (200, 200, 200));
}

#[test]
fn an_nginx_that_does_not_split_the_path_is_answered_at_each_route() {
    let proxy = Proxy::installed();
    let server =
        WebServer::start_with(&proxy.sandbox, Kind::Nginx, &Setup { directives: unsplit(&proxy), ..Setup::default() });
    assert_eq!(server.request("GET", "/tools/b24proxy/health").send().status, 200);
    assert_eq!(server.request("GET", "/tools/b24proxy/status").bearer(TOKEN).send().status, 200);
    let webhook = server.request("GET", &format!("/tools/b24proxy/rest/1/{TOKEN}/profile")).send();
    assert_eq!(webhook.status, 200, "{}", webhook.text());
    let call = server.request("POST", "/tools/b24proxy").bearer(TOKEN).json(r#"{"method":"profile"}"#).send();
    assert_eq!(call.status, 200, "{}", call.text());
}

/// A location of nginx as many write it, which leaves `PATH_INFO` empty.
fn unsplit(proxy: &Proxy) -> String {
    let program = proxy.sandbox.executable();
    format!(
        "location /tools/ {{ fastcgi_pass unix:{{folder}}/b24proxy.socket; include /etc/nginx/fastcgi_params; fastcgi_param \
         GATEWAY_INTERFACE CGI/1.1; fastcgi_param SCRIPT_FILENAME {}; }}",
        program.display()
    )
}

#[test]
fn an_answer_of_5_mb_arrives_whole() {
    under_each(|proxy, server| {
        proxy.simulator.inject(Fault::forever(Target::Call, Action::HugeAnswer(5 << 20)));
        let answer = call(server, r#"{"method":"profile"}"#).send();
        assert_eq!(answer.status, 200);
        let expected = format!("{{\"success\":true,\"data\":{{\"result\":\"{}\"}}}}", "x".repeat(5 << 20));
        assert!(answer.text() == expected, "{} bytes", answer.body.len());
        // So that one that is cut off on its way does not look whole.
        assert_eq!(answer.header("Content-Length"), Some(&*expected.len().to_string()), "{:?}", server.kind());
        assert_quiet(server);
    });
}

#[test]
fn bitrix24s_status_and_the_programs_own_reach_the_caller() {
    under_each(|proxy, server| {
        for status in [400, 401, 403, 404, 429, 500, 503] {
            let params = json!({"method": "sim.fail", "params": {"status": status, "error": "E"}});
            assert_failure(&call(server, params.to_string()).send(), status, "bitrix24_error");
        }
        proxy.portal().stop();
        assert_failure(&call(server, PRODUCT).send(), 502, "bitrix24_unreachable");
    });
}

#[test]
fn a_client_that_goes_away_in_its_body_leaves_no_noise_and_no_process() {
    under_each(|proxy, server| {
        let head = |body: &str| {
            format!("POST {PROGRAM} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n{body}\r\n\r\n")
        };
        for (length, part) in [
            ("Content-Length: 100000", PRODUCT.as_bytes().to_vec()),
            ("Transfer-Encoding: chunked", chunk(PRODUCT.as_bytes())),
        ] {
            let mut connection = Connection::open(server.address(), Duration::from_secs(10)).unwrap();
            connection.send(head(length).as_bytes()).unwrap();
            connection.send(&part).unwrap();
            std::thread::sleep(Duration::from_millis(150));
        }
        assert_idle(proxy, server);
        assert_eq!(call(server, r#"{"method":"profile"}"#).send().status, 200, "the next caller is served");
        assert_quiet(server);
        let ledger = proxy.simulator.ledger();
        assert_eq!(ledger.executed("catalog.product.add"), 0, "half a request is not a request");
    });
}

#[test]
fn a_client_that_goes_away_in_its_answer_leaves_no_noise_and_no_process() {
    under_each(|proxy, server| {
        proxy.simulator.inject(Fault::forever(Target::Call, Action::HugeAnswer(20 << 20)));
        for bytes_read in [0, 100_000] {
            let request = call(server, r#"{"method":"profile"}"#);
            let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
            std::io::Write::write_all(&mut stream, &request.bytes()).unwrap();
            let seen = proxy.simulator.ledger().calls("profile");
            let arrived =
                proxy.simulator.wait_for(Duration::from_secs(10), |ledger| ledger.calls("profile") > seen || seen > 1);
            assert!(arrived || bytes_read == 0);
            let _ = stream.read_exact(&mut vec![0; bytes_read]);
        }
        assert_idle(proxy, server);
        assert_quiet(server);
        proxy.simulator.clear_faults();
        assert_eq!(call(server, r#"{"method":"profile"}"#).send().status, 200, "the next caller is served");
    });
}

#[test]
fn twenty_callers_on_an_expired_token_cause_one_refresh() {
    let expired = || {
        let proxy = Proxy::not_installed();
        proxy.store_expired_pair(&proxy.portal().issue_pair(1));
        proxy
    };
    under_each_of(&ALL, expired, |proxy, server| {
        std::thread::scope(|scope| {
            for i in 0..20 {
                scope.spawn(move || {
                    let body = json!({"method": "sim.echo", "params": {"i": i}}).to_string();
                    let answer = call(server, body).send();
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    assert_eq!(answer.json()["data"]["result"]["i"], i);
                });
            }
        });
        let ledger = proxy.simulator.ledger();
        assert_eq!((ledger.refreshes(), ledger.spent_presented()), (1, 0));
        assert_quiet(server);
    });
}

#[test]
fn a_refresh_outlives_the_web_server_that_is_stopped() {
    for kind in ALL {
        let proxy = Proxy::not_installed();
        let pair = proxy.portal().issue_pair(1);
        proxy.store_expired_pair(&pair);
        let server = WebServer::start(&proxy.sandbox, kind);
        proxy.simulator.inject(Fault::once(Target::Token, Action::Hang));
        std::thread::scope(|scope| {
            let request = call(&server, PRODUCT);
            scope.spawn(move || request.try_send());
            assert!(proxy.simulator.wait_hanging(1, Duration::from_secs(10)), "{kind:?}: the OAuth server is asked");
            // The request ends with the server, in whatever way; the scope waits for it.
            for group in server.process_groups() {
                let _ =
                    std::process::Command::new("/bin/sh").args(["-c", &format!("kill -s KILL -- -{group}")]).status();
            }
        });
        server.stop();
        proxy.simulator.release();
        eventually("the new pair is on disk", || proxy.stored()["refresh_token"] != pair.refresh_token.as_str());
        assert_eq!(proxy.call("profile", json!({})).status, 200, "{kind:?}");
        assert_eq!(proxy.simulator.ledger().refreshes(), 1, "{kind:?}");
    }
}

#[test]
fn the_answer_does_not_wait_for_a_refresher_that_hangs() {
    let expired = || {
        let proxy = Proxy::not_installed().reconfigured("max_wait = 5", "max_wait = 1");
        proxy.store_expired_pair(&proxy.portal().issue_pair(1));
        proxy
    };
    under_each_of(&ALL, expired, |proxy, server| {
        proxy.simulator.inject(Fault::once(Target::Token, Action::Hang));
        let answer = call(server, PRODUCT).timeout(Duration::from_secs(10)).send();
        assert_failure(&answer, 503, "refresh_pending");
        assert!(answer.header("Retry-After").is_some());
        assert!(answer.elapsed < Duration::from_secs(4), "{:?}", answer.elapsed);
        proxy.simulator.release();
        assert_idle(proxy, server);
        assert_eq!(call(server, PRODUCT).send().status, 200);
        assert_eq!(proxy.simulator.ledger().refreshes(), 1);
    });
}

#[test]
fn a_refresh_outlives_the_client_that_goes_away() {
    let expired = || {
        let proxy = Proxy::not_installed();
        proxy.store_expired_pair(&proxy.portal().issue_pair(1));
        proxy
    };
    under_each_of(&ALL, expired, |proxy, server| {
        let spent = proxy.stored()["refresh_token"].clone();
        proxy.simulator.inject(Fault::once(Target::Token, Action::Hang));
        let mut connection = Connection::open(server.address(), Duration::from_secs(10)).unwrap();
        connection.send(&call(server, PRODUCT).bytes()).unwrap();
        assert!(proxy.simulator.wait_hanging(1, Duration::from_secs(10)), "the OAuth server is asked");
        drop(connection);
        std::thread::sleep(Duration::from_millis(200));
        proxy.simulator.release();
        eventually("the new pair is on disk", || proxy.stored()["refresh_token"] != spent);
        assert_eq!(call(server, r#"{"method":"profile"}"#).send().status, 200);
        assert_eq!(proxy.simulator.ledger().refreshes(), 1);
        assert_idle(proxy, server);
        assert_quiet(server);
    });
}

#[test]
fn the_configuration_the_tokens_a_log_and_keys_are_not_handed_out() {
    const NAMES: [&str; 14] = [
        "proxy.toml.bak",
        "PROXY.TOML",
        "Proxy.Toml.Old",
        "proxy.old",
        "proxy.bak",
        "acme.json",
        "acme.json.new",
        "ACME.JSON.REMOVED",
        "b24proxy.log",
        "B24proxy.LOG.1",
        "log",
        "ca.pem",
        "site.key",
        "proxy.conf~",
    ];
    under_each(|proxy, server| {
        let secret = proxy.simulator.client_secret();
        for folder in ["cgi-bin", "htdocs/cgi-bin"] {
            if proxy.sandbox.path().join(folder).exists() {
                for name in NAMES {
                    proxy.sandbox.write(&format!("{folder}/{name}"), 0o644, secret.as_bytes());
                }
            }
        }
        let beside = NAMES.map(|name| format!("/cgi-bin/{name}"));
        let elsewhere = ["/cgi-bin/../b24proxy/proxy.toml", "/b24proxy/proxy.toml", "/cgi-bin/.htaccess"];
        for path in beside.iter().map(String::as_str).chain(elsewhere) {
            let answer = server.request("GET", path).send();
            assert!(matches!(answer.status, 400 | 403 | 404), "{path}: {}", answer.status);
            assert!(!answer.text().contains(&secret), "{path}");
        }
    });
}

#[test]
fn what_else_lies_beside_the_program_is_handed_out_as_before() {
    let proxy = Proxy::installed();
    let server = WebServer::start(&proxy.sandbox, Kind::ApacheHtaccess);
    for name in ["login.html", "catalog.txt", "jsonp.js", "old.css"] {
        proxy.sandbox.write(&format!("htdocs/cgi-bin/{name}"), 0o644, b"the site's own");
        assert_eq!(server.request("GET", &format!("/cgi-bin/{name}")).send().status, 200, "{name}");
    }
}

#[test]
fn a_resident_program_stays_behind_its_request_and_no_other_does() {
    under_each(|proxy, server| {
        assert_eq!(call(server, r#"{"method":"profile"}"#).send().status, 200);
        let kind = server.kind();
        eventually("what is left is a worker, or nothing", || programs(proxy).into_iter().all(is_worker));
        assert_eq!(programs(proxy).is_empty(), !kind.is_resident(), "{kind:?}");
    });
}

#[test]
fn connections_to_a_resident_program_are_kept_where_the_shipped_file_says_so() {
    for (kind, keeps) in [(Kind::NginxResident, false), (Kind::NginxKept, true), (Kind::ApacheProxyFcgi, true)] {
        let proxy = Proxy::installed();
        let server = WebServer::start(&proxy.sandbox, kind);
        // Num RefCount Protocol Flags Type St Inode Path, of the program's end; 03: connected.
        let socket = server.folder().join("b24proxy.socket").display().to_string();
        let connected = || {
            let all = std::fs::read_to_string("/proc/net/unix").expect("/proc/net/unix");
            all.lines().filter(|line| line.ends_with(&socket) && line.split_whitespace().nth(5) == Some("03")).count()
        };
        for _ in 0..3 {
            assert_eq!(call(&server, r#"{"method":"profile"}"#).send().status, 200);
        }
        eventually("it holds what is kept, and nothing else", || connected() == usize::from(keeps));
    }
}

/// The units that an administrator of nginx copies: systemd reads them without a word, and nothing in them is misspelt.
#[test]
fn the_units_are_what_systemd_understands() {
    for service in SERVICES {
        let socket = deployed("nginx/b24proxy.socket");
        let output = std::process::Command::new("systemd-analyze")
            .args(["verify", "--man=no", &deployed(service), &socket])
            .output()
            .expect("systemd-analyze starts (package systemd)");
        let said = String::from_utf8_lossy(&output.stderr);
        // It reads the machine's own units too, and the program is not installed here.
        let is_ours =
            |line: &&str| line.contains("b24proxy") && !line.contains("/usr/lib/cgi-bin/b24proxy is not exec");
        let about_ours: Vec<&str> = said.lines().filter(is_ours).collect();
        assert!(about_ours.is_empty(), "{about_ours:#?}");
        assert!(output.status.success() || !said.is_empty(), "systemd-analyze verify: {}", output.status);
    }
}

/// fcgiwrap's and the program's own.
const SERVICES: [&str; 2] = ["nginx/b24proxy.service", "systemd/b24proxy.service"];

fn deployed(file: &str) -> String {
    format!("{}/deploy/{file}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_program_as_a_service_is_kept_from_what_fcgiwrap_is_kept_from() {
    let [fcgiwrap, own] = SERVICES.map(|file| std::fs::read_to_string(deployed(file)).unwrap());
    let settings = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("Exec"));
        lines.map(str::to_owned).filter(|line| line.contains('=') && !line.starts_with("Description")).collect()
    };
    let own = settings(&own);
    let missing: Vec<_> = settings(&fcgiwrap).into_iter().filter(|line| !own.contains(line)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for line in ["StandardInput=socket", "StandardError=journal", "Restart=on-failure"] {
        assert!(own.iter().any(|own| own == line), "{line}");
    }
}

#[test]
fn the_service_leaves_no_core_dump_and_can_change_little_on_the_host() {
    for unit in SERVICES.map(deployed) {
        assert_can_change_little(&unit);
    }
}

fn assert_can_change_little(unit: &str) {
    let text = std::fs::read_to_string(unit).unwrap();
    for line in ["LimitCORE=0", "OOMPolicy=continue", "KillMode=process", "NoNewPrivileges=yes"] {
        assert!(text.lines().any(|l| l == line), "{line}");
    }
    // By systemd's own measure, 10 is "unsafe" and 2 "ok"; the parameter is ten times that.
    let output = std::process::Command::new("systemd-analyze")
        .args(["security", "--no-pager", "--offline=true", "--threshold=20", unit])
        .output()
        .expect("systemd-analyze starts (package systemd)");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("exposure level"), "{said}");
}
