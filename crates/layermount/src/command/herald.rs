//! What a child hands to its parent that is more than bytes: a descriptor (`SCM_RIGHTS`), and its own number as the parent's pid
//! namespace has it (`SCM_CREDENTIALS`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::net::sockopt::set_socket_passcred;
use rustix::process::Pid;

use crate::error::{SyscallContext, SyscallError};
use crate::ipc;

/// Both ends, until there are two processes.
#[derive(Debug)]
pub(super) struct Herald {
    pub(super) parents: OwnedFd,
    pub(super) childs: OwnedFd,
}

/// What has arrived.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    /// Of the program, which has announced itself.
    pub(super) program: Option<Pid>,
    pub(super) descriptor: Option<OwnedFd>,
}

/// With a descriptor.
const HANDED: u8 = b'd';
/// From the program itself.
const ANNOUNCED: u8 = b'p';

impl Herald {
    pub(super) fn new() -> Result<Self, SyscallError> {
        let (parents, childs) = ipc::socket_pair()?;
        set_socket_passcred(&parents, true).syscall("setsockopt", || "SO_PASSCRED".to_owned())?;
        Ok(Self { parents, childs })
    }

    /// All that the child has sent before it became the program.
    pub(super) fn receive(self) -> Result<Arrived, SyscallError> {
        let Self { parents, childs } = self;
        drop(childs);
        let mut arrived = Arrived::default();
        loop {
            let message = match ipc::receive(parents.as_fd(), RecvFlags::DONTWAIT) {
                Ok(Some(message)) => message,
                // Nobody else sends.
                Ok(None) | Err(Errno::AGAIN) => return Ok(arrived),
                Err(errno) => return Err(errno).syscall("recvmsg", || "socket".to_owned()),
            };
            match message.byte {
                ANNOUNCED => arrived.program = message.sender,
                _ => arrived.descriptor = message.descriptor,
            }
        }
    }
}

/// Hands a descriptor to the parent. Async-signal-safe.
pub(super) fn hand(socket: BorrowedFd<'_>, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
    ipc::send(socket, HANDED, Some(descriptor))
}

/// Says who this process is. Async-signal-safe.
pub(super) fn announce(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    ipc::send(socket, ANNOUNCED, None)
}
