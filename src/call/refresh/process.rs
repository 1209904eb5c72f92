//! The process that refreshes, as the one that starts it sees it, and what the two tell each other.

use super::spend::NotRenewed;
use crate::config::Config;
use crate::system::disk::own_executable;
use crate::system::log::Log;
use crate::system::process::bequeath_nothing;
use crate::system::refusal::refused;
use crate::values::error::Error;
use crate::values::portal::PortalName;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// The hidden command that it is started by.
pub const COMMAND: &str = "refresher";

const NULL: &str = "/dev/null";

/// How a refresher ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Stored,
    /// By the OAuth server; recorded in the portal's notes, for everybody.
    Refused,
    /// Its own trouble; not shared with others.
    Storage(String),
    /// The host's; the same.
    HostBusy(String),
}

impl From<Result<(), NotRenewed>> for Ending {
    fn from(renewed: Result<(), NotRenewed>) -> Ending {
        match renewed {
            Ok(()) => Ending::Stored,
            Err(NotRenewed::Refused) => Ending::Refused,
            Err(NotRenewed::Storage(why)) => Ending::Storage(why),
            Err(NotRenewed::HostBusy(why)) => Ending::HostBusy(why),
        }
    }
}

impl Ending {
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("plain data serializes")
    }
}

pub struct Refresher {
    /// Taken when its end has been waited for.
    child: Option<Child>,
    started: Instant,
}

impl Refresher {
    /// Starts it with the locked file as its standard input, in a process group of its own. Its environment is empty: no
    /// `GATEWAY_INTERFACE`, so it knows that it serves no request. It must not hold the web server's pipes, which would keep
    /// the answer open, nor its sockets, at which its successor could not listen.
    /// The error says what it lacks.
    pub fn start(config: &Config, portal: &PortalName, lock: File) -> Result<Refresher, String> {
        let mut command = apart()?;
        command.args([COMMAND, portal.as_str()]).env("B24PROXY_CONFIG", &config.path).stdin(Stdio::from(lock));
        Ok(Refresher { child: Some(spawned(&mut command)?), started: Instant::now() })
    }

    /// Why it ended without storing or recording anything: it says so itself, or was killed, and then whoever comes next
    /// tries again.
    pub fn failure(mut self, log: &Log) -> Error {
        let mut told = Vec::new();
        let Some(mut child) = self.child.take() else { return Error::RefreshPending { retry_after: 1 } };
        if let Some(output) = child.stdout.take() {
            let _ = output.take(16 << 10).read_to_end(&mut told);
        }
        let status = child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        match serde_json::from_slice(&told) {
            Ok(Ending::Storage(why)) => Error::Storage(why),
            Ok(Ending::HostBusy(why)) => Error::HostBusy(why),
            _ => {
                let ms = self.started.elapsed().as_millis();
                log.error(&format!("the refresher ended after {ms} ms with {status}; the next call tries again"));
                Error::RefreshPending { retry_after: 1 }
            }
        }
    }
}

/// Whether this host lets one start, by starting what ends at once. The error says what it lacks.
pub fn try_start() -> Result<(), String> {
    let mut child = spawned(apart()?.arg("version").stdin(Stdio::null()).stdout(Stdio::null()))?;
    let ended = child.wait().map_err(|error| error.to_string())?;
    ended.success().then_some(()).ok_or_else(|| format!("one was started and ended with {ended}"))
}

/// This executable with nothing of this process.
fn apart() -> Result<Command, String> {
    bequeath_nothing();
    let executable = own_executable().map_err(|error| lacks("its own path is not known, as without /proc", &error))?;
    let nothing = OpenOptions::new().write(true).open(NULL).map_err(|error| lacks("there is no /dev/null", &error))?;
    let mut command = Command::new(executable);
    command.env_clear().current_dir("/").stdout(Stdio::piped()).stderr(Stdio::from(nothing));
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    Ok(command)
}

fn spawned(command: &mut Command) -> Result<Child, String> {
    command.spawn().map_err(|error| lacks("this host does not let it start one", &error))
}

fn lacks(what: &str, error: &std::io::Error) -> String {
    match refused(error) {
        Some(why) => why.to_owned(),
        None => format!("{what} ({error})"),
    }
}

impl Drop for Refresher {
    /// It may go on for longer than its starter wants to wait, who must hear of its end all the same: in a process that stays
    /// it would be a zombie for ever.
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if matches!(child.try_wait(), Ok(None)) {
            let _ = std::thread::Builder::new().spawn(move || child.wait());
        }
    }
}
