//! A small record in a file that its user has locked: read whole, written whole.

use crate::system::disk::read_at_once;
use serde::de::DeserializeOwned;
use serde::Serialize;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};

/// Nothing that is kept so is larger.
const MOST: usize = 64 << 10;
/// Records are padded to a multiple of this, so that a file seldom changes its length.
const STEP: usize = 128;

/// What the file says; `None` where it is empty or damaged.
pub fn read<T: DeserializeOwned>(mut file: &File) -> Option<T> {
    file.seek(SeekFrom::Start(0)).ok()?;
    let bytes = read_at_once(file, MOST).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// In the place of what it says. Not synced.
pub fn write<T: Serialize>(mut file: &File, record: &T) -> std::io::Result<()> {
    let mut bytes = serde_json::to_vec(record).expect("plain data serializes");
    bytes.resize(bytes.len().next_multiple_of(STEP), b' ');
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&bytes)?;
    if file.metadata()?.len() != bytes.len() as u64 {
        file.set_len(bytes.len() as u64)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_record_leaves_nothing_of_a_longer_one() {
        let path = std::env::temp_dir().join(format!("b24proxy-record-{}", crate::values::secret::random_hex::<8>()));
        let file = crate::system::disk::open_or_create(&path).unwrap();
        assert_eq!(read::<Vec<u64>>(&file), None);
        write(&file, &vec![1_000_000_u64; 60]).unwrap();
        write(&file, &vec![4_u64]).unwrap();
        assert_eq!(read(&file), Some(vec![4_u64]));
        assert_eq!(file.metadata().unwrap().len(), STEP as u64);
        std::fs::remove_file(path).unwrap();
    }
}
