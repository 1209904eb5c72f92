//! `b24proxy install-url PORTAL`

use super::command::{Outcome, Setup};
use super::terminal::say;
use anyhow::{anyhow, Context};
use clap::Args;

const HELP: &str = "\
Prints the address that an administrator of the portal opens in a browser, to
allow this program to call the portal. PORTAL is a portal of proxy.toml, such as
acme.bitrix24.ru, or an alias.

The address is [bitrix24] redirect_uri with /install?portal=PORTAL. It is no
secret: only an administrator's login makes it work.";

/// The address at which a portal's administrator installs
#[derive(Args)]
#[command(before_help = HELP)]
pub struct InstallUrl {
    /// Its name in proxy.toml, or an alias
    portal: String,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

impl InstallUrl {
    pub fn run(&self) -> Outcome {
        let setup = Setup::find(self.json)?;
        let portal = setup.portal(&self.portal)?;
        if portal.application().is_none() {
            return Err(anyhow!("this portal is used through a webhook; there is nothing to install").into());
        }
        let url = setup
            .config()
            .install_url(&portal.name)
            .with_context(|| format!("set redirect_uri under [bitrix24] in {} first", setup.config().path.display()))?;
        if self.json {
            say(&serde_json::json!({ "portal": portal.name.as_str(), "install_url": url }).to_string());
        } else {
            say(&url);
        }
        Ok(())
    }
}
