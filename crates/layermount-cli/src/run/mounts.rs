//! `-v`, `--mount`, `--tmpfs`, `--device` and their like: from what was typed to the library's words.

use std::path::Path;

use layermount::{Command, Furnish};

use crate::args::{MountKind, RunArgs, Volume};
use crate::failure::{Failure, Result};

/// Adds to what is seen inside.
pub(super) fn apply(args: &RunArgs, command: &mut Command, mut furnish: Furnish) -> Result<Furnish> {
    let mounts = &args.mounts;
    for volume in args.volumes.iter().chain(&mounts.bind).chain(&mounts.bind_ro) {
        check_source(&volume.source)?;
        check_label(volume)?;
        furnish = furnish.bind(&volume.source, &volume.target, volume.options);
    }
    for mount in &mounts.mount {
        furnish = match &mount.kind {
            MountKind::Bind { source, options } => {
                check_source(source)?;
                furnish.bind(source, &mount.target, *options)
            }
            MountKind::Tmpfs(tmpfs) => furnish.tmpfs(&mount.target, *tmpfs),
        };
    }
    for mount in &mounts.tmpfs {
        furnish = furnish.tmpfs(&mount.target, mount.tmpfs);
    }
    for device in &mounts.device {
        furnish = furnish.device(&device.host, &device.inside);
    }
    if let Some(size) = mounts.shm_size.and_then(|size| size.0) {
        furnish = furnish.shm_size(size);
    }
    if let Some(volumes) = mounts.image_volume {
        command.image_volumes(volumes);
    }
    for group in &args.group_add {
        command.add_group(group);
    }
    Ok(furnish)
}

/// Docker makes a missing directory; here it is a mistake, as in podman.
fn check_source(source: &Path) -> Result<()> {
    let shown = source.display();
    std::fs::metadata(source).map(drop).map_err(|error| Failure::io(format!("cannot use the volume {shown}"), error))
}

/// Where there is no SELinux, there is nothing to be done.
fn check_label(volume: &Volume) -> Result<()> {
    if volume.relabel && Path::new("/sys/fs/selinux/enforce").exists() {
        let shown = volume.source.display();
        return Err(Failure::usage(format!(
            "layermount does not change SELinux labels (z, Z): relabel {shown} with chcon"
        )));
    }
    Ok(())
}
