//! An answer on its way out, for every edge: its head, what is written behind it, and what is answered when the program itself
//! has failed.

use crate::call::idempotency::free_begun_key;
use crate::serve;
use crate::system::log::Log;
use crate::upstream::http::has_sent;
use crate::values::answer::{Answer, Content};
use crate::values::error::Executed;
use crate::values::portal::Version;
use std::io::{ErrorKind, Read, Write};
use std::panic::PanicHookInfo;
use std::time::Duration;

/// Up to here head and body leave in one write.
const SMALL: usize = 64 << 10;
/// Most of a file that is passed on at once: what a pipe holds.
const PIECE: usize = 64 << 10;
/// How long an unfinished answer stays open. Apache makes a length of its own for what has ended before it was sent on
/// (`ap_content_length_filter`), so that a cut file would look whole; while it waits for more, it sends the announced one.
pub const UNFINISHED: Duration = Duration::from_secs(1);

/// The response without what is to be written behind it, and that.
pub fn parted(answer: Answer, head_only: bool, request_id: &str) -> (cgi::Response, Content) {
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

/// What has come goes on at once: a web server waits so long for each piece and no longer. The inner failure: what was read
/// ended before its length, and why.
pub fn pass_on(
    mut reader: impl Read,
    length: Option<u64>,
    output: &mut impl Write,
) -> std::io::Result<Result<(), String>> {
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

/// The head as a CGI program writes it (RFC 3875, section 6.2).
pub fn head_of(response: &cgi::Response) -> Vec<u8> {
    // With its words: nginx passes on what is here, and some clients want a space behind the number.
    let status = response.status();
    let words = status.canonical_reason().unwrap_or("Unknown");
    let mut head = format!("Status: {} {words}\n", status.as_u16()).into_bytes();
    for (name, value) in response.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"] {
            head.extend_from_slice(part);
        }
    }
    head.push(b'\n');
    head
}

/// The whole of a small answer, without `cgi::handle`, which may be what failed.
pub fn plain(answer: Answer, request_id: &str) -> Vec<u8> {
    let (response, _) = parted(answer, false, request_id);
    [head_of(&response), response.into_body()].concat()
}

/// What is answered and logged where this program has failed. `shape`: whose failures the request has.
pub fn after_panic(panic: &PanicHookInfo, shape: Option<Version>, log: &Log) -> Answer {
    let place = panic.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
    log.error(&format!("internal error at {place}; please report it"));
    let executed = match has_sent() {
        true => Executed::Unknown,
        false => {
            free_begun_key();
            Executed::No
        }
    };
    serve::defect(shape, executed, &log.request_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::request::Variables;

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
    fn a_status_has_words_whatever_it_is() {
        for (status, line) in [(200, "Status: 200 OK"), (404, "Status: 404 Not Found"), (599, "Status: 599 Unknown")] {
            let text = String::from_utf8(plain(Answer::json(status, "{}"), "r")).unwrap();
            assert_eq!(text.lines().next(), Some(line));
        }
    }

    #[test]
    fn a_defect_is_answered_in_the_shape_of_its_route_and_says_what_may_have_been_executed() {
        let answered = |path: &str, executed| {
            let shape = serve::shape(&Variables::from_pairs(&[("PATH_INFO", path)]));
            let text = String::from_utf8(plain(serve::defect(shape, executed, "r"), "r")).unwrap();
            let (head, body) = text.split_once("\n\n").unwrap();
            assert!(head.contains("\nx-request-id: r\n"), "{head}");
            (head.lines().next().unwrap().to_owned(), serde_json::from_str::<serde_json::Value>(body).unwrap())
        };
        for (executed, word) in [(Executed::No, "no"), (Executed::Unknown, "unknown")] {
            let (status, body) = answered("/", executed);
            assert_eq!((status.as_str(), &body["executed"]), ("Status: 500 Internal Server Error", &word.into()));
            assert_eq!(body["code"], 500);
        }
        // Clients of webhooks repeat on 5xx.
        let (status, body) = answered("/rest/1/TOKEN/crm.deal.add", Executed::Unknown);
        assert_eq!((status.as_str(), &body["error"]), ("Status: 409 Conflict", &"OUTCOME_UNKNOWN".into()));
        let (status, _) = answered("/rest/1/TOKEN/crm.deal.add", Executed::No);
        assert_eq!(status, "Status: 500 Internal Server Error");
        let (_, body) = answered("/rest/api/1/TOKEN/crm.deal.add", Executed::Unknown);
        assert_eq!(body["error"]["code"], "OUTCOME_UNKNOWN");
    }
}
