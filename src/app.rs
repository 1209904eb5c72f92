//! What outlives a request: configuration, storage, connections and the log's sink, made once and shared by all who serve.
//! Uses upstream, store, config, values and system.

use crate::config::{Config, Surroundings};
use crate::store::file::Folder;
use crate::store::Store;
use crate::system::clock::Deadline;
use crate::system::log::{ErrorStream, Log, Sink};
use crate::upstream::http::Http;
use crate::values::database::{Address, Kind};
use std::path::PathBuf;
use std::sync::Arc;

pub struct App {
    pub config: Config,
    pub store: Box<dyn Store>,
    pub http: Http,
    sink: Arc<Sink>,
}

impl App {
    /// With the configuration that is found. The error is for the administrator: it may name paths.
    pub fn load(surroundings: &Surroundings) -> Result<App, String> {
        Ok(App::new(Config::load(surroundings)?))
    }

    pub fn new(config: Config) -> App {
        let sink = Sink::new(config.log.level, config.log.file.as_deref());
        App::with_sink(config, sink)
    }

    /// For a process that serves many requests: connections are kept between them.
    pub fn resident(config: Config) -> App {
        let (http, store) = (Http::keeping(&config.bitrix24), store(&config, true));
        App { http, store, ..App::new(config) }
    }

    /// With another log than the configured one.
    pub fn with_sink(config: Config, sink: Sink) -> App {
        let (store, http) = (store(&config, false), Http::new(&config.bitrix24));
        App { config, store, http, sink: Arc::new(sink) }
    }

    /// The log is written to the file that stands at its path now.
    pub fn follow_log(&mut self) {
        if let Some(renewed) = self.sink.renewed() {
            self.sink = Arc::new(renewed);
        }
    }

    /// The log of a request, or of whatever else works under one id.
    pub fn log(&self, request_id: String, errors: ErrorStream) -> Log {
        Log::new(self.sink.clone(), request_id, errors)
    }

    /// What is to be done by that moment.
    pub fn job<'a>(&'a self, log: &'a Log, end: Deadline) -> Job<'a> {
        Job { app: self, log, end, client: None }
    }
}

/// `stays`: whether this process serves more than one request.
fn store(config: &Config, stays: bool) -> Box<dyn Store> {
    match &config.database {
        None if stays => Box::new(Folder::new(&config.token_folder).keeping()),
        None => Box::new(Folder::new(&config.token_folder)),
        Some(address) => database(config, address, stays),
    }
}

/// Another place in which what is stored may be kept.
pub enum Place {
    Folder(PathBuf),
    Database(Box<Address>),
}

/// The storage there, for a process that ends soon.
pub fn storage_at(config: &Config, place: &Place) -> Box<dyn Store> {
    match place {
        Place::Folder(path) => Box::new(Folder::new(path)),
        Place::Database(address) => database(config, address, false),
    }
}

/// The statements that make a database's tables; `None`: this program is built without it.
pub fn schema(kind: Kind) -> Option<&'static str> {
    match kind {
        #[cfg(feature = "postgres")]
        Kind::Postgres => Some(crate::store::database::postgres::SCHEMA),
        #[cfg(feature = "mysql")]
        Kind::MySql => Some(crate::store::database::mysql::SCHEMA),
        #[cfg(not(all(feature = "postgres", feature = "mysql")))]
        _ => None,
    }
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn database(config: &Config, address: &Address, stays: bool) -> Box<dyn Store> {
    use crate::store::database::{Connect, Database};
    use crate::store::QUOTA;
    let (name, ca_file, patience) =
        (address.to_string(), config.bitrix24.ca_file.clone(), config.bitrix24.connect_timeout);
    let address = address.clone();
    let connect: Connect = match address.kind {
        #[cfg(feature = "postgres")]
        Kind::Postgres => Box::new(move || {
            use crate::{store::database::postgres, upstream::tls};
            let trusted =
                |encryption| tls::of_database(encryption, ca_file.as_deref()).map_err(|failure| failure.text());
            postgres::connect(&address, patience, &trusted, tls::told)
        }),
        #[cfg(feature = "mysql")]
        Kind::MySql => Box::new(move || {
            use crate::{store::database::mysql, upstream::tls};
            mysql::connect(&address, patience, ca_file.as_deref(), tls::told)
        }),
        #[cfg(not(all(feature = "postgres", feature = "mysql")))]
        _ => return none(config),
    };
    Box::new(Database::new(connect, name, &config.token_folder, QUOTA, stays))
}

#[cfg(not(any(feature = "postgres", feature = "mysql")))]
fn database(config: &Config, _: &Address, _: bool) -> Box<dyn Store> {
    none(config)
}

/// Of a kind that this program is built without: the configuration names none then.
#[cfg(not(all(feature = "postgres", feature = "mysql")))]
fn none(config: &Config) -> Box<dyn Store> {
    Box::new(Folder::new(&config.token_folder))
}

/// A request, or a command's work: what it is done with, where it is told, and by when it must have ended.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    pub app: &'a App,
    pub log: &'a Log,
    pub end: Deadline,
    /// The client for whom calls are counted.
    pub client: Option<&'a str>,
}

impl<'a> Job<'a> {
    pub fn of_client(self, name: &'a str) -> Job<'a> {
        Job { client: Some(name), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shared_by_threads() {
        fn is_shared<T: Send + Sync>() {}
        is_shared::<App>();
    }
}
