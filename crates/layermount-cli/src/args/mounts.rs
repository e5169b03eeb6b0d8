//! What else is seen inside: `-v`, `--mount`, `--tmpfs`, `--device` and their like.

mod mount;
mod tmpfs;

pub(crate) use mount::{Mount, MountKind};
pub(crate) use tmpfs::TmpfsMount;

use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use layermount::{Access, BindOptions, ImageVolumes};

use super::value::{absolute_path, bytes};

#[derive(Debug, Default, Args)]
pub(crate) struct Mounts {
    /// type=bind,src=SRC,dst=DST (and ro) or type=tmpfs,dst=DST (and tmpfs-size, tmpfs-mode), as docker has it
    #[arg(long, value_name = "KEY=VALUE,...")]
    pub(crate) mount: Vec<Mount>,

    /// Mount memory, such as /tmp:size=64m,mode=1777,exec
    #[arg(long, value_name = "DST[:OPTION,...]")]
    pub(crate) tmpfs: Vec<TmpfsMount>,

    /// The image's volumes: tmpfs (memory, with a copy of the image's files; so it is with --read-only) or ignore [default: kept with --upper]
    // Not parsed by clap as a default, which would cost every run.
    #[arg(long, value_name = "MODE", value_parser = image_volumes)]
    pub(crate) image_volume: Option<ImageVolumes>,

    /// Give a device of the host, or all in a directory
    #[arg(long, value_name = "HOST[:DST]")]
    pub(crate) device: Vec<Device>,

    /// How much /dev/shm holds, such as 1g [default: 64m]
    #[arg(long, value_name = "SIZE")]
    pub(crate) shm_size: Option<ShmSize>,

    /// As systemd-nspawn has it: like -v, SRC for DST if that is missing
    #[arg(long, value_name = "SRC[:DST]", value_parser = bind)]
    pub(crate) bind: Vec<Volume>,

    /// The same, read-only
    #[arg(long, value_name = "SRC[:DST]", value_parser = bind_read_only)]
    pub(crate) bind_ro: Vec<Volume>,
}

/// `-v SRC:DST[:OPTION,...]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) options: BindOptions,
    /// SELinux's label is to be changed.
    pub(crate) relabel: bool,
}

impl Volume {
    fn new(source: &str, target: &str, access: Access) -> Result<Self, String> {
        let options = BindOptions::new(access);
        Ok(Self { source: source.into(), target: target_path(target)?, options, relabel: false })
    }
}

impl FromStr for Volume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (source, target, options) = match text.split(':').collect::<Vec<_>>()[..] {
            [source, target] => (source, target, None),
            [source, target, options] => (source, target, Some(options)),
            _ => {
                return Err(
                    "a volume is SRC:DST or SRC:DST:ro (for messages: --verbose, or -v in front of `run`)".into()
                );
            }
        };
        if !source.contains('/') && source != "." && source != ".." {
            return Err(format!("there are no named volumes: for a directory write ./{source}"));
        }
        let mut volume = Self::new(source, target, Access::ReadWrite)?;
        let mut access = None;
        for option in options.into_iter().flat_map(|options| options.split(',')) {
            match option {
                "ro" | "rw" if access.replace(option).is_some_and(|before| before != option) => {
                    return Err("a volume is either ro or rw".into());
                }
                _ => volume.add(option)?,
            }
        }
        Ok(volume)
    }
}

impl Volume {
    fn add(&mut self, option: &str) -> Result<(), String> {
        let options = self.options;
        self.options = match option {
            "ro" => options.access(Access::ReadOnly),
            "rw" => options.access(Access::ReadWrite),
            "rbind" => options.recursive(true),
            "bind" => options.recursive(false),
            "suid" | "nosuid" => options.suid(option == "suid"),
            "dev" | "nodev" => options.dev(option == "dev"),
            "exec" | "noexec" => options.exec(option == "exec"),
            "z" | "Z" => {
                self.relabel = true;
                options
            }
            // What docker has for file systems of virtual machines.
            "consistent" | "cached" | "delegated" => options,
            "copy" | "nocopy" => return Err(format!("{option} is about named volumes, and there are none")),
            "U" | "idmap" => return Err(format!("{option}: files keep the owners that they have on the host")),
            "O" | "overlay" => return Err("O: what is written to a volume is written to the host; use ro".into()),
            _ => {
                propagation(option).unwrap_or_else(|| {
                    Err(format!(
                        "the volume option {option:?} is not known: there are ro, rw, [r]bind, [r]private, [no]suid, [no]dev, \
                         [no]exec, z and Z"
                    ))
                })?;
                options
            }
        };
        Ok(())
    }
}

/// `None` for what is no propagation.
fn propagation(word: &str) -> Option<Result<(), String>> {
    Some(match word {
        "private" | "rprivate" => Ok(()),
        "slave" | "rslave" | "shared" | "rshared" | "unbindable" | "runbindable" => {
            Err(format!("{word}: mounts made later do not go in or out; there is rprivate, the default"))
        }
        _ => return None,
    })
}

/// Where something is mounted inside.
fn target_path(text: &str) -> Result<PathBuf, String> {
    let path = absolute_path(text)?;
    if path.components().any(|component| matches!(component, Component::Normal(_))) {
        return Ok(path);
    }
    Err("the image's root directory cannot be a mount point: name a directory in it".into())
}

/// `--bind SRC[:DST]`.
fn bind(text: &str) -> Result<Volume, String> {
    nspawn_bind(text, Access::ReadWrite)
}

/// `--bind-ro SRC[:DST]`.
fn bind_read_only(text: &str) -> Result<Volume, String> {
    nspawn_bind(text, Access::ReadOnly)
}

fn nspawn_bind(text: &str, access: Access) -> Result<Volume, String> {
    match text.split(':').collect::<Vec<_>>()[..] {
        [both] if !both.is_empty() => Volume::new(both, both, access),
        [source, target] if !source.is_empty() => Volume::new(source, target, access),
        [_, _, _] => Err("options are written with -v SRC:DST:OPTION".into()),
        _ => Err("it is SRC or SRC:DST".into()),
    }
}

/// `--image-volume`.
fn image_volumes(text: &str) -> Result<ImageVolumes, String> {
    match text {
        "tmpfs" => Ok(ImageVolumes::Tmpfs),
        "ignore" => Ok(ImageVolumes::Ignore),
        "bind" | "anonymous" => {
            Err(format!("{text}: there are no volumes that outlive a run; there are tmpfs and ignore"))
        }
        _ => Err("there are tmpfs and ignore".into()),
    }
}

/// `--device HOST[:DST[:PERMISSIONS]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) host: PathBuf,
    pub(crate) inside: PathBuf,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_permissions =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'r' | b'w' | b'm'));
        let (host, inside, permissions) = match text.split(':').collect::<Vec<_>>()[..] {
            [host] => (host, host, "rwm"),
            [host, permissions] if is_permissions(permissions) => (host, host, permissions),
            [host, inside] => (host, inside, "rwm"),
            [host, inside, permissions] if is_permissions(permissions) => (host, inside, permissions),
            [_, _, permissions] => return Err(format!("{permissions:?} is not made of r, w and m")),
            _ => return Err("a device is HOST, HOST:DST or HOST:DST:rwm".into()),
        };
        if !Path::new(host).is_absolute() {
            return Err("a device is named by its path on the host, such as /dev/fuse".into());
        }
        if !permissions.contains('r') || !permissions.contains('w') {
            return Err(format!(
                "{permissions}: without a device cgroup, access to a device cannot be narrowed; rw or nothing behind it is \
                 what its mode and owner allow"
            ));
        }
        Ok(Self { host: host.into(), inside: target_path(inside)? })
    }
}

/// `--shm-size`: docker takes 0 for its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShmSize(pub(crate) Option<u64>);

impl FromStr for ShmSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        bytes(text).map(|bytes| Self((bytes > 0).then_some(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        let volume = |text: &str| text.parse::<Volume>();
        let expected = Volume::new("./a", "/b", Access::ReadWrite).unwrap();
        assert_eq!(volume("./a:/b"), Ok(expected.clone()));
        assert_eq!(volume("./a:/b:rw"), Ok(expected.clone()));
        assert_eq!(volume("./a:/b:rprivate,rbind,cached,nodev"), Ok(expected.clone()));
        let options = BindOptions::new(Access::ReadOnly).recursive(false).suid(false).exec(false).dev(true);
        let all = Volume { options, relabel: true, ..expected };
        assert_eq!(volume("./a:/b:ro,bind,nosuid,noexec,dev,Z"), Ok(all));
        assert!(volume(".:/b").is_ok());
        for (bad, says) in [
            ("", "SRC:DST"),
            ("/a", "SRC:DST"),
            ("/a:b", "begin with /"),
            ("/a:/", "root directory"),
            ("/a:///.", "root directory"),
            ("data:/b", "./data"),
            (":/b", "named"),
            ("/a:/b:ro:rw", "SRC:DST"),
            ("/a:/b:", "\"\" is not known"),
            ("/a:/b:ro,rw", "either"),
            ("/a:/b:rslave", "later"),
            ("/a:/b:U", "owners"),
            ("/a:/b:nocopy", "named"),
            ("/a:/b:O", "host"),
            ("/a:/b:x", "\"x\" is not known"),
        ] {
            let error = volume(bad).expect_err(bad);
            assert!(error.contains(says) && !error.contains('\n'), "{bad}: {error}");
        }
    }

    #[test]
    fn binds_of_nspawn() {
        assert_eq!(bind("/a"), Volume::new("/a", "/a", Access::ReadWrite));
        assert_eq!(bind_read_only("a:/b"), Volume::new("a", "/b", Access::ReadOnly));
        for bad in ["", ":/b", "a", "/a:b", "/a:/b:norbind"] {
            assert!(bind(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn devices() {
        let device = |text: &str| text.parse::<Device>();
        let expected = |inside: &str| Ok(Device { host: "/dev/fuse".into(), inside: inside.into() });
        for same in ["/dev/fuse", "/dev/fuse:rwm", "/dev/fuse:/dev/fuse", "/dev/fuse:/dev/fuse:rw"] {
            assert_eq!(device(same), expected("/dev/fuse"), "{same}");
        }
        assert_eq!(device("/dev/fuse:/dev/x:mrw"), expected("/dev/x"));
        for bad in
            ["", "fuse", "/dev/fuse:r", "/dev/fuse:/x:w", "/dev/fuse:/x:rx", "/dev/fuse:x", "/dev/fuse:/x:", "a:b:c:d"]
        {
            assert!(device(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn other_values() {
        assert_eq!("0".parse(), Ok(ShmSize(None)));
        assert_eq!("1m".parse(), Ok(ShmSize(Some(1 << 20))));
        assert!("5x".parse::<ShmSize>().is_err());
        assert_eq!(image_volumes("ignore"), Ok(ImageVolumes::Ignore));
        for bad in ["bind", "anonymous", ""] {
            assert!(image_volumes(bad).unwrap_err().contains("tmpfs and ignore"), "{bad}");
        }
    }
}
