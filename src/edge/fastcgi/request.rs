//! One request on a connection, from its parameters to its end.

use super::connection::{Begun, Connection};
use super::current::Current;
use super::record::Ended;
use super::resident::Resident;
use super::wire::{Output, Wire};
use crate::call::idempotency;
use crate::edge::answering::{head_of, parted, pass_on, UNFINISHED};
use crate::serve;
use crate::system::log::{ErrorStream, Log};
use crate::upstream::http;
use crate::values::answer::{Answer, Content};
use crate::values::request::{Body, Request};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Instant;

/// Serves it. The answer is how many bytes of body and answer were held, at least.
pub fn serve(
    begun: Begun,
    started: Instant,
    connection: &mut Connection,
    resident: &mut Resident,
    current: &Current,
) -> u64 {
    let Begun { id, variables, .. } = begun;
    let wire = connection.wire.clone();
    http::begin_request();
    idempotency::begin_request();
    let has_journal = resident.has_journal;
    let loaded = resident.app(variables.os("DOCUMENT_ROOT"));
    let log = Arc::new(Resident::log(&loaded, error_stream(wire.clone(), id, has_journal)));
    current.begin(&wire, id, serve::shape(&variables), &log);
    let head_only = variables.method() == "HEAD";
    let body = Body::new(&variables, connection);
    let mut request = Request { variables, body, started };
    let answer = serve::answer(loaded.as_ref().map(|app| &**app), &mut request, &log);
    let held = request.body.consumed().max(answer.body.held());
    drop(request);
    current.answering();
    // A client that has gone is no failure of ours.
    let _ = write(answer, head_only, connection, id, &log);
    current.end();
    held
}

/// The request's standard error; the one that this process was given where that is the journal, or where the web server takes
/// no more.
fn error_stream(wire: Arc<Wire>, id: u16, has_journal: bool) -> ErrorStream {
    Box::new(move |line| {
        if has_journal || wire.write_errors(id, line).is_err() {
            let _ = std::io::stderr().write_all(line);
        }
    })
}

/// Writes the answer and its end. One that is cut off has none: the connection ends with it.
fn write(answer: Answer, head_only: bool, connection: &mut Connection, id: u16, log: &Log) -> std::io::Result<()> {
    let wire = connection.wire.clone();
    let (response, behind) = parted(answer, head_only, &log.request_id);
    let mut head = head_of(&response);
    head.extend(response.into_body());
    let mut output = Output { wire: &wire, id };
    match behind {
        Content::Parts(parts) if parts.is_empty() => return wire.end(id, &head, Ended::Complete, 0),
        Content::Parts(parts) => {
            output.write_all(&head)?;
            parts.iter().try_for_each(|part| output.write_all(part))?;
        }
        Content::Reader { reader, length } => {
            output.write_all(&head)?;
            let reader = Wanted { reader, connection: &mut *connection };
            match pass_on(reader, length, &mut output)? {
                Ok(()) => {}
                Err(_) if connection.is_aborted() => {}
                Err(why) => {
                    log.warn(&format!("the file was cut off on its way from Bitrix24: {why}"));
                    std::thread::sleep(UNFINISHED);
                    wire.break_off();
                    return Ok(());
                }
            }
        }
    }
    wire.end(id, b"", Ended::Complete, 0)
}

/// A file for as long as somebody waits for it.
struct Wanted<'c> {
    reader: Box<dyn Read + Send>,
    connection: &'c mut Connection,
}

impl Read for Wanted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.connection.is_aborted() {
            true => Err(std::io::Error::other("nobody waits for it any more")),
            false => self.reader.read(buffer),
        }
    }
}
