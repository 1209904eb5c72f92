//! The way to a database's server: its hosts one after another, and what an administrator is told where it leads nowhere, in the
//! words of either kind.

use super::statements::{Answer, Failed, VERSION};
use crate::system::clock::Deadline;
use crate::system::refusal::refused;
use crate::values::database::{Address, Kind};
use rustls::CertificateError;
use std::fmt::Display;
use std::io::{Error, ErrorKind};
use std::time::Duration;

/// What is wrong with a server's TLS, and what mends it.
pub type ExplainTls = fn(&rustls::Error) -> String;

/// Asks each host of an address until one answers; what is left of the time is shared among those that are left.
pub fn first_of<C>(
    address: &Address,
    patience: Duration,
    mut connect: impl FnMut(&Address, Duration) -> Answer<C>,
) -> Answer<C> {
    let until = Deadline::after(patience);
    let mut failures = Vec::new();
    for (i, host) in address.hosts.iter().enumerate() {
        let left = u32::try_from(address.hosts.len() - i).unwrap_or(u32::MAX);
        let one = Address { hosts: vec![host.clone()], ..address.clone() };
        match connect(&one, until.remaining() / left) {
            Ok(connection) => return Ok(connection),
            Err(failed) => failures.push(failed.why),
        }
    }
    Err(Failed { why: failures.join("; "), again: false })
}

/// Tells what went wrong at one server: it is named, its user is not.
#[derive(Clone)]
pub struct Teller {
    /// Its address as it is shown.
    name: String,
    user: String,
    kind: Kind,
    explain: ExplainTls,
}

pub const UNKNOWN_NAME: &str =
    "its name is not known here: correct the host in [storage] url, or let this machine's DNS know it \
    (/etc/resolv.conf, /etc/hosts)";
pub const NO_PASSWORD: &str = "it asks for a password: write it into [storage] url";

impl Teller {
    /// Of an address with one host.
    pub fn new(address: &Address, explain: ExplainTls) -> Teller {
        Teller { name: address.to_string(), user: address.user.clone(), kind: address.kind, explain }
    }

    pub fn failed(&self, why: impl Display, again: bool) -> Failed {
        let mut why = why.to_string();
        for quote in ['"', '\''] {
            why = why.replace(&format!("{quote}{}{quote}", self.user), &format!("{quote}…{quote}"));
        }
        Failed { why: format!("the database {}: {why}", self.name), again }
    }

    pub fn silent(&self, waited: Duration) -> Failed {
        let seconds = waited.as_secs_f32().round().max(1.0);
        let why = format!(
            "it has not answered within {seconds} seconds: see whether it runs and is not overloaded, and whether host and port \
             in [storage] url are right; a firewall may drop what is sent there"
        );
        self.failed(why, false)
    }

    pub fn newer(&self, version: i32) -> Failed {
        let why = format!(
            "its tables are of version {version}, this program's of {VERSION}: a newer b24proxy has used it; use that one on this \
             node too"
        );
        self.failed(why, false)
    }

    pub fn no_tls(&self) -> Failed {
        let why = format!(
            "it has no TLS, or is another server: let it have a certificate, or, where the network is trusted, ask for none by \
             {} in [storage] url",
            self.kind.names()[0]
        );
        self.failed(why, false)
    }

    /// What reading and writing say, and TLS through them. `waited`: how long at most.
    pub fn io(&self, error: &Error, waited: Duration) -> Failed {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match (tls, refused(error)) {
            (Some(problem), _) => self.tls(problem),
            (None, Some(refused)) => self.failed(format_args!("{error}: {refused}"), false),
            (None, None) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => self.silent(waited),
            (None, None) => match cure(error.kind()) {
                Some(cure) => self.failed(cure, false),
                None => self.failed(error, true),
            },
        }
    }

    fn tls(&self, problem: &rustls::Error) -> Failed {
        let why = match problem {
            // MySQL's driver takes none such, even as ca_file.
            rustls::Error::InvalidCertificate(CertificateError::Other(other))
                if format!("{other:?}").contains("CaUsedAsEndEntity") =>
            {
                "its certificate is an authority's own (CA:TRUE): let it have one that this authority has signed, and name the \
                 authority's in ca_file"
                    .to_owned()
            }
            problem => (self.explain)(problem),
        };
        let [of_authority, _] = self.kind.modes();
        match problem {
            rustls::Error::InvalidCertificate(_) => self.failed(
                format_args!("{why}. {of_authority} in [storage] url verifies its authority, and not its name"),
                false,
            ),
            _ => self.failed(why, false),
        }
    }
}

/// Where no connection can be made.
pub fn cure(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::ConnectionRefused => "nobody listens there: start it, or correct host and port in [storage] url",
        ErrorKind::NotFound => "there is no such socket: start it, or correct the socket's path in [storage] url",
        ErrorKind::PermissionDenied => "this program's user may not use its socket",
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            "no way leads there: correct the host in [storage] url, or ask whoever runs the network"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn the_time_is_shared_among_the_hosts_and_each_says_why_it_is_none() {
        let three = address("postgres://u:geheim@one,two:6432,three/b");
        let mut asked = Vec::new();
        let failed = first_of::<()>(&three, Duration::from_secs(9), |one, share| {
            asked.push((one.to_string(), share.as_secs_f32().round()));
            std::thread::sleep(Duration::from_millis(10));
            Err(Teller::new(one, |_| String::new()).failed("no", true))
        })
        .unwrap_err();
        let shares: Vec<f32> = asked.iter().map(|(_, share)| *share).collect();
        // The first ones have needed little of theirs.
        assert_eq!(shares, [3.0, 4.0, 9.0]);
        assert_eq!(
            failed.why,
            "the database postgres://one/b: no; the database postgres://two:6432/b: no; the database postgres://three/b: no"
        );
        let second = first_of(&three, Duration::from_secs(9), |one, _| match one.to_string().contains("two") {
            true => Ok(one.to_string()),
            false => Err(Failed { why: String::new(), again: false }),
        });
        assert_eq!(second.unwrap(), "postgres://two:6432/b");
    }

    #[test]
    fn a_user_is_not_shown_and_the_server_is() {
        let teller = Teller::new(&address("mysql://anna:geheim@db.lan/b"), |_| String::new());
        let told = teller.failed("Access denied for user 'anna'@'10.0.0.7', \"anna\"", false).why;
        assert_eq!(told, "the database mysql://db.lan/b: Access denied for user '…'@'10.0.0.7', \"…\"");
    }

    #[test]
    fn what_stands_in_the_way_is_told_with_what_to_do() {
        let teller = Teller::new(&address("mysql://u:p@db.lan/b"), |_| "its certificate is a hat".into());
        let told = |error: Error| teller.io(&error, Duration::from_secs(3)).why;
        for (kind, words) in [
            (ErrorKind::ConnectionRefused, "nobody listens"),
            (ErrorKind::NotFound, "socket"),
            (ErrorKind::TimedOut, "within 3 seconds"),
            (ErrorKind::HostUnreachable, "no way"),
        ] {
            assert!(told(kind.into()).contains(words), "{}", told(kind.into()));
        }
        let certificate = |problem| told(Error::other(rustls::Error::InvalidCertificate(problem)));
        let refused = certificate(CertificateError::UnknownIssuer);
        assert!(refused.contains("is a hat. ssl-mode=verify_ca"), "{refused}");
        #[derive(Debug)]
        struct CaUsedAsEndEntity;
        impl std::error::Error for CaUsedAsEndEntity {}
        impl Display for CaUsedAsEndEntity {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("no words")
            }
        }
        let own = certificate(CertificateError::Other(rustls::OtherError(std::sync::Arc::new(CaUsedAsEndEntity))));
        assert!(own.contains("authority's own (CA:TRUE)"), "{own}");
        assert!(teller.no_tls().why.contains("ssl-mode"));
    }
}
