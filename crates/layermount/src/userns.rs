//! What the caller may do, and the user namespace that makes up for what it may not.
//!
//! Without `CAP_SYS_ADMIN` everything happens in a user namespace in which the caller's own uid and gid are 0 and nobody else
//! exists: the one map that needs no set-uid helper. See user_namespaces(7), "Defining user and group ID mappings".

use std::ffi::CString;

use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsopen};
use rustix::thread::{CapabilitySet, capabilities};

use crate::image::OverlayXattrs;
use crate::script::{Script, Step};

/// Shown wherever the kernel refuses to make a user namespace.
pub(crate) const NO_USER_NAMESPACES: &str = "run as root, or let unprivileged users make user namespaces: sysctl \
     user.max_user_namespaces above 0, kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu, \
     kernel.unprivileged_userns_clone=1 on old Debian";

/// The privileges of this process, as far as they decide how things are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    /// `CAP_SYS_ADMIN` where the mount namespace belongs: may mount.
    pub(crate) may_mount: bool,
    /// `CAP_MKNOD` where device nodes work, that is, in the initial user namespace.
    pub(crate) may_make_devices: bool,
    initial_user_namespace: bool,
    uid: u32,
    gid: u32,
}

impl Caller {
    /// Looks at the calling thread.
    pub(crate) fn current() -> Self {
        let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
        let initial_user_namespace = in_initial_user_namespace();
        Self {
            may_mount: effective.contains(CapabilitySet::SYS_ADMIN) && mount_namespace_is_ours(),
            may_make_devices: initial_user_namespace
                && effective.contains(CapabilitySet::SYS_ADMIN | CapabilitySet::MKNOD),
            initial_user_namespace,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    /// The marks that overlayfs can read and write for this caller.
    pub(crate) fn overlay_xattrs(&self) -> OverlayXattrs {
        if self.is_privileged() { OverlayXattrs::Trusted } else { OverlayXattrs::User }
    }

    /// Files may be given to any user.
    pub(crate) fn may_chown(&self) -> bool {
        self.is_privileged()
    }

    /// EROFS may be mounted, which is none of the file systems that the kernel leaves to user namespaces (`FS_USERNS_MOUNT`).
    pub(crate) fn may_mount_erofs(&self) -> bool {
        self.is_privileged()
    }

    fn is_privileged(&self) -> bool {
        self.may_mount && self.initial_user_namespace
    }

    /// In a user namespace with a single user, as this crate makes them.
    pub(crate) fn is_sole_user(&self) -> bool {
        !self.initial_user_namespace
            && std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny")
    }

    /// Inside, it is a user namespace that has no say over the host's network, /sys or users: one that is made for it, or the
    /// caller's.
    pub(crate) fn ends_in_user_namespace(&self) -> bool {
        !self.is_privileged()
    }

    /// The namespace that a child needs in addition.
    pub(crate) fn clone_flags(&self) -> i32 {
        if self.may_mount { 0 } else { nix::libc::CLONE_NEWUSER }
    }

    /// Gives a fresh user namespace its map, when the caller needs one. Runs inside of it.
    pub(crate) fn push_id_maps(&self, script: &mut Script<'_>) {
        if self.may_mount {
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

/// The capability counts only in the user namespace that owns the mount namespace: after `unshare --user`, which leaves the mount
/// namespace as it was, it does not. That is the first thing that fsopen(2) looks at.
fn mount_namespace_is_ours() -> bool {
    !matches!(fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC), Err(Errno::PERM))
}

/// The initial user namespace, told by its inode, which is fixed (`PROC_USER_INIT_INO`). Its map, every ID to itself, can be had
/// by others too.
fn in_initial_user_namespace() -> bool {
    const INITIAL: u64 = 0xEFFF_FFFD;
    rustix::fs::stat(c"/proc/self/ns/user").is_ok_and(|stat| stat.st_ino == INITIAL)
}
