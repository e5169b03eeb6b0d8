//! System calls as data.
//!
//! What has to be done to mount an overlay, to furnish it and to enter it is first written down as a [`Script`]: a list of
//! [`Step`]s, each about one system call with its arguments ready. A script can be run in this process (`pivot`), or in
//! a cloned child of a threaded program (`spawn`), where nothing may be allocated. A step that fails comes back as a number and
//! an errno, and the script, which the parent still has, turns it into words.
//!
//! Descriptors that come into being while a script runs are named by [`Slot`]s.

mod apart;
mod copy;
mod display;
mod failure;
mod run;
mod target;

pub(crate) use apart::{Refused, run_in_child, run_in_private_namespace, try_in_child};
pub(crate) use failure::{Failure, ScriptError};
pub(crate) use run::{Files, set_attributes, write_all};
pub(crate) use target::{exists, make_directories, open_in_root};

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use rustix::mount::MountAttrFlags;
use rustix::thread::UnshareFlags;

use crate::command::StartPhase;
use crate::stack::RootAttributes;

/// A descriptor that a script opens for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(usize);

/// Where a step works.
#[derive(Debug, Clone, Copy)]
pub(crate) enum At<'a> {
    /// The working directory, for absolute paths.
    Cwd,
    /// A descriptor that an earlier step opened.
    Slot(Slot),
    /// A descriptor that was open before.
    Fd(BorrowedFd<'a>),
}

impl From<Slot> for At<'_> {
    fn from(slot: Slot) -> Self {
        Self::Slot(slot)
    }
}

/// How a directory is handed to overlayfs; see [`crate::kernel::LayersBy`].
#[derive(Debug, Clone)]
pub(crate) struct LayerArgument<'a> {
    pub(crate) at: At<'a>,
    /// The path, where it can stand in an option as it is; otherwise `/proc/self/fd/N` takes its place.
    pub(crate) path: Option<CString>,
    /// Where to open it again in the namespace that the overlay is mounted in: a descriptor belongs to a mount of the namespace
    /// in which it was opened, and overlayfs takes layers of its own namespace only (`EINVAL`).
    pub(crate) reopen: Option<CString>,
}

/// What a bind mount needs as its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetKind {
    Directory,
    File,
}

/// A device node of the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Device {
    /// With the type.
    pub(crate) mode: u32,
    pub(crate) rdev: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// About one system call each.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    Unshare(UnshareFlags),
    /// A descriptor of a network namespace, or of a process (pidfd) whose namespace is meant.
    JoinNetwork {
        namespace: At<'a>,
    },
    BringLoopbackUp,
    /// Writes to a file of this process below `/proc/self`.
    WriteProc {
        path: &'static CStr,
        contents: CString,
    },
    /// Ends the exchange of mounts with other namespaces, both ways.
    MakePrivate,
    FsOpen {
        fs: &'static CStr,
        into: Slot,
    },
    FsFlag {
        context: Slot,
        key: &'static CStr,
    },
    FsString {
        context: Slot,
        key: &'static CStr,
        value: CString,
    },
    FsFd {
        context: Slot,
        key: &'static CStr,
        fd: At<'a>,
    },
    FsPath {
        context: Slot,
        key: &'static CStr,
        layer: LayerArgument<'a>,
    },
    FsCreate {
        context: Slot,
    },
    FsMount {
        context: Slot,
        attributes: MountAttrFlags,
        into: Slot,
    },
    /// `mount(2)` over `/`, for kernels that cannot take layers one by one.
    MountJoined {
        lowers: Vec<LayerArgument<'a>>,
        upper: Option<[LayerArgument<'a>; 2]>,
        options: CString,
        into: Slot,
    },
    /// Attaches a detached mount at a path below `to`, or at `to` itself when the path is empty.
    MoveMount {
        from: At<'a>,
        to: At<'a>,
        path: CString,
    },
    /// Attaches a detached mount somewhere below the host's root, with which it goes. Nobody looks there any more.
    PutAside {
        mount: At<'a>,
    },
    /// A detached copy of a mount (or a part of one).
    OpenTree {
        at: At<'a>,
        path: CString,
        recursive: bool,
        into: Slot,
    },
    /// A new mount of sysfs for this thread's network namespace. Where the kernel refuses that because the host's hides something,
    /// as in other containers: a copy of the host's.
    MountSysfs {
        attributes: MountAttrFlags,
        into: Slot,
    },
    SetReadOnly {
        mount: At<'a>,
        recursive: bool,
    },
    /// Takes away what a mount allows: writing, device nodes, set-user-ID programs, programs.
    Restrict {
        mount: At<'a>,
        attributes: MountAttrFlags,
        recursive: bool,
    },
    /// Opens a directory that must be one, not a link to one, anywhere on the path.
    OpenDirectory {
        at: At<'a>,
        path: CString,
        readable: bool,
        into: Slot,
    },
    /// Opens a directory by path once more, and makes sure that it is still the same.
    Reopen {
        path: CString,
        same_as: At<'a>,
        into: Slot,
    },
    /// Finds the target of a bind mount inside `root`, links followed inside it, and makes it when it is missing.
    OpenTarget {
        root: At<'a>,
        path: CString,
        kind: TargetKind,
        into: Slot,
    },
    /// Makes a directory inside `root` and those above it, as far as they are missing. That something else is there is fine.
    MakeDirectories {
        root: At<'a>,
        path: CString,
    },
    /// Gives the root directory of a mount the mode of a directory inside `root`, if there is one.
    TakeMode {
        root: At<'a>,
        path: CString,
        mount: At<'a>,
    },
    /// The mode of an open directory.
    SetMode {
        directory: At<'a>,
        mode: u32,
    },
    /// Copies a directory inside `root`, if there is one, with all that is in it into the root directory of a mount.
    CopyTree {
        root: At<'a>,
        path: CString,
        into: Slot,
    },
    /// [`Step::OpenDirectory`] of one that is made (0755) where it is missing: nearly all images have it.
    OpenPlace {
        at: At<'a>,
        path: CString,
        into: Slot,
    },
    /// That it exists already is fine.
    MakeDirectory {
        at: At<'a>,
        path: CString,
        mode: u32,
    },
    RemoveDirectory {
        at: At<'a>,
        path: CString,
    },
    MakeSymlink {
        target: &'static CStr,
        at: At<'a>,
        path: &'static CStr,
    },
    MakeCharacterDevice {
        at: At<'a>,
        path: &'static CStr,
        major: u32,
        minor: u32,
    },
    MakeDevice {
        at: At<'a>,
        path: CString,
        device: Device,
    },
    MakeFile {
        at: At<'a>,
        path: CString,
        contents: Vec<u8>,
    },
    /// Hides what is at a path, if something is: a directory below a copy of the mount `empty`, anything else below the host's
    /// `/dev/null`, as long as that is the root directory's.
    Cover {
        at: At<'a>,
        path: CString,
        empty: At<'a>,
    },
    /// Makes what is at a path, if something is, and all that is mounted below it, read-only.
    Protect {
        at: At<'a>,
        path: CString,
    },
    SetAttributes {
        of: Slot,
        attributes: &'a RootAttributes,
        names: Vec<CString>,
        owner: bool,
    },
    SetHostname(CString),
    /// `fchdir`, `pivot_root(".", ".")`, the old root detached, `chdir("/")`, and a look whether `/` is what it should be.
    Enter {
        root: At<'a>,
    },
    Close(Slot),
    /// What has been done since the last mark was this, for whoever wants to know how long it took.
    Mark(StartPhase),
}

/// Steps in order, each with what it is part of.
#[derive(Debug, Default)]
pub(crate) struct Script<'a> {
    steps: Vec<(Step<'a>, &'static str)>,
    slots: usize,
    doing: &'static str,
}

impl<'a> Script<'a> {
    pub(crate) fn new() -> Self {
        // More than most have: growing would take as much memory again, all of it touched.
        const STEPS: usize = 256;
        Self { steps: Vec::with_capacity(STEPS), ..Self::default() }
    }

    /// Says what the steps that follow are for, as it stands in an error: `mount the overlay`.
    pub(crate) fn doing(&mut self, what: &'static str) -> &mut Self {
        self.doing = what;
        self
    }

    pub(crate) fn push(&mut self, step: Step<'a>) {
        self.steps.push((step, self.doing));
    }

    /// Names a descriptor to be.
    pub(crate) fn slot(&mut self) -> Slot {
        self.slots += 1;
        Slot(self.slots - 1)
    }

    /// Room for the descriptors, allocated before the script runs.
    pub(crate) fn files(&self) -> Files {
        Files::new(self.slots)
    }

    /// Runs in this process.
    pub(crate) fn run_here(&self) -> Result<Files, ScriptError> {
        let mut files = self.files();
        match self.run(&mut files) {
            Ok(()) => Ok(files),
            Err(failure) => Err(self.explain(&failure)),
        }
    }

    /// A new mount of a file system, detached: `fsopen`, options, `fsmount`.
    pub(crate) fn new_mount(
        &mut self,
        fs: &'static CStr,
        options: Vec<(&'static CStr, CString)>,
        attributes: MountAttrFlags,
    ) -> Slot {
        let (context, mount) = (self.slot(), self.slot());
        self.push(Step::FsOpen { fs, into: context });
        for (key, value) in options {
            self.push(Step::FsString { context, key, value });
        }
        self.push(Step::FsCreate { context });
        self.push(Step::FsMount { context, attributes, into: mount });
        self.push(Step::Close(context));
        mount
    }

    /// Attaches a detached mount over `/`. The caller's root directory stays below it and goes on being `/`.
    pub(crate) fn mount_over_root(&mut self, mount: At<'a>) {
        self.push(Step::MoveMount { from: mount, to: At::Cwd, path: c"/".to_owned() });
    }
}
