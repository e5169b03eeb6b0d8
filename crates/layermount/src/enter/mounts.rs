//! What is mounted into an image's tree besides what every program is given: binds, memory, volumes.

mod steps;

pub(super) use steps::{Target, c_path, push_mounts};

use std::collections::HashSet;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use rustix::mount::MountAttrFlags;

use super::furnish::{Access, Furnish};

/// How a directory or file of the host is seen inside: [`Furnish::bind`]. Words as in mount(8).
///
/// Device nodes in it cannot be used unless that is asked for, as podman has it: Docker keeps programs from them by a cgroup, which
/// takes privileges to make. Mounts that are made on the host later on are not seen inside, nor those inside on the host
/// (`rprivate`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BindOptions {
    pub(super) access: Access,
    pub(super) recursive: bool,
    flags: Flags,
}

/// What a mount allows besides reading and writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Flags {
    suid: bool,
    dev: bool,
    exec: bool,
}

impl BindOptions {
    /// Everything below, with what is mounted there; programs may be executed, set-user-ID ones as well.
    pub const fn new(access: Access) -> Self {
        Self { access, recursive: true, flags: Flags { suid: true, dev: false, exec: true } }
    }

    /// Whether it can be written to.
    #[must_use]
    pub const fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Whether what is mounted below comes along (`rbind`).
    #[must_use]
    pub const fn recursive(mut self, on: bool) -> Self {
        self.recursive = on;
        self
    }

    /// Whether set-user-ID programs and files' capabilities have effect.
    #[must_use]
    pub const fn suid(mut self, on: bool) -> Self {
        self.flags.suid = on;
        self
    }

    /// Whether device nodes can be opened. Always, together with [`Devices::Host`](crate::Devices::Host), and when the source is a single
    /// node.
    #[must_use]
    pub const fn dev(mut self, on: bool) -> Self {
        self.flags.dev = on;
        self
    }

    /// Whether programs can be executed.
    #[must_use]
    pub const fn exec(mut self, on: bool) -> Self {
        self.flags.exec = on;
        self
    }

    /// Device nodes work where the program has the host's anyway.
    pub(super) fn attributes(self, all_devices: bool) -> MountAttrFlags {
        let Flags { suid, dev, exec } = self.flags;
        attributes(self.access, Flags { suid, dev: dev || all_devices, exec })
    }
}

impl From<Access> for BindOptions {
    fn from(access: Access) -> Self {
        Self::new(access)
    }
}

fn attributes(access: Access, Flags { suid, dev, exec }: Flags) -> MountAttrFlags {
    let mut attributes = MountAttrFlags::empty();
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, access == Access::ReadOnly);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID, !suid);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, !dev);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, !exec);
    attributes
}

/// `, read-only, nosuid`, for what is not allowed.
struct Denied(Access, Flags);

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(access, flags) = self;
        let words = [
            (*access == Access::ReadOnly, "read-only"),
            (!flags.suid, "nosuid"),
            (!flags.dev, "nodev"),
            (!flags.exec, "noexec"),
        ];
        words.iter().filter(|(on, _)| *on).try_for_each(|(_, word)| write!(f, ", {word}"))
    }
}

/// A fresh file system in memory: [`Furnish::tmpfs`]. Options as in tmpfs(5).
///
/// As in Docker, nothing in it is executed, set-user-ID or a device unless that is asked for, and it hides what the image has there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tmpfs {
    access: Access,
    flags: Flags,
    pub(super) size: Option<u64>,
    pub(super) inodes: Option<u64>,
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

impl Default for Tmpfs {
    fn default() -> Self {
        Self {
            access: Access::ReadWrite,
            flags: Flags { suid: false, dev: false, exec: false },
            size: None,
            inodes: None,
            mode: None,
            uid: None,
            gid: None,
        }
    }
}

impl Tmpfs {
    /// Up to half of the machine's memory, with the mode of the image's directory there, or 1777 when it has none, and root's.
    pub fn new() -> Self {
        Self::default()
    }

    /// How much it holds, in bytes.
    #[must_use]
    pub const fn size(mut self, bytes: u64) -> Self {
        self.size = Some(bytes);
        self
    }

    /// How many files it holds.
    #[must_use]
    pub const fn inodes(mut self, count: u64) -> Self {
        self.inodes = Some(count);
        self
    }

    /// The mode of its root directory.
    #[must_use]
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode & 0o7777);
        self
    }

    /// The owner of its root directory.
    #[must_use]
    pub const fn uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// The group of its root directory.
    #[must_use]
    pub const fn gid(mut self, gid: u32) -> Self {
        self.gid = Some(gid);
        self
    }

    /// Whether it can be written to.
    #[must_use]
    pub const fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Whether set-user-ID programs and files' capabilities have effect.
    #[must_use]
    pub const fn suid(mut self, on: bool) -> Self {
        self.flags.suid = on;
        self
    }

    /// Whether device nodes can be opened.
    #[must_use]
    pub const fn dev(mut self, on: bool) -> Self {
        self.flags.dev = on;
        self
    }

    /// Whether programs can be executed.
    #[must_use]
    pub const fn exec(mut self, on: bool) -> Self {
        self.flags.exec = on;
        self
    }

    pub(super) fn attributes(&self) -> MountAttrFlags {
        attributes(self.access, self.flags)
    }
}

impl fmt::Display for Tmpfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tmpfs")?;
        for (value, what) in [(self.size, " bytes"), (self.inodes, " inodes")] {
            value.map_or(Ok(()), |value| write!(f, ", {value}{what}"))?;
        }
        self.mode.map_or(Ok(()), |mode| write!(f, ", mode {mode:o}"))?;
        for (value, what) in [(self.uid, "uid"), (self.gid, "gid")] {
            value.map_or(Ok(()), |value| write!(f, ", {what} {value}"))?;
        }
        write!(f, "{}", Denied(self.access, self.flags))
    }
}

/// What becomes of the directories that an image declares to be volumes (`VOLUME`), in a command that was made
/// [for the image](crate::Command::for_image).
///
/// Docker gives each run a fresh copy of what the image has there, apart from what else is written.
/// [`Upper::Temporary`](crate::Upper::Temporary) is that already, for the whole tree, and only those that are missing are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ImageVolumes {
    /// Each is a [`Furnish::volume`] where the tree is read-only, because a program expects to write there. Where changes are
    /// [kept](crate::Upper::Persistent), so are those in volumes. An explicit mount at the same path takes a volume's place.
    #[default]
    Auto,
    /// Each is a [`Furnish::volume`] also where all else is kept: what is written there is lost at the end.
    Tmpfs,
    /// They are directories like others.
    Ignore,
}

/// Something to be mounted in the image's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Absolute, without `.` and `..`.
    pub(super) inside: PathBuf,
    pub(super) what: Mounted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::enter) enum Mounted {
    Bind { host: PathBuf, options: BindOptions },
    Tmpfs(Tmpfs),
    Volume,
}

impl Mount {
    pub(crate) fn bind(host: &Path, inside: &Path, options: BindOptions) -> Self {
        Self { inside: clean(inside), what: Mounted::Bind { host: host.to_owned(), options } }
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<16} ", self.inside.display())?;
        match &self.what {
            Mounted::Bind { host, options } => {
                let alone = if options.recursive { "" } else { ", without what is mounted below" };
                // That nothing is to be done with devices goes without saying.
                let flags = Flags { dev: true, ..options.flags };
                write!(f, "bind of {}{alone}{}", host.display(), Denied(options.access, flags))?;
                if options.flags.dev { f.write_str(", dev") } else { Ok(()) }
            }
            Mounted::Tmpfs(tmpfs) => write!(f, "{tmpfs}"),
            Mounted::Volume => f.write_str("tmpfs with the image's files"),
        }
    }
}

/// As docker reads a path inside: `..` takes back the name before it, whatever that is, and never leads above the root.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// Things to be mounted in the tree, whatever the order in which they are given: what lies deeper is mounted later. Two at the same path
/// are refused.
impl Furnish {
    /// A directory or file of the host at a path inside, made when missing. [`Access`] stands for [`BindOptions::new`] of it.
    ///
    /// Links are followed inside the image alone. What `/proc` tells cannot be covered, but for `/proc/cpuinfo`, `meminfo`,
    /// `stat`, `uptime`, `loadavg`, `diskstats`, `swaps`, `slabinfo` and `sys/crypto/fips_enabled`.
    #[must_use]
    pub fn bind(mut self, host: impl AsRef<Path>, inside: impl AsRef<Path>, options: impl Into<BindOptions>) -> Self {
        self.mounts.push(Mount::bind(host.as_ref(), inside.as_ref(), options.into()));
        self
    }

    /// Memory at a path inside, made when missing.
    #[must_use]
    pub fn tmpfs(mut self, inside: impl AsRef<Path>, tmpfs: Tmpfs) -> Self {
        self.mounts.push(Mount { inside: clean(inside.as_ref()), what: Mounted::Tmpfs(tmpfs) });
        self
    }

    /// Memory at a path inside, made when missing, with a copy of what the image itself has there, whatever is mounted above it:
    /// files, modes, owners, times, and the xattrs that tmpfs takes. Hard links become files of their own.
    ///
    /// Entering fails when the files do not fit, or lie more than 64 directories deep.
    #[must_use]
    pub fn volume(mut self, inside: impl AsRef<Path>) -> Self {
        self.mounts.push(Mount { inside: clean(inside.as_ref()), what: Mounted::Volume });
        self
    }

    /// How much each volume holds, in bytes; half of the machine's memory if nothing is said.
    #[must_use]
    pub fn volume_size(mut self, bytes: u64) -> Self {
        self.volume_size = Some(bytes);
        self
    }

    /// Makes directories in the image's tree, where they are missing and can be made, before anything is mounted there.
    pub(crate) fn make_directories(&mut self, paths: &[PathBuf]) {
        self.directories.extend(paths.iter().map(|path| clean(path)));
    }

    /// The image's volumes, where nothing else is mounted.
    pub(crate) fn add_volumes(&mut self, paths: &[PathBuf]) {
        let mut taken: HashSet<_> = self.mounts.iter().map(|mount| mount.inside.clone()).collect();
        // The image's root directory is no place for a mount.
        taken.insert(PathBuf::from("/"));
        let free = paths.iter().map(|path| clean(path)).filter(|path| taken.insert(path.clone()));
        let free: Vec<_> = free.collect();
        let volumes = free.into_iter().map(|inside| Mount { inside, what: Mounted::Volume });
        // First: another mount may be at the same place by way of a link.
        self.mounts.splice(0..0, volumes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_docker_does() {
        for (path, expected) in
            [("/a/b/", "/a/b"), ("/x/../../y", "/y"), ("a//./b", "/a/b"), ("/..", "/"), ("", "/"), ("/a/..", "/")]
        {
            assert_eq!(clean(Path::new(path)), Path::new(expected), "{path}");
        }
    }

    #[test]
    fn volumes_give_way_to_other_mounts() {
        let mut furnish = Furnish::none().bind("/h", "/a/", Access::ReadWrite).tmpfs("/b", Tmpfs::new());
        furnish.add_volumes(&["/b".into(), "/c/.".into(), "/c-d/..".into(), "/c/".into(), "/a".into(), "/".into()]);
        let text = furnish.to_string();
        assert_eq!(text.matches("image's files").count(), 1, "{text}");
        assert!(text.starts_with("/c               tmpfs with the image's files\n"), "{text}");
    }

    #[test]
    fn mounts_print_what_they_are() {
        let tmpfs = Tmpfs::new().size(4096).inodes(5).mode(0o1770).uid(1).gid(2).exec(true).access(Access::ReadOnly);
        let options = BindOptions::new(Access::ReadOnly).recursive(false).suid(false).dev(true).exec(false);
        let furnish = Furnish::none().bind("/srv", "/d", options).tmpfs("/t", tmpfs).volume("/v");
        assert_eq!(
            furnish.to_string(),
            "/d               bind of /srv, without what is mounted below, read-only, nosuid, noexec, dev\n\
             /t               tmpfs, 4096 bytes, 5 inodes, mode 1770, uid 1, gid 2, read-only, nosuid, nodev\n\
             /v               tmpfs with the image's files\n"
        );
    }
}
