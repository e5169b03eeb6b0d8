//! The way from the caller's namespaces into those of a process.
//!
//! Whoever joins a namespace needs `CAP_SYS_ADMIN` in the user namespace that owns it (setns(2)). A program may be in a user namespace
//! inside of the one that owns everything else that it has ([`Command::user_namespace`](crate::Command::user_namespace)). So the owner
//! comes first, then what it owns, and at last the program's own.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd, RawFd};

use nix::libc;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::error::RunningError;
use crate::error::{SyscallContext, SyscallError};
use crate::script::write_all;
use crate::sys::fork;
use crate::sys::namespace::{owner, set_namespaces};

/// All but user and mount namespaces, with their names in proc_pid_ns(5).
const OTHERS: [(&str, libc::c_int); 5] = [
    ("pid", libc::CLONE_NEWPID),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("net", libc::CLONE_NEWNET),
    ("cgroup", libc::CLONE_NEWCGROUP),
];

/// Which namespaces have to be joined.
#[derive(Debug)]
pub(crate) struct Way {
    /// The user namespace that owns the mount namespace, where it is not the caller's.
    owner: Option<OwnedFd>,
    /// `CLONE_NEW*`, without users.
    owned: libc::c_int,
    /// The program has a user namespace that is not the owner.
    inner: bool,
    another_user_namespace: bool,
}

impl Way {
    pub(super) fn to(pid: u32) -> Result<Self, RunningError> {
        let look = |cause| RunningError::Look { pid, cause };
        let [ours, theirs] = ["/proc/thread-self".to_owned(), format!("/proc/{pid}")];
        let identity = |of: &str, name: &str| identity(&format!("{of}/ns/{name}"));
        let differs =
            |name: &str| -> Result<bool, SyscallError> { Ok(identity(&theirs, name)? != identity(&ours, name)?) };
        if !differs("mnt").map_err(look)? {
            return Err(RunningError::NotInside { pid });
        }
        let mut owned = libc::CLONE_NEWNS;
        for (name, flag) in OTHERS {
            if differs(name).map_err(look)? {
                owned |= flag;
            }
        }
        let mount =
            File::open(format!("{theirs}/ns/mnt")).syscall("open", || format!("{theirs}/ns/mnt")).map_err(look)?;
        let owner = owner(mount.as_fd()).syscall("ioctl", || "NS_GET_USERNS".to_owned()).map_err(look)?;
        let of_owner = fstat(&owner).map_err(look)?;
        let (our_users, their_users) =
            (identity(&ours, "user").map_err(look)?, identity(&theirs, "user").map_err(look)?);
        Ok(Self {
            owner: (of_owner != our_users).then_some(owner),
            owned,
            inner: their_users != of_owner,
            another_user_namespace: their_users != our_users,
        })
    }

    pub(super) fn is_in_another_user_namespace(&self) -> bool {
        self.another_user_namespace
    }

    pub(crate) fn owner(&self) -> Option<&OwnedFd> {
        self.owner.as_ref()
    }

    /// Opens a file for reading with the rights that the caller has in the owner's namespace: files in `/proc` of a process of another user
    /// there are nobody's outside.
    pub(super) fn open_as_owner(&self, path: &str) -> Result<OwnedFd, SyscallError> {
        let opening = || path.to_owned();
        let (Some(owner), Ok(name)) = (&self.owner, CString::new(path)) else {
            return Err(Errno::ACCESS).syscall("open", opening);
        };
        let mut opened = Err(Errno::ACCESS);
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).syscall("pipe2", || "O_CLOEXEC".to_owned())?;
        // With the table of descriptors in common, what the child opens is open here.
        fork::run(libc::CLONE_FILES, &mut || {
            let open = || {
                set_namespaces(owner.as_fd(), libc::CLONE_NEWUSER)?;
                rustix::fs::open(name.as_c_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            };
            let number = open().map(IntoRawFd::into_raw_fd).unwrap_or(-1);
            i32::from(write_all(writer.as_fd(), &number.to_ne_bytes()).is_err())
        })
        .syscall("clone3", || "CLONE_FILES".to_owned())?;
        drop(writer);
        let mut number = [0_u8; 4];
        if rustix::io::read(&reader, &mut number).syscall("read", || "pipe".to_owned())? == number.len() {
            let number = RawFd::from_ne_bytes(number);
            opened = if number < 0 { opened } else { Ok(fork::adopt(number)) };
        }
        opened.syscall("open", opening)
    }

    /// Moves the calling process; into the pid namespace, only its children to come. Async-signal-safe.
    pub(crate) fn go(&self, process: &OwnedFd) -> Result<(), Errno> {
        if let Some(owner) = &self.owner {
            set_namespaces(owner.as_fd(), libc::CLONE_NEWUSER)?;
        }
        set_namespaces(process.as_fd(), self.owned)?;
        if self.inner {
            set_namespaces(process.as_fd(), libc::CLONE_NEWUSER)?;
        }
        Ok(())
    }
}

/// Two namespaces are the same when these are (proc_pid_ns(5)).
fn identity(path: &str) -> Result<(u64, u64), SyscallError> {
    let stat = rustix::fs::stat(path).syscall("stat", || path.to_owned())?;
    Ok((stat.st_dev, stat.st_ino))
}

fn fstat(file: &OwnedFd) -> Result<(u64, u64), SyscallError> {
    let stat = rustix::fs::fstat(file).syscall("fstat", || "a user namespace".to_owned())?;
    Ok((stat.st_dev, stat.st_ino))
}
