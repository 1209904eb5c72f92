//! Contract section 9: the clocks of two nodes need not agree, one is an hour ahead here and the other an hour behind; the
//! database's counts.

use crate::fixture::*;
use crate::nodes::{add, files, on_each_kind, once_it_is_known, refreshers, Nodes};
use serde_json::{json, Value};
use simulator::{Action, Fault, Target};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};
use support::cgi::{Answer, Cgi};
use support::database::{shared, Kind};
use support::{eventually, signal, Sandbox};

const HOUR: i64 = 3600;
const LONG: Duration = Duration::from_secs(10);

/// What is loaded into every process of a node: the time is another there, and how it passes is not.
const CLOCK: &str = "
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, id, now);
    if (result == 0 && id == CLOCK_REALTIME) now->tv_sec += AHEAD;
    return result;
}
";

/// Sets a node's clock. The program starts parts of itself with an empty environment, so it is /etc/ld.so.preload, in a
/// name space of the node's own, that brings the clock into all of them. Nothing can be brought into a static executable, so
/// here it is always the one that cargo built for the tests.
fn set_clock(node: &Sandbox, ahead: i64) {
    let executable = node.executable();
    fs::remove_file(&executable).expect("the executable was there");
    fs::copy(env!("CARGO_BIN_EXE_b24proxy"), &executable).expect("the sandbox can be written");
    node.make_folder("etc", 0o755);
    node.write("run/clock.c", 0o644, CLOCK.as_bytes());
    let [etc, source, library] = ["etc", "run/clock.c", "etc/clock.so"].map(|name| node.path().join(name));
    let mut compiler = Command::new("cc");
    let made = compiler.arg(format!("-DAHEAD={ahead}")).args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    assert!(made.status().expect("a compiler").success());
    // Once /etc is another folder, this is its path.
    node.write("etc/ld.so.preload", 0o644, format!("{}\n", library.display()).as_bytes());
    let way = format!("exec unshare -rm /bin/sh -c 'mount --bind {} /etc && exec \"$0\" \"$@\"'", etc.display());
    node.run_behind(&format!("{way} {{}}"));
    // What the program itself takes for the time, as its log says.
    let answer = Cgi::new(node).path("/no-such-address").as_cgi().run();
    let line: Value = serde_json::from_str(answer.stderr.trim()).expect("one line of the log");
    let mut date = Command::new("date");
    let said = date.args(["+%s", "--date", line["time"].as_str().expect("a time")]).output().expect("date");
    let said = String::from_utf8_lossy(&said.stdout).trim().parse::<i64>().expect("seconds");
    assert!((said - unix_now() - ahead).abs() < 5, "{said} {}", answer.stderr);
}

fn nodes(kind: Kind) -> Nodes {
    let nodes = Nodes::new(shared(kind));
    set_clock(nodes.one(), HOUR);
    set_clock(nodes.other(), -HOUR);
    nodes
}

/// By each way that the program is started, and on each node, the one ahead first.
fn on_both<'n>(nodes: &'n Nodes, request: impl Fn(&'n Sandbox) -> Cgi<'n>) -> Vec<Answer> {
    let ways = [nodes.one(), nodes.other()];
    ways.into_iter().flat_map(|node| [request(node).as_cgi().run(), request(node).as_resident().run()]).collect()
}

#[track_caller]
fn all_work(nodes: &Nodes) {
    for answer in on_both(nodes, add) {
        assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    }
}

#[test]
fn pairs_are_due_by_the_databases_clock() {
    on_each_kind(pairs);
}

fn pairs(kind: Kind) {
    let nodes = nodes(kind);
    let refreshes = || nodes.proxy.simulator.ledger().refreshes();
    let pair = nodes.proxy.portal().issue_pair(1);
    // For the node ahead it was over half an hour ago, for the other it is over in an hour and a half.
    nodes.proxy.store(&token_file(&pair, nodes.proxy.simulator.client_id(), unix_now() + HOUR / 2));
    all_work(&nodes);
    assert_eq!(refreshes(), 0);
    for (count, node) in [(1, nodes.one()), (2, nodes.other())] {
        nodes.proxy.portal().set_token_lifetime(1800);
        nodes.proxy.change_stored(|tokens| {
            tokens["expires_at"] = json!(unix_now() + 20);
            tokens["refreshed_at"] = json!(unix_now() - 400);
        });
        nodes.assert_works(node, "it is over");
        assert_eq!(refreshes(), count);
        let stored = nodes.proxy.stored();
        let time = |name: &str| stored[name].as_i64().expect("a number") - unix_now();
        assert!(time("refreshed_at").abs() < 5 && (time("expires_at") - 1800).abs() < 5, "{stored}");
        all_work(&nodes);
        assert_eq!(refreshes(), count);
    }
    // Within five minutes only what Bitrix24 says counts, on both.
    nodes.proxy.change_stored(|tokens| tokens["expires_at"] = json!(1));
    all_work(&nodes);
    assert_eq!(refreshes(), 2);
    // A refusal is shared for ten seconds and no longer.
    nodes.proxy.change_stored(|tokens| tokens["refreshed_at"] = json!(unix_now() - 400));
    nodes.proxy.simulator.inject(Fault::once(Target::Token, Action::Html500));
    let asked = Instant::now();
    for answer in on_both(&nodes, add) {
        assert!((500..600).contains(&answer.status), "{}", answer.text());
        let left = answer.json()["retry_after"].as_u64().unwrap_or_else(|| panic!("{}", answer.text()));
        assert!((1..=10).contains(&left), "{left}");
    }
    assert_eq!(refreshes(), 3);
    std::thread::sleep((LONG + Duration::from_millis(500)).saturating_sub(asked.elapsed()));
    all_work(&nodes);
    assert_eq!((refreshes(), nodes.proxy.simulator.ledger().spent_presented()), (4, 0));
}

#[test]
fn leases_and_keys_last_by_the_databases_clock() {
    on_each_kind(leases_and_keys);
}

fn leases_and_keys(kind: Kind) {
    let nodes = nodes(kind);
    fn keyed(node: &Sandbox) -> Cgi<'_> {
        add(node).header("Idempotency-Key", "key").as_cgi()
    }
    for (holder, other) in [(nodes.one(), nodes.other()), (nodes.other(), nodes.one())] {
        nodes.prepare(true);
        nodes.proxy.simulator.inject(Fault::once(Target::Token, Action::Hang));
        assert_failure(&add(holder).as_cgi().run(), 503, "refresh_pending");
        // It is renewed, whatever the time is there.
        assert_failure(&add(other).as_cgi().run(), 503, "refresh_pending");
        let died = Instant::now();
        refreshers(holder).into_iter().for_each(|refresher| signal(refresher, "KILL"));
        let answer = once_it_is_known(&add(other));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(died.elapsed() < Duration::from_secs(13), "{:?}", died.elapsed());
        nodes.proxy.simulator.release();
        eventually("nothing hangs", || nodes.proxy.simulator.hanging() == 0);
        nodes.proxy.simulator.inject(Fault::once(Target::Call, Action::HangAfter));
        std::thread::scope(|scope| {
            let first = scope.spawn(|| keyed(holder).run());
            assert!(nodes.proxy.simulator.wait_hanging(1, LONG));
            assert_failure(&keyed(other).run(), 503, "idempotency_key_in_use");
            nodes.proxy.simulator.release();
            assert_eq!(first.join().expect("a caller").status, 200);
        });
        nodes.database().sql("DELETE FROM b24proxy_keys");
        // A key is kept for 24 hours.
        let ran = |node: &Sandbox| {
            let answer = keyed(node).run();
            assert_eq!(answer.status, 200, "{}", answer.text());
            answer.header("Idempotent-Replayed").is_none()
        };
        assert!(ran(holder) && !ran(other) && !ran(holder));
        let age = |seconds: i64| {
            let begun = nodes.database().now_ms() - seconds * 1000;
            nodes.database().sql(&format!("UPDATE b24proxy_keys SET begun_at = {begun}"));
        };
        age(24 * HOUR - 60);
        assert!(!ran(holder) && !ran(other));
        age(24 * HOUR + 1);
        assert!(ran(other) && !ran(holder));
    }
}

#[test]
fn a_blocked_method_and_a_kept_pair_last_as_long_as_they_should() {
    on_each_kind(blocked_and_kept);
}

fn blocked_and_kept(kind: Kind) {
    let nodes = nodes(kind);
    for (i, node) in [nodes.one(), nodes.other()].into_iter().enumerate() {
        nodes.prepare(true);
        let method = ["crm.deal.add", "crm.lead.add"][i];
        let body = json!({ "method": method }).to_string();
        let call = |node| Cgi::new(node).method("POST").json(body.clone()).bearer(TOKEN);
        let time = json!({"operating": 481, "operating_reset_at": unix_now() + 100});
        let used_up = json!({"result": 1, "time": time}).to_string();
        let used_up = Action::Status { status: 200, content_type: "application/json".into(), body: used_up };
        nodes.proxy.simulator.inject(Fault::once(Target::Method(method.into()), used_up));
        assert_eq!(call(node).run().status, 200);
        let asked = nodes.proxy.simulator.ledger().calls(method);
        for answer in on_both(&nodes, call) {
            assert_failure(&answer, 429, "rate_limited");
            let left = answer.json()["retry_after"].as_u64().unwrap_or_else(|| panic!("{}", answer.text()));
            assert!((80..=101).contains(&left), "{left}");
        }
        assert_eq!(nodes.proxy.simulator.ledger().calls(method), asked, "it is known to be blocked");
    }
    nodes.database().sql("DELETE FROM b24proxy_limits");
    // The hour for which a node keeps a pair is by its own clock alone.
    for (node, ahead) in [(nodes.one(), HOUR), (nodes.other(), -HOUR)] {
        nodes.prepare(true);
        nodes.assert_works(node, "it refreshes");
        nodes.settle();
        let kept = format!("{}.kept", nodes.proxy.stem());
        let age = |seconds: i64| {
            let file = std::fs::File::options().append(true).open(node.tokens().join(&kept)).expect("it is kept");
            let seconds = Duration::from_secs(u64::try_from(unix_now() + ahead - seconds).expect("after 1970"));
            file.set_modified(SystemTime::UNIX_EPOCH + seconds).expect("it is ours");
            nodes.assert_works(node, "later");
            files(node).contains(&kept)
        };
        nodes.assert_works(node, "again");
        assert!(files(node).contains(&kept));
        assert!(age(HOUR - 60) && !age(HOUR + 1));
    }
}
