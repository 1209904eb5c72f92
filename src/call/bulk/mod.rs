//! Many calls in one request: [`calls`] packs calls into batches, [`list`] reads a list to its end.
//!
//! Both work in steps of one request to the portal each, and stop between two steps where time or size runs out; the caller
//! goes on from there. Nothing is cut silently.

pub mod calls;
pub mod command;
pub mod list;

use crate::app::Job;
use crate::call::outcome::{Called, Failed};
use crate::call::payload::{Parameters, Payload};
use crate::call::relay::{self, Call, Patience};
use crate::config::Portal;
use crate::system::clock::Deadline;
use crate::system::log::Level;
use crate::upstream::http::Reply;
use crate::values::error::Upstream;
use crate::values::json::{self, Member};
use crate::values::method::Method;
use crate::values::portal::Version;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Commands in a batch.
pub const MAX_COMMANDS: usize = 50;
/// How often progress is logged.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// The requests of one bulk request, and what they may still take.
pub struct Steps<'a> {
    job: Job<'a>,
    portal: &'a Portal,
    max_response: u64,
    timeout: Duration,
    /// How long the last step took, and the longest, without what they waited for the limit.
    last: Duration,
    longest: Duration,
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
        Steps { job, portal, max_response, timeout, last, longest, largest, said: Instant::now(), repeated }
    }

    pub fn job(&self) -> Job<'a> {
        self.job
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
        let call = Call {
            version: Version::V2,
            method,
            query: "",
            payload: Payload::Json(parameters),
            headers: vec![("Accept", "application/json")],
            max_response: self.max_response.saturating_sub(collected as u64).max(1),
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

    /// A batch. The commands are named so that PHP never writes their map as a list.
    pub fn batch(&mut self, commands: &[String], halt: bool, collected: usize) -> std::result::Result<Reply, Failed> {
        let named: Vec<Member> =
            commands.iter().enumerate().map(|(i, command)| (name(i), json::quoted(command))).collect();
        let halt = u8::from(halt).to_string();
        let parameters = Parameters::from_members(&[("halt".into(), halt), ("cmd".into(), json::object(&named))]);
        let batch = Method::parse("batch").expect("a method name");
        self.single(&batch, parameters, collected)
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
}

impl<'a> BatchAnswer<'a> {
    /// `None`: not the answer of a batch.
    pub fn parse(body: &'a [u8]) -> Option<BatchAnswer<'a>> {
        let text = std::str::from_utf8(body).ok()?;
        let parts = json::entries(json::field(text, "result")?).ok()?;
        let part = |name: &str| json::member(&parts, name).map(by_name).unwrap_or_default();
        Some(BatchAnswer {
            results: part("result"),
            errors: part("result_error"),
            totals: part("result_total"),
            nexts: part("result_next"),
        })
    }
}

/// The entries of a JSON object; PHP writes an empty map as `[]`.
fn by_name(raw: &str) -> HashMap<String, &str> {
    json::entries(raw).unwrap_or_default().into_iter().map(|(key, raw)| (key.into_owned(), raw.get())).collect()
}

/// The error of a batch's command.
pub fn error_of(raw: &str) -> Upstream {
    let text = |name: &str| json::field(raw, name).map(crate::values::verdict::text_of).unwrap_or_default();
    Upstream { status: 200, error: text("error"), error_description: text("error_description") }
}
