//! The process that refreshes a portal's tokens: `b24proxy refresher PORTAL`, started by [`crate::call::refresh::process`] with the
//! portal's locked file as standard input. It tells how it ended on standard output; its starter may be gone by then.

use crate::app::App;
use crate::call::refresh::process::Ending;
use crate::call::refresh::spend::{renew, PATIENCE};
use crate::config::Surroundings;
use crate::system::clock::Deadline;
use crate::system::log::{Level, Log};
use crate::values::portal::PortalName;
use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

/// Why it did not come as far as an ending.
type Unstarted = String;

pub fn run(portal: &str) -> ExitCode {
    match ended(portal) {
        Ok(ending) => {
            let _ = std::io::stdout().write_all(ending.to_line().as_bytes());
            ExitCode::SUCCESS
        }
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "b24proxy: refresher: {why}");
            ExitCode::from(2)
        }
    }
}

fn ended(portal: &str) -> Result<Ending, Unstarted> {
    let app = App::load(&Surroundings::new(std::env::var_os("B24PROXY_CONFIG"), None))?;
    let log = app.log(String::new(), Box::new(|line| drop(std::io::stderr().write_all(line))));
    let name = PortalName::parse(portal).ok_or("this is not a portal's name")?;
    let portal = app.config.portal_of(&name).ok_or("this portal is not configured")?;
    let passed_on = standard_input().map_err(|error| error.to_string())?;
    let ending = match app.store.adopt_lock(&name, passed_on) {
        Ok(lock) => renew(app.job(&log, Deadline::after(PATIENCE)), portal, &*lock).into(),
        Err(why) => Ending::Storage(why),
    };
    log_ending(&log, &name, &ending);
    Ok(ending)
}

fn log_ending(log: &Log, portal: &PortalName, ending: &Ending) {
    let (level, message) = match ending {
        Ending::Stored => (Level::Info, "tokens refreshed"),
        _ => (Level::Error, "tokens not refreshed"),
    };
    log.line(level, message, &[("portal", portal.as_str().into()), ("result", serde_json::json!(ending))]);
}

#[cfg(unix)]
fn standard_input() -> std::io::Result<File> {
    std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned().map(File::from)
}

#[cfg(windows)]
fn standard_input() -> std::io::Result<File> {
    std::os::windows::io::AsHandle::as_handle(&std::io::stdin()).try_clone_to_owned().map(File::from)
}
