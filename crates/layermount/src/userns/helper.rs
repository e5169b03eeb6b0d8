//! `newuidmap` and `newgidmap`.

use std::io::{self, Read as _};
use std::process::{Child, Command, Stdio};

use rustix::process::Pid;

use super::UserNamespaceError;
use super::maps::{IdMaps, IdRange};
use crate::error::Result;

/// Both at work.
#[derive(Debug)]
pub(super) struct Helpers(Vec<(&'static str, Child)>);

impl Helpers {
    /// Has them write the maps of a process.
    pub(super) fn start(pid: Pid, maps: &IdMaps) -> Result<Self> {
        let start = |name: &'static str, ranges: &[IdRange]| -> Result<_> {
            let mut command = Command::new(name);
            command.arg(pid.as_raw_pid().to_string());
            for IdRange { inside, outside, count } in ranges {
                command.args([inside, outside, count].map(u32::to_string));
            }
            // What it says is in no other language then.
            command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            match command.spawn() {
                Ok(child) => Ok((name, child)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Err(UserNamespaceError::NoHelper { name }.into())
                }
                Err(cause) => Err(UserNamespaceError::Helper { name, cause }.into()),
            }
        };
        let mut helpers = Self(Vec::with_capacity(2));
        helpers.0.push(start("newuidmap", maps.uids())?);
        helpers.0.push(start("newgidmap", maps.gids())?);
        Ok(helpers)
    }

    /// Waits for both.
    pub(super) fn finish(mut self) -> Result<()> {
        while let Some((name, child)) = self.0.pop() {
            finish(name, child)?;
        }
        Ok(())
    }
}

/// They end by themselves, and are no zombies then.
impl Drop for Helpers {
    fn drop(&mut self) {
        for (_, child) in &mut self.0 {
            let _ = child.wait();
        }
    }
}

fn finish(name: &'static str, mut child: Child) -> Result<(), UserNamespaceError> {
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        // It says a line at most; what more there may be is not waited for.
        let _ = stderr.take(4096).read_to_string(&mut said);
    }
    let status = child.wait().map_err(|cause| UserNamespaceError::Helper { name, cause })?;
    if status.success() {
        return Ok(());
    }
    let said = said.lines().next().unwrap_or_default().trim();
    let said = said.strip_prefix(name).and_then(|said| said.strip_prefix(": ")).unwrap_or(said);
    Err(UserNamespaceError::Refused { name, said: said.to_owned() })
}
