//! Which processes have overlays made of which directories.
//!
//! Read from `/proc/PID/mountinfo` (proc_pid_mountinfo(5)). What an overlay's options show of its directories has been escaped
//! up to twice: by overlayfs (`\` before `,`, `:` and `\` in the joined forms), then by the kernel's mangling (`\054` and the
//! like). Since a path may contain anything, texts are compared after both are undone.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::caller::in_initial_user_namespace;

/// A process that uses something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) pid: u32,
    /// The short name of its program.
    pub(crate) comm: String,
}

/// The processes in whose mount namespaces an overlay has a lower, upper or work directory at or below `path`, one for each
/// namespace that is known as one. `path` must be absolute and free of links.
pub(crate) fn users_of(path: &Path) -> Vec<User> {
    let uses = |mounts: &[u8]| overlay_directories(mounts).any(|directory| directory.starts_with(path));
    let users = mount_tables().filter(|(_, mounts)| uses(mounts));
    users.map(|(pid, _)| User { pid, comm: comm(pid) }).collect()
}

/// Every directory that is a part of an overlay of the caller's own processes, or of others'.
pub(crate) fn overlay_directories_in_use() -> HashSet<PathBuf> {
    mount_tables().flat_map(|(_, mounts)| overlay_directories(&mounts).collect::<Vec<_>>()).collect()
}

/// Different mount tables, each with one of the processes that have it.
///
/// Processes that the caller may not look into belong to other users and are passed over, but in a user namespace those of its own
/// user outside are among them: which mount namespace they are in is not known there, only what is mounted in it.
fn mount_tables() -> impl Iterator<Item = (u32, Vec<u8>)> {
    let everybody = !in_initial_user_namespace();
    let mut namespaces = HashSet::new();
    let mut tables = HashSet::new();
    processes().filter_map(move |pid| {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let read = || std::fs::read(process.join("mountinfo")).ok();
        match std::fs::read_link(process.join("ns/mnt")) {
            Ok(namespace) if namespaces.insert(namespace.clone()) => Some((pid, read()?)),
            Err(_) if everybody => {
                let mounts = read()?;
                tables.insert(mounts.clone()).then_some((pid, mounts))
            }
            _ => None,
        }
    })
}

/// The process that holds a `flock` on this file, as far as `/proc/locks` says.
pub(crate) fn lock_holder(file: BorrowedFd<'_>) -> Option<User> {
    let stat = rustix::fs::fstat(file.as_fd()).ok()?;
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let file = format!("{major:02x}:{minor:02x}:{}", stat.st_ino);
    // "1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = locks.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        [_, "FLOCK", _, _, pid, held, ..] if *held == file => pid.parse().ok(),
        _ => None,
    })?;
    Some(User { pid, comm: comm(pid) })
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn comm(pid: u32) -> String {
    let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_ascii_end().escape_ascii().to_string()
}

/// All directories that the overlays of one mountinfo are made of.
fn overlay_directories(mountinfo: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    mountinfo.split(|byte| *byte == b'\n').flat_map(|line| {
        // "36 35 98:0 /root /point options... - type source superoptions"
        let mut fields = line.split(|byte| *byte == b' ').skip_while(|field| *field != b"-").skip(1);
        let (kind, _source, options) = (fields.next(), fields.next(), fields.next().unwrap_or_default());
        let options = if kind == Some(b"overlay") { options } else { &[] };
        split_unescaped(options, b',').flat_map(directories_of_option)
    })
}

fn directories_of_option(option: &[u8]) -> Vec<PathBuf> {
    let Some(equals) = option.iter().position(|byte| *byte == b'=') else { return Vec::new() };
    let (key, value) = option.split_at(equals);
    let value = unmangle(value.get(1..).unwrap_or_default());
    let path = |bytes: &[u8]| PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()));
    match key {
        // Joined: colons divide unless escaped. Both readings are given where they differ, because new kernels print
        // single directories without escapes.
        b"lowerdir" | b"upperdir" | b"workdir" => {
            let mut readings: Vec<_> = split_unescaped(&value, b':').map(|part| path(&unescape(part))).collect();
            readings.push(path(&value));
            readings.retain(|reading| reading.is_absolute());
            readings.dedup();
            readings
        }
        b"lowerdir+" | b"datadir+" => vec![path(&value)],
        _ => Vec::new(),
    }
}

/// Divides at `separator`, except behind a backslash.
fn split_unescaped(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut escaped = false;
    text.split(move |byte| {
        let divides = *byte == separator && !escaped;
        escaped = *byte == b'\\' && !escaped;
        divides
    })
}

/// `\054` → `,`: three octal digits behind a backslash.
pub(crate) fn unmangle(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = match (byte, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'))
            }
            _ => None,
        };
        plain.push(octal.unwrap_or(byte));
        rest = if octal.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    plain
}

/// `\:` → `:`: a backslash before anything.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut escaped = false;
    let mut plain = text.to_vec();
    plain.retain(|byte| {
        escaped = *byte == b'\\' && !escaped;
        !escaped
    });
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directories(options: &str) -> Vec<String> {
        let line = format!("70 45 0:39 / /a\\040- rw,relatime shared:1 - overlay none {options}\n");
        overlay_directories(line.as_bytes()).map(|path| path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn directories_are_read_from_every_form() {
        assert_eq!(
            directories("rw,lowerdir+=/s\\054\\040v/a,lowerdir+=/s:v/b,upperdir=/u/upper,uuid=on"),
            ["/s, v/a", "/s:v/b", "/u/upper"]
        );
        assert!(directories("rw,lowerdir=/a:/b\\:c:/d,workdir=/w").starts_with(&[
            "/a".into(),
            "/b:c".into(),
            "/d".into()
        ]));
        assert!(directories("rw,lowerdir=/a\\134:x:/b").contains(&"/a:x".to_owned()));
    }

    #[test]
    fn other_file_systems_do_not_count() {
        let line = b"1 0 0:1 / / rw - ext4 /dev/vda lowerdir=/a\n\n- overlay\ngarbage";
        assert_eq!(overlay_directories(line).count(), 0);
    }

    #[test]
    fn hostile_texts_end() {
        for text in ["\\", "\\05", "a\\", "=", "lowerdir=", "lowerdir=\\", ",,,=,\\,"] {
            let _ = directories(text);
        }
        assert_eq!(unmangle(b"\\054\\999\\05"), b",\\999\\05");
        assert_eq!(unescape(br"a\:b\\c"), br"a:b\c");
    }
}
