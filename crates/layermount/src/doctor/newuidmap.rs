//! Why newuidmap(1) and newgidmap(1) do not map what is granted.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

use crate::error::{Error, ErrorKind};

/// What to change, where more is known than the error knows.
pub(super) fn remedy(error: &Error) -> Option<String> {
    if error.kind() != ErrorKind::PermissionDenied {
        return None;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if forbids_new_privileges(&status) {
        return Some(
            "start this process without no_new_privs: in a systemd unit, NoNewPrivileges=no; in Docker, without \
             --security-opt no-new-privileges"
                .to_owned(),
        );
    }
    ["newuidmap", "newgidmap"].into_iter().find_map(|name| {
        let program = find(name)?;
        let shown = program.display();
        if is_nosuid(&program) {
            Some(format!("as root: mount -o remount,suid the file system of {shown}"))
        } else if !has_privileges(&program) {
            Some(format!("as root: chmod u+s {shown}"))
        } else {
            None
        }
    })
}

fn forbids_new_privileges(status: &str) -> bool {
    status.lines().any(|line| line.strip_prefix("NoNewPrivs:").is_some_and(|value| value.trim() == "1"))
}

fn find(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|directory| directory.join(name)).find(|path| path.is_file())
}

fn is_nosuid(program: &Path) -> bool {
    rustix::fs::statvfs(program).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::NOSUID))
}

/// Set-uid root, or with capabilities of its own.
fn has_privileges(program: &Path) -> bool {
    let is_set_uid = rustix::fs::stat(program).is_ok_and(|stat| stat.st_uid == 0 && stat.st_mode & 0o4000 != 0);
    is_set_uid
        || rustix::fs::getxattr(program.as_os_str().as_bytes(), c"security.capability", &mut [0_u8; 64][..]).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_new_privs_is_a_field_of_its_own() {
        assert!(forbids_new_privileges("Name:\tx\nNoNewPrivs:\t1\n"));
        assert!(!forbids_new_privileges("Name:\tx\nNoNewPrivs:\t0\nSeccomp:\t1\n"));
        assert!(!forbids_new_privileges(""));
    }
}
