//! From a mounted tree to being inside of it: [`RootMount::pivot`] → [`Entered`].

mod cgroups;
mod dev;
mod devices;
mod furnish;
mod masks;
mod mounts;
mod names;
pub(crate) mod runtime_spec;
pub(crate) mod steps;

pub use furnish::{Access, Devices, Furnish};
pub(crate) use mounts::Mount;
pub use mounts::{BindOptions, ImageVolumes, Tmpfs};

use std::borrow::BorrowMut;
use std::path::PathBuf;

use rustix::fs::Mode;
use rustix::thread::UnshareFlags;

use crate::command::{Command, StartPhase};
use crate::error::{Error, ErrorKind, Fault, Result, SyscallContext, SyscallError};
use crate::network::NetworkView;
use crate::overlay::RootMount;
use crate::script::{Script, Step};
use steps::{Surroundings, push_enter, push_prepare};

impl RootMount {
    /// Moves *this* process into the image: its mount namespace becomes private, the image's tree its root directory, `/` its
    /// working directory. Open descriptors stay as they are. A caller that may not mount also gets a user namespace, in
    /// which it is root.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::MultiThreaded`] when the process has more than one thread, because the kernel moves only the calling one, and
    /// [`ErrorKind::InvalidInput`] for a bind mount of something that does not exist: then nothing has happened.
    ///
    /// After other errors the process may be anywhere on the way: in namespaces of its own (as an unmapped user, when making the
    /// user namespace was what failed), with mounts lying over its root directory and another working directory. Nobody else sees
    /// any of it, but the process should say what the error is and end.
    pub fn pivot(self) -> Result<Entered> {
        self.pivot_with(&Furnish::default())
    }

    /// [`RootMount::pivot`], with a say in what is put around the tree.
    ///
    /// # Errors
    ///
    /// As for [`RootMount::pivot`].
    pub fn pivot_with(mut self, furnish: &Furnish) -> Result<Entered> {
        check_single_threaded()?;
        if !self.caller.may_mount {
            // There is no second try: where this process stands when mounting fails, it cannot come back from.
            self.kernel.fall_back(&self.caller);
        }
        let uname = rustix::system::uname();
        let user_namespace = self.caller.needs_user_namespace();
        let single_user = self.caller.ends_as_sole_user();
        let around = Surroundings {
            may_make_devices: self.caller.may_make_devices,
            user_namespace: self.caller.ends_in_user_namespace(),
            private_pids: false,
            private_ipc: false,
            read_only: self.is_read_only(),
            network: NetworkView::Host,
            hostname: &uname.nodename().to_string_lossy(),
            cgroups: None,
        };
        let mut flags = UnshareFlags::NEWNS;
        flags.set(UnshareFlags::NEWUSER, user_namespace);
        let mut script = Script::new();
        script.doing("make a private mount namespace").push(Step::Unshare(flags));
        self.caller.push_id_maps(&mut script);
        self.push_into(&mut script, furnish, &around)?;
        // Mount points are made for everybody, whatever this process keeps from others. It has one thread, so nobody else notices.
        let umask = rustix::process::umask(Mode::from_raw_mode(0o022));
        let entered = script.run_here();
        rustix::process::umask(umask);
        entered?;
        // The locks go with `self`: from now on the mounts of this process tell what it uses.
        Ok(Entered { single_user })
    }

    /// Everything from a fresh mount namespace, in the user namespace that it is for, to the new root.
    pub(crate) fn push_into<'a>(
        &'a self,
        script: &mut Script<'a>,
        furnish: &Furnish,
        around: &Surroundings<'_>,
    ) -> Result<()> {
        script.doing("make the mount namespace private").push(Step::MakePrivate);
        let prepared = push_prepare(script, furnish, around)?;
        script.push(Step::Mark(StartPhase::Furnish));
        let root = self.push_mount(script)?;
        script.push(Step::Mark(StartPhase::Mount));
        push_enter(script, root, furnish, prepared, self.is_read_only());
        script.push(Step::Mark(StartPhase::Enter));
        Ok(())
    }
}

/// Proof that this process is inside the image. It may go on with its work, or become a program of the image.
#[derive(Debug)]
pub struct Entered {
    /// In a user namespace with a single user. Known from before: what the image's `/proc` says, the image may have made up.
    single_user: bool,
}

impl Entered {
    /// Becomes the program, in this very process: same pid, same parent. Descriptors from 3 up are closed except those that
    /// were given to [`Command::preserve_fd`]. Returns only when that failed; user, working directory and flags of descriptors
    /// may have been changed then.
    ///
    /// What belongs to entering (namespaces, hostname, furnishing, bind mounts) cannot be had any more: a command that
    /// asks for it is refused.
    pub fn exec(self, mut command: impl BorrowMut<Command>) -> Error {
        command.borrow_mut().exec_here(self.single_user)
    }
}

/// Namespaces that the kernel lets only a process with one thread leave.
pub(crate) fn check_single_threaded() -> Result<()> {
    match threads().map_err(EnterError::Threads)? {
        1 => Ok(()),
        threads => Err(EnterError::MultiThreaded { threads }.into()),
    }
}

/// How many threads this process has.
///
/// `pthread_join(3)` returns when a thread has let go of its memory, and a moment later the kernel takes it off the list: those
/// that [`Store::realize`](crate::Store::realize) has used may still be there.
fn threads() -> Result<usize, SyscallError> {
    const PATIENCE: usize = 20;
    let count = || -> Result<usize, SyscallError> {
        let tasks = std::fs::read_dir("/proc/self/task").syscall("open", || "/proc/self/task".to_owned())?;
        Ok(tasks.count())
    };
    for _ in 0..PATIENCE {
        if count()? == 1 {
            return Ok(1);
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    count()
}

/// An image that cannot be entered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnterError {
    #[error("this process has {threads} threads, and only a process with one can move into other namespaces")]
    MultiThreaded { threads: usize },
    #[error("cannot count the threads of this process")]
    Threads(#[source] SyscallError),
    #[error("{path:?} cannot be bound: it has a zero byte")]
    BindPath { path: PathBuf },
    #[error("{text:?} cannot stand in {file}")]
    Name { text: String, file: &'static str },
    #[error("cannot bind {}", path.display())]
    BindSource {
        path: PathBuf,
        #[source]
        cause: SyscallError,
    },
    #[error("duplicate mount point: {}", path.display())]
    Duplicate { path: PathBuf },
    #[error("cannot find the device {}", path.display())]
    DeviceSource {
        path: PathBuf,
        #[source]
        cause: SyscallError,
    },
    #[error("{} is not a device, nor a directory with devices", path.display())]
    NoDevice { path: PathBuf },
    #[error("{} cannot be made for the device {}: /dev has something else there", inside.display(), host.display())]
    DevicePlace { host: PathBuf, inside: PathBuf },
}

impl Fault for EnterError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::MultiThreaded { .. } => ErrorKind::MultiThreaded,
            Self::Threads(cause) => cause.kind(),
            Self::BindPath { .. }
            | Self::Duplicate { .. }
            | Self::NoDevice { .. }
            | Self::DevicePlace { .. }
            | Self::Name { .. } => ErrorKind::InvalidInput,
            Self::BindSource { cause, .. } | Self::DeviceSource { cause, .. }
                if cause.errno() == rustix::io::Errno::NOENT =>
            {
                ErrorKind::InvalidInput
            }
            Self::BindSource { cause, .. } | Self::DeviceSource { cause, .. } => cause.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::MultiThreaded { .. } => "move before threads are started, or spawn a child".to_owned(),
            Self::Threads(_) => "/proc must be mounted".to_owned(),
            Self::BindSource { .. } => "the directory or file must exist on the host".to_owned(),
            Self::Duplicate { .. } => "mount one of them elsewhere".to_owned(),
            Self::Name { .. } => "it must be printable, without white space and #".to_owned(),
            Self::BindPath { .. } | Self::DeviceSource { .. } | Self::NoDevice { .. } | Self::DevicePlace { .. } => {
                return None;
            }
        })
    }
}
