//! `b24proxy check`: what goes wrong on shared hosting, found before 1C finds it.
//!
//! [`program`]: the executable and `proxy.toml`. [`folder`]: the token folder, its file system and locks. [`tokens`]: each
//! portal's files. [`database`]: where there is one. [`network`]: portals, OAuth server, clock. [`web`]: the web server, from
//! outside, [`front`] one before it, [`passage`] what it lets through, and [`privacy`] what it hands out. Each check answers
//! [`Line`]s; what an observation means is decided by functions of values.

mod address;
mod database;
mod folder;
mod front;
mod line;
mod network;
mod passage;
mod privacy;
mod program;
mod tokens;
mod web;

use super::command::{surroundings, Failure, Outcome, Setup};
use super::terminal::{say, say_in};
use crate::app;
use crate::config::Config;
use crate::upstream::http::Http;
use crate::values::database::Kind;
use address::Address;
use clap::Args;
use line::{Line, Status};
use std::time::Duration;

const HELP: &str = "\
Looks at everything this program needs: proxy.toml and who may read it; the
executable, by the rules of suexec; the token folder: owner, space, locks (NFS);
each token file; a database: rights, TLS, pooling, connections; the clock; TLS
to the OAuth server and to each portal. It sends no secret, and changes nothing
but makes the token folder, or a database's tables, if they are missing.

With --url, check also asks the web server, at this program's public address:
ADDRESS or, without one, redirect_uri of proxy.toml. Does it run the program,
does it pass on Authorization, path, query and body (one of 1 MiB, too) and the
length of answers, is another one in front of it, does it hand out proxy.toml, a
token file or the log, does http lead to https? Of secrets only a client token
from proxy.toml is sent there, by https (or within this machine).

  b24proxy check --url
  b24proxy check --url https://www.example.com/cgi-bin/b24proxy

Each line is \"ok\", \"warn\" (perhaps wrong) or \"FAIL\" with what to do about it.
--json prints a list of {\"check\",\"status\",\"text\",\"cure\"}, the status ok, warn or
fail. Exit status 1: something FAILs.

--schema prints the statements that make the tables, for psql or mysql, of the
database that proxy.toml names or else of each kind, and does nothing else; the
program makes them itself where its user may.

Run it as the user as whom the web server runs the program; started by root it
goes on as the user whom proxy.toml and the token folder belong to.";

/// Finds what is wrong, and says what to do about it
#[derive(Args)]
#[command(before_help = HELP)]
pub struct Check {
    /// Ask the web server, at this address or at redirect_uri
    #[arg(long, value_name = "ADDRESS", value_parser = Address::parse)]
    url: Option<Option<Address>>,
    /// Print the statements that make a database's tables only
    #[arg(long)]
    schema: bool,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Check {
    /// Where the web server is to be asked.
    pub fn address(&self, config: Option<&Config>) -> Option<Address> {
        match self.url.as_ref()? {
            Some(address) => Some(address.clone()),
            None => Address::parse(config?.bitrix24.redirect_uri.as_deref()?).ok(),
        }
    }

    pub fn run(&self) -> Outcome {
        if self.schema {
            say(schema().trim_end());
            return Ok(());
        }
        let json = self.json;
        let mut all: Vec<Line> = Vec::new();
        // Shown as they come: a portal that does not answer takes its time.
        let mut show = |lines: Vec<Line>| {
            if !json {
                lines.iter().for_each(|line| say_in(line.status.colour(), &line.written()));
            }
            all.extend(lines);
        };
        let surroundings = surroundings();
        let loaded = Config::load(&surroundings).map(Setup::of);
        let config = loaded.as_ref().map(Setup::config);
        let without_configuration = Http::without_configuration(Duration::from_secs(10));
        let http = loaded.as_ref().map_or(&without_configuration, |setup| &setup.app.http);
        let url = self.address(config.ok());
        let asked = url.as_ref().and_then(|url| web::ask(url, http, config.ok()));
        let runs = asked.as_ref().is_some_and(web::Asked::runs);
        show(program::executable(surroundings.executable.as_deref(), runs));
        show(program::shared_user(surroundings.executable.as_deref(), config.ok()).into_iter().collect());
        show(program::configuration(&surroundings, config));
        if let Ok(setup) = &loaded {
            show(program::refresher(&setup.app.config).into_iter().collect());
            show(folder::check(&setup.app));
            show(database::check(&setup.app));
            // One failure for the folder, not one more for each portal's file in it.
            if setup.app.store.check().is_ok() {
                show(tokens::check(&setup.app));
            }
            show(network::check(setup));
        }
        if let Some(asked) = asked {
            show(web::check(&asked));
            if asked.works() {
                show(passage::check(&asked.site));
            }
            if asked.is_reached() {
                show(privacy::check(&asked.site));
            }
        }
        if matches!((&self.url, &url, config), (Some(None), None, Ok(_))) {
            show(vec![Line::fail(
                "web server",
                "redirect_uri is missing, so it is not known where to ask",
                NO_ADDRESS,
            )]);
        }
        let count = |status| all.iter().filter(|line| line.status == status).count();
        let (failed, warned) = (count(Status::Fail), count(Status::Warn));
        if json {
            say(&serde_json::to_string_pretty(&all).expect("plain data serializes"));
        } else {
            say(&summary(failed, warned, url.is_some()));
        }
        if failed == 0 {
            Ok(())
        } else {
            Err(Failure::Told)
        }
    }
}

const NO_ADDRESS: &str = "write it under [bitrix24] into proxy.toml, or the address behind --url";

/// Of the database that is configured; where none is, or there is no configuration yet, of each kind.
fn schema() -> String {
    let config = Config::load(&surroundings()).ok();
    let kinds = match config.and_then(|config| config.database) {
        Some(address) => vec![address.kind],
        None => vec![Kind::Postgres, Kind::MySql],
    };
    let written = kinds.into_iter().filter_map(|kind| Some(format!("-- {}\n{}", kind.title(), app::schema(kind)?)));
    written.collect::<Vec<_>>().join("\n")
}

fn summary(failed: usize, warned: usize, with_url: bool) -> String {
    let mut text = match (failed, warned) {
        (0, 0) => "\nAll is well.".to_owned(),
        (0, warned) => format!("\nNothing fails; to look at: {warned}."),
        (failed, 0) => format!("\nTo mend: {failed}."),
        (failed, warned) => format!("\nTo mend: {failed}; to look at: {warned}."),
    };
    if !with_url {
        text += "\nThe web server was not asked: b24proxy check --url ADDRESS";
    }
    text
}
