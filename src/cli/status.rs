//! `b24proxy status`: what `GET /status` says, of all portals.

use super::command::{Failure, Outcome, Setup};
use super::terminal::{say, say_in, Colour};
use crate::serve::page::Language;
use crate::serve::status::{self, PortalStatus};
use clap::Args;

const HELP: &str = "\
Shows for each portal of proxy.toml whether it is installed, by whom and when,
when its token expires, when it was last refreshed and what went wrong then, and
its limits. No portal is called; \"b24proxy call PORTAL profile\" does that.

--json prints what GET /status answers; where proxy.toml cannot be used, every
command prints {\"error\":…} then. Without it a token file that cannot be used
is told with its reason. Exit status 1: a portal is not installed, its token
file is damaged, or its last refresh failed.";

/// Each portal's installation, tokens, last refresh and limits
#[derive(Args)]
#[command(before_help = HELP)]
pub struct Status {
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Status {
    pub fn run(&self) -> Outcome {
        let Setup { app, .. } = Setup::find(self.json)?;
        let portals: Vec<PortalStatus> = app.config.portals.iter().map(|portal| status::of(&app, portal)).collect();
        if self.json {
            say(&String::from_utf8_lossy(&status::as_json(&portals).body.concat()));
        } else if portals.is_empty() {
            say(&format!("no portal is configured: add [portals.\"…\"] to {}", app.config.path.display()));
        } else {
            for (i, portal) in portals.iter().enumerate() {
                let colour = if portal.is_well() { Colour::Green } else { Colour::Red };
                say_in(colour, &format!("{}{}", if i == 0 { "" } else { "\n" }, table(portal)));
            }
        }
        match portals.iter().all(PortalStatus::is_well) {
            true => Ok(()),
            false => Err(Failure::Told),
        }
    }
}

fn table(portal: &PortalStatus) -> String {
    let mut text = format!("{}\n", portal.name());
    let reason = portal.reason.clone().map(|why| ("Why".to_owned(), why));
    for (name, value) in status::facts(Language::English, portal).into_iter().chain(reason) {
        text += &super::terminal::wrapped(&format!("  {name:<23}"), 25, &value);
    }
    text
}
