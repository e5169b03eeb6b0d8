//! Mounting an image from files, detached.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount::MountAttrFlags;

use super::ErofsError;
use crate::error::Result;
use crate::script::Script;

/// What is being done when that fails.
pub(crate) const MOUNTING: &str = "mount the image's files";

/// Mounts the image in `image`, whose devices lie at the paths `devices` below the directory `layers`. Nobody sees the mount, and
/// it is gone with the returned descriptor.
///
/// The kernel opens files by path and takes paths of at most 255 bytes (`fsconfig(2)`), so they start at open descriptors, of this
/// thread: it may have a table of its own (`unshare(2)`, `CLONE_FILES`), and another file under the same number in the process's.
pub(crate) fn mount(image: BorrowedFd<'_>, layers: BorrowedFd<'_>, devices: &[String]) -> Result<OwnedFd> {
    let text = |text: String| CString::new(text).unwrap_or_default();
    let mut options = vec![(c"source", text(format!("/proc/thread-self/fd/{}", image.as_raw_fd())))];
    options.extend(
        devices.iter().map(|device| (c"device", text(format!("/proc/thread-self/fd/{}/{device}", layers.as_raw_fd())))),
    );
    let mut script = Script::new();
    script.doing(MOUNTING);
    let mount = script.new_mount(c"erofs", options, MountAttrFlags::empty());
    Ok(script.run_here()?.take(mount).ok_or(ErofsError::NoMount)?)
}
