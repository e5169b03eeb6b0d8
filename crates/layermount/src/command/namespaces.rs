//! [`Namespaces`]: what a program has for itself.

use std::ops::BitOr;

/// A set of namespaces that a program gets to itself. A mount namespace it always gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Namespaces(pub(super) i32);

impl Namespaces {
    /// Processes: the program is pid 1, and when it ends the kernel kills everything that it has started.
    pub const PID: Self = Self(nix::libc::CLONE_NEWPID);
    /// System V IPC and POSIX message queues.
    pub const IPC: Self = Self(nix::libc::CLONE_NEWIPC);
    /// Hostname.
    pub const UTS: Self = Self(nix::libc::CLONE_NEWUTS);
    /// The cgroup hierarchy's root.
    pub const CGROUP: Self = Self(nix::libc::CLONE_NEWCGROUP);

    /// None but the mount namespace.
    pub const fn empty() -> Self {
        Self(0)
    }

    /// Whether all of `other` are in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// This set without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// Pid, ipc and uts.
impl Default for Namespaces {
    fn default() -> Self {
        Self::PID | Self::IPC | Self::UTS
    }
}

impl BitOr for Namespaces {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
