//! The token folder: owner and modes, space, file system and locks.

use super::line::Line;
use crate::app::App;
use crate::store::file::{Folder, RESERVED};
use crate::store::Store;
use crate::system::disk::{explain, open_or_create};
use crate::system::user::{name_of, typed};
use crate::values::secret::random_hex;
use fs2::FileExt;
use std::io::Write;
use std::path::{Path, PathBuf};

const CHECK: &str = "token folder";
const LITTLE_SPACE: u64 = 16 << 20;
const FEW_INODES: u64 = 200;

pub fn check(app: &App) -> Vec<Line> {
    let folder = &app.config.token_folder;
    // As the first call does, it makes the folder.
    if let Err(why) = Folder::new(folder).check() {
        return vec![Line::reason(CHECK, &why)];
    }
    let mut lines = owner_and_modes(folder);
    lines.push(writing(folder));
    lines.extend(space(folder));
    lines.push(locks(folder));
    lines.extend(file_system(folder));
    lines
}

#[cfg(unix)]
fn owner_and_modes(folder: &Path) -> Vec<Line> {
    use std::os::unix::fs::MetadataExt;
    let (Ok(metadata), Some(me)) = (folder.metadata(), crate::system::user::own()) else { return Vec::new() };
    let mut lines = judge_owner(folder, metadata.mode() & 0o7777, metadata.uid(), me);
    // Where the folder is another's, they follow from it.
    if !lines.iter().any(Line::fails) {
        lines.extend(others_files(folder, me));
    }
    lines
}

#[cfg(not(unix))]
fn owner_and_modes(_: &Path) -> Vec<Line> {
    Vec::new()
}

fn judge_owner(folder: &Path, mode: u32, owner: u32, me: u32) -> Vec<Line> {
    let path = typed(folder);
    let mut lines = Vec::new();
    if mode & 0o055 != 0 {
        let text = format!("others can look into {path} (mode {mode:o})");
        lines.push(Line::warn(CHECK, text, format!("chmod 700 {path}")));
    }
    if owner != me {
        lines.push(Line::fail(
            CHECK,
            format!("{path} belongs to {}, and this runs as {}", name_of(owner), name_of(me)),
            format!("chown -R {} {path}", name_of(me)),
        ));
    }
    if lines.is_empty() {
        lines.push(Line::ok(CHECK, format!("{path} (mode {mode:o}), as user {}", name_of(me))));
    }
    lines
}

/// Files of another user here: a lock that cannot be opened stops every refresh.
#[cfg(unix)]
fn others_files(folder: &Path, me: u32) -> Vec<Line> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.uid() != me {
                found.push((entry.path(), metadata.uid()));
            } else if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    let count = found.len();
    let Some((path, owner)) = found.into_iter().min() else { return Vec::new() };
    let others = if count > 1 { format!(", and {} more", count - 1) } else { String::new() };
    vec![Line::fail(
        CHECK,
        format!("{} belongs to {}, not to {}{others}", path.display(), name_of(owner), name_of(me)),
        format!("chown -R {} {}", name_of(me), typed(folder)),
    )]
}

/// A file for a moment, removed when dropped.
struct Trial(PathBuf);

impl Trial {
    fn new(folder: &Path) -> Trial {
        Trial(folder.join(format!(".check-{}", random_hex::<8>())))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Quotas show only when something is written.
fn writing(folder: &Path) -> Line {
    let trial = Trial::new(folder);
    let written = open_or_create(&trial.0).and_then(|mut file| {
        file.write_all(&vec![b' '; RESERVED])?;
        file.sync_all()
    });
    match written {
        Ok(()) => Line::ok("writing", "a file could be written and synced"),
        Err(error) => Line::fail("writing", explain(&error, "write", &trial.0), "then check again"),
    }
}

#[cfg(unix)]
fn space(folder: &Path) -> Vec<Line> {
    let Ok(fs) = rustix::fs::statvfs(folder) else { return Vec::new() };
    // A file system that does not count inodes says 0.
    let inodes = (fs.f_files > 0).then_some(fs.f_favail);
    judge_space(fs.f_bavail.saturating_mul(fs.f_frsize), inodes)
}

#[cfg(not(unix))]
fn space(_: &Path) -> Vec<Line> {
    Vec::new()
}

fn judge_space(bytes: u64, inodes: Option<u64>) -> Vec<Line> {
    let mib = bytes >> 20;
    let mut lines = Vec::new();
    if bytes < LITTLE_SPACE {
        let text = format!("only {mib} MiB are left on the disk of the token folder");
        lines.push(Line::warn("space", text, "free some space: with none left no token can be renewed"));
    }
    if let Some(inodes) = inodes.filter(|inodes| *inodes < FEW_INODES) {
        let text = format!("only {inodes} inodes (files) are left on the disk of the token folder");
        lines.push(Line::warn("space", text, "delete some files, such as old sessions, caches and mail"));
    }
    if lines.is_empty() {
        lines.push(Line::ok("space", format!("{mib} MiB free")));
    }
    lines
}

/// Two open files of one name: the second lock must be refused.
fn locks(folder: &Path) -> Line {
    let trial = Trial::new(folder);
    let opened = open_or_create(&trial.0).and_then(|first| Ok((first, open_or_create(&trial.0)?)));
    let (first, second) = match opened {
        Ok(pair) => pair,
        Err(error) => return Line::fail("locks", explain(&error, "open", &trial.0), ""),
    };
    let taken = FileExt::try_lock_exclusive(&first).map_err(|error| error.to_string());
    judge_locks(taken, FileExt::try_lock_exclusive(&second).is_ok())
}

/// `taken`: the first lock. `twice`: a second one was given while it was held.
fn judge_locks(taken: Result<(), String>, twice: bool) -> Line {
    const CURE: &str =
        "set [storage] path to a folder on a local disk, or mount NFS with locks (without nolock, and with \
                        lockd running at the server)";
    match (taken, twice) {
        (Ok(()), false) => Line::ok("locks", "a second lock is refused while the first is held"),
        (Ok(()), true) => Line::fail(
            "locks",
            "this file system gives a lock to two at once: two refreshes at a time would lose the tokens",
            CURE,
        ),
        (Err(error), _) => Line::fail("locks", format!("this file system has no locks ({error})"), CURE),
    }
}

#[cfg(target_os = "linux")]
fn file_system(folder: &Path) -> Vec<Line> {
    match rustix::fs::statfs(folder) {
        // The field's type differs between architectures; the magic numbers have 32 bits.
        Ok(fs) => vec![judge_file_system(fs.f_type as u32)],
        Err(_) => Vec::new(),
    }
}

#[cfg(not(target_os = "linux"))]
fn file_system(_: &Path) -> Vec<Line> {
    Vec::new()
}

/// By the magic numbers of statfs(2).
fn judge_file_system(magic: u32) -> Line {
    const CHECK: &str = "file system";
    let name = match magic {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0x794c_7630 => "overlay",
        0x0102_1994 => "tmpfs",
        0x6969 => "NFS",
        0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x6573_5546 => "FUSE",
        0x00c3_6400 => "ceph",
        0x0bd0_0bd0 => "lustre",
        other => return Line::ok(CHECK, format!("type {other:#x}")),
    };
    match name {
        "NFS" => Line::warn(
            CHECK,
            "NFS: the lock test above sees this machine only",
            "if several machines run this program on one folder, make sure that NFS is mounted without nolock and \
             local_lock (nfs(5))",
        ),
        "SMB" | "FUSE" => Line::warn(
            CHECK,
            format!("{name}: locks may hold within this machine only"),
            "if there is a local disk, set [storage] path to a folder on it",
        ),
        "tmpfs" => Line::warn(
            CHECK,
            "tmpfs lives in memory: the tokens are gone when this machine restarts",
            "set [storage] path to a folder on a disk",
        ),
        name => Line::ok(CHECK, name),
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::Status;
    use super::*;

    #[test]
    fn a_folder_that_others_can_read_warns_and_another_users_fails() {
        let status = |mode, owner, me| {
            let lines = judge_owner(Path::new("/t"), mode, owner, me);
            lines.iter().map(|line| line.status).collect::<Vec<_>>()
        };
        assert_eq!(status(0o700, 1, 1), [Status::Ok]);
        assert_eq!(status(0o755, 1, 1), [Status::Warn]);
        assert_eq!(status(0o700, 2, 1), [Status::Fail]);
    }

    #[test]
    fn locks_that_do_not_exclude_are_a_failure() {
        assert_eq!(judge_locks(Ok(()), false).status, Status::Ok);
        assert_eq!(judge_locks(Ok(()), true).status, Status::Fail);
        assert_eq!(judge_locks(Err("No locks available".into()), false).status, Status::Fail);
    }

    #[test]
    fn little_space_and_few_inodes_warn() {
        let count =
            |bytes, inodes| judge_space(bytes, inodes).iter().filter(|line| line.status == Status::Warn).count();
        assert_eq!(count(1 << 30, Some(100_000)), 0);
        assert_eq!(count(1 << 30, None), 0);
        assert_eq!(count(1 << 20, Some(3)), 2);
    }

    #[test]
    fn file_systems_whose_locks_or_files_may_be_lost_warn() {
        assert_eq!(judge_file_system(0xef53).status, Status::Ok);
        assert_eq!(judge_file_system(1).status, Status::Ok);
        for magic in [0x6969, 0xff53_4d42, 0x6573_5546, 0x0102_1994] {
            assert_eq!(judge_file_system(magic).status, Status::Warn, "{magic:#x}");
        }
    }
}
