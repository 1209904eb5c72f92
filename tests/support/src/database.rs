//! A database's server for the tests, PostgreSQL or MariaDB: Debian's packages, started unprivileged in a temporary folder.

use crate::processes::{self, Group};
use crate::relay::Relay;
use crate::sandbox::{give_away, temp_dir};
use crate::{mysql, postgres};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Postgres,
    MySql,
}

/// Each sentence as a test of each kind of database: a function that is given the [`Kind`].
#[macro_export]
macro_rules! of_every_database {
    ($($sentence:ident)*) => {
        $crate::of_every_database!(@ postgres Postgres $($sentence)*);
        $crate::of_every_database!(@ mysql MySql $($sentence)*);
    };
    (@ $name:ident $kind:ident $($sentence:ident)*) => {
        mod $name {
            $(
                #[test]
                fn $sentence() {
                    super::$sentence($crate::database::Kind::$kind);
                }
            )*
        }
    };
}

/// In which database `$B24PROXY_TEST_STORAGE` wants tests to keep what is kept in files otherwise.
pub fn wanted() -> Option<Kind> {
    match std::env::var("B24PROXY_TEST_STORAGE").as_deref() {
        Err(_) | Ok("" | "file") => None,
        Ok("postgres") => Some(Kind::Postgres),
        Ok("mysql") => Some(Kind::MySql),
        Ok(other) => panic!("B24PROXY_TEST_STORAGE={other} is none of file, postgres and mysql"),
    }
}

/// The one that is tested where a database is needed.
pub fn kind() -> Kind {
    wanted().unwrap_or(Kind::Postgres)
}

/// It stands in every address and must never be shown.
pub const PASSWORD: &str = "password-of-the-database";

/// A server that ends with this value, and also when the test is killed.
pub struct Server {
    kind: Kind,
    folder: PathBuf,
    /// `None`: it does not run now.
    group: Mutex<Option<Group>>,
    databases: AtomicU32,
    /// At this one of 127.0.0.1 too, beside its socket.
    port: Option<u16>,
    /// Removes the folder when the test has ended, however it ended.
    remover: Child,
}

/// The one of this test binary, whose tests have a database each.
pub fn shared(kind: Kind) -> &'static Server {
    static SERVERS: [OnceLock<Server>; 2] = [OnceLock::new(), OnceLock::new()];
    SERVERS[kind as usize].get_or_init(|| Server::start(kind))
}

impl Server {
    pub fn start(kind: Kind) -> Server {
        Server::started(kind, None, None)
    }

    /// At a port as well; with a certificate and its key (PEM) by TLS alone.
    pub fn start_at_port(kind: Kind, certificate: Option<(&str, &str)>) -> Server {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        Server::started(kind, Some(free.expect("a free port").port()), certificate)
    }

    fn started(kind: Kind, port: Option<u16>, certificate: Option<(&str, &str)>) -> Server {
        let folder =
            tempfile::Builder::new().prefix("b24-db-").tempdir_in(temp_dir()).expect("a temporary folder").keep();
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
        let server = Server {
            kind,
            group: Mutex::new(None),
            databases: AtomicU32::new(0),
            port,
            remover: remover.expect("a shell"),
            folder,
        };
        let mut make = match kind {
            Kind::Postgres => postgres::make(&server),
            Kind::MySql => mysql::make(&server),
        };
        text(make.output().expect("it starts"), "the making of a server");
        if let Some((certificate, key)) = certificate {
            for (name, text) in [("server.crt", certificate), ("server.key", key)] {
                server.write(name, text);
            }
            if kind == Kind::Postgres {
                server.write("pg_hba.conf", postgres::BY_TLS_ALONE);
            }
        }
        server.resume();
        if kind == Kind::MySql {
            mysql::name_user(&server);
        }
        server
    }

    /// A file in the folder of its data.
    fn write(&self, name: &str, text: &str) {
        let path = self.folder.join("data").join(name);
        fs::write(&path, text).expect("the folder is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        give_away(&path);
    }

    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = processes::unprivileged(program.as_ref());
        command.env("PATH", processes::PATH).current_dir(&self.folder);
        command
    }

    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// As it is before anybody was let in: whoever does not come by its socket, as its administrator, is asked for a password.
    pub fn forget_users(&self) {
        match self.kind {
            Kind::Postgres => {
                self.write("pg_hba.conf", postgres::BY_PASSWORD);
                self.sql(None, "SELECT pg_reload_conf()");
            }
            Kind::MySql => drop(self.sql(None, "DROP USER b24proxy@'%'")),
        }
    }

    pub(crate) fn has_certificate(&self) -> bool {
        self.folder.join("data/server.crt").exists()
    }

    /// Starts it again.
    pub fn resume(&self) {
        let mut command = match self.kind {
            Kind::Postgres => postgres::serve(self),
            Kind::MySql => mysql::serve(self),
        };
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log")).expect("a log");
        command.stdout(Stdio::null()).stderr(log);
        let group = Group::start(command).expect("the server starts");
        *self.group.lock().expect("nobody panics with it") = Some(group);
        let patience = Instant::now() + Duration::from_secs(30);
        let is_up = || match self.kind {
            Kind::Postgres => postgres::is_up(self),
            Kind::MySql => mysql::is_up(self),
        };
        while !is_up() {
            assert!(Instant::now() < patience, "{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// As a machine that loses its power: nothing is written any more, no connection is closed in good order.
    pub fn kill(&self) {
        if let Some(mut group) = self.group.lock().expect("nobody panics with it").take() {
            all(&group, "KILL");
            while !group.has_ended() {
                thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = fs::remove_file(self.folder.join("data/postmaster.pid"));
    }

    /// Until it is started again.
    pub fn make_read_only(&self) {
        match self.kind {
            Kind::Postgres => {
                self.sql(None, "ALTER SYSTEM SET default_transaction_read_only = on");
                self.sql(None, "SELECT pg_reload_conf()");
                // Whoever is connected sees it soon.
                while self.sql(None, "SHOW default_transaction_read_only") != "on" {
                    thread::sleep(Duration::from_millis(20));
                }
                fs::remove_file(self.folder.join("data/postgresql.auto.conf")).expect("it was just written");
            }
            Kind::MySql => drop(self.sql(None, "SET GLOBAL read_only = 1")),
        }
    }

    /// It answers nothing, and takes connections all the same.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        if let Some(group) = &*self.group.lock().expect("nobody panics with it") {
            all(group, name);
        }
    }

    /// A new, empty database's address.
    pub fn database(&self) -> Database<'_> {
        let name = format!("b24_{}", self.databases.fetch_add(1, Ordering::SeqCst));
        self.sql(None, &format!("CREATE DATABASE {name}"));
        Database { server: self, name }
    }

    /// `None`: in the one that is always there.
    pub fn sql(&self, database: Option<&str>, statement: &str) -> String {
        let mut command = match self.kind {
            Kind::Postgres => postgres::client(self, database.unwrap_or("postgres"), statement),
            Kind::MySql => mysql::client(self, database.unwrap_or("mysql"), statement),
        };
        text(command.output().expect("the client starts"), statement).trim_end().to_owned()
    }

    /// A way to it of its own.
    pub fn relay(&self) -> Relay {
        let socket = match self.kind {
            Kind::Postgres => postgres::socket_file(self),
            Kind::MySql => "socket".into(),
        };
        Relay::to(self.kind, self.folder.join(socket))
    }

    /// The folder of its socket.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.group.lock().expect("nobody panics with it").take();
        drop(self.remover.stdin.take());
        let _ = self.remover.wait();
    }
}

/// What is missing fails with the name of the Debian package that has it.
pub(crate) fn assert_installed(program: &str, package: &str) {
    assert!(Path::new(program).exists(), "{program} is missing: tests/packages.sh installs {package}");
}

fn text(output: Output, what: &str) -> String {
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// One database of a server.
#[derive(Clone)]
pub struct Database<'s> {
    server: &'s Server,
    name: String,
}

impl Database<'_> {
    pub fn kind(&self) -> Kind {
        self.server.kind
    }

    /// As `[storage] type` has it, and the address begins.
    pub fn type_name(&self) -> &'static str {
        match self.kind() {
            Kind::Postgres => "postgres",
            Kind::MySql => "mysql",
        }
    }

    /// As `[storage]` has it.
    pub fn section(&self) -> String {
        format!("[storage]\ntype = \"{}\"\nurl = \"{}\"\n", self.type_name(), self.url())
    }

    /// As `[storage] url` has it.
    pub fn url(&self) -> String {
        let (user, socket) = match self.kind() {
            Kind::Postgres => (postgres::USER, postgres::socket(self.server)),
            Kind::MySql => (mysql::USER, mysql::socket(self.server)),
        };
        format!("{user}:{PASSWORD}@{socket}/{}", self.name)
    }

    /// The same by way of a relay.
    pub fn url_by(&self, relay: &Relay) -> String {
        let folder = relay.folder().display().to_string().replace('/', "%2F");
        match self.kind() {
            Kind::Postgres => format!("{}:{PASSWORD}@{folder}:5432/{}", postgres::USER, self.name),
            Kind::MySql => format!("{}:{PASSWORD}@{folder}%2Fsocket/{}", mysql::USER, self.name),
        }
    }

    /// The same by this name of the host, at the server's port.
    pub fn url_at(&self, host: &str) -> String {
        let user = match self.kind() {
            Kind::Postgres => postgres::USER,
            Kind::MySql => mysql::USER,
        };
        format!("{user}:{PASSWORD}@{host}:{}/{}", self.server.port.expect("it is at a port"), self.name)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a statement answers, a line for each row, with | between its columns.
    pub fn sql(&self, statement: &str) -> String {
        let text = self.server.sql(Some(&self.name), statement);
        match self.kind() {
            Kind::Postgres => text,
            Kind::MySql => text.replace('\t', "|"),
        }
    }

    pub fn server(&self) -> &Server {
        self.server
    }

    /// The program's connections are closed.
    pub fn lose_connections(&self) {
        match self.kind() {
            Kind::Postgres => drop(self.sql(postgres::LOSE_CONNECTIONS)),
            Kind::MySql => mysql::lose_connections(self),
        }
    }

    /// By the server's clock.
    pub fn now_ms(&self) -> i64 {
        self.sql(match self.kind() {
            Kind::Postgres => "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
            Kind::MySql => "SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)",
        })
        .parse()
        .expect("a number")
    }

    /// All texts that are kept, but those of tokens.
    pub fn texts(&self) -> String {
        self.sql(&format!(
            "SELECT notes FROM b24proxy_portals UNION ALL SELECT known FROM b24proxy_limits UNION ALL \
             SELECT concat(name, data) FROM b24proxy_events UNION ALL SELECT concat(entry, {}) FROM b24proxy_entries",
            match self.kind() {
                Kind::Postgres => "coalesce(convert_from(body, 'UTF8'), '')",
                Kind::MySql => "coalesce(body, '')",
            }
        ))
    }

    /// Whether all of the program's tables are there.
    pub fn has_tables(&self) -> bool {
        let names = ["version", "portals", "limits", "clients", "keys", "entries", "mailboxes", "events"];
        let names = names.map(|name| format!("'b24proxy_{name}'")).join(", ");
        self.sql(&format!(
            "SELECT count(*) FROM information_schema.tables WHERE table_name IN ({names}) \
             AND table_schema IN ('public', '{}')",
            self.name
        )) == "8"
    }

    /// The tables, as the program makes them.
    pub fn tables(&self) {
        if !self.has_tables() {
            let source = match self.kind() {
                Kind::Postgres => include_str!("../../../src/store/database/postgres.rs"),
                Kind::MySql => include_str!("../../../src/store/database/mysql.rs"),
            };
            let schema = source.split("SCHEMA: &str = \"\\\n").nth(1).and_then(|rest| rest.split("\n\";").next());
            self.sql(schema.expect("the statements stand there"));
        }
    }

    /// What the database keeps in the place of a file of the token folder.
    pub fn kept(&self, file: &str) -> Option<Vec<u8>> {
        self.tables();
        let (table, column, portal) = place_of(file);
        let found = self.sql(&format!(
            "SELECT concat('=', {column}) FROM {table} WHERE portal = '{portal}' AND {column} IS NOT NULL"
        ));
        found.strip_prefix('=').map(|text| text.as_bytes().to_vec())
    }

    pub fn keep(&self, file: &str, text: &str) {
        self.tables();
        let (table, column, portal) = place_of(file);
        let quoted = |text: &str| match self.kind() {
            Kind::Postgres => format!("$b24${text}$b24$"),
            Kind::MySql => format!("CONVERT(x'{}' USING utf8mb4)", hex(text.as_bytes())),
        };
        let mut values = format!("{column} = {}", quoted(text));
        if column == "pair" {
            let pair: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
            let token = quoted(pair["refresh_token"].as_str().unwrap_or("none"));
            values += &match self.kind() {
                Kind::Postgres => {
                    format!(", fingerprint = left(encode(sha256(convert_to({token}, 'UTF8')), 'hex'), 32)")
                }
                Kind::MySql => format!(", fingerprint = LEFT(SHA2({token}, 256), 32)"),
            };
        }
        let row = match column {
            "known" => format!("{table} (portal, known, version) SELECT '{portal}', '', 0"),
            _ => format!("{table} (portal) SELECT '{portal}'"),
        };
        if column == "known" {
            values += ", version = version + 1";
        }
        self.sql(&format!(
            "INSERT INTO {row} WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE portal = '{portal}'); \
             UPDATE {table} SET {values} WHERE portal = '{portal}'"
        ));
    }

    /// Of whoever holds something.
    pub fn end_leases(&self) {
        self.sql("UPDATE b24proxy_portals SET lease_until = 1; UPDATE b24proxy_keys SET lease_until = 1");
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
