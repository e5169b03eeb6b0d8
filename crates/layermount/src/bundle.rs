//! [`Bundle`]: an image and a command in the form that OCI runtimes run.
//!
//! ```text
//! RootMount + Command --bundle--> Bundle --write--> DIR/config.json, DIR/rootfs (mounted), DIR/hostname, hosts, resolv.conf
//! ```
//!
//! | file | what |
//! |---|---|
//! | `config.rs` | `config.json` as data |
//! | `../command/runtime_spec.rs` | the command in it |
//! | `../enter/runtime_spec.rs` | mounts, devices and covered paths |
//! | `../seccomp/runtime_spec.rs` | system calls |

pub(crate) mod config;

pub(crate) use config::VERSION;

use std::borrow::Borrow;
use std::ffi::OsStr;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

use crate::command::runtime_spec::Specified;
use crate::command::{Command, Signal};
use crate::enter::runtime_spec::Furnished;
use crate::error::{ErrorKind, Fault, Result, SyscallContext, SyscallError};
use crate::overlay::RootMount;
use crate::script::{At, Script, run_in_child};

/// The image's tree in a bundle.
pub(crate) const ROOTFS: &str = "rootfs";

/// The files of `/etc`.
pub(crate) const FILES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

/// An OCI bundle that is not on the disk yet: `config.json` of the runtime specification 1.0.2, the files that belong to it, and the
/// tree.
///
/// ```no_run
/// # fn main() -> layermount::Result<()> {
/// # let image: layermount::Image = todo!();
/// # let root: layermount::RootMount = todo!();
/// use layermount::Command;
///
/// let bundle = root.bundle(Command::for_image(&image).args(["id"]))?;
/// println!("{}", bundle.config());
/// bundle.write("/run/app".as_ref())?; // then: runc run -b /run/app NAME
/// # Ok(())
/// # }
/// ```
///
/// What a runtime makes of it is what [`RootMount::spawn`] makes of the same command, with these exceptions, all of them the runtime's
/// own ways:
///
/// - `/dev/core` is there, and `/proc/kcore` behind it covered. Device nodes are always new ones, also for programs that could make
///   others: the devices cgroup says which can be opened. crun takes `nodev` off the image's tree, where that alone does so.
/// - Control groups are always made, and parents of them ([`Resources::parent`](crate::Resources::parent)) stay. Below a parent the group
///   has one name for all runs of the bundle, so that only one can run at a time. In a user namespace crun goes on without limits that it
///   cannot set. A limit of open files below what the runtime itself opens makes it fail.
/// - System calls that are newer than the list of a filter are refused by crun with `EPERM`; those of the x32 ABI end the program.
///   32-bit programs in images for 64 bits are refused all of `socketcall`, and not its making of sockets alone.
/// - runc before 1.2 gives a tmpfs the mode of the directory that the image has in its place, whatever [`Tmpfs::mode`](crate::Tmpfs::mode)
///   says.
/// - [`Command::terminal`] is a terminal of the runtime's, connected to the one that it is started at or to its `--console-socket`. The
///   signal of [`Command::stop_signal`] is an annotation. [`Command::die_with_parent`] is left out: it is up to whoever starts the runtime.
///
/// What is forbidden in a bind mount is so in all that is mounted below it (`rro`, `rnodev` and their like), which takes runc 1.1 or crun
/// 1.4. A volume in a read-only tree is a tmpfs with `tmpcopyup`, which both of them know.
#[derive(Debug)]
pub struct Bundle {
    config: config::Config,
    furnished: Furnished,
    stop_signal: Signal,
    root: RootMount,
}

impl RootMount {
    /// Makes a bundle of this tree and a command. Mount points are made in the tree, as they are for a program that is spawned.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PermissionDenied`] for a caller that may not mount where it is; [`ErrorKind::Unsupported`] for what a bundle
    /// cannot say: descriptors, sockets and streams that are handed over, a shared session keyring, [`Command::user_namespace`],
    /// [`Command::init`], the network of [`Network::pasta`](crate::Network::pasta), and texts that are not UTF-8; and what [`RootMount::spawn`] finds out before there is a child, a missing user or program among it.
    pub fn bundle(self, command: impl Borrow<Command>) -> Result<Bundle> {
        let command = command.borrow();
        let directory = self.directory().ok_or(BundleError::Unprivileged)?;
        let specified = command.runtime_spec(&self, directory)?;
        let mut script = Script::new();
        let at = At::Fd(directory);
        specified.furnished.push_places(&mut script, at);
        command.push_directory(&mut script, at, &specified.furnished)?;
        // In a child, for whom the mask of modes can be another one.
        run_in_child(&script, Mode::from_raw_mode(0o022))?;
        let Specified { config, furnished, stop_signal } = specified;
        Ok(Bundle { config, furnished, stop_signal, root: self })
    }
}

impl Bundle {
    /// The text of `config.json`. Paths without a slash at their beginning are relative to the bundle.
    pub fn config(&self) -> String {
        // Texts and numbers only: nothing in it can fail.
        serde_json::to_string_pretty(&self.config).unwrap_or_default() + "\n"
    }

    /// The signal that asks the program to end. Runtimes send any; which one an image wants, the annotation
    /// `org.opencontainers.image.stopSignal` says to whoever stops it.
    pub fn stop_signal(&self) -> Signal {
        self.stop_signal
    }

    /// The files that belong beside `config.json`, with their contents: `hostname`, `hosts`, `resolv.conf`, as far as the command
    /// wants them in `/etc`.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.furnished.files.iter().map(|(name, contents)| (*name, contents.as_slice()))
    }

    /// Writes the bundle to a directory, which must not exist or be empty, and mounts the tree at its `rootfs`, for everybody in this
    /// mount namespace to see. To remove it: unmount `rootfs`, then remove the directory.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] for a directory that is not empty, and whatever the system says. Nothing is left then.
    pub fn write(self, directory: &Path) -> Result<()> {
        let mut made = Made::default();
        match self.write_noting(directory, &mut made) {
            Ok(()) => Ok(()),
            Err(error) => {
                made.remove();
                Err(error)
            }
        }
    }

    fn write_noting(self, directory: &Path, made: &mut Made) -> Result<()> {
        made.directory(directory, true)?;
        let is_empty = std::fs::read_dir(directory).map(|mut entries| entries.next().is_none());
        if !is_empty.syscall("open", || directory.display().to_string()).map_err(BundleError::Write)? {
            return Err(BundleError::NotEmpty { path: directory.to_owned() }.into());
        }
        made.file(&directory.join("config.json"), 0o600, self.config().as_bytes())?;
        for (name, contents) in self.files() {
            // Everybody inside reads them.
            made.file(&directory.join(name), 0o644, contents)?;
        }
        let rootfs = directory.join(ROOTFS);
        made.directory(&rootfs, false)?;
        self.root.attach(&rootfs)
    }
}

/// What is to be taken away after a failure, in the order in which it was made.
#[derive(Debug, Default)]
struct Made {
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
}

impl Made {
    fn directory(&mut self, path: &Path, may_exist: bool) -> Result<(), BundleError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => self.directories.push(path.to_owned()),
            Err(error) if may_exist && error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).syscall("mkdir", || path.display().to_string()).map_err(BundleError::Write);
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, mode: u32, contents: &[u8]) -> Result<(), BundleError> {
        let show = || path.display().to_string();
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        let mut file = file.syscall("open", show).map_err(BundleError::Write)?;
        self.files.push(path.to_owned());
        // Whatever the umask says.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).syscall("fchmod", show).map_err(BundleError::Write)?;
        file.write_all(contents).syscall("write", show).map_err(BundleError::Write)
    }

    /// Only what was made here, and nothing that somebody has put there since.
    fn remove(self) {
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
        for directory in self.directories.iter().rev() {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// JSON has no other texts than UTF-8.
pub(crate) fn text(what: &'static str, text: &OsStr) -> Result<String, BundleError> {
    text.to_str()
        .map(str::to_owned)
        .ok_or_else(|| BundleError::NotUtf8 { what, text: text.to_string_lossy().into_owned() })
}

/// A bundle that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    #[error("a bundle cannot have {what}")]
    NotSpecified { what: &'static str },
    #[error("the {what} {text:?} is not UTF-8, and config.json can say nothing else")]
    NotUtf8 { what: &'static str, text: String },
    #[error("only a caller with CAP_SYS_ADMIN can mount the tree of a bundle")]
    Unprivileged,
    #[error("{} is not empty", path.display())]
    NotEmpty { path: PathBuf },
    #[error("cannot write the bundle")]
    Write(#[source] SyscallError),
}

impl Fault for BundleError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotSpecified { .. } | Self::NotUtf8 { .. } => ErrorKind::Unsupported,
            Self::Unprivileged => ErrorKind::PermissionDenied,
            Self::NotEmpty { .. } => ErrorKind::InvalidInput,
            Self::Write(cause) => cause.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unprivileged => {
                "run as root, or in a user and mount namespace of your own, where the runtime has to run, too"
                    .to_owned()
            }
            Self::NotEmpty { .. } => "name a directory that does not exist yet".to_owned(),
            _ => return None,
        })
    }
}
