//! Parts of `/proc` and `/sys` that no namespace divides: covered, or read-only.
//!
//! The lists are those of moby (`oci/defaults.go`) as of its version 28. They are applied in a user namespace as well, as podman does:
//! there the kernel refuses all writes by itself, but lets everybody read how often a key was pressed (`/proc/interrupts`), and a
//! nested namespace's root must not find less covered than it is outside.
//!
//! A directory is covered by a read-only tmpfs, one for all, and a file by the host's `/dev/null`. Each is a detached copy moved to
//! its place, before the host's tree is left; a path that does not exist costs one failing `openat`.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};

use super::furnish::Furnish;
use crate::script::{Script, Slot, Step};

/// In `/proc`.
const COVERED_IN_PROC: [&CStr; 10] = [
    c"acpi",
    c"asound",
    c"interrupts",
    c"kcore",
    c"keys",
    c"latency_stats",
    c"sched_debug",
    c"scsi",
    c"timer_list",
    c"timer_stats",
];

/// In `/sys`, besides each processor's `thermal_throttle`.
const COVERED_IN_SYS: [&CStr; 2] = [c"firmware", c"devices/virtual/powercap"];

/// In `/proc`.
const READ_ONLY_IN_PROC: [&CStr; 5] = [c"bus", c"fs", c"irq", c"sys", c"sysrq-trigger"];

/// Covers what exists. `empty` is an attached mount of an empty, read-only directory.
pub(super) fn push_masks(
    script: &mut Script<'_>,
    furnish: &Furnish,
    proc: Option<Slot>,
    sys: Option<Slot>,
    empty: Slot,
) {
    script.doing("cover parts of /proc and /sys");
    let mut cover = |root: &str, tree: Slot, path: &CStr| {
        if furnish.is_masked(root, path) {
            script.push(Step::Cover { at: tree.into(), path: path.to_owned(), empty: empty.into() });
        }
    };
    if let Some(proc) = proc {
        COVERED_IN_PROC.iter().for_each(|path| cover("/proc", proc, path));
    }
    if let Some(sys) = sys {
        COVERED_IN_SYS.iter().for_each(|path| cover("/sys", sys, path));
        thermal_throttles().iter().for_each(|path| cover("/sys", sys, path));
    }
    script.doing("make parts of /proc read-only");
    for path in READ_ONLY_IN_PROC {
        if let Some(proc) = proc.filter(|_| furnish.is_masked("/proc", path)) {
            script.push(Step::Protect { at: proc.into(), path: path.to_owned() });
        }
    }
}

/// What is covered, by path inside, whether it exists or not.
pub(super) fn covered(furnish: &Furnish) -> Vec<PathBuf> {
    let proc = COVERED_IN_PROC.iter().map(|path| ("/proc", (*path).to_owned())).filter(|_| furnish.proc);
    let throttles = thermal_throttles();
    let sys = COVERED_IN_SYS.iter().map(|path| (*path).to_owned()).chain(throttles);
    let sys = sys.map(|path| ("/sys", path)).filter(|_| furnish.sys.is_some());
    proc.chain(sys)
        .filter(|(root, path)| furnish.is_masked(root, path))
        .map(|(root, path)| below(root, &path))
        .collect()
}

/// What is read-only, likewise.
pub(super) fn read_only(furnish: &Furnish) -> Vec<PathBuf> {
    let paths = READ_ONLY_IN_PROC.iter().filter(|path| furnish.proc && furnish.is_masked("/proc", path));
    paths.map(|path| below("/proc", path)).collect()
}

fn below(root: &str, path: &CStr) -> PathBuf {
    Path::new(root).join(path.to_string_lossy().as_ref())
}

/// Intel's processors have them where they are not virtual: all or none.
fn thermal_throttles() -> Vec<CString> {
    let of = |cpu: usize| format!("devices/system/cpu/cpu{cpu}/thermal_throttle");
    if !Path::new("/sys").join(of(0)).exists() {
        return Vec::new();
    }
    (0..)
        .take_while(|cpu| Path::new(&format!("/sys/devices/system/cpu/cpu{cpu}")).exists())
        .filter_map(|cpu| CString::new(of(cpu)).ok())
        .collect()
}
