//! What a call costs: README.md beside this says what is measured and how. Started by run.sh.

mod bulk;
mod databases;
mod growth;
mod load;
mod processes;
mod results;
mod servers;
mod upstream;

use load::Request;
use processes::{cpu_ticks, is_resident, members, Memory};
use results::{median, missed, table_of, Results, Run};
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
/// How many programs fcgiwrap runs at once, and how many workers the resident program and php-fpm have.
const WORKERS: usize = 8;
const SERVERS: [(&str, Kind); 2] = [("nginx", Kind::Nginx), ("Apache", Kind::ApacheCgid)];
/// The same program's speed may differ so much between rounds.
const CALM: f64 = 0.25;

/// Who is compared, and the path of each under the servers that have it. The last is what the others are measured above.
const CONTESTANTS: [(&str, [Option<&str>; SERVERS.len()]); 9] = [
    ("b24proxy", [Some("/cgi-bin/b24proxy"); 2]),
    ("b24proxy, glibc", [Some("/glibc/b24proxy"); 2]),
    ("resident", [Some("/resident/b24proxy"), None]),
    ("resident, kept", [Some("/kept/b24proxy"), None]),
    ("mod_fcgid", [None, Some("/fcgid/b24proxy")]),
    ("php-cgi", [Some("/bench/proxy.php"); 2]),
    ("php-fpm", [Some("/fpm/proxy.php"); 2]),
    ("php-fpm, TLS stream", [Some("/fpm/proxy-stream.php"); 2]),
    ("empty", [Some("/bench/floor"); 2]),
];
const PROXY: usize = 0;
const GLIBC: usize = 1;
const RESIDENT: usize = 2;
const KEPT: usize = 3;
const MOD_FCGID: usize = 4;
const PHP_CGI: usize = 5;
const PHP_FPM: usize = 6;
const PHP_STREAM: usize = 7;
const EMPTY: usize = 8;
const NGINX: usize = 0;
const APACHE: usize = 1;

/// Workers of the manager whose memory is measured.
const FOUR: usize = 4;

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
    let mut results = bench.rounds(if quick { 1 } else { 5 }, Duration::from_millis(if quick { 200 } else { 500 }));
    results.memory = bench.memory(if quick { [500, 2_000] } else { [1_000, 100_000] });
    let mut targets = results.targets();
    print!("{}", results.tables());
    print!("{}", bench.growth(if quick { 5 } else { 15 }, &mut targets));
    print!("{}", bench.ways(if quick { 10 } else { 100 }));
    let (rounds, count, duration) = if quick { (1, 5, 200) } else { (5, 40, 500) };
    let databases = bench.databases(rounds, count, Duration::from_millis(duration));
    let bulk = bench.bulk(rounds);
    targets.extend(databases.targets());
    print!("{}{}{}", databases.table(), bulk.table(), table_of(&targets));
    println!("\nAfter {:.0} s; what README.md has under \"Figures\":\n", begun.elapsed().as_secs_f64());
    println!("{}", bench.surroundings());
    println!("{}{}{}", results.summary(), databases.summary(), bulk.summary());
    print!("{}\n{}", results.noise(), missed(&targets));
}

/// Everything that runs meanwhile.
struct Bench {
    /// In the order in which they are to end.
    servers: Vec<WebServer>,
    resident: Group,
    fpm: Group,
    sandbox: Sandbox,
    upstream: Upstream,
    ca_pem: String,
    /// Of `localhost`, and its key.
    certificate: (String, String),
    body: String,
}

impl Bench {
    fn new(tools: &Path) -> Bench {
        let simulator = simulator::Simulator::start(simulator::Options::default());
        let (certificate, key) = simulator.certificate_pem();
        let ca_pem = simulator.ca_pem();
        let tickets = std::env::var_os("B24PROXY_BENCH_NO_TICKETS").is_none();
        let upstream = Upstream::start(&certificate, &key, tickets);
        let certificate = (certificate, key);

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
        for script in ["proxy.php", "proxy-stream.php"] {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
            sandbox.write(&format!("bench/{script}"), 0o755, &text(source));
        }
        // The executable where its memory, and that of mod_fcgid's processes, is not shared with any other.
        for folder in ["fcgid", "four"] {
            sandbox.make_folder(folder, 0o755);
            sandbox.write(&format!("{folder}/b24proxy"), 0o755, &text(sandbox.executable()));
        }
        let glibc = std::env::var_os("B24PROXY_BENCH_GLIBC").expect("B24PROXY_BENCH_GLIBC; see run.sh");
        sandbox.make_folder("glibc", 0o755);
        sandbox.write("glibc/b24proxy", 0o755, &text(glibc.into()));
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
        let resident = resident(&sandbox, &sandbox.executable(), "resident", WORKERS, None);
        let mut bench = Bench {
            servers: Vec::new(),
            resident,
            fpm,
            sandbox,
            upstream,
            ca_pem,
            certificate,
            body: body.to_string(),
        };
        bench.configure(&portal, 0);
        for (_, kind) in SERVERS {
            let setup = Setup {
                directives: bench.directives(kind),
                beside: bench.beside(),
                fcgiwrap_workers: WORKERS,
                ..Setup::default()
            };
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
redirect_uri  = "https://www.acme.test/cgi-bin/b24proxy"
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

    fn request<'a>(&'a self, server: usize, path: &'a str) -> Request<'a> {
        Request { address: self.servers[server].address(), path, token: TOKEN, body: &self.body }
    }

    /// Everybody answers, and with what the portal said.
    fn warm_up(&self) {
        for (server, (server_name, _)) in SERVERS.iter().enumerate() {
            for (contestant, name, path) in contestants(server) {
                let answer = self.request(server, path).send().expect("an answer");
                let right = match contestant {
                    EMPTY => answer.ends_with("ok\n"),
                    _ => answer.contains(r#""success":true"#) && answer.contains("1990.50"),
                };
                assert!(right, "{name} under {server_name}: {answer}\n{}", self.servers[server].error_log());
            }
        }
        // Whoever finds all processes of mod_fcgid busy waits a second while it starts another: so they are there before, more
        // than callers, because one is free only some time after its caller has the answer. It is long enough for the
        // configuration, too, which is read anew at each request as long as its file is younger than two seconds.
        let (_, _, path) = contestants(APACHE).find(|(number, ..)| *number == MOD_FCGID).expect("Apache has it");
        self.request(APACHE, path).load(24, Duration::from_secs(5));
    }

    fn rounds(&self, rounds: usize, duration: Duration) -> Results {
        let mut results = Results { file: self.size(PROXY), glibc_file: self.size(GLIBC), ..Results::default() };
        self.sandbox.write("bench/body", 0o644, self.body.as_bytes());
        for _ in 0..rounds {
            for contestant in [PROXY, GLIBC, EMPTY, PHP_CGI] {
                let count = if contestant == PHP_CGI { 8 } else { 40 };
                results.runs.push((contestant, self.run(contestant, "bench/body", count, None)));
            }
            let bare = upstream::bare_exchanges(self.upstream.port, &self.ca_pem, 60);
            results.bare.push(median(bare.into_iter().map(ms)));
            for server in 0..SERVERS.len() {
                for callers in CALLERS {
                    for (contestant, _, path) in contestants(server) {
                        let before = self.cpu(server);
                        let load = self.request(server, path).load(callers, duration);
                        if measured_under(contestant) == server && callers == 1 {
                            results.cpu[contestant].add(before, self.cpu(server), load.requests);
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
        self.run_with(contestant, body, count, key, None)
    }

    /// With this environment variable, too.
    fn run_with(
        &self,
        contestant: usize,
        body: &str,
        count: usize,
        key: Option<&str>,
        variable: Option<(&str, &str)>,
    ) -> Run {
        let program = self.program(contestant);
        let body = self.sandbox.path().join(body);
        let length = std::fs::metadata(&body).expect("the body was written").len();
        let mut command = self.sandbox.command(self.sandbox.path().join("bench/runner"));
        command
            .arg(count.to_string())
            .args([&body, &program])
            .args(key)
            .envs(self.environment(&program, length))
            .envs(variable)
            .current_dir(program.parent().expect("a program lies in a folder"));
        let output = command.output().expect("the runner can be started");
        let text = String::from_utf8_lossy(&output.stdout);
        let figures: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [wall, cpu, memory, faults] = figures[..] else {
            panic!("{}: {text}{}", program.display(), String::from_utf8_lossy(&output.stderr))
        };
        Run { wall: wall / 1e6, cpu: cpu / 1e6, memory: memory / 1024.0, faults }
    }

    /// Of those that are started for each call.
    fn program(&self, contestant: usize) -> PathBuf {
        match contestant {
            PROXY => self.sandbox.executable(),
            _ => {
                let path = CONTESTANTS[contestant].1[NGINX].expect("nginx has every CGI program");
                self.sandbox.path().join(path.trim_start_matches('/'))
            }
        }
    }

    /// Of the executable, MiB.
    fn size(&self, contestant: usize) -> f64 {
        let file = std::fs::metadata(self.program(contestant)).expect("it was written");
        file.len() as f64 / (1 << 20) as f64
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

    /// CPU milliseconds up to now: of everything that runs with this server, and of the resident programs alone.
    fn cpu(&self, server: usize) -> [f64; 2] {
        let mut groups = self.servers[server].process_groups();
        groups.extend([self.fpm.id(), self.resident.id()]);
        let all = members(&groups);
        let residents = all.iter().copied().filter(|pid| is_resident(*pid)).collect();
        // The unit of these figures is 10 ms wherever Linux runs.
        [all, residents].map(|pids| pids.into_iter().filter_map(cpu_ticks).sum::<u64>() as f64 * 10.0)
    }

    /// What a manager with four workers, which share their program with nobody, occupy after so many calls.
    fn memory(&self, after: [usize; 2]) -> [(usize, Memory); 2] {
        let four = resident(&self.sandbox, &self.sandbox.path().join("four/b24proxy"), "four", FOUR, None);
        let mut done = 0;
        after.map(|wanted| {
            while done < wanted {
                done += self.request(NGINX, "/four/b24proxy").load(16, Duration::from_millis(250)).requests;
            }
            let pids = members(&[four.id()]);
            assert_eq!(pids.len(), 1 + FOUR, "a manager and its workers");
            (done, Memory::of(&pids))
        })
    }

    fn surroundings(&self) -> String {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        let version = |program: &str, before: &str| {
            let output = Command::new(program).arg("-v").output().expect("it was found before");
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            let rest = text.split(before).nth(1).unwrap_or_default();
            rest.split_whitespace().next().unwrap_or_default().to_owned()
        };
        format!(
            "Linux {}, {cpus} CPUs; nginx {}, Apache {}, PHP {}; portal {}, ECDSA P-256, TLS 1.3.\n",
            kernel.trim(),
            version("/usr/sbin/nginx", "nginx/"),
            version("/usr/sbin/apache2", "Apache/"),
            version("php-cgi", "PHP "),
            self.portal().split(':').next().expect("split yields something")
        )
    }
}

/// The program resident, listening at `bench/NAME.socket`.
fn resident(sandbox: &Sandbox, program: &Path, name: &str, workers: usize, configuration: Option<&str>) -> Group {
    let socket = sandbox.path().join("bench").join(format!("{name}.socket"));
    let mut command = sandbox.command(program);
    command.args(["fastcgi", "--workers", &workers.to_string(), "--listen", &format!("unix:{}", socket.display())]);
    command.envs(configuration.map(|path| ("B24PROXY_CONFIG", path)));
    let group = Group::start(command).expect("the program can be started");
    support::eventually("the resident program listens", || socket.exists());
    group
}

/// Number, name and path of those whom a server has.
fn contestants(server: usize) -> impl Iterator<Item = (usize, &'static str, &'static str)> {
    let all = CONTESTANTS.iter().enumerate();
    all.filter_map(move |(number, (name, paths))| paths[server].map(|path| (number, *name, path)))
}

/// The server by whose runs the CPU time of a contestant is known.
fn measured_under(contestant: usize) -> usize {
    CONTESTANTS[contestant].1.iter().position(Option::is_some).expect("a server has it")
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn php_fpm() -> PathBuf {
    let programs = std::fs::read_dir("/usr/sbin").expect("/usr/sbin").flatten().map(|entry| entry.path());
    let is_fpm = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm"));
    programs.filter(is_fpm).max().expect("php-fpm (tests/packages.sh bench)")
}
