//! [`Running::spawn`]: a program beside one that runs.
//!
//! ```text
//! caller                        child, never to be looked into       grandchild, whose parent is the caller
//!   clone3 ------------------->   closes what is not needed
//!                                 joins the cgroups, the namespaces
//!   its number <---------------   clone(CLONE_PARENT) --------------> in the pid namespace
//!                                 ends                                 user, confinement, descriptors
//!   '!' <------------------------------------------------------------  execve
//! ```
//!
//! The tree that is entered may be hostile. Nothing of the host is open in the grandchild but what the program is given, and neither its
//! descriptors nor its memory nor its executable (`/proc/PID/exe`, CVE-2019-5736) can be had through `/proc` there, as it is not
//! dumpable (PR_SET_DUMPABLE(2const)) until it has become the program.

use std::borrow::BorrowMut;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, pidfd_open, set_dumpable_behavior};

use super::Command;
use super::confine::Launching;
use super::error::CommandError;
use super::herald::Herald;
use super::launch::{ABOUT_TO_EXEC, Launch, Report, Stage};
use super::magic_links;
use super::prepare::above_streams;
use super::process::Child;
use super::spawn::reported_failure;
use crate::error::{Result, SyscallContext, SyscallError};
use crate::running::Running;
use crate::script::{Failure, write_all};
use crate::sys::copy;
use crate::sys::fork::{self, Memory, Process};

impl Command {
    /// By number, with no other groups than these.
    pub(crate) fn user_and_groups(&mut self, uid: u32, gid: u32, groups: Vec<u32>) {
        self.user(format!("{uid}:{gid}"));
        self.more_groups = groups;
    }

    fn refuse_what_is_there(&self) -> Result<(), CommandError> {
        let entering = &self.entering;
        let there = [
            (entering.hostname.is_some(), "a hostname"),
            (entering.namespaces.is_some(), "a set of namespaces"),
            (entering.furnish.is_some(), "furnishing"),
            (!entering.mounts.is_empty(), "a bind mount"),
            (!entering.resources.is_empty(), "a limit of resources"),
            (entering.network.is_some(), "a network"),
            (entering.user_namespace.is_some(), "a user namespace"),
            (self.init, "an init"),
        ];
        match there.into_iter().find(|(given, _)| *given) {
            Some((_, what)) => Err(CommandError::ThereAlready { what }),
            None => Ok(()),
        }
    }
}

/// A pipe whose ends are out of the way of the standard streams.
fn pipe() -> Result<(OwnedFd, OwnedFd), SyscallError> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).syscall("pipe2", || "O_CLOEXEC".to_owned())?;
    Ok((above_streams(reader)?, above_streams(writer)?))
}

impl Running {
    /// Starts a program where the process is: in its user, mount, pid, ipc, uts, network and cgroup namespaces, and in its cgroups. May be
    /// called in a process with threads. [`Command::for_running`] makes a command that is confined as the process is; any other one is
    /// confined as for [`RootMount::spawn`](crate::RootMount::spawn).
    ///
    /// The program is a child of the caller, and ends at the latest when the first process of the pid namespace does. With
    /// [`Command::terminal`], its terminal is one of the tree's own `/dev/pts`.
    ///
    /// An ordinary user stays in its own cgroup where the kernel does not let it move.
    ///
    /// # Errors
    ///
    /// As for [`RootMount::spawn`](crate::RootMount::spawn), and [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for what belongs
    /// to entering an image: namespaces, hostname, furnishing, mounts, an init.
    pub fn spawn(&self, mut command: impl BorrowMut<Command>) -> Result<Child> {
        let command = command.borrow_mut();
        command.refuse_what_is_there()?;
        let stop_signal = command.stop_signal.signal()?;
        let system = |cause| CommandError::System { doing: "prepare a pipe to the child", cause };
        let launching = Launching::Spawn { user_namespace: false };
        let (mut launch, mut pipes) = command.launch(launching, self.facts.single_user)?;
        let (reader, writer) = pipe().map_err(system)?;
        let (number_reader, number_writer) = pipe().map_err(system)?;
        let herald = command.terminal.is_some().then(Herald::new).transpose().map_err(system)?;
        let mut kept = self.needed(&launch);
        kept.extend([writer.as_raw_fd(), number_writer.as_raw_fd()]);
        kept.extend(herald.as_ref().map(|herald| herald.childs.as_raw_fd()));
        kept.sort_unstable();
        let between = fork::start(0, Memory::Copied, &mut || {
            copy::close_all_except(&kept);
            let herald = herald.as_ref().map(|herald| herald.childs.as_fd());
            let report = Report { writer: writer.as_fd(), herald, maps: None };
            let failure = match self.divide() {
                Ok(Some(program)) => {
                    let number = program.as_raw_pid().to_ne_bytes();
                    return i32::from(write_all(number_writer.as_fd(), &number).is_err());
                }
                Ok(None) => launch.run_joined(report),
                Err(failure) => failure,
            };
            // If that fails there is nobody to tell.
            let _ = write_all(writer.as_fd(), &failure.encode());
            125
        });
        drop((writer, number_writer));
        let between = between.syscall("clone3", || "SIGCHLD".to_owned());
        let between = between.map_err(|cause| CommandError::Clone { user_namespace: false, cause })?;
        let mut report = Vec::new();
        std::fs::File::from(reader).read_to_end(&mut report).syscall("read", || "pipe".to_owned()).map_err(system)?;
        let mut number = Vec::new();
        std::fs::File::from(number_reader)
            .read_to_end(&mut number)
            .syscall("read", || "pipe".to_owned())
            .map_err(system)?;
        // Somebody else may have reaped it.
        let status = Child::new(between, None).wait();
        let mut child = match number.try_into().ok().map(i32::from_ne_bytes).and_then(Pid::from_raw) {
            Some(pid) => {
                let pidfd = pidfd_open(pid, PidfdFlags::empty()).syscall("pidfd_open", || pid.to_string());
                let pidfd = pidfd.map_err(|cause| CommandError::System { doing: "find the program", cause })?;
                Child::new(Process { pid, pidfd }, None)
            }
            None => {
                return Err(match reported_failure(&report) {
                    None => CommandError::Died { status: status? },
                    Some(failure) => command.explain(&failure),
                }
                .into());
            }
        };
        if report != [ABOUT_TO_EXEC] {
            let status = child.wait();
            return Err(match reported_failure(&report) {
                None => CommandError::Died { status: status? },
                Some(failure) => command.explain(&failure),
            }
            .into());
        }
        if magic_links::runs_this_binary(child.id()) {
            child.kill()?;
            child.wait()?;
            return Err(command.explain(&Stage::MagicLink.failure(Errno::LOOP)).into());
        }
        child.stdin = pipes.stdin.take();
        child.stdout = pipes.stdout.take();
        child.stderr = pipes.stderr.take();
        child.stop_signal = stop_signal;
        if let Some(herald) = herald {
            child.learn(herald.receive().map_err(system)?);
        }
        Ok(child)
    }

    /// What a child may not close, the report aside.
    fn needed(&self, launch: &Launch) -> Vec<RawFd> {
        let mut needed = vec![0, 1, 2, self.pidfd.as_raw_fd()];
        needed.extend(launch.streams.iter().flatten().map(AsRawFd::as_raw_fd));
        needed.extend(&launch.preserved);
        needed.extend(launch.placed.files());
        needed.extend(self.way.owner().map(AsRawFd::as_raw_fd));
        needed.extend(self.cgroups.iter().map(|cgroup| cgroup.file.as_raw_fd()));
        needed
    }

    /// Into everything, and from one process to two: `None` in the one that is to become the program. Async-signal-safe.
    #[expect(clippy::result_large_err, reason = "a box could not be made in a child")]
    fn divide(&self) -> Result<Option<Pid>, Failure> {
        let failed = |stage: Stage| move |errno: Errno| stage.failure(errno);
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed(Stage::Join))?;
        for cgroup in &self.cgroups {
            cgroup.join().map_err(failed(Stage::JoinCgroup))?;
        }
        self.way.go(&self.pidfd).map_err(failed(Stage::Join))?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        copy::fork_sibling().map_err(failed(Stage::Join))
    }
}

impl Launch {
    fn run_joined(&mut self, report: Report<'_>) -> Failure {
        if let (Some(slave), Some(herald)) = (&mut self.terminal, report.herald)
            && let Err(errno) = slave.open(herald, false)
        {
            return Stage::Terminal.failure(errno);
        }
        self.run(Some(report), None)
    }
}
