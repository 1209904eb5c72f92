//! Files and folders that only their owner may look into, and what went wrong with them, for a person; and this
//! program's own file.

use crate::system::refusal::refused;
use crate::system::user::{self, typed};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Why something on the disk cannot be used, for the administrator's log.
pub type Reason = String;

const MAKE_FOLDER: &str = "make the folder";

/// Makes a folder that only its owner may look into, and those above it; one that is there stays as it is.
pub fn create_private_folder(folder: &Path) -> Result<(), Reason> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(|e| explain(&e, MAKE_FOLDER, folder))
}

/// A file for reading and writing that only its owner may open; made if need be. What stands there already must be a file of
/// this user or root, without another name: a hard link may be to any file.
pub fn open_or_create(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    private(&mut options);
    let (file, metadata) = open_itself(&mut options, path)?;
    match (is_anothers(&metadata), has_other_names(&metadata)) {
        (true, _) => Err(unfit("it belongs to another user")),
        (_, true) => Err(unfit("it has another name too, a hard link")),
        _ => Ok(file),
    }
}

/// A file that this program may have made, for reading.
pub fn open_to_read(path: &Path) -> std::io::Result<File> {
    open_to_look(path).map(|(file, _)| file)
}

/// The same, with what it is.
pub fn open_to_look(path: &Path) -> std::io::Result<(File, Metadata)> {
    open_itself(OpenOptions::new().read(true), path)
}

/// What is in a file from here on, at most so many bytes; of a small one in one step.
pub fn read_at_once(mut file: &File, most: usize) -> std::io::Result<Vec<u8>> {
    const SMALL: usize = 4 << 10;
    let mut bytes = vec![0; SMALL.min(most)];
    let count = file.read(&mut bytes)?;
    let is_all = count < bytes.len() || count == most;
    bytes.truncate(count);
    if !is_all {
        file.take((most - count) as u64).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Opens the file that stands at `path` itself: not through a link, which leads where its maker likes, and not something
/// that makes its reader wait, such as a pipe.
fn open_itself(options: &mut OpenOptions, path: &Path) -> std::io::Result<(File, Metadata)> {
    not_through_a_link(options);
    match options.open(path) {
        Ok(file) => {
            let metadata = file.metadata()?;
            if metadata.is_file() {
                Ok((file, metadata))
            } else {
                Err(unfit("it is not a file"))
            }
        }
        Err(_) if is_link(path) => Err(unfit("it is a link")),
        Err(error) => Err(error),
    }
}

pub fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink())
}

/// What is opened with these is never reached through a link at the last part of its path, and never waited for.
#[cfg(unix)]
pub fn not_through_a_link(options: &mut OpenOptions) {
    set_flags(options, rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK);
}

#[cfg(not(unix))]
pub fn not_through_a_link(_: &mut OpenOptions) {}

/// What is opened with these is never waited for, as a pipe without another end would be.
#[cfg(unix)]
pub fn not_waiting(options: &mut OpenOptions) {
    set_flags(options, rustix::fs::OFlags::NONBLOCK);
}

#[cfg(not(unix))]
pub fn not_waiting(_: &mut OpenOptions) {}

#[cfg(unix)]
fn set_flags(options: &mut OpenOptions, flags: rustix::fs::OFlags) {
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, flags.bits() as i32);
}

/// What stands there is not what this program makes; told from the system's errors by its kind ([`explain`]).
fn unfit(why: &str) -> std::io::Error {
    std::io::Error::new(ErrorKind::InvalidInput, why)
}

/// Whether a user other than this one and root can change it.
#[cfg(unix)]
pub fn is_anothers(metadata: &Metadata) -> bool {
    let owner = std::os::unix::fs::MetadataExt::uid(metadata);
    owner != 0 && user::own() != Some(owner)
}

#[cfg(not(unix))]
pub fn is_anothers(_: &Metadata) -> bool {
    false
}

#[cfg(unix)]
fn has_other_names(metadata: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(metadata) > 1
}

#[cfg(not(unix))]
fn has_other_names(_: &Metadata) -> bool {
    false
}

/// Refuses a folder in which others could put files and links, or replace what is there. One that is not there yet is
/// nobody's.
#[cfg(unix)]
pub fn refuse_writable_by_others(folder: &Path) -> Result<(), Reason> {
    use std::os::unix::fs::MetadataExt;
    let (Ok(metadata), Some(me)) = (folder.metadata(), user::own()) else { return Ok(()) };
    let path = typed(folder);
    if is_anothers(&metadata) {
        let (owner, me) = (user::name_of(metadata.uid()), user::name_of(me));
        return Err(format!(
            "the token folder {path} belongs to {owner}, but this program runs as {me}: chown -R {me} {path}"
        ));
    }
    if metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    // Of a folder of root's this user has perhaps only the group's right.
    let command = match metadata.uid() == me {
        true => format!("chmod 700 {path}"),
        false => format!("chown -R {} {path} && chmod 700 {path}", user::name_of(me)),
    };
    Err(format!(
        "the token folder {path} can be written to by others than its owner (mode {:o}), who could put tokens or links \
         there: {command}",
        metadata.mode() & 0o7777
    ))
}

#[cfg(not(unix))]
pub fn refuse_writable_by_others(_: &Path) -> Result<(), Reason> {
    Ok(())
}

/// As [`open_or_create`], in a folder that is made too if need be.
pub fn open_or_create_in_folder(path: &Path) -> Result<File, Reason> {
    match (open_or_create(path), path.parent()) {
        (Err(error), Some(folder)) if error.kind() == ErrorKind::NotFound => {
            create_private_folder(folder)?;
            open_or_create(path)
        }
        (opened, _) => opened,
    }
    .map_err(|e| explain(&e, "open for writing", path))
}

/// Writes a file beside its place, whole and synced, and renames it over what stands there.
pub fn put_in_place(
    new: &Path,
    place: &Path,
    write: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> Result<(), Reason> {
    // Left by one that was broken off.
    let _ = std::fs::remove_file(new);
    let mut file = open_or_create_in_folder(new)?;
    write(&mut file).and_then(|()| file.sync_all()).map_err(|e| explain(&e, "write", new))?;
    std::fs::rename(new, place).map_err(|e| explain(&e, "replace", place))
}

/// Only its owner may open a file that is made with these.
#[cfg(unix)]
pub fn private(options: &mut OpenOptions) {
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
}

#[cfg(not(unix))]
pub fn private(_: &mut OpenOptions) {}

/// Whether the open file is the one that stands at `path` now.
#[cfg(unix)]
pub fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
pub fn same_file(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Whether this user may make files in the folder; why not.
#[cfg(unix)]
pub fn writable(folder: &Path) -> Result<(), Reason> {
    use rustix::fs::{accessat, Access, AtFlags, CWD};
    accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|e| explain(&e.into(), "write to", folder))
}

#[cfg(not(unix))]
pub fn writable(_: &Path) -> Result<(), Reason> {
    Ok(())
}

/// This program's own file, to start it again. On Linux a link to the very file that runs: though it was replaced
/// meanwhile, and though the user who starts it cannot enter the folder that it lies in, such as root's home.
pub fn own_executable() -> std::io::Result<PathBuf> {
    let own = Path::new("/proc/self/exe");
    match own.exists() {
        true => Ok(own.to_owned()),
        false => own_path(),
    }
}

/// Where this program lies; without `/proc`, as in a chroot, what the kernel was asked to start.
pub fn own_path() -> std::io::Result<PathBuf> {
    std::env::current_exe().or_else(|error| started_as().ok_or(error))
}

/// By which path the kernel was asked to start this program, where that is known and leads to a file.
#[cfg(target_os = "linux")]
pub fn started_as() -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::OsStr::from_bytes(rustix::param::linux_execfn().to_bytes());
    std::path::absolute(name).ok().filter(|path| path.is_file())
}

#[cfg(not(target_os = "linux"))]
pub fn started_as() -> Option<PathBuf> {
    None
}

/// A file that was changed less than this ago may be changed again with the same time, or is still being written.
pub const YOUNG: std::time::Duration = std::time::Duration::from_secs(2);

/// Which file stands at a path, and in which state: another one, or one that was written to or whose owner or mode was changed,
/// has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Device and inode.
    file: (u64, u64),
    size: u64,
    /// Seconds and nanoseconds since 1970, of the last change of any kind.
    changed: (i64, i64),
}

impl Identity {
    #[cfg(unix)]
    pub fn of_metadata(metadata: &Metadata) -> Identity {
        use std::os::unix::fs::MetadataExt;
        let (file, changed) = ((metadata.dev(), metadata.ino()), (metadata.ctime(), metadata.ctime_nsec()));
        Identity { file, size: metadata.len(), changed }
    }

    #[cfg(not(unix))]
    pub fn of_metadata(metadata: &Metadata) -> Identity {
        let since =
            metadata.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
        let changed = (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos().into());
        Identity { file: (0, 0), size: metadata.len(), changed }
    }

    /// Of what stands there, through links; `None`: nothing that can be looked at.
    pub fn of(path: &Path) -> Option<Identity> {
        path.metadata().ok().as_ref().map(Identity::of_metadata)
    }

    /// Whether it is the same file, in whatever state.
    pub fn is_same_file(&self, other: &Identity) -> bool {
        self.file == other.file
    }

    /// Whether it had not been changed for so long at that moment, by this machine's clock.
    pub fn is_older(&self, age: std::time::Duration, then: std::time::SystemTime) -> bool {
        let since = then.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let (seconds, nanoseconds) = self.changed;
        let changed =
            std::time::Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanoseconds).unwrap_or(0));
        // By another machine's clock, or before this one was set back: that tells nothing of its age.
        let is_ahead = changed > since.saturating_add(age);
        is_ahead || since >= changed.saturating_add(age)
    }
}

/// Whether a lock was refused because somebody else holds it.
pub fn is_contended(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == fs2::lock_contended_error().raw_os_error()
}

/// What an operation on the disk failed at, and what mends it.
pub fn explain(error: &std::io::Error, operation: &str, path: &Path) -> Reason {
    let failed = format!("cannot {operation} {} ({error})", path.display());
    if let Some(why) = refused(error) {
        return format!("{failed}: {why}");
    }
    let mend = match error.kind() {
        ErrorKind::StorageFull if has_no_inodes(path) => "the file system has no inodes left: delete some files",
        ErrorKind::StorageFull => "the disk is full: free some space",
        ErrorKind::QuotaExceeded => "this user's disk quota is used up: free some space or raise it",
        ErrorKind::ReadOnlyFilesystem => "the file system is mounted read-only",
        ErrorKind::PermissionDenied => return format!("{failed}: {}", permission(operation, path)),
        // Not the system's word but [`unfit`].
        ErrorKind::InvalidInput if error.raw_os_error().is_none() => "move it away",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            let file = path.ancestors().find(|place| place.is_file()).unwrap_or(path);
            return format!("{failed}: {} is a file in the place of a folder: move it away", file.display());
        }
        _ => return failed,
    };
    format!("{failed}: {mend}")
}

/// What must be, and the command for it where the permissions show which.
fn permission(operation: &str, path: &Path) -> String {
    let must = "it must belong to the user that runs this program, and be writable for that user";
    match user::barrier(path) {
        // It is not there: to give this user the folder above may be giving it too much (`/var/lib`).
        Some(user::Barrier { why, is_anothers: true, .. }) if operation == MAKE_FOLDER => {
            let (folder, me) = (typed(path), user::own().map_or(String::new(), user::name_of));
            format!("{why}; {must}: mkdir -p {folder} && chmod 700 {folder} && chown {me} {folder}")
        }
        Some(user::Barrier { why, command, .. }) => format!("{why}; {must}: {command}"),
        None => must.into(),
    }
}

/// Whether a full file system lacks inodes rather than space.
#[cfg(unix)]
fn has_no_inodes(path: &Path) -> bool {
    // What could not be made is not there, nor perhaps its folder.
    let known = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok());
    known.is_some_and(|fs| fs.f_files > 0 && fs.f_favail == 0)
}

#[cfg(not(unix))]
fn has_no_inodes(_: &Path) -> bool {
    false
}
/// A file of this user's alone, which goes when it is closed. At `path`, a name of nobody else's, it stands for a moment.
pub fn nameless_file(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    private(&mut options);
    let file = options.open(path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}
