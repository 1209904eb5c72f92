//! Contract sections 5.1 and 5.2: one refresh for all, and a token is never lost.

use crate::fixture::*;
use serde_json::{json, Value};
use simulator::{Action, Fault, Kind, Target, TokenPair};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::cgi::Answer;
use support::eventually;

const LONG: Duration = Duration::from_secs(10);

/// A proxy whose stored pair has outlived its time.
fn expired() -> Proxy {
    let proxy = Proxy::not_installed();
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    proxy
}

pub fn add(proxy: &Proxy) -> Answer {
    proxy.call("crm.deal.add", json!({"fields": {}}))
}

#[track_caller]
pub fn assert_works(proxy: &Proxy) {
    let answer = add(proxy);
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
}

/// The names in the token folder, but for the count of calls.
fn left_behind(proxy: &Proxy) -> Vec<String> {
    let entries = std::fs::read_dir(proxy.sandbox.tokens()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.ends_with(".limits"));
    names.sort();
    names
}

#[track_caller]
fn assert_tidy(proxy: &Proxy) {
    eventually("the refresher has ended", || refreshers(proxy).is_empty());
    let stem = proxy.stem();
    let pair = if proxy.sandbox.database().is_some() { "kept" } else { "json" };
    let expected = [format!("{stem}.{pair}"), format!("{stem}.lock")];
    let (left, mut expected) = (left_behind(proxy), expected.to_vec());
    // Of a refresh that brought nothing, nothing is kept.
    expected.retain(|name| left.contains(name) || !name.ends_with(".kept"));
    assert_eq!(left, expected);
}

/// The processes that refresh.
fn refreshers(proxy: &Proxy) -> Vec<u32> {
    let refreshes = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"refresher")
    };
    proxy.sandbox.processes().into_iter().filter(refreshes).collect()
}

fn kill(pid: u32) {
    let status = Command::new("/bin/sh").args(["-c", &format!("kill -s KILL {pid}")]).status().unwrap();
    assert!(status.success());
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

#[test]
fn fifty_callers_on_an_expired_token_cause_one_refresh_and_get_fifty_answers() {
    let proxy = expired();
    std::thread::scope(|scope| {
        for i in 0..50 {
            let proxy = &proxy;
            scope.spawn(move || {
                let answer = proxy.call("sim.echo", json!({ "i": i }));
                assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
                assert_eq!(answer.json()["data"]["result"]["i"], i);
            });
        }
    });
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
}

#[test]
fn thirty_processes_that_find_expired_token_cause_one_refresh() {
    let proxy = Proxy::installed();
    proxy.portal().expire_access_tokens();
    std::thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| assert_works(&proxy));
        }
    });
    let ledger = proxy.simulator.ledger();
    assert_eq!((ledger.refreshes(), ledger.spent_presented()), (1, 0));
    assert_eq!(ledger.executed("crm.deal.add"), 30);
    assert_tidy(&proxy);
}

#[test]
fn many_processes_share_one_failure_for_ten_seconds_and_then_it_is_asked_again() {
    let proxy = expired();
    proxy.simulator.inject(Fault::forever(Target::Token, Action::Html500));
    let failed_at = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_failure(&add(&proxy), 502, "oauth_server_error"));
        }
    });
    let answer = add(&proxy);
    assert_failure(&answer, 502, "oauth_server_error");
    let wait = answer.json()["retry_after"].as_u64().expect("retry_after");
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
    assert!(failed_at.elapsed() < Duration::from_secs(8), "too slow to tell");
    assert!((1..=10).contains(&wait), "{wait}");

    // The OAuth server recovers; after what retry_after says, the call works.
    proxy.simulator.clear_faults();
    assert_failure(&add(&proxy), 502, "oauth_server_error");
    std::thread::sleep(Duration::from_secs(wait) + Duration::from_millis(200));
    assert_works(&proxy);
    assert_eq!(proxy.simulator.ledger().refreshes(), 2);
    assert_tidy(&proxy);
}

#[test]
fn invalid_grant_deletes_nothing_and_is_asked_at_most_once_in_ten_seconds() {
    let proxy = expired();
    proxy.portal().revoke_refresh_tokens();
    let before = proxy.stored_bytes();
    for _ in 0..3 {
        assert_failure(&add(&proxy), 409, "reinstall_required");
    }
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
    std::thread::sleep(LONG + Duration::from_millis(200));
    for _ in 0..3 {
        assert_failure(&add(&proxy), 409, "reinstall_required");
    }
    assert_eq!(proxy.simulator.ledger().refreshes(), 2);
    assert_eq!(proxy.stored_bytes(), before);
    assert_tidy(&proxy);
}

#[test]
fn a_new_installation_ends_a_shared_failure_at_once() {
    let proxy = expired();
    proxy.portal().revoke_refresh_tokens();
    assert_failure(&add(&proxy), 409, "reinstall_required");
    proxy.store_pair(&proxy.portal().issue_pair(1));
    assert_works(&proxy);
    // Neither does the old failure stand in the way of the new pair's first refresh.
    proxy.portal().expire_access_tokens();
    assert_works(&proxy);
    assert_eq!(proxy.simulator.ledger().refreshes(), 2);
}

#[test]
fn within_five_minutes_of_a_refresh_a_wrong_clock_causes_none_but_expired_token_does() {
    let proxy = Proxy::installed();
    for (refreshed_at, expires_at) in [(-10, -5000), (-290, 0), (200, -100_000)] {
        proxy.change_stored(|tokens| {
            tokens["refreshed_at"] = (unix_now() + refreshed_at).into();
            tokens["expires_at"] = (unix_now() + expires_at).into();
        });
        assert_works(&proxy);
        assert_eq!(proxy.simulator.ledger().refreshes(), 0, "refreshed {refreshed_at} s from now");
    }
    proxy.portal().expire_access_tokens();
    assert_works(&proxy);
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
    // And after five minutes the clock counts again.
    proxy.change_stored(|tokens| {
        tokens["refreshed_at"] = (unix_now() - 310).into();
        tokens["expires_at"] = (unix_now() - 5).into();
    });
    assert_works(&proxy);
    assert_eq!(proxy.simulator.ledger().refreshes(), 2);
}

#[test]
fn a_machine_whose_clock_is_wrong_refreshes_once_and_not_for_each_call() {
    let proxy = Proxy::installed();
    // As after a pair was received with a clock that is two hours ahead of Bitrix24's: always over.
    proxy.portal().set_token_lifetime(1);
    proxy.change_stored(|tokens| tokens["expires_at"] = json!(1));
    assert_works(&proxy);
    proxy.portal().set_token_lifetime(3600);
    for _ in 0..3 {
        assert_eq!(proxy.call("sim.echo", json!({})).status, 200);
    }
    let refreshes = proxy.simulator.ledger().refreshes();
    assert!((1..=2).contains(&refreshes), "{refreshes}");
}

#[test]
fn a_refreshed_pair_has_every_field_and_counts_its_time_from_receipt() {
    let proxy = expired();
    let before = proxy.stored();
    proxy.portal().set_token_lifetime(1800);
    assert_works(&proxy);
    let after = proxy.stored();
    let time = |tokens: &Value, name: &str| tokens[name].as_i64().unwrap();
    assert!((unix_now() - time(&after, "refreshed_at")).abs() <= 3);
    assert!((unix_now() + 1800 - time(&after, "expires_at")).abs() <= 3);
    assert_ne!(after["access_token"], before["access_token"]);
    assert_ne!(after["refresh_token"], before["refresh_token"]);
    for name in [
        "member_id",
        "domain",
        "client_endpoint",
        "server_endpoint",
        "scope",
        "user_id",
        "application_token",
        "client_id",
        "installed_at",
    ] {
        assert_eq!(after[name], before[name], "{name}");
    }
    assert!(proxy.portal().is_live(after["refresh_token"].as_str().unwrap()));
}

#[test]
fn token_files_are_readable_by_their_owner_only() {
    let proxy = expired().on_files();
    let pair = proxy.stored();
    let proxy = proxy.reconfigured("[log]", "[storage]\npath = \"other/tokens\"\n\n[log]");
    proxy.sandbox.make_folder("b24proxy/other", 0o755);
    proxy.sandbox.make_folder("b24proxy/other/tokens", 0o700);
    proxy.sandbox.write(&format!("b24proxy/other/tokens/{}.json", proxy.stem()), 0o600, pair.to_string().as_bytes());
    assert_works(&proxy);
    let folder = proxy.sandbox.path().join("b24proxy/other/tokens");
    let mode = |name: &str| std::fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o7777;
    let stem = proxy.stem();
    assert_eq!((mode(&format!("{stem}.json")), mode(&format!("{stem}.lock")), mode("")), (0o600, 0o600, 0o700));
}

#[test]
fn a_refresh_outlives_the_request_that_began_it() {
    let proxy = Proxy::not_installed();
    for (signal, group) in [("TERM", false), ("KILL", false), ("TERM", true), ("KILL", true)] {
        let pair = proxy.portal().issue_pair(1);
        proxy.store_expired_pair(&pair);
        proxy.simulator.clear_ledger();
        proxy.simulator.inject(Fault::once(Target::Token, Action::Hang));
        let mut request = proxy.request(r#"{"method":"crm.deal.add"}"#).content_length(None).as_cgi().spawn();
        request.write(br#"{"method":"crm.deal.add"}"#).unwrap();
        request.end_body();
        assert!(proxy.simulator.wait_hanging(1, LONG), "the OAuth server is asked");
        if group {
            request.signal_group(signal);
        } else {
            request.signal(signal);
        }
        let ended = request.wait_for_end();
        assert!(!ended.exit.success(), "{signal} ends the request");
        assert_eq!(proxy.stored()["refresh_token"], pair.refresh_token.as_str(), "nothing has changed yet");
        proxy.simulator.release();
        eventually("the new pair is on disk", || proxy.stored()["refresh_token"] != pair.refresh_token.as_str());
        assert!(!proxy.portal().is_live(&pair.refresh_token));
        assert!(proxy.portal().is_live(proxy.stored()["refresh_token"].as_str().unwrap()));
        assert_works(&proxy);
        let ledger = proxy.simulator.ledger();
        assert_eq!((ledger.refreshes(), ledger.executed("crm.deal.add")), (1, 1), "{signal}, group: {group}");
        assert_tidy(&proxy);
    }
}

#[test]
fn the_answer_does_not_wait_for_a_refresher_that_hangs() {
    // A detached process that kept the web server's pipes open would keep the answer open.
    let proxy = expired().reconfigured("max_wait = 5", "max_wait = 1");
    proxy.simulator.inject(Fault::once(Target::Token, Action::Hang));
    let answer = add(&proxy);
    assert_failure(&answer, 503, "refresh_pending");
    assert!(answer.elapsed < Duration::from_secs(3), "{:?}", answer.elapsed);
    let found = refreshers(&proxy);
    assert_eq!(found.len(), 1, "it is still there");
    // It shows no secret in the process list and holds nothing of the request's.
    let line = std::fs::read(format!("/proc/{}/cmdline", found[0])).unwrap();
    let environment = std::fs::read(format!("/proc/{}/environ", found[0])).unwrap_or_default();
    let shown = String::from_utf8_lossy(&[line, environment].concat()).into_owned();
    for secret in proxy.simulator.secrets().into_iter().chain([TOKEN.to_owned()]) {
        assert!(!shown.contains(&secret), "{shown}");
    }
    proxy.simulator.release();
    eventually("it ends", || refreshers(&proxy).is_empty());
    assert_works(&proxy);
}

#[test]
fn a_slow_oauth_server_is_waited_for_and_the_call_executed() {
    let proxy = expired();
    proxy.simulator.inject(Fault::once(Target::Token, Action::DelayAnswer(Duration::from_millis(1500))));
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| assert_works(&proxy));
        }
    });
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
}

/// The portal's lock, held by another program until this is dropped.
struct Holder(std::process::Child);

impl Holder {
    fn of(proxy: &Proxy) -> Holder {
        let lock = proxy.sandbox.tokens().join(format!("{}.lock", proxy.stem()));
        // `--no-fork`: the lock lives in one process, which can be ended.
        let mut command = proxy.sandbox.command("flock");
        command.arg("--no-fork").arg(lock).args(["/bin/sh", "-c", "echo held; exec sleep 600"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("flock (Debian package util-linux)");
        let mut word = [0; 5];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut word).unwrap();
        Holder(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn while_somebody_holds_the_portals_lock_nobody_refreshes() {
    let proxy = expired().reconfigured("max_wait = 5", "max_wait = 1");
    let holder = Holder::of(&proxy);
    assert_failure(&add(&proxy), 503, "refresh_pending");
    assert_eq!(proxy.simulator.ledger().refreshes(), 0);
    drop(holder);
    assert_works(&proxy);
}

#[test]
fn what_is_on_disk_under_the_lock_decides_and_not_what_was_read_before() {
    let proxy = expired();
    let meanwhile = |change: &dyn Fn()| {
        let holder = Holder::of(&proxy);
        std::thread::scope(|scope| {
            let answer = scope.spawn(|| add(&proxy));
            std::thread::sleep(Duration::from_millis(300));
            change();
            drop(holder);
            answer.join().unwrap()
        })
    };
    // A new installation was finished.
    let pair = proxy.portal().issue_pair(1);
    assert_eq!(meanwhile(&|| proxy.store_pair(&pair)).status, 200);
    // The tokens were removed.
    proxy.store_expired_pair(&pair);
    let answer = meanwhile(&|| proxy.sandbox.remove_token_file(&format!("{}.json", proxy.stem())));
    assert_failure(&answer, 409, "not_installed");
    assert!(answer.json()["install_url"].is_string(), "{}", answer.text());
    // They were damaged.
    proxy.store_expired_pair(&pair);
    let answer = meanwhile(&|| proxy.sandbox.write_token_file(&format!("{}.json", proxy.stem()), "{"));
    assert_failure(&answer, 500, "storage_error");
    assert_eq!(proxy.stored_bytes().unwrap(), b"{");
    assert_eq!(proxy.simulator.ledger().refreshes(), 0);
}

#[test]
fn who_gets_the_lock_reads_the_pair_again_before_spending_it() {
    let proxy = expired();
    // Between looking at the pair and having the lock lie microseconds; here they are most of a second.
    proxy.run_behind("exec strace -f -qq -o /dev/null -e trace=flock -e inject=flock:delay_enter=900000 {}");
    let pair = proxy.portal().issue_pair(1);
    let answer = std::thread::scope(|scope| {
        let answer = scope.spawn(|| add(&proxy));
        std::thread::sleep(Duration::from_millis(500));
        proxy.store_pair(&pair);
        answer.join().unwrap()
    });
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(proxy.simulator.ledger().refreshes(), 0);
    assert_eq!(proxy.stored()["refresh_token"], pair.refresh_token.as_str());
}

#[test]
fn a_full_disk_spends_no_token_and_is_not_shared() {
    let proxy = expired().on_files();
    let before = proxy.stored_bytes();
    // No file may grow beyond 16 KiB, and the program hears of it as it hears of a full disk: by a failed write.
    proxy.run_behind("trap '' XFSZ; ulimit -f 32");
    let answer = add(&proxy);
    assert_failure(&answer, 500, "storage_error");
    assert!(answer.stderr.contains("json.new"), "the log names the file: {}", answer.stderr);
    let ledger = proxy.simulator.ledger();
    assert_eq!((ledger.refreshes(), ledger.all_calls().count()), (0, 0));
    assert_eq!(proxy.stored_bytes(), before);
    assert_tidy(&proxy);
    // Another process with room is not told of it.
    proxy.run_behind("");
    assert_works(&proxy);
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
    assert_tidy(&proxy);
}

#[test]
fn a_process_that_is_killed_for_its_file_size_spends_no_token() {
    let proxy = expired().on_files();
    proxy.run_behind("ulimit -c 0; ulimit -f 32");
    let answer = add(&proxy);
    assert_failure(&answer, 503, "refresh_pending");
    assert!(!answer.text().contains("wait"), "nobody has waited: {}", answer.text());
    assert_eq!(proxy.simulator.ledger().refreshes(), 0);
    proxy.run_behind("");
    assert_works(&proxy);
    assert_tidy(&proxy);
}

#[test]
fn a_token_folder_that_cannot_be_written_spends_no_token_and_valid_tokens_still_work() {
    for lock_is_there in [false, true] {
        let proxy = Proxy::installed();
        if lock_is_there {
            proxy.sandbox.write_token_file(&format!("{}.lock", proxy.stem()), "");
        }
        let mode = |mode| {
            std::fs::set_permissions(proxy.sandbox.tokens(), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(0o500);
        assert_works(&proxy);
        proxy.portal().expire_access_tokens();
        let before = proxy.stored_bytes();
        let answer = add(&proxy);
        assert_failure(&answer, 500, "storage_error");
        assert!(answer.stderr.contains("must belong to the user"), "{}", answer.stderr);
        assert_eq!(proxy.simulator.ledger().refreshes(), 0);
        assert_eq!(proxy.stored_bytes(), before);
        mode(0o700);
        assert_works(&proxy);
    }
}

#[test]
fn a_lock_file_of_another_user_is_named_and_no_token_is_spent() {
    let proxy = expired().on_files();
    let name = format!("{}.lock", proxy.stem());
    proxy.sandbox.write_token_file(&name, "");
    let path = proxy.sandbox.tokens().join(&name);
    if is_root() {
        std::os::unix::fs::chown(&path, Some(0), Some(0)).unwrap();
    } else {
        // Only root can give a file away; to its owner such a file looks the same.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    }
    let answer = add(&proxy);
    assert_failure(&answer, 500, "storage_error");
    assert!(answer.stderr.contains(&name), "{}", answer.stderr);
    assert_eq!(proxy.simulator.ledger().refreshes(), 0);
}

#[test]
fn a_damaged_token_file_is_named_and_never_overwritten() {
    let proxy = Proxy::installed().on_files();
    let name = format!("{}.json", proxy.stem());
    for damaged in ["", "{\"access_token\":\"half", "[]", "{}", "\u{0}\u{0}\u{0}"] {
        proxy.sandbox.write_token_file(&name, damaged);
        let answer = add(&proxy);
        assert_failure(&answer, 500, "storage_error");
        assert!(answer.stderr.contains(&name), "{damaged:?}: {}", answer.stderr);
        assert_eq!(proxy.stored_bytes().unwrap(), damaged.as_bytes());
    }
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

#[test]
fn a_token_file_that_others_can_read_is_refused() {
    let proxy = Proxy::installed().on_files();
    std::fs::set_permissions(proxy.sandbox.tokens(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = proxy.sandbox.tokens().join(format!("{}.json", proxy.stem()));
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let answer = add(&proxy);
    assert_failure(&answer, 500, "storage_error");
    assert!(answer.stderr.contains("chmod 600"), "{}", answer.stderr);
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

#[test]
fn a_token_file_with_an_address_that_the_configuration_does_not_name_is_refused_and_not_contacted() {
    let proxy = Proxy::installed();
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let address = elsewhere.local_addr().unwrap();
    let endpoint = format!("https://{address}/rest/");
    for renamed_from in ["", "another.bitrix24.ru", &address.to_string()] {
        for expires_at in [unix_now() + 3600, 1] {
            proxy.change_stored(|tokens| {
                tokens["client_endpoint"] = endpoint.as_str().into();
                tokens["renamed_from"] = renamed_from.into();
                tokens["expires_at"] = expires_at.into();
            });
            let answer = add(&proxy);
            assert_failure(&answer, 500, "storage_error");
            assert!(answer.stderr.contains(&address.to_string()), "{}", answer.stderr);
        }
    }
    assert!(elsewhere.accept().is_err());
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

#[test]
fn a_pair_of_another_bitrix24_does_not_replace_ours() {
    let proxy = expired();
    let before = proxy.stored();
    proxy.portal().set_member_id("another");
    assert_failure(&add(&proxy), 502, "oauth_server_error");
    assert_eq!(proxy.stored(), before);
    assert_eq!(proxy.simulator.ledger().all_calls().count(), 0);
}

/// The OAuth server's answer to a refresh, of the simulator's own with some fields changed.
fn answers_with(proxy: &Proxy, changed: &Value) -> TokenPair {
    let pair = proxy.portal().issue_pair(1);
    let mut body = json!({
        "access_token": pair.access_token, "refresh_token": pair.refresh_token, "expires_in": 3600,
        "member_id": pair.member_id, "client_endpoint": pair.client_endpoint,
    });
    body.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
    let action = Action::Status { status: 200, content_type: "application/json".into(), body: body.to_string() };
    proxy.simulator.inject(Fault::once(Target::Token, action));
    pair
}

#[test]
fn a_new_pair_is_kept_whatever_the_types_of_what_stands_beside_it() {
    for changed in [
        json!({"expires_in": "3600"}),
        json!({"scope": null, "error": null}),
        json!({"user_id": -1, "domain": [], "server_endpoint": {}}),
        json!({"client_endpoint": 5}),
    ] {
        let proxy = expired();
        let pair = answers_with(&proxy, &changed);
        assert_works(&proxy);
        assert_eq!(proxy.stored()["refresh_token"], pair.refresh_token.as_str(), "{changed}");
    }
}

/// The one exception of the rule that only configured hosts are contacted is for the same Bitrix24.
#[test]
fn another_address_is_followed_only_where_the_oauth_server_says_that_it_is_the_same_bitrix24() {
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let address = format!("https://{}/rest/", elsewhere.local_addr().unwrap());
    for (stored, answered) in [("", ""), ("", "m"), ("m", "")] {
        let proxy = expired();
        proxy.change_stored(|tokens| tokens["member_id"] = stored.into());
        let pair = answers_with(&proxy, &json!({"client_endpoint": address, "member_id": answered}));
        assert_works(&proxy);
        let now = proxy.stored();
        assert_eq!(now["refresh_token"], pair.refresh_token.as_str(), "the tokens are kept");
        assert_eq!(now["client_endpoint"], pair.client_endpoint.as_str(), "{stored:?} {answered:?}");
    }
    assert!(elsewhere.accept().is_err());
}

#[test]
fn what_the_oauth_server_says_of_an_error_shows_no_secret() {
    let proxy = expired();
    let (token, secret) =
        (proxy.stored()["refresh_token"].as_str().unwrap().to_owned(), proxy.simulator.client_secret());
    let error_description = format!("token {token} of {secret} is expired");
    let action = Action::ErrorJson { status: 400, error: "invalid_grant".into(), error_description };
    proxy.simulator.inject(Fault::once(Target::Token, action));
    let answer = add(&proxy);
    assert_failure(&answer, 409, "reinstall_required");
    let lock = proxy.sandbox.token_file(&format!("{}.lock", proxy.stem())).expect("the lock file");
    for shown in [answer.text(), answer.stderr.clone(), String::from_utf8_lossy(&lock).into_owned()] {
        assert!(!shown.contains(&token) && !shown.contains(&secret), "{shown}");
    }
    let expected = format!("token {} of {} is expired", name_of(&token), name_of(&secret));
    assert!(answer.text().contains(&expected), "{}", answer.text());
}

#[test]
fn a_machine_that_dies_between_answer_and_disk_is_told_as_interrupted_after_one_try() {
    let proxy = expired().reconfigured("max_wait = 5", "max_wait = 1");
    let before = proxy.stored_bytes();
    proxy.simulator.inject(Fault::once(Target::Token, Action::HangAfter));
    assert_failure(&add(&proxy), 503, "refresh_pending");
    let found = refreshers(&proxy);
    assert_eq!(found.len(), 1);
    kill(found[0]);
    eventually("the refresher is gone", || refreshers(&proxy).is_empty());
    proxy.simulator.release();
    assert_eq!(proxy.stored_bytes(), before, "the last good pair is on disk, whole");
    for _ in 0..5 {
        let answer = add(&proxy);
        assert_failure(&answer, 409, "reinstall_required");
        let text = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(text.contains("interrupted"), "{text}");
        assert!(answer.json()["install_url"].is_string());
    }
    let ledger = proxy.simulator.ledger();
    assert_eq!((ledger.refreshes(), ledger.spent_presented()), (2, 1), "the old token is tried once");
    assert_eq!(proxy.stored_bytes(), before);
    assert_tidy(&proxy);
    // A new installation ends it.
    proxy.store_pair(&proxy.portal().issue_pair(1));
    assert_works(&proxy);
}

/// A proxy whose refresh hangs at the OAuth server, behind these lines of shell, and what `during` sees once its request was
/// answered and the refresher goes on.
fn while_a_refresh_goes_on(lines: &str, during: impl FnOnce(&Proxy, u32)) {
    let proxy = expired().reconfigured("max_wait = 5", "max_wait = 1");
    proxy.run_behind(&lines.replace("HERE", &proxy.sandbox.path().display().to_string()));
    proxy.simulator.inject(Fault::once(Target::Token, Action::HangAfter));
    std::thread::scope(|scope| {
        // What the lines leave open, a resident process would keep.
        let answer = scope.spawn(|| proxy.request(r#"{"method":"crm.deal.add"}"#).as_cgi().run());
        eventually("the refresher runs", || !refreshers(&proxy).is_empty());
        assert_failure(&answer.join().unwrap(), 503, "refresh_pending");
    });
    let found = refreshers(&proxy);
    assert_eq!(found.len(), 1, "it outlives the request");
    during(&proxy, found[0]);
    proxy.simulator.release();
    assert_tidy(&proxy);
    proxy.run_behind("");
    assert_works(&proxy);
}

#[test]
fn what_a_web_server_leaves_open_in_a_program_is_closed_in_the_refresher_that_outlives_the_request() {
    // Both ends of pipes: at one of them the reader waits for the end.
    let lines = "mkfifo HERE/pipe HERE/other
        sleep 60 <>HERE/pipe 7<>HERE/other & holder=$!
        exec 3>HERE/pipe 5<HERE/other 7>HERE/other 9>HERE/pipe
        kill $holder";
    while_a_refresh_goes_on(lines, |proxy, refresher| {
        let open: Vec<_> = std::fs::read_dir(format!("/proc/{refresher}/fd")).unwrap().collect();
        let names: Vec<_> =
            open.into_iter().filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok()).collect();
        let is_leaked = |name: &std::path::PathBuf| name.ends_with("pipe") || name.ends_with("other");
        assert!(!names.iter().any(is_leaked) && names.len() >= 3, "{names:?}");
        // As who reads it sees it: with nobody left who could write, it has ended.
        for name in ["pipe", "other"] {
            let mut command = Command::new("timeout");
            let path = proxy.sandbox.path().join(name);
            let ended =
                command.args(["5", "dd", "iflag=nonblock", "status=none"]).arg(format!("if={}", path.display()));
            assert!(ended.status().unwrap().success(), "{name}");
        }
    });
}

#[test]
fn neither_a_request_nor_its_refresher_leaves_a_core_dump() {
    while_a_refresh_goes_on("ulimit -c unlimited 2>/dev/null", |_, refresher| {
        let limits = std::fs::read_to_string(format!("/proc/{refresher}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
        // Such a process's files in /proc are root's (proc(5)), as whoever it runs.
        assert_eq!(std::fs::metadata(format!("/proc/{refresher}/environ")).unwrap().uid(), 0);
    });
    let proxy = Proxy::installed();
    proxy.run_behind("ulimit -c unlimited 2>/dev/null");
    let running = proxy.bare_request("x").content_length(Some(2)).bearer(TOKEN).as_cgi().spawn();
    let pid = running.pid();
    let program = proxy.sandbox.executable().with_extension("real");
    eventually("it runs", || std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program));
    eventually("it has no core dumps", || {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let none = limits.lines().any(|line| line.starts_with("Max core file size        0                    0"));
        none && std::fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid() == 0
    });
    running.signal("ABRT");
    let ended = running.wait_for_end();
    assert!(!ended.exit.success() && !format!("{}", ended.exit).contains("core dumped"), "{}", ended.exit);
}

#[test]
fn a_refresher_killed_before_the_oauth_server_executed_costs_nothing() {
    let proxy = expired().reconfigured("max_wait = 5", "max_wait = 1");
    // Asked but not executed, and not even reached.
    for (target, action) in [(Target::Token, Action::Hang), (Target::OauthConnection, Action::Hang)] {
        proxy.change_stored(|tokens| (tokens["expires_at"], tokens["refreshed_at"]) = (json!(1), json!(0)));
        proxy.simulator.clear_ledger();
        proxy.simulator.inject(Fault::once(target, action));
        assert_failure(&add(&proxy), 503, "refresh_pending");
        for pid in refreshers(&proxy) {
            kill(pid);
        }
        eventually("the refresher is gone", || refreshers(&proxy).is_empty());
        assert_works(&proxy);
        let ledger = proxy.simulator.ledger();
        let executed = |kind: &Kind| matches!(kind, Kind::Token { outcome, .. } if !outcome.is_empty());
        assert_eq!(ledger.entries.iter().filter(|entry| executed(&entry.kind)).count(), 1);
        assert_tidy(&proxy);
    }
}

#[test]
fn waiters_of_a_refresher_that_is_lost_refresh_once_more_and_go_on() {
    let proxy = expired().reconfigured("max_wait = 5", "max_wait = 20");
    proxy.simulator.inject(Fault::once(Target::Token, Action::Hang));
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..6).map(|_| scope.spawn(|| add(&proxy).status)).collect();
        assert!(proxy.simulator.wait_hanging(1, LONG));
        eventually("the refresher is there", || !refreshers(&proxy).is_empty());
        kill(refreshers(&proxy)[0]);
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    let worked = statuses.iter().filter(|status| **status == 200).count();
    assert!(worked >= 5, "only the one that had started it may be told: {statuses:?}");
    assert_eq!(proxy.simulator.ledger().refreshes(), 2);
    assert_tidy(&proxy);
}
