//! One test's home, laid out like a hosting account.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::database::Database;
use crate::executable::{executable, install};
use crate::processes;
use crate::resident::Residents;

/// A temporary folder for one test:
///
/// ```text
/// cgi-bin/b24proxy        the executable, 0755
/// b24proxy/proxy.toml     the configuration, 0600, found by the search order
/// b24proxy/tokens/        0700
/// htdocs/                 what a web server hands out
/// ```
///
/// When the tests run as root, everything belongs to `nobody` and everything runs
/// as `nobody`; otherwise as the current user. At the end of the test the folder
/// is removed and every process that still lives in it is killed.
pub struct Sandbox {
    path: PathBuf,
    keep: bool,
    pub(crate) residents: Residents,
    /// Where what is kept in the token folder otherwise is kept.
    database: Option<Database<'static>>,
}

impl Sandbox {
    /// A home for the executable under test.
    pub fn new() -> Sandbox {
        Sandbox::with_executable(&executable())
    }

    /// A home in which a shell script stands in for the executable.
    pub fn with_script(text: &str) -> Sandbox {
        let sandbox = Sandbox::empty();
        let source = sandbox.path.join("script");
        fs::write(&source, text).expect("the sandbox can be written");
        install(&source, &sandbox.executable());
        give_away(&sandbox.executable());
        sandbox
    }

    /// A home for a program from anywhere.
    pub fn with_executable(program: &Path) -> Sandbox {
        let sandbox = Sandbox::empty();
        sandbox.place(program, &sandbox.executable());
        sandbox
    }

    /// A home in a folder that stays when this value is gone; for demonstrations.
    /// The folder must be empty or not exist, and nobody's path may be closed to it.
    pub fn at(folder: &Path, program: &Path) -> Sandbox {
        fs::create_dir_all(folder).unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
        let path = fs::canonicalize(folder).expect("the folder was just made");
        let sandbox = Sandbox { path, keep: true, residents: Residents::default(), database: None };
        sandbox.make_folders();
        install(program, &sandbox.executable());
        sandbox
    }

    fn empty() -> Sandbox {
        let folder =
            tempfile::Builder::new().prefix("b24-").tempdir_in(temp_dir()).expect("a temporary folder can be made");
        let path = fs::canonicalize(folder.keep()).expect("the folder was just made");
        let sandbox = Sandbox { path, keep: false, residents: Residents::default(), database: None };
        sandbox.make_folders();
        sandbox
    }

    fn make_folders(&self) {
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        give_away(&self.path);
        for folder in ["cgi-bin", "b24proxy", "htdocs", "run"] {
            self.make_folder(folder, 0o755);
        }
        self.make_folder("b24proxy/tokens", 0o700);
    }

    /// The folder of everything.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `cgi-bin/b24proxy`
    pub fn executable(&self) -> PathBuf {
        self.path.join("cgi-bin/b24proxy")
    }

    /// `b24proxy/proxy.toml`
    pub fn config(&self) -> PathBuf {
        self.path.join("b24proxy/proxy.toml")
    }

    /// `b24proxy/tokens`
    pub fn tokens(&self) -> PathBuf {
        self.path.join("b24proxy/tokens")
    }

    /// Writes `proxy.toml`.
    pub fn write_config(&self, text: &str) {
        self.write("b24proxy/proxy.toml", 0o600, text.as_bytes());
    }

    /// From now on the files of the token folder are rows of this database.
    pub fn keep_in(&mut self, database: Option<Database<'static>>) {
        self.database = database;
    }

    pub fn database(&self) -> Option<&Database<'static>> {
        self.database.as_ref()
    }

    /// Writes a file of the token folder, such as `acme.bitrix24.ru.json`.
    pub fn write_token_file(&self, name: &str, json: &str) {
        if let Some(database) = &self.database {
            return database.keep(name, json);
        }
        self.write(&format!("b24proxy/tokens/{name}"), 0o600, json.as_bytes());
    }

    /// A file of the token folder; `None` where there is none.
    pub fn token_file(&self, name: &str) -> Option<Vec<u8>> {
        if let Some(database) = &self.database {
            return database.kept(name);
        }
        let path = self.tokens().join(name);
        match fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => panic!("cannot read {}: {error}", path.display()),
        }
    }

    /// Removes a file of the token folder; that there is none is no matter.
    pub fn remove_token_file(&self, name: &str) {
        match &self.database {
            Some(database) => database.forget(name),
            None => drop(fs::remove_file(self.tokens().join(name))),
        }
    }

    /// Writes any file, given relative to the sandbox; a new file replaces an old one.
    pub fn write(&self, path: &str, mode: u32, bytes: &[u8]) {
        let path = self.path.join(path);
        let _ = fs::remove_file(&path);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        file.write_all(bytes).expect("the sandbox can be written");
        // The umask may have taken bits away.
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the file is ours");
        give_away(&path);
    }

    /// Makes a folder, given relative to the sandbox.
    pub fn make_folder(&self, path: &str, mode: u32) {
        let path = self.path.join(path);
        let made = fs::DirBuilder::new().mode(mode).create(&path);
        made.unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the folder is ours");
        give_away(&path);
    }

    /// Any program as the sandbox's user, in the sandbox, with an environment that
    /// is empty except for `PATH`.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = processes::unprivileged(program);
        command.env("PATH", processes::PATH).current_dir(&self.path);
        command
    }

    /// The executable on the command line: no CGI variables.
    pub fn command_line(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(self.executable());
        command.args(arguments);
        command
    }

    /// Processes that still live in this sandbox, such as a detached child of a
    /// request that has ended; those of a resident program apart.
    pub fn processes(&self) -> Vec<u32> {
        processes::all_in(&self.path).into_iter().filter(|pid| !self.residents.has(*pid)).collect()
    }

    /// Puts lines of a shell script in front of the executable; `{}` at their end is its path. Without any it runs by
    /// itself again.
    pub fn run_behind(&self, lines: &str) {
        let program = self.executable();
        let (real, script) = (program.with_extension("real"), program.with_extension("script"));
        if !real.exists() {
            fs::rename(&program, &real).expect("the sandbox can be written");
        }
        let start = if lines.contains("{}") { lines.to_owned() } else { format!("{lines}\nexec {{}}") };
        let text = format!("#!/bin/sh\n{} \"$@\"\n", start.replace("{}", &real.display().to_string()));
        // Written by another process: what this one has open for writing cannot be started while a thread forks.
        let made = Command::new("/bin/sh")
            .args(["-c", "printf '%s' \"$1\" >\"$2\" && chmod 755 \"$2\" && mv \"$2\" \"$3\"", "sh", &text])
            .args([&script, &program])
            .status();
        assert!(made.expect("a shell").success());
    }

    /// Those of a resident program that serve requests.
    pub fn workers(&self) -> Vec<u32> {
        self.residents.workers()
    }

    /// Puts a program where it can be started: a hard link where possible.
    pub(crate) fn place(&self, program: &Path, to: &Path) {
        if fs::hard_link(program, to).is_err() {
            install(program, to);
            give_away(to);
        }
    }
}

impl Default for Sandbox {
    fn default() -> Sandbox {
        Sandbox::new()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprint!("{}", self.residents.log());
        }
        processes::kill_all_in(&self.path);
        self.residents.stop();
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Makes a path the unprivileged user's own, where the tests run as root.
pub(crate) fn give_away(path: &Path) {
    if let Some((uid, gid)) = processes::unprivileged_owner() {
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))
            .unwrap_or_else(|error| panic!("cannot chown {}: {error}", path.display()));
    }
}

/// The system's temporary folder, or `/tmp` where that one is closed to other
/// users or so long that the name of a Unix socket (108 bytes) does not fit.
pub(crate) fn temp_dir() -> PathBuf {
    let system = std::env::temp_dir();
    let open = system.ancestors().all(|folder| fs::metadata(folder).is_ok_and(|metadata| metadata.mode() & 0o001 != 0));
    if system.is_absolute() && system.as_os_str().len() <= 48 && open {
        system
    } else {
        PathBuf::from("/tmp")
    }
}
