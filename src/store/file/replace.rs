//! How a pair of tokens takes the place of another, whole and durable: written beside it into space that was taken before,
//! synced, and renamed over it. Made by the lock alone.

use super::folder::Folder;
use super::reserved::Reserved;
use crate::store::records::Tokens;
use crate::store::{Replaced, Room};
use crate::system::disk::{explain, Reason};
use crate::values::portal::PortalName;

/// Space for the next pair of a portal. Where one was written and cannot take its place, whoever locks next decides what
/// becomes of it.
pub struct Next<'l> {
    reserved: Reserved,
    folder: &'l Folder,
    portal: &'l PortalName,
}

impl<'l> Next<'l> {
    pub fn reserve(folder: &'l Folder, portal: &'l PortalName) -> Result<Next<'l>, Reason> {
        Ok(Next { reserved: Reserved::take(folder.next_tokens(portal))?, folder, portal })
    }
}

impl Room for Next<'_> {
    /// The folder is synced last, so that after a power cut one of the two pairs is there, whole.
    fn replace(mut self: Box<Self>, expected: Option<&str>, tokens: &Tokens) -> Result<Replaced, Reason> {
        if let Some(mark) = self.folder.mark(self.portal)? {
            return Err(mark.sentence(self.portal));
        }
        let is_expected = self.folder.holds(self.portal, expected);
        if is_expected == Ok(false) {
            return Ok(Replaced::OtherIsStored);
        }
        self.reserved.write(tokens, expected.unwrap_or_default())?;
        // What cannot be read is not overwritten; the new pair waits beside it.
        is_expected?;
        let place = self.folder.tokens(self.portal);
        std::fs::rename(self.reserved.path(), &place).map_err(|e| explain(&e, "replace", &place))?;
        self.folder.sync();
        Ok(Replaced::Yes)
    }
}
