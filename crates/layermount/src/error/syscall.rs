//! A failed system call that prints as `strace` would show it.

use std::fmt;

use rustix::io::Errno;

use super::{ErrorKind, Fault};

/// Call, arguments, errno and, for mounts, the kernel's own log.
///
/// Prints like `openat2("/x", O_PATH) = ENOENT (No such file or directory)`.
#[derive(Debug)]
pub(crate) struct SyscallError {
    call: &'static str,
    arguments: String,
    errno: Errno,
    /// What the kernel wrote to the file system context of `fsopen(2)` (one message a line, without the level prefix).
    kernel_log: Option<String>,
}

impl SyscallError {
    pub(crate) fn new(call: &'static str, arguments: impl Into<String>, errno: Errno) -> Self {
        Self { call, arguments: arguments.into(), errno, kernel_log: None }
    }

    pub(crate) fn with_kernel_log(mut self, log: Option<String>) -> Self {
        self.kernel_log = log;
        self
    }

    pub(crate) fn call(&self) -> &'static str {
        self.call
    }

    pub(crate) fn errno(&self) -> Errno {
        self.errno
    }
}

impl fmt::Display for SyscallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, arguments, errno, kernel_log } = self;
        let nix = nix::errno::Errno::from_raw(errno.raw_os_error());
        write!(f, "{call}({arguments}) = {nix:?} ({})", nix.desc())?;
        if let Some(log) = kernel_log {
            write!(f, "; the kernel says: {log}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SyscallError {}

impl Fault for SyscallError {
    fn kind(&self) -> ErrorKind {
        match self.errno {
            Errno::PERM | Errno::ACCESS => ErrorKind::PermissionDenied,
            Errno::NOSPC | Errno::DQUOT => ErrorKind::StorageFull,
            Errno::NOSYS | Errno::OPNOTSUPP => ErrorKind::Unsupported,
            _ => ErrorKind::Os,
        }
    }

    fn hint(&self) -> Option<String> {
        // Of calls that make mounts, ENOSPC says something else: too many of them.
        const MAKE_FILES: [&str; 16] = [
            "mkdir",
            "mkdirat",
            "openat",
            "write",
            "pwrite",
            "pwrite64",
            "copy_file_range",
            "ftruncate",
            "linkat",
            "symlinkat",
            "mknodat",
            "renameat2",
            "renameat",
            "syncfs",
            "setxattr",
            "fsetxattr",
        ];
        match self.errno {
            Errno::MFILE => Some("every layer takes an open file: raise the limit of open files (ulimit -n)".into()),
            Errno::NFILE => Some("the machine's limit of open files is reached (sysctl fs.file-max)".into()),
            _ if self.kind() == ErrorKind::StorageFull && MAKE_FILES.contains(&self.call) => {
                Some("make room in the store's file system ('layermount store prune'), or use another store".into())
            }
            _ => None,
        }
    }
}

/// Turns the errno of a `rustix`, `nix` or `std` call into a [`SyscallError`].
pub(crate) trait SyscallContext<T> {
    /// `arguments` is only made into a string when the call failed.
    fn syscall(self, call: &'static str, arguments: impl FnOnce() -> String) -> Result<T, SyscallError>;
}

impl<T> SyscallContext<T> for rustix::io::Result<T> {
    fn syscall(self, call: &'static str, arguments: impl FnOnce() -> String) -> Result<T, SyscallError> {
        self.map_err(|errno| SyscallError::new(call, arguments(), errno))
    }
}

impl<T> SyscallContext<T> for nix::Result<T> {
    fn syscall(self, call: &'static str, arguments: impl FnOnce() -> String) -> Result<T, SyscallError> {
        self.map_err(|errno| SyscallError::new(call, arguments(), Errno::from_raw_os_error(errno as i32)))
    }
}

impl<T> SyscallContext<T> for std::io::Result<T> {
    fn syscall(self, call: &'static str, arguments: impl FnOnce() -> String) -> Result<T, SyscallError> {
        self.map_err(|error| {
            let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
            SyscallError::new(call, arguments(), errno)
        })
    }
}
