//! What `ioctl(2)` does to network interfaces and says of namespaces.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;
use rustix::io::{Errno, Result};

use super::mount::last_errno;

/// `_IO(0xb7, 3)`: ioctl_ns(2). Takes no argument, and answers with the `CLONE_NEW*` of the namespace.
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;

/// Brings the loopback interface of this thread's network namespace up: netdevice(7). Async-signal-safe.
pub(crate) fn bring_loopback_up() -> Result<()> {
    // Any socket will do.
    // SAFETY: takes integers.
    let socket = match unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) } {
        -1 => return Err(last_errno()),
        // SAFETY: the kernel has just made it, and nobody else knows of it.
        fd => unsafe { OwnedFd::from_raw_fd(fd) },
    };
    // SAFETY: integers and a union of such, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed();
    }
    interface(&socket, libc::SIOCGIFFLAGS as libc::Ioctl, &mut request)?;
    // SAFETY: the call that succeeded has filled in this field of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    // The constant is small.
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    interface(&socket, libc::SIOCSIFFLAGS as libc::Ioctl, &mut request)
}

fn interface(socket: &OwnedFd, call: libc::Ioctl, request: &mut libc::ifreq) -> Result<()> {
    // SAFETY: both calls read and write one such structure, which lives across them.
    match unsafe { libc::ioctl(socket.as_raw_fd(), call, std::ptr::from_mut(request)) } {
        -1 => Err(last_errno()),
        _ => Ok(()),
    }
}

/// Whether the descriptor is of a network namespace (Linux 4.11).
pub(crate) fn is_network_namespace(fd: BorrowedFd<'_>) -> Result<bool> {
    // The type of the second argument differs between C libraries; the number fits both.
    // SAFETY: takes integers; files that are no namespaces answer ENOTTY, or EINVAL, or, when they know the number as something of
    // theirs, whatever that is. It has no argument that could be written to.
    match unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as libc::Ioctl) } {
        -1 => match last_errno() {
            Errno::NOTTY | Errno::INVAL | Errno::BADF => Ok(false),
            errno => Err(errno),
        },
        answer => Ok(answer == libc::CLONE_NEWNET),
    }
}
