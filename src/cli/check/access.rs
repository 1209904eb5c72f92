//! What another user may do with the site's files, by owner and mode: for `check --user`, started by somebody who cannot
//! become that user.

use super::line::Line;
use crate::config::{Config, Surroundings};
use crate::system::user::{groups_of, name_of, typed};
use std::path::{Path, PathBuf};

const READ: u32 = 4;
const ENTER: u32 = 1;
const ALL: u32 = 7;

/// What decides about who may do what with a file.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Its last four octal digits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

#[cfg(unix)]
pub fn facts(path: &Path) -> Option<Facts> {
    use std::os::unix::fs::MetadataExt;
    let metadata = path.metadata().ok()?;
    Some(Facts { mode: metadata.mode() & 0o7777, uid: metadata.uid(), gid: metadata.gid() })
}

#[cfg(not(unix))]
pub fn facts(_: &Path) -> Option<Facts> {
    None
}

/// Whether the mode gives these rights to the user of that number and these groups.
fn may(facts: Facts, user: u32, groups: &[u32], rights: u32) -> bool {
    let given = match (facts.uid == user, groups.contains(&facts.gid)) {
        (true, _) => facts.mode >> 6,
        (false, true) => facts.mode >> 3,
        (false, false) => facts.mode,
    };
    user == 0 || given & rights == rights
}

/// `same`: this check as that user.
pub fn check(surroundings: &Surroundings, user: u32, same: &str) -> Vec<Line> {
    let Some(config) = surroundings.locate() else {
        return vec![Line::fail("configuration", "there is no proxy.toml", "copy proxy.toml.example, and fill it in")];
    };
    let text = std::fs::read_to_string(&config).unwrap_or_default();
    let tokens = Config::token_folder_in(&text, &config);
    let mut lines = Vec::new();
    lines.extend(judge("configuration", &config, user, READ));
    lines.extend(tokens.filter(|folder| folder.exists()).and_then(|folder| judge("token folder", &folder, user, ALL)));
    if lines.is_empty() {
        let text = format!("by owner and mode {} may use proxy.toml and the token folder", name_of(user));
        lines.push(Line::ok("user", text));
    }
    lines.push(Line::warn("user", format!("what else {} meets is not seen from here", name_of(user)), same));
    lines
}

/// The first thing on the way that keeps the user from it.
fn judge(check: &str, path: &Path, user: u32, rights: u32) -> Option<Line> {
    let (name, groups) = (name_of(user), groups_of(user));
    let mut folders: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
    folders.reverse();
    let barred = |folder: &&PathBuf| facts(folder).is_some_and(|facts| !may(facts, user, &groups, ENTER));
    if let Some(folder) = folders.iter().find(barred) {
        let folder = typed(folder);
        let text = format!("{name} cannot enter {folder}, so not use {}", path.display());
        return Some(Line::fail(check, text, format!("chmod a+x {folder}")));
    }
    let facts = facts(path)?;
    let shown = typed(path);
    if facts.uid != user {
        let text = format!("{shown} belongs to {}, not to {name}", name_of(facts.uid));
        let recursive = if rights == ALL { "-R " } else { "" };
        return Some(Line::fail(check, text, format!("chown {recursive}{name} {shown}")));
    }
    (!may(facts, user, &groups, rights)).then(|| {
        let mode = if rights == ALL { "700" } else { "600" };
        Line::fail(check, format!("{shown} has mode {:o}", facts.mode & 0o777), format!("chmod {mode} {shown}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owners_bits_count_for_the_owner_alone_and_the_groups_for_its_members() {
        let facts = |mode| Facts { uid: 33, gid: 50, mode };
        for (mode, user, groups, rights, expected) in [
            (0o600, 33, &[][..], READ, true),
            (0o600, 34, &[50], READ, false),
            (0o640, 34, &[50], READ, true),
            (0o640, 34, &[51], READ, false),
            (0o077, 33, &[50], READ, false),
            (0o711, 34, &[], ENTER, true),
            (0o700, 34, &[], ENTER, false),
            (0o500, 33, &[], ALL, false),
            (0o700, 33, &[], ALL, true),
            (0o000, 0, &[], ALL, true),
        ] {
            assert_eq!(may(facts(mode), user, groups, rights), expected, "{mode:o} {user}");
        }
    }
}
