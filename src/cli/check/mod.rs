//! `b24proxy check`: what goes wrong on shared hosting, found before 1C finds it.
//!
//! [`program`]: the executable and `proxy.toml`. [`folder`]: the token folder, its file system and locks. [`database`]: where
//! there is one. [`network`]: portals, OAuth server, clock. [`tokens`]: each portal's, and whether they work. [`web`]: the web server, from
//! outside, [`front`] one before it, [`passage`] what it lets through, and [`privacy`] what it hands out. Each check answers
//! [`Line`]s; [`host`] knows where cures can be typed, and [`access`] looks for another user. What an observation means is decided by functions of values.

mod access;
mod address;
mod database;
mod folder;
mod front;
mod host;
pub mod line;
mod network;
mod oauth;
mod passage;
mod privacy;
mod program;
mod tokens;
mod web;

use super::command::{surroundings, Failure, Outcome, Setup};
use super::owner;
use super::terminal::{say, say_in, words};
use crate::app;
use crate::config::{Config, Surroundings};
use crate::system::user;
use crate::upstream::http::Http;
use crate::values::database::Kind;
use address::Address;
use clap::Args;
use host::Host;
use line::{Line, Status};
use std::time::Duration;

const HELP: &str = "\
Looks at everything this program needs: proxy.toml and who may read it; the
executable, by the rules of suexec; the token folder: owner, space, locks (NFS);
a database: rights, TLS, pooling, connections; the clock; TLS to the OAuth
server and to each portal; each portal's tokens, and whether they work now: it
calls profile, which needs no right, as the program's own call. That renews
tokens that are due; else it changes nothing but makes the token folder, or a
database's tables, if they are missing.

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

It looks as the user as whom the web server runs the program: the one whom
proxy.toml and the token folder belong to, or --user NAME. Started by root it
goes on as that user; another user is told the command with sudo.";

/// Finds what is wrong, and says what to do about it
#[derive(Args)]
#[command(before_help = HELP)]
pub struct Check {
    /// Ask the web server, at this address or at redirect_uri
    #[arg(long, value_name = "ADDRESS", value_parser = Address::parse)]
    url: Option<Option<Address>>,
    /// For this user, as whom the web server runs the program
    #[arg(long, value_name = "NAME", value_parser = user_number)]
    pub user: Option<u32>,
    /// Print the statements that make a database's tables only
    #[arg(long)]
    pub schema: bool,
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
        let surroundings = surroundings();
        let mut report = Report { json: self.json, host: Host::of(&surroundings), all: Vec::new() };
        match self.user.filter(|user| user::own().is_some_and(|me| me != *user)) {
            Some(user) => report.show(access::check(&surroundings, user, &owner::as_user(user, &words()))),
            None => self.look(&surroundings, &mut report),
        }
        report.end(self.url.is_some())
    }

    /// What somebody is told who is not the site's user.
    pub fn refuse(&self, why: &str, command: &str) -> Outcome {
        let mut report = Report { json: self.json, host: Host::of(&surroundings()), all: Vec::new() };
        report.show(vec![Line::fail("user", why, command)]);
        report.end(true)
    }

    fn look(&self, surroundings: &Surroundings, report: &mut Report) {
        let host = report.host;
        let loaded = Config::load(surroundings).map(Setup::of);
        let config = loaded.as_ref().map(Setup::config);
        let without_configuration = Http::without_configuration(Duration::from_secs(10));
        let http = loaded.as_ref().map_or(&without_configuration, |setup| &setup.app.http);
        let url = self.address(config.ok());
        let asked = url.as_ref().and_then(|url| web::ask(url, http, config.ok()));
        let runs = asked.as_ref().is_some_and(web::Asked::runs);
        report.show(program::executable(surroundings.executable.as_deref(), runs));
        report.show(program::shared_user(surroundings.executable.as_deref(), config.ok()).into_iter().collect());
        let before = report.failed();
        report.show(program::configuration(surroundings, config));
        let configured = report.failed();
        let roots = host.of_root(surroundings.locate().as_deref());
        let is_roots = roots.is_some();
        report.show(roots.into_iter().collect());
        if let Ok(setup) = &loaded {
            report.show(program::refresher(&setup.app.config).into_iter().collect());
            report.show(folder::check(&setup.app));
            report.show(database::check(&setup.app));
        }
        // What keeps this user from working keeps the web server's runs, and they need not be blamed for it again.
        let told = web::Told {
            configuration: configured > before || is_roots,
            storage: report.failed() > configured || is_roots,
        };
        if let Ok(setup) = &loaded {
            let (lines, unreached) = network::check(setup);
            report.show(lines);
            // One failure for the folder, not one more for each portal's file in it.
            if setup.app.store.check().is_ok() {
                report.show(tokens::check(setup, &unreached));
            }
        }
        if let Some(asked) = asked {
            let mut lines = web::check(&asked, &host, told);
            if asked.works() {
                lines.extend(passage::check(&asked.site));
            }
            report.show(host.instead(lines));
            if asked.is_reached() {
                report.show(privacy::check(&asked.site));
            }
        }
        if matches!((&self.url, &url, config), (Some(None), None, Ok(_))) {
            let text = "redirect_uri is missing, so it is not known where to ask";
            report.show(vec![Line::fail("web server", text, NO_ADDRESS)]);
        }
    }
}

/// The lines, shown as they come: a portal that does not answer takes its time.
struct Report {
    json: bool,
    host: Host,
    all: Vec<Line>,
}

impl Report {
    fn show(&mut self, lines: Vec<Line>) {
        for line in lines {
            let line = self.host.worded(line);
            if !self.json {
                say_in(line.status.colour(), &line.written());
            }
            self.all.push(line);
        }
    }

    fn failed(&self) -> usize {
        self.all.iter().filter(|line| line.fails()).count()
    }

    fn end(self, with_url: bool) -> Outcome {
        let (failed, warned) = (self.failed(), self.all.iter().filter(|line| line.status == Status::Warn).count());
        if self.json {
            say(&serde_json::to_string_pretty(&self.all).expect("plain data serializes"));
        } else {
            say(&summary(failed, warned, with_url));
        }
        if failed == 0 {
            Ok(())
        } else {
            Err(Failure::Told)
        }
    }
}

fn user_number(name: &str) -> Result<u32, String> {
    user::number_of(name).ok_or_else(|| format!("there is no user {name:?} on this machine"))
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
