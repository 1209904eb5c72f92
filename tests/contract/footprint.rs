//! What the program costs: memory, size, connections, files. The figures are those of the release build: the one that
//! `B24PROXY_TEST_BINARY` names (tests/run.sh does), otherwise one that is built here, so that no figure is skipped.

use crate::fixture::*;
use serde_json::json;
use simulator::{Action, Fault, Target};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use support::Sandbox;

const KIB: u64 = 1024;
pub const MIB: u64 = 1024 * KIB;

fn release() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
            if let Some(named) = std::env::var_os("B24PROXY_TEST_BINARY") {
                return repository.join(named);
            }
            let test = std::env::current_exe().expect("the path of this test");
            let target = test.ancestors().nth(3).expect("target/debug/deps/this").to_owned();
            let built = Command::new(env!("CARGO"))
                .args(["build", "--release", "--quiet", "--target-dir"])
                .arg(&target)
                .current_dir(&repository)
                .status();
            assert!(built.is_ok_and(|status| status.success()), "the release build fails");
            target.join("release/b24proxy")
        })
        .clone()
}

/// An installed proxy whose executable is the release build.
pub fn proxy() -> Proxy {
    released(Proxy::installed())
}

/// The same of any that is installed.
pub fn released(mut proxy: Proxy) -> Proxy {
    let mut released = Sandbox::with_executable(&release());
    released.keep_in(proxy.sandbox.database().cloned());
    let config = proxy.config().to_owned();
    let tokens = proxy.stored();
    released.write("b24proxy/ca.pem", 0o600, proxy.simulator.ca_pem().as_bytes());
    proxy.sandbox = released;
    proxy.store(&tokens);
    proxy.configured(&config)
}

#[track_caller]
pub fn assert_below(what: &str, kib: Option<u64>, limit: u64) {
    let used = kib.expect("measured") * KIB;
    eprintln!("{what}: {} KiB, limit {} KiB", used / KIB, limit / KIB);
    assert!(used < limit, "{what}: {} KiB, limit {} KiB", used / KIB, limit / KIB);
}

/// The drivers of both databases are a third of it, the command line's parser is a twentieth.
#[test]
fn the_release_build_is_smaller_than_7_and_a_half_mib() {
    let size = std::fs::metadata(release()).expect("the release build").len();
    assert!(2 * size < 15 * MIB, "{size} bytes (is this a release build?)");
}

#[test]
fn a_small_call_needs_less_than_8_mib() {
    let proxy = proxy();
    let answer = proxy.request(r#"{"method":"profile"}"#).measure_memory().run();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_below("a small call", answer.max_rss, 8 * MIB);
    proxy.portal().expire_access_tokens();
    let answer = proxy.request(r#"{"method":"profile"}"#).measure_memory().run();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_below("a call with a refresh", answer.max_rss, 8 * MIB);
}

#[test]
fn a_request_of_10_mb_needs_less_than_three_times_its_size_and_8_mib() {
    let proxy = proxy();
    let text = "x".repeat(10_000_000);
    let body = json!({"method": "crm.deal.add", "params": {"fields": {"TITLE": text}}}).to_string();
    let size = body.len() as u64;
    let answer = proxy.request(body).measure_memory().run();
    assert_eq!(answer.status, 200, "{:.300}", answer.text());
    assert_eq!(proxy.simulator.ledger().executed("crm.deal.add"), 1);
    assert_below("10 MB sent", answer.max_rss, 3 * size + 8 * MIB);
}

#[test]
fn an_answer_of_20_mb_needs_less_than_three_times_its_size_and_8_mib() {
    let proxy = proxy();
    let size = 20_000_000;
    proxy.simulator.inject(Fault::forever(Target::Call, Action::HugeAnswer(size)));
    let answer = proxy.request(r#"{"method":"profile"}"#).measure_memory().run();
    assert_eq!(answer.status, 200);
    assert!(answer.body.len() as u64 > size);
    assert_below("20 MB received", answer.max_rss, 3 * size + 8 * MIB);
}

/// The system calls of one call, as strace writes them.
fn traced(proxy: &Proxy, calls: &str) -> String {
    let trace = proxy.sandbox.path().join("run/trace");
    // Where the program keeps its memory to itself (prctl(2), `PR_SET_DUMPABLE`), strace would see no paths.
    let seen = "-e inject=prctl:retval=0";
    proxy.run_behind(&format!("exec strace {seen} -f -e trace={calls},prctl -o {} {{}}", trace.display()));
    let answer = proxy.request(r#"{"method":"profile"}"#).as_cgi().run();
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    let text = std::fs::read_to_string(trace).expect("strace (Debian package strace) has written its file");
    assert!(text.contains("+++ exited with 0 +++"), "{text}");
    text
}

#[test]
fn one_call_on_a_valid_token_is_one_tls_connection() {
    let proxy = proxy();
    for _ in 0..3 {
        proxy.simulator.clear_ledger();
        // A resident process makes one only where there is none left from the last call.
        assert_eq!(proxy.request(r#"{"method":"profile"}"#).as_cgi().run().status, 200);
        let ledger = proxy.simulator.ledger();
        assert_eq!((ledger.connections(&proxy.portal().name()), ledger.all_connections()), (1, 1));
    }
}

#[test]
fn a_call_on_a_valid_token_takes_one_short_lock_to_be_counted_and_writes_no_other_file() {
    let proxy = proxy().on_files();
    let trace = traced(&proxy, "flock,fcntl,openat,open,rename,unlink,execve");
    for never in ["LOCK_SH", "F_SETLK", "F_OFD_SETLK", ".lock\"", "O_WRONLY", "rename("] {
        assert!(!trace.contains(never), "{never}: {trace}");
    }
    assert_eq!(trace.matches("LOCK_EX").count(), 1, "{trace}");
    let written: Vec<&str> = trace.lines().filter(|line| line.contains("O_RDWR") || line.contains("O_CREAT")).collect();
    assert!(matches!(written.as_slice(), [one] if one.contains(".limits\"")), "{written:?}");
    assert_eq!(trace.matches("execve(").count(), 1, "no other process: {trace}");
    // The trace would show it: a call on an expired token takes the lock.
    proxy.portal().expire_access_tokens();
    assert!(traced(&proxy, "flock,openat,open").contains(".lock\""));
}

#[test]
fn the_configuration_and_the_token_file_are_opened_once_each() {
    let proxy = proxy().on_files();
    let trace = traced(&proxy, "openat,open");
    let opened = |name: &str| {
        let name = format!("/{name}\"");
        trace.lines().filter(|line| line.contains(&name) && !line.contains(" = -1 ")).count()
    };
    assert_eq!(opened("proxy.toml"), 1, "{trace}");
    assert_eq!(opened(&format!("{}.json", proxy.stem())), 1, "{trace}");
    assert_eq!(opened("ca.pem"), 1, "{trace}");
}
