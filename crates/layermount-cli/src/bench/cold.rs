//! Stores that are there for one run.

use std::io;
use std::path::{Path, PathBuf};

use layermount::Store;
use layermount::store::PruneOptions;

use crate::failure::{Failure, Result};

/// A directory for a store.
#[derive(Debug)]
pub(super) struct EmptyStore {
    path: PathBuf,
}

impl EmptyStore {
    /// In TMPDIR, or else in /var/tmp: /tmp may be in memory, which is not what layers are stored in.
    pub(super) fn make() -> Result<Self> {
        let parent =
            std::env::var_os("TMPDIR").filter(|path| !path.is_empty()).map_or("/var/tmp".into(), PathBuf::from);
        let template = parent.join("layermount-bench-XXXXXX");
        let path = nix::unistd::mkdtemp(&template)
            .map_err(|errno| Failure::io(format!("cannot make a directory in {}", parent.display()), errno))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// With all that the store has put there.
    pub(super) fn remove(self, store: &Store) -> Result<()> {
        store.prune(&PruneOptions::default().all_images(true))?;
        remove_empty(&self.path).map_err(|error| Failure::io(format!("cannot remove {}", self.path.display()), error))
    }
}

/// A directory in which there is nothing but empty directories.
fn remove_empty(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        remove_empty(&entry?.path())?;
    }
    std::fs::remove_dir(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_directories_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        std::fs::DirBuilder::new().recursive(true).create(path.join("layers/dir")).unwrap();
        remove_empty(&path).unwrap();
        assert!(!path.exists());
        std::fs::DirBuilder::new().recursive(true).create(path.join("layers/dir")).unwrap();
        let file = tempfile::Builder::new().tempfile_in(path.join("layers")).unwrap();
        assert!(remove_empty(&path).is_err());
        assert!(file.path().exists());
    }
}
