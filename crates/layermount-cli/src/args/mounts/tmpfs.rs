//! `--tmpfs DST[:OPTION,...]`.

use std::path::PathBuf;
use std::str::FromStr;

use layermount::{Access, Tmpfs};

use super::{propagation, target_path};
use crate::args::value::bytes;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TmpfsMount {
    pub(crate) target: PathBuf,
    pub(crate) tmpfs: Tmpfs,
}

impl FromStr for TmpfsMount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        let mut options = options.split(',').filter(|option| !option.is_empty());
        // As in docker, the last of several counts.
        let tmpfs = options.try_fold(Tmpfs::new(), add)?;
        Ok(Self { target: target_path(target)?, tmpfs })
    }
}

fn add(tmpfs: Tmpfs, option: &str) -> Result<Tmpfs, String> {
    let (key, value) = option.split_once('=').map_or((option, None), |(key, value)| (key, Some(value)));
    Ok(match (key, value) {
        ("ro", None) => tmpfs.access(Access::ReadOnly),
        ("rw", None) => tmpfs.access(Access::ReadWrite),
        ("suid" | "nosuid", None) => tmpfs.suid(key == "suid"),
        ("dev" | "nodev", None) => tmpfs.dev(key == "dev"),
        ("exec" | "noexec", None) => tmpfs.exec(key == "exec"),
        ("size", Some(value)) => tmpfs.size(size(value)?),
        ("mode", Some(value)) => tmpfs.mode(mode(value)?),
        ("uid", Some(value)) => tmpfs.uid(number(option, value)?),
        ("gid", Some(value)) => tmpfs.gid(number(option, value)?),
        ("nr_inodes", Some(value)) => tmpfs.inodes(number(option, value)?),
        _ => {
            propagation(option).unwrap_or_else(|| {
                Err(format!(
                    "the tmpfs option {option:?} is not known: there are ro, rw, [no]suid, [no]dev, [no]exec, size=, mode=, uid=, \
                     gid= and nr_inodes="
                ))
            })?;
            tmpfs
        }
    })
}

/// Not 0, which the kernel takes for no limit at all.
pub(super) fn size(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        0 => Err("a size of 0 would be no limit: leave it out for half of the memory".into()),
        size => Ok(size),
    }
}

pub(super) fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777 && !text.starts_with('+'));
    mode.ok_or_else(|| format!("{text:?} is not a mode: it is an octal number, such as 1777"))
}

fn number<T: FromStr>(option: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{option}: a whole number stands behind the ="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let tmpfs = |text: &str| text.parse::<TmpfsMount>();
        let expected = |tmpfs| Ok(TmpfsMount { target: "/x".into(), tmpfs });
        assert_eq!(tmpfs("/x"), expected(Tmpfs::new()));
        assert_eq!(tmpfs("/x:rw,noexec,nosuid,nodev,rprivate"), expected(Tmpfs::new()));
        assert_eq!(
            tmpfs("/x:size=64k,mode=01777,uid=5,gid=6,nr_inodes=9,exec,suid,dev,rw,ro"),
            expected(
                Tmpfs::new()
                    .size(64 << 10)
                    .mode(0o1777)
                    .uid(5)
                    .gid(6)
                    .inodes(9)
                    .exec(true)
                    .suid(true)
                    .dev(true)
                    .access(Access::ReadOnly)
            )
        );
        for (bad, says) in [
            ("x", "begin with /"),
            ("/", "root directory"),
            ("/x:foo", "\"foo\" is not known"),
            ("/x:size", "\"size\" is not known"),
            ("/x:size=0", "no limit"),
            ("/x:size=50%", "512m"),
            ("/x:mode=999", "octal"),
            ("/x:mode=17777", "octal"),
            ("/x:uid=-1", "whole number"),
            ("/x:gid=x", "whole number"),
            ("/x:rshared", "later"),
        ] {
            let error = tmpfs(bad).expect_err(bad);
            assert!(error.contains(says) && !error.contains('\n'), "{bad}: {error}");
        }
    }
}
