//! The store: turns an image's layers into what the kernel mounts, once per machine, and remembers pulled images.
//!
//! # On disk
//!
//! ```text
//! <store>/                               0700, its owner's alone
//!   layers/<backing>/<key>/              one layer, complete and verified, or an index of several
//!     fs/                                the tree, in overlayfs form; or
//!     image                              an EROFS file
//!     layer.json                         what neither can say: root attributes, opaque root, counts; of a file its checksum
//!     listing                            of a tree: path, size and checksum of every file, for `verify`
//!     damaged                            there if it was found changed: as good as absent, and made anew when needed
//!     on-disk                            empty; there once the layer is known to have reached the disk
//!   stage/<pid>-<count>/                 in the making; its maker holds a lock on the directory
//!   locks/<hex>                          who makes or completes the layer of this diff ID holds a lock on this file
//!   locks/image-<hex>                    who streams this image out of an engine does
//!   locks/index-<hex>                    who makes the index of the layers of this chain does
//!   locks/mount-<key>.<files>            who has these files mounted for all, or ends that, does
//!   images/<id>.json                     one pulled image
//!   names/<digest of name and platform>  which image a name stands for, and what is needed of it to run a program
//!   mnt/                                 always empty; where processes with mount namespaces of their own see an image
//!   mounts/<key>.<files>/                where an image in EROFS files is kept mounted, if somebody wants that
//! ```
//!
//! `<backing>` is `dir-trusted` or `dir-user`, after the namespace of overlayfs's xattrs, or `erofs`. `dir-user` is for layers
//! in which everything belongs to the one user that there is; those with owners are in `dir-user-<map>`, after the ID map
//! through which the owners on disk are the image's. `<key>` is `diff-<hex>` for a layer that means the same on top of any
//! other, and `chain-<hex>` for one that needed the layers below it (it does not name the directories that its files are in, or
//! links to a lower layer's file). Such a layer first appears as `open-<hex of the diff ID>`: verified, but not yet mountable.
//! EROFS files are always `diff-<hex>`; what an image of several comes to is in `image-<hex of the top layer's chain ID>`, a
//! file system of names that has the layers' files as its devices; only what little is left of a small layer is in it, too.
//!
//! # Laws
//!
//! - A layer appears under `layers/` by one `renameat2(2)`, after size, digest and diff ID were compared. Readers never
//!   see half.
//! - Whoever uses a layer holds a shared `flock(2)` on its tree or file, from before it is published or since it was found;
//!   whoever removes one needs the exclusive one, and that no process has it mounted. Locks belong to open files, so that a
//!   process that is killed leaves none behind, and what it was making is swept by the next writer.
//! - Nobody waits for the lock of one layer while holding that of another, so that no two can wait for each other. Whoever
//!   waits may hold shared locks on finished layers: who wants the exclusive ones never waits for them.
//! - Safe against the death of any process at any moment: of what a call has made, nothing is lost, and of what it has not
//!   finished, nothing is seen. This rests on `renameat2(2)` alone, and holds on every file system.
//! - After a power cut, nothing damaged is used. With [`Durability::Process`], what was made may be lost: a layer from before
//!   the cut that is not known to be on disk is compared with its listing, or an EROFS file with its diff ID and checksum, at its
//!   next use (this once it takes as long as reading the layer), and is marked damaged if it was cut short; a record that cannot be read counts as absent.
//!   Pulling again makes anew what is damaged or absent. With [`Durability::Power`], nothing is lost that a call has made. Both
//!   rest on a file system that keeps the order of its own metadata and on `syncfs(2)`: [`Durability`]. An orderly shutdown
//!   loses nothing with either, but cannot be told from a power cut afterwards.
//! - A file that the kernel has mounted goes on being what it is when its name is removed. So an EROFS layer that is found
//!   damaged is replaced whoever uses it; `prune` leaves it alone all the same.
//! - Times play no part: clocks may jump.

mod archive;
mod durability;
pub(crate) mod entry;
mod export;
mod held;
mod in_use;
mod kept;
mod lock;
mod prune;
mod realize;
mod record;
mod rehearsal;
mod root;
mod scratch;
mod shelf;
mod stage;
mod usage;
mod verify;
mod walk;

pub use durability::Durability;
pub use prune::{PruneOptions, Pruned};
pub use realize::{Backing, LayerEvent, Progress, RealizeOptions};
pub use record::StoredImage;
pub(crate) use rehearsal::Rehearsal;
pub use scratch::Scratch;
pub use usage::{StoredLayer, Usage};
pub use verify::{Damage, DamageKind, Verified};

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::caller::Caller;
use crate::digest::{DiffId, Digest};
use crate::error::{ErrorKind, Fault, Result};
use crate::image::{Image, Platform};
use crate::limits::Limit;
use crate::stack::LayerStack;

use kept::Unseen;
use root::{Part, StoreRoot};

/// A directory that holds layers, ready to be mounted, and remembers the images that were pulled.
///
/// Any number of processes may use one store at once. Nothing is created before something has to be written. A clone is another handle
/// on the same store.
#[derive(Debug, Clone)]
pub struct Store {
    root: StoreRoot,
}

/// What is wrong with the store itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("cannot tell where the store is: neither XDG_DATA_HOME nor HOME is set")]
    NoHome,
    #[error("{} belongs to uid {owner}, not to uid {user}", path.display())]
    ForeignOwner { path: PathBuf, owner: u32, user: u32 },
    #[error("{} can be written by others (mode {mode:04o})", path.display())]
    WritableByOthers { path: PathBuf, mode: u32 },
    #[error("anybody can put another store in place of this one: {} is open to all (mode {mode:04o})", path.display())]
    UnsafeParent { path: PathBuf, mode: u32 },
    #[error("uid {owner} can put another store in place of this one: {} is theirs", path.display())]
    ForeignParent { path: PathBuf, owner: u32 },
    #[error("layer {diff_id} is not in the store at {} in the form that this user mounts", store.display())]
    LayerGone { diff_id: String, store: PathBuf },
    #[error("{file} in the store is malformed")]
    Malformed { file: String, source: serde_json::Error },
    #[error("the kernel does not mount EROFS files out of the store at {}", store.display())]
    ErofsUnavailable { store: PathBuf, source: crate::Error },
    #[error("only root in the initial user namespace can mount EROFS files")]
    ErofsUnprivileged,
    #[error("the image is not in the store in EROFS files")]
    NoFiles,
    #[error("layer {diff_id} is not in the store at {}", store.display())]
    NoSuchLayer { diff_id: String, store: PathBuf },
    #[error("layer {diff_id} is a directory in the store at {}, and its archive is not kept", store.display())]
    NoArchive { diff_id: String, store: PathBuf },
    #[error("{} has the archive of {found}", path.display())]
    WrongArchive { path: PathBuf, found: String },
    #[error("cannot write the layer's archive")]
    Export(#[source] io::Error),
    #[error("{} has {found} bytes instead of {expected}", path.display())]
    WrongLength { path: PathBuf, expected: u64, found: u64 },
    #[error("the config says that a layer is {diff_id}, and uncompressed it is {found}")]
    WrongDiffId { diff_id: String, found: String },
    #[error("{place} does not contain layer {diff_id}")]
    NotInArchive { place: String, diff_id: String },
    #[error("layer {diff_id} has no blob to be made from")]
    NoBlob { diff_id: String },
    #[error("layers are taken from the store as fast as they are made")]
    Unsettled,
    #[error("{} exceed the limit {}={limit}", Limit::ImageBytes.describe(), Limit::ImageBytes)]
    ImageTooLarge { limit: u64 },
    #[error("{} exceed the limit {}={limit}", Limit::IndexBytes.describe(), Limit::IndexBytes)]
    IndexTooLarge { limit: u64 },
    #[error(
        "its hard links ask for {bytes} bytes of copies of lower files, which exceeds the limit {}={limit}",
        Limit::ExpansionRatio
    )]
    CopiesTooLarge { bytes: u64, limit: u64 },
    #[error("{} is not a layer", path.display())]
    NotALayer { path: PathBuf },
    #[error("{} was found damaged, and has not been made anew since", path.display())]
    Marked { path: PathBuf },
    #[error("{} is damaged, and a program that runs in it keeps it from being replaced", path.display())]
    DamagedInUse { path: PathBuf },
}

impl Fault for StoreError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoHome => ErrorKind::InvalidInput,
            Self::ForeignOwner { .. }
            | Self::WritableByOthers { .. }
            | Self::UnsafeParent { .. }
            | Self::ForeignParent { .. } => ErrorKind::PermissionDenied,
            Self::LayerGone { .. } | Self::NotInArchive { .. } | Self::NoBlob { .. } | Self::NoSuchLayer { .. } => {
                ErrorKind::BlobNotFound
            }
            Self::Export(error) => match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
                _ => ErrorKind::Os,
            },
            Self::Malformed { .. }
            | Self::NotALayer { .. }
            | Self::Marked { .. }
            | Self::WrongLength { .. }
            | Self::WrongArchive { .. } => ErrorKind::StoreDamaged,
            Self::ErofsUnavailable { .. } | Self::NoArchive { .. } | Self::NoFiles => ErrorKind::Unsupported,
            Self::ErofsUnprivileged => ErrorKind::PermissionDenied,
            Self::WrongDiffId { .. } => ErrorKind::DigestMismatch,
            Self::ImageTooLarge { .. } | Self::CopiesTooLarge { .. } | Self::IndexTooLarge { .. } => {
                ErrorKind::LimitExceeded
            }
            Self::Unsettled | Self::DamagedInUse { .. } => ErrorKind::Busy,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::ImageTooLarge { limit } => return Some(Limit::ImageBytes.hint(*limit)),
            Self::IndexTooLarge { limit } => return Some(Limit::IndexBytes.hint(*limit)),
            Self::CopiesTooLarge { limit, .. } => return Some(Limit::ExpansionRatio.hint(*limit)),
            Self::NoHome => "name a store with --store DIR or LAYERMOUNT_STORE",
            Self::ForeignOwner { .. } | Self::ForeignParent { .. } => {
                "use a store of your own, in a place of your own (--store DIR or LAYERMOUNT_STORE)"
            }
            Self::WritableByOthers { .. } => {
                "layers run as programs: take the others' write permission away (chmod go-w)"
            }
            Self::UnsafeParent { .. } => {
                "take the others' write permission away (chmod o-w), or make it sticky (chmod +t)"
            }
            Self::LayerGone { .. } => "pull the image again from the place where it came from",
            Self::ErofsUnavailable { .. } => {
                "it takes Linux 6.12 and a store on ext4, xfs or btrfs (not on tmpfs or overlayfs); or use --backing dir"
            }
            Self::NoFiles => {
                "pages of layers in directories are shared as it is; otherwise pull it with --backing erofs"
            }
            Self::ErofsUnprivileged => "use --backing dir or --backing auto",
            Self::WrongArchive { .. } => {
                "'layermount store verify' marks the layer, so that pulling the image makes it anew"
            }
            Self::NoSuchLayer { .. } => "'layermount store ls' lists the layers",
            Self::NoArchive { .. } => "pull the image with --backing erofs",
            Self::DamagedInUse { .. } => "end the programs that run in the image and unmount it, then try again",
            Self::Malformed { .. } | Self::NotALayer { .. } | Self::Marked { .. } | Self::WrongLength { .. } => {
                "'layermount store prune' removes what is damaged; then pull the image again"
            }
            Self::WrongDiffId { .. } => {
                "the image's config does not belong to its layers: build or pull the image anew"
            }
            _ => return None,
        };
        Some(hint.into())
    }
}

impl Store {
    /// The store at `path`. It need not exist yet.
    ///
    /// # Errors
    ///
    /// A store that another user owns, can write to or can put another in place of is refused: its layers could not be trusted.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self { root: StoreRoot::open(path.into())? })
    }

    /// Says what layers and records survive that are made through this handle; [`Durability::Process`] by default.
    ///
    /// With [`Durability::Power`], realizing an image also brings those of its layers to the disk that were there already.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.root.set_durability(durability);
        self
    }

    /// The store at [`Store::default_path`].
    pub fn open_default() -> Result<Self> {
        Self::open(Self::default_path()?)
    }

    /// `$LAYERMOUNT_STORE`; without it `/var/lib/layermount` for root of the machine, else `$XDG_DATA_HOME/layermount` or
    /// `~/.local/share/layermount`.
    pub fn default_path() -> Result<PathBuf> {
        if let Some(path) = std::env::var_os("LAYERMOUNT_STORE").filter(|path| !path.is_empty()) {
            return Ok(path.into());
        }
        if Caller::is_root_of_the_machine() {
            return Ok("/var/lib/layermount".into());
        }
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
        Ok(data.ok_or(StoreError::NoHome)?.join("layermount"))
    }

    /// A place to try things on the store's file system.
    pub(crate) fn rehearse<T>(&self, work: impl FnOnce(&Rehearsal<'_>) -> Result<T>) -> Result<T> {
        rehearsal::rehearse(&self.root, work)
    }

    /// The store's directory, or the nearest one above it that exists.
    pub(crate) fn nearest_directory(&self) -> Result<(PathBuf, OwnedFd)> {
        Ok(rehearsal::nearest(&self.root)?)
    }

    /// Whether anything was ever written to it.
    pub(crate) fn exists(&self) -> bool {
        self.root.exists()
    }

    /// Where the store lies.
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// Makes a directory on the store's disk for what one run changes. See [`Upper::needs_disk`](crate::Upper::needs_disk).
    pub fn scratch(&self) -> Result<Scratch> {
        Scratch::new(&self.root)
    }

    /// A directory of the store's that is always empty, made when missing: a process with a mount namespace of its own can
    /// [attach](crate::RootMount::attach) an image to it, and needs no place for that anywhere else.
    pub fn mount_point(&self) -> Result<PathBuf> {
        self.root.part_or_create(Part::MountPoint)?;
        Ok(self.root.path_of(Part::MountPoint, ""))
    }

    /// Locates every layer of `image`, or makes it as [`Backing::Auto`] says. The layers stay for as long as the stack lives.
    pub fn realize(&self, image: &Image) -> Result<LayerStack> {
        self.realize_with(image, &RealizeOptions::default())
    }

    /// [`Store::realize`], with a say in how.
    pub fn realize_with(&self, image: &Image, options: &RealizeOptions<'_>) -> Result<LayerStack> {
        realize::realize(&self.root, image, options)
    }

    /// Keeps an image mounted that is in the store in EROFS files, for others to see below the store's directory, until
    /// [`Store::unmount`] or the machine's next start: who realizes it from now on mounts nothing anew, and all programs that run
    /// in it share their pages. Returns whether that is new. The mount is seen in the mount namespace of the caller, and in those that
    /// receive its mounts; elsewhere, the image is mounted as ever. Linux 6.12, as for all EROFS files.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PermissionDenied`] for whoever is not root of the machine, and [`ErrorKind::Unsupported`] for an image in
    /// directories, whose pages are shared as it is. [Realize](Store::realize) it first.
    pub fn keep_mounted(&self, image: &Image) -> Result<bool> {
        realize::keep_mounted(&self.root, image)
    }

    /// Ends what [`Store::keep_mounted`] began, if it is seen in the mount namespace of the caller, and then in all. Programs that run in
    /// the image go on. Returns whether it was mounted here.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PermissionDenied`] for whoever may not unmount.
    pub fn unmount(&self, image: &Image) -> Result<bool> {
        let names = realize::entry_names(image);
        Ok(kept::release(&self.root, Unseen::Stays, |name, _| names.iter().any(|ours| ours == name))? > 0)
    }

    /// [`Store::unmount`] of all that are kept mounted. Returns how many there were.
    ///
    /// # Errors
    ///
    /// The first, after all have been tried.
    pub fn unmount_all(&self) -> Result<usize> {
        kept::release(&self.root, Unseen::Stays, |_, _| true)
    }

    /// Remembers the image under its names, so that it is found without the place it came from, and its layers are not
    /// pruned. Realize it first. Images whose layers lie elsewhere are not the store's, and nothing is written for them.
    pub fn record(&self, image: &Image) -> Result<()> {
        record::write(&self.root, image)
    }

    /// The images that were pulled.
    pub fn images(&self) -> Result<Vec<StoredImage>> {
        record::list(&self.root)
    }

    /// The image that was pulled under a full name (`docker.io/library/ubuntu:latest`) for a platform.
    pub fn image_named(&self, name: &str, platform: &Platform) -> Result<Option<StoredImage>> {
        record::by_name(&self.root, name, platform)
    }

    /// The image of this ID.
    pub fn image_by_id(&self, id: &Digest) -> Result<Option<StoredImage>> {
        record::by_id(&self.root, id)
    }

    /// Forgets an image. Its layers stay until [`Store::prune`].
    pub fn forget(&self, image: &StoredImage) -> Result<()> {
        record::remove(&self.root, image)
    }

    /// The layers that the store holds.
    pub fn layers(&self) -> Result<Vec<StoredLayer>> {
        usage::layers(&self.root)
    }

    /// What the store takes on disk.
    pub fn usage(&self) -> Result<Usage> {
        usage::usage(&self.root)
    }

    /// Removes what no image needs and what was found damaged, unless a process uses it.
    pub fn prune(&self, options: &PruneOptions) -> Result<Pruned> {
        prune::prune(&self.root, options)
    }

    /// Removes what processes that died in the middle of making or removing layers have left behind. [`Store::prune`] does so,
    /// too, and so does whoever makes a layer; alone it is for a process in a user namespace, when
    /// [`Pruned::to_be_swept`] asks for one.
    pub fn sweep(&self) -> Result<Pruned> {
        prune::sweep_only(&self.root)
    }

    /// Writes the layer's archive, uncompressed and byte for byte as its diff ID covers it. Returns its length.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::BlobNotFound`] for a layer that is not in the store, [`ErrorKind::Unsupported`] for one that is there as a
    /// directory only: [`Backing::Erofs`] alone keeps archives. [`ErrorKind::StoreDamaged`] when the archive turns out to be
    /// another by its digest: what was written by then is not the layer. And whatever `to` answers.
    pub fn export_layer(&self, diff_id: &DiffId, to: &mut dyn Write) -> Result<u64> {
        export::export(&self.root, diff_id, to)
    }

    /// Reads every file of every layer and compares it with what was unpacked. `progress` is told before each layer.
    ///
    /// A layer that is not as it was unpacked counts as absent from then on: [`Store::realize`] makes it anew, which it can
    /// do for an image that was not found in the store but in the place where it came from. Nothing is taken from programs
    /// that run in it; if it is a directory, realizing fails with [`ErrorKind::Busy`] until they have ended. In a store that
    /// cannot be written to, damage is reported only.
    ///
    /// # Errors
    ///
    /// Damage is none. What keeps from reading (no memory, too many open files) is.
    pub fn verify(&self, progress: &mut dyn FnMut(&StoredLayer)) -> Result<Verified> {
        verify::verify(&self.root, progress)
    }
}
