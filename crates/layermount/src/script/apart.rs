//! Running a script in a child, for when it needs a mount namespace of its own but the mount that it makes is wanted here.
//!
//! The child shares this process's table of descriptors, so what it opens is open here; when it ends, its namespace goes.

use std::os::fd::{AsFd, IntoRawFd, OwnedFd, RawFd};

use nix::libc;
use rustix::pipe::{PipeFlags, pipe_with};

use super::{Failure, Script, ScriptError, Slot};
use crate::error::{Result, SyscallContext};
use crate::sys::fork;

/// The descriptor that the script leaves in `result`.
pub(crate) fn run_in_private_namespace(script: &Script<'_>, result: Slot) -> Result<OwnedFd> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).syscall("pipe2", || "O_CLOEXEC".to_owned())?;
    let mut files = script.files();
    fork::run(libc::CLONE_NEWNS | libc::CLONE_FILES, &mut || {
        let outcome = script.run(&mut files);
        let mount = files.take(result).map(IntoRawFd::into_raw_fd);
        // The table is shared: what this child leaves open would stay open.
        files.close_all();
        let reported = match (outcome, mount) {
            (Ok(()), Some(mount)) => super::write_all(writer.as_fd(), &mount.to_ne_bytes()),
            (Ok(()), None) => Ok(()),
            (Err(failure), _) => super::write_all(writer.as_fd(), &failure.encode()),
        };
        i32::from(reported.is_err())
    })
    .syscall("clone", || "CLONE_NEWNS|CLONE_FILES".to_owned())?;
    // Not before: the child writes to this very descriptor.
    drop(writer);
    let mut report = [0_u8; Failure::ENCODED];
    let length = rustix::io::read(&reader, &mut report[..]).syscall("read", || "pipe".to_owned())?;
    let report = report.get(..length).unwrap_or_default();
    // The number of the descriptor, or what failed; their lengths differ.
    if let Ok(mount) = report.try_into() {
        return Ok(fork::adopt(RawFd::from_ne_bytes(mount)));
    }
    Err(match Failure::decode(report) {
        Some(failure) => script.explain(&failure).into(),
        None => ScriptError::silent().into(),
    })
}
