//! `b24proxy call PORTAL METHOD [JSON]`: one call, as 1C would make it.

use super::call_many;
use super::command::{Failure, Outcome, Setup};
use super::terminal::{self, say, NOT_WRITTEN};
use crate::app::Job;
use crate::call::payload::{Parameters, Payload};
use crate::call::relay::{self, Patience};
use crate::config::Portal;
use crate::values::answer::Answer;
use crate::values::error::Error;
use crate::values::method::Method;
use crate::values::portal::Version;
use anyhow::Context;
use clap::{Args, ValueHint};
use std::io::{Read, Write};

const HELP: &str = "\
Calls a REST method with the portal's tokens and prints Bitrix24's answer as it
came; on a terminal, and with --json, letters instead of \\u0421. JSON are the
parameters, an object; \"-\" reads them from standard input, where they do not
appear in the process list.

  b24proxy call acme.bitrix24.ru profile
  b24proxy call acme.bitrix24.ru crm.deal.list '{\"select\":[\"ID\",\"TITLE\"]}'
  b24proxy call acme.bitrix24.ru crm.deal.add - < deal.json

--all reads a list to its end, however long that takes, and then prints its rows
as one JSON array, or nothing and why; progress is on standard error.

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
the failure with its error_code. Exit status 1: the call did not succeed.";

/// Calls methods of a portal and prints the answers
#[derive(Args)]
#[command(before_help = HELP,
    override_usage = "b24proxy call PORTAL METHOD [JSON | -] [--all | --v3] [--json]
       b24proxy call PORTAL --calls FILE [--key NAME]")]
pub struct Call {
    /// Its name in proxy.toml, or an alias
    portal: String,
    /// Such as crm.deal.list
    #[arg(required_unless_present = "calls")]
    method: Option<String>,
    /// The parameters, an object; "-" reads them from standard input
    #[arg(value_name = "JSON", default_value = "{}", hide_default_value = true)]
    parameters: String,
    /// Read a list to its end
    #[arg(long, conflicts_with = "v3")]
    all: bool,
    /// Call REST 3.0
    #[arg(long)]
    v3: bool,
    /// Execute the calls of a file, or of "-", standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["method", "all", "v3"])]
    pub calls: Option<String>,
    /// Name this run, so that it can be gone on with
    #[arg(long, value_name = "NAME", requires = "calls", conflicts_with = "method")]
    key: Option<String>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Call {
    pub fn run(&self) -> Outcome {
        match (&self.calls, &self.method) {
            (Some(file), _) => call_many::calls(file, self.key.as_deref(), &self.portal, self.json),
            (None, method) => self.one(method.as_deref().unwrap_or_default()),
        }
    }

    /// The parser wants a method where there is no file.
    fn one(&self, method: &str) -> Outcome {
        let raw = parameters(&self.parameters)?;
        let (method, parameters) = understood(method, &raw)?;
        let setup = Setup::find(self.json)?;
        let portal = setup.portal(&self.portal)?;
        if self.all {
            return call_many::whole_list(&setup, portal, &method, &raw, self.json);
        }
        let version = if self.v3 { Version::V3 } else { Version::V2 };
        let answer = one_call(setup.job(), portal, &method, version, parameters);
        print_answer(answer, self.json, &setup.log.request_id)
    }
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
    let call = relay::Call {
        version,
        method,
        query: "",
        payload: Payload::Json(parameters),
        headers: vec![("Accept", "application/json")],
        max_response: limits.max_response,
        counts: 1,
    };
    let patience = Patience::Until(job.end.at_most(limits.max_wait));
    Ok(relay::call(job, portal, &call, patience, None).result?.body)
}

/// Prints an answer, alone or in the envelope.
fn print_answer(answer: Result<Vec<u8>, Error>, json: bool, request_id: &str) -> Outcome {
    match answer {
        Ok(answer) => {
            let mut line = if json { Answer::success(vec![answer]).body.concat() } else { answer };
            line.push(b'\n');
            terminal::output_of_answers(json).write_all(&line).context(NOT_WRITTEN)?;
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
    crate::values::json::text(&bytes)
        .map(str::to_owned)
        .map_err(|why| Failure::Usage(why.replace("the body", "standard input")))
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
