//! Another executable in the place of the one that runs: an update, which nobody should have to restart anything for.

use crate::system::disk::{own_executable, own_path, started_as, Identity, YOUNG};
use rustix::stdio::dup2_stdin;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// How long it may take to show that it works.
const TRIAL: Duration = Duration::from_secs(5);

pub struct Successor {
    /// Where this program lies; `None`: that is not known.
    path: Option<PathBuf>,
    running: Option<Identity>,
    /// One that was tried.
    tried: Option<Identity>,
    trial: Option<(Child, Instant)>,
}

impl Successor {
    pub fn look_out() -> Successor {
        let running = own_executable().ok().and_then(|path| Identity::of(&path));
        let is_running = |path: &PathBuf| running.zip(Identity::of(path)).is_some_and(|(a, b)| a.is_same_file(&b));
        // As it was started, perhaps by a link, which may lead elsewhere one day.
        let path = started_as().filter(is_running).or_else(|| own_path().ok());
        Successor { path, running, tried: None, trial: None }
    }

    /// Whether there is one that works; to be asked now and then, for it is tried meanwhile. The failure is told once.
    pub fn is_there(&mut self) -> Result<bool, String> {
        if let Some((mut child, since)) = self.trial.take() {
            match child.try_wait() {
                Ok(None) if since.elapsed() < TRIAL => self.trial = Some((child, since)),
                Ok(Some(status)) if status.success() => return Ok(true),
                Ok(Some(status)) => return Err(format!("\"help fastcgi\" ended with {status}")),
                _ => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err("\"help fastcgi\" did not end".into());
                }
            }
            return Ok(false);
        }
        let (Some(path), Some(running)) = (&self.path, &self.running) else { return Ok(false) };
        let Some(there) = Identity::of(path) else { return Ok(false) };
        if there.is_same_file(running) || self.tried == Some(there) || !there.is_older(YOUNG, SystemTime::now()) {
            return Ok(false);
        }
        self.tried = Some(there);
        // Half an upload ends otherwise, and so does a version that cannot stay.
        let mut command = Command::new(path);
        command.args(["help", "fastcgi"]).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| error.to_string())?;
        self.trial = Some((child, Instant::now()));
        Ok(false)
    }

    /// Whether a process runs that is waited for here.
    pub fn is_tried(&self) -> bool {
        self.trial.is_some()
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
