//! A proxy of its own for some requests after one another, with a portal that misbehaves and a token folder that is
//! damaged now and then.

use crate::fixture::{token_file, unix_now, Proxy};
use crate::mutate::{json, mutate, replace_a_number};
use crate::portal;
use crate::requests::{self, Caller, Draft, Variables};
use serde_json::Value;
use simulator::{Action, Fault, Options, PortalOptions};
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::cgi::{self, Cgi};
use support::Random;

/// The configuration allows a request one second; this is what is left to a busy machine.
const PATIENCE: Duration = Duration::from_secs(8);
/// What a pipe holds.
const PIPE: usize = 60_000;

pub struct World {
    pub proxy: Proxy,
    /// `proxy.toml` before `@NAME@`s are filled in.
    config: String,
    logs_to_file: bool,
    values: Vec<(&'static str, String)>,
    /// Secrets that the last request itself carried.
    pub posted: Vec<String>,
    /// All of them.
    pub ever_posted: Vec<String>,
    /// A journal of an idempotency key was damaged, and may still be there.
    journals_damaged: bool,
    out: File,
    err: File,
}

/// A request as it is sent.
pub struct Sent {
    pub caller: Caller,
    variables: Variables,
    arguments: Vec<OsString>,
    pub body: Vec<u8>,
    /// In how many pieces the body arrives.
    pieces: usize,
}

pub struct Ended {
    /// `None`: it was killed.
    pub exit: Option<ExitStatus>,
    pub stdout: Vec<u8>,
    /// What was written to standard error and to the file, if the configuration names one.
    pub log: String,
    pub elapsed: Duration,
    /// What does not come to an end behind it.
    pub unsettled: Option<&'static str>,
}

/// What there was before a request.
pub struct Prepared {
    pub faults: Vec<Fault>,
    /// The tokens that are stored, where they are a whole pair.
    pub stored: Option<Value>,
    /// Something in the token folder was damaged: what is read from it may be anything.
    pub damaged: bool,
    pub configured: bool,
}

impl World {
    pub fn new(random: &mut Random) -> World {
        let https = random.percent(20);
        let (with_hook, logs_to_file) = (random.percent(50), random.percent(30));
        let proxy = Proxy::with(Options { https, ..Options::default() });
        let hook = proxy.simulator.add_portal(PortalOptions::default());
        let stranger = proxy.simulator.add_portal(PortalOptions::default());
        proxy.portal().remove_bucket();
        proxy.portal().seed("crm.deal", 120);
        let mut token = || format!("{:016x}{:016x}", random.any(), random.any());
        let (client, narrow) = (token(), token());
        let values = vec![
            ("@PORTAL@", proxy.portal().name()),
            ("@SCHEME@", if https { "https" } else { "http" }.into()),
            ("@HOOK@", hook.name()),
            ("@WEBHOOK@", hook.webhook_url()),
            ("@STRANGER@", stranger.name()),
            ("@OAUTH@", proxy.simulator.oauth_url()),
            ("@ID@", proxy.simulator.client_id()),
            ("@SECRET@", proxy.simulator.client_secret()),
            ("@MEMBER@", proxy.portal().member_id()),
            ("@APPLICATION@", proxy.portal().application_token()),
            ("@BASIC@", base64(format!("auth_token:{client}").as_bytes())),
            ("@TOKEN@", client),
            ("@NARROW@", narrow),
        ];
        let run = proxy.sandbox.path().join("run");
        let file = |name: &str| {
            let mut options = fs::OpenOptions::new();
            options.read(true).write(true).create(true).truncate(true).open(run.join(name)).expect("a file")
        };
        let (out, err) = (file("fuzz-out"), file("fuzz-err"));
        let config = config(https, with_hook, logs_to_file);
        let (posted, ever_posted) = (Vec::new(), Vec::new());
        let journals_damaged = false;
        let mut world = World { proxy, config, logs_to_file, values, posted, ever_posted, journals_damaged, out, err };
        world.write_config(world.config.clone().into_bytes());
        world.begin_an_installation();
        world
    }

    fn write_config(&mut self, template: Vec<u8>) {
        let filled = self.filled(&template);
        self.proxy.sandbox.write("b24proxy/proxy.toml", 0o600, &filled);
    }

    /// So that callbacks can come with a state and a cookie of this program's own.
    fn begin_an_installation(&mut self) {
        let query = format!("portal={}", self.value("@PORTAL@"));
        let answer = Cgi::new(&self.proxy.sandbox).path("/install").query(&query).run();
        // Another program than b24proxy may be under test, to see this test fail.
        let part = |header, from: &str, to: char| {
            let text = answer.header(header).unwrap_or_default().split(from).nth(1).unwrap_or_default();
            text.split(to).next().unwrap_or_default().to_owned()
        };
        let (state, cookie) = (part("Location", "state=", '&'), part("Set-Cookie", "b24proxy_install=", ';'));
        self.values.extend([("@STATE@", state), ("@COOKIE@", format!("b24proxy_install={cookie}"))]);
    }

    pub fn value(&self, name: &str) -> &str {
        self.values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    /// The bytes with every `@NAME@` that is still whole replaced. New tokens are made where they are asked for.
    fn filled(&mut self, template: &[u8]) -> Vec<u8> {
        if !template.contains(&b'@') {
            return template.to_vec();
        }
        for name in ["@ACCESS@", "@CODE@", "@APPLICATION@"] {
            if find(template, name.as_bytes()).is_none() {
                continue;
            }
            let portal = self.proxy.portal();
            let new = match name {
                "@ACCESS@" => {
                    let pair = portal.issue_pair(1);
                    vec![("@ACCESS@", pair.access_token), ("@REFRESH@", pair.refresh_token)]
                }
                "@CODE@" => vec![("@CODE@", portal.issue_code(1))],
                _ => vec![("@APPLICATION@", portal.application_token())],
            };
            self.values.retain(|(known, _)| new.iter().all(|(name, _)| name != known));
            self.posted.extend(new.iter().map(|(_, secret)| secret.clone()));
            self.values.extend(new);
        }
        let mut filled = Vec::with_capacity(template.len());
        let mut rest = template;
        while let Some(at) = rest.iter().position(|byte| *byte == b'@') {
            filled.extend(&rest[..at]);
            rest = &rest[at..];
            let known = self.values.iter().find(|(name, _)| rest.starts_with(name.as_bytes()));
            let (length, value) = known.map_or((1, "@"), |(name, value)| (name.len(), value));
            filled.extend(value.bytes());
            rest = &rest[length..];
        }
        filled.extend(rest);
        filled
    }

    fn filled_text(&mut self, template: &str) -> String {
        String::from_utf8_lossy(&self.filled(template.as_bytes())).into_owned()
    }

    /// A request and what it meets.
    pub fn prepare(&mut self, random: &mut Random) -> (Sent, Prepared) {
        self.posted.clear();
        // A configuration of chance may name anybody, so nothing is sent with it: there are no tokens, no portal that is
        // a webhook, and no stranger's form.
        let configured = !random.percent(2);
        let (stored, damaged) = self.prepare_tokens(random, configured);
        if !configured {
            let mut template = config(self.value("@SCHEME@") == "https", false, self.logs_to_file).into_bytes();
            for _ in 0..=random.below(2) {
                mutate(&mut template, random, &[]);
            }
            self.write_config(template);
        }
        let faults = if configured { portal::faults(random) } else { Vec::new() };
        let faults: Vec<Fault> = faults.into_iter().map(|fault| self.filled_fault(fault)).collect();
        self.proxy.simulator.clear_ledger();
        for fault in &faults {
            self.proxy.simulator.inject(fault.clone());
        }

        let mut draft = requests::draft(random, configured);
        // A wrong request seldom comes as far as Bitrix24.
        if random.percent(if faults.is_empty() { 60 } else { 25 }) {
            for _ in 0..=random.below(3) {
                draft.spoil(random);
            }
        }
        let sent = self.sent(draft, random);
        self.ever_posted.extend(self.posted.iter().cloned());
        (sent, Prepared { faults, stored, damaged, configured })
    }

    fn sent(&mut self, draft: Draft, random: &mut Random) -> Sent {
        let [path, query] = [&draft.path, &draft.query].map(|text| String::from_utf8_lossy(text).replace('\0', ""));
        let headers: Vec<(&str, String)> = draft.headers.iter().map(|(n, v)| (*n, self.filled_text(v))).collect();
        let (path, query) = (self.filled_text(&path), self.filled_text(&query));
        let body = self.filled(&draft.body);
        let mut request = Cgi::new(&self.proxy.sandbox).method(&draft.method).path(&path).query(&query);
        for (name, value) in headers {
            request = request.header(name, &value);
        }
        let length = if random.percent(3) { None } else { Some(body.len()) };
        let variables = request.content_length(length).environment();
        let mut variables: Variables = variables.into_iter().map(|(n, value)| (n, value.into_vec())).collect();
        variables.values_mut().for_each(|value| value.truncate(120_000));
        let mut arguments = cgi::arguments(&query);
        arguments.retain(|word| !word.as_bytes().contains(&0) && word.len() < 120_000);
        if random.percent(20) {
            for _ in 0..=random.below(2) {
                requests::spoil_variables(&mut variables, random);
            }
            for value in variables.values_mut() {
                *value = self.filled(value);
            }
        }
        let pieces = if random.percent(2) { 1 + random.index(4) } else { 1 };
        Sent { caller: draft.caller, variables, arguments, body, pieces }
    }

    fn filled_fault(&mut self, mut fault: Fault) -> Fault {
        fault.action = match fault.action {
            Action::Raw(bytes) => Action::Raw(self.filled(&bytes)),
            Action::RawInstead(bytes) => Action::RawInstead(self.filled(&bytes)),
            Action::Redirect302(to) => Action::Redirect302(self.filled_text(&to)),
            Action::Status { status, content_type, body } => {
                Action::Status { status, content_type, body: self.filled_text(&body) }
            }
            Action::ExecuteThenStatus { status, content_type, body } => {
                Action::ExecuteThenStatus { status, content_type, body: self.filled_text(&body) }
            }
            action => action,
        };
        fault
    }

    /// Stores a pair, or something else in its place. Answers the pair, and whether anything in the folder is damaged.
    fn prepare_tokens(&mut self, random: &mut Random, installed: bool) -> (Option<Value>, bool) {
        let mut damaged = self.tidy(random);
        self.damage_journals(random);
        damaged |= self.journals_damaged;
        let kind = random.below(100);
        if !installed || (85..88).contains(&kind) {
            return (None, damaged);
        }

        let portal = self.proxy.portal();
        let expires_at = unix_now() + if (70..80).contains(&kind) { -10 } else { 3600 };
        let mut tokens = token_file(&portal.issue_pair(1), self.proxy.simulator.client_id(), expires_at);
        tokens["application_token"] = portal.application_token().into();
        if (80..85).contains(&kind) {
            portal.expire_access_tokens();
        }
        let mut bytes = tokens.to_string().into_bytes();
        damaged |= self.put_beside(&bytes, random);
        match kind {
            88..=95 => spoil(&mut bytes, random),
            96 => bytes = json(random, &["access_token", "refresh_token", "expires_at"], 3).into_bytes(),
            97 => {
                // A folder stands where a file should.
                let ending = *random.pick(&["json", "lock", "limits", "json.new"]);
                remove(&self.path(ending));
                self.proxy.sandbox.make_folder(&format!("b24proxy/tokens/{}", self.file(ending)), 0o700);
                return (None, true);
            }
            _ => {
                self.write_beside("json", &bytes);
                return (Some(tokens), damaged);
            }
        }
        self.write_beside("json", &bytes);
        (None, true)
    }

    fn file(&self, ending: &str) -> String {
        format!("{}.{ending}", self.proxy.stem())
    }

    fn path(&self, ending: &str) -> PathBuf {
        self.proxy.sandbox.tokens().join(self.file(ending))
    }

    fn write_beside(&self, ending: &str, bytes: &[u8]) {
        remove(&self.path(ending));
        self.proxy.sandbox.write(&format!("b24proxy/tokens/{}", self.file(ending)), 0o600, bytes);
    }

    /// What is left of the last request mostly goes; something of it may stay, or be damaged.
    fn tidy(&self, random: &mut Random) -> bool {
        let mut left = entries(self.proxy.sandbox.tokens());
        left.sort();
        let mut damaged = false;
        for path in left.iter().filter(|path| !path.ends_with("idempotency")) {
            match random.below(10) {
                0 if *path != self.path("json") => {}
                1 if path.is_file() => {
                    damaged = true;
                    damage(path, random);
                }
                _ => remove(path),
            }
        }
        remove(&self.path("json"));
        damaged
    }

    /// Files beside the tokens as no program has written them.
    fn put_beside(&self, tokens: &[u8], random: &mut Random) -> bool {
        let (now, now_ms) = (unix_now(), unix_now() * 1000);
        let limits = format!(r#"{{"level":49.5,"at":{now_ms},"strangers":39.5,"blocked":{{"profile":{now_ms}}}}}"#);
        let notes = format!(
            r#"{{"refresh":{{"spent":"x","at":{now_ms},"failure":{{"kind":"portal_deleted"}}}},"attempts":[{now}]}}"#
        );
        let mut put = false;
        for (ending, bytes) in [("json.new", tokens), ("limits", limits.as_bytes()), ("lock", notes.as_bytes())] {
            if random.percent(5) {
                let mut bytes = bytes.to_vec();
                spoil(&mut bytes, random);
                self.write_beside(ending, &bytes);
                put = true;
            }
        }
        put
    }

    /// The file of the portal's tokens, unless it is a folder.
    pub fn stored_bytes(&self) -> Option<Vec<u8>> {
        fs::read(self.path("json")).ok()
    }

    fn damage_journals(&mut self, random: &mut Random) {
        let folder = self.proxy.sandbox.tokens().join("idempotency");
        let mut files: Vec<PathBuf> = entries(folder.clone()).into_iter().flat_map(entries).collect();
        files.sort();
        match random.below(100) {
            0..=4 => {
                remove(&folder);
                self.journals_damaged = false;
            }
            5..=7 if !files.is_empty() => {
                damage(&files[random.index(files.len())], random);
                self.journals_damaged = true;
            }
            _ => {}
        }
    }

    /// Runs the program for this request, which ends within its time or is killed.
    pub fn run(&mut self, sent: &Sent) -> Ended {
        for file in [&mut self.out, &mut self.err] {
            file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).expect("a file of ours");
        }
        let program = self.proxy.sandbox.executable();
        let output = |file: &File| Stdio::from(file.try_clone().expect("a file of ours"));
        let mut command = self.proxy.sandbox.command(&program);
        command.env_clear().envs(sent.variables.iter().map(|(name, value)| (name, OsString::from_vec(value.clone()))));
        command.args(&sent.arguments).current_dir(program.parent().expect("a folder")).process_group(0);
        command.stdin(Stdio::piped()).stdout(output(&self.out)).stderr(output(&self.err));
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        let mut stdin = child.stdin.take().expect("a pipe");
        let writer = if sent.pieces == 1 && sent.body.len() <= PIPE {
            // What the program does not want to read is no error.
            let _ = stdin.write_all(&sent.body);
            drop(stdin);
            None
        } else {
            let (body, size) = (sent.body.clone(), sent.body.len().div_ceil(sent.pieces).max(1));
            Some(thread::spawn(move || {
                for piece in body.chunks(size) {
                    if stdin.write_all(piece).is_err() {
                        break;
                    }
                    thread::sleep(Duration::from_millis(10));
                }
            }))
        };
        let exit = loop {
            match child.try_wait().expect("the program is our child") {
                Some(exit) => break Some(exit),
                None if started.elapsed() > PATIENCE => {
                    let _ = child.kill();
                    let _ = child.wait();
                    break None;
                }
                None => thread::sleep(Duration::from_micros(500)),
            }
        };
        let elapsed = started.elapsed();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
        let read = |file: &mut File| {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).expect("a file of ours");
            bytes
        };
        let mut log = String::from_utf8_lossy(&read(&mut self.err)).into_owned();
        let stdout = read(&mut self.out);
        let unsettled = self.settle().err();
        let file = self.proxy.sandbox.path().join("b24proxy/proxy.log");
        if self.logs_to_file {
            log += &String::from_utf8_lossy(&fs::read(&file).unwrap_or_default());
            remove(&file);
        }
        Ended { exit, stdout, log, elapsed, unsettled }
    }

    /// Waits until Bitrix24 and refreshers are done with the request.
    fn settle(&self) -> Result<(), &'static str> {
        let simulator = &self.proxy.simulator;
        simulator.clear_faults();
        let done = || {
            simulator.release();
            let open = |entry: &simulator::Entry| entry.status.is_none() && entry.faults.is_empty();
            simulator.hanging() == 0 && !simulator.ledger().entries.iter().any(open)
        };
        wait_until(done).map_err(|()| "the simulator does not finish")?;
        // Who refreshes has the lock.
        if self.path("lock").exists() {
            wait_until(|| done() && self.proxy.sandbox.processes().is_empty())
                .map_err(|()| "a process stays behind")?;
        }
        Ok(())
    }

    /// After a configuration of chance.
    pub fn configure(&mut self) {
        self.write_config(self.config.clone().into_bytes());
    }

    /// What must be in no answer and no log, unless the request itself had it where it may be repeated.
    pub fn secrets(&self, sent: &Sent) -> Vec<String> {
        let mut secrets = vec![self.value("@SECRET@").to_owned()];
        secrets.extend(self.value("@WEBHOOK@").rsplit('/').nth(1).map(str::to_owned));
        secrets.push(self.value("@APPLICATION@").to_owned());
        secrets.retain(|secret| !self.posted.contains(secret));
        // Twice in one address: then it may stand where a method does.
        let twice = |token: &str| {
            let addresses = ["PATH_INFO", "REQUEST_URI"].map(|name| String::from_utf8_lossy(sent.variable(name)));
            addresses.iter().any(|address| address.matches(token).count() > 1)
        };
        let tokens = [self.value("@TOKEN@"), self.value("@NARROW@")];
        secrets.extend(tokens.into_iter().filter(|token| !twice(token)).map(str::to_owned));
        secrets
    }
}

fn config(https: bool, with_hook: bool, logs_to_file: bool) -> String {
    let hook = "[portals.\"@HOOK@\"]\naliases = [\"hook\"]\nwebhook = \"@WEBHOOK@\"\n";
    let file = "file = \"proxy.log\"\n";
    format!(
        r#"[bitrix24]
client_id       = "@ID@"
client_secret   = "@SECRET@"
redirect_uri    = "https://www.acme.test/cgi-bin/b24proxy"
scope           = "crm,catalog"
oauth_server    = "@OAUTH@"
ca_file         = "ca.pem"
allow_http      = {}
connect_timeout = 1
timeout         = 1

[portals."@PORTAL@"]
aliases = ["acme"]
requests_per_second = 1000
burst = 100000
{}
[security]
auth_token   = "@TOKEN@"
cors_origins = ["https://shop.acme.test"]
trusted_proxies = ["127.0.0.1"]

[[security.clients]]
name    = "narrow"
token   = "@NARROW@"
portals = ["@PORTAL@"]
methods = ["crm.deal.*", "batch"]

[limits]
max_wait     = 1
max_body     = "1 MiB"
max_response = "1 MiB"

[log]
{}level = "debug"
"#,
        !https,
        if with_hook { hook } else { "" },
        if logs_to_file { file } else { "" },
    )
}

impl Sent {
    pub fn variable(&self, name: &str) -> &[u8] {
        self.variables.get(name).map_or(b"", Vec::as_slice)
    }
}

/// As a command for bash, as far as it is not too long for anybody to read.
impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4000;
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b" {}\":,".contains(byte);
        let octal = |byte: &u8| if plain(byte) { char::from(*byte).into() } else { format!("\\{byte:03o}") };
        let body: String = self.body.iter().take(SHOWN).map(octal).collect();
        writeln!(f, "printf '{body}' | env -i \\")?;
        for (name, value) in &self.variables {
            writeln!(f, "  {name}=$'{}' \\", value[..value.len().min(SHOWN)].escape_ascii())?;
        }
        write!(f, "  b24proxy")?;
        for word in &self.arguments {
            write!(f, " $'{}'", word.as_bytes()[..word.len().min(SHOWN)].escape_ascii())?;
        }
        let lengths = self.variables.iter().map(|(name, value)| (name.as_str(), value.len()));
        for (name, length) in lengths.chain([("the body", self.body.len())]).filter(|(_, length)| *length > SHOWN) {
            write!(f, "\n# {name} has {length} bytes, of which {SHOWN} are shown")?;
        }
        match self.pieces {
            1 => Ok(()),
            pieces => write!(f, "\n# the body comes in {pieces} pieces, 10 ms apart"),
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn entries(folder: PathBuf) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn remove(path: &std::path::Path) {
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

/// In place, so that it stays its owner's.
fn damage(path: &std::path::Path, random: &mut Random) {
    let mut bytes = fs::read(path).unwrap_or_default();
    spoil(&mut bytes, random);
    let _ = fs::write(path, bytes);
}

/// What is stored, as no program has written it. Half of the time it can still be read.
fn spoil(bytes: &mut Vec<u8>, random: &mut Random) {
    match random.percent(50) {
        true => replace_a_number(bytes, random),
        false => mutate(bytes, random, &[]),
    }
}

fn wait_until(mut done: impl FnMut() -> bool) -> Result<(), ()> {
    let patience = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > patience {
            return Err(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() { char::from(letter) } else { '=' });
        }
    }
    text
}
