//! `b24proxy move --to ADDRESS`: all that is stored, to a folder or into a database.

use super::command::{Failure, Outcome, Setup};
use super::terminal::{self, say, say_in, Colour};
use crate::app::{schema, storage_at, Place};
use crate::store::moving::{carry, step, Step};
use crate::store::Store;
use crate::system::clock::Deadline;
use crate::values::database::{Address, Kind};
use crate::values::portal::PortalName;
use anyhow::anyhow;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

/// Longer than a refresh, and than a call with a key, that are under way.
const PATIENCE: Duration = Duration::from_secs(120);
/// Of an address on standard input.
const MAX_ADDRESS: u64 = 4096;

const HELP: &str = "\
Carries tokens, events and idempotency keys, with their answers, from the place
that proxy.toml names to ADDRESS: a folder (from the root on, such as
/home/USER/b24proxy/tokens), or a database, postgres://USER:PASSWORD@HOST/NAME
or mysql://…. With - the address is read from standard input, where others do
not see its password.

Calls go on meanwhile. Each portal is copied under its lock; only when all of it
is on disk there it is marked as moved here, and its tokens are removed. Whoever
still uses the old place is then told the new one. After that, write the new
place under [storage] into proxy.toml, on every node. The same command moves
back. A move that was broken off is ended by the same command.

  echo 'postgres://b24proxy:PASSWORD@db.lan/b24proxy' | b24proxy move --to -

Exit status 1: a portal is in use in both places; nothing was moved.";

/// Carries all that is stored to another place
#[derive(Args)]
#[command(before_help = HELP)]
pub struct Move {
    /// A folder or a database; "-" reads it from standard input
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Ending {
    Moved,
    /// Already.
    There,
    Refused,
    /// Not tried, because another one was refused.
    Left,
    Failed,
}

#[derive(Serialize)]
struct Report {
    portal: String,
    result: Ending,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Move {
    pub fn run(&self) -> Outcome {
        let place = match self.to.as_str() {
            "-" => place(&read_address()?),
            to => place(to),
        }
        .map_err(Failure::Usage)?;
        let setup = Setup::find(self.json)?;
        let source = &*setup.app.store;
        let target = storage_at(setup.config(), &place);
        source.check()?;
        target.check()?;
        if source.name() == target.name() {
            return Err(anyhow!("all is in {} already", target.name()).into());
        }
        let of_configuration = setup.config().portals.iter().map(|portal| portal.name.clone());
        let portals: BTreeSet<PortalName> = of_configuration.chain(source.portals()?).collect();
        let journey = Journey { source, target: &*target, from: source.name(), to: target.name() };
        let reports = journey.reports(&portals);
        if self.json {
            say(&serde_json::to_string(&reports).expect("plain data serializes"));
        } else {
            reports.iter().for_each(|report| say_in(report.colour(), &report.text(&journey.to)));
        }
        if reports.iter().any(|report| report.error.is_some()) {
            return Err(Failure::Told);
        }
        if !self.json {
            say(&advice(&place));
        }
        Ok(())
    }
}

fn read_address() -> Result<String, Failure> {
    let mut text = String::new();
    let read = terminal::input().lock().take(MAX_ADDRESS).read_to_string(&mut text);
    read.map_err(|error| anyhow!("the address cannot be read from standard input: {error}"))?;
    Ok(text.trim().to_owned())
}

/// The error shows nothing of the address, in which a password may stand.
fn place(to: &str) -> Result<Place, String> {
    if let Some(kind) = Kind::of(to) {
        return match schema(kind).is_some() {
            true => Address::parse(to)
                .map(|address| Place::Database(Box::new(address)))
                .map_err(|why| format!("the address of --to {why}")),
            false => Err(format!(
                "the address of --to leads to a database that this program was built without: build it with cargo build \
                 --release --locked --features {}",
                kind.name()
            )),
        };
    }
    let path = PathBuf::from(to);
    if to.contains("://") {
        return Err("the address of --to must begin with postgres:// or mysql://, or be a folder".into());
    }
    match path.is_absolute() && !to.contains(char::is_control) {
        true => Ok(Place::Folder(path)),
        false => Err("--to must name a folder from the root on, such as /home/USER/b24proxy/tokens, or a database, \
                      such as postgres://b24proxy:PASSWORD@db.lan/b24proxy or mysql://…"
            .into()),
    }
}

fn advice(place: &Place) -> String {
    match place {
        Place::Folder(path) => format!(
            "\nNow let proxy.toml name it:\n\n[storage]\ntype = \"file\"\npath = \"{}\"",
            path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"")
        ),
        Place::Database(address) => format!(
            "\nNow let proxy.toml name it, on every node:\n\n[storage]\ntype = \"{}\"\nurl  = \"…\"   # {address}, \
             with user and password",
            address.kind.name()
        ),
    }
}

struct Journey<'s> {
    source: &'s dyn Store,
    target: &'s dyn Store,
    from: String,
    to: String,
}

impl Journey<'_> {
    /// Where one portal is refused, all stay.
    fn reports(&self, portals: &BTreeSet<PortalName>) -> Vec<Report> {
        let report =
            |portal: &PortalName, result, error| Report { portal: portal.to_string(), result, keys: None, error };
        let seen: Vec<_> = portals.iter().map(|portal| (portal, self.step(portal))).collect();
        if seen.iter().any(|(_, step)| step.is_err()) {
            let told = seen.into_iter().map(|(portal, step)| match step {
                Ok(Step::Nothing) => report(portal, Ending::There, None),
                Ok(_) => report(portal, Ending::Left, None),
                Err(why) => report(portal, Ending::Refused, Some(why)),
            });
            return told.collect();
        }
        let moved = portals.iter().map(|portal| match self.one(portal) {
            Ok((Step::Nothing, _)) => report(portal, Ending::There, None),
            Ok((_, keys)) => Report { keys: Some(keys), ..report(portal, Ending::Moved, None) },
            Err(why) => report(portal, Ending::Failed, Some(why)),
        });
        moved.collect()
    }

    fn step(&self, portal: &PortalName) -> Result<Step, String> {
        step(&self.source.state(portal)?, &self.target.state(portal)?, &self.from, &self.to)
    }

    /// What was done, and how many keys went along.
    fn one(&self, portal: &PortalName) -> Result<(Step, usize), String> {
        if self.step(portal)? == Step::Nothing {
            return Ok((Step::Nothing, 0));
        }
        let until = Deadline::after(PATIENCE);
        let busy = || "a refresh or a call of it has not ended: run the same command again".to_owned();
        let source = self.source.still(portal, until)?.ok_or_else(busy)?;
        let target = self.target.still(portal, until)?.ok_or_else(busy)?;
        // As it is now that nobody else changes it.
        let step = self.step(portal)?;
        let keys = match step {
            Step::Nothing => 0,
            Step::Finish => target.arrived().map(|()| 0)?,
            Step::Carry => carry(&*source, &*target, &self.from, &self.to)?,
        };
        Ok((step, keys))
    }
}

impl Report {
    fn colour(&self) -> Colour {
        match self.result {
            Ending::Moved | Ending::There => Colour::Green,
            Ending::Left => Colour::Yellow,
            Ending::Refused | Ending::Failed => Colour::Red,
        }
    }

    fn text(&self, to: &str) -> String {
        let error = self.error.as_deref().unwrap_or_default();
        let what = match self.result {
            Ending::Moved => format!("moved to {to}, with {} idempotency keys", self.keys.unwrap_or(0)),
            Ending::There => format!("is in {to} already"),
            Ending::Refused => format!("REFUSED, nothing is moved: {error}"),
            Ending::Left => "stays where it is".to_owned(),
            Ending::Failed => format!("FAILED: {error}"),
        };
        format!("{}: {what}", self.portal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_folder_from_the_root_on_or_a_database_and_no_password_is_shown() {
        assert!(matches!(place("/home/u/tokens"), Ok(Place::Folder(_))));
        for wrong in ["", "tokens", "mysql://u:geheim@h", "redis://u:geheim@h/d", "postgres://u:geheim@h", "/a\u{7}"] {
            let why = place(wrong).err().expect(wrong);
            assert!(why.contains("--to") && !why.contains("geheim"), "{why}");
        }
        #[cfg(feature = "postgres")]
        {
            let place = place("postgres://u:geheim@db.lan/b").unwrap();
            let text = advice(&place);
            assert!(text.contains("postgres://db.lan/b") && !text.contains("geheim"), "{text}");
        }
    }
}
