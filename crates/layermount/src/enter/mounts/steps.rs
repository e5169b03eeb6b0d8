//! The steps that make mounts and bring them to their places.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::MountAttrFlags;

use super::{BindOptions, Mount, Mounted, Tmpfs};
use crate::enter::EnterError;
use crate::enter::furnish::{Access, Devices, Furnish};
use crate::error::SyscallContext;
use crate::overlay::steps::number;
use crate::script::{At, Script, Slot, Step, TargetKind};

/// A mount that waits for its place.
#[derive(Debug)]
pub(in crate::enter) struct Target {
    pub(in crate::enter) mount: Slot,
    pub(in crate::enter) path: CString,
    pub(in crate::enter) kind: TargetKind,
    pub(in crate::enter) takes: Takes,
}

/// What a mount takes over from what it is going to hide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::enter) enum Takes {
    Nothing,
    /// The mode of the directory, when there is one. Only after that it becomes read-only.
    Mode(Access),
    /// All that is in it.
    Contents,
}

/// Makes what was asked for, in the host's tree. The sources of binds are taken now, so that nobody can exchange them later.
pub(in crate::enter) fn push_mounts(script: &mut Script<'_>, furnish: &Furnish) -> Result<Vec<Target>, EnterError> {
    let all_devices = furnish.dev == Some(Devices::Host);
    let mut targets = Vec::with_capacity(furnish.mounts.len());
    // An image may have a great many volumes.
    let mut taken = HashSet::with_capacity(furnish.mounts.len());
    for Mount { inside, what } in &furnish.mounts {
        if !taken.insert(inside) {
            return Err(EnterError::Duplicate { path: inside.clone() });
        }
        let path = c_path(inside)?;
        let (mount, kind, takes) = match what {
            Mounted::Bind { host, options } => {
                let (mount, kind) = push_bind(script, host, *options, all_devices)?;
                (mount, kind, Takes::Nothing)
            }
            Mounted::Tmpfs(tmpfs) => {
                let takes = if tmpfs.mode.is_none() { Takes::Mode(tmpfs.access) } else { Takes::Nothing };
                (push_tmpfs(script, tmpfs), TargetKind::Directory, takes)
            }
            Mounted::Volume => {
                script.doing("make a volume");
                let mut options = vec![(c"source", c"volume".to_owned()), (c"mode", c"0755".to_owned())];
                options.extend(furnish.volume_size.map(|size| (c"size", number(size))));
                let mount = script.new_mount(c"tmpfs", options, MountAttrFlags::MOUNT_ATTR_NODEV);
                (mount, TargetKind::Directory, Takes::Contents)
            }
        };
        targets.push(Target { mount, path, kind, takes });
    }
    Ok(targets)
}

pub(in crate::enter) fn c_path(path: &Path) -> Result<CString, EnterError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| EnterError::BindPath { path: path.to_owned() })
}

fn push_bind(
    script: &mut Script<'_>,
    host: &Path,
    options: BindOptions,
    all_devices: bool,
) -> Result<(Slot, TargetKind), EnterError> {
    script.doing("bind a directory or file of the host");
    let path = c_path(host)?;
    let source = rustix::fs::open(path.as_c_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .and_then(rustix::fs::fstat)
        .syscall("open", || format!("{}, O_PATH", host.display()))
        .map_err(|cause| EnterError::BindSource { path: host.to_owned(), cause })?;
    let kind = match FileType::from_raw_mode(source.st_mode) {
        FileType::Directory => TargetKind::Directory,
        _ => TargetKind::File,
    };
    let tree = script.slot();
    script.push(Step::OpenTree { at: At::Cwd, path, recursive: options.recursive, into: tree });
    // A node that is named by itself is what was asked for; `-v /dev/null:/etc/FILE` hides a file.
    let is_node = matches!(FileType::from_raw_mode(source.st_mode), FileType::CharacterDevice | FileType::BlockDevice);
    let attributes = options.attributes(all_devices || is_node);
    if !attributes.is_empty() {
        script.push(Step::Restrict { mount: tree.into(), attributes, recursive: true });
    }
    Ok((tree, kind))
}

fn push_tmpfs(script: &mut Script<'_>, tmpfs: &Tmpfs) -> Slot {
    script.doing("make a tmpfs");
    let text = |text: String| CString::new(text).unwrap_or_default();
    let mut options: Vec<(&'static CStr, CString)> = vec![(c"source", c"tmpfs".to_owned())];
    for (key, value) in [(c"size", tmpfs.size), (c"nr_inodes", tmpfs.inodes)] {
        options.extend(value.map(|value| (key, number(value))));
    }
    options.extend(tmpfs.mode.map(|mode| (c"mode", text(format!("{mode:o}")))));
    for (key, value) in [(c"uid", tmpfs.uid), (c"gid", tmpfs.gid)] {
        options.extend(value.map(|value| (key, number(value.into()))));
    }
    let mut attributes = tmpfs.attributes();
    if tmpfs.mode.is_none() {
        attributes.remove(MountAttrFlags::MOUNT_ATTR_RDONLY);
    }
    script.new_mount(c"tmpfs", options, attributes)
}

impl Target {
    /// Something that takes the place of a file.
    pub(in crate::enter) fn file(mount: Slot, path: CString) -> Self {
        Self { mount, path, kind: TargetKind::File, takes: Takes::Nothing }
    }

    /// How far below the root it lies: the shallower go first.
    pub(in crate::enter) fn depth(&self) -> usize {
        self.path.to_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty()).count()
    }

    /// Fills it with what the image has there. Before anything is mounted in the image's tree.
    pub(in crate::enter) fn push_contents<'a>(&self, script: &mut Script<'a>, root: At<'a>) {
        if self.takes == Takes::Contents {
            script.doing("copy the image's files into a volume");
            script.push(Step::CopyTree { root, path: self.path.clone(), into: self.mount });
        }
    }

    /// Brings the mount to its place in the image's tree.
    pub(in crate::enter) fn push<'a>(self, script: &mut Script<'a>, root: At<'a>) {
        let Self { mount, path, kind, takes } = self;
        script.doing("mount a file or directory in the image");
        if let Takes::Mode(access) = takes {
            script.push(Step::TakeMode { root, path: path.clone(), mount: mount.into() });
            if access == Access::ReadOnly {
                script.push(Step::SetReadOnly { mount: mount.into(), recursive: false });
            }
        }
        let target = script.slot();
        script.push(Step::OpenTarget { root, path, kind, into: target });
        script.push(Step::MoveMount { from: mount.into(), to: target.into(), path: CString::default() });
        script.push(Step::Close(target));
    }
}
