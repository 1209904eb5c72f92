//! Events that many senders post through Apache and nginx, while a reader polls and processes are killed.
//!
//! `B24PROXY_LOAD_EVENTS=1000` posts so many; `B24PROXY_LOAD_SEED=…` repeats what a run that failed has chosen.

use crate::fixture::{unix_now, Proxy, TOKEN};
use serde_json::{json, Value};
use simulator::Options;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::cgi::Cgi;
use support::database::{shared, Kind as Database};
use support::webserver::{Kind, WebServer};
use support::{number, signal, Random};

const PROGRAM: &str = "/cgi-bin/b24proxy";
const SENDERS: u64 = 50;

struct World {
    proxy: Proxy,
    servers: [WebServer; 2],
    seed: u64,
    /// Of events.
    count: u64,
    next: AtomicU64,
    /// The senders are done.
    over: AtomicBool,
}

impl World {
    fn on(database: Option<Database>, count: u64) -> World {
        let proxy = Proxy::with(Options { https: false, ..Options::default() });
        let proxy = match database {
            Some(kind) => proxy.on_database(shared(kind).database()),
            None => proxy.on_files(),
        };
        proxy.store_pair(&proxy.portal().issue_pair(1));
        proxy.change_stored(|tokens| tokens["application_token"] = proxy.portal().application_token().into());
        let servers = [Kind::Nginx, Kind::ApacheCgid].map(|kind| WebServer::start(&proxy.sandbox, kind));
        let seed = number("B24PROXY_LOAD_SEED").unwrap_or(unix_now() as u64);
        println!("B24PROXY_LOAD_EVENTS={count} B24PROXY_LOAD_SEED={seed}");
        World { proxy, servers, seed, count, next: AtomicU64::new(0), over: AtomicBool::new(false) }
    }

    fn random(&self, of: u64) -> Random {
        Random(self.seed ^ of.wrapping_mul(0x5851_f42d_4c95_7f2d))
    }

    /// The events of one sender that were answered 200, in its order.
    fn send(&self, sender: u64) -> Vec<u64> {
        let (mut random, mut taken) = (self.random(sender), Vec::new());
        loop {
            let event = self.next.fetch_add(1, Ordering::SeqCst);
            if event >= self.count {
                return taken;
            }
            let form = self.proxy.portal().report("ONCRMDEALADD", &[("[FIELDS][ID]", &event.to_string())]);
            if self.post(&form, &mut random) {
                taken.push(event);
            }
        }
    }

    /// Whether it was answered 200.
    fn post(&self, form: &str, random: &mut Random) -> bool {
        if random.percent(8) {
            let cgi = Cgi::new(&self.proxy.sandbox).as_cgi().form(form);
            let mut running = cgi.content_length(Some(form.len())).spawn();
            let _ = running.write(form.as_bytes());
            running.end_body();
            std::thread::sleep(Duration::from_millis(random.below(60)));
            running.signal("KILL");
            return running.wait_unless_killed().is_some_and(|answer| answer.status == 200);
        }
        let request = self.servers[random.index(2)].request("POST", PROGRAM);
        let request = request.header("Content-Type", "application/x-www-form-urlencoded").body(form);
        match request.timeout(Duration::from_secs(30)).try_send() {
            Ok(answer) if answer.status == 200 => {
                assert_eq!(answer.text(), r#"{"status":"ok"}"#);
                true
            }
            // The process was killed.
            Ok(answer) => {
                assert!([500, 502, 503].contains(&answer.status), "{} {}", answer.status, answer.text());
                false
            }
            Err(_) => false,
        }
    }

    /// Every now and then a process of the program is killed, wherever it is.
    fn kill(&self) {
        let mut random = self.random(1000);
        while !self.over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20 + random.below(60)));
            let program = self.proxy.sandbox.executable();
            let is_program = |pid: &u32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program);
            let processes: Vec<u32> = self.proxy.sandbox.processes().into_iter().filter(is_program).collect();
            if !processes.is_empty() {
                signal(processes[random.index(processes.len())], "KILL");
            }
        }
    }

    /// What a reader that stores its number gets, until there is no more.
    fn read(&self) -> Vec<Value> {
        let (mut random, mut read, mut last) = (self.random(2000), Vec::new(), 0);
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < Duration::from_secs(300), "the reader gets nowhere behind {last}");
            let over = self.over.load(Ordering::SeqCst);
            let asked = json!({"events": {"after": last, "most": 1 + random.below(60), "wait": random.below(2)}});
            let request = self.servers[random.index(2)].request("POST", PROGRAM).bearer(TOKEN).json(asked.to_string());
            let Ok(answer) = request.timeout(Duration::from_secs(30)).try_send() else { continue };
            if answer.status != 200 {
                assert!([500, 502, 503].contains(&answer.status), "{} {}", answer.status, answer.text());
                continue;
            }
            // An answer that is lost.
            if random.percent(10) && !over {
                continue;
            }
            let data = &answer.json()["data"];
            assert_eq!(data["lost"], 0, "{data}");
            let events = data["events"].as_array().expect("events");
            read.extend(events.iter().cloned());
            last = data["last"].as_u64().expect("a number");
            if over && events.is_empty() {
                return read;
            }
        }
    }
}

fn each_that_was_answered_200_is_read_in_order_none_twice_none_invented(database: Option<Database>, count: u64) {
    let world = World::on(database, count);
    let started = Instant::now();
    let (taken, read) = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                scope.spawn({
                    let world = &world;
                    move || world.send(sender)
                })
            })
            .collect();
        let reader = scope.spawn(|| world.read());
        let killer = scope.spawn(|| world.kill());
        let taken: Vec<Vec<u64>> = senders.into_iter().map(|sender| sender.join().expect("a sender")).collect();
        world.over.store(true, Ordering::SeqCst);
        killer.join().expect("the killer");
        (taken, reader.join().expect("the reader"))
    });
    let answered: usize = taken.iter().map(Vec::len).sum();
    println!(
        "{database:?}: {answered} of {count} answered 200, {} read, {:.1} s",
        read.len(),
        started.elapsed().as_secs_f32()
    );
    let numbers: Vec<u64> = read.iter().map(|event| event["number"].as_u64().expect("a number")).collect();
    assert_eq!(numbers, (1..=read.len() as u64).collect::<Vec<_>>(), "without a gap, in order");
    let id = |event: &Value| event["data"]["FIELDS"]["ID"].as_str().expect("an ID").parse::<u64>().expect("a number");
    let places: BTreeMap<u64, usize> = read.iter().enumerate().map(|(place, event)| (id(event), place)).collect();
    assert_eq!(places.len(), read.len(), "none twice");
    assert!(places.keys().all(|id| *id < count), "none invented");
    let all: BTreeSet<u64> = taken.iter().flatten().copied().collect();
    let missing: Vec<&u64> = all.iter().filter(|id| !places.contains_key(id)).collect();
    assert!(missing.is_empty(), "answered 200 and not read: {missing:?}, seed {}", world.seed);
    for of_sender in &taken {
        let places: Vec<usize> = of_sender.iter().map(|id| places[id]).collect();
        assert!(places.is_sorted(), "in the order in which they were answered: {of_sender:?}");
    }
    assert!(answered as u64 * 10 > count * 7 && (answered as u64) < count, "{answered}: the run proves little");
}

#[test]
fn of_events_that_50_senders_post_while_processes_are_killed_each_answered_200_is_read_once_in_order() {
    let count = number("B24PROXY_LOAD_EVENTS").unwrap_or(1000);
    each_that_was_answered_200_is_read_in_order_none_twice_none_invented(None, count);
}

#[test]
fn on_a_database_it_is_the_same() {
    let count = number("B24PROXY_LOAD_EVENTS").unwrap_or(400);
    for kind in [Database::Postgres, Database::MySql] {
        each_that_was_answered_200_is_read_in_order_none_twice_none_invented(Some(kind), count);
    }
}
