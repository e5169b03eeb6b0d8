//! Which cgroup hierarchies there are, and where the caller is in them: cgroups(7), proc_pid_cgroup(5), proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use super::Controller;
use super::error::CgroupError;
use crate::error::SyscallContext as _;
use crate::mountinfo::unmangle;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// Of version 1, whose controllers are settled by mounting.
    pub(super) controllers: Vec<String>,
    pub(super) mount: PathBuf,
    /// The cgroup that is to be found at the mount point.
    pub(super) root: PathBuf,
    /// The caller's.
    pub(super) own: PathBuf,
}

impl Hierarchy {
    /// Where a cgroup is to be found; nothing when it lies outside of what is mounted.
    pub(super) fn directory(&self, cgroup: &Path) -> Option<PathBuf> {
        let mut directory = self.mount.clone();
        for part in cgroup.strip_prefix(&self.root).ok()?.components() {
            directory.push(matches!(part, Component::Normal(_)).then_some(part)?);
        }
        Some(directory)
    }

    /// As it is called below `/sys/fs/cgroup`.
    pub(super) fn name(&self) -> Option<&str> {
        self.mount.file_name()?.to_str()
    }
}

/// All that are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchies(pub(super) Vec<Hierarchy>);

impl Hierarchies {
    /// Those of the calling process.
    pub(super) fn current() -> Result<Self, CgroupError> {
        let read = |path: &'static str| {
            std::fs::read(path).syscall("open", || path.to_owned()).map_err(|cause| CgroupError::Look { cause })
        };
        Ok(Self::parse(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?))
    }

    fn parse(cgroups: &[u8], mountinfo: &[u8]) -> Self {
        let mounts: Vec<Mount> = lines(mountinfo).filter_map(Mount::parse).collect();
        let found = lines(cgroups).filter_map(|line| {
            // "4:memory:/path", "3:cpu,cpuacct:/path", "1:name=systemd:/path", "0::/path"
            let mut fields = line.splitn(3, |byte| *byte == b':');
            let (_, controllers, own) = (fields.next()?, fields.next()?, path(fields.next()?));
            let controllers = std::str::from_utf8(controllers).ok()?;
            let version = if controllers.is_empty() { Version::V2 } else { Version::V1 };
            let controllers: Vec<String> =
                controllers.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
            let has_all = |mount: &&Mount| {
                mount.version == version && controllers.iter().all(|name| mount.options.contains(name))
            };
            let hierarchy = |mount: &Mount| Hierarchy {
                version,
                controllers: controllers.clone(),
                mount: mount.point.clone(),
                root: mount.root.clone(),
                own: own.clone(),
            };
            let fitting: Vec<_> = mounts.iter().filter(has_all).map(hierarchy).collect();
            // Of several mounts, one that shows the caller's cgroup.
            let shows_own = fitting.iter().find(|hierarchy| hierarchy.directory(&own).is_some());
            shows_own.or(fitting.first()).cloned()
        });
        Self(found.collect())
    }

    /// The one of version 2 has all controllers that version 1 does not have.
    pub(super) fn with(&self, controller: Controller) -> Option<&Hierarchy> {
        let name = controller.name();
        let v1 = self.0.iter().find(|hierarchy| hierarchy.controllers.iter().any(|known| known == name));
        v1.or_else(|| {
            self.v2().filter(|v2| words(&v2.mount.join("cgroup.controllers")).iter().any(|word| word == name))
        })
    }

    pub(super) fn v2(&self) -> Option<&Hierarchy> {
        self.0.iter().find(|hierarchy| hierarchy.version == Version::V2)
    }

    /// Nothing of version 1 is mounted.
    pub(super) fn is_unified(&self) -> bool {
        self.0.iter().all(|hierarchy| hierarchy.version == Version::V2)
    }
}

struct Mount {
    version: Version,
    root: PathBuf,
    point: PathBuf,
    options: Vec<String>,
}

impl Mount {
    /// "36 35 98:0 /root /point options... - type source superoptions"
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ').skip(3);
        let (root, point) = (path(&unmangle(fields.next()?)), path(&unmangle(fields.next()?)));
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let version = match fields.next()? {
            b"cgroup" => Version::V1,
            b"cgroup2" => Version::V2,
            _ => return None,
        };
        let options = std::str::from_utf8(fields.nth(1)?).ok()?;
        Some(Self { version, root, point, options: options.split(',').map(str::to_owned).collect() })
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

/// The words in a file; none when it cannot be read.
pub(super) fn words(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directories(cgroups: &str, mountinfo: &str) -> Vec<String> {
        let found = Hierarchies::parse(cgroups.as_bytes(), mountinfo.as_bytes());
        let directory =
            |hierarchy: &Hierarchy| hierarchy.directory(&hierarchy.own).map(|path| path.display().to_string());
        found.0.iter().map(|hierarchy| directory(hierarchy).unwrap_or("-".to_owned())).collect()
    }

    #[test]
    fn unified() {
        let cgroups = "0::/user.slice/user-1000.slice/session-1.scope\n";
        let mounts = "25 30 0:23 / /sys rw - sysfs sysfs rw\n30 25 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(directories(cgroups, mounts), ["/sys/fs/cgroup/user.slice/user-1000.slice/session-1.scope"]);
        assert!(Hierarchies::parse(cgroups.as_bytes(), mounts.as_bytes()).is_unified());
    }

    #[test]
    fn version_1_and_hybrid() {
        let cgroups = "12:pids:/a\n5:cpu,cpuacct:/b:c\n3:devices:/\n1:name=systemd:/init\n0::/init\n";
        let mounts = "1 1 0:1 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                      2 1 0:2 / /sys/fs/cgroup/pids rw shared:1 - cgroup cgroup rw,pids\n\
                      3 1 0:3 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      4 1 0:4 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = Hierarchies::parse(cgroups.as_bytes(), mounts.as_bytes());
        assert_eq!(
            directories(cgroups, mounts),
            [
                "/sys/fs/cgroup/pids/a",
                "/sys/fs/cgroup/cpu,cpuacct/b:c",
                "/sys/fs/cgroup/systemd/init",
                "/sys/fs/cgroup/unified/init"
            ]
        );
        assert!(!found.is_unified());
        assert_eq!(found.with(Controller::Cpu).and_then(Hierarchy::name), Some("cpu,cpuacct"));
        assert_eq!(found.with(Controller::Memory), None);
    }

    #[test]
    fn inside_of_a_container() {
        let mounts = "2 1 0:2 /docker/1f /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n";
        assert_eq!(directories("4:pids:/docker/1f/x y\n", mounts), ["/sys/fs/cgroup/pids/x y"]);
        assert_eq!(directories("4:pids:/other\n", mounts), ["-"]);
        assert_eq!(directories("4:pids:/docker/1f/../2\n", mounts), ["-"]);
        let mounts = "2 1 0:2 / /a\\040b rw - cgroup2 cgroup2 rw\n2 1 0:2 /.. /c rw - cgroup2 cgroup2 rw\n";
        assert_eq!(directories("0::/../x\n", mounts), ["/c/x"]);
        assert_eq!(directories("0::/x\n", mounts), ["/a b/x"]);
        assert!(directories("junk\n::\n0:\n", "x\n1 2 3 4 5 - cgroup\n").is_empty());
    }
}
