//! Entries: complete, verified layers below `layers/`.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::digest::{ChainId, DiffId};
use crate::error::{Result, SyscallContext, SyscallError};
use crate::image::OverlayXattrs;
use crate::mountinfo;
use crate::stack::StackedLayer;
use crate::unpack::{Unpacked, checksum};

use super::StoreError;
use super::durability::boot_id;
use super::in_use::{Claim, claim_soon, is_mounted, lock_tree};
use super::root::{Part, StoreRoot, check_owner, open_or_create};
use super::stage::Stage;

/// The tree.
pub(crate) const TREE: &str = "fs";
/// What the tree cannot say.
const RECORD: &str = "layer.json";
/// Checksums of its files.
pub(crate) const LISTING: &str = "listing";
/// There if `verify` found the layer changed; empty.
const MARK: &str = "damaged";

/// What a layer directory is called after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// Means the same on top of any other layer.
    Diff(DiffId),
    /// Was completed from the layers below it.
    Chain(ChainId),
    /// Verified, and waiting to be completed for some chain.
    Open(DiffId),
}

impl Key {
    pub(crate) fn file_name(&self) -> String {
        match self {
            Self::Diff(diff_id) => format!("diff-{}", diff_id.0.hex()),
            Self::Chain(chain_id) => format!("chain-{}", chain_id.0.hex()),
            Self::Open(diff_id) => format!("open-{}", diff_id.0.hex()),
        }
    }
}

/// Why an entry's name says what it says; written beside its tree.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) diff_id: DiffId,
    pub(crate) unpacked: Unpacked,
    /// The boot in which it was written, if it was known.
    #[serde(default)]
    pub(crate) boot: Option<String>,
    /// CRC-32 of the listing, which may have lost content itself; nothing is known of it in records without.
    #[serde(default)]
    pub(crate) listing_checksum: Option<u32>,
}

/// A layer in the store, kept from being pruned for as long as this lives.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Locked. The one descriptor that a layer takes: an image may have a thousand.
    tree: Arc<OwnedFd>,
    pub(crate) record: Record,
    path: PathBuf,
}

/// The part of the store that holds layers of one backing.
#[derive(Debug)]
pub(crate) struct Shelf {
    directory: OwnedFd,
    path: PathBuf,
}

/// The name of the directory for layers with marks in this namespace.
pub(crate) fn shelf_name(xattrs: OverlayXattrs) -> &'static str {
    match xattrs {
        OverlayXattrs::Trusted => "dir-trusted",
        OverlayXattrs::User => "dir-user",
    }
}

impl Shelf {
    /// `None` where nothing was ever stored.
    pub(crate) fn open(root: &StoreRoot, name: &str) -> Result<Option<Self>> {
        let Some(layers) = root.part(Part::Layers)? else { return Ok(None) };
        let path = root.path_of(Part::Layers, name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&layers, name, flags, Mode::empty()) {
            Ok(directory) => {
                check_owner(&directory, &path)?;
                Ok(Some(Self { directory, path }))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(SyscallError::new("openat", path.display().to_string(), errno).into()),
        }
    }

    pub(crate) fn open_or_create(root: &StoreRoot, name: &str) -> Result<Self> {
        let layers = root.part_or_create(Part::Layers)?;
        let path = root.path_of(Part::Layers, name);
        let directory = open_or_create(layers.as_fd(), name).syscall("mkdirat", || path.display().to_string())?;
        check_owner(&directory, &path)?;
        Ok(Self { directory, path })
    }

    pub(crate) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    pub(crate) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// The entry of this key, if it is there and sound. A power cut may leave a record that cannot be read; such a layer is as
    /// good as absent, and made anew.
    pub(crate) fn entry(&self, key: &Key) -> Result<Option<Entry>> {
        self.entry_named(&key.file_name())
    }

    pub(crate) fn entry_named(&self, name: &str) -> Result<Option<Entry>> {
        Ok(self.look(name)?.and_then(std::result::Result::ok))
    }

    /// What is wrong with the record of the entry, if it is there and something is.
    pub(crate) fn damage(&self, name: &str) -> Result<Option<StoreError>> {
        Ok(self.look(name)?.and_then(std::result::Result::err))
    }

    fn look(&self, name: &str) -> Result<Option<std::result::Result<Entry, StoreError>>> {
        let path = self.path.join(name);
        loop {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
                Ok(directory) => directory,
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Some(Err(StoreError::NotALayer { path }))),
                Err(errno) => return Err(SyscallError::new("openat", path.display().to_string(), errno).into()),
            };
            let entry = Entry::read(directory.as_fd(), &path);
            // While it was read, or its lock waited for, it may have been moved away: then nothing of that counts.
            if !is_at(self.directory.as_fd(), name, &directory, &path)? {
                continue;
            }
            return match entry {
                Err(ReadError::Damaged(damage)) => Ok(Some(Err(damage))),
                Err(ReadError::Failed(error)) => Err(error.into()),
                Ok(entry) => Ok(Some(Ok(entry))),
            };
        }
    }

    /// Moves a staged directory (with [`TREE`] and its record in it) to its public place. Where an equal layer is there
    /// already, that one stays, unless it is damaged.
    ///
    /// # Errors
    ///
    /// [`StoreError::DamagedInUse`] if the one that is there is damaged, and somebody uses it.
    pub(crate) fn publish(&self, stage: &Stage, staged: &str, key: &Key) -> Result<()> {
        let name = key.file_name();
        let mut removed = 0;
        while !stage.publish(staged, self.directory.as_fd(), &name)? {
            match self.look(&name)? {
                Some(Ok(_)) => break,
                Some(Err(_)) => self.remove_damaged(stage, &name, &format!("damaged-{removed}"))?,
                None => {}
            }
            removed += 1;
        }
        Ok(())
    }

    /// Moves a damaged layer into the stage, which will be removed.
    fn remove_damaged(&self, stage: &Stage, name: &str, staged: &str) -> Result<()> {
        let in_use = || StoreError::DamagedInUse { path: self.path.join(name) };
        let claimed = match claim_soon(self, name)? {
            Claim::Gone => return Ok(()),
            Claim::Free(claimed) => claimed,
            Claim::Used => return Err(in_use().into()),
        };
        if is_mounted(&mountinfo::overlay_directories_in_use(), self, name, &claimed)? {
            return Err(in_use().into());
        }
        stage.take(self.directory.as_fd(), name, staged).map(drop)
    }
}

/// Whether `name` still leads to an open file.
pub(super) fn is_at(parent: BorrowedFd<'_>, name: &str, file: &OwnedFd, path: &Path) -> Result<bool> {
    let shown = || path.display().to_string();
    let ours = rustix::fs::fstat(file).syscall("fstat", shown)?;
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => Ok((there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(SyscallError::new("newfstatat", shown(), errno).into()),
    }
}

/// Opens the tree of a layer, for reading and for locking.
pub(super) fn open_tree(directory: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, TREE, flags, Mode::empty())
}

impl Record {
    /// The record of a layer that is written now.
    pub(crate) fn new(diff_id: DiffId, unpacked: Unpacked, listing_checksum: u32) -> Self {
        Self { diff_id, unpacked, boot: boot_id().map(str::to_owned), listing_checksum: Some(listing_checksum) }
    }
}

impl Entry {
    /// Reads what lies beside the tree, and locks the tree.
    fn read(directory: BorrowedFd<'_>, path: &Path) -> std::result::Result<Self, ReadError> {
        let file = || path.join(RECORD).display().to_string();
        let bytes = match read_file(directory, RECORD) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            other => other.syscall("read", file).map_err(ReadError::Failed)?,
        };
        let record = serde_json::from_slice(&bytes)
            .map_err(|source| ReadError::Damaged(StoreError::Malformed { file: file(), source }))?;
        let shown = || path.join(TREE).display().to_string();
        let tree = match open_tree(directory) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                return Err(ReadError::Damaged(StoreError::NotALayer { path: path.to_owned() }));
            }
            other => other.syscall("openat", shown).map_err(ReadError::Failed)?,
        };
        lock_tree(&tree, &path.join(TREE)).map_err(ReadError::Failed)?;
        match rustix::fs::statat(directory, MARK, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(Self { tree: Arc::new(tree), record, path: path.to_owned() }),
            Ok(_) => Err(ReadError::Damaged(StoreError::Marked { path: path.to_owned() })),
            Err(errno) => {
                let mark = path.join(MARK).display().to_string();
                Err(ReadError::Failed(SyscallError::new("newfstatat", mark, errno)))
            }
        }
    }

    pub(crate) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// The tree, open for reading.
    pub(crate) fn tree(&self) -> BorrowedFd<'_> {
        self.tree.as_fd()
    }

    /// Opens the directory that holds the tree and what is beside it.
    pub(crate) fn directory(&self) -> Result<OwnedFd, SyscallError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.tree, "..", flags, Mode::empty()).syscall("openat", || self.path.display().to_string())
    }

    /// Has everybody take the layer for absent from now on, so that it is made anew where it is needed next. The tree is not
    /// touched, and programs that run in it go on.
    ///
    /// # Errors
    ///
    /// What the kernel says where the store cannot be written to.
    pub(crate) fn mark_damaged(&self) -> Result<(), SyscallError> {
        self.put_mark(MARK)
    }

    /// Puts an empty file beside the tree: it is there at once or not at all, and has no content to lose.
    pub(super) fn put_mark(&self, name: &str) -> Result<(), SyscallError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(self.directory()?, name, flags, Mode::RUSR | Mode::WUSR)
            .syscall("openat", || format!("{}, O_CREAT", self.path.join(name).display()))
            .map(drop)
    }

    /// The tree as overlayfs takes it; the layer stays in the store for as long as that lives.
    pub(crate) fn stacked(&self) -> StackedLayer {
        StackedLayer::new(Arc::clone(&self.tree), self.path.join(TREE))
    }
}

/// Why an entry is not to be had.
enum ReadError {
    Damaged(StoreError),
    Failed(SyscallError),
}

/// Writes what stands beside the tree of a layer that is being made.
pub(crate) fn write_record(directory: BorrowedFd<'_>, record: &Record) -> Result<()> {
    let text = serde_json::to_vec(record).map_err(|source| StoreError::Malformed { file: RECORD.into(), source })?;
    Ok(write_file(directory, RECORD, &text).syscall("write", || RECORD.into())?)
}

/// The file of checksums, to be written.
pub(crate) fn create_listing(directory: BorrowedFd<'_>) -> Result<BufWriter<File>, SyscallError> {
    Ok(BufWriter::new(create_file(directory, LISTING).syscall("openat", || LISTING.into())?))
}

/// The file of checksums, to be added to.
pub(crate) fn extend_listing(directory: BorrowedFd<'_>) -> Result<BufWriter<File>, SyscallError> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, LISTING, flags, Mode::empty()).syscall("openat", || LISTING.into())?;
    Ok(BufWriter::new(file.into()))
}

/// The CRC-32 of the file of checksums.
pub(crate) fn listing_checksum(directory: BorrowedFd<'_>) -> Result<u32, SyscallError> {
    let checksum = || {
        let file = open_file(directory, LISTING)?;
        let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        checksum::of_file(file.as_fd(), size, &mut vec![0; 64 << 10])
    };
    checksum().syscall("read", || LISTING.into())
}

/// Reads a file whole; whatever else lies in its place reads as an empty one.
pub(crate) fn read_file(directory: BorrowedFd<'_>, name: &str) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match open_file(directory, name) {
        // The latter two: symlinks and sockets.
        Err(Errno::INVAL | Errno::LOOP | Errno::NXIO) => {}
        file => _ = File::from(file?).read_to_end(&mut bytes)?,
    }
    Ok(bytes)
}

/// Opens a regular file for reading. Anything else is `EINVAL`, without being waited for.
pub(super) fn open_file(directory: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        _ => Err(Errno::INVAL),
    }
}

/// Writes a file anew. Where readers may be about, write into a stage and publish.
pub(crate) fn write_file(directory: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    create_file(directory, name)?.write_all(bytes)
}

fn create_file(directory: BorrowedFd<'_>, name: &str) -> std::io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = rustix::fs::openat(directory, name, flags, mode)?;
    // Past the umask.
    rustix::fs::fchmod(&file, mode)?;
    Ok(file.into())
}
