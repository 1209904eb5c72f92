//! MariaDB: Debian's packages.

use crate::database::{assert_installed, Database, Server, PASSWORD};
use std::process::{Command, Stdio};

pub(crate) const USER: &str = "mysql://b24proxy";

pub(crate) fn make(server: &Server) -> Command {
    assert_installed("/usr/sbin/mariadbd", "mariadb-server-core");
    assert_installed("/usr/bin/mariadb", "mariadb-client-core");
    let mut command = server.command("/usr/bin/mariadb-install-db");
    command.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
    command.args(["data", "tmp"].map(|name| folder(server, name)));
    command
}

/// The temporary one is its own too: a server that starts removes what others have there.
fn folder(server: &Server, name: &str) -> String {
    let folder = match name {
        "tmp" => server.folder().to_owned(),
        name => server.folder().join(name),
    };
    format!("--{name}dir={}", folder.display())
}

/// Unlike the administrator, with a password.
pub(crate) fn name_user(server: &Server) {
    server.sql(
        None,
        &format!(
            "CREATE USER b24proxy@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL PRIVILEGES ON `b24\\_%`.* TO b24proxy@'%'"
        ),
    );
}

pub(crate) fn serve(server: &Server) -> Command {
    let mut command = server.command("/usr/sbin/mariadbd");
    let own = |name: &str| server.folder().join(name).display().to_string();
    command.args(["--no-defaults", "--skip-name-resolve", "--skip-log-bin", "--max-connections=400"]);
    // What a process has handed over outlives it; what the machine has not written is no matter here.
    command.args(["--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M"]);
    command.args(["data", "tmp"].map(|name| folder(server, name)));
    command.arg(format!("--socket={}", own("socket")));
    command.arg(format!("--pid-file={}", own("pid")));
    match server.port() {
        Some(port) => command.args(["--bind-address=127.0.0.1".to_owned(), format!("--port={port}")]),
        None => command.arg("--skip-networking"),
    };
    if server.has_certificate() {
        command.args(["--require-secure-transport=ON", "--ssl-cert=server.crt", "--ssl-key=server.key"]);
    }
    command
}

pub(crate) fn is_up(server: &Server) -> bool {
    client(server, "mysql", "SELECT 1").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

pub(crate) fn client(server: &Server, database: &str, statement: &str) -> Command {
    let mut command = server.command("/usr/bin/mariadb");
    command
        .args(["--no-defaults", "--batch", "--raw", "--skip-column-names", "--default-character-set=utf8mb4"])
        .args(["--user=root", "--database", database, "--execute", statement, "--socket"])
        .arg(server.folder().join("socket"));
    command
}

/// As an address has it.
pub(crate) fn socket(server: &Server) -> String {
    server.folder().join("socket").display().to_string().replace('/', "%2F")
}

pub(crate) fn lose_connections(database: &Database) {
    let all = database.sql(&format!(
        "SELECT id FROM information_schema.processlist WHERE user = 'b24proxy' AND db = '{}'",
        database.name()
    ));
    for id in all.lines() {
        // It may have ended by itself.
        database.sql(&format!("KILL CONNECTION {id}"));
    }
}
