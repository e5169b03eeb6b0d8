//! What the tests of the command share: a store of their own, and what is asked of the machine.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]
#![allow(dead_code, unreachable_pub, reason = "every test file uses a part")]

mod busybox;
pub(crate) mod sound;

use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) use layermount_fixtures::requirement::skip as missing;

/// A temporary directory with a store in it, and the command that uses it.
pub(crate) struct World {
    directory: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        // Not /tmp where that may be a tmpfs: layers are large.
        Self { directory: tempfile::Builder::new().prefix("layermount-test-").tempdir_in("/var/tmp").unwrap() }
    }

    /// For what is made and removed many times, and needs no disk.
    pub(crate) fn in_memory() -> Self {
        Self { directory: tempfile::Builder::new().prefix("layermount-test-").tempdir_in("/dev/shm").unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    pub(crate) fn layermount(&self) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("layermount"));
        command.arg("--store").arg(self.store());
        command
    }

    /// Runs the command to its end; it must succeed. Returns what it printed.
    #[track_caller]
    pub(crate) fn output(&self, arguments: &[&str]) -> String {
        let output = self.layermount().args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Mounts an image, read-only, in a directory of its own.
    #[track_caller]
    pub(crate) fn mount(&self, flags: &[&str], reference: &str) -> PathBuf {
        let target = self.path().join("mounted");
        std::fs::create_dir_all(&target).unwrap();
        let mut arguments = vec!["mount"];
        arguments.extend(flags);
        arguments.extend([reference, target.to_str().unwrap()]);
        self.output(&arguments);
        target
    }

    pub(crate) fn unmount_all(&self) {
        self.output(&["umount", self.path().join("mounted").to_str().unwrap()]);
    }

    /// Name and inode of every layer in the store.
    pub(crate) fn layer_inodes(&self) -> Vec<(PathBuf, u64)> {
        use std::os::unix::fs::MetadataExt;
        let mut layers = Vec::new();
        for shelf in std::fs::read_dir(self.store().join("layers")).into_iter().flatten() {
            for layer in std::fs::read_dir(shelf.unwrap().path()).unwrap() {
                let layer = layer.unwrap();
                layers.push((layer.path(), layer.metadata().unwrap().ino()));
            }
        }
        layers.sort();
        layers
    }

    /// Processes whose root is an overlay over this store.
    pub(crate) fn processes_in_store(&self) -> Vec<String> {
        let store = self.store();
        let mut found = Vec::new();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let mounts = std::fs::read_to_string(process.path().join("mountinfo")).unwrap_or_default();
            if mounts.contains(store.to_str().unwrap()) {
                found.push(std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default());
            }
        }
        found
    }
}

/// Moves the calling test (its thread) into a mount namespace of its own.
pub(crate) fn private_mounts() {
    use nix::mount::{MsFlags, mount};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
}

/// The mounts of this process's first thread: what the machine sees. Engines' own mounts come and go with containers.
pub(crate) fn host_mounts() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| !line.contains("/overlay2/") && !line.contains("/netns/")).map(str::to_owned).collect()
}

#[track_caller]
pub(crate) fn root() -> Option<()> {
    if nix::unistd::geteuid().is_root() {
        return Some(());
    }
    missing("root", "not root");
    None
}

/// The real image as an OCI layout.
#[track_caller]
pub(crate) fn real_image() -> Option<PathBuf> {
    root()?;
    match std::env::var_os("LAYERMOUNT_TEST_IMAGE") {
        Some(layout) => Some(layout.into()),
        None => {
            missing("docker", "LAYERMOUNT_TEST_IMAGE does not name the real image (fixtures/real-image builds it)");
            None
        }
    }
}

/// The dockerd that holds the real image, with overlay2.
#[track_caller]
pub(crate) fn docker_host() -> Option<String> {
    host_in("LAYERMOUNT_TEST_DOCKER_HOST")
}

/// The dockerd that holds the real image, with vfs.
#[track_caller]
pub(crate) fn docker_vfs_host() -> Option<String> {
    host_in("LAYERMOUNT_TEST_DOCKER_VFS_HOST")
}

#[track_caller]
fn host_in(variable: &str) -> Option<String> {
    root()?;
    let host = std::env::var(variable).ok();
    if host.is_none() {
        missing("docker", &format!("{variable} does not name a dockerd for tests"));
    }
    host
}

/// Whether a program is installed.
#[track_caller]
pub(crate) fn program(name: &str) -> Option<()> {
    let found = std::env::split_paths(&std::env::var_os("PATH")?).any(|directory| directory.join(name).exists());
    if !found {
        missing("docker", &format!("{name} is not installed"));
    }
    found.then_some(())
}

#[track_caller]
pub(crate) fn docker(host: &str, arguments: &[&str]) -> String {
    let output = Command::new("docker").args(["-H", host]).args(arguments).output().unwrap();
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
