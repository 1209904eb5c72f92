//! Another executable in the place of the one that runs: an update, which nobody should have to restart anything for.

use crate::system::disk::{own_executable, own_path, Identity};
use rustix::stdio::dup2_stdin;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// What was written a moment ago may still be written to.
const SETTLED: Duration = Duration::from_secs(2);
/// How long it may take to tell its version.
const TRIAL: Duration = Duration::from_secs(2);

pub struct Successor {
    /// Where this program lies; `None`: that is not known.
    path: Option<PathBuf>,
    running: Option<Identity>,
    /// One that does not work.
    refused: Option<Identity>,
}

impl Successor {
    pub fn look_out() -> Successor {
        let running = own_executable().ok().and_then(|path| Identity::of(&path));
        Successor { path: own_path().ok(), running, refused: None }
    }

    /// Whether there is one that works.
    pub fn is_there(&mut self) -> bool {
        let (Some(path), Some(running)) = (&self.path, &self.running) else { return false };
        let Some(there) = Identity::of(path) else { return false };
        if there.is_same_file(running) || self.refused == Some(there) || !there.is_older(SETTLED, SystemTime::now()) {
            return false;
        }
        self.refused = Some(there);
        works(path)
    }

    /// Goes on as it, with this socket as standard input. The error says why that failed.
    pub fn take_over(&self, socket: &OwnedFd) -> String {
        let Some(path) = &self.path else { return "its path is not known".into() };
        if let Err(error) = dup2_stdin(socket) {
            return error.to_string();
        }
        Command::new(path).args(std::env::args_os().skip(1)).exec().to_string()
    }
}

/// Half an upload ends otherwise.
fn works(path: &PathBuf) -> bool {
    let mut command = Command::new(path);
    command.arg("version").env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if begun.elapsed() < TRIAL => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}
