//! What a worker keeps from one request to the next: the program with its configuration, for as long as the files that it was
//! made from are the same.

use crate::app::App;
use crate::config::{Sources, Surroundings};
use crate::system::log::{ErrorStream, Log, Sink};
use crate::values::request::Variables;
use crate::values::secret::random_hex;
use std::ffi::OsString;
use std::sync::Arc;

pub struct Resident {
    /// Standard error is systemd's journal, in which an administrator looks first.
    pub has_journal: bool,
    surroundings: Surroundings,
    kept: Option<(App, Sources)>,
}

impl Resident {
    /// By the variables of this process; a request's own parameters do not count.
    pub fn new(variables: &Variables) -> Resident {
        let has_journal = variables.text("JOURNAL_STREAM").is_some_and(is_standard_error);
        Resident {
            has_journal,
            surroundings: Surroundings::new(variables.os("B24PROXY_CONFIG").cloned(), None),
            kept: None,
        }
    }

    /// As the files say now. `document_root`: of the request.
    pub fn app(&mut self, document_root: Option<&OsString>) -> Result<&mut App, String> {
        let document_root = document_root.map(Into::into);
        let is_same = self.surroundings.document_root == document_root;
        if !is_same || !self.kept.as_ref().is_some_and(|(_, sources)| sources.hold()) {
            self.kept = None;
            self.surroundings.document_root = document_root;
            let sources = self.surroundings.sources();
            let app = App::resident(crate::config::Config::load(&self.surroundings)?);
            let sources = sources.and(app.config.bitrix24.ca_file.as_deref());
            self.kept = Some((app, sources));
        }
        let (app, _) = self.kept.as_mut().expect("it is there now");
        app.follow_log();
        Ok(app)
    }

    /// Nothing is to be done for now: connections that nobody may use any more need not stay open.
    pub fn rest(&self) {
        if let Some((app, _)) = &self.kept {
            app.http.let_go();
        }
    }

    /// The configured number of workers; 0 where that is not known.
    pub fn workers(&self) -> u32 {
        self.kept.as_ref().map_or(0, |(app, _)| app.config.fastcgi.workers)
    }

    /// The log of a request.
    pub fn log(loaded: &Result<&mut App, String>, errors: ErrorStream) -> Log {
        let request_id = random_hex::<8>();
        match loaded {
            Ok(app) => app.log(request_id, errors),
            Err(_) => Log::new(Arc::new(Sink::unconfigured()), request_id, errors),
        }
    }
}

/// Whether standard error is this stream, by device and inode as systemd tells them (systemd.exec(5), `JOURNAL_STREAM`).
fn is_standard_error(stream: &str) -> bool {
    let Ok(metadata) = rustix::fs::fstat(std::io::stderr()) else { return false };
    stream == format!("{}:{}", metadata.st_dev, metadata.st_ino)
}
