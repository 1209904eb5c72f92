//! Users of this machine: their names, and the commands that give one what belongs to another.

use std::path::Path;

/// A user's name and group id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub group: u32,
}

/// As `/etc/passwd` has it; users of a directory service (LDAP) are not found.
pub fn account(user: u32) -> Option<Account> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let (id, group) = (fields.nth(1)?, fields.next()?);
        (id.parse() == Ok(user)).then(|| Some(Account { name: name.to_owned(), group: group.parse().ok()? }))?
    })
}

/// A user's number, of a name or a number.
pub fn number_of(name: &str) -> Option<u32> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let known = text
        .lines()
        .map(|line| line.split(':'))
        .find_map(|mut fields| (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?);
    known.or_else(|| name.parse().ok())
}

/// The groups of a user, as `/etc/passwd` and `/etc/group` have them.
pub fn groups_of(user: u32) -> Vec<u32> {
    let Some(account) = account(user) else { return Vec::new() };
    let text = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let is_member = fields.get(3)?.split(',').any(|name| name == account.name);
        is_member.then(|| fields[2].parse().ok())?
    };
    text.lines().filter_map(of_line).chain([account.group]).collect()
}

/// `www-data`, or the number.
pub fn name_of(user: u32) -> String {
    account(user).map_or(user.to_string(), |account| account.name)
}

/// As whom this program runs; `None` on systems that do not number users.
#[cfg(unix)]
pub fn own() -> Option<u32> {
    Some(rustix::process::geteuid().as_raw())
}

#[cfg(not(unix))]
pub fn own() -> Option<u32> {
    None
}

/// Whether this is the name of a user as whom web servers run the programs of everybody.
pub fn is_shared(name: &str) -> bool {
    [
        "www-data",
        "apache",
        "apache2",
        "nginx",
        "nobody",
        "http",
        "httpd",
        "daemon",
        "www",
        "_www",
        "wwwrun",
        "litespeed",
    ]
    .contains(&name)
}

/// A path as it is typed in a shell.
pub fn typed(path: &Path) -> String {
    let path = path.display().to_string();
    match path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+:@%,=".contains(&b)) {
        true => path,
        false => format!("'{}'", path.replace('\'', "'\\''")),
    }
}

/// What keeps this user from something.
pub struct Barrier {
    pub why: String,
    /// What mends it.
    pub command: String,
    /// It belongs to another user; otherwise its mode or that of a folder above keeps this one out.
    pub is_anothers: bool,
}

/// `None` where permissions do not show what it is.
pub fn barrier(path: &Path) -> Option<Barrier> {
    #[cfg(unix)]
    return unix::barred_folder(path).or_else(|| unix::not_own(path));
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

#[cfg(unix)]
mod unix {
    use super::{name_of, own, typed, Barrier};
    use rustix::fs::{accessat, Access, AtFlags, CWD};
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    /// The first folder on the way that cannot be entered: whatever lies below it, mending that is of no use yet.
    pub(super) fn barred_folder(path: &Path) -> Option<Barrier> {
        let mut folders: Vec<&Path> = path.ancestors().skip(1).collect();
        folders.reverse();
        let is_barred = |folder: &&Path| {
            accessat(CWD, *folder, Access::EXEC_OK, AtFlags::EACCESS) == Err(rustix::io::Errno::ACCESS)
        };
        let folder = folders.into_iter().find(is_barred)?;
        // To enter is not to look into: what lies there keeps its own permissions.
        let who = if folder.metadata().ok()?.uid() == own()? { "u" } else { "a" };
        let folder = typed(folder);
        Some(Barrier {
            why: format!("the folder {folder} cannot be entered"),
            command: format!("chmod {who}+x {folder}"),
            is_anothers: false,
        })
    }

    /// The thing itself or the folder that it is made in.
    pub(super) fn not_own(path: &Path) -> Option<Barrier> {
        let me = own()?;
        [path, path.parent()?].into_iter().find_map(|thing| {
            let metadata = thing.metadata().ok()?;
            let (own_mode, folder) =
                if metadata.is_dir() { (0o700, thing) } else { (0o600, thing.parent().unwrap_or(thing)) };
            let (what, folder) = (typed(thing), typed(folder));
            if metadata.uid() != me {
                return Some(Barrier {
                    why: format!("{what} belongs to {}", name_of(metadata.uid())),
                    command: format!("chown -R {} {folder}", name_of(me)),
                    is_anothers: true,
                });
            }
            let mode = metadata.mode() & 0o777;
            (mode & own_mode != own_mode).then(|| Barrier {
                why: format!("{what} has mode {mode:o}"),
                command: format!("chmod {own_mode:o} {what}"),
                is_anothers: false,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_command_is_quoted_where_a_shell_would_part_it() {
        assert_eq!(typed(Path::new("/home/u/b24proxy-1.0")), "/home/u/b24proxy-1.0");
        assert_eq!(typed(Path::new("/my site/$HOME")), "'/my site/$HOME'");
        assert_eq!(typed(Path::new("/it's")), "'/it'\\''s'");
    }
}
