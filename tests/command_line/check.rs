//! `b24proxy check`: everything that it knows, broken, is named.

use crate::fixture::*;
use crate::{assert_line, lines, run, Ended};
use serde_json::json;
use simulator::{Action, Fault, Options, PortalOptions, Target};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

fn check(proxy: &Proxy) -> Ended {
    run(proxy, &["check", "--json"])
}

fn chmod(path: impl AsRef<std::path::Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Lets the OAuth server say what time it is.
pub fn say_time(proxy: &Proxy, ahead: i64) {
    let moment = format!("@{}", unix_now() + ahead);
    let date =
        Command::new("date").args(["-u", "-d", &moment, "+%a, %d %b %Y %H:%M:%S GMT"]).env("LC_ALL", "C").output();
    let date = String::from_utf8(date.unwrap().stdout).unwrap();
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nDate: {}\r\nContent-Type: application/json\r\nContent-Length: 27\r\n\
         Connection: close\r\n\r\n{{\"error\":\"invalid_request\"}}",
        date.trim()
    );
    proxy.simulator.inject(Fault::forever(Target::Token, Action::Raw(answer.into_bytes())));
}

#[test]
fn an_installed_proxy_fails_in_nothing_and_check_sends_no_secret_but_the_token_to_its_portal() {
    let proxy = Proxy::installed();
    say_time(&proxy, 0);
    let ended = check(&proxy);
    assert_eq!(ended.code, 0, "{}", ended.stdout);
    let portal = proxy.portal().name();
    for name in
        ["configuration", "token folder", "writing", "space", "locks", &portal, "ca_file", "OAuth server", "clock"]
    {
        assert_line(&ended, name, "ok", "");
    }
    assert_line(&ended, &format!("{portal}, from here"), "ok", "Bitrix24");
    let ledger = proxy.simulator.ledger();
    let access = proxy.stored()["access_token"].as_str().unwrap().to_owned();
    for secret in proxy.simulator.secrets() {
        let mut sent = ledger.entries.iter().filter(|entry| entry.contains(&secret));
        assert!(sent.all(|entry| secret == access && entry.listener == portal), "sent: {ledger:?}");
    }
    let calls = ledger.entries.iter().filter(|entry| entry.listener == portal && entry.contains(&access)).count();
    assert_eq!(calls, 1, "as any call of the program");
    let left = fs::read_dir(proxy.sandbox.tokens()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with(".check")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_output_fits_80_columns_and_ends_with_what_to_mend() {
    let proxy = Proxy::installed();
    chmod(proxy.sandbox.tokens(), 0o770);
    let ended = run(&proxy, &["check"]);
    assert_eq!(ended.code, 1);
    // A command is in one line, however long, so that it can be copied.
    let too_long = |line: &&str| line.chars().count() > 80 && !line.contains("-> ch");
    assert_eq!(ended.stdout.lines().find(too_long), None);
    assert!(ended.stdout.contains("FAIL  token folder: "), "{}", ended.stdout);
    assert!(ended.stdout.contains("To mend: 1"), "{}", ended.stdout);
}

#[test]
fn a_configuration_that_cannot_be_used_is_named_with_its_cure() {
    let proxy = Proxy::installed();
    chmod(proxy.sandbox.config(), 0o644);
    assert_line(&check(&proxy), "configuration", "fail", "chmod 600");
    chmod(proxy.sandbox.config(), 0o600);
    let proxy = proxy.reconfigured("[limits]", "[limits]\nmax_wiat = 3");
    assert_line(&check(&proxy), "configuration", "fail", "max_wait");
    fs::remove_file(proxy.sandbox.config()).unwrap();
    assert_line(&check(&proxy), "configuration", "fail", "proxy.toml.example");
}

#[test]
fn a_configuration_without_clients_or_under_a_public_folder_is_named() {
    let proxy = Proxy::installed().reconfigured(&format!("auth_token = \"{TOKEN}\""), "");
    assert_line(&check(&proxy), "configuration", "fail", "b24proxy token");
    proxy.sandbox.make_folder("public_html", 0o755);
    let path = "public_html/proxy.toml";
    proxy.sandbox.write(path, 0o600, proxy.config().replace("\"ca.pem\"", "\"../b24proxy/ca.pem\"").as_bytes());
    let mut command = proxy.sandbox.command_line(&["check", "--json"]);
    command.env("B24PROXY_CONFIG", proxy.sandbox.path().join(path));
    let ended = crate::ended(&proxy, command, "");
    assert_line(&ended, "configuration", "warn", "public_html");
    assert_line(&ended, "configuration", "warn", "$B24PROXY_CONFIG only");
}

#[test]
fn values_that_cannot_work_and_tokens_that_cannot_be_sent_are_named() {
    let proxy = Proxy::installed().reconfigured("max_wait = 5", "max_wait = 11");
    assert_line(&check(&proxy), "configuration", "warn", "max_wait = 5");
    let proxy = proxy.reconfigured(TOKEN, "токен-из-двадцати-с-лишним-букв");
    assert_line(&check(&proxy), "configuration", "warn", "beyond ASCII");
    let proxy = proxy.reconfigured("токен-из-двадцати-с-лишним-букв", "a/token/of/paths/and/slashes");
    assert_line(&check(&proxy), "configuration", "ok", "webhook's address");
}

#[test]
fn a_folder_in_which_others_could_replace_the_configuration_is_named() {
    let proxy = Proxy::installed();
    let folder = proxy.sandbox.path().join("b24proxy");
    chmod(&folder, 0o775);
    assert_line(&check(&proxy), "configuration", "fail", &format!("chmod go-w {}", folder.display()));
}

#[test]
fn what_suexec_refuses_is_named() {
    let proxy = Proxy::installed();
    chmod(proxy.sandbox.path().join("cgi-bin"), 0o775);
    assert_line(&check(&proxy), "executable", "warn", "suexec");
    chmod(proxy.sandbox.path().join("cgi-bin"), 0o777);
    assert_line(&check(&proxy), "executable", "fail", "chmod 755");
}

#[test]
fn a_token_folder_that_cannot_be_written_to_or_that_others_can_is_named() {
    let proxy = Proxy::installed();
    chmod(proxy.sandbox.tokens(), 0o500);
    assert_line(&check(&proxy), "token folder", "fail", "write to");
    chmod(proxy.sandbox.tokens(), 0o755);
    assert_line(&check(&proxy), "token folder", "warn", "chmod 700");
    chmod(proxy.sandbox.tokens(), 0o777);
    assert_line(&check(&proxy), "token folder", "fail", "chmod 700");
}

#[test]
fn what_keeps_the_token_folder_from_being_used_is_one_failure_with_its_command() {
    let proxy = Proxy::installed();
    let folder = proxy.sandbox.tokens();
    chmod(&folder, 0o500);
    let failures = |ended: &Ended| lines(ended).into_iter().filter(|(_, status, _)| status == "fail").count();
    let ended = check(&proxy);
    assert_line(&ended, "token folder", "fail", &format!("chmod 700 {}", folder.display()));
    assert_eq!(failures(&ended), 1, "{}", ended.stdout);
    chmod(&folder, 0o000);
    assert_eq!(failures(&check(&proxy)), 1);
    chmod(&folder, 0o700);
    fs::remove_dir_all(&folder).unwrap();
    proxy.sandbox.write("b24proxy/tokens", 0o600, b"");
    let ended = check(&proxy);
    assert_line(&ended, "token folder", "fail", "is a file in the place of a folder: move it away");
    assert_eq!(failures(&ended), 1, "{}", ended.stdout);
}

#[test]
fn a_token_file_that_a_transfer_damaged_is_named_with_the_damage() {
    let proxy = Proxy::installed();
    let portal = proxy.portal().name();
    let whole = serde_json::to_string_pretty(&proxy.stored()).unwrap();
    let file = format!("{}.json", proxy.stem());
    let half = &whole[..whole.len() / 2];
    for (content, status, word) in [
        (whole.replace('\n', "\r\n"), "warn", "FTP in text mode"),
        (half.replace('\n', "\r\n"), "fail", "FTP in text mode"),
        (half.to_owned(), "fail", "its end is missing"),
        (format!("\u{feff}{whole}"), "warn", "byte-order mark"),
        ("\0".repeat(300), "fail", "zeros"),
        (String::new(), "fail", "empty"),
    ] {
        proxy.sandbox.write_token_file(&file, &content);
        assert_line(&check(&proxy), &portal, status, word);
    }
    proxy.sandbox.write_token_file(&file, &whole);
    chmod(proxy.sandbox.tokens().join(&file), 0o000);
    // Root reads it all the same, and the tests' user is not root.
    assert_line(&check(&proxy), &portal, "fail", "cannot read");
}

#[test]
fn tokens_of_another_host_or_application_or_too_old_are_named() {
    let proxy = Proxy::installed();
    let portal = proxy.portal().name();
    let good = proxy.stored();
    for (key, value, status, word) in [
        ("client_endpoint", json!("https://other.bitrix24.ru/rest/"), "fail", "other.bitrix24.ru"),
        ("client_id", json!("local.other"), "fail", "another client_id"),
        ("installed_at", json!(unix_now() - 151 * 86_400), "warn", "151 days old"),
        ("installed_at", json!(unix_now() - 181 * 86_400), "fail", "181 days old"),
    ] {
        proxy.store(&good);
        proxy.change_stored(|tokens| tokens[key] = value);
        assert_line(&check(&proxy), &portal, status, word);
    }
    fs::remove_file(proxy.sandbox.tokens().join(format!("{}.json", proxy.stem()))).unwrap();
    assert_line(&check(&proxy), &portal, "warn", "/install?portal=");
    proxy.sandbox.write_token_file("acme.bitrix24.com.json", "{}");
    assert_line(&check(&proxy), "token folder", "warn", "acme.bitrix24.com.json");
}

#[test]
fn a_refresh_that_failed_is_told_with_its_reason() {
    let proxy = Proxy::installed();
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    proxy.portal().revoke_refresh_tokens();
    assert_eq!(proxy.call("profile", json!({})).status, 409);
    assert_line(&check(&proxy), &proxy.portal().name(), "fail", "/install?portal=");
}

#[test]
fn a_clock_that_is_off_by_more_than_a_minute_is_named() {
    let proxy = Proxy::installed();
    say_time(&proxy, 300);
    assert_line(&check(&proxy), "clock", "fail", "s slow");
}

#[test]
fn a_ca_file_that_cannot_be_used_is_named() {
    let proxy = Proxy::installed();
    proxy.sandbox.write("b24proxy/ca.pem", 0o600, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert_line(&check(&proxy), "ca_file", "fail", "PEM");
    let proxy = proxy.reconfigured("\"ca.pem\"", "\"absent.pem\"");
    assert_line(&check(&proxy), "ca_file", "fail", "absent.pem");
}

#[test]
fn an_unknown_authority_a_refused_connection_and_an_unknown_host_are_told_apart() {
    let proxy = Proxy::installed().reconfigured("ca_file       = \"ca.pem\"", "");
    let from_here = format!("{}, from here", proxy.portal().name());
    let ended = check(&proxy);
    assert_line(&ended, &from_here, "fail", "ca_file");
    assert_line(&ended, "OAuth server", "fail", "authority");
    proxy.simulator.stop_oauth();
    assert_line(&check(&proxy), "OAuth server", "fail", "refuses the connection");
    let proxy = proxy.reconfigured("[security]", "[portals.\"no-such-host.invalid\"]\n\n[security]");
    assert_line(&check(&proxy), "no-such-host.invalid, from here", "fail", "not known");
}

#[test]
fn a_portal_that_redirects_or_is_no_bitrix24_is_named() {
    let proxy = Proxy::installed();
    let from_here = format!("{}, from here", proxy.portal().name());
    let moved = Action::Redirect302("https://new.bitrix24.ru/rest/profile".into());
    proxy.simulator.inject(Fault::once(Target::Call, moved));
    assert_line(&check(&proxy), &from_here, "warn", "new.bitrix24.ru");
    proxy.simulator.inject(Fault::once(Target::Call, Action::Html500));
    assert_line(&check(&proxy), &from_here, "warn", "500");
}

#[test]
fn a_missing_token_folder_is_made() {
    let proxy = Proxy::not_installed();
    fs::remove_dir(proxy.sandbox.tokens()).unwrap();
    assert_line(&check(&proxy), "token folder", "ok", "mode 700");
    assert!(lines(&check(&proxy)).iter().all(|(_, status, _)| status != "fail"));
}

#[test]
fn what_the_host_refuses_is_said_in_words() {
    let portal = PortalOptions { host: "localhost".into(), ..PortalOptions::default() };
    let proxy = Proxy::with(Options { portal, ..Options::default() });
    proxy.store_pair(&proxy.portal().issue_pair(1));
    proxy.run_behind("exec prlimit --nproc=1 {}");
    let ended = check(&proxy);
    assert_line(&ended, &format!("{}, from here", proxy.portal().name()), "fail", "no more processes and threads");
    assert!(!ended.all().contains("panicked") && !ended.all().contains("RUST_BACKTRACE"), "{}", ended.all());
    for few in 4..10 {
        proxy.run_behind(&format!("exec prlimit --nofile={few} {{}}"));
        let ended = run(&proxy, &["check"]);
        assert!(!ended.all().contains("panicked"), "{few}: {}", ended.all());
    }
}
