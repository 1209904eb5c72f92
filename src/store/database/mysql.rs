//! MySQL and MariaDB: the connection, and the statements in their words.
//!
//! Each statement commits by itself: no transaction is open that a node which loses its network could leave behind. What belongs
//! together is changed by one statement over several tables; an entry of a key, which is inserted before, counts from the moment
//! on at which the key's row says so.

use super::events::{count, natural, PART};
use super::lease::new_lease;
use super::statements::{
    statements, Answer, EventState, Failed, Kept, KeptRow, KeyRow, KnownRow, NewEvent, NewKey, OpenKey, Opened, Row,
    Statements, VERSION,
};
use super::way::{cure, first_of, ExplainTls, Teller, NO_PASSWORD, UNKNOWN_NAME};

use crate::store::records::Event;
use crate::store::{Examined, Quota};
use crate::system::refusal::{has_memory, refused, NO_MEMORY};
use crate::values::database::{Address, Encryption, Host};
use mysql::consts::CapabilityFlags;
use mysql::prelude::{FromRow, Queryable};
use mysql::{from_row_opt, Conn, DriverError, Error, MySqlError, OptsBuilder, Params, SslOpts};
use std::collections::HashMap;
use std::error::Error as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::LazyLock;
use std::time::Duration;

/// How often what others were faster with is tried again.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);
/// How long whoever was in the way may need to be done.
const AFTER_OTHERS: Duration = Duration::from_millis(5);
/// The stack of the thread that connects.
const STACK: usize = 1 << 20;
/// What the driver takes for a connection, with no way to say that it was refused: its buffers are of 4 MiB each.
const MEMORY: usize = 10 << 20;
/// Statements that one connection keeps prepared: more than there are.
const PREPARED: usize = 64;
/// Events that are put in one statement.
const ROWS: usize = 100;
/// What a packet holds beside the values.
const AROUND: usize = 1 << 10;
/// What this side takes: more than an answer has.
const PACKET: usize = 1 << 30;

/// What the tables are; each is made where it is not there.
pub const SCHEMA: &str = "\
CREATE TABLE IF NOT EXISTS b24proxy_version (
    one TINYINT NOT NULL PRIMARY KEY,
    version INT NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS b24proxy_portals (
    portal VARCHAR(300) NOT NULL PRIMARY KEY,
    fingerprint VARCHAR(64),
    pair LONGTEXT,
    notes LONGTEXT,
    removed LONGTEXT,
    moved LONGTEXT,
    closed BIGINT NOT NULL DEFAULT 0,
    lease BIGINT NOT NULL DEFAULT 0,
    lease_until BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS b24proxy_limits (
    portal VARCHAR(300) NOT NULL PRIMARY KEY,
    known LONGTEXT NOT NULL,
    version BIGINT NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS b24proxy_clients (
    client VARCHAR(64) NOT NULL PRIMARY KEY,
    `keys` BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    swept_at BIGINT NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS b24proxy_keys (
    id VARCHAR(64) NOT NULL PRIMARY KEY,
    client VARCHAR(64) NOT NULL,
    portal VARCHAR(300) NOT NULL,
    request LONGTEXT NOT NULL,
    begun_at BIGINT,
    entries INT NOT NULL DEFAULT 0,
    bytes BIGINT NOT NULL DEFAULT 0,
    lease BIGINT NOT NULL,
    lease_until BIGINT NOT NULL,
    KEY b24proxy_keys_of_client (client),
    KEY b24proxy_keys_of_portal (portal)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS b24proxy_entries (
    id VARCHAR(64) NOT NULL,
    attempt BIGINT NOT NULL,
    number INT,
    entry LONGTEXT NOT NULL,
    body LONGBLOB,
    PRIMARY KEY (id, attempt),
    CONSTRAINT b24proxy_entries_of_key FOREIGN KEY (id) REFERENCES b24proxy_keys (id) ON DELETE CASCADE
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS b24proxy_mailboxes (
    portal VARCHAR(300) NOT NULL PRIMARY KEY,
    last BIGINT NOT NULL DEFAULT 0,
    ends BIGINT NOT NULL DEFAULT 0,
    closed_until BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS b24proxy_events (
    portal VARCHAR(300) NOT NULL,
    number BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    `at` BIGINT NOT NULL,
    name VARCHAR(200) NOT NULL,
    data LONGTEXT NOT NULL,
    starts BIGINT NOT NULL,
    ends BIGINT NOT NULL,
    PRIMARY KEY (portal, number),
    UNIQUE KEY b24proxy_events_of_attempt (attempt)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
INSERT IGNORE INTO b24proxy_version (one, version) VALUES (1, 1);
";

/// Milliseconds since 1970. (What `UNIX_TIMESTAMP` makes of a local time is wrong for an hour where summer time ends.)
const NOW: &str = "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000)";
/// Whether keys of a portal may be opened: it is here, and no move has closed them. Whoever changes that waits for whoever
/// has read it, whatever the server's isolation is.
const IS_OPEN: &str = "EXISTS (SELECT 1 FROM b24proxy_portals AS p WHERE p.portal = ? AND p.moved IS NULL \
    AND NOT (p.closed = p.lease AND p.lease_until > {now}) LOCK IN SHARE MODE)";

statements! {
    words: &[("{is open}", IS_OPEN), ("{now}", NOW)];
    // MariaDB 12 says OFF where others say 0.
    CLOCK = "SELECT {now}, (SELECT version FROM b24proxy_version WHERE one = 1), @@max_allowed_packet, @@autocommit, \
        CAST(@@read_only AS CHAR) NOT IN ('0', 'OFF')";
    PORTAL = "SELECT fingerprint, pair, notes, moved FROM b24proxy_portals WHERE portal = ?";
    PORTAL_AND_KNOWN = "SELECT p.fingerprint, p.pair, p.notes, p.moved, l.known, l.version, {now} FROM (SELECT 1 AS one) AS o \
        LEFT JOIN b24proxy_portals AS p ON p.portal = ? LEFT JOIN b24proxy_limits AS l ON l.portal = ?";
    NEW_PORTAL = "INSERT IGNORE INTO b24proxy_portals (portal) VALUES (?)";
    TAKE_LEASE = "UPDATE b24proxy_portals SET lease = ?, lease_until = {now} + {lease} \
        WHERE portal = ? AND (lease_until <= {now} OR lease IN (?, ?))";
    // One that was given back is none.
    RENEW_LEASE = "UPDATE b24proxy_portals SET lease_until = {now} + {lease} \
        WHERE portal = ? AND lease = ? AND lease_until > 0";
    LEAVE_LEASE = "UPDATE b24proxy_portals SET lease_until = 0 WHERE portal = ? AND lease = ?";
    WRITE_NOTES = "UPDATE b24proxy_portals SET notes = ?, lease_until = {now} + {lease} WHERE portal = ? AND lease = ?";
    FIRST_PAIR = "UPDATE b24proxy_portals SET fingerprint = ?, pair = ? WHERE portal = ? AND fingerprint IS NULL \
        AND moved IS NULL";
    NEXT_PAIR = "UPDATE b24proxy_portals SET fingerprint = ?, pair = ? WHERE portal = ? AND fingerprint = ? \
        AND moved IS NULL";
    SET_ASIDE = "UPDATE b24proxy_portals SET removed = pair, pair = NULL, fingerprint = NULL \
        WHERE portal = ? AND fingerprint = ?";
    FIRST_KNOWN = "INSERT IGNORE INTO b24proxy_limits (portal, known, version) VALUES (?, ?, 1)";
    NEXT_KNOWN = "UPDATE b24proxy_limits SET known = ?, version = version + 1 WHERE portal = ? AND version = ?";
    NEW_KEY = "INSERT IGNORE INTO b24proxy_keys (id, client, portal, request, lease, lease_until) \
        SELECT ?, ?, ?, ?, ?, {now} + {lease} FROM (SELECT 1 AS one) AS o WHERE {is open}";
    OPEN_KEY = "UPDATE b24proxy_keys SET lease = ?, lease_until = {now} + {lease}, portal = ? \
        WHERE id = ? AND (lease_until <= {now} OR lease = ?) AND {is open}";
    KEY = "SELECT request, entries, COALESCE(begun_at <= {now} - {lifetime}, 0) FROM b24proxy_keys \
        WHERE id = ? AND lease = ?";
    RENEW_KEY = "UPDATE b24proxy_keys SET lease_until = {now} + {lease} \
        WHERE id = ? AND lease = ? AND lease_until > 0";
    ENTRIES = "SELECT e.entry, e.body FROM b24proxy_entries AS e JOIN b24proxy_keys AS k ON k.id = e.id \
        WHERE e.id = ? AND e.number < k.entries ORDER BY e.number";
    NEW_ENTRY = "INSERT INTO b24proxy_entries (id, attempt, entry, body) VALUES (?, ?, ?, ?)";
    // What is assigned to one table is made of that table's own columns: it is not said which of them is changed first.
    BEGIN = "UPDATE b24proxy_keys AS k JOIN b24proxy_clients AS c ON c.client = k.client \
        JOIN b24proxy_entries AS e ON e.id = k.id AND e.attempt = ? \
        SET k.entries = 1, k.begun_at = {now}, k.bytes = 0, k.request = ?, c.`keys` = c.`keys` + 1, e.number = 0 \
        WHERE k.id = ? AND k.lease = ? AND k.entries = 0 AND c.`keys` < ? AND c.bytes < ?";
    BEGUN = "SELECT k.entries, {now} - c.swept_at FROM b24proxy_keys AS k \
        LEFT JOIN b24proxy_clients AS c ON c.client = k.client WHERE k.id = ? AND k.lease = ?";
    NEW_CLIENT = "INSERT IGNORE INTO b24proxy_clients (client, `keys`, bytes, swept_at) \
        SELECT client, 0, 0, {now} FROM b24proxy_keys WHERE id = ?";
    APPEND_WITH_BODY = "UPDATE b24proxy_keys AS k JOIN b24proxy_clients AS c ON c.client = k.client \
        JOIN b24proxy_entries AS e ON e.id = k.id AND e.attempt = ? \
        SET k.entries = k.entries + 1, k.bytes = k.bytes + ?, c.bytes = c.bytes + ?, e.number = ? \
        WHERE k.id = ? AND k.lease = ? AND k.entries = ? AND c.bytes <= ?";
    APPEND = "UPDATE b24proxy_keys AS k JOIN b24proxy_entries AS e ON e.id = k.id AND e.attempt = ? \
        SET k.entries = k.entries + 1, e.number = ?, e.body = NULL WHERE k.id = ? AND k.lease = ? AND k.entries = ?";
    WAS_KEPT = "SELECT e.body IS NOT NULL FROM b24proxy_entries AS e JOIN b24proxy_keys AS k ON k.id = e.id \
        WHERE e.id = ? AND e.number = ? AND k.lease = ? AND k.entries = ?";
    LEAVE_KEY = "UPDATE b24proxy_keys SET lease_until = 0 WHERE id = ? AND lease = ? AND entries > 0";
    // What it was not begun with goes with it.
    LEAVE_NEW_KEY = "DELETE FROM b24proxy_keys WHERE id = ? AND lease = ? AND entries = 0";
    // Its own bytes stay as they are: the client's are made of them.
    GIVE_BACK = "UPDATE b24proxy_keys AS k JOIN b24proxy_clients AS c ON c.client = k.client \
        SET k.begun_at = NULL, k.entries = 0, c.`keys` = GREATEST(c.`keys` - 1, 0), \
        c.bytes = GREATEST(c.bytes - k.bytes, 0) WHERE k.id = ? AND k.lease = ? AND k.begun_at IS NOT NULL";
    FORGET_KEY = "DELETE FROM b24proxy_keys WHERE id = ? AND lease = ?";
    FORGET_ENTRIES = "DELETE FROM b24proxy_entries WHERE id = ?";
    FORGET_EXPIRED = "DELETE FROM b24proxy_keys WHERE client = ? AND lease_until <= {now} \
        AND (begun_at IS NULL OR begun_at <= {now} - {lifetime})";
    // It reads what others have just changed, and has them wait, whatever the server's isolation is.
    COUNT_AGAIN = "UPDATE b24proxy_clients SET swept_at = {now}, \
        `keys` = (SELECT COUNT(*) FROM b24proxy_keys AS k WHERE k.client = ? AND k.begun_at IS NOT NULL \
            LOCK IN SHARE MODE), \
        bytes = (SELECT COALESCE(SUM(k.bytes), 0) FROM b24proxy_keys AS k WHERE k.client = ? \
            AND k.begun_at IS NOT NULL LOCK IN SHARE MODE) WHERE client = ?";
    PORTALS = "SELECT portal FROM b24proxy_portals WHERE pair IS NOT NULL OR moved IS NOT NULL \
        UNION SELECT portal FROM b24proxy_keys WHERE entries > 0 AND portal <> '' \
        UNION SELECT portal FROM b24proxy_events UNION SELECT portal FROM b24proxy_mailboxes WHERE last > 0";
    SET_PORTAL = "UPDATE b24proxy_portals SET fingerprint = ?, pair = ?, notes = ?, moved = ? \
        WHERE portal = ? AND lease = ? \
        AND NOT EXISTS (SELECT 1 FROM b24proxy_keys AS k WHERE k.portal = ? AND k.lease <> 0 LOCK IN SHARE MODE)";
    CLOSE_KEYS = "UPDATE b24proxy_portals SET closed = ? WHERE portal = ? AND lease = ?";
    OPEN_KEYS = "SELECT COUNT(*) FROM b24proxy_keys WHERE portal = ? AND lease_until > {now}";
    FENCE_KEYS = "UPDATE b24proxy_keys SET lease = 0, lease_until = 0 WHERE portal = ?";
    KEPT_KEYS = "SELECT id, portal, request, begun_at FROM b24proxy_keys WHERE portal IN (?, '') AND entries > 0 \
        AND begun_at > {now} - {lifetime}";
    PUT_NEW_KEY = "INSERT IGNORE INTO b24proxy_keys (id, client, portal, request, lease, lease_until) \
        VALUES (?, ?, ?, ?, 0, 0)";
    PUT_KEY = "UPDATE b24proxy_keys SET portal = ?, request = ? WHERE id = ? AND (entries = 0 OR ? <> '')";
    PUT_ENTRY = "INSERT INTO b24proxy_entries (id, attempt, number, entry, body) VALUES (?, ?, ?, ?, ?)";
    KEY_IS_PUT = "UPDATE b24proxy_keys SET entries = ?, begun_at = ?, bytes = ? WHERE id = ?";
    PUT_CLIENT = "INSERT IGNORE INTO b24proxy_clients (client, `keys`, bytes, swept_at) VALUES (?, 0, 0, {now})";
    CLIENTS_OF = "SELECT DISTINCT client FROM b24proxy_keys WHERE portal IN (?, '')";
    FORGET_KEYS = "DELETE FROM b24proxy_keys WHERE portal = ?";
    NEW_MAILBOX = "INSERT IGNORE INTO b24proxy_mailboxes (portal) VALUES (?)";
    // Whoever comes second waits for the portal's row, and reads behind it what the first one has written. The newest event is
    // never deleted.
    TAKE_EVENT = "INSERT INTO b24proxy_events (portal, number, attempt, `at`, name, data, starts, ends) \
        SELECT m.portal, GREATEST(m.last, COALESCE(e.number, 0)) + 1, ?, {now}, ?, ?, \
            COALESCE(e.ends, m.ends), COALESCE(e.ends, m.ends) + ? \
        FROM b24proxy_mailboxes AS m LEFT JOIN b24proxy_events AS e ON e.portal = m.portal \
        WHERE m.portal = ? AND m.closed_until <= {now} \
        AND NOT EXISTS (SELECT 1 FROM b24proxy_portals AS p WHERE p.portal = ? AND p.moved IS NOT NULL) \
        ORDER BY e.number DESC LIMIT 1 FOR UPDATE";
    TAKEN_EVENT = "SELECT number FROM b24proxy_events WHERE attempt = ?";
    EVENT_STATE = "SELECT GREATEST(COALESCE(m.last, 0), COALESCE(e.number, 0)), COALESCE(e.ends, m.ends, 0), {now}, \
            p.moved IS NOT NULL \
        FROM (SELECT 1 AS one) AS o LEFT JOIN b24proxy_mailboxes AS m ON m.portal = ? \
        LEFT JOIN b24proxy_portals AS p ON p.portal = ? \
        LEFT JOIN b24proxy_events AS e ON e.portal = ? ORDER BY e.number DESC LIMIT 1";
    FIRST_EVENT = "SELECT number FROM b24proxy_events WHERE portal = ? AND number >= ? AND starts >= ? AND `at` >= ? \
        ORDER BY number LIMIT 1";
    SOME_EVENTS = "SELECT number, `at`, name, data FROM b24proxy_events WHERE portal = ? AND number BETWEEN ? AND ? \
        AND starts < (SELECT starts FROM b24proxy_events WHERE portal = ? AND number >= ? ORDER BY number LIMIT 1) + ? \
        ORDER BY number LIMIT 1000";
    DROP_EVENTS = "DELETE FROM b24proxy_events WHERE portal = ? AND number < ?";
    CLOSE_EVENTS = "UPDATE b24proxy_mailboxes SET closed_until = {now} + {lease} WHERE portal = ?";
    OPEN_EVENTS = "UPDATE b24proxy_mailboxes SET closed_until = 0 WHERE portal = ?";
    PUT_LAST_EVENT = "UPDATE b24proxy_mailboxes SET last = ?, ends = ? WHERE portal = ?";
    FORGET_EVENTS = "DELETE FROM b24proxy_events WHERE portal = ?";
    // MariaDB 12 says OFF where others say 0.
    EXAMINE = "SELECT VERSION(), CAST(@@read_only AS CHAR) NOT IN ('0', 'OFF'), @@innodb_flush_log_at_trx_commit, \
        @@max_connections, @@log_bin, @@sync_binlog";
    OLDEST = "SELECT COALESCE(MIN(begun_at), {now}) + {lifetime} - {now} FROM b24proxy_keys WHERE client = ?";
}

/// A value of a statement.
#[derive(Clone, Copy)]
enum Value<'v> {
    Text(&'v str),
    Number(i64),
    Maybe(Option<&'v str>),
    Bytes(Option<&'v [u8]>),
}

use Value::{Bytes, Maybe, Number, Text};

fn parameters(values: &[Value]) -> Params {
    let value = |value: &Value| match *value {
        Text(text) => mysql::Value::Bytes(text.as_bytes().to_vec()),
        Number(number) => mysql::Value::Int(number),
        Maybe(Some(text)) => mysql::Value::Bytes(text.as_bytes().to_vec()),
        Bytes(Some(bytes)) => mysql::Value::Bytes(bytes.to_vec()),
        Maybe(None) | Bytes(None) => mysql::Value::NULL,
    };
    match values {
        [] => Params::Empty,
        values => Params::Positional(values.iter().map(value).collect()),
    }
}

/// An open connection.
struct Connection {
    conn: Conn,
    patience: Duration,
    teller: Teller,
    /// What the server takes in one packet.
    packet: usize,
}

/// `patience`: for connecting, and for each answer. `ca_file`: an own authority's certificates.
pub fn connect(address: &Address, patience: Duration, ca_file: Option<&Path>, explain: ExplainTls) -> Answer<Opened> {
    let is_one_of_many = address.hosts.len() > 1;
    first_of(address, patience, |one, share| {
        let teller = Teller::new(one, explain);
        if !has_memory(MEMORY) {
            return Err(teller.failed(NO_MEMORY, false));
        }
        let (connection, clock) = connect_to(one, share, patience, ca_file, &teller)?;
        // Of copies that one counts that can be written to.
        if clock.is_read_only && is_one_of_many {
            return Err(teller.failed(READ_ONLY, false));
        }
        Ok(Opened { statements: Box::new(connection), now_ms: clock.now_ms })
    })
}

/// `share`: of the time for connecting.
fn connect_to(
    address: &Address,
    share: Duration,
    patience: Duration,
    ca_file: Option<&Path>,
    teller: &Teller,
) -> Answer<(Connection, Clock)> {
    let (host, port) = address.hosts.first().expect("an address has a host");
    let options = options(host, *port, address, patience);
    let (place, tls) = match host {
        Host::Socket(_) => (None, None),
        Host::Name(name) => (Some((name.clone(), *port)), tls(address.encryption, ca_file, teller)?),
    };
    let is_needed = address.encryption > Encryption::IfPossible;
    let connecting = move || match dial(place.clone(), options.clone().ssl_opts(tls), share) {
        Err(Error::DriverError(DriverError::TlsNotSupported)) if !is_needed => dial(place, options, share),
        connected => connected,
    };
    let conn = within(share, teller, connecting)?.map_err(|error| failed(&error, teller, share))?;
    let mut connection = Connection { conn, patience, teller: teller.clone(), packet: 0 };
    let clock = connection.clock()?;
    Ok((connection, clock))
}

fn options(host: &Host, port: u16, address: &Address, patience: Duration) -> OptsBuilder {
    let mut options = OptsBuilder::new()
        .user(Some(address.user.as_str()))
        .pass(Some(address.password.expose()))
        .db_name(Some(address.database.as_str()))
        .prefer_socket(false)
        .read_timeout(Some(patience))
        .write_timeout(Some(patience))
        .max_allowed_packet(Some(PACKET))
        .stmt_cache_size(PREPARED)
        // A row that was found counts, changed or not.
        .additional_capabilities(CapabilityFlags::CLIENT_FOUND_ROWS)
        .connect_attrs(Some(HashMap::from([("program_name", "b24proxy")])));
    #[cfg(target_os = "linux")]
    {
        options = options.tcp_user_timeout_ms(u32::try_from(patience.as_millis()).ok());
    }
    match host {
        Host::Name(name) if name.contains(':') => options.ip_or_hostname(Some(format!("[{name}]"))).tcp_port(port),
        Host::Name(name) => options.ip_or_hostname(Some(name.as_str())).tcp_port(port),
        Host::Socket(path) => options.socket(Some(path.display().to_string())),
    }
}

/// The driver gives up where the first of a name's addresses does not answer, unless it is told from which address of this
/// machine to connect; that is of one kind.
fn dial(place: Option<(String, u16)>, options: OptsBuilder, share: Duration) -> mysql::Result<Conn> {
    let Some(place) = place else { return Conn::new(options) };
    let addresses: Vec<SocketAddr> = match place.to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(error) if refused(&error).is_some() => return Err(error.into()),
        Err(_) => return Err(std::io::Error::other(UNKNOWN_NAME).into()),
    };
    let options = options.tcp_connect_timeout(Some(share / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX)));
    let mut last = None;
    for own in [SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))] {
        if !addresses.iter().any(|address| address.is_ipv4() == own.is_ipv4()) {
            continue;
        }
        match Conn::new(options.clone().bind_address(Some(own))) {
            Err(error @ Error::DriverError(DriverError::CouldNotConnect(_) | DriverError::ConnectTimeout)) => {
                last = last.or(Some(error));
            }
            connected => return connected,
        }
    }
    Err(last.unwrap_or(Error::DriverError(DriverError::CouldNotConnect(None))))
}

fn tls(encryption: Encryption, ca_file: Option<&Path>, teller: &Teller) -> Answer<Option<SslOpts>> {
    if encryption == Encryption::None {
        return Ok(None);
    }
    // The driver does not say which file it is.
    if let Some((path, error)) = ca_file.and_then(|path| Some((path, std::fs::File::open(path).err()?))) {
        return Err(teller.failed(format_args!("ca_file {}: it cannot be read ({error})", path.display()), false));
    }
    let options = SslOpts::default().with_root_cert_path(ca_file.map(Path::to_owned));
    // The driver takes this process's, and there must be one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Some(match encryption {
        Encryption::None | Encryption::IfPossible | Encryption::Required => {
            options.with_danger_accept_invalid_certs(true)
        }
        Encryption::OfAuthority => options.with_danger_skip_domain_validation(true),
        Encryption::OfName => options,
    }))
}

/// Connecting has parts that nothing else bounds, such as looking a name up: a thread that takes too long is left alone.
fn within<T: Send + 'static>(share: Duration, teller: &Teller, work: impl FnOnce() -> T + Send + 'static) -> Answer<T> {
    let (tell, told) = channel();
    let working = move || drop(tell.send(work()));
    if let Err(error) = std::thread::Builder::new().stack_size(STACK).spawn(working) {
        return Err(teller.io(&error, share));
    }
    told.recv_timeout(share).map_err(|_| teller.silent(share))
}

/// What a connection says of itself.
struct Clock {
    now_ms: i64,
    is_read_only: bool,
}

impl Connection {
    /// Where others were faster, once more: a statement that is refused so has changed nothing.
    fn asked<T>(&mut self, ask: impl Fn(&mut Conn) -> mysql::Result<T>) -> Answer<T> {
        let mut tries = TRIES;
        loop {
            match ask(&mut self.conn) {
                Err(Error::MySqlError(error)) if tries > 0 && WAITS_FOR_OTHERS.contains(&error.code) => {
                    tries -= 1;
                    std::thread::sleep(AFTER_OTHERS);
                }
                result => return result.map_err(|error| failed(&error, &self.teller, self.patience)),
            }
        }
    }

    fn rows<R: FromRow>(&mut self, statement: &str, values: &[Value]) -> Answer<Vec<R>> {
        let rows: Vec<mysql::Row> = self.asked(|conn| conn.exec(statement, parameters(values)))?;
        let other = |_| Failed { why: "its tables are others than this program's".into(), again: false };
        rows.into_iter().map(|row| from_row_opt(row).map_err(other)).collect()
    }

    fn row<R: FromRow>(&mut self, statement: &str, values: &[Value]) -> Answer<Option<R>> {
        Ok(self.rows(statement, values)?.into_iter().next())
    }

    /// Whether it found a row.
    fn execute(&mut self, statement: &str, values: &[Value]) -> Answer<bool> {
        self.asked(|conn| {
            conn.exec_drop(statement, parameters(values))?;
            Ok(conn.affected_rows() > 0)
        })
    }

    /// What time it is; the tables are there when it returns, and of a version that is known.
    fn clock(&mut self) -> Answer<Clock> {
        let mut tries = TRIES;
        loop {
            match self.row::<(i64, Option<i32>, u64, bool, bool)>(&CLOCK, &[]) {
                Ok(Some((_, Some(version), ..))) if version > VERSION => return Err(self.teller.newer(version)),
                Ok(Some((now_ms, Some(_), packet, commits, is_read_only))) => {
                    self.packet = usize::try_from(packet).unwrap_or(usize::MAX);
                    if !commits {
                        self.asked(|conn| conn.query_drop("SET autocommit = 1"))?;
                    }
                    return Ok(Clock { now_ms, is_read_only });
                }
                Ok(_) => {}
                Err(failed) if failed.why.contains(NO_TABLE) => {}
                Err(failed) => return Err(failed),
            }
            // Another may make them at the same moment: then one of the two may fail.
            let made =
                SCHEMA.split_terminator(";\n").try_for_each(|statement| self.asked(|conn| conn.query_drop(statement)));
            match made {
                Err(failed) if tries == 0 || !failed.again => return Err(failed),
                _ if tries == 0 => return Err(Failed { why: NO_TABLE.into(), again: false }),
                _ => tries -= 1,
            }
            std::thread::sleep(BETWEEN_TRIES);
        }
    }

    fn column(&mut self, statement: &str, values: &[Value]) -> Answer<Vec<String>> {
        Ok(self.rows::<(String,)>(statement, values)?.into_iter().map(|row| row.0).collect())
    }

    fn count_again(&mut self, client: &str) -> Answer<()> {
        self.execute(&COUNT_AGAIN, &[Text(client), Text(client), Text(client)]).map(drop)
    }

    /// Whether an entry with this body goes through in one packet.
    fn takes(&self, entry: &str, body: &[u8]) -> bool {
        body.len() + entry.len() + AROUND <= self.packet
    }

    /// The rights that this program's user has not, found by statements that change nothing.
    fn missing(&mut self) -> Answer<Vec<String>> {
        let mut missing = Vec::new();
        for (table, column) in [
            ("b24proxy_version", "one"),
            ("b24proxy_portals", "portal"),
            ("b24proxy_limits", "portal"),
            ("b24proxy_clients", "client"),
            ("b24proxy_keys", "id"),
            ("b24proxy_entries", "id"),
            ("b24proxy_mailboxes", "portal"),
            ("b24proxy_events", "portal"),
        ] {
            for (right, statement) in [
                ("SELECT", format!("SELECT 1 FROM {table} WHERE 1 = 0")),
                ("INSERT", format!("INSERT INTO {table} SELECT * FROM {table} WHERE 1 = 0")),
                ("UPDATE", format!("UPDATE {table} SET {column} = {column} WHERE 1 = 0")),
                ("DELETE", format!("DELETE FROM {table} WHERE 1 = 0")),
            ] {
                if table == "b24proxy_version" && right != "SELECT" {
                    continue;
                }
                match self.asked(|conn| match conn.query_drop(&statement) {
                    Err(Error::MySqlError(error)) if NOT_ALLOWED.contains(&error.code) => Ok(false),
                    done => done.map(|()| true),
                })? {
                    true => {}
                    false => missing.push(format!("{right} on {table}")),
                }
            }
        }
        Ok(missing)
    }

    /// An entry that does not count yet; `None`: the key is gone.
    fn new_entry(&mut self, key: &OpenKey, entry: &str, body: Option<&[u8]>) -> Answer<Option<i64>> {
        let attempt = new_lease();
        let values = [Text(&key.key), Number(attempt), Text(entry), Bytes(body)];
        self.asked(|conn| match conn.exec_drop(&**NEW_ENTRY, parameters(&values)) {
            Err(Error::MySqlError(error)) if error.code == NO_SUCH_KEY => Ok(None),
            done => done.map(|()| Some(attempt)),
        })
    }
}

impl Statements for Connection {
    fn portal(&mut self, portal: &str) -> Answer<Option<Row>> {
        type Columns = (Option<String>, Option<String>, Option<String>, Option<String>);
        let row: Option<Columns> = self.row(&PORTAL, &[Text(portal)])?;
        Ok(row.map(|(fingerprint, pair, notes, moved)| Row { fingerprint, pair, notes, moved }))
    }

    fn portal_and_known(&mut self, portal: &str) -> Answer<(Row, KnownRow)> {
        type Column = Option<String>;
        type Columns = (Column, Column, Column, Column, Column, Option<i64>, i64);
        let row: Option<Columns> = self.row(&PORTAL_AND_KNOWN, &[Text(portal), Text(portal)])?;
        let nothing = || Failed { why: "the database has answered nothing".into(), again: false };
        let (fingerprint, pair, notes, moved, known, version, now_ms) = row.ok_or_else(nothing)?;
        let known = KnownRow { known: known.unwrap_or_default(), version: version.unwrap_or(0), now_ms };
        Ok((Row { fingerprint, pair, notes, moved }, known))
    }

    fn take_lease(&mut self, portal: &str, lease: i64, left: i64) -> Answer<Option<Row>> {
        let values = [Number(lease), Text(portal), Number(lease), Number(left)];
        if self.execute(&TAKE_LEASE, &values)? {
            return Ok(Some(self.portal(portal)?.unwrap_or_default()));
        }
        // Somebody has it, or nobody has ever had it.
        if !self.execute(&NEW_PORTAL, &[Text(portal)])? || !self.execute(&TAKE_LEASE, &values)? {
            return Ok(None);
        }
        Ok(Some(self.portal(portal)?.unwrap_or_default()))
    }

    fn renew_lease(&mut self, portal: &str, lease: i64) -> Answer<bool> {
        self.execute(&RENEW_LEASE, &[Text(portal), Number(lease)])
    }

    fn leave_lease(&mut self, portal: &str, lease: i64) -> Answer<()> {
        self.execute(&LEAVE_LEASE, &[Text(portal), Number(lease)]).map(drop)
    }

    fn write_notes(&mut self, portal: &str, lease: i64, notes: &str) -> Answer<bool> {
        self.execute(&WRITE_NOTES, &[Text(notes), Text(portal), Number(lease)])
    }

    fn replace_pair(&mut self, portal: &str, expected: Option<&str>, fingerprint: &str, pair: &str) -> Answer<bool> {
        if let Some(expected) = expected {
            return self.execute(&NEXT_PAIR, &[Text(fingerprint), Text(pair), Text(portal), Text(expected)]);
        }
        let values = [Text(fingerprint), Text(pair), Text(portal)];
        Ok(self.execute(&FIRST_PAIR, &values)?
            || self.execute(&NEW_PORTAL, &[Text(portal)])? && self.execute(&FIRST_PAIR, &values)?)
    }

    fn set_aside(&mut self, portal: &str, expected: &str) -> Answer<bool> {
        self.execute(&SET_ASIDE, &[Text(portal), Text(expected)])
    }

    fn remember(&mut self, portal: &str, version: i64, known: &str) -> Answer<bool> {
        match version {
            0 => self.execute(&FIRST_KNOWN, &[Text(portal), Text(known)]),
            version => self.execute(&NEXT_KNOWN, &[Text(known), Text(portal), Number(version)]),
        }
    }

    fn open_key(&mut self, new: &NewKey, request: &str) -> Answer<Option<KeyRow>> {
        let (key, lease, portal) = (Text(&new.key.key), Number(new.key.lease), Text(new.portal));
        let new_key = [key, Text(new.client), portal, Text(request), lease, portal];
        let open_key = [lease, portal, key, lease, portal];
        // A portal of which nothing is stored yet gets its row, by which a move closes its keys.
        let is_new = self.execute(&NEW_KEY, &new_key)?;
        if !is_new && !self.execute(&OPEN_KEY, &open_key)? {
            let is_new_portal = self.execute(&NEW_PORTAL, &[portal])?;
            if !is_new_portal || !self.execute(&NEW_KEY, &new_key)? && !self.execute(&OPEN_KEY, &open_key)? {
                return Ok(None);
            }
        }
        let row: Option<(String, i32, bool)> = self.row(&KEY, &[key, lease])?;
        if !is_new && row.as_ref().is_some_and(|row| row.1 == 0) {
            // Of one who died while forgetting it.
            self.execute(&FORGET_ENTRIES, &[key])?;
        }
        Ok(row.map(|(request, entries, has_expired)| KeyRow { request, entries, has_expired }))
    }

    fn renew_key(&mut self, key: &str, lease: i64) -> Answer<bool> {
        self.execute(&RENEW_KEY, &[Text(key), Number(lease)])
    }

    fn entries(&mut self, key: &str) -> Answer<Vec<(String, Option<Vec<u8>>)>> {
        self.rows(&ENTRIES, &[Text(key)])
    }

    fn begin(&mut self, key: &OpenKey, request: &str, entry: &str, quota: Quota) -> Answer<Kept> {
        let (id, lease) = (Text(&key.key), Number(key.lease));
        let Some(attempt) = self.new_entry(key, entry, None)? else { return Ok(Kept::Lost) };
        let values = [Number(attempt), Text(request), id, lease, Number(limit(quota.keys)), Number(limit(quota.bytes))];
        loop {
            self.execute(&BEGIN, &values)?;
            // It may have been begun before the connection was lost, too.
            match self.row::<(i32, Option<i64>)>(&BEGUN, &[id, lease])? {
                None => return Ok(Kept::Lost),
                Some((0, Some(_))) => return Ok(Kept::Full),
                Some((0, None)) => drop(self.execute(&NEW_CLIENT, &[id])?),
                Some((_, swept)) => return Ok(Kept::Yes { with_body: false, swept_ms_ago: swept.unwrap_or(0) }),
            }
        }
    }

    fn append(&mut self, key: &OpenKey, after: i32, entry: &str, body: Option<&[u8]>, quota: Quota) -> Answer<Kept> {
        let (id, lease, number) = (Text(&key.key), Number(key.lease), Number(after.into()));
        let body = body.filter(|body| self.takes(entry, body));
        let Some(attempt) = self.new_entry(key, entry, body)? else { return Ok(Kept::Lost) };
        let attempt = Number(attempt);
        if let Some(length) = body.map(|body| limit(body.len() as u64)) {
            let room = Number(limit(quota.bytes) - length);
            let length = Number(length);
            let values = [attempt, length, length, number, id, lease, number, room];
            if self.execute(&APPEND_WITH_BODY, &values)? {
                return Ok(Kept::Yes { with_body: true, swept_ms_ago: 0 });
            }
        }
        if self.execute(&APPEND, &[attempt, number, id, lease, number])? {
            return Ok(Kept::Yes { with_body: false, swept_ms_ago: 0 });
        }
        // It may have been appended before the connection was lost.
        let row: Option<(bool,)> = self.row(&WAS_KEPT, &[id, number, lease, Number(i64::from(after) + 1)])?;
        Ok(row.map_or(Kept::Lost, |(with_body,)| Kept::Yes { with_body, swept_ms_ago: 0 }))
    }

    fn leave_key(&mut self, key: &OpenKey) -> Answer<()> {
        let values = [Text(&key.key), Number(key.lease)];
        if !self.execute(&LEAVE_KEY, &values)? {
            self.execute(&LEAVE_NEW_KEY, &values)?;
        }
        Ok(())
    }

    fn forget_key(&mut self, key: &OpenKey) -> Answer<()> {
        let values = [Text(&key.key), Number(key.lease)];
        self.execute(&GIVE_BACK, &values)?;
        self.execute(&FORGET_KEY, &values)?;
        Ok(())
    }

    fn sweep(&mut self, client: &str) -> Answer<i64> {
        self.execute(&FORGET_EXPIRED, &[Text(client)])?;
        self.count_again(client)?;
        let row: Option<(i64,)> = self.row(&OLDEST, &[Text(client)])?;
        Ok(row.map_or(0, |(expires_ms,)| expires_ms))
    }

    fn portals(&mut self) -> Answer<Vec<String>> {
        self.column(&PORTALS, &[])
    }

    fn set_portal(&mut self, portal: &str, lease: i64, row: &Row) -> Answer<bool> {
        let Row { fingerprint, pair, notes, moved } = row;
        let [fingerprint, pair, notes, moved] = [fingerprint, pair, notes, moved].map(|text| Maybe(text.as_deref()));
        let portal = Text(portal);
        self.execute(&SET_PORTAL, &[fingerprint, pair, notes, moved, portal, Number(lease), portal])
    }

    fn close_keys(&mut self, portal: &str, lease: i64) -> Answer<()> {
        self.execute(&CLOSE_KEYS, &[Number(lease), Text(portal), Number(lease)]).map(drop)
    }

    fn open_keys(&mut self, portal: &str) -> Answer<i64> {
        let row: Option<(i64,)> = self.row(&OPEN_KEYS, &[Text(portal)])?;
        Ok(row.map_or(0, |(open,)| open))
    }

    fn fence_keys(&mut self, portal: &str) -> Answer<()> {
        self.execute(&FENCE_KEYS, &[Text(portal)]).map(drop)
    }

    fn kept_keys(&mut self, portal: &str) -> Answer<Vec<KeptRow>> {
        let rows: Vec<(String, String, String, i64)> = self.rows(&KEPT_KEYS, &[Text(portal)])?;
        let kept = |(id, portal, request, begun_at)| KeptRow { id, portal, request, begun_at };
        Ok(rows.into_iter().map(kept).collect())
    }

    fn put_key(&mut self, key: &KeptRow, client: &str, entries: &[(String, Option<&[u8]>)], bytes: i64) -> Answer<()> {
        let (id, portal, request) = (Text(&key.id), Text(&key.portal), Text(&key.request));
        if !self.execute(&PUT_NEW_KEY, &[id, Text(client), portal, request])?
            && !self.execute(&PUT_KEY, &[portal, request, id, portal])?
        {
            return Ok(());
        }
        self.execute(&FORGET_ENTRIES, &[id])?;
        let mut count = 0;
        for (entry, body) in entries {
            if body.is_some_and(|body| !self.takes(entry, body)) {
                let why = "an answer that is kept is larger than the server's max_allowed_packet: raise that";
                return Err(Failed { why: why.into(), again: false });
            }
            self.execute(&PUT_ENTRY, &[id, Number(count), Number(count), Text(entry), Bytes(*body)])?;
            count += 1;
        }
        self.execute(&KEY_IS_PUT, &[Number(count), Number(key.begun_at), Number(bytes), id]).map(drop)
    }

    fn count_keys(&mut self, portal: &str) -> Answer<()> {
        for client in self.column(&CLIENTS_OF, &[Text(portal)])? {
            self.execute(&PUT_CLIENT, &[Text(&client)])?;
            self.count_again(&client)?;
        }
        Ok(())
    }

    fn forget_keys(&mut self, portal: &str) -> Answer<()> {
        let clients = self.column(&CLIENTS_OF, &[Text(portal)])?;
        self.execute(&FORGET_KEYS, &[Text(portal)])?;
        clients.iter().try_for_each(|client| self.count_again(client))
    }

    fn take_event(&mut self, new: &NewEvent) -> Answer<Option<i64>> {
        let portal = Text(new.portal);
        let values = [Number(new.attempt), Text(new.name), Text(new.data), Number(new.size), portal, portal];
        let is_taken = self.execute(&TAKE_EVENT, &values)?
            || self.execute(&NEW_MAILBOX, &[portal])? && self.execute(&TAKE_EVENT, &values)?;
        match is_taken {
            true => self.taken_event(new.attempt),
            false => Ok(None),
        }
    }

    fn taken_event(&mut self, attempt: i64) -> Answer<Option<i64>> {
        Ok(self.row::<(i64,)>(&TAKEN_EVENT, &[Number(attempt)])?.map(|(number,)| number))
    }

    fn event_state(&mut self, portal: &str) -> Answer<EventState> {
        let row: Option<(i64, i64, i64, bool)> = self.row(&EVENT_STATE, &[Text(portal); 3])?;
        Ok(row.map(|(last, ends, now_ms, is_moved)| EventState { last, ends, now_ms, is_moved }).unwrap_or_default())
    }

    fn first_event(&mut self, portal: &str, lowest: i64, surplus: i64, oldest_ms: i64) -> Answer<Option<i64>> {
        let values = [Text(portal), Number(lowest), Number(surplus), Number(oldest_ms)];
        Ok(self.row::<(i64,)>(&FIRST_EVENT, &values)?.map(|(number,)| number))
    }

    fn some_events(&mut self, portal: &str, from: i64, to: i64) -> Answer<Vec<Event>> {
        let (portal, from) = (Text(portal), Number(from));
        let rows: Vec<(i64, i64, String, String)> =
            self.rows(&SOME_EVENTS, &[portal, from, Number(to), portal, from, Number(PART)])?;
        let event = |(number, at_ms, name, data)| Event { number: natural(number), at_ms, name, data };
        Ok(rows.into_iter().map(event).collect())
    }

    fn drop_events(&mut self, portal: &str, below: i64) -> Answer<()> {
        self.execute(&DROP_EVENTS, &[Text(portal), Number(below)]).map(drop)
    }

    fn close_events(&mut self, portal: &str) -> Answer<()> {
        self.execute(&NEW_MAILBOX, &[Text(portal)])?;
        self.execute(&CLOSE_EVENTS, &[Text(portal)]).map(drop)
    }

    fn open_events(&mut self, portal: &str) -> Answer<()> {
        self.execute(&OPEN_EVENTS, &[Text(portal)]).map(drop)
    }

    fn put_events(&mut self, portal: &str, events: &[(&Event, i64, i64)]) -> Answer<()> {
        for some in events.chunks(ROWS) {
            let rows = vec!["(?, ?, ?, ?, ?, ?, ?, ?)"; some.len()].join(", ");
            let statement = format!(
                "INSERT IGNORE INTO b24proxy_events (portal, number, attempt, `at`, name, data, starts, ends) VALUES {rows}"
            );
            let mut values = Vec::with_capacity(some.len() * 8);
            for (event, starts, ends) in some {
                values.extend([Text(portal), Number(count(event.number)), Number(new_lease()), Number(event.at_ms)]);
                values.extend([Text(&event.name), Text(&event.data), Number(*starts), Number(*ends)]);
            }
            self.execute(&statement, &values)?;
        }
        Ok(())
    }

    fn put_last_event(&mut self, portal: &str, last: i64, ends: i64) -> Answer<()> {
        self.execute(&PUT_LAST_EVENT, &[Number(last), Number(ends), Text(portal)]).map(drop)
    }

    fn forget_events(&mut self, portal: &str) -> Answer<()> {
        self.execute(&FORGET_EVENTS, &[Text(portal)])?;
        self.put_last_event(portal, 0, 0)
    }

    fn examine(&mut self) -> Answer<Examined> {
        let nothing = || Failed { why: "the database has answered nothing".into(), again: false };
        let row: Option<(String, bool, u8, i64, bool, i64)> = self.row(&EXAMINE, &[])?;
        let (version, is_read_only, flush, most_connections, has_binlog, binlog) = row.ok_or_else(nothing)?;
        let status = |name: &str, rows: &[(String, String)]| {
            rows.iter().find(|row| row.0 == name).map(|row| row.1.clone()).unwrap_or_default()
        };
        let rows: Vec<(String, String)> =
            self.rows("SHOW STATUS WHERE Variable_name IN ('Ssl_cipher', 'Threads_connected')", &[])?;
        Ok(Examined {
            is_known: is_known(&version),
            version: named(&version),
            is_encrypted: !status("Ssl_cipher", &rows).is_empty(),
            is_read_only,
            missing: if is_read_only { Vec::new() } else { self.missing()? },
            no_transactions: None,
            is_pooled: false,
            forgets: forgets(flush, has_binlog, binlog),
            most_connections,
            connections: status("Threads_connected", &rows).parse().unwrap_or(0),
        })
    }
}

/// Where a binary log is written, what is not in it is taken back when the server starts again.
fn forgets(flush: u8, has_binlog: bool, binlog: i64) -> Option<String> {
    match (flush, has_binlog, binlog) {
        (1, false, _) | (1, true, 1) => None,
        (1, true, binlog) => Some(format!("sync_binlog = {binlog}")),
        (flush, ..) => Some(format!("innodb_flush_log_at_trx_commit = {flush}")),
    }
}

/// `8.0.36`, `10.11.6-MariaDB-0+deb12u1`, and from old MariaDB through replication `5.5.5-10.11.6-MariaDB`.
fn named(version: &str) -> String {
    let version = version.strip_prefix("5.5.5-").unwrap_or(version);
    let kind = if version.contains("MariaDB") { "MariaDB" } else { "MySQL" };
    format!("{kind} {}", version.split('-').next().unwrap_or_default())
}

/// What the statements are made for.
fn is_known(version: &str) -> bool {
    let named = named(version);
    let Some((kind, version)) = named.split_once(' ') else { return false };
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    version >= if kind == "MariaDB" { (10, 5) } else { (8, 0) }
}

fn limit(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

const WRONG_PASSWORD_OR_NO_TLS: &str = "correct user and password in [storage] url (special characters in them as %40 for @, %2F \
    for /, %3F for ?, %25 for %), or let the user be allowed from that host; if it must come by TLS, ask for it by ssl-mode";
const NO_TABLE: &str = "its tables are not there";
const READ_ONLY: &str = "it is read-only: name the server that can be written to, or all of them (mysql://…@db1,db2/…)";
/// A right is missing: on a table, on a column of it.
const NOT_ALLOWED: [u16; 2] = [1142, 1143];
/// The key that an entry belongs to.
const NO_SUCH_KEY: u16 = 1452;
/// A statement was taken back: two waited for each other, or one too long, or (in a cluster) another node was faster.
const WAITS_FOR_OTHERS: [u16; 3] = [1205, 1213, 1020];

/// What went wrong, and what mends it.
fn failed(error: &Error, teller: &Teller, waited: Duration) -> Failed {
    match error {
        Error::MySqlError(error) => of_server(error, teller),
        Error::IoError(error) => teller.io(error, waited),
        Error::CodecError(error) => match error.source().and_then(|source| source.downcast_ref()) {
            Some(error) => teller.io(error, waited),
            None => teller.failed(error, true),
        },
        Error::DriverError(DriverError::ConnectTimeout) => teller.silent(waited),
        Error::DriverError(DriverError::CouldNotConnect(Some((_, why, kind)))) => match cure(*kind) {
            Some(cure) => teller.failed(cure, false),
            None => teller.failed(format_args!("no connection: {why}"), false),
        },
        Error::DriverError(DriverError::TlsNotSupported) => teller.no_tls(),
        Error::DriverError(DriverError::UnknownAuthPlugin(name)) => teller.failed(
            format_args!(
                "it asks for the password in the way {name}: let the user be IDENTIFIED WITH mysql_native_password or \
                 caching_sha2_password"
            ),
            false,
        ),
        other => teller.failed(other, true),
    }
}

/// What the server says. Of data it may show a value, which is left out.
fn of_server(error: &MySqlError, teller: &Teller) -> Failed {
    let (cure, again) = match error.code {
        1146 => (NO_TABLE, true),
        // Two make the tables at one moment.
        1005 | 1007 | 1050 | 1061 | 1213 | 1412 | 1684 | 1826 => ("", true),
        // It ends, or somebody has ended the connection, or prepared statements were lost on the way.
        1047 | 1053 | 1077 | 1079 | 1080 | 1243 | 1927 | 3032 | 4031 => ("the connection has ended", true),
        1290 | 1792 | 1836 | 3100 => (READ_ONLY, true),
        1040 | 1203 | 1226 => (
            "it has no more connections: raise max_connections, or what the user may have (max_user_connections)",
            false,
        ),
        1044 => (
            "correct the database's name in [storage] url, or make it and give it to the user: CREATE DATABASE …; GRANT ALL \
             PRIVILEGES ON ….* TO …",
            false,
        ),
        1142 | 1143 | 1227 | 1370 => (
            "GRANT ALL PRIVILEGES ON ….* TO the user, or make the tables as b24proxy check --schema prints them and give it \
             SELECT, INSERT, UPDATE and DELETE on them",
            false,
        ),
        1045 if error.message.ends_with("NO)") => (NO_PASSWORD, false),
        // MariaDB says no more where it takes the user by TLS alone.
        1045 | 1251 | 1698 => (WRONG_PASSWORD_OR_NO_TLS, false),
        1130 => ("let the user be allowed from this machine: CREATE USER …@'ADDRESS OF THIS MACHINE', or …@'%'", false),
        1049 => ("correct the database's name in [storage] url, or make it: CREATE DATABASE …", false),
        1129 => ("it has blocked this machine: FLUSH HOSTS there", false),
        3159 => ("it wants TLS: ask for it by ssl-mode=verify_identity in [storage] url", false),
        1021 | 1114 => ("its disk is full: free some space there", false),
        _ => ("", error.state.starts_with("08")),
    };
    let message = match error.code {
        // Without quotes the user stands in it.
        1203 => "too many connections of this user",
        _ if ["22", "23"].iter().any(|class| error.state.starts_with(class)) => "it refuses a value",
        _ => &error.message,
    };
    match cure {
        "" => teller.failed(format_args!("{message} ({})", error.code), again),
        cure => teller.failed(format_args!("{message} ({}): {cure}", error.code), again),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_may_lose_what_it_has_said_is_stored_is_known_by_its_settings() {
        assert_eq!((forgets(1, false, 0), forgets(1, true, 1)), (None, None));
        assert_eq!(forgets(2, true, 1).as_deref(), Some("innodb_flush_log_at_trx_commit = 2"));
        // As MariaDB has it where nobody has said otherwise.
        assert_eq!(forgets(1, true, 0).as_deref(), Some("sync_binlog = 0"));
    }
}
