//! What changes under a program that stays, and what must not change in it.

use crate::served::{call_of, parameters, proxy, Answered, Served};
use serde_json::json;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;
use support::{eventually, with_descendants};

#[test]
fn a_changed_configuration_is_noticed_at_once_and_a_broken_one_told_until_it_is_mended() {
    let proxy = proxy();
    let served = Served::by(&proxy, 1);
    served.call("sim.echo", json!({})).assert_success();
    let text = proxy.config().to_owned();
    // Old enough to be kept, and then changed within its size.
    std::thread::sleep(Duration::from_millis(2100));
    served.call("sim.echo", json!({})).assert_success();
    let worker = served.workers();
    proxy.sandbox.write_config(&text.replace("a-client-token", "b-client-token"));
    assert_eq!(served.call("sim.echo", json!({})).status, 401);
    for wrong in ["[nonsense]\n", "", "[security]\nauth_token = \"short\"\n"] {
        proxy.sandbox.write_config(wrong);
        let answered = served.call("sim.echo", json!({}));
        assert!(answered.status == 500 || answered.status == 401, "{}", answered.status);
    }
    std::fs::remove_file(proxy.sandbox.config()).unwrap();
    assert_eq!(served.call("sim.echo", json!({})).code(), "configuration_error");
    proxy.sandbox.write_config(&text);
    served.call("sim.echo", json!({})).assert_success();
    // Its owner and mode count too.
    std::thread::sleep(Duration::from_millis(2100));
    served.call("sim.echo", json!({})).assert_success();
    std::fs::set_permissions(proxy.sandbox.config(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert_eq!(served.call("sim.echo", json!({})).code(), "configuration_error");
    std::fs::set_permissions(proxy.sandbox.config(), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    // One that is nearer.
    proxy.sandbox.write("cgi-bin/proxy.toml", 0o600, text.replace("a-client-token", "c-client-token").as_bytes());
    assert_eq!(served.call("sim.echo", json!({})).status, 401);
    assert_eq!(served.workers(), worker, "nothing was started anew for it");
}

#[test]
fn a_log_that_is_rotated_or_taken_away_is_made_anew() {
    let proxy = proxy().reconfigured("level = \"debug\"", "level = \"info\"\nfile = \"log\"");
    let served = Served::by(&proxy, 1);
    let (log, rotated) = (proxy.sandbox.path().join("b24proxy/log"), proxy.sandbox.path().join("b24proxy/log.1"));
    let lines = |path: &PathBuf| std::fs::read_to_string(path).unwrap_or_default().lines().count();
    served.health();
    assert_eq!(lines(&log), 1);
    std::fs::rename(&log, &rotated).unwrap();
    served.health();
    assert_eq!((lines(&log), lines(&rotated)), (1, 1));
    std::fs::remove_file(&log).unwrap();
    assert_eq!(served.health().stderr, "");
    assert_eq!(lines(&log), 1);
    // Where it cannot be, it is told with each request, and used again when it can.
    std::fs::remove_file(&log).unwrap();
    std::fs::create_dir(&log).unwrap();
    assert!(served.health().stderr.contains("cannot be opened"));
    std::fs::remove_dir(&log).unwrap();
    assert_eq!((served.health().stderr.as_str(), lines(&log)), ("", 1));
}

#[test]
fn another_authority_in_ca_file_is_noticed() {
    let proxy = crate::fixture::Proxy::installed();
    let served = Served::by(&proxy, 1);
    served.call("sim.echo", json!({})).assert_success();
    let right = std::fs::read(proxy.sandbox.path().join("b24proxy/ca.pem")).unwrap();
    let other = simulator::Simulator::start(simulator::Options::default()).ca_pem();
    std::thread::sleep(Duration::from_millis(2100));
    served.call("sim.echo", json!({})).assert_success();
    proxy.sandbox.write("b24proxy/ca.pem", 0o600, other.as_bytes());
    assert_eq!(served.call("sim.echo", json!({})).code(), "bitrix24_unreachable");
    proxy.sandbox.write("b24proxy/ca.pem", 0o600, &right);
    served.call("sim.echo", json!({})).assert_success();
}

#[test]
fn another_executable_is_followed_by_the_same_process_and_a_broken_one_is_not() {
    let proxy = proxy();
    let served = Served::by(&proxy, 1);
    served.health();
    let program = proxy.sandbox.executable();
    let runs = |pid: u32| std::fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino();
    let before = runs(served.manager());
    // Half an upload, and one that hangs.
    let whole = std::fs::read(&program).unwrap();
    for broken in [&whole[..100_000], b"#!/bin/sh\nsleep 100\n"] {
        proxy.sandbox.write("cgi-bin/next", 0o755, broken);
        std::fs::rename(proxy.sandbox.path().join("cgi-bin/next"), &program).unwrap();
        std::thread::sleep(Duration::from_millis(2200));
        for _ in 0..3 {
            assert_eq!(served.health().status, 200);
        }
        assert_eq!(runs(served.manager()), before);
    }
    proxy.sandbox.write("cgi-bin/next", 0o755, &whole);
    std::fs::rename(proxy.sandbox.path().join("cgi-bin/next"), &program).unwrap();
    let after = std::fs::metadata(&program).unwrap().ino();
    std::thread::scope(|scope| {
        // While it is asked all the time, and nothing is lost.
        let caller = scope.spawn(|| {
            for _ in 0..400 {
                assert_eq!(served.health().status, 200);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        eventually("it is followed", || runs(served.manager()) == after);
        caller.join().unwrap();
    });
    assert!(served.workers().iter().all(|pid| runs(*pid) == after));
    assert_eq!(std::fs::metadata(&served.socket).unwrap().mode() & 0o777, 0o660);
    served.end("TERM");
    eventually("its socket goes with it", || !served.socket.exists());
}

#[test]
fn updates_lose_no_request_and_leave_no_process_behind_also_where_a_link_leads_to_the_next_one() {
    let proxy = proxy();
    let (program, whole) = (proxy.sandbox.executable(), std::fs::read(proxy.sandbox.executable()).unwrap());
    let put = |name: &str| {
        proxy.sandbox.write(&format!("cgi-bin/{name}"), 0o755, &whole);
        let (link, to) = (proxy.sandbox.path().join("cgi-bin/link"), proxy.sandbox.path().join("cgi-bin").join(name));
        std::os::unix::fs::symlink(&to, &link).unwrap();
        std::fs::rename(link, &program).unwrap();
        std::fs::metadata(to).unwrap().ino()
    };
    put("one");
    let served = Served::by(&proxy, 2);
    let runs = |pid: u32| std::fs::metadata(format!("/proc/{pid}/exe")).map_or(0, |metadata| metadata.ino());
    let request = || parameters(&proxy.get("/health"), b"");
    for next in ["two", "three"] {
        let next = put(next);
        let is_followed = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                // Each on a connection that is kept, and made anew where the program has closed it while nothing was asked.
                scope.spawn(|| {
                    let mut connection = served.connect();
                    while !is_followed.load(std::sync::atomic::Ordering::SeqCst) {
                        connection.expect(1);
                        let sent = connection.send(&support::fastcgi::request(1, true, request(), b""));
                        match sent.map(|()| connection.reply(1)) {
                            Ok(Ok(reply)) => assert_eq!(Answered::of(reply, Duration::ZERO).status, 200),
                            // Closed before anything was answered, at the very moment.
                            _ => connection = served.connect(),
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                });
            }
            eventually("it is followed", || runs(served.manager()) == next);
            std::thread::sleep(Duration::from_millis(500));
            is_followed.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        assert_eq!(served.health().status, 200);
    }
    let stat = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    eventually("nobody who has ended is left", || {
        with_descendants(served.manager()).into_iter().all(|pid| !stat(pid).contains(") Z "))
    });
}

#[test]
fn where_descriptors_were_short_it_goes_on_when_they_are_not() {
    let proxy = proxy();
    proxy.run_behind("ulimit -n 64");
    let served = Served::by(&proxy, 2);
    served.health();
    // Two calls that the portal does not answer, and two hundred that wait for a worker.
    proxy
        .simulator
        .inject(simulator::Fault::forever(simulator::Target::Method("sim.echo".into()), simulator::Action::Hang));
    let (variables, body) = call_of(&proxy, "sim.echo", json!({}));
    let request = support::fastcgi::request(1, false, variables, &body);
    let open = || support::fastcgi::Connection::open(&served.socket);
    let held: Vec<_> =
        (0..202).filter_map(|_| open().and_then(|mut held| held.send(&request).map(|()| held)).ok()).collect();
    // Looked after by the manager.
    std::thread::sleep(Duration::from_millis(3500));
    served.workers().iter().for_each(|pid| support::signal(*pid, "KILL"));
    std::thread::sleep(Duration::from_millis(1500));
    drop(held);
    proxy.simulator.clear_faults();
    proxy.simulator.release();
    eventually("it serves again", || {
        served.try_ask(&proxy.get("/health"), b"").is_ok_and(|answered| answered.status == 200)
    });
    served.end("TERM");
    eventually("it ends", || !served.socket.exists());
}

#[test]
fn neither_memory_nor_descriptors_grow() {
    let requests: usize =
        std::env::var("B24PROXY_RESIDENT_REQUESTS").map_or(3000, |text| text.parse().expect("a number"));
    let proxy = proxy();
    let served = Served::by(&proxy, 2);
    let ask = |count: usize| {
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..count / 2).for_each(|_| served.call("sim.echo", json!({"a": 1})).assert_success()));
            }
        });
    };
    let all = || [vec![served.manager()], served.workers()].concat();
    let memory = || all().iter().map(|pid| resident(*pid)).sum::<u64>();
    let descriptors =
        || all().iter().map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()).sum::<usize>();
    ask(500);
    let before = (memory(), descriptors(), all());
    ask(requests);
    let after = (memory(), descriptors(), all());
    assert_eq!(before.2, after.2, "nobody was started anew");
    assert!(after.0 < before.0 + 1024, "KiB: {} and then {}", before.0, after.0);
    assert!(after.1 <= before.1 + 2, "{} and then {}", before.1, after.1);
}

#[test]
fn what_a_large_request_took_does_not_stay() {
    let proxy = proxy();
    let served = Served::by(&proxy, 1);
    served.health();
    let before = served.workers().into_iter().map(resident).max().unwrap();
    let text = "x".repeat(12 << 20);
    for _ in 0..3 {
        served.call("sim.echo", json!({"text": text})).assert_success();
    }
    assert_eq!(served.health().status, 200);
    eventually("nobody holds it any more", || {
        served.workers().into_iter().map(resident).max().is_none_or(|after| after < before + 4096)
    });
    assert_eq!(served.health().status, 200);
}

/// Memory that is there, in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn on_a_full_disk_it_goes_on_and_its_log_goes_to_the_web_server() {
    let proxy = proxy().reconfigured("level = \"debug\"", "level = \"info\"\nfile = \"/dev/full\"");
    let served = Served::by(&proxy, 1);
    for _ in 0..3 {
        let answered = served.call("sim.echo", json!({}));
        answered.assert_success();
        assert!(answered.stderr.contains("\"answered\""), "{}", answered.stderr);
    }
}
