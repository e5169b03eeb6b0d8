//! How the child comes into the cgroups that are made for it; see [`Group`].

use std::os::fd::{AsFd as _, OwnedFd};

use nix::libc::{CLONE_NEWCGROUP, c_int};
use rustix::io::Errno;
use rustix::thread::UnshareFlags;

use super::launch::Stage;
use crate::cgroup::{CgroupError, Group};
use crate::script::{Failure, write_all};
use crate::sys::fork::{self, Memory, NO_CLONE_INTO_CGROUP, Process};
use crate::sys::namespace::unshare;

/// The way into a group, or nothing at all.
#[derive(Debug)]
pub(super) struct Joining<'a> {
    group: Option<&'a Group>,
    flags: c_int,
    step: Join,
}

/// The child's part.
#[derive(Debug)]
pub(super) struct Join {
    files: Vec<OwnedFd>,
    namespace: bool,
}

impl<'a> Joining<'a> {
    /// `flags` are those of the child's namespaces. One for cgroups is made only when the child is where the namespace's root
    /// is to be: `clone` would take the parent's place for that (`copy_cgroup_ns`).
    pub(super) fn new(group: Option<&'a Group>, flags: c_int) -> Result<Self, CgroupError> {
        let Some(group) = group else {
            return Ok(Self { group, flags, step: Join { files: Vec::new(), namespace: false } });
        };
        let namespace = flags & CLONE_NEWCGROUP != 0 || group.wants_namespace();
        let step = Join { files: group.files_to_join(false)?, namespace };
        Ok(Self { group: Some(group), flags: flags & !CLONE_NEWCGROUP, step })
    }

    /// Starts the child in the cgroup of version 2; what there is of version 1 it has to [join](Join::run) first thing.
    pub(super) fn start(
        &mut self,
        memory: Memory,
        body: &mut dyn FnMut(&Join) -> i32,
    ) -> Result<Result<Process, Errno>, CgroupError> {
        let Self { group, flags, step } = self;
        if let Some((group, cgroup)) = group.and_then(|group| Some((group, group.clone_into()?))) {
            match fork::start_in_cgroup(cgroup, *flags, memory, &mut || body(step)) {
                Err(errno) if NO_CLONE_INTO_CGROUP.contains(&errno) => step.files = group.files_to_join(true)?,
                result => return Ok(result),
            }
        }
        Ok(fork::start(*flags, memory, &mut || body(step)))
    }
}

impl Join {
    #[expect(clippy::result_large_err, reason = "a box could not be made in a child")]
    /// Moves the calling process, which has one thread. Async-signal-safe.
    pub(super) fn run(&self) -> Result<(), Failure> {
        for file in &self.files {
            write_all(file.as_fd(), b"0").map_err(|errno| Stage::Cgroups.failure(errno))?;
        }
        if self.namespace {
            unshare(UnshareFlags::NEWCGROUP).map_err(|errno| Stage::CgroupNamespace.failure(errno))?;
        }
        Ok(())
    }
}
