//! The database, if one is configured: connection, rights, version, clock, TLS, pooling and connections.

use super::line::Line;
use crate::app::App;
use crate::store::Examined;
use crate::system::clock::unix_now_ms;
use crate::values::database::{Address, Encryption, Kind};

const CHECK: &str = "database";
/// Fewer are gone with a few calls at once.
const FEW_CONNECTIONS: i64 = 10;
/// That the clocks may differ before it is told.
const TOLERANCE_MS: i64 = 2000;

pub fn check(app: &App) -> Vec<Line> {
    let (Some(address), Some(examined)) = (&app.config.database, app.store.examine()) else { return Vec::new() };
    match examined {
        // What is wrong with it is told once, by the check of TLS.
        Err(why) if why.contains(": ca_file /") => Vec::new(),
        // The reason names the database.
        Err(why) => vec![Line::reason(CHECK, &why)],
        Ok(examined) => {
            let ahead_ms = app.store.now_ms().saturating_sub(unix_now_ms());
            judge(address, &examined, ahead_ms)
        }
    }
}

fn judge(address: &Address, examined: &Examined, ahead_ms: i64) -> Vec<Line> {
    let mut lines = vec![
        server(address, examined),
        rights(examined),
        encryption(address, examined),
        durability(address.kind, examined),
    ];
    // Of MySQL nothing goes through a transaction, so that no pooler can be in the way of one.
    if address.kind == Kind::Postgres {
        lines.push(pooling(examined));
    }
    lines.extend([connections(address.kind, examined), clock(ahead_ms)]);
    lines
}

fn server(address: &Address, examined: &Examined) -> Line {
    let text = format!("{address} answers: {}", examined.version);
    match (examined.is_read_only, examined.is_known) {
        (true, _) => Line::fail(
            CHECK,
            format!("{text}, but it is read-only"),
            format!("name the server that can be written to, or all of them: {}://…@db1,db2/…", address.kind.name()),
        ),
        (false, false) => Line::warn(CHECK, text, "that is older than what this program is made for: take a newer one"),
        (false, true) => Line::ok(CHECK, text),
    }
}

fn rights(examined: &Examined) -> Line {
    const CHECK: &str = "database rights";
    match examined.missing.as_slice() {
        [] => Line::ok(CHECK, "the tables are there, with every right to them"),
        missing => Line::fail(
            CHECK,
            format!("missing: {}", missing.join(", ")),
            "GRANT these TO the user of [storage] url, or let it own the tables",
        ),
    }
}

fn encryption(address: &Address, examined: &Examined) -> Line {
    const CHECK: &str = "database TLS";
    let [_, most] = address.kind.modes();
    let sure = format!("write ?{most} behind [storage] url (and ca_file under [bitrix24] for an own authority)");
    match address.encryption {
        Encryption::None if address.is_here() => Line::ok(CHECK, "none, and none is needed within this machine"),
        Encryption::None => Line::warn(CHECK, "none: whoever is on the way reads the tokens", sure),
        // A pooler's own connection to the server says nothing of the one to the pooler.
        Encryption::IfPossible if examined.is_encrypted && !examined.is_pooled => {
            Line::warn(CHECK, "used, but the server is not verified, and it may be left out", sure)
        }
        Encryption::IfPossible => Line::warn(CHECK, "perhaps none: this mode takes what it gets", sure),
        Encryption::Required => Line::warn(CHECK, "used, but the server is not verified", sure),
        Encryption::OfAuthority => Line::ok(CHECK, "used; the server's authority is verified, its name is not"),
        Encryption::OfName => Line::ok(CHECK, "used; the server and its name are verified"),
    }
}

fn durability(kind: Kind, examined: &Examined) -> Line {
    const CHECK: &str = "database durability";
    match &examined.forgets {
        None => Line::ok(CHECK, "what it has stored outlives a failure of its machine"),
        Some(setting) => Line::fail(
            CHECK,
            format!(
                "{setting} there: when its machine fails, a token that was stored may be lost, and a call repeated"
            ),
            match kind {
                Kind::Postgres => "let the server have fsync = on and full_page_writes = on",
                Kind::MySql => {
                    "let the server have innodb_flush_log_at_trx_commit = 1, and sync_binlog = 1 beside a binary log"
                }
            },
        ),
    }
}

fn pooling(examined: &Examined) -> Line {
    const CHECK: &str = "database pooling";
    match (&examined.no_transactions, examined.is_pooled) {
        (Some(why), _) => Line::fail(
            CHECK,
            format!("no transaction can be done: {why}"),
            "let the pooler have pool_mode = transaction (or session)",
        ),
        (None, true) => Line::ok(CHECK, "a pooler is in front, and does transactions"),
        (None, false) => Line::ok(CHECK, "none is seen; transactions are done"),
    }
}

fn connections(kind: Kind, examined: &Examined) -> Line {
    const CHECK: &str = "database connections";
    let Examined { most_connections: most, connections: now, .. } = examined;
    let text = format!("the server allows {most}, {now} are open");
    match most.saturating_sub(*now) {
        left if left < FEW_CONNECTIONS && !examined.is_pooled => Line::warn(
            CHECK,
            text,
            format!(
                "each CGI call under way or FastCGI worker takes one, each refresh another: raise max_connections{}",
                match kind {
                    Kind::Postgres => ", or put pgbouncer in front",
                    Kind::MySql => "",
                }
            ),
        ),
        _ => Line::ok(CHECK, text),
    }
}

/// It need not agree: only one of the two counts.
fn clock(ahead_ms: i64) -> Line {
    const CHECK: &str = "database clock";
    if ahead_ms.abs() <= TOLERANCE_MS {
        return Line::ok(CHECK, "agrees with this machine's");
    }
    let direction = if ahead_ms > 0 { "ahead of" } else { "behind" };
    Line::ok(CHECK, format!("{} s {direction} this machine's; the database's counts", ahead_ms.abs() / 1000))
}

#[cfg(test)]
mod tests {
    use super::super::line::Status;
    use super::*;

    fn judged(address: &str, examined: Examined) -> Vec<Line> {
        judged_of("postgres", address, examined)
    }

    fn judged_of(scheme: &str, address: &str, examined: Examined) -> Vec<Line> {
        judge(&Address::parse(&format!("{scheme}://u:geheim@{address}")).unwrap(), &examined, 0)
    }

    fn fine() -> Examined {
        Examined { is_known: true, most_connections: 97, connections: 3, ..Examined::default() }
    }

    fn status(lines: &[Line], check: &str) -> Status {
        lines.iter().find(|line| line.check == format!("database {check}").trim()).unwrap().status
    }

    #[test]
    fn what_the_server_says_is_ok_or_says_what_to_do() {
        let lines = judged("localhost/b", fine());
        assert!(lines.iter().all(|line| line.status == Status::Ok), "{lines:?}");
        let full = Examined { connections: 96, ..fine() };
        assert_eq!(status(&judged("localhost/b", full.clone()), "connections"), Status::Warn);
        let pooled = Examined { is_pooled: true, ..full };
        assert_eq!(status(&judged("localhost/b", pooled), "connections"), Status::Ok);
        let by_statement = Examined { no_transactions: Some("refused".into()), ..fine() };
        assert_eq!(status(&judged("localhost/b", by_statement), "pooling"), Status::Fail);
        let forgetful = Examined { forgets: Some("fsync = off".into()), ..fine() };
        assert_eq!(status(&judged("localhost/b", forgetful), "durability"), Status::Fail);
        let without = Examined { missing: vec!["DELETE on b24proxy_keys".into()], ..fine() };
        assert_eq!(status(&judged("localhost/b", without), "rights"), Status::Fail);
        assert_eq!(status(&judged("localhost/b", Examined { is_read_only: true, ..fine() }), ""), Status::Fail);
        assert_eq!(clock(-3_600_000).text, "3600 s behind this machine's; the database's counts");
    }

    #[test]
    fn each_kind_is_advised_in_its_own_words() {
        let poor = Examined { forgets: Some("x".into()), connections: 96, is_read_only: true, ..fine() };
        for (scheme, address, own, others) in [
            (
                "postgres",
                "db.lan/b?sslmode=require",
                ["sslmode=verify-full", "fsync", "pgbouncer", "postgres://"],
                "innodb",
            ),
            (
                "mysql",
                "db.lan/b?ssl-mode=required",
                ["ssl-mode=verify_identity", "innodb_flush_log_at_trx_commit", "max_connections", "mysql://"],
                "sslmode",
            ),
        ] {
            let told = format!("{:?}", judged_of(scheme, address, poor.clone()));
            assert!(own.iter().all(|word| told.contains(word)) && !told.contains(others), "{told}");
            assert_eq!(told.contains("pgbouncer"), scheme == "postgres", "{told}");
        }
        let mysql = judged_of("mysql", "localhost/b", fine());
        assert!(mysql.iter().all(|line| line.status == Status::Ok && line.check != "database pooling"), "{mysql:?}");
    }

    #[test]
    fn tls_is_ok_where_the_server_is_verified_or_on_this_machine() {
        for (address, expected) in [
            ("db.lan/b", Status::Ok),
            ("db.lan/b?sslmode=verify-ca", Status::Ok),
            ("%2Frun/b", Status::Ok),
            ("db.lan/b?sslmode=require", Status::Warn),
            ("db.lan/b?sslmode=prefer", Status::Warn),
            ("db.lan/b?sslmode=disable", Status::Warn),
        ] {
            let lines = judged(address, fine());
            assert_eq!(status(&lines, "TLS"), expected, "{address}");
            assert!(!format!("{lines:?}").contains("geheim"));
        }
    }
}
