//! Calls with keys from two nodes, as CGI and by FastCGI, while processes and the database are killed.
//!
//! `B24PROXY_NODES_CALLS=10000` makes the long form; `B24PROXY_LOAD_SEED=…` repeats what a run that failed has chosen.

use crate::fixture::{unix_now, Proxy, TOKEN};
use crate::{executions, more_clients, token_of};
use serde_json::{json, Value};
use simulator::Options;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};
use support::cgi::{Answer, Cgi};
use support::database::{Kind, Server};
use support::{eventually, number, signal, Random, Sandbox};

/// What a caller has heard of one attempt.
#[derive(Clone, Debug, PartialEq)]
enum Heard {
    /// With the result, and whether it is told again.
    Success(Value, bool),
    /// Not executed by this attempt.
    No(String),
    OutcomeUnknown,
    /// Killed.
    Nothing,
}

struct Nodes {
    one: Proxy,
    other: Sandbox,
}

impl Nodes {
    fn at(server: &'static Server, calls: usize) -> Nodes {
        let one = crate::proxy(Options { https: false, ..Options::default() }, 10_000, 10_000)
            .reconfigured("max_wait = 5", "max_wait = 2")
            .on_database(server.database());
        one.portal().remove_bucket();
        let clients = format!("{}\n{}", one.config(), more_clients(2 * calls));
        let one = one.configured(&clients);
        let other = Sandbox::new();
        other.write("b24proxy/ca.pem", 0o600, one.simulator.ca_pem().as_bytes());
        other.write_config(one.config());
        one.store_pair(&one.portal().issue_pair(1));
        Nodes { one, other }
    }

    fn both(&self) -> [&Sandbox; 2] {
        [&self.one.sandbox, &self.other]
    }

    fn attempt(&self, call: usize, random: &mut Random) -> Heard {
        let body = json!({"method": "crm.deal.add", "params": {"fields": {"TITLE": call.to_string()}}}).to_string();
        let request = Cgi::new(self.both()[random.index(2)])
            .method("POST")
            .json(body.clone())
            .content_length(Some(body.len()))
            // All have keys here, so there are twice as many clients.
            .bearer(&token_of(2 * call))
            .header("Idempotency-Key", &format!("key of {call}"));
        let is_cgi = random.percent(50);
        let mut running = if is_cgi { request.as_cgi() } else { request.as_resident() }.spawn();
        let _ = running.write(body.as_bytes());
        running.end_body();
        if is_cgi && random.percent(6) {
            std::thread::sleep(Duration::from_millis(random.below(80)));
            running.signal("KILL");
        }
        running.wait_unless_killed().map_or(Heard::Nothing, |answer| heard(&answer))
    }

    /// Until it is known what became of the call, and perhaps once more.
    fn make(&self, call: usize, random: &mut Random) -> Vec<Heard> {
        let mut all = Vec::new();
        let patience = Instant::now() + Duration::from_secs(120);
        loop {
            let heard = self.attempt(call, random);
            all.push(heard.clone());
            match heard {
                Heard::Success(..) | Heard::OutcomeUnknown if random.percent(80) => return all,
                Heard::Success(..) | Heard::OutcomeUnknown => {}
                Heard::No(_) => std::thread::sleep(Duration::from_millis(random.below(300))),
                Heard::Nothing => {}
            }
            assert!(Instant::now() < patience, "call {call}: {all:?}");
        }
    }
}

fn heard(answer: &Answer) -> Heard {
    let body = answer.json();
    if answer.status == 200 {
        let is_told_again = answer.header("Idempotent-Replayed") == Some("true");
        return Heard::Success(body["data"]["result"].clone(), is_told_again);
    }
    let code = body["error_code"].as_str().unwrap_or_default();
    match (answer.status, code, body["executed"].as_str()) {
        (409, "outcome_unknown", Some("unknown")) => Heard::OutcomeUnknown,
        (500, "storage_error", Some("no")) | (503, "refresh_pending" | "idempotency_key_in_use", Some("no")) => {
            Heard::No(code.to_owned())
        }
        // Until the node that has the new pair has stored it.
        (409, "reinstall_required", Some("no")) => Heard::No(code.to_owned()),
        _ => panic!("{} {}", answer.text(), answer.stderr),
    }
}

/// What is wrong with what was heard of one call.
fn disagreement(heard: &[Heard], executed: usize) -> Option<String> {
    let results: Vec<&Value> = heard
        .iter()
        .filter_map(|one| match one {
            Heard::Success(result, _) => Some(result),
            _ => None,
        })
        .collect();
    let definite = heard.iter().position(|one| matches!(one, Heard::Success(..) | Heard::OutcomeUnknown)).unwrap_or(0);
    let was_heard = |one: &Heard| !matches!(one, Heard::Nothing);
    let wrong = if executed > 1 {
        "it was executed twice"
    } else if results.iter().any(|result| **result != *results[0]) {
        "two results"
    } else if !results.is_empty() && executed == 0 {
        "a result of nothing"
    } else if heard[..definite].iter().all(was_heard) && matches!(heard[definite], Heard::Success(_, true)) {
        "all before said that it was not executed"
    } else if heard[..definite].iter().all(was_heard) && heard[definite] == Heard::OutcomeUnknown && executed > 0 {
        "all before said that it was not executed, and it was"
    } else if heard[definite..].windows(2).any(|two| {
        matches!(two, [Heard::OutcomeUnknown, Heard::Success(..)]) || matches!(two[1], Heard::Success(_, false))
    }) {
        "what was known has changed"
    } else {
        return None;
    };
    Some(format!("{wrong}: {heard:?}, executed {executed} times"))
}

/// Ends workers by chance and the server now and then, and lets tokens expire.
fn spoil(nodes: &Nodes, server: &Server, mut random: Random, goes_on: &AtomicBool) -> (usize, usize) {
    let (mut workers, mut servers) = (0, 0);
    for round in 0.. {
        if !goes_on.load(Ordering::SeqCst) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100 + random.below(400)));
        match round % 10 {
            5 => {
                server.kill();
                std::thread::sleep(Duration::from_millis(random.below(1000)));
                server.resume();
                servers += 1;
            }
            2 => nodes.one.portal().expire_access_tokens(),
            _ => {
                let all = random.pick(&nodes.both()).workers();
                if !all.is_empty() {
                    signal(*random.pick(&all), "KILL");
                    workers += 1;
                }
            }
        }
    }
    (workers, servers)
}

fn calls_with_keys(kind: Kind) {
    let calls = number("B24PROXY_NODES_CALLS").unwrap_or(300) as usize;
    let seed = number("B24PROXY_LOAD_SEED").unwrap_or(unix_now() as u64);
    println!("B24PROXY_NODES_CALLS={calls} B24PROXY_LOAD_SEED={seed}");
    let server: &'static Server = Box::leak(Box::new(Server::start(kind)));
    let nodes = Nodes::at(server, calls);
    let (next, goes_on) = (AtomicUsize::new(0), AtomicBool::new(true));
    let stories: Mutex<Vec<Vec<Heard>>> = Mutex::new(vec![Vec::new(); calls]);
    let started = Instant::now();
    let (workers, servers) = std::thread::scope(|scope| {
        let spoiler = scope.spawn(|| spoil(&nodes, server, Random(seed), &goes_on));
        let callers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| loop {
                    let call = next.fetch_add(1, Ordering::SeqCst);
                    if call >= calls {
                        break;
                    }
                    let mut random = Random(seed ^ (call as u64).wrapping_mul(0x5851_f42d_4c95_7f2d));
                    let heard = nodes.make(call, &mut random);
                    stories.lock().expect("no caller panicked")[call] = heard;
                })
            })
            .collect();
        let ended: Vec<_> = callers.into_iter().map(|caller| caller.join()).collect();
        goes_on.store(false, Ordering::SeqCst);
        ended.into_iter().for_each(|ended| ended.expect("a caller does not panic"));
        spoiler.join().expect("it does not panic")
    });
    let took = started.elapsed().as_secs_f64();
    for node in nodes.both() {
        eventually("no process is left", || node.processes().is_empty());
    }
    let ledger = nodes.one.simulator.ledger();
    let executions = executions(&ledger);
    let stories = stories.into_inner().expect("no caller panicked");
    let told = stories.iter().enumerate().filter_map(|(call, heard)| {
        disagreement(heard, executions.get(&call).map_or(0, Vec::len)).map(|what| format!("call {call}: {what}"))
    });
    let wrong: Vec<String> = told.collect();
    let count = |is: fn(&Heard) -> bool| stories.iter().flatten().filter(|heard| is(heard)).count();
    println!(
        "{kind:?}: {calls} calls, {} attempts in {took:.1} s: {} success, {} not executed, {} unknown, {} killed; \
         {workers} workers and {servers} times the server killed, {} refreshes, {} of them in vain",
        stories.iter().map(Vec::len).sum::<usize>(),
        count(|h| matches!(h, Heard::Success(..))),
        count(|h| matches!(h, Heard::No(_))),
        count(|h| *h == Heard::OutcomeUnknown),
        count(|h| *h == Heard::Nothing),
        ledger.refreshes(),
        ledger.spent_presented(),
    );
    assert!(wrong.is_empty(), "seed {seed}: {} calls:\n{}", wrong.len(), wrong.join("\n"));
    let succeeded = stories.iter().flatten().filter(|heard| matches!(heard, Heard::Success(_, false))).count();
    assert!(succeeded * 10 > calls * 8, "only {succeeded} calls succeeded: the run proves little");
    assert!(workers > 0 && servers > 0, "{workers} {servers}");
    nothing_is_left(&nodes);
}

/// Both nodes work, and an hour later no token is on them.
fn nothing_is_left(nodes: &Nodes) {
    let body = json!({"method": "sim.echo", "params": {}}).to_string();
    for node in nodes.both() {
        let works = || Cgi::new(node).method("POST").json(body.clone()).bearer(TOKEN).as_cgi().run().status == 200;
        eventually("it works", works);
        let files = || std::fs::read_dir(node.tokens()).expect("the token folder").flatten();
        for file in files().filter(|file| file.file_name().to_string_lossy().ends_with(".kept")) {
            let file = std::fs::File::options().append(true).open(file.path()).expect("it is ours");
            file.set_modified(SystemTime::now() - Duration::from_secs(3601)).expect("it is ours");
        }
        assert!(works());
        let names: Vec<String> = files().map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        assert!(names.iter().all(|name| name.ends_with(".lock")), "{names:?}");
    }
    // Whatever happened meanwhile, each key that is kept has one of its client's places.
    let database = nodes.one.sandbox.database().expect("it is on a database");
    let keys = match database.kind() {
        Kind::Postgres => "keys",
        Kind::MySql => "`keys`",
    };
    let wrong = database.sql(&format!(
        "SELECT client, {keys}, (SELECT count(*) FROM b24proxy_keys AS k WHERE k.client = c.client \
         AND begun_at IS NOT NULL) FROM b24proxy_clients AS c WHERE {keys} <> (SELECT count(*) FROM b24proxy_keys AS k \
         WHERE k.client = c.client AND begun_at IS NOT NULL)"
    ));
    assert_eq!(wrong, "");
}

#[test]
fn whatever_is_killed_no_call_with_a_key_is_executed_twice_on_two_nodes_at_postgresql_and_every_answer_is_true() {
    calls_with_keys(Kind::Postgres);
}

#[test]
fn whatever_is_killed_no_call_with_a_key_is_executed_twice_on_two_nodes_at_mariadb_and_every_answer_is_true() {
    calls_with_keys(Kind::MySql);
}
