//! Requests that wait, or pass a file on, take no worker from others.

use crate::fixture::TOKEN;
use crate::served::{call_of, parameters, proxy, Answered, Served};
use serde_json::json;
use simulator::{Action, Fault, Target};
use std::time::{Duration, Instant};
use support::eventually;

/// With one worker, and a limit that is used up: the next call waits for two seconds.
fn limited() -> crate::fixture::Proxy {
    let proxy =
        proxy().reconfigured("requests_per_second = 100000\nburst = 100000", "requests_per_second = 0.5\nburst = 1");
    proxy.reconfigured("max_wait = 5", "max_wait = 9")
}

#[test]
fn a_call_that_waits_for_its_turn_takes_no_worker_from_others() {
    let proxy = limited();
    let served = Served::by(&proxy, 1);
    served.call("sim.echo", json!({})).assert_success();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| served.call("sim.echo", json!({})))).collect();
        std::thread::sleep(Duration::from_millis(500));
        for _ in 0..10 {
            let health = served.health();
            assert!(health.status == 200 && health.elapsed < Duration::from_millis(500), "{:?}", health.elapsed);
        }
        waiting.into_iter().for_each(|caller| caller.join().unwrap().assert_success());
    });
    eventually("those beside it have ended", || served.workers().len() == 1);
}

#[test]
fn a_call_that_waits_for_anothers_refresh_takes_no_worker_from_others() {
    let proxy = proxy();
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    let served = Served::by(&proxy, 1);
    proxy.simulator.inject(Fault::once(Target::Token, Action::Hang));
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..5).map(|_| scope.spawn(|| served.call("sim.echo", json!({})))).collect();
        assert!(proxy.simulator.wait_hanging(1, Duration::from_secs(10)));
        std::thread::sleep(Duration::from_millis(300));
        assert!(served.health().elapsed < Duration::from_millis(500));
        proxy.simulator.release();
        waiting.into_iter().for_each(|caller| caller.join().unwrap().assert_success());
    });
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
}

#[test]
fn a_call_that_waits_for_its_key_takes_no_worker_from_others() {
    // Two workers: one calls, one waits for it, and a third request is served at once.
    let proxy = proxy();
    let served = Served::by(&proxy, 2);
    let body = json!({"method": "sim.echo", "params": {}}).to_string();
    let keyed = || served.ask(&proxy.request(body.clone()).header("Idempotency-Key", "one"), body.as_bytes());
    proxy.simulator.inject(Fault::once(Target::Method("sim.echo".into()), Action::HangAfter));
    std::thread::scope(|scope| {
        let first = scope.spawn(keyed);
        assert!(proxy.simulator.wait_hanging(1, Duration::from_secs(10)));
        let others: Vec<_> = (0..3).map(|_| scope.spawn(keyed)).collect();
        std::thread::sleep(Duration::from_millis(300));
        assert!(served.health().elapsed < Duration::from_millis(500));
        proxy.simulator.release();
        first.join().unwrap().assert_success();
        others.into_iter().for_each(|caller| caller.join().unwrap().assert_success());
    });
    assert_eq!(proxy.simulator.ledger().calls("sim.echo"), 1);
}

#[test]
fn no_more_than_64_requests_wait_and_the_next_is_host_busy_and_takes_no_place() {
    let proxy = limited()
        .reconfigured("requests_per_second = 0.5\nburst = 1", "requests_per_second = 12\nburst = 1")
        .reconfigured("timeout       = 10", "timeout = 30");
    let served = Served::by(&proxy, 2);
    served.call("sim.echo", json!({})).assert_success();
    let begun = Instant::now();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..100).map(|_| scope.spawn(|| served.call("sim.echo", json!({})))).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    let busy: Vec<_> = answers.iter().filter(|answer| answer.code() == "host_busy").collect();
    let passed = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(busy.len() + passed, 100, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    assert!(!busy.is_empty() && passed >= 64, "{passed} passed");
    for answer in busy {
        assert_eq!((answer.status, &answer.json()["executed"]), (503, &"no".into()));
        assert!(answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Retry-After")));
        assert!(answer.elapsed < begun.elapsed() / 2, "it is told at once: {:?}", answer.elapsed);
    }
    // The places of those that were refused are there for the others.
    let turns = Duration::from_secs_f64(passed as f64 / 12.0);
    assert!(begun.elapsed() < turns + Duration::from_secs(3), "{:?} for {passed} calls", begun.elapsed());
    assert_eq!(proxy.simulator.ledger().calls("sim.echo"), passed + 1);
    eventually("those beside the workers have ended", || served.workers().len() <= 2);
}

#[test]
fn callers_that_wait_for_events_take_no_worker_from_others_and_beyond_64_get_an_empty_list_at_once() {
    let proxy = proxy();
    let served = Served::by(&proxy, 2);
    let body = json!({"events": {"wait": 4}}).to_string();
    let ask = || served.ask(&proxy.request(body.clone()), body.as_bytes());
    let answers: Vec<_> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..100).map(|_| scope.spawn(ask)).collect();
        std::thread::sleep(Duration::from_millis(2000));
        let health = served.health();
        assert!(health.status == 200 && health.elapsed < Duration::from_millis(500), "{:?}", health.elapsed);
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    for answer in &answers {
        assert_eq!((answer.status, &answer.json()["data"]), (200, &json!({"events": [], "last": 0, "lost": 0})));
    }
    let waited = answers.iter().filter(|answer| answer.elapsed >= Duration::from_secs(4)).count();
    let at_once = answers.iter().filter(|answer| answer.elapsed < Duration::from_millis(3500)).count();
    assert_eq!(waited + at_once, 100, "{:?}", answers.iter().map(|answer| answer.elapsed).collect::<Vec<_>>());
    assert!((60..=70).contains(&waited), "{waited} waited");
    eventually("those beside the workers have ended", || served.workers().len() <= 2);
}

#[test]
fn a_file_on_its_way_takes_no_worker_from_others() {
    let proxy = proxy();
    proxy.portal().grant("disk");
    let served = Served::by(&proxy, 1);
    let file = served.call("disk.file.get", json!({"id": proxy.portal().seed_file("a.bin", 300_000)}));
    let address = file.json()["data"]["result"]["DOWNLOAD_URL"].as_str().expect("an address").to_owned();
    let query: String = serde_urlencoded::to_string([("portal", proxy.portal().name()), ("address", address)]).unwrap();
    let request = proxy.get("/file").query(&query).bearer(TOKEN);
    proxy.simulator.inject(Fault::once(Target::Download, Action::HangAfterBytes(100_000)));
    std::thread::scope(|scope| {
        let download = scope.spawn(|| served.ask(&request, b""));
        assert!(proxy.simulator.wait_hanging(1, Duration::from_secs(10)));
        assert!(served.health().elapsed < Duration::from_millis(500));
        proxy.simulator.release();
        let download = download.join().unwrap();
        assert_eq!((download.status, download.body.len()), (200, 300_000));
    });
    eventually("the one beside it has ended", || served.workers().len() == 1);
}

#[test]
fn whoever_sends_slowly_or_reads_no_answer_takes_no_worker_from_others() {
    let proxy = proxy();
    let served = Served::by(&proxy, 2);
    // Strangers whose bodies do not come, half a record, and half a call of a client.
    let stranger = parameters(&proxy.bare_request("").path("/file").content_length(Some(1000)), b"");
    let (variables, body) = call_of(&proxy, "sim.echo", json!({"text": "x".repeat(2 << 20)}));
    let mut slow: Vec<_> = (0..9).map(|_| served.connect()).collect();
    for (number, connection) in slow.iter_mut().enumerate() {
        match number % 3 {
            0 => connection.begin(1, false, stranger.clone()).and_then(|()| connection.body(1, b"x")).unwrap(),
            1 => connection.send(&support::fastcgi::begin(1, false)[..5]).unwrap(),
            _ => {
                connection.begin(1, false, variables.clone()).unwrap();
                connection.body(1, &body[..1000]).unwrap();
            }
        }
    }
    // An answer of two megabytes that nobody reads.
    let mut unread = served.connect();
    unread.expect(1);
    unread.send(&support::fastcgi::request(1, false, variables, &body)).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    for _ in 0..5 {
        assert!(served.health().elapsed < Duration::from_millis(500));
    }
    let answered = Answered::of(unread.reply(1).unwrap(), Duration::ZERO);
    assert_eq!(answered.status, 200, "{}", answered.stderr);
}
