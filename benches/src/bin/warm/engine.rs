//! Engines, each with storage of its own.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::contender::{Contender, Target, contender, version};
use crate::scene::{Scene, run};

/// Ended when it is dropped.
pub(crate) struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // Asked, so that it takes its own children along.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// The name that the engines give to the image.
const NAME: &str = "localhost/layermount-warm:latest";

pub(crate) fn podman(scene: &Scene) -> Result<Contender, String> {
    let version = version("podman")?;
    let podman = || {
        let mut command = Command::new("podman");
        command.arg("--root").arg(scene.path("podman")).arg("--runroot").arg(scene.path("podman-run"));
        command.args(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        command
    };
    let id = run(podman().args(["pull", "--quiet", &scene.reference]))?;
    let mut command = podman();
    command.args(["run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "/bin/true", id.trim()]);
    let target = Some(Target::Ratio(0.02));
    Ok(Contender { every: 10, target, ..contender("podman", version, command) })
}

pub(crate) fn docker(scene: &Scene) -> Result<Contender, String> {
    let version = version("dockerd")?;
    let home = scene.path("docker");
    std::fs::create_dir(&home).map_err(|error| error.to_string())?;
    std::fs::write(home.join("daemon.json"), "{}").map_err(|error| error.to_string())?;
    let host = format!("unix://{}", home.join("docker.sock").display());
    let daemon = Command::new("dockerd")
        .args([
            "--host",
            &host,
            "--storage-driver",
            "overlay2",
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
        ])
        .arg("--data-root")
        .arg(home.join("data"))
        .arg("--exec-root")
        .arg(home.join("exec"))
        .arg("--pidfile")
        .arg(home.join("pid"))
        .arg("--config-file")
        .arg(home.join("daemon.json"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let daemon = Some(Daemon(daemon));
    let is_up = || run(Command::new("docker").args(["--host", &host, "version"])).is_ok();
    let mut attempts = 0;
    while !is_up() {
        attempts += 1;
        if attempts == 300 {
            return Err("dockerd did not come up".into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    run(Command::new("skopeo")
        .args(["copy", "--quiet", "--insecure-policy", "--dest-daemon-host", &host, &scene.reference])
        .arg(format!("docker-daemon:{NAME}")))?;
    let mut command = Command::new("docker");
    command.args([
        "--host",
        &host,
        "run",
        "--rm",
        "--network",
        "none",
        "--user",
        "0",
        "--entrypoint",
        "/bin/true",
        NAME,
    ]);
    let target = Some(Target::Ratio(0.02));
    Ok(Contender { every: 10, target, _daemon: daemon, ..contender("docker", version, command) })
}
