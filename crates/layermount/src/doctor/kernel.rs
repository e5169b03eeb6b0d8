//! Its release, and system calls that need no privilege.

use std::os::fd::AsFd;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::system::uname;

use super::probe::{Outcome, Probe, Shortcoming, Subject, Weight};
use crate::error::SyscallContext;

pub(super) fn probes() -> Vec<Probe> {
    vec![release(), openat2(), close_range()]
}

fn release() -> Probe {
    let uname = uname();
    let [system, release, machine] =
        [uname.sysname(), uname.release(), uname.machine()].map(|text| text.to_string_lossy().into_owned());
    Probe::new(Subject::Release, Outcome::Works(format!("{system} {release}, {machine}")))
}

fn openat2() -> Probe {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let opened = rustix::fs::openat2(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve);
    let outcome = match opened.syscall("openat2", || "\"/\", O_PATH, RESOLVE_IN_ROOT".to_owned()) {
        Ok(_) => Outcome::Works("paths cannot lead out of an image".to_owned()),
        Err(error) => Outcome::Fails(
            Shortcoming::new(Weight::Prevents, error.to_string(), "no image can be entered")
                .with_remedy("Linux 5.6, and no seccomp filter that hides openat2 (in Docker: one that is up to date)"),
        ),
    };
    Probe::new(Subject::Openat2, outcome)
}

fn close_range() -> Probe {
    let closed = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .and_then(|fd| crate::sys::fd::has_close_range(fd.as_fd()))
        .syscall("close_range", || "CLOSE_RANGE_CLOEXEC".to_owned());
    let outcome = match closed {
        Ok(()) => Outcome::Works("descriptors are closed in one call".to_owned()),
        Err(error) => Outcome::Fails(
            Shortcoming::new(
                Weight::Impairs,
                error.to_string(),
                "starting a program takes one call for each descriptor",
            )
            .with_remedy("Linux 5.11, and no seccomp filter that hides close_range"),
        ),
    };
    Probe::new(Subject::CloseRange, outcome)
}
