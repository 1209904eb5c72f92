//! Files of 200 MB through Apache, nginx and the bare executable: every byte, the memory, and the speed beside that of a
//! plain TLS copy in the same minute.
//!
//! `B24PROXY_LOAD_MIB=20` takes smaller files. The speed is judged where `B24PROXY_TEST_BINARY` names a release build.

use crate::fixture::{hex, Proxy, TOKEN};
use ring::digest::{Context, SHA256};
use serde_json::json;
use simulator::{Content, File as Stored};
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::cgi::Cgi;
use support::number;
use support::webserver::{Kind, WebServer};

const BOUNDARY: &str = "----a-boundary-of-1C";
/// The best of so many passes counts: whatever else the machine does makes a pass slower and none faster.
const PASSES: usize = 3;
const MOST_KIB: u64 = 12 << 10;

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Down,
    Up,
}

enum Way<'w> {
    /// curl, from the portal into a file and from a file to the portal.
    Plain,
    /// The executable, with a file as its standard output or input.
    Bare,
    /// The same curl, with the server in place of the portal.
    Server(&'w WebServer),
}

impl Way<'_> {
    fn name(&self) -> String {
        match self {
            Way::Plain => "plain TLS".into(),
            Way::Bare => "bare executable".into(),
            Way::Server(server) => format!("{:?}", server.kind()),
        }
    }
}

/// A file of the portal, the body of an upload that holds the same bytes, and the addresses for both.
struct Passage {
    proxy: Proxy,
    content: Content,
    download: String,
    upload: String,
}

impl Passage {
    fn new(size: u64) -> Passage {
        let proxy = Proxy::not_installed();
        proxy.portal().set_scope("crm,disk");
        proxy.store_pair(&proxy.portal().issue_pair(1));
        let content = Content::generated(size, 1);
        let file = proxy.portal().store_file(Stored::new("Накладная.bin", content.clone()));
        let address = |method: &str, id: i64, field: &str| {
            let answer = proxy.call(method, json!({ "id": id }));
            answer.json()["data"]["result"][field].as_str().unwrap_or_else(|| panic!("{}", answer.text())).to_owned()
        };
        let download = address("disk.file.get", file, "DOWNLOAD_URL");
        let upload = address("disk.folder.uploadfile", 1, "uploadUrl");
        let passage = Passage { proxy, content, download, upload };
        let mut body = File::create(passage.body()).expect("the sandbox can be written");
        let disposition = "Content-Disposition: form-data; name=\"file\"; filename=\"Накладная.bin\"";
        write!(body, "--{BOUNDARY}\r\n{disposition}\r\n\r\n").expect("room");
        std::io::copy(&mut passage.content.reader(), &mut body).expect("room");
        write!(body, "\r\n--{BOUNDARY}--\r\n").expect("room");
        passage
    }

    fn body(&self) -> PathBuf {
        self.proxy.sandbox.path().join("body")
    }

    fn landing(&self) -> PathBuf {
        self.proxy.sandbox.path().join("landing")
    }

    fn query(&self, direction: Direction) -> String {
        let address = if direction == Direction::Up { &self.upload } else { &self.download };
        serde_urlencoded::to_string([("portal", "acme"), ("address", address)]).expect("a query")
    }

    fn curl(&self, url: &str, token: &str, direction: Direction) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", "--http1.1", "-H", "Accept-Language: ru", "-e", "https://x/", "-o"]);
        curl.arg(self.landing()).arg("--cacert").arg(self.proxy.sandbox.path().join("b24proxy/ca.pem"));
        curl.arg("-H").arg(format!("Authorization: Bearer {token}"));
        if direction == Direction::Up {
            curl.args(["-X", "POST", "-H", "Expect:", "-T"]).arg(self.body());
            curl.arg("-H").arg(format!("Content-Type: multipart/form-data; boundary={BOUNDARY}"));
        }
        curl.arg(url);
        curl
    }

    fn start(&self, way: &Way, direction: Direction) -> Child {
        let query = self.query(direction);
        let mut command = match way {
            Way::Plain => {
                let address = if direction == Direction::Up { &self.upload } else { &self.download };
                let token = self.proxy.stored()["access_token"].as_str().expect("a token").to_owned();
                self.curl(address, &token, direction)
            }
            Way::Server(server) => self.curl(&server.url(&format!("/cgi-bin/b24proxy/file?{query}")), TOKEN, direction),
            Way::Bare => {
                let request = Cgi::new(&self.proxy.sandbox).path("/file").query(&query).bearer(TOKEN);
                let mut command = self.proxy.sandbox.command(self.proxy.sandbox.executable());
                command.stdout(File::create(self.landing()).expect("the sandbox can be written")).stderr(Stdio::null());
                if direction == Direction::Up {
                    let body = File::open(self.body()).expect("the body");
                    let length = usize::try_from(body.metadata().expect("a file").len()).ok();
                    let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
                    let request = request.method("POST").header("Content-Type", &content_type).content_length(length);
                    command.stdin(body).envs(request.environment());
                } else {
                    command.stdin(Stdio::null()).envs(request.environment());
                }
                command
            }
        };
        command.spawn().expect("curl and the executable start")
    }

    /// From the start of a process to its end.
    fn pass(&self, way: &Way, direction: Direction) -> Duration {
        let begun = Instant::now();
        assert!(self.start(way, direction).wait().expect("our child").success(), "{}", way.name());
        begun.elapsed()
    }

    /// One pass of which every byte is looked at; the peak of the executable's memory in KiB.
    fn looked_at(&self, way: &Way, direction: Direction) -> u64 {
        let mut child = self.start(way, direction);
        let mut peak = 0;
        let ended = loop {
            let is_program = |pid: &u32| {
                std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program.ends_with("b24proxy"))
            };
            let programs = self.proxy.sandbox.processes().into_iter().filter(is_program);
            peak = programs.filter_map(support::peak_memory).chain([peak]).max().expect("one at least");
            if let Some(ended) = child.try_wait().expect("our child") {
                break ended;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(ended.success(), "{}", way.name());
        let arrived = match direction {
            Direction::Down => self.landed(matches!(way, Way::Bare)),
            Direction::Up => {
                let ledger = self.proxy.simulator.ledger();
                let transfer = ledger.last_call().and_then(|entry| entry.call()?.transfer.clone());
                transfer.expect("an upload").sha256
            }
        };
        assert_eq!(arrived, self.content.sha256(), "{}", way.name());
        peak
    }

    /// The digest of what has landed, behind the head of a CGI answer where there is one.
    fn landed(&self, with_head: bool) -> String {
        let mut file = File::open(self.landing()).expect("something has landed");
        let mut digest = Context::new(&SHA256);
        let mut piece = vec![0; 1 << 16];
        let mut head = with_head;
        while let Ok(count @ 1..) = file.read(&mut piece) {
            let mut bytes = &piece[..count];
            if std::mem::take(&mut head) {
                let end = bytes.windows(2).position(|two| two == b"\n\n").map(|at| at + 2);
                let end = end.or_else(|| bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4));
                bytes = &bytes[end.expect("a head")..];
            }
            digest.update(bytes);
        }
        hex(digest.finish().as_ref())
    }

    /// Bytes in a second on each way, at best. The ways take turns, so that whoever else uses the machine slows all of them.
    fn speeds(&self, ways: &[Way], direction: Direction) -> Vec<f64> {
        let mut best = vec![Duration::MAX; ways.len()];
        for _ in 0..PASSES {
            for (way, best) in ways.iter().zip(&mut best) {
                *best = self.pass(way, direction).min(*best);
            }
        }
        best.iter().map(|best| self.content.size() as f64 / best.as_secs_f64()).collect()
    }
}

#[test]
fn a_file_of_200_mb_comes_and_goes_within_12_mib_at_no_less_than_half_the_speed_of_a_plain_tls_copy() {
    let size = number("B24PROXY_LOAD_MIB").unwrap_or(200) << 20;
    let passage = Passage::new(size);
    let servers = [Kind::ApacheCgid, Kind::Nginx].map(|kind| WebServer::start(&passage.proxy.sandbox, kind));
    let ways = [Way::Plain, Way::Bare, Way::Server(&servers[0]), Way::Server(&servers[1])];
    let mut slow = Vec::new();
    for (direction, verb) in [(Direction::Down, "down"), (Direction::Up, "up")] {
        for way in &ways[1..] {
            let peak = passage.looked_at(way, direction);
            println!("{verb}, {}: {peak} KiB", way.name());
            assert!(peak > 0 && peak < MOST_KIB, "{verb}, {}: {peak} KiB", way.name());
        }
        let speeds = passage.speeds(&ways, direction);
        for (way, speed) in ways.iter().zip(&speeds) {
            let share = speed / speeds[0];
            let said = format!("{verb}, {}: {:.0} MB/s, {share:.2} of plain TLS", way.name(), speed / 1e6);
            println!("{said}");
            if share < 0.5 {
                slow.push(said);
            }
        }
    }
    if std::env::var_os("B24PROXY_TEST_BINARY").is_some() {
        assert!(slow.is_empty(), "{slow:#?}");
    }
}
