//! The command as an ordinary user.
//!
//! Here as a user without a name, who is granted nothing; the other files have one with subordinate IDs, whom `.ci/run` makes.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

#[path = "rootless/fallback.rs"]
mod fallback;
#[path = "rootless/mount.rs"]
mod mount;
#[path = "rootless/mounts.rs"]
mod mounts;
#[path = "rootless/ranges.rs"]
mod ranges;
#[path = "rootless/real_image.rs"]
mod real_image;
#[path = "rootless/store.rs"]
mod store;
#[path = "rootless/userns.rs"]
mod userns;
mod world;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use nix::unistd::{Gid, Uid, chown};
use world::{Backing, World, missing, root};

/// Nobody's number on the machines that tests run on.
const USER: u32 = 54321;

/// A directory of that user's with an image in it, and a copy of the command that the user can reach.
struct Home {
    world: World,
    layermount: PathBuf,
    image: String,
}

impl Home {
    fn new() -> Option<Self> {
        root()?;
        let world = World::new();
        let image = format!("oci:{}:shell", world.shell_layout()?);
        let layermount = world.path().join("layermount");
        std::fs::copy(assert_cmd::cargo::cargo_bin!("layermount"), &layermount).unwrap();
        chown(world.path(), Some(Uid::from_raw(USER)), Some(Gid::from_raw(USER))).unwrap();
        let home = Self { world, layermount, image };
        let mut probe = Command::new("unshare");
        if !home.as_user(probe.args(["--user", "true"])).output().is_ok_and(|output| output.status.success()) {
            missing("userns", "ordinary users cannot make user namespaces here");
            return None;
        }
        Some(home)
    }

    fn as_user<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        // With the user ID, the standard library drops the supplementary groups.
        command
            .uid(USER)
            .gid(USER)
            .current_dir("/")
            .env("HOME", self.world.path())
            .env_remove("XDG_DATA_HOME")
            .env_remove(Backing::VARIABLE)
    }

    fn layermount(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.layermount);
        self.as_user(command.args(arguments)).env_remove("LAYERMOUNT_STORE").stdin(Stdio::null()).output().unwrap()
    }

    #[track_caller]
    fn prints(&self, flags: &[&str], script: &str) -> String {
        let output = self.layermount(&[&["run"], flags, &[&self.image, script]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str], code: i32, says: &[&str]) {
        let output = self.layermount(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        for part in says {
            assert!(stderr.contains(part), "{part:?} is not in:\n{stderr}");
        }
    }
}

#[test]
fn the_same_commands_work_in_a_user_namespace() {
    let Some(home) = Home::new() else { return };
    assert_eq!(home.prints(&["-u", "0"], "busybox id -u; busybox cat /etc/motd; echo $$"), "0\nsecond\n1\n");
    assert!(home.world.path().join(".local/share/layermount/layers").is_dir());
    let upper = home.world.path().join("upper");
    let keep = ["-u", "0", "--upper", upper.to_str().unwrap()];
    home.prints(&keep, "echo mine >/etc/motd; busybox rm /etc/group");
    assert_eq!(home.prints(&keep, "busybox cat /etc/motd; busybox test -e /etc/group; echo $?"), "mine\n1\n");
    assert_eq!(home.layermount(&["run", "-u", "0", &home.image, "exit 7"]).status.code(), Some(7));
    home.fails(&["run", "-u", "0", "--entrypoint", "nothing", &home.image], 127, &["nothing"]);
    home.fails(&["run", "-u", "0", "--read-only", &home.image, "echo >/x"], 1, &["Read-only file system"]);
}

#[test]
fn no_umask_closes_an_unpacked_tree_to_its_owner() {
    let Some(home) = Home::new() else { return };
    for umask in ["0777", "0700", "0300", "0177", "0000"] {
        let tree = home.world.path().join("tree");
        let mut sh = Command::new("sh");
        sh.args(["-c", "umask $1 && exec \"$0\" unpack \"$2\" \"$3\""]).arg(&home.layermount).arg(umask);
        let output = home.as_user(sh.arg(&home.image).arg(&tree)).env_remove("LAYERMOUNT_STORE").output().unwrap();
        assert!(output.status.success(), "{umask}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(tree.join("etc/motd").exists());
        assert!(Command::new("rm").arg("-rf").arg(&tree).status().unwrap().success());
    }
}

#[test]
fn what_an_ordinary_user_cannot_do_is_explained() {
    let Some(home) = Home::new() else { return };
    home.fails(&["run", &home.image], 125, &["guest", "hint: ", "user 0"]);
    let target = home.world.path().to_str().unwrap();
    home.fails(&["mount", &home.image, target], 1, &["only root can mount", "hint: ", "or run as root"]);
    home.fails(
        &["--store", "/root/store", "images"],
        1,
        &["cannot use the store at /root/store", "EACCES", "hint: run as root"],
    );
    for command in ["run", "pull"] {
        let code = if command == "run" { 125 } else { 1 };
        let says = ["only root in the initial user namespace can mount EROFS files", "hint: use --backing dir"];
        home.fails(&[command, "--backing", "erofs", &home.image], code, &says);
        let says = [r#""kind":"permission_denied""#];
        home.fails(&["--log-format", "json", command, "--backing", "erofs", &home.image], code, &says);
    }
    let roots = World::new();
    roots.output(&["pull", &home.image]);
    home.fails(&["--store", roots.store().to_str().unwrap(), "images"], 1, &["cannot use the store at", "hint: "]);
}

/// Root inside may mount an overlay, and no file.
#[test]
fn root_in_a_user_namespace_has_directories() {
    let Some(home) = Home::new() else { return };
    let pull = |backing: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount"]).arg(&home.layermount).arg("--store");
        command.arg(home.world.store()).args(["pull", "--backing", backing, &home.image]);
        let output = home.as_user(&mut command).stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, said) = pull("erofs");
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("only root in the initial user namespace can mount EROFS files"), "{said}");
    let warning = "layermount: warning: 1 file of other users belongs to root here, as there is nobody else\n";
    assert_eq!(pull("auto"), (Some(0), warning.to_owned()));
    assert!(home.world.store().join("layers/dir-user").is_dir());
    assert!(!home.world.store().join("layers/erofs").exists());
}
