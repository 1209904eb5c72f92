//! Each portal's tokens: whole, of this portal and application, not too old, and working now.

use super::line::Line;
use super::network::Unreached;
use super::oauth;
use crate::app::App;
use crate::call::relay::stored_address;
use crate::cli::command::Setup;
use crate::cli::refresh::renewed_at;
use crate::cli::trial::{tried, Tried};
use crate::config::{Config, Portal};
use crate::serve::status::moment;
use crate::store::file::Folder;
use crate::store::records::{Installation, Tokens};

const DAY: i64 = 86_400;
/// A refresh token dies unused after 180 days.
const LIFETIME_DAYS: i64 = 180;
const WARN_DAYS: i64 = 150;

/// `way`: what is not reached from here, which is told already.
pub fn check(setup: &Setup, way: &Unreached) -> Vec<Line> {
    let config = setup.config();
    let mut lines: Vec<Line> = config.portals.iter().flat_map(|portal| of_portal(setup, portal, way)).collect();
    lines.extend(strays(config));
    lines
}

fn of_portal(setup: &Setup, portal: &Portal, way: &Unreached) -> Vec<Line> {
    let App { config, store, .. } = &setup.app;
    let name = portal.name.as_str();
    let is_reached = !way.portals.contains(&portal.name);
    let Some(application) = portal.application() else {
        return is_reached.then(|| tried(setup, portal).line()).into_iter().collect();
    };
    let path = Folder::new(&config.token_folder).tokens(&portal.name);
    let marks = std::fs::read(path).ok().and_then(|bytes| marks_of_a_transfer(&bytes));
    let install = config.install_url(&portal.name).unwrap_or_else(|| format!("…/install?portal={name}"));
    let tokens = match store.read(&portal.name) {
        Ok(Installation::Installed(tokens)) => tokens,
        Ok(Installation::NotInstalled) => {
            let cure = format!("open {install} in a browser as an administrator of the portal");
            return vec![Line::warn(name, "not installed yet", cure)];
        }
        Ok(Installation::Broken(why)) => {
            let cure = marks.map_or_else(String::new, |marks| format!("{marks}; copy it again, in binary mode"));
            return vec![Line::fail(name, why, cure)];
        }
        Err(why) => return vec![Line::reason(name, &why)],
    };
    let mut lines = Vec::new();
    if let Some(marks) = marks {
        lines.push(Line::warn(name, format!("the token file can be read, but {marks}"), "copy it in binary mode"));
    }
    if let Err(why) = stored_address(config, portal, &tokens) {
        lines.push(Line::fail(name, why, ""));
    }
    if !tokens.client_id.is_empty() && tokens.client_id != application.client_id {
        lines.push(Line::fail(
            name,
            "the stored tokens were made for another client_id than proxy.toml has now; they cannot be refreshed",
            format!("put the old client_id and client_secret back, or open {install} as an administrator"),
        ));
    }
    // Whatever else would be found of these tokens follows from it.
    if lines.iter().any(Line::fails) {
        return lines;
    }
    let asked = portal.asked_for_pair(&tokens.server_endpoint);
    if is_reached {
        match tried(setup, portal) {
            Tried::Works(line) => lines.push(line),
            Tried::Fails { unreached: true, .. } if way.oauth_servers.contains(&asked.server) => return lines,
            Tried::Fails { line, .. } => return lines.into_iter().chain([line]).collect(),
        }
    }
    // What the call has renewed is another pair.
    let tokens = match store.read(&portal.name) {
        Ok(Installation::Installed(tokens)) => tokens,
        _ => tokens,
    };
    lines.extend(last_refresh(setup, portal, &tokens, &install));
    lines.extend(age(name, &tokens, store.now(), &install));
    lines
}

/// A refresh that failed, or has not ended, though the access token may work; or what may let the next one fail.
fn last_refresh(setup: &Setup, portal: &Portal, tokens: &Tokens, install: &str) -> Option<Line> {
    let name = portal.name.as_str();
    let asked = portal.asked_for_pair(&tokens.server_endpoint);
    let Some(last) = setup.app.store.notes(&portal.name).refresh.filter(|last| last.speaks_of(tokens)) else {
        return oauth::contradiction(portal, &asked);
    };
    let at = moment(last.at / 1000);
    Some(match &last.failure {
        Some(refusal) => {
            let (text, cure) = refusal.mismatch(&asked, &portal.name).unwrap_or_else(|| {
                let again = "b24proxy refresh --older-than 0 tries again";
                (refusal.text(&asked, &portal.name), format!("{again}; if the token is refused, open {install}"))
            });
            Line::fail(name, format!("the refresh at {at} failed: {text}"), cure)
        }
        None => Line::warn(name, format!("a refresh was begun at {at} and has not ended"), "check again in a minute"),
    })
}

/// The refresh token's age.
fn age(name: &str, tokens: &Tokens, now: i64, install: &str) -> Option<Line> {
    let days = now.saturating_sub(renewed_at(tokens)?) / DAY;
    if days >= LIFETIME_DAYS {
        return Some(Line::fail(
            name,
            format!("the refresh token is {days} days old; it dies after {LIFETIME_DAYS} days unused"),
            format!("open {install} as an administrator, and let cron run: b24proxy refresh"),
        ));
    }
    (days >= WARN_DAYS).then(|| {
        Line::warn(
            name,
            format!("the refresh token is {days} days old; it dies after {LIFETIME_DAYS} days unused"),
            "b24proxy refresh, now, and weekly by cron",
        )
    })
}

/// What a transfer or an editor that meant well leaves in a file.
fn marks_of_a_transfer(bytes: &[u8]) -> Option<&'static str> {
    let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    if bytes.is_empty() {
        return None;
    }
    if bytes.iter().all(|byte| *byte == 0) {
        return Some("it holds zeros only, as after a power cut or an interrupted copy");
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Some("it is UTF-16, as a Windows editor saves it");
    }
    if bytes.starts_with(&[0xef, 0xbb, 0xbf]) {
        return Some("it begins with a byte-order mark, as a Windows editor saves it");
    }
    if has(b"\r\n") {
        return Some("it has the line ends of Windows, as after FTP in text mode");
    }
    (bytes.trim_ascii_end().last() != Some(&b'}')).then_some("its end is missing, as after an interrupted transfer")
}

/// Token files of portals that are not configured: perhaps a name is misspelt.
fn strays(config: &Config) -> Option<Line> {
    let names = Folder::new(&config.token_folder).strays(config.portals.iter().map(|portal| &portal.name));
    let first = names.first()?;
    Some(Line::warn(
        "token folder",
        format!("{first} is of no portal in proxy.toml ({} such)", names.len()),
        "check the names of the [portals.\"…\"] sections, or delete the file",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::line::Status;
    use super::*;

    #[test]
    fn what_a_transfer_does_to_a_file_is_recognized() {
        for (bytes, word) in [
            (&b"{\"a\": 1}\n"[..], None),
            (b"{\r\n\"a\":1}", Some("FTP")),
            (b"\xef\xbb\xbf{}", Some("byte-order")),
            (b"\xff\xfe{\0}\0", Some("UTF-16")),
            (b"{\"a\": ", Some("end")),
            (b"\0\0\0", Some("zeros")),
        ] {
            let marks = marks_of_a_transfer(bytes);
            assert_eq!(marks.is_some(), word.is_some(), "{bytes:?} {marks:?}");
            assert!(marks.unwrap_or("").contains(word.unwrap_or("")), "{bytes:?} {marks:?}");
        }
    }

    #[test]
    fn a_refresh_token_warns_after_150_days_and_fails_after_180() {
        let json =
            r#"{"client_endpoint":"","access_token":"a","refresh_token":"r","expires_at":1,"installed_at":86400}"#;
        let tokens: Tokens = serde_json::from_str(json).unwrap();
        let status = |days: i64| age("acme", &tokens, (days + 1) * DAY, "").map(|line| line.status);
        assert_eq!(status(149), None);
        assert_eq!(status(150), Some(Status::Warn));
        assert_eq!(status(180), Some(Status::Fail));
    }
}
