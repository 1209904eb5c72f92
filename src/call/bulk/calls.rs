//! `"calls"`: many calls in one request, packed into batches of 50, in order.

use super::{command, error_of, name, BatchAnswer, Commands, Steps};
use crate::call::idempotency::Journaled;
use crate::call::outcome::Failed;
use crate::call::payload::Parameters;
use crate::call::results::Piece;
use crate::system::log::Log;
use crate::values::error::{Error, Executed, Result, Upstream};
use crate::values::json;
use crate::values::method::Method;
use crate::values::portal::Version;

/// One of the calls, as it was written: there may be a million of them.
#[derive(Clone, Copy)]
pub struct One<'a>(&'a str);

impl<'a> One<'a> {
    /// `{"method","params"?}`, of which both are known to be right.
    pub fn checked(raw: &'a str) -> One<'a> {
        One(raw)
    }

    pub fn method(&self) -> Method {
        let name = json::field(self.0, "method").and_then(|raw| serde_json::from_str::<String>(raw).ok());
        name.and_then(|name| Method::parse(&name)).expect("a call that was checked")
    }

    /// As written; an object or a list.
    pub fn raw_params(&self) -> &'a str {
        json::field(self.0, "params").unwrap_or("{}")
    }
}

/// What one request to the portal carries.
enum Step {
    Batch(Commands),
    Single,
}

/// What became of the calls.
pub struct Results {
    pub results: Piece,
    /// The first call that was not executed, where time or size ran out or an answer was lost.
    pub next: Option<usize>,
    /// Nothing was executed now: all of it was kept.
    pub replayed: bool,
}

impl Results {
    /// `{"results":[…],"errors":N,"next":I}`, in parts.
    pub fn into_json(self) -> Vec<Vec<u8>> {
        let next = self.next.map(|next| format!(",\"next\":{next}")).unwrap_or_default();
        let end = format!("],\"errors\":{}{next}}}", self.results.errors);
        vec![b"{\"results\":[".to_vec(), self.results.text, end.into_bytes()]
    }
}

/// What became of a step.
enum Done {
    /// Its calls have results. `last`: the answer was lost, and the caller is asked first whether to go on.
    Executed {
        piece: Piece,
        last: bool,
    },
    /// Bitrix24 refused the batch as a whole; nothing of it was executed.
    Refused(Upstream),
    NotSent(Error),
}

/// Executes the calls, going on behind `journal`'s kept results, and keeps each step's results there.
pub fn execute(steps: &mut Steps, calls: &[One], halt: bool, journal: &mut Option<Journaled>) -> Result<Results> {
    let log = steps.job().log;
    let mut results = journal.as_mut().map(Journaled::take_kept).unwrap_or_default();
    let kept = results.calls;
    // One whose answer was lost halts whoever wants to be halted.
    results.halted &= halt;
    while results.calls < calls.len() && !results.halted {
        let from = results.calls;
        if !steps.has_room(results.text.len()) || (from > kept && !steps.has_time()) {
            break;
        }
        let (step, count) = match steps.version() {
            Version::V2 => plan(&calls[from..]),
            Version::V3 => (Step::Single, 1),
        };
        let done = match journal.as_mut().map(|journal| journal.sending(count)) {
            Some(Err(error)) => Done::NotSent(error),
            _ => send(steps, step, &calls[from..from + count], halt, results.text.len()),
        };
        let (piece, last) = match done {
            Done::Executed { piece, last } => (piece, last),
            Done::Refused(upstream) if from > 0 => {
                (Piece::all_failed(count, &upstream.error, &upstream.error_description, halt), false)
            }
            Done::Refused(upstream) => return Err(nothing_executed(journal, Error::Bitrix24(upstream))),
            Done::NotSent(error) if from == 0 => return Err(nothing_executed(journal, error)),
            Done::NotSent(error) => {
                not_sent(journal, log);
                if !is_about_time(&error) {
                    let code = error.status_and_code().1.to_ascii_uppercase();
                    results.append(Piece::all_failed(calls.len() - from, &code, &error.text(), halt));
                }
                break;
            }
        };
        let written = journal.as_mut().map_or(Ok(()), |journal| journal.finished(&piece));
        if let Err(error) = &written {
            log.error(&format!("results of an idempotency key were not kept: {}", error.for_administrator()));
        }
        results.append(piece);
        steps.progress(results.calls, Some(calls.len()));
        if last || written.is_err() {
            break;
        }
    }
    let next = (results.calls < calls.len() && !results.halted).then_some(results.calls);
    let replayed = kept > 0 && results.calls == kept;
    Ok(Results { results, next, replayed })
}

/// The wait for the limit or for a refresh would pass the time, or a connection did, or the host has too much to do.
fn is_about_time(error: &Error) -> bool {
    matches!(
        error,
        Error::RateLimited { .. } | Error::RefreshPending { .. } | Error::Timeout { .. } | Error::HostBusy(_)
    )
}

/// Sends a step: a batch of these calls, or the only one of them.
fn send(steps: &mut Steps, step: Step, calls: &[One], halt: bool, collected: usize) -> Done {
    let is_batch = matches!(step, Step::Batch(_));
    let outcome = match step {
        Step::Batch(commands) => steps.batch(commands, halt, collected),
        Step::Single => match Parameters::from_json(calls[0].raw_params()) {
            Ok(parameters) => steps.single(&calls[0].method(), parameters, collected),
            Err(why) => Err(Error::InvalidRequest(why).into()),
        },
    };
    let executed = |piece| Done::Executed { piece, last: false };
    let lost =
        |why: &str| Done::Executed { piece: Piece { halted: halt, ..Piece::lost(calls.len(), why) }, last: true };
    match (outcome, is_batch) {
        (Ok(reply), true) => executed(batch_answered(&reply.body, calls.len(), halt)),
        (Ok(reply), false) => executed(single_answered(&reply.body)),
        (Err(failed), _) if failed.executed() == Some(Executed::Unknown) => lost(&Error::from(failed).text()),
        (Err(Failed::Refused { upstream, .. }), true) => Done::Refused(upstream),
        (Err(Failed::Refused { upstream, .. }), false) => {
            executed(Piece::all_failed(1, &upstream.error, &upstream.error_description, halt))
        }
        // As a command in a batch would be answered.
        (Err(Failed::Error(error @ Error::MethodBlocked { .. })), false) => {
            executed(Piece::all_failed(1, "OPERATION_TIME_LIMIT", &error.text(), halt))
        }
        (Err(Failed::Error(error)), _) => Done::NotSent(error),
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

/// The next step: as many calls as a batch takes, or one that must go on its own.
fn plan(calls: &[One]) -> (Step, usize) {
    let mut commands = Commands::default();
    for call in calls {
        let packed = command::of(&call.method().canonical(), call.raw_params());
        if !packed.is_some_and(|command| commands.push(&command)) {
            break;
        }
    }
    match commands.count() {
        0 => (Step::Single, 1),
        count => (Step::Batch(commands), count),
    }
}

fn single_answered(body: &[u8]) -> Piece {
    let text = std::str::from_utf8(body).unwrap_or("{}");
    let [result, total, next] = json::fields(text, ["result", "total", "next"]).unwrap_or_default();
    let mut piece = Piece::default();
    piece.push_result(result.unwrap_or("null"), total, next);
    piece
}

fn batch_answered(body: &[u8], count: usize, halt: bool) -> Piece {
    match BatchAnswer::parse(body) {
        Some(answer) => of_batch(&answer, count, halt),
        None => Piece { halted: halt, ..Piece::lost(count, "Bitrix24's answer is not that of a batch.") },
    }
}

fn of_batch(answer: &BatchAnswer, count: usize, halt: bool) -> Piece {
    let mut piece = Piece::default();
    for name in (0..count).map(name) {
        if let Some(error) = answer.errors.get(&name) {
            let Upstream { error, error_description, .. } = error_of(error);
            piece.push_error(&error, &error_description);
        } else if let Some(result) = answer.results.get(&name) {
            piece.push_result(result, answer.totals.get(&name).copied(), answer.nexts.get(&name).copied());
        } else {
            piece.push_error("OUTCOME_UNKNOWN", "Bitrix24's answer does not mention this call.");
        }
        if halt && piece.errors > 0 {
            piece.halted = true;
            break;
        }
    }
    piece
}

#[cfg(test)]
mod tests {
    use super::super::LONGEST_BATCH;
    use super::*;

    fn text(piece: &Piece) -> serde_json::Value {
        serde_json::from_slice(&[b"[", piece.text.as_slice(), b"]"].concat()).unwrap()
    }

    #[test]
    fn results_are_in_the_order_of_the_calls_with_total_and_next() {
        let body = br#"{"result":{"result":{"c1":[],"c0":{"a":1.0}},"result_error":{"c2":{"error":"X","error_description":"y"}},
            "result_total":{"c0":7},"result_next":{"c0":50},"result_time":[]},"time":{}}"#;
        let piece = of_batch(&BatchAnswer::parse(body).unwrap(), 4, false);
        assert_eq!((piece.calls, piece.errors), (4, 2));
        assert!(piece.text.starts_with(br#"{"result":{"a":1.0},"total":7,"next":50},{"result":[]},"#));
        let results = text(&piece);
        assert_eq!(results[2], serde_json::json!({"error": "X", "error_description": "y"}));
        assert_eq!(results[3]["error"], "OUTCOME_UNKNOWN");
    }

    #[test]
    fn php_writes_an_empty_map_as_a_list() {
        let body = br#"{"result":{"result":[],"result_error":{"c0":{"error":"X"}},"result_total":[]}}"#;
        let piece = of_batch(&BatchAnswer::parse(body).unwrap(), 1, true);
        assert_eq!((piece.calls, piece.errors, piece.halted), (1, 1, true));
    }

    #[test]
    fn calls_are_packed_by_fifty_and_those_that_would_not_survive_go_alone() {
        let raw =
            |i| if i == 55 { r#"{"method":"m","params":{"a":null}}"# } else { r#"{"params":{"a":1},"method":"m"}"# };
        let calls: Vec<One> = (0..60).map(|i| One::checked(raw(i))).collect();
        let counts: Vec<usize> = [0, 50, 55, 56].map(|from| plan(&calls[from..]).1).to_vec();
        assert_eq!(counts, [50, 5, 1, 4]);
    }

    #[test]
    fn long_calls_fill_a_batch_sooner() {
        let long = format!("{{\"method\":\"m\",\"params\":{{\"a\":\"{}\"}}}}", "x".repeat(LONGEST_BATCH / 3));
        let calls = [One::checked(&long); 5];
        assert_eq!(plan(&calls).1, 2);
        let longer = format!("{{\"method\":\"m\",\"params\":{{\"a\":\"{}\"}}}}", "x".repeat(LONGEST_BATCH));
        assert!(matches!(plan(&[One::checked(&longer)]), (Step::Single, 1)));
    }
}
