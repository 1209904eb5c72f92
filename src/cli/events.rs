//! `b24proxy events PORTAL`: what Bitrix24 reported.

use super::command::{Outcome, Setup};
use super::terminal::{complain, output, NOT_WRITTEN};
use crate::call::secrets;
use crate::config::Portal;
use crate::serve::events::given;
use crate::serve::status::moment;
use crate::store::{Events as Found, Wish};
use anyhow::anyhow;
use clap::Args;
use std::io::{ErrorKind, Write};

/// Events that are read at once.
const PART: usize = 1000;

const HELP: &str = "\
Prints the events that are kept of a portal, the oldest first: number, time,
name and data. Nothing is consumed: 1C gets them all the same. --follow stays
and prints those that come, until it is ended (Ctrl+C).

  b24proxy events acme.bitrix24.ru
  b24proxy events acme.bitrix24.ru --follow

Which events Bitrix24 posts here is what a client of the program has registered:
{\"domain\":\"acme.bitrix24.ru\",\"events\":{\"bound\":true}} asks for it.

--json prints what 1C gets, {\"events\":[…],\"last\":…,\"lost\":…}, a line for
each thousand events.";

/// Shows what Bitrix24 reported, and is kept for 1C
#[derive(Args)]
#[command(before_help = HELP)]
pub struct Events {
    /// Its name in proxy.toml, or an alias
    portal: String,
    /// Go on with what comes
    #[arg(long)]
    follow: bool,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Events {
    pub fn run(&self) -> Outcome {
        let setup = Setup::find(self.json)?;
        let portal = setup.portal(&self.portal)?;
        let (store, bounds) = (&setup.app.store, &setup.config().events);
        let (mut after, mut is_first) = (0, true);
        loop {
            let found = store.events(&portal.name, &Wish { after, most: PART, is_wanted: &|_| true }, bounds)?;
            if found.lost > 0 && !is_first {
                complain(format!("b24proxy: {} events were dropped before they were read\n", found.lost).as_bytes());
            }
            let is_more = found.events.len() == PART;
            if !found.events.is_empty() || is_first {
                match print(&setup, portal, &found, self.json) {
                    // Whoever reads has gone.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                    Err(error) => return Err(anyhow!("{NOT_WRITTEN}: {error}").into()),
                    Ok(()) => {}
                }
            }
            (after, is_first) = (found.last, false);
            match (is_more, self.follow) {
                (true, _) => {}
                (false, false) => return Ok(()),
                (false, true) => {
                    while store.last_event(&portal.name)? == after {
                        std::thread::sleep(store.event_poll());
                    }
                }
            }
        }
    }
}

fn print(setup: &Setup, portal: &Portal, found: &Found, json: bool) -> std::io::Result<()> {
    let hide = secrets::of_portal(&setup.app, portal);
    let mut out = output();
    if json {
        let given = given(found).map_err(|error| std::io::Error::other(error.for_administrator()))?;
        let text = serde_json::to_string(&given).expect("plain data serializes");
        return writeln!(out, "{}", hide.text(&text));
    }
    for event in &found.events {
        let at = moment(event.at_ms.div_euclid(1000));
        let line = format!("{}  {at}  {}  {}", event.number, event.name, event.data);
        writeln!(out, "{}", hide.text(&line))?;
    }
    Ok(())
}
