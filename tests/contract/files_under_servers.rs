//! Files through the web servers with the shipped configuration.

use crate::files::{address_of, encoded, with_files};
use crate::fixture::*;
use crate::web_servers::{
    assert_failure, assert_idle, assert_quiet, for_large_bodies, programs, under_each_of, PROGRAM,
};
use serde_json::json;
use simulator::{Action, Content, Fault, File, Target, Transfer};
use std::io::Read;
use std::time::Duration;
use support::eventually;
use support::http::{chunk, Connection, Request};
use support::webserver::{Kind, WebServer, ALL};

const MIB: u64 = 1 << 20;
const BOUNDARY: &str = "----a-boundary-of-1C";
const PATIENCE: Duration = Duration::from_secs(20);

fn under_each(test: impl Fn(&Proxy, &WebServer)) {
    under_each_of(&ALL, with_files, test);
}

/// Those that hold no upload back.
fn passing_on() -> Vec<Kind> {
    ALL.into_iter().filter(|kind| kind.passes_bodies_on()).collect()
}

/// A file of text, which every server would like to compress.
fn text_file(proxy: &Proxy, size: u64) -> (String, Content) {
    let content = Content::generated(size, 1);
    let mut file = File::new("Счёт №1.txt", content.clone());
    file.content_type = "text/plain; charset=utf-8".into();
    (address_of(proxy, proxy.portal().store_file(file)), content)
}

fn upload_address(proxy: &Proxy) -> String {
    let answer = proxy.call("disk.folder.uploadfile", json!({"id": 1}));
    answer.json()["data"]["result"]["uploadUrl"].as_str().unwrap_or_else(|| panic!("{}", answer.text())).to_owned()
}

fn at(server: &WebServer, method: &str, address: &str) -> Request {
    let target = format!("{PROGRAM}/file?portal=acme&address={}", encoded(address));
    server.request(method, &target).bearer(TOKEN).header("Accept-Encoding", "gzip")
}

fn upload(server: &WebServer, address: &str) -> Request {
    at(server, "POST", address).header("Content-Type", &format!("multipart/form-data; boundary={BOUNDARY}"))
}

fn bytes(content: &Content) -> Vec<u8> {
    let mut bytes = Vec::new();
    content.reader().read_to_end(&mut bytes).expect("a reader in memory");
    bytes
}

fn multipart(content: &[u8]) -> Vec<u8> {
    let disposition = "Content-Disposition: form-data; name=\"file\"; filename=\"Счёт №1.txt\"";
    [format!("--{BOUNDARY}\r\n{disposition}\r\n\r\n").as_bytes(), content, format!("\r\n--{BOUNDARY}--\r\n").as_bytes()]
        .concat()
}

/// The last file on its way, either way.
fn transfer(proxy: &Proxy) -> Option<Transfer> {
    let ledger = proxy.simulator.ledger();
    ledger.last_call()?.call()?.transfer.as_deref().cloned()
}

#[test]
fn a_download_keeps_its_length_its_range_and_its_name_in_cyrillic() {
    under_each(|proxy, server| {
        let (address, content) = text_file(proxy, 3 * MIB + 1);
        let (size, bytes) = (content.size(), bytes(&content));
        let whole = at(server, "GET", &address).send();
        assert_eq!(whole.status, 200, "{}", whole.text());
        assert!(whole.body == bytes, "{} bytes", whole.body.len());
        assert_eq!(whole.header("Content-Length"), Some(&*size.to_string()));
        assert_eq!(whole.header("Content-Encoding"), None);
        assert_eq!(whole.header("Content-Type"), Some("text/plain; charset=utf-8"));
        assert_eq!(whole.header("Accept-Ranges"), Some("bytes"));
        let name = format!("filename*=utf-8\'\'{}", encoded("Счёт_№1.txt").replace('_', "%20"));
        assert!(whole.header("Content-Disposition").is_some_and(|value| value.ends_with(&name)), "{:?}", whole.headers);

        let head = at(server, "HEAD", &address).send();
        assert_eq!((head.status, head.header("Content-Length")), (200, Some(&*size.to_string())));
        assert_eq!(head.header("Content-Disposition"), whole.header("Content-Disposition"));

        let part = at(server, "GET", &address).header("Range", "bytes=1000000-2999999").send();
        assert_eq!((part.status, part.header("Content-Length")), (206, Some("2000000")), "{:?}", part.headers);
        assert_eq!(part.header("Content-Range"), Some(&*format!("bytes 1000000-2999999/{size}")));
        assert!(part.body == bytes[1_000_000..3_000_000], "{} bytes", part.body.len());

        let beyond = at(server, "GET", &address).header("Range", "bytes=99999999-").send();
        assert_eq!((beyond.status, beyond.header("Content-Range")), (416, Some(&*format!("bytes */{size}"))));

        let tag = whole.header("ETag").expect("a tag");
        let same = at(server, "GET", &address).header("If-None-Match", tag).send();
        assert_eq!((same.status, same.body.len(), same.header("ETag")), (304, 0, Some(tag)));
        assert_quiet(server);
    });
}

#[test]
fn an_upload_larger_than_any_other_request_arrives_whole_with_and_without_a_length() {
    under_each_of(&for_large_bodies(), with_files, |proxy, server| {
        let address = upload_address(proxy);
        let content = Content::generated(20 * MIB, 2);
        let body = multipart(&bytes(&content));
        let pieces: Vec<&[u8]> = body.chunks(1 << 20).collect();
        for request in [upload(server, &address).body(body.clone()), upload(server, &address).chunked(&pieces)] {
            let answer = request.send();
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(answer.json()["data"]["result"]["ID"].is_string(), "{}", answer.text());
            let uploaded = transfer(proxy).expect("an upload");
            assert_eq!((uploaded.name.as_deref(), uploaded.sha256), (Some("Счёт №1.txt"), content.sha256()));
            proxy.simulator.clear_ledger();
        }
        assert_quiet(server);
    });
}

#[test]
fn a_download_that_is_cut_off_on_its_way_never_looks_whole() {
    under_each(|proxy, server| {
        let (address, _) = text_file(proxy, 3 * MIB);
        for cut in [0, 1000, 2 * MIB] {
            for range in ["", "bytes=10-2999999"] {
                proxy.simulator.inject(Fault::once(Target::Download, Action::CutAfter(cut)));
                let answer = at(server, "GET", &address).header("Range", range).timeout(PATIENCE).try_send();
                match (cut, answer) {
                    (0, Ok(answer)) => assert_failure(&answer, 502, "bitrix24_unreachable"),
                    (0, Err(error)) => panic!("{error}"),
                    // An answer of Apache's own.
                    (_, Ok(answer)) if server.kind().is_mod_fcgid() => assert_eq!(answer.status, 500, "{cut} {range}"),
                    (_, Ok(answer)) => panic!("{cut} {range}: {} {:?}", answer.status, answer.headers),
                    (_, Err(_)) => {}
                }
            }
        }
        assert_idle(proxy, server);
        assert_eq!(at(server, "GET", &address).send().status, 200, "the next caller is served");
    });
}

#[test]
fn a_download_whose_program_is_killed_never_looks_whole() {
    const LARGE: u64 = 60 * MIB;
    under_each(|proxy, server| {
        let (address, _) = text_file(proxy, LARGE);
        let mut connection = std::net::TcpStream::connect(server.address()).unwrap();
        std::io::Write::write_all(&mut connection, &at(server, "GET", &address).bytes()).unwrap();
        connection.read_exact(&mut [0; 1000]).unwrap();
        let killed = programs(proxy);
        assert!(!killed.is_empty(), "it is still writing");
        for id in killed {
            let kill = format!("kill -s KILL {id}");
            assert!(std::process::Command::new("/bin/sh").args(["-c", &kill]).status().unwrap().success());
        }
        let mut rest = Vec::new();
        let _ = connection.read_to_end(&mut rest);
        assert!((rest.len() as u64) < LARGE, "it was cut");
        assert!(!rest.ends_with(b"\r\n0\r\n\r\n"), "{:?} ends it as if it were whole", server.kind());
    });
}

#[test]
fn a_server_holds_no_more_of_a_file_than_its_buffers() {
    const LARGE: u64 = 60 * MIB;
    under_each_of(&passing_on(), with_files, |proxy, server| {
        let (address, _) = text_file(proxy, LARGE);
        let mut connection = std::net::TcpStream::connect(server.address()).unwrap();
        std::io::Write::write_all(&mut connection, &at(server, "GET", &address).bytes()).unwrap();
        connection.read_exact(&mut [0; 1000]).unwrap();
        // The caller reads nothing more: when nothing moves any more, what has moved is somewhere on the way.
        let mut before = 0;
        eventually("the portal stops sending", || {
            std::thread::sleep(Duration::from_millis(300));
            let moved = transfer(proxy).map_or(0, |transfer| transfer.moved());
            std::mem::replace(&mut before, moved) == moved && moved > 0
        });
        assert!(before < LARGE / 2, "{before} bytes are on their way");
        drop(connection);

        let address = upload_address(proxy);
        let body = multipart(&vec![b'x'; LARGE as usize]);
        let mut connection = Connection::open(server.address(), PATIENCE).unwrap();
        let bytes = upload(server, &address).body(body).bytes();
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        connection.send(first).unwrap();
        eventually("the portal has much of it before its end is sent", || {
            transfer(proxy).is_some_and(|transfer| transfer.moved() > LARGE / 4)
        });
        connection.send(rest).unwrap();
        assert_eq!(connection.read_answer("POST").unwrap().status, 200);
        assert_idle(proxy, server);
        assert_quiet(server);
    });
}

#[test]
fn who_goes_away_during_a_file_leaves_no_noise_and_no_process() {
    under_each_of(&passing_on(), with_files, |proxy, server| {
        let (address, _) = text_file(proxy, 60 * MIB);
        for bytes_read in [0, 100_000] {
            let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
            std::io::Write::write_all(&mut stream, &at(server, "GET", &address).bytes()).unwrap();
            stream.read_exact(&mut vec![0; bytes_read]).unwrap();
        }
        let address = upload_address(proxy);
        let body = multipart(&vec![b'x'; 3 << 20]);
        let head = upload(server, &address).bytes();
        let head = String::from_utf8(head).unwrap();
        let head = head.strip_suffix("\r\n").unwrap();
        for (length, part) in [
            (format!("Content-Length: {}", body.len()), body[..2 << 20].to_vec()),
            ("Transfer-Encoding: chunked".into(), chunk(&body[..2 << 20])),
        ] {
            let mut connection = Connection::open(server.address(), PATIENCE).unwrap();
            connection.send(format!("{head}{length}\r\n\r\n").as_bytes()).unwrap();
            connection.send(&part).unwrap();
            eventually("the portal has a part of it", || {
                transfer(proxy).is_some_and(|transfer| transfer.moved() > MIB)
            });
        }
        assert_idle(proxy, server);
        assert!(transfer(proxy).is_some_and(|transfer| !transfer.complete && transfer.file.is_none()));
        assert_eq!(upload(server, &address).body(body).send().status, 200, "the next caller is served");
        assert_quiet(server);
    });
}

#[test]
fn an_upload_above_max_file_and_one_without_credentials_get_the_programs_own_answer() {
    let small = || with_files().reconfigured("max_wait = 5", "max_wait = 5\nmax_file = \"1 MiB\"");
    under_each_of(&for_large_bodies(), small, |proxy, server| {
        let address = upload_address(proxy);
        let body = multipart(&vec![b'x'; 3 << 20]);
        let before = proxy.simulator.ledger().entries.len();
        assert_failure(&upload(server, &address).body(body.clone()).send(), 413, "body_too_large");
        let target = format!("{PROGRAM}/file?portal=acme&address={}", encoded(&address));
        let stranger = server.request("POST", &target).header("Content-Type", "multipart/form-data; boundary=x");
        assert_failure(&stranger.body(body.clone()).send(), 401, "unauthorized");
        assert_eq!(proxy.simulator.ledger().entries.len(), before, "the portal is not asked");
        assert_failure(&upload(server, &address).chunked(&[&body]).send(), 413, "body_too_large");
        assert_quiet(server);
    });
    under_each_of(&for_large_bodies(), with_files, |proxy, server| {
        let large = vec![b' '; 100 << 20];
        let address = upload_address(proxy);
        let target = format!("{PROGRAM}/file?portal=acme&address={}", encoded(&address));
        let stranger = server.request("POST", &target).header("Content-Type", "multipart/form-data; boundary=x");
        assert_failure(&stranger.body(large).send(), 401, "unauthorized");
    });
}

#[test]
fn by_the_addresses_in_answers_to_a_webhook_client_large_files_come_and_go() {
    under_each_of(&for_large_bodies(), with_files, |proxy, server| {
        let content = Content::generated(20 * MIB, 3);
        let file = proxy.portal().store_file(File::new("Счёт №1.bin", content.clone()));
        let address = |call: &str, field: &str| {
            let answer = server.request("GET", &format!("{PROGRAM}/rest/1/{TOKEN}/{call}")).send().json();
            let address = answer["result"][field].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
            address.strip_prefix("https://www.acme.test").expect("the program's own address").to_owned()
        };
        let to_download = address(&format!("disk.file.get?id={file}"), "DOWNLOAD_URL");
        let downloaded = server.request("GET", &to_download).send();
        assert!(downloaded.body == bytes(&content), "{} bytes", downloaded.body.len());
        assert_eq!(downloaded.header("Content-Length"), Some(&*content.size().to_string()));
        let to_upload = address("disk.folder.uploadfile?id=1", "uploadUrl");
        let request = server.request("POST", &to_upload).body(multipart(&bytes(&content)));
        let answer = request.header("Content-Type", &format!("multipart/form-data; boundary={BOUNDARY}")).send();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(transfer(proxy).expect("an upload").sha256, content.sha256());
        assert_quiet(server);
    });
}
