//! Contract section 5, points 2 and 3: a disk that is full, has no inodes or cannot be written costs no token and executes
//! nothing twice.

use crate::bench::*;
use crate::fixture::{assert_failure, TOKEN};
use serde_json::json;
use simulator::{Action, Fault, Target};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;
use support::cgi::{Answer, Cgi};

/// A small file system as a bench's token folder: mounted by root, or else in a name space of its own, into which the
/// token folder is a link.
struct Disk {
    shell: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    mounted: Option<String>,
}

impl Disk {
    fn of(bench: &Bench) -> Disk {
        let is_root = std::fs::metadata("/proc/self").expect("/proc is mounted").uid() == 0;
        let mut command = if is_root { Command::new("/bin/sh") } else { Command::new("unshare") };
        if !is_root {
            command.args(["-rm", "/bin/sh"]);
        }
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare of util-linux");
        let (input, output) = (shell.stdin.take().unwrap(), BufReader::new(shell.stdout.take().unwrap()));
        let mut disk = Disk { shell, input, output, mounted: None };
        let tokens = bench.proxy.sandbox.tokens();
        let path = tokens.display();
        let owner = if is_root { "uid=65534,gid=65534," } else { "" };
        let mounted = disk.shell(&format!("mount -t tmpfs -o {owner}mode=700,size=256k,nr_inodes=20 none '{path}'"));
        assert!(
            mounted,
            "these tests mount small file systems: run them as root with CAP_SYS_ADMIN, or where `unshare -rm` is \
             permitted (kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
        );
        if is_root {
            disk.mounted = Some(path.to_string());
        } else {
            std::fs::rename(&tokens, tokens.with_extension("below")).unwrap();
            let inside = format!("/proc/{}/root{}", disk.shell.id(), tokens.with_extension("below").display());
            std::os::unix::fs::symlink(inside, &tokens).unwrap();
        }
        assert!(disk.shell(&format!("cd '{path}'")));
        disk
    }

    /// Runs a line of shell in the token folder, as its file system's root.
    fn shell(&mut self, line: &str) -> bool {
        writeln!(self.input, "{{ {line}; }} </dev/null >/dev/null 2>&1; echo $?").expect("the shell runs");
        let mut status = String::new();
        self.output.read_line(&mut status).expect("the shell answers");
        status.trim() == "0"
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        if let Some(path) = &self.mounted {
            let _ = Command::new("umount").args(["-l", path]).status();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    Full,
    NoInodes,
    ReadOnly,
    Permission,
}

const ALL: [Trouble; 4] = [Trouble::Full, Trouble::NoInodes, Trouble::ReadOnly, Trouble::Permission];

impl Trouble {
    fn begin(self, disk: &mut Disk) {
        let line = match self {
            Trouble::Full => "! head -c 1000000 /dev/zero >filler",
            Trouble::NoInodes => "i=0; while touch filler$i; do i=$((i+1)); done",
            Trouble::ReadOnly => "mount -o remount,bind,ro .",
            Trouble::Permission => "chmod 500 .",
        };
        assert!(disk.shell(line), "{self:?}");
    }

    fn end(self, disk: &mut Disk) {
        let line = match self {
            Trouble::Full | Trouble::NoInodes => "rm filler*",
            Trouble::ReadOnly => "mount -o remount,bind,rw .",
            Trouble::Permission => "chmod 700 .",
        };
        assert!(disk.shell(line), "{self:?}");
    }

    /// What the log says of it.
    fn words(self) -> &'static str {
        match self {
            Trouble::Full => "the disk is full",
            Trouble::NoInodes => "no inodes left",
            Trouble::ReadOnly => "mounted read-only",
            Trouble::Permission => "must belong to the user",
        }
    }
}

#[track_caller]
fn assert_storage_error(answer: &Answer, trouble: Trouble) {
    assert_failure(answer, 500, "storage_error");
    assert_eq!(answer.json()["executed"], "no", "{trouble:?}: {}", answer.text());
    assert!(answer.stderr.contains(trouble.words()), "{trouble:?}: {}", answer.stderr);
    for other in ALL.into_iter().filter(|other| *other != trouble) {
        assert!(!answer.stderr.contains(other.words()), "{trouble:?}: {}", answer.stderr);
    }
}

#[test]
fn on_a_disk_that_cannot_be_written_no_token_is_spent_and_the_log_says_why() {
    for trouble in ALL {
        for lock_is_there in [false, true] {
            let bench = Bench::new();
            let mut disk = Disk::of(&bench);
            if lock_is_there {
                bench.prepare(true);
                bench.assert_next_call_works("a first call");
            }
            let pair = bench.prepare(true);
            let before = bench.proxy.stored_bytes();
            trouble.begin(&mut disk);
            for _ in 0..2 {
                assert_storage_error(&bench.call(), trouble);
            }
            let ledger = bench.settle();
            assert_eq!((ledger.refreshes(), ledger.all_calls().count()), (0, 0), "{trouble:?}");
            assert!(bench.proxy.portal().is_live(&pair.refresh_token));
            assert_eq!(bench.proxy.stored_bytes(), before);
            trouble.end(&mut disk);
            bench.assert_next_call_works(&format!("{trouble:?}"));
            assert_eq!(bench.settle().refreshes(), 1);
        }
    }
}

#[test]
fn with_valid_tokens_calls_go_on_whatever_the_disk_does() {
    for trouble in ALL {
        let bench = Bench::new();
        let mut disk = Disk::of(&bench);
        bench.prepare(false);
        trouble.begin(&mut disk);
        for _ in 0..2 {
            let answer = bench.call();
            assert_eq!(answer.status, 200, "{trouble:?}: {} {}", answer.text(), answer.stderr);
        }
        trouble.end(&mut disk);
        bench.assert_next_call_works(&format!("{trouble:?}"));
    }
}

/// Starts a call, lets `meanwhile` happen while the OAuth server or the portal holds its answer, and answers the call's.
fn meanwhile(bench: &Bench, target: Target, request: impl FnOnce() -> Answer + Send, change: impl FnOnce()) -> Answer {
    bench.proxy.simulator.inject(Fault::once(target, Action::HangAfter));
    std::thread::scope(|scope| {
        let answer = scope.spawn(request);
        assert!(bench.proxy.simulator.wait_hanging(1, Duration::from_secs(10)));
        change();
        bench.proxy.simulator.release();
        answer.join().unwrap()
    })
}

#[test]
fn a_disk_that_becomes_full_after_the_refresh_began_still_takes_the_new_pair() {
    for trouble in [Trouble::Full, Trouble::NoInodes] {
        let bench = Bench::new();
        let mut disk = Disk::of(&bench);
        let old = bench.prepare(true);
        // Longer than the block that any file has.
        bench.proxy.portal().set_scope(&"crm,".repeat(2000));
        let answer = meanwhile(&bench, Target::Token, || bench.call(), || trouble.begin(&mut disk));
        assert_eq!(answer.status, 200, "{trouble:?}: {} {}", answer.text(), answer.stderr);
        assert_ne!(bench.proxy.stored()["refresh_token"], old.refresh_token.as_str());
        trouble.end(&mut disk);
        bench.assert_next_call_works(&format!("{trouble:?}"));
        assert_eq!(bench.settle().refreshes(), 1);
    }
}

#[test]
fn a_folder_that_is_closed_after_the_refresh_began_keeps_the_new_pair_until_it_is_opened_again() {
    let bench = Bench::new();
    let mut disk = Disk::of(&bench);
    let old = bench.prepare(true);
    let trouble = Trouble::Permission;
    let answer = meanwhile(&bench, Target::Token, || bench.call(), || trouble.begin(&mut disk));
    assert_storage_error(&answer, trouble);
    assert!(!bench.proxy.portal().is_live(&old.refresh_token), "it was spent");
    for _ in 0..2 {
        assert_storage_error(&bench.call(), trouble);
        assert!(bench.live_is_on_disk(), "the new pair is kept");
    }
    trouble.end(&mut disk);
    bench.assert_next_call_works("the folder was opened again");
    let ledger = bench.settle();
    assert_eq!((ledger.refreshes(), ledger.spent_presented()), (1, 0));
}

#[test]
fn below_any_limit_of_file_sizes_a_refresh_spends_nothing_or_is_finished() {
    let bench = Bench::new();
    // In blocks of 512 bytes; the space that is taken are 128 of them.
    for blocks in [0, 1, 2, 8, 64, 127, 128, 1000] {
        let pair = bench.prepare(true);
        let limit = format!("/bin/sh -c 'trap \"\" XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"'");
        let answer = bench.run_to_answer(bench.request(&limit));
        let ledger = bench.settle();
        if blocks >= 128 {
            assert_eq!(answer.status, 200, "{blocks}: {}", answer.text());
            continue;
        }
        assert_failure(&answer, 500, "storage_error");
        assert_eq!((ledger.refreshes(), ledger.executed(METHOD)), (0, 0), "{blocks}");
        assert_eq!(bench.proxy.stored()["refresh_token"], pair.refresh_token.as_str());
        bench.assert_next_call_works(&format!("{blocks} blocks"));
    }
}

#[test]
fn a_call_with_a_key_is_refused_before_it_is_sent_where_its_intent_cannot_be_written() {
    for trouble in ALL {
        for folder_is_there in [false, true] {
            let bench = Bench::new();
            let mut disk = Disk::of(&bench);
            bench.prepare(false);
            let keyed = |key: &str| bench.run_to_answer(bench.request("").header("Idempotency-Key", key));
            if folder_is_there {
                assert_eq!(keyed("another").status, 200);
                bench.proxy.simulator.clear_ledger();
            }
            trouble.begin(&mut disk);
            if trouble == Trouble::Permission {
                disk.shell("chmod 500 idempotency/*");
            }
            for _ in 0..2 {
                assert_storage_error(&keyed("key"), trouble);
            }
            assert_eq!(bench.settle().all_calls().count(), 0, "{trouble:?}");
            trouble.end(&mut disk);
            disk.shell("chmod 700 idempotency/*");
            assert_eq!(keyed("key").status, 200, "{trouble:?}: the key is free");
            let again = keyed("key");
            assert_eq!(again.header("Idempotent-Replayed"), Some("true"), "{}", again.text());
            assert_eq!(bench.settle().executed(METHOD), 1, "{trouble:?}");
            bench.assert_tidy(&format!("{trouble:?}"));
        }
    }
}

#[test]
fn an_answer_that_finds_no_room_goes_to_the_caller_and_a_repeat_is_not_executed() {
    let bench = Bench::new();
    let mut disk = Disk::of(&bench);
    bench.prepare(false);
    // Longer than what is left of the journal's block.
    let params = json!({"text": "x".repeat(9000)});
    let body = json!({"method": "sim.echo", "params": params}).to_string();
    let keyed =
        || Cgi::new(&bench.proxy.sandbox).json(body.clone()).bearer(TOKEN).header("Idempotency-Key", "key").run();
    let answer = meanwhile(&bench, Target::Call, keyed, || Trouble::Full.begin(&mut disk));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["data"]["result"]["text"].as_str().unwrap().len(), 9000);
    assert!(answer.stderr.contains(Trouble::Full.words()), "{}", answer.stderr);
    for is_full in [true, true, false, false] {
        if !is_full {
            disk.shell("rm -f filler*");
        }
        let answer = keyed();
        assert_failure(&answer, 409, "outcome_unknown");
        assert_eq!(answer.json()["executed"], "unknown");
    }
    assert_eq!(bench.settle().calls("sim.echo"), 1);
}
