//! Signals on their way from the terminal, or from whoever supervises layermount, to the program.
//!
//! They are blocked and read from a signalfd(2), so nothing runs in a handler. Three things make forwarding more than `kill`:
//!
//! - The terminal sends what a person types (Ctrl-C) to the whole process group, of which the program is usually a part. It has
//!   then had the signal already; a second one would count as a second Ctrl-C.
//! - The program is process 1 of its pid namespace. The kernel drops signals to process 1 that would take their default action,
//!   so that Ctrl-C would not end a program that does not handle it, as it does everywhere else (pid_namespaces(7)).
//! - Process 1 can for the same reason not be stopped by Ctrl-Z, only by `SIGSTOP` from outside.
//!
//! With `--init` the program is not process 1, and the last two do not apply: what is sent to the init it passes on. With `-t` the
//! program is in a session of its own, where the inner terminal makes signals of what is typed; only what process 1 would be spared by
//! the kernel is carried out here as well.
//!
//! `SIGTERM`, by which supervisors end services, becomes the signal that the image wants to be stopped by.

use std::os::fd::AsFd;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::unistd::{Pid, getpgid, getpgrp};

use layermount::{Child, ErrorKind};

use crate::failure::{Failure, Result};
use crate::run::terminal::{Connection, Event};

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
    fn program_id(&self) -> u32;
    fn stop_signal(&self) -> layermount::Signal;
    fn handles(&self, signal: layermount::Signal) -> layermount::Result<bool>;
    fn signal(&self, signal: layermount::Signal) -> layermount::Result<()>;
    fn kill(&mut self) -> layermount::Result<()>;
    fn try_wait(&mut self) -> layermount::Result<Option<ExitStatus>>;
}

impl Program for Child {
    fn program_id(&self) -> u32 {
        Self::program_id(self)
    }

    fn stop_signal(&self) -> layermount::Signal {
        Self::stop_signal(self)
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
    pub(crate) carried_out: Option<layermount::Signal>,
}

/// Where the program is in its pid namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Process 1.
    is_first: bool,
    /// Its number there.
    number: Pid,
    /// Process 1 is layermount's, and passes signals on.
    has_init: bool,
}

impl Place {
    /// Process 1 of a new namespace, or the first child of that.
    pub(crate) fn new(has_init: bool) -> Self {
        Self { is_first: !has_init, number: Pid::from_raw(if has_init { 2 } else { 1 }), has_init }
    }

    /// In layermount's own namespace.
    pub(crate) fn shared(child: &Child) -> Self {
        Self { is_first: false, number: pid_of(child), has_init: false }
    }

    /// In a container that a runtime makes, and in another process group than layermount, so that its number does not matter.
    pub(crate) fn contained(is_first: bool) -> Self {
        Self { is_first, ..Self::new(false) }
    }

    /// In one that was there before: the last number that proc_pid_status(5) has of it.
    pub(crate) fn joined(child: &Child) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let number = numbers.and_then(|numbers| numbers.split_whitespace().last()?.parse().ok());
        Self { number: number.map_or_else(|| pid_of(child), Pid::from_raw), ..Self::shared(child) }
    }
}

fn pid_of(child: &impl Program) -> Pid {
    Pid::from_raw(child.program_id().cast_signed())
}

/// How a program is looked after.
#[derive(Debug)]
pub(crate) struct Supervision {
    pub(crate) place: Place,
    pub(crate) terminal: Option<Connection>,
    /// How long it may take to stop.
    pub(crate) patience: Option<Duration>,
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

    /// Passes signals on until the program has ended.
    pub(crate) fn supervise(self, child: &mut impl Program, mut how: Supervision) -> Result<Ended> {
        let place = how.place;
        let mut carried_out = None;
        let mut deadline = None;
        loop {
            match self.next(&mut how, deadline)? {
                Event::Signals => {}
                Event::Late => {
                    deadline = None;
                    child.kill()?;
                    continue;
                }
                Event::Background => {
                    self.stop(child, &mut how, Signal::SIGTTIN, Origin::Other)?;
                    continue;
                }
                Event::Typed(signal) => {
                    let foreground = |terminal: &Connection| terminal.is_in_foreground(child.program_id());
                    let spared = place.is_first && how.terminal.as_ref().is_some_and(foreground);
                    if spared && !child.handles(signal).unwrap_or(true) {
                        carried_out = Some(signal);
                        child.kill()?;
                    }
                    continue;
                }
            }
            let info = match self.fd.read_signal() {
                Ok(Some(info)) => info,
                Ok(None) | Err(Errno::EINTR) => continue,
                Err(errno) => return Err(cannot_receive(errno)),
            };
            let Some(signal) = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())
            else {
                continue;
            };
            let origin = Origin::of(&info, child, place.number);
            let mut meant = native(signal)?;
            if signal == Signal::SIGTERM && origin == Origin::Other {
                meant = child.stop_signal();
                deadline = deadline.or(how.patience.and_then(|patience| Instant::now().checked_add(patience)));
            }
            // Where /proc does not say (hidepid), a signal is taken for the program's own affair.
            let heeded = signal == Signal::SIGCHLD || child.handles(meant).unwrap_or(true);
            let arrival = Arrival { signal, origin, is_init: place.is_first, heeded };
            match (arrival.action(), &mut how.terminal) {
                (Action::Nothing, _) => {}
                (Action::Look, _) => {
                    if let Some(status) = child.try_wait()? {
                        if let Some(terminal) = how.terminal {
                            terminal.end(place.is_first || place.has_init);
                        }
                        return Ok(Ended { status, carried_out });
                    }
                }
                // The inner terminal tells everybody.
                (Action::PassOn, Some(terminal)) if signal == Signal::SIGWINCH => terminal.resize(),
                (Action::PassOn, terminal) => {
                    if let (Some(terminal), Signal::SIGCONT) = (terminal, signal) {
                        terminal.resume();
                    }
                    child.signal(meant)?;
                }
                (Action::End, _) => {
                    carried_out = Some(meant);
                    child.kill()?;
                }
                (Action::Stop, _) => self.stop(child, &mut how, signal, origin)?,
            }
        }
    }

    /// What there is to do next: without a terminal or a deadline, signals alone, for which their reader waits.
    fn next(&self, how: &mut Supervision, deadline: Option<Instant>) -> Result<Event> {
        match &mut how.terminal {
            Some(terminal) => terminal.pump(self.fd.as_fd(), deadline),
            None => deadline.map_or(Ok(Event::Signals), |deadline| wait_until(deadline, self.fd.as_fd())),
        }
    }

    /// Stops the program and this process; returns when both are continued.
    fn stop(&self, child: &impl Program, how: &mut Supervision, signal: Signal, origin: Origin) -> Result<()> {
        match (how.place.has_init, origin) {
            (false, _) => child.signal(native(Signal::SIGSTOP)?)?,
            // It has had it.
            (true, Origin::Terminal | Origin::Program) => {}
            (true, Origin::Other) => child.signal(native(signal)?)?,
        }
        if let Some(terminal) = &how.terminal {
            terminal.suspend();
        }
        stop_here(signal).map_err(|errno| Failure::io("cannot stop", errno))?;
        if let Some(terminal) = &mut how.terminal {
            terminal.resume();
        }
        Ok(child.signal(native(Signal::SIGCONT)?)?)
    }
}

fn wait_until(deadline: Instant, signals: std::os::fd::BorrowedFd<'_>) -> Result<Event> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).ok();
    match poll(&mut [PollFd::from_borrowed_fd(signals, PollFlags::IN)], timeout.as_ref()) {
        Ok(0) => Ok(Event::Late),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(Event::Signals),
        Err(errno) => Err(Failure::io("cannot receive signals", errno)),
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
pub(crate) fn native(signal: Signal) -> Result<layermount::Signal> {
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
    /// `program` is its number inside.
    fn of(info: &siginfo, child: &impl Program, program: Pid) -> Self {
        let shares_group = || getpgid(Some(pid_of(child))).is_ok_and(|group| group == getpgrp());
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
            Self { signal: Signal::SIGWINCH, origin: Origin::Terminal, .. } => Action::Nothing,
            Self { signal: Signal::SIGWINCH, .. } => Action::PassOn,
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
