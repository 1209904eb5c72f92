//! Many callers at once, on the real executable, under real web servers, with everything going wrong that can.
//!
//! `B24PROXY_LOAD_CALLS=20000` makes the long form; `B24PROXY_LOAD_SEED=…` repeats the faults of a run that failed.

mod events;
mod files;
#[allow(dead_code)]
#[path = "../contract/fixture.rs"]
mod fixture;
mod lists;
mod nodes;

use fixture::{unix_now, Proxy, TOKEN};
use serde_json::{json, Value};
use simulator::{Action, Fault, Ledger, Options, Target};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use support::cgi::Cgi;
use support::http::Request;
use support::webserver::{Kind, WebServer};
use support::{eventually, number, Random};

const PROGRAM: &str = "/cgi-bin/b24proxy";

/// A proxy whose portal takes so many calls at once.
fn proxy(options: Options, rate: u32, burst: u32) -> Proxy {
    let proxy = Proxy::with(options);
    let aliases = "aliases = [\"acme\"]";
    proxy.reconfigured(aliases, &format!("{aliases}\nrequests_per_second = {rate}\nburst = {burst}"))
}

fn two_hundred_callers_on_an_expired_token(kind: Kind) {
    let proxy = proxy(Options::default(), 5, 250)
        .reconfigured("max_wait = 5", "max_wait = 20")
        .reconfigured("timeout       = 10", "timeout = 55");
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    let server = WebServer::start(&proxy.sandbox, kind);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for i in 0..200 {
            let server = &server;
            scope.spawn(move || {
                let body = json!({"method": "sim.echo", "params": {"i": i}}).to_string();
                let answer = server.request("POST", PROGRAM).bearer(TOKEN).json(body).send();
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(answer.json()["data"]["result"]["i"], i);
            });
        }
    });
    println!("{kind:?}: 200 callers on an expired token answered within {:.1} s", started.elapsed().as_secs_f64());
    let ledger = proxy.simulator.ledger();
    assert_eq!(ledger.refreshes(), 1);
    assert_eq!(ledger.executed("sim.echo"), 200);
    assert_eq!(ledger.calls("sim.echo"), 200, "nobody was sent with the expired token");
}

#[test]
fn behind_nginx_200_callers_on_an_expired_token_cause_one_refresh_and_get_200_answers() {
    two_hundred_callers_on_an_expired_token(Kind::Nginx);
}

#[test]
fn behind_apache_200_callers_on_an_expired_token_cause_one_refresh_and_get_200_answers() {
    two_hundred_callers_on_an_expired_token(Kind::ApacheCgid);
}

/// What goes wrong at one request that reaches Bitrix24.
fn random_action(random: &mut Random) -> Action {
    let html = |status| Action::ExecuteThenStatus { status, content_type: "text/html".into(), body: "<html>".into() };
    let error =
        |status, error: &str| Action::ErrorJson { status, error: error.into(), error_description: "on purpose".into() };
    match random.below(17) {
        0 | 1 => Action::CloseAfter,
        2 | 3 => Action::CloseBefore,
        4 => Action::CloseMidAnswer,
        5 => Action::TruncateJson,
        6 => html(502),
        7 => html(200),
        8 => Action::Html500,
        9 => Action::Raw(b"nonsense\r\n\r\n".to_vec()),
        10 => error(401, "expired_token"),
        11 => error(503, "QUERY_LIMIT_EXCEEDED"),
        12 => error(400, "ON_PURPOSE"),
        13 => Action::Redirect302("http://192.0.2.1/rest/".into()),
        14 => Action::Delay(Duration::from_millis(random.below(300))),
        // Longer than the timeout, rarely.
        15 if random.percent(20) => Action::DelayAnswer(Duration::from_millis(3500)),
        15 => Action::DelayAnswer(Duration::from_millis(random.below(300))),
        _ => Action::Chunked,
    }
}

/// One in ten requests to Bitrix24 meets a fault; some connections and some refreshes do, too.
fn inject_faults(proxy: &Proxy, random: &mut Random, calls: usize) {
    for at in 0..calls as u32 * 3 / 2 {
        if random.percent(10) {
            proxy.simulator.inject(Fault::once(Target::Call, random_action(random)).after(at));
        }
        if random.percent(1) {
            proxy.simulator.inject(Fault::once(Target::Connection, Action::CloseBefore).after(at));
        }
        if at % 5000 == 2500 {
            proxy.simulator.inject(Fault::once(Target::Token, Action::Html500).after(at / 100));
        }
    }
    proxy.simulator.inject(Fault::times(5, Target::Token, Action::Delay(Duration::from_millis(700))));
}

/// What a caller learned from one attempt.
#[derive(Clone, Debug, PartialEq)]
enum Heard {
    /// Bitrix24's own answer.
    Success(String),
    /// Certainly not executed.
    No,
    /// An error of Bitrix24's own.
    Error,
    /// Perhaps executed: told so, or nothing was heard.
    Unknown,
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Envelope,
    Webhook,
    Version3,
}

/// The ways to the program.
struct Ways<'p> {
    proxy: &'p Proxy,
    servers: [WebServer; 2],
}

/// A client keeps 1,000 keys, so there is one for so many calls.
const CALLS_A_CLIENT: usize = 1600;

/// The token of the client that makes this call.
fn token_of(number: usize) -> String {
    match number / CALLS_A_CLIENT {
        0 => TOKEN.to_owned(),
        client => format!("{TOKEN}{client}"),
    }
}

fn more_clients(calls: usize) -> String {
    let token = |client| token_of(client * CALLS_A_CLIENT);
    let table = |client| format!("[[security.clients]]\nname = \"client {client}\"\ntoken = \"{}\"\n", token(client));
    (1..=calls / CALLS_A_CLIENT).map(table).collect()
}

/// A call with parameters of its own.
struct Call {
    number: usize,
    token: String,
    form: Form,
    key: Option<String>,
}

impl Call {
    fn path(&self) -> String {
        match self.form {
            Form::Webhook => format!("/rest/1/{}/crm.deal.add.json", self.token),
            _ => String::new(),
        }
    }

    fn content_type(&self) -> &str {
        match self.form {
            Form::Webhook => "application/x-www-form-urlencoded",
            _ => "application/json",
        }
    }

    fn body(&self) -> String {
        let number = self.number;
        match self.form {
            Form::Webhook => format!("fields%5BTITLE%5D={number}"),
            Form::Envelope => {
                json!({"method": "crm.deal.add", "params": {"fields": {"TITLE": number.to_string()}}}).to_string()
            }
            Form::Version3 => {
                let params = json!({"fields": {"title": number.to_string()}});
                json!({"method": "tasks.task.add", "version": 3, "params": params}).to_string()
            }
        }
    }

    fn attempt(&self, ways: &Ways, random: &mut Random) -> Heard {
        // One caller in fifty does not wait for the answer, or its process is killed.
        let patience = random.percent(2).then(|| Duration::from_millis(random.below(80)));
        let answer = match random.below(3) {
            0 => self.as_process(ways.proxy, patience),
            n => self.over(&ways.servers[n as usize - 1], patience),
        };
        let Some((status, body)) = answer else { return Heard::Unknown };
        match self.form {
            Form::Webhook => heard_by_webhook(status, &body),
            _ => heard_in_envelope(status, &body),
        }
    }

    fn as_process(&self, proxy: &Proxy, patience: Option<Duration>) -> Option<(u16, Vec<u8>)> {
        let body = self.body();
        let mut request = Cgi::new(&proxy.sandbox).method("POST").header("Content-Type", self.content_type());
        if self.form != Form::Webhook {
            request = request.bearer(&self.token);
        }
        if let Some(key) = &self.key {
            request = request.header("Idempotency-Key", key);
        }
        let request = request.path(&self.path());
        let Some(patience) = patience else {
            let answer = request.body(body).run();
            return Some((answer.status, answer.body));
        };
        let mut running = request.content_length(Some(body.len())).spawn();
        let _ = running.write(body.as_bytes());
        running.end_body();
        std::thread::sleep(patience);
        running.signal("KILL");
        let _ = running.wait_for_end();
        None
    }

    fn over(&self, server: &WebServer, patience: Option<Duration>) -> Option<(u16, Vec<u8>)> {
        let path = format!("{PROGRAM}{}", self.path());
        let mut request: Request = server.request("POST", &path).header("Content-Type", self.content_type());
        if self.form != Form::Webhook {
            request = request.bearer(&self.token);
        }
        if let Some(key) = &self.key {
            request = request.header("Idempotency-Key", key);
        }
        let request = request.body(self.body());
        match patience {
            None => {
                let answer = request.send();
                Some((answer.status, answer.body))
            }
            Some(patience) => {
                let answer = request.timeout(patience.max(Duration::from_millis(1))).try_send().ok()?;
                Some((answer.status, answer.body))
            }
        }
    }

    /// The whole story of one call, as a caller of good sense would act: it repeats what was certainly not executed, and
    /// with a key everything that did not succeed.
    fn make(&self, ways: &Ways, random: &mut Random) -> Vec<Heard> {
        let mut heard = Vec::new();
        if self.key.is_some() && random.percent(20) {
            let mut other = Random(random.any());
            std::thread::scope(|scope| {
                let second = scope.spawn(|| self.attempt(ways, &mut other));
                heard.push(self.attempt(ways, random));
                heard.push(second.join().expect("a caller does not panic"));
            });
        } else {
            heard.push(self.attempt(ways, random));
        }
        for _ in 0..3 {
            let last = heard.last().expect("one at least");
            let repeats = match last {
                // Sometimes a caller repeats what has succeeded, because it was not told so.
                Heard::Success(_) => self.key.is_some() && random.percent(10),
                Heard::No | Heard::Error => true,
                Heard::Unknown => self.key.is_some(),
            };
            if !repeats {
                break;
            }
            heard.push(self.attempt(ways, random));
        }
        heard
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn parsed(status: u16, body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| panic!("{status} without JSON: {}", text(body)))
}

fn heard_in_envelope(status: u16, body: &[u8]) -> Heard {
    if status == 200 {
        let data = body.strip_prefix(b"{\"success\":true,\"data\":").and_then(|rest| rest.strip_suffix(b"}"));
        return Heard::Success(text(data.expect("the success envelope")));
    }
    let answer = parsed(status, body);
    match (answer["executed"].as_str(), answer["error_code"].as_str()) {
        (Some("no"), _) => Heard::No,
        (Some("unknown"), _) => Heard::Unknown,
        (None, Some("bitrix24_error")) => Heard::Error,
        _ => panic!("{answer}"),
    }
}

fn heard_by_webhook(status: u16, body: &[u8]) -> Heard {
    let answer = parsed(status, body);
    match (status, answer["error"].as_str()) {
        (200, None) => Heard::Success(text(body)),
        (409, Some("OUTCOME_UNKNOWN")) => Heard::Unknown,
        (503, Some(_)) => Heard::No,
        // The redirect to nowhere: an answer that cannot be used, and certainly not executed.
        (502, Some("BITRIX24_BAD_ANSWER")) => Heard::No,
        // A refusal of the token that was cut on its way; and of one that expired as soon as it was new.
        (404, Some("BITRIX24_BAD_ANSWER")) | (403, Some("REINSTALL_REQUIRED")) => Heard::No,
        (400, Some("ON_PURPOSE")) => Heard::Error,
        _ => panic!("{status} {answer}"),
    }
}

/// Nothing that the program does beside the portal's limit takes time: neither its journal nor the start of another part.
#[test]
fn ten_thousand_adds_of_the_command_line_under_a_key_take_no_longer_than_the_limit_lets_them() {
    let (rate, burst) = (10, 50);
    let proxy = proxy(Options { https: false, ..Options::default() }, rate, burst)
        .reconfigured("timeout       = 10", "timeout = 55");
    proxy.store_pair(&proxy.portal().issue_pair(1));
    proxy.portal().set_bucket(f64::from(rate), f64::from(burst));
    let add = |i| json!({"method": "crm.deal.add", "params": {"fields": {"TITLE": i}}}).to_string();
    let calls: Vec<String> = (0..10_000).map(add).collect();
    proxy.sandbox.write("calls", 0o600, calls.join("\n").as_bytes());
    let file = proxy.sandbox.path().join("calls").display().to_string();
    let started = Instant::now();
    let mut command = proxy.sandbox.command_line(&["call", "acme", "--calls", &file, "--key", "load"]);
    let output = command.output().expect("it ends");
    let took = started.elapsed();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), 10_000);
    assert_eq!(proxy.simulator.ledger().executed("crm.deal.add"), 10_000);
    // Of 200 batches the bucket holds the first.
    let least = Duration::from_secs_f64(f64::from(200 - burst) / f64::from(rate));
    println!("10,000 adds in {took:?}; the limit's own arithmetic is {least:?}");
    // A machine that does other things takes its share.
    assert!(took < least.mul_f64(1.25) + Duration::from_secs(1), "{took:?}, least {least:?}");
}

/// For each call, the answers that Bitrix24 gave to its executions.
fn executions(ledger: &Ledger) -> BTreeMap<usize, Vec<String>> {
    let mut executions: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for entry in &ledger.entries {
        let Some(call) = entry.call().filter(|call| call.executed) else { continue };
        let fields = &call.params["fields"];
        let title = fields["TITLE"].as_str().or_else(|| fields["title"].as_str()).expect("a title");
        executions.entry(title.parse().expect("a number")).or_default().push(text(&entry.answer));
    }
    executions
}

/// What is wrong with a call, by what its caller heard and what Bitrix24 did.
fn disagreement(heard: &[Heard], executions: &[String]) -> Option<String> {
    let successes: Vec<&String> =
        heard.iter().filter_map(|h| if let Heard::Success(a) = h { Some(a) } else { None }).collect();
    let agrees = match (successes.first(), heard.contains(&Heard::Unknown)) {
        (Some(_), _) => executions.len() == 1 && successes.iter().all(|answer| **answer == executions[0]),
        (None, true) => executions.len() <= 1,
        (None, false) => executions.is_empty(),
    };
    (!agrees).then(|| format!("heard {heard:?}, executed {} times", executions.len()))
}

#[test]
fn whatever_goes_wrong_no_call_is_executed_twice_and_every_answer_is_true() {
    let calls = number("B24PROXY_LOAD_CALLS").unwrap_or(2000) as usize;
    let seed = number("B24PROXY_LOAD_SEED").unwrap_or(unix_now() as u64);
    println!("B24PROXY_LOAD_CALLS={calls} B24PROXY_LOAD_SEED={seed}");
    let proxy = proxy(Options { https: false, ..Options::default() }, 10_000, 10_000)
        .reconfigured("connect_timeout = 3", "connect_timeout = 2")
        .reconfigured("timeout       = 10", "timeout = 3")
        .reconfigured("max_wait = 5", "max_wait = 2");
    let config = format!("{}\n{}", proxy.config(), more_clients(calls));
    let proxy = proxy.configured(&config);
    proxy.store_pair(&proxy.portal().issue_pair(1));
    inject_faults(&proxy, &mut Random(seed), calls);
    let servers = [Kind::Nginx, Kind::ApacheCgid].map(|kind| WebServer::start(&proxy.sandbox, kind));
    let ways = Ways { proxy: &proxy, servers };

    let started = Instant::now();
    let next = AtomicUsize::new(0);
    let stories: Mutex<Vec<Vec<Heard>>> = Mutex::new(vec![Vec::new(); calls]);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                if number >= calls {
                    break;
                }
                if number % 150 == 100 {
                    proxy.portal().expire_access_tokens();
                }
                if number % 400 == 300 {
                    proxy.portal().stop();
                    std::thread::sleep(Duration::from_millis(400));
                    proxy.portal().start().expect("the same port");
                }
                let mut random = Random(seed ^ (number as u64).wrapping_mul(0x5851_f42d_4c95_7f2d));
                let form = [Form::Envelope, Form::Webhook, Form::Version3][random.below(3) as usize];
                let key = random.percent(45).then(|| format!("key of {number}"));
                let call = Call { number, token: token_of(number), form, key };
                let heard = call.make(&ways, &mut random);
                stories.lock().expect("no caller panicked")[number] = heard;
            });
        }
    });
    let took = started.elapsed();
    let logs = ways.servers.iter().map(WebServer::error_log).collect::<String>();
    ways.servers.into_iter().for_each(WebServer::stop);
    eventually("no process is left", || proxy.sandbox.processes().is_empty());

    let ledger = proxy.simulator.ledger();
    let executions = executions(&ledger);
    let stories = stories.into_inner().expect("no caller panicked");
    let mut wrong = Vec::new();
    for (number, heard) in stories.iter().enumerate() {
        let executed = executions.get(&number).map_or(&[][..], Vec::as_slice);
        wrong.extend(disagreement(heard, executed).map(|what| format!("call {number}: {what}")));
    }
    let all: Vec<&Heard> = stories.iter().flatten().collect();
    let count = |is: fn(&Heard) -> bool| all.iter().filter(|heard| is(heard)).count();
    println!(
        "{calls} calls, {} attempts in {:.1} s: {} success, {} not executed, {} unknown, {} errors of Bitrix24's own; \
         {} requests, {} with a fault, {} refreshes",
        all.len(),
        took.as_secs_f64(),
        count(|h| matches!(h, Heard::Success(_))),
        count(|h| *h == Heard::No),
        count(|h| *h == Heard::Unknown),
        count(|h| *h == Heard::Error),
        ledger.all_calls().count(),
        ledger.entries.iter().filter(|entry| !entry.faults.is_empty()).count(),
        ledger.refreshes(),
    );
    assert!(wrong.is_empty(), "seed {seed}: {} calls:\n{}", wrong.len(), wrong.join("\n"));
    let succeeded = stories.iter().filter(|story| story.iter().any(|h| matches!(h, Heard::Success(_)))).count();
    // A refresh that fails is shared for ten seconds, a third of a long run.
    assert!(succeeded * 10 > calls * 6, "only {succeeded} calls succeeded: the run proves little");
    assert_eq!(ledger.spent_presented(), 0, "a spent refresh token was presented");
    let refresh_token = proxy.stored()["refresh_token"].as_str().map(str::to_owned);
    assert!(proxy.portal().is_live(&refresh_token.expect("a token")), "the stored pair works");
    assert_nothing_is_left(&proxy);
    assert_no_secret(&proxy, &logs);
}

fn assert_nothing_is_left(proxy: &Proxy) {
    let names = std::fs::read_dir(proxy.sandbox.tokens()).expect("the token folder").flatten();
    let names: Vec<String> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert!(!names.iter().any(|name| name.ends_with(".new")), "{names:?}");
}

/// Neither in the web servers' error logs nor in what the programs wrote to standard error.
fn assert_no_secret(proxy: &Proxy, server_logs: &str) {
    let mut log = server_logs.to_owned();
    for entry in std::fs::read_dir(proxy.sandbox.path().join("run")).expect("a folder").flatten() {
        if entry.file_name().to_string_lossy().starts_with("stderr-") {
            log.push_str(&String::from_utf8_lossy(&std::fs::read(entry.path()).expect("a log")));
        }
    }
    assert!(log.contains("\"answered\""), "the log of the program is looked at");
    // nginx writes the address of a request behind what the program wrote; the token in that is none of the program's.
    let own = log.lines().filter_map(|line| Some(&line[line.find('{')?..line.rfind('}')?]));
    assert!(!own.into_iter().any(|line| line.contains(TOKEN)), "the client's token is in a log");
    for secret in proxy.simulator.secrets() {
        assert!(!log.contains(&secret), "a secret is in a log");
    }
}
