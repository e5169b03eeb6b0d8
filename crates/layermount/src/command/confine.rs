//! What the program is not given of the caller's powers.
//!
//! All of it happens in one thread right before `execve`, in an order that the kernel dictates:
//!
//! ```text
//! session keyring     first: the filter refuses it, and a user's own quota is small
//! no_new_privs
//! bounding set        takes CAP_SETPCAP
//! setgroups, setresgid, setresuid
//! filter              takes no_new_privs or CAP_SYS_ADMIN, which survives the change of user for this alone
//! capset              what remains
//! execve
//! ```
//!
//! So a filter has to allow `capset` and `execve`, and nothing else of what layermount does.
//!
//! Sources: capabilities(7), "Transformation of capabilities during execve()" and "Effect of user ID changes on capabilities";
//! seccomp(2); session-keyring(7).

use rustix::io::Errno;
use rustix::thread::{self, CapabilitySet, CapabilitySets};

use super::Command;
use super::error::CommandError;
use super::launch::{Stage, Stopped};
use crate::capabilities::Capabilities;
#[cfg(feature = "seccomp")]
use crate::seccomp::Seccomp;
use crate::sys::confine;

type Result<T, E = Errno> = std::result::Result<T, E>;

/// How a program comes to run, which decides what it keeps when nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Launching {
    /// [`RootMount::spawn`](crate::RootMount::spawn): somebody else's program.
    Spawn {
        /// It ends in a user namespace that its caller is not in.
        user_namespace: bool,
    },
    /// [`Entered::exec`](crate::Entered::exec): the caller, as it goes on.
    Exec,
}

/// Made ready by the parent; async-signal-safe from then on.
#[derive(Debug)]
pub(super) struct Confinement {
    /// `None` for all that the caller has.
    capabilities: Option<CapabilitySet>,
    no_new_privileges: bool,
    new_session_keyring: bool,
    hides: bool,
    #[cfg(feature = "seccomp")]
    filter: Option<confine::Filter>,
}

impl Command {
    pub(super) fn confinement(&self, launching: Launching) -> Result<Confinement, CommandError> {
        let spawned = matches!(launching, Launching::Spawn { .. });
        let capabilities = self.capabilities.or(spawned.then_some(Capabilities::CONTAINER));
        Ok(Confinement {
            capabilities: capabilities.map(|set| CapabilitySet::from_bits_retain(set.bits())),
            no_new_privileges: self.no_new_privileges,
            new_session_keyring: self.new_session_keyring.unwrap_or(spawned),
            // Those who map users look at /proc of other children, which may have the same memory.
            hides: capabilities.is_some() && launching != (Launching::Spawn { user_namespace: true }),
            #[cfg(feature = "seccomp")]
            filter: match self.seccomp.as_ref().or(spawned.then_some(&Seccomp::DEFAULT)) {
                Some(seccomp) => seccomp
                    .compile(capabilities.unwrap_or(Capabilities::ALL), self.platform.as_ref())
                    .map_err(CommandError::Seccomp)?,
                None => None,
            },
        })
    }
}

impl Command {
    /// Whether the program can make nodes of whichever device: the default filter alone is known to refuse that.
    pub(super) fn may_make_devices(&self) -> bool {
        #[cfg(feature = "seccomp")]
        let refused = self.seccomp.as_ref().is_none_or(Seccomp::is_default) && Seccomp::is_supported();
        #[cfg(not(feature = "seccomp"))]
        let refused = false;
        !refused && self.capabilities.unwrap_or(Capabilities::CONTAINER).contains(Capabilities::MKNOD)
    }
}

impl Confinement {
    /// Before the process changes its user.
    pub(super) fn begin(&self, becomes_root: bool) -> Result<(), Stopped> {
        if self.new_session_keyring {
            match confine::join_new_session_keyring() {
                // A kernel without keyrings, or the filter of a container around: there, no key can be reached either.
                Ok(()) | Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS) => {}
                Err(errno) => return Err(Stage::Keyring.failed(errno)),
            }
        }
        if self.no_new_privileges {
            thread::set_no_new_privs(true).map_err(|errno| Stage::NoNewPrivileges.failed(errno))?;
        }
        if let Some(kept) = self.capabilities {
            drop_bounding_set(kept).map_err(|errno| Stage::Capabilities.failed(errno))?;
        }
        if self.filter_needs_privilege() && !becomes_root {
            thread::set_keep_capabilities(true).map_err(|errno| Stage::Capabilities.failed(errno))?;
        }
        Ok(())
    }

    /// The very last before `execve`.
    ///
    /// With what the program has and no more, this process could be looked into by other programs of the same user that see it,
    /// such as those of another container when processes are shared; and its memory is the parent's. So nobody may (ptrace(2),
    /// "Ptrace access mode checking"), until `execve` gives it another memory. With another user, the kernel sees to that.
    pub(super) fn finish(&self, is_root: bool) -> Result<(), Stopped> {
        if self.hides && is_root {
            let hidden = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
            hidden.map_err(|errno| Stage::Capabilities.failed(errno))?;
        }
        let raise_for_filter = self.filter_needs_privilege() && !is_root;
        if raise_for_filter {
            set(CapabilitySet::SYS_ADMIN).map_err(|errno| Stage::Seccomp.failed(errno))?;
        }
        #[cfg(feature = "seccomp")]
        if let Some(filter) = &self.filter {
            filter.install().map_err(|errno| Stage::Seccomp.failed(errno))?;
        }
        let kept = match self.capabilities {
            Some(kept) if is_root => kept,
            // As root's programs lose them by changing their user.
            Some(_) => CapabilitySet::empty(),
            None if raise_for_filter => CapabilitySet::empty(),
            None => return Ok(()),
        };
        set(kept).map_err(|errno| Stage::Capabilities.failed(errno))
    }

    fn filter_needs_privilege(&self) -> bool {
        #[cfg(feature = "seccomp")]
        let has_filter = self.filter.is_some();
        #[cfg(not(feature = "seccomp"))]
        let has_filter = false;
        has_filter && !self.no_new_privileges
    }
}

/// Makes these effective and permitted, as far as they are permitted now, and nothing inheritable. Nothing stays ambient then: an
/// ambient capability is permitted and inheritable.
fn set(wanted: CapabilitySet) -> Result<()> {
    let kept = thread::capabilities(None)?.permitted & wanted;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    thread::set_capabilities(None, sets)
}

/// What no program can have again, not even by a file's capabilities. Numbers above the kernel's last answer `EINVAL`.
fn drop_bounding_set(kept: CapabilitySet) -> Result<()> {
    let others = (0..u64::BITS).map(|number| CapabilitySet::from_bits_retain(1 << number));
    for other in others.filter(|capability| !kept.contains(*capability)) {
        match thread::remove_capability_from_bounding_set(other) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            // Nothing is lost where it is not there to be dropped, as in a container that took CAP_SETPCAP away.
            Err(Errno::PERM) if thread::capability_is_in_bounding_set(other) == Ok(false) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
