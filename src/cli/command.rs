//! What commands share: how one is described and ends, and what it works with.

use super::arguments::{Arguments, Flag};
use super::terminal;
use crate::app::{App, Job};
use crate::config::{Config, Portal, Surroundings};
use crate::system::clock::Deadline;
use crate::system::log::{Level, Log, Sink};
use crate::values::error::Error;
use crate::values::portal::PortalName;
use crate::values::secret::random_hex;
use crate::values::spelling::nearest;
use anyhow::anyhow;

/// A subcommand.
pub struct Command {
    pub name: &'static str,
    /// What stands behind the name.
    pub usage: &'static str,
    /// One line.
    pub summary: &'static str,
    /// What `b24proxy help NAME` teaches.
    pub help: &'static str,
    /// Least and most words beside options.
    pub words: (usize, usize),
    /// `--json` is understood by every command that has it here.
    pub options: &'static [Flag],
    /// Whether it works on a site's files, and so, started by root, goes on as the site's user.
    pub on_files: bool,
    /// A file among its arguments that it reads; "-" is standard input.
    pub reads: fn(&Arguments) -> Option<&str>,
    pub run: fn(&Arguments) -> Outcome,
}

/// For [`Command::reads`].
pub fn nothing(_: &Arguments) -> Option<&str> {
    None
}

/// `Ok`: exit status 0.
pub type Outcome = Result<(), Failure>;

#[derive(Debug)]
pub enum Failure {
    /// Something is wrong: exit status 1.
    Wrong(anyhow::Error),
    /// The configuration cannot be used; the same, and a program that reads `--json` gets it too.
    Configuration(String),
    /// The same, and the output has said it.
    Told,
    /// Wrong usage: exit status 2.
    Usage(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Failure {
        Failure::Wrong(anyhow::Error::msg(why))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(why: anyhow::Error) -> Failure {
        Failure::Wrong(why)
    }
}

/// On the command line sits whom the details are for.
impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        error.for_administrator().into()
    }
}

/// The program as the web server's runs have it, and a log of the command's own.
pub struct Setup {
    pub app: App,
    pub log: Log,
}

impl Setup {
    pub fn find() -> Result<Setup, Failure> {
        let setup = Config::load(&surroundings()).map(Setup::of).map_err(Failure::Configuration)?;
        setup.app.store.guarded()?;
        Ok(setup)
    }

    /// With the configured log; what would go to the web server's error log is not written to a person's terminal, warnings
    /// apart.
    pub fn of(config: Config) -> Setup {
        let level = if config.log.file.is_some() { config.log.level } else { config.log.level.min(Level::Warn) };
        let sink = Sink::new(level, config.log.file.as_deref());
        let app = App::with_sink(config, sink);
        let log = app.log(random_hex::<8>(), Box::new(terminal::complain));
        Setup { app, log }
    }

    pub fn config(&self) -> &Config {
        &self.app.config
    }

    /// Of as much time as a request has.
    pub fn job(&self) -> Job<'_> {
        self.app.job(&self.log, Deadline::after(self.app.config.bitrix24.timeout))
    }

    /// The portal of that name or alias.
    pub fn portal(&self, name: &str) -> Result<&Portal, Failure> {
        self.config().portal(name).ok_or_else(|| {
            let known: Vec<&str> = self.config().portals.iter().map(|portal| portal.name.as_str()).collect();
            let advice = match known.as_slice() {
                [] => "no portal is configured".to_owned(),
                known => format!("did you mean {}?", nearest(name, known)),
            };
            let section = PortalName::parse(name).map_or(name.to_owned(), |name| name.to_string());
            Failure::Wrong(anyhow!(
                "the portal {name:?} is not configured ({advice}); to add it, write [portals.\"{section}\"] into {}",
                self.config().path.display()
            ))
        })
    }
}

/// What of this process decides where the configuration is.
pub fn surroundings() -> Surroundings {
    Surroundings::new(terminal::variable("B24PROXY_CONFIG"), None)
}
