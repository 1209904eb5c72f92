//! Contract section 5, points 2 and 3: killed before each system call, nothing is lost and nothing executed twice.

use crate::bench::*;
use crate::fixture::assert_failure;
use simulator::{Action, Fault, Target, TokenPair};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::cgi::Ended;
use support::eventually;

const KILL: i32 = 9;
const TERM: i32 = 15;

/// After a refresher was killed: what the next call must say depends on nothing but whether the new pair is on disk.
fn judge(bench: &Bench, after: &str) -> bool {
    let ledger = bench.settle();
    assert_eq!(ledger.spent_presented(), 0, "{after}");
    bench.proxy.stored();
    let lost = !bench.live_is_on_disk();
    if lost {
        bench.assert_interrupted(after);
    } else {
        bench.assert_next_call_works(after);
    }
    lost
}

#[test]
fn a_refresher_killed_before_any_of_its_system_calls_costs_at_most_the_pair_that_was_not_yet_on_disk() {
    let bench = Bench::new();
    bench.prepare(true);
    let points = bench.trace_refresher();
    let (killed, lost) = (Count::default(), Count::default());
    in_parallel(&points, Bench::new, |bench, _, point| {
        bench.prepare(true);
        let status = bench.refresher(&bench.striking(point, "KILL", "-f"));
        assert!(status.success() || status.signal() == Some(KILL), "{point:?}: {status}");
        killed.add(!status.success());
        let step = bench.step();
        let was_lost = judge(bench, &format!("{point:?}"));
        lost.add(was_lost);
        let has = |call: &str| step.lines().any(|line| line.contains(call) && line.ends_with("= 0"));
        let is_in_window = step.contains(" connect(") && !has(" rename(");
        assert!(!was_lost || is_in_window, "{point:?} is outside of the one window:\n{step}");
    });
    // The number of network reads varies; all others are the same each time.
    assert!(killed.get() * 10 > points.len() * 9, "{} of {} points were reached", killed.get(), points.len());
    assert!((1..points.len() / 4).contains(&lost.get()), "the window is there and is small: {}", lost.get());
}

/// The same in a whole request, at the calls that only the refresher makes, so that strace strikes it and not its starter.
#[test]
fn a_request_whose_refresher_is_killed_is_answered_and_the_next_one_goes_on() {
    let names = [("fsync", 3), ("fdatasync", 2), ("connect", 1), ("rename", 1), ("ftruncate", 2)];
    let points: Vec<Point> = names
        .into_iter()
        .flat_map(|(name, count)| (1..=count).map(move |nth| Point { name: name.into(), nth, line: String::new() }))
        .collect();
    let answered = Count::default();
    in_parallel(&points, Bench::new, |bench, _, point| {
        bench.prepare(true);
        let request = bench.request(&bench.striking(point, "KILL", "-f"));
        // Its starter puts a whole pair in place with the same calls, so these strike it too: both are gone.
        let takes_the_starter_too = ["rename", "ftruncate"].contains(&point.name.as_str());
        if takes_the_starter_too {
            bench.run(request);
            judge(bench, &format!("{point:?} of both"));
            return;
        }
        let answer = bench.run_to_answer(request);
        let ledger = bench.settle();
        assert_eq!(ledger.executed(METHOD), usize::from(answer.status == 200), "{point:?}: {}", answer.text());
        if answer.status != 200 {
            assert_failure(&answer, 503, "refresh_pending");
            assert!(answer.stderr.contains("the refresher ended"), "{}", answer.stderr);
        }
        answered.add(answer.status == 200);
        judge(bench, &format!("{point:?}"));
    });
    assert!((1..points.len()).contains(&answered.get()), "{} of {}", answered.get(), points.len());
}

/// What a request's process does from the moment where it needs the lock; with `B24PROXY_FULL`, everything it does.
fn from_the_lock_on(bench: &Bench, how: How) -> Vec<Point> {
    how.prepare(bench);
    let points = bench.trace_request(|request| request);
    let lock = points.iter().position(|point| point.line.contains(".lock")).expect("the lock is opened");
    points[if is_full() { 0 } else { lock }..].to_vec()
}

/// How a request's process is ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Kill,
    Term,
    /// Stopped at the point, so that its whole process group can be killed there.
    KillGroup,
}

impl How {
    /// An expired pair; and where few points are taken, an OAuth server that is slow enough for them to be in time.
    fn prepare(self, bench: &Bench) -> TokenPair {
        let pair = bench.prepare(true);
        if self != How::Kill {
            let slow = Action::DelayAnswer(Duration::from_millis(150));
            bench.proxy.simulator.inject(Fault::once(Target::Token, slow));
        }
        pair
    }

    fn end(self, bench: &Bench, point: &Point) -> Ended {
        let signal = match self {
            How::Kill => "KILL",
            How::Term => "TERM",
            How::KillGroup => "STOP",
        };
        // Without -f: only the request's own process is struck.
        let mut running = bench.start(bench.request(&bench.striking(point, signal, "")));
        if self == How::KillGroup {
            while running.is_running() && !bench.step().contains("stopped by SIGSTOP") {
                std::thread::sleep(Duration::from_millis(2));
            }
            running.signal_group("KILL");
        }
        running.wait_for_end()
    }
}

/// Ends requests in one way, at every so many of the points.
fn end_requests(how: How, every: usize) {
    let points = from_the_lock_on(&Bench::new(), how);
    let points: Vec<Point> = points.into_iter().step_by(if is_full() { 1 } else { every }).collect();
    let (killed, outlived) = (Count::default(), Count::default());
    in_parallel(&points, Bench::new, |bench, _, point| {
        let old = how.prepare(bench);
        let ended = how.end(bench, point);
        let signal = if how == How::Term { TERM } else { KILL };
        assert!(ended.exit.success() || ended.exit.signal() == Some(signal), "{point:?}: {}", ended.exit);
        killed.add(!ended.exit.success());
        let ledger = bench.settle();
        assert!(ledger.executed(METHOD) <= 1, "{point:?}");
        assert!(ledger.refreshes() <= 1 && ledger.spent_presented() == 0, "{point:?}");
        let is_new = bench.proxy.stored()["refresh_token"] != old.refresh_token.as_str();
        assert_eq!(is_new, ledger.refreshes() == 1, "{point:?}: a refresh once begun is finished");
        outlived.add(is_new && !ended.exit.success());
        bench.assert_next_call_works(&format!("{how:?} at {point:?}"));
        assert_eq!(bench.settle().refreshes(), 1, "{point:?}");
    });
    assert!(killed.get() * 10 > points.len() * 8, "{} of {} points were reached", killed.get(), points.len());
    assert!(outlived.get() > 0, "some refreshes outlived their request");
}

#[test]
fn a_request_killed_at_any_of_its_system_calls_leaves_a_live_pair_and_a_free_lock() {
    end_requests(How::Kill, 1);
}

#[test]
fn a_request_terminated_by_the_web_server_leaves_a_live_pair_and_a_free_lock() {
    end_requests(How::Term, 6);
}

#[test]
fn a_request_killed_with_its_whole_process_group_leaves_a_live_pair_and_a_free_lock() {
    end_requests(How::KillGroup, 6);
}

#[test]
fn a_call_with_an_idempotency_key_killed_at_any_of_its_system_calls_is_executed_at_most_once() {
    let bench = Bench::new();
    bench.prepare(false);
    let points = bench.trace_request(|request| request.header("Idempotency-Key", "traced"));
    let first = points.iter().position(|point| point.line.contains("/idempotency/")).expect("the journal is opened");
    let points: Vec<(usize, Point)> = points.into_iter().enumerate().skip(if is_full() { 0 } else { first }).collect();
    let (killed, replayed, unknown) = (Count::default(), Count::default(), Count::default());
    in_parallel(&points, Bench::new, |bench, _, (index, point)| {
        bench.prepare(false);
        // As when it was traced: this client's first key.
        let _ = std::fs::remove_dir_all(bench.proxy.sandbox.tokens().join("idempotency"));
        let key = format!("key-{index}");
        let keyed = |before: &str| bench.request(before).header("Idempotency-Key", &key);
        let ended = bench.run(keyed(&bench.striking(point, "KILL", "")));
        killed.add(!ended.exit.success());
        let step = bench.step();
        let has_begun = step.lines().any(|line| line.contains("\\\"begun\\\"") && !line.ends_with("= ?"));
        bench.settle();
        for _ in 0..2 {
            let sent = bench.settle().executed(METHOD);
            let answer = bench.run_to_answer(keyed(""));
            assert!(answer.elapsed < Duration::from_secs(4), "{point:?}: {:?}", answer.elapsed);
            let executed = bench.settle().executed(METHOD);
            assert!(executed <= 1, "{point:?}: executed twice");
            let is_replay = answer.header("Idempotent-Replayed") == Some("true");
            match answer.status {
                200 => {
                    assert_eq!(executed, 1, "{point:?}: {}", answer.text());
                    assert_eq!(is_replay, sent == 1, "{point:?}: {}", answer.text());
                    replayed.add(is_replay);
                }
                _ => {
                    assert_failure(&answer, 409, "outcome_unknown");
                    assert_eq!(executed, sent, "{point:?}: not executed again");
                    assert!(has_begun, "{point:?}: {}", answer.text());
                    unknown.add(true);
                }
            }
            if !has_begun {
                assert_eq!(answer.status, 200, "{point:?}: nothing was sent: {}", answer.text());
            }
        }
        bench.assert_tidy(&format!("{point:?}"));
    });
    assert!(killed.get() * 10 > points.len() * 8, "{} of {} points were reached", killed.get(), points.len());
    assert!(unknown.get() > 0 && replayed.get() > points.len() / 2, "{} {}", unknown.get(), replayed.get());
}

#[test]
fn an_idempotency_key_survives_a_kill_while_its_call_is_being_executed() {
    let bench = Bench::new();
    for action in [Action::Hang, Action::HangAfter] {
        bench.prepare(false);
        bench.proxy.simulator.inject(Fault::once(Target::Call, action.clone()));
        let key = format!("{action:?}");
        let running = bench.start(bench.request("").header("Idempotency-Key", &key));
        assert!(bench.proxy.simulator.wait_hanging(1, Duration::from_secs(10)));
        running.signal_group("KILL");
        running.wait_for_end();
        bench.proxy.simulator.release();
        eventually("it is executed", || bench.proxy.simulator.ledger().executed(METHOD) == 1);
        for _ in 0..3 {
            let answer = bench.run_to_answer(bench.request("").header("Idempotency-Key", &key));
            assert_failure(&answer, 409, "outcome_unknown");
            assert_eq!(answer.json()["executed"], "unknown");
        }
        assert_eq!(bench.proxy.simulator.ledger().calls(METHOD), 1, "{action:?}");
    }
}

/// The journal of the only key.
fn only_journal(bench: &Bench) -> PathBuf {
    let below =
        |folder: &Path| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let [folder] = &below(&bench.proxy.sandbox.tokens().join("idempotency"))[..] else { panic!("one client") };
    below(folder).into_iter().find(|path| path.extension().is_some_and(|e| e == "call")).expect("a journal")
}

fn write_journal(bench: &Bench, bytes: &[u8]) {
    let path = only_journal(bench);
    let relative = path.strip_prefix(bench.proxy.sandbox.path()).unwrap();
    bench.proxy.sandbox.write(relative.to_str().unwrap(), 0o600, bytes);
}

/// A machine that dies while the intent is being written leaves a part of it, or zeros; nothing was sent then.
#[test]
fn a_journal_of_which_the_beginning_was_not_written_whole_still_keeps_the_next_call_from_being_executed_twice() {
    let bench = Bench::new();
    bench.prepare(false);
    let keyed = || bench.run_to_answer(bench.request("").header("Idempotency-Key", "key"));
    assert_eq!(keyed().status, 200);
    let whole = std::fs::read(only_journal(&bench)).unwrap();
    for rest in [&whole[..1], &whole[..40], &[0; 100], b"\n"] {
        write_journal(&bench, rest);
        bench.proxy.simulator.clear_ledger();
        assert_eq!(keyed().status, 200);
        let again = keyed();
        assert_eq!(again.header("Idempotent-Replayed"), Some("true"), "{rest:?}: {}", again.text());
        assert_eq!(bench.settle().executed(METHOD), 1, "{rest:?}");
    }
}

/// Whoever counts a client's keys removes journals that nobody has begun, and must not take a new one for the old one
/// that stood in its place.
#[test]
fn a_key_that_is_claimed_while_another_request_sweeps_the_journals_is_executed_once() {
    let bench = Bench::new();
    bench.prepare(false);
    let keyed = |before: &str, key: &str| bench.run_to_answer(bench.request(before).header("Idempotency-Key", key));
    assert_eq!(keyed("", "key").status, 200);
    let journal = only_journal(&bench);
    // As a request that was killed before it began leaves it; and nobody knows how many keys there are.
    write_journal(&bench, b"");
    std::fs::remove_file(journal.with_file_name("usage")).unwrap();
    bench.proxy.simulator.clear_ledger();

    let is_open = || {
        let processes = bench.proxy.sandbox.processes().into_iter();
        let files = processes.filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).ok()).flatten().flatten();
        files.into_iter().any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target == journal))
    };
    std::thread::scope(|scope| {
        // The locks of its own journal, the limits and the count come at once; then it sweeps, slowly.
        let slow = "strace -qq -o /dev/null -e trace=flock -e inject=flock:delay_enter=1000000:when=4+";
        let sweeper = scope.spawn(|| keyed(slow, "sweeper"));
        eventually("the sweeper looks at the journal", is_open);
        // Its holder gives it up, and the next one claims the key.
        std::fs::remove_file(&journal).unwrap();
        assert_eq!(keyed("", "key").status, 200);
        assert_eq!(sweeper.join().unwrap().status, 200);
    });
    assert_eq!(keyed("", "key").header("Idempotent-Replayed"), Some("true"));
    assert_eq!(bench.settle().executed(METHOD), 2, "one of each key");
}
