//! Whether an image's layers can be used where the engine keeps them, and where that is.
//!
//! Source: moby, `daemon/graphdriver/*` and `layer/filestore.go`. A directory that the engine names but that is not here is the
//! sign of an engine on another machine, behind a forwarded socket: cache IDs are random, so a directory of that name
//! is its own.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};

use crate::digest::ChainId;
use crate::error::SyscallContext;
use crate::image::{Located, OverlayXattrs};

use super::engine::{GraphDriver, Info, Inspect};
use super::error::DockerError;

/// The decision, with the reason where it is against mounting in place, because people are told.
#[derive(Debug)]
pub(super) enum Placement {
    InPlace(Located),
    Streamed { reason: String },
}

/// Decides. `readable` are the marks that the caller's own mounts read, `shares_ids` whether they show the owners that a
/// rootless engine's mounts show. `info` asks the engine about itself, which takes it seven milliseconds and more: only where
/// it matters.
pub(super) fn place(
    inspect: &Inspect,
    local: bool,
    readable: OverlayXattrs,
    shares_ids: &dyn Fn() -> Result<(), String>,
    info: impl FnOnce() -> Result<Info, DockerError>,
) -> Result<Placement, DockerError> {
    let info = if is_plain_overlay2(inspect, readable) { Info::default() } else { info()? };
    Ok(match locate(&info, inspect, local, readable, shares_ids) {
        Ok(located) => Placement::InPlace(located),
        Err(reason) => Placement::Streamed { reason },
    })
}

/// Whether the directories themselves tell that this is dockerd's default: run by root in the initial user namespace, without
/// userns-remap. It then writes trusted xattrs, and [`Info`] has nothing to add.
///
/// A rootless engine's directories belong to its user; one with userns-remap keeps everything below `ROOT/UID.GID/`.
fn is_plain_overlay2(inspect: &Inspect, readable: OverlayXattrs) -> bool {
    let GraphDriver { name, data } = &inspect.graph_driver;
    let remapped = |part: &str| {
        part.split_once('.').is_some_and(|(uid, gid)| [uid, gid].iter().all(|id| id.parse::<u32>().is_ok()))
    };
    // ROOT/overlay2/ID/diff
    let home = data.upper_dir.as_deref().and_then(|upper| Path::new(upper).ancestors().nth(2));
    readable == OverlayXattrs::Trusted
        && name == "overlay2"
        && home.is_some_and(|home| {
            !home.iter().any(|part| part.to_str().is_none_or(remapped))
                && rustix::fs::stat(home).is_ok_and(|stat| stat.st_uid == 0)
        })
}

fn locate(
    info: &Info,
    inspect: &Inspect,
    local: bool,
    readable: OverlayXattrs,
    shares_ids: &dyn Fn() -> Result<(), String>,
) -> Result<Located, String> {
    if !local {
        return Err("the engine is not behind a unix socket, so its files may be elsewhere".to_owned());
    }
    if info.has_containerd_store() || inspect.descriptor.is_some() {
        return Err("the engine keeps images in containerd's store, whose directories it does not tell".to_owned());
    }
    // Their files have shifted owners: root's would look like those of user 100000.
    if info.has_security_option("userns") {
        return Err("the engine remaps user IDs (userns-remap), so that its files have other owners than the image's"
            .to_owned());
    }
    if info.has_security_option("rootless") {
        let others = "the engine runs rootless, so that its files have other owners than the image's";
        shares_ids().map_err(|why| format!("{others}: {why}"))?;
    }
    let named = inspect.graph_driver.name.as_str();
    let driver = if named.is_empty() { info.driver.as_str() } else { named };
    match driver {
        "overlay2" => overlay2(info, inspect, readable),
        "vfs" => top_tree(info, inspect, driver, "vfs/dir"),
        "btrfs" => top_tree(info, inspect, driver, "btrfs/subvolumes"),
        "fuse-overlayfs" => match stack(inspect)?.as_slice() {
            [only] => Ok(Located::Tree(usable(only)?)),
            _ => Err("the driver fuse-overlayfs writes whiteouts that the kernel's overlayfs does not know".to_owned()),
        },
        "" => Err("the engine does not tell its storage driver".to_owned()),
        other => Err(format!("the storage driver {other} keeps no directories that can be mounted")),
    }
}

fn overlay2(info: &Info, inspect: &Inspect, readable: OverlayXattrs) -> Result<Located, String> {
    let xattrs = match info.status("userxattr") {
        Some("true") => OverlayXattrs::User,
        _ => OverlayXattrs::Trusted,
    };
    let directories = stack(inspect)?.iter().map(|path| usable(path)).collect::<Result<Vec<_>, _>>()?;
    // Otherwise deleted files would reappear: opaque directories are marked in xattrs that we could not read.
    if xattrs == OverlayXattrs::Trusted && readable == OverlayXattrs::User {
        return Err("its layers are marked by trusted xattrs, which only root reads".to_owned());
    }
    Ok(Located::Layers { directories, xattrs })
}

/// The directories that the engine names, base first. It names the topmost as the upper one, the others top first.
fn stack(inspect: &Inspect) -> Result<Vec<PathBuf>, String> {
    let data = &inspect.graph_driver.data;
    let lower = data.lower_dir.as_deref().unwrap_or_default().split(':');
    let mut directories: Vec<PathBuf> =
        data.upper_dir.as_deref().into_iter().chain(lower).filter(|path| !path.is_empty()).map(PathBuf::from).collect();
    directories.reverse();
    // An empty layer has an empty directory, so that the counts agree in any case.
    match (directories.len(), inspect.root_fs.layers.len()) {
        (0, 1..) => Err("the engine names no directories".to_owned()),
        (found, layers) if found != layers => Err(format!("the engine names {found} directories for {layers} layers")),
        _ => Ok(directories),
    }
}

/// Drivers that keep the whole tree of each chain of layers: the topmost one's directory is found as the engine finds it.
fn top_tree(info: &Info, inspect: &Inspect, driver: &str, trees: &str) -> Result<Located, String> {
    let chain = inspect
        .root_fs
        .layers
        .iter()
        .fold(None, |below: Option<ChainId>, layer| Some(ChainId::push(below.as_ref(), layer)));
    let chain = chain.ok_or("the image has no layers")?;
    let root = Path::new(&info.docker_root_dir);
    let record = root.join("image").join(driver).join("layerdb").join(chain.0.algorithm().as_str()).join(chain.0.hex());
    let record = record.join("cache-id");
    let cache_id = std::fs::read_to_string(&record)
        .syscall("open", || format!("{record:?}"))
        .map_err(|error| format!("the engine's record of the top layer cannot be read: {error}"))?;
    let cache_id = cache_id.trim();
    match !cache_id.is_empty() && cache_id.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => Ok(Located::Tree(usable(&root.join(trees).join(cache_id))?)),
        false => Err(format!("the engine's record {record:?} holds no directory name")),
    }
}

/// A directory that is here and that we may read.
fn usable(path: &Path) -> Result<PathBuf, String> {
    if !path.is_absolute() {
        return Err(format!("the engine names {path:?}, which is not absolute"));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .syscall("open", || format!("{path:?}, O_PATH|O_DIRECTORY"))
        .and_then(|_| {
            rustix::fs::accessat(CWD, path, Access::READ_OK | Access::EXEC_OK, AtFlags::EACCESS)
                .syscall("faccessat2", || format!("{path:?}, R_OK|X_OK"))
        })
        .map_err(|error| format!("a layer's directory cannot be used: {error}"))?;
    Ok(path.to_owned())
}
