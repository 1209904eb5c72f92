//! Many calls in one request: [`calls`] packs calls into batches, [`list`] reads a list to its end.
//!
//! Both work in steps of one request to the portal each, and stop between two steps where time or size runs out; the caller
//! goes on from there. Nothing is cut silently.

pub mod calls;
pub mod command;
mod fate;
pub mod list;
mod step;

use crate::app::Job;
use crate::call::limits::Pace;
use crate::call::outcome::{Called, Failed};
use crate::call::payload::{Parameters, Payload};
use crate::call::relay::{self, Call, Patience};
use crate::config::Portal;
use crate::system::clock::Deadline;
use crate::system::log::Level;
use crate::upstream::http::Reply;
use crate::values::connector;
use crate::values::error::Upstream;
use crate::values::json;
use crate::values::method::Method;
use crate::values::portal::Version;
use crate::values::tally::Calls;
use crate::values::verdict::text_of;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Commands in a batch.
pub const MAX_COMMANDS: usize = 50;
/// Bytes of a batch's commands together. Longer parameters go on their own: percent-encoded they would be three times as long.
pub const LONGEST_BATCH: usize = 1 << 20;
/// How often progress is logged.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// The requests of one bulk request, and what they may still take.
pub struct Steps<'a> {
    job: Job<'a>,
    portal: &'a Portal,
    version: Version,
    max_response: u64,
    timeout: Duration,
    /// How long the last step took, and the longest, without what they waited for the limit.
    last: Duration,
    longest: Duration,
    /// What stands in the query of each request.
    query: String,
    /// Bytes of the largest answer.
    largest: usize,
    said: Instant,
    /// What was done again, for the log.
    pub repeated: Vec<&'static str>,
}

impl<'a> Steps<'a> {
    pub fn new(job: Job<'a>, portal: &'a Portal) -> Self {
        let config = &job.app.config;
        let (max_response, timeout) = (config.limits.max_response, config.bitrix24.timeout);
        let (last, longest, largest, repeated) = (Duration::ZERO, Duration::ZERO, 0, Vec::new());
        let (query, version, said) = (String::new(), Version::V2, Instant::now());
        Steps { job, portal, version, max_response, timeout, last, longest, query, largest, said, repeated }
    }

    /// REST 3.0's are single calls: its batch is all or nothing.
    pub fn in_version(self, version: Version) -> Self {
        Steps { version, ..self }
    }

    /// With this `auth_connector` in each request.
    pub fn with_connector(self, connector: Option<&str>) -> Self {
        Steps { query: connector::query(connector), ..self }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn job(&self) -> Job<'a> {
        self.job
    }

    /// The pace at which the portal may be called.
    pub fn pace(&self) -> Pace<'a> {
        Pace::of(self.job.app, self.portal)
    }

    /// What a step must find left of the time when it is sent, judged by the longest so far.
    fn margin(&self) -> Duration {
        (self.timeout / 10).max(self.longest.mul_f32(1.5))
    }

    /// Whether another step can end in time.
    pub fn has_time(&self) -> bool {
        self.job.end.remaining() > self.margin()
    }

    /// Whether the answer of another step finds room beside `collected` bytes, judged by the largest so far.
    pub fn has_room(&self, collected: usize) -> bool {
        let expected = (collected + 2 * self.largest) as u64;
        (collected as u64) < self.max_response / 2 && (collected == 0 || expected <= self.max_response)
    }

    /// How long the last step took, without what it waited for the limit.
    pub fn last_took(&self) -> Duration {
        self.last
    }

    /// A call on its own.
    pub fn single(
        &mut self,
        method: &Method,
        parameters: Parameters,
        collected: usize,
    ) -> std::result::Result<Reply, Failed> {
        let query = self.query.clone();
        self.send(method, parameters, &query, collected, 1)
    }

    /// The same with another query. `counts`: as how many calls.
    fn send(
        &mut self,
        method: &Method,
        parameters: Parameters,
        query: &str,
        collected: usize,
        counts: usize,
    ) -> std::result::Result<Reply, Failed> {
        let call = Call {
            version: self.version,
            method,
            query,
            payload: Payload::Json(parameters),
            headers: vec![("Accept", "application/json")],
            max_response: self.max_response.saturating_sub(collected as u64).max(1),
            counts,
        };
        // Sent with no time left, its answer would be lost.
        let patience = self.job.end.remaining().saturating_sub(self.margin());
        let started = Instant::now();
        let Called { result, mut trip } =
            relay::call(self.job, self.portal, &call, Patience::Until(Deadline::after(patience)), None);
        self.last = started.elapsed().saturating_sub(trip.waited);
        self.longest = self.longest.max(self.last);
        self.repeated.append(&mut trip.repeated);
        if let Ok(reply) = &result {
            self.largest = self.largest.max(reply.body.len());
        }
        result
    }

    pub fn batch(&mut self, commands: Commands, halt: bool, collected: usize) -> std::result::Result<Reply, Failed> {
        let (batch, query) = (Method::parse("batch").expect("a method name"), self.query.clone());
        self.send(&batch, commands.to_parameters(halt), &query, collected, commands.count())
    }

    /// Counts the commands of a batch that Bitrix24 answered with an error.
    fn count_errors(&self, answer: &BatchAnswer) {
        let Some(raw) = answer.errors.values().next() else { return };
        let count = u32::try_from(answer.errors.len()).unwrap_or(u32::MAX);
        self.pace().failed_in_batch(Calls { client: self.job.client, count }, &error_of(raw).error);
    }

    pub fn progress(&mut self, done: usize, all: Option<usize>) {
        if self.said.elapsed() < PROGRESS_EVERY {
            return;
        }
        self.said = Instant::now();
        let fields = [("portal", self.portal.name.as_str().into()), ("done", done.into()), ("all", all.into())];
        self.job.log.line(Level::Info, "progress", &fields);
    }
}

/// The commands of a batch, written as they are taken.
#[derive(Default)]
pub struct Commands {
    /// Named so that PHP never writes their map as a list.
    cmd: String,
    count: usize,
}

impl Commands {
    /// `None`: they do not all fit.
    pub fn of(commands: impl IntoIterator<Item = String>) -> Option<Commands> {
        let mut all = Commands::default();
        commands.into_iter().all(|command| all.push(&command)).then_some(all)
    }

    /// Whether it still fits.
    pub fn push(&mut self, command: &str) -> bool {
        let fits = self.count < MAX_COMMANDS && self.cmd.len() + command.len() <= LONGEST_BATCH;
        if fits {
            json::push_member(&mut self.cmd, &name(self.count), &json::quoted(command));
            self.count += 1;
        }
        fits
    }

    pub fn count(&self) -> usize {
        self.count
    }

    fn to_parameters(&self, halt: bool) -> Parameters<'static> {
        Parameters::of_inside(format!("\"halt\":{},\"cmd\":{{{}}}", u8::from(halt), self.cmd))
    }
}

/// The name of a batch's command.
pub fn name(index: usize) -> String {
    format!("c{index}")
}

/// The parts of a batch's answer, as they stand, by the commands' names.
#[derive(Default)]
pub struct BatchAnswer<'a> {
    pub results: HashMap<String, &'a str>,
    pub errors: HashMap<String, &'a str>,
    pub totals: HashMap<String, &'a str>,
    pub nexts: HashMap<String, &'a str>,
    pub times: HashMap<String, &'a str>,
}

impl<'a> BatchAnswer<'a> {
    /// `None`: not the answer of a batch.
    pub fn parse(body: &'a [u8]) -> Option<BatchAnswer<'a>> {
        let result = json::field(std::str::from_utf8(body).ok()?, "result")?;
        let names = ["result", "result_error", "result_total", "result_next", "result_time"];
        let parts = json::fields(result, names).ok()?;
        let [results, errors, totals, nexts, times] = parts.map(|part| part.map(by_name).unwrap_or_default());
        Some(BatchAnswer { results, errors, totals, nexts, times })
    }
}

/// The entries of a JSON object that are named as our commands are; PHP writes an empty map as `[]`.
fn by_name(raw: &str) -> HashMap<String, &str> {
    let names: Vec<String> = (0..MAX_COMMANDS).map(name).collect();
    let known = json::entries(raw).map_while(Result::ok).filter(|(key, _)| names.iter().any(|name| name == key));
    known.map(|(key, raw)| (key.into_owned(), raw)).collect()
}

/// The error of a batch's command.
pub fn error_of(raw: &str) -> Upstream {
    let parts = json::fields(raw, ["error", "error_description"]).unwrap_or_default();
    let [error, error_description] = parts.map(|part| part.map(text_of).unwrap_or_default());
    Upstream { status: 200, error, error_description, retry_after: None }
}
