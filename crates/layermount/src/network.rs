//! [`Network`]: whose network a program sees.
//!
//! | | the namespace | made by | who may |
//! |---|---|---|---|
//! | [`Network::host`] | the caller's | | everybody |
//! | [`Network::none`] | a new one with `lo` | the kernel, as a flag of the program's clone(2) | everybody |
//! | [`Network::at`], [`Network::of_process`] | somebody else's | | who has `CAP_SYS_ADMIN` over it |
//! | [`Network::pasta`] | a new one with `lo` and pasta's interface | a [`Keeper`] | root; a process in a user namespace of its own |
//!
//! A namespace is joined before anything is mounted: sysfs shows the one of whoever mounts it.
//!
//! Sources: network_namespaces(7), setns(2), netdevice(7), pasta(1).

mod error;
mod keeper;
mod pasta;
mod publish;

pub(crate) use error::NetworkError;
pub(crate) use keeper::Keeper;
pub use pasta::Pasta;
pub use publish::{ParsePublishError, Protocol, Publish};

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::caller::Caller;
use crate::error::{Result, SyscallContext};
use crate::script::{At, Script, Step};
use crate::sys::network::is_network_namespace;

/// Whose network a program sees: plain data, for [`Command::network`](crate::Command::network).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Host,
    None,
    At(PathBuf),
    OfProcess(u32),
    Pasta(Pasta),
}

impl Network {
    /// The caller's.
    pub fn host() -> Self {
        Self(Kind::Host)
    }

    /// One with a loopback interface, which is up, and nothing else. Takes the kernel about 0.3 ms.
    pub fn none() -> Self {
        Self(Kind::None)
    }

    /// A network namespace that is bound to a path, such as `/run/netns/NAME`: ip-netns(8). Takes `CAP_SYS_ADMIN` in the user
    /// namespace that owns it.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(Kind::At(path.into()))
    }

    /// That of a process, which may end later on. Takes the privilege to trace the process, and `CAP_SYS_ADMIN` over its namespace.
    pub fn of_process(pid: u32) -> Self {
        Self(Kind::OfProcess(pid))
    }

    /// One that is connected to the host's by pasta(1), a program of the package passt, also for users without privileges. It is up
    /// before the program's first instruction, and goes with the program.
    ///
    /// A caller without `CAP_SYS_ADMIN` has to [enter](crate::UserNamespace::enter) a user namespace before.
    pub fn pasta(pasta: Pasta) -> Self {
        Self(Kind::Pasta(pasta))
    }

    /// Looks whether this can be had, as far as that can be told beforehand: the path is a network namespace, the process exists,
    /// pasta is installed, the ports are free. [`RootMount::spawn`](crate::RootMount::spawn) does so as well; here it is found out before
    /// an image is unpacked.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for a path that is no network namespace and a process that does not
    /// exist, [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) without pasta,
    /// [`ErrorKind::Busy`](crate::ErrorKind::Busy) for a port that is in use.
    pub fn check(&self) -> Result<()> {
        match &self.0 {
            Kind::Host | Kind::None => Ok(()),
            Kind::At(path) => Ok(open_namespace(path).map(drop)?),
            Kind::OfProcess(pid) => Ok(open_process(*pid).map(drop)?),
            Kind::Pasta(pasta) => Ok(pasta.check().map(drop)?),
        }
    }

    /// Makes or opens what is going to be joined.
    pub(crate) fn prepare(&self, caller: &Caller) -> Result<Joined, NetworkError> {
        Ok(match &self.0 {
            Kind::Host => Joined::Host,
            Kind::None => Joined::New,
            Kind::At(path) => Joined::Theirs(open_namespace(path)?),
            Kind::OfProcess(pid) => Joined::Theirs(open_process(*pid)?),
            Kind::Pasta(_) if caller.needs_user_namespace() => return Err(NetworkError::NeedsUserNamespace),
            Kind::Pasta(pasta) => Joined::Kept(Keeper::start(pasta)?, pasta.resolver()),
        })
    }
}

/// As the OCI runtime specification has it: `config-linux.md`, "Namespaces".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Specified {
    /// The runtime's.
    Host,
    New,
    At(PathBuf),
}

impl Specified {
    pub(crate) fn view(&self) -> NetworkView {
        match self {
            Self::Host => NetworkView::Host,
            Self::New | Self::At(_) => NetworkView::Other,
        }
    }
}

impl Network {
    /// `None` for pasta's, which no runtime starts.
    pub(crate) fn runtime_spec(&self) -> Result<Option<Specified>> {
        self.check()?;
        Ok(Some(match &self.0 {
            Kind::Host => Specified::Host,
            Kind::None => Specified::New,
            // A runtime takes no other paths.
            Kind::At(path) => Specified::At(
                std::path::absolute(path)
                    .syscall("getcwd", || ".".to_owned())
                    .map_err(|cause| NetworkError::Open { path: path.clone(), cause })?,
            ),
            Kind::OfProcess(pid) => Specified::At(PathBuf::from(format!("/proc/{pid}/ns/net"))),
            Kind::Pasta(_) => return Ok(None),
        }))
    }
}

fn open_namespace(path: &Path) -> Result<OwnedFd, NetworkError> {
    // A fifo would have us wait for its other end.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let namespace = rustix::fs::open(path, flags, Mode::empty())
        .syscall("open", || path.display().to_string())
        .map_err(|cause| NetworkError::Open { path: path.to_owned(), cause })?;
    match is_network_namespace(namespace.as_fd()).syscall("ioctl", || "NS_GET_NSTYPE".to_owned()) {
        Ok(true) => Ok(namespace),
        Ok(false) => Err(NetworkError::NotANamespace { path: path.to_owned() }),
        Err(cause) => Err(NetworkError::Open { path: path.to_owned(), cause }),
    }
}

/// Names the process for good, whoever gets its number later. setns(2) takes such a descriptor since Linux 5.8.
fn open_process(pid: u32) -> Result<OwnedFd, NetworkError> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(rustix::io::Errno::SRCH);
    number
        .and_then(|number| pidfd_open(number, PidfdFlags::empty()))
        .syscall("pidfd_open", || pid.to_string())
        .map_err(|cause| NetworkError::Process { pid, cause })
}

/// What a child does about its network.
#[derive(Debug)]
pub(crate) enum Joined {
    Host,
    New,
    /// A descriptor of a namespace, or of a process.
    Theirs(OwnedFd),
    /// With the resolver's address inside.
    Kept(Keeper, IpAddr),
}

/// What programs inside see of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NetworkView {
    Host,
    /// Not the host's: the kernel lets whoever could join it mount a sysfs for it.
    Other,
    /// The same, and the host's resolvers are reached by this address.
    Forwarded(IpAddr),
}

impl Joined {
    /// For the child's clone(2).
    pub(crate) fn clone_flags(&self) -> i32 {
        match self {
            Self::New => nix::libc::CLONE_NEWNET,
            _ => 0,
        }
    }

    pub(crate) fn view(&self) -> NetworkView {
        match self {
            Self::Host => NetworkView::Host,
            Self::New | Self::Theirs(_) => NetworkView::Other,
            Self::Kept(_, resolver) => NetworkView::Forwarded(*resolver),
        }
    }

    /// The child's first steps.
    pub(crate) fn push_into<'a>(&'a self, script: &mut Script<'a>) {
        let namespace = match self {
            Self::Host => return,
            Self::New => {
                script.doing("bring the loopback interface up").push(Step::BringLoopbackUp);
                return;
            }
            Self::Theirs(namespace) => namespace.as_fd(),
            Self::Kept(keeper, _) => keeper.namespace(),
        };
        script.doing("join the network namespace").push(Step::JoinNetwork { namespace: At::Fd(namespace) });
    }

    /// What has to go on for as long as the program does.
    pub(crate) fn into_keeper(self) -> Option<Keeper> {
        match self {
            Self::Kept(keeper, _) => Some(keeper),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn what_is_no_network_namespace_is_told() {
        assert!(Network::at("/proc/self/ns/net").check().is_ok());
        let kind = |network: Network| network.check().unwrap_err().kind();
        for bad in ["/proc/self/ns/uts", "/dev/null", "/", "/proc/self/stat", "/no/such"] {
            assert_eq!(kind(Network::at(bad)), ErrorKind::InvalidInput, "{bad}");
        }
        assert!(Network::of_process(std::process::id()).check().is_ok());
        for bad in [0, u32::MAX, i32::MAX.unsigned_abs()] {
            assert_eq!(kind(Network::of_process(bad)), ErrorKind::InvalidInput, "{bad}");
        }
    }
}
