//! Keeping an engine from deleting an image that is used in place.
//!
//! Engines refuse to delete an image that a container uses. So a container is created, and never started; its label says which
//! process wants it. A process that dies leaves it behind: the next pin on that engine sweeps such ones away.
//!
//! [`Drop`] does nothing. It could only block on an engine and hide its failure, and would not run after `kill -9` or `exec`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Result, SyscallContext};
use crate::image::document::null_is_default;

use super::endpoint::Endpoint;
use super::engine::{Engine, escape};
use super::error::DockerError;

/// `PID:STARTTIME`, the latter as in proc_pid_stat(5), because process IDs come again.
const OWNER: &str = "layermount.pin";
/// `BOOT_ID:INODE` of the PID namespace in which the owner's process ID counts.
const WORLD: &str = "layermount.pin.world";

/// An image that its engine will not delete, until [`Pin::release`].
#[derive(Debug)]
#[must_use = "the image stays pinned until the pin is released, or the process ends and another pin is made"]
pub struct Pin {
    engine: Engine,
    container: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Create<'a> {
    image: String,
    cmd: [&'a str; 1],
    labels: BTreeMap<&'a str, String>,
    host_config: HostConfig<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig<'a> {
    network_mode: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    id: String,
    #[serde(default, deserialize_with = "null_is_default")]
    labels: BTreeMap<String, String>,
}

impl Pin {
    pub(super) fn create(engine: &Engine, image: &Digest) -> Result<Self> {
        // What is left behind does no harm but takes a name: a failure to sweep is not one to pin.
        let _ = sweep(engine);
        let request = Create {
            image: image.to_string(),
            cmd: ["layermount-pin"],
            labels: BTreeMap::from([(OWNER, owner()), (WORLD, world()?)]),
            host_config: HostConfig { network_mode: "none" },
        };
        let Container { id: container, .. } =
            engine.client().post(&engine.path("/containers/create"), &request).map_err(|error| match error {
                error if error.is_not_found() => DockerError::NoSuchImage { name: image.to_string() },
                error => error,
            })?;
        Ok(Self { engine: engine.clone(), container })
    }

    /// Lets the engine delete the image again.
    pub fn release(self) -> Result<()> {
        Ok(remove(&self.engine, &self.container)?)
    }
}

fn remove(engine: &Engine, container: &str) -> Result<(), DockerError> {
    match engine.client().delete(&engine.path(&format!("/containers/{}?force=1", escape(container)))) {
        // Somebody else has removed it, which is as good.
        Err(error) if error.is_not_found() => Ok(()),
        removed => removed,
    }
}

/// Removes the pins of processes that are no more.
fn sweep(engine: &Engine) -> Result<()> {
    let filters = escape(&format!(r#"{{"label":["{OWNER}"],"status":["created"]}}"#));
    let pins: Vec<Container> =
        engine.client().get(&engine.path(&format!("/containers/json?all=1&filters={filters}")))?;
    let local = matches!(engine.endpoint(), Endpoint::Unix(_));
    let here = world()?;
    for pin in pins {
        let label = |name: &str| pin.labels.get(name).map(String::as_str).unwrap_or_default();
        if is_dead(label(OWNER), label(WORLD), &here, local) {
            remove(engine, &pin.id)?;
        }
    }
    Ok(())
}

/// Whether the owner is certainly gone: it ran in this world and does not any more, or before this machine was started again.
fn is_dead(owner: &str, world: &str, here: &str, local: bool) -> bool {
    let boot = |world: &str| world.split(':').next().map(str::to_owned);
    let Some((pid, start)) = owner.split_once(':') else { return false };
    let Ok(pid) = pid.parse::<u32>() else { return false };
    match world == here {
        true => start_time(pid).as_deref() != Some(start),
        false => local && !world.is_empty() && boot(world) != boot(here),
    }
}

fn owner() -> String {
    let pid = std::process::id();
    let start = start_time(pid).unwrap_or_default();
    format!("{pid}:{start}")
}

fn world() -> Result<String> {
    const BOOT: &str = "/proc/sys/kernel/random/boot_id";
    const NAMESPACE: &str = "/proc/self/ns/pid";
    let boot = std::fs::read_to_string(BOOT).syscall("open", || BOOT.to_owned())?;
    let namespace = rustix::fs::stat(NAMESPACE).syscall("stat", || NAMESPACE.to_owned())?;
    Ok(format!("{}:{}", boot.trim(), namespace.st_ino))
}

/// Field 22 of `/proc/PID/stat`. The program's name, in parentheses before it, may hold anything.
fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pins_of_the_certainly_dead_are_swept() {
        let (here, me) = (world().unwrap(), owner());
        let pid = std::process::id();
        assert!(!is_dead(&me, &here, &here, true), "alive");
        assert!(is_dead(&format!("{pid}:1"), &here, &here, true), "the process ID came again");
        assert!(is_dead(&format!("{}:1", u32::MAX), &here, &here, true), "gone");
        assert!(is_dead(&me, "another-boot:1", &here, true), "before a restart");
        assert!(!is_dead(&me, "another-boot:1", &here, false), "perhaps on another machine");
        let boot = here.split(':').next().unwrap();
        assert!(!is_dead(&me, &format!("{boot}:1"), &here, true), "in another PID namespace");
        assert!(!is_dead("", "", &here, true) && !is_dead("x:y", &here, &here, true), "not ours");
    }
}
