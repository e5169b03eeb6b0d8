//! Comparing the store's layers with what was unpacked.
//!
//! Every regular file is compared with the [listing](crate::unpack::Listing) that was made of it. A damaged layer is
//! reported, not removed: somebody may be using it.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use flate2::Crc;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::Result;
use crate::unpack::{FileContent, Listing};

use super::entry::{self, Entry, LISTING, Shelf, read_file, shelf_name};
use super::root::{StoreRoot, names_in};
use super::usage::{ALL_SHELVES, StoredLayer, layers};
use super::walk::{Seen, walk};

/// What [`Store::verify`](crate::Store::verify) found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Verified {
    /// Layers that were read.
    pub layers: usize,
    /// Files that were read.
    pub files: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is not as it was unpacked.
    pub damage: Vec<Damage>,
}

/// Something in a layer that is not as it was unpacked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Damage {
    /// Where the layer lies.
    pub layer: PathBuf,
    /// The file's path from the layer's root, escaped; empty when it is the layer's own records.
    pub path: String,
    /// What is wrong with it.
    pub what: String,
}

pub(super) fn verify(root: &StoreRoot, progress: &mut dyn FnMut(&StoredLayer)) -> Result<Verified> {
    let mut verified = Verified::default();
    let stored: HashMap<_, _> = layers(root)?.into_iter().map(|layer| (layer.path.clone(), layer)).collect();
    for xattrs in ALL_SHELVES {
        let Some(shelf) = Shelf::open(root, shelf_name(xattrs))? else { continue };
        for name in names_in(shelf.directory(), shelf.path())? {
            if let Some(damage) = shelf.damage(&name)? {
                let layer = shelf.path().join(name);
                verified.damage.push(Damage { layer, path: String::new(), what: damage.to_string() });
            }
        }
        let mut of_shelf: Vec<_> = stored.values().filter(|layer| layer.xattrs == xattrs).collect();
        of_shelf.sort_by(|a, b| a.name.cmp(&b.name));
        for layer in of_shelf {
            // Pruned meanwhile: then there is nothing to be said of it.
            let Some(entry) = shelf.entry_named(&layer.name)? else { continue };
            progress(layer);
            let mut damage = Vec::new();
            verify_layer(&entry, &mut verified, &mut damage, &mut Vec::new())?;
            verified.layers += 1;
            let of_layer = |(path, what)| Damage { layer: layer.path.clone(), path, what };
            verified.damage.extend(damage.into_iter().map(of_layer));
        }
    }
    Ok(verified)
}

/// Whether a layer is as it was unpacked, as far as its listing tells.
///
/// What an ordinary user has closed to itself (a file 0000, a directory 0300) cannot be read without changing it: such files
/// are compared by size alone, and what is in such directories is not looked at.
pub(super) fn is_whole(entry: &Entry) -> Result<bool> {
    let (mut damage, mut closed) = (Vec::new(), Vec::new());
    verify_layer(entry, &mut Verified::default(), &mut damage, &mut closed)?;
    let is_closed = |path: &str| {
        closed
            .iter()
            .any(|closed| path.strip_prefix(&**closed).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    };
    Ok(damage.iter().all(|(path, _)| !path.is_empty() && is_closed(path)))
}

/// A path and what is wrong with it.
type Finding = (String, String);

fn verify_layer(
    entry: &Entry,
    verified: &mut Verified,
    damage: &mut Vec<Finding>,
    closed: &mut Vec<String>,
) -> Result<()> {
    let listing = match read_file(entry.directory(), LISTING).map(String::from_utf8) {
        Ok(Ok(text)) if entry.record.listing_checksum.is_some_and(|sum| sum != entry::checksum(text.as_bytes())) => {
            Err("it is not what was written".to_owned())
        }
        Ok(Ok(text)) => text.parse::<Listing>().map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let listing = match listing {
        Ok(listing) => listing,
        Err(what) => {
            damage.push((String::new(), format!("its listing cannot be read: {what}")));
            return Ok(());
        }
    };
    // What was copied from lower layers when this one was completed came after the listing.
    let may_have_others = !entry.record.unpacked.open.links.is_empty();
    let mut comparison =
        Comparison { listing: &listing, may_have_others, seen: HashSet::new(), verified, damage, closed };
    walk(entry.tree()?.as_fd(), &mut |found| {
        match found {
            Seen::Entry { directory, name, path, stat } => {
                if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                    comparison.file(directory, name, path, stat.st_size as u64);
                }
            }
            Seen::Unreadable { path, errno } => {
                let path = Listing::escape(path);
                if errno == Errno::ACCESS {
                    comparison.closed.push(path.clone());
                }
                comparison.damage.push((path, format!("cannot be read: {errno}")));
            }
        }
        Ok(())
    })?;
    let Comparison { seen, .. } = comparison;
    let missing = listing.files.keys().filter(|path| !seen.contains(*path));
    damage.extend(missing.map(|path| (path.clone(), "is missing".to_owned())));
    Ok(())
}

struct Comparison<'a> {
    listing: &'a Listing,
    may_have_others: bool,
    seen: HashSet<String>,
    verified: &'a mut Verified,
    damage: &'a mut Vec<Finding>,
    /// Paths that this user may not read.
    closed: &'a mut Vec<String>,
}

impl Comparison<'_> {
    fn file(&mut self, directory: BorrowedFd<'_>, name: &std::ffi::CStr, path: &[u8], size: u64) {
        let path = Listing::escape(path);
        let Some(expected) = self.listing.files.get(&path) else {
            if !self.may_have_others {
                self.damage.push((path, "was not in the layer".to_owned()));
            }
            return;
        };
        let what = match expected {
            FileContent { size: expected, .. } if *expected != size => {
                Some(format!("has {size} bytes instead of {expected}"))
            }
            FileContent { checksum: None, .. } => None,
            FileContent { checksum: Some(expected), .. } => match checksum(directory, name) {
                Ok(found) if found == *expected => None,
                Ok(found) => Some(format!("has the checksum {found:08x} instead of {expected:08x}")),
                Err(error) => {
                    if error.kind() == std::io::ErrorKind::PermissionDenied {
                        self.closed.push(path.clone());
                    }
                    Some(format!("cannot be read: {error}"))
                }
            },
        };
        self.verified.files += 1;
        self.verified.bytes += size;
        if let Some(what) = what {
            self.damage.push((path.clone(), what));
        }
        self.seen.insert(path);
    }
}

fn checksum(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> std::io::Result<u32> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?);
    let mut crc = Crc::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(crc.sum()),
            count => crc.update(&buffer[..count]),
        }
    }
}
