//! The address of a database: `postgres://user:password@db.lan/b24proxy`, `mysql://…`.

use super::percent::decoded;
use super::secret::Secret;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

/// In whose words a database is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Postgres,
    /// MariaDB too.
    MySql,
}

/// Where a database is, and as whom and how it is asked.
#[derive(Clone, Debug)]
pub struct Address {
    pub kind: Kind,
    /// More than one: copies of one database, of which that one counts that can be written to.
    pub hosts: Vec<(Host, u16)>,
    pub user: String,
    pub password: Secret,
    pub database: String,
    pub encryption: Encryption,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name, or an address; IPv6 without brackets.
    Name(String),
    /// The folder of a unix socket; of MySQL's the socket itself.
    Socket(PathBuf),
}

/// What is asked of the connection, from the weakest to the strongest, in the words of PostgreSQL's own `sslmode` and MySQL's
/// own `ssl-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Encryption {
    /// `disable`, `disabled`
    None,
    /// `prefer`, `preferred`: if the server can.
    IfPossible,
    /// `require`, `required`: whoever the server is.
    Required,
    /// `verify-ca`, `verify_ca`: a known authority vouches for it.
    OfAuthority,
    /// `verify-full`, `verify_identity`: and for its name.
    OfName,
}

impl Kind {
    pub fn of(address: &str) -> Option<Kind> {
        let scheme = address.split_once("://")?.0;
        [Kind::Postgres, Kind::MySql].into_iter().find(|kind| kind.schemes().contains(&scheme))
    }

    /// As `[storage] type` has it.
    pub fn name(self) -> &'static str {
        self.schemes()[0]
    }

    pub fn title(self) -> &'static str {
        match self {
            Kind::Postgres => "PostgreSQL",
            Kind::MySql => "MySQL, MariaDB",
        }
    }

    fn schemes(self) -> &'static [&'static str] {
        match self {
            Kind::Postgres => &["postgres", "postgresql"],
            Kind::MySql => &["mysql", "mariadb"],
        }
    }

    /// Of an address that names none.
    fn port(self) -> u16 {
        match self {
            Kind::Postgres => 5432,
            Kind::MySql => 3306,
        }
    }

    /// What may stand behind the `?`: for the encryption, and for a unix socket.
    pub fn names(self) -> [&'static str; 2] {
        match self {
            Kind::Postgres => ["sslmode", "host"],
            Kind::MySql => ["ssl-mode", "socket"],
        }
    }

    /// What asks for a known authority, whatever the server's name is, and what asks for the most.
    pub fn modes(self) -> [&'static str; 2] {
        match self {
            Kind::Postgres => ["sslmode=verify-ca", "sslmode=verify-full"],
            Kind::MySql => ["ssl-mode=verify_ca", "ssl-mode=verify_identity"],
        }
    }

    fn encryption(self, word: &str) -> Result<Encryption, &'static str> {
        use Encryption::{IfPossible, None, OfAuthority, OfName, Required};
        let word = word.to_ascii_lowercase();
        Ok(match (self, word.as_str()) {
            (Kind::Postgres, "disable") | (Kind::MySql, "disabled") => None,
            (Kind::Postgres, "prefer") | (Kind::MySql, "preferred") => IfPossible,
            (Kind::Postgres, "require") | (Kind::MySql, "required") => Required,
            (Kind::Postgres, "verify-ca") | (Kind::MySql, "verify_ca") => OfAuthority,
            (Kind::Postgres, "verify-full") | (Kind::MySql, "verify_identity") => OfName,
            (Kind::Postgres, _) => {
                return Err("has an sslmode that is none of disable, prefer, require, verify-ca, verify-full")
            }
            (Kind::MySql, _) => {
                return Err("has an ssl-mode that is none of disabled, preferred, required, verify_ca, verify_identity")
            }
        })
    }
}

impl Address {
    /// The error says what to write, and nothing of what is written: a password stands in it.
    pub fn parse(address: &str) -> Result<Address, String> {
        let kind = Kind::of(address)
            .ok_or("must begin with postgres:// or mysql://, such as postgres://user:password@db.lan/b24proxy")?;
        let name = kind.name();
        // What is special in an address may be part of a password.
        let refused = |why: &str| {
            format!(
                "{why}, as in {name}://user:password@db.lan/b24proxy; in a password write %40 for @, %2F for /, %3F for ? and \
                 %25 for %"
            )
        };
        let form = || refused("cannot be read: it must be an address");
        let rest = address.split_once("://").map_or("", |(_, rest)| rest);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (place, database) = rest.split_once('/').ok_or_else(|| refused("must end with the database's name"))?;
        let (user, place) = place.rsplit_once('@').ok_or_else(|| refused("must name a user"))?;
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        let plain = |text: &str| {
            let text = String::from_utf8(decoded(text.as_bytes())).ok();
            text.filter(|text| !text.contains(char::is_control)).ok_or_else(form)
        };
        let (user, database) = (plain(user)?, plain(database)?);
        if user.is_empty() {
            return Err(refused("must name a user"));
        }
        if database.is_empty() || database.contains('/') {
            return Err(refused("must end with the database's name"));
        }
        let (mut hosts, mut encryption) = (Vec::new(), None);
        if !place.is_empty() {
            let named = place.split(',').map(|place| host_and_port(place, kind.port()));
            hosts = named.collect::<Option<Vec<_>>>().ok_or_else(form)?;
        }
        let [mode, socket] = kind.names();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (word, value) = part.split_once('=').unwrap_or((part, ""));
            if word == mode {
                encryption = Some(kind.encryption(value)?);
            } else if word == socket && hosts.is_empty() {
                hosts = vec![host_and_port(value, kind.port()).ok_or_else(form)?];
            } else {
                return Err(refused(&format!("may have {mode}=… behind a ?, and nothing else")));
            }
        }
        if hosts.is_empty() {
            return Err(refused("must name a host"));
        }
        let is_here = hosts.iter().all(|(host, _)| host.is_here());
        let encryption = encryption.unwrap_or(if is_here { Encryption::None } else { Encryption::OfName });
        if encryption > Encryption::IfPossible && hosts.iter().any(|(host, _)| matches!(host, Host::Socket(_))) {
            return Err(format!("asks for TLS over a unix socket, which has none: leave {mode} out"));
        }
        Ok(Address { kind, hosts, user, password: Secret::new(plain(password)?), database, encryption })
    }
}

impl Address {
    /// Whether nobody on the way can listen.
    pub fn is_here(&self) -> bool {
        self.hosts.iter().all(|(host, _)| host.is_here())
    }
}

impl std::fmt::Display for Address {
    /// Without user and password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://", self.kind.name())?;
        for (i, (host, port)) in self.hosts.iter().enumerate() {
            f.write_str(if i > 0 { "," } else { "" })?;
            match host {
                Host::Socket(folder) => write!(f, "{}", folder.display())?,
                Host::Name(name) if name.contains(':') => write!(f, "[{name}]")?,
                Host::Name(name) => f.write_str(name)?,
            }
            if *port != self.kind.port() {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.database)
    }
}

impl Host {
    /// Whether nobody on the way can listen.
    fn is_here(&self) -> bool {
        match self {
            Host::Socket(_) => true,
            Host::Name(name) => {
                name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
            }
        }
    }
}

fn host_and_port(place: &str, default: u16) -> Option<(Host, u16)> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, port)
        }
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok().filter(|port| *port > 0)?,
        Some(_) => return None,
        None => port.is_empty().then_some(default)?,
    };
    // A path, with its slashes encoded or not (in `host=`).
    let plain = String::from_utf8(decoded(host.as_bytes())).ok()?;
    if plain.starts_with('/') {
        return (!plain.contains(char::is_control)).then(|| (Host::Socket(PathBuf::from(plain)), port));
    }
    let is_name = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b));
    is_name.then(|| (Host::Name(host.to_ascii_lowercase()), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Address {
        Address::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[test]
    fn an_address_names_host_port_user_password_and_database() {
        for (text, shown, user, password) in [
            ("postgres://u:p@db.lan/b24", "postgres://db.lan/b24", "u", "p"),
            ("postgresql://u:p%40%2F@DB.lan:6432/b24", "postgres://db.lan:6432/b24", "u", "p@/"),
            ("postgres://u:a:b@[::1]/b24", "postgres://[::1]/b24", "u", "a:b"),
            ("postgres://u@10.0.0.1,db2.lan:5433/b24", "postgres://10.0.0.1,db2.lan:5433/b24", "u", ""),
            ("postgres://u@%2Frun%2Fpg/b24", "postgres:///run/pg/b24", "u", ""),
            ("postgres://u@/b24?host=/run/pg", "postgres:///run/pg/b24", "u", ""),
            ("mysql://u:p@db.lan/b24", "mysql://db.lan/b24", "u", "p"),
            ("mariadb://u:p@db.lan:3307/b24", "mysql://db.lan:3307/b24", "u", "p"),
            ("mysql://u@%2Frun%2Fmysqld.sock/b24", "mysql:///run/mysqld.sock/b24", "u", ""),
            ("mysql://u@/b24?socket=/run/mysqld.sock", "mysql:///run/mysqld.sock/b24", "u", ""),
        ] {
            let address = parsed(text);
            assert_eq!((&*address.to_string(), &*address.user, address.password.expose()), (shown, user, password));
        }
    }

    #[test]
    fn what_leaves_this_machine_is_encrypted_and_verified_unless_the_address_says_otherwise() {
        for (text, expected) in [
            ("postgres://u:p@db.lan/b", Encryption::OfName),
            ("postgres://u:p@127.0.0.1,db.lan/b", Encryption::OfName),
            ("postgres://u:p@localhost/b", Encryption::None),
            ("postgres://u:p@[::ffff:127.0.0.1]/b", Encryption::None),
            ("postgres://u:p@%2Frun/b", Encryption::None),
            ("postgres://u:p@db.lan/b?sslmode=disable", Encryption::None),
            ("postgres://u:p@localhost/b?sslmode=verify-ca", Encryption::OfAuthority),
            ("mysql://u:p@db.lan/b", Encryption::OfName),
            ("mysql://u:p@127.0.0.1/b", Encryption::None),
            ("mysql://u:p@db.lan/b?ssl-mode=disabled", Encryption::None),
            ("mysql://u:p@db.lan/b?ssl-mode=PREFERRED", Encryption::IfPossible),
            ("mysql://u:p@db.lan/b?ssl-mode=required", Encryption::Required),
            ("mysql://u:p@localhost/b?ssl-mode=verify_ca", Encryption::OfAuthority),
            ("mysql://u:p@localhost/b?ssl-mode=VERIFY_IDENTITY", Encryption::OfName),
        ] {
            assert_eq!(parsed(text).encryption, expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_shown() {
        for text in [
            "",
            "db.lan",
            "http://u:geheim@db.lan/b",
            "postgres://u:geheim@db.lan",
            "postgres://u:geheim@db.lan/",
            "postgres://u:ge/heim@db.lan/b",
            "postgres://db.lan/b",
            "postgres://:geheim@db.lan/b",
            "postgres://u:geheim@/b",
            "postgres://u:geheim@db.lan:0/b",
            "postgres://u:geheim@db lan/b",
            "postgres://u:geheim@db.lan/b?sslmode=allow",
            "postgres://u:geheim@db.lan/b?options=-c",
            "postgres://u:geheim@%2Frun/b?sslmode=require",
            "postgres://u:geheim%00@db.lan/b",
            "mysql://u:geheim@db.lan",
            "mysql://u:geheim@db.lan/b?sslmode=disable",
            "mysql://u:geheim@db.lan/b?ssl-mode=require",
            "mysql://u:geheim@db.lan/b?ssl-mode=verify-ca",
            "mysql://u:geheim@%2Frun/b?ssl-mode=required",
        ] {
            let why = Address::parse(text).expect_err(text);
            assert!(!why.contains("geheim"), "{why}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "((postgres|mysql)://)?[a-z:/@?=&,%\\[\\]0-9]{0,40}") {
            let _ = Address::parse(&text);
        }
    }
}
