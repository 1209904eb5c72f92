//! Started by root, a command goes on as the user whom the site belongs to.
//!
//! Not "write as root and chown afterwards": between the two the web server's runs would meet a lock that is not theirs,
//! and a folder that a user can write to is no place for root to create or chown files in (a symbolic link there leads
//! anywhere). As that user, `check` also sees what the web server's runs see; root may read and write everything.

#[cfg(unix)]
use super::command;
use super::command::Failure;
use super::terminal;
use std::fs::File;

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

#[cfg(not(unix))]
pub fn go_on_as_the_sites_user(_: &[std::ffi::OsString], _: Option<&str>) -> Result<(), Failure> {
    Ok(())
}

#[cfg(unix)]
pub use unix::go_on_as_the_sites_user;

#[cfg(unix)]
mod unix {
    use super::{command::surroundings, Failure, HANDED_OVER};
    use crate::config::Config;
    use crate::system::disk::own_executable;
    use crate::system::user::{account, name_of};
    use anyhow::{anyhow, Context};
    use std::ffi::OsString;
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::{Command, Stdio};

    /// `reads`: the file that this command reads. Returns where there is nothing to change: not root, no configuration, or everything is root's own.
    pub fn go_on_as_the_sites_user(words: &[OsString], reads: Option<&str>) -> Result<(), Failure> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let Some(config) = surroundings().locate() else { return Ok(()) };
        let Some((user, group)) = sites_user(&config) else { return Ok(()) };
        let mut command = Command::new(own_executable().context("this program's own file cannot be found")?);
        command.args(words).env("B24PROXY_CONFIG", &config).uid(user).gid(group).current_dir("/");
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

    /// User and group: the configuration's owner, because only as that user (or root) it may be used; where that is
    /// root, the owner of the token folder, and where there is none yet, of the configuration's folder.
    fn sites_user(config: &Path) -> Option<(u32, u32)> {
        let tokens = std::fs::read_to_string(config)
            .ok()
            .and_then(|text| Config::parse(&text, config).ok())
            .map(|config| config.token_folder);
        let places = [Some(config.to_owned()), tokens, config.parent().map(Path::to_owned)];
        let owner = places.into_iter().flatten().filter_map(|path| path.metadata().ok()).find(|m| m.uid() != 0)?;
        let group = account(owner.uid()).map_or(owner.gid(), |account| account.group);
        Some((owner.uid(), group))
    }
}
