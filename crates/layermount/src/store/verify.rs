//! Comparing the store's layers with what was unpacked.
//!
//! Every regular file is compared with the [listing](crate::unpack::listing) that was made of it: the names in it with what
//! lies there now, then what lies there with the names. The listing is read line by line, and of a name that was compared only a
//! hash is kept, so that the layer's size does not matter.
//!
//! What is found damaged is marked and then counts as absent, so that whoever needs it next makes it anew. The mark is a file
//! beside the tree: it appears at once or not at all, and whoever runs in the tree does not notice.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::BufReader;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{Error, Result, SyscallContext, SyscallError};
use crate::mountinfo;
use crate::unpack::listing::{self, ReadListingError};
use crate::unpack::{FileContent, checksum};

use super::entry::{Entry, LISTING, Shelf, listing_checksum, open_file, shelf_name};
use super::in_use::{Claim, claim_soon, is_mounted};
use super::root::{StoreRoot, names_in};
use super::usage::{ALL_SHELVES, StoredLayer, stored_layer};
use super::walk::{Seen, open, walk};

/// Who reads of a thousand damaged files in a layer needs no more of them.
const FINDINGS: usize = 1000;

/// Bytes that are read at once.
const BUFFER: usize = 128 << 10;

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
    /// Files that are closed to this user by their own mode or a directory's: of them, at most the size was compared.
    pub closed: u64,
    /// What is not as it was unpacked.
    pub damage: Vec<Damage>,
    /// Damaged layers that count as absent now, so that they are made anew where they are needed.
    pub marked: Vec<PathBuf>,
    /// Those of them that somebody uses, and that can only be replaced when that has ended.
    pub in_use: Vec<PathBuf>,
    /// Damaged layers that go on being used, because the store cannot be written to.
    pub unmarked: Vec<PathBuf>,
}

/// Something in a layer that is not as it was unpacked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Damage {
    /// Where the layer lies.
    pub layer: PathBuf,
    /// The file's path from the layer's root, escaped; empty when it is the layer itself or its records.
    pub path: String,
    /// The class of the damage.
    pub kind: DamageKind,
    /// What is wrong with it.
    pub what: String,
}

/// In which way something is not as it was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DamageKind {
    /// A file is not there.
    Missing,
    /// A file was not in the layer.
    Extra,
    /// Something else than a regular file lies in the place of one.
    Type,
    /// A file is longer or shorter.
    Size,
    /// A file has the right size and another content.
    Content,
    /// A file or directory cannot be read.
    Unreadable,
    /// What the store knows of the layer is broken or lost, or an earlier `verify` found the layer damaged.
    Record,
    /// More than are reported one by one.
    More,
}

pub(super) fn verify(root: &StoreRoot, progress: &mut dyn FnMut(&StoredLayer)) -> Result<Verified> {
    let mut verified = Verified::default();
    for xattrs in ALL_SHELVES {
        let Some(shelf) = Shelf::open(root, shelf_name(xattrs))? else { continue };
        let mut names = names_in(shelf.directory(), shelf.path())?;
        names.sort_unstable();
        for name in names {
            if let Some(damage) = shelf.damage(&name)? {
                let (layer, kind) = (shelf.path().join(&name), DamageKind::Record);
                verified.damage.push(Damage { layer, path: String::new(), kind, what: damage.to_string() });
                continue;
            }
            // Pruned meanwhile: then there is nothing to be said of it.
            let Some(entry) = shelf.entry_named(&name)? else { continue };
            progress(&stored_layer(name.clone(), &entry, xattrs));
            let findings = verify_layer(&entry, &mut verified)?;
            verified.layers += 1;
            if findings.damage.is_empty() {
                continue;
            }
            verified.damage.extend(findings.into_damage(entry.path()));
            mark(&shelf, &name, entry, &mut verified)?;
        }
    }
    Ok(verified)
}

/// Whether a layer is as it was unpacked, as far as its listing tells.
pub(super) fn is_whole(entry: &Entry) -> Result<bool> {
    Ok(verify_layer(entry, &mut Verified::default())?.damage.is_empty())
}

/// Marks a damaged layer, and finds out who goes on using it.
fn mark(shelf: &Shelf, name: &str, entry: Entry, verified: &mut Verified) -> Result<()> {
    let path = entry.path().clone();
    if let Err(error) = entry.mark_damaged() {
        if is_ours(error.errno()) {
            return Err(error.into());
        }
        verified.unmarked.push(path);
        return Ok(());
    }
    verified.marked.push(path.clone());
    // Our own lock must not be taken for somebody's.
    drop(entry);
    let used = match claim_soon(shelf, name)? {
        Claim::Used => true,
        Claim::Gone => false,
        Claim::Free(claimed) => is_mounted(&mountinfo::overlay_directories_in_use(), shelf, name, &claimed)?,
    };
    if used {
        verified.in_use.push(path);
    }
    Ok(())
}

/// Whether this process, or the machine, lacks what it takes to read on: that says nothing of the layer.
fn is_ours(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)
}

/// What is wrong with one layer.
#[derive(Debug, Default)]
struct Findings {
    damage: Vec<(String, DamageKind, String)>,
    /// Findings that are not reported one by one.
    more: u64,
}

impl Findings {
    fn add(&mut self, path: impl Into<String>, kind: DamageKind, what: impl Into<String>) {
        if self.damage.len() < FINDINGS {
            self.damage.push((path.into(), kind, what.into()));
        } else {
            self.more += 1;
        }
    }

    fn into_damage(self, layer: &Path) -> impl Iterator<Item = Damage> {
        let more =
            (self.more > 0).then(|| (String::new(), DamageKind::More, format!("{} more are damaged", self.more)));
        let layer = layer.to_owned();
        (self.damage.into_iter().chain(more)).map(move |(path, kind, what)| Damage {
            layer: layer.clone(),
            path,
            kind,
            what,
        })
    }
}

/// Why a listing was not read to its end.
enum Stop {
    /// The listing is damaged.
    Listing(String),
    Failed(Error),
}

impl From<ReadListingError> for Stop {
    fn from(error: ReadListingError) -> Self {
        match error {
            ReadListingError::Read(source) => match source.raw_os_error().map(Errno::from_raw_os_error) {
                Some(errno) if is_ours(errno) => Self::Failed(SyscallError::new("read", LISTING, errno).into()),
                _ => Self::Listing(format!("its listing cannot be read: {source}")),
            },
            error => Self::Listing(error.to_string()),
        }
    }
}

fn verify_layer(entry: &Entry, verified: &mut Verified) -> Result<Findings> {
    let mut comparison = Comparison { entry, verified, findings: Findings::default(), buffer: vec![0; BUFFER] };
    let hashes = RandomState::new();
    let mut listed: Vec<u64> = Vec::new();
    let read = open_listing(entry).and_then(|file| {
        listing::read(BufReader::new(file), |path, expected| {
            listed.push(hashes.hash_one(path));
            comparison.file(path, expected)
        })
    });
    let mut findings = comparison.findings;
    match read {
        Ok(()) => {}
        Err(Stop::Failed(error)) => return Err(error),
        Err(Stop::Listing(what)) => {
            findings.add("", DamageKind::Record, what);
            return Ok(findings);
        }
    }
    listed.sort_unstable();
    walk(entry.tree(), &mut |found| {
        match found {
            Seen::Entry { path, stat, .. } if is_regular(stat) => {
                let path = listing::escape(path);
                if listed.binary_search(&hashes.hash_one(path.as_str())).is_err() {
                    findings.add(path, DamageKind::Extra, "was not in the layer");
                }
            }
            Seen::Entry { .. } => {}
            Seen::Unreadable { path, errno } if is_ours(errno) => {
                return Err(SyscallError::new("openat", listing::escape(path), errno).into());
            }
            // Closed to its owner, which is an ordinary user.
            Seen::Unreadable { errno: Errno::ACCESS, .. } => {}
            Seen::Unreadable { path, errno } => {
                findings.add(listing::escape(path), DamageKind::Unreadable, format!("cannot be read: {errno}"));
            }
        }
        Ok(())
    })?;
    Ok(findings)
}

fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn open_listing(entry: &Entry) -> Result<File, Stop> {
    let failed = |error: SyscallError| match error.errno() {
        errno if is_ours(errno) => Stop::Failed(error.into()),
        _ => Stop::Listing(format!("its listing cannot be read: {error}")),
    };
    let directory = entry.directory().map_err(failed)?;
    if let Some(written) = entry.record.listing_checksum
        && listing_checksum(directory.as_fd()).map_err(failed)? != written
    {
        return Err(Stop::Listing("its listing is not what was written".to_owned()));
    }
    let file = open_file(directory.as_fd(), LISTING).syscall("openat", || LISTING.to_owned());
    Ok(File::from(file.map_err(failed)?))
}

/// The files of a listing against those of a tree.
struct Comparison<'a> {
    entry: &'a Entry,
    verified: &'a mut Verified,
    findings: Findings,
    buffer: Vec<u8>,
}

impl Comparison<'_> {
    fn file(&mut self, escaped: &str, expected: FileContent) -> Result<(), Stop> {
        let Some(path) = listing::unescape(escaped) else {
            return Err(Stop::Listing(format!("its listing has the malformed path {escaped}")));
        };
        self.verified.files += 1;
        match self.look(&path, expected) {
            Ok(None) => {}
            Ok(Some((kind, what))) => self.findings.add(escaped, kind, what),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                self.findings.add(escaped, DamageKind::Missing, "is missing");
            }
            Err(errno) if is_ours(errno) => {
                return Err(Stop::Failed(SyscallError::new("openat", escaped, errno).into()));
            }
            Err(Errno::ACCESS) => self.verified.closed += 1,
            Err(errno) => self.findings.add(escaped, DamageKind::Unreadable, format!("cannot be read: {errno}")),
        }
        Ok(())
    }

    fn look(&mut self, path: &[u8], expected: FileContent) -> rustix::io::Result<Option<(DamageKind, String)>> {
        let at = path.iter().rposition(|byte| *byte == b'/');
        let (parent, name) = at.map_or((&[][..], path), |at| (&path[..at], &path[at + 1..]));
        let parent = open(self.entry.tree(), parent)?;
        let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if !is_regular(&stat) {
            return Ok(Some((DamageKind::Type, "is not a regular file any more".to_owned())));
        }
        let FileContent { size, checksum: expected } = expected;
        let found = u64::try_from(stat.st_size).unwrap_or(0);
        if found != size {
            return Ok(Some((DamageKind::Size, format!("has {found} bytes instead of {size}"))));
        }
        self.verified.bytes += size;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
        let found = checksum::of_file(file.as_fd(), size, &mut self.buffer)?;
        let what = || format!("has the checksum {found:08x} instead of {expected:08x}");
        Ok((found != expected).then(|| (DamageKind::Content, what())))
    }
}
