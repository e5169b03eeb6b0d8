//! What keeps a process out of a user namespace.

use std::io;

use rustix::io::Errno;

use super::obstacle::{Obstacle, Stage};
use crate::error::{ErrorKind, Fault, SyscallError};

/// A user namespace that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserNamespaceError {
    #[error("ID ranges that are empty, too many, too large or overlap")]
    Ranges,
    #[error("{file} grants no IDs to {user}")]
    NotGranted { file: &'static str, user: String },
    #[error("{name}, which maps the IDs that /etc/subuid grants, is not installed")]
    NoHelper { name: &'static str },
    #[error("cannot run {name}")]
    Helper {
        name: &'static str,
        #[source]
        cause: io::Error,
    },
    #[error("{name} does not map the IDs: {said}")]
    Refused { name: &'static str, said: String },
    #[error("cannot prepare a user namespace")]
    Prepare(#[source] SyscallError),
    #[error("cannot make a user namespace")]
    Create(#[source] SyscallError),
    #[error("cannot map the IDs of a user namespace")]
    Map(#[source] SyscallError),
    #[error("cannot read the ID maps of a process")]
    Maps(#[source] SyscallError),
    #[error("cannot enter the user namespace")]
    Enter(#[source] SyscallError),
}

impl Fault for UserNamespaceError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Ranges => ErrorKind::InvalidInput,
            Self::NotGranted { .. } | Self::NoHelper { .. } => ErrorKind::Unsupported,
            Self::Refused { .. } => ErrorKind::PermissionDenied,
            Self::Helper { cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied => {
                ErrorKind::PermissionDenied
            }
            Self::Helper { .. } => ErrorKind::Os,
            Self::Create(cause) if is_forbidden(cause) => ErrorKind::PermissionDenied,
            Self::Prepare(cause) | Self::Create(cause) | Self::Map(cause) | Self::Maps(cause) | Self::Enter(cause) => {
                cause.kind()
            }
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotGranted { user, .. } => {
                format!("as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}")
            }
            Self::NoHelper { .. } => "install the package uidmap (Debian, Ubuntu) or shadow-utils (Fedora)".to_owned(),
            Self::Refused { said, .. } if said.contains("not allowed") => {
                "the ranges must be in /etc/subuid and /etc/subgid for this user".to_owned()
            }
            Self::Refused { name, said } if said.contains("user name") => {
                format!("{name} looks users up by name, and this one has no line in /etc/passwd")
            }
            Self::Refused { name, .. } => {
                format!(
                    "{name} must be set-uid root or have cap_setuid/cap_setgid, which no_new_privs and nosuid take away"
                )
            }
            Self::Create(cause) if is_forbidden(cause) || cause.errno() == Errno::INVAL => {
                hint(Stage::Make, cause.errno())
            }
            Self::Map(cause) => hint(Stage::Map, cause.errno()),
            _ => return None,
        })
    }
}

/// Says what keeps a process out of a user namespace, and what to change, wherever the kernel refuses one.
pub(crate) fn hint(stage: Stage, errno: Errno) -> String {
    match Obstacle::find(stage, errno) {
        Obstacle::Unknown => Obstacle::Unknown.remedy(),
        obstacle => format!("{obstacle}: {}", obstacle.remedy()),
    }
}

/// Too many of them (`user.max_user_namespaces`, 0 for none), or not allowed.
fn is_forbidden(cause: &SyscallError) -> bool {
    matches!(cause.errno(), Errno::PERM | Errno::ACCESS | Errno::NOSPC | Errno::USERS)
}
