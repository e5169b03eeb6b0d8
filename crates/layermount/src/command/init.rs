//! A small init: process 1, which has the program as its child.
//!
//! ```text
//! process 1, confined, about to execute the program
//!   blocks all signals
//!   fork -----------------------------> the program: goes on as if nothing had happened
//!   lets go of descriptors and memory
//!   waits for signals: passes them on, reaps, and ends as the program did
//! ```
//!
//! It is in a process group of its own, so that what is typed at a terminal, or sent to a whole group, reaches the program once. All that
//! it does is async-signal-safe, because it is a copy of a threaded program.

mod shed;

use std::ops::Range;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, WaitOptions, WaitStatus, set_dumpable_behavior, wait};

use super::launch::Stopped;
use crate::sys::{copy, fork, signal};

/// What it is called in the list of processes.
const NAME: &std::ffi::CStr = c"layermount-init";

/// Made ready by the parent.
#[derive(Debug)]
pub(super) struct Plan {
    /// Where the launcher's own arguments and environment are in memory, as far as that can be told.
    strings: Range<usize>,
}

impl Plan {
    pub(super) fn new() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self { strings: strings(&stat).unwrap_or(0..0) }
    }
}

/// `arg_start` to `env_end` of proc_pid_stat(5).
fn strings(stat: &str) -> Option<Range<usize>> {
    // The second field, the name, may have anything in it, and is in parentheses.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().skip(45).map(|field| field.parse().ok());
    let [arg_start, _arg_end, _env_start, env_end] =
        [fields.next()??, fields.next()??, fields.next()??, fields.next()??];
    (arg_start != 0).then_some(arg_start..env_end)
}

/// Returns in the program; this process becomes its init. `confine` has the last word on what it may do, and `maps` is its own
/// `/proc/self/maps`.
pub(super) fn divide(
    plan: &Plan,
    confine: impl FnOnce() -> Result<(), Stopped>,
    maps: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    // Before there is a program that could end, or be asked to.
    signal::block_all()?;
    // What the program's user could learn of the host from a copy of its launcher. The program becomes another memory by execve.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    match copy::fork()? {
        None => signal::unblock_all(),
        Some(program) => {
            // It fails for the leader of a session, which is alone in its group already.
            let _ = rustix::process::setpgid(None, None);
            let _ = rustix::process::chdir(c"/");
            copy::set_name(NAME);
            let memory = maps.map(shed::Memory::read);
            copy::close_all_except(&[]);
            // What it fails for, it fails for in the program, which says so.
            let _ = confine();
            if let Some(memory) = memory {
                memory.let_go(plan.strings.clone(), NAME);
            }
            fork::exit(serve(program))
        }
    }
}

/// Until the program has ended.
fn serve(program: Pid) -> i32 {
    loop {
        match signal::wait_for_any() {
            Ok(nix::libc::SIGCHLD) => {
                if let Some(code) = reap(program) {
                    return code;
                }
            }
            // The program may be gone, or another user's by now.
            Ok(number) => drop(signal::kill(program, number)),
            Err(_) => {}
        }
    }
}

/// Takes away everybody who has ended; what the program ended with, if it is among them.
fn reap(program: Pid) -> Option<i32> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == program => return Some(code(status)),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return None,
            // It has no child, not even the program, so that there is nothing to wait for.
            Err(_) => return Some(125),
        }
    }
}

/// As a shell has it.
fn code(status: WaitStatus) -> i32 {
    status.terminating_signal().map_or_else(|| status.exit_status().unwrap_or(125), |signal| 128 + signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_found_in_memory() {
        let strings = strings(&std::fs::read_to_string("/proc/self/stat").unwrap()).unwrap();
        let own = std::fs::read("/proc/self/cmdline").unwrap();
        assert!(strings.len() >= own.len());
        let mut found = vec![0; own.len()];
        use std::os::unix::fs::FileExt as _;
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        memory.read_exact_at(&mut found, strings.start as u64).unwrap();
        assert_eq!(found, own);
    }
}
