//! Batches of clients that may call only some methods: read as Bitrix24 reads them, each command checked, and built anew,
//! so that no byte of the caller's reaches Bitrix24 that was not understood here.
//!
//! Facts (the portal's own PHP): `cmd` and `halt` count in any case; a command is split as a URL, what stands before `?` is
//! the method, and a scheme, host or fragment is cut off; methods are lower-cased; commands over 50 are not run.

use crate::call::bulk::MAX_COMMANDS;
use crate::call::payload::{Parameters, Payload};
use crate::config::Client;
use crate::values::error::{Error, Result};
use crate::values::form;
use crate::values::json::{self, Text};
use crate::values::method::Method;
use crate::values::portal::Version;
use serde_json::Value;
use std::borrow::Cow;

/// Whether this method is a batch that must be looked into for this client.
pub fn must_be_checked(client: &Client, method: &Method) -> bool {
    client.methods.is_some() && method.is_batch()
}

/// Checks a batch's JSON parameters and gives those to send instead.
pub fn checked(client: &Client, version: Version, parameters: &str) -> Result<Payload<'static>> {
    match version {
        Version::V2 => Commands::from_json(parameters)?.checked(client).map(Payload::Json),
        Version::V3 => checked_v3(client, parameters),
    }
}

/// The commands of a REST 2 batch, wherever they stood: as many as Bitrix24 runs.
#[derive(Default)]
pub struct Commands<'a> {
    /// Names and commands in order; `None` where there was no `cmd` at all.
    commands: Option<Vec<(Cow<'a, str>, Cow<'a, str>)>>,
    halt: Option<bool>,
}

impl<'a> Commands<'a> {
    pub fn from_json(parameters: &'a str) -> Result<Commands<'a>> {
        let mut found = Commands::default();
        for entry in json::entries(parameters) {
            let (key, raw) = entry.map_err(invalid)?;
            match key.to_ascii_lowercase().as_str() {
                "cmd" => {
                    let mut cmd = Commands { commands: Some(Vec::new()), halt: None };
                    for entry in list_or_map(raw) {
                        let (name, raw) = entry?;
                        let command: Text =
                            serde_json::from_str(raw).map_err(|_| forbidden("a batch command that is not a string"))?;
                        cmd.push(name, command.0)?;
                    }
                    found.merge(cmd)?;
                }
                "halt" => found.halt = Some(!is_false(raw)),
                _ => {}
            }
        }
        Ok(found)
    }

    /// From the fields of a query or form: `cmd[name]=command`, `cmd[]=command`.
    pub fn from_fields(fields: impl Iterator<Item = (String, String)>) -> Result<Commands<'a>> {
        let mut found = Commands::default();
        let mut spelling = None;
        // `cmd[]` counts from the largest number so far.
        let mut next = 0;
        for (name, value) in fields {
            let base = String::from_utf8_lossy(&form::variable(name.as_bytes())).into_owned();
            let index = name.split('\0').next().and_then(|name| name.split_once('[')).map(|(_, rest)| rest);
            match base.to_ascii_lowercase().as_str() {
                "halt" => found.halt = Some(index.is_some() || !matches!(value.as_str(), "" | "0")),
                "cmd" => {
                    let key = index.and_then(|rest| rest.strip_suffix(']')).filter(|key| !key.contains(['[', ']']));
                    let key = key.ok_or_else(|| forbidden("a batch whose cmd is neither a list nor a map"))?;
                    // To PHP, `cmd[…]` and `CMD[…]` are two arrays, of which one counts.
                    if *spelling.get_or_insert_with(|| base.clone()) != base {
                        return Err(forbidden("a batch with cmd given twice"));
                    }
                    let key = if key.is_empty() { next.to_string() } else { key.to_owned() };
                    if let Some(number) = key.parse().ok().filter(|number: &i64| number.to_string() == key) {
                        next = next.max(number.saturating_add(1));
                    }
                    found.push(key.into(), value.into())?;
                }
                _ => {}
            }
        }
        Ok(found)
    }

    fn push(&mut self, name: Cow<'a, str>, command: Cow<'a, str>) -> Result<()> {
        let commands = self.commands.get_or_insert_default();
        refuse_more_than_bitrix24_runs(commands.len())?;
        commands.push((name, command));
        Ok(())
    }

    /// Together with those of a place that counts more. `cmd` in two places is more than can be judged.
    pub fn merge(&mut self, other: Commands<'a>) -> Result<()> {
        if self.commands.is_some() && other.commands.is_some() {
            return Err(forbidden("a batch with cmd given twice"));
        }
        self.commands = self.commands.take().or(other.commands);
        self.halt = other.halt.or(self.halt);
        Ok(())
    }

    /// The parameters to send, once every command is one that this client may call.
    pub fn checked(self, client: &Client) -> Result<Parameters<'static>> {
        let commands = self.commands.unwrap_or_default();
        for (_, command) in &commands {
            check_command(client, command)?;
        }
        refuse_double_names(commands.iter().map(|(name, _)| name.as_ref()))?;
        let mut inside = format!("\"halt\":{},\"cmd\":{{", u8::from(self.halt.unwrap_or(false)));
        for (name, command) in commands {
            json::push_member(&mut inside, &name, "");
            json::push_quoted(&mut inside, &command);
        }
        inside.push('}');
        Ok(Parameters::of_inside(inside))
    }
}

/// Bitrix24 does not run them (it answers `ERROR_BATCH_LENGTH_EXCEEDED` for each), so they are not looked at either.
fn refuse_more_than_bitrix24_runs(commands: usize) -> Result<()> {
    if commands < MAX_COMMANDS {
        return Ok(());
    }
    Err(Error::InvalidRequest(format!(
        "a batch runs {MAX_COMMANDS} commands, and this one has more: send the others in another"
    )))
}

fn invalid(error: serde_json::Error) -> Error {
    Error::InvalidRequest(format!("params of batch: {}", json::describe(&error)))
}

fn refuse_double_names<'n>(names: impl Iterator<Item = &'n str>) -> Result<()> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(forbidden("a batch with one name for two commands"));
    }
    Ok(())
}

/// A command is `method` or `method?query`, with a method that this client may call.
pub fn check_command(client: &Client, command: &str) -> Result<()> {
    let name = command.split('?').next().unwrap_or("");
    check_name(client, name)
}

fn check_name(client: &Client, name: &str) -> Result<()> {
    let method = Method::parse(name).ok_or_else(|| forbidden("a batch command that is not method or method?query"))?;
    if method.is_batch() {
        return Err(forbidden("a batch in a batch"));
    }
    client.check_method(&method)
}

/// REST 3.0: `{"0":{"method","query","as","parallel"},…}`, or the same as a list, which stays one.
fn checked_v3(client: &Client, parameters: &str) -> Result<Payload<'static>> {
    let (mut names, mut rebuilt) = (Vec::new(), String::new());
    let is_list = is_list(parameters);
    for entry in list_or_map(parameters) {
        let (name, raw) = entry?;
        if form::is_authorization(name.as_bytes()) {
            continue;
        }
        refuse_more_than_bitrix24_runs(names.len())?;
        match is_list {
            true if names.is_empty() => {}
            true => rebuilt.push(','),
            false => json::push_member(&mut rebuilt, &name, ""),
        }
        push_command_v3(client, raw, &mut rebuilt)?;
        names.push(name);
    }
    refuse_double_names(names.iter().map(|name| name.as_ref()))?;
    Ok(match is_list {
        true => Payload::List(format!("[{rebuilt}]").into()),
        false => Payload::Json(Parameters::of_inside(rebuilt)),
    })
}

fn push_command_v3(client: &Client, raw: &str, rebuilt: &mut String) -> Result<()> {
    const FIELDS: [&str; 4] = ["method", "query", "as", "parallel"];
    let mut values = [None; FIELDS.len()];
    for entry in json::entries(raw) {
        let (name, value) = entry.map_err(|_| forbidden("a batch command that is not an object"))?;
        let at = FIELDS.iter().position(|known| *known == name);
        let at =
            at.ok_or_else(|| forbidden("a batch command with a field other than method, query, as and parallel"))?;
        if values[at].replace(value).is_some() {
            return Err(forbidden("a batch command with a field given twice"));
        }
    }
    let name = values[0].and_then(|raw| serde_json::from_str::<Text>(raw).ok());
    check_name(client, &name.ok_or_else(|| forbidden("a batch command without a method"))?.0)?;
    rebuilt.push('{');
    for (name, value) in FIELDS.iter().zip(values) {
        if let Some(value) = value {
            json::push_member(rebuilt, name, value);
        }
    }
    rebuilt.push('}');
    Ok(())
}

fn is_list(raw: &str) -> bool {
    raw.trim_ascii_start().starts_with('[')
}

/// The elements of a list with their places as names, or the entries of an object.
fn list_or_map(raw: &str) -> impl Iterator<Item = Result<json::Entry<'_>>> {
    let list = is_list(raw).then(|| json::elements(raw).enumerate());
    let list = list.into_iter().flatten().map(|(i, value)| Ok((i.to_string().into(), value.map_err(invalid)?)));
    let map = (!is_list(raw)).then(|| json::entries(raw)).into_iter().flatten();
    let map = map.map(|entry| entry.map_err(|_| forbidden("a batch whose cmd is neither a list nor a map")));
    list.chain(map)
}

/// PHP's idea of a false value in JSON.
fn is_false(raw: &str) -> bool {
    match serde_json::from_str(raw).unwrap_or(Value::Bool(true)) {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => matches!(text.as_str(), "" | "0"),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn forbidden(what: &str) -> Error {
    Error::Forbidden(format!(
        "A client that may call only some methods may not send {what}: each command must be method or method?query."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::method::Pattern;
    use proptest::prelude::*;

    fn client() -> Client {
        Client {
            name: "c".into(),
            any_user: false,
            digest: [0; 32],
            portals: None,
            methods: Some(vec![Pattern::parse("crm.*").unwrap(), Pattern::parse("batch").unwrap()]),
            ips: None,
            events: crate::values::event::Audible::All,
            auth_connector: None,
        }
    }

    fn v2(parameters: &str) -> Result<String> {
        Commands::from_json(parameters)?.checked(&client()).map(|parameters| parameters.as_str().to_owned())
    }

    #[test]
    fn allowed_commands_are_rebuilt_from_a_map_or_a_list() {
        assert_eq!(
            v2(r#"{"CMD":{"a":"crm.deal.list?start=0"},"halt":true,"x":1}"#).unwrap(),
            r#""halt":1,"cmd":{"a":"crm.deal.list?start=0"}"#
        );
        assert_eq!(
            v2(r#"{"cmd":["CRM.deal.add.json?a=$result[x]","crm.deal.list"]}"#).unwrap(),
            r#""halt":0,"cmd":{"0":"CRM.deal.add.json?a=$result[x]","1":"crm.deal.list"}"#
        );
        let many: Vec<String> = (0..12).map(|i| format!("crm.deal.get?id={i}")).collect();
        let sent = v2(&format!("{{\"cmd\":{}}}", serde_json::to_string(&many).unwrap())).unwrap();
        assert!(sent.find("\"10\":").unwrap() > sent.find("\"9\":").unwrap(), "the order is kept: {sent}");
    }

    #[test]
    fn nothing_else_gets_through() {
        for bad in [
            r#"{"cmd":["user.get"]}"#,
            r#"{"cmd":["https://x/crm.deal.add"]}"#,
            r#"{"cmd":["//x/user.get"]}"#,
            r#"{"cmd":["crm.deal.add#user.get"]}"#,
            r#"{"cmd":["crm.x/../user.get"]}"#,
            r#"{"cmd":["batch?cmd[a]=user.get"]}"#,
            r#"{"cmd":["BATCH.json?cmd[a]=user.get"]}"#,
            r#"{"cmd":[["crm.deal.add"]]}"#,
            r#"{"cmd":[""]}"#,
            r#"{"cmd":["?crm.deal.add"]}"#,
            r#"{"cmd":["crm.deal.add"],"CMD":["user.get"]}"#,
            r#"{"cmd":["crm.deal.add"],"\u0063md":["user.get"]}"#,
            r#"{"cmd":{"a":"crm.deal.add","a":"crm.deal.list"}}"#,
            r#"{"cmd":"crm.deal.add"}"#,
        ] {
            assert!(matches!(v2(bad), Err(Error::Forbidden(_))), "{bad}");
        }
    }

    #[test]
    fn the_list_of_rest_3_is_checked_too() {
        let v3 = |text: &str| checked(&client(), Version::V3, text);
        assert!(v3(r#"{"0":{"method":"crm.item.get","query":{"id":1},"as":"a"}}"#).is_ok());
        let list = v3("\n [{\"method\":\"crm.a\"}]").unwrap();
        assert!(matches!(list, Payload::List(list) if list == r#"[{"method":"crm.a"}]"#));
        for bad in [
            r#"{"0":{"method":"user.get"}}"#,
            r#"{"0":{"method":"crm.item.get","method":"user.get"}}"#,
            r#"{"0":{"query":{}}}"#,
            r#"{"0":"user.get"}"#,
            r#"{"0":{"method":"batch"}}"#,
        ] {
            assert!(matches!(v3(bad), Err(Error::Forbidden(_))), "{bad}");
        }
    }

    #[test]
    fn cmd_counts_wherever_it_stands_and_in_any_case_but_once() {
        let form = |text: &str| Commands::from_fields(form::fields(text.as_bytes()));
        let sent = form("CMD%5Ba%5D=crm.deal.list%3Fstart%3D0&halt=1&x=2").unwrap().checked(&client()).unwrap();
        assert_eq!(sent.as_str(), r#""halt":1,"cmd":{"a":"crm.deal.list?start=0"}"#);
        let sent = form("cmd[]=crm.a&cmd[]=crm.b&halt=0").unwrap().checked(&client()).unwrap();
        assert_eq!(sent.as_str(), r#""halt":0,"cmd":{"0":"crm.a","1":"crm.b"}"#);
        for bad in ["cmd[a]=user.get", "+Cmd[a]=user.get", "cmd[a]=crm.x&cmd[a]=crm.y", "cmd[]=batch%3Fcmd[]=user.get"]
        {
            let refused = form(bad).and_then(|commands| commands.checked(&client()));
            assert!(matches!(refused, Err(Error::Forbidden(_))), "{bad}");
        }
        assert_eq!(form("cmd[a=user.get").unwrap().checked(&client()).unwrap().as_str(), r#""halt":0,"cmd":{}"#);
        for bad in ["cmd=crm.a", "cmd[a][b]=crm.a"] {
            assert!(matches!(form(bad), Err(Error::Forbidden(_))), "{bad}");
        }
        assert!(form("cmd[a]=crm.a&CMD[b]=crm.b").is_err());
        assert!(form("cmd%00[a]=crm.a").is_err());
        let sent = form("cmd[7]=crm.a&cmd[]=crm.b&cmd[x]=crm.c&halt=false").unwrap().checked(&client()).unwrap();
        assert_eq!(sent.as_str(), r#""halt":1,"cmd":{"7":"crm.a","8":"crm.b","x":"crm.c"}"#);
        let mut found = form("cmd[a]=crm.a&halt=1").unwrap();
        found.merge(Commands::from_json(r#"{"halt":0.0}"#).unwrap()).unwrap();
        assert_eq!(found.checked(&client()).unwrap().as_str(), r#""halt":0,"cmd":{"a":"crm.a"}"#);
        let mut found = form("cmd[a]=crm.a").unwrap();
        assert!(found.merge(Commands::from_json(r#"{"Cmd":["crm.b"]}"#).unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn every_field_that_passes_is_an_allowed_command(text in "(cmd|CMD|\\[|\\]|a|%5B|%5D|=|&|crm\\.a|user\\.get|batch|\\?|\\+){0,14}") {
            let passed = Commands::from_fields(form::fields(text.as_bytes())).and_then(|found| found.checked(&client()));
            if let Ok(parameters) = passed {
                let sent: serde_json::Value = serde_json::from_str(&format!("{{{}}}", parameters.as_str())).unwrap();
                for command in sent["cmd"].as_object().unwrap().values() {
                    let name = command.as_str().unwrap().split('?').next().unwrap();
                    prop_assert!(name.to_ascii_lowercase().starts_with("crm."), "{text}: {sent}");
                }
            }
        }

        #[test]
        fn every_command_that_passes_names_an_allowed_method(command in "[a-zA-Z.:/?#@\\[\\]%$ ]{0,40}") {
            if check_command(&client(), &command).is_ok() {
                // Read as PHP's parse_url reads it: a scheme, host and fragment cut off.
                let path = command.split(['?', '#']).next().unwrap();
                prop_assert!(!path.contains([':', '/', '@', '%', ' ']));
                prop_assert!(path.to_ascii_lowercase().starts_with("crm."));
            }
        }
    }
}
