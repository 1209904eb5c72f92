//! Files on their way: what a signed address leads to.

use std::io::{self, Read};
use std::ops::Range;

use crate::addresses::Signer;
use crate::faults::{Faults, Pace};
use crate::file_methods;
use crate::files::{Content, File, Moved};
use crate::http::{Piece, Reply, Request, Wait};
use crate::ledger::{Direction, Transfer};
use crate::methods::{self, Answer, Caller, Failure};
use crate::multipart::{Form, Part};
use crate::php::{Array, Php};
use crate::rest::Job;
use crate::state::PortalState;

/// Methods that answer a file, or take one, and their scope.
const METHODS: &[(&str, &str)] = &[
    ("catalog.product.download", "catalog"),
    ("crm.controller.item.getfile", "crm"),
    ("crm.documentgenerator.document.download", "crm"),
    ("crm.documentgenerator.document.getimage", "crm"),
    ("crm.documentgenerator.document.getpdf", "crm"),
    ("documentgenerator.api.document.getfile", "documentgenerator"),
    ("documentgenerator.api.document.getimage", "documentgenerator"),
    ("documentgenerator.api.document.getpdf", "documentgenerator"),
    ("download", "disk"),
    ("upload", "disk"),
];

fn scope_of(method: &str) -> Option<&'static str> {
    METHODS.iter().find(|(name, _)| *name == method).map(|(_, scope)| *scope)
}

/// The `token` among the parameters, from wherever PHP read it.
fn token(params: &Array) -> Option<&Php> {
    params.get("token").filter(|token| **token != Php::Null)
}

/// What a call is that moves a file, or that a `token` makes one; `body` says which of the `params` came in it.
pub(crate) fn of(method: &str, params: &Array, body: &Array) -> Option<Transfer> {
    let direction = match method {
        "upload" => Direction::Upload,
        method if scope_of(method).is_some() || token(params).is_some() => Direction::Download,
        _ => return None,
    };
    let token_in_body = token(params).is_some() && body.get("token").is_some();
    Some(Transfer::new(direction, token(params).map(Php::to_text), token_in_body))
}

/// What has come of a transfer.
enum Done {
    File(i64, File),
    Answer(Answer),
}

/// Answers such a call; `form` is what an upload brought.
pub(crate) fn answer(
    job: &Job<'_>,
    request: &Request,
    entered: Result<Caller, Failure>,
    params: &Array,
    form: &Form,
) -> Reply {
    let done = entered.and_then(|caller| run(job, &caller, params, form));
    let executed = !matches!(&done, Err(failure) if failure.refused);
    let mut sent = Moved::default();
    job.shared.ledger.update_call(job.number, |call| {
        call.executed = executed;
        if let Some(transfer) = &mut call.transfer {
            sent = transfer.moved.clone();
            if let Ok(Done::File(id, file)) = &done {
                transfer.file = Some(*id);
                transfer.size = file.content.size();
            }
        }
    });
    match done {
        Ok(Done::File(id, file)) => {
            let picky = job.shared.state().portals[job.portal].picky_downloads;
            file_reply(request, id, &file, picky, sent)
        }
        Ok(Done::Answer(answer)) => job.reply(Ok(answer)),
        Err(failure) => job.reply(Err(failure)),
    }
}

/// In the order of the portal's own PHP: the method by the token's scope, the right to that scope, the signature.
fn run(job: &Job<'_>, caller: &Caller, params: &Array, form: &Form) -> Result<Done, Failure> {
    let method = job.route.method.as_str();
    let not_found = || methods::refuse(404, "ERROR_METHOD_NOT_FOUND", "Method not found!");
    let own_scope = scope_of(method).or_else(|| methods::scope_of(method)).ok_or_else(not_found)?;
    let signed = matches!(method, "download" | "upload") || token(params).is_some();
    let text = token(params).map(Php::to_text).unwrap_or_default();
    let scope = if text.is_empty() { own_scope } else { text.split('|').next().unwrap_or_default() };
    if scope != own_scope {
        return Err(not_found());
    }
    let mut state = job.shared.state();
    let portal = &mut state.portals[job.portal];
    methods::admit_scope(portal, scope)?;
    let signer = Signer::of(portal, caller);
    let query = match signed {
        false => params.clone(),
        true => signer
            .read(method, &text)
            .ok_or_else(|| methods::refuse(403, "ACCESS_DENIED", "Access denied! Link check failed"))?,
    };
    job.shared.ledger.update_call(job.number, |call| {
        if let Some(transfer) = &mut call.transfer {
            transfer.query = Php::Array(query.clone()).to_json();
        }
    });
    if scope_of(method).is_none() {
        drop(state);
        return methods::run(job.shared, caller, method, &query).map(Done::Answer);
    }
    if method != "upload" {
        return stored(portal, method, &query);
    }
    let file = uploaded(form)?;
    let id = portal.store_file(file.clone());
    job.shared.ledger.update_call(job.number, |call| {
        if let Some(transfer) = &mut call.transfer {
            transfer.file = Some(id);
            transfer.name = Some(file.name.clone());
            transfer.size = file.content.size();
            transfer.sha256 = file.content.sha256();
        }
    });
    Ok(Done::Answer(file_methods::described(&signer, id, &file, job.started).into()))
}

/// The file of the part that the address's answer named; of several, PHP keeps the last.
fn uploaded(form: &Form) -> Result<File, Failure> {
    let found = form.parts.iter().zip(&form.bytes).rfind(|(part, _)| part.name == file_methods::UPLOAD_FIELD);
    let Some((Part { filename: Some(name), size, sha256, .. }, bytes)) = found else {
        return Err(methods::fail(400, "ERROR_ARGUMENT", "Required parameter {file} is missing"));
    };
    let content = match bytes {
        Some(bytes) => Content::given(bytes.clone()),
        None => Content::gone(*size, sha256),
    };
    Ok(File::new(name, content))
}

/// The file that the method and its query mean.
fn stored(portal: &PortalState, method: &str, query: &Array) -> Result<Done, Failure> {
    let number = |query: &Array, name: &str| query.get_any_case(name).and_then(Php::to_int);
    let document = || number(query, "id").and_then(|id| portal.documents.get(&id));
    let id = match method {
        "download" => number(query, "id"),
        "crm.controller.item.getfile" => number(query, "fileId"),
        "catalog.product.download" => {
            query.get("fields").and_then(Php::as_array).and_then(|fields| number(fields, "fileId"))
        }
        method if method.ends_with("getpdf") => document().and_then(|document| document.pdf),
        method if method.ends_with("getimage") => document().and_then(|document| document.image),
        _ => document().map(|document| document.file),
    };
    let found = id.and_then(|id| Some((id, portal.files.get(&id)?.clone())));
    let found = found.filter(|(_, file)| !file.content.is_gone());
    let (id, file) = found.ok_or_else(|| methods::fail(400, "ERROR_NOT_FOUND", "Could not find the file"))?;
    Ok(Done::File(id, file))
}

/// What nginx makes of a stored file that PHP hands it.
fn file_reply(request: &Request, id: i64, file: &File, picky: bool, sent: Moved) -> Reply {
    let size = file.content.size();
    let tag = format!("\"{id:x}-{size:x}\"");
    let with_disposition = |reply: Reply| match &file.disposition {
        Some(disposition) => reply.with_header("Content-Disposition", disposition),
        None => reply,
    };
    let asked_for = ["Accept", "Accept-Language", "Referer", "User-Agent"];
    if picky && !asked_for.iter().all(|name| request.header(name).is_some()) {
        return with_disposition(Reply::html(404, "<html><body>404 Not Found</body></html>"));
    }
    let matches = |header: &str| header.split(',').any(|one| one.trim() == tag || one.trim() == "*");
    if request.header("if-none-match").is_some_and(matches) {
        return Reply { headers: Vec::new(), ..Reply::html(304, "") }.with_header("ETag", &tag);
    }
    let whole = request.header("if-range").is_some_and(|condition| condition != tag);
    let wanted = request.header("range").filter(|_| !whole);
    let Some(range) = range(wanted, size) else {
        let reply = Reply::html(416, "<html><body>416 Requested Range Not Satisfiable</body></html>");
        return reply.with_header("Content-Range", &format!("bytes */{size}"));
    };
    let mut reply = match &range {
        Some(_) => Reply::new(206, &file.content_type, ""),
        None => Reply::new(200, &file.content_type, ""),
    };
    if file.content_type.is_empty() {
        reply.headers.clear();
    }
    let reply = match &range {
        Some(range) => reply.with_header("Content-Range", &format!("bytes {}-{}/{size}", range.start, range.end - 1)),
        None => reply.with_header("Accept-Ranges", "bytes"),
    };
    let piece = Piece { content: file.content.clone(), range: range.unwrap_or(0..size), sent };
    with_disposition(Reply { piece: Some(piece), ..reply.with_header("ETag", &tag) })
}

/// One range of bytes; all of the file where none is asked for (or several are, which nginx answers otherwise); `None` where
/// there is no such part.
fn range(header: Option<&str>, size: u64) -> Option<Option<Range<u64>>> {
    let Some(wanted) = header.and_then(|header| header.strip_prefix("bytes=")) else {
        return Some(None);
    };
    if wanted.contains(',') {
        return Some(None);
    }
    let (first, last) = wanted.trim().split_once('-')?;
    let range = match (first, last) {
        ("", last) => size.saturating_sub(last.parse().ok()?)..size,
        (first, "") => first.parse().ok()?..size,
        (first, last) => first.parse().ok()?..last.parse::<u64>().ok()?.saturating_add(1).min(size),
    };
    (range.start < range.end).then_some(Some(range))
}

/// An upload's body, at the pace that the faults give it.
pub(crate) struct Paced<'a> {
    pub(crate) body: &'a mut dyn Read,
    pub(crate) pace: Pace,
    pub(crate) faults: &'a Faults,
    pub(crate) read: Moved,
    /// The first bytes, for the ledger.
    pub(crate) start: Vec<u8>,
}

/// How much of an upload's body the ledger keeps.
const KEPT: usize = 64 * 1024;

impl Read for Paced<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let aborted = || io::Error::from(io::ErrorKind::ConnectionAborted);
        let up_to = |bytes: u64| usize::try_from(bytes.saturating_sub(self.read.bytes())).unwrap_or(usize::MAX);
        let most = match self.pace {
            Pace::Free => usize::MAX,
            Pace::Slow { interval, chunk } => {
                self.faults.wait(&Wait::For(interval)).then_some(chunk.max(1)).ok_or_else(aborted)?
            }
            Pace::CloseAt(bytes) => match up_to(bytes) {
                0 => return Err(aborted()),
                left => left,
            },
            Pace::HangAt(bytes) => match up_to(bytes) {
                0 => {
                    self.pace = Pace::Free;
                    self.faults.wait(&Wait::Release).then_some(usize::MAX).ok_or_else(aborted)?
                }
                left => left,
            },
        };
        let most = most.min(out.len());
        let read = self.body.read(&mut out[..most])?;
        self.read.add(read);
        let room = KEPT - self.start.len();
        self.start.extend_from_slice(&out[..read.min(room)]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_one_part_of_the_file() {
        assert_eq!(range(None, 10), Some(None));
        for (header, part) in [
            ("bytes=0-0", 0..1),
            ("bytes=2-5", 2..6),
            ("bytes=2-99", 2..10),
            ("bytes=7-", 7..10),
            ("bytes=-3", 7..10),
            ("bytes=-99", 0..10),
        ] {
            assert_eq!(range(Some(header), 10), Some(Some(part)), "{header}");
        }
        for header in ["bytes=10-", "bytes=5-2", "bytes=-0", "bytes=", "bytes=x-y", "bytes=3"] {
            assert_eq!(range(Some(header), 10), None, "{header}");
        }
        for header in ["bytes=0-1,3-4", "lines=0-1"] {
            assert_eq!(range(Some(header), 10), Some(None), "{header}");
        }
        assert_eq!(range(Some("bytes=0-"), 0), None);
    }
}
