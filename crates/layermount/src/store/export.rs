//! Giving back the archive that a layer was.

use std::io::{self, Write};

use crate::digest::{Algorithm, DiffId, Hasher};
use crate::error::{Result, SyscallError};

use super::StoreError;
use super::entry::Key;
use super::root::StoreRoot;
use super::shelf::{Shelf, ShelfKind};
use super::usage;
use super::verify::archive_of;

pub(super) fn export(root: &StoreRoot, diff_id: &DiffId, to: &mut dyn Write) -> Result<u64> {
    let shelf = Shelf::open(root, ShelfKind::Files)?;
    let entry = match shelf {
        Some(shelf) => shelf.entry(&Key::Diff(diff_id.clone()))?,
        None => None,
    };
    let Some((entry, file)) = entry.as_ref().and_then(|entry| Some((entry, entry.record.file.as_ref()?))) else {
        let (known, store) = (usage::layers(root)?, root.path().to_owned());
        let text = diff_id.to_string();
        return Err(match known.iter().any(|layer| &layer.diff_id == diff_id) {
            true => StoreError::NoArchive { diff_id: text, store },
            false => StoreError::NoSuchLayer { diff_id: text, store },
        }
        .into());
    };
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut unwritten: Option<io::Error> = None;
    let read = archive_of(entry.content(), file.tar_size, &mut |piece| {
        hasher.update(piece);
        to.write_all(piece).map_err(|error| {
            let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
            unwritten = Some(error);
            errno
        })
    });
    match (read, unwritten) {
        (_, Some(error)) => return Err(StoreError::Export(error).into()),
        (Err(errno), None) => {
            return Err(SyscallError::new("pread64", entry.path().display().to_string(), errno).into());
        }
        (Ok(()), None) => {}
    }
    to.flush().map_err(StoreError::Export)?;
    let found = DiffId(hasher.finish());
    if &found != diff_id {
        return Err(StoreError::WrongArchive { path: entry.path().clone(), found: found.to_string() }.into());
    }
    Ok(file.tar_size)
}
