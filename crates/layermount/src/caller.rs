//! What the calling thread may do, as far as it decides how things are done.
//!
//! | the caller | mounts | in a user namespace of | owners of files |
//! |---|---|---|---|
//! | root of the machine | at once | nobody: the initial one | all |
//! | has [entered](crate::UserNamespace::enter) a namespace | in a child's mount namespace | its own | those of its map |
//! | the same, with a mount namespace of its own (`unshare --user --mount`) | at once | its own | those of its map |
//! | anybody else | in a child's mount namespace | the child's, with one user | itself alone |
//!
//! Without `CAP_SYS_ADMIN` everything happens in a user namespace in which the caller's own uid and gid are 0 and nobody else
//! exists: the one map that needs no set-uid helper. See user_namespaces(7), "Defining user and group ID mappings".

use std::ffi::CString;

use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsopen};
use rustix::thread::{CapabilitySet, capabilities};

use crate::digest::Digest;
use crate::image::OverlayXattrs;
use crate::script::{Script, Step};

/// The privileges of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    /// `CAP_SYS_ADMIN` where the mount namespace belongs: may mount.
    pub(crate) may_mount: bool,
    /// `CAP_MKNOD` where device nodes work, that is, in the initial user namespace.
    pub(crate) may_make_devices: bool,
    /// Whose files there can be.
    pub(crate) owners: Owners,
    needs_user_namespace: bool,
    initial_user_namespace: bool,
    uid: u32,
    gid: u32,
}

/// To whom files can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owners {
    /// Everybody.
    All,
    /// The users and groups of a map. On disk they have the numbers of that map, which is told from others by its checksum.
    Mapped(MapId),
    /// One user, whoever the image says.
    One,
}

/// The beginning of the digest of an ID map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MapId(u32);

impl std::fmt::Display for MapId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl MapId {
    /// As it is printed, and in no other spelling.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let id = Self(u32::from_str_radix(text, 16).ok()?);
        (id.to_string() == text).then_some(id)
    }
}

impl Caller {
    /// Looks at the calling thread.
    pub(crate) fn current() -> Self {
        let effective = effective();
        let initial_user_namespace = in_initial_user_namespace();
        let is_admin = effective.contains(CapabilitySet::SYS_ADMIN);
        let owners = match (initial_user_namespace, is_admin) {
            (_, false) => Owners::One,
            (true, true) => Owners::All,
            (false, true) => mapped_owners(),
        };
        Self {
            may_mount: is_admin && mount_namespace_is_ours(),
            may_make_devices: initial_user_namespace
                && effective.contains(CapabilitySet::SYS_ADMIN | CapabilitySet::MKNOD),
            owners,
            needs_user_namespace: !is_admin,
            initial_user_namespace,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    /// The same user, without a privilege.
    #[cfg(test)]
    pub(crate) fn without_privileges(self) -> Self {
        Self { may_mount: false, may_make_devices: false, owners: Owners::One, needs_user_namespace: true, ..self }
    }

    /// [`Self::needs_user_namespace`] of the calling thread, with no more questions than that takes.
    pub(crate) fn lacks_sys_admin() -> bool {
        !effective().contains(CapabilitySet::SYS_ADMIN)
    }

    /// The kernel lets this thread write any ID map: it needs no help with that.
    pub(crate) fn may_map_others() -> bool {
        let may = CapabilitySet::SETUID | CapabilitySet::SETGID;
        capabilities(None).is_ok_and(|sets| sets.effective.contains(may))
    }

    /// uid 0, and not that of a user namespace, who is somebody else outside.
    pub(crate) fn is_root_of_the_machine() -> bool {
        rustix::process::geteuid().is_root() && in_initial_user_namespace()
    }

    /// The marks that overlayfs can read and write for this caller.
    pub(crate) fn overlay_xattrs(&self) -> OverlayXattrs {
        if self.is_privileged() { OverlayXattrs::Trusted } else { OverlayXattrs::User }
    }

    /// Files may be given to other users.
    pub(crate) fn may_chown(&self) -> bool {
        self.owners != Owners::One
    }

    /// EROFS may be mounted, which is none of the file systems that the kernel leaves to user namespaces (`FS_USERNS_MOUNT`).
    pub(crate) fn may_mount_erofs(&self) -> bool {
        self.is_privileged()
    }

    /// Root of the machine.
    pub(crate) fn is_privileged(&self) -> bool {
        self.may_mount && self.initial_user_namespace
    }

    /// Everything is mounted in a new user namespace.
    pub(crate) fn needs_user_namespace(&self) -> bool {
        self.needs_user_namespace
    }

    /// Inside, there is a single user, because of the namespace that the caller is in or the one that it needs.
    pub(crate) fn ends_as_sole_user(&self) -> bool {
        self.needs_user_namespace || (!self.initial_user_namespace && setgroups_is_denied())
    }

    /// Inside, it is a user namespace that has no say over the host's network, /sys or users: one that is made for it, or the
    /// caller's.
    pub(crate) fn ends_in_user_namespace(&self) -> bool {
        !self.is_privileged()
    }

    /// The namespace that a child needs in addition.
    pub(crate) fn clone_flags(&self) -> i32 {
        if self.needs_user_namespace { nix::libc::CLONE_NEWUSER } else { 0 }
    }

    /// Gives a fresh user namespace its map, when the caller needs one. Runs inside of it.
    pub(crate) fn push_id_maps(&self, script: &mut Script<'_>) {
        if !self.needs_user_namespace {
            return;
        }
        script.doing("map the caller's user and group to root of a user namespace");
        let map = |id: u32| CString::new(format!("0 {id} 1")).unwrap_or_default();
        // Before the gid map, or the kernel refuses that: user_namespaces(7), "Interaction with system calls that change
        // process UIDs or GIDs".
        script.push(Step::WriteProc { path: c"/proc/self/setgroups", contents: c"deny".to_owned() });
        script.push(Step::WriteProc { path: c"/proc/self/uid_map", contents: map(self.uid) });
        script.push(Step::WriteProc { path: c"/proc/self/gid_map", contents: map(self.gid) });
    }
}

fn effective() -> CapabilitySet {
    capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
}

/// The capability counts only in the user namespace that owns the mount namespace: after `unshare --user`, which leaves the mount
/// namespace as it was, it does not. That is the first thing that fsopen(2) looks at, and the second are its flags: with wrong ones,
/// nothing is opened.
fn mount_namespace_is_ours() -> bool {
    let no_such_flag = FsOpenFlags::from_bits_retain(1 << 31);
    !matches!(fsopen(c"tmpfs", no_such_flag), Err(Errno::PERM))
}

/// The initial user namespace, told by its inode, which is fixed (`PROC_USER_INIT_INO`). Its map, every ID to itself, can be had
/// by others too.
pub(crate) fn in_initial_user_namespace() -> bool {
    const INITIAL: u64 = 0xEFFF_FFFD;
    rustix::fs::stat(c"/proc/self/ns/user").is_ok_and(|stat| stat.st_ino == INITIAL)
}

fn setgroups_is_denied() -> bool {
    std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny")
}

fn mapped_owners() -> Owners {
    // Without /proc, nobody but oneself can be named.
    let map = |name| std::fs::read_to_string(name).unwrap_or_default();
    owners_of(&map("/proc/self/uid_map"), &map("/proc/self/gid_map"))
}

/// Maps as the kernel prints them: inside, outside, count.
fn owners_of(uids: &str, gids: &str) -> Owners {
    let words = |map: &str| map.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (uids, gids) = (words(uids), words(gids));
    let is_one = |words: &[String]| words.is_empty() || matches!(words, [_, _, count] if count == "1");
    if is_one(&uids) && is_one(&gids) {
        return Owners::One;
    }
    let digest = Digest::sha256(format!("uids {}\ngids {}\n", uids.join(" "), gids.join(" ")));
    let start = digest.hex().get(..8).unwrap_or_default();
    u32::from_str_radix(start, 16).map_or(Owners::One, |start| Owners::Mapped(MapId(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_differ_in_what_they_map() {
        let one = "         0       1000          1\n";
        let range = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(owners_of(one, one), Owners::One);
        assert_eq!(owners_of("", ""), Owners::One);
        let mapped = owners_of(range, range);
        assert!(matches!(mapped, Owners::Mapped(_)));
        assert_eq!(owners_of("0 1000 1 1 100000 65536", range), mapped, "spaces mean nothing");
        assert_ne!(owners_of(&range.replace("100000", "200000"), range), mapped);
        assert_ne!(owners_of(range, one), mapped);
        assert_ne!(owners_of(one, range), owners_of(range, one));
    }

    #[test]
    fn map_ids_have_one_spelling() {
        let id = MapId::parse("00ab12ef").unwrap();
        assert_eq!(id.to_string(), "00ab12ef");
        for bad in ["", "ab12ef", "00AB12EF", "+0ab12ef", "00ab12ef0", "x"] {
            assert_eq!(MapId::parse(bad), None, "{bad:?}");
        }
    }
}
