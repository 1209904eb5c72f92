//! Contract section 1: bodies that are packed, or declared so, and the time that a request may take.

use crate::fixture::*;
use crate::web_servers::PROGRAM;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use flate2::Compression;
use serde_json::json;
use std::io::Write;
use std::time::{Duration, Instant};
use support::cgi::{Answer, Cgi};
use support::webserver::{Kind, Setup, WebServer};

const PROFILE: &str = r#"{"method":"profile"}"#;

/// The headers that name a format, with what makes it.
fn packed_forms(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    macro_rules! with {
        ($encoder:ident, $level:expr) => {{
            let mut encoder = $encoder::new(Vec::new(), $level);
            encoder.write_all(text.as_bytes()).expect("memory");
            encoder.finish().expect("memory")
        }};
    }
    vec![
        ("gzip", with!(GzEncoder, Compression::default())),
        ("X-GZip", with!(GzEncoder, Compression::none())),
        ("deflate", with!(ZlibEncoder, Compression::default())),
        ("deflate", with!(DeflateEncoder, Compression::best())),
        ("deflate", with!(DeflateEncoder, Compression::none())),
    ]
}

/// The routes that read a body: the request and what it must be answered, with the body that it takes.
type Routed<'p> = (&'static str, Box<dyn Fn() -> Cgi<'p> + 'p>, String);

fn routes(proxy: &Proxy) -> Vec<Routed<'_>> {
    let text = "Стол ".repeat(2000);
    let json = json!({"text": text}).to_string();
    let form = serde_urlencoded::to_string([("text", &text)]).expect("a form");
    let echo = move |content_type: &'static str| {
        let path = format!("/rest/1/{TOKEN}/sim.echo");
        Box::new(move || Cgi::new(&proxy.sandbox).method("POST").path(&path).header("Content-Type", content_type))
    };
    vec![
        (
            "the envelope",
            Box::new(|| proxy.request("")),
            format!("\u{feff}{{\"method\":\"sim.echo\",\"params\":{json}}}"),
        ),
        ("a webhook's JSON", echo("application/json"), json),
        ("a webhook's form", echo("application/x-www-form-urlencoded"), form),
    ]
}

#[track_caller]
fn assert_echoed(what: &str, answer: &Answer) {
    assert_eq!(answer.status, 200, "{what}: {:.300}", answer.text());
    let json = answer.json();
    let text = json.pointer("/data/result/text").or(json.pointer("/result/text"));
    assert!(text.is_some_and(|text| *text == "Стол ".repeat(2000)), "{what}: {:.300}", answer.text());
}

#[test]
fn a_body_with_content_encoding_gzip_or_deflate_is_unpacked_on_every_route() {
    let proxy = Proxy::installed();
    for (route, request, body) in routes(&proxy) {
        for (encoding, packed) in packed_forms(&body) {
            for length in [Some(packed.len()), None] {
                let what = format!("{route}, {encoding}, {length:?}");
                let request = request().header("Content-Encoding", encoding).body(packed.clone());
                assert_echoed(&what, &request.content_length(length).run());
            }
        }
    }
}

#[test]
fn one_that_a_web_server_has_unpacked_already_is_read_to_its_end_whatever_is_announced() {
    let proxy = Proxy::installed();
    for (route, request, body) in routes(&proxy) {
        for encoding in ["gzip", "deflate"] {
            for length in [Some(22), Some(600), Some(body.len()), Some(2 * body.len()), None] {
                let request = request().header("Content-Encoding", encoding).body(body.as_str());
                assert_echoed(&format!("{route}, {encoding}, {length:?}"), &request.content_length(length).run());
            }
        }
    }
}

#[test]
fn a_strangers_form_is_unpacked_too_and_no_more_than_64_kib_of_it() {
    let proxy = Proxy::installed();
    let stranger = |encoding: &str, body: Vec<u8>| {
        let form = "application/x-www-form-urlencoded";
        let request = proxy.bare_request(body).header("Content-Type", form);
        request.header("Content-Encoding", encoding).env("CONTENT_TYPE", form).run()
    };
    for (encoding, packed) in packed_forms("event=ONCRMDEALADD&data%5BID%5D=1") {
        assert_eq!(stranger(encoding, packed).status, 200, "{encoding}");
    }
    for (encoding, packed) in packed_forms(&format!("event={}", "A".repeat(64 << 10))) {
        assert_failure(&stranger(encoding, packed), 413, "body_too_large");
    }
    assert_failure(&stranger("br", b"event=A".to_vec()), 415, "unsupported_encoding");
}

#[test]
fn max_body_counts_what_comes_out() {
    let proxy = Proxy::installed().reconfigured("[limits]", "[limits]\nmax_body = \"100 KiB\"");
    let text = |length: usize| json!({"method": "profile", "params": {"a": "x".repeat(length)}}).to_string();
    for (encoding, packed) in packed_forms(&text(90 << 10)) {
        let answer = proxy.request(packed).header("Content-Encoding", encoding).run();
        assert_eq!(answer.status, 200, "{encoding}: {}", answer.text());
    }
    for (encoding, packed) in packed_forms(&text(110 << 10)) {
        let answer = proxy.request(packed).header("Content-Encoding", encoding).run();
        assert_failure(&answer, 413, "body_too_large");
    }
    assert_eq!(proxy.simulator.ledger().executed("profile"), packed_forms("").len());
}

#[test]
fn another_encoding_is_415_and_nothing_is_sent() {
    let proxy = Proxy::installed();
    for encoding in ["br", "zstd", "compress", "gzip, gzip", "gzip, deflate", "identity, gzip", "x", "\u{7f}\u{1b}[31m"]
    {
        let answer = proxy.request(PROFILE).env("HTTP_CONTENT_ENCODING", encoding).run();
        assert_failure(&answer, 415, "unsupported_encoding");
        assert!(!answer.text().contains('\u{1b}') && !answer.stderr.contains('\u{1b}'));
        let path = format!("/rest/1/{TOKEN}/profile");
        let answer = Cgi::new(&proxy.sandbox).path(&path).json(PROFILE).env("HTTP_CONTENT_ENCODING", encoding).run();
        assert_eq!((answer.status, &answer.json()["error"]), (415, &json!("UNSUPPORTED_ENCODING")));
    }
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
    // Where there is no body, it is not encoded either.
    let bare = proxy.get(&format!("/rest/1/{TOKEN}/profile")).header("Content-Encoding", "br").run();
    assert_eq!(bare.status, 200, "{}", bare.text());
    for none in ["identity", "", " Identity "] {
        assert_eq!(proxy.request(PROFILE).env("HTTP_CONTENT_ENCODING", none).run().status, 200, "{none}");
    }
}

#[test]
fn a_packed_body_that_is_cut_or_damaged_is_400_and_executes_nothing() {
    let proxy = Proxy::installed();
    let body = json!({"method": "crm.deal.add", "params": {"fields": {"TITLE": "x".repeat(3000)}}}).to_string();
    for (encoding, packed) in packed_forms(&body) {
        for cut in [1, packed.len() / 2] {
            let cut = &packed[..packed.len() - cut];
            for announced in [Some(cut.len()), Some(packed.len()), None] {
                let request = proxy.request(cut).header("Content-Encoding", encoding);
                assert_failure(&request.content_length(announced).run(), 400, "invalid_request");
            }
        }
        let followed = [packed.as_slice(), b"more"].concat();
        let answer = proxy.request(followed).header("Content-Encoding", encoding).run();
        assert_failure(&answer, 400, "invalid_request");
    }
    assert_eq!(proxy.simulator.ledger().executed("crm.deal.add"), 0);
}

#[test]
fn apache_that_unpacks_by_itself_and_leaves_the_packed_length_passes_the_whole_body() {
    for kind in [Kind::ApacheCgid, Kind::ApacheCgi] {
        let proxy = Proxy::installed();
        let module = "/usr/lib/apache2/modules/mod_deflate.so";
        let modules = format!("<IfModule !deflate_module>\nLoadModule deflate_module {module}\n</IfModule>");
        let lines = format!("{modules}\n<Location \"{PROGRAM}\">\nSetInputFilter DEFLATE\n</Location>\n");
        for lines in [lines.as_str(), ""] {
            let setup = Setup { directives: lines.into(), ..Setup::default() };
            let server = WebServer::start_with(&proxy.sandbox, kind, &setup);
            let body = json!({"method": "sim.echo", "params": {"text": "Стол ".repeat(2000)}}).to_string();
            for (encoding, packed) in packed_forms(&body) {
                let request = server.request("POST", PROGRAM).bearer(TOKEN).header("Content-Encoding", encoding);
                let answer = request.json(packed).send();
                assert_eq!(answer.status, 200, "{kind:?} {encoding} {lines:.20} {:.300}", answer.text());
                assert_eq!(answer.json()["data"]["result"]["text"], "Стол ".repeat(2000));
            }
        }
    }
}

/// How long a request takes whose body begins and never ends.
fn time_with_endless_body(request: Cgi, piece: &[u8]) -> (Duration, Answer) {
    let started = Instant::now();
    let mut running = request.content_length(Some(60_000)).timeout(Duration::from_secs(40)).spawn();
    running.write(piece).expect("the program reads");
    // A byte now and then, as who wants to hold a process would.
    while running.is_running() && started.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(200));
        let _ = running.write(b" ");
    }
    (started.elapsed(), running.wait())
}

#[test]
fn timeout_bounds_reading_waiting_calling_and_draining_together() {
    let proxy = Proxy::installed().reconfigured("timeout       = 10", "timeout = 3");
    let seconds = |range: std::ops::RangeInclusive<u64>, took: Duration| {
        assert!(range.contains(&took.as_secs()), "{took:?}");
    };
    let (took, answer) = time_with_endless_body(proxy.request(""), b"{\"method\":");
    assert_failure(&answer, 400, "invalid_request");
    seconds(2..=4, took);
    // Refused without reading: what is drained counts too.
    let wrong = format!("/{}/rest/1/{TOKEN}/a.b", "nobody.bitrix24.ru");
    let (took, answer) = time_with_endless_body(Cgi::new(&proxy.sandbox).path(&wrong).json(""), b"{");
    assert_eq!(answer.status, 400, "{}", answer.text());
    seconds(2..=4, took);
    let other = proxy.request("").env("HTTP_CONTENT_ENCODING", "br");
    let (took, answer) = time_with_endless_body(other, b"{");
    assert_failure(&answer, 415, "unsupported_encoding");
    seconds(2..=4, took);
}

#[test]
fn a_stranger_has_ten_seconds_to_send() {
    let proxy = Proxy::installed().reconfigured("timeout       = 10", "timeout = 50");
    let form = "application/x-www-form-urlencoded";
    let strangers: [(&str, Cgi, u16); 4] = [
        ("a form", proxy.bare_request("").env("CONTENT_TYPE", form), 400),
        ("JSON", proxy.bare_request(""), 401),
        ("a wrong token", proxy.bare_request("").bearer("not-the-token-of-anybody"), 401),
        ("a webhook's wrong token", Cgi::new(&proxy.sandbox).path("/rest/1/WRONG/a.b").json(""), 401),
    ];
    std::thread::scope(|scope| {
        for (what, request, status) in strangers {
            scope.spawn(move || {
                let (took, answer) = time_with_endless_body(request, b"event=");
                assert_eq!(answer.status, status, "{what}: {}", answer.text());
                assert!((9..=12).contains(&took.as_secs()), "{what}: {took:?}");
            });
        }
    });
}
