//! Connections that are kept between calls, with real servers.

use super::http::{Connections, Failure, Http, Post, Reply};
use super::test_server::{Act, End, Plan, Server};
use crate::config::Config;
use crate::system::clock::Deadline;
use crate::values::error::Executed;
use crate::values::mask::Mask;
use rustls::HandshakeKind;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

const MOST: u64 = 10_000;

fn config(server: &Server, more: &str) -> Config {
    let ca_file = server.ca_file.as_ref().map(|path| format!("ca_file = {path:?}\n")).unwrap_or_default();
    Config::parse(&format!("[bitrix24]\n{ca_file}{more}"), Path::new("/nowhere/proxy.toml")).unwrap()
}

fn keeping(server: &Server) -> Http {
    Http::keeping(&config(server, "").bitrix24)
}

fn call_with(
    connections: &Connections,
    server: &Server,
    headers: &[(&'static str, &str)],
    deadline: Deadline,
) -> Result<Reply, Failure> {
    connections.post_kept(&Post {
        url: &format!("{}crm.deal.list", server.url()),
        content_type: "application/json",
        headers,
        parts: &[b"{}".as_slice().into()],
        deadline,
        max_response: MOST,
        hide: &Mask::default(),
    })
}

fn call(http: &Http, server: &Server) -> Result<Reply, Failure> {
    call_with(http.portals().unwrap(), server, &[], Deadline::after(Duration::from_secs(10)))
}

#[track_caller]
fn answered(http: &Http, server: &Server) {
    assert_eq!(call(http, server).expect("an answer").body, b"{\"result\":1}");
}

static TLS_1_2: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// Over plain http, TLS 1.3 and TLS 1.2.
fn servers(plan: Plan) -> [Server; 3] {
    [Server::plain(plan), Server::tls(plan), Server::start(Some(TLS_1_2), plan)]
}

#[test]
fn calls_one_after_another_make_one_connection() {
    for server in servers(|_, _| Act::Answer) {
        let http = keeping(&server);
        (0..100).for_each(|_| answered(&http, &server));
        assert_eq!(server.connections(), [0; 100]);
        assert!(server.seen().iter().all(|seen| !seen.head.contains("\nconnection:")), "{:?}", server.seen()[0]);
    }
}

#[test]
fn a_process_for_one_call_keeps_nothing() {
    for server in servers(|_, _| Act::Answer) {
        let http = Http::new(&config(&server, "").bitrix24);
        (0..3).for_each(|_| answered(&http, &server));
        assert_eq!(server.connections(), [0, 1, 2]);
        assert!(server.seen().iter().all(|seen| seen.head.contains("\nconnection: close")), "{:?}", server.seen());
        assert!(server.handshakes().iter().all(|kind| *kind == HandshakeKind::Full), "{:?}", server.handshakes());
    }
}

/// A proxy that connects to whatever it is asked for, and how many connections it made.
fn proxy() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let made = count.clone();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            made.fetch_add(1, Ordering::SeqCst);
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|count| count > 0) {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let mut target = TcpStream::connect(head.split(' ').nth(1).unwrap()).unwrap();
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), target.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut target, &mut client);
                client.shutdown(std::net::Shutdown::Write)
            });
        }
    });
    (port, count)
}

#[test]
fn a_connection_through_the_proxy_is_kept_and_watched_like_any_other() {
    for server in servers(|connection, number| match (connection, number) {
        (0, 2) => Act::AnswerThen(End::Fin),
        _ => Act::Answer,
    }) {
        let (port, count) = proxy();
        let config = config(&server, &format!("proxy = \"http://127.0.0.1:{port}\""));
        let http = Http::keeping(&config.bitrix24);
        (0..3).for_each(|_| answered(&http, &server));
        assert_eq!(count.load(Ordering::SeqCst), 1);
        server.wait_for_an_end();
        answered(&http, &server);
        assert_eq!(server.connections(), [0, 0, 0, 1]);
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }
}

#[test]
fn a_connection_that_the_other_side_has_ended_is_not_used_again() {
    const PLANS: [(End, Plan); 5] = [
        (End::Fin, |_, _| Act::AnswerThen(End::Fin)),
        (End::Reset, |_, _| Act::AnswerThen(End::Reset)),
        (End::Stray, |_, _| Act::AnswerThen(End::Stray)),
        (End::CloseNotify, |_, _| Act::AnswerThen(End::CloseNotify)),
        (End::CloseNotifyAtOnce, |_, _| Act::AnswerThen(End::CloseNotifyAtOnce)),
    ];
    for (end, plan) in PLANS {
        for server in servers(plan) {
            if server.ca_file.is_none() && matches!(end, End::CloseNotify | End::CloseNotifyAtOnce) {
                continue;
            }
            let http = keeping(&server);
            for _ in 0..3 {
                answered(&http, &server);
                server.wait_for_an_end();
            }
            assert_eq!(server.connections(), [0, 1, 2], "{end:?}");
        }
    }
}

/// With a body of so many bytes.
fn answer_of(length: u64) -> &'static str {
    let body = "1".repeat(usize::try_from(length).unwrap());
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").leak()
}

#[test]
fn a_tls_close_behind_an_answer_is_seen_wherever_the_answer_ends() {
    // What is read at once ends within some of these answers, and between others and their close.
    let server =
        Server::tls(|connection, _| Act::SaysThen(answer_of(3900 + connection as u64), End::CloseNotifyAtOnce));
    let http = keeping(&server);
    for length in 3900..4100 {
        assert_eq!(call(&http, &server).expect("an answer").body.len(), length);
    }
    assert_eq!(server.connections(), (0..200).collect::<Vec<_>>());
}

#[test]
fn what_was_lost_on_a_kept_connection_before_any_byte_of_the_answer_is_told_apart() {
    const LOST: [(bool, Plan); 5] = [
        (true, |_, number| if number == 0 { Act::Answer } else { Act::SaysThen("", End::Fin) }),
        (true, |_, number| if number == 0 { Act::Answer } else { Act::SaysThen("", End::Reset) }),
        (false, |_, number| if number == 0 { Act::Answer } else { Act::SaysThen("HTTP/1.1 2", End::Fin) }),
        (false, |_, number| if number == 0 { Act::Answer } else { Act::SaysThen("HTTP/1.1 2", End::Reset) }),
        (false, |_, number| match number {
            0 => Act::Answer,
            _ => Act::SaysThen("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{", End::Fin),
        }),
    ];
    for (expected, plan) in LOST {
        for server in servers(plan) {
            let http = keeping(&server);
            answered(&http, &server);
            match call(&http, &server) {
                Err(Failure::Lost { stale, .. }) => assert_eq!(stale, expected),
                other => panic!("{other:?}"),
            }
            // Nothing is repeated here, and what follows has a new connection.
            answered(&http, &server);
            assert_eq!(server.connections(), [0, 0, 1]);
        }
    }
}

#[test]
fn neither_a_new_connection_nor_a_timeout_is_taken_for_a_stale_one() {
    for server in servers(|_, _| Act::SaysThen("", End::Fin)) {
        let lost = call(&keeping(&server), &server);
        assert!(matches!(lost, Err(Failure::Lost { stale: false, .. })), "{lost:?}");
    }
    for server in servers(|_, number| if number == 0 { Act::Answer } else { Act::Silence }) {
        let http = keeping(&server);
        answered(&http, &server);
        let deadline = Deadline::after(Duration::from_millis(300));
        let late = call_with(http.portals().unwrap(), &server, &[], deadline);
        assert_eq!(late.err(), Some(Failure::Timeout(Executed::Unknown)));
        answered(&http, &server);
        assert_eq!(server.connections(), [0, 0, 1]);
    }
}

#[test]
fn a_connection_is_kept_for_less_than_the_five_seconds_of_a_web_server() {
    let all = servers(|_, _| Act::Answer).map(|server| (keeping(&server), server));
    all.iter().for_each(|(http, server)| answered(http, server));
    std::thread::sleep(Duration::from_millis(3500));
    all.iter().for_each(|(http, server)| answered(http, server));
    std::thread::sleep(Duration::from_millis(4050));
    for (http, server) in &all {
        answered(http, server);
        assert_eq!(server.connections(), [0, 0, 1]);
    }
}

#[test]
fn a_new_connection_resumes_the_tls_session_of_the_one_before() {
    for server in servers(|_, _| Act::AnswerThen(End::Fin)).into_iter().skip(1) {
        let http = keeping(&server);
        for _ in 0..20 {
            answered(&http, &server);
            server.wait_for_an_end();
        }
        let kinds = server.handshakes();
        assert_eq!((kinds.len(), kinds[0]), (20, HandshakeKind::Full), "{kinds:?}");
        assert!(kinds[1..].iter().all(|kind| *kind == HandshakeKind::Resumed), "{kinds:?}");
    }
}

#[test]
fn after_an_answer_whose_end_is_not_plain_the_connection_does_not_come_back() {
    const ODD: [Plan; 12] = [
        // Both are too large.
        |_, _| Act::Says(answer_of(MOST + 1)),
        |_, _| Act::Says(answer_of(5 * MOST)),
        |_, _| Act::Says("HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{\"result\":1}"),
        |_, _| Act::Says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        |_, _| Act::Says("HTTP/1.1 204 No Content\r\n\r\n"),
        |_, _| Act::Says("HTTP/1.1 304 Not Modified\r\nContent-Length: 12\r\n\r\n"),
        |_, _| Act::Says("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
        |_, _| Act::Says("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n1"),
        |_, _| Act::Says("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n1"),
        |_, _| Act::Says("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n1"),
        |_, _| {
            Act::Says("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n")
        },
        |_, _| Act::Says("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n12"),
    ];
    for (at, plan) in ODD.into_iter().enumerate() {
        for server in [Server::plain(plan), Server::tls(plan)] {
            let http = keeping(&server);
            for _ in 0..3 {
                let deadline = Deadline::after(Duration::from_millis(400));
                let _ = call_with(http.portals().unwrap(), &server, &[], deadline);
            }
            assert_eq!(server.connections(), [0, 1, 2], "{at}");
        }
    }
}

#[test]
fn an_answer_in_chunks_or_of_an_error_leaves_the_connection_as_it_was() {
    const PLAIN: [Plan; 4] = [
        |_, _| Act::Says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nc\r\n{\"result\":1}\r\n0\r\n\r\n"),
        |_, _| Act::Says("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"result\":1}"),
        |_, _| Act::Says("HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}"),
        |_, _| Act::Says("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
    ];
    for plan in PLAIN {
        for server in [Server::plain(plan), Server::tls(plan)] {
            let http = keeping(&server);
            (0..3).for_each(|_| drop(call(&http, &server).expect("an answer")));
            assert_eq!(server.connections(), [0, 0, 0], "{:?}", plan(0, 0));
        }
    }
}

#[test]
fn a_head_that_needs_more_room_has_a_connection_of_its_own() {
    for server in servers(|_, _| Act::Answer) {
        let http = keeping(&server);
        answered(&http, &server);
        let (long, deadline) = ("x".repeat(20 << 10), Deadline::after(Duration::from_secs(10)));
        assert!(call_with(http.portals().unwrap(), &server, &[("X-Long", &long)], deadline).is_ok());
        answered(&http, &server);
        assert_eq!(server.connections(), [0, 1, 0]);
    }
}

#[test]
fn whatever_is_no_call_has_a_connection_of_its_own() {
    let server = Server::tls(|_, _| Act::Answer);
    let http = keeping(&server);
    answered(&http, &server);
    let (connections, deadline) = (http.portals().unwrap(), Deadline::after(Duration::from_secs(10)));
    let (url, hide, pause) = (server.url(), Mask::default(), Duration::from_secs(10));
    let parts = [b"{}".as_slice().into()];
    let post = Post {
        url: &url,
        content_type: "application/json",
        headers: &[],
        parts: &parts,
        deadline,
        max_response: 100,
        hide: &hide,
    };
    connections.post(&post).unwrap();
    connections.get(&url, &[], deadline, 100).unwrap();
    connections.open(&url, &[], pause).unwrap().reader.read_to_end(&mut Vec::new()).unwrap();
    connections.upload(&post, &mut b"{}".as_slice(), Some(2), pause).unwrap();
    answered(&http, &server);
    assert_eq!(server.connections(), [0, 1, 2, 3, 4, 0]);
    let closing: Vec<bool> = server.seen().iter().map(|seen| seen.head.contains("\nconnection: close")).collect();
    assert_eq!(closing, [false, true, true, true, true, false]);
}

#[test]
fn a_process_that_rests_closes_what_is_idle() {
    for server in servers(|_, _| Act::Answer) {
        let http = keeping(&server);
        answered(&http, &server);
        http.let_go();
        server.wait_for_an_end();
        answered(&http, &server);
        assert_eq!(server.connections(), [0, 1]);
    }
}

#[test]
fn of_many_hosts_a_few_connections_are_kept() {
    let servers: Vec<Server> = (0..12).map(|_| Server::plain(|_, _| Act::Answer)).collect();
    let http = keeping(&servers[0]);
    servers.iter().for_each(|server| answered(&http, server));
    // The first was closed when the fifth came to be idle.
    servers[0].wait_for_an_end();
    servers.iter().rev().take(4).for_each(|server| answered(&http, server));
    servers.iter().rev().take(4).for_each(|server| assert_eq!(server.connections(), [0, 0]));
}
