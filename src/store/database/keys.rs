//! Idempotency keys: a row for each, held by a lease, and a row for each of its entries.

use super::lease::{new_lease, POLL};
use super::link::{Link, Renewal, Use};
use super::node::Node;
use super::statements::{Kept, NewKey, OpenKey};

use crate::store::records::Entry;
use crate::store::{client_name, key_name, Appended, Claim, Journal, Quota, KEY_LIFETIME};
use crate::system::clock::Deadline;
use crate::system::disk::Reason;
use crate::system::wait::pause;
use crate::values::portal::PortalName;
use std::sync::Arc;

const SWEEP_EVERY_MS: i64 = 3_600_000;

pub fn claim(
    database: &Node,
    client: &str,
    portal: &PortalName,
    key: &str,
    request: &str,
    until: Deadline,
) -> Result<Claim, Reason> {
    let client = client_name(client);
    let key = OpenKey { key: format!("{client}{}", key_name(portal, key)), lease: new_lease() };
    let link = &database.link;
    loop {
        let new = NewKey { key: &key, client: &client, portal: portal.as_str() };
        let opened = link.ask(|statements| statements.open_key(&new, request))?;
        match opened {
            Some(row) if row.has_expired => {
                link.ask(|statements| statements.forget_key(&key))?;
                continue;
            }
            Some(row) if row.entries > 0 && row.request != request => {
                link.ask(|statements| statements.leave_key(&key))?;
                return Ok(Claim::OtherRequest);
            }
            Some(row) => {
                let mut open = Open {
                    link: link.clone(),
                    client,
                    request: request.to_owned(),
                    quota: database.quota,
                    place: format!("{}: {} in b24proxy_keys", database.name, key.key),
                    entries: row.entries,
                    renewal: None,
                    key,
                    _use: link.used(),
                };
                // From here on the key is left where something fails.
                open.renewal = Some(renewal(link, &open.key)?);
                let entries = open.read()?;
                return Ok(Claim::Opened(Box::new(open), entries));
            }
            None => {
                database.refuse_moved(portal)?;
                if until.has_passed() {
                    return Ok(Claim::Busy);
                }
                pause(POLL.min(until.remaining()))?;
            }
        }
    }
}

fn renewal(link: &Arc<Link>, key: &OpenKey) -> Result<Renewal, Reason> {
    let OpenKey { key, lease } = key.clone();
    Renewal::start(link, move |statements| statements.renew_key(&key, lease))
}

struct Open {
    link: Arc<Link>,
    client: String,
    key: OpenKey,
    request: String,
    quota: Quota,
    place: String,
    /// So many are there.
    entries: i32,
    /// Who has it open may wait long before a first entry: for the limit, for a refresh.
    renewal: Option<Renewal>,
    _use: Use,
}

impl Open {
    fn read(&self) -> Result<Vec<Entry<'static>>, Reason> {
        if self.entries == 0 {
            return Ok(Vec::new());
        }
        let rows = self.link.ask(|statements| statements.entries(&self.key.key))?;
        let damaged = |_| format!("the idempotency key in {} is damaged", self.place);
        let parsed = rows.into_iter().map(|(text, body)| {
            let entry: Entry<'static> = serde_json::from_str(&text).map_err(damaged)?;
            Ok(entry.with_body(body))
        });
        parsed.collect()
    }

    /// The first entry; where the client has no place left, once more when what has expired has gone.
    fn begin(&mut self, text: &str) -> Result<Appended, Reason> {
        let begin =
            |open: &Open| open.link.ask(|statements| statements.begin(&open.key, &open.request, text, open.quota));
        match begin(self)? {
            Kept::Yes { swept_ms_ago, .. } => {
                if swept_ms_ago >= SWEEP_EVERY_MS {
                    // It is tidying.
                    let _ = self.link.ask(|statements| statements.sweep(&self.client));
                }
                Ok(Appended::Kept)
            }
            Kept::Lost => Err(self.lost()),
            Kept::Full => {
                let expires_ms = self.link.ask(|statements| statements.sweep(&self.client))?;
                match begin(self)? {
                    Kept::Yes { .. } => Ok(Appended::Kept),
                    Kept::Lost => Err(self.lost()),
                    Kept::Full => {
                        let seconds = u64::try_from(expires_ms).unwrap_or(0).div_ceil(1000);
                        Ok(Appended::Full { retry_after: seconds.clamp(1, KEY_LIFETIME as u64) })
                    }
                }
            }
        }
    }

    fn lost(&self) -> Reason {
        format!("the idempotency key in {} was held too long: it is another's now", self.place)
    }
}

impl Journal for Open {
    fn append(&mut self, entry: &Entry) -> Result<Appended, Reason> {
        let text = serde_json::to_string(entry).expect("plain data serializes");
        let appended = if self.entries == 0 {
            self.begin(&text)?
        } else {
            let (body, after) = (entry.body(), self.entries);
            match self.link.ask(|statements| statements.append(&self.key, after, &text, body, self.quota))? {
                Kept::Yes { with_body, .. } if with_body || body.is_none() => Appended::Kept,
                Kept::Yes { .. } => Appended::WithoutBody,
                Kept::Lost | Kept::Full => return Err(self.lost()),
            }
        };
        if !matches!(appended, Appended::Full { .. }) {
            self.entries += 1;
        }
        Ok(appended)
    }

    fn forget(self: Box<Self>) {
        let _ = self.link.ask(|statements| statements.forget_key(&self.key));
    }

    fn last_will(&self) -> Box<dyn FnOnce()> {
        let (link, key) = (self.link.clone(), self.key.clone());
        Box::new(move || {
            let _ = link.try_ask(|statements| statements.forget_key(&key));
        })
    }

    fn place(&self) -> String {
        self.place.clone()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.renewal = None;
        // Where it cannot be left its lease ends.
        let _ = self.link.ask(|statements| statements.leave_key(&self.key));
    }
}
