//! Many calls in one request, and a whole list, against the same calls one by one.

use crate::load::Request;
use crate::results::median;
use crate::upstream::{PAGE, ROWS};
use crate::{ms, Bench, NGINX, TOKEN};
use serde_json::{json, Value};
use std::fmt::Write as _;
use std::time::Instant;

/// Calls in one request, and how many are made one by one beside it.
const TOGETHER: usize = 500;
const SINGLE: usize = 50;
/// A list that is read by pages.
const LIST: &str = "catalog.section.list";
const PROGRAMS: [(&str, &str); 2] = [("CGI", "/cgi-bin/b24proxy"), ("resident", "/resident/b24proxy")];

/// What each way takes, in each round; milliseconds a call.
struct Way {
    title: String,
    single: Vec<f64>,
    together: Vec<f64>,
}

pub struct Bulk(Vec<Way>);

impl Bench {
    /// One caller, under nginx.
    pub fn bulk(&self, rounds: usize) -> Bulk {
        let portal = self.portal();
        let call: Value = serde_json::from_str(&self.body).expect("our own");
        let one = json!({"method": call["method"], "params": call["params"]});
        let calls = json!({"domain": portal, "calls": vec![one; TOGETHER]}).to_string();
        let all = json!({"domain": portal, "method": LIST, "all": true}).to_string();
        let pages: Vec<String> = (0..ROWS / PAGE)
            .map(|page| json!({"domain": portal, "method": LIST, "params": {"start": page * PAGE}}).to_string())
            .collect();
        let singles = vec![self.body.clone(); SINGLE];
        let kinds = [(format!("{TOGETHER} calls"), singles, calls, TOGETHER), {
            let count = pages.len();
            (format!("a list of {count} pages of {PAGE}"), pages, all, count)
        }];
        let mut ways = Vec::new();
        for (title, ..) in &kinds {
            for (program, _) in PROGRAMS {
                ways.push(Way {
                    title: format!("{title} in one request, {program}"),
                    single: Vec::new(),
                    together: Vec::new(),
                });
            }
        }
        for _ in 0..rounds {
            let mut these = ways.iter_mut();
            for (_, singles, together, count) in &kinds {
                for (_, path) in PROGRAMS {
                    let way = these.next().expect("one for each");
                    way.single.push(median(singles.iter().map(|body| self.takes(path, body))));
                    way.together.push(median((0..3).map(|_| self.takes(path, together))) / *count as f64);
                }
            }
        }
        Bulk(ways)
    }

    /// Milliseconds of a request that must succeed with everything that was asked for.
    fn takes(&self, path: &str, body: &str) -> f64 {
        let begun = Instant::now();
        let request = Request { address: self.servers[NGINX].address(), path, token: TOKEN, body };
        let answer = request.send().expect("an answer");
        let took = ms(begun.elapsed());
        let whole = match () {
            () if body.contains("\"calls\"") => answer.contains("\"errors\":0") && !answer.contains("\"next\":"),
            () if body.contains("\"all\"") => answer.contains(&format!("\"total\":{ROWS},\"complete\":true")),
            () => answer.contains("\"success\":true"),
        };
        assert!(whole, "{path}: {answer:.500}");
        took
    }
}

impl Bulk {
    pub fn table(&self) -> String {
        let mut text =
            String::from("| | one by one, ms a call | in one, ms a call | times faster |\n|---|---:|---:|---:|\n");
        for way in &self.0 {
            let (title, single) = (&way.title, median(way.single.iter().copied()));
            let _ = writeln!(text, "| {title} | {single:.2} | {:.3} | {:.0} |", way.together(), way.faster());
        }
        text.push('\n');
        text
    }

    /// Lines of the one table in README.md.
    pub fn summary(&self) -> String {
        let line = |way: &Way| {
            let (title, each, faster) = (&way.title, way.together(), way.faster());
            format!("| {title} | | | {each:.3}: {faster:.0} times faster than one by one | | | |\n")
        };
        self.0.iter().map(line).collect()
    }
}

impl Way {
    fn together(&self) -> f64 {
        median(self.together.iter().copied())
    }

    fn faster(&self) -> f64 {
        median(self.single.iter().zip(&self.together).map(|(single, together)| single / together))
    }
}
