//! `b24proxy call … --all` and `--calls FILE`: as long as it takes, in steps of one request's time each.

use super::command::{Failure, Outcome, Setup};
use super::owner;
use super::terminal::{self, Held, Progress, NOT_WRITTEN};
use crate::call::bulk::calls::{execute, Asked, One};
use crate::call::bulk::list::{self, Cursor};
use crate::call::bulk::Steps;
use crate::call::idempotency::{check_key, fingerprint, Journaled, Key};
use crate::call::results::Piece;
use crate::config::Portal;
use crate::serve::request_of_1c;
use crate::system::clock::Deadline;
use crate::values::error::{Error, Passing};
use crate::values::json;
use crate::values::method::Method;
use anyhow::{anyhow, Context};
use serde_json::value::RawValue;
use std::io::{Read, Write};
use std::ops::Range;
use std::time::Duration;

/// Calls under one idempotency key: their results are kept together.
const CALLS_A_KEY: usize = 500;
/// Whose keys they are.
const CLIENT: &str = "command line";

/// Prints the rows as one JSON array; nothing where reading fails. They are held in a file: a list has any size.
pub fn whole_list(setup: &Setup, portal: &Portal, method: &Method, raw_params: &str, json: bool) -> Outcome {
    const NOT_HELD: &str = "the list cannot be kept in the folder for temporary files (TMPDIR) until it is whole";
    let mut rows_so_far = Held::before(terminal::output_of_answers(json)).context(NOT_HELD)?;
    let progress = Progress::new();
    let (mut done, mut cursor) = (0, None::<Cursor>);
    rows_so_far.write_all(b"[").context(NOT_HELD)?;
    loop {
        let outcome = list::read(&mut Steps::new(setup.job(), portal), method, raw_params, cursor)?;
        let (rows, count) = outcome.rows();
        if done > 0 && count > 0 {
            rows_so_far.write_all(b",").context(NOT_HELD)?;
        }
        rows_so_far.write_all(rows).context(NOT_HELD)?;
        done += count;
        progress.show(done, outcome.total().and_then(|total| usize::try_from(total).ok()));
        let Some(text) = outcome.cursor() else {
            rows_so_far.write_all(b"]\n").context(NOT_HELD)?;
            drop(progress);
            rows_so_far.show().context(NOT_WRITTEN)?;
            return Ok(());
        };
        cursor = Cursor::parse(text, method);
    }
}

/// Executes the calls of a file and prints one result a line.
pub fn calls(file: &str, key: Option<&str>, portal: &str, json: bool) -> Outcome {
    let mut bytes = Vec::new();
    owner::open(file)
        .and_then(|mut opened| opened.read_to_end(&mut bytes))
        .with_context(|| format!("{file} cannot be read"))?;
    let name = if file == "-" { "standard input" } else { file };
    let text = json::text(&bytes).map_err(|why| format!("{name}: {}", why.replace("the body", "the file")))?;
    let calls = written(text).map_err(|why| format!("{name}, {why}"))?;
    if let Some(key) = key {
        check_key(key.as_bytes()).map_err(|_| Failure::Usage("--key is 1 to 255 printable ASCII characters".into()))?;
    }
    let setup = Setup::find(json)?;
    let portal = setup.portal(portal)?;
    let (progress, mut errors) = (Progress::new(), 0);
    for (i, part) in calls.chunks(CALLS_A_KEY).enumerate() {
        let done = i * CALLS_A_KEY;
        let run = Run { setup: &setup, portal, file: &bytes, json };
        errors += run
            .part(part, key.map(|key| format!("{key} {i}")), |count| progress.show(done + count, Some(calls.len())))?;
    }
    drop(progress);
    if errors > 0 {
        return Err(Failure::Wrong(anyhow!("{errors} of {} calls ended with an error", calls.len())));
    }
    Ok(())
}

/// The calls of a JSON array, or of JSON lines. The error names the line.
fn written(text: &str) -> Result<Vec<One<'_>>, String> {
    if !text.trim_start().starts_with('[') {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        return lines.map(|(i, line)| one(line).map_err(|why| format!("line {}: {why}", i + 1))).collect();
    }
    let calls = json::elements(text).enumerate().map(|(i, call)| {
        let call = call.map_err(|error| json::describe(&error))?;
        let before = &text[..call.as_ptr() as usize - text.as_ptr() as usize];
        one(call).map_err(|why| format!("line {}, call {}: {why}", before.matches('\n').count() + 1, i + 1))
    });
    calls.collect()
}

fn one(call: &str) -> Result<One<'_>, String> {
    // What is no JSON is a call without its end, or one on several lines.
    if let Err(error) = serde_json::from_str::<&RawValue>(call) {
        return Err(format!("no JSON from column {} on: write a JSON array, or one call a line", error.column()));
    }
    request_of_1c::call(call)
}

/// What the parts of a run have in common.
struct Run<'a> {
    setup: &'a Setup,
    portal: &'a Portal,
    /// The content of the file: another one under the same key is refused.
    file: &'a [u8],
    json: bool,
}

impl Run<'_> {
    /// Executes some calls to their end; how many ended with an error. What Bitrix24 refuses for now is waited out.
    fn part(&self, mut calls: &[One], key: Option<String>, show: impl Fn(usize)) -> Result<usize, Failure> {
        let all = calls.len();
        // Of these calls, how many results are printed; and results of those that stand behind a pending one.
        let (mut printed, mut errors, mut kept) = (0, 0, Piece::default());
        loop {
            let mut journal = self.journal(key.as_deref(), calls.len())?;
            // Under a key the whole part is asked for again, and what is done comes from its journal.
            if let Some(journal) = &mut journal {
                kept = journal.take_kept();
            }
            let done = |results: &Piece| results.calls - results.pending().len();
            let before = done(&kept);
            let mut steps = Steps::new(self.setup.job(), self.portal);
            let asked = Asked { calls, halt: false, connector: None };
            let (results, stopped) = match execute(&mut steps, &asked, std::mem::take(&mut kept), &mut journal) {
                Ok(executed) => (executed.results, executed.stopped),
                Err(error) => (Piece::default(), Some(error)),
            };
            drop(journal);
            print_lines(&results.text, printed..results.settled(), self.json).context(NOT_WRITTEN)?;
            printed = printed.max(results.settled());
            show(all - calls.len() + printed);
            if printed == calls.len() {
                return Ok(errors + results.errors);
            }
            let progress = done(&results) > before;
            match (stopped, progress) {
                (Some(error), _) if error.is_overload() => return Err(error.into()),
                (Some(error), _) if is_waited_out(&error, progress) => wait_out(&error),
                (_, true) => {}
                (Some(error), false) => return Err(error.into()),
                (None, false) => {
                    return Err(Failure::Wrong(anyhow!(
                    "no further call could be executed within the configuration's timeout: run it again with the same \
                         --key; if it stays so, the results of one part are larger than max_response allows"
                )))
                }
            }
            match key {
                None if results.pending().is_empty() => {
                    errors += results.errors;
                    (calls, printed) = (&calls[printed..], 0);
                }
                None => kept = results,
                Some(_) => {}
            }
        }
    }

    fn journal(&self, key: Option<&str>, calls: usize) -> Result<Option<Journaled>, Failure> {
        let Some(text) = key else { return Ok(None) };
        let until = Deadline::after(self.setup.config().limits.max_wait);
        let key = Key { client: CLIENT, text, request: fingerprint(&[b"command line", self.file]) };
        Ok(Some(Journaled::open(self.setup.job(), self.portal, &key, calls, until)?))
    }
}

/// Whether Bitrix24, which accepts no call now, will by itself. A turn under the limit of calls is waited for where the next
/// call waits anyway, if there was any `progress`.
fn is_waited_out(error: &Error, progress: bool) -> bool {
    match error {
        Error::MethodBlocked { .. } => true,
        Error::Bitrix24(upstream) => upstream.passing().is_some(),
        Error::RateLimited { .. } => !progress,
        _ => false,
    }
}

fn wait_out(error: &Error) {
    let used_up = match error {
        Error::Bitrix24(upstream) => upstream.passing() == Some(Passing::OperatingTime),
        error => matches!(error, Error::MethodBlocked { .. }),
    };
    let what =
        if used_up { "a method has used up its time at Bitrix24" } else { "Bitrix24's limit of calls is used up" };
    let seconds = error.retry_after().unwrap_or(1).max(1);
    terminal::complain(format!("b24proxy: {what}: going on in {seconds} s\n").as_bytes());
    std::thread::sleep(Duration::from_secs(seconds));
}

/// Prints these of the results, each in a line of its own.
fn print_lines(results: &[u8], which: Range<usize>, json: bool) -> std::io::Result<()> {
    if which.is_empty() {
        return Ok(());
    }
    let text = [b"[", results, b"]"].concat();
    let items: Vec<&RawValue> = serde_json::from_slice(&text).unwrap_or_default();
    let mut out = terminal::output_of_answers(json);
    for item in items.get(which).unwrap_or_default() {
        // Line ends can stand between the parts of a value only, where they mean nothing.
        let line = item.get().replace(['\n', '\r'], " ");
        writeln!(out, "{line}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_an_array_or_lines() {
        for (text, count) in
            [(" [{\"method\":\"a\"}]", 1), ("{\"method\":\"a\"}\r\n\n {\"method\":\"b\"} \n", 2), ("", 0), ("[]", 0)]
        {
            assert_eq!(written(text).map(|calls| calls.len()), Ok(count), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named_by_its_line() {
        let good = r#"{"method":"a"}"#;
        for (text, place) in [
            (format!("{good}\n\n{{\"methd\":\"a\"}}\n"), "line 3: has a field"),
            (format!("{good}\n{{\"method\":\"a\"\n{good}"), "line 2: no JSON from column 13"),
            (format!("{good} {good}"), "line 1: no JSON from column 16"),
            (format!("[\n{good},\n{good},{{\"method\":5}}]"), "line 3, call 3: has no \"method\""),
            (format!("[\n{good}\n{good}]"), "line 3"),
            (format!("[{good},"), "it ends too early"),
            (format!("[{good}]\n]"), "line 2"),
            ("{\n\"method\":\"a\"\n}".to_owned(), "line 1: no JSON"),
        ] {
            let why = written(&text).map(|_| ()).unwrap_err();
            assert!(why.contains(place), "{text}: {why}");
        }
    }
}
