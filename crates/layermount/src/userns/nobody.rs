//! Files of users whom a user namespace has not.

use rustix::fs::{Gid, Uid};
use rustix::io::{Errno, Result};

/// `overflowuid` and `overflowgid`: user_namespaces(7), "Unmapped user and group IDs".
const NOBODY: u32 = 65534;

/// Changes the owner, the group or both of something.
pub(crate) type Chown<'a> = &'a dyn Fn(Option<Uid>, Option<Gid>) -> Result<()>;

/// What became of something that was to be given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Given {
    /// It is the one's that it is for.
    Away,
    /// It is nobody's, and of its mode these bits may be kept: a program that runs as whoever owns it must not run as another.
    ToNobody { kept: u32 },
}

impl Given {
    /// What may be kept of a mode.
    pub(crate) fn kept(self) -> u32 {
        match self {
            Self::Away => u32::MAX,
            Self::ToNobody { kept } => kept,
        }
    }
}

/// Changes an owner. IDs that the user namespace does not map become nobody's, as the kernel would show them there.
/// Async-signal-safe.
pub(crate) fn give(uid: u32, gid: u32, chown: Chown<'_>) -> Result<Given> {
    let (user, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    match chown(user, group) {
        Err(Errno::INVAL) => {}
        result => return result.map(|()| Given::Away),
    }
    let mut kept = u32::MAX;
    if chown(user, None) == Err(Errno::INVAL) {
        kept &= !0o4000;
        or_nothing(chown(Some(Uid::from_raw(NOBODY)), None))?;
    }
    if chown(None, group) == Err(Errno::INVAL) {
        kept &= !0o2000;
        or_nothing(chown(None, Some(Gid::from_raw(NOBODY))))?;
    }
    Ok(Given::ToNobody { kept })
}

/// A map so small that it does not have even that leaves the file to its maker.
fn or_nothing(given: Result<()>) -> Result<()> {
    if given == Err(Errno::INVAL) { Ok(()) } else { given }
}
