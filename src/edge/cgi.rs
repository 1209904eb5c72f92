//! CGI (RFC 3875): the one request that this process was started for, from the environment and standard input to standard
//! output.
//!
//! [`cgi::handle`] parses and writes, but it panics on variables that are not UTF-8, on some addresses and
//! protocols, on truncated bodies and when the client has gone, and it allocates whatever `CONTENT_LENGTH` says.
//! So the environment is taken first ([`take_environment`]) and `cgi` is left only variables that it can digest;
//! the body is read here, bounded in size and time; and a panic hook ends the process quietly when the client is
//! gone and with a proper answer otherwise.

use crate::app::App;
use crate::call::idempotency::free_begun_key;
use crate::config::Surroundings;
use crate::serve;
use crate::system::clock::Deadline;
use crate::system::log::{Log, Sink};
use crate::upstream::http::has_sent;
use crate::values::answer::{Answer, Content};
use crate::values::error::Executed;
use crate::values::portal::Version;
use crate::values::request::{Body, Request, Source, Variables};
use crate::values::secret::random_hex;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Up to here head and body leave in one write.
const SMALL: usize = 64 << 10;
/// Most of a file that is passed on at once: what a pipe holds.
const PIECE: usize = 64 << 10;
/// How long an unfinished answer stays open. Apache makes a length of its own for what has ended before it was sent on
/// (`ap_content_length_filter`), so that a cut file would look whole; while it waits for more, it sends the announced one.
const UNFINISHED: Duration = Duration::from_secs(1);

/// Set once there is a configuration, or none; for the panic hook too.
static LOG: OnceLock<Log> = OnceLock::new();
/// The answer is being written: from here on a panic means that the client has gone.
static ANSWERED: AtomicBool = AtomicBool::new(false);

/// Serves the request.
pub fn serve() -> ExitCode {
    let started = Instant::now();
    let variables = take_environment();
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

/// Takes all variables and removes them from the process, so that nothing in it (a proxy from a request header,
/// `HTTP_PROXY`; what `cgi` cannot digest) acts behind our back. Must run before any thread does.
fn take_environment() -> Variables {
    let variables: Vec<_> = std::env::vars_os().collect();
    for (name, _) in &variables {
        // One such as Windows's `=C:` cannot be removed.
        if !name.as_encoded_bytes().contains(&b'=') {
            std::env::remove_var(name);
        }
    }
    Variables::new(variables)
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
            let timeout = Timespec { tv_sec: remaining.as_secs() as i64, tv_nsec: remaining.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&timeout)) {
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

/// What has come goes on at once: a web server waits so long for each piece and no longer. The inner failure: what was read
/// ended before its length, and why.
fn pass_on(mut reader: impl Read, length: Option<u64>, output: &mut impl Write) -> std::io::Result<Result<(), String>> {
    let (mut buffer, mut left) = (vec![0; PIECE], length.unwrap_or(u64::MAX));
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        match reader.read(&mut buffer[..most]) {
            Ok(0) if length.is_none() => break,
            Ok(0) => return Ok(Err(format!("{left} bytes are missing"))),
            Ok(count) => {
                output.write_all(&buffer[..count])?;
                left -= count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Ok(Err(error.to_string())),
        }
    }
    Ok(Ok(()))
}

/// The response for `cgi`, and what is to be written behind it.
fn parted(answer: Answer, head_only: bool, request_id: &str) -> (cgi::Response, Content) {
    let mut response = cgi::http::Response::builder()
        .status(answer.status)
        .header("Content-Type", answer.content_type)
        .header("X-Request-Id", request_id)
        .header("Cache-Control", "no-store")
        .header("X-Content-Type-Options", "nosniff");
    for (name, value) in answer.headers {
        // `cgi` unwraps `to_str`, so only what passes it goes out.
        if let Ok(value) = cgi::http::HeaderValue::from_str(&value) {
            if value.to_str().is_ok() {
                response = response.header(name, value);
            }
        }
    }
    // In the answer to HEAD too: what a file's length would be is worth knowing without it, and whether the web server
    // leaves lengths out (`check --url`).
    let length = answer.body.length().filter(|_| !matches!(answer.status, 204 | 304));
    if let Some(length) = length {
        response = response.header("Content-Length", length);
    }
    // RFC 3875, section 4.3.2: no body in the answer to HEAD.
    let body = if head_only { Content::empty() } else { answer.body };
    let (inside, behind) = match body {
        Content::Parts(parts) if parts.iter().map(|part| part.len()).sum::<usize>() <= SMALL => {
            (parts.concat(), Content::empty())
        }
        body => (Vec::new(), body),
    };
    (response.body(inside).unwrap_or_else(|_| cgi::empty_response(500)), behind)
}

/// `cgi` unwraps its write: when the client has gone, that panic is not worth a word. Any other panic is a defect in
/// this program; it is logged and answered like every failure.
fn install_panic_hook(request_id: String, shape: Option<Version>) {
    std::panic::set_hook(Box::new(move |panic| {
        if ANSWERED.load(Ordering::SeqCst) {
            std::process::exit(0);
        }
        let log = LOG.get_or_init(|| unconfigured_log(request_id.clone()));
        let place = panic.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        log.error(&format!("internal error at {place}; please report it"));
        let executed = match has_sent() {
            true => Executed::Unknown,
            false => {
                free_begun_key();
                Executed::No
            }
        };
        let _ = std::io::stdout().write_all(&plain(serve::defect(shape, executed, &log.request_id), &log.request_id));
        let _ = std::io::stdout().flush();
        std::process::exit(0);
    }));
}

/// The whole of a small answer, without `cgi`, which may be what failed.
fn plain(answer: Answer, request_id: &str) -> Vec<u8> {
    let mut head = format!(
        "Status: {}\nContent-Type: {}\nX-Request-Id: {request_id}\nCache-Control: no-store\n\
         X-Content-Type-Options: nosniff\n",
        answer.status, answer.content_type
    );
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\n"));
    }
    let body = match answer.body {
        Content::Parts(parts) => parts.concat(),
        Content::Reader { .. } => Vec::new(),
    };
    [format!("{head}\n").into_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_could_split_the_answer_is_left_out() {
        let answer = Answer::json(200, "{}").with("X-Bad", "a\nSet-Cookie: x").with("X-Good", "b");
        let (response, _) = parted(answer, false, "r");
        assert!(response.headers().get("X-Bad").is_none());
        assert_eq!(response.headers()["X-Good"], "b");
    }

    #[test]
    fn a_large_body_and_one_that_is_still_to_be_read_are_written_behind_the_head() {
        let large = vec![b'a'; SMALL + 1];
        let reader = Content::Reader { reader: Box::new(std::io::Cursor::new(large.clone())), length: Some(3) };
        for (body, inside, announced) in [
            (Content::from("abc"), 3, Some("3")),
            (Content::from(large.clone()), 0, Some("65537")),
            (reader, 0, Some("3")),
            (Content::Reader { reader: Box::new(std::io::empty()), length: None }, 0, None),
        ] {
            let (response, behind) = parted(Answer::json(200, body), false, "r");
            let length = response.headers().get("Content-Length").map(|value| value.to_str().unwrap());
            assert_eq!((response.body().len(), length), (inside, announced));
            assert_eq!(matches!(&behind, Content::Parts(parts) if parts.is_empty()), inside > 0);
        }
    }

    #[test]
    fn a_defect_is_answered_in_the_shape_of_its_route_and_says_what_may_have_been_executed() {
        let answered = |path: &str, executed| {
            let shape = serve::shape(&Variables::from_pairs(&[("PATH_INFO", path)]));
            let text = String::from_utf8(plain(serve::defect(shape, executed, "r"), "r")).unwrap();
            let (head, body) = text.split_once("\n\n").unwrap();
            assert!(head.contains("\nX-Request-Id: r\n"), "{head}");
            (head.lines().next().unwrap().to_owned(), serde_json::from_str::<serde_json::Value>(body).unwrap())
        };
        for (executed, word) in [(Executed::No, "no"), (Executed::Unknown, "unknown")] {
            let (status, body) = answered("/", executed);
            assert_eq!((status.as_str(), &body["executed"]), ("Status: 500", &word.into()));
            assert_eq!(body["code"], 500);
        }
        // Clients of webhooks repeat on 5xx.
        let (status, body) = answered("/rest/1/TOKEN/crm.deal.add", Executed::Unknown);
        assert_eq!((status.as_str(), &body["error"]), ("Status: 409", &"OUTCOME_UNKNOWN".into()));
        let (status, _) = answered("/rest/1/TOKEN/crm.deal.add", Executed::No);
        assert_eq!(status, "Status: 500");
        let (_, body) = answered("/rest/api/1/TOKEN/crm.deal.add", Executed::Unknown);
        assert_eq!(body["error"]["code"], "OUTCOME_UNKNOWN");
    }
}
