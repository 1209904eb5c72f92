//! Where a resident program listens, and how many requests it serves at once.

use std::net::SocketAddr;
use std::path::PathBuf;

/// The command that serves many requests.
pub const COMMAND: &str = "fastcgi";
/// The hidden one by which each of its workers is started; behind it stands how many requests are served at once.
pub const WORKER: &str = "worker";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// `None`: standard input is a listening socket.
    pub address: Option<Address>,
    /// `None`: nobody has said.
    pub workers: Option<u32>,
}

/// An address of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// More workers would help nobody: Bitrix24 answers so many requests of one portal in minutes.
pub const MOST_WORKERS: u32 = 256;

impl Address {
    /// `unix:/run/b24proxy.sock` or `127.0.0.1:9000`. The error says what to write.
    pub fn parse(text: &str) -> Result<Address, String> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Address::Unix(path.into())),
            Some(_) => Err(format!("{text:?} must be a whole path, such as unix:/run/b24proxy.sock")),
            None => text.parse().map(Address::Tcp).map_err(|_| {
                format!("{text:?} must be unix:PATH or ADDRESS:PORT, such as unix:/run/b24proxy.sock or 127.0.0.1:9000")
            }),
        }
    }
}

/// Of 1 to [`MOST_WORKERS`].
pub fn workers(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|count| (1..=MOST_WORKERS).contains(count))
        .ok_or_else(|| format!("{text:?} must be a number of workers from 1 to {MOST_WORKERS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_path_or_numbers() {
        assert_eq!(Address::parse("unix:/run/a b.sock"), Ok(Address::Unix("/run/a b.sock".into())));
        assert_eq!(Address::parse("[::1]:9000"), Ok(Address::Tcp("[::1]:9000".parse().unwrap())));
        for wrong in ["unix:", "unix:run/x", "/run/x", "9000", ":9000", "localhost:9000", "127.0.0.1", ""] {
            assert!(Address::parse(wrong).unwrap_err().contains("/run/b24proxy.sock"), "{wrong}");
        }
    }

    #[test]
    fn workers_are_a_few() {
        assert_eq!(workers("8"), Ok(8));
        for wrong in ["0", "257", "-1", "many", ""] {
            assert!(workers(wrong).is_err(), "{wrong}");
        }
    }
}
