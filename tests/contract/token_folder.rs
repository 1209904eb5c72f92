//! Contract sections 1, 5.2 and 7: who may write to the token folder, what is found in it, and what an interrupted writer
//! left there.

use crate::fixture::*;
use crate::refresh::{add, assert_works};
use serde_json::{json, Value};
use std::os::unix::fs::{symlink, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use support::cgi::{Answer, Cgi};
use support::database;

/// The path of the portal's file with this ending.
fn file(proxy: &Proxy, ending: &str) -> PathBuf {
    proxy.sandbox.tokens().join(format!("{}.{ending}", proxy.stem()))
}

/// As the tokens' records name a refresh token.
fn fingerprint(pair: &Value) -> String {
    sha256_hex(pair["refresh_token"].as_str().unwrap().as_bytes())[..32].to_owned()
}

/// A pair of the portal's own, as `NAME.json` holds it.
fn pair(proxy: &Proxy, expires_at: i64) -> Value {
    token_file(&proxy.portal().issue_pair(1), proxy.simulator.client_id(), expires_at)
}

/// Lays a next pair down as a killed writer leaves it; `replaces` as that writer says it, not at all in version 0.1.
fn leave(proxy: &Proxy, next: &Value, replaces: Option<&str>) {
    let mut next = next.clone();
    if let Some(replaces) = replaces {
        next["replaces"] = replaces.into();
    }
    proxy.sandbox.write_token_file(&format!("{}.json.new", proxy.stem()), &next.to_string());
}

fn note_begun(proxy: &Proxy, spent: &str) {
    let note = json!({"refresh": {"spent": spent, "at": unix_now() * 1000, "failure": null, "interrupted": false}});
    proxy.sandbox.write_token_file(&format!("{}.lock", proxy.stem()), &note.to_string());
}

fn refresh_token(pair: &Value) -> &str {
    pair["refresh_token"].as_str().unwrap()
}

#[test]
fn a_left_over_that_does_not_follow_from_the_stored_pair_replaces_nothing_and_is_kept_aside() {
    let proxy = Proxy::not_installed().on_files();
    for (replaces, note) in
        [(None, None), (None, Some("0".repeat(32))), (Some(""), None), (Some("0123456789abcdef0123456789abcdef"), None)]
    {
        let older = pair(&proxy, unix_now() - 10);
        let stored = pair(&proxy, unix_now() - 10);
        proxy.store(&stored);
        note_begun(&proxy, note.as_deref().unwrap_or("1"));
        leave(&proxy, &older, replaces);
        proxy.simulator.clear_ledger();
        assert_works(&proxy);
        let ledger = proxy.simulator.ledger();
        assert_eq!((ledger.refreshes(), ledger.spent_presented()), (1, 0), "{replaces:?} {note:?}");
        assert!(!proxy.portal().is_live(refresh_token(&stored)), "the stored one was spent: {replaces:?} {note:?}");
        assert!(proxy.portal().is_live(refresh_token(&proxy.stored())));
        let aside: Value = serde_json::from_slice(&std::fs::read(file(&proxy, "json.left")).unwrap()).unwrap();
        assert_eq!(aside["refresh_token"], older["refresh_token"]);
        assert!(!file(&proxy, "json.new").exists());
    }
}

#[test]
fn a_left_over_that_replaces_exactly_the_stored_pair_is_put_in_place() {
    let proxy = Proxy::not_installed().on_files();
    for of_version_0_1 in [false, true] {
        let stored = pair(&proxy, unix_now() - 10);
        let next = pair(&proxy, unix_now() + 3600);
        proxy.store(&stored);
        match of_version_0_1 {
            true => note_begun(&proxy, &fingerprint(&stored)),
            false => note_begun(&proxy, "1"),
        }
        leave(&proxy, &next, (!of_version_0_1).then_some(fingerprint(&stored)).as_deref());
        proxy.simulator.clear_ledger();
        assert_works(&proxy);
        assert_eq!(proxy.simulator.ledger().refreshes(), 0);
        assert_eq!(refresh_token(&proxy.stored()), refresh_token(&next), "{of_version_0_1}");
        assert!(!file(&proxy, "json.left").exists());
    }
}

#[test]
fn a_left_over_that_has_expired_meanwhile_is_put_in_place_and_refreshed_once() {
    let proxy = Proxy::not_installed().on_files();
    for (found_by, of_stored, of_next) in [
        ("its lifetime", -10, -10),
        ("expired_token, then its lifetime", 3600, -10),
        ("expired_token twice", 3600, 3600),
        ("its lifetime, then expired_token", -10, 3600),
    ] {
        let stored = pair(&proxy, unix_now() + of_stored);
        let next = pair(&proxy, unix_now() + of_next);
        proxy.portal().expire_access_tokens();
        proxy.store(&stored);
        leave(&proxy, &next, Some(&fingerprint(&stored)));
        proxy.simulator.clear_ledger();
        assert_works(&proxy);
        let ledger = proxy.simulator.ledger();
        assert_eq!((ledger.refreshes(), ledger.spent_presented()), (1, 0), "{found_by}");
        assert!(proxy.portal().is_live(refresh_token(&stored)), "{found_by}: that one was not spent");
        assert!(!proxy.portal().is_live(refresh_token(&next)), "{found_by}");
    }
}

/// What stands in the place of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Planted {
    DanglingLink,
    LinkToAFile,
    LinkToAFolder,
    HardLink,
    Pipe,
    Folder,
}

const ALL: [Planted; 6] = [
    Planted::DanglingLink,
    Planted::LinkToAFile,
    Planted::LinkToAFolder,
    Planted::HardLink,
    Planted::Pipe,
    Planted::Folder,
];

/// What the file elsewhere holds.
const ELSEWHERE: &str = "this is nobody's business";

impl Planted {
    /// Puts it at the path, in the place of what is there.
    fn put(self, proxy: &Proxy, path: &std::path::Path) {
        let _ = std::fs::remove_file(path);
        let _ = std::fs::remove_dir_all(path);
        let _ = std::fs::remove_dir_all(self.elsewhere(proxy));
        proxy.sandbox.make_folder("elsewhere", 0o755);
        let target = self.elsewhere(proxy).join("file");
        if self != Planted::DanglingLink {
            proxy.sandbox.write("elsewhere/file", 0o600, ELSEWHERE.as_bytes());
        }
        match self {
            Planted::DanglingLink | Planted::LinkToAFile => symlink(&target, path).unwrap(),
            Planted::LinkToAFolder => symlink(self.elsewhere(proxy), path).unwrap(),
            Planted::HardLink => std::fs::hard_link(&target, path).unwrap(),
            Planted::Pipe => assert!(proxy.sandbox.command("mkfifo").arg(path).status().unwrap().success()),
            Planted::Folder => std::fs::create_dir(path).unwrap(),
        }
    }

    fn elsewhere(self, proxy: &Proxy) -> PathBuf {
        proxy.sandbox.path().join("elsewhere")
    }

    #[track_caller]
    fn assert_untouched(self, proxy: &Proxy, what: &str) {
        let names: Vec<_> = std::fs::read_dir(self.elsewhere(proxy)).unwrap().map(|e| e.unwrap().file_name()).collect();
        if self == Planted::DanglingLink {
            assert!(names.is_empty(), "{what}: {names:?} was made through a link");
        } else {
            assert_eq!(names, ["file"], "{what}");
            let text = std::fs::read_to_string(self.elsewhere(proxy).join("file")).unwrap();
            assert_eq!(text, ELSEWHERE, "{what} was written through {self:?}");
        }
    }
}

#[test]
fn nothing_in_the_token_folder_is_created_or_replaced_through_a_link_nor_waits_for_a_pipe() {
    // Of a database, those that stay a node's own.
    let endings: &[&str] = match database::wanted() {
        None => &["json.new", "lock", "limits", "json", "json.removed"],
        Some(_) => &["next", "lock", "kept"],
    };
    for planted in ALL {
        for &ending in endings {
            let proxy = Proxy::not_installed();
            let stored = pair(&proxy, unix_now() - 10);
            proxy.store(&stored);
            let path = file(&proxy, ending);
            planted.put(&proxy, &path);
            let answer = proxy
                .request(json!({"method": "crm.deal.add", "params": {}}).to_string())
                .timeout(Duration::from_secs(20))
                .run();
            let what = format!("{planted:?} as {ending}");
            let works = match ending {
                // Of these two nothing is needed: a hint, and a place that is renamed to.
                "limits" | "json.removed" => true,
                // Replaced by what is written there, but a folder cannot be.
                "json.new" | "next" | "kept" => planted != Planted::Folder,
                _ => false,
            };
            match works {
                true => assert_eq!(answer.status, 200, "{what}: {} {}", answer.text(), answer.stderr),
                false => {
                    assert_failure(&answer, 500, "storage_error");
                    assert!(answer.stderr.contains(&path.display().to_string()), "{what}: {}", answer.stderr);
                    assert_eq!(proxy.simulator.ledger().refreshes(), 0, "{what}");
                    assert!(proxy.portal().is_live(refresh_token(&stored)), "{what}");
                }
            }
            planted.assert_untouched(&proxy, &what);
        }
    }
}

#[test]
fn no_key_is_kept_through_a_link_nor_waits_for_a_pipe() {
    for planted in ALL {
        let proxy = Proxy::installed().on_files();
        let keyed = |key: &str| {
            let body = json!({"method": "crm.deal.add", "params": {}}).to_string();
            proxy.request(body).header("Idempotency-Key", key).timeout(Duration::from_secs(20)).run()
        };
        assert_eq!(keyed("one").status, 200);
        let client = std::fs::read_dir(proxy.sandbox.tokens().join("idempotency")).unwrap().next().unwrap().unwrap();
        let names = || {
            let entries = std::fs::read_dir(client.path()).unwrap().map(|entry| entry.unwrap().path());
            entries.collect::<Vec<_>>()
        };
        for name in names() {
            planted.put(&proxy, &name);
            proxy.simulator.clear_ledger();
            let answer = keyed("one");
            let is_usage = name.ends_with("usage");
            let what = format!("{planted:?} as {}", name.display());
            // A journal in the place of a key's: nothing is sent. The count is read when a key begins.
            if is_usage {
                let answer = keyed("another");
                assert_failure(&answer, 500, "storage_error");
            } else {
                assert_failure(&answer, 500, "storage_error");
            }
            assert_eq!(proxy.simulator.ledger().all_calls().count(), 0, "{what}");
            planted.assert_untouched(&proxy, &what);
            let _ = std::fs::remove_file(&name);
            let _ = std::fs::remove_dir(&name);
        }
    }
}

#[test]
fn a_token_folder_that_others_can_write_to_is_refused_at_every_run_with_the_command_that_mends_it() {
    for mode in [0o770, 0o702, 0o722, 0o777, 0o1777, 0o720] {
        let proxy = Proxy::installed();
        let tokens = proxy.sandbox.tokens();
        std::fs::set_permissions(&tokens, PermissionsExt::from_mode(mode)).unwrap();
        let command = format!("chmod 700 {}", tokens.display());
        let says_it = |answer: &Answer, what: &str| {
            assert!(answer.stderr.contains(&command), "{what}, {mode:o}: {}", answer.stderr);
            assert!(!answer.text().contains("chmod"), "details in the log only: {}", answer.text());
        };
        let answer = add(&proxy);
        assert_failure(&answer, 500, "storage_error");
        assert_eq!(answer.json()["executed"], "no");
        says_it(&answer, "a call");
        let answer = proxy.get(&format!("/rest/1/{TOKEN}/profile")).run();
        assert_eq!((answer.status, answer.json()["error"].as_str()), (500, Some("STORAGE_ERROR")), "{}", answer.text());
        says_it(&answer, "a webhook");
        let answer = proxy.get("/health").run();
        assert_eq!(
            (answer.status, answer.json()["reason"].as_str()),
            (503, Some("storage_error")),
            "{}",
            answer.text()
        );
        says_it(&answer, "health");
        let answer = proxy.get("/install").query("portal=acme").run();
        assert_eq!((answer.status, answer.header("Set-Cookie")), (500, None));
        assert!(answer.header("Content-Type").unwrap().starts_with("text/html"));
        says_it(&answer, "an installation");
        let answer = proxy.get("/status").bearer(TOKEN).run();
        assert_failure(&answer, 500, "storage_error");
        let output = proxy.sandbox.command_line(&["call", "acme", "profile"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).replace('\n', " ");
        assert!(!output.status.success() && said.contains("chmod 700"), "{said}");
        assert_eq!(proxy.simulator.ledger().all_calls().count(), 0);

        let mended = Command::new("/bin/sh").args(["-c", &command]).status().unwrap();
        assert!(mended.success());
        assert_works(&proxy);
    }
}

#[test]
fn a_token_folder_that_others_can_read_is_used() {
    for mode in [0o700, 0o750, 0o755, 0o500] {
        let proxy = Proxy::installed();
        std::fs::set_permissions(proxy.sandbox.tokens(), PermissionsExt::from_mode(mode)).unwrap();
        assert_works(&proxy);
    }
}

#[test]
fn a_folder_of_another_user_is_refused_and_one_of_roots_is_not() {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    let proxy = Proxy::installed();
    let tokens = proxy.sandbox.tokens();
    let group = std::fs::metadata(&tokens).unwrap().gid();
    for (owner, mode, cure) in [
        (12345, 0o755, Some("chown -R nobody")),
        (12345, 0o770, Some("chown -R nobody")),
        (0, 0o770, Some("chown -R nobody")),
        (0, 0o755, None),
    ] {
        std::os::unix::fs::chown(&tokens, Some(owner), Some(group)).unwrap();
        std::fs::set_permissions(&tokens, PermissionsExt::from_mode(mode)).unwrap();
        let answer = add(&proxy);
        match cure {
            None => assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr),
            Some(cure) => {
                assert_failure(&answer, 500, "storage_error");
                assert!(answer.stderr.contains(cure), "{owner} {mode:o}: {}", answer.stderr);
            }
        }
    }
}

#[test]
fn a_portal_that_is_used_through_a_webhook_is_refused_with_such_a_folder_too() {
    let proxy = Proxy::not_installed();
    let portal = proxy.portal().name();
    let webhook = format!("[portals.\"{portal}\"]\nwebhook = \"{}\"", proxy.portal().webhook_url());
    let proxy = proxy.reconfigured(&format!("[portals.\"{portal}\"]"), &webhook);
    assert_eq!(proxy.call("profile", json!({})).status, 200);
    std::fs::set_permissions(proxy.sandbox.tokens(), PermissionsExt::from_mode(0o777)).unwrap();
    assert_failure(&proxy.call("profile", json!({})), 500, "storage_error");
}

/// The log file of a proxy, laid down by `put`, and what the first request says of it.
fn logged(put: impl FnOnce(&Proxy, &std::path::Path)) -> (Proxy, PathBuf, Answer) {
    let proxy = Proxy::installed().reconfigured("[log]", "[log]\nfile = \"proxy.log\"");
    let path = proxy.sandbox.path().join("b24proxy/proxy.log");
    put(&proxy, &path);
    let answer = Cgi::new(&proxy.sandbox).path("/health").timeout(Duration::from_secs(20)).run();
    assert_eq!(answer.status, 200, "{}", answer.text());
    (proxy, path, answer)
}

#[test]
fn a_log_file_may_be_a_link_that_root_or_this_user_made() {
    for planted in [Planted::DanglingLink, Planted::LinkToAFile] {
        let (proxy, _, answer) = logged(|proxy, path| {
            planted.put(proxy, path);
            let user = std::fs::metadata(proxy.sandbox.tokens()).unwrap();
            std::os::unix::fs::lchown(path, Some(user.uid()), Some(user.gid())).unwrap();
        });
        let text = std::fs::read_to_string(planted.elsewhere(&proxy).join("file")).unwrap();
        assert!(text.contains("\"answered\""), "{text} {}", answer.stderr);
        assert!(!answer.stderr.contains("proxy.log"), "{}", answer.stderr);
    }
}

#[test]
fn a_log_is_not_written_through_anothers_link_nor_waits_for_a_pipe() {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    for planted in [Planted::DanglingLink, Planted::LinkToAFile, Planted::Pipe, Planted::Folder] {
        let is_link = matches!(planted, Planted::DanglingLink | Planted::LinkToAFile);
        if is_link && !is_root {
            continue;
        }
        let (proxy, path, answer) = logged(|proxy, path| {
            planted.put(proxy, path);
            if is_link {
                std::os::unix::fs::lchown(path, Some(12345), None).unwrap();
            }
        });
        assert!(answer.stderr.contains("proxy.log") && answer.stderr.contains("answered"), "{}", answer.stderr);
        planted.assert_untouched(&proxy, &format!("{planted:?}"));
        let kind = std::fs::symlink_metadata(path).unwrap().file_type();
        assert!(kind.is_symlink() || kind.is_fifo() || kind.is_dir());
    }
}
