//! What a call costs: README.md beside this says what is measured and how. Started by run.sh.

mod load;
mod upstream;

use load::{Load, Request};
use serde_json::json;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::webserver::{Kind, Setup, WebServer};
use support::{Group, Sandbox};
use upstream::Upstream;

const TOKEN: &str = "benchmark-token-0123456789abcdef";
const CALLERS: [usize; 3] = [1, 4, 16];
/// How many programs fcgiwrap runs at once, and how many workers php-fpm has.
const WORKERS: usize = 8;
const SERVERS: [(&str, Kind); 2] = [("nginx", Kind::Nginx), ("Apache", Kind::ApacheCgid)];
/// The same program's speed may differ so much between rounds.
const CALM: f64 = 0.25;
/// What costs less than so many times as much does not grow, as far as can be told.
const LEVEL: f64 = 1.0 + CALM;

/// Who is compared. The last is what the others are measured above.
const CONTESTANTS: [(&str, &str); 4] = [
    ("b24proxy", "/cgi-bin/b24proxy"),
    ("php-cgi", "/bench/proxy.php"),
    ("php-fpm", "/fpm/proxy.php"),
    ("empty", "/bench/floor"),
];
const PROXY: usize = 0;
const PHP_CGI: usize = 1;
const PHP_FPM: usize = 2;
const EMPTY: usize = 3;

fn main() {
    let mut words = std::env::args().skip(1);
    let tools = PathBuf::from(words.next().expect("usage: bench TOOLS [--quick|--hold]; see run.sh"));
    let option = words.next();
    let quick = option.as_deref() == Some("--quick");
    let begun = Instant::now();

    let bench = Bench::new(&tools);
    if option.as_deref() == Some("--hold") {
        return bench.hold();
    }
    println!("{}", bench.surroundings());
    let results = bench.rounds(if quick { 1 } else { 5 }, Duration::from_millis(if quick { 200 } else { 500 }));
    print!("{}", bench.tables(&results));
    print!("{}", bench.growth(if quick { 5 } else { 15 }));
    print!("{}", results.targets());
    print!("{}", results.noise());
    println!("\n{:.0} s", begun.elapsed().as_secs_f64());
}

/// Everything that runs meanwhile.
struct Bench {
    /// In the order in which they are to end.
    servers: Vec<WebServer>,
    fpm: Group,
    sandbox: Sandbox,
    upstream: Upstream,
    ca_pem: String,
    body: String,
}

/// What the runner measured of one program.
#[derive(Clone, Copy)]
struct Run {
    wall: f64,
    cpu: f64,
    memory: f64,
    faults: f64,
}

/// Figures of all rounds. Times are milliseconds, memory is MiB.
#[derive(Default)]
struct Results {
    /// By server, callers, contestant: the rounds.
    loads: Vec<(usize, usize, usize, Load)>,
    /// Contestant and round.
    runs: Vec<(usize, Run)>,
    bare: Vec<f64>,
    /// By contestant, under nginx: CPU time of the web server, fcgiwrap and php-fpm, and the requests.
    servers_cpu: [(f64, usize); 4],
    fpm_memory: f64,
}

impl Bench {
    fn new(tools: &Path) -> Bench {
        let simulator = simulator::Simulator::start(simulator::Options::default());
        let (certificate, key) = simulator.certificate_pem();
        let ca_pem = simulator.ca_pem();
        let tickets = std::env::var_os("B24PROXY_BENCH_NO_TICKETS").is_none();
        let upstream = Upstream::start(&certificate, &key, tickets);

        let sandbox = Sandbox::new();
        let host = std::env::var("B24PROXY_BENCH_HOST").unwrap_or_else(|_| "localhost".into());
        let portal = format!("{host}:{}", upstream.port);
        let bench = |name: &str| sandbox.path().join("bench").join(name).display().to_string();
        sandbox.make_folder("bench", 0o755);
        let text =
            |path: PathBuf| std::fs::read(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        for program in ["floor", "runner"] {
            sandbox.write(&format!("bench/{program}"), 0o755, &text(tools.join(program)));
        }
        sandbox.write("bench/proxy.php", 0o755, &text(Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy.php")));
        sandbox.write("b24proxy/ca.pem", 0o644, ca_pem.as_bytes());
        // What a script needs for portals with real certificates, and reads anew in each process.
        let mut bundle = ca_pem.clone();
        if std::env::var_os("B24PROXY_BENCH_PHP_BUNDLE").is_some() {
            bundle += &String::from_utf8_lossy(&text("/etc/ssl/certs/ca-certificates.crt".into()));
        }
        sandbox.write("bench/ca.pem", 0o644, bundle.as_bytes());
        let php = json!({
            "auth_token": TOKEN,
            "portals": [portal],
            "tokens": sandbox.tokens(),
            "ca_file": bench("ca.pem"),
        });
        sandbox.write("bench/proxy.json", 0o600, php.to_string().as_bytes());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let tokens = json!({
            "member_id": "a223c6b3710f85df22e9377d6c4f7553",
            "domain": "oauth.bitrix.info",
            "client_endpoint": format!("https://{portal}/rest/"),
            "server_endpoint": "https://oauth.bitrix.info/rest/",
            "access_token": "0123456789abcdef".repeat(4),
            "refresh_token": "fedcba9876543210".repeat(4),
            "expires_at": now + 3600,
            "scope": "crm,catalog",
        });
        sandbox.write_token_file(&format!("{}.json", portal.replace(':', "_")), &tokens.to_string());

        let fpm_conf = format!(
            "[global]\ndaemonize = no\nerror_log = {log}\n[www]\nlisten = {socket}\npm = static\npm.max_children = {WORKERS}\n",
            log = bench("fpm.log"),
            socket = bench("fpm.socket"),
        );
        sandbox.write("bench/fpm.conf", 0o644, fpm_conf.as_bytes());
        let mut fpm = sandbox.command(php_fpm());
        fpm.args(["--nodaemonize", "--fpm-config", &bench("fpm.conf")]).stdout(Stdio::null()).stderr(Stdio::null());
        let fpm = Group::start(fpm).expect("php-fpm can be started");
        let socket = sandbox.path().join("bench/fpm.socket");
        support::eventually("php-fpm listens", || socket.exists());

        let params = "x".repeat(200);
        let body = json!({
            "domain": portal,
            "method": "catalog.product.add",
            "params": {"fields": {"iblockId": 15, "name": "Стол", "detailText": params}},
        });
        let mut bench = Bench { servers: Vec::new(), fpm, sandbox, upstream, ca_pem, body: body.to_string() };
        bench.configure(&portal, 0);
        for (_, kind) in SERVERS {
            let setup = Setup { directives: bench.directives(kind), fcgiwrap_workers: WORKERS, ..Setup::default() };
            bench.servers.push(WebServer::start_with(&bench.sandbox, kind, &setup));
        }
        bench.warm_up();
        bench
    }

    /// The configuration of this program, with so many more portals.
    fn configure(&self, portal: &str, others: usize) {
        let mut text = format!(
            r#"[bitrix24]
client_id     = "local.5f0c8a1d3b7e29.18274650"
client_secret = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789AbCdEfGhIjKlMn"
redirect_uri  = "https://www.example.com/cgi-bin/b24proxy"
scope         = "crm,catalog"
ca_file       = "ca.pem"

[portals."{portal}"]
requests_per_second = 1000000
burst = 1000000

[security]
auth_token = "{TOKEN}"

[limits]
max_body = "32 MiB"

[log]
file = "log"
"#
        );
        for i in 0..others {
            let _ = write!(text, "[portals.\"portal-{i}.bitrix24.ru\"]\naliases = [\"alias {i}\"]\n");
        }
        self.sandbox.write_config(&text);
    }

    fn portal(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).expect("our own");
        body["domain"].as_str().expect("our own").to_owned()
    }

    /// What the others need beside this program's shipped configuration.
    fn directives(&self, kind: Kind) -> String {
        let folder = self.sandbox.path().join("bench").display().to_string();
        if kind != Kind::Nginx {
            return format!(
                r#"
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_fcgi_module /usr/lib/apache2/modules/mod_proxy_fcgi.so
ScriptAlias "/bench/" "{folder}/"
Alias "/fpm/" "{folder}/"
<Directory "{folder}">
    Require all granted
    CGIPassAuth On
    SetEnv REDIRECT_STATUS 200
</Directory>
<Location "/fpm/">
    SetHandler "proxy:unix:{folder}/fpm.socket|fcgi://localhost"
</Location>
"#
            );
        }
        let parameters = "
            fastcgi_param GATEWAY_INTERFACE CGI/1.1;
            fastcgi_param SERVER_PROTOCOL $server_protocol;
            fastcgi_param SERVER_NAME $server_name;
            fastcgi_param SERVER_PORT $server_port;
            fastcgi_param REMOTE_ADDR $remote_addr;
            fastcgi_param DOCUMENT_ROOT $document_root;
            fastcgi_param SCRIPT_NAME $fastcgi_script_name;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param REQUEST_URI $request_uri;
            fastcgi_param QUERY_STRING $query_string;
            fastcgi_param CONTENT_TYPE $content_type;
            fastcgi_param CONTENT_LENGTH $content_length;
            fastcgi_param REDIRECT_STATUS 200;
            access_log off;";
        format!(
            "location /bench/ {{ fastcgi_pass unix:{{folder}}/fcgiwrap.socket;
                fastcgi_param SCRIPT_FILENAME {}$fastcgi_script_name; {parameters} }}
             location /fpm/ {{ fastcgi_pass unix:{folder}/fpm.socket;
                fastcgi_param SCRIPT_FILENAME {folder}/proxy.php; {parameters} }}",
            self.sandbox.path().display()
        )
    }

    fn request(&self, server: usize, contestant: usize) -> Request<'_> {
        Request {
            address: self.servers[server].address(),
            path: CONTESTANTS[contestant].1,
            token: TOKEN,
            body: &self.body,
        }
    }

    /// Everybody answers, and with what the portal said.
    fn warm_up(&self) {
        for (server, (server_name, _)) in SERVERS.iter().enumerate() {
            for (contestant, (name, _)) in CONTESTANTS.iter().enumerate() {
                let answer = self.request(server, contestant).send().expect("an answer");
                let right = match contestant {
                    EMPTY => answer.ends_with("ok\n"),
                    _ => answer.contains(r#""success":true"#) && answer.contains("1990.50"),
                };
                assert!(right, "{name} under {server_name}: {answer}\n{}", self.servers[server].error_log());
            }
        }
    }

    fn rounds(&self, rounds: usize, duration: Duration) -> Results {
        let mut results = Results::default();
        self.sandbox.write("bench/body", 0o644, self.body.as_bytes());
        for _ in 0..rounds {
            for contestant in [PROXY, EMPTY, PHP_CGI] {
                let count = if contestant == PHP_CGI { 8 } else { 40 };
                results.runs.push((contestant, self.run(contestant, "bench/body", count, None)));
            }
            let bare = upstream::bare_exchanges(self.upstream.port, &self.ca_pem, 60);
            results.bare.push(median(bare.into_iter().map(ms)));
            for (server, served) in SERVERS.iter().enumerate() {
                for callers in CALLERS {
                    for contestant in 0..CONTESTANTS.len() {
                        let before = self.servers_cpu(server);
                        let load = self.request(server, contestant).load(callers, duration);
                        if served.1 == Kind::Nginx && callers == 1 {
                            let (cpu, requests) = &mut results.servers_cpu[contestant];
                            *cpu += self.servers_cpu(server) - before;
                            *requests += load.requests;
                        }
                        results.loads.push((server, callers, contestant, load));
                    }
                }
            }
        }
        results.fpm_memory = members(&[self.fpm.id()])
            .iter()
            .filter_map(|pid| support::peak_memory(*pid))
            .max()
            .map_or(f64::NAN, |kib| kib as f64 / 1024.0);
        results
    }

    /// The program itself, started as fcgiwrap does, so many times.
    fn run(&self, contestant: usize, body: &str, count: usize, key: Option<&str>) -> Run {
        let program = match contestant {
            PROXY => self.sandbox.executable(),
            _ => self.sandbox.path().join(CONTESTANTS[contestant].1.trim_start_matches('/')),
        };
        let body = self.sandbox.path().join(body);
        let length = std::fs::metadata(&body).expect("the body was written").len();
        let mut command = self.sandbox.command(self.sandbox.path().join("bench/runner"));
        command
            .arg(count.to_string())
            .args([&body, &program])
            .args(key)
            .envs(self.environment(&program, length))
            .current_dir(program.parent().expect("a program lies in a folder"));
        let output = command.output().expect("the runner can be started");
        let text = String::from_utf8_lossy(&output.stdout);
        let figures: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [wall, cpu, memory, faults] = figures[..] else {
            panic!("{}: {text}{}", program.display(), String::from_utf8_lossy(&output.stderr))
        };
        Run { wall: wall / 1e6, cpu: cpu / 1e6, memory: memory / 1024.0, faults }
    }

    /// As fcgiwrap and the shipped configuration set it.
    fn environment(&self, program: &Path, length: u64) -> Vec<(&'static str, String)> {
        let mut variables: Vec<_> = [
            ("GATEWAY_INTERFACE", "CGI/1.1"),
            ("SERVER_SOFTWARE", "nginx/1.22.1"),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("SERVER_NAME", "localhost"),
            ("SERVER_ADDR", "127.0.0.1"),
            ("SERVER_PORT", "443"),
            ("REMOTE_ADDR", "127.0.0.1"),
            ("REMOTE_PORT", "50000"),
            ("REQUEST_SCHEME", "https"),
            ("HTTPS", "on"),
            ("REDIRECT_STATUS", "200"),
            ("REQUEST_METHOD", "POST"),
            ("REQUEST_URI", "/cgi-bin/b24proxy"),
            ("SCRIPT_NAME", "/cgi-bin/b24proxy"),
            ("QUERY_STRING", ""),
            ("CONTENT_TYPE", "application/json"),
            ("HTTP_HOST", "localhost"),
        ]
        .map(|(name, value)| (name, value.to_owned()))
        .into();
        variables.push(("CONTENT_LENGTH", length.to_string()));
        variables.push(("HTTP_AUTHORIZATION", format!("Bearer {TOKEN}")));
        variables.push(("SCRIPT_FILENAME", program.display().to_string()));
        variables.push(("DOCUMENT_ROOT", self.sandbox.path().join("htdocs").display().to_string()));
        variables
    }

    /// Stays, with a script that makes one call behind whatever command it is given, until standard input ends.
    fn hold(&self) {
        self.sandbox.write("bench/body", 0o644, self.body.as_bytes());
        let program = self.sandbox.executable();
        let mut script = String::from(
            "#!/bin/sh\n# call [COMMAND…]: one call, COMMAND before the program.\n\
             [ \"$(id -u)\" != 0 ] || exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$0\" \"$@\"\n\
             exec env -i \\\n",
        );
        let path = ("PATH", support::PATH.to_owned());
        for (name, value) in self.environment(&program, self.body.len() as u64).into_iter().chain([path]) {
            let _ = writeln!(script, "  {name}='{value}' \\");
        }
        let body = self.sandbox.path().join("bench/body");
        let _ = writeln!(script, "  \"$@\" \"${{PROGRAM:-{}}}\" <{}", program.display(), body.display());
        self.sandbox.write("bench/call", 0o755, script.as_bytes());
        println!("{}", self.sandbox.path().join("bench/call").display());
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    }

    /// CPU milliseconds of the web server, fcgiwrap and php-fpm up to now.
    fn servers_cpu(&self, server: usize) -> f64 {
        let mut groups = self.servers[server].process_groups();
        groups.push(self.fpm.id());
        // The unit of these figures is 10 ms wherever Linux runs.
        members(&groups).iter().filter_map(|pid| cpu_ticks(*pid)).sum::<u64>() as f64 * 10.0
    }

    fn surroundings(&self) -> String {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        let first_line = |program: &str, option: &str| {
            let output = Command::new(program).arg(option).output().expect("it was found before");
            let text = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
        };
        format!(
            "Linux {}, {cpus} CPUs; {}; {}; portal {}, certificate ECDSA P-256, TLS 1.3\n",
            kernel.trim(),
            first_line("/usr/sbin/nginx", "-v"),
            first_line("php-cgi", "-v"),
            self.portal()
        )
    }

    fn tables(&self, results: &Results) -> String {
        let mut text = String::from(
            "| server | callers | | requests/s | median, ms | requests/s against php-cgi |\n|---|---:|---|---:|---:|---:|\n",
        );
        for (server, (server_name, _)) in SERVERS.iter().enumerate() {
            for callers in CALLERS {
                for (contestant, (name, _)) in CONTESTANTS.iter().enumerate() {
                    let rate = results.rate(server, callers, contestant);
                    let latency = results.median(server, callers, contestant, |load| ms(load.median));
                    let ratio = rate / results.rate(server, callers, PHP_CGI);
                    let _ = writeln!(
                        text,
                        "| {server_name} | {callers} | {name} | {rate:.0} | {latency:.2} | {ratio:.2} |"
                    );
                }
            }
        }
        text += "\n| | CPU, ms a call | of it the servers | the program alone, ms | page faults | peak memory, MiB |\n\
                 |---|---:|---:|---:|---:|---:|\n";
        for (contestant, (name, _)) in CONTESTANTS.iter().enumerate() {
            let servers = results.servers(contestant);
            let cpu = results.cpu(contestant);
            let _ = match contestant {
                PHP_FPM => writeln!(text, "| {name} | {cpu:.2} | {cpu:.2} | | | {:.1} |", results.fpm_memory),
                _ => writeln!(
                    text,
                    "| {name} | {cpu:.2} | {servers:.2} | {:.2} | {:.0} | {:.1} |",
                    results.run(contestant, |run| run.wall),
                    results.run(contestant, |run| run.faults),
                    results.run(contestant, |run| run.memory),
                ),
            };
        }
        let _ = writeln!(text, "\nThe bare TLS exchange: {:.2} ms.\n", median(results.bare.iter().copied()));
        text
    }

    /// Cost against size: that of a body may grow with it, that of portals and keys beside the one in use may not.
    fn growth(&self, count: usize) -> String {
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

fn reached(so: bool) -> &'static str {
    if so {
        "reached"
    } else {
        "NOT reached"
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

    /// CPU time of the servers for a call.
    fn servers(&self, contestant: usize) -> f64 {
        let (cpu, requests) = self.servers_cpu[contestant];
        cpu / requests as f64
    }

    /// CPU time of everything for a call.
    fn cpu(&self, contestant: usize) -> f64 {
        self.servers(contestant) + if contestant == PHP_FPM { 0.0 } else { self.run(contestant, |run| run.cpu) }
    }

    fn targets(&self) -> String {
        let mut text = String::from("| target | | |\n|---|---:|---|\n");
        let mut line = |what: &str, value: f64, so: bool| {
            let _ = writeln!(text, "| {what} | {value:.2} | {} |", reached(so));
        };
        let ratio = |server, callers, other| self.rate(server, callers, PROXY) / self.rate(server, callers, other);
        for (server, callers, wanted) in [(0, 1, 8.0), (0, 4, 8.0), (1, 1, 4.0), (1, 4, 4.0)] {
            let value = ratio(server, callers, PHP_CGI);
            let what = format!("{}, {callers} callers: {wanted} times php-cgi's requests/s", SERVERS[server].0);
            line(&what, value, value >= wanted);
        }
        for (server, (name, _)) in SERVERS.iter().enumerate() {
            let value = ratio(server, 1, PHP_FPM);
            line(&format!("{name}, 1 caller: 0.75 of php-fpm's requests/s"), value, value >= 0.75);
        }
        let cpu = self.cpu(PHP_CGI) / self.cpu(PROXY);
        line("php-cgi's CPU is 12 times ours", cpu, cpu >= 12.0);
        let memory = self.run(PROXY, |run| run.memory);
        line("peak memory below 6 MiB", memory, memory < 6.0);
        let wall = |contestant| self.run(contestant, |run| run.wall);
        let own = wall(PROXY) - wall(EMPTY) - median(self.bare.iter().copied());
        line("own time, above the empty program and the bare exchange, below 0.4 ms", own, own < 0.4);
        text
    }

    /// The empty program does the same in every round; where it takes different times, the machine does other things.
    fn noise(&self) -> String {
        let mut worst: f64 = 0.0;
        for server in 0..SERVERS.len() {
            for callers in CALLERS {
                let these = self.loads.iter().filter(|load| (load.0, load.1, load.2) == (server, callers, EMPTY));
                worst = worst.max(spread(these.map(|load| load.3.per_second)));
            }
        }
        let alone = spread(self.runs.iter().filter(|run| run.0 == EMPTY).map(|run| run.1.wall));
        let judgement =
            if worst.max(alone) > CALM { "TOO NOISY: repeat this when the machine is idle" } else { "calm" };
        format!(
            "\nBetween rounds the empty program's speed differed by {:.0} % under the servers and {:.0} % alone: {judgement}.\n",
            worst * 100.0,
            alone * 100.0
        )
    }
}

/// The difference between the quartiles, against the median.
fn spread(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |quarter: usize| values[(values.len() - 1) * quarter / 4];
    (at(3) - at(1)) / at(2)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The processes of these groups.
fn members(groups: &[u32]) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid, 2).is_some_and(|group| groups.iter().any(|wanted| group == u64::from(*wanted))))
        .collect()
}

/// User and system time, without children's.
fn cpu_ticks(pid: u32) -> Option<u64> {
    Some(stat(pid, 11)? + stat(pid, 12)?)
}

/// A field of /proc/PID/stat, counted from the state.
fn stat(pid: u32, field: usize) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.split(' ').nth(field)?.parse().ok()
}

fn php_fpm() -> PathBuf {
    let programs = std::fs::read_dir("/usr/sbin").expect("/usr/sbin").flatten().map(|entry| entry.path());
    let is_fpm = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm"));
    programs.filter(is_fpm).max().expect("php-fpm (tests/packages.sh bench)")
}
