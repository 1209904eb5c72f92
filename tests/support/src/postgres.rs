//! PostgreSQL: Debian's packages.

use crate::database::{assert_installed, shared, Database, Kind, Server, PASSWORD};
use crate::processes::{self, Group};
use crate::sandbox::give_away;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

pub(crate) const USER: &str = "postgres://postgres";
pub(crate) const LOSE_CONNECTIONS: &str =
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'b24proxy'";
/// Its pg_hba.conf.
pub(crate) const BY_TLS_ALONE: &str = "local all all trust\nhostssl all all all trust\n";
pub(crate) const BY_PASSWORD: &str = "local all all trust\nhost all all all scram-sha-256\n";

pub(crate) fn make(server: &Server) -> Command {
    let mut command = server.command(binaries().join("initdb"));
    command.args(["-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
    command
}

pub(crate) fn serve(server: &Server) -> Command {
    let mut command = server.command(binaries().join("postgres"));
    command.args(["-D", "data", "-p", &port(server), "-k"]).arg(server.folder());
    let listens = if server.port().is_some() { "listen_addresses=127.0.0.1" } else { "listen_addresses=" };
    let ssl = if server.has_certificate() { "ssl=on" } else { "ssl=off" };
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
    command
}

pub(crate) fn is_up(server: &Server) -> bool {
    let mut command = server.command(binaries().join("pg_isready"));
    command.arg("-qh").arg(server.folder()).args(["-p", &port(server)]);
    command.status().is_ok_and(|status| status.success())
}

pub(crate) fn client(server: &Server, database: &str, statement: &str) -> Command {
    let mut command = server.command(binaries().join("psql"));
    command
        .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", statement, "-h"])
        .arg(server.folder())
        .args(["-p", &port(server)]);
    command
}

/// As an address has it.
pub(crate) fn socket(server: &Server) -> String {
    format!("{}:{}", server.folder().display().to_string().replace('/', "%2F"), port(server))
}

pub(crate) fn socket_file(server: &Server) -> String {
    format!(".s.PGSQL.{}", port(server))
}

fn port(server: &Server) -> String {
    server.port().unwrap_or(5432).to_string()
}

/// pgbouncer before a server, which gives each transaction, and no client, a connection.
pub struct Pooler {
    folder: PathBuf,
    _group: Group,
}

/// The one of this test binary, before its shared server.
pub fn pooler() -> &'static Pooler {
    static POOLER: OnceLock<Pooler> = OnceLock::new();
    POOLER.get_or_init(|| Pooler::before(shared(Kind::Postgres)))
}

impl Pooler {
    pub fn before(server: &Server) -> Pooler {
        assert_installed("/usr/sbin/pgbouncer", "pgbouncer");
        // It goes with the server's.
        let folder = server.folder().join("pooler");
        fs::create_dir(&folder).expect("the folder is ours");
        // Whoever comes by `any` is this one at the server.
        let settings = format!(
            "[databases]\n* = user=postgres host={server} port={port}\n[pgbouncer]\nunix_socket_dir = {own}\nlisten_port = 6432\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 200\n",
            server = server.folder().display(),
            port = port(server),
            own = folder.display()
        );
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

    /// The address of a database of the server through it.
    pub fn url(&self, database: &Database) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("{USER}:{PASSWORD}@{folder}:6432/{}", database.name())
    }
}

/// Of the newest version that is installed.
fn binaries() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.map(|entry| entry.path().join("bin")).filter(|bin| bin.join("initdb").exists()).max();
    newest.expect("PostgreSQL is missing: tests/packages.sh installs postgresql-15")
}
