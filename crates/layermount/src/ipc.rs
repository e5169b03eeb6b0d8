//! What a process and its children speak through: pipes, pairs of sockets, and descriptors that are handed over.
//!
//! The ends of all of them stay what they are when a child replaces its three standard streams.
//!
//! Sources: pipe(7); unix(7), "Ancillary messages" (`SCM_RIGHTS`, and `SCM_CREDENTIALS`, which the kernel fills in).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::{Errno, fcntl_dupfd_cloexec, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use crate::error::{SyscallContext, SyscallError};

/// The reading end and the writing one.
pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd), SyscallError> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).syscall("pipe2", || "O_CLOEXEC".to_owned())?;
    Ok((above_streams(reader)?, above_streams(writer)?))
}

/// Two ends of a socket that keeps messages apart.
pub(crate) fn socket_pair() -> Result<(OwnedFd, OwnedFd), SyscallError> {
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.syscall("socketpair", || "AF_UNIX, SOCK_SEQPACKET".to_owned())?;
    Ok((above_streams(ours)?, above_streams(theirs)?))
}

/// A descriptor that stays what it is when the three standard streams are replaced.
pub(crate) fn above_streams(file: OwnedFd) -> Result<OwnedFd, SyscallError> {
    above(file, 2)
}

/// The same descriptor under a number above this one, if it is not already.
pub(crate) fn above(file: OwnedFd, number: RawFd) -> Result<OwnedFd, SyscallError> {
    if file.as_raw_fd() > number { Ok(file) } else { copy_above(&file, number) }
}

/// A copy of a descriptor under a number above this one.
pub(crate) fn copy_above(file: impl std::os::fd::AsFd, number: RawFd) -> Result<OwnedFd, SyscallError> {
    let lowest = number.saturating_add(1);
    fcntl_dupfd_cloexec(file, lowest).syscall("fcntl", || format!("F_DUPFD_CLOEXEC, {lowest}"))
}

/// Lets the other end of a pipe go on. Async-signal-safe.
pub(crate) fn send_byte(pipe: BorrowedFd<'_>) -> Result<(), Errno> {
    retry_on_intr(|| rustix::io::write(pipe, b"!")).map(drop)
}

/// Whether a byte came; otherwise the other end is closed. Async-signal-safe.
pub(crate) fn receive_byte(pipe: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(retry_on_intr(|| rustix::io::read(pipe, &mut [0_u8; 1]))? == 1)
}

/// A message of a [`socket_pair`].
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) byte: u8,
    pub(crate) descriptor: Option<OwnedFd>,
    /// With `SO_PASSCRED`: who has sent it, by the number that it has in the pid namespace of the reader.
    pub(crate) sender: Option<Pid>,
}

/// Sends a byte, with a descriptor if there is one. Async-signal-safe.
pub(crate) fn send(socket: BorrowedFd<'_>, byte: u8, descriptor: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.as_slice();
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::NOBUFS);
    }
    retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&[byte])], &mut control, SendFlags::NOSIGNAL)).map(drop)
}

/// The next message; `None` when there is none any more. Async-signal-safe.
pub(crate) fn receive(socket: BorrowedFd<'_>, flags: RecvFlags) -> Result<Option<Message>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0_u8; 1];
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags))?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut message = Message { byte: byte[0], descriptor: None, sender: None };
    for part in control.drain() {
        match part {
            RecvAncillaryMessage::ScmRights(descriptors) => message.descriptor = descriptors.last(),
            RecvAncillaryMessage::ScmCredentials(sender) => message.sender = Some(sender.pid),
            _ => {}
        }
    }
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn descriptors_are_handed_over_and_the_end_is_told() {
        let (ours, theirs) = socket_pair().unwrap();
        let (reader, writer) = pipe().unwrap();
        send(theirs.as_fd(), b'd', Some(writer.as_fd())).unwrap();
        send(theirs.as_fd(), b'n', None).unwrap();
        drop((theirs, writer));
        let with = receive(ours.as_fd(), RecvFlags::empty()).unwrap().unwrap();
        send_byte(with.descriptor.as_ref().unwrap().as_fd()).unwrap();
        assert!(with.byte == b'd' && receive_byte(reader.as_fd()).unwrap());
        drop(with);
        assert!(!receive_byte(reader.as_fd()).unwrap(), "nobody else has the writing end");
        let without = receive(ours.as_fd(), RecvFlags::empty()).unwrap().unwrap();
        assert!(without.byte == b'n' && without.descriptor.is_none());
        assert!(receive(ours.as_fd(), RecvFlags::empty()).unwrap().is_none());
    }

    #[test]
    fn copies_lie_above() {
        let (reader, _writer) = pipe().unwrap();
        assert!(copy_above(&reader, 500).unwrap().as_raw_fd() > 500);
        let number = reader.as_raw_fd();
        assert_eq!(above(reader, number - 1).unwrap().as_raw_fd(), number);
    }
}
