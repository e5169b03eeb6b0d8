//! What the tests of the command share: a store of their own, and what is asked of the machine.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]
#![allow(dead_code, unreachable_pub, unused_imports, unused_macros, reason = "every test file uses a part")]

mod busybox;
pub(crate) mod person;
pub(crate) mod sound;
pub(crate) mod twin;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub(crate) use layermount_fixtures::requirement::skip as missing;

/// What layers become in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    Dir,
    Erofs,
}

impl Backing {
    pub(crate) const VARIABLE: &str = "LAYERMOUNT_BACKING";

    /// As the flag and the variable have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dir => "dir",
            Self::Erofs => "erofs",
        }
    }

    /// The directory below `layers/`, for root.
    pub(crate) fn shelf(self) -> &'static str {
        match self {
            Self::Dir => "dir-trusted",
            Self::Erofs => "erofs",
        }
    }

    /// What is mounted, in the directory of a layer.
    pub(crate) fn content(self) -> &'static str {
        match self {
            Self::Dir => "fs",
            Self::Erofs => "image",
        }
    }
}

/// Makes two tests of each function that takes a [`Backing`]: a promise that holds whatever layers are stored as. The one for
/// EROFS is skipped where that cannot be had.
macro_rules! for_both_backings {
    ($($test:ident),+ $(,)?) => {
        mod dir {
            $(#[test]
            fn $test() {
                super::$test(super::world::Backing::Dir);
            })+
        }

        mod erofs {
            $(#[test]
            fn $test() {
                if super::world::erofs().is_some() {
                    super::$test(super::world::Backing::Erofs);
                }
            })+
        }
    };
}
pub(crate) use for_both_backings;

/// A temporary directory with a store in it, and the command that uses it.
pub(crate) struct World {
    directory: tempfile::TempDir,
    backing: Option<Backing>,
}

impl World {
    /// Layers become what layermount finds best.
    pub(crate) fn new() -> Self {
        Self::at("/var/tmp", None)
    }

    pub(crate) fn with_backing(backing: Backing) -> Self {
        Self::at("/var/tmp", Some(backing))
    }

    /// For what is made and removed many times, and needs no disk unless the kernel does to mount it.
    pub(crate) fn in_memory(backing: Backing) -> Self {
        let parent = match backing {
            Backing::Dir => "/dev/shm",
            Backing::Erofs => "/var/tmp",
        };
        Self::at(parent, Some(backing))
    }

    /// Not in /tmp where that may be a tmpfs: layers are large.
    fn at(parent: &str, backing: Option<Backing>) -> Self {
        Self { directory: tempfile::Builder::new().prefix("layermount-test-").tempdir_in(parent).unwrap(), backing }
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
        self.choose_backing(&mut command);
        command
    }

    /// Has layermount, whoever starts it, make of layers what this world is about.
    pub(crate) fn choose_backing<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        match self.backing {
            Some(backing) => command.env(Backing::VARIABLE, backing.name()),
            None => command.env_remove(Backing::VARIABLE),
        }
    }

    /// A variable for images whose programs are searched for: over EROFS, no mount of theirs tells what they run in.
    pub(crate) fn mark(&self) -> String {
        format!("WORLD={}", self.path().display())
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

    /// Processes whose root is an overlay over this store: what they have mounted shows it, or, where it is of EROFS, the
    /// [mark](Self::mark) of their image. Before it executes its program, a process has layermount's own words.
    pub(crate) fn processes_in_store(&self) -> Vec<String> {
        let (store, mark) = (self.store(), self.mark());
        let store = store.to_str().unwrap();
        let namespace = |process: &Path| std::fs::read_link(process.join("ns/mnt")).ok();
        let ours = namespace(Path::new("/proc/self"));
        let mut found = Vec::new();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let read = |name: &str| {
                let bytes = std::fs::read(process.path().join(name)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).into_owned()
            };
            let words = read("cmdline");
            let is_marked = || read("environ").split('\0').any(|variable| variable == mark);
            let is_on_its_way = || {
                let theirs = namespace(&process.path());
                words.split('\0').any(|word| word == store) && theirs.is_some() && theirs != ours
            };
            if read("mountinfo").contains(store) || is_marked() || is_on_its_way() {
                found.push(words);
            }
        }
        found
    }
}

/// For what another process is about to do.
#[track_caller]
pub(crate) fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(std::time::Duration::from_millis(2));
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

/// Whether EROFS files can be mounted out of stores in `/var/tmp`.
#[track_caller]
pub(crate) fn erofs() -> Option<()> {
    static REFUSAL: OnceLock<Option<String>> = OnceLock::new();
    let ask = || {
        if !nix::unistd::geteuid().is_root() {
            return Some("not root".to_owned());
        }
        let world = World::with_backing(Backing::Erofs);
        let layout = layermount_fixtures::Layout::create(world.path().join("layout")).unwrap();
        let image = layermount_fixtures::Recipe::parse("layer\nfile 0644 0:0 /file \"x\"\n").unwrap().build().unwrap();
        layout.add("image", &image).unwrap();
        let reference = format!("oci:{}:image", layout.path().display());
        let output = world.layermount().args(["pull", &reference]).output().unwrap();
        // Whatever else it says is for the tests to find.
        let said = String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
        said.contains("EROFS files").then_some(said)
    };
    match REFUSAL.get_or_init(ask) {
        None => Some(()),
        Some(refusal) => {
            missing("erofs", refusal);
            None
        }
    }
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
