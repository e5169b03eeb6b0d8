//! [`Running`]: a program that runs already, to be joined by another one.

mod cgroup;
mod error;
mod facts;
mod namespaces;

use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::command::Command;
use crate::error::{Result, SyscallContext as _};
use crate::sys::signal::send_signal;

pub(crate) use cgroup::Membership;
use error::RunningError;
use facts::Facts;
pub(crate) use namespaces::Way;

/// A process inside an image, such as [`Child::program_id`](crate::Child::program_id) names one; not only of this program's making.
///
/// ```no_run
/// # fn main() -> layermount::Result<()> {
/// use layermount::{Command, Running};
///
/// let running = Running::of(4711)?;
/// let mut child = running.spawn(Command::for_running(&running, "sh").arg("-l"))?;
/// child.wait()?;
/// # Ok(())
/// # }
/// ```
///
/// All that is known of it is what it was when it was looked at, and is for that very process: when it ends, [`Running::spawn`] fails, even
/// if its number has another owner by then.
#[derive(Debug)]
pub struct Running {
    pub(crate) pidfd: OwnedFd,
    pub(crate) way: Way,
    pub(crate) cgroups: Vec<Membership>,
    pub(crate) facts: Facts,
}

impl Running {
    /// Looks at the process with this number.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) when there is no such process, or when it is in the caller's own mount
    /// namespace; [`ErrorKind::PermissionDenied`](crate::ErrorKind::PermissionDenied) when the caller may not look into it (ptrace(2),
    /// "Ptrace access mode checking"): root may, and an ordinary user what runs in user namespaces of its own.
    pub fn of(pid: u32) -> Result<Self> {
        let gone = || RunningError::NoProcess { pid };
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
        let pidfd = match pidfd_open(number, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Err(gone().into()),
            // A thread that is not the first of its process.
            Err(Errno::INVAL | Errno::NOENT) => return Err(gone().into()),
            opened => {
                opened.syscall("pidfd_open", || pid.to_string()).map_err(|cause| RunningError::Look { pid, cause })?
            }
        };
        let look = || -> Result<Self, RunningError> {
            let way = Way::to(pid)?;
            let facts = Facts::of(pid, Some(&way))?;
            let cgroups = cgroup::memberships(pid)?;
            Ok(Self { pidfd, way, cgroups, facts })
        };
        let found = look();
        // All of it was read by number. Had the process been reaped meanwhile, the number could have been another's.
        match &found {
            Ok(running) if send_signal(std::os::fd::AsFd::as_fd(&running.pidfd), 0) == Err(Errno::SRCH) => {
                Err(gone().into())
            }
            Err(error) if error.is_absence() => Err(gone().into()),
            _ => Ok(found?),
        }
    }
}

impl Command {
    /// A program that is to join one that runs: with its environment, user, groups and working directory, and confined as it is:
    /// the same capabilities at most, the default [`Seccomp`](crate::Seccomp) filter if it has any, `no_new_privs` if it has that.
    ///
    /// The environment is the one that the process was started with (`/proc/PID/environ`), as far as it has not been overwritten.
    pub fn for_running(running: &Running, program: impl AsRef<OsStr>) -> Self {
        let mut command = Self::new(program);
        let facts = &running.facts;
        for (name, value) in &facts.environment {
            command.env(name, value);
        }
        command.current_dir(&facts.directory).capabilities(facts.bounding).no_new_privileges(facts.no_new_privileges);
        #[cfg(feature = "seccomp")]
        command.seccomp(if facts.is_filtered { crate::Seccomp::default() } else { crate::Seccomp::unconfined() });
        command.user_and_groups(facts.uid, facts.gid, facts.groups.clone());
        command
    }
}
