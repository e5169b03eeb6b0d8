//! [`Seccomp`]: which system calls a program may make.
//!
//! | file | what |
//! |---|---|
//! | `abi.rs` | the ways in which programs call the kernel: 64 and 32 bits |
//! | `calls.rs` | the system calls: names, numbers, who may use them by default |
//! | `default.rs` | that table as rules for a set of capabilities |
//! | `parity.rs` | the default compared with moby's, as a test |
//! | `profile.rs` | docker's JSON format as rules |
//! | `runtime_spec.rs` | rules in the form of the OCI runtime specification |
//! | `condition.rs` | what rules ask of arguments |
//! | `assemble.rs`, `program.rs` | rules as a program for the kernel: seccomp(2), `SECCOMP_SET_MODE_FILTER` |
//! | `ready.rs` | the commonest one, as it comes out of that |
//!
//! The programs are assembled here because the crates that do so cannot express these rules: seccompiler has one action for calls
//! that match and one for those that do not, one architecture, and insists on `no_new_privs`; bindings of libseccomp want the C
//! library.

mod abi;
mod assemble;
mod calls;
mod condition;
mod default;
#[cfg(test)]
mod parity;
mod profile;
mod program;
mod ready;
mod runtime_spec;

use std::sync::Arc;

use nix::libc;
use rustix::io::Errno;

use crate::capabilities::Capabilities;
use crate::error::{ErrorKind, Fault, Result};
use crate::image::Platform;
use crate::sys::confine::Filter;
use abi::Abi;
use default::OldSockets;
use profile::Profile;

/// Which system calls a program may make, for as long as it and all that it starts live: seccomp(2).
///
/// The default is a list of our own making of what is allowed, measured by the one that Docker has. What needs a capability is
/// allowed with that capability alone; so are new namespaces (`CAP_SYS_ADMIN`). Never allowed are the kernel's keyrings,
/// `io_uring`, `userfaultfd`, `kexec`, swap areas, sockets of `AF_VSOCK`, `AF_ALG` and a few families that are out of use, nodes of
/// devices other than those in every `/dev`, requests that type for a terminal, and uncommon execution domains. Those calls answer
/// `EPERM`; `clone3`, whose arguments a filter cannot see, and calls that are newer than the list answer `ENOSYS`, so that programs
/// fall back.
///
/// On x86-64 the same rules hold for 32-bit programs (i386). They alone have `socketcall`, which makes sockets of whichever family
/// where no filter can look: it makes them in images for `386` only, and answers `ENOSYS` in others, so that musl's programs fall
/// back and glibc's have no network. All calls of 32-bit programs on AArch64, and of x32, answer `ENOSYS`.
///
/// On other architectures than x86-64 and AArch64 there are no filters.
#[derive(Debug, Clone, Default)]
pub struct Seccomp(Kind);

#[derive(Debug, Clone, Default)]
enum Kind {
    #[default]
    Default,
    Unconfined,
    Profile(Arc<Profile>),
}

impl Seccomp {
    pub(crate) const DEFAULT: Self = Self(Kind::Default);

    pub(crate) fn is_default(&self) -> bool {
        matches!(self.0, Kind::Default)
    }

    /// All that the caller may: its own filters, if it has any, stay.
    pub fn unconfined() -> Self {
        Self(Kind::Unconfined)
    }

    /// A profile as `docker run --security-opt seccomp=FILE` takes it. Names of system calls that this architecture or build does
    /// not know are passed over; members that are not of the format are refused. 32-bit programs on x86-64 have the same rules
    /// where `archMap` or `architectures` names them (`SCMP_ARCH_X86`), and otherwise `ENOSYS` for all calls.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`], with what is wrong and where; [`ErrorKind::Unsupported`] for what needs another process
    /// (`SCMP_ACT_NOTIFY`).
    pub fn from_json(text: &str) -> Result<Self> {
        Ok(Self(Kind::Profile(Arc::new(Profile::parse(text)?))))
    }

    /// Whether there are filters for this architecture.
    pub const fn is_supported() -> bool {
        !Abi::HERE.is_empty()
    }

    /// `None` for all calls. `platform` is that of the image, where there is one.
    pub(crate) fn compile(
        &self,
        capabilities: Capabilities,
        platform: Option<&Platform>,
    ) -> Result<Option<Filter>, SeccompError> {
        match &self.0 {
            Kind::Unconfined => Ok(None),
            Kind::Default if !Self::is_supported() => Ok(None),
            Kind::Default => {
                let old_sockets = if is_i386(platform) { OldSockets::Allowed } else { OldSockets::Refused };
                let is_ready = capabilities == Capabilities::CONTAINER && old_sockets == OldSockets::Refused;
                match is_ready.then(ready::filter).flatten() {
                    Some(filter) => Ok(Some(filter)),
                    None => default::rules(capabilities, old_sockets).assemble().map(Some),
                }
            }
            Kind::Profile(_) if !Self::is_supported() => Err(SeccompError::Architecture),
            Kind::Profile(profile) => profile.rules(capabilities).assemble().map(Some),
        }
    }
}

fn is_i386(platform: Option<&Platform>) -> bool {
    platform.is_some_and(|platform| platform.architecture() == "386")
}

/// What the kernel does with a call: `SECCOMP_RET_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Action(u32);

impl Action {
    const ALLOW: Self = Self(libc::SECCOMP_RET_ALLOW);
    const KILL_PROCESS: Self = Self(libc::SECCOMP_RET_KILL_PROCESS);
    const REFUSE: Self = Self::errno(Errno::PERM.raw_os_error());
    const UNKNOWN: Self = Self::errno(Errno::NOSYS.raw_os_error());

    const fn errno(errno: i32) -> Self {
        Self(libc::SECCOMP_RET_ERRNO | (errno.cast_unsigned() & libc::SECCOMP_RET_DATA))
    }

    fn is_errno(self) -> bool {
        self.0 & libc::SECCOMP_RET_ACTION_FULL == libc::SECCOMP_RET_ERRNO
    }
}

/// The number of a call.
fn number(abi: Abi, name: &str) -> Option<u32> {
    let index = calls::CALLS.binary_search_by(|(known, ..)| (*known).cmp(name)).ok()?;
    calls::number_of(calls::CALLS.get(index)?, abi)
}

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeccompError {
    #[error("the seccomp profile is not of docker's format")]
    Format(#[source] serde_json::Error),
    #[error("the seccomp profile has {text:?} where {expected} must be")]
    Word { text: String, expected: &'static str },
    #[error("the seccomp profile looks at argument {index}, and calls have six, from 0")]
    Argument { index: u32 },
    #[error("the seccomp profile has an errno of {errno}, and the largest is 4095")]
    Errno { errno: u32 },
    #[error("the seccomp profile asks for SCMP_ACT_NOTIFY, which needs another process to decide")]
    Notify,
    #[error("the seccomp profile makes a filter of {instructions} instructions, and the kernel takes 4096")]
    TooLong { instructions: usize },
    #[error("the seccomp profile depends on the order of its rules, which an OCI bundle cannot say")]
    Ordered,
    #[error("there are no seccomp filters for this architecture")]
    Architecture,
}

impl Fault for SeccompError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Notify | Self::Ordered | Self::Architecture => ErrorKind::Unsupported,
            _ => ErrorKind::InvalidInput,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Architecture => Some("do without the profile".to_owned()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_sorted_and_numbers_are_the_c_librarys() {
        assert!(calls::CALLS.is_sorted_by(|(a, ..), (b, ..)| a < b));
        for (name, expected) in [
            ("read", libc::SYS_read),
            ("clone3", libc::SYS_clone3),
            ("ptrace", libc::SYS_ptrace),
            ("write", libc::SYS_write),
            ("mount", libc::SYS_mount),
            ("keyctl", libc::SYS_keyctl),
            ("seccomp", libc::SYS_seccomp),
        ] {
            assert_eq!(number(Abi::HERE[0], name).map(libc::c_long::from), Some(expected), "{name}");
        }
        assert_eq!(number(Abi::HERE[0], "no_such_call"), None);
    }
}
