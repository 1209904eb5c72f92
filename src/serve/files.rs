//! Files: `GET`, `HEAD` and `POST /file?portal=NAME&address=ADDRESS`, and a webhook's address of a file.

use super::context::{Serving, Trace};
use super::request_of_1c::find_portal;
use crate::app::App;
use crate::call::files::Transfer;
use crate::call::outcome::Failed;
use crate::call::relay::{stored_address, Patience};
use crate::config::{Client, Config, Portal, Way};
use crate::store::records::Installation;
use crate::system::clock::Deadline;
use crate::upstream::http::{Download, Reply};
use crate::values::answer::{Answer, Content};
use crate::values::error::{Arrived, Error, Result};
use crate::values::file_address::FileAddress;
use crate::values::form::Form;
use crate::values::request::{Body, BodyError};
use crate::values::upload::{Parts, Refused};
use std::io::Read;
use std::time::Duration;

/// What of a file's answer is passed on beside its type and length.
const PASSED: [(&str, &str); 5] = [
    ("Content-Disposition", "Content-Disposition"),
    ("Content-Range", "Content-Range"),
    ("Accept-Ranges", "Accept-Ranges"),
    ("ETag", "ETag"),
    ("Last-Modified", "Last-Modified"),
];
/// What of a request for a file is passed on.
const CONDITIONS: [(&str, &str); 4] = [
    ("HTTP_RANGE", "Range"),
    ("HTTP_IF_RANGE", "If-Range"),
    ("HTTP_IF_NONE_MATCH", "If-None-Match"),
    ("HTTP_IF_MODIFIED_SINCE", "If-Modified-Since"),
];

/// How a file's transfer ended, for a route to answer in its own way.
pub enum Moved {
    Down(Download),
    Up(Reply),
}

impl Serving<'_> {
    /// `/file`, for a client.
    pub fn file(&self, app: &App, body: &mut Body, trace: &mut Trace) -> Result<Answer> {
        let credentials = self.credentials().ok_or(Error::Unauthorized(Arrived::Nothing))?;
        let client = self.admitted(&app.config, &credentials, true, trace)?;
        let query = Form::of(self.variables.bytes("QUERY_STRING").to_vec());
        let (named, address) = (query.text("portal"), query.text("address"));
        let portal = find_portal(&app.config, Some(named.as_str()).filter(|name| !name.is_empty()))?;
        trace.portal = Some(portal.name.to_string());
        client.check_portal(&portal.name)?;
        let wrong = |why: &str| Error::InvalidRequest(format!("\"address\" {why}"));
        let (scheme, host, address) = FileAddress::parse(&address).map_err(wrong)?;
        if !origins(app, portal).contains(&format!("{}://{host}", scheme.as_str())) {
            return Err(wrong("is not one of this portal's REST"));
        }
        match self.moved(app, (client, portal), &address, body, trace)? {
            Moved::Down(download) => Ok(self.downloaded(app, download)),
            Moved::Up(reply) => Ok(Answer::success(vec![reply.body])),
        }
    }

    /// Moves the file that this request is about.
    pub fn moved(
        &self,
        app: &App,
        (client, portal): (&Client, &Portal),
        address: &FileAddress,
        body: &mut Body,
        trace: &mut Trace,
    ) -> std::result::Result<Moved, Failed> {
        trace.method = Some(address.method.as_str().to_owned());
        if self.idempotency_key()?.is_some() {
            return Err(Error::InvalidRequest("an Idempotency-Key has no meaning for a file".into()).into());
        }
        let (job, config) = (self.job(app).of_client(&client.name), &app.config);
        let patience = Patience::Until(job.end.at_most(config.limits.max_wait));
        let transfer = Transfer { job, portal, address, patience, pause: config.bitrix24.timeout };
        let moved = match self.variables.method() {
            "POST" => self.uploaded(config, &transfer, body).map(Moved::Up),
            _ => {
                let referer = format!("https://{}/", portal.name);
                // A portal's web server may answer 404 to who does not look like a browser.
                let language = self.variables.text("HTTP_ACCEPT_LANGUAGE").filter(|text| !text.is_empty());
                let mut fields =
                    vec![("Accept", "*/*"), ("Accept-Language", language.unwrap_or("en")), ("Referer", &*referer)];
                let given =
                    CONDITIONS.iter().filter_map(|(variable, name)| Some((*name, self.variables.text(variable)?)));
                fields.extend(given.filter(|(_, value)| !value.is_empty()));
                transfer.download(&fields).map(Moved::Down)
            }
        };
        trace.noted_failure(moved)
    }

    fn uploaded(&self, config: &Config, transfer: &Transfer, body: &mut Body) -> std::result::Result<Reply, Failed> {
        let wrong = |why: String| Failed::from(Error::InvalidRequest(why));
        if let Some(encoding) = self.variables.text("HTTP_CONTENT_ENCODING").filter(|text| !text.is_empty()) {
            return Err(Error::UnsupportedEncoding(encoding.chars().take(64).collect()).into());
        }
        if transfer.address.method.canonical() != "upload" {
            return Err(wrong("\"address\" is not one for an upload (/rest/upload…): ask for it with GET".into()));
        }
        let content_type = self.variables.text("CONTENT_TYPE").unwrap_or("");
        let parts = Parts::of(content_type)
            .ok_or_else(|| wrong("a file is uploaded as multipart/form-data, with a boundary".into()))?;
        let (limit, pause) = (config.limits.max_file, config.bitrix24.timeout);
        let too_large = |error| Failed::from(super::context::body_error(error, limit, "max_file"));
        let length = body.announced(limit).map_err(too_large)?;
        let content_type = parts.content_type();
        let mut source = Upload { body, parts, limit, pause, stopped: None };
        let result = transfer.upload(&content_type, &mut source, length);
        match source.stopped {
            Some(Stopped::Body(error)) => Err(too_large(error)),
            Some(Stopped::Part(Refused::Name(name))) => Err(wrong(format!(
                "the part {:?} must not be there: Bitrix24 would take it for the signature or the authorization",
                name.chars().take(64).collect::<String>()
            ))),
            Some(Stopped::Part(Refused::Unclear)) => {
                Err(wrong("the multipart body is not as RFC 7578 has it, or not complete".into()))
            }
            None => result,
        }
    }

    /// The answer with the file behind it.
    pub fn downloaded(&self, app: &App, download: Download) -> Answer {
        let status = download.status;
        let kind = download.content_type().unwrap_or("application/octet-stream").to_owned();
        let mut headers: Vec<(&'static str, String)> = Vec::new();
        for (theirs, ours) in PASSED {
            headers.extend(download.header(theirs).map(|value| (ours, value.to_owned())));
        }
        if !headers.iter().any(|(name, _)| *name == "Content-Disposition") {
            headers.push(("Content-Disposition", "attachment".into()));
        }
        // What comes from a portal must not act in this program's own origin.
        headers.push(("Content-Security-Policy", "sandbox".into()));
        let body = match status {
            304 => Content::empty(),
            _ => {
                let reader = Box::new(Bounded { reader: download.reader, left: app.config.limits.max_file });
                Content::Reader { reader, length: download.length }
            }
        };
        Answer { status, content_type: kind, headers, body }
    }
}

/// Where the portal's addresses of files begin: the configured one, and where it has moved to.
pub fn origins(app: &App, portal: &Portal) -> Vec<String> {
    let tokens = match &portal.way {
        Way::Webhook(webhook) => return vec![webhook.origin()],
        Way::OAuth(_) => app.store.read(&portal.name),
    };
    let mut origins = vec![format!("https://{}", portal.name)];
    if let Ok(Installation::Installed(tokens)) = tokens {
        origins.extend(stored_address(&app.config, portal, &tokens).ok().map(|endpoint| endpoint.origin()));
    }
    origins.dedup();
    origins
}

/// The portal's file, never more than may pass. What goes wrong on the way ends the answer unfinished.
struct Bounded {
    reader: Box<dyn Read + Send>,
    left: u64,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => return Err(std::io::Error::other("the file is larger than max_file")),
        }
        Ok(count)
    }
}

/// Why an upload was not read to its end.
enum Stopped {
    Body(BodyError),
    Part(Refused),
}

/// The caller's body on its way to the portal, looked at before it goes on.
struct Upload<'u, 'b> {
    body: &'u mut Body<'b>,
    parts: Parts,
    limit: u64,
    pause: Duration,
    stopped: Option<Stopped>,
}

impl Read for Upload<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.body.read_on(buffer, self.limit, Deadline::after(self.pause));
        let judged = read.map_err(Stopped::Body).and_then(|count| {
            self.parts.see(&buffer[..count]).map_err(Stopped::Part)?;
            // Before the last bytes go: without them it is no request.
            if self.body.is_at_end() && !self.parts.is_complete() {
                return Err(Stopped::Part(Refused::Unclear));
            }
            Ok(count)
        });
        judged.map_err(|stopped| {
            self.stopped = Some(stopped);
            std::io::Error::other("the upload was stopped")
        })
    }
}
