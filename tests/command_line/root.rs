//! Started by root, what the command line writes belongs to the site's user. Where the tests do not run as root, there is
//! nothing to test.

use crate::fixture::*;
use crate::{assert_line, ended, Ended};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{chown, MetadataExt};
use std::process::Command;

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn as_root(proxy: &Proxy, arguments: &[&str]) -> Ended {
    let mut command = Command::new(proxy.sandbox.executable());
    command.args(arguments).env_clear();
    ended(proxy, command, "")
}

#[track_caller]
fn assert_nothing_is_roots(proxy: &Proxy) {
    let mut folders = vec![proxy.sandbox.path().join("b24proxy")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let metadata = entry.metadata().unwrap();
            assert_ne!(metadata.uid(), 0, "{}", entry.path().display());
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
}

#[test]
fn what_root_refreshes_calls_and_logs_belongs_to_the_sites_user() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::installed().reconfigured("[log]", "[log]\nfile = \"log\"");
    let refreshed = as_root(&proxy, &["refresh", "--older-than", "0"]);
    assert!(refreshed.code == 0 && refreshed.stdout.contains("refreshed"), "{}", refreshed.all());
    assert_eq!(as_root(&proxy, &["call", "acme", "profile"]).code, 0);
    assert_nothing_is_roots(&proxy);
    assert_eq!(proxy.call("profile", json!({})).status, 200);
}

#[test]
fn root_makes_no_token_folder_of_its_own() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::not_installed();
    fs::remove_dir(proxy.sandbox.tokens()).unwrap();
    let ended = as_root(&proxy, &["check", "--json"]);
    assert_eq!(ended.code, 0, "{}", ended.all());
    assert!(proxy.sandbox.tokens().is_dir());
    assert_nothing_is_roots(&proxy);
}

#[test]
fn root_imports_a_file_that_only_root_can_read() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::not_installed();
    let file = proxy.sandbox.path().join("settings.json");
    let content = crate::import::crest(&proxy.portal().issue_pair(1)).to_string();
    proxy.sandbox.write("settings.json", 0o600, content.as_bytes());
    chown(&file, Some(0), Some(0)).unwrap();
    let ended = as_root(&proxy, &["import", file.to_str().unwrap()]);
    assert_eq!(ended.code, 0, "{}", ended.all());
    assert_nothing_is_roots(&proxy);
    assert_eq!(proxy.call("profile", json!({})).status, 200);
}

#[test]
fn root_executes_calls_of_a_file_that_only_root_can_read() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::installed();
    proxy.sandbox.write("calls", 0o600, br#"{"method":"profile"}"#);
    chown(proxy.sandbox.path().join("calls"), Some(0), Some(0)).unwrap();
    let mut command = Command::new(proxy.sandbox.executable());
    command.args(["call", "acme", "--calls", "calls"]).env_clear().current_dir(proxy.sandbox.path());
    let ended = ended(&proxy, command, "");
    assert!(ended.code == 0 && ended.stdout.contains("\"result\""), "{}", ended.all());
}

#[test]
fn a_configuration_that_the_sites_user_cannot_read_is_named_though_root_could() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::installed();
    chown(proxy.sandbox.config(), Some(0), Some(0)).unwrap();
    assert_line(&as_root(&proxy, &["check", "--json"]), "configuration", "fail", "chown");
}

#[test]
fn another_users_lock_in_the_token_folder_is_named() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::installed();
    let lock = proxy.sandbox.tokens().join(format!("{}.lock", proxy.stem()));
    fs::write(&lock, "").unwrap();
    let ended = crate::run(&proxy, &["check", "--json"]);
    assert_line(&ended, "token folder", "fail", "chown -R");
    assert_line(&ended, "token folder", "fail", ".lock");
}

#[test]
fn a_token_folder_of_another_user_is_named_with_the_chown_that_mends_it() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::installed();
    let folder = proxy.sandbox.tokens();
    chown(&folder, Some(12_345), None).unwrap();
    let cure = format!("chown -R nobody {}", folder.display());
    assert_line(&crate::run(&proxy, &["check", "--json"]), "token folder", "fail", &cure);
    // A folder that is not there is made, and nothing else is given away.
    fs::remove_dir_all(&folder).unwrap();
    chown(proxy.sandbox.path().join("b24proxy"), Some(0), Some(0)).unwrap();
    let path = folder.display();
    let cure = format!("mkdir -p {path} && chmod 700 {path} && chown nobody {path}");
    assert_line(&crate::run(&proxy, &["check", "--json"]), "token folder", "fail", &cure);
}
