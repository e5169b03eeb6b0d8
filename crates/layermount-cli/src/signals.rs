//! Signals on their way from the terminal, or from whoever supervises layermount, to the program.
//!
//! They are blocked and read from a signalfd(2), so nothing runs in a handler. Three things make forwarding more than `kill`:
//!
//! - The terminal sends what a person types (Ctrl-C) to the whole process group, of which the program is usually a part. It has
//!   then had the signal already; a second one would count as a second Ctrl-C.
//! - The program is process 1 of its pid namespace. The kernel drops signals to process 1 that would take their default action,
//!   so that Ctrl-C would not end a program that does not handle it, as it does everywhere else (pid_namespaces(7)).
//! - Process 1 can for the same reason not be stopped by Ctrl-Z, only by `SIGSTOP` from outside.

use std::process::ExitStatus;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::unistd::{Pid, getpgid, getpgrp};

use layermount::{Child, ErrorKind};

use crate::failure::{Failure, Result};

/// What is passed on. Not `SIGPIPE`, `SIGURG` and the like, which are about layermount's own work.
const FORWARDED: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
    Signal::SIGCONT,
];

/// What stops a process: typed, or because it used the terminal from the background.
const STOPPING: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

/// `si_code` of signals that the kernel made, such as a terminal's (sigaction(2)).
const SI_KERNEL: i32 = 0x80;
/// `si_code` of signals that were sent with kill(2).
const SI_USER: i32 = 0;

/// The signals of this process, to be read instead of taking effect.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: SignalFd,
}

/// A program that runs, as far as signals are concerned.
pub(crate) trait Program {
    fn id(&self) -> u32;
    fn handles(&self, signal: layermount::Signal) -> layermount::Result<bool>;
    fn signal(&self, signal: layermount::Signal) -> layermount::Result<()>;
    fn kill(&mut self) -> layermount::Result<()>;
    fn try_wait(&mut self) -> layermount::Result<Option<ExitStatus>>;
}

impl Program for Child {
    fn id(&self) -> u32 {
        Self::id(self)
    }

    fn handles(&self, signal: layermount::Signal) -> layermount::Result<bool> {
        Self::handles(self, signal)
    }

    fn signal(&self, signal: layermount::Signal) -> layermount::Result<()> {
        Self::signal(self, signal)
    }

    fn kill(&mut self) -> layermount::Result<()> {
        Self::kill(self)
    }

    fn try_wait(&mut self) -> layermount::Result<Option<ExitStatus>> {
        Self::try_wait(self)
    }
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// The signal that layermount carried out in the kernel's place.
    pub(crate) carried_out: Option<Signal>,
}

impl Signals {
    /// Blocks the signals. What layermount was told to ignore (`nohup`) stays ignored.
    pub(crate) fn take() -> Result<Self> {
        let ignored = ignored();
        if ignored & mask(Signal::SIGCHLD) != 0 {
            let message = "SIGCHLD is ignored, so that the end of the program would not be noticed";
            return Err(Failure::new(ErrorKind::Unsupported, message)
                .with_hint("whoever starts layermount ignores it; try: env --default-signal=CHLD layermount ..."));
        }
        let passed_on = FORWARDED.into_iter().chain(STOPPING).filter(|signal| ignored & mask(*signal) == 0);
        let set: SigSet = passed_on.chain([Signal::SIGCHLD]).collect();
        let fd = set.thread_block().and_then(|()| SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC));
        Ok(Self { fd: fd.map_err(cannot_receive)? })
    }

    /// Passes signals on until the program has ended. `is_init` says that it is process 1 of its pid namespace.
    pub(crate) fn supervise(self, child: &mut impl Program, is_init: bool) -> Result<Ended> {
        let mut carried_out = None;
        loop {
            let info = match self.fd.read_signal() {
                Ok(Some(info)) => info,
                Ok(None) | Err(Errno::EINTR) => continue,
                Err(errno) => return Err(cannot_receive(errno)),
            };
            let Some(signal) = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())
            else {
                continue;
            };
            // Whose end it is does not matter here.
            let id = if signal == Signal::SIGCHLD { 0 } else { child.id() };
            let pid = Pid::from_raw(id.cast_signed());
            // Where /proc does not say (hidepid), a signal is taken for the program's own affair.
            let heeded = signal == Signal::SIGCHLD || child.handles(native(signal)?).unwrap_or(true);
            match (Arrival { signal, origin: Origin::of(&info, pid, is_init), is_init, heeded }).action() {
                Action::Nothing => {}
                Action::Look => {
                    if let Some(status) = child.try_wait()? {
                        return Ok(Ended { status, carried_out });
                    }
                }
                Action::PassOn => child.signal(native(signal)?)?,
                Action::End => {
                    carried_out = Some(signal);
                    child.kill()?;
                }
                Action::Stop => {
                    child.signal(native(Signal::SIGSTOP)?)?;
                    stop_here(signal).map_err(|errno| Failure::io("cannot stop", errno))?;
                    child.signal(native(Signal::SIGCONT)?)?;
                }
            }
        }
    }
}

/// Lets a signal that stops take its effect on this process; returns when it is continued. Not by `SIGSTOP`: the kernel
/// does not stop a process that nobody is there to continue (the leader of its session, for example).
fn stop_here(signal: Signal) -> nix::Result<()> {
    let set: SigSet = [signal].into_iter().collect();
    raise(signal)?;
    set.thread_unblock()?;
    set.thread_block()
}

fn cannot_receive(errno: Errno) -> Failure {
    Failure::io("cannot receive signals", errno)
}

/// The same signal in the library's terms.
fn native(signal: Signal) -> Result<layermount::Signal> {
    layermount::Signal::from_number(signal as i32)
        .ok_or_else(|| Failure::new(ErrorKind::Unsupported, format!("{signal} cannot be passed on")))
}

/// As in proc_pid_status(5): the lowest bit is signal 1.
fn mask(signal: Signal) -> u64 {
    1 << (signal as u32 - 1)
}

/// The signals that this process ignores, as a bit mask; nothing if that cannot be told.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Where a signal came from, as far as it matters who else has had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Typed at the terminal: the whole process group has had it, the program among it.
    Terminal,
    /// Sent by the program to its own process group, it seems: the kernel tells the number that it has in its pid
    /// namespace, and in another one that is somebody else's.
    Program,
    /// Meant for layermount.
    Other,
}

impl Origin {
    fn of(info: &siginfo, child: Pid, is_init: bool) -> Self {
        let program = if is_init { Pid::from_raw(1) } else { child };
        let shares_group = || getpgid(Some(child)).is_ok_and(|group| group == getpgrp());
        match info.ssi_code {
            SI_KERNEL if shares_group() => Self::Terminal,
            SI_USER if i64::from(info.ssi_pid) == i64::from(program.as_raw()) && shares_group() => Self::Program,
            _ => Self::Other,
        }
    }
}

/// A signal, and what must be known to act on it.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    signal: Signal,
    origin: Origin,
    is_init: bool,
    /// The program handles or ignores the signal, or waits for it: that it takes its default action is not what happens.
    heeded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Nothing,
    /// See whether the program has ended.
    Look,
    PassOn,
    /// Do what the kernel would do, were the program not process 1.
    End,
    /// Stop the program and layermount.
    Stop,
}

impl Arrival {
    fn action(self) -> Action {
        match self {
            Self { signal: Signal::SIGCHLD, .. } => Action::Look,
            // Also when everybody had it: only from outside can a stopped process 1 be continued.
            Self { signal: Signal::SIGCONT, .. } => Action::PassOn,
            // An editor that was told to step aside, and has made the terminal ready for others.
            Self { signal, origin: Origin::Program, .. } if STOPPING.contains(&signal) => Action::Stop,
            Self { heeded: true, origin: Origin::Terminal, .. } => Action::Nothing,
            Self { heeded: true, origin: Origin::Program, is_init: false, .. } => Action::Nothing,
            Self { heeded: true, .. } => Action::PassOn,
            Self { signal, .. } if STOPPING.contains(&signal) => Action::Stop,
            Self { signal: Signal::SIGWINCH, .. } => Action::Nothing,
            Self { is_init: true, .. } => Action::End,
            Self { origin: Origin::Other, .. } => Action::PassOn,
            // The kernel has seen to it.
            Self { .. } => Action::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(signal: Signal, origin: Origin, is_init: bool, heeded: bool) -> Action {
        Arrival { signal, origin, is_init, heeded }.action()
    }

    #[test]
    fn a_typed_signal_is_not_delivered_twice() {
        assert_eq!(action(Signal::SIGINT, Origin::Terminal, true, true), Action::Nothing);
        assert_eq!(action(Signal::SIGINT, Origin::Terminal, false, false), Action::Nothing);
        assert_eq!(action(Signal::SIGINT, Origin::Other, true, true), Action::PassOn);
        assert_eq!(action(Signal::SIGTERM, Origin::Other, false, false), Action::PassOn);
    }

    #[test]
    fn what_the_kernel_keeps_from_process_1_is_carried_out() {
        assert_eq!(action(Signal::SIGINT, Origin::Terminal, true, false), Action::End);
        assert_eq!(action(Signal::SIGTERM, Origin::Other, true, false), Action::End);
        assert_eq!(action(Signal::SIGWINCH, Origin::Terminal, true, false), Action::Nothing);
        assert_eq!(action(Signal::SIGTSTP, Origin::Terminal, true, false), Action::Stop);
        assert_eq!(action(Signal::SIGTTIN, Origin::Terminal, true, false), Action::Stop);
        assert_eq!(action(Signal::SIGTSTP, Origin::Terminal, true, true), Action::Nothing);
        assert_eq!(action(Signal::SIGCONT, Origin::Terminal, true, false), Action::PassOn);
    }

    #[test]
    fn process_1_may_be_the_program_or_the_machines_init() {
        assert_eq!(action(Signal::SIGTERM, Origin::Program, true, true), Action::PassOn, "systemd stops a service");
        assert_eq!(action(Signal::SIGTERM, Origin::Program, true, false), Action::End, "kill 0");
        assert_eq!(action(Signal::SIGTERM, Origin::Program, false, true), Action::Nothing, "kill 0");
        assert_eq!(action(Signal::SIGTSTP, Origin::Program, true, true), Action::Stop, "an editor's Ctrl-Z");
    }
}
