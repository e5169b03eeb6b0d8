//! Where each layer of an image lies, and how much is in it.

use std::collections::HashSet;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use layermount::store::StoredLayer;
use layermount::{Content, Image, Lacking, Layer, Located, Store};
use serde_json::{Value, json};

use crate::failure::Result;

/// A layer of an image and its place.
#[derive(Debug)]
pub(crate) struct PlacedLayer<'a> {
    pub(crate) layer: &'a Layer,
    pub(crate) place: Place,
}

/// Where a layer lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Another engine keeps it as a directory, which is mounted as it is.
    Located { path: PathBuf, bytes: Option<u64> },
    /// The store has it, as a directory or as a file.
    Stored { path: PathBuf, bytes: u64, lacking: Lacking },
    /// It is a blob so far, in a place that is called so.
    Blob { source: String },
    /// An engine hands it out with all others.
    Archive { source: String },
    /// It was in the store, and is gone.
    Gone,
}

/// Looks for every layer, base first.
pub(crate) fn places<'a>(image: &'a Image, store: &Store) -> Result<Vec<PlacedLayer<'a>>> {
    let stored = store.layers()?;
    let place = |(index, layer): (usize, &Layer)| match image.content() {
        Content::Located(Located::Layers { directories, .. }) => match directories.get(index) {
            Some(path) => Place::Located { path: path.clone(), bytes: file_bytes(path) },
            None => Place::Gone,
        },
        Content::Located(Located::Tree(path)) => Place::Located { path: path.clone(), bytes: None },
        // Where there are several, with and without owners, the one that is more like the image.
        content => match stored.iter().filter(|stored| holds(stored, layer)).min_by_key(|stored| stored.lacking.owners)
        {
            Some(StoredLayer { path, content_bytes, lacking, .. }) => {
                Place::Stored { path: path.clone(), bytes: *content_bytes, lacking: *lacking }
            }
            None => match content {
                Content::Blobs(blobs) => Place::Blob { source: blobs.describe() },
                Content::Archive(archive) => Place::Archive { source: archive.describe() },
                _ => Place::Gone,
            },
        },
    };
    Ok(image
        .layers()
        .iter()
        .enumerate()
        .map(|(index, layer)| PlacedLayer { layer, place: place((index, layer)) })
        .collect())
}

/// A layer that needed those below it is kept for its chain; others are shared by all images.
fn holds(stored: &StoredLayer, layer: &Layer) -> bool {
    let named = |kind: &str, hex: &str| stored.name.strip_prefix(kind) == Some(hex);
    named("diff-", layer.diff_id.digest().hex()) || named("chain-", layer.chain_id.digest().hex())
}

/// The sum of all files' sizes, those with several names counted once, as far as they may be looked at; nothing when the
/// directory may not.
fn file_bytes(directory: &Path) -> Option<u64> {
    let mut bytes = 0;
    let mut linked = HashSet::new();
    let mut entries: Vec<_> = std::fs::read_dir(directory).ok()?.flatten().collect();
    while let Some(entry) = entries.pop() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => {
                entries.extend(std::fs::read_dir(entry.path()).into_iter().flatten().flatten())
            }
            Ok(metadata) if metadata.is_file() && (metadata.nlink() == 1 || linked.insert(metadata.ino())) => {
                bytes += metadata.len();
            }
            _ => {}
        }
    }
    Some(bytes)
}

impl PlacedLayer<'_> {
    /// Bytes of file content, where they have been unpacked.
    pub(crate) fn bytes(&self) -> Option<u64> {
        match &self.place {
            Place::Located { bytes, .. } => *bytes,
            Place::Stored { bytes, .. } => Some(*bytes),
            Place::Blob { .. } | Place::Archive { .. } | Place::Gone => None,
        }
    }

    /// What whoever unpacked it could not have.
    fn lacking(&self) -> Option<Lacking> {
        match self.place {
            Place::Stored { lacking, .. } if lacking != Lacking::default() => Some(lacking),
            _ => None,
        }
    }

    /// Bytes of the blob, as the manifest says.
    pub(crate) fn blob_bytes(&self) -> Option<u64> {
        self.layer.descriptor.as_ref().map(|descriptor| descriptor.size())
    }

    pub(crate) fn object(&self) -> Value {
        let Layer { diff_id, chain_id, descriptor, created_by, .. } = self.layer;
        let (kind, path) = match &self.place {
            Place::Located { path, .. } => ("in-place", Some(path.to_string_lossy())),
            Place::Stored { path, .. } => ("store", Some(path.to_string_lossy())),
            Place::Blob { source } => ("blob", Some(source.into())),
            Place::Archive { source } => ("archive", Some(source.into())),
            Place::Gone => ("gone", None),
        };
        json!({
            "DiffId": diff_id.to_string(),
            "ChainId": chain_id.to_string(),
            "Digest": descriptor.as_ref().map(|descriptor| descriptor.digest().to_string()),
            "MediaType": descriptor.as_ref().map(|descriptor| descriptor.media_type().to_string()),
            "BlobSize": self.blob_bytes(),
            "Size": self.bytes(),
            "CreatedBy": created_by,
            "Kind": kind,
            "Place": path,
            "Lacking": self.lacking().map(|Lacking { owners, devices, xattrs, .. }| {
                json!({ "Owners": owners, "Devices": devices, "Xattrs": xattrs })
            }),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Located { path, .. } | Self::Stored { path, .. } => write!(f, "{}", path.display()),
            Self::Blob { source } => write!(f, "blob in {source}"),
            Self::Archive { source } => write!(f, "archive of {source}"),
            Self::Gone => f.write_str("gone"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_directorys_files_are_summed() {
        let directory = tempfile::tempdir().unwrap();
        let below = tempfile::tempdir_in(&directory).unwrap();
        for (path, content) in [(directory.path(), "12345"), (below.path(), "678")] {
            let mut file = tempfile::NamedTempFile::new_in(path).unwrap();
            file.write_all(content.as_bytes()).unwrap();
            let (_, path) = file.keep().unwrap();
            std::fs::hard_link(&path, path.with_extension("again")).unwrap();
        }
        std::os::unix::fs::symlink("/etc", directory.path().join("link")).unwrap();
        assert_eq!(file_bytes(directory.path()), Some(8));
        assert_eq!(file_bytes(&directory.path().join("none")), None);
    }
}
