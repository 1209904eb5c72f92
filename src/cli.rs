//! The command line.

use crate::config::{Config, Surroundings};
use crate::log::Log;
use crate::portal::PortalName;
use crate::refresh;
use std::process::ExitCode;

const USAGE: &str = "b24proxy is a CGI program: the web server starts it. On the command line:

  b24proxy install-url PORTAL   the address at which the portal's administrator installs
  b24proxy version              the version

Exit status: 0 fine, 1 something is wrong, 2 wrong usage.";

pub fn run() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["version" | "--version" | "-V"] => {
            println!("b24proxy {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        ["install-url", portal] => report(install_url(portal)),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        [refresh::COMMAND, portal] => match refresher(portal) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("b24proxy: {why}");
                ExitCode::from(2)
            }
        },
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn report(outcome: Result<String, String>) -> ExitCode {
    match outcome {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("b24proxy: {why}");
            ExitCode::FAILURE
        }
    }
}

fn configuration() -> Result<Config, String> {
    Config::load(&Surroundings {
        named: std::env::var_os("B24PROXY_CONFIG").map(Into::into),
        executable: std::env::current_exe().ok(),
        document_root: None,
    })
}

fn install_url(portal: &str) -> Result<String, String> {
    let config = configuration()?;
    let portal = config.portal(portal).ok_or("this portal is not configured: add a [portals.\"…\"] section for it")?;
    if portal.application().is_none() {
        return Err("this portal is used through a webhook; there is nothing to install".into());
    }
    config.install_url(&portal.name).ok_or_else(|| "set redirect_uri under [bitrix24] first".into())
}

fn refresher(portal: &str) -> Result<(), String> {
    let config = configuration()?;
    let portal = PortalName::parse(portal).ok_or("this is not a portal's name")?;
    let log = Log::new(String::new());
    log.configure(config.log.level, config.log.file.as_deref());
    refresh::run_refresher(&config, &portal, &log)
}
