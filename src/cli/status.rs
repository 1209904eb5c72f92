//! `b24proxy status`: what `GET /status` says, of all portals.

use super::check::line::Line;
use super::command::{Failure, Outcome, Setup};
use super::terminal::{say, say_in, Colour};
use super::trial::tried;
use crate::config::Portal;
use crate::serve::status::{self, moment, person, told, Allowance, Condition, PortalStatus};
use crate::store::records::Installation;
use clap::Args;
use serde_json::Value;
use std::collections::BTreeMap;

const HELP: &str = "\
Shows for each portal of proxy.toml whether its calls work now, by one that
needs no right; who installed it and when, when its token expires, when it was
last refreshed and what went wrong then, the calls and errors of the last hour
and day by client, and its limits.

--json prints what GET /status answers, and of each portal that was tried \"why\"
and \"cure\". Where proxy.toml cannot be used, every command prints
{\"error\":…} then. Without it a token file that cannot be used is told with its
reason. Exit status 1: a portal is not installed, its token file is damaged, its
calls do not work, or its last refresh failed.";

/// Each portal: does it work, its tokens, calls, errors and limits
#[derive(Args)]
#[command(before_help = HELP)]
pub struct Status {
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Status {
    pub fn run(&self) -> Outcome {
        let setup = Setup::find(self.json)?;
        let app = &setup.app;
        // First, because a call that renews the tokens ends what is told of a refresh that failed.
        let works: Vec<Option<Line>> = setup.config().portals.iter().map(|portal| works(&setup, portal)).collect();
        let portals: Vec<PortalStatus> = app.config.portals.iter().map(|portal| status::of(app, portal)).collect();
        if self.json {
            say(&as_json(&portals, &works).to_string());
        } else if portals.is_empty() {
            say(&format!("no portal is configured: add [portals.\"…\"] to {}", app.config.path.display()));
        } else {
            for (i, (portal, works)) in portals.iter().zip(&works).enumerate() {
                let colour = if is_well(portal, works) { Colour::Green } else { Colour::Red };
                say_in(colour, &format!("{}{}", if i == 0 { "" } else { "\n" }, table(portal, works)));
            }
        }
        match portals.iter().zip(&works).all(|(portal, works)| is_well(portal, works)) {
            true => Ok(()),
            false => Err(Failure::Told),
        }
    }
}

/// What one call says; `None` where there is nothing to call with.
fn works(setup: &Setup, portal: &Portal) -> Option<Line> {
    let is_installed = || matches!(setup.app.store.read(&portal.name), Ok(Installation::Installed(_)));
    (portal.application().is_none() || is_installed()).then(|| tried(setup, portal).line())
}

fn is_well(portal: &PortalStatus, works: &Option<Line>) -> bool {
    portal.is_well() && !works.as_ref().is_some_and(Line::fails)
}

/// What `GET /status` answers, with what the calls said.
fn as_json(portals: &[PortalStatus], works: &[Option<Line>]) -> Value {
    let mut answer: Value = serde_json::from_slice(&status::as_json(portals).body.concat()).unwrap_or_default();
    let told = answer.pointer_mut("/data/portals").and_then(Value::as_array_mut);
    for (portal, works) in told.into_iter().flatten().zip(works) {
        if let Some(line) = works {
            portal["works"] = (!line.fails()).into();
            (portal["why"], portal["cure"]) = (line.text.as_str().into(), line.cure.as_str().into());
        }
    }
    answer
}

/// What `GET /status` tells, as names and values.
fn facts(portal: &PortalStatus) -> Vec<(&'static str, String)> {
    let state = match portal.state {
        Condition::Webhook => "webhook",
        Condition::NotInstalled => "not installed",
        Condition::Installed => "installed",
        Condition::Broken => "the token file is damaged or cannot be read",
    };
    let mut facts = vec![("Condition", state.to_owned())];
    if let Some(tokens) = &portal.tokens {
        let refreshed = if tokens.refreshed_at == 0 { "never".to_owned() } else { moment(tokens.refreshed_at) };
        facts.extend([
            ("Address", tokens.client_endpoint.clone()),
            ("Installed by", person(tokens.user_id, &tokens.user_name)),
            ("Installed at", moment(tokens.installed_at)),
            ("Rights", tokens.scope.replace(',', ", ")),
            ("The token expires at", moment(tokens.expires_at)),
            ("Last refresh", refreshed),
        ]);
    }
    if let Some(error) = &portal.last_refresh_error {
        facts.push(("Refresh error", format!("{}: {}", moment(error.at), error.error)));
    }
    if let (Condition::NotInstalled, Some(url)) = (portal.state, &portal.install_url) {
        facts.push(("Install", url.clone()));
    }
    let at = |at: Option<i64>| at.map_or_else(|| "none yet".to_owned(), moment);
    facts.extend([("Last call", at(portal.last_call)), ("Last success", at(portal.last_success))]);
    if let Some(error) = &portal.last_error {
        facts.push(("Last error", format!("{}: {}", moment(error.at), told(error))));
    }
    if let Some(event) = &portal.last_event {
        facts.push(("Last event", format!("number {}, {}", event.number, moment(event.at))));
    }
    for (client, calls) in portal.calls.day.iter().filter(|(_, calls)| **calls > 0) {
        let of = |counts: &BTreeMap<String, u64>| counts.get(client).copied().unwrap_or(0);
        let (hour, hour_errors, errors) = (of(&portal.calls.hour), of(&portal.errors.hour), of(&portal.errors.day));
        let count =
            format!("{client}: {hour} in the hour ({hour_errors} failed), {calls} in the day ({errors} failed)");
        facts.push(("Calls", count));
    }
    let Allowance { requests_per_second, burst, level } = portal.limits;
    facts.push(("Limit of requests", format!("{requests_per_second} a second, burst {burst}, {level} in it now")));
    facts
        .extend(portal.blocked.iter().map(|(method, until)| ("Blocked", format!("{method} until {}", moment(*until)))));
    facts
}

fn table(portal: &PortalStatus, works: &Option<Line>) -> String {
    let mut facts = facts(portal);
    facts.extend(portal.broken.clone().map(|why| ("Why", why)));
    if let Some(line) = works {
        facts.extend([("Now", line.text.clone()), ("What to do", line.cure.clone())]);
    }
    let mut text = format!("{}\n", portal.name());
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        text += &super::terminal::wrapped(&format!("  {name:<23}"), 25, value);
    }
    text
}
