//! Which OAuth servers are asked, and where a portal and `proxy.toml` contradict each other about that.

use super::line::Line;
use crate::app::App;
use crate::config::Portal;
use crate::store::records::Installation;
use crate::values::oauth_server::{Asked, OauthServer};

/// What is known without asking anybody; a refresh that has failed says the same with its own words.
pub fn contradiction(portal: &Portal, asked: &Asked) -> Option<Line> {
    let words = asked.is_suspicious().then(|| asked.words(&portal.name))??;
    Some(Line::warn(portal.name.as_str(), words, "a renewal may fail with invalid_grant or invalid_client until then"))
}

/// Those that the portals' tokens are asked of, each once.
pub fn servers(app: &App) -> Vec<OauthServer> {
    let mut servers: Vec<OauthServer> = Vec::new();
    for portal in app.config.portals.iter().filter(|portal| portal.application().is_some()) {
        let configured = portal.oauth_server.as_ref();
        let asked = match app.store.read(&portal.name) {
            Ok(Installation::Installed(tokens)) => portal.asked_for_pair(&tokens.server_endpoint),
            _ => Asked::for_installation(configured, &portal.name, "", ""),
        };
        if !servers.contains(&asked.server) {
            servers.push(asked.server);
        }
    }
    servers
}
