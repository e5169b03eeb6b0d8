//! One image, in every form that the contenders take it.

use std::path::{Path, PathBuf};
use std::process::Command;

use layermount_benches::{build, program_layer, reference};
use layermount_fixtures::{Layer, Layout, random};

/// Gone when it is dropped.
pub(crate) struct Scene {
    directory: tempfile::TempDir,
    pub(crate) layermount: PathBuf,
    pub(crate) layers: usize,
    /// The image in an OCI layout.
    pub(crate) reference: String,
    /// Its name in the store.
    pub(crate) name: String,
    real: bool,
}

impl Scene {
    /// Generated with a fixed seed, unless there is a real one.
    pub(crate) fn make(below: &Path, layermount: &Path, layers: usize, real: Option<&str>) -> Result<Self, String> {
        // podman refuses long paths.
        let directory = tempfile::Builder::new().prefix("warm-").tempdir_in(below);
        let directory = directory.map_err(|error| error.to_string())?;
        let reference = match real {
            Some(reference) => format!("oci:{reference}"),
            None => generated(directory.path(), layers)?,
        };
        let layermount = layermount.canonicalize().map_err(|error| format!("{}: {error}", layermount.display()))?;
        let mut scene = Self { directory, layermount, layers, reference, name: String::new(), real: real.is_some() };
        run(scene.layermount().args(["pull", "--quiet", &scene.reference]))?;
        run(scene.layermount().args(["unpack", "--quiet", &scene.reference]).arg(scene.tree()))?;
        let images = run(scene.layermount().args(["images"]))?;
        let name = images.lines().nth(1).and_then(|line| line.split_whitespace().next());
        scene.name = name.ok_or("the image is not in the store")?.to_owned();
        Ok(scene)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The whole image in one directory.
    pub(crate) fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    /// `run` is measured without clap when the flags follow it.
    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Another one, where `layermount store mount` keeps the image mounted: the first would be used so, too.
    pub(crate) fn kept_store(&self) -> Result<PathBuf, String> {
        let store = self.path("kept");
        run(self.layermount().args(["store", "mount", "--quiet", &self.reference]).arg("--store").arg(&store))?;
        Ok(store)
    }

    fn layermount(&self) -> Command {
        let mut command = Command::new(&self.layermount);
        command.env("LAYERMOUNT_STORE", self.store());
        command
    }

    pub(crate) fn describe(&self) -> String {
        let kind = if self.real { "a real image" } else { "a generated image" };
        let plural = if self.layers == 1 { "" } else { "s" };
        format!("{kind} of {} layer{plural}, /bin/true", self.layers)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Or the directory could not be removed.
        let kept = self.path("kept");
        if kept.exists() {
            let _ = run(self.layermount().args(["store", "umount", "--quiet", "--all", "--store"]).arg(kept));
        }
    }
}

fn generated(directory: &Path, layers: usize) -> Result<String, String> {
    let layout = Layout::create(directory.join("layout")).map_err(|error| error.to_string())?;
    let all: Vec<Layer> = std::iter::once(program_layer()).chain(random::stack(1, layers - 1)).collect();
    let built = build(&all).map_err(|error| error.to_string())?;
    layout.add("image", &built).map_err(|error| error.to_string())?;
    Ok(reference(&layout, "image"))
}

/// What a command prints; it has to succeed.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim().lines().last().unwrap_or_default();
        return Err(format!("{}: {}: {last}", command.get_program().display(), output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
