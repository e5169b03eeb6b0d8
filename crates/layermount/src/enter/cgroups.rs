//! `/sys/fs/cgroup` for a program that is limited: its own cgroups, where it looks for them.
//!
//! As with Docker: the cgroup itself where there is version 2 alone, and otherwise a directory with one for each hierarchy. They are
//! bind mounts of the cgroups' directories, so that they need no more privilege than any bind mount.

use std::ffi::CString;

use super::furnish::Access;
use super::steps::NO_PROGRAMS;
use crate::cgroup::View;
use crate::script::{At, Script, Slot, Step};

/// Mounts that wait for their place.
#[derive(Debug)]
pub(super) enum Cgroups {
    Unified(Slot),
    Several { directory: Slot, trees: Vec<(Slot, CString)>, access: Access },
}

/// In the host's tree.
pub(super) fn push_prepare(script: &mut Script<'_>, view: &View, access: Access) -> Cgroups {
    script.doing("furnish /sys/fs/cgroup");
    let tree = |script: &mut Script<'_>, path: &CString| {
        let tree = script.slot();
        script.push(Step::OpenTree { at: At::Cwd, path: path.clone(), recursive: false, into: tree });
        if access == Access::ReadOnly {
            script.push(Step::SetReadOnly { mount: tree.into(), recursive: false });
        }
        tree
    };
    match view {
        View::Unified(path) => Cgroups::Unified(tree(script, path)),
        View::Several(several) => {
            let options = vec![(c"source", c"cgroup".to_owned()), (c"mode", c"0755".to_owned())];
            let directory = script.new_mount(c"tmpfs", options, NO_PROGRAMS);
            let place = |(name, path): &(CString, CString)| {
                script.push(Step::MakeDirectory { at: directory.into(), path: name.clone(), mode: 0o755 });
                (tree(script, path), name.clone())
            };
            Cgroups::Several { directory, trees: several.iter().map(place).collect(), access }
        }
    }
}

/// Into `/sys`, which is in its place.
pub(super) fn push_place(script: &mut Script<'_>, sys: Slot, cgroups: Cgroups) {
    script.doing("furnish /sys/fs/cgroup");
    let place = script.slot();
    script.push(Step::OpenDirectory { at: sys.into(), path: c"fs/cgroup".to_owned(), readable: false, into: place });
    let attach = |script: &mut Script<'_>, from: Slot, to: Slot, path: CString| {
        script.push(Step::MoveMount { from: from.into(), to: to.into(), path });
    };
    match cgroups {
        Cgroups::Unified(tree) => attach(script, tree, place, CString::default()),
        Cgroups::Several { directory, trees, access } => {
            attach(script, directory, place, CString::default());
            for (tree, name) in trees {
                attach(script, tree, directory, name);
            }
            if access == Access::ReadOnly {
                script.push(Step::SetReadOnly { mount: directory.into(), recursive: false });
            }
        }
    }
    script.push(Step::Close(place));
}
