//! A terminal for the program: [`Pty`] outside, [`Slave`] inside.
//!
//! ```text
//! child, inside the image, before it gives up anything        parent
//!   opens /dev/pts/ptmx of the image's own devpts
//!   TIOCGPTPEER: the slave, by no path that somebody could exchange
//!   mounts it at /dev/console
//!   SCM_RIGHTS: the master  -----------------------------------> Child::terminal
//!   the slave becomes its streams, its user's, its session's
//! ```
//!
//! Sources: pty(7), ioctl_tty(2), devpts in the kernel's `Documentation/filesystems`.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, CWD, FileType, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcgetwinsize, tcsetwinsize};

use super::herald;
use crate::error::{Result, SyscallContext as _};

/// `DEVPTS_SUPER_MAGIC` of `linux/magic.h`.
const DEVPTS: i64 = 0x1cd1;

/// How many characters a terminal shows. Zero means that it is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TerminalSize {
    /// From top to bottom.
    pub rows: u16,
    /// From left to right.
    pub columns: u16,
}

impl TerminalSize {
    /// Of a terminal that is there; `None` for what is no terminal.
    pub fn of(terminal: impl AsFd) -> Option<Self> {
        tcgetwinsize(terminal).ok().map(|size| Self { rows: size.ws_row, columns: size.ws_col })
    }

    fn native(self) -> Winsize {
        Winsize { ws_row: self.rows, ws_col: self.columns, ws_xpixel: 0, ws_ypixel: 0 }
    }
}

/// The master of a program's terminal: what is written is typed there, and what the program shows is read.
///
/// Reading ends (0 bytes) when no process has the terminal open any more. Whether reads and writes wait is up to `O_NONBLOCK`
/// (fcntl(2)), which is not set. When the value is dropped, the terminal hangs up: the program gets `SIGHUP`.
#[derive(Debug)]
pub struct Pty(OwnedFd);

impl Pty {
    pub(super) fn new(master: OwnedFd) -> Self {
        Self(master)
    }

    /// Tells the terminal its size; programs in its foreground get `SIGWINCH` when that is another than before.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says (`TIOCSWINSZ`).
    pub fn resize(&self, size: TerminalSize) -> Result<()> {
        tcsetwinsize(&self.0, size.native())
            .syscall("ioctl", || format!("TIOCSWINSZ, {}x{}", size.columns, size.rows))
            .map_err(Into::into)
    }
}

impl AsFd for Pty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Pty> for OwnedFd {
    fn from(pty: Pty) -> Self {
        pty.0
    }
}

impl Read for &Pty {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match rustix::io::read(&self.0, buffer) {
            // The end, in a terminal's words.
            Err(Errno::IO) => Ok(0),
            read => Ok(read?),
        }
    }
}

impl Write for &Pty {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.0, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Pty {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for Pty {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The program's side, which a child opens. Async-signal-safe.
#[derive(Debug)]
pub(super) struct Slave {
    size: TerminalSize,
    file: Option<OwnedFd>,
}

impl Slave {
    pub(super) fn new(size: TerminalSize) -> Self {
        Self { size, file: None }
    }

    pub(super) fn file(&self) -> Option<&OwnedFd> {
        self.file.as_ref()
    }

    /// See [`Launch::disown`](super::launch::Launch::disown).
    pub(super) fn disown(&mut self) {
        std::mem::forget(self.file.take());
    }

    /// Makes the terminal, whose root directory this process has. `console` says that it is to be at `/dev/console`, which takes the
    /// privilege to mount.
    pub(super) fn open(&mut self, parent: BorrowedFd<'_>, console: bool) -> Result<(), Errno> {
        let master = open_master()?;
        unlockpt(&master)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        // Out of the way of the streams, should any of them be closed.
        let slave = fcntl_dupfd_cloexec(&slave, 3)?;
        if self.size != TerminalSize::default() {
            tcsetwinsize(&master, self.size.native())?;
        }
        if console {
            show_as_console(slave.as_fd())?;
        }
        herald::hand(parent, master.as_fd())?;
        self.file = Some(slave);
        Ok(())
    }

    /// Before the user is changed. The group stays the file system's: tty.
    pub(super) fn give_to(&self, user: Uid) -> Result<(), Errno> {
        match &self.file {
            Some(file) if fs::fstat(file)?.st_uid != user.as_raw() => fs::fchown(file, Some(user), None),
            _ => Ok(()),
        }
    }

    /// Begins a session, which the terminal controls from now on.
    pub(super) fn control(&self) -> Result<(), Errno> {
        let Some(file) = &self.file else { return Ok(()) };
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(file)
    }
}

/// `/dev/pts/ptmx`, which must be one: in a tree that was entered later, it could be anything.
fn open_master() -> Result<OwnedFd, Errno> {
    let root = fs::openat(CWD, c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let master = fs::openat2(&root, c"dev/pts/ptmx", flags, Mode::empty(), resolve)?;
    let stat = fs::fstat(&master)?;
    let is_master = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == fs::makedev(5, 2)
        && fs::fstatfs(&master)?.f_type == DEVPTS;
    if !is_master {
        return Err(Errno::NOTTY);
    }
    fs::fcntl_setfl(&master, OFlags::RDWR)?;
    Ok(master)
}

/// As the OCI runtime specification has it: `/dev/console` is a bind mount of the slave.
fn show_as_console(slave: BorrowedFd<'_>) -> Result<(), Errno> {
    let console = c"/dev/console";
    match fs::mknodat(CWD, console, FileType::RegularFile, Mode::from_raw_mode(0o600), 0) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let target = fs::openat(CWD, console, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(slave, c"", flags)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, c"", &target, c"", flags)
}
