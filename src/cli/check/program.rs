//! The executable and `proxy.toml`.

use super::Line;
use crate::config::{Config, Surroundings, Way};
use crate::user::name_of;
use std::path::Path;

/// What decides about starting an executable.
#[derive(Clone, Copy, Debug)]
struct Facts {
    mode: u32,
    uid: u32,
    gid: u32,
}

#[cfg(unix)]
fn facts(path: &Path) -> Option<Facts> {
    use std::os::unix::fs::MetadataExt;
    let metadata = path.metadata().ok()?;
    Some(Facts { mode: metadata.mode() & 0o7777, uid: metadata.uid(), gid: metadata.gid() })
}

#[cfg(not(unix))]
fn facts(_: &Path) -> Option<Facts> {
    None
}

pub fn executable(path: Option<&Path>) -> Vec<Line> {
    let Some(path) = path else { return Vec::new() };
    let folder = path.parent().unwrap_or(Path::new("/"));
    match (facts(path), facts(folder)) {
        (Some(file), Some(above)) => suexec(path, file, folder, above),
        _ => Vec::new(),
    }
}

/// Apache's suexec refuses to start, with a bare "500", what others could have changed or what is not its owner's
/// (httpd.apache.org/docs/2.4/suexec.html, "suEXEC Security Model", 8 to 20).
fn suexec(path: &Path, file: Facts, folder: &Path, above: Facts) -> Vec<Line> {
    const CHECK: &str = "executable";
    let (path, folder) = (path.display(), folder.display());
    let mut lines = Vec::new();
    for (facts, what) in [(file, path.to_string()), (above, folder.to_string())] {
        // In a folder such as /tmp the sticky bit keeps others from replacing it.
        if facts.mode & 0o1002 == 0o002 {
            lines.push(Line::fail(
                CHECK,
                format!(
                    "anybody on this machine can replace it: {what} is writable for others (mode {:o})",
                    facts.mode
                ),
                format!("chmod 755 {what}"),
            ));
        } else if facts.mode & 0o022 != 0 {
            lines.push(Line::warn(
                CHECK,
                format!("{what} is writable for its group (mode {:o}); suexec answers \"500\" to that", facts.mode),
                format!("chmod 755 {what}"),
            ));
        }
    }
    if file.mode & 0o6000 != 0 {
        lines.push(Line::fail(
            CHECK,
            format!("{path} has the setuid or setgid bit, which suexec refuses and this program never needs"),
            format!("chmod 755 {path}"),
        ));
    }
    if file.mode & 0o001 == 0 {
        lines.push(Line::warn(
            CHECK,
            format!("{path} can be started by its owner or group only (mode {:o})", file.mode),
            format!("chmod 755 {path}, unless the web server runs it as user {}", name_of(file.uid)),
        ));
    }
    if (file.uid, file.gid) != (above.uid, above.gid) {
        let (user, group) = (name_of(above.uid), above.gid);
        lines.push(Line::warn(
            CHECK,
            format!("{path} and its folder have different owners; suexec answers \"500\" to that"),
            format!("chown {user}:{group} {path}"),
        ));
    }
    if lines.is_empty() {
        lines.push(Line::ok(CHECK, format!("{path} (mode {:o})", file.mode)));
    }
    lines
}

pub fn configuration(surroundings: &Surroundings, loaded: Result<&Config, &String>) -> Vec<Line> {
    const CHECK: &str = "configuration";
    let config = match loaded {
        Err(why) => return vec![Line::reason(CHECK, why)],
        Ok(config) => config,
    };
    let path = config.path.display();
    let (portals, clients) = (config.portals.len(), config.clients.len());
    let mut lines = vec![Line::ok(CHECK, format!("{path}; portals: {portals}, clients: {clients}"))];
    let without = Surroundings { named: None, ..surroundings.clone() };
    if surroundings.named.is_some() && without.locate().as_deref() != Some(&config.path) {
        lines.push(Line::warn(
            CHECK,
            format!("{path} is found through $B24PROXY_CONFIG only"),
            "set it for the web server too (suexec passes none on), or move the file to where the search finds it",
        ));
    }
    if portals == 0 {
        lines.push(Line::fail(
            CHECK,
            "no portal is configured",
            format!("add [portals.\"acme.bitrix24.ru\"] to {path}"),
        ));
    }
    if clients == 0 {
        lines.push(Line::fail(CHECK, "no client is configured: every call is refused", "b24proxy token"));
    }
    let installs = config.portals.iter().any(|portal| matches!(portal.way, Way::OAuth(_)));
    if installs && config.bitrix24.redirect_uri.is_none() {
        lines.push(Line::warn(
            CHECK,
            "redirect_uri is not set, so nobody can install in a browser",
            "set it under [bitrix24] to this program's public address, as in the application's settings",
        ));
    }
    for (what, place) in [("the configuration", config.path.as_path()), ("the token folder", &config.token_folder)] {
        if let Some(public) = public_part(place) {
            lines.push(Line::warn(
                CHECK,
                format!(
                    "{what} {} lies in {public}, which looks like a folder that the web server hands out",
                    place.display()
                ),
                "move it above that folder, to a folder b24proxy beside it",
            ));
        }
    }
    if let Some(file) = &config.log.file {
        let opened = std::fs::OpenOptions::new().append(true).open(file);
        match opened {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => lines.push(Line::warn(
                "log",
                format!("{} cannot be written ({error})", file.display()),
                "mend its owner or path; until then the web server's error log is used",
            )),
            Err(_) if !file.parent().is_some_and(Path::is_dir) => lines.push(Line::warn(
                "log",
                format!("the folder of {} does not exist", file.display()),
                "make it; until then the web server's error log is used",
            )),
            _ => lines.push(Line::ok("log", file.display().to_string())),
        }
    }
    lines
}

/// A folder in this path whose name hosts give to what they hand out.
fn public_part(path: &Path) -> Option<&str> {
    const NAMES: [&str; 7] = ["public_html", "httpdocs", "htdocs", "html", "public", "webroot", "wwwroot"];
    let parts = path.parent()?.components().filter_map(|part| part.as_os_str().to_str());
    parts.into_iter().find(|part| NAMES.contains(part))
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn of(file: u32, above: u32, owners: (u32, u32)) -> Vec<(Status, String)> {
        let facts = |mode, uid| Facts { mode, uid, gid: uid };
        let lines = suexec(Path::new("/c/b24proxy"), facts(file, owners.0), Path::new("/c"), facts(above, owners.1));
        lines.into_iter().map(|line| (line.status, line.text + &line.cure)).collect()
    }

    #[test]
    fn what_suexec_refuses_is_named() {
        assert_eq!(of(0o755, 0o755, (1, 1))[0].0, Status::Ok);
        let cases = [
            (of(0o757, 0o755, (1, 1)), Status::Fail, "chmod 755 /c/b24proxy"),
            (of(0o775, 0o755, (1, 1)), Status::Warn, "chmod 755 /c/b24proxy"),
            (of(0o755, 0o777, (1, 1)), Status::Fail, "chmod 755 /c"),
            (of(0o755, 0o775, (1, 1)), Status::Warn, "chmod 755 /c"),
            (of(0o4755, 0o755, (1, 1)), Status::Fail, "setuid"),
            (of(0o700, 0o755, (1, 1)), Status::Warn, "owner"),
            (of(0o755, 0o755, (0, 61234)), Status::Warn, "chown 61234:61234 /c/b24proxy"),
        ];
        for (lines, status, word) in cases {
            assert!(lines.len() == 1 && lines[0].0 == status && lines[0].1.contains(word), "{lines:?}");
        }
    }

    #[test]
    fn folders_that_are_handed_out_are_known_by_name() {
        assert_eq!(public_part(Path::new("/home/u/public_html/b24proxy/proxy.toml")), Some("public_html"));
        assert_eq!(public_part(Path::new("/var/www/html/cgi-bin/proxy.toml")), Some("html"));
        assert_eq!(public_part(Path::new("/var/www/b24proxy/proxy.toml")), None);
        assert_eq!(public_part(Path::new("/home/u/b24proxy/proxy.toml")), None);
    }
}
