//! `/dev`: a tmpfs with device nodes, the usual links, and the file systems that lie in it.
//!
//! Nodes are made where that is allowed, and otherwise they are the host's own, each as a mount over an empty file.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};

use rustix::mount::MountAttrFlags;

use super::EnterError;
use super::devices::{GivenDevice, HostDevice, Place, host_devices};
use super::furnish::{Devices, Furnish};
use super::mounts::{Target, c_path};
use super::steps::{NO_PROGRAMS, Surroundings};
use crate::overlay::steps::number;
use crate::script::{At, Device, Script, Slot, Step};

/// Name, path on the host, major and minor number: the OCI runtime specification, `config-linux.md`, "Default Devices".
const DEVICES: [(&CStr, &CStr, u32, u32); 6] = [
    (c"null", c"/dev/null", 1, 3),
    (c"zero", c"/dev/zero", 1, 5),
    (c"full", c"/dev/full", 1, 7),
    (c"random", c"/dev/random", 1, 8),
    (c"urandom", c"/dev/urandom", 1, 9),
    (c"tty", c"/dev/tty", 5, 0),
];

/// Target, and name in `/dev`.
const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"pts/ptmx", c"ptmx"),
];

/// Of `/dev/shm` when nobody says otherwise: as Docker, 64 MiB.
pub(super) const SHM_SIZE: u64 = 64 << 20;

/// Mounts that wait for their places.
#[derive(Debug)]
pub(super) struct Dev {
    tmpfs: Slot,
    pts: Slot,
    shm: Slot,
    mqueue: Option<Slot>,
    /// The host's nodes and their paths, where none may be made.
    nodes: Vec<(Slot, CString)>,
}

impl Dev {
    pub(super) fn tmpfs(&self) -> Slot {
        self.tmpfs
    }

    /// All that lies on it, when it is in its place.
    pub(super) fn push_parts(self, script: &mut Script<'_>) {
        let mounts = [(Some(self.pts), c"pts"), (Some(self.shm), c"shm"), (self.mqueue, c"mqueue")];
        let mounts = mounts.into_iter().filter_map(|(mount, name)| Some((mount?, name.to_owned())));
        for (mount, path) in mounts.chain(self.nodes) {
            script.push(Step::MoveMount { from: mount.into(), to: self.tmpfs.into(), path });
        }
    }
}

/// `/dev`, and the host's devices that are to be bound elsewhere.
pub(super) fn push_dev(
    script: &mut Script<'_>,
    devices: Devices,
    furnish: &Furnish,
    around: &Surroundings<'_>,
) -> Result<(Dev, Vec<Target>), EnterError> {
    script.doing("furnish /dev");
    let option = |key: &'static CStr, value: &CStr| (key, value.to_owned());
    let options = vec![option(c"source", c"dev"), option(c"mode", c"0755"), option(c"size", c"65536k")];
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID;
    // The nodes of the host lie on it as mounts of their own.
    attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, !around.may_make_devices);
    let tmpfs = script.new_mount(c"tmpfs", options, attributes);
    let mut nodes = Vec::new();
    for (name, host, major, minor) in DEVICES {
        if around.may_make_devices {
            script.push(Step::MakeCharacterDevice { at: tmpfs.into(), path: name, major, minor });
        } else {
            nodes.push((host_node(script, tmpfs, name, host), name.to_owned()));
        }
    }
    let bound = push_given_devices(script, Some(tmpfs), furnish, around, &mut nodes)?;
    if devices == Devices::Host {
        push_host_devices(script, tmpfs, furnish, around, &mut nodes);
    }
    for (target, path) in LINKS {
        script.push(Step::MakeSymlink { target, at: tmpfs.into(), path });
    }
    let mut options = vec![option(c"source", c"devpts"), option(c"ptmxmode", c"0666"), option(c"mode", c"0620")];
    if !around.user_namespace {
        // Group tty, by the number that every distribution gives it; a map of one user has none but 0.
        options.push(option(c"gid", c"5"));
    }
    let no_devices = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let pts = script.new_mount(c"devpts", options, no_devices);
    let options = vec![
        option(c"source", c"shm"),
        option(c"mode", c"1777"),
        (c"size", number(furnish.shm_size.unwrap_or(SHM_SIZE))),
    ];
    let shm = script.new_mount(c"tmpfs", options, NO_PROGRAMS);
    // Owned by the ipc namespace; see /proc above.
    let mqueue = (!around.user_namespace || around.private_ipc)
        .then(|| script.new_mount(c"mqueue", vec![option(c"source", c"mqueue")], NO_PROGRAMS));
    for name in [c"pts", c"shm", c"mqueue"] {
        script.push(Step::MakeDirectory { at: tmpfs.into(), path: name.to_owned(), mode: 0o755 });
    }
    Ok((Dev { tmpfs, pts, shm, mqueue, nodes }, bound))
}

/// A copy of a node of the host, and a file that it is going to lie on.
fn host_node(script: &mut Script<'_>, tmpfs: Slot, name: &CStr, host: &CStr) -> Slot {
    script.push(Step::MakeFile { at: tmpfs.into(), path: name.to_owned(), contents: Vec::new() });
    let node = script.slot();
    script.push(Step::OpenTree { at: At::Cwd, path: host.to_owned(), recursive: false, into: node });
    node
}

/// The devices that were asked for: in `dev` where they belong there, and otherwise the host's own, to be bound.
pub(super) fn push_given_devices(
    script: &mut Script<'_>,
    dev: Option<Slot>,
    furnish: &Furnish,
    around: &Surroundings<'_>,
    nodes: &mut Vec<(Slot, CString)>,
) -> Result<Vec<Target>, EnterError> {
    let mut bound = Vec::new();
    let mut made: Vec<(PathBuf, u64)> = Vec::new();
    for GivenDevice { host, place, device } in furnish.resolve_devices()? {
        script.doing("give a device of the host");
        let host_path = c_path(&host)?;
        let (inside, dev) = match (place, dev) {
            (Place::Dev(inside), Some(dev)) => (inside, dev),
            (Place::Dev(inside) | Place::Tree(inside), _) => {
                let node = script.slot();
                script.push(Step::OpenTree { at: At::Cwd, path: host_path, recursive: false, into: node });
                // A change of its mode inside would be one of the host's node.
                script.push(Step::SetReadOnly { mount: node.into(), recursive: false });
                bound.push(Target::file(node, c_path(&inside)?));
                continue;
            }
        };
        let path = c_path(&inside)?;
        if is_there_already(&host, &device, &inside, &made)? {
            continue;
        }
        let directories: Vec<_> = inside.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
        for directory in directories.into_iter().rev() {
            script.push(Step::MakeDirectory { at: dev.into(), path: c_path(directory)?, mode: 0o755 });
        }
        if around.may_make_devices {
            script.push(Step::MakeDevice { at: dev.into(), path, device });
        } else {
            nodes.push((host_node(script, dev, &path, &host_path), path));
        }
        made.push((inside, device.rdev));
    }
    Ok(bound)
}

/// Whether the place in `/dev` has that very device. It must not have anything else.
pub(super) fn is_there_already(
    host: &Path,
    device: &Device,
    inside: &Path,
    made: &[(PathBuf, u64)],
) -> Result<bool, EnterError> {
    let path = c_path(inside)?;
    let standard = DEVICES.iter().find(|(name, ..)| **name == *path);
    let standard = standard.map(|(_, _, major, minor)| rustix::fs::makedev(*major, *minor));
    let there = standard.or_else(|| made.iter().find(|(known, _)| *known == inside).map(|(_, rdev)| *rdev));
    let is_link = LINKS.iter().any(|(_, name)| inside.starts_with(name.to_str().unwrap_or_default()));
    match there {
        Some(rdev) if rdev == device.rdev => Ok(true),
        None if !is_link => Ok(false),
        _ => Err(EnterError::DevicePlace { host: host.to_owned(), inside: Path::new("/dev").join(inside) }),
    }
}

/// All devices but those that are there already.
fn push_host_devices(
    script: &mut Script<'_>,
    tmpfs: Slot,
    furnish: &Furnish,
    around: &Surroundings<'_>,
    nodes: &mut Vec<(Slot, CString)>,
) {
    let given = furnish.given_in_dev();
    let mut known = DEVICES.map(|(name, ..)| name).to_vec();
    known.extend(LINKS.map(|(_, name)| name));
    known.extend(given.iter().map(CString::as_c_str));
    for device in host_devices(&known) {
        match device {
            HostDevice::Directory(path) => script.push(Step::MakeDirectory { at: tmpfs.into(), path, mode: 0o755 }),
            HostDevice::Node { path, device } if around.may_make_devices => {
                script.push(Step::MakeDevice { at: tmpfs.into(), path, device });
            }
            HostDevice::Node { path, .. } => {
                let host = [b"/dev/", path.to_bytes()].concat();
                // It had no zero byte before either.
                let Ok(host) = CString::new(host) else { continue };
                let may = |access| rustix::fs::access(host.as_c_str(), access).is_ok();
                if may(rustix::fs::Access::READ_OK) || may(rustix::fs::Access::WRITE_OK) {
                    nodes.push((host_node(script, tmpfs, &path, &host), path));
                }
            }
        }
    }
}
