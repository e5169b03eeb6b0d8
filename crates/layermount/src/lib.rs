//! From an image tag to a process inside the image: no daemon, no copy, no runtime.
//!
//! ```no_run
//! use layermount::{Command, Overlay, Platform, Sources, Store, Upper};
//!
//! # fn main() -> layermount::Result<()> {
//! let image = Sources::default().resolve(&"ubuntu:24.04".parse()?, &Platform::host())?;
//! let stack = Store::open_default()?.realize(&image)?;
//! let root = Overlay::new(stack).upper(Upper::Temporary { size: None }).mount()?;
//! let inside = root.pivot()?; // this very process, its file descriptors intact
//! let error = inside.exec(Command::for_image(&image).args(["bash"]));
//! # Err(error)
//! # }
//! ```
//!
//! One type per stage; each stage consumes the one before:
//!
//! ```text
//! Reference --Sources::resolve--> Image --Store::realize--> LayerStack --Overlay::mount--> RootMount --pivot-->
//! Entered --exec--> program
//! ```
//!
//! [`RootMount::pivot`] moves the calling process, which must have one thread only; [`RootMount::spawn`] starts a child, also
//! from a program with threads; [`Running::spawn`] starts one beside a process; [`RootMount::attach`] makes the tree visible at a
//! path. Without the privilege to mount, the same calls make a user namespace, with one user; a process that has moved into a
//! [`UserNamespace`] before has as many as that.
//!
//! The library never prints, exits, changes the working directory, installs signal handlers, or leaves threads or inheritable
//! file descriptors behind. Errors are one opaque type with a [kind](Error::kind) for programs and a [hint](Error::hint) for
//! people.
//!
//! What it uses of the kernel, since when, and what happens without it stands in the `README`.

mod at_once;
mod bundle;
mod caller;
mod capabilities;
mod cgroup;
mod command;
mod decode;
mod digest;
pub mod doctor;
mod enter;
mod erofs;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod ipc;
mod kernel;
mod layer;
mod limits;
mod mountinfo;
mod network;
mod overlay;
mod reference;
mod resources;
mod running;
mod script;
#[cfg(feature = "seccomp")]
mod seccomp;
mod source;
mod stack;
#[cfg(feature = "stages")]
#[doc(hidden)]
pub mod stages;
pub mod store;
mod sys;
mod unpack;
mod userns;

pub use bundle::Bundle;
pub use capabilities::{Capabilities, ParseCapabilitiesError};
pub use command::{
    Child, Command, ListenFds, Namespaces, ParseSignalError, Pty, Signal, StartPhase, Stdio, TerminalSize, Timings,
    inherited_fd,
};
pub use digest::{Algorithm, ChainId, DiffId, Digest, ParseDigestError};
pub use enter::{Access, BindOptions, Devices, Entered, Furnish, ImageVolumes, Tmpfs};
pub use error::{Error, ErrorKind, Result};
pub use image::{
    Blobs, Config, Content, Descriptor, HistoryEntry, Image, ImageArchive, ImageParts, Layer, Located, MediaType,
    OverlayXattrs, ParsePlatformError, Platform,
};
#[doc(hidden)]
pub use kernel::{Kernel, LayersBy};
pub use limits::{Limit, Limits};
pub use network::{Network, ParsePublishError, Pasta, Protocol, Publish};
pub use overlay::{Overlay, OverlaySpec, RootMount, Upper};
pub use reference::{DaemonImage, ImageName, OciSelector, ParseReferenceError, Reference};
pub use resources::{MemorySwap, ParseRlimitError, Resources, Rlimit, RlimitKind};
pub use running::Running;
#[cfg(feature = "seccomp")]
pub use seccomp::Seccomp;
pub use source::{Docker, OciLayouts, Pin, RootfsDirectories, Source, Sources, StoredImages};
pub use stack::{Flattened, Lacking, LayerStack, StackedLayer};
pub use store::Store;
pub use userns::{IdMaps, IdRange, ParseIdMapsError, UserNamespace};
