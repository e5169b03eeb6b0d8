//! `newuidmap` and `newgidmap`.

use std::io::{self, Read as _};
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::process::Pid;

use super::UserNamespaceError;
use super::maps::{IdMaps, IdRange};
use crate::error::Result;

/// Both at work.
#[derive(Debug)]
pub(super) struct Helpers {
    pid: Pid,
    running: Vec<Helper>,
}

/// One of them.
#[derive(Debug)]
struct Helper {
    name: &'static str,
    child: Child,
    /// The file that it writes.
    map: &'static str,
}

impl Helpers {
    /// Has them write the maps of a process.
    pub(super) fn start(pid: Pid, maps: &IdMaps) -> Result<Self> {
        let start = |name: &'static str, map: &'static str, ranges: &[IdRange]| -> Result<_> {
            let mut command = Command::new(name);
            command.arg(pid.as_raw_pid().to_string());
            for IdRange { inside, outside, count } in ranges {
                command.args([inside, outside, count].map(u32::to_string));
            }
            // What it says is in no other language then.
            command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            match command.spawn() {
                Ok(child) => Ok(Helper { name, child, map }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Err(UserNamespaceError::NoHelper { name }.into())
                }
                Err(cause) => Err(UserNamespaceError::Helper { name, cause }.into()),
            }
        };
        let mut helpers = Self { pid, running: Vec::with_capacity(2) };
        helpers.running.push(start("newuidmap", "uid_map", maps.uids())?);
        helpers.running.push(start("newgidmap", "gid_map", maps.gids())?);
        Ok(helpers)
    }

    /// Waits for both.
    pub(super) fn finish(mut self) -> Result<()> {
        while let Some(helper) = self.running.pop() {
            helper.finish(self.pid)?;
        }
        Ok(())
    }
}

/// They end by themselves, and are no zombies then.
impl Drop for Helpers {
    fn drop(&mut self) {
        for helper in &mut self.running {
            let _ = helper.child.wait();
        }
    }
}

impl Helper {
    fn finish(self, pid: Pid) -> Result<(), UserNamespaceError> {
        let Self { name, mut child, map } = self;
        let mut said = String::new();
        if let Some(stderr) = child.stderr.take() {
            // It says a line at most; what more there may be is not waited for.
            let _ = stderr.take(4096).read_to_string(&mut said);
        }
        match child.wait() {
            Ok(status) if status.success() => return Ok(()),
            Ok(_) => {}
            // It has ended, but its status is gone: SIGCHLD is ignored, or the program waits for all children itself. What it was
            // to do tells.
            Err(cause) if cause.raw_os_error() == Some(Errno::CHILD.raw_os_error()) => {
                if is_written(pid, map) {
                    return Ok(());
                }
            }
            Err(cause) => return Err(UserNamespaceError::Helper { name, cause }),
        }
        let said = said.lines().next().unwrap_or_default().trim();
        let said = said.strip_prefix(name).and_then(|said| said.strip_prefix(": ")).unwrap_or(said);
        Err(UserNamespaceError::Refused { name, said: said.to_owned() })
    }
}

/// A map is written at once or not at all, and never again.
fn is_written(pid: Pid, map: &str) -> bool {
    let path = format!("/proc/{}/{map}", pid.as_raw_pid());
    std::fs::read_to_string(path).is_ok_and(|text| !text.trim().is_empty())
}
