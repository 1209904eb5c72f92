//! The FastCGI Specification, as far as a responder meets it.

use crate::served::{call_of, parameters, proxy, Answered, Served};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;
use support::fastcgi::{
    begin, pairs, record, stream, Broken, ABORT_REQUEST, BEGIN_REQUEST, PARAMS, STDIN, UNKNOWN_TYPE,
};

#[test]
fn fcgi_get_values_are_told_before_and_between_requests() {
    let proxy = proxy();
    let served = Served::by(&proxy, 3);
    let mut connection = served.connect();
    let asked = ["FCGI_MPXS_CONNS", "FCGI_MAX_REQS", "SOMETHING", "FCGI_MAX_CONNS"];
    let told = connection.get_values(&asked);
    let expected = [("FCGI_MAX_CONNS", "3"), ("FCGI_MAX_REQS", "3"), ("FCGI_MPXS_CONNS", "0")];
    assert_eq!(told, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let reply = connection.ask(1, true, parameters(&proxy.get("/health"), b""), b"");
    assert_eq!(Answered::of(reply, Duration::ZERO).status, 200);
    assert_eq!(connection.get_values(&["FCGI_MPXS_CONNS"]).len(), 1);
    assert_eq!(connection.get_values(&["SOMETHING"]), []);
}

#[test]
fn with_fcgi_keep_conn_the_connection_stays_and_without_it_ends() {
    let proxy = proxy();
    let served = Served::by(&proxy, 2);
    let mut connection = served.connect();
    for id in [1, 7, 7, 65535] {
        let (variables, body) = call_of(&proxy, "sim.echo", serde_json::json!({"id": id}));
        let reply = connection.ask(id, true, variables, &body);
        assert_eq!(Answered::of(reply, Duration::ZERO).json()["data"]["result"]["id"], id);
    }
    // `ask` looks for the end.
    let reply = connection.ask(2, false, parameters(&proxy.get("/health"), b""), b"");
    assert_eq!(Answered::of(reply, Duration::ZERO).status, 200);
}

#[test]
fn standard_error_of_a_request_goes_to_its_own_stream() {
    let proxy = proxy();
    let served = Served::by(&proxy, 2);
    let answered = served.call("sim.echo", serde_json::json!({}));
    let id = answered.json();
    let line: serde_json::Value = serde_json::from_str(answered.stderr.lines().last().unwrap()).unwrap();
    assert_eq!((&line["message"], &line["method"]), (&"answered".into(), &"sim.echo".into()), "{id}");
    assert_eq!(served.log(), "");
}

#[test]
fn where_standard_error_is_systemds_journal_it_goes_there_as_an_administrator_expects() {
    let proxy = proxy();
    proxy.sandbox.write("run/resident.log", 0o644, b"");
    let metadata = std::fs::metadata(proxy.sandbox.path().join("run/resident.log")).unwrap();
    let journal = format!("{}:{}", metadata.dev(), metadata.ino());
    for (stream, goes_there) in [(journal.as_str(), true), ("9:12345", false), ("", false)] {
        let served = Served::with(&proxy, &["--workers", "1"], &[("JOURNAL_STREAM", stream)]);
        let before = served.log().len();
        let answered = served.call("sim.echo", serde_json::json!({}));
        assert_eq!((answered.stderr.is_empty(), served.log().len() > before), (goes_there, goes_there), "{stream}");
    }
}

#[test]
fn another_role_and_a_second_request_at_once_are_refused_as_the_specification_says() {
    let proxy = proxy();
    let served = Served::by(&proxy, 1);
    let mut connection = served.connect();
    // An authorizer.
    connection.expect(4);
    connection.send(&record(BEGIN_REQUEST, 4, &[0, 2, 1, 0, 0, 0, 0, 0])).unwrap();
    assert_eq!(connection.reply(4).unwrap().protocol_status, 3, "FCGI_UNKNOWN_ROLE");
    let variables = parameters(&proxy.get("/health"), b"");
    connection.begin(1, true, variables.clone()).unwrap();
    connection.expect(2);
    connection.send(&begin(2, true)).unwrap();
    connection.send(&stream(PARAMS, 2, &pairs(variables))).unwrap();
    connection.send(&record(PARAMS, 2, b"")).unwrap();
    connection.send(&record(STDIN, 2, b"")).unwrap();
    connection.end_body(1).unwrap();
    let refused = connection.reply(2);
    let reply = connection.reply(1);
    assert_eq!(refused.unwrap().protocol_status, 1, "FCGI_CANT_MPX_CONN");
    assert_eq!(Answered::of(reply.unwrap(), Duration::ZERO).status, 200);
}

#[test]
fn an_unknown_record_is_told_and_one_of_no_request_ignored() {
    let proxy = proxy();
    let served = Served::by(&proxy, 1);
    let mut connection = served.connect();
    connection.send(&record(99, 0, b"what?")).unwrap();
    let told = connection.read().unwrap().unwrap();
    assert_eq!((told.kind, told.id, told.content.first()), (UNKNOWN_TYPE, 0, Some(&99)));
    connection.send(&record(STDIN, 9, b"of nobody")).unwrap();
    connection.send(&record(ABORT_REQUEST, 9, b"")).unwrap();
    connection.send(&record(99, 9, b"")).unwrap();
    let reply = connection.ask(1, true, parameters(&proxy.get("/health"), b""), b"");
    assert_eq!(Answered::of(reply, Duration::ZERO).status, 200);
}

#[test]
fn an_aborted_request_ends_and_calls_nobody_and_its_connection_goes_on() {
    let proxy = proxy();
    let served = Served::by(&proxy, 1);
    let mut connection = served.connect();
    // While its parameters come.
    connection.expect(1);
    connection.send(&begin(1, true)).unwrap();
    connection.abort(1).unwrap();
    connection.reply(1).unwrap();
    // While its body comes: with a length, and without, where what has come could be a whole call.
    let (variables, body) = call_of(&proxy, "sim.echo", serde_json::json!({}));
    for with_length in [true, false] {
        let mut variables = variables.clone();
        variables.retain(|(name, _)| with_length || name != "CONTENT_LENGTH");
        let part = if with_length { &body[..5] } else { &body };
        connection.begin(2, true, variables).unwrap();
        connection.body(2, part).unwrap();
        connection.abort(2).unwrap();
        connection.reply(2).unwrap();
    }
    assert_eq!(proxy.simulator.ledger().calls("sim.echo"), 0);
    let reply = connection.ask(3, true, variables, &body);
    Answered::of(reply, Duration::ZERO).assert_success();
}

#[test]
fn broken_records_end_the_connection_and_not_the_worker() {
    let proxy = proxy();
    let served = Served::by(&proxy, 1);
    served.health();
    let workers = served.workers();
    assert_eq!(workers.len(), 1);
    let variables = parameters(&proxy.get("/health"), b"");
    let params = pairs(variables);
    let too_many = stream(PARAMS, 1, &vec![b'x'; 3 << 20]);
    let cut = [begin(1, false), record(PARAMS, 1, &[200, 1, b'x']), record(PARAMS, 1, b"")].concat();
    for (what, bytes) in [
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("another version", vec![2, 1, 0, 1, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
        ("a short beginning", record(BEGIN_REQUEST, 1, &[0, 1])),
        ("a body before the parameters", [begin(1, false), record(STDIN, 1, b"{}")].concat()),
        ("a request begun twice", [begin(1, false), begin(1, false)].concat()),
        ("parameters that are cut off", cut),
        ("parameters without end", [begin(1, false), too_many].concat()),
        (
            "a length that points nowhere",
            [begin(1, false), record(PARAMS, 1, &[0xff; 8]), record(PARAMS, 1, b"")].concat(),
        ),
    ] {
        let mut connection = served.connect();
        connection.set_timeout(Duration::from_secs(5));
        // The program may have gone before the last byte.
        let _ = connection.send(&bytes);
        match connection.read() {
            Ok(None) | Err(Broken::Ended(_)) => {}
            other => panic!("{what}: {other:?}"),
        }
        assert_eq!(served.health().status, 200, "{what}");
    }
    // One that ends in the middle.
    let whole = [begin(1, false), stream(PARAMS, 1, &params)].concat();
    for at in [0, 1, 7, 8, 9, 16, 20, whole.len() - 1, whole.len()] {
        let mut connection = served.connect();
        connection.send(&whole[..at]).unwrap();
        connection.close();
    }
    assert_eq!(served.health().status, 200);
    assert_eq!(served.workers(), workers, "the same worker");
}

#[test]
fn records_of_any_size_and_padding_are_read_and_answers_of_any_size_come_whole() {
    let proxy = proxy();
    let served = Served::by(&proxy, 1);
    let mut connection = served.connect();
    for (piece, padding) in [(1, 0), (3, 7), (1000, 255), (65535, 1)] {
        let text = "ы".repeat(if piece == 1 { 50 } else { 70_000 });
        let (variables, body) = call_of(&proxy, "sim.echo", serde_json::json!({"text": text}));
        connection.expect(1);
        let mut bytes = begin(1, true);
        for part in pairs(variables).chunks(piece.max(16)) {
            bytes.extend(support::fastcgi::padded_record(PARAMS, 1, part, padding));
        }
        bytes.extend(support::fastcgi::padded_record(PARAMS, 1, b"", padding));
        for part in body.chunks(piece) {
            bytes.extend(support::fastcgi::padded_record(STDIN, 1, part, padding));
        }
        bytes.extend(support::fastcgi::padded_record(STDIN, 1, b"", padding));
        let mut writer = connection.writer().unwrap();
        let sender = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes));
        let answered = Answered::of(connection.reply(1).unwrap(), Duration::ZERO);
        sender.join().unwrap().unwrap();
        assert_eq!(answered.json()["data"]["result"]["text"], text.as_str(), "{piece} {padding}");
    }
}

#[test]
fn what_follows_a_request_at_once_is_served_behind_it() {
    let proxy = proxy();
    let served = Served::by(&proxy, 1);
    let mut connection = served.connect();
    let request = |id| support::fastcgi::request(id, true, parameters(&proxy.get("/health"), b""), b"");
    connection.expect(1);
    connection.expect(2);
    connection.send(&[request(1), request(2)].concat()).unwrap();
    for id in [1, 2] {
        assert_eq!(Answered::of(connection.reply(id).unwrap(), Duration::ZERO).status, 200);
    }
}

/// `B24PROXY_FUZZ_SEED`, `B24PROXY_RESIDENT_STREAMS`: which and how many.
#[test]
fn whatever_bytes_come_no_worker_ends_and_the_next_request_is_served() {
    let (proxy, streams) = (proxy(), support::number("B24PROXY_RESIDENT_STREAMS").unwrap_or(3000));
    let served = Served::by(&proxy, 4);
    served.health();
    let seed = support::number("B24PROXY_FUZZ_SEED").unwrap_or(18);
    println!("B24PROXY_FUZZ_SEED={seed}");
    let mut random = support::Random(seed);
    let (variables, body) = call_of(&proxy, "sim.echo", serde_json::json!({"text": "x".repeat(500)}));
    for number in 0..streams {
        let mut bytes: Vec<u8> = (0..1 + random.below(3))
            .flat_map(|id| support::fastcgi::request(id as u16, random.percent(50), variables.clone(), &body))
            .collect();
        for _ in 0..1 + random.below(4) {
            let at = random.index(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.below(256) as u8,
                // Most of what decides stands in the heads.
                1 => bytes[at & !7] = random.below(12) as u8,
                2 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, random.below(256) as u8),
            }
        }
        let mut connection = served.connect();
        connection.set_timeout(Duration::from_millis(20));
        let _ = connection.send(&bytes);
        let _ = connection.read();
        connection.close();
        if number % 50 == 0 {
            assert_eq!(served.health().status, 200, "{number}");
        }
    }
    assert_eq!(served.health().status, 200);
    let log = served.log();
    assert!(!["internal error", "panicked", "overflowed", "cannot be"].iter().any(|word| log.contains(word)), "{log}");
}
