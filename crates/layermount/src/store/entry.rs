//! Entries: complete, verified layers on a [shelf](super::shelf), and what lies beside them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::digest::{ChainId, DiffId};
use crate::error::{Result, SyscallContext, SyscallError};
use crate::stack::StackedLayer;
use crate::unpack::{Unpacked, checksum};

use super::StoreError;
use super::durability::boot_id;
use super::in_use::lock_content;
use super::shelf::ShelfKind;

/// What neither tree nor file can say.
const RECORD: &str = "layer.json";
/// Checksums of its files.
pub(crate) const LISTING: &str = "listing";
/// There if `verify` found the layer changed; empty.
const MARK: &str = "damaged";

/// What a directory on a shelf is called after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// Means the same on top of any other layer.
    Diff(DiffId),
    /// Was completed from the layers below it.
    Chain(ChainId),
    /// Verified, and waiting to be completed for some chain.
    Open(DiffId),
    /// The index of all layers up to this one, as one file system.
    Image(ChainId),
}

/// What names of indexes start with.
const IMAGE: &str = "image-";

/// Whether this is the name of an index, and not of a layer.
pub(crate) fn is_index_name(name: &str) -> bool {
    name.starts_with(IMAGE)
}

impl Key {
    pub(crate) fn file_name(&self) -> String {
        match self {
            Self::Diff(diff_id) => format!("diff-{}", diff_id.0.hex()),
            Self::Chain(chain_id) => format!("chain-{}", chain_id.0.hex()),
            Self::Open(diff_id) => format!("open-{}", diff_id.0.hex()),
            Self::Image(chain_id) => format!("{IMAGE}{}", chain_id.0.hex()),
        }
    }
}

/// Why an entry's name says what it says; written beside its content.
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
    /// There for EROFS files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<FileRecord>,
}

/// What is known of an EROFS file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    /// Bytes of the file.
    pub(crate) length: u64,
    /// Bytes of the layer's archive in it; 0 for the index of an image.
    pub(crate) tar_size: u64,
    /// CRC-32 of everything but the archive, which has its diff ID.
    pub(crate) checksum: u32,
    /// It can be mounted with the files of `devices` alone. Some layers need those below them.
    pub(crate) mountable: bool,
    /// The layers whose files hold the content, in the order of the index's devices.
    pub(crate) devices: Vec<DeviceRecord>,
}

/// A layer's file that an index points into.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DeviceRecord {
    pub(crate) diff_id: DiffId,
    /// Bytes of the file.
    pub(crate) length: u64,
}

/// A layer in the store, kept from being pruned for as long as this lives.
#[derive(Debug)]
pub(crate) struct Entry {
    kind: ShelfKind,
    /// A directory or a file. Locked. The one descriptor that a layer takes: an image may have a thousand.
    content: Arc<OwnedFd>,
    pub(crate) record: Record,
    path: PathBuf,
}

impl Record {
    /// The record of a directory that is written now.
    pub(crate) fn of_directory(diff_id: DiffId, unpacked: Unpacked, listing_checksum: u32) -> Self {
        let boot = boot_id().map(str::to_owned);
        Self { diff_id, unpacked, boot, listing_checksum: Some(listing_checksum), file: None }
    }

    /// The record of an EROFS file that is written now.
    pub(crate) fn of_file(diff_id: DiffId, unpacked: Unpacked, file: FileRecord) -> Self {
        Self { diff_id, unpacked, boot: boot_id().map(str::to_owned), listing_checksum: None, file: Some(file) }
    }
}

impl Entry {
    /// Reads what lies beside the content, and locks the content.
    pub(super) fn read(
        kind: ShelfKind,
        directory: BorrowedFd<'_>,
        path: &Path,
    ) -> std::result::Result<Self, ReadError> {
        let file = || path.join(RECORD).display().to_string();
        let bytes = match read_file(directory, RECORD) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            other => other.syscall("read", file).map_err(ReadError::Failed)?,
        };
        let record: Record = serde_json::from_slice(&bytes)
            .map_err(|source| ReadError::Damaged(StoreError::Malformed { file: file(), source }))?;
        let no_layer = || ReadError::Damaged(StoreError::NotALayer { path: path.to_owned() });
        let shown = || path.join(kind.content()).display().to_string();
        let content = match kind.open_content(directory) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL | Errno::NXIO) => return Err(no_layer()),
            other => other.syscall("openat", shown).map_err(ReadError::Failed)?,
        };
        lock_content(&content, &path.join(kind.content())).map_err(ReadError::Failed)?;
        if let Some(FileRecord { length, .. }) = &record.file {
            let stat = rustix::fs::fstat(&content).syscall("fstat", shown).map_err(ReadError::Failed)?;
            let found = u64::try_from(stat.st_size).unwrap_or(0);
            // A file system says nothing of a file that was cut short before what is missing is read.
            if found != *length {
                let path = path.join(kind.content());
                return Err(ReadError::Damaged(StoreError::WrongLength { path, expected: *length, found }));
            }
        } else if kind == ShelfKind::Files {
            return Err(no_layer());
        }
        match rustix::fs::statat(directory, MARK, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(Self { kind, content: Arc::new(content), record, path: path.to_owned() }),
            Ok(_) => Err(ReadError::Damaged(StoreError::Marked { path: path.to_owned() })),
            Err(errno) => {
                let mark = path.join(MARK).display().to_string();
                Err(ReadError::Failed(SyscallError::new("newfstatat", mark, errno)))
            }
        }
    }

    pub(crate) fn kind(&self) -> ShelfKind {
        self.kind
    }

    pub(crate) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// The tree or the file, open for reading.
    pub(crate) fn content(&self) -> BorrowedFd<'_> {
        self.content.as_fd()
    }

    /// What tells the tree or file from any that had the same name before, or will, for as long as it is open anywhere.
    pub(crate) fn inode(&self) -> Result<u64, SyscallError> {
        let stat = rustix::fs::fstat(&self.content);
        Ok(stat.syscall("fstat", || self.path.join(self.kind.content()).display().to_string())?.st_ino)
    }

    /// Opens the directory that holds the content and what is beside it.
    pub(crate) fn directory(&self) -> Result<OwnedFd, SyscallError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match self.kind {
            ShelfKind::Directories(_) => rustix::fs::openat(&self.content, "..", flags, Mode::empty()),
            // There is no way from a file to its directory. Should another have taken the name meanwhile, the mark that is put
            // or looked for there errs on the safe side.
            ShelfKind::Files => rustix::fs::open(&self.path, flags, Mode::empty()),
        };
        opened.syscall("openat", || self.path.display().to_string())
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

    /// Puts an empty file beside the tree or file: it is there at once or not at all, and has no content to lose.
    pub(super) fn put_mark(&self, name: &str) -> Result<(), SyscallError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(self.directory()?, name, flags, Mode::RUSR | Mode::WUSR)
            .syscall("openat", || format!("{}, O_CREAT", self.path.join(name).display()))
            .map(drop)
    }

    /// The tree as overlayfs takes it; the layer stays in the store for as long as that lives.
    pub(crate) fn stacked(&self) -> StackedLayer {
        StackedLayer::new(Arc::clone(&self.content), self.path.join(self.kind.content()))
    }

    /// The file, mounted at `root`; it stays in the store for as long as that lives.
    pub(crate) fn mounted(&self, root: OwnedFd) -> StackedLayer {
        StackedLayer::mounted(root, Arc::clone(&self.content), self.path.join(self.kind.content()))
    }
}

/// Why an entry is not to be had.
pub(super) enum ReadError {
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

/// Reads a file whole, as long as it was when it was opened: what is in the store is written before it has its name. Whatever
/// else lies in its place reads as an empty one.
pub(crate) fn read_file(directory: BorrowedFd<'_>, name: &str) -> std::io::Result<Vec<u8>> {
    let (file, size) = match open_with_size(directory, name) {
        // The latter two: symlinks and sockets.
        Err(Errno::INVAL | Errno::LOOP | Errno::NXIO) => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    bytes.try_reserve_exact(size)?;
    bytes.resize(size, 0);
    let mut length = 0;
    while let Some(room) = bytes.get_mut(length..).filter(|room| !room.is_empty()) {
        match rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut *room))? {
            0 => break,
            count => length += count,
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Opens a regular file for reading. Anything else is `EINVAL`, without being waited for.
pub(super) fn open_file(directory: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    open_with_size(directory, name).map(|(file, _)| file)
}

fn open_with_size(directory: BorrowedFd<'_>, name: &str) -> rustix::io::Result<(OwnedFd, u64)> {
    const LEASES: usize = 1000;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut leases = 0;
    let file = loop {
        match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            // Somebody has a lease on it, to see who uses it (`is_open_elsewhere`), and gives it back at once.
            Err(Errno::AGAIN) if leases < LEASES => std::thread::sleep(Duration::from_millis(1)),
            opened => break opened?,
        }
        leases += 1;
    };
    let stat = rustix::fs::fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((file, u64::try_from(stat.st_size).unwrap_or(0))),
        _ => Err(Errno::INVAL),
    }
}

/// Writes a file anew. Where readers may be about, write into a stage and publish.
pub(crate) fn write_file(directory: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    create_file(directory, name)?.write_all(bytes)
}

/// The file of a layer or an image, to be written and read.
pub(super) fn create_content(directory: BorrowedFd<'_>) -> Result<File, SyscallError> {
    let name = ShelfKind::Files.content();
    open_new(directory, name, OFlags::RDWR).syscall("openat", || name.into())
}

fn create_file(directory: BorrowedFd<'_>, name: &str) -> std::io::Result<File> {
    open_new(directory, name, OFlags::WRONLY)
}

fn open_new(directory: BorrowedFd<'_>, name: &str, access: OFlags) -> std::io::Result<File> {
    let flags = access | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = rustix::fs::openat(directory, name, flags, mode)?;
    // Past the umask.
    rustix::fs::fchmod(&file, mode)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::lease::Lease;

    #[test]
    fn a_file_is_opened_when_whoever_asks_for_its_users_is_done() {
        let place = tempfile::tempdir().unwrap();
        let directory = OwnedFd::from(File::open(place.path()).unwrap());
        drop(create_content(directory.as_fd()).unwrap());
        let open = || open_file(directory.as_fd(), ShelfKind::Files.content());
        let asked = open().unwrap();
        let lease = Lease::take(asked.as_fd()).unwrap().expect("nobody else has it open");
        std::thread::scope(|scope| {
            let opened = scope.spawn(open);
            std::thread::sleep(Duration::from_millis(20));
            drop(lease);
            opened.join().unwrap().unwrap();
        });
    }
}
