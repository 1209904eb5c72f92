//! The other commands, and how they are called.

use crate::fixture::*;
use crate::{ended, run};
use serde_json::json;
use simulator::{Action, Fault, Target};
use support::cgi::Cgi;

#[test]
fn wrong_usage_is_exit_status_2_and_says_what_to_type() {
    let proxy = Proxy::not_installed();
    for (arguments, word) in [
        ([].as_slice(), "First steps"),
        (&["chek"], "b24proxy check"),
        (&["check", "--ulr", "x"], "--url"),
        (&["call", "acme"], "PORTAL METHOD"),
        (&["call", "acme", "crm deal"], "crm.deal.list"),
        (&["call", "acme", "profile", "{ID:1}"], "single quotes"),
        (&["refresh", "--older-than", "long"], "number of days"),
        (&["help", "chek"], "b24proxy check"),
        (&["check", "now"], "\"now\" is one word too many"),
        (&["check", "--json=1"], "--json"),
        (&["refresh", "--older-than"], "DAYS"),
        (&["refresh", "--older-than", "181"], "0 to 180"),
        (&["import"], "FILE"),
        (&["move"], "--to"),
        (&["call", "acme", "profile", "--key", "k"], "--key"),
        (&["call", "acme", "--key", "k"], "--calls"),
    ] {
        let ended = run(&proxy, arguments);
        assert_eq!(ended.code, 2, "{arguments:?} {}", ended.all());
        assert!(ended.all().contains(word), "{arguments:?} {}", ended.all());
    }
}

#[test]
fn what_a_call_cannot_do_at_once_is_wrong_usage() {
    let proxy = Proxy::installed();
    for arguments in [
        &["call", "acme", "crm.deal.list", "--all", "--v3"][..],
        &["call", "acme", "crm.deal.list", "--key", "k"],
        &["call", "acme", "crm.deal.add", "--calls", "file"],
        &["call", "acme", "--calls", "file", "--all"],
        &["call", "acme", "--calls", "file", "--v3"],
    ] {
        assert_eq!(run(&proxy, arguments).code, 2, "{arguments:?}");
    }
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

#[test]
fn only_what_is_near_is_asked_for() {
    let proxy = Proxy::installed();
    for (arguments, meant) in [
        (["refersh"].as_slice(), Some("b24proxy refresh")),
        (&["frobnicate"], None),
        (&["refresh", "--oldr-than", "1"], Some("--older-than")),
        (&["refresh", "--frobnicate"], None),
        (&["install-url", "acmee"], Some("acme")),
        (&["install-url", "somebody.bitrix24.com"], None),
    ] {
        let ended = run(&proxy, arguments);
        assert_ne!(ended.code, 0, "{arguments:?}");
        let advice = ended.stderr.split_once("did you mean ").map(|(_, advice)| advice);
        match meant {
            Some(meant) => assert!(advice.is_some_and(|advice| advice.contains(meant)), "{}", ended.stderr),
            None => assert_eq!(advice, None),
        }
    }
    let named = run(&proxy, &["install-url", "somebody.bitrix24.com"]).stderr;
    assert!(named.contains(&proxy.portal().name()), "those that are configured: {named}");
}

#[test]
fn help_teaches_every_command() {
    let proxy = Proxy::not_installed();
    let overview = run(&proxy, &["help"]);
    assert_eq!(overview.code, 0);
    for command in [
        "check",
        "status",
        "call",
        "install-url",
        "refresh",
        "token",
        "import",
        "events",
        "move",
        "completions",
        "version",
    ] {
        assert!(overview.stdout.contains(command), "{}", overview.stdout);
        let page = run(&proxy, &["help", command]);
        assert!(page.code == 0 && page.stdout.starts_with(&format!("b24proxy {command}")), "{}", page.stdout);
        assert_eq!(run(&proxy, &[command, "--help"]).stdout, page.stdout);
    }
}

#[test]
fn a_new_token_is_letters_and_digits_and_works_in_each_printed_form() {
    let proxy = Proxy::not_installed();
    let (one, other) = (run(&proxy, &["token"]).stdout, run(&proxy, &["token"]).stdout);
    assert_ne!(one, other);
    let token = one.lines().next().unwrap().to_owned();
    assert!(token.len() == 32 && token.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{token}");
    let digest = one.lines().find(|line| line.starts_with("token_sha256")).unwrap().to_owned();
    let auth = format!("auth_token = \"{token}\"");
    assert!(one.contains(&auth));
    let forms = [auth, format!("[[security.clients]]\nname = \"1c-trade\"\n{digest}")];
    let mut proxy = proxy;
    let mut line = format!("auth_token = \"{TOKEN}\"");
    for form in forms {
        proxy = proxy.reconfigured(&line, &form);
        let answer = Cgi::new(&proxy.sandbox).path("/status").bearer(&token).run();
        assert_eq!(answer.status, 200, "{form}: {}", answer.text());
        line = form;
    }
    let json = run(&proxy, &["token", "--json"]).json();
    assert!(json["token"].is_string() && json["token_sha256"].is_string());
}

#[test]
fn the_version_is_printed() {
    let proxy = Proxy::not_installed();
    assert!(run(&proxy, &["version"]).stdout.starts_with("b24proxy "));
    assert_eq!(run(&proxy, &["--version"]).stdout, run(&proxy, &["version"]).stdout);
    assert_eq!(run(&proxy, &["version", "--json"]).json()["name"], "b24proxy");
}

#[test]
fn the_installation_address_is_printed_for_a_name_or_alias() {
    let proxy = Proxy::not_installed();
    let expected = format!("https://www.acme.test/cgi-bin/b24proxy/install?portal={}\n", proxy.portal().name());
    assert_eq!(run(&proxy, &["install-url", "acme"]).stdout, expected);
    let json = run(&proxy, &["install-url", "acme", "--json"]).json();
    assert_eq!(json["install_url"].as_str(), Some(expected.trim()));
    let unknown = run(&proxy, &["install-url", "acme.bitrix24.com"]);
    assert!(unknown.code == 1 && unknown.stderr.contains("[portals.\"acme.bitrix24.com\"]"), "{}", unknown.stderr);
}

#[test]
fn status_is_what_get_status_answers_and_fails_where_a_portal_does_not_work() {
    let proxy = Proxy::installed();
    let ended = run(&proxy, &["status", "--json"]);
    assert_eq!(ended.code, 0, "{}", ended.all());
    let answer = Cgi::new(&proxy.sandbox).path("/status").bearer(TOKEN).run().json();
    let mut ours = ended.json();
    assert_eq!(ours["data"]["portals"][0]["works"], true);
    // A second may have passed.
    for part in ["/data/portals/0/expires_in", "/data/portals/0/limits/level"] {
        *ours.pointer_mut(part).unwrap() = answer.pointer(part).unwrap().clone();
    }
    // Only here is it tried.
    let portal = ours["data"]["portals"][0].as_object_mut().unwrap();
    assert!(portal.remove("why").is_some() && portal.remove("cure").is_some());
    assert_eq!(ours, answer);
    let table = run(&proxy, &["status"]).stdout;
    assert!(table.starts_with(&proxy.portal().name()) && table.contains("installed"), "{table}");
    std::fs::remove_file(proxy.sandbox.tokens().join(format!("{}.json", proxy.stem()))).unwrap();
    let ended = run(&proxy, &["status"]);
    assert!(ended.code == 1 && ended.stdout.contains("not installed"), "{}", ended.all());
}

#[test]
fn status_says_why_a_token_file_cannot_be_used() {
    let proxy = Proxy::installed();
    proxy.sandbox.write_token_file(&format!("{}.json", proxy.stem()), "{\"access_token\": ");
    let ended = run(&proxy, &["status"]);
    let text = ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(ended.code == 1 && text.contains("is damaged (not JSON from line 1"), "{}", ended.all());
    assert!(text.contains("restore it from a copy"), "{text}");
}

#[test]
fn a_configuration_that_cannot_be_used_is_json_where_json_is_asked_for() {
    let proxy = Proxy::installed().reconfigured("[log]", "[logg]");
    for arguments in [["status"].as_slice(), &["refresh"], &["install-url", "acme"], &["call", "acme", "profile"]] {
        let with_json: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let ended = run(&proxy, &with_json);
        assert!(ended.code == 1 && ended.stderr.contains("logg"), "{arguments:?} {}", ended.all());
        assert!(ended.json()["error"].as_str().unwrap().contains("logg"), "{arguments:?} {}", ended.all());
        assert_eq!(run(&proxy, arguments).stdout, "");
    }
}

#[test]
fn a_call_prints_bitrix24s_answer_byte_for_byte_or_the_envelope() {
    let proxy = Proxy::installed();
    let params = r#"{"b":1.50,"a":null}"#;
    let ended = run(&proxy, &["call", "acme", "sim.echo", params]);
    assert_eq!(ended.code, 0, "{}", ended.all());
    let sent = proxy.simulator.ledger().last_call().unwrap().answer.clone();
    assert_eq!(ended.stdout.trim_end().as_bytes(), sent);
    let envelope = run(&proxy, &["call", "acme", "profile", "--json"]).json();
    assert_eq!((&envelope["success"], &envelope["data"]["result"]["ID"]), (&json!(true), &json!("1")), "{envelope}");
    let version_3 = run(&proxy, &["call", "acme", "tasks.task.get", "{\"id\":1}", "--v3", "--json"]);
    assert_eq!(proxy.simulator.ledger().last_call().unwrap().call().unwrap().version, 3, "{}", version_3.all());
}

#[test]
fn parameters_of_a_call_may_come_from_standard_input() {
    let proxy = Proxy::installed();
    let command = proxy.sandbox.command_line(&["call", "acme", "sim.echo", "-"]);
    let ended = ended(&proxy, command, "\u{feff}{\"title\":\"Стол\"}");
    assert!(ended.code == 0 && ended.stdout.contains("title"), "{}", ended.all());
}

#[test]
fn cyrillic_is_readable_with_json_and_a_pipe_gets_the_answer_as_it_came() {
    let proxy = Proxy::installed();
    let params = r#"{"title":"Стол №1"}"#;
    let escaped = r"\u0421\u0442\u043e\u043b \u21161";
    let plain = run(&proxy, &["call", "acme", "sim.echo", params]).stdout;
    assert!(plain.contains(escaped), "{plain}");
    let json = run(&proxy, &["call", "acme", "sim.echo", params, "--json"]);
    assert!(json.stdout.contains("Стол №1") && !json.stdout.contains(r"\u0"), "{}", json.stdout);
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(json.json()["data"]["result"], value(&plain)["result"]);
    let calls = proxy.sandbox.path().join("calls");
    proxy.sandbox.write("calls", 0o644, r#"{"method":"sim.echo","params":{"title":"Стол №1"}}"#.as_bytes());
    let lines = run(&proxy, &["call", "acme", "--calls", calls.to_str().unwrap(), "--json"]).stdout;
    assert!(lines.contains("Стол №1"), "{lines}");
    let (status, seen) = on_a_terminal(&proxy, &format!("call acme sim.echo '{params}'"), &[]);
    assert!(status == 0 && seen.contains("Стол №1") && !seen.contains(r"\u0"), "{seen}");
}

/// What a person sees of a command, and its exit status.
fn on_a_terminal(proxy: &Proxy, words: &str, variables: &[(&str, &str)]) -> (i32, String) {
    let line = format!("{} {words}", proxy.sandbox.executable().display());
    let mut command = proxy.sandbox.command("/usr/bin/script");
    command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").envs(variables.iter().copied());
    let ended = ended(proxy, command, "");
    (ended.code, ended.stdout)
}

#[test]
fn on_a_terminal_words_that_tell_how_it_is_are_coloured_unless_no_color_is_set() {
    let proxy = Proxy::installed();
    let name = proxy.portal().name();
    for (words, coloured) in [
        ("refresh", format!("\u{1b}[32m{name}:\u{1b}[0m not needed")),
        ("status", format!("\u{1b}[32m{name}\u{1b}[0m")),
        ("check", "\u{1b}[32mok\u{1b}[0m    configuration".to_owned()),
        ("chek", "\u{1b}[31mb24proxy:\u{1b}[0m there is no command".to_owned()),
    ] {
        let (status, seen) = on_a_terminal(&proxy, words, &[]);
        assert!(seen.contains(&coloured), "{words}: {status} {seen:?}");
        for without in [[("NO_COLOR", "1")], [("TERM", "dumb")]] {
            let (_, plain) = on_a_terminal(&proxy, words, &without);
            assert!(!plain.contains('\u{1b}') && !plain.is_empty(), "{words}: {plain:?}");
        }
        let (_, empty) = on_a_terminal(&proxy, words, &[("NO_COLOR", "")]);
        assert!(empty.contains('\u{1b}'), "{words}: {empty:?}");
        let words: Vec<&str> = words.split(' ').collect();
        let mut piped = proxy.sandbox.command_line(&words);
        piped.env("TERM", "xterm");
        assert!(!ended(&proxy, piped, "").all().contains('\u{1b}'), "{words:?}");
    }
    let (status, _) = on_a_terminal(&proxy, "chek", &[]);
    assert_eq!(status, 2);
}

#[test]
fn bash_completes_commands_and_options() {
    let proxy = Proxy::not_installed();
    let script = run(&proxy, &["completions", "bash"]);
    assert_eq!(script.code, 0, "{}", script.all());
    proxy.sandbox.write("completions", 0o644, script.stdout.as_bytes());
    let path = proxy.sandbox.path().join("completions");
    for (typed, expected) in [
        ("ins", "install-url"),
        ("refresh --ol", "--older-than"),
        ("call --ca", "--calls"),
        ("check --ur", "--url"),
        ("check --us", "--user"),
        ("completions f", "fish"),
    ] {
        let count = typed.split(' ').count();
        let last = typed.split(' ').next_back().unwrap();
        let line = format!(
            "source {} && COMP_WORDS=(b24proxy {typed}) COMP_CWORD={count} && _b24proxy b24proxy {last} x && \
             echo \"${{COMPREPLY[*]}}\"",
            path.display()
        );
        let mut command = proxy.sandbox.command("/bin/bash");
        command.args(["-c", &line]);
        let ended = ended(&proxy, command, "");
        assert_eq!((ended.code, ended.stdout.trim()), (0, expected), "{typed}: {}", ended.all());
    }
}

#[test]
fn each_shell_gets_a_script_of_its_own_with_every_command() {
    let proxy = Proxy::not_installed();
    for (shell, mark) in
        [("bash", "complete -F _b24proxy"), ("zsh", "#compdef b24proxy"), ("fish", "complete -c b24proxy")]
    {
        let script = run(&proxy, &["completions", shell]).stdout;
        for word in [mark, "check", "install-url", "move", "older-than"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        assert!(!script.contains("refresher") && !script.contains("worker "), "{shell}: hidden commands");
    }
    let unknown = run(&proxy, &["completions", "tcsh"]);
    assert!(unknown.code == 2 && unknown.stderr.contains("bash, zsh, fish"), "{}", unknown.stderr);
}

#[test]
fn a_failed_call_is_exit_status_1_with_its_reason() {
    let proxy = Proxy::installed();
    let error = run(&proxy, &["call", "acme", "no.such.method"]);
    assert!(error.code == 1 && error.stderr.contains("ERROR_METHOD_NOT_FOUND"), "{}", error.all());
    let json = run(&proxy, &["call", "acme", "no.such.method", "--json"]);
    assert_eq!((json.code, &json.json()["error_code"]), (1, &json!("bitrix24_error")));
    std::fs::remove_file(proxy.sandbox.tokens().join(format!("{}.json", proxy.stem()))).unwrap();
    let absent = run(&proxy, &["call", "acme", "profile"]);
    assert!(absent.code == 1 && absent.stderr.contains("/install?portal="), "{}", absent.all());
}

#[test]
fn refresh_renews_only_what_is_older_than_it_says() {
    let proxy = Proxy::installed();
    let ended = run(&proxy, &["refresh"]);
    assert!(ended.code == 0 && ended.stdout.contains("not needed"), "{}", ended.all());
    assert_eq!(proxy.simulator.ledger().refreshes(), 0);
    proxy.change_stored(|tokens| tokens["installed_at"] = json!(unix_now() - 31 * 86_400));
    let ended = run(&proxy, &["refresh", "--json"]);
    assert_eq!((ended.code, &ended.json()[0]["result"]), (0, &json!("refreshed")), "{}", ended.all());
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
    assert_eq!(
        run(&proxy, &["refresh", "--older-than", "0", "--json"]).json()[0]["result"],
        "fresh",
        "within five minutes"
    );
    assert_eq!(proxy.call("profile", json!({})).status, 200);
}

#[test]
fn refresh_by_force_renews_all_within_five_minutes_too_but_nothing_that_was_just_refused() {
    let proxy = Proxy::installed();
    for refreshes in 1..=2 {
        let ended = run(&proxy, &["refresh", "--force", "--json"]);
        assert_eq!((ended.code, &ended.json()[0]["result"]), (0, &json!("refreshed")), "{}", ended.all());
        assert_eq!(proxy.simulator.ledger().refreshes(), refreshes);
    }
    let unchanged = run(&proxy, &["refresh", "--force", "--older-than", "1"]);
    assert!(unchanged.code == 0 && unchanged.stdout.contains("not needed"), "DAYS selects: {}", unchanged.all());
    assert_eq!(proxy.simulator.ledger().refreshes(), 2);
    assert_eq!(proxy.call("profile", json!({})).status, 200);
    // What the OAuth server refuses is not asked for again at once.
    proxy.portal().revoke_refresh_tokens();
    for _ in 0..3 {
        assert_eq!(run(&proxy, &["refresh", "--force"]).code, 1);
    }
    assert_eq!(proxy.simulator.ledger().refreshes(), 3);
}

#[test]
fn a_configuration_named_from_the_present_folder_is_found_by_the_refresher_too() {
    let proxy = Proxy::installed();
    let mut command = proxy.sandbox.command_line(&["refresh", "--older-than", "0"]);
    command.current_dir(proxy.sandbox.path().join("b24proxy")).env("B24PROXY_CONFIG", "proxy.toml");
    let ended = ended(&proxy, command, "");
    assert!(ended.code == 0 && ended.stdout.contains("refreshed"), "{}", ended.all());
}

#[test]
fn refreshes_at_once_by_cron_and_by_calls_are_one() {
    let proxy = Proxy::installed();
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(run(&proxy, &["refresh", "--older-than", "0"]).code, 0));
            scope.spawn(|| assert_eq!(proxy.call("profile", json!({})).status, 200));
        }
    });
    assert_eq!(proxy.simulator.ledger().refreshes(), 1);
}

#[test]
fn a_refresh_that_fails_is_exit_status_1_with_the_reason() {
    let proxy = Proxy::installed();
    proxy.simulator.inject(Fault::once(Target::Token, Action::Html500));
    let ended = run(&proxy, &["refresh", "--older-than", "0"]);
    assert!(ended.code == 1 && ended.stdout.contains("FAILED"), "{}", ended.all());
    proxy.portal().revoke_refresh_tokens();
    std::fs::remove_file(proxy.sandbox.tokens().join(format!("{}.lock", proxy.stem()))).unwrap();
    let ended = run(&proxy, &["refresh", "--older-than", "0", "--json"]);
    assert_eq!((ended.code, &ended.json()[0]["result"]), (1, &json!("failed")), "{}", ended.all());
}

#[test]
fn events_are_shown_without_being_consumed_and_followed_until_it_is_ended() {
    let proxy = Proxy::installed();
    proxy.change_stored(|tokens| tokens["application_token"] = proxy.portal().application_token().into());
    let post = |id: &str| {
        let form = proxy
            .portal()
            .report("ONCRMDEALADD", &[("[FIELDS][ID]", id), ("[TOKEN]", &proxy.portal().application_token())]);
        assert_eq!(Cgi::new(&proxy.sandbox).form(&form).run().status, 200);
    };
    let none = run(&proxy, &["events", "acme"]);
    assert_eq!((none.code, none.stdout.as_str()), (0, ""));
    assert_eq!(run(&proxy, &["events", "acme", "--json"]).json(), json!({"events": [], "last": 0, "lost": 0}));
    post("7");
    post("8");
    for _ in 0..2 {
        let shown = run(&proxy, &["events", "acme"]);
        let lines: Vec<&str> = shown.stdout.lines().collect();
        assert_eq!((shown.code, lines.len()), (0, 2), "{}", shown.all());
        assert!(
            lines[0].starts_with("1  20") && lines[0].contains(" UTC  ONCRMDEALADD  {\"FIELDS\":{\"ID\":\"7\"}"),
            "{lines:?}"
        );
    }
    let given = run(&proxy, &["events", "acme", "--json"]).json();
    assert_eq!((&given["events"][1]["data"]["FIELDS"]["ID"], &given["last"]), (&json!("8"), &json!(2)));
    let status = run(&proxy, &["status"]);
    assert!(status.stdout.contains("number 2, "), "{}", status.all());
    assert_eq!(run(&proxy, &["events", "nobody"]).code, 1);
    assert_eq!(run(&proxy, &["events"]).code, 2);

    let mut command = proxy.sandbox.command_line(&["events", "acme", "--follow"]);
    let mut following = command.stdout(std::process::Stdio::piped()).spawn().expect("the executable starts");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(following.stdout.take().expect("a pipe")));
    let mut next = || lines.next().expect("a line").expect("UTF-8");
    assert!(next().starts_with("1  ") && next().starts_with("2  "));
    assert!(following.try_wait().expect("our child").is_none());
    post("9");
    assert!(next().contains("\"ID\":\"9\""));
    following.kill().expect("our child");
    following.wait().expect("our child");
}
