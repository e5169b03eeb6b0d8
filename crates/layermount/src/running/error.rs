//! Why a process cannot be joined.

use rustix::io::Errno;

use crate::error::{ErrorKind, Fault, SyscallError};

/// A process that cannot be joined.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunningError {
    #[error("there is no process {pid}")]
    NoProcess { pid: u32 },
    #[error("process {pid} is not inside an image: it sees the same mounts as the caller")]
    NotInside { pid: u32 },
    #[error("cannot look into process {pid}")]
    Look {
        pid: u32,
        #[source]
        cause: SyscallError,
    },
    #[error("/proc/{pid}/status does not say {field}")]
    Status { pid: u32, field: &'static str },
    #[error("cannot join the cgroup of process {pid}")]
    Cgroup {
        pid: u32,
        #[source]
        cause: SyscallError,
    },
}

impl RunningError {
    /// Files of a process that has ended are not there, or answer `ESRCH`.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::Look { cause, .. } if matches!(cause.errno(), Errno::SRCH | Errno::NOENT))
    }
}

impl Fault for RunningError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoProcess { .. } | Self::NotInside { .. } => ErrorKind::InvalidInput,
            Self::Look { cause, .. } | Self::Cgroup { cause, .. } => cause.kind(),
            Self::Status { .. } => ErrorKind::Unsupported,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoProcess { .. } => {
                "it may have ended; --pidfile of `layermount run` says a program's number".to_owned()
            }
            Self::Look { cause, .. } if cause.kind() == ErrorKind::PermissionDenied => {
                "root may, and whoever has started the program in a user namespace of their own".to_owned()
            }
            _ => return None,
        })
    }
}
