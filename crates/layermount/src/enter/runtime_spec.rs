//! [`Furnish`] in the form of the OCI runtime specification: mounts, devices, paths that are covered, files beside `config.json`.
//!
//! The mounts are those of [`steps`](super::steps), in their order. Their places are made before the tree is attached, as the tree may
//! be read-only from then on, and with the same care: a runtime follows the image's links, too, but says less when they lead nowhere.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::MountAttrFlags;

use super::dev::{SHM_SIZE, is_there_already};
use super::devices::{HostDevice, Place, host_devices};
use super::furnish::{Access, Devices, Furnish};
use super::mounts::{BindOptions, Mount, Mounted, c_path};
use super::steps::{Surroundings, files};
use super::{EnterError, masks};
use crate::bundle::config::{Device as SpecifiedDevice, DeviceRule, Mount as Specified};
use crate::bundle::{FILES, text};
use crate::error::{Result, SyscallContext};
use crate::network::NetworkView;
use crate::script::{At, Device, Script, Step, TargetKind, open_in_root};

/// Runtimes make these by themselves.
const STANDARD: [&CStr; 8] = [c"null", c"zero", c"full", c"random", c"urandom", c"tty", c"ptmx", c"console"];

/// What a tree is furnished with.
#[derive(Debug)]
pub(crate) struct Furnished {
    pub(crate) mounts: Vec<Specified>,
    pub(crate) devices: Vec<SpecifiedDevice>,
    /// The last that fits decides.
    pub(crate) device_rules: Vec<DeviceRule>,
    pub(crate) masked_paths: Vec<PathBuf>,
    pub(crate) readonly_paths: Vec<PathBuf>,
    /// Name and contents. The mounts name them relative to the bundle.
    pub(crate) files: Vec<(&'static str, Vec<u8>)>,
    /// Directories of the image that must be ordinary ones.
    directories: Vec<&'static CStr>,
    /// Directories that are to be there.
    wanted: Vec<CString>,
    targets: Vec<(CString, TargetKind)>,
    /// Of directories that are made, when it matters: runc before 1.2 gives a tmpfs the mode of the directory below it.
    modes: Vec<(CString, u32)>,
}

impl Furnished {
    /// `is_limited`: the program has cgroups of its own to look at. `root` is the image's tree.
    pub(crate) fn new(
        furnish: &Furnish,
        around: &Surroundings<'_>,
        is_limited: bool,
        root: BorrowedFd<'_>,
    ) -> Result<Self> {
        // No `..`: what is new here has to be said to the runtime, too, or refused.
        let Furnish {
            proc,
            sys,
            dev,
            masks: _,
            unmasked: _,
            hostname: _,
            hosts: _,
            resolv_conf: _,
            names: _,
            mounts,
            directories,
            given_devices: _,
            shm_size,
            volume_size: _,
        } = furnish;
        let all_devices = *dev == Some(Devices::Host);
        let mut furnished = Self {
            mounts: Vec::new(),
            devices: Vec::new(),
            device_rules: vec![DeviceRule { allow: all_devices, kind: None, major: None, minor: None, access: "rwm" }],
            masked_paths: masks::covered(furnish),
            readonly_paths: masks::read_only(furnish),
            files: Vec::new(),
            directories: Vec::new(),
            wanted: directories.iter().map(|path| c_path(path)).collect::<Result<_, _>>()?,
            targets: Vec::new(),
            modes: Vec::new(),
        };
        if *proc {
            furnished.proc(around);
        }
        if let Some(access) = sys {
            furnished.sys(*access, around);
            if is_limited {
                furnished.cgroups(*access);
            }
        }
        if dev.is_some() {
            furnished.dev(shm_size.unwrap_or(SHM_SIZE), around);
        }
        let ready = furnished.mounts.len();
        furnished.given_devices(furnish)?;
        if all_devices {
            let mut known: Vec<_> = STANDARD.to_vec();
            let given = furnish.given_in_dev();
            known.extend(given.iter().map(CString::as_c_str));
            for device in host_devices(&known) {
                furnished.host_device(device, around)?;
            }
        }
        for (on, name, place, contents) in files(furnish, around)? {
            if on {
                furnished.file(name, place, contents, around)?;
            }
        }
        let mut taken = HashSet::new();
        for one in mounts {
            if !taken.insert(&one.inside) {
                return Err(EnterError::Duplicate { path: one.inside.clone() }.into());
            }
            furnished.mount(one, furnish, root)?;
        }
        if !mounts.is_empty() {
            // As when it is entered: what lies in another mount comes after that.
            let depth = |mount: &Specified| mount.destination.split('/').filter(|name| !name.is_empty()).count();
            if let Some(given) = furnished.mounts.get_mut(ready..) {
                given.sort_by_key(depth);
            }
        }
        furnished.keep_targets_of_the_image(ready);
        Ok(furnished)
    }

    /// Inside of what is mounted, a place is not the image's: there it is the runtime that makes it.
    fn keep_targets_of_the_image(&mut self, ready: usize) {
        let (ready, given) = self.mounts.split_at(ready);
        self.targets.retain(|(target, _)| {
            let target = Path::new(OsStr::from_bytes(target.to_bytes()));
            let covers = |mount: &&Specified| target.starts_with(&mount.destination);
            let covers_from_above = |mount: &&Specified| covers(mount) && target != Path::new(&mount.destination);
            !ready.iter().any(|mount| covers(&mount)) && !given.iter().any(|mount| covers_from_above(&mount))
        });
    }

    fn proc(&mut self, around: &Surroundings<'_>) {
        self.directories.push(c"proc");
        self.mounts.push(if around.user_namespace && !around.private_pids {
            mount("/proc", "bind", "/proc", &["rbind", "rprivate"])
        } else {
            mount("/proc", "proc", "proc", &["nosuid", "nodev", "noexec"])
        });
    }

    fn sys(&mut self, access: Access, around: &Surroundings<'_>) {
        self.directories.push(c"sys");
        // It belongs to the network namespace.
        let is_hosts = around.user_namespace && around.network == NetworkView::Host;
        let (kind, source, mut options) = match is_hosts {
            true => ("bind", "/sys", vec!["rbind", "rprivate"]),
            false => ("sysfs", "sysfs", vec!["nosuid", "nodev", "noexec"]),
        };
        if access == Access::ReadOnly {
            options.push("ro");
            options.extend(is_hosts.then_some("rro"));
        }
        self.mounts.push(mount("/sys", kind, source, &options));
    }

    fn cgroups(&mut self, access: Access) {
        let mut options = vec!["nosuid", "nodev", "noexec", "relatime"];
        options.extend((access == Access::ReadOnly).then_some("ro"));
        self.mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &options));
    }

    fn dev(&mut self, shm_size: u64, around: &Surroundings<'_>) {
        self.directories.push(c"dev");
        // Runtimes make the standard devices by themselves.
        self.mounts.push(mount("/dev", "tmpfs", "dev", &["nosuid", "mode=0755", "size=65536k"]));
        let mut options = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
        options.extend((!around.user_namespace).then_some("gid=5"));
        self.mounts.push(mount("/dev/pts", "devpts", "devpts", &options));
        let size = format!("size={shm_size}");
        self.mounts.push(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "nodev", "noexec", "mode=1777", &size]));
        if !around.user_namespace || around.private_ipc {
            self.mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "nodev", "noexec"]));
        }
    }

    fn given_devices(&mut self, furnish: &Furnish) -> Result<()> {
        let mut made = Vec::new();
        for given in furnish.resolve_devices()? {
            match &given.place {
                Place::Dev(inside) => {
                    if !is_there_already(&given.host, &given.device, inside, &made)? {
                        self.add_device(&Path::new("/dev").join(inside), &given.device)?;
                        made.push((inside.clone(), given.device.rdev));
                    }
                }
                Place::Tree(inside) => {
                    let host = absolute(&given.host)?;
                    // A change of its mode inside would be one of the host's node.
                    let options = ["bind", "rprivate", "ro"];
                    let (to, from) = (text("path", inside.as_os_str())?, text("path", host.as_os_str())?);
                    self.mounts.push(mount(&to, "bind", &from, &options));
                    self.targets.push((c_path(inside)?, TargetKind::File));
                }
            }
            self.allow(given.device.mode, given.device.rdev);
        }
        Ok(())
    }

    fn allow(&mut self, mode: u32, rdev: u64) {
        self.device_rules.push(DeviceRule {
            allow: true,
            kind: Some(letter(mode)),
            major: Some(rustix::fs::major(rdev)),
            minor: Some(rustix::fs::minor(rdev)),
            access: "rwm",
        });
    }

    /// Of those that are all given, what the program could not open is left out.
    fn host_device(&mut self, device: HostDevice, around: &Surroundings<'_>) -> Result<()> {
        let HostDevice::Node { path, device } = device else { return Ok(()) };
        let path = Path::new("/dev").join(OsStr::from_bytes(path.to_bytes()));
        let may = |access| rustix::fs::access(&path, access).is_ok();
        if around.may_make_devices || may(rustix::fs::Access::READ_OK) || may(rustix::fs::Access::WRITE_OK) {
            self.add_device(&path, &device)?;
        }
        Ok(())
    }

    fn add_device(&mut self, path: &Path, device: &Device) -> Result<()> {
        self.devices.push(SpecifiedDevice {
            path: text("device", path.as_os_str())?,
            kind: letter(device.mode),
            major: rustix::fs::major(device.rdev),
            minor: rustix::fs::minor(device.rdev),
            file_mode: device.mode & 0o7777,
            uid: device.uid,
            gid: device.gid,
        });
        Ok(())
    }

    /// A file of `/etc`, which lies beside `config.json`.
    fn file(
        &mut self,
        name: &'static CStr,
        place: &'static CStr,
        contents: Vec<u8>,
        around: &Surroundings<'_>,
    ) -> Result<()> {
        let name = text("file", OsStr::from_bytes(name.to_bytes()))?;
        let options: &[&str] = match around.read_only {
            true => &["bind", "rprivate", "nosuid", "nodev", "noexec", "ro"],
            false => &["bind", "rprivate", "nosuid", "nodev", "noexec"],
        };
        self.mounts.push(mount(&place.to_string_lossy(), "bind", &name, options));
        self.targets.push((place.to_owned(), TargetKind::File));
        let name = FILES.into_iter().find(|known| *known == name);
        self.files.extend(name.map(|name| (name, contents)));
        Ok(())
    }

    fn mount(&mut self, one: &Mount, furnish: &Furnish, root: BorrowedFd<'_>) -> Result<()> {
        let Mount { inside, what } = one;
        let destination = text("path", inside.as_os_str())?;
        let (mount, kind) = match what {
            Mounted::Bind { host, options } => self.bind(&destination, host, *options, furnish)?,
            Mounted::Tmpfs(tmpfs) => {
                let mut options = words(tmpfs.attributes(), false);
                let sizes = [("size", tmpfs.size), ("nr_inodes", tmpfs.inodes)];
                options.extend(sizes.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?))));
                // Runtimes have ways of their own when it is not said.
                let place = found(root, inside);
                let mode = tmpfs.mode.or(place.as_ref().map(|place| place.mode)).unwrap_or(0o1777);
                if place.is_none() {
                    self.modes.push((c_path(inside)?, mode));
                }
                options.push(format!("mode={mode:o}"));
                let owners = [("uid", tmpfs.uid), ("gid", tmpfs.gid)];
                options.extend(owners.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?))));
                (tmpfs_at(destination, "tmpfs", options), TargetKind::Directory)
            }
            Mounted::Volume => {
                let mut options = vec!["nodev".to_owned(), "tmpcopyup".to_owned()];
                options.extend(furnish.volume_size.map(|size| format!("size={size}")));
                match found(root, inside) {
                    Some(Directory { mode, uid, gid }) => {
                        options.extend([format!("mode={mode:o}"), format!("uid={uid}"), format!("gid={gid}")]);
                    }
                    None => options.push("mode=755".to_owned()),
                }
                (tmpfs_at(destination, "volume", options), TargetKind::Directory)
            }
        };
        self.targets.push((c_path(inside)?, kind));
        self.mounts.push(mount);
        Ok(())
    }

    fn bind(
        &mut self,
        place: &str,
        host: &Path,
        bind: BindOptions,
        furnish: &Furnish,
    ) -> Result<(Specified, TargetKind)> {
        // A runtime would take it relative to the bundle.
        let source = absolute(host)?;
        let stat = rustix::fs::open(&source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .and_then(rustix::fs::fstat)
            .syscall("open", || format!("{}, O_PATH", source.display()))
            .map_err(|cause| EnterError::BindSource { path: host.to_owned(), cause })?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        // What is named by itself is to be used.
        let is_node = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        if is_node {
            self.allow(stat.st_mode, stat.st_rdev);
        }
        let kind = if kind == FileType::Directory { TargetKind::Directory } else { TargetKind::File };
        let mut options = match bind.recursive {
            true => vec!["rbind".to_owned(), "rprivate".to_owned()],
            false => vec!["bind".to_owned(), "rprivate".to_owned()],
        };
        let all_devices = is_node || furnish.dev == Some(Devices::Host);
        options.extend(words(bind.attributes(all_devices), bind.recursive));
        let source = text("path", source.as_os_str())?;
        Ok((Specified { destination: place.to_owned(), kind: "bind", source, options }, kind))
    }

    /// Makes the places of the mounts in a tree that nobody sees yet.
    pub(crate) fn push_places<'a>(&self, script: &mut Script<'a>, root: At<'a>) {
        script.doing("furnish the image's tree");
        for directory in &self.directories {
            let (place, path) = (script.slot(), (*directory).to_owned());
            script.push(Step::OpenPlace { at: root, path, into: place });
            script.push(Step::Close(place));
        }
        script.doing("make a directory in the image");
        for path in &self.wanted {
            script.push(Step::MakeDirectories { root, path: path.clone() });
        }
        script.doing("make a mount point in the image");
        for (path, kind) in &self.targets {
            let target = script.slot();
            script.push(Step::OpenTarget { root, path: path.clone(), kind: *kind, into: target });
            if let Some((_, mode)) = self.modes.iter().find(|(of, _)| of == path) {
                script.push(Step::SetMode { directory: target.into(), mode: *mode });
            }
            script.push(Step::Close(target));
        }
        if self.device_rules.first().is_some_and(|rule| !rule.allow) {
            script.doing("make devices of the image's tree useless");
            let attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
            script.push(Step::Restrict { mount: root, attributes, recursive: false });
        }
    }
}

/// What is forbidden in a mount; `recursive` also in those below it.
fn words(attributes: MountAttrFlags, recursive: bool) -> Vec<String> {
    let words = [
        (MountAttrFlags::MOUNT_ATTR_RDONLY, "ro"),
        (MountAttrFlags::MOUNT_ATTR_NOSUID, "nosuid"),
        (MountAttrFlags::MOUNT_ATTR_NODEV, "nodev"),
        (MountAttrFlags::MOUNT_ATTR_NOEXEC, "noexec"),
    ];
    let words = words.into_iter().filter(|(flag, _)| attributes.contains(*flag)).map(|(_, word)| word);
    words.flat_map(|word| std::iter::once(word.to_owned()).chain(recursive.then(|| format!("r{word}")))).collect()
}

/// Owner and mode of a directory.
struct Directory {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// As the image has it.
fn found(root: BorrowedFd<'_>, path: &Path) -> Option<Directory> {
    let path = c_path(path).ok()?;
    let directory = open_in_root(root, &path, OFlags::PATH | OFlags::DIRECTORY).ok()?;
    let stat = rustix::fs::fstat(directory).ok()?;
    Some(Directory { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid })
}

fn absolute(path: &Path) -> Result<PathBuf, EnterError> {
    std::path::absolute(path)
        .syscall("getcwd", || String::from("."))
        .map_err(|cause| EnterError::BindSource { path: path.to_owned(), cause })
}

fn letter(mode: u32) -> &'static str {
    if FileType::from_raw_mode(mode) == FileType::BlockDevice { "b" } else { "c" }
}

fn tmpfs_at(destination: String, source: &str, options: Vec<String>) -> Specified {
    Specified { destination, kind: "tmpfs", source: source.to_owned(), options }
}

fn mount(destination: &str, kind: &'static str, source: &str, options: &[&str]) -> Specified {
    Specified {
        destination: destination.to_owned(),
        kind,
        source: source.to_owned(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}
