//! Why the kernel refuses a user namespace, and [what to change](Obstacle::remedy).
//!
//! An errno alone says little: `EPERM` of `clone(2)` has six reasons. What tells them apart stands in files of `/proc`, which are
//! read once something was refused. Sources: user_namespaces(7), clone(2) and unshare(2) ("ERRORS"), namespaces(7)
//! (`/proc/sys/user`), proc_pid_status(5); Ubuntu's "Restricted unprivileged user namespaces" and Debian's
//! `unprivileged_userns_clone`, which are patches of theirs.

mod remedy;

use std::fmt;
use std::path::PathBuf;

use rustix::io::Errno;

use super::proc;

/// How far a process came on its way into a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// `clone(2)` or `unshare(2)` makes the namespace.
    Make,
    /// Its maps are written.
    Map,
    /// Its capabilities are used: something is mounted.
    Use,
}

/// What stands between a process and a user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// `user.max_user_namespaces` is 0.
    NoneAllowed,
    /// As many as are allowed exist, or namespaces are 32 deep, or one further out allows none.
    TooMany { limit: Option<String> },
    /// Debian's `kernel.unprivileged_userns_clone` is 0.
    UnprivilegedClone,
    /// Ubuntu's `kernel.apparmor_restrict_unprivileged_userns` is 1: namespaces are made, and capabilities in them refused.
    AppArmorRestriction { program: PathBuf },
    /// An AppArmor profile.
    Profile { name: String },
    /// A seccomp filter.
    Seccomp,
    /// Whoever is in a chroot makes no user namespace, and cannot pivot.
    Chroot,
    /// Of the reasons for `EPERM`, none is left but a chroot that cannot be seen from inside, and a security module.
    ProbablyChroot,
    /// The caller's user or group is nobody in the namespace around.
    Unmapped,
    /// `CONFIG_USER_NS` is not set.
    NotBuiltIn,
    /// Without `/proc`, there are no maps to be written.
    NoProc,
    /// None of these.
    Unknown,
}

/// What the reason is found in.
struct Evidence<'a> {
    /// A file's text, if it is there.
    read: &'a dyn Fn(&str) -> Option<String>,
    uid: u32,
    gid: u32,
    /// Which AppArmor would have to be told of.
    program: PathBuf,
}

impl Evidence<'static> {
    /// Of this process.
    fn real() -> Self {
        Self {
            read: &|path| std::fs::read_to_string(path).ok(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            program: std::env::current_exe().unwrap_or_else(|_| "/usr/bin/layermount".into()),
        }
    }
}

impl Evidence<'_> {
    fn has(&self, path: &str, value: &str) -> bool {
        (self.read)(path).is_some_and(|text| text.trim() == value)
    }

    fn is_filtered(&self) -> bool {
        self.status("Seccomp").is_some_and(|mode| mode == "2")
    }

    /// A field of `/proc/self/status`.
    fn status(&self, name: &str) -> Option<String> {
        let status = (self.read)("/proc/self/status")?;
        status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
    }

    fn is_in_chroot(&self) -> bool {
        let own = (self.read)("/proc/self/mountinfo").unwrap_or_default();
        !own.is_empty() && is_chroot(&own, &(self.read)("/proc/1/mountinfo").unwrap_or_default())
    }

    fn is_unmapped(&self) -> bool {
        let maps = |path, id| (self.read)(path).is_none_or(|map| covers(&map, id));
        !maps("/proc/self/uid_map", self.uid) || !maps("/proc/self/gid_map", self.gid)
    }

    /// The AppArmor profile that this process is confined by. Those of SELinux have no mode behind them.
    fn profile(&self) -> Option<String> {
        let current = (self.read)("/proc/self/attr/current")?;
        let name = current.trim_end_matches(['\n', '\0']).strip_suffix(" (enforce)")?;
        // What Ubuntu moves a process to that has made a user namespace.
        (name != "unprivileged_userns").then(|| name.to_owned())
    }

    fn is_restricted_by_apparmor(&self) -> bool {
        self.has("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1")
    }
}

impl Obstacle {
    /// The reason for an errno, as far as this machine tells.
    pub(crate) fn find(stage: Stage, errno: Errno) -> Self {
        Self::find_in(stage, errno, &Evidence::real())
    }

    fn find_in(stage: Stage, errno: Errno, evidence: &Evidence<'_>) -> Self {
        let restriction = || Self::AppArmorRestriction { program: evidence.program.clone() };
        let is_refusal = matches!(errno, Errno::PERM | Errno::ACCESS);
        match (stage, errno) {
            // EUSERS: namespaces that are too deep, before Linux 4.9.
            (Stage::Make, Errno::NOSPC | Errno::USERS) => {
                let limit = (evidence.read)("/proc/sys/user/max_user_namespaces").map(|text| text.trim().to_owned());
                if limit.as_deref() == Some("0") { Self::NoneAllowed } else { Self::TooMany { limit } }
            }
            (Stage::Make, Errno::INVAL) => Self::NotBuiltIn,
            (Stage::Use, Errno::INVAL) if evidence.is_in_chroot() => Self::Chroot,
            // Before all that asks /proc.
            _ if (evidence.read)("/proc/self/status").is_none() => Self::NoProc,
            (Stage::Make, Errno::PERM) if evidence.has("/proc/sys/kernel/unprivileged_userns_clone", "0") => {
                Self::UnprivilegedClone
            }
            (Stage::Make, Errno::PERM) if evidence.is_in_chroot() => Self::Chroot,
            (Stage::Make, Errno::PERM) if evidence.is_unmapped() => Self::Unmapped,
            (Stage::Make | Stage::Use, Errno::PERM | Errno::NOSYS) if evidence.is_filtered() => Self::Seccomp,
            _ if is_refusal => match evidence.profile() {
                Some(name) => Self::Profile { name },
                None if evidence.is_restricted_by_apparmor() => restriction(),
                None if (stage, errno) == (Stage::Make, Errno::PERM) => Self::ProbablyChroot,
                None => Self::Unknown,
            },
            _ => Self::Unknown,
        }
    }
}

/// As it stands behind "because".
impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoneAllowed => f.write_str("user.max_user_namespaces is 0"),
            Self::TooMany { limit: Some(limit) } => write!(
                f,
                "there are too many user namespaces, here (user.max_user_namespaces is {limit}) or further out, or they \
                 are too deep"
            ),
            Self::TooMany { limit: None } => f.write_str("there are too many user namespaces, or they are too deep"),
            Self::UnprivilegedClone => f.write_str("kernel.unprivileged_userns_clone is 0"),
            Self::AppArmorRestriction { .. } => f.write_str(
                "kernel.apparmor_restrict_unprivileged_userns is 1, so that AppArmor refuses capabilities in user \
                 namespaces",
            ),
            Self::Profile { name } => write!(f, "the AppArmor profile {name} confines this process"),
            Self::Seccomp => f.write_str("a seccomp filter, as containers have it, restricts this process"),
            Self::Chroot => f.write_str("this process is in a chroot, where the kernel makes no user namespaces"),
            Self::ProbablyChroot => f.write_str(
                "this process is probably in a chroot, where the kernel makes no user namespaces; or a security module \
                 forbids them",
            ),
            Self::Unmapped => f.write_str("this user or group is not mapped in the user namespace around"),
            Self::NotBuiltIn => f.write_str("this kernel was built without user namespaces"),
            Self::NoProc => f.write_str("/proc is not mounted"),
            Self::Unknown => f.write_str("the kernel does not say why"),
        }
    }
}

/// Whether a process with these mounts has another root than its mount namespace, by its own table, which shows what can be
/// reached from its root, and that of a process that has probably not. Mounts have one number on the whole machine.
fn is_chroot(own: &str, first: &str) -> bool {
    let field = |line: &str, index| line.split(' ').nth(index).map(str::to_owned);
    let is_root = |line: &&str| field(line, 4).as_deref() == Some("/");
    // None: it is a directory somewhere on a mount.
    let Some(root) = own.lines().rfind(is_root).and_then(|line| field(line, 0)) else { return true };
    first.lines().any(|line| field(line, 0).as_ref() == Some(&root) && !is_root(&line))
}

/// Whether a map, as the kernel prints it, has an ID of the inside.
fn covers(map: &str, id: u32) -> bool {
    proc::parse(map).iter().any(|range| id.checked_sub(range.inside).is_some_and(|offset| offset < range.count))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: (&str, &str) = ("/proc/self/status", "Name:\tx\nSeccomp:\t0\nSeccomp_filters:\t0\n");
    const FILTERED: (&str, &str) = ("/proc/self/status", "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n");
    const MAPPED: (&str, &str) = ("/proc/self/uid_map", "         0          0 4294967295\n");
    const UBUNTU: (&str, &str) = ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n");

    fn find(stage: Stage, errno: Errno, files: &[(&str, &str)]) -> Obstacle {
        let read = |path: &str| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned());
        Obstacle::find_in(stage, errno, &Evidence { read: &read, uid: 1000, gid: 1000, program: "/opt/app".into() })
    }

    #[test]
    fn limits_are_told_from_each_other() {
        let max = "/proc/sys/user/max_user_namespaces";
        assert_eq!(find(Stage::Make, Errno::NOSPC, &[STATUS, (max, "0\n")]), Obstacle::NoneAllowed);
        let found = find(Stage::Make, Errno::NOSPC, &[STATUS, (max, "96551\n")]);
        assert_eq!(found, Obstacle::TooMany { limit: Some("96551".into()) });
        assert!(found.to_string().contains("96551"));
        assert_eq!(find(Stage::Make, Errno::NOSPC, &[]), Obstacle::TooMany { limit: None });
    }

    #[test]
    fn distributions_switches_are_found() {
        let debian = ("/proc/sys/kernel/unprivileged_userns_clone", "0\n");
        assert_eq!(find(Stage::Make, Errno::PERM, &[STATUS, MAPPED, debian]), Obstacle::UnprivilegedClone);
        let on = ("/proc/sys/kernel/unprivileged_userns_clone", "1\n");
        assert_eq!(find(Stage::Make, Errno::PERM, &[STATUS, MAPPED, on]), Obstacle::ProbablyChroot);
        // Ubuntu lets the namespace be made, and refuses what comes then: opening setgroups, writing the map, or the first mount.
        for (stage, errno) in [
            (Stage::Map, Errno::ACCESS),
            (Stage::Map, Errno::PERM),
            (Stage::Use, Errno::ACCESS),
            (Stage::Make, Errno::ACCESS),
        ] {
            let moved = ("/proc/self/attr/current", "unprivileged_userns (enforce)\n");
            let found = find(stage, errno, &[STATUS, MAPPED, UBUNTU, moved]);
            assert_eq!(found, Obstacle::AppArmorRestriction { program: "/opt/app".into() }, "{stage:?} {errno}");
        }
        let off = (UBUNTU.0, "0\n");
        assert_eq!(find(Stage::Map, Errno::PERM, &[STATUS, MAPPED, off]), Obstacle::Unknown);
    }

    #[test]
    fn containers_are_found() {
        let profile = ("/proc/self/attr/current", "docker-default (enforce)\n");
        // On an Ubuntu host, whose restriction is for those without a profile.
        assert_eq!(find(Stage::Make, Errno::PERM, &[FILTERED, MAPPED, UBUNTU, profile]), Obstacle::Seccomp);
        assert_eq!(find(Stage::Use, Errno::NOSYS, &[FILTERED, MAPPED]), Obstacle::Seccomp);
        let found = find(Stage::Use, Errno::ACCESS, &[FILTERED, MAPPED, UBUNTU, profile]);
        assert_eq!(found, Obstacle::Profile { name: "docker-default".into() });
        let selinux = ("/proc/self/attr/current", "system_u:system_r:container_t:s0\0");
        assert_eq!(find(Stage::Make, Errno::ACCESS, &[STATUS, MAPPED, selinux]), Obstacle::Unknown);
        let nobody = ("/proc/self/uid_map", "0 1000 1\n");
        assert_eq!(find(Stage::Make, Errno::PERM, &[STATUS, nobody]), Obstacle::Unmapped);
        assert_eq!(find(Stage::Make, Errno::PERM, &[]), Obstacle::NoProc);
        assert_eq!(find(Stage::Map, Errno::NOENT, &[]), Obstacle::NoProc);
        assert_eq!(find(Stage::Make, Errno::INVAL, &[STATUS]), Obstacle::NotBuiltIn);
    }

    #[test]
    fn a_chroot_is_told_by_its_mounts() {
        let machine = "1 0 0:1 / / rw - rootfs rootfs rw\n23 1 254:0 / / rw - ext4 /dev/vda rw\n24 23 0:5 / /proc rw - proc p rw\n\
            40 23 254:0 /srv /srv/tree rw - ext4 /dev/vda rw\n41 40 0:5 / /srv/tree/proc rw - proc p rw\n";
        assert!(!is_chroot(machine, machine));
        assert!(!is_chroot(machine, ""));
        let directory = "41 40 0:5 / /proc rw - proc p rw\n";
        assert!(is_chroot(directory, machine), "a directory that is no mount point");
        let bound = "40 23 254:0 /srv / rw - ext4 /dev/vda rw\n41 40 0:5 / /proc rw - proc p rw\n";
        assert!(is_chroot(bound, machine), "a bind mount");
        let pivoted = "90 80 254:0 /srv / rw - ext4 /dev/vda rw\n91 90 0:5 / /proc rw - proc p rw\n";
        assert!(!is_chroot(pivoted, machine), "a mount namespace of its own");
        let files = [STATUS, MAPPED, ("/proc/self/mountinfo", bound), ("/proc/1/mountinfo", machine)];
        assert_eq!(find(Stage::Make, Errno::PERM, &files), Obstacle::Chroot);
        assert_eq!(find(Stage::Use, Errno::INVAL, &files), Obstacle::Chroot);
    }

    #[test]
    fn maps_have_an_end() {
        assert!(covers("0 0 4294967295\n", 1000));
        assert!(covers("0 1000 1\n1 100000 65536\n", 65536));
        assert!(!covers("0 1000 1\n1 100000 65536\n", 65537));
        assert!(!covers("", 0));
    }
}
