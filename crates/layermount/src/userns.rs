//! [`UserNamespace`]: a process of an ordinary user that has all users of an image.
//!
//! Without it, an ordinary user's image has one user: the caller, as root. With it, and with ranges of subordinate IDs
//! (subuid(5)), the process itself moves into a user namespace that maps those ranges, and from then on everything that it
//! unpacks, mounts and starts has the image's own owners: the same calls, as a root that is none outside.
//!
//! ```text
//! this process                  child in the new namespace       newuidmap, newgidmap
//!   clone ------------------->    waits for the end of a pipe
//!   starts ------------------------------------------------->      write the child's maps
//!   goes on with its own work
//!   waits for both <-----------------------------------------      end
//!   opens the child's namespace, moves into it
//!   closes the pipe --------->    ends
//! ```
//!
//! The two programs are set-uid: the kernel lets nobody else map IDs that are not their own. They take about a millisecond, in
//! which the process goes on. Sources: user_namespaces(7), newuidmap(1), subuid(5).

mod error;
mod maps;
mod newuidmap;
pub(crate) mod nobody;
mod obstacle;
mod proc;
mod ranges;

pub(crate) use error::{UserNamespaceError, hint};
pub(crate) use maps::size;
pub use maps::{IdMaps, IdRange, ParseIdMapsError};
pub(crate) use obstacle::{Obstacle, Stage};
pub(crate) use proc::{parse as parse_map, write_maps};

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::caller::Caller;
use crate::enter::check_single_threaded;
use crate::error::{Result, SyscallContext};
use crate::ipc;
use crate::sys::fd;
use crate::sys::fork::{self, Process};
use newuidmap::Helpers;

/// A user namespace that is being made, to be entered by the process that makes it.
///
/// ```no_run
/// use layermount::{IdMaps, UserNamespace};
///
/// // Before any thread is started.
/// if UserNamespace::is_needed() {
///     UserNamespace::prepare(IdMaps::granted()?)?.enter()?;
/// }
/// # Ok::<(), layermount::Error>(())
/// ```
///
/// Maps of more than oneself take `newuidmap` and `newgidmap` (shadow's, package `uidmap`), or `CAP_SETUID` and `CAP_SETGID`.
/// Overlays can be mounted in user namespaces since Linux 5.11.
///
/// Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct UserNamespace {
    maps: IdMaps,
    /// `None` where the process makes its namespace itself, because it needs nobody's help with the map.
    mapped: Option<Mapping>,
}

/// A namespace that others write the maps of.
#[derive(Debug)]
struct Mapping {
    holder: Holder,
    helpers: Option<Helpers>,
}

/// The process that keeps a namespace until somebody else is in it.
#[derive(Debug)]
struct Holder {
    process: Process,
    /// The writing end. The process reads from the other, and ends when this is closed.
    pipe: Option<OwnedFd>,
}

impl UserNamespace {
    /// Whether the calling thread can mount nothing where it is, for want of `CAP_SYS_ADMIN`.
    pub fn is_needed() -> bool {
        Caller::lacks_sys_admin()
    }

    /// Starts to make a namespace with these maps, and does not wait for it: [`UserNamespace::enter`] does.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PermissionDenied`](crate::ErrorKind::PermissionDenied) where user namespaces are forbidden, and
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when `newuidmap` or `newgidmap` is needed and not installed.
    pub fn prepare(maps: IdMaps) -> Result<Self> {
        if maps.is_single() {
            return Ok(Self { maps, mapped: None });
        }
        let holder = Holder::start()?;
        let helpers = if Caller::may_map_others() {
            write_maps(holder.process.pid, &maps)?;
            None
        } else {
            Some(Helpers::start(holder.process.pid, &maps)?)
        };
        Ok(Self { maps, mapped: Some(Mapping { holder, helpers }) })
    }

    /// The maps that it has or will have.
    pub fn maps(&self) -> &IdMaps {
        &self.maps
    }

    /// Waits until the maps are written, or not. [`UserNamespace::enter`] does so, too; this is for whoever only wants to know.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PermissionDenied`](crate::ErrorKind::PermissionDenied) when the maps are not granted (subuid(5)), or the
    /// programs that write them may not.
    pub fn wait(&mut self) -> Result<()> {
        let helpers = self.mapped.as_mut().and_then(|mapping| mapping.helpers.take());
        helpers.map_or(Ok(()), Helpers::finish)
    }

    /// The namespace itself, where it exists before it is entered.
    pub(crate) fn open(&self) -> Result<Option<OwnedFd>> {
        self.mapped.as_ref().map(|mapping| mapping.holder.open()).transpose()
    }

    /// Moves this process into the namespace, in which it is the user that its maps say and has all capabilities. Its access to
    /// the host's files stays what it was.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::MultiThreaded`](crate::ErrorKind::MultiThreaded) when the process has more than one thread, because the
    /// kernel moves none then, and [`ErrorKind::PermissionDenied`](crate::ErrorKind::PermissionDenied) when the maps are not
    /// granted (subuid(5)) or user namespaces are forbidden. Then the process is where it was, except that a map of one user
    /// which the kernel refuses to write leaves it in a namespace without users; it should say what the error is and end.
    pub fn enter(self) -> Result<()> {
        check_single_threaded()?;
        match self.mapped {
            None => enter_own(&self.maps),
            Some(Mapping { holder, helpers }) => {
                helpers.map_or(Ok(()), Helpers::finish)?;
                holder.enter()
            }
        }
    }
}

/// With a map that the kernel lets everybody write: one user, oneself.
fn enter_own(maps: &IdMaps) -> Result<()> {
    crate::sys::namespace::unshare(UnshareFlags::NEWUSER)
        .syscall("unshare", || "CLONE_NEWUSER".to_owned())
        .map_err(UserNamespaceError::Create)?;
    proc::write_own(maps)
}

impl Holder {
    fn start() -> Result<Self> {
        let (reader, writer) = ipc::pipe().map_err(UserNamespaceError::Prepare)?;
        let mut writer = Some(writer);
        let process = fork::start_unnoticed(nix::libc::CLONE_NEWUSER, &mut || {
            // With the writing end here, the parent's end would go unnoticed, and with the rest of the parent's descriptors that of
            // whatever these are: another namespace's pipe, somebody else's, a lock.
            drop(writer.take());
            fd::close_all_except([reader.as_raw_fd()].into_iter());
            let _ = ipc::receive_byte(reader.as_fd());
            0
        });
        let process = process.syscall("clone3", || "CLONE_NEWUSER".to_owned()).map_err(UserNamespaceError::Create)?;
        Ok(Self { process, pipe: writer.take() })
    }

    fn open(&self) -> Result<OwnedFd> {
        let path = format!("/proc/{}/ns/user", self.process.pid.as_raw_pid());
        rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .syscall("open", || path)
            .map_err(|cause| UserNamespaceError::Enter(cause).into())
    }

    fn enter(self) -> Result<()> {
        let namespace = self.open()?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))
            .syscall("setns", || "CLONE_NEWUSER".to_owned())
            .map_err(|cause| UserNamespaceError::Enter(cause).into())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // A process that was forked elsewhere in the program may have the pipe, too.
        let _ = pidfd_send_signal(&self.process.pidfd, Signal::KILL);
        // It ends now, and would be a zombie otherwise.
        let _ = fork::wait_unnoticed(&self.process);
    }
}
