//! The ID maps of processes: proc_pid_uid_map(5), user_namespaces(7).

use std::fmt::Write as _;

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

use super::UserNamespaceError;
use super::maps::{IdMaps, IdRange};
use crate::error::{Result, SyscallContext, SyscallError};

impl IdMaps {
    /// Those of a process, as they look from the calling thread's namespace.
    pub(crate) fn of_process(process: &str) -> Result<Self> {
        let read = |name: &str| -> Result<Vec<IdRange>> {
            let path = format!("/proc/{process}/{name}");
            let text = std::fs::read_to_string(&path).syscall("read", || path).map_err(UserNamespaceError::Maps)?;
            Ok(parse(&text))
        };
        Ok(Self { uids: read("uid_map")?, gids: read("gid_map")? })
    }
}

/// A map as the kernel prints it: lines of three numbers.
pub(crate) fn parse(text: &str) -> Vec<IdRange> {
    text.lines().filter_map(|line| IdRange::of_words(line.split_whitespace())).collect()
}

/// As `/proc/PID/uid_map` takes it.
pub(super) fn text(ranges: &[IdRange]) -> String {
    let mut text = String::new();
    for IdRange { inside, outside, count } in ranges {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{inside} {outside} {count}");
    }
    text
}

/// Writes the maps of this process, which has just made its namespace.
pub(super) fn write_own(maps: &IdMaps) -> Result<()> {
    // Before the gid map, or the kernel refuses that: user_namespaces(7), "Interaction with system calls that change
    // process UIDs or GIDs".
    write("self", "setgroups", "deny")?;
    write("self", "uid_map", &text(&maps.uids))?;
    write("self", "gid_map", &text(&maps.gids))
}

/// Writes the maps of a process in a fresh user namespace, with privileges in the one around it.
pub(crate) fn write_maps(pid: Pid, maps: &IdMaps) -> Result<()> {
    let process = pid.as_raw_pid().to_string();
    write(&process, "uid_map", &text(&maps.uids))?;
    write(&process, "gid_map", &text(&maps.gids))
}

fn write(process: &str, name: &str, text: &str) -> Result<()> {
    let path = format!("/proc/{process}/{name}");
    let written = (|| -> rustix::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::empty())?;
        // In one call, as the kernel demands; it takes all or nothing.
        rustix::io::write(&file, text.as_bytes()).map(drop)
    })();
    let shown = || format!("{path}, {:?}", text.trim_end());
    written.syscall("write", shown).map_err(|cause: SyscallError| UserNamespaceError::Map(cause).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_written_as_they_are_read() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        let ranges = parse(map);
        assert_eq!(ranges[1], IdRange { inside: 1, outside: 100_000, count: 65536 });
        assert_eq!(text(&ranges), "0 1000 1\n1 100000 65536\n");
        assert_eq!(parse("x\n1 2\n0 0 4294967295\n"), [IdRange { inside: 0, outside: 0, count: u32::MAX }]);
        let own = IdMaps::of_process("self").unwrap();
        assert!(own.maps_as(&own.clone()));
    }
}
