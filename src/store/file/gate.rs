//! A portal's gate: whoever has a key open is within, and a move waits until nobody is.
//!
//! ```text
//! tokens/acme.bitrix24.ru.gate   flock, shared by those who have a key open, alone by a move
//! tokens/acme.bitrix24.ru.turn   there while a move holds it: nobody enters, so that its turn comes
//! ```

use super::folder::Folder;
use crate::store::{waited_for, POLL};
use crate::system::clock::Deadline;
use crate::system::disk::{explain, is_contended, open_or_create_in_folder, open_to_read, Reason};
use crate::values::portal::PortalName;
use fs2::FileExt;
use std::fs::File;
use std::path::PathBuf;

/// Lives for as long as somebody is within.
pub struct Entered {
    _gate: File,
}

/// Nobody is within, and nobody enters.
pub struct Closed {
    _gate: File,
    _turn: File,
    path: PathBuf,
}

impl Drop for Closed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// `None`: the deadline passes first. `Err`, too, where the portal is not here any more.
pub fn enter(folder: &Folder, portal: &PortalName, until: Deadline) -> Result<Option<Entered>, Reason> {
    let (gate, turn) = (folder.of_portal(portal, "gate"), folder.of_portal(portal, "turn"));
    // One that a killed move has left is not locked.
    let has_turn = || open_to_read(&turn).is_ok_and(|file| FileExt::try_lock_shared(&file).is_err());
    let entered = waited_for(until, POLL, || match has_turn() {
        true => Ok(None),
        false => {
            let file = open_or_create_in_folder(&gate)?;
            taken(FileExt::try_lock_shared(&file), &gate).map(|taken| taken.then_some(file))
        }
    })?;
    let Some(gate) = entered else { return Ok(None) };
    match folder.mark(portal)? {
        Some(mark) => Err(mark.sentence(portal)),
        None => Ok(Some(Entered { _gate: gate })),
    }
}

pub fn close(folder: &Folder, portal: &PortalName, until: Deadline) -> Result<Option<Closed>, Reason> {
    let (gate, turn) = (folder.of_portal(portal, "gate"), folder.of_portal(portal, "turn"));
    let alone = |path: &PathBuf| {
        let file = open_or_create_in_folder(path)?;
        waited_for(until, POLL, || taken(FileExt::try_lock_exclusive(&file), path).map(|taken| taken.then_some(())))
            .map(|taken| taken.map(|()| file))
    };
    let Some(in_turn) = alone(&turn)? else { return Ok(None) };
    let closed = alone(&gate)?.map(|gate| Closed { _gate: gate, _turn: in_turn, path: turn.clone() });
    if closed.is_none() {
        let _ = std::fs::remove_file(turn);
    }
    Ok(closed)
}

fn taken(locked: std::io::Result<()>, path: &std::path::Path) -> Result<bool, Reason> {
    match locked {
        Ok(()) => Ok(true),
        Err(error) if is_contended(&error) => Ok(false),
        Err(error) => Err(explain(&error, "lock", path)),
    }
}
