//! What commands share: how one ends, and what it works with.

use super::terminal::{self, say};
use crate::app::{App, Job};
use crate::config::{Config, Portal, Surroundings};
use crate::system::clock::Deadline;
use crate::system::log::{Level, Log, Sink};
use crate::values::error::Error;
use crate::values::portal::PortalName;
use crate::values::secret::random_hex;
use crate::values::spelling::near;
use anyhow::anyhow;

/// `Ok`: exit status 0.
pub type Outcome = Result<(), Failure>;

#[derive(Debug)]
pub enum Failure {
    /// Something is wrong: exit status 1.
    Wrong(anyhow::Error),
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
    /// `json`: a program reads the output; where the configuration cannot be used, it gets the reason too.
    pub fn find(json: bool) -> Result<Setup, Failure> {
        let setup = Config::load(&surroundings()).map(Setup::of).inspect_err(|why| {
            if json {
                say(&serde_json::json!({ "error": why }).to_string());
            }
        })?;
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
            let portals = &self.config().portals;
            let names: Vec<&str> = portals.iter().map(|portal| portal.name.as_str()).collect();
            let aliases = portals.iter().flat_map(|portal| portal.aliases.iter().map(String::as_str));
            let known: Vec<&str> = names.iter().copied().chain(aliases).collect();
            let advice = match near(name, &known) {
                _ if names.is_empty() => "no portal is configured".to_owned(),
                Some(near) => format!("did you mean {near}?"),
                None => format!("configured: {}", names.join(", ")),
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
