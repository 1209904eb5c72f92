//! Contract section 2: what `GET /status` tells of calls: how many of each client, the last one, errors, and what works.

use crate::files::{address_of, asked};
use crate::fixture::*;
use crate::visitor::*;
use serde_json::{json, Value};
use simulator::{Action, Fault, PortalOptions, Target};
use support::cgi::Answer;

const OTHER: &str = "another-token-for-tests";

fn status_of(proxy: &Proxy) -> Value {
    let answer = proxy.get("/status").bearer(TOKEN).run();
    assert_eq!(answer.status, 200, "{}", answer.text());
    proxy.assert_no_secret(&answer);
    let portals = answer.json()["data"]["portals"].clone();
    let own = portals.as_array().unwrap().iter().find(|portal| portal["portal"] == proxy.portal().name().as_str());
    own.expect("the portal").clone()
}

/// Calls and errors of the last hour of this client, and of the day, which are the same here.
#[track_caller]
fn counted(proxy: &Proxy, client: &str) -> (u64, u64) {
    let status = status_of(proxy);
    let of =
        |what: &str, span: &str| status[what][span][client].as_u64().unwrap_or_else(|| panic!("{client}: {status}"));
    assert_eq!(of("calls", "hour"), of("calls", "day"), "{status}");
    assert_eq!(of("errors", "hour"), of("errors", "day"), "{status}");
    (of("calls", "hour"), of("errors", "hour"))
}

fn with_another_client(proxy: Proxy, more: &str) -> Proxy {
    let client = format!("[[security.clients]]\nname = \"1c-trade\"\ntoken = \"{OTHER}\"\n{more}\n\n[limits]");
    proxy.reconfigured("[limits]", &client)
}

fn many(proxy: &Proxy, calls: &[Value]) -> Answer {
    proxy.request(json!({ "calls": calls }).to_string()).run()
}

#[track_caller]
fn ok(answer: &Answer) {
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
}

#[track_caller]
fn is_now(time: &Value) {
    assert!((time.as_i64().unwrap_or_else(|| panic!("{time}")) - unix_now()).abs() < 20, "{time}");
}

#[test]
fn calls_are_counted_by_client_on_every_route_and_the_client_of_auth_token_is_named_so() {
    let proxy = with_another_client(Proxy::installed(), "");
    let before = status_of(&proxy);
    assert_eq!(before["last_call"], json!(null));
    assert_eq!(
        before["calls"],
        json!({"hour": {"auth_token": 0, "1c-trade": 0}, "day": {"auth_token": 0, "1c-trade": 0}})
    );
    ok(&proxy.call("profile", json!({})));
    ok(&proxy.get(&format!("/rest/1/{OTHER}/profile.json")).run());
    ok(&proxy.get(&format!("/rest/1/{OTHER}/sim.echo")).query("a=1").run());
    assert_eq!((counted(&proxy, "auth_token"), counted(&proxy, "1c-trade")), ((1, 0), (2, 0)));
    let status = status_of(&proxy);
    is_now(&status["last_call"]);
    assert_eq!(status["last_call"], status["last_success"]);
    assert_eq!((&status["works"], &status["last_error"]), (&json!(true), &json!(null)));
    let level = status["limits"]["level"].as_f64().unwrap();
    assert!((0.0..=3.0).contains(&level), "{level}");
}

#[test]
fn each_of_many_calls_counts_and_a_batch_of_the_callers_own_is_one() {
    let proxy = Proxy::installed();
    let echo = |i: usize| json!({"method": "sim.echo", "params": {"i": i}});
    let wrong = json!({"method": "crm.deal.get", "params": {"id": 999_999}});
    let mut calls: Vec<Value> = (0..60).map(echo).collect();
    calls.extend([wrong.clone(), wrong]);
    let answer = many(&proxy, &calls);
    ok(&answer);
    assert_eq!(answer.json()["data"]["errors"], 2);
    assert_eq!(counted(&proxy, "auth_token"), (62, 2));
    ok(&proxy.call("batch", json!({"cmd": {"a": "sim.echo?i=1", "b": "sim.echo?i=2"}})));
    assert_eq!(counted(&proxy, "auth_token"), (63, 2));
    proxy.portal().seed("crm.deal", 120);
    let answer = proxy.request(json!({"method": "crm.deal.list", "all": true}).to_string()).run();
    ok(&answer);
    let (calls, errors) = counted(&proxy, "auth_token");
    assert!(calls >= 66 && errors == 2, "three pages: {calls} {errors}");
}

#[test]
fn a_call_that_fails_counts_as_a_call_and_as_an_error_and_is_told() {
    let proxy = Proxy::installed();
    ok(&proxy.call("profile", json!({})));
    let good = status_of(&proxy)["last_success"].clone();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let answer = proxy.call("crm.deal.get", json!({"id": 999_999}));
    assert_eq!(answer.json()["error_code"], "bitrix24_error", "{}", answer.text());
    assert_eq!(counted(&proxy, "auth_token"), (2, 1));
    let status = status_of(&proxy);
    let theirs = answer.json()["bitrix24"]["error"].clone();
    let last = &status["last_error"];
    assert_eq!((&last["method"], &last["error_code"]), (&json!("crm.deal.get"), &json!("bitrix24_error")), "{last}");
    assert_eq!(last["bitrix24"].as_str().unwrap_or(""), theirs.as_str().unwrap_or(""), "{last}");
    is_now(&last["at"]);
    assert_eq!((&status["works"], &status["last_success"]), (&json!(true), &good), "one method's error is no fault");
    // What is no call counts as none.
    assert_failure(&proxy.call("not a method", json!({})), 400, "invalid_request");
    assert_failure(&proxy.get("/file").query("address=x").bearer(TOKEN).run(), 400, "invalid_request");
    assert_eq!(counted(&proxy, "auth_token"), (2, 1));
}

#[test]
fn a_call_counts_once_however_often_it_is_sent_and_what_a_key_replays_counts_as_none() {
    let proxy = Proxy::installed();
    proxy.portal().expire_access_tokens();
    ok(&proxy.call("profile", json!({})));
    proxy.portal().refuse_next("sim.echo", "QUERY_LIMIT_EXCEEDED", 1);
    ok(&proxy.call("sim.echo", json!({})));
    assert_eq!(counted(&proxy, "auth_token"), (2, 0));
    let add = || {
        let body = json!({"method": "crm.deal.add", "params": {"fields": {"TITLE": "a"}}}).to_string();
        proxy.request(body).header("Idempotency-Key", "one").run()
    };
    ok(&add());
    let replayed = add();
    ok(&replayed);
    assert_eq!(proxy.simulator.ledger().calls("crm.deal.add"), 1, "{:?}", replayed.headers);
    assert_eq!(counted(&proxy, "auth_token"), (3, 0));
}

#[test]
fn with_both_tokens_revoked_status_says_that_calls_do_not_work_until_a_new_installation() {
    let proxy = Proxy::installed();
    ok(&proxy.call("profile", json!({})));
    proxy.portal().revoke_access_tokens();
    proxy.portal().revoke_refresh_tokens();
    assert_failure(&proxy.call("profile", json!({})), 409, "reinstall_required");
    let status = status_of(&proxy);
    assert_eq!((&status["works"], &status["reason"]), (&json!(false), &json!("reinstall_required")), "{status}");
    assert_eq!((&status["state"], counted(&proxy, "auth_token")), (&json!("installed"), (2, 1)));
    let page = proxy.get("/status").bearer(TOKEN).header("Accept", "text/html").run();
    assert_says(&page.text(), &["needs installing again", "/install?portal=", ">Install</a>"]);
    proxy.a_minute_passes();
    page_of_installation(&proxy);
    let status = status_of(&proxy);
    assert_eq!((&status["works"], &status["reason"]), (&json!(true), &json!(null)), "{status}");
}

#[track_caller]
fn page_of_installation(proxy: &Proxy) {
    let answer = proxy.install_in_browser(1);
    assert!(matches!(answer.status, 200 | 303), "{} {}", answer.status, answer.text());
}

#[test]
fn a_portal_that_cannot_be_reached_does_not_work_until_a_call_succeeds() {
    let proxy = Proxy::installed();
    ok(&proxy.call("profile", json!({})));
    proxy.portal().stop();
    assert_failure(&proxy.call("profile", json!({})), 502, "bitrix24_unreachable");
    let status = status_of(&proxy);
    assert_eq!((&status["works"], &status["reason"]), (&json!(false), &json!("bitrix24_unreachable")), "{status}");
    proxy.portal().start().unwrap();
    ok(&proxy.call("profile", json!({})));
    let status = status_of(&proxy);
    assert_eq!((&status["works"], &status["reason"]), (&json!(true), &json!(null)), "{status}");
    assert_eq!(counted(&proxy, "auth_token"), (3, 1));
}

#[test]
fn a_call_to_a_portal_that_is_not_installed_counts_as_an_error() {
    let proxy = Proxy::not_installed();
    assert_failure(&proxy.call("profile", json!({})), 409, "not_installed");
    assert_eq!(counted(&proxy, "auth_token"), (1, 1));
    let status = status_of(&proxy);
    assert_eq!((&status["works"], &status["reason"]), (&json!(false), &json!("not_installed")));
}

#[test]
fn blocked_methods_are_told_with_the_time_at_which_they_are_free() {
    let proxy = Proxy::installed();
    let refusal =
        Action::ErrorJson { status: 429, error: "OPERATION_TIME_LIMIT".into(), error_description: "x".into() };
    proxy.simulator.inject(Fault::once(Target::Method("crm.deal.list".into()), refusal));
    assert_failure(&proxy.call("crm.deal.list", json!({})), 429, "bitrix24_error");
    let until = status_of(&proxy)["blocked"]["crm.deal.list"].as_i64().expect("a time");
    assert!((until - unix_now() - 60).abs() < 20, "{until}");
    // One that is refused here counts too.
    assert_failure(&proxy.call("crm.deal.list", json!({})), 429, "rate_limited");
    assert_eq!(counted(&proxy, "auth_token"), (2, 2));
    let page = proxy.get("/status").bearer(TOKEN).header("Accept", "text/html").run();
    assert_says(&page.text(), &["crm.deal.list", "has used up its time"]);
}

#[test]
fn files_that_pass_through_count_as_calls() {
    let proxy = Proxy::installed();
    proxy.portal().grant("disk");
    let address = address_of(&proxy, proxy.portal().seed_file("a.bin", 1000));
    let (calls, _) = counted(&proxy, "auth_token");
    let answer = asked(&proxy, &address).run();
    assert_eq!((answer.status, answer.body.len()), (200, 1000), "{}", answer.text());
    assert_eq!(counted(&proxy, "auth_token"), (calls + 1, 0));
}

#[test]
fn a_client_sees_the_counts_of_its_own_portals_only() {
    let proxy = Proxy::installed();
    let other = proxy.simulator.add_portal(PortalOptions::default());
    let proxy = with_another_client(proxy, &format!("portals = [\"{}\"]", other.name()));
    let proxy = proxy.reconfigured("[security]", &format!("[portals.\"{}\"]\n\n[security]", other.name()));
    ok(&proxy.request(json!({"domain": proxy.portal().name(), "method": "profile"}).to_string()).run());
    let answer = proxy.get("/status").bearer(OTHER).run();
    let portals = answer.json()["data"]["portals"].clone();
    assert_eq!(portals.as_array().unwrap().len(), 1, "{portals}");
    assert_eq!(portals[0]["portal"], other.name().as_str());
    assert_eq!(portals[0]["calls"]["day"], json!({"auth_token": 0, "1c-trade": 0}));
    // The other portal is none of this client's, and so nobody counts it there.
    assert_eq!(status_of(&proxy)["calls"]["day"], json!({"auth_token": 1}));
}

#[test]
fn what_version_0_1_left_is_read_and_what_is_damaged_starts_anew() {
    let proxy = Proxy::installed();
    let limits = format!("{}.limits", proxy.stem());
    let at = unix_now() * 1000;
    let old = json!({"level": 7.0, "at": at, "strangers": 0.0, "blocked": {"m": at + 60_000}, "overloaded": 0, "swallows_since": 0});
    proxy.sandbox.write_token_file(&limits, &old.to_string());
    let status = status_of(&proxy);
    assert!(status["limits"]["level"].as_f64().unwrap() > 0.0 && status["blocked"]["m"].is_i64(), "{status}");
    ok(&proxy.call("profile", json!({})));
    assert_eq!(counted(&proxy, "auth_token"), (1, 0));
    assert!(status_of(&proxy)["blocked"]["m"].is_i64(), "it is kept");
    for damage in ["", "{", "[]", r#"{"level":1.0,"tally":{"clients":{"auth_token":{"c":"x"}}}}"#, r#"{"tally":7}"#] {
        proxy.sandbox.write_token_file(&limits, damage);
        assert_eq!(counted(&proxy, "auth_token"), (0, 0), "{damage}");
        ok(&proxy.call("profile", json!({})));
        assert_eq!(counted(&proxy, "auth_token"), (1, 0), "{damage}");
    }
}

#[test]
fn clients_that_the_configuration_no_longer_names_are_not_told() {
    let proxy = with_another_client(Proxy::installed(), "");
    ok(&proxy.get(&format!("/rest/1/{OTHER}/profile")).run());
    let gone = format!("[[security.clients]]\nname = \"1c-trade\"\ntoken = \"{OTHER}\"");
    let proxy = proxy.reconfigured(&gone, "");
    assert_eq!(status_of(&proxy)["calls"]["day"], json!({"auth_token": 0}));
}

#[test]
fn a_call_that_succeeds_is_written_down_once_and_a_failure_twice() {
    let proxy = Proxy::installed();
    ok(&proxy.call("profile", json!({})));
    let writes = |call: &dyn Fn()| match proxy.sandbox.database() {
        Some(database) => {
            let version =
                || database.sql("SELECT version FROM b24proxy_limits").trim().parse::<u64>().expect("a number");
            let before = version();
            call();
            version() - before
        }
        None => {
            let trace = proxy.sandbox.path().join("run/trace");
            proxy.run_behind(&format!(
                "exec strace -f -e inject=prctl:retval=0 -e trace=flock,prctl -o {} {{}}",
                trace.display()
            ));
            call();
            proxy.run_behind("");
            let text = std::fs::read_to_string(trace).expect("strace (Debian package strace) has written its file");
            text.matches("LOCK_EX").count() as u64
        }
    };
    let body = |method: &str| json!({"method": method, "params": {"id": 999_999}}).to_string();
    assert_eq!(writes(&|| ok(&proxy.request(body("profile")).as_cgi().run())), 1);
    assert_eq!(writes(&|| assert_eq!(proxy.request(body("crm.deal.get")).as_cgi().run().status, 400)), 2);
    assert_eq!(writes(&|| ok(&proxy.request(body("profile")).as_cgi().run())), 1, "an error of a method is no fault");
}

#[test]
fn concurrent_calls_are_all_counted() {
    let proxy = Proxy::installed();
    std::thread::scope(|scope| {
        for i in 0..12 {
            let proxy = &proxy;
            scope.spawn(move || ok(&proxy.call("sim.echo", json!({"i": i}))));
        }
    });
    assert_eq!(counted(&proxy, "auth_token"), (12, 0));
}

#[test]
fn who_installed_is_told_by_name() {
    let proxy = Proxy::not_installed();
    page_of_installation(&proxy);
    let status = status_of(&proxy);
    let name = status["user_name"].as_str().unwrap().to_owned();
    assert!(!name.is_empty() && status["user_id"] == 1, "{status}");
    let page = proxy.get("/status").bearer(TOKEN).header("Accept", "text/html").run();
    assert_says(&page.text(), &[&format!("{name} (ID 1)")]);
    // It outlives a refresh.
    proxy.change_stored(|tokens| tokens["expires_at"] = (unix_now() - 10).into());
    ok(&proxy.call("profile", json!({})));
    assert_eq!(status_of(&proxy)["user_name"], name.as_str());
}
