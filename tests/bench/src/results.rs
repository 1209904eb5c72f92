//! The figures of all rounds, and what is said of them.

use crate::load::Load;
use crate::processes::Memory;
use crate::{
    contestants, measured_under, ms, APACHE, CALLERS, CALM, CONTESTANTS, EMPTY, FOUR, GLIBC, KEPT, MOD_FCGID, NGINX,
    PHP_CGI, PHP_FPM, PHP_STREAM, PROXY, RESIDENT, SERVERS,
};
use std::fmt::Write as _;

/// How many times its CPU time the empty program may take.
const ALONE: f64 = 2.0;

/// What the runner measured of one program.
#[derive(Clone, Copy)]
pub struct Run {
    pub wall: f64,
    pub cpu: f64,
    pub memory: f64,
    pub faults: f64,
}

/// Figures of all rounds. Times are milliseconds, memory is MiB.
#[derive(Default)]
pub struct Results {
    /// By server, callers, contestant: the rounds.
    pub loads: Vec<(usize, usize, usize, Load)>,
    /// Contestant and round.
    pub runs: Vec<(usize, Run)>,
    pub bare: Vec<f64>,
    /// By contestant, with one caller.
    pub cpu: [Cpu; CONTESTANTS.len()],
    pub fpm_memory: f64,
    /// Of the resident program, after so many calls.
    pub memory: [(usize, Memory); 2],
    /// Of the executables.
    pub file: f64,
    pub glibc_file: f64,
}

/// CPU time that the processes beside the callers took for so many requests.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    all: f64,
    /// Of it what resident programs took.
    residents: f64,
    requests: usize,
}

impl Cpu {
    pub fn add(&mut self, before: [f64; 2], after: [f64; 2], requests: usize) {
        self.all += after[0] - before[0];
        self.residents += after[1] - before[1];
        self.requests += requests;
    }
}

impl Results {
    fn median(&self, server: usize, callers: usize, contestant: usize, value: impl Fn(&Load) -> f64) -> f64 {
        let these = |load: &&(usize, usize, usize, Load)| (load.0, load.1, load.2) == (server, callers, contestant);
        median(self.loads.iter().filter(these).map(|load| value(&load.3)))
    }

    fn rate(&self, server: usize, callers: usize, contestant: usize) -> f64 {
        self.median(server, callers, contestant, |load| load.per_second)
    }

    fn run(&self, contestant: usize, value: impl Fn(&Run) -> f64) -> f64 {
        median(self.runs.iter().filter(|run| run.0 == contestant).map(|run| value(&run.1)))
    }

    /// How many times as many requests as another in the same round.
    fn ratio(&self, server: usize, callers: usize, contestant: usize, other: usize) -> f64 {
        let rates = |who: usize| {
            let these = move |load: &&(usize, usize, usize, Load)| (load.0, load.1, load.2) == (server, callers, who);
            self.loads.iter().filter(these).map(|load| load.3.per_second)
        };
        median(rates(contestant).zip(rates(other)).map(|(rate, others)| rate / others))
    }

    /// CPU time for a call, of the web server and of the contestant's own processes.
    fn cpu(&self, contestant: usize) -> (f64, f64) {
        let Cpu { all, residents, requests } = self.cpu[contestant];
        let servers = (all - residents) / requests as f64;
        match contestant {
            PROXY | GLIBC | PHP_CGI | EMPTY => (servers, self.run(contestant, |run| run.cpu)),
            _ => (servers, residents / requests as f64),
        }
    }

    /// Of the web server and the contestant together.
    fn total_cpu(&self, contestant: usize) -> f64 {
        let (server, own) = self.cpu(contestant);
        server + own
    }

    /// The beginning of the one table in README.md.
    pub fn summary(&self) -> String {
        let mut text = String::from(
            "| | requests/s against php-fpm, 1 / 4 / 16 callers | against php-cgi | ms a call | CPU, ms | page faults | peak memory, MiB |\n\
             |---|---:|---:|---:|---:|---:|---:|\n",
        );
        for (server, (server_name, _)) in SERVERS.iter().enumerate() {
            for (contestant, name, _) in contestants(server) {
                let [fpm, cgi] = [(PHP_FPM, 2), (PHP_CGI, 1)].map(|(other, digits)| {
                    CALLERS
                        .map(|callers| format!("{:.digits$}", self.ratio(server, callers, contestant, other)))
                        .join(" / ")
                });
                let latency = self.median(server, 1, contestant, |load| ms(load.median));
                let _ = write!(text, "| {server_name}: {name} | {fpm} | {cgi} | {latency:.2} ");
                // What has one figure for both servers stands at the first.
                let _ = match contestant {
                    _ if measured_under(contestant) != server => writeln!(text, "| | | |"),
                    PROXY | GLIBC | PHP_CGI | EMPTY => writeln!(
                        text,
                        "| {:.2} | {:.0} | {:.1} |",
                        self.total_cpu(contestant),
                        self.run(contestant, |run| run.faults),
                        self.run(contestant, |run| run.memory),
                    ),
                    PHP_FPM => writeln!(text, "| {:.2} | | {:.1} |", self.total_cpu(contestant), self.fpm_memory),
                    _ => writeln!(text, "| {:.2} | | |", self.total_cpu(contestant)),
                };
            }
        }
        let (calls, Memory { parts, .. }) = self.memory[1];
        let _ = writeln!(text, "| resident: a manager and {FOUR} workers after {calls} calls | | | | | | {parts:.1} |");
        text
    }

    pub fn tables(&self) -> String {
        let mut text = String::from(
            "| server | callers | | requests/s | median, ms | against php-cgi | against php-fpm |\n\
             |---|---:|---|---:|---:|---:|---:|\n",
        );
        for (server, (server_name, _)) in SERVERS.iter().enumerate() {
            for callers in CALLERS {
                for (contestant, name, _) in contestants(server) {
                    let rate = self.rate(server, callers, contestant);
                    let latency = self.median(server, callers, contestant, |load| ms(load.median));
                    let [cgi, fpm] = [PHP_CGI, PHP_FPM].map(|other| self.ratio(server, callers, contestant, other));
                    let _ = writeln!(
                        text,
                        "| {server_name} | {callers} | {name} | {rate:.0} | {latency:.2} | {cgi:.2} | {fpm:.2} |"
                    );
                }
            }
        }
        text +=
            "\n| | CPU, ms a call | of it the web server | the program alone, ms | page faults | peak memory, MiB |\n\
                 |---|---:|---:|---:|---:|---:|\n";
        for (contestant, (name, _)) in CONTESTANTS.iter().enumerate() {
            let (server, own) = self.cpu(contestant);
            let _ = write!(text, "| {name} | {:.2} | {server:.2} ", server + own);
            let _ = match contestant {
                PROXY | GLIBC | PHP_CGI | EMPTY => writeln!(
                    text,
                    "| {:.2} | {:.0} | {:.1} |",
                    self.run(contestant, |run| run.wall),
                    self.run(contestant, |run| run.faults),
                    self.run(contestant, |run| run.memory),
                ),
                PHP_FPM => writeln!(text, "| | | {:.1} |", self.fpm_memory),
                _ => writeln!(text, "| | | |"),
            };
        }
        let _ = writeln!(text, "\nThe bare TLS exchange: {:.2} ms.", median(self.bare.iter().copied()));
        let _ = writeln!(text, "The executable: {:.1} MiB; linked with glibc {:.1}.\n", self.file, self.glibc_file);
        text += "| a manager and four workers together | shared parts once, MiB | for each, MiB |\n|---|---:|---:|\n";
        for (calls, Memory { parts, resident }) in self.memory {
            let _ = writeln!(text, "| after {calls} calls | {parts:.1} | {resident:.1} |");
        }
        text.push('\n');
        text
    }

    pub fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        let mut line = |what: &str, value: f64, reached: bool| {
            targets.push(Target { what: what.to_owned(), value, reached });
        };
        for (server, callers, wanted) in [(NGINX, 1, 12.0), (NGINX, 4, 12.0), (APACHE, 1, 4.0), (APACHE, 4, 4.0)] {
            let value = self.ratio(server, callers, PROXY, PHP_CGI);
            let what = format!("{}, {callers} callers: {wanted} times php-cgi's requests/s", SERVERS[server].0);
            line(&what, value, value >= wanted);
        }
        for callers in [1, 4] {
            let value = self.ratio(NGINX, callers, PROXY, PHP_FPM);
            line(&format!("nginx, {callers} callers: as fast as php-fpm"), value, value >= 1.0);
        }
        let cpu = self.total_cpu(PHP_CGI) / self.total_cpu(PROXY);
        line("php-cgi's CPU is 12 times ours", cpu, cpu >= 12.0);
        let of = |contestant| self.runs.iter().filter(move |run| run.0 == contestant).map(|run| run.1.cpu);
        let cpu = median(of(PROXY).zip(of(GLIBC)).map(|(ours, others)| ours / others));
        line("the program's own CPU, of the same linked with glibc, at most 0.75", cpu, cpu <= 0.75);
        let memory = self.run(PROXY, |run| run.memory);
        line("peak memory below 4 MiB", memory, memory < 4.0);
        line("the executable below 7 MiB", self.file, self.file < 7.0);
        let wall = |contestant| self.run(contestant, |run| run.wall);
        let own = wall(PROXY) - wall(EMPTY) - median(self.bare.iter().copied());
        line("own time, above the empty program and the bare exchange, below 0.4 ms", own, own < 0.4);

        let resident = [(RESIDENT, [5.0, 6.0, 7.0]), (KEPT, [5.0, 6.0, 7.0]), (MOD_FCGID, [4.0; 3])];
        for (contestant, wanted) in resident {
            let (name, server) = (CONTESTANTS[contestant].0, measured_under(contestant));
            for (callers, wanted) in CALLERS.into_iter().zip(wanted) {
                let value = self.ratio(server, callers, contestant, PHP_FPM);
                line(
                    &format!("{name}, {callers} callers: {wanted} times php-fpm's requests/s"),
                    value,
                    value >= wanted,
                );
            }
        }
        for contestant in [RESIDENT, KEPT] {
            for callers in CALLERS {
                let value = self.ratio(NGINX, callers, contestant, PHP_STREAM);
                let what = format!("{}, {callers} callers: ahead of PHP with a TLS stream", CONTESTANTS[contestant].0);
                line(&what, value, value > 1.0);
            }
        }
        for contestant in [RESIDENT, KEPT, MOD_FCGID] {
            let (_, own) = self.cpu(contestant);
            line(
                &format!("{}: CPU of manager and workers below 0.2 ms a call", CONTESTANTS[contestant].0),
                own,
                own < 0.2,
            );
        }
        let (calls, Memory { parts, .. }) = self.memory[1];
        let what = format!("a manager and {FOUR} workers below 12 MiB together after {calls} calls");
        line(&what, parts, parts < 12.0);
        targets
    }

    /// The empty program does the same in every round, and waits for nothing; where it takes different times, or waits for
    /// a CPU, the machine does other things.
    pub fn noise(&self) -> String {
        if self.bare.len() == 1 {
            return "A single round says nothing of noise.\n".into();
        }
        let mut worst: f64 = 0.0;
        for server in 0..SERVERS.len() {
            for callers in CALLERS {
                let these = self.loads.iter().filter(|load| (load.0, load.1, load.2) == (server, callers, EMPTY));
                worst = worst.max(spread(these.map(|load| load.3.per_second)));
            }
        }
        let alone = spread(self.runs.iter().filter(|run| run.0 == EMPTY).map(|run| run.1.wall));
        let waited = self.run(EMPTY, |run| run.wall) / self.run(EMPTY, |run| run.cpu);
        let is_calm = worst.max(alone) <= CALM && waited <= ALONE;
        format!(
            "Between rounds the empty program's speed differed by {:.0} % under the servers and {:.0} % alone, and it took {waited:.1} \
             times its CPU time: {}.\n",
            worst * 100.0,
            alone * 100.0,
            if is_calm { "calm" } else { "TOO NOISY: repeat this when the machine is idle" }
        )
    }
}

/// What is wanted, and what was measured.
pub struct Target {
    pub what: String,
    pub value: f64,
    pub reached: bool,
}

pub fn table_of(targets: &[Target]) -> String {
    let mut text = String::from("| target | | |\n|---|---:|---|\n");
    for Target { what, value, reached } in targets {
        let _ = writeln!(text, "| {what} | {value:.2} | {} |", if *reached { "reached" } else { "NOT reached" });
    }
    text
}

/// For README.md, which says why.
pub fn missed(targets: &[Target]) -> String {
    let missed = targets.iter().filter(|target| !target.reached);
    let missed: Vec<_> = missed.map(|Target { what, value, .. }| format!("{what} ({value:.2})")).collect();
    format!("Of {} targets not reached: {}.\n", targets.len(), missed.join("; "))
}

/// The difference between the quartiles, against the median.
fn spread(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |quarter: usize| values[(values.len() - 1) * quarter / 4];
    (at(3) - at(1)) / at(2)
}

pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
