//! The cgroups of a process, of either version: cgroups(7), "/proc files".

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::error::RunningError;
use crate::caller::Caller;
use crate::error::SyscallContext as _;

/// A cgroup that has to be joined: its `cgroup.procs`.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) file: OwnedFd,
    /// It is no error when the kernel does not allow it.
    optional: bool,
}

impl Membership {
    /// Moves the calling process. Async-signal-safe.
    pub(crate) fn join(&self) -> Result<(), Errno> {
        match rustix::io::write(self.file.as_fd(), b"0") {
            Err(Errno::PERM | Errno::ACCESS) if self.optional => Ok(()),
            result => result.map(drop),
        }
    }
}

/// Those in which the process is and the caller is not. An ordinary user, who may not move between the cgroups of two of its own sessions,
/// stays where it is.
pub(super) fn memberships(pid: u32) -> Result<Vec<Membership>, RunningError> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (ours, theirs) = (read("/proc/thread-self/cgroup"), read(&format!("/proc/{pid}/cgroup")));
    let others: Vec<_> = differing(&ours, &theirs).collect();
    if others.is_empty() {
        return Ok(Vec::new());
    }
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let optional = !Caller::is_root_of_the_machine();
    let mut memberships = Vec::new();
    for (controllers, path) in others {
        let Some(directory) = directory(&mounts, controllers, path) else { continue };
        let file = directory.join("cgroup.procs");
        match rustix::fs::open(&file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => memberships.push(Membership { file, optional }),
            Err(_) if optional => {}
            Err(errno) => {
                let cause = Err::<(), _>(errno).syscall("open", || file.display().to_string());
                return cause.map(|()| memberships).map_err(|cause| RunningError::Cgroup { pid, cause });
            }
        }
    }
    Ok(memberships)
}

/// Controllers and path of each hierarchy in which the two are not in the same place.
fn differing<'a>(ours: &'a str, theirs: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    // "4:memory:/docker/0123", and "0::/user.slice" for version 2.
    let hierarchies = |text: &'a str| text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    hierarchies(theirs).filter(move |found| !hierarchies(ours).any(|our| our == *found))
}

/// Where a hierarchy's cgroup is seen; `None` when it is not mounted, or only a part that does not have it.
fn directory(mountinfo: &[u8], controllers: &str, path: &str) -> Option<PathBuf> {
    mountinfo.split(|byte| *byte == b'\n').find_map(|line| {
        // "36 35 98:0 /root /point options... - type source superoptions"
        let mut fields = line.split(|byte| *byte == b' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let (kind, options) = (fields.next()?, fields.nth(1)?);
        let has = |controller: &str| options.split(|byte| *byte == b',').any(|option| option == controller.as_bytes());
        let is_it = match controllers {
            "" => kind == b"cgroup2",
            controllers => kind == b"cgroup" && controllers.split(',').all(has),
        };
        let below = Path::new(path).strip_prefix(OsString::from_vec(root.to_vec())).ok()?;
        // What is outside of the caller's cgroup namespace begins with "/..".
        let is_inside = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        (is_it && is_inside).then(|| Path::new(&OsString::from_vec(point.to_vec())).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_found_where_it_is_mounted() {
        let ours = "2:cpu,cpuacct:/\n1:name=systemd:/a\n0::/a\n";
        let theirs = "2:cpu,cpuacct:/box\n1:name=systemd:/a\n0::/b/c\n";
        let found: Vec<_> = differing(ours, theirs).collect();
        assert_eq!(found, [("cpu,cpuacct", "/box"), ("", "/b/c")]);
        let mounts = b"30 29 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
            31 29 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            32 29 0:28 /box /part rw - cgroup cgroup rw,memory\n";
        let at = |controllers, path| directory(mounts, controllers, path);
        assert_eq!(at("cpu,cpuacct", "/box"), Some("/sys/fs/cgroup/cpu,cpuacct/box".into()));
        assert_eq!(at("", "/b/c"), Some("/sys/fs/cgroup/unified/b/c".into()));
        assert_eq!(at("memory", "/box/in"), Some("/part/in".into()));
        assert_eq!([at("memory", "/other"), at("pids", "/"), at("", "/../x")], [None, None, None]);
    }
}
