//! `b24proxy status`: what `GET /status` says, of all portals.

use super::check::line::Line;
use super::command::{Failure, Outcome, Setup};
use super::terminal::{say, say_in, Colour};
use super::trial::tried;
use crate::config::Portal;
use crate::serve::status::{self, PortalStatus};
use crate::store::records::Installation;
use clap::Args;
use serde_json::Value;

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

fn table(portal: &PortalStatus, works: &Option<Line>) -> String {
    let mut text = format!("{}\n", portal.name());
    let fact = |name: &str, value: &str| (!value.is_empty()).then(|| (name.to_owned(), value.to_owned()));
    let reason = portal.broken.as_deref().and_then(|why| fact("Why", why));
    let now = works.iter().filter_map(|line| fact("Now", &line.text)).next();
    let cure = works.iter().filter_map(|line| fact("What to do", &line.cure)).next();
    for (name, value) in status::facts(portal).into_iter().chain(reason).chain(now).chain(cure) {
        text += &super::terminal::wrapped(&format!("  {name:<23}"), 25, &value);
    }
    text
}
