//! Where it listens, and to whom.

use crate::fixture::Proxy;
use crate::served::{parameters, proxy, Answered, Served};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use support::fastcgi::Connection;
use support::{eventually, signal, with_descendants};

/// The program with this socket as standard input. It ends with the test's sandbox.
fn started_on(proxy: &Proxy, socket: impl Into<OwnedFd>, arguments: &[&str], variables: &[(&str, &str)]) -> Child {
    let mut command = proxy.sandbox.command_line(arguments);
    command.stdin(Stdio::from(socket.into())).envs(variables.iter().copied());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program can be started")
}

fn at_path(path: &Path) -> Result<Answered, String> {
    let mut connection = Connection::open(path).map_err(|error| error.to_string())?;
    health_by(&mut connection)
}

fn at_port(address: SocketAddr) -> Result<Answered, String> {
    let mut connection = Connection::open_tcp(address).map_err(|error| error.to_string())?;
    health_by(&mut connection)
}

fn health_by(connection: &mut Connection) -> Result<Answered, String> {
    let variables =
        [("REQUEST_METHOD", "GET"), ("PATH_INFO", "/health"), ("SCRIPT_NAME", "/x"), ("REMOTE_ADDR", "127.0.0.1")];
    connection.expect(1);
    connection.set_timeout(Duration::from_secs(10));
    connection.send(&support::fastcgi::request(1, false, variables, b"")).map_err(|error| error.to_string())?;
    connection.reply(1).map(|reply| Answered::of(reply, Duration::ZERO)).map_err(|broken| format!("{broken:?}"))
}

fn end(mut child: Child) {
    signal(child.id(), "TERM");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_listening_socket_as_standard_input_means_fastcgi_with_one_worker_unless_more_are_said() {
    let proxy = proxy();
    for (arguments, most) in [
        (&[][..], "1"),
        // As a web server's own, which decide nothing.
        (&["check", "now"], "1"),
        (&["fastcgi"], "1"),
        (&["fastcgi", "--workers", "5"], "5"),
    ] {
        let path = proxy.sandbox.path().join("run/stdin.sock");
        let _ = std::fs::remove_file(&path);
        let child = started_on(&proxy, UnixListener::bind(&path).unwrap(), arguments, &[]);
        let mut connection = Connection::open(&path).unwrap();
        let told = connection.get_values(&["FCGI_MAX_REQS"]);
        assert_eq!(told, [("FCGI_MAX_REQS".to_owned(), most.to_owned())], "{arguments:?}");
        assert_eq!(at_path(&path).unwrap().status, 200);
        end(child);
    }
}

#[test]
fn gateway_interface_means_a_cgi_request_whatever_standard_input_is() {
    let proxy = proxy();
    let path = proxy.sandbox.path().join("run/stdin.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let variables = [("GATEWAY_INTERFACE", "CGI/1.1"), ("REQUEST_METHOD", "GET"), ("PATH_INFO", "/health")];
    let mut command = proxy.sandbox.command_line(&["fastcgi"]);
    let output = command.stdin(Stdio::from(OwnedFd::from(listener))).envs(variables).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("{\"status\":\"ok\"}"), "{output:?}");
}

#[test]
fn without_a_place_to_listen_it_is_wrong_usage_that_says_one() {
    let proxy = proxy();
    for (arguments, word) in [
        (&["fastcgi"][..], "--listen unix:/run/b24proxy.sock"),
        (&["fastcgi", "--listen", "9000"], "127.0.0.1:9000"),
        (&["fastcgi", "--listen", "unix:run/x"], "whole path"),
        (&["fastcgi", "--listen", "unix:/tmp/x", "--workers", "0"], "1 to 256"),
        (&["fastcgi", "--listen", "unix:/tmp/x", "now"], "too many"),
    ] {
        let output = proxy.sandbox.command_line(arguments).stdin(Stdio::null()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && told.contains(word), "{arguments:?}: {told}");
    }
}

/// What `fastcgi --listen` says when it cannot begin.
fn refused(proxy: &Proxy, address: &str, variables: &[(&str, &str)]) -> String {
    let mut command = proxy.sandbox.command_line(&["fastcgi", "--listen", address]);
    command.envs(variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = ended(command);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Of a program that must end by itself.
fn ended(mut command: Command) -> Output {
    let child = command.spawn().unwrap();
    let pid = child.id();
    let guard = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(5));
        signal(pid, "KILL");
    });
    let output = child.wait_with_output().unwrap();
    drop(guard);
    output
}

#[test]
fn a_unix_socket_is_made_0660_and_a_left_over_one_is_replaced_only_where_nobody_answers() {
    let proxy = proxy();
    let mut served = Served::by(&proxy, 1);
    let mode = served.socket.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let address = format!("unix:{}", served.socket.display());
    let told = refused(&proxy, &address, &[]);
    assert!(told.contains("somebody listens"), "{told}");
    assert_eq!(served.health().status, 200, "it is still there");
    // Left over.
    served.workers().iter().chain([&served.manager()]).for_each(|pid| signal(*pid, "KILL"));
    eventually("it has ended", || served.group.has_ended());
    eventually("nobody answers", || at_path(&served.socket).is_err());
    let next = Served::by(&proxy, 1);
    assert_eq!((next.health().status, next.socket.metadata().unwrap().permissions().mode() & 0o777), (200, 0o660));
    // What is no socket stays.
    let file = proxy.sandbox.path().join("run/file");
    proxy.sandbox.write("run/file", 0o644, b"precious");
    let told = refused(&proxy, &format!("unix:{}", file.display()), &[]);
    assert!(told.contains("no socket"), "{told}");
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let told = refused(&proxy, "unix:/proc/none/x.sock", &[]);
    assert!(told.contains("/proc/none/x.sock"), "{told}");
    let told = refused(&proxy, &format!("unix:/tmp/{}", "x".repeat(200)), &[]);
    assert!(told.contains("cannot listen"), "{told}");
}

#[test]
fn of_many_that_start_at_once_on_a_left_over_socket_one_listens() {
    let proxy = proxy();
    let first = Served::by(&proxy, 1);
    let path = first.socket.clone();
    first.workers().iter().chain([&first.manager()]).for_each(|pid| signal(*pid, "KILL"));
    eventually("it has ended", || at_path(&path).is_err());
    let address = format!("unix:{}", path.display());
    let mut all: Vec<_> = (0..8)
        .map(|_| {
            let mut command = proxy.sandbox.command_line(&["fastcgi", "--listen", &address]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    let running = |all: &mut Vec<Child>| {
        all.iter_mut().map(|child| usize::from(matches!(child.try_wait(), Ok(None)))).sum::<usize>()
    };
    eventually("the others have ended", || running(&mut all) == 1);
    assert_eq!(at_path(&path).unwrap().status, 200);
    for child in &mut all {
        signal(child.id(), "TERM");
        let _ = child.wait();
    }
    assert!(!path.exists());
}

#[test]
fn tcp_listens_on_loopback_and_elsewhere_only_for_the_named_web_servers() {
    let proxy = proxy();
    for elsewhere in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9000"] {
        let told = refused(&proxy, elsewhere, &[]);
        assert!(told.contains("FCGI_WEB_SERVER_ADDRS") && told.contains("127.0.0.1"), "{told}");
    }
    let told = refused(&proxy, "0.0.0.0:0", &[("FCGI_WEB_SERVER_ADDRS", "localhost")]);
    assert!(told.contains("FCGI_WEB_SERVER_ADDRS"), "{told}");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = proxy.sandbox.command_line(&["fastcgi", "--listen", &port.to_string()]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("it listens", || TcpStream::connect(port).is_ok());
    assert_eq!(at_port(port).unwrap().status, 200);
    end(child);
    // A socket that somebody else made elsewhere.
    for (list, may) in
        [(None, true), (Some("127.0.0.1"), true), (Some("192.0.2.1, ::1"), false), (Some("192.0.2.1,127.0.0.1"), true)]
    {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
        let variables: Vec<_> = list.iter().map(|list| ("FCGI_WEB_SERVER_ADDRS", *list)).collect();
        let child = started_on(&proxy, listener, &[], &variables);
        assert_eq!(at_port(port).is_ok(), may, "{list:?}");
        end(child);
    }
}

#[test]
fn b24proxy_config_counts_from_the_processs_environment_and_never_from_a_requests_parameters() {
    let proxy = proxy();
    proxy.sandbox.write("b24proxy/other.toml", 0o600, b"nonsense");
    let served = Served::by(&proxy, 1);
    let other = proxy.sandbox.path().join("b24proxy/other.toml").display().to_string();
    let request = proxy.get("/health").env("B24PROXY_CONFIG", &other);
    assert!(parameters(&request, b"").iter().any(|(name, _)| name == "B24PROXY_CONFIG"));
    assert_eq!(served.ask(&request, b"").status, 200);
    drop(served);
    let served = Served::with(&proxy, &["--workers", "1"], &[("B24PROXY_CONFIG", &other)]);
    assert_eq!(served.health().status, 503);
    assert!(with_descendants(served.manager()).len() > 1);
}
