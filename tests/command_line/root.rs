//! Started by root, what the command line writes belongs to the site's user. Where the tests do not run as root, there is
//! nothing to test.

use crate::fixture::*;
use crate::truth::only_failure;
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

/// Types a command as root.
#[track_caller]
fn type_as_root(command: &str) {
    let status = Command::new("/bin/sh").args(["-euc", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

/// The cure of the one line that fails.
#[track_caller]
fn cure(ended: &Ended) -> String {
    only_failure(ended);
    let json = ended.json();
    let failed = json.as_array().unwrap().iter().find(|line| line["status"] == "fail").unwrap();
    failed["cure"].as_str().unwrap().to_owned()
}

/// This user is neither root nor the site's.
const FOREIGNER: u32 = 12_345;

fn as_foreigner(proxy: &Proxy, arguments: &[&str]) -> Ended {
    let mut command = Command::new(proxy.sandbox.executable());
    std::os::unix::process::CommandExt::uid(command.args(arguments).env_clear(), FOREIGNER);
    ended(proxy, command, "")
}

#[test]
fn a_foreign_user_is_told_the_same_command_as_the_sites_user_and_never_to_take_the_site_from_it() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::installed().on_files();
    let executable = proxy.sandbox.executable().display().to_string();
    for closed in [false, true] {
        if closed {
            // As README.md lays it out: not even the names in the folder are seen.
            let folder = proxy.sandbox.path().join("b24proxy");
            fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        }
        let told = cure(&as_foreigner(&proxy, &["check", "--json"]));
        assert_eq!(told, format!("sudo -u nobody {executable} check --json"));
        let words: Vec<&str> = told.strip_prefix("sudo -u nobody ").unwrap().split(' ').skip(1).collect();
        assert_eq!(crate::run(&proxy, &words).code, 0, "as it says");
        for command in [&["status"][..], &["call", "acme", "profile"], &["refresh"], &["install-url", "acme"]] {
            let ended = as_foreigner(&proxy, command);
            let said = format!("sudo -u nobody {executable} {}", command.join(" "));
            assert!(ended.code == 1 && ended.stderr.contains(&said), "{}", ended.all());
            assert!(!ended.all().contains("chown"), "{}", ended.all());
        }
    }
    assert_eq!(as_foreigner(&proxy, &["token"]).code, 0, "what needs no file is for everybody");
}

#[test]
fn files_that_all_belong_to_root_are_given_to_the_web_servers_user() {
    if !is_root() || !std::path::Path::new("/etc/apache2").exists() {
        return;
    }
    let proxy = Proxy::installed().on_files();
    let folder = proxy.sandbox.path().join("b24proxy");
    type_as_root(&format!("chown -R root: {}", folder.display()));
    let told = cure(&as_root(&proxy, &["check", "--json"]));
    assert_eq!(told, format!("chown -R www-data: {}", folder.display()));
    type_as_root(&told);
    assert_eq!(as_root(&proxy, &["check", "--json"]).code, 0);
}

#[test]
fn a_wrong_owner_mode_or_file_of_roots_is_one_failure_whose_command_mends_it() {
    if !is_root() {
        return;
    }
    type Spoil = fn(&Proxy);
    let spoils: [(&str, Spoil); 7] = [
        ("proxy.toml is root's", |proxy| chown(proxy.sandbox.config(), Some(0), Some(0)).unwrap()),
        ("proxy.toml is somebody's", |proxy| chown(proxy.sandbox.config(), Some(FOREIGNER), Some(0)).unwrap()),
        ("proxy.toml can be read by others", |proxy| chmod(proxy.sandbox.config(), 0o644)),
        ("the token folder is root's", |proxy| chown(proxy.sandbox.tokens(), Some(0), Some(0)).unwrap()),
        ("the token folder is closed", |proxy| chmod(proxy.sandbox.tokens(), 0o500)),
        ("others can write to the token folder", |proxy| chmod(proxy.sandbox.tokens(), 0o777)),
        ("a lock is root's", |proxy| {
            fs::write(proxy.sandbox.tokens().join(format!("{}.lock", proxy.stem())), "").unwrap();
        }),
    ];
    for (what, spoil) in spoils {
        let proxy = Proxy::installed().on_files();
        spoil(&proxy);
        let told = cure(&as_root(&proxy, &["check", "--json"]));
        assert!(told.starts_with("chown ") || told.starts_with("chmod "), "{what}: {told}");
        type_as_root(&told);
        let mended = as_root(&proxy, &["check", "--json"]);
        assert_eq!(mended.code, 0, "{what}: {told}: {}", mended.stdout);
        assert_eq!(proxy.call("profile", json!({})).status, 200, "{what}: {told}");
    }
}

fn chmod(path: impl AsRef<std::path::Path>, mode: u32) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn check_for_a_named_user_fails_where_that_one_could_not_work() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::installed().on_files();
    assert_eq!(as_root(&proxy, &["check", "--json", "--user", "nobody"]).code, 0);
    let ended = as_root(&proxy, &["check", "--json", "--user", "daemon"]);
    assert_line(&ended, "configuration", "fail", "chown daemon ");
    // Who cannot become that user sees owners and modes.
    let by_nobody = |user: &str| crate::run(&proxy, &["check", "--json", "--user", user]);
    assert_line(&by_nobody("daemon"), "configuration", "fail", "chown daemon ");
    assert_line(&by_nobody("daemon"), "token folder", "fail", "chown -R daemon ");
    assert_line(&by_nobody("daemon"), "user", "warn", "sudo -u daemon ");
    assert_eq!(by_nobody("nobody").code, 0);
    assert_eq!(by_nobody("no-such-user").code, 2);
    chown(proxy.sandbox.path().join("b24proxy"), Some(1), Some(1)).unwrap();
    chmod(proxy.sandbox.path().join("b24proxy"), 0o711);
    let by_foreigner = as_foreigner(&proxy, &["check", "--json", "--user", "nobody"]);
    assert_line(&by_foreigner, "user", "ok", "by owner and mode nobody may use");
    chmod(proxy.sandbox.config(), 0o200);
    let by_foreigner = as_foreigner(&proxy, &["check", "--json", "--user", "nobody"]);
    assert_line(&by_foreigner, "configuration", "fail", "chmod 600 ");
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
