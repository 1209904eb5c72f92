//! A PostgreSQL server for the tests: Debian's package, started unprivileged in a temporary folder.

use crate::processes::{self, Group};
use crate::sandbox::{give_away, temp_dir};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// Whether `$B24PROXY_TEST_STORAGE` wants tests to keep in a database what is kept in files otherwise.
pub fn is_wanted() -> bool {
    match std::env::var("B24PROXY_TEST_STORAGE").as_deref() {
        Err(_) | Ok("" | "file") => false,
        Ok("postgres") => true,
        Ok(other) => panic!("B24PROXY_TEST_STORAGE={other} is neither file nor postgres"),
    }
}

/// It stands in every address and must never be shown.
pub const PASSWORD: &str = "password-of-the-database";

/// A server that ends with this value, and also when the test is killed.
pub struct Postgres {
    folder: PathBuf,
    /// `None`: it does not run now.
    server: Mutex<Option<Group>>,
    databases: AtomicU32,
    /// At this one of 127.0.0.1 too, beside its socket.
    port: Option<u16>,
    /// Removes the folder when the test has ended, however it ended.
    remover: Child,
}

/// The one of this test binary, whose tests have a database each.
pub fn shared() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(Postgres::start)
}

impl Postgres {
    pub fn start() -> Postgres {
        Postgres::started(None, None)
    }

    /// At a port as well; with a certificate and its key (PEM) by TLS alone.
    pub fn start_at_port(certificate: Option<(&str, &str)>) -> Postgres {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        Postgres::started(Some(free.expect("a free port").port()), certificate)
    }

    fn started(port: Option<u16>, certificate: Option<(&str, &str)>) -> Postgres {
        let folder =
            tempfile::Builder::new().prefix("b24-pg-").tempdir_in(temp_dir()).expect("a temporary folder").keep();
        let folder = fs::canonicalize(folder).expect("the folder was just made");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        give_away(&folder);
        let remover = Command::new("/bin/sh")
            .args(["-c", "read -r _; for _ in 1 2 3; do sleep 0.5; rm -rf -- \"$1\" && exit; done", "remover"])
            .arg(&folder)
            // Whoever ends the test's group does not end what tidies up behind it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let postgres = Postgres {
            server: Mutex::new(None),
            databases: AtomicU32::new(0),
            port,
            remover: remover.expect("a shell"),
            folder,
        };
        let made = postgres
            .command("initdb")
            .args(["-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])
            .output()
            .expect("initdb starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        if let Some((certificate, key)) = certificate {
            let hosts = "local all all trust\nhostssl all all all trust\n";
            for (name, text) in [("server.crt", certificate), ("server.key", key), ("pg_hba.conf", hosts)] {
                let path = postgres.folder.join("data").join(name);
                fs::write(&path, text).expect("the folder is ours");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
                give_away(&path);
            }
        }
        postgres.resume();
        postgres
    }

    fn command(&self, program: &str) -> Command {
        let mut command = processes::unprivileged(binaries().join(program));
        command.env("PATH", processes::PATH).current_dir(&self.folder);
        command
    }

    fn port(&self) -> String {
        self.port.unwrap_or(5432).to_string()
    }

    /// Starts it again.
    pub fn resume(&self) {
        let mut command = self.command("postgres");
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log")).expect("a log");
        command.args(["-D", "data", "-k"]).arg(&self.folder);
        let listens = if self.port.is_some() { "listen_addresses=127.0.0.1" } else { "listen_addresses=" };
        let ssl = if self.folder.join("data/server.crt").exists() { "ssl=on" } else { "ssl=off" };
        if let Some(port) = self.port {
            command.args(["-p", &port.to_string()]);
        }
        for setting in [
            listens,
            ssl,
            "fsync=off",
            "full_page_writes=off",
            "max_connections=400",
            "shared_buffers=32MB",
            "autovacuum=off",
        ] {
            command.args(["-c", setting]);
        }
        command.stdout(Stdio::null()).stderr(log);
        let group = Group::start(command).expect("postgres starts");
        *self.server.lock().expect("nobody panics with it") = Some(group);
        let patience = Instant::now() + Duration::from_secs(30);
        while !self
            .command("pg_isready")
            .arg("-qh")
            .arg(&self.folder)
            .args(["-p", &self.port()])
            .status()
            .is_ok_and(|status| status.success())
        {
            assert!(Instant::now() < patience, "{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// As a machine that loses its power: nothing is written any more, no connection is closed in good order.
    pub fn kill(&self) {
        if let Some(mut group) = self.server.lock().expect("nobody panics with it").take() {
            all(&group, "KILL");
            while !group.has_ended() {
                thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = fs::remove_file(self.folder.join("data/postmaster.pid"));
    }

    /// It answers nothing, and takes connections all the same.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        if let Some(group) = &*self.server.lock().expect("nobody panics with it") {
            all(group, name);
        }
    }

    /// A new, empty database's address.
    pub fn database(&self) -> Database<'_> {
        let name = format!("b24_{}", self.databases.fetch_add(1, Ordering::SeqCst));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        Database { server: self, name }
    }

    fn sql(&self, database: &str, statement: &str) -> String {
        let output = self
            .command("psql")
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", statement, "-h"])
            .arg(&self.folder)
            .args(["-p", &self.port()])
            .output()
            .expect("psql starts");
        assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
    }

    /// The folder of its socket.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.server.lock().expect("nobody panics with it").take();
        drop(self.remover.stdin.take());
        let _ = self.remover.wait();
    }
}

/// One database of a server.
pub struct Database<'s> {
    server: &'s Postgres,
    name: String,
}

impl Database<'_> {
    /// As `[storage] url` has it.
    pub fn url(&self) -> String {
        let folder = self.server.folder.display().to_string().replace('/', "%2F");
        format!("postgres://postgres:{PASSWORD}@{folder}:{}/{}", self.server.port(), self.name)
    }

    /// The same by this name of the host, at the server's port.
    pub fn url_at(&self, host: &str) -> String {
        format!("postgres://postgres:{PASSWORD}@{host}:{}/{}", self.server.port(), self.name)
    }

    /// What a statement answers, a line for each row.
    pub fn sql(&self, statement: &str) -> String {
        self.server.sql(&self.name, statement)
    }

    pub fn server(&self) -> &Postgres {
        self.server
    }

    /// The tables, as the program makes them.
    fn tables(&self) {
        if self.sql("SELECT to_regclass('b24proxy_version') IS NULL") == "t" {
            let source = include_str!("../../../src/store/database/postgres.rs");
            let schema = source.split("SCHEMA: &str = \"\\\n").nth(1).and_then(|rest| rest.split("\n\";").next());
            self.sql(schema.expect("the statements stand there"));
        }
    }

    /// What the database keeps in the place of a file of the token folder.
    pub fn kept(&self, file: &str) -> Option<Vec<u8>> {
        self.tables();
        let (table, column, portal) = place_of(file);
        let found = self.sql(&format!("SELECT '=' || {column} FROM {table} WHERE portal = '{portal}'"));
        found.strip_prefix('=').map(|text| text.as_bytes().to_vec())
    }

    pub fn keep(&self, file: &str, text: &str) {
        self.tables();
        let (table, column, portal) = place_of(file);
        let name = |token: &str| format!("left(encode(sha256(convert_to('{token}', 'UTF8')), 'hex'), 32)");
        let (more, values) = match column {
            "known" => (", version", ", 1".to_owned()),
            "pair" => {
                let pair: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
                (", fingerprint", format!(", {}", name(pair["refresh_token"].as_str().unwrap_or("none"))))
            }
            _ => ("", String::new()),
        };
        let also = match column {
            "known" => ", version = b24proxy_limits.version + 1",
            "pair" => ", fingerprint = excluded.fingerprint",
            _ => "",
        };
        self.sql(&format!(
            "INSERT INTO {table} (portal, {column}{more}) VALUES ('{portal}', $b24${text}$b24${values}) \
             ON CONFLICT (portal) DO UPDATE SET {column} = excluded.{column}{also}"
        ));
    }

    /// Of whoever holds something.
    pub fn end_leases(&self) {
        self.sql("UPDATE b24proxy_portals SET lease_until = 0; UPDATE b24proxy_keys SET lease_until = 0");
    }

    pub fn forget(&self, file: &str) {
        self.tables();
        match place_of(file) {
            (table @ "b24proxy_limits", _, portal) => {
                self.sql(&format!("DELETE FROM {table} WHERE portal = '{portal}'"))
            }
            (table, "pair", portal) => {
                self.sql(&format!("UPDATE {table} SET pair = NULL, fingerprint = NULL WHERE portal = '{portal}'"))
            }
            (table, column, portal) => {
                self.sql(&format!("UPDATE {table} SET {column} = NULL WHERE portal = '{portal}'"))
            }
        };
    }
}

/// pgbouncer before the shared server, which gives each transaction, and no client, a connection.
pub struct Pooler {
    folder: PathBuf,
    _group: Group,
}

/// The one of this test binary.
pub fn pooler() -> &'static Pooler {
    static POOLER: OnceLock<Pooler> = OnceLock::new();
    POOLER.get_or_init(Pooler::start)
}

impl Pooler {
    fn start() -> Pooler {
        // It goes with the server's.
        let folder = shared().folder().join("pooler");
        fs::create_dir(&folder).expect("the folder is ours");
        let settings = format!(
            "[databases]\n* = host={server}\n[pgbouncer]\nunix_socket_dir = {own}\nlisten_port = 6432\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 200\n",
            server = shared().folder().display(),
            own = folder.display()
        );
        // Whoever comes by `any` is this one at the server.
        let settings = settings.replace("* = host=", "* = user=postgres host=");
        fs::write(folder.join("pgbouncer.ini"), settings).expect("the folder is ours");
        give_away(&folder);
        let mut command = processes::unprivileged("/usr/sbin/pgbouncer");
        command
            .arg("-q")
            .arg(folder.join("pgbouncer.ini"))
            .current_dir(&folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let group = Group::start(command).expect("pgbouncer starts");
        crate::eventually("pgbouncer listens", || folder.join(".s.PGSQL.6432").exists());
        Pooler { folder, _group: group }
    }

    /// The address of a database of the shared server through it.
    pub fn url(&self, database: &Database) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://postgres:{PASSWORD}@{folder}:6432/{}", database.name)
    }
}

/// Table, column and portal for a file of the token folder.
fn place_of(file: &str) -> (&'static str, &'static str, String) {
    let endings = [
        (".json.removed", ("b24proxy_portals", "removed")),
        (".json", ("b24proxy_portals", "pair")),
        (".lock", ("b24proxy_portals", "notes")),
        (".limits", ("b24proxy_limits", "known")),
    ];
    let found = endings.into_iter().find_map(|(ending, place)| Some((file.strip_suffix(ending)?, place)));
    let (stem, (table, column)) = found.unwrap_or_else(|| panic!("{file} is kept in no database: say on_files()"));
    (table, column, stem.replace('_', ":"))
}

/// Each of its processes has a group of its own.
fn all(server: &Group, signal: &str) {
    for process in processes::with_descendants(server.id()) {
        processes::signal(process, signal);
    }
}

/// Of the newest version that is installed.
fn binaries() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.map(|entry| entry.path().join("bin")).filter(|bin| bin.join("initdb").exists()).max();
    newest.expect("tests/packages.sh installs PostgreSQL")
}
