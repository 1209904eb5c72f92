//! Why there is no answer.

use crate::values::error::Executed;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection; nothing was sent.
    NotSent { why: String, obstacle: Obstacle },
    /// The time is over.
    Timeout(Executed),
    /// The connection was lost after something was sent.
    Lost { why: String },
    /// The answer is longer than allowed.
    TooLarge,
    /// This program's own side: a certificate file that cannot be read.
    Configuration(String),
}

impl Failure {
    /// What the other side did, as a predicate such as "did not answer in time"; of our own side the reason itself.
    pub fn text(&self) -> String {
        match self {
            Failure::NotSent { why, obstacle: Obstacle::HostBusy } => {
                format!("could not be asked: this host refused what a connection takes: {why}")
            }
            Failure::NotSent { why, .. } => format!("could not be reached: {why}"),
            Failure::Timeout(Executed::No) => "could not be reached in time".into(),
            Failure::Timeout(Executed::Unknown) => "did not answer in time".into(),
            Failure::Lost { why } => format!("closed the connection: {why}"),
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
    /// The port answered that nobody listens, so another try is harmless.
    Refused,
    /// The certificate's authority is not among the built-in roots and `ca_file`.
    UnknownAuthority,
    /// The certificate is expired, another host's, or broken.
    Certificate,
    Other,
}
