//! OCI runtimes, each with a bundle over the unpacked tree.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::contender::{Bound, Contender, at_most, contender, version};
use crate::scene::{Scene, run};

/// Without a cgroup, as layermount and bwrap make none either: it is faster so.
pub(crate) fn crun(scene: &Scene) -> Result<Contender, String> {
    let mut command = Command::new("crun");
    command.arg("--cgroup-manager=disabled");
    Ok(Contender {
        side: at_most(Bound::Ratio(0.45)),
        confinement: "as its `spec` has it: 3 capabilities, no new privileges, /proc and /sys in part covered or read-only; \
                      --cgroup-manager=disabled; the unpacked tree itself, read-only",
        ..runtime(scene, "crun", command)?
    })
}

pub(crate) fn runc(scene: &Scene) -> Result<Contender, String> {
    Ok(Contender {
        side: at_most(Bound::Ratio(0.15)),
        confinement: "as its `spec` has it: 3 capabilities, no new privileges, /proc and /sys in part covered or read-only, \
                      a cgroup with a list of devices; the unpacked tree itself, read-only",
        ..runtime(scene, "runc", Command::new("runc"))?
    })
}

/// A bundle as `spec` writes it, with the namespaces that the others have.
fn runtime(scene: &Scene, name: &str, mut command: Command) -> Result<Contender, String> {
    let version = version(name)?;
    let bundle = scene.path(&format!("bundle-{name}"));
    std::fs::create_dir(&bundle).map_err(|error| error.to_string())?;
    run(Command::new(name).arg("spec").current_dir(&bundle))?;
    edit(&bundle.join("config.json"), &scene.tree())?;
    // Numbers come again with each process namespace, so that what an interrupted run left must not be found.
    command.arg("--root").arg(scene.path(&format!("{name}-root")));
    command.args(["run", "--bundle"]).arg(&bundle).arg(format!("layermount-warm-{}", std::process::id()));
    Ok(contender(version, command))
}

fn edit(file: &Path, tree: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let mut config: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["/bin/true"]);
    config["root"]["path"] = json!(tree);
    let namespaces = ["pid", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
    config["linux"]["namespaces"] = json!(namespaces);
    std::fs::write(file, config.to_string()).map_err(|error| error.to_string())
}
