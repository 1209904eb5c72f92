//! Contract section 2, "Files": what goes to addresses that Bitrix24 has answered for an upload.

use crate::files::{asked, code, restricted, with_files};
use crate::fixture::*;
use crate::footprint::released;
use serde_json::json;
use simulator::{Action, Content, Direction, Entry, Fault, File, Target, TokenPlace, Transfer};
use std::io::Read;
use std::time::{Duration, Instant};
use support::cgi::{Answer, Cgi};

const MIB: u64 = 1 << 20;
const BOUNDARY: &str = "----------b0und";

/// The address for an upload, as the envelope's client gets it.
fn upload_address(proxy: &Proxy) -> String {
    let answer = proxy.call("disk.folder.uploadfile", json!({ "id": 8 }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"]["result"]["uploadUrl"].as_str().expect("an address").to_owned()
}

/// A body with these parts: name, file name, content.
fn multipart(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, content) in parts {
        let file = file.map(|file| format!("; filename=\"{file}\"")).unwrap_or_default();
        body.extend_from_slice(
            format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").as_bytes(),
        );
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

fn sent<'p>(proxy: &'p Proxy, address: &str, body: impl Into<Vec<u8>>) -> Cgi<'p> {
    asked(proxy, address)
        .method("POST")
        .header("Content-Type", &format!("multipart/form-data; boundary={BOUNDARY}"))
        .body(body)
}

fn generated(size: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    Content::generated(size, 7).reader().read_to_end(&mut bytes).unwrap();
    bytes
}

/// What reached Bitrix24 last, if it was a file.
fn last_upload(proxy: &Proxy) -> (Entry, Transfer) {
    let entry = proxy.simulator.ledger().last_call().cloned().expect("a call");
    let transfer = entry.call().and_then(|call| call.transfer.as_deref().cloned()).expect("a transfer");
    assert_eq!(transfer.direction, Direction::Upload);
    (entry, transfer)
}

/// Nobody but ourselves is contacted meanwhile.
fn without_contact(proxy: &Proxy, run: impl FnOnce() -> Answer) -> Answer {
    let before = proxy.simulator.ledger().all_connections();
    let answer = run();
    assert_eq!(proxy.simulator.ledger().all_connections(), before, "{}", answer.text());
    answer
}

#[test]
fn an_upload_arrives_whole_and_its_answer_is_in_the_envelope() {
    let proxy = restricted();
    let address = upload_address(&proxy);
    let content = generated(3 * MIB + 17);
    let body = multipart(&[("file", Some("Счёт №1.bin"), &content)]);
    let answer = sent(&proxy, &address, body.clone()).run();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (entry, transfer) = last_upload(&proxy);
    assert_eq!(
        answer.text(),
        format!("{{\"success\":true,\"data\":{}}}", String::from_utf8(entry.answer.clone()).unwrap())
    );
    assert_eq!(answer.json()["data"]["result"]["NAME"], "Счёт №1.bin");
    assert_eq!((transfer.size, &transfer.sha256), (content.len() as u64, &sha256_hex(&content)));
    assert!(transfer.complete);
    let call = entry.call().unwrap();
    assert_eq!((call.executed, call.token_place), (true, TokenPlace::Header));
    assert_eq!(entry.header("Content-Length"), Some(&*body.len().to_string()), "the length is known");
}

#[test]
fn an_upload_of_unknown_length_arrives_whole_too() {
    let proxy = restricted();
    let address = upload_address(&proxy);
    let content = generated(MIB);
    let body = multipart(&[("file", Some("a"), &content)]);
    let answer = sent(&proxy, &address, body).content_length(None).run();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(last_upload(&proxy).1.sha256, sha256_hex(&content));
}

#[test]
fn a_large_upload_needs_less_than_12_mib_of_memory() {
    let proxy = released(restricted());
    let address = upload_address(&proxy);
    let content = generated(60 * MIB);
    let answer = sent(&proxy, &address, multipart(&[("file", Some("a"), &content)])).measure_memory().run();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(last_upload(&proxy).1.size, 60 * MIB);
    let peak = answer.max_rss.expect("GNU time");
    assert!(peak < 12 << 10, "{peak} KiB");
}

#[test]
fn a_part_that_php_takes_for_the_signature_or_the_authorization_is_400_and_nothing_is_uploaded() {
    let proxy = restricted();
    let address = upload_address(&proxy);
    for name in
        ["token", "auth", "access_token", "token[]", "auth[x]", " token", "access.token", "access token", "token\0x"]
    {
        let refused = [(name, None, &b"x"[..])];
        // At the beginning, and when more than is kept in hand has been passed on.
        for before in [&b""[..], &generated(MIB)] {
            let body = multipart(&[&[("file", Some("a"), before)][..], &refused].concat());
            let answer = sent(&proxy, &address, body).run();
            assert_eq!(code(&answer), (400, "invalid_request".into()), "{name:?}: {}", answer.text());
        }
    }
    let ledger = proxy.simulator.ledger();
    assert_eq!(ledger.executed("upload"), 0);
    let begun: Vec<_> =
        ledger.of_method("upload").filter_map(|entry| entry.call()?.transfer.as_deref().cloned()).collect();
    assert!(begun.iter().all(|transfer| !transfer.complete), "{begun:?}");
    assert!(begun.iter().flat_map(|transfer| &transfer.parts).all(|part| part.name == "file"), "{begun:?}");
}

#[test]
fn what_is_no_upload_is_400_and_nothing_is_contacted() {
    let proxy = restricted();
    let address = upload_address(&proxy);
    let body = multipart(&[("file", Some("a"), b"x")]);
    for content_type in [
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=x",
        "",
    ] {
        let answer = without_contact(&proxy, || {
            asked(&proxy, &address).method("POST").env("CONTENT_TYPE", content_type).body(body.clone()).run()
        });
        assert_eq!(code(&answer), (400, "invalid_request".into()), "{content_type}: {}", answer.text());
    }
    for elsewhere in ["download.json", "uploads.json", "disk.folder.uploadfile.json", "upload.xml.json", "batch"] {
        let elsewhere = address.replace("upload.json", elsewhere);
        let answer = without_contact(&proxy, || sent(&proxy, &elsewhere, body.clone()).run());
        assert_eq!(code(&answer), (400, "invalid_request".into()), "{elsewhere}: {}", answer.text());
    }
    let answer =
        without_contact(&proxy, || sent(&proxy, &address, body.clone()).header("Idempotency-Key", "once").run());
    assert_eq!(code(&answer), (400, "invalid_request".into()), "{}", answer.text());
}

#[test]
fn a_body_that_is_cut_off_or_is_no_form_is_never_executed() {
    let proxy = restricted();
    let address = upload_address(&proxy);
    let whole = multipart(&[("file", Some("a"), &generated(MIB))]);
    let cut = whole[..whole.len() - 10].to_vec();
    for (body, length) in [
        (cut.clone(), Some(cut.len())),
        (cut.clone(), Some(whole.len())),
        (cut, None),
        (generated(MIB), None),
        (b"no form at all".to_vec(), Some(14)),
    ] {
        let answer = sent(&proxy, &address, body).content_length(length).run();
        assert_eq!(code(&answer), (400, "invalid_request".into()), "{length:?}: {}", answer.text());
    }
    assert_eq!(proxy.simulator.ledger().executed("upload"), 0);
}

#[test]
fn an_upload_with_an_encoding_is_415() {
    let proxy = restricted();
    let address = upload_address(&proxy);
    for encoding in ["gzip", "deflate", "br", "identity, gzip"] {
        let body = multipart(&[("file", Some("a"), b"x")]);
        let answer =
            without_contact(&proxy, || sent(&proxy, &address, body).header("Content-Encoding", encoding).run());
        assert_eq!(code(&answer), (415, "unsupported_encoding".into()), "{encoding}: {}", answer.text());
    }
}

#[test]
fn an_upload_above_max_file_is_413_and_never_executed() {
    let proxy = restricted().reconfigured("max_wait = 5", "max_wait = 5\nmax_file = \"1 MiB\"");
    let address = upload_address(&proxy);
    let body = multipart(&[("file", Some("a"), &generated(2 * MIB))]);
    let answer = without_contact(&proxy, || sent(&proxy, &address, body.clone()).run());
    assert_eq!(code(&answer), (413, "body_too_large".into()), "{}", answer.text());
    assert!(answer.text().contains("max_file"), "{}", answer.text());
    // Where no length is told, it is known only on the way.
    let answer = sent(&proxy, &address, body).content_length(None).run();
    assert_eq!(code(&answer), (413, "body_too_large".into()), "{}", answer.text());
    assert_eq!(proxy.simulator.ledger().executed("upload"), 0);
    // `max_body` is for calls.
    let proxy = restricted().reconfigured("max_wait = 5", "max_wait = 5\nmax_body = \"64 KiB\"");
    let address = upload_address(&proxy);
    let answer = sent(&proxy, &address, multipart(&[("file", Some("a"), &generated(MIB))])).run();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn before_an_upload_tokens_that_are_due_are_refreshed() {
    let proxy = restricted();
    let address = upload_address(&proxy);
    proxy.change_stored(|tokens| tokens["expires_at"] = json!(unix_now() - 1));
    proxy.portal().expire_access_tokens();
    let answer = sent(&proxy, &address, multipart(&[("file", Some("a"), b"x")])).run();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let ledger = proxy.simulator.ledger();
    assert_eq!((ledger.refreshes(), ledger.calls("upload"), ledger.executed("upload")), (1, 1, 1));
}

#[test]
fn where_bitrix24_refuses_the_token_all_the_same_it_is_refreshed_and_the_answer_is_503() {
    let proxy = restricted();
    let address = upload_address(&proxy);
    proxy.portal().expire_access_tokens();
    let body = multipart(&[("file", Some("a"), &generated(MIB))]);
    let answer = sent(&proxy, &address, body.clone()).run();
    assert_failure(&answer, 503, "refresh_pending");
    assert_eq!(answer.json()["executed"], "no");
    assert!(answer.header("Retry-After").is_some());
    let ledger = proxy.simulator.ledger();
    assert_eq!((ledger.refreshes(), ledger.executed("upload")), (1, 0));
    let again = sent(&proxy, &address, body).run();
    assert_eq!(again.status, 200, "{}", again.text());
    assert_eq!(proxy.simulator.ledger().executed("upload"), 1);
}

#[test]
fn an_upload_whose_answer_is_lost_is_unknown_and_never_sent_twice() {
    let proxy = restricted();
    let address = upload_address(&proxy);
    let body = multipart(&[("file", Some("a"), &generated(MIB))]);
    for (action, status) in [(Action::CloseAfter, 502), (Action::CloseReading(100_000), 502), (Action::Html500, 502)] {
        proxy.simulator.inject(Fault::once(Target::Upload, action.clone()));
        let before = proxy.simulator.ledger().calls("upload");
        let answer = sent(&proxy, &address, body.clone()).run();
        assert_eq!(answer.status, status, "{action:?}: {}", answer.text());
        assert_eq!(answer.json()["executed"], "unknown", "{action:?}: {}", answer.text());
        assert_eq!(proxy.simulator.ledger().calls("upload"), before + 1, "{action:?}");
    }
}

#[test]
fn a_refusal_that_comes_before_the_file_was_read_reaches_the_caller() {
    let proxy = restricted();
    let address = upload_address(&proxy);
    let action =
        Action::AnswerUnread { status: 403, error: "ACCESS_DENIED".into(), error_description: "Access denied".into() };
    proxy.simulator.inject(Fault::once(Target::Upload, action));
    let answer = sent(&proxy, &address, multipart(&[("file", Some("a"), &generated(8 * MIB))])).run();
    assert_failure(&answer, 403, "bitrix24_error");
    assert_eq!(answer.json()["bitrix24"]["error"], "ACCESS_DENIED");
}

#[test]
fn a_transfer_is_bounded_in_its_pauses_and_not_in_total() {
    let proxy = restricted().reconfigured("timeout       = 10", "timeout = 5");
    let address = upload_address(&proxy);
    // Longer than `timeout`, but always under way; what is left in the kernel's buffers at the end takes less.
    let action = Action::SlowRead { interval: Duration::from_millis(5), chunk: 16 << 10 };
    proxy.simulator.inject(Fault::once(Target::Upload, action));
    let body = multipart(&[("file", Some("a"), &generated(32 * MIB))]);
    let started = Instant::now();
    let answer = sent(&proxy, &address, body.clone()).run();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(started.elapsed() > Duration::from_secs(6), "it was not slow: {:?}", started.elapsed());
}

#[test]
fn an_upload_that_the_portal_stops_to_take_is_504_after_the_pause() {
    let proxy = restricted().reconfigured("timeout       = 10", "timeout = 2");
    let address = upload_address(&proxy);
    let body = multipart(&[("file", Some("a"), &generated(32 * MIB))]);
    proxy.simulator.inject(Fault::once(Target::Upload, Action::HangReading(64 << 10)));
    let started = Instant::now();
    let answer = sent(&proxy, &address, body).run();
    assert_failure(&answer, 504, "bitrix24_timeout");
    assert_eq!(answer.json()["executed"], "unknown");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn a_transfer_counts_in_the_portals_limit_once() {
    let proxy = restricted();
    let address = upload_address(&proxy);
    proxy.portal().set_bucket(0.01, 50.0);
    let before = proxy.portal().bucket_level();
    for _ in 0..3 {
        let answer = sent(&proxy, &address, multipart(&[("file", Some("a"), &generated(2 * MIB))])).run();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let level = proxy.portal().bucket_level() - before;
    assert!((2.9..=3.1).contains(&level), "{level}");
    let status = proxy.get("/status").bearer(TOKEN).run();
    assert_eq!(status.status, 200, "{}", status.text());
}

#[test]
fn by_a_webhooks_address_a_file_is_uploaded_and_answered_as_bitrix24_does() {
    for strips in [false, true] {
        let proxy = restricted();
        proxy.portal().set_strips_authorization(strips);
        let path = format!("/rest/1/{TOKEN}/disk.folder.uploadfile");
        let answer = Cgi::new(&proxy.sandbox).path(&path).query("id=8").run();
        let read = answer.json();
        let address = read["result"]["uploadUrl"].as_str().unwrap_or_else(|| panic!("{}", answer.text()));
        let rest =
            address.strip_prefix("https://www.acme.test/cgi-bin/b24proxy").unwrap_or_else(|| panic!("{address}"));
        let (path, query) = rest.split_once('?').unwrap();
        let content = generated(MIB);
        let answer = Cgi::new(&proxy.sandbox)
            .path(path)
            .query(query)
            .method("POST")
            .header("Content-Type", &format!("multipart/form-data; boundary={BOUNDARY}"))
            .body(multipart(&[("file", Some("a.bin"), &content)]))
            .run();
        assert_eq!((answer.status, &answer.json()["result"]["NAME"]), (200, &json!("a.bin")), "{}", answer.text());
        assert_eq!(last_upload(&proxy).1.sha256, sha256_hex(&content));
        let refused = Cgi::new(&proxy.sandbox)
            .path(path)
            .query(query)
            .method("POST")
            .header("Content-Type", &format!("multipart/form-data; boundary={BOUNDARY}"))
            .body(multipart(&[("token", None, b"x")]))
            .run();
        assert_eq!((refused.status, &refused.json()["error"]), (400, &json!("INVALID_REQUEST")), "{}", refused.text());
    }
}

#[test]
fn a_download_that_is_cut_off_ends_unfinished_and_never_as_if_whole() {
    let proxy = restricted();
    let size = 4 * MIB;
    let file = proxy.portal().store_file(File::new("large.bin", Content::generated(size, 3)));
    let answer = proxy.call("disk.file.get", json!({ "id": file }));
    let address = answer.json()["data"]["result"]["DOWNLOAD_URL"].as_str().unwrap().to_owned();
    proxy.simulator.inject(Fault::once(Target::Download, Action::CutAfter(1_000_000)));
    let ended = asked(&proxy, &address).spawn().wait_for_end();
    let head = String::from_utf8_lossy(&ended.stdout[..500]).to_ascii_lowercase();
    assert!(head.contains(&format!("content-length: {size}\n")) && head.contains("status: 200"), "{head}");
    assert!((1..size as usize).contains(&ended.stdout.len()), "{} bytes", ended.stdout.len());
    assert!(ended.stderr.contains("cut off"), "{}", ended.stderr);
}

#[test]
fn a_download_is_bounded_in_its_pauses_and_not_in_total() {
    let proxy = restricted().reconfigured("timeout       = 10", "timeout = 2");
    let size = MIB;
    let file = proxy.portal().seed_file("slow.bin", size);
    let answer = proxy.call("disk.file.get", json!({ "id": file }));
    let address = answer.json()["data"]["result"]["DOWNLOAD_URL"].as_str().unwrap().to_owned();
    let slow = Action::SlowBytes { interval: Duration::from_millis(100), chunk: 32 << 10 };
    proxy.simulator.inject(Fault::once(Target::Download, slow));
    let started = Instant::now();
    let answer = asked(&proxy, &address).run();
    assert_eq!((answer.status, answer.body.len() as u64), (200, size), "{}", answer.stderr);
    assert!(started.elapsed() > Duration::from_secs(3), "it was not slow: {:?}", started.elapsed());

    proxy.simulator.inject(Fault::once(Target::Download, Action::HangAfterBytes(100_000)));
    let started = Instant::now();
    let ended = asked(&proxy, &address).spawn().wait_for_end();
    assert!(
        ended.stdout.len() < size as usize && started.elapsed() < Duration::from_secs(6),
        "{:?}",
        started.elapsed()
    );

    for (action, status) in [(Action::CloseBefore, 502), (Action::CutAfter(0), 502)] {
        proxy.simulator.inject(Fault::once(Target::Download, action));
        let answer = asked(&proxy, &address).run();
        assert_failure(&answer, status, "bitrix24_unreachable");
        assert_eq!(answer.json()["executed"], "no");
    }

    proxy.simulator.inject(Fault::once(Target::Download, Action::Hang));
    let answer = asked(&proxy, &address).run();
    assert_failure(&answer, 504, "bitrix24_timeout");
    assert_eq!(answer.json()["executed"], "no");
}

#[test]
fn a_portals_webhook_takes_uploads_too() {
    let proxy = with_files();
    let webhook = format!("aliases = [\"acme\"]\nwebhook = \"{}\"", proxy.portal().webhook_url());
    let proxy = proxy.reconfigured("aliases = [\"acme\"]", &webhook);
    let address = upload_address(&proxy);
    let answer = sent(&proxy, &address, multipart(&[("file", Some("a"), b"content")])).run();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(last_upload(&proxy).1.sha256, sha256_hex(b"content"));
}
