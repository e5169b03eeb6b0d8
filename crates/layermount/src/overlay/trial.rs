//! A small overlay, mounted to find out what works.

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::mount::MountAttrFlags;

use super::steps::{Lowers, Parts, UpperPlace, push_overlay, push_upper};
use crate::caller::Caller;
use crate::kernel::Kernel;
use crate::script::{At, LayerArgument, Refused, Script, Step, try_in_child};
use crate::stack::RootAttributes;

/// The directory that a lower one has in it.
pub(crate) const DIRECTORY: &str = "directory";

/// An overlay to be mounted in a child with a mount namespace (and a user namespace when the caller needs one) of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trial<'a> {
    kernel: Kernel,
    caller: &'a Caller,
    lower: Option<(BorrowedFd<'a>, &'a Path)>,
    recreates: bool,
}

impl<'a> Trial<'a> {
    /// Of directories of its own: in a user namespace the host's may be covered by locked mounts, and refused as layers.
    pub(crate) fn new(kernel: Kernel, caller: &'a Caller) -> Self {
        Self { kernel, caller, lower: None, recreates: false }
    }

    /// With this lower directory, which has a [`DIRECTORY`] in it.
    pub(crate) fn over(self, lower: BorrowedFd<'a>, path: &'a Path) -> Self {
        Self { lower: Some((lower, path)), ..self }
    }

    /// Also removes the lower directory's [`DIRECTORY`] and makes it again, which marks it as opaque.
    pub(crate) fn recreating(self) -> Self {
        Self { recreates: true, ..self }
    }

    pub(crate) fn run(self) -> Result<(), Refused> {
        let Self { kernel, caller, lower, recreates } = self;
        let attributes = RootAttributes::default();
        let mut script = Script::new();
        caller.push_id_maps(&mut script);
        script.doing("make a private mount namespace").push(Step::MakePrivate);
        let place = if kernel.needs_private_namespace() { UpperPlace::OverRoot } else { UpperPlace::Nowhere };
        let upper = push_upper(&mut script, place, None, &attributes, Vec::new(), false);
        let lower = match lower {
            Some((fd, path)) => {
                let reopen = CString::new(path.as_os_str().as_bytes()).ok();
                LayerArgument { at: At::Fd(fd), path: None, reopen }
            }
            None => push_lower(&mut script, kernel),
        };
        let xattrs = caller.overlay_xattrs();
        let lowers = Lowers { top: vec![lower], bottom: Vec::new() };
        let mount =
            push_overlay(&mut script, kernel, lowers, Parts { upper, xattrs, attributes: MountAttrFlags::empty() });
        if recreates {
            script.doing("make a directory again that was removed");
            script.push(Step::RemoveDirectory { at: mount.into(), path: name(DIRECTORY) });
            script.push(Step::MakeDirectory { at: mount.into(), path: name(DIRECTORY), mode: 0o755 });
        }
        try_in_child(&script, nix::libc::CLONE_NEWNS | caller.clone_flags())
    }
}

fn push_lower<'a>(script: &mut Script<'a>, kernel: Kernel) -> LayerArgument<'a> {
    script.doing("make a layer");
    let tmpfs = script.new_mount(c"tmpfs", vec![(c"source", c"layermount".to_owned())], MountAttrFlags::empty());
    if kernel.needs_private_namespace() {
        script.mount_over_root(tmpfs.into());
    }
    let directory = script.slot();
    script.push(Step::MakeDirectory { at: tmpfs.into(), path: name("lower"), mode: 0o755 });
    script.push(Step::OpenDirectory { at: tmpfs.into(), path: name("lower"), readable: false, into: directory });
    script.push(Step::MakeDirectory { at: directory.into(), path: name(DIRECTORY), mode: 0o755 });
    LayerArgument { at: directory.into(), path: None, reopen: None }
}

fn name(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
}
