//! What is stored: a portal's tokens and the notes beside them, and the entries of an idempotency key.

use crate::values::event;
use crate::values::grant::Refusal;
use crate::values::json::number_or_text;
use crate::values::secret::Secret;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A portal's tokens, as `NAME.json` holds them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tokens {
    #[serde(default)]
    pub member_id: String,
    /// As the OAuth server sent it: its own host.
    #[serde(default)]
    pub domain: String,
    pub client_endpoint: String,
    #[serde(default)]
    pub server_endpoint: String,
    pub access_token: Secret,
    pub refresh_token: Secret,
    /// Unix seconds: time of receipt + `expires_in`.
    pub expires_at: i64,
    #[serde(default)]
    pub scope: String,
    #[serde(default, deserialize_with = "number_or_text")]
    pub user_id: u64,
    /// Whose id that is, as the portal told it at the installation; empty where it was not asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user_name: String,
    #[serde(default)]
    pub application_token: Secret,
    #[serde(default)]
    pub client_id: String,
    #[serde(default)]
    pub installed_at: i64,
    /// Unix seconds; 0 = not refreshed since the installation.
    #[serde(default)]
    pub refreshed_at: i64,
    /// The configured address, where the OAuth server has told of a new one: only then may `client_endpoint` name
    /// another host than the configuration.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub renamed_from: String,
    /// What stands behind `?events=` in the address to which Bitrix24 posts events; empty: none was registered yet.
    #[serde(default, skip_serializing_if = "Secret::is_empty")]
    pub events_key: Secret,
}

impl Tokens {
    /// What tells this pair from others, in notes and where one replaces another.
    pub fn fingerprint(&self) -> String {
        self.refresh_token.fingerprint()
    }

    /// Reads them. The error says what is wrong and shows no value.
    pub fn parse(bytes: &[u8]) -> Result<Tokens, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        // serde_json would read an array as a struct, and quotes values in its messages.
        if !text.trim_start().starts_with('{') {
            return Err(if text.trim().is_empty() { "it is empty".into() } else { "it is not a JSON object".into() });
        }
        let tokens: Tokens = serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => {
                let message = error.to_string();
                match message.strip_prefix("missing field ") {
                    Some(rest) => format!("it has no {}", rest.split(' ').next().unwrap_or("")),
                    None => format!("a value of the wrong type in line {} column {}", error.line(), error.column()),
                }
            }
            _ => format!("not JSON from line {} column {} on", error.line(), error.column()),
        })?;
        if tokens.access_token.is_empty() || tokens.refresh_token.is_empty() {
            return Err("a token in it is empty".into());
        }
        Ok(tokens)
    }
}

/// What is stored for a portal.
#[derive(Debug)]
pub enum Installation {
    NotInstalled,
    Installed(Box<Tokens>),
    /// Something is there but is not a pair of tokens: why. It is never overwritten.
    Broken(String),
}

/// An event that Bitrix24 reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub number: u64,
    /// When it arrived, in milliseconds since 1970.
    pub at_ms: i64,
    pub name: String,
    /// JSON.
    pub data: String,
}

impl Event {
    /// How it is kept.
    pub fn line(&self) -> String {
        event::line(self.at_ms, &self.name, &self.data)
    }

    /// How much it counts.
    pub fn size(&self) -> usize {
        self.line().len()
    }
}

/// What is known of a portal beside its tokens. Whoever holds the lock decides by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notes {
    pub refresh: Option<LastRefresh>,
    /// When the OAuth server was asked for an installation, in Unix seconds; those of the last minute.
    pub attempts: Vec<i64>,
    /// When a refresh was begun because the portal seemed to have another address, in Unix seconds.
    pub moved_at: i64,
}

/// What is known of the last refresh that did not end with a stored pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRefresh {
    /// Fingerprint of the refresh token that is or was spent.
    pub spent: String,
    /// Milliseconds since 1970.
    pub at: i64,
    /// `None` = begun, nothing known yet.
    pub failure: Option<Refusal>,
    /// The refresh before this one was interrupted between asking and storing.
    #[serde(default)]
    pub interrupted: bool,
}

impl LastRefresh {
    pub fn speaks_of(&self, tokens: &Tokens) -> bool {
        self.spent == tokens.fingerprint()
    }
}

/// An entry of an idempotency key. A body is `None` where there was no room for it; it is kept beside the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry<'b> {
    /// The request's first call is about to be sent.
    Begun,
    /// It was executed, and this is the answer.
    Done {
        status: u16,
        content_type: String,
        #[serde(skip)]
        body: Option<Cow<'b, [u8]>>,
    },
    /// Of a request with many calls: the next so many of them are about to be sent, all but those of these indexes.
    Sending { calls: usize, held: Vec<usize> },
    /// They were not sent after all.
    NotSent,
    /// The next so many ended, with these results as text between commas. Those of the indexes in `pending` were refused for
    /// now: their entries keep their places.
    Results {
        calls: usize,
        errors: usize,
        halted: bool,
        pending: Vec<usize>,
        #[serde(skip)]
        body: Option<Cow<'b, [u8]>>,
    },
    /// The calls of these indexes, which were pending, are about to be sent.
    SendingAgain { calls: Vec<usize> },
    /// Of them these ended, with these results; others are pending as before.
    ResultsAgain {
        calls: Vec<usize>,
        #[serde(skip)]
        body: Option<Cow<'b, [u8]>>,
    },
}

impl<'b> Entry<'b> {
    pub fn body(&self) -> Option<&[u8]> {
        match self {
            Entry::Done { body, .. } | Entry::Results { body, .. } | Entry::ResultsAgain { body, .. } => {
                body.as_deref()
            }
            Entry::Begun | Entry::Sending { .. } | Entry::SendingAgain { .. } | Entry::NotSent => None,
        }
    }

    /// The same with the body that was kept beside it.
    pub fn with_body(mut self, kept: Option<Vec<u8>>) -> Entry<'b> {
        match &mut self {
            Entry::Done { body, .. } | Entry::Results { body, .. } | Entry::ResultsAgain { body, .. } => {
                *body = kept.map(Cow::Owned);
            }
            Entry::Begun | Entry::Sending { .. } | Entry::SendingAgain { .. } | Entry::NotSent => {}
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_panic_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Tokens::parse(&bytes);
        }
    }
}
