//! The host's devices, for programs that are given some or all of them.

use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::EnterError;
use super::furnish::Furnish;
use super::mounts::clean;
use crate::error::SyscallContext as _;
use crate::script::Device;

/// Directories of `/dev` that are not the host's inside.
const OWN: [&str; 3] = ["pts", "shm", "mqueue"];

/// A directory or a node below `/dev`, its path relative to that.
#[derive(Debug)]
pub(super) enum HostDevice {
    Directory(CString),
    Node { path: CString, device: Device },
}

/// Everything below the host's `/dev` but those in `known`, each directory before what is in it.
pub(super) fn host_devices(known: &[&CStr]) -> Vec<HostDevice> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), Path::new(""), &mut found);
    found.retain(|device| !matches!(device, HostDevice::Node { path, .. } if known.contains(&path.as_c_str())));
    found
}

/// [`Furnish::device`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceRequest {
    host: PathBuf,
    /// Absolute, without `.` and `..`.
    inside: PathBuf,
}

impl fmt::Display for DeviceRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<16} device {}", self.inside.display(), self.host.display())
    }
}

/// A node that was asked for.
#[derive(Debug)]
pub(super) struct GivenDevice {
    pub(super) host: PathBuf,
    pub(super) place: Place,
    pub(super) device: Device,
}

/// Where a node goes.
#[derive(Debug)]
pub(super) enum Place {
    /// Below `/dev`, relative to that.
    Dev(PathBuf),
    /// Anywhere else.
    Tree(PathBuf),
}

impl Furnish {
    /// A device of the host, or all devices in a directory of its, at a path inside, to be read and written as far as the mode and
    /// owner of the host's node allow. Links are followed to the device on the host.
    ///
    /// The node is a new one where nodes can be made and the path lies in `/dev`; elsewhere it is the host's own, bound. There is
    /// no device cgroup, so access cannot be narrowed to reading, and further nodes cannot be made inside.
    #[must_use]
    pub fn device(mut self, host: impl AsRef<Path>, inside: impl AsRef<Path>) -> Self {
        let (host, inside) = (host.as_ref().to_owned(), clean(inside.as_ref()));
        self.given_devices.push(DeviceRequest { host, inside });
        self
    }

    /// How much `/dev/shm` holds, in bytes; 64 MiB if nothing is said, as in Docker.
    #[must_use]
    pub fn shm_size(mut self, bytes: u64) -> Self {
        self.shm_size = Some(bytes);
        self
    }

    /// The nodes that were asked for.
    pub(super) fn resolve_devices(&self) -> Result<Vec<GivenDevice>, EnterError> {
        let mut given = Vec::new();
        for DeviceRequest { host, inside } in &self.given_devices {
            let fault = |cause| EnterError::DeviceSource { path: host.clone(), cause };
            let metadata = std::fs::metadata(host).syscall("stat", || host.display().to_string()).map_err(fault)?;
            let before = given.len();
            if let Some(device) = node(&metadata) {
                given.push(GivenDevice { host: host.clone(), place: self.place(inside.clone()), device });
            } else if metadata.is_dir() {
                let mut found = Vec::new();
                collect(host, Path::new(""), &mut found);
                for found in found {
                    let HostDevice::Node { path, device } = found else { continue };
                    let path = Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
                    given.push(GivenDevice { host: host.join(path), place: self.place(inside.join(path)), device });
                }
            }
            if given.len() == before {
                return Err(EnterError::NoDevice { path: host.clone() });
            }
        }
        Ok(given)
    }

    /// The paths below `/dev`, relative to that, of those that were asked for. Whatever cannot be found is refused elsewhere.
    pub(super) fn given_in_dev(&self) -> Vec<CString> {
        let given = self.resolve_devices().unwrap_or_default().into_iter();
        let paths = given.filter_map(|device| match device.place {
            Place::Dev(path) => CString::new(path.as_os_str().as_bytes()).ok(),
            Place::Tree(_) => None,
        });
        paths.collect()
    }

    fn place(&self, inside: PathBuf) -> Place {
        match inside.strip_prefix("/dev") {
            Ok(below) if self.dev.is_some() && below.parent().is_some() => Place::Dev(below.to_owned()),
            _ => Place::Tree(inside),
        }
    }
}

fn node(metadata: &Metadata) -> Option<Device> {
    let kind = metadata.file_type();
    (kind.is_char_device() || kind.is_block_device()).then(|| Device {
        mode: metadata.mode(),
        rdev: metadata.rdev(),
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

/// What cannot be read is not there.
fn collect(directory: &Path, inside: &Path, found: &mut Vec<HostDevice>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let inside = inside.join(entry.file_name());
        let (Ok(kind), Ok(path)) = (entry.file_type(), CString::new(inside.as_os_str().as_bytes())) else { continue };
        if kind.is_dir() && !OWN.iter().any(|own| inside == Path::new(own)) {
            let before = found.len();
            found.push(HostDevice::Directory(path));
            collect(&entry.path(), &inside, found);
            if found.len() == before + 1 {
                found.pop();
            }
        } else if (kind.is_char_device() || kind.is_block_device())
            && let Some(device) = entry.metadata().ok().as_ref().and_then(node)
        {
            found.push(HostDevice::Node { path, device });
        }
    }
}
