//! Running a script in a child: because it needs a mount namespace of its own but the mount that it makes is wanted here, or to
//! find out whether it works.
//!
//! In the first case the child shares this process's table of descriptors, so what it opens is open here. When it ends, its
//! namespaces go.

use std::os::fd::{AsFd, IntoRawFd, OwnedFd, RawFd};

use nix::libc;
use rustix::fs::Mode;
use rustix::io::Errno;

use super::{Failure, Script, ScriptError, Slot};
use crate::error::{Error, Result, SyscallContext, SyscallError};
use crate::ipc;
use crate::sys::fork;
use crate::userns::Stage;

/// The descriptor that the script leaves in `result`.
pub(crate) fn run_in_private_namespace(script: &Script<'_>, result: Slot) -> Result<OwnedFd> {
    let (reader, writer) = ipc::pipe()?;
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

/// Runs a script in a child that shares everything but descriptors and the mask of modes, which is `umask`.
pub(crate) fn run_in_child(script: &Script<'_>, umask: Mode) -> Result<()> {
    match in_child(script, 0, || _ = rustix::process::umask(umask)).syscall("clone3", String::new)?? {
        Ended::Done => Ok(()),
        Ended::Failed(failure) => Err(script.explain(&failure).into()),
        Ended::Silent => Err(ScriptError::silent().into()),
    }
}

/// How a child has ended that was to run a script.
enum Ended {
    Done,
    Failed(Box<Failure>),
    /// Without a word.
    Silent,
}

/// What a child could not do.
#[derive(Debug)]
pub(crate) struct Refused {
    /// How far it came.
    pub(crate) stage: Stage,
    pub(crate) errno: Errno,
    pub(crate) error: Error,
}

impl From<SyscallError> for Refused {
    /// There is no child.
    fn from(cause: SyscallError) -> Self {
        Self { stage: Stage::Make, errno: cause.errno(), error: cause.into() }
    }
}

/// Runs a script in a child with namespaces of its own (`CLONE_NEW*`), of which nothing stays.
pub(crate) fn try_in_child(script: &Script<'_>, flags: libc::c_int) -> Result<(), Refused> {
    match in_child(script, flags, || ()).syscall("clone3", || describe(flags).to_owned())?? {
        Ended::Done => Ok(()),
        Ended::Failed(failure) => {
            let stage = script.stage(&failure);
            Err(Refused { stage, errno: failure.errno, error: script.explain(&failure).into() })
        }
        Ended::Silent => Err(Refused { stage: Stage::Use, errno: Errno::PIPE, error: ScriptError::silent().into() }),
    }
}

/// Runs a script in a child, which does something `first`: the outer error is that there is no child. `first` is async-signal-safe.
fn in_child(
    script: &Script<'_>,
    flags: libc::c_int,
    mut first: impl FnMut(),
) -> Result<Result<Ended, SyscallError>, Errno> {
    let (reader, writer) = match ipc::pipe() {
        Ok(ends) => ends,
        Err(error) => return Ok(Err(error)),
    };
    let mut files = script.files();
    let status = fork::run(flags, &mut || {
        first();
        match script.run(&mut files) {
            Ok(()) => 0,
            Err(failure) => {
                // Whoever reads no report knows at least that there was none.
                let _ = super::write_all(writer.as_fd(), &failure.encode());
                1
            }
        }
    })?;
    drop(writer);
    if status == Some(0) {
        return Ok(Ok(Ended::Done));
    }
    let mut report = [0_u8; Failure::ENCODED];
    let length = rustix::io::read(&reader, &mut report[..]).syscall("read", || "pipe".to_owned());
    Ok(length.map(|length| {
        let failure = Failure::decode(report.get(..length).unwrap_or_default());
        failure.map_or(Ended::Silent, |failure| Ended::Failed(Box::new(failure)))
    }))
}

fn describe(flags: libc::c_int) -> &'static str {
    if flags & libc::CLONE_NEWUSER == 0 { "CLONE_NEWNS" } else { "CLONE_NEWUSER|CLONE_NEWNS" }
}
