//! Values of options: how they are written.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use layermount::{Limit, Limits};

use crate::text;

/// `-e KEY=VALUE`, or `-e KEY` for the value that layermount itself was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EnvSetting {
    Set { key: String, value: String },
    Inherit { key: String },
}

impl FromStr for EnvSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (text, None),
        };
        if key.is_empty() {
            return Err("a variable needs a name: KEY or KEY=VALUE".into());
        }
        let key = key.to_owned();
        Ok(match value {
            Some(value) => Self::Set { key, value: value.to_owned() },
            None => Self::Inherit { key },
        })
    }
}

impl EnvSetting {
    /// Reads a file as docker's `--env-file` does: a setting a line, `#` for comments, nothing quoted.
    pub(crate) fn parse_file(text: &str) -> Result<Vec<Self>, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut settings = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let setting: Self = line.parse().map_err(|error| format!("line {}: {error}", number + 1))?;
            let (Self::Set { key, .. } | Self::Inherit { key }) = &setting;
            if key.contains(char::is_whitespace) {
                return Err(format!("line {}: the name {key:?} contains white space", number + 1));
            }
            settings.push(setting);
        }
        Ok(settings)
    }
}

/// A path inside an image.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    if Path::new(text).is_absolute() { Ok(text.into()) } else { Err("inside the image, paths begin with /".into()) }
}

/// A number of bytes, with a suffix as docker has them: `b`, `k`, `m`, `g`, `t`, in steps of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match bytes(text)? {
            0 => Err("nothing could be written at all: use --read-only".into()),
            bytes => Ok(Self(bytes)),
        }
    }
}

/// A size as it is written.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (number, unit) = match lower.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => lower.split_at(at),
        None => (lower.as_str(), ""),
    };
    let shift = match unit {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err("a size is a whole number with k, m, g or t behind it, such as 512m".into()),
    };
    let number: u64 = number.parse().map_err(|_| "a size begins with a whole number, such as 512m".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "that is more than can be counted".to_owned())
}

/// `--limit NAME=VALUE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LimitSetting {
    pub(crate) limit: Limit,
    pub(crate) value: u64,
}

impl FromStr for LimitSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text.split_once('=').ok_or("a limit is NAME=VALUE, such as tar-bytes=10g")?;
        let limit: Limit = name.parse().map_err(|error: layermount::Error| match error.hint() {
            Some(hint) => format!("{error}; {hint}"),
            None => error.to_string(),
        })?;
        let value = match limit.is_bytes() {
            true => bytes(value)?,
            false => value.parse().map_err(|_| format!("{limit} is a whole number"))?,
        };
        Ok(Self { limit, value })
    }
}

impl LimitSetting {
    /// What `--help` says of limits.
    pub(crate) fn help() -> String {
        let mut help =
            "Refuse layers that ask for more than VALUE of something. May be given several times. NAME is\n".to_owned();
        for &limit in Limit::ALL {
            let default = Limits::default().get(limit);
            let default = if limit.is_bytes() { text::bytes(default) } else { default.to_string() };
            help.push_str(&format!("\n- {limit}: {} [default: {default}]", limit.describe()));
        }
        help
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let size = |text: &str| text.parse::<Size>();
        assert_eq!(size("512m").unwrap(), Size(512 << 20));
        assert_eq!(size("1GiB").unwrap(), Size(1 << 30));
        assert_eq!(size("4096").unwrap(), Size(4096));
        for bad in ["", "m", "-1", "1.5g", "1x", "0", "18446744073709551615k"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits() {
        let limit = |text: &str| text.parse::<LimitSetting>();
        assert_eq!(limit("tar-bytes=10G").unwrap(), LimitSetting { limit: Limit::TarBytes, value: 10 << 30 });
        assert_eq!(limit("entries=0").unwrap(), LimitSetting { limit: Limit::Entries, value: 0 });
        for bad in ["", "tar-bytes", "tar-bytes=", "tar-bytes=-1", "entries=1k", "=1", "tar=1"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
        assert!(limit("tar=1").unwrap_err().contains("tar-bytes, image-bytes"));
    }

    #[test]
    fn environment_files_are_read_as_docker_reads_them() {
        let set = |key: &str, value: &str| EnvSetting::Set { key: key.into(), value: value.into() };
        let text = "\u{feff}# comment\n\nA=1\n  B=\"quoted\" # kept\nC=\nD\nE=x=y\n";
        let expected = vec![
            set("A", "1"),
            set("B", "\"quoted\" # kept"),
            set("C", ""),
            EnvSetting::Inherit { key: "D".into() },
            set("E", "x=y"),
        ];
        assert_eq!(EnvSetting::parse_file(text).unwrap(), expected);
        assert_eq!(EnvSetting::parse_file("A=1\nB C=2").unwrap_err(), "line 2: the name \"B C\" contains white space");
        assert!(EnvSetting::parse_file("=2").unwrap_err().starts_with("line 1: "));
    }
}
