//! A proxy that is broken in many ways one after another, and what must hold after each.

use crate::fixture::*;
use serde_json::Value;
use simulator::{Kind, Ledger, TokenPair};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::cgi::{Answer, Cgi, Ended, Running};
use support::eventually;

/// The call that must not be executed twice.
pub const METHOD: &str = "crm.deal.add";
const BODY: &str = r#"{"method":"crm.deal.add","params":{"fields":{}}}"#;
/// A next call that takes longer has met a stuck lock.
const QUICK: Duration = Duration::from_secs(4);

pub fn is_full() -> bool {
    std::env::var_os("B24PROXY_FULL").is_some()
}

/// A system call at which a process is killed: the `nth` of this name, before it is executed.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub name: String,
    pub nth: usize,
    /// The line of strace, for finding certain points.
    pub line: String,
}

/// The program keeps its memory from core dumps, and with them from strace, which would see no paths (prctl(2),
/// `PR_SET_DUMPABLE`): that call is not executed.
const SEEN: &str = "-e inject=prctl:retval=0";

/// The points in strace's output, in order.
pub fn points(trace: &str) -> Vec<Point> {
    let mut counts = std::collections::HashMap::<(&str, &str), usize>::new();
    let mut points: Vec<Point> = Vec::new();
    for line in trace.lines() {
        let Some((process, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        let Some((name, _)) = call.split_once('(') else { continue };
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            continue;
        }
        let nth = counts.entry((process, name)).or_default();
        *nth += 1;
        // strace counts for each thread; a second thread's first call cannot be told from the first thread's.
        if !points.iter().any(|point| point.name == name && point.nth == *nth) {
            points.push(Point { name: name.to_owned(), nth: *nth, line: call.to_owned() });
        }
    }
    points
}

/// How many steps were of some kind.
#[derive(Default)]
pub struct Count(AtomicUsize);

impl Count {
    pub fn add(&self, really: bool) {
        self.0.fetch_add(usize::from(really), Ordering::Relaxed);
    }

    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs `step` for each item, two at a time, each thread with a bench of its own.
pub fn in_parallel<T: Sync>(items: &[T], make: impl Fn() -> Bench + Sync, step: impl Fn(&Bench, usize, &T) + Sync) {
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (make, step) = (&make, &step);
            scope.spawn(move || {
                let bench = make();
                for (index, item) in items.iter().enumerate().skip(worker).step_by(2) {
                    step(&bench, index, item);
                }
            });
        }
    });
}

pub struct Bench {
    pub proxy: Proxy,
}

/// A new pair, valid or expired, with nothing left of what was before.
pub fn prepare(proxy: &Proxy, expired: bool) -> TokenPair {
    let pair = proxy.portal().issue_pair(1);
    if expired {
        proxy.store_expired_pair(&pair);
    } else {
        proxy.store_pair(&pair);
    }
    proxy.simulator.clear_faults();
    proxy.simulator.clear_ledger();
    pair
}

impl Bench {
    /// The executable runs behind whatever `before` of a request says; limits are out of the way.
    pub fn new() -> Bench {
        Bench::of(Proxy::not_installed())
    }

    pub fn of(proxy: Proxy) -> Bench {
        let proxy = proxy
            .reconfigured("aliases = [\"acme\"]", "aliases = [\"acme\"]\nrequests_per_second = 1000\nburst = 100000");
        proxy.portal().remove_bucket();
        let program = proxy.sandbox.executable();
        let (real, script) = (program.with_extension("real"), program.with_extension("script"));
        std::fs::rename(&program, &real).expect("the sandbox can be written");
        // Written by another process: what this one has open for writing cannot be started while a thread forks.
        let text = format!("#!/bin/sh\neval \"exec $FAULTS_BEFORE {} \\\"\\$@\\\"\"\n", real.display());
        let made = Command::new("/bin/sh")
            .args(["-c", "printf '%s' \"$1\" >\"$2\" && chmod 755 \"$2\" && mv \"$2\" \"$3\"", "sh", &text])
            .args([&script, &program])
            .status();
        assert!(made.expect("a shell").success());
        Bench { proxy }
    }

    /// The real executable, behind the script.
    pub fn real(&self) -> PathBuf {
        self.proxy.sandbox.executable().with_extension("real")
    }

    fn trace_file(&self) -> PathBuf {
        self.proxy.sandbox.path().join("run/trace")
    }

    /// strace that sends a signal at a point of the process that it starts; with `-f`, of any that this one starts.
    pub fn striking(&self, point: &Point, signal: &str, follow: &str) -> String {
        let (Point { name, nth, .. }, log) = (point, self.trace_file());
        let _ = std::fs::remove_file(&log);
        format!("strace {SEEN} {follow} -s 200 -qq -o {} -e inject={name}:signal={signal}:when={nth}", log.display())
    }

    /// strace that has a call fail, as on a full disk.
    pub fn failing(&self, point: &Point, error: &str) -> String {
        let (Point { name, nth, .. }, log) = (point, self.trace_file());
        let _ = std::fs::remove_file(&log);
        format!("strace {SEEN} -s 200 -qq -o {} -e inject={name}:error={error}:when={nth}", log.display())
    }

    /// What the struck process did. Of some calls there are not the same number each time, so that only this says where
    /// it was struck.
    pub fn step(&self) -> String {
        std::fs::read_to_string(self.trace_file()).unwrap_or_default()
    }

    pub fn prepare(&self, expired: bool) -> TokenPair {
        prepare(&self.proxy, expired)
    }

    /// A call of [`METHOD`]; `before`: words of a shell command line that end before the executable's path.
    pub fn request(&self, before: &str) -> Cgi<'_> {
        self.proxy.request(BODY).content_length(Some(BODY.len())).env("FAULTS_BEFORE", before)
    }

    /// Starts a request of [`Bench::request`] and sends its body.
    pub fn start(&self, request: Cgi) -> Running {
        let mut running = request.spawn();
        // It may be dead before it reads.
        let _ = running.write(BODY.as_bytes());
        running.end_body();
        running
    }

    /// Runs a request that may be killed.
    pub fn run(&self, request: Cgi) -> Ended {
        self.start(request).wait_for_end()
    }

    pub fn run_to_answer(&self, request: Cgi) -> Answer {
        self.start(request).wait()
    }

    pub fn call(&self) -> Answer {
        self.run_to_answer(self.request(""))
    }

    /// The system calls of a request's process.
    pub fn trace_request(&self, with: impl FnOnce(Cgi<'_>) -> Cgi<'_>) -> Vec<Point> {
        self.trace(|before| self.run(with(self.request(before))))
    }

    /// The same of what is run behind these words.
    pub fn trace(&self, run: impl FnOnce(&str) -> Ended) -> Vec<Point> {
        let file = self.trace_file();
        let before = format!("strace {SEEN} -ttt -s 200 -qq -o {}", file.display());
        // Without -f: the refresher is another process. `-ttt` stands where -f would put the process.
        let ended = run(&before);
        assert!(ended.exit.success(), "{}", ended.stderr);
        let text = std::fs::read_to_string(file).expect("strace writes");
        // One process, so that the times count as its number.
        let lines: Vec<String> =
            text.lines().filter_map(|line| Some(format!("1 {}", line.split_once(' ')?.1))).collect();
        points(&lines.join("\n"))
    }

    /// The refresher as a request starts it, with the locked file as its standard input.
    pub fn refresher(&self, before: &str) -> ExitStatus {
        let proxy = &self.proxy;
        let lock = proxy.sandbox.tokens().join(format!("{}.lock", proxy.stem()));
        if !lock.exists() {
            proxy.sandbox.write_token_file(&format!("{}.lock", proxy.stem()), "");
        }
        let script = format!("exec 0<>\"$1\"; flock -n 0 || exit 99; exec {before} \"$2\" refresher \"$3\"");
        let mut command = proxy.sandbox.command("/bin/sh");
        command.arg("-c").arg(script).arg("sh").arg(lock).arg(self.real()).arg(proxy.portal().name());
        command.env("B24PROXY_CONFIG", proxy.sandbox.config()).current_dir("/");
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("a shell")
    }

    pub fn trace_refresher(&self) -> Vec<Point> {
        let file = self.trace_file();
        let status = self.refresher(&format!("strace {SEEN} -f -s 200 -qq -o {}", file.display()));
        assert!(status.success(), "strace (Debian package strace) or flock is missing, or a refresh fails: {status}");
        points(&std::fs::read_to_string(file).expect("strace writes"))
    }

    pub fn refreshers(&self) -> Vec<u32> {
        let refreshes = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1) == Some(b"refresher")
        };
        self.proxy.sandbox.processes().into_iter().filter(refreshes).collect()
    }

    /// Until every process has ended and the simulator has finished what they had sent.
    pub fn settle(&self) -> Ledger {
        eventually("the refresher has ended", || self.refreshers().is_empty());
        let simulator = &self.proxy.simulator;
        if simulator.ledger().all_connections() > 0 {
            // What a killed process has sent may still be on its way.
            std::thread::sleep(Duration::from_millis(30));
        }
        let done = |ledger: &Ledger| {
            let open = |kind: &Kind| matches!(kind, Kind::Token { outcome, .. } if outcome.is_empty());
            !ledger.entries.iter().any(|entry| open(&entry.kind) && entry.status.is_none() && entry.faults.is_empty())
        };
        assert!(simulator.wait_for(QUICK, done), "the simulator finishes");
        simulator.ledger()
    }

    /// Whether the live refresh token is on disk: stored, or whole in the file that takes its place.
    pub fn live_is_on_disk(&self) -> bool {
        let live = |bytes: Option<Vec<u8>>| {
            let tokens: Option<Value> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let token = tokens.and_then(|tokens| tokens["refresh_token"].as_str().map(str::to_owned));
            token.is_some_and(|token| self.proxy.portal().is_live(&token))
        };
        let next = self.proxy.sandbox.token_file(&format!("{}.json.new", self.proxy.stem()));
        live(self.proxy.stored_bytes()) || live(next)
    }

    /// A call after everything works at once, is executed once more, and leaves the live pair and nothing else behind.
    #[track_caller]
    pub fn assert_next_call_works(&self, after: &str) {
        let before = self.proxy.simulator.ledger();
        let answer = self.call();
        assert_eq!(answer.status, 200, "{after}: {} {}", answer.text(), answer.stderr);
        assert!(answer.elapsed < QUICK, "{after}: {:?}", answer.elapsed);
        let ledger = self.settle();
        assert_eq!(ledger.executed(METHOD), before.executed(METHOD) + 1, "{after}");
        assert_eq!(ledger.spent_presented(), before.spent_presented(), "{after}: a spent token was presented");
        let stored = self.proxy.stored();
        assert!(self.proxy.portal().is_live(stored["refresh_token"].as_str().unwrap()), "{after}: a dead pair");
        self.assert_tidy(after);
    }

    /// The next call says that a refresh was interrupted, having tried the old token once; the one after, without.
    #[track_caller]
    pub fn assert_interrupted(&self, after: &str) {
        for _ in 0..2 {
            let answer = self.call();
            assert_failure(&answer, 409, "reinstall_required");
            assert!(answer.json()["error"].as_str().unwrap().contains("interrupted"), "{after}: {}", answer.text());
            assert!(answer.elapsed < QUICK, "{after}: {:?}", answer.elapsed);
            let ledger = self.settle();
            assert_eq!((ledger.refreshes(), ledger.spent_presented()), (2, 1), "{after}: the old token is tried once");
            assert_eq!(ledger.executed(METHOD), 0, "{after}");
        }
        self.proxy.stored();
        self.assert_tidy(after);
    }

    #[track_caller]
    pub fn assert_tidy(&self, after: &str) {
        let stem = self.proxy.stem();
        let expected = ["json", "lock", "limits", "gate"].map(|ending| format!("{stem}.{ending}"));
        for entry in std::fs::read_dir(self.proxy.sandbox.tokens()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(name == "idempotency" || expected.contains(&name), "{after}: {name} is left behind");
        }
    }
}
