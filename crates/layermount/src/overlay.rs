//! From layers to one tree: [`Overlay`] → [`RootMount`].
//!
//! Every overlay has an upper directory, also a read-only one (an empty one in memory): a single layer can then be mounted, mount
//! points can be made in an image that lacks them, and the root directory gets the attributes that the image says, which
//! overlayfs takes from the topmost directory.
//!
//! Source of the rules: the kernel's `Documentation/filesystems/overlayfs.rst`.

mod spec;
pub(crate) mod steps;
pub(crate) mod trial;
mod upper;

pub use spec::OverlaySpec;
pub use upper::Upper;

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountAttrFlags, MoveMountFlags};

use crate::caller::Caller;
use crate::error::{ErrorKind, Fault, Result, SyscallContext, SyscallError};
use crate::image::OverlayXattrs;
use crate::kernel::{Ability, Kernel};
use crate::mountinfo::User;
use crate::script::{At, Files, Script, Step};
use crate::stack::LayerStack;
use steps::{MAX_LAYERS, Parts, UpperPlace};
use upper::Persistent;

/// A stack of layers and what is to be put on top of it.
#[derive(Debug)]
pub struct Overlay {
    stack: LayerStack,
    upper: Upper,
    kernel: Ability,
}

impl Overlay {
    /// An overlay of these layers with a temporary upper.
    pub fn new(stack: LayerStack) -> Self {
        Self { stack, upper: Upper::default(), kernel: Ability::ASSUMED }
    }

    /// Says where changes go.
    #[must_use]
    pub fn upper(mut self, upper: Upper) -> Self {
        self.upper = upper;
        self
    }

    /// Works as on a kernel that can do no more than this.
    #[doc(hidden)]
    #[must_use]
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = Ability::Known(kernel);
        self
    }

    /// Works as on a kernel of which that much is assumed, and which will be asked when it fails.
    #[doc(hidden)]
    #[must_use]
    pub fn assume(mut self, kernel: Kernel) -> Self {
        self.kernel = Ability::Assumed(kernel);
        self
    }

    /// What [`Overlay::mount`] will mount. Changes nothing.
    ///
    /// # Errors
    ///
    /// No layers, or more than overlayfs can take.
    pub fn plan(&self) -> Result<OverlaySpec> {
        Ok(OverlaySpec::new(&self.stack, &self.upper)?)
    }

    /// Mounts the overlay, detached: nobody sees it, and it is gone with the returned value.
    ///
    /// Without the privilege to mount, this only prepares: the overlay is mounted in the user namespace that
    /// [`RootMount::pivot`] or [`RootMount::spawn`] makes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`] when somebody else uses the persistent upper, [`ErrorKind::Unsupported`] when the layers are
    /// marked for privileged users and the caller is none, and whatever the kernel says.
    pub fn mount(self) -> Result<RootMount> {
        let Self { stack, upper, kernel } = self;
        let caller = Caller::current();
        spec::check(&stack)?;
        if stack.xattrs() == OverlayXattrs::Trusted && caller.overlay_xattrs() == OverlayXattrs::User {
            return Err(OverlayError::ForeignMarks.into());
        }
        let names =
            stack.root().xattrs.iter().map(|(name, _)| CString::new(name.as_slice())).collect::<Result<Vec<_>, _>>();
        let names = names.map_err(|_| OverlayError::RootXattr)?;
        let persistent = match &upper {
            Upper::Persistent(path) => Some(Persistent::open(path, stack.root(), &names, caller.may_chown())?),
            Upper::ReadOnly | Upper::Temporary { .. } => None,
        };
        let mut root = RootMount { stack, upper, persistent, names, caller, kernel, mount: None, _rest: None };
        if caller.may_mount {
            let (mount, rest) = match root.mount_now() {
                Err(_) if root.kernel.fall_back(&caller) => root.mount_now()?,
                result => result?,
            };
            (root.mount, root._rest) = (Some(mount), rest);
        }
        Ok(root)
    }
}

/// The mounted tree, detached, ready to be entered or attached. Dropping it unmounts.
#[derive(Debug)]
pub struct RootMount {
    stack: LayerStack,
    upper: Upper,
    persistent: Option<Persistent>,
    names: Vec<CString>,
    pub(crate) caller: Caller,
    pub(crate) kernel: Ability,
    /// `None` for a caller that may not mount: then the overlay is mounted where it is entered.
    mount: Option<OwnedFd>,
    /// What else was opened for it. Whoever closes the temporary upper has to wait for the kernel, which can be done while the
    /// program runs.
    _rest: Option<Files>,
}

impl RootMount {
    /// Attaches the tree to a directory, for everybody in this mount namespace to see, until `umount`. A read-only
    /// upper makes a read-only mount.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PermissionDenied`] for a caller that may not mount: a user namespace's mounts are seen inside of it only.
    pub fn attach(self, directory: &Path) -> Result<()> {
        let mount = self.mount.as_ref().ok_or(OverlayError::AttachUnprivileged)?;
        let show = || format!("overlay, {}", directory.display());
        let target = rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .syscall("open", || format!("{}, O_PATH|O_DIRECTORY", directory.display()))
            .map_err(OverlayError::Attach)?;
        if self.is_read_only() {
            crate::sys::mount::set_read_only(mount.as_fd(), false)
                .syscall("mount_setattr", || "overlay, MOUNT_ATTR_RDONLY".to_owned())
                .map_err(OverlayError::Attach)?;
        }
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(mount, c"", &target, c"", flags)
            .syscall("move_mount", show)
            .map_err(OverlayError::Attach)?;
        Ok(())
    }

    /// The mounted tree's root directory, detached; `None` for a caller that may not mount.
    pub fn directory(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.mount.as_ref().map(AsFd::as_fd)
    }

    /// What says that layers and upper are in use, once they are mounted.
    pub(crate) fn into_holds(self) -> Holds {
        Holds { _layers: self.stack.into_locks(), _upper: self.persistent.map(Persistent::into_lock) }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.upper == Upper::ReadOnly
    }

    pub(crate) fn is_temporary(&self) -> bool {
        matches!(self.upper, Upper::Temporary { .. })
    }

    /// Adds the steps that mount the overlay, when that has not been done yet, and says where it will be.
    pub(crate) fn push_mount<'a>(&'a self, script: &mut Script<'a>) -> Result<At<'a>> {
        match &self.mount {
            Some(mount) => Ok(At::Fd(mount.as_fd())),
            None => Ok(self.push_overlay(script)?),
        }
    }

    fn push_overlay<'a>(&'a self, script: &mut Script<'a>) -> Result<At<'a>, OverlayError> {
        let size = match &self.upper {
            Upper::Temporary { size } => *size,
            // Room for the attributes of the root, and for mount points.
            Upper::ReadOnly | Upper::Persistent(_) => Some(1 << 20),
        };
        let owner = self.caller.may_chown();
        let kernel = self.kernel.get();
        let reopen = kernel.needs_private_namespace() || !self.caller.may_mount;
        let upper = match &self.persistent {
            Some(persistent) => persistent.arguments(kernel, reopen),
            None => {
                let place = match (kernel.needs_private_namespace(), self.caller.may_mount) {
                    (true, _) => UpperPlace::OverRoot,
                    (false, false) => UpperPlace::Aside,
                    (false, true) => UpperPlace::Nowhere,
                };
                steps::push_upper(script, place, size, self.stack.root(), self.names.clone(), owner)
            }
        };
        if kernel.needs_private_namespace() {
            script.doing("attach the mounted layers");
            for layer in self.stack.layers().iter().filter(|layer| layer.is_mount()) {
                script.mount_over_root(At::Fd(layer.directory()));
            }
        }
        let lowers = spec::lowers(&self.stack, kernel, reopen)?;
        let parts = Parts { upper, xattrs: self.stack.xattrs(), attributes: MountAttrFlags::empty() };
        Ok(steps::push_overlay(script, kernel, lowers, parts).into())
    }

    fn mount_now(&self) -> Result<(OwnedFd, Option<Files>)> {
        let mut script = Script::new();
        let private = self.kernel.get().needs_private_namespace();
        if private {
            script.doing("make a private mount namespace").push(Step::MakePrivate);
        }
        let At::Slot(mount) = self.push_overlay(&mut script)? else { return Err(OverlayError::NoMount.into()) };
        if private {
            return Ok((crate::script::run_in_private_namespace(&script, mount)?, None));
        }
        let mut files = script.run_here()?;
        let mount = files.take(mount).ok_or(OverlayError::NoMount)?;
        Ok((mount, Some(files)))
    }
}

/// The locks on what is mounted. Without them, the mount table alone says that it is in use.
#[derive(Debug)]
pub(crate) struct Holds {
    _layers: Vec<Arc<OwnedFd>>,
    _upper: Option<OwnedFd>,
}

/// An overlay that cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OverlayError {
    #[error("the image has no layers")]
    NoLayers,
    #[error("the image has {found} layers, and overlayfs takes {MAX_LAYERS} at most")]
    TooManyLayers { found: usize },
    #[error("the layers are marked with trusted.overlay.* xattrs, which only the machine's root can mount")]
    ForeignMarks,
    #[error("an extended attribute of the image's root directory has a zero byte in its name")]
    RootXattr,
    #[error("cannot prepare the upper directory")]
    Upper(#[source] SyscallError),
    #[error("the upper directory {} is in use by {}", path.display(), upper::describe(user.as_ref()))]
    UpperBusy { path: PathBuf, user: Option<User> },
    #[error("cannot attach the image's tree")]
    Attach(#[source] SyscallError),
    #[error("only a caller with CAP_SYS_ADMIN can attach an image's tree to a directory")]
    AttachUnprivileged,
    #[error("the overlay was mounted, but its descriptor was lost")]
    NoMount,
}

impl Fault for OverlayError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoLayers | Self::RootXattr => ErrorKind::InvalidImage,
            Self::TooManyLayers { .. } => ErrorKind::LimitExceeded,
            Self::ForeignMarks => ErrorKind::Unsupported,
            Self::UpperBusy { .. } => ErrorKind::Busy,
            Self::AttachUnprivileged => ErrorKind::PermissionDenied,
            Self::Upper(error) | Self::Attach(error) => error.kind(),
            Self::NoMount => ErrorKind::Os,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::TooManyLayers { .. } => "flatten the image to fewer layers".to_owned(),
            Self::ForeignMarks => {
                "use a store of your own, in which layers are unpacked with user.overlay.* marks, or run as root"
                    .to_owned()
            }
            Self::UpperBusy { .. } => "wait until it has ended, or choose another directory".to_owned(),
            Self::AttachUnprivileged => {
                "run as root, or work in a mount namespace of your own: a user namespace's mounts are seen inside of it only"
                    .to_owned()
            }
            _ => return None,
        })
    }
}
