//! Connections to portals, kept between requests.

use crate::fixture::Proxy;
use crate::served::Served;
use serde_json::json;
use simulator::{Action, Fault, Target};
use std::time::Duration;

fn proxy(reuse: &str) -> Proxy {
    let proxy = Proxy::installed();
    let text = proxy.config().to_owned();
    proxy.configured(&format!("{text}\n[fastcgi]\nreuse = \"{reuse}\"\n"))
}

/// How many connections the portal has seen.
fn made(proxy: &Proxy) -> u64 {
    proxy.simulator.ledger().all_connections()
}

#[test]
fn connections_are_kept_between_requests_as_reuse_says() {
    for (reuse, reads, writes) in [("always", 1, 1), ("reads", 1, 5), ("never", 5, 5)] {
        for (method, expected) in [("crm.deal.list", reads), ("sim.echo", writes)] {
            let proxy = proxy(reuse);
            // A configuration that is young is read anew for each request.
            std::thread::sleep(Duration::from_millis(2100));
            let served = Served::by(&proxy, 1);
            (0..5).for_each(|_| served.call(method, json!({})).assert_success());
            assert_eq!(made(&proxy), expected, "{reuse} {method}");
        }
    }
}

#[test]
fn a_connection_that_the_portal_has_closed_is_not_used_and_the_call_is_executed_once() {
    let proxy = proxy("always");
    std::thread::sleep(Duration::from_millis(2100));
    let served = Served::by(&proxy, 1);
    served.call("sim.echo", json!({})).assert_success();
    proxy.portal().stop();
    proxy.portal().start().unwrap();
    let answered = served.call("sim.echo", json!({}));
    answered.assert_success();
    assert_eq!((made(&proxy), proxy.simulator.ledger().calls("sim.echo")), (2, 2));
    std::thread::sleep(Duration::from_millis(4200));
    served.call("sim.echo", json!({})).assert_success();
    assert_eq!(made(&proxy), 3, "it was idle for too long");
}

#[test]
fn where_a_kept_connection_is_lost_before_an_answer_a_method_that_only_reads_is_repeated_once_and_no_other() {
    let proxy = proxy("always");
    std::thread::sleep(Duration::from_millis(2100));
    let served = Served::by(&proxy, 1);
    let lose = |times| proxy.simulator.inject(Fault::times(times, Target::Call, Action::CloseBefore));
    served.call("sim.echo", json!({})).assert_success();
    lose(1);
    served.call("crm.deal.list", json!({})).assert_success();
    assert_eq!(proxy.simulator.ledger().calls("crm.deal.list"), 2);
    // On a connection of its own it is not.
    lose(2);
    let answered = served.call("crm.deal.list", json!({}));
    assert_eq!((answered.status, &answered.json()["executed"]), (502, &"unknown".into()));
    proxy.simulator.clear_faults();
    served.call("sim.echo", json!({})).assert_success();
    lose(1);
    let answered = served.call("sim.echo", json!({}));
    assert_eq!((answered.status, &answered.json()["executed"]), (502, &"unknown".into()));
}
