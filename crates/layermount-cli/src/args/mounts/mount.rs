//! `--mount KEY=VALUE,...`, docker's keys: a line of CSV, so that a value with a comma can be quoted.

use std::path::PathBuf;
use std::str::FromStr;

use layermount::{Access, BindOptions, Tmpfs};

use super::tmpfs::{mode, size};
use super::{propagation, target_path};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) target: PathBuf,
    pub(crate) kind: MountKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountKind {
    Bind { source: PathBuf, options: BindOptions },
    Tmpfs(Tmpfs),
}

/// What is said of either type.
#[derive(Default)]
struct Words {
    kind: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: bool,
    non_recursive: bool,
    size: Option<u64>,
    mode: Option<u32>,
    /// The first key that is about this type alone.
    of_bind: Option<String>,
    of_tmpfs: Option<String>,
}

impl FromStr for Mount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = Words::default();
        for field in fields(text)? {
            let (key, value) = field.split_once('=').map_or((&*field, None), |(key, value)| (key, Some(value)));
            words.add(&key.to_ascii_lowercase(), value)?;
        }
        words.finish()
    }
}

impl Words {
    fn add(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        if key.starts_with("bind-") {
            self.of_bind.get_or_insert_with(|| key.to_owned());
        } else if key.starts_with("tmpfs-") {
            self.of_tmpfs.get_or_insert_with(|| key.to_owned());
        }
        match (key, value) {
            ("readonly" | "ro", value) => self.read_only = boolean(key, value)?,
            ("bind-nonrecursive", value) => self.non_recursive = boolean(key, value)?,
            ("type", Some(value)) => self.kind = Some(value.to_ascii_lowercase()),
            ("source" | "src", Some(value)) => self.source = Some(value.to_owned()),
            ("target" | "destination" | "dst", Some(value)) => self.target = Some(value.to_owned()),
            ("consistency", Some(_)) => {}
            ("bind-propagation", Some(value)) => {
                propagation(value)
                    .unwrap_or_else(|| Err(format!("{value:?} is not a propagation: there is rprivate")))?;
            }
            ("bind-recursive", Some("enabled" | "readonly")) => self.non_recursive = false,
            ("bind-recursive", Some("disabled")) => self.non_recursive = true,
            ("bind-recursive", Some("writable")) => {
                return Err("bind-recursive=writable: what is read-only is so in all mounts below".into());
            }
            ("bind-recursive", Some(_)) => return Err("bind-recursive is enabled, disabled or readonly".into()),
            ("tmpfs-size", Some(value)) => self.size = Some(size(value)?),
            ("tmpfs-mode", Some(value)) => self.mode = Some(mode(value)?),
            ("volume-driver" | "volume-label" | "volume-nocopy" | "volume-opt" | "volume-subpath", _) => {
                return Err(format!("{key}: {NO_VOLUMES}"));
            }
            (
                "type" | "source" | "src" | "target" | "destination" | "dst" | "consistency" | "bind-propagation"
                | "bind-recursive" | "tmpfs-size" | "tmpfs-mode",
                None,
            ) => return Err(format!("{key} needs a value: {key}=VALUE")),
            _ => {
                return Err(format!(
                    "the key {key:?} is not known: there are type, src, dst, ro, bind-propagation, bind-recursive, bind-nonrecursive, \
                     tmpfs-size and tmpfs-mode"
                ));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Mount, String> {
        let access = if self.read_only { Access::ReadOnly } else { Access::ReadWrite };
        let kind = match (self.kind.as_deref(), self.source) {
            (Some("bind"), source) => {
                if let Some(key) = self.of_tmpfs {
                    return Err(format!("{key} is not for type=bind"));
                }
                let source = source.filter(|source| !source.is_empty()).ok_or("src=SRC is missing")?;
                if !source.starts_with(['/', '.']) {
                    return Err(format!("src={source} is not a path: it begins with / or ./"));
                }
                let options = BindOptions::new(access).recursive(!self.non_recursive);
                MountKind::Bind { source: source.into(), options }
            }
            (Some("tmpfs"), None) => {
                if let Some(key) = self.of_bind {
                    return Err(format!("{key} is not for type=tmpfs"));
                }
                let tmpfs = self.size.into_iter().fold(Tmpfs::new().access(access), Tmpfs::size);
                MountKind::Tmpfs(self.mode.into_iter().fold(tmpfs, Tmpfs::mode))
            }
            (Some("tmpfs"), Some(_)) => return Err("src is not for type=tmpfs, which begins empty".into()),
            (Some("volume"), _) => return Err(format!("type=volume: {NO_VOLUMES}")),
            (Some(other), _) => return Err(format!("type={other}: there are bind and tmpfs")),
            // Docker's default would be a volume.
            (None, _) => return Err("type=bind or type=tmpfs is missing".into()),
        };
        let target = self.target.ok_or("dst=DST is missing")?;
        Ok(Mount { target: target_path(&target)?, kind })
    }
}

const NO_VOLUMES: &str = "there are no volumes; bind a directory of the host, or use a tmpfs";

/// As Go reads them. The key alone means yes.
fn boolean(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(value) => Err(format!("{key}={value}: it is true or false")),
    }
}

/// The fields of a line of CSV: RFC 4180, section 2.
fn fields(line: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        let Some(field) = fields.last_mut() else { break };
        match character {
            '"' if quoted && characters.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted && characters.peek().is_none_or(|next| *next == ',') => quoted = false,
            '"' if !quoted && field.is_empty() => quoted = true,
            '"' => return Err("a quotation mark stands around a whole field: \"src=/a,b\"".into()),
            ',' if !quoted => fields.push(String::new()),
            other => field.push(other),
        }
    }
    if quoted { Err("a quotation mark is not closed".into()) } else { Ok(fields) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(text: &str) -> Result<Mount, String> {
        text.parse()
    }

    #[test]
    fn dockers_keys() {
        let bind = |options| Mount { target: "/d".into(), kind: MountKind::Bind { source: "/s".into(), options } };
        let (writable, readable) = (BindOptions::new(Access::ReadWrite), BindOptions::new(Access::ReadOnly));
        for (text, options) in [
            ("type=bind,src=/s,dst=/d", writable),
            ("TYPE=BIND,Source=/s,target=/d,readonly=false,consistency=cached", writable),
            ("type=bind,source=/s,destination=/d,ro", readable),
            ("type=bind,src=/s,dst=/d,readonly=1,bind-propagation=rprivate,bind-recursive=readonly", readable),
            ("type=bind,src=/s,dst=/d,bind-nonrecursive", writable.recursive(false)),
            ("type=bind,src=/s,dst=/d,bind-recursive=disabled", writable.recursive(false)),
        ] {
            assert_eq!(mount(text), Ok(bind(options)), "{text}");
        }
        let tmpfs = |tmpfs| Ok(Mount { target: "/d".into(), kind: MountKind::Tmpfs(tmpfs) });
        assert_eq!(mount("type=tmpfs,dst=/d"), tmpfs(Tmpfs::new()));
        assert_eq!(
            mount("type=tmpfs,dst=/d,tmpfs-size=1m,tmpfs-mode=1770,ro"),
            tmpfs(Tmpfs::new().size(1 << 20).mode(0o1770).access(Access::ReadOnly))
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (bad, says) in [
            ("", "\"\" is not known"),
            ("type=volume,src=x,dst=/d", "no volumes"),
            ("dst=/d", "type=bind or type=tmpfs"),
            ("type=foo,dst=/d", "type=foo"),
            ("type=bind,dst=/d", "src=SRC is missing"),
            ("type=bind,src=s,dst=/d", "src=s is not a path"),
            ("type=bind,src=/s", "dst=DST is missing"),
            ("type=bind,src=/s,dst=d", "begin with /"),
            ("type=bind,src=/s,dst=/", "root directory"),
            ("type=bind,src=/s,dst=/d,foo=1", "\"foo\" is not known"),
            ("type=bind,src=/s,dst=/d,type", "type needs a value"),
            ("type=bind,src=/s,dst=/d,ro=maybe", "ro=maybe"),
            ("type=bind,src=/s,dst=/d,tmpfs-size=1", "tmpfs-size is not for type=bind"),
            ("type=bind,src=/s,dst=/d,bind-propagation=rshared", "later"),
            ("type=bind,src=/s,dst=/d,bind-propagation=x", "not a propagation"),
            ("type=bind,src=/s,dst=/d,volume-nocopy", "no volumes"),
            ("type=tmpfs,src=/s,dst=/d", "src is not for"),
            ("type=tmpfs,dst=/d,bind-nonrecursive", "bind-nonrecursive is not for"),
            ("type=tmpfs,dst=/d,tmpfs-mode=999", "octal"),
            ("type=tmpfs,dst=/d,\"x", "not closed"),
            ("type=tmpfs,dst=/d\"", "around a whole field"),
        ] {
            let error = mount(bad).expect_err(bad);
            assert!(error.contains(says) && !error.contains('\n'), "{bad}: {error}");
        }
    }

    #[test]
    fn values_can_be_quoted() {
        let Ok(Mount { kind: MountKind::Bind { source, .. }, .. }) = mount("type=bind,\"src=/a,b\"\"c\",dst=/d") else {
            panic!("not read");
        };
        assert_eq!(source, PathBuf::from("/a,b\"c"));
    }
}
