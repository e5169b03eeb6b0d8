//! Steps as `strace` would print them.

use std::ffi::CStr;
use std::fmt;

use super::{At, LayerArgument, Step};

impl Step<'_> {
    /// The name of the system call.
    pub(super) fn call(&self) -> &'static str {
        match self {
            Self::Unshare(_) => "unshare",
            Self::JoinNetwork { .. } => "setns",
            Self::BringLoopbackUp => "ioctl",
            Self::MountSysfs { .. } => "fsmount",
            Self::WriteProc { .. } | Self::MakeFile { .. } => "write",
            Self::MakePrivate | Self::MountJoined { .. } => "mount",
            Self::FsOpen { .. } => "fsopen",
            Self::FsFlag { .. }
            | Self::FsString { .. }
            | Self::FsFd { .. }
            | Self::FsPath { .. }
            | Self::FsCreate { .. } => "fsconfig",
            Self::FsMount { .. } => "fsmount",
            Self::MoveMount { .. } | Self::PutAside { .. } => "move_mount",
            Self::OpenTree { .. } => "open_tree",
            Self::SetReadOnly { .. } | Self::Restrict { .. } => "mount_setattr",
            Self::TakeMode { .. } | Self::SetMode { .. } => "fchmodat",
            Self::CopyTree { .. } => "copy",
            Self::OpenDirectory { .. } | Self::OpenTarget { .. } => "openat2",
            Self::OpenPlace { .. } => "openat2, or mkdirat",
            Self::Reopen { .. } => "openat",
            Self::MakeDirectory { .. } | Self::MakeDirectories { .. } => "mkdirat",
            Self::RemoveDirectory { .. } => "unlinkat",
            Self::MakeSymlink { .. } => "symlinkat",
            Self::MakeCharacterDevice { .. } | Self::MakeDevice { .. } => "mknodat",
            Self::Cover { .. } => "move_mount",
            Self::Protect { .. } => "mount_setattr",
            Self::SetAttributes { .. } => "fchmod",
            Self::SetHostname(_) => "sethostname",
            Self::Enter { .. } => "pivot_root",
            Self::Close(_) => "close",
            Self::Mark(_) => "clock_gettime",
        }
    }
}

/// The arguments.
impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unshare(flags) => write!(f, "{flags:?}"),
            Self::JoinNetwork { namespace } => write!(f, "{namespace}, CLONE_NEWNET"),
            Self::BringLoopbackUp => f.write_str("SIOCSIFFLAGS, \"lo\", IFF_UP"),
            Self::MountSysfs { .. } => f.write_str("\"sysfs\""),
            Self::WriteProc { path, contents } => write!(f, "{}, {:?}", Quoted(path), contents),
            Self::MakePrivate => f.write_str("\"/\", MS_REC|MS_PRIVATE"),
            Self::FsOpen { fs, .. } => write!(f, "{}", Quoted(fs)),
            Self::FsFlag { key, .. } => write!(f, "FSCONFIG_SET_FLAG, {}", Quoted(key)),
            Self::FsString { key, value, .. } => write!(f, "FSCONFIG_SET_STRING, {}, {}", Quoted(key), Quoted(value)),
            Self::FsFd { key, fd, .. } => write!(f, "FSCONFIG_SET_FD, {}, {fd}", Quoted(key)),
            Self::FsPath { key, layer, .. } => write!(f, "FSCONFIG_SET_STRING, {}, {layer}", Quoted(key)),
            Self::FsCreate { .. } => f.write_str("FSCONFIG_CMD_CREATE"),
            Self::FsMount { attributes, .. } => write!(f, "{attributes:?}"),
            Self::MountJoined { lowers, options, .. } => {
                write!(f, "\"overlay\", \"/\", {} lower directories, {}", lowers.len(), Quoted(options))
            }
            Self::PutAside { .. } => f.write_str("mount, AT_FDCWD, \"/\""),
            Self::MoveMount { path, to, .. } => write!(f, "mount, {to}, {}", Quoted(path)),
            Self::OpenTree { at, path, recursive, .. } => {
                write!(f, "{at}, {}, OPEN_TREE_CLONE{}", Quoted(path), if *recursive { "|AT_RECURSIVE" } else { "" })
            }
            Self::SetReadOnly { mount, .. } => write!(f, "{mount}, MOUNT_ATTR_RDONLY"),
            Self::Restrict { mount, attributes, .. } => write!(f, "{mount}, {attributes:?}"),
            Self::MakeDirectories { path, .. } => write!(f, "{}, 0755", Quoted(path)),
            Self::TakeMode { path, .. } | Self::CopyTree { path, .. } => write!(f, "{}", Quoted(path)),
            Self::SetMode { directory, mode } => write!(f, "{directory}, 0{mode:o}"),
            Self::OpenPlace { path, .. } => {
                write!(f, "{}, O_DIRECTORY, RESOLVE_NO_SYMLINKS, made 0755 if missing", Quoted(path))
            }
            Self::OpenDirectory { path, .. } => write!(f, "{}, O_DIRECTORY, RESOLVE_NO_SYMLINKS", Quoted(path)),
            Self::Reopen { path, .. } => write!(f, "AT_FDCWD, {}, O_PATH|O_DIRECTORY", Quoted(path)),
            Self::OpenTarget { path, kind, .. } => write!(f, "{}, {kind:?}, RESOLVE_IN_ROOT", Quoted(path)),
            Self::MakeDirectory { path, mode, .. } => write!(f, "{}, 0{mode:o}", Quoted(path)),
            Self::RemoveDirectory { path, .. } => write!(f, "{}, AT_REMOVEDIR", Quoted(path)),
            Self::MakeSymlink { target, path, .. } => write!(f, "{}, {}", Quoted(target), Quoted(path)),
            Self::MakeCharacterDevice { path, major, minor, .. } => {
                write!(f, "{}, S_IFCHR, makedev({major}, {minor})", Quoted(path))
            }
            Self::MakeDevice { path, device, .. } => {
                write!(f, "{}, 0{:o}, {:#x}", Quoted(path), device.mode, device.rdev)
            }
            Self::Cover { path, .. } => write!(f, "mount, {}", Quoted(path)),
            Self::Protect { path, .. } => write!(f, "{}, MOUNT_ATTR_RDONLY", Quoted(path)),
            Self::MakeFile { path, contents, .. } => write!(f, "{}, {} bytes", Quoted(path), contents.len()),
            Self::SetAttributes { attributes, .. } => write!(f, "the root directory, {attributes:?}"),
            Self::SetHostname(name) => write!(f, "{}", Quoted(name)),
            Self::Enter { .. } => f.write_str("\".\", \".\""),
            Self::Close(_) | Self::Mark(_) => Ok(()),
        }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cwd => f.write_str("AT_FDCWD"),
            Self::Slot(slot) => write!(f, "fd:{}", slot.0),
            Self::Fd(fd) => {
                use std::os::fd::AsRawFd;
                let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default();
                write!(f, "{}<{}>", fd.as_raw_fd(), path.display())
            }
        }
    }
}

impl fmt::Display for LayerArgument<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}", Quoted(path)),
            None => write!(f, "/proc/self/fd/{}", self.at),
        }
    }
}

/// A C string in quotation marks, with everything odd escaped.
struct Quoted<'a>(&'a CStr);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.to_bytes().escape_ascii())
    }
}
