//! What keeps a program from its network.

use std::path::PathBuf;

use rustix::io::Errno;

use super::publish::Publish;
use crate::error::{ErrorKind, Fault, SyscallError};

/// A network that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("cannot open the network namespace {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        cause: SyscallError,
    },
    #[error("{} is not a network namespace", path.display())]
    NotANamespace { path: PathBuf },
    #[error("cannot use the network of process {pid}")]
    Process {
        pid: u32,
        #[source]
        cause: SyscallError,
    },
    #[error("pasta is not installed, which connects programs to the network")]
    NoPasta,
    #[error("pasta needs a user namespace around the program's network")]
    NeedsUserNamespace,
    #[error("cannot publish port {port} ({publish})")]
    Port {
        port: u16,
        publish: Publish,
        #[source]
        cause: SyscallError,
    },
    #[error("{option:?} cannot be given to pasta: {why}")]
    Option { option: String, why: &'static str },
    #[error("cannot use /dev/net/tun, with which pasta makes a network interface")]
    Tun(#[source] SyscallError),
    #[error("cannot {doing}")]
    System {
        doing: &'static str,
        #[source]
        cause: SyscallError,
    },
    #[error("pasta could not connect the network: {said}")]
    Pasta { said: String },
    #[error("pasta has not connected the network for {seconds} s")]
    Late { seconds: u64 },
}

impl Fault for NetworkError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Open { cause, .. } if [Errno::NOENT, Errno::NOTDIR].contains(&cause.errno()) => {
                ErrorKind::InvalidInput
            }
            Self::Process { cause, .. } if [Errno::SRCH, Errno::INVAL].contains(&cause.errno()) => {
                ErrorKind::InvalidInput
            }
            Self::Port { cause, .. } if cause.errno() == Errno::ADDRINUSE => ErrorKind::Busy,
            Self::Port { cause, .. } if cause.errno() == Errno::ADDRNOTAVAIL => ErrorKind::InvalidInput,
            Self::Open { cause, .. }
            | Self::Process { cause, .. }
            | Self::Port { cause, .. }
            | Self::Tun(cause)
            | Self::System { cause, .. } => cause.kind(),
            Self::NotANamespace { .. } | Self::Option { .. } => ErrorKind::InvalidInput,
            Self::NoPasta | Self::NeedsUserNamespace => ErrorKind::Unsupported,
            Self::Pasta { .. } | Self::Late { .. } => ErrorKind::Os,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotANamespace { .. } => "name one as `ip netns add` binds it: /run/netns/NAME".to_owned(),
            Self::NoPasta => "install the package passt; without it there are the host's network and none".to_owned(),
            Self::NeedsUserNamespace => "let the process enter a UserNamespace before".to_owned(),
            Self::Port { cause, .. } if cause.errno() == Errno::ACCESS => {
                "ordinary users have the ports from the sysctl net.ipv4.ip_unprivileged_port_start (1024) up".to_owned()
            }
            Self::Port { cause, .. } if cause.errno() == Errno::ADDRNOTAVAIL => {
                "the address must be one of this machine".to_owned()
            }
            Self::Tun(cause) if cause.errno() == Errno::NOENT => "`modprobe tun` makes it".to_owned(),
            Self::Tun(_) => "on most machines everybody may (mode 0666): ask who looks after this one".to_owned(),
            _ => return None,
        })
    }
}
