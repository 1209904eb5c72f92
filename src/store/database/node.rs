//! A node: its way to the database, and its own folder.

use super::link::{Connect, Link};
use super::private::Private;
use super::statements::Row;
use crate::store::file::Folder;
use crate::store::records::{Installation, Notes, Tokens};
use crate::store::{Quota, Replaced, Whereabouts};
use crate::system::disk::Reason;
use crate::values::moved::Mark;
use crate::values::portal::PortalName;
use std::path::Path;
use std::sync::Arc;

#[derive(Clone)]
pub struct Node {
    pub link: Arc<Link>,
    /// Of this node: its locks and what the database does not have yet.
    pub folder: Folder,
    pub quota: Quota,
    /// Its address as it is shown.
    pub name: String,
}

impl Node {
    /// `stays`: whether this process serves more than one request.
    pub fn new(connect: Connect, name: String, folder: &Path, quota: Quota, stays: bool) -> Node {
        Node { link: Arc::new(Link::new(connect, stays)), folder: Folder::new(folder), quota, name }
    }

    pub fn stored(&self, portal: &PortalName) -> Result<Installation, Reason> {
        let row = self.link.ask(|statements| statements.portal(portal.as_str()))?;
        self.installation(portal, row.unwrap_or_default())
    }

    pub fn installation(&self, portal: &PortalName, row: Row) -> Result<Installation, Reason> {
        if let Some(mark) = mark_of(&row)? {
            return Err(mark.sentence(portal));
        }
        let Some(pair) = row.pair else { return Ok(Installation::NotInstalled) };
        Ok(match Tokens::parse(pair.as_bytes()) {
            Ok(tokens) => Installation::Installed(Box::new(tokens)),
            Err(why) => Installation::Broken(format!(
                "the tokens in {} are damaged ({why}). They are left as they are: restore them from a copy, or set pair and \
                 fingerprint to NULL and install the application again",
                self.place(portal).full
            )),
        })
    }

    pub fn refuse_moved(&self, portal: &PortalName) -> Result<(), Reason> {
        let row = self.link.ask(|statements| statements.portal(portal.as_str()))?.unwrap_or_default();
        mark_of(&row)?.map_or(Ok(()), |mark| Err(mark.sentence(portal)))
    }

    /// Puts a pair in the place of the expected one. It may be asked again: then it is there already.
    pub fn put(&self, portal: &PortalName, expected: Option<&str>, tokens: &Tokens) -> Result<Replaced, Reason> {
        let (text, fingerprint) = (serde_json::to_string(tokens).expect("plain data serializes"), tokens.fingerprint());
        let otherwise = self.link.ask(|statements| {
            match statements.replace_pair(portal.as_str(), expected, &fingerprint, &text)? {
                true => Ok(None),
                false => Ok(Some(statements.portal(portal.as_str())?.unwrap_or_default())),
            }
        })?;
        let Some(row) = otherwise else { return Ok(Replaced::Yes) };
        match mark_of(&row)? {
            Some(mark) => Err(mark.sentence(portal)),
            None if row.fingerprint.as_ref() == Some(&fingerprint) => Ok(Replaced::Yes),
            None => Ok(Replaced::OtherIsStored),
        }
    }

    /// Stores what an earlier run of this node could not, under the node's lock: a pair that replaces exactly what is stored.
    /// Any other has been overtaken.
    pub fn settle(&self, portal: &PortalName) -> Result<(), Reason> {
        let private = Private::new(&self.folder, portal);
        for found in private.found()? {
            let expected = Some(found.replaces.as_str()).filter(|replaced| !replaced.is_empty());
            let _ = self.put(portal, expected, &found.tokens)?;
            private.is_settled(found.path())?;
        }
        Ok(())
    }

    /// Where a portal's pair is kept.
    pub fn place(&self, portal: &PortalName) -> Whereabouts {
        let name = format!("b24proxy_portals, {portal}");
        let set_aside = format!(
            "UPDATE b24proxy_portals SET removed = pair, pair = NULL, fingerprint = NULL WHERE portal = '{portal}';"
        );
        Whereabouts { full: format!("{}, {name}", self.name), name, set_aside: Some(set_aside) }
    }
}

pub fn notes_of(row: &Row) -> Notes {
    row.notes.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

pub fn mark_of(row: &Row) -> Result<Option<Mark>, Reason> {
    let Some(text) = &row.moved else { return Ok(None) };
    serde_json::from_str(text).map(Some).map_err(|_| "moved in b24proxy_portals is damaged".to_owned())
}
