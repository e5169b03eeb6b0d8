//! What the command says of the machine, where something was taken away from it.

mod world;

use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid, User, chown};
use serde_json::Value;
use world::{World, host_mounts, missing, program, root};

/// Nobody's number on the machines that tests run on: without subordinate IDs.
const NOBODY: u32 = 54321;

/// A user's home, and a copy of the command in it.
struct Home {
    world: World,
    layermount: PathBuf,
    uid: u32,
    gid: u32,
}

impl Home {
    fn of(uid: u32, gid: u32) -> Option<Self> {
        root()?;
        let world = World::new();
        let layermount = world.path().join("layermount");
        std::fs::copy(assert_cmd::cargo::cargo_bin!("layermount"), &layermount).unwrap();
        chown(world.path(), Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).unwrap();
        let home = Self { world, layermount, uid, gid };
        let mut probe = Command::new("unshare");
        if !home.as_user(probe.args(["--user", "true"])).output().is_ok_and(|output| output.status.success()) {
            missing("userns", "ordinary users cannot make user namespaces here");
            return None;
        }
        Some(home)
    }

    fn of_nobody() -> Option<Self> {
        Self::of(NOBODY, NOBODY)
    }

    /// Of a user who has subordinate IDs.
    fn with_ranges() -> Option<Self> {
        let name = std::env::var("LAYERMOUNT_TEST_USER").unwrap_or_default();
        let Ok(Some(user)) = User::from_name(&name) else {
            missing("user", "LAYERMOUNT_TEST_USER does not name a user with ranges in /etc/subuid and /etc/subgid");
            return None;
        };
        Self::of(user.uid.as_raw(), user.gid.as_raw())
    }

    fn as_user<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        self.environment(command.uid(self.uid).gid(self.gid))
    }

    fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .current_dir("/")
            .env("HOME", self.world.path())
            .env_remove("XDG_DATA_HOME")
            .env_remove("LAYERMOUNT_STORE")
            .stdin(Stdio::null())
    }

    fn doctor(&self) -> Found {
        found(self.as_user(Command::new(&self.layermount).args(["doctor", "--json"])))
    }

    /// By way of a shell script that ends with `exec "$@"`.
    fn doctor_behind(&self, script: &str) -> Found {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(&self.layermount).args(["doctor", "--json"]);
        found(self.environment(&mut command))
    }

    /// There is nothing but the command in the home.
    #[track_caller]
    fn is_clean(&self) {
        let names: Vec<_> =
            std::fs::read_dir(self.world.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["layermount"]);
    }
}

struct Found {
    status: Option<i32>,
    document: Value,
}

#[track_caller]
fn found(command: &mut Command) -> Found {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    Found { status: output.status.code(), document }
}

impl Found {
    #[track_caller]
    fn runs(&self, how: &str) -> &Self {
        assert_eq!(self.document["Run"]["How"], how, "{:#}", self.document);
        let works = how != "impossible";
        assert_eq!(self.document["Run"]["Works"], works);
        assert_eq!(self.status, Some(i32::from(!works)));
        self
    }

    #[track_caller]
    fn probe(&self, name: &str) -> &Value {
        let probes = self.document["Probes"].as_array().unwrap();
        probes.iter().find(|probe| probe["Name"] == name).unwrap_or_else(|| panic!("no {name}: {:#}", self.document))
    }

    #[track_caller]
    fn has(&self, name: &str, outcome: &str) -> &Self {
        assert_eq!(self.probe(name)["Outcome"], outcome, "{:#}", self.probe(name));
        self
    }

    #[track_caller]
    fn lacks(&self, name: &str, found: &str, remedy: &str) -> &Self {
        let probe = self.has(name, "fails").probe(name);
        assert!(probe["Found"].as_str().unwrap().contains(found), "{probe:#}");
        assert!(probe["Remedy"].as_str().unwrap().contains(remedy), "{probe:#}");
        assert!(!probe["Consequence"].as_str().unwrap().is_empty());
        self
    }
}

#[test]
fn root_needs_no_user_namespace() {
    if root().is_none() {
        return;
    }
    let world = World::new();
    let before = host_mounts();
    let found = found(world.layermount().args(["doctor", "--json"]));
    found.runs("as_root").has("user_namespaces", "not_needed").has("overlay", "works").has("layers", "works");
    let backing = if found.probe("erofs_files")["Outcome"] == "works" { "erofs" } else { "dir" };
    assert_eq!(found.document["Run"]["Backing"], backing);
    assert_eq!(std::fs::read_dir(world.path()).unwrap().count(), 0, "something stayed");
    assert_eq!(host_mounts(), before);
    let text = world.output(&["doctor"]);
    assert!(text.starts_with("layermount run works here: as root"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("  ok    overlay  ")), "{text}");
}

#[test]
fn an_existing_store_is_left_as_it_was() {
    if root().is_none() {
        return;
    }
    let world = World::new();
    for made in [world.store(), world.store().join("stage")] {
        std::fs::create_dir(made).unwrap();
    }
    found(world.layermount().args(["doctor", "--json"])).runs("as_root").has("layers", "works");
    assert_eq!(std::fs::read_dir(world.store()).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(world.store().join("stage")).unwrap().count(), 0);
    chown(&world.store(), Some(Uid::from_raw(NOBODY)), None).unwrap();
    let found = found(world.layermount().args(["doctor", "--json"]));
    found.runs("impossible").lacks("store", "belongs to uid 54321", "").has("layers", "not_tried");
}

#[test]
fn a_user_without_ranges_is_alone() {
    let Some(home) = Home::of_nobody() else { return };
    let found = home.doctor();
    found.runs("alone").has("user_namespaces", "works").has("overlay", "works").has("layers", "works");
    found.has("erofs_files", "not_needed").has("id_maps", "not_tried");
    found.lacks("id_ranges", "/etc/subuid grants no IDs to 54321", "usermod --add-subuids");
    home.is_clean();
    let output = home.as_user(Command::new(&home.layermount).arg("doctor")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("layermount run works here: in a user namespace of its own, with root as the only"),
        "{text}"
    );
    assert!(text.contains("\n  lack  ID ranges  "), "{text}");
    assert!(text.contains("change: as root: usermod"), "{text}");
}

#[test]
fn ranges_are_really_mapped() {
    let Some(home) = Home::with_ranges() else { return };
    let found = home.doctor();
    found.runs("with_subordinates").has("id_maps", "works").has("layers", "works");
    assert!(found.document["Run"]["Users"].as_u64().unwrap() > 1);
    home.is_clean();
    let (uid, gid) = (home.uid, home.gid);
    let run = format!("exec setpriv --reuid {uid} --regid {gid} --clear-groups");
    let found = home.doctor_behind(&format!("{run} env PATH=/nowhere \"$@\""));
    found.runs("alone").has("id_ranges", "works").lacks("id_maps", "newuidmap", "install the package uidmap");
    let found = home.doctor_behind(&format!("{run} --no-new-privs \"$@\""));
    found.runs("alone").lacks("id_maps", "does not map the IDs", "NoNewPrivileges=no");
}

/// The limit is one for each namespace, so that the machine's stays what it is.
const FORBIDDEN: &str = "exec unshare --user --map-root-user sh -c 'echo 0 >/proc/sys/user/max_user_namespaces; \
    exec setpriv --bounding-set=-all --inh-caps=-all \"$@\"' sh \"$@\"";

#[test]
fn forbidden_user_namespaces_are_explained() {
    let Some(home) = Home::of_nobody() else { return };
    let as_nobody = format!("exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups");
    let script = format!("{as_nobody} sh -c '{}' sh \"$@\"", FORBIDDEN.replace('\'', "'\\''"));
    let found = home.doctor_behind(&script);
    found.runs("impossible").has("overlay", "not_tried");
    found.lacks("user_namespaces", "user.max_user_namespaces is 0: clone3", "sysctl -w user.max_user_namespaces=");

    let mut run = Command::new("sh");
    run.args(["-c", &script, "sh"]).arg(&home.layermount).arg("--store").arg(home.world.store());
    let output = home.environment(run.args(["run", "rootfs:/"])).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("hint: user.max_user_namespaces is 0: as root: sysctl -w"), "{stderr}");
    assert!(stderr.contains("'layermount doctor' tells"), "{stderr}");
}

#[test]
fn a_chroot_is_explained() {
    let Some(home) = Home::of_nobody() else { return };
    let tree = home.world.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    let script = format!(
        "exec unshare --mount sh -c 'mount --rbind / {tree} && exec chroot --userspec={NOBODY}:{NOBODY} {tree} \"$@\"' sh \"$@\"",
        tree = tree.display()
    );
    let found = home.doctor_behind(&script);
    found.runs("impossible").lacks("user_namespaces", "in a chroot", "leave the chroot");
}

/// As containers' filters do: `clone3`, whose arguments a filter does not see, is hidden, and `clone` and `unshare` may make no
/// user namespace.
const FILTER: &str = r"
import ctypes, os, platform, struct, sys
clone, unshare, clone3 = {'x86_64': (56, 272, 435), 'aarch64': (220, 97, 435)}[platform.machine()]
load, equal, bits, answer = 0x20, 0x15, 0x45, 0x06
program = [(load, 0, 0, 0), (equal, 0, 1, clone3), (answer, 0, 0, 0x50000 | 38), (equal, 1, 0, clone), (equal, 0, 3, unshare),
    (load, 0, 0, 16), (bits, 0, 1, 0x10000000), (answer, 0, 0, 0x50000 | 1), (answer, 0, 0, 0x7fff0000)]
code = b''.join(struct.pack('HBBI', *line) for line in program)
class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('code', ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(22, 2, ctypes.byref(Program(len(program), code)), 0, 0):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[1], sys.argv[1:])
";

#[test]
fn a_seccomp_filter_is_explained() {
    let Some(home) = Home::of_nobody() else { return };
    if program("python3").is_none() {
        return;
    }
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        return missing("userns", "the filter knows the system calls of x86_64 and aarch64 only");
    }
    let mut command = Command::new("python3");
    command.args(["-c", FILTER, "setpriv", "--reuid"]).arg(NOBODY.to_string());
    command.args(["--regid", &NOBODY.to_string(), "--clear-groups"]).arg(&home.layermount).args(["doctor", "--json"]);
    let found = found(home.environment(&mut command));
    found.runs("impossible").lacks("user_namespaces", "a seccomp filter", "--security-opt seccomp=unconfined");
}

#[test]
fn an_engine_that_does_not_answer_is_not_waited_for() {
    if root().is_none() {
        return;
    }
    let world = World::new();
    let socket = world.path().join("docker.sock");
    let host = format!("unix://{}", socket.display());
    let listener = UnixListener::bind(&socket).unwrap();
    let since = Instant::now();
    let silent = found(world.layermount().args(["doctor", "--json", "--host", &host]));
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    silent.runs("as_root").has("docker", "fails");
    drop(listener);
    let gone = found(world.layermount().args(["doctor", "--json", "--host", &host]));
    gone.runs("as_root").lacks("docker", "cannot be reached", "systemctl start docker");
}
