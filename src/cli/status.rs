//! `b24proxy status`: what `GET /status` says, of all portals.

use super::arguments::{self, Arguments};
use super::command::{nothing, Command, Failure, Outcome, Setup};
use super::terminal::say;
use crate::serve::page::Language;
use crate::serve::status::{self, PortalStatus};

pub const COMMAND: Command = Command {
    name: "status",
    usage: "[--json]",
    summary: "each portal's installation, tokens, last refresh and limits",
    help: "Shows for each portal of proxy.toml whether it is installed, by whom and when,
when its token expires, when it was last refreshed and what went wrong then, and
its limits. No portal is called; \"b24proxy call PORTAL profile\" does that.

--json prints what GET /status answers; where proxy.toml cannot be used, every
command prints {\"error\":…} then. Without it a token file that cannot be used
is told with its reason. Exit status 1: a portal is not installed, its token
file is damaged, or its last refresh failed.",
    words: (0, 0),
    options: &[arguments::JSON],
    on_files: true,
    reads: nothing,
    run,
};

fn run(arguments: &Arguments) -> Outcome {
    let Setup { app, .. } = Setup::find()?;
    let portals: Vec<PortalStatus> = app.config.portals.iter().map(|portal| status::of(&app, portal)).collect();
    if arguments.json() {
        say(&String::from_utf8_lossy(&status::as_json(&portals).body.concat()));
    } else if portals.is_empty() {
        say(&format!("no portal is configured: add [portals.\"…\"] to {}", app.config.path.display()));
    } else {
        let tables: Vec<String> = portals.iter().map(table).collect();
        say(&tables.join("\n"));
    }
    match portals.iter().all(PortalStatus::is_well) {
        true => Ok(()),
        false => Err(Failure::Told),
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
