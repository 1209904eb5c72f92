//! Bitrix24's limits, shared by all processes of a portal: the leaky bucket and methods that have used up their time.

use crate::fixture::*;
use fs2::FileExt;
use serde_json::{json, Value};
use simulator::{Action, Fault, Options, Target};
use std::time::{Duration, Instant};
use support::cgi::{Answer, Cgi};
use support::http::Request;

/// A proxy over plain http whose portal, and Bitrix24, have this rate and burst.
fn limited(rate: f64, burst: f64) -> Proxy {
    let proxy = told(rate, burst);
    proxy.portal().set_bucket(rate, burst);
    proxy
}

/// The same, where Bitrix24 itself refuses nothing.
fn told(rate: f64, burst: f64) -> Proxy {
    let proxy = Proxy::with(Options { https: false, ..Options::default() });
    proxy.store_pair(&proxy.portal().issue_pair(1));
    let aliases = "aliases = [\"acme\"]";
    proxy.reconfigured(aliases, &format!("{aliases}\nrequests_per_second = {rate}\nburst = {burst}"))
}

fn echo(proxy: &Proxy, i: usize) -> Cgi<'_> {
    proxy.request(json!({"method": "sim.echo", "params": {"i": i}}).to_string())
}

fn webhook<'p>(proxy: &'p Proxy, method: &str) -> Cgi<'p> {
    proxy.get(&format!("/rest/1/{TOKEN}/{method}")).query("i=1")
}

/// What the processes share, written as if they had left it so.
fn write_limits(proxy: &Proxy, content: &[u8]) {
    let name = format!("{}.limits", proxy.stem());
    match std::str::from_utf8(content) {
        Ok(text) => proxy.sandbox.write_token_file(&name, text),
        Err(_) => proxy.sandbox.write(&format!("b24proxy/tokens/{name}"), 0o600, content),
    }
}

fn write_level(proxy: &Proxy, level: f64) {
    write_limits(proxy, json!({"level": level, "at": unix_now() * 1000, "blocked": {}}).to_string().as_bytes());
}

#[track_caller]
fn assert_success(answer: &Answer) {
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
}

/// A refusal of this program's own: 429 `rate_limited` with `retry_after` in body and header. Answers the seconds.
#[track_caller]
fn assert_rate_limited(answer: &Answer) -> u64 {
    assert_failure(answer, 429, "rate_limited");
    let body = answer.json();
    assert_eq!(body["executed"], "no", "{body}");
    let seconds = body["retry_after"].as_u64().expect("retry_after");
    assert_eq!(answer.header("Retry-After"), Some(seconds.to_string().as_str()));
    assert!(seconds >= 1);
    seconds
}

/// When calls of `sim.echo` reached Bitrix24, in seconds after the first, and which of them it refused.
fn arrivals(proxy: &Proxy) -> (Vec<f64>, usize) {
    let ledger = proxy.simulator.ledger();
    let times: Vec<f64> = ledger.of_method("sim.echo").map(|entry| entry.at).collect();
    let refused = ledger.of_method("sim.echo").filter(|entry| entry.status == Some(503)).count();
    (times.iter().map(|at| at - times[0]).collect(), refused)
}

#[test]
fn a_burst_goes_at_once_and_the_rest_waits_its_turn() {
    let proxy = told(2.0, 5.0);
    for i in 0..8 {
        assert_success(&echo(&proxy, i).run());
    }
    let (times, _) = arrivals(&proxy);
    assert!(times[4] < 1.0, "the burst: {times:?}");
    for (i, at) in times.iter().enumerate().skip(5) {
        let turn = (i as f64 + 1.0 - 5.0) / 2.0;
        assert!(*at > turn - 0.2, "call {i} was sent too early: {times:?}");
    }
}

#[test]
fn a_call_that_would_wait_longer_than_max_wait_is_429_with_retry_after_and_is_not_sent() {
    let proxy = told(0.1, 1.0);
    assert_success(&echo(&proxy, 0).run());
    let answer = echo(&proxy, 1).run();
    // Ten seconds to wait, five allowed.
    assert!((4..=5).contains(&assert_rate_limited(&answer)), "{}", answer.text());
    assert!(answer.elapsed < Duration::from_secs(2), "it is told at once: {:?}", answer.elapsed);
    assert_eq!(proxy.simulator.ledger().calls("sim.echo"), 1);
}

#[test]
fn on_the_webhook_routes_a_call_waits_at_most_8_seconds_and_is_then_503_query_limit_exceeded() {
    let proxy =
        told(0.1, 1.0).reconfigured("max_wait = 5", "max_wait = 20").reconfigured("timeout       = 10", "timeout = 30");
    assert_success(&webhook(&proxy, "sim.echo").run());
    let answer = webhook(&proxy, "sim.echo").run();
    let body = answer.json();
    assert_eq!((answer.status, body["error"].as_str()), (503, Some("QUERY_LIMIT_EXCEEDED")), "{body}");
    assert!(body["error_description"].as_str().is_some_and(|text| !text.is_empty()));
    // Ten seconds to wait, less what has passed since; eight allowed.
    assert!(matches!(answer.header("Retry-After"), Some("1" | "2")), "{:?}", answer.headers);
    assert!(answer.elapsed < Duration::from_secs(2), "{:?}", answer.elapsed);
    assert_eq!(proxy.simulator.ledger().calls("sim.echo"), 1);
}

#[test]
fn first_come_first_served() {
    let proxy = told(5.0, 1.0);
    let callers: Vec<_> = (0..6)
        .map(|i| {
            let body = json!({"method": "sim.echo", "params": {"i": i}}).to_string();
            let mut caller = proxy.request("").content_length(Some(body.len())).spawn();
            caller.write(body.as_bytes()).expect("the body is read");
            caller.end_body();
            std::thread::sleep(Duration::from_millis(100));
            caller
        })
        .collect();
    callers.into_iter().for_each(|caller| assert_success(&caller.wait()));
    let ledger = proxy.simulator.ledger();
    let order: Vec<i64> = ledger.of_method("sim.echo").filter_map(|entry| entry.call()?.params["i"].as_i64()).collect();
    assert_eq!(order, [0, 1, 2, 3, 4, 5]);
}

/// So many callers at once on an empty bucket; all must get through.
fn everybody_gets_through(rate: f64, burst: f64, callers: usize) {
    let least = (callers as f64 - burst) / rate;
    // Other tests may take the CPUs for a while.
    let last: Vec<f64> = (0..3).map(|_| last_of(rate, burst, callers)).take_while(|last| *last > least * 1.1).collect();
    assert!(last.len() < 3, "the last call was sent after {last:?} s, {least:.2} s would do");
}

/// The second in which the last of them came.
fn last_of(rate: f64, burst: f64, callers: usize) -> f64 {
    let proxy = limited(rate, burst)
        .reconfigured("max_wait = 5", "max_wait = 50")
        .reconfigured("timeout       = 10", "timeout = 55");
    std::thread::scope(|scope| {
        for i in 0..callers {
            let proxy = &proxy;
            // More of them than may wait at once at a resident program.
            scope.spawn(move || assert_success(&echo(proxy, i).as_cgi().run()));
        }
    });
    let (times, refused) = arrivals(&proxy);
    let last = times.iter().copied().fold(0.0, f64::max);
    println!("{callers} callers, {rate}/s and {burst}: refused {refused}, the last after {last:.2} s");
    assert_eq!(proxy.simulator.ledger().executed("sim.echo"), callers);
    assert!(refused <= 6, "Bitrix24 refused {refused} calls");
    last
}

#[test]
fn of_many_callers_at_once_bitrix24_refuses_hardly_any_and_the_last_is_through_as_soon_as_can_be() {
    everybody_gets_through(20.0, 50.0, 170);
}

#[test]
fn of_120_callers_at_2_a_second_and_50_the_last_is_through_after_35_seconds() {
    everybody_gets_through(2.0, 50.0, 120);
}

#[test]
fn where_somebody_else_uses_the_portal_too_a_refused_call_is_repeated_within_max_wait() {
    let proxy = limited(10.0, 10.0);
    let url = proxy.portal().webhook_url();
    let address = proxy.portal().name().parse().expect("an address");
    let path = url.split_once(&proxy.portal().name()).expect("the name is in the address").1;
    for _ in 0..10 {
        assert_eq!(Request::new(address, "GET", &format!("{path}profile")).send().status, 200);
    }
    for i in 0..5 {
        assert_success(&echo(&proxy, i).run());
    }
    let (times, refused) = arrivals(&proxy);
    assert!(refused >= 1, "Bitrix24's bucket was full: {times:?}");
    assert_eq!(proxy.simulator.ledger().executed("sim.echo"), 5);
}

/// Bitrix24 refuses every call. Answers how often it was asked until the caller heard of it.
fn asked_while_bitrix24_refuses_everything(proxy: &Proxy) -> usize {
    let refusal = Action::ErrorJson {
        status: 503,
        error: "QUERY_LIMIT_EXCEEDED".into(),
        error_description: "Too many requests".into(),
    };
    proxy.simulator.inject(Fault::forever(Target::Method("sim.echo".into()), refusal));
    let started = Instant::now();
    assert_rate_limited(&echo(proxy, 0).run());
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    proxy.simulator.ledger().calls("sim.echo")
}

#[test]
fn where_bitrix24_goes_on_refusing_the_caller_hears_429_after_max_wait_and_bitrix24_is_asked_at_its_own_rate() {
    let proxy = told(5.0, 50.0).reconfigured("max_wait = 5", "max_wait = 2");
    let asked = asked_while_bitrix24_refuses_everything(&proxy);
    assert!((2..=12).contains(&asked), "asked {asked} times in 2 s at 5 a second");
}

#[test]
fn even_where_the_limits_file_cannot_be_used_a_refusing_bitrix24_is_asked_at_its_own_rate() {
    let proxy = told(5.0, 50.0).reconfigured("max_wait = 5", "max_wait = 2");
    proxy.sandbox.make_folder(&format!("b24proxy/tokens/{}.limits", proxy.stem()), 0o700);
    let asked = asked_while_bitrix24_refuses_everything(&proxy);
    assert!((2..=12).contains(&asked), "asked {asked} times in 2 s at 5 a second");
}

#[test]
fn requests_per_second_and_burst_are_the_portals_own_2_and_50_unless_set() {
    let proxy = Proxy::with(Options { https: false, ..Options::default() });
    proxy.store_pair(&proxy.portal().issue_pair(1));
    write_level(&proxy, 48.0);
    assert_success(&echo(&proxy, 0).run());
    write_level(&proxy, 250.0);
    // 201 / 2 - 5
    assert!((90..=96).contains(&assert_rate_limited(&echo(&proxy, 1).run())));

    let enterprise = told(5.0, 250.0);
    write_level(&enterprise, 248.0);
    let answer = echo(&enterprise, 0).run();
    assert_success(&answer);
    assert!(answer.elapsed < Duration::from_secs(3), "{:?}", answer.elapsed);
    write_level(&enterprise, 300.0);
    // 51 / 5 - 5
    assert!((4..=6).contains(&assert_rate_limited(&echo(&enterprise, 1).run())));
}

#[test]
fn operation_time_limit_blocks_that_method_at_once_while_others_go_on() {
    let proxy = told(2.0, 50.0);
    proxy.portal().block_method("crm.deal.list", 60.0);
    let first = proxy.call("crm.deal.list", json!({}));
    assert_failure(&first, 429, "bitrix24_error");
    assert_eq!(first.json()["bitrix24"]["error"], "OPERATION_TIME_LIMIT");
    for method in ["crm.deal.list", "CRM.Deal.List.json"] {
        assert!((1..=60).contains(&assert_rate_limited(&proxy.call(method, json!({})))), "{method}");
    }
    let answer = webhook(&proxy, "crm.deal.list").run();
    assert_eq!((answer.status, answer.json()["error"].as_str()), (429, Some("OPERATION_TIME_LIMIT")));
    assert!(answer.header("Retry-After").is_some());
    assert_eq!(proxy.simulator.ledger().calls("crm.deal.list"), 1);
    assert_success(&proxy.call("crm.deal.add", json!({"fields": {}})));
}

/// The next `crm.deal.list` answers that so many seconds are used, and that they are free again at `reset_at`.
fn next_list_says(proxy: &Proxy, operating: f64, reset_at: i64) {
    let time: Value = json!({"operating": operating, "operating_reset_at": reset_at});
    let body = json!({"result": [], "time": time}).to_string();
    let answer = Action::ExecuteThenStatus { status: 200, content_type: "application/json".into(), body };
    proxy.simulator.inject(Fault::once(Target::Method("crm.deal.list".into()), answer));
}

#[test]
fn a_method_that_has_used_480_seconds_waits_until_operating_reset_at() {
    let proxy = told(2.0, 50.0);
    next_list_says(&proxy, 479.9, unix_now() + 600);
    assert_success(&proxy.call("crm.deal.list", json!({})));
    let reset_at = unix_now() + 3;
    next_list_says(&proxy, 480.0, reset_at);
    assert_success(&proxy.call("crm.deal.list", json!({})));
    assert!((1..=3).contains(&assert_rate_limited(&proxy.call("crm.deal.list", json!({})))));
    assert_eq!(proxy.simulator.ledger().calls("crm.deal.list"), 2);
    while unix_now() < reset_at {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_success(&proxy.call("crm.deal.list", json!({})));
}

/// How full the bucket is by what the processes share.
fn level(proxy: &Proxy) -> f64 {
    let bytes = proxy.sandbox.token_file(&format!("{}.limits", proxy.stem())).expect("the limits file");
    let known: Value = serde_json::from_slice(&bytes).expect("JSON");
    known["level"].as_f64().expect("a level")
}

#[test]
fn the_programs_own_calls_count_but_are_never_refused() {
    let proxy = told(0.01, 1.0);
    assert_success(&echo(&proxy, 0).run());
    assert_rate_limited(&echo(&proxy, 1).run());
    let opened = proxy.portal().frame_form(1);
    for request in [
        proxy.bare_request("").form(&proxy.portal().event_form("ONAPPINSTALL")),
        // Asks whether the stored tokens work.
        proxy.bare_request("").form(&opened.body).query(&opened.query),
    ] {
        // Whose token it is; and an installation registers for the application's removal.
        let own =
            || ["profile", "event.bind"].map(|method| proxy.simulator.ledger().calls(method)).iter().sum::<usize>();
        let (before, asked) = (level(&proxy), own());
        let answer = request.run();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.elapsed < Duration::from_secs(3), "{:?}", answer.elapsed);
        let asked = own() - asked;
        assert!(asked >= 1);
        let counted = level(&proxy) - before;
        assert!((counted - asked as f64).abs() < 0.1, "{asked} calls, {counted} counted");
    }
    assert_rate_limited(&echo(&proxy, 2).run());
}

#[test]
fn an_installation_waits_out_a_bitrix24_that_is_busy() {
    let proxy = limited(5.0, 1.0);
    assert_success(&echo(&proxy, 0).run());
    let opened = proxy.portal().frame_form(1);
    let answer = proxy.bare_request("").form(&opened.body).query(&opened.query).run();
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
}

#[test]
fn a_damaged_missing_or_unwritable_limits_file_does_not_stop_calls() {
    let proxy = told(0.5, 2.0).on_files();
    let path = proxy.sandbox.tokens().join(format!("{}.limits", proxy.stem()));
    let now = unix_now() * 1000;
    for damaged in [
        Vec::new(),
        b"nonsense".to_vec(),
        b"\xff\xfe\0\0".to_vec(),
        b"[]".to_vec(),
        b"{\"level\":-5}".to_vec(),
        format!("{{\"level\":1e300,\"at\":{now}}}").into_bytes(),
        format!("{{\"level\":\"full\",\"at\":{now}}}").into_bytes(),
        vec![b' '; 1 << 20],
    ] {
        write_limits(&proxy, &damaged);
        let answer = echo(&proxy, 0).run();
        assert_success(&answer);
        assert!(answer.elapsed < Duration::from_secs(1), "{:?}", String::from_utf8_lossy(&damaged));
    }
    for _ in 0..3 {
        std::fs::remove_file(&path).expect("it is made anew each time");
        assert_success(&echo(&proxy, 0).run());
    }
    let name = format!("b24proxy/tokens/{}.limits", proxy.stem());
    proxy.sandbox.write(&name, 0o400, b"{}");
    for _ in 0..4 {
        assert_success(&echo(&proxy, 0).run());
    }
    std::fs::remove_file(&path).expect("a file");
    proxy.sandbox.make_folder(&name, 0o700);
    for _ in 0..4 {
        assert_success(&echo(&proxy, 0).run());
    }
}

#[test]
fn a_clock_set_back_does_not_stop_calls() {
    let proxy = told(2.0, 5.0);
    let tomorrow = (unix_now() + 86_400) * 1000;
    let blocked = json!({"sim.echo": tomorrow + 60_000});
    write_limits(&proxy, json!({"level": 4.0, "at": tomorrow, "blocked": blocked}).to_string().as_bytes());
    for i in 0..3 {
        let answer = echo(&proxy, i).run();
        assert_success(&answer);
        assert!(answer.elapsed < Duration::from_secs(2), "{:?}", answer.elapsed);
    }
}

#[test]
fn a_turn_is_taken_under_a_lock() {
    let proxy = told(2.0, 50.0).on_files();
    assert_success(&echo(&proxy, 0).run());
    let path = proxy.sandbox.tokens().join(format!("{}.limits", proxy.stem()));
    let file = std::fs::File::open(path).expect("the limits file");
    file.lock_exclusive().expect("nobody holds the lock");
    let answer = std::thread::scope(|scope| {
        let caller = scope.spawn(|| echo(&proxy, 1).run());
        std::thread::sleep(Duration::from_millis(600));
        assert_eq!(proxy.simulator.ledger().calls("sim.echo"), 1, "the second waits for the lock");
        FileExt::unlock(&file).expect("it was held");
        caller.join().expect("an answer")
    });
    assert_success(&answer);
}

#[test]
fn nobody_holds_the_limits_lock_while_waiting_or_calling() {
    let proxy = told(0.3, 1.0).on_files();
    proxy.simulator.inject(Fault::once(Target::Call, Action::Hang));
    std::thread::scope(|scope| {
        scope.spawn(|| assert_success(&echo(&proxy, 0).run()));
        assert!(proxy.simulator.wait_hanging(1, Duration::from_secs(5)));
        // A second one waits for its turn by now.
        scope.spawn(|| assert_success(&echo(&proxy, 1).run()));
        std::thread::sleep(Duration::from_millis(500));
        let path = proxy.sandbox.tokens().join(format!("{}.limits", proxy.stem()));
        let file = std::fs::File::open(path).expect("the limits file");
        file.try_lock_exclusive().expect("nobody holds the lock");
        drop(file);
        proxy.simulator.release();
    });
}
