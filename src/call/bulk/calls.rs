//! `"calls"`: many calls in one request, packed into batches of 50, in order.
//!
//! A call that Bitrix24 refuses for now has no result. Where others of its batch were executed behind it, it is pending and
//! keeps its place; else it is the next one. Then nothing more is sent: whoever goes on sends those that are pending first.

use super::fate::{self, Fate, Wall};
pub use super::step::{Asked, One};
use super::step::{Left, Request, Step};
use super::{name, BatchAnswer, Steps};
use crate::call::idempotency::Journaled;
use crate::call::limits::Pace;
use crate::call::outcome::Failed;
use crate::call::payload::Parameters;
use crate::call::results::Piece;
use crate::system::log::Log;
use crate::upstream::http::Reply;
use crate::values::bucket::{HORIZON, PAUSE};
use crate::values::error::{Error, Executed, Passing, Result, Upstream};
use crate::values::json;
use crate::values::method::Method;
use crate::values::verdict::Operating;
use std::collections::HashMap;

/// What became of the calls.
pub struct Results {
    pub results: Piece,
    /// The first call that has no entry, where time or size ran out, calls were refused for now, or an answer was lost.
    pub next: Option<usize>,
    /// Why no further call was sent, where that was not for time or size.
    pub stopped: Option<Error>,
    /// Nothing was executed now: all of it was kept.
    pub replayed: bool,
}

impl Results {
    /// `{"results":[…],"errors":N,"next":I,"pending":[…],"retry_after":S}`, in parts.
    pub fn into_json(self) -> Vec<Vec<u8>> {
        let member =
            |name, value: Option<String>| value.map(|value| format!(",\"{name}\":{value}")).unwrap_or_default();
        let pending = self.results.pending();
        let end = format!(
            "],\"errors\":{}{}{}{}}}",
            self.results.errors,
            member("next", self.next.map(|next| next.to_string())),
            member("pending", (!pending.is_empty()).then(|| format!("{pending:?}"))),
            member("retry_after", self.stopped.and_then(|error| error.retry_after()).map(|s| s.to_string())),
        );
        vec![b"{\"results\":[".to_vec(), self.results.text, end.into_bytes()]
    }
}

/// What became of a step.
enum Done {
    /// `refused`: some of its calls were not executed now. `last`: the answer was lost, and the caller is asked first whether
    /// to go on.
    Answered {
        left: Left,
        refused: Option<Error>,
        last: bool,
    },
    NotSent(Error),
    /// Bitrix24 refused the batch as a whole, for good; nothing of it was executed.
    Refused(Upstream),
}

/// Executes the calls, going on behind the results that are kept and with those pending in them, and keeps each step's
/// results in the journal. An error: nothing was executed, and the key is free.
pub fn execute(steps: &mut Steps, asked: &Asked, kept: Piece, journal: &mut Option<Journaled>) -> Result<Results> {
    let (pace, log, all) = (steps.pace(), steps.job().log, asked.calls.len());
    let mut results = kept;
    let were_kept = results.calls > 0;
    // One whose answer was lost halts whoever wants to be halted.
    results.halted &= asked.halt;
    let (mut executed, mut stopped, mut walls) = (false, None, Walls::default());
    while !results.halted && (results.calls < all || results.settled() < results.calls) {
        if !steps.has_room(results.text.len()) || (executed && !steps.has_time()) {
            break;
        }
        let mut rests = HashMap::new();
        let step = Step::plan(asked, steps.version(), &results, |method| {
            *rests.entry(method.to_owned()).or_insert_with(|| walls.rest(method, &pace))
        });
        let done = match journal.as_mut().filter(|_| step.request.is_some()).map(|journal| step.note(journal)) {
            Some(Err(error)) => Done::NotSent(error),
            _ => send(steps, &step, asked, results.text.len(), &mut walls),
        };
        let (left, refused, last) = match done {
            Done::Answered { left, refused, last } => (left, refused, last),
            Done::Refused(upstream) if results.calls == 0 => {
                return Err(nothing_executed(journal, Error::Bitrix24(upstream)))
            }
            Done::Refused(upstream) => {
                let (error, description) = (upstream.error.as_str(), upstream.error_description.as_str());
                let fate = |_| Fate::Error { error: error.into(), description: description.into() };
                (step.left(step.fates(fate), asked.halt), step.held_back(), false)
            }
            Done::NotSent(error) if results.calls == 0 => return Err(nothing_executed(journal, error)),
            Done::NotSent(error) => {
                not_sent(journal, log);
                if !step.again && !may_pass(&error) {
                    let code = error.status_and_code().1.to_ascii_uppercase();
                    results.append(Piece::all_failed(all - results.calls, &code, &error.text(), asked.halt));
                }
                stopped = Some(error);
                break;
            }
        };
        executed = true;
        let from = results.calls;
        let written = journal.as_mut().map_or(Ok(()), |journal| match &left {
            Left::Next(piece) => journal.finished(from, piece),
            Left::Pending(entries) => journal.finished_again(entries),
        });
        if let Err(error) = &written {
            log.error(&format!("results of an idempotency key were not kept: {}", error.for_administrator()));
        }
        match left {
            Left::Next(piece) => results.append(piece),
            Left::Pending(entries) => results.fill(entries),
        }
        steps.progress(results.calls, Some(all));
        stopped = refused;
        if last || written.is_err() || stopped.is_some() {
            break;
        }
    }
    if results.calls == 0 {
        if let Some(journal) = journal.take() {
            journal.free();
        }
    }
    let next = (results.calls < all && !results.halted).then_some(results.calls);
    Ok(Results { results, next, stopped, replayed: were_kept && !executed })
}

/// What was not sent may be sent later: the wait for the limit or for a refresh would pass the time, or a connection did.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::RateLimited { .. }
        | Error::MethodBlocked { .. }
        | Error::PortalBlocked { .. }
        | Error::RefreshPending { .. }
        | Error::Timeout { .. } => true,
        Error::Bitrix24(upstream) => upstream.passing().is_some(),
        _ => false,
    }
}

/// Sends a step.
fn send(steps: &mut Steps, step: &Step, asked: &Asked, collected: usize, walls: &mut Walls) -> Done {
    let call = step.calls.first().map(|index| asked.calls[*index]).expect("a step has a call");
    let (outcome, is_batch) = match &step.request {
        None => return Done::NotSent(step.held_back().expect("all are held back")),
        Some(Request::Batch(commands)) => {
            let batch = Method::parse("batch").expect("a method name");
            let (parameters, count) = (commands.to_parameters(asked.halt), commands.count());
            (steps.send(&batch, parameters, &step.query, collected, count), true)
        }
        Some(Request::Single) => match Parameters::from_json(call.raw_params()) {
            Ok(parameters) => (steps.send(&call.method(), parameters, &step.query, collected, 1), false),
            Err(why) => return Done::NotSent(Error::InvalidRequest(why)),
        },
    };
    let answered = |left, refused| Done::Answered { left, refused, last: false };
    let lost = |why: &str, last| Done::Answered {
        left: step.left(step.fates(|_| Fate::Lost(why)), asked.halt),
        refused: step.held_back(),
        last,
    };
    match outcome {
        Ok(reply) if is_batch => match BatchAnswer::parse(&reply.body) {
            Some(answer) => {
                steps.count_errors(&answer);
                let refused = walls.note(step, asked, &answer, &steps.pace());
                answered(step.left(step.fates(|i| Fate::in_batch(&answer, &name(i))), asked.halt), refused)
            }
            None => lost("Bitrix24's answer is not that of a batch.", false),
        },
        Ok(reply) => answered(step.left(step.fates(|_| single_answered(&reply)), asked.halt), None),
        Err(failed) if failed.executed() == Some(Executed::Unknown) => lost(&Error::from(failed).text(), true),
        Err(Failed::Refused { upstream, .. }) => match (is_batch, upstream.passing()) {
            (true, None) => Done::Refused(upstream),
            (true, Some(_)) => Done::NotSent(Error::Bitrix24(upstream)),
            (false, passing) => {
                let refused = passing.map(|_| Error::Bitrix24(upstream.clone()));
                answered(step.left(std::iter::once(Fate::refused(upstream)), asked.halt), refused)
            }
        },
        Err(Failed::Error(error)) => Done::NotSent(error),
    }
}

/// The whole request ends with this error, and its key is free again.
fn nothing_executed(journal: &mut Option<Journaled>, error: Error) -> Error {
    if let Some(journal) = journal.take() {
        journal.free();
    }
    error
}

/// What was about to be sent was not: the key's journal must not say that it may have been.
fn not_sent(journal: &mut Option<Journaled>, log: &Log) {
    if let Some(Err(error)) = journal.as_mut().map(Journaled::not_sent) {
        log.error(&format!("the journal of an idempotency key cannot be written: {}", error.for_administrator()));
    }
}

fn single_answered(reply: &Reply) -> Fate<'_> {
    let text = std::str::from_utf8(&reply.body).unwrap_or("{}");
    let [result, total, next] = json::fields(text, ["result", "total", "next"]).unwrap_or_default();
    Fate::Result { result: result.unwrap_or("null"), total, next }
}

/// Methods that are not called any more in this request, and until when, in Unix seconds: another batch like the last would
/// use up their time. Others may still try them.
#[derive(Default)]
struct Walls(HashMap<String, i64>);

impl Walls {
    /// For how many seconds the method is not to be called.
    fn rest(&self, method: &str, pace: &Pace) -> Option<u64> {
        let near = self.0.get(method).and_then(|until| u64::try_from(until.saturating_sub(pace.now())).ok());
        near.filter(|seconds| *seconds > 0).map(|seconds| seconds.min(HORIZON)).or_else(|| pace.rest(method))
    }

    /// Remembers what a batch's answer says of its methods' time, and its refusals; of those the one that lasts longest, with
    /// those that were held back.
    fn note(&mut self, step: &Step, asked: &Asked, answer: &BatchAnswer, pace: &Pace) -> Option<Error> {
        let mut methods: HashMap<String, (Vec<Operating>, Vec<Upstream>)> = HashMap::new();
        let sent = step.calls.iter().zip(&step.held).filter(|(_, held)| held.is_none());
        for (i, (call, _)) in sent.enumerate() {
            let (times, refusals) = methods.entry(asked.calls[*call].method().canonical()).or_default();
            times.extend(answer.times.get(&name(i)).and_then(|raw| serde_json::from_str::<Operating>(raw).ok()));
            let error = answer.errors.get(&name(i)).map(|raw| super::error_of(raw));
            refusals.extend(error.filter(|error| error.passing().is_some()));
        }
        let mut refused: Vec<Error> = step.held_back().into_iter().collect();
        for (method, (times, refusals)) in methods {
            let until = times.iter().map(|time| time.operating_reset_at).max();
            match fate::wall(&times) {
                Wall::Far => {}
                Wall::Near(until) => {
                    self.0.insert(method.clone(), until);
                }
                Wall::Reached(until) if until > pace.now() => {
                    pace.block(&method, Some(until));
                }
                Wall::Reached(_) => {}
            }
            let mut blocked = None;
            refused.extend(refusals.into_iter().filter_map(|upstream| {
                let seconds = match upstream.passing()? {
                    Passing::OverLimit => PAUSE,
                    Passing::Overload => pace.overload(),
                    Passing::OperatingTime => *blocked.get_or_insert_with(|| pace.block(&method, until)),
                };
                Some(Error::Bitrix24(Upstream { retry_after: Some(seconds), ..upstream }))
            }));
        }
        refused.into_iter().max_by_key(|error| (error.is_overload(), error.retry_after()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(piece: &Piece) -> serde_json::Value {
        serde_json::from_slice(&[b"[", piece.text.as_slice(), b"]"].concat()).unwrap()
    }

    fn of_batch(body: &[u8], count: usize, halt: bool) -> Piece {
        let answer = BatchAnswer::parse(body).unwrap();
        fate::of_next((0..count).map(|i| Fate::in_batch(&answer, &name(i))), halt)
    }

    #[test]
    fn results_are_in_the_order_of_the_calls_with_total_and_next() {
        let body = br#"{"result":{"result":{"c1":[],"c0":{"a":1.0}},"result_error":{"c2":{"error":"X","error_description":"y"}},
            "result_total":{"c0":7},"result_next":{"c0":50},"result_time":[]},"time":{}}"#;
        let piece = of_batch(body, 4, false);
        assert_eq!((piece.calls, piece.errors), (4, 2));
        assert!(piece.text.starts_with(br#"{"result":{"a":1.0},"total":7,"next":50},{"result":[]},"#));
        let results = text(&piece);
        assert_eq!(results[2], serde_json::json!({"error": "X", "error_description": "y"}));
        assert_eq!(results[3]["error"], "OUTCOME_UNKNOWN");
    }

    #[test]
    fn php_writes_an_empty_map_as_a_list() {
        let body = br#"{"result":{"result":[],"result_error":{"c0":{"error":"X"}},"result_total":[]}}"#;
        let piece = of_batch(body, 1, true);
        assert_eq!((piece.calls, piece.errors, piece.halted), (1, 1, true));
    }
}
