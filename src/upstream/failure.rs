//! Why there is no answer.

use crate::values::error::Executed;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection; nothing was sent.
    NotSent { why: String, obstacle: Obstacle },
    /// The time is over.
    Timeout(Executed),
    /// The connection was lost after something was sent. `stale`: it was a kept one, which the other side closed before any
    /// byte of the answer came, perhaps before it was asked.
    Lost { why: String, stale: bool },
    /// The answer is longer than allowed.
    TooLarge,
    /// This program's own side: a certificate file that cannot be read.
    Configuration(String),
}

impl Failure {
    pub fn not_sent(why: impl Into<String>, obstacle: Obstacle) -> Failure {
        Failure::NotSent { why: why.into(), obstacle }
    }

    /// What the other side did, as a predicate such as "did not answer in time"; of our own side the reason itself.
    pub fn text(&self) -> String {
        match self {
            Failure::NotSent { why, obstacle: Obstacle::HostBusy } => {
                format!("could not be asked: this host refused what a connection takes: {why}")
            }
            Failure::NotSent { why, obstacle } => format!("could not be reached: {}", obstacle.advised(why)),
            Failure::Timeout(Executed::No) => "could not be reached in time".into(),
            Failure::Timeout(Executed::Unknown) => "did not answer in time".into(),
            Failure::Lost { why, .. } => format!("closed the connection: {why}"),
            Failure::TooLarge => "sent an answer that is too long".into(),
            Failure::Configuration(why) => why.clone(),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text())
    }
}

impl std::error::Error for Failure {}

/// What stood in the way of a connection, for whoever tells a person what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    UnknownHost,
    /// This host refused what a connection takes.
    HostBusy,
    /// The configured proxy gave no connection.
    Proxy,
    /// The port answered that nobody listens, so another try is harmless.
    Refused,
    /// A certificate that is its own authority, and is not in `ca_file`.
    SelfSigned,
    /// The certificate came alone, and its authority is not among the built-in roots and `ca_file`.
    NoIntermediate,
    /// The certificate's authority is not among the built-in roots and `ca_file`.
    UnknownAuthority,
    /// A certificate of version 1, which says nothing of names and purposes.
    OldCertificate,
    /// The certificate is another host's, or no host's.
    OtherName,
    Expired,
    NotValidYet,
    /// Something else is wrong with the certificate.
    Certificate,
    /// TLS 1.1 or older.
    OldTls,
    NoCommonCipher,
    /// Something else than TLS.
    NotTls,
    Other,
}

impl Obstacle {
    /// What mends it, where the proxy or the other side's TLS is the obstacle.
    pub fn cure(self) -> Option<&'static str> {
        Some(match self {
            Obstacle::Proxy => "check [bitrix24] proxy in proxy.toml, or ask whoever runs that proxy",
            Obstacle::SelfSigned => {
                "if it is your own server, set [bitrix24] ca_file to this very certificate (PEM); otherwise something on the way \
                 answers in its place: ask the host"
            }
            Obstacle::NoIntermediate => {
                "let that server send the whole chain (fullchain.pem); for an own authority set [bitrix24] ca_file to its \
                 certificate (PEM)"
            }
            Obstacle::UnknownAuthority => {
                "for an own authority set [bitrix24] ca_file to its certificate (PEM); otherwise something on the way decrypts \
                 TLS: ask the host"
            }
            Obstacle::OldCertificate => {
                "make one of version 3: openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -keyout key.pem -out cert.pem \
                 -subj /CN=HOST -addext subjectAltName=DNS:HOST"
            }
            Obstacle::OtherName => {
                "check the name in proxy.toml; a certificate of your own server must hold it: openssl req -addext \
                 subjectAltName=DNS:HOST"
            }
            Obstacle::Expired => "if this machine's clock is right (date -u), that server's certificate must be renewed",
            Obstacle::NotValidYet => {
                "let the machine's administrator set its clock (timedatectl set-ntp true); if it is right (date -u), that \
                 server's certificate must be made again"
            }
            Obstacle::Certificate => "that server's certificate must be made again",
            Obstacle::OldTls => "let that server's administrator switch TLS 1.2 or 1.3 on",
            Obstacle::NoCommonCipher => {
                "let that server's administrator switch TLS 1.3 on, or for TLS 1.2 ECDHE with AES-GCM or ChaCha20"
            }
            Obstacle::NotTls => "check name and port; something on the way may answer in its place",
            Obstacle::UnknownHost | Obstacle::HostBusy | Obstacle::Refused | Obstacle::Other => return None,
        })
    }

    /// Why, and what mends it.
    pub fn advised(self, why: &str) -> String {
        match self.cure() {
            Some(cure) => format!("{why}; {cure}"),
            None => why.to_owned(),
        }
    }
}
