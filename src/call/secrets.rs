//! Which secrets a portal could repeat in what it answers.

use crate::app::App;
use crate::config::{Config, Portal, Way};
use crate::store::records::{Installation, Tokens};
use crate::values::mask::Mask;
use crate::values::proxy::Proxy;

/// Those of the configuration.
pub fn configured(config: &Config, portal: &Portal) -> Mask {
    let mut mask = match &portal.way {
        Way::OAuth(application) => Mask::of([&application.client_secret]),
        Way::Webhook(webhook) => Mask::of([&webhook.code()]),
    };
    if let Some(password) = config.bitrix24.proxy.as_ref().and_then(Proxy::password) {
        mask.add(password);
    }
    if let Some(address) = &config.database {
        mask.add(&address.password);
    }
    mask
}

/// The same and those that are stored.
pub fn of_portal(app: &App, portal: &Portal) -> Mask {
    let mut mask = configured(&app.config, portal);
    if let Ok(Installation::Installed(tokens)) = app.store.read(&portal.name) {
        add(&mut mask, &tokens);
    }
    mask
}

pub fn add(mask: &mut Mask, tokens: &Tokens) {
    for secret in [&tokens.access_token, &tokens.refresh_token, &tokens.application_token, &tokens.events_key] {
        mask.add(secret);
    }
}
