//! `b24proxy install-url PORTAL`

use super::arguments::{self, Arguments};
use super::command::{nothing, Command, Outcome, Setup};
use super::terminal::say;
use anyhow::{anyhow, Context};

pub const COMMAND: Command = Command {
    name: "install-url",
    usage: "PORTAL [--json]",
    summary: "the address at which a portal's administrator installs",
    help: "Prints the address that an administrator of the portal opens in a browser, to
allow this program to call the portal. PORTAL is a portal of proxy.toml, such as
acme.bitrix24.ru, or an alias.

The address is [bitrix24] redirect_uri with /install?portal=PORTAL. It is no
secret: only an administrator's login makes it work.",
    words: (1, 1),
    options: &[arguments::JSON],
    on_files: true,
    reads: nothing,
    run,
};

fn run(arguments: &Arguments) -> Outcome {
    let setup = Setup::find()?;
    let portal = setup.portal(&arguments.words[0])?;
    if portal.application().is_none() {
        return Err(anyhow!("this portal is used through a webhook; there is nothing to install").into());
    }
    let url = setup
        .config()
        .install_url(&portal.name)
        .with_context(|| format!("set redirect_uri under [bitrix24] in {} first", setup.config().path.display()))?;
    if arguments.json() {
        say(&serde_json::json!({ "portal": portal.name.as_str(), "install_url": url }).to_string());
    } else {
        say(&url);
    }
    Ok(())
}
