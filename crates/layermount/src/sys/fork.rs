//! A child process in new namespaces, made with `clone3(2)`, or `clone(2)` where a seccomp filter hides the newer call.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::io::{Errno, Result};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::mount::last_errno;

#[cfg(target_arch = "x86_64")]
mod shared;

/// What a child runs.
type Body<'a> = &'a mut dyn FnMut() -> i32;

/// The memory that a child works in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// A copy.
    Copied,
    /// The parent's, where that is possible: the calling thread waits until the child has executed a program or ended. It is
    /// faster by all that a copy takes, and more is asked of the child: it must not wait for the parent, and what it
    /// changes is changed for the parent. Descriptors are its own, so that an owner of one that it leaves in memory is, to the
    /// parent, the owner of nothing.
    Shared,
}

/// The parent's handle on a child.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

/// Starts `body` in a child process; the child ends with the code that `body` returns.
///
/// Other threads may have held any lock (also the allocator's) at the moment of the copy. So `body` must be async-signal-safe: no
/// allocation, no locks, nothing but system calls on prepared data; otherwise it may wait for ever. The child starts with default
/// signal dispositions and an empty signal mask.
///
/// `flags` are `CLONE_NEW*` and `CLONE_FILES`.
pub(crate) fn start(flags: libc::c_int, memory: Memory, body: Body<'_>) -> Result<Process> {
    start_with(flags, libc::SIGCHLD, memory, None, body)
}

/// As [`start`], in this cgroup of version 2 from the beginning (`CLONE_INTO_CGROUP`, Linux 5.7).
///
/// That takes `clone3(2)`: where it is missing or hidden, the answer is one of [`NO_CLONE_INTO_CGROUP`], and it is for the caller to
/// have the child move by itself.
pub(crate) fn start_in_cgroup(
    cgroup: BorrowedFd<'_>,
    flags: libc::c_int,
    memory: Memory,
    body: Body<'_>,
) -> Result<Process> {
    start_with(flags, libc::SIGCHLD, memory, Some(cgroup), body)
}

/// From `include/uapi/linux/sched.h`; `libc` has it in a type that is too small.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// No `clone3`, a filter that hides it, a `clone3` that does not know the flag, or not the field.
pub(crate) const NO_CLONE_INTO_CGROUP: [Errno; 4] = [Errno::NOSYS, Errno::PERM, Errno::INVAL, Errno::TOOBIG];

/// As [`start`], so that the embedding program does not notice: there is no `SIGCHLD`, and no `wait` of its own that does not ask
/// for such children (`__WALL`) takes the status away, nor does it get lost when `SIGCHLD` is ignored (wait(2), "NOTES" and
/// `__WCLONE`). It is for [`wait_unnoticed`] to wait for it.
pub(crate) fn start_unnoticed(flags: libc::c_int, body: Body<'_>) -> Result<Process> {
    start_with(flags, 0, Memory::Copied, None, body)
}

/// Waits for the end of a child; the exit code, if it ended by itself.
pub(crate) fn wait_unnoticed(child: &Process) -> Result<Option<i32>> {
    let all = WaitOptions::from_bits_retain(libc::__WALL.cast_unsigned());
    let waited = rustix::io::retry_on_intr(|| waitpid(Some(child.pid), all))?;
    Ok(waited.and_then(|(_, status)| status.exit_status()))
}

/// [`start_unnoticed`] and [`wait_unnoticed`].
pub(crate) fn run(flags: libc::c_int, body: Body<'_>) -> Result<Option<i32>> {
    wait_unnoticed(&start_unnoticed(flags, body)?)
}

fn start_with(
    flags: libc::c_int,
    exit_signal: libc::c_int,
    memory: Memory,
    cgroup: Option<BorrowedFd<'_>>,
    mut body: Body<'_>,
) -> Result<Process> {
    // No handler of the parent's program may run in the child: signals wait until the dispositions are reset.
    let mask = SigSet::all()
        .thread_swap_mask(SigmaskHow::SIG_SETMASK)
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
    let result = clone(flags, exit_signal, memory, cgroup, &mut body);
    let restored = mask.thread_set_mask();
    debug_assert!(restored.is_ok(), "setting a mask that was in force before");
    result
}

/// All that a child does.
extern "C" fn run_child(body: *mut Body<'_>) -> ! {
    let bomb = ExitOnUnwind;
    reset_signals();
    // SAFETY: it comes from a reference that is valid for as long as the child runs, and nobody else uses it meanwhile.
    let body = unsafe { &mut *body };
    let code = body();
    drop(bomb);
    exit(code)
}

/// Returns in the parent only.
fn clone(
    flags: libc::c_int,
    exit_signal: libc::c_int,
    memory: Memory,
    cgroup: Option<BorrowedFd<'_>>,
    body: &mut Body<'_>,
) -> Result<Process> {
    let mut pidfd: RawFd = -1;
    // SAFETY: the structure is plain integers, for which zero is "not used".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags as u64 | libc::CLONE_PIDFD as u64;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = exit_signal as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    let cloned = match memory {
        #[cfg(target_arch = "x86_64")]
        Memory::Shared => shared::clone3(arguments, body),
        _ => copying_clone3(&mut arguments, body),
    };
    match cloned {
        Ok(pid) => started(pid, pidfd),
        // Docker's and others' seccomp filters cannot look into clone3's arguments and refuse all of it.
        Err(Errno::NOSYS | Errno::PERM) if cgroup.is_none() => old_clone(flags, exit_signal, body),
        Err(errno) => Err(errno),
    }
}

fn copying_clone3(arguments: &mut libc::clone_args, body: &mut Body<'_>) -> Result<libc::c_long> {
    let size = size_of_val(arguments);
    // SAFETY: without CLONE_VM the child works on a copy of the memory, on the same stack; both sides return from here.
    match unsafe { libc::syscall(libc::SYS_clone3, ptr::from_mut(arguments), size) } {
        0 => run_child(body),
        pid if pid > 0 => Ok(pid),
        _ => Err(last_errno()),
    }
}

fn old_clone(flags: libc::c_int, exit_signal: libc::c_int, body: &mut Body<'_>) -> Result<Process> {
    let flags = libc::c_ulong::from((flags | libc::CLONE_PIDFD | exit_signal).cast_unsigned());
    let none: libc::c_ulong = 0;
    // Stored by the same call (Linux 5.2), so that there is no child of which we have no descriptor.
    let mut pidfd: RawFd = -1;
    #[cfg(target_arch = "s390x")]
    // SAFETY: without CLONE_VM the child works on a copy of the memory, and a null stack means "the same one, copied"; both sides
    // return from here. On this machine the stack comes first.
    let pid = unsafe { libc::syscall(libc::SYS_clone, none, flags, &raw mut pidfd, none, none) };
    #[cfg(not(target_arch = "s390x"))]
    // SAFETY: without CLONE_VM the child works on a copy of the memory, and a null stack means "the same one, copied"; both sides
    // return from here.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, none, &raw mut pidfd, none, none) };
    match pid {
        0 => run_child(body),
        pid if pid > 0 => started(pid, pidfd),
        _ => Err(last_errno()),
    }
}

/// What the parent gets from a `clone` with `CLONE_PIDFD`.
fn started(pid: libc::c_long, pidfd: RawFd) -> Result<Process> {
    // SAFETY: the kernel has just stored a new descriptor there, which nobody else knows of.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::INVAL)?;
    Ok(Process { pid, pidfd })
}

/// A panic must not unwind into the parent's frames in the child's copy of the stack.
struct ExitOnUnwind;

impl Drop for ExitOnUnwind {
    fn drop(&mut self) {
        if std::thread::panicking() {
            exit(125);
        }
    }
}

/// Ends the process at once, without destructors or `atexit` functions. Async-signal-safe.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Closes a child's copy of a descriptor, whose owner is the parent. Async-signal-safe.
pub(crate) fn close_copy(fd: BorrowedFd<'_>) {
    // SAFETY: only ever called in a child with a table of descriptors of its own, in which nobody uses this one any more. What
    // owns it is dropped in the parent alone.
    unsafe { libc::close(fd.as_raw_fd()) };
}

/// Takes over a descriptor that a child with a shared table of descriptors has opened and given up.
pub(crate) fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: the child has made it, told us its number and ended: it has no other owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Default dispositions and an empty mask, as a freshly started program expects them; `execve` would pass on what is ignored
/// (Rust programs ignore `SIGPIPE`) and what is blocked. Async-signal-safe.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: takes integers. Fails for SIGKILL, SIGSTOP and the C library's own two, which need no reset.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let restored = SigSet::empty().thread_set_mask();
    debug_assert!(restored.is_ok(), "an empty mask is always valid");
}

/// What a terminal stops its foreground programs by (Ctrl-Z), and those in the background.
const STOPS: [libc::c_int; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// In a child for which its parent waits as `vfork(2)` has it: a parent that waits for a stopped child cannot be stopped itself, so
/// that a shell would not get its terminal back. Async-signal-safe.
pub(crate) fn ignore_stops() {
    STOPS.into_iter().for_each(|signal| dispose(signal, libc::SIG_IGN));
}

/// The opposite of [`ignore_stops`], for the program that is going to be executed. Async-signal-safe.
pub(crate) fn heed_stops() {
    STOPS.into_iter().for_each(|signal| dispose(signal, libc::SIG_DFL));
}

fn dispose(signal: libc::c_int, disposition: libc::sighandler_t) {
    // SAFETY: takes integers.
    unsafe { libc::signal(signal, disposition) };
}
