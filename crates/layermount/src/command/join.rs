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
use std::os::fd::{AsFd, AsRawFd, RawFd};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, pidfd_open, set_dumpable_behavior};

use super::Command;
use super::channel::{Channel, Outcome, system};
use super::confine::Launching;
use super::error::CommandError;
use super::launch::{Launch, Report, Stage};
use super::process::Child;
use crate::error::{Result, SyscallContext};
use crate::ipc;
use crate::running::Running;
use crate::script::{Failure, write_all};
use crate::sys::fork::{self, Memory, Process};
use crate::sys::{copy, fd};

impl Command {
    /// By number, with no other groups than these.
    pub(crate) fn user_and_groups(&mut self, uid: u32, gid: u32, groups: Vec<u32>) {
        self.user(format!("{uid}:{gid}"));
        self.more_groups = groups;
    }

    fn refuse_what_is_there(&self) -> Result<(), CommandError> {
        match self.given_for_entering().or(self.init.then_some("an init")) {
            Some(what) => Err(CommandError::ThereAlready { what }),
            None => Ok(()),
        }
    }
}

impl Running {
    /// Starts a program where the process is: in its user, mount, pid, ipc, uts, network and cgroup namespaces, and in its
    /// cgroups. May be called in a process with threads. [`Command::for_running`] makes a command that is confined as the process
    /// is; any other one is confined as for [`RootMount::spawn`](crate::RootMount::spawn).
    ///
    /// The program is a child of the caller, and ends at the latest when the first process of the pid namespace does. With
    /// [`Command::terminal`], its terminal is one of the tree's own `/dev/pts`.
    ///
    /// An ordinary user stays in its own cgroup where the kernel does not let it move.
    ///
    /// # Errors
    ///
    /// As for [`RootMount::spawn`](crate::RootMount::spawn), and [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for
    /// what belongs to entering an image: namespaces, hostname, furnishing, mounts, an init.
    pub fn spawn(&self, mut command: impl BorrowMut<Command>) -> Result<Child> {
        let command = command.borrow_mut();
        command.refuse_what_is_there()?;
        let stop_signal = command.stop_signal.signal()?;
        let launching = Launching::Spawn { user_namespace: false };
        let (mut launch, mut pipes) = command.launch(launching, self.facts.single_user)?;
        let channel = Channel::new(command, &launch.placed)?;
        let (number_reader, number_writer) = ipc::pipe().map_err(system)?;
        let mut kept = self.needed(&launch);
        kept.extend(channel.childs().chain([number_writer.as_raw_fd()]));
        let between = fork::start(0, Memory::Copied, &mut || {
            fd::close_all_except(kept.iter().copied());
            let failure = match self.divide() {
                Ok(Some(program)) => {
                    let number = program.as_raw_pid().to_ne_bytes();
                    return i32::from(write_all(number_writer.as_fd(), &number).is_err());
                }
                Ok(None) => launch.run_joined(channel.report(None)),
                Err(failure) => failure,
            };
            channel.fail(&failure)
        });
        drop(number_writer);
        let between = between.syscall("clone3", || "SIGCHLD".to_owned());
        let between = between.map_err(|cause| CommandError::Clone { user_namespace: false, cause })?;
        let outcome = channel.listen()?;
        let mut number = Vec::new();
        std::fs::File::from(number_reader)
            .read_to_end(&mut number)
            .syscall("read", || "pipe".to_owned())
            .map_err(system)?;
        // Somebody else may have reaped it.
        let mut status = Child::new(between, None).wait();
        if let Some(pid) = number.try_into().ok().map(i32::from_ne_bytes).and_then(Pid::from_raw) {
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).syscall("pidfd_open", || pid.to_string());
            let pidfd = pidfd.map_err(|cause| CommandError::System { doing: "find the program", cause })?;
            let mut child = Child::new(Process { pid, pidfd }, None);
            if let Outcome::Runs(arrived) = outcome {
                return child.running(command, arrived, &mut pipes, stop_signal);
            }
            status = child.wait();
        }
        Err(match outcome {
            Outcome::Failed(failure) => command.explain(&failure).into(),
            Outcome::Died | Outcome::Runs(_) => CommandError::Died { status: status? }.into(),
        })
    }

    /// What a child may not close, the channel to its parent aside.
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
