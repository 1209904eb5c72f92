//! Cost against size, and against how far a call comes.

use crate::results::{Run, Target};
use crate::{Bench, CALM, EMPTY, PROXY};
use std::fmt::Write as _;

/// What costs less than so many times as much does not grow, as far as can be told.
const LEVEL: f64 = 1.0 + CALM;

impl Bench {
    /// Cost against size: that of a body may grow with it, that of portals and keys beside the one in use may not.
    pub fn growth(&self, count: usize, targets: &mut Vec<Target>) -> String {
        let mut text = String::from("| the program alone | ms | CPU, ms | peak memory, MiB |\n|---|---:|---:|---:|\n");
        let mut line = |what: String, run: &Run| {
            let _ = writeln!(text, "| {what} | {:.2} | {:.2} | {:.1} |", run.wall, run.cpu, run.memory);
        };
        let mut bodies = Vec::new();
        for kib in [1, 16, 256, 1024, 4096, 16384] {
            let filler = "x".repeat(kib * 1024);
            let body = self.body.replace("Стол", &filler);
            self.sandbox.write("bench/large", 0o644, body.as_bytes());
            let run = self.run(PROXY, "bench/large", if kib > 1000 { count.min(5) } else { count }, None);
            line(format!("body of {kib} KiB"), &run);
            bodies.push((kib as f64, run.wall));
        }
        let mut portals = Vec::new();
        for others in [0, 10, 100, 1000] {
            self.configure(&self.portal(), others);
            let run = self.run(PROXY, "bench/body", count, None);
            line(format!("{} portals", others + 1), &run);
            portals.push((others as f64, run.wall));
        }
        self.configure(&self.portal(), 0);

        let mut keys = Vec::new();
        let mut stored = 0;
        for wanted in [0, 10, 100, 1000 - count] {
            if wanted > stored {
                self.run(PROXY, "bench/body", wanted - stored, Some(&format!("fill-{wanted}")));
                stored = wanted;
            }
            let run = self.run(PROXY, "bench/body", count, Some(&format!("key-{wanted}")));
            line(format!("a new idempotency key beside {stored}"), &run);
            keys.push((stored as f64, run.wall));
            stored += count;
        }
        let (value, linear) = linearity(&bodies);
        targets.push(Target { what: "body size: grows no faster than linear".into(), value, reached: linear });
        for (what, points) in [("portals", portals), ("stored idempotency keys", keys)] {
            let value = points[points.len() - 1].1 / points[0].1;
            let what = format!("{what}: the most cost no more than the fewest do");
            targets.push(Target { what, value, reached: value < LEVEL });
        }
        text.push('\n');
        text
    }

    /// What each part of the way through the program adds: calls that end later and later.
    pub fn ways(&self, count: usize) -> String {
        self.sandbox.write("bench/elsewhere", 0o644, self.body.replace(&self.portal(), "portal-0.test").as_bytes());
        let mut text =
            String::from("| the program alone, up to | ms | CPU, ms | page faults |\n|---|---:|---:|---:|\n");
        let ways = [
            ("the empty program", EMPTY, "bench/body", None),
            ("no configuration found", PROXY, "bench/body", Some(("B24PROXY_CONFIG", "/nowhere/proxy.toml"))),
            ("no such address", PROXY, "bench/body", Some(("PATH_INFO", "/nothing"))),
            ("no such portal", PROXY, "bench/elsewhere", None),
            ("the whole call", PROXY, "bench/body", None),
        ];
        for (what, contestant, body, variable) in ways {
            let run = self.run_with(contestant, body, count, None, variable);
            let _ = writeln!(text, "| {what} | {:.2} | {:.2} | {:.0} |", run.wall, run.cpu, run.faults);
        }
        text.push('\n');
        text
    }
}

/// How many times what it would cost if it grew as before the last step does, and whether that is at most one and a half times
/// as much. Differences below half a millisecond are noise.
fn linearity(points: &[(f64, f64)]) -> (f64, bool) {
    let [(x0, y0), .., (x1, y1), (x2, y2)] = *points else { panic!("three points or more") };
    let before = (y1 - y0).max(0.5);
    let expected = before * (x2 - x0) / (x1 - x0);
    let value = (y2 - y0) / expected;
    (value, value <= 1.5)
}
