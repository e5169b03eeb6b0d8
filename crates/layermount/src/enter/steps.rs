//! The steps that furnish a tree and enter it.
//!
//! Everything that needs the host (file systems in a user namespace, where the kernel looks whether the host's own are hidden;
//! device nodes; bind mounts) is made first, detached. Then the overlay is attached over `/`, the detached mounts go to their
//! places inside, and `pivot_root` leaves the host behind.
//!
//! Sources: mount_namespaces(7), pivot_root(2), and for /dev the OCI runtime specification, `config-linux.md`, "Default
//! Devices".

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::MountAttrFlags;

use super::EnterError;
use super::devices::{HostDevice, host_devices};
use super::furnish::{Access, Bind, Devices, Furnish};
use super::masks::push_masks;
use crate::error::SyscallContext;
use crate::overlay::steps::number;
use crate::script::{At, Script, Slot, Step, TargetKind};

/// What the surroundings are like when the tree is entered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// Device nodes can be made; otherwise the host's are used.
    pub(crate) may_make_devices: bool,
    /// Inside is a user namespace with no say over what the host's owns.
    pub(crate) user_namespace: bool,
    /// The pid namespace is new.
    pub(crate) private_pids: bool,
    /// The ipc namespace is new.
    pub(crate) private_ipc: bool,
    /// The image's tree refuses writes, and with it the files that are put into its `/etc`.
    pub(crate) read_only: bool,
    /// The name of the machine as programs inside will see it.
    pub(crate) hostname: &'a str,
}

const DEVICES: [(&CStr, &CStr, u32, u32); 6] = [
    (c"null", c"/dev/null", 1, 3),
    (c"zero", c"/dev/zero", 1, 5),
    (c"full", c"/dev/full", 1, 7),
    (c"random", c"/dev/random", 1, 8),
    (c"urandom", c"/dev/urandom", 1, 9),
    (c"tty", c"/dev/tty", 5, 0),
];

const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"pts/ptmx", c"ptmx"),
];

const NO_PROGRAMS: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Mounts that wait for their places.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    proc: Option<Slot>,
    sys: Option<Slot>,
    dev: Option<Dev>,
    /// What directories are covered with, when something is to be covered.
    empty: Option<Slot>,
    /// In order: mount, place, what the place must be.
    targets: Vec<(Slot, CString, TargetKind)>,
}

#[derive(Debug)]
struct Dev {
    tmpfs: Slot,
    pts: Slot,
    shm: Slot,
    mqueue: Option<Slot>,
    /// The host's nodes and their paths, where none may be made.
    nodes: Vec<(Slot, CString)>,
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
        // Likewise sysfs and the network namespace, which is the host's.
        prepared.sys = Some(if around.user_namespace {
            let sys = host_tree(script, c"/sys");
            if access == Access::ReadOnly {
                script.push(Step::SetReadOnly { mount: sys.into(), recursive: true });
            }
            sys
        } else {
            let mut attributes = NO_PROGRAMS;
            attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, access == Access::ReadOnly);
            script.new_mount(c"sysfs", vec![(c"source", c"sysfs".to_owned())], attributes)
        });
    }
    if let Some(devices) = furnish.dev {
        prepared.dev = Some(push_dev(script, devices, around));
    }
    script.doing("bind a directory or file of the host");
    let binds = furnish.binds.iter().map(|bind| push_bind(script, bind)).collect::<Result<Vec<_>, _>>()?;
    // After the binds: one of `/` would show these files, which for the moment lie in it.
    push_files(script, furnish, around, &mut prepared);
    prepared.targets.extend(binds);
    Ok(prepared)
}

fn host_tree(script: &mut Script<'_>, path: &CStr) -> Slot {
    let tree = script.slot();
    script.push(Step::OpenTree { at: At::Cwd, path: path.to_owned(), recursive: true, into: tree });
    tree
}

fn push_dev(script: &mut Script<'_>, devices: Devices, around: &Surroundings<'_>) -> Dev {
    script.doing("furnish /dev");
    let option = |key: &'static CStr, value: &CStr| (key, value.to_owned());
    let options = vec![option(c"source", c"dev"), option(c"mode", c"0755"), option(c"size", c"65536k")];
    let tmpfs = script.new_mount(c"tmpfs", options, MountAttrFlags::MOUNT_ATTR_NOSUID);
    let mut nodes = Vec::new();
    for (name, host, major, minor) in DEVICES {
        if around.may_make_devices {
            script.push(Step::MakeCharacterDevice { at: tmpfs.into(), path: name, major, minor });
        } else {
            nodes.push((host_node(script, tmpfs, name, host), name.to_owned()));
        }
    }
    if devices == Devices::Host {
        push_host_devices(script, tmpfs, around, &mut nodes);
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
    let options = vec![option(c"source", c"shm"), option(c"mode", c"1777"), (c"size", number(64 << 20))];
    let shm = script.new_mount(c"tmpfs", options, NO_PROGRAMS);
    // Owned by the ipc namespace; see /proc above.
    let mqueue = (!around.user_namespace || around.private_ipc)
        .then(|| script.new_mount(c"mqueue", vec![option(c"source", c"mqueue")], NO_PROGRAMS));
    for name in [c"pts", c"shm", c"mqueue"] {
        script.push(Step::MakeDirectory { at: tmpfs.into(), path: name.to_owned(), mode: 0o755 });
    }
    Dev { tmpfs, pts, shm, mqueue, nodes }
}

/// A copy of a node of the host, and a file that it is going to lie on.
fn host_node(script: &mut Script<'_>, tmpfs: Slot, name: &CStr, host: &CStr) -> Slot {
    script.push(Step::MakeFile { at: tmpfs.into(), path: name.to_owned(), contents: Vec::new() });
    let node = script.slot();
    script.push(Step::OpenTree { at: At::Cwd, path: host.to_owned(), recursive: false, into: node });
    node
}

/// All devices but those that are there already.
fn push_host_devices(
    script: &mut Script<'_>,
    tmpfs: Slot,
    around: &Surroundings<'_>,
    nodes: &mut Vec<(Slot, CString)>,
) {
    let mut known = DEVICES.map(|(name, ..)| name).to_vec();
    known.extend(LINKS.map(|(_, name)| name));
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

/// Files for `/etc`, and a directory to cover others with, on a tmpfs that lies somewhere in the host's
/// tree until that goes.
fn push_files(script: &mut Script<'_>, furnish: &Furnish, around: &Surroundings<'_>, prepared: &mut Prepared) {
    let files = files(furnish, around.hostname);
    if !files.iter().any(|(on, ..)| *on) && !furnish.has_masks() {
        return;
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
            prepared.targets.push((file, place.to_owned(), TargetKind::File));
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
}

/// What `/etc` is given: whether it is, name, place, contents.
pub(super) fn files(furnish: &Furnish, hostname: &str) -> [(bool, &'static CStr, &'static CStr, Vec<u8>); 3] {
    let read_if = |wanted: bool, path| if wanted { read(path) } else { Vec::new() };
    [
        (furnish.hostname, c"hostname", c"/etc/hostname", format!("{hostname}\n").into_bytes()),
        (furnish.hosts, c"hosts", c"/etc/hosts", hosts(&read_if(furnish.hosts, "/etc/hosts"), hostname)),
        (furnish.resolv_conf, c"resolv.conf", c"/etc/resolv.conf", read_if(furnish.resolv_conf, "/etc/resolv.conf")),
    ]
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

/// The host's names go on working, because the network is the host's; and the machine knows its own.
fn hosts(host: &[u8], hostname: &str) -> Vec<u8> {
    let host = String::from_utf8_lossy(host);
    let mut text = if host.trim().is_empty() {
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned()
    } else {
        host.into_owned()
    };
    let known = text.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_whitespace().skip(1).any(|name| name == hostname)
    });
    if !known && !hostname.is_empty() {
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!("127.0.1.1\t{hostname}\n"));
    }
    text.into_bytes()
}

/// The source is taken now, so that nobody can exchange it later.
fn push_bind<'a>(script: &mut Script<'a>, bind: &Bind) -> Result<(Slot, CString, TargetKind), EnterError> {
    let Bind { host, inside, access } = bind;
    let path = |path: &Path| {
        CString::new(path.as_os_str().as_bytes()).map_err(|_| EnterError::BindPath { path: path.to_owned() })
    };
    let (host_path, inside_path) = (path(host)?, path(inside)?);
    let source = rustix::fs::open(host_path.as_c_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .and_then(rustix::fs::fstat)
        .syscall("open", || format!("{}, O_PATH", host.display()))
        .map_err(|cause| EnterError::BindSource { path: host.clone(), cause })?;
    let kind = match FileType::from_raw_mode(source.st_mode) {
        FileType::Directory => TargetKind::Directory,
        _ => TargetKind::File,
    };
    let tree = script.slot();
    script.push(Step::OpenTree { at: At::Cwd, path: host_path, recursive: true, into: tree });
    if *access == Access::ReadOnly {
        script.push(Step::SetReadOnly { mount: tree.into(), recursive: true });
    }
    Ok((tree, inside_path, kind))
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
    let Prepared { proc, sys, dev, empty, targets } = prepared;
    script.doing("furnish /proc");
    if let Some(proc) = proc {
        push_place(script, root, c"proc", proc);
    }
    script.doing("furnish /sys");
    if let Some(sys) = sys {
        push_place(script, root, c"sys", sys);
    }
    script.doing("furnish /dev");
    if let Some(dev) = dev {
        push_place(script, root, c"dev", dev.tmpfs);
        let mounts = [(Some(dev.pts), c"pts"), (Some(dev.shm), c"shm"), (dev.mqueue, c"mqueue")];
        let mounts = mounts.into_iter().filter_map(|(mount, name)| Some((mount?, name)));
        for (mount, path) in mounts.map(|(mount, name)| (mount, name.to_owned())).chain(dev.nodes) {
            script.push(Step::MoveMount { from: mount.into(), to: dev.tmpfs.into(), path });
        }
    }
    if let Some(empty) = empty {
        push_masks(script, furnish, proc, sys, empty);
    }
    script.doing("mount a file or directory in the image");
    for (mount, path, kind) in targets {
        let target = script.slot();
        script.push(Step::OpenTarget { root, path, kind, into: target });
        script.push(Step::MoveMount { from: mount.into(), to: target.into(), path: CString::default() });
        script.push(Step::Close(target));
    }
    if read_only {
        script.doing("make the image's tree read-only");
        script.push(Step::SetReadOnly { mount: root, recursive: false });
    }
    if furnish.dev != Some(Devices::Host) {
        // What the image, or an upper, brings along is no way to the host's disks.
        script.doing("make devices of the image's tree useless");
        script.push(Step::SetNoDevices { mount: root });
    }
    script.doing("enter the image");
    script.push(Step::Enter { root });
}

/// Where a link or a file in place of the directory is refused: it would lead the mount elsewhere.
fn push_place<'a>(script: &mut Script<'a>, root: At<'a>, name: &'static CStr, mount: Slot) {
    let place = script.slot();
    script.push(Step::MakeDirectory { at: root, path: name.to_owned(), mode: 0o755 });
    script.push(Step::OpenDirectory { at: root, path: name.to_owned(), readable: false, into: place });
    script.push(Step::MoveMount { from: mount.into(), to: place.into(), path: CString::default() });
    script.push(Step::Close(place));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_know_the_hostname_once() {
        let text = |host: &str| String::from_utf8(hosts(host.as_bytes(), "abc")).unwrap();
        assert!(text("").contains("localhost") && text("").ends_with("127.0.1.1\tabc\n"));
        assert_eq!(text("1.2.3.4 abc"), "1.2.3.4 abc");
        assert_eq!(text("1.2.3.4 x # abc"), "1.2.3.4 x # abc\n127.0.1.1\tabc\n");
        assert_eq!(String::from_utf8(hosts(b"::1 l\n", "")).unwrap(), "::1 l\n");
    }

    #[test]
    fn furnishing_prints_what_it_does() {
        let furnish = Furnish::none().proc(true).bind("/srv", "/data", Access::ReadOnly);
        assert_eq!(furnish.to_string(), "/proc            proc\n/data            bind of /srv, read-only\n");
    }
}
