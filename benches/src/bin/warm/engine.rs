//! Engines, each with storage of its own.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::contender::{Bound, Contender, at_most, contender, version};
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

const NONE: &str = "its own, without interfaces to the outside: --network none";

/// Brings the image where an engine finds it.
fn copy(scene: &Scene, to: &str, options: &[&str]) -> Result<(), String> {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "--quiet", "--insecure-policy"]).args(options).args([&scene.reference, to]);
    run(&mut skopeo).map(drop)
}

pub(crate) fn podman(scene: &Scene) -> Result<Contender, String> {
    let version = version("podman")?;
    let podman = || {
        let mut command = Command::new("podman");
        command.arg("--root").arg(scene.path("podman")).arg("--runroot").arg(scene.path("podman-run"));
        command.arg("--tmpdir").arg(scene.path("podman-tmp"));
        command.args(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        command
    };
    // `podman pull` wants paths without capitals.
    let storage = format!("[overlay@{}+{}]", scene.path("podman").display(), scene.path("podman-run").display());
    copy(scene, &format!("containers-storage:{storage}{NAME}"), &[])?;
    let mut command = podman();
    command.args(["run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "/bin/true", NAME]);
    let runtime = run(podman().args(["info", "--format", "{{.Host.OCIRuntime.Name}}"]))?;
    Ok(Contender {
        side: at_most(Bound::Ratio(0.02)),
        confinement: "11 capabilities, system calls filtered, /proc and /sys in part covered or read-only, a cgroup with a list of devices; \
                      a writable top of its own, and a record of the container",
        network: NONE,
        ..contender(format!("{version}, with {}", runtime.trim()), command)
    })
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
    copy(scene, &format!("docker-daemon:{NAME}"), &["--dest-daemon-host", &host])?;
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
    Ok(Contender {
        side: at_most(Bound::Ratio(0.02)),
        confinement: "14 capabilities, system calls filtered, /proc and /sys in part covered or read-only, a cgroup with a list of devices; \
                      a writable top of its own, and a record of the container",
        network: NONE,
        _daemon: daemon,
        ..contender(version, command)
    })
}
