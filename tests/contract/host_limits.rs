//! Contract section 3, `host_busy`: what a shared host refuses to an account, by `prlimit` around the executable, which a
//! resident process would meet when it is started.

use crate::fixture::*;
use serde_json::{json, Value};
use simulator::{Options, PortalOptions};
use support::cgi::{Answer, Ended, Running};
use support::database::{self, Kind};

const PROFILE: &str = r#"{"method":"profile"}"#;

/// A portal whose name must be looked up, which takes a thread.
fn named() -> Proxy {
    let portal = PortalOptions { host: "localhost".into(), ..PortalOptions::default() };
    let proxy = Proxy::with(Options { portal, ..Options::default() });
    proxy.store_pair(&proxy.portal().issue_pair(1));
    proxy
}

fn limit(proxy: &Proxy, limit: &str) {
    proxy.run_behind(&format!("exec prlimit {limit} {{}}"));
}

fn unlimited(proxy: &Proxy) {
    proxy.run_behind("");
}

fn add_with_key(proxy: &Proxy, key: &str) -> Answer {
    let body = json!({"domain": proxy.portal().name(), "method": "crm.deal.add", "params": {"fields": {}}});
    proxy.request(body.to_string()).header("Idempotency-Key", key).as_cgi().run()
}

/// How a request ends whose program perhaps does not even start.
fn ended(mut running: Running, body: &str) -> Ended {
    let _ = running.write(body.as_bytes());
    running.end_body();
    running.wait_for_end()
}

fn executed(proxy: &Proxy) -> usize {
    proxy.simulator.ledger().executed("crm.deal.add")
}

/// The least address space, in halves of a MiB, in which the system starts the program at all.
fn least(proxy: &Proxy) -> u64 {
    let starts = |half_mib: &u64| {
        let mut command = proxy.sandbox.command("prlimit");
        command.arg(format!("--as={}", half_mib << 19)).arg(proxy.sandbox.executable()).arg("version");
        command.output().is_ok_and(|output| output.status.success())
    };
    (1..).find(starts).expect("it starts without a limit")
}

/// How much more a call takes, in halves of a MiB; a database's driver takes some of its own.
fn room() -> u64 {
    match database::wanted() {
        None => 20,
        Some(Kind::Postgres) => 24,
        Some(Kind::MySql) => 40,
    }
}

#[track_caller]
fn assert_host_busy(answer: &Answer, word: &str) {
    assert_failure(answer, 503, "host_busy");
    let body: Value = answer.json();
    assert_eq!(body["executed"], "no", "{body}");
    assert!(body["retry_after"].as_u64().is_some_and(|seconds| seconds > 0), "{body}");
    assert_eq!(answer.header("Retry-After"), Some(body["retry_after"].to_string().as_str()), "{body}");
    assert!(body["error"].as_str().unwrap().contains(word), "{word}: {body}");
}

#[test]
fn a_host_that_refuses_a_thread_is_503_not_executed_and_the_key_is_free() {
    let proxy = named();
    limit(&proxy, "--nproc=1");
    assert_host_busy(&add_with_key(&proxy, "one"), "threads");
    let webhook = proxy.get(&format!("/rest/1/{TOKEN}/crm.deal.add")).as_cgi().run();
    assert_eq!((webhook.status, &webhook.json()["error"]), (503, &json!("HOST_BUSY")), "{}", webhook.text());
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
    unlimited(&proxy);
    assert_eq!(add_with_key(&proxy, "one").status, 200);
    assert_eq!(executed(&proxy), 1);

    // Nothing is looked up for a number, so nothing is refused; a lease is renewed by a thread.
    let proxy = Proxy::installed().on_files();
    limit(&proxy, "--nproc=1");
    assert_eq!(add_with_key(&proxy, "one").status, 200);
}

#[test]
fn a_refresher_that_cannot_be_started_says_why_and_spends_nothing() {
    for (refused, word) in [("--nproc=1", "processes"), ("--nofile=7", "files"), ("--nofile=8", "files")] {
        let proxy = Proxy::not_installed().on_files();
        let pair = proxy.portal().issue_pair(1);
        proxy.store_expired_pair(&pair);
        limit(&proxy, refused);
        let answer = add_with_key(&proxy, "one");
        assert_host_busy(&answer, word);
        assert!(answer.json()["error"].as_str().unwrap().contains("refreshes tokens"), "{}", answer.text());
        assert!(answer.stderr.contains("cannot be started") && answer.stderr.contains(word), "{}", answer.stderr);
        assert_eq!(proxy.simulator.ledger().refreshes(), 0);
        assert_eq!(proxy.stored()["refresh_token"], pair.refresh_token.as_str());
        unlimited(&proxy);
        assert_eq!(add_with_key(&proxy, "one").status, 200);
        assert_eq!((executed(&proxy), proxy.simulator.ledger().refreshes()), (1, 1));
    }
}

#[test]
fn a_refresher_that_is_refused_memory_spends_nothing_and_leaves_no_failure_to_share() {
    let (mut busy, least) = (0, least(&Proxy::not_installed()));
    for half_mib in least - 2..least + room() {
        let proxy = Proxy::not_installed();
        proxy.store_expired_pair(&proxy.portal().issue_pair(1));
        limit(&proxy, &format!("--as={}", half_mib << 19));
        let request = proxy.request(PROFILE).content_length(Some(PROFILE.len())).as_cgi().spawn();
        let text = String::from_utf8_lossy(&ended(request, PROFILE).stdout).into_owned();
        let is_refreshers = text.contains("\"host_busy\"") && proxy.simulator.ledger().refreshes() == 0;
        busy += usize::from(is_refreshers);
        unlimited(&proxy);
        assert_eq!(proxy.request(PROFILE).run().status, 200, "{half_mib}: {text}");
        assert_eq!(proxy.simulator.ledger().refreshes(), 1, "{half_mib}: {text}");
    }
    assert!(busy >= 2, "{busy}");
}

/// Whatever few there are: an answer, or no program at all; what was not executed can be repeated with the same key.
#[test]
fn with_few_descriptors_or_little_memory_nothing_is_half_done() {
    let descriptors = (3..10).map(|count| format!("--nofile={count}"));
    let least = least(&Proxy::not_installed());
    let memory = (least - 2..least + room()).map(|half_mib| format!("--as={}", half_mib << 19));
    let (mut busy, mut last) = (0, String::new());
    for refused in descriptors.chain(memory) {
        let proxy = named();
        limit(&proxy, &refused);
        let body = json!({"domain": proxy.portal().name(), "method": "crm.deal.add", "params": {"fields": {}}});
        let body = body.to_string();
        let request = proxy.request(body.clone()).header("Idempotency-Key", "one").content_length(Some(body.len()));
        let ended = ended(request.as_cgi().spawn(), &body);
        let text = String::from_utf8_lossy(&ended.stdout).into_owned();
        // Where the system, or Rust before the program, cannot even start it there is nothing; the program itself always answers.
        let by_rust = ended.stderr.contains("alternative stack") && text.is_empty();
        assert!(
            by_rust || !ended.stderr.contains("panicked") && !ended.stderr.contains("report it"),
            "{refused}: {}",
            ended.stderr
        );
        let is_unstarted = ended.stderr.contains("shared object") || (refused.contains("as") && text.is_empty());
        assert!(is_unstarted || text.starts_with("Status: "), "{refused}: {:?} {text} {}", ended.exit, ended.stderr);
        let is_told = text.starts_with("Status: 200") || text.contains("\"host_busy\"");
        assert!(is_unstarted || is_told, "{refused}: {text} {}", ended.stderr);
        busy += usize::from(text.contains("\"host_busy\""));
        unlimited(&proxy);
        assert_eq!(add_with_key(&proxy, "one").status, 200, "{refused}: {text}");
        assert_eq!(executed(&proxy), 1, "{refused}: {text}");
        last = text;
    }
    assert!(busy >= 3, "{busy}");
    assert!(last.starts_with("Status: 200"), "so much is enough: {last}");
}

/// A chroot has no `/proc`.
#[test]
fn what_it_needs_of_its_own_path_it_finds_without_proc() {
    let proxy = Proxy::not_installed();
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    proxy.run_behind(
        "exec unshare --user --map-root-user --mount sh -c 'mount -t tmpfs none /proc && exec \"$@\"' sh {}",
    );
    let answer = proxy.request(PROFILE).run();
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
    assert_eq!(proxy.get("/health").run().status, 200);
}

#[test]
fn check_says_that_no_refresher_can_be_started_before_a_token_is_due() {
    let proxy = Proxy::installed();
    let check = || {
        let output = proxy.sandbox.command_line(&["check", "--json"]).output().unwrap();
        let lines: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        lines.into_iter().find(|line| line["check"] == "refresher")
    };
    assert_eq!(check(), None);
    for (lines, word) in [
        ("exec prlimit --nproc=0 {}", "processes"),
        (
            "exec unshare --user --map-root-user --mount sh -c 'mount -t tmpfs none /dev && exec \"$@\"' sh {}",
            "/dev/null",
        ),
    ] {
        proxy.run_behind(lines);
        let line = check().expect(word);
        assert_eq!(line["status"], "fail", "{line}");
        assert!(line["text"].as_str().unwrap().contains(word), "{line}");
    }
}
