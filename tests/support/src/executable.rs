//! Which `b24proxy` is tested, and a place from which any user can run it.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::processes::user_id;
use crate::sandbox::temp_dir;

/// The executable under test: `$B24PROXY_TEST_BINARY` (relative to the
/// repository), otherwise what cargo built beside the tests.
///
/// It is a copy outside of the checkout, which the unprivileged user of a
/// [`Sandbox`](crate::Sandbox) perhaps cannot read. A new build is a new copy.
pub fn executable() -> PathBuf {
    let built = match std::env::var_os("B24PROXY_TEST_BINARY") {
        Some(path) => crate::repository().join(path),
        None => built_beside_the_tests(),
    };
    let metadata = fs::metadata(&built).unwrap_or_else(|error| {
        panic!(
            "no executable to test at {}: {error}\n\
             `cargo build`, or set B24PROXY_TEST_BINARY to a built b24proxy",
            built.display()
        )
    });

    let folder = common_folder();
    let copy = folder.join(format!("b24proxy-{}-{}.{:09}", metadata.len(), metadata.mtime(), metadata.mtime_nsec()));
    if !copy.exists() {
        remove_old_copies(&folder);
        install(&built, &copy);
    }
    copy
}

/// `target/debug/deps/some_test-0123` → `target/debug/b24proxy`
fn built_beside_the_tests() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let mut folder = test.parent().expect("a test lies in a folder");
    if folder.ends_with("deps") {
        folder = folder.parent().expect("deps lies in a folder");
    }
    folder.join("b24proxy")
}

/// A folder that everybody can read and only this user can write.
fn common_folder() -> PathBuf {
    let folder = temp_dir().join(format!("b24proxy-test-{}", user_id()));
    let _ = fs::DirBuilder::new().mode(0o755).create(&folder);
    let metadata =
        fs::symlink_metadata(&folder).unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
    assert!(
        metadata.is_dir() && metadata.uid() == user_id() && metadata.mode() & 0o022 == 0,
        "{} is not this user's own folder; remove it",
        folder.display()
    );
    folder
}

fn remove_old_copies(folder: &Path) {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let age = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|modified| SystemTime::now().duration_since(modified).ok());
        if age.is_some_and(|age| age > DAY) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Copies a program to where it can be started, mode 0755, all at once.
///
/// Another process does the writing: a file that this process has open for
/// writing while another thread forks cannot be started by anyone until that
/// child has run its exec ("Text file busy").
pub(crate) fn install(from: &Path, to: &Path) {
    let folder = to.parent().expect("a program lies in a folder");
    let half = tempfile::Builder::new()
        .prefix(".half-")
        .tempdir_in(folder)
        .unwrap_or_else(|error| panic!("cannot write to {}: {error}", folder.display()));
    let written = half.path().join("program");
    let status = Command::new("install")
        .args(["-m", "755", "--"])
        .arg(from)
        .arg(&written)
        .status()
        .expect("`install` of coreutils can be started");
    assert!(status.success(), "cannot copy {}", from.display());
    fs::rename(&written, to).unwrap_or_else(|error| panic!("cannot put {} in place: {error}", to.display()));
}
