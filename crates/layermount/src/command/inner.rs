//! A user namespace for the program alone, inside of everything that was mounted for it.
//!
//! ```text
//! parent                          child, inside the image
//!                                   unshare(CLONE_NEWUSER)
//!   reads a byte  <---------------- writes it
//!   writes the child's ID maps
//!   writes a byte ----------------> reads it, and is somebody
//! ```
//!
//! A map of more than oneself takes privileges in the namespace around, which the child has left.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use crate::error::{Result, SyscallError};
use crate::ipc;
use crate::sys::namespace::unshare;
use crate::userns::{IdMaps, write_maps};

/// One end of each of two pipes.
#[derive(Debug)]
struct Ends {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// Both sides, until there are two processes.
#[derive(Debug)]
pub(super) struct Inner<'a> {
    maps: &'a IdMaps,
    parents: Option<Ends>,
    childs: Option<Ends>,
}

impl<'a> Inner<'a> {
    pub(super) fn new(maps: &'a IdMaps) -> Result<Self, SyscallError> {
        let (ready, go) = (ipc::pipe()?, ipc::pipe()?);
        let parents = Some(Ends { reader: ready.0, writer: go.1 });
        Ok(Self { maps, parents, childs: Some(Ends { reader: go.0, writer: ready.1 }) })
    }

    /// Moves the child into a namespace with these maps. Async-signal-safe.
    pub(super) fn enter(&mut self) -> Result<(), Errno> {
        drop(self.parents.take());
        let Some(Ends { reader, writer }) = self.childs.take() else { return Ok(()) };
        unshare(UnshareFlags::NEWUSER)?;
        ipc::send_byte(writer.as_fd())?;
        // Nothing comes when the parent could not write the maps, and says why.
        if ipc::receive_byte(reader.as_fd())? { Ok(()) } else { Err(Errno::PIPE) }
    }

    /// The parent's part. A child that never comes to it has failed before, and says so elsewhere.
    pub(super) fn map(mut self, child: Pid) -> Result<()> {
        drop(self.childs.take());
        let Some(Ends { reader, writer }) = self.parents.take() else { return Ok(()) };
        if ipc::receive_byte(reader.as_fd()).unwrap_or(false) {
            write_maps(child, self.maps)?;
            // A child that was killed in the meantime needs no answer.
            let _ = ipc::send_byte(writer.as_fd());
        }
        Ok(())
    }
}
