//! The steps that furnish a tree and enter it.
//!
//! Everything that needs the host (file systems in a user namespace, where the kernel looks whether the host's own are hidden;
//! device nodes; bind mounts) is made first, detached. Then the overlay is attached over `/`, the detached mounts go to their
//! places inside, and `pivot_root` leaves the host behind.
//!
//! Sources: mount_namespaces(7), pivot_root(2).

use std::ffi::{CStr, CString};

use rustix::mount::MountAttrFlags;

use super::EnterError;
use super::cgroups::{self, Cgroups};
use super::dev::{Dev, push_dev, push_given_devices};
use super::furnish::{Access, Devices, Furnish};
use super::masks::push_masks;
use super::mounts::{Target, c_path, push_mounts};
use crate::cgroup::View;
use crate::command::StartPhase;
use crate::network::NetworkView;
use crate::script::{At, Script, Slot, Step};

/// What the surroundings are like when the tree is entered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// Device nodes can be made, and the program cannot make any others; otherwise the host's are used.
    pub(crate) may_make_devices: bool,
    /// Inside is a user namespace with no say over what the host's owns.
    pub(crate) user_namespace: bool,
    /// The pid namespace is new.
    pub(crate) private_pids: bool,
    /// The ipc namespace is new.
    pub(crate) private_ipc: bool,
    /// The image's tree refuses writes, and with it the files that are put into its `/etc`.
    pub(crate) read_only: bool,
    /// Whose network programs inside see.
    pub(crate) network: NetworkView,
    /// The name of the machine as programs inside will see it.
    pub(crate) hostname: &'a str,
    /// Those of the program, when it has some of its own.
    pub(crate) cgroups: Option<&'a View>,
}

pub(super) const NO_PROGRAMS: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Mounts that wait for their places.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    proc: Option<Slot>,
    sys: Option<Slot>,
    cgroups: Option<Cgroups>,
    dev: Option<Dev>,
    /// What directories are covered with, when something is to be covered.
    empty: Option<Slot>,
    /// In the order in which they are attached.
    targets: Vec<Target>,
}

/// The first half: in the host's tree.
pub(crate) fn push_prepare<'a>(
    script: &mut Script<'a>,
    furnish: &Furnish,
    around: &Surroundings<'_>,
) -> Result<Prepared, EnterError> {
    let mut prepared = Prepared::default();
    if furnish.proc {
        script.doing("furnish /proc");
        // A proc mount belongs to a pid namespace, and only its owner may make one.
        prepared.proc = Some(if around.user_namespace && !around.private_pids {
            host_tree(script, c"/proc")
        } else {
            script.new_mount(c"proc", vec![(c"source", c"proc".to_owned())], NO_PROGRAMS)
        });
    }
    if let Some(access) = furnish.sys {
        script.doing("furnish /sys");
        let mut attributes = NO_PROGRAMS;
        attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, access == Access::ReadOnly);
        // Likewise sysfs and the network namespace.
        prepared.sys = Some(if around.user_namespace && around.network != NetworkView::Host {
            let sys = script.slot();
            script.push(Step::MountSysfs { attributes, into: sys });
            sys
        } else if around.user_namespace {
            let sys = host_tree(script, c"/sys");
            if access == Access::ReadOnly {
                script.push(Step::SetReadOnly { mount: sys.into(), recursive: true });
            }
            sys
        } else {
            script.new_mount(c"sysfs", vec![(c"source", c"sysfs".to_owned())], attributes)
        });
        prepared.cgroups = around.cgroups.map(|view| cgroups::push_prepare(script, view, access));
    }
    if let Some(devices) = furnish.dev {
        let (dev, bound) = push_dev(script, devices, furnish, around)?;
        prepared.dev = Some(dev);
        prepared.targets = bound;
    } else {
        prepared.targets = push_given_devices(script, None, furnish, around, &mut Vec::new())?;
    }
    let mounts = push_mounts(script, furnish)?;
    // After the binds: one of `/` would show these files, which for the moment lie in it.
    push_files(script, furnish, around, &mut prepared)?;
    if !mounts.is_empty() {
        prepared.targets.extend(mounts);
        // As docker has it: what lies in another mount comes after that, in whatever order they were given.
        prepared.targets.sort_by_key(Target::depth);
    }
    Ok(prepared)
}

fn host_tree(script: &mut Script<'_>, path: &CStr) -> Slot {
    let tree = script.slot();
    script.push(Step::OpenTree { at: At::Cwd, path: path.to_owned(), recursive: true, into: tree });
    tree
}

/// Files for `/etc`, and a directory to cover others with, on a tmpfs that lies somewhere in the host's
/// tree until that goes.
fn push_files(
    script: &mut Script<'_>,
    furnish: &Furnish,
    around: &Surroundings<'_>,
    prepared: &mut Prepared,
) -> Result<(), EnterError> {
    let files = files(furnish, around)?;
    if !files.iter().any(|(on, ..)| *on) && !furnish.has_masks() {
        return Ok(());
    }
    script.doing("furnish /etc");
    let options = vec![(c"source", c"etc".to_owned()), (c"mode", c"0755".to_owned()), (c"size", c"1m".to_owned())];
    let tmpfs = script.new_mount(c"tmpfs", options, NO_PROGRAMS);
    // Before Linux 6.15 a part of a mount can be taken only when that is attached.
    script.push(Step::PutAside { mount: tmpfs.into() });
    for (on, name, place, contents) in files {
        if on {
            let file = script.slot();
            script.push(Step::MakeFile { at: tmpfs.into(), path: name.to_owned(), contents });
            script.push(Step::OpenTree { at: tmpfs.into(), path: name.to_owned(), recursive: false, into: file });
            if around.read_only {
                script.push(Step::SetReadOnly { mount: file.into(), recursive: false });
            }
            prepared.targets.push(Target::file(file, place.to_owned()));
        }
    }
    if furnish.has_masks() {
        let empty = script.slot();
        script.push(Step::MakeDirectory { at: tmpfs.into(), path: c"empty".to_owned(), mode: 0o755 });
        let path = c"empty".to_owned();
        script.push(Step::OpenTree { at: tmpfs.into(), path, recursive: false, into: empty });
        script.push(Step::SetReadOnly { mount: empty.into(), recursive: false });
        // For the same reason.
        script.push(Step::PutAside { mount: empty.into() });
        prepared.empty = Some(empty);
    }
    Ok(())
}

/// Whether it is given, name, place, contents.
pub(super) type EtcFile = (bool, &'static CStr, &'static CStr, Vec<u8>);

/// What `/etc` is given.
pub(super) fn files(furnish: &Furnish, around: &Surroundings<'_>) -> Result<[EtcFile; 3], EnterError> {
    let hostname = around.hostname;
    let names = &furnish.names;
    names.check()?;
    let hosts_of_host = furnish.hosts && around.network == NetworkView::Host;
    let read_if = |wanted: bool, path| if wanted { read(path) } else { Vec::new() };
    let hosts = names.hosts(&read_if(hosts_of_host, "/etc/hosts"), hostname, around.network);
    let resolv_conf = names.resolv_conf(read_if(furnish.resolv_conf, "/etc/resolv.conf"), around.network);
    Ok([
        (furnish.hostname, c"hostname", c"/etc/hostname", format!("{hostname}\n").into_bytes()),
        (furnish.hosts, c"hosts", c"/etc/hosts", hosts),
        (furnish.resolv_conf, c"resolv.conf", c"/etc/resolv.conf", resolv_conf),
    ])
}

/// A file of the host that may be missing; up to 256 KiB of it.
fn read(path: &str) -> Vec<u8> {
    use std::io::Read as _;
    // Most are read in two calls then.
    let mut contents = Vec::with_capacity(4096);
    if let Ok(file) = std::fs::File::open(path) {
        // What cannot be read is as good as missing.
        let _ = file.take(256 << 10).read_to_end(&mut contents);
    }
    contents
}

/// The second half: the overlay over `/`, everything in its place, and through.
pub(crate) fn push_enter<'a>(
    script: &mut Script<'a>,
    root: At<'a>,
    furnish: &Furnish,
    prepared: Prepared,
    read_only: bool,
) {
    script.doing("attach the image's tree");
    script.mount_over_root(root);
    let Prepared { proc, sys, cgroups, dev, empty, targets } = prepared;
    script.doing("furnish /proc");
    if let Some(proc) = proc {
        push_place(script, root, c"proc", proc);
    }
    script.doing("furnish /sys");
    if let Some(sys) = sys {
        push_place(script, root, c"sys", sys);
        if let Some(cgroups) = cgroups {
            cgroups::push_place(script, sys, cgroups);
        }
    }
    script.doing("furnish /dev");
    if let Some(dev) = dev {
        push_place(script, root, c"dev", dev.tmpfs());
        dev.push_parts(script);
    }
    if let Some(empty) = empty {
        push_masks(script, furnish, proc, sys, empty);
    }
    script.doing("make a directory in the image");
    for directory in &furnish.directories {
        // From an image's config: with a zero byte in it, it is nowhere.
        script.push(Step::MakeDirectories { root, path: c_path(directory).unwrap_or_default() });
    }
    targets.iter().for_each(|target| target.push_contents(script, root));
    for target in targets {
        target.push(script, root);
    }
    if read_only {
        script.doing("make the image's tree read-only");
        script.push(Step::SetReadOnly { mount: root, recursive: false });
    }
    if furnish.dev != Some(Devices::Host) {
        // What the image, or an upper, brings along is no way to the host's disks.
        script.doing("make devices of the image's tree useless");
        script.push(Step::Restrict { mount: root, attributes: MountAttrFlags::MOUNT_ATTR_NODEV, recursive: false });
    }
    script.push(Step::Mark(StartPhase::Furnish));
    script.doing("enter the image");
    script.push(Step::Enter { root });
}

/// Where a link or a file in place of the directory is refused: it would lead the mount elsewhere.
fn push_place<'a>(script: &mut Script<'a>, root: At<'a>, name: &'static CStr, mount: Slot) {
    let place = script.slot();
    script.push(Step::OpenPlace { at: root, path: name.to_owned(), into: place });
    script.push(Step::MoveMount { from: mount.into(), to: place.into(), path: CString::default() });
    script.push(Step::Close(place));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn furnishing_prints_what_it_does() {
        let furnish = Furnish::none().proc(true).bind("/srv", "/data", Access::ReadOnly);
        assert_eq!(
            furnish.to_string(),
            "/proc            proc\n/proc, /sys      parts covered or read-only\n/data            bind of /srv, read-only\n"
        );
    }
}
