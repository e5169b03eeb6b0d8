//! What a child hands to its parent that is more than bytes: a descriptor (`SCM_RIGHTS`), and its own number as the parent's pid
//! namespace has it (`SCM_CREDENTIALS`, which the kernel fills in). See unix(7), "Ancillary messages".

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, IoSliceMut, retry_on_intr};
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::Pid;

use super::prepare::above_streams;
use crate::error::{SyscallContext, SyscallError};

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
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (parents, childs) = pair.syscall("socketpair", || "AF_UNIX, SOCK_SEQPACKET".to_owned())?;
        set_socket_passcred(&parents, true).syscall("setsockopt", || "SO_PASSCRED".to_owned())?;
        Ok(Self { parents: above_streams(parents)?, childs: above_streams(childs)? })
    }

    /// All that the child has sent before it became the program.
    pub(super) fn receive(self) -> Result<Arrived, SyscallError> {
        let Self { parents, childs } = self;
        drop(childs);
        let mut arrived = Arrived::default();
        while read_one(parents.as_fd(), &mut arrived).syscall("recvmsg", || "socket".to_owned())? {}
        Ok(arrived)
    }
}

/// Whether there was one.
fn read_one(socket: BorrowedFd<'_>, arrived: &mut Arrived) -> Result<bool, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0_u8; 1];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags));
    match received {
        Ok(message) if message.bytes > 0 => {}
        Ok(_) | Err(Errno::AGAIN) => return Ok(false),
        Err(errno) => return Err(errno),
    }
    for message in control.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(descriptors) => arrived.descriptor = descriptors.last(),
            RecvAncillaryMessage::ScmCredentials(sender) if byte == [ANNOUNCED] => arrived.program = Some(sender.pid),
            _ => {}
        }
    }
    Ok(true)
}

/// Hands a descriptor to the parent. Async-signal-safe.
pub(super) fn hand(socket: BorrowedFd<'_>, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::NOBUFS);
    }
    send(socket, HANDED, &mut control)
}

/// Says who this process is. Async-signal-safe.
pub(super) fn announce(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    send(socket, ANNOUNCED, &mut SendAncillaryBuffer::default())
}

fn send(socket: BorrowedFd<'_>, byte: u8, control: &mut SendAncillaryBuffer<'_, '_, '_>) -> Result<(), Errno> {
    retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&[byte])], control, SendFlags::NOSIGNAL)).map(drop)
}
