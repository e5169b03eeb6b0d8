//! `unshare(2)`.

use rustix::io::Result;
use rustix::thread::UnshareFlags;

/// Leaves the namespaces that are shared with other processes. Only the calling thread moves, which is why callers
/// make sure that there is no other. Async-signal-safe.
pub(crate) fn unshare(flags: UnshareFlags) -> Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES), "descriptors must stay shared with the rest of the process");
    // SAFETY: unsafe only for CLONE_FILES, which would take descriptors away from other threads; see above.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}
