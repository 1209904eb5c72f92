//! Workers: each serves one request at a time, and what happens to it happens to that request.

use crate::served::{call_of, parameters, proxy, Answered, Served};
use serde_json::json;
use simulator::{Action, Fault, Target};
use std::os::unix::fs::FileTypeExt;
use std::time::Duration;
use support::fastcgi::Broken;
use support::{eventually, signal};

#[test]
fn a_killed_worker_costs_its_request_alone_and_is_replaced() {
    let proxy = proxy();
    let served = Served::by(&proxy, 3);
    proxy.simulator.inject(Fault::forever(Target::Method("sim.echo".into()), Action::HangAfter));
    let mut all: Vec<_> = (1..=3).map(|_| served.connect()).collect();
    for connection in &mut all {
        let (variables, body) = call_of(&proxy, "sim.echo", json!({}));
        let before = proxy.simulator.hanging();
        connection.expect(1);
        connection.send(&support::fastcgi::request(1, false, variables, &body)).unwrap();
        assert!(proxy.simulator.wait_hanging(before + 1, Duration::from_secs(10)));
    }
    let workers = served.workers();
    assert_eq!(workers.len(), 3, "{workers:?}");
    signal(workers[1], "KILL");
    assert_eq!(served.health().status, 200, "another one serves");
    proxy.simulator.release();
    let replies: Vec<_> = all.iter_mut().map(|connection| connection.reply(1)).collect();
    let (answered, lost): (Vec<_>, Vec<_>) = replies.into_iter().partition(Result::is_ok);
    assert!(matches!(&lost[..], [Err(Broken::Ended(reply))] if reply.stdout.is_empty()), "{lost:?}");
    answered.into_iter().for_each(|reply| Answered::of(reply.unwrap(), Duration::ZERO).assert_success());
    assert!(!served.workers().contains(&workers[1]));
    served.workers().iter().for_each(|pid| signal(*pid, "KILL"));
    eventually("others are there", || served.workers().len() == 3);
    assert_eq!(served.health().status, 200);
}

#[test]
fn there_are_as_many_workers_as_are_wanted_and_each_serves_one_request_at_a_time() {
    let proxy = proxy();
    let served = Served::by(&proxy, 3);
    eventually("all are there", || served.workers().len() == 3);
    proxy.simulator.inject(Fault::forever(Target::Method("sim.echo".into()), Action::Hang));
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..8).map(|_| scope.spawn(|| served.call("sim.echo", json!({})))).collect();
        assert!(proxy.simulator.wait_hanging(3, Duration::from_secs(10)));
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!((proxy.simulator.hanging(), served.workers().len()), (3, 3));
        proxy.simulator.clear_faults();
        proxy.simulator.release();
        callers.into_iter().for_each(|caller| caller.join().unwrap().assert_success());
    });
    assert_eq!(served.workers().len(), 3);
}

#[test]
fn the_number_of_workers_is_the_configurations_where_no_other_is_said_and_changes_with_it() {
    let proxy = proxy();
    let text = proxy.config().to_owned();
    let proxy = proxy.configured(&format!("{text}\n[fastcgi]\nworkers = 2\n"));
    let served = Served::with(&proxy, &[], &[]);
    served.health();
    let hanging = |wanted: usize| {
        eventually("so many are there", || served.workers().len() == wanted);
        proxy.simulator.inject(Fault::forever(Target::Method("sim.echo".into()), Action::Hang));
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..5).map(|_| scope.spawn(|| served.call("sim.echo", json!({})))).collect();
            assert!(proxy.simulator.wait_hanging(wanted, Duration::from_secs(10)));
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!((proxy.simulator.hanging(), served.workers().len()), (wanted, wanted));
            proxy.simulator.clear_faults();
            proxy.simulator.release();
            callers.into_iter().for_each(|caller| caller.join().unwrap().assert_success());
        });
    };
    hanging(2);
    proxy.sandbox.write_config(&format!("{text}\n[fastcgi]\nworkers = 4\n"));
    served.health();
    hanging(4);
}

#[test]
fn time_in_which_a_request_waits_for_a_worker_counts_in_its_time() {
    let proxy = proxy().reconfigured("timeout       = 10", "timeout = 6");
    let served = Served::by(&proxy, 1);
    proxy.simulator.inject(Fault::once(Target::Method("sim.echo".into()), Action::Hang));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| served.call("sim.echo", json!({})));
        assert!(proxy.simulator.wait_hanging(1, Duration::from_secs(10)));
        // It is sent when the first one's time is over, in which it has waited.
        proxy.simulator.inject(Fault::once(Target::Method("sim.echo".into()), Action::Hang));
        let second = served.call("sim.echo", json!({}));
        assert_eq!((second.status, first.join().unwrap().status), (504, 504));
        assert!(second.elapsed < Duration::from_millis(8000), "{:?}", second.elapsed);
    });
    proxy.simulator.release();
}

/// Acts while the portal has executed a call and not answered it, which is then answered as if nothing had been.
fn while_a_call_is_under_way(served: &Served, act: impl FnOnce()) {
    let simulator = &served.proxy.simulator;
    simulator.inject(Fault::once(Target::Method("sim.echo".into()), Action::HangAfter));
    std::thread::scope(|scope| {
        let under_way = scope.spawn(|| served.call("sim.echo", json!({})));
        assert!(simulator.wait_hanging(1, Duration::from_secs(10)));
        act();
        simulator.release();
        under_way.join().unwrap().assert_success();
    });
}

#[test]
fn term_int_hup_and_usr1_let_the_requests_under_way_finish() {
    for name in ["TERM", "INT", "HUP", "USR1"] {
        let proxy = proxy();
        let mut served = Served::by(&proxy, 2);
        while_a_call_is_under_way(&served, || {
            served.end(name);
            eventually("nobody finds it any more", || !served.socket.exists());
            std::thread::sleep(Duration::from_millis(500));
        });
        eventually(name, || served.group.has_ended());
        assert_eq!(served.log(), "", "{name}");
    }
}

#[test]
fn whoever_is_told_to_end_together_with_its_workers_finishes_as_well() {
    let proxy = proxy();
    let mut served = Served::by(&proxy, 2);
    while_a_call_is_under_way(&served, || {
        // As systemd does by default, and a terminal.
        served.workers().iter().chain([&served.manager()]).for_each(|pid| signal(*pid, "TERM"));
        std::thread::sleep(Duration::from_millis(500));
    });
    eventually("it ends", || served.group.has_ended());
}

#[test]
fn a_worker_that_is_told_to_end_alone_loses_nothing_and_is_replaced() {
    let proxy = proxy();
    let served = Served::by(&proxy, 1);
    served.health();
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            for _ in 0..300 {
                assert_eq!(served.health().status, 200);
            }
        });
        while !caller.is_finished() {
            served.workers().iter().for_each(|pid| signal(*pid, "TERM"));
            std::thread::sleep(Duration::from_millis(5));
        }
        caller.join().unwrap();
    });
}

#[test]
fn a_request_is_served_to_its_end_where_the_manager_is_killed_and_nobody_stays() {
    let proxy = proxy();
    let served = Served::by(&proxy, 2);
    proxy.simulator.inject(Fault::once(Target::Method("sim.echo".into()), Action::HangAfter));
    std::thread::scope(|scope| {
        let under_way = scope.spawn(|| served.call("sim.echo", json!({})));
        assert!(proxy.simulator.wait_hanging(1, Duration::from_secs(10)));
        let workers = served.workers();
        served.end("KILL");
        std::thread::sleep(Duration::from_millis(200));
        proxy.simulator.release();
        under_way.join().unwrap().assert_success();
        eventually("its workers end", || {
            workers.iter().all(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_err())
        });
    });
    // Its socket is left over, and the next one takes its place.
    assert!(served.socket.metadata().unwrap().file_type().is_socket());
    assert_eq!(Served::by(&proxy, 2).health().status, 200);
}

#[test]
fn a_refresh_lives_while_everything_else_is_killed() {
    let proxy = proxy();
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    let before = proxy.stored()["refresh_token"].clone();
    let served = Served::by(&proxy, 2);
    proxy.simulator.inject(Fault::once(Target::Token, Action::HangAfter));
    std::thread::scope(|scope| {
        let (variables, body) = call_of(&proxy, "sim.echo", json!({}));
        let mut connection = served.connect();
        connection.expect(1);
        connection.send(&support::fastcgi::request(1, false, variables, &body)).unwrap();
        assert!(proxy.simulator.wait_hanging(1, Duration::from_secs(10)));
        served.workers().iter().chain([&served.manager()]).for_each(|pid| signal(*pid, "KILL"));
        assert!(matches!(connection.reply(1), Err(Broken::Ended(_))));
        scope.spawn(|| proxy.simulator.release());
    });
    eventually("the new pair is stored", || proxy.stored()["refresh_token"] != before);
    Served::by(&proxy, 2).call("sim.echo", json!({})).assert_success();
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
}

#[test]
fn idle_kept_connections_own_no_worker() {
    let proxy = proxy();
    let served = Served::by(&proxy, 1);
    let request = || parameters(&proxy.get("/health"), b"");
    let mut kept: Vec<_> = (0..50).map(|_| served.connect()).collect();
    for connection in &mut kept {
        assert_eq!(Answered::of(connection.ask(1, true, request(), b""), Duration::ZERO).status, 200);
    }
    // Nor does one that has never said anything.
    let _silent: Vec<_> = (0..50).map(|_| served.connect()).collect();
    assert!(served.health().elapsed < Duration::from_secs(1));
    for connection in kept.iter_mut().rev() {
        assert_eq!(Answered::of(connection.ask(2, true, request(), b""), Duration::ZERO).status, 200);
    }
    assert_eq!(served.workers().len(), 1);
}
