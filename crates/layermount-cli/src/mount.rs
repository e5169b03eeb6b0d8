//! `layermount mount` and `layermount umount`: an image's tree at a directory, for everybody to see, or for one command.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use layermount::{ErrorKind, Overlay, Upper, UserNamespace};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::args::{Global, MountArgs, UmountArgs};
use crate::failure::{Failure, Kind, Result};
use crate::report::{Phase, Report};
use crate::session::{Session, store_path};
use crate::start::ExitCode;
use crate::users::Entrance;

pub(crate) fn mount(args: &MountArgs, global: &Global) -> Result<ExitCode> {
    if let Some(directory) = &args.dir {
        check_directory(directory)?;
    }
    if args.writable && Upper::default().needs_disk() {
        let message = "this kernel's tmpfs cannot hold all changes of an ordinary user (Linux 6.6 can)";
        return Err(Failure::new(ErrorKind::Unsupported, message).with_hint("keep them in a directory: --upper DIR"));
    }
    if args.command.is_empty() && UserNamespace::is_needed() {
        return Err(unseen(args));
    }
    // Inside, this is root, who has another one.
    let store = store_path(global)?;
    let inside = Entrance::begin(None)?.enter()?;
    if !args.command.is_empty() {
        // Before the store is opened: overlayfs takes layers of its own namespace only.
        leave_mount_namespace()?;
    }
    let mut session = Session::open_at(store, global)?.durable(args.making.durable).inside(inside);
    let image = session.resolve(&args.image, &args.choice)?;
    let stack = session.realize(&image, &args.image, &args.choice, &args.making)?.stack;
    let since = Instant::now();
    let upper = match &args.upper {
        Some(directory) => Upper::Persistent(directory.clone()),
        None if args.writable => Upper::default(),
        None => Upper::ReadOnly,
    };
    let directory = match &args.dir {
        Some(directory) => directory.clone(),
        None => session.store.mount_point()?,
    };
    Overlay::new(stack).upper(upper).mount()?.attach(&directory)?;
    session.report.phase(Phase::Mount, since, || format!("attached to {}", directory.display()));
    match args.command.split_first() {
        None => Ok(ExitCode::SUCCESS),
        Some((program, arguments)) => Err(become_program(program, arguments, &directory)),
    }
}

/// Nobody but the processes of a user namespace sees its mounts.
fn unseen(args: &MountArgs) -> Failure {
    let failure = Failure::new(ErrorKind::PermissionDenied, "only root can mount an image for everybody to see");
    let image = &args.image;
    failure.with_hint(format!(
        "to mount it for one command: layermount mount {image} -- sh -c 'ls $LAYERMOUNT_ROOT'; or run as root"
    ))
}

/// What is mounted from now on is gone with this process and those that it starts.
pub(crate) fn leave_mount_namespace() -> Result<()> {
    let failed = |errno| Failure::io("cannot make a private mount namespace", errno);
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
    let none: Option<&str> = None;
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(failed)
}

fn become_program(program: &OsStr, arguments: &[OsString], root: &Path) -> Failure {
    let error = std::process::Command::new(program).args(arguments).env("LAYERMOUNT_ROOT", root).exec();
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::ProgramNotFound,
        _ => ErrorKind::ProgramNotExecutable,
    };
    Failure { kind: Kind::Library(kind), ..Failure::io(format!("cannot run {}", program.to_string_lossy()), error) }
}

/// Before anything is unpacked for nothing.
fn check_directory(directory: &Path) -> Result<()> {
    let shown = directory.display();
    match std::fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Failure::new(ErrorKind::InvalidInput, format!("{shown} is not a directory"))),
        Err(error) => {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let failure = Failure::io(format!("cannot mount on {shown}"), error);
            Err(if missing { failure.with_hint(format!("make it first: mkdir -p {shown}")) } else { failure })
        }
    }
}

pub(crate) fn umount(args: &UmountArgs, global: &Global) -> Result<()> {
    let since = Instant::now();
    let shown = args.dir.display();
    let path =
        std::fs::canonicalize(&args.dir).map_err(|error| Failure::io(format!("cannot unmount {shown}"), error))?;
    let mounts =
        std::fs::read("/proc/self/mountinfo").map_err(|error| Failure::io("cannot read the mount table", error))?;
    // The last one lies on top of the others.
    let find =
        |path: &Path| mounts.split(|byte| *byte == b'\n').filter_map(Mounted::parse).rfind(|mount| mount.point == path);
    let in_bundle = path.join("rootfs");
    let (path, found) = match find(&path) {
        None if path.join("config.json").exists() => (in_bundle.clone(), find(&in_bundle)),
        found => (path, found),
    };
    match found {
        None => {
            return Err(Failure::new(ErrorKind::InvalidInput, format!("nothing is mounted on {shown}")));
        }
        Some(mount) if !mount.is_ours() => {
            let Mounted { kind, source, .. } = mount;
            let message = format!("{shown} was not mounted by layermount: it is {kind} of {source:?}");
            return Err(Failure::new(ErrorKind::InvalidInput, message).with_hint(format!("use umount {shown}")));
        }
        Some(_) => {}
    }
    umount2(&path, MntFlags::UMOUNT_NOFOLLOW).map_err(|errno| {
        let failure = Failure::io(format!("cannot unmount {shown}"), errno);
        match errno {
            Errno::EBUSY => Failure { kind: Kind::Library(ErrorKind::Busy), ..failure }
                .with_hint(format!("a process works in it or has a file of it open; `fuser -vm {shown}` names it")),
            Errno::EPERM => failure.with_hint("only root can unmount what root has mounted"),
            _ => failure,
        }
    })?;
    Report::new(global).phase(Phase::End, since, || format!("{shown} is unmounted"));
    Ok(())
}

/// A line of proc_pid_mountinfo(5).
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    point: PathBuf,
    kind: String,
    source: String,
}

impl Mounted {
    fn parse(line: &[u8]) -> Option<Self> {
        // "36 35 98:0 /root /point options... - type source superoptions"
        let mut fields = line.split(|byte| *byte == b' ');
        let point = PathBuf::from(OsString::from_vec(unescape(fields.nth(4)?)));
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let mut text = || Some(String::from_utf8_lossy(&unescape(fields.next()?)).into_owned());
        Some(Self { point, kind: text()?, source: text()? })
    }

    fn is_ours(&self) -> bool {
        self.kind == "overlay" && self.source == "layermount"
    }
}

/// `\040` → a space: three octal digits behind a backslash.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_mount_table() {
        let line = br"70 45 0:39 / /a\040b/c ro,relatime shared:1 master:2 - overlay layermount rw,lowerdir+=/x";
        let mount = Mounted::parse(line).unwrap();
        assert_eq!(mount.point, Path::new("/a b/c"));
        assert!(mount.is_ours());
        assert!(!Mounted::parse(b"1 0 0:1 / /x rw - overlay overlay rw").unwrap().is_ours());
        assert!(!Mounted::parse(b"1 0 0:1 / /x rw - tmpfs layermount rw").unwrap().is_ours());
        for broken in [&b""[..], b"1 2 3", b"1 0 0:1 / /x rw", b"1 0 0:1 / /x rw -", b"1 0 0:1 / /x rw - overlay"] {
            assert_eq!(Mounted::parse(broken), None);
        }
        assert_eq!(unescape(br"\999\04\777a\"), br"\999\04\777a\");
    }
}
