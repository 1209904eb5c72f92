//! Requests of every kind made wrong by chance, sent to the executable as a CGI process, with a portal and an OAuth server
//! that misbehave, over a token folder that is damaged now and then.
//!
//! [`requests`] has the requests and [`mutate`] makes them wrong, [`portal`] says what Bitrix24 does, [`world`] holds a
//! proxy and runs the program, [`judge`] knows what must hold each time.
//!
//! `B24PROXY_FUZZ_REQUESTS=50000` makes the long form; `B24PROXY_FUZZ_SEED=…` repeats a run. A failure names the seed and
//! the number that repeat it alone.

#[allow(dead_code)]
#[path = "../contract/fixture.rs"]
mod fixture;
mod judge;
mod mutate;
mod portal;
mod requests;
mod world;

use fixture::unix_now;
use judge::Verdict;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::Instant;
use support::{number, Random};
use world::World;

/// One after another, with what those before left behind. Each world has a seed of its own.
const REQUESTS_A_WORLD: u64 = 100;

/// What became of the requests of all worlds.
#[derive(Default)]
struct Tally {
    statuses: BTreeMap<u16, usize>,
    reached: usize,
    executed: usize,
    faulty: usize,
    repeated: usize,
    slowest: f64,
}

#[test]
fn whatever_is_sent_and_whatever_bitrix24_does_there_is_one_true_answer_in_time_and_no_secret_in_it() {
    let requests = number("B24PROXY_FUZZ_REQUESTS").unwrap_or(5000);
    let seed = number("B24PROXY_FUZZ_SEED").unwrap_or(unix_now() as u64 * 1000);
    println!("B24PROXY_FUZZ_SEED={seed} B24PROXY_FUZZ_REQUESTS={requests}");
    let worlds = requests.div_ceil(REQUESTS_A_WORLD);
    let (next, tally, failures) = (AtomicU64::new(0), Mutex::new(Tally::default()), Mutex::new(Vec::new()));
    // More than cores: one request in fifty waits for its timeout, and all for the disk.
    let threads = 4 * std::thread::available_parallelism().map_or(2, usize::from);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| loop {
                let world = next.fetch_add(1, Ordering::Relaxed);
                if world >= worlds {
                    break;
                }
                let count = REQUESTS_A_WORLD.min(requests - world * REQUESTS_A_WORLD);
                if let Err(failure) = live(seed.wrapping_add(world), count, &tally) {
                    failures.lock().expect("no thread panicked").push(failure);
                }
            });
        }
    });
    let (tally, failures) = (tally.into_inner().expect("no panic"), failures.into_inner().expect("no panic"));
    let done: usize = tally.statuses.values().sum();
    println!(
        "{done} requests in {:.1} s, the slowest {:.1} s: {} reached a portal, {} had something executed, {} met a fault, \
         {} were repeated with their key; statuses {:?}",
        started.elapsed().as_secs_f64(),
        tally.slowest,
        tally.reached,
        tally.executed,
        tally.faulty,
        tally.repeated,
        tally.statuses,
    );
    assert!(failures.is_empty(), "{} of {worlds} worlds failed:\n\n{}", failures.len(), failures.join("\n\n"));
    let share = |count: usize| count * 100 / done;
    assert!(
        done < 1000 || share(tally.reached) > 20 && share(tally.executed) > 10 && tally.statuses.len() > 12,
        "few requests came far: the run proves little"
    );
}

/// So many requests, after one another, in a world of this seed.
fn live(seed: u64, count: u64, tally: &Mutex<Tally>) -> Result<(), String> {
    let mut random = Random(seed);
    let mut world = World::new(&mut random);
    let mut logs = String::new();
    for number in 1..=count {
        one(&mut world, &mut random, tally, &mut logs).map_err(|what| {
            format!("B24PROXY_FUZZ_SEED={seed} B24PROXY_FUZZ_REQUESTS={number} cargo test --test fuzz\n{what}")
        })?;
    }
    judge::judge_logs(&world, &logs)
        .map_err(|what| format!("B24PROXY_FUZZ_SEED={seed} B24PROXY_FUZZ_REQUESTS={count}, at its end: {what}\n{logs}"))
}

fn one(world: &mut World, random: &mut Random, tally: &Mutex<Tally>, logs: &mut String) -> Result<(), String> {
    let (sent, before) = world.prepare(random);
    let mut run = |world: &mut World| -> Result<(Verdict, f64), String> {
        let ended = world.run(&sent);
        logs.push_str(&ended.log);
        let verdict = judge::judge(world, &sent, &before, &ended).map_err(|what| {
            format!(
                "{what}\n{sent}\n--- before: stored {:?}, damaged {}, configured {}, {:?}\n--- answer after {:?}\n{}\n--- log\n{}\n--- Bitrix24\n{}",
                before.stored.is_some(),
                before.damaged,
                before.configured,
                before.faults,
                ended.elapsed,
                shortened(&String::from_utf8_lossy(&ended.stdout)),
                shortened(&ended.log),
                shortened(&world.proxy.simulator.ledger().to_json().to_string()),
            )
        })?;
        Ok((verdict, ended.elapsed.as_secs_f64()))
    };
    let (first, took) = run(world)?;
    let repeats = judge::has_key(&sent) && !before.damaged;
    if repeats {
        world.proxy.simulator.clear_ledger();
        let (second, _) = run(world)?;
        judge::judge_repeated(&sent, &first, &second).map_err(|what| {
            let bodies = [&first, &second].map(|verdict| shortened(&String::from_utf8_lossy(&verdict.body)));
            format!("{what}\n{sent}\n--- before: {:?}\n--- answers\n{}", before.faults, bodies.join("\n"))
        })?;
    }
    if !before.configured {
        world.configure();
    }
    let mut tally = tally.lock().expect("no thread panicked");
    *tally.statuses.entry(first.status).or_default() += 1;
    tally.reached += usize::from(first.reached);
    tally.executed += usize::from(!first.executed.is_empty());
    tally.faulty += usize::from(!before.faults.is_empty());
    tally.repeated += usize::from(repeats);
    tally.slowest = tally.slowest.max(took);
    Ok(())
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(3000) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}
