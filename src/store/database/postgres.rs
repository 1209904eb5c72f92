//! PostgreSQL: the connection, and the statements in its words.
//!
//! Each statement is one unnamed one that is parsed and executed in one exchange, so that it may go through a pooler of
//! transactions; nothing is set but for the statement itself.

use super::events::{count, natural, PART};
use super::lease::new_lease;
use super::statements::{
    statements, Answer, EventState, Failed, Kept, KeptRow, KeyRow, KnownRow, NewEvent, NewKey, OpenKey, Opened, Row,
    Statements, VERSION,
};
use super::way::{first_of, ExplainTls, Teller, NO_PASSWORD, UNKNOWN_NAME};

use crate::store::records::Event;
use crate::store::{Examined, Quota};
use crate::system::clock::unix_ms;
use crate::system::disk::Reason;
use crate::system::refusal::refused;
use crate::values::database::{Address, Encryption, Host};
use rustls::ClientConfig;
use std::error::Error as _;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::lookup_host;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How often tables are made that others make at the same moment.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);
/// How long a server may take to hear that a connection ends.
const GOODBYE: Duration = Duration::from_millis(200);

/// What the tables are; each is made where it is not there.
pub const SCHEMA: &str = "\
CREATE TABLE IF NOT EXISTS b24proxy_version (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL
);
CREATE TABLE IF NOT EXISTS b24proxy_portals (
    portal text PRIMARY KEY,
    fingerprint text,
    pair text,
    notes text,
    removed text,
    moved text,
    closed bigint NOT NULL DEFAULT 0,
    lease bigint NOT NULL DEFAULT 0,
    lease_until bigint NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS b24proxy_limits (
    portal text PRIMARY KEY,
    known text NOT NULL,
    version bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS b24proxy_clients (
    client text PRIMARY KEY,
    keys bigint NOT NULL,
    bytes bigint NOT NULL,
    swept_at bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS b24proxy_keys (
    id text PRIMARY KEY,
    client text NOT NULL,
    portal text NOT NULL,
    request text NOT NULL,
    begun_at bigint,
    entries integer NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    lease bigint NOT NULL,
    lease_until bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS b24proxy_keys_of_client ON b24proxy_keys (client);
CREATE INDEX IF NOT EXISTS b24proxy_keys_of_portal ON b24proxy_keys (portal);
CREATE TABLE IF NOT EXISTS b24proxy_entries (
    id text NOT NULL REFERENCES b24proxy_keys ON DELETE CASCADE,
    number integer NOT NULL,
    entry text NOT NULL,
    body bytea,
    PRIMARY KEY (id, number)
);
CREATE TABLE IF NOT EXISTS b24proxy_mailboxes (
    portal text PRIMARY KEY,
    last bigint NOT NULL DEFAULT 0,
    ends bigint NOT NULL DEFAULT 0,
    closed_until bigint NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS b24proxy_events (
    portal text NOT NULL,
    number bigint NOT NULL,
    attempt bigint NOT NULL UNIQUE,
    at bigint NOT NULL,
    name text NOT NULL,
    data text NOT NULL,
    starts bigint NOT NULL,
    ends bigint NOT NULL,
    PRIMARY KEY (portal, number)
);
INSERT INTO b24proxy_version (version) VALUES (1) ON CONFLICT DO NOTHING;
";

/// Milliseconds since 1970, at this moment and not at the transaction's begin.
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
/// On disk when the statement ends, whatever the server's default is; a stronger one stays.
const DURABLE: &str = "durable AS MATERIALIZED (SELECT set_config('synchronous_commit', \
    CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true))";
/// It may be lost with the server: nothing waits for the disk.
const SOON: &str = "soon AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))";

statements! {
    words: &[("{durable}", DURABLE), ("{soon}", SOON), ("{now}", NOW)];
    // The clock as it is: every function takes a new connection time.
    CLOCK = "SELECT clock_timestamp(), version FROM b24proxy_version";
    PORTAL = "SELECT fingerprint, pair, notes, moved FROM b24proxy_portals WHERE portal = $1";
    PORTAL_AND_KNOWN = "SELECT p.fingerprint, p.pair, p.notes, p.moved, l.known, l.version, clock_timestamp() \
        FROM (SELECT $1 AS portal) AS one LEFT JOIN b24proxy_portals AS p ON p.portal = one.portal \
        LEFT JOIN b24proxy_limits AS l ON l.portal = one.portal";
    TAKE_LEASE = "INSERT INTO b24proxy_portals AS p (portal, lease, lease_until) VALUES ($1, $2, {now} + {lease}) \
        ON CONFLICT (portal) DO UPDATE SET lease = excluded.lease, lease_until = excluded.lease_until \
        WHERE p.lease_until <= {now} OR p.lease IN ($2, $3) RETURNING fingerprint, pair, notes, moved";
    // One that was given back is none.
    RENEW_LEASE = "UPDATE b24proxy_portals SET lease_until = {now} + {lease} \
        WHERE portal = $1 AND lease = $2 AND lease_until > 0";
    LEAVE_LEASE = "UPDATE b24proxy_portals SET lease_until = 0 WHERE portal = $1 AND lease = $2";
    WRITE_NOTES = "WITH {durable} UPDATE b24proxy_portals SET notes = $3, lease_until = {now} + {lease} FROM durable \
        WHERE portal = $1 AND lease = $2";
    FIRST_PAIR = "WITH {durable} INSERT INTO b24proxy_portals AS p (portal, fingerprint, pair) \
        SELECT $1, $2, $3 FROM durable ON CONFLICT (portal) DO UPDATE SET fingerprint = excluded.fingerprint, \
        pair = excluded.pair WHERE p.fingerprint IS NULL AND p.moved IS NULL";
    NEXT_PAIR = "WITH {durable} UPDATE b24proxy_portals SET fingerprint = $2, pair = $3 FROM durable \
        WHERE portal = $1 AND fingerprint = $4 AND moved IS NULL";
    SET_ASIDE = "WITH {durable} UPDATE b24proxy_portals SET removed = pair, pair = NULL, fingerprint = NULL FROM durable \
        WHERE portal = $1 AND fingerprint = $2";
    FIRST_KNOWN = "WITH {soon} INSERT INTO b24proxy_limits (portal, known, version) SELECT $1, $2, 1 FROM soon \
        ON CONFLICT DO NOTHING";
    NEXT_KNOWN = "WITH {soon} UPDATE b24proxy_limits SET known = $2, version = version + 1 FROM soon \
        WHERE portal = $1 AND version = $3";
    OPEN_KEY = "INSERT INTO b24proxy_keys AS k (id, client, portal, request, lease, lease_until) \
        SELECT $1, $2, $5, $3, $4, {now} + {lease} WHERE NOT EXISTS (SELECT FROM b24proxy_portals AS p \
            WHERE p.portal = $5 AND (p.moved IS NOT NULL OR p.closed = p.lease AND p.lease_until > {now})) \
        ON CONFLICT (id) DO UPDATE SET lease = excluded.lease, lease_until = excluded.lease_until, \
            portal = excluded.portal WHERE k.lease_until <= {now} OR k.lease = $4 \
        RETURNING request, entries, coalesce(begun_at <= {now} - {lifetime}, false)";
    RENEW_KEY = "UPDATE b24proxy_keys SET lease_until = {now} + {lease} \
        WHERE id = $1 AND lease = $2 AND lease_until > 0";
    ENTRIES = "SELECT entry, body FROM b24proxy_entries WHERE id = $1 ORDER BY number";
    // The key's row first, the client's behind it: always in this order, so that none waits for the other.
    BEGIN = "WITH {durable}, \
        mine AS (SELECT k.id, k.client FROM b24proxy_keys AS k, durable \
            WHERE k.id = $1 AND k.lease = $2 AND k.entries = 0 FOR UPDATE OF k), \
        place AS (INSERT INTO b24proxy_clients AS c (client, keys, bytes, swept_at) SELECT client, 1, 0, {now} FROM mine \
            ON CONFLICT (client) DO UPDATE SET keys = c.keys + 1 WHERE c.keys < $5 AND c.bytes < $6 RETURNING c.swept_at), \
        held AS (UPDATE b24proxy_keys SET entries = 1, begun_at = {now}, request = $3 FROM place WHERE id = $1 \
            RETURNING id), \
        kept AS (INSERT INTO b24proxy_entries (id, number, entry) SELECT id, 0, $4 FROM held) \
        SELECT EXISTS (SELECT FROM mine), {now} - (SELECT swept_at FROM place)";
    APPEND = "WITH {durable}, \
        mine AS (SELECT k.id, k.client FROM b24proxy_keys AS k, durable \
            WHERE k.id = $1 AND k.lease = $2 AND k.entries = $3 FOR UPDATE OF k), \
        room AS (UPDATE b24proxy_clients AS c SET bytes = c.bytes + $6 FROM mine \
            WHERE c.client = mine.client AND $5 IS NOT NULL AND c.bytes + $6 <= $7 RETURNING c.client), \
        held AS (UPDATE b24proxy_keys AS k SET entries = k.entries + 1, \
            bytes = k.bytes + CASE WHEN EXISTS (SELECT FROM room) THEN $6 ELSE 0 END FROM mine WHERE k.id = mine.id \
            RETURNING k.id), \
        kept AS (INSERT INTO b24proxy_entries (id, number, entry, body) \
            SELECT id, $3, $4, CASE WHEN EXISTS (SELECT FROM room) THEN $5 END FROM held) \
        SELECT EXISTS (SELECT FROM held), EXISTS (SELECT FROM room)";
    WAS_KEPT = "SELECT e.body IS NOT NULL FROM b24proxy_entries AS e, b24proxy_keys AS k \
        WHERE e.id = $1 AND e.number = $3 AND k.id = e.id AND k.lease = $2 AND k.entries = $3 + 1";
    LEAVE_KEY = "WITH gone AS (DELETE FROM b24proxy_keys WHERE id = $1 AND lease = $2 AND entries = 0) \
        UPDATE b24proxy_keys SET lease_until = 0 WHERE id = $1 AND lease = $2 AND entries > 0";
    FORGET_KEY = "WITH mine AS (SELECT id, client, bytes, begun_at FROM b24proxy_keys WHERE id = $1 AND lease = $2 FOR UPDATE), \
        back AS (UPDATE b24proxy_clients AS c SET keys = greatest(c.keys - 1, 0), bytes = greatest(c.bytes - mine.bytes, 0) \
            FROM mine WHERE c.client = mine.client AND mine.begun_at IS NOT NULL) \
        DELETE FROM b24proxy_keys AS k USING mine WHERE k.id = mine.id";
    FORGET_EXPIRED = "DELETE FROM b24proxy_keys WHERE client = $1 AND lease_until <= {now} \
        AND (begun_at IS NULL OR begun_at <= {now} - {lifetime})";
    LOCK_CLIENT = "SELECT FROM b24proxy_clients WHERE client = $1 FOR UPDATE";
    COUNT_AGAIN = "UPDATE b24proxy_clients SET swept_at = {now}, \
        keys = (SELECT count(*) FROM b24proxy_keys AS k WHERE k.client = $1 AND k.begun_at IS NOT NULL), \
        bytes = (SELECT coalesce(sum(k.bytes), 0)::bigint FROM b24proxy_keys AS k WHERE k.client = $1) WHERE client = $1";
    PORTALS = "SELECT portal FROM b24proxy_portals WHERE pair IS NOT NULL OR moved IS NOT NULL \
        UNION SELECT portal FROM b24proxy_keys WHERE entries > 0 AND portal <> '' \
        UNION SELECT portal FROM b24proxy_mailboxes WHERE last > 0";
    SET_PORTAL = "WITH {durable} UPDATE b24proxy_portals SET fingerprint = $3, pair = $4, notes = $5, moved = $6 \
        FROM durable WHERE portal = $1 AND lease = $2 \
        AND NOT EXISTS (SELECT FROM b24proxy_keys AS k WHERE k.portal = $1 AND k.lease <> 0)";
    CLOSE_KEYS = "UPDATE b24proxy_portals SET closed = $2 WHERE portal = $1 AND lease = $2";
    // Waits for every statement that began before the keys were closed.
    WRITE_NO_KEYS = "LOCK TABLE b24proxy_keys IN SHARE MODE";
    OPEN_KEYS = "SELECT count(*) FROM b24proxy_keys WHERE portal = $1 AND lease_until > {now}";
    FENCE_KEYS = "UPDATE b24proxy_keys SET lease = 0, lease_until = 0 WHERE portal = $1";
    KEPT_KEYS = "SELECT id, portal, request, begun_at FROM b24proxy_keys WHERE portal IN ($1, '') AND entries > 0 \
        AND begun_at > {now} - {lifetime}";
    PUT_KEY = "INSERT INTO b24proxy_keys AS k (id, client, portal, request, lease, lease_until) \
        VALUES ($1, $2, $3, $4, 0, 0) ON CONFLICT (id) DO UPDATE SET portal = excluded.portal, request = excluded.request \
        WHERE k.entries = 0 OR excluded.portal <> ''";
    FORGET_ENTRIES = "DELETE FROM b24proxy_entries WHERE id = $1";
    PUT_ENTRY = "INSERT INTO b24proxy_entries (id, number, entry, body) VALUES ($1, $2, $3, $4)";
    KEY_IS_PUT = "UPDATE b24proxy_keys SET entries = $2, begun_at = $3, bytes = $4 WHERE id = $1";
    PUT_CLIENT = "INSERT INTO b24proxy_clients (client, keys, bytes, swept_at) VALUES ($1, 0, 0, {now}) \
        ON CONFLICT DO NOTHING";
    CLIENTS_OF = "SELECT DISTINCT client FROM b24proxy_keys WHERE portal IN ($1, '')";
    FORGET_KEYS = "DELETE FROM b24proxy_keys WHERE portal = $1";
    // Whoever comes second has the row as the first one leaves it, and is seen behind it.
    TAKE_EVENT = "WITH {durable}, \
        next AS (INSERT INTO b24proxy_mailboxes AS m (portal, last, ends) SELECT $1, 1, $5 FROM durable \
            WHERE NOT EXISTS (SELECT FROM b24proxy_portals AS p WHERE p.portal = $1 AND p.moved IS NOT NULL) \
            ON CONFLICT (portal) DO UPDATE SET last = m.last + 1, ends = m.ends + excluded.ends \
            WHERE m.closed_until <= {now} RETURNING last, ends) \
        INSERT INTO b24proxy_events (portal, number, attempt, at, name, data, starts, ends) \
        SELECT $1, last, $2, {now}, $3, $4, ends - $5, ends FROM next RETURNING number";
    TAKEN_EVENT = "SELECT number FROM b24proxy_events WHERE attempt = $1";
    EVENT_STATE = "SELECT coalesce(m.last, 0), coalesce(m.ends, 0), {now}, p.moved IS NOT NULL \
        FROM (SELECT $1 AS portal) AS one LEFT JOIN b24proxy_mailboxes AS m ON m.portal = one.portal \
        LEFT JOIN b24proxy_portals AS p ON p.portal = one.portal";
    FIRST_EVENT = "SELECT number FROM b24proxy_events WHERE portal = $1 AND number >= $2 AND starts >= $3 AND at >= $4 \
        ORDER BY number LIMIT 1";
    SOME_EVENTS = "SELECT number, at, name, data FROM b24proxy_events WHERE portal = $1 AND number BETWEEN $2 AND $3 \
        AND starts < (SELECT starts FROM b24proxy_events WHERE portal = $1 AND number >= $2 ORDER BY number LIMIT 1) + $4 \
        ORDER BY number LIMIT 1000";
    DROP_EVENTS = "DELETE FROM b24proxy_events WHERE portal = $1 AND number < $2";
    CLOSE_EVENTS = "INSERT INTO b24proxy_mailboxes (portal, closed_until) VALUES ($1, {now} + {lease}) \
        ON CONFLICT (portal) DO UPDATE SET closed_until = excluded.closed_until";
    OPEN_EVENTS = "UPDATE b24proxy_mailboxes SET closed_until = 0 WHERE portal = $1";
    PUT_EVENTS = "WITH {durable} INSERT INTO b24proxy_events (portal, number, attempt, at, name, data, starts, ends) \
        SELECT $1, e.* FROM durable, unnest($2, $3, $4, $5, $6, $7, $8) AS e ON CONFLICT DO NOTHING";
    PUT_LAST_EVENT = "WITH {durable} UPDATE b24proxy_mailboxes SET last = $2, ends = $3 FROM durable WHERE portal = $1";
    FORGET_EVENTS = "DELETE FROM b24proxy_events WHERE portal = $1";
    FORGET_LAST_EVENT = "UPDATE b24proxy_mailboxes SET last = 0, ends = 0 WHERE portal = $1";
    // A backend that is older than the connection to it has served others.
    EXAMINE = "SELECT split_part(version(), ' ', 1) || ' ' || split_part(version(), ' ', 2), \
        current_setting('server_version_num')::int >= 130000, \
        coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false), \
        current_setting('transaction_read_only') = 'on', \
        array(SELECT r || ' on ' || t FROM unnest(ARRAY['b24proxy_version', 'b24proxy_portals', 'b24proxy_limits', \
            'b24proxy_clients', 'b24proxy_keys', 'b24proxy_entries', 'b24proxy_mailboxes', 'b24proxy_events']) AS t, \
            unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS r \
            WHERE NOT has_table_privilege(t, r) AND (t <> 'b24proxy_version' OR r = 'SELECT')), \
        coalesce((SELECT extract(epoch FROM clock_timestamp() - backend_start) * 1000 > $1 + 2000 \
            FROM pg_stat_activity WHERE pid = pg_backend_pid()), false), \
        current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint, \
        (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), \
        (SELECT name || ' = ' || setting FROM pg_settings \
            WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' LIMIT 1)";
    OLDEST = "SELECT coalesce(min(begun_at), {now}) + {lifetime} - {now} FROM b24proxy_keys WHERE client = $1";
}

/// A value and its type.
type Value<'v> = (&'v (dyn ToSql + Sync), Type);

fn text<'v, T: ToSql + Sync>(value: &'v T) -> Value<'v> {
    (value, Type::TEXT)
}

fn number(value: &i64) -> Value<'_> {
    (value, Type::INT8)
}

fn small(value: &i32) -> Value<'_> {
    (value, Type::INT4)
}

/// An open connection. All that waits is within [`Connection::within`].
struct Connection {
    /// `Some` until it is dropped.
    runtime: Option<Runtime>,
    client: Option<Client>,
    /// What reads and writes, while somebody waits.
    driver: Option<JoinHandle<Result<(), tokio_postgres::Error>>>,
    patience: Duration,
    teller: Teller,
    since: Instant,
}

/// `patience`: for connecting, and for each statement. `tls`: what is trusted, made where it is needed.
pub fn connect(
    address: &Address,
    patience: Duration,
    tls: &dyn Fn(Encryption) -> Result<ClientConfig, Reason>,
    explain: ExplainTls,
) -> Answer<Opened> {
    let is_one_of_many = address.hosts.len() > 1;
    first_of(address, patience, |one, share| {
        let teller = Teller::new(one, explain);
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(|error| teller.io(&error, patience))?;
        let since = Instant::now();
        let mut connection = Connection { runtime: Some(runtime), client: None, driver: None, patience, teller, since };
        connection.open(one, is_one_of_many, share, tls)?;
        let now_ms = connection.clock()?;
        Ok(Opened { statements: Box::new(connection), now_ms })
    })
}

/// What is asked of a connection; of a host each of its addresses.
fn configuration(
    address: &Address,
    addresses: &[SocketAddr],
    is_one_of_many: bool,
    share: Duration,
    patience: Duration,
) -> Config {
    let mut config = Config::new();
    for (host, port) in &address.hosts {
        match host {
            Host::Name(name) => addresses.iter().for_each(|address| {
                config.host(name).hostaddr(address.ip()).port(*port);
            }),
            #[cfg(unix)]
            Host::Socket(folder) => drop(config.host_path(folder).port(*port)),
            #[cfg(not(unix))]
            Host::Socket(folder) => drop(config.host(folder.display().to_string()).port(*port)),
        }
    }
    config.user(&address.user).dbname(&address.database).application_name("b24proxy");
    if !address.password.is_empty() {
        config.password(address.password.expose());
    }
    config.ssl_mode(match address.encryption {
        Encryption::None => SslMode::Disable,
        Encryption::IfPossible => SslMode::Prefer,
        Encryption::Required | Encryption::OfAuthority | Encryption::OfName => SslMode::Require,
    });
    config.connect_timeout(share / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX));
    config.tcp_user_timeout(patience);
    if is_one_of_many {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    config
}

impl Connection {
    /// Connecting, and the words that come before the first statement, to one host within its share of the time.
    fn open(
        &mut self,
        address: &Address,
        is_one_of_many: bool,
        share: Duration,
        tls: &dyn Fn(Encryption) -> Result<ClientConfig, Reason>,
    ) -> Answer<()> {
        let connector = match address.encryption {
            Encryption::None => None,
            encryption => {
                let trusted = tls(encryption).map_err(|why| self.teller.failed(why, false))?;
                Some(MakeRustlsConnect::new(trusted))
            }
        };
        let runtime = self.runtime.as_ref().expect("it is there until it is dropped");
        let opening = async {
            let mut addresses = Vec::new();
            if let Some((Host::Name(name), port)) = address.hosts.first() {
                addresses = match lookup_host((name.as_str(), *port)).await {
                    Ok(found) => found.collect(),
                    Err(error) if refused(&error).is_some() => return Err(self.teller.io(&error, share)),
                    Err(_) => return Err(self.teller.failed(UNKNOWN_NAME, false)),
                };
            }
            let config = configuration(address, &addresses, is_one_of_many, share, self.patience);
            let opened = match connector {
                None => config.connect(NoTls).await.map(|(client, driver)| (client, tokio::spawn(driver))),
                Some(tls) => config.connect(tls).await.map(|(client, driver)| (client, tokio::spawn(driver))),
            };
            opened.map_err(|error| failed(&error, &self.teller, share))
        };
        let opened = runtime.block_on(async { timeout(share, opening).await });
        let (client, driver) = opened.unwrap_or_else(|_| Err(self.teller.silent(share)))?;
        (self.client, self.driver) = (Some(client), Some(driver));
        Ok(())
    }

    fn within<T>(&self, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Answer<T> {
        within(self.runtime.as_ref(), self.patience, &self.teller, work)
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("it is there until it is dropped")
    }

    fn rows(&self, statement: &str, values: &[Value]) -> Answer<Vec<tokio_postgres::Row>> {
        self.within(self.client().query_typed(statement, values))
    }

    fn row(&self, statement: &str, values: &[Value]) -> Answer<tokio_postgres::Row> {
        let first = self.rows(statement, values)?.into_iter().next();
        first.ok_or_else(|| Failed { why: "the database has answered nothing".into(), again: false })
    }

    /// How many rows it changed.
    fn execute(&self, statement: &str, values: &[Value]) -> Answer<u64> {
        self.within(self.client().execute_typed(statement, values))
    }

    /// What time it is; the tables are there when it returns, and of a version that is known.
    fn clock(&self) -> Answer<i64> {
        let mut tries = TRIES;
        loop {
            let why = match self.rows(&CLOCK, &[]) {
                Ok(rows) => match rows.first().map(|row| (moment(row, 0), row.get::<_, i32>(1))) {
                    Some((_, version)) if version > VERSION => return Err(self.teller.newer(version)),
                    Some((now_ms, _)) => return Ok(now_ms),
                    None => self.within(self.client().batch_execute(SCHEMA)),
                },
                Err(Failed { again: true, why }) if why.contains(NO_TABLE) => {
                    self.within(self.client().batch_execute(SCHEMA))
                }
                Err(failed) => return Err(failed),
            };
            // Another may make them at the same moment: then one of the two fails.
            match why {
                Err(failed) if tries == 0 || !failed.again => return Err(failed),
                _ => {}
            }
            tries = tries.saturating_sub(1);
            std::thread::sleep(BETWEEN_TRIES);
        }
    }

    /// A first entry that seems not to be kept may have been before the connection was lost.
    fn was_kept(&self, key: &OpenKey, number: i32, otherwise: Kept) -> Answer<Kept> {
        let rows = self.rows(&WAS_KEPT, &[text(&key.key), self::number(&key.lease), small(&number)])?;
        let kept = rows.first().map(|row| Kept::Yes { with_body: row.get(0), swept_ms_ago: 0 });
        Ok(kept.unwrap_or(otherwise))
    }
}

impl Drop for Connection {
    /// The server hears that it ends, if it listens; nothing is waited for otherwise.
    fn drop(&mut self) {
        drop(self.client.take());
        let Some(runtime) = self.runtime.take() else { return };
        if let Some(driver) = self.driver.take() {
            let _ = runtime.block_on(async { timeout(GOODBYE, driver).await });
        }
        runtime.shutdown_background();
    }
}

impl Statements for Connection {
    fn portal(&mut self, portal: &str) -> Answer<Option<Row>> {
        Ok(self.rows(&PORTAL, &[text(&portal)])?.first().map(portals_row))
    }

    fn portal_and_known(&mut self, portal: &str) -> Answer<(Row, KnownRow)> {
        let row = self.row(&PORTAL_AND_KNOWN, &[text(&portal)])?;
        let known: Option<String> = row.get(4);
        let version: Option<i64> = row.get(5);
        let known =
            KnownRow { known: known.unwrap_or_default(), version: version.unwrap_or(0), now_ms: moment(&row, 6) };
        Ok((portals_row(&row), known))
    }

    fn take_lease(&mut self, portal: &str, lease: i64, left: i64) -> Answer<Option<Row>> {
        let rows = self.rows(&TAKE_LEASE, &[text(&portal), number(&lease), number(&left)])?;
        Ok(rows.first().map(portals_row))
    }

    fn renew_lease(&mut self, portal: &str, lease: i64) -> Answer<bool> {
        Ok(self.execute(&RENEW_LEASE, &[text(&portal), number(&lease)])? > 0)
    }

    fn leave_lease(&mut self, portal: &str, lease: i64) -> Answer<()> {
        self.execute(&LEAVE_LEASE, &[text(&portal), number(&lease)]).map(drop)
    }

    fn write_notes(&mut self, portal: &str, lease: i64, notes: &str) -> Answer<bool> {
        Ok(self.execute(&WRITE_NOTES, &[text(&portal), number(&lease), text(&notes)])? > 0)
    }

    fn replace_pair(&mut self, portal: &str, expected: Option<&str>, fingerprint: &str, pair: &str) -> Answer<bool> {
        let (portal, new, pair) = (text(&portal), text(&fingerprint), text(&pair));
        let changed = match &expected {
            Some(expected) => self.execute(&NEXT_PAIR, &[portal, new, pair, text(expected)])?,
            None => self.execute(&FIRST_PAIR, &[portal, new, pair])?,
        };
        Ok(changed > 0)
    }

    fn set_aside(&mut self, portal: &str, expected: &str) -> Answer<bool> {
        Ok(self.execute(&SET_ASIDE, &[text(&portal), text(&expected)])? > 0)
    }

    fn remember(&mut self, portal: &str, version: i64, known: &str) -> Answer<bool> {
        let changed = match version {
            0 => self.execute(&FIRST_KNOWN, &[text(&portal), text(&known)])?,
            version => self.execute(&NEXT_KNOWN, &[text(&portal), text(&known), number(&version)])?,
        };
        Ok(changed > 0)
    }

    fn open_key(&mut self, new: &NewKey, request: &str) -> Answer<Option<KeyRow>> {
        let NewKey { key, client, portal } = new;
        let values = [text(&key.key), text(client), text(&request), number(&key.lease), text(portal)];
        let rows = self.rows(&OPEN_KEY, &values)?;
        let opened =
            |row: &tokio_postgres::Row| KeyRow { request: row.get(0), entries: row.get(1), has_expired: row.get(2) };
        Ok(rows.first().map(opened))
    }

    fn renew_key(&mut self, key: &str, lease: i64) -> Answer<bool> {
        Ok(self.execute(&RENEW_KEY, &[text(&key), number(&lease)])? > 0)
    }

    fn entries(&mut self, key: &str) -> Answer<Vec<(String, Option<Vec<u8>>)>> {
        Ok(self.rows(&ENTRIES, &[text(&key)])?.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    fn begin(&mut self, key: &OpenKey, request: &str, entry: &str, quota: Quota) -> Answer<Kept> {
        let (most, bytes) = limits(quota);
        let values = [text(&key.key), number(&key.lease), text(&request), text(&entry), number(&most), number(&bytes)];
        let row = self.row(&BEGIN, &values)?;
        let (is_mine, swept_ms_ago): (bool, Option<i64>) = (row.get(0), row.get(1));
        match (is_mine, swept_ms_ago) {
            (true, Some(swept_ms_ago)) => Ok(Kept::Yes { with_body: false, swept_ms_ago }),
            (true, None) => Ok(Kept::Full),
            (false, _) => self.was_kept(key, 0, Kept::Lost),
        }
    }

    fn append(&mut self, key: &OpenKey, after: i32, entry: &str, body: Option<&[u8]>, quota: Quota) -> Answer<Kept> {
        let length = body.map_or(0, |body| i64::try_from(body.len()).unwrap_or(i64::MAX));
        let (_, most) = limits(quota);
        let values = [
            text(&key.key),
            number(&key.lease),
            small(&after),
            text(&entry),
            (&body as &(dyn ToSql + Sync), Type::BYTEA),
            number(&length),
            number(&most),
        ];
        let row = self.row(&APPEND, &values)?;
        match (row.get(0), row.get(1)) {
            (true, with_body) => Ok(Kept::Yes { with_body, swept_ms_ago: 0 }),
            (false, _) => self.was_kept(key, after, Kept::Lost),
        }
    }

    fn leave_key(&mut self, key: &OpenKey) -> Answer<()> {
        self.execute(&LEAVE_KEY, &[text(&key.key), number(&key.lease)]).map(drop)
    }

    fn forget_key(&mut self, key: &OpenKey) -> Answer<()> {
        self.execute(&FORGET_KEY, &[text(&key.key), number(&key.lease)]).map(drop)
    }

    fn sweep(&mut self, client: &str) -> Answer<i64> {
        self.execute(&FORGET_EXPIRED, &[text(&client)])?;
        self.count_again(client)?;
        Ok(self.row(&OLDEST, &[text(&client)])?.get(0))
    }

    fn portals(&mut self) -> Answer<Vec<String>> {
        Ok(self.rows(&PORTALS, &[])?.iter().map(|row| row.get(0)).collect())
    }

    fn set_portal(&mut self, portal: &str, lease: i64, row: &Row) -> Answer<bool> {
        let values = [
            text(&portal),
            number(&lease),
            text(&row.fingerprint),
            text(&row.pair),
            text(&row.notes),
            text(&row.moved),
        ];
        Ok(self.execute(&SET_PORTAL, &values)? > 0)
    }

    fn close_keys(&mut self, portal: &str, lease: i64) -> Answer<()> {
        self.execute(&CLOSE_KEYS, &[text(&portal), number(&lease)])?;
        self.in_transaction(&[(WRITE_NO_KEYS.as_str(), &[])])
    }

    fn open_keys(&mut self, portal: &str) -> Answer<i64> {
        Ok(self.row(&OPEN_KEYS, &[text(&portal)])?.get(0))
    }

    fn fence_keys(&mut self, portal: &str) -> Answer<()> {
        self.execute(&FENCE_KEYS, &[text(&portal)]).map(drop)
    }

    fn kept_keys(&mut self, portal: &str) -> Answer<Vec<KeptRow>> {
        let kept = |row: &tokio_postgres::Row| KeptRow {
            id: row.get(0),
            portal: row.get(1),
            request: row.get(2),
            begun_at: row.get(3),
        };
        Ok(self.rows(&KEPT_KEYS, &[text(&portal)])?.iter().map(kept).collect())
    }

    fn put_key(&mut self, key: &KeptRow, client: &str, entries: &[(String, Option<&[u8]>)], bytes: i64) -> Answer<()> {
        let id = text(&key.id);
        if self.execute(&PUT_KEY, &[id.clone(), text(&client), text(&key.portal), text(&key.request)])? == 0 {
            return Ok(());
        }
        self.execute(&FORGET_ENTRIES, std::slice::from_ref(&id))?;
        let mut count = 0_i32;
        for (entry, body) in entries {
            let body: Value = (body as &(dyn ToSql + Sync), Type::BYTEA);
            self.execute(&PUT_ENTRY, &[id.clone(), small(&count), text(entry), body])?;
            count += 1;
        }
        self.execute(&KEY_IS_PUT, &[id, small(&count), number(&key.begun_at), number(&bytes)]).map(drop)
    }

    fn count_keys(&mut self, portal: &str) -> Answer<()> {
        for row in self.rows(&CLIENTS_OF, &[text(&portal)])? {
            let client: String = row.get(0);
            self.execute(&PUT_CLIENT, &[text(&client)])?;
            self.count_again(&client)?;
        }
        Ok(())
    }

    fn forget_keys(&mut self, portal: &str) -> Answer<()> {
        let clients = self.rows(&CLIENTS_OF, &[text(&portal)])?;
        self.execute(&FORGET_KEYS, &[text(&portal)])?;
        clients.iter().try_for_each(|row| self.count_again(row.get(0)))
    }

    fn take_event(&mut self, new: &NewEvent) -> Answer<Option<i64>> {
        let NewEvent { portal, attempt, name, data, size } = new;
        let values = [text(portal), number(attempt), text(name), text(data), number(size)];
        Ok(self.rows(&TAKE_EVENT, &values)?.first().map(|row| row.get(0)))
    }

    fn taken_event(&mut self, attempt: i64) -> Answer<Option<i64>> {
        Ok(self.rows(&TAKEN_EVENT, &[number(&attempt)])?.first().map(|row| row.get(0)))
    }

    fn event_state(&mut self, portal: &str) -> Answer<EventState> {
        let row = self.row(&EVENT_STATE, &[text(&portal)])?;
        Ok(EventState { last: row.get(0), ends: row.get(1), now_ms: row.get(2), is_moved: row.get(3) })
    }

    fn first_event(&mut self, portal: &str, lowest: i64, surplus: i64, oldest_ms: i64) -> Answer<Option<i64>> {
        let values = [text(&portal), number(&lowest), number(&surplus), number(&oldest_ms)];
        Ok(self.rows(&FIRST_EVENT, &values)?.first().map(|row| row.get(0)))
    }

    fn some_events(&mut self, portal: &str, from: i64, to: i64) -> Answer<Vec<Event>> {
        let rows = self.rows(&SOME_EVENTS, &[text(&portal), number(&from), number(&to), number(&PART)])?;
        let event = |row: &tokio_postgres::Row| Event {
            number: natural(row.get(0)),
            at_ms: row.get(1),
            name: row.get(2),
            data: row.get(3),
        };
        Ok(rows.iter().map(event).collect())
    }

    fn drop_events(&mut self, portal: &str, below: i64) -> Answer<()> {
        self.execute(&DROP_EVENTS, &[text(&portal), number(&below)]).map(drop)
    }

    fn close_events(&mut self, portal: &str) -> Answer<()> {
        self.execute(&CLOSE_EVENTS, &[text(&portal)]).map(drop)
    }

    fn open_events(&mut self, portal: &str) -> Answer<()> {
        self.execute(&OPEN_EVENTS, &[text(&portal)]).map(drop)
    }

    fn put_events(&mut self, portal: &str, events: &[(&Event, i64, i64)]) -> Answer<()> {
        let numbers = |of: &dyn Fn(&(&Event, i64, i64)) -> i64| events.iter().map(of).collect::<Vec<i64>>();
        let numbered = numbers(&|(event, ..)| count(event.number));
        let attempts = numbers(&|_| new_lease());
        let at = numbers(&|(event, ..)| event.at_ms);
        let names: Vec<&str> = events.iter().map(|(event, ..)| event.name.as_str()).collect();
        let data: Vec<&str> = events.iter().map(|(event, ..)| event.data.as_str()).collect();
        let (starts, ends) = (numbers(&|(_, starts, _)| *starts), numbers(&|(.., ends)| *ends));
        let of_numbers = |values| -> Value { (values, Type::INT8_ARRAY) };
        let of_texts = |values| -> Value { (values, Type::TEXT_ARRAY) };
        let values = [
            text(&portal),
            of_numbers(&numbered),
            of_numbers(&attempts),
            of_numbers(&at),
            of_texts(&names),
            of_texts(&data),
            of_numbers(&starts),
            of_numbers(&ends),
        ];
        self.execute(&PUT_EVENTS, &values).map(drop)
    }

    fn put_last_event(&mut self, portal: &str, last: i64, ends: i64) -> Answer<()> {
        self.execute(&PUT_LAST_EVENT, &[text(&portal), number(&last), number(&ends)]).map(drop)
    }

    fn forget_events(&mut self, portal: &str) -> Answer<()> {
        self.execute(&FORGET_EVENTS, &[text(&portal)])?;
        self.execute(&FORGET_LAST_EVENT, &[text(&portal)]).map(drop)
    }

    fn examine(&mut self) -> Answer<Examined> {
        let age = i64::try_from(self.since.elapsed().as_millis()).unwrap_or(i64::MAX);
        let row = self.row(&EXAMINE, &[number(&age)])?;
        // What a pooler of statements does not do.
        let no_transactions = self.in_transaction(&[(CLOCK.as_str(), &[])]).err().map(|failed| failed.why);
        Ok(Examined {
            version: row.get(0),
            is_known: row.get(1),
            is_encrypted: row.get(2),
            is_read_only: row.get(3),
            missing: row.get(4),
            no_transactions,
            is_pooled: row.get(5),
            most_connections: row.get(6),
            connections: row.get(7),
            forgets: row.get(8),
        })
    }
}

impl Connection {
    fn in_transaction(&mut self, steps: &[(&str, &[Value])]) -> Answer<()> {
        let database = self.client.as_mut().expect("it is there until it is dropped");
        within(self.runtime.as_ref(), self.patience, &self.teller, async {
            let transaction = database.transaction().await?;
            for (statement, values) in steps {
                transaction.execute_typed(statement, values).await?;
            }
            transaction.commit().await
        })
    }

    /// Who takes a place has the client's row until that is done, so that none is missed.
    fn count_again(&mut self, client: &str) -> Answer<()> {
        let client = [text(&client)];
        self.in_transaction(&[(LOCK_CLIENT.as_str(), &client), (COUNT_AGAIN.as_str(), &client)])
    }
}

fn within<T>(
    runtime: Option<&Runtime>,
    patience: Duration,
    teller: &Teller,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Answer<T> {
    let runtime = runtime.expect("it is there until it is dropped");
    match runtime.block_on(async { timeout(patience, work).await }) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failed(&error, teller, patience)),
        Err(_) => Err(teller.silent(patience)),
    }
}

fn portals_row(row: &tokio_postgres::Row) -> Row {
    Row { fingerprint: row.get(0), pair: row.get(1), notes: row.get(2), moved: row.get(3) }
}

/// Milliseconds since 1970.
fn moment(row: &tokio_postgres::Row, column: usize) -> i64 {
    unix_ms(row.get::<_, SystemTime>(column))
}

fn limits(quota: Quota) -> (i64, i64) {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    (number(quota.keys), number(quota.bytes))
}

const WRONG_PASSWORD: &str =
    "correct user and password in [storage] url (special characters in them as %40 for @, %2F for /, \
    %3F for ?, %25 for %)";
const NO_TABLE: &str = "its tables are not there";
const READ_ONLY: &str =
    "it is read-only: name the server that can be written to, or all of them (postgres://…@db1,db2/…)";

/// What went wrong, and what mends it. Details that PostgreSQL adds may show a row, and are left out.
fn failed(error: &tokio_postgres::Error, teller: &Teller, waited: Duration) -> Failed {
    let Some(db) = error.as_db_error() else { return of_the_way(error, teller, waited) };
    let code = db.code();
    let (cure, again) = match code {
        code if *code == SqlState::UNDEFINED_TABLE => (NO_TABLE, true),
        // Two make the tables at one moment; one waited for the other, which waited for the one.
        code if [
            SqlState::UNIQUE_VIOLATION,
            SqlState::DUPLICATE_TABLE,
            SqlState::DUPLICATE_OBJECT,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::INTERNAL_ERROR,
        ]
        .contains(code) =>
        {
            ("", true)
        }
        code if [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN].contains(code) => ("it is being stopped", true),
        code if *code == SqlState::CANNOT_CONNECT_NOW => ("it is being started or stopped: repeat in a moment", false),
        code if *code == SqlState::READ_ONLY_SQL_TRANSACTION => (READ_ONLY, true),
        code if *code == SqlState::TOO_MANY_CONNECTIONS => (
            "it has no more connections: raise max_connections, or what the user or the database may have, or put a pooler such \
             as pgbouncer in front",
            false,
        ),
        code if *code == SqlState::INVALID_PASSWORD => (WRONG_PASSWORD, false),
        code if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => (
            "let pg_hba.conf allow this user from this machine (SELECT pg_reload_conf() makes it count), or correct the user in \
             [storage] url; a hostssl line wants TLS (sslmode)",
            false,
        ),
        code if *code == SqlState::INVALID_CATALOG_NAME => {
            ("correct the database's name in [storage] url, or make it: CREATE DATABASE … OWNER …", false)
        }
        code if *code == SqlState::INSUFFICIENT_PRIVILEGE => (
            "let the user own the database (ALTER DATABASE … OWNER TO …), or own the tables, made as b24proxy check --schema \
             prints them",
            false,
        ),
        code if *code == SqlState::DISK_FULL => ("its disk is full: free some space there", false),
        _ => ("", code.code().starts_with("08")),
    };
    match cure {
        "" => teller.failed(format_args!("{} ({})", db.message(), code.code()), again),
        cure => teller.failed(format_args!("{} ({}): {cure}", db.message(), code.code()), again),
    }
}

/// What the server has not said itself.
fn of_the_way(error: &tokio_postgres::Error, teller: &Teller, waited: Duration) -> Failed {
    let mut why = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return match io.to_string().as_str() {
                "database does not allow writes" => teller.failed(READ_ONLY, false),
                _ => teller.io(io, waited),
            };
        }
        match inner.to_string().as_str() {
            "server does not support TLS" => return teller.no_tls(),
            "password missing" => return teller.failed(NO_PASSWORD, false),
            text => why = format!("{why}: {text}"),
        }
        source = inner.source();
    }
    if why == "unexpected message from server" {
        why += ": it is perhaps no PostgreSQL; correct host and port in [storage] url";
    }
    teller.failed(why, true)
}
