//! Who is measured, by which command line, and what that does besides.

use std::path::Path;
use std::process::Command;

use crate::engine;
use crate::runtime;
use crate::scene::{Scene, run};

const RUN: &str = "layermount run";
const KEPT: &str = "layermount run, kept mounted";
pub(crate) const BWRAP: &str = "bwrap";

/// A command to be measured.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) command: Command,
    pub(crate) side: Side,
    /// What the program is kept from, beside namespaces for mounts, processes, IPC and host name, if it has these.
    pub(crate) confinement: &'static str,
    pub(crate) network: &'static str,
    /// What has to go on running, and ends with this.
    pub(crate) _daemon: Option<engine::Daemon>,
}

pub(crate) enum Side {
    /// A way to call layermount. Each is compared with everybody else.
    Ours,
    /// Somebody else, and what was promised about ours beside this one.
    Other(Vec<Target>),
}

impl Side {
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Ours)
    }
}

/// How long one of ours may take.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    /// Its name.
    pub(crate) ours: &'static str,
    pub(crate) at_most: Bound,
}

#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// Of the other's time.
    Ratio(f64),
    /// Milliseconds longer than the other.
    More(f64),
}

type Maker = fn(&Scene) -> Result<Contender, String>;

/// How each is made ready; ours first.
const MAKERS: &[(&str, Maker)] = &[
    (RUN, |scene| layermount(scene, &scene.store())),
    (KEPT, |scene| layermount(scene, &scene.kept_store()?)),
    ("exec", bare),
    ("exec, static", bare_static),
    (BWRAP, bwrap),
    ("crun", runtime::crun),
    ("runc", runtime::runc),
    ("systemd-nspawn", nspawn),
    ("podman", engine::podman),
    ("docker", engine::docker),
];

/// Those that this machine has, each tried once, and why others are missing.
pub(crate) fn contenders(scene: &Scene) -> (Vec<Contender>, Vec<String>) {
    let (mut contenders, mut gaps) = (Vec::new(), Vec::new());
    for &(name, make) in MAKERS {
        match make(scene).and_then(|mut contender| run(&mut contender.command).map(|_| contender)) {
            Ok(contender) => contenders.push(Contender { name, ..contender }),
            Err(why) => gaps.push(format!("{name}: {why}")),
        }
    }
    (contenders, gaps)
}

/// Somebody without targets.
pub(crate) fn contender(version: String, command: Command) -> Contender {
    Contender {
        name: "",
        version,
        command,
        side: Side::Other(Vec::new()),
        confinement: "nothing",
        network: "the host's",
        _daemon: None,
    }
}

/// A target for `layermount run`, however it finds its image.
pub(crate) fn at_most(bound: Bound) -> Side {
    Side::Other([RUN, KEPT].map(|ours| Target { ours, at_most: bound }).into())
}

/// The first line of what `--version` says.
pub(crate) fn version(program: &str) -> Result<String, String> {
    let said = run(Command::new(program).arg("--version"))?;
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

fn layermount(scene: &Scene, store: &Path) -> Result<Contender, String> {
    let mut command = Command::new(&scene.layermount);
    command.args(["run", "--store"]).arg(store);
    command.args(["--user", "0", "--entrypoint", "/bin/true", &scene.name]);
    Ok(Contender {
        side: Side::Ours,
        confinement: "14 capabilities, system calls filtered, /proc and /sys in part covered or read-only, no devices of the image; \
                      a writable top of its own",
        ..contender(version(&scene.layermount.to_string_lossy())?, command)
    })
}

fn bare(scene: &Scene) -> Result<Contender, String> {
    let command = Command::new(scene.tree().join("bin/true"));
    Ok(Contender {
        side: at_most(Bound::More(1.2)),
        confinement: "nothing, and no namespaces: the same file, out of the unpacked tree, with the host's C library",
        ..contender("fork, exec, wait".into(), command)
    })
}

fn bare_static(_: &Scene) -> Result<Contender, String> {
    if run(Command::new("ldd").arg("/bin/busybox")).is_ok() {
        return Err("/bin/busybox is not static".into());
    }
    let mut command = Command::new("/bin/busybox");
    command.arg("true");
    Ok(Contender {
        confinement: "nothing, and no namespaces: a static program that does the same",
        ..contender("fork, exec, wait of busybox true".into(), command)
    })
}

fn bwrap(scene: &Scene) -> Result<Contender, String> {
    let mut command = Command::new(BWRAP);
    command.args(["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--bind"]).arg(scene.tree());
    command.args(["/", "--proc", "/proc", "--dev", "/dev", "/bin/true"]);
    Ok(Contender {
        side: at_most(Bound::Ratio(0.75)),
        confinement: "no new privileges, but all capabilities; the unpacked tree itself, writable",
        ..contender(version(BWRAP)?, command)
    })
}

fn nspawn(scene: &Scene) -> Result<Contender, String> {
    // It insists on one.
    let _ = std::fs::create_dir(scene.tree().join("usr"));
    let mut command = Command::new("systemd-nspawn");
    command.args(["--quiet", "--register=no", "--keep-unit", "--directory"]).arg(scene.tree()).arg("/bin/true");
    Ok(Contender {
        confinement: "25 capabilities, system calls filtered, /proc and /sys in part covered or read-only, a cgroup namespace; \
                      the unpacked tree itself, writable",
        ..contender(version("systemd-nspawn")?, command)
    })
}
