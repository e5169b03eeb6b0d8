//! `-t`: the terminal of the program and the one that layermount is at.
//!
//! With `-i` what is typed goes to the program as it is: the outer terminal is in raw mode, and it is the inner one that makes signals of
//! Ctrl-C and Ctrl-Z, for whoever is in its foreground. There are no keys to detach: layermount is the program's parent and ends with it.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use layermount::{Child, ErrorKind, Pty, Signal, TerminalSize};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr};

use crate::args::Streams;
use crate::failure::{Failure, Result};

/// No larger than what a pipe takes at once when it is ready at all (pipe(7), `PIPE_BUF`): a write does not wait then.
const CHUNK: usize = 4096;

/// How long nothing more must come from a program that has ended, while others still have its terminal open.
const SILENCE: Duration = Duration::from_millis(100);

/// What those others may still write.
const REST: usize = 1 << 20;

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Plan {
    interactive: bool,
}

impl Plan {
    /// `None` without `-t`.
    pub(crate) fn of(args: &Streams) -> Result<Option<Self>> {
        if !args.tty {
            return Ok(None);
        }
        if args.interactive && !io::stdin().is_terminal() {
            return Err(
                Failure::new(ErrorKind::InvalidInput, "the input device is not a TTY").with_hint("leave out -t, or -i")
            );
        }
        Ok(Some(Self { interactive: args.interactive }))
    }

    pub(crate) fn size(&self) -> TerminalSize {
        outer_size().unwrap_or_default()
    }

    /// What `TERM` is to be, which docker sets to xterm.
    pub(crate) fn kind(&self) -> std::ffi::OsString {
        std::env::var_os("TERM").filter(|kind| !kind.is_empty()).unwrap_or_else(|| "xterm".into())
    }

    /// Both terminals are one from now on.
    pub(crate) fn connect(self, child: &mut Child) -> Result<Option<Connection>> {
        let Some(pty) = child.terminal.take() else { return Ok(None) };
        let failed = |errno| Failure::io("cannot connect the program's terminal", errno);
        let flags = fcntl_getfl(&pty).map_err(failed)?;
        fcntl_setfl(&pty, flags | OFlags::NONBLOCK).map_err(failed)?;
        let raw = self.interactive.then(Raw::begin).transpose().map_err(failed)?;
        let mut connection = Connection {
            pty: Some(pty),
            reads_input: self.interactive,
            raw,
            typed: Buffer::default(),
            shown: Buffer::default(),
        };
        // What it was when the program was started, it may not be any more.
        connection.resize();
        Ok(Some(connection))
    }
}

fn outer_size() -> Option<TerminalSize> {
    [stdin(), stdout(), stderr()].into_iter().find_map(TerminalSize::of)
}

/// The outer terminal in raw mode, for as long as this lives.
#[derive(Debug)]
struct Raw {
    before: Termios,
}

impl Raw {
    fn begin() -> rustix::io::Result<Self> {
        let raw = Self { before: tcgetattr(stdin())? };
        raw.set()?;
        Ok(raw)
    }

    fn set(&self) -> rustix::io::Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Drain, &raw)
    }

    fn unset(&self) {
        // It fails when the terminal is gone.
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.before);
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.unset();
    }
}

/// Bytes on their way.
#[derive(Debug)]
struct Buffer {
    /// Not on the stack of whoever has no terminal.
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for Buffer {
    fn default() -> Self {
        Self { bytes: vec![0; CHUNK].into(), start: 0, end: 0 }
    }
}

impl Buffer {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn waiting(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// How many came.
    fn fill(&mut self, from: BorrowedFd<'_>) -> rustix::io::Result<usize> {
        (self.start, self.end) = (0, 0);
        self.end = rustix::io::read(from, &mut self.bytes[..])?;
        Ok(self.end)
    }

    fn empty_into(&mut self, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
        match rustix::io::write(to, self.waiting()) {
            Ok(written) => self.start += written,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        Ok(())
    }
}

/// What came up while bytes went both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Signals can be read.
    Signals,
    /// The time is over.
    Late,
    /// The inner terminal has made this signal of what was typed, or will.
    Typed(Signal),
    /// layermount is in the background, where it may not read.
    Background,
}

/// Both terminals.
#[derive(Debug)]
pub(crate) struct Connection {
    /// `None` when nobody has the inner terminal open any more, or nobody sees the outer one.
    pty: Option<Pty>,
    reads_input: bool,
    raw: Option<Raw>,
    typed: Buffer,
    shown: Buffer,
}

impl Connection {
    /// Tells the inner terminal how large the outer one is.
    pub(crate) fn resize(&mut self) {
        if let (Some(pty), Some(size)) = (&self.pty, outer_size()) {
            // It fails when the terminal is gone.
            let _ = pty.resize(size);
        }
    }

    /// Gives the outer terminal back for a while.
    pub(crate) fn suspend(&self) {
        if let Some(raw) = &self.raw {
            raw.unset();
        }
    }

    pub(crate) fn resume(&mut self) {
        if let Some(raw) = &self.raw {
            let _ = raw.set();
        }
        self.resize();
    }

    /// Whether the program `pid` is alone in the foreground of its terminal.
    pub(crate) fn is_in_foreground(&self, pid: u32) -> bool {
        let group = self.pty.as_ref().and_then(|pty| tcgetpgrp(pty).ok());
        group.is_some_and(|group| group.as_raw_pid().unsigned_abs() == pid)
    }

    /// Passes bytes on until something else is to be done.
    pub(crate) fn pump(&mut self, signals: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<Event> {
        loop {
            let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let ready =
                self.wait(signals, timeout).map_err(|errno| Failure::io("cannot wait for the terminal", errno))?;
            if ready.signals {
                return Ok(Event::Signals);
            }
            if timeout.is_some_and(|timeout| timeout.is_zero()) {
                return Ok(Event::Late);
            }
            if ready.shown {
                self.take_shown();
            }
            if ready.outer && self.shown.empty_into(stdout()).is_err() {
                // Nobody sees it: the terminal hangs up.
                self.pty = None;
                self.shown = Buffer::default();
            }
            if ready.typed
                && let Some(event) = self.take_typed()
            {
                return Ok(event);
            }
            if ready.inner
                && let Some(pty) = &self.pty
                && self.typed.empty_into(pty.as_fd()).is_err()
            {
                self.typed = Buffer::default();
            }
        }
    }

    fn wait(&self, signals: BorrowedFd<'_>, timeout: Option<Duration>) -> rustix::io::Result<Ready> {
        let wants = |wanted: bool, flags: PollFlags| if wanted { flags } else { PollFlags::empty() };
        let mut fds = vec![PollFd::from_borrowed_fd(signals, PollFlags::IN)];
        let inner = wants(self.shown.is_empty(), PollFlags::IN) | wants(!self.typed.is_empty(), PollFlags::OUT);
        let pty = self.pty.as_ref().filter(|_| !inner.is_empty());
        let pty = pty.map(|pty| push(&mut fds, pty.as_fd(), inner));
        let input = (self.reads_input && self.typed.is_empty()).then(|| push(&mut fds, stdin(), PollFlags::IN));
        let output = (!self.shown.is_empty()).then(|| push(&mut fds, stdout(), PollFlags::OUT));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let events = |at: Option<usize>| at.and_then(|at| fds.get(at)).map_or(PollFlags::empty(), PollFd::revents);
        let any =
            |at, flags: PollFlags| events(at).intersects(flags | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
        Ok(Ready {
            signals: !events(Some(0)).is_empty(),
            shown: self.shown.is_empty() && any(pty, PollFlags::IN),
            inner: !self.typed.is_empty() && any(pty, PollFlags::OUT),
            typed: any(input, PollFlags::IN),
            outer: any(output, PollFlags::OUT),
        })
    }

    /// Whether there was something, and may be more.
    fn take_shown(&mut self) -> bool {
        let Some(pty) = &self.pty else { return false };
        match self.shown.fill(pty.as_fd()) {
            Ok(1..) => true,
            Err(Errno::AGAIN | Errno::INTR) => false,
            // EIO: nobody has it open any more.
            Ok(0) | Err(_) => {
                self.pty = None;
                self.typed = Buffer::default();
                self.reads_input = false;
                false
            }
        }
    }

    fn take_typed(&mut self) -> Option<Event> {
        match self.typed.fill(stdin()) {
            Ok(1..) => return self.signal_of_typed().map(Event::Typed),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::IO) if is_in_background() => return Some(Event::Background),
            // It is gone.
            Ok(0) | Err(_) => self.reads_input = false,
        }
        None
    }

    /// What the inner terminal makes of it, if it makes signals at all (termios(3), `ISIG`).
    fn signal_of_typed(&self) -> Option<Signal> {
        let modes = tcgetattr(self.pty.as_ref()?).ok().filter(|modes| modes.local_modes.contains(LocalModes::ISIG))?;
        let typed = |key| self.typed.waiting().contains(&modes.special_codes[key]);
        let keys = [(SpecialCodeIndex::VINTR, Signal::INT), (SpecialCodeIndex::VQUIT, Signal::QUIT)];
        keys.into_iter().find(|(key, _)| typed(*key)).map(|(_, signal)| signal)
    }

    /// Shows all that the program has shown, which has ended, and gives the outer terminal back. `alone` says that nobody is left who
    /// could write.
    pub(crate) fn end(mut self, alone: bool) {
        let mut rest = REST;
        while self.pty.is_some() || !self.shown.is_empty() {
            while !self.shown.is_empty() {
                if write_waiting(&mut self.shown).is_err() {
                    return;
                }
            }
            if self.take_shown() {
                rest = rest.saturating_sub(self.shown.waiting().len());
                if rest == 0 && !alone {
                    self.pty = None;
                }
            } else if !self.more_comes() {
                self.pty = None;
            }
        }
    }

    fn more_comes(&self) -> bool {
        let Some(pty) = &self.pty else { return false };
        let timeout = Timespec::try_from(SILENCE).ok();
        poll(&mut [PollFd::new(pty, PollFlags::IN)], timeout.as_ref()).is_ok_and(|ready| ready > 0)
    }
}

/// Standard output may be one that does not wait.
fn write_waiting(buffer: &mut Buffer) -> rustix::io::Result<()> {
    match poll(&mut [PollFd::new(&stdout(), PollFlags::OUT)], None) {
        Ok(_) => buffer.empty_into(stdout()),
        Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn push<'a>(fds: &mut Vec<PollFd<'a>>, fd: BorrowedFd<'a>, flags: PollFlags) -> usize {
    fds.push(PollFd::from_borrowed_fd(fd, flags));
    fds.len() - 1
}

/// Whether the outer terminal is somebody else's at the moment.
pub(crate) fn is_in_background() -> bool {
    tcgetpgrp(stdin()).is_ok_and(|group| group != rustix::process::getpgrp())
}

struct Ready {
    signals: bool,
    /// The program has written.
    shown: bool,
    /// The outer side takes what it has written.
    outer: bool,
    /// Somebody has typed.
    typed: bool,
    /// The program's terminal takes what was typed.
    inner: bool,
}
