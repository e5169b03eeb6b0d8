//! What `/proc` says of a process: proc_pid_status(5), proc_pid_environ(5), proc_pid_uid_map(5).

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use rustix::io::Errno;

use super::error::RunningError;
use super::namespaces::Way;
use crate::capabilities::Capabilities;
use crate::error::{SyscallContext, SyscallError};

/// More than the kernel takes for a new program by default; a process may have made its own larger.
const MOST_BYTES: u64 = 4 << 20;

#[derive(Debug)]
pub(crate) struct Facts {
    /// As the process itself sees them.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) bounding: Capabilities,
    pub(crate) no_new_privileges: bool,
    #[cfg(feature = "seccomp")]
    pub(crate) is_filtered: bool,
    /// Its user namespace has no other groups.
    pub(crate) single_user: bool,
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) directory: PathBuf,
}

impl Facts {
    /// `way` is the one to it, if it is not in the caller's own namespaces.
    pub(super) fn of(pid: u32, way: Option<&Way>) -> Result<Self, RunningError> {
        let read = |name: &str| read(pid, name).map_err(|cause| RunningError::Look { pid, cause });
        let text = |name: &str| read(name).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let another_user_namespace = way.is_some_and(Way::is_in_another_user_namespace);
        let environ = match (read("environ"), way) {
            (Err(RunningError::Look { cause, .. }), Some(way)) if cause.errno() == Errno::ACCESS => {
                let path = format!("/proc/{pid}/environ");
                let file = way.open_as_owner(&path).map_err(|cause| RunningError::Look { pid, cause })?;
                contents(file.into(), &path).map_err(|cause| RunningError::Look { pid, cause })?
            }
            (environ, _) => environ?,
        };
        let status = text("status")?;
        let field = |field: &'static str| {
            let found = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            found.map(str::trim).ok_or(RunningError::Status { pid, field })
        };
        // A process in the reader's own user namespace has its map told in terms of the one around.
        let map = |name: &str| {
            if another_user_namespace { text(name).map(|map| Map::parse(&map)) } else { Ok(Map(Vec::new())) }
        };
        let (users, groups) = (map("uid_map")?, map("gid_map")?);
        // Real, effective, saved, file system.
        let effective = |field: &str| field.split_whitespace().nth(1).and_then(|id| id.parse().ok());
        let missing = |field| RunningError::Status { pid, field };
        let bounding = u64::from_str_radix(field("CapBnd")?, 16).map_err(|_| missing("CapBnd"))?;
        let cwd = format!("/proc/{pid}/cwd");
        let directory = rustix::fs::readlink(cwd.as_str(), Vec::new()).syscall("readlink", || cwd.clone());
        let directory = directory.map_err(|cause| RunningError::Look { pid, cause })?;
        Ok(Self {
            uid: users.inside(effective(field("Uid")?).ok_or_else(|| missing("Uid"))?),
            gid: groups.inside(effective(field("Gid")?).ok_or_else(|| missing("Gid"))?),
            groups: field("Groups")?
                .split_whitespace()
                .filter_map(|id| Some(groups.inside(id.parse().ok()?)))
                .collect(),
            bounding: Capabilities::from_bits(bounding),
            no_new_privileges: field("NoNewPrivs")? == "1",
            #[cfg(feature = "seccomp")]
            // A kernel without filters says nothing of them.
            is_filtered: field("Seccomp").is_ok_and(|mode| mode != "0"),
            single_user: text("setgroups")?.trim() == "deny",
            environment: variables(&environ),
            directory: directory_of(directory.into_bytes()),
        })
    }
}

fn read(pid: u32, name: &str) -> Result<Vec<u8>, SyscallError> {
    let path = format!("/proc/{pid}/{name}");
    contents(File::open(&path).syscall("open", || path.clone())?, &path)
}

fn contents(file: File, path: &str) -> Result<Vec<u8>, SyscallError> {
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes).syscall("read", || path.to_owned())?;
    Ok(bytes)
}

/// What a process has made of its environment may be anything.
fn variables(environ: &[u8]) -> Vec<(OsString, OsString)> {
    let text = |bytes: &[u8]| OsString::from_vec(bytes.to_owned());
    let variables = environ.split(|byte| *byte == 0).filter_map(|variable| {
        let equals = variable.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
        Some((text(variable.get(..equals)?), text(variable.get(equals + 1..)?)))
    });
    variables.collect()
}

/// As the process sees it, unless the directory is gone or lies in another tree.
fn directory_of(link: Vec<u8>) -> PathBuf {
    let is_usable = link.starts_with(b"/") && !link.ends_with(b" (deleted)");
    PathBuf::from(OsString::from_vec(if is_usable { link } else { b"/".to_vec() }))
}

/// Lines of inside, outside, count.
struct Map(Vec<[u32; 3]>);

impl Map {
    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
            Some([numbers.next()??, numbers.next()??, numbers.next()??])
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// What is not mapped is left as it is.
    fn inside(&self, outside: u32) -> u32 {
        let of = |[inside, start, count]: &[u32; 3]| {
            let offset = outside.checked_sub(*start).filter(|offset| offset < count)?;
            inside.checked_add(offset)
        };
        self.0.iter().find_map(of).unwrap_or(outside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_process() {
        let map = Map::parse("         0       1000          1\n         1     100000      65536\n");
        assert_eq!([1000, 100_000, 100_999, 7].map(|id| map.inside(id)), [0, 1, 1000, 7]);
        assert_eq!(Map::parse("").inside(5), 5);
    }

    #[test]
    fn environments_and_directories_may_be_anything() {
        let found = variables(b"A=1\0=x\0nothing\0B=\0\0C=a=b");
        let found: Vec<_> =
            found.iter().map(|(name, value)| (name.to_str().unwrap(), value.to_str().unwrap())).collect();
        assert_eq!(found, [("A", "1"), ("B", ""), ("C", "a=b")]);
        assert_eq!(directory_of(b"/srv".to_vec()), PathBuf::from("/srv"));
        for odd in [&b"/srv (deleted)"[..], b"(unreachable)/x", b""] {
            assert_eq!(directory_of(odd.to_vec()), PathBuf::from("/"));
        }
    }

    #[test]
    fn this_very_process() {
        let facts = Facts::of(std::process::id(), None).unwrap();
        assert_eq!(facts.uid, rustix::process::geteuid().as_raw());
        assert!(facts.environment.iter().any(|(name, _)| name == "PATH"));
        assert_eq!(facts.directory, std::env::current_dir().unwrap());
    }
}
