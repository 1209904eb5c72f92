//! Cost against size.

use crate::results::{reached, Run};
use crate::{Bench, CALM, PROXY};
use std::fmt::Write as _;

/// What costs less than so many times as much does not grow, as far as can be told.
const LEVEL: f64 = 1.0 + CALM;

impl Bench {
    /// Cost against size: that of a body may grow with it, that of portals and keys beside the one in use may not.
    pub fn growth(&self, count: usize) -> String {
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
        let (linear, figures) = linearity(&bodies);
        let _ = writeln!(text, "\n- body size: grows no faster than linear, {figures}: {}", reached(linear));
        for (what, points) in [("number of portals", portals), ("stored idempotency keys", keys)] {
            let ratio = points[points.len() - 1].1 / points[0].1;
            let verdict = reached(ratio < LEVEL);
            let _ = writeln!(text, "- {what}: the most cost {ratio:.2} times what the fewest do: {verdict}");
        }
        text.push('\n');
        text
    }
}

/// Whether the last step cost at most one and a half times as much for its size as all before it; differences
/// below half a millisecond are noise.
fn linearity(points: &[(f64, f64)]) -> (bool, String) {
    let [(x0, y0), .., (x1, y1), (x2, y2)] = *points else { panic!("three points or more") };
    let before = (y1 - y0).max(0.5);
    let expected = y0 + before * (x2 - x0) / (x1 - x0);
    (y2 <= y0 + 1.5 * (expected - y0), format!("{y0:.2} ms at {x0}, {y1:.2} at {x1}, {y2:.2} at {x2}"))
}
