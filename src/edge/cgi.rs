//! CGI (RFC 3875): the one request that this process was started for, from the environment and standard input to standard
//! output.
//!
//! [`cgi::handle`] parses and writes, but it panics on variables that are not UTF-8, on some addresses and
//! protocols, on truncated bodies and when the client has gone, and it allocates whatever `CONTENT_LENGTH` says.
//! So the environment is taken first ([`environment::take`]) and `cgi` is left only variables that it can digest;
//! the body is read here, bounded in size and time; and a panic hook ends the process quietly when the client is
//! gone and with a proper answer otherwise.

use super::answering::{after_panic, parted, pass_on, plain, UNFINISHED};
use super::environment;
use crate::app::App;
use crate::config::Surroundings;
use crate::serve;
use crate::system::clock::Deadline;
use crate::system::log::{Log, Sink};
use crate::system::ready::timespec;
use crate::values::answer::{Answer, Content};
use crate::values::portal::Version;
use crate::values::request::{Body, Request, Source};
use crate::values::secret::random_hex;
use rustix::event::{poll, PollFd, PollFlags};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Set once there is a configuration, or none; for the panic hook too.
static LOG: OnceLock<Log> = OnceLock::new();
/// The answer is being written: from here on a panic means that the client has gone.
static ANSWERED: AtomicBool = AtomicBool::new(false);

/// Serves the request.
pub fn serve() -> ExitCode {
    let started = Instant::now();
    let variables = environment::take();
    let request_id = random_hex::<8>();
    install_panic_hook(request_id.clone(), serve::shape(&variables));
    let variable = |name: &str| variables.os(name).cloned();
    let app = App::load(&Surroundings::new(variable("B24PROXY_CONFIG"), variable("DOCUMENT_ROOT")));
    let log = match &app {
        Ok(app) => app.log(request_id, Box::new(to_standard_error)),
        Err(_) => unconfigured_log(request_id),
    };
    let log = LOG.get_or_init(|| log);
    let mut input = StandardInput;
    let body = Body::new(&variables, &mut input);
    let head_only = variables.method() == "HEAD";
    let mut request = Request { variables, body, started };
    let answer = serve::answer(app.as_ref(), &mut request, log);
    ANSWERED.store(true, Ordering::SeqCst);
    // A client that has gone is no failure of ours.
    let _ = write(answer, head_only, log);
    ExitCode::SUCCESS
}

fn to_standard_error(line: &[u8]) {
    let _ = std::io::stderr().write_all(line);
}

fn unconfigured_log(request_id: String) -> Log {
    Log::new(Arc::new(Sink::unconfigured()), request_id, Box::new(to_standard_error))
}

struct StandardInput;

impl Source for StandardInput {
    fn read(&mut self, buffer: &mut [u8], deadline: Deadline) -> Option<usize> {
        let stdin = std::io::stdin();
        loop {
            let remaining = deadline.remaining();
            if remaining.is_zero() {
                return None;
            }
            match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&timespec(remaining))) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                _ => {}
            }
            // Unbuffered, so that `poll` sees what was not read.
            match rustix::io::read(&stdin, &mut *buffer) {
                Ok(count) => return Some(count),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
                // A connection reset by the client reads as its end.
                Err(_) => return Some(0),
            }
        }
    }
}

/// Writes the answer: the head by `cgi`, with a small body; a large one, or one that is still to be read, behind it.
fn write(answer: Answer, head_only: bool, log: &Log) -> std::io::Result<()> {
    let (head, body) = parted(answer, head_only, &log.request_id);
    // What is left for `cgi` to parse: the parts of a request that nobody else sent.
    std::env::set_var("REQUEST_METHOD", "GET");
    std::env::set_var("REQUEST_URI", "/");
    cgi::handle(|_request: cgi::Request| head);
    std::io::stdout().flush()?;
    // Not through `Stdout`, which looks for the ends of lines and writes a file in pieces of a few KiB.
    let mut output = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    match body {
        Content::Parts(parts) => parts.iter().try_for_each(|part| output.write_all(part)),
        Content::Reader { reader, length } => {
            if let Err(why) = pass_on(reader, length, &mut output)? {
                log.warn(&format!("the file was cut off on its way from Bitrix24: {why}"));
                std::thread::sleep(UNFINISHED);
            }
            Ok(())
        }
    }
}

/// `cgi` unwraps its write: when the client has gone, that panic is not worth a word. Any other panic is a defect in
/// this program; it is logged and answered like every failure.
fn install_panic_hook(request_id: String, shape: Option<Version>) {
    std::panic::set_hook(Box::new(move |panic| {
        if ANSWERED.load(Ordering::SeqCst) {
            std::process::exit(0);
        }
        let log = LOG.get_or_init(|| unconfigured_log(request_id.clone()));
        let _ = std::io::stdout().write_all(&plain(after_panic(panic, shape, log), &log.request_id));
        let _ = std::io::stdout().flush();
        std::process::exit(0);
    }));
}
