//! What keeps a program from being limited.

use std::path::PathBuf;

use rustix::io::Errno;

use super::Controller;
use super::hierarchy::Version;
use crate::error::{ErrorKind, Fault, SyscallError};
use crate::resources::ResourcesError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    #[error(transparent)]
    Resources(#[from] ResourcesError),
    #[error("cannot see which cgroup this process is in")]
    Look {
        #[source]
        cause: SyscallError,
    },
    #[error("this machine has no {} controller mounted, which the limit needs", controller.name())]
    NoController { controller: Controller },
    #[error("the cgroup {} of this process is not below {}", own.display(), mount.display())]
    Outside { own: PathBuf, mount: PathBuf },
    #[error("{path:?} is not the path of a cgroup")]
    ParentPath { path: PathBuf },
    #[error("there is no cgroup {} in any hierarchy", path.display())]
    NoParent { path: PathBuf },
    #[error("cannot make a cgroup in {}", parent.display())]
    Make {
        parent: PathBuf,
        version: Version,
        #[source]
        cause: SyscallError,
    },
    #[error("cannot hand the {controllers} controller down from {}", path.display())]
    Enable {
        controllers: String,
        path: PathBuf,
        #[source]
        cause: SyscallError,
    },
    #[error("this kernel does not count swap, and cannot limit memory and swap together")]
    NoSwap,
    #[error("this kernel has no {file} in {}", path.display())]
    NoFile { file: &'static str, path: PathBuf },
    #[error("cannot set {file} to {value}")]
    Set {
        file: &'static str,
        value: String,
        #[source]
        cause: SyscallError,
    },
    #[error("cannot open {} for the program to join", path.display())]
    Open {
        path: PathBuf,
        #[source]
        cause: SyscallError,
    },
}

impl Fault for CgroupError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Resources(error) => error.kind(),
            Self::NoController { .. } | Self::Outside { .. } | Self::NoSwap | Self::NoFile { .. } => {
                ErrorKind::Unsupported
            }
            Self::ParentPath { .. } | Self::NoParent { .. } => ErrorKind::InvalidInput,
            Self::Set { cause, .. } if matches!(cause.errno(), Errno::INVAL | Errno::RANGE | Errno::NODEV) => {
                ErrorKind::InvalidInput
            }
            // Not of files that are made in a store.
            Self::Make { cause, .. } | Self::Set { cause, .. } if cause.errno() == Errno::NOSPC => ErrorKind::Os,
            Self::Enable { cause, .. } if cause.errno() == Errno::BUSY => ErrorKind::Busy,
            Self::Look { cause }
            | Self::Make { cause, .. }
            | Self::Enable { cause, .. }
            | Self::Set { cause, .. }
            | Self::Open { cause, .. } => {
                if cause.errno() == Errno::ROFS {
                    ErrorKind::PermissionDenied
                } else {
                    cause.kind()
                }
            }
        }
    }

    fn hint(&self) -> Option<String> {
        let errno = match self {
            Self::Make { cause, .. } | Self::Enable { cause, .. } | Self::Open { cause, .. } => Some(cause.errno()),
            _ => None,
        };
        Some(
            match (self, errno) {
                (_, Some(Errno::ROFS)) => "cgroups are read-only here, as in most containers: the limit is for whoever started that",
                (Self::Enable { .. }, Some(Errno::BUSY)) => {
                    "a cgroup with processes of its own cannot limit those below it (no internal processes): name \
                     one without processes (--cgroup-parent), or have systemd start this in a part of the unit \
                     (Delegate=yes, DelegateSubgroup=)"
                }
                (Self::Enable { .. }, Some(Errno::PERM | Errno::ACCESS)) => {
                    "which controllers users are given, root decides: in a drop-in for user@.service, \
                     Delegate=cpu cpuset io memory pids"
                }
                (Self::Make { version: Version::V1, .. }, Some(Errno::PERM | Errno::ACCESS)) => {
                    "of cgroup v1, a user has none unless root makes one in each hierarchy (mkdir, chown -R) and it is named \
                     (--cgroup-parent)"
                }
                (_, Some(Errno::PERM | Errno::ACCESS)) => {
                    "a user needs a cgroup that is theirs, such as systemd gives: systemd-run --user --scope -p Delegate=yes layermount ..."
                }
                (Self::Make { .. }, Some(Errno::AGAIN)) => {
                    "the number of cgroups is limited: look at cgroup.max.descendants and cgroup.max.depth above it"
                }
                (Self::NoController { .. }, _) => {
                    "look at /proc/cgroups and at what is mounted in /sys/fs/cgroup; in a container, its host has to share them"
                }
                (Self::NoSwap, _) => "leave the limit of memory and swap away, or boot with swapaccount=1",
                (Self::NoParent { .. }, _) => "make it first, or limit something: then it is made in the hierarchies that are needed",
                (Self::ParentPath { .. }, _) => "it begins with / and has no .. in it",
                (Self::Set { file: "cpuset.cpus", .. }, _) => "they must be among those that the cgroup above may use",
                (Self::Set { file: "cpu.cfs_quota_us", .. }, _) => "it cannot be more than the cgroup above has",
                _ => return None,
            }
            .to_owned(),
        )
    }
}
