//! [`Furnish`] in the form of the OCI runtime specification: mounts, devices, paths that are covered, files beside `config.json`.
//!
//! The mounts are those of [`steps`](super::steps), in their order. Their places are made before the tree is attached, as the tree may
//! be read-only from then on, and with the same care: a runtime follows the image's links, too, but says less when they lead nowhere.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use super::devices::{HostDevice, host_devices};
use super::furnish::{Access, Bind, Devices, Furnish};
use super::steps::{Surroundings, files};
use super::{EnterError, masks};
use crate::bundle::config::{Device, DeviceRule, Mount};
use crate::bundle::{FILES, text};
use crate::error::{Result, SyscallContext};
use crate::script::{At, Script, Step, TargetKind};

/// What a tree is furnished with.
#[derive(Debug)]
pub(crate) struct Furnished {
    pub(crate) mounts: Vec<Mount>,
    pub(crate) devices: Vec<Device>,
    pub(crate) device_rule: DeviceRule,
    pub(crate) masked_paths: Vec<PathBuf>,
    pub(crate) readonly_paths: Vec<PathBuf>,
    /// Name and contents. The mounts name them relative to the bundle.
    pub(crate) files: Vec<(&'static str, Vec<u8>)>,
    /// Directories of the image that must be ordinary ones.
    directories: Vec<&'static CStr>,
    targets: Vec<(CString, TargetKind)>,
}

impl Furnished {
    /// `binds` come after those of `furnish`.
    pub(crate) fn new(furnish: &Furnish, binds: &[Bind], around: &Surroundings<'_>) -> Result<Self> {
        // No `..`: what is new here has to be said to the runtime, too, or refused.
        let Furnish { proc, sys, dev, masks: _, unmasked: _, hostname: _, hosts: _, resolv_conf: _, binds: first } =
            furnish;
        let mut furnished = Self {
            mounts: Vec::new(),
            devices: Vec::new(),
            device_rule: DeviceRule { allow: *dev == Some(Devices::Host), access: "rwm" },
            masked_paths: masks::covered(furnish),
            readonly_paths: masks::read_only(furnish),
            files: Vec::new(),
            directories: Vec::new(),
            targets: Vec::new(),
        };
        if *proc {
            furnished.proc(around);
        }
        if let Some(access) = sys {
            furnished.sys(*access, around);
        }
        if let Some(devices) = dev {
            furnished.dev(*devices, around)?;
        }
        for (on, name, place, contents) in files(furnish, around.hostname) {
            if on {
                furnished.file(name, place, contents, around)?;
            }
        }
        for bind in first.iter().chain(binds) {
            furnished.bind(bind)?;
        }
        Ok(furnished)
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
        let (kind, source, mut options) = match around.user_namespace {
            true => ("bind", "/sys", vec!["rbind", "rprivate"]),
            false => ("sysfs", "sysfs", vec!["nosuid", "nodev", "noexec"]),
        };
        if access == Access::ReadOnly {
            options.push("ro");
            options.extend(around.user_namespace.then_some("rro"));
        }
        self.mounts.push(mount("/sys", kind, source, &options));
    }

    fn dev(&mut self, devices: Devices, around: &Surroundings<'_>) -> Result<()> {
        self.directories.push(c"dev");
        self.mounts.push(mount("/dev", "tmpfs", "dev", &["nosuid", "mode=0755", "size=65536k"]));
        let mut options = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
        options.extend((!around.user_namespace).then_some("gid=5"));
        self.mounts.push(mount("/dev/pts", "devpts", "devpts", &options));
        let options = ["nosuid", "nodev", "noexec", "mode=1777", "size=65536k"];
        self.mounts.push(mount("/dev/shm", "tmpfs", "shm", &options));
        if !around.user_namespace || around.private_ipc {
            self.mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "nodev", "noexec"]));
        }
        // Runtimes make the standard ones by themselves.
        if devices == Devices::Host {
            let standard = [c"null", c"zero", c"full", c"random", c"urandom", c"tty", c"ptmx", c"console"];
            for device in host_devices(&standard) {
                self.device(device, around)?;
            }
        }
        Ok(())
    }

    fn device(&mut self, device: HostDevice, around: &Surroundings<'_>) -> Result<()> {
        let HostDevice::Node { path, device } = device else { return Ok(()) };
        let path = Path::new("/dev").join(path.to_string_lossy().as_ref());
        let may = |access| rustix::fs::access(&path, access).is_ok();
        if !around.may_make_devices && !may(rustix::fs::Access::READ_OK) && !may(rustix::fs::Access::WRITE_OK) {
            return Ok(());
        }
        self.devices.push(Device {
            path: text("device", path.as_os_str())?,
            kind: if FileType::from_raw_mode(device.mode) == FileType::BlockDevice { "b" } else { "c" },
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
        let name = text("file", std::ffi::OsStr::from_bytes(name.to_bytes()))?;
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

    fn bind(&mut self, bind: &Bind) -> Result<()> {
        let Bind { host, inside, access } = bind;
        let zero_byte = |path: &Path| EnterError::BindPath { path: path.to_owned() };
        let target = CString::new(inside.as_os_str().as_bytes()).map_err(|_| zero_byte(inside))?;
        // A runtime would take it relative to the bundle.
        let source = std::path::absolute(host)
            .syscall("getcwd", || String::from("."))
            .map_err(|cause| EnterError::BindSource { path: host.clone(), cause })?;
        let stat = rustix::fs::open(&source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .and_then(rustix::fs::fstat)
            .syscall("open", || format!("{}, O_PATH", source.display()))
            .map_err(|cause| EnterError::BindSource { path: host.clone(), cause })?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => TargetKind::Directory,
            _ => TargetKind::File,
        };
        let options: &[&str] = match access {
            Access::ReadOnly => &["rbind", "rprivate", "ro", "rro"],
            Access::ReadWrite => &["rbind", "rprivate"],
        };
        let (to, from) = (text("path", inside.as_os_str())?, text("path", source.as_os_str())?);
        // Inside of what is mounted before, the place is not the image's: there it is the runtime that makes it.
        if !self.mounts.iter().any(|known| inside.starts_with(&known.destination)) {
            self.targets.push((target, kind));
        }
        self.mounts.push(mount(&to, "bind", &from, options));
        Ok(())
    }

    /// Makes the places of the mounts in a tree that nobody sees yet.
    pub(crate) fn push_places<'a>(&self, script: &mut Script<'a>, root: At<'a>) {
        script.doing("furnish the image's tree");
        for directory in &self.directories {
            let (place, path) = (script.slot(), (*directory).to_owned());
            script.push(Step::MakeDirectory { at: root, path: path.clone(), mode: 0o755 });
            script.push(Step::OpenDirectory { at: root, path, readable: false, into: place });
            script.push(Step::Close(place));
        }
        script.doing("make a mount point in the image");
        for (path, kind) in &self.targets {
            let target = script.slot();
            script.push(Step::OpenTarget { root, path: path.clone(), kind: *kind, into: target });
            script.push(Step::Close(target));
        }
        if !self.device_rule.allow {
            script.doing("make devices of the image's tree useless");
            script.push(Step::SetNoDevices { mount: root });
        }
    }
}

fn mount(destination: &str, kind: &'static str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        kind,
        source: source.to_owned(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}
