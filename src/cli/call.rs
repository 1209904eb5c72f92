//! `b24proxy call PORTAL METHOD [JSON]`: one call, as 1C would make it.

use super::arguments::{Arguments, Flag, JSON};
use super::call_many;
use super::command::{Command, Failure, Outcome, Setup};
use super::terminal::{self, say, NOT_WRITTEN};
use crate::app::Job;
use crate::call::payload::{Parameters, Payload};
use crate::call::relay::{self, Call, Patience};
use crate::config::Portal;
use crate::values::answer::Answer;
use crate::values::error::Error;
use crate::values::method::Method;
use crate::values::portal::Version;
use anyhow::Context;
use std::io::{Read, Write};

const V3: Flag = Flag { name: "--v3", value: None };
const ALL: Flag = Flag { name: "--all", value: None };
const CALLS: Flag = Flag { name: "--calls", value: Some("FILE") };
const KEY: Flag = Flag { name: "--key", value: Some("NAME") };

pub const COMMAND: Command = Command {
    name: "call",
    usage: "PORTAL METHOD [JSON | -] [--all | --v3] [--json]\n         b24proxy call PORTAL --calls FILE [--key NAME]",
    summary: "calls methods of a portal and prints the answers",
    help: "Calls a REST method with the portal's tokens and prints Bitrix24's answer as it
came. JSON are the parameters, an object; \"-\" reads them from standard input,
where they do not appear in the process list.

  b24proxy call acme.bitrix24.ru profile
  b24proxy call acme.bitrix24.ru crm.deal.list '{\"select\":[\"ID\",\"TITLE\"]}'
  b24proxy call acme.bitrix24.ru crm.deal.add - < deal.json

--all reads a list to its end and prints its rows as one JSON array, however
long that takes; progress is on standard error.

  b24proxy call acme.bitrix24.ru crm.deal.list --all > deals.json

--calls executes the calls in FILE, a JSON array or JSON lines of
{\"method\":…,\"params\":…}, in batches, and prints one result a line, in order;
\"-\" reads standard input.
With --key a run has a name: the same command again, within 24 hours, prints
what is done and goes on where it stopped, and no call is executed twice. What
Bitrix24 refuses for now, such as a method that has used up its time, is waited
for; OVERLOAD_LIMIT, which only Bitrix24's support lifts, ends the run.

  b24proxy call acme.bitrix24.ru --calls new.jsonl --key monday > results.jsonl

--v3 calls REST 3.0. --json prints what 1C gets: {\"success\":true,\"data\":…}, or
the failure with its error_code. Exit status 1: the call did not succeed.",
    words: (1, 3),
    options: &[V3, JSON, ALL, CALLS, KEY],
    on_files: true,
    reads: |arguments| arguments.value(CALLS.name),
    run,
};

fn run(arguments: &Arguments) -> Outcome {
    if let Some(file) = arguments.value(CALLS.name) {
        if arguments.words.len() > 1 || arguments.has(ALL.name) || arguments.has(V3.name) {
            return Err(Failure::Usage("beside --calls stand PORTAL and --key only: methods are in the file".into()));
        }
        return call_many::calls(arguments, file, arguments.value(KEY.name));
    }
    if arguments.has(KEY.name) {
        return Err(Failure::Usage("--key belongs to --calls".into()));
    }
    if arguments.has(ALL.name) && arguments.has(V3.name) {
        return Err(Failure::Usage("--all works with REST 2 only: leave --v3 out".into()));
    }
    if arguments.words.len() < 2 {
        return Err(Failure::Usage(
            "a method is missing: write PORTAL METHOD, such as crm.deal.list, or --calls FILE".into(),
        ));
    }
    let raw = parameters(arguments.word(2).unwrap_or("{}"))?;
    let (method, parameters) = understood(&arguments.words[1], &raw)?;
    let setup = Setup::find()?;
    let portal = setup.portal(&arguments.words[0])?;
    if arguments.has(ALL.name) {
        return call_many::whole_list(&setup, portal, &method, &raw);
    }
    let version = if arguments.has(V3.name) { Version::V3 } else { Version::V2 };
    let answer = one_call(setup.job(), portal, &method, version, parameters);
    print_answer(answer, arguments.json(), &setup.log.request_id)
}

/// Bitrix24's answer, byte for byte.
fn one_call(
    job: Job,
    portal: &Portal,
    method: &Method,
    version: Version,
    parameters: Parameters,
) -> Result<Vec<u8>, Error> {
    let limits = &job.app.config.limits;
    let call = Call {
        version,
        method,
        query: "",
        payload: Payload::Json(parameters),
        headers: vec![("Accept", "application/json")],
        max_response: limits.max_response,
    };
    let patience = Patience::Until(job.end.at_most(limits.max_wait));
    Ok(relay::call(job, portal, &call, patience, None).result?.body)
}

/// Prints an answer, byte for byte, alone or in the envelope.
fn print_answer(answer: Result<Vec<u8>, Error>, json: bool, request_id: &str) -> Outcome {
    match answer {
        Ok(answer) => {
            let mut line = if json { Answer::success(vec![answer]).body.concat() } else { answer };
            line.push(b'\n');
            terminal::output().write_all(&line).context(NOT_WRITTEN)?;
            Ok(())
        }
        Err(error) if json => {
            say(&String::from_utf8_lossy(&Answer::failure(&error, request_id).body.concat()));
            Err(Failure::Told)
        }
        Err(error) => Err(error.into()),
    }
}

/// The argument, or standard input.
fn parameters(word: &str) -> Result<String, Failure> {
    if word != "-" {
        return Ok(word.to_owned());
    }
    let mut bytes = Vec::new();
    terminal::input().read_to_end(&mut bytes).context("standard input cannot be read")?;
    crate::values::json::text(&bytes).map(str::to_owned).map_err(Failure::Usage)
}

fn understood<'r>(method: &str, raw: &'r str) -> Result<(Method, Parameters<'r>), Failure> {
    let method = Method::parse(method).filter(|method| !method.wants_xml()).ok_or_else(|| {
        Failure::Usage(format!(
            "{method:?} is not the name of a method such as crm.deal.list (nor does .xml work here)"
        ))
    })?;
    let parameters = Parameters::from_json(raw)
        .map_err(|why| Failure::Usage(format!("JSON {why}; in a shell write it in single quotes: '{{\"ID\":1}}'")))?;
    Ok((method, parameters))
}
