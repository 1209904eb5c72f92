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
        let params = resolve_all(&parse_query(query.as_bytes()), &lists);
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

/// Puts earlier answers in place of `$result[id][field]` and its like.
fn resolve_all(params: &Array, lists: &Lists) -> Array {
    let mut resolved = Array::new();
    for (key, value) in params.iter() {
        let value = match value {
            Php::Array(inner) => resolve_all(inner, lists).into(),
            Php::Str(text) => resolve(text, lists),
            value => value.clone(),
        };
        resolved.set(key.clone(), value);
    }
    resolved
}

/// A value that is one reference keeps the type of what it refers to; within text it becomes text. What does not resolve is
/// the deepest level that does: a row, a list, nothing.
fn resolve(text: &str, lists: &Lists) -> Php {
    let mut out = String::new();
    let mut rest = text;
    while let Some((at, list, start)) = reference(rest, lists) {
        out.push_str(&rest[..at]);
        rest = &rest[start..];
        let (found, end) = follow(rest, list);
        if out.is_empty() && end == rest.len() {
            return found.unwrap_or(Php::Str(String::new()));
        }
        out.push_str(&found.map(|v| v.to_text()).unwrap_or_default());
        rest = &rest[end..];
    }
    out.push_str(rest);
    Php::Str(out)
}

/// The next `$result[`, `$next[`, …, in any case: where it begins, what it refers to, and where its `[` is.
fn reference<'a>(text: &str, lists: &'a Lists) -> Option<(usize, &'a Array, usize)> {
    let names = [
        ("result", &lists.result),
        ("next", &lists.nexts),
        ("total", &lists.totals),
        ("time", &lists.times),
        ("error", &lists.errors),
    ];
    text.match_indices('$').find_map(|(at, _)| {
        let behind = &text.as_bytes()[at + 1..];
        let (name, list) = names.iter().find(|(name, _)| {
            behind.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()))
                && behind.get(name.len()) == Some(&b'[')
                && behind.contains(&b']')
        })?;
        Some((at, *list, at + 1 + name.len()))
    })
}

/// Follows `[a][b]` from the start of `path`; answers also how long the reference is. `None`: there is not even `a`.
fn follow(path: &str, list: &Array) -> (Option<Php>, usize) {
    let (mut value, mut length, mut leads) = (None::<&Php>, 0, true);
    while let Some(inside) = path[length..].strip_prefix('[') {
        let Some(end) = inside.find(']') else { break };
        let array = value.map_or(Some(list), Php::as_array);
        let next = array.and_then(|array| array.get(&inside[..end]));
        leads &= next.is_some();
        if leads {
            value = next;
        }
        length += end + 2;
    }
    (value.cloned(), length)
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
        let array = |json: &str| match Php::from_json(json.as_bytes()) {
            Some(Php::Array(array)) => array,
            _ => panic!("an array"),
        };
        let lists = Lists {
            result: array(r#"{"a":7,"l":[{"ID":"1"},{"ID":"2"}]}"#),
            nexts: array(r#"{"l":50}"#),
            totals: array(r#"{"l":120}"#),
            ..Lists::default()
        };
        let resolved = |text| resolve(text, &lists).encode();
        assert_eq!(resolved("$result[a]"), "7");
        assert_eq!(resolved("D_$result[a]/$result[l][1][ID]"), r#""D_7\/2""#);
        assert_eq!(resolved("$RESULT[a]"), "7");
        assert_eq!(resolved("$next[l]"), "50");
        assert_eq!(resolved("$Total[l]"), "120");
        assert_eq!(resolved("$time[l]"), r#""""#);
        assert_eq!(resolved("$result[l][49][ID]"), r#"[{"ID":"1"},{"ID":"2"}]"#);
        assert_eq!(resolved("$result[l][1][NAME]"), r#"{"ID":"2"}"#);
        assert_eq!(resolved("$result[none][49][ID]"), r#""""#);
        assert_eq!(resolved("$result[l][0]"), r#"{"ID":"1"}"#);
        assert_eq!(resolved("$result[open $result"), r#""$result[open $result""#);
    }
}
