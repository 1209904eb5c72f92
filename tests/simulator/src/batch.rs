//! `batch` of REST 2.

use crate::http::Request;
use crate::ledger::Command;
use crate::methods::{self, Answer, Caller, Failure, Outcome};
use crate::params::{of_request, parse_query};
use crate::php::{Array, Key, Php};
use crate::rest::time;
use crate::rest3;
use crate::state::Shared;

const MOST: usize = 50;

/// Runs the commands in order; what was run goes into `ran`.
pub(crate) fn run(shared: &Shared, caller: &Caller, params: &Array, ran: &mut Vec<Command>) -> Outcome {
    methods::admit(shared, caller, "batch")?;
    let mut lists = Lists::default();
    let halt = halts(params);
    for (id, command) in commands(params) {
        let started = shared.clock.now();
        let (method, query) = split_command(&command);
        let params = resolve_all(&parse_query(query.as_bytes()), &lists.result);
        let outcome = match method.as_str() {
            "batch" | "download" | "upload" => {
                Err(methods::refuse(400, "ERROR_BATCH_METHOD_NOT_ALLOWED", "Method is not allowed for batch usage"))
            }
            method => methods::run(shared, caller, method, &params),
        };
        let error = match &outcome {
            Err(failure) => Some(failure.error.to_text()),
            Ok(_) => None,
        };
        let refused = matches!(&outcome, Err(failure) if failure.refused);
        if !refused {
            ran.push(Command {
                id: id.to_string(),
                method: method.clone(),
                params: Php::Array(params).to_json(),
                error: error.clone(),
            });
        }
        let spent = time(shared, caller.portal, &method, started);
        lists.enter(&id.to_string(), outcome, spent);
        if error.is_some() && halt {
            break;
        }
    }
    Ok(lists.answer().into())
}

fn halts(params: &Array) -> bool {
    last_in_any_case(params, "halt").is_some_and(Php::is_truthy)
}

/// The commands that count, with their names.
fn commands(params: &Array) -> Vec<(Key, String)> {
    let Some(Php::Array(commands)) = last_in_any_case(params, "cmd") else {
        return Vec::new();
    };
    let texts = commands.iter().take(MOST).filter_map(|(id, command)| match command {
        Php::Str(command) => Some((id.clone(), command.clone())),
        _ => None,
    });
    texts.collect()
}

/// How a portal reads a batch that is posted to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BatchReading {
    /// Name, method (lower-case) and query of each command, in order.
    pub commands: Vec<(String, String, String)>,
    pub halt: bool,
}

impl BatchReading {
    /// REST 2.
    pub fn of(query: &str, content_type: &str, body: &[u8]) -> BatchReading {
        let params = of_request(&posted(query, content_type, body));
        let split = |(id, command): (Key, String)| {
            let (method, query) = split_command(&command);
            (id.to_string(), method, query.to_owned())
        };
        BatchReading { commands: commands(&params).into_iter().map(split).collect(), halt: halts(&params) }
    }

    /// REST 3.0, the commands' queries as JSON.
    pub fn of_rest3(query: &str, content_type: &str, body: &[u8]) -> BatchReading {
        let mut params = rest3::params(&posted(query, content_type, body));
        params.remove("auth");
        let commands = params.iter().filter_map(|(id, command)| {
            let command = command.as_array()?;
            let method = command.get("method")?.to_text().to_lowercase();
            Some((id.to_string(), method, command.get("query").map(Php::encode).unwrap_or_default()))
        });
        BatchReading { commands: commands.collect(), halt: false }
    }
}

fn posted(query: &str, content_type: &str, body: &[u8]) -> Request {
    Request {
        method: "POST".to_owned(),
        query: query.to_owned(),
        headers: vec![("Content-Type".to_owned(), content_type.to_owned())],
        body: body.to_vec(),
        ..Request::default()
    }
}

/// `array_change_key_case`: of `cmd` and `CMD`, the last is taken.
fn last_in_any_case<'a>(params: &'a Array, name: &str) -> Option<&'a Php> {
    let same = params.iter().filter(|(key, _)| key.to_string().eq_ignore_ascii_case(name));
    same.last().map(|(_, value)| value)
}

#[derive(Default)]
struct Lists {
    result: Array,
    errors: Array,
    totals: Array,
    nexts: Array,
    times: Array,
}

impl Lists {
    fn enter(&mut self, id: &str, outcome: Outcome, spent: Php) {
        match outcome {
            Ok(Answer { result, next, total }) => {
                self.result.put(id, result);
                if let Some(next) = next {
                    self.nexts.put(id, next);
                }
                if let Some(total) = total {
                    self.totals.put(id, total);
                }
                self.times.put(id, spent);
            }
            Err(Failure { error, description, .. }) => {
                self.errors.put(id, Array::new().with("error", error).with("error_description", description))
            }
        }
    }

    fn answer(self) -> Php {
        Array::new()
            .with("result", self.result)
            .with("result_error", self.errors)
            .with("result_total", self.totals)
            .with("result_next", self.nexts)
            .with("result_time", self.times)
            .into()
    }
}

/// Splits as PHP's `parse_url` does: a scheme, a host and a fragment are cut off. The method comes
/// back lower-case.
fn split_command(command: &str) -> (String, &str) {
    let command = command.split('#').next().unwrap_or_default();
    let (mut path, query) = command.split_once('?').unwrap_or((command, ""));
    if let Some((scheme, rest)) = path.split_once(':') {
        let scheme_like = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if !scheme.is_empty() && scheme.chars().all(scheme_like) {
            path = rest;
        }
    }
    if let Some(authority) = path.strip_prefix("//") {
        path = authority.split_once('/').map_or("", |(_, path)| path);
    }
    (path.trim_matches('/').to_lowercase(), query)
}

/// Puts earlier results in place of `$result[id][field]`.
fn resolve_all(params: &Array, results: &Array) -> Array {
    let mut resolved = Array::new();
    for (key, value) in params.iter() {
        let value = match value {
            Php::Array(inner) => resolve_all(inner, results).into(),
            Php::Str(text) => resolve(text, results),
            value => value.clone(),
        };
        resolved.set(key.clone(), value);
    }
    resolved
}

/// A value that is one reference keeps the type of what it refers to; within text it becomes text.
/// A reference that leads nowhere is empty.
fn resolve(text: &str, results: &Array) -> Php {
    const MARK: &str = "$result[";
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        let (found, length) = follow(&rest[at + MARK.len() - 1..], results);
        let end = at + MARK.len() - 1 + length;
        if length == 0 {
            out.push_str(&rest[at..at + MARK.len()]);
            rest = &rest[at + MARK.len()..];
            continue;
        }
        if at == 0 && out.is_empty() && end == rest.len() {
            return found.unwrap_or(Php::Str(String::new()));
        }
        out.push_str(&found.map(|v| v.to_text()).unwrap_or_default());
        rest = &rest[end..];
    }
    out.push_str(rest);
    Php::Str(out)
}

/// Follows `[a][b]` from the start of `path`; answers also how long the reference is.
fn follow(path: &str, results: &Array) -> (Option<Php>, usize) {
    let mut value = Some(Php::Array(results.clone()));
    let mut length = 0;
    while let Some(inside) = path[length..].strip_prefix('[') {
        let Some(end) = inside.find(']') else { break };
        value = value.as_ref().and_then(Php::as_array).and_then(|array| array.get(&inside[..end])).cloned();
        length += end + 2;
    }
    (value, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_as_a_url() {
        for (command, method, query) in [
            ("crm.deal.list?start=0", "crm.deal.list", "start=0"),
            ("CRM.Deal.List", "crm.deal.list", ""),
            ("https://host/profile?a=1#x", "profile", "a=1"),
            ("//host:80/profile", "profile", ""),
            ("profile#?a=1", "profile", ""),
            ("x:batch?cmd[a]=b", "batch", "cmd[a]=b"),
            ("crm.deal.list?a=b?c:d", "crm.deal.list", "a=b?c:d"),
        ] {
            assert_eq!(split_command(command), (method.to_owned(), query), "{command}");
        }
    }

    #[test]
    fn references_are_followed() {
        let results = match Php::from_json(br#"{"a":7,"l":[{"ID":"1"},{"ID":"2"}]}"#) {
            Some(Php::Array(array)) => array,
            _ => panic!("an array"),
        };
        let resolved = |text| resolve(text, &results).encode();
        assert_eq!(resolved("$result[a]"), "7");
        assert_eq!(resolved("D_$result[a]/$result[l][1][ID]"), r#""D_7\/2""#);
        assert_eq!(resolved("$result[l][49][ID]"), r#""""#);
        assert_eq!(resolved("$result[l][0]"), r#"{"ID":"1"}"#);
        assert_eq!(resolved("$result[open $result"), r#""$result[open $result""#);
    }
}
