//! As whom a command works: the user as whom the web server runs the program. Started by root, a command goes on as that
//! user; another one is told who it is.
//!
//! Not "write as root and chown afterwards": between the two the web server's runs would meet a lock that is not theirs,
//! and a folder that a user can write to is no place for root to create or chown files in (a symbolic link there leads
//! anywhere). As that user, `check` also sees what the web server's runs see; root may read and write everything.

#[cfg(unix)]
use super::command;
use super::command::Failure;
use super::terminal;
use crate::system::user::{name_of, typed};
use std::fs::File;
use std::path::Path;

/// Set where root hands the opened file over as standard input.
const HANDED_OVER: &str = "B24PROXY_FILE_ON_STDIN";

/// Opens a file that the command line names; "-" is standard input.
#[cfg(unix)]
pub fn open(name: &str) -> std::io::Result<File> {
    use std::os::fd::AsFd;
    if name == "-" || terminal::variable(HANDED_OVER).is_some() {
        return Ok(File::from(terminal::input().as_fd().try_clone_to_owned()?));
    }
    File::open(name)
}

#[cfg(not(unix))]
pub fn open(name: &str) -> std::io::Result<File> {
    File::open(name)
}

/// Set where root has started a command that goes on as another user.
const BY_ROOT: &str = "B24PROXY_STARTED_BY_ROOT";

/// Whether root has started this, as whatever user it goes on.
pub fn is_started_by_root() -> bool {
    crate::system::user::own() == Some(0) || terminal::variable(BY_ROOT).is_some()
}

/// A user who may not use the site's files, and should not be given them.
#[derive(Debug, PartialEq, Eq)]
pub struct Foreigner {
    pub why: String,
    /// The same command, as the site's user.
    pub command: String,
}

/// This command, as another user types it.
pub fn as_user(user: u32, words: &[std::ffi::OsString]) -> String {
    let surroundings = super::command::surroundings();
    let mut command = vec!["sudo -u".to_owned(), name_of(user)];
    if let Some(config) = &surroundings.named {
        let config = std::path::absolute(config).unwrap_or_else(|_| config.clone());
        command.push(format!("env B24PROXY_CONFIG={}", typed(&config)));
    }
    command.push(surroundings.executable.as_deref().map_or("b24proxy".into(), typed));
    command.extend(words.iter().map(|word| typed(Path::new(word))));
    command.join(" ")
}

#[cfg(not(unix))]
pub fn foreigner(_: &[std::ffi::OsString]) -> Option<Foreigner> {
    None
}

#[cfg(not(unix))]
pub fn go_on_as_the_sites_user(_: &[std::ffi::OsString], _: Option<&str>, _: Option<u32>) -> Result<(), Failure> {
    Ok(())
}

#[cfg(unix)]
pub use unix::{foreigner, go_on_as_the_sites_user};

#[cfg(unix)]
mod unix {
    use super::{as_user, command::surroundings, Failure, Foreigner, BY_ROOT, HANDED_OVER};
    use crate::config::Config;
    use crate::system::disk::own_executable;
    use crate::system::user::{account, name_of, own};
    use anyhow::{anyhow, Context};
    use std::ffi::OsString;
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::{Command, Stdio};

    /// `reads`: the file that this command reads. `named`: the user whom the command line names. Returns where there is nothing
    /// to change: not root, no configuration, or everything is root's own.
    pub fn go_on_as_the_sites_user(words: &[OsString], reads: Option<&str>, named: Option<u32>) -> Result<(), Failure> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let Some(config) = surroundings().locate() else { return Ok(()) };
        let Some(user) = named.or_else(|| Owners::of(&config).sites_user()).filter(|user| *user != 0) else {
            return Ok(());
        };
        let group = account(user).map_or(user, |account| account.group);
        let mut command = Command::new(own_executable().context("this program's own file cannot be found")?);
        command.args(words).env("B24PROXY_CONFIG", &config).env(BY_ROOT, "1").uid(user).gid(group).current_dir("/");
        // That user perhaps cannot read it, and a relative path leads elsewhere for it.
        if let Some(path) = reads.filter(|file| *file != "-") {
            let file = File::open(path).with_context(|| format!("{path} cannot be read"))?;
            command.stdin(Stdio::from(file)).env(HANDED_OVER, "1");
        }
        let error = command.exec();
        Err(Failure::Wrong(anyhow!(
            "started by root, it must go on as user {}, whom the site belongs to, but that fails ({error}): start it as \
             that user",
            name_of(user)
        )))
    }

    /// To give this user the files would take the site from the one as whom the web server runs the program.
    pub fn foreigner(words: &[OsString]) -> Option<Foreigner> {
        let (me, config) = (own()?, surroundings().locate()?);
        let owners = Owners::of(&config);
        if config.metadata().is_err_and(|error| error.kind() != std::io::ErrorKind::PermissionDenied) {
            return None;
        }
        let user = owners.sites_user().filter(|user| *user != 0 && *user != me && me != 0)?;
        let name = name_of(user);
        let why = format!(
            "{} and the token folder are {name}'s, as whom the web server runs the program, and this runs as {}",
            config.display(),
            name_of(me)
        );
        Some(Foreigner { why, command: as_user(user, words) })
    }

    /// Whose the site's files are, as far as they are there and can be looked at.
    #[derive(Clone, Copy, Debug, Default)]
    struct Owners {
        config: Option<u32>,
        folder: Option<u32>,
        tokens: Option<u32>,
    }

    impl Owners {
        fn of(config: &Path) -> Owners {
            let owner = |path: &Path| path.metadata().ok().map(|metadata| metadata.uid());
            let folder = config.parent();
            // Where the configuration cannot be read, it is perhaps the usual folder.
            let tokens = std::fs::read_to_string(config)
                .ok()
                .and_then(|text| Config::token_folder_in(&text, config))
                .or_else(|| Some(folder?.join("tokens")));
            Owners { config: owner(config), folder: folder.and_then(owner), tokens: tokens.as_deref().and_then(owner) }
        }

        /// Whom most belongs to; where no two agree, the owner of the token folder, which the program makes itself. What is
        /// root's was made by hand: the web server runs nothing as root. Only where all is root's, it is root.
        fn sites_user(self) -> Option<u32> {
            let all = [self.tokens, self.config, self.folder];
            let others: Vec<u32> = all.into_iter().flatten().filter(|user| *user != 0).collect();
            let twice = others.iter().find(|user| others.iter().filter(|other| other == user).count() > 1);
            twice.or(others.first()).copied().or_else(|| all.into_iter().flatten().next())
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_sites_user_is_whom_most_belongs_to_and_root_only_where_all_is_roots() {
            let user = |config: u32, folder: u32, tokens: Option<u32>| {
                Owners { config: Some(config), folder: Some(folder), tokens }.sites_user()
            };
            assert_eq!(user(33, 33, Some(33)), Some(33));
            assert_eq!(user(1000, 33, Some(33)), Some(33), "copied there by somebody");
            assert_eq!(user(33, 33, Some(12_345)), Some(33));
            assert_eq!(user(0, 0, Some(33)), Some(33));
            assert_eq!(user(0, 33, None), Some(33));
            assert_eq!(user(1000, 0, Some(33)), Some(33));
            assert_eq!(user(1000, 0, Some(0)), Some(1000), "root's left-over folder");
            assert_eq!(user(0, 0, Some(0)), Some(0));
            assert_eq!(Owners { folder: Some(33), ..Owners::default() }.sites_user(), Some(33), "closed to others");
            assert_eq!(Owners::default().sites_user(), None);
        }
    }
}
