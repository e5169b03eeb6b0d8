//! [`Channel`]: how a parent learns what became of its child.
//!
//! A pipe has [`ABOUT_TO_EXEC`] in it, and is closed by `execve`: the program runs. Or a [`Failure`], or nothing. What is more than bytes
//! comes by a [`Herald`].

use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::Command;
use super::error::CommandError;
use super::herald::{Arrived, Herald};
use super::launch::{ABOUT_TO_EXEC, Report, Stage};
use super::magic_links;
use super::prepare::Pipes;
use super::process::Child;
use super::signal::Signal;
use super::sockets::Placed;
use super::terminal::Pty;
use crate::error::{Result, SyscallContext as _, SyscallError};
use crate::ipc;
use crate::script::{Failure, write_all};

/// Both ends, until there are two processes.
#[derive(Debug)]
pub(super) struct Channel {
    reader: OwnedFd,
    writer: OwnedFd,
    herald: Option<Herald>,
}

/// What has been learned.
#[derive(Debug)]
pub(super) enum Outcome {
    Runs(Arrived),
    Failed(Box<Failure>),
    /// It has ended without a word.
    Died,
}

pub(super) fn system(cause: SyscallError) -> CommandError {
    CommandError::System { doing: "prepare a pipe to the child", cause }
}

impl Channel {
    /// The child's end stays what it is when descriptors are `placed`.
    pub(super) fn new(command: &Command, placed: &Placed) -> Result<Self, CommandError> {
        let (reader, writer) = ipc::pipe().map_err(system)?;
        let writer = placed.above(writer).map_err(system)?;
        let needs_herald = command.terminal.is_some() || command.init;
        Ok(Self { reader, writer, herald: needs_herald.then(Herald::new).transpose().map_err(system)? })
    }

    /// What the child has to keep open.
    pub(super) fn childs(&self) -> impl Iterator<Item = RawFd> {
        let herald = self.herald.as_ref().map(|herald| herald.childs.as_raw_fd());
        herald.into_iter().chain([self.writer.as_raw_fd()])
    }

    /// With it in the child, the parent's end would go unnoticed. Async-signal-safe, as all that the child does.
    pub(super) fn parents(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    pub(super) fn report<'a>(&'a self, maps: Option<BorrowedFd<'a>>) -> Report<'a> {
        let herald = self.herald.as_ref().map(|herald| herald.childs.as_fd());
        Report { writer: self.writer.as_fd(), herald, maps }
    }

    /// The child's last words; what it is to end with.
    pub(super) fn fail(&self, failure: &Failure) -> i32 {
        // If that fails there is nobody to tell.
        let _ = write_all(self.writer.as_fd(), &failure.encode());
        125
    }

    /// Waits until the child has executed its program, or ended.
    pub(super) fn listen(self) -> Result<Outcome, CommandError> {
        let Self { reader, writer, herald } = self;
        drop(writer);
        let mut report = Vec::new();
        std::fs::File::from(reader).read_to_end(&mut report).syscall("read", || "pipe".to_owned()).map_err(system)?;
        if report == [ABOUT_TO_EXEC] {
            let arrived = herald.map_or_else(|| Ok(Arrived::default()), Herald::receive);
            return Ok(Outcome::Runs(arrived.map_err(system)?));
        }
        Ok(reported_failure(&report).map_or(Outcome::Died, |failure| Outcome::Failed(Box::new(failure))))
    }
}

/// Found from the end: the first byte of a failure may look like `ABOUT_TO_EXEC`.
fn reported_failure(report: &[u8]) -> Option<Failure> {
    report.last_chunk::<{ Failure::ENCODED }>().and_then(|failure| Failure::decode(failure))
}

impl Child {
    /// The program runs: what the caller has of it, unless it is one that must not be run.
    pub(super) fn running(
        mut self,
        command: &Command,
        arrived: Arrived,
        pipes: &mut Pipes,
        stop_signal: Signal,
    ) -> Result<Self> {
        self.terminal = arrived.descriptor.map(Pty::new);
        self.program = arrived.program.unwrap_or(self.program);
        if magic_links::runs_this_binary(self.program_id()) {
            self.kill()?;
            self.wait()?;
            return Err(command.explain(&Stage::MagicLink.failure(Errno::LOOP)).into());
        }
        let Pipes { stdin, stdout, stderr } = std::mem::take(pipes);
        (self.stdin, self.stdout, self.stderr) = (stdin, stdout, stderr);
        self.stop_signal = stop_signal;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_from_the_announcement_of_the_program() {
        // The number of a step whose first byte is that very announcement.
        let position = u32::from(ABOUT_TO_EXEC);
        let failure = Failure::new(position, Errno::PERM).encode();
        assert_eq!(reported_failure(&failure).unwrap().position, position);
        let announced = [&[ABOUT_TO_EXEC][..], &Failure::new(1 << 30, Errno::NOENT).encode()].concat();
        assert_eq!(reported_failure(&announced).unwrap().position, 1 << 30);
        assert!(reported_failure(&[]).is_none() && reported_failure(&failure[1..]).is_none());
    }
}
