//! The host's devices, for programs that are given all of them.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

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
            && let Ok(metadata) = entry.metadata()
        {
            let (mode, rdev) = (metadata.mode(), metadata.rdev());
            let device = Device { mode, rdev, uid: metadata.uid(), gid: metadata.gid() };
            found.push(HostDevice::Node { path, device });
        }
    }
}
