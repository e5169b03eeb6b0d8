//! An image of docker's with the same files as one of ours: what docker makes of them is what is expected.

use std::path::Path;
use std::process::Command;

use super::{World, docker, docker_host, program};

/// Removed from docker when it is dropped.
#[derive(Debug)]
pub struct Twin {
    pub host: String,
    pub name: &'static str,
}

impl Twin {
    /// With a whole tree, and nothing in its config but these changes, in a Dockerfile's words.
    #[track_caller]
    pub fn of_tree(world: &World, tree: &Path, changes: &[&str], name: &'static str) -> Option<Self> {
        let host = docker_host()?;
        let archive = world.path().join("twin.tar");
        let tar = Command::new("tar").arg("-C").arg(tree).arg("-cf").arg(&archive).arg(".").status().unwrap();
        assert!(tar.success());
        let changes = changes.iter().flat_map(|change| ["--change", change]);
        let archive = archive.to_str().unwrap();
        docker(&host, &["import"].into_iter().chain(changes).chain([archive, name]).collect::<Vec<_>>());
        Some(Self { host, name })
    }

    /// With an image's files, and nothing in its config.
    #[track_caller]
    pub fn of_files(world: &World, image: &str, name: &'static str) -> Option<Self> {
        docker_host()?;
        let tree = world.path().join("twin");
        world.output(&["unpack", image, tree.to_str().unwrap()]);
        Self::of_tree(world, &tree, &[], name)
    }

    /// With an image's config as well.
    #[track_caller]
    pub fn of_image(image: &str, name: &'static str) -> Option<Self> {
        let host = docker_host()?;
        program("skopeo")?;
        let mut command = Command::new("skopeo");
        command.args(["copy", "--quiet", "--insecure-policy", "--dest-daemon-host", &host, image]);
        let copied = command.arg(format!("docker-daemon:{name}")).output().unwrap();
        assert!(copied.status.success(), "skopeo: {}", String::from_utf8_lossy(&copied.stderr));
        Some(Self { host, name })
    }

    /// What a script prints there.
    #[track_caller]
    pub fn prints(&self, flags: &[&str], script: &str) -> String {
        let words = [self.name, "/bin/busybox", "sh", "-c", script];
        docker(&self.host, &[&["run", "--rm"], flags, &words[..]].concat())
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["-H", &self.host, "rmi", "-f", self.name]).output();
    }
}
