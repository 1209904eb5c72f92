//! Contract section 10: whatever becomes of the process or the disk at any system call, an event that was answered 200 is kept
//! whole, one that was not is kept whole or not at all, and the next one gets the next number.

use crate::bench::{in_parallel, is_full, Bench, Count, Point};
use crate::fixture::*;
use crate::nodes::{on_each_kind, Nodes};
use serde_json::{json, Value};
use support::cgi::{Cgi, Running};
use support::database::{shared, Kind};
use support::relay::Moment;

/// What is there before the event that is struck.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    Nothing,
    One,
    /// So much that a new file begins.
    AFile,
}

fn bench() -> Bench {
    let proxy = Proxy::not_installed().on_files();
    let config = format!("{}\n[events]\nmax_size = \"1 MiB\"\n", proxy.config());
    Bench::of(proxy.configured(&config))
}

fn form(bench: &Bench, text: &str) -> String {
    bench.proxy.portal().report("ONCRMDEALADD", &[("[TEXT]", text)])
}

fn post<'b>(bench: &'b Bench, form: &str, before: &str) -> Cgi<'b> {
    Cgi::new(&bench.proxy.sandbox).as_cgi().form(form).content_length(Some(form.len())).env("FAULTS_BEFORE", before)
}

fn start(bench: &Bench, text: &str, before: &str) -> Running {
    let form = form(bench, text);
    let mut running = post(bench, &form, before).spawn();
    let _ = running.write(form.as_bytes());
    running.end_body();
    running
}

/// `None`: it was killed.
fn status(bench: &Bench, text: &str, before: &str) -> Option<u16> {
    start(bench, text, before).wait_unless_killed().map(|answer| answer.status)
}

/// How many events there are then.
fn prepare(bench: &Bench, before: Before) -> usize {
    let proxy = &bench.proxy;
    bench.prepare(false);
    proxy.change_stored(|tokens| tokens["application_token"] = proxy.portal().application_token().into());
    let _ = std::fs::remove_dir_all(proxy.sandbox.tokens().join("events"));
    let texts = match before {
        Before::Nothing => vec![],
        Before::One => vec!["before".to_owned()],
        Before::AFile => vec!["x".repeat(40_000); 2],
    };
    for text in &texts {
        assert_eq!(status(bench, text, ""), Some(200));
    }
    texts.len()
}

/// Numbers and texts.
fn read(bench: &Bench) -> Vec<(u64, String)> {
    let answer = bench.proxy.request(json!({"events": {"most": 1000}}).to_string()).run();
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    let one = |event: &Value| (event["number"].as_u64().unwrap(), event["data"]["TEXT"].as_str().unwrap().to_owned());
    answer.json()["data"]["events"].as_array().expect("events").iter().map(one).collect()
}

fn struck_at_each(is_taken: impl Fn(&Point) -> bool, blow: impl Fn(&Bench, &Point) -> String + Sync) -> (usize, usize) {
    let first = bench();
    let mut points = Vec::new();
    for before in [Before::Nothing, Before::One, Before::AFile] {
        prepare(&first, before);
        let traced = first.trace(|words| start(&first, "traced", words).wait_for_end());
        let begin = traced.iter().position(|point| point.line.contains("/events")).expect("the folder is looked at");
        let begin = if is_full() { 0 } else { begin };
        points.extend(traced.into_iter().skip(begin).filter(|point| is_taken(point)).map(|point| (before, point)));
    }
    let (answered, lost) = (Count::default(), Count::default());
    in_parallel(&points, bench, |bench, index, (before, point)| {
        let (count, text) = (prepare(bench, *before), format!("struck {index}"));
        let status = status(bench, &text, &blow(bench, point));
        let what = format!("{before:?} {point:?}: {status:?}");
        assert!([None, Some(200), Some(500)].contains(&status), "{what}");
        // Half of the time somebody reads first.
        let seen = (index % 2 == 0).then(|| read(bench));
        assert_eq!(self::status(bench, "next", ""), Some(200), "{what}");
        let all = read(bench);
        assert!(seen.is_none_or(|seen| all.starts_with(&seen)), "{what}: what was read stays");
        let numbers: Vec<u64> = all.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (1..=all.len() as u64).collect::<Vec<_>>(), "{what}");
        let texts: Vec<&str> = all[count..].iter().map(|(_, text)| text.as_str()).collect();
        match texts.as_slice() {
            [first, "next"] if *first == text => answered.add(status == Some(200)),
            ["next"] => {
                assert_ne!(status, Some(200), "{what}: answered 200 and not kept");
                lost.add(true);
            }
            other => panic!("{what}: {other:?}"),
        }
    });
    println!("{} points: {} answered 200, {} not kept", points.len(), answered.get(), lost.get());
    (answered.get(), lost.get())
}

#[test]
fn an_event_whose_process_is_killed_at_any_system_call_is_kept_whole_or_not_at_all() {
    let (_, lost) = struck_at_each(|_| true, |bench, point| bench.striking(point, "KILL", ""));
    assert!(lost > 10, "{lost}");
}

#[test]
fn an_event_is_answered_200_only_where_no_call_on_the_disk_has_failed_that_it_needs() {
    let on_disk = ["openat", "mkdir", "write", "fdatasync", "fsync", "ftruncate", "flock"];
    // The answer and the log are written too.
    let is_stream = |line: &str| line.starts_with("write(1,") || line.starts_with("write(2,");
    let is_taken = |point: &Point| on_disk.contains(&point.name.as_str()) && !is_stream(&point.line);
    let (answered, lost) = struck_at_each(is_taken, |bench, point| bench.failing(point, "ENOSPC"));
    assert!(answered > 0 && lost > 5, "{answered} {lost}");
}

/// Events of a database, where the connection is cut before or behind each statement; half of them by FastCGI.
fn on_a_database(kind: Kind) {
    let nodes = Nodes::new(shared(kind));
    nodes.prepare(false);
    let token = nodes.proxy.portal().application_token();
    nodes.proxy.change_stored(|tokens| tokens["application_token"] = token.into());
    let post = |text: &str, is_resident: bool| {
        let request = Cgi::new(nodes.one()).form(&nodes.proxy.portal().report("ONCRMDEALADD", &[("[TEXT]", text)]));
        if is_resident { request.as_resident() } else { request.as_cgi() }.run().status
    };
    nodes.relay.count();
    assert_eq!(post("first", false), 200);
    let most = nodes.relay.asked();
    let mut posted = vec![("first".to_owned(), 200)];
    for is_resident in [false, true] {
        for moment in [Moment::Before, Moment::After] {
            for nth in 1..=most {
                let text = format!("{is_resident} {moment:?} {nth}");
                nodes.relay.strike(nth, moment, |_, _| {});
                let status = post(&text, is_resident);
                assert!([200, 500].contains(&status), "{text}: {status}");
                posted.push((text, status));
            }
        }
    }
    nodes.relay.count();
    assert_eq!(post("last", false), 200);
    let body = json!({"events": {"most": 1000}}).to_string();
    let answer = Cgi::new(nodes.other()).method("POST").json(body).bearer(TOKEN).run();
    let events = answer.json()["data"]["events"].as_array().expect("events").clone();
    let numbers: Vec<u64> = events.iter().map(|event| event["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>(), "{kind:?}");
    let texts: Vec<&str> = events.iter().map(|event| event["data"]["TEXT"].as_str().unwrap()).collect();
    for (text, status) in &posted {
        let times = texts.iter().filter(|kept| *kept == text).count();
        assert!(times == 1 || times == 0 && *status == 500, "{kind:?}: {text}: {status}, kept {times} times");
    }
    let answered = posted.iter().filter(|(_, status)| *status == 200).count();
    println!("{kind:?}: {answered} of {} answered 200 where one of {most} statements is lost", posted.len());
    assert!(answered * 2 > posted.len(), "a lost connection is asked again: {answered}");
}

#[test]
fn at_whatever_statement_a_connection_is_lost_an_event_is_kept_once_and_each_that_was_answered_200() {
    on_each_kind(on_a_database);
}
