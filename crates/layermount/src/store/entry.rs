//! Entries: complete, verified layers below `layers/`.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::digest::{ChainId, DiffId};
use crate::error::{Result, SyscallContext, SyscallError};
use crate::image::{Layer, OverlayXattrs};
use crate::stack::StackedLayer;
use crate::unpack::{Listing, Unpacked};

use super::StoreError;
use super::durability::boot_id;
use super::root::{Part, StoreRoot, open_or_create};
use super::stage::{Stage, open_shared};

/// The tree.
pub(crate) const TREE: &str = "fs";
/// What the tree cannot say.
const RECORD: &str = "layer.json";
/// Checksums of its files.
pub(crate) const LISTING: &str = "listing";

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
    directory: Arc<OwnedFd>,
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
            Ok(directory) => Ok(Some(Self { directory, path })),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(SyscallError::new("openat", path.display().to_string(), errno).into()),
        }
    }

    pub(crate) fn open_or_create(root: &StoreRoot, name: &str) -> Result<Self> {
        let layers = root.part_or_create(Part::Layers)?;
        let path = root.path_of(Part::Layers, name);
        let directory = open_or_create(layers.as_fd(), name).syscall("mkdirat", || path.display().to_string())?;
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
        let Some(directory) = open_shared(self.directory.as_fd(), name, &path)? else { return Ok(None) };
        match Entry::read(directory, path) {
            Err(ReadError::Damaged(damage)) => Ok(Some(Err(damage))),
            Err(ReadError::Failed(error)) => Err(error.into()),
            Ok(entry) => Ok(Some(Ok(entry))),
        }
    }

    /// The mountable entry for a layer of an image, if it is there.
    pub(crate) fn mountable(&self, layer: &Layer) -> Result<Option<Entry>> {
        if let Some(entry) = self.entry(&Key::Diff(layer.diff_id.clone()))? {
            return Ok(Some(entry));
        }
        self.entry(&Key::Chain(layer.chain_id.clone()))
    }

    /// Moves a staged directory (with [`TREE`] and its record in it) to its public place. Where an equal layer is there
    /// already, that one stays, unless it is damaged and nobody uses it.
    pub(crate) fn publish(&self, stage: &Stage, staged: &str, key: &Key) -> Result<()> {
        let name = key.file_name();
        if stage.publish(staged, self.directory.as_fd(), &name)? || self.damage(&name)?.is_none() {
            return Ok(());
        }
        if stage.take_unused(self.directory.as_fd(), &name, "damaged")? {
            stage.publish(staged, self.directory.as_fd(), &name)?;
        }
        Ok(())
    }
}

impl Record {
    /// The record of a layer that is written now.
    pub(crate) fn new(diff_id: DiffId, unpacked: Unpacked) -> Self {
        Self { diff_id, unpacked, boot: boot_id().map(str::to_owned), listing_checksum: None }
    }
}

impl Entry {
    fn read(directory: OwnedFd, path: PathBuf) -> std::result::Result<Self, ReadError> {
        let file = || path.join(RECORD).display().to_string();
        let bytes = match read_file(directory.as_fd(), RECORD) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            other => other.syscall("read", file).map_err(ReadError::Failed)?,
        };
        let record = serde_json::from_slice(&bytes)
            .map_err(|source| ReadError::Damaged(StoreError::Malformed { file: file(), source }))?;
        Ok(Self { directory: Arc::new(directory), record, path })
    }

    /// An entry that was taken back into a stage.
    pub(crate) fn open_staged(stage: &Stage, name: &str) -> Result<Self> {
        Self::read(stage.make_directory(name)?, stage.path().join(name)).map_err(|error| match error {
            ReadError::Damaged(damage) => damage.into(),
            ReadError::Failed(error) => error.into(),
        })
    }

    /// Says of a staged entry that it was written in this boot, because something was added to it.
    pub(crate) fn renew(&self) -> Result<()> {
        let boot = boot_id().map(str::to_owned);
        if boot == self.record.boot {
            return Ok(());
        }
        write_layer_record(self.directory(), &Record { boot, ..self.record.clone() })
    }

    pub(crate) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// The entry's own directory.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Opens the tree, for reading.
    pub(crate) fn tree(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.directory, TREE, flags, Mode::empty())
            .syscall("openat", || self.path.join(TREE).display().to_string())?)
    }

    /// The tree as overlayfs takes it; the layer stays in the store for as long as that lives.
    pub(crate) fn stacked(&self) -> Result<StackedLayer> {
        let path = self.path.join(TREE);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let tree = rustix::fs::openat(&self.directory, TREE, flags, Mode::empty())
            .syscall("openat", || path.display().to_string())?;
        Ok(StackedLayer::new(tree, path, Some(Arc::clone(&self.directory))))
    }
}

/// Why an entry is not to be had.
enum ReadError {
    Damaged(StoreError),
    Failed(SyscallError),
}

/// Writes what stands beside the tree of a layer that is being made.
pub(crate) fn write_record(directory: BorrowedFd<'_>, mut record: Record, listing: &Listing) -> Result<()> {
    let mut lines = Vec::new();
    listing.write(&mut lines).syscall("write", || LISTING.into())?;
    write_file(directory, LISTING, &lines).syscall("write", || LISTING.into())?;
    record.listing_checksum = Some(checksum(&lines));
    write_layer_record(directory, &record)
}

/// CRC-32, as in listings.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn write_layer_record(directory: BorrowedFd<'_>, record: &Record) -> Result<()> {
    let text = serde_json::to_vec(record).map_err(|source| StoreError::Malformed { file: RECORD.into(), source })?;
    Ok(write_file(directory, RECORD, &text).syscall("write", || RECORD.into())?)
}

pub(crate) fn read_file(directory: BorrowedFd<'_>, name: &str) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file anew. Where readers may be about, write into a stage and publish.
pub(crate) fn write_file(directory: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let mut file = std::fs::File::from(rustix::fs::openat(directory, name, flags, mode)?);
    // Past the umask.
    rustix::fs::fchmod(&file, mode)?;
    file.write_all(bytes)
}
