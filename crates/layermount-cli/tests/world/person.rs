//! An ordinary user of this machine, and an image of many.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use layermount_fixtures::{Layout, Recipe};
use nix::unistd::{Gid, Uid, User, chown};

use super::sound::layermount;
use super::{World, missing, program, root};

/// Files of several users. `beyond` comes after them, with IDs that Debian grants nobody.
const SEVERAL: &str = r##"
env PATH=/bin
entrypoint sh -c

layer "the shell, which may become others"
dir  0755 0:0 /
dir  0755 0:0 /bin
copy 0755 0:0 /bin/busybox /usr/bin/busybox
copy 4755 0:0 /bin/su /usr/bin/busybox
symlink /bin/sh -> busybox

layer "the users"
dir  0755 0:0 /etc
file 0644 0:0 /etc/passwd "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/home/guest:/bin/sh\n"
file 0644 0:0 /etc/group "root:x:0:\nshadow:x:42:guest\nguest:x:1000:\n"
file 0640 0:42 /etc/shadow "root:*:::::::\n"
dir  2775 0:8 /var/mail
dir  0755 1000:1000 /home/guest
dir  0000 33:33 /closed
file 0600 33:33 /closed/file "closed\n"
dir  0300 1000:1000 /drop
file 0600 33:33 /drop/file "dropped\n"
file 4755 33:33 /bin/as-33 "#!/bin/sh\n"
"##;

const BEYOND: &str = r#"
layer "users beyond the ranges"
file 6755 100000:100000 /beyond "x"
file 6755 5:100000 /beyond-group "x"
"#;

/// What of the machine is otherwise for a command. The machine itself stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Otherwise {
    /// Nobody is granted subordinate IDs.
    NoRanges,
    /// `newuidmap` and `newgidmap` are nowhere.
    NoHelpers,
    /// They are there, and not set-user-ID.
    PowerlessHelpers,
    /// What is there in their place cannot be executed.
    BrokenHelpers,
    /// Nobody may make user namespaces.
    NoNamespaces,
    /// Everybody may make tun devices, as where udev has made the node.
    OpenTun,
}

/// An ordinary user with subordinate IDs.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// What 1 is outside of the user namespace.
    pub(crate) first_subuid: u32,
    pub(crate) first_subgid: u32,
}

impl Person {
    /// The one that `.ci/run` makes.
    #[track_caller]
    pub(crate) fn find() -> Option<Self> {
        root()?;
        let Ok(name) = std::env::var("LAYERMOUNT_TEST_USER") else {
            missing("user", "LAYERMOUNT_TEST_USER does not name an ordinary user with subordinate IDs");
            return None;
        };
        let user = User::from_name(&name).unwrap().expect("LAYERMOUNT_TEST_USER names a user");
        let first = |file: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let range = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")).map(str::to_owned));
            range.and_then(|range| range.split(':').next()?.parse().ok())
        };
        let (Some(first_subuid), Some(first_subgid)) = (first("/etc/subuid"), first("/etc/subgid")) else {
            missing("user", &format!("{name} has no subordinate IDs"));
            return None;
        };
        if !Path::new("/usr/bin/newuidmap").exists() {
            missing("user", "newuidmap (package uidmap) is not installed");
            return None;
        }
        Some(Self { name, uid: user.uid.as_raw(), gid: user.gid.as_raw(), first_subuid, first_subgid })
    }

    /// What an ID inside is outside.
    pub(crate) fn uid_outside(&self, inside: u32) -> u32 {
        if inside == 0 { self.uid } else { self.first_subuid + inside - 1 }
    }

    /// What an ID inside is outside.
    pub(crate) fn gid_outside(&self, inside: u32) -> u32 {
        if inside == 0 { self.gid } else { self.first_subgid + inside - 1 }
    }
}

/// A directory of that user's, with the command and images in it.
pub(crate) struct Home {
    pub(crate) world: World,
    pub(crate) person: Person,
}

impl Home {
    #[track_caller]
    pub(crate) fn new() -> Option<Self> {
        let home = Self { person: Person::find()?, world: World::new() };
        let command = home.path("layermount");
        if std::fs::hard_link(layermount(), &command).is_err() {
            std::fs::copy(layermount(), &command).unwrap();
        }
        chown(home.world.path(), Some(Uid::from_raw(home.person.uid)), Some(Gid::from_raw(home.person.gid))).unwrap();
        let mut probe = home.as_person(&[]);
        if !probe.args(["unshare", "--user", "true"]).output().unwrap().status.success() {
            missing("userns", "ordinary users cannot make user namespaces here");
            return None;
        }
        Some(home)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.world.path().join(name)
    }

    /// Makes a directory that belongs to the user.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir(&path).unwrap();
        chown(&path, Some(Uid::from_raw(self.person.uid)), Some(Gid::from_raw(self.person.gid))).unwrap();
        path
    }

    /// Makes an image, and says its reference.
    pub(crate) fn image(&self, name: &str, recipe: &str) -> String {
        let directory = self.path(name);
        let image = Recipe::parse(recipe).unwrap().build().unwrap();
        Layout::create(&directory).unwrap().add("image", &image).unwrap();
        format!("oci:{}:image", directory.display())
    }

    /// An image with files of several users.
    #[track_caller]
    pub(crate) fn several(&self) -> Option<String> {
        program("busybox")?;
        Some(self.image("several", SEVERAL))
    }

    /// The same, and files of users whom the person has not.
    #[track_caller]
    pub(crate) fn beyond(&self) -> Option<String> {
        program("busybox")?;
        Some(self.image("beyond", &[SEVERAL, BEYOND].concat()))
    }

    /// Where layers are kept.
    pub(crate) fn store(&self) -> PathBuf {
        self.path(".local/share/layermount")
    }

    /// A command that runs the arguments that it is given as the user.
    pub(crate) fn as_person(&self, changes: &[Otherwise]) -> Command {
        let mut as_root: String = changes.iter().flat_map(|change| self.covered_by(*change)).collect();
        as_root += "exec \"$@\"";
        let mut command = Command::new("/usr/bin/unshare");
        command.args(["--mount", "--propagation", "private", "--", "/bin/sh", "-euc", &as_root, "sh"]);
        let (uid, gid) = (self.person.uid.to_string(), self.person.gid.to_string());
        command.args(["/usr/bin/setpriv", "--reuid", &uid, "--regid", &gid, "--init-groups", "--"]);
        if changes.contains(&Otherwise::NoNamespaces) {
            // The limit counts for the namespace that it is set in, and those below: one that is the user's own.
            let forbid = "echo 0 >/proc/sys/user/max_user_namespaces; exec \"$@\"";
            command.args(["/usr/bin/unshare", "--user", "--map-current-user", "--keep-caps", "--"]);
            command.args(["/bin/sh", "-euc", forbid, "sh", "/usr/bin/setpriv"]);
            command.args(["--ambient-caps=-all", "--inh-caps=-all", "--bounding-set=-all", "--"]);
        }
        // Whatever else is needed is named by its path.
        let path = if changes.contains(&Otherwise::NoHelpers) { "/nowhere" } else { "/usr/sbin:/usr/bin:/sbin:/bin" };
        command.env_clear().env("PATH", path).env("HOME", self.world.path()).current_dir("/").stdin(Stdio::null());
        command
    }

    /// Commands that mount what the user is to see in place of the machine's files.
    fn covered_by(&self, change: Otherwise) -> Vec<String> {
        let cover = |file: &str, by: &Path| format!("/usr/bin/mount --bind {} {file}; ", by.display());
        let nothing = Path::new("/dev/null");
        let helpers = ["newuidmap", "newgidmap"];
        match change {
            Otherwise::NoHelpers | Otherwise::NoNamespaces => Vec::new(),
            Otherwise::OpenTun => {
                // In a memory of its own: where tests lie, devices may be forbidden.
                let node = "/usr/bin/mount -t tmpfs tun /mnt; /usr/bin/mknod -m 666 /mnt/tun c 10 200; ";
                vec![
                    node.to_owned(),
                    cover("/dev/net/tun", Path::new("/mnt/tun")),
                    "/usr/bin/umount -l /mnt; ".to_owned(),
                ]
            }
            Otherwise::NoRanges => ["/etc/subuid", "/etc/subgid"].map(|file| cover(file, nothing)).to_vec(),
            Otherwise::BrokenHelpers => helpers.map(|helper| cover(&format!("/usr/bin/{helper}"), nothing)).to_vec(),
            Otherwise::PowerlessHelpers => {
                let copy = |helper: &str| {
                    let (installed, copy) = (format!("/usr/bin/{helper}"), self.path(helper));
                    // Capabilities are not copied, and the bits are taken away.
                    std::fs::copy(&installed, &copy).unwrap();
                    std::fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
                    cover(&installed, &copy)
                };
                helpers.map(copy).to_vec()
            }
        }
    }

    /// `layermount` as the user, to whom it belongs.
    pub(crate) fn command(&self, changes: &[Otherwise], arguments: &[&str]) -> Command {
        let mut command = self.as_person(changes);
        command.arg(self.path("layermount")).args(arguments);
        command
    }

    pub(crate) fn layermount(&self, changes: &[Otherwise], arguments: &[&str]) -> Said {
        Said::of(&self.command(changes, arguments).output().unwrap())
    }

    /// Runs it to its end; it must succeed and say nothing but what it was asked for.
    #[track_caller]
    pub(crate) fn prints(&self, arguments: &[&str]) -> String {
        let said = self.layermount(&[], arguments);
        assert_eq!((said.status, said.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        said.stdout
    }

    /// Starts it, and waits for the first line that it prints. It ends when its standard input does.
    #[track_caller]
    pub(crate) fn start(&self, arguments: &[&str]) -> Started {
        let mut command = self.command(&[], arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut first).unwrap();
        assert_eq!(first, "up\n", "{arguments:?}");
        Started { child, output }
    }

    /// Where a path of the image lies in the store.
    #[track_caller]
    pub(crate) fn in_store(&self, path: &str) -> PathBuf {
        let mut found = Vec::new();
        for shelf in std::fs::read_dir(self.store().join("layers")).unwrap() {
            for layer in std::fs::read_dir(shelf.unwrap().path()).unwrap() {
                found.push(layer.unwrap().path().join("fs").join(path));
            }
        }
        found.retain(|path| path.symlink_metadata().is_ok());
        assert_eq!(found.len(), 1, "{path} is not in one layer: {found:?}");
        found.remove(0)
    }

    /// The shelves that have layers, by name.
    pub(crate) fn shelves(&self) -> Vec<String> {
        let mut found = Vec::new();
        for shelf in std::fs::read_dir(self.store().join("layers")).into_iter().flatten().flatten() {
            if std::fs::read_dir(shelf.path()).unwrap().next().is_some() {
                found.push(shelf.file_name().into_string().unwrap());
            }
        }
        found.sort();
        found
    }

    /// Directories of processes that have not finished something.
    pub(crate) fn stages(&self) -> usize {
        std::fs::read_dir(self.store().join("stage")).map_or(0, Iterator::count)
    }
}

/// User, group and mode.
#[track_caller]
pub(crate) fn owner(path: &Path) -> (u32, u32, u32) {
    let found = path.symlink_metadata().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (found.uid(), found.gid(), found.mode() & 0o7777)
}

/// What became of a command.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { status: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Ended like this, having said all of that.
    #[track_caller]
    pub(crate) fn assert(&self, status: i32, parts: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:#?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in:\n{}", self.stderr);
        }
    }
}

/// A command that runs, and is killed if the test fails.
pub(crate) struct Started {
    pub(crate) child: Child,
    output: BufReader<ChildStdout>,
}

impl Started {
    /// Lets it end. Returns its status, and what else it has printed.
    pub(crate) fn finish(mut self) -> (Option<i32>, String) {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
