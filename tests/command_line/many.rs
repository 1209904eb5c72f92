//! `call --all` and `call --calls`: as long as it takes.

use crate::fixture::*;
use crate::{ended, run};
use serde_json::{json, Value};
use simulator::{Action, Fault, Target};

fn calls_file(proxy: &Proxy, name: &str, text: &str) -> String {
    proxy.sandbox.write(name, 0o644, text.as_bytes());
    proxy.sandbox.path().join(name).to_str().unwrap().to_owned()
}

/// So many deals to add, as JSON lines.
fn deals(count: usize) -> String {
    let line =
        |i: usize| json!({"method": "crm.deal.add", "params": {"fields": {"TITLE": format!("№ {i}")}}}).to_string();
    (0..count).map(line).collect::<Vec<_>>().join("\n")
}

fn titles(proxy: &Proxy) -> Vec<String> {
    let ledger = proxy.simulator.ledger();
    let commands = ledger.of_method("batch").flat_map(|entry| entry.call().unwrap().commands.clone());
    commands.map(|command| command.params["fields"]["TITLE"].as_str().unwrap_or("").to_owned()).collect()
}

#[test]
fn all_prints_a_whole_list_as_one_json_array_following_cursors() {
    // Of half the size only some of the rows fit one step.
    let proxy = Proxy::installed().reconfigured("max_wait = 5", "max_wait = 5\nmax_response = \"256 KiB\"");
    proxy.portal().seed("crm.deal", 3210);
    let ended = run(&proxy, &["call", "acme", "crm.deal.list", "--all"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let rows: Vec<Value> = serde_json::from_str(&ended.stdout).expect("one JSON array");
    let ids: Vec<u64> = rows.iter().map(|row| row["ID"].as_str().unwrap().parse().unwrap()).collect();
    assert_eq!(ids.len(), 3210);
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "each once, in order");
    let empty = run(&proxy, &["call", "acme", "crm.lead.list", "--all"]);
    assert_eq!((empty.code, empty.stdout.trim()), (0, "[]"));
}

#[test]
fn nothing_is_printed_of_a_list_that_breaks_off() {
    let proxy = Proxy::installed();
    proxy.portal().seed("crm.deal", 1000);
    let refused = Action::ErrorJson { status: 403, error: "ACCESS_DENIED".into(), error_description: "no".into() };
    for read in [1, 0] {
        proxy.simulator.clear_faults();
        proxy.simulator.inject(Fault::forever(Target::Method("batch".into()), refused.clone()));
        proxy.simulator.inject(Fault::forever(Target::Method("crm.deal.list".into()), refused.clone()).after(read));
        let ended = run(&proxy, &["call", "acme", "crm.deal.list", "--all"]);
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        assert_eq!(ended.stdout, "", "nothing of it is printed");
        assert!(ended.stderr.contains("ACCESS_DENIED"), "{}", ended.stderr);
    }
}

#[test]
fn a_list_is_kept_where_nobody_else_can_read_it_and_nothing_of_it_stays() {
    let proxy = Proxy::installed();
    proxy.portal().seed("crm.deal", 120);
    proxy.sandbox.make_folder("temporary", 0o700);
    let folder = proxy.sandbox.path().join("temporary");
    let list = || {
        let mut command = proxy.sandbox.command_line(&["call", "acme", "crm.deal.list", "--all"]);
        command.env("TMPDIR", &folder);
        ended(&proxy, command, "")
    };
    let whole = list();
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    assert_eq!(serde_json::from_str::<Vec<Value>>(&whole.stdout).unwrap().len(), 120);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    std::fs::remove_dir(&folder).unwrap();
    let nowhere = list();
    assert!(nowhere.code == 1 && nowhere.stderr.contains("TMPDIR"), "{}", nowhere.all());
    assert_eq!(nowhere.stdout, "");
}

#[test]
fn calls_of_a_file_print_one_result_a_line_in_their_order() {
    let proxy = Proxy::installed();
    for text in [deals(120), format!("[{}]", deals(120).replace('\n', ","))] {
        proxy.simulator.clear_ledger();
        let file = calls_file(&proxy, "calls", &text);
        let ended = run(&proxy, &["call", "acme", "--calls", &file]);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let results: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(results.len(), 120);
        assert!(results.windows(2).all(|pair| pair[0]["result"].as_u64() < pair[1]["result"].as_u64()));
        assert_eq!(titles(&proxy), (0..120).map(|i| format!("№ {i}")).collect::<Vec<_>>());
    }
}

#[test]
fn a_run_with_a_name_goes_on_where_it_stopped_and_executes_nothing_twice() {
    let proxy = Proxy::installed();
    let file = calls_file(&proxy, "calls", &deals(700));
    let arguments = ["call", "acme", "--calls", &file, "--key", "run 1"];
    // The second part, from the 501st call on, finds no portal.
    proxy.simulator.inject(Fault::forever(Target::Connection, Action::CloseBefore).after(1 + 500 / 50 - 1));
    let broken = run(&proxy, &arguments);
    assert_eq!(broken.code, 1, "{}", broken.stderr);
    proxy.simulator.clear_faults();
    let whole = run(&proxy, &arguments);
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    assert_eq!(whole.stdout.lines().count(), 700);
    assert_eq!(titles(&proxy), (0..700).map(|i| format!("№ {i}")).collect::<Vec<_>>(), "each once, in order");
    let again = run(&proxy, &arguments);
    assert_eq!((again.code, &again.stdout), (0, &whole.stdout));
    assert_eq!(proxy.simulator.ledger().executed("crm.deal.add"), 700);
    let other = calls_file(&proxy, "other", &deals(3));
    let refused = run(&proxy, &["call", "acme", "--calls", &other, "--key", "run 1"]);
    assert!(refused.code == 1 && refused.stderr.contains("another request"), "{}", refused.stderr);
}

#[test]
fn calls_may_come_from_standard_input() {
    let proxy = Proxy::installed();
    let ended = ended(&proxy, proxy.sandbox.command_line(&["call", "acme", "--calls", "-"]), &deals(3));
    assert_eq!((ended.code, ended.stdout.lines().count()), (0, 3), "{}", ended.all());
}

#[test]
fn what_cannot_be_written_is_exit_status_1_and_no_more_is_executed() {
    let proxy = Proxy::installed();
    proxy.portal().seed("crm.lead", 3);
    let file = calls_file(&proxy, "calls", &deals(620));
    let program = proxy.sandbox.executable().display().to_string();
    let to_a_full_disk = |arguments: &str| {
        let line = format!("exec {program} {arguments} >/dev/full");
        let mut command = proxy.sandbox.command("/bin/sh");
        command.args(["-c", &line]);
        ended(&proxy, command, "")
    };
    for arguments in [
        &format!("call acme --calls {file}"),
        "call acme crm.lead.list --all",
        "call acme profile",
        "status",
        "token --json",
    ] {
        let ended = to_a_full_disk(arguments);
        assert!(ended.code == 1 && ended.stderr.contains("cannot be written"), "{arguments}: {}", ended.all());
    }
    assert!(titles(&proxy).len() <= 500, "one part at most: {}", titles(&proxy).len());
}

#[test]
fn a_name_of_a_run_has_up_to_255_characters() {
    let proxy = Proxy::installed();
    let file = calls_file(&proxy, "calls", &deals(1));
    let with_key = |length: usize| run(&proxy, &["call", "acme", "--calls", &file, "--key", &"k".repeat(length)]);
    assert_eq!(with_key(255).code, 0);
    let refused = with_key(256);
    assert!(refused.code == 2 && refused.stderr.contains("255"), "{}", refused.stderr);
}

#[test]
fn calls_that_fail_have_their_errors_in_their_lines_and_exit_status_1() {
    let proxy = Proxy::installed();
    let file = calls_file(&proxy, "calls", "{\"method\":\"profile\"}\n{\"method\":\"no.such.method\"}\n");
    let ended = run(&proxy, &["call", "acme", "--calls", &file]);
    assert_eq!(ended.code, 1, "{}", ended.stdout);
    let results: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&results[0]["result"]["ID"], &results[1]["error"]), (&json!("1"), &json!("ERROR_METHOD_NOT_FOUND")));
    assert!(ended.stderr.contains("1 of 2"), "{}", ended.stderr);
    let wrong = calls_file(&proxy, "wrong", "{\"method\":\"profile\"}\n{\"methd\":\"profile\"}\n");
    let refused = run(&proxy, &["call", "acme", "--calls", &wrong]);
    assert!(refused.code == 1 && refused.stderr.contains("line 2"), "{}", refused.stderr);
}

#[test]
fn what_is_wrong_in_a_file_of_calls_is_named_by_its_line_and_nothing_is_executed() {
    let proxy = Proxy::installed();
    let good = deals(1);
    for (text, place, word) in [
        (format!("{good}\n\n{{\"methd\":\"profile\"}}\n{good}\n"), "line 3", "methd"),
        (format!("{good}\n{{\"method\":\"profile\"\n"), "line 2", "no JSON"),
        (format!("{good}\n{{\"method\":\"profile\",\"params\":5}}\n"), "line 2", "params"),
        (format!("[{good},\n{good},\n{{\"method\":\"batch\"}}]"), "line 3, call 3", "batch"),
        (format!("[\n{good}\n{good}\n]"), "line 3", ""),
        (format!("\u{feff}{good}\n{{\n\"method\":\"profile\"\n}}"), "line 2", "one call a line"),
    ] {
        let file = calls_file(&proxy, "calls", &text);
        let refused = run(&proxy, &["call", "acme", "--calls", &file]);
        assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{text}");
        assert!(refused.stderr.contains(&format!("{file}, ")), "{}", refused.stderr);
        assert!(refused.stderr.contains(place) && refused.stderr.contains(word), "{text}: {}", refused.stderr);
    }
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

/// A portal with the smaller limit of a method's time, in short windows, and no other limit.
fn with_walls(cost: f64) -> Proxy {
    let proxy = Proxy::installed()
        .reconfigured("aliases = [\"acme\"]", "aliases = [\"acme\"]\nrequests_per_second = 1000\nburst = 1000");
    proxy.portal().set_operating_limit(420.0, 3.0, cost);
    proxy
}

#[test]
fn a_load_of_5000_calls_that_meets_the_wall_three_times_goes_on_by_itself_and_says_how_long_it_waits() {
    for key in [None, Some("load")] {
        let proxy = with_walls(0.26);
        let file = calls_file(&proxy, "calls", &deals(5000));
        let mut arguments = vec!["call", "acme", "--calls", &file];
        arguments.extend(key.iter().flat_map(|key| ["--key", key]));
        let ended = run(&proxy, &arguments);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let results: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(results.len() == 5000 && results.iter().enumerate().all(|(i, item)| item["result"] == i + 1));
        assert_eq!(titles(&proxy), (0..5000).map(|i| format!("№ {i}")).collect::<Vec<_>>(), "each once, in order");
        let words = "a method has used up its time at Bitrix24: going on in ";
        let waits: Vec<&str> = ended.stderr.lines().filter(|line| line.contains(words)).collect();
        assert!(waits.len() >= 3, "{}", ended.stderr);
        assert!(waits.iter().all(|line| line.ends_with(" s")), "{waits:?}");
    }
}

#[test]
fn calls_that_are_pending_get_their_results_in_their_lines() {
    for key in [None, Some("load")] {
        // Forty calls of a method in a window: the second batch finds one used up and the other not.
        let proxy = with_walls(10.6);
        let add = |kind: &str, i: usize| {
            json!({"method": format!("crm.{kind}.add"), "params": {"fields": {"TITLE": format!("№ {i}")}}}).to_string()
        };
        let kind = |i: usize| if i < 30 || i.is_multiple_of(2) { "lead" } else { "deal" };
        let calls: Vec<String> = (0..100).map(|i| add(kind(i), i)).collect();
        let file = calls_file(&proxy, "calls", &calls.join("\n"));
        let mut arguments = vec!["call", "acme", "--calls", &file];
        arguments.extend(key.iter().flat_map(|key| ["--key", key]));
        let ended = run(&proxy, &arguments);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let results: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(results.len(), 100, "{}", ended.stdout);
        let ids = |of: &str| -> Vec<u64> {
            (0..100).filter(|i| kind(*i) == of).map(|i| results[i]["result"].as_u64().expect("an ID")).collect()
        };
        assert_eq!((ids("lead"), ids("deal")), ((1..=65).collect(), (1..=35).collect()), "{key:?}");
        let mut made = titles(&proxy);
        assert_ne!(made, (0..100).map(|i| format!("№ {i}")).collect::<Vec<_>>(), "some were pending");
        made.sort();
        made.dedup();
        assert_eq!(made.len(), 100);
    }
}

#[test]
fn a_portal_that_is_blocked_by_hand_ends_the_run_with_the_reason() {
    for key in [None, Some("load")] {
        let proxy = Proxy::installed();
        let file = calls_file(&proxy, "calls", &deals(120));
        let mut arguments = vec!["call", "acme", "--calls", &file];
        arguments.extend(key.iter().flat_map(|key| ["--key", key]));
        let overload =
            Action::ErrorJson { status: 503, error: "OVERLOAD_LIMIT".into(), error_description: "blocked".into() };
        proxy.simulator.inject(Fault::once(Target::Method("batch".into()), overload).after(1));
        let blocked = run(&proxy, &arguments);
        assert_eq!((blocked.code, blocked.stdout.lines().count()), (1, 50), "{}", blocked.stderr);
        assert!(blocked.stderr.contains("OVERLOAD_LIMIT") && blocked.stderr.contains("support"), "{}", blocked.stderr);
        // Known to be blocked, it is not asked, and the reason is the same.
        let known = run(&proxy, &arguments);
        assert!(known.code == 1 && known.stderr.contains("OVERLOAD_LIMIT"), "{}", known.stderr);
        assert_eq!(titles(&proxy).len(), 50);
    }
}
