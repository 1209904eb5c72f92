//! Contract sections 5 and 9 where a node loses its way to the database, or to Bitrix24, and neither end is told.

use crate::bench::is_full;
use crate::fixture::*;
use crate::nodes::{add, on_each_kind, Nodes};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::database::{shared, Kind};
use support::eventually;
use support::relay::Moment;

/// Longer than a lease, shorter than a node waits for the database.
const SILENT: Duration = Duration::from_secs(14);

fn patient(kind: Kind) -> Nodes {
    let proxy = Proxy::not_installed()
        .reconfigured("connect_timeout = 3", "connect_timeout = 30")
        .reconfigured("max_wait = 5", "max_wait = 45")
        .reconfigured("timeout       = 10", "timeout       = 50");
    let nodes = Nodes::of(shared(kind), proxy);
    nodes.relay.count_refreshers_alone();
    nodes.prepare(true);
    nodes
}

/// How much a refresher asks.
fn length(kind: Kind) -> usize {
    let nodes = patient(kind);
    nodes.relay.count();
    nodes.assert_works(nodes.one(), "in peace");
    nodes.settle();
    nodes.relay.asked()
}

/// The refresher of one node loses the database at a statement, for longer than its lease.
fn loses_the_database(kind: Kind, nth: usize, moment: Moment) -> Option<usize> {
    let what = format!("{kind:?} {moment:?} {nth}");
    let nodes = patient(kind);
    let simulator = &nodes.proxy.simulator;
    let refreshes = || simulator.ledger().refreshes();
    nodes.relay.strike_and_go_on(nth, moment, |line| line.silence());
    let (late, spent_before) = std::thread::scope(|scope| {
        let late = scope.spawn(|| add(nodes.one()).run());
        eventually("it is asked so much", || nodes.relay.has_struck() || late.is_finished());
        let (begun, spent_before) = (Instant::now(), refreshes());
        if nodes.relay.has_struck() {
            // The other one refreshes as soon as the lease has ended, or hears that the token is spent.
            let answer = add(nodes.other()).run();
            match spent_before {
                0 => assert_eq!(answer.status, 200, "{what}: {} {}", answer.text(), answer.stderr),
                _ if answer.status == 200 => {}
                _ => assert_failure(&answer, 409, "reinstall_required"),
            }
            assert!(begun.elapsed() < SILENT, "{what}: a lease lasts for ten seconds: {:?}", begun.elapsed());
            std::thread::sleep(SILENT.saturating_sub(begun.elapsed()));
        }
        nodes.relay.line().heal();
        (late.join().expect("a caller does not panic"), spent_before)
    });
    nodes.settle();
    let executed = nodes.executed();
    match late.status {
        200 => {}
        _ => assert_eq!(late.json()["executed"], "no", "{what}: {}", late.text()),
    }
    nodes.assert_works(nodes.one(), &what);
    nodes.assert_works(nodes.other(), &what);
    assert_eq!(nodes.executed(), executed + 2, "{what}");
    let ledger = simulator.ledger();
    let stored = nodes.proxy.stored();
    assert!(nodes.proxy.portal().is_live(stored["refresh_token"].as_str().expect("a token")), "{what}: overwritten");
    match spent_before {
        0 => assert_eq!((ledger.refreshes(), ledger.spent_presented()), (1, 0), "{what}: {}", late.text()),
        // The old one was tried once, by who could not know.
        _ => assert!(ledger.refreshes() <= 2 && ledger.spent_presented() <= 1, "{what}: {}", late.text()),
    }
    nodes.assert_tidy(&what);
    Some(spent_before)
}

fn a_node_that_loses_the_database_in_a_refresh(kind: Kind) {
    let most = length(kind);
    let spent = AtomicUsize::new(0);
    let points: Vec<(usize, Moment)> =
        (1..=most).flat_map(|nth| [(nth, Moment::Before), (nth, Moment::After)]).collect();
    let is_taken = |(_, moment): &(usize, Moment)| is_full() || *moment == Moment::After;
    let points: Vec<_> = points.into_iter().filter(is_taken).collect();
    std::thread::scope(|scope| {
        for (nth, moment) in &points {
            let spent = &spent;
            scope.spawn(move || {
                let before = loses_the_database(kind, *nth, *moment);
                spent.fetch_add(before.unwrap_or(0), Ordering::SeqCst);
            });
        }
    });
    let spent = spent.into_inner();
    assert!((1..points.len()).contains(&spent), "at some before the token was spent, at others behind: {spent}");
}

#[test]
fn a_node_that_loses_the_database_in_a_refresh_overwrites_nothing_spends_no_spent_token_and_says_nothing_false() {
    on_each_kind(a_node_that_loses_the_database_in_a_refresh);
}
