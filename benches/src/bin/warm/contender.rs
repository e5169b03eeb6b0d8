//! Who is measured, and by which command line.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::engine;
use crate::scene::{Scene, run};

pub(crate) const OURS: &str = "layermount run";

/// A command to be measured.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) command: Command,
    /// Slow ones take part in one of so many rounds.
    pub(crate) every: usize,
    pub(crate) target: Option<Target>,
    /// What has to go on running, and ends with this.
    pub(crate) _daemon: Option<engine::Daemon>,
}

/// What `layermount run` may take.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// Of the other's time.
    Ratio(f64),
    /// Longer than the other.
    More(Duration),
}

impl Target {
    pub(crate) fn is_met(self, ours: Duration, other: Duration) -> bool {
        match self {
            Self::Ratio(ratio) => ours <= other.mul_f64(ratio),
            Self::More(more) => ours <= other + more,
        }
    }

    /// How it stands.
    pub(crate) fn show(self, ours: Duration, other: Duration) -> String {
        match self {
            Self::Ratio(_) => format!("{:.3} x", ours.as_secs_f64() / other.as_secs_f64()),
            Self::More(_) => format!("+ {:.2} ms", (ours.as_secs_f64() - other.as_secs_f64()) * 1e3),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ratio(ratio) => write!(f, "{ratio} x"),
            Self::More(more) => write!(f, "+ {} ms", more.as_secs_f64() * 1e3),
        }
    }
}

type Maker = fn(&Scene) -> Result<Contender, String>;

/// How each is made ready.
const MAKERS: [(&str, Maker); 9] = [
    (OURS, layermount),
    ("exec, from the unpacked tree", bare),
    ("exec, static", bare_static),
    ("bwrap", bwrap),
    ("crun", |scene| runtime(scene, "crun", 0.45)),
    ("runc", |scene| runtime(scene, "runc", 0.15)),
    ("systemd-nspawn", nspawn),
    ("podman", engine::podman),
    ("docker", engine::docker),
];

/// Those of these names that this machine has, or of all, and why others are missing.
pub(crate) fn contenders(scene: &Scene, names: Option<&[&str]>) -> (Vec<Contender>, Vec<String>) {
    let (mut contenders, mut gaps) = (Vec::new(), Vec::new());
    for (name, make) in MAKERS.into_iter().filter(|(name, _)| names.is_none_or(|names| names.contains(name))) {
        match make(scene).and_then(|mut contender| run(&mut contender.command).map(|_| contender)) {
            Ok(contender) => contenders.push(contender),
            Err(why) => gaps.push(format!("{name}: {why}")),
        }
    }
    (contenders, gaps)
}

pub(crate) fn contender(name: &'static str, version: String, command: Command) -> Contender {
    Contender { name, version, command, every: 1, target: None, _daemon: None }
}

/// The first line of what `--version` says.
pub(crate) fn version(program: &str) -> Result<String, String> {
    let said = run(Command::new(program).arg("--version"))?;
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

fn layermount(scene: &Scene) -> Result<Contender, String> {
    let mut command = Command::new(&scene.layermount);
    command.args(["run", "--store"]).arg(scene.store());
    command.args(["--user", "0", "--entrypoint", "/bin/true", &scene.name]);
    Ok(contender(OURS, version(&scene.layermount.to_string_lossy())?, command))
}

/// The same file, with the host's libraries.
fn bare(scene: &Scene) -> Result<Contender, String> {
    let command = Command::new(scene.tree().join("bin/true"));
    let target = Some(Target::More(Duration::from_micros(1200)));
    Ok(Contender { target, ..contender("exec, from the unpacked tree", "fork, exec, wait".into(), command) })
}

fn bare_static(_: &Scene) -> Result<Contender, String> {
    let mut command = Command::new("/bin/busybox");
    command.arg("true");
    Ok(contender("exec, static", "busybox true".into(), command))
}

fn bwrap(scene: &Scene) -> Result<Contender, String> {
    let mut command = Command::new("bwrap");
    command.args(["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--bind"]).arg(scene.tree());
    command.args(["/", "--proc", "/proc", "--dev", "/dev", "/bin/true"]);
    Ok(Contender { target: Some(Target::Ratio(0.75)), ..contender("bwrap", version("bwrap")?, command) })
}

fn nspawn(scene: &Scene) -> Result<Contender, String> {
    let mut command = Command::new("systemd-nspawn");
    command.args(["--quiet", "--register=no", "--keep-unit", "--directory"]).arg(scene.tree()).arg("/bin/true");
    Ok(Contender { every: 5, ..contender("systemd-nspawn", version("systemd-nspawn")?, command) })
}

/// A bundle as `spec` writes it, with the namespaces that the others have, over the unpacked tree.
fn runtime(scene: &Scene, name: &'static str, ratio: f64) -> Result<Contender, String> {
    let version = version(name)?;
    let bundle = scene.path(&format!("bundle-{name}"));
    std::fs::create_dir(&bundle).map_err(|error| error.to_string())?;
    run(Command::new(name).arg("spec").current_dir(&bundle))?;
    edit(&bundle.join("config.json"), &scene.tree())?;
    let mut command = Command::new(name);
    command.args(["run", "--bundle"]).arg(&bundle).arg(format!("layermount-warm-{}", std::process::id()));
    Ok(Contender { target: Some(Target::Ratio(ratio)), ..contender(name, version, command) })
}

fn edit(file: &Path, tree: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let mut config: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["/bin/true"]);
    config["root"] = json!({ "path": tree });
    let namespaces = ["pid", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
    config["linux"]["namespaces"] = json!(namespaces);
    std::fs::write(file, config.to_string()).map_err(|error| error.to_string())
}
