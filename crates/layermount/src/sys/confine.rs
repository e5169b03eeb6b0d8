//! What a process gives up for good before it becomes a program: seccomp(2), keyctl(2).

use nix::libc;
#[cfg(feature = "seccomp")]
use nix::libc::{sock_filter, sock_fprog};
#[cfg(feature = "seccomp")]
use rustix::io::Errno;
use rustix::io::Result;

use super::mount::last_errno;

#[cfg(feature = "seccomp")]
/// A seccomp filter, ready for the kernel.
#[derive(Debug)]
pub(crate) struct Filter {
    /// Never empty, and no longer than the kernel takes.
    pub(crate) program: Vec<sock_filter>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(crate) flags: u32,
}

#[cfg(feature = "seccomp")]
impl Filter {
    /// Puts the calling thread, and whatever it becomes and starts, under the filter. Takes `CAP_SYS_ADMIN` in the user namespace or
    /// `no_new_privs`. Async-signal-safe.
    pub(crate) fn install(&self) -> Result<()> {
        let length = u16::try_from(self.program.len()).map_err(|_| Errno::INVAL)?;
        let program = sock_fprog { len: length, filter: self.program.as_ptr().cast_mut() };
        let (operation, flags) = (libc::c_long::from(libc::SECCOMP_SET_MODE_FILTER), libc::c_long::from(self.flags));
        // SAFETY: the kernel reads as many instructions as the structure says, which live across the call, and writes nothing.
        match unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) } {
            0 => Ok(()),
            _ => Err(last_errno()),
        }
    }
}

/// Leaves the session keyring that is shared with the caller for a new, empty one. Async-signal-safe.
pub(crate) fn join_new_session_keyring() -> Result<()> {
    let no_name: *const libc::c_char = std::ptr::null();
    // SAFETY: a null name means "anonymous"; nothing is read or written.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::c_long::from(libc::KEYCTL_JOIN_SESSION_KEYRING), no_name) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}
