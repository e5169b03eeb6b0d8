//! [`Child`]: a running program.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};

use super::error::CommandError;
use super::signal::Signal;
use super::terminal::Pty;
use super::timings::Timings;
use crate::cgroup::Group;
use crate::error::{Result, SyscallContext, SyscallError};
use crate::network::Keeper;
use crate::overlay::Holds;
use crate::sys::fork::Process;
use crate::sys::signal::send_signal;

/// A program inside an image, started by [`RootMount::spawn`](crate::RootMount::spawn).
///
/// Like [`std::process::Child`], it goes on running when this value is dropped, and stays a zombie until it is waited for.
/// [`Store::prune`](crate::Store::prune) leaves its layers alone for as long as the value is there; afterwards it knows from the
/// mount tables that they are in use.
///
/// Whoever drops it without waiting leaves the cgroups of [`Resources`](crate::Resources) to the next program that is given some there.
#[derive(Debug)]
pub struct Child {
    process: Process,
    /// Another one with an init.
    pub(super) program: Pid,
    pub(super) stop_signal: Signal,
    status: Option<ExitStatus>,
    /// Keeps layers from being removed and the upper from being used by others. The mount table says that they are in use, too, but
    /// not where /proc hides it (`hidepid`).
    pub(super) holds: Option<Holds>,
    pub(super) timings: Option<Timings>,
    /// Removed when the program has ended.
    cgroups: Option<Group>,
    oom_kills: u64,
    /// Ends with the program; waited for with it.
    pub(super) network: Option<Keeper>,
    /// The writing end of the child's standard input, when that is [`Stdio::piped`](super::Stdio::piped).
    pub stdin: Option<ChildStdin>,
    /// The reading end of the child's standard output.
    pub stdout: Option<ChildStdout>,
    /// The reading end of the child's standard error.
    pub stderr: Option<ChildStderr>,
    /// The other side of the program's terminal, when it was given [one](super::Command::terminal).
    pub terminal: Option<Pty>,
}

impl Child {
    pub(super) fn new(process: Process, cgroups: Option<Group>) -> Self {
        Self {
            program: process.pid,
            process,
            stop_signal: Signal::TERM,
            status: None,
            holds: None,
            timings: None,
            cgroups,
            oom_kills: 0,
            network: None,
            stdin: None,
            stdout: None,
            stderr: None,
            terminal: None,
        }
    }

    /// The process ID, as seen from here; with an [init](super::Command::init), the init's.
    pub fn id(&self) -> u32 {
        self.process.pid.as_raw_pid().unsigned_abs()
    }

    /// The program's own process ID, as seen from here. It is [`Child::id`] unless there is an [init](super::Command::init).
    pub fn program_id(&self) -> u32 {
        self.program.as_raw_pid().unsigned_abs()
    }

    /// The signal that asks the program to end: [`Command::stop_signal`](super::Command::stop_signal), or the image's `StopSignal`, or
    /// `SIGTERM`.
    pub fn stop_signal(&self) -> Signal {
        self.stop_signal
    }

    /// A descriptor that becomes readable when the program ends (pidfd_open(2)), for event loops.
    pub fn pidfd(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsFd as _;
        self.process.pidfd.as_fd()
    }

    /// Where the time of its start went, if that was [asked for](super::Command::timed). A child that does not share the memory of its
    /// parent until it executes its program cannot tell: on machines other than x86-64, and with
    /// [`Command::user_namespace`](super::Command::user_namespace).
    pub fn timings(&self) -> Option<&Timings> {
        self.timings.as_ref()
    }

    /// Closes the child's standard input and waits for its end.
    ///
    /// # Errors
    ///
    /// When somebody else has reaped the child.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        drop(self.stdin.take());
        loop {
            if let Some(status) = self.poll(WaitOptions::empty())? {
                return Ok(status);
            }
        }
    }

    /// The status, when the program has ended.
    ///
    /// # Errors
    ///
    /// When somebody else has reaped the child.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.poll(WaitOptions::NOHANG)
    }

    fn poll(&mut self, options: WaitOptions) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            match waitpid(Some(self.process.pid), options) {
                Ok(Some((_, status))) => {
                    self.status = Some(ExitStatus::from_raw(status.as_raw()));
                    drop(self.holds.take());
                    if let Some(cgroups) = self.cgroups.take() {
                        self.oom_kills = cgroups.oom_kills();
                        cgroups.remove();
                    }
                    if let Some(keeper) = self.network.take() {
                        keeper.finish();
                    }
                }
                Ok(None) | Err(Errno::INTR) => {}
                Err(errno) => {
                    let cause = SyscallError::new("waitpid", self.process.pid.to_string(), errno);
                    return Err(CommandError::System { doing: "wait for the child", cause }.into());
                }
            }
        }
        Ok(self.status)
    }

    /// How many of the program's processes the kernel has killed so far because the memory that
    /// [`Resources::memory`](crate::Resources::memory) allows was used up. 0 without a limit. If the first process is one of them, its
    /// status is `SIGKILL`.
    pub fn oom_kills(&self) -> u64 {
        self.cgroups.as_ref().map_or(self.oom_kills, Group::oom_kills)
    }

    /// Ends the program at once (`SIGKILL`), and with it, when it has a pid namespace, everything that it has started.
    ///
    /// # Errors
    ///
    /// When the kernel refuses. That the program has ended already is none.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// Sends a signal, to the init if there is one, which passes it on. Mind that the kernel keeps signals from the first process of a pid namespace for which it has
    /// set up nothing; see [`Child::handles`].
    ///
    /// # Errors
    ///
    /// When the kernel refuses. That the program has ended already is none.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.status.is_some() {
            return Ok(());
        }
        match send_signal(self.pidfd(), signal.number()) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno)
                .syscall("pidfd_send_signal", || format!("{}, {signal}", self.id()))
                .map_err(|cause| CommandError::System { doing: "send a signal", cause }.into()),
        }
    }

    /// Whether the program has a handler for the signal, waits for it (as init programs do, which block signals and call
    /// `sigwait`), or ignores it of its own will.
    ///
    /// If neither, and it is the first of its pid namespace, the signal does nothing (pid_namespaces(7)), while
    /// anywhere else it would end the program;
    /// whoever passes on a person's Ctrl-C then wants [`Child::kill`].
    ///
    /// # Errors
    ///
    /// When `/proc` of the caller does not show the child.
    pub fn handles(&self, signal: Signal) -> Result<bool> {
        let path = format!("/proc/{}/status", self.program_id());
        let status = std::fs::read_to_string(&path)
            .syscall("open", || path.clone())
            .map_err(|cause| CommandError::System { doing: "look at the child's signals", cause })?;
        Ok(["SigCgt:", "SigBlk:", "SigIgn:"].iter().any(|field| mask_has(&status, field, signal))
            || self.waits_for_signals())
    }

    /// Whether it is in `sigwait(3)` or the like: for as long as it waits, signals are neither blocked nor handled.
    fn waits_for_signals(&self) -> bool {
        // The number of the system call, then its arguments (proc_pid_syscall(5)).
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", self.program_id())).unwrap_or_default();
        call.split(' ').next().and_then(|number| number.parse().ok()) == Some(nix::libc::SYS_rt_sigtimedwait)
    }
}

/// proc_pid_status(5): 16 hexadecimal digits, the lowest bit for signal 1.
fn mask_has(status: &str, field: &str, signal: Signal) -> bool {
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix(field)?.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal.number() - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_read() {
        let status = "Name:\tx\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000004002\n";
        assert!(mask_has(status, "SigCgt:", Signal::TERM));
        assert!(mask_has(status, "SigCgt:", Signal::INT));
        assert!(!mask_has(status, "SigCgt:", Signal::QUIT));
        assert!(!mask_has("", "SigCgt:", Signal::QUIT));
    }
}
