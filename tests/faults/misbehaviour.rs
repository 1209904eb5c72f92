//! Contract sections 3 and 5: whatever the OAuth server and the portal do, there is an answer in time, it is honest about
//! what was executed, and no token is lost.

use crate::bench::*;
use crate::fixture::*;
use serde_json::json;
use simulator::{Action, Fault, Target};
use std::time::Duration;
use support::cgi::Answer;

/// `timeout` in the configuration of these tests, in seconds.
const TIMEOUT: u64 = 3;
/// What an answer may take beyond it on a busy machine.
const SLACK: u64 = 2;

fn proxy() -> Proxy {
    Proxy::not_installed()
        .reconfigured("timeout       = 10", &format!("timeout       = {TIMEOUT}"))
        .reconfigured("connect_timeout = 3", "connect_timeout = 1")
        .reconfigured("max_wait = 5", "max_wait = 2\nmax_response = \"1 MiB\"")
}

/// Everything that can happen to a request. The last three are slower than anybody waits.
fn actions() -> Vec<Action> {
    let status = |status, body: &str| {
        let (content_type, body) = ("application/json".to_owned(), body.to_owned());
        Action::Status { status, content_type, body }
    };
    let page = ("text/html".to_owned(), "<html>502</html>".to_owned());
    vec![
        Action::Delay(Duration::from_millis(300)),
        Action::DelayAnswer(Duration::from_millis(300)),
        Action::Chunked,
        Action::Html500,
        Action::CloseBefore,
        Action::CloseAfter,
        Action::CloseMidAnswer,
        Action::TruncateJson,
        Action::HugeAnswer(3 << 20),
        Action::WrongContentType("text/plain".into()),
        Action::Raw(b"\x00\xff\xfe garbage \r\n\r\n".to_vec()),
        Action::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n{".to_vec()),
        Action::Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n".to_vec()),
        Action::Raw([b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 200_000], b"\r\n\r\n{}"].concat()),
        Action::Raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        Action::Redirect302("https://127.0.0.1:1/elsewhere/".into()),
        status(200, ""),
        status(200, "null"),
        status(200, "[]"),
        status(200, "{\"access_token\":1,\"refresh_token\":{}}"),
        status(200, &format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000))),
        status(999, "{}"),
        Action::ExecuteThenStatus { status: 502, content_type: page.0, body: page.1 },
        Action::ErrorJson { status: 500, error: "INTERNAL_SERVER_ERROR".into(), error_description: String::new() },
        Action::Delay(Duration::from_secs(TIMEOUT + SLACK + 1)),
        Action::DelayAnswer(Duration::from_secs(TIMEOUT + SLACK + 1)),
        Action::Hang,
        Action::HangAfter,
        Action::SlowBytes { interval: Duration::from_millis(300), chunk: 30 },
    ]
}

/// In time, of the right form, without a panic and without a secret.
#[track_caller]
fn assert_sound(bench: &Bench, answer: &Answer, what: &str) {
    assert!(answer.elapsed < Duration::from_secs(TIMEOUT + SLACK), "{what}: {:?}", answer.elapsed);
    assert!(answer.exit.success(), "{what}: {}", answer.exit);
    if answer.status != 200 {
        failure(answer);
    }
    assert!(!answer.stderr.contains("internal error"), "{what}: {}", answer.stderr);
    let shown = format!("{} {}", answer.stderr, if answer.status == 200 { String::new() } else { answer.text() });
    for secret in bench.proxy.simulator.secrets().iter().map(String::as_str).chain([TOKEN]) {
        assert!(!shown.contains(secret), "{what}: {shown}");
    }
}

/// The OAuth server may be asked again, as if ten seconds had passed.
fn forget_the_failure_is_fresh(bench: &Bench) {
    let name = format!("{}.lock", bench.proxy.stem());
    let Some(bytes) = bench.proxy.sandbox.token_file(&name) else { return };
    let Ok(mut notes) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return };
    if !notes["refresh"].is_null() {
        notes["refresh"]["at"] = (1000 * (unix_now() - 11)).into();
    }
    bench.proxy.sandbox.write_token_file(&name, &notes.to_string());
}

#[test]
fn whatever_the_oauth_server_does_there_is_an_answer_in_time_and_no_token_is_lost_by_us() {
    let make = || Bench::of(proxy());
    in_parallel(&actions(), make, |bench, _, action| {
        let what = format!("{action:?}").chars().take(80).collect::<String>();
        let old = bench.prepare(true);
        bench.proxy.simulator.inject(Fault::once(Target::Token, action.clone()));
        let answer = bench.call();
        assert_sound(bench, &answer, &what);
        let ledger = bench.proxy.simulator.ledger();
        assert_eq!(ledger.refreshes(), 1, "{what}");
        assert_eq!(ledger.executed(METHOD), usize::from(answer.status == 200), "{what}: {}", answer.text());
        if answer.status != 200 {
            assert_eq!(answer.json()["executed"], "no", "{what}: {}", answer.text());
            let code = failure(&answer).1;
            assert!(["oauth_server_error", "refresh_pending"].contains(&code.as_str()), "{what}: {}", answer.text());
        }
        bench.proxy.stored();

        // Once the OAuth server is well again:
        bench.proxy.simulator.clear_faults();
        bench.proxy.simulator.release();
        bench.settle();
        forget_the_failure_is_fresh(bench);
        if bench.live_is_on_disk() {
            bench.assert_next_call_works(&what);
            return;
        }
        assert!(!bench.proxy.portal().is_live(&old.refresh_token), "{what}");
        for _ in 0..2 {
            let answer = bench.call();
            assert_failure(&answer, 409, "reinstall_required");
            assert_sound(bench, &answer, &what);
        }
        assert_eq!(bench.settle().spent_presented(), 1, "{what}: the old token is tried once");
        assert_eq!(bench.proxy.stored()["refresh_token"], old.refresh_token.as_str(), "nothing is deleted");
        bench.prepare(false);
        bench.assert_next_call_works(&what);
    });
}

#[test]
fn whatever_the_portal_does_there_is_an_answer_in_time_that_is_honest_about_execution() {
    let make = || Bench::of(proxy());
    in_parallel(&actions(), make, |bench, _, action| {
        let what = format!("{action:?}").chars().take(80).collect::<String>();
        for with_key in [false, true] {
            bench.prepare(false);
            bench.proxy.simulator.inject(Fault::once(Target::Call, action.clone()));
            let request = || match with_key {
                true => bench.request("").header("Idempotency-Key", &what.replace(|c: char| !c.is_ascii(), "?")),
                false => bench.request(""),
            };
            let answer = bench.run_to_answer(request());
            assert_sound(bench, &answer, &what);
            bench.proxy.simulator.clear_faults();
            bench.proxy.simulator.release();
            std::thread::sleep(Duration::from_millis(50));
            let ledger = bench.settle();
            let executed = ledger.executed(METHOD);
            assert!(executed <= 1, "{what}");
            assert_eq!(ledger.calls(METHOD), 1, "{what}: nothing is repeated that may have been executed");
            let said = answer.status != 200 && answer.json()["executed"] == "no";
            if answer.status != 200 && executed == 1 {
                assert_eq!(answer.json()["executed"], "unknown", "{what}: {}", answer.text());
            }
            if with_key {
                let repeat = bench.run_to_answer(request());
                assert_sound(bench, &repeat, &what);
                let definite = answer.status != 200 && answer.json()["executed"] != "unknown";
                match repeat.status {
                    200 if answer.status == 200 => {
                        assert_eq!(repeat.header("Idempotent-Replayed"), Some("true"), "{what}");
                        assert_eq!(repeat.body, answer.body, "{what}");
                    }
                    200 => assert!(definite, "{what}: {} was executed again", answer.text()),
                    _ => assert_failure(&repeat, 409, "outcome_unknown"),
                }
                // What the delayed one executes later counts too.
                assert!(bench.settle().executed(METHOD) <= 1, "{what}: {}", repeat.text());
            }
            assert!(!said || executed == 0, "{what}");
        }
        bench.assert_next_call_works(&what);
    });
}

#[test]
fn a_portal_or_oauth_server_that_accepts_no_connection_is_reported_and_nothing_was_executed() {
    let hangs = [Action::Hang, Action::CloseBefore, Action::Delay(Duration::from_secs(TIMEOUT + SLACK + 1))];
    let cases: Vec<(Target, Option<Action>)> = [Target::OauthConnection, Target::Connection]
        .into_iter()
        .flat_map(|target| {
            hangs
                .iter()
                .cloned()
                .map(Some)
                .chain([None])
                .map(move |action| (target.clone(), action))
                .collect::<Vec<_>>()
        })
        .collect();
    in_parallel(
        &cases,
        || Bench::of(proxy()),
        |bench, _, (target, action)| {
            let what = format!("{target:?} {action:?}");
            let is_oauth = *target == Target::OauthConnection;
            bench.prepare(is_oauth);
            let simulator = &bench.proxy.simulator;
            match action {
                Some(action) => drop(simulator.inject(Fault::forever(target.clone(), action.clone()))),
                None if is_oauth => simulator.stop_oauth(),
                None => bench.proxy.portal().stop(),
            }
            let answer = bench.call();
            assert_sound(bench, &answer, &what);
            let (status, code) = failure(&answer);
            let expected: &[&str] = match is_oauth {
                true => &["oauth_server_error", "refresh_pending"],
                false => &["bitrix24_unreachable", "bitrix24_timeout"],
            };
            assert!(expected.contains(&code.as_str()) && status >= 502, "{what}: {}", answer.text());
            assert_eq!(answer.json()["executed"], "no", "{what}: {}", answer.text());
            assert_eq!(simulator.ledger().executed(METHOD), 0);
            simulator.clear_faults();
            simulator.release();
            match action {
                None if is_oauth => simulator.start_oauth().unwrap(),
                None => bench.proxy.portal().start().unwrap(),
                Some(_) => {}
            }
            bench.settle();
            forget_the_failure_is_fresh(bench);
            bench.assert_next_call_works(&what);
            assert_eq!(bench.settle().refreshes(), usize::from(is_oauth), "{what}");
        },
    );
}

#[test]
fn an_expired_token_during_a_call_with_a_misbehaving_oauth_server_is_certainly_not_executed() {
    let make = || Bench::of(proxy());
    let actions = [Action::Html500, Action::CloseAfter, Action::Hang, Action::TruncateJson];
    in_parallel(&actions, make, |bench, _, action| {
        bench.prepare(false);
        bench.proxy.portal().expire_access_tokens();
        bench.proxy.simulator.inject(Fault::once(Target::Token, action.clone()));
        let keyed = || bench.run_to_answer(bench.request("").header("Idempotency-Key", &format!("{action:?}")));
        let answer = keyed();
        assert_sound(bench, &answer, &format!("{action:?}"));
        assert_eq!(answer.json()["executed"], json!("no"), "{}", answer.text());
        assert_eq!(bench.proxy.simulator.ledger().executed(METHOD), 0);
        // So the key is free, and works once there are tokens.
        bench.proxy.simulator.release();
        bench.settle();
        bench.prepare(false);
        assert_eq!(keyed().status, 200, "{action:?}");
        assert_eq!(bench.settle().executed(METHOD), 1);
    });
}
