//! What a configuration was made from, to be told from what is there now.

use super::find::Surroundings;
use crate::system::disk::{Identity, YOUNG};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Files, and which they were before they were read; `None`: there was none.
pub struct Sources {
    files: Vec<(PathBuf, Option<Identity>)>,
    before: SystemTime,
}

impl Surroundings {
    /// As they are now: the places of the configuration up to the first where one is.
    pub fn sources(&self) -> Sources {
        let mut files = Vec::new();
        let before = SystemTime::now();
        for path in self.places() {
            let identity = Identity::of(&path);
            files.push((path, identity));
            if identity.is_some() {
                break;
            }
        }
        Sources { files, before }
    }
}

impl Sources {
    /// And this file, which is read later.
    pub fn and(mut self, path: Option<&Path>) -> Sources {
        self.files.extend(path.map(|path| (path.to_owned(), Identity::of(path))));
        self
    }

    /// Whether what is there is certainly what was read.
    pub fn hold(&self) -> bool {
        self.files.iter().all(|(path, identity)| {
            Identity::of(path) == *identity && identity.is_none_or(|identity| identity.is_older(YOUNG, self.before))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_once_it_is_old_and_for_as_long_as_it_is_the_same() {
        let folder = std::env::temp_dir().join(format!("b24proxy-{}", crate::values::secret::random_hex::<8>()));
        std::fs::create_dir(&folder).unwrap();
        let (first, named) = (folder.join("ca.pem"), folder.join("proxy.toml"));
        let surroundings = Surroundings { named: Some(named.clone()), ..Surroundings::default() };
        assert!(surroundings.sources().hold(), "none is there");
        std::fs::write(&named, "a").unwrap();
        assert!(!surroundings.sources().hold(), "it is young");
        let later = |mut sources: Sources| {
            sources.before += YOUNG;
            sources
        };
        assert!(later(surroundings.sources()).hold());
        let sources = later(surroundings.sources().and(Some(&first)));
        assert!(sources.hold());
        std::fs::write(&first, "b").unwrap();
        assert!(!sources.hold(), "there was none");
        let sources = later(surroundings.sources());
        std::fs::write(folder.join("new"), "c").unwrap();
        std::fs::rename(folder.join("new"), &named).unwrap();
        assert!(!sources.hold(), "another file of the same size");
        let sources = later(surroundings.sources());
        std::fs::remove_file(&named).unwrap();
        assert!(!sources.hold());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
