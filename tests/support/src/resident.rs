//! The executable as a resident process of a sandbox, over FastCGI, and a request to it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::fastcgi::{record, stream, Broken, Connection, Reply, REQUEST_COMPLETE, STDIN};
use crate::processes::{self, Group};
use crate::Sandbox;

/// How long the program may take until it listens.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether `$B24PROXY_TEST_STARTED` wants tests to start the executable as a resident process rather than for each request.
pub(crate) fn is_wanted() -> bool {
    static WANTED: OnceLock<bool> = OnceLock::new();
    *WANTED.get_or_init(|| match std::env::var("B24PROXY_TEST_STARTED").as_deref() {
        Ok("fastcgi") => true,
        Err(_) | Ok("cgi") => false,
        Ok(other) => panic!("B24PROXY_TEST_STARTED={other} is neither cgi nor fastcgi"),
    })
}

/// `b24proxy fastcgi`, as the user of its sandbox and with an empty environment. It ends with the sandbox.
pub(crate) struct Resident {
    group: Group,
    socket: PathBuf,
    log: PathBuf,
    /// Which file was started: device and inode.
    executable: (u64, u64),
}

impl Resident {
    fn start(sandbox: &Sandbox, number: usize) -> Resident {
        let file = |name: &str| format!("run/fastcgi-{number}.{name}");
        sandbox.write(&file("log"), 0o644, b"");
        let [socket, log] = ["socket", "log"].map(|name| sandbox.path().join(file(name)));
        let listen = format!("unix:{}", socket.display());
        let mut command = sandbox.command_line(&["fastcgi", "--listen", &listen, "--workers", "8"]);
        let append = || fs::OpenOptions::new().append(true).open(&log).expect("the log was just made");
        command.current_dir(sandbox.path().join("cgi-bin")).stdout(append()).stderr(append());
        let executable = identity(sandbox);
        let mut group = Group::start(command).unwrap_or_else(|error| panic!("cannot start b24proxy fastcgi: {error}"));
        let begun = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            let log = || fs::read_to_string(&log).unwrap_or_default();
            assert!(!group.has_ended(), "b24proxy fastcgi has ended: {}", log());
            assert!(begun.elapsed() < PATIENCE, "b24proxy fastcgi does not listen: {}", log());
            thread::sleep(Duration::from_millis(2));
        }
        Resident { group, socket, log, executable }
    }
}

fn identity(sandbox: &Sandbox) -> (u64, u64) {
    let metadata = fs::metadata(sandbox.executable()).expect("the sandbox has an executable");
    (metadata.dev(), metadata.ino())
}

/// Those of a sandbox. Only the last one is given requests; where the executable is exchanged for another file (a script
/// in front of it), a new one is started, and the one before ends when its requests do.
#[derive(Default)]
pub(crate) struct Residents(Mutex<Vec<Resident>>);

impl Residents {
    /// A connection to the one that runs the executable as it is now.
    fn connect(&self, sandbox: &Sandbox) -> Connection {
        let mut all = self.all();
        if all.last().is_none_or(|last| last.executable != identity(sandbox)) {
            if let Some(last) = all.last() {
                processes::signal(last.group.id(), "TERM");
            }
            let next = Resident::start(sandbox, all.len());
            all.push(next);
        }
        let last = all.last().expect("it was just started");
        Connection::open(&last.socket).unwrap_or_else(|error| {
            panic!("b24proxy fastcgi: {error}: {}", fs::read_to_string(&last.log).unwrap_or_default())
        })
    }

    /// What they have written to their own standard error.
    pub(crate) fn log(&self) -> String {
        self.all().iter().map(|one| fs::read_to_string(&one.log).unwrap_or_default()).collect()
    }

    /// Whether it is a process of theirs that stays: what a request has started is none.
    pub(crate) fn has(&self, pid: u32) -> bool {
        let is_worker = is_worker(pid);
        self.all()
            .iter()
            .map(|one| one.group.id())
            .any(|manager| manager == pid || (is_worker && processes::with_descendants(manager).contains(&pid)))
    }

    /// The processes that serve requests.
    pub(crate) fn workers(&self) -> Vec<u32> {
        let managers: Vec<u32> = self.all().iter().map(|one| one.group.id()).collect();
        let all = managers.into_iter().flat_map(processes::with_descendants);
        all.filter(|process| is_worker(*process)).collect()
    }

    pub(crate) fn stop(&self) {
        self.all().clear();
    }

    /// Also where one could not be started, and the test ends because of that.
    fn all(&self) -> MutexGuard<'_, Vec<Resident>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_worker(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().starts_with(b"b24proxy\0worker\0")
}

/// A request under way, on a connection of its own. Dropped, it goes away as a web server does whose client is gone.
pub(crate) struct Exchange {
    /// Until the body has ended.
    body: Option<Body>,
    socket: UnixStream,
    reply: mpsc::Receiver<Result<Reply, Broken>>,
    came: Option<Result<Reply, Broken>>,
    stderr: Arc<Mutex<Vec<u8>>>,
}

/// The one request of a connection.
const ID: u16 = 1;

/// Where the body goes.
pub(crate) struct Body {
    socket: UnixStream,
    ended: Arc<AtomicBool>,
}

impl Body {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes.chunks(32 << 10).try_for_each(|part| self.socket.write_all(&stream(STDIN, ID, part)))
    }

    pub(crate) fn end(mut self) {
        // The program may have answered and gone away.
        let ended = self.socket.write_all(&record(STDIN, ID, b"")).is_ok();
        self.ended.store(ended, Ordering::SeqCst);
    }
}

impl Exchange {
    /// `timeout`: how long the program may be silent.
    pub(crate) fn begin(sandbox: &Sandbox, mut variables: BTreeMap<String, OsString>, timeout: Duration) -> Exchange {
        // Processes have one; requests do not.
        variables.remove("PATH");
        let mut connection = sandbox.residents.connect(sandbox);
        connection.set_timeout(timeout);
        // A program that does not take the request says so, or the connection's end does.
        let _ = connection.begin(ID, false, variables);
        let [socket, to_body] = [(); 2].map(|()| connection.writer().expect("a socket can be cloned"));
        let stderr = connection.stderr_of(ID);
        let ended = Arc::new(AtomicBool::new(false));
        let body = Body { socket: to_body, ended: Arc::clone(&ended) };
        let (sender, reply) = mpsc::channel();
        thread::spawn(move || {
            let reply = connection.reply(ID).and_then(|reply| {
                // A program that has not got the whole body may reset the connection: nobody listens any more.
                if ended.load(Ordering::SeqCst) {
                    connection.expect_end().map_err(Broken::Wrong)?;
                }
                Ok(reply)
            });
            connection.close();
            let _ = sender.send(reply);
        });
        Exchange { body: Some(body), socket, reply, came: None, stderr }
    }

    pub(crate) fn body(&mut self) -> &mut Body {
        self.body.as_mut().expect("the body has not ended")
    }

    pub(crate) fn take_body(&mut self) -> Option<Body> {
        self.body.take()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        if self.came.is_none() {
            self.came = self.reply.try_recv().ok();
        }
        self.came.is_some()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().expect("nobody panics with it")).into_owned()
    }

    /// Standard output, and the exit status that a CGI process would have had: killed, where the connection ended before
    /// the request. `None` when the time is up.
    pub(crate) fn wait(&mut self, left: Duration) -> Option<(Vec<u8>, ExitStatus)> {
        const KILLED: i32 = 9;
        let came = self.came.take().or_else(|| self.reply.recv_timeout(left).ok())?;
        Some(match came {
            Ok(reply) => {
                assert_eq!(reply.protocol_status, REQUEST_COMPLETE, "the request was not taken");
                let status = i32::try_from(reply.status & 0xff).expect("one byte");
                (reply.stdout, ExitStatus::from_raw(status << 8))
            }
            Err(Broken::Ended(reply)) => (reply.stdout, ExitStatus::from_raw(KILLED)),
            Err(Broken::Reset) => (Vec::new(), ExitStatus::from_raw(KILLED)),
            Err(Broken::TimedOut) => return None,
            Err(Broken::Wrong(problem)) => panic!("not FastCGI: {problem}\n--- stderr\n{}", self.stderr()),
        })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}
